#!/usr/bin/env bash
# Submit BERT4Rec runs: every flag of train_bert.py takes a list, every combination is a task of one array.
#   bash slurm/train_bert.sh --model musicnn mfcc random --seed 1 2 3 --hidden-dim 64 256 --workdir DIR
#   bash slurm/train_bert.sh mert item 100 128 200 1 0 "bert_baseline" --workdir DIR      one run, as published
# --print shows the command lines instead, --wait returns when all is over (slurm/grid.py --help).
set -euo pipefail
project="$(cd "$(dirname "$0")/.." && pwd)"
[ -f "$project/slurm/grid.py" ] || project="${SLURM_SUBMIT_DIR:?}"  # sbatch runs a copy of this file
. "$project/slurm/job.sh"
prepare "$project"
case " $* " in *" --help "* | *" -h "*) python "$project/train_bert.py" --help; exit ;; esac
exec python "$project/slurm/grid.py" train_bert.py --submit "$@"
