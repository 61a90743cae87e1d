"""MERT, Music2Vec, EnCodecMAE and CLAP through their command lines, from files in the form upstream ships.

Checkpoints are tiny and random. Expectations come from the golden arrays of the models' own code where
SHARED_DATA has them, and from transformers' loading of the same folders elsewhere.
"""
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile

import runs
from extract_item_embeddings import m2v, mert, pretrained, weights
from tests.conftest import ROOT

TINY = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "num_hidden_layers": 3,
        "conv_dim": [16] * 7, "num_conv_pos_embedding_groups": 4, "num_conv_pos_embeddings": 16}
MERT_CONFIG = {**TINY, "model_type": "mert_model", "architectures": ["MERTModel"], "deepnorm": False,
               "feature_extractor_cqt": False, "attention_relax": 32.0, "conv_bias": False,
               "feat_extract_norm": "group", "do_stable_layer_norm": True, "sample_rate": 24000,
               "auto_map": {"AutoModel": "modeling_MERT.MERTModel"}}
M2V_CONFIG = {**TINY, "num_conv_pos_embeddings": 5, "conv_pos_kernel_size": 19, "model_type": "data2vec-audio",
              "architectures": ["Data2VecAudioModel"], "conv_bias": False}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The references too: threads that share tiny products mostly wait for one another."""
    import torch
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# --------------------------------------------------------------------------- files as users have them

def save(folder, config, state, name="pytorch_model.bin", config_name="config.json"):
    """A checkpoint folder: the configuration and the tensors, under the names upstream uses."""
    import torch
    folder.mkdir(parents=True, exist_ok=True)
    (folder / config_name).write_text(json.dumps(config))
    if name.endswith(".safetensors"):
        from safetensors.torch import save_file
        save_file({k: v.contiguous() for k, v in state.items()}, folder / name)
    else:
        torch.save(state, folder / name)
    return folder


def spread(model, seed=0):
    """Give every tensor of a tiny model values that matter, so that no mistake hides behind a zero or a one."""
    import torch
    generator = torch.Generator().manual_seed(seed)
    state = model.state_dict()
    for key, value in state.items():
        if value.is_floating_point() and not key.endswith(("inv_freq", "original0", "relative_position_index")):
            fan = max(value[0].numel(), 1) if value.dim() > 1 else 1
            noise = torch.randn(value.shape, generator=generator)
            scale = fan ** -0.5 if value.dim() > 1 else 0.1
            state[key] = value + scale * noise if value.dim() == 1 else scale * noise
            if key.endswith("running_var"):
                state[key] = 0.5 + torch.rand(value.shape, generator=generator)
    return state


def old_spelling(state):
    return {k.replace("parametrizations.weight.original0", "weight_g")
             .replace("parametrizations.weight.original1", "weight_v"): v for k, v in state.items()}


def golden_state(path):
    import torch
    with np.load(path) as z:
        return {k: torch.from_numpy(z[k].copy()) for k in z.files}


@pytest.fixture(scope="module")
def mert_weights(tmp_path_factory):
    from transformers import HubertConfig, HubertModel
    config = {k: v for k, v in MERT_CONFIG.items() if k not in ("model_type", "architectures", "auto_map")}
    return save(tmp_path_factory.mktemp("mert"), MERT_CONFIG,
                old_spelling(spread(HubertModel(HubertConfig(**config)))))


@pytest.fixture(scope="module")
def m2v_weights(tmp_path_factory):
    from transformers import Data2VecAudioConfig, Data2VecAudioModel
    config = {k: v for k, v in M2V_CONFIG.items() if k not in ("model_type", "architectures")}
    return save(tmp_path_factory.mktemp("m2v"), M2V_CONFIG, spread(Data2VecAudioModel(Data2VecAudioConfig(**config))))


def music(seconds, rate, seed=0):
    """Chords that change, with noise and a decay: float32 (N,)."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    pitch = 110 * 2 ** (rng.integers(0, 24, (int(seconds * 2) + 1, 3)) / 12)
    tones = np.sin(2 * np.pi * pitch[(t * 2).astype(int)] * t[:, None]).sum(axis=1)
    return (0.1 * tones * np.exp(-2 * (t * 2 % 1)) + rng.normal(0, 0.01, t.size)).astype(np.float32)


def sounds(folder, rate, **seconds):
    """{name: samples} of float wav files, so that what is read is what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {name: music(s, rate, seed=i) for i, (name, s) in enumerate(seconds.items())}
    for name, samples in made.items():
        soundfile.write(folder / f"{name}.wav", samples, rate, subtype="FLOAT")
    return made


def extract(backend, tmp_path, checkpoint, *flags, audio="audio", work="work"):
    backend.main(["--workdir", str(tmp_path / work), "--audio", str(tmp_path / audio),
                  "--weights", str(checkpoint), "--device", "cpu", *flags])
    return tmp_path / work / "embeddings"


def command(backend, *argv, **env):
    return subprocess.run([sys.executable, f"extract_item_embeddings/{backend}.py", *map(str, argv)], cwd=ROOT,
                          capture_output=True, text=True, timeout=300, env={**os.environ, "HF_HUB_OFFLINE": "1", **env})


def cosine(a, b):
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def hubert_means(folder, samples, kind="HubertModel"):
    """(states, D): the mean over time of each state, by transformers' own loading."""
    import torch
    import transformers
    model = getattr(transformers, kind).from_pretrained(folder).eval()
    with torch.no_grad():
        out = model(torch.from_numpy(samples)[None], output_hidden_states=True)
    return np.stack([h[0].mean(0).numpy() for h in (*out.hidden_states[:-1], out.last_hidden_state)])


# --------------------------------------------------------------------------- MERT and Music2Vec

def test_mert_from_the_command_line(tmp_path, mert_weights):
    made = sounds(tmp_path / "audio", 24000, a=2.0, b=1.3, c=0.25)
    done = command("mert", "--weights", mert_weights, "--audio", tmp_path / "audio", "--workdir", tmp_path / "work",
                   "--device", "cpu")
    assert done.returncode == 0, done.stderr
    values = np.load(tmp_path / "work/embeddings/mert.npy")
    assert values.shape == (3, 32) and values.dtype == np.float32
    for row, name in zip(values, "abc", strict=True):  # each heard at its own length, in one batch
        assert np.abs(row - hubert_means(mert_weights, made[name])[-1]).max() < 2e-5
    about = runs.read_json(tmp_path / "work/embeddings/mert.json")
    assert about["weights"]["checksum"] == runs.checksum(mert_weights / "pytorch_model.bin")
    assert about["weights"]["id"] == "m-a-p/MERT-v1-330M" and about["weights"]["licence"] == "CC BY-NC 4.0"
    assert (about["sample_rate"], about["layer"], about["precision"], about["dim"]) == (24000, "last", "fp32", 32)


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


@pytest.mark.parametrize("layout, size", [("", "330M"), ("_95m", "95M")])
def test_mert_equals_its_own_code(tmp_path, shared, layout, size):
    golden = shared / "golden" / "mert"
    checkpoint = save(tmp_path / "w", runs.read_json(golden / f"config{layout}.json")["hf_config"],
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


def test_music2vec_equals_its_own_code(tmp_path, shared):
    golden = shared / "golden" / "music2vec"
    checkpoint = save(tmp_path / "w", runs.read_json(golden / "config.json")["hf_config"],
                      golden_state(golden / "weights.npz"))
    (tmp_path / "audio").mkdir()
    for i in (0, 1):
        shutil.copy(golden / f"audio_{i}.wav", tmp_path / "audio")
    with np.load(golden / "expected.npz") as expected:
        values = np.load(extract(m2v, tmp_path, checkpoint) / "music2vec.npy")
        assert np.abs(values - expected["do_normalize_time_mean"]).max() < 1e-5
        assert np.abs(values - expected["time_mean"]).max() > 0.05  # what comes of leaving the normalisation out


def test_music2vec_hears_16_khz(tmp_path, m2v_weights):
    made = sounds(tmp_path / "audio", 16000, a=1.0, b=0.4)
    folder = extract(m2v, tmp_path, m2v_weights)
    for row, name in zip(np.load(folder / "music2vec.npy"), "ab", strict=True):
        x = (made[name] - made[name].mean()) / np.sqrt(made[name].var() + 1e-7)
        assert np.abs(row - hubert_means(m2v_weights, x, "Data2VecAudioModel")[-1]).max() < 2e-5
    assert runs.read_json(folder / "music2vec.json")["sample_rate"] == 16000


def test_music2vec_as_published(tmp_path, m2v_weights):
    made = sounds(tmp_path / "audio", 24000, a=1.0, b=0.4)
    folder = extract(m2v, tmp_path, m2v_weights, "--as-published", "--seconds", "1")
    values = np.load(folder / "music2vec-as-published-1s.npy")
    padded = np.concatenate([made["b"], np.zeros(14400, np.float32)])  # 0.4 s of sound, 0.6 s of nothing
    for row, samples in zip(values, (made["a"], padded), strict=True):
        assert np.abs(row - hubert_means(m2v_weights, samples, "Data2VecAudioModel")[-1]).max() < 2e-5
    about = runs.read_json(folder / "music2vec-as-published-1s.json")
    assert about["sample_rate"] == 24000 and about["as_published"] is True and about["normalised"] is False


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("backend", [mert, m2v])
def test_half_precision_stays_close(tmp_path, mert_weights, m2v_weights, backend, precision):
    sounds(tmp_path / "audio", 24000, a=1.0, b=0.4)
    name, checkpoint = ("mert", mert_weights) if backend is mert else ("music2vec", m2v_weights)
    full = np.load(extract(backend, tmp_path, checkpoint, work="full") / f"{name}.npy")
    half = np.load(extract(backend, tmp_path, checkpoint, "--precision", precision) / f"{name}-{precision}.npy")
    assert (cosine(full, half) >= 0.999).all() and not np.array_equal(full, half)


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


# --------------------------------------------------------------------------- the loader

def built(backend, checkpoint, *flags):
    """The backend with its model, as the command line would have it."""
    from extract_item_embeddings import extraction
    kind = {mert: mert.MERT, m2v: m2v.Music2Vec}[backend]
    args = extraction.parser(kind, "").parse_args(["--weights", str(checkpoint), "--device", "cpu", *flags])
    made = kind(args)
    made.request()
    made.load()
    return made


def test_both_spellings_and_both_formats_are_one_model(tmp_path, mert_weights):
    import torch
    state = torch.load(mert_weights / "pytorch_model.bin", weights_only=True)
    new = {k.replace("weight_g", "parametrizations.weight.original0")
            .replace("weight_v", "parametrizations.weight.original1"): v for k, v in state.items()}
    assert set(new) != set(state)
    folders = [mert_weights, save(tmp_path / "new", MERT_CONFIG, new),
               save(tmp_path / "safe", MERT_CONFIG, state, "model.safetensors"),
               save(tmp_path / "wrapped", MERT_CONFIG, {"state_dict": {f"model.{k}": v for k, v in state.items()}})]
    x = music(0.5, 24000)[None]
    first, *others = [built(mert, f).run(x) for f in folders]
    for other in others:
        assert np.array_equal(first, other)


def test_attention_is_sdpa_and_nothing_is_trained(mert_weights, m2v_weights):
    for model in (built(mert, mert_weights).model, built(m2v, m2v_weights).model):
        assert model.config._attn_implementation == "sdpa" and not model.training
        assert not any(p.requires_grad for p in model.parameters())


def test_published_parameter_counts():
    """The counts that the loader asks for are those of the published configurations (315.4, 94.4, 93.2 million)."""
    import torch
    from transformers import Data2VecAudioConfig, Data2VecAudioModel, HubertConfig, HubertModel
    same = {k: v for k, v in MERT_CONFIG.items() if k in ("conv_bias", "feat_extract_norm", "do_stable_layer_norm")}
    with torch.device("meta"):
        large = HubertModel(HubertConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16,
                                         intermediate_size=4096, **same))
        base = HubertModel(HubertConfig(conv_bias=False, feat_extract_norm="group"))
        music2vec = Data2VecAudioModel(Data2VecAudioConfig())
    for model, millions in ((large, mert.PUBLISHED["330M"][2]), (base, mert.PUBLISHED["95M"][2]),
                            (music2vec, m2v.Music2Vec.MILLIONS)):
        weights.check_size(model, millions, "there")
        with pytest.raises(runs.WorkError, match="were published"):
            weights.check_size(model, millions + 0.1, "there")


def damaged(case, folder, good):
    import torch
    state = torch.load(good / "pytorch_model.bin", weights_only=True)
    path = save(folder, MERT_CONFIG, state) / "pytorch_model.bin"
    if case == "missing key":
        del state["encoder.layers.1.attention.q_proj.weight"]
    elif case == "unexpected key":
        state["encoder.layers.9.extra"] = torch.zeros(2)
    elif case == "misshapen":
        state["encoder.layer_norm.bias"] = torch.zeros(31)
    elif case == "a list":
        state = [1, 2]
    if case == "truncated":
        path.write_bytes(path.read_bytes()[:5000])
    elif case == "text":
        path.write_text("<html>not found</html>")
    elif case == "code":
        import pickle

        class Trap:
            def __reduce__(self):
                return os.mkdir, (str(folder / "trapped"),)
        path.write_bytes(pickle.dumps(Trap()))
    elif case == "no config":
        (folder / "config.json").unlink()
    elif case == "another model":
        (folder / "config.json").write_text(json.dumps({**MERT_CONFIG, "deepnorm": True}))
    else:
        torch.save(state, path)
    return folder


@pytest.mark.parametrize("case, said", [
    ("missing key", "misses encoder.layers.1.attention.q_proj.weight"),
    ("unexpected key", "has unexpected encoder.layers.9.extra"),
    ("misshapen", "encoder.layer_norm.bias (31,) for (32,)"),
    ("truncated", "cannot be read as weights"), ("text", "not opened"), ("a list", "no table of named tensors"),
    ("code", "not opened"), ("no config", "has no config.json"), ("another model", "asks for deepnorm")])
def test_damaged_weights_are_one_sentence(tmp_path, mert_weights, capsys, case, said):
    sounds(tmp_path / "audio", 24000, a=0.3)
    kept = extract(mert, tmp_path, mert_weights) / "mert.npy"
    before = kept.read_bytes()
    checkpoint = damaged(case, tmp_path / "w", mert_weights)
    with pytest.raises(SystemExit) as stopped:
        runs.cli(mert.main, ["--workdir", str(tmp_path / "work"), "--audio", str(tmp_path / "audio"), "--overwrite",
                             "--weights", str(checkpoint)])
    sentence = capsys.readouterr().err.strip().splitlines()[-1]
    assert stopped.value.code == 1 and said in sentence
    assert kept.read_bytes() == before and not (tmp_path / "w" / "trapped").exists()


@pytest.mark.parametrize("flags, said", [
    (["--weights", "nowhere"], "neither a file nor a folder"), (["--weights", "."], "holds no pytorch_model.bin"),
    (["--weights", "W", "--layer", "4"], "0 (input of the first layer) to 3 (last)"),
    (["--weights", "W", "--layer", "first"], "must be last, mean, all or a number"),
    (["--weights", "W", "--revision", "main"], "give one of the two"), (["--precision", "int8"], "invalid choice")])
def test_bad_usage_is_one_sentence(tmp_path, mert_weights, capsys, flags, said):
    sounds(tmp_path / "audio", 24000, a=0.3)
    flags = [str(mert_weights) if f == "W" else str(tmp_path) if f == "." else f for f in flags]
    with pytest.raises(SystemExit) as stopped:
        runs.cli(mert.main, ["--workdir", str(tmp_path / "work"), "--audio", str(tmp_path / "audio"), *flags])
    assert stopped.value.code == 2 and said in capsys.readouterr().err.strip().splitlines()[-1]


def test_offline_without_weights_names_the_file(tmp_path):
    sounds(tmp_path / "audio", 24000, a=0.3)
    done = command("mert", "--audio", tmp_path / "audio", "--workdir", tmp_path / "work", HF_HOME=str(tmp_path / "hf"))
    assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1
    for word in ("config.json", "pytorch_model.bin", "hf download m-a-p/MERT-v1-330M", mert.SOURCES["330M"].revision,
                 "--weights DIR"):
        assert word in done.stderr


def test_the_cache_of_the_hub_is_used_and_its_size_checked(tmp_path, m2v_weights):
    """A branch is recorded as the commit it stands for; what is not the published model is refused."""
    commit, cache = "0123456789abcdef0123456789abcdef01234567", tmp_path / "hf/hub/models--m-a-p--music2vec-v1"
    shutil.copytree(m2v_weights, cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    code = ("from extract_item_embeddings import m2v, weights; f = weights.find(m2v.SOURCE); "
            "print(f.revision, f.provenance()['checksum'])")
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=env, timeout=100)
    assert done.stdout.split() == [commit, runs.checksum(m2v_weights / "pytorch_model.bin")], done.stderr
    sounds(tmp_path / "audio", 16000, a=0.3)
    done = command("m2v", "--audio", tmp_path / "audio", "--workdir", tmp_path / "work", "--device", "cpu",
                   HF_HOME=str(tmp_path / "hf"))
    assert done.returncode == 1 and "93.2 million were published" in done.stderr.strip().splitlines()[-1]
