"""From files to rows: decode in a few threads ahead of the model, batch by batch, saving each.

A batch is N consecutive tracks of the list; its windows meet the model N at a time, the last pass
filled up, so that every pass has one shape and no batch knows of another. With --batch auto a pass is
as large as the device's memory allows.
"""
import collections
import contextlib
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from extract_item_embeddings.engine import audio, shards
from harness.errors import WorkError
from harness.progress import Progress


class Job:
    """A backend and the shard it fills: collects prepared tracks until a batch is whole, computes and saves it.

    kept: the Frames to write, if frames are asked for
    """

    def __init__(self, backend, shard, ids, marks, kept=None):
        self.backend, self.shard, self.ids, self.marks, self.kept = backend, shard, ids, marks, kept
        self.todo, self.items = collections.deque(shard.missing), []

    def rows(self):
        """Tracks still to be done, in order."""
        return [r for b in self.todo for r in self.shard.plan.rows(b)]

    def take(self, item):
        """The next track, as prepare gives it."""
        self.items.append(item)
        rows = self.shard.plan.rows(self.todo[0])
        if len(self.items) < len(rows):
            return
        try:
            values, entry = compute(self.backend, rows, self.ids, self.items, self.shard.plan, self.kept)
        except WorkError as e:  # one track may be to blame, and can be taken away
            raise WorkError(f"{e}; it was hearing {self.ids[rows[0]]} to {self.ids[rows[-1]]}") from None
        entry["files"] = shards.files_sum(rows, [self.marks[r] for r in rows])
        if self.backend.kept_in_float32 is not None:
            entry["kept_in_float32"] = self.backend.kept_in_float32
        self.shard.save(self.todo.popleft(), values, entry)
        self.items = []


def extract(jobs, files, args, stop):
    """Do what the jobs lack. A file is decoded once, for all that need it; each job's batches are those it has alone.

    Returns False when a signal ended it early, with all finished batches saved.
    """
    needs = needs_of(jobs)
    total = len({r for j in jobs for b in j.shard.plan.shard(j.shard.index, j.shard.of) for r in j.shard.plan.rows(b)})
    name, waited, heard = " + ".join(job.backend.NAME for job in jobs), 0.0, 0.0
    with contextlib.ExitStack() as stack:
        loaded(stack, [job.backend for job in jobs])
        pool = stack.enter_context(ThreadPoolExecutor(args.workers))
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        progress = stack.enter_context(Progress(total, name, unit="track", initial=total - len(needs)))
        tracks = in_order(pool, 2 * max(job.shard.plan.batch for job in jobs), (
            (prepare_all, [job.backend for job in those], files[row], args.seconds, args.offset)
            for row, those in needs.items()))
        start = time.monotonic()
        for those in needs.values():
            if stop.requested:
                return False
            before = time.monotonic()
            items = next(tracks)
            waited += time.monotonic() - before
            for job, item in zip(those, items, strict=True):
                job.take(item)
            heard += max((item[2] for item in items if not isinstance(item, str)), default=0)
            progress.update(1, real_time=f"{heard / (time.monotonic() - start):.3g}x")
    spent = time.monotonic() - start
    print(f"{name}: {len(needs)} tracks in {spent:.1f} s, {len(needs) / spent:.3g} tracks/s, "
          f"{heard / spent:.3g} x real time; the model waited for audio {100 * waited / spent:.0f} % of the time")
    return True


def needs_of(jobs):
    """{row: the jobs that lack this track}, rows ascending."""
    needs = {}
    for job in jobs:
        for row in job.rows():
            needs.setdefault(row, []).append(job)
    return dict(sorted(needs.items()))


def loaded(stack, backends):
    """Load the backends, for as long as the stack lasts, in a process made ready for many threads.

    Each worker's matrix products stay in its own thread: a pool of BLAS threads per worker would
    only wait for one another, and the bytes would depend on how many there are.
    """
    import threadpoolctl
    stack.enter_context(audio.quiet_decoders())
    if len(backends) == 1:
        load(stack, backends[0])
    else:
        load_several(stack, backends)
    stack.enter_context(threadpoolctl.threadpool_limits(1, user_api="blas"))


def load(stack, backend):
    stack.callback(backend.unload)
    backend.load()


def load_several(stack, backends):
    """As each would find the process alone: with all threads of torch, of which some leave one to each of their own."""
    import torch
    threads, alone = torch.get_num_threads(), False
    for backend in backends:
        torch.set_num_threads(threads)
        load(stack, backend)
        alone |= torch.get_num_threads() == 1
    if alone:
        torch.set_num_threads(1)


def in_order(pool, ahead, calls):
    """Results of (function, *arguments) in order, at most `ahead` of them done or being done ahead of the reader."""
    queue = collections.deque()
    for call in calls:
        queue.append(pool.submit(*call))
        if len(queue) >= ahead:
            yield queue.popleft().result()
    while queue:
        yield queue.popleft().result()


def prepared(pool, backend, paths, args, ahead):
    """Prepared tracks of one backend in order, at most `ahead` of them decoded or being decoded at a time."""
    return in_order(pool, ahead, ((prepare, backend, path, args.seconds, args.offset) for path in paths))


def prepare(backend, path, seconds, offset):
    """(inputs, lengths, seconds, note) of one file, or the reason why there are none, a str."""
    return prepare_all([backend], path, seconds, offset)[0]


def prepare_all(backends, path, seconds, offset):
    """What prepare gives, for each of several backends; the file is decoded once, and resampled once per rate."""
    try:
        clip, at_rate = audio.decode(path, seconds, offset), {}
    except audio.AudioError as e:
        return [str(e)] * len(backends)
    except Exception as e:  # one odd file must not end ten hours of work; the reason goes into the json
        return [f"{type(e).__name__}: {e}"] * len(backends)
    items = []
    for backend in backends:
        try:
            rate = backend.SAMPLE_RATE
            if rate not in at_rate:
                at_rate[rate] = audio.resample(clip, rate)
            items.append((*backend.prepare(at_rate[rate]), clip.seconds, clip.note))
        except Exception as e:
            items.append(str(e) if isinstance(e, audio.AudioError) else f"{type(e).__name__}: {e}")
    return items


def compute(backend, rows, ids, items, plan, kept=None):
    """One batch: values (tracks, width), NaN where there is none, and its line of the journal.

    kept: the Frames to write, if frames are asked for
    """
    values = np.full((len(rows), plan.width), np.nan, np.float32)
    entry = {"seconds": 0.0, "failed": {}, "notes": {}}
    good = [k for k, item in enumerate(items) if not isinstance(item, str)]
    if good:
        counts = [len(items[k][0]) for k in good]
        out = run_model(backend, np.concatenate([items[k][0] for k in good]),
                        np.concatenate([items[k][1] for k in good]), plan.batch,
                        kept, np.repeat([rows[k] for k in good], counts))
        ends = np.cumsum(counts)
        for k, part in zip(good, np.split(out, ends[:-1]), strict=True):
            values[k] = backend.pool(part, items[k][1])
            entry["seconds"] += items[k][2]
    for k, (row, item) in enumerate(zip(rows, items, strict=True)):
        if isinstance(item, str):
            entry["failed"][row] = {"trackid": ids[row], "reason": item}
        elif not np.isfinite(values[k]).all():
            values[k] = np.nan
            entry["failed"][row] = {"trackid": ids[row], "reason": "the model gave values that are not finite"}
        elif item[3]:
            entry["notes"][row] = {"trackid": ids[row], "reason": item[3]}
    for row in entry["failed"] if kept else ():
        kept.remove(row)
    entry["seconds"] = round(entry["seconds"], 3)
    return values, json.loads(json.dumps(entry))


def run_model(backend, inputs, lengths, batch, kept=None, rows=None):
    """(n, *shape) -> (n, width), `batch` windows at a time; the last pass is filled up with silence.

    kept, rows: the Frames to write and the track of each window, if frames are asked for
    """
    out, s = [], 0
    with kept or contextlib.nullcontext():
        while s < len(inputs):
            values, frames = one_pass(backend, inputs, lengths, s, batch, kept is not None)
            for row, part in zip(rows[s:] if kept else (), frames, strict=False):
                kept.add(row, part)
            out.append(values)
            s += len(values)
        if kept:
            kept.finish()
    return np.concatenate(out)


def one_pass(backend, inputs, lengths, s, batch, with_frames):
    """Values, and frames if wanted, of the windows from number `s` on: `batch` of them, or as many as fit (auto)."""
    most = backend.fits or batch
    x, n = inputs[s:s + most], lengths[s:s + most]
    count, fill = len(x), 0 if backend.fits else batch - len(x)
    if fill:
        x = np.concatenate([x, np.zeros((fill, *x.shape[1:]), x.dtype)])
        n = np.concatenate([n, np.full(fill, lengths.max(), n.dtype)])
    try:
        values, frames = backend.forward_frames(x, n) if with_frames else (backend.forward(x, n), ())
        return values[:count], frames[:count]
    except RuntimeError as e:
        if type(e).__name__ != "OutOfMemoryError":  # torch's, which need not be imported here
            raise
    smaller(backend, len(x))
    return one_pass(backend, inputs, lengths, s, batch, with_frames)


def smaller(backend, tried):
    """After a pass of `tried` windows had no room: half as many from now on; WorkError where that is not allowed."""
    import torch
    if not backend.fits or tried == 1:
        raise WorkError(f"the device has no room for a pass of {tried} windows; "
                             + ("--device cpu, or a smaller --seconds, may do" if tried == 1 else
                                "--batch auto finds how many fit, a smaller --batch may do, too"))
    backend.fits = tried // 2
    torch.cuda.empty_cache()
    print(f"{backend.NAME}: no room for a pass of {tried} windows, {backend.fits} from now on", file=sys.stderr)
