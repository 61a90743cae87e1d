"""WSDM-KKBOX: what is said of bad files and flags; the real sample through the real command line."""
import re
import subprocess
import sys
import zipfile

import pandas as pd
import pytest

import dataset
from harness.errors import UsageError, WorkError
from harness.files import write_json
from harness.readers import read_json
from preprocess.kkbox import raw as kkbox_raw
from tests.conftest import ROOT
from tests.worlds.kkbox import HEADERS, LOOSE, get, play, song, splitter, table, world, write


@pytest.fixture
def raw(tmp_path):
    return write(tmp_path / "raw", world())


@pytest.fixture
def made(raw, tmp_path):
    return get(raw, tmp_path / "w", *LOOSE)


# --------------------------------------------------------------------------- bad input, through the real command line

def command(*words):
    return subprocess.run([sys.executable, "preprocess/0_get_plays_pqt.py", "kkbox", *map(str, words)], cwd=ROOT,
                          capture_output=True, text=True)


def test_missing_files_are_named(raw, tmp_path):
    for name in ("members", "songs"):
        (raw / f"{name}.csv").unlink()
    done = command("--raw", raw, "--workdir", tmp_path / "w")
    assert done.returncode == 1 and "lacks songs.csv, members.csv" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "w" / "dataset.json").exists()


@pytest.mark.parametrize("name", list(kkbox_raw.COLUMNS))
@pytest.mark.parametrize("packed", [False, True])
def test_each_missing_file(raw, tmp_path, name, packed):
    (raw / f"{name}.csv").unlink()
    if packed:
        with zipfile.ZipFile(tmp_path / "all.zip", "w") as z:
            for path in raw.glob("*.csv"):
                z.write(path, path.name)
    with pytest.raises(WorkError, match=f"lacks {name}.csv.*{'--test last' if name == 'test' else ''}"):
        get(tmp_path / "all.zip" if packed else raw, tmp_path / "w", *LOOSE, "--test", "csv")


def test_without_test_csv_the_end_of_each_playlist_is_test(raw, made, tmp_path, capsys):
    (raw / "test.csv").unlink()
    for number, flags in enumerate(((), ("--test", "last"))):
        work = get(raw, tmp_path / f"w{number}", *LOOSE, *flags)
        assert ("raw contains no test.csv: the last tenth" in capsys.readouterr().out) == (not flags)
        assert table(work, "points").part.tolist() == table(made, "points").part.tolist()
        assert len(table(work, "plays")) == 11


@pytest.mark.parametrize("name, column", [(n, c) for n, columns in kkbox_raw.COLUMNS.items() for c in columns[:2]])
def test_each_missing_column(raw, tmp_path, name, column):
    tables = world()
    at = HEADERS[name].index(column)
    cut = {name: [r[:at] + r[at + 1:] for r in tables[name]]}
    write(raw, cut, {name: [c for c in HEADERS[name] if c != column]})
    with pytest.raises(WorkError, match=rf"{name}.csv has no column {column}; it has "):
        get(raw, tmp_path / "w", *LOOSE)


@pytest.mark.parametrize("extra", [("",), ("extra", "extra"), ("Gender",), ("it's",), ("", "column 7")])
def test_columns_that_nobody_needs_may_be_called_anything(raw, made, tmp_path, extra):
    """A trailing comma, a repeated name, one that differs from a needed one in its case only."""
    text = (raw / "members.csv").read_text(encoding="utf-8").splitlines()
    (raw / "members.csv").write_text("".join(
        ",".join([line, *(extra if i == 0 else ["x"] * len(extra))]) + "\n" for i, line in enumerate(text)))
    frame = pd.read_csv(raw / "train.csv", dtype=str, keep_default_na=False)
    frame.to_csv(raw / "train.csv")   # with the index, whose name is empty
    work = get(raw, tmp_path / "w2", *LOOSE)
    for name in ("plays", "users", "points"):
        pd.testing.assert_frame_equal(table(work, name), table(made, name))


def test_a_needed_column_that_stands_there_twice(raw, tmp_path):
    text = (raw / "members.csv").read_text(encoding="utf-8").splitlines()
    (raw / "members.csv").write_text("".join(f"{line},{'x' if i else 'gender'}\n" for i, line in enumerate(text)))
    with pytest.raises(WorkError, match="members.csv has the column gender more than once"):
        get(raw, tmp_path / "w", *LOOSE)


def test_blank_lines_before_the_header(raw, made, tmp_path):
    for name in ("train", "members"):
        (raw / f"{name}.csv").write_text("\n\n" + (raw / f"{name}.csv").read_text(encoding="utf-8"), encoding="utf-8")
    work = get(raw, tmp_path / "w2", *LOOSE)
    for name in ("plays", "users"):
        pd.testing.assert_frame_equal(table(work, name), table(made, name))


def test_a_header_that_never_ends(raw, tmp_path):
    (raw / "songs.csv").write_bytes(b'"song_id,song_length\n' + b"x,1,2,3,4,5,6\n" * 20_000)
    with pytest.raises(WorkError, match="songs.csv has no header of column names"):
        get(raw, tmp_path / "w", *LOOSE)


@pytest.mark.parametrize("name", list(kkbox_raw.COLUMNS))
@pytest.mark.parametrize("what", ["short", "long"])
def test_rows_of_wrong_length_are_named_and_nothing_is_lost(raw, made, tmp_path, name, what):
    before = (made / "plays.pqt").read_bytes()
    text = (raw / f"{name}.csv").read_text(encoding="utf-8")
    bad = "x,y\n" if what == "short" else "x," * (len(HEADERS[name]) + 1) + "y\n"
    (raw / f"{name}.csv").write_text(text + bad, encoding="utf-8")
    row, width = len(world()[name]) + 2, len(HEADERS[name])
    cells = 2 if what == "short" else "more"
    with pytest.raises(WorkError, match=rf"{name}.csv, row {row} .*begins 'x,.*: {cells} cells where the header "
                                             rf"has {width};"):
        get(raw, made, *LOOSE)
    assert (made / "plays.pqt").read_bytes() == before and read_json(made / "dataset.json")["status"] == "finished"


def test_bytes_and_quotes_that_are_wrong(raw, tmp_path):
    text = (raw / "songs.csv").read_bytes()
    (raw / "songs.csv").write_bytes(text + b"a\xff,1,1,1,1,1,1\n")
    with pytest.raises(WorkError, match="songs.csv, row 10 .*: invalid UTF-8"):
        get(raw, tmp_path / "w", *LOOSE)
    (raw / "songs.csv").write_bytes(text + b'"a,1,1,1,1,1,1\n')
    with pytest.raises(WorkError, match="songs.csv, row 10 .*: the quoted cell that begins there is not closed"):
        get(raw, tmp_path / "w", *LOOSE)


def test_empty_files(raw, tmp_path):
    write(raw, {"train": []})
    with pytest.raises(WorkError, match="train.csv has no plays"):
        get(raw, tmp_path / "w", *LOOSE)
    (raw / "train.csv").write_text("")
    with pytest.raises(WorkError, match="train.csv is empty; a csv with the columns msno"):
        get(raw, tmp_path / "w", *LOOSE)


def test_a_song_and_a_member_without_metadata(raw, tmp_path, capsys):
    tables = world()
    tables["members"] = tables["members"][1:]
    tables["train"] += [play("Di=", "a")] * 3
    work = get(write(raw, tables), tmp_path / "w", *LOOSE, "--min-age", 0)
    out = capsys.readouterr().out
    assert "1 songs are not in songs.csv" in out and "2 users are not in members.csv" in out
    users = table(work, "users")
    assert users.kept.tolist() == [True, False, True, True] and pd.isna(users.city[0]) and pd.isna(users.age[0])


@pytest.mark.parametrize("flags, sentence, mended", [
    (("--top", 0.9), "", None),
    (("--max-seconds", 100), "--max-seconds 100 leaves none of the 5 songs.*try --max-seconds 201",
     ("--max-seconds", 201)),
    (("--min-age", 50), "--min-age 50 --max-age 59 leaves none of the 3 listeners.*from 20 to 30: try --min-age 20 "
     "--max-age 30", ("--min-age", 20, "--max-age", 30)),
    (("--min-playlist-len", 20), "--min-playlist-len 20 leaves none of the 2 listeners.*longest playlist has 6 plays.*"
     "try --min-playlist-len 3", ("--min-playlist-len", 3)),
    (("--min-playlist-len", 3, "--max-playlist-len", 5), "--max-playlist-len 5 leaves none.*try --max-playlist-len 7",
     ("--min-playlist-len", 3, "--max-playlist-len", 7))])
def test_filters_that_leave_nobody_say_so_and_their_advice_works(raw, tmp_path, flags, sentence, mended):
    if mended is None:   # the most played song always passes: the most played one here is not in songs.csv
        tables = world()
        tables["train"] += [play("Bo=", "z")] * 30
        write(raw, tables)
        sentence, mended = "--top 0.9 leaves none of the 7 songs.*try --top 0.065", ("--top", 0.065)
    with pytest.raises(WorkError, match=sentence):
        get(raw, tmp_path / "w", *LOOSE, *flags)
    assert not (tmp_path / "w" / "plays.pqt").exists()
    get(raw, tmp_path / "w", "--top", 0, "--min-playlist-len", 1, "--dim", 0, *mended)


def test_songs_without_any_length_are_kept_as_advised(raw, tmp_path):
    tables = world()
    tables["songs"] = [[row[0], "", *row[2:]] for row in tables["songs"]]
    write(raw, tables)
    with pytest.raises(WorkError, match="--max-seconds 360 leaves none.*try --max-seconds inf"):
        get(raw, tmp_path / "w", *LOOSE)
    assert table(get(raw, tmp_path / "w", *LOOSE, "--max-seconds", "inf"), "items").kept.sum() == 5


def test_names_that_leave_nothing(raw, tmp_path):
    tables = world()
    tables["songs"] = [song(s, artist="張學友", composer="") for s in "abcde"]
    write(raw, tables)
    with pytest.raises(WorkError, match="--artist-names latin leaves none.*try --artist-names known"):
        get(raw, tmp_path / "w", *LOOSE)
    with pytest.raises(WorkError, match="--composer-names latin leaves none.*try --composer-names any"):
        get(raw, tmp_path / "w", *LOOSE, "--artist-names", "known")
    get(raw, tmp_path / "w", *LOOSE, "--artist-names", "known", "--composer-names", "any")


@pytest.mark.parametrize("flags, sentence", [
    (("--top", 1), "--top must be at least 0 and below 1"), (("--min-playlist-len", 0), "at least 1"),
    (("--max-playlist-len", 21), "two above"), (("--min-age", 60), "above --max-age"),
    (("--val-share", 1), "--val-share"), (("--max-seconds", "nan"), "--max-seconds must be above 0"),
    (("--dim", -1), "--dim")])
def test_values_out_of_range(raw, tmp_path, flags, sentence):
    done = command("--raw", raw, "--workdir", tmp_path / "w", *flags)
    assert done.returncode == 2 and sentence in done.stderr and done.stderr.count("\n") == 1


def test_a_raw_that_is_no_folder_and_a_workspace_of_another_data_set(raw, tmp_path):
    with pytest.raises(UsageError, match="neither a folder nor a .zip or .7z"):
        get(tmp_path / "nowhere", tmp_path / "w")
    (tmp_path / "lastfm").mkdir()
    write_json(tmp_path / "lastfm" / "dataset.json", {"name": "lastfm"})
    with pytest.raises(UsageError, match="holds the data set 'lastfm'"):
        get(raw, tmp_path / "lastfm")


def test_other_songs_under_an_old_split_are_refused(raw, made, tmp_path):
    splitter.main(["--protocol", "given", "--workdir", str(made)])
    tables = world()
    tables["train"] += [play("Cy=", "unplayed")]
    write(raw, tables)
    with pytest.raises(UsageError, match="lists other tracks.*--overwrite"):
        get(raw, made, *LOOSE)
    assert (made / "data" / "train.pqt").exists()
    get(raw, made, *LOOSE, "--overwrite")
    assert not (made / "data" / "train.pqt").exists()


def test_the_real_sample_end_to_end(shared, tmp_path):
    raw = shared / "data" / "kkbox-sample"
    if not raw.is_dir():
        pytest.skip("needs data/kkbox-sample of the cross-check data")
    done = command("--raw", raw, "--min-playlist-len", 5, "--workdir", tmp_path / "w")
    assert done.returncode == 0, done.stderr
    about = read_json(tmp_path / "w" / "dataset.json")
    assert about["skipped_rows"] == {"train": 0, "test": 35_000}
    assert about["counts"]["plays"] == 19_999 + 4_999 and about["counts"]["train_rows"] == 19_999
    assert about["counts"]["kept_users"] == 2 and about["counts"]["kept_tracks"] == 140
    splitter.main(["--protocol", "given", "--workdir", str(tmp_path / "w")])
    assert dataset.load(tmp_path / "w").n_users == 2
    done = command("--raw", raw, "--workdir", tmp_path / "w2")
    assert done.returncode == 1 and "--min-playlist-len 20 leaves none of the 1928 listeners" in done.stderr


def test_rows_behind_a_stray_quote_are_read_as_before_and_said(raw, tmp_path, capsys):
    """As in the challenge's own song_extra_info.csv, where a stray quote makes one row of 149."""
    lines = (raw / "song_extra_info.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    (raw / "song_extra_info.csv").write_text("".join(lines) + 'x,"12 inch,X1\ny,7",Y1\n', encoding="utf-8")
    get(raw, tmp_path / "w", *LOOSE)
    assert re.search(rf"warning: .*song_extra_info.csv, line {len(lines) + 1}: the row has a quoted cell over 2 lines, "
                     "each with the cells of a row.*; those rows are read as one", capsys.readouterr().err)


def test_ids_that_differ_only_in_form_are_refused(raw, tmp_path):
    text = (raw / "train.csv").read_text(encoding="utf-8")
    row = text.splitlines()[1].split(",", 1)[1]
    (raw / "train.csv").write_text(text + f"caf\u00e9,{row}\ncafe\u0301,{row}\n", encoding="utf-8")
    with pytest.raises(WorkError, match=r"the msnos 'cafe\\u0301' and 'caf\\xe9' differ only in Unicode form"):
        get(raw, tmp_path / "w", *LOOSE)
