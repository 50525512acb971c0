#!/usr/bin/env bash
# launch/slurm.sbatch and launch/slurm_eval.sbatch on a real SLURM: two nodes, both this machine.
#
#   tests/launch/slurm_test.sh                    all cases, from the repository's root
#   tests/launch/slurm_test.sh killed mistake     some
#
# Needs Linux with Debian's packages, and root: it installs slurm-wlm and munge where they are
# missing, and adds the names of the nodes to /etc/hosts while it runs. All else, the daemons' files
# included, is in a folder for temporary files, which goes with the daemons when the test ends.
# Exit code 0 only if every case passed. --help prints this.
#
# Cases:
#   killed     a process dies by SIGKILL in the middle; evaluated beside; all is as if it had not
#   limit      the time limit is shorter than the run
#   preempted  a job of a higher partition takes the nodes
#   node       a node fails
#   scancel    a cancelled run is not revived
#   mistake    a config field that does not exist, and an error of one process: one start only
#   shell      a command in a shell inside a job, without srun and with it
#
# Variables: PYTHON, the interpreter (python); STEPS, of a short run (300).
# shellcheck disable=SC2329  # functions are called by their names
set -euo pipefail

PYTHON=${PYTHON:-python}
STEPS=${STEPS:-300}
ROOT=$PWD
FAILED=0
PIDS=() # of the daemons
T=      # the folder for temporary files
HOSTS='127.0.0.1 n1 n2 # chromagan_jax slurm_test'

cleanup() {
    local code=$? pid number
    trap - EXIT
    set +e
    if ((${#PIDS[@]} > 1)); then # a controller runs
        scancel --user=root --signal=KILL --full 2>/dev/null
        scancel --user=root 2>/dev/null
        until_true 30 idle
    fi
    for pid in "${PIDS[@]}"; do kill "$pid" 2>/dev/null; done
    until_true 10 ended "${PIDS[@]}" || kill -KILL "${PIDS[@]}" 2>/dev/null
    for number in /proc/[0-9]*; do # what a daemon left behind knows this test by its environment
        if [[ ${number##*/} != "$$" ]] && in_environment "$number" "SLURM_CONF=$T/slurm.conf"; then
            kill -KILL "${number##*/}" 2>/dev/null
        fi
    done
    if [[ -r /etc/hosts ]]; then # rewritten in place: containers mount it
        hosts=$(grep -vxF "$HOSTS" /etc/hosts) && echo "$hosts" >/etc/hosts
    fi
    if ((code || FAILED)); then
        for log in "$T"/*.log; do
            echo "--- ${log##*/}" && grep -v 'img/s' "$log" | tail -n 30
        done >&2
    fi
    rm -rf "$T"
    exit "$code"
}

in_environment() { grep -qzxF -- "$2" "$1/environ" 2>/dev/null; } # of a process: VARIABLE=VALUE
idle() { [[ -z $(squeue --noheader 2>/dev/null) ]]; }
ended() { ! kill -0 "$@" 2>/dev/null; }

until_true() { # SECONDS COMMAND: false if it does not come true in time
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < end)) || return 1
        sleep 0.3
    done
}

# --- SLURM

install() {
    if ! command -v slurmctld >/dev/null || ! command -v munged >/dev/null; then
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
            slurm-wlm munge >/dev/null
    fi
}

configure() { # SLURM's defaults where nothing is said why not
    local port=$((RANDOM % 5000 + 20000))
    mkdir -p "$T/state" "$T/spool.n1" "$T/spool.n2"
    cat >"$T/slurm.conf" <<END
ClusterName=test
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmUser=root
# A requeued job waits until its old credentials have expired: two minutes if nothing is said.
AuthInfo=socket=$T/munge.socket,cred_expire=5
SlurmctldPort=$port
StateSaveLocation=$T/state
SlurmdSpoolDir=$T/spool.%n
SlurmctldPidFile=$T/slurmctld.pid
SlurmdPidFile=$T/slurmd.%n.pid
SlurmctldLogFile=$T/slurmctld.log
SlurmdLogFile=$T/slurmd.%n.log
# Without cgroups, which a container may not have.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
# Four processors a node, whatever the machine has.
SlurmdParameters=config_overrides
NodeName=n1 NodeAddr=127.0.0.1 Port=$((port + 1)) CPUs=4
NodeName=n2 NodeAddr=127.0.0.1 Port=$((port + 2)) CPUs=4
SchedulerParameters=bf_interval=3,sched_interval=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=low Nodes=n1,n2 Default=YES PriorityTier=1 OverSubscribe=NO
PartitionName=high Nodes=n1,n2 PriorityTier=2 OverSubscribe=NO
END
    export SLURM_CONF=$T/slurm.conf
}

start_daemons() {
    grep -qxF "$HOSTS" /etc/hosts || echo "$HOSTS" >>/etc/hosts
    (umask 077 && head -c 1024 /dev/urandom >"$T/munge.key")
    munged --foreground --force --key-file="$T/munge.key" --socket="$T/munge.socket" \
        --pid-file="$T/munged.pid" --seed-file="$T/munged.seed" >"$T/munged.log" 2>&1 &
    PIDS+=($!)
    until_true 20 test -S "$T/munge.socket"
    slurmctld -D >/dev/null 2>&1 &
    PIDS+=($!)
    until_true 20 scontrol ping >/dev/null 2>&1
    for name in n1 n2; do
        nice -n 5 slurmd -D -N "$name" >/dev/null 2>&1 &
        PIDS+=($!)
    done
    until_true 60 nodes_are_idle
}

nodes_are_idle() { [[ $(sinfo --noheader --partition=low --states=idle --format=%D) == 2 ]]; }

field() { scontrol --oneliner show job "$1" | sed -n "s/.*\b$2=\([^ ]*\).*/\1/p"; } # JOB NAME
is() { [[ $(field "$1" "$2") == "$3" ]]; }                                         # JOB NAME VALUE
over() { [[ $(field "$1" JobState) =~ ^(COMPLETED|FAILED|TIMEOUT|CANCELLED|NODE_FAIL)$ ]]; }
started_again() { (($(field "$1" Restarts) > 0)) && is "$1" JobState RUNNING; }

# --- runs

# Prints the number of a job that trains in $T/NAME; sbatch's options come before --, flags after.
submit() { # NAME [OPTION...] [-- FLAG...]
    local name=$1 options=()
    shift
    while (($#)) && [[ $1 != -- ]]; do
        options+=("$1")
        shift
    done
    (($#)) && shift
    CONFIG=configs/base.py:tiny WORKDIR=$T/$name PYTHON=$PYTHON WAIT=${WAIT:-20} \
        MAX_RESTARTS=${MAX_RESTARTS:-5} sbatch --parsable --job-name="$name" \
        --output="$T/%x.log" --nodes=2 --cpus-per-task=1 --time=30 "${options[@]}" \
        launch/slurm.sbatch --config.steps="$STEPS" --config.log_every=1 --config.eval_every=100 \
        --config.sample_every=0 --config.checkpoint_every=20 --config.data.size=16 \
        --config.generator.depth=2 --config.discriminator.layers=1 "$@"
}

# True once the run NAME has logged step STEP.
reached() { grep -q "\"step\": $2[,}]" "$T/$1/metrics.jsonl" 2>/dev/null; }
newest() { # NAME: its newest checkpoint that is whole
    find "$T/$1/checkpoints" -maxdepth 1 -printf '%f\n' | grep -x '[0-9]*' | sort -n | tail -n 1
}
resumed() { sed -n 's/.*resumed from step \([0-9]*\).*/\1/p' "$T/$1.log" | tail -n 1; } # NAME

task() { # JOB RANK: the process of this task
    local number
    for number in $(pgrep -f 'chromagan_jax.main .*--distributed'); do
        if in_environment "/proc/$number" "SLURM_CONF=$SLURM_CONF" &&
            in_environment "/proc/$number" "SLURM_JOB_ID=$1" &&
            in_environment "/proc/$number" "SLURM_PROCID=$2" &&
            [[ $(<"/proc/$number/comm") != srun ]]; then
            echo "$number"
            return
        fi
    done
    return 1
}

# Every step once and in order, and the last one saved.
complete() { # NAME STEPS
    [[ $(newest "$1") == "$2" ]] && "$PYTHON" - "$T/$1/metrics.jsonl" "$2" <<'END'
import json, sys

lines = [json.loads(line) for line in open(sys.argv[1])]
for kind in 'generator/loss', 'psnr':
    steps = [line['step'] for line in lines if any(name.endswith(kind) for name in line)]
    every = 1 if kind == 'generator/loss' else 100
    expected = sorted({*range(every, int(sys.argv[2]) + 1, every), int(sys.argv[2])})
    if steps != expected:
        sys.exit(f'{kind}: {len(steps)} lines, {len(set(steps))} steps; {len(expected)} expected')
END
}

check() { # SENTENCE COMMAND...
    local sentence=$1
    shift
    if "$@"; then
        echo "PASS $sentence"
    else
        echo "FAIL $sentence"
        FAILED=1
    fi
}

at_least() { (($1 >= $2)); }

# --- cases

case_killed() {
    local job evaluation saved pid
    job=$(submit killed)
    check 'killed: the run gets under way' until_true 400 reached killed $((STEPS / 3))
    evaluation=$(CONFIG=configs/base.py:tiny WORKDIR=$T/killed sbatch --parsable \
        --output="$T/evaluation.log" --cpus-per-task=1 --dependency="after:$job" --time=30 \
        launch/slurm_eval.sbatch --config.eval.timeout=600)
    saved=$(newest killed)
    pid=$(task "$job" 1) && kill -KILL "$pid"
    check 'killed: the job requeues itself' until_true 300 started_again "$job"
    check 'killed: and ends' until_true 600 over "$job"
    check "killed: COMPLETED ($(field "$job" Restarts) restart)" is "$job" JobState COMPLETED
    check "killed: resumed from step $(resumed killed), $saved was saved" \
        at_least "$(resumed killed)" "$saved"
    check 'killed: every step is there once' complete killed "$STEPS"
    check 'killed: the evaluation ends too' until_true 600 over "$evaluation"
    check 'killed: COMPLETED, the last step is scored' is "$evaluation" JobState COMPLETED
    check 'killed: it scored the last step' \
        grep -q "\"step\": $STEPS," "$T/killed/metrics_eval.jsonl"
}

case_limit() {
    # SLURM sends the signal up to 60 s early: at the earliest, the run has been training for as
    # long as it took to start; and it has more steps than it can do until the latest.
    local job steps minutes began=$SECONDS
    job=$(submit speed -- --config.steps=100)
    until_true 400 reached speed 1
    minutes=$(((2 * (SECONDS - began) + 90 + 59) / 60))
    until_true 600 over "$job"
    steps=$("$PYTHON" - "$T/speed/metrics.jsonl" $((60 * minutes - 30)) <<'END'
import json, statistics, sys

rates = [json.loads(line).get('images_per_second') for line in open(sys.argv[1])]
print(round(int(sys.argv[2]) * statistics.median(filter(None, rates)) / 8))
END
    )
    job=$(submit limit --time="$minutes" --signal=TERM@30 -- --config.steps="$steps")
    check "limit: the job requeues itself before its limit ($minutes min, $steps steps)" \
        until_true $((60 * minutes + 90)) started_again "$job"
    check 'limit: and ends' until_true $((180 * minutes + 180)) over "$job"
    check "limit: COMPLETED ($(field "$job" Restarts) restarts)" is "$job" JobState COMPLETED
    check 'limit: it was saved where it stopped' grep -q 'stopped at step' "$T/limit.log"
    check 'limit: nothing was lost' same_steps limit
    check 'limit: every step is there once' complete limit "$steps"
}

same_steps() { # the steps of NAME at which it stopped are those from which it resumed
    diff <(sed -n 's/.*stopped at step \([0-9]*\),.*/\1/p' "$T/$1.log" | sort -un) \
        <(sed -n 's/.*resumed from step \([0-9]*\).*/\1/p' "$T/$1.log" | sort -un)
}

case_preempted() {
    local job other
    job=$(submit preempted)
    check 'preempted: the run gets under way' until_true 400 reached preempted $((STEPS / 3))
    other=$(sbatch --parsable --partition=high --nodes=2 --exclusive --output="$T/high.log" \
        --wrap='sleep 2')
    check 'preempted: the other job gets its nodes' until_true 600 over "$other"
    check 'preempted: the run ends' until_true 600 over "$job"
    check "preempted: COMPLETED ($(field "$job" Restarts) restart)" is "$job" JobState COMPLETED
    check "preempted: resumed from step $(resumed preempted)" at_least "$(resumed preempted)" 20
    check 'preempted: every step is there once' complete preempted "$STEPS"
}

case_node() {
    local job
    job=$(submit node)
    check 'node: the run gets under way' until_true 400 reached node $((STEPS / 3))
    scontrol update nodename=n2 state=down reason=test
    check 'node: the job waits for it' until_true 120 is "$job" JobState PENDING
    scontrol update nodename=n2 state=resume
    check 'node: the run ends' until_true 600 over "$job"
    check "node: COMPLETED ($(field "$job" Restarts) restart)" is "$job" JobState COMPLETED
    check "node: resumed from step $(resumed node)" at_least "$(resumed node)" 20
    check 'node: every step is there once' complete node "$STEPS"
}

case_scancel() {
    local job
    job=$(submit scancel)
    check 'scancel: the run gets under way' until_true 400 reached scancel $((STEPS / 3))
    scancel "$job"
    check 'scancel: the job ends' until_true 600 over "$job"
    until_true 30 nodes_are_idle
    check 'scancel: CANCELLED' is "$job" JobState CANCELLED
    check 'scancel: and not revived' is "$job" Restarts 0
}

case_mistake() {
    local job
    job=$(submit mistake -- --config.no_such_field=1)
    check 'mistake: the job ends' until_true 600 over "$job"
    check 'mistake: FAILED' is "$job" JobState FAILED
    check 'mistake: with 1' is "$job" ExitCode 1:0
    check 'mistake: and started once' is "$job" Restarts 0
    check 'mistake: it is named' grep -q "no field 'no_such_field'" "$T/mistake.log"

    # An interpreter that gives a flag that does not exist to process 1. So 0 waits for 1 in vain.
    cat >"$T/mistaken" <<END
#!/usr/bin/env bash
if [[ \$SLURM_PROCID == 1 ]]; then set -- "\$@" --no_such_flag; fi
exec ${PYTHON@Q} "\$@"
END
    chmod +x "$T/mistaken"
    job=$(PYTHON=$T/mistaken submit mistake_of_one)
    check 'mistake of one: the job ends' until_true 600 over "$job"
    check 'mistake of one: with 1' is "$job" ExitCode 1:0
    check 'mistake of one: and started once' is "$job" Restarts 0
    check 'mistake of one: it is named' grep -q 'no flag --no_such_flag' "$T/mistake_of_one.log"
    check 'mistake of one: srun ended the other process' \
        grep -qE 'task 0: (Killed|Terminated)' "$T/mistake_of_one.log"
    check 'mistake of one: no note is left' test -z "$(compgen -G "$ROOT/.slurm-$job-*")"
}

case_shell() {
    local inside=(salloc --quiet --nodes=2 --ntasks=2 --time=10) command=(
        "$PYTHON" -m chromagan_jax.main --config=configs/base.py:tiny "--workdir=$T/shell"
        --config.steps=2 --config.data.size=16 --config.generator.depth=2
        --config.discriminator.layers=1 --config.eval_every=0 --config.sample_every=0
    )
    "${inside[@]}" "${command[@]}" --distributed >"$T/shell.log" 2>&1 || true
    check 'shell: --distributed needs srun' grep -q 'put srun before the command' "$T/shell.log"
    check 'shell: it trains in one process' "${inside[@]}" "${command[@]}"
    check 'shell: two processes join with srun' \
        "${inside[@]}" srun "${command[@]}" --distributed --config.steps=4
    check 'shell: every step is saved' test "$(newest shell)" == 4
}

if [[ ${1:-} == --help ]]; then
    sed -n '2,/^set -/{/^#/s/^# \{0,1\}//p}' "$0"
    exit
fi
CASES=("$@")
(($#)) || CASES=(killed limit preempted node scancel mistake shell)
T=$(mktemp -d -t chromagan_slurm.XXXXXX)
trap cleanup EXIT
trap 'exit 130' INT TERM HUP
export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH}
export JAX_PLATFORMS=cpu JAX_COMPILATION_CACHE_DIR=$T/xla
export XLA_FLAGS=--xla_backend_optimization_level=0 # compiles in half the time
install
configure
start_daemons
for name in "${CASES[@]}"; do
    began=$SECONDS
    "case_$name"
    echo "     $name took $((SECONDS - began)) s"
done
echo "$(slurmctld -V): $SECONDS s in all, $( ((FAILED)) && echo failed || echo passed)"
exit "$FAILED"
