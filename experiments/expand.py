"""Jobs of a grid: lists of flags become exact command lines, each checked by the script it is for.

    jobs_of(Block("train.py", {"model": ["mfcc", "musicnn"], "seed": [1, 2]}), workdir)     4 jobs

Nothing here runs anything; slurm/grid.py does.
"""
import contextlib
import io
import itertools
import math
import reprlib
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from harness.cli import control_character
from harness.errors import UsageError
from harness.readers import read_json
from harness.registry import load, script_of

TRUE, FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}
EMBEDDING_FLAGS = ("model", "names", "embedding")  # what scripts that need an embedding call it
TORCHRUN = ("-m", "torch.distributed.run", "--signals-to-handle", "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1",
            "--nproc-per-node")                    # with the signal that slurm/job.sh passes on before a time limit
MOST_JOBS = 100_000                                # of one block: more is a slip, and would fill the memory


@dataclass(frozen=True)
class Job:
    """One run to be made: a script of the project (train.py, recommenders.popularity) and its arguments.

    processes: how many torchrun starts for it; one is plain Python
    UsageError where an argument holds a control character: a job is one line of a list and of a log.
    """
    script: str
    argv: tuple
    processes: int = 1

    def __post_init__(self):
        for word in self.argv:
            if found := control_character(word):
                raise UsageError(f"{self.script}: the argument {reprlib.repr(word)} holds the control character "
                                 f"{found}; remove it")

    @property
    def words(self):
        """The command, word by word: ["python", "train.py", ...]."""
        several = [*TORCHRUN, str(self.processes)] if self.processes > 1 else []
        return ["python", *several, *script_of(self.script), *self.argv]

    @property
    def line(self):
        """The command line, quoted for the shell, from the project's folder."""
        return shlex.join(self.words)

    def __str__(self):
        """As `line`, without what all jobs share."""
        words = self.words[1:]
        if "--workdir" in words:
            at = words.index("--workdir")
            del words[at:at + 2]
        return shlex.join(words)


@dataclass
class Block:
    """A product: every combination of the lists in `grid`, all with `fixed` and the positional arguments `places`."""
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
    """Arguments for a script: {flag: value}; a switch takes on or off, a flag of several words a list or 'a b'.

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
    if any(word.startswith("-") for word in first):  # an embedding named -x is no flag
        return [*flags, "--", *first]
    return first + flags


def parse(job):
    """The script's own reading of a job's arguments, a Namespace, or None where the script shows no parser.

    UsageError with the script's sentence when it would refuse them.
    """
    module = load(job.script)
    reader = getattr(module, "parse", None) or (module.build_parser().parse_args
                                                if hasattr(module, "build_parser") else None)
    if reader is None:
        return None
    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr):
            return reader(list(job.argv))
    except SystemExit:
        sentence = stderr.getvalue().strip().partition(": ")
        raise UsageError(f"{job}: {sentence[2] or sentence[0]}") from None
    except UsageError as e:
        raise UsageError(f"{job}: {e}") from None


def jobs_of(block, workdir):
    """All jobs of a block, checked; the last list of the grid varies fastest."""
    module = load(block.script)
    parser = module.build_parser() if hasattr(module, "build_parser") else None
    lists = {name: spread(name, value, workdir) for name, value in block.grid.items()}
    empty = [name for name, values in lists.items() if not values]
    if empty:
        raise UsageError(f"--{empty[0]} has no values")
    if (number := math.prod(map(len, lists.values()))) > MOST_JOBS:
        raise UsageError(f"{block.script}: the lists multiply to {number} runs, more than {MOST_JOBS}; "
                         "shorten one, or make several grids")
    jobs = []
    for combination in itertools.product(*lists.values()):
        values = {**dict(zip(lists, combination, strict=True)), **block.fixed, "workdir": str(workdir)}
        job = Job(block.script, tuple(argv_of(parser, block.places, values)))
        parse(job)
        jobs.append(job)
    return jobs


def waves(jobs):
    """Jobs in the order in which they can be made, a list for each wave: those that read no other run; those that read
    the factors of one (--factors NAME); those that mix the lists of others."""
    def of(job):
        values = vars(parse(job))
        return 2 if "sources" in values else 1 if isinstance(values.get("factors"), str) else 0
    made = [[], [], []]
    for job in jobs:
        made[of(job)].append(job)
    return [wave for wave in made if wave]


def spread(name, value, workdir):
    """The list of values of one flag; `all` for an embedding means every embedding of the workspace."""
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    if str(name).lstrip("-") not in EMBEDDING_FLAGS or "all" not in values:
        return values
    available = embeddings_in(workdir)
    if not available:
        raise UsageError(f"--{name} all: there are no embeddings in {Path(workdir) / 'embeddings'} yet; name them")
    return [v for value in values for v in (available if value == "all" else [value])]


# --------------------------------------------------------------------------- what a workspace can serve

def embeddings_in(workdir):
    return sorted(p.stem for p in (Path(workdir) / "embeddings").glob("*.npy") if not p.name.startswith("."))


def impossible(job, workdir):
    """Why the workspace cannot serve a job, one clause, or None. Read from the recommender's NEEDS."""
    needs = getattr(load(job.script), "NEEDS", None)
    if needs is None:
        return None
    workdir = Path(workdir)
    if not (workdir / "data" / "train.pqt").exists():
        return f"{workdir} has no split yet (preprocess/1_train_test_split.py makes it)"
    args = parse(job)
    if "embedding" in needs:
        wanted = [n for f in EMBEDDING_FLAGS for n in words_of(getattr(args, f, None) or []) if n != "random"]
        available = embeddings_in(workdir)
        lacking = [n for n in wanted if n not in available]
        if lacking or (not wanted and not available and "random" not in words_of(getattr(args, "model", ""))):
            names = f" {', '.join(lacking)}" if lacking else ""
            return f"no embedding{names} here; there are {', '.join(available) or 'none'}"
    about = workdir / "dataset.json"
    if "order" in needs and getattr(args, "order", "time") == "time" and about.exists():
        if read_json(about).get("time") == "none":
            return "it needs the order of plays, and this data has none; add --order count"
    if "features" in needs and not any((workdir / f"{f}.pqt").exists() for f in ("items", "users")):
        return "it needs features of tracks or users, and there is neither items.pqt nor users.pqt"
    return None
