"""training/epochs.py: what every epoch of a training reports."""
import io

from harness import runs
from harness.progress import Progress
from training.epochs import EpochLog


def test_an_epoch_is_one_line_and_the_same_tags_for_every_method(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    monkeypatch.setattr("sys.stderr", io.StringIO())
    with runs.Run(tmp_path, "method", {"seed": 1}) as run, Progress(10, run.name) as progress:
        log = EpochLog(run, progress, 0, 2)
        log.record(1, {"train": .5, "val": .25}, lr=.001)
        log.record(2, {"train": .4}, {"HitRate@10": .3, "NDCG@10": .125})
        progress.printed = progress.n
        import sys
        first, second = sys.stderr.getvalue().splitlines()
    assert first.startswith(f"{run.name}: epoch 1 of 2, train loss 0.5000, val loss 0.2500, ") and first.endswith(" s")
    assert second.startswith(f"{run.name}: epoch 2 of 2, train loss 0.4000, val NDCG@10 0.1250, ")
    events = EventAccumulator(str(run.folder)).Reload()
    assert sorted(events.Tags()["scalars"]) == ["Loss/train", "Loss/val", "lr", "val/HitRate@10", "val/NDCG@10"]
    assert [e.step for e in events.Scalars("Loss/train")] == [1, 2]
