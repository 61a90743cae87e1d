"""MusiCNN: the checkpoint reader, the network against plain convolutions and the original library's output."""
import argparse
import importlib.metadata
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from torch.nn import functional

from bench._musicnn_plain import published
from extract_item_embeddings import musicnn
from extract_item_embeddings.networks import tf_checkpoint
from extract_item_embeddings.networks.musicnn_model import Network
from harness.errors import UsageError, WorkError
from harness.readers import read_json
from tests.conftest import ROOT
from tests.extract_item_embeddings.test_audio import tone, write
from tests.worlds.patch_networks import loading, one_thread, random_weights


def installed():
    try:
        importlib.metadata.distribution("musicnn")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


needs_weights = pytest.mark.skipif(not installed(), reason=f"needs the weights: {musicnn.INSTALL}")


def backend(**options):
    flags = {"variant": "MSD_musicnn", "layer": "penultimate", "precision": "fp32", "as_published": False,
             "device": "cpu"}
    return musicnn.MusiCNN(argparse.Namespace(**{**flags, **options}))


@pytest.fixture(autouse=True)
def alone():
    with one_thread():
        yield


@pytest.fixture
def loaded():
    with loading(backend) as load:
        yield load


# --------------------------------------------------------------------------- the network, on random weights

def patches(n=3, frames=187, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).uniform(0, 4, (n, frames, 96)).astype(np.float32))


@pytest.mark.numeric
@torch.inference_mode()
def test_equals_plain_convolutions():
    weights, x = random_weights(musicnn.expected_shapes()), patches()
    ours, expected = Network(weights)(x, torch.full((3,), 187)), published(weights, x)
    for layer, width in musicnn.DIMENSIONS.items():
        assert ours[layer].shape == (3, width)
        assert torch.allclose(ours[layer], expected[layer], atol=1e-3, rtol=1e-4), layer


@pytest.mark.numeric
@torch.inference_mode()
@pytest.mark.parametrize("frames", [1, 7, 40, 186])
def test_a_short_patch_is_heard_as_if_alone(frames):
    """What stands behind the sound changes nothing, and the result is that of a patch of that length."""
    weights, x = random_weights(musicnn.expected_shapes()), patches()
    expected = published(weights, x[:1, :frames])
    ours = Network(weights)(x, torch.tensor([frames, 187, 187]))
    for layer in musicnn.DIMENSIONS:
        assert torch.allclose(ours[layer][:1], expected[layer], atol=1e-3, rtol=1e-4), layer


@pytest.mark.numeric
@torch.inference_mode()
@pytest.mark.parametrize("native", [False, True])
def test_bfloat16_keeps_the_direction(native):
    """Both roads: rounded operands in float32 products, and products of bfloat16 (slow without the hardware)."""
    weights, x, n = random_weights(musicnn.expected_shapes()), patches(2), torch.tensor([187, 90])
    network = Network(weights)
    exact = network(x, n)
    network.set_precision("bf16", native)
    rounded = network(x, n)
    for layer in ("penultimate", "max_pool", "mean_pool"):
        assert not torch.equal(rounded[layer], exact[layer])
        assert functional.cosine_similarity(rounded[layer], exact[layer]).min() >= 0.999, layer


# --------------------------------------------------------------------------- the original library's output

@pytest.mark.numeric
@needs_weights
@pytest.mark.parametrize("variant", ["MSD_musicnn", "MTT_musicnn"])
@pytest.mark.parametrize("clip", ["plucks", "drums", "pad", "loud"])
def test_parity_with_the_original_library(shared, loaded, variant, clip):
    golden = np.load(shared / "golden/musicnn/expected.npz")
    samples, rate = soundfile.read(shared / f"golden/musicnn/{clip}.wav", dtype="float32")
    assert rate == musicnn.MusiCNN.SAMPLE_RATE
    exact, rounded = loaded(variant=variant), loaded(variant=variant, precision="bf16")
    inputs, lengths = exact.prepare(samples)
    assert inputs.shape == (2, 187, 96) and lengths.tolist() == [187, 187]
    with torch.inference_mode():
        ours = exact.network(torch.from_numpy(inputs), torch.from_numpy(lengths))
    for layer in ("taggram", "penultimate", "mean_pool"):
        assert np.abs(ours[layer].numpy() - golden[f"{clip}.{variant}.{layer}"]).max() < 1e-3
    # of the same patches beside silent ones: the shapes of the products differ, and so the last digits (5e-6 measured)
    assert np.abs(exact.forward(inputs, lengths) - ours["penultimate"].numpy()).max() < 1e-4
    expected, ours = golden[f"{clip}.{variant}.penultimate"], rounded.forward(inputs, lengths)
    cosine = (ours * expected).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosine.min() >= 0.999


@needs_weights
def test_windows_of_sound(loaded):
    one = loaded()
    hop, frames = musicnn.HOP, musicnn.FRAMES
    for samples, windows, sound in ((16000, 1, 16000 // hop + 1), (frames * hop - 1, 1, frames),
                                    (2 * frames * hop - hop, 2, frames), (30 * 16000, 10, frames)):
        inputs, lengths = one.prepare(tone(samples / 16000, 16000)[:samples])
        assert inputs.shape == (windows, frames, 96) and set(lengths.tolist()) == {sound}
        assert not inputs[0, sound:].any()


@needs_weights
def test_silence_takes_no_longer_than_music(loaded):
    """Subnormal products are zeros in the threads of the pass, and nowhere else; no value changes by it."""
    one, tiny = loaded(), torch.tensor([2e-38])
    assert one.threads_pool.submit(lambda: (tiny / 8).item()).result() == 0 != (tiny / 8).item()
    inputs, lengths = np.zeros((4, 187, 96), np.float32), np.full(4, 187)
    assert np.array_equal(one.forward(inputs, lengths), one.run(inputs, lengths))


@needs_weights
def test_loud_music_does_not_overflow(loaded):
    """Mel powers above 6.55 become infinite where NumPy 2 multiplies float16 by 10000."""
    one = loaded()
    inputs, lengths = one.prepare(np.sign(tone(3, 16000)))
    assert inputs.max() > np.log10(10000 * 6.55) and np.isfinite(inputs).all()
    assert np.isfinite(one.forward(inputs, lengths)).all()


# --------------------------------------------------------------------------- the command line

@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("songs")
    for i, seconds in enumerate((0.5, 2, 3.2, 7, 7, 9.1, 4)):
        write(folder / f"s{i}.{('wav', 'flac')[i % 2]}", tone(seconds, 22050, 150 * (i + 1), seed=i), 22050)
    write(folder / "silent.wav", np.zeros(16000, np.float32), 16000)
    (folder / "text.wav").write_text("no sound")
    return folder


def extract(work, songs, *flags):
    musicnn.main(["--workdir", str(work), "--audio", str(songs), "--device", "cpu", "--batch", "4", *flags])


@pytest.mark.numeric
@needs_weights
def test_shards_and_a_single_run_give_the_same_bytes(songs, tmp_path):
    extract(tmp_path / "a", songs)
    for i in (1, 0):
        extract(tmp_path / "b", songs, "--shard", f"{i}/2", "--workers", "1")
    extract(tmp_path / "b", songs, "--merge")
    a, b = ((tmp_path / w / "embeddings/musicnn.npy").read_bytes() for w in "ab")
    assert a == b
    matrix = np.load(tmp_path / "a/embeddings/musicnn.npy")
    about = read_json(tmp_path / "a/embeddings/musicnn.json")
    assert matrix.shape == (9, 200)
    assert np.isfinite(matrix).all(axis=1).tolist() == [True] * 8 + [False]
    assert about["weights"]["id"] == "musicnn/MSD_musicnn" and about["weights"]["revision"] == "0.1.0"
    assert (about["sample_rate"], about["layer"], about["pooling"], about["dim"]) == (
        16000, "penultimate", "mean over time", 200)
    assert {"torch", "librosa"} <= set(about["versions"])


@pytest.mark.numeric
@needs_weights
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_batch_gives_the_same_bytes(songs, tmp_path, loaded, precision):
    """As the docs promise: a part of a pass is padded, so that no product's shape depends on the size of a batch."""
    suffix = "" if precision == "fp32" else "-bf16"
    expected = None
    for batch in ("1", "4", "6", "16"):
        extract(tmp_path / batch, songs, "--precision", precision, "--batch", batch)
        written = (tmp_path / f"{batch}/embeddings/musicnn{suffix}.npy").read_bytes()
        assert written == (expected := expected or written), batch
    one = loaded(precision=precision)
    inputs, lengths = one.prepare(tone(21, 16000))
    together = one.forward(inputs, lengths)
    for n in range(1, len(inputs)):
        assert np.array_equal(one.forward(inputs[-n:], lengths[-n:]), together[-n:])


@needs_weights
def test_layers_variants_and_the_published_defect_have_names_of_their_own(songs, tmp_path):
    for flags, name, width in ((["--layer", "max_pool"], "musicnn-max_pool", 753),
                               (["--layer", "taggram", "--variant", "MTT_musicnn"], "musicnn-mtt-taggram", 50),
                               (["--as-published"], "musicnn-as-published", 200),
                               (["--precision", "bf16"], "musicnn-bf16", 200),
                               ([], "musicnn", 200), (["--seconds", "2.98"], "musicnn-2.98s", 200)):
        extract(tmp_path, songs, *flags)
        assert np.load(tmp_path / f"embeddings/{name}.npy").shape == (9, width)
    true, first, rounded, tags = (np.load(tmp_path / f"embeddings/musicnn{s}.npy") for s in
                                  ("", "-as-published", "-bf16", "-mtt-taggram"))
    several = [3, 4, 5]  # tracks s3, s4, s5 have more than one window
    one = [0, 1, 2, 6, 7]
    assert np.array_equal(true[one], first[one]) and not np.isclose(true[several], first[several]).all(axis=1).any()
    cosine = (true * rounded)[:8].sum(1) / np.linalg.norm(true[:8], axis=1) / np.linalg.norm(rounded[:8], axis=1)
    assert cosine.min() >= 0.999
    assert (tags[:8] > 0).all() and (tags[:8] < 1).all()


@needs_weights
def test_the_script_does_not_shadow_the_package(songs, tmp_path):
    done = subprocess.run([sys.executable, "extract_item_embeddings/musicnn.py", "--audio", songs, "--workdir",
                           tmp_path, "--device", "cpu", "--seconds", "3"], cwd=ROOT, capture_output=True, text=True,
                          timeout=300)
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "embeddings/musicnn-3s.npy").shape == (9, 200)


def test_without_the_package_one_sentence_says_what_to_install(songs, tmp_path):
    """A Python that sees no installed package from here on."""
    body = ("import sys; sys.path.insert(0, sys.argv[1])\n"
            "import extract_item_embeddings.musicnn as script\nfrom harness import cli\n"
            "sys.path[:] = [p for p in sys.path if 'site-packages' not in p]\n"
            "cli.run(script.main, sys.argv[2:])\n")
    done = subprocess.run([sys.executable, "-c", body, ROOT, "--audio", songs, "--workdir", tmp_path], text=True,
                          capture_output=True, timeout=300)
    assert done.returncode == 1, done.stderr
    assert "is not installed; pip install --no-deps musicnn==0.1.0\n" in done.stderr and "Traceback" not in done.stderr


def test_as_published_concerns_one_layer():
    with pytest.raises(UsageError, match="--as-published applies to --layer penultimate only"):
        backend(layer="taggram", as_published=True)


# --------------------------------------------------------------------------- the checkpoint reader

@needs_weights
def test_reads_every_variable_of_the_package():
    for variant, n in (("MSD_musicnn", 150), ("MTT_musicnn", 150), ("MSD_vgg", 86)):
        assert len(tf_checkpoint.load(musicnn.checkpoint(variant)[0])) == n
    weights = musicnn.read_weights(musicnn.checkpoint("MSD_musicnn")[0])
    assert len(weights) == 64 and sum(w.size for w in weights.values()) == 792079  # and two powers of Adam's betas


@pytest.mark.parametrize("data, crc", [(b"", 0), (b"123456789", 0xE3069283), (b"\0" * 32, 0x8A9136AA),
                                       (b"\xff" * 32, 0x62A8AB43), (bytes(range(32)), 0x46DD794E)])
def test_crc32c_of_the_standard(data, crc):
    """The check values of RFC 3720, appendix B.4, and of the CRC catalogue."""
    assert tf_checkpoint.crc32c(data) == crc


@pytest.mark.parametrize("n", [63, 64, 65, 1000, 4097])
def test_crc32c_folded_equals_bytewise(n):
    data, crc = np.random.default_rng(n).bytes(n), 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (tf_checkpoint.POLYNOMIAL if crc & 1 else 0)
    assert tf_checkpoint.crc32c(data) == crc ^ 0xFFFFFFFF


def varint(n):
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def masked(data):
    crc = tf_checkpoint.crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def table_block(items):
    """A block of the table with prefix-compressed keys, one restart, and its trailer."""
    body, previous = b"", b""
    for key, value in items:
        shared = len(os.path.commonprefix([key, previous]))
        body += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        previous = key
    body += struct.pack("<II", 0, 1) + b"\0"
    return body, body + struct.pack("<I", masked(body))


def save_checkpoint(prefix, arrays):
    """A checkpoint as TensorFlow lays it out, of float32 arrays."""
    data, items = b"", [(b"", b"\x08\x01")]
    for name, array in sorted(arrays.items()):
        raw = array.astype("<f4").tobytes()
        dims = b"".join(b"\x12" + varint(len(d)) + d for d in (b"\x08" + varint(s) for s in array.shape))
        items.append((name.encode(), b"\x08\x01\x12" + varint(len(dims)) + dims + b"\x20" + varint(len(data))
                      + b"\x28" + varint(len(raw)) + b"\x35" + struct.pack("<I", masked(raw))))
        data += raw
    body, block = table_block(items)
    top, top_block = table_block([(b"z", varint(0) + varint(len(body) - 1))])
    footer = varint(0) + varint(0) + varint(len(block)) + varint(len(top) - 1)
    table = block + top_block + footer.ljust(40, b"\0") + struct.pack("<Q", tf_checkpoint.MAGIC)
    (prefix.parent / f"{prefix.name}.index").write_bytes(table)
    (prefix.parent / f"{prefix.name}.data-00000-of-00001").write_bytes(data)


def test_reads_a_checkpoint(tmp_path):
    arrays = {"conv/bias": np.arange(5.0), "conv/bias_2": np.arange(300.0).reshape(3, 100), "dense": np.float32([[7]])}
    save_checkpoint(tmp_path / "model", arrays)
    read = tf_checkpoint.load(tmp_path / "model")
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        assert read[name].dtype == np.float32 and np.array_equal(read[name], array)
    assert tf_checkpoint.load(tmp_path / "model", keep=lambda n: n == "dense").keys() == {"dense"}


@pytest.mark.parametrize("file, change, sentence", [
    ("index", lambda b: b[:-1] + b"\0", "is not a TensorFlow checkpoint index"),
    ("index", lambda b: b[:40], "is not a TensorFlow checkpoint index"),
    ("index", lambda b: b[:30] + b"\xff" + b[31:], "a block of .*index does not match its checksum"),
    ("index", lambda b: b[60:], "damaged|checksum"),
    ("data-00000-of-00001", lambda b: b[:-1], "should be 1200 bytes of shape .3, 100., but 1199 are there"),
    ("data-00000-of-00001", lambda b: b[:25] + b"\xff" + b[26:], "variable two .* does not match its checksum"),
])
def test_a_damaged_checkpoint_is_refused(tmp_path, file, change, sentence):
    save_checkpoint(tmp_path / "model", {"one": np.arange(5.0), "two": np.arange(300.0).reshape(3, 100)})
    path = tmp_path / f"model.{file}"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(WorkError, match=sentence):
        tf_checkpoint.load(tmp_path / "model")


def test_weights_of_another_network_are_refused(tmp_path):
    shapes = musicnn.expected_shapes()
    weights = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    save_checkpoint(tmp_path / "model", weights)
    assert musicnn.read_weights(tmp_path / "model").keys() == shapes.keys()
    for change, sentence in (({"dense/bias": None}, "dense/bias has shape None, expected .200,"),
                             ({"extra": np.zeros(2)}, "extra has shape .2,., expected None"),
                             ({"dense/bias": np.zeros(50)}, "dense/bias has shape .50,., expected .200,")):
        altered = {k: v for k, v in {**weights, **change}.items() if v is not None}
        save_checkpoint(tmp_path / "model", altered)
        with pytest.raises(WorkError, match=sentence):
            musicnn.read_weights(tmp_path / "model")
