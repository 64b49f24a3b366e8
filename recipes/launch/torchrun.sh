#!/bin/sh
# Two nodes without a scheduler: run on both, with the same RENDEZVOUS (the first node's host:port).
#   RENDEZVOUS=node0:29500 sh recipes/launch/torchrun.sh contrast recipes/qwen2_vl_2b/6_contrast.yaml
# Also for one machine: NODES=1 RENDEZVOUS=localhost:29500 PROCESSES=2 sh recipes/launch/torchrun.sh ...
# The data folder and the output folder must be on a file system that all nodes see.
set -eu
exec "${PYTHON:-python}" -m torch.distributed.run \
  --nnodes "${NODES:-2}" --nproc_per_node "${PROCESSES:-8}" \
  --rdzv_backend c10d --rdzv_endpoint "$RENDEZVOUS" --rdzv_id "${RUN_ID:-unime}" \
  -m unime "$@"
