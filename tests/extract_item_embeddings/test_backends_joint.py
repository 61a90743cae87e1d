"""EnCodecMAE and CLAP through their command lines, from files in the form upstream ships.

EnCodecMAE is compared with the golden arrays of its own code where SHARED_DATA has them, and everywhere with
its layers computed by hand; CLAP with transformers' loading and processor.
"""
import json
import shutil

import numpy as np
import pytest
import soundfile

from extract_item_embeddings import clap, emae
from extract_item_embeddings.engine import weights
from harness import cli
from harness.readers import read_json
from tests.worlds.checkpoints import (
    CLAP_PROCESSOR,
    built,
    clap_checkpoint,
    command,
    cosine,
    encodecmae_state,
    extract,
    golden_state,
    save,
    sounds,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.numeric
def test_encodecmae_equals_its_own_code(tmp_path, shared):
    """Chunks of 4 s, a partly filled last frame that is no key, a chunk of 100 samples whose only key is that."""
    golden = shared / "golden" / "encodecmae"
    state = {"state_dict": golden_state(golden / "weights.npz")}
    checkpoint = save(tmp_path / "w", {"num_heads": 4}, state, "model.pt")
    tracks = [soundfile.read(golden / f"audio_{i}.wav", dtype="float32")[0] for i in (0, 1)]
    long = np.concatenate(tracks)
    (tmp_path / "audio").mkdir()
    for name, samples in (("a", tracks[0]), ("b", tracks[1]), ("long", long), ("odd", tracks[0][:50123]),
                          ("tail", long[:96100])):
        soundfile.write(tmp_path / "audio" / f"{name}.wav", samples, 24000, subtype="FLOAT")
    values = np.load(extract(emae, tmp_path, checkpoint) / "encodecmae.npy")
    with np.load(golden / "expected.npz") as expected:
        assert np.abs(values[:2] - expected["time_mean"]).max() < 5e-5
        assert np.abs(values[2] - expected["long_time_mean"]).max() < 5e-5
        assert np.abs(values[3] - expected["odd_time_mean"][0]).max() < 5e-5
        assert np.abs(values[4] - expected["tail_time_mean"]).max() < 5e-5
        folder = extract(emae, tmp_path, checkpoint, "--layer", "all", work="all")
        for i in range(3):
            row = np.load(folder / f"encodecmae-layer{i}.npy")[:2]
            assert np.abs(row - expected[f"hidden_{i}"].mean(axis=1)).max() < 5e-5
        assert np.abs(np.load(folder / "encodecmae-layer3.npy")[:2] - expected["time_mean"]).max() < 5e-5


@pytest.mark.numeric
def test_encodecmae_frames_equal_its_own_code(tmp_path, shared):
    import torch
    golden = shared / "golden" / "encodecmae"
    checkpoint = save(tmp_path / "w", {"num_heads": 4}, golden_state(golden / "weights.npz"), "model.pt")
    model = built(emae.EnCodecMAE, checkpoint).model
    x = torch.from_numpy(np.stack([soundfile.read(golden / f"audio_{i}.wav", dtype="float32")[0] for i in (0, 1)]))
    with np.load(golden / "expected.npz") as expected, torch.no_grad():
        assert np.abs(model.latents(x).numpy() - expected["latents"]).max() < 5e-5
        assert np.abs(model.states(x, [3])[3].numpy() - expected["output"]).max() < 2e-4
        assert np.abs(model.states(x[:1, :50123], [3])[3].numpy() - expected["odd_output"]).max() < 2e-4


def encodecmae_by_hand(latents, state, heads=4):
    """(T, latent) -> (T, D) output, layer by layer in float64."""
    w = {k: v.numpy().astype(float) for k, v in state.items()}

    def norm(x, name):
        z = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)
        return z * w[f"visible_encoder.{name}.weight"] + w[f"visible_encoder.{name}.bias"]

    x = latents @ w["feat_projector.weight"].T + w["feat_projector.bias"]
    T, D = x.shape
    angle = np.arange(T)[:, None] / 10000 ** (np.arange(0, D, 2) / D)
    x[:, 0::2] += 0.7 * np.sin(angle)
    x[:, 1::2] += 0.7 * np.cos(angle)
    summed = x
    for i in range(2):
        layer = f"visible_encoder.encoder_layers.{i}."
        q, k, v = (x @ w[f"{layer}att_layer.w{n}.weight"].T for n in "qkv")
        mixed = np.empty_like(x)
        for h in range(heads):  # every heads-th channel is of this head
            score = np.exp(q[:, h::heads] @ k[:, h::heads].T / (D / heads) ** 0.5)
            mixed[:, h::heads] = score / score.sum(axis=1, keepdims=True) @ v[:, h::heads]
        step = mixed @ w[f"{layer}att_layer.wo.weight"].T
        x, summed = norm(x + step, f"encoder_layers.{i}.norm1"), summed + step
        inner = np.maximum(x @ w[f"{layer}ff_layer.0.weight"].T + w[f"{layer}ff_layer.0.bias"], 0)
        step = inner @ w[f"{layer}ff_layer.2.weight"].T + w[f"{layer}ff_layer.2.bias"]
        x, summed = norm(x + step, f"encoder_layers.{i}.norm2"), summed + step
    return x + norm(summed, "final_norm")


@pytest.mark.trains
def test_encodecmae_from_the_command_line(tmp_path):
    """Whole frames only, so that no key is masked: 8 s and 2 s, in chunks of 4 s."""
    import torch
    made = sounds(tmp_path / "audio", 24000, a=6.0, b=0.4)
    state = encodecmae_state()
    checkpoint = save(tmp_path / "w", {"num_heads": 4}, {"state_dict": state}, "model.pt")
    done = command("emae", "--weights", checkpoint, "--audio", tmp_path / "audio", "--workdir", tmp_path / "work",
                   "--device", "cpu")
    assert done.returncode == 0, done.stderr
    values = np.load(tmp_path / "work/embeddings/encodecmae.npy")
    model = built(emae.EnCodecMAE, checkpoint).model
    chunks = [made["a"][:96000], made["a"][96000:], made["b"]]
    with torch.no_grad():
        latents = [model.latents(torch.from_numpy(c)[None])[0].numpy().astype(float) for c in chunks]
    means = [encodecmae_by_hand(z, state).mean(axis=0) for z in latents]
    assert np.abs(values[0] - (300 * means[0] + 150 * means[1]) / 450).max() < 5e-5
    assert np.abs(values[1] - means[2]).max() < 5e-5
    about = read_json(tmp_path / "work/embeddings/encodecmae.json")
    assert (about["window"], about["heads"], about["dim"]) == (4.0, 4, 24)


def test_encodecmae_refuses_what_it_is_not(tmp_path, capsys):
    import torch
    sounds(tmp_path / "audio", 24000, a=0.3)
    state = encodecmae_state()
    several = {**state, "visible_encoder.encoder_layers.1.ff_layer.0.bias": torch.ones(40)}
    for name, tensors, config, said in (("other", {"x": torch.ones(1)}, {}, "first release"),
                                        ("several", several, {"num_heads": 4}, "different feed-forward blocks"),
                                        ("heads", state, {"num_heads": 5}, "does not divide 24 channels")):
        with pytest.raises(SystemExit) as stopped:
            cli.run(emae.main, ["--workdir", str(tmp_path / "work"), "--audio", str(tmp_path / "audio"),
                                 "--weights", str(save(tmp_path / name, config, tensors, "model.pt"))])
        assert stopped.value.code == 1 and said in capsys.readouterr().err.strip().splitlines()[-1]


def test_encodecmae_published_parameter_count():
    """What the released file holds besides: mask decoder, heads and codebooks add up to its 63.8 million values."""
    import torch

    from extract_item_embeddings.networks.encodecmae import Encoder
    shapes = {"projector.weight": torch.zeros(768, 128), "codec.layers.0.conv.bias": torch.zeros(32),
              "layers.0.ff_layer.0.weight": torch.zeros(4096, 768)}
    with torch.device("meta"):
        model = Encoder(shapes, 768, 10, 12)
    norms = sum(v.numel() for k, v in model.state_dict().items() if k.endswith("original0"))
    count = sum(p.numel() for p in model.parameters())
    assert round((count - norms) / 1e6, 1) == emae.EnCodecMAE.MILLIONS
    decoder = 768 * 769 + 2 * 4 * 768 ** 2 + 2 * 768 * 4096 + 4096 + 768 + (2 * 4 + 2) * 768
    training = decoder + 8 * 1024 * 769 + 32 * (2 * 1024 * 128 + 1024 + 1)
    assert round((count + training) / 1e6, 1) == 63.8


# --------------------------------------------------------------------------- CLAP

@pytest.fixture(scope="module")
def clap_weights(tmp_path_factory):
    return clap_checkpoint(tmp_path_factory.mktemp("clap"))


def clap_window(folder, samples):
    """(D,) of at most 10 s, by transformers' own loading and its own processor."""
    import torch
    from transformers import ClapFeatureExtractor, ClapModel
    model = ClapModel.from_pretrained(folder).eval()
    given = ClapFeatureExtractor(**CLAP_PROCESSOR)(samples, sampling_rate=48000, return_tensors="pt")
    with torch.no_grad():
        return model.audio_projection(model.audio_model(**given).pooler_output)[0].numpy()


@pytest.mark.trains
def test_clap_from_the_command_line(tmp_path, clap_weights):
    made = sounds(tmp_path / "audio", 48000, a=24.0, b=3.3)
    done = command("clap", "--weights", clap_weights, "--audio", tmp_path / "audio", "--workdir", tmp_path / "work",
                   "--device", "cpu")
    assert done.returncode == 0, done.stderr
    values = np.load(tmp_path / "work/embeddings/clap.npy")
    parts = [clap_window(clap_weights, made["a"][48000 * s:48000 * e]) for s, e in ((0, 10), (10, 20), (20, 24))]
    assert values.shape == (2, 24)
    assert np.abs(values[0] - (10 * parts[0] + 10 * parts[1] + 4 * parts[2]) / 24).max() < 1e-4
    assert np.abs(values[1] - clap_window(clap_weights, made["b"])).max() < 1e-4
    assert read_json(tmp_path / "work/embeddings/clap.json")["sample_rate"] == 48000


@pytest.mark.numeric
def test_clap_hears_no_random_crop(tmp_path, clap_weights):
    sounds(tmp_path / "audio", 48000, a=13.0)
    first = (extract(clap, tmp_path, clap_weights, work="one") / "clap.npy").read_bytes()
    np.random.seed(1)  # noqa: NPY002  the generator that the model's processor draws its crops from
    assert (extract(clap, tmp_path, clap_weights, work="two") / "clap.npy").read_bytes() == first


@pytest.mark.parametrize("padding, expected", [
    ("repeatpad", lambda x: [*x, *x, *x, *[0] * 4]), ("repeat", lambda x: [*x, *x, *x, *x[:4]]),
    ("pad", lambda x: [*x, *[0] * 18])])
def test_clap_fills_short_windows_as_its_processor_does(padding, expected):
    from extract_item_embeddings.engine import extraction
    backend = clap.CLAP(extraction.parser(clap.CLAP, "").parse_args([]))
    backend.size, backend.mel = 25, {"padding": padding}
    x = np.arange(1, 8, dtype=np.float32)
    windows, lengths = backend.prepare(x)
    assert windows.tolist() == [expected(x.tolist())[:25]] and lengths.tolist() == [7]


def test_clap_refuses_fusion_and_other_rates(tmp_path, clap_weights, capsys):
    sounds(tmp_path / "audio", 48000, a=0.3)
    config = read_json(clap_weights / "config.json")
    for name, key, change, said in (("fusion", "config.json", {"audio_config": {**config["audio_config"],
                                     "enable_fusion": True}}, "fusion of random crops"),
                                    ("rate", "preprocessor_config.json", {"sampling_rate": 44100}, "48,000 Hz")):
        folder = tmp_path / name
        shutil.copytree(clap_weights, folder)
        (folder / key).write_text(json.dumps({**read_json(folder / key), **change}))
        with pytest.raises(SystemExit) as stopped:
            cli.run(clap.main, ["--workdir", str(tmp_path / "work"), "--audio", str(tmp_path / "audio"),
                                 "--weights", str(folder)])
        assert stopped.value.code == 1 and said in capsys.readouterr().err.strip().splitlines()[-1]


def test_clap_published_parameter_count():
    import torch
    from transformers import ClapAudioModelWithProjection, ClapConfig
    config = ClapConfig(audio_config={"depths": [2, 2, 12, 2], "hidden_size": 1024, "patch_embeds_hidden_size": 128})
    with torch.device("meta"):
        weights.check_size(ClapAudioModelWithProjection(config.audio_config), clap.CLAP.MILLIONS, "there")


@pytest.mark.numeric
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("backend, name", [(emae, "encodecmae"), (clap, "clap")])
def test_half_precision_of_the_others_stays_close(tmp_path, clap_weights, backend, name, precision):
    sounds(tmp_path / "audio", 24000, a=3.0, b=0.5)
    checkpoint = clap_weights if backend is clap else \
        save(tmp_path / "w", {"num_heads": 4}, encodecmae_state(), "model.pt")
    full = np.load(extract(backend, tmp_path, checkpoint, work="full") / f"{name}.npy")
    half = np.load(extract(backend, tmp_path, checkpoint, "--precision", precision) / f"{name}-{precision}.npy")
    assert (cosine(full, half) >= 0.999).all() and not np.array_equal(full, half)
