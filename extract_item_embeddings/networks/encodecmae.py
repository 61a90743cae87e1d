"""The encoder of EnCodecMAE's first release: EnCodec latents, then layers with two residual branches.

ResiDual (Xie et al., arXiv 2304.14802): one branch is normalised after every block, the other only sums;
the output is the first plus the norm of the second. One feed-forward block serves all layers.
"""
import math
import re

import torch
import torch.nn.functional as F
from torch import nn

from extract_item_embeddings.engine import weights
from harness.errors import WorkError

TRAINING = ("target_encoder.", "decoder.", "decoder_projector.", "head.", "masker.")  # not needed for features
NAMES = ((r"^wav_encoder\.model\.model\.", "codec.layers."), (r"\.conv\.conv\.", ".conv."),
         (r"^feat_projector\.", "projector."), (r"^positional_encoder\.scale$", "scale"),
         (r"^visible_encoder\.encoder_layers\.", "layers."), (r"^visible_encoder\.final_norm\.", "final_norm."))


def renamed(state, path):
    """The weights needed for features, from upstream's names to those of Encoder; WorkError for other weights."""
    renamed_state = weights.renamed({k: v for k, v in state.items() if not k.startswith(TRAINING)}, NAMES)
    if "projector.weight" not in renamed_state or not any(k.startswith("layers.") for k in renamed_state):
        raise WorkError(f"{path} is not the first release of EnCodecMAE (keys feat_projector, visible_encoder); use "
                        "the weights of lpepino/encodecmae-base")
    for key, value in renamed_state.items():
        first = re.sub(r"^layers\.\d+\.ff_layer", "layers.0.ff_layer", key)
        if not torch.equal(value, renamed_state[first]):
            raise WorkError(f"{path} has different feed-forward blocks in its layers ({key}); "
                                 "EnCodecMAE's first release has one for all")
    return renamed_state


class Attention(nn.Module):
    """(B, T, D) -> (B, T, D); channel c of the projections belongs to head c mod heads."""

    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.wq, self.wk, self.wv, self.wo = (nn.Linear(dim, dim, bias=False) for _ in range(4))

    def forward(self, x, mask):
        q, k, v = (w(x).unflatten(-1, (-1, self.heads)).permute(0, 3, 1, 2) for w in (self.wq, self.wk, self.wv))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # (B, heads, T, D / heads)
        return self.wo(out.permute(0, 2, 3, 1).flatten(2))


class Layer(nn.Module):
    def __init__(self, dim, heads, feed_forward):
        super().__init__()
        self.att_layer, self.ff_layer = Attention(dim, heads), feed_forward
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, normed, summed, mask):
        step = self.att_layer(normed, mask)
        normed, summed = self.norm1(normed + step), summed + step
        step = self.ff_layer(normed)
        return self.norm2(normed + step), summed + step


class Encoder(nn.Module):
    """Sizes of EnCodec and of the feed-forward are those of the weights `state`."""

    def __init__(self, state, dim, depth, heads):
        super().__init__()
        from transformers import EncodecConfig
        from transformers.models.encodec.modeling_encodec import EncodecEncoder
        latent = state["projector.weight"].shape[1]
        self.codec = EncodecEncoder(EncodecConfig(num_filters=state["codec.layers.0.conv.bias"].shape[0],
                                                  hidden_size=latent))
        self.hop = math.prod(EncodecConfig().upsampling_ratios)  # 320 samples per frame
        self.projector, self.scale = nn.Linear(latent, dim), nn.Parameter(torch.ones(()))
        inner = state["layers.0.ff_layer.0.weight"].shape[0]
        shared = nn.Sequential(nn.Linear(dim, inner), nn.ReLU(), nn.Linear(inner, dim))
        self.layers = nn.ModuleList(Layer(dim, heads, shared) for _ in range(depth))
        self.final_norm = nn.LayerNorm(dim)

    def latents(self, x):
        """(B, N) samples -> (B, T, 128), T = N / 320 rounded up"""
        return self.codec(x[:, None]).transpose(1, 2)

    def positions(self, T, dim, device):
        """(T, dim): sines on even channels, cosines on odd ones, from 0 in every chunk; float32"""
        rate = torch.exp(torch.arange(0, dim, 2, device=device) * (-math.log(10000.0) / dim))
        angle = torch.arange(T, device=device)[:, None] * rate
        return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)

    def states(self, x, wanted):
        """(B, N) samples -> {number: (B, T, D)}: 0 before the first layer, the last is the output."""
        dtype, whole = self.projector.weight.dtype, x.shape[1] // self.hop
        x = self.latents(x)
        positions = self.positions(x.shape[1], self.projector.out_features, x.device)
        normed = self.projector(x.to(dtype)) + (self.scale.float() * positions).to(dtype)
        mask = None
        if x.shape[1] > whole:  # a frame that is partly filled is no key; a large number, as it may be the only one
            mask = torch.zeros(1, 1, 1, x.shape[1], dtype=dtype, device=x.device)
            mask[..., whole:] = max(-1e9, torch.finfo(dtype).min)
        states, summed = {0: normed}, normed
        for i, layer in enumerate(self.layers, 1):
            if i > max(wanted):
                break
            normed, summed = layer(normed, summed, mask)
            states[i] = normed
        if len(self.layers) in wanted:
            states[len(self.layers)] = normed + self.final_norm(summed)
        return {i: states[i] for i in wanted}
