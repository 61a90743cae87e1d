"""Stage 5: every run of a workspace in comparable tables.

    python table.py
    python table.py --k 10 50 --metrics HitRate Recall NDCG Coverage
    python table.py --against popularity           paired tests over users against one run, or the beginning of its name

Writes into tables/ of the workspace, from runs/*/config.json and metrics/ (no lists or vectors are opened; a run made
from another split than the one in the workspace is left out and named):
    cosine.csv shallow.csv bert.csv     as published, a row per backend with its size; {..}_cold_test.csv: cold
    test.md .tex .csv, cold_test.*      all recommenders side by side; the Markdown is printed, too

Rows are representations between their controls: chance, popularity, learned vectors without content (ID embeddings,
on the command line: random), the same vectors on the wrong tracks (shuffled) and, where it is known, the truth
(oracle). Runs that differ by the seed alone are averaged; any other difference makes a row of its own. The best of a
column is bold, controls left out. Intervals are 95 %, Student's t: over users behind a mean, over seeds in a column of
their own. --against tests every row but the shuffled ones (evaluation/paired_tests.py): ↑ and ↓ behind a figure say
above and below, the csv has the differences, their intervals, p values and effect sizes.
"""
import sys
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_lowercase

from evaluation import paired_tests as paired
from evaluation import render
from evaluation.render import Slot, Table
from evaluation.results import Values, cell_named, collect, unlike_defaults
from harness import cli, runs
from harness.errors import UsageError, WorkError
from harness.files import write_report_csv, write_text
from harness.readers import read_json
from harness.registry import capability
from harness.runs import departures
from metrics import METRICS

LABELS = {"random": "ID embeddings"}   # embeddings whose name says little to a reader
TITLES = {"knn": "KNN", "shallow": "Shallow Net", "bert4rec": "BERT4Rec"}  # the first columns, in this order
PUBLISHED = {"knn": "cosine", "shallow": "shallow", "bert4rec": "bert"}
PUBLISHED_METRICS = ("HitRate", "MRR", "Precision", "Recall", "NDCG")
CHOICES = (*METRICS, "Coverage", "Popularity", "Gini", "SubsetAccuracy", "PointAccuracy")
NO_COLD = "cannot rank cold items"


# --------------------------------------------------------------------------- rows

@dataclass
class Row:
    """A representation, or a recommender without one (embedding None), and the cell of each recommender."""
    label: str
    embedding: str | None
    shuffled: bool
    extra: bool = False                          # a request unlike that of the representation's plain row
    cells: dict = field(default_factory=dict)    # recommender -> Cell

    @property
    def place(self):
        """Order of rows: floor, recommenders without representation, no content, embeddings, shuffled, truth."""
        if self.shuffled or not self.embedding:
            return 5 if self.shuffled else {"chance": 0, "popularity": 1}.get(*self.cells, 2)
        return {"random": 3, "oracle": 6}.get(self.embedding, 4)


class Grid:
    """Cells arranged in rows.

    groups: recommenders that use representations, one column each; usual: {recommender: the cell of its usual request};
    marks:  {id of a cell in a plain row: how its request differs from the usual one}
    """

    def __init__(self, cells):
        own = {}
        for cell in cells:
            own.setdefault(cell.recommender, []).append(cell)
        self.groups = sorted((r for r in own if any(c.embedding for c in own[r])),
                             key=lambda r: (list(TITLES).index(r) if r in TITLES else len(TITLES), r))
        self.usual = {r: usual_cell(own[r]) for r in own}
        self.marks, rows = {}, {}
        for recommender in own:
            self._place(recommender, own[recommender], rows)
        self.rows = [rows[key] for key in sorted(rows, key=lambda k: (rows[k].place, k))]

    def _place(self, recommender, cells, rows):
        """Of each representation's cells the one most like the usual takes the plain row, others rows of theirs."""
        alike = {}
        for cell in cells:
            alike.setdefault((cell.embedding, cell.shuffled), []).append(cell)
        for (embedding, shuffled), cells in alike.items():
            differing = {id(c): departures(c.request, self.usual[recommender].request) for c in cells}
            cells.sort(key=lambda c: (not c.runs, len(differing[id(c)]), str(c.request)))
            name = embedding or ("none" if recommender in self.groups else recommender)
            name = LABELS.get(name, name)
            name = f"shuffled {name}" if shuffled else name
            for i, cell in enumerate(cells):
                words, label = readable(differing[id(cell)]), name
                if i:
                    label += f" ({title(recommender) + ': ' if recommender in self.groups else ''}{words or 'usual'})"
                elif words:
                    self.marks[id(cell)] = words
                row = rows.setdefault((name, label), Row(label, embedding, shuffled, bool(i)))
                row.cells[recommender] = cell

    def learns(self, recommender):
        """Whether it is trained, and so can do without content."""
        return "epochs" in self.usual[recommender].request


def title(recommender):
    return TITLES.get(recommender, recommender)


def usual_cell(cells):
    """A cell of the request that most representations share; among equals the nearest to the script's defaults."""
    variants = {}
    for cell in cells:
        known = variants.setdefault(str(cell.request), (cell, set()))[1]
        known.update([cell.embedding] if cell.runs and not cell.shuffled else [])
    if len(variants) == 1:
        return cells[0]
    return min(variants.values(), key=lambda v: (-len(v[1]), len(unlike_defaults(v[0])), str(v[0].request)))[0]


def readable(arguments):
    """{'neg_samples': 50, 'center': True, 'comment': 'x'} as 'neg samples 50, center, x'."""
    words = []
    for name, value in arguments.items():
        name = name.replace("_", " ")
        if isinstance(value, bool):
            words.append(name if value else f"no {name}")
        else:
            words.append(value if name == "comment" and value else f"{name} {'none' if value in ('', None) else value}")
    return ", ".join(words)


# --------------------------------------------------------------------------- tables

def combined(workdir, grid, part, values, columns):
    """Table of one part; its rows are those with a figure or a reason for having none."""
    marks, rows = {}, []
    for row in grid.rows:
        slots = [slot_of(grid, row, group, part, values, marks) for group in grid.groups or [None]]
        if any(slot.figures or slot.why for slot in slots):
            rows.append((row.label, slots))
    users = 0 if values.users is None else len(values.users)
    return Table(f"{part}: {users:,} users", [title(g) for g in grid.groups] or ["value"], columns, rows,
                 notes(grid, marks, timeless(workdir)))


def slot_of(grid, row, group, part, values, marks):
    """The slot of a row in a recommender's column; a row without representation is repeated in each column."""
    free = [cell for recommender, cell in row.cells.items() if recommender not in grid.groups]
    cell = row.cells.get(group, *free[:1]) if free else row.cells.get(group)
    if cell is None:
        return Slot(why=why_no_run(grid, row, group, part))
    if not cell.runs:
        return Slot(why=cell.missing)
    if not all(part in config.get("parts", []) for _, config in cell.runs):
        why = cell.runs[0][1].get("left_out", {}).get(part, "not made")
        return Slot(why=NO_COLD if part == "cold_test" else why)
    words = grid.marks.get(id(cell))
    letter = ascii_lowercase[len(marks) % 26] * (1 + len(marks) // 26)
    mark = marks.setdefault(words, letter) if words else ""
    rival = not free if grid.groups else cell.recommender != "chance"
    figures = values.of(cell)
    lacking = "" if figures else f"no {' or '.join(dict.fromkeys('@' + c.split('@')[1] for c in values.columns))}"
    return Slot(figures, lacking, mark, row.shuffled, rival and not row.shuffled and row.embedding != "oracle")


def why_no_run(grid, row, group, part):
    if row.extra or not row.embedding:
        return ""  # a row of another recommender's own
    needs, cold = capability(group)
    if part == "cold_test" and (not cold or row.embedding == "random"):
        return NO_COLD
    return "needs an embedding" if row.embedding == "random" and not grid.learns(group) else "no run"


def timeless(workdir):
    manifest = workdir / "dataset.json"
    return manifest.exists() and read_json(manifest).get("time") == "none"


def notes(grid, marks, timeless):
    """Sentences below a table: what the intervals are, what was asked of each recommender, what marks mean."""
    sentences = ["±: 95 % interval over users; under seeds the one over repeats (their number) with other seeds, which "
                 "for shuffled rows are other permutations"]
    free = [row.label for row in grid.rows if grid.groups and not set(row.cells) & set(grid.groups)]
    if free:
        sentences.append(f"{', '.join(free)}: without representation, the same under each recommender")
    for recommender in grid.groups:
        if differing := unlike_defaults(grid.usual[recommender]):
            sentences.append(f"{title(recommender)} was run with {readable(differing)}")
    for recommender in set(TITLES) - set(grid.groups) if grid.groups and timeless else ():
        if "order" in capability(recommender)[0]:
            sentences.append(f"{title(recommender)} needs an order, and this data set has no times (--order count)")
    return sentences + [f"({mark}) here with {words}" for words, mark in marks.items()]


def add_tests(table, reference, part, values):
    """Test the rows of a table against a cell, and say in a note how, or why not."""
    name, manifest = reference.runs[0]
    what = f"{name} (mean of {len(reference.runs)} seeds)" if len(reference.runs) > 1 else name
    if part not in manifest.get("parts", []):
        table.notes.append(f"not tested against {what}, which has no lists of {part}")
        return
    figures = values.of(reference)
    if lacking := [column for column in table.columns if column not in figures]:
        raise WorkError(f"{name} has no {' or '.join(lacking)} of {part} to test against; python metrics.py {name} "
                        f"--k {' '.join(dict.fromkeys(c.split('@')[1] for c in lacking))} evaluates it")
    paired.mark_table(table, figures)
    table.notes.append(f"↑ ↓: above or below {what} in a paired t test and a paired bootstrap over users, both with "
                       f"Holm's p < {paired.LEVEL:g} over the rows of a metric; shuffled rows are not tested")


def published(workdir, grid, recommender, part, values, columns):
    """One recommender's figures as the publication has them, a row per backend; None without any."""
    import pandas as pd
    rows = []
    for row in grid.rows:
        cell = row.cells.get(recommender)
        if row.embedding and not row.shuffled and cell and cell.runs and part in cell.runs[0][1].get("parts", []):
            figures = values.of(cell)
            rows.append({"model": row.label, "size": size_of(workdir, cell),
                         **{c: figures[c].mean for c in columns if c in figures}})
    return pd.DataFrame(rows) if rows else None


def size_of(workdir, cell):
    """Dimensions of a cell's embedding, out of its manifest or the embedding's own; None where neither says."""
    manifest = Path(workdir) / "embeddings" / f"{cell.embedding}.json"
    provenance = read_json(manifest) if manifest.exists() else {}
    return cell.runs[0][1].get("dim") or provenance.get("dim")


# --------------------------------------------------------------------------- command line

def build_parser():
    parser = cli.Parser(prog="table.py", description=__doc__)
    parser.add_argument("--k", type=cli.positive, nargs="+", default=[50], metavar="K",
                        help="list lengths (default 50)")
    parser.add_argument("--metrics", nargs="+", choices=CHOICES, default=["HitRate", "Recall", "NDCG"], metavar="NAME",
                        help=f"metrics to report (choices: {', '.join(CHOICES)}; default HitRate Recall NDCG)")
    parser.add_argument("--parts", nargs="+", choices=runs.PART_ORDER, default=["test", "cold_test"], metavar="PART",
                        help=f"split parts to report (choices: {', '.join(runs.PART_ORDER)}; default test cold_test, "
                             "as val is for choosing)")
    parser.add_argument("--against", metavar="RUN",
                        help="run that all rows are tested against, with its repeats and paired by user: its name, or "
                             "the beginning of its name (default: no tests)")
    cli.common_flags(parser, seed=False, overwrite=False)
    return parser


def main(argv=None):
    args = build_parser().parse_args(argv)
    workdir = cli.workspace(args)
    cells, left = collect(workdir)
    if not cells:
        raise UsageError(f"no runs in {workdir / 'runs'}; run a recommender first, for example python knn.py")
    reference = reference_of(cells, left, args.against) if args.against else None
    available = {part for cell in cells for _, config in cell.runs for part in config.get("parts", [])}
    parts = [part for part in dict.fromkeys(args.parts) if part in available]
    if not parts:
        raise WorkError(f"none of the {len(cells)} requests in {workdir / 'runs'} has finished with lists of "
                        f"{' or '.join(args.parts)}" + (f"; left out: {reasons(left)}; run them again" if left else ""))
    if reference and not {*parts} & {*reference.runs[0][1].get("parts", [])}:
        raise UsageError(f"--against {args.against} has no lists of {' or '.join(parts)}; it has "
                         f"{', '.join(reference.runs[0][1].get('parts', [])) or 'none'}")
    grid = Grid(cells)
    columns = [f"{metric}@{k}" for k in dict.fromkeys(args.k) for metric in dict.fromkeys(args.metrics)]
    for part in parts:
        write_part(workdir, grid, part, columns, [f"{m}@{k}" for k in dict.fromkeys(args.k) for m in PUBLISHED_METRICS],
                   reference)
    if left:
        print(f"left out: {reasons(left)}", file=sys.stderr)


def reasons(left):
    """[(run, why it is left out)] as text."""
    return ", ".join(f"{name} ({why})" for name, why in left)


def reference_of(cells, left, name):
    """The cell that --against names; UsageError where it is unknown, ambiguous or shuffled."""
    cell = cell_named(cells, left, name)
    if cell.shuffled:
        raise UsageError(f"--against {name} is shuffled: each repeat is one permutation for all users, so users are no "
                         "sample of it; read the interval over permutations instead")
    return cell


def write_part(workdir, grid, part, columns, published_columns, reference):
    """Write all tables of one part and print the combined one."""
    values = Values(workdir, part, dict.fromkeys([*columns, *published_columns]))
    table = combined(workdir, grid, part, values, columns)
    if not any(c in slot.figures for _, slots in table.rows for slot in slots for c in columns):
        ks = " ".join(map(str, sorted(values.lengths | {int(c.split("@")[1]) for c in columns})))
        raise WorkError(f"no run has {' or '.join(columns)} of {part}; python metrics.py --k {ks} evaluates them")
    if reference:
        add_tests(table, reference, part, values)
    folder, text = workdir / "tables", render.markdown(table)
    for recommender, stem in PUBLISHED.items():
        frame = published(workdir, grid, recommender, part, values, published_columns)
        if frame is not None:
            write_report_csv(folder / f"{stem}{'' if part == 'test' else f'_{part}'}.csv", frame)
    write_report_csv(folder / f"{part}.csv", render.frame(table))
    write_text(folder / f"{part}.tex", render.latex(table))
    write_text(folder / f"{part}.md", text)
    print(text, flush=True)


if __name__ == "__main__":
    cli.run(main)
