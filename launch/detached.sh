#!/usr/bin/env bash
# A run that outlives the terminal, or the ssh, that started it:
#   launch/detached.sh start [ARGUMENTS]   as of gmm_diffusion.main; nothing if a run is going on
#   launch/detached.sh watch               its output, until it ends, and then its exit status
#   launch/detached.sh status              that status, or `running`, or `lost` after a kill or a reboot
#   launch/detached.sh stop                has it save and end
# MIRROR=gs://BUCKET/FOLDER keeps a copy of runs/ in a bucket: it is fetched from there first where
# there is no runs/ here, and copied every SECONDS_BETWEEN (300) and at the end.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
MIRROR=${MIRROR:-}
SECONDS_BETWEEN=${SECONDS_BETWEEN:-300}
# Log, process and status of the newest run.
HERE=.detached

refuse() {
  echo "Error: $1" >&2
  exit 2
}

fetch() {
  local said
  if said=$(gcloud storage ls "$MIRROR" 2>&1 >/dev/null); then
    gcloud storage rsync --recursive "$MIRROR" runs
  elif [[ $said != *"matched no objects"* ]]; then
    # Not a new run: what is there may only be out of reach.
    refuse "MIRROR is $MIRROR, which cannot be listed: $said"
  fi
}

copy() {
  [[ -z $MIRROR || ! -d runs ]] || gcloud storage rsync --recursive runs "$MIRROR" || true
}

running() {
  [[ -e $HERE/pid ]] && kill -0 "$(<"$HERE/pid")" 2>/dev/null
}

# The run, its copies and its end; the shell that starts it leaves it alone.
supervise() {
  local child status copier=""
  "$PYTHON" -m gmm_diffusion.main "$@" &
  child=$!
  trap 'kill -TERM "$child" 2>/dev/null' TERM
  if [[ $MIRROR ]]; then
    # `read` waits without a process of its own, which would be left over.
    while ! read -r -t "$SECONDS_BETWEEN" <> <(:); do copy; done &
    copier=$!
  fi
  while kill -0 "$child" 2>/dev/null; do
    wait "$child" || true # ends when a signal comes, too
  done
  wait "$child" && status=0 || status=$?
  [[ -z $copier ]] || kill "$copier" 2>/dev/null
  copy
  echo "$status" >"$HERE/status.tmp"
  mv "$HERE/status.tmp" "$HERE/status"
}

case ${1:-} in
start)
  shift
  if running; then
    echo "A run is going on as process $(<"$HERE/pid"); watch or stop it."
    exit 0
  fi
  [[ -z $MIRROR || -d runs ]] || fetch
  mkdir -p "$HERE"
  rm -f "$HERE/status"
  setsid "$0" supervise "$@" </dev/null >"$HERE/log" 2>&1 &
  echo $! >"$HERE/pid"
  echo "Started as process $!; its output is in $HERE/log."
  ;;
supervise)
  shift
  supervise "$@"
  ;;
watch)
  [[ -e $HERE/pid ]] || refuse "no run was started here."
  tail -n 1000 --pid="$(<"$HERE/pid")" --follow "$HERE/log"
  [[ -e $HERE/status ]] || {
    echo "Failed: the run ended without a word, as by a kill or a reboot." >&2
    exit 1
  }
  exit "$(<"$HERE/status")"
  ;;
status)
  [[ -e $HERE/pid ]] || refuse "no run was started here."
  if running; then
    echo running
  elif [[ -e $HERE/status ]]; then
    cat "$HERE/status"
  else
    echo lost
  fi
  ;;
stop)
  running || exit 0
  kill -TERM "$(<"$HERE/pid")"
  tail --pid="$(<"$HERE/pid")" --follow /dev/null
  ;;
*) refuse "'${1:-}' is not an action; valid are start, watch, status and stop." ;;
esac
