"""BERT4Rec's parts: the published numbers, the loss against the dense one, masking, batches."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import bert4rec
from bert4rec import BERT4Rec, Sequences
from dataset import unit_scale
from harness.errors import UsageError
from tests.worlds.histories import Largest
from training import softmax
from training.sequences import generator_of

STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def small(v=30, dim=8, length=10, kind=torch.float64, config=None, **kwargs):
    """A small model without dropout, in double precision."""
    torch.manual_seed(3)
    items = torch.randn(v, dim)
    return BERT4Rec(items, bert4rec.load_config() | STILL | (config or {}), length, **kwargs).to(kind)


def batch_of(model, seed=0):
    """Three sequences of 10, 7 and 3 items, some masked."""
    lengths = np.array([10, 7, 3])
    draw = np.random.default_rng(seed)
    items = draw.integers(len(model.items), size=lengths.sum())
    sequences = Sequences(np.concatenate([[0], lengths.cumsum()]), items, 10, model.mask_id)
    return sequences.masked(np.arange(3), 0.5, generator_of(seed))


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


# --------------------------------------------------------------------------- the published numbers

@pytest.mark.numeric
def test_equals_the_published_logits_and_loss(shared):
    golden = np.load(shared / "golden" / "bert4rec.npz", allow_pickle=False)
    state = {k.removeprefix("state."): torch.from_numpy(golden[k]) for k in golden if k.startswith("state.")}
    ids, labels, inside = (torch.from_numpy(golden[k]) for k in ("input_ids", "labels", "attention_mask"))
    v, dim = len(state["item_embeddings.weight"]) - 2, state["item_embeddings.weight"].shape[1]
    model = BERT4Rec(torch.zeros(v, dim), bert4rec.load_config(), ids.shape[1], whole_softmax=True).eval()
    model.load_published(state)
    assert (model.mask_id, model.pad_id) == (golden["mask_id"], golden["pad_id"])
    with torch.no_grad():
        assert np.abs(model(ids, inside > 0).numpy() - golden["logits"]).max() < 1e-4
        masked = labels >= 0
        assert abs(model.loss(ids, inside > 0, masked, labels[masked]) - golden["loss"]) < 1e-4
        assert (ids[masked] == model.mask_id).all()  # the published code replaces every masked item by the mask


def test_a_published_table_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"must be \(32, 8\)"):
        small().load_published({"item_embeddings.weight": torch.zeros(31, 8)})


# --------------------------------------------------------------------------- the loss

@pytest.mark.numeric
@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("hidden_dim", [0, 12])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("norm", ["before", "after"])
def test_loss_and_gradients_equal_the_dense_ones(frozen, hidden_dim, whole, norm):
    """All positions through all layers, all logits, cross_entropy(ignore_index): the same to 1e-9 in double."""
    model = small(frozen=frozen, hidden_dim=hidden_dim, whole_softmax=whole, config={"norm": norm})
    ids, inside, masked, targets = batch_of(model)
    labels = torch.full(ids.shape, -100).masked_scatter(masked, targets)
    scores = model(ids, inside)[..., :None if whole else len(model.items)]
    dense = F.cross_entropy(scores.flatten(0, 1), labels.flatten(), ignore_index=-100)
    ours = model.loss(ids, inside, masked, targets)
    assert abs(ours - dense) < 1e-9
    expected, found = gradients(model, dense), gradients(model, ours)
    assert expected.keys() == found.keys() and ("items" in found) == (not frozen)
    for name, value in expected.items():
        assert torch.allclose(value, found[name], rtol=1e-8, atol=1e-10), name


@pytest.mark.numeric
def test_normalised_after_it_is_bertmodel():
    model = small(config={"norm": "after", "positions": "start"})
    ids, inside, *_ = batch_of(model)
    hidden = model.transformer_model(inputs_embeds=model.rows(ids), attention_mask=inside).last_hidden_state
    expected = hidden @ torch.cat([model.items, model.special]).T
    assert torch.allclose(model(ids, inside)[inside], expected[inside], atol=1e-12)


@pytest.mark.numeric
def test_normalised_before_it_is_torchs_norm_first():
    model = small(config={"norm": "before", "positions": "start"})
    ids, inside, *_ = batch_of(model)
    x = model.rows(ids) + model.transformer_model.embeddings.position_embeddings.weight[:ids.shape[1]]
    for layer in model.transformer_model.encoder.layer:
        x = torchs(layer, model.transformer_model.config)(x, src_key_padding_mask=~inside)
    expected = x @ torch.cat([model.items, model.special]).T
    assert torch.allclose(model(ids, inside)[inside], expected[inside], atol=1e-12)


def torchs(layer, config):
    """torch's own layer with the weights of a BertLayer, normalised first."""
    own = layer.attention.self
    made = torch.nn.TransformerEncoderLayer(
        config.hidden_size, config.num_attention_heads, config.intermediate_size, 0.0, "gelu", config.layer_norm_eps,
        batch_first=True, norm_first=True, dtype=torch.float64)
    made.load_state_dict({
        "self_attn.in_proj_weight": torch.cat([own.query.weight, own.key.weight, own.value.weight]),
        "self_attn.in_proj_bias": torch.cat([own.query.bias, own.key.bias, own.value.bias]),
        **{f"{name}.{kind}": getattr(part, kind) for kind in ("weight", "bias") for name, part in (
            ("self_attn.out_proj", layer.attention.output.dense), ("norm1", layer.attention.output.LayerNorm),
            ("linear1", layer.intermediate.dense), ("linear2", layer.output.dense),
            ("norm2", layer.output.LayerNorm))}})
    return made.train(layer.training)


@pytest.mark.parametrize("frozen", [True, False])
def test_the_scores_of_the_catalogue_are_never_whole(frozen, monkeypatch):
    """64 x 10 positions, V = 6,000: nothing larger than the feed-forward's 256 values per position is made."""
    monkeypatch.setattr(softmax, "block_rows", lambda m, device: 64)
    model = small(v=6000, kind=torch.float32, frozen=frozen)
    ids = torch.randint(6000, (64, 10))
    masked = torch.rand(ids.shape) < 0.2
    targets = ids[masked]
    scores = len(targets) * len(model.items)
    with Largest() as largest:
        model.loss(ids.masked_fill(masked, model.mask_id), None, masked, targets).backward()
    assert model.items.numel() < largest.numel == 64 * 10 * 256 < scores / 4
    assert (model.items.grad is None) == frozen


@pytest.mark.numeric
def test_bf16_is_close_to_float32():
    exact, narrow = (small(v=200, dim=16, kind=torch.float32, frozen=False, bf16=bf16) for bf16 in (False, True))
    narrow.load_state_dict(exact.state_dict())
    losses, grads = [], []
    for model in (exact, narrow):
        losses.append(model.loss(*batch_of(model)))
        grads.append(gradients(model, losses[-1]))
    assert losses[1].dtype == torch.float32 and abs(losses[0] - losses[1]) < 0.02 * losses[0]
    assert losses[0] != losses[1]
    for name in ("items", "special", "transformer_model.encoder.layer.0.intermediate.dense.weight"):
        assert F.cosine_similarity(grads[0][name].flatten(), grads[1][name].flatten(), dim=0) > 0.99


# --------------------------------------------------------------------------- positions

def asked(model, *histories):
    """Vectors (B, D) at the mask behind each history."""
    indptr = np.cumsum([0, *map(len, histories)])
    sequences = bert4rec.Sequences(indptr, np.concatenate(histories), 10, model.mask_id)
    with torch.no_grad():
        return model.eval().vectors(*sequences.prediction_batch(np.arange(len(histories))))


def test_positions_count_from_the_end_where_it_is_asked():
    model = small(config={"positions": "end"})
    alone, *_ = asked(model, [3, 4, 5])
    beside, _ = asked(model, [3, 4, 5], [1, 2, 3, 4, 5, 6, 7])
    assert torch.allclose(alone, beside, atol=1e-12)
    ids = torch.tensor([[3, 4, model.mask_id, model.pad_id, model.pad_id]])
    assert model.position_ids(ids, ids != model.pad_id).tolist() == [[2, 1, 0, 0, 0]]
    assert model.position_ids(ids, None).tolist() == [[4, 3, 2, 1, 0]]
    assert not torch.allclose(alone, asked(model, [4, 3, 5])[0], atol=1e-5)


def test_positions_from_the_start_and_none():
    start, none = small(config={"positions": "start"}), small(config={"positions": "none"})
    ids = torch.tensor([[3, 4, 5]])
    assert start.position_ids(ids, None).tolist() == [[0, 1, 2]]
    assert none.position_ids(ids, None).tolist() == [[0, 0, 0]]
    assert torch.allclose(*asked(none, [3, 4, 5], [5, 3, 4]), atol=1e-12)
    assert not torch.allclose(*asked(start, [3, 4, 5], [5, 3, 4]), atol=1e-5)


# --------------------------------------------------------------------------- what trains

@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_rows_stay_and_the_mask_vector_always_trains(frozen):
    items = torch.randn(30, 8)
    before = items.clone()
    model = BERT4Rec(items, bert4rec.load_config(), 10, frozen=frozen)
    special = model.special.detach().clone()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, fused=True)
    for seed in range(3):
        optimizer.zero_grad()
        model.loss(*batch_of(model, seed)).backward()
        optimizer.step()
    moved = (model.items.detach() != before).any(1)
    assert not moved.any() if frozen else moved.all()
    assert torch.equal(items, before)                              # the caller's array is never trained
    assert (model.special[0] != special[0]).all() and torch.equal(model.special[1], special[1])


def test_unit_scale_is_an_offset_and_a_factor():
    """Hot rows (3, 0) and (1, 4): mean (2, 2), differences (1, -2) and (-1, 2), mean square length 5."""
    scaled = unit_scale(np.array([[3, 0], [1, 4], [2, 7]], np.float32), n_hot=2)
    assert np.allclose(scaled * 5 ** 0.5, [[1, -2], [-1, 2], [0, 5]]) and scaled.dtype == np.float32
    assert not unit_scale(np.full((3, 2), 7, np.float32), n_hot=2).any()


def test_the_width_must_be_shared_by_the_heads():
    with pytest.raises(UsageError, match=r"2 attention heads cannot share a width of 13; .*\(14, say\)"):
        small(dim=13)
    assert small(dim=13, config={"num_attention_heads": 13}).transformer_model.config.hidden_size == 13
    for dim in (104, 200):                                         # MFCC and MusiCNN with the two heads of the YAML
        small(dim=dim)


def test_projections_exist_only_where_the_width_differs():
    for hidden_dim, width in ((0, 8), (8, 8), (12, 12)):
        model = small(hidden_dim=hidden_dim)
        assert model.transformer_model.config.hidden_size == width
        assert isinstance(model.into, torch.nn.Linear) == isinstance(model.out, torch.nn.Linear) == (width != 8)


# --------------------------------------------------------------------------- sequences

def histories(seed=0, users=200, v=50, longest=40):
    draw = np.random.default_rng(seed)
    lengths = draw.integers(1, longest, users)
    return np.concatenate([[0], lengths.cumsum()]), draw.integers(v, size=lengths.sum())


@pytest.mark.numeric
def test_padding_never_changes_a_vector():
    """A sequence alone, in longer company, and with other rows at its padding."""
    model = small(config={"num_hidden_layers": 3})
    sequences = Sequences(np.array([0, 2, 11]), np.arange(11), 10, model.mask_id)
    alone = model.vectors(*sequences.prediction_batch(np.array([0])))
    ids, inside, wanted = sequences.prediction_batch(np.array([0, 1]))
    assert not inside.all() and ids[0].tolist() == [0, 1, 30] + [31] * 7
    assert torch.allclose(model.vectors(ids, inside, wanted)[0], alone[0], atol=1e-12)
    assert torch.allclose(model.vectors(torch.where(inside, ids, 17), inside, wanted)[0], alone[0], atol=1e-12)


def test_a_prediction_batch_takes_the_latest_items_and_ends_in_the_mask():
    sequences = Sequences(np.array([0, 3, 8]), np.arange(8), 4, mask_id=100)
    ids, inside, wanted = sequences.prediction_batch(np.array([1, 0]))
    assert ids.tolist() == [[5, 6, 7, 100], [0, 1, 2, 100]] and inside is None
    assert wanted.nonzero().tolist() == [[0, 3], [1, 3]]


def test_masking_hides_a_fifth_and_remembers_what():
    indptr, items = histories(users=2000)
    sequences = Sequences(indptr, items, 30, mask_id=50)
    users = np.arange(2000)
    plain, there = sequences.pad(users)
    ids, inside, masked, targets = sequences.masked(users, 0.2, generator_of(1))
    assert torch.equal(inside, there) and not (masked & ~inside).any()
    assert torch.equal(ids[~masked], plain[~masked]) and torch.equal(targets, plain[masked])
    assert (ids[masked] == 50).all() and (ids[~inside] == 51).all()
    n = int(inside.sum())
    assert abs(int(masked.sum()) - 0.2 * n) < 5 * (0.2 * 0.8 * n) ** 0.5
    again = sequences.masked(users, 0.2, generator_of(1))
    assert torch.equal(again[2], masked) and not torch.equal(sequences.masked(users, 0.2, generator_of(2))[2], masked)
    assert sequences.masked(users[:1], 1e-9, generator_of(1)) is None


def test_an_epoch_holds_every_user_once_in_batches_of_like_length():
    indptr, items = histories(users=1000, longest=100)
    sequences = Sequences(indptr, items, 60, mask_id=50)
    batches = sequences.epoch(32, generator_of(0, 5))
    assert sorted(np.concatenate(batches)) == list(range(1000)) and sorted(map(len, batches)) == [8] + [32] * 31
    assert [b.tolist() for b in batches] == [b.tolist() for b in sequences.epoch(32, generator_of(0, 5))]
    assert [set(b) for b in batches] != [set(b) for b in sequences.epoch(32, generator_of(0, 6))]
    size = np.minimum(np.diff(indptr), 60)
    assert sum(len(b) * size[b].max() for b in batches) < 1.2 * size.sum()
    first = [size[b].mean() for b in batches]
    assert first != sorted(first)                                  # neither shortest first nor longest first
    places = sequences.by_tokens(np.arange(500), tokens=1000)
    assert sorted(np.concatenate(places)) == list(range(500)) and max(size[p].sum() for p in places) < 1100
    assert sequences.by_tokens(np.array([], np.int64)) == []


# --------------------------------------------------------------------------- the file of defaults

def test_the_yaml_is_really_read(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("num_hidden_layers: 3\nintermediate_size: 20\nhidden_dropout_prob: 0.3\nlayer_norm_eps: 0.1\n")
    config = bert4rec.load_config(file)
    assert config == bert4rec.load_config() | {"num_hidden_layers": 3, "intermediate_size": 20,
                                               "hidden_dropout_prob": 0.3, "layer_norm_eps": 0.1}
    inner = BERT4Rec(torch.zeros(5, 4), config, 6).transformer_model
    assert len(inner.encoder.layer) == 3 and inner.encoder.layer[0].intermediate.dense.out_features == 20
    assert inner.embeddings.dropout.p == 0.3 and inner.embeddings.LayerNorm.eps == 0.1
    assert inner.embeddings.position_embeddings.num_embeddings == 6


@pytest.mark.parametrize(("text", "sentence"), [
    ("layers: 2", "unknown layers; known are num_hidden_layers"),
    ("num_hidden_layers: 0", "num_hidden_layers must be at least 1, not 0"),
    ("num_hidden_layers: 1.5", "num_hidden_layers must be a whole number, not 1.5"),
    ("mlm_probability: 1.2", "mlm_probability must be from 1e-06 to 1, not 1.2"),
    ("mlm_probability: .nan", "mlm_probability must be from 1e-06 to 1, not nan"),
    ("patience: true", "patience must be a whole number, not True"),
    ("hidden_act: exp", "hidden_act is one of gelu"),
    ("[1, 2]", "must hold lines of the form key: value"),
    ("a: b: c", "cannot be read as YAML"),
])
def test_a_wrong_setting_is_one_sentence(tmp_path, text, sentence):
    file = tmp_path / "own.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match=".") as e:
        bert4rec.load_config(file)
    assert sentence in str(e.value) and "\n" not in str(e.value)
    with pytest.raises(UsageError, match="cannot be read"):
        bert4rec.load_config(tmp_path / "absent.yaml")
