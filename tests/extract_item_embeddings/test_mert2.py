"""MERT-v2 through its command line, on a tiny network with random weights under the names upstream publishes.

Expectations are computed by hand from those weights, in float64: every stage, block and norm. Upstream's own classes
(September 2026) gave the same states within 1e-5 on weights of this kind, when the network was written.
"""
import json
import shutil

import numpy as np
import pytest
import soundfile

from extract_item_embeddings import mert2
from extract_item_embeddings.engine import weights as published
from extract_item_embeddings.networks import mert2 as network
from harness import cli
from harness.files import checksum
from harness.readers import read_json
from tests.worlds.checkpoints import (
    MERT2_CONFIG,
    command,
    extract,
    mert2_checkpoint,
    mert2_state,
    music,
    save,
    sounds,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return mert2_checkpoint(tmp_path_factory.mktemp("mert2"))


@pytest.fixture(scope="module")
def arrays(weights):
    from safetensors.numpy import load_file
    return {k: v.astype(float) for k, v in load_file(weights / "model.safetensors").items()}


def gelu(x):
    from scipy.special import erf
    return x * (1 + erf(x / np.sqrt(2))) / 2


def conv(x, weight, bias=0.0, stride=1, padding=0):
    """(T, C) -> (T', D): depthwise where the weight has one channel per output, else over all channels."""
    taps = np.lib.stride_tricks.sliding_window_view(np.pad(x, ((padding, padding), (0, 0))), weight.shape[2], axis=0)
    form = "tck,ck->tc" if weight.shape[1] == 1 else "tck,dck->td"
    return np.einsum(form, taps[::stride], weight[:, 0] if weight.shape[1] == 1 else weight) + bias


class ByHand:
    """The network in numpy. w: upstream's names and float64 arrays."""

    def __init__(self, w):
        self.w = w

    def norm(self, x, name, eps):
        z = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + eps)
        return z * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def linear(self, x, name):
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def mel(self, samples):
        frames = np.lib.stride_tricks.sliding_window_view(np.pad(samples.astype(float), 1024, "reflect"), 2048)[::240]
        window = (1 - np.cos(2 * np.pi * np.arange(2048) / 2048)) / 2
        power = np.abs(np.fft.rfft(frames[:-1] * window, axis=1)) ** 2
        edges = 700 * (10 ** (np.linspace(0, np.log10(1 + 12000 / 700), 130)) - 1)
        rise = (np.linspace(0, 12000, 1025)[:, None] - edges) / np.diff(edges, append=np.inf)
        filters = np.maximum(np.minimum(rise[:, :-2], 1 - rise[:, 1:-1]), 0)
        decibel = 10 * np.log10(np.maximum(power @ filters, 1e-10))
        return (decibel - self.w["feature_extractor.mel_mean"]) / self.w["feature_extractor.mel_std"]

    def stage(self, x, i):
        name = f"subsampling_module.{i}."
        if i:
            x = self.norm(x, f"{name}resampling_layer.0", 1e-6)
            x = conv(x, self.w[f"{name}resampling_layer.2.weight"], self.w[f"{name}resampling_layer.2.bias"], stride=2)
        name += "convnext_layers.0."
        y = conv(x, self.w[f"{name}depthwise_block.1.weight"], self.w[f"{name}depthwise_block.1.bias"], padding=3)
        y = gelu(self.linear(self.norm(y, f"{name}pointwise_block.0", 1e-6), f"{name}pointwise_block.1"))
        size = np.sqrt((y ** 2).sum(axis=0))
        y = self.w[f"{name}pointwise_block.3.weight"][0] * y * (size / (size.mean() + 1e-6)) \
            + self.w[f"{name}pointwise_block.3.bias"][0] + y
        return x + self.linear(y, f"{name}pointwise_block.4")

    def attention(self, x, name, heads=4):
        T, width = x.shape[0], x.shape[1] // heads
        angle = np.arange(T)[:, None] / 10000 ** (np.arange(0, width, 2) / width)
        turn = np.exp(1j * angle)

        def turned(y):  # the first half of a head and the second are the parts of a complex number
            z = (y[:, :width // 2] + 1j * y[:, width // 2:]) * turn
            return np.concatenate([z.real, z.imag], axis=1)
        q, k, v = (self.linear(x, f"{name}{n}_proj") for n in ("query", "key", "value"))
        mixed = np.empty_like(x)
        for h in range(heads):
            part = slice(h * width, (h + 1) * width)
            score = turned(q[:, part]) @ turned(k[:, part]).T / np.sqrt(width)
            score = np.exp(score - score.max(axis=1, keepdims=True))
            mixed[:, part] = score / score.sum(axis=1, keepdims=True) @ v[:, part]
        return self.linear(mixed, f"{name}out_proj")

    def convolution(self, x, name):
        x = conv(self.norm(x, f"{name}layer_norm", 1e-5), self.w[f"{name}conv_block.1.weight"])
        x = x[:, :x.shape[1] // 2] / (1 + np.exp(-x[:, x.shape[1] // 2:]))
        x = conv(x, self.w[f"{name}conv_block.3.weight"], padding=15)
        return conv(gelu(self.norm(x, f"{name}conv_block.4.1", 1e-5)), self.w[f"{name}conv_block.6.weight"])

    def block(self, x, i):
        name = f"layers.{i}."

        def half(x, n):
            inner = gelu(self.linear(self.norm(x, f"{name}ffn{n}_layer_norm", 1e-5), f"{name}ffn{n}.w_1"))
            return x + self.linear(inner, f"{name}ffn{n}.w_2") / 2
        x = half(x, 1)
        x = x + self.attention(self.norm(x, f"{name}attn_layer_norm", 1e-5), f"{name}attn.")
        x = x + self.convolution(x, f"{name}conv_module.")
        return self.norm(half(x, 2), f"{name}final_layer_norm", 1e-5)

    def means(self, samples):
        """(states, D): the mean over time of each."""
        x = self.mel(samples)
        for i in range(3):
            x = self.stage(x, i)
        found = [x]
        for i in range(3):
            found.append(self.block(found[-1], i))
        return np.stack([state.mean(axis=0) for state in found])


@pytest.mark.trains
def test_every_layer_from_the_command_line(tmp_path, weights, arrays):
    """Lengths that are no multiple of four frames; float32 of the network: 5e-5 of values of about 1."""
    made = sounds(tmp_path / "audio", 24000, a=2.0, b=1.337)
    done = command("mert2", "--weights", weights, "--audio", tmp_path / "audio", "--workdir", tmp_path / "work",
                   "--device", "cpu", "--layer", "all")
    assert done.returncode == 0, done.stderr
    expected = np.stack([ByHand(arrays).means(made[name]) for name in "ab"])
    assert np.abs(expected).mean() > 0.1
    for i in range(4):
        values = np.load(tmp_path / f"work/embeddings/mert2-layer{i}.npy")
        assert values.dtype == np.float32 and np.abs(values - expected[:, i]).max() < 5e-5
    about = read_json(tmp_path / "work/embeddings/mert2-layer3.json")
    assert about["weights"]["checksum"] == checksum(weights / "model.safetensors")
    assert about["weights"]["id"] == "m-a-p/MERT-v2-30s" and about["weights"]["licence"] == "CC BY-NC 4.0"
    assert (about["sample_rate"], about["variant"], about["dim"]) == (24000, "30s", 48)
    last = np.load(extract(mert2, tmp_path, weights, work="last") / "mert2.npy")
    assert np.abs(last - expected[:, 3]).max() < 5e-5
    mean = np.load(extract(mert2, tmp_path, weights, "--layer", "mean", work="mean") / "mert2-layermean.npy")
    assert np.abs(mean - expected.mean(axis=1)).max() < 5e-5


def test_windows_are_pooled_by_duration(tmp_path, weights, arrays):
    """30 s weights hear a whole track of 35 s in two windows, full-song weights in one."""
    made = sounds(tmp_path / "audio", 24000, long=35.0)
    hand = ByHand(arrays)
    values = np.load(extract(mert2, tmp_path, weights, "--seconds", "0") / "mert2-full.npy")[0]
    first, second = (hand.means(made["long"][24000 * s:24000 * e])[3] for s, e in ((0, 30), (30, 35)))
    assert np.abs(values - (30 * first + 5 * second) / 35).max() < 5e-5
    whole = extract(mert2, tmp_path, weights, "--seconds", "0", "--variant", "fs", work="fs") / "mert2-fs-full.npy"
    assert np.abs(np.load(whole)[0] - hand.means(made["long"])[3]).max() < 5e-5


def test_short_clips_silence_and_a_bad_file(tmp_path, weights, arrays):
    (tmp_path / "audio").mkdir()
    short = music(0.11, 24000)
    soundfile.write(tmp_path / "audio" / "a.wav", short, 24000, subtype="FLOAT")
    soundfile.write(tmp_path / "audio" / "b.wav", np.zeros(12000, np.float32), 24000)
    (tmp_path / "audio" / "c.wav").write_text("no sound")
    values = np.load(extract(mert2, tmp_path, weights) / "mert2.npy")
    assert np.abs(values[0] - ByHand(arrays).means(short)[3]).max() < 5e-5
    assert np.abs(values[1] - ByHand(arrays).means(np.zeros(12000))[3]).max() < 5e-5
    assert np.isnan(values[2]).all()


def test_resampled_to_24_khz(tmp_path, weights):
    """A tone of 48 kHz gives what the same tone of 24 kHz does, but for the filter of the resampler: 5e-2."""
    (tmp_path / "audio").mkdir()
    for rate in (24000, 48000):
        tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(2 * rate) / rate) + music(2.0, 24000).repeat(rate // 24000)
        soundfile.write(tmp_path / "audio" / f"{rate}.wav", tone, rate, subtype="FLOAT")
    soundfile.write(tmp_path / "audio" / "other.wav", music(2.0, 24000, seed=3), 24000, subtype="FLOAT")
    a, b, other = np.load(extract(mert2, tmp_path, weights) / "mert2.npy")
    assert np.abs(a - b).max() < np.abs(a - other).max() / 4


def test_shards_give_the_same_bytes(tmp_path, weights):
    sounds(tmp_path / "audio", 24000, a=0.5, b=0.3, c=0.4, d=0.2)
    whole = extract(mert2, tmp_path, weights, "--batch", "2") / "mert2.npy"
    for i in (1, 0):
        extract(mert2, tmp_path, weights, "--batch", "2", "--shard", f"{i}/2", work="parts")
    mert2.main(["--workdir", str(tmp_path / "parts"), "--merge"])
    assert whole.read_bytes() == (tmp_path / "parts/embeddings/mert2.npy").read_bytes()


@pytest.mark.parametrize("key, value, said", [
    ("hop_length", 320, "sets hop_length to 320, which is not MERT-v2's 240"),
    ("num_attention_heads", 5, "which does not divide 48 channels into heads of even size"),
    ("num_attention_heads", None, "is not MERT-v2, as it lacks 'num_attention_heads'"),
])
def test_refuses_other_configurations(tmp_path, weights, capsys, key, value, said):
    folder = shutil.copytree(weights, tmp_path / "w")
    config = {**MERT2_CONFIG, key: value}
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    refused(tmp_path, folder, capsys, said)


def test_refuses_other_weights(tmp_path, capsys):
    import torch
    state = mert2_state()
    other = {**state, "feature_extractor.mel_scale.fb": 2 * state["feature_extractor.mel_scale.fb"]}
    lacking = {k: v for k, v in state.items() if k != "layers.1.attn.key_proj.bias"}
    for name, tensors, said in (("fb", other, "differs from the Hann window of 2048 and the HTK filters of MERT-v2"),
                                ("less", lacking, "misses layers.1.attn.key_proj.bias"),
                                ("x", {"x": torch.ones(1)}, "is not MERT-v2, as it lacks 'stages.0.layers.0")):
        refused(tmp_path, save(tmp_path / name, MERT2_CONFIG, tensors, "model.safetensors"), capsys, said)


def refused(tmp_path, folder, capsys, said):
    sounds(tmp_path / "audio", 24000, a=0.3)
    with pytest.raises(SystemExit) as stopped:
        cli.run(mert2.main, ["--workdir", str(tmp_path / "work"), "--audio", str(tmp_path / "audio"),
                             "--weights", str(folder)])
    assert stopped.value.code == 1
    assert said in capsys.readouterr().err


def test_published_parameter_count():
    """Weights of 876 tensors in 2,529,812,848 bytes, window and filters among them, hold 632,295,808 parameters.

    A file of this size under upstream's names had these bytes but for 24 of a note in its header.
    """
    size = {"bands": 128, "channels": [128, 512, 1024], "heads": 16, "depths": [3, 4, 5], "inner": 4096, "depth": 24,
            "kernel": 31}
    whole = published.empty(lambda: network.MERT2(size))
    assert sum(p.numel() for p in whole.parameters()) == 632_295_808 and len(whole.state_dict()) == 876 - 2
    published.check_size(whole, mert2.MERT2.MILLIONS, "these")
