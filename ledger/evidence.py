"""Which runs of a workspace show a claim, and the estimate of its effect from them.

Of several settings of one method and representation the one that is best on val counts, never on the part itself; a
term `like` another has its settings but for what differs by the claim. Runs made with --as-published or a --fusion that
is not published count only where a claim asks for them. Runs of another split or embedding are left out, as in tables.
"""
import itertools
import json
from dataclasses import dataclass, field

import numpy as np

from evaluation import crossed
from evaluation.leaderboard import control_of, readable
from evaluation.results import Values, collect, repeat_numbers, val_means
from harness import registry
from harness.errors import UsageError, WorkError
from harness.readers import read_json
from harness.run_files import COLD_PARTS
from harness.runs import UNSAID
from ledger.correlation import Correlation
from ledger.statements import CONSTANT, EACH, FEWEST, VERSUS, Term

CLUSTER = "python claims.py --plan --dataset music4all prints the grid for a cluster with Music4All"
PLAN = "claims.py --plan prints the grid"
ASKED = ("as_published", "fusion")     # arguments whose runs count only where a claim names them
BESIDES = {"as_published": ("config", "stop_on", "eval_every", "val_users", "patience", "plateau"),
           "stop_on": ("eval_every", "val_users")}   # what else differs between requests where the key does


@dataclass(frozen=True)
class Need:
    """Runs that lack: a term as it is on this data set, and the request whose settings it should share, as json (None:
    those of the grid)."""
    method: str
    representation: str | None
    control: bool
    with_: tuple
    like: str | None = None


@dataclass
class Line:
    """A claim on one data set (for one representation or method, where it has `each`).

    estimates: crossed.Estimate or Correlation of its effects, empty where it could not be tested; reason: why not;
    single: methods with something random that ran with one seed
    """
    claim: object
    dataset: str
    generated: bool
    variant: str
    estimates: list = field(default_factory=list)
    labels: list = field(default_factory=list)       # what each estimate compares
    baselines: list = field(default_factory=list)    # mean of the term that is subtracted, NaN without or of several
    reason: str = ""
    single: list = field(default_factory=list)
    needs: list = field(default_factory=list)
    runs: list = field(default_factory=list)
    notes: list = field(default_factory=list)


class Workspace:
    """A workspace as claims see it: data set, cells, the values of its users; each file of metrics is read once."""

    def __init__(self, workdir, ledger):
        about = read_json(workdir / "dataset.json", {"name": str, "generated": bool}) \
            if (workdir / "dataset.json").exists() else {}
        self.workdir, self.ledger = workdir, ledger
        self.dataset = _entry_of(workdir, about.get("name", workdir.name), ledger)
        self.name = self.dataset.name
        self.generated = self.dataset.generated or about.get("generated", False)
        self.cells, self.left = collect(workdir)
        self.frames, self.usual = {}, {}

    def has_vectors(self, name):
        return (self.workdir / "embeddings" / f"{name}.npy").exists() or any(c.embedding == name for c in self.cells)

    def has_part(self, part):
        """Whether the split has a part: its file, or, of restored runs, one that was evaluated on it."""
        return (self.workdir / "data" / f"{part}.pqt").exists() or any(
            part in config.get("parts", []) for cell in self.cells for _, config in cell.runs)

    def value(self, cell, argument):
        """An argument of a cell's request, of a configuration within it too; the script's default where it lacks."""
        request = dict(cell.request)
        for inner in [v for v in cell.request.values() if isinstance(v, dict)]:
            request |= inner
        if argument in request or argument in UNSAID:
            return request.get(argument, UNSAID.get(argument))
        if cell.recommender not in self.usual:
            self.usual[cell.recommender] = registry.defaults(cell.recommender)
        return self.usual[cell.recommender].get(argument)

    def values(self, part, column):
        return _CachedValues(self, part, column)


def _entry_of(workdir, name, ledger):
    """The Dataset of the ledger that a workspace is: one of its plays and protocol, else one of its name."""
    split = workdir / "data" / "split.json"
    protocol = read_json(split, {"protocol": str}).get("protocol") if split.exists() else None
    for entry in ledger.datasets.values():
        if entry.plays_of == name and entry.protocol == protocol:
            return entry
    if name not in ledger.datasets or ledger.datasets[name].plays_of:
        raise UsageError(f"{workdir} is the data set {name!r}, which {ledger.path.name} does not describe; it "
                         f"has {', '.join(ledger.datasets)}; add an entry with its representations to a copy of "
                         "it, and name that with --ledger")
    return ledger.datasets[name]


class _CachedValues(Values):
    """Values of one claim on its own users, whose files are read once for all claims."""
    reference = None     # (run, its users) that the others are compared with

    def __init__(self, workspace, part, column):
        super().__init__(workspace.workdir, part, [column])
        self.cache = workspace.frames

    def _read(self, name, config):
        key = name, self.part
        if key not in self.cache:
            self.users = None
            self.cache[key] = super()._read(name, config)
        frame, means = self.cache[key]
        users = frame["user_id"].to_numpy()
        if self.reference is not None and not np.array_equal(users, self.reference[1]):
            raise WorkError(f"{name} and {self.reference[0]} were evaluated on other users; python metrics.py makes "
                            "all metrics again")
        self.reference = self.reference or (name, users)
        return frame, means


# --------------------------------------------------------------------------- lines of a claim

def lines_of(claim, workspace):
    """The Lines of a claim on a workspace: one, or one for each representation and method of its `each`."""
    def blank(variant=""):
        return Line(claim, workspace.name, workspace.generated, variant)
    if claim.datasets is not None and workspace.name not in claim.datasets:
        return []
    if claim.untestable:
        line = blank()
        line.reason = claim.untestable
        return [line]
    axes = []
    for axis, wanted in claim.each.items():
        names = wanted if isinstance(wanted, list) else workspace.dataset.roles.get(wanted, [])
        if not names:
            line = blank()
            line.reason = f"no {wanted} representation here ({CLUSTER})"
            return [line]
        axes.append([(axis, name) for name in names])
    return [_line(blank(" ".join(name for _, name in chosen)), dict(chosen), workspace)
            for chosen in itertools.product(*axes)]


def _line(line, chosen, workspace):
    try:
        if line.claim.scores is not None:
            _correlate(line, chosen, workspace)
        else:
            _compare(line, chosen, workspace)
    except WorkError as e:
        line.estimates, line.reason = [], str(e)
    return line


def _compare(line, chosen, workspace):
    """Fill a line with the estimates of all its effects, or with the reason why one lacks."""
    claim, rivals = line.claim, [None]
    main = chosen.get("representation")
    if claim.versus is not None:
        names = claim.versus if isinstance(claim.versus, list) else workspace.dataset.roles.get(claim.versus, [])
        named = {term.representation for term in claim.terms.values()} | {main}
        rivals = [name for name in names if name not in named]
        if not rivals:
            line.reason = f"no other representation to compare with ({CLUSTER})"
            return
    reasons = []
    for rival in rivals:
        bound = {name: _bound(term, chosen, rival) for name, term in claim.terms.items()}
        for weights in claim.effects:
            needed = {name: bound[name] for name in _with_anchors(weights, bound)}
            cells, lacking = resolve(workspace, needed, claim, line)
            if lacking:
                line.needs += [need for need, _ in lacking if need is not None]
                reasons += [why for _, why in lacking]
                continue
            line.labels.append(" ".join(f"{w:+g}".replace("-", "- ").replace("+", "+ ") if name == CONSTANT else
                                        _word(w, bound[name]) for name, w in weights.items()).removeprefix("+ "))
            _estimate(line, workspace, weights, bound, cells)
    if reasons:
        line.estimates, line.reason = [], joined(reasons)


def joined(reasons):
    """[(what lacks, its name, where to get it)] as one clause for each kind: `no vectors of a, b here; ...`"""
    kinds = {}
    for what, name, remedy in reasons:
        kinds.setdefault((what, remedy), {})[name] = None
    return "; ".join(what.format(", ".join(names)) + (f" ({remedy})" if remedy else "")
                     for (what, remedy), names in kinds.items())


def _with_anchors(weights, bound):
    own = [name for name in weights if name != CONSTANT]
    return [*own, *[bound[name].like for name in own if bound[name].like and bound[name].like not in own]]


def _bound(term, chosen, rival):
    """A term with `each` and `versus` replaced by the names of this line."""
    names = {EACH: chosen.get("representation"), VERSUS: rival}
    return Term(chosen["method"] if term.method == EACH else term.method,
                names.get(term.representation, term.representation), term.control, term.with_, term.like)


def _word(weight, term):
    sign, times = "-" if weight < 0 else "+", "" if abs(weight) == 1 else f"{abs(weight):g} x "
    how = readable({k: v for k, v in term.with_.items() if not (k.startswith("no_") and v is False)})
    words = [registry.title(term.method), "shuffled" if term.control else "",
             {"random": "ID embeddings"}.get(term.representation, term.representation or ""), f"({how})" if how else ""]
    return f"{sign} {times}{' '.join(filter(None, words))}"


def _figure(values, cell, claim):
    """The Figure of a claim's metric; WorkError with the command that evaluates it where a run lacks it."""
    figures = values.of(cell)
    if claim.metric not in figures:
        name, k = claim.metric.split("@")
        how = {"SubsetAccuracy": f"python metrics.py --subset-size {k}", "PointAccuracy": "recommenders.dtnmr"}
        raise WorkError(f"{cell.runs[0][0]} has no {claim.metric} of {claim.part}; "
                        f"{how.get(name, f'python metrics.py --k {k}')} --workdir {values.folder.parent} evaluates it")
    return figures[claim.metric]


def _estimate(line, workspace, weights, bound, cells):
    claim = line.claim
    values, terms, subtracted = workspace.values(claim.part, claim.metric), [], []
    for name, weight in weights.items():
        if name == CONSTANT:
            subtracted += [-weight] if weight < 0 else []
            continue
        cell = cells[name]
        figure = _figure(values, cell, claim)
        if figure.table is None:
            raise WorkError(f"{claim.metric} belongs to all users together: no test over users")
        fixed = not bound[name].control and registry.deterministic(cell.recommender)
        once = slice(1) if fixed else slice(None)       # runs of a method without chance are one, by whatever seed
        terms.append(crossed.Term(weight, figure.table[once], tuple(repeat_numbers(cell))[once], bound[name].control))
        subtracted += [-weight * figure.mean] if weight < 0 else []
        line.runs += [run for run, _ in cell.runs if run not in line.runs]
        if not fixed:
            line.single += [_word(1, bound[name]).removeprefix("+ ")] if figure.repeats == 1 else []
            if figure.repeats < workspace.ledger.rules["seeds"]:
                line.needs.append(_need(bound[name], cell))
    if CONSTANT in weights:
        terms.append(crossed.Term(weights[CONSTANT], np.ones((1, terms[0].table.shape[1])), (0,)))
    result = crossed.estimate(terms)
    if result.users < 2:
        raise WorkError(f"{result.users} users have a value in all of these runs: no interval")
    line.estimates.append(result)
    line.baselines.append(subtracted[0] if len(subtracted) == 1 else np.nan)


# --------------------------------------------------------------------------- cells of terms

def resolve(workspace, terms, claim, line=None):
    """({term: Cell}, []) of a claim's terms, or ({}, [(Need or None, why)]) where some have no finished run.

    line: a Line whose notes name settings that are better on val, but lack what they are compared with
    """
    anchors = {name: term for name, term in terms.items() if not term.like}
    chosen, lacking = {}, []
    for name, term in anchors.items():
        followers = {n: t for n, t in terms.items() if t.like == name}
        found = candidates(workspace, term, claim)
        complete = [(cell, more) for cell in found
                    if len(more := _followers(workspace, cell, term, followers, claim)) == len(followers)]
        if complete:
            chosen[name], more = complete[0]
            chosen |= more
            if line is not None and chosen[name] is not found[0]:
                have = _followers(workspace, found[0], term, followers, claim)
                line.notes.append(f"another setting of {_word(1, term).removeprefix('+ ')} is better on val, but lacks "
                                  "what it is compared with")
                line.needs += [_need(t, found[0]) for n, t in followers.items() if n not in have]
            continue
        if not found:
            lacking.append(_lacking(workspace, term, claim))
        like = found[0] if found else None
        have = _followers(workspace, like, term, followers, claim) if like else {}
        lacking += [_lacking(workspace, t, claim, like) for n, t in followers.items() if n not in have]
    return ({}, lacking) if lacking else (chosen, [])


def candidates(workspace, term, claim, like=None, anchor=None):
    """Cells that a term may mean, best on val first; with `like` (a Cell) those of its settings alone."""
    plain = [cell for cell in workspace.cells if cell.runs and cell.recommender == term.method and not cell.shuffled
             and cell.embedding == term.representation and _asked(workspace, cell, term)
             and all(claim.part in config.get("parts", []) for _, config in cell.runs)]
    if like is not None:
        varied = {*term.with_, *(anchor.with_ if anchor else ())}
        free = {"comment", *varied, *(more for key in varied for more in BESIDES.get(key, ()))}
        plain = [cell for cell in plain if _alike(cell, like, free)]
    if term.control:
        shuffled = [c for c in workspace.cells if c.recommender == term.method and c.shuffled and c.runs]
        plain = [found for cell in plain if (found := control_of(cell, plain, shuffled)) is not None]

    def on(part):
        return [val_means(workspace.workdir, cell, [claim.metric], part)[claim.metric] for cell in plain]
    values = on("cold_val") if claim.part in COLD_PARTS else on("val")
    if claim.part in COLD_PARTS and not np.isfinite(values).any():
        values = on("val")   # a split without cold_val: as in training, val selects
    order = sorted(zip(plain, values, strict=True), key=lambda pair: (
        -pair[1] if np.isfinite(pair[1]) else np.inf, -len(pair[0].runs), str(pair[0].request)))
    return [cell for cell, _ in order]


def _asked(workspace, cell, term):
    """Whether a cell has the arguments of a term, and none that a claim has to name without naming it."""
    return all(workspace.value(cell, k) == v for k, v in term.with_.items()) and not any(
        workspace.value(cell, k) for k in ASKED if k not in term.with_)


def _alike(cell, other, free):
    """Whether two cells have the same settings but for the free ones, or both leave one that --as-published changes."""
    usual, pair = registry.set_by_published(cell.recommender), (cell.request, other.request)
    return all(k in free or pair[0].get(k, ...) == pair[1].get(k, ...) or k in usual and all(
        r.get(k) == usual[k][bool(r.get("as_published"))] for r in pair) for k in {*pair[0], *pair[1]})


def _followers(workspace, cell, anchor, followers, claim):
    """{term: Cell} of the terms that are `like` a cell, without those that have no run."""
    cells = {name: candidates(workspace, term, claim, cell, anchor) for name, term in followers.items()}
    return {name: some[0] for name, some in cells.items() if some}


def _lacking(workspace, term, claim, like=None):
    """(Need or None, (what lacks, name, remedy)) of a term without a finished run; None: no grid here makes it."""
    name = _word(1, term).removeprefix("+ ")
    if term.representation not in (None, "random") and not workspace.has_vectors(term.representation):
        return None, ("no vectors of {} here", term.representation, CLUSTER)
    cold = claim.part in COLD_PARTS
    if cold and (not registry.capability(term.method)[1] or term.representation == "random"):
        return None, ("{} cannot rank cold items", name, "")
    if claim.part != "all_test" and not workspace.has_part(claim.part):
        return None, ("this split has no {}", claim.part, "")
    return _need(term, like), ("no finished run of {}", name, PLAN)


def _need(term, like):
    """The Need of a term; like: the Cell whose settings it should share, None for those of the grid."""
    request = json.dumps(like.request, sort_keys=True) if like else None
    return Need(term.method, term.representation, term.control, tuple(sorted(term.with_.items())), request)


# --------------------------------------------------------------------------- rank correlation

def _correlate(line, chosen, workspace):
    """Rank correlation over encoders of published scores with what a method reaches on each."""
    from scipy.stats import spearmanr
    claim, ((_, term),) = line.claim, line.claim.terms.items()
    here = [name for name in claim.scores if workspace.has_vectors(name)]
    if len(here) < FEWEST:
        line.reason = (f"{len(here)} of the {len(claim.scores)} encoders with a published score have vectors here, and "
                       f"a rank correlation needs {FEWEST} ({CLUSTER})")
        return
    values, means = workspace.values(claim.part, claim.metric), []
    for name in here:
        bound = Term(chosen.get("method", term.method), name, False, term.with_)
        cells, lacking = resolve(workspace, {"term": bound}, claim)
        if lacking:
            line.needs += [need for need, _ in lacking if need is not None]
            line.reason = line.reason or joined([lacking[0][1]])
            continue
        means.append(_figure(values, cells["term"], claim).mean)
        line.runs += [run for run, _ in cells["term"].runs]
    if not line.reason:
        scores = [claim.scores[name] for name in here]
        if min(len(set(scores)), len(set(means))) < 2:
            raise WorkError("all encoders have the same value, or the same published score: no order to compare")
        rho = float(spearmanr(scores, means).statistic)
        line.estimates, line.labels, line.baselines = [Correlation(rho, len(here))], ["rank correlation"], [np.nan]
