#!/bin/sh
# The main job on pictures nobody here drew: 950 captioned stamps, many of them photographs.
set -eu
cd "$(dirname "$0")/../.."
recipes/photos/fetch.sh runs/photos/raw
.venv/bin/python -m unime run recipes/photos "$@"
.venv/bin/python -m unime verify runs/photos/8_export/embedder
