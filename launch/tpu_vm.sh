#!/usr/bin/env bash
# A run on Cloud TPUs, typed on your own machine, where `gcloud` is set up:
#   launch/tpu_vm.sh ACTION --name=NAME --zone=ZONE --type=TYPE [OPTIONS] [-- ARGUMENTS]
# ACTION
#   create   asks for the TPU in the queue, and waits until it is there
#   install  copies this checkout to all its workers, and sets up and checks an environment there
#   run      starts a run with ARGUMENTS, those of gmm_diffusion.main, on all workers
#   watch    shows its output until it ends, and ends with its exit status
#   fetch    copies runs/ from the first worker into runs/NAME here; what is in a bucket stays there
#   delete   gives the TPU back; what was not fetched or copied to a bucket is gone
#   all      all of these, and anew after each preemption until the run is done or has failed
# OPTIONS
#   --spot                cheaper, and may be taken away at any time
#   --bucket=gs://B/PATH  keeps a copy of runs/ there every 5 minutes, from which a run goes on after
#                         a preemption; for one worker only
#   --workers=N           how many the type has, 1 unless it is said: ARGUMENTS must then name a
#                         --workdir in a bucket, gs://B/PATH, or on a disk that all of them share
#   --version=VERSION     of the TPU's software, if not the usual one of the type
#   --project=PROJECT     if not the one that gcloud is set to
#   --dry-run             prints the commands and does nothing
# A TYPE is such as v5litepod-4, v6e-8 or v4-32. A TPU costs money from `create` to `delete`.
set -euo pipefail
cd "$(dirname "$0")/.."
ACTION=${1:-}
NAME="" ZONE="" TYPE="" SPOT="" BUCKET="" WORKERS=1 VERSION="" PROJECT="" DRY_RUN=""
FOLDER=gmm_diffusion # on the workers, in the home directory
SECONDS_BETWEEN=${SECONDS_BETWEEN:-30}

refuse() {
  echo "Error: $1" >&2
  exit 2
}

shift $(($# > 0))
while (($#)); do
  case $1 in
  --name=*) NAME=${1#*=} ;;
  --zone=*) ZONE=${1#*=} ;;
  --type=*) TYPE=${1#*=} ;;
  --spot) SPOT=1 ;;
  --bucket=*) BUCKET=${1#*=} ;;
  --workers=*) WORKERS=${1#*=} ;;
  --version=*) VERSION=${1#*=} ;;
  --project=*) PROJECT=${1#*=} ;;
  --dry-run) DRY_RUN=1 ;;
  --)
    shift
    break
    ;;
  *) refuse "$1 is not an option; the first lines of $0 have all of them." ;;
  esac
  shift
done
RUN=("$@")
[[ $ACTION =~ ^(create|install|run|watch|fetch|delete|all)$ ]] ||
  refuse "'$ACTION' is not an action; valid are create, install, run, watch, fetch, delete and all."
[[ $NAME =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]] ||
  refuse "--name is '$NAME'; it must be of lower-case letters, digits and -, a letter first."
[[ $ZONE ]] || refuse "--zone is missing; it must be one that has the type, such as us-central1-a."
[[ $TYPE || ! $ACTION =~ ^(create|all)$ ]] ||
  refuse "--type is missing; it must be a type of TPU, such as v5litepod-4."
[[ $WORKERS =~ ^[1-9][0-9]*$ ]] || refuse "--workers is '$WORKERS'; it must be 1 or more."
[[ -z $BUCKET || $BUCKET == gs://?* ]] || refuse "--bucket is '$BUCKET'; it must be gs://BUCKET/PATH."
[[ -z $BUCKET || $WORKERS == 1 ]] ||
  refuse "--bucket is of one worker; with --workers=$WORKERS the run needs a --workdir in a bucket or on a disk that all share."

if [[ -z $VERSION ]]; then
  case $TYPE in
  v6e-*) VERSION=v2-alpha-tpuv6e ;;
  v5p-*) VERSION=v2-alpha-tpuv5 ;;
  v5litepod-*) VERSION=v2-alpha-tpuv5-lite ;;
  *) VERSION=tpu-ubuntu2204-base ;;
  esac
fi
PLACE=(--zone="$ZONE" ${PROJECT:+--project="$PROJECT"})

# gcloud, or in a dry run what would be typed: on descriptor 3, since some output is read.
exec 3>&1
tpus() {
  local word
  if [[ -z $DRY_RUN ]]; then
    gcloud compute tpus "$@"
    return
  fi
  printf 'gcloud compute tpus' >&3
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./:=,-]+$ ]] || word=${word@Q}
    printf ' %s' "$word" >&3
  done
  echo >&3
}

# On the workers: which ones, and a command for their shell.
on() {
  tpus tpu-vm ssh "$NAME" "${PLACE[@]}" --worker="$1" --command="cd $FOLDER && $2"
}

# Of the request, or of the machine: one that was taken away is no longer READY, at times before the
# request says so.
state() {
  local request machine
  if ! request=$(tpus queued-resources describe "$NAME" "${PLACE[@]}" \
    --format='value(state.state)' 2>&1); then
    if [[ $request == *NOT_FOUND* ]]; then request=ABSENT; else request=UNKNOWN; fi
  fi
  request=${request##*$'\n'} # after warnings, if any
  [[ -z $DRY_RUN ]] || request=ACTIVE
  if [[ $request == ACTIVE ]]; then
    machine=$(tpus tpu-vm describe "$NAME" "${PLACE[@]}" --format='value(state)' 2>/dev/null) ||
      machine=ABSENT
    [[ $machine == READY || $DRY_RUN ]] || request="$machine, though its request is ACTIVE"
  fi
  echo "$request"
}

create() {
  local now
  tpus queued-resources create "$NAME" "${PLACE[@]}" --node-id="$NAME" \
    --accelerator-type="$TYPE" --runtime-version="$VERSION" ${SPOT:+--spot}
  while now=$(state) && [[ $now != ACTIVE ]]; do
    case $now in
    FAILED | SUSPENDED | SUSPENDING)
      echo "Failed: the request for $NAME is $now; delete it, and try another zone or type." >&2
      return 1
      ;;
    esac
    echo "$NAME is $now."
    sleep "$SECONDS_BETWEEN"
  done
}

# Python comes with uv: that of the machines is older than 3.11.
install() {
  local archive=/tmp/$FOLDER.$$.tar.gz
  git ls-files -z | tar --null --files-from=- --create --gzip --file="$archive"
  tpus tpu-vm scp "$archive" "$NAME:$FOLDER.tar.gz" "${PLACE[@]}" --worker=all
  rm "$archive"
  tpus tpu-vm ssh "$NAME" "${PLACE[@]}" --worker=all \
    --command="mkdir -p $FOLDER && tar -xzf $FOLDER.tar.gz -C $FOLDER"
  on all "python3 -m pip install --quiet --user uv"
  on all "{ [ -x .venv/bin/python ] || python3 -m uv venv --python 3.12 .venv; }"
  on all "python3 -m uv pip install --python .venv/bin/python 'jax[tpu]' --editable '.[data,gcs]'"
  # On all at once: the workers of a pod wait for each other.
  on all ".venv/bin/python -m gmm_diffusion.check_env --expect=tpu --processes=$WORKERS"
}

run() {
  local arguments=""
  ((${#RUN[@]} == 0)) || arguments=$(printf ' %q' "${RUN[@]}")
  on all "${BUCKET:+MIRROR=$(printf %q "$BUCKET") }launch/detached.sh start$arguments"
}

watch() {
  on 0 "launch/detached.sh watch"
}

fetch() {
  [[ $DRY_RUN ]] || mkdir -p "runs/$NAME"
  tpus tpu-vm scp --recurse "$NAME:$FOLDER/runs/*" "runs/$NAME" "${PLACE[@]}" --worker=0
}

delete() {
  tpus queued-resources delete "$NAME" "${PLACE[@]}" --force --quiet
}

# What becomes of the run is asked for: the status of gcloud may be that of the line.
all() {
  local now told="" fresh=1
  while true; do
    while now=$(state) && [[ $now == UNKNOWN ]]; do sleep "$SECONDS_BETWEEN"; done
    if [[ $DRY_RUN || $now != ACTIVE ]]; then
      [[ $DRY_RUN || $now == ABSENT ]] || delete
      create
      fresh=1
    fi
    [[ -z $fresh ]] || install
    fresh=""
    run
    watch || true
    told=$(on 0 "launch/detached.sh status") || told=""
    [[ -z $DRY_RUN ]] || told=0
    case $told in
    # What SIGTERM leaves, as before a preemption.
    143 | running | "") ;;
    *) break ;;
    esac
    echo "The run of $NAME goes on."
    sleep "$SECONDS_BETWEEN"
  done
  fetch
  if [[ $told != 0 ]]; then
    echo "Failed: the run ended with status $told; $NAME is kept, and costs, until you delete it." >&2
    return 1
  fi
  delete
}

"$ACTION"
