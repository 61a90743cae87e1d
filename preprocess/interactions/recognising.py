"""The form of a text log: what delimits its cells, whether its first line is a header, and how its lines end."""
import csv
import itertools
import re

from harness.errors import UsageError, WorkError
from preprocess.interactions import quoting
from preprocess.interactions.columns import compared, plain, role_of

KINDS = (("\t", "::"), (";", ","), ("|",), (" ",))    # delimiters, from those that texts hold least
DELIMITERS = tuple(itertools.chain(*KINDS))           # of two that cut into equally many cells the first counts
SAMPLE = 256 << 10        # bytes of a text that are looked at to recognise its form
START = 64 << 10          # bytes of every further text of a log: its first line, and some rows below
BLANKS = re.compile(rb"[ \t]+")


def check_headers(paths, files, delimiter, quote, rows, named, recipe):
    """WorkError for a file whose header is not that of the first file, or that alone has one, or has none.

    rows: the first rows of the first file as cells; named: whether the first of them is its header.
    """
    wanted = list(map(compared, rows[0]))
    for path, file in zip(paths[1:], files[1:], strict=True):
        with open(file, "rb") as f:
            text = f.read(START).decode("utf-8-sig", "replace")
        found = [cells_of(line, delimiter, quote) for line in text.splitlines() if line.strip()]
        if not found or list(map(compared, found[0])) == wanted:
            continue
        header, first = _seems_header(found, rows[named:], recipe), found[0]
        line = f"{path}: its first line, {delimiter.join(first)[:60]!r},"
        if header and not named:
            raise WorkError(f"{line} looks like a header, but {paths[0]} has none; give every file of the log the same "
                            "header or none, or say --header no if it is a row")
        if named and not header:
            raise WorkError(f"{line} is no header, but {paths[0]} has one ({delimiter.join(rows[0])[:60]!r}); give "
                            "every file of the log the same header or none")
        if named:
            differs = next((f"column {i} is {a.strip()!r} where {paths[0]} has {b.strip()!r}" for i, (a, b)
                            in enumerate(zip(first, rows[0], strict=False), 1) if compared(a) != compared(b)),
                           f"it has {len(first)} columns where {paths[0]} has {len(rows[0])}")
            raise WorkError(f"{path}: its header is not that of the first file: {differs}; give every file of the log "
                            "the same columns in the same order")


def _seems_header(rows, others, recipe):
    """Whether the first row names columns: by usual names, or as text above what is a number in all other rows."""
    first = rows[0]
    if any(map(_numeric, first)):
        return False
    if any(map(role_of, first)) or (recipe and any(plain(c) in map(plain, recipe.names) for c in first)):
        return True
    below = [row for row in [*rows[1:], *others] if len(row) == len(first)]
    return bool(below) and not (recipe and recipe.names) and any(all(map(_numeric, column))
                                                                 for column in zip(*below, strict=True))


def first_lines(path, shown):
    with open(path, "rb") as f:
        start = f.read(SAMPLE)
    try:
        text = start[:start.rfind(b"\n") + 1 or len(start)].decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise WorkError(f"{shown} is not UTF-8 text (byte {e.start}); convert it, for example with iconv") from None
    lines = [line for line in text.splitlines() if line.strip()][:500]
    if not lines:
        raise WorkError(f"{shown} has no line with anything in it")
    return lines


def cells_of(line, delimiter, quote='"'):
    if len(delimiter) > 1:
        return line.split(delimiter)
    return next(csv.reader([line], delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE))


def delimiter_of(lines, path, width=0):
    """The delimiter that cuts the first line, and nine lines of ten, into the same number of cells, two at least.

    A header that names two roles decides. Of several delimiters the one that gives `width` cells counts, else those
    that texts hold least (KINDS), and of a kind the one that gives most cells: what is inside of a cell, such as the
    `;` between genres, stands in no header and rarely cuts all lines alike. WorkError for none.
    """
    found = {}      # delimiter: cells
    for delimiter in DELIMITERS:
        if len({role_of(cell) for cell in _cut(lines[0], delimiter)} - {None}) > 1:
            return delimiter
        for quote in ('"', "")[:1 if delimiter in quoting.ALWAYS else 2]:
            cells = [len(_cut(line.strip("\r\n"), delimiter, quote)) for line in lines]
            if cells[0] > 1 and cells.count(cells[0]) >= .9 * len(lines):
                found.setdefault(delimiter, cells[0])
    if found:
        kind = {delimiter: -n for n, several in enumerate(KINDS) for delimiter in several}
        return max(found, key=lambda delimiter: (found[delimiter] == width, kind[delimiter], found[delimiter]))
    raise WorkError(f"{path}: its first lines are not cut into the same number of cells by tabs, commas, semicolons, "
                    f"'::', '|' or blanks; the first is {lines[0][:80]!r}")


def _cut(line, delimiter, quote='"'):
    return line.split() if delimiter == " " else cells_of(line, delimiter, quote)


def one_line_end(path, target):
    """The path itself, or where some lines end with CR LF and some with LF, that of a copy in which all end with LF:
    DuckDB takes only one of both."""
    both, lines, before = 0, 0, b""
    with open(path, "rb") as source:
        while block := source.read(1 << 20):
            lines += block.count(b"\n")
            both += block.count(b"\r\n") + (before == b"\r" and block[:1] == b"\n")
            before = block[-1:]
    if both in (0, lines):
        return path
    with open(path, "rb") as source, open(target, "wb") as out:
        for line in source:
            out.write(line[:-2] + b"\n" if line.endswith(b"\r\n") else line)
    return target


def tabbed(path, target):
    with open(path, "rb") as source, open(target, "wb") as out:
        for line in source:
            if line.strip():
                out.write(BLANKS.sub(b"\t", line.strip()) + b"\n")
    return target


def has_header(rows, recipe, path):
    """Whether the first row names columns; UsageError where neither names nor numbers say so."""
    first = rows[0]
    if any(role_of(cell) for cell in first) or (recipe and any(plain(c) in map(plain, recipe.names) for c in first)):
        return True
    if recipe and recipe.names:
        return False
    for i, cell in enumerate(first):
        below = [_numeric(row[i]) for row in rows[1:] if len(row) == len(first)]
        if _numeric(cell):
            return False
        if below and all(below):
            return True
    raise UsageError(f"{path}: is its first line, {'  '.join(first)[:60]!r}, a header? say --header yes or --header no")


def _numeric(cell):
    return re.fullmatch(r"[-+]?\d+(\.\d+)?([eE][-+]?\d+)?", cell.strip()) is not None
