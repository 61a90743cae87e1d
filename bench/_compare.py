"""A trick against its plain form: the row of one comparison."""
import statistics
import time

from harness.errors import WorkError


def gain(what, ours, plain, form, repeats, same):
    """A row of processor seconds: `ours` and `plain` called in turn, medians, and the median of plain over ours.

    what: the trick and its sizes; form: the plain form in a few words; same(a, b): whether their results agree, checked
    on the first call of each (WorkError where not). Processor time, so that other work on the machine moves the figures
    little; callers keep to one thread.
    """
    times = [[], []]
    if not same(ours(), plain()):  # also warms both up
        raise WorkError(f"{what}: the trick and the plain form disagree")
    for _ in range(repeats):
        for function, kept in zip((ours, plain), times, strict=True):
            start = time.process_time()
            function()
            kept.append(time.process_time() - start)
    return {"what": what, "ours": statistics.median(times[0]), "baseline": statistics.median(times[1]), "unit": "s",
            "ratio": statistics.median(b / a for a, b in zip(*times, strict=True)), "against": form}


def close(a, b, tolerance=1e-4):
    """Whether two tensors, arrays or lists of them differ by at most `tolerance` of the largest value of the second."""
    import torch
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(close(x, y, tolerance) for x, y in zip(a, b, strict=True))
    a, b = torch.as_tensor(a), torch.as_tensor(b)
    return a.shape == b.shape and bool((a - b).abs().max() <= tolerance * b.abs().max())


class one_thread:
    """One thread of torch within a `with`."""

    def __enter__(self):
        import torch
        self.before = torch.get_num_threads()
        torch.set_num_threads(1)

    def __exit__(self, *_):
        import torch
        torch.set_num_threads(self.before)
