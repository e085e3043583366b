#!/usr/bin/env bash
# Sets up .venv if there is none, with everything that the tests need, and runs them.
# Options go to pytest, for example: launch/test.sh tests/mixture -x -n 0
# Two processes: a test compiles on one core most of the time.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}

[ -x .venv/bin/python ] || "$PYTHON" -m venv .venv
.venv/bin/python -m pip install --quiet --editable '.[test]'

exec .venv/bin/python -m pytest -n 2 --dist loadfile "$@"
