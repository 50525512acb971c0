#!/usr/bin/env bash
# Measures the train step on a GPU in less than five minutes: 256 px, width 64, bfloat16, batch 64
# and 16. Run it from the repository's root with the extra [cuda]:
#
#   benchmarks/gpu.sh >figures.jsonl           JSON lines; tables and the trace go to standard error
#   STEP_PEER='python their_step.py' LIMIT=500 benchmarks/gpu.sh    also measures another program
#
# In this order: the peak of a matrix product, the initial state with an empty and a filled cache,
# the input pipeline with two decode threads and with one for each core; the step as it is, with
# each choice of formulations changed, and with rematerialisation; the images/s of STEP_PEER without
# and with --compile; each strided convolution and its space-to-depth form; a trace of a step.
# Parts for which no time is left are skipped and named.
#
# --help prints this, --dry-run prints the commands without running them. Environment variables,
# with defaults in brackets:
#
#   PYTHON     the interpreter (python)
#   BATCHES    batch sizes (64 16)
#   SIZE       px (256)
#   WIDTH      of both networks (64)
#   DTYPE      of the computation (bfloat16)
#   PHOTOS     a folder of photographs for the input pipeline (sample: those inside scikit-image)
#   LIMIT      s after which no further part starts (270)
#   STEP_PEER  command that prints JSON with images_per_second; it gets --size, --width, --batch,
#              --device, --bf16 and, the second time, --compile
#   DEVICE     --device of STEP_PEER (cuda)
#   OUTPUT     folder of the traced run (a new one in /tmp)
set -euo pipefail

PYTHON=${PYTHON:-python}
BATCHES=${BATCHES:-64 16}
SIZE=${SIZE:-256}
WIDTH=${WIDTH:-64}
DTYPE=${DTYPE:-bfloat16}
PHOTOS=${PHOTOS:-sample}
LIMIT=${LIMIT:-270}
STEP_PEER=${STEP_PEER:-}
DEVICE=${DEVICE:-cuda}
OUTPUT=${OUTPUT:-}
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
if [[ ! $OUTPUT && ! $DRY_RUN ]]; then
    OUTPUT=$(mktemp -d)
fi

# Runs a part unless the time is over. After a failed part the script continues and ends with 1.
failed=0
run() {
    if [[ $DRY_RUN ]]; then
        printf '%q ' "$@" && echo
    elif ((SECONDS > LIMIT)); then
        echo "no time left for: $*" >&2
    elif ! timeout 240 "$@"; then
        echo "failed: $*" >&2
        failed=1
    fi
}

FIELDS=("--config.data.size=$SIZE" "--config.generator.width=$WIDTH" "--config.discriminator.width=$WIDTH"
    "--config.dtype=$DTYPE" --config.ema_decay=0.0)
CONFIG=(--config=configs/base.py --rounds=3 --steps=10 "${FIELDS[@]}")
first=${BATCHES%% *}
PIPELINE=("$PYTHON" -m benchmarks.benchmark "${CONFIG[@]}" "--config.batch_size=$first" "--config.data.source=$PHOTOS")
read -ra PEER <<<"$STEP_PEER"

run "${PIPELINE[@]}" --only=matmul,state,pipeline
run "${PIPELINE[@]}" --only=pipeline --config.data.threads=2
run "$PYTHON" -m benchmarks.forms "${CONFIG[@]}" "--batches=${BATCHES// /,}" --limit=180
if [[ $STEP_PEER ]]; then
    for batch in $BATCHES; do
        ours=(--size "$SIZE" --width "$WIDTH" --batch "$batch" --device "$DEVICE" --bf16)
        run "${PEER[@]}" "${ours[@]}"
        run "${PEER[@]}" "${ours[@]}" --compile
    done
fi
run "$PYTHON" -m benchmarks.strided "--dtype=$DTYPE" "--batch=$first" "--size=$SIZE" "--width=$WIDTH" >&2
run "$PYTHON" -m chromagan_jax.main --config=configs/base.py "${FIELDS[@]}" "--config.batch_size=$first" \
    --config.steps=12 --config.eval_every=0 --config.sample_every=0 --profile "--workdir=$OUTPUT/traced" \
    --compilation_cache=
run "$PYTHON" -m benchmarks.trace "$OUTPUT/traced/profile" >&2
exit $failed
