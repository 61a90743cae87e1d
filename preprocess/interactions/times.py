"""Times of a log in any usual writing as UTC microseconds, in SQL."""
from harness.errors import UsageError, WorkError

UNITS = {"seconds": 1e6, "milliseconds": 1e3, "microseconds": 1.0, "nanoseconds": 1e-3}   # microseconds in one
EARLIEST, LATEST = 1990, 2100       # years outside of which a time is named as odd
FORMATS = ("%Y-%m-%d %H:%M:%S", "%Y/%m/%d %H:%M:%S", "%Y/%m/%d", "%d.%m.%Y %H:%M:%S", "%d.%m.%Y", "%Y%m%d",
           "%a %b %d %H:%M:%S %z %Y", "%d %b %Y %H:%M:%S", "%d %b %Y, %H:%M", "%b %d, %Y", "%Y-%m-%d %I:%M:%S %p")
ISO = r"\d{4}-\d{1,2}-\d{1,2}([T ] *\d{1,2}:\d{1,2}(:\d{1,2}(\.\d*)?)?)?"


def unit_of(low, high) -> str:
    """The unit of unix times by their range: what puts the span between 1990 and 2100; UsageError for none."""
    for unit, micro in UNITS.items():
        if 631152000e6 <= abs(high) * micro < 4102444800e6 and low * micro >= 0:
            return unit
    raise UsageError(f"the times run from {low:g} to {high:g}, which is no time since 1970 in seconds, milliseconds, "
                     "microseconds or nanoseconds; name another column with --time, or none with --time none")


def expression(con, relation, column, timezone="UTC"):
    """(SQL of the column as a naive UTC timestamp, what it was taken for); WorkError where a value is no time.

    con: DuckDB connection; relation: SQL with the text column `column`. Times without a zone are of `timezone`.
    """
    import duckdb

    from harness.files import quoted
    try:
        con.execute(f"select timezone({quoted(timezone)}, timestamp '2000-01-01')")
    except duckdb.Error:
        raise UsageError(f"--timezone {timezone} is no time zone; names are like Europe/Vienna or UTC") from None
    cell = f"trim({column})"
    rows, numbers, low, high, marks = con.execute(f"""select count({column}), count(try_cast({cell} as double)),
        min(try_cast({cell} as double)), max(try_cast({cell} as double)),
        bool_or(contains({cell}, '.') or contains(lower({cell}), 'e')) from {relation}""").fetchone()
    if not rows:
        raise WorkError("the column of times is empty; leave it out with --time none")
    if numbers == rows and not (high < 1e8 and low >= 19000101):          # 20190220 is a date
        return _unix(low, high, cell, whole=not marks)
    zoned = rf"regexp_matches({cell}, '([zZ]| ?UTC|[+-]\d\d(:?\d\d)?)$') and {cell} like '%:%'"
    for how, sql in _ways(cell, zoned, timezone):
        if con.execute(f"select count({sql}) from {relation}").fetchone()[0] == rows:
            return sql, how
    bad = con.execute(f"""select {column} from {relation} where {column} is not null and not ({zoned} and
        try_cast({cell} as timestamptz) is not null) and not (regexp_full_match({cell}, '{ISO}') and
        try_cast({cell} as timestamp) is not null) limit 1""").fetchone()
    raise WorkError(f"{(bad or ['?'])[0]!r} is no time of a known writing; times are ISO (2019-02-20 13:45:10), unix "
                    "numbers, or dates; --time none leaves the column out")


def _unix(low, high, cell, whole):
    """whole: no number has a fraction or an exponent, so that no decimals are needed, which take seven times as long"""
    unit = unit_of(low, high)
    if whole and unit in ("seconds", "milliseconds", "microseconds"):
        sql = f"make_timestamp(try_cast({cell} as bigint) * {round(UNITS[unit])})"
    elif unit == "nanoseconds":
        sql = f"make_timestamp((try_cast({cell} as hugeint) // 1000)::bigint)"
    elif unit == "seconds":     # fractions of a second survive
        sql = f"make_timestamp((try_cast({cell} as decimal(28, 6)) * 1000000)::bigint)"
    else:
        sql = f"make_timestamp((try_cast({cell} as decimal(28, 3)) * {round(UNITS[unit])})::bigint)"
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
        moment = f"try_strptime({cell}, {quoted(form)})"
        if "%z" in form:     # with its zone in it, whatever --timezone says
            yield f"{form}, with a zone", f"timezone('UTC', {moment})"
        else:
            yield f"{form}, {timezone}", f"timezone('UTC', timezone({zone}, {moment}::timestamp))"
