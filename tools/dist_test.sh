#!/usr/bin/env bash
# Tests with several processes: tools/dist_test.sh CONFIG CHECKPOINT PROCESSES [options of tools/test.py]
# More than one machine: NNODES, NODE_RANK, MASTER_ADDR and PORT as in MMDetection.
set -e
if [ $# -lt 3 ]; then
    echo "usage: $0 CONFIG CHECKPOINT PROCESSES [options of test.py]" >&2
    exit 2
fi
exec "$(dirname "$0")/dist_run.sh" test "$3" "$1" "$2" "${@:4}"
