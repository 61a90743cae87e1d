"""Jukebox and MULE through their command lines, their environments played by stand-ins (tests/standins)."""
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from extract_item_embeddings import jb, mule
from extract_item_embeddings.engine import audio, extraction, worker
from harness.files import checksum
from harness.readers import read_json
from tests.conftest import ROOT
from tests.worlds.checkpoints import music

STANDINS = ROOT / "tests" / "worlds" / "standins"
RATE = jb.Jukebox.SAMPLE_RATE


def interpreter(folder, script=None):
    """An executable that is our Python, finding the stand-in packages, or always running `script`."""
    path = folder / f"python-{script or 'packages'}"
    run = f'case "$1" in -c) ;; *) set -- "{STANDINS / script}" "$@";; esac\n' if script else ""
    path.write_text(f'#!/bin/sh\nexport PYTHONPATH="{STANDINS}"\n{run}exec "{sys.executable}" "$@"\n')
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with eight sounds, weights and both kinds of environment."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "audio").mkdir()
    for i, seconds in enumerate((1.0, 0.5, 2.0, 0.3, 0.7, 1.3, 0.9, 0.4)):
        samples = np.zeros(RATE, np.float32) if i == 3 else music(seconds, RATE, seed=i) + 0.01 * i
        soundfile.write(folder / "audio" / f"t{i}.wav", samples, RATE, subtype="FLOAT")
    (folder / "audio" / "text.mp3").write_text("no audio")
    (folder / "weights").mkdir()
    (folder / "weights" / "vqvae.pth.tar").write_text("-")
    (folder / "weights" / "prior_level_2.pth.tar").write_text("2.0")
    (folder / "model.keras").write_text("3.0")
    interpreter(folder)
    interpreter(folder, "worker.py")
    return folder


def command(backend, place, work, *flags, python="python-packages", weights="weights", **environment):
    return subprocess.run(
        [sys.executable, f"extract_item_embeddings/{backend}.py", "--audio", place / "audio", "--workdir", work,
         "--python", place / python, "--weights", place / weights, "--batch", "2", *map(str, flags)], cwd=ROOT,
        capture_output=True, text=True, timeout=120, env={**os.environ, **{k: str(v) for k, v in environment.items()}})


def output(work, name="jukemir"):
    """Bytes of the matrix, and the provenance but for the state of the code."""
    about = read_json(work / "embeddings" / f"{name}.json")
    about.pop("git")
    return (work / "embeddings" / f"{name}.npy").read_bytes(), about


def tokens(samples, layer=36, gain=2.0, half=0.5):
    """What the stand-in of jukemirlib gives a window, by hand: (4800,)."""
    samples = samples[:len(samples) // 128 * 128]
    return gain * layer * half * samples.mean(dtype=np.float64) * np.arange(1, 4801)


# --------------------------------------------------------------------------- through upstream's calls

def test_jukebox(place, tmp_path):
    done = command("jb", place, tmp_path)
    assert done.returncode == 0, done.stderr
    values, about = np.load(tmp_path / "embeddings/jukemir.npy"), read_json(tmp_path / "embeddings/jukemir.json")
    assert values.shape == (9, 4800) and np.isnan(values[8]).all() and (values[:8, 0] != 0).sum() == 7  # one is silent
    for i in (0, 2, 5):
        samples, _ = soundfile.read(place / "audio" / f"t{i}.wav", dtype="float32")
        assert np.allclose(values[i], tokens(samples / np.abs(samples).max()), rtol=1e-3)
    assert about["failed"].keys() == {"8"} and about["layer"] == 36 and about["precision"] == "fp16"
    assert about["weights"]["checksum"]["vqvae.pth.tar"] == checksum(place / "weights/vqvae.pth.tar")
    assert about["versions"]["worker"]["python"] == sys.version.split()[0]
    assert {"jukemirlib", "jukebox", "torch"} <= about["versions"]["worker"].keys()
    again = command("jb", place, tmp_path, "--python", "/nowhere")
    assert again.returncode == 0 and "finished before" in again.stderr  # no environment is needed to know that


def test_jukebox_windows_layers_and_the_published_way(place, tmp_path):
    size, long = jb.CONTEXT, music(50, RATE, seed=9) + 0.02
    (tmp_path / "place/audio").mkdir(parents=True)
    soundfile.write(tmp_path / "place/audio/long.wav", long, RATE, subtype="FLOAT")
    for name in ("weights", "python-packages"):
        (tmp_path / "place" / name).symlink_to(place / name)
    done = command("jb", tmp_path / "place", tmp_path, "--seconds", "0", "--layer", "66", "--precision", "fp32")
    assert done.returncode == 0, done.stderr
    x = long / np.abs(long).max()
    ends = [(0, size), (size, 2 * size), (2 * size, len(x))]
    parts = [tokens(x[a:b], 66, half=1.0) * (b - a) for a, b in ends]
    values = np.load(tmp_path / "embeddings/jukemir-fp32-full-layer66.npy")
    assert np.allclose(values[0], sum(parts) / len(x), rtol=1e-3)
    done = command("jb", tmp_path / "place", tmp_path, "--as-published")
    assert done.returncode == 0, done.stderr
    x = long[:24 * RATE] / np.abs(long[:24 * RATE]).max()
    assert np.allclose(np.load(tmp_path / "embeddings/jukemir-as-published.npy")[0], tokens(x[:size]), rtol=1e-3)


def test_mule(place, tmp_path):
    done = command("mule", place, tmp_path, weights="model.keras")
    assert done.returncode == 0, done.stderr
    values, about = np.load(tmp_path / "embeddings/mule.npy"), read_json(tmp_path / "embeddings/mule.json")
    assert values.shape == (9, 1728) and np.isfinite(values[:8]).all() and about["pooling"] == "mean over slices"
    assert about["weights"]["revision"] == "given by --weights"
    backend = mule.Mule(extraction.parser(mule.Mule, "").parse_args([]))
    samples, _ = soundfile.read(place / "audio" / "t5.wav", dtype="float32")
    parts, _ = backend.prepare(audio.resample(audio.Clip(samples, RATE, ""), 16000))
    d = np.arange(1728)
    assert np.allclose(values[5], 3 * parts[:, d % 96, d % 300].mean(axis=0), atol=1e-4)


def test_mule_published_sum(place, tmp_path):
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio/long.wav", music(30, 16000), 16000, subtype="FLOAT")
    for flags in ((), ("--as-published",)):
        mule.main(["--audio", str(tmp_path / "audio"), "--workdir", str(tmp_path), "--python",
                   str(place / "python-packages"), "--weights", str(place / "model.keras"), *flags])
    mean, total = (np.load(tmp_path / f"embeddings/mule{s}.npy")[0] for s in ("", "-as-published"))
    assert np.allclose(total, 15 * mean, rtol=1e-4, atol=1e-4)  # 30 s hold 15 slices


# --------------------------------------------------------------------------- MULE's front-end, by the book

def mel_by_hand(samples):
    """(96, T): each frame's power spectrum by its definition, and triangles on the HTK mel scale of length one."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    window = np.zeros(2048)
    window[824:1224] = hann
    padded = np.pad(samples.astype(np.float64), 1024, mode="reflect")
    frames = np.stack([padded[s:s + 2048] * window for s in range(0, len(samples) + 1, 160)])
    power = np.abs(np.fft.rfft(frames)) ** 2  # (T, 1025)
    hz = np.arange(1025) * 16000 / 2048
    points = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 98) / 2595) - 1)
    rise = (hz - points[:-2, None]) / (points[1:-1] - points[:-2])[:, None]
    fall = (points[2:, None] - hz) / (points[2:] - points[1:-1])[:, None]
    filters = np.maximum(0, np.minimum(rise, fall))
    return np.log10(10000 * (filters / np.linalg.norm(filters, axis=1, keepdims=True)) @ power.T + 1)


def test_mule_spectrogram_and_slices():
    samples = music(5.0, 16000, seed=4)
    mel = mule.log_mel(samples)
    assert np.abs(mel - mel_by_hand(samples)).max() < 1e-3
    parts = mule.slices(mel)  # 501 frames: centres 200 and 351 (400 would reach beyond the end)
    assert parts.shape == (2, 96, 300)
    for part, start in zip(parts, (50, 201), strict=True):
        wanted = mel[:, start:start + 300].astype(np.float64)
        assert np.abs(part - (wanted - wanted.mean()) / wanted.std()).max() < 1e-4
    backend = mule.Mule(extraction.parser(mule.Mule, "").parse_args([]))
    assert backend.prepare(samples[:1600])[0].shape == (1, 96, 300)  # a tenth of a second, repeated
    assert (backend.prepare(np.zeros(48000, np.float32))[0] == 0).all()  # silence has no spread to divide by


# --------------------------------------------------------------------------- workers that fail

def faulty(place, work, how="", at=0, *flags, **environment):
    return command("jb", place, work, *flags, python="python-worker.py", STANDIN=how, STANDIN_AT=at,
                   STANDIN_COUNT=work.parent / f"{work.name}.count", **environment)


@pytest.fixture(scope="module")
def calm(place, tmp_path_factory):
    """The workspace of a worker that never fails, and how many windows it heard."""
    work = tmp_path_factory.mktemp("calm") / "w"
    done = faulty(place, work)
    assert done.returncode == 0, done.stderr
    heard = (work.parent / "w.count").stat().st_size
    assert heard == 8  # one silent track, heard once, fills up the passes, too
    return work, heard


@pytest.mark.parametrize("how, sentence", [
    ("die", r"the worker of jukemir was killed by signal 9; its last output: 'about to die'"),
    ("error", r"the worker of jukemir failed \(RuntimeError: CUDA out of memory\)"),
    ("wrong", r"answered 1 windows with float32 \(1, 4801\), not with float32 \(1, 4800\)"),
    ("garbage", r"violates the protocol"),
    ("close", r"ended with status 0"),
])
def test_a_worker_that_fails_in_the_middle_is_resumed(place, calm, tmp_path, how, sentence):
    work = tmp_path / "w"
    done = faulty(place, work, how, 6)
    assert done.returncode == 1 and done.stderr.count("jb.py:") == 1
    said = done.stderr.splitlines()[-1]
    assert re.search(sentence, said) and "finished batches are saved, the same command continues after them" in said
    assert said.endswith("it was processing t4 to t5")
    assert "Traceback" not in done.stderr and not (work / "embeddings/jukemir.npy").exists()
    log = Path(re.search(r"log: (\S+)\)", said)[1])
    assert f"about to {how}" in log.read_text()
    log.unlink()
    done = faulty(place, work)
    assert done.returncode == 0, done.stderr
    assert output(work) == output(calm[0])
    assert (tmp_path / "w.count").stat().st_size < 6 + calm[1]  # finished batches were not heard again


def test_a_worker_that_says_nothing(place, tmp_path):
    done = faulty(place, tmp_path / "w", "silent", 1, "--patience", "1")
    assert done.returncode == 1 and "gave no answer for 1 s (--patience)" in done.stderr
    Path(re.search(r"log: (\S+)\)", done.stderr)[1]).unlink()


def test_a_model_of_another_size(place, tmp_path):
    done = faulty(place, tmp_path / "w", STANDIN_DIM=1728)
    assert done.returncode == 1 and "has a model of 1728 values, not 4800" in done.stderr
    Path(re.search(r"log: (\S+)\)", done.stderr)[1]).unlink()


def test_upstream_that_cannot_load(place, tmp_path):
    (tmp_path / "weights").mkdir()
    for name, text in (("vqvae.pth.tar", "-"), ("prior_level_2.pth.tar", "no number")):
        (tmp_path / "weights" / name).write_text(text)
    done = command("jb", place, tmp_path / "w", "--weights", tmp_path / "weights")
    assert done.returncode == 1 and "failed (ValueError: could not convert string to float: 'no number')" in done.stderr
    log = Path(re.search(r"log: (\S+)\)", done.stderr)[1])
    assert "Setting up the VQ-VAE" in log.read_text() and "Traceback" in log.read_text()
    log.unlink()


def test_merged_shards_are_the_single_run(place, calm, tmp_path):
    for i in range(3):
        assert faulty(place, tmp_path / "w", "", 0, "--shard", f"{i}/3").returncode == 0
    done = faulty(place, tmp_path / "w", "", 0, "--merge")
    assert done.returncode == 0, done.stderr
    assert output(tmp_path / "w") == output(calm[0])


# --------------------------------------------------------------------------- what is not there

def missing(place, tmp_path, backend, *flags, **environment):
    """Exit status and sentence of a command line without --python and --weights."""
    done = subprocess.run([sys.executable, f"extract_item_embeddings/{backend}.py", "--audio", place / "audio",
                           "--workdir", tmp_path / "w", *map(str, flags)], cwd=ROOT, capture_output=True, text=True,
                          timeout=120, env={**os.environ, "HOME": str(tmp_path), **environment})
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr.splitlines()[-1]


def test_missing_environments_and_weights(place, tmp_path):
    weights = ("--weights", place / "weights")
    status, said = missing(place, tmp_path, "jb", *weights)
    assert status == 1 and "make one from requirements/jukebox.txt and name its interpreter with --python or " \
                           "JUKEMIR_PYTHON" in said
    status, said = missing(place, tmp_path, "jb", *weights, JUKEMIR_PYTHON="/nowhere/python")
    assert status == 1 and "the interpreter /nowhere/python of jukemir cannot be run (No such file" in said
    status, said = missing(place, tmp_path, "jb", *weights, "--python", "/bin/echo")
    assert status == 1 and "/bin/echo does not answer as a Python interpreter" in said
    status, said = missing(place, tmp_path, "mule", "--weights", place / "model.keras", "--python", sys.executable)
    assert status == 1 and f"{sys.executable} has no mule and no tensorflow; install requirements/mule.txt" in said
    status, said = missing(place, tmp_path, "jb", "--python", sys.executable)
    assert status == 1 and ".cache/jukemirlib has no vqvae.pth.tar and no prior_level_2.pth.tar; download" in said
    status, said = missing(place, tmp_path, "mule")
    assert status == 1 and "mule/model.keras does not exist; download supporting_data/model/model.keras (251," in said
    status, said = missing(place, tmp_path, "jb", "--layer", "73")
    assert status == 2 and "must be a number from 1 to 72, not 73" in said


def test_weights_that_are_not_the_published_ones(place, tmp_path):
    folder = tmp_path / ".cache/mule"
    folder.mkdir(parents=True)
    (folder / "model.keras").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1da1\nsize 251054764\n")
    assert "is a git lfs pointer and not the weights; download" in missing(place, tmp_path, "mule")[1]
    (folder / "model.keras").write_text("something else")
    assert "is not the published file (its sha256 should be 1da111d6" in missing(place, tmp_path, "mule")[1]


@pytest.mark.parametrize("device, visible, expected", [
    ("auto", "", None), ("cpu", "0,1", "-1"), ("cuda:1", "", "1"), ("cuda:1", "4,5", "5"), ("cuda", "4,5", "4,5")])
def test_the_worker_sees_the_device_asked_for(monkeypatch, device, visible, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setenv("PYTHONPATH", "/ours")
    backend = jb.Jukebox(extraction.parser(jb.Jukebox, "").parse_args(["--device", device]))
    environment = backend.environment()
    assert environment.get("CUDA_VISIBLE_DEVICES") == expected and "PYTHONPATH" not in environment


def test_messages_survive_the_journey():
    a, b = socket.socketpair()
    with a, b:
        for message in (np.arange(6, dtype=np.float32).reshape(2, 3), {"ready": True, "dim": 3}):
            worker.send(a, message)
            assert np.array_equal(worker.receive(b), message)
        a.sendall(b"\xff" * 8)
        with pytest.raises(ValueError, match="a message of"):
            worker.receive(b)
        worker.send(a, {"x": 1})
        a.close()
        assert worker.receive(b) == {"x": 1} and worker.receive(b) is None
