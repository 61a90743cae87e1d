"""From audio files to rows of the matrix: threads decode ahead of the model; each batch is saved when it is done.

A batch is N consecutive tracks of the list; its windows are passed to the model N at a time, the last pass
padded, so that all passes have the same shape and batches are independent. With --batch auto a pass is as large
as the device's memory allows.
"""
import collections
import contextlib
import json
import re
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from extract_item_embeddings.engine import audio
from harness.errors import WorkError
from harness.progress import Progress

OF_MACHINE = r"^MemoryError|^\w+: \[Errno (11|12|23|24|28|107|116|122)\]|ffmpeg did not finish within"  # in reasons
ABSENT = "ffmpeg, which .* is not installed"


class Job:
    """A backend and its shard: collects prepared tracks until a batch is complete, computes and saves it.

    kept: the Frames to write, or None without --frames; most: failed tracks of the shard beyond which it is a
    WorkError, None for any number
    """

    def __init__(self, backend, shard, ids, files, kept=None, most=None):
        self.backend, self.shard, self.ids, self.files, self.kept, self.most = backend, shard, ids, files, kept, most
        self.todo, self.items = collections.deque(shard.missing), []

    def rows(self):
        """Rows of the tracks that are not done yet, in order."""
        return [r for b in self.todo for r in self.shard.plan.rows(b)]

    def take(self, item):
        """Add the next prepared track; saves the batch if it is complete."""
        self.items.append(item)
        rows = self.shard.plan.rows(self.todo[0])
        if len(self.items) < len(rows):
            return
        try:
            values, entry = compute(self.backend, rows, self.ids, self.items, self.shard.plan, self.kept)
        except WorkError as e:  # name the tracks, as one of them may be the cause
            raise WorkError(f"{e}; it was processing {self.ids[rows[0]]} to {self.ids[rows[-1]]}") from None
        entry |= {"files": self.files.times_sum(rows), "audio": [self.files.record(r) for r in rows]}
        if self.backend.kept_in_float32 is not None:
            entry["kept_in_float32"] = self.backend.kept_in_float32
        self.shard.save(self.todo.popleft(), values, entry)
        self.items = []
        self.check_failures()

    def check_failures(self):
        """As the function of this name, of this shard."""
        check_failures(self.backend.NAME, [self.shard], self.most)


def check_failures(name, shards, most):
    """WorkError where more tracks of shards failed than are allowed, as when a disk is gone: not a week of NaN rows.

    most: None for any number. What an earlier run saved counts, too, so that a retry does not pass the limit.
    """
    failed = [why for shard in shards for entry in shard.entries.values() for why in entry["failed"].values()]
    _refuse(name, shards[0] if len(shards) == 1 else "all shards", failed, most,
            "finished batches are kept, mend the files or raise the number")


def check_finished(name, about, most):
    """As `check_failures`, of a matrix that is finished, by its json."""
    _refuse(name, "the finished matrix", list(about.get("failed", {}).values()), most,
            "mend the files or raise the number")


def _refuse(name, where, failed, most, remedy):
    if most is not None and len(failed) > most:
        raise WorkError(f"{name}: {len(failed)} tracks of {where} could not be used, more than --max-failures {most}; "
                        f"the latest: {failed[-1]['trackid']}: {failed[-1]['reason']}; {remedy}")


def extract(jobs, files, args, stop):
    """Extract the missing batches of all jobs. A file is decoded once for all jobs; batches are as for one job alone.

    files: the AudioFiles of all tracks
    Returns False if a signal ended it early, with all finished batches saved.
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
            (prepare_row, files, row, [job.backend for job in those], args.seconds, args.offset)
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
    """{row: the jobs for which this track is missing}, rows ascending."""
    needs = {}
    for job in jobs:
        for row in job.rows():
            needs.setdefault(row, []).append(job)
    return dict(sorted(needs.items()))


def loaded(stack, backends):
    """Load the backends on the stack, and set up the process for many threads.

    Each thread computes its own matrix products: BLAS thread pools would block one another, and the
    result would depend on the number of threads.
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
    """Load each backend with the number of torch threads it would have alone; some backends set it to one."""
    import torch
    threads, alone = torch.get_num_threads(), False
    for backend in backends:
        torch.set_num_threads(threads)
        load(stack, backend)
        alone |= torch.get_num_threads() == 1
    if alone:
        torch.set_num_threads(1)


def in_order(pool, ahead, calls):
    """Results of (function, *arguments) in order, with at most `ahead` calls running or done in advance."""
    queue = collections.deque()
    for call in calls:
        queue.append(pool.submit(*call))
        if len(queue) >= ahead:
            yield queue.popleft().result()
    while queue:
        yield queue.popleft().result()


def prepared(pool, backend, paths, args, ahead):
    """Prepared tracks of one backend in order, with at most `ahead` of them decoded in advance."""
    return in_order(pool, ahead, ((prepare, backend, path, args.seconds, args.offset) for path in paths))


def prepare_row(files, row, backends, seconds, offset):
    """As prepare_all, of the file of one track, whose content is hashed first: decoding then finds it in memory."""
    files.record(row, again=True)
    return prepare_all(backends, files.paths[row], seconds, offset)


def prepare(backend, path, seconds, offset):
    """(inputs, lengths, seconds, note, quality) of one file, or a str with the reason why it cannot be used."""
    return prepare_all([backend], path, seconds, offset)[0]


def prepare_all(backends, path, seconds, offset):
    """As prepare, for several backends; the file is decoded once, and resampled once per sample rate."""
    try:
        clip, at_rate = audio.decode(path, seconds, offset), {}
    except Exception as e:
        return [reason(path, e)] * len(backends)
    items = []
    for backend in backends:
        try:
            rate = backend.SAMPLE_RATE
            if rate not in at_rate:
                at_rate[rate] = audio.resample(clip, rate)
            items.append((*backend.prepare(at_rate[rate]), clip.seconds, clip.note, clip.quality))
        except Exception as e:
            items.append(reason(path, e))
    return items


def reason(path, error):
    """Why a file has no values, for the json: one invalid file must not end a run of hours.

    WorkError where the machine failed: that is no fact about the file, and would be a row of NaN for ever.
    """
    words = str(error) if isinstance(error, audio.AudioError | audio.MachineError) else \
        ": ".join(filter(None, (type(error).__name__, str(error))))
    if audio.of_machine(error):
        raise WorkError(f"{path}: the machine failed, not the file ({words}); finished batches are kept, and the same "
                        "command goes on after them; leave the file out if it fails again") from None
    return words


def passing(entry):
    """The reasons in a batch's line of the journal that may not hold any more: of the machine, or of ffmpeg's absence.

    Earlier versions noted failures of the machine as those of the file.
    """
    reasons = [why["reason"] for kind in ("failed", "notes") for why in entry.get(kind, {}).values()]
    absent = ABSENT if shutil.which("ffmpeg") else "(?!)"
    return [why for why in reasons if re.search(f"{OF_MACHINE}|{absent}", why)]


def compute(backend, rows, ids, items, plan, kept=None):
    """One batch: values (tracks, width), NaN for failed tracks, and its line of the journal.

    kept: the Frames to write, or None without --frames
    """
    values = np.full((len(rows), plan.width), np.nan, np.float32)
    entry = {"seconds": 0.0, "failed": {}, "notes": {}, "quality": {}}
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
        else:
            for kind, reason in (("notes", item[3]), ("quality", item[4])):
                if reason:
                    entry[kind][row] = {"trackid": ids[row], "reason": reason}
    for row in entry["failed"] if kept else ():
        kept.remove(row)
    entry["seconds"] = round(entry["seconds"], 3)
    return values, json.loads(json.dumps(entry))


def run_model(backend, inputs, lengths, batch, kept=None, rows=None):
    """(n, *shape) -> (n, width), `batch` windows at a time; the last pass is padded with silence.

    kept, rows: the Frames to write and the track of each window, or None without --frames
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
    """Values, and frames if requested, of `batch` windows from index `s` on, or of as many as fit (auto)."""
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
    """After a pass of `tried` windows ran out of memory: use half as many; WorkError if that is not allowed."""
    import torch
    if not backend.fits or tried == 1:
        raise WorkError(f"the device has too little memory for a pass of {tried} windows; "
                        + ("try --device cpu or a smaller --seconds" if tried == 1 else
                           "use --batch auto, which tries how many fit, or a smaller --batch"))
    backend.fits = tried // 2
    torch.cuda.empty_cache()
    print(f"{backend.NAME}: too little memory for a pass of {tried} windows, {backend.fits} from now on",
          file=sys.stderr)
