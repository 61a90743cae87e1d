"""Align precomputed vectors to the tracks of the workspace; shared by onion.py and npy.py.

A source yields blocks of (keys, values); each value is written to the row of its track. Unknown keys, missing tracks
and values that are not finite are counted and listed in the provenance. Memory is that of one block.
"""
import re
import shlex
import sys

import numpy as np

import dataset
from extract_item_embeddings.engine import shards
from extract_item_embeddings.engine.backend import library_versions
from harness.errors import UsageError, WorkError
from harness.files import atomic, checksum, write_json
from harness.ids import clash, normal, unpadded
from harness.machine import git_state
from harness.readers import read_json

INPUTS = ("source_checksum", *shards.INPUTS)  # if these change, the work is done again; other changes are errors
NAMED = 20                                    # tracks listed in the summary
TAKEN = {"random": "ID embeddings", "all": "every embedding"}   # what commands mean by such a name


def check_name(name, flag=""):
    """UsageError unless `name`, given by `flag`, can be the name of an embedding."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise UsageError(f"{flag}{name!r} is not a name of an embedding; use letters, digits, '.', '-' and '_' only")
    if name in TAKEN:
        raise UsageError(f"{flag}{name!r} is no name for an embedding: commands mean {TAKEN[name]} by it")


class Rows:
    """The matrix while it is filled: float32 (tracks, dim) in the open file `f`, initially NaN."""

    def __init__(self, f, ids, dim, source):
        self.f, self.ids, self.dim, self.source = f, ids, dim, source
        if forms := clash(ids):
            raise WorkError(f"trackid_sorted.csv has the ids {ascii(forms[0])} and {ascii(forms[1])}, which differ "
                            "only in their Unicode form or in blanks around them")
        self.row_of = {normal(i): r for r, i in enumerate(ids)}
        np.lib.format.write_array_header_1_0(f, {"descr": "<f4", "fortran_order": False, "shape": (len(ids), dim)})
        self.start = f.tell()
        empty = np.full(dim, np.nan, "<f4").tobytes()
        for _ in ids:
            f.write(empty)
        self.seen = np.zeros(len(ids), bool)
        self.bare = {} if source.by_row else {b: i for i in ids if (b := unpadded(i)) != normal(i)}
        self.reasons, self.unknown, self.examples, self.lost = {}, 0, [], None
        self.zero, self.first, self.differ = 0, None, False     # of the usable vectors

    def put(self, keys, values):
        """Write a block: n track ids (str) or rows (int), and (n, dim) numbers. WorkError for a duplicate track."""
        rows = np.array([self.find(k) for k in keys], dtype=np.int64)
        known = rows >= 0
        self.unknown += int((~known).sum())
        strange = [str(k) for k, listed in zip(keys, known, strict=True) if not listed]
        self.examples += strange[:3 - len(self.examples)]
        self.lost = self.lost or next((k for k in strange if k in self.bare), None)
        rows, values = rows[known], np.asarray(values)[known]
        twice = rows[np.setdiff1d(np.arange(len(rows)), np.unique(rows, return_index=True)[1])]
        twice = np.concatenate([rows[self.seen[rows]], twice])
        if len(twice):
            raise WorkError(f"{self.source.name} has the track {self.ids[twice[0]]} more than once")
        self.seen[rows] = True
        with np.errstate(over="ignore"):  # values beyond float32 become infinite and are reported below
            narrow = values.astype("<f4")
        for row, vector, given in zip(rows.tolist(), narrow, values, strict=True):
            if bad := int(np.count_nonzero(~np.isfinite(vector))):
                self.reasons[row] = f"{bad} of {self.dim} values are not finite numbers ({_kinds(vector, given)})"
                continue
            self.zero += not vector.any()
            self.first = vector if self.first is None else self.first
            self.differ = self.differ or not np.array_equal(vector, self.first)
            self.f.seek(self.start + row * self.dim * 4)
            self.f.write(vector.tobytes())

    def find(self, key):
        """Row of a track, -1 for one that is not in the list."""
        if self.source.by_row:
            return key if 0 <= key < len(self.ids) else -1
        row = self.row_of.get(key)
        return self.row_of.get(normal(key), -1) if row is None else row

    def hint(self):
        """What to do about ids that lost the zeros before them, "" where none did."""
        return f"; {self.lost} may be {self.bare[self.lost]} without its zeros: write ids as text" if self.lost else ""

    def failed(self):
        """{row: {"trackid", "reason"}} of the tracks without a vector; WorkError if these are all tracks."""
        name = self.source.name
        if not self.seen.any():
            raise WorkError(f"none of the {self.unknown} tracks of {name} is in trackid_sorted.csv: its ids look "
                            f"like {', '.join(self.examples) or 'nothing'}, the list's like {self.ids[0]}"
                            f"{self.hint()}")
        reasons = {int(r): f"not in {name}" for r in np.flatnonzero(~self.seen)} | self.reasons
        if len(reasons) == len(self.ids):
            row, why = next(iter(sorted(self.reasons.items())))
            raise WorkError(f"no track of trackid_sorted.csv has a usable vector in {name}; the first reason: "
                            f"{self.ids[row]}: {why}")
        if not self.differ and len(reasons) < len(self.ids) - 1:
            raise WorkError(f"the {len(self.ids) - len(reasons)} usable vectors of {name} are all equal, so they say "
                            "nothing about a track; look at how they were made")
        return {r: {"trackid": self.ids[r], "reason": why} for r, why in sorted(reasons.items())}


def _kinds(vector, given):
    """What the values of float32 (D,) that are not finite were as given."""
    found = {"NaN": np.isnan(vector), "infinite": np.isinf(vector) & np.isinf(given),
             "beyond float32": np.isinf(vector) & ~np.isinf(given)}
    return ", ".join(kind for kind, where in found.items() if where.any())


def make(work, name, request, opened, overwrite=False, packages=(), beside=None):
    """Write embeddings/NAME.npy and its json, unless it exists and was made from the same input.

    request: settings that identify the embedding, with "source_checksum"
    opened:  function that opens the source, called only if needed: .name, .by_row, .about() (a dict for
             the json) and .blocks(), which yields (track ids, or rows if by_row; (n, dim) numbers)
    beside:  {end of a file's name: function(path, source) that writes embeddings/NAME + end}, part of the embedding
    """
    check_name(name)
    ids, track_checksum = dataset.read_tracks(work)
    if not ids:
        raise WorkError(f"{work / 'trackid_sorted.csv'} has no tracks")
    request = {**request, "track_checksum": track_checksum, "n_tracks": len(ids)}
    path = work / "embeddings" / f"{name}.npy"
    others = {path.with_name(name + end): write for end, write in (beside or {}).items()}
    if not overwrite and _finished(path, request, others):
        return
    source, rows = opened(), None
    with atomic(path) as temporary:
        with open(temporary, "w+b") as f:
            for keys, values in source.blocks():
                rows = rows or Rows(f, ids, values.shape[1], source)
                rows.put(keys, values)
        if rows is None:
            raise WorkError(f"{source.name} has no rows")
        failed, matrix = rows.failed(), checksum(temporary)
        path.with_suffix(".json").unlink(missing_ok=True)  # so that a json file always describes the current matrix
        for other, write in others.items():
            write(other, source)
    if others:
        request["beside"] = {other.name: checksum(other) for other in others}
    write_json(path.with_suffix(".json"), {
        "name": name, **request, **source.about(), "keys": "rows" if source.by_row else "track ids", "dim": rows.dim,
        "unknown_ids": rows.unknown, "versions": library_versions(packages), "git": git_state(),
        "failed": failed, "incomplete": {}, "matrix_checksum": matrix})
    _say(path, failed, rows)


def _say(path, failed, rows):
    keys = "row numbers" if rows.source.by_row else "track ids"
    print(f"{path.stem}: {len(rows.ids) - len(failed)} of {len(rows.ids)} tracks have an embedding of {rows.dim} "
          f"values, {len(failed)} have none; {rows.unknown} {keys} of {rows.source.name} are not in the "
          f"list{rows.hint()}: {path}")
    if rows.zero:
        print(f"{path.stem}: {rows.zero} of {len(rows.ids) - len(failed)} vectors are all zeros, which are similar to "
              "nothing; write nan where a track has no vector", file=sys.stderr)
    for entry in list(failed.values())[:NAMED]:
        print(f"  {entry['trackid']}: {entry['reason']}")
    if len(failed) > NAMED:
        print(f"  and {len(failed) - NAMED} more, all in {path.stem}.json")
    say_next(path.parent.parent, path.stem, failed)


def say_next(work, name, failed):
    """Print the command that uses a new embedding; failed: whether some tracks have no vector."""
    split = "" if (work / "data" / "train.pqt").exists() else "split with preprocess/1_train_test_split.py, then "
    print(f"next: {split}python knn.py {name}{' --missing mean' if failed else ''} --workdir "
          f"{shlex.quote(str(work))}")


def _finished(path, request, others=()):
    """Whether the file, and the `others` beside it, were made by this request; UsageError if by other settings."""
    provenance = path.with_suffix(".json")
    if not path.exists():
        return False
    if not provenance.exists():
        raise UsageError(f"{path} exists without the json that records its settings; choose another name, or "
                         "--overwrite")
    about = read_json(provenance)
    old = {k: about.get(k) for k in request}
    changed = shards.differences(old, request)
    if any(k not in INPUTS for k in changed):
        raise UsageError(f"{path} was made with other settings ({shards.said(old, request, changed)}); choose another "
                         "name, or --overwrite")
    beside = about.get("beside") if isinstance(about.get("beside"), dict) else {}
    recorded = {path.name: about.get("matrix_checksum"), **beside}
    files = [other.name for other in (path, *others)
             if not other.exists() or checksum(other) != recorded.get(other.name)]
    if changed or files:
        why = {"track_checksum": "the track list", "n_tracks": "the track list", "source_checksum": "the source"}
        print(f"{path.stem}: made again, because {why[changed[0]] if changed else files[0]} changed since",
              file=sys.stderr)
        return False
    print(f"{path.stem}: finished before, skipped (--overwrite does it again)", file=sys.stderr)
    return True
