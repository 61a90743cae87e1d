"""The loader of pretrained weights: spellings, formats, damage, the model hub's cache, and being offline."""
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from extract_item_embeddings import m2v, mert
from extract_item_embeddings.engine import weights
from harness import cli
from harness.errors import WorkError
from harness.files import checksum
from tests.conftest import ROOT
from tests.worlds.checkpoints import (
    MERT_CONFIG,
    built,
    command,
    extract,
    m2v_checkpoint,
    mert_checkpoint,
    music,
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
    first, *others = [built(mert.MERT, f).run(x)[0][0] for f in folders]
    for other in others:
        assert np.array_equal(first, other)


def test_attention_is_sdpa_and_nothing_is_trained(mert_weights, m2v_weights):
    for model in (built(mert.MERT, mert_weights).model, built(m2v.Music2Vec, m2v_weights).model):
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
        with pytest.raises(WorkError, match="were published"):
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
    elif case == "no size":
        (folder / "config.json").write_text(json.dumps({k: v for k, v in MERT_CONFIG.items() if k != "hidden_size"}))
    elif case == "a size in words":
        (folder / "config.json").write_text(json.dumps({**MERT_CONFIG, "num_hidden_layers": "three"}))
    else:
        torch.save(state, path)
    return folder


@pytest.mark.parametrize("case, said", [
    ("missing key", "misses encoder.layers.1.attention.q_proj.weight"),
    ("unexpected key", "has unexpected encoder.layers.9.extra"),
    ("misshapen", "encoder.layer_norm.bias (31,) for (32,)"),
    ("truncated", "cannot be read as weights"), ("text", "not opened"), ("a list", "no table of named tensors"),
    ("code", "not opened"), ("no config", "has no config.json"), ("another model", "enables deepnorm"),
    ("no size", "lacks hidden_size; use the file"), ("a size in words", "num_hidden_layers 'three', no positive")])
def test_damaged_weights_are_one_sentence(tmp_path, mert_weights, capsys, case, said):
    sounds(tmp_path / "audio", 24000, a=0.3)
    kept = extract(mert, tmp_path, mert_weights) / "mert.npy"
    before = kept.read_bytes()
    checkpoint = damaged(case, tmp_path / "w", mert_weights)
    with pytest.raises(SystemExit) as stopped:
        cli.run(mert.main, ["--workdir", str(tmp_path / "work"), "--audio", str(tmp_path / "audio"), "--overwrite",
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
        cli.run(mert.main, ["--workdir", str(tmp_path / "work"), "--audio", str(tmp_path / "audio"), *flags])
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
    code = ("from extract_item_embeddings import m2v\nfrom extract_item_embeddings.engine import weights\n"
            "f = weights.find(m2v.SOURCE); "
            "print(f.revision, f.provenance()['checksum'])")
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=env, timeout=100)
    assert done.stdout.split() == [commit, checksum(m2v_weights / "pytorch_model.bin")], done.stderr
    sounds(tmp_path / "audio", 16000, a=0.3)
    done = command("m2v", "--audio", tmp_path / "audio", "--workdir", tmp_path / "work", "--device", "cpu",
                   HF_HOME=str(tmp_path / "hf"))
    assert done.returncode == 1 and "93.2 million were published" in done.stderr.strip().splitlines()[-1]
