"""Factors of other runs: users as the factor model makes them, and runs whose factors do not fit."""

import numpy as np
import pytest

import dataset
from harness import runs
from harness.errors import UsageError, WorkError
from harness.files import write_json, write_npy
from harness.readers import read_json
from ranking import factors
from recommenders import elsa, ials, popularity
from tests.worlds.world import tiny_workspace, write_pairs


def run_of(workdir, module, *flags):
    module.main([*flags, "--workdir", str(workdir), "--k", "10"])
    return next(name for name, c in runs.find_runs(workdir) if c["recommender"] == module.__name__.split(".")[-1])


@pytest.mark.numeric
@pytest.mark.parametrize("values", ["binary", "count", "log"])
def test_user_vectors_of_ials_are_those_of_its_half_sweep(tiny, values):
    write_json(tiny / "data" / "rules.json", {"history": {"test": ["train", "val"]}, "unseen": "drop"})
    name = run_of(tiny, ials, "--factors", "8", "--values", values, "--iterations", "3")
    split = dataset.load(tiny)
    learned = factors.read(split, "ials")
    assert np.allclose(learned.users("val"), np.load(factors.users_path(tiny, name)))
    settings = ials.Settings(8, 1.0, 10.0, 3, 42)
    model = ials.factorise(split.matrix(values), settings)
    assert np.allclose(learned.items, model.item_factors)
    expected = ials.fold_in(model, split.history("test", values), 10.0)
    # the library solves in float32, here in systems of a condition number up to 1e3
    assert np.allclose(learned.users("test"), expected, rtol=0, atol=2e-3)
    assert not np.allclose(learned.users("test"), learned.users("val"), atol=0.05)


def test_user_vectors_of_elsa_are_sums_of_its_factors(tiny):
    name = run_of(tiny, elsa, "--factors", "8", "--epochs", "2")
    split = dataset.load(tiny)
    learned = factors.read(split, name)
    items = np.load(factors.items_path(tiny, name))
    assert learned.method == "elsa" and np.allclose(learned.users("test"), split.matrix() @ items, atol=1e-5)
    assert np.array_equal(learned.plays, np.bincount(split.train.item, minlength=split.n_hot))


def test_the_best_run_on_val_is_taken(tiny):
    for iterations in ("1", "10"):
        ials.main(["--factors", "8", "--iterations", iterations, "--workdir", str(tiny), "--k", "10"])
    split = dataset.load(tiny)
    assert factors.read(split, "ials").source.among == 2


def test_words_that_name_no_factors(tiny):
    split = dataset.load(tiny)
    with pytest.raises(UsageError, match="--factors nobody is no run"):
        factors.read(split, "nobody")
    with pytest.raises(WorkError, match=r"there is no run of ials .* make it first: python -m recommenders.ials"):
        factors.read(split, "ials")
    with pytest.raises(UsageError, match="is of popularity, which has no item factors"):
        factors.read(split, run_of(tiny, popularity))


def test_factors_of_another_split_or_track_list(tiny):
    name = run_of(tiny, ials, "--factors", "8", "--iterations", "1")
    manifest = tiny / "runs" / name / "config.json"
    config = read_json(manifest)
    write_json(manifest, {**config, "inputs": {**config["inputs"], "trackid_sorted.csv": "another"}})
    with pytest.raises(WorkError, match=r"factors of another track list .* make them again: python -m recommenders"):
        factors.read(dataset.load(tiny), name)
    write_json(manifest, config)
    split = dataset.load(tiny)
    write_pairs(tiny, "train", split.users[split.train.user[:-1]], split.tracks[split.train.item[:-1]])
    with pytest.raises(WorkError, match=r"factors of another split \(data/train.pqt differs\)"):
        factors.read(dataset.load(tiny), name)
    with pytest.raises(WorkError, match="was made on another split"):
        factors.read(dataset.load(tiny), "ials")


def test_damaged_factors(tmp_path):
    workdir = tiny_workspace(tmp_path / "w")
    name = run_of(workdir, elsa, "--factors", "8", "--epochs", "1")
    path, split = factors.items_path(workdir, name), dataset.load(workdir)
    write_npy(path, np.ones((split.n_hot - 1, 8), np.float32))
    with pytest.raises(WorkError, match="factors of another split"):
        factors.read(split, name)
    write_npy(path, np.full((split.n_hot, 8), np.nan, np.float32))
    with pytest.raises(WorkError, match="NaN or infinite"):
        factors.read(split, name)
    path.unlink()
    with pytest.raises(WorkError, match="is missing, so run"):
        factors.read(split, name)
