#!/usr/bin/env bash
# Makes weights for a release, on this machine: trains configs/best.py at a small
# size, goes on from there at a larger one, scores the result and writes it, with its model card.
# Run it from the repository's root; started again with the same variables it goes on where it was.
# On two CPU cores fifty minutes.
#
#   TRAIN=data/photos VAL=HELD_OUT_DIR SQUEEZENET=squeezenet1_1.npz tools/train_released.sh
#   SIZES='128 256' STEPS='50000 20000' BATCH=64 TRAIN=... VAL=... SQUEEZENET=... \
#       tools/train_released.sh
#                                                        more of it, where there is a GPU
#
# --help prints this, --dry-run the commands that would run. Variables, from the environment:
#
#   PYTHON    the interpreter (python)
#   TRAIN     photographs to train on, as data.source takes them (chromagan_jax.prepare makes one
#             such data set of several folders)
#   VAL       photographs to score on, none of them in TRAIN
#   SQUEEZENET  weights of SqueezeNet, as eval.features takes them: the generator starts from them,
#             and they measure Frechet distances
#   RUNS      where the runs are written, a folder for each size (runs/released)
#   OUTPUT    where the release is written (runs/released/weights)
#   SIZES     px, of the crops of one stage after the other (64 128)
#   STEPS     generator updates of each stage (5600 2800)
#   BATCH     photographs a step (16)
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
    *) fail "there is no '$1': see --help" ;;
esac
[[ $TRAIN && $VAL ]] || fail 'TRAIN and VAL name the photographs: set both, see --help'
[[ $SQUEEZENET ]] || fail 'SQUEEZENET names the weights that the generator starts from: see --help'
[[ ${#SIZES[@]} == "${#STEPS[@]}" && ${#SIZES[@]} -gt 0 ]] ||
    fail "SIZES has ${#SIZES[@]} stages and STEPS ${#STEPS[@]}: name a number of steps for each size"

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
