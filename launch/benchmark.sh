#!/usr/bin/env bash
# Measures what the README's table says of speed, on this machine: ten minutes on two CPU cores.
# Run it from the repository's root, with nothing else running:
#
#   launch/benchmark.sh >figures.jsonl        JSON lines; the tables go to standard error
#   PHOTOS=DIR launch/benchmark.sh            the input pipeline on these photographs
#   STEP_PEER='python their_step.py' PIPELINE_PEER='python their_loader.py DIR' launch/benchmark.sh
#                                             and how many times as fast as these, in turn
#
# --help prints this, --dry-run the commands that would run. Variables, from the environment:
#
#   PYTHON         the interpreter (python)
#   PHOTOS         a folder of photographs (sample: those inside scikit-image)
#   WORKERS        worker processes of the pipeline, 0 for threads (0)
#   ROUNDS         runs of each side of a ratio (5)
#   STEP_PEER      prints JSON with images_per_second; --size, --width and --batch are added to it
#   PIPELINE_PEER  prints JSON with images_per_second; --size, --batch and --workers are added to it
set -euo pipefail

PYTHON=${PYTHON:-python}
PHOTOS=${PHOTOS:-sample}
WORKERS=${WORKERS:-0}
ROUNDS=${ROUNDS:-5}
STEP_PEER=${STEP_PEER:-}
PIPELINE_PEER=${PIPELINE_PEER:-}
DRY_RUN=

case ${1:-} in
    --help)
        sed -n '2,/^set/{/^set/d; s/^# \{0,1\}//; p}' "$0"
        exit
        ;;
    --dry-run) DRY_RUN=1 ;;
    '') ;;
    *)
        echo "${0##*/}: there is no '$1': see --help" >&2
        exit 1
        ;;
esac

# As launch/local.sh does it; a GPU does not use this memory.
export MALLOC_MMAP_MAX_=${MALLOC_MMAP_MAX_:-0}
export MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_:-1000000000000}
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}

run() {
    if [[ $DRY_RUN ]]; then
        printf '%q ' "$@" && echo
    else
        "$@"
    fi
}

BENCHMARK=("$PYTHON" -m chromagan_jax.benchmark --config=configs/base.py "--config.data.source=$PHOTOS"
    "--config.data.workers=$WORKERS")

# How many times as fast as $1: the benchmark with the other arguments.
ratio() {
    local theirs=$1
    shift
    run "$PYTHON" launch/ratio.py "--rounds=$ROUNDS" "--ours=${BENCHMARK[*]} --rounds=1 --steps=8 $*" \
        "--theirs=$theirs"
}

step() { # size, width, batch
    local fields=("--config.data.size=$1" "--config.generator.width=$2"
        "--config.discriminator.width=$2" "--config.batch_size=$3" --config.ema=0.0)
    run "${BENCHMARK[@]}" --only=matmul,compile,train_step --rounds=3 --steps=8 "${fields[@]}"
    if [[ $STEP_PEER ]]; then
        ratio "$STEP_PEER --size $1 --width $2 --batch $3" --only=train_step "${fields[@]}"
    fi
}

step 128 32 8
step 256 64 2
run "${BENCHMARK[@]}" --only=loop,colorize --config.data.size=128 --config.generator.width=32 \
    --config.discriminator.width=32 --config.batch_size=8
run "${BENCHMARK[@]}" --only=pipeline --config.data.size=256 --config.batch_size=16
if [[ $PIPELINE_PEER ]]; then
    ratio "$PIPELINE_PEER --size 256 --batch 16 --workers $WORKERS" --only=pipeline \
        --config.data.size=256 --config.batch_size=16
fi
