"""One contract for every recommender, found by looking: same users as asked, nothing seen, no duplicates,
k respected, deterministic under a seed, a finished request skipped, constant input at chance."""
import json
import pkgutil

import numpy as np
import pandas as pd
import pytest

import dataset
import recommenders
from harness import registry, runs
from harness.errors import UsageError, WorkError
from tests.worlds.world import hidden_pairs, tiny_workspace, write_embedding
from training import selection

ROOT_SCRIPTS = ("knn", "train", "train_bert")
QUICK = {  # flags that make a run take a second on the tiny world; the contract must hold at any setting
    "knn": ["content"],
    "train": ["--model", "content", "--epochs", "3", "--hidden-dim", "8", "--batch-size", "256"],
    "train_bert": ["--model", "content", "--epochs", "2", "--batch-size", "16", "--max-seq-len", "20"],
    "recommenders.two_tower": ["--embedding", "content", "--epochs", "2", "--batch-size", "256"],
    "recommenders.dtnmr": ["--epochs", "2", "--hidden", "16", "--lstm-size", "16", "--size", "8"],
    "recommenders.sasrec": ["content", "--epochs", "2", "--batch-size", "16", "--hidden-dim", "16"],
    "recommenders.acarec": ["--embedding", "content", "--epochs", "2"],
    "recommenders.artist_mean": ["--embedding", "content"],
    "recommenders.cease": ["--embedding", "content"],
    "recommenders.clcrec": ["--embedding", "content", "--epochs", "4", "--negatives", "8", "--lr", "0.01"],
    "recommenders.content_elsa": ["--embedding", "content", "--factors", "8", "--epochs", "2"],
    "recommenders.content_factors": ["--embedding", "content"],
    "recommenders.content_knn": ["content"],
    "recommenders.content_prior": ["--embedding", "content"],
    "recommenders.contrastive": ["--embedding", "content", "--size", "8", "--epochs", "2"],
    "recommenders.dropoutnet": ["--embedding", "content", "--epochs", "2", "--hidden", "16"],
    "recommenders.heater": ["--embedding", "content", "--epochs", "2", "--hidden", "16"],
    "recommenders.hybrid": ["--steps", "4"],
    "recommenders.shrinkage": ["--embedding", "content"],
    "recommenders.random_forest": ["--trees", "5"],
    "recommenders.sibrar": ["--embedding", "content", "--epochs", "2"],
}
SOURCES = ("recommenders.popularity", "recommenders.content_knn", "recommenders.itemknn")
FIRST = {"recommenders.hybrid": SOURCES, "recommenders.random_forest": SOURCES,  # whose saved lists they read
         "recommenders.content_factors": ("recommenders.ials",),                 # or whose factors
         "recommenders.contrastive": ("recommenders.ials",),
         "recommenders.shrinkage": ("recommenders.ials",), "recommenders.artist_mean": ("recommenders.ials",),
         "recommenders.acarec": ("recommenders.ials",), "recommenders.dropoutnet": ("recommenders.ials",),
         "recommenders.heater": ("recommenders.ials",)}
NAMES = [*ROOT_SCRIPTS, *(f"recommenders.{m.name}" for m in pkgutil.iter_modules(recommenders.__path__)
                          if m.name != "__main__")]


def module_of(name):
    return registry.load(name)


def call(name, workdir, *extra):
    module_of(name).main([*QUICK.get(name, []), "--workdir", str(workdir), "--k", "10", *extra])


def run(name, workdir, *extra):
    if not (workdir / "runs").exists():
        for first in FIRST.get(name, ()):
            call(first, workdir)
    read = {run_name for run_name, config in runs.find_runs(workdir)
            if f"recommenders.{config['recommender']}" in FIRST.get(name, ())}
    call(name, workdir, *extra)
    (run_name, config), = [r for r in runs.find_runs(workdir) if r[1]["status"] == "finished" and r[0] not in read]
    return run_name, config


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Each recommender run once on a tiny world: {name: (workdir, run name, config)}."""
    cache = {}

    def get(name):
        if name not in cache:
            workdir = tiny_workspace(tmp_path_factory.mktemp(name.replace(".", "_")) / "w")
            cache[name] = (workdir, *run(name, workdir))
        return cache[name]
    return get


@pytest.mark.trains
@pytest.mark.parametrize("name", NAMES)
def test_lists_keep_the_contract(made, name):
    workdir, run_name, config = made(name)
    split = dataset.load(workdir)
    expected = [p for p in split.parts if p != "cold_test" or module_of(name).COLD]
    assert config["parts"] == sorted(expected)
    assert config["departures"]["k"] == 10 and "comment" not in config["departures"]   # the scripts' defaults are known
    for part in expected:
        preds = pd.read_parquet(workdir / "preds" / f"{run_name}_{part}.pqt")
        assert list(preds.columns) == ["user_id", "track_id", "rank", "score"]
        assert set(preds.user_id) == set(split.users[split.eval_users(part)])
        assert not preds.duplicated(["user_id", "track_id"]).any()
        assert (preds.groupby("user_id")["rank"].agg(list).map(lambda r: r == list(range(10)))).all()
        assert (preds.groupby("user_id")["score"].diff().dropna() <= 0).all()
        assert set(preds.track_id) <= set(split.tracks[split.candidates(part)])
        assert not hidden_pairs(workdir, part) & {*zip(preds.user_id, preds.track_id, strict=True)}
        assert len(pd.read_parquet(workdir / "metrics" / f"{run_name}_{part}.pqt")) == preds.user_id.nunique()


@pytest.mark.trains
@pytest.mark.parametrize("name", NAMES)
def test_a_run_is_made_under_the_request_of_its_command_line(made, name):
    """So what test_request_names.py says of `request_of` holds for the run."""
    workdir, _, config = made(name)
    module = module_of(name)
    read = getattr(module, "parse", None) or module.build_parser().parse_args
    args = read([*QUICK.get(name, []), "--workdir", str(workdir), "--k", "10"])
    request = module.request_of(args, *getattr(args, "names", [])[:1])
    request = selection.of_split(request, dataset.load(workdir))   # all users of val are in the sample
    assert json.loads(json.dumps(request)) == config["request"]


@pytest.mark.parametrize("name", NAMES)
def test_the_same_request_gives_the_same_bytes_in_another_workspace(made, name, tmp_path):
    workdir, run_name, _ = made(name)
    other = tiny_workspace(tmp_path / "w")
    assert run(name, other)[0] == run_name
    files = sorted(p.relative_to(workdir) for p in (workdir / "preds").iterdir())
    assert files
    for file in files:
        assert (workdir / file).read_bytes() == (other / file).read_bytes()


@pytest.mark.trains
@pytest.mark.parametrize("name", NAMES)
def test_a_finished_request_is_skipped_and_overwrite_repeats_it(made, name, capsys):
    workdir, run_name, _ = made(name)
    part = "test"
    path = workdir / "preds" / f"{run_name}_{part}.pqt"
    before, stamp = path.read_bytes(), path.stat().st_mtime_ns
    run(name, workdir)
    assert "skipped" in capsys.readouterr().err and path.stat().st_mtime_ns == stamp
    run(name, workdir, "--overwrite")
    assert path.stat().st_mtime_ns > stamp and path.read_bytes() == before
    said, = [line for line in capsys.readouterr().out.splitlines() if "next: python table.py" in line]
    val = pd.read_csv(workdir / "metrics" / f"{run_name}_val.csv", index_col=0)
    assert said.startswith(f"{run_name}: ") and f"preds/{run_name}_" in said
    assert f"val NDCG@10 {val.at['mean', 'NDCG@10']:.4f} ±{val.at['conf', 'NDCG@10']:.4f}" in said


@pytest.mark.trains
@pytest.mark.parametrize("name", [
    "knn", "train", "train_bert", "recommenders.cease", "recommenders.chance", "recommenders.clcrec",
    "recommenders.content_elsa", "recommenders.content_factors", "recommenders.content_knn",
    "recommenders.content_prior", "recommenders.contrastive", "recommenders.sasrec", "recommenders.sibrar",
    "recommenders.two_tower"])
def test_constant_input_is_chance(tmp_path, name):
    """500 users, 200 tracks, lists of 10: a hit is as likely as for a random list, and no list is shared."""
    workdir = tiny_workspace(tmp_path / "w", n_users=500, n_tracks=200, n_cold=40)
    write_embedding(workdir, "content", np.full((200, 8), 0.3, np.float32))
    run_name, _ = run(name, workdir)
    split = dataset.load(workdir)
    values = pd.read_parquet(workdir / "metrics" / f"{run_name}_cold_test.pqt")["Recall@10"]
    expected = 10 / (split.n_items - split.n_hot)
    assert abs(values.mean() - expected) < 4 * values.std() / len(values) ** 0.5


@pytest.mark.parametrize("name", NAMES)
def test_needs_and_cold_are_declared_and_a_folder_without_data_is_one_sentence(tmp_path, name):
    module = module_of(name)
    assert set(module.NEEDS) <= {"embedding", "order", "features"} and module.COLD in (True, False)
    with pytest.raises((UsageError, WorkError)):
        module.main(["--workdir", str(tmp_path)])
    assert sorted(p.name for p in tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [n for n in NAMES if "--device" in module_of(n).build_parser().format_help()])
def test_cuda_gives_lists_of_the_same_form(made, name, tmp_path):
    import torch
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    workdir, run_name, config = made(name)
    other = tiny_workspace(tmp_path / "w")
    assert run(name, other, "--device", "cuda")[1]["device"].startswith("cuda")
    for part in config["parts"]:
        ours, theirs = (pd.read_parquet(w / "preds" / f"{run_name}_{part}.pqt") for w in (other, workdir))
        assert ours[["user_id", "rank"]].equals(theirs[["user_id", "rank"]])
        assert np.isfinite(ours.score).all() and not ours.duplicated(["user_id", "track_id"]).any()
