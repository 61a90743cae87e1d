"""Strict reader of delimited text: the requested columns with their types, or an error of one sentence with the line.

    frame = read_table(path, {"userID": int, "name": str})        # a pandas frame
    table = read_texts(path, ("user_id", "track_id"), ",")        # an arrow table of texts
"""
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness import ids, quotes, text_blocks
from harness.errors import WorkError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

BLOCK = 8 << 20     # bytes of a text that are looked at together


def read_table(path: str | Path, columns: Mapping[str, type], delimiter: str = "\t", quoted: bool = False,
               encodings: Sequence[str] = ("utf-8",)) -> "pd.DataFrame":
    """The requested columns of a text file with a header line, as a pandas frame in the requested order.

    columns:   {name: int or str}; int is int64, str keeps every character (an empty cell is '')
    quoted:    True if double quotes may enclose cells; otherwise a quote is an ordinary character
    encodings: tried in turn; a byte order mark and both kinds of line end are accepted
    No row is skipped. Raises WorkError for a missing file or column, and with the line for a wrong number of
    cells, a stray quote, a cell that is no canonical whole number, or bytes that are invalid in the encoding.
    """
    table = read_texts(path, list(columns), delimiter, quoted, encodings)
    for i, (name, kind) in enumerate(columns.items()):
        if kind is int:
            table = table.set_column(i, name, _whole(path, table[name], name, delimiter, quoted))
    return table.to_pandas()


def _whole(path, column, name, delimiter, quoted):
    """Texts as int64; WorkError with the line of the first that is no canonical whole number."""
    import pyarrow.compute as pc
    texts = pc.utf8_trim_whitespace(column.combine_chunks())
    if (values := ids.numbers(texts)) is not None:
        return values
    wrong = ids.first_other(texts)
    rows = (line for line, cells in quotes.numbered_rows(_text(path, "utf-8"), delimiter, quoted) if any(cells))
    line = next(itertools.islice(rows, wrong + 1, None))        # behind the header
    raise WorkError(f"{path} is not the expected table (line {line}: {name} holds {texts[wrong].as_py()!r}, which is "
                    "no whole number in its usual writing)")


def read_texts(path: str | Path, columns: Sequence[str], delimiter: str, quoted: bool = True,
               encodings: Sequence[str] = ("utf-8",)) -> "pa.Table":
    """The requested columns as texts, in the requested order; an empty cell is ''. Errors as in `read_table`."""
    import pyarrow as pa
    from pyarrow import csv
    path = Path(path)
    if not path.is_file():
        raise WorkError(f"{path} is missing")
    if quoted:
        check_quotes(path, delimiter)
    for encoding in encodings:
        try:
            table = csv.read_csv(
                path, csv.ReadOptions(encoding=encoding, use_threads=False),
                csv.ParseOptions(delimiter=delimiter, quote_char='"' if quoted else False, newlines_in_values=quoted),
                csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string()), null_values=[],
                                   strings_can_be_null=False))
        except (pa.ArrowInvalid, UnicodeDecodeError) as e:
            unreadable = "UTF8" in str(e) or isinstance(e, UnicodeDecodeError)
            if encoding != encodings[-1] and unreadable:
                continue
            raise WorkError(f"{path} is not the expected table ({_fault(path, delimiter, quoted, encoding, e)})"
                            ) from None
        break
    if missing := [c for c in columns if c not in table.column_names]:
        raise WorkError(f"{path} has no column {', '.join(missing)}; it has {', '.join(table.column_names)}")
    if twice := [c for c in columns if table.column_names.count(c) > 1]:
        raise WorkError(f"{path} has two columns of the name {twice[0]}")
    return table.select(list(columns))


def _fault(path, delimiter, quoted, encoding, error):
    """The line of the first row with a wrong number of cells, else the parser's words."""
    text = _text(path, encoding)
    width = len(next((cells for _, cells in quotes.numbered_rows(text, delimiter, quoted) if any(cells)), []))
    if row := quotes.wrong_width(text, delimiter, quoted, width):
        return f"line {row[0]}: {row[1]} cells where the header has {width}"
    return " ".join(str(error).split())[:200]


def _text(path, encoding):
    with text_blocks.open_log(path) as (stream, _):
        text = b"".join(bytes(block) for block in text_blocks.blocks(stream, BLOCK, alive=1))
    return text.decode(encoding, "replace").removeprefix("\ufeff")


def header(path: str | Path, delimiters: str = ",\t;|") -> tuple[str, list[str]]:
    """(delimiter, names of the columns) of a text: the delimiter is the one that its first line has most often."""
    with text_blocks.open_log(path) as (stream, _):
        first = bytes(next(text_blocks.blocks(stream, 1 << 16, alive=1), b"")).partition(b"\n")[0]
    line = first.decode("utf-8-sig", "replace").rstrip("\r")
    delimiter = max(delimiters, key=line.count)
    return delimiter, [c.strip() for c in quotes.cells_of(line, delimiter)]


def check_quotes(path: str | Path, delimiter: str) -> None:
    """WorkError with the line of the first stray quote of a file with a header; see harness/quotes.py."""
    with text_blocks.open_log(path) as (stream, _):
        blocks = text_blocks.blocks(stream, BLOCK, alive=2)
        first = next(blocks, memoryview(b""))
        line = bytes(first).partition(b"\n")[0].decode("utf-8-sig", "replace").rstrip("\r")
        mark = 3 if bytes(first[:3]) == b"\xef\xbb\xbf" else 0
        for _ in quotes.whole_rows(itertools.chain([first[mark:]], blocks), path, delimiter,
                                   len(quotes.cells_of(line, delimiter))):
            pass
