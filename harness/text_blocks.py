"""A listening log as bytes, blocks and tables, and the list of its tracks. Used by preprocess/log.py, for logs, and
by harness/delimited.py and the readers of vectors, for their blocks of text.

The log is a table in text, plain or packed (bz2, gz), tab or comma between the cells, its first line the
header; the columns user_id, track_id and timestamp (2019-02-20 13:45:10, taken as UTC) are used, others
are ignored.
"""
import bz2
import contextlib
import csv
import gzip
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import ids, quotes
from harness.errors import UsageError, WorkError

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = ("user_id", "track_id", "timestamp")
PACKED: dict[bytes, tuple[Any, tuple[str, ...]]] = {b"BZh": (bz2.open, ("lbzip2", "pbzip2")),
                                                    b"\x1f\x8b\x08": (gzip.open, ("pigz",))}
LONGEST = 64 << 20       # bytes without a line end after which a file is no log
TIME = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d(:\d\d(:\d\d(\.\d{1,6})?)?)?)?")


# --------------------------------------------------------------------------- lists of ids

def read_track_list(path: str | Path) -> list[str]:
    """Track ids in row order, as `track_ids` says."""
    return track_ids(path).to_pylist()


def track_ids(path: str | Path) -> "pa.ChunkedArray":
    """Track ids in row order, in Unicode NFC: a file of ids, or of idx,trackid, with or without a header.

    With idx, they must count 0, 1, 2, ... and give the order; a bare list is sorted. A header is recognised by the
    usual names of the field; a first line that looks like a header of another name is named on stderr. Duplicates,
    ids that differ only in form, empty ids, stray quotes and an empty list are WorkErrors. Memory is some copies of the
    file: no id becomes a Python text, unless something is wrong and is to be named.
    """
    import pyarrow as pa
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"no track list at {path}; name the file with --tracks")
    columns = _columns(path)
    if columns is not None:
        heads = [column[:1002].to_pylist() for column in columns]
        header, said, warning = _is_header([list(row) for row in zip(*heads, strict=True)])
        listed = _listed([column[int(header):] for column in columns])
        if listed is not None:
            _say(path, said, warning)
            return listed
    return pa.chunked_array([_read_slowly(path)], pa.large_string())


def _columns(path):
    """The columns of a list of tracks, one or two chunked arrays of texts; None where its text is not quite in order.

    What arrow would read that the csv module refuses, or in another way, is not in order.
    """
    import pyarrow as pa
    from pyarrow import csv as text
    quoted = False
    try:
        with open(path, "rb") as stream:
            for number, block in enumerate(blocks(stream, 1 << 20, alive=1)):
                piece = bytes(block).removeprefix(b"\xef\xbb\xbf") if number == 0 else bytes(block)
                quoted = quoted or b'"' in piece
                if b"\0" in piece or piece.count(b"\r") > piece.count(b"\r\n") or \
                        quotes.scan(piece, ",", 2) != (None, None):
                    return None
        table = text.read_csv(
            path, text.ReadOptions(use_threads=False, autogenerate_column_names=True),
            text.ParseOptions(quote_char='"' if quoted else False, newlines_in_values=quoted),
            text.ConvertOptions(column_types=dict.fromkeys(("f0", "f1"), pa.large_string()), null_values=[],
                                strings_can_be_null=False))
    except (pa.ArrowInvalid, WorkError):
        return None
    return table.columns if table.num_columns <= 2 else None


def _listed(columns):
    """The ids of columns without their header, in order and in NFC; None where something in them is wrong."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    *numbers, listed = columns
    first, chunks = 0, []
    for chunk in listed.chunks:         # chunk by chunk, so that few copies are alive at once
        if numbers and not pc.cast(pa.array(np.arange(first, first + len(chunk))), chunk.type).equals(
                pa.concat_arrays(numbers[0].slice(first, len(chunk)).chunks)):
            return None
        texts = ids.normalised(chunk)
        wrong = (pc.equal(texts, ""), pc.match_substring(texts, "\n"),
                 pc.greater_equal(pc.utf8_length(texts), csv.field_size_limit()))
        if any(pc.any(there).as_py() for there in wrong):
            return None
        chunks.append(texts)
        first += len(chunk)
    texts = pa.chunked_array(chunks, pa.large_string())
    if not _ascending(texts):
        ordered = texts.take(pc.sort_indices(texts))
        if not _ascending(ordered):         # some stand twice
            return None
        texts = texts if numbers else ordered
    return texts if len(texts) else None


def _ascending(texts):
    """Whether each text of a chunked array comes behind the one before it, by its code points."""
    import pyarrow.compute as pc
    filled = [chunk for chunk in texts.chunks if len(chunk)]
    return all(pc.all(pc.less(chunk[:-1], chunk[1:])).as_py() for chunk in filled) and all(
        pc.less(one[-1], other[0]).as_py() for one, other in zip(filled, filled[1:], strict=False))


def _read_slowly(path):
    """As `track_ids`, a list of Python texts: whatever is wrong is named with its words and its line."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as f:
            reader, rows, lines = csv.reader(f, strict=True), [], []
            for row in reader:
                rows += [row] * bool(row)
                lines += [reader.line_num] * bool(row)
                if any("\n" in cell for cell in row):
                    raise WorkError(f"track list {path}: a quoted id ends in line {reader.line_num} and begins above "
                                    f"it, as behind a stray quote; {quotes.MEND}")
    except UnicodeDecodeError as e:
        raise WorkError(f"track list {path} is no text table ({e})") from None
    except csv.Error as e:
        raise WorkError(f"track list {path}, line {reader.line_num}: stray quote or damaged text ({e}); "
                        f"{quotes.MEND}") from None
    header, said, warning = _is_header(rows)
    _say(path, said, warning)
    rows, lines = rows[header:], lines[header:]
    if not rows:
        raise WorkError(f"track list {path} has no ids")
    widths = {len(row) for row in rows}
    if widths not in ({1}, {2}):
        odd = lines[[*map(len, rows)].index(max(widths))]
        raise WorkError(f"track list {path} must have the columns idx,trackid or ids alone, but its lines have "
                        f"{' or '.join(map(str, sorted(widths)))} cells (line {odd}: {max(widths)}); put an id that "
                        "holds a comma in quotes")
    if widths == {2} and [row[0] for row in rows] != [str(i) for i in range(len(rows))]:
        raise WorkError(f"track list {path}: idx must count 0, 1, 2, ... without gaps")
    listed = [row[-1] for row in rows]
    if forms := ids.clash(list(dict.fromkeys(listed))):
        raise WorkError(f"track list {path}: the ids {ascii(forms[0])} and {ascii(forms[1])} differ only in their "
                        "Unicode form or in blanks around them; every id must stand once")
    listed = [ids.normal(i) for i in listed]
    return distinct_ids(listed if widths == {2} else sorted(listed), path)


def _is_header(rows):
    """(whether the first row of a track list names its columns, what is to be said of it, what is to be warned of).

    rows: the first of them at least, up to a thousand and two
    """
    if not rows:
        return False, "", ""
    name = rows[0][-1]
    if name.lower().replace("_", "") in ("trackid", "id"):
        return True, "", ""
    if len(rows[0]) == 2 and rows[0][0] != "0" and len(rows) > 1 and rows[1][0] == "0" or len(rows[0]) == 1 and \
            ids.is_item_name(name):
        return True, f"its first line, {','.join(rows[0])}, is taken as a header", ""
    if len(rows[0]) == 1 and ids.unlike_the_rest(name, [row[0] for row in rows[1:1001] if len(row) == 1]):
        return False, "", (f"its first line, {name!r}, is taken as a track, though it looks like none of the others; "
                           "remove the line if it is a header")
    return False, "", ""


def _say(path, said, warning):
    if said:
        print(f"{path}: {said}")
    if warning:
        print(f"warning: {path}: {warning}", file=sys.stderr)


def distinct_ids(listed: list[str], where: object) -> list[str]:
    """The ids as they are; WorkError where one is empty or stands twice."""
    if len(set(listed)) < len(listed):
        seen, twice = set(), []
        for i in listed:
            twice += [i] * (i in seen)
            seen.add(i)
        raise WorkError(f"track list {where} has {len(listed) - len(seen)} duplicates, "
                        f"such as {', '.join(dict.fromkeys(twice[:3]))}; every id must stand once")
    if "" in listed:
        raise WorkError(f"track list {where} has an empty id")
    return listed


# --------------------------------------------------------------------------- bytes of the log

@contextlib.contextmanager
def open_log(path: str | Path) -> Iterator[tuple[Any, Callable[[], int]]]:
    """Yield (stream, position): the unpacked bytes of a log, and a function telling how many packed ones are read.

    Packed files go through a parallel program where one is installed (lbzip2, pbzip2, pigz), else through
    Python's own reader.
    """
    with open(path, "rb", buffering=0) as raw:
        magic = raw.read(3)
        raw.seek(0)

        def position():
            return os.lseek(raw.fileno(), 0, os.SEEK_CUR)  # a child that reads the file moves this offset too
        if magic not in PACKED:
            yield raw, position
            return
        reader, programs = PACKED[magic]
        program = next(filter(None, map(shutil.which, programs)), None)
        try:
            with (_piped(program, raw) if program else reader(raw)) as stream:
                yield stream, position
        except (EOFError, zlib.error) as e:
            raise WorkError(f"{path} is damaged: {e}") from None
        except OSError as e:
            if e.errno is None:  # the readers' own complaints
                raise WorkError(f"{path} is damaged: {e}") from None
            raise


@contextlib.contextmanager
def _piped(program, raw):
    """The output of an unpacking program; EOFError with its own words when it gave up, whatever came of that."""
    with tempfile.TemporaryFile() as complaints:
        child = subprocess.Popen([program, "-dc"], stdin=raw, stdout=subprocess.PIPE, stderr=complaints)

        def gave_up():
            return child.stdout.read(1) == b"" and child.wait() != 0
        try:
            try:
                yield child.stdout
                failed = gave_up()
            except WorkError:  # such as a row cut in the middle
                failed = gave_up()
                if not failed:
                    raise
            if failed:
                complaints.seek(0)
                said = complaints.read(300).decode(errors="replace").strip()
                raise EOFError(f"{Path(program).name} says {said!r}") from None
        finally:
            child.kill()
            child.stdout.close()
            child.wait()


def blocks(stream: Any, size: int, alive: int) -> Iterator[memoryview]:
    """Cut a stream into memoryviews of about `size` bytes that end in a line end, the last line completed.

    alive: how many of them are in use at once; the memory of a block is used again `alive` blocks later.
    """
    ring, rest, number = [bytearray(size) for _ in range(alive)], b"", 0
    while True:
        space = ring[number % alive]
        if len(space) < len(rest) + size:
            space = ring[number % alive] = bytearray(len(rest) + size)
        space[:len(rest)] = rest
        read = stream.readinto(memoryview(space)[len(rest):])
        if not read:
            break
        filled = len(rest) + read
        cut = space.rfind(b"\n", 0, filled) + 1
        rest = bytes(memoryview(space)[cut:filled])
        if cut:
            number += 1
            yield memoryview(space)[:cut]
        elif len(rest) > LONGEST:
            raise WorkError("the log has no line end in its first megabytes; it is no text table")
    if rest:
        yield memoryview(rest + b"\n")


# --------------------------------------------------------------------------- tables

class TextUsers(Exception):
    """A user id that is no canonical whole number came along, so that every user is a text."""


class Parser:
    """Parses blocks of one log; an instance is shared by the threads. integers: every user so far was a number."""

    def __init__(self, log, header, listed, integers):
        import pyarrow as pa
        from pyarrow import csv as text
        self.log, self.integers, self.ids = log, integers, pa.array(listed, pa.string())
        line = header.decode("utf-8-sig", errors="replace").strip()
        if b"\0" in header or "\ufffd" in line:
            raise WorkError(f"the log {log} is no UTF-8 text; unpack it (gz, bz2 are read as they are) or convert it")
        self.delimiter, self.quoted = ("\t", False) if "\t" in line else (",", True)
        self.names = [c.strip().strip('"') for c in quotes.cells_of(line, self.delimiter, self.quoted)]
        if not line:
            raise WorkError(f"the log {log} is empty, or its first line is; "
                            f"expected a header with {', '.join(COLUMNS)}, then plays")
        if missing := [c for c in COLUMNS if c not in self.names]:
            raise WorkError(f"the log {log} has no column {', '.join(missing)}; its first line must name "
                            f"{', '.join(COLUMNS)} (separated by tabs or commas), but is {line[:80]!r}")
        if twice := [c for c in COLUMNS if self.names.count(c) > 1]:
            raise WorkError(f"the log {log} has two columns of the name {twice[0]}; rename the one that is not to be "
                            "read")
        self.read = text.ReadOptions(column_names=self.names, use_threads=False, block_size=1 << 30)
        self.parse = text.ParseOptions(delimiter=self.delimiter, quote_char='"' if self.quoted else False)
        self.convert = text.ConvertOptions(
            include_columns=COLUMNS, null_values=[], strings_can_be_null=False, timestamp_parsers=[text.ISO8601],
            column_types={"user_id": pa.string() if integers else pa.dictionary(pa.int32(), pa.string()),
                          "track_id": pa.string(), "timestamp": pa.timestamp("us")})

    def __call__(self, block):
        """One block as (table of known plays, rows read, distinct unknown ids, ids.Forms of users and of tracks).

        user_id is int64, or a dictionary of texts; TextUsers where it should be int64 and is not.
        """
        import pyarrow as pa
        import pyarrow.compute as pc
        from pyarrow import csv as text
        forms = {"users": ids.Forms(), "tracks": ids.Forms()}
        if not (bytes(block[:1024]).strip() or bytes(block).strip()):
            kinds = self.convert.column_types | ({"user_id": pa.int64()} if self.integers else {})
            return pa.table({name: pa.array([], kinds[name]) for name in COLUMNS}), 0, [], forms
        table = text.read_csv(pa.BufferReader(block), self.read, self.parse, self.convert)
        user, track = self._user(table["user_id"].combine_chunks(), forms["users"]), table["track_id"]
        row, unknown = self._row(track, forms["tracks"])
        known = table.set_column(0, "user_id", user).set_column(1, "track_id", row.cast(pa.int64()))
        return known.filter(pc.is_valid(row)) if row.null_count else known, len(table), unknown, forms

    def _user(self, column, forms):
        """Users as written -> int64 numbers, or a dictionary of texts in their form for comparison."""
        import pyarrow as pa
        import pyarrow.compute as pc
        if self.integers:
            if (numbers := ids.numbers(column)) is not None:
                return numbers
            column = column.dictionary_encode()
        texts = ids.normalised(column.dictionary)
        forms.add(column.dictionary, texts)
        if pc.any(pc.equal(texts, "")).as_py():
            raise pa.ArrowInvalid("a user without an id")
        if not self.integers:
            return pa.DictionaryArray.from_arrays(column.indices, texts)
        if (numbers := ids.numbers(texts)) is None:
            raise TextUsers
        return numbers.take(column.indices)

    def _row(self, track, forms):
        """Track ids -> (their rows of the list, null for an unknown one; the distinct unknown ones)."""
        import pyarrow.compute as pc
        row = pc.index_in(track, value_set=self.ids)
        if not row.null_count:
            return row, []
        unknown = pc.unique(track.filter(pc.is_null(row)))
        texts = ids.normalised(unknown)
        found = pc.index_in(texts, value_set=self.ids)
        if found.null_count < len(found):       # in the list, but written in another form
            forms.add(unknown.filter(pc.is_valid(found)), texts.filter(pc.is_valid(found)))
            row = pc.coalesce(row, found.take(pc.index_in(track, value_set=unknown).combine_chunks()))
            unknown = unknown.filter(pc.is_null(found))
        return row, unknown.to_pylist()

    def explain(self, block: memoryview, line: int) -> str:
        """The sentence about the first bad row of a block whose first row is the log's line `line`."""
        text, number = str(block, "utf-8", "replace"), line
        try:
            for number, cells in quotes.numbered_rows(text, self.delimiter, self.quoted, line):
                if cells in ([], [""]):
                    continue
                if len(cells) != len(self.names):
                    return (f"{self.log}, line {number}: {len(self.names)} cells expected "
                            f"({', '.join(self.names)}), but there are {len(cells)}")
                row = dict(zip(self.names, cells, strict=True))
                if not _is_time(row["timestamp"]):
                    return (f"{self.log}, line {number}: timestamp {row['timestamp'][:40]!r} is no time "
                            "like 2019-02-20 13:45:10")
                if any("\ufffd" in row[name] for name in COLUMNS):
                    return f"{self.log}, line {number}: {', '.join(row[name] for name in COLUMNS)} is not UTF-8 text"
                if not ids.normal(row["user_id"]):
                    return f"{self.log}, line {number}: user_id is empty"
        except csv.Error as e:
            return f"{self.log}, line {number}: the row cannot be read ({e})"
        return f"{self.log}: rows {line} to {line + quotes.lines_in(block)} do not parse"


def _is_time(text):
    try:
        return bool(TIME.fullmatch(text) and datetime.fromisoformat(text))
    except ValueError:
        return False
