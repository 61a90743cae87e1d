"""Tables: which runs make a figure, both intervals by hand, reasons, bold, escapes, and the command line."""
import math
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import knn
import table
import train_bert
from evaluation import render, results
from evaluation.files import write_metrics
from evaluation.render import Slot, Table
from evaluation.results import Figure, collect
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
             inputs=None, started="2026-01-01", k=2, **request):
    """A run's manifest and metrics: Recall@k of each user (the same in every part)."""
    request = {"k": 100, "seed": 1, "comment": "", **request}
    name = runs.run_name(recommender, embedding, request, request["seed"])
    write_json(workdir / "runs" / name / "config.json", {
        "run": name, "status": status, "recommender": recommender, "embedding": embedding, "request": request,
        "inputs": inputs or {}, "started": started, "parts": list(parts), "dim": 7})
    frame = pd.DataFrame({f"Recall@{k}": np.asarray(values, float)}, index=pd.Index(users, name="user_id"))
    for part in parts:
        write_metrics(workdir / "metrics" / f"{name}_{part}.csv", frame, {f"Coverage@{k}": 0.25})
    return name


def tables(workdir, *words, part="test"):
    """Run table.py; the combined csv by representation, and the Markdown."""
    table.main(["--workdir", str(workdir), "--k", "2", "--metrics", "Recall", *words])
    folder = workdir / "tables"
    return pd.read_csv(folder / f"{part}.csv").set_index("representation"), (folder / f"{part}.md").read_text()


def row_of(text, label, panel=0):
    """Cells of a row of a Markdown panel."""
    rows = [line for line in text.splitlines() if re.match(rf"\| {re.escape(label)} +\|", line)]
    return [cell.strip() for cell in rows[panel].strip("|").split("|")][1:]


# --------------------------------------------------------------------------- figures

def test_intervals_over_users_and_over_seeds_by_hand(tmp_path):
    repeats = [[0.1, 0.2, 0.3, 0.4], [0.5, 0.2, 0.3, 0.4], [0.3, 0.2, 0.3, 0.8]]
    for seed, values in enumerate(repeats):
        make_run(tmp_path, "shallow", "mfcc", values, seed=seed)
    make_run(tmp_path, "shallow", "musicnn", [0, 0, 0, 1])
    numbers, text = tables(tmp_path)
    means = [sum(values) / 4 for values in repeats]
    users = [sum(values) / 3 for values in zip(*repeats, strict=True)]
    row = numbers.loc["mfcc"]
    assert row["Shallow Net Recall@2"] == pytest.approx(sum(means) / 3)
    assert row["Shallow Net Recall@2 users"] == pytest.approx(half(users))
    assert row["Shallow Net Recall@2 seeds"] == pytest.approx(half(means)) and row["Shallow Net repeats"] == 3
    assert row_of(text, "mfcc") == [f"**{sum(means) / 3:.4f}** ±{half(users):.4f}", f"±{half(means):.4f} (3)"]
    single = numbers.loc["musicnn"]
    assert single["Shallow Net Recall@2 users"] == pytest.approx(half([0, 0, 0, 1]))
    assert np.isnan(single["Shallow Net Recall@2 seeds"]) and row_of(text, "musicnn")[1] == ""


@pytest.mark.parametrize("shuffles", [[True, True, True], [0, 1, 2]])
def test_shuffled_rows_are_over_permutations(tmp_path, shuffles):
    """One permutation is one ranking for everybody: its users are no independent sample, so no ± of users."""
    repeats = [[0.0, 0.1, 0.1, 0.2], [0.3, 0.3, 0.2, 0.4], [0.1, 0.0, 0.0, 0.1]]
    for seed, values in enumerate(repeats):
        make_run(tmp_path, "knn", "mfcc", values, shuffle=shuffles[seed], seed=seed)
    make_run(tmp_path, "knn", "mfcc", [0, 1, 0, 1], shuffle=False)
    numbers, text = tables(tmp_path)
    means = [0.4 / 4, 1.2 / 4, 0.2 / 4]
    assert row_of(text, "shuffled mfcc") == [f"{sum(means) / 3:.4f}", f"±{half(means):.4f} (3)"]
    assert np.isnan(numbers.loc["shuffled mfcc", "KNN Recall@2 users"])
    assert numbers.loc["mfcc", "KNN Recall@2"] == 0.5 and numbers.loc["mfcc", "KNN repeats"] == 1


def test_one_permutation_is_called_one(tmp_path):
    make_run(tmp_path, "knn", "mfcc", [0, 0, 0, 1], shuffle=True)
    make_run(tmp_path, "chance", None, [0, 0, 0, 1], seed=1)
    make_run(tmp_path, "chance", None, [0, 0, 1, 1], seed=2)
    assert row_of(tables(tmp_path)[1], "shuffled mfcc") == ["0.2500", "(1)"]


def test_figures_of_all_users_together_have_no_interval_over_users(tmp_path):
    make_run(tmp_path, "knn", "mfcc", [0, 0, 0, 1])
    text = tables(tmp_path, "--metrics", "Coverage")[1]
    assert row_of(text, "mfcc") == ["0.2500"]


def test_the_k_of_a_panel_is_the_k_of_its_figures(tiny):
    knn.main(["--workdir", str(tiny)])
    table.main(["--workdir", str(tiny), "--k", "5", "20", "--metrics", "Recall", "MRR"])
    saved = pd.read_csv(tiny / "metrics/content_cosine_cold_test.csv", index_col=0).loc["mean"]
    numbers = pd.read_csv(tiny / "tables/cold_test.csv").set_index("representation").loc["content"]
    text = (tiny / "tables/cold_test.md").read_text()
    panels = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|") and "KNN" in line]
    assert panels == ["Recall@5", "MRR@5", "Recall@20", "MRR@20"]
    for panel, column in enumerate(panels):
        assert numbers[f"KNN {column}"] == pytest.approx(saved[column], abs=1e-15)
        assert f"{saved[column]:.4f}" in row_of(text, "content", panel)[0]
    assert saved["Recall@5"] != saved["Recall@20"]


# --------------------------------------------------------------------------- rows

def test_only_seeds_are_averaged_and_other_requests_have_rows_of_their_own(tmp_path):
    for name in ("mfcc", "musicnn"):
        make_run(tmp_path, "shallow", name, [0.1] * 4, epochs=30)
    make_run(tmp_path, "shallow", "mfcc", [0.9] * 4, epochs=30, neg_samples=50)
    make_run(tmp_path, "shallow", "mfcc", [0.7] * 4, epochs=30, comment="long_walk")
    make_run(tmp_path, "shallow", "mert", [0.3] * 4, epochs=5)
    numbers, text = tables(tmp_path)
    assert numbers["Shallow Net Recall@2"].to_dict() == pytest.approx({
        "mfcc": 0.1, "musicnn": 0.1, "mert": 0.3, "mfcc (Shallow Net: neg samples 50)": 0.9,
        "mfcc (Shallow Net: long_walk)": 0.7})
    assert row_of(text, "mert")[0].endswith("(a)") and "- (a) here with epochs 5" in text
    assert "(a)" not in row_of(text, "mfcc")[0]


def test_the_plain_row_among_equals_is_the_scripts_default(tmp_path):
    make_run(tmp_path, "knn", "mfcc", [0.9] * 4, center=True, weight="binary", missing="fail")
    make_run(tmp_path, "knn", "mfcc", [0.1] * 4, center=False, weight="binary", missing="fail")
    numbers, text = tables(tmp_path)
    assert numbers["KNN Recall@2"].to_dict() == pytest.approx({"mfcc": 0.1, "mfcc (KNN: center)": 0.9})
    assert "KNN was run with" not in text


def test_values_of_a_configuration_count_one_by_one(tmp_path):
    config = train_bert.settings(train_bert.parse([]))
    make_run(tmp_path, "bert4rec", "mfcc", [0.1] * 4, config=config | {"learning_rate": 0.003, "positions": "none"})
    assert "- BERT4Rec was run with positions none, learning rate 0.003\n" in tables(tmp_path)[1]


def test_rows_stand_between_their_controls(tmp_path):
    for name in ("oracle", "random", "mfcc", "a_b"):
        make_run(tmp_path, "shallow", name, [0.1] * 4)
    make_run(tmp_path, "shallow", "mfcc", [0.1] * 4, shuffle=True)
    for name in ("popularity", "ease", "chance"):
        make_run(tmp_path, name, None, [0.1] * 4)
    make_run(tmp_path, "sasrec", None, [0.1] * 4)
    make_run(tmp_path, "sasrec", "mfcc", [0.1] * 4)
    numbers, text = tables(tmp_path)
    assert numbers.index.tolist() == ["chance", "popularity", "ease", "none", "ID embeddings", "a_b", "mfcc",
                                      "shuffled mfcc", "oracle"]
    assert row_of(text, "chance") == ["0.1000 ±0.0000"] * 2, "the same under each recommender"
    assert row_of(text, "none") == ["", "0.1000 ±0.0000"]


def test_without_representations_there_is_one_column(tmp_path):
    make_run(tmp_path, "chance", None, [0.9] * 4)
    make_run(tmp_path, "ease", None, [0.3] * 4)
    make_run(tmp_path, "popularity", None, [0.2] * 4)
    numbers, text = tables(tmp_path)
    assert numbers["value Recall@2"].to_dict() == pytest.approx({"chance": 0.9, "popularity": 0.2, "ease": 0.3})
    assert row_of(text, "ease")[0].startswith("**") and "**" not in row_of(text, "chance")[0]


def test_the_best_is_bold_and_controls_are_no_candidates(tmp_path):
    for name, value in (("mfcc", 0.2), ("musicnn", 0.3), ("oracle", 0.9)):
        make_run(tmp_path, "knn", name, [value] * 4)
    make_run(tmp_path, "knn", "mfcc", [0.5] * 4, shuffle=True)
    make_run(tmp_path, "popularity", None, [0.8] * 4)
    make_run(tmp_path, "shallow", "mfcc", [0.1] * 4)
    text = tables(tmp_path)[1]
    assert [row for row in text.splitlines() if "**" in row] == [f"| musicnn{' ' * 6} | **0.3000** ±0.0000 | no run"
                                                                 f"{' ' * 8} |"], "one candidate is no contest"
    latex = (tmp_path / "tables/test.tex").read_text()
    assert latex.count(r"\textbf{") == 1 and r"musicnn & \textbf{0.3000} $\pm$0.0000 & no run \\" in latex
    slots = [Slot({"Gini@2": Figure(v, 0, 0, 1)}, candidate=True) for v in (0.1, 0.2)]
    assert "**" not in render.markdown(Table("t", ["KNN"], ["Gini@2"], [("a", slots[:1]), ("b", slots[1:])], []))


# --------------------------------------------------------------------------- reasons

def test_missing_cells_say_why(tmp_path):
    make_run(tmp_path, "knn", "mfcc", [0.1] * 4, parts=("test", "cold_test"))
    make_run(tmp_path, "shallow", "mfcc", [0.1] * 4, parts=("test", "cold_test"), epochs=3)
    make_run(tmp_path, "shallow", "random", [0.1] * 4, epochs=3)
    make_run(tmp_path, "shallow", "musicnn", [0.1] * 4, status="running", parts=(), epochs=3)
    make_run(tmp_path, "shallow", "mert", [0.1] * 4, k=9, parts=("test", "cold_test"), epochs=3)
    make_run(tmp_path, "popularity", None, [0.1] * 4)
    numbers, text = tables(tmp_path)
    assert row_of(text, "ID embeddings") == ["needs an embedding", "0.1000 ±0.0000"]
    assert row_of(text, "musicnn") == ["no run", "unfinished"]
    assert row_of(text, "mert") == ["no run", "no @2"]
    assert numbers.loc["musicnn", "missing"] == "KNN: no run; Shallow Net: unfinished"
    cold = tables(tmp_path, part="cold_test")[1]
    assert row_of(cold, "ID embeddings") == row_of(cold, "popularity") == ["cannot rank cold items"] * 2


def test_runs_on_older_inputs_are_left_out_and_named(tmp_path, capsys):
    make_run(tmp_path, "knn", "mfcc", [0.9] * 4, inputs={"data/train.pqt": "old"}, started="2026-01-01")
    make_run(tmp_path, "knn", "musicnn", [0.2] * 4, inputs={"data/train.pqt": "new"}, started="2026-01-02")
    text = tables(tmp_path)[1]
    assert row_of(text, "mfcc") == ["data/train.pqt changed since"]
    assert re.fullmatch(r"left out: knn_mfcc_s1_\w+ \(data/train.pqt changed since\)\n", capsys.readouterr().err)


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
    assert said.err == f"left out: {name} (data/test.pqt changed since)\n"
    assert row_of(said.out, "content") == ["data/test.pqt changed since"] and row_of(said.out, "chance")[0][0] == "0"


def test_a_part_that_the_split_has_lost_or_gained_makes_it_another(tiny):
    knn.main(["content", "--workdir", str(tiny), "--k", "5"])
    val = (tiny / "data/val.pqt").read_bytes()
    (tiny / "data/val.pqt").unlink()
    assert collect(tiny)[1][0][1] == "data/val.pqt changed since"
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
    assert [(name[:6], why) for name, why in left] == [("chance", "data/test.pqt changed since")]


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
    assert "- KNN was run with k 5, center\n" in (tiny / "tables/test.md").read_text()


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
    assert numbers.loc["mfcc", "Shallow Net Recall@2"] == pytest.approx(0.2)
    assert "shallow_mfcc_s2" in capsys.readouterr().err


def test_a_folder_that_is_no_run_of_a_recommender_is_named(tmp_path, capsys):
    make_run(tmp_path, "knn", "mfcc", [0.2] * 4)
    write_json(tmp_path / "runs/notes/config.json", {"what": "else"})
    tables(tmp_path)
    assert "left out: notes (its config.json names no recommender)" in capsys.readouterr().err


def test_data_without_times_say_why_a_column_is_absent(tmp_path, monkeypatch):
    make_run(tmp_path, "knn", "mfcc", [0.2] * 4)
    monkeypatch.setattr(table, "capability", lambda name: (("order",) if name == "bert4rec" else (), True))
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


def test_nothing_in_a_name_or_comment_breaks_a_table(tmp_path):
    nasty = "a|b *c* _d_ \\x & 50% $y$ #1 {z} ~^ <i>\n\\end{tabular} `q`"
    make_run(tmp_path, "knn", "muq_msd", [0.1] * 4)
    make_run(tmp_path, "knn", "muq_msd", [0.2] * 4, comment=nasty)
    text = tables(tmp_path)[1]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("|")} == {3}
    assert r"a\|b \*c\* \_d\_ \\x" in text and "| muq_msd " in text and r"\<i> \\end{tabular} \`q\`" in text
    latex = (tmp_path / "tables/test.tex").read_text().splitlines()
    rows = [line for line in latex if not line.startswith("%")]
    assert sum(line == r"\end{tabular}" for line in rows) == 1
    assert any(r"muq\_msd (KNN: a|b *c* \_d\_ \textbackslash{}x \& 50\% \$y\$ \#1 \{z\} \textasciitilde{}"
               r"\textasciicircum{} $<$i$>$ \textbackslash{}end\{tabular\}" in line for line in rows)


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
    assert done.stdout == "\n".join(saved) + "\n"
    numbers = pd.read_csv(tiny / "tables/test.csv").set_index("representation")
    assert numbers.index.tolist() == ["chance", "popularity", "content", "noise", "shuffled content"]
    saved = [pd.read_csv(p, index_col=0).loc["mean", "NDCG@10"] for p in (tiny / "metrics").glob("*shuffle*_test.csv")
             if "cold" not in p.name]
    assert numbers.loc["shuffled content", "KNN NDCG@10"] == pytest.approx(sum(saved) / 2)
    assert numbers.loc["shuffled content", "KNN NDCG@10 seeds"] == pytest.approx(half(saved))
    assert len(collect(tiny)[0]) == 5


def cli(*words):
    return subprocess.run([sys.executable, str(ROOT / "table.py"), *map(str, words)], text=True, capture_output=True,
                          timeout=120)


@pytest.mark.parametrize(("words", "status", "sentence"), [
    (["--workdir", "{empty}"], 2, "no runs in"),
    (["--workdir", "{empty}/nowhere"], 2, "is not a folder"),
    (["--workdir", "{w}", "--parts", "cold_test"], 1, "none of the 1 requests in"),
    (["--workdir", "{w}", "--k", "7"], 1, "python metrics.py --k 2 7 evaluates them"),
    (["--workdir", "{w}", "--k", "0"], 2, "whole number of at least 1"),
    (["--workdir", "{w}", "--metrics", "Recal"], 2, "invalid choice: 'Recal'"),
    (["--workdir", "{w}", "stray"], 2, "unrecognized arguments: stray"),
])
def test_bad_input_is_one_sentence(tmp_path, words, status, sentence):
    (tmp_path / "empty").mkdir()
    make_run(tmp_path / "w", "knn", "mfcc", [0.1] * 4)
    done = cli(*(word.format(empty=tmp_path / "empty", w=tmp_path / "w") for word in words))
    assert (done.returncode, done.stderr.count("\n")) == (status, 1), done.stderr
    assert sentence in done.stderr and not (tmp_path / "w/tables").exists()
