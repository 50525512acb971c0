#!/usr/bin/env bash
# Trains on this machine: one process with all its devices, or several that meet over loopback.
# Run it from the repository's root:
#
#   launch/local.sh                                           configs/base.py, into runs/base
#   CONFIG=configs/photos.py WORKDIR=/data/run launch/local.sh --config.steps=20000
#   PROCESSES=4 launch/local.sh                               a quarter of the GPUs in each process
#   PROCESSES=2 DEVICES=4 launch/local.sh                     2 x 4 simulated devices of the CPU
#   launch/local.sh --mode=eval --config.eval.follow=true     evaluate beside a training
#
# --help prints this, --dry-run the commands that would run; every other argument is handed to
# chromagan_jax.main. Variables, from the environment:
#
#   PYTHON     the interpreter (python)
#   CONFIG     the config file (configs/base.py)
#   WORKDIR    where the run writes (runs/CONFIG); started again, it goes on there
#   PROCESSES  how many processes (1)
#   DEVICES    simulated devices of the CPU in each process (none: the devices that there are)
#   RESTARTS   how often a run that was lost is started again (3)
#   WAIT       s that the other processes have to end by themselves once one has failed (30)
#
# A run that ends with 75 (stopped and saved, or stalled), or loses a process to a signal, is
# started again and resumes. Not after 1 (a mistake) or 3 (diverged), nor when it was asked to stop:
# Ctrl-C, SIGTERM and SIGHUP make it save and end with 75, a second one ends it at once. The exit
# code is that of the last start, and there of the process that failed first.
set -euo pipefail

PYTHON=${PYTHON:-python}
CONFIG=${CONFIG:-configs/base.py}
WORKDIR=${WORKDIR:-}
PROCESSES=${PROCESSES:-1}
DEVICES=${DEVICES:-}
RESTARTS=${RESTARTS:-3}
WAIT=${WAIT:-30}

ARGUMENTS=() # of chromagan_jax.main
PIDS=()      # of the processes that run, by their number
STOPPED=0    # signals that asked for the end
DRY_RUN=

fail() {
    echo "${0##*/}: $1" >&2
    exit 1
}

gpus() { # their indices, one a line; nothing where computation is on the CPU
    if [[ ${JAX_PLATFORMS:-} == cpu || -n $DEVICES ]]; then
        return
    elif [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
        tr , '\n' <<<"$CUDA_VISIBLE_DEVICES" | sed '/^$/d'
    elif command -v nvidia-smi >/dev/null; then
        nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null | grep -x '[0-9]*' || true
    fi
}

on_cpu() { # no device of NVIDIA, AMD or Google, or none that JAX shall use
    [[ ${JAX_PLATFORMS:-} == cpu || -n $DEVICES ||
        -z $(shopt -s nullglob && echo /dev/nvidia[0-9]* /dev/kf[d] /dev/{accel,vfio/}[0-9]*) ]]
}

free_port() { # nobody answers there; below the ports that the kernel gives to clients by itself
    local port
    while
        port=$((RANDOM % 10000 + 20000))
        (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null
    do :; done
    echo "$port"
}

# Sets COMMAND to what starts process $1, over port $2.
set_command() {
    local number=$1 port=$2 environment=() distributed=() devices
    if [[ -n $DEVICES ]]; then
        environment+=(JAX_PLATFORMS=cpu
            "XLA_FLAGS=${XLA_FLAGS:+$XLA_FLAGS }--xla_force_host_platform_device_count=$DEVICES")
    fi
    if on_cpu; then
        # glibc maps large temporaries anew at every step, and clears their pages: kept instead, on
        # huge pages, they made a U-Net's step on the CPU 10 % faster. GPUs do not use that memory.
        environment+=("MALLOC_MMAP_MAX_=${MALLOC_MMAP_MAX_:-0}"
            "MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_:-1000000000000}"
            "GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}")
    fi
    if ((PROCESSES > 1)); then
        distributed=(--distributed "--coordinator=127.0.0.1:$port" "--num_processes=$PROCESSES"
            "--process_id=$number")
        if ((${#GPUS[@]})); then
            local each=$((${#GPUS[@]} / PROCESSES))
            devices=$(IFS=, && echo "${GPUS[*]:number * each:each}")
            # Where a cluster's engine started this shell, JAX would take one GPU a process.
            environment+=("CUDA_VISIBLE_DEVICES=$devices"
                "JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((each - 1)))")
        fi
    fi
    # A session of its own: Ctrl-C on the terminal reaches every process of this one at once, and a
    # second signal to a run means that it shall not save. Thus this script alone hears it.
    COMMAND=(setsid env "${environment[@]}" "$PYTHON" -m chromagan_jax.main "--config=$CONFIG"
        ${WORKDIR:+"--workdir=$WORKDIR"} "${distributed[@]}" "${ARGUMENTS[@]}")
}

stop() { # SIGTERM for all: the processes agree on the step at which they save
    STOPPED=$((STOPPED + 1))
    if ((STOPPED == 1)); then
        kill -TERM "${PIDS[@]}" 2>/dev/null || true # one may have ended by now
    else
        end_processes
    fi
}

end_processes() { # and what they have started
    local pid
    for pid in "${PIDS[@]}"; do kill -KILL -- "-$pid" "$pid" 2>/dev/null || true; done
}

# Starts the processes and returns, once all have ended, the code of the one that failed first: the
# others end because of it. Of several that failed in the same moment it is the highest.
run() {
    local number port pid status now code=$((STOPPED ? 75 : 0)) failed='' killed=
    port=$(free_port)
    for ((number = 0; number < PROCESSES && !STOPPED; number++)); do
        set_command "$number" "$port"
        if [[ $DRY_RUN ]]; then
            printf '%q ' "${COMMAND[@]}" && echo
            continue
        fi
        "${COMMAND[@]}" </dev/null &
        PIDS[number]=$!
    done
    for ((now = 0; ${#PIDS[@]}; now++)); do
        for number in "${!PIDS[@]}"; do
            pid=${PIDS[number]}
            if kill -0 "$pid" 2>/dev/null; then continue; fi
            unset "PIDS[number]"
            status=0
            wait "$pid" || status=$?
            if ((status)); then failed=${failed:-$now}; fi
            if ((status > code && failed == now)); then code=$status; fi
        done
        if [[ $failed && ! $killed ]] && ((${#PIDS[@]} && now - failed >= 5 * WAIT)); then
            echo "${0##*/}: a process failed: the others are ended" >&2
            killed=1
            end_processes
        fi
        # Not `wait -n`: it cannot tell a signal from an end before bash 5.1.
        if ((${#PIDS[@]})); then sleep 0.2 || true; fi # `now` counts fifths of a second
    done
    return "$code"
}

for argument in "$@"; do
    case $argument in
        --help)
            sed -n '2,/^set -/{/^#/s/^# \{0,1\}//p}' "$0"
            exit
            ;;
        --dry-run) DRY_RUN=1 ;;
        *) ARGUMENTS+=("$argument") ;;
    esac
done
mapfile -t GPUS < <(gpus)
if ((PROCESSES > 1 && ${#GPUS[@]} % PROCESSES)); then
    fail "${#GPUS[@]} GPUs cannot be shared out evenly to $PROCESSES processes: change PROCESSES."
fi

trap stop INT TERM HUP
for ((start = 0; ; start++)); do
    code=0
    run || code=$?
    if ((STOPPED || start >= RESTARTS || (code != 75 && code < 128))); then exit "$code"; fi
    echo "${0##*/}: ended with $code; restart $((start + 1)) of at most $RESTARTS" >&2
done
