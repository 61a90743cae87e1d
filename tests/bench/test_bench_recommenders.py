"""bench/recommenders.py: what it finds, generates and says; nothing is timed against anything here."""
import numpy as np
import pytest

import dataset
from bench import _ease_inverse, recommenders
from harness import registry
from harness.errors import UsageError
from harness.readers import read_json


def test_every_declared_recommender_is_measured_and_builders_come_last():
    names = list(recommenders.modules())
    assert len(names) == len(registry.recommenders()) and {"knn", "train", "recommenders.ease"} <= {*names}
    assert names[-1] in ("recommenders.hybrid", "recommenders.random_forest")


@pytest.mark.parametrize("users,items,pairs", [(300, 900, 15_000), (40, 30, 500)])
def test_generated_plays_have_the_size_asked_for_and_load(tmp_path, users, items, pairs):
    recommenders.write_world(tmp_path, users, items, pairs, dim=4)
    split = dataset.load(tmp_path)
    total = len(split.train) + sum(len(split.part(p)) for p in split.parts)
    assert split.n_users == users and split.n_hot == items and abs(total - pairs) < 0.2 * pairs
    assert split.parts == ("val", "test") and len(split.eval_users("test")) == users
    assert dataset.load_embedding(split, "content").shape == (split.n_items, 4)


def test_names_may_follow_the_size(monkeypatch):
    asked = []
    monkeypatch.setattr(recommenders, "run", lambda *words: asked.append(words) or [])
    recommenders.main(["--size", "lastfm", "--size", "quick", "knn", "ease"])
    assert asked == [(False, ["knn", "ease"], ["lastfm", "quick"], None)]


@pytest.mark.trains
def test_a_row_has_figures_or_a_reason(tmp_path):
    recommenders.write_world(tmp_path, 60, 120, 1500, dim=4)
    told = recommenders.modules()

    def measure(name, limit):
        return recommenders.measure(f"recommenders.{name}", told[f"recommenders.{name}"], tmp_path, "content", "tiny",
                                    limit)
    row = measure("popularity", 100)
    assert row["what"] == "popularity, tiny" and row["ours"] > 0 and row["recommend_s"] > 0 and row["users"] == 60
    assert 50 << 20 < row["peak_gib"] * 2 ** 30 < 8 << 30 and "all of it" in row["note"]
    row = measure("hybrid", 100)
    assert row["ours"] is None and "no figure: " in row["note"]              # its parts have not been run
    row = measure("chance", 0.01)
    assert row["ours"] is None and "stopped after 0.01 s" in row["note"]


def test_flags_are_what_a_recommender_needs():
    told = recommenders.modules()
    words, note = recommenders.flags_of("train_bert", told["train_bert"].needs, "tags", timed=False)
    assert words == ["--model", "tags", "--missing", "mean", "--order", "count", "--epochs", "1"]
    assert note == "fit: one epoch"
    assert recommenders.flags_of("recommenders.ease", (), "tags", True) == ([], "fit: all of it")
    assert recommenders.flags_of("recommenders.elsa", (), "tags", True)[0] == ["--epochs", "1"]


def test_the_baseline_of_ease_has_the_scores_of_ours(tmp_path):
    recommenders.write_world(tmp_path, 40, 90, 800, dim=2)
    matrix = dataset.load(tmp_path).matrix()
    users = np.arange(40)
    assert np.allclose(_ease_inverse.inverse(matrix, 3.0)(users), _ease_inverse.ours(matrix, 3.0)(users), atol=1e-9)
    for road in ("ours", "inverse"):
        _ease_inverse.main(tmp_path, road, tmp_path / road)
        assert read_json(tmp_path / f"{road}.json")["shape"] == list(matrix.shape)
    assert np.allclose(np.load(tmp_path / "ours.npy"), np.load(tmp_path / "inverse.npy"), atol=1e-9)


def test_an_unknown_name_is_one_sentence():
    with pytest.raises(UsageError, match="no recommender nosuch; there: "):
        recommenders.run(True, ["nosuch"])
