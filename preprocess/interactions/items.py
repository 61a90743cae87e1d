"""items.pqt: what describes an item, from the log itself and from a table beside it."""
from pathlib import Path

from harness import delimited, ids
from harness.errors import UsageError, WorkError
from harness.files import quoted
from preprocess.interactions import float_ids, formats
from preprocess.interactions.columns import METADATA, compared, plain, role_of

SEVERAL = ("artists", "genres")      # columns of lists in items.pqt
KEY = '"the id"'                     # column of ids in `given`: no name that `plain` writes has a blank
SPLIT = r"\s*[|;]\s*"                # between several values in a cell


def write(con, path, described, table=None, item=""):
    """Write items.pqt, a row for each item of the session's table `items`; nothing where nothing describes them.

    described: columns of the session's table `described`; table: a file of items by id, or None; item: the log's
    column of items. UsageError where it is open which column of the table has the ids, WorkError for a damaged one.
    """
    columns, joins = {key: f'described."{key}"' for key in described}, ""
    if described:
        joins += " left join described using (itemid)"
    if table:
        given = _open(con, Path(table).expanduser(), path.parent / "spill", item)
        columns |= {key: f'given."{key}"' for key in given}
        joins += f" left join given on items.itemid = given.{KEY}"
    if not columns:
        return
    cells = ", ".join(f"{_value(key, sql)} as \"{key}\"" for key, sql in columns.items())
    con.execute(f"""copy (select items.number as track_id, {cells} from items{joins} order by 1)
        to {quoted(path)} (format parquet, compression zstd)""")


def _value(key, sql):
    if key in SEVERAL:
        return (f"case when coalesce(trim({sql}), '') = '' then []::varchar[] "
                f"else list_filter(string_split_regex(trim({sql}), {quoted(SPLIT)}), lambda x: x <> '') end")
    return f"nullif(trim({sql}), '')"


def _id_column(path, columns, item):
    """The column of ids: the only one that may be it, or the one called as in the log; UsageError for several."""
    keys = [c for c in columns if role_of(c) == "item" or compared(c) == compared(item)] or columns[:1]
    if len(keys) > 1:       # names of an item beside its id are no second candidate
        keys = [c for c in keys if plain(c) not in " ".join(METADATA.values()).split()] or keys
    if len(keys) > 1:
        keys = [c for c in keys if compared(c) == compared(item)] or keys
    if len(keys) > 1:
        raise UsageError(f"--items {path} has {len(keys)} columns that may be the item: {', '.join(keys)}; call "
                         f"the one with the log's ids {item!r} as the log does, or leave the others out")
    return keys[0]


def _open(con, path, spill, item):
    """The table `given` (KEY and a text column for each that is known or new); returns those columns."""
    if not path.is_file():
        raise UsageError(f"--items {path} is no file")
    import duckdb
    log = formats.open_log(con, [path], spill, header=True, item=item)
    key, names = _id_column(path, log.columns, item), {}
    for column in log.columns:
        if column != key:
            known = next((key for key, words in METADATA.items() if plain(column) in words.split()),
                         compared(column).replace('"', "'"))
            names.setdefault(known or "column", column)
    cells = "".join(', min(nullif(trim("{}"), \'\')) as "{}"'.format(c.replace('"', '""'), name)
                    for name, c in names.items())       # of an id's rows, whatever their order
    cell = '"' + key.replace('"', '""') + '"'
    if log.quoted and len(log.delimiter) == 1:
        delimited.check_quotes(log.files[0], log.delimiter)
    try:
        log.take_floats(con, key, path)
        stripped = ids.STRIPPED.format(float_ids.text(log, cell, key))
        con.execute(f"""create temp table given as select nfc_normalize({stripped}) as {KEY}{cells}
            from {log.sql} group by 1""")
    except (duckdb.InvalidInputException, duckdb.ConversionException) as e:
        raise WorkError(formats.sentence(e, path, log, formats.MEND)) from None
    matched = con.execute(f"select count(*) from items semi join given on items.itemid = given.{KEY}").fetchone()[0]
    if not matched:
        raise WorkError(f"{path}: none of its ids (column {key}) is an item of the log")
    print(f"items: {matched} items of the log are described in {path.name}")
    return list(names)
