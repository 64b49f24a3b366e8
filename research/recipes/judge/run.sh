#!/bin/sh
# Teaches the tiny judge: about six hours on two cores; the same command carries on.
set -eu
cd "$(dirname "$0")/../.."
# 0_judge    sight, then lessons in words and pairs to judge
# 1_judge    the same scene, the part that is named: what two pictures have to do with each other
# 2_judge    more of all, most of what asks most
# 3_judge    candidates as a miner finds them
# 4_judge    the same, with a falling learning rate
# 5_judge    relations turned round, attributes exchanged
.venv/bin/python -m unime run research/recipes/judge "$@"
