"""Opening interaction logs of any form as a DuckDB relation whose columns are text: csv and its kin, parquet, json.

Text is read strictly: a row with a cell too many or too few, or a quote that never ends, is an error that names the
row, or is counted and left out with --bad-rows skip. Packed files (gz, bz2, xz, zst) are unpacked to disk first.
"""
import bz2
import gzip
import lzma
import re
import shlex
import shutil
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from harness import ids
from harness.errors import UsageError, WorkError
from harness.files import exact, quoted
from preprocess.interactions import float_ids, quoting, recognising
from preprocess.interactions.columns import role_of

PACKED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open, b"\x28\xb5\x2f\xfd": None}   # None: zstd


@dataclass
class Log:
    """A log ready to be queried. sql: a relation of text columns; columns: their names; form: what it was taken for."""
    sql: str
    columns: list
    form: str
    rejects: bool = False      # rows that do not parse are left out and kept in the session's table of rejects
    quoted: bool = False       # a text in which quotes occur
    files: tuple = ()          # the unpacked files of a text, and the delimiter of its cells
    delimiter: str = ""
    floats: dict = field(default_factory=dict)    # {column of floats: from what size on they skip whole numbers, or 0}
    kinds: dict = field(default_factory=dict)     # {column: DuckDB's type} of parquet and json

    def take_floats(self, con, column, path):
        """Read a column of texts that is one of floats, as preprocess/interactions/float_ids.py says, as such."""
        cell = ids.STRIPPED.format(_name(column))
        if column not in self.floats and float_ids.of_texts(con, self.sql, cell, column, path)[0]:
            self.floats[column] = 0


def files_of(paths) -> list:
    """The files that --log names, folders replaced by the visible files in them; UsageError where there is none."""
    files = []
    for path in map(Path, paths):
        path = path.expanduser()
        inside = sorted(p for p in path.glob("[!.]*") if p.is_file())     # nothing where the path is a file
        if path.is_dir() and not inside:
            raise UsageError(f"--log {path} is a folder without files")
        if not path.is_dir() and not path.is_file():
            raise UsageError(f"--log {path} is no file or folder")
        files += inside or [path]
    if empty := [p for p in files if not p.stat().st_size]:
        raise WorkError(f"{empty[0]} is empty")
    return files


def open_log(con, paths, spill, recipe=None, header=None, skip_bad=False, item=None) -> Log:
    """Recognise the form of the files (all alike) and make them a relation of `con`.

    con: a DuckDB connection; spill: folder for unpacked copies; header: True or False where the caller knows;
    skip_bad: leave out rows that do not parse (`rejected` counts them); item: the column of items, None where its name
    says so. WorkError for files that are no table.
    """
    plain_files = [unpacked(path, spill / f"{n}{_inner_suffix(path)}") for n, path in enumerate(paths)]
    kinds = {_kind(path) for path in plain_files}
    if len(kinds) > 1:
        raise UsageError(f"the files of the log are of different kinds ({', '.join(sorted(kinds))}); read one kind "
                         "at a time")
    kind = kinds.pop()
    if kind == "json":
        plain_files = [_unmarked(path, spill / f"{n}.json") for n, path in enumerate(plain_files)]
    names = "[" + ", ".join(map(exact, plain_files)) + "]"
    if kind == "parquet":
        _check_columns(paths, plain_files)
        return _as_text(con, f"read_parquet({names}, union_by_name=true, hive_partitioning=false)", "parquet", paths[0],
                        item)
    if kind == "json":
        return _json(con, names, paths[0], item)
    return _text(con, paths, plain_files, spill, recipe, header, skip_bad)


# --------------------------------------------------------------------------- bytes

def unpacked(path, target):
    """The path itself, or that of an unpacked copy; WorkError for a damaged archive."""
    with open(path, "rb") as f:
        magic = f.read(6)
    way = next((m for m in PACKED if magic.startswith(m)), None)
    if way is None:
        return path
    try:
        with _reader(path, way) as source, open(target, "wb") as out:
            shutil.copyfileobj(source, out, 1 << 20)
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as e:
        if isinstance(e, OSError) and e.errno is not None:
            raise
        raise WorkError(f"{path} is damaged: {e}") from None
    if not target.stat().st_size:
        raise WorkError(f"{path} is empty")
    return target


def _reader(path, magic):
    if PACKED[magic]:
        return PACKED[magic](path, "rb")
    import pyarrow as pa
    return pa.CompressedInputStream(str(path), "zstd")


def _inner_suffix(path):
    return Path(path.stem).suffix if path.suffix in (".gz", ".bz2", ".xz", ".zst") else path.suffix


def _kind(path):
    with open(path, "rb") as f:
        start = f.read(4096)
    if start.startswith(b"PAR1"):
        return "parquet"
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text[:1] in (b"{", b"[") and (text[:1] == b"{" or text[1:].lstrip()[:1] == b"{"):
        return "json"
    if b"\0" in start:
        raise WorkError(f"{path} is no text, parquet or json file: its first bytes hold zeros")
    return "text"


# --------------------------------------------------------------------------- parquet and json

def _check_columns(paths, files):
    """WorkError for a parquet file of which two columns have one name, in whatever case, as DuckDB renames the second,
    and for files of which some have the zone of their times and some do not, as DuckDB takes the latter for UTC."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    zoned = {}      # column: {whether its times have a zone: a file}
    for path, file in zip(paths, files, strict=True):
        try:
            schema = pq.read_schema(file)
        except (pa.ArrowException, OSError):
            return      # DuckDB says what is wrong
        names = Counter(name.lower() for name in schema.names)
        if twice := next((name for name, n in names.items() if n > 1), None):
            raise WorkError(f"{path}: two of its columns are called {twice!r}")
        for column in schema:
            if pa.types.is_timestamp(column.type):
                zoned.setdefault(column.name, {}).setdefault(column.type.tz is not None, path)
    for name, kinds in zoned.items():
        if len(kinds) > 1:
            raise WorkError(f"{name} has a time zone in {kinds[True]} and none in {kinds[False]}; write it alike in "
                            "all files of the log")


def _unmarked(path, target):
    """The path itself, or that of a copy without the byte order mark that it begins with."""
    with open(path, "rb") as source:
        if source.read(3) != b"\xef\xbb\xbf":
            return path
        with open(target, "wb") as out:
            shutil.copyfileobj(source, out, 1 << 20)
    return target


def _as_text(con, relation, form, path, item, given=None):
    """Columns of a typed file as text; one row per user with lists, of items too, becomes one row per element.

    Where a row has one item, its lists, such as genres, are several values in a cell. given: {column: type} as the file
    has them, where the relation has texts.
    """
    import duckdb
    try:
        described = con.execute(f"describe select * from {relation}").fetchall()
    except duckdb.Error as e:
        raise WorkError(f"{path} cannot be read as {form} ({str(e).splitlines()[0]})") from None
    names, kinds = [row[0] for row in described], {row[0]: row[1] for row in described}
    lists = [name for name in names if kinds[name].endswith("[]")]
    if len(lists) < len(names) and any(n in item.split(" + ") if item else role_of(n) == "item" for n in lists):
        lengths = " or ".join(f"len({_name(lists[0])}) <> len({_name(n)})" for n in lists[1:])
        if lengths and (bad := con.execute(f"select count(*) from {relation} where {lengths}").fetchone()[0]):
            raise WorkError(f"{path}: {bad} rows have lists of different lengths in {', '.join(lists)}")
        cells = ", ".join(f"unnest({_name(n)}) as {_name(n)}" if n in lists else _name(n) for n in names)
        relation = f"(select {cells} from {relation})"
        kinds |= {name: kinds[name].removesuffix("[]") for name in lists}
    cells = ", ".join(_cell(name, kinds[name]) for name in names)
    if given is None:
        floats = {name: float_ids.EXACT[kind] for name, kind in kinds.items() if kind in float_ids.EXACT}
    else:
        kinds = {name: given[name].removesuffix("[]") if name in lists else given[name] for name in names}
        floats = {name: 0 for name in names if kinds[name] == "DOUBLE"}
    return Log(f"(select {cells} from {relation})", names, form, floats=floats, kinds=kinds)


def _json(con, names, path, item):
    """As _as_text, of fields that are read as they are written: typed ones would lose digits of large numbers, the
    capitals of a UUID and more, and a field of numbers and texts its texts."""
    import duckdb
    options = "hive_partitioning=false, maximum_object_size=67108864, compression='none'"
    try:
        described = con.execute(f"""describe select * from read_json({names}, union_by_name=true, sample_size=-1,
            {options})""").fetchall()      # of all rows, as a field may be first named anywhere
    except duckdb.Error as e:
        raise WorkError(f"{path} cannot be read as json ({str(e).splitlines()[0]})") from None
    given = {row[0]: row[1] for row in described}
    if given in ({"json": "JSON"}, {"json": "MAP(VARCHAR, JSON)"}):      # what DuckDB calls values without fields
        raise WorkError(f"{path} has no json objects with fields, which would be its rows")
    kinds = ", ".join(f"{quoted(name)}: {quoted('varchar[]' if kind.endswith('[]') else 'varchar')}"
                      for name, kind in given.items())
    return _as_text(con, f"read_json({names}, columns={{{kinds}}}, {options})", "json", path, item, given)


def _cell(name, kind):
    """A typed column as text; times with their offset from UTC, so that no zone is lost."""
    if kind.endswith("[]"):
        return f"array_to_string({_name(name)}::varchar[], '|') as {_name(name)}"
    if kind == "BLOB":      # texts, as some writers do not say that they are
        return f"decode({_name(name)}) as {_name(name)}"
    if kind == "TIMESTAMP WITH TIME ZONE":
        return f"strftime({_name(name)} at time zone 'UTC', '%Y-%m-%d %H:%M:%S.%f') || '+00' as {_name(name)}"
    return f"{_name(name)}::varchar as {_name(name)}"


def check_cells(log, roles, path):
    """WorkError where a role's column holds objects or lists within lists; roles: {role: column}."""
    for role, columns in roles.items():
        for column in columns.split(" + "):
            kind = log.kinds.get(column, "")
            if kind.startswith(("STRUCT", "MAP")) or kind.endswith("]"):
                what = "lists" if kind.endswith("]") else "objects with fields of their own"
                raise WorkError(f"{path}: {column}, the {role}, holds {what}; write the {role} as a column of its own")
            if kind == "FLOAT" and role == "time":
                raise WorkError(f"{path}: {column}, the time, is of 32-bit floats, which are minutes apart at times of "
                                "today; write it as integers or 64-bit floats")


def hint(con, log, column):
    """The flag for a column that no flag names, as far as its first values are dates; '' for any other."""
    import duckdb
    if log.rejects:      # every query of such a log counts its bad rows again
        return ""
    try:
        name = _name(column)
        values = con.execute(f"select {name} from {log.sql} where {name} is not null limit 50").fetchall()
    except duckdb.Error:
        return ""
    dated = values and all(re.match(r"\s*\d{4}-\d\d-\d\d", str(value)) for value, in values)
    return f"it holds times: --time {shlex.quote(column)}" if dated else ""


def _name(column):
    """A column's name in SQL."""
    return '"' + str(column).replace('"', '""') + '"'


# --------------------------------------------------------------------------- text

def _text(con, paths, files, spill, recipe, header, skip_bad):
    """csv and its kin, all of one form; WorkError where a file has another header than the first, or only some do."""
    lines = recognising.first_lines(files[0], paths[0])
    delimiter = recipe.delimiter if recipe and recipe.delimiter else \
        recognising.delimiter_of(lines, paths[0], len(recipe.names) if recipe else 0)
    if delimiter == " ":        # runs of blanks: one tab each
        files, delimiter = [recognising.tabbed(path, spill / f"{n}.tabs") for n, path in enumerate(files)], "\t"
        lines = recognising.first_lines(files[0], paths[0])
    else:
        files = [recognising.one_line_end(path, spill / f"{n}.lines") for n, path in enumerate(files)]
    quote, occurs = quoting.mark(files, delimiter, lines)
    rows = [recognising.cells_of(line, delimiter, quote) for line in lines]
    width = len(rows[0])
    named = header if header is not None else recognising.has_header(rows, recipe, paths[0])
    if named:
        columns = [cell.strip().strip('"') or f"column {i}" for i, cell in enumerate(rows[0], 1)]
        if len({c.lower() for c in columns}) < width:       # DuckDB does not tell them apart
            twice = next(c for c, n in Counter(map(str.lower, columns)).items() if n > 1)
            same = " and ".join(dict.fromkeys(repr(c) for c in columns if c.lower() == twice))
            raise WorkError(f"{paths[0]}: two columns of its header are called {same}; rename one")
    elif recipe and recipe.names:
        columns = list(recipe.names[:width])
        if width > len(recipe.names):
            raise WorkError(f"{paths[0]}: rows have {width} cells; {recipe.say}")
    else:
        columns = [f"column{i}" for i in range(1, width + 1)]
    if header is not False:
        recognising.check_headers(paths, files, delimiter, quote, rows, named, recipe)
    kinds = "{" + ", ".join(f"{quoted(c)}: 'varchar'" for c in columns) + "}"
    names = "[" + ", ".join(map(exact, files)) + "]"
    relation = (f"read_csv({names}, hive_partitioning=false, compression='none', columns={kinds}, "
                f"delim={quoted(delimiter)}, header={str(named).lower()}, quote={quoted(quote)}, "
                f"escape={quoted(quote)}, auto_detect=false, strict_mode=true, nullstr='', "
                f"max_line_size={16 << 20}, buffer_size={32 << 20}" + (", store_rejects=true)" if skip_bad else ")"))
    shown = {"\t": "tabs", " ": "blanks"}.get(delimiter, repr(delimiter))
    form = (f"text, cells separated by {shown}, {'with' if named else 'without'} a header"
            + (', \'"\' an ordinary character' if occurs and not quote else ""))
    return Log(relation, columns, form, skip_bad, bool(quote) and occurs, (*files,), delimiter)


# --------------------------------------------------------------------------- rows that do not parse

def rejected(con) -> tuple:
    """(rows left out, a sentence about the first) after a query over a Log with rejects; (0, "") without any."""
    tables = {row[0] for row in con.execute("select table_name from duckdb_tables()").fetchall()}
    if "reject_errors" not in tables:
        return 0, ""
    count = con.execute("""select coalesce(sum(lines), 0)::bigint from (select max(1 + length(rtrim(csv_line, chr(10)))
        - length(replace(rtrim(csv_line, chr(10)), chr(10), ''))) as lines from reject_errors group by file_id, line)
        """).fetchone()[0]
    if not count:
        return 0, ""
    line, text, error = con.execute("""select line, csv_line, error_type from reject_errors
        order by file_id, line limit 1""").fetchone()
    return count, f"line {line} ({str(error).lower().replace('_', ' ')}): {str(text)[:60]!r}"


ERRORS = (   # words of DuckDB's errors, in lower case, and ours
    ("unicode", "bytes that are not UTF-8 text"), ("utf-8", "bytes that are not UTF-8 text"),
    ("invalid state", "line ends or quotes that are not alike in all rows"),
    ("quote", "a quoted cell that never ends, or text behind a closing quote"),
    ("maximum line size", "a line of more than 16 MB: probably a quote that never ends"))


MEND = "mend the row"
SKIP = f"{MEND}, or leave out such rows with --bad-rows skip, which counts them"


def sentence(error, path, log, remedy=SKIP) -> str:
    """DuckDB's error about a log as one sentence, of a text with the line; with --bad-rows skip it advises no more."""
    text = str(error)
    if not log.files:       # parquet or json, whose rows cannot be left out
        return f"{path} cannot be read to its end ({text.splitlines()[0]}); make or fetch the file again"
    remedy = MEND if log.rejects else remedy
    line = re.search(r"Line:\s*(\d+)", text) or re.search(r"line[: ]+(\d+)", text)
    what = next((words for key, words in ERRORS if key in text.lower()), None)
    cells = re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", text)
    if cells:
        what = f"{cells[2]} cells where {cells[1]} are expected"
    where = f"line {line[1]}" if line else "a row"
    return f"{path}, {where}: {what or text.splitlines()[0]}; {remedy}"


