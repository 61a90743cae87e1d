"""A leaderboard as Markdown, LaTeX and a tidy csv; independent of runs and files.

Markdown and LaTeX have a row for each method and representation, block by block, and a column for each metric; beside
the first metric (or each) stand the control and what the content is worth. The csv has a line for each row and metric.
"""
import re

import numpy as np

from evaluation import provenance
from evaluation.leaderboard import readable
from evaluation.paired_tests import CORRECTIONS, LEVEL
from evaluation.results import unlike_defaults
from evaluation.worth import PERMUTATIONS_ONLY, USERS_ONLY

LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_\allowbreak{}",
         "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "<": r"$<$",
         ">": r"$>$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "°": r"$^\circ$", "†": r"$^\dagger$", "ʳ": r"$^r$",
         "≥": r"$\ge$", "‡": r"$^\ddagger$", "−": "$-$"}
CHANGED = "‡"                 # made by code that has changed since
NEAR, UNUSUAL = "°", "†"      # not distinguishable from the best; other arguments than the method's usual ones
NO_CONTROL = "no control"
TESTS = ("difference", "low", "high", "p_t", "p_bootstrap", "effect", "over_seeds")   # of paired.Paired


# --------------------------------------------------------------------------- texts of places

def value_text(row, column):
    """(value, interval, marks) of a row in a column as texts; ('no @50', '', '') where it was not evaluated there."""
    figure = row.figures.get(column)
    if figure is None:
        return ("no run" if row.cell is None else f"no @{column.split('@')[1]}"), "", ""
    test, against = row.tests.get(column), row.against.get(column)
    marks = NEAR if test is not None and test.undecided else ""
    marks += f" {against if isinstance(against, str) else against.mark}" if against else ""
    return number(figure.mean), f"±{number(figure.users)}" if np.isfinite(figure.users) else "", marks.rstrip()


def number(value):
    return f"{value:.4f}"


def with_half(text, half):
    """A figure's text with the half-width of its interval, without where there is none."""
    return f"{text} ±{number(half)}" if np.isfinite(half) else text


def control_text(row, column):
    """(mean, number of permutations) of a row's control as texts; (no control, '') where content has none."""
    if row.block != "with content":
        return "", ""
    figure = row.controls.get(column)
    if row.control is None:
        return NO_CONTROL, ""
    return (number(figure.mean), f"({figure.repeats})") if figure else (f"no @{column.split('@')[1]}", "")


def worth_text(row, column):
    """(difference with its sign, interval) of a row to its control as texts; empty without both."""
    worth = row.worth.get(column)
    if worth is None:
        return "", ""
    return f"{worth.difference:+.4f}", f"±{number(worth.half)}" if np.isfinite(worth.half) else ""


def seeds_text(row, column):
    figure = row.figures.get(column)
    if figure is None or figure.repeats < 2:
        return ""
    return f"{figure.repeats}: ±{number(figure.seeds)}" if np.isfinite(figure.seeds) else str(figure.repeats)


def with_worth(board, every):
    """The columns that show control and worth: those of the first metric, or of all; none without content."""
    content = any(row.block == "with content" for row in board.rows)
    return board.columns[:None if every else 1] if content else []


def has_seeds(board):
    return any(figure.repeats > 1 for row in board.rows for figure in row.figures.values())


def title(board):
    """The head: part, data set, split, users, items, commit, date."""
    h = board.head
    words = [f"data set {h['dataset']}", f"split {h['split']}" if h["split"] else "", f"{h['users']:,} users",
             f"{h['items']:,} items ranked" if h["items"] else "", f"commit {h['commit']}" if h["commit"] else "",
             h["date"] or ""]
    segment = f", {h['segment']}" if h.get("segment") else ""
    return f"{board.part}{segment}: {', '.join(filter(None, words))}"


def notes(board, every=False, extra=""):
    """At most three sentences that apply to this very table. extra: one of the caller's, for the last."""
    shown, text = with_worth(board, every), "±: 95 % interval over users"
    if any(row.worth for row in board.rows):
        text = ("control: the same vectors on the wrong tracks, mean over (n) permutations; worth: value minus "
                f"control, its interval over users and permutations, the true order one more of them; other {text}")
        if any(row.worth[c].over == USERS_ONLY for row in board.rows for c in shown if c in row.worth):
            text += f"; (1): {USERS_ONLY}"
        alone = [c for c in shown if any(r.worth[c].over == PERMUTATIONS_ONLY for r in board.rows if c in r.worth)]
        if alone:
            text += f"; of {', '.join(alone)}, without values of each user here, over {PERMUTATIONS_ONLY}"
    sentences = [text + ("; seeds: their number and the interval over them" if has_seeds(board) else "")]
    if text := _note_on_tests(board):
        sentences.append(text)
    if text := "; ".join(filter(None, [_note_on_arguments(board), _note_on_code(board), _note_on_cold(board),
                                        extra])):
        sentences.append(text)
    return sentences


def _note_on_tests(board):
    """What bold, the mark of what is not distinguishable, and the arrows mean, as far as they occur."""
    tests = [test for row in board.rows for test in (*row.tests.values(), *row.against.values())]
    seeds = any(test.over_seeds for test in tests if not isinstance(test, str))
    how = (f"paired t test over users{' and the seeds of rows that have several' if seeds else ''} and bootstrap over "
           f"users, {CORRECTIONS[board.correction]}'s correction")
    parts = []
    if any(row.best for row in board.rows):
        chosen = [(row.block, column) for row in board.rows for column in row.best]
        others = dict.fromkeys(f"{block}, {column}" for block, column in chosen if (block, column) in board.on_itself)
        general = board.part if len(others) == len(chosen) else board.chosen_on
        parts.append(f"bold: best of its block on {general}" + (
            f" ({'; '.join(others)}: on {board.part}, as no run has val)" if others and general != board.part else ""))
    if any(test.undecided for row in board.rows for test in row.tests.values()):
        parts.append(f"{NEAR}: not distinguishable from it ({how} within block and metric, p ≥ {LEVEL:g}), which is no "
                     "evidence of equality")
    elif (tests := [test for row in board.rows for test in row.tests.values()]) and all(test.mark for test in tests):
        parts.append(f"all others of the block are distinguishable from it ({how} within block and metric, "
                     f"p < {LEVEL:g})")
    if np.isfinite(least := smallest_difference(board)):
        parts.append(f"two rows of a block that differ by {number(least)} in {board.columns[0]} are distinguished in "
                     f"four of five samples of users{' and seeds' if seeds else ''} (before the correction)")
    if board.against and any(row.against for row in board.rows):
        parts.append(f"↑ ↓: above or below {board.against} ({how} within the metric, p < {LEVEL:g})")
    elif board.against:
        parts.append(f"not tested against {board.against}, which has no lists of {board.part}")
    return "; ".join(parts)


def smallest_difference(board):
    """The difference in the first column that a test of two rows shows with a power of 80 % at p < .05, uncorrected.

    The median over the rows; over many users 2.8 standard errors (t of .975 and of .8) of a row's difference to the
    best of its block. NaN where no rows are compared.
    """
    tests = [row.tests[board.columns[0]] for row in board.rows if board.columns[0] in row.tests]
    reaches = [test.reach for test in tests if np.isfinite(test.reach)]
    return float(np.median(reaches)) if reaches else np.nan


def _note_on_arguments(board):
    rows = [row for row in board.rows if row.unusual]
    if not rows:
        return ""
    some = f"{rows[0].method} {rows[0].representation}: {rows[0].unusual}" if len(rows) == 1 else \
        f"{len(rows)} rows, see arguments in results_{board.part}.csv"
    return f"{UNUSUAL}: arguments unlike those of the method's other rows ({some})"


def _note_on_code(board):
    changed = sorted({name for row in board.rows for name in changed_code(row)})
    if not changed:
        return ""
    return f"{CHANGED}: made by code that has changed since ({', '.join(changed[:2])}" + (
        f" and {len(changed) - 2} more)" if len(changed) > 2 else ")")


def changed_code(row):
    """Modules that a row's runs, and its control's, imported and that have changed since."""
    return provenance.changed_code([config for cell in (row.cell, row.control) if cell for _, config in cell.runs])


def marks_of(row):
    """What stands behind a row's label: other arguments than usual, code that has changed since."""
    return (UNUSUAL if row.unusual else "") + (CHANGED if changed_code(row) else "")


def _note_on_cold(board):
    return f"cannot rank cold items: {', '.join(board.cannot)}" if board.cannot else ""


# --------------------------------------------------------------------------- Markdown

def escape_markdown(text):
    """Text as it should read in a Markdown table: no markup, no new cell, one line."""
    return re.sub(r"([\\`*|<\[\]])|((?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))", r"\\\g<0>", " ".join(str(text).split()))


def markdown(board, every=False, extra=""):
    """The table as Markdown, aligned so that it also reads as plain text; every: control and worth of all metrics."""
    shown, seeds = with_worth(board, every), has_seeds(board)
    header = ["method", "representation"]
    for column in board.columns:
        header += [column, *(["control", "worth"] if column in shown else [])]
        header += ["seeds"] if seeds and column == board.columns[0] else []
    lines = [header, None]
    for block, rows in board.blocks():
        lines.append([f"*{block}*", *[""] * (len(header) - 1)])
        lines += [_markdown_row(board, row, shown, seeds) for row in rows]
    width = [max(3, *(len(line[i]) for line in lines if line)) for i in range(len(header))]
    lines[1] = ["-" * w for w in width]
    text = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, width, strict=True)) + " |" for line in lines]
    foot = [f"- {escape_markdown(note)}" for note in notes(board, every, extra)]
    return "\n".join([f"### {escape_markdown(title(board))}", "", *text, "", *foot]) + "\n"


def _markdown_row(board, row, shown, seeds):
    cells = [escape_markdown(row.method), escape_markdown(row.label) + marks_of(row)]
    for column in board.columns:
        value, interval, marks = value_text(row, column)
        value = f"**{value}**" if column in row.best else value
        cells.append(f"{value}{f' {interval}' if interval else ''}{marks}")
        if column in shown:
            cells += [" ".join(filter(None, control_text(row, column))),
                      " ".join(filter(None, worth_text(row, column)))]
        if seeds and column == board.columns[0]:
            cells.append(seeds_text(row, column))
    return cells


# --------------------------------------------------------------------------- LaTeX

def escape_latex(text):
    return "".join(LATEX.get(c, c) for c in " ".join(str(text).split()))


def latex(board, every=False, extra=""):
    """The table as a LaTeX tabularx as wide as the text; needs booktabs, tabularx, array and graphicx.

    So that eight metrics fit, intervals stand below their values, a value has no zero before its point, labels are
    broken into lines, and more than four metrics have upright headers. Written here, as pandas' Styler would make
    the interval bold with the mean, leave ± < > and the arrows as they are (pdflatex stops at an arrow), and break no
    lines.
    """
    shown = with_worth(board, every)
    header, upright = [""], len(board.columns) > 4
    for column in board.columns:
        words = [column, *(["control", "worth"] if column in shown else [])]
        header += [rf"\rotatebox{{90}}{{{escape_latex(word)}}}" if upright else escape_latex(word) for word in words]
    columns = r">{\raggedright\arraybackslash}X" + "r" * (len(header) - 1)
    lines = ["% " + " ".join(line.split()) for line in [title(board), *notes(board, every, extra)]]
    lines += [r"% needs \usepackage{array,booktabs,graphicx,tabularx}", r"\begingroup\footnotesize",
              r"\setlength{\tabcolsep}{2pt}", rf"\begin{{tabularx}}{{\textwidth}}{{@{{}}{columns}@{{}}}}", r"\toprule",
              " & ".join(header) + r" \\"]
    for block, rows in board.blocks():
        lines += [r"\midrule", rf"\multicolumn{{{len(header)}}}{{@{{}}l}}{{\emph{{{block}}}}} \\"]
        for row in rows:
            lines += _latex_rows(board, row, shown)
    return "\n".join([*lines, r"\bottomrule", r"\end{tabularx}", r"\endgroup"]) + "\n"


def _latex_rows(board, row, shown):
    """The line of values and, where there are any, that of intervals below it."""
    label = escape_latex(" ".join(filter(None, [row.method, row.label])) + marks_of(row))
    above, below = [label], [""]
    for column in board.columns:
        value, interval, marks = value_text(row, column)
        value = escape_latex(short(value))
        above.append((rf"\textbf{{{value}}}" if column in row.best else value) + escape_latex(
            marks.replace(" reference", "ʳ").replace(" ", "")))
        below.append(small(interval))
        if column in shown:
            control, permutations = control_text(row, column)
            worth, half = worth_text(row, column)
            above += ["none" if control == NO_CONTROL else escape_latex(short(control)),
                      escape_latex(short(worth).replace("-", "−"))]
            below += [small(permutations), small(half)]
    lines = [" & ".join(above) + r" \\"]
    return [*lines, " & ".join(below) + r" \\"] if any(below) else lines


def short(text):
    """A figure without the zero before its point: 0.0123 as .0123, +0.0123 as +.0123."""
    return re.sub(r"^([-+±]?)0\.", r"\1.", text)


def small(text):
    return rf"{{\tiny {escape_latex(short(text))}}}" if text else ""


# --------------------------------------------------------------------------- csv

def frame(board):
    """The tidy table: a line for each row and metric, and one for each control; numbers as they are.

    arguments: unlike the script's defaults; shuffled: whether the line is a control's own. half_* are half-widths of
    95 % intervals, of a control over permutations (half_seeds). se_* are the parts of the standard error of worth
    (evaluation/worth.py). compared_with: the best of the block; against: the run of --against.
    """
    import pandas as pd
    best = {(row.block, column): row for row in board.rows for column in row.best}
    lines = [_line(board, row, column, False, best.get((row.block, column))) for row in board.rows for column
             in board.columns if column in row.figures]
    lines += [_line(board, row, column, True, None) for row in board.rows for column in board.columns
              if column in row.controls]
    return pd.DataFrame(lines)


def _line(board, row, column, shuffled, best):
    cell, figure = (row.control, row.controls[column]) if shuffled else (row.cell, row.figures[column])
    configs = [config for _, config in cell.runs]
    metric, k = column.split("@")
    line = {"part": board.part, "block": row.block, "method": row.method, "recommender": row.recommender,
            "representation": row.representation, "shuffled": shuffled, "arguments": readable(unlike_defaults(cell)),
            "changed": row.changed or row.unusual, "metric": metric, "k": int(k), "mean": figure.mean,
            "half_users": np.nan if shuffled else figure.users, "half_seeds": figure.seeds, "seeds": figure.repeats,
            "users": board.head["users"]}
    line |= _control_of_line(row, column) if not shuffled else dict.fromkeys(_control_of_line(row, column))
    compared = best is not None and best is not row
    line |= {"best": column in row.best and not shuffled, "best_on": board.best_on(row.block, column),
             "compared_with": f"{best.method} {best.label}".strip() if compared else "", "correction": board.correction}
    line |= _tests_of_line("", None if shuffled else row.tests.get(column))
    if board.against:
        line |= {"against": board.against} | _tests_of_line("against_", None if shuffled else row.against.get(column))
    return line | {"dataset": board.head["dataset"], "split_sha256": provenance.split_checksum(configs),
                   "embedding_sha256": provenance.embedding_checksum(configs),
                   "commit": provenance.commits(configs) or "",
                   "code_changed": " ".join(provenance.changed_code(configs)),
                   "runs": " ".join(name for name, _ in cell.runs)}


def _control_of_line(row, column):
    control, worth = row.controls.get(column), row.worth.get(column)
    values = {"control": control.mean if control else np.nan, "permutations": control.repeats if control else 0,
              "worth": np.nan, "half_worth": np.nan, "worth_over": ""}
    if worth:
        values |= {"worth": worth.difference, "half_worth": worth.half, "worth_over": worth.over}
    elif row.block == "with content":
        values["worth_over"] = NO_CONTROL
    return values | {name: getattr(worth, name) if worth else np.nan
                     for name in ("se_users", "se_permutations", "se_rest", "se_seeds", "se_draw")}


def _tests_of_line(prefix, test):
    return {f"{prefix}{name}": np.nan if test is None or isinstance(test, str) else getattr(test, name)
            for name in TESTS}
