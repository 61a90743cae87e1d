"""Verdicts as Markdown, csv and json."""
import math

from evaluation.render import escape_markdown
from ledger import verdicts as judged
from ledger.verdicts import HOLDS, MADE, REAL, UNTESTABLE, what_it_takes

FIGURES = ("effect", "low", "high", "level", "relative", "users", "seeds", "p_inside", "p_outside", "p_difference",
           "p_superior", "p_not_inferior", "p_equivalent", "p", "p_bh", "p_holm", "users_needed", "seeds_needed")


def rows(verdicts):
    """[{column: value}] of verdicts, one for each data set and variant of a claim."""
    words = judged.overall(verdicts)
    return [{"claim": v.line.claim.id, "overall": words[v.line.claim.id], "dataset": v.line.dataset, "kind": v.kind,
             "variant": v.line.variant, "verdict": v.word, "compares": v.label, "part": v.line.claim.part,
             "metric": v.line.claim.metric, "direction": v.line.claim.direction, "smallest": v.line.claim.smallest,
             **{name: getattr(v, name) for name in FIGURES}, "takes": what_it_takes(v),
             "notes": "; ".join(filter(None, v.notes)), "sentence": v.line.claim.sentence,
             "source": v.line.claim.source, "command": v.line.claim.command, "runs": " ".join(v.line.runs)}
            for v in verdicts]


def document(ledger, verdicts, about):
    """What claims.json holds: rules, overall verdicts and all rows; NaN as null."""
    def plain(value):
        return None if isinstance(value, float) and not math.isfinite(value) else value
    return {**about, "rules": ledger.rules, "overall": judged.overall(verdicts),
            "verdicts": [{key: plain(value) for key, value in row.items()} for row in rows(verdicts)]}


def markdown(ledger, verdicts, about, every=None):
    """claims.md: the rules in short, the overall verdicts, then a table for each data set.

    every: all verdicts of the ledger, over whose tests the intervals are adjusted, where `verdicts` are some of them
    """
    words = judged.overall(verdicts)
    lines = ["# Claims", "", _rules(ledger, every or verdicts, about), "", "## Overall, over real data sets", ""]
    lines += _table(["claim", "sentence", "source", "verdict"],
                    [[c.id, c.sentence, c.source, _strong(words.get(c.id, UNTESTABLE))] for c in ledger.claims])
    for name in dict.fromkeys(v.line.dataset for v in verdicts):
        own = [v for v in verdicts if v.line.dataset == name]
        lines += ["", f"## {escape_markdown(name)}" + (f" ({MADE})" if own[0].kind == MADE else ""), ""]
        tested = [v for v in own if v.word != UNTESTABLE]
        if tested:
            lines += _table(["claim", "compares", "verdict", "effect and adjusted interval", "matters from", "Holm's p",
                             "users, seeds", "would take", "notes"], [_row(v) for v in tested])
        if untested := [v for v in own if v.word == UNTESTABLE]:
            lines += ["", "Not testable here:", ""]
            lines += [f"- {v.line.claim.id}{f' ({v.line.variant})' if v.line.variant else ''}: "
                      f"{escape_markdown('; '.join(v.notes))}" + (f"; `{v.line.claim.command}`" if
                                                                  v.line.claim.command else "") for v in untested]
    return "\n".join(lines) + "\n"


def _rules(ledger, verdicts, about):
    tests = {kind: sum(1 for v in verdicts if v.kind == kind and math.isfinite(v.p)) for kind in (REAL, MADE)}
    claims = max(len(ledger.claims), len({v.line.claim.id for v in verdicts}))
    shown = f", {len(ledger.claims)} of them shown" if len(ledger.claims) < claims else ""
    return (f"Claims: {claims}{shown}; tests: {tests[REAL]} on real data and {tests[MADE]} on generated worlds, "
            "which check the method of judging and enter no overall verdict. Holds (fails): the interval of the effect "
            "over users and seeds, adjusted by Benjamini and Hochberg's procedure at "
            f"{ledger.rules['level']:g} over all these tests, lies wholly where the claim is true (false); else "
            f"undecided. ledger/verdicts.py has the rules. Ledger {about['ledger_sha256'][:12]}"
            + (f", commit {about['commit']}" if about.get("commit") else "") + ".")


def _row(v):
    users = f"{v.users:,}" + (f", {v.seeds}" if v.seeds else "")
    effect = f"{v.effect:+.4f} [{v.low:+.4f}, {v.high:+.4f}]" + (
        f", {v.relative:+.0%}" if math.isfinite(v.relative) else "")
    bound = {"above": "{:+.4g}", "not-below": "-{:.4g}", "equal": "within ±{:.4g}", "differs": "beyond ±{:.4g}"}
    name = v.line.claim.id + (f" ({v.line.variant})" if v.line.variant else "")
    return [name, v.label, _strong(v.word), effect, bound[v.line.claim.direction].format(v.line.claim.smallest),
            f"{v.p_holm:.3g}" if math.isfinite(v.p_holm) else "", users, what_it_takes(v), "; ".join(v.notes)]


def _strong(word):
    return f"**{word}**" if word in (HOLDS, judged.FAILS) else word


def _table(header, body):
    def cell(text):
        text = str(text)
        return text if text.startswith("**") and text.endswith("**") else escape_markdown(text)
    return ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header),
            *("| " + " | ".join(map(cell, row)) + " |" for row in body)]
