"""claims.yaml: its form, checked in full before any run is looked at. The file explains its keys.

A claim is about an effect, a weighted sum of its terms: `content - ids`, `learned - 5 * raw`. A term is a method with a
representation. `each` makes a claim for every representation (or method) of a list; `versus` makes one effect for each,
all of which the claim asserts together.
"""
import re
from dataclasses import dataclass, field
from pathlib import Path

from evaluation.margins import DIRECTIONS
from harness import registry
from harness.errors import UsageError
from harness.files import expanded
from harness.readers import read_yaml
from harness.run_files import PART_ORDER
from metrics import METRICS

CLAIM = {"id": str, "sentence": str, "source": str, "compares": str, "part": str, "metric": str, "direction": str,
         "smallest": (int, float), "effect": (str, list), "terms": dict, "each": dict, "versus": (str, list),
         "datasets": list, "scores": dict, "untestable": str, "command": str}
NEEDED = ("id", "sentence", "source")
TERM = {"method": str, "representation": str, "control": bool, "with": dict, "like": str}
DATASET = {"about": str, "plays_of": str, "protocol": str, "generated": bool, "grids": list, "set": dict,
           "roles": dict, "extract": dict, "split": str}
RULES = {"level": 0.05, "chance": 0.8, "seeds": 5, "controls": 10}
WHOLE = ("Coverage", "Popularity", "Gini", "ColdShare", "SubsetAccuracy", "PointAccuracy")   # beside metrics.METRICS
CONSTANT = "1"                       # name of the number in an effect such as a - .15
EACH, VERSUS = "each", "versus"     # in a term: the representation or method of the line
FEWEST = 6                          # encoders of a rank correlation


@dataclass
class Term:
    """A method with a representation (None: one without). control: the same on permuted tracks; with_: arguments that
    its runs have; like: name of the term whose other arguments they share."""
    method: str
    representation: str | None = None
    control: bool = False
    with_: dict = field(default_factory=dict)
    like: str | None = None


@dataclass
class Claim:
    """A sentence and its test. effects: [{term: weight}]; each: {representation or method: role or names}."""
    id: str
    sentence: str
    source: str
    compares: str = ""
    part: str = "test"
    metric: str = "NDCG@10"
    direction: str = "above"
    smallest: float = 0.0
    effects: list = field(default_factory=list)
    terms: dict = field(default_factory=dict)
    each: dict = field(default_factory=dict)
    versus: object = None
    datasets: list | None = None
    scores: dict | None = None
    untestable: str = ""
    command: str = ""


@dataclass
class Dataset:
    """A data set of the ledger: whether it is generated, the grid files with its settings, flags of all its runs (of
    those scripts that have them), its representations by role, and what comes before the runs on a cluster.

    plays_of, protocol: for another split of the plays of a data set, the name in dataset.json and the protocol in
        split.json; None: the name of the entry, whatever the protocol
    """
    name: str
    about: str = ""
    plays_of: str | None = None
    protocol: str | None = None
    generated: bool = False
    grids: list = field(default_factory=list)
    set: dict = field(default_factory=dict)
    roles: dict = field(default_factory=dict)
    extract: dict | None = None
    split: str | None = None


@dataclass
class Ledger:
    """rules: RULES with what the file changes."""
    path: Path
    rules: dict
    datasets: dict
    claims: list


def read_ledger(path):
    """The Ledger of a YAML file; UsageError in one sentence where its form, a name or a number is wrong."""
    path = expanded(path)
    if not path.is_file():
        raise UsageError(f"--ledger {path} is no file")
    document = read_yaml(path)
    where = path.name
    _keys(where, document, {"rules": dict, "datasets": dict, "claims": list})
    rules = _rules(f"{where}, rules", document.get("rules") or {})
    methods, datasets = registry.recommenders(), {}
    for name, entry in (document.get("datasets") or {}).items():
        datasets[str(name)] = _dataset(f"{where}, data set {name}", str(name), entry)
    for name, entry in datasets.items():
        if bool(entry.plays_of) != bool(entry.protocol):
            raise UsageError(f"{where}, data set {name}: plays_of and protocol go together; add the other")
        if entry.plays_of:
            _known(f"{where}, data set {name}", "data set", entry.plays_of, datasets)
    claims, seen = [], set()
    for number, entry in enumerate(document.get("claims") or [], 1):
        name = entry.get("id", number) if isinstance(entry, dict) else number
        claim = read_claim(f"{where}, claim {name}", entry, datasets, methods)
        if claim.id in seen:
            raise UsageError(f"{where}: two claims have the id {claim.id!r}; an id names one claim")
        seen.add(claim.id)
        claims.append(claim)
    if not claims:
        raise UsageError(f"{path} has no claims; the project's claims.yaml is an example")
    return Ledger(path, rules, datasets, claims)


def _dataset(where, name, entry):
    _keys(where, entry, DATASET)
    dataset = Dataset(name, **_given(entry))
    _texts(f"{where}, grids", dataset.grids)
    _plain(f"{where}, set", dataset.set)
    for role, names in dataset.roles.items():
        _texts(f"{where}, role {role}", names)
    return dataset


def _rules(where, entry):
    _keys(where, entry, dict.fromkeys(RULES, (int, float)))
    rules = RULES | _given(entry)
    if not (0 < rules["level"] < 1 and 0 < rules["chance"] < 1):
        raise UsageError(f"{where}: level and chance should be above 0 and below 1")
    if not all(isinstance(rules[key], int) and 2 <= rules[key] <= 1000 for key in ("seeds", "controls")):
        raise UsageError(f"{where}: seeds and controls should be whole numbers from 2 to 1000")
    return rules


def read_claim(where, entry, datasets, methods):
    """The Claim of an entry. datasets, methods: {name: anything} that it may name."""
    _keys(where, entry, CLAIM, NEEDED)
    values = {key: value for key, value in _given(entry).items() if key not in ("effect", "terms", "smallest")}
    smallest = entry.get("smallest", 0)
    if not _is_finite(smallest):
        raise UsageError(f"{where}: smallest should be a finite number, not {smallest!r}")
    claim = Claim(**values, smallest=float(smallest))
    if not re.fullmatch("[a-z0-9][a-z0-9-]*", claim.id):
        raise UsageError(f"{where}: an id is made of small letters, digits and hyphens")
    for name in _texts(f"{where}, datasets", claim.datasets or []):
        _known(where, "data set", name, datasets)
    if claim.untestable:
        return claim
    if claim.part not in PART_ORDER:
        raise UsageError(f"{where}: unknown part {claim.part!r}; known are {', '.join(PART_ORDER)}")
    _check_metric(where, claim.metric)
    if claim.direction not in DIRECTIONS:
        raise UsageError(f"{where}: direction is one of {', '.join(DIRECTIONS)}, not {claim.direction!r}")
    if claim.smallest < 0 or (claim.smallest == 0 and claim.direction in ("equal", "differs")):
        raise UsageError(f"{where}: smallest should be above 0 (for above and not-below at least 0), "
                         f"not {claim.smallest:g}")
    claim.terms = {str(name): _term(f"{where}, term {name}", term, methods, entry.get("terms") or {})
                   for name, term in (entry.get("terms") or {}).items()}
    for axis, names in claim.each.items():
        if axis not in ("representation", "method"):
            raise UsageError(f"{where}: each is over representation or method, not {axis}")
        names = _texts(f"{where}, each {axis}", [names] if isinstance(names, str) else names)
        if axis == "method":
            for name in names:
                _known(where, "method", name, methods)
    if claim.scores is not None:
        return _of_scores(where, claim)
    if claim.versus is not None:
        _texts(f"{where}, versus", [claim.versus] if isinstance(claim.versus, str) else claim.versus)
    for name, term in claim.terms.items():
        for axis, value in (("representation", term.representation), ("method", term.method)):
            if value == EACH and axis not in claim.each or value == VERSUS and (axis == "method" or not claim.versus):
                raise UsageError(f"{where}, term {name}: {axis} is {value!r}, and the claim has no list of them")
    texts = entry.get("effect") or []
    claim.effects = [parse_effect(where, text, claim.terms) for text in ([texts] if isinstance(texts, str) else texts)]
    if not all(_is_finite(weight) for effect in claim.effects for weight in effect.values()):
        raise UsageError(f"{where}: effect {texts!r} should have finite numbers")
    if not claim.effects:
        raise UsageError(f"{where} needs an effect such as `content - ids`, or untestable with the reason")
    return claim


def _of_scores(where, claim):
    if len(claim.terms) != 1 or not all(_is_finite(v) for v in claim.scores.values()):
        raise UsageError(f"{where}: scores should be `encoder: number` beside one term")
    (term,) = claim.terms.values()
    if term.method == VERSUS or term.method == EACH and "method" not in claim.each:
        raise UsageError(f"{where}: method is {term.method!r}, and the claim has no list of them")
    if not 0 < claim.smallest < 1:
        raise UsageError(f"{where}: the smallest rank correlation that matters is between 0 and 1, "
                         f"not {claim.smallest:g}")
    return claim


def _check_metric(where, column):
    name, at, k = column.partition("@")
    if name not in (*METRICS, *WHOLE) or not (at and re.fullmatch("[1-9][0-9]{0,5}", k)):
        raise UsageError(f"{where}: unknown metric {column!r}; a metric is one of {', '.join((*METRICS, *WHOLE))} with "
                         "a list length, as NDCG@10")


def _term(where, entry, methods, siblings):
    _keys(where, entry, TERM, ("method",))
    entry = _given(entry)
    if entry["method"] not in (EACH, VERSUS):
        _known(where, "method", entry["method"], methods)
    if (like := entry.get("like")) is not None and (like not in siblings or isinstance(siblings[like], dict)
                                                    and siblings[like].get("like")):
        raise UsageError(f"{where}: like names another term of the claim that has no `like` itself, not {like}")
    return Term(with_=_plain(f"{where}, with", entry.pop("with", {})), **entry)


def parse_effect(where, text, terms):
    """'a - b', 'a - 5 * b', 'a - .15', 'a - b - c + d' as {term: weight}; UsageError for other text or unknown terms.

    A number that stands alone has the name CONSTANT.
    """
    weights, rest = {}, text.strip() if isinstance(text, str) else "?"
    while rest:
        if weights and (match := re.match(r"\s*([+-])\s*([0-9]*\.?[0-9]+)\s*$", rest)):
            return weights | {CONSTANT: (-1 if match[1] == "-" else 1) * float(match[2])}
        match = re.match(r"\s*([+-]?)\s*(?:([0-9]*\.?[0-9]+)\s*\*\s*)?([A-Za-z_]\w*)\s*", rest)
        if match is None or (weights and not match[1]) or match[3] in weights:
            raise UsageError(f"{where}: effect {text!r} should be a sum of terms such as `a - b` or `a - 5 * b`")
        if match[3] not in terms:
            raise UsageError(f"{where}: effect {text!r} has no term {match[3]!r}; terms are {', '.join(terms)}")
        weights[match[3]] = (-1 if match[1] == "-" else 1) * float(match[2] or 1)
        rest = rest[match.end():]
    return weights


def _known(where, kind, name, known):
    if name not in known:
        raise UsageError(f"{where}: unknown {kind} {str(name)[:60]!r}; known are {', '.join(map(str, known))}")


def _given(entry):
    """An entry without the keys that stand there without a value."""
    return {key: value for key, value in entry.items() if value is not None}


def _texts(where, names):
    """`names`, when it is a list of texts."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UsageError(f"{where} should be a list of names, not {str(names)[:60]}")
    return names


def _plain(where, values):
    """`values`, when it maps flags to a text, a number or true and false each."""
    for name, value in values.items():
        if not isinstance(name, str) or not isinstance(value, (str, int, float)):
            raise UsageError(f"{where}: {str(name)[:60]} should be a flag with one text, number, true or false, "
                             f"not {str(value)[:60]}")
    return values


def _is_finite(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def _keys(where, entry, types, needed=()):
    """UsageError unless `entry` is a mapping with these keys and types of values, and the needed ones among them."""
    if not isinstance(entry, dict):
        raise UsageError(f"{where} should be `key: value` lines")
    if unknown := sorted(str(key) for key in entry if key not in types):
        raise UsageError(f"{where}: unknown key {', '.join(unknown)[:80]}; expected {', '.join(types)}")
    for key, value in entry.items():
        if value is not None and (not isinstance(value, types[key]) or
                                  (isinstance(value, bool) and types[key] is not bool)):
            raise UsageError(f"{where}: {key} has the wrong form ({type(value).__name__})")
    if lacking := [key for key in needed if not entry.get(key)]:
        raise UsageError(f"{where} has no {lacking[0]}")
