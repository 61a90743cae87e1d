"""Anybody's interactions: csv, tsv, json lines, parquet, packed or not, become a workspace.

    python preprocess/0_get_plays_pqt.py interactions --log plays.csv --workdir W
    python preprocess/0_get_plays_pqt.py interactions --log ratings.dat --recipe movielens --min-rating 4 --workdir W

Each row is one user and one item, perhaps with a time, a count of plays or a rating; parquet may also hold one row per
user with lists. Columns are recognised by the usual names of the field, or named by --user --item --time --count
--rating. What each column was taken for is printed, with counts, the span of time, duplicates and the next command.
With commas or semicolons, a cell that begins with a double quote ends with one. With tabs, ::, | or blanks that holds
where it does in each such cell of the log; where not, a double quote is an ordinary character, as in "Heroes" (live).

What is written
  trackid_sorted.csv   item ids as text in Unicode NFC, sorted (or the order of --tracks)
  userid_sorted.csv    user ids likewise, where not every one is a canonical whole number (007 is none)
  plays.pqt            user_id, track_id, timestamp (naive UTC, microseconds; null without times)[, count]
  items.pqt            title, artists, ... where the log or --items has them
  users.pqt            age, country, ... where --users has them
  dataset.json         name, source and licence as given, checksums, counts, `time`: real, ordinal or none

Memory stays within --memory whatever the size of the log; what does not fit goes to disk in the workspace.
"""
import math
import os
from collections import Counter
from pathlib import Path

from harness import cli, ids
from harness.errors import UsageError, WorkError
from harness.files import parquet_rows, quoted
from harness.inputs import check_unchanged, hashed
from harness.machine import versions
from preprocess import stage
from preprocess.interactions import float_ids, formats, summary
from preprocess.interactions.columns import RECIPES, ROLES, assign, describing
from preprocess.typed import FIRST_YEAR, LAST_YEAR, within

HELP = "your own log: csv, tsv, json or parquet of users and items, with times, counts or ratings where it has them"
LIBRARIES = 128 << 20     # resident bytes of Python and pyarrow
UNCOUNTED = 1 / 4         # of the memory: what DuckDB holds beyond its limit while it parses text and spills
ORDINAL = "ordinal"
KEYS = ("user", "item")


def add_arguments(parser):
    add = parser.add_argument
    add("--log", required=True, nargs="+", metavar="FILE", help="the log: a file, several of one form, or a folder")
    add("--recipe", choices=sorted(RECIPES), help="format of a published data set: "
        + "; ".join(f"{name}: {RECIPES[name].say}" for name in sorted(RECIPES)))
    for role in ROLES:
        add(f"--{role}", metavar="COLUMN", help=f"column of the {role} (default: recognised by its name)"
            + ("" if role in ("user", "item") else "; none leaves it out"))
    add("--header", choices=("yes", "no"),
        help="whether the first line of a text names the columns (default: detected)")
    add("--timezone", default="UTC", metavar="NAME", help="zone of times that name none, such as Europe/Vienna "
        "(default UTC)")
    add("--in-order", action="store_true", help="the rows are in the order of listening: the row number is the time "
        "(dataset.json: time ordinal)")
    add("--min-rating", type=cli.number(-math.inf, above=True), metavar="FLOAT",
        help="keep rows whose rating is at least this (default: all rows)")
    add("--bad-rows", choices=("fail", "skip"), default="fail",
        help="rows that do not parse, or whose time is none or not of the years "
             f"{FIRST_YEAR} to {LAST_YEAR}: fail names the first and stops, skip counts them (default fail)")
    add("--multiline", action="store_true", help="quoted cells of a text may hold line ends (default: refused, as a "
        "stray quote would join rows)")
    add("--tracks", metavar="FILE", help="list of item ids to keep, in this order (default: the items of the log)")
    add("--items", metavar="FILE", help="csv, tsv or parquet of items with title, artist, genres, ... for items.pqt")
    add("--users", metavar="FILE", help="csv, tsv or parquet of users with age, country, ... for users.pqt")
    add("--name", default="own data", metavar="TEXT", help="name of the data set (default 'own data')")
    add("--source", metavar="TEXT", help="origin of the data (default: the name of the file)")
    add("--licence", default="not stated", metavar="TEXT", help="licence of the data (default 'not stated')")


def get_plays(args, workdir):
    """Write the workspace described above; skip it when nothing changed."""
    paths = formats.files_of(args.log)
    beside = {role: Path(path).expanduser() for role in ("tracks", "items", "users") if (path := getattr(args, role))}
    if absent := next((role for role, path in beside.items() if not path.is_file()), None):
        raise UsageError(f"--{absent} {beside[absent]} is no file")
    log, beside = [hashed(p) for p in paths], {role: hashed(path) for role, path in beside.items()}
    inputs = [*log, *beside.values()]
    flags = {k: getattr(args, k) for k in (*ROLES, "recipe", "header", "timezone", "in_order", "min_rating",
                                           "bad_rows", "multiline", "name", "source", "licence")}
    request = {"dataset": args.name, **{k: v for k, v in flags.items() if v is not None},
               "log": [[i.path.name, i.digest] for i in log], **{role: i.digest for role, i in beside.items()}}
    with stage.atomic_outputs(workdir / "dataset.json", args.name, args.overwrite) as new:
        if new.same(request, args.overwrite):
            return
        spill = new.path("spill")
        spill.mkdir()
        about = Reader(args, paths, spill, new.path).write()
        check_unchanged(inputs)
        new.check_split(args.overwrite)
        own = {"userid_sorted.csv", "items.pqt", *(new.old or {}).get("bytes", {})}      # not a users.pqt made by hand
        remove = [n for n in ("userid_sorted.csv", "items.pqt", "users.pqt") if n in own and not new.path(n).exists()]
        new.publish({"name": args.name, "source": args.source or ", ".join(p.name for p in paths),
                     "licence": args.licence, "checksums": dict(zip(labels(i.path for i in inputs),
                                                                         (i.digest for i in inputs), strict=True)),
                     **about, "request": request, "versions": versions()}, remove=remove)
    summary.show(about, workdir)


def labels(paths) -> list:
    """A name for each path: its base name, or the shortest end of the path that no other of the paths has."""
    paths = [Path(os.path.abspath(path)) for path in paths]
    left, names, length = {*paths}, {}, 1
    while left:
        ends = {path: path.parts[-length:] for path in left}
        seen = Counter(ends.values())
        names |= {path: str(Path(*end)) for path, end in ends.items() if seen[end] == 1}
        left, length = left - {*names}, length + 1
    return [names[path] for path in paths]


def parsing_memory(memory):
    """As stage.engine_memory, for logs of text: beside DuckDB's limit stays more, as it parses outside of it."""
    return max(int(memory * (1 - UNCOUNTED)) - LIBRARIES, 128 << 20)


class Reader:
    """One log on its way into a workspace: a DuckDB session with the table `staged` of text ids and parsed values."""

    def __init__(self, args, paths, spill, path):
        import duckdb
        self.args, self.paths, self.path, self.duckdb = args, paths, path, duckdb
        self.con = stage.session(parsing_memory(args.memory), spill)
        self.con.execute("set TimeZone='UTC'")
        recipe = RECIPES.get(args.recipe)
        header = None if args.header is None else args.header == "yes"
        self.log = formats.open_log(self.con, paths, spill, recipe, header, args.bad_rows == "skip", args.item)
        asked = {role: getattr(args, role) for role in ROLES if getattr(args, role)}
        self.roles = assign(self.log.columns, asked, recipe)
        formats.check_cells(self.log, self.roles, paths[0])
        if args.min_rating is not None and "rating" not in self.roles:
            raise UsageError("--min-rating needs a rating column; name it with --rating")
        if args.timezone != "UTC" and ("time" not in self.roles or args.in_order):
            raise UsageError("--timezone needs a column of times that is read; name it with --time, or leave it out")
        self.describing = describing(self.log.columns, self.roles, recipe)
        self.taken = {}      # role: what its column was taken for
        self.skip, self.bad_times = args.bad_rows == "skip", 0

    def write(self):
        """Write every file; returns what dataset.json says beside the request."""
        try:
            unused = self.unused()
            self.stage_rows()
            counts = self.check_rows()
            self.number_users()
            self.number_items()
            counts |= self.write_plays()
            self.write_items()
        except self.duckdb.OutOfMemoryException as e:
            raise WorkError(f"out of memory or of disk to spill to ({str(e).splitlines()[0]}); give more with "
                            "--memory, or free disk in the workspace") from None
        except (self.duckdb.InvalidInputException, self.duckdb.ConversionException, self.duckdb.IOException) as e:
            raise WorkError(formats.sentence(e, self.paths[0], self.log)) from None
        finally:
            self.con.close()
        time = ORDINAL if self.args.in_order else "real" if "time" in self.roles else "none"
        return {"time": time, "form": self.log.form, "columns": self.taken, "counts": counts,
                "track_ids": "text of the log, Unicode NFC", "user_ids": self.user_ids, "unused": unused}

    def unused(self):
        """{column that nothing is made of: what it may be, '' where nothing says so}"""
        taken = {*" + ".join(self.roles.values()).split(" + "), *self.describing.values()}
        return {column: formats.hint(self.con, self.log, column) if "time" not in self.roles else ""
                for column in self.log.columns if column not in taken}

    # rows -----------------------------------------------------------------
    def stage_rows(self):
        """The table `staged`: row number, user, item, what describes the item, and the other roles as text."""
        for column in " + ".join(self.roles[role] for role in KEYS if role in self.roles).split(" + "):
            if column not in self.roles.values() and not float_ids.named(column):       # a part of an id
                self.log.take_floats(self.con, column, self.paths[0])
            float_ids.check(self.con, self.log, self.cell(column), column, self.paths[0], self.skip)
        cells = [f"{self.key('user')} as userid", f"{self.key('item')} as itemid"]
        cells += [f'trim({self.cell(self.roles[role])}) as "{role}"' for role in ("time", "count", "rating")
                  if role in self.roles]
        cells += [f'{self.cell(column)} as "about {key}"' for key, column in self.describing.items()]
        cells += [f'nullif({self.id_cell(self.roles[role])}, {self.key(role)}) as "written {role}"' for role in KEYS
                  if self.roles.get(role) in self.log.columns]
        number = "row_number() over () as place, " if self.args.in_order else ""
        if self.log.quoted and not self.args.multiline:     # a stray quote swallows rows, in whatever column it stands
            cells += [" or ".join(f"coalesce(contains({self.cell(c)}, chr(10)), false)" for c in self.log.columns)
                      + " as spans"]
        self.con.execute(f"create temp table staged as select {number}{', '.join(cells)} from {self.log.sql}")
        for role in KEYS:
            if (column := self.roles.get(role)) in self.log.columns and column not in self.log.floats:
                float_ids.convert_staged(self.con, f"{role}id", column, self.paths[0], self.skip)
        for role in ROLES:
            if role in self.roles:
                self.taken[role] = self.roles[role]

    def cell(self, column):
        return '"' + column.replace('"', '""') + '"'

    def id_cell(self, column):
        return float_ids.text(self.log, self.cell(column), column)

    def key(self, role):
        """SQL of an id as `ids.normal` writes it: its column, or several joined; one export is of one user.

        ASCII, whose bytes are as many as its characters, is NFC as it is; not looking at it saves a second per 10
        million rows.
        """
        if role not in self.roles:
            return "'listener'"
        columns = [ids.STRIPPED.format(self.id_cell(c)) for c in self.roles[role].split(" + ")]
        joined = columns[0] if len(columns) == 1 else \
            "concat_ws(' - ', " + ", ".join(f"nullif({c}, '')" for c in columns) + ")"
        return f"case when strlen({joined}) = length({joined}) then {joined} else nfc_normalize({joined}) end"

    def one(self, sql):
        return self.con.execute(sql).fetchone()[0]

    def check_rows(self):
        """Ids, counts, ratings and times checked and parsed into the table `rows`; the counts so far."""
        from preprocess.interactions import formats, times
        rows = self.one("select count(*) from staged")
        bad, first = formats.rejected(self.con) if self.log.rejects else (0, "")
        if bad:
            print(f"left out: {bad} rows that do not parse, the first is {first}")
        if not rows:
            raise WorkError(f"{self.paths[0]} has no row below its header")
        if self.log.quoted and not self.args.multiline:
            self.check_spans()
        self.name_forms()
        if self.one(f"""select count(*) from staged where itemid = {quoted(self.roles['item'])}
                and userid = {quoted(self.roles.get('user', 'listener'))}"""):
            raise WorkError(f"{self.paths[0]}: a row repeats the header ({self.roles['item']}); remove it")
        empty = self.one("select count(*) from staged where coalesce(userid, '') = '' or coalesce(itemid, '') = ''")
        if empty and (self.args.bad_rows == "fail" and self.args.recipe != "spotify-history"):
            raise WorkError(f"{self.paths[0]}: {empty} of {rows} rows have no user or no item; mend them, or leave "
                            "them out with --bad-rows skip")
        if empty:
            print(f"left out: {empty} rows without a user or an item")
        kept = ["coalesce(userid, '') <> ''", "coalesce(itemid, '') <> ''"]
        time, count = self.time(), self.count()
        if self.bad_times:
            kept.append(within(time))
        if "rating" in self.roles:
            kept += self.rating()
        about = "".join(f', "about {key}"' for key in self.describing)
        self.con.execute(f"""create temp table rows as select userid, itemid, {time} as timestamp,
            {count} as count{about} from staged where {' and '.join(kept)}""")
        left = self.one("select count(*) from rows")
        if not left:
            raise WorkError(f"none of the {rows} rows is left" + (
                f"; the ratings reach {self.one('select max(try_cast(rating as double)) from staged'):g}"
                if self.args.min_rating is not None else ""))
        self.con.execute("drop table staged")
        if "time" in self.roles and not self.args.in_order:
            times.name_odd(self.con)
        return {"log_rows": rows + bad, "bad_rows": bad, "empty_ids": empty,
                **({"bad_times": self.bad_times} if self.bad_times else {})}

    def name_forms(self):
        """Name ids that are written in another form than the one in which they are compared."""
        for role in KEYS:
            if self.roles.get(role) in self.log.columns:
                forms = ids.Forms()
                forms.other.update(self.con.execute(f"""select distinct "written {role}", {role}id from staged
                    where "written {role}" is not null limit {ids.KEPT}""").fetchall())
                if said := forms.sentence(f"{role}s"):
                    print(said)

    def check_spans(self):
        """WorkError where a quoted cell runs over several lines: mostly a stray quote and lost rows."""
        found = self.con.execute("select userid, itemid, count(*) over () from staged where spans limit 1").fetchone()
        if found:
            raise WorkError(f"{self.paths[0]}: a quoted cell of the row of user {found[0]!r} and item {found[1]!r} "
                            f"runs over several lines ({found[2]} such rows), as behind a stray quote; mend it, or "
                            "say --multiline if cells do hold line ends")

    def time(self):
        """SQL of the timestamp."""
        from preprocess.interactions import times
        if self.args.in_order:
            return "make_timestamp(place * 1000000)"
        if "time" not in self.roles:
            return "null::timestamp"
        missing = self.one("select count(*) from staged where coalesce(\"time\", '') = ''")
        if missing and not self.skip:
            raise WorkError(f"{self.paths[0]}: {missing} rows have no time; mend them, leave them out with "
                            "--bad-rows skip, or leave the column out with --time none")
        sql, how = times.expression(self.con, "staged", '"time"', self.args.timezone, self.skip)
        self.bad_times = times.check(self.con, sql, self.paths[0], how, self.skip)
        self.taken["time"] = f"{self.roles['time']} ({how})"
        return sql

    def count(self):
        """SQL of the plays of a row; WorkError where one is no whole number of at least 1."""
        if "count" not in self.roles:
            return "1"
        value = 'try_cast(trim("count") as double)'
        bad = self.con.execute(f"""select "count" from staged where not coalesce(isfinite({value}) and {value} >= 1
            and {value} = floor({value}) and {value} < 9e15, false) limit 1""").fetchone()
        if bad:
            raise WorkError(f"{self.roles['count']} holds {bad[0]!r}, which is no whole number of plays of at least 1 "
                            "and below 9e15; if it is a weight or a rating, name it with --rating, or leave it out "
                            "with --count none")
        return f"{value}::bigint"

    def rating(self):
        """SQL conditions on the rating; says where nothing is done with it."""
        value = 'try_cast(trim(rating) as double)'
        bad = self.con.execute(f"""select rating from staged where not coalesce(isfinite({value}), false)
            limit 1""").fetchone()
        if bad:
            raise WorkError(f"{self.roles['rating']} holds {bad[0]!r}, which is no rating; leave the column out with "
                            "--rating none")
        least = self.args.min_rating
        self.taken["rating"] += " (ignored)" if least is None else f" (at least {least:g})"
        if least is None:
            print(f"every row counts as a play whatever its {self.roles['rating']}; --min-rating keeps the high ones")
            return []
        return [f"{value} >= {least!r}"]

    # ids ------------------------------------------------------------------
    def number_users(self):
        """The table `users` (id, number): the ids themselves where all are canonical whole numbers."""
        whole = self.one(f"select bool_and({ids.WHOLE.format('userid')}) from (select distinct userid from rows)")
        number = "userid::bigint" if whole else "row_number() over (order by userid) - 1"
        self.con.execute(f"create temp table users as select userid, {number} as number from "
                         "(select distinct userid from rows)")
        self.user_ids = "whole numbers of the log" if whole else "text of the log, Unicode NFC"
        if not whole:
            self.check_lines("user", "users")
            self.write_ids("userid", "select number, userid from users order by number")

    def number_items(self):
        """The table `items` (id, number) in the order of --tracks, or sorted as text."""
        if self.args.tracks:
            import pyarrow as pa

            from harness import text_blocks
            tracks = text_blocks.read_track_list(Path(self.args.tracks).expanduser())
            listed = pa.table({"number": range(len(tracks)), "itemid": tracks})
            self.con.register("listed", listed)
            self.con.execute("create temp table items as select itemid, number::bigint as number from listed")
        else:
            self.con.execute("""create temp table items as select itemid, row_number() over (order by itemid) - 1 as
                number from (select distinct itemid from rows)""")
            self.check_lines("item", "items")
        self.write_ids("trackid", "select number, itemid from items order by number")

    def check_lines(self, role, table):
        """WorkError for an id with a line end inside, which no list of ids can hold."""
        found = self.con.execute(f"""select {role}id from {table} where contains({role}id, chr(10))
            or contains({role}id, chr(13)) order by 1 limit 1""").fetchone()
        if found:
            raise WorkError(f"{self.paths[0]}: the {role} {found[0]!r} has a line end inside, which no list of ids can "
                            "hold; replace it in the log")

    def write_ids(self, name, sql):
        import csv
        with open(self.path(f"{name}_sorted.csv"), "w", encoding="utf-8", newline="") as f:
            f.write(f"idx,{name}\n")
            writer, result = csv.writer(f, lineterminator="\n"), self.con.execute(sql)
            while block := result.fetchmany(100_000):
                writer.writerows(block)

    # files ----------------------------------------------------------------
    def write_plays(self):
        """plays.pqt, sorted by user, time, item and count, so that equal logs give equal bytes; the counts of it."""
        count = ", count" if "count" in self.roles else ""
        self.con.execute(f"""copy (select users.number as user_id, items.number as track_id, timestamp{count}
            from rows join users using (userid) join items using (itemid) order by 1, 3, 2{count})
            to {quoted(self.path("plays.pqt"))} (format parquet, compression zstd, row_group_size 122880)""")
        names = ("rows", "plays", "users", "tracks_played", "pairs", "first", "last")
        self.con.execute(f"create temp view plays as from {parquet_rows(self.path('plays.pqt'))}")
        plays = "coalesce(sum(count), 0)" if count else "count(*)"
        values = self.con.execute(f"""select count(*), {plays}, count(distinct user_id), count(distinct track_id),
            (select count(*) from (select distinct user_id, track_id from plays)), min(timestamp)::varchar,
            max(timestamp)::varchar from plays""").fetchone()
        counts = dict(zip(names, values, strict=True)) | {"tracks": self.one("select count(*) from items")}
        if not counts["rows"]:
            some = self.one("select itemid from rows limit 1")
            raise WorkError(f"no row is of a listed item; the log has ids like {some}, the list "
                            f"{self.one('select itemid from items limit 1')}")
        if left := self.one("select count(*) from rows") - counts["rows"]:
            print(f"left out: {left} rows of items that --tracks lacks")
        return counts

    def write_items(self):
        """items.pqt from the names beside the ids, and from --items."""
        from preprocess.interactions import items
        commonest = [f"""left join (select itemid, arg_min(value, (-n, value)) as "{key}" from (
            select itemid, "about {key}" as value, count(*) as n from rows where value is not null group by 1, 2)
            group by 1) using (itemid)""" for key in self.describing]      # of equally common ones the least
        if commonest:
            self.con.execute("create temp table described as from (select distinct itemid from rows) "
                             + " ".join(commonest))
        items.write(self.con, self.path("items.pqt"), list(self.describing), self.args.items, self.roles["item"])
        if self.args.users:
            items.write_users(self.con, self.path("users.pqt"), self.args.users, self.roles.get("user", "user"))
