"""BERT4Rec on frozen or trained item embeddings, with a softmax over the catalogue that is never held whole.

    python train_bert.py musicnn item 100 128 200 1 0 "bert_baseline" 1 0 0 0 0.0

Sources: Sun et al., "BERT4Rec", CIKM '19 (arXiv 1904.06690): some items of a sequence are replaced by a mask
and predicted from both sides; "Comparative Analysis of Pretrained Audio Representations in Music Recommender
Systems" (RecSys '24), section 3.2: the item table is an audio embedding, and the output layer is tied to it.
The transformer is BertModel of transformers, fed with vectors; as published it normalises after each sublayer
(`norm: after`), ours before it (docs/differences.md, defect-bert4rec, has what that and the other differences change).

Letters: U users, B sequences of a batch, L positions, M masked positions of a batch, V hot items (the
catalogue of the training softmax), D dimensions of the item table, H width of the transformer.
Item codes are 0..V-1; V is the mask and V+1 the pad.
"""
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from harness.errors import UsageError, WorkError
from harness.readers import read_yaml
from training import sequences
from training.softmax import blocked_logsumexp, cross_entropy

DEFAULTS = Path(__file__).with_name("bert4rec.yaml")
WORDS = {"hidden_act": ("gelu", "gelu_new", "relu", "silu", "tanh"), "norm": ("before", "after"),
         "positions": ("auto", "end", "start", "none")}
PUBLISHED = {"initializer_range": 0.02, "norm": "after", "positions": "start"}  # where the published code differs
RANGES = {  # key -> (type, least, most); most None is open
    "num_hidden_layers": (int, 1, None), "num_attention_heads": (int, 1, None), "intermediate_size": (int, 1, None),
    "hidden_act": (str, None, None), "hidden_dropout_prob": (float, 0, 0.99),
    "attention_probs_dropout_prob": (float, 0, 0.99), "initializer_range": (float, 1e-9, None),
    "layer_norm_eps": (float, 1e-20, None), "norm": (str, None, None), "positions": (str, None, None),
    "mlm_probability": (float, 1e-6, 1), "random_dim": (int, 1, None),
    "learning_rate": (float, 1e-12, None), "patience": (int, 1, None), "plateau_patience": (int, 0, None),
    "plateau_factor": (float, 1e-6, 0.999),
}
BERT_KEYS = tuple(RANGES)[:8]


# --------------------------------------------------------------------------- the file of defaults

def load_config(path=None, as_published=False):
    """Settings of bert4rec.yaml, of the published code, of another file, the later over the earlier: {key: value}."""
    config = _read_yaml(DEFAULTS) | (PUBLISHED if as_published else {})
    if path is not None:
        config |= _read_yaml(path)
    missing = sorted(set(RANGES) - set(config))
    if missing:
        raise UsageError(f"{DEFAULTS} has no {', '.join(missing)}")
    return {key: config[key] for key in RANGES}


def _read_yaml(path):
    try:
        values = read_yaml(path) or {}
    except OSError as e:
        raise UsageError(f"--config {path} cannot be read as YAML ({e.strerror})") from None
    except WorkError as e:
        raise UsageError(f"--config {e}") from None
    if not isinstance(values, dict):
        raise UsageError(f"--config {path} must hold lines of the form key: value")
    unknown = sorted(map(str, set(values) - set(RANGES)))
    if unknown:
        raise UsageError(f"--config {path}: unknown {', '.join(unknown)}; known are {', '.join(RANGES)}")
    return {key: _checked(key, value, path) for key, value in values.items()}


def _checked(key, value, path):
    kind, least, most = RANGES[key]
    if kind is str:
        if value not in WORDS[key]:
            raise UsageError(f"{path}: {key} is one of {', '.join(WORDS[key])}, not {value!r}")
        return value
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not (whole or kind is float and isinstance(value, float)):
        raise UsageError(f"{path}: {key} must be a {'whole ' if kind is int else ''}number, not {value!r}")
    if not value >= least or (most is not None and value > most):
        raise UsageError(f"{path}: {key} must be {'at least' if most is None else 'from'} {least:g}"
                         f"{'' if most is None else f' to {most:g}'}, not {value:g}")
    return kind(value)


def check_width(width, heads):
    """UsageError where attention heads cannot share the transformer's width."""
    if width % heads:
        raise UsageError(f"{heads} attention heads cannot share a width of {width}; give hidden_dim a multiple of "
                         f"{heads} ({-(-width // heads) * heads}, say) or set num_attention_heads in --config")


# --------------------------------------------------------------------------- the model

class BERT4Rec(nn.Module):
    """The transformer between an item table and itself.

    items:      float32 (V, D), kept as the table (not copied while frozen)
    config:     of load_config; max_seq_len: L at most, the mask of a prediction included
    hidden_dim: H; 0 or D is the published form without projections, any other adds one in and one out
    frozen:     the item rows do not train and cost no gradient; the mask vector always trains
    whole_softmax: as published, the training softmax also covers the rows of mask and pad, never targets
    bf16:       matrix products in bf16, parameters and sums in float32
    """

    def __init__(self, items, config, max_seq_len, hidden_dim=0, frozen=True, whole_softmax=False, bf16=False):
        super().__init__()
        from transformers import BertConfig, BertModel
        dim = items.shape[1]
        width = hidden_dim or dim
        check_width(width, config["num_attention_heads"])
        self.items = nn.Parameter(items, requires_grad=False)
        self.freeze_item_embs(frozen)
        self.special = nn.Parameter(torch.zeros(2, dim))  # row 0 the mask, row 1 the pad
        nn.init.normal_(self.special[:1].data, std=config["initializer_range"])
        self.transformer_model = BertModel(BertConfig(
            vocab_size=2, hidden_size=width, max_position_embeddings=max_seq_len, attn_implementation="sdpa",
            **{key: config[key] for key in BERT_KEYS}), add_pooling_layer=False)
        self.into = nn.Linear(dim, width) if width != dim else nn.Identity()
        self.out = nn.Linear(width, dim) if width != dim else nn.Identity()
        self.whole_softmax, self.norm, self.positions = whole_softmax, config["norm"], config["positions"]
        self.dtype = torch.bfloat16 if bf16 else None

    @property
    def mask_id(self):
        return len(self.items)

    @property
    def pad_id(self):
        return len(self.items) + 1

    def freeze_item_embs(self, flag):
        """True freezes the item rows, False trains them (the published code does the reverse)."""
        if not flag:  # the caller's array must not train along
            self.items.data = self.items.data.clone()
        self.items.requires_grad_(not flag)

    def rows(self, ids):
        """Vectors (..., D) of codes (...), mask and pad included."""
        beyond = ids - len(self.items)                     # 0 the mask, 1 the pad, below 0 an item
        return torch.where((beyond < 0)[..., None], F.embedding(ids.clamp(max=len(self.items) - 1), self.items),
                           F.embedding(beyond.clamp(min=0), self.special))

    def autocast(self):
        """Context in which matrix products are bf16, where the model is to use it."""
        return torch.autocast(self.items.device.type, torch.bfloat16, enabled=self.dtype is not None)

    def position_ids(self, ids, inside):
        """Positions (B, L) or (1, L) of codes (B, L), counted from the end of a sequence, where the mask token of a
        prediction is, or from its start; all 0 without positions."""
        count = torch.arange(ids.shape[1], device=ids.device)[None]
        if self.positions == "none":
            return torch.zeros_like(count)
        if self.positions == "start":
            return count
        last = ids.shape[1] - 1 if inside is None else inside.sum(1, keepdim=True) - 1
        return (last - count).clamp(min=0)

    def embed(self, ids, inside):
        """Input of the first layer, (B, L, H). With pre-norm it is the plain sum of item and position embeddings:
        BertModel's embedding norm and token types are unused, as a mask token of unit length would outweigh the output
        of attention."""
        embeddings, positions = self.transformer_model.embeddings, self.position_ids(ids, inside)
        vectors = self.into(self.rows(ids))
        if self.norm == "after":
            return embeddings(inputs_embeds=vectors, position_ids=positions)
        return embeddings.dropout(vectors + embeddings.position_embeddings(positions))

    def pre_norm(self, sublayer, x):
        """Input of a sublayer (attention or feed-forward, given its BertSelfOutput or BertOutput) made of x."""
        return sublayer.LayerNorm(x) if self.norm == "before" else x

    def add_residual(self, sublayer, output, x):
        """Residual connection: x plus the output of a sublayer, normalised where the norm comes after."""
        return x + sublayer.dropout(sublayer.dense(output)) if self.norm == "before" else sublayer(output, x)

    def feed_forward(self, layer, x):
        """x after the feed-forward sublayer of a layer."""
        return self.add_residual(layer.output, layer.intermediate(self.pre_norm(layer.output, x)), x)

    def run_layer(self, layer, x, seen):
        """Hidden vectors (B, L, H) after one whole layer."""
        sublayer = layer.attention.output
        context = layer.attention.self(self.pre_norm(sublayer, x), seen)[0]
        return self.feed_forward(layer, self.add_residual(sublayer, context, x))

    def forward(self, ids, inside=None):
        """Scores (B, L, V + 2) of every row at every position of codes (B, L); for inspection, as training never holds
        them all. inside (B, L) bool is False at the padding, None without any.
        """
        seen = None if inside is None else inside[:, None, None]
        with self.autocast():
            hidden = self.embed(ids, inside)
            for layer in self.transformer_model.encoder.layer:
                hidden = self.run_layer(layer, hidden, seen)
            vectors = self.out(hidden).to(self.items.dtype)
        return vectors @ torch.cat([self.items, self.special]).T

    def vectors(self, ids, inside, wanted):
        """Output vectors (M, D), float32, at the wanted positions (B, L) bool of codes (B, L), in order.

        Their dot product with the item table is the score. All positions are keys and values of the last layer, but
        only the wanted ones pass through its queries and its feed-forward, as no other output of it is read.
        """
        seen = None if inside is None else inside[:, None, None]                 # (B, 1, 1, L) for SDPA
        *early, last = self.transformer_model.encoder.layer
        sublayer, at = last.attention.output, wanted.flatten().nonzero().squeeze(1)
        with self.autocast():
            hidden = self.embed(ids, inside)
            for layer in early:
                hidden = self.run_layer(layer, hidden, seen)
            keys = self.pre_norm(sublayer, hidden)
            selected, queries = (x.flatten(0, 1).index_select(0, at) for x in (hidden, keys))     # (M, H) each
            context = self.attend(last.attention.self, keys, queries, seen, wanted)
            hidden = self.add_residual(sublayer, context, selected)
            return self.out(self.feed_forward(last, hidden)).to(self.items.dtype)

    @staticmethod
    def attend(attention, hidden, selected, seen, wanted):
        """Output (M, H) of a BertSelfAttention at the wanted positions, whose inputs are `selected` (M, H); the queries
        of each sequence are moved to its front."""
        def heads(x):
            return x.unflatten(-1, (attention.num_attention_heads, -1)).transpose(1, 2)          # (B, heads, L, .)
        number = wanted.cumsum(1)                                                # of a query in its row, from 1
        width = int(number.max())
        slot = (number - 1 + width * torch.arange(len(number), device=number.device)[:, None])[wanted]
        query = attention.query(selected)
        query = query.new_zeros(len(number) * width, query.shape[1]).index_copy(0, slot, query)
        context = F.scaled_dot_product_attention(
            heads(query.view(len(number), width, -1)), heads(attention.key(hidden)), heads(attention.value(hidden)),
            attn_mask=seen, dropout_p=attention.dropout.p if attention.training else 0.0)
        return context.transpose(1, 2).flatten(2).flatten(0, 1).index_select(0, slot)

    def log_normaliser(self, vectors):
        """log of the softmax's denominator, (M,), for output vectors (M, D)."""
        total = blocked_logsumexp(vectors, self.items, self.dtype)
        if self.whole_softmax:
            total = torch.logaddexp(total, (vectors @ self.special.T).logsumexp(1))
        return total

    def loss(self, ids, inside, masked, targets):
        """Mean cross-entropy of the targets (M,) at the masked positions (B, L) bool, in order."""
        vectors = self.vectors(ids, inside, masked)                              # (M, D)
        if self.items.requires_grad and not self.whole_softmax:
            return cross_entropy(vectors, self.items, targets, self.dtype)
        return (self.log_normaliser(vectors) - (vectors * F.embedding(targets, self.items)).sum(1)).mean()

    def load_published(self, state):
        """Load a state dict of the published code, whose table ends in mask and pad; its norm and positions apply."""
        self.norm, self.positions = PUBLISHED["norm"], PUBLISHED["positions"]
        rows = state["item_embeddings.weight"]
        if rows.shape != (len(self.items) + 2, self.items.shape[1]):
            raise ValueError(f"the table must be {(len(self.items) + 2, self.items.shape[1])}, not {tuple(rows.shape)}")
        self.items.data, self.special.data = rows[:-2].clone(), rows[-2:].clone()
        inner = {k.removeprefix("transformer_model."): v for k, v in state.items()
                 if k.startswith("transformer_model.") and ".pooler." not in k}
        self.transformer_model.load_state_dict(inner)


# --------------------------------------------------------------------------- sequences

class Sequences(sequences.Sequences):
    """Histories with masked items; the code of the mask follows those of the items, then the padding's. See
    sequences.Sequences."""

    def __init__(self, indptr, items, length, mask_id, device="cpu"):
        super().__init__(indptr, items, length, mask_id + 1, device)
        self.mask_id = mask_id

    def masked(self, users, probability, generator):
        """A training batch (ids, inside, masked, targets), or None where no item was drawn.

        Each item is masked on its own with this probability and always replaced by the mask, as published
        (no 80/10/10 split); a sequence may have none. inside is None where nothing is padded.
        """
        ids, inside = self.pad(users)
        masked = (torch.rand(ids.shape, generator=generator) < probability).to(self.device) & inside
        targets = ids[masked]
        if not len(targets):
            return None
        return ids.masked_fill(masked, self.mask_id), None if inside.all() else inside, masked, targets

    def prediction_batch(self, users):
        """(ids, inside, wanted): the latest items of the users (B,), then the mask token, and True at the mask."""
        ids, inside = self.pad(users, room=1)
        wanted = inside.sum(1, keepdim=True) == torch.arange(ids.shape[1], device=self.device)
        inside |= wanted
        return ids.masked_fill(wanted, self.mask_id), None if inside.all() else inside, wanted
