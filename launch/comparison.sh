#!/usr/bin/env bash
# Features against classes, from training to tables and figure: launch/comparison.sh [OUT] [--full]
# The sweep prints its time first, and the same command goes on where it was stopped. --full adds
# larger faces, for a GPU. Digits of five seeds come last: their table is of what there is.
set -euo pipefail
cd "$(dirname "$0")/.."
OUT=${1:-runs/comparison}
PYTHON=${PYTHON:-python}
# Runs at a time: networks this small do not fill two processors. 1 where they share an accelerator.
PARALLEL=${PARALLEL:-2}

report() {
    "$PYTHON" -m gmm_diffusion.report "$@"
}

"$PYTHON" launch/sweep.py --out="$OUT" --parallel="$PARALLEL" configs/sweeps/comparison.py
report "$OUT/toy" --metric density_defects condition_defects agreement sliced_wasserstein
report "$OUT/digits" "$OUT/digits_more" \
    --metric defect_rate recall coverage frechet agreement memorisation
report "$OUT/faces" --metric attribute_defects unseen_attribute_defects defect_rate recall coverage \
    frechet memorisation
"$PYTHON" launch/idea_figure.py --out="$OUT"
if [[ "${2:-}" == --full ]]; then
    "$PYTHON" launch/sweep.py --out="$OUT" configs/sweeps/comparison_full.py
    report "$OUT/faces_full"
fi
