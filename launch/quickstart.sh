#!/usr/bin/env bash
# Sets up .venv if there is none, trains on handwritten digits, and draws a sheet of samples.
# Options are passed on, for example: launch/quickstart.sh --config.training.num_steps=300
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
WORKDIR=${WORKDIR:-runs/digits_gmm}

if [ ! -x .venv/bin/python ]; then
  "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Python 3.11 or newer is needed; $PYTHON is $("$PYTHON" --version). Set PYTHON=..." >&2
    exit 2
  }
  "$PYTHON" -m venv .venv
fi
.venv/bin/python -c 'import gmm_diffusion, importlib.metadata as m; m.version("gmm_diffusion")' 2>/dev/null ||
  .venv/bin/python -m pip install --quiet --editable .

exec .venv/bin/python -m gmm_diffusion.main --config=configs/digits_gmm.py --workdir="$WORKDIR" "$@"
