#!/bin/sh
# Teaches the tiny judge: hours on one core; the same command carries on.
set -eu
cd "$(dirname "$0")/../.."
# 0_judge    sight, then lessons in words and pairs to judge
.venv/bin/python -m unime run recipes/judge "$@"
