#!/bin/bash
# A judge's job on a slurm cluster: N shards side by side, then one job that gathers.
# usage: judge/slurm/submit.sh N RECIPE [key=value ...]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
shards=${1:?usage: submit.sh N RECIPE [key=value ...]}
recipe=${2:?usage: submit.sh N RECIPE [key=value ...]}
shift 2
mkdir -p runs/slurm
${UNIME:-unime} judge score "$recipe" "$@" --dry-run > /dev/null  # a mistake shows here, not in N logs
array=$(sbatch --parsable --array="0-$((shards - 1))" "$here/score.sbatch" "$recipe" "$@")
gather=$(sbatch --parsable --dependency="afterok:${array%%;*}" "$here/gather.sbatch" "$recipe" "$@")
echo "shards: job ${array%%;*} ($shards tasks); gathers: job ${gather%%;*}"
