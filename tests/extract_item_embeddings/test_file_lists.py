"""--files, --max-failures, --dtype: extraction from a list, that stops where too much fails, into half the space."""
import json
import shutil

import numpy as np
import pytest

import dataset
from extract_item_embeddings import mfcc
from extract_item_embeddings.engine import audio, file_lists, shards
from harness.errors import UsageError, WorkError
from tests.extract_item_embeddings.test_audio import tone, write


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    (folder / "deep").mkdir()
    for i in range(6):
        write(folder / "deep" / f"t{i}.wav", tone(1, 22050, 200 + 50 * i, seed=i), 22050)
    (folder / "deep" / "bad1.wav").write_bytes(b"")
    (folder / "deep" / "bad2.wav").write_bytes(b"")
    return folder


def extract(work, *flags):
    mfcc.main(["--workdir", str(work), "--batch", "2", *map(str, flags)])
    return np.load(work / "embeddings" / "mfcc.npy"), json.loads((work / "embeddings" / "mfcc.json").read_text())


def listed(sounds, tmp_path, text):
    path = sounds / f"{tmp_path.name}.csv"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("form", ["lines", "csv"])
def test_a_list_gives_what_a_walk_gives(sounds, tmp_path, form):
    names = sorted(p.stem for p in (sounds / "deep").iterdir() if p.suffix == ".wav")
    text = "\n".join(f"deep/{name}.wav" for name in names) if form == "lines" else "\n".join(
        ["path,trackid", *(f"deep/{name}.wav,{name}" for name in reversed(names))])
    walked, about = extract(tmp_path / "walk", "--audio", sounds)
    read, mine = extract(tmp_path / "list", "--files", listed(sounds, tmp_path, text))
    np.testing.assert_array_equal(walked, read)
    assert about["audio_checksum"] == mine["audio_checksum"] and about["failed"] == mine["failed"]
    assert (tmp_path / "walk" / "trackid_sorted.csv").read_bytes() == (
        tmp_path / "list" / "trackid_sorted.csv").read_bytes()


def test_ids_of_a_list_need_not_be_the_names_of_files(sounds, tmp_path):
    path = listed(sounds, tmp_path, f"id,path\nsong b,deep/t1.wav\nsong a,{sounds / 'deep' / 't0.wav'}\n")
    matrix, _ = extract(tmp_path / "w", "--files", path)
    walked, _ = extract(tmp_path / "walk", "--audio", sounds)
    ids = (tmp_path / "walk" / "trackid_sorted.csv").read_text().split()
    assert (tmp_path / "w" / "trackid_sorted.csv").read_text() == "idx,trackid\n0,song a\n1,song b\n"
    np.testing.assert_array_equal(matrix[0], walked[ids.index("2,t0") - 1])


@pytest.mark.parametrize("text", [
    "trackid,path\nsong a,deep/t0.wav\nsong b,deep/t1.wav\n", "track_id,path\nsong a,deep/t0.wav\nsong b,deep/t1.wav\n",
    '"trackid","path"\n"song a","deep/t0.wav"\n"song b","deep/t1.wav"\n', "\n id , Path \nsong a , deep/t0.wav\n \n"
    " song b,  deep/t1.wav  \n", "trackid\tpath\nsong a\tdeep/t0.wav\nsong b\tdeep/t1.wav\n",
    "\ufeffpath\tseconds\tTrackID\r\ndeep/t0.wav\t3\tsong a\r\ndeep/t1.wav\t3\tsong b\r\n"])
def test_headers_and_cells_of_a_list_in_any_usual_writing(sounds, tmp_path, text):
    path = listed(sounds, tmp_path, text)
    assert file_lists.read(path) == {f"song {x}": sounds / f"deep/t{i}.wav" for i, x in enumerate("ab")}


@pytest.mark.parametrize("text", ['path\ndeep/t0.wav\n"deep/t1, live.wav"\n',
                                  '"path"\ndeep/t0.wav\n"deep/t1, live.wav"',
                                  "deep/t0.wav\ndeep/t1, live.wav\n", "deep/t1, live.wav\ndeep/t0.wav\n"])
def test_paths_alone_with_and_without_a_header(sounds, tmp_path, text):
    assert file_lists.read(listed(sounds, tmp_path, text)) == {
        "t0": sounds / "deep" / "t0.wav", "t1, live": sounds / "deep" / "t1, live.wav"}


def test_names_of_files_are_taken_as_they_are(tmp_path):
    names = ["~b", "c\u2028d", "e\x85f", "g\x1ch", "i,j"]
    for name in names:
        write(tmp_path / f"{name}.wav", tone(1, 22050), 22050)
    (tmp_path / "list.txt").write_text("".join(f"{name}.wav\r\n" for name in names), encoding="utf-8", newline="")
    assert file_lists.read(tmp_path / "list.txt") == {name: tmp_path / f"{name}.wav" for name in names}
    extract(tmp_path / "w", "--files", tmp_path / "list.txt")


def test_the_home_of_the_user_in_a_list(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "list.txt").write_text("~/a.wav\n")
    assert file_lists.read(tmp_path / "list.txt") == {"a": tmp_path / "home" / "a.wav"}


def test_blanks_around_an_id_are_no_part_of_it(tmp_path):
    write(tmp_path / " a.wav", tone(1, 22050), 22050)
    files = {"a": tmp_path / " a.wav"}
    assert file_lists.paths_of(files, [" a"], "list") == list(files.values())
    assert audio.find(tmp_path, ["a"]) == audio.find(tmp_path, ["a "]) == list(files.values())
    audio.make_track_list(tmp_path / "trackid_sorted.csv", tmp_path)
    assert (tmp_path / "trackid_sorted.csv").read_text() == "idx,trackid\n0,a\n"
    write(tmp_path / "a .flac", tone(1, 22050), 22050)
    with pytest.raises(WorkError, match="' a.wav' and 'a .flac'|'a .flac' and ' a.wav'"):
        audio.find(tmp_path, ["a"])


def test_a_name_with_a_carriage_return_is_named_and_skipped(tmp_path, capsys):
    (tmp_path / "sounds").mkdir()
    for name in ("a\rb.wav", "c\nd.wav"):
        write(tmp_path / "sounds" / name, tone(1, 22050), 22050)
    extract(tmp_path / "w", "--audio", tmp_path / "sounds")
    assert r"holds a carriage return, as no track id may: a\rb.wav; rename" in capsys.readouterr().err
    assert dataset.read_tracks(tmp_path / "w")[0] == ["c\nd"]


@pytest.mark.parametrize("header", ["track,path", "trackid;path", "trackid,filename", "id\tfile", "idx,trackid",
                                    '"file name","seconds"', "song|audio_path"])
def test_a_header_of_another_table_is_refused(sounds, tmp_path, header):
    """Each of its rows would be a track of a name that nobody has."""
    with pytest.raises(WorkError, match="is no header that is read here; write trackid,path") as refused:
        file_lists.read(listed(sounds, tmp_path, f"{header}\na,deep/t0.wav\n"))
    assert "\n" not in str(refused.value)


def test_tracks_that_a_list_lacks_fail_with_a_reason(sounds, tmp_path):
    extract(tmp_path / "w", "--audio", sounds)
    (tmp_path / "w" / "embeddings" / "mfcc.npy").unlink()
    matrix, about = extract(tmp_path / "w", "--files", listed(sounds, tmp_path, "deep/t3.wav\ndeep/absent.wav\n"))
    assert np.isfinite(matrix).all(axis=1).sum() == 1 and len(about["failed"]) == 7


@pytest.mark.parametrize(("text", "says"), [
    ("", "names no file"), ("a.wav\nb/a.wav\n", "more than one file"),
    ("trackid,path\na,b,c\n", "line 2: the row has 3"), ("track_id,path\n ,t0.wav\n", "line 2: the row has no trackid"),
    ("trackid,path\na, \n", "line 2: the row has no path"),
    ("x.wav\ny.wav\n", "none of the 8 tracks"), (b"\xff\xfe.wav", "not text in UTF-8"),
    (b"deep/t0.wav\ndeep/\0.wav\n", "has NUL bytes")])
def test_lists_that_are_none_are_refused(sounds, tmp_path, text, says):
    extract(tmp_path / "w", "--audio", sounds)
    path = tmp_path / "list.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(WorkError, match=says):
        extract(tmp_path / "w", "--files", path, "--overwrite")


def test_a_list_that_is_absent_and_both_ways_at_once(sounds, tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        file_lists.read(tmp_path / "no.csv")
    with pytest.raises(UsageError, match="give one of the two"):
        extract(tmp_path / "w", "--audio", sounds, "--files", tmp_path / "no.csv")
    with pytest.raises(UsageError, match="--audio DIR is required"):
        extract(tmp_path / "w")


# --------------------------------------------------------------------------- failures

def test_more_failures_than_allowed_end_the_run_and_keep_what_is_finished(sounds, tmp_path):
    with pytest.raises(WorkError, match="2 tracks of .* could not be used, more than --max-failures 1; the latest: b"):
        extract(tmp_path / "w", "--audio", sounds, "--max-failures", 1)
    assert not (tmp_path / "w" / "embeddings" / "mfcc.npy").exists()
    assert list((tmp_path / "w" / "embeddings").glob(".mfcc.partial/*"))
    matrix, about = extract(tmp_path / "w", "--audio", sounds, "--max-failures", 2)
    assert len(about["failed"]) == 2 and np.isfinite(matrix).all(axis=1).sum() == 6
    for flags in (["--audio", sounds], ["--merge"]):     # a finished matrix is asked, too
        with pytest.raises(WorkError, match="2 tracks of the finished matrix could not be used, more than --max-fail"):
            extract(tmp_path / "w", *flags, "--max-failures", 1)


def test_the_same_command_again_does_not_pass_the_limit(sounds, tmp_path):
    """The batch that went beyond it is saved: a retry found nothing to check but the next one, and ended well."""
    folder = shutil.copytree(sounds, tmp_path / "sounds")
    for _ in range(6):      # of four batches
        with pytest.raises(WorkError, match="2 tracks of shard 0/1 could not be used, more than --max-failures 1"):
            extract(tmp_path / "w", "--audio", folder, "--max-failures", 1)
    assert not (tmp_path / "w" / "embeddings" / "mfcc.npy").exists()
    shutil.copy(folder / "deep" / "t0.wav", folder / "deep" / "bad2.wav")   # what is known of the empty one is past
    _, about = extract(tmp_path / "w", "--audio", folder, "--max-failures", 1)
    assert [failed["trackid"] for failed in about["failed"].values()] == ["bad1"]


def test_merging_counts_the_failures_of_all_shards(sounds, tmp_path):
    for i in range(2):      # one track of each fails
        mfcc.main(["--workdir", str(tmp_path / "w"), "--audio", str(sounds), "--batch", "1", "--shard", f"{i}/2",
                   "--max-failures", "1"])
    with pytest.raises(WorkError, match="2 tracks of all shards could not be used, more than --max-failures 1"):
        extract(tmp_path / "w", "--merge", "--max-failures", 1)
    assert not (tmp_path / "w" / "embeddings" / "mfcc.npy").exists()
    _, about = extract(tmp_path / "w", "--merge", "--max-failures", 2)
    assert len(about["failed"]) == 2


# --------------------------------------------------------------------------- number format

def test_float16_is_half_as_large_and_near(sounds, tmp_path):
    exact, _ = extract(tmp_path / "w32", "--audio", sounds)
    half, about = extract(tmp_path / "w16", "--audio", sounds, "--dtype", "float16")
    assert half.dtype == np.float16 and about["dtype"] == "float16"
    np.testing.assert_array_equal(half, exact.astype(np.float16))
    with pytest.raises(UsageError, match="made with other settings"):
        extract(tmp_path / "w16", "--audio", sounds)


def test_values_beyond_float16_are_refused():
    with pytest.raises(WorkError, match="float16 cannot hold"):
        shards.narrowed(np.array([[1.0, 70000.0]], np.float32), np.dtype("<f2"), "x.npy")
    kept = shards.narrowed(np.array([[np.nan, np.inf]], np.float32), np.dtype("<f2"), "x.npy")
    assert np.isnan(kept[0, 0]) and np.isinf(kept[0, 1])
