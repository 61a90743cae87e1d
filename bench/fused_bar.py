"""One model for hot and cold items against the best of either: non-inferior on both, superior on their union.

    python -m bench.fused_bar --workdir W --fused RUN ... --hot RUN ... --cold RUN ... --control RUN ...

Each option takes the runs of one method, a run for each seed. The comparators are fixed beforehand: --hot, the best
method without content by val; --cold, the best cold method by cold_val. NDCG@10 is averaged over the runs for each
user, and the users are paired:

    test       fused against hot       lower end of the one-sided 97.5 % interval of the relative difference above -3 %
    cold_test  fused against cold      above -5 %
    all_test   fused against both      above 0, p of two-sided paired t tests corrected by Holm below .05
    test       control against hot     above -3 %: with the wrong content no worse than without

The interval is that of 10,000 bootstrap draws of users, the same for numerator and denominator.
"""
from pathlib import Path

import numpy as np

from evaluation.paired_tests import compare
from harness import cli
from harness.errors import UsageError, WorkError
from harness.readers import read_parquet

METRIC, DRAWS, SEED = "NDCG@10", 10_000, 42


def build_parser():
    parser = cli.Parser(prog="bench.fused_bar", description=__doc__)
    for name, what in (("fused", "model of hot and cold items"), ("hot", "best method without content by val"),
                       ("cold", "best cold method by cold_val"), ("control", "fused model with shuffled content")):
        parser.add_argument(f"--{name}", nargs="+", required=name != "control", metavar="RUN", default=[],
                            help=f"{what}: its runs, one for each seed")
    cli.common_flags(parser, seed=False, overwrite=False)
    return parser


def values_of(workdir, names, part):
    """(users int64 (U,), values float64 (U,)): NDCG@10 of each user of a part, mean over the runs."""
    users, columns = None, []
    for name in names:
        path = Path(workdir) / "metrics" / f"{name}_{part}.pqt"
        if not path.exists():
            raise UsageError(f"{path} is missing; name finished runs that rank {part}")
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


def margins(workdir, args):
    """Rows (part, who, against, value, reference, difference, lower end, margin) of the three margins."""
    rows = []
    for part, who, names, against, others, margin in (
            ("test", "fused", args.fused, "hot", args.hot, -0.03),
            ("cold_test", "fused", args.fused, "cold", args.cold, -0.05),
            ("test", "control", args.control, "hot", args.hot, -0.03)):
        if names:
            (users, own), (same, reference) = (values_of(workdir, n, part) for n in (names, others))
            if not np.array_equal(users, same):
                raise WorkError(f"the runs of {who} and {against} have different users in {part}")
            rows.append((part, who, against, own.mean(), reference.mean(), *relative(own, reference), margin))
    return rows


def main(argv=None):
    args = build_parser().parse_args(argv)
    workdir = cli.workspace(args)
    print(f"{METRIC}; fused {len(args.fused)} runs, hot {len(args.hot)}, cold {len(args.cold)}, control "
          f"{len(args.control)}")
    for part, who, against, own, reference, difference, low, margin in margins(workdir, args):
        print(f"{part:9} {who:7} {own:.4f}  {against:4} {reference:.4f}  {difference:+.1%}, lower end {low:+.1%}  "
              f"{'met' if low > margin else 'not met'} (above {margin:.0%})")
    own = values_of(workdir, args.fused, "all_test")[1]
    others = {name: values_of(workdir, runs, "all_test")[1] for name, runs in (("hot", args.hot), ("cold", args.cold))}
    tests = compare(np.stack([own, own]), np.stack(list(others.values())))
    for (name, reference), test in zip(others.items(), tests, strict=True):
        met = test.difference > 0 and max(test.p_t, test.p_bootstrap) < 0.05
        print(f"all_test  fused   {own.mean():.4f}  {name:4} {reference.mean():.4f}  "
              f"{test.difference / reference.mean():+.1%}, p {max(test.p_t, test.p_bootstrap):.2g} (Holm)  "
              f"{'met' if met else 'not met'} (above 0)")
    print(f"cold items in the first ten of all_test: fused {share_of_cold(workdir, args.fused):.1%}, cold "
          f"{share_of_cold(workdir, args.cold):.1%}")


if __name__ == "__main__":
    cli.run(main)
