#!/bin/sh
# How hard may stage 1 train before contrast pays for it? On the dev seed alone, an hour of one core: runs/stage1.
# 1_distill and 2_warmup_distilled are the evidence's; beside them a tenth of the rate, UniME's LoRA, and no stage 1.
set -eu
cd "$(dirname "$0")/../.."
.venv/bin/python -m research.world teacher runs/teacher
.venv/bin/python -m unime run research/recipes/stage1 "$@"
