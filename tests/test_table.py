"""Tables: which runs make a row, intervals by hand, blocks, controls and worth, bold, escapes, the command line."""
import math
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import knn
import table
import train_bert
from evaluation import results
from evaluation.files import write_metrics
from evaluation.results import collect
from harness import runs
from harness.errors import WorkError
from harness.files import write_json, write_parquet
from harness.registry import capability, defaults
from recommenders import chance, popularity
from tests.conftest import ROOT

T = {1: 12.706204736432095, 2: 4.302652729749464, 3: 3.182446305284263}  # t at 97.5 %, by degrees of freedom


def half(values):
    """Half-width of the 95 % interval of the mean, written out."""
    n, mean = len(values), sum(values) / len(values)
    return T[n - 1] * math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1)) / math.sqrt(n)


def make_run(workdir, recommender, embedding, values, users=(1, 2, 3, 4), parts=("test",), status="finished",
             inputs=None, started="2026-01-01", k=2, val=None, manifest=None, **request):
    """A run's manifest and metrics: Recall@k of each user (the same in every part, but for `val`)."""
    request = {"k": 100, "seed": 1, "comment": "", **request}
    name = runs.run_name(recommender, embedding, request, request["seed"])
    parts = [*parts, *(["val"] if val is not None else [])]
    write_json(workdir / "runs" / name / "config.json", {
        "run": name, "status": status, "recommender": recommender, "embedding": embedding, "request": request,
        "inputs": inputs or {}, "started": started, "parts": parts, "dim": 7, **(manifest or {})})
    for part in parts:
        each = np.asarray(val if part == "val" and val is not None else values, float)
        frame = pd.DataFrame({f"Recall@{k}": each}, index=pd.Index(users, name="user_id"))
        write_metrics(workdir / "metrics" / f"{name}_{part}.csv", frame, {f"Coverage@{k}": 0.25})
    return name


def tables(workdir, *words, part="test"):
    """Run table.py; the tidy csv, and the Markdown."""
    table.main(["--workdir", str(workdir), "--k", "2", "--metrics", "Recall", *words])
    folder = workdir / "tables"
    frame = pd.read_csv(folder / f"results_{part}.csv", keep_default_na=False, na_values=[""])
    texts = ["representation", "arguments", "changed", "worth_over", "compared_with", "embedding_sha256", "commit"]
    return frame.astype(dict.fromkeys(texts, object)).fillna(dict.fromkeys(texts, "")), (
        folder / f"{part}.md").read_text()


def line(frame, method, representation="", changed="", shuffled=False, metric="Recall"):
    """The line of the tidy csv of one row and metric."""
    rows = frame[(frame.method == method) & (frame.representation == representation) & (frame.changed == changed)
                 & (frame.shuffled == shuffled) & (frame.metric == metric)]
    assert len(rows) == 1, (method, representation, changed, len(rows))
    return rows.iloc[0]


def lines_of(text):
    """[(method, representation)] of a Markdown table, blocks as ('*block*', '')."""
    return [tuple(c.strip() for c in row.split("|")[1:3]) for row in text.splitlines() if row.startswith("|")][2:]


def row_of(text, method, representation=""):
    """{header: text} of a row of a Markdown table; the first of each header."""
    rows = [[c.strip() for c in row.split("|")[1:-1]] for row in text.splitlines() if row.startswith("|")]
    matching = [row for row in rows[2:] if row[:2] == [method, representation]]
    assert len(matching) == 1, (method, representation, rows)
    return dict(reversed(list(zip(rows[0], matching[0], strict=True))))


# --------------------------------------------------------------------------- figures, controls, worth

@pytest.mark.numeric
def test_intervals_over_users_and_over_seeds_by_hand(tmp_path):
    repeats = [[0.1, 0.2, 0.3, 0.4], [0.5, 0.2, 0.3, 0.4], [0.3, 0.2, 0.3, 0.8]]
    for seed, values in enumerate(repeats):
        make_run(tmp_path, "shallow", "mfcc", values, seed=seed)
    make_run(tmp_path, "shallow", "musicnn", [0, 0, 0, 1])
    numbers, text = tables(tmp_path)
    means = [sum(values) / 4 for values in repeats]
    users = [sum(values) / 3 for values in zip(*repeats, strict=True)]
    row = line(numbers, "Shallow Net", "mfcc")
    assert row["mean"] == pytest.approx(sum(means) / 3) and row.seeds == 3 and row.users == 4
    assert row.half_users == pytest.approx(half(users)) and row.half_seeds == pytest.approx(half(means))
    shown = row_of(text, "Shallow Net", "mfcc")
    assert shown["Recall@2"] == f"**{sum(means) / 3:.4f}** ±{half(users):.4f}"
    assert shown["seeds"] == f"3: ±{half(means):.4f}"
    single = line(numbers, "Shallow Net", "musicnn")
    assert single.half_users == pytest.approx(half([0, 0, 0, 1])) and np.isnan(single.half_seeds)
    assert row_of(text, "Shallow Net", "musicnn")["seeds"] == ""


def test_figures_of_all_users_together_have_no_interval_over_users(tmp_path):
    make_run(tmp_path, "knn", "mfcc", [0, 0, 0, 1])
    text = tables(tmp_path, "--metrics", "Coverage")[1]
    assert row_of(text, "KNN", "mfcc")["Coverage@2"] == "0.2500"


def test_the_k_of_a_column_is_the_k_of_its_figures(tiny):
    knn.main(["--workdir", str(tiny)])
    table.main(["--workdir", str(tiny), "--k", "5", "20", "--metrics", "Recall", "MRR"])
    saved = pd.read_csv(tiny / "metrics/content_cosine_cold_test.csv", index_col=0).loc["mean"]
    numbers = pd.read_csv(tiny / "tables/results_cold_test.csv")
    text = (tiny / "tables/cold_test.md").read_text()
    columns = [c.strip() for c in text.splitlines()[2].split("|") if "@" in c]
    assert columns == ["Recall@5", "MRR@5", "Recall@20", "MRR@20"]
    for column in columns:
        metric, k = column.split("@")
        (mean,) = numbers[(numbers.representation == "content") & (numbers.metric == metric)
                          & (numbers.k == int(k))]["mean"]
        assert mean == pytest.approx(saved[column], abs=1e-15)
        assert f"{saved[column]:.4f}" in row_of(text, "KNN", "content")[column]
    assert saved["Recall@5"] != saved["Recall@20"]


def test_metrics_may_have_their_own_list_lengths(tiny):
    knn.main(["--workdir", str(tiny)])
    for words, expected in ((["NDCG@10", "Recall@20"], ["NDCG@10", "Recall@20"]),
                            (["NDCG@10", "Recall", "--k", "5", "20"], ["NDCG@10", "Recall@5", "Recall@20"])):
        table.main(["--workdir", str(tiny), "--parts", "test", "--metrics", *words])
        header = (tiny / "tables/test.md").read_text().splitlines()[2]
        assert [c.strip() for c in header.split("|") if "@" in c] == expected


# --------------------------------------------------------------------------- rows and blocks

def test_only_seeds_are_averaged_and_other_requests_have_rows_of_their_own(tmp_path):
    for name in ("mfcc", "musicnn"):
        make_run(tmp_path, "shallow", name, [0.1] * 4, epochs=30)
    make_run(tmp_path, "shallow", "mfcc", [0.9] * 4, epochs=30, neg_samples=50)
    make_run(tmp_path, "shallow", "mfcc", [0.7] * 4, epochs=30, comment="long_walk")
    make_run(tmp_path, "shallow", "mert", [0.3] * 4, epochs=5)
    numbers, text = tables(tmp_path)
    assert dict(zip(zip(numbers.representation, numbers.changed, strict=True), numbers["mean"], strict=True)) == {
        ("mfcc", ""): pytest.approx(0.1), ("musicnn", ""): pytest.approx(0.1), ("mert", "epochs 5"): pytest.approx(0.3),
        ("mfcc", "neg samples 50"): pytest.approx(0.9), ("mfcc", "long_walk"): pytest.approx(0.7)}
    assert lines_of(text)[1:3] == [("Shallow Net", "mfcc (neg samples 50)"), ("Shallow Net", "mfcc (long_walk)")]
    assert ("Shallow Net", "mert†") in lines_of(text) and "(Shallow Net mert: epochs 5)" in text
    assert ("Shallow Net", "mfcc") in lines_of(text)


def test_the_plain_row_among_equals_is_the_scripts_default(tmp_path):
    make_run(tmp_path, "knn", "mfcc", [0.9] * 4, center=True, weight="binary", missing="fail")
    make_run(tmp_path, "knn", "mfcc", [0.1] * 4, center=False, weight="binary", missing="fail")
    numbers, text = tables(tmp_path)
    assert line(numbers, "KNN", "mfcc")["mean"] == pytest.approx(0.1)
    other = line(numbers, "KNN", "mfcc", changed="center")
    assert other["mean"] == pytest.approx(0.9) and other.arguments == "center"
    assert lines_of(text)[1:] == [("KNN", "mfcc (center)"), ("KNN", "mfcc")]


def test_values_of_a_configuration_count_one_by_one(tmp_path):
    config = train_bert.settings(train_bert.parse([]))
    make_run(tmp_path, "bert4rec", "mfcc", [0.1] * 4, config=config | {"learning_rate": 0.003, "positions": "none"})
    assert line(tables(tmp_path)[0], "BERT4Rec", "mfcc").arguments == (
        "positions none, learning rate 0.003, stop on loss")   # which a request of earlier versions does not name


# --------------------------------------------------------------------------- which runs

def test_runs_without_the_part_or_the_list_length(tmp_path):
    both = {"parts": ("test", "cold_test")}
    make_run(tmp_path, "knn", "mfcc", [0.1] * 4, **both)
    make_run(tmp_path, "shallow", "random", [0.1] * 4, epochs=3)
    make_run(tmp_path, "shallow", "musicnn", [0.1] * 4, status="running", parts=(), epochs=3)
    make_run(tmp_path, "shallow", "mert", [0.1] * 4, k=9, epochs=3, **both)
    make_run(tmp_path, "popularity", None, [0.1] * 4)
    text = tables(tmp_path)[1]
    assert row_of(text, "Shallow Net", "mert")["Recall@2"] == "no @2" and "musicnn" not in text
    cold = tables(tmp_path, part="cold_test")[1]
    assert "- cannot rank cold items: Popularity, Shallow Net ID embeddings\n" in cold
    assert "Popularity" not in "".join(map(str, lines_of(cold)))


def test_runs_on_older_inputs_are_counted_and_not_shown(tmp_path, capsys):
    make_run(tmp_path, "knn", "mfcc", [0.9] * 4, inputs={"data/train.pqt": "old"}, started="2026-01-01")
    make_run(tmp_path, "knn", "musicnn", [0.2] * 4, inputs={"data/train.pqt": "new"}, started="2026-01-02")
    make_run(tmp_path, "knn", "mert", [0.2] * 4, status="running", inputs={"data/train.pqt": "new"})
    text = tables(tmp_path)[1]
    assert lines_of(text) == [("*with content*", ""), ("KNN", "musicnn")]
    assert capsys.readouterr().err.splitlines()[-1] == (
        "left out: 1 of another split or embedding, 1 unfinished or failed; python table.py --remove-stale lists them")


def test_stale_runs_are_listed_and_removed_only_when_confirmed(tmp_path, capsys):
    stale = make_run(tmp_path, "knn", "mfcc", [0.9] * 4, inputs={"data/train.pqt": "old"}, started="2026-01-01")
    kept = make_run(tmp_path, "knn", "mert", [0.2] * 4, inputs={"data/train.pqt": "new"}, started="2026-01-02")
    broken = make_run(tmp_path, "shallow", "mert", [0.2] * 4, status="running", inputs={"data/train.pqt": "new"})
    write_json(tmp_path / "runs/notes/config.json", {"what": "else"})
    every = sorted(p for p in tmp_path.rglob("*") if p.is_file() and p.name != ".lock")
    table.main(["--workdir", str(tmp_path), "--remove-stale"])
    said = capsys.readouterr().out
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file() and p.name != ".lock") == every
    assert f"would remove {stale} (data/train.pqt changed since)" in said and f"would remove {broken} (unf" in said
    assert said.splitlines()[-1].startswith("2 runs") and said.endswith("; --yes deletes them\n")
    table.main(["--workdir", str(tmp_path), "--remove-stale", "--yes"])
    assert f"removed {stale}" in capsys.readouterr().out
    after = sorted(p for p in tmp_path.rglob("*") if p.is_file() and p.name != ".lock")
    assert after == [p for p in every if stale not in str(p) and broken not in str(p)]
    assert any(kept in str(p) for p in after) and (tmp_path / "runs/notes/config.json").exists()
    table.main(["--workdir", str(tmp_path), "--remove-stale", "--yes"])
    assert "no stale or unfinished runs" in capsys.readouterr().out


def test_when_only_runs_of_an_earlier_split_are_left_they_are_named_and_not_shown(tiny, capsys):
    knn.main(["content", "--workdir", str(tiny), "--k", "5"])
    (name, _), = runs.find_runs(tiny)
    chance.main(["--workdir", str(tiny), "--k", "5"])
    table.main(["--workdir", str(tiny), "--k", "5"])
    test = pd.read_parquet(tiny / "data/test.pqt")
    write_parquet(tiny / "data/test.pqt", test.iloc[1:])
    shutil.rmtree(tiny / "tables")
    with pytest.raises(WorkError, match=rf"none of the 2 requests in .*{name} \(data/test.pqt changed since\).*"
                                        "; run them again"):
        table.main(["--workdir", str(tiny), "--k", "5"])
    assert not (tiny / "tables").exists()
    chance.main(["--workdir", str(tiny), "--k", "5"])
    capsys.readouterr()
    table.main(["--workdir", str(tiny), "--k", "5"])
    said = capsys.readouterr()
    assert "left out: 1 of another split or embedding; python table.py --remove-stale" in said.err
    assert set(lines_of(said.out)) >= {("*controls*", ""), ("Chance", "")} and "KNN" not in said.out


def test_a_part_that_the_split_has_lost_or_gained_makes_it_another(tiny):
    knn.main(["content", "--workdir", str(tiny), "--k", "5"])
    val = (tiny / "data/val.pqt").read_bytes()
    (tiny / "data/val.pqt").unlink()
    assert collect(tiny)[1][0].reason == "data/val.pqt changed since"
    (tiny / "data/val.pqt").write_bytes(val)
    assert not collect(tiny)[1]
    shutil.rmtree(tiny / "data")           # metrics alone were brought here: there is nothing to compare with
    assert not collect(tiny)[1]


def test_a_run_of_the_present_split_counts_although_a_later_one_was_made_on_another(tiny):
    knn.main(["content", "--workdir", str(tiny), "--k", "5"])
    first = (tiny / "data/test.pqt").read_bytes()
    write_parquet(tiny / "data/test.pqt", pd.read_parquet(tiny / "data/test.pqt").iloc[1:])
    chance.main(["--workdir", str(tiny), "--k", "5"])
    (tiny / "data/test.pqt").write_bytes(first)
    cells, left = collect(tiny)
    assert [cell.recommender for cell in cells if cell.runs] == ["knn"]
    assert [(run.name[:6], run.reason, run.kind) for run in left] == [
        ("chance", "data/test.pqt changed since", "stale")]


def test_what_a_run_measured_itself_is_joined_to_that_run_alone(tmp_path):
    """metrics/x_cold_test_points.csv is of the part test of x_cold, which lists it, not of the cold test of x."""
    for name, embedding, part in (("x", "mfcc", "cold_test"), ("x_cold", "mert", "test")):
        frame = pd.DataFrame({"Recall@2": [0.1, 0.3]}, index=pd.Index([1, 2], name="user_id"))
        write_metrics(tmp_path / "metrics" / f"{name}_{part}.csv", frame)
        write_json(tmp_path / "runs" / name / "config.json", {
            "status": "finished", "recommender": "dtnmr", "embedding": embedding, "request": {}, "parts": [part],
            "outputs": ["metrics/x_cold_test_points.csv"] if name == "x_cold" else []})
    points = pd.DataFrame({"PointAccuracy@2": [0.5, np.nan, 1]}, index=pd.Index([1, 2, 9], name="user_id"))
    write_metrics(tmp_path / "metrics" / "x_cold_test_points.csv", points)
    cells = {cell.runs[0][0]: cell for cell in collect(tmp_path)[0]}
    columns = ["PointAccuracy@2", "Recall@2"]
    joined = results.Values(tmp_path, "test", columns).of(cells["x_cold"])
    assert joined["PointAccuracy@2"].mean == 0.5 and joined["Recall@2"].mean == pytest.approx(0.2)   # user 9 is no user
    assert list(results.Values(tmp_path, "cold_test", columns).of(cells["x"])) == ["Recall@2"]


def test_runs_record_their_departures_and_the_table_asks_no_script(tiny, monkeypatch):
    knn.main(["content", "--center", "--workdir", str(tiny), "--k", "5"])
    ((_, config),) = runs.find_runs(tiny)
    assert config["departures"] == {"embedding": "content", "center": True, "k": 5}
    for function in ("defaults", "recommenders"):
        monkeypatch.setattr(results.registry, function, lambda *_: pytest.fail("a script was read"))
    table.main(["--workdir", str(tiny), "--k", "5"])
    assert set(pd.read_csv(tiny / "tables/results_test.csv").arguments) == {"k 5, center"}


def test_departures_are_recorded_when_a_run_starts_and_for_old_manifests_taken_from_the_script(tmp_path):
    request = {"seed": 1, "comment": "", "k": 20, "by": "users", "shrink": 3}
    with pytest.raises(KeyboardInterrupt), runs.Run(tmp_path, "popularity", request):
        raise KeyboardInterrupt                             # its manifest has them all the same
    ((_, config),) = runs.find_runs(tmp_path)
    assert config["status"] == "running"
    assert config["departures"] == {"seed": 1, "k": 20, "shrink": 3}
    cell = results.Cell("popularity", None, False, {"k": 20, "by": "users"})
    assert results.unlike_defaults(cell) == {"k": 20}
    with runs.Run(tmp_path, "somebody elses", request):
        pass
    assert [c.get("departures") for _, c in runs.find_runs(tmp_path)][1] is None


def test_unfinished_repeats_do_not_count(tmp_path, capsys):
    make_run(tmp_path, "shallow", "mfcc", [0.2] * 4, seed=1)
    make_run(tmp_path, "shallow", "mfcc", [0.9] * 4, seed=2, status="running")
    numbers, _ = tables(tmp_path)
    assert line(numbers, "Shallow Net", "mfcc")["mean"] == pytest.approx(0.2)
    assert "left out: 1 unfinished or failed" in capsys.readouterr().err


def test_a_folder_that_is_no_run_of_a_recommender_is_counted(tmp_path, capsys):
    make_run(tmp_path, "knn", "mfcc", [0.2] * 4)
    write_json(tmp_path / "runs/notes/config.json", {"what": "else"})
    tables(tmp_path)
    assert "left out: 1 without a recommender in config.json" in capsys.readouterr().err


def test_data_without_times_say_why_a_method_is_absent(tmp_path, monkeypatch):
    make_run(tmp_path, "knn", "mfcc", [0.2] * 4)
    assert "BERT4Rec" not in tables(tmp_path)[1]
    write_json(tmp_path / "dataset.json", {"time": "none"})
    assert "- BERT4Rec needs an order, and this data set has no times" in tables(tmp_path)[1]


def test_other_users_in_a_row_are_refused(tmp_path):
    make_run(tmp_path, "knn", "mfcc", [0.1] * 4)
    name = make_run(tmp_path, "knn", "musicnn", [0.9] * 3, users=(1, 2, 5))
    with pytest.raises(WorkError, match=f"{name} was evaluated on 3 users and .* on 4, 2 of them the same"):
        tables(tmp_path)
    assert not (tmp_path / "tables").exists()


def test_a_lost_or_broken_file_is_one_sentence(tmp_path):
    name = make_run(tmp_path, "knn", "mfcc", [0.1] * 4)
    path = tmp_path / "metrics" / f"{name}_test.pqt"
    path.write_bytes(b"no parquet")
    with pytest.raises(WorkError, match="cannot be read .*there are no lists of it .*archive restore NAME"):
        tables(tmp_path)
    (tmp_path / "preds").mkdir()
    (tmp_path / "preds" / f"{name}_test.pqt").touch()
    with pytest.raises(WorkError, match=f"cannot be read .*python metrics.py {name} makes them again"):
        tables(tmp_path)
    path.unlink()
    with pytest.raises(WorkError, match=f"is gone; python metrics.py {name}"):
        tables(tmp_path)


# --------------------------------------------------------------------------- published tables, escapes, scripts

def test_published_tables_have_a_row_per_backend_with_its_size(tmp_path):
    make_run(tmp_path, "knn", "mfcc", [0.1, 0.2, 0.3, 0.4], parts=("test", "cold_test"))
    make_run(tmp_path, "knn", "mfcc", [0.1] * 4, shuffle=True)
    for seed in (1, 2):
        make_run(tmp_path, "bert4rec", "mfcc", [seed / 10] * 4, seed=seed)
    tables(tmp_path)
    assert pd.read_csv(tmp_path / "tables/cosine.csv").to_dict("records") == [
        {"model": "mfcc", "size": 7, "Recall@2": pytest.approx(1 / 4)}]
    assert pd.read_csv(tmp_path / "tables/bert.csv")["Recall@2"].tolist() == pytest.approx([(0.1 + 0.2) / 2])
    assert (tmp_path / "tables/cosine_cold_test.csv").exists() and not (tmp_path / "tables/shallow.csv").exists()
    for path in (tmp_path / "runs").glob("bert4rec*"):
        shutil.rmtree(path)
    tables(tmp_path)
    assert not (tmp_path / "tables/bert.csv").exists() and (tmp_path / "tables/cosine.csv").exists()


def test_the_wide_csv_of_an_earlier_version_goes_and_anybody_elses_stays(tmp_path, capsys):
    make_run(tmp_path, "knn", "mfcc", [0.1] * 4)
    (tmp_path / "tables").mkdir()
    wide = tmp_path / "tables/test.csv"
    wide.write_text("representation,KNN Recall@2\nmfcc,0.9\n")
    tables(tmp_path)
    assert not wide.exists() and "of an earlier version removed; results_test.csv" in capsys.readouterr().err
    wide.write_text("mine,1\n")
    tables(tmp_path)
    assert wide.read_text() == "mine,1\n"


def test_capabilities_and_defaults_come_from_the_scripts(tmp_path):
    assert capability("knn") == (("embedding",), True) and capability("popularity") == ((), False)
    assert capability("shallow")[0] == ("embedding",) and capability("somebody elses") == ((), True)
    assert defaults("knn")["weight"] == "binary" and defaults("popularity")["by"] == "users"
    assert defaults("somebody elses") == {}


def test_real_runs_through_the_command_line_from_metrics_alone(tiny):
    knn.main(["--workdir", str(tiny)])
    for seed in ("1", "2"):
        knn.main(["content", "--shuffle", "--seed", seed, "--workdir", str(tiny)])
        chance.main(["--seed", seed, "--workdir", str(tiny)])
    popularity.main(["--workdir", str(tiny)])
    for folder in ("data", "preds", "embeddings"):
        shutil.rmtree(tiny / folder)
    done = cli("--workdir", tiny, "--k", 10)
    assert done.returncode == 0, done.stderr
    saved = [(tiny / "tables" / f"{part}.md").read_text() for part in ("test", "cold_test")]
    assert done.stdout.startswith("\n".join(saved) + "\n" + f"written to {tiny / 'tables'}: test.md test.tex "
                                  "results_test.csv cosine.csv cold_test.md") and done.stderr == ""
    numbers = pd.read_csv(tiny / "tables/results_test.csv")
    assert set(numbers.method) == {"Chance", "Popularity", "KNN"} and len(numbers) == 5 * 3
    control = numbers[numbers.shuffled & (numbers.metric == "NDCG")].iloc[0]
    saved = [pd.read_csv(p, index_col=0).loc["mean", "NDCG@10"] for p in (tiny / "metrics").glob("*shuffled*_test.csv")
             if "cold" not in p.name]
    assert len(saved) == 2 and control["mean"] == pytest.approx(sum(saved) / 2)
    assert control.half_seeds == pytest.approx(half(saved))
    assert len(collect(tiny)[0]) == 5


def cli(*words):
    return subprocess.run([sys.executable, str(ROOT / "table.py"), *map(str, words)], text=True, capture_output=True,
                          timeout=120)


@pytest.mark.parametrize(("words", "status", "sentence"), [
    (["--workdir", "{empty}"], 2, "no runs in"),
    (["--workdir", "{empty}/nowhere"], 2, "is not a folder"),
    (["--workdir", "{w}", "--parts", "cold_test"], 1, "none of the 1 requests in"),
    (["--workdir", "{w}", "--k", "7"], 1, "python metrics.py --k 7 --workdir "),
    (["--workdir", "{w}", "--metrics", "SubsetAccuracy@5"], 1, "; python metrics.py --subset-size 5 --workdir "),
    (["--workdir", "{w}", "--metrics", "ColdShare@2"], 1, "ColdShare is only there in all_test"),
    (["--workdir", "{w}", "--metrics", "RepeatRecall@2"], 1, "only there where seen tracks are candidates again"),
    (["--workdir", "{w}", "--k", "0"], 2, "whole number of at least 1"),
    (["--workdir", "{w}", "--metrics", "Recal"], 2, "invalid choice: 'Recal'"),
    (["--workdir", "{w}", "--metrics", "Recall@0"], 2, "whole number of at least 1"),
    (["--workdir", "{w}", "--yes"], 2, "use it with --remove-stale"),
    (["--workdir", "{w}", "--remove-stale", "--by", "user-age"], 2, "makes no table; leave out --by"),
    (["--workdir", "{w}", "--remove-stale", "--metrics", "NDCG@10"], 2, "makes no table; leave out --metrics"),
    (["--workdir", "{w}", "--correction", "none"], 2, "invalid choice: 'none'"),
    (["--workdir", "{w}", "stray"], 2, "unrecognized arguments: stray"),
])
def test_bad_input_is_one_sentence(tmp_path, words, status, sentence):
    (tmp_path / "empty").mkdir()
    make_run(tmp_path / "w", "knn", "mfcc", [0.1] * 4)
    done = cli(*(word.format(empty=tmp_path / "empty", w=tmp_path / "w") for word in words))
    assert (done.returncode, done.stderr.count("\n")) == (status, 1), done.stderr
    assert sentence in done.stderr and not (tmp_path / "w/tables").exists()
