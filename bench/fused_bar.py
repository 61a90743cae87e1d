"""One model for hot and cold items against the best of either: non-inferior on both, superior on their union.

    python -m bench.fused_bar --file bench/bars/lastfm-cold.yaml --workdir work/lastfm-cold     writes tables/bar.csv

The file has groups of models and their comparators, which are fixed beforehand: `hot`, the best methods without content
by val; `cold`, the best cold method by cold_val. Each is a name and what its runs are recognised by, one for each seed:

    - hot: {ELSA: {recommender: elsa}}
      cold: {content to factors: {recommender: content_factors, embedding: tags}}
      models: {CEASE: {recommender: cease, embedding: tags}, its control: {recommender: cease, embedding: tags,
               shuffle: true}}

NDCG@10 is averaged over the runs for each user, and the users are paired:

    test       model against each of hot    lower end of the one-sided 97.5 % interval of the relative difference
                                            above -3 %
    cold_test  model against cold           above -5 %
    all_test   model against each           above 0, p of two-sided paired t and bootstrap tests, corrected by Holm over
                                            the model's comparators, below .05

The interval is that of 10,000 bootstrap draws of users, the same for numerator and denominator.
"""
from pathlib import Path

import numpy as np

from evaluation.paired_tests import compare
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
    """(users int64 (U,), values float64 (U,)): NDCG@10 of each user of a part, mean over the runs; None where no run
    has ranked it. WorkError where some have, or where their users differ."""
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
    return users, np.mean(columns, axis=0)


def relative(values, reference, draws=DRAWS, seed=SEED):
    """(difference of the means relative to the reference's, lower end of its one-sided 97.5 % bootstrap interval)."""
    rng, n = np.random.default_rng(seed), len(values)
    ratios = np.empty(draws)
    for i in range(draws):
        drawn = rng.integers(n, size=n)
        ratios[i] = values[drawn].mean() / reference[drawn].mean() - 1
    return values.mean() / reference.mean() - 1, np.quantile(ratios, 0.025)


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
            tested = [_compared(workdir, other, names, part, own) for other in others.items()]
            tested = _superior([t for t in tested if t], own[1]) if part == "all_test" else [t for t in tested if t]
            line = {"group": number, "model": model, "runs": " ".join(names), "seeds": len(names), "part": part,
                    "value": own[1].mean(), "cold_share": share_of_cold(workdir, names) if part == "all_test" else None}
            keys = ("against", "reference", "difference", "low", "margin", "p", "met")
            lines += [line | {key: t.get(key) for key in keys} for t in tested or [{}]]
    return lines


def _compared(workdir, other, names, part, own):
    """The comparison of a model with another on one part; None with itself and where the other has not ranked it."""
    against, theirs = other
    if theirs == names or (reference := values_of(workdir, theirs, part)) is None:
        return None
    if not np.array_equal(own[0], reference[0]):
        raise WorkError(f"{names[0]} and {theirs[0]} have different users in {part}; evaluate them on one split")
    found = {"against": against, "reference": reference[1].mean(), "margin": MARGIN[part], "values": reference[1]}
    if part == "all_test":
        return found
    difference, low = relative(own[1], reference[1])
    return found | {"difference": difference, "low": low, "met": bool(low > MARGIN[part])}


def _superior(tested, own):
    """Those comparisons with their tests on all_test, corrected together."""
    if tested:
        tests = compare(np.stack([own] * len(tested)), np.stack([t["values"] for t in tested]))
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
