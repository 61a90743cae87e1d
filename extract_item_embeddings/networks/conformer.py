"""The network of MusicFM and MuQ: log-mel, two residual convolutions, twelve conformer blocks.

Won et al., arXiv 2311.03318; Zhu et al., arXiv 2501.01108. The blocks are those of transformers
(Wav2Vec2Conformer with rotary positions); what stands before them is written here. 100 mel frames per
second become 25 frames of the conformer. All sizes are read from the weights themselves.
"""
from copy import deepcopy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from extract_item_embeddings.networks.logmel import LogMel
from harness.errors import WorkError

RATE, N_FFT, HOP = 24000, 2048, 240
POSITIONS = "conformer.embed_positions.inv_freq"
TRAINING = ("cls_token", "linear.", "quantizer_", "rvq.", "recon_proj.", "preprocessor_")  # not needed for features


class Residual(nn.Module):
    """Two convolutions beside one, halving both axes: (B, C, F, T) -> (B, D, F / 2, T / 2)."""

    def __init__(self, channels, width):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 3, padding=1, stride=2), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(channels, width, 3, padding=1, stride=2), nn.BatchNorm2d(width)

    def fold(self):
        """Put each batch norm into the convolution before it, so that nothing is rounded between the two."""
        for i in (1, 2, 3):
            convolution, norm = getattr(self, f"conv{i}"), getattr(self, f"bn{i}")
            setattr(self, f"conv{i}", fuse_conv_bn_eval(convolution, norm))
            setattr(self, f"bn{i}", nn.Identity())

    def forward(self, x):
        main = self.bn2(given(self.conv2, torch.relu(self.bn1(given(self.conv1, x)))))
        return torch.relu(main + self.bn3(given(self.conv3, x))).to(main.dtype)


def given(operation, x):
    """operation(x) with x in the precision of its weights"""
    return operation(x.to(next(operation.parameters()).dtype))


class Subsampling(nn.Module):
    """(B, bands, frames) -> (B, frames / 4, D)"""

    def __init__(self, bands, width, dim):
        super().__init__()
        self.conv = nn.Sequential(Residual(1, width), Residual(width, width))
        self.linear = nn.Linear(width * bands // 4, dim)

    def cast(self, dtype):
        """Everything to dtype but the convolutions of the log-mel itself: they have one channel and cost nothing."""
        first, second = self.conv
        for module in (first.conv2, first.bn2, second, self.linear):
            module.to(dtype)

    def forward(self, x):
        x = self.conv(x[:, None])  # (B, C, F, T)
        return given(self.linear, x.permute(0, 3, 1, 2).flatten(2))  # channel by channel, each with its bands


class Rotary(nn.Module):
    """Sines and cosines of the rotary positions, (2, T, 1, 1, head).

    Angles are float32 in every precision (750 has no exact neighbour in bfloat16), and nothing is kept from one
    call to the next, so that several threads may ask.
    """

    def __init__(self, half):
        super().__init__()
        self.inv_freq = nn.Buffer(torch.zeros(half))

    def forward(self, x):
        angles = torch.arange(x.shape[1], device=x.device, dtype=torch.float32)[:, None] * self.inv_freq.float()
        angles = torch.cat([angles, angles], dim=1)[:, None, None]
        return torch.stack([angles.cos(), angles.sin()]).to(x.dtype)


class Rounded(nn.Module):
    """A float32 operation whose result goes into one of dtype"""

    def __init__(self, operation, dtype):
        super().__init__()
        self.operation, self.dtype = operation, dtype

    def forward(self, x):
        return self.operation(x).to(self.dtype)


def sizes(state, path):
    """Sizes of the network, a dict, from the shapes of its weights; WorkError if these are of something else."""
    try:
        width, bands = state["conv.conv.0.conv1.weight"].shape[0], state["conv.linear.weight"].shape[1]
        dim, position = state["conv.linear.weight"].shape[0], _position_kernel(state)
        depth = 1 + max(int(k.split(".")[2]) for k in state if k.startswith("conformer.layers."))
        return {"dim": dim, "depth": depth, "width": width, "bands": 4 * bands // width,
                "heads": dim // (2 * state[POSITIONS].shape[0]),
                "inner": state["conformer.layers.0.ffn1.intermediate_dense.weight"].shape[0],
                "kernel": state["conformer.layers.0.conv_module.depthwise_conv.weight"].shape[2],
                "position_kernel": position.shape[2], "position_groups": dim // position.shape[1]}
    except (KeyError, ValueError, IndexError) as e:
        raise WorkError(f"{path} does not hold the network of MusicFM and MuQ: it misses {e}") from None


def _position_kernel(state):
    for end in ("weight_v", "parametrizations.weight.original1"):
        if f"conformer.pos_conv_embed.conv.{end}" in state:
            return state[f"conformer.pos_conv_embed.conv.{end}"]
    raise KeyError("conformer.pos_conv_embed.conv.weight_v")


class Conformer(nn.Module):
    """size: the dict of `sizes`; mean, std: of the log-mel in dB, over the training set of the weights."""

    def __init__(self, size, mean, std):
        super().__init__()
        from transformers import Wav2Vec2ConformerConfig
        from transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer import Wav2Vec2ConformerEncoder
        self.mean, self.std, self.depth, self.dtype = mean, std, size["depth"], torch.float32
        self.mel = LogMel(RATE, N_FFT, HOP, size["bands"])
        self.conv = Subsampling(size["bands"], size["width"], size["dim"])
        config = Wav2Vec2ConformerConfig(
            hidden_size=size["dim"], num_hidden_layers=size["depth"], num_attention_heads=size["heads"],
            intermediate_size=size["inner"], conv_depthwise_kernel_size=size["kernel"], hidden_act="swish",
            position_embeddings_type="rotary", num_conv_pos_embeddings=size["position_kernel"],
            num_conv_pos_embedding_groups=size["position_groups"], layer_norm_eps=1e-5, attn_implementation="sdpa")
        self.conformer = Wav2Vec2ConformerEncoder(config)
        self.conformer.embed_positions = Rotary(size["dim"] // size["heads"] // 2)

    def fold(self):
        """Call before a cast to half precision, which would round between the convolutions and their batch norms."""
        for residual in self.conv.conv:
            residual.fold()

    def place(self, device, dtype):
        """Move to a device and cast. The mel front-end, the convolutions after it, the position angles, the norms and
        the sum that runs through the blocks stay float32: they take next to no time, and errors in them add up."""
        self.dtype = dtype
        positions = self.conformer.embed_positions.inv_freq.clone()
        norms = {k: deepcopy(m) for k, m in self.conformer.named_modules() if isinstance(m, nn.LayerNorm)}
        self.conformer.to(dtype)
        self.conv.cast(dtype)
        for name, norm in norms.items() if dtype != torch.float32 else ():
            running = name == "layer_norm" or name.endswith("final_layer_norm")  # whose result is the sum itself
            self.conformer.set_submodule(name, norm if running else Rounded(norm, dtype))
        self.conformer.embed_positions.inv_freq = positions
        return self.to(device)

    def log_mel(self, x):
        """(B, N) samples -> (B, bands, N / 240), z-scored; the last frame is dropped, as in training."""
        return (self.mel(x)[..., :-1] - self.mean) / self.std

    def states(self, x, wanted):
        """(B, N) samples -> {number: float32 (B, T, D)}: 0 enters the first block, `depth` comes after the last norm"""
        x = self.conv(self.log_mel(x)).float()
        found, encoder = {0: x}, self.conformer
        position = encoder.embed_positions(x).to(self.dtype)
        for i, block in enumerate(encoder.layers, 1):
            if i > max(wanted):
                break
            x = block(x, attention_mask=None, relative_position_embeddings=position)
            found[i] = encoder.layer_norm(x) if i == self.depth else x
            found = {k: v for k, v in found.items() if k in wanted or k == i}
        return {i: found[i] for i in wanted}
