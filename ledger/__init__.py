"""The claims ledger: what claims.yaml says, which runs of a workspace show it, the verdict, and the missing runs.

    statements   claims.yaml, checked in full: claims, their terms and their effects
    evidence     the runs of a workspace that a claim compares, and the estimate of its effect
    verdicts     holds, fails or undecided, by intervals adjusted for all claims of the ledger
    plan         the grid that makes the missing runs, for slurm/grid.py
    render       claims.md, .csv and .json
"""
