"""What all backends share: their interface, the command line, and the closing summary.

A backend is a class that says which weights, which rate, which layer, which axis (see Backend); a
script is `extraction.main(ThatClass, __doc__, argv)`.
"""
import argparse
import contextlib
import json
import os
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

import dataset
import runs
from extract_item_embeddings import audio, frames, pipeline, shards

AUTO = 64  # tracks per batch of --batch auto on a GPU


class Backend:
    """One audio representation. Subclasses fill in the constants and write load, prepare and forward.

    A prepared track is (inputs, lengths): float32 (n, *shape), the n >= 1 windows the model hears,
    always of the same shape, and int (n,), how much of each window is sound, in any unit.
    """
    NAME = ""          # file name of the embedding unless --name
    SAMPLE_RATE = 0    # Hz
    DIM = 0            # values per track
    WINDOW = None      # seconds per window; None: the whole excerpt
    BATCH = 16         # tracks per batch and windows per pass, unless --batch
    POOLING = "mean over time"
    DEVICE = False     # runs on a device of --device
    FRAME_LEVEL = None  # in words what --frames writes; None: nothing stands between a window and its vector
    fits = None        # with --batch auto, how many windows are tried in one pass; else passes are --batch windows
    PACKAGES = ()      # whose versions can change a value, beside those every backend uses

    @classmethod
    def add_flags(cls, parser):
        """Flags of this backend alone."""

    def __init__(self, args):
        self.args = args

    def suffix(self):
        """What options that change the values add to the name, such as '-mtt'."""
        return ""

    def request(self):
        """Options that change the values, and the identity of the weights; goes into the json as it is."""
        return {"weights": None, "variant": None, "layer": None}

    def outputs(self):
        """{suffix of the file: values per track}; several layers of one pass are several files."""
        return {"": self.DIM}

    def load(self):
        """Called once before the first prepare, in the main thread."""

    def unload(self):
        """Called at the end, also after an error; undoes what load changed in the process."""

    def prepare(self, samples):
        """Samples (N,) at SAMPLE_RATE -> (inputs, lengths). Runs in threads."""
        raise NotImplementedError

    def forward(self, inputs, lengths):
        """(N, *shape), (N,) -> float32 (N, sum of outputs). Always called with N = --batch, unless that is auto."""
        raise NotImplementedError

    def forward_frames(self, inputs, lengths):
        """What forward gives, and for each window its frames, float32 (T, sum of outputs); here it is one frame."""
        values = self.forward(inputs, lengths)
        return values, list(values[:, None])

    def pool(self, values, lengths):
        """(n, D) of a track's windows -> (D,): mean weighted by how much sound each holds."""
        weights = lengths / lengths.sum()
        return (values.astype(np.float64) * weights[:, None]).sum(axis=0)


# --------------------------------------------------------------------------- flags

def parser(backend, doc):
    p = runs.Parser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = p.add_argument
    add("--audio", metavar="DIR", help="folder with files <track id>.<extension>, searched recursively; the ids are "
        "those of the workspace's trackid_sorted.csv, which is made from the file names if absent")
    add("--name", help="name of the output embeddings/NAME.npy "
        f"(default {backend.NAME}, and a suffix for options that change the values)")
    add("--seconds", type=float, default=30.0, help="length of the excerpt; 0 = the whole track (default 30)")
    add("--offset", choices=("start", "middle"), default="start", help="where the excerpt lies (default start)")
    add("--shard", metavar="I/N", help="do only part I of N (I from 0 to N-1); --merge joins the parts")
    add("--merge", action="store_true", help="join finished shards; needs no --audio")
    add("--batch", type=batch_size, default=backend.BATCH, metavar="N", help="tracks per batch and windows per pass "
        "of the model; a batch is what is saved at a time. auto: as many windows as the device holds, with values that "
        f"may differ in the last digits (default {backend.BATCH})")
    if backend.FRAME_LEVEL:
        add("--frames", action="store_true",
            help=f"write frames/NAME/IDX.npy for each track, too: {backend.FRAME_LEVEL}")
    p.set_defaults(frames=False)
    add("--workers", type=int, default=len(os.sched_getaffinity(0)),
        help="threads that decode ahead of the model (default: the processors)")
    backend.add_flags(p)
    runs.common_flags(p, seed=False, device=backend.DEVICE)
    return p


def batch_size(text):
    """argparse type of --batch: a whole number, or auto."""
    if text != "auto" and not re.fullmatch(r"-?\d+", text):
        raise argparse.ArgumentTypeError(f"must be a whole number or auto, not {text}")
    return text if text == "auto" else int(text)


def check(args):
    """(i, n) of --shard i/n, (0, 1) without it; UsageError for flags that cannot be meant."""
    if args.merge and args.shard:
        raise runs.UsageError("--merge joins all shards and --shard makes one; give one of the two")
    if not args.merge and not args.audio:
        raise runs.UsageError("--audio DIR is needed: the folder with files <track id>.<extension>")
    if args.audio and not Path(args.audio).expanduser().is_dir():
        raise runs.UsageError(f"--audio {args.audio} is not a folder")
    for flag, least in (("batch", 1), ("workers", 1)):
        if getattr(args, flag) != "auto" and getattr(args, flag) < least:
            raise runs.UsageError(f"--{flag} {getattr(args, flag)} is not possible; at least {least} is expected")
    if args.seconds != 0 and not audio.SHORTEST <= args.seconds < float("inf"):
        raise runs.UsageError(f"--seconds {args.seconds:g} is not possible; expected 0 (the whole track) "
                              f"or at least {audio.SHORTEST}")
    if args.name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", args.name):
        raise runs.UsageError(f"--name {args.name!r} is no name of an embedding; letters, digits, '.', '-' and '_' "
                              "are expected")
    if args.shard is None:
        return 0, 1
    match = re.fullmatch(r"(\d+)/(\d+)", args.shard)
    if not match or int(match[1]) >= int(match[2]):
        raise runs.UsageError(f"--shard {args.shard} is not I/N with I from 0 to N-1, such as 0/8 or 7/8")
    return int(match[1]), int(match[2])


def default_name(backend, args):
    """Published name, then what changes the values: musicnn, musicnn-mtt, mfcc-10s-middle."""
    excerpt = "" if args.seconds == 30 else "-full" if args.seconds == 0 else f"-{args.seconds:g}s"
    return backend.NAME + backend.suffix() + excerpt + ("-middle" if args.offset == "middle" and args.seconds else "")


def request_of(backend, args):
    """Everything but tracks and files that can change a value, as it will stand in the json."""
    return {"backend": backend.NAME, **backend.request(), "sample_rate": backend.SAMPLE_RATE, "seconds": args.seconds,
            "offset": args.offset, "window": backend.WINDOW, "pooling": backend.POOLING,
            **({"frames": True} if args.frames else {})}


def library_versions(packages):
    found = {"python": sys.version.split()[0]}
    for package in sorted({"numpy", "soundfile", "soxr", *packages}):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


# --------------------------------------------------------------------------- the door

def main(backend_class, doc, argv=None):
    """The command line of one backend: extract (all, or one shard), or merge."""
    args = parser(backend_class, doc).parse_args(argv)
    check(args)
    backend = backend_class(args)
    work = runs.workspace(args, create=not args.merge)
    name = args.name or default_name(backend, args)
    partial = work / "embeddings" / f".{name}.partial"
    if args.merge:
        return finish(work, name, partial)
    with listening() as stop:
        shard = one_shard(backend, args, work, name, partial, stop)
    if shard is None:
        return None
    if args.shard is None:
        return finish(work, name, partial, 1)
    print(f"{name}: {shard} is complete; when all are, the same command with --merge instead of --shard joins them")
    return None


@contextlib.contextmanager
def listening():
    """A StopRequest for a while; afterwards signals do again what they did before."""
    stop = runs.StopRequest()
    try:
        yield stop
    finally:
        stop.restore()


def one_shard(backend, args, work, name, partial, stop):
    """The shard of this command line, complete; None when the embedding is finished already."""
    request = request_of(backend, args)  # first, because it fails at once where weights are missing
    folder = Path(args.audio).expanduser().absolute()
    if not (work / "trackid_sorted.csv").exists():
        audio.make_track_list(work / "trackid_sorted.csv", folder)
    ids, track_checksum = dataset.read_tracks(work)
    if not ids:
        raise runs.WorkError(f"{work / 'trackid_sorted.csv'} lists no track")
    files = audio.find(folder, ids)
    marks = [audio.fingerprint(f) for f in files]
    request |= {"track_checksum": track_checksum, "n_tracks": len(ids)}
    kept = frames.Frames(work, name, backend.outputs()) if args.frames else None
    if not args.overwrite and is_finished(work, name, backend, request, marks, partial, kept):
        return None
    settle_batch(args, backend)
    header = json.loads(json.dumps({**request, "outputs": backend.outputs(), "batch": args.batch,
                                    **({"passes": "as many windows as fit"} if backend.fits else {}),
                                    "versions": library_versions(backend.PACKAGES)}))
    with shards.Shard(partial, *check(args), plan_of(header)) as shard:
        shard.begin(header, args.overwrite)
        drop_changed(shard, marks, kept)
        if shard.missing and not pipeline.extract(backend, shard, ids, files, marks, args, stop, kept):
            runs.stop_here(f"{name} {shard}")
    return shard


def settle_batch(args, backend):
    """With --batch auto: batches worth a pass of a GPU, and passes that begin as large (see pipeline.one_pass)."""
    if args.batch == "auto":
        on_gpu = backend.DEVICE and runs.pick_device(args.device).type == "cuda"
        args.batch = backend.fits = AUTO if on_gpu else backend.BATCH


def plan_of(header):
    return shards.Plan(header["n_tracks"], header["batch"], sum(header["outputs"].values()))


def is_finished(work, name, backend, request, marks, partial, kept=None):
    """True when every output is there, made by this request from these files."""
    for suffix in backend.outputs():
        path = work / "embeddings" / f"{name}{suffix}.npy"
        if not path.with_suffix(".json").exists():
            if path.exists() and not partial.exists():
                raise runs.UsageError(f"{path} is there without a json that says how it was made; "
                                      "choose another --name, or --overwrite")
            return False
        now = {**request, "audio_checksum": f"{shards.files_sum(range(len(marks)), marks):016x}"}
        old = {k: v for k, v in runs.read_json(path.with_suffix(".json")).items()
               if k in (*now, "matrix_checksum", "failed")}
        matrix, failed = old.pop("matrix_checksum", None), old.pop("failed", {})
        changed = shards.differences(old, now)
        if any(k not in shards.INPUTS for k in changed):
            raise runs.UsageError(f"{path} was made with other settings ({shards.said(old, now, changed)}); "
                                  "choose another --name, or --overwrite")
        if changed or not path.exists() or runs.checksum(path) != matrix:
            why = ("the track list" if "track_checksum" in changed else "audio files") if changed else path.name
            print(f"{name}: made again, because {why} changed since", file=sys.stderr)
            return False
        if kept and not kept.there(r for r in range(len(marks)) if str(r) not in failed):
            print(f"{name}: made again, because some of its frames are gone", file=sys.stderr)
            return False
    print(f"{name}: finished before, skipped (--overwrite does it again)", file=sys.stderr)
    return True


def drop_changed(shard, marks, kept=None):
    """Forget finished batches whose files have changed since, or whose frames are gone."""
    for b, entry in list(shard.entries.items()):
        rows = shard.plan.rows(b)
        if entry["files"] != shards.files_sum(rows, [marks[r] for r in rows]) \
                or kept and not kept.there(r for r in rows if str(r) not in entry["failed"]):
            del shard.entries[b]


def finish(work, name, partial, of=None):
    """Join the `of` shards that are there (None: count them), and say what became of the tracks."""
    if not partial.exists() and (work / "embeddings" / f"{name}.json").exists():
        return print(f"{name}: merged before, nothing to do", file=sys.stderr)
    header, parts = shards.complete(partial, of or shards.counted(partial), plan_of)
    if dataset.read_tracks(work)[1] != header["track_checksum"]:
        raise runs.WorkError(f"the shards of {name} were made for another trackid_sorted.csv; run them again")
    about = shards.write(work / "embeddings", name, header, parts)
    failed = about["failed"]
    print(f"{name}: {header['n_tracks'] - len(failed)} of {header['n_tracks']} tracks have an embedding of "
          f"{' + '.join(map(str, header['outputs'].values()))} values, {len(failed)} have none, "
          f"{len(about['incomplete'])} were heard in part: {work / 'embeddings' / f'{name}.npy'}")
    for kind in ("failed", "incomplete"):
        lines = list(about[kind].values())
        for entry in lines[:20]:
            print(f"  {entry['trackid']}: {entry['reason']}")
        if len(lines) > 20:
            print(f"  and {len(lines) - 20} more, all in {name}.json")
