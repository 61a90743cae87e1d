"""One request answered once: its name, its manifest, and whether to skip, redo or resume it.

The name is made from the request, the folder `runs/<name>/` holds the manifest (`config.json`) and the
TensorBoard events, and a lock keeps two processes from answering the same request at once.

Layout and naming: README, "The workspace".
"""
import fcntl
import hashlib
import json
import re
import sys
import time
from pathlib import Path

from harness.errors import RunInProgress, WorkError
from harness.files import checksum, read_json, write_json
from harness.machine import computed_on, git_state, peak_memory, versions
from harness.progress import StopRequest

PART_ORDER = ("val", "test", "cold_test")


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
            raise RunInProgress(f"run {self.name} is being made by another process right now; "
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
