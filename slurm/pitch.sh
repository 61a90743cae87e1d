#!/usr/bin/env bash
# Submit the extraction of Pitch: one array over shards, then the merge into embeddings/pitch.npy.
#   bash slurm/pitch.sh --audio DIR --workdir DIR --shards 8 [flags of extract_item_embeddings/pitch.py]
# --print shows the command lines instead, --wait returns when all is over (slurm/grid.py --help).
set -euo pipefail
project="$(cd "$(dirname "$0")/.." && pwd)"
[ -f "$project/slurm/grid.py" ] || project="${SLURM_SUBMIT_DIR:?}"  # sbatch runs a copy of this file
. "$project/slurm/job.sh"
prepare "$project"
exec python "$project/slurm/grid.py" --extract pitch --submit "$@"
