"""Formats of numbers for the text of a report and for json."""
import math

import numpy as np

from evaluation.render import escape_markdown

DIGITS = 6   # significant digits of numbers.json; further digits may differ between machines


def count(value):
    """12345 as '12,345'; one decimal for non-integers below 100."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 100 else f"{value:,.1f}"


def share(value):
    """.1234 as '12 %'; small values with up to two significant digits, and as 100 % only what is all of it."""
    if value is None:
        return "-"
    percent = 100 * value
    if percent == 0 or 10 <= percent <= 99 or percent == 100:
        return f"{percent:.0f} %"
    if 99 < percent < 100:
        return next(text for digits in range(1, 20) if float(text := f"{percent:.{digits}f}") < 100) + " %"
    return f"{percent:.1f} %" if percent >= 1 else f"{percent:.2g} %"


def name(text):
    """Text from the data, escaped for Markdown."""
    return escape_markdown(text)


def several(values):
    """'a, b and c'."""
    values = list(values)
    return " and ".join([", ".join(values[:-1]), values[-1]]) if len(values) > 1 else "".join(values)


def table(header, rows):
    """A Markdown table; the first column is left aligned, the others right aligned."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def plain(value):
    """A value for json: numpy types become Python types, floats keep DIGITS, and NaN or infinity becomes None."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(v) for v in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value if value is None else str(value)
