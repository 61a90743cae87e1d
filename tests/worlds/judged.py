"""Workspaces made of finished runs with known values, without lists or vectors: what claims.py reads."""
import numpy as np
import pandas as pd

from evaluation.files import write_metrics
from harness.files import write_json, write_text
from harness.runs import run_name

LEDGER = """
rules: {level: 0.05, chance: 0.8, seeds: 3, controls: 4}
datasets:
  one: {roles: {audio: [a, b], main: [a]}}
  two: {roles: {audio: [a]}}
  made: {generated: true, roles: {audio: [a]}}
claims:
"""
CLAIM = """
  - id: NAME
    sentence: A sentence.
    source: a paper
    terms: {x: {method: ease}, y: {method: popularity}}
    effect: x - y
    smallest: 0.01
"""


def ledger(folder, *claims):
    """The path of a claims.yaml with these claims, each a text of YAML."""
    path = folder / "claims.yaml"
    write_text(path, LEDGER + "\n".join(claims))
    return path


def claim(name="first", **changes):
    """A claim as YAML: CLAIM with lines replaced (None: left out) or added."""
    lines = CLAIM.replace("NAME", name).strip("\n").splitlines()
    for key, value in changes.items():
        lines = [line for line in lines if line.strip().lstrip("- ").partition(":")[0] != key or key == "id"]
        lines += [f"    {key}: {value}"] if value is not None and key != "id" else []
    return "\n".join(lines)


def workspace(folder, name="one", parts=("val", "test")):
    """An empty workspace of a data set, whose split has these parts."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "dataset.json", {"name": name})
    for part in parts:
        write_text(folder / "data" / f"{part}.pqt", "a part\n")
    return folder


def add_run(workdir, method, values, embedding=None, seed=42, users=None, inputs=None, val=0.5, cold=None, **request):
    """A finished run whose NDCG@10 on test is `values` (U,), and whose mean on val is `val`; returns its name.

    cold: its mean on cold_val, of a run that has the same values on cold_test; None: it has no cold parts
    """
    values = np.asarray(values, np.float64)
    request = {"seed": seed, "comment": "", **request}
    name = run_name(method, embedding, request, seed)
    write_json(workdir / "runs" / name / "config.json", {
        "run": name, "status": "finished", "recommender": method, "embedding": embedding, "seed": seed,
        "request": request, "inputs": inputs or {}, "departures": {}, "started": f"{seed}",
        "parts": ["val", "test"] + ["cold_val", "cold_test"] * (cold is not None)})
    users = np.arange(len(values)) if users is None else users
    figures_of = {"test": values, "val": np.full(len(values), val)}
    if cold is not None:
        figures_of |= {"cold_test": values, "cold_val": np.full(len(values), float(cold))}
    for part, figures in figures_of.items():
        write_metrics(workdir / "metrics" / f"{name}_{part}.csv",
                      pd.DataFrame({"NDCG@10": figures}, index=pd.Index(users, name="user_id")))
    return name


def add_seeds(workdir, method, mean, embedding=None, seeds=(1, 2, 3), users=60, spread=0.02, number=0, **more):
    """Runs of a method under several seeds, each user's value the mean plus noise; returns their names."""
    rng = np.random.default_rng([number, *seeds])
    own = rng.normal(0, spread, users)
    return [add_run(workdir, method, mean + own + rng.normal(0, spread / 10) + rng.normal(0, spread, users), embedding,
                    seed, **more) for seed in seeds]
