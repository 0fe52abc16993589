#!/usr/bin/env bash
# Trains with several processes: tools/dist_train.sh CONFIG PROCESSES [options of tools/train.py]
# More than one machine: NNODES, NODE_RANK, MASTER_ADDR and PORT as in MMDetection.
set -e
if [ $# -lt 2 ]; then
    echo "usage: $0 CONFIG PROCESSES [options of train.py]" >&2
    exit 2
fi
exec "$(dirname "$0")/dist_run.sh" train "$2" "$1" "${@:3}"
