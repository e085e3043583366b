#!/usr/bin/env bash
# Several processes on this machine, as a test of what a cluster would do:
#   launch/local_processes.sh N [ARGUMENTS]   as of gmm_diffusion.main
# They meet at a free port. MODULE=gmm_diffusion.check_env starts another command. Ctrl-C and SIGTERM
# reach all of them. Exit status: the highest of theirs.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python}
MODULE=${MODULE:-gmm_diffusion.main}

[[ ${1:-} =~ ^[1-9][0-9]*$ ]] || {
  echo "Error: '${1:-}' is not a number of processes; it must be 1 or more." >&2
  exit 2
}
N=$1
shift
PORT=$("$PYTHON" -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')

CHILDREN=()
# In the background the shell makes them deaf to Ctrl-C.
trap '[[ ${#CHILDREN[@]} -eq 0 ]] || kill -TERM "${CHILDREN[@]}" 2>/dev/null || true' INT TERM
for ((i = 0; i < N; i++)); do
  "$PYTHON" -m "$MODULE" --coordinator="127.0.0.1:$PORT" --processes="$N" --process="$i" "$@" &
  CHILDREN+=($!)
done
HIGHEST=0
for child in "${CHILDREN[@]}"; do
  while kill -0 "$child" 2>/dev/null; do
    wait "$child" || true # ends when a signal comes, too
  done
  wait "$child" && status=0 || status=$?
  ((status <= HIGHEST)) || HIGHEST=$status
done
exit "$HIGHEST"
