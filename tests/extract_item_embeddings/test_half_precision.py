"""Half precision on a processor whose library computes convolutions wrongly: seen at load, kept in float32, and said.

No test depends on the processor at hand: torch's convolutions are replaced by ones that are computed in float32 and
rounded, or, where a fault is wanted, by ones whose channels are mixed up.
"""
import numpy as np
import pytest
import torch
from torch.nn import functional

from extract_item_embeddings import mert
from extract_item_embeddings.engine import half_precision
from harness.readers import read_json
from tests.worlds.checkpoints import MAKERS, cosine, extract, mert_checkpoint, sounds

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def convolutions(monkeypatch):
    """convolutions(wrong): a half convolution of so many groups has its channels reversed where wrong(groups)."""
    plain = {name: getattr(functional, name) for name in ("conv1d", "conv2d")}

    def replace(wrong):
        for name in plain:
            def convolution(x, weight, bias, stride, padding, dilation, groups, name=name):
                bias = None if bias is None else bias.float()
                out = plain[name](x.float(), weight.float(), bias, stride, padding, dilation, groups).to(x.dtype)
                return out.flip(1) if x.dtype != torch.float32 and wrong(groups) else out
            monkeypatch.setattr(functional, name, convolution)
    return replace


def never(groups):
    return False


def always(groups):
    return True


def grouped(groups):
    return groups > 1


POSITIONS = "encoder.pos_conv_embed.conv"
CONFORMER = ["conv.conv.0.conv2", *(f"conv.conv.1.conv{j}" for j in (1, 2, 3)),  # 0.conv1 and 3 are always float32
             *(f"conformer.layers.{i}.conv_module.{kind}" for i in range(3)
               for kind in ("depthwise_conv", "pointwise_conv1", "pointwise_conv2"))]
REACHED = {  # the convolutions of each tiny network that run in half precision; MuQ's positional one never runs
    "mert": [POSITIONS, *(f"feature_extractor.conv_layers.{i}.conv" for i in range(7))],
    "music2vec": [*(f"encoder.pos_conv_embed.layers.{i}.conv" for i in range(5)),
                  *(f"feature_extractor.conv_layers.{i}.conv" for i in range(7))],
    "musicfm": CONFORMER, "muq_msd": CONFORMER, "muq_mulan": CONFORMER,
    "encodecmae": [],  # its convolutions are those of EnCodec, which is float32 in every precision
    "clap": ["audio_model.audio_encoder.patch_embed.proj"],
    "maest": ["ast.embeddings.patch_embeddings.projection"],
    "mert2": ["stages.1.down", "stages.2.down", *(f"stages.{i}.layers.0.depthwise" for i in range(3)),
              *(f"layers.{i}.convolution.{kind}" for i in range(3) for kind in ("gate", "depthwise", "out"))],
}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("name", MAKERS)
def test_wrong_convolutions_are_kept_in_float32(tmp_path, capfd, convolutions, name, precision):
    module, make, flags = MAKERS[name]
    checkpoint = make(tmp_path / "weights")
    sounds(tmp_path / "audio", 24000, a=2.0, b=0.5)
    convolutions(always)
    full = np.load(extract(module, tmp_path, checkpoint, *flags, work="full") / f"{name}.npy")
    capfd.readouterr()
    folder = extract(module, tmp_path, checkpoint, *flags, "--precision", precision)
    assert (cosine(full, np.load(folder / f"{name}-{precision}.npy")) >= 0.999).all()
    assert read_json(folder / f"{name}-{precision}.json")["kept_in_float32"] == sorted(REACHED[name])
    assert "kept_in_float32" not in read_json(tmp_path / f"full/embeddings/{name}.json")
    said = [line for line in capfd.readouterr().err.splitlines() if "kept in float32" in line]
    assert len(said) == bool(REACHED[name])
    if said:
        more = f" and {len(REACHED[name]) - 1} more" if len(REACHED[name]) > 1 else ""
        assert f"the convolution {min(REACHED[name])}{more} (relative error 1." in said[0]


@pytest.mark.parametrize("name", MAKERS)
def test_right_convolutions_stay_in_half_precision(tmp_path, capfd, convolutions, name):
    module, make, flags = MAKERS[name]
    sounds(tmp_path / "audio", 24000, a=0.5)
    convolutions(never)
    folder = extract(module, tmp_path, make(tmp_path / "weights"), *flags, "--precision", "bf16")
    assert read_json(folder / f"{name}-bf16.json")["kept_in_float32"] == []
    assert "kept in float32" not in capfd.readouterr().err


def test_only_what_is_wrong_is_kept(tmp_path, convolutions, monkeypatch):
    """The fault of torch 2.13 on AMX: grouped convolutions. Unseen, it costs far more than half precision may."""
    checkpoint = mert_checkpoint(tmp_path / "weights")
    sounds(tmp_path / "audio", 24000, a=1.0)
    convolutions(grouped)
    full = np.load(extract(mert, tmp_path, checkpoint, work="full") / "mert.npy")
    folder = extract(mert, tmp_path, checkpoint, "--precision", "bf16", work="checked")
    assert read_json(folder / "mert-bf16.json")["kept_in_float32"] == [POSITIONS]
    monkeypatch.setattr(half_precision, "wrong_operations", lambda *given: {})
    unchecked = np.load(extract(mert, tmp_path, checkpoint, "--precision", "bf16", work="unchecked") / "mert-bf16.npy")
    assert cosine(full, np.load(folder / "mert-bf16.npy")).min() >= 0.999 > 0.99 > cosine(full, unchecked).max()


def test_shards_of_different_processors_merge(tmp_path, convolutions):
    """What one of two machines kept in float32 is in the json, and does not keep their shards from being one file."""
    checkpoint = mert_checkpoint(tmp_path / "weights")
    sounds(tmp_path / "audio", 24000, a=0.5, b=0.4)
    for i, wrong in enumerate((grouped, never)):
        convolutions(wrong)
        folder = extract(mert, tmp_path, checkpoint, "--precision", "bf16", "--batch", "1", "--shard", f"{i}/2")
    mert.main(["--workdir", str(tmp_path / "work"), "--precision", "bf16", "--merge"])
    assert read_json(folder / "mert-bf16.json")["kept_in_float32"] == [POSITIONS]
    assert np.isfinite(np.load(folder / "mert-bf16.npy")).all()


def test_compared_on_what_it_hears(convolutions):
    """NaN is wrong; a convolution that the network does not reach, or that has nothing to say, is not."""
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.heard, self.infinite, self.silent, self.unheard = (torch.nn.Conv1d(8, 8, 2) for _ in range(4))

        def forward(self):
            self.heard(torch.ones(1, 8, 9))
            self.infinite(1e6 * torch.ones(1, 8, 9))
            self.silent(torch.zeros(1, 8, 9))
    model = Network()
    torch.nn.init.zeros_(model.silent.bias)
    convolutions(never)
    assert half_precision.wrong_operations(model, torch.bfloat16, model) == {}
    wrong = half_precision.wrong_operations(model, torch.float16, model)  # whose largest number is 65504
    assert wrong.keys() == {"infinite"} and not np.isfinite(wrong["infinite"])
    convolutions(always)
    assert half_precision.wrong_operations(model, torch.bfloat16, model).keys() == {"heard", "infinite"}
    assert not any(module._forward_hooks for module in model.modules())
