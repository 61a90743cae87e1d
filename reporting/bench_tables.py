"""Tables of docs/benchmarks.md from the rows of results/bench/, which python -m bench --keep stores.

    kind=pairs    a line for each row that has a baseline: ours, the baseline, how many times ours is as fast (or the
                  gain over a plain form); all=yes has the rows without a baseline, too
    kind=rows     a line for each row, columns=FIELD:HEADER,.. with _ for blanks in the header
    kind=costs    a line for each recommender of bench.recommenders; sizes=lastfm,music4all: fit, rank, peak of each
    kind=growth   a line for each method of bench.growth: the exponents, in brackets the expected ones
    kind=extraction   a line for each backend of bench.extract: tracks per second, the shares of a track's time, the
                  speed beside a large matrix product, and the hours that catalogues=N,.. tracks take at that rate

rows=TEXT,.. keeps the rows whose name begins so and puts them in that order, with _ for blanks.
"""
import math
import re

from harness.errors import WorkError

EMPTY = ("", "", "")


def lines_of(options, frame, before):
    """The lines of a table. options: {key: text} of its comment; frame: rows of a bench; before: not needed."""
    make = {"pairs": _pairs, "rows": _rows, "costs": _costs, "growth": _growth, "extraction": _extraction}
    if (kind := options.get("kind", "pairs")) not in make:
        raise WorkError(f"kind={kind} is none of {', '.join(make)}, those of a bench's rows")
    rows = [{key: value for key, value in row.items() if not _missing(value)} for row in frame.to_dict("records")]
    if wanted := options.get("rows"):
        rows = [row for name in wanted.split(",") for row in _named(rows, name)]
    header, lines = make[kind](options, rows)
    first, *others = ("| " + " | ".join(line) + " |" for line in [header, *lines])
    return [re.sub(r"\|  (?=\|)", "| ", line) for line in [first, "|" + " --- |" * len(header), *others]]


def value(options, frame):
    """A row's field (default ratio) as text, to three digits or to digits=N behind the point.

    what=.. is the row's name or, where that leaves one row, its beginning; WorkError where it does not.
    """
    rows = _named([{k: v for k, v in row.items() if not _missing(v)} for row in frame.to_dict("records")],
                  options.get("what", ""))
    field = options.get("field", "ratio")
    rows = [row for row in rows if row["what"].replace("_", " ") == options["what"].replace("_", " ")] or rows
    if len(rows) != 1 or field not in rows[0]:
        raise WorkError(f"{options['file']} has {len(rows)} rows that begin {options.get('what', '')!r}; one with "
                        f"{field} is needed")
    found = rows[0][field]
    return _zero_off(f"{found:.{int(options['digits'])}f}") if "digits" in options else figure(found)


def figure(number):
    """Three digits: `.0412`, `4.12`, `41.2`, `412`, `41,200`."""
    if not number or not math.isfinite(number):
        return f"{number:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(float(f"{number:.3g}")))))
    return _zero_off(f"{float(f'{number:.3g}'):,.{digits}f}")


def _zero_off(text):
    return re.sub(r"^(-?)0\.", r"\1.", text)


def _missing(value):
    return value is None or (isinstance(value, float) and math.isnan(value))


def _named(rows, name):
    name = name.replace("_", " ")
    if not (found := [row for row in rows if row["what"].replace("_", " ").startswith(name)]):
        raise WorkError(f"no row begins {name!r}")
    return found


# --------------------------------------------------------------------------- ours and a baseline

def _pairs(options, rows):
    shown = [row for row in rows if options.get("all") == "yes" or "ratio" in row]
    against = any("against" in row for row in shown)
    header = ["what", "ours", *(["compared with"] if against else []), "its figure" if against else "baseline",
              "gain" if against else "ratio", "note"]
    lines = []
    for row in shown:
        unit = f" {row['unit']}" if row.get("unit") else ""
        ours, baseline = (f"{figure(row[key])}{unit}" if key in row else "" for key in ("ours", "baseline"))
        lines.append([_plain(row["what"]), ours, *([_plain(row.get("against", ""))] if against else []), baseline,
                      figure(row["ratio"]) if "ratio" in row else "", _plain(row.get("note", ""))])
    if not any(line[-1] for line in lines):
        return header[:-1], [line[:-1] for line in lines]
    return header, lines


def _rows(options, rows):
    columns = [column.partition(":")[::2] for column in options["columns"].split(",")]
    if lacking := {field for field, _ in columns} - {key for row in rows for key in row}:
        raise WorkError(f"no row has {', '.join(sorted(lacking))}")
    lines = [[_cell(row.get(field, "")) for field, _ in columns] for row in rows]
    return [(header or field).replace("_", " ") for field, header in columns], lines


def _cell(value):
    return _plain(value) if isinstance(value, str) else figure(value)


def _plain(text):
    return text.replace("|", "\\|").replace("_", "\\_")


# --------------------------------------------------------------------------- every recommender

def _costs(options, rows):
    sizes = options["sizes"].split(",")
    cells = {}
    for row in rows:
        name, _, size = row["what"].rpartition(", ")
        if size in sizes:     # other rows of the bench are no recommender's
            cells.setdefault(name, {})[size] = _cost(row)
    if not cells:
        raise WorkError(f"no row is of size {' or '.join(sizes)}")
    header = ["recommender", *(f"{what}, {size}" for size in sizes for what in ("fit", "rank", "peak"))]
    return header, [[f"`{name}`", *(cell for size in sizes for cell in own.get(size, EMPTY))]
                    for name, own in cells.items()]


def _cost(row):
    if "ours" not in row:
        stopped = re.search(r"stopped after (\d+) s", row["note"])
        return (f"(above {stopped[1]})" if stopped else "", "", f"{row['peak_gib']:.2f}")
    fit = figure(row["ours"])
    return (f"({fit})" if row["note"].startswith("fit: one epoch") else fit, figure(row["recommend_s"]),
            f"{row['peak_gib']:.2f}")


# --------------------------------------------------------------------------- growth

def _growth(options, rows):
    axes = ("users", "items", "pairs")
    lines = []
    for row in rows:
        expected = row.get("expected") or ("", "", "")
        cells = [" ".join(part for part in (_zero_off(f"{row[axis]:.2f}") if axis in row else "",
                                            f"({at})" if at != "" else "") if part)
                 for axis, at in zip(axes, expected, strict=True)]
        remarks = [f"{row['times']:g} times the base"] if row.get("times", 1) > 1 else []
        remarks += re.findall(r"\d+ times the (?:users|items|pairs): [^;]*", row.get("note", ""))
        lines.append([f"`{row['what']}`", *cells, "; ".join(remarks)])
    return ["recommender", *axes, "remarks"], lines


# --------------------------------------------------------------------------- extraction

def _extraction(options, rows):
    sizes = [int(n) for n in options["catalogues"].split(",")]
    lines = []
    for row in rows:
        name = f"`{row['what'].rpartition(',')[0] or row['what']}`"
        if "ours" not in row:
            lines.append([name, _plain(row["note"]), *[""] * (2 + len(sizes))])
            continue
        seconds, reached = row["seconds_per_part"], row.get("share_of_matrix_products")
        shares = ", ".join(f"{100 * taken / sum(seconds.values()):.0f}" for taken in seconds.values())
        lines.append([name, figure(row["ours"]), f"{shares} %", "" if reached is None else f"{100 * reached:.0f} %",
                      *(f"{figure(n / row['ours'] / 3600)} h" for n in sizes)])
    return ["backend", "tracks/s", "decode, resample, mel, model", "beside a large matrix product",
            *(f"{n:,} tracks" for n in sizes)], lines
