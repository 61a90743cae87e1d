"""Ids in a column of floats, as pandas makes of whole numbers beside a missing one: 1.0 is read as 1, NaN as none."""
from harness.errors import WorkError

EXACT = {"FLOAT": 1 << 24, "DOUBLE": 1 << 53}     # from here on a float is the nearest of several whole numbers
NAN, WHOLE = "(?i)[-+]?nan", r"-?\d+(\.0*)?"


def text(log, cell, column):
    """SQL of the column's cell as an id is written, null for NaN; the cell itself where the column is none of floats.

    log: formats.Log; cell: SQL of the column
    """
    if column not in log.floats:
        return cell
    return (f"case when regexp_full_match({cell}, '{NAN}') then null else "
            f"regexp_replace(regexp_replace({cell}, '\\.0*$', ''), '^-0+$', '0') end")


def check(con, log, cell, column, path, skip):
    """WorkError where a column of floats holds a fraction, or, unless `skip`, NaN; nothing for any other column."""
    if column not in log.floats:
        return
    size = f" and abs(try_cast({cell} as double)) < {log.floats[column]}" if log.floats[column] else ""
    nan, bad = con.execute(f"""select count(*) filter (regexp_full_match({cell}, '{NAN}')), any_value({cell}) filter
        (not regexp_full_match({cell}, '{NAN}') and not (regexp_full_match({cell}, '{WHOLE}'){size}))
        from {log.sql}""").fetchone()
    if bad is not None:
        raise WorkError(f"{path}: {column} is a column of floats and holds {bad}, which as an id is no whole number "
                        "that a float keeps apart from the next; write its ids as integers or as text")
    if nan and not skip:
        raise WorkError(f"{path}: {column} holds NaN in {nan} rows, which is no id; mend them, or leave them out with "
                        "--bad-rows skip")
