"""Whether `"` encloses cells in a text log: one rule per delimiter, decided by every row of the log, in any order.

In a text with commas or semicolons it does (RFC 4180), and a stray one is a fault. Texts with tabs, `::`, `|` or
blanks are mostly written without any quoting, titles such as `"Heroes" (live)` among them: there it does where each
cell of the log that begins with one is well formed, and is an ordinary character where any is not.
"""
import re
from collections import Counter

from harness import quotes, text_blocks
from harness.errors import WorkError

ALWAYS = (",", ";")      # delimiters whose cells may always be quoted
BLOCK = 8 << 20          # bytes of a text that are looked at together
STAND_IN = "\x1f"        # one byte for a delimiter of two


def mark(files, delimiter, lines) -> tuple:
    """('"' where it encloses cells, '' where it is an ordinary character; whether it occurs in the log at all).

    files: the unpacked texts of a log; lines: the first lines of the first one
    """
    occurs = any(map(quotes.occur, files))
    if delimiter in ALWAYS:
        return '"', occurs
    width = Counter(line.count(delimiter) + 1 for line in lines).most_common(1)[0][0]
    return '"' if occurs and all(_well_formed(path, delimiter, width) for path in files) else "", occurs


def _well_formed(path, delimiter, width):
    """Whether each cell that begins with a quote ends with one, and none of them swallows rows; see harness/quotes.py.

    Blanks before a quote are no part of a quoted cell there, but are to DuckDB: such a cell is not well formed.
    """
    one = delimiter if len(delimiter) == 1 else STAND_IN
    indented = re.compile(rb'(?:^|[\n' + re.escape(one.encode()) + rb']) +"')
    with open(path, "rb") as stream:
        blocks = (block if one == delimiter else bytes(block).replace(delimiter.encode(), one.encode())
                  for block in text_blocks.blocks(stream, BLOCK, alive=2))
        try:
            return not any(indented.search(block) for block in quotes.whole_rows(_unmarked(blocks), path, one, width))
        except WorkError:
            return False


def _unmarked(blocks):
    """The blocks without a byte order mark."""
    for number, block in enumerate(blocks):
        yield block[3:] if number == 0 and bytes(block[:3]) == b"\xef\xbb\xbf" else block
