"""List all recommenders: command, required inputs, whether cold items are ranked, and a one-line description.

    python -m recommenders --list

The table is read from the declarations in the files (harness/registry.py); no recommender is imported or run.
"""
from harness import cli, registry


def build_parser():
    parser = cli.Parser(prog="recommenders", description=__doc__)
    parser.add_argument("--list", action="store_true", required=True, help="print the table of recommenders")
    return parser


def table(recommenders):
    """Lines of text: a header and a row for each registry.Recommender."""
    rows = [("run with", "needs", "cold", "what it is")]
    rows += [(r.command, ", ".join(r.needs) or "-", "yes" if r.cold else "no", r.about) for r in recommenders]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return ["  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[3]]) for row in rows]


def main(argv=None):
    build_parser().parse_args(argv)
    print("\n".join(table(registry.recommenders().values())))


if __name__ == "__main__":
    cli.run(main)
