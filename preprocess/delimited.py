"""Strict reader of delimited text: the requested columns with their types, or an error of one sentence.

    frame = read_table(path, {"userID": int, "name": str})
"""
from pathlib import Path

from harness.errors import WorkError


def read_table(path, columns, delimiter="\t", quoted=False, encodings=("utf-8",)):
    """The requested columns of a text file with a header line, as a pandas frame in the requested order.

    columns:   {name: int or str}; int is int64, str keeps every character (an empty cell is '')
    quoted:    True if double quotes may enclose cells; otherwise a quote is an ordinary character
    encodings: tried in turn; a byte order mark and both kinds of line end are accepted
    No row is skipped. Raises WorkError for a missing file or column, and with the row for a wrong number of
    cells, an invalid integer, or bytes that are invalid in the encoding.
    """
    import pyarrow as pa
    from pyarrow import csv
    path = Path(path)
    if not path.is_file():
        raise WorkError(f"{path} is missing")
    types = {int: pa.int64(), str: pa.string()}
    for encoding in encodings:
        try:
            table = csv.read_csv(
                path, csv.ReadOptions(encoding=encoding, use_threads=False),
                csv.ParseOptions(delimiter=delimiter, quote_char='"' if quoted else False),
                csv.ConvertOptions(column_types={name: types[kind] for name, kind in columns.items()},
                                   null_values=[], strings_can_be_null=False))
        except (pa.ArrowInvalid, UnicodeDecodeError) as e:
            if encoding != encodings[-1] and ("UTF8" in str(e) or isinstance(e, UnicodeDecodeError)):
                continue
            raise WorkError(f"{path} is not the expected table ({' '.join(str(e).split())[:200]})") from None
        break
    if missing := [c for c in columns if c not in table.column_names]:
        raise WorkError(f"{path} has no column {', '.join(missing)}; it has {', '.join(table.column_names)}")
    return table.select(list(columns)).to_pandas()
