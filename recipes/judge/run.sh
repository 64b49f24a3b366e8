#!/bin/sh
# Teaches the tiny judge: two hours and a half on two cores; the same command carries on.
set -eu
cd "$(dirname "$0")/../.."
# 0_judge    sight, then lessons in words and pairs to judge
# 1_judge    the same scene, the part that is named: what two pictures have to do with each other
.venv/bin/python -m unime run recipes/judge "$@"
