"""Hand-made files of the KKBOX challenge, and the script that converts them: shared by the tests of KKBOX."""
import csv
import importlib

import pandas as pd

from preprocess.kkbox import raw as kkbox_raw

script = importlib.import_module("preprocess.0_get_plays_pqt")
splitter = importlib.import_module("preprocess.1_train_test_split")
HEADERS = {name: list(columns) for name, columns in kkbox_raw.COLUMNS.items()} | {
    "test": ["id", *kkbox_raw.COLUMNS["test"]]}
MANY = ("--min-playlist-len", 8, "--min-age", 0, "--composer-names", "any")
LOOSE = ("--top", 0, "--min-playlist-len", 2, "--dim", 3)


def song(name, length=200_000, genre="465", artist="Ann Lee", composer="Bo Tan", lyricist="", language="52.0"):
    return [name, length, genre, artist, composer, lyricist, language]


def play(user, name, target=1, tab="my library"):
    return [user, name, tab, "Local playlist more", "local-library", target]


def world():
    """Tables by hand. Ann (30): a b c a d e in train, then f g a b in test. Bo (no age). Cy (20): three plays."""
    train = [play("Ann=", s) for s in "abc"] + [play("Bo=", "a", 0)] + [play("Ann=", s) for s in "ade"]
    train += [play("Cy=", s, tab="") for s in "abz"] + [play("Cy=", "c")]
    test = [[i, "Ann=", s, "radio", "", "radio"] for i, s in enumerate("fgab")]
    songs = [song("a", genre="465|1259|465"), song("b", artist="Cid Dee|  Eve Fox"), song("c", "180500", ""),
             song("d", composer='Al "Jr." Ott, Sr.'), song("e"), song("f"), song("g"), song("unplayed")]
    members = [["Ann=", 5, 30, "female", 9, 20110820, 20170920], ["Bo=", 1, 1051, "", 7, 20150628, 20170622],
               ["Cy=", 13, 20, "male", 4, 20160411, 2017]]
    extra = [["a", "Line one\nline two, with comma", "TWUM71200043"], ["b", "Old", "GBAHS9900385"], ["c", "No", ""]]
    return {"train": train, "test": test, "songs": songs, "members": members, "song_extra_info": extra}


def write(folder, tables, headers=HEADERS):
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        with open(folder / f"{name}.csv", "w", encoding="utf-8", newline="") as f:
            csv.writer(f, lineterminator="\n").writerows([headers[name], *rows])
    return folder


def get(raw, workdir, *flags):
    script.main([str(a) for a in ("kkbox", "--raw", raw, "--workdir", workdir, *flags)])
    return workdir


def table(workdir, name):
    return pd.read_parquet(workdir / f"{name}.pqt")
