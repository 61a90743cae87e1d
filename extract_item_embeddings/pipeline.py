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

import runs
from extract_item_embeddings import audio, shards


def extract(backend, shard, ids, files, marks, args, stop, kept=None):
    """Compute the missing batches of a shard, and with `kept` (a Frames) write the frames of their tracks.

    Returns False when a signal ended it early, with all saved.
    """
    todo = shard.missing
    rows = [r for b in todo for r in shard.plan.rows(b)]
    total = sum(len(shard.plan.rows(b)) for b in shard.plan.shard(shard.index, shard.of))
    waited = heard = 0.0
    with contextlib.ExitStack() as stack:
        loaded(stack, backend)
        pool = stack.enter_context(ThreadPoolExecutor(args.workers))
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        progress = stack.enter_context(
            runs.Progress(total, backend.NAME, unit="track", initial=total - len(rows)))
        tracks, start = prepared(pool, backend, [files[r] for r in rows], args, 2 * args.batch), time.monotonic()
        for b in todo:
            if stop.requested:
                return False
            mine, before = shard.plan.rows(b), time.monotonic()
            items = [next(tracks) for _ in mine]
            waited += time.monotonic() - before
            values, entry = compute(backend, mine, ids, items, shard.plan, kept)
            entry["files"] = shards.files_sum(mine, [marks[r] for r in mine])
            shard.save(b, values, entry)
            heard += entry["seconds"]
            progress.update(len(mine), real_time=f"{heard / (time.monotonic() - start):.3g}x")
    spent = time.monotonic() - start
    print(f"{backend.NAME}: {len(rows)} tracks in {spent:.1f} s, {len(rows) / spent:.3g} tracks/s, "
          f"{heard / spent:.3g} x real time; the model waited for audio {100 * waited / spent:.0f} % of the time")
    return True


def loaded(stack, backend):
    """Load the backend, for as long as the stack lasts, in a process made ready for many threads.

    Each worker's matrix products stay in its own thread: a pool of BLAS threads per worker would
    only wait for one another, and the bytes would depend on how many there are.
    """
    import threadpoolctl
    stack.enter_context(audio.quiet_decoders())
    stack.callback(backend.unload)
    backend.load()
    stack.enter_context(threadpoolctl.threadpool_limits(1, user_api="blas"))


def prepared(pool, backend, paths, args, ahead):
    """Prepared tracks in order, at most `ahead` of them decoded or being decoded at a time."""
    queue = collections.deque()
    for path in paths:
        queue.append(pool.submit(prepare, backend, path, args.seconds, args.offset))
        if len(queue) >= ahead:
            yield queue.popleft().result()
    while queue:
        yield queue.popleft().result()


def prepare(backend, path, seconds, offset):
    """(inputs, lengths, seconds, note) of one file, or the reason why there are none, a str."""
    try:
        clip = audio.decode(path, seconds, offset)
        inputs, lengths = backend.prepare(audio.resample(clip, backend.SAMPLE_RATE))
    except audio.AudioError as e:
        return str(e)
    except Exception as e:  # one odd file must not end ten hours of work; the reason goes into the json
        return f"{type(e).__name__}: {e}"
    return inputs, lengths, clip.seconds, clip.note


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
        raise runs.WorkError(f"the device has no room for a pass of {tried} windows; "
                             + ("--device cpu, or a smaller --seconds, may do" if tried == 1 else
                                "--batch auto finds how many fit, a smaller --batch may do, too"))
    backend.fits = tried // 2
    torch.cuda.empty_cache()
    print(f"{backend.NAME}: no room for a pass of {tried} windows, {backend.fits} from now on", file=sys.stderr)
