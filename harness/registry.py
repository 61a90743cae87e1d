"""The recommenders of the project: what each declares, and how its script is found, run and imported.

A recommender is a script of the root (train.py), a file of recommenders/ (ease.py) or a folder of it with a
__main__.py (sasrec/). It declares what it needs and whether it can rank cold items, in two lines of its file:

    NEEDS = ("embedding", "order")     out of embedding, order (of a user's plays), features (items.pqt, users.pqt)
    COLD = True

They are read from the text, so that asking costs nothing and runs nothing. `python -m recommenders --list` prints them.
"""
import ast
import contextlib
import importlib
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path

from harness import environment
from harness.errors import UsageError, WorkError

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {"shallow": "train", "bert4rec": "train_bert"}  # recommenders whose script is not named like them


@dataclass(frozen=True)
class Recommender:
    """name: its word in run names and tables; module: what to import; command: how to run it from the project's folder;
    needs, cold: as declared; about: first line of its docstring."""
    name: str
    module: str
    command: str
    needs: tuple
    cold: bool
    about: str


def declared(path):
    """What a file declares: {"needs": tuple, "cold": bool, "about": first line of its docstring}, or None."""
    try:
        tree = ast.parse(Path(path).read_text(encoding="utf-8"))
        values = {target.id: ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign)
                  for target in node.targets if isinstance(target, ast.Name) and target.id in ("NEEDS", "COLD")}
    except (SyntaxError, ValueError) as e:
        raise WorkError(f"{path} cannot be read as Python with plain NEEDS and COLD ({e})") from None
    if values.keys() != {"NEEDS", "COLD"}:
        return None
    about = (ast.get_docstring(tree) or "").partition("\n")[0]
    return {"needs": tuple(values["NEEDS"]), "cold": bool(values["COLD"]), "about": about}


def scripts():
    """Every script that may be a recommender: {module: path}, those of the root first."""
    folder = ROOT / "recommenders"
    paths = {path.stem: path for path in sorted(ROOT.glob("[a-z]*.py"))}
    inner = [*folder.glob("[a-z]*.py"), *folder.glob("[a-z]*/__main__.py")]
    names = {path.stem if path.parent == folder else path.parent.name: path for path in inner}
    return paths | {f"recommenders.{name}" + (".__main__" if names[name].stem == "__main__" else ""): names[name]
                    for name in sorted(names)}


def recommenders():
    """Every recommender by its name: {name: Recommender}, the scripts of the root first."""
    every = (_recommender(module, path) for module, path in scripts().items())
    return {r.name: r for r in every if r is not None}


def recommender(name):
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


def command(name):
    """The command line of a recommender by its name, None for a name that is none."""
    known = recommender(name)
    return known.command if known else None


def capability(name):
    """(NEEDS, COLD) of a recommender by its name, read without running it; ((), True) where it declares none."""
    known = recommender(name)
    return (known.needs, known.cold) if known else ((), True)


def module_name(script):
    """What to import for a script: train.py -> train, preprocess/x.py -> preprocess.x, a folder -> its __main__."""
    name = script.removesuffix(".py").replace("/", ".")
    return f"{name}.__main__" if (ROOT / name.replace(".", "/") / "__main__.py").is_file() else name


def load(script):
    """The module of a script of the project; UsageError where there is none."""
    name = module_name(script)
    if not re.fullmatch(r"\w+(\.\w+)*", name):
        raise UsageError(f"{script!r} is no script of the project; expected train.py or recommenders.NAME")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as e:
        if e.name and (name == e.name or name.startswith(e.name + ".")):
            raise UsageError(f"the project has no script {script}") from None
        raise UsageError(f"{script} needs more: {environment.sentence(e.name)}") from None


def defaults(name):
    """Default arguments of a recommender's script as json has them, {} where it is not one of ours or has none."""
    known = recommender(name)
    if known is None:
        return {}
    try:
        module = importlib.import_module(known.module)
        if hasattr(module, "defaults"):
            values = module.defaults()
        else:
            parse = getattr(module, "parse", None) or module.build_parser().parse_args
            with contextlib.redirect_stderr(io.StringIO()):
                values = vars(parse([]))
    except (ImportError, AttributeError, SystemExit, UsageError):
        return {}
    return json.loads(json.dumps(values, default=str))
