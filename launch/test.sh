#!/usr/bin/env bash
# Sets up .venv if there is none, with everything that the tests need, and runs them.
#   --fast, as the first option: without those of tests/slow.txt, within 3 minutes on two cores
# Options go to pytest, for example: launch/test.sh tests/mixture -x -n 0
# Two processes: a test compiles on one core most of the time.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
if [ "${1:-}" = --fast ]; then
  shift
  set -- -m "not slow" "$@"
fi

[ -x .venv/bin/python ] || "$PYTHON" -m venv .venv
# What no test imports need not be compiled, of TensorFlow most: half a minute.
.venv/bin/python -m pip install --quiet --no-compile --editable '.[test]'

exec .venv/bin/python -m pytest -n 2 --dist loadfile "$@"
