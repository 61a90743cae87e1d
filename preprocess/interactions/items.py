"""items.pqt and users.pqt: what describes an item or a user, from the log itself and from tables beside it."""
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
        given = _open(con, Path(table).expanduser(), path.parent / "spill", "item", item, METADATA)
        columns |= {key: f'given."{key}"' for key in given}
        joins += f" left join given on items.itemid = given.{KEY}"
    if not columns:
        return
    cells = ", ".join(f"{_value(key, sql)} as \"{key}\"" for key, sql in columns.items())
    con.execute(f"""copy (select items.number as track_id, {cells} from items{joins} order by 1)
        to {quoted(path)} (format parquet, compression zstd)""")


def write_users(con, path, table, user):
    """Write users.pqt, a row for each user of the session's table `users`, from a file of users by id.

    user: the log's column of users. Columns keep their names in lower case without separators (`age`, `country`); one
    in which every cell is a number is of numbers. Errors as of `write`.
    """
    given = _open(con, Path(table).expanduser(), path.parent / "spill", "user", user, {})
    cells = []
    for key in given:
        whole, numbers = con.execute(f"""select bool_and(regexp_full_match("{key}", '-?(0|[1-9]\\d{{0,14}})')),
            bool_and(coalesce(isfinite(try_cast("{key}" as double)), false) and not regexp_matches("{key}", '^-?0\\d'))
            from given where "{key}" is not null""").fetchone()       # 007 is a name, and so is nan
        kind = "bigint" if whole else "double" if numbers else "varchar"
        cells.append(f', given."{key}"::{kind} as "{key}"')
    rows = f"select users.number as user_id{''.join(cells)} from users left join given on users.userid = given.{KEY}"
    con.execute(f"copy ({rows} order by 1) to {quoted(path)} (format parquet, compression zstd)")


def _value(key, sql):
    if key in SEVERAL:
        return (f"case when coalesce(trim({sql}), '') = '' then []::varchar[] "
                f"else list_filter(string_split_regex(trim({sql}), {quoted(SPLIT)}), lambda x: x <> '') end")
    return f"nullif(trim({sql}), '')"


def _id_column(path, columns, role, item):
    """The column of ids: the only one that may be it, or the one called as in the log; UsageError for several."""
    keys = [c for c in columns if role_of(c) == role or compared(c) == compared(item)] or columns[:1]
    if len(keys) > 1:       # names of an item beside its id are no second candidate
        keys = [c for c in keys if plain(c) not in " ".join(METADATA.values()).split()] or keys
    if len(keys) > 1:
        keys = [c for c in keys if compared(c) == compared(item)] or keys
    if len(keys) > 1:
        raise UsageError(f"--{role}s {path} has {len(keys)} columns that may be the {role}: {', '.join(keys)}; call "
                         f"the one with the log's ids {item!r} as the log does, or leave the others out")
    return keys[0]


def _open(con, path, spill, role, item, usual):
    """The table `given` (KEY and a text column for each that is known or new); returns those columns.

    role: item or user; item: the log's column of these; usual: {column: names in a table that mean it}
    """
    if not path.is_file():
        raise UsageError(f"--{role}s {path} is no file")
    import duckdb
    (spill / role).mkdir(exist_ok=True)
    log = formats.open_log(con, [path], spill / role, header=True, item=item)
    key, names = _id_column(path, log.columns, role, item), {}
    for column in log.columns:
        if column != key:
            known = next((key for key, words in usual.items() if plain(column) in words.split()),
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
        con.execute(f"""create or replace temp table given as select nfc_normalize({stripped}) as {KEY}{cells}
            from {log.sql} group by 1""")
    except (duckdb.InvalidInputException, duckdb.ConversionException) as e:
        raise WorkError(formats.sentence(e, path, log, formats.MEND)) from None
    of = f"{role}s semi join given on {role}s.{role}id = given.{KEY}"
    matched = con.execute(f"select count(*) from {of}").fetchone()[0]
    if not matched:
        raise WorkError(f"{path}: none of its ids (column {key}) is one of the log's {role}s")
    print(f"{role}s: {matched} {role}s of the log are described in {path.name}")
    return list(names)
