#!/usr/bin/env bash
# Guidance on the tree, from training to table and figure: launch/tree.sh [OUT]
# The sweep prints its time first, and the same command goes on where it was stopped.
set -euo pipefail
cd "$(dirname "$0")/.."
OUT=${1:-runs/tree}
PYTHON=${PYTHON:-python}

"$PYTHON" -m gmm_diffusion.sweep --out="$OUT" configs/sweeps/tree.py
"$PYTHON" -m gmm_diffusion.report "$OUT/tune" --out "$OUT/tuning" \
    --metric condition_defects condition_log_density sliced_wasserstein
"$PYTHON" -m gmm_diffusion.report "$OUT/tune" --out "$OUT/heatmap" \
    --where guidance.limit=1.0 "guidance.interval=[0.01, 1000.0]" --heatmap guidance.scale sample.ema \
    --metric condition_defects condition_log_density sliced_wasserstein
"$PYTHON" -m gmm_diffusion.report "$OUT/main" "$OUT/alone" --out "$OUT/report" \
    --metric condition_defects condition_log_density condition_log_density_min sliced_wasserstein
"$PYTHON" -m gmm_diffusion.report "$OUT/target" --out "$OUT/target_report" \
    --metric condition_defects condition_log_density condition_log_density_min sliced_wasserstein
"$PYTHON" -m experiments.run_tree_figure --out="$OUT"
"$PYTHON" -m experiments.run_occupancy --out="$OUT"
