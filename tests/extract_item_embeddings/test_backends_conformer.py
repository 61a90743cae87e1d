"""MusicFM and MuQ through their command lines, against the arrays their own code gave.

Where SHARED_DATA is absent the network is built from sizes, with random weights under upstream's key
names; its rotary attention is computed by hand, and what pooling and windows do is derived from single runs.
"""
import json
import shutil

import numpy as np
import pytest
import soundfile

from extract_item_embeddings import mfm, muq
from extract_item_embeddings.engine import extraction
from harness import cli
from harness.errors import WorkError
from harness.files import checksum
from harness.readers import read_json
from tests.worlds.checkpoints import (
    CONFORMER,
    STATS,
    command,
    cosine,
    extract,
    golden_state,
    muq_folder,
    music,
    musicfm_folder,
    old_spelling,
    random_state,
    sounds,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def golden_audio(golden, folder):
    folder.mkdir()
    for i in (0, 1):
        shutil.copy(golden / f"audio_{i}.wav", folder)


def golden_samples(golden):
    return np.stack([soundfile.read(golden / f"audio_{i}.wav", dtype="float32")[0] for i in (0, 1)])


def loaded(kind, *flags):
    """The backend with its model, as the command line would have it."""
    backend = kind(extraction.parser(kind, "").parse_args(["--device", "cpu", *map(str, flags)]))
    backend.request()
    backend.load()
    return backend


# --------------------------------------------------------------------------- parity with upstream

@pytest.mark.numeric
@pytest.mark.parametrize("name, backend, prefix", [("musicfm", mfm, "musicfm"), ("muq", muq, "muq_msd")])
def test_equals_its_own_code(tmp_path, shared, name, backend, prefix):
    golden = shared / "golden" / name
    state = golden_state(golden / "weights.npz")
    checkpoint = (musicfm_folder if backend is mfm else muq_folder)(tmp_path / "w", state)
    golden_audio(golden, tmp_path / "audio")
    samples, rate = soundfile.read(golden / "audio_0.wav", dtype="float32")
    soundfile.write(tmp_path / "audio" / "odd.wav", samples[:50123], rate, subtype="FLOAT")
    with np.load(golden / "expected.npz") as expected:
        values = np.load(extract(backend, tmp_path, checkpoint) / f"{prefix}.npy")
        assert values.shape == (3, 48)
        assert np.abs(values[:2] - expected["time_mean"]).max() < 1e-4
        assert np.abs(values[2] - expected["odd_time_mean"][0]).max() < 1e-4  # in a batch with longer ones
        folder = extract(backend, tmp_path, checkpoint, "--layer", "all", work="all")
        for i in range(4):
            row = np.load(folder / f"{prefix}-layer{i}.npy")[:2]
            assert np.abs(row - expected[f"hidden_{i}"].mean(axis=1)).max() < 1e-4


def mel_in_float64(samples):
    """(N,) -> (128, 1 + N // 240): mel power in dB by the formulas, in float64, of window and filters in float32."""
    window = np.float32(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(2048) / 2048)).astype(float)
    padded = np.pad(samples.astype(float), 1024, "reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, 2048)[::240]
    power = np.abs(np.fft.rfft(frames * window)) ** 2  # (T, 1025)
    corners = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 12000 / 700), 130) / 2595) - 1)  # Hz
    frequencies, (low, centre, high) = np.linspace(0, 12000, 1025)[:, None], (corners[i:128 + i] for i in range(3))
    rising, falling = (frequencies - low) / (centre - low), (high - frequencies) / (high - centre)
    filters = np.float32(np.maximum(0, np.minimum(rising, falling))).astype(float)
    return 10 * np.log10(np.maximum(power @ filters, 1e-10)).T


@pytest.mark.numeric
@pytest.mark.parametrize("name", ["musicfm", "muq"])
def test_log_mel_is_that_of_float64(shared, name):
    """On every processor: from the peak down to the floor, 140 dB below it, only the result is rounded to float32."""
    import torch

    from extract_item_embeddings.networks.conformer import HOP, N_FFT, RATE, LogMel
    x = golden_samples(shared / "golden" / name)
    ours = LogMel(RATE, N_FFT, HOP, 128)(torch.from_numpy(x)).numpy()
    assert ours.min() == -100 and ours.max() > 30
    for row, samples in zip(ours, x, strict=True):
        assert np.abs(row - mel_in_float64(samples)).max() < 1e-5  # half a unit in the last place of 64 to 128: 4e-6


@pytest.mark.numeric
@pytest.mark.parametrize("name", ["musicfm", "muq"])
def test_every_intermediate_equals_its_own_code(tmp_path, shared, name):
    """The reference computed its log-mel in float32, whose rounding is 1e-3 where a band lies 80 dB below the peak.

    So bands above -40 dB of the track's peak are within 1e-4 (measured 3e-5) and those below within 2e-3 (1e-3), in
    units of the z-score; the network alone, given the reference's log-mel, within 5e-5 (6e-6); and its states for the
    sound itself within 1e-3 (3e-4), as they hear the quiet bands, too.
    """
    import torch
    golden = shared / "golden" / name
    folder = musicfm_folder if name == "musicfm" else muq_folder
    backend = loaded(mfm.MusicFM if name == "musicfm" else muq.MuQ,
                     "--weights", folder(tmp_path / "w", golden_state(golden / "weights.npz")))
    model, x = backend.model, torch.from_numpy(golden_samples(golden))
    with np.load(golden / "expected.npz") as expected, torch.no_grad():
        assert np.abs(model.mel.filters.numpy() - expected["mel_filterbank"]).max() < 5e-5
        for given, prefix, states in ((x, "", [0, 1, 2, 3]), (x[:1, :50123], "odd_", [3])):
            mel = expected[f"{prefix}logmel"]
            loud = mel > mel.max(axis=(1, 2), keepdims=True) - 40 / model.std
            error = np.abs(model.log_mel(given).numpy() - mel)
            assert loud.mean() > 0.3 and error[loud].max() < 1e-4 and error[~loud].max() < 2e-3
            heard = model.states(given, states)
            model.log_mel = lambda samples, mel=mel: torch.from_numpy(mel)
            alone = model.states(given, states)
            del model.log_mel
            for i in states:
                assert np.abs(alone[i].numpy() - expected[f"{prefix}hidden_{i}"]).max() < 5e-5
                assert np.abs(heard[i].numpy() - expected[f"{prefix}hidden_{i}"]).max() < 1e-3
    backend.unload()


# --------------------------------------------------------------------------- without golden arrays

def rotated(x, heads):
    """(T, D) turned by its position, head by head: pairs (i, i + half) by t / 10000^(2 i / head)."""
    T, D = x.shape
    parts = x.reshape(T, heads, D // heads)
    half = parts.shape[2] // 2
    angle = np.arange(T)[:, None] / 10000 ** (np.arange(half) / half)
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    a, b = parts[..., :half], parts[..., half:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=2).reshape(T, D)


@pytest.mark.numeric
def test_attention_rotates_before_the_projections():
    """One attention block of the loaded network against the formula, in float64."""
    import torch

    from extract_item_embeddings.engine import weights
    from extract_item_embeddings.networks import conformer
    state = random_state()
    model = weights.fill(conformer.Conformer(CONFORMER, 5.25, 17.5), state, "there", conformer.TRAINING)
    x = np.random.default_rng(0).normal(size=(20, 48))
    attention = model.conformer.layers[1].self_attn
    with torch.no_grad():
        given = torch.from_numpy(x[None].astype(np.float32))
        ours = attention(given, relative_position_embeddings=model.conformer.embed_positions(given))[0][0].numpy()
    w = {k: v.numpy().astype(float) for k, v in attention.state_dict().items()}
    turned = rotated(x, 4)
    q, k = (turned @ w[f"linear_{n}.weight"].T + w[f"linear_{n}.bias"] for n in "qk")
    v = x @ w["linear_v.weight"].T + w["linear_v.bias"]
    out = np.empty_like(x)
    for h in range(4):
        part = slice(12 * h, 12 * h + 12)
        score = np.exp(q[:, part] @ k[:, part].T / 12 ** 0.5)
        out[:, part] = score / score.sum(axis=1, keepdims=True) @ v[:, part]
    expected = out @ w["linear_out.weight"].T + w["linear_out.bias"]
    assert np.abs(ours - expected).max() < 1e-5


@pytest.mark.trains
def test_musicfm_from_the_command_line(tmp_path):
    made = sounds(tmp_path / "audio", 24000, a=2.0, b=0.4)
    checkpoint = musicfm_folder(tmp_path / "w", random_state())
    done = command("mfm", "--weights", checkpoint, "--audio", tmp_path / "audio", "--workdir", tmp_path / "work",
                   "--device", "cpu")
    assert done.returncode == 0, done.stderr
    values = np.load(tmp_path / "work/embeddings/musicfm.npy")
    backend = loaded(mfm.MusicFM, "--weights", checkpoint)
    alone = np.stack([backend.run(made[n][None])[0][0] for n in "ab"])
    backend.unload()
    assert values.shape == (2, 48) and np.array_equal(values, alone)  # neighbours of other lengths change nothing
    about = read_json(tmp_path / "work/embeddings/musicfm.json")
    assert about["statistics"] == {"mean": 5.25, "std": 17.5} and about["variant"] == "FMA"
    assert about["weights"]["beside"] == {"fma_stats.json": checksum(checkpoint / "fma_stats.json")}
    assert about["weights"]["licence"] == "MIT" and about["pooling"] == "mean over time"


def test_musicfm_as_published_averages_channels(tmp_path):
    """750 values for 30 s; the mean of all of them is the mean of the right embedding, and zeros count."""
    import torch
    made = sounds(tmp_path / "audio", 24000, a=30.0, b=1.0)
    checkpoint = musicfm_folder(tmp_path / "w", random_state(), "msd")
    folder = extract(mfm, tmp_path, checkpoint, "--as-published", "--trained-on", "MSD")
    values = np.load(folder / "musicfm-msd-as-published.npy")
    assert values.shape == (2, 750)
    assert read_json(folder / "musicfm-msd-as-published.json")["pooling"] == "mean over channels"
    backend = loaded(mfm.MusicFM, "--weights", checkpoint, "--trained-on", "MSD")
    with torch.no_grad():
        for row, samples in zip(values, (made["a"], np.pad(made["b"], (0, 29 * 24000))), strict=True):
            frames = backend.model.states(torch.from_numpy(samples)[None], [3])[3][0].numpy()  # (750, 48)
            assert np.abs(row - frames.mean(axis=1)).max() < 1e-5
    backend.unload()


def test_whole_track_pooled_by_duration(tmp_path):
    made = sounds(tmp_path / "audio", 24000, long=40.0)
    checkpoint = muq_folder(tmp_path / "w", old_spelling(random_state()))
    values = np.load(extract(muq, tmp_path, checkpoint, "--seconds", "0") / "muq_msd-full.npy")
    backend = loaded(muq.MuQ, "--weights", checkpoint)
    parts = [backend.run(made["long"][None, 24000 * s:24000 * e])[0][0] for s, e in ((0, 30), (30, 40))]
    backend.unload()
    assert np.abs(values[0] - (30 * parts[0] + 10 * parts[1]) / 40).max() < 1e-5


@pytest.mark.numeric
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("backend, prefix", [(mfm, "musicfm"), (muq, "muq_msd")])
def test_half_precision_stays_close(tmp_path, backend, prefix, precision):
    sounds(tmp_path / "audio", 24000, a=4.0, b=0.5)
    checkpoint = (musicfm_folder if backend is mfm else muq_folder)(tmp_path / "w", random_state())
    full = np.load(extract(backend, tmp_path, checkpoint, work="full") / f"{prefix}.npy")
    half = np.load(extract(backend, tmp_path, checkpoint, "--precision", precision) / f"{prefix}-{precision}.npy")
    assert (cosine(full, half) >= 0.999).all() and not np.array_equal(full, half)


def test_positions_keep_their_precision():
    """bfloat16 angles would be off by radians at the end of 30 s; the sines must be those of exact positions."""
    import torch

    from extract_item_embeddings.networks import conformer
    model = conformer.Conformer(CONFORMER, 0.0, 1.0)
    model.conformer.embed_positions.inv_freq.copy_(1 / 10000 ** (torch.arange(0, 12, 2) / 12))
    model.place("cpu", torch.bfloat16)
    assert model.conformer.layers[0].ffn1.intermediate_dense.weight.dtype == torch.bfloat16
    cos, sin = model.conformer.embed_positions(torch.zeros(1, 750, 48, dtype=torch.bfloat16))[:, :, 0, 0].float()
    assert np.abs(cos[:, 0].numpy() - np.cos(np.arange(750))).max() < 0.005  # half a step of bfloat16 below 1
    assert np.abs(sin[:, 0].numpy() - np.sin(np.arange(750))).max() < 0.005


def test_published_parameter_counts():
    import torch

    from extract_item_embeddings.engine import weights
    from extract_item_embeddings.networks.conformer import Conformer
    size = {"dim": 1024, "depth": 12, "width": 512, "bands": 128, "heads": 16, "inner": 4096, "kernel": 31,
            "position_kernel": 128, "position_groups": 16}
    with torch.device("meta"):
        model = Conformer(size, 0.0, 1.0)
    norms = 128  # of the positional convolution, resolved when weights are loaded
    count = sum(p.numel() for p in model.parameters()) - norms
    assert round(count / 1e6, 1) == mfm.MusicFM.MILLIONS and round(count / 1e6, -2) == muq.MuQ.MILLIONS
    held = 4 * sum(v.numel() for v in model.state_dict().values())
    training = 4 * (4096 * 1024 + 4096 + 1024 + 2048 + 1025 * 128 + 512 * 16 + 4096 * 16)
    assert 0 < 1_316_802_088 - held - training < 200_000  # bytes of the released file, less its table of contents
    weights.check_size(model, 324.7, "there")
    with pytest.raises(WorkError, match="were published"):
        weights.check_size(model, 330.0, "there")


# --------------------------------------------------------------------------- what can be wrong

@pytest.mark.parametrize("case, said", [
    ("stats", "positive melspec_2048_std"), ("no stats", "has no fma_stats.json"), ("filters", "another spectrogram"),
    ("another network", "does not hold the network"), ("missing", "misses conformer.layers.2.ffn2.output_dense.bias")])
def test_unfit_weights_are_one_sentence(tmp_path, capsys, case, said):
    import torch
    sounds(tmp_path / "audio", 24000, a=0.3)
    state = random_state()
    if case == "filters":
        state["preprocessor_melspec_2048.mel_stft.mel_scale.fb"] = torch.zeros(1025, 128)
    if case == "missing":
        del state["conformer.layers.2.ffn2.output_dense.bias"]
    folder = musicfm_folder(tmp_path / "w", {"encoder.x": torch.zeros(1)} if case == "another network" else state)
    if case == "stats":
        (folder / "fma_stats.json").write_text(json.dumps({**STATS, "melspec_2048_std": 0}))
    if case == "no stats":
        (folder / "fma_stats.json").unlink()
    with pytest.raises(SystemExit) as stopped:
        cli.run(mfm.main, ["--workdir", str(tmp_path / "work"), "--audio", str(tmp_path / "audio"),
                            "--weights", str(folder), "--device", "cpu"])
    assert stopped.value.code == 1 and said in capsys.readouterr().err.strip().splitlines()[-1]
    assert not list((tmp_path / "work" / "embeddings").glob("*.npy"))


@pytest.mark.parametrize("backend, flags, said", [
    (mfm, ["--as-published", "--seconds", "0"], "25 values per second of one window"),
    (mfm, ["--as-published", "--seconds", "31"], "must be above 0 and at most 30, not 31"),
    (muq, ["--mulan", "--layer", "3"], "--layer 3 does not apply to --mulan")])
def test_bad_usage_is_one_sentence(tmp_path, capsys, backend, flags, said):
    sounds(tmp_path / "audio", 24000, a=0.3)
    with pytest.raises(SystemExit) as stopped:
        cli.run(backend.main, ["--workdir", str(tmp_path / "work"), "--audio", str(tmp_path / "audio"), *flags])
    assert stopped.value.code == 2 and said in capsys.readouterr().err


def test_music_is_not_silence(tmp_path):
    """Two different tracks and silence give three different rows (the tests above could all be met by zeros)."""
    made = sounds(tmp_path / "audio", 24000, a=1.0, b=1.0)
    soundfile.write(tmp_path / "audio" / "c.wav", np.zeros(24000, np.float32), 24000)
    values = np.load(extract(muq, tmp_path, muq_folder(tmp_path / "w", random_state())) / "muq_msd.npy")
    assert np.abs(made["a"] - music(1.0, 24000, 0)).max() == 0
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(values[i] - values[j]).max() > 0.01
