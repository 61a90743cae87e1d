"""tune.py: the same draws for everybody, no test in sight, what was chosen runs; interrupted and repeated searches."""
import contextlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml

import dataset
import tune
from experiments import spaces as tune_spaces
from harness import registry, runs
from harness.errors import UsageError, WorkError
from harness.files import write_json, write_parquet
from harness.readers import read_json
from slurm import grid
from tests.conftest import ROOT
from tests.worlds.world import tiny_workspace, with_cold_val
from training import references

SPACES = """
ease: {script: recommenders.ease, space: {l2: {log: [1.0, 1000.0]}}, seeds: 1}
knn:
  script: knn.py
  each: {names: all}
  space: {center: [on, off], unit: [on, off]}
  seeds: 2
  control: {shuffle: on}
chance: {script: recommenders.chance}
"""


def spaces(tmp_path, text=SPACES):
    (tmp_path / "spaces.yaml").write_text(text)
    return str(tmp_path / "spaces.yaml")


def call(workdir, file, *words):
    return tune.main([*words, "--workdir", str(workdir), "--spaces", file])


def trials(workdir):
    return pd.read_csv(workdir / "tuning" / "trials.csv", keep_default_na=False)


def chosen(workdir):
    return yaml.safe_load((workdir / "tuning" / "chosen.yaml").read_text())["blocks"]


def method(space, name="m"):
    return tune_spaces.Method(name, "recommenders.ease", space=space)


def test_a_length_of_lists_that_no_run_measures_is_refused_at_once(tmp_path):
    for metric in ("NDCG@15", "NDCG@100", "NDCG@0", "Loss@10"):
        with pytest.raises(UsageError, match="a K of 1 to 5, 10, 20 or 50"):
            tune.main(["--metric", metric, "--workdir", str(tmp_path)])


def test_trials_of_earlier_calls_stay(tmp_path):
    def trial(name, number, value, which=None):
        return tune.Trial(method({}, name), number, which or {}, {"l2": number}, None, value)
    path = tmp_path / "trials.csv"
    asked, other = (SimpleNamespace(metric="NDCG@10", seed=seed) for seed in (1, 2))
    tune.write_trials(path, [], asked)
    assert not path.exists()
    tune.write_trials(path, [trial("knn", 1, 0.5, {"names": "tags"}), trial("ease", 1, 0.25), trial("ease", 2, 0.5)],
                      asked)
    tune.write_trials(path, [trial("ease", 2, 0.75), trial("ease", 10, 1.0)], asked)
    tune.write_trials(path, [trial("ease", 2, 0.5)], other)   # another draw of settings
    tune.write_trials(path, [], asked)
    found = pd.read_csv(path, keep_default_na=False)
    assert found[["method", "representation", "seed", "trial", "value"]].values.tolist() == [
        ["ease", "", 1, 1, 0.25], ["ease", "", 1, 2, 0.75], ["ease", "", 1, 10, 1.0], ["ease", "", 2, 2, 0.5],
        ["knn", "tags", 1, 1, 0.5]]


@pytest.mark.parametrize("name", ["None", "NA", "@x", "=x", "007", "a,b", "-"])
def test_a_repeated_trial_has_one_row_whatever_its_representation_is_called(tmp_path, name):
    trial = SimpleNamespace(method=SimpleNamespace(name="1"), which={"names": name}, number=1, setting={"l2": 1.0},
                            parts=("val",), value=.1, conf=np.nan, seconds=1.0, run="", reason="")
    for trial.value in (.1, .2):
        tune.write_trials(tmp_path / "trials.csv", [trial], SimpleNamespace(metric="NDCG@10", seed=42))
    (row,) = pd.read_csv(tmp_path / "trials.csv", dtype=str, keep_default_na=False).to_dict("records")
    assert row["representation"].removeprefix("'") == name and row["value"] == "0.2" and row["conf"] == ""


def test_methods_on_the_factors_of_others_come_after_them(tiny, monkeypatch):
    """With several jobs at once a trial would take the best of the runs that happen to be there."""
    stages = []

    def noted(jobs, at_once):
        stages.append([job.script for job in jobs])
        return [], []
    monkeypatch.setattr("experiments.local.run_stage", noted)
    with contextlib.suppress(WorkError):
        tune.main(["shrinkage", "ials", "knn", "--trials", "2", "--jobs", "2", "--workdir", str(tiny), "--embeddings",
                   "content"])
    first, second = stages
    assert set(first) == {"knn.py", "recommenders.ials"} and set(second) == {"recommenders.shrinkage"}


# --------------------------------------------------------------------------- settings

def test_more_trials_go_on_from_fewer_and_other_seeds_and_names_draw_otherwise():
    space = {"l2": {"log": [1.0, 1000.0]}, "k": [5, 10, 20]}
    ten = tune_spaces.settings(method(space), 10, 1)
    assert len(ten) == 10 and ten[:4] == tune_spaces.settings(method(space), 4, 1)
    assert ten != tune_spaces.settings(method(space), 10, 2)
    assert ten != tune_spaces.settings(method(space, "other"), 10, 1)


def test_a_small_space_is_searched_whole_and_without_repeats():
    space = {"a": [1, 2, 3], "b": [True, False]}
    drawn = tune_spaces.settings(method(space), 10, 0)
    assert len(drawn) == 6 == len({json.dumps(d) for d in drawn})
    assert drawn[:4] == tune_spaces.settings(method(space), 4, 0)
    few = tune_spaces.settings(method({"a": {"log": [3, 5]}, "b": [1, 2]}), 10, 0)
    assert len(few) == 6 == len({json.dumps(d) for d in few})


def test_ranges_keep_their_ends_and_their_kind():
    rng = np.random.default_rng(0)
    logs = [tune_spaces.one_of(rng, {"log": [0.01, 100.0]}) for _ in range(400)]
    assert all(0.01 <= x <= 100 and float(f"{x:.3g}") == x for x in logs)
    assert 0.4 < np.mean(np.array(logs) < 1) < 0.6                      # half of the decades below 1
    assert all(isinstance(x, int) and 3 <= x <= 7 for x in (tune_spaces.one_of(rng, {"log": [3, 7]})
                                                             for _ in range(50)))
    flat = [tune_spaces.one_of(rng, {"uniform": [0, 1.0]}) for _ in range(400)]
    assert 0.4 < np.mean(flat) < 0.6 and isinstance(flat[0], float)


def test_the_committed_spaces_are_read_by_the_scripts(tiny, capsys):
    """Every line of tune.yaml: ten trials (or its whole space), the same settings for each representation."""
    assert tune.main(["--workdir", str(tiny), "--print", "--embeddings", "content"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for script, count in (("recommenders.popularity", 2), ("recommenders.itemknn", 10), ("recommenders.ease", 10),
                          ("recommenders.ials", 10), ("recommenders.elsa", 10), ("knn.py", 8),
                          ("recommenders.content_knn", 10), ("recommenders.content_prior", 2),
                          ("recommenders.content_factors", 10), ("recommenders.shrinkage", 10),
                          ("recommenders.artist_mean", 10), ("recommenders.cease", 10),
                          ("train.py", 20), ("train_bert.py", 20),
                          ("recommenders.sasrec", 10), ("recommenders.two_tower", 10)):
        mine = [line for line in lines if f" {script} " in line]
        assert len(mine) == len(set(mine)) == count, script
    both = [line for line in lines if " train_bert.py " in line]
    assert [x.replace("--model random", "--model content") for x in both[:10]] == both[10:]


def test_what_a_file_does_not_say_is_what_the_recommender_declares(tmp_path):
    declared = registry.recommenders()["ease"].space
    assert declared == {"l2": {"log": [5.0, 5000.0]}}
    file = spaces(tmp_path, "ease: {seeds: 2}\nmine: {script: recommenders.ease}\nfixed: {script: recommenders.ease, "
                            "space: {}}\nother: {script: recommenders.ease, space: {l2: [1]}}\n")
    methods = {m.name: m for m in tune_spaces.read_methods(file)}
    assert {name: m.space for name, m in methods.items()} == {
        "ease": declared, "mine": declared, "fixed": {}, "other": {"l2": [1]}}
    assert {m.script for m in methods.values()} == {"recommenders.ease"} and methods["ease"].seeds == 2


def test_a_declared_space_needs_no_entry_in_the_file(tmp_path):
    """Every recommender with a space is tuned; one with an embedding on all of the workspace, with a control."""
    methods = {m.name: m for m in tune_spaces.read_methods(spaces(tmp_path, "popularity: {seeds: 3}"), declared=True)}
    assert {*methods} == {name for name, r in registry.recommenders().items() if r.space is not None}
    assert methods["popularity"].seeds == 3 and methods["elsa"].each == {} == methods["elsa"].control
    for name, flag in (("knn", "names"), ("shallow", "model"), ("two_tower", "embedding")):
        assert methods[name].each == {flag: "all"} and methods[name].control == {"shuffle": True}
    assert [m.name for m in tune_spaces.read_methods(spaces(tmp_path), ["elsa"], declared=True)] == ["elsa"]


def test_spaces_are_read_without_torch():
    code = "import sys; from experiments import spaces; spaces.read_methods('tune.yaml', declared=True); " \
           "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_a_huge_finite_space_is_drawn_from_without_being_listed():
    space = {f"f{i}": list(range(1000)) for i in range(12)}
    assert len(tune_spaces.settings(method(space), 5, 0)) == 5


# --------------------------------------------------------------------------- the search

@pytest.mark.trains
def test_the_best_of_val_is_chosen_and_runs_on_test(tiny, tmp_path, capsys):
    """What the file names is, by hand, the best of the figures of val; the grid then makes its runs and controls."""
    assert call(tiny, spaces(tmp_path), "--trials", "5", "--embeddings", "content") == 0
    table = trials(tiny)
    assert table.groupby("method").size().to_dict() == {"ease": 5, "knn": 4} and (table.reason == "").all()
    for row in table.itertuples():
        figures = pd.read_csv(tiny / "tuning" / "metrics" / f"{row.run}_val.csv", index_col=0)
        assert row.value == pytest.approx(figures.loc["mean", "NDCG@10"], abs=1e-12)
        asked = read_json(tiny / "tuning" / "runs" / row.run / "config.json")["arguments"]
        words = row.setting.replace("True", "on").replace("False", "off").split("--")[1:]
        for flag, value in (word.split() for word in words):
            got = asked[flag]
            assert got == (value == "on") if isinstance(got, bool) else float(value) == got
    blocks = chosen(tiny)
    best = table[table.method == "ease"].sort_values(["value", "trial"], ascending=[False, True]).iloc[0]
    assert blocks[0]["set"] == {"l2": float(best.setting.split()[1])} and blocks[0]["grid"] == {"seed": [1]}
    assert blocks[1]["set"]["names"] == "content" and blocks[1]["grid"] == {"seed": [1, 2]}
    assert blocks[2] == {"script": "knn.py", "grid": {"seed": list(range(1, 11))},
                         "set": blocks[1]["set"] | {"shuffle": True}}
    assert blocks[3] == {"script": "recommenders.chance", "grid": {"seed": [1, 2, 3, 4, 5]}}
    capsys.readouterr()
    assert grid.main(["--file", str(tiny / "tuning" / "chosen.yaml"), "--workdir", str(tiny), "--local"]) == 0
    made = runs.find_runs(tiny)
    assert len(made) == 1 + 2 + 10 + 5 and all("test" in config["parts"] for _, config in made)


@pytest.mark.parametrize("words", [("knn", "--controls", "nosuch"), ("ease", "--embeddings", "nosuch")])
def test_a_name_that_nothing_has_is_refused(tiny, tmp_path, words):
    with pytest.raises(UsageError, match=f"^{words[1]} nosuch: no embedding of this name is here; there are .*content"):
        call(tiny, spaces(tmp_path), *words, "--trials", "1", "--print")


def test_a_name_that_nothing_has_is_refused_where_all_stands_for_the_named(tiny, tmp_path):
    file = spaces(tmp_path, "knn: {script: knn, each: {names: all}, space: {center: [true, false]}}")
    with pytest.raises(UsageError, match="--embeddings nosuch: no embedding of this name is here"):
        call(tiny, file, "knn", "--embeddings", "nosuch", "--trials", "1", "--print")


def test_controls_only_of_the_named(tiny, tmp_path):
    assert call(tiny, spaces(tmp_path), "knn", "--trials", "1", "--controls", "noise") == 0
    assert [b["set"]["names"] for b in chosen(tiny) if b["set"].get("shuffle")] == ["noise"]


@pytest.mark.trains
def test_no_test_part_is_there_while_it_is_tuned(tiny, tmp_path):
    """Other test plays, the same choice: the file is the same to the byte, and nothing is tried again."""
    file = spaces(tmp_path)
    call(tiny, file, "--trials", "3")
    before = (tiny / "tuning" / "chosen.yaml").read_bytes()
    stamps = {p: p.stat().st_mtime_ns for p in (tiny / "tuning").glob("runs/*/config.json")}
    for name in ("test", "cold_test"):
        frame = pd.read_parquet(tiny / "data" / f"{name}.pqt")
        write_parquet(tiny / "data" / f"{name}.pqt", frame.iloc[::2])
    call(tiny, file, "--trials", "3")
    assert (tiny / "tuning" / "chosen.yaml").read_bytes() == before and stamps
    assert stamps == {p: p.stat().st_mtime_ns for p in stamps}
    assert not list((tiny / "tuning").rglob("*test*"))
    assert {p.name for p in (tiny / "tuning" / "data").iterdir()} == {"train.pqt", "val.pqt"}


@pytest.mark.trains
def test_a_repeated_search_makes_only_what_is_missing(tiny, tmp_path):
    file = spaces(tmp_path)
    call(tiny, file, "ease", "--trials", "3")
    stamps = {p: p.stat().st_mtime_ns for p in (tiny / "tuning").glob("runs/*/config.json")}
    first = trials(tiny)
    call(tiny, file, "ease", "--trials", "5")
    assert len(stamps) == 3 and stamps == {p: p.stat().st_mtime_ns for p in stamps}
    assert len(runs.find_runs(tiny / "tuning")) == 5
    assert trials(tiny)["run"].tolist()[:3] == first["run"].tolist()


def test_a_run_of_somebody_else_among_the_trials_is_passed_over(tiny, tmp_path):
    other = tiny / "tuning" / "runs" / "a_foreign_run"
    other.mkdir(parents=True)
    (other / "config.json").write_text(json.dumps({"status": "finished", "parts": ["val"]}))
    call(tiny, spaces(tmp_path), "ease", "--trials", "1")
    assert (trials(tiny)["value"].astype(float) > 0).all()


def test_equal_figures_go_to_the_earlier_trial():
    same = [tune.Trial(method({"l2": [1]}), n, {}, {"l2": n}, None, value=0.5) for n in (1, 2, 3)]
    assert tune.chosen_of(same)[0][0].number == 1


def test_failed_trials_are_counted_and_a_method_without_a_figure_is_named(tiny, tmp_path, capsys):
    file = spaces(tmp_path, "ease: {script: recommenders.ease, space: {memory: [1.0e-9, 4]}}\n"
                            "never: {script: recommenders.two_tower, set: {embedding: content, batch_size: 64},\n"
                            "        space: {lr: [1.0e+29, 2.0e+29]}}\n")
    assert call(tiny, file, "--trials", "10") == 1
    table = trials(tiny).set_index(["method", "trial"])
    assert (table.reason != "").sum() == 3 and table.reason["ease"].str.contains("GB are allowed").sum() == 1
    assert table.reason["never"].str.contains("loss is NaN or infinite").all() and (table.run == "").sum() == 3
    text = (tiny / "tuning" / "chosen.yaml").read_text()
    assert "the best of 1 trials" in text and "; 1 gave none" in text
    assert "# never: none of 2 trials gave a figure" in text
    assert [b["set"] for b in chosen(tiny)] == [{"memory": 4}]
    assert "never: none of 2 trials gave a figure" in capsys.readouterr().out


def test_what_a_workspace_cannot_serve_is_left_out_with_the_reason(tiny, tmp_path):
    file = spaces(tmp_path, "two: {script: recommenders.two_tower, set: {embedding: nosuch}, space: {hide: [0, 0.1]}}")
    (tiny / "tuning").mkdir()
    (tiny / "tuning" / "chosen.yaml").write_text("of an earlier call")
    with pytest.raises(WorkError, match=r"two: none of 2 trials gave a figure \(no embedding nosuch here.*no grid"):
        call(tiny, file)
    assert trials(tiny).reason.str.contains("no embedding nosuch here").sum() == 2
    assert (tiny / "tuning" / "chosen.yaml").read_text() == "of an earlier call"


def test_while_another_process_makes_a_trial_nothing_is_selected(tiny, tmp_path, monkeypatch):
    from experiments import local
    monkeypatch.setattr(local, "run_stage", lambda jobs, at_once: ([], [(jobs[-1], "being made elsewhere")]))
    with pytest.raises(WorkError, match="1 trials are being made by another process, so nothing is selected yet"):
        call(tiny, spaces(tmp_path), "ease", "--trials", "2")
    assert not (tiny / "tuning" / "chosen.yaml").exists()


def test_a_figure_of_an_earlier_val_is_none(tiny, tmp_path, monkeypatch):
    from experiments import local
    file = spaces(tmp_path)
    call(tiny, file, "ease", "--trials", "1")
    assert (trials(tiny).run != "").all()
    val = pd.read_parquet(tiny / "data" / "val.pqt")
    write_parquet(tiny / "data" / "val.pqt", val.iloc[:-5])
    monkeypatch.setattr(local, "run_stage", lambda jobs, at_once: ([], []))      # the run is not made again
    with pytest.raises(WorkError, match="it ended without lists of val.; no method has a figure"):
        call(tiny, file, "ease", "--trials", "1")
    assert trials(tiny).reason.tolist() == ["it ended without lists of val"]


@pytest.mark.parametrize("damage", ["x\n", "", b"\xff\xfe\x00"])
def test_a_damaged_table_of_trials_is_named(tiny, tmp_path, damage):
    file = spaces(tmp_path)
    call(tiny, file, "ease", "--trials", "1")
    path = tiny / "tuning" / "trials.csv"
    path.write_bytes(damage.encode() if isinstance(damage, str) else damage)
    if damage:
        with pytest.raises(WorkError, match=r"trials.csv cannot be read as the table of trials .*; remove it"):
            call(tiny, file, "ease", "--trials", "1")
    else:
        call(tiny, file, "ease", "--trials", "1")


def test_links_follow_the_workspace(tiny, tmp_path):
    train = pd.read_parquet(tiny / "data" / "train.pqt").iloc[1:]
    pairs = pd.read_parquet(tiny / "data" / "train.pqt").head(1)
    write_parquet(tiny / "data" / "train.pqt", train)
    write_parquet(tiny / "data" / "hidden.pqt", pairs)   # of --train-share: what no trial may recommend, either
    where = tune.link_workspace(tiny)
    assert pd.read_parquet(where / "data" / "hidden.pqt").equals(pairs)
    assert (where / "embeddings" / "content.npy").resolve() == (tiny / "embeddings" / "content.npy").resolve()
    for suffix in ("npy", "json"):
        (tiny / "embeddings" / f"noise.{suffix}").unlink()
    tune.link_workspace(tiny)
    assert not (where / "embeddings" / "noise.npy").is_symlink()
    tiny.rename(tmp_path / "moved")
    assert (tmp_path / "moved" / "tuning" / "data" / "train.pqt").exists()


def test_another_process_that_links_at_the_same_time_does_no_harm(tiny, monkeypatch):
    """The other one makes each link just before this one does."""
    where, plain = tiny / "tuning", Path.symlink_to
    made = []

    def first(self, target):
        if not made:
            made.append(target)
            monkeypatch.setattr(Path, "symlink_to", plain)
            tune.link_workspace(tiny)
            monkeypatch.setattr(Path, "symlink_to", first)
        plain(self, target)
    monkeypatch.setattr(Path, "symlink_to", first)
    assert tune.link_workspace(tiny) == where and made
    monkeypatch.setattr(Path, "symlink_to", plain)
    assert (where / "embeddings" / "content.npy").resolve() == (tiny / "embeddings" / "content.npy").resolve()
    assert not list(where.rglob(".*"))


# --------------------------------------------------------------------------- bad requests

@pytest.mark.parametrize("text,words", [
    ("", "should hold `method:` entries"),
    ("a: [1", "cannot be read as YAML"),
    ("a: {space: {l2: [1]}}", "should be `script:`"),
    ("a: {script: recommenders.ease, spaces: {l2: [1]}}", "should be `script:`"),
    ("a: {script: recommenders.ease, space: {l2: 3}}", "l2: should be a list of values"),
    ("a: {script: recommenders.ease, space: {l2: {log: [0, 3]}}}", "low above 0"),
    ("a: {script: recommenders.ease, space: {l2: {uniform: [3, 1]}}}", "l2: should be a list of values"),
    ("a: {script: recommenders.ease, space: {l3: [1]}}", "has no flag --l3"),
    ("a: {script: recommenders.ease, seeds: 0}", "seeds is a whole number of at least 1"),
    ("a: {script: recommenders.ease, controls: 0}", "controls is a whole number of at least 1"),
    ("a: {script: recommenders.nosuch, space: {l2: [1]}}", "has no script 'recommenders.nosuch'"),
    ("a: {script: os}", "has no script 'os'"),
    ('"a\\nb": {script: recommenders.ease}', "the name of a method is a word"),
    ("a: {script: recommenders.ease, seeds: true}", "seeds is a whole number of at least 1"),
    ("a: {script: recommenders.ease, space: {l2: {log: [1, .inf]}}}", "l2: should be a list of values"),
    ("a: {script: recommenders.ease, set: {l2: {a: 1}}}", "should be a flag with a value"),
])
def test_a_bad_file_is_one_sentence(tiny, tmp_path, text, words):
    with pytest.raises((UsageError, WorkError), match=words):
        call(tiny, spaces(tmp_path, text))


@pytest.mark.parametrize("text, sentence", [
    ("pop: {script: recommenders.ease, space: [1, 2]}", r"pop: space should be `flag: value` entries, not \[1, 2\]"),
    ("pop: {script: recommenders.popularity, each: words}", "pop: each should be `flag: value` entries, not 'words'"),
    ("pop: {script: 5}", "pop: script is a module's name like recommenders.ease, not 5"),
    ("5: {script: recommenders.popularity}", "the name of a method is a word, not 5; quote it")])
def test_spaces_of_another_form_are_one_sentence(tmp_path, text, sentence):
    (tmp_path / "s.yaml").write_text(text)
    for names in ((), ("pop",)):
        with pytest.raises(UsageError, match=sentence):
            tune_spaces.read_methods(tmp_path / "s.yaml", names)


def test_bad_requests(tiny, tmp_path):
    file = spaces(tmp_path)
    for words, said in ((["nosuch"], "has no method nosuch; it has ease, knn, chance"),
                        (["--metric", "NDCG"], "--metric is NAME@K"), (["--metric", "Fun@3"], "--metric is NAME@K")):
        with pytest.raises(UsageError, match=said):
            call(tiny, file, *words)
    with pytest.raises(UsageError, match="is no file"):
        call(tiny, str(tmp_path / "nosuch.yaml"))
    (tiny / "data" / "val.pqt").unlink()
    with pytest.raises(UsageError, match="has no val part to tune on"):
        call(tiny, file)


def test_another_metric_decides(tmp_path):
    workdir = tiny_workspace(tmp_path / "w", n_users=30)
    call(workdir, spaces(tmp_path), "ease", "--trials", "2", "--metric", "HitRate@3")
    values, users = trials(workdir).value, pd.read_parquet(workdir / "data" / "val.pqt").user_id.nunique()
    assert np.allclose(values * users, (values * users).round()) and values.max() > 0    # a hit or none for each user
    assert "by HitRate@3" in (workdir / "tuning" / "chosen.yaml").read_text()


def test_with_cold_val_a_trial_counts_on_the_items_that_its_method_ranks(tmp_path):
    """ease ranks tracks of train only; KNN on content both, and its figure is the mean over the references."""
    workdir = with_cold_val(tiny_workspace(tmp_path / "w"))
    call(workdir, spaces(tmp_path), "ease", "knn", "--trials", "2", "--embeddings", "content")
    split = dataset.load(workdir / "tuning")
    assert {"val", "cold_val"} <= {*split.parts} and not {"test", "cold_test"} & {*split.parts}
    rows = trials(workdir)
    assert [*rows.method] == ["ease", "ease", "knn", "knn"]
    for row in rows.itertuples():
        means = []
        for part in ("val", "cold_val")[:1 + (row.method == "knn")]:
            figures = pd.read_csv(workdir / "tuning" / "metrics" / f"{row.run}_{part}.csv", index_col=0)
            value = figures["NDCG@10"]["mean"]
            reference = references.reference(split, part, "NDCG@10")
            means.append(value if row.method == "ease" else max(value, reference.floor) / reference.unit)
        assert float(row.value) == pytest.approx(np.mean(means), rel=1e-6) and float(row.conf) > 0
    path = workdir / "tuning" / "runs" / rows.run[3] / "config.json"     # as if it kept its epoch on cold_val
    write_json(path, json.loads(path.read_text()) | {"selected_on": ["cold_val"]})
    call(workdir, spaces(tmp_path), "ease", "knn", "--trials", "2", "--embeddings", "content")
    assert float(trials(workdir).value[3]) == pytest.approx(value, rel=1e-9)
