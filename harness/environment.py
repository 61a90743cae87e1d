"""What must be said before anything is imported: an unsupported system, a package that is not installed.

Importing `harness` is enough. A script that imports a third-party package before anything of harness has the line
`import harness.environment` above it, so that a missing package ends in one sentence there, too.
"""
import codecs
import contextlib
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLAIN = {"±": "+-", "–": "-", "…": "...", "≥": ">=", "≤": "<=", "×": "x"}   # what output in ASCII has instead


def check_platform(platform: str = sys.platform) -> None:
    """Leave with status 2 on Windows: locks, signals and atomic renames are those of Linux and macOS."""
    if platform == "win32":
        print(f"{program()}: Windows is not supported; use Linux, macOS or the Windows Subsystem for Linux",
              file=sys.stderr)
        sys.exit(2)


def program() -> str:
    """Name of the running script: train.py, or sasrec for recommenders/sasrec/__main__.py."""
    path = Path(sys.argv[0] if sys.argv and sys.argv[0] not in ("", "-c", "-m") else "python")
    return path.parent.name if path.name == "__main__.py" else path.name


def absent_package(error: BaseException) -> str | None:
    """The package that a ModuleNotFoundError names, None where it is a module of Python or of this project."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return None
    name = error.name.partition(".")[0]
    ours = (ROOT / name).is_dir() or (ROOT / f"{name}.py").is_file()
    return None if ours or name in sys.stdlib_module_names else name


def sentence(package: str) -> str:
    """One sentence about a package that is not installed, with the remedy for this interpreter."""
    venv = ROOT / ".venv"
    if Path(sys.prefix) == venv:
        remedy = "complete the environment with `make .venv/.installed`"
    elif (venv / "bin" / "python").exists():
        remedy = "activate the project's environment with `. .venv/bin/activate`"
    else:
        remedy = ("make the project's environment with `make .venv/.installed` and activate it with "
                  "`. .venv/bin/activate`")
    return f"{package} is not installed for {sys.executable}; {remedy}, in {ROOT}"


def print_anything() -> None:
    """Let output that cannot hold a character (ASCII has no ±) replace it instead of failing."""
    codecs.register_error("plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            with contextlib.suppress(OSError):   # a stream that a parent handed over and that cannot seek
                stream.reconfigure(errors="plain")


def _plain(error):
    return "".join(PLAIN.get(c, "?") for c in error.object[error.start:error.end]), error.end


def unknown_home(words: Iterable[object]) -> str:
    """The sentence about a path such as ~name/x, in an argument or the environment, whose user is not known here."""
    places = [*words, *(f"{name}={value}" for name, value in os.environ.items())]
    paths = [found[0] for word in places if (found := re.search(r"(?<![^=])~[^/]+.*", str(word), re.DOTALL))
             and os.path.expanduser(found[0]) == found[0]]
    what = f"{paths[0].partition('/')[0]} in {paths[0]} is" if paths else "the user whose home a path begins with is"
    return f"{what} no user of this machine; write the path without ~"


def _hook(kind, error, traceback):
    if (package := absent_package(error)) is None:
        return _before(kind, error, traceback)
    print(f"{program()}: {sentence(package)}", file=sys.stderr)
    sys.exit(2)


check_platform()
_before, sys.excepthook = sys.excepthook, _hook
