"""Tables of the manual from stored csv files: as table.py prints them, or with methods as lines or as columns.

    kind=board    blocks with control and worth beside the first metric, as in table.py's Markdown; columns=METRIC@K,..;
                  blocks=TITLE,.. leaves the others out (with-content for `with content`), and worth where none has it;
                  over=TITLE adds the paired difference of the first metric to the run of table.py's --against
    kind=methods  a line for each method; rows=METHOD or METHOD:REPRESENTATION,..; columns=METRIC@K,..; the last has
                  intervals
    kind=overall  a line for each claim of a claims.csv, with its verdict over real data sets
    kind=claims   a line for each test of a claims.csv; kinds=real (default) or "by construction" as by-construction;
                  claims=ID,.. leaves the others out
    kind=segments a line for each row of a worth_<part>_by_<cut>.csv (by artist two, for its two pairs of segments):
                  worth in each segment, p; of a results_<part>_by_<cut>.csv: the value of its first metric in each
    kind=plays    a line for each target of the plays.csv of recommenders.random_forest: the forest (the user's mean)
    kind=bar      a line for each model of the bar.csv of bench.fused_bar: values, comparisons, what it passes against
    kind=curve    a line for each method and representation of a data_curve.csv: the value at each share of train
    kind=pivot    lines of representations, columns of methods; rows=NAME,shuffled:NAME,..; columns=METHOD,..; metric.
                  The column `alone` is for methods without content, which are rows, too; intervals=users leaves those
                  over seeds out

In methods and pivot the header of the page stays, and what stands in brackets behind the name of a line. A cell without
a line in the csv is empty.
"""
import math
import re

from evaluation.render import NEAR, NO_CONTROL, UNUSUAL, escape_markdown, number, with_half
from harness.errors import WorkError
from harness.registry import title

KINDS = ("board", "methods", "pivot", "overall", "claims", "segments", "curve", "plays", "bar")
UNTESTABLE = "not testable here"     # the verdict of a claim without a test


def lines_of(options, frame, before):
    """The lines of a table. options: {key: text} of its comment; before: the lines that the page has, [[cell]]."""
    kind = options.get("kind", "board")
    if kind not in KINDS:
        raise WorkError(f"kind={kind} is none of {', '.join(KINDS)}")
    make = {"board": _board, "methods": _methods, "pivot": _pivot, "overall": _overall, "claims": _claims,
            "segments": _segments, "curve": _curve, "plays": _plays, "bar": _bar}
    return make[kind](options, frame, before)


def _listed(options, key):
    if not options.get(key):
        raise WorkError(f"the table needs {key}=..")
    return options[key].split(",")


def _lines(header, rows):
    first, *others = (re.sub(r"\|  (?=\|)", "| ", "| " + " | ".join(row) + " |") for row in [header, *rows])
    return [first, "|" + " --- |" * len(header), *others]


def _cut(frame, column):
    metric, _, k = column.partition("@")
    own = frame[(frame["metric"] == metric) & (frame["k"] == int(k))]
    if not len(own):
        raise WorkError(f"the file has no {column}")
    return own


# --------------------------------------------------------------------------- verdicts of claims

def _strong(word):
    return f"**{word}**" if word in ("holds", "fails") else word


def _overall(options, frame, before):
    rows = [[escape_markdown(_text(line[name])) for name in ("sentence", "source")] + [_strong(line["overall"])]
            for _, line in frame.drop_duplicates("claim").iterrows()]
    return _lines(["claim", "source", "verdict"], rows)


def _claims(options, frame, before):
    own = frame[(frame["kind"] == options.get("kinds", "real").replace("-", " ")) & (frame["verdict"] != UNTESTABLE)]
    if wanted := options.get("claims"):
        if lacking := set(wanted.split(",")) - set(own["claim"]):
            raise WorkError(f"the file has no test of {', '.join(sorted(lacking))}")
        own = own[own["claim"].isin(wanted.split(","))]
    rows = [[line["claim"] + (f" ({_text(line['variant'])})" if _text(line["variant"]) else ""), line["dataset"],
             escape_markdown(line["compares"]), _strong(line["verdict"]),
             f"{line['effect']:+.4f} ({line['low']:+.4f} to {line['high']:+.4f}"
             f"{'; 95 %, not adjusted' if math.isnan(line.get('p_holm', 0)) else ''})", _text(line["takes"])]
            for _, line in own.iterrows()]
    return _lines(["claim", "data set", "compares", "verdict", "effect (adjusted interval)", "would take"], rows)


# --------------------------------------------------------------------------- worth by segment

def _segments(options, frame, before):
    if "worth_over" in frame:      # values, not what content is worth
        first = _cut(frame, f"{frame['metric'].iloc[0]}@{frame['k'].iloc[0]}")
        first = first[~first["shuffled"]]
        rows = first[["method", "representation", "changed"]].fillna("").drop_duplicates()
        alone = rows.groupby(["method", "representation"]).size()
        return _values_by(first.assign(representation=[_named_line(line, alone) for _, line in first.iterrows()]),
                          "segment", lambda line: with_half(number(line["mean"]), line["half_users"]), str)
    names, rows = list(dict.fromkeys(frame["segment"])), []
    # a cut of two families of segments has a p, and so a line, for each
    keys = ["method", frame["representation"].fillna(""), "p_corrected", *(["p"] if "p" in frame else [])]
    for (method, representation, p, *_), own in frame.groupby(keys, sort=False, dropna=False):
        worth = own.set_index("segment")
        rows.append([escape_markdown(method), escape_markdown(representation),
                     *(with_half(f"{worth.loc[name, 'worth']:+.4f}", worth.loc[name, "half_worth"])
                       if name in worth.index else "" for name in names),
                     "" if math.isnan(p) else "< .001" if p < .001 else leading_zero_off(f"{p:.3f}")])
    return _lines(["method", "representation", *map(escape_markdown, names), "p of equal worth"], rows)


def _curve(options, frame, before):
    def cell(line):
        return f"{with_half(number(line['value']), line['half'])} {_text(line['mark'])}".strip()
    return _values_by(frame, "share", cell, lambda share: f"{float(share):.0%}".replace("%", " %"))


def _plays(options, frame, before):
    rows = []
    for target, own in frame.groupby("target", sort=False):
        models = own.set_index("model")
        rows.append([target, *(f"{_figure(models.loc['forest', name])} ({_figure(models.loc['user', name])})"
                               for name in ("correlation", "rmse", "mae"))])
    return _lines(["target", "correlation (user's mean)", "RMSE (user's mean)", "MAE (user's mean)"], rows)


def _figure(value):
    return f"{value:,.0f}" if abs(value) >= 100 else leading_zero_off(f"{value:.3f}")


def _values_by(frame, column, cell, named):
    """Lines of methods and representations, a column for each value of `column`; cell: a line of the frame as text."""
    names, rows = list(dict.fromkeys(frame[column])), []
    for (method, representation), own in frame.groupby(["method", frame["representation"].fillna("")], sort=False):
        at = {line[column]: cell(line) for _, line in own.iterrows()}
        rows.append([escape_markdown(method), escape_markdown(representation), *(at.get(name, "") for name in names)])
    return _lines(["method", "representation", *(escape_markdown(named(name)) for name in names)], rows)


# --------------------------------------------------------------------------- one model for hot and cold items

def _bar(options, frame, before):
    hot = list(dict.fromkeys(frame.loc[frame["part"] == "test", "against"].dropna()))
    header = ["model", "hot", f"lower end against {', '.join(hot)}", "cold", "lower end against content alone",
              "all_test", "first ten new", f"all_test against {', '.join(hot)}, content alone", "passes against"]
    rows = []
    for (_, model), own in frame.groupby(["group", "model"], sort=False):
        parts = {part: lines for part, lines in own.groupby("part")}
        cells = [model]
        for part in ("test", "cold_test"):
            lines = parts.get(part)
            cells += ["", ""] if lines is None else [
                leading_zero_off(f"{lines['value'].iloc[0]:.3f}"),
                ", ".join(f"{low:+.1%}".replace("%", " %") for low in lines["low"].dropna())]
        union, compared = parts["all_test"], parts["all_test"].dropna(subset=["against"])
        cells += [leading_zero_off(f"{union['value'].iloc[0]:.3f}"),
                  f"{union['cold_share'].iloc[0]:.0%}".replace("%", " %"),
                  ", ".join(_difference(line) for _, line in compared.iterrows()) if len(compared) > len(hot) else "",
                  ", ".join(name for name in hot if _passes(parts, name))]
        rows.append(cells)
    return _lines(header, rows)


def _difference(line):
    p = f"{line['p']:.3f}"
    return f"{line['difference']:+.1%}".replace("%", " %") + ("" if line["p"] < .001 else f" (p {leading_zero_off(p)})")


def _passes(parts, hot):
    """Whether a model meets all margins, known items against `hot`; False where a comparison is missing."""
    def met(part, names):
        lines = parts[part][parts[part]["against"].isin(names)] if part in parts else []
        return len(lines) == len(names) and all(lines["met"].astype(bool))
    cold = list(parts["cold_test"]["against"].dropna()) if "cold_test" in parts else []
    return bool(cold) and met("test", [hot]) and met("cold_test", cold) and met("all_test", [hot, *cold])


# --------------------------------------------------------------------------- as table.py prints it

def _board(options, frame, before):
    columns, header, rows = _listed(options, "columns"), ["method", "representation"], []
    first = _cut(frame, columns[0])
    first = first[~first["shuffled"]]
    if wanted := options.get("blocks", "").replace("-", " "):
        first = _of_blocks(first, wanted.split(","))
    content = "with content" in set(first["block"])
    for column in columns:
        header += [column, *(["control", "worth"] if content and column == columns[0] else [])]
    header += [f"over {options['over']}"] if "over" in options else []
    alone = first.groupby(["method", first["representation"].fillna("")]).size()
    for block in dict.fromkeys(first["block"]):
        rows.append([f"*{block}*", *[""] * (len(header) - 1)])
        for _, line in first[first["block"] == block].iterrows():
            cells = [escape_markdown(line["method"]), _label(line, alone)]
            for column in columns:
                same = _cut(frame, column)
                same = same[~same["shuffled"] & (same["runs"] == line["runs"])]
                cells.append(_value(same.iloc[0]) if len(same) else "")
                cells += _worth(line) if content and column == columns[0] else []
            rows.append(cells + ([_over(line)] if "over" in options else []))
    return _lines(header, rows)


def _of_blocks(first, wanted):
    if lacking := set(wanted) - set(first["block"]):
        raise WorkError(f"the file has no block {' or '.join(sorted(lacking))}; "
                        f"it has {', '.join(first['block'].unique())}")
    return first[first["block"].isin(wanted)]


def _over(line):
    """The difference to the run of --against with its interval; '' in that run's own line."""
    difference, half = line["against_difference"], (line["against_high"] - line["against_low"]) / 2
    return with_half(f"{difference:+.4f}", half) if math.isfinite(difference) else ""


def _label(line, alone):
    return escape_markdown(_named_line(line, alone))


def _named_line(line, alone):
    """A line's representation, and what differs where the method has several of it; alone: how many lines it has."""
    name, changed = _text(line["representation"]), _text(line["changed"])
    if not changed:
        return name
    return f"{name}{UNUSUAL}" if alone[line["method"], name] == 1 else f"{name} ({changed})".strip()


def _text(value):
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)


def _value(line):
    value = f"**{number(line['mean'])}**" if line["best"] else number(line["mean"])
    undecided = math.isfinite(line["p_t"]) and not max(line["p_t"], line["p_bootstrap"]) < .05
    return with_half(value, line["half_users"]) + (NEAR if undecided else "")


def _worth(line):
    if line["block"] != "with content":
        return ["", ""]
    if not math.isfinite(line["control"]):
        return [NO_CONTROL, ""]
    return [f"{number(line['control'])} ({int(line['permutations'])})",
            with_half(f"{line['worth']:+.4f}", line["half_worth"])]


# --------------------------------------------------------------------------- lines of methods, lines of representations

def _methods(options, frame, before):
    columns, rows = _listed(options, "columns"), []
    kept = {line[0]: line for line in before[2:]}
    header = before[0] if before else ["", *columns]
    for name in _listed(options, "rows"):
        method, _, representation = name.partition(":")
        label = next((n for n in kept if n in (method, f"{title(method)}, {_named(representation)}")),
                     f"{title(method)}, {_named(representation)}" if representation else method)
        lines = [_line(frame, column, method, _named(representation), False) for column in columns]
        rows.append([label, *("" if line is None else _short(line["mean"])
                              + (_intervals(line) if column == columns[-1] else "")
                              for column, line in zip(columns, lines, strict=True))])
    _embolden(rows, range(len(rows)))
    return _lines(header, rows)


def _named(representation):
    return {"random": "ID embeddings"}.get(representation, representation)


def _pivot(options, frame, before):
    metric, columns, rows = options.get("metric", "NDCG@10"), _listed(options, "columns"), []
    kept = [line[0] for line in before[2:]]
    header = before[0] if before else [metric, *("alone" if c == "alone" else title(c) for c in columns)]
    intervals = _interval if options.get("intervals") == "users" else _intervals
    for name in _listed(options, "rows"):
        shuffled, representation = name.startswith("shuffled:"), name.removeprefix("shuffled:")
        label = f"shuffled {representation}" if shuffled else representation
        label = next((n for n in kept if n == label or n.startswith(f"{label} (")), label)
        lines = [_line(frame, metric, *((representation, "") if method == "alone" else (method, representation)),
                       shuffled) for method in columns]
        rows.append([label, *("" if line is None else _short(line["mean"]) + intervals(line) for line in lines)])
    _embolden(rows, [i for i, row in enumerate(rows) if not row[0].startswith("shuffled ")])
    return _lines(header, rows)


def _line(frame, column, method, representation, shuffled):
    """The line of a method (by the name of its recommender or its title) and representation, None without; spaces do
    not count, so that a mixture can be named in one word.

    Of several settings that which has a control, as the one that was selected does, else that which departs least from
    the others: nothing here goes by the values.
    """
    own = _cut(frame, column)
    def named(column, name):
        return own[column].fillna("").astype(str).str.replace(" ", "") == name.replace(" ", "")
    own = own[(named("recommender", method) | named("method", method)) & named("representation", representation)
              & (own["shuffled"] == shuffled)]
    if not len(own):
        return None
    departures = own["changed"].fillna("").map(lambda text: len(text.split(", ")) if text else 0)
    return own.assign(alone=own["control"].isna(), departures=departures).sort_values(
        ["alone", "departures"], kind="stable").iloc[0]


def _short(value):
    return leading_zero_off(f"{value:.4f}")


def leading_zero_off(text):
    """'.1234' of '0.1234' and '-.5' of '-0.5'; 110.5 stays."""
    return re.sub(r"^(-?)0\.", r"\1.", text)


def _intervals(line):
    """` ±users (±seeds, n) mark` as far as a line has them; of a control only that over permutations."""
    text = f" ±{_short(line['half_users'])}" if math.isfinite(line["half_users"]) else ""
    if math.isfinite(line["half_seeds"]):
        text += f" (±{_short(line['half_seeds'])}, {int(line['seeds'])})"
    if _text(line.get("against")).split(" ")[0] == line["runs"].split(" ")[0]:
        return text + ", reference"
    p = [line.get(f"against_{name}", math.nan) for name in ("p_t", "p_bootstrap")]
    if all(map(math.isfinite, p)):
        return text + (" ↑" if max(p) < .05 and line["against_difference"] > 0 else " ↓" if max(p) < .05 else "")
    return text


def _interval(line):
    """` ±users`; of a control that over permutations."""
    half = line["half_users"] if math.isfinite(line["half_users"]) else line["half_seeds"]
    return f" ±{_short(half)}" if math.isfinite(half) else ""


def _embolden(rows, rivals):
    """Put the largest value of each column in bold, among the rows `rivals`; takes it from what had it before."""
    for row in rows:
        row[1:] = [cell.replace("**", "") for cell in row[1:]]
    for column in range(1, max(map(len, rows), default=1)):
        values = {i: float(match[0]) for i in rivals if (match := re.match(r"\.\d+", rows[i][column]))}
        if values:
            best = max(values, key=values.get)
            rows[best][column] = re.sub(r"^(\.\d+)", r"**\1**", rows[best][column])
