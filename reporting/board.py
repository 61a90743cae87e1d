"""Leaderboards as plain values: every row with its figures, intervals, control and worth, in all metrics there are."""
from dataclasses import replace

import numpy as np

from evaluation import render
from evaluation.files import again, read_means
from evaluation.leaderboard import leaderboard
from evaluation.results import Values

FIRST = "NDCG@10"     # decides the order of the rows, or the first metric that there is


def columns_in(workdir, cells, part):
    """(`Metric@k` of the part that some run has figures of, shortest lists first; names of runs without figures).

    FIRST comes first where it is among them.
    """
    columns, without = {}, []
    for cell in cells:
        for name, config in cell.runs:
            if part not in config.get("parts", []):
                continue
            path = workdir / "metrics" / f"{name}_{part}.csv"
            if not (path.exists() and path.with_suffix(".pqt").exists()):
                without.append(name)
            else:
                columns.update(dict.fromkeys(read_means(path, again(workdir, name, part))))
    order = sorted(columns, key=lambda c: (c != FIRST, int(c.split("@")[1]), list(columns).index(c)))
    return order, without


def measured(cells, without):
    """The cells without the runs that have no figures, and without cells that have no other."""
    kept = [replace(cell, runs=[run for run in cell.runs if run[0] not in without]) for cell in cells]
    return [new for new, cell in zip(kept, cells, strict=True) if new.runs or not cell.runs]


def boards(workdir, cells, parts):
    """{part: evaluation.leaderboard.Leaderboard} of the parts that have figures, and sentences about what is left out.

    WorkError where the runs of a part were evaluated on different users.
    """
    made, notes = {}, []
    for part in parts:
        columns, without = columns_in(workdir, cells, part)
        if without:
            notes.append(f"runs without figures of {part}: {len(without)} ({', '.join(without[:3])}"
                         f"{', ...' if len(without) > 3 else ''}); python metrics.py makes them")
        usable = measured(cells, without)
        if columns and usable:
            board = leaderboard(workdir, usable, part, Values(workdir, part, columns), columns)
            if board.rows:
                made[part] = board
    return made, notes


def plain(board):
    """A leaderboard as values for json: head, columns, notes and rows; `runs` of a row are the names of its runs."""
    return {"title": render.title(board), "columns": board.columns, "notes": render.notes(board),
            "rows": [_row(row) for row in board.rows]}


def _row(row):
    return {"block": row.block, "method": row.method, "representation": row.representation,
            "changed": row.changed, "unusual": row.unusual, "figures": {c: _figure(row, c) for c in row.figures},
            "control": {c: [_number(f.mean), f.repeats] for c, f in row.controls.items()},
            "worth": {c: [_number(w.difference), _number(w.half), w.over] for c, w in row.worth.items()},
            "content": row.block == "with content",
            "runs": [name for name, _ in row.cell.runs] if row.cell else [],
            "control_runs": [name for name, _ in row.control.runs] if row.control else []}


def _figure(row, column):
    """[mean, half-width or null, 'best', 'near' or '', seeds]"""
    figure, test = row.figures[column], row.tests.get(column)
    mark = "best" if column in row.best else "near" if test is not None and test.undecided else ""
    return [_number(figure.mean), _number(figure.users), mark, figure.repeats]


def _number(value):
    """A float of six significant digits, None for NaN."""
    return float(f"{value:.6g}") if np.isfinite(value) else None
