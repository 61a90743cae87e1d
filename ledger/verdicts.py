"""Verdicts, by rules that were fixed before the runs they judge.

A claim is tested on a data set by the interval of its effect (users and seeds crossed, evaluation/crossed.py) against
the smallest effect that matters (evaluation/margins.py):

    holds       the adjusted interval lies wholly where the claim is true: above the smallest effect, for `above`
    fails       it lies wholly where the claim is false
    undecided   neither, or a method with something random ran with one seed; beside it stands how many users or seeds
                would show an effect as large as the one seen
    not testable here

A claim of several effects holds where all their intervals lie inside (no correction is needed for all being true), and
fails where that of one lies outside, at a level divided by their number. The interval that is shown is at the level of
the side on which its effect lies.

Adjusted is the interval of confidence 1 - a with a = level R / M: M is the number of tests of the ledger, R of those
that Benjamini and Hochberg's procedure finds at `level`, 1 where it finds none. An interval of that confidence excludes
the bound exactly where the procedure finds the test, so that the interval and the procedure are one decision.
The tests of real data sets are one family, those of generated worlds another: these are labelled `by construction`, as
they check the method of judging, and enter no overall verdict. Holm's p values are shown beside.

Overall, over real data sets: the common verdict where all that could be tested agree, else mixed; not a pooled p value.

Sources: Benjamini and Hochberg, J. R. Statist. Soc. B 57, 1995; Benjamini and Yekutieli, J. Am. Statist. Ass. 100, 2005
(intervals of selected parameters, directions); Berger, Technometrics 24, 1982 (intersection-union tests).
"""
from dataclasses import dataclass, field

import numpy as np

from evaluation import margins
from evaluation.crossed import Estimate, seeds_needed, users_needed
from evaluation.paired_tests import corrected, holm

HOLDS, FAILS, UNDECIDED, UNTESTABLE, MIXED = "holds", "fails", "undecided", "not testable here", "mixed"
REAL, MADE = "real", "by construction"


@dataclass
class Verdict:
    """The verdict of a Line. effect, low, high: of the effect that is nearest to a failure; level: of the interval.

    p: the smaller of p_inside and p_outside; p_bh, p_holm: corrected; users_needed, seeds_needed: None where no number
    would do or none is needed; note: what a reader has to know besides
    """
    line: object
    word: str
    kind: str
    label: str = ""
    worst: int = 0                    # of the line's estimates, that which is judged
    effect: float = np.nan
    low: float = np.nan
    high: float = np.nan
    level: float = np.nan
    relative: float = np.nan          # effect over the mean of what it is compared with
    users: int = 0
    seeds: int = 0                    # the least number of seeds of its random methods, 0 without any
    p_inside: float = np.nan
    p_outside: float = np.nan
    p_difference: float = np.nan
    p_superior: float = np.nan
    p_not_inferior: float = np.nan
    p_equivalent: float = np.nan
    p: float = np.nan
    p_bh: float = np.nan
    p_holm: float = np.nan
    users_needed: int | None = None
    seeds_needed: int | None = None
    notes: list = field(default_factory=list)


def judge(lines, rules):
    """The Verdict of each Line, in order; rules: level and chance of the ledger."""
    verdicts = [_tested(line) for line in lines]
    for kind in (REAL, MADE):
        family = [v for v in verdicts if v.kind == kind and np.isfinite(v.p)]
        if not family:
            continue
        p = np.array([v.p for v in family])
        adjusted = corrected(p, "bh")
        level = rules["level"] * max(1, int((adjusted <= rules["level"]).sum())) / len(p)
        for verdict, p_bh, p_holm in zip(family, adjusted, holm(p), strict=True):
            verdict.p_bh, verdict.p_holm, verdict.level = float(p_bh), float(p_holm), 1 - level
            _decide(verdict, level, rules)
    return verdicts


def _tested(line):
    """A Verdict with the p values of its line; not testable where it has no estimate."""
    kind = MADE if line.generated else REAL
    if not line.estimates:
        return Verdict(line, UNTESTABLE, kind, notes=[line.reason])
    claim, several = line.claim, len(line.estimates)
    inside = [margins.p_inside(e, claim.direction, claim.smallest) for e in line.estimates]
    outside = [margins.p_outside(e, claim.direction, claim.smallest) for e in line.estimates]
    worst = int(np.argmax(np.array(inside) - np.array(outside)))       # the effect that speaks most against the claim
    result, base = line.estimates[worst], line.baselines[worst]
    verdict = Verdict(line, UNDECIDED, kind, line.labels[worst], worst, result.effect, users=result.users,
                      seeds=int(min(result.seeds, default=0)), p_inside=max(inside),
                      p_outside=min(1.0, several * min(outside)))
    verdict.relative = result.effect / base if base else np.nan
    for name in ("difference", "superior", "not_inferior", "equivalent"):
        test = getattr(margins, f"p_{name}")
        setattr(verdict, f"p_{name}", test(result) if name == "difference" else test(result, claim.smallest))
    verdict.notes += dict.fromkeys(line.notes)
    if several > 1:
        verdict.notes.append(f"the least of {several} effects")
    if result.se == 0:
        verdict.notes.append("every user has the same difference under every seed: no variance to test with")
    if line.single:
        verdict.notes.append(f"one seed of {', '.join(dict.fromkeys(line.single))}: its spread over seeds is not known")
    else:
        verdict.p = min(verdict.p_inside, verdict.p_outside)
    return verdict


def _decide(verdict, level, rules):
    """The word of a tested verdict, its adjusted interval, and what would decide where it is undecided."""
    line, claim = verdict.line, verdict.line.claim
    result = line.estimates[verdict.worst]
    verdict.word = HOLDS if verdict.p_inside <= level else FAILS if verdict.p_outside <= level else UNDECIDED
    if margins.p_outside(result, claim.direction, claim.smallest) < margins.p_inside(result, claim.direction,
                                                                                      claim.smallest):
        level /= len(line.estimates)        # where the claim is false one of its effects decides
        verdict.level = 1 - level
    verdict.low, verdict.high = result.interval(1 - level)
    if verdict.word == UNDECIDED and isinstance(result, Estimate):
        gap = margins.distance(result.effect, claim.direction, claim.smallest)
        needed = users_needed, seeds_needed
        verdict.users_needed, verdict.seeds_needed = (
            n(result, gap, 1 - level, rules["chance"]) if gap > 0 else None for n in needed)


def unjudged(verdict, rules):
    """Fill the interval, not adjusted, of a verdict that took no part in the correction: one seed."""
    line = verdict.line
    if line.estimates and not np.isfinite(verdict.level):
        verdict.level = 1 - rules["level"]
        verdict.low, verdict.high = line.estimates[verdict.worst].interval(verdict.level)


def overall(verdicts):
    """{claim id: word} over real data sets: what all that could be tested agree on, else mixed."""
    words = {}
    for verdict in verdicts:
        words.setdefault(verdict.line.claim.id, set())
        if verdict.kind == REAL and verdict.word != UNTESTABLE:
            words[verdict.line.claim.id].add(verdict.word)
    return {name: UNTESTABLE if not some else some.pop() if len(some) == 1 else MIXED
            for name, some in words.items()}


def what_it_takes(verdict):
    """How many users or seeds would decide, in words; '' where nothing is undecided."""
    if verdict.word != UNDECIDED:
        return ""
    if verdict.line.single:
        return "at least 2 seeds"
    users, seeds = verdict.users_needed, verdict.seeds_needed
    words = [f"{_about(users):,} users" if users else "", f"{_about(seeds):,} seeds" if seeds else ""]
    if not any(words):
        return "no number of users or seeds alone, if the effect is as seen"
    return " or ".join(filter(None, words))


def _about(number):
    """A number rounded to two digits, as the effect that it assumes is known no better."""
    return int(float(f"{number:.2g}"))
