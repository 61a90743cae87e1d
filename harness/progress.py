"""Progress of long work, and signals that ask it to stop."""
import io
import math
import os
import signal
import sys
import time
from typing import NoReturn

from harness import processes

PLAIN = "{desc}: {n_fmt}/{total_fmt} {unit}, {rate_noinv_fmt}, {remaining} left{postfix}"   # tqdm's own fields
ENDLESS = "{desc}: {n_fmt} {unit}, {rate_noinv_fmt}{postfix}"


class Progress:
    """tqdm's bar with rate and time left; without a terminal its line as plain text every `every` seconds.

    quiet: say nothing of work that takes less than `every` seconds, and leave no bar behind
    """

    def __init__(self, total, desc, unit="it", every=10.0, initial=0, quiet=False):
        from tqdm import tqdm
        self.quiet, self.said = quiet, False
        self.plain, self.every, self.last, self.printed = not sys.stderr.isatty(), every, time.monotonic(), initial
        hidden = {"file": io.StringIO(), "mininterval": math.inf, "bar_format": PLAIN if total else ENDLESS}
        shown = {"delay": every, "leave": False} if quiet else {}
        self.bar = tqdm(total=total, desc=desc, unit=unit, initial=initial, dynamic_ncols=not self.plain,
                        **hidden if self.plain else shown)

    @property
    def n(self) -> int:
        """Units so far."""
        return self.bar.n

    def update(self, n: int = 1, **note: object) -> None:
        """Advance by n units; keyword values are shown beside the bar."""
        if note:
            self.bar.set_postfix_str(", ".join(f"{k}={v}" for k, v in note.items()), refresh=False)
        self.bar.update(n)
        if self.plain and time.monotonic() - self.last >= self.every:
            self._line()

    def say(self, line: str) -> None:
        """Print a line where there is no terminal, in whose place the bar says as much."""
        if self.plain:
            print(line, file=sys.stderr, flush=True)

    def _line(self):
        self.last, self.printed, self.said = time.monotonic(), self.n, True
        line = self.bar.format_meter(**self.bar.format_dict)
        print(" ".join(line.split()), file=sys.stderr, flush=True)   # tqdm pads the rate

    def close(self) -> None:
        """End the bar; without a terminal, print what has come since the last line."""
        if self.plain and self.n > self.printed and (self.said or not self.quiet):
            self._line()
        self.bar.close()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if self.plain and kind is not None:
            self.printed = self.n   # an error's one sentence stands alone
        self.close()


class StopRequest:
    """True once SIGUSR1 or SIGTERM has arrived (Slurm sends one before a time limit).

    Loops ask `stop.requested` at a point from which they can resume, save, and call `stop_here`. Inside a
    run, `run.stop` is one that ends with the run. Of several processes all stop after the same step, on which
    training/parallel.py lets them agree: until then a signal is only noted.

    Between `hear_interrupt` and `leave_interrupt` a first Ctrl-C (SIGINT) is such a request, too, and sets
    `interrupted`; a second one ends the process at once.
    """

    def __init__(self):
        self.requested = self.interrupted = self._hears = False
        self._before = {number: signal.signal(number, self._set) for number in (signal.SIGUSR1, signal.SIGTERM)}

    def _set(self, number, frame):
        processes.stop.asked = True
        self.requested = processes.world() == 1

    def hear_interrupt(self) -> None:
        """Take Ctrl-C for a request from now on; not where it was ignored, or does something else."""
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._interrupt)
            self._hears = True

    def leave_interrupt(self) -> None:
        """Let Ctrl-C end the process again."""
        if self._hears:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self._hears = False

    def _interrupt(self, number, frame):
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
        self._set(number, frame)
        if processes.is_main():     # not by print, in whose middle a signal may come
            os.write(2, b"\ninterrupted: a checkpoint is written first; Ctrl-C again ends at once, without it\n")

    def restore(self) -> None:
        """Let signals do again what they did before; a request nobody acted on goes to who listened before."""
        self.leave_interrupt()
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
            if self.requested and not self.interrupted and callable(handler):
                handler(number, None)


EXIT_RESUMABLE = 85  # work saved, not finished: the batch template requeues on this status


def stop_here(what: str) -> NoReturn:
    """Leave with the status that means: all is saved, run the same command again."""
    print(f"{what}: stopped by a signal; everything is saved, the same command continues", file=sys.stderr)
    sys.exit(EXIT_RESUMABLE)
