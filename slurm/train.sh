#!/usr/bin/env bash
# Submit Shallow Net runs: every flag of train.py takes a list, every combination is a task of one array.
#   bash slurm/train.sh --model musicnn mfcc random --seed 1 2 3 --item-freeze 1 0 --workdir DIR
#   bash slurm/train.sh musicnn item 20 10000 100 1 0 "baseline" --workdir DIR      one run, as published
# --print shows the command lines instead, --wait returns when all is over (slurm/grid.py --help).
set -euo pipefail
project="$(cd "$(dirname "$0")/.." && pwd)"
[ -f "$project/slurm/grid.py" ] || project="${SLURM_SUBMIT_DIR:?}"  # sbatch runs a copy of this file
. "$project/slurm/job.sh"
prepare "$project"
case " $* " in *" --help "* | *" -h "*) python "$project/train.py" --help; exit ;; esac
exec python "$project/slurm/grid.py" train.py --submit "$@"
