#!/bin/sh
# recipes/mini, shrunk: the same stages on a handful of rows, to see that they run.
set -eu
cd "$(dirname "$0")/../.."
.venv/bin/python -m research.world teacher runs/teacher
.venv/bin/python -m unime run recipes/smoke "$@"
.venv/bin/python -m unime verify runs/smoke/8_export/embedder
