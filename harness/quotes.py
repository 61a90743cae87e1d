"""Quotation marks in delimited text, strictly: which rows they join, and where one swallows rows.

A quoted cell begins with a quote behind a delimiter or a line end, and ends with a quote in front of one; inside, a
quote is written twice (RFC 4180). It may hold delimiters and line ends. A quote inside an unquoted cell (`7" mix`) is
an ordinary character. Three things are faults, each named with its line: a quoted cell that never ends, text behind a
closing quote, and a quoted cell over several lines each of which has the number of cells of a whole row: what a stray
quote makes of the rows up to the next one.
"""
import csv
import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import WorkError

LONGEST = 16 << 20       # bytes of a quoted cell
PIECE = 1 << 18          # bytes
CLOSED = re.compile(rb'"[^"]*+(?:""[^"]*+)*+"')
QUOTE, LINE_END, RETURN = b'"\n\r'
MEND = "mend the row (a quote inside a quoted cell is written twice)"


def occur(path: str | Path) -> bool:
    """Whether a file has a quotation mark anywhere; without one, every line end is the end of a row."""
    with open(path, "rb") as f:
        return any(b'"' in block for block in iter(lambda: f.read(1 << 20), b""))


def scan(text: Any, delimiter: str, width: int) -> tuple[tuple[int, str] | None, int | None]:
    """Look for faults in whole lines of text (bytes or a memoryview) whose rows have `width` cells.

    returns: ((offset of the row's quote, words), None) for a fault; (None, offset) where the quoted cell that begins
    there is still open at the end; (None, None) for a text whose rows are whole
    """
    data = np.frombuffer(text, np.uint8)
    if not _count(data, QUOTE):
        return None, None
    marks = np.flatnonzero((data == QUOTE) | (data == LINE_END))
    fault, opened, inside = _cells(text, data, marks, ord(delimiter))
    if fault is None and inside.any():
        fault = _whole_rows_inside(data, inside, ord(delimiter), width)
    return fault, opened if fault is None else None


def _cells(text, data, marks, delimiter):
    """(fault, offset of the open cell, which line ends are inside of quoted cells: bool, one per line end).

    marks: offsets of the quotes and the line ends, int64 ascending
    """
    quoting = data[marks] == QUOTE
    quotes, newlines = marks[quoting], marks[~quoting]
    ends = np.zeros(256, bool)
    ends[[delimiter, LINE_END, RETURN]] = True
    odd, even = quotes[::2], quotes[1::2]       # the first, third, ... and the second, fourth, ... quote
    before = np.where(odd == 0, LINE_END, data[odd - 1])
    after = np.where(even + 1 == len(data), LINE_END, data[np.minimum(even + 1, len(data) - 1)])
    begins = ends[before]
    if (begins | (before == QUOTE)).all() and (ends[after] | (after == QUOTE)).all():
        opened = int(odd[begins][-1]) if len(quotes) % 2 else None
        return None, opened, (np.cumsum(quoting) % 2 == 1)[~quoting]
    begins = ends[np.where(quotes == 0, LINE_END, data[quotes - 1])]
    inside, at, opened = np.zeros(len(newlines), bool), 0, None      # quotes inside of unquoted cells, or faults
    while at < len(quotes):
        start = int(quotes[at])
        if not begins[at]:
            at += 1
            continue
        cell = CLOSED.match(text, start)
        if cell is None:
            opened = start
            break
        if cell.end() < len(data) and not ends[data[cell.end()]]:
            return (start, "has text behind the closing quote of the cell that begins there"), None, inside
        inside[slice(*np.searchsorted(newlines, (start, cell.end())))] = True
        at = int(np.searchsorted(quotes, cell.end()))
    if opened is not None:
        inside[np.searchsorted(newlines, opened):] = True
    return None, opened, inside


def _whole_rows_inside(data, inside, delimiter, width):
    """The fault of the first row of several lines, each of which has the cells of a row; None where there is none."""
    newlines, cuts = np.flatnonzero(data == LINE_END), np.flatnonzero(data == delimiter)
    cells = np.diff(np.searchsorted(cuts, newlines), prepend=0) + 1
    whole = np.concatenate([[0], np.cumsum(cells == width)])
    edges = np.diff(np.concatenate([[0], inside.astype(np.int8), [0]]))
    first, last = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1) + 1      # lines of each row, last exclusive
    closed = last <= len(newlines)      # not the row whose cell is still open at the end
    first, last = first[closed], last[closed]
    swallowed = np.flatnonzero(whole[last] - whole[first] == last - first)
    if not len(swallowed):
        return None
    line = int(first[swallowed[0]])
    rows = int(last[swallowed[0]]) - line
    return (0 if line == 0 else int(newlines[line - 1]) + 1), (
        f"has a quoted cell over {rows} lines, each with the cells of a row, as behind a stray quote")


def lines_in(text: Any, end: int | None = None) -> int:
    """Line ends in the first `end` bytes of a text (all of it by default)."""
    return _count(np.frombuffer(text, np.uint8)[:end], LINE_END)


def _count(data, byte):
    """How often a byte stands in uint8 data; piece by piece, which stays in the cache."""
    return sum(int(np.count_nonzero(data[i:i + PIECE] == byte)) for i in range(0, len(data), PIECE))


def whole_rows(blocks: Iterable[Any], where: object, delimiter: str, width: int, line: int = 1) -> Iterator[Any]:
    """Blocks of whole lines as blocks of whole rows: those that a quoted cell joins are joined.

    width: cells of a row; line: the number of the first block's first line. WorkError that names the line of a fault.
    """
    held = b""
    for piece in blocks:
        block = held + bytes(piece) if held else piece
        fault, opened = scan(block, delimiter, width)
        if fault:
            raise WorkError(f"{where}, line {line + lines_in(block, fault[0])}: the row {fault[1]}; {MEND}")
        if opened is not None:
            if len(block) - opened > LONGEST:
                raise WorkError(f"{where}, line {line + lines_in(block, opened)}: the quoted cell that begins there "
                                f"does not end within {LONGEST >> 20} MB; {MEND}")
            held = bytes(block)
            continue
        held = b""
        yield block
        line += lines_in(block)
    if held:
        raise WorkError(f"{where}, line {line + lines_in(held, opened)}: the quoted cell that begins there never "
                        f"ends; {MEND}")


def numbered_rows(text: str, delimiter: str, quoted: bool, line: int = 1) -> Iterator[tuple[int, list[str]]]:
    """Yield (number of its first line, cells) of each row of a text whose first line has the number `line`."""
    reader = csv.reader(io.StringIO(text, newline="\n"), delimiter=delimiter,
                        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE)
    first = line
    for cells in reader:
        yield first, cells
        first = line + reader.line_num


def cells_of(line: str, delimiter: str, quoted: bool = True) -> list[str]:
    """The cells of one line, such as a header."""
    try:
        return next(csv.reader([line], delimiter=delimiter,
                               quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE), [])
    except csv.Error:       # a return inside of the line
        return line.split(delimiter)


def wrong_width(text: str, delimiter: str, quoted: bool, width: int, line: int = 1) -> tuple[int, int] | None:
    """(line, cells) of the first row that is not blank and has not `width` cells; None where every row has."""
    try:
        return next(((n, len(cells)) for n, cells in numbered_rows(text, delimiter, quoted, line)
                     if len(cells) != width and any(cells)), None)
    except csv.Error:
        return None
