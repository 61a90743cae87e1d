"""Extraction that survives: finished batches on disk, shards, and the final matrix.

Tracks are cut into batches of N consecutive rows of the track list, always the same ones; shard i
of n owns the batches b with b mod n = i. A batch is computed alone and whole, so its bytes depend
on nothing but its files: sharded, resumed and single runs end with the same matrix.

Until all is done a shard lives in `embeddings/.<name>.partial/shard-<i>-of-<n>/`:
`rows.f32` (its batches one after the other), `journal.jsonl` (one line per finished batch, appended
only after the rows are on the disk) and `header.json` (what is being made). A line cut by a crash, or
rows that do not match the checksum in their line, are batches to be done again.
"""
import hashlib
import json
import os
import re
import shutil
import sys
import zlib

import numpy as np

from harness import locks
from harness.errors import UsageError, WorkError
from harness.files import atomic, checksum, write_json
from harness.machine import git_state
from harness.readers import read_json

CONTENT = "sha256-"  # before an audio_checksum that is of content; those of earlier versions are of names and times
INPUTS = ("track_checksum", "n_tracks", "audio_checksum")  # a change of these is done again; of others, asked about


class Plan:
    """Which rows belong to which batch and which batches to which shard."""

    def __init__(self, n_tracks, batch, width):
        self.n_tracks, self.batch, self.width = n_tracks, batch, width
        self.n_batches = -(-n_tracks // batch)

    def rows(self, b):
        return range(b * self.batch, min((b + 1) * self.batch, self.n_tracks))

    def shard(self, index, of):
        return range(index, self.n_batches, of)


class Shard:
    """The finished batches of shard `index` of `of`, on disk; a context manager that holds the lock."""

    def __init__(self, partial, index, of, plan):
        self.folder = partial / f"shard-{index}-of-{of}"
        self.index, self.of, self.plan = index, of, plan
        self.entries = {}  # batch -> {"batch", "crc", "files", "audio", "seconds", "failed", "notes", "quality"}
        self._lock = self._rows = self._journal = None

    def __str__(self):
        return f"shard {self.index}/{self.of}"

    @property
    def missing(self):
        return [b for b in self.plan.shard(self.index, self.of) if b not in self.entries]

    def begin(self, header, overwrite=False):
        """Open for work: take up what is there if it was begun for the same header, else say so."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.folder / ".lock", "w")
        try:
            locks.take(self._lock)
        except BlockingIOError:
            raise WorkError(f"{self.folder} is being written by another process right now; wait for it, "
                                 "or choose another --name") from None
        path = self.folder / "header.json"
        if path.exists():
            old = read_json(path)
            if old != header and not overwrite and (self.folder / "journal.jsonl").read_bytes().strip():
                changed = differences(old, header)
                if any(k not in INPUTS for k in changed):
                    raise UsageError(f"{self.folder} was begun with other settings "
                                          f"({said(old, header, changed)}); finish it with those, choose another "
                                          "--name, or --overwrite")
                print(f"{self}: begun again, because the track list changed since", file=sys.stderr)
            if old == header:
                self.load()
            else:
                path.unlink()
        if not path.exists() or (overwrite and not self.missing):
            self.entries = {}
            (self.folder / "journal.jsonl").write_bytes(b"")
            write_json(path, header)
        self._rows = open(os.open(self.folder / "rows.f32", os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)
        self._journal = open(self.folder / "journal.jsonl", "ab", buffering=0)
        if self._journal.tell():
            _write(self._journal, b"\n")  # ends a line that a crash may have cut

    def load(self):
        """Read the journal; keep the batches whose rows are there, byte for byte."""
        journal, rows = self.folder / "journal.jsonl", self.folder / "rows.f32"
        if not journal.exists() or not rows.exists():
            return
        mine = self.plan.shard(self.index, self.of)
        for line in journal.read_bytes().splitlines():
            try:
                entry = json.loads(line)
                if entry["batch"] in mine:
                    self.entries[entry["batch"]] = entry
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
        with open(rows, "rb") as f:
            for b, entry in list(self.entries.items()):
                if zlib.crc32(self._bytes(f, b)) != entry["crc"]:
                    del self.entries[b]

    def save(self, b, values, entry):
        """Rows first, then the line that says they are there; each on the disk before the next."""
        data = np.ascontiguousarray(values, "<f4").tobytes()
        self._rows.seek(self._offset(b))
        _write(self._rows, data)
        entry = {"batch": b, "crc": zlib.crc32(data), **entry}
        _write(self._journal, json.dumps(entry).encode() + b"\n")
        self.entries[b] = entry

    def read(self, b):
        """float32 (rows of batch b, width)"""
        with open(self.folder / "rows.f32", "rb") as f:
            return np.frombuffer(self._bytes(f, b), "<f4").reshape(-1, self.plan.width)

    def _offset(self, b):
        return (b // self.of) * self.plan.batch * self.plan.width * 4

    def _bytes(self, f, b):
        f.seek(self._offset(b))
        return f.read(len(self.plan.rows(b)) * self.plan.width * 4)

    def close(self):
        for f in (self._rows, self._journal, self._lock):
            if f is not None:
                f.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


def _write(f, data):
    """All of it, on the disk. A write to a nearly full disk may take a part and say nothing; the next raises."""
    left = memoryview(data)
    while left:
        left = left[f.write(left):]
    os.fsync(f.fileno())


# --------------------------------------------------------------------------- comparing requests

def differences(old, new):
    return sorted(k for k in {*old, *new} if old.get(k) != new.get(k))


def said(old, new, keys):
    """The differing settings in words: 'seconds 30.0, now 10.0'; of nested values only what differs."""
    words = []
    for k in keys:
        a, b = old.get(k), new.get(k)
        if isinstance(a, dict) and isinstance(b, dict):
            words.append(f"{k}: {said(a, b, differences(a, b))}")
        elif k not in INPUTS:
            words.append(f"{k} {json.dumps(a)}, now {json.dumps(b)}")
    return "; ".join(words)


def files_sum(rows, marks):
    """A checksum of the audio files of some rows that adds up over batches (mod 2^64)."""
    total = 0
    for row, mark in zip(rows, marks, strict=True):
        total += int.from_bytes(hashlib.sha256(f"{row} {mark}".encode()).digest()[:8], "little")
    return total % 2 ** 64


def content_sum(rows, records):
    """As files_sum, of sizes and contents (see audio_files.AudioFiles.records)."""
    return files_sum(rows, [record if isinstance(record, str) else f"{record[1]} {record[4]}" for record in records])


# --------------------------------------------------------------------------- the final files

def counted(partial):
    """The n of the shards i/n under `partial`; WorkError unless there is one."""
    names = [re.fullmatch(r"shard-(\d+)-of-(\d+)", p.name) for p in sorted(partial.glob("shard-*-of-*"))]
    counts = sorted({int(m[2]) for m in names if m})
    if not counts:
        raise WorkError(f"nothing to merge: no shard under {partial}; run --shard 0/n to n-1/n first")
    if len(counts) > 1:
        raise WorkError(f"cannot merge: shards of {' and of '.join(map(str, counts))} are under {partial}; "
                             "remove the folders of those that are not wanted")
    return counts[0]


def complete(partial, of, plan_of):
    """(header, shards): all `of` shards, each complete and made for one header; else WorkError naming who is not."""
    shards, header, problems = [], None, []
    for i in range(of):
        path = partial / f"shard-{i}-of-{of}" / "header.json"
        if not path.exists():
            problems.append(f"shard {i}/{of} has not begun")
            continue
        mine = read_json(path)
        header = header or mine
        if mine != header:
            changed = said(header, mine, differences(header, mine)) or "another track list"
            problems.append(f"shard {i}/{of} was made with other settings ({changed})")
            continue
        shard = Shard(partial, i, of, plan_of(mine))
        shard.load()
        if shard.missing:
            problems.append(f"{shard} lacks {len(shard.missing)} of {len(shard.plan.shard(i, of))} batches")
        shards.append(shard)
    if problems:
        raise WorkError(f"cannot merge: {'; '.join(problems)}; run the same command for each of them")
    return header, shards


def _entries(shards):
    """The journal entries of all batches, in order."""
    return [shards[b % len(shards)].entries[b] for b in range(shards[0].plan.n_batches)]


def check_newest(folder, name, header, shards):
    """WorkError where the finished matrix is newer than these shards, and of other settings or files.

    A newer one of the same request and files is of a merge that was killed, or has the same values.
    """
    jsons = [folder / f"{name}{suffix}.json" for suffix in header["outputs"]]
    journals = [path for shard in shards if (path := shard.folder / "journal.jsonl").exists()]
    if not all(path.exists() for path in jsons) or (
            min(path.stat().st_mtime_ns for path in jsons) < max(path.stat().st_mtime_ns for path in journals)):
        return
    ours = {**header, "audio_checksum": audio_checksum(shards[0].plan, _entries(shards))}
    about, partial = read_json(jsons[0]), shards[0].folder.parent
    if any(about.get(k) != ours[k] for k in ours if k != "outputs"):
        raise WorkError(f"cannot merge: {jsons[0].with_suffix('.npy')} is newer than the shards under {partial}, and "
                        "of other settings or files; remove that folder, or --overwrite the matrix with them")


def write(folder, name, header, shards):
    """Write every output's matrix and provenance and remove these shards. Returns the provenance.

    The old json goes first and the new one comes last: a json that exists describes the matrix beside it.
    """
    plan, entries = shards[0].plan, _entries(shards)
    failed = {k: v for e in entries for k, v in e["failed"].items()}
    if len(failed) == plan.n_tracks:
        first = next(iter(failed.values()))
        raise WorkError(f"no track could be used, so {name}.npy is not written; the first reason: "
                             f"{first['trackid']}: {first['reason']}")
    about = {"name": name, **{k: v for k, v in header.items() if k != "outputs"},
             "audio_checksum": audio_checksum(plan, entries),
             "git": git_state(), **kept_in_float32(entries), "failed": failed,
             "incomplete": {k: v for e in entries for k, v in e["notes"].items()},
             "quality": {k: v for e in entries for k, v in e.get("quality", {}).items()}}  # not in older journals
    left = 0
    for suffix, width in header["outputs"].items():
        path = folder / f"{name}{suffix}.npy"
        path.with_suffix(".json").unlink(missing_ok=True)
        with atomic(path) as temporary:
            with open(temporary, "wb") as f:
                dtype = np.dtype(header.get("dtype", "float32")).newbyteorder("<")
                np.lib.format.write_array_header_1_0(
                    f, {"descr": dtype.str, "fortran_order": False, "shape": (plan.n_tracks, width)})
                for b in range(plan.n_batches):
                    f.write(narrowed(shards[b % len(shards)].read(b)[:, left:left + width], dtype, path).tobytes())
            matrix = checksum(temporary)
        write_json(path.with_suffix(".json"),
                        {**about, "name": f"{name}{suffix}", "dim": width, "matrix_checksum": matrix})
        left += width
    remove(shards)
    return about


def narrowed(values, dtype, path):
    """A batch of values (tracks, width) in the number format of the matrix; WorkError where that cannot hold one."""
    with np.errstate(over="ignore"):
        narrow = values.astype(dtype)
    if (np.isinf(narrow) & ~np.isinf(values)).any():
        raise WorkError(f"{path} would have values up to {np.nanmax(np.abs(values)):.4g}, which {dtype.name} cannot "
                        "hold; run this again with --dtype float32 --overwrite")
    return narrow


def audio_checksum(plan, entries):
    """The checksum of all audio files: of their content, unless a batch is of an earlier version, which kept times."""
    if not all("audio" in e for e in entries):
        return f"{sum(e['files'] for e in entries) % 2 ** 64:016x}"
    total = sum(content_sum(plan.rows(b), e["audio"]) for b, e in enumerate(entries))
    return f"{CONTENT}{total % 2 ** 64:016x}"


def kept_in_float32(entries):
    """{"kept_in_float32": names} over all batches, which several machines may have computed; {} in full precision."""
    named = [e["kept_in_float32"] for e in entries if "kept_in_float32" in e]
    return {"kept_in_float32": sorted({name for names in named for name in names})} if named else {}


def remove(shards):
    """Remove merged shards. Their common folder first loses its name, so that a kill leaves all of them or none."""
    partial = shards[0].folder.parent
    merged = partial.with_name(f"{partial.name}.merged")
    shutil.rmtree(merged, ignore_errors=True)
    if {*partial.iterdir()} == {shard.folder for shard in shards}:
        os.replace(partial, merged)
        shutil.rmtree(merged, ignore_errors=True)
    for shard in shards:  # beside shards of another count, which stay
        shutil.rmtree(shard.folder, ignore_errors=True)
