#!/usr/bin/env bash
# Builds the documentation into site/, with warnings as errors: launch/docs.sh
# With --serve it is shown on a local port, and follows changes.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}

[ -x .venv/bin/python ] || "$PYTHON" -m venv .venv
.venv/bin/python -c 'import material, mkdocstrings_handlers.python' 2>/dev/null ||
  .venv/bin/python -m pip install --quiet --editable '.[docs]'

# A notice about mkdocs 2, which setup.py excludes.
export NO_MKDOCS_2_WARNING=1
case ${1:-} in
"") exec .venv/bin/python -m mkdocs build --strict ;; # with --quiet no warning would count
--serve) exec .venv/bin/python -m mkdocs serve ;;
*)
  echo "Error: $1 is not an option; valid is --serve." >&2
  exit 2
  ;;
esac
