"""The recommenders of the project: what each declares, and how its script is found, run and imported.

A recommender is a script of the root (train.py), a file of recommenders/ (ease.py) or a folder of it with a
__main__.py (sasrec/). It declares what it needs and whether it can rank cold items, in two lines of its file, and its
name in the literature, which tables print (without one they print the name of its script):

    TITLE = "SASRec"
    NEEDS = ("embedding", "order")     out of embedding, order (of a user's plays), features (items.pqt, users.pqt)
    COLD = True

and, where it has something to tune, the settings that tune.py draws (experiments/spaces.py has the form):

    SEARCH_SPACE = {"factors": [64, 128, 256], "lr": {"log": [0.001, 0.1]}}

PARALLEL = True where torchrun may train it in several processes, and DETERMINISTIC = True where nothing in it is
random, so that its runs differ by the order of ties alone: one seed is enough, and tables and claims take one run for
all. A method that is so only given the factors that it reads declares the arguments with which it is, DETERMINISTIC =
{"map": "ridge"}, {} where always: tables take its run for the only one of these factors, claims ask for more seeds. All
are read from the text, so that asking costs nothing and runs nothing. `python -m recommenders --list` prints NEEDS and
COLD.
"""
import ast
import contextlib
import functools
import importlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from harness import environment
from harness.errors import UsageError, WorkError

ROOT = Path(__file__).resolve().parents[1]
DECLARED = ("TITLE", "NEEDS", "COLD", "SEARCH_SPACE", "PARALLEL", "DETERMINISTIC")
STAGES = ("preprocess/0_get_plays_pqt.py", "preprocess/1_train_test_split.py", "metrics.py", "table.py")
OF_MODEL = {("random_forest", "lambdarank"): "LambdaMART"}  # a name that belongs to the value of --model
SCRIPTS = {"shallow": "train", "bert4rec": "train_bert"}  # recommenders whose script is not named like them


@dataclass(frozen=True)
class Recommender:
    """name: its word in run names and tables; module: what to import; command: how to run it from the project's folder;
    needs, cold, space, title, parallel, deterministic: as declared, space and title None where they are not; about:
    first line of its docstring."""
    name: str
    module: str
    command: str
    needs: tuple
    cold: bool
    about: str
    space: dict | None = None
    title: str | None = None
    parallel: bool = False
    deterministic: bool | dict = False

    @property
    def script(self) -> str:
        """What a grid calls it: train.py, recommenders.ease."""
        return self.command.split()[-1]


def declared(path: str | Path) -> dict[str, Any] | None:
    """What a file declares, or None: {"needs": tuple, "cold": bool, "about": first line of its docstring,
    "space": dict, None where there is no SEARCH_SPACE, "title": text, None without a TITLE, "parallel": bool,
    "deterministic": bool or dict}."""
    try:
        tree = ast.parse(Path(path).read_text(encoding="utf-8"))
        values = {target.id: ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign)
                  for target in node.targets if isinstance(target, ast.Name) and target.id in DECLARED}
    except (SyntaxError, ValueError) as e:
        raise WorkError(f"{path} cannot be read as Python with plain {', '.join(DECLARED)} ({e})") from None
    if not values.keys() >= {"NEEDS", "COLD"}:
        return None
    if not isinstance(space := values.get("SEARCH_SPACE"), (dict, type(None))):
        raise WorkError(f"{path}: SEARCH_SPACE should be {{flag: values}}, but is a {type(space).__name__}")
    if not isinstance(title := values.get("TITLE"), (str, type(None))):
        raise WorkError(f"{path}: TITLE should be a text, but is a {type(title).__name__}")
    about = (ast.get_docstring(tree) or "").partition("\n")[0]
    return {"needs": tuple(values["NEEDS"]), "cold": bool(values["COLD"]), "about": about, "space": space,
            "title": title, "parallel": values.get("PARALLEL") is True,
            "deterministic": values.get("DETERMINISTIC", False)}


def scripts() -> dict[str, Path]:
    """Every script that may be a recommender: {module: path}, those of the root first."""
    folder = ROOT / "recommenders"
    paths = {path.stem: path for path in sorted(ROOT.glob("[a-z]*.py"))}
    inner = [*folder.glob("[a-z]*.py"), *folder.glob("[a-z]*/__main__.py")]
    names = {path.stem if path.parent == folder else path.parent.name: path for path in inner}
    return paths | {f"recommenders.{name}" + (".__main__" if names[name].stem == "__main__" else ""): names[name]
                    for name in sorted(names)}


def recommenders() -> dict[str, Recommender]:
    """Every recommender by its name: {name: Recommender}, the scripts of the root first."""
    every = (_recommender(module, path) for module, path in scripts().items())
    return {r.name: r for r in every if r is not None}


def recommender(name: str) -> Recommender | None:
    """The Recommender of that name, None where there is none; reads its file alone."""
    script = SCRIPTS.get(name, name)
    every = scripts()
    places = (script, f"recommenders.{script}", f"recommenders.{script}.__main__")
    candidates = (_recommender(module, every[module]) for module in places if module in every)
    return next((r for r in candidates if r is not None and r.name == name), None)


def _recommender(module, path):
    """The Recommender that a script is, None where it declares none."""
    if (values := declared(path)) is None:
        return None
    words = {script: name for name, script in SCRIPTS.items()}
    inside = module.startswith("recommenders.")
    script = module.removesuffix(".__main__")
    name = script.removeprefix("recommenders.") if inside else words.get(script, script)
    return Recommender(name, module, f"python -m {script}" if inside else f"python {script}.py", **values)


def command(name: str) -> str | None:
    """The command line of a recommender by its name, None for a name that is none."""
    known = recommender(name)
    return known.command if known else None


def capability(name: str) -> tuple[tuple, bool]:
    """(NEEDS, COLD) of a recommender by its name, read without running it; ((), True) where it declares none."""
    known = recommender(name)
    return (known.needs, known.cold) if known else ((), True)


def deterministic(name: str, request: Mapping[str, Any] | None = None) -> bool:
    """Whether nothing in a recommender is random, as it declares; False for a name that is none.

    request: of a run: then whether nothing is, given the factors that the run reads
    """
    known = recommender(name)
    told = known.deterministic if known else False
    if isinstance(told, dict):
        return request is not None and all(request.get(key) == value for key, value in told.items())
    return told is True


def title(name: str, request: Mapping[str, Any] | None = None) -> str:
    """What a recommender is called in the literature and in tables; its own name where it declares no TITLE.

    request: of a run, whose model may have a name of its own
    """
    if named := OF_MODEL.get((name, str((request or {}).get("model")))):
        return named
    known = recommender(name)
    return known.title if known and known.title else name


def module_name(script: str) -> str:
    """What to import for a script: train.py -> train, preprocess/x.py -> preprocess.x, a folder -> its __main__."""
    name = script.removesuffix(".py").removeprefix("./").replace("/", ".")
    return f"{name}.__main__" if (ROOT / name.replace(".", "/") / "__main__.py").is_file() else name


@functools.cache
def runnable() -> dict[str, tuple[str, ...]]:
    """What a grid may name as its script: {module: words that run it after `python`}; recommenders and stages."""
    words = {r.module: tuple(r.command.split()[1:]) for r in recommenders().values()}
    words |= {module_name(script): (script,) for script in STAGES}
    backends = sorted((ROOT / "extract_item_embeddings").glob("[a-z]*.py"))
    return words | {f"extract_item_embeddings.{p.stem}": (f"extract_item_embeddings/{p.name}",) for p in backends}


def script_of(script: str) -> tuple[str, ...]:
    """The words after `python` that run a script of the project, a tuple; UsageError for any other text.

    Only the registry's recommenders and the stages pass: nothing else is ever imported or run for a grid.
    """
    words = runnable().get(module_name(script)) if re.fullmatch(r"[\w./]+", script) else None
    if words is None:
        known = sorted(r.script for r in recommenders().values())
        raise UsageError(f"the project has no script {script[:60]!r} for a grid; it has {' '.join(known)}")
    return words


def load(script: str) -> ModuleType:
    """The module of a script that a grid may name; UsageError, before any import, for anything else."""
    script_of(script)
    name = module_name(script)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as e:
        raise UsageError(f"{script} needs more: {environment.sentence(e.name or 'a package')}") from None


@functools.cache
def set_by_published(name: str) -> dict[str, tuple[Any, Any]]:
    """{argument: (its default, its default with --as-published)} of the arguments whose default that flag changes."""
    usual, published = defaults(name), defaults(name, ["--as-published"])
    return {key: (usual[key], value) for key, value in published.items()
            if key != "as_published" and key in usual and usual[key] != value}


def defaults(name: str, flags: Sequence[str] = ()) -> dict[str, Any]:
    """Default arguments of a recommender's script as json has them, {} where it is not one of ours or has none.

    flags: what is given beside them; {} where the script has defaults of its own, or not these flags
    """
    known = recommender(name)
    if known is None:
        return {}
    try:
        module = importlib.import_module(known.module)
        if hasattr(module, "defaults"):
            values = {} if flags else module.defaults()
        else:
            parse = getattr(module, "parse", None) or module.build_parser().parse_args
            with contextlib.redirect_stderr(io.StringIO()):
                values = vars(parse(list(flags)))
    except (ImportError, AttributeError, SystemExit, UsageError):
        return {}
    return json.loads(json.dumps(values, default=str))
