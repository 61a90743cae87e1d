"""Shared by all backends: the command line, the steps from a request to finished files, and the summary.

A backend is a class that defines weights, sample rate, layer and pooling (see backend.py); its script calls
`extraction.main(ThatClass, __doc__, argv)`. Several backends in one pass: __main__.py.
"""
import argparse
import contextlib
import json
import re
import sys
from functools import cached_property
from pathlib import Path

import dataset
from extract_item_embeddings.engine import aligned, audio, audio_files, file_lists, frames, pipeline, shards
from extract_item_embeddings.engine.backend import Backend
from harness import cli
from harness.errors import UsageError, WorkError
from harness.files import checksum
from harness.machine import cores
from harness.progress import StopRequest, stop_here
from harness.readers import read_json

__all__ = ["Backend", "Task", "main", "make", "parser", "run"]

AUTO = 64  # tracks per batch of --batch auto on a GPU


# --------------------------------------------------------------------------- flags

def parser(backend, doc):
    """The command line of one backend."""
    p = cli.Parser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared_flags(p)
    own_flags(p, backend)
    cli.common_flags(p, seed=False, device=backend.DEVICE)
    return p


def shared_flags(p):
    """Flags that backends of one pass over the audio have in common."""
    add = p.add_argument
    add("--audio", metavar="DIR", help="folder with audio files <track id>.<extension>, searched recursively; the ids "
        "are those of the workspace's trackid_sorted.csv, which is written from the file names if it does not exist")
    add("--files", metavar="LIST", help="instead of --audio: a list of the files, a csv with the columns trackid and "
        "path or one path per line, relative to the list's folder")
    add("--seconds", type=float, default=30.0, metavar="SECONDS",
        help="length of the excerpt in seconds; 0 is the whole track (default 30)")
    add("--offset", choices=("start", "middle"), default="start",
        help="position of the excerpt in the track (default start)")
    add("--shard", metavar="I/N", help="extract only shard I of N (I from 0 to N-1); --merge joins the shards")
    add("--merge", action="store_true", help="join finished shards into the matrix; needs no --audio")
    add("--max-failures", type=cli.whole_number(0), metavar="N", help="stop with an error when more than N tracks of "
        "this shard, or with --merge of all of them, could not be used; what is finished stays (default: go on)")
    add("--workers", type=int, default=cores(),
        metavar="N", help="number of threads that decode audio ahead of the model (default: one per CPU)")


def own_flags(p, backend):
    """Flags of one embedding."""
    add = p.add_argument
    add("--name", metavar="NAME", help="name of the output embeddings/NAME.npy "
        f"(default {backend.NAME}, with a suffix for options that change the values)")
    add("--batch", type=batch_size, default=backend.BATCH, metavar="N", help="number of tracks per saved batch and of "
        "windows per forward pass. auto: as many windows as fit on the device, with values that may differ in the "
        f"last digits (default {backend.BATCH})")
    add("--dtype", choices=("float32", "float16"), default="float32",
        help="number format of the matrix; float16 halves it and keeps three digits (default float32)")
    if backend.FRAME_LEVEL:
        add("--frames", action="store_true",
            help=f"also write the frame-level output frames/NAME/IDX.npy of each track: {backend.FRAME_LEVEL} "
                 "(default: off)")
    p.set_defaults(frames=False)
    backend.add_flags(p)


def batch_size(text):
    """argparse type of --batch: a whole number, or auto."""
    if text != "auto" and not re.fullmatch(r"-?\d+", text):
        raise argparse.ArgumentTypeError(f"must be a whole number or auto, not {text}")
    return text if text == "auto" else int(text)


def check(args):
    """(i, n) of --shard i/n, (0, 1) without it; UsageError for contradictory options or values out of range."""
    if args.merge and args.shard:
        raise UsageError("--merge joins all shards and --shard extracts one; give one of the two")
    if args.audio and args.files:
        raise UsageError("--audio names a folder and --files a list of files; give one of the two")
    if not args.merge and not args.audio and not args.files:
        raise UsageError("--audio DIR is required: the folder with files <track id>.<extension> (or --files LIST)")
    if args.audio and not Path(args.audio).expanduser().is_dir():
        raise UsageError(f"--audio {args.audio} is not a folder")
    for flag, least in (("batch", 1), ("workers", 1)):
        if getattr(args, flag) != "auto" and getattr(args, flag) < least:
            raise UsageError(f"--{flag} must be at least {least}, not {getattr(args, flag)}")
    if args.seconds != 0 and not audio.SHORTEST <= args.seconds < float("inf"):
        raise UsageError(f"--seconds must be 0 (the whole track) or at least {audio.SHORTEST}, not {args.seconds:g}")
    if args.name is not None:
        aligned.check_name(args.name, "--name ")
    if args.shard is None:
        return 0, 1
    match = re.fullmatch(r"(\d+)/(\d+)", args.shard)
    if not match or int(match[1]) >= int(match[2]):
        raise UsageError(f"--shard must be I/N with I from 0 to N-1, such as 0/8 or 7/8, not {args.shard}")
    return int(match[1]), int(match[2])


def default_name(backend, args):
    """Published name, options that change the values, excerpt, layer: musicnn-mtt, mfcc-10s-middle, mert-10s-layer3."""
    excerpt = "" if args.seconds == 30 else "-full" if args.seconds == 0 else f"-{args.seconds:g}s"
    middle = "-middle" if args.offset == "middle" and args.seconds else ""
    return backend.NAME + backend.suffix() + excerpt + middle + backend.layer_suffix()


def request_of(backend, args):
    """Everything except tracks and files that can change a value, as written to the json."""
    return {"backend": backend.NAME, **backend.request(), "sample_rate": backend.SAMPLE_RATE, "seconds": args.seconds,
            "offset": args.offset, "window": backend.WINDOW, "pooling": backend.POOLING,
            **({"frames": True} if args.frames else {}),
            **({"dtype": args.dtype} if args.dtype != "float32" else {})}


# --------------------------------------------------------------------------- extraction

class Task:
    """One embedding to extract: a backend and its arguments."""

    def __init__(self, backend, args):
        self.backend, self.args = backend, args
        self.name = args.name or default_name(backend, args)

    @cached_property
    def request(self):
        """The backend's request; locates the weights, so it raises at once if they are missing."""
        return request_of(self.backend, self.args)

    def partial(self, work):
        return work / "embeddings" / f".{self.name}.partial"


def main(backend_class, doc, argv=None):
    """Run the command line of one backend: extract (all, or one shard), or merge."""
    args = parser(backend_class, doc).parse_args(argv)
    check(args)
    run([Task(backend_class(args), args)])


def run(tasks):
    """Extract all or one shard, or merge, by the arguments; several tasks share one pass over the audio."""
    args = tasks[0].args
    work = cli.workspace(args, create=not args.merge)
    done = {}
    if not args.merge:
        with listening() as stop:
            done = make(tasks, work, stop)
    for task in tasks:
        if args.merge or args.shard is None and task in done:
            finish(work, task, None if args.merge else 1)
        elif task in done:
            print(f"{task.name}: {done[task]} is complete; when all are, run the same command with --merge instead of "
                  "--shard to join them")


@contextlib.contextmanager
def listening():
    """Context with a StopRequest; restores the signal handlers afterwards."""
    stop = StopRequest()
    try:
        yield stop
    finally:
        stop.restore()


def make(tasks, work, stop):
    """Extract the tasks that are not finished; returns {task: its complete shard}."""
    args = tasks[0].args
    requests = [task.request for task in tasks]
    located = file_lists.read(args.files) if args.files else Path(args.audio).expanduser().absolute()
    if not (work / "trackid_sorted.csv").exists():
        audio.make_track_list(work / "trackid_sorted.csv", located)
    ids, track_checksum = dataset.read_tracks(work)
    if not ids:
        raise WorkError(f"{work / 'trackid_sorted.csv'} has no tracks")
    paths = file_lists.paths_of(located, ids, args.files) if args.files else audio.find(located, ids)
    files = audio_files.AudioFiles(work, paths)
    jobs = {}
    with contextlib.ExitStack() as stack:
        for task, request in zip(tasks, requests, strict=True):
            request = {**request, "track_checksum": track_checksum, "n_tracks": len(ids)}
            kept = frames.Frames(work, task.name, task.backend.outputs()) if task.args.frames else None
            if not args.overwrite and is_finished(work, task, request, files, stop, kept):
                continue
            if not kept and (old := frames.Frames(work, task.name, task.backend.outputs()).old()):
                print(f"{task.name}: {' and '.join(old)} hold frames of an earlier extraction, which stay as they are; "
                      "--frames makes them again", file=sys.stderr)
            jobs[task] = pipeline.Job(task.backend, begun(stack, task, request, work, files, stop, kept), ids, files,
                                      kept, args.max_failures)
        for job in jobs.values():
            job.check_failures()
        todo = [job for job in jobs.values() if job.shard.missing]
        if todo and not pipeline.extract(todo, files, args, stop):
            stop_here(" and ".join(f"{task.name} {job.shard}" for task, job in jobs.items()))
    return {task: job.shard for task, job in jobs.items()}


def begun(stack, task, request, work, files, stop, kept):
    """The Shard of a task, opened on the stack, with its finished batches."""
    backend, args = task.backend, task.args
    settle_batch(args, backend)
    header = json.loads(json.dumps({**request, "outputs": backend.outputs(), "batch": args.batch,
                                    **({"passes": "as many windows as fit"} if backend.fits else {}),
                                    "versions": backend.versions()}))
    shard = stack.enter_context(shards.Shard(task.partial(work), *check(args), plan_of(header)))
    shard.begin(header, args.overwrite)
    for entry in shard.entries.values():
        files.learn(entry.get("audio", ()))
    files.compare([row for b, e in shard.entries.items() if "audio" in e for row in shard.plan.rows(b)],
                  args.workers, stop)
    drop_changed(shard, files, kept)
    return shard


def settle_batch(args, backend):
    """Resolve --batch auto: the batch size of a GPU, also as the initial size of a pass (see pipeline.one_pass)."""
    if args.batch == "auto":
        on_gpu = backend.DEVICE and cli.pick_device(args.device).type == "cuda"
        args.batch = backend.fits = AUTO if on_gpu else backend.BATCH


def plan_of(header):
    return shards.Plan(header["n_tracks"], header["batch"], sum(header["outputs"].values()))


def is_finished(work, task, request, files, stop, kept=None):
    """Whether every output exists and was written by this request from these files."""
    name, compared = task.name, files.compared
    for suffix in task.backend.outputs():
        path = work / "embeddings" / f"{name}{suffix}.npy"
        if not path.with_suffix(".json").exists():
            if path.exists() and not task.partial(work).exists():
                raise UsageError(f"{path} exists without the json that records its settings; "
                                 "choose another --name, or --overwrite")
            return False
        about = read_json(path.with_suffix(".json"))
        now = {"dtype": "float32", **request,
               "audio_checksum": files.checksum_like(about.get("audio_checksum"), task.args.workers, stop)}
        old = {"dtype": "float32"} | {k: v for k, v in about.items() if k in (*now, "matrix_checksum", "failed")}
        matrix, failed = old.pop("matrix_checksum", None), old.pop("failed", {})
        changed = shards.differences(old, now)
        if any(k not in shards.INPUTS for k in changed):
            raise UsageError(f"{path} was made with other settings ({shards.said(old, now, changed)}); "
                             "choose another --name, or --overwrite")
        if changed or not path.exists() or checksum(path) != matrix:
            print(f"{name}: made again, because {reason(path, about, changed)}", file=sys.stderr)
            return False
    if kept and not kept.exist(r for r in range(len(files)) if str(r) not in failed):
        print(f"{name}: made again, because some of its frames are missing", file=sys.stderr)
        return False
    same = f"; the content of {n} audio files was compared and is the same" if (n := files.compared - compared) else ""
    about = {"failed": failed, "notes": about.get("incomplete", {})}
    if n := len(pipeline.passing(about)):
        print(f"{name}: {n} track{'s lack' if n > 1 else ' lacks'} sound, as ffmpeg was not installed or the machine "
              "failed; --overwrite makes the matrix again", file=sys.stderr)
    if task.args.shard is None:
        pipeline.check_finished(name, about, task.args.max_failures)
    print(f"{name}: finished before, skipped{same} (--overwrite does it again)", file=sys.stderr)
    return True


def reason(path, about, changed):
    """Why a finished matrix is made again: the changed entries of its json, or none if it is the matrix itself."""
    if not changed or "track_checksum" in changed:
        return f"{'the track list' if changed else path.name} changed since"
    if str(about.get("audio_checksum")).startswith(shards.CONTENT):
        return "audio files changed since"
    return (f"the times of audio files changed since, and {path.stem}.json, of an earlier version, holds no hash of "
            "their content")


def drop_changed(shard, files, kept=None):
    """Discard finished batches whose files have changed since, whose frames are missing, or that the machine failed."""
    for b, entry in list(shard.entries.items()):
        rows = shard.plan.rows(b)
        if pipeline.passing(entry) or not files.same(rows, entry) \
                or kept and not kept.exist(r for r in rows if str(r) not in entry["failed"]):
            del shard.entries[b]


def finish(work, task, of=None):
    """Join the `of` existing shards (None: count them), and print the summary."""
    name, partial, folder = task.name, task.partial(work), work / "embeddings"
    first = f"{name}{next(iter(task.backend.outputs()))}"  # its suffix is the same whatever the weights
    if not partial.exists() and (folder / f"{first}.json").exists():
        pipeline.check_finished(name, read_json(folder / f"{first}.json"), task.args.max_failures)
        return print(f"{name}: merged before, nothing to do", file=sys.stderr)
    header, parts = shards.complete(partial, of or shards.counted(partial), plan_of)
    if dataset.read_tracks(work)[1] != header["track_checksum"]:
        raise WorkError(f"the shards of {name} were made for another trackid_sorted.csv; run them again")
    pipeline.check_failures(name, parts, task.args.max_failures)
    if task.args.merge and not task.args.overwrite:
        shards.check_newest(folder, name, header, parts)
    about = shards.write(folder, name, header, parts)
    audio_files.remember(work, (r for part in parts for e in part.entries.values() for r in e.get("audio", ())))
    failed, outputs = about["failed"], header["outputs"]
    files = [folder / f"{name}{suffix}.npy" for suffix in outputs]
    print(f"{name}: {header['n_tracks'] - len(failed)} of {header['n_tracks']} tracks have an embedding of "
          f"{f'{len(files)} times ' if len(files) > 1 else ''}{next(iter(outputs.values()))} values, "
          f"{len(failed)} have none, {len(about['incomplete'])} were decoded in part"
          f"{f', {n} have doubtful sound' if (n := len(about['quality'])) else ''}: "
          f"{files[0]}{f' to {files[-1].name}' if len(files) > 1 else ''}")
    for kind in ("failed", "incomplete", "quality"):
        lines = list(about[kind].values())
        for entry in lines[:20]:
            print(f"  {entry['trackid']}: {entry['reason']}")
        if len(lines) > 20:
            print(f"  and {len(lines) - 20} more, all in {first}.json")
    aligned.say_next(work, first, failed)
