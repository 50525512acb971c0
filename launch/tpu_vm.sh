#!/usr/bin/env bash
# Trains on a Cloud TPU VM, one host or many, from the machine that this script runs on.
#
#     launch/tpu_vm.sh [--dry-run] --config=configs/photos.py \
#         --workdir=gs://BUCKET/runs/photos --config.data.source=gs://BUCKET/photos/train ...
#     SHARE=10.0.0.2:/volume launch/tpu_vm.sh [--dry-run] --config=configs/photos.py \
#         --workdir=/mnt/volume/runs/photos --config.data.source=/mnt/volume/photos/train ...
#
# The script creates the TPU or uses an existing one of that name, mounts the share if there is one,
# copies this tree, installs it and starts chromagan_jax.main with the given flags and --distributed
# on all workers. The run does not depend on the connection: it continues if the connection is lost
# or this script is stopped. Start the script again to follow the run. Exit codes of the run:
#     0       The run is complete; the script ends.
#     1, 3    A user error, which the log explains, or divergence; the script ends with the code.
#     others  The run is restarted and resumes from its newest checkpoint (75 for one). A preempted
#             TPU is first deleted and created again.
#
# The workdir must exist longer than the TPU: in a bucket that the service account of the TPU may
# write, or on SHARE, an NFS share that all workers see, such as Filestore. A bucket mounted by
# gcsfuse is not enough: a checkpoint there is renamed when it is complete, and without hierarchical
# namespace a bucket renames file by file.
#
# Environment variables and their defaults:
NAME=${NAME:-chromagan-jax}                # of the TPU
ZONE=${ZONE:-us-west4-a}                   # of the TPU; choose the one of the bucket or SHARE
PROJECT=${PROJECT:-}                       # empty: the current project of gcloud
ACCELERATOR=${ACCELERATOR:-v5litepod-16}   # type and size
VERSION=${VERSION:-v2-alpha-tpuv5-lite}    # software version of the TPU VM
SPOT=${SPOT:-false}                        # true: cheaper, can be preempted at any time
SHARE=${SHARE:-}                           # HOST:/PATH of an NFS share; empty: none
MOUNT=${MOUNT:-/mnt/volume}                # mount point on the workers
DELETE=${DELETE:-false}                    # true: delete the TPU after the run
PAUSE=${PAUSE:-30}                         # s between queries of the TPU's state
TRIES=${TRIES:-200}                        # maximum number of TPUs created and runs started
#
# Needs gcloud, logged in, with its SSH key in the agent (ssh-add ~/.ssh/google_compute_engine),
# and bash 4.4. After Ctrl-C the run continues and the TPU costs money until it is deleted:
#     gcloud compute tpus tpu-vm delete NAME --zone=ZONE

set -euo pipefail

# Lets all-reduces of gradients run during the backward pass. Its effect was not measured.
overlap=(--xla_tpu_enable_data_parallel_all_reduce_opt=true
    --xla_tpu_data_parallel_opt_different_sized_ops=true)
libtpu=${LIBTPU_INIT_ARGS:-${overlap[*]}}

say() { echo "tpu_vm.sh: $*" >&2; }

fail() {
    say "$*"
    exit 1
}

# Prints a command with shell quoting and runs it, except in a dry run.
run() {
    local word line='+' quote="'\\''"
    for word in "$@"; do
        case $word in
            '' | *[!A-Za-z0-9_./:=@%+,-]*) line+=" '${word//\'/$quote}'" ;;
            *) line+=" $word" ;;
        esac
    done
    if $dry_run; then
        echo "$line"
    else
        echo "$line" >&2
        "$@"
    fi
}

tpu() { run gcloud compute tpus tpu-vm "$@" "${place[@]}"; }

# ServerAliveInterval: ssh detects a lost connection within two minutes.
on_all_workers() {
    tpu ssh "$NAME" --worker=all --ssh-flag='-o ServerAliveInterval=30' --command="$1"
}

# Prints READY, PREEMPTED and so on; NONE if the TPU does not exist, UNKNOWN if gcloud fails.
state() {
    if tpu describe "$NAME" --format='value(state)' 2>"$folder/error"; then
        return
    elif grep -qi 'not.found' "$folder/error"; then
        echo NONE
    else
        cat "$folder/error" >&2
        echo UNKNOWN
    fi
}

create() {
    local spot=()
    [ "$SPOT" != true ] || spot=(--spot)
    tpu create "$NAME" --accelerator-type="$ACCELERATOR" --version="$VERSION" "${spot[@]}"
}

delete() { tpu delete "$NAME" --quiet; }

# uv: the Python of the hosts is too old. chmod: only root can write to a new share.
install() {
    run tar -czf "$folder/chromagan_jax.tgz" -C "$root" --exclude=__pycache__ \
        chromagan_jax configs setup.cfg pyproject.toml README.md LICENSE &&
        tpu scp "$folder/chromagan_jax.tgz" "$NAME:" --worker=all &&
        on_all_workers "set -e
test -z ${SHARE@Q} || mountpoint -q $MOUNT || {
    sudo apt-get -qq update
    sudo apt-get -qq install -y nfs-common
    sudo mkdir -p $MOUNT
    sudo mount -t nfs -o hard ${SHARE@Q} $MOUNT
    sudo chmod a+rwx $MOUNT
}
mkdir -p ~/chromagan_jax
cd ~/chromagan_jax
tar -xzf ~/chromagan_jax.tgz
test -x ~/.local/bin/uv || curl -LsSf https://astral.sh/uv/install.sh | sh
~/.local/bin/uv venv -q --allow-existing --python=3.12 .venv
~/.local/bin/uv pip install -q --python=.venv -e '.[gcs,tpu,tensorboard]'"
}

# Starts the run on each worker unless it still runs there or ended while the connection was lost,
# then follows its log to the end. The run holds run.lock; the kernel releases the lock however the
# run ends. run.code holds the exit code until it has been printed.
attend() {
    on_all_workers "cd ~/chromagan_jax || exit
exec 9>run.lock
from=20
if flock -n 9 && ! [ -e run.code ]; then
    from=+1
    : >run.log
    (
        trap '' HUP
        LIBTPU_INIT_ARGS=${libtpu@Q} .venv/bin/python -m chromagan_jax.main ${*@Q} --distributed 9>&-
        echo \$? >run.code
    ) >run.log 2>&1 </dev/null &
fi
exec 9>&-
flock run.lock true &
tail -n \$from -f -s 0.2 --pid=\$! run.log
echo chromagan_jax ended with exit code \$(cat run.code) && rm -f run.code"
}

# Sets `ended` to the exit code of the run; 75 if a worker reports none.
start() {
    local codes status=0
    attend "$@" | tee "$folder/output" || status=$?
    codes=$(sed -n 's/.*chromagan_jax ended with exit code \([0-9]*\)$/\1/p' "$folder/output")
    # gcloud's own status is 1 for a lost connection too.
    ended=75
    if grep -qx 3 <<<"$codes"; then
        ended=3
    elif grep -qx 1 <<<"$codes"; then
        ended=1
    elif [ "$status" -eq 0 ] && [ "$(sort -u <<<"$codes")" = 0 ]; then
        ended=0
    fi
}

spend() {
    tries=$((tries + 1))
    [ "$tries" -le "$TRIES" ] || fail "gave up after $TRIES tries: raise TRIES."
}

main() {
    local installed=false now
    while :; do
        now=$(state)
        say "$NAME is $now"
        case $now in
            READY)
                spend
                if $installed || install; then
                    installed=true
                    start "$@"
                    [ "$ended" -eq 75 ] || break
                    say 'the run is not complete: restarting it'
                fi
                ;;
            PREEMPTED | TERMINATED | NONE)
                spend
                installed=false
                { [ "$now" = NONE ] || delete; } && create && continue
                ;;
            STOPPED) tpu start "$NAME" || spend ;;
            UNKNOWN) spend ;;
        esac
        sleep "$PAUSE"
    done
    [ "$DELETE" != true ] || delete || say "$NAME could not be deleted: delete it by hand."
    say "the run ended with exit code $ended"
    exit "$ended"
}

dry_run=false
case ${1:-} in
    --dry-run)
        dry_run=true
        shift
        ;;
    -h | --help)
        sed -n '2,/^$/p' "$0" | sed 's/^# \{0,1\}//'
        exit
        ;;
esac

root=$(cd "$(dirname "$0")/.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
place=(--zone="$ZONE")
[ -z "$PROJECT" ] || place+=(--project="$PROJECT")
tries=0

[[ -z $SHARE || ($SHARE == *:/* && $SHARE != *://*) ]] ||
    fail 'SHARE must name an NFS share that all workers see: SHARE=HOST:/PATH.'
if [[ " $* " != *' --workdir=gs://'* ]]; then
    [[ -n $SHARE ]] ||
        fail 'The workdir must be in a bucket or on a share: --workdir=gs://BUCKET/FOLDER, or set SHARE.'
    [[ " $* " == *" --workdir=$MOUNT/"* ]] ||
        fail "The workdir must be on the share or in a bucket: --workdir=$MOUNT/runs/NAME."
fi

if $dry_run; then
    tpu describe "$NAME" --format='value(state)'
    create
    install
    attend "$@"
    [ "$DELETE" != true ] || delete
else
    command -v gcloud >/dev/null || fail 'gcloud is missing: install the Google Cloud CLI.'
    main "$@"
fi
