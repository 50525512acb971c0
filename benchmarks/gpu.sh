#!/usr/bin/env bash
# Measures the train step on a GPU, in one call of under 8 minutes: 256 px, width 64, bfloat16.
# Run it from the repository's root with the extra [cuda]:
#
#   benchmarks/gpu.sh >figures.jsonl           JSON lines; tables and the trace go to standard error
#   STEP_PEER='python their_step.py' benchmarks/gpu.sh    another program at the same sizes, too
#
# For each batch size the step's time, memory and share of the measured matmul peak; with STEP_PEER
# its images/s as it is and with --compile; then what rematerialisation costs and saves, strided
# convolutions against space-to-depth, and where the time of a traced step goes. What the time does
# not suffice for is named and left out.
#
# --help prints this, --dry-run the commands that would run. Variables, from the environment:
#
#   PYTHON     the interpreter (python)
#   BATCHES    batch sizes (4 16 64)
#   SIZE       px (256)
#   WIDTH      of both networks (64)
#   DTYPE      of the computation (bfloat16)
#   LIMIT   after which nothing new is begun (420)
#   STEP_PEER  prints JSON with images_per_second; --size, --width, --batch, --device cuda, --bf16
#              and, the second time, --compile are added to it
#   DEVICE     of STEP_PEER (cuda)
#   OUTPUT     a folder for the traced run (a new one in /tmp)
set -euo pipefail

PYTHON=${PYTHON:-python}
BATCHES=${BATCHES:-4 16 64}
SIZE=${SIZE:-256}
WIDTH=${WIDTH:-64}
DTYPE=${DTYPE:-bfloat16}
LIMIT=${LIMIT:-420}
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
        echo "${0##*/}: there is no '$1': see --help" >&2
        exit 1
        ;;
esac
if [[ ! $OUTPUT && ! $DRY_RUN ]]; then
    OUTPUT=$(mktemp -d)
fi

# Runs one part, unless the time is over; a part that fails is named, and the others go on.
failed=0
run() {
    if [[ $DRY_RUN ]]; then
        printf '%q ' "$@" && echo
    elif ((SECONDS > LIMIT)); then
        echo "no time left for: $*" >&2
    elif ! timeout 150 "$@"; then
        echo "failed: $*" >&2
        failed=1
    fi
}

FIELDS=("--config.data.size=$SIZE" "--config.generator.width=$WIDTH" "--config.discriminator.width=$WIDTH"
    "--config.dtype=$DTYPE" --config.ema_decay=0.0)
BENCHMARK=("$PYTHON" -m benchmarks.benchmark --config=configs/base.py --rounds=3 --steps=10 "${FIELDS[@]}")
read -ra PEER <<<"$STEP_PEER"

last=
for batch in $BATCHES; do
    run "${BENCHMARK[@]}" --only=matmul,train_step "--config.batch_size=$batch"
    if [[ $STEP_PEER ]]; then
        ours=(--size "$SIZE" --width "$WIDTH" --batch "$batch" --device "$DEVICE" --bf16)
        run "${PEER[@]}" "${ours[@]}"
        run "${PEER[@]}" "${ours[@]}" --compile
    fi
    last=$batch
done
run "${BENCHMARK[@]}" --only=train_step "--config.batch_size=$last" --config.remat=True
run "$PYTHON" -m benchmarks.strided "--dtype=$DTYPE" "--batch=$last" "--size=$SIZE" "--width=$WIDTH" >&2
run "$PYTHON" -m chromagan_jax.main --config=configs/base.py "${FIELDS[@]}" "--config.batch_size=$last" \
    --config.steps=12 --config.eval_every=0 --config.sample_every=0 --profile "--workdir=$OUTPUT/traced" \
    --compilation_cache=
run "$PYTHON" -m benchmarks.trace "$OUTPUT/traced/profile" >&2
exit $failed
