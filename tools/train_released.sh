#!/usr/bin/env bash
# Makes a release on this machine: trains configs/best.py at one size after the other, scores the
# result and writes weights, config, log and model card. Run it from the repository's root. The same
# command resumes. The first stage starts from the released generator: a new discriminator is first
# trained alone. Each stage starts from both networks of the stage before.
#
#   TRAIN=data/photos VAL=HELD_OUT_DIR ENCODER=lite0.safetensors FEATURES=squeezenet1_1.npz \
#       tools/train_released.sh
#   CHANGES= RATE=4e-4 STEPS='3000 3000' BATCH=128 TRAIN=... tools/train_released.sh
#                                             from ImageNet weights of the encoder, for a GPU
#
# --help prints this, --dry-run prints the commands without running them. Environment variables,
# with defaults in brackets:
#
#   PYTHON      the interpreter (python)
#   TRAIN       training photographs, in a form that data.source takes (chromagan_jax.prepare merges
#               several folders)
#   VAL         photographs to score on, none of them in TRAIN
#   ENCODER     EfficientNet-Lite0 weights for the frozen features, made by tools.encoder
#   FEATURES    SqueezeNet weights for the Frechet distance, in a form that eval.features takes
#   RUNS        folder of the runs, with one workdir for each stage (runs/released)
#   OUTPUT      folder of the release (runs/released/weights)
#   CHANGES     changes of configs/best.py in the first stage (continue)
#   SIZES       px, crop size of each stage (128 192)
#   STEPS       generator updates of each stage (20000 10000)
#   BATCH       photographs a step (16)
#   RATE        peak learning rate of both networks (1e-4)
set -euo pipefail

PYTHON=${PYTHON:-python}
TRAIN=${TRAIN:-}
VAL=${VAL:-}
ENCODER=${ENCODER:-}
FEATURES=${FEATURES:-}
RUNS=${RUNS:-runs/released}
OUTPUT=${OUTPUT:-runs/released/weights}
read -ra SIZES <<<"${SIZES:-128 192}"
read -ra STEPS <<<"${STEPS:-20000 10000}"
BATCH=${BATCH:-16}
RATE=${RATE:-1e-4}
CHANGES=${CHANGES-continue}
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
[[ $ENCODER && $FEATURES ]] ||
    fail 'ENCODER or FEATURES is not set: set both to files of weights, see --help'
[[ ${#SIZES[@]} == "${#STEPS[@]}" && ${#SIZES[@]} -gt 0 ]] ||
    fail "SIZES has ${#SIZES[@]} stages and STEPS ${#STEPS[@]}: set one number of steps for each size"

run() {
    if [[ $DRY_RUN ]]; then
        printf '%q ' "$@" && echo
    else
        "$@"
    fi
}

changes=${CHANGES:+:$CHANGES} start=
for stage in "${!SIZES[@]}"; do
    size=${SIZES[$stage]} workdir=$RUNS/$stage-$size
    run env "PYTHON=$PYTHON" "CONFIG=configs/best.py$changes" "WORKDIR=$workdir" launch/local.sh \
        "--config.pretrained.efficientnet_lite=$ENCODER" "--config.data.source=$TRAIN" \
        "--config.eval.source=$VAL" "--config.eval.features=$FEATURES" "--config.data.size=$size" \
        "--config.steps=${STEPS[$stage]}" "--config.batch_size=$BATCH" \
        "--config.generator_optimizer.learning_rate=$RATE" \
        "--config.discriminator_optimizer.learning_rate=$RATE" ${start:+"$start"}
    [[ +$CHANGES+ == *+continue+* ]] && changes=:keep_hints || changes=
    start=--config.init_from=$workdir
done
run "$PYTHON" -m tools.release "--workdir=$workdir" "--val=$VAL" "--features=$FEATURES" \
    "--output=$OUTPUT"
