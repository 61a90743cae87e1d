"""Everybody's logs come in: each format and recipe, what the columns are taken for, and every fault in one sentence."""

import bz2
import gzip
import json
import lzma
import unicodedata

import numpy as np
import pandas as pd
import pytest

from harness.readers import read_json
from preprocess.interactions import columns
from tests.worlds.logs import SCRIPT, bring_log, ids, plays, rows  # noqa: F401 - the fixture `bring` among them

TIMES = ["2019-02-20 13:45:10", "2019-02-20 13:45:10.040", "2019-02-21 00:00:00"]
CSV = "user_id,item_id,timestamp\n7,b,2019-02-20 13:45:10\n7,a,2019-02-20 13:45:10.040\n9,b,2019-02-21\n"
EXPECTED = [
    ("7", "b", "2019-02-20 13:45:10"),
    ("7", "a", "2019-02-20 13:45:10.040000"),
    ("9", "b", "2019-02-21 00:00:00"),
]


# --------------------------------------------------------------------------- formats


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|", "::"])
def test_a_text_with_a_header(bring, delimiter):
    status, out, err, w = bring(CSV.replace(",", delimiter))
    assert (status, err) == (0, "") and rows(w) == EXPECTED
    assert "user   user_id" in out and "time   timestamp (ISO, without a zone: UTC)" in out
    assert (
        "3 plays, 3 distinct pairs of 2 users and 2 items, 2019-02-20 13:45:10 to 2019-02-21 00:00:00" in out
    )
    assert f"1_train_test_split.py --protocol recsys24 --test-share-time .1 --workdir {w}" in out
    about = read_json(w / "dataset.json")
    assert (about["name"], about["licence"], about["source"], about["time"]) == (
        "own data",
        "not stated",
        "log.csv",
        "real",
    )


@pytest.mark.parametrize(
    "pack, name",
    [
        (gzip.compress, "log.csv.gz"),
        (bz2.compress, "log.csv.bz2"),
        (lzma.compress, "log.xz"),
        (None, "log.csv.zst"),
    ],
)
def test_packed_texts(bring, pack, name):
    import pyarrow as pa

    data = pack(CSV.encode()) if pack else pa.Codec("zstd").compress(CSV.encode(), asbytes=True)
    status, _, err, w = bring(data, name=name)
    assert (status, err) == (0, "") and rows(w) == EXPECTED


def test_blanks_between_words_and_the_order_of_the_file(bring):
    status, out, _, w = bring(
        "a  x\na y\nb\t x\n", "--header", "no", "--user", "column1", "--item", "column2", "--in-order"
    )
    assert status == 0 and [r[:2] for r in rows(w)] == [("a", "x"), ("a", "y"), ("b", "x")]
    assert read_json(w / "dataset.json")["time"] == "ordinal" and "--protocol leave-one-out" in out
    assert plays(w).timestamp.astype("int64").tolist() == sorted(plays(w).timestamp.astype("int64"))


def test_parquet_flat_with_categories_unsigned_ids_and_zones(bring, tmp_path):
    pd.DataFrame(
        {
            "user": np.array([2**63 + 5, 3], np.uint64),
            "song": pd.Categorical(["b", "a"]),
            "played_at": pd.to_datetime(["2020-01-01", "2020-01-02"]).tz_localize("Europe/Berlin"),
        }
    ).to_parquet(tmp_path / "log.parquet")
    status, out, _, w = bring(None, name="log.parquet")
    assert status == 0 and "ISO, with a zone" in out
    assert rows(w) == [("3", "a", "2020-01-01 23:00:00"), ("9223372036854775813", "b", "2019-12-31 23:00:00")]


def test_parquet_with_a_row_per_user(bring, tmp_path):
    pd.DataFrame(
        {"uid": [1, 2], "item_id": [[5, 60], [7]], "timestamp": [[1500000000, 1500000001], [1500000002]]}
    ).to_parquet(tmp_path / "log.parquet")
    status, _, _, w = bring(None, name="log.parquet")
    assert status == 0 and [r[:2] for r in rows(w)] == [("1", "5"), ("1", "60"), ("2", "7")]


def test_lists_of_different_lengths_are_refused(bring, tmp_path):
    pd.DataFrame({"uid": [1], "item_id": [[5, 6]], "timestamp": [[1500000000]]}).to_parquet(
        tmp_path / "log.parquet"
    )
    status, _, err, _ = bring(None, name="log.parquet")
    assert status == 1 and "1 rows have lists of different lengths in item_id, timestamp" in err


@pytest.mark.parametrize(
    "text",
    [
        '{"user": 1, "item": "a", "ts": 1500000000}\n{"user": 2, "item": "b", "ts": 1500000001}\n',
        '[{"user": 1, "item": "a", "ts": 1500000000}, {"user": 2, "item": "b", "ts": 1500000001}]',
    ],
)
def test_json(bring, text):
    status, out, _, w = bring(text, name="log.json")
    assert status == 0 and [r[:2] for r in rows(w)] == [("1", "a"), ("2", "b")] and "unix seconds" in out


def test_a_folder_of_files(bring, tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.csv").write_text(f"user,item\n{i},a\n{i},b\n")
    status, _, _, w = bring(None, name="parts")
    assert status == 0 and len(plays(w)) == 6 and plays(w).timestamp.isna().all()
    assert read_json(w / "dataset.json")["time"] == "none"


def test_a_log_without_the_name_of_a_data_set(bring):
    status, _, err, w = bring(CSV, before=())
    assert (status, err) == (0, "") and rows(w) == EXPECTED


# --------------------------------------------------------------------------- recipes


def test_recbole(bring):
    status, _, _, w = bring(
        "user_id:token\titem_id:token\ttimestamp:float\nu1\ti1\t1.5e9\nu2\ti2\t1500000100\n", name="x.inter"
    )
    assert status == 0 and rows(w) == [
        ("u1", "i1", "2017-07-14 02:40:00"),
        ("u2", "i2", "2017-07-14 02:41:40"),
    ]


@pytest.mark.parametrize(
    "text, name",
    [
        ("userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n1,1029,4.0,1260759179\n", "ratings.csv"),
        ("1::31::2.5::1260759144\n1::1029::4::1260759179\n", "ratings.dat"),
        ("1\t31\t2.5\t1260759144\n1\t1029\t4\t1260759179\n", "u.data"),
    ],
)
def test_movielens(bring, text, name):
    status, out, _, w = bring(text, "--recipe", "movielens", name=name)
    assert (
        status == 0
        and [r[1] for r in rows(w)] == ["31", "1029"]
        and "--min-rating keeps the high ones" in out
        and "rating rating (ignored)" in out
    )
    status, out, _, w = bring(text, "--recipe", "movielens", "--min-rating", "3", name=name)
    assert "rating rating (at least 3)" in out
    assert status == 0 and rows(w) == [("1", "1029", "2009-12-14 02:52:59")]


def test_lastfm_1k_and_its_names(bring):
    line = "user_000001\t2009-05-04T23:08:57Z\tmbid\tDeep Dish\t\tFamous When Dead\n"
    status, _, _, w = bring(
        line + line.replace("23:08", "23:18").replace("Deep", "Deeper"), "--recipe", "lastfm-1k"
    )
    assert status == 0 and [r[:2] for r in rows(w)] == [
        ("user_000001", "Deep Dish - Famous When Dead"),
        ("user_000001", "Deeper Dish - Famous When Dead"),
    ]
    items = pd.read_parquet(w / "items.pqt")
    assert items.title.tolist() == ["Famous When Dead"] * 2 and items.artists.map(list).tolist() == [
        ["Deep Dish"],
        ["Deeper Dish"],
    ]


@pytest.mark.parametrize(
    "recipe, text",
    [
        ("lastfm-360k", "0000c\tmbid\tbetty blowtorch\t2137\n0000c\t\tx\t3\n"),
        ("msd", "0000c\tbetty blowtorch\t2137\n0000c\tx\t3\n"),
        ("triplets", "0000c,betty blowtorch,2137\n0000c,x,3\n"),
    ],
)
def test_aggregated_sets(bring, recipe, text):
    status, _, _, w = bring(text, "--recipe", recipe)
    assert status == 0 and plays(w)["count"].tolist() == [2137, 3] and ids(w) == ["betty blowtorch", "x"]
    assert read_json(w / "dataset.json")["time"] == "none"


def test_spotifys_own_export(bring):
    played = {
        "ts": "2023-01-01T10:00:00Z",
        "username": "me",
        "spotify_track_uri": "spotify:track:1",
        "master_metadata_track_name": "A",
        "master_metadata_album_artist_name": "B",
        "ms_played": 3000,
    }
    podcast = {**played, "spotify_track_uri": None, "master_metadata_track_name": None}
    status, _, _, w = bring(json.dumps([played, podcast]), "--recipe", "spotify-history", name="history.json")
    assert status == 0 and rows(w) == [("me", "spotify:track:1", "2023-01-01 10:00:00")]
    assert pd.read_parquet(w / "items.pqt").title.tolist() == ["A"]


# --------------------------------------------------------------------------- ids


def test_ids_are_numbers_only_where_all_are_canonical(bring):
    status, _, _, w = bring("user,item\n007,1\n7,01\n07,1\n")
    assert status == 0 and ids(w, "user") == ["007", "07", "7"] and ids(w) == ["01", "1"]
    status, _, _, w = bring("user,item\n12,1\n7,2\n", "--overwrite")
    assert status == 0 and not (w / "userid_sorted.csv").exists() and plays(w).user_id.tolist() == [7, 12]


def test_ids_in_two_unicode_forms_are_one(bring):
    text = "user,item\n1,caf\u00e9\n2,cafe\u0301\n3,b\n"
    status, _, _, w = bring(text)
    assert (
        status == 0
        and ids(w) == ["b", unicodedata.normalize("NFC", "café")]
        and plays(w).track_id.tolist() == [1, 1, 0]
    )


def test_ids_that_are_written_in_another_form_are_named(bring):
    status, out, _, w = bring("user,item\n1,cafe\u0301\n 1,caf\u00e9\n1,b\n")
    assert status == 0 and plays(w).user_id.tolist() == [1, 1, 1] and ids(w) == ["b", "caf\u00e9"]
    assert r"items: 1 ids are compared in another form" in out and r"'cafe\u0301' as 'caf\xe9'" in out
    assert "users: 1 ids are compared in another form" in out and "' 1' as '1'" in out
    assert "another form" not in bring(CSV, "--overwrite")[1]


def test_a_list_of_tracks_with_two_forms_of_an_id_is_refused(bring, tmp_path):
    (tmp_path / "tracks.txt").write_text("caf\u00e9\ncafe\u0301\n", encoding="utf-8")
    status, _, err, _ = bring(CSV, "--tracks", tmp_path / "tracks.txt")
    assert status == 1 and "differ only in their Unicode form" in err


@pytest.mark.parametrize(
    "text, sentence",
    [
        ('item,title\na,"12 inch\nb,x\n', "items.csv, line 2: the quoted cell that begins there never ends"),
        ('item,title\na,"12 inch\nb,7" q\n', "items.csv, line 2: the row has text behind the closing quote"),
        ('item,title\na,"12 inch\nb,7"\n', "items.csv, line 2: the row has a quoted cell over 2 lines"),
        ("item,title,album\na,b,c\nb,c,d\nb,x\n" + "z,z,z\n" * 30, "items.csv, line 4: 2 cells where 3 are expected"),
        ("item,title,album\na,b,c\nb,c,d,e\n" + "z,z,z\n" * 30, "items.csv, line 3: 4 cells where 3 are expected"),
    ],
)
def test_malformed_rows_of_items_are_named(bring, tmp_path, text, sentence):
    (tmp_path / "items.csv").write_text(text)
    status, _, err, w = bring(CSV, "--items", tmp_path / "items.csv")
    assert status == 1 and sentence in err and err.count("\n") == 1 and not (w / "plays.pqt").exists()


def test_a_list_of_tracks_gives_the_rows(bring, tmp_path):
    (tmp_path / "tracks.csv").write_text("idx,trackid\n0,z\n1,b\n2,a\n")
    status, out, _, w = bring(CSV, "--tracks", tmp_path / "tracks.csv")
    assert status == 0 and ids(w) == ["z", "b", "a"] and plays(w).track_id.tolist() == [1, 2, 1]


def test_items_beside_the_log(bring, tmp_path):
    (tmp_path / "items.csv").write_text("item,title,artist,genre,year\nb,Song B,X|Y,rock;pop,1999\n")
    status, out, _, w = bring(CSV, "--items", tmp_path / "items.csv")
    frame = pd.read_parquet(w / "items.pqt")
    assert status == 0 and "1 items of the log are described in items.csv" in out
    assert (
        frame.track_id.tolist() == [0, 1]
        and frame.title[1] == "Song B"
        and list(frame.artists[1]) == ["X", "Y"]
    )
    assert (
        list(frame.genres[1]) == ["rock", "pop"] and list(frame.artists[0]) == [] and frame.year[1] == "1999"
    )


# --------------------------------------------------------------------------- roles


@pytest.mark.parametrize(
    "name, role",
    [
        ("user_id:token", "user"),
        ("userId", "user"),
        ("UID", "user"),
        ("item-id", "item"),
        ("track_id", "item"),
        ("played at", "time"),
        ("play_count", "count"),
        ("rating:float", "rating"),
        ("played_ratio", "rating"),
        ("session", None),
    ],
)
def test_roles_by_name(name, role):
    assert columns.role_of(name) == role


def test_two_candidates_are_a_question(bring):
    status, _, err, _ = bring("user,track_id,artist_id\n1,a,b\n")
    assert (
        status == 2
        and "2 columns that may be the item: track_id, artist_id; choose with --item COLUMN" in err
    )
    assert bring("user,track_id,artist_id\n1,a,b\n", "--item", "artist_id")[0] == 0


@pytest.mark.parametrize(
    "content, flags, status, sentence",
    [
        ("", (), 1, "is empty"),
        ("user,item\n", (), 1, "has no row below its header"),
        ("user,item\nuser,item\n1,a\n", (), 1, "a row repeats the header (item)"),
        ("x\ny\n", (), 1, "are not cut into the same number of cells"),
        ("a,b\nc,d\n", (), 2, "is its first line, 'a b', a header? say --header yes or --header no"),
        (
            "a,b\n1,2\n",
            (),
            2,
            "no column of the log is recognised as the user: it has a, b; name it with --user COLUMN",
        ),
        (
            "user,item\n1,a\n",
            ("--time", "when"),
            2,
            "--time when: the log has no such column; it has user, item",
        ),
        ("user,item\n1,a\n2,b,c\n3,d\n", (), 1, "line 3: 3 cells where 2 are expected"),
        ("user,item\n1,a\n2\n3,d\n", (), 1, "line 3: 1 cells where 2 are expected"),
        ("user,item\n1,a\n2,\n", (), 1, "1 of 2 rows have no user or no item"),
        ('user,item\n1,a\n2,"b\n3,c\n', (), 1, "line 3: a quoted cell that never ends"),
        (
            'user,item,title\n1,a,"x" y\n2,b,z\n',
            (),
            1,
            "line 2: a quoted cell that never ends, or text behind a closing quote",
        ),
        (
            'user,item,title\n1,a,"x\n2,b,z\n3,c,"\n4,d,q\n',
            (),
            1,
            "runs over several lines (1 such rows), as behind a stray quote",
        ),
        (b"user,item\n1,\xff\xfe\n", (), 1, "is not UTF-8 text (byte 12)"),
        (b"\x00\x01\x02" * 50, (), 1, "is no text, parquet or json file"),
        ("user,item\n1,a\n2;b\n3\tc\n", (), 1, "line 3: 1 cells where 2 are expected"),
        ("user;item\n1;a\n2,b\n3;c\n", (), 1, "line 3: 1 cells where 2 are expected"),
        ("1,a\n2;b\n3\tc\n4|d\n", (), 1, "are not cut into the same number of cells"),
        (gzip.compress(CSV.encode(), mtime=0)[:-12], (), 1, "is damaged"),
        ("user,item,count\n1,a,2\n2,b,1.5\n", (), 1, "count holds '1.5', which is no whole number of plays"),
        ("user,item,count\n1,a,inf\n", (), 1, "count holds 'inf'"),
        ("user,item,count\n1,a,0\n", (), 1, "count holds '0'"),
        ("user,item,rating\n1,a,good\n", (), 1, "rating holds 'good', which is no rating"),
        (
            "user,item,rating\n1,a,3\n",
            ("--min-rating", "4"),
            1,
            "none of the 1 rows is left; the ratings reach 3",
        ),
        (
            "user,item,time\n1,a,2019-02-20\n2,b,yesterday\n",
            (),
            1,
            "'yesterday' is no time of a known writing",
        ),
        ("user,item,time\n1,a,2019-02-20 13:45:10 Asia/Tokyo\n", (), 1, "'2019-02-20 13:45:10 Asia/Tokyo' is no time"),
        ("user,item,time\n1,a,2019-02-20 13:45:10 EST\n", (), 1, "is no time of a known writing"),
        ("user,item,time\n1,a,2019-02-20\n", ("--timezone", "Nowhere/X"), 2, "--timezone Nowhere/X is no time zone"),
        ("user,item,time\n1,a,5\n2,b,6\n", (), 2, "the times run from 5 to 6, which is no time since 1970"),
        ("user,item,time\n1,a,2019-02-20\n2,b,\n", (), 1, "1 rows have no time"),
        ('{"user": 1, "item": "a"}\n{"user": 2, "item": \n', (), 1, "cannot be read as json"),
        (b"PAR1" + b"x" * 100, (), 1, "cannot be read as parquet"),
        ("user,user\n1,a\n", (), 1, "two columns of its header are called 'user'"),
        ("User,user,item\n1,2,a\n", ("--user", "user"), 1, "are called 'User' and 'user'; rename one"),
        ("user_id,userId,item\n1,2,a\n", (), 2, "2 columns that may be the user: user_id, userId; choose with --user"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(bring, content, flags, status, sentence):
    code, _, err, w = bring(content, *flags)
    assert code == status and sentence in err and err.count("\n") == 1 and "Traceback" not in err
    assert not (w / "plays.pqt").exists() and not (w / "dataset.json").exists()


def test_of_two_columns_of_nearly_the_same_name_a_flag_chooses(bring):
    status, _, _, w = bring("user_id,userId,item\nx,y,a\nx,z,b\n", "--user", "userId")
    assert status == 0 and pd.read_csv(w / "userid_sorted.csv").userid.tolist() == ["y", "z"]


def test_bad_rows_are_skipped_counted_and_the_first_is_named(bring):
    lines = [f"{i},item{i % 7}" for i in range(200)]
    lines[50], lines[120] = "50", "120,a,b,c"
    status, out, _, w = bring("user,item\n" + "\n".join(lines) + "\n", "--bad-rows", "skip")
    assert (
        status == 0
        and len(plays(w)) == 198
        and "left out: 2 rows that do not parse, the first is line 52" in out
    )
    assert read_json(w / "dataset.json")["counts"]["bad_rows"] == 2


def test_rows_behind_a_quote_that_never_ends_are_all_counted(bring):
    status, out, _, w = bring('user,item\n1,a\n2,"b\n3,c\n4,d\n', "--bad-rows", "skip")
    assert status == 0 and len(plays(w)) == 1 and "left out: 3 rows" in out


def test_one_user_one_column_and_many_users(bring):
    assert bring("user,item\n" + "".join(f"1,{i}\n" for i in range(5)))[0] == 0
    status, _, _, w = bring("user,item\n" + "".join(f"u{i},x\n" for i in range(50_000)), "--overwrite")
    assert status == 0 and len(ids(w, "user")) == 50_000


def test_a_million_users_with_one_play_each(bring):
    text = "user,item\n" + "".join(f"u{i:07},{i % 1000}\n" for i in range(1_000_000))
    status, out, _, w = bring(text)
    assert status == 0 and "1000000 plays, 1000000 distinct pairs of 1000000 users and 1000 items" in out
    assert np.array_equal(np.sort(plays(w).user_id), np.arange(1_000_000)) and ids(w, "user")[-1] == "u0999999"


def test_one_row_in_a_hundred_of_junk(bring):
    rows = np.random.default_rng(0).permutation(10_000)[:100] + 2       # line numbers
    lines = ["user,item"] + [f"{i},{i % 9}" for i in range(10_000)]
    for n, line in enumerate(sorted(rows)):
        lines[line - 1] = ("junk", "a,b,c", '"x" y,z', "\u2603,,,")[n % 4]
    assert bring("\n".join(lines) + "\n")[0] == 1
    status, out, _, w = bring("\n".join(lines) + "\n", "--bad-rows", "skip")
    assert status == 0 and len(plays(w)) == 9_900
    assert f"left out: 75 rows that do not parse, the first is line {min(rows)} " in out
    assert "left out: 25 rows without a user or an item" in out      # cells at the end of a row may be empty


def test_a_directory(bring, tmp_path):
    (tmp_path / "logs").mkdir()
    status, _, err, _ = bring(None, name="logs")
    assert status == 2 and "is a folder without files" in err
    (tmp_path / "logs" / "inner").mkdir()
    (tmp_path / "logs" / "inner" / "log.csv").write_text(CSV)
    status, _, err, _ = bring(None, name="logs")
    assert status == 2 and "is a folder without files" in err
    (tmp_path / "logs" / "log.csv").write_text(CSV)
    status, _, _, w = bring(None, name="logs")
    assert status == 0 and rows(w) == EXPECTED


def test_finished_work_is_skipped_and_changed_work_made_again(bring):
    bring(CSV)
    status, out, _, w = bring(CSV)
    assert status == 0 and "finished before, skipped" in out
    status, out, _, _ = bring(CSV + "9,c,2019-02-22\n")
    assert status == 0 and "done again, because log changed" in out and len(plays(w)) == 4


def test_equal_logs_give_equal_bytes_whatever_the_order_of_rows(bring):
    _, _, _, w = bring(CSV)
    before = (w / "plays.pqt").read_bytes()
    header, *lines = CSV.splitlines()
    bring("\n".join([header, *lines[::-1]]) + "\n", "--overwrite")
    assert (w / "plays.pqt").read_bytes() == before
