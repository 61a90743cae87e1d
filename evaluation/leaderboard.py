"""The rows of a table: a method with a representation each, in blocks, with its control, its worth and its tests.

A method is a recommender under its name in the literature (harness/registry.py). The blocks are

    controls          chance and popularity
    without content   methods of the plays alone, and those that can do without content (ID embeddings)
    with content      an embedding, or metadata; each beside its control, the same vectors on the wrong tracks
    mixtures          runs built on the lists of others, without an embedding of their own; what they mix is named as
                      their representation

Runs that differ by the seed alone are one row; any other difference makes a row of its own. Of the rows of one method
and representation the plain one is that whose arguments are the method's usual ones; the others name what differs.
Where a method's rows differ by the kind of fusion, every row names its own.
Within a block the row that is best on val, metric by metric, is what all others are compared with over users, and seeds
where there are several, each once (many-to-one), p values corrected within block and metric. Val decides, as the best
of a test is the luckiest, too, and in the cold test cold_val; where no run has lists of that part (most protocols have
no cold_val), and in all_test, which has no val of its own, the part itself decides.
"""
import re
from dataclasses import dataclass, field

import numpy as np

from evaluation import crossed, provenance
from evaluation import paired_tests as paired
from evaluation.results import repeat_numbers, sources_of, unlike_defaults, val_means
from evaluation.worth import worth_of, worth_of_means
from harness import registry
from harness.run_files import COLD_PARTS
from harness.runs import departures

BLOCKS = ("controls", "without content", "with content", "mixtures")
CONTROLS = ("chance", "popularity")
TRUTH = "oracle"                 # the embedding that is the ground truth of a generated world: an upper reference
FUSING = ("shallow", "bert4rec", "sasrec", "two_tower")
OF_FUSION = ("fusion", "item_freeze", "delta_norm")    # arguments that the name of a kind of fusion stands for
LABELS = {"random": "ID embeddings"}
NAMED_RUN = re.compile(r"_s(?:eed-)?\d+(?:_.*)?$")    # of a run's name: its seed and what follows
CHOSEN_ON = {"test": "val", "cold_test": "cold_val"}   # the part that decides which row of a test part is best
RISING = ("HitRate", "MRR", "Precision", "Recall", "NDCG", "MAP", "Coverage",  # more is better
          "SubsetAccuracy", "PointAccuracy", "RatioNDCG", "RepeatRecall")


@dataclass
class Row:
    """A method with a representation. figures, controls, worth, tests, against: by column."""
    block: str
    recommender: str
    method: str
    representation: str
    changed: str                     # arguments unlike those of the plain row of this representation
    unusual: str                     # in a plain row: arguments unlike the method's usual ones
    cell: object                     # results.Cell, None where there is only the control
    control: object = None           # the Cell of its control, None where there is none
    figures: dict = field(default_factory=dict)     # results.Figure
    controls: dict = field(default_factory=dict)    # results.Figure of the control
    worth: dict = field(default_factory=dict)       # worth.Worth
    best: set = field(default_factory=set)          # columns in which it is what its block is compared with
    tests: dict = field(default_factory=dict)       # paired.Paired against the best of the block
    against: dict = field(default_factory=dict)     # paired.Paired against one run, or "reference"

    @property
    def label(self):
        """Representation and what differs, as shown: 'mfcc (center)'."""
        return " ".join(filter(None, [self.representation, f"({self.changed})" if self.changed else ""]))

    @property
    def is_rival(self):
        """Whether it may be the best of its block: a row with figures that is neither a floor nor the truth."""
        return bool(self.figures) and self.block != BLOCKS[0] and self.cell.embedding != TRUTH


@dataclass
class Leaderboard:
    """A table of one part. rows: sorted, block by block; head: provenance.head; cannot: methods that cannot rank it."""
    part: str
    columns: list
    rows: list
    head: dict
    cannot: list = field(default_factory=list)
    correction: str = "holm"
    against: str = ""                # what the rows are tested against besides, '' without
    chosen_on: str = "val"
    on_itself: set = field(default_factory=set)   # (block, column) where no row has val, and so the part itself chose

    def best_on(self, block, column):
        """The part on which the best row of a block was chosen."""
        return self.part if (block, column) in self.on_itself else self.chosen_on

    def blocks(self):
        """[(title, [Row])] of the blocks that have rows."""
        return [(title, rows) for title in BLOCKS if (rows := [row for row in self.rows if row.block == title])]


# --------------------------------------------------------------------------- which rows

def rows_of(cells):
    """A Row without figures for each plain cell and for each control without one, unsorted."""
    own, rows = {}, []
    for cell in cells:
        own.setdefault((cell.recommender, title_of(cell)), []).append(cell)
    for (recommender, _), several in own.items():
        usual = usual_cell(several)
        plain = [cell for cell in several if not cell.shuffled]
        controls = [cell for cell in several if cell.shuffled and cell.runs]
        alike = {}
        for cell in plain:
            alike.setdefault((cell.embedding, mixture_of(cell)), []).append(cell)
        fused = len({fusion_of(cell) for cell in plain if cell.runs} - {""}) > 1
        for cells_of_one in alike.values():
            rows += _rows_of_one(recommender, cells_of_one, usual, controls, fused)
        rows += [_row(recommender, None, cell, usual, fusion_of(cell) if fused else "", control=cell)
                 for cell in controls]   # those that are left
    return rows


def fusion_of(cell):
    """How content enters a trained model, frozen, start, delta or concat; '' where the method has no such choice."""
    if representation_of(cell) in ("", *LABELS.values()) or cell.recommender not in FUSING:
        return ""
    return cell.request.get("fusion") or {0: "start"}.get(cell.request.get("item_freeze"), "frozen")


def _rows_of_one(recommender, cells, usual, controls, fused):
    """Rows of one method and representation, the plain one first; takes their controls out of the list."""
    cells = sorted(cells, key=lambda c: (not c.runs, len(departures(c.request, usual.request)), str(c.request)))
    rows, kinds = [], set()
    for cell in cells:
        if not cell.runs:
            continue
        kind = fusion_of(cell) if fused else ""
        control = control_of(cell, cells, controls)
        if control:
            controls.remove(control)
        rows.append(_row(recommender, cell, cell, usual, kind, control, plain=kind not in kinds))
        kinds.add(kind)
    return rows


def _row(recommender, cell, shown, usual, kind="", control=None, plain=True):
    """kind: of fusion where the rows of the method differ by it: then each is named by its own."""
    differ = departures(shown.request, usual.request)
    named = (*(OF_FUSION if kind else ()), *(("sources",) if mixture_of(shown) else ()))
    changed, unusual = readable({k: v for k, v in differ.items() if k not in named}), ""
    if kind:
        changed = f"fusion {kind}" + (f", {changed}" if changed and not plain else "")
        return Row(block_of(shown), recommender, title_of(shown), representation_of(shown), changed, "",
                   cell, control)
    if not plain:
        changed = changed or readable(differ) or "usual arguments"
    elif cell is not None:
        changed, unusual = "", changed
    return Row(block_of(shown), recommender, title_of(shown), representation_of(shown), changed, unusual, cell, control)


def control_of(cell, siblings, controls):
    """The control of a cell: the same arguments, or those but for the comment where that leaves one; None without.

    It has read the same runs: with the factors of another run the two differ by more than the order of the tracks.
    """
    def bare(request):
        return {k: v for k, v in request.items() if k != "comment"}
    mine = [c for c in controls if c.embedding == cell.embedding and sources_of(c) == sources_of(cell)]
    exact = [c for c in mine if c.request == cell.request]
    if exact:
        return exact[0]
    near = [c for c in mine if bare(c.request) == bare(cell.request)]
    rivals = [c for c in siblings if c.runs and bare(c.request) == bare(cell.request)]
    return near[0] if len(near) == len(rivals) == 1 else None


def block_of(cell):
    """The block of a cell."""
    if cell.recommender in CONTROLS:
        return BLOCKS[0]
    if mixture_of(cell):
        return BLOCKS[3]
    return BLOCKS[2] if representation_of(cell) not in ("", *LABELS.values()) else BLOCKS[1]


def title_of(cell):
    """What the literature calls the method: that of the recommender, or of the model within it."""
    return registry.title(cell.recommender, cell.request)


def mixture_of(cell):
    """What a run that is built on the lists of others mixes: 'popularity + content-knn tags + elsa'; '' of others.

    The sources of a method that maps content onto their factors are no mixture.
    """
    sources = next((config["sources"] for _, config in cell.runs if config.get("sources")), None)
    if not sources or "embedding" in registry.capability(cell.recommender)[0]:
        return ""
    return " + ".join(NAMED_RUN.sub("", name).replace("_", " ") for name in sources.values())


def representation_of(cell):
    """How a table calls what a method knows of the tracks: an embedding's name, metadata, what it mixes, or ''."""
    if mixture := mixture_of(cell):
        return mixture
    name = LABELS.get(cell.embedding, cell.embedding or "")
    if "features" in registry.capability(cell.recommender)[0] or cell.request.get("fields"):
        return f"{name}+metadata" if name else "metadata"
    return name


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


# --------------------------------------------------------------------------- figures, worth, tests

def leaderboard(workdir, cells, part, values, columns, correction="holm", reference=None, segment=""):
    """The Leaderboard of one part; values: results.Values; reference: a Cell that all rows are tested against, too.

    segment: what the head calls the pairs of a cut, '' for the whole part
    Rows without a figure are left out: those of runs that have no lists of the part.
    """
    rows, cannot = [], set()
    for row in rows_of(cells):
        shown = row.cell or row.control
        if not _has(shown, part):
            name = f"{row.method} {row.representation}".strip()
            cannot |= {name} if part in COLD_PARTS and cannot_rank_cold(shown) else set()
            continue
        row.figures = _asked(values.of(row.cell), columns) if row.cell else {}
        if row.control and _has(row.control, part):
            row.controls = _asked(values.of(row.control), columns)
            row.worth = worth_by_column(row) if row.cell else {}
        rows.append(row)
    board = Leaderboard(part, list(columns), in_order(rows, columns[0]), {}, sorted(cannot), correction)
    shown = [config for row in rows for cell in (row.cell, row.control) if cell for _, config in cell.runs]
    board.head = provenance.head(workdir, part, shown, 0 if values.users is None else len(values.users))
    board.head |= {"segment": segment} if segment else {}
    choose_best(workdir, board)
    compare_rows(board, (reference, values.of(reference)) if reference else None)
    return board


def _has(cell, part):
    return all(part in config.get("parts", []) for _, config in cell.runs)


def _asked(figures, columns):
    return {column: figures[column] for column in columns if column in figures}


def cannot_rank_cold(cell):
    """Whether a cell's method can rank hot items only: it declares so, or has learned ID embeddings."""
    return not registry.capability(cell.recommender)[1] or cell.embedding == "random"


def repeats_paired(row):
    """Whether the permutations of a row's control have the seeds of its own runs, and the order that pairs them."""
    ours, theirs = repeat_numbers(row.cell), repeat_numbers(row.control)
    paired_seeds = len(ours) > 1 and len(set(ours)) == len(ours) and sorted(map(str, ours)) == sorted(map(str, theirs))
    return paired_seeds, [theirs.index(seed) for seed in ours] if paired_seeds else slice(None)


def ran_once(cell):
    """Whether a cell is one run of a method in which something is random, and so shows no spread over seeds."""
    return len(cell.runs) == 1 and not registry.deterministic(cell.recommender, cell.request)


def worth_by_column(row):
    """{column: Worth} of a row over its control; each permutation is paired with the seed of the same number."""
    paired_seeds, order = repeats_paired(row)
    worth = {}
    for column, figure in row.figures.items():
        control = row.controls.get(column)
        if control is None:
            continue
        if figure.table is None or control.table is None:
            worth[column] = worth_of_means(figure.means, control.means[order], paired_seeds)
        else:
            worth[column] = worth_of(figure.table, control.table[order], paired_seeds)
    return worth


def in_order(rows, column):
    """Rows by block and by the first metric; with content the method with the best row first, its rows together."""
    def mean(row):
        figure = row.figures.get(column)
        return -np.inf if figure is None or np.isnan(figure.mean) else figure.mean
    tops = {}
    for row in rows:
        if row.is_rival:
            key = row.block, row.method
            tops[key] = max(tops.get(key, -np.inf), mean(row))

    def key(row):
        group = (-tops.get((row.block, row.method), -np.inf), row.method) if row.block == "with content" else ()
        truth = row.cell is not None and row.cell.embedding == TRUTH
        return (BLOCKS.index(row.block), *group, truth, -mean(row), row.method, row.label)
    return sorted(rows, key=key)


def choose_best(workdir, board):
    """Mark in each block and column the row that is best on val, where at least two compete and differ.

    Where no row of a block has the metric on the part that CHOSEN_ON names, the part itself decides, and
    board.on_itself says so.
    """
    chosen_on = CHOSEN_ON.get(board.part, board.part)
    shown = [config for row in board.rows if row.cell for _, config in row.cell.runs]
    if board.part == "cold_test" and not any(chosen_on in config.get("parts", []) for config in shown):
        chosen_on = board.part
    board.chosen_on = chosen_on

    def on_val(row):
        itself = {column: figure.mean for column, figure in row.figures.items()}
        return itself if chosen_on == board.part else val_means(workdir, row.cell, board.columns, chosen_on)
    val = {id(row): on_val(row) for row in board.rows if row.is_rival}
    for block, rows in board.blocks():
        for column in board.columns:
            rivals = [row for row in rows if row.is_rival and column in row.figures]
            means = [row.figures[column].mean for row in rivals]
            if column.split("@")[0] not in RISING or len(set(means)) < 2:
                continue
            known = np.array([val[id(row)][column] for row in rivals])
            if np.isnan(known).all():
                known = np.array(means)
                board.on_itself |= {(block, column)} if chosen_on != board.part else set()
            rivals[int(np.nanargmax(known))].best.add(column)


def compare_rows(board, reference=None):
    """Fill the tests of all rows: against the best of their block, and against a reference (Cell, {column: Figure}).

    Controls on the wrong tracks are not tested: each repeat is one permutation, shared by all users. Metrics that
    belong to all users together are not tested, either. Of one user nothing is tested within blocks or segments;
    WorkError where a reference asks for it on the whole part.
    """
    jobs, families, users = [], {}, board.head["users"]
    versus, compared = reference or (None, None)

    def add(target, row, column, cell, other, family):
        own = row.figures[column]
        if own.each is not None and other.each is not None:
            jobs.append((target, column, own.each, other.each, families.setdefault(family, len(families)),
                         terms_of(row.cell, own, cell, other)))
    for title, rows in board.blocks():
        for column in board.columns:
            best = next((row for row in rows if column in row.best), None)
            for row in rows:
                if best is not None and row is not best and row.is_rival and column in row.figures and users > 1:
                    add(row.tests, row, column, best.cell, best.figures[column], (title, column))
                if compared is not None and column in row.figures and (users > 1 or "segment" not in board.head):
                    if row.figures[column] is compared[column]:
                        row.against[column] = "reference"
                    else:
                        add(row.against, row, column, versus, compared[column], ("", column))
    if jobs:
        results = paired.compare(np.stack([job[2] for job in jobs]), np.stack([job[3] for job in jobs]),
                                 families=[job[4] for job in jobs], correction=board.correction,
                                 repeats=[job[5] for job in jobs])
        for (target, column, *_), result in zip(jobs, results, strict=True):
            target[column] = result


def terms_of(cell, figure, other_cell, other):
    """The difference of two cells as crossed.Terms, by which equal seeds are paired; None where each ran once."""
    if figure.repeats == other.repeats == 1:
        return None
    return [crossed.Term(1, figure.table, tuple(repeat_numbers(cell)), once=ran_once(cell)),
            crossed.Term(-1, other.table, tuple(repeat_numbers(other_cell)), once=ran_once(other_cell))]
