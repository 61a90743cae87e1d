"""Methods that tune.py tunes: what recommenders declare, what a file of methods adds, and the settings drawn.

A recommender declares its search space in its own file, a constant of literals that is read without importing it:

    SEARCH_SPACE = {"by": ["users", "plays"], "l2": {"log": [5.0, 5000.0]}, "dropout": {"uniform": [0.0, 0.5]}}

flag -> a list of values, or a range to draw from evenly on a log or a linear scale. {} says that there is nothing to
tune. tune.yaml explains the form of the file.
"""
import math
import zlib
from dataclasses import dataclass, field

from experiments import grid_file
from experiments.expand import EMBEDDING_FLAGS
from harness import registry
from harness.cli import control_character
from harness.errors import UsageError
from harness.files import expanded
from harness.readers import read_yaml

KEYS = ("script", "each", "set", "space", "control", "seeds", "controls")
MOST_SEEDS = 10_000
MOST_LISTED = 10 ** 7  # settings of a finite space that are shuffled whole; larger ones are drawn one by one


@dataclass
class Method:
    """An entry of the file of methods; tune.yaml says what its keys mean."""
    name: str
    script: str
    each: dict = field(default_factory=dict)
    set: dict = field(default_factory=dict)
    space: dict = field(default_factory=dict)
    control: dict = field(default_factory=dict)
    seeds: int = 5
    controls: int = 10


def read_methods(path, names=(), declared=False):
    """Methods of a file, all or the named ones, in the file's order; UsageError in one sentence.

    declared: True adds every recommender that declares a search space and has no entry of its name.
    """
    path = expanded(path)
    if not path.is_file():
        raise UsageError(f"--spaces {path} is no file")
    document = read_yaml(path)
    if not isinstance(document, dict) or not document:
        raise UsageError(f"{path} should hold `method:` entries; tune.yaml is an example")
    for name in document:
        if not isinstance(name, str) or not name or control_character(name):
            raise UsageError(f"{path}: the name of a method is a word, not {grid_file.short(name)}; "
                             "quote it to make it one")
    known = registry.recommenders()
    added = [name for name, r in known.items() if r.space is not None and name not in document] if declared else []
    unknown = sorted(set(names) - {*document, *added})
    if unknown:
        raise UsageError(f"{path} has no method {', '.join(unknown)}; it has {', '.join([*document, *added])}")
    entries = {name: document[name] for name in document} | {name: default_entry(known[name]) for name in added
                                                              if not names or name in names}
    return [read_method(f"{path}, {name}", name, entry, known) for name, entry in entries.items()
            if not names or name in names]


def default_entry(recommender):
    """The entry of a recommender that the file of methods does not mention.

    One that needs an embedding is tuned on every one of the workspace, with a shuffled control.
    """
    if "embedding" not in recommender.needs:
        return {}
    flags = {action.dest for action in registry.load(recommender.script).build_parser()._actions}
    entry = {"each": {flag: "all" for flag in EMBEDDING_FLAGS if flag in flags}}
    return entry | ({"control": {"shuffle": True}} if "shuffle" in flags else {})


def read_method(where, name, entry, known):
    """The Method of an entry; what it does not say is what its recommender declares. known: {name: Recommender}."""
    entry = {} if entry is None and name in known else entry
    if isinstance(entry, dict) and "script" not in entry and name in known:
        entry = {"script": known[name].script, **entry}
    if not isinstance(entry, dict) or not entry.get("script") or set(entry) - set(KEYS):
        raise UsageError(f"{where} should be `script:` with some of {', '.join(sorted(KEYS[1:]))}, "
                         f"not {grid_file.short(entry)}")
    if not isinstance(entry["script"], str):
        raise UsageError(f"{where}: script is a module's name like recommenders.ease, "
                         f"not {grid_file.short(entry['script'])}")
    words = registry.script_of(entry["script"])
    declared = next((r.space for r in known.values() if r.command.split()[1:] == list(words)), None)
    entry = {"space": declared, **entry}
    for key in ("each", "set", "space", "control"):
        if not isinstance(entry.get(key) or {}, dict):
            raise UsageError(f"{where}: {key} should be `flag: value` entries, not {grid_file.short(entry[key])}")
        if key != "space":
            grid_file.values(f"{where}, {key}", entry.get(key) or {})
    method = Method(name, entry["script"], *(dict(entry.get(k) or {}) for k in ("each", "set", "space", "control")),
                    entry.get("seeds", 5), entry.get("controls", 10))
    for key in ("seeds", "controls"):
        number = getattr(method, key)
        if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= MOST_SEEDS:
            raise UsageError(f"{where}: {key} is a whole number of at least 1 and at most {MOST_SEEDS}, "
                             f"not {grid_file.short(number)}")
    for flag, values in method.space.items():
        check_range(f"{where}, {grid_file.short(flag)[1:-1] if isinstance(flag, str) else flag}", flag, values)
    return method


def check_range(where, flag, values):
    """UsageError unless `values` is a list to draw from or a range of numbers."""
    if isinstance(flag, str):
        if isinstance(values, list) and values and all(map(grid_file.scalar, values)):
            return
        if isinstance(values, dict) and len(values) == 1:
            (scale, ends), = values.items()
            numbers = isinstance(ends, list) and len(ends) == 2 and all(
                isinstance(x, (int, float)) and not isinstance(x, bool) and -1e300 < x < 1e300 for x in ends)
            if numbers and ends[0] < ends[1] and (scale == "uniform" or scale == "log" and ends[0] > 0):
                return
    raise UsageError(f"{where}: should be a list of values, {{log: [low, high]}} with low above 0 or "
                     f"{{uniform: [low, high]}}, not {grid_file.short(values)}")


def settings(method, trials, seed):
    """Distinct settings of a method, at most `trials`: [{flag: value}]. The first ones do not depend on `trials`."""
    import numpy as np
    rng = np.random.default_rng([seed, zlib.crc32(method.name.encode())])
    sizes = [len(values) for values in method.space.values() if isinstance(values, list)]
    if len(sizes) == len(method.space) and math.prod(sizes) <= MOST_LISTED:
        places = rng.permutation(math.prod(sizes))[:trials]
        return [{flag: values[i] for (flag, values), i in zip(method.space.items(), at, strict=True)}
                for at in zip(*np.unravel_index(places, sizes), strict=True)] if sizes else [{}]
    drawn = []
    for _ in range(100 * trials):  # a range of few whole numbers may hold fewer settings than are asked for
        setting = {flag: one_of(rng, values) for flag, values in method.space.items()}
        drawn += [setting] if setting not in drawn and len(drawn) < trials else []
    return drawn


def one_of(rng, values):
    """A draw from a list, or from a range, to three digits; a range between whole numbers gives whole numbers."""
    if isinstance(values, list):
        return values[rng.integers(len(values))]
    (scale, (low, high)), = values.items()
    drawn = math.exp(rng.uniform(math.log(low), math.log(high))) if scale == "log" else rng.uniform(low, high)
    rounded = min(max(float(f"{drawn:.3g}"), low), high)
    return round(rounded) if isinstance(low, int) and isinstance(high, int) else rounded
