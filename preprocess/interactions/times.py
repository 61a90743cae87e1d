"""Times of a log in any usual writing as UTC microseconds, in SQL."""
from harness.errors import UsageError, WorkError
from preprocess.typed import FIRST_YEAR, LAST_YEAR, within

UNITS = {"seconds": 1e6, "milliseconds": 1e3, "microseconds": 1.0, "nanoseconds": 1e-3}   # microseconds in one
EARLIEST, LATEST = 1990, 2100       # years outside of which a time is named as odd
BEGIN, END, LAST = 631152000e6, 4102444800e6, 7289654400e6      # microseconds of these years, and of the end of 2200
DATES = 19000101, 22001232          # 20190220 is a date, as long as most numbers are
FORMATS = ("%Y-%m-%d %H:%M:%S", "%Y/%m/%d %H:%M:%S", "%Y/%m/%d", "%d.%m.%Y %H:%M:%S", "%d.%m.%Y", "%Y%m%d",
           "%a %b %d %H:%M:%S %z %Y", "%d %b %Y %H:%M:%S", "%d %b %Y, %H:%M", "%b %d, %Y", "%Y-%m-%d %I:%M:%S %p")
YEAR = r"\d{4}"      # what each of FORMATS has; strptime also reads epoch and infinity, as 1900
OFFSET = r"[+-](0\d|1[0-4])(:?[0-5]\d)?"       # zones are at most 14 hours away
ISO = r"\d{4}-\d{1,2}-\d{1,2}([T ] *\d{1,2}:\d{1,2}(:\d{1,2}(\.\d*)?)?)?"


def unit_of(low, high) -> str:
    """The unit of unix times by their range: what puts the span between 1990 and 2100; UsageError for none."""
    for unit, micro in UNITS.items():
        if BEGIN <= abs(high) * micro < END and low * micro >= 0:
            return unit
    raise UsageError(f"the times run from {low:g} to {high:g}, which is no time since 1970 in seconds, milliseconds, "
                     "microseconds or nanoseconds; name another column with --time, or none with --time none")


def expression(con, relation, column, timezone="UTC", skip=False):
    """(SQL of the column as a naive UTC timestamp, what it was taken for); WorkError where a value is no time.

    con: DuckDB connection; relation: SQL with the text column `column`. Times without a zone are of `timezone`.
    skip: take the writing that reads most values, more than half of them at least; of the others the SQL is null.
    """
    import duckdb

    from harness.files import quoted
    try:
        con.execute(f"select timezone({quoted(timezone)}, timestamp '2000-01-01')")
    except duckdb.Error:
        raise UsageError(f"--timezone {timezone} is no time zone; names are like Europe/Vienna or UTC") from None
    cell = f"trim({column})"
    number = f"(case when isfinite(try_cast({cell} as double)) then try_cast({cell} as double) end)"
    rows, numbers, low, high, marks, *found = con.execute(f"""select count({column}), count({number}), min({number}),
        max({number}), bool_or({number} is not null and (contains({cell}, '.') or contains(lower({cell}), 'e'))),
        {", ".join(f"count(*) filter ({_between(number, *ends)})" for ends in _ranges().values())}
        from {relation}""").fetchone()
    if not rows:
        raise WorkError("the column of times is empty; leave it out with --time none")
    enough = rows // 2 + 1 if skip else rows
    if numbers >= enough and not (high < 1e8 and low >= DATES[0]):
        counts = dict(zip(_ranges(), found, strict=True))
        unit = max(counts, key=counts.__getitem__) if any(found) else unit_of(low, high)
        if skip and 2 * counts[unit] <= sum(found):
            some = ", ".join(f"{n} in {name}" for name, n in counts.items() if n)
            raise WorkError(f"the times are of several units ({some}), and none of them is that of most; mend them, or "
                            "leave the column out with --time none")
        if unit != "dates":
            return _unix(unit, cell, number, not marks, mixed=counts[unit] < numbers)
        return next((sql, how) for how, sql in _ways(cell, "false", timezone) if how.startswith("%Y%m%d,"))
    zoned = rf"regexp_matches({cell}, '([zZ]| ?UTC|{OFFSET})$') and {cell} like '%:%'"
    most, found = enough - 1, None
    for how, sql in _ways(cell, zoned, timezone):
        read = con.execute(f"select count({sql}) from {relation}").fetchone()[0]
        if read > most:
            most, found = read, (sql, how)
        if most == rows:
            break
    if found:
        return found
    bad = con.execute(f"""select {column} from {relation} where {column} is not null and not ({zoned} and
        try_cast({cell} as timestamptz) is not null) and not (regexp_full_match({cell}, '{ISO}') and
        try_cast({cell} as timestamp) is not null) limit 1""").fetchone()
    raise WorkError(f"{(bad or ['?'])[0]!r} is no time of a known writing; times are ISO (2019-02-20 13:45:10), unix "
                    "numbers, or dates; --bad-rows skip leaves out such rows where they are few, --time none the "
                    "column")


def check(con, sql, path, how, skip=False):
    """Number of rows of the table `staged` whose "time" is no plausible one; WorkError for the first unless `skip`.

    sql, how: of `expression`; sql is null or outside of FIRST_YEAR to LAST_YEAR for such a row. Prints the number left
    out.
    """
    count, first = con.execute(f"""select count(*), any_value("time") from staged
        where not coalesce({within(sql)}, false)""").fetchone()
    if count and not skip:
        raise WorkError(f"{path}: {first!r} is no time between the years {FIRST_YEAR} and {LAST_YEAR} ({count} such "
                        f"rows; the others are {how}); mend them, or leave them out with --bad-rows skip")
    if count:
        print(f"left out: {count} rows without a time between the years {FIRST_YEAR} and {LAST_YEAR}"
              + (f", such as {first!r}" if first else ""))
    return count


def name_odd(con):
    """Print how many times of the table `rows` are in the future or long ago."""
    low, high, odd = con.execute(f"""select min(timestamp), max(timestamp), count(*) filter
        (timestamp > now()::timestamp or year(timestamp) < {EARLIEST}) from rows""").fetchone()
    if odd:
        print(f"warning: {odd} times are in the future or before {EARLIEST}; they run from {low} to {high}")


def _ranges():
    """{unit: (least number, number above the largest)} of plausible times; no two of them overlap."""
    return {**{unit: (BEGIN / micro, END / micro) for unit, micro in UNITS.items()}, "dates": DATES}


def _between(number, low, high):
    """SQL of whether a number is at least `low` and below `high`."""
    return f"({number} >= {low!r} and {number} < {high!r})"


def _unix(unit, cell, number, whole, mixed):
    """SQL of unix times of a unit, and what they are called.

    number: SQL of the cell as a number; whole: no number has a fraction or an exponent, so that no decimals are needed,
    which take seven times as long; mixed: some are of another unit, or of none, and the SQL is null for those that are
    of another, negative, or beyond any date
    """
    if whole and unit in ("seconds", "milliseconds", "microseconds"):
        sql = f"make_timestamp(try_cast({cell} as bigint) * {round(UNITS[unit])})"
    elif unit == "nanoseconds":
        sql = f"make_timestamp((try_cast({cell} as hugeint) // 1000)::bigint)"
    elif unit == "seconds":     # fractions of a second survive
        sql = f"make_timestamp((try_cast({cell} as decimal(28, 6)) * 1000000)::bigint)"
    else:
        sql = f"make_timestamp((try_cast({cell} as decimal(28, 3)) * {round(UNITS[unit])})::bigint)"
    if mixed:
        others = " or ".join(_between(number, *ends) for other, ends in _ranges().items() if other != unit)
        sql = f"case when {_between(number, 0, LAST / UNITS[unit])} and not ({others}) then {sql} end"
    return sql, f"unix {unit}, UTC"


def _ways(cell, zoned, timezone):
    from harness.files import quoted
    zone = quoted(timezone)
    plain = rf"regexp_full_match({cell}, '{ISO}')"   # a cast alone reads 09:00 PM, or 09:00 EST, as 09:00
    local = f"case when {plain} then timezone('UTC', timezone({zone}, try_cast({cell} as timestamp))) end"
    yield f"ISO, without a zone: {timezone}", f"case when not ({zoned}) then {local} end"
    yield "ISO, with a zone", f"case when {zoned} then timezone('UTC', try_cast({cell} as timestamptz)) end"
    yield (f"ISO, with and without a zone ({timezone})",
           f"case when {zoned} then timezone('UTC', try_cast({cell} as timestamptz)) else {local} end")
    for form in FORMATS:
        moment = f"case when regexp_matches({cell}, '{YEAR}') then try_strptime({cell}, {quoted(form)}) end"
        if "%z" in form:     # with its zone in it, whatever --timezone says
            moment = f"case when regexp_matches({cell}, ' {OFFSET} ') then {moment} end"
            yield f"{form}, with a zone", f"timezone('UTC', {moment})"
        else:
            yield f"{form}, {timezone}", f"timezone('UTC', timezone({zone}, ({moment})::timestamp))"
