#!/usr/bin/env bash
# Real PolyMNIST at 28 pixels, unattended, in calls of at most nine minutes that resume each other.
#
#   scripts/gpu_suite.sh OUT [SECONDS]          (POLYMNIST=folder, or MNIST=folder BACKGROUNDS=folder; DEVICE=cuda)
#
# Every call continues the first run that is not finished; call it until it prints "all done". A run that the time limit
# interrupts saves a checkpoint first (SIGINT is what Ctrl-C sends).
set -euo pipefail
out=${1:?usage: gpu_suite.sh OUT [SECONDS]}
limit=${2:-540}
device=${DEVICE:-cuda}
multiebm=${MULTIEBM:-multiebm}
start=$SECONDS
if [ -n "${POLYMNIST:-}" ]; then data=("data.settings.folder=$POLYMNIST")
else data=("data.settings.mnist_folder=${MNIST:?set POLYMNIST, or MNIST and BACKGROUNDS}"
           "data.settings.backgrounds_folder=${BACKGROUNDS:?set BACKGROUNDS}"); fi

within() {  # seconds name command...: run it in what is left of this call, or leave it to the next
  local least=$1 name=$2 left=$((limit - (SECONDS - start))); shift 2
  [ "$left" -gt "$least" ] || { echo "time is up; call again to measure $name"; exit 0; }
  timeout "$left" "$@" || {
    code=$?; [ $code -eq 124 ] || exit $code
    echo "interrupted while measuring $name; call again"; exit 0; }
}

one() {  # name preset overrides...
  local name=$1 preset=$2; shift 2
  local run=$out/$name left=$((limit - (SECONDS - start)))
  [ -f "$run/report.html" ] && return 0
  [ "$left" -gt 30 ] || { echo "time is up; call again to continue with $name"; exit 0; }
  if [ ! -f "$run/trained" ]; then  # an interrupted run has a model too
    local resume=()
    if [ -d "$run/checkpoints" ]; then resume=(--resume)
    elif [ -f "$run/config.yaml" ]; then resume=(--overwrite); fi  # killed before its first checkpoint
    timeout --signal=INT --kill-after=30 $((left - 20)) \
      "$multiebm" train "$preset" "${data[@]}" "$@" --device "$device" --out "$run" "${resume[@]}" || {
        code=$?; [ $code -eq 130 ] || [ $code -eq 124 ] || exit $code
        echo "interrupted $name; call again to continue"; exit 0; }
    touch "$run/trained"
  fi
  within 120 "$name" "$multiebm" evaluate "$run" --device "$device"
  within 60 "$name" "$multiebm" report "$run"
}

# lengths that are to fit into the quarter of an hour; the preset's own are for whoever has more
one cooperative polymnist training.phases.bound.steps=10000 training.phases.bound.prior_from=8000 training.phases.cooperative.steps=960 training.seconds=900
one predecessor polymnist16-predecessor data.settings.size=28 model.networks.picture.width=64 model.shared=32 model.private=32 training.seconds=900
one warmup      polymnist16-warmup data.settings.size=28 model.networks.picture.width=64 model.shared=32 model.private=8 training.seconds=900
echo "all done: $out"
