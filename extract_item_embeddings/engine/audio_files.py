"""The audio files of an extraction, identified by their content: size and sha256.

A file is read for its hash by the thread that decodes it, right before, so that the disk gives its
bytes once. What was hashed is remembered in `embeddings/.audio_files.parquet`, by path, size and
times: as long as these are the same, a file costs one `stat`. The change time (ctime) is among
them, because no program can set it: a file of the same size whose modification time was set back
is read again. Where times or folder are new the content decides.
"""
import os
import stat
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from extract_item_embeddings.engine.audio import of_machine
from extract_item_embeddings.engine.pipeline import in_order
from extract_item_embeddings.engine.shards import CONTENT, content_sum, files_sum
from harness.errors import WorkError
from harness.files import checksum, write_parquet
from harness.progress import Progress, stop_here
from harness.readers import read_parquet

NAME = ".audio_files.parquet"
COLUMNS = ("path", "size", "mtime_ns", "ctime_ns", "sha256")
SETTLED = 2_000_000_000  # ns; a file changed less than this ago may change again at the same time


class AudioFiles:
    """The file of each track of the track list, and what is known of its content.

    paths: list of Path or None, in the order of the track list
    records: {row: what the journal of a batch keeps of a file}: [path, size, mtime_ns, ctime_ns,
             sha256], or a str with the reason why it cannot be read. It is not remembered where
             ctime_ns is None.
    compared: number of files that were read to compare their content
    """

    def __init__(self, work, paths):
        self.work, self.paths = work, paths
        self.states = [state_of(path) for path in paths]
        self.known = remembered(work)
        self.records, self.compared = {}, 0

    def __len__(self):
        return len(self.paths)

    def record(self, row, again=False):
        """The record of a file, hashed unless its times are known. again: read its times again."""
        if again and (now := state_of(self.paths[row])) != self.states[row]:
            self.states[row] = now
            self.records.pop(row, None)
        if row not in self.records:
            self.records[row] = self._known(row) or self._hashed(row)
        return self.records[row]

    def _known(self, row):
        state = self.states[row]
        if isinstance(state, str):
            return state
        path = str(self.paths[row])
        before = self.known.get(path)
        return [path, *before] if before and before[:3] == list(state) else None

    def _hashed(self, row):
        (size, mtime, ctime), path = self.states[row], self.paths[row]
        settled = time.time_ns() - ctime > SETTLED
        try:
            digest = checksum(path)
        except OSError as e:
            if of_machine(e):
                raise
            return e.strerror or type(e).__name__
        return [str(path), size, mtime, ctime if settled else None, digest]

    def times_sum(self, rows):
        """The checksum of names, sizes and times, by which earlier versions recognised files."""
        marks = []
        for row in rows:
            state, path = self.states[row], self.paths[row]
            if path is not None:
                state = state if isinstance(state, str) else f"{state[0]} {state[1]}"
                state = f"{path.name} {state}"
            marks.append(state)
        return files_sum(rows, marks)

    def same(self, rows, entry):
        """Whether the files of a finished batch are those of its journal entry."""
        if "audio" not in entry:  # of an earlier version
            return entry["files"] == self.times_sum(rows)
        return content_sum(rows, entry["audio"]) == self.content_sum(rows)

    def content_sum(self, rows):
        return content_sum(rows, [self.record(row) for row in rows])

    def learn(self, records):
        """Know the files of these records by their times."""
        self.known.update((r[0], r[1:]) for r in records if not isinstance(r, str))

    def checksum_like(self, old, workers, stop):
        """The checksum of all files, by content or, if `old` is of an earlier version, by times.

        Files whose times are not known are read, and remembered, also when a signal ends it early.
        """
        rows = range(len(self))
        if not str(old).startswith(CONTENT):
            return f"{self.times_sum(rows):016x}"
        self.compare(rows, workers, stop)
        return f"{CONTENT}{self.content_sum(rows):016x}"

    def compare(self, rows, workers, stop):
        """Hash those of these files whose times are not known, in threads."""
        rows = [row for row in rows if row not in self.records and not self._known(row)]
        if not rows:
            return
        size = sum(self.states[row][0] for row in rows)
        print(f"comparing the content of {len(rows)} audio files ({size / 1e6:,.1f} MB), as their "
              "times or folder are new", file=sys.stderr)
        with ThreadPoolExecutor(workers) as pool, \
                Progress(len(rows), "audio files", "file", quiet=True) as progress:
            for _ in in_order(pool, 2 * workers, ((self.record, row) for row in rows)):
                progress.update()
                if stop.requested:
                    break
        remember(self.work, [self.records[row] for row in rows if row in self.records])
        if stop.requested:
            stop_here("the comparison of audio files")
        self.compared += len(rows)


def state_of(path):
    """(size, mtime_ns, ctime_ns) of a regular file, or a str: the reason why it has no content."""
    if path is None:
        return "no file"
    try:
        seen = path.stat()
    except OSError as e:
        if of_machine(e):
            raise
        return e.strerror
    if not stat.S_ISREG(seen.st_mode):
        return "not a regular file"
    return seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns


# --------------------------------------------------------------------------- the remembered files of a workspace

def remembered(work):
    """{path: [size, mtime_ns, ctime_ns, sha256]} of files hashed before; {} without a readable table."""
    path = work / "embeddings" / NAME
    try:
        table = read_parquet(path, COLUMNS)
        columns = [table.column(name).to_pylist() for name in COLUMNS]
        paths = [os.fsdecode(p) for p in columns[0]]
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (WorkError, TypeError) as e:
        print(f"{path} is not used, so audio files are read again for their hashes ({e})",
              file=sys.stderr)
        return {}
    return dict(zip(paths, map(list, zip(*columns[1:], strict=True)), strict=True))


def remember(work, records):
    """Add records to the remembered files; of two writers at once one may lose its own."""
    import pyarrow as pa
    records = [r for r in records if not isinstance(r, str) and r[3] is not None]
    if not records:
        return
    known = remembered(work)
    before = len(known), [known.get(r[0]) for r in records]
    known.update((r[0], list(r[1:])) for r in records)
    if before == (len(known), [list(r[1:]) for r in records]):
        return
    columns = [list(map(os.fsencode, known)), *zip(*known.values(), strict=True)]
    kinds = (pa.binary(), pa.int64(), pa.int64(), pa.int64(), pa.string())
    write_parquet(work / "embeddings" / NAME, pa.table(
        [pa.array(c, kind) for c, kind in zip(columns, kinds, strict=True)], names=list(COLUMNS)))
