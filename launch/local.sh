#!/usr/bin/env bash
# Trains on this machine: one process with all devices, or several that connect over loopback.
# Run it from the repository's root:
#
#   launch/local.sh                                           configs/base.py, into runs/base
#   CONFIG=configs/photos.py WORKDIR=/data/run launch/local.sh --config.steps=20000
#   PROCESSES=4 launch/local.sh                               a quarter of the GPUs in each process
#   PROCESSES=2 DEVICES=4 launch/local.sh                     2 x 4 simulated CPU devices
#   launch/local.sh --mode=eval --config.eval.follow=true     evaluates while a training runs
#
# --help prints this, --dry-run prints the commands without running them. All other arguments are
# passed to chromagan_jax.main. Environment variables, with defaults in brackets:
#
#   PYTHON     the interpreter (python)
#   CONFIG     the config file (configs/base.py)
#   WORKDIR    the folder of the run (runs/CONFIG); a restart resumes from it
#   PROCESSES  number of processes (1)
#   DEVICES    simulated CPU devices in each process (none: the real devices)
#   RESTARTS   maximum number of restarts (3)
#   WAIT       s that the other processes have to end after one has failed (30)
#
# A run is restarted, and resumes, after exit code 75 (stopped and saved, or stalled) or after a
# signal killed a process. It is not restarted after 1 (user error) or 3 (diverged). Ctrl-C, SIGTERM
# and SIGHUP make the run save and end with 75, without a restart; a second signal kills it. The
# exit code is that of the last start, from the process that failed first.
set -euo pipefail

PYTHON=${PYTHON:-python}
CONFIG=${CONFIG:-configs/base.py}
WORKDIR=${WORKDIR:-}
PROCESSES=${PROCESSES:-1}
DEVICES=${DEVICES:-}
RESTARTS=${RESTARTS:-3}
WAIT=${WAIT:-30}

ARGUMENTS=() # of chromagan_jax.main
PIDS=()      # of the running processes, by process number
STOPPED=0    # stop signals received
DRY_RUN=

fail() {
    echo "${0##*/}: $1" >&2
    exit 1
}

gpus() { # prints the indices, one a line; nothing if the CPU computes
    if [[ ${JAX_PLATFORMS:-} == cpu || -n $DEVICES ]]; then
        return
    elif [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
        tr , '\n' <<<"$CUDA_VISIBLE_DEVICES" | sed '/^$/d'
    elif command -v nvidia-smi >/dev/null; then
        nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null | grep -x '[0-9]*' || true
    fi
}

on_cpu() { # true if there is no NVIDIA, AMD or Google device, or JAX is set to the CPU
    [[ ${JAX_PLATFORMS:-} == cpu || -n $DEVICES ||
        -z $(shopt -s nullglob && echo /dev/nvidia[0-9]* /dev/kf[d] /dev/{accel,vfio/}[0-9]*) ]]
}

free_port() { # prints an unused port below the kernel's ephemeral range
    local port
    while
        port=$((RANDOM % 10000 + 20000))
        (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null
    do :; done
    echo "$port"
}

# Sets COMMAND to the command of process $1; the coordinator listens on port $2.
set_command() {
    local number=$1 port=$2 environment=() distributed=() devices
    if [[ -n $DEVICES ]]; then
        environment+=(JAX_PLATFORMS=cpu
            "XLA_FLAGS=${XLA_FLAGS:+$XLA_FLAGS }--xla_force_host_platform_device_count=$DEVICES")
    fi
    if on_cpu; then
        # By default glibc returns large temporaries to the kernel after every step. Retaining them,
        # on huge pages, makes the step on a CPU faster. A GPU does not use this memory.
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
            # Inside a cluster job JAX would use one GPU a process.
            environment+=("CUDA_VISIBLE_DEVICES=$devices"
                "JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((each - 1)))")
        fi
    fi
    # setsid: otherwise the run would get Ctrl-C from the terminal and SIGTERM from this script, and
    # a second signal stops a run without saving.
    COMMAND=(setsid env "${environment[@]}" "$PYTHON" -m chromagan_jax.main "--config=$CONFIG"
        ${WORKDIR:+"--workdir=$WORKDIR"} "${distributed[@]}" "${ARGUMENTS[@]}")
}

stop() { # SIGTERM to all: the processes agree on a step and save it
    STOPPED=$((STOPPED + 1))
    if ((STOPPED == 1)); then
        kill -TERM "${PIDS[@]}" 2>/dev/null || true # one may have ended by now
    else
        end_processes
    fi
}

end_processes() { # and their children
    local pid
    for pid in "${PIDS[@]}"; do kill -KILL -- "-$pid" "$pid" 2>/dev/null || true; done
}

# Starts the processes and waits for all. Returns the exit code of the process that failed first,
# since its failure ends the others; the highest code if several failed at the same time.
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
            echo "${0##*/}: a process failed: ending the others" >&2
            killed=1
            end_processes
        fi
        # `wait -n` of bash before 5.1 cannot distinguish a signal from the end of a process.
        if ((${#PIDS[@]})); then sleep 0.2 || true; fi # one step of `now`
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
    fail "${#GPUS[@]} GPUs cannot be divided evenly among $PROCESSES processes: change PROCESSES."
fi

trap stop INT TERM HUP
for ((start = 0; ; start++)); do
    code=0
    run || code=$?
    if ((STOPPED || start >= RESTARTS || (code != 75 && code < 128))); then exit "$code"; fi
    echo "${0##*/}: ended with $code; restart $((start + 1)) of at most $RESTARTS" >&2
done
