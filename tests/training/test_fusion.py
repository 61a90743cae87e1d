"""--fusion: what an item's vector may become, that cold items stay their content, and who has to know of it."""
import numpy as np
import pytest
import torch

import dataset
import train
import train_bert
from harness import cli, runs
from harness.errors import UsageError
from harness.files import write_json
from recommenders.sasrec import __main__ as sasrec
from recommenders.two_tower import __main__ as two_tower
from recommenders.two_tower import model as towers
from tests.worlds.world import tiny_workspace, write_embedding, write_gaps, write_pairs
from training import fusion, shallow

QUICK = {
    "shallow": (train, ["--model", "content", "--epochs", "4", "--batch-size", "128", "--lr", "0.05"]),
    "bert4rec": (train_bert, ["--model", "content", "--epochs", "3", "--batch-size", "16", "--max-seq-len", "20",
                              "--hidden-dim", "8", "--lr", "0.05"]),
    "sasrec": (sasrec, ["content", "--epochs", "3", "--batch-size", "16", "--hidden-dim", "8", "--lr", "0.05"]),
    "two_tower": (two_tower, ["--embedding", "content", "--epochs", "3", "--batch-size", "256", "--lr", "0.05"]),
}
TABLES = ("shallow", "bert4rec", "sasrec")    # whose item vectors are a table of the model
PUBLISHED_LENGTH = 1e-6                       # float32 rounding of a length near 1


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return tiny_workspace(tmp_path_factory.mktemp("fusion") / "w")


def run(name, workdir, *argv):
    """(run name, config, weights of the best epoch) of a recommender on a workspace."""
    module, quick = QUICK[name]
    before = {found for found, _ in runs.find_runs(workdir)}
    module.main([*quick, *argv, "--workdir", str(workdir)])
    (run_name, config), = [r for r in runs.find_runs(workdir) if r[0] not in before]
    folder = workdir / "checkpoints"
    path, = folder.rglob(f"{run_name}_best.pt")
    return run_name, config, torch.load(path, weights_only=True)


def table_of(name, state):
    return state["model"]["item_embeddings" if name == "shallow" else "items"].numpy()


def wanted_content(split, width=None):
    """unit(standardised content) of the world, computed in float64 beside the code under test."""
    x = np.load(split.workdir / "embeddings" / "content.npy")[split.tracks].astype(np.float64)
    x = (x - x[:split.n_hot].mean(0)) / x[:split.n_hot].std(0)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


# --------------------------------------------------------------------------- the vectors

def test_content_is_standardised_and_of_length_1(world):
    split = dataset.load(world)
    unit = fusion.unit_content(split, ["content"], "fail", None)
    assert unit.dtype == np.float32
    np.testing.assert_allclose(unit, wanted_content(split), atol=1e-6)    # float32 rounding of values up to 1


def test_wide_content_is_brought_to_the_width_by_pca(world):
    split = dataset.load(world)
    unit = fusion.unit_content(split, ["content"], "fail", None, width=3)
    x = wanted_content(split)
    raw = np.load(world / "embeddings" / "content.npy")[split.tracks].astype(np.float64)
    raw = (raw - raw[:split.n_hot].mean(0)) / raw[:split.n_hot].std(0)
    _, _, axes = np.linalg.svd(raw[:split.n_hot] - raw[:split.n_hot].mean(0), full_matrices=False)
    expected = raw @ axes[:3].T
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(np.abs(unit), np.abs(expected), atol=1e-5)   # signs are arbitrary; float32
    assert unit.shape == (len(x), 3)


def test_more_width_than_items_is_filled_with_zeros(tmp_path):
    world = tiny_workspace(tmp_path / "w", n_tracks=40, n_cold=8, dim=90)
    split = dataset.load(world)
    unit = fusion.unit_content(split, ["content"], "fail", None, width=60)
    assert unit.shape == (split.n_items, 60) and not unit[:, split.n_hot:].any()


@pytest.mark.parametrize("width", [None, 3])
def test_an_item_without_content_is_zero_and_not_the_direction_of_rounding(world, width):
    """The mean that fills a gap, less the mean, is rounding: scaled to length 1 it would be content."""
    split = dataset.load(world)
    gaps = write_gaps(world, split, seed=2)
    unit = fusion.unit_content(split, ["gaps"], "mean", None, width)
    assert not unit[gaps].any()
    np.testing.assert_allclose(np.linalg.norm(unit[~gaps], axis=1), 1, atol=1e-6)


def test_content_that_is_constant_is_zero(world):
    split = dataset.load(world)
    write_embedding(world, "flat", np.ones((split.n_tracks, 3)))
    assert not fusion.unit_content(split, ["flat"], "fail", None).any()


def test_the_difference_is_shortened_to_its_largest_length_and_no_further():
    base = torch.tensor([[1.0, 0], [0, 1], [1, 0]])
    table = base + torch.tensor([[0.3, 0.4], [3.0, 4.0], [0.1, 0.0]])
    fused = fusion.Fusion("delta", base, torch.tensor([False, False, True]), norm=0.5)
    fused.constrain(table)
    torch.testing.assert_close(table, base + torch.tensor([[0.3, 0.4], [0.3, 0.4], [0.0, 0.0]]))


def test_concat_holds_the_content_columns_and_the_ids_of_unplayed_items():
    base = torch.tensor([[1.0, 0, 0], [0, 1, 0]])
    table = torch.full((2, 3), 7.0)
    fusion.Fusion("concat", base, torch.tensor([False, True]), fixed=2).constrain(table)
    torch.testing.assert_close(table, torch.tensor([[1.0, 0, 7], [0, 1, 0]]))


@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_weight_decay_draws_the_table_towards_its_content(l2):
    base, table = torch.tensor([[1.0, -2.0]]), torch.nn.Parameter(torch.tensor([[2.0, 1.0]]))
    delta = torch.nn.Parameter(table.detach() - base)
    one, two = (torch.optim.Adam([p], lr=0.1, weight_decay=2 * l2) for p in (table, delta))
    fusion.Fusion("delta", base, torch.zeros(1, dtype=torch.bool), norm=9.0).decay_towards_content(table, 2 * l2, one)
    for _ in range(5):
        for optimizer, value in ((one, table), (two, base + delta)):
            optimizer.zero_grad()
            (value ** 3).sum().backward()
            optimizer.step()
    torch.testing.assert_close(table, base + delta)


def test_the_penalty_of_the_shallow_net_counts_the_difference_alone(world):
    split = dataset.load(world)
    for kind in fusion.CONSTRAINED:
        args = train.parse(["--model", "content", "--fusion", kind])
        net, _ = shallow.build(split, cli.settings(shallow.Settings, args), "cpu")
        others = sum(float((p.detach() ** 2).sum()) for n, p in net.named_parameters() if n != "item_embeddings")
        added = net.item_embeddings.detach()[:, 8:] if kind == "concat" else torch.zeros(1)
        assert float(net.penalty().detach()) == pytest.approx(others + float((added ** 2).sum()), rel=1e-5)


# --------------------------------------------------------------------------- runs

@pytest.mark.trains
@pytest.mark.parametrize("name", TABLES)
def test_delta_trains_within_its_bound_and_leaves_cold_items_their_content(world, name):
    split = dataset.load(world)
    run_name, config, state = run(name, world, "--fusion", "delta", "--delta-norm", "0.25")
    length = np.linalg.norm(table_of(name, state) - wanted_content(split)[:split.n_hot], axis=1)
    assert 0 < length.max() <= 0.25 + PUBLISHED_LENGTH
    assert config["request"]["fusion"] == "delta" and config["request"]["delta_norm"] == 0.25
    assert (world / "preds" / f"{run_name}_cold_test.pqt").exists()


@pytest.mark.trains
@pytest.mark.parametrize("name", TABLES)
def test_concat_trains_ids_beside_content_that_stays(world, name):
    split = dataset.load(world)
    _, config, state = run(name, world, "--fusion", "concat")
    table = table_of(name, state)
    np.testing.assert_allclose(table[:, :8], wanted_content(split)[:split.n_hot], atol=1e-6)   # float32 rounding
    assert np.abs(table[:, 8:]).max() > 3 * fusion.ID_SPREAD and "delta_norm" not in config["request"]


@pytest.mark.trains
@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize(("kind", "freeze"), [("frozen", "1"), ("start", "0")])
def test_frozen_and_start_are_the_runs_of_item_freeze(world, name, kind, freeze):
    module, quick = QUICK[name]
    one, two = (module.request_of(module.parse([*quick, *flags])) for flags in
                (["--fusion", kind], ["--item-freeze", freeze]))
    assert one == two and "fusion" not in one


def test_a_run_without_fusion_keeps_its_name():
    for module, quick in QUICK.values():
        assert not {"fusion", "delta_norm"} & set(module.request_of(module.parse(quick)))


@pytest.mark.trains
@pytest.mark.parametrize("kind", ["start", "delta", "concat"])
def test_two_towers_train_what_the_item_tower_reads_and_hide_it_of_cold_items(world, kind):
    run_name, config, state = run("two_tower", world, "--fusion", kind)
    rows = state["towers"]["trained.rows"]
    assert rows.abs().max() > 0 and config["request"]["fusion"] == kind
    if kind == "delta":
        assert rows.norm(dim=1).max() <= 0.5 * 8 ** 0.5 * (1 + PUBLISHED_LENGTH)
    split = dataset.load(world)
    columns = towers.item_columns(split, ["content"], unit=kind == "delta")
    data = towers.Data(split, columns, content=8)
    net = towers.build(data, cli.settings(towers.Settings, two_tower.parse([*QUICK["two_tower"][1], "--fusion", kind])))
    net.load_state_dict(state["towers"])
    before = net.vectors(data)[1]
    with torch.no_grad():
        net.trained.rows.add_(1.0)
    after = net.vectors(data)[1]
    assert torch.equal(before[split.n_hot:], after[split.n_hot:])
    assert not torch.allclose(before[:split.n_hot], after[:split.n_hot])
    saved = np.load(world / "model_embeddings" / f"{run_name}_items.npy")
    np.testing.assert_allclose(saved, before, atol=1e-6)   # the same network, float32


@pytest.mark.trains
@pytest.mark.parametrize("name", TABLES)
def test_an_item_of_the_catalogue_that_nobody_played_keeps_its_content(tmp_path, name):
    world = tiny_workspace(tmp_path / "w")
    split = dataset.load(world)
    new = int(split.tracks[split.n_hot])
    (world / "data" / "cold_test.pqt").unlink()
    write_pairs(world, "val", [int(split.users[0])], [new], seconds=[10**9])
    write_json(world / "data" / "rules.json", {"history": {"test": ["train", "val"]}, "unseen": "keep"})
    split = dataset.load(world)
    assert split.unseen.sum() == 1
    for kind in fusion.CONSTRAINED:
        _, _, state = run(name, world, "--fusion", kind)
        row = table_of(name, state)[split.unseen][0]
        np.testing.assert_allclose(row[:8], wanted_content(split)[:split.n_hot][split.unseen][0], atol=1e-6)
        assert not row[8:].any()


# --------------------------------------------------------------------------- bad input

@pytest.mark.parametrize("name", [*TABLES, "two_tower"])
def test_a_norm_without_delta_is_refused(name, capsys):
    module, quick = QUICK[name]
    for flags in (["--delta-norm", "0.5"], ["--fusion", "concat", "--delta-norm", "0.5"],
                  ["--fusion", "delta", "--delta-norm", "0"]):
        with pytest.raises((SystemExit, UsageError)):
            module.parse([*quick, *flags])
    assert "delta-norm" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "flags", "says"), [
    ("shallow", ["--model", "random", "--fusion", "delta"], "random has no content"),
    ("sasrec", ["--model", "random", "--fusion", "frozen"], "random has no content"),
    ("bert4rec", ["--fusion", "start", "--as-published"], "item_freeze"),
    ("shallow", ["--fusion", "concat", "--as-published"], "item_freeze"),
    ("shallow", ["--fusion", "delta", "--dynamic-item-freeze", "1"], "plateau"),
    ("bert4rec", ["--fusion", "concat", "--scale", "none"], "--scale"),
])
def test_fusion_that_contradicts_another_argument_is_refused(name, flags, says, capsys):
    module, quick = QUICK[name]
    quick = [] if "--model" in flags else quick
    with pytest.raises(SystemExit) as stop:
        module.parse([*quick, *flags])
    assert stop.value.code == 2 and says in capsys.readouterr().err
