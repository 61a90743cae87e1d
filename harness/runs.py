"""Runs, files and flags: the instrument every script shares.

A run is one request answered once. Its name is made from the request, its folder `runs/<name>/`
holds the manifest (`config.json`) and the TensorBoard events, and a lock keeps two processes from
answering the same request at once. The module also holds the two things every stage needs to be
safe and pleasant: files that appear only when complete, and errors that are one sentence.

Layout and naming: README, "The workspace".
"""
import argparse
import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

PART_ORDER = ("val", "test", "cold_test")


# --------------------------------------------------------------------------- errors and flags

class UsageError(Exception):
    """The request cannot be meant: wrong flag, value or name. Exit status 2."""


class WorkError(Exception):
    """The request is sound but the work failed: bad data, full disk, lost file. Exit status 1."""


class Parser(argparse.ArgumentParser):
    """ArgumentParser whose errors are one line, exit status 2, and that never guesses at a flag."""

    def __init__(self, *args, **kwargs):
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **kwargs)

    def error(self, message):
        self.exit(2, f"{self.prog}: {message}\n")


def cli(main, argv=None):
    """Run `main(argv)` as a script: exit status 0, 1 (work) or 2 (usage), one sentence on stderr."""
    prog = _program(sys.argv[0])
    try:
        status = main(argv)
    except UsageError as e:
        status = _say(prog, e, 2)
    except WorkError as e:
        status = _say(prog, e, 1)
    except KeyboardInterrupt:
        status = _say(prog, "interrupted; the same command continues where it stopped", 130)
    except MemoryError as e:
        status = _say(prog, f"out of memory{f': {e}' if str(e) else ''}", 1)
    except RuntimeError as e:
        if not _is_memory(e):
            raise
        status = _say(prog, f"out of memory: {str(e).splitlines()[0]}", 1)
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except OSError as e:
        status = _say(prog, _os_sentence(e), 1)
    sys.exit(status or 0)


def _program(path):
    """The name of the running script in messages: train.py, or sasrec for recommenders/sasrec/__main__.py."""
    path = Path(path)
    return path.parent.name if path.name == "__main__.py" else path.name


def _say(prog, message, status):
    print(f"{prog}: {' '.join(str(message).split())}", file=sys.stderr)
    return status


def _is_memory(e):
    """Whether a RuntimeError is torch's way to say that memory does not suffice, or a size that nobody has."""
    return type(e).__name__ == "OutOfMemoryError" or re.search(
        "can't allocate memory|not enough memory|out of memory|Storage size calculation overflowed|invalid shape dim",
        str(e)) is not None


def _os_sentence(e):
    if e.filename is None and e.errno is None:  # libraries raise OSError with a message of their own
        return str(e)
    where = f" {e.filename}" if e.filename else ""
    if e.errno == errno.ENOSPC:
        return f"the disk is full while writing{where}; the file is as it was before"
    if e.errno in (errno.ENOTDIR, errno.EEXIST) and e.filename:
        return f"{e.filename}: a folder is needed here, but a file of that name is in the way"
    return f"{e.strerror or e}{where}"


def common_flags(parser, seed=True, device=False, overwrite=True):
    """Add the flags that mean the same in every script."""
    group = parser.add_argument_group("common")
    group.add_argument("--workdir", metavar="DIR", default=None,
                       help="workspace folder (default: $WORKDIR, else the current directory)")
    if seed:
        group.add_argument("--seed", type=seed_number, default=42, help="seed of everything random (default 42)")
    if device:
        group.add_argument("--device", default="auto",
                           help="auto (CUDA where there is one), cpu, cuda, cuda:1, ... (default auto)")
    if overwrite:
        group.add_argument("--overwrite", action="store_true", help="do finished work again")
    return group


def positive(text):
    """argparse type: a whole number of at least 1."""
    if not re.fullmatch("[0-9]{1,15}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text[:40]}")
    return int(text)


def number(text):
    """argparse type: a number of at least 0 that is finite."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of at least 0, not {text[:40]}")
    return value


def seed_number(text):
    """argparse type: what every generator takes as its seed, 0 to 4294967295."""
    if not re.fullmatch("[0-9]{1,10}", text) or int(text) >= 1 << 32:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to {(1 << 32) - 1}, not {text}")
    return int(text)


def recommender_flags(parser, device=False):
    """The flags of everything that writes lists: --k, --comment and the common ones."""
    parser.add_argument("--k", type=positive, default=100, help="length of the lists (default 100)")
    parser.add_argument("--comment", default="", help="free words in the run's name")
    return common_flags(parser, device=device)


def workspace(args, create=False):
    """The workspace folder of a parsed command line, as an absolute Path."""
    path = Path(args.workdir or os.environ.get("WORKDIR") or ".").expanduser().absolute()
    if create:
        path.mkdir(parents=True, exist_ok=True)
    elif not path.is_dir():
        raise UsageError(f"workspace {path} is not a folder; name one with --workdir or WORKDIR")
    return path


def pick_device(name="auto"):
    """torch.device for 'auto', 'cpu', 'cuda', 'cuda:N'; an absent one is a usage error."""
    import torch
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch("cpu|cuda(:[0-9]{1,3})?", name):
        raise UsageError(f"--device {name} is no device; use auto, cpu or cuda[:N]")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"--device {name} is not here: {torch.cuda.device_count()} CUDA devices found")
    return device


# --------------------------------------------------------------------------- whole files or none

@contextlib.contextmanager
def atomic(path, keep_suffix=True):
    """Yield a temporary path beside `path`; rename it into place when the block ends well.

    A reader never sees half a file; an exception leaves the old file as it was. Missing parent
    folders are made. The temporary name ends in the same suffix, as some writers insist.
    """
    path = Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp{path.suffix if keep_suffix else ''}")
    try:
        yield temporary
        with open(temporary, "rb") as f:
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except Exception as e:
        # numpy and torch report a full disk as a short write or a RuntimeError without a cause
        if getattr(e, "errno", None) is None and shutil.disk_usage(path.parent).free < 1 << 16:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path, text):
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path, value):
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n")


def read_json(path):
    """The object in a json file, a dict; WorkError with the file's name when there is none."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as e:
        raise WorkError(f"{path} is not readable as json ({e})") from None
    if not isinstance(value, dict):
        raise WorkError(f"{path} should hold a json object, but holds a {type(value).__name__}")
    return value


def write_npy(path, array):
    import numpy as np
    with atomic(path) as temporary, open(temporary, "wb") as f:  # given a name, np.save may add .npy to it
        np.save(f, array, allow_pickle=False)


def write_parquet(path, frame):
    """Write a pandas frame (index dropped) or a pyarrow table; timestamps stay naive microseconds."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    table = frame if isinstance(frame, pa.Table) else pa.Table.from_pandas(frame, preserve_index=False)
    with atomic(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def write_csv(path, frame, index=True, **kwargs):
    with atomic(path) as temporary:
        frame.to_csv(temporary, index=index, **kwargs)


def save_checkpoint(path, state):
    import torch
    with atomic(path) as temporary:
        torch.save(state, temporary)


def load_checkpoint(path, device="cpu", keys=()):
    """The dict that `save_checkpoint` wrote; WorkError when the file is gone, damaged or lacks one of `keys`."""
    import pickle

    import torch
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise WorkError(f"checkpoint {path} is gone; use --overwrite to start again") from None
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as e:
        raise WorkError(f"checkpoint {path} cannot be read ({type(e).__name__}); "
                        "remove it or use --overwrite to start again") from None
    if not isinstance(state, dict) or any(key not in state for key in keys):
        raise WorkError(f"checkpoint {path} is of something else; remove it or use --overwrite to start again")
    return state


def checksum(path):
    """sha256 of a file's bytes, as hex."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


# --------------------------------------------------------------------------- progress and signals

class Progress:
    """A progress bar with rate and time left; plain lines every `every` seconds without a terminal."""

    def __init__(self, total, desc, unit="it", every=10.0, initial=0):
        self.total, self.desc, self.unit, self.every = total, desc, unit, every
        self.n = self.initial = initial
        self.start = self.last = time.monotonic()
        self.note, self.printed = "", initial
        self.bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm
            self.bar = tqdm(total=total, desc=desc, unit=unit, initial=initial, dynamic_ncols=True, leave=True)

    def update(self, n=1, **note):
        """Advance by n units; keyword values are shown beside the bar."""
        self.n += n
        if note:
            self.note = ", ".join(f"{k}={v}" for k, v in note.items())
        if self.bar is not None:
            if note:
                self.bar.set_postfix_str(self.note, refresh=False)
            self.bar.update(n)
        elif time.monotonic() - self.last >= self.every:
            self._line()

    def _line(self):
        self.last, self.printed = time.monotonic(), self.n
        rate = (self.n - self.initial) / max(self.last - self.start, 1e-9)
        left = f", {_clock((self.total - self.n) / rate)} left" if self.total and rate > 0 else ""
        of = f"/{self.total}" if self.total else ""
        print(f"{self.desc}: {self.n}{of} {self.unit}, {rate:.3g} {self.unit}/s{left}"
              f"{f' [{self.note}]' if self.note else ''}", file=sys.stderr, flush=True)

    def close(self):
        if self.bar is not None:
            self.bar.close()
        elif self.n > self.printed:
            self._line()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if kind is None or self.bar is not None:  # an error's one sentence stands alone
            self.close()


def _clock(seconds):
    seconds = int(seconds)
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


class StopRequest:
    """True once SIGUSR1 or SIGTERM has arrived (Slurm sends one before a time limit).

    Loops ask `stop.requested` at a point from which they can resume, save, and call `stop_here`. Inside a
    run, `run.stop` is one that ends with the run.
    """

    def __init__(self):
        self.requested = False
        self._before = {number: signal.signal(number, self._set) for number in (signal.SIGUSR1, signal.SIGTERM)}

    def _set(self, number, frame):
        self.requested = True

    def restore(self):
        """Let signals do again what they did before; a request nobody acted on goes to who listened before."""
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
            if self.requested and callable(handler):
                handler(number, None)


EXIT_RESUMABLE = 85  # work saved, not finished: the batch template requeues on this status


def stop_here(what):
    """Leave with the status that means: all is saved, run the same command again."""
    print(f"{what}: stopped by a signal; everything is saved, the same command continues", file=sys.stderr)
    sys.exit(EXIT_RESUMABLE)


# --------------------------------------------------------------------------- runs

def slug(text):
    """Text as a part of a file name: letters, digits, '.', '-' and '_' only, at most 40 characters."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", str(text)).strip("-.")[:40]


def request_hash(request):
    return hashlib.sha256(json.dumps(request, sort_keys=True, default=str).encode()).hexdigest()[:10]


def run_name(recommender, embedding, request, seed=None, comment=""):
    """Readable and unique: recommender, embedding, seed, comment, hash of the whole request."""
    words = [recommender, embedding, None if seed is None else f"s{seed}", comment]
    return "_".join([slug(w) for w in words if w not in (None, "") and slug(w)] + [request_hash(request)])


class Run:
    """One request in one workspace. Use as a context manager; the body does the work.

        with runs.Run(workdir, "shallow", request, embedding="musicnn", inputs=[...], args=args) as run:
            if run.finished:
                return
            ... # run.resume says whether to look for run.checkpoint("last")
            run.finish(parts=["val", "test"])

    request: every argument that can change the result (not device, workers, verbosity).
    inputs:  paths whose content the result depends on; their checksums decide skip or redo.
    outputs: paths, beside the lists and metrics of its parts, without which a finished run is done again.
    """

    def __init__(self, workdir, recommender, request, embedding=None, inputs=(), outputs=(),
                 args=None, name=None, info=None):
        self.workdir, self.recommender, self.embedding = Path(workdir), recommender, embedding
        self.request = json.loads(json.dumps(request, default=str))
        self.info = dict(info or {})
        self.args = args
        self.outputs = [Path(o) for o in outputs]
        self.name = name or run_name(recommender, embedding, self.request,
                                     request.get("seed"), request.get("comment", ""))
        self.folder = self.workdir / "runs" / self.name
        self.inputs = {self._relative(p): checksum(p) for p in inputs}
        self.finished = self.resume = False
        self._writer = self._lock = self._stop = None

    def _relative(self, path):
        path = Path(path).absolute()
        return str(path.relative_to(self.workdir)) if path.is_relative_to(self.workdir) else str(path)

    # paths ----------------------------------------------------------------
    def preds(self, part):
        return self.workdir / "preds" / f"{self.name}_{part}.pqt"

    def metrics(self, part, suffix="csv"):
        return self.workdir / "metrics" / f"{self.name}_{part}.{suffix}"

    def checkpoint(self, which):
        """Path of the 'best' or 'last' checkpoint."""
        return self.workdir / "checkpoints" / (self.embedding or self.recommender) / f"{self.name}_{which}.pt"

    def model_embeddings(self, which):
        """Path of the learned 'users' or 'items' embeddings."""
        return self.workdir / "model_embeddings" / f"{self.name}_{which}.npy"

    # life -----------------------------------------------------------------
    def __enter__(self):
        for name in ("preds", "metrics", "checkpoints", "model_embeddings"):  # better now than after the training
            if (path := self.workdir / name).exists() and not path.is_dir():
                raise WorkError(f"{path}: a folder is needed here, but a file of that name is in the way")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.folder / ".lock", "w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise WorkError(f"run {self.name} is being made by another process right now; "
                            "wait for it, or change the request") from None
        self.started = time.time()
        self._decide()
        if not self.finished:
            self._write("running")
        return self

    def _decide(self):
        manifest = self.folder / "config.json"
        overwrite = bool(getattr(self.args, "overwrite", False))
        if not manifest.exists():
            return
        old = read_json(manifest)
        if old.get("request") != self.request:
            raise WorkError(f"run name {self.name} is taken by a different request; "
                            "choose another --comment")
        same = old.get("inputs") == self.inputs
        if not same:
            changed = sorted(k for k in {*old.get("inputs", {}), *self.inputs}
                             if old.get("inputs", {}).get(k) != self.inputs.get(k))
            print(f"{self.name}: made again, because {', '.join(changed)} changed since", file=sys.stderr)
        if not same or overwrite:
            self._clean()
        elif old.get("status") == "finished" and all(p.exists() for p in self._made(old)):
            self.finished = True
            print(f"{self.name}: finished before, skipped (--overwrite does it again)", file=sys.stderr)
        else:
            self.resume = True

    def _made(self, manifest):
        return self.outputs + [path(part) for part in manifest.get("parts", []) for path in (self.preds, self.metrics)]

    def _clean(self):
        for which in ("best", "last"):
            self.checkpoint(which).unlink(missing_ok=True)
        for events in self.folder.rglob("events.out.tfevents.*"):
            events.unlink()

    def __exit__(self, kind, value, traceback):
        if self._stop is not None:
            self._stop.restore()
        if self._writer is not None:
            self._writer.close()
        if self._lock is not None:
            self._lock.close()

    def finish(self, **results):
        """Mark the run finished; keyword values (parts, epochs, val metrics ...) go into the manifest.

        Lists and metrics of parts that an earlier split had are removed.
        """
        if self._writer is not None:
            self._writer.flush()
        for part in set(PART_ORDER) - set(results.get("parts", PART_ORDER)):
            for path in (self.preds(part), self.metrics(part), self.metrics(part, "pqt")):
                path.unlink(missing_ok=True)
        self._write("finished", wall_seconds=round(time.time() - self.started, 3),
                    peak_memory_bytes=peak_memory(), **computed_on(getattr(self.args, "device", "cpu")), **results)

    def _write(self, status, **more):
        write_json(self.folder / "config.json", {
            "run": self.name, "status": status, "recommender": self.recommender, "embedding": self.embedding,
            "seed": self.request.get("seed"), "comment": self.request.get("comment", ""),
            "request": self.request, "inputs": self.inputs,
            "arguments": {k: str(v) if isinstance(v, Path) else v for k, v in vars(self.args).items()}
            if self.args is not None else {}, "command": sys.argv,
            "versions": versions(), "git": git_state(),
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started)),
            **self.info, **more})

    @property
    def stop(self):
        """StopRequest of this run, listening from first use to the end of the run."""
        if self._stop is None:
            self._stop = StopRequest()
        return self._stop

    def writer(self, purge_step=None):
        """TensorBoard writer of this run, opened on first use."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter
            self._writer = SummaryWriter(log_dir=str(self.folder), purge_step=purge_step)
        return self._writer


def find_runs(workdir):
    """Manifests of all runs of a workspace, sorted by name: [(name, config dict)]."""
    found = []
    for manifest in sorted((Path(workdir) / "runs").glob("*/config.json")):
        found.append((manifest.parent.name, read_json(manifest)))
    return found


def peak_memory():
    """Peak resident memory of this process, bytes (and of the GPU, where one was used, if larger)."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as f:  # getrusage would count the parent's
        peak = next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmHWM:"))
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        peak = max(peak, torch.cuda.max_memory_allocated())
    return peak


def computed_on(name):
    """{"device", "threads"} of a finished run; name: its --device."""
    torch = sys.modules.get("torch")
    if torch is None:
        return {"device": "cpu", "threads": len(os.sched_getaffinity(0))}
    device = pick_device(name)
    model = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    return {"device": f"{device}{model}", "threads": torch.get_num_threads()}


def free_memory():
    """Memory this machine has free for a new array, bytes."""
    with open("/proc/meminfo", encoding="ascii") as f:
        fields = dict(line.split(":") for line in f)
    return int(fields["MemAvailable"].split()[0]) * 1024


@functools.cache
def versions():
    """Versions of Python and of the libraries that can change a figure, those that are installed."""
    from importlib.metadata import PackageNotFoundError, version
    found = {"python": sys.version.split()[0]}
    for package in ("torch", "transformers", "numpy", "pandas", "pyarrow", "scikit-learn", "scipy",
                    "faiss-cpu", "implicit", "lightgbm", "librosa", "duckdb", "rs_metrics"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def git_state():
    """Commit of the code and whether the tree differs from it; empty outside a git checkout."""
    def git(*words):
        return subprocess.run(["git", "-C", str(Path(__file__).parents[1]), *words], check=True,
                              capture_output=True, text=True).stdout.strip()
    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {}
