"""How much data? What content is worth against the amount of plays: one curve for each row of a table.

    python preprocess/1_train_test_split.py ... --train-share .1 --workdir W10         and the same runs in each
    python -m exploration.data_curve W10 W30 W --metric NDCG@10 --out curve

Workspaces of one data set whose splits differ by --train-share alone (a smaller share is a subset of a larger one) are
laid side by side. Every row with content is compared, within each workspace, with the method without content that is
best on val there (in other parts as in tables, evaluation/leaderboard.py): a paired t test over users, and seeds where
there are several, and a bootstrap over users, corrected by Holm over the rows (evaluation/paired_tests.py). Where a
content row is above at a small share and below at a larger one, the plays alone have caught up between the two; where
the two are not distinguishable they may have.
Held-out pairs of tracks that a small share leaves without a play are not in its test; the csv has the users of each.

Writes OUT.csv, OUT.md and OUT.png.
"""
import re
from dataclasses import dataclass
from pathlib import Path

from harness import cli
from harness.errors import UsageError, WorkError
from harness.files import atomic, expanded, write_report_csv, write_text
from harness.split_files import read_manifest

PLAYS = "without content"
WITH = "with content"


def build_parser():
    parser = cli.Parser(prog="exploration.data_curve", description=__doc__)
    parser.add_argument("workdirs", nargs="+", metavar="WORKDIR", help="workspaces, one for each share of train")
    parser.add_argument("--metric", default="NDCG@10", metavar="NAME@K", help="metric of the curves (default NDCG@10)")
    parser.add_argument("--part", default="test", choices=("test", "cold_test", "all_test"),
                        help="part of the split that is evaluated (default test)")
    parser.add_argument("--out", default="data_curve", metavar="PATH",
                        help="path of the three files without their endings (default data_curve)")
    return parser


@dataclass
class Point:
    """A row of a table at one share. difference, mark: to the best method without content, None and '' for those.

    best_on: the part on which that one was chosen
    """
    share: float
    pairs: int
    users: int
    block: str
    method: str
    representation: str
    value: float
    half: float
    worth: float
    half_worth: float
    best: str
    difference: float | None
    mark: str
    best_on: str = "val"

    @property
    def label(self):
        return f"{self.method} {self.representation}".strip()


# --------------------------------------------------------------------------- reading

def share_of(workdir):
    """(what must be the same, seed, share of train, pairs of train) of a workspace; UsageError without a split.

    seed: None where it draws nothing, as for the whole of a published split
    """
    path = Path(workdir) / "data" / "split.json"
    if not path.exists():
        raise UsageError(f"{path} is missing; make the split with preprocess/1_train_test_split.py")
    split = read_manifest(path, {"request": dict, "stats": dict})
    request = dict(split.get("request", {}))
    share, seed, hidden = request.pop("train_share", 1.0), request.pop("seed", None), request.pop("hidden", False)
    same = (split.get("protocol"), split.get("track_checksum"), tuple(sorted((k, str(v)) for k, v in request.items())))
    try:
        share, pairs = float(share), int(split["stats"]["Train"]["Rows"])
    except (KeyError, TypeError, ValueError):
        raise WorkError(f"{path} does not say the share and the number of train pairs as numbers; split again with "
                        "preprocess/1_train_test_split.py") from None
    if share < 1 and not hidden and split.get("protocol") != "yambda":
        raise UsageError(f"{workdir} was split by an earlier version, which left what --train-share takes out among "
                         "the candidates; split it again with preprocess/1_train_test_split.py")
    return same, seed, share, pairs


def checked(workdirs):
    """[(share, pairs, workdir)] by share; UsageError where the splits differ by more than the share, or not by it."""
    found, seeds = [], set()
    first = None
    for workdir in workdirs:
        same, seed, share, pairs = share_of(workdir)
        seeds |= set() if seed is None else {seed}
        if first is not None and same != first or len(seeds) > 1:
            raise UsageError(f"{workdir} has another split than {workdirs[0]}, not only another --train-share; split "
                             "both by the same protocol and seed")
        first = first or same
        found.append((share, pairs, workdir))
    found.sort(key=lambda f: f[:2])
    for one, other in zip(found, found[1:], strict=False):
        if one[0] == other[0]:
            raise UsageError(f"{one[2]} and {other[2]} have the same --train-share {one[0]:g}; name one of them")
    if len(found) < 2:
        raise UsageError("a curve needs at least two workspaces, each with its --train-share")
    return found


def points(workdir, share, pairs, part, metric):
    """The Points of a workspace; WorkError without runs of both kinds."""
    import numpy as np

    from evaluation import leaderboard, paired_tests, results
    cells, _ = results.collect(workdir)
    values = results.Values(workdir, part, [metric])
    board = leaderboard.leaderboard(workdir, cells, part, values, [metric]) if cells else None
    rows = [row for row in (board.rows if board else ()) if metric in row.figures
            and row.figures[metric].each is not None]
    plays = [row for row in rows if row.block == PLAYS]
    content = [row for row in rows if row.block == WITH]
    if not plays or not content:
        raise WorkError(f"{workdir} has no finished run {WITH if plays else PLAYS} with {metric} of {part}; run the "
                        "same methods in every workspace")
    best = next((row for row in plays if metric in row.best), None) or max(plays, key=lambda r: r.figures[metric].mean)
    own = best.figures[metric].each
    tests = paired_tests.compare(
        np.stack([row.figures[metric].each for row in content]), own, repeats=[
            leaderboard.terms_of(row.cell, row.figures[metric], best.cell, best.figures[metric]) for row in content])
    tests = dict(zip(map(id, content), tests, strict=True))
    made = []
    for row in plays + content:
        figure, worth, test = row.figures[metric], row.worth.get(metric), tests.get(id(row))
        made.append(Point(share, pairs, len(own), row.block, row.method, row.label, figure.mean, figure.users,
                          worth.difference if worth else np.nan, worth.half if worth else np.nan,
                          f"{best.method} {best.label}".strip(), test and test.difference, test.mark if test else "",
                          board.best_on(PLAYS, metric)))
    return made


# --------------------------------------------------------------------------- texts and figure

def caught_up(curve):
    """A sentence on where a content row stops being above the plays alone; curve: its Points by share.

    Not distinguishable is no evidence of equality: the plays have caught up where the row is below.
    """
    above = [place for place, p in enumerate(curve) if p.mark == "↑"]
    if not above:
        return f"{curve[0].label}: never above the best method without content" + _below(curve, ", {} it")
    until, later = above[-1], curve[above[-1] + 1:]
    gaps = [f"{p.pairs:,}" for p in curve[:until] if p.mark != "↑"]
    but = f", but not with {', '.join(gaps)}" if gaps else ""
    head, pairs = f"{curve[0].label}: above the best method without content", f"{curve[until].pairs:,} pairs"
    if not later:
        return f"{head} with all {pairs}{but}"
    undecided = [p for p in later if p.mark != "↓"]
    near = "" if not undecided else f", not distinguishable from {undecided[0].pairs:,} on" if later == undecided else \
        f", not distinguishable with {', '.join(f'{p.pairs:,}' for p in undecided)}"
    return f"{head} up to {pairs}{but}{near}{_below(later, ', {}', '')}"


def _below(curve, words, unit=" pairs"):
    """Where a row is below: `from` a share on, or `with` some of them; '' where it nowhere is. words: with {}"""
    below = [p for p in curve if p.mark == "↓"]
    if not below:
        return ""
    onwards = below == curve[-len(below):]
    some = f"{below[0].pairs:,}" if onwards else ", ".join(f"{p.pairs:,}" for p in below)
    return f"{words.format('below')} {'from' if onwards else 'with'} {some}{unit}"


def by_row(made):
    """{(block, label): [Point] by share}."""
    curves = {}
    for point in made:
        curves.setdefault((point.block, point.label), []).append(point)
    return curves


def markdown(made, metric, part):
    """The values of each row at each share, with ↑ and ↓ against the best without content, and the sentences."""
    from evaluation.render import escape_markdown
    shares = sorted({(p.share, p.pairs) for p in made})
    curves = by_row(made)
    lines = [["", *(f"{share:g} ({pairs:,} pairs)" for share, pairs in shares)], ["---"] * (len(shares) + 1)]
    for block in (PLAYS, WITH):
        lines.append([f"*{block}*"] + [""] * len(shares))
        for (kind, label), curve in curves.items():
            if kind == block:
                known = {p.share: p for p in curve}
                lines.append([escape_markdown(label), *(cell(known.get(share)) for share, _ in shares)])
    table = ["| " + " | ".join(line) + " |" for line in lines]
    sentences = [f"- {escape_markdown(caught_up(curve))}" for (kind, _), curve in curves.items() if kind == WITH]
    chosen = " or ".join(dict.fromkeys(p.best_on for p in made))
    foot = f"±: 95 % over users. ↑ ↓: above, below the method {PLAYS} that is best on {chosen} at that share."
    return "\n".join([f"### {metric} of {part} by the share of train", "", *table, "", foot, "", *sentences, ""])


def cell(point):
    from evaluation.render import with_half
    return "" if point is None else f"{with_half(f'{point.value:.4f}', point.half)} {point.mark}".rstrip()


def draw(made, metric, path):
    """Curves over the pairs of train: rows without content dashed, with content full, bands of 95 % over users."""
    from exploration import drawing
    with drawing.style():
        figure, axes = drawing.sheet(height=4.2)
        for (block, label), curve in by_row(made).items():
            x, y = [p.pairs for p in curve], [p.value for p in curve]
            line, = axes.plot(x, y, "--" if block == PLAYS else "-", marker="o", markersize=3, label=label)
            axes.fill_between(x, [p.value - p.half for p in curve], [p.value + p.half for p in curve],
                              color=line.get_color(), alpha=0.12, linewidth=0)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(drawing.short)
        axes.set(xlabel="pairs in train", ylabel=metric)
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        with atomic(path) as temporary:
            drawing.save(figure, temporary)


def main(argv=None):
    import pandas as pd
    args = build_parser().parse_args(argv)
    if not re.fullmatch("[^@]+@[1-9][0-9]{0,8}", args.metric):
        raise UsageError(f"--metric {args.metric} is not of the form NAME@K, NDCG@10 for example")
    if not Path(args.out).name:
        raise UsageError(f"--out {args.out!r} names no file; give the path of the three files without their endings")
    workdirs = [expanded(workdir) for workdir in args.workdirs]
    made = [point for share, pairs, workdir in checked(workdirs)
            for point in points(workdir, share, pairs, args.part, args.metric)]
    out = expanded(args.out)
    text = markdown(made, args.metric, args.part)
    write_report_csv(Path(f"{out}.csv"), pd.DataFrame([vars(point) for point in made]))
    write_text(Path(f"{out}.md"), text)
    draw(made, args.metric, Path(f"{out}.png"))
    print(text)
    print(f"written: {out}.csv {out}.md {out}.png")


if __name__ == "__main__":
    cli.run(main)
