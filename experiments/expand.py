"""Cells of a grid: lists of flags become exact command lines, each checked by the script it is for.

    cells(Block("train.py", {"model": ["mfcc", "musicnn"], "seed": [1, 2]}), workdir)     4 cells

Nothing here runs anything; slurm/grid.py does.
"""
import contextlib
import io
import itertools
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import UsageError
from harness.readers import read_json
from harness.registry import load, module_name

TRUE, FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}
EMBEDDING_FLAGS = ("model", "names", "embedding")  # what scripts that need an embedding call it


@dataclass(frozen=True)
class Cell:
    """One run: a script of the project (train.py, recommenders.popularity) and its words."""
    script: str
    argv: tuple

    @property
    def module(self):
        return module_name(self.script)

    @property
    def words(self):
        called = [self.script] if self.script.endswith(".py") else ["-m", self.script]
        return ["python", *called, *self.argv]

    @property
    def line(self):
        """The command line, quoted for the shell, from the project's folder."""
        return shlex.join(self.words)

    def __str__(self):
        """As `line`, without what all cells share."""
        words = self.words[1:]
        if "--workdir" in words:
            at = words.index("--workdir")
            del words[at:at + 2]
        return shlex.join(words)


@dataclass
class Block:
    """A product: every combination of the lists in `grid`, all with `fixed` and the words `places`."""
    script: str
    grid: dict
    fixed: dict = field(default_factory=dict)
    places: tuple = ()


# --------------------------------------------------------------------------- flags to words

def words_of(value):
    return [str(v) for v in value] if isinstance(value, (list, tuple)) else [str(value)]


def truth(flag, value):
    text = str(value).lower()
    if text in TRUE | FALSE:
        return text in TRUE
    raise UsageError(f"--{flag} is a switch; expected on or off, not {value}")


def action_of(parser, flag):
    """The parser's action for a flag named `neg-samples`, `neg_samples` or, for a positional, its own name."""
    for action in parser._actions:
        if f"--{flag}" in action.option_strings:
            return action
        if not action.option_strings and action.dest == flag.replace("-", "_"):
            return action
    known = sorted(o for a in parser._actions for o in a.option_strings if o.startswith("--") and o != "--help")
    raise UsageError(f"{parser.prog} has no flag --{flag}; it has {' '.join(known)}")


def argv_of(parser, places, values):
    """Words for a script: {flag: value}; a switch takes on or off, a flag of several words a list or 'a b'.

    parser: the script's, or None where it shows none; then flags are taken as they come.
    """
    first, flags = list(places), []
    for name, value in values.items():
        flag = str(name).lstrip("-").replace("_", "-")
        action = action_of(parser, flag) if parser else None
        if value is None or (action is None and value is False):
            continue
        if (action is not None and action.nargs == 0) or (action is None and value is True):
            flags += [f"--{flag}"] if truth(flag, value) else []
            continue
        if value is True:
            raise UsageError(f"--{flag} needs a value")
        several = action is None or action.nargs is not None
        words = str(value).split() if several and not isinstance(value, (list, tuple)) else words_of(value)
        if not several and len(words) > 1:
            raise UsageError(f"--{flag} takes one value, not {', '.join(words)}; lists belong into the grid")
        if action is not None and not action.option_strings:
            first += words
        elif len(words) == 1 and words[0].startswith("-"):
            flags += [f"--{flag}={words[0]}"]
        else:
            flags += [f"--{flag}", *words]
    return first + flags


def parse(cell):
    """The cell's own reading of its words, a Namespace, or None where the script shows no parser.

    UsageError with the script's sentence when it would refuse them.
    """
    module = load(cell.script)
    reader = getattr(module, "parse", None) or (module.build_parser().parse_args
                                                if hasattr(module, "build_parser") else None)
    if reader is None:
        return None
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return reader(list(cell.argv))
    except SystemExit:
        sentence = said.getvalue().strip().partition(": ")
        raise UsageError(f"{cell}: {sentence[2] or sentence[0]}") from None
    except UsageError as e:
        raise UsageError(f"{cell}: {e}") from None


def cells(block, workdir):
    """All cells of a block, checked; the last list of the grid varies fastest."""
    if block.script.endswith(".py") and "/" in block.script:
        block.script = block.script.removeprefix("./")
    module = load(block.script)
    parser = module.build_parser() if hasattr(module, "build_parser") else None
    lists = {name: spread(name, value, workdir) for name, value in block.grid.items()}
    empty = [name for name, values in lists.items() if not values]
    if empty:
        raise UsageError(f"--{empty[0]} has no values")
    made = []
    for combination in itertools.product(*lists.values()):
        values = {**dict(zip(lists, combination, strict=True)), **block.fixed, "workdir": str(workdir)}
        cell = Cell(block.script, tuple(argv_of(parser, block.places, values)))
        parse(cell)
        made.append(cell)
    return made


def spread(name, value, workdir):
    """The list of values of one flag; `all` for an embedding means every embedding of the workspace."""
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    if str(name).lstrip("-") not in EMBEDDING_FLAGS or "all" not in values:
        return values
    there = embeddings_in(workdir)
    if not there:
        raise UsageError(f"--{name} all: there are no embeddings in {Path(workdir) / 'embeddings'} yet; name them")
    return [v for value in values for v in (there if value == "all" else [value])]


# --------------------------------------------------------------------------- what a workspace can serve

def embeddings_in(workdir):
    return sorted(p.stem for p in (Path(workdir) / "embeddings").glob("*.npy") if not p.name.startswith("."))


def impossible(cell, workdir):
    """Why the workspace cannot serve a cell, one clause, or None. Read from the recommender's NEEDS."""
    needs = getattr(load(cell.script), "NEEDS", None)
    if needs is None:
        return None
    workdir = Path(workdir)
    if not (workdir / "data" / "train.pqt").exists():
        return f"{workdir} has no split yet (preprocess/1_train_test_split.py makes it)"
    args = parse(cell)
    if "embedding" in needs:
        asked = [n for f in EMBEDDING_FLAGS for n in words_of(getattr(args, f, None) or []) if n != "random"]
        there = embeddings_in(workdir)
        lacking = [n for n in asked if n not in there]
        if lacking or (not asked and not there and "random" not in words_of(getattr(args, "model", ""))):
            return f"no embedding {' '.join(lacking)} here; there are {', '.join(there) or 'none'}".replace("  ", " ")
    about = workdir / "dataset.json"
    if "order" in needs and getattr(args, "order", "time") == "time" and about.exists():
        if read_json(about).get("time") == "none":
            return "it needs the order of plays, and this data has none; add --order count"
    if "features" in needs and not any((workdir / f"{f}.pqt").exists() for f in ("items", "users")):
        return "it needs features of tracks or users, and there is neither items.pqt nor users.pqt"
    return None
