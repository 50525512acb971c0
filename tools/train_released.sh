#!/usr/bin/env bash
# Makes a release on this machine: trains configs/best.py at a small size, continues at a larger
# size, scores the result and writes weights, config, log and model card. Run it from the
# repository's root. The same command resumes. It takes fifty minutes on two CPU cores.
#
#   TRAIN=data/photos VAL=HELD_OUT_DIR SQUEEZENET=squeezenet1_1.npz tools/train_released.sh
#   SIZES='128 256' STEPS='50000 20000' BATCH=64 TRAIN=... VAL=... SQUEEZENET=... \
#       tools/train_released.sh
#                                             a longer training, for a GPU
#
# --help prints this, --dry-run prints the commands without running them. Environment variables,
# with defaults in brackets:
#
#   PYTHON      the interpreter (python)
#   TRAIN       training photographs, in a form that data.source takes (chromagan_jax.prepare merges
#               several folders)
#   VAL         photographs to score on, none of them in TRAIN
#   SQUEEZENET  SqueezeNet's weights, in a form that eval.features takes: the generator starts from
#               them, and the Frechet distance uses them
#   RUNS        folder of the runs, with one workdir for each size (runs/released)
#   OUTPUT      folder of the release (runs/released/weights)
#   SIZES       px, crop size of each stage (64 128)
#   STEPS       generator updates of each stage (5600 2800)
#   BATCH       photographs a step (16)
set -euo pipefail

PYTHON=${PYTHON:-python}
TRAIN=${TRAIN:-}
VAL=${VAL:-}
SQUEEZENET=${SQUEEZENET:-}
RUNS=${RUNS:-runs/released}
OUTPUT=${OUTPUT:-runs/released/weights}
read -ra SIZES <<<"${SIZES:-64 128}"
read -ra STEPS <<<"${STEPS:-5600 2800}"
BATCH=${BATCH:-16}
DRY_RUN=

fail() {
    echo "${0##*/}: $1" >&2
    exit 1
}

case ${1:-} in
    --help)
        sed -n '2,/^set/{/^set/d; s/^# \{0,1\}//; p}' "$0"
        exit
        ;;
    --dry-run) DRY_RUN=1 ;;
    '') ;;
    *) fail "unknown argument '$1': see --help" ;;
esac
[[ $TRAIN && $VAL ]] || fail 'TRAIN or VAL is not set: set both to photographs, see --help'
[[ $SQUEEZENET ]] || fail 'SQUEEZENET is not set: set it to a file of weights, see --help'
[[ ${#SIZES[@]} == "${#STEPS[@]}" && ${#SIZES[@]} -gt 0 ]] ||
    fail "SIZES has ${#SIZES[@]} stages and STEPS ${#STEPS[@]}: set one number of steps for each size"

run() {
    if [[ $DRY_RUN ]]; then
        printf '%q ' "$@" && echo
    else
        "$@"
    fi
}

start=pretrained.squeezenet=$SQUEEZENET
for stage in "${!SIZES[@]}"; do
    size=${SIZES[$stage]} workdir=$RUNS/$size
    run env "PYTHON=$PYTHON" CONFIG=configs/best.py "WORKDIR=$workdir" launch/local.sh \
        "--config.data.source=$TRAIN" "--config.eval.source=$VAL" "--config.eval.features=$SQUEEZENET" \
        "--config.data.size=$size" "--config.steps=${STEPS[$stage]}" "--config.batch_size=$BATCH" \
        "--config.$start"
    start=init_from=$workdir
done
run "$PYTHON" -m tools.release "--workdir=$workdir" "--val=$VAL" "--features=$SQUEEZENET" \
    "--output=$OUTPUT"
