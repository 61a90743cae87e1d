"""Failures of the machine are no facts about a track: they end the run, and what an earlier one noted is done again.

    python -m pytest tests/extract_item_embeddings/test_machine_failures.py
"""
import errno
import json
import os
import resource
import shutil

import numpy as np
import pytest

from extract_item_embeddings import mfcc
from extract_item_embeddings.engine import audio, audio_files
from harness import cli
from harness.readers import read_json
from tests.extract_item_embeddings.test_audio import tone, write


@pytest.fixture
def sounds(tmp_path):
    folder = tmp_path / "sounds"
    folder.mkdir()
    for i in range(6):
        write(folder / f"t{i}.wav", tone(1, 22050, 200 + 50 * i, seed=i), 22050)
    return folder


@pytest.fixture
def extract(tmp_path, sounds, capsys):
    """Run mfcc over the sounds: exit status and stderr."""
    def run(*flags):
        with pytest.raises(SystemExit) as end:
            cli.run(mfcc.main, ["--workdir", str(tmp_path / "w"), "--audio", str(sounds), "--batch", "2",
                                "--workers", "1", *flags])
        return end.value.code, capsys.readouterr().err
    return run


def failing_at(monkeypatch, place, name, track, error):
    """`place.name` raises `error` for one track."""
    real = getattr(place, name)

    def function(path, *args, **kwargs):
        if track in str(path):
            raise error
        return real(path, *args, **kwargs)
    monkeypatch.setattr(place, name, function)


ERRORS = {"memory": MemoryError("Unable to allocate 8 GiB"), **{
    errno.errorcode[n]: OSError(n, os.strerror(n)) for n in (
        errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.ESTALE)},
    "threads": RuntimeError("can't start new thread"),
    "torch": RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory")}


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize("place, name", [(audio, "decode"), (audio, "_check_file")])
def test_it_ends_the_run_and_the_next_one_goes_on(tmp_path, monkeypatch, extract, place, name, error):
    with monkeypatch.context() as broken:
        failing_at(broken, place, name, "t3", error)
        status, err = extract()
        assert status == 1 and "t3.wav: the machine failed, not the file" in err.splitlines()[-1]
        assert "the same command goes on" in err.splitlines()[-1] and "Traceback" not in err
    partial = tmp_path / "w/embeddings/.mfcc.partial"
    assert len((partial / "shard-0-of-1/journal.jsonl").read_text().split()) and not list(partial.parent.glob("*.npy"))
    assert extract()[0] == 0
    assert read_json(tmp_path / "w/embeddings/mfcc.json")["failed"] == {}


def test_preparing_may_fail_so_too(tmp_path, monkeypatch, extract):
    real = mfcc.MFCC.prepare

    def prepare(self, samples):
        if samples.any():       # load prepares silence
            raise MemoryError
        return real(self, samples)
    with monkeypatch.context() as broken:
        broken.setattr(mfcc.MFCC, "prepare", prepare)
        status, err = extract()
    assert status == 1 and "t0.wav: the machine failed, not the file (MemoryError)" in err
    assert extract()[0] == 0


def test_hashing_may_fail_so_too(monkeypatch, extract):
    with monkeypatch.context() as broken:
        failing_at(broken, audio_files, "checksum", "t3", OSError(errno.EMFILE, "Too many open files", "t3.wav"))
        status, err = extract()
        assert status == 1 and "Too many open files" in err.splitlines()[-1]
    assert extract()[0] == 0


def test_libsndfile_without_a_free_descriptor(sounds, monkeypatch):
    """The library says `System error` for what the system refused."""
    files, limit = [], resource.getrlimit(resource.RLIMIT_NOFILE)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, limit[1]))
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                files.append(open(sounds / "t0.wav"))
        with pytest.raises(OSError, match="Too many open files"):
            audio.decode(sounds / "t1.wav")
    finally:
        for file in files:
            file.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    assert len(audio.decode(sounds / "t1.wav").samples) == 22050


def test_ffmpeg_that_is_killed_ends_the_run_and_one_that_is_late_is_a_bad_file(tmp_path, sounds, monkeypatch, extract):
    program = tmp_path / "program" / "ffmpeg"
    program.parent.mkdir()
    monkeypatch.setattr(shutil, "which", lambda _: str(program))
    monkeypatch.setattr(audio, "FFMPEG_PATIENCE", 0.2)
    (sounds / "t3.wav").unlink()
    (sounds / "t3.m4a").write_bytes(b"of another format" * 99)
    program.write_text("#!/bin/sh\nkill -9 $$\n")
    program.chmod(0o755)
    status, err = extract()
    assert status == 1 and "t3.m4a: the machine failed, not the file (ffmpeg was killed" in err.splitlines()[-1]
    program.write_text("#!/bin/sh\nexec sleep 9\n")        # some files hang it at every attempt: one row, not the end
    assert extract()[0] == 0
    failed = json.loads((tmp_path / "w/embeddings/mfcc.json").read_text())["failed"]
    assert "ffmpeg did not finish within 0.2 s" in failed["3"]["reason"]
    (sounds / "t3.m4a").unlink()
    write(sounds / "t3.wav", tone(1, 22050), 22050)
    assert extract()[0] == 0


REASONS = ["not readable as audio: format not recognised; ffmpeg, which reads more formats, is not installed",
           "not readable as audio: format not recognised; ffmpeg did not finish within 300 s",
           "MemoryError: Unable to allocate 8 GiB", "OSError: [Errno 24] Too many open files: 't3.wav'",
           "OSError: [Errno 28] No space left on device"]


@pytest.mark.parametrize("reason", REASONS)
@pytest.mark.parametrize("kind", ["failed", "notes"])
def test_what_an_earlier_version_noted_is_done_again(tmp_path, monkeypatch, extract, reason, kind):
    if kind == "notes" and "ffmpeg" not in reason:
        pytest.skip("a note is of a file that was decoded")
    with monkeypatch.context() as broken:
        failing_at(broken, audio, "decode", "t5", MemoryError())
        assert extract()[0] == 1
    journal = tmp_path / "w/embeddings/.mfcc.partial/shard-0-of-1/journal.jsonl"
    lines = [json.loads(line) for line in journal.read_text().split("\n") if line]
    lines[1][kind]["3"] = {"trackid": "t3", "reason": reason}
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setattr(shutil, "which", lambda _: "/bin/false")
    assert extract()[0] == 0
    about = read_json(tmp_path / "w/embeddings/mfcc.json")
    assert about["failed"] == about["incomplete"] == {}


def test_without_ffmpeg_what_only_it_reads_stays_a_row_without_values(tmp_path, sounds, monkeypatch, extract):
    """There is nothing to wait for, so the run ends; with ffmpeg the finished matrix says how to get the rest."""
    (sounds / "t3.wav").unlink()
    (sounds / "t3.m4a").write_bytes(b"of another format" * 99)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert extract()[0] == 0
    assert np.isnan(np.load(tmp_path / "w/embeddings/mfcc.npy")[3]).all()
    assert "--overwrite makes the matrix" not in extract()[1]
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/ffmpeg")
    status, err = extract()
    assert status == 0 and "1 track lacks sound, as ffmpeg was not installed" in err and "--overwrite" in err


def test_a_file_that_is_not_readable_stays_a_fact(sounds, tmp_path, extract):
    (sounds / "t3.wav").write_text("no sound " * 99)
    assert extract()[0] == 0
    assert list(read_json(tmp_path / "w/embeddings/mfcc.json")["failed"]) == ["3"]

