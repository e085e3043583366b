#!/usr/bin/env bash
# Features against classes, from training to tables and figure:
#   launch/comparison.sh [OUT] [--full] [--tfds=NAME]
# The sweep prints its time first, and the same command goes on where it was stopped.
#   --full       larger faces as well, for a GPU
#   --tfds=NAME  a dataset of TensorFlow Datasets as well, such as mnist or fashion_mnist
set -euo pipefail
cd "$(dirname "$0")/.."
OUT=runs/comparison FULL="" TFDS=""
for argument in "$@"; do
    case $argument in
    --full) FULL=1 ;;
    --tfds=?*) TFDS=${argument#--tfds=} ;;
    -*)
        echo "Error: $argument is not an option; valid are --full and --tfds=NAME." >&2
        exit 2
        ;;
    *) OUT=$argument ;;
    esac
done
PYTHON=${PYTHON:-python}
# Runs at a time: networks this small do not fill two processors. 1 where they share an accelerator.
PARALLEL=${PARALLEL:-2}
IMAGES=(defect_rate recall coverage frechet memorisation)

sweep() {
    "$PYTHON" -m gmm_diffusion.sweep "$@"
}
# Tables, and the differences from classes, seed by seed.
report() {
    "$PYTHON" -m gmm_diffusion.report "$@"
    "$PYTHON" -m gmm_diffusion.report "$@" --against conditioning.kind=class --out "$1/from_class"
}

sweep --out="$OUT" --parallel="$PARALLEL" configs/sweeps/comparison.py
report "$OUT/toy" --metric density_defects condition_defects agreement sliced_wasserstein
report "$OUT/faces" --metric attribute_agreement attribute_defects "${IMAGES[@]}"
# Classes cannot be asked for combinations that training never shows: no differences from them.
"$PYTHON" -m gmm_diffusion.report "$OUT/faces" --where conditioning.kind=attributes \
    --metric unseen_attribute_agreement unseen_attribute_defects --out "$OUT/faces/unseen"
report "$OUT/digits" --metric "${IMAGES[@]}" agreement
"$PYTHON" -m experiments.run_idea_figure --out="$OUT"
if [[ $TFDS ]]; then
    sweep --out="$OUT/$TFDS" --parallel="$PARALLEL" configs/sweeps/comparison_tfds.py \
        "data.tfds_name=$TFDS"
    report "$OUT/$TFDS/tfds" --metric "${IMAGES[@]}" agreement
fi
if [[ $FULL ]]; then
    sweep --out="$OUT" configs/sweeps/comparison_full.py
    report "$OUT/faces_full"
fi
