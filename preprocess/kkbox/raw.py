"""The five files of the KKBOX challenge as tables of one DuckDB session.

    files = archives.unpack(archives.find("kkbox", names), hidden)
    with Raw(files, memory=1 << 30, spill=hidden / "spill") as raw:
        raw.run("select count(*) from train")

Views `train`, `test`, `songs`, `members`, `song_extra_info`: the columns of the file, all text, an empty cell null.
A row whose number of cells differs from the header, or with invalid UTF-8 in a column of COLUMNS, is a WorkError with
its row number; the cells of other columns are not read.
"""
import csv
import re
import sys
from concurrent.futures import ThreadPoolExecutor

from harness import delimited, quotes
from harness.errors import WorkError
from harness.files import exact, quoted
from preprocess import stage

COLUMNS = {"train": ("msno", "song_id", "source_system_tab", "source_screen_name", "source_type", "target"),
           "test": ("msno", "song_id", "source_system_tab", "source_screen_name", "source_type"),
           "songs": ("song_id", "song_length", "genre_ids", "artist_name", "composer", "lyricist", "language"),
           "members": ("msno", "city", "bd", "gender", "registered_via", "registration_init_time", "expiration_date"),
           "song_extra_info": ("song_id", "name", "isrc")}
BLOCK = 8 << 20    # bytes of a csv file that one core reads at a time; larger blocks do not fit its cache


def header(path):
    """Column names of a csv file: its first line that is not blank; [] for an empty file."""
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as f:
        try:
            return next(filter(None, csv.reader(f)), [])
        except csv.Error as e:
            raise WorkError(f"{path} has no header of column names ({e})") from None


def columns_of(path, needed):
    """Unique names for all columns of a csv file: needed ones keep their names, the others get a number."""
    columns = header(path)
    if not columns:
        raise WorkError(f"{path} is empty; a csv with the columns {', '.join(needed)} is expected")
    if missing := [c for c in needed if c not in columns]:
        raise WorkError(f"{path} has no column {', '.join(missing)}; it has {', '.join(columns)[:300]}")
    if twice := [c for c in needed if columns.count(c) > 1]:
        raise WorkError(f"{path} has the column {', '.join(twice)} more than once; remove or rename the duplicates")
    return [c if c in needed else f"column {i}" for i, c in enumerate(columns)]


class Raw:
    """A DuckDB session with a view of each file; errors of SQL and of csv become one sentence."""

    def __init__(self, files, memory, spill):
        """files: {name: Path of a plain csv}; memory: bytes for DuckDB; spill: folder for its temporary files."""
        self.files, self.texts = files, {}
        self.pool = ThreadPoolExecutor(2)
        self.con = stage.session(memory, spill)
        for name, path in files.items():
            columns = ", ".join(f"{quoted(c)}: 'varchar'" for c in columns_of(path, COLUMNS[name]))
            self.run(f"""create view {name} as from read_csv({exact(path)}, columns={{{columns}}}, header=true,
                hive_partitioning=false, delim=',', quote='"', escape='"', auto_detect=false, strict_mode=true)""")

    def run(self, sql):
        return self._do(lambda: self.con.execute(sql))

    def encoded(self, name, columns):
        """Columns of a file as an Arrow table of dictionaries (int32 -> text, null for an empty cell)."""
        import pyarrow as pa
        return self._read(name, columns, pa.dictionary(pa.int32(), pa.string()))

    def read_ahead(self, *names):
        """Start reading files that are later passed to `rows`."""
        import pyarrow as pa
        self.texts |= {name: self.pool.submit(self._read, name, COLUMNS[name], pa.string()) for name in names}

    def rows(self, name, wanted):
        """The row of each id of `wanted` (Arrow texts), as an Arrow table in their order; nulls for missing ids.

        The id is the first of the file's COLUMNS. Of duplicate ids the first row is used, and their number is
        printed. `read_ahead` must have been called for the file.
        """
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc
        key, *_ = COLUMNS[name]
        table = self.texts.pop(name).result()
        place = pc.index_in(table[key], value_set=wanted)
        table, place = table.filter(place.is_valid()), place.drop_null().to_numpy()
        row = np.full(len(wanted), -1)
        row[place[::-1]] = np.arange(len(place))[::-1]   # of duplicate ids the first row is assigned last
        if repeated := len(place) - np.count_nonzero(row >= 0):
            print(f"{self.files[name].name}: {repeated} rows repeat a {key}; the first row is used")
        return table.combine_chunks().take(pa.array(row, mask=row < 0))

    def _read(self, name, columns, kind):
        """Columns of a file as an Arrow table, read once, in blocks, on all cores.

        After an error the DuckDB session reads the file once more to find the number of the row.
        """
        import pyarrow as pa
        from pyarrow import csv as arrow
        path, quoting = self.files[name], quotes.occur(self.files[name])
        try:
            table = arrow.read_csv(
                path, arrow.ReadOptions(block_size=BLOCK), arrow.ParseOptions(newlines_in_values=quoting),
                arrow.ConvertOptions(include_columns=columns, column_types=dict.fromkeys(columns, kind),
                                     null_values=[""], strings_can_be_null=True))
        except pa.ArrowInvalid as e:
            fault = f"select count(hash(row)) from {name} as row"
            self._do(lambda: self.con.cursor().execute(fault).fetchall())   # a cursor, as files are read concurrently
            raise WorkError(f"{path} is not the expected table ({str(e).splitlines()[0][:200]})") from None
        if quoting:     # the published files have such cells, which other readers of them take as they are, too
            try:
                delimited.check_quotes(path, ",")
            except WorkError as e:
                print(f"warning: {e}; those rows are read as one", file=sys.stderr)
        return table

    def select(self, sql, rows):
        """Result of a query on an Arrow table, named `given` in the query, as an Arrow table."""
        self.con.register("given", rows)
        try:
            return self._do(lambda: self.con.sql(sql).to_arrow_table())
        finally:
            self.con.unregister("given")

    def _do(self, work):
        import duckdb
        try:
            return work()
        except duckdb.OutOfMemoryException as e:
            raise WorkError(f"out of memory or of disk space for temporary files ({str(e).splitlines()[0]}); "
                            "raise --memory, or free disk space in the workspace") from None
        except (duckdb.InvalidInputException, duckdb.ConversionException) as e:
            raise WorkError(self._explain(str(e))) from None

    def _explain(self, error):
        where = re.search(r"CSV Error on Line: (\d+)", error)
        path = re.search(r"^\s*file = (.*)$", error, re.MULTILINE)
        counts = re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", error)
        text = re.search(r"Original Line: ?(.{0,60})", error)
        place = (f"{path[1] if path else 'a csv file'}, row {where[1] if where else '?'} (the header is row 1"
                 f"{f'; it begins {text[1]!r}' if text else ''})")
        if counts:
            many = counts[2] if int(counts[2]) < int(counts[1]) else "more"
            return f"{place}: {many} cells where the header has {counts[1]}; correct or remove that row"
        if "unterminated quote" in error:
            return f"{place}: the quoted cell that begins there is not closed; correct or remove that row"
        if "unicode" in error:
            return f"{place}: invalid UTF-8; the files of the challenge are UTF-8"
        return f"{place} is not the expected table ({' '.join(error.split())[:200]})"

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.pool.shutdown(cancel_futures=True)
        self.con.close()
