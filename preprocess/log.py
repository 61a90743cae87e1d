"""Streaming conversion of a listening log (the format of Music4All-Onion) to plays.pqt within bounded memory.

    log.write_plays("userid_trackid_timestamp.tsv.bz2", "trackid_sorted.csv", workdir,
                    name="music4all", source="https://zenodo.org/records/6609677", licence="CC BY 4.0")

plays.pqt keeps the order of the log; only plays of tracks absent from the track list are left out. Blocks of the
log are parsed on all cores by pyarrow and written in order, so the result does not depend on the memory limit or
the number of cores. Temporary disk space: none, except a second plays.pqt while text user ids are numbered.
Format of a log: harness/text_blocks.py.
"""
import csv
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np

from harness import quotes, runs, text_blocks
from harness.errors import UsageError, WorkError
from harness.files import checksum
from harness.ids import Forms, normal
from harness.inputs import state_of
from harness.machine import cores, versions
from harness.progress import Progress
from harness.text_blocks import TextUsers
from preprocess import stage
from preprocess.typed import FIRST_YEAR, LAST_YEAR

ROWS = 1 << 19           # rows of a row group of plays.pqt
BLOCK = 8 << 20          # bytes of the log parsed at once, less where --memory is small
LIBRARIES = 200 << 20    # resident bytes of Python, pyarrow and the row group being written
LISTED = 100_000         # distinct unknown track ids that are counted exactly
MB = 1 << 20


def write_plays(log, tracks, workdir, *, name, source, licence, memory=2 << 30, overwrite=False, more=None):
    """Read a log into a workspace: plays.pqt, trackid_sorted.csv, dataset.json[, userid_sorted.csv].

    log:     Path of the log. tracks: Path of the track list (see `text_blocks.read_track_list`), a sequence
             of ids (sorted here), or None for the trackid_sorted.csv of the workspace.
    memory:  upper limit of resident memory in bytes. more: further entries of dataset.json.
    returns: the content of dataset.json. Nothing is done if it is finished and the inputs are unchanged.
    Raises WorkError, and leaves the workspace unchanged, for a log without plays, a row that cannot be parsed
    (with its line number), or a log without any track of the list; UsageError where the workspace has a split of other
    tracks or users, unless `overwrite`, which removes it.
    """
    log, workdir = Path(log), Path(workdir)
    if not log.is_file():
        raise UsageError(f"there is no log at {log}; name the file with --log")
    ids = _ids(tracks, workdir)
    request = {"dataset": name, "log": None, "tracks": runs.request_hash(ids), "more": more or {}}
    state = state_of(log)
    with stage.atomic_outputs(workdir / "dataset.json", name, overwrite) as new, ThreadPoolExecutor(1) as pool:
        digest = pool.submit(checksum, log)  # reads beside the parser, from the same page cache
        if new.old is not None:
            request["log"] = digest.result()
            if new.same(request, overwrite):
                return new.old
        _write_ids(new.path("trackid_sorted.csv"), "idx,trackid", ids)
        try:
            counts = _convert(log, ids, new, memory, integers=True)
        except TextUsers:
            print(f"{log.name}: user ids are not integers (whole numbers without zeros before them); they are numbered "
                  "as in userid_sorted.csv")
            counts = _convert(log, ids, new, memory, integers=False)
        request["log"] = digest.result()
        if state_of(log) != state:
            raise WorkError(f"{log} changed while it was read; run this again when it is complete")
        new.check_split(overwrite)
        _report(counts)
        return new.publish({
            "name": name, "source": source, "licence": licence, "time": "real", "order": "as in the log",
            "raw": {log.name: {"bytes": log.stat().st_size, "sha256": request["log"]}},
            "counts": counts, **(more or {}), "request": request, "versions": versions()},
            remove=() if new.path("userid_sorted.csv").exists() else ("userid_sorted.csv",))


def _ids(tracks, workdir):
    if tracks is None:
        tracks = workdir / "trackid_sorted.csv"
        if not tracks.exists():
            raise UsageError(f"{tracks} does not exist yet; name the track list with --tracks")
    if isinstance(tracks, (str, Path)):
        return text_blocks.read_track_list(tracks)
    return text_blocks.distinct_ids(sorted(map(normal, tracks)), "given")


def _write_ids(path, header, ids):
    with open(path, "w", encoding="utf-8", newline="") as f:
        f.write(header + "\n")
        csv.writer(f, lineterminator="\n").writerows(enumerate(ids))


def _report(counts):
    unknown = counts["unknown_plays"]
    print(f"{counts['plays']} plays of {counts['tracks_played']} tracks by {counts['users']} users, "
          f"{counts['first']} to {counts['last']}")
    if unknown:
        print(f"left out: {unknown} plays ({unknown / counts['log_rows']:.2%}) of {counts['unknown_tracks']} tracks "
              f"absent from the track list, such as {', '.join(counts['unknown_examples'])}")


# --------------------------------------------------------------------------- the stream

def _convert(log, ids, new, memory, integers):
    """Write plays.pqt (and the numbers of text users) from a log; returns the counts."""
    threads = cores()
    # a block is held as bytes, as strings and as columns, and threads + 2 of them are in progress
    size = min(BLOCK, max(memory - LIBRARIES, 32 * MB) // (6 * (threads + 3)))
    tally, users = _Tally(len(ids)), None if integers else _TextNumbers()
    path = new.path("plays.pqt" if integers else "plays_by_appearance.pqt")
    with text_blocks.open_log(log) as (stream, position), _Plays(path) as plays, \
            Progress(log.stat().st_size // MB, log.name, "MB") as bar:
        for table, read, unknown, forms in _parsed(log, stream, ids, integers, size, threads):
            if users:
                table = table.set_column(0, "user_id", users.number(table["user_id"]))
            plays.write(table)
            tally.add(table, read, unknown, forms)
            bar.update(position() // MB - bar.n, plays=tally.plays)
    if not tally.plays:
        raise WorkError(f"the log {log} has no plays" if not tally.read else
                        f"none of the {tally.read} plays of {log} is of a track in the track list; "
                        f"the log has ids like {next(iter(tally.unknown))}, the track list has ids like {ids[0]}")
    for moment in np.array([tally.first, tally.last], "datetime64[us]"):
        if not FIRST_YEAR <= int(str(np.datetime64(moment, "Y"))) <= LAST_YEAR:
            raise WorkError(f"the log {log} has the time {np.datetime64(moment, 's')}, which is outside of the years "
                            f"{FIRST_YEAR} to {LAST_YEAR}; mend or remove the row")
    for what, forms in tally.forms.items():
        if said := forms.sentence(f"{log.name}, {what}"):
            print(said)
    if users:
        users.sort(path, new.path("plays.pqt"))
        _write_ids(new.path("userid_sorted.csv"), "idx,userid", users.sorted_names())
        path.unlink()
    return tally.counts()


def _parsed(log, stream, ids, integers, size, threads):
    """Parse a stream of text on several threads; yields the results of Parser in the order of the log."""
    import pyarrow as pa
    cut = text_blocks.blocks(stream, size, threads + 3)
    first = next(cut, memoryview(b""))
    header = bytes(first).partition(b"\n")[0]
    parser = text_blocks.Parser(log, header, ids, integers)
    line, pending, rest = 2, deque(), chain([first[len(header) + 1:]], cut)
    if parser.quoted:
        rest = quotes.whole_rows(rest, log, parser.delimiter, len(parser.names), line)
    with ThreadPoolExecutor(threads) as pool:
        def finish():
            nonlocal line
            future, block = pending.popleft()
            try:
                return future.result()
            except pa.ArrowInvalid:
                raise WorkError(parser.explain(block, line)) from None
            finally:
                line += quotes.lines_in(block)

        for block in rest:
            pending.append((pool.submit(parser, block), block))
            if len(pending) > threads + 1:
                yield finish()
        while pending:
            yield finish()


class _Plays:
    """Writes tables as a parquet file with row groups of ROWS rows, whatever the sizes of the tables."""

    def __init__(self, path):
        import pyarrow as pa
        import pyarrow.parquet as pq
        self.schema = pa.schema([("user_id", pa.int64()), ("track_id", pa.int64()), ("timestamp", pa.timestamp("us"))])
        delta = dict.fromkeys(("track_id", "timestamp"), "DELTA_BINARY_PACKED")  # smaller and faster here than zstd
        self.file = pq.ParquetWriter(path, self.schema, compression="none", use_dictionary=["user_id"],
                                     column_encoding=delta)
        self.waiting, self.rows = [], 0

    def write(self, table):
        import pyarrow as pa
        self.waiting.append(table.cast(self.schema))
        self.rows += len(table)
        if self.rows >= ROWS:
            whole = pa.concat_tables(self.waiting)
            cut = self.rows - self.rows % ROWS
            self.file.write_table(whole.slice(0, cut), row_group_size=ROWS)
            self.waiting, self.rows = [whole.slice(cut)], self.rows - cut

    def __enter__(self):
        return self

    def __exit__(self, kind, value, traceback):
        if kind is None and self.rows:
            import pyarrow as pa
            self.file.write_table(pa.concat_tables(self.waiting), row_group_size=ROWS)
        self.file.close()


class _Tally:
    """Running counts of a log; the distinct users are merged periodically to bound memory."""

    def __init__(self, n_tracks):
        import numpy as np
        self.played = np.zeros(n_tracks, bool)
        self.users, self.pending = [], 0
        self.plays = self.read = 0
        self.first = self.last = None
        self.unknown, self.forms = {}, {"users": Forms(), "tracks": Forms()}

    def add(self, table, read, unknown, forms):
        import pyarrow.compute as pc
        self.read += read
        self.plays += len(table)
        if len(self.unknown) < LISTED:
            self.unknown.update(dict.fromkeys(unknown))
        for what, seen in forms.items():
            self.forms[what].other |= seen.other
        if not len(table):
            return
        self.played[table["track_id"].to_numpy()] = True
        self.users.append(pc.unique(table["user_id"]))
        self.pending += len(self.users[-1])
        if self.pending > 1 << 22:
            self._merge()
        times = pc.min_max(table["timestamp"].cast("int64")).as_py()  # microseconds
        self.first = min(times["min"] if self.first is None else self.first, times["min"])
        self.last = max(times["max"] if self.last is None else self.last, times["max"])

    def _merge(self):
        import pyarrow as pa
        import pyarrow.compute as pc
        self.users, self.pending = [pc.unique(pa.concat_arrays(self.users))], 0

    def counts(self):
        self._merge()
        unknown = len(self.unknown)
        return {"log_rows": self.read, "plays": self.plays, "users": len(self.users[0]),
                "tracks": len(self.played), "tracks_played": int(self.played.sum()),
                "first": _moment(self.first), "last": _moment(self.last), "unknown_plays": self.read - self.plays,
                "unknown_tracks": unknown if unknown < LISTED else f"{LISTED} or more",
                "unknown_examples": list(self.unknown)[:3]}


def _moment(microseconds):
    """'2019-02-20 13:45:10', with fractional seconds if not zero."""
    import numpy as np
    return str(np.datetime64(microseconds, "us")).replace("T", " ").removesuffix(".000000")


class _TextNumbers:
    """Numbers text user ids by first appearance while reading, and by sorted order at the end."""

    def __init__(self):
        import pyarrow as pa
        self.known = pa.array([], pa.string())

    def number(self, column):
        """A dictionary column of text user ids as int64 numbers by first appearance."""
        import pyarrow as pa
        import pyarrow.compute as pc
        column = column.combine_chunks()
        names = column.dictionary
        used = pc.unique(names.take(pc.unique(column.indices)))
        self.known = pa.concat_arrays([self.known, used.filter(pc.is_null(pc.index_in(used, value_set=self.known)))])
        return pc.index_in(names, value_set=self.known).take(column.indices).cast(pa.int64())

    def _order(self):
        import numpy as np
        names = self.known.to_pylist()
        order = sorted(range(len(names)), key=names.__getitem__)
        rank = np.empty(len(names), np.int64)
        rank[order] = np.arange(len(names))
        return rank

    def sorted_names(self):
        return sorted(self.known.to_pylist())

    def sort(self, source, target):
        """Copy a plays file, replacing numbers by first appearance with positions in the sorted list."""
        import pyarrow as pa
        import pyarrow.parquet as pq
        rank = pa.array(self._order())
        with pq.ParquetFile(source) as file, _Plays(target) as plays:
            for batch in file.iter_batches(ROWS):
                plays.write(pa.table(batch).set_column(0, "user_id", rank.take(batch["user_id"])))
