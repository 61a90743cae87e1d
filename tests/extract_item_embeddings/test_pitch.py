"""Pitch: basic-pitch's own network on notes that are synthesised here, its windows, and the vector made of them."""
import argparse
import importlib.metadata
import importlib.util
import subprocess
import sys

import numpy as np
import pytest

from extract_item_embeddings import pitch
from harness.errors import WorkError
from harness.readers import read_json
from tests.conftest import ROOT
from tests.extract_item_embeddings.test_audio import tone, write

NOTE, ONSET, FREE = slice(0, 88), slice(176, 264), slice(353, 440)


def installed():
    try:
        importlib.metadata.distribution("basic-pitch")
    except importlib.metadata.PackageNotFoundError:
        return False
    return importlib.util.find_spec("onnxruntime") is not None


needs_network = pytest.mark.skipif(not installed(), reason=f"needs the network and onnxruntime: {pitch.INSTALL}")


def played(*chords, seconds=1.0):
    """Chords of MIDI numbers one after the other, each note with five harmonics and a decay; float32 at 22,050 Hz."""
    t = np.arange(round(seconds * pitch.RATE)) / pitch.RATE
    out = []
    for chord in chords:
        waves = [(440 * 2 ** ((m - 69) / 12) * k, k ** -1.5) for m in chord for k in range(1, 6)]
        sound = sum(height * np.sin(2 * np.pi * frequency * t) for frequency, height in waves)
        out.append(0.2 * sound * np.exp(-t) * np.minimum(1, t / 0.01))
    return np.concatenate(out).astype(np.float32)


@pytest.fixture(scope="module")
def loaded():
    one = pitch.Pitch(argparse.Namespace())
    one.load()
    yield one
    one.unload()


@pytest.fixture
def heard(loaded):
    """Samples -> the embedding."""
    def vector(samples):
        inputs, lengths = loaded.prepare(samples)
        return loaded.pool(loaded.forward(inputs, lengths), lengths)
    return vector


# --------------------------------------------------------------------------- the real network

@needs_network
def test_a_chord_lights_up_its_notes(heard):
    vector = heard(played((60, 64, 67), seconds=3))
    assert set(np.argsort(-vector[NOTE])[:3] + pitch.LOWEST) == {60, 64, 67}
    assert np.sort(vector[NOTE])[-3] > 2 * np.sort(vector[NOTE])[-4]  # the next is a harmonic
    names = pitch.feature_names()
    assert {names[i] for i in np.argsort(-vector[NOTE])[:3]} == {"note mean C4", "note mean E4", "note mean G4"}


@needs_network
def test_a_transposed_piece_keeps_what_is_free_of_transposition(heard):
    piece = [(60, 64, 67), (57, 60, 64), (65, 69, 72), (55, 59, 62)] * 2
    original = heard(played(*piece, seconds=0.7))
    higher = heard(played(*[[m + 3 for m in chord] for chord in piece], seconds=0.7))
    other = heard(played(*[[m, m + 6, m + 10] for m, *_ in piece], seconds=0.7))

    def apart(a, b, part):
        return np.linalg.norm(a[part] - b[part]) / np.linalg.norm(a[part])
    assert apart(original, higher, FREE) < 0.2 < 0.5 < apart(original, higher, NOTE)
    assert apart(original, other, FREE) > 2 * apart(original, higher, FREE)  # other intervals are another matter
    shifted = np.roll(higher[NOTE], -3)
    assert apart(original, shifted, NOTE) < 0.25 < apart(original, higher, NOTE)


@needs_network
def test_the_intervals_of_a_chord_are_its_peaks(heard):
    free = heard(played((60, 67), seconds=3))[FREE]  # a fifth: 7 semitones
    assert np.argmax(free[:11]) + 1 == 7


@needs_network
def test_more_notes_give_more_onsets(heard):
    one, four = heard(played((60,), seconds=4)), heard(played(*[(60,)] * 8, seconds=0.5))
    key = 60 - pitch.LOWEST
    assert four[ONSET][key] > 1.5 * one[ONSET][key]


@needs_network
@pytest.mark.parametrize("seconds", [0.1, 5])
def test_silence_is_finite(heard, seconds):
    vector = heard(np.zeros(round(seconds * pitch.RATE), np.float32))
    assert vector.shape == (440,) and np.isfinite(vector).all()
    assert vector[NOTE].max() < 0.3  # the publication's threshold of a note


@needs_network
def test_a_short_clip_is_pooled_over_its_sound_only(loaded, heard):
    short = played((60, 64, 67), seconds=0.5)
    inputs, lengths = loaded.prepare(short)
    assert inputs.shape == (1, 43844) and lengths.tolist() == [43]  # half a second at 86 frames per second
    notes, onsets = loaded.activations(inputs[0], 43)
    assert notes.shape == onsets.shape == (43, 88)
    assert np.allclose(heard(short)[NOTE], notes.mean(axis=0), atol=1e-12)
    assert np.allclose(heard(short)[88:176], notes.std(axis=0), atol=1e-6)
    padded = heard(np.concatenate([short, np.zeros(pitch.RATE * 2, np.float32)]))
    assert heard(short)[60 - pitch.LOWEST] > 1.5 * padded[60 - pitch.LOWEST]


@needs_network
def test_windows_join_into_one_time_axis(loaded):
    """A note's onset is heard once and at its time, also where a window ends."""
    rate, kept = pitch.FRAME_RATE, pitch.KEPT
    samples = np.zeros(6 * pitch.RATE, np.float32)
    starts = (0.5, kept / rate - 0.01, 4.0)
    for start in starts:
        note = played((60,), seconds=0.4)
        samples[round(start * pitch.RATE):][:len(note)] += note
    inputs, lengths = loaded.prepare(samples)
    assert inputs.shape == (4, 43844) and lengths.tolist() == [142, 142, 142, 6 * 86 - 3 * 142]
    onset = np.concatenate([loaded.activations(x, n)[1] for x, n in zip(inputs, lengths, strict=True)])[:, 60 - 21]
    assert len(onset) == 6 * 86
    above = np.flatnonzero((onset[1:-1] > 0.5) & (onset[1:-1] >= onset[:-2]) & (onset[1:-1] > onset[2:])) + 1
    assert len(above) == 3 and np.abs(above / rate - starts).max() < 0.05  # 4 frames


# --------------------------------------------------------------------------- windows and moments, without the network

@pytest.mark.parametrize("samples, frames", [(2205, 8), (43844, 171), (3 * 22050, 258), (30 * 22050, 2580), (255, 1)])
def test_every_window_holds_sound(samples, frames):
    x = np.arange(1, samples + 1, dtype=np.float32)
    windows, lengths = pitch.Pitch(argparse.Namespace()).prepare(x)
    assert windows.dtype == np.float32 and windows.shape == (-(-frames // 142), 43844)
    assert lengths.sum() == frames and lengths.min() > 0
    assert not windows[0, :3840].any() and windows[0, 3840] == 1  # half of the overlap before the sound
    if len(windows) > 1:  # successive windows share 30 frames of samples
        assert np.array_equal(windows[0, 36164:], windows[1, :7680])


def test_moments_of_windows_are_those_of_the_whole():
    rng = np.random.default_rng(0)
    notes, onsets = rng.uniform(0, 1, (2, 60, 88))
    one = pitch.Pitch(argparse.Namespace())
    parts = np.stack([pitch.moments(notes[:50], onsets[:50]), pitch.moments(notes[50:], onsets[50:])])
    vector = one.pool(parts, np.array([50, 10]))
    expected = [f(x, axis=0) for x in (notes, onsets) for f in (np.mean, np.std)]
    assert np.allclose(vector[:352], np.concatenate(expected), atol=1e-12)
    deviations = notes - notes.mean(axis=1, keepdims=True)
    covariance = [(deviations[:, :88 - n] * deviations[:, n:]).sum() / 60 / 88 for n in range(88)]
    assert np.isclose(vector[352], covariance[0], atol=1e-12)
    assert np.allclose(vector[353:], np.array(covariance[1:]) / covariance[0], atol=1e-12)
    assert len(pitch.feature_names()) == len(set(pitch.feature_names())) == len(vector) == 440


def test_no_activation_at_all_is_finite():
    assert np.array_equal(pitch.vector(pitch.moments(np.zeros((3, 88)), np.zeros((3, 88)))), np.zeros(440))


@pytest.mark.parametrize("value, expected", [("1", 1), ("2,1", 2), ("", 8), ("0", 8), ("many", 8), ("64", 8)])
def test_threads_are_those_of_the_other_backends(monkeypatch, value, expected):
    monkeypatch.setattr(pitch, "cores", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert pitch.thread_count() == expected


# --------------------------------------------------------------------------- the command line

@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("songs")
    for i, seconds in enumerate((0.5, 2.5, 4)):
        write(folder / f"s{i}.wav", tone(seconds, 22050, 150 * (i + 1), seed=i), 22050)
    (folder / "text.wav").write_text("no sound")
    return folder


@pytest.mark.numeric
@needs_network
def test_threads_batches_and_shards_give_the_same_bytes(songs, tmp_path, monkeypatch):
    def extract(name, *flags):
        pitch.main(["--workdir", str(tmp_path / name), "--audio", str(songs), *flags])
    extract("a")
    monkeypatch.setattr(pitch, "thread_count", lambda: 3)
    for i in range(2):
        extract("b", "--batch", "2", "--shard", f"{i}/2")
    extract("b", "--merge")
    a, b = ((tmp_path / w / "embeddings/pitch.npy").read_bytes() for w in "ab")
    assert a == b
    matrix, about = np.load(tmp_path / "a/embeddings/pitch.npy"), read_json(tmp_path / "a/embeddings/pitch.json")
    assert matrix.shape == (4, 440) and np.isfinite(matrix).all(axis=1).tolist() == [True] * 3 + [False]
    assert about["weights"]["checksum"] == pitch.SHA256 and about["weights"]["revision"] == "0.4.0"
    assert about["features"] == pitch.feature_names() and "onnxruntime" in about["versions"]


@pytest.mark.parametrize("package, sentence", [
    ("basic-pitch", "the package basic-pitch, which contains the network, is not installed; pip install --no-deps "
                    "basic-pitch==0.4.0\n"),
    ("onnxruntime", "the package onnxruntime, which runs the network, is not installed; pip install -c ")])
def test_without_a_package_one_sentence_says_what_to_install(songs, tmp_path, package, sentence):
    if package == "onnxruntime" and not installed():
        pytest.skip("needs the network")
    body = ("import importlib.metadata, importlib.util, sys; sys.path.insert(0, sys.argv[1])\n"
            "import extract_item_embeddings.pitch as script\nfrom harness import cli\n"
            "def absent(function, result):\n"
            "    return lambda name, *rest: result() if name == sys.argv[2] else function(name, *rest)\n"
            "def missing():\n    raise importlib.metadata.PackageNotFoundError('basic-pitch')\n"
            "importlib.metadata.distribution = absent(importlib.metadata.distribution, missing)\n"
            "importlib.util.find_spec = absent(importlib.util.find_spec, lambda: None)\n"
            "cli.run(script.main, sys.argv[3:])\n")
    done = subprocess.run([sys.executable, "-c", body, ROOT, package, "--audio", songs, "--workdir", tmp_path / "w"],
                          text=True, capture_output=True, timeout=300)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and sentence in done.stderr, done.stderr


def test_another_network_is_refused(tmp_path, monkeypatch):
    (tmp_path / "nmp.onnx").write_bytes(b"another")
    monkeypatch.setattr(pitch, "network_file", lambda: (str(tmp_path / "nmp.onnx"), "0.4.0"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    with pytest.raises(WorkError, match="nmp.onnx is not the published file .its sha256 should be 2c3c1d14"):
        pitch.Pitch(argparse.Namespace()).request()


@needs_network
def test_the_package_is_not_run(songs, tmp_path):
    body = ("import sys; sys.path.insert(0, sys.argv[1])\nfrom extract_item_embeddings import pitch\n"
            "pitch.main(sys.argv[2:])\nassert not [m for m in sys.modules if m.startswith('basic_pitch')]\n")
    done = subprocess.run([sys.executable, "-c", body, ROOT, "--audio", songs, "--workdir", tmp_path, "--seconds", "1"],
                          text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
