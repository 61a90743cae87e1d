"""MERT and Music2Vec through their command lines, from files in the form upstream ships.

Checkpoints are tiny and random. Expectations come from the golden arrays of the models' own code where
SHARED_DATA has them, and from transformers' loading of the same folders elsewhere.
"""
import shutil

import numpy as np
import pytest
import soundfile

from extract_item_embeddings import m2v, mert
from extract_item_embeddings.engine import pretrained
from harness.files import checksum
from harness.readers import read_json
from tests.worlds.checkpoints import (
    command,
    cosine,
    extract,
    golden_state,
    hubert_means,
    m2v_checkpoint,
    mert_checkpoint,
    save,
    sounds,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def mert_weights(tmp_path_factory):
    return mert_checkpoint(tmp_path_factory.mktemp("mert"))


@pytest.fixture(scope="module")
def m2v_weights(tmp_path_factory):
    return m2v_checkpoint(tmp_path_factory.mktemp("m2v"))


@pytest.mark.trains
def test_mert_from_the_command_line(tmp_path, mert_weights):
    made = sounds(tmp_path / "audio", 24000, a=2.0, b=1.3, c=0.25)
    done = command("mert", "--weights", mert_weights, "--audio", tmp_path / "audio", "--workdir", tmp_path / "work",
                   "--device", "cpu")
    assert done.returncode == 0, done.stderr
    values = np.load(tmp_path / "work/embeddings/mert.npy")
    assert values.shape == (3, 32) and values.dtype == np.float32
    for row, name in zip(values, "abc", strict=True):  # each heard at its own length, in one batch
        assert np.abs(row - hubert_means(mert_weights, made[name])[-1]).max() < 2e-5
    about = read_json(tmp_path / "work/embeddings/mert.json")
    assert about["weights"]["checksum"] == checksum(mert_weights / "pytorch_model.bin")
    assert about["weights"]["id"] == "m-a-p/MERT-v1-330M" and about["weights"]["licence"] == "CC BY-NC 4.0"
    assert (about["sample_rate"], about["layer"], about["precision"], about["dim"]) == (24000, "last", "fp32", 32)


@pytest.mark.numeric
def test_every_layer_in_one_pass(tmp_path, mert_weights):
    made = sounds(tmp_path / "audio", 24000, a=1.0, b=0.7)
    folder = extract(mert, tmp_path, mert_weights, "--layer", "all", "--size", "95M")
    expected = np.stack([hubert_means(mert_weights, made[n]) for n in "ab"])  # (2, states, D)
    assert sorted(p.name for p in folder.glob("*.npy")) == [f"mert-95m-layer{i}.npy" for i in range(4)]
    for i in range(4):
        assert np.abs(np.load(folder / f"mert-95m-layer{i}.npy") - expected[:, i]).max() < 2e-5
    one = extract(mert, tmp_path, mert_weights, "--layer", "2", work="one") / "mert-layer2.npy"
    assert np.abs(np.load(one) - expected[:, 2]).max() < 2e-5
    mean = extract(mert, tmp_path, mert_weights, "--layer", "mean", work="mean") / "mert-layermean.npy"
    assert np.abs(np.load(mean) - expected.mean(axis=1)).max() < 2e-5


def test_whole_track_in_windows_pooled_by_duration(tmp_path, mert_weights):
    made = sounds(tmp_path / "audio", 24000, long=75.0, short=0.5)
    folder = extract(mert, tmp_path, mert_weights, "--seconds", "0", "--batch", "2")
    ends = ((0, 30), (30, 60), (60, 75))
    parts = [hubert_means(mert_weights, made["long"][24000 * s:24000 * e])[-1] for s, e in ends]
    values = np.load(folder / "mert-full.npy")
    assert np.abs(values[0] - (30 * parts[0] + 30 * parts[1] + 15 * parts[2]) / 75).max() < 2e-5
    assert np.abs(values[1] - hubert_means(mert_weights, made["short"])[-1]).max() < 2e-5


def test_windows_by_hand():
    windows, lengths = pretrained.cut(np.arange(1, 8, dtype=np.float32), 3)
    assert windows.tolist() == [[1, 2, 3], [4, 5, 6], [7, 0, 0]] and lengths.tolist() == [3, 3, 1]
    windows, lengths = pretrained.cut(np.arange(1, 8, dtype=np.float32), 3, least=2)  # a scrap of an end is dropped
    assert windows.tolist() == [[1, 2, 3], [4, 5, 6]] and lengths.tolist() == [3, 3]
    windows, lengths = pretrained.cut(np.ones(1, np.float32), 3, least=2)  # but never the only one
    assert windows.tolist() == [[1, 0, 0]] and lengths.tolist() == [1]
    assert pretrained.cut(np.ones(6, np.float32), 3)[1].tolist() == [3, 3]


@pytest.mark.numeric
@pytest.mark.parametrize("layout, size", [("", "330M"), ("_95m", "95M")])
def test_mert_equals_its_own_code(tmp_path, shared, layout, size):
    golden = shared / "golden" / "mert"
    checkpoint = save(tmp_path / "w", read_json(golden / f"config{layout}.json")["hf_config"],
                      golden_state(golden / f"weights{layout}.npz"))
    (tmp_path / "audio").mkdir()
    for i in (0, 1):
        shutil.copy(golden / f"audio_{i}.wav", tmp_path / "audio")
    with np.load(golden / f"expected{layout}.npz") as expected:
        folder = extract(mert, tmp_path, checkpoint, "--layer", "all", "--size", size)
        name = "mert-95m" if layout else "mert"
        for i in range(4):
            assert np.abs(np.load(folder / f"{name}-layer{i}.npy") - expected["layer_time_means"][i]).max() < 1e-5
        samples, rate = soundfile.read(golden / "audio_0.wav", dtype="float32")
        soundfile.write(tmp_path / "audio" / "audio_0.wav", samples[:30001], rate)  # an odd length, beside a longer one
        folder = extract(mert, tmp_path, checkpoint, "--size", size, work="odd")
        values = np.load(folder / f"{name}.npy")
        assert np.abs(values[0] - expected["odd_last_hidden_state"][0].mean(axis=0)).max() < 1e-5
        assert np.abs(values[1] - expected["time_mean"][1]).max() < 1e-5


@pytest.mark.numeric
def test_music2vec_equals_its_own_code(tmp_path, shared):
    golden = shared / "golden" / "music2vec"
    checkpoint = save(tmp_path / "w", read_json(golden / "config.json")["hf_config"],
                      golden_state(golden / "weights.npz"))
    (tmp_path / "audio").mkdir()
    for i in (0, 1):
        shutil.copy(golden / f"audio_{i}.wav", tmp_path / "audio")
    with np.load(golden / "expected.npz") as expected:
        values = np.load(extract(m2v, tmp_path, checkpoint) / "music2vec.npy")
        assert np.abs(values - expected["do_normalize_time_mean"]).max() < 1e-5
        assert np.abs(values - expected["time_mean"]).max() > 0.05  # what comes of leaving the normalisation out


@pytest.mark.numeric
def test_music2vec_hears_16_khz(tmp_path, m2v_weights):
    made = sounds(tmp_path / "audio", 16000, a=1.0, b=0.4)
    folder = extract(m2v, tmp_path, m2v_weights)
    for row, name in zip(np.load(folder / "music2vec.npy"), "ab", strict=True):
        x = (made[name] - made[name].mean()) / np.sqrt(made[name].var() + 1e-7)
        assert np.abs(row - hubert_means(m2v_weights, x, "Data2VecAudioModel")[-1]).max() < 2e-5
    assert read_json(folder / "music2vec.json")["sample_rate"] == 16000


def test_music2vec_as_published(tmp_path, m2v_weights):
    made = sounds(tmp_path / "audio", 24000, a=1.0, b=0.4)
    folder = extract(m2v, tmp_path, m2v_weights, "--as-published", "--seconds", "1")
    values = np.load(folder / "music2vec-as-published-1s.npy")
    padded = np.concatenate([made["b"], np.zeros(14400, np.float32)])  # 0.4 s of sound, 0.6 s of nothing
    for row, samples in zip(values, (made["a"], padded), strict=True):
        assert np.abs(row - hubert_means(m2v_weights, samples, "Data2VecAudioModel")[-1]).max() < 2e-5
    about = read_json(folder / "music2vec-as-published-1s.json")
    assert about["sample_rate"] == 24000 and about["as_published"] is True and about["normalised"] is False


@pytest.mark.numeric
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("backend", [mert, m2v])
def test_half_precision_stays_close(tmp_path, mert_weights, m2v_weights, backend, precision):
    sounds(tmp_path / "audio", 24000, a=1.0, b=0.4)
    name, checkpoint = ("mert", mert_weights) if backend is mert else ("music2vec", m2v_weights)
    full = np.load(extract(backend, tmp_path, checkpoint, work="full") / f"{name}.npy")
    half = np.load(extract(backend, tmp_path, checkpoint, "--precision", precision) / f"{name}-{precision}.npy")
    assert (cosine(full, half) >= 0.999).all() and not np.array_equal(full, half)


@pytest.mark.numeric
def test_shards_and_resumption_give_the_same_bytes(tmp_path, mert_weights):
    sounds(tmp_path / "audio", 24000, a=0.5, b=0.3, c=0.4, d=0.2, e=0.5)
    whole = extract(mert, tmp_path, mert_weights, "--batch", "2") / "mert.npy"
    for i in (1, 0):
        extract(mert, tmp_path, mert_weights, "--batch", "2", "--shard", f"{i}/2", work="parts")
    mert.main(["--workdir", str(tmp_path / "parts"), "--merge"])
    assert whole.read_bytes() == (tmp_path / "parts/embeddings/mert.npy").read_bytes()


def test_silence_and_a_bad_file_beside_music(tmp_path, mert_weights):
    made = sounds(tmp_path / "audio", 24000, b=0.5)
    soundfile.write(tmp_path / "audio" / "a.wav", np.zeros(12000, np.float32), 24000)
    (tmp_path / "audio" / "c.wav").write_text("no sound")
    values = np.load(extract(mert, tmp_path, mert_weights) / "mert.npy")
    assert np.abs(values[0] - hubert_means(mert_weights, np.zeros(12000, np.float32))[-1]).max() < 2e-5
    assert np.abs(values[1] - hubert_means(mert_weights, made["b"])[-1]).max() < 2e-5
    assert np.isnan(values[2]).all()
