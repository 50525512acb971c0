#!/usr/bin/env bash
# Measures the speeds in docs/performance.md: six minutes on two CPU cores, half an hour with other
# programs to compare with. Run it from the repository's root on an otherwise idle machine:
#
#   benchmarks/run.sh >figures.jsonl        JSON lines; the tables go to standard error
#   PHOTOS=DIR benchmarks/run.sh            pipeline and colorize read these photographs
#   STEP_PEER='python their_step.py' PIPELINE_PEER='python their_loader.py DIR' \
#       COLORIZE_PEER='python -m benchmarks.torch_colorize --photos=DIR --plain' benchmarks/run.sh
#                                           prints the ratios to these programs too
#
# --help prints this, --dry-run prints the commands without running them. Environment variables,
# with defaults in brackets:
#
#   PYTHON         the interpreter (python)
#   PHOTOS         a folder of photographs (sample: those inside scikit-image)
#   ROUNDS         runs of each program for a ratio (3)
#
# Commands that print JSON with images_per_second, and the flags that they get:
#
#   STEP_PEER      --size, --width, --batch
#   PIPELINE_PEER  --size, --batch, --workers
#   COLORIZE_PEER  --size, --width
set -euo pipefail

PYTHON=${PYTHON:-python}
PHOTOS=${PHOTOS:-sample}
ROUNDS=${ROUNDS:-3}
STEP_PEER=${STEP_PEER:-}
PIPELINE_PEER=${PIPELINE_PEER:-}
COLORIZE_PEER=${COLORIZE_PEER:-}
DRY_RUN=

case ${1:-} in
    --help)
        sed -n '2,/^set/{/^set/d; s/^# \{0,1\}//; p}' "$0"
        exit
        ;;
    --dry-run) DRY_RUN=1 ;;
    '') ;;
    *)
        echo "${0##*/}: unknown argument '$1': see --help" >&2
        exit 1
        ;;
esac

# As in launch/local.sh; a GPU does not use this memory.
export MALLOC_MMAP_MAX_=${MALLOC_MMAP_MAX_:-0}
export MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_:-1000000000000}
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}
# Later runs reuse the compiled step. The part `compile` uses its own, empty cache.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$HOME/.cache/chromagan_jax/xla}

run() {
    if [[ $DRY_RUN ]]; then
        printf '%q ' "$@" && echo
    else
        "$@"
    fi
}

BENCHMARK=("$PYTHON" -m benchmarks.benchmark --config=configs/base.py "--config.data.source=$PHOTOS")

# Measures the parts $1 with the arguments from $3 on, and the ratio to the command $2 if set.
measure() {
    local parts=$1 theirs=$2 ours
    shift 2
    run "${BENCHMARK[@]}" "--only=$parts" --rounds=3 "$@"
    if [[ $theirs ]]; then
        # The command is one argument, which ratio divides again as a shell does.
        printf -v ours '%q ' "${BENCHMARK[@]}" "--only=${parts##*,}" --rounds=1 "$@"
        run "$PYTHON" -m benchmarks.ratio "--rounds=$ROUNDS" "--theirs=$theirs" "--ours=${ours% }"
    fi
}

networks() { # size, width, batch
    printf '%s\n' "--config.data.size=$1" "--config.generator.width=$2" "--config.discriminator.width=$2" \
        "--config.batch_size=$3" --config.ema_decay=0.0 --steps=8
}

mapfile -t small < <(networks 128 32 8)
mapfile -t large < <(networks 256 64 2)
step=matmul,compile,train_step
measure $step "${STEP_PEER:+$STEP_PEER --size 128 --width 32 --batch 8}" "${small[@]}"
measure $step "${STEP_PEER:+$STEP_PEER --size 256 --width 64 --batch 2}" "${large[@]}"
measure loop '' "${small[@]}" --steps=30
# Worker processes, and threads in each. Those of PIPELINE_PEER have one thread.
for workers_threads in '0 2' '0 1' '2 1'; do
    read -r workers threads <<<"$workers_threads"
    measure pipeline "${PIPELINE_PEER:+$PIPELINE_PEER --size 256 --batch 16 --workers $workers}" \
        --config.data.size=256 --config.batch_size=16 "--config.data.workers=$workers" \
        "--config.data.threads=$threads"
done
measure colorize "${COLORIZE_PEER:+$COLORIZE_PEER --size 256 --width 64}" \
    --config.data.size=256 --config.generator.width=64
