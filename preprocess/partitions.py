"""A split in partitions of the users: each partition's pairs by itself, then all of them joined into the parts.

Which partition a user is in is a hash of the id. What a protocol decides by a user's own plays (the pairs, their
counts, windows, last tracks, drawn shares) is done partition by partition, which is where the time and the memory go.
What it decides by everybody's (tracks of train, users of val, popularity, leak checks, counts) is done while joining,
by the same SQL as in one piece, on the partitions' files in place of the plays: the parts have the same bytes.

data/.partitions/REQUEST/ holds NUMBER.pqt, whose columns are those of a part and `part`, and NUMBER.json, which is
written last. REQUEST is a hash of the request, the number of partitions and DuckDB's version (which decides the hash
of an id), so that two requests never share a file. overwrite.json names the --overwrite that is going on, as do the
records of what it made, so that it goes on when interrupted. The folder is removed when the parts are published.
"""
import contextlib
import json
import secrets
import shlex
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import duckdb

from harness import locks, runs
from harness.errors import UsageError, WorkError
from harness.files import atomic, checksum, parquet_rows, quoted, write_json
from harness.inputs import state_of
from harness.machine import peak_memory
from harness.progress import Progress
from harness.readers import read_json
from preprocess import cold_items, parts, protocols, row_groups, stage
from preprocess.protocols import COLUMNS
from preprocess.splitting import DATED, DATES, by_date

MOST = 1000
FIELDS = {"rows": int, "bytes": int, "sha256": str, "ties": int, "dropped": dict}


def check_flags(args):
    """UsageError for flags of partitions that contradict each other or the rest of the request."""
    n = args.partitions
    if n is None:
        for name in ("partition", "merge"):
            if getattr(args, name) not in (None, False):
                raise UsageError(f"--{name} goes with --partitions N, the number of partitions; add it")
        return
    if n > MOST:
        raise UsageError(f"--partitions {n} is more than {MOST}")
    if args.merge and args.partition is not None:
        raise UsageError("give --partition I, which makes partitions, or --merge, which joins them, not both")
    if beyond := [i for i in args.partition or () if i >= n]:
        raise UsageError(f"--partition {beyond[0]} is not from 0 to {n - 1}, as --partitions is {n}")
    if args.k_core:
        raise UsageError("--k-core does not go with --partitions: whether a pair is in the core depends on the pairs "
                         "of all users in each round; leave one of them out")


@dataclass
class Partitions:
    """The partitions of one request. kept: function that returns the track_ids to restrict the data set to, or None;
    state: `state_of` plays.pqt before it was hashed; command: the words that the user typed, without those that say
    which partition."""
    args: object
    settings: dict
    request: dict
    workdir: Path
    columns: list
    kept: Callable
    memory: int
    state: tuple
    command: list

    def __post_init__(self):
        self.n = self.args.partitions
        self.plays = self.workdir / "plays.pqt"
        self.parent = self.workdir / "data" / ".partitions"
        self.key = {**self.request, "partitions": self.n, "duckdb": duckdb.__version__}
        self.folder = self.parent / runs.request_hash(self.key)

    def path(self, number, suffix=".pqt"):
        return self.folder / f"{number:05d}{suffix}"

    def record(self, number):
        """The record of a finished partition whose file has its size, else None."""
        path, file = self.path(number, ".json"), self.path(number)
        if not path.exists() or not file.exists():
            return None
        about = _read(path, FIELDS)
        return about if about and file.stat().st_size == about.get("bytes") else None

    def _overwriting(self, numbers):
        """The token of the --overwrite that is going on, which the records of what it made hold; a new one begins it.

        It ends when the parts are published; asked for by their numbers, partitions that it made are made again.
        """
        path = self.folder / "overwrite.json"
        token = (_read(path, {"token": str}) if path.exists() else {}).get("token")
        if token is None or self.args.partition is not None and all(self._made(n, token) for n in numbers):
            token = secrets.token_hex(8)
            write_json(path, {"token": token})
        return token

    def _made(self, number, token):
        """Whether a partition is finished and, where there is a token, of that --overwrite."""
        about = self.record(number)
        return about is not None and token in (None, about.get("overwrite"))

    # ----------------------------------------------------------------- one partition

    def make(self, numbers):
        """Make partitions one after the other; finished ones are skipped, with --overwrite those that it has made."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "request.json").exists():
            write_json(self.folder / "request.json", self.key)
        token = self._overwriting(numbers) if self.args.overwrite else None
        with Progress(len(numbers), "partitions", "partitions") as bar:
            for number in numbers:
                bar.update(0, now=number)
                with self._alone(number):
                    if not self._made(number, token):
                        self._try(number, token)
                    elif len(numbers) == 1:
                        print(f"partition {number} of {self.n}: finished before, skipped (--overwrite does it again)")
                bar.update(1)

    @contextlib.contextmanager
    def _alone(self, number):
        """Hold the lock of a partition; WorkError where another process has it."""
        with open(self.path(number, ".lock"), "w") as lock:
            try:
                locks.take(lock)
            except BlockingIOError:
                raise WorkError(f"another process is making partition {number} of {self.n} of this request; wait "
                                "until it has finished") from None
            yield

    def _try(self, number, token):
        """Make a partition, and keep count of the times it failed."""
        tries = self.path(number, ".tries.json")
        times = self._failures(number)[0] + 1
        write_json(tries, {"times": times, "last": "its process was killed"})
        self.path(number, ".json").unlink(missing_ok=True)
        start, spill = time.monotonic(), self.path(number, ".spill")
        shutil.rmtree(spill, ignore_errors=True)
        try:
            about = self._write(number, spill)
        except Exception as e:
            with contextlib.suppress(OSError):      # the disk may be full
                write_json(tries, {"times": times, "last": " ".join(str(e).split())[:300]})
            raise
        finally:
            shutil.rmtree(spill, ignore_errors=True)
        write_json(self.path(number, ".json"), {**about, "seconds": round(time.monotonic() - start, 3),
                                                "peak_memory": peak_memory(), "overwrite": token})
        tries.unlink(missing_ok=True)

    def _failures(self, number):
        path = self.path(number, ".tries.json")
        about = _read(path, {"times": int, "last": str}) if path.exists() else {}
        return about.get("times", 0), about.get("last", "")

    def _write(self, number, spill):
        """Write the pairs of a partition; returns its record."""
        path, partition = self.path(number), (number, self.n)
        with atomic(path) as temporary:
            with protocols.Log(self.plays, self.columns, self.memory, spill, self.kept(), partition) as log:
                table, columns, values = local_pairs(self.args, self.settings, log, partition)
                log.run(f"""copy (select {columns} from {table} order by user_id, track_id)
                    to {quoted(temporary)} (format parquet, compression zstd, compression_level 1,
                                            row_group_size {parts.ROWS})""", values)
                rows = log.one(f"select count(*) from {parquet_rows(temporary)}")
            if state_of(self.plays) != self.state:
                raise WorkError(f"{self.plays} changed while partition {number} was made of it; run this again when "
                                "nothing writes there")
        return {"partition": number, "of": self.n, "rows": rows, "bytes": path.stat().st_size,
                "sha256": checksum(path), "ties": log.ties, "dropped": log.dropped}

    # ----------------------------------------------------------------- all partitions

    def check(self, deep=False):
        """The records of all partitions; WorkError that names those that are absent, lost or (deep) damaged."""
        records = [self.record(number) for number in range(self.n)]
        if not any(records):
            self._say_whose()
        bad = {number: self._why_absent(number) for number, about in enumerate(records) if about is None}
        for number, about in enumerate(records if deep else ()):
            if about is not None and checksum(self.path(number)) != about["sha256"]:
                bad[number] = row_groups.damage(self.path(number)) or "its bytes are not those that were written"
                self.path(number, ".json").unlink(missing_ok=True)
        if bad:
            named = "; ".join(f"{number} ({why})" for number, why in list(bad.items())[:3])
            more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
            again = shlex.join([*self.command, "--partition", *map(str, bad)]) if len(bad) <= 50 \
                else f"{shlex.join(self.command)} --partition I for each"
            raise WorkError(f"{len(bad)} of {self.n} partitions cannot be joined: {named}{more}; the others are kept: "
                            f"run `{again}`, then --merge again")
        return records

    def _why_absent(self, number):
        times, last = self._failures(number)
        if times:
            return f"failed {times} time{'s' * (times > 1)}, the last time: {last}"
        return f"{self.path(number)} is lost or cut" if self.path(number, ".json").exists() else "not made yet"

    def _say_whose(self):
        """WorkError where the workspace has partitions, but of another request or of other inputs."""
        for path in sorted(self.parent.glob("*/request.json")):
            old = read_json(path)
            changed = sorted(k for k in {*old, *self.key} if old.get(k) != self.key.get(k))
            files = [k for k in changed if k.endswith((".pqt", ".csv")) or k.startswith(("embedding ", "given "))]
            if path.parent != self.folder and changed and changed == files:
                raise WorkError(f"{', '.join(files)} changed since the partitions in {path.parent} were made; make "
                                f"them again: `{shlex.join(self.command)}` with --partition 0 to {self.n - 1}, then "
                                "with --merge")

    def joined(self, spill):
        """A protocols.Log whose pairs are those of the partitions' files."""
        return Joined(self, self.check(deep=True), spill)

    def unchanged(self):
        """WorkError where plays.pqt is another file than the one that was hashed."""
        if state_of(self.plays) != self.state:
            raise WorkError(f"{self.plays} changed while its partitions were joined; nothing was written; run this "
                            "again when nothing writes there")

    def remove(self):
        """Remove the partitions of this request; those of others are named."""
        shutil.rmtree(self.folder, ignore_errors=True)
        for other in sorted(p for p in self.parent.glob("*") if p.is_dir()):
            print(f"kept: {other} holds partitions of another request; delete it unless its tasks are at work")
        with contextlib.suppress(OSError):
            self.parent.rmdir()


def _read(path, fields):
    """As read_json; {} of a damaged file, whose partition is made again."""
    try:
        return read_json(path, fields)
    except WorkError:
        return {}


def local_pairs(args, settings, log, partition):
    """What a protocol decides of the plays of some users by themselves: (table, SQL of columns, values of $names)."""
    with_part = f"{COLUMNS}, part::varchar as part"
    dates = {name: settings[name] for name in DATES if name in settings}
    if args.protocol == "cold-items":
        dated = by_date(args)
        cold_items.own_pairs(log, dates if dated else None)
        if not dated:
            return "own", COLUMNS, None
        protocols.window_pairs(log, **dates)
        log.run("""create temp view both_counts as select pairs.*, own.count as total
                   from pairs join own using (user_id, track_id)""")
        return "both_counts", f"{with_part}, total", None
    if args.protocol in DATED:
        protocols.window_pairs(log, **dates)
    elif args.protocol == "random":
        protocols.random_pairs(log, seed=args.seed, **settings)
    elif args.protocol == "leave-one-out":
        protocols.last_pairs(log, args.seed)
    elif args.protocol == "yambda":
        protocols.period_pairs(log, **settings)
    else:
        protocols.given_pairs(log, settings["split"], partition)
    if args.train_share == 1:
        return "pairs", with_part, None
    return (protocols.thinned("pairs", args.seed, "user_id, part"), f"{with_part}, part = 'train' and thin as thin",
            {"share": args.train_share})


class Joined(protocols.Log):
    """A Log whose table `pairs` (cold-items: `own`) is what the partitions made."""

    def __init__(self, of, records, spill):
        self.of = None
        super().__init__(of.plays, of.columns, of.memory, spill, of.kept())
        self.of = of
        for about in records:
            self.ties += about["ties"]
            for reason, pairs in about["dropped"].items():
                self.note(reason, pairs)
        args, dated = of.args, by_date(of.args)
        # a union of files, not a list: only of a union does DuckDB know that a column has no nulls, which is in the
        # schema of the parts, and then only where no file is empty
        filled = [number for number, about in enumerate(records) if about["rows"]] or [0]
        files = f"({' union all '.join(f'from {parquet_rows(of.path(number))}' for number in filled)})"
        if args.protocol == "cold-items":
            self.made = ("own", "pairs") if dated else ("own",)
            self.run(f"""create temp view own as select {COLUMNS if not dated else
                         'user_id, track_id, timestamp, total as count'} from {files}""")
            if dated:       # its rows of cold items are deleted
                self.run(f"create temp table pairs as select {COLUMNS}, part::part as part from {files}")
            return
        self.made = ("pairs", "thin") if args.train_share < 1 else ("pairs",)
        self.run(f"create temp view pairs as select * replace (part::part as part) from {files}")
        if args.train_share < 1:
            self.run(f"create temp view thin as select {COLUMNS} from pairs where thin")
            self.run(f"create temp view hidden as select {COLUMNS} from pairs where part = 'train' and not thin")

    def run(self, sql, values=None):
        """As Log.run; a partition's file that has gone or is damaged is named."""
        try:
            return super().run(sql, values)
        except WorkError:
            if self.of is not None:
                self.of.check(deep=True)
            raise


def typed_words(argv):
    """The command that the user typed, without --merge and --partition and their values."""
    words, skip = [], False
    for word in argv:
        if word.startswith("--"):
            skip = word == "--partition"
            if skip or word.startswith("--partition=") or word in ("--merge", "--overwrite"):
                continue
        elif skip:
            continue
        words.append(word)
    return ["python", "preprocess/1_train_test_split.py", *words]


def is_published(workdir, request):
    """Whether the workspace holds the finished split of a request, all of its files at their size."""
    path = workdir / "data" / "split.json"
    old = stage.read_manifest(path) or {}
    return (old.get("status") == "finished" and old.get("request") == json.loads(json.dumps(request))
            and all((path.parent / name).exists() and (path.parent / name).stat().st_size == size
                    for name, size in old.get("bytes", {}).items()))
