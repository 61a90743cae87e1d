"""Ids in a column of floats, as pandas makes of whole numbers beside a missing one: 1.0 is read as 1, NaN as none.

Texts have no types: there a column is one of floats where each cell is a whole number, NaN or empty, and one of them
has a point or is NaN.
"""
from harness import ids
from harness.errors import WorkError
from preprocess.interactions.columns import METADATA, plain

EXACT = {"FLOAT": 1 << 24, "DOUBLE": 1 << 53}     # from here on a float is the nearest of several whole numbers
NAN, WHOLE = "(?i)[-+]?nan", r"-?\d+(\.0*)?"
POINTED = r"-?\d+\.0+"


def text(log, cell, column):
    """SQL of the column's cell as an id is written, null for NaN; the cell itself where the column is none of floats.

    log: formats.Log; cell: SQL of the column
    """
    return whole(_bare(log, cell)) if column in log.floats else cell


def whole(cell):
    """SQL of a whole float as the whole number, null for NaN."""
    return (f"case when regexp_full_match({cell}, '{NAN}') then null else "
            f"regexp_replace(regexp_replace({cell}, '\\.0*$', ''), '^-0+$', '0') end")


def _bare(log, cell):
    """SQL of the column's cell without blanks around it, which only the cells of texts have."""
    return ids.STRIPPED.format(cell) if log.files else cell


def check(con, log, cell, column, path, skip):
    """WorkError where a column of floats holds a fraction, or, unless `skip`, NaN; nothing for any other column."""
    if column not in log.floats:
        return
    cell = _bare(log, cell)
    size = f" and abs(try_cast({cell} as double)) < {log.floats[column]}" if log.floats[column] else ""
    nan, bad = con.execute(f"""select count(*) filter (regexp_full_match({cell}, '{NAN}')), any_value({cell}) filter
        (not regexp_full_match({cell}, '{NAN}') and not (regexp_full_match({cell}, '{WHOLE}'){size}))
        from {log.sql}""").fetchone()
    if bad is not None:
        raise WorkError(f"{path}: {column} is a column of floats and holds {bad}, which as an id is no whole number "
                        "that a float keeps apart from the next; write its ids as integers or as text")
    refuse_nan(nan, column, path, skip)


def refuse_nan(nan, column, path, skip):
    """WorkError where a number `nan` of cells of the column are NaN, unless they are to be left out."""
    if nan and not skip:
        raise WorkError(f"{path}: {column} holds NaN in {nan} rows, which is no id; mend them, or leave them out with "
                        "--bad-rows skip")


def of_texts(con, relation, cell, column, path) -> tuple:
    """(whether a column of texts is one of floats, how many of its cells are NaN).

    cell: SQL of the ids in the relation, without blanks around them. WorkError where only a part of them is written as
    whole floats; a column of names, such as those of tracks, may have a `2.0` among them.
    """
    odd, pointed = con.execute(f"""select count(*), count(*) filter (contains({cell}, '.')) from {relation}
        where contains({cell}, '.') or suffix(lower({cell}), 'nan')""").fetchone()
    if not odd:        # looking for these alone takes a fraction of the time
        return False, 0
    nan, numbers, some, other = con.execute(f"""select count(*) filter (regexp_full_match({cell}, '{NAN}')),
        count(*) filter (regexp_full_match({cell}, '{WHOLE}')), min({cell}) filter (regexp_full_match({cell},
        '{POINTED}')), min({cell}) filter ({cell} <> '' and not regexp_full_match({cell}, '{NAN}|{WHOLE}'))
        from {relation}""").fetchone()
    if other is None and numbers:
        return bool(nan or pointed), nan
    if some is not None and not named(column):
        raise WorkError(f"{path}: {column} holds {some!r}, a whole number written as a float, beside {other!r}, which "
                        "is no whole number; write its ids as integers or as text")
    return False, 0


def convert_staged(con, name, column, path, skip):
    """Make the ids `name` of the table `staged` whole numbers, and null for NaN, where their column is one of floats.

    column: the log's column of texts; skip: NaN is left out. WorkErrors as of `of_texts` and for NaN.
    """
    floats, nan = of_texts(con, "staged", name, column, path)
    if floats:
        refuse_nan(nan, column, path, skip)
        con.execute(f"update staged set {name} = {whole(name)}")


def named(column):
    """Whether a column is by its name one of names that describe an item, which may be written in any way."""
    return plain(column) in " ".join(METADATA.values()).split()
