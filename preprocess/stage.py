"""Shared by the scripts of stage 2: several output files published as one, the option --memory, splits of other ids.

A stage writes all its files into a hidden folder, then renames them one by one under a manifest whose status
is "writing"; the last step writes the manifest with status "finished". A killed stage therefore leaves either
the old files, or a manifest that readers refuse; running the stage again repairs it.

    with stage.atomic_outputs(workdir / "data" / "split.json") as new:
        if new.same(request):
            return new.old
        ... write new.path("train.pqt") ...
        new.publish({"request": request, ...}, remove=["cold_test.pqt"])
"""
import contextlib
import errno
import os
import re
import shutil
from pathlib import Path

from harness import locks
from harness.errors import UsageError, WorkError
from harness.files import checksum, quoted, write_json
from harness.readers import read_json

FIELDS = {"request": dict, "bytes": dict, "status": str, "name": str}   # of a manifest, those that are looked into
LISTS = {"tracks": "trackid_sorted.csv", "users": "userid_sorted.csv"}   # by which numbers mean ids
LIBRARIES = 256 << 20    # resident bytes of Python, pyarrow and DuckDB beside the memory that DuckDB counts
UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


def memory_bytes(text):
    """Bytes of '2GB', '512M', '1.5GiB' (powers of 1024); at least 512 MB, as the libraries take half of it."""
    match = re.fullmatch(r"\s*([\d.]+)\s*([KMGT]?)(i?B)?\s*", str(text), re.IGNORECASE)
    try:
        number = float(match[1])
    except (TypeError, ValueError):
        raise UsageError(f"--memory {text} is not a memory size; write it like 2GB or 512MB") from None
    size = int(number * (1 << UNITS[match[2].upper()]))
    if size < 512 << 20:
        raise UsageError(f"--memory {text} is too small; at least 512MB is required")
    if size > 1 << 50:
        raise UsageError(f"--memory {text} is too large; at most 1024TB is accepted, write it like 2GB")
    return size


def engine_memory(memory):
    """DuckDB's limit in bytes so that the process keeps to `memory`: a tenth, or what the libraries take, stays beside.

    At a limit of 5.75 GiB a log of 466 million rows took .3 GiB more than it.
    """
    return max(memory - max(LIBRARIES, memory // 10), 128 << 20)


def session(memory, spill):
    """A DuckDB session that keeps to `memory` bytes and puts what it spills into the folder `spill`.

    DuckDB keeps the contents of the files that it reads, and begins to spill a sort when it is too late: 349 million
    pairs could not be sorted within 5.4 GiB, whatever was free on the disk. So its cache is off, as the system has its
    own, and its operators spill from a quarter of the memory on (with a third it was sorted, with a half not).
    """
    import duckdb
    con = duckdb.connect()
    con.execute(f"set memory_limit='{memory >> 20}MiB'")
    con.execute(f"set temp_directory={quoted(spill)}")
    con.execute("set enable_progress_bar=false")
    for setting in ("enable_external_file_cache=false", f"operator_memory_limit='{memory >> 22}MiB'"):
        with contextlib.suppress(duckdb.CatalogException):      # an earlier DuckDB has no such setting
            con.execute(f"set {setting}")
    return con


def add_memory_flag(parser):
    parser.add_argument("--memory", default="2GB", metavar="SIZE",
                        help="upper limit of resident memory, whatever the size of the data, unless the description "
                             "above states otherwise; at least 512MB (default 2GB)")


class AtomicOutputs:
    """Output files of one stage, published together with their manifest; created by `atomic_outputs`."""

    def __init__(self, manifest, overwrite=False):
        self.manifest = manifest
        self.folder = manifest.parent
        self.hidden = self.folder / f".{manifest.stem}.new"
        self.old = read_manifest(manifest, overwrite)
        self.stale = []      # files of a split, which go when these outputs come
        self.locks = contextlib.ExitStack()     # of that split, until they have come

    def path(self, name):
        """Path to write to for the output file `name`."""
        return self.hidden / name

    def same(self, request, overwrite=False):
        """Whether the outputs of an equal request exist unchanged; otherwise prints what has changed."""
        old = self.old
        if not old or "request" not in old or overwrite:
            return False
        if old.get("status") != "finished":
            print(f"{self.manifest.name}: the last run was interrupted; done again")
            return False
        damaged = [name for name, size in old.get("bytes", {}).items()
                   if not (self.folder / name).exists() or (self.folder / name).stat().st_size != size]
        changed = sorted(k for k in {*old["request"], *request} if old["request"].get(k) != request.get(k))
        if not damaged and not changed:
            print(f"{self.manifest}: finished before, skipped (--overwrite does it again)")
            return True
        reasons = [f"{', '.join(changed)} changed"] * bool(changed) \
            + [f"{', '.join(damaged)} missing or modified"] * bool(damaged)
        print(f"{self.manifest.name}: done again, because {' and '.join(reasons)}")
        return False

    def check_split(self, overwrite):
        """Look, when the lists of ids are written, whether the workspace has a split whose numbers mean other ids.

        A user's number is a place in userid_sorted.csv, or, where there is none, the id itself. Such a split is a
        UsageError; with `overwrite`, `publish` removes it, and nobody else writes there until then (WorkError).
        """
        split = self.folder / "data" / "split.json"
        parts = sorted(p for p in split.parent.glob("*") if p.is_file() and not p.name.startswith("."))
        if not parts or not (self.folder / LISTS["tracks"]).exists():
            return
        other = next((what for what, name in LISTS.items() if not _same(self.folder / name, self.path(name))), None)
        if other is None:
            return
        if not overwrite:
            path = self.folder / LISTS[other]
            has = f"{path} lists" if path.exists() else f"{split.parent} is a split of"
            raise UsageError(f"{has} other {other}; use a fresh --workdir, or --overwrite, which also deletes the "
                             f"split of the old {'track list' if other == 'tracks' else other}")
        self.locks.enter_context(_locked(split))
        self.stale = parts

    def publish(self, manifest, remove=()):
        """Rename every file written so far into place, delete the files named in `remove`, write the manifest.

        Beside a plays.pqt the manifest has its checksum, so that a split of other plays is noticed (dataset.load).
        A split of other ids (`check_split`) goes first: whenever it is killed, no split is beside ids of others.
        """
        written = sorted(p for p in self.hidden.iterdir() if p.is_file())
        for path in written:
            with open(path, "rb") as f:
                os.fsync(f.fileno())
        manifest = {"status": "finished", **manifest, "bytes": {p.name: p.stat().st_size for p in written}}
        if (plays := self.path("plays.pqt")) in written:
            manifest["plays_checksum"] = checksum(plays)
        write_json(self.manifest, {**manifest, "status": "writing"})
        for path in self.stale:
            path.unlink(missing_ok=True)
        for path in written:
            os.replace(path, self.folder / path.name)
        for name in remove:
            (self.folder / name).unlink(missing_ok=True)
        write_json(self.manifest, manifest)
        return manifest


@contextlib.contextmanager
def atomic_outputs(manifest, name=None, overwrite=False):
    """Lock the folder of a manifest for one writer and yield an AtomicOutputs; leftovers of killed runs are removed.

    Any exception raised inside leaves the old files unchanged. A second writer is a WorkError, a workspace that
    holds another data set than `name` a UsageError. A damaged manifest is a WorkError, with `overwrite` it is as none.
    """
    manifest = Path(manifest)
    manifest.parent.mkdir(parents=True, exist_ok=True)
    with _locked(manifest):
        new = AtomicOutputs(manifest, overwrite)
        if name and (new.old or {}).get("name", name) != name:
            raise UsageError(f"{manifest.parent} holds the data set {new.old['name']!r}; choose another --workdir "
                             f"for {name!r}, or remove {manifest} if that one is not needed")
        shutil.rmtree(new.hidden, ignore_errors=True)
        try:
            new.hidden.mkdir()
            yield new
        except Exception as e:
            if "No space left" in str(e) or getattr(e, "errno", None) == errno.ENOSPC:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(new.folder)) from None
            raise
        finally:
            new.locks.close()
            shutil.rmtree(new.hidden, ignore_errors=True)


def read_manifest(manifest, overwrite=False):
    """What the manifest of a stage holds, None where there is none, or a damaged one is overwritten."""
    try:
        return read_json(manifest, FIELDS) if manifest.exists() else None
    except WorkError as e:
        if overwrite:
            return None
        raise WorkError(f"{e}; --overwrite makes it again") from None


@contextlib.contextmanager
def _locked(manifest):
    """Hold the lock of a manifest's outputs; WorkError where another process has it."""
    with open(manifest.parent / f".{manifest.stem}.lock", "w") as lock:
        try:
            locks.take(lock)
        except BlockingIOError:
            raise WorkError(f"another process is writing {manifest}; wait until it has finished") from None
        yield


def _same(path, other):
    """Whether two files have the same bytes, or neither of them exists."""
    if not path.exists() or not other.exists():
        return path.exists() == other.exists()
    return checksum(path) == checksum(other)
