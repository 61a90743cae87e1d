"""Figures over list length and by segment, out of the saved lists; learning curves, out of TensorBoard's files."""
import numpy as np

from evaluation.cuts import segments
from evaluation.intervals import mean_and_half_width
from evaluation.lists import read_frame, read_lists, read_truth
from evaluation.segments import ACTIVITY, POPULARITY, by_activity
from harness.run_files import COLD_PARTS
from metrics import METRICS, values_of

LENGTHS = (1, 2, 3, 5, 10, 20, 30, 50, 100)
SEGMENT_AT = 10       # list length of the figures by segment
POINTS = 200          # of a learning curve that are kept


def of_rows(workdir, split, part, rows, progress):
    """The figures of all rows of one part: [{'over_k': .., 'activity': .., 'popularity': ..}], None without lists.

    over_k: {metric: {k: [mean, half]}}; activity and popularity: {metric: [[mean, half, users] of each segment]},
    metrics at SEGMENT_AT, popularity not of a cold part, whose tracks have no plays. half is the half-width of
    the 95 % interval over users, of each user's mean over the row's seeds.
    """
    truth = read_truth(split.truth(part))
    active = by_activity(split, truth.users)
    cut = {} if part in COLD_PARTS else segments(split, part, "item-popularity")
    pieces = [cut.get(name) for name in POPULARITY] if cut else []
    results = []
    for row in rows:
        frames = []
        for name, _ in row.cell.runs if row.cell else ():
            path = workdir / "preds" / f"{name}_{part}.pqt"
            if path.exists():
                frames.append(read_frame(path, ("user_id", "track_id", "rank")))
        results.append(_of_row(frames, truth, active, pieces) if frames else None)
        progress.update(1)
    return results


def _of_row(frames, truth, active, pieces):
    longest = min(int(frame["rank"].max()) + 1 if len(frame) else 1 for frame in frames)
    ks = [k for k in LENGTHS if k <= longest] or [longest]
    values = _mean_values(frames, truth, ks)
    at = max(k for k in ks if k <= SEGMENT_AT)
    return {"over_k": {m: {k: _interval(values[f"{m}@{k}"]) for k in ks} for m in METRICS}, "at": at,
            "activity": {m: [_interval(values[f"{m}@{at}"][active == i]) for i in range(len(ACTIVITY))]
                         for m in METRICS},
            "popularity": _by_piece(frames, pieces, at)}


def _by_piece(frames, pieces, at):
    cut = [None if piece is None else _mean_values(frames, piece, [at]) for piece in pieces]
    return {m: [[None, None, 0] if values is None else _interval(values[f"{m}@{at}"]) for values in cut]
            for m in METRICS} if pieces else {}


def _mean_values(frames, truth, ks):
    """{`Metric@k`: each user's mean over the runs, float64 (U,)}"""
    tables = [values_of(read_lists(frame, truth.users), truth, ks) for frame in frames]
    return {column: np.mean([table[column].to_numpy() for table in tables], axis=0) for column in tables[0]}


def _interval(values):
    """[mean, half-width, users], None for what cannot be estimated."""
    if not len(values):
        return [None, None, 0]
    mean, half = mean_and_half_width(values)
    return [round(float(mean), 6), round(float(half), 6) if np.isfinite(half) else None, len(values)]


# --------------------------------------------------------------------------- learning

def learning(workdir, rows):
    """Learning curves of the first run of each row: [{'run', 'label', 'curves': {tag: [[epoch, value]]}}].

    rows: of evaluation.leaderboard; a run without TensorBoard files, or without epochs in them, has no entry.
    """
    found = []
    for row in rows:
        name = row.cell.runs[0][0]
        curves = _scalars(workdir / "runs" / name)
        if any(len(points) > 1 for points in curves.values()):
            found.append({"run": name, "label": f"{row.method} {row.label}".strip(), "curves": curves})
    return found


def _scalars(folder):
    """{tag: [[step, value]]} of losses and val metrics in a run's event files; the last value of each step counts."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    known = {}
    for path in sorted(folder.glob("events.out.tfevents.*"), key=lambda p: (p.stat().st_mtime_ns, p.name)):
        for event in _events(EventFileLoader(str(path))):
            for value in event.summary.value:
                if value.tag.startswith(("Loss/", "val/")) and value.tensor.float_val:
                    known.setdefault(value.tag, {})[event.step] = value.tensor.float_val[0]
    curves = {}
    for tag, values in known.items():
        steps = sorted(step for step in values if np.isfinite(values[step]))
        kept = steps[::-(-len(steps) // POINTS) or 1]
        curves[tag] = [[step, float(f"{values[step]:.5g}")] for step in kept]
    return curves


def _events(loader):
    """The events of a file up to where it is damaged or cut off: a killed run leaves its last record unfinished."""
    from tensorboard.compat.tensorflow_stub.errors import DataLossError
    try:
        yield from loader.Load()
    except DataLossError:
        return
