"""The two ways a script ends badly; harness/cli.py turns either into one sentence and an exit status."""
import os
from typing import Any


class UsageError(Exception):
    """Invalid command line: unknown flag or name, or a value out of range. Exit status 2."""


class WorkError(Exception):
    """The request is valid but the work failed: bad data, full disk, lost file. Exit status 1."""
    status: Any = 1


class RunInProgress(WorkError):
    """Another process is making this very run, so this one does not. Exit status 1.

    A grid that starts a run sets STATUS in its environment, and then the exit status is that number: by it the grid
    tells a run that is being made elsewhere from one that failed.
    """
    VARIABLE, STATUS = "RUN_IN_PROGRESS_STATUS", 75  # EX_TEMPFAIL of sysexits.h: try again later

    @property
    def status(self) -> int:
        asked = os.environ.get(self.VARIABLE, "")
        return self.STATUS if asked == str(self.STATUS) else WorkError.status
