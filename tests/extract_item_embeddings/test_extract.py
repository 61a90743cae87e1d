"""Stage 1 through its command line: rows, reasons, shards, resumption, and everything that can go wrong."""
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile

import dataset
from extract_item_embeddings import mfcc
from harness.errors import UsageError, WorkError
from harness.files import checksum
from harness.progress import EXIT_RESUMABLE
from harness.readers import read_json
from tests.conftest import ROOT
from tests.extract_item_embeddings.test_audio import cut, tone, write


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """21 files: 17 that sound, of four kinds, one silent, one truncated, one empty, one that is text."""
    folder = tmp_path_factory.mktemp("sounds")
    for i in range(17):
        rate = (22050, 44100, 48000)[i % 3]
        samples = tone(1 + 0.1 * i, rate, 200 + 50 * i, seed=i)
        write(folder / f"t{i:02}.{('wav', 'flac', 'ogg', 'mp3')[i % 4]}", samples, rate)
    write(folder / "silent.wav", np.zeros(22050, np.float32), 22050)
    cut(write(folder / "truncated.flac", tone(4)), 0.6)
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.mp3").write_text("this is no audio " * 99)
    return folder


@pytest.fixture(scope="module")
def single(sounds, tmp_path_factory):
    """The workspace of one undisturbed run."""
    work = tmp_path_factory.mktemp("single")
    extract(work, sounds)
    return work


def extract(work, sounds, *flags, batch=4):
    return mfcc.main(["--workdir", str(work), "--audio", str(sounds), "--batch", str(batch), *flags])


def command(*argv):
    return subprocess.run([sys.executable, *map(str, argv)], cwd=ROOT, capture_output=True, text=True, timeout=300)


def output(work, name="mfcc"):
    """Bytes of the matrix, and the provenance but for the state of the code, which may change between two runs."""
    about = read_json(work / "embeddings" / f"{name}.json")
    assert set(about.pop("git")) <= {"commit", "dirty"}
    return (work / "embeddings" / f"{name}.npy").read_bytes(), about


# --------------------------------------------------------------------------- rows and provenance

def test_row_i_is_track_i(sounds, single):
    ids, digest = dataset.read_tracks(single)
    assert ids == sorted(p.stem for p in sounds.iterdir())
    matrix, about = np.load(single / "embeddings/mfcc.npy"), read_json(single / "embeddings/mfcc.json")
    assert matrix.shape == (21, 104) and matrix.dtype == np.float32
    bad = [ids.index("empty"), ids.index("text")]
    assert np.isnan(matrix[bad]).all() and np.isfinite(np.delete(matrix, bad, axis=0)).all()
    assert {int(k): v["trackid"] for k, v in about["failed"].items()} == {bad[0]: "empty", bad[1]: "text"}
    assert about["failed"][str(bad[0])]["reason"] == "the file is empty (0 bytes)"
    assert [v["trackid"] for v in about["incomplete"].values()] == ["truncated"]
    assert about["track_checksum"] == digest
    assert about["matrix_checksum"] == checksum(single / "embeddings/mfcc.npy")
    for key, value in {"backend": "mfcc", "sample_rate": 22050, "seconds": 30, "dim": 104, "weights": None,
                       "pooling": "mean and covariance over time"}.items():
        assert about[key] == value
    assert {"numpy", "librosa", "soundfile", "soxr", "python"} <= set(about["versions"])
    samples, _ = soundfile.read(sounds / "t00.wav", dtype="float32")
    values, _ = mfcc.MFCC(None).prepare(samples)
    assert np.allclose(matrix[ids.index("t00")], values[0], rtol=1e-4, atol=1e-4)


def test_the_track_list_of_the_workspace_decides(sounds, tmp_path, capsys):
    (tmp_path / "trackid_sorted.csv").write_text("idx,trackid\n0,absent\n1,t03\n2,t01\n")
    extract(tmp_path, sounds)
    matrix, about = np.load(tmp_path / "embeddings/mfcc.npy"), read_json(tmp_path / "embeddings/mfcc.json")
    assert np.isnan(matrix).all(axis=1).tolist() == [True, False, False]
    assert about["failed"] == {"0": {"trackid": "absent", "reason": "no file of this name"}}
    said = capsys.readouterr().out
    assert "2 of 3 tracks have an embedding of 104 values, 1 have none" in said
    assert "absent: no file of this name" in said
    assert re.search(r"3 tracks in .* tracks/s, .* x real time; the model waited for audio \d+ %", said)


def test_the_excerpt_is_in_the_name_and_in_the_values(sounds, single, tmp_path):
    extract(tmp_path, sounds, "--seconds", "0.5", "--offset", "middle")
    whole, part = np.load(single / "embeddings/mfcc.npy"), np.load(tmp_path / "embeddings/mfcc-0.5s-middle.npy")
    assert whole.shape == part.shape and not np.allclose(whole, part, equal_nan=True)


def test_both_ways_of_running_and_a_light_help(sounds, single, tmp_path):
    for way in (["extract_item_embeddings/mfcc.py"], ["-m", "extract_item_embeddings.mfcc"]):
        work = tmp_path / way[-1].replace("/", "-")
        done = command(*way, "--audio", sounds, "--workdir", work, "--batch", 4)
        assert done.returncode == 0, done.stderr
        assert output(work)[0] == output(single)[0]
        assert "libmpg123" not in done.stderr
    done = command("-c", "import extract_item_embeddings.mfcc, extract_item_embeddings.musicnn, sys; "
                   "print({'torch', 'librosa', 'pandas', 'scipy', 'soundfile'} & set(sys.modules))")
    assert done.stdout == "set()\n"
    for script in ("mfcc", "musicnn"):
        assert "--shard" in command(f"extract_item_embeddings/{script}.py", "--help").stdout


# --------------------------------------------------------------------------- shards, kills, signals

@pytest.mark.parametrize("n", [2, 3, 9])  # nine shards of six batches: some have nothing to do
def test_merged_shards_are_the_single_run(sounds, single, tmp_path, n):
    for i in reversed(range(n)):
        extract(tmp_path, sounds, "--shard", f"{i}/{n}", "--workers", str(1 + i % 2))
        assert not (tmp_path / "embeddings/mfcc.npy").exists()
    mfcc.main(["--workdir", str(tmp_path), "--merge"])
    assert output(tmp_path) == output(single)
    assert {"mfcc.json", "mfcc.npy"} == {*os.listdir(tmp_path / "embeddings")} - {".audio_files.parquet"}
    mfcc.main(["--workdir", str(tmp_path), "--merge"])  # once more is harmless
    assert output(tmp_path) == output(single)


def test_merge_names_what_is_missing(sounds, tmp_path):
    with pytest.raises(WorkError, match="nothing to merge: no shard"):
        extract(tmp_path, sounds, "--merge")
    extract(tmp_path, sounds, "--shard", "0/3")
    extract(tmp_path, sounds, "--shard", "2/3")
    journal = tmp_path / "embeddings/.mfcc.partial/shard-2-of-3/journal.jsonl"
    journal.write_bytes(journal.read_bytes().splitlines(keepends=True)[0])
    with pytest.raises(WorkError, match="shard 1/3 has not begun; shard 2/3 lacks 1 of 2 batches"):
        extract(tmp_path, sounds, "--merge")
    extract(tmp_path, sounds, "--shard", "2/3")
    with pytest.raises(UsageError, match="begun with other settings .*seconds 30.0, now 9.0"):
        extract(tmp_path, sounds, "--shard", "0/3", "--seconds", "9", "--name", "mfcc")
    extract(tmp_path, sounds, "--shard", "1/3", "--seconds", "9", "--name", "mfcc")
    with pytest.raises(WorkError, match="shard 1/3 was made with other settings .*seconds 30.0, now 9.0"):
        extract(tmp_path, sounds, "--merge")
    assert not (tmp_path / "embeddings/mfcc.npy").exists()


def test_abandoned_shards_are_not_mixed_with_others(sounds, single, tmp_path):
    extract(tmp_path, sounds, "--shard", "0/3")
    extract(tmp_path, sounds, "--shard", "0/2")
    with pytest.raises(WorkError, match="cannot merge: shards of 2 and of 3 are under"):
        extract(tmp_path, sounds, "--merge")
    extract(tmp_path, sounds)  # a single run needs none of them
    assert output(tmp_path) == output(single)


def test_older_shards_do_not_replace_a_newer_matrix(sounds, single, tmp_path, capsys):
    for i in range(2):
        extract(tmp_path, sounds, "--shard", f"{i}/2", batch=8)
    extract(tmp_path, sounds)      # the shards stay beside it, as they are of other batches
    with pytest.raises(WorkError, match="cannot merge: .*mfcc.npy is newer than the shards under .*mfcc.partial"):
        extract(tmp_path, sounds, "--merge")
    assert output(tmp_path) == output(single)
    extract(tmp_path, sounds, "--merge", "--overwrite")
    assert read_json(tmp_path / "embeddings/mfcc.json")["batch"] == 8
    assert not (tmp_path / "embeddings/.mfcc.partial").exists()


def test_shards_of_the_same_request_are_merged_beside_a_newer_matrix(sounds, single, tmp_path):
    """As after a kill between the matrix and the removal of its shards; a damaged matrix is written again."""
    for i in range(2):
        extract(tmp_path, sounds, "--shard", f"{i}/2")
    extract(tmp_path, sounds)
    (tmp_path / "embeddings/mfcc.npy").write_bytes(b"damaged")
    extract(tmp_path, sounds, "--merge")
    assert output(tmp_path) == output(single) and not (tmp_path / "embeddings/.mfcc.partial").exists()


def test_newer_shards_replace_an_older_matrix(sounds, single, tmp_path):
    extract(tmp_path, sounds, batch=8)
    for i in range(2):
        extract(tmp_path, sounds, "--shard", f"{i}/2", "--overwrite")
    extract(tmp_path, sounds, "--merge")
    assert output(tmp_path) == output(single)


@pytest.fixture(scope="module")
def many(sounds, tmp_path_factory):
    """240 tracks, links to four of the files: enough work to be interrupted."""
    folder = tmp_path_factory.mktemp("many")
    for i in range(240):
        (folder / f"m{i:03}.wav").symlink_to(sounds / f"t{4 * (i % 4):02}.wav")
    return folder


def interrupted(work, many, number, lines):
    """Start shard 0/1, send a signal once `lines` batches are saved; exit status and the batches saved."""
    journal = work / "embeddings/.mfcc.partial/shard-0-of-1/journal.jsonl"
    before = len(batches(journal))
    process = subprocess.Popen([sys.executable, "-m", "extract_item_embeddings.mfcc", "--audio", many, "--workdir",
                                work, "--batch", "4", "--shard", "0/1"], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while len(batches(journal)) < before + lines and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(number)
    said = process.communicate(timeout=300)[1]
    return process.returncode, said, batches(journal)


def batches(journal):
    found = []
    for line in journal.read_bytes().splitlines() if journal.exists() else []:
        try:
            found.append(json.loads(line)["batch"])
        except ValueError:
            pass  # the line that a kill cut
    return found


def test_killed_and_asked_to_stop_it_goes_on_where_it_was(many, tmp_path):
    """Twice SIGKILL, once SIGUSR1, then to the end: the bytes of an undisturbed run, no batch computed twice."""
    extract(tmp_path / "calm", many)
    work = tmp_path / "shaken"
    for number, lines in ((signal.SIGKILL, 1), (signal.SIGKILL, 7)):
        status, _, _ = interrupted(work, many, number, lines)
        assert status == -signal.SIGKILL
    status, said, saved = interrupted(work, many, signal.SIGUSR1, 2)
    assert status == EXIT_RESUMABLE
    assert "shard 0/1: stopped by a signal; everything is saved, the same command continues" in said
    assert 10 <= len(saved) < 60
    extract(work, many, "--shard", "0/1")
    journal = work / "embeddings/.mfcc.partial/shard-0-of-1/journal.jsonl"
    assert batches(journal)[:len(saved)] == saved  # nothing that was saved is done again,
    assert sorted(batches(journal)) == list(range(60))  # and each batch once
    mfcc.main(["--workdir", str(work), "--merge"])
    assert output(work) == output(tmp_path / "calm")


def test_signals_are_given_back(sounds, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    extract(tmp_path, sounds)
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_a_crash_may_leave_is_done_again(sounds, single, tmp_path):
    """A journal line cut in the middle, and rows that are not what their line says."""
    extract(tmp_path, sounds, "--shard", "0/1")
    folder = tmp_path / "embeddings/.mfcc.partial/shard-0-of-1"
    lines = (folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "journal.jsonl").write_bytes(b"".join(lines[:-1]) + lines[-1][:20])
    with open(folder / "rows.f32", "r+b") as f:
        f.seek(100)
        f.write(b"\xff\xff")
    with pytest.raises(WorkError, match="shard 0/1 lacks 2 of 6 batches"):
        extract(tmp_path, sounds, "--merge")
    extract(tmp_path, sounds, "--shard", "0/1")
    extract(tmp_path, sounds, "--merge")
    assert output(tmp_path) == output(single)


# --------------------------------------------------------------------------- done before, changed since

def test_finished_work_is_skipped_and_changes_are_noticed(sounds, tmp_path, capsys):
    mine = tmp_path / "sounds"
    mine.mkdir()
    for i in range(3):
        write(mine / f"{i}.wav", tone(seed=i))
    extract(tmp_path, mine)
    assert f"next: split with preprocess/1_train_test_split.py, then python knn.py mfcc --workdir {tmp_path}" in (
        capsys.readouterr().out)
    first = output(tmp_path)
    stamp = (tmp_path / "embeddings/mfcc.npy").stat().st_mtime_ns
    extract(tmp_path, mine)
    assert "mfcc: finished before, skipped" in capsys.readouterr().err
    assert (tmp_path / "embeddings/mfcc.npy").stat().st_mtime_ns == stamp
    with pytest.raises(UsageError, match=r"other settings \(seconds 30.0, now 1.0\); choose another --name"):
        extract(tmp_path, mine, "--seconds", "1", "--name", "mfcc")
    extract(tmp_path, mine, "--overwrite")
    assert output(tmp_path) == first and (tmp_path / "embeddings/mfcc.npy").stat().st_mtime_ns != stamp
    write(mine / "1.wav", tone(seed=9))
    extract(tmp_path, mine)
    assert "mfcc: made again, because audio files changed since" in capsys.readouterr().err
    old, new = (np.frombuffer(x[0][-3 * 416:], np.float32).reshape(3, 104) for x in (first, output(tmp_path)))
    assert np.array_equal(old[[0, 2]], new[[0, 2]]) and not np.array_equal(old[1], new[1])
    (tmp_path / "trackid_sorted.csv").write_text("idx,trackid\n0,2\n1,0\n")
    extract(tmp_path, mine)
    assert "mfcc: made again, because the track list changed since" in capsys.readouterr().err
    assert np.array_equal(np.load(tmp_path / "embeddings/mfcc.npy"), new[[2, 0]])


def test_a_begun_shard_notices_changed_files(tmp_path):
    mine = tmp_path / "sounds"
    mine.mkdir()
    for i in range(8):
        write(mine / f"{i}.wav", tone(seed=i))
    extract(tmp_path, mine, "--shard", "0/2", batch=2)
    write(mine / "0.wav", tone(seed=9))  # batch 0 of the four
    for i in (0, 1):
        extract(tmp_path, mine, "--shard", f"{i}/2", batch=2)
    extract(tmp_path, mine, "--merge")
    extract(tmp_path / "fresh", mine, batch=2)
    assert output(tmp_path) == output(tmp_path / "fresh")


def test_a_matrix_of_unknown_origin_is_not_touched(sounds, tmp_path):
    (tmp_path / "embeddings").mkdir()
    np.save(tmp_path / "embeddings/mfcc.npy", np.ones((21, 3)))
    with pytest.raises(UsageError, match="without the json that records its settings; choose another --name"):
        extract(tmp_path, sounds)
    assert np.load(tmp_path / "embeddings/mfcc.npy").shape == (21, 3)


def test_two_at_once(sounds, tmp_path):
    from extract_item_embeddings.engine import shards
    held = shards.Shard(tmp_path / "embeddings/.mfcc.partial", 0, 1, shards.Plan(21, 4, 104))
    with held:
        held.begin({"held": True})
        with pytest.raises(WorkError, match="is being written by another process right now"):
            extract(tmp_path, sounds)


# ------------------------------------------------------- contradictory options and values out of range

@pytest.mark.parametrize("flags, sentence", [
    ([], "--audio DIR is required"),
    (["--audio", "nowhere"], "--audio nowhere is not a folder"),
    (["--audio", ".", "--shard", "8/8"], "--shard must be I/N with I from 0 to N-1, such as 0/8 or 7/8, not 8/8"),
    (["--audio", ".", "--shard", "half"], "such as 0/8 or 7/8, not half"),
    (["--shard", "0/2", "--merge"], "--merge joins all shards and --shard extracts one"),
    (["--audio", ".", "--batch", "0"], "--batch must be at least 1, not 0"),
    (["--audio", ".", "--workers", "-1"], "--workers must be at least 1, not -1"),
    (["--audio", ".", "--seconds", "-3"], "--seconds must be 0 (the whole track) or at least 0.1, not -3"),
    (["--audio", ".", "--seconds", "nan"], "or at least 0.1, not nan"),
    (["--audio", ".", "--name", "../x"], "--name '../x' is not a name of an embedding"),
    (["--audio", ".", "--layer", "3"], "unrecognized arguments: --layer 3"),
])
def test_bad_requests(tmp_path, flags, sentence):
    done = command("-m", "extract_item_embeddings.mfcc", "--workdir", tmp_path / "w", *flags)
    assert done.returncode == 2 and sentence in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "w").exists()


def test_when_no_track_can_be_used_nothing_is_written(tmp_path):
    (tmp_path / "sounds").mkdir()
    for name in "ab":
        (tmp_path / "sounds" / f"{name}.wav").write_text("no")
    done = command("-m", "extract_item_embeddings.mfcc", "--workdir", tmp_path / "w", "--audio", tmp_path / "sounds")
    assert done.returncode == 1
    assert "no track could be used, so mfcc.npy is not written; the first reason: a: not readable" in done.stderr
    assert not (tmp_path / "w/embeddings/mfcc.npy").exists()


@pytest.mark.parametrize("text, sentence", [
    ("idx,trackid\n0,a\n1,a\n", "1 duplicate track ids"), ("trackid\na\n", "must have the columns idx,trackid"),
    ("idx,trackid\n", "has no tracks")])
def test_bad_track_lists(sounds, tmp_path, text, sentence):
    (tmp_path / "trackid_sorted.csv").write_text(text)
    with pytest.raises(WorkError, match=sentence):
        extract(tmp_path, sounds)
    assert (tmp_path / "trackid_sorted.csv").read_text() == text


def test_a_folder_without_audio(tmp_path):
    (tmp_path / "sounds").mkdir()
    with pytest.raises(WorkError, match="no audio file under .*files named <track id>.<extension> are expected"):
        extract(tmp_path, tmp_path / "sounds")
    assert not (tmp_path / "trackid_sorted.csv").exists()


def test_embeddings_that_is_a_file(sounds, tmp_path):
    (tmp_path / "embeddings").write_text("in the way")
    done = command("-m", "extract_item_embeddings.mfcc", "--workdir", tmp_path, "--audio", sounds)
    assert done.returncode == 1 and "a file of that name is in the way" in done.stderr
    assert (tmp_path / "embeddings").read_text() == "in the way"


def test_a_full_disk_loses_no_finished_batch(many, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", disk], capture_output=True, text=True)
    if mount.returncode:
        pytest.skip(f"cannot mount a small tmpfs: {mount.stderr.strip()}")
    try:
        flags = ["-m", "extract_item_embeddings.mfcc", "--workdir", disk, "--audio", many, "--batch", "4"]
        done = command(*flags)
        assert done.returncode == 1 and "the disk is full" in done.stderr and "Traceback" not in done.stderr
        journal = disk / "embeddings/.mfcc.partial/shard-0-of-1/journal.jsonl"
        saved = batches(journal)
        assert saved and not (disk / "embeddings/mfcc.npy").exists()
        subprocess.run(["mount", "-o", "remount,size=1m", disk], check=True)
        assert command(*flags, "--shard", "0/1").returncode == 0
        assert batches(journal)[:len(saved)] == saved and sorted(batches(journal)) == list(range(60))
    finally:
        subprocess.run(["umount", disk], check=True)
