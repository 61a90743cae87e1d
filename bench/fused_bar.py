"""One model for hot and cold items against the best of either: non-inferior on both, superior on their union.

    python -m bench.fused_bar --file bench/bars/lastfm-cold.yaml --workdir work/lastfm-cold     writes tables/bar.csv

The file has groups of models and their comparators, which are fixed beforehand: `hot`, the best methods without content
by val; `cold`, the best cold method by cold_val. Each is a name and what its runs are recognised by, one for each seed:

    - hot: {ELSA: {recommender: elsa}}
      cold: {content to factors: {recommender: content_factors, embedding: tags}}
      models: {CEASE: {recommender: cease, embedding: tags}, its control: {recommender: cease, embedding: tags,
               shuffle: true}}

The users are paired, and so are runs of the same seed, and those on the factors of one run with that run:

    test       model against each of hot    lower end of the one-sided 97.5 % interval of the relative difference
                                            above -3 %
    cold_test  model against cold           above -5 %
    all_test   model against each           above 0, p of two-sided paired t and bootstrap tests, corrected by Holm over
                                            the model's comparators, below .05 (evaluation/paired_tests.py)

Of single runs the interval is that of 10,000 bootstrap draws of users, the same for numerator and denominator. Where
one of the two has several runs, its end is the relative difference r at which the lower end of the interval of
value - (1 + r) reference over users and seeds is 0 (Fieller's method; evaluation/crossed.py).
"""
from pathlib import Path

import numpy as np

from evaluation import crossed
from evaluation.paired_tests import LEVEL, compare
from harness import cli, runs
from harness.errors import UsageError, WorkError
from harness.files import write_csv
from harness.readers import read_parquet, read_yaml

METRIC, DRAWS, SEED = "NDCG@10", 10_000, 42
MARGIN = {"test": -0.03, "cold_test": -0.05, "all_test": 0.0}
OF_RUN = ("recommender", "embedding")     # keys of a manifest; every other key of a description is one of its request
REPEATED = ("seed", "factors")            # what runs that are averaged may differ by


def build_parser():
    parser = cli.Parser(prog="bench.fused_bar", description=__doc__)
    parser.add_argument("--file", required=True, metavar="YAML", help="models and comparators, as bench/bars/*.yaml")
    cli.common_flags(parser, seed=False, overwrite=False)
    return parser


def read_groups(path):
    """The groups of a file, [{"hot": {name: description}, "cold": .., "models": ..}]; UsageError where it has none."""
    groups = read_yaml(path)
    if not isinstance(groups, list) or not groups:
        raise UsageError(f"{path} should be a list of groups with hot, cold and models")
    for group in groups:
        if not isinstance(group, dict) or set(group) != {"hot", "cold", "models"} or not all(
                isinstance(part, dict) and part and all(isinstance(d, dict) and "recommender" in d
                                                        for d in part.values()) for part in group.values()):
            raise UsageError(f"{path}: a group has hot, cold and models, each of which names its runs by recommender "
                             "and other keys")
        if len(group["cold"]) > 1:
            raise UsageError(f"{path}: a group has one comparator for cold items, not {len(group['cold'])}")
    return groups


def runs_of(manifests, name, description):
    """Names of the finished runs that a description fits; without `shuffle` those with the content of their own.

    UsageError where there are none, or where they differ by more than their seeds and the factors they read.
    """
    wanted = {"shuffle": False, **description}
    found = [(run, config["request"]) for run, config in manifests if config.get("status") == "finished" and all(
        (config if key in OF_RUN else config["request"]).get(key, False if key == "shuffle" else None) == value
        for key, value in wanted.items())]
    if not found:
        raise UsageError(f"{name}: no finished run fits {description}")
    settings = [{k: v for k, v in request.items() if k not in REPEATED} for _, request in found]
    if any(s != settings[0] for s in settings):
        differing = sorted({k for s in settings for k in {*s, *settings[0]} if s.get(k) != settings[0].get(k)})
        raise UsageError(f"{name}: the runs that fit {description} differ in {', '.join(differing[:5])} as well")
    return [run for run, _ in found]


def values_of(workdir, names, part):
    """(users int64 (U,), values float64 (R, U)): NDCG@10 of each user of a part in each run; None where no run has
    ranked it. WorkError where some have, or where their users differ."""
    paths = [Path(workdir) / "metrics" / f"{name}_{part}.pqt" for name in names]
    lacking = [path for path in paths if not path.exists()]
    if len(lacking) == len(paths):
        return None
    if lacking:
        raise WorkError(f"{lacking[0]} is missing, and other runs of the same model have ranked {part}")
    users, columns = None, []
    for path in paths:
        table = read_parquet(path, ("user_id", METRIC))
        user = table["user_id"].to_numpy()
        order = np.argsort(user, kind="stable")
        if users is not None and not np.array_equal(users, user[order]):
            raise WorkError(f"{path} has other users than the runs before it; evaluate them on one split")
        users = user[order]
        columns.append(table[METRIC].to_numpy()[order])
    return users, np.stack(columns)


def labels_of(manifests, names):
    """What pairs each run with those of others: the run that is, or whose factors it reads, where it is one; else its
    seed."""
    requests = {run: config["request"] for run, config in manifests if "request" in config}
    read = {request.get("factors") for request in requests.values()} & {*requests}
    return tuple(name if name in read else factors if (factors := requests[name].get("factors")) in read
                 else requests[name].get("seed") for name in names)


def relative(own, reference, draws=DRAWS, seed=SEED):
    """(difference of the means relative to the reference's, lower end of its one-sided 97.5 % interval).

    own, reference: crossed.Terms of weight 1, of the same users
    """
    difference = own.table.mean() / reference.table.mean() - 1
    if len(own.table) == len(reference.table) == 1:
        return difference, _bootstrap_end(own.table[0], reference.table[0], draws, seed)

    def lower(r):
        found = crossed.estimate([own, crossed.Term(-(1 + r), reference.table, reference.seeds)])
        return found.effect - (found.critical(LEVEL) * found.se if found.se > 0 else 0)
    if lower(difference) == 0:   # the same for every user and seed
        return difference, difference
    if lower(-1) <= 0:
        return difference, -1.0
    from scipy.optimize import brentq
    return difference, brentq(lower, -1, difference)


def _bootstrap_end(values, reference, draws, seed):
    rng, n = np.random.default_rng(seed), len(values)
    ratios = np.empty(draws)
    for i in range(draws):
        drawn = rng.integers(n, size=n)
        ratios[i] = values[drawn].mean() / reference[drawn].mean() - 1
    return np.quantile(ratios, 0.025)


def share_of_cold(workdir, names):
    """Mean share of cold items in the ten first places of all_test."""
    tables = [read_parquet(Path(workdir) / "metrics" / f"{name}_all_test.pqt", ("ColdShare@10",)) for name in names]
    return float(np.mean([t["ColdShare@10"].to_numpy().mean() for t in tables]))


def lines_of(workdir, manifests, number, group):
    """The lines of a group, dicts: one for each model, part and comparator, one for a part without a comparator."""
    named = {kind: {name: runs_of(manifests, name, description) for name, description in group[kind].items()}
             for kind in group}
    lines = []
    for model, names in named["models"].items():
        for part in MARGIN:
            if (own := values_of(workdir, names, part)) is None:
                continue
            others = {**(named["hot"] if part != "cold_test" else {}), **(named["cold"] if part != "test" else {})}
            term = crossed.Term(1, own[1], labels_of(manifests, names))
            tested = [_compared(workdir, manifests, other, names, part, own[0], term) for other in others.items()]
            tested = _superior([t for t in tested if t], term) if part == "all_test" else [t for t in tested if t]
            line = {"group": number, "model": model, "runs": " ".join(names), "seeds": len(names), "part": part,
                    "value": own[1].mean(), "cold_share": share_of_cold(workdir, names) if part == "all_test" else None}
            keys = ("against", "reference", "difference", "low", "margin", "p", "met")
            lines += [line | {key: t.get(key) for key in keys} for t in tested or [{}]]
    return lines


def _compared(workdir, manifests, other, names, part, users, own):
    """The comparison of a model with another on one part; None with itself and where the other has not ranked it."""
    against, theirs = other
    if theirs == names or (reference := values_of(workdir, theirs, part)) is None:
        return None
    if not np.array_equal(users, reference[0]):
        raise WorkError(f"{names[0]} and {theirs[0]} have different users in {part}; evaluate them on one split")
    term = crossed.Term(1, reference[1], labels_of(manifests, theirs))
    found = {"against": against, "reference": reference[1].mean(), "margin": MARGIN[part], "term": term}
    if part == "all_test":
        return found
    difference, low = relative(own, term)
    return found | {"difference": difference, "low": low, "met": bool(low > MARGIN[part])}


def _superior(tested, own):
    """Those comparisons with their tests on all_test, corrected together."""
    if tested:
        def terms(other):
            several = max(len(own.table), len(other.table)) > 1
            return [own, crossed.Term(-1, other.table, other.seeds)] if several else None
        tests = compare(np.stack([own.table.mean(axis=0)] * len(tested)), np.stack([
            t["term"].table.mean(axis=0) for t in tested]), repeats=[terms(t["term"]) for t in tested])
        for t, test in zip(tested, tests, strict=True):
            p = max(test.p_t, test.p_bootstrap)
            t |= {"difference": test.difference / t["reference"], "p": p, "met": bool(test.difference > 0 and p < 0.05)}
    return tested


def main(argv=None):
    args = build_parser().parse_args(argv)
    groups, workdir = read_groups(args.file), cli.workspace(args)
    manifests = runs.find_runs(workdir)
    lines = [line for i, group in enumerate(groups, 1) for line in lines_of(workdir, manifests, i, group)]
    for line in lines:
        text = f"{line['part']:9} {line['model']} {line['value']:.4f}"
        if line["against"]:
            end = f"p {line['p']:.2g}" if line["part"] == "all_test" else f"lower end {line['low']:+.1%}"
            text += (f", {line['against']} {line['reference']:.4f}: {line['difference']:+.1%}, {end}, "
                     f"{'met' if line['met'] else 'not met'} (above {line['margin']:.0%})")
        print(text)
    import pandas as pd
    write_csv(workdir / "tables" / "bar.csv", pd.DataFrame(lines), index=False)


if __name__ == "__main__":
    cli.run(main)
