"""Preprocessing WSDM-KKBOX: preprocess/kkbox/ against a row-by-row reader. python -m bench.kkbox [--quick]

Both read the same five generated files (preprocess/kkbox/generate.py; full: the challenge's own size, 7.4 M train
rows, 2.5 M test rows, 2.3 M songs; --quick: a twentieth) and write plays, items, users, points and split of the same
content, which is compared before any figure is given. The row-by-row reader (`rows` below) is a loop over
csv.DictReader with dictionaries, the way the DTNMR source works, but it numbers ids as they come and keeps
numbers instead of text. Like ours it finds columns by their names. Ours also computes checksums of the raw
files, the sparse encoding of the songs, country and year out of the ISRC, and dates; neither reduces the encoding
(--dim 0). Each is a process of its own, measured from start to exit with all cores of the machine; the peak is that
of its resident memory, at the default --memory 2GB, which bounds the SQL alone. Medians of three alternating runs;
one run each at full size, which takes minutes.
"""
import csv
import os
import re
import sys
import tempfile
from array import array
from pathlib import Path

from bench._child import measured
from harness import cli
from harness.errors import WorkError
from harness.files import write_parquet
from harness.readers import read_json

ROOT = Path(__file__).resolve().parents[1]
FOREIGN = re.compile("[\u4e00-\u9fff\u3040-\u30ff\uac00-\ud7a3\u0e00-\u0e7f]")
CODES = re.compile(r"\.0+$")
WAYS = ("msno", "song_id", "source_system_tab", "source_screen_name", "source_type")
LEAST, MOST = 20, 200   # plays of a playlist, the source's bounds


# --------------------------------------------------------------------------- the baseline

def lines(raw, name, *columns):
    """The cells of these columns in every row of a csv file, wherever the header has them."""
    with open(raw / f"{name}.csv", encoding="utf-8", newline="") as f:
        for row in csv.DictReader(f):
            yield [row[c] for c in columns]


def split_names(cell):
    return list(dict.fromkeys(n for n in (part.strip() for part in cell.split("|")) if n)) or None


def latin(names):
    return bool(names) and all(re.search(r"\s", n) and len(n) <= 25 and not FOREIGN.search(n) for n in names)


def code(cell):
    return CODES.sub("", cell.strip()) or None


def read_plays(raw):
    """Columns of train.csv and test.csv in order, ids numbered as they come."""
    users, songs, popularity = {}, {}, []
    columns = {"user": array("i"), "song": array("i"), "tab": [], "screen": [], "type": [], "target": array("b")}
    for user, song, tab, screen, kind, target in lines(raw, "train", *WAYS, "target"):
        number = songs.setdefault(song, len(songs))
        if number == len(popularity):
            popularity.append(0)
        popularity[number] += 1
        add(columns, users.setdefault(user, len(users)), number, tab, screen, kind, int(target))
    n_train = len(columns["user"])
    for user, song, tab, screen, kind in lines(raw, "test", *WAYS):
        add(columns, users.setdefault(user, len(users)), songs.setdefault(song, len(songs)), tab, screen, kind, -1)
    popularity += [0] * (len(songs) - len(popularity))
    return columns, users, songs, popularity, n_train


def add(columns, user, song, tab, screen, kind, target):
    columns["user"].append(user)
    columns["song"].append(song)
    columns["tab"].append(tab or None)
    columns["screen"].append(screen or None)
    columns["type"].append(kind or None)
    columns["target"].append(target)


def read_songs(raw, songs):
    """{number: metadata} of the songs that were played."""
    found = {}
    for song, length, genres, artists, composers, lyricists, language in lines(
            raw, "songs", "song_id", "song_length", "genre_ids", "artist_name", "composer", "lyricist", "language"):
        if song in songs:
            found[songs[song]] = {
                "song_length": int(length) / 1000 if length and int(length) > 0 else None,
                "genres": split_names(genres), "artists": split_names(artists), "composers": split_names(composers),
                "lyricists": split_names(lyricists), "language": code(language), "name": None, "isrc": None}
    extra = {}
    for song, name, isrc in lines(raw, "song_extra_info", "song_id", "name", "isrc"):
        if song in songs:
            extra[songs[song]] = (name.strip() or None, isrc.strip() or None)
    return found, extra


def read_members(raw, users):
    found = {}
    for user, city, age, gender, via in lines(raw, "members", "msno", "city", "bd", "gender", "registered_via"):
        if user in users:
            age = int(age)
            found[users[user]] = {"age": age if 1 <= age <= 100 else None, "gender": gender.lower() or None,
                                  "city": code(city), "registered_via": code(via)}
    return found


def playlists(columns, n_train, good_songs, good_users):
    """{user: rows of its points, in order} and where its test playlist begins."""
    train, test = {}, {}
    for row, (user, song) in enumerate(zip(columns["user"], columns["song"], strict=True)):
        if user in good_users and song in good_songs:
            (train if row < n_train else test).setdefault(user, []).append(row)
    made = {}
    for user, rows in train.items():
        if LEAST < len(rows) < MOST:
            later = test.get(user, [])
            made[user] = (rows, later if LEAST < len(later) < MOST else [])
    return made


def part_of(place, length, later):
    """Part of one row of a playlist."""
    points = length - LEAST
    n_val = 0 if points < 2 else max(1, int(0.1 * points + 1e-9))
    if place < LEAST or length <= place < length + (LEAST if later else 0):
        return "history"
    return "train" if place < length - n_val else "val" if place < length else "test"


def rows(raw, out):
    """The row-by-row reader: everything from the raw files to parquet, one line at a time."""
    import pyarrow as pa
    columns, users, songs, popularity, n_train = read_plays(raw)
    song_of, extra = read_songs(raw, songs)
    members = read_members(raw, users)
    most = max(popularity)
    good_songs = {s for s, m in song_of.items() if popularity[s] / most > 0.001 and m["song_length"] is not None
                  and m["song_length"] < 360 and latin(m["artists"]) and latin(m["composers"])}
    good_users = {u for u, m in members.items() if m["age"] is not None and 16 <= m["age"] <= 59}
    made = playlists(columns, n_train, good_songs, good_users)
    track_id = number(sorted(songs), songs)
    user_id = number(sorted(users), users)
    for name, ids in (("track", songs), ("user", users)):
        with open(out / f"{name}id_sorted.csv", "w", encoding="utf-8", newline="") as f:
            csv.writer(f, lineterminator="\n").writerows(enumerate(sorted(ids)))
    everything = {"user_id": [user_id[u] for u in columns["user"]], "track_id": [track_id[s] for s in columns["song"]],
                  "timestamp": pa.array(range(len(columns["user"]))).cast(pa.timestamp("s")),
                  "source_system_tab": columns["tab"], "source_screen_name": columns["screen"],
                  "source_type": columns["type"],
                  "target": pa.array([None if t < 0 else t for t in columns["target"]], pa.int8())}
    write_parquet(out / "plays.pqt", pa.table(everything))
    order = sorted(range(len(songs)), key=track_id.__getitem__)
    for s in song_of:
        song_of[s]["name"], song_of[s]["isrc"] = extra.get(s, (None, None))
    write_parquet(out / "items.pqt", pa.Table.from_pylist(
        [{"track_id": track_id[s], **song_of.get(s, dict.fromkeys(next(iter(song_of.values())))),
          "plays": popularity[s]} for s in order]))
    order = sorted(range(len(users)), key=user_id.__getitem__)
    write_parquet(out / "users.pqt", pa.Table.from_pylist(
        [{"user_id": user_id[u], **members.get(u, dict.fromkeys(next(iter(members.values()))))} for u in order]))
    write_points(out, columns, made, user_id, track_id)


def number(ordered, appearance):
    """List: place in the sorted list of the id that appeared as number i."""
    rank = [0] * len(ordered)
    for place, name in enumerate(ordered):
        rank[appearance[name]] = place
    return rank


def write_points(out, columns, made, user_id, track_id):
    import pyarrow as pa
    points, split = [], {}
    for user in sorted(made, key=user_id.__getitem__):
        train, later = made[user]
        for place, row in enumerate(train + later):
            part = part_of(place, len(train), later)
            track = track_id[columns["song"][row]]
            points.append({"user_id": user_id[user], "position": place, "track_id": track, "part": part,
                           "row": row})
            into = "train" if part == "history" and place < LEAST else part
            pair = split.setdefault((user_id[user], track), [into, 0])
            pair[1] += pair[0] == into
    write_parquet(out / "points.pqt", pa.Table.from_pylist(points))
    write_parquet(out / "split.pqt", pa.Table.from_pylist(
        [{"user_id": u, "track_id": t, "part": p, "count": n} for (u, t), (p, n) in sorted(split.items())
         if p != "history"]))


# --------------------------------------------------------------------------- the measurement

def child(command):
    """Run a command to its end: seconds on the clock, processor seconds, peak resident bytes."""
    done = measured(command)
    if done.status:
        raise WorkError(f"{' '.join(map(str, command[1:4]))} failed with status {done.status}: {done.said[-500:]}")
    return done.seconds, done.processor, done.peak


def compare(ours, theirs):
    """WorkError unless both wrote the same plays, metadata, points and pairs."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    for name in ("plays", "items", "users", "points", "split"):
        a, b = pq.read_table(ours / f"{name}.pqt"), pq.read_table(theirs / f"{name}.pqt")
        if name == "points":
            a = a.append_column("row", a["timestamp"].cast(pa.int64()))
            b = b.set_column(b.column_names.index("row"), "row", pa.array(b["row"].to_numpy() * 1_000_000))
        for column in b.column_names:
            kind = a[column].type.value_type if pa.types.is_dictionary(a[column].type) else a[column].type
            if not a[column].cast(kind).equals(b[column].cast(kind)):
                raise WorkError(f"{name}.{column} differs between the two readers")


def run(quick):
    scale, repeats = (0.05, 3) if quick else (1.0, 1)
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw"
        child([sys.executable, "-m", "preprocess.kkbox.generate", "--out", raw, "--scale", str(scale)])
        return measure(raw, Path(folder), repeats)


def measure(raw, folder, repeats=1):
    """Rows of both readers on the files in `raw`; `folder` takes what they write."""
    import numpy as np
    ours, theirs, taken = folder / "ours", folder / "theirs", {"ours": [], "rows": []}
    theirs.mkdir(parents=True)
    for _ in range(repeats):
        taken["ours"].append(child([sys.executable, "preprocess/0_get_plays_pqt.py", "kkbox", "--raw", raw,
                                    "--dim", "0", "--overwrite", "--workdir", ours]))
        taken["rows"].append(child([sys.executable, "-m", "bench.kkbox", "--row-by-row", raw, theirs]))
    compare(ours, theirs)
    plays = read_json(ours / "dataset.json")["counts"]["plays"]
    clock, processor, peak = ({who: float(np.median([figures[i] for figures in measured]))
                               for who, measured in taken.items()} for i in range(3))
    size = f"{plays} plays, generated"
    return [{"what": what, "unit": unit, "ours": figure["ours"] / per, "baseline": figure["rows"] / per,
             "ratio": figure["rows"] / figure["ours"], "note": note} for what, unit, figure, per, note in (
        ("KKBOX from raw files to workspace", "s", clock, 1, f"{size}; same content; {os.cpu_count()} cores, shared "
         "with whatever else runs"), ("processor time of it", "s", processor, 1, f"{size}; ours uses every core, the "
         "loop one"), ("peak resident memory of it", "GiB", peak, 1 << 30, size))]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--row-by-row"]:
        rows(*map(Path, sys.argv[2:4]))
    else:
        from bench.__main__ import run_one
        cli.run(lambda argv=None: run_one("kkbox", argv))
