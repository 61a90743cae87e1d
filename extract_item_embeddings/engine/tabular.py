"""Tables with one track per row, as text (tsv, csv, optionally compressed) or parquet, read in blocks.

Both have a column with the key of the track, and numeric columns that are the values of the vector in order; a parquet
file may have one column of lists instead. Other columns are left out and reported, among them further keys and the row
numbers that pandas writes as its index. A malformed row, or text in a numeric column, is a WorkError that names it: no
row is skipped.
"""
import csv
import itertools
import os
import re
import sys

import numpy as np

from harness import ids, quotes
from harness.errors import UsageError, WorkError
from harness.progress import Progress
from harness.readers import parquet_batches, parquet_schema

KEYS = ("trackid", "track_id", "id", "idx")   # names of the key column, in order of preference
INDEX = re.compile(r"index|level_0|Unnamed: \d+(\.\d+)?|__index_level_\d+__")  # names of the index of pandas in files
SAMPLE = 200                                  # rows used to detect the numeric columns
BLOCK = 16 << 20                              # bytes of text per block
COMMA = re.compile(r"[-+]?\d+,\d+")           # a number with a decimal comma
NOTHING = ("", "nan", "NaN", "NAN", "NA", "N/A", "null", "NULL", "None")


class Table:
    """A table in a file. `key` is the name of its key column, by default one of KEYS.

    by_row: True if the keys are rows of trackid_sorted.csv, False for track ids; by default they are rows in a column
            idx and in an integer column track_id, as in every file of a workspace, unless its values are ids, too,
            also ids that lost the zeros before them; that rows are the default taken is printed
    listed: function giving the ids of trackid_sorted.csv, called where that has to be known
    """

    def __init__(self, path, key=None, by_row=None, listed=list):
        self.path, self.name, self.left_out = path, path.name, []
        self.is_parquet = path.suffix in (".parquet", ".pqt")
        if not path.is_file():
            raise UsageError(f"{path} does not exist")
        whole = (self.look_parquet if self.is_parquet else self.look_text)(key)
        self.by_row = False     # while the keys are looked at
        if not self.columns:
            raise WorkError(f"{path} has no column of numbers beside {self.key!r}")
        self.by_row = by_row if by_row is not None else self.key == "idx" or (
            self.key == "track_id" and whole and not self.are_ids(listed()))
        if self.by_row and by_row is None:
            print(f"{self.name}: the values of {self.key} are read as row numbers of trackid_sorted.csv; --keys id "
                  "reads them as track ids", file=sys.stderr)
        if self.left_out:
            some = ", ".join(n or "the unnamed first" for n in self.left_out[:5])
            some += ", ..." if len(self.left_out) > 5 else ""
            print(f"{self.name}: {len(self.left_out)} columns that hold no values of the vectors are left out: {some}",
                  file=sys.stderr)

    def blocks(self):
        """Yield (keys, values): list of str or int, float64 (n, D)."""
        return self.parquet_blocks() if self.is_parquet else self.text_blocks()

    def are_ids(self, listed):
        """Whether the numbers in a column track_id are ids of the list; UsageError where they may be rows, too."""
        import pyarrow as pa
        parts = parquet_batches(self.path, [self.key], 1 << 16) if self.is_parquet else self.text_tables([])
        keys = [str(key) for part in parts for key in part.column(0).to_pylist()]
        known = {ids.normal(i) for i in listed}
        bare = {ids.unpadded(i): i for i in known}      # what a program that reads numbers leaves of an id
        found = next((key for key in keys if key in known or key in bare), None)
        if found is None:
            return False
        whole = ids.numbers(pa.array(keys, pa.string()))
        if whole is None or not all(0 <= key < len(listed) for key in whole.to_pylist()):
            return True
        if all((ids.normal if key in known else ids.unpadded)(listed[int(key)]) == key for key in keys):
            return False        # either reading is the same
        lost = "" if found in known else f", such as {bare[found]!r} without its zeros"
        raise UsageError(f"{self.path}: the values of track_id may be rows of trackid_sorted.csv, and are ids in it, "
                         f"too{lost}; say --keys id or --keys row" + (
                             ", and for ids write them as they are in the list" if lost else ""))

    def about(self):
        return {"columns_left_out": self.left_out}

    def pick_key(self, names, key):
        if key is not None and key not in names:
            raise UsageError(f"{self.path} has no column {key!r}; it has {_some(names)}")
        key = key or next((k for k in KEYS if k in names), None)
        if key is None:
            raise WorkError(f"{self.path} has no column {', '.join(KEYS[:-1])} or {KEYS[-1]} with the tracks; it has "
                            f"{_some(names)}; --id-column names one")
        if names.count(key) > 1:
            raise WorkError(f"{self.path} has {names.count(key)} columns called {key!r}")
        return key

    # text -----------------------------------------------------------------
    def look_text(self, key):
        """Read header and first rows: the key column and the numeric columns. Returns whether the keys are integers."""
        from harness.text_blocks import open_log
        try:
            with open_log(self.path) as (stream, _):
                lines = (line.decode("utf-8-sig" if n == 0 else "utf-8") for n, line in
                         enumerate(itertools.islice(_lines(stream), SAMPLE + 1)))
                header = next(lines, "").rstrip("\r\n")
                self.delimiter = "\t" if "\t" in header else ","
                names = next(csv.reader([header], delimiter=self.delimiter), [])
                reader = csv.reader(lines, delimiter=self.delimiter)
                first = [(reader.line_num + 1, row) for row in reader]
        except (UnicodeDecodeError, csv.Error) as e:
            raise WorkError(f"{self.path} is not a text table in UTF-8 ({e})") from None
        if not header:
            raise WorkError(f"{self.path} is empty; a header line and a row per track are expected")
        if not first:
            raise WorkError(f"{self.path} has no rows after its header")
        numbered = [(n, r) for n, r in first if len(r) == len(names)]
        rows = [r for _, r in numbered]
        self.key = self.pick_key(names, key)
        self.place = names.index(self.key)
        self.width = len(names)
        first_unnamed = 0 if names[0] == "" else None   # the index of pandas and R
        numbers = [i for i in range(len(names)) if i not in (self.place, first_unnamed)
                   and self.holds_numbers(names[i], [(n, r[i]) for n, r in numbered])
                   and not _is_label(names[i], _counts_rows([r[i] for r in rows]))]
        self.columns, self.names = numbers, names
        self.left_out = [names[i] for i in range(len(names)) if i != self.place and i not in set(numbers)]
        return bool(rows) and all(_is_row(r[self.place]) for r in rows)

    def holds_numbers(self, name, cells):
        """Whether all of these (line, cell) are numbers; WorkError where half of those with a value are, but not all.

        A column of titles has a few numbers, too: it is no dimension, and is left out.
        """
        other = [(line, cell) for line, cell in cells if not _is_number(cell)]
        like = sum(cell not in NOTHING and (_is_number(cell) or COMMA.fullmatch(cell) is not None) for _, cell in cells)
        if other and like and like >= sum(cell not in NOTHING for _, cell in cells) / 2:
            raise WorkError(f"{self.path}, line {other[0][0]}: {self.no_number(other[0][1], name)}")
        return not other

    def no_number(self, cell, name):
        return (f"{cell[:40]!r} in the column {name} cannot be read as a number; mend it (nan where there is no "
                "value), or leave the column out of the file")

    def text_blocks(self):
        for table in self.text_tables(self.columns):
            values = _matrix([column.combine_chunks() for column in table.columns[1:]])
            yield self.keys(table.column(0).to_pylist()), values

    def text_tables(self, columns):
        """Yield the rows as arrow tables: the key, and the columns at these places as float64."""
        import pyarrow as pa

        from harness.text_blocks import blocks, open_log
        total, rows, line = max(os.path.getsize(self.path) >> 20, 1), 0, 1
        with (open_log(self.path) as (stream, position),
              Progress(total, f"reading {self.name}", unit="MiB") as progress):
            for block in quotes.whole_rows(blocks(stream, BLOCK, alive=1), self.path, self.delimiter, self.width):
                try:
                    table = self.parse(block, columns, header=line == 1)
                except pa.ArrowInvalid as e:
                    raise WorkError(f"{self.path} is damaged: {self.words(str(e), rows, block, line)}") from None
                rows, line = rows + len(table), line + quotes.lines_in(block)
                yield table
                progress.update((position() >> 20) - progress.n)

    def parse(self, block, columns, header):
        """The rows of a block of whole lines, the key first.

        The parser gets memory, never the stream: a thread of its own that reads ahead from Python while the process
        ends with an error takes the interpreter down.
        """
        import pyarrow as pa
        from pyarrow import csv as arrow_csv
        unique = [f"c{i}" for i in range(self.width)]  # a header may have one name twice
        wanted = {unique[self.place]: pa.string(), **{unique[i]: pa.float64() for i in columns}}
        if header:
            block = block[bytes(block).find(b"\n") + 1:]
        if not bytes(block).strip():
            return pa.table({name: pa.array([], kind) for name, kind in wanted.items()})
        return arrow_csv.read_csv(
            pa.BufferReader(block),
            arrow_csv.ReadOptions(use_threads=False, block_size=1 << 30, column_names=unique),
            arrow_csv.ParseOptions(delimiter=self.delimiter),
            arrow_csv.ConvertOptions(column_types=wanted, include_columns=list(wanted), null_values=list(NOTHING),
                                     strings_can_be_null=False))

    def words(self, said, rows, block, line):
        """An error of the parser, with the line, the names of the columns and rows counted over its blocks."""
        if row := quotes.wrong_width(str(block, "utf-8", "replace"), self.delimiter, True, self.width, line):
            return f"line {row[0]}: Expected {self.width} columns, got {row[1]}"
        if found := re.fullmatch(r"In CSV column #(\d+): Row #(\d+): .* invalid value '(.*)'", said, re.DOTALL):
            return f"row {rows + int(found[2])}: {self.no_number(found[3], self.names[int(found[1])])}"
        said = re.sub(r"Row #(\d+)", lambda found: f"Row #{rows + int(found[1])}", said)
        for i, name in enumerate(self.names):
            said = said.replace(f"column c{i}:", f"column {name}:")
        return " ".join(said.split())[:300]

    def keys(self, keys):
        if not self.by_row:
            return keys
        if wrong := [k for k in keys if not _is_row(k)]:
            raise WorkError(f"{self.path}: {wrong[0]!r} in the column {self.key} is no row of trackid_sorted.csv")
        return [int(k) for k in keys]

    # parquet --------------------------------------------------------------
    def look_parquet(self, key):
        import pyarrow as pa
        schema = parquet_schema(self.path)
        self.key = self.pick_key(schema.names, key)
        kind = schema.field(self.key).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)
                or pa.types.is_string_view(kind)):
            raise WorkError(f"{self.path}: the column {self.key} must hold track ids or row numbers, but holds {kind}")
        others = [f for f in schema if f.name != self.key]
        lists = [f.name for f in others if _is_list(f.type) and _is_numeric(f.type.value_type)]
        numbers = [f.name for f in others if _is_numeric(f.type)
                   and not _is_label(f.name, pa.types.is_integer(f.type))]
        if len(lists) > 1:
            raise WorkError(f"{self.path} has {len(lists)} columns of lists ({_some(lists)}); leave the one with the "
                            "vectors")
        self.columns = lists or numbers
        self.left_out = [f.name for f in others if f.name not in self.columns]
        return pa.types.is_integer(kind)

    def parquet_blocks(self):
        rows, width = 0, None
        for batch in parquet_batches(self.path, [self.key, *self.columns], 4096):
            keys = batch.column(self.key)
            if keys.null_count:
                raise WorkError(f"{self.path}: {keys.null_count} rows from row {rows} on have no {self.key}")
            keys = self.keys([str(k) for k in keys.to_pylist()])
            parts = [batch.column(c) for c in self.columns]
            values = self.stacked(parts[0], width) if _is_list(parts[0].type) else _matrix(parts)
            width, rows = values.shape[1], rows + len(values)
            yield keys, values

    def stacked(self, lists, width):
        """A column of lists -> (n, D); WorkError when their lengths differ. A missing list is a row of NaN."""
        rows = lists.to_pylist()
        lengths = {len(r) for r in rows if r is not None} | ({width} if width else set())
        if len(lengths) != 1 or 0 in lengths:
            raise WorkError(f"{self.path}: the vectors in {self.columns[0]} differ in length: "
                            f"{', '.join(map(str, sorted(lengths))) or 'there are none'}")
        (width,) = lengths
        return np.array([[np.nan] * width if r is None else r for r in rows], dtype=np.float64)


def _lines(stream):
    """Lines of a raw stream, which need not have readline."""
    rest = b""
    while block := stream.read(1 << 20):
        *lines, rest = (rest + block).split(b"\n")
        yield from (line + b"\n" for line in lines)
    if rest:
        yield rest


def _is_number(cell):
    if cell in NOTHING:
        return True
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _is_row(key):
    """Whether a text is a row number as it is printed."""
    return key.isascii() and key.isdecimal() and (key == "0" or key[0] != "0")


def _is_label(name, counts):
    """Whether a column of this name holds keys or row numbers, so that it is no dimension.

    counts: whether its values may be numbers of rows; a word of a tf-idf may be called index, too
    """
    return name in KEYS or counts and INDEX.fullmatch(name) is not None


def _counts_rows(cells):
    """Whether texts may be the numbers of rows: all are whole and none is there twice."""
    return all(map(_is_row, cells)) and len({*cells}) == len(cells)


def _is_numeric(kind):
    import pyarrow as pa
    return pa.types.is_floating(kind) or pa.types.is_integer(kind)


def _is_list(kind):
    import pyarrow as pa
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _matrix(columns):
    """Columns of numbers -> float64 (n, D), NaN where there is none."""
    return np.column_stack([c.cast("float64").to_numpy(zero_copy_only=False) for c in columns])


def _some(names):
    return ", ".join(map(str, names[:6])) + (", ..." if len(names) > 6 else "")
