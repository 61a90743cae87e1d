"""The command line that every script shares: a parser that never guesses, common flags, errors of one sentence."""
import argparse
import errno
import math
import os
import re
import sys
import textwrap
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from harness import environment, processes
from harness.errors import UsageError, WorkError
from harness.files import expanded

if TYPE_CHECKING:
    import torch


class Parser(argparse.ArgumentParser):
    """ArgumentParser whose errors are one line, exit status 2, and that never guesses at a flag."""

    def __init__(self, *args, **kwargs):
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {one_line(message)}\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse; no argument may hold a control character: arguments enter job lists, logs and file names."""
        parsed, rest = super().parse_known_args(args, namespace)
        for name, value in vars(parsed).items():
            for text in value if isinstance(value, (list, tuple)) else [value]:
                if found := isinstance(text, (str, Path)) and control_character(text):
                    self.error(f"argument {name.replace('_', '-')} holds the control character {found}; remove it")
        return parsed, rest


def control_character(text: object) -> str | None:
    """The first character of a text that is no text ("U+000A", a newline), None without one.

    Control characters, separators of lines and paragraphs, and bytes that are not UTF-8 (lone surrogates).
    """
    bad = (c for c in str(text) if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp"))
    return next((f"U+{ord(c):04X}" for c in bad), None)


def one_line(text: object) -> str:
    """A text for a terminal and a log: white space made single spaces, control characters written as U+001B."""
    return "".join(control_character(c) or c for c in " ".join(str(text).split()))


def run(main: Callable, argv: Sequence[str] | None = None, parallel: bool = False) -> NoReturn:
    """Run `main(argv)` as a script: exit status 0, 1 (work) or 2 (usage), one sentence on stderr.

    parallel: whether torchrun may start it in several processes (harness/processes.py)
    """
    prog = environment.program()
    environment.print_anything()
    try:
        with processes.joined(parallel):
            status = main(argv)
    except UsageError as e:
        status = _say(prog, e, 2)
    except WorkError as e:
        status = _say(prog, e, e.status)
    except KeyboardInterrupt:
        status = _say(prog, "interrupted; what is saved stays, and the same command continues from there", 130)
    except MemoryError as e:
        status = _say(prog, f"out of memory{f': {e}' if str(e) else ''}", 1)
    except RuntimeError as e:
        if "home directory" in str(e):  # Path.expanduser
            status = _say(prog, environment.unknown_home(sys.argv[1:] if argv is None else argv), 2)
        elif _is_memory(e):
            status = _say(prog, f"out of memory: {str(e).splitlines()[0]}", 1)
        else:
            raise
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except OSError as e:
        status = _say(prog, _os_sentence(e), 1)
    sys.exit(status or 0)


def _say(prog, message, status):
    if processes.speaks():
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


# --------------------------------------------------------------------------- types of arguments

def whole_number(least: int) -> Callable[[str], int]:
    """argparse type: a whole number of at least `least`."""
    def convert(text):
        if not re.fullmatch("[0-9]{1,15}", text) or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, not {text[:40]}")
        return int(text)
    return convert


positive = whole_number(1)


LARGEST_RATE = 1e37      # Adam divides a rate by .1 in its first step, and float32 ends at 3.4e38


def number(least: float, above: bool = False, below: float = math.inf) -> Callable[[str], float]:
    """argparse type: a finite number of at least `least` (more than that where `above`), and below `below`."""
    bound = f"{'above' if above else 'of at least'} {least:g}" + ("" if below == math.inf else f" and below {below:g}")

    def convert(text):
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (least < value if above else least <= value) or not value < below:
            raise argparse.ArgumentTypeError(f"must be a number {bound}, not {text[:40]}")
        return value
    return convert


def learning_rate(text: str) -> float:
    """argparse type: a number above 0, small enough for float32 arithmetic."""
    value = number(0, above=True)(text)
    if value >= LARGEST_RATE:
        raise argparse.ArgumentTypeError(f"must be a number below {LARGEST_RATE:g}, not {text[:40]}")
    return value


def one_of(*words: str) -> Callable[[str], str]:
    """argparse type: one of these words."""
    def convert(text):
        if text not in words:
            raise argparse.ArgumentTypeError(f"must be {' or '.join(words)}, not {text[:40]}")
        return text
    return convert


def flag01(text: str) -> int:
    """argparse type: 0 or 1, as an int."""
    return int(one_of("0", "1")(text))


def seed_number(text: str) -> int:
    """argparse type: what every generator takes as its seed, 0 to 4294967295."""
    if not re.fullmatch("[0-9]{1,10}", text) or int(text) >= 1 << 32:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to {(1 << 32) - 1}, not {text[:40]}")
    return int(text)


# --------------------------------------------------------------------------- flags that scripts share

def common_flags(parser: argparse.ArgumentParser, seed: bool = True, device: bool = False,
                 overwrite: bool = True) -> argparse._ArgumentGroup:
    """Add the flags that mean the same in every script."""
    group = parser.add_argument_group("common")
    group.add_argument("--workdir", metavar="DIR", default=None,
                       help="workspace folder (default: $WORKDIR, else the current directory)")
    if seed:
        group.add_argument("--seed", type=seed_number, default=42, metavar="N",
                           help="seed of everything random, 0 to 4294967295 (default 42)")
    if device:
        group.add_argument("--device", default="auto", metavar="NAME",
                           help="device to compute on: cpu, cuda, cuda:1, ..., or auto, which takes CUDA where "
                                "it exists (default auto)")
    if overwrite:
        group.add_argument("--overwrite", action="store_true", help="do finished work again")
    return group


def recommender_flags(parser: argparse.ArgumentParser, device: bool = False) -> argparse._ArgumentGroup:
    """The flags of everything that writes lists: --k, --comment and the common ones."""
    list_length(parser)
    parser.add_argument("--comment", default="", metavar="TEXT", help="free text appended to the run name")
    return common_flags(parser, device=device)


def list_length(parser: argparse.ArgumentParser) -> None:
    """Add --k."""
    parser.add_argument("--k", type=positive, default=100, metavar="N",
                        help="length of the recommendation lists, in tracks (default 100)")


# --------------------------------------------------------------------------- the published calls

@dataclass(frozen=True)
class Argument:
    """An argument of a published call: a positional argument and the flag of the same name.

    type: an argparse type; default: None where there is none; metavar: what goes there (N, {0,1}, NAME)
    """
    name: str
    type: Callable
    default: object
    metavar: str
    help: str


def published_call(parser: argparse.ArgumentParser, arguments: Sequence[Argument]) -> None:
    """Add the arguments of a published call to a parser: as positional arguments in this order, and as flags.

    `parse_published` reads a command line of such a parser.
    """
    names = [a.name for a in arguments]
    usage = f"%(prog)s [{' ['.join(names)}{']' * len(names)} [flags]"
    parser.usage = textwrap.fill(usage, 90, subsequent_indent=" " * 7)
    parser.add_argument("positional", nargs="*", metavar="ARGUMENT",
                        help="positional arguments of the published call, in the order of the usage line; each may "
                             "be given as its flag instead")
    group = parser.add_argument_group("arguments of the published call")
    for a in arguments:
        default = "" if a.default in (None, "") else f" (default {a.default})"
        group.add_argument(f"--{a.name.replace('_', '-')}", type=a.type, default=None, metavar=a.metavar,
                           help=a.help + default)


def parse_published(parser: argparse.ArgumentParser, arguments: Sequence[Argument],
                    argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The parsed command line of a published call, positional arguments and flags merged and defaults filled in.

    An argument that is given twice with different values, or one too many, is an error of the parser.
    """
    args = parser.parse_intermixed_args(argv)
    if len(args.positional) > len(arguments):
        parser.error(f"takes at most {len(arguments)} positional arguments ({' '.join(a.name for a in arguments)}), "
                     f"not {len(args.positional)}")
    for i, a in enumerate(arguments):
        flag = getattr(args, a.name)
        try:
            value = a.type(args.positional[i]) if i < len(args.positional) else None
        except argparse.ArgumentTypeError as e:
            parser.error(f"argument {i + 1}, {a.name}: {e}")
        if None not in (value, flag) and value != flag:
            parser.error(f"{a.name} is {value} as positional argument {i + 1} and {flag} as a flag; give it once")
        setattr(args, a.name, next((v for v in (value, flag) if v is not None), a.default))
    del args.positional
    return args


def settings(kind: type, args: argparse.Namespace, **values: Any) -> Any:
    """An instance of the dataclass `kind`: `values`, and its other fields from a parsed command line."""
    return kind(**{f.name: getattr(args, f.name) for f in fields(kind) if f.name not in values}, **values)


# --------------------------------------------------------------------------- workspace and device

def workspace(args: argparse.Namespace, create: bool = False) -> Path:
    """The workspace folder of a parsed command line, as an absolute Path."""
    path = expanded(args.workdir or os.environ.get("WORKDIR") or ".").absolute()
    if found := control_character(path):
        raise UsageError(f"workspace {path} holds the control character {found}; rename the folder")
    if create:
        path.mkdir(parents=True, exist_ok=True)
    elif not path.is_dir():
        raise UsageError(f"workspace {path} is not a folder; name one with --workdir or WORKDIR")
    return path


def pick_device(name: str = "auto") -> "torch.device":
    """torch.device for 'auto', 'cpu', 'cuda', 'cuda:N'; an absent one is a usage error."""
    import torch
    if not re.fullmatch("auto|cpu|cuda(:[0-9]{1,3})?", name):
        raise UsageError(f"--device {name} is no device; use auto, cpu or cuda[:N]")
    device = torch.device(name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda" and processes.world() > 1:
        return _own_device(device)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"--device {name} is not here: {torch.cuda.device_count()} CUDA devices found")
    return device


def _own_device(device):
    """The CUDA device of this one of several processes, each of which has its own; UsageError where they do not."""
    import torch
    place, devices = processes.place(), torch.cuda.device_count()
    if device.index is not None:
        raise UsageError(f"--device {device} is one device for {place.world} processes; use --device cuda, of which "
                         "each takes its own")
    if place.local_world > devices:
        raise UsageError(f"--device cuda: torchrun started {place.local_world} processes on a machine with {devices} "
                         f"CUDA devices; use --nproc-per-node {max(devices, 1)}, or --device cpu")
    torch.cuda.set_device(place.local_rank)
    return torch.device("cuda", place.local_rank)
