"""Who profits? What content is worth in each segment of a cut, and whether the segments differ (table.py --by).

An interval beside each segment does not say that two segments differ; the test of interaction.py does. Its p values
are corrected over the rows of the table.
"""
from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from evaluation import paired_tests
from evaluation.cuts import ARTIST
from evaluation.interaction import interaction
from evaluation.leaderboard import repeats_paired
from evaluation.render import escape_markdown, with_half

if TYPE_CHECKING:
    import pandas as pd

    from evaluation.leaderboard import Leaderboard


def families(cut: str, names: list[str]) -> list[list[str]]:
    """The segments that divide the pairs between them, each family at least two: the artist's cut makes two."""
    known = [[name for name in names if name in ARTIST[:2]], [name for name in names if name in ARTIST[2:]]]
    return [family for family in (known if cut == "artist" else [list(names)]) if len(family) > 1]


def who_profits(boards: dict[str, tuple[Leaderboard, np.ndarray]], cut: str) -> list[dict]:
    """Of every row with a control, whether its worth in the first metric differs between segments.

    boards: {segment: (its Leaderboard, the ids of its users)}. A dict for each row and family of segments: block,
    method, representation (label), worth {segment: Worth}, test (Interaction).
    """
    results = []
    for family in families(cut, list(boards)):
        first = boards[family[0]][0]
        for row in first.rows:
            rows = [_same(boards[name][0], row) for name in family]
            worths = [other.worth.get(first.columns[0]) if other else None for other in rows]
            if None not in worths:
                each, seeds = zip(*(_each(other, first.columns[0]) for other in rows), strict=True)
                controls = [other.controls[first.columns[0]].table for other in rows]
                test = interaction([boards[name][1] for name in family], each, None if seeds[0] is None else seeds,
                                   controls if seeds[0] is None else None)
                if len(controls[0]) < 3:        # too few to say how far orders are apart, the true one among them
                    test = replace(test, p=np.nan)
                results.append({"method": row.method, "representation": row.label, "test": test,
                                "worth": dict(zip(family, worths, strict=True))})
    return results


def _same(board, row):
    return next((other for other in board.rows if other.cell is row.cell and other.control is row.control), None)


def _each(row, column):
    """(value minus control of each permutation and user, float64 (P, U); the value's own seeds (S, U) where these are
    not the permutations', else None)."""
    value, control = row.figures[column].table, row.controls[column].table
    paired, order = repeats_paired(row)
    return (value if paired else value.mean(axis=0)) - control[order], None if paired else value


# --------------------------------------------------------------------------- texts

def corrected(results: list[dict], correction: str) -> list[float]:
    """p of each result, corrected over all that have one."""
    p = np.array([result["test"].p for result in results])
    known = np.isfinite(p)
    p[known] = paired_tests.corrected(p[known], correction)
    return p.tolist()


def markdown(results: list[dict], cut: str, column: str, correction: str) -> str:
    """A table for each family of segments, '' without results."""
    texts = []
    for family in dict.fromkeys(tuple(result["worth"]) for result in results):
        rows = [result for result in results if tuple(result["worth"]) == family]
        header = ["method", "representation", *family, "p of equal worth"]
        lines = [header, ["---"] * len(header)]
        for row, p in zip(rows, corrected(rows, correction), strict=True):
            lines.append([row["method"], row["representation"],
                          *(with_half(f"{worth.difference:+.4f}", worth.half) for worth in row["worth"].values()),
                          "" if np.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"])
        texts += [f"#### What content is worth by {cut.replace('-', ' ')}, {column}", "",
                  *("| " + " | ".join(map(escape_markdown, line)) + " |" for line in lines), "",
                  "- p: that the worth is the same in all segments (Wald test over users and permutations, corrected "
                  f"over the rows: {paired_tests.CORRECTIONS[correction]}); an interval beside one segment does not "
                  "say that it differs from another",
                  ""]
    return "\n".join(texts)


def frame(results: list[dict], cut: str, column: str, correction: str) -> pd.DataFrame:
    """A line for each row and segment, with the test over the row's segments."""
    import pandas as pd
    lines = []
    for family in dict.fromkeys(tuple(result["worth"]) for result in results):
        rows = [result for result in results if tuple(result["worth"]) == family]
        for row, p in zip(rows, corrected(rows, correction), strict=True):
            test = row["test"]
            lines += [{"cut": cut, "segment": name, "method": row["method"], "representation": row["representation"],
                       "metric": column, "worth": worth.difference, "half_worth": worth.half, "users": worth.users,
                       "permutations": worth.permutations, "wald_f": test.statistic, "q": test.q,
                       "freedom": test.freedom, "p": test.p, "p_corrected": p, "correction": correction}
                      for name, worth in row["worth"].items()]
    return pd.DataFrame(lines)
