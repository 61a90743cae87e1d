"""Numbers as a reader wants them, and numbers as json wants them."""
import math

import numpy as np

from evaluation.render import escape_markdown

DIGITS = 6   # significant digits of numbers.json: more would be noise, and differ between machines


def count(value):
    """12345 as '12,345'; a number that is not whole with one decimal below 100."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 100 else f"{value:,.1f}"


def share(value):
    """.1234 as '12 %', small ones with the digits that tell them from nothing."""
    if value is None:
        return "-"
    percent = 100 * value
    if percent == 0 or 10 <= percent <= 99 or percent == 100:
        return f"{percent:.0f} %"
    return f"{percent:.1f} %" if percent > 99 or percent >= 1 else f"{percent:.2g} %"


def name(text):
    """Text of the data, safe within Markdown."""
    return escape_markdown(text)


def several(values):
    """'a, b and c'."""
    values = list(values)
    return " and ".join([", ".join(values[:-1]), values[-1]]) if len(values) > 1 else "".join(values)


def table(header, rows):
    """A Markdown table; the first column is text, the others stand right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def plain(value):
    """A value of json: numpy becomes Python, floats keep DIGITS, what is not finite becomes None."""
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
