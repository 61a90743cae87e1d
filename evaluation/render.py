"""A table of figures as Markdown, LaTeX and csv, for table.py; independent of runs and files.

Markdown and LaTeX show a panel for each metric, with a column for each recommender: the mean with its interval
over users, and beside it the interval over seeds. The csv has all metrics in one row, as plain numbers.
"""
import re
from dataclasses import dataclass, field

import numpy as np

LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
         "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "<": r"$<$", ">": r"$>$",
         "↑": r"$\uparrow$", "↓": r"$\downarrow$"}
TESTS = ("difference", "low", "high", "p_t", "p_bootstrap", "effect")   # of paired.Paired
RISING = ("HitRate", "MRR", "Precision", "Recall", "NDCG", "MAP", "Coverage",  # more is better
          "SubsetAccuracy", "PointAccuracy")


@dataclass
class Slot:
    """One place of the table: figures by column (results.Figure), or why there are none; '' where none is expected."""
    figures: dict = field(default_factory=dict)
    why: str = ""
    mark: str = ""            # of a note on this place
    shuffled: bool = False    # repeats are permutations: only the interval over them means anything
    candidate: bool = False   # may be the best of its column


@dataclass
class Table:
    title: str
    groups: list      # titles of the recommenders, one for each slot of a row
    columns: list     # `Metric@k`
    rows: list        # [(label, [Slot, ...])]
    notes: list       # sentences to stand below


def best(table, column, group):
    """The largest mean of the candidates of a column; NaN where all are equal or larger is not better."""
    means = [slots[group].figures[column].mean for _, slots in table.rows
             if slots[group].candidate and column in slots[group].figures]
    contest = column.split("@")[0] in RISING and len(set(means)) > 1
    return max(means) if contest else np.nan


def has_repeats(table, group):
    return any(f.repeats > 1 for _, slots in table.rows for f in slots[group].figures.values())


def texts(slot, column, top, bold):
    """(value, interval over seeds) of a slot as texts."""
    if column not in slot.figures:
        return slot.why or (f"no @{column.split('@')[1]}" if slot.figures else ""), ""
    figure = slot.figures[column]
    value = f"{figure.mean:.4f}"
    if figure.mean == top and slot.candidate:
        value = bold(value)
    if np.isfinite(figure.users) and not slot.shuffled:
        value += f" ±{figure.users:.4f}"
    if figure.mark:
        value += f" {figure.mark}"
    seeds = f"±{figure.seeds:.4f} ({figure.repeats})" if figure.repeats > 1 else f"({figure.repeats})"
    return value + (f" ({slot.mark})" if slot.mark else ""), seeds if figure.repeats > 1 or slot.shuffled else ""


def panel(table, column, bold, escape):
    """Header and rows of one metric's panel, as lists of texts."""
    seeds = [has_repeats(table, g) for g in range(len(table.groups))]
    header, rows = [""], []
    for group, title in enumerate(table.groups):
        header += [escape(title), "seeds"] if seeds[group] else [escape(title)]
    tops = [best(table, column, g) for g in range(len(table.groups))]
    for label, slots in table.rows:
        row = [escape(label)]
        for group, slot in enumerate(slots):
            pair = texts(slot, column, tops[group], lambda text: f"\0{text}\1")
            row += [escape(text).replace("\0", bold[0]).replace("\1", bold[1]) for text in pair[:1 + seeds[group]]]
        rows.append(row)
    return header, rows


def escape_markdown(text):
    """Text as it should read in a Markdown table: no markup, no new cell, one line."""
    return re.sub(r"([\\`*|<\[\]])|((?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))", r"\\\g<0>", " ".join(str(text).split()))


def escape_latex(text):
    return "".join(LATEX.get(c, c) for c in " ".join(str(text).split()))


def markdown(table):
    """The table as Markdown, aligned so that it also reads as plain text."""
    lines = [f"### {escape_markdown(table.title)}", ""]
    for column in table.columns:
        header, rows = panel(table, column, ("**", "**"), escape_markdown)
        header[0] = column
        width = [max(3, *(len(row[i]) for row in [header, *rows])) for i in range(len(header))]
        lines += ["| " + " | ".join(text.ljust(w) for text, w in zip(row, width, strict=True)) + " |"
                  for row in (header, ["-" * w for w in width], *rows)]
        lines.append("")
    lines += [f"- {escape_markdown(note)}" for note in table.notes]
    return "\n".join(lines) + "\n"


def latex(table):
    """The table as a LaTeX tabular (booktabs), a panel for each metric; notes as comments.

    Written here, as pandas' Styler would make the interval bold with the mean, leave ± < > and the arrows as they are
    (pdflatex stops at an arrow), need \\multirow instead of panels, and end them with a line below the last.
    """
    lines, wide = ["% " + " ".join(line.split()) for line in [table.title, *table.notes]], 0
    for column in table.columns:
        header, rows = panel(table, column, (r"\textbf{", "}"), escape_latex)
        if not wide:
            wide = len(header)
            lines += [rf"\begin{{tabular}}{{l{'r' * (wide - 1)}}}", r"\toprule", " & ".join(header) + r" \\"]
        lines += [r"\midrule", rf"\multicolumn{{{wide}}}{{l}}{{\emph{{{escape_latex(column)}}}}} \\"]
        lines += [" & ".join(row) + r" \\" for row in rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def frame(table):
    """The table as numbers: for each recommender and metric the mean and the half-widths over users and seeds.

    Where figures were tested (paired_tests.py), the difference to the reference, its interval, both corrected p and
    the effect size follow.
    """
    import pandas as pd
    rows = []
    tested = any(f.against for _, slots in table.rows for slot in slots for f in slot.figures.values())
    for label, slots in table.rows:
        row, missing = {"representation": label}, []
        for title, slot in zip(table.groups, slots, strict=True):
            if slot.why:
                missing.append(f"{title}: {slot.why}")
            for column in table.columns:
                figure, name = slot.figures.get(column), f"{title} {column}"
                row[name] = figure.mean if figure else np.nan
                row[f"{name} users"] = figure.users if figure and not slot.shuffled else np.nan
                row[f"{name} seeds"] = figure.seeds if figure else np.nan
                against = figure.against if figure else None
                for word in TESTS if tested else ():
                    row[f"{name} {word.replace('_', ' ')}"] = getattr(against, word) if against else np.nan
            row[f"{title} repeats"] = max((f.repeats for f in slot.figures.values()), default=0)
        rows.append(row | {"missing": "; ".join(missing)})
    return pd.DataFrame(rows)
