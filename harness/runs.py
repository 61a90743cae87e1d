"""One request answered once: its name, its manifest, and whether to skip, redo or resume it.

The name is made from the request, the folder `runs/<name>/` holds the manifest (`config.json`) and the
TensorBoard events, and a lock keeps two commands from answering the same request at once. Of the processes that
torchrun starts for one command, the main one decides and writes (harness/processes.py).

Layout and naming: README, "The workspace".
"""
import functools
import hashlib
import json
import re
import shlex
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import cli, locks, processes, registry, run_files
from harness.errors import RunInProgress, WorkError
from harness.files import checksum, write_json
from harness.inputs import Input, hashed
from harness.machine import code, computed_on, git_state, peak_memory, versions
from harness.progress import StopRequest
from harness.readers import Fields, read_json
from harness.run_files import FILE_PARTS, PART_ORDER

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

NULL = type(None)
MANIFEST: Fields = {"recommender": str, "status": str, "started": str, "comment": str, "embedding": (str, NULL),
            "seed": (int, NULL), "dim": (int, NULL), "request": dict, "inputs": dict, "arguments": dict,
            "versions": dict, "git": dict, "departures": dict, "parts": list, "outputs": list, "sources": dict,
            "code": dict, "wall_seconds": (int, float)}   # the fields of config.json that somebody looks into
UNSAID = {"stop_on": "loss"}   # arguments that a request leaves out at a value that is not the default
SPLIT_FILES = ("trackid_sorted.csv", *(f"data/{part}.pqt" for part in ("train", *FILE_PARTS, "hidden")),
               "data/rules.json")


def slug(text: object) -> str:
    """Text as a part of a file name: letters, digits, '.', '-' and '_' only, at most 40 characters."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", str(text)).strip("-.")[:40]


def request_hash(request: dict) -> str:
    return hashlib.sha256(json.dumps(request, sort_keys=True, default=str).encode()).hexdigest()[:10]


def is_shuffled(request: dict) -> bool:
    """Whether a request is that of a control: `shuffle` is true, or the seed of the permutation (0 included)."""
    return not (request.get("shuffle") is None or request["shuffle"] is False)


def run_name(recommender: str, embedding: str | None, request: dict, seed: int | None = None,
             comment: str = "") -> str:
    """Readable and unique: recommender, embedding, `shuffled` for a control, seed, comment, hash of the request."""
    words = [recommender, embedding, "shuffled" if is_shuffled(request) else None,
             None if seed is None else f"s{seed}", comment]
    return "_".join([slug(w) for w in words if w not in (None, "") and slug(w)] + [request_hash(request)])


class Run:
    """One request in one workspace. Use as a context manager; the body does the work.

        with runs.Run(workdir, "shallow", request, embedding="musicnn", inputs=[...], args=args) as run:
            if run.finished:
                return
            ... # run.resume says whether to look for run.checkpoint("last")
            run.finish(parts=["val", "test"])

    request: every argument that can change the result (not device, workers, verbosity).
    inputs:  files whose content the result depends on, inputs.Input where they were read before this, or paths;
             their checksums decide skip or redo, and a run whose inputs changed meanwhile does not finish.
    outputs: paths, set before the run is entered, beside the lists and metrics of its parts, without which a finished
             run is done again.
    """

    def __init__(self, workdir, recommender, request, embedding=None, inputs=(), args=None, name=None):
        self.workdir, self.recommender, self.embedding = Path(workdir), recommender, embedding
        self.request = json.loads(json.dumps(request, default=str))
        self.info = {}      # what the manifest says beside the request
        self.args = args
        self.outputs = []
        self.name = name or run_name(recommender, embedding, self.request,
                                     request.get("seed"), request.get("comment", ""))
        self.folder = self.workdir / "runs" / self.name
        self._inputs = [i if isinstance(i, Input) else hashed(i) for i in inputs]
        self.inputs = {self._relative(i.path): i.digest for i in self._inputs}
        self.finished = self.resume = False
        self.reached = ""   # what it reached on val, in words, for its last line
        self._writer = self._lock = self._stop = None

    def _relative(self, path):
        path = Path(path).absolute()
        return str(path.relative_to(self.workdir)) if path.is_relative_to(self.workdir) else str(path)

    # paths ----------------------------------------------------------------
    def preds(self, part: str) -> Path:
        return self.workdir / "preds" / f"{self.name}_{part}.pqt"

    def metrics(self, part: str, suffix: str = "csv") -> Path:
        return self.workdir / "metrics" / f"{self.name}_{part}.{suffix}"

    def points(self, part: str, suffix: str = "csv") -> Path:
        """Path of what the run itself measured of a part and its saved lists cannot give (DTNMR's PointAccuracy)."""
        return self.workdir / "metrics" / f"{self.name}_{part}_points.{suffix}"

    def checkpoint(self, which: str) -> Path:
        """Path of the 'best' or 'last' checkpoint."""
        return self.workdir / "checkpoints" / (self.embedding or self.recommender) / f"{self.name}_{which}.pt"

    def model_embeddings(self, which: str) -> Path:
        """Path of the learned 'users' or 'items' embeddings."""
        return self.workdir / "model_embeddings" / f"{self.name}_{which}.npy"

    # life -----------------------------------------------------------------
    def __enter__(self):
        values = {f"value of {k}": v for k, v in self.request.items()} | self.inputs
        if processes.world() > 1 and getattr(self.args, "device", None):
            values["kind of device"] = cli.pick_device(self.args.device).type   # gradients would wait for one another
        processes.check_same(values, "give all processes one command, one workspace and one kind of --device")
        self.started = time.time()
        self.finished, self.resume = processes.from_main(self._open)
        return self

    def _open(self):
        """Take the run: its folder, its lock, its manifest. Returns (finished, resume)."""
        self._take_over()
        for name in ("preds", "metrics", "checkpoints", "model_embeddings"):  # better now than after the training
            if (path := self.workdir / name).exists() and not path.is_dir():
                raise WorkError(f"{path}: a folder is needed here, but a file of that name is in the way")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.folder / ".lock", "w")
        try:
            locks.take(self._lock)
        except BlockingIOError:
            self._lock.close()
            raise RunInProgress(f"run {self.name} is being made by another process right now; "
                                "wait for it, or change the request") from None
        self._decide()
        if not self.finished:
            usual = registry.defaults(self.recommender)
            if usual:
                self.info["departures"] = departures(self.request, usual)
            self._write("running")
        return self.finished, self.resume

    def _take_over(self):
        """Rename the same request's run of an earlier version, in which a control's name did not say `shuffled`."""
        if self.folder.exists() or not is_shuffled(self.request):
            return
        manifests = dict(find_runs(self.workdir))
        for old, config in manifests.items():
            if all(config.get(key) == value for key, value in (
                    ("recommender", self.recommender), ("embedding", self.embedding), ("request", self.request))):
                run_files.rename(self.workdir, old, self.name, config, manifests)
                print(f"{old}: renamed to {self.name}, as the name of a control says shuffled", file=sys.stderr)
                return

    def _decide(self):
        manifest = self.folder / "config.json"
        if not manifest.exists():
            return
        try:
            old = read_manifest(manifest)
        except WorkError as e:
            if not self._overwrite:
                raise WorkError(f"{e}; the same command with --overwrite makes the run again") from None
            return self._clean()
        if old.get("request") != self.request:
            raise WorkError(f"run name {self.name} is taken by a different request; "
                            "choose another --comment")
        same = old.get("inputs") == self.inputs
        if not same:
            changed = sorted(k for k in {*old.get("inputs", {}), *self.inputs}
                             if old.get("inputs", {}).get(k) != self.inputs.get(k))
            print(f"{self.name}: made again, because {', '.join(changed)} changed since", file=sys.stderr)
        interrupted = old.get("status") != "finished" and old.get("overwrite", False)
        if not same or (self._overwrite and not interrupted):
            self._clean()
        elif old.get("status") == "finished" and all(p.exists() for p in self._made(old)):
            self.finished = True
            self._check_inputs()
            print(f"{self.name}: finished before, skipped (--overwrite does it again)", file=sys.stderr)
        else:
            self.resume = True

    def _made(self, manifest):
        """Files without which a finished run is done again; what its manifest does not list was not made then."""
        listed = [self.workdir / p for p in manifest.get("outputs", [])]
        return [*self.outputs, *listed,
                *(path(part) for part in manifest.get("parts", []) for path in (self.preds, self.metrics))]

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

    def finish(self, outputs: Iterable[Path] = (), **results: Any) -> None:
        """Mark the run finished; keyword values (parts, epochs, val metrics ...) go into the manifest.

        outputs: files of this run's own making, without which it will be done again; they go into the manifest, too.
        Lists and metrics of parts that an earlier split had are removed. WorkError, and the run stays unfinished,
        where an input has changed since it was read.
        """
        self._check_inputs()
        if self._writer is not None:
            self._writer.flush()
        for part in set(PART_ORDER) - set(results.get("parts", PART_ORDER)):
            for path in (self.preds(part), self.metrics(part), self.metrics(part, "pqt")):
                path.unlink(missing_ok=True)
        for path in {self.points(part, s) for part in PART_ORDER for s in ("csv", "pqt")} - set(outputs):
            path.unlink(missing_ok=True)
        if outputs:
            results["outputs"] = sorted(self._relative(path) for path in outputs)
        self._write("finished", wall_seconds=round(time.time() - self.started, 3),
                    peak_memory_bytes=peak_memory(), code=code(),
                    **computed_on(getattr(self.args, "device", "cpu")), **results)
        print(self.last_line(results))

    def last_line(self, results: dict[str, Any]) -> str:
        """Method, representation, what was reached on val, time, where the lists are and what to type next."""
        made = self.embedding or "no embedding"
        what = f"{registry.title(self.recommender, self.request)}, {'ID embeddings' if made == 'random' else made}"
        epochs = _epochs(results) + ", " if results.get("epochs") else ""
        parts = results.get("parts", [])
        lists = "no lists, as this split has no part that it can rank" if not parts else \
            (f"lists in preds/{self.name}_{{{','.join(parts)}}}.pqt; next: python table.py --workdir "
             f"{shlex.quote(str(self.workdir))}")
        return (f"{self.name}: {what}: {'val ' + self.reached if self.reached else 'no val part'}; {epochs}"
                f"{time.time() - self.started:.1f} s; {lists}")

    def _check_inputs(self):
        for i in self._inputs:
            if i.changed():
                raise WorkError(f"{i.path} changed while run {self.name} was being made from it; "
                                "the same command makes it from the new one")

    @property
    def _overwrite(self):
        return bool(getattr(self.args, "overwrite", False))

    def _write(self, status, **more):
        write_json(self.folder / "config.json", {
            "run": self.name, "status": status, "recommender": self.recommender, "embedding": self.embedding,
            "seed": self.request.get("seed"), "comment": self.request.get("comment", ""),
            "request": self.request, "inputs": self.inputs,
            "arguments": {k: str(v) if isinstance(v, Path) else v for k, v in vars(self.args).items()}
            if self.args is not None else {}, "command": sys.argv,
            "versions": versions(), "git": git_state(),
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started)),
            **({"overwrite": True} if status == "running" and self._overwrite else {}),  # interrupted, it is resumed
            **self.info, **more})

    @property
    def stop(self) -> StopRequest:
        """StopRequest of this run, listening from first use to the end of the run."""
        if self._stop is None:
            self._stop = StopRequest()
        return self._stop

    @property
    def logged(self) -> bool:
        """Whether something was written to TensorBoard in this process."""
        return self._writer is not None

    def writer(self, purge_step: int | None = None) -> "SummaryWriter":
        """TensorBoard writer of this run, opened on first use; one that writes nothing beside the main process."""
        if self._writer is None and not processes.is_main():
            self._writer = NoWriter()
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter
            self._writer = SummaryWriter(log_dir=str(self.folder), purge_step=purge_step)
        return self._writer


class NoWriter:
    """What a process that writes nothing has as its TensorBoard writer."""

    def __getattr__(self, name):
        return lambda *args, **kwargs: None


def read_manifest(path: str | Path) -> dict[str, Any]:
    """The config.json of a run, a dict; WorkError where it is damaged or a field is of another type than runs write."""
    manifest = read_json(path, MANIFEST)
    for name in ("parts", "outputs", "inputs", "sources"):
        values = manifest.get(name, [])
        if not all(isinstance(v, str) for v in (values.values() if isinstance(values, dict) else values)):
            raise WorkError(f"{path}: {name} should hold texts only")
    return manifest


def find_runs(workdir: str | Path) -> list[tuple[str, dict[str, Any]]]:
    """Manifests of all runs of a workspace, sorted by name: [(name, config dict)].

    A damaged manifest is named once on stderr, and its run is left out.
    """
    manifests = []
    for path in sorted((Path(workdir) / "runs").glob("*/config.json")):
        try:
            manifests.append((path.parent.name, read_manifest(path)))
        except (WorkError, OSError) as e:
            _say_once(f"run {path.parent.name} is left out: {e}")
    return manifests


@functools.cache
def _say_once(sentence):
    print(sentence, file=sys.stderr)


def departures(request: dict, reference: dict) -> dict[str, Any]:
    """Arguments of a request whose value in another is different (or absent, and not empty here): {name: value}.

    Those of a configuration within it count one by one; what UNSAID names counts although it is absent.
    """
    def flat(arguments):
        inner = [v for v in arguments.values() if isinstance(v, dict)]
        return {k: v for part in [arguments, *inner] for k, v in part.items() if not isinstance(v, dict)}
    request, reference = flat(request), flat(reference)
    request |= {k: v for k, v in UNSAID.items() if k in reference and k not in request}
    return {k: v for k, v in request.items() if (reference[k] != v if k in reference else v)}


def _epochs(results):
    """How many epochs a training took, and which it kept, by which parts."""
    number, on = results.get("best_epoch"), " and ".join(results.get("selected_on") or [])
    value, chance = results.get("best_value"), results.get("value_by_chance")
    lost = f", no better than chance ({chance:.4f})" if None not in (value, chance) and value <= chance else ""
    kept = f", number {number} kept" + (f" (by {on}{lost})" if on else "") if number else ""
    return f"{results['epochs']} epochs{kept}"


def inputs_checksum(config: Mapping[str, Any]) -> str:
    """sha256 over `file checksum` lines of all the files that a run was made from; '' where it recorded none."""
    lines = [f"{name} {digest}\n" for name, digest in sorted(config.get("inputs", {}).items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest() if lines else ""


def split_checksums(workdir: str | Path) -> dict[str, str]:
    """{file: sha256} of the split that a workspace holds now, by the names that manifests use."""
    return {name: checksum(path) for name in SPLIT_FILES if (path := Path(workdir) / name).exists()}


def changed_since(config: dict, split: dict[str, str]) -> list[str]:
    """Files of the split that are not those a run was made from, sorted; split: `split_checksums` of now.

    Empty where the run recorded none or the workspace holds no split any more: there is nothing to compare.
    """
    recorded = {name: digest for name, digest in config.get("inputs", {}).items() if name in SPLIT_FILES}
    if not recorded or "data/train.pqt" not in split:
        return []
    return sorted(name for name in SPLIT_FILES if recorded.get(name) != split.get(name))
