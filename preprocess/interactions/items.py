"""items.pqt: what describes an item, from the log itself and from a table beside it."""
from pathlib import Path

from harness import delimited, ids
from harness.errors import UsageError, WorkError
from harness.files import quoted
from preprocess.interactions import formats
from preprocess.interactions.columns import METADATA, plain, role_of

SEVERAL = ("artists", "genres")      # columns of lists in items.pqt
SPLIT = r"\s*[|;]\s*"                # between several values in a cell


def write(con, path, described, table=None):
    """Write items.pqt, a row for each item of the session's table `items`; nothing where nothing describes them.

    described: columns of the session's table `described`; table: a file of items by id, or None.
    """
    columns, joins = {key: f'described."{key}"' for key in described}, ""
    if described:
        joins += " left join described using (itemid)"
    if table:
        given = _open(con, Path(table).expanduser(), path.parent / "spill")
        columns |= {key: f'given."{key}"' for key in given}
        joins += " left join given using (itemid)"
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


def _open(con, path, spill):
    """The table `given` (itemid and a text column for each that is known or new); returns those columns."""
    if not path.is_file():
        raise UsageError(f"--items {path} is no file")
    import duckdb
    log = formats.open_log(con, [path], spill, header=True)
    keys = [c for c in log.columns if role_of(c) == "item"] or log.columns[:1]
    if len(keys) > 1:
        keys = [c for c in keys if plain(c) not in " ".join(METADATA.values()).split()] or keys
    names = {}
    for column in log.columns:
        if column != keys[0]:
            known = next((key for key, words in METADATA.items() if plain(column) in words.split()), plain(column))
            names.setdefault(known or "column", column)
    cells = ", ".join('any_value("{}") as "{}"'.format(c.replace('"', '""'), key) for key, c in names.items())
    stripped = ids.STRIPPED.format('"' + keys[0].replace('"', '""') + '"')
    if log.quoted and len(log.delimiter) == 1:
        delimited.check_quotes(log.files[0], log.delimiter)
    try:
        con.execute(f"""create temp table given as select nfc_normalize({stripped}) as itemid, {cells}
            from {log.sql} group by 1""")
    except (duckdb.InvalidInputException, duckdb.ConversionException) as e:
        raise WorkError(formats.sentence(e, path, "mend the row")) from None
    matched = con.execute("select count(*) from items semi join given using (itemid)").fetchone()[0]
    if not matched:
        raise WorkError(f"{path}: none of its ids (column {keys[0]}) is an item of the log")
    print(f"items: {matched} items of the log are described in {path.name}")
    return list(names)
