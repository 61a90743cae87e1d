"""The network of MERT-v2: log-mel, three stages of ConvNeXt V2 in time, blocks of a conformer.

100 mel frames per second become 25 frames of the conformer. All sizes are read from the weights themselves but the
number of attention heads. Conventions of the conformer: half steps of the feed-forwards, positions as rotations of
halves of each head, a layer norm within the convolution and at the end of each block, so none after the last.
"""
import re

import torch
import torch.nn.functional as F
from torch import nn

from extract_item_embeddings.networks.logmel import LogMel
from harness.errors import WorkError

FRONT = "feature_extractor."   # window and mel filters in the weights, which are computed here
SETTINGS = {"sampling_rate": 24000, "n_fft": 2048, "win_length": 2048, "hop_length": 240, "layer_norm_eps": 1e-5,
            "subsampling_layer_norm_eps": 1e-6, "rotary_embedding_base": 10000}
STRIDES = (1, 2, 2)            # of the stages
# from upstream's names to those of MERT2
NAMES = ((r"^feature_extractor\.mel_(mean|std)$", r"\1"), (r"^subsampling_module\.", "stages."),
         (r"\.resampling_layer\.0\.", ".norm."), (r"\.resampling_layer\.2\.", ".down."),
         (r"\.convnext_layers\.", ".layers."), (r"\.depthwise_block\.1\.", ".depthwise."),
         (r"\.pointwise_block\.0\.", ".norm."), (r"\.pointwise_block\.1\.", ".wide."),
         (r"\.pointwise_block\.3\.", ".response."), (r"\.pointwise_block\.4\.", ".narrow."),
         (r"\.conv_module\.layer_norm\.", ".convolution.before."), (r"\.conv_module\.conv_block\.1\.",
                                                                    ".convolution.gate."),
         (r"\.conv_module\.conv_block\.3\.", ".convolution.depthwise."),
         (r"\.conv_module\.conv_block\.4\.1\.", ".convolution.norm."),
         (r"\.conv_module\.conv_block\.6\.", ".convolution.out."))


def sizes(state, config, path):
    """Sizes of the network from the renamed weights and config.json; WorkError for other weights or settings."""
    other = [k for k, v in SETTINGS.items() if config.get(k, v) != v]
    if other:
        raise WorkError(f"the configuration of {path} sets {other[0]} to {config[other[0]]}, which is not MERT-v2's "
                        f"{SETTINGS[other[0]]}; use the weights of m-a-p/MERT-v2-30s")
    try:
        stages = [state[f"stages.{i}.layers.0.depthwise.bias"].numel() for i in range(len(STRIDES))]
        return {"bands": state["mean"].numel(), "channels": stages, "heads": int(config["num_attention_heads"]),
                "depths": [1 + _last(state, rf"stages\.{i}\.layers") for i in range(len(STRIDES))],
                "inner": state["layers.0.ffn1.w_1.bias"].numel(), "depth": 1 + _last(state, "layers"),
                "kernel": state["layers.0.convolution.depthwise.weight"].shape[-1]}
    except (KeyError, TypeError, ValueError) as e:
        raise WorkError(f"{path} with its config.json is not MERT-v2, as it lacks {e}; use the weights of "
                        "m-a-p/MERT-v2-30s") from None


def _last(state, prefix):
    return max((int(m[1]) for m in (re.match(rf"{prefix}\.(\d+)\.", k) for k in state) if m), default=0)


class GlobalResponse(nn.Module):
    """(B, T, C): each channel by its norm over time, relative to the mean of the norms over the channels."""

    def __init__(self, channels):
        super().__init__()
        self.weight, self.bias = (nn.Parameter(torch.zeros(1, 1, channels)) for _ in range(2))

    def forward(self, x):
        norm = x.float().norm(dim=1, keepdim=True)
        relative = (norm / (norm.mean(dim=2, keepdim=True) + 1e-6)).to(x.dtype)
        return self.weight * (x * relative) + self.bias + x


def over_time(convolution, x):
    """A convolution in time of (B, T, C)"""
    return convolution(x.transpose(1, 2)).transpose(1, 2)


class ConvNeXt(nn.Module):
    """(B, T, C) -> (B, T, C)"""

    def __init__(self, channels):
        super().__init__()
        self.depthwise = nn.Conv1d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=SETTINGS["subsampling_layer_norm_eps"])
        self.wide, self.narrow = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.response = GlobalResponse(4 * channels)

    def forward(self, x):
        return x + self.narrow(self.response(F.gelu(self.wide(self.norm(over_time(self.depthwise, x))))))


class Stage(nn.Module):
    """(B, T, C) -> (B, T / stride, D); the first, where nothing changes, has no convolution before its layers"""

    def __init__(self, channels, width, stride, depth):
        super().__init__()
        self.down = None
        if channels != width or stride > 1:
            self.norm = nn.LayerNorm(channels, eps=SETTINGS["subsampling_layer_norm_eps"])
            self.down = nn.Conv1d(channels, width, 2, stride=stride)
        self.layers = nn.Sequential(*(ConvNeXt(width) for _ in range(depth)))

    def forward(self, x):
        return self.layers(x if self.down is None else over_time(self.down, self.norm(x)))


class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.query_proj, self.key_proj, self.value_proj, self.out_proj = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x, cos, sin):
        q, k, v = (project(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
                   for project in (self.query_proj, self.key_proj, self.value_proj))  # (B, heads, T, D / heads)
        out = F.scaled_dot_product_attention(rotated(q, cos, sin), rotated(k, cos, sin), v)
        return self.out_proj(out.transpose(1, 2).flatten(2))


def rotated(x, cos, sin):
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


class FeedForward(nn.Module):
    def __init__(self, dim, inner):
        super().__init__()
        self.w_1, self.w_2 = nn.Linear(dim, inner), nn.Linear(inner, dim)

    def forward(self, x):
        return self.w_2(F.gelu(self.w_1(x)))


class Convolution(nn.Module):
    def __init__(self, dim, kernel):
        super().__init__()
        self.before, self.norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.gate = nn.Conv1d(dim, 2 * dim, 1, bias=False)
        self.depthwise = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim, bias=False)
        self.out = nn.Conv1d(dim, dim, 1, bias=False)

    def forward(self, x):
        x = F.glu(over_time(self.gate, self.before(x)), dim=2)
        return over_time(self.out, F.gelu(self.norm(over_time(self.depthwise, x))))


class Block(nn.Module):
    def __init__(self, dim, heads, inner, kernel):
        super().__init__()
        self.ffn1, self.ffn2 = FeedForward(dim, inner), FeedForward(dim, inner)
        self.attn, self.convolution = Attention(dim, heads), Convolution(dim, kernel)
        self.ffn1_layer_norm, self.attn_layer_norm, self.ffn2_layer_norm, self.final_layer_norm = (
            nn.LayerNorm(dim) for _ in range(4))

    def forward(self, x, cos, sin):
        x = x + 0.5 * self.ffn1(self.ffn1_layer_norm(x))
        x = x + self.attn(self.attn_layer_norm(x), cos, sin)
        x = x + self.convolution(x)
        return self.final_layer_norm(x + 0.5 * self.ffn2(self.ffn2_layer_norm(x)))


class MERT2(nn.Module):
    """size: the dict of `sizes`"""

    def __init__(self, size):
        super().__init__()
        widths, dim = [size["bands"], *size["channels"]], size["channels"][-1]
        self.mel = LogMel(SETTINGS["sampling_rate"], SETTINGS["n_fft"], SETTINGS["hop_length"], size["bands"])
        self.mean, self.std = nn.Buffer(torch.zeros(size["bands"])), nn.Buffer(torch.ones(size["bands"]))
        self.stages = nn.Sequential(*(Stage(widths[i], widths[i + 1], stride, size["depths"][i])
                                      for i, stride in enumerate(STRIDES)))
        self.layers = nn.ModuleList(Block(dim, size["heads"], size["inner"], size["kernel"])
                                    for _ in range(size["depth"]))
        self.per_head, self.dtype = dim // size["heads"], torch.float32

    def place(self, device, dtype):
        """Move to a device and cast all but the spectrogram."""
        self.dtype = dtype
        self.stages.to(dtype)
        self.layers.to(dtype)
        return self.to(device)

    def log_mel(self, x):
        """(B, N) samples -> float32 (B, N / 240, bands), z-scored by band; the last frame is dropped, as upstream"""
        return (self.mel(x)[..., :-1].transpose(1, 2) - self.mean) / self.std.clamp(min=1e-5)

    def positions(self, T, device):
        """(T, D / heads) cosines and sines, computed in float32: the rates of the first half repeat in the second"""
        steps = torch.arange(0, self.per_head, 2, dtype=torch.float32, device=device)
        angle = torch.arange(T, dtype=torch.float32, device=device)[:, None] \
            * SETTINGS["rotary_embedding_base"] ** (-steps / self.per_head)
        angle = torch.cat([angle, angle], dim=1)
        return angle.cos().to(self.dtype), angle.sin().to(self.dtype)

    def states(self, x, wanted):
        """(B, N) samples -> {number: (B, T, D)}: 0 enters the first block, i comes after block i"""
        x = self.stages(self.log_mel(x).to(self.dtype))
        cos, sin = self.positions(x.shape[1], x.device)
        found = {0: x}
        for i, block in enumerate(self.layers, 1):
            if i > max(wanted):
                break
            x = block(x, cos, sin)
            found = {k: v for k, v in {**found, i: x}.items() if k in wanted}
        return {i: found[i] for i in wanted}
