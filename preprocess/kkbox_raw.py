"""The five files of the KKBOX challenge as tables of one DuckDB session, out of whatever archive they are in.

    files = kkbox_raw.unpack(kkbox_raw.find("kkbox", names), hidden)
    with kkbox_raw.Raw(files, memory=1 << 30, spill=hidden / "spill") as raw:
        raw.run("select count(*) from train")

Views `train`, `test`, `songs`, `members`, `song_extra_info`: the columns of the file, all text, an empty cell null.
A row with another number of cells than the header stops the work with its number, and so do bytes that are no UTF-8
in a column of COLUMNS; the cells of other columns are not read.
"""
import contextlib
import csv
import errno
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import runs
from preprocess import download
from runs import UsageError, WorkError

COLUMNS = {"train": ("msno", "song_id", "source_system_tab", "source_screen_name", "source_type", "target"),
           "test": ("msno", "song_id", "source_system_tab", "source_screen_name", "source_type"),
           "songs": ("song_id", "song_length", "genre_ids", "artist_name", "composer", "lyricist", "language"),
           "members": ("msno", "city", "bd", "gender", "registered_via", "registration_init_time", "expiration_date"),
           "song_extra_info": ("song_id", "name", "isrc")}
ARCHIVES = (".7z", ".zip")
BLOCK = 8 << 20    # bytes of a csv file that one core reads at a time; larger ones fall out of its cache
UNPACKERS = ("7zz", "7z", "7za", "bsdtar")


# --------------------------------------------------------------------------- where the files are

def find(raw, names, optional=()):
    """{name: Path of NAME.csv or of the archive that holds it}, for a folder or one archive `raw`.

    optional: names that may be nowhere, and then are left out. UsageError where there is no such folder or file;
    WorkError that names every other file that is missing.
    """
    raw = Path(raw).expanduser()
    if raw.is_file() and raw.suffix in ARCHIVES:
        there = _chosen(_members(raw), names)
        return {name: raw for name in names if name in there or name not in optional}
    if not raw.is_dir():
        raise UsageError(f"--raw {raw} is neither a folder nor a .zip or .7z; name what holds {_csv_names(names)}")
    found = {}
    for name in names:
        places = (raw / f"{name}{suffix}" for suffix in (".csv", ".csv.7z", ".csv.zip", ".7z", ".zip"))
        if there := [path for path in places if path.is_file()]:
            found[name] = there[0]
    if len(found) < len(names):   # an archive of several of them, or one that has nothing to do with them
        for archive in [p for p in sorted(raw.iterdir()) if p.suffix in ARCHIVES and p not in found.values()]:
            found |= dict.fromkeys(_chosen(_members(archive), [n for n in names if n not in found]), archive)
    if missing := [n for n in names if n not in found and n not in optional]:
        raise WorkError(f"--raw {raw} lacks {_csv_names(missing)} (nor is it there as .csv.7z or .csv.zip)"
                        f"{_without(missing)}")
    return found


def _without(missing):
    return "; without test.csv, --test last takes the end of each playlist instead" if missing == ["test"] else ""


def _chosen(members, names):
    """{name: the member that is NAME.csv or an archive of it}; without the names that none is."""
    found = {}
    for name in names:
        there = [m for suffix in (".csv", ".csv.7z", ".csv.zip") for m in members
                 if Path(m).name == name + suffix and "__MACOSX" not in m]
        if there:
            found[name] = there[0]
    return found


def _csv_names(names):
    return ", ".join(f"{name}.csv" for name in names)


def unpack(found, folder):
    """{name: Path of a plain NAME.csv}; what is in archives, also archives within archives, goes to `folder`."""
    plain = {}
    for archive in sorted({p for p in found.values() if p.suffix in ARCHIVES}):
        wanted = [name for name, path in found.items() if path == archive]
        plain |= _open(archive, wanted, folder)
    return {name: plain.get(name, path) for name, path in found.items()}


def _open(archive, names, folder):
    """Take NAME.csv, or an archive of it, out of an archive."""
    members = _members(archive)
    chosen = _chosen(members, names)
    if missing := [n for n in names if n not in chosen]:
        raise WorkError(f"{archive} lacks {_csv_names(missing)}; it holds {', '.join(members[:8]) or 'nothing'}"
                        f"{_without(missing)}")
    folder.mkdir(parents=True, exist_ok=True)
    print(f"unpacking {_csv_names(chosen)} from {archive.name}")
    _extract(archive, chosen, folder)
    plain = {}
    for name, member in chosen.items():
        path = folder / Path(member).name
        plain[name] = path
        if path.suffix in ARCHIVES:
            plain |= _open(path, [name], folder)
            path.unlink()
    return plain


def _members(archive):
    """Names of the files in an archive."""
    if archive.suffix == ".zip":
        with download.open_zip(archive) as opened:
            return [m.filename for m in opened.infolist() if not m.is_dir()]
    if py7zr := _py7zr():
        with _open_7z(py7zr, archive) as opened:
            return opened.getnames()
    program = _program(archive)
    if program == "bsdtar":
        return _run(archive, [program, "-tf", archive]).splitlines()
    told = _run(archive, [program, "l", "-slt", archive]).partition("\n----------\n")[2]   # before: the archive itself
    return re.findall("^Path = (.*)$", told, re.MULTILINE)


def _extract(archive, chosen, folder):
    """Write members {name: member} flat into `folder`, under their last names."""
    members = list(chosen.values())
    if archive.suffix == ".zip":
        download.unpack(archive, folder, [Path(m).name for m in members])
        return
    inside = folder / f".{archive.name}.out"
    if py7zr := _py7zr():
        with _open_7z(py7zr, archive) as opened:
            opened.extract(path=inside, targets=members)
    else:
        inside.mkdir()
        program = _program(archive)
        _run(archive, [program, "-xf", archive, "-C", inside] if program == "bsdtar"
             else [program, "x", "-y", f"-o{inside}", archive], members)
    if lost := [m for m in members if not (inside / m).is_file()]:
        raise WorkError(f"{archive} gave no {', '.join(lost)} when it was unpacked; fetch it again")
    for member in members:
        (inside / member).replace(folder / Path(member).name)
    shutil.rmtree(inside, ignore_errors=True)


def _py7zr():
    try:
        import py7zr
    except ImportError:
        return None
    return py7zr


@contextlib.contextmanager
def _open_7z(py7zr, archive):
    """A py7zr.SevenZipFile; what it raises of a damaged or encrypted file becomes one sentence."""
    try:
        with py7zr.SevenZipFile(archive) as opened:
            yield opened
    except py7zr.exceptions.PasswordRequired:
        raise WorkError(f"{archive} is encrypted; unpack it yourself and name the folder with --raw") from None
    except py7zr.exceptions.UnsupportedCompressionMethodError as e:
        raise WorkError(f"{archive} is packed in a way that cannot be opened here ({e.message}); unpack it yourself "
                        "and name the folder with --raw") from None
    except Exception as e:   # its parser and five decompressors raise whatever the wrong bytes lead them to
        if isinstance(e, MemoryError) or getattr(e, "errno", None) not in (None, errno.EINVAL):
            raise   # of this machine, not of the file; EINVAL: sent to a place before its beginning
        raise WorkError(f"{archive} is damaged or no 7z archive ({str(e) or type(e).__name__}); "
                        "fetch it again") from None


def _program(archive):
    """Name of a program on this machine that opens a .7z."""
    program = next((p for p in UNPACKERS if shutil.which(p)), None)
    if program is None:
        raise WorkError(f"{archive} needs something that opens .7z: pip install py7zr, or one of the programs "
                        f"{', '.join(UNPACKERS)}; or unpack it yourself and name the folder with --raw")
    return program


def _run(archive, command, members=()):
    """What an unpacking program prints; it may not ask for a password. Its failure is a WorkError."""
    done = subprocess.run([str(word) for word in [*command, *members]], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, errors="replace")
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())[-160:]
        raise WorkError(f"{command[0]} could not open {archive} ({said}); it is damaged, encrypted or no 7z archive")
    return done.stdout


# --------------------------------------------------------------------------- tables

def header(path):
    """Column names of a csv file: its first line that is not blank; [] where there is none."""
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as f:
        try:
            return next(filter(None, csv.reader(f)), [])
        except csv.Error as e:
            raise WorkError(f"{path} has no header of column names ({e})") from None


def columns_of(path, needed):
    """Names for all columns of a csv file, each once: the needed ones their own, the others a number."""
    there = header(path)
    if not there:
        raise WorkError(f"{path} is empty; a csv with the columns {', '.join(needed)} is expected")
    if missing := [c for c in needed if c not in there]:
        raise WorkError(f"{path} has no column {', '.join(missing)}; it has {', '.join(there)[:300]}")
    if twice := [c for c in needed if there.count(c) > 1]:
        raise WorkError(f"{path} has the column {', '.join(twice)} more than once; remove or rename what is not meant")
    return [c if c in needed else f"column {i}" for i, c in enumerate(there)]


def has_quotes(path):
    """Whether a file has a quotation mark anywhere; without one, every line end is the end of a row."""
    with open(path, "rb") as f:
        return any(b'"' in block for block in iter(lambda: f.read(1 << 20), b""))


def quoted(text):
    """Text as an SQL string."""
    return "'" + str(text).replace("'", "''") + "'"


class Raw:
    """A DuckDB session with a view of each file; errors of SQL and of csv become one sentence."""

    def __init__(self, files, memory, spill):
        """files: {name: Path of a plain csv}; memory: bytes for DuckDB; spill: folder for what it cannot hold."""
        import duckdb
        self.files, self.texts = files, {}
        self.pool = ThreadPoolExecutor(2)
        self.con = duckdb.connect()
        self.run(f"set memory_limit='{memory >> 20}MiB'")
        self.run(f"set temp_directory={quoted(spill)}")
        self.run("set enable_progress_bar=false")
        for name, path in files.items():
            columns = ", ".join(f"{quoted(c)}: 'varchar'" for c in columns_of(path, COLUMNS[name]))
            self.run(f"""create view {name} as from read_csv({quoted(path)}, columns={{{columns}}}, header=true,
                delim=',', quote='"', escape='"', auto_detect=false, strict_mode=true)""")

    def run(self, sql):
        return self._do(lambda: self.con.execute(sql))

    def encoded(self, name, columns):
        """Columns of a file as an Arrow table of dictionaries (int32 -> text, null for an empty cell)."""
        import pyarrow as pa
        return self._read(name, columns, pa.dictionary(pa.int32(), pa.string()))

    def read_ahead(self, *names):
        """Begin to read files that `rows` will be asked for."""
        import pyarrow as pa
        self.texts |= {name: self.pool.submit(self._read, name, COLUMNS[name], pa.string()) for name in names}

    def rows(self, name, wanted):
        """The row of each id of `wanted` (Arrow texts), as an Arrow table in their order; nulls where there is none.

        The id is the first of the file's COLUMNS. Tells of ids that stand there twice; the first row counts. The
        file was given to `read_ahead`.
        """
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc
        key, *_ = COLUMNS[name]
        table = self.texts.pop(name).result()
        place = pc.index_in(table[key], value_set=wanted)
        table, place = table.filter(place.is_valid()), place.drop_null().to_numpy()
        row = np.full(len(wanted), -1)
        row[place[::-1]] = np.arange(len(place))[::-1]   # the last that is assigned stays
        if repeated := len(place) - np.count_nonzero(row >= 0):
            print(f"{self.files[name].name}: {repeated} rows repeat a {key}; the first row counts")
        return table.combine_chunks().take(pa.array(row, mask=row < 0))

    def _read(self, name, columns, kind):
        """Columns of a file as an Arrow table, read once, in blocks, on all cores.

        A fault is looked up by the session, which names its row.
        """
        import pyarrow as pa
        from pyarrow import csv as arrow
        path = self.files[name]
        try:
            return arrow.read_csv(
                path, arrow.ReadOptions(block_size=BLOCK), arrow.ParseOptions(newlines_in_values=has_quotes(path)),
                arrow.ConvertOptions(include_columns=columns, column_types=dict.fromkeys(columns, kind),
                                     null_values=[""], strings_can_be_null=True))
        except pa.ArrowInvalid as e:
            fault = f"select count(hash(row)) from {name} as row"
            self._do(lambda: self.con.cursor().execute(fault).fetchall())   # its own: files are read side by side
            raise WorkError(f"{path} is not the table expected ({str(e).splitlines()[0][:200]})") from None

    def select(self, sql, rows):
        """Result of a query on an Arrow table, which it calls `given`, as an Arrow table."""
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
            raise WorkError(f"out of memory or of disk to spill to ({str(e).splitlines()[0]}); "
                            "give more with --memory, or free disk in the workspace") from None
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
            return f"{place}: {many} cells where the header has {counts[1]}; mend or remove that row"
        if "unterminated quote" in error:
            return f"{place}: a quoted cell begins there and never ends"
        if "unicode" in error:
            return f"{place}: bytes that are no UTF-8; the challenge's files are UTF-8"
        return f"{place} is not the table expected ({' '.join(error.split())[:200]})"

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.pool.shutdown(cancel_futures=True)
        self.con.close()


def checksums(found):
    """{file name: sha256} of the raw files or archives, as given."""
    return {path.name: runs.checksum(path) for path in sorted(set(found.values()))}
