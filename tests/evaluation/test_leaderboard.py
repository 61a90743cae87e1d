"""The leaderboard through table.py: blocks and their order, the best by val, controls and what content is worth."""
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from evaluation import leaderboard
from evaluation.files import write_metrics
from evaluation.results import collect
from harness.errors import WorkError
from tests.test_table import half, line, lines_of, make_run, row_of, tables


def test_rows_stand_in_blocks_sorted_by_the_first_metric(tmp_path):
    for name, value in (("oracle", 0.9), ("random", 0.1), ("mfcc", 0.2), ("a_b", 0.3)):
        make_run(tmp_path, "shallow", name, [value] * 4)
    make_run(tmp_path, "knn", "mfcc", [0.25] * 4)
    make_run(tmp_path, "knn", "a_b", [0.05] * 4)
    make_run(tmp_path, "shallow", "mfcc", [0.1] * 4, shuffle=True)
    for name, value in (("popularity", 0.3), ("ease", 0.5), ("chance", 0.1), ("itemknn", 0.6)):
        make_run(tmp_path, name, None, [value] * 4)
    make_run(tmp_path, "sasrec", "random", [0.55] * 4)
    make_run(tmp_path, "two_tower", "a_b+mfcc", [0.1] * 4)
    make_run(tmp_path, "dtnmr", None, [0.01] * 4)
    make_run(tmp_path, "hybrid", None, [0.4] * 4, manifest={"sources": {"ease": "x"}})
    assert lines_of(tables(tmp_path)[1]) == [
        ("*controls*", ""), ("Popularity", ""), ("Chance", ""),
        ("*without content*", ""), ("ItemKNN", ""), ("SASRec", "ID embeddings"), ("EASE", ""),
        ("Shallow Net", "ID embeddings"),
        ("*with content*", ""), ("Shallow Net", "a_b"), ("Shallow Net", "mfcc"), ("Shallow Net", "oracle"),
        ("KNN", "mfcc"), ("KNN", "a_b"), ("Two-tower", "a_b+mfcc"), ("DTNMR", "metadata"),
        ("*mixtures*", ""), ("Hybrid", "x")]


def test_seeds_that_read_other_runs_are_rows_of_their_own(tmp_path):
    for seed, source in ((1, "ials_a"), (2, "ials_a"), (3, "ials_b")):
        make_run(tmp_path, "content_factors", "mfcc", [.1 * seed] * 4, seed=seed,
                 manifest={"sources": {"ials": source}})
    cells, _ = collect(tmp_path)
    assert sorted((cell.departures["reads"], len(cell.runs)) for cell in cells) == [("ials_a", 2), ("ials_b", 1)]


def test_the_best_is_bold_and_controls_are_no_candidates(tmp_path):
    make_run(tmp_path, "chance", None, [0.9] * 4)
    make_run(tmp_path, "popularity", None, [0.2] * 4)
    make_run(tmp_path, "ease", None, [0.3] * 4)
    make_run(tmp_path, "itemknn", None, [0.2] * 4)
    for name, value in (("mfcc", 0.2), ("musicnn", 0.3), ("oracle", 0.9)):
        make_run(tmp_path, "knn", name, [value] * 4)
    make_run(tmp_path, "hybrid", None, [0.8] * 4, manifest={"sources": {"ease": "x"}})
    text = tables(tmp_path)[1]
    bold = [tuple(c.strip() for c in row.split("|")[1:3]) for row in text.splitlines() if "**" in row]
    assert bold == [("EASE", ""), ("KNN", "musicnn")], "one candidate is no contest"
    assert (tmp_path / "tables/test.tex").read_text().count(r"\textbf{") == 2
    assert "bold: best of its block on test" in text, "no run has val"


def test_nothing_is_bold_where_more_is_not_better(tmp_path):
    for name, value in (("ease", 0.2), ("itemknn", 0.3)):
        run = make_run(tmp_path, name, None, [value] * 4)
        frame = pd.DataFrame({"Popularity@2": [value] * 4}, index=pd.Index([1, 2, 3, 4], name="user_id"))
        write_metrics(tmp_path / "metrics" / f"{run}_test.csv", frame)
    assert "**" not in tables(tmp_path, "--metrics", "Popularity")[1]


def test_val_decides_what_the_others_are_compared_with(tmp_path):
    """EASE is best on val, so it is bold, although ItemKNN is above it on test."""
    rng = np.random.default_rng(1)
    base, users = rng.random(50) * 0.2, range(50)
    make_run(tmp_path, "ease", None, base, users, val=[0.5] * 50)
    make_run(tmp_path, "itemknn", None, base + rng.normal(0.008, 0.05, 50), users, val=[0.4] * 50)
    make_run(tmp_path, "elsa", None, base - 0.05 + rng.normal(0, 0.01, 50), users, val=[0.4] * 50)
    numbers, text = tables(tmp_path)
    assert line(numbers, "ItemKNN")["mean"] > line(numbers, "EASE")["mean"]
    assert [r.method for r in numbers.itertuples() if r.best] == ["EASE"] and set(numbers.best_on) == {"val"}
    assert row_of(text, "ItemKNN")["Recall@2"].endswith("°") and row_of(text, "EASE")["Recall@2"].startswith("**")
    assert "°" not in row_of(text, "ELSA")["Recall@2"] and line(numbers, "ELSA").p_t < 0.05
    assert {line(numbers, m).compared_with for m in ("ItemKNN", "ELSA")} == {"EASE"}
    assert "bold: best of its block on val; °: not distinguishable from it" in text and "Holm" in text


def test_the_cold_test_decides_itself_as_val_has_no_cold_tracks(tmp_path):
    make_run(tmp_path, "knn", "mfcc", [0.1, 0.2, 0.3, 0.4], parts=("cold_test",), val=[0.9] * 4)
    make_run(tmp_path, "knn", "mert", [0.5, 0.6, 0.7, 0.9], parts=("cold_test",), val=[0.1] * 4)
    numbers, text = tables(tmp_path, part="cold_test")
    assert [r.representation for r in numbers.itertuples() if r.best] == ["mert"]
    assert "bold: best of its block on cold_test" in text


def test_a_block_without_val_says_that_its_best_was_chosen_on_test(tmp_path):
    for name, values, val in (("ease", [.1, .2, .3, .4], [.9] * 4), ("itemknn", [.5, .6, .7, .8], [.1] * 4)):
        make_run(tmp_path, name, None, values, val=val)
    for weight, values in (("a", [.1, .2, .3, .4]), ("b", [.3, .4, .5, .7])):
        make_run(tmp_path, "hybrid", None, values, how=weight, manifest={"sources": {"ease": "one"}})
    numbers, text = tables(tmp_path)
    best = numbers[numbers.best]
    assert best.method.tolist() == ["EASE", best.method.iloc[1]] and best["mean"].iloc[1] == pytest.approx(.475)
    assert dict(zip(numbers.block, numbers.best_on, strict=True)) == {"without content": "val", "mixtures": "test"}
    assert "bold: best of its block on val (mixtures, Recall@2: on test, as no run has val)" in text


def test_two_models_of_one_method_are_two_methods_by_name(tmp_path):
    for model, values in (("forest", [.1, .2, .3, .4]), ("lambdarank", [.2, .3, .4, .6])):
        make_run(tmp_path, "random_forest", None, values, model=model, manifest={"sources": {"ease": "ease_s1_0a"}})
    numbers, _ = tables(tmp_path)
    assert numbers.method.tolist() == ["LambdaMART", "Random forest"] and not numbers.changed.any()


def test_a_mixture_is_named_by_what_it_mixes(tmp_path):
    """The same components are one representation, whatever named them; what else differs is said."""
    tags, knn = "content-knn_tags_s1_4b82f86432", "vggish_cosine_center_seed-3_unit"
    runs_of = {"default": {"popularity": "popularity_s42_ad3381bb03", "content_knn": tags},
               "named": {tags: tags, "elsa": "elsa_s3_576ed40843"}, "raw": {"knn": knn, "elsa": "elsa_s3_576ed40843"}}
    for i, sources in enumerate(runs_of.values()):
        make_run(tmp_path, "hybrid", None, [.1 + i / 10, .2, .3, .4], sources=list(sources), steps=10,
                 manifest={"sources": sources})
    make_run(tmp_path, "hybrid", None, [.05, .2, .3, .4], sources=list(runs_of["raw"]), steps=20,
             manifest={"sources": runs_of["raw"]})
    make_run(tmp_path, "content_factors", "mfcc", [.05, .2, .3, .4], manifest={"sources": {"ials": "ials_s1_0a"}})
    numbers, _ = tables(tmp_path)
    assert [(r.block, r.representation, r.changed) for r in numbers.itertuples()] == [
        ("with content", "mfcc", ""), ("mixtures", "vggish cosine center + elsa", ""),
        ("mixtures", "content-knn tags + elsa", ""), ("mixtures", "popularity + content-knn tags", ""),
        ("mixtures", "vggish cosine center + elsa", "steps 20")]


def test_every_row_names_its_kind_of_fusion_where_there_are_several(tmp_path):
    for n, (kind, lr) in enumerate(((None, 1), ("delta", 2), ("concat", 3), ("concat", 4))):
        for name in ("mfcc", "mert"):
            more = {"fusion": kind} if kind else {}
            make_run(tmp_path, "two_tower", name, [.1 + n / 10, .2, .3, .4], lr=lr, **more)
    make_run(tmp_path, "shallow", "mfcc", [.1, .2, .3, .4], item_freeze=1, fusion="frozen")
    make_run(tmp_path, "shallow", "mfcc", [.2, .2, .3, .4], item_freeze=0)
    make_run(tmp_path, "shallow", "random", [.2, .2, .3, .4], item_freeze=0)
    make_run(tmp_path, "sasrec", "mfcc", [.2, .2, .3, .4], item_freeze=0)
    numbers, _ = tables(tmp_path)
    own = numbers[numbers.representation.isin(["mfcc", "ID embeddings"])]
    assert sorted(zip(own.method, own.representation, own.changed, strict=True)) == [
        ("SASRec", "mfcc", ""), ("Shallow Net", "ID embeddings", ""), ("Shallow Net", "mfcc", "fusion frozen"),
        ("Shallow Net", "mfcc", "fusion start"), ("Two-tower", "mfcc", "fusion concat"),
        ("Two-tower", "mfcc", "fusion concat, lr 4"), ("Two-tower", "mfcc", "fusion delta"),
        ("Two-tower", "mfcc", "fusion frozen")]


def test_a_segment_of_one_user_is_shown_and_not_tested_against_a_run():
    board = leaderboard.Leaderboard("test", ["Recall@2"], [], {"users": 1, "segment": "one"})
    figure = SimpleNamespace(each=np.array([.5]), mean=.5, repeats=1)
    row = leaderboard.Row("without content", "ease", "EASE", "", "", "", SimpleNamespace(embedding=None))
    row.figures = {"Recall@2": figure}
    board.rows = [row]
    other = row.cell, {"Recall@2": SimpleNamespace(each=np.array([.25]), mean=.25, repeats=1)}
    leaderboard.compare_rows(board, other)
    assert not row.against
    del board.head["segment"]
    with pytest.raises(WorkError, match="at least two users"):
        leaderboard.compare_rows(board, other)


def test_one_user_is_shown_and_not_tested(tmp_path):
    make_run(tmp_path, "knn", "mfcc", [0.1], users=(1,))
    make_run(tmp_path, "knn", "mert", [0.2], users=(1,))
    for seed in (1, 2):
        make_run(tmp_path, "knn", "mert", [0.05], users=(1,), shuffle=True, seed=seed)
    numbers, text = tables(tmp_path)
    assert row_of(text, "KNN", "mert")["Recall@2"] == "**0.2000**" and "°" not in text
    assert row_of(text, "KNN", "mert")["worth"] == "+0.1500" and numbers.p_t.isna().all()
    assert line(numbers, "KNN", "mert").worth_over == "one user, no interval"


@pytest.mark.parametrize("shuffles", [[True, True, True], [0, 1, 2]])
def test_the_control_is_the_mean_over_permutations_beside_the_value(tmp_path, shuffles):
    """One permutation is one ranking for everybody: the control's own line has an interval over permutations only."""
    repeats = [[0.0, 0.1, 0.1, 0.2], [0.3, 0.3, 0.2, 0.4], [0.1, 0.0, 0.0, 0.1]]
    for seed, values in enumerate(repeats):
        make_run(tmp_path, "knn", "mfcc", values, shuffle=shuffles[seed], seed=seed)
    make_run(tmp_path, "knn", "mfcc", [0, 1, 0, 1], shuffle=False)
    numbers, text = tables(tmp_path)
    means = [0.4 / 4, 1.2 / 4, 0.2 / 4]
    row, control = (line(numbers, "KNN", "mfcc", shuffled=shuffled) for shuffled in (False, True))
    assert row["mean"] == 0.5 and row.permutations == 3 and row.seeds == 1
    assert row.control == control["mean"] == pytest.approx(sum(means) / 3)
    assert control.half_seeds == pytest.approx(half(means)) and np.isnan(control.half_users)
    assert row.worth == pytest.approx(0.5 - sum(means) / 3) and row.worth_over == "users and permutations"
    shown = row_of(text, "KNN", "mfcc")
    assert shown["control"] == f"{sum(means) / 3:.4f} (3)"
    assert shown["worth"] == f"+{0.5 - sum(means) / 3:.4f} ±{row.half_worth:.4f}"
    assert lines_of(text) == [("*with content*", ""), ("KNN", "mfcc")], "a control is no row"


def test_each_permutation_is_paired_with_the_seed_of_the_same_number(tmp_path):
    """Value and control of a seed differ by 0.1 exactly, whatever the seeds do: paired, differences do not vary."""
    rng = np.random.default_rng(0)
    for seed in (1, 2, 3):
        base = rng.random(4)
        make_run(tmp_path, "shallow", "mfcc", base + 0.1, seed=seed)
        make_run(tmp_path, "shallow", "mfcc", base, seed=4 - seed, shuffle=seed)   # read in another order
        make_run(tmp_path, "shallow", "mert", base + 0.1, seed=seed)
        make_run(tmp_path, "shallow", "mert", base, seed=seed + 10, shuffle=True)
    numbers, _ = tables(tmp_path)
    row, other = line(numbers, "Shallow Net", "mfcc"), line(numbers, "Shallow Net", "mert")
    assert row.worth == pytest.approx(0.1) and row.se_users == pytest.approx(0, abs=1e-9)     # rounding of 0.1
    assert row.se_permutations == pytest.approx(0, abs=1e-9) and row.se_draw >= 0    # of the control alone
    assert other.worth == pytest.approx(0.1) and other.half_worth > 0.01 and other.se_seeds >= 0


def test_one_permutation_says_that_its_interval_is_over_users_only(tmp_path):
    make_run(tmp_path, "knn", "mfcc", [0, 0, 0, 1], shuffle=True)
    make_run(tmp_path, "knn", "mfcc", [0, 1, 0, 1])
    make_run(tmp_path, "knn", "mert", [0, 1, 0, 1])
    numbers, text = tables(tmp_path)
    shown, row = row_of(text, "KNN", "mfcc"), line(numbers, "KNN", "mfcc")
    assert shown["control"] == "0.2500 (1)" and shown["worth"] == f"+0.2500 ±{half([0, 1, 0, 0]):.4f}"
    assert "(1): control: 1, interval over users only" in text
    assert row.worth_over == "control: 1, interval over users only" and np.isnan(row.se_permutations)
    bare = row_of(text, "KNN", "mert")
    assert (bare["control"], bare["worth"]) == ("no control", "")
    assert line(numbers, "KNN", "mert").worth_over == "no control"


def test_a_control_belongs_to_the_same_arguments(tmp_path):
    """A comment changes no result, so a control may have another one; any other argument makes it another's."""
    make_run(tmp_path, "knn", "mfcc", [0.5] * 4, comment="baseline")
    make_run(tmp_path, "knn", "mfcc", [0.1] * 4, comment="control", shuffle=True)
    make_run(tmp_path, "knn", "mert", [0.5] * 4, comment="baseline", center=True)
    make_run(tmp_path, "knn", "mert", [0.2] * 4, comment="baseline", center=False, shuffle=True)
    numbers, text = tables(tmp_path)
    by = {(r.representation, r.shuffled): r for r in numbers.itertuples()}
    assert by["mfcc", False].control == pytest.approx(0.1) and by["mert", False].worth_over == "no control"
    alone = [row for row in text.splitlines() if "no run" in row]
    assert len(alone) == 1 and "mert" in alone[0] and "0.2000 (1)" in alone[0], "a control without its run"


def test_a_control_has_read_the_same_runs(tmp_path):
    """A better source that came between value and control makes them differ by more than the order of the tracks."""
    for name, of_control in (("mfcc", "ials_s1"), ("mert", "ials_s2")):
        make_run(tmp_path, "content_factors", name, [0.5] * 4, manifest={"sources": {"ials": "ials_s1"}})
        for seed in (1, 2):
            make_run(tmp_path, "content_factors", name, [0.1] * 4, seed=seed, shuffle=True,
                     manifest={"sources": {"ials": of_control}})
    numbers, _ = tables(tmp_path)
    by = {(r.representation, r.shuffled): r for r in numbers.itertuples()}
    assert by["mfcc", False].worth == pytest.approx(0.4) and by["mert", False].worth_over == "no control"


def test_points_that_a_run_measured_on_val_choose_the_best_of_them(tmp_path):
    """PointAccuracy is in a file of its own, on val as on test."""
    for comment, on_val, on_test in (("full", 0.9, 0.3), ("short", 0.2, 0.4)):
        name = make_run(tmp_path, "dtnmr", None, [0.1] * 4, comment=comment)
        files = {part: f"metrics/{name}_{part}_points.csv" for part in ("val", "test")}
        make_run(tmp_path, "dtnmr", None, [0.1] * 4, val=[0.1] * 4, comment=comment,
                 manifest={"outputs": list(files.values())})
        for part, value in (("val", on_val), ("test", on_test)):
            frame = pd.DataFrame({"PointAccuracy@2": [value] * 4}, index=pd.Index((1, 2, 3, 4), name="user_id"))
            write_metrics(tmp_path / files[part], frame)
    numbers = tables(tmp_path, "--metrics", "PointAccuracy")[0]
    assert set(numbers["best_on"]) == {"val"} and list(numbers[numbers["best"]]["mean"]) == [0.3]


def test_worth_of_all_metrics_on_demand(tmp_path):
    make_run(tmp_path, "knn", "mfcc", [0, 1, 0, 1])
    for seed in (1, 2):
        make_run(tmp_path, "knn", "mfcc", [0, 0, seed / 2, 0], shuffle=True, seed=seed)
    assert tables(tmp_path, "--metrics", "Recall", "Coverage")[1].splitlines()[2].count("worth") == 1
    numbers, text = tables(tmp_path, "--metrics", "Recall", "Coverage", "--worth", "all")
    assert text.splitlines()[2].count("worth") == 2
    whole = line(numbers, "KNN", "mfcc", metric="Coverage")
    assert (whole.worth, whole.half_worth, whole.worth_over) == (0, 0, "permutations only")
