"""WSDM-KKBOX into a workspace: reading and filters. Points and encodings: test_kkbox_points.py."""
import csv

import numpy as np
import pandas as pd
import pytest

from harness.readers import read_json
from preprocess.kkbox import filters as kkbox_filters
from preprocess.kkbox import generate as kkbox_generate
from preprocess.kkbox import raw as kkbox_raw
from tests.worlds.kkbox import HEADERS, LOOSE, get, play, song, table, world, write


@pytest.fixture
def raw(tmp_path):
    return write(tmp_path / "raw", world())


@pytest.fixture
def made(raw, tmp_path):
    return get(raw, tmp_path / "w", *LOOSE)


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """Files of the generator, 1 % of the challenge's size."""
    folder = tmp_path_factory.mktemp("kkbox")
    kkbox_generate.generate(folder, scale=0.01, seed=3)
    return folder


# --------------------------------------------------------------------------- reading

def test_every_row_is_a_play_in_order_with_its_context(made):
    plays = table(made, "plays")
    tracks, users = (pd.read_csv(made / f"{n}id_sorted.csv")[f"{n}id"] for n in ("track", "user"))
    assert list(tracks) == list("abcdefgz") and list(users) == ["Ann=", "Bo=", "Cy="]
    assert "".join(tracks[plays.track_id]) == "abc" + "a" + "ade" + "abzc" + "fgab"
    assert "".join(users[plays.user_id].str[0]) == "AAA" + "B" + "AAA" + "CCCC" + "AAAA"
    assert (plays.timestamp.astype("datetime64[s]").astype(np.int64) == np.arange(15)).all()
    assert plays.target.tolist()[:4] == [1, 1, 1, 0] and plays.target.isna().tolist() == [False] * 11 + [True] * 4
    assert plays.source_system_tab.tolist()[11:] == ["radio"] * 4 and plays.source_system_tab[7:10].isna().all()
    assert plays.source_screen_name[11:].isna().all()
    about = read_json(made / "dataset.json")
    assert about["time"] == "ordinal" and about["counts"]["train_rows"] == 11 and about["counts"]["plays"] == 15


def test_metadata_is_typed_and_unknown_is_null(made):
    items, users = table(made, "items").set_index("track_id"), table(made, "users").set_index("user_id")
    a, b, c, d, z = (items.loc["abcdefgz".index(s)] for s in "abcdz")
    assert list(a.genres) == ["465", "1259"] and list(b.artists) == ["Cid Dee", "Eve Fox"]
    assert c.genres is None and c.song_length == 180.5 and list(d.composers) == ['Al "Jr." Ott, Sr.']
    assert a["name"] == "Line one\nline two, with comma" and a.language == "52"
    assert (a.country, a.year, b.year) == ("TW", 2012, 1999) and pd.isna(c.isrc) and pd.isna(c.year)
    assert z.artists is None and pd.isna(z.song_length) and not z.kept
    assert items.plays.tolist() == [3 + 1, 2, 2, 1, 1, 0, 0, 1]
    assert users.age.tolist()[::2] == [30, 20] and pd.isna(users.age[1]), "1051 is no age"
    assert users.gender.tolist()[::2] == ["female", "male"] and pd.isna(users.gender[1])
    assert str(users.registered[0]) == "2011-08-20" and pd.isna(users.expires[2]), "2017 alone is no date"
    assert users.city.tolist() == ["5", "1", "13"]


def test_numbers_that_pandas_wrote_as_floats_are_read(made, tmp_path):
    """A column with a gap goes through pandas as floats: 20110820.0 is a date, 30.0 an age."""
    tables = world()
    for row in tables["members"]:
        for at in (1, 2, 4, 5, 6):
            row[at] = f" {row[at]}.0"
    for row in tables["songs"]:
        row[1] = f"{row[1]}.0\t"
    work = get(write(tmp_path / "floats", tables), tmp_path / "w2", *LOOSE)
    for name in ("users", "items"):
        pd.testing.assert_frame_equal(table(work, name), table(made, name))


def test_names_lose_all_that_strip_takes(made, tmp_path):
    """Tabs, line ends, wide and unbreakable blanks around a name are no part of it; within it they stay."""
    blanks = ["\r\n" if c == "\r" else c for c in map(chr, range(1, 0x110000)) if c.isspace()]
    tables = world()
    for n, row in enumerate(tables["songs"]):
        for at in (2, 3, 4, 6):
            row[at] = "|".join(blanks[(n + 7 * at) % len(blanks)] + name + blanks[n] for name in row[at].split("|"))
    for row in tables["members"]:
        row[3] = f"\r\n{row[3]}\u3000"
    work = get(write(tmp_path / "blanks", tables), tmp_path / "w2", *LOOSE)
    for name in ("users", "items"):
        pd.testing.assert_frame_equal(table(work, name), table(made, name))
    tables["songs"][0][3] = "".join(blanks) + "Ann\tLee" + "".join(blanks)
    again = table(get(write(tmp_path / "all", tables), tmp_path / "w3", *LOOSE), "items")
    assert again.artists[0].tolist() == ["Ann\tLee"]


def test_the_reader_agrees_with_the_csv_module_on_generated_files(generated, tmp_path):
    work = get(generated, tmp_path / "w", "--dim", 0)
    rows = [r for name in ("train", "test") for r in csv.DictReader(open(generated / f"{name}.csv", newline=""))]
    plays = table(work, "plays")
    for column, key in (("user", "msno"), ("track", "song_id")):
        ids = sorted({r[key] for r in rows})
        assert pd.read_csv(work / f"{column}id_sorted.csv")[f"{column}id"].tolist() == ids
        assert [ids[i] for i in plays[f"{column}_id"]] == [r[key] for r in rows]
    for column in ("source_system_tab", "source_screen_name", "source_type"):
        assert plays[column].astype(object).where(plays[column].notna(), "").tolist() == [r[column] for r in rows]


def test_a_small_memory_and_a_second_run_give_the_same_bytes(generated, tmp_path, capsys):
    one, two = (get(generated, tmp_path / w, "--memory", m) for w, m in (("one", "2GB"), ("two", "512MB")))
    for name in ("plays.pqt", "items.pqt", "users.pqt", "points.pqt", "split.pqt", "vocabulary.pqt",
                 "embeddings/metadata.npz", "embeddings/metadata.npy"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    capsys.readouterr()
    get(generated, one)
    assert "skipped" in capsys.readouterr().out
    get(generated, one, "--top", 0.002)
    assert "top changed" in capsys.readouterr().out


def test_generated_files_are_the_same_for_the_same_seed(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        kkbox_generate.generate(tmp_path / name, 0.0005, seed)
    for file in kkbox_raw.COLUMNS:
        a, b, c = ((tmp_path / x / f"{file}.csv").read_bytes() for x in "abc")
        assert a == b != c


def test_generated_plays_have_something_to_learn(generated, tmp_path):
    """A song's genre tells its style; plays in a row share it most, a listener's others less, strangers' least."""
    work = get(generated, tmp_path / "w", "--dim", 0, "--top", 0, "--min-age", 0, "--artist-names", "any",
               "--composer-names", "any")
    style = table(work, "items").genres.map(lambda g: -1 if g is None else (int(g[0]) - 400) // 21).to_numpy()
    plays = table(work, "plays").sort_values(["user_id", "timestamp"])
    user, mine = plays.user_id.to_numpy(), style[plays.track_id]

    def alike(a, b, same):
        told = (user[a] == user[b]) == same
        told &= (mine[a] >= 0) & (mine[b] >= 0) & (mine[a] < 8) & (mine[b] < 8)
        return (mine[a] == mine[b])[told].mean()
    n = np.arange(len(user) - 40)
    near, far = alike(n, n + 1, True), alike(n, n + 40, True)
    strangers = alike(n, np.random.default_rng(0).permutation(n), False)
    assert near > far + 0.05 and far > strangers + 0.05


def test_a_row_without_an_id_leaves_no_trace(tmp_path):
    """Its song and its words are in no list."""
    tables = world()
    tables["train"].insert(3, play("", "nobody's", tab="nowhere"))
    tables["test"] += [[9, "Ann=", "", "nowhere", "", "radio"], [9, "Zoe=", "", "", "", ""]]
    work = get(write(tmp_path / "raw", tables), tmp_path / "w", *LOOSE)
    get(write(tmp_path / "clean", world()), tmp_path / "v", *LOOSE)
    for name in ("plays", "items", "users"):
        pd.testing.assert_frame_equal(table(work, name), table(tmp_path / "v", name))
    assert read_json(work / "dataset.json")["skipped_rows"] == {"train": 1, "test": 2}


def test_targets_that_are_no_numbers_are_unknown_and_quoted_cells_are_text(tmp_path):
    tables = world()
    for row, target in zip(tables["train"], ("", "x", "1.0", "nan", "999"), strict=False):
        row[5], row[2] = target, 'a "tab",\nof two lines'
    plays = table(get(write(tmp_path / "raw", tables), tmp_path / "w", *LOOSE), "plays")
    assert plays.target[:6].fillna(-7).tolist() == [-7, -7, 1, -7, -7, 1] and len(plays) == 15
    assert plays.source_system_tab[0] == 'a "tab",\nof two lines'


def test_empty_rows_are_left_out_and_counted(tmp_path, capsys):
    tables = world()
    tables["test"] += [["", "", "", "", "", ""]] * 3
    work = get(write(tmp_path / "raw", tables), tmp_path / "w", *LOOSE)
    assert "test.csv: 3 rows without msno or song_id left out" in capsys.readouterr().out
    assert len(table(work, "plays")) == 15


def test_columns_in_another_order_and_windows_line_ends(raw, made, tmp_path):
    for name, header in HEADERS.items():
        frame = pd.read_csv(raw / f"{name}.csv", dtype=str, keep_default_na=False)
        (tmp_path / "other").mkdir(exist_ok=True)
        frame[header[::-1]].to_csv(tmp_path / "other" / f"{name}.csv", index=False, lineterminator="\r\n")
    other = get(tmp_path / "other", tmp_path / "w2", *LOOSE)
    for name in ("plays", "users", "points"):
        pd.testing.assert_frame_equal(table(other, name), table(made, name))


# --------------------------------------------------------------------------- filters

def test_latin_names_are_those_of_the_source():
    import pyarrow as pa
    cells = [["Ann Lee"], ["Ann"], ["Ann Lee", "Bo Tan"], ["Ann Lee", "Bo"], None, ["張 學友"], ["カ ナ"], ["한 국"],
             ["ก ข"], ["A" * 12 + " " + "B" * 12], ["A" * 13 + " " + "B" * 12], ["Ан Ли"], ["A\u3000B"]]
    fine = kkbox_filters.latin(pa.chunked_array([cells[:5], cells[5:]], pa.list_(pa.string())))
    assert fine.tolist() == [True, False, True, False, False, False, False, False, False, True, False, True, True]


@pytest.mark.parametrize("flags, kept", [
    ((), "abce"),                           # d: a name of 26 letters; f, g: not in train.csv; z: not in songs.csv
    (("--composer-names", "known"), "abcde"),
    (("--top", 0.34), "abc"),               # a has 4 plays, c 4, b 2; d and e 1 of 4, which is below .34
    (("--top", 0.5), "ac"),                 # 2 of 4 is not above .5
    (("--max-seconds", 200), "c")])         # the others last 200 s, and shorter is asked for
def test_song_filters(raw, tmp_path, flags, kept):
    tables = world()
    tables["songs"][3] = song("d", composer="Al Ott, composer of songs.")
    tables["train"] += [play("Cy=", "c")] * 2
    work = get(write(raw, tables), tmp_path / "w", "--top", 0, "--dim", 0, "--min-playlist-len", 1, *flags)
    items = table(work, "items")
    assert "".join("abcdefgz"[i] for i in items.track_id[items.kept]) == kept


def test_songs_of_unknown_length_pass_with_inf(raw, tmp_path):
    tables = world()
    tables["songs"][1][1] = ""
    write(raw, tables)
    for seconds, kept in ((360, "acde"), ("inf", "abcde")):
        items = table(get(raw, tmp_path / f"w{seconds}", *LOOSE, "--max-seconds", seconds), "items")
        assert "".join("abcdefgz"[i] for i in items.track_id[items.kept]) == kept
    get(raw, tmp_path / "winf", *LOOSE, "--max-seconds", "inf")


def test_what_each_filter_removes_is_printed(raw, tmp_path, capsys):
    work = get(raw, tmp_path / "w", *LOOSE)
    out = capsys.readouterr().out
    assert "not in songs.csv: removes 1 of 8 songs, 7 left" in out
    assert "--top 0: removes 2 of 7 songs, 5 left" in out, "f and g were not played in train.csv"
    assert "--min-age 16 --max-age 59: removes 1 of 3 listeners, 2 left" in out
    removed = {r["filter"]: r["removed"] for r in read_json(work / "dataset.json")["filters"]}
    assert removed["--top 0"] == 2 and removed["--min-playlist-len 2"] == 0


def test_unknown_ages_pass_with_min_age_0(raw, tmp_path):
    work = get(raw, tmp_path / "w", "--top", 0, "--min-age", 0, "--min-playlist-len", 1, "--dim", 0)
    assert table(work, "users").playlist.tolist() == [6, 1, 3]
    assert table(work, "users").kept.tolist() == [True, False, True]
