"""MuQ-MuLan through its command line: clips, their filling, unit vectors and their plain mean."""
import numpy as np
import pytest
import soundfile

from extract_item_embeddings import muq
from extract_item_embeddings.engine import extraction
from harness import cli
from harness.readers import read_json
from tests.worlds.checkpoints import (
    built,
    cosine,
    extract,
    golden_state,
    mulan_checkpoint,
    mulan_folder,
    music,
    save,
    sounds,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.numeric
def test_mulan_equals_its_own_code(tmp_path, shared):
    """Clips of 1 s in this fixture: three full ones; a tail; more and less than half a clip."""
    golden = shared / "golden" / "muq"
    checkpoint = mulan_folder(tmp_path / "w", golden_state(golden / "weights.npz"),
                              golden_state(golden / "mulan_weights.npz"), 1)
    track = np.concatenate([soundfile.read(golden / f"audio_{i}.wav", dtype="float32")[0] for i in (0, 1)])
    (tmp_path / "audio").mkdir()
    for name, n in (("exact", 72000), ("short", 14400), ("tiny", 7200), ("wrap", 62400)):
        soundfile.write(tmp_path / "audio" / f"{name}.wav", track[:n], 24000, subtype="FLOAT")
    folder = extract(muq, tmp_path, checkpoint, "--mulan")
    values = np.load(folder / "muq_mulan.npy")
    with np.load(golden / "mulan_pooling.npz") as expected:
        for row, name in zip(values, ("exact", "short", "tiny", "wrap"), strict=True):
            assert np.abs(row - expected[f"{name}_track_latent"]).max() < 1e-4
        clips = expected["exact_clip_latents_raw"]
        units = clips / np.linalg.norm(clips, axis=1, keepdims=True)
        assert np.abs(values[0] - units.mean(axis=0)).max() < 1e-4  # not brought to length one again:
        assert np.linalg.norm(values[0]) < 0.9999
    about = read_json(folder / "muq_mulan.json")
    assert (about["window"], about["pooling"], about["dim"]) == (1.0, "mean of unit vectors of clips", 24)


@pytest.mark.numeric
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_stays_close(tmp_path, precision):
    sounds(tmp_path / "audio", 24000, a=4.0, b=0.5)
    checkpoint = mulan_checkpoint(tmp_path / "w")
    full = np.load(extract(muq, tmp_path, checkpoint, "--mulan", work="full") / "muq_mulan.npy")
    half = np.load(extract(muq, tmp_path, checkpoint, "--mulan", "--precision", precision)
                   / f"muq_mulan-{precision}.npy")
    assert (cosine(full, half) >= 0.999).all() and not np.array_equal(full, half)


@pytest.mark.numeric
def test_half_precision_stays_close_for_short_tones(tmp_path, shared):
    """Few frames, over which no rounding averages out, and all energy in one band: the hardest sounds (.9980 once)."""
    import torch
    golden = shared / "golden" / "muq"
    checkpoint = mulan_folder(tmp_path / "w", golden_state(golden / "weights.npz"),
                              golden_state(golden / "mulan_weights.npz"), 10)
    full, half = (built(muq.MuQ, checkpoint, "--mulan", "--precision", p) for p in ("fp32", "bf16"))
    heard = [0.5 * np.sin(2 * np.pi * pitch * np.arange(seconds * 24000) / 24000)
             for seconds in (0.1, 0.15, 0.3, 1) for pitch in (110, 440, 1000, 3000)]
    heard += [music(seconds, 24000, seed) for seconds in (0.1, 1) for seed in (0, 1)]
    with torch.inference_mode():
        for samples in heard:
            x = torch.from_numpy(np.float32(samples))[None]
            assert cosine(full.describe(x).numpy(), half.describe(x).numpy()) >= 0.999


@pytest.mark.parametrize("samples, clips", [
    (30, [[*range(10)], [*range(10, 20)], [*range(20, 30)]]), (26, [[*range(10)], [*range(10, 20)],
                                                                    [20, 21, 22, 23, 24, 25, 0, 1, 2, 3]]),
    (10, [[*range(10)]]), (6, [[0, 1, 2, 3, 4, 5, 0, 1, 2, 3]]), (5, [[0, 1, 2, 3, 4, 0, 1, 2, 3, 4]]),
    (3, [[0, 1, 2, 0, 1, 2]])])
def test_which_samples_end_up_in_which_clip(samples, clips):
    backend = muq.MuQ(extraction.parser(muq.MuQ, "").parse_args(["--mulan"]))
    backend.size = 10
    windows, lengths = backend.prepare(np.arange(samples, dtype=np.float32))
    assert [w[:n].tolist() for w, n in zip(windows, lengths, strict=True)] == clips


def test_mulan_needs_mulan(tmp_path, capsys):
    import torch
    sounds(tmp_path / "audio", 24000, a=0.3)
    folder = save(tmp_path / "w", {"mulan": {"clip_secs": 10}}, {"x": torch.zeros(1)})
    with pytest.raises(SystemExit) as stopped:
        cli.run(muq.main, ["--workdir", str(tmp_path / "work"), "--audio", str(tmp_path / "audio"), "--mulan",
                            "--weights", str(folder)])
    assert stopped.value.code == 1 and "is not MuQ-MuLan" in capsys.readouterr().err
