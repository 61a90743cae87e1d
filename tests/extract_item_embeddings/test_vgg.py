"""VGG: the network against convolutions written directly in NumPy and the original graph's output; the command line."""
import argparse
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch

from extract_item_embeddings import vgg
from extract_item_embeddings.networks import musicnn_package, vgg_model
from harness.errors import WorkError
from harness.readers import read_json
from tests.conftest import ROOT
from tests.extract_item_embeddings.test_audio import tone, write
from tests.extract_item_embeddings.test_musicnn import installed, save_checkpoint
from tests.worlds.patch_networks import loading, one_thread, random_weights

needs_weights = pytest.mark.skipif(not installed(), reason=f"needs the weights: {musicnn_package.INSTALL}")


def backend(variant="MSD_vgg", layer="pool5"):
    return vgg.VGG(argparse.Namespace(variant=variant, layer=layer, device="cpu"))


@pytest.fixture(autouse=True)
def alone():
    with one_thread():
        yield


@pytest.fixture
def loaded():
    with loading(backend) as load:
        yield load


# --------------------------------------------------------------------------- the network

def reference(weights, patch):
    """(T, 96) -> pool5 (256,) and taggram (50,) in float64, layer by layer as the package builds its graph."""
    w = {name: array.astype(np.float64) for name, array in weights.items()}

    def norm(x, name):
        beta, gamma, mean, variance = (w[f"{name}/{v}"] for v in ("beta", "gamma", "moving_mean", "moving_variance"))
        return (x - mean) / np.sqrt(variance + 1e-3) * gamma + beta

    x = norm(patch.astype(np.float64)[:, :, None], "batch_normalization")  # (T, F, channels)
    for i, (window, step) in enumerate((((4, 1), (2, 2)), *[((2, 2), (2, 2))] * 3, ((4, 4), (4, 4))), 1):
        around = np.lib.stride_tricks.sliding_window_view(np.pad(x, ((1, 1), (1, 1), (0, 0))), (3, 3), (0, 1))
        x = np.einsum("tfchw,hwco->tfo", around, w[f"{i}CNN/kernel"], optimize=True) + w[f"{i}CNN/bias"]
        x = norm(np.maximum(x, 0), f"batch_normalization_{i}")
        x = np.lib.stride_tricks.sliding_window_view(x, window, (0, 1))[::step[0], ::step[1]].max(axis=(3, 4))
    assert x.shape == (2, 1, 128)
    return x.ravel(), 1 / (1 + np.exp(-(x.ravel() @ w["dense/kernel"] + w["dense/bias"])))


def check_against_reference(weights, patches):
    with torch.inference_mode():
        ours = vgg_model.Network(weights)(torch.from_numpy(patches), None)
    for i, patch in enumerate(patches):
        pool5, taggram = reference(weights, patch)
        # float32 sums of 1,152 products against float64, five layers deep: 1e-5 of the largest value measured
        assert np.abs(ours["pool5"][i].numpy() - pool5).max() < 1e-3 * max(1, np.abs(pool5).max())
        assert np.abs(ours["taggram"][i].numpy() - taggram).max() < 1e-3


@pytest.mark.numeric
def test_equals_convolutions_written_directly():
    patches = np.random.default_rng(1).uniform(0, 4, (2, 187, 96)).astype(np.float32)
    check_against_reference(random_weights(vgg_model.expected_shapes()), patches)


@pytest.mark.numeric
@needs_weights
@pytest.mark.parametrize("variant", ["MSD_vgg", "MTT_vgg"])
def test_the_published_weights_equal_convolutions_written_directly(loaded, variant):
    patches, _ = loaded(variant).prepare(tone(3.2, 16000, 330))
    weights = musicnn_package.read_weights(musicnn_package.checkpoint(variant)[0], vgg_model.expected_shapes(), "VGG")
    check_against_reference(weights, patches)


@pytest.mark.numeric
@needs_weights
@pytest.mark.parametrize("variant", ["MSD_vgg", "MTT_vgg"])
@pytest.mark.parametrize("clip", ["plucks", "drums", "pad", "loud"])
def test_parity_with_the_original_graph(shared, loaded, variant, clip):
    golden = np.load(shared / "golden/musicnn/vgg_expected.npz")
    samples, rate = soundfile.read(shared / f"golden/musicnn/{clip}.wav", dtype="float32")
    assert rate == vgg.VGG.SAMPLE_RATE
    one = loaded(variant)
    exact = one.log_mel(samples, rounded=False)[:374].reshape(2, 187, 96)
    with torch.inference_mode():
        ours = one.network(torch.from_numpy(exact), None)
    for layer in ("pool5", "taggram"):  # 4e-6 measured
        assert np.abs(ours[layer].numpy() - golden[f"{clip}.{variant}.{layer}"]).max() < 1e-3, layer
    # mel powers rounded to float16, as the package rounds them: one that lies between two may fall either way
    assert np.abs(one.forward(*one.prepare(samples)) - golden[f"{clip}.{variant}.pool5_float16_mel"]).max() < 1e-3


# --------------------------------------------------------------------------- windows

@needs_weights
def test_a_short_track_is_repeated_and_not_padded_with_silence(loaded):
    one = loaded()
    short = tone(1, 16000)
    patches, lengths = one.prepare(short)
    sound = one.log_mel(short)
    assert lengths.tolist() == [len(sound)] == [63]
    assert np.array_equal(patches[0], np.concatenate([sound, sound, sound])[:187])
    assert patches.min(axis=2).max() > 0 and np.isfinite(one.forward(patches, lengths)).all()
    long, n = one.prepare(tone(7, 16000))
    assert long.shape == (2, 187, 96) and n.tolist() == [187, 187]


@needs_weights
@pytest.mark.numeric
def test_every_number_of_windows_gives_the_same_bytes(loaded):
    one = loaded()
    patches, lengths = one.prepare(tone(16, 16000))
    together = one.forward(patches, lengths)
    assert together.shape == (5, 256) and together.dtype == np.float32
    for n in range(1, 5):
        assert np.array_equal(one.forward(patches[-n:], lengths[-n:]), together[-n:])


# --------------------------------------------------------------------------- the command line

@needs_weights
def test_names_layers_and_tags(tmp_path):
    (tmp_path / "songs").mkdir()
    for i, seconds in enumerate((0.5, 4, 7)):
        write(tmp_path / f"songs/s{i}.wav", tone(seconds, 22050, 150 * (i + 1), seed=i), 22050)
    matrices = {}
    for flags, name, width in (([], "vgg-msd", 256), (["--variant", "MTT_vgg", "--frames"], "vgg-mtt", 256),
                               (["--variant", "MTT_vgg", "--layer", "taggram"], "vgg-mtt-taggram", 50)):
        vgg.main(["--workdir", str(tmp_path), "--audio", str(tmp_path / "songs"), "--device", "cpu", *flags])
        matrices[name] = np.load(tmp_path / f"embeddings/{name}.npy")
        assert matrices[name].shape == (3, width) and np.isfinite(matrices[name]).all()
    about = read_json(tmp_path / "embeddings/vgg-msd.json")
    assert (about["backend"], about["weights"]["id"], about["layer"], about["sample_rate"], about["dim"]) == (
        "vgg", "musicnn/MSD_vgg", "pool5", 16000, 256) and "features" not in about
    tags = read_json(tmp_path / "embeddings/vgg-mtt-taggram.json")
    assert tags["layer"] == "taggram" and len(tags["features"]) == 50 and "harpsichord" in tags["features"]
    assert 0 < matrices["vgg-mtt-taggram"].min() and matrices["vgg-mtt-taggram"].max() < 1
    assert not np.allclose(matrices["vgg-msd"], matrices["vgg-mtt"])
    frames = np.load(tmp_path / "frames/vgg-mtt/2.npy")
    assert frames.shape == (2, 256) and np.allclose(frames.mean(axis=0), matrices["vgg-mtt"][2], atol=1e-6)


def test_without_the_package_one_sentence_says_what_to_install(tmp_path):
    write(tmp_path / "a.wav", tone(1))
    body = ("import sys; sys.path.insert(0, sys.argv[1])\n"
            "import extract_item_embeddings.vgg as script\nfrom harness import cli\n"
            "sys.path[:] = [p for p in sys.path if 'site-packages' not in p]\n"
            "cli.run(script.main, sys.argv[2:])\n")
    done = subprocess.run([sys.executable, "-c", body, ROOT, "--audio", tmp_path, "--workdir", tmp_path / "w"],
                          text=True, capture_output=True, timeout=300)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert "is not installed; pip install --no-deps musicnn==0.1.0\n" in done.stderr


def test_weights_of_another_network_are_refused(tmp_path):
    shapes = vgg_model.expected_shapes()
    weights = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    save_checkpoint(tmp_path / "model", weights)
    assert musicnn_package.read_weights(tmp_path / "model", shapes, "the VGG network").keys() == shapes.keys()
    save_checkpoint(tmp_path / "model", {**weights, "dense/kernel": np.zeros((200, 50), np.float32)})
    with pytest.raises(WorkError, match="are not those of the VGG network: dense/kernel has shape .200, 50., expected"):
        musicnn_package.read_weights(tmp_path / "model", shapes, "the VGG network")
