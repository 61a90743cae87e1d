"""The two ways a script ends badly; harness/cli.py turns either into one sentence and an exit status."""


class UsageError(Exception):
    """Invalid command line: unknown flag or name, or a value out of range. Exit status 2."""


class WorkError(Exception):
    """The request is valid but the work failed: bad data, full disk, lost file. Exit status 1."""
