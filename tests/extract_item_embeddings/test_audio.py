"""Reading audio: every container and width, what is lost and why, and which file belongs to which track."""
import os
import shutil
import subprocess

import numpy as np
import pytest
import soundfile

from extract_item_embeddings.engine import audio
from harness.errors import WorkError


def tone(seconds=2.0, rate=44100, hertz=440.0, level=0.3, seed=0):
    """A sine in a little noise, float32 (N,)."""
    t = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(seed).normal(0, 0.01, t.size)
    return (level * np.sin(2 * np.pi * hertz * t) + noise).astype(np.float32)


def write(path, samples, rate=44100, **kwargs):
    soundfile.write(path, samples, rate, **kwargs)
    return path


def cut(path, share, to=None):
    """Keep the first part of a file's bytes."""
    to = to or path
    to.write_bytes(path.read_bytes()[:int(path.stat().st_size * share)])
    return to


@pytest.mark.parametrize("name, rate, options, accuracy", [
    ("a.wav", 44100, {}, 1e-4), ("a.wav", 44100, {"subtype": "PCM_U8"}, 1e-2),
    ("a.wav", 44100, {"subtype": "PCM_24"}, 1e-6), ("a.wav", 96000, {"subtype": "FLOAT"}, 1e-7),
    ("a.wav", 44100, {"subtype": "DOUBLE"}, 1e-7), ("a.flac", 48000, {}, 1e-4), ("a.aiff", 22050, {}, 1e-4),
    ("a.ogg", 44100, {}, 0.05), ("a.opus", 48000, {"format": "OGG", "subtype": "OPUS"}, 0.05),
    ("a.mp3", 44100, {}, 0.05), ("with space ünï.wav", 8000, {}, 1e-4),
])
def test_reads(tmp_path, name, rate, options, accuracy):
    sound = tone(rate=rate)
    clip = audio.decode(write(tmp_path / name, sound, rate, **options))
    assert (clip.rate, clip.note, clip.samples.dtype) == (rate, "", np.float32)
    assert abs(clip.seconds - 2) < 0.1
    n = min(len(clip.samples), len(sound))
    assert np.sqrt(np.mean((clip.samples[:n] - sound[:n]) ** 2)) < accuracy


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_the_mix_is_the_mean_of_the_channels(tmp_path, channels):
    sound = np.stack([tone(hertz=200 * (c + 1)) for c in range(channels)], axis=1)
    clip = audio.decode(write(tmp_path / "a.wav", sound, subtype="FLOAT"))
    assert np.allclose(clip.samples, sound.mean(axis=1), atol=1e-7)


def test_excerpts(tmp_path):
    ramp = np.arange(1000, dtype=np.float32) / 1000  # 10 s at 100 Hz
    path = write(tmp_path / "a.wav", ramp, 100, subtype="FLOAT")
    assert np.array_equal(audio.decode(path, 3, "start").samples, ramp[:300])
    assert np.array_equal(audio.decode(path, 3, "middle").samples, ramp[350:650])
    for seconds, offset in ((0, "start"), (0, "middle"), (10, "middle"), (99, "start"), (99, "middle")):
        assert np.array_equal(audio.decode(path, seconds, offset).samples, ramp)


def test_resampling_keeps_the_pitch():
    clip = audio.Clip(tone(3.0, 44100, 1000.0), 44100, "")
    low = audio.resample(clip, 16000)
    assert low.dtype == np.float32 and len(low) == 48000
    peak = np.abs(np.fft.rfft(low)).argmax() / 3.0  # bins of 1/3 Hz
    assert abs(peak - 1000) < 1
    assert audio.resample(clip, 44100) is clip.samples


@pytest.mark.parametrize("suffix, heard", [("wav", 4.99), ("flac", 4.8), ("mp3", 4.8), ("ogg", 4.0)])
def test_a_truncated_file_gives_what_it_has(tmp_path, suffix, heard):
    sound = tone(10)
    path = cut(write(tmp_path / f"a.{suffix}", sound), 0.5)
    clip = audio.decode(path)
    assert heard <= clip.seconds <= 5.01
    if suffix in ("flac", "mp3"):  # their headers promise ten seconds
        assert clip.note == f"damaged: only {clip.seconds:.2f} s decoded"
    assert np.corrcoef(clip.samples[:44100], sound[:44100])[0, 1] > 0.98
    middle = audio.decode(path, 2, "middle").samples  # the middle of what is there, not of what was promised
    start = (len(clip.samples) - len(middle)) // 2
    if suffix in ("wav", "flac"):
        assert np.array_equal(middle, clip.samples[start:start + 88200])
    assert len(middle) == 88200


def nan_wav(path):
    sound = tone()
    sound[[5, 50000]] = np.nan, np.inf
    write(path, sound, subtype="FLOAT")


BAD = {
    "none.wav": (lambda p: None, "No such file or directory"),
    "empty.mp3": (lambda p: p.write_bytes(b""), "the file is empty (0 bytes)"),
    "text.mp3": (lambda p: p.write_text("no sound " * 500), "not readable as audio: format not recognised; ffmpeg"),
    "text.wav": (lambda p: p.write_text("no sound " * 500), "not readable as audio: Format not recognised; ffmpeg"),
    "folder.ogg": (lambda p: p.mkdir(), "a folder, not a file"),
    "pipe.wav": (os.mkfifo, "not a regular file"),
    "dangling.wav": (lambda p: p.symlink_to("nowhere"), "No such file or directory (a broken link)"),
    "header.wav": (lambda p: write(p, tone()[:0]), "only 0 s of audio; at least 0.1 s are needed"),
    "click.wav": (lambda p: write(p, tone()[:441]), "only 0.01 s of audio; at least 0.1 s are needed"),
    "nan.wav": (nan_wav, "2 of 88200 samples are not finite numbers"),
}


@pytest.mark.parametrize("name", BAD)
def test_reasons(tmp_path, name):
    make, reason = BAD[name]
    make(tmp_path / name)
    with pytest.raises(audio.AudioError) as e:
        audio.decode(tmp_path / name)
    assert str(e.value).startswith(reason)


def test_silence_is_sound(tmp_path):
    clip = audio.decode(write(tmp_path / "a.wav", np.zeros(44100, np.float32)))
    assert len(clip.samples) == 44100 and not clip.samples.any()


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
@pytest.mark.parametrize("channels", [1, 6])
def test_ffmpeg_reads_the_rest(tmp_path, channels):
    sound = np.stack([tone(4)] + [np.zeros(4 * 44100, np.float32)] * (channels - 1), axis=1)
    write(tmp_path / "a.wav", sound)
    subprocess.run(["ffmpeg", "-v", "error", "-i", tmp_path / "a.wav", tmp_path / "a.m4a"], check=True)
    clip = audio.decode(tmp_path / "a.m4a")
    assert clip.rate == 44100 and abs(clip.seconds - 4) < 0.1
    loudest = np.sqrt(np.mean(clip.samples ** 2))  # of six channels one sounds: a sixth of its level
    assert abs(loudest * channels - 0.3 / np.sqrt(2)) < 0.03
    assert abs(audio.decode(tmp_path / "a.m4a", 1, "middle").seconds - 1) < 0.01
    with pytest.raises(audio.AudioError, match="not readable as audio: .*; ffmpeg: "):
        audio.decode(cut(tmp_path / "a.m4a", 0.3))  # its table of contents stood at the end


def test_remarks_of_decoders_are_dropped_and_nothing_else(capfd):
    with audio.quiet_decoders():
        os.write(2, b"[src/libmpg123/layer3.c:1774] error: part2_3_length (1056) too large\nsomething real\n")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "something real\nafter\n"


# --------------------------------------------------------------------------- which file is which track

def test_files_are_found_by_stem_at_any_depth(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("b2.WAV", "a/a1.flac", "a/b/c3.part.ogg", "a/notes.txt", ".hidden.wav"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "loop").symlink_to(tmp_path)  # a link back must not be followed for ever
    assert audio.find(tmp_path, ["a1", "b2", "none", "c3.part", "../a1"]) == [
        tmp_path / "a/a1.flac", tmp_path / "b2.WAV", None, tmp_path / "a/b/c3.part.ogg", None]
    audio.make_track_list(tmp_path / "list.csv", tmp_path)
    assert (tmp_path / "list.csv").read_text() == "idx,trackid\n0,a1\n1,b2\n2,c3.part\n"


def test_two_spellings_of_one_letter_are_one_name(tmp_path):
    (tmp_path / "cafe\u0301.wav").write_bytes(b"x")  # e and an accent, as some systems store it
    assert audio.find(tmp_path, ["caf\u00e9"]) == [tmp_path / "cafe\u0301.wav"]


@pytest.mark.parametrize("files, sentence", [
    (["t.wav", "sub/t.mp3"], "track t has more than one file, t.wav and sub/t.mp3; leave one file per track"),
    (["other.wav"], "none of the 1 tracks of the track list has a file under"),
    (["t.txt"], "none of the 1 tracks of the track list has a file under"),
])
def test_folders_that_cannot_be_meant(tmp_path, files, sentence):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(WorkError, match=sentence):
        audio.find(tmp_path, ["t"])
