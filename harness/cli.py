"""The command line that every script shares: a parser that never guesses, common flags, errors of one sentence."""
import argparse
import errno
import math
import os
import re
import sys
import unicodedata
from pathlib import Path

from harness.errors import UsageError, WorkError
from harness.files import expanded


class Parser(argparse.ArgumentParser):
    """ArgumentParser whose errors are one line, exit status 2, and that never guesses at a flag."""

    def __init__(self, *args, **kwargs):
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **kwargs)

    def error(self, message):
        self.exit(2, f"{self.prog}: {one_line(message)}\n")

    def parse_known_args(self, args=None, namespace=None):
        """As argparse; no argument may hold a control character: arguments enter job lists, logs and file names."""
        parsed, rest = super().parse_known_args(args, namespace)
        for name, value in vars(parsed).items():
            for text in value if isinstance(value, (list, tuple)) else [value]:
                if found := isinstance(text, (str, Path)) and control_character(text):
                    self.error(f"argument {name.replace('_', '-')} holds the control character {found}; remove it")
        return parsed, rest


def control_character(text):
    """The first character of a text that is no text ("U+000A", a newline), None without one.

    Control characters, separators of lines and paragraphs, and bytes that are not UTF-8 (lone surrogates).
    """
    bad = (c for c in str(text) if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp"))
    return next((f"U+{ord(c):04X}" for c in bad), None)


def one_line(text):
    """A text for a terminal and a log: white space made single spaces, control characters written as U+001B."""
    return "".join(control_character(c) or c for c in " ".join(str(text).split()))


def run(main, argv=None):
    """Run `main(argv)` as a script: exit status 0, 1 (work) or 2 (usage), one sentence on stderr."""
    prog = _program(sys.argv[0])
    try:
        status = main(argv)
    except UsageError as e:
        status = _say(prog, e, 2)
    except WorkError as e:
        status = _say(prog, e, e.status)
    except KeyboardInterrupt:
        status = _say(prog, "interrupted; the same command continues where it stopped", 130)
    except MemoryError as e:
        status = _say(prog, f"out of memory{f': {e}' if str(e) else ''}", 1)
    except RuntimeError as e:
        if not _is_memory(e):
            raise
        status = _say(prog, f"out of memory: {str(e).splitlines()[0]}", 1)
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except OSError as e:
        status = _say(prog, _os_sentence(e), 1)
    sys.exit(status or 0)


def _program(path):
    """The name of the running script in messages: train.py, or sasrec for recommenders/sasrec/__main__.py."""
    path = Path(path)
    return path.parent.name if path.name == "__main__.py" else path.name


def _say(prog, message, status):
    print(f"{prog}: {one_line(message)}", file=sys.stderr)
    return status


def _is_memory(e):
    """Whether a RuntimeError is torch's way to say that memory does not suffice, or a size that nobody has."""
    return type(e).__name__ == "OutOfMemoryError" or re.search(
        "can't allocate memory|not enough memory|out of memory|Storage size calculation overflowed|invalid shape dim",
        str(e)) is not None


def _os_sentence(e):
    if e.filename is None and e.errno is None:  # libraries raise OSError with a message of their own
        return str(e)
    where = f" {e.filename}" if e.filename else ""
    if e.errno == errno.ENOSPC:
        return f"the disk is full while writing{where}; the file is as it was before"
    if e.errno in (errno.ENOTDIR, errno.EEXIST) and e.filename:
        return f"{e.filename}: a folder is needed here, but a file of that name is in the way"
    return f"{e.strerror or e}{where}"


def common_flags(parser, seed=True, device=False, overwrite=True):
    """Add the flags that mean the same in every script."""
    group = parser.add_argument_group("common")
    group.add_argument("--workdir", metavar="DIR", default=None,
                       help="workspace folder (default: $WORKDIR, else the current directory)")
    if seed:
        group.add_argument("--seed", type=seed_number, default=42, help="seed of everything random (default 42)")
    if device:
        group.add_argument("--device", default="auto",
                           help="auto (CUDA where there is one), cpu, cuda, cuda:1, ... (default auto)")
    if overwrite:
        group.add_argument("--overwrite", action="store_true", help="do finished work again")
    return group


def positive(text):
    """argparse type: a whole number of at least 1."""
    if not re.fullmatch("[0-9]{1,15}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text[:40]}")
    return int(text)


def number(text):
    """argparse type: a number of at least 0 that is finite."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of at least 0, not {text[:40]}")
    return value


def seed_number(text):
    """argparse type: what every generator takes as its seed, 0 to 4294967295."""
    if not re.fullmatch("[0-9]{1,10}", text) or int(text) >= 1 << 32:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to {(1 << 32) - 1}, not {text}")
    return int(text)


def recommender_flags(parser, device=False):
    """The flags of everything that writes lists: --k, --comment and the common ones."""
    parser.add_argument("--k", type=positive, default=100, help="length of the lists (default 100)")
    parser.add_argument("--comment", default="", help="free words in the run's name")
    return common_flags(parser, device=device)


def workspace(args, create=False):
    """The workspace folder of a parsed command line, as an absolute Path."""
    path = expanded(args.workdir or os.environ.get("WORKDIR") or ".").absolute()
    if found := control_character(path):
        raise UsageError(f"workspace {path} holds the control character {found}; rename the folder")
    if create:
        path.mkdir(parents=True, exist_ok=True)
    elif not path.is_dir():
        raise UsageError(f"workspace {path} is not a folder; name one with --workdir or WORKDIR")
    return path


def pick_device(name="auto"):
    """torch.device for 'auto', 'cpu', 'cuda', 'cuda:N'; an absent one is a usage error."""
    import torch
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch("cpu|cuda(:[0-9]{1,3})?", name):
        raise UsageError(f"--device {name} is no device; use auto, cpu or cuda[:N]")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"--device {name} is not here: {torch.cuda.device_count()} CUDA devices found")
    return device
