"""Spaces that tune.py searches: reading their file, and drawing settings from them.

tune.yaml explains the form of the file.
"""
import math
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import UsageError


@dataclass
class Method:
    """An entry of the file of spaces; tune.yaml says what its keys mean."""
    name: str
    script: str
    each: dict = field(default_factory=dict)
    set: dict = field(default_factory=dict)
    space: dict = field(default_factory=dict)
    control: dict = field(default_factory=dict)
    seeds: int = 5
    controls: int = 10


def read_methods(path, names=()):
    """Methods of a file of spaces, all or the named ones, in the file's order; UsageError in one sentence."""
    import yaml
    path = Path(path).expanduser()
    if not path.is_file():
        raise UsageError(f"--spaces {path} is no file")
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise UsageError(f"{path} is not readable as yaml ({e})") from None
    if not isinstance(document, dict) or not document:
        raise UsageError(f"{path} should hold `method:` entries with a script each; tune.yaml is an example")
    if words := [name for name in document if not isinstance(name, str)]:
        raise UsageError(f"{path}: the name of a method is a word, not {words[0]!r}; quote it to make it one")
    unknown = sorted(set(names) - set(document))
    if unknown:
        raise UsageError(f"{path} has no method {', '.join(unknown)}; it has {', '.join(document)}")
    return [read_method(f"{path}, {name}", name, document[name]) for name in document if not names or name in names]


def read_method(where, name, entry):
    known = {"script", "each", "set", "space", "control", "seeds", "controls"}
    if not isinstance(entry, dict) or not entry.get("script") or set(entry) - known:
        raise UsageError(f"{where} should be `script:` with some of {', '.join(sorted(known - {'script'}))}, "
                         f"not {entry!r}")
    if not isinstance(entry["script"], str):
        raise UsageError(f"{where}: script is a module's name like recommenders.ease, not {entry['script']!r}")
    for key in ("each", "set", "space", "control"):
        if not isinstance(entry.get(key) or {}, dict):
            raise UsageError(f"{where}: {key} should be `flag: value` entries, not {entry[key]!r}")
    method = Method(name, entry["script"], *(dict(entry.get(k) or {}) for k in ("each", "set", "space", "control")),
                    entry.get("seeds", 5), entry.get("controls", 10))
    for name in ("seeds", "controls"):
        if not isinstance(getattr(method, name), int) or getattr(method, name) < 1:
            raise UsageError(f"{where}: {name} is a whole number of at least 1, not {getattr(method, name)!r}")
    for flag, values in method.space.items():
        if isinstance(values, list) and values:
            continue
        ends = next(iter(values.values())) if isinstance(values, dict) and len(values) == 1 else None
        numbers = isinstance(ends, list) and len(ends) == 2 and all(
            isinstance(x, (int, float)) and not isinstance(x, bool) for x in ends)
        if not numbers or not ends[0] < ends[1] or not ({"log": ends[0] > 0, "uniform": True}.get(next(iter(values)))):
            raise UsageError(f"{where}, {flag}: should be a list of values, {{log: [low, high]}} with low above 0 or "
                             f"{{uniform: [low, high]}}, not {values!r}")
    return method


def settings(method, trials, seed):
    """Distinct settings of a method, at most `trials`: [{flag: value}]. The first ones do not depend on `trials`."""
    import numpy as np
    rng = np.random.default_rng([seed, zlib.crc32(method.name.encode())])
    if all(isinstance(values, list) for values in method.space.values()):
        sizes = [len(values) for values in method.space.values()]
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
