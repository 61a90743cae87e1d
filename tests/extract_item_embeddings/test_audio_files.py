"""Audio files are recognised by size and content: copies, changes behind unchanged times, files of earlier versions."""
import hashlib
import os
import shutil

import numpy as np
import pytest

from extract_item_embeddings import __main__ as several
from extract_item_embeddings import mfcc
from extract_item_embeddings.engine import audio, audio_files
from harness.files import checksum, write_json
from harness.readers import read_json
from tests.extract_item_embeddings.test_audio import tone, write

N = 5


@pytest.fixture
def sounds(tmp_path):
    folder = tmp_path / "sounds"
    folder.mkdir()
    for i in range(N):
        write(folder / f"t{i}.{('wav', 'flac')[i % 2]}", tone(1, seed=i))
    return folder


@pytest.fixture
def seen(monkeypatch):
    """What is decoded and what is read for a hash, by name; files written just before are remembered all the same."""
    record = {"decoded": [], "hashed": []}

    def spy(function, names):
        return lambda path, *rest: names.append(path.name) or function(path, *rest)
    monkeypatch.setattr(audio_files, "SETTLED", -1)
    monkeypatch.setattr(audio, "decode", spy(audio.decode, record["decoded"]))
    monkeypatch.setattr(audio_files, "checksum", spy(checksum, record["hashed"]))
    return record


def extract(work, folder, *flags):
    return mfcc.main(["--workdir", str(work), "--audio", str(folder), "--batch", "2", *flags])


def written(work):
    """Times and bytes of the matrix and its json."""
    return {name: ((work / "embeddings" / name).stat().st_mtime_ns, (work / "embeddings" / name).read_bytes())
            for name in ("mfcc.npy", "mfcc.json")}


def clear(seen):
    for names in seen.values():
        names.clear()


def names_of(folder):
    return sorted(p.name for p in folder.iterdir())


def rewritten(path, samples):
    """Write other samples into a file of the same size, and set its modification time back."""
    before = path.stat()
    write(path, samples)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


# --------------------------------------------------------------------------- copies

def test_an_unchanged_folder_costs_no_reading(sounds, tmp_path, seen, capsys):
    extract(tmp_path / "w", sounds)
    assert sorted(seen["hashed"]) == sorted(seen["decoded"]) == names_of(sounds)  # once, while extracting
    clear(seen)
    extract(tmp_path / "w", sounds)
    assert seen == {"decoded": [], "hashed": []}
    assert "mfcc: finished before, skipped (--overwrite" in capsys.readouterr().err


def test_a_copied_folder_is_compared_once_and_not_extracted_again(sounds, tmp_path, seen, capsys):
    extract(tmp_path / "w", sounds)
    first = written(tmp_path / "w")
    shutil.copytree(sounds, tmp_path / "copy", copy_function=shutil.copyfile)  # every time is new
    for path in (tmp_path / "copy").iterdir():
        os.utime(path, (1, 1))
    clear(seen)
    extract(tmp_path / "w", tmp_path / "copy")
    said = capsys.readouterr().err
    assert seen["decoded"] == [] and sorted(seen["hashed"]) == names_of(sounds)
    assert f"comparing the content of {N} audio files (" in said and "as their times or folder are new\n" in said
    assert f"mfcc: finished before, skipped; the content of {N} audio files was compared and is the same (" in said
    assert written(tmp_path / "w") == first
    clear(seen)
    extract(tmp_path / "w", tmp_path / "copy")
    extract(tmp_path / "w", sounds)
    assert seen == {"decoded": [], "hashed": []} and "comparing" not in capsys.readouterr().err


def test_new_times_of_one_file_cost_reading_that_file(sounds, tmp_path, seen, capsys):
    extract(tmp_path / "w", sounds)
    os.utime(sounds / "t3.flac")
    clear(seen)
    extract(tmp_path / "w", sounds)
    assert seen == {"decoded": [], "hashed": ["t3.flac"]}
    assert "the content of 1 audio files was compared and is the same" in capsys.readouterr().err


def test_shards_see_the_same(sounds, tmp_path, seen, capsys):
    for i in range(2):
        extract(tmp_path / "w", sounds, "--shard", f"{i}/2")
    mfcc.main(["--workdir", str(tmp_path / "w"), "--merge"])
    extract(tmp_path / "single", sounds)
    checksums = {read_json(tmp_path / w / "embeddings/mfcc.json")["audio_checksum"] for w in ("w", "single")}
    assert len(checksums) == 1 and checksums.pop().startswith("sha256-")
    first = written(tmp_path / "w")
    clear(seen)
    for folder in (sounds, shutil.copytree(sounds, tmp_path / "copy")):
        for i in range(2):
            extract(tmp_path / "w", folder, "--shard", f"{i}/2")
    assert seen["decoded"] == [] and len(seen["hashed"]) == N  # by the first shard of the copy
    assert capsys.readouterr().err.count("finished before, skipped") == 4
    assert written(tmp_path / "w") == first


def test_a_begun_extraction_goes_on_after_its_folder_was_copied(sounds, tmp_path, seen):
    extract(tmp_path / "w", sounds, "--shard", "0/2")
    clear(seen)
    copy = shutil.copytree(sounds, tmp_path / "copy", copy_function=shutil.copyfile)
    for i in range(2):
        extract(tmp_path / "w", copy, "--shard", f"{i}/2")
    assert sorted(seen["decoded"]) == ["t2.wav", "t3.flac"]  # batch 1 of the three
    assert sorted(seen["hashed"]) == names_of(sounds)
    clear(seen)
    extract(tmp_path / "w", copy, "--shard", "0/2")  # what a killed extraction had hashed stands in its journal
    assert seen == {"decoded": [], "hashed": []}


def test_several_backends_hash_each_file_once(sounds, tmp_path, seen):
    words = ["mfcc", "mfcc --name other"]
    common = ["--audio", str(sounds), "--workdir", str(tmp_path / "w")]
    several.main([*words, *common])
    assert sorted(seen["hashed"]) == names_of(sounds)
    copy = shutil.copytree(sounds, tmp_path / "copy")
    clear(seen)
    several.main([*words, "--audio", str(copy), "--workdir", str(tmp_path / "w")])
    assert seen["decoded"] == [] and sorted(seen["hashed"]) == names_of(sounds)


# --------------------------------------------------------------------------- changes

def test_a_changed_file_of_the_same_size_and_time_is_noticed(sounds, tmp_path, seen, capsys):
    extract(tmp_path / "w", sounds)
    before = np.load(tmp_path / "w/embeddings/mfcc.npy")
    rewritten(sounds / "t2.wav", tone(1, seed=77))
    clear(seen)
    extract(tmp_path / "w", sounds)
    assert "mfcc: made again, because audio files changed since" in capsys.readouterr().err
    after = np.load(tmp_path / "w/embeddings/mfcc.npy")
    assert [np.array_equal(before[i], after[i]) for i in range(N)] == [True, True, False, True, True]
    assert seen["hashed"] == ["t2.wav"]


def test_a_begun_shard_notices_a_file_of_the_same_size_and_time(sounds, tmp_path, seen):
    extract(tmp_path / "w", sounds, "--shard", "0/2")
    rewritten(sounds / "t0.wav", tone(1, seed=77))
    clear(seen)
    for i in range(2):
        extract(tmp_path / "w", sounds, "--shard", f"{i}/2")
    assert sorted(seen["decoded"]) == ["t0.wav", "t1.flac", "t2.wav", "t3.flac"]
    mfcc.main(["--workdir", str(tmp_path / "w"), "--merge"])
    extract(tmp_path / "fresh", sounds)
    assert written(tmp_path / "w")["mfcc.npy"][1] == written(tmp_path / "fresh")["mfcc.npy"][1]


def test_a_file_that_changes_between_listing_and_decoding(sounds, tmp_path, seen):
    """The hash is of the bytes that were decoded, not of those at the start of a run of hours."""
    files = audio_files.AudioFiles(tmp_path, [sounds / "t0.wav"])
    write(sounds / "t0.wav", tone(2, seed=77))
    record = files.record(0, again=True)
    assert record[1] == (sounds / "t0.wav").stat().st_size and record[4] == checksum(sounds / "t0.wav")


def test_a_file_written_just_now_is_not_remembered(sounds, tmp_path, seen, monkeypatch):
    """It may change once more at what its file system calls the same time."""
    monkeypatch.setattr(audio_files, "SETTLED", 3600 * 10 ** 9)
    extract(tmp_path / "w", sounds)
    assert not (tmp_path / "w/embeddings" / audio_files.NAME).exists()
    clear(seen)
    extract(tmp_path / "w", sounds)
    assert seen["decoded"] == [] and sorted(seen["hashed"]) == names_of(sounds)


def test_a_missing_file_and_one_that_appears(sounds, tmp_path, seen, capsys):
    (tmp_path / "w").mkdir()
    (tmp_path / "w/trackid_sorted.csv").write_text("idx,trackid\n0,absent\n1,t0\n2,t1\n")
    extract(tmp_path / "w", sounds)
    extract(tmp_path / "w", sounds)
    assert "finished before, skipped" in capsys.readouterr().err
    write(sounds / "absent.wav", tone(1, seed=9))
    extract(tmp_path / "w", sounds)
    assert "made again, because audio files changed since" in capsys.readouterr().err
    assert np.isfinite(np.load(tmp_path / "w/embeddings/mfcc.npy")).all()


@pytest.mark.parametrize("damage", [lambda b: b[:40], lambda b: b"no parquet", lambda b: b""])
def test_a_damaged_table_of_known_files_is_made_again(sounds, tmp_path, seen, capsys, damage):
    extract(tmp_path / "w", sounds)
    table = tmp_path / "w/embeddings" / audio_files.NAME
    table.write_bytes(damage(table.read_bytes()))
    clear(seen)
    extract(tmp_path / "w", sounds)
    assert f"{table} is not used, so audio files are read again for their hashes" in capsys.readouterr().err
    assert seen["decoded"] == [] and len(seen["hashed"]) == N and len(audio_files.remembered(tmp_path / "w")) == N


# --------------------------------------------------------------------------- of earlier versions

def earlier(sounds):
    """The checksum that earlier versions wrote: of names, sizes and modification times."""
    total = 0
    for row, path in enumerate(sorted(sounds.iterdir())):
        s = path.stat()
        mark = hashlib.sha256(f"{row} {path.name} {s.st_size} {s.st_mtime_ns}".encode()).digest()
        total += int.from_bytes(mark[:8], "little")
    return f"{total % 2 ** 64:016x}"


def test_an_embedding_of_an_earlier_version_is_not_extracted_again(sounds, tmp_path, seen, capsys):
    extract(tmp_path / "w", sounds)
    path = tmp_path / "w/embeddings/mfcc.json"
    write_json(path, {**read_json(path), "audio_checksum": earlier(sounds)})
    (tmp_path / "w/embeddings" / audio_files.NAME).unlink()
    clear(seen)
    extract(tmp_path / "w", sounds)
    assert "finished before, skipped (" in capsys.readouterr().err and seen == {"decoded": [], "hashed": []}
    os.utime(sounds / "t1.flac", (5, 5))
    extract(tmp_path / "w", sounds)
    said = capsys.readouterr().err
    assert "mfcc: made again, because the times of audio files changed since, and mfcc.json, of an earlier" in said
    assert read_json(path)["audio_checksum"].startswith("sha256-")


def test_an_extraction_begun_by_an_earlier_version_goes_on(sounds, tmp_path, seen, capsys):
    import json
    extract(tmp_path / "w", sounds, "--shard", "0/1")
    journal = tmp_path / "w/embeddings/.mfcc.partial/shard-0-of-1/journal.jsonl"
    lines = [{k: v for k, v in json.loads(line).items() if k != "audio"} for line in journal.read_text().splitlines()]
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines[:2]))
    clear(seen)
    extract(tmp_path / "w", sounds)
    assert seen["decoded"] == ["t4.wav"]  # the third batch
    assert read_json(tmp_path / "w/embeddings/mfcc.json")["audio_checksum"] == earlier(sounds)
    capsys.readouterr()
    extract(tmp_path / "w", sounds)
    assert "finished before, skipped (" in capsys.readouterr().err
