"""Progress of long work, and signals that ask it to stop."""
import signal
import sys
import time


class Progress:
    """A progress bar with rate and time left; plain lines every `every` seconds without a terminal."""

    def __init__(self, total, desc, unit="it", every=10.0, initial=0):
        self.total, self.desc, self.unit, self.every = total, desc, unit, every
        self.n = self.initial = initial
        self.start = self.last = time.monotonic()
        self.note, self.printed = "", initial
        self.bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm
            self.bar = tqdm(total=total, desc=desc, unit=unit, initial=initial, dynamic_ncols=True, leave=True)

    def update(self, n=1, **note):
        """Advance by n units; keyword values are shown beside the bar."""
        self.n += n
        if note:
            self.note = ", ".join(f"{k}={v}" for k, v in note.items())
        if self.bar is not None:
            if note:
                self.bar.set_postfix_str(self.note, refresh=False)
            self.bar.update(n)
        elif time.monotonic() - self.last >= self.every:
            self._line()

    def _line(self):
        self.last, self.printed = time.monotonic(), self.n
        rate = (self.n - self.initial) / max(self.last - self.start, 1e-9)
        left = f", {_clock((self.total - self.n) / rate)} left" if self.total and rate > 0 else ""
        of = f"/{self.total}" if self.total else ""
        print(f"{self.desc}: {self.n}{of} {self.unit}, {rate:.3g} {self.unit}/s{left}"
              f"{f' [{self.note}]' if self.note else ''}", file=sys.stderr, flush=True)

    def close(self):
        if self.bar is not None:
            self.bar.close()
        elif self.n > self.printed:
            self._line()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if kind is None or self.bar is not None:  # an error's one sentence stands alone
            self.close()


def _clock(seconds):
    seconds = int(seconds)
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


class StopRequest:
    """True once SIGUSR1 or SIGTERM has arrived (Slurm sends one before a time limit).

    Loops ask `stop.requested` at a point from which they can resume, save, and call `stop_here`. Inside a
    run, `run.stop` is one that ends with the run.
    """

    def __init__(self):
        self.requested = False
        self._before = {number: signal.signal(number, self._set) for number in (signal.SIGUSR1, signal.SIGTERM)}

    def _set(self, number, frame):
        self.requested = True

    def restore(self):
        """Let signals do again what they did before; a request nobody acted on goes to who listened before."""
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
            if self.requested and callable(handler):
                handler(number, None)


EXIT_RESUMABLE = 85  # work saved, not finished: the batch template requeues on this status


def stop_here(what):
    """Leave with the status that means: all is saved, run the same command again."""
    print(f"{what}: stopped by a signal; everything is saved, the same command continues", file=sys.stderr)
    sys.exit(EXIT_RESUMABLE)
