#!/bin/sh
# Every row of every table at every seed: research/recipes/evidence/grid.yaml says which.
# A cell is a chain of these recipes with changes; what cells share is run once, in runs/evidence.
set -eu
cd "$(dirname "$0")/../.."
.venv/bin/python -m research.evidence run --jobs 2 "$@"
.venv/bin/python -m research.evidence tables
