#!/bin/sh
# The stages in order on one GPU: what is up to date is skipped, what is unfinished is resumed.
# Data first: see the top of 0_data.yaml, 1_distill.yaml and 9_eval.yaml.
set -eu
folder=$(basename "$(cd "$(dirname "$0")" && pwd)")
cd "$(dirname "$0")/../.."
python -m unime run "recipes/$folder" "$@"
