#!/usr/bin/env bash
# CIFAR-10 on a GPU that is lent for minutes at a time: configs/cifar_gmm.py and its baseline
# configs/cifar_class.py, from an archive of JPEGs alone, without TensorFlow or a network:
#   launch/cifar_gpu.sh ARCHIVE OUT [--config.GROUP.FIELD=VALUE ...]
# ARCHIVE is a .tar.gz of train/CLASS/*.jpg and test/CLASS/*.jpg. A call is a slice: after SLICE
# seconds what runs is saved, and the same call goes on from there. Each run ends with its evaluation.
#   SLICE=480                     seconds
#   SAMPLES=10000                 of an evaluation, up to 50000; of more than 10000 it takes the mean
#                                 over sets of 10000, as many as there are held-out images
#   RUNS="cifar_gmm cifar_class"  configs, one after the other; each has its folder in OUT
# Exit status: 0 all is done, 75 there is more to do, else that of what failed.
set -euo pipefail
MORE=75
if [[ $# -lt 2 || $1 == -* || $2 == -* ]]; then
  echo "Error: type launch/cifar_gpu.sh ARCHIVE OUT, and settings behind these." >&2
  exit 2
fi
ARCHIVE=$(realpath -m -- "$1") OUT=$(realpath -m -- "$2")
shift 2
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-$([[ -x .venv/bin/python ]] && echo .venv/bin/python || echo python3)}
SLICE=${SLICE:-480} SAMPLES=${SAMPLES:-10000} RUNS=${RUNS:-cifar_gmm cifar_class}
if [[ ! $SLICE =~ ^[1-9][0-9]*$ || ! $SAMPLES =~ ^[1-9][0-9]*$ ]]; then
  echo "Error: SLICE is $SLICE and SAMPLES $SAMPLES; both must be whole numbers." >&2
  exit 2
fi

CHILD="" STOPPED=""
# Whoever ends the call ends what runs in it, which then saves.
stop() {
  STOPPED=1
  [[ -z $CHILD ]] || kill -TERM "$CHILD" 2>/dev/null || true
}
trap stop TERM INT

# Runs a command until it ends or the slice does; sets STATUS, 143 if it was told to end.
within_slice() {
  timeout --signal=TERM --kill-after=50 "$((SLICE - SECONDS > 1 ? SLICE - SECONDS : 1))" "$@" &
  CHILD=$!
  while kill -0 "$CHILD" 2>/dev/null; do
    wait "$CHILD" || true # ends when a signal comes, too
  done
  wait "$CHILD" && STATUS=0 || STATUS=$?
  CHILD=""
  # What `timeout` says of a command that it has ended.
  [[ $STATUS -ne 124 ]] || STATUS=143
}

more() {
  echo "The slice is over after $SECONDS s; the same command goes on from here."
  exit $MORE
}

"$PYTHON" launch/cifar_arrays.py "$ARCHIVE" "$OUT/cifar10"
for run in $RUNS; do
  done=$OUT/$run.done
  asked=$(printf '%s\n' "$SAMPLES" "$@")
  if [[ -f $done && $(<"$done") == "$asked" ]]; then
    echo "$run is done: $OUT/$run"
    continue
  fi
  [[ -z $STOPPED && $((SLICE - SECONDS)) -gt 0 ]] || more
  within_slice "$PYTHON" -m gmm_diffusion.main --config="configs/$run.py" --workdir="$OUT/$run" \
    --config.data.name=arrays --config.data.data_dir="$OUT/cifar10" \
    --config.evaluation.max_samples="$((SAMPLES < 10000 ? SAMPLES : 10000))" \
    --config.evaluation.blocks="$(((SAMPLES + 9999) / 10000))" "$@"
  [[ $STATUS -ne 143 ]] || more
  [[ $STATUS -eq 0 ]] || exit "$STATUS"
  echo "$asked" >"$done"
done
echo "All is done; compare by: $PYTHON -m gmm_diffusion.report $OUT"
