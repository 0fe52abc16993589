#!/usr/bin/env bash
# Behind dist_train.sh and dist_test.sh: dist_run.sh TOOL PROCESSES ARGUMENTS...
set -e
tools=$(cd "$(dirname "$0")" && pwd)
tool=$1
processes=$2
shift 2

# Left alone, torchrun gives each process one thread and every other core of a CPU machine idles.
cores=$(python -c 'import os; print(os.cpu_count() or 1)')
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > processes ? cores / processes : 1))}
export MKL_NUM_THREADS=${MKL_NUM_THREADS:-$OMP_NUM_THREADS}
export PYTHONPATH="$tools/..:$PYTHONPATH"

exec python -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$processes" \
    "$tools/$tool.py" "$@" --launcher pytorch
