"""What each epoch of a training reports: scalars for TensorBoard, and a line of text where there is no terminal.

The tags are the same for every method: Loss/train, Loss/val, lr, and val/NDCG@10 and the like for the metrics on val;
a value whose name has a slash (cold_val/NDCG@10) is its own tag.
"""
import time


class EpochLog:
    """Reports the epochs of one run; `step` of every scalar is the number of epochs done.

    run: a harness.runs.Run; progress: the harness.progress.Progress of its training; epochs: how many at most
    """

    def __init__(self, run, progress, epoch, epochs):
        self.writer, self.progress, self.epochs = run.writer(purge_step=epoch + 1), progress, epochs
        self.name, self.last = run.name, time.monotonic()

    def record(self, epoch, losses, values=None, **others):
        """losses: {'train': ..., 'val': ...}; values: {'NDCG@10': ...} on val, {} or None in epochs without; others:
        further scalars by their tag, such as lr"""
        values, now = values or {}, time.monotonic()
        scalars = {f"Loss/{k}": v for k, v in losses.items()} | others | {
            k if "/" in k else f"val/{k}": v for k, v in values.items()}
        for tag, value in scalars.items():
            self.writer.add_scalar(tag, value, epoch)
        first = [k for k in ("NDCG@10", *values) if k in values][:1]
        first += [k for k in ("cold_val/NDCG@10",) if k in values and k not in first]
        shown = {f"{k} loss": v for k, v in losses.items()} | {
            k.replace("/", " ") if "/" in k else f"val {k}": values[k] for k in first}
        self.progress.say(f"{self.name}: epoch {epoch} of {self.epochs}, "
                          + ", ".join(f"{what} {value:.4f}" for what, value in shown.items())
                          + f", {now - self.last:.1f} s")
        self.last = now
