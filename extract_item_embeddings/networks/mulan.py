"""The audio tower of MuQ-MuLan: a small transformer on MuQ's frames, then a map into the space shared with text.

Huang et al., MuLan, arXiv 2208.12415, with attention on unit queries and keys; module names are those of the weights.
"""
import torch
import torch.nn.functional as F
from torch import nn

SCALE = 8  # of the similarities, which are cosines times learned scales


class ScaleNorm(nn.Module):
    """LayerNorm with a learned scale and no offset."""

    def __init__(self, dim):
        super().__init__()
        self.learned_gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return F.layer_norm(x, x.shape[-1:], self.learned_gamma)


class Attention(nn.Module):
    """(B, T, D) -> (B, T, D); no positions: the frames have theirs from the conformer."""

    def __init__(self, dim, inner, head):
        super().__init__()
        self.head = head
        self.norm = ScaleNorm(dim)
        self.to_q, self.to_kv = nn.Linear(dim, inner, bias=False), nn.Linear(dim, 2 * inner, bias=False)
        self.q_scale, self.k_scale = nn.Parameter(torch.ones(head)), nn.Parameter(torch.ones(head))
        self.to_out = nn.Sequential(nn.Linear(inner, dim, bias=False))

    def forward(self, x):
        x = self.norm(x)
        q, k, v = (t.unflatten(-1, (-1, self.head)).transpose(1, 2)  # (B, heads, T, head)
                   for t in (self.to_q(x), *self.to_kv(x).chunk(2, dim=-1)))
        q, k = F.normalize(q, dim=-1) * self.q_scale, F.normalize(k, dim=-1) * self.k_scale
        out = F.scaled_dot_product_attention(q, k, v, scale=SCALE)
        return self.to_out(out.transpose(1, 2).flatten(2))


class Gate(nn.Module):
    """The first half times GELU of the second."""

    def forward(self, x):
        x, gate = x.chunk(2, dim=-1)
        return x * F.gelu(gate)


class Blocks(nn.Module):
    def __init__(self, depth, dim, inner, head, hidden):
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleList([
            Attention(dim, inner, head),
            nn.Sequential(ScaleNorm(dim), nn.Linear(dim, 2 * hidden, bias=False), Gate(), nn.Identity(),
                          nn.Linear(hidden, dim, bias=False))]) for _ in range(depth))

    def forward(self, x):
        for attention, feed_forward in self.layers:
            x = attention(x) + x
            x = feed_forward(x) + x
        return x


class Tower(nn.Module):
    """(B, T, D) frames of MuQ -> (B, latent), each of length one. Sizes are those of the weights `state`."""

    def __init__(self, state):
        super().__init__()
        first = "transformer.layers.0."
        dim, model_dim = state["proj.weight"].shape
        depth = 1 + max(int(k.split(".")[2]) for k in state if k.startswith("transformer.layers."))
        self.proj = nn.Linear(model_dim, dim)
        self.transformer = Blocks(depth, dim, state[f"{first}0.to_q.weight"].shape[0],
                                  state[f"{first}0.q_scale"].shape[0], state[f"{first}1.4.weight"].shape[1])
        self.audio_to_latents = nn.Linear(dim, state["audio_to_latents.weight"].shape[0])

    def forward(self, frames):
        x = self.transformer(self.proj(frames.to(self.proj.weight.dtype))).mean(dim=1)
        return F.normalize(self.audio_to_latents(x).float(), dim=-1)
