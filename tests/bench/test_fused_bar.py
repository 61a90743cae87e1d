"""The fused model's bar: means over seeds, relative intervals, and the verdicts on made-up figures of users."""
import numpy as np
import pandas as pd
import pytest

from bench import fused_bar
from evaluation.crossed import Term
from harness.errors import UsageError, WorkError
from harness.files import write_json, write_parquet
from reporting import stored_tables


def write(workdir, run, part, values, cold_share=0.5):
    write_parquet(workdir / "metrics" / f"{run}_{part}.pqt", pd.DataFrame(
        {"user_id": np.arange(len(values))[::-1], "NDCG@10": values[::-1], "ColdShare@10": cold_share}))


def test_values_are_those_of_each_run_by_user(tmp_path):
    write(tmp_path, "a", "test", np.array([0.1, 0.2, 0.6]))
    write(tmp_path, "b", "test", np.array([0.3, 0.2, 0.0]))
    users, values = fused_bar.values_of(tmp_path, ["a", "b"], "test")
    assert users.tolist() == [0, 1, 2] and np.allclose(values, [[0.1, 0.2, 0.6], [0.3, 0.2, 0.0]])
    assert fused_bar.values_of(tmp_path, ["a", "b"], "cold_test") is None
    write(tmp_path, "a", "cold_test", np.array([0.1, 0.2]))
    with pytest.raises(WorkError, match="b_cold_test.pqt is missing, and other runs of the same model have ranked"):
        fused_bar.values_of(tmp_path, ["a", "b"], "cold_test")
    write(tmp_path, "c", "test", np.array([0.3, 0.2]))
    with pytest.raises(WorkError, match="has other users"):
        fused_bar.values_of(tmp_path, ["a", "c"], "test")


@pytest.mark.numeric
def test_a_relative_difference_and_its_lower_end():
    """The same shift for all users has no spread: both are the shift. With noise the end is near the normal one."""
    reference = term(np.full((1, 500), 0.2))
    assert np.allclose(fused_bar.relative(term(reference.table * 1.1), reference, 200), 0.1)
    noise = np.random.default_rng(0).normal(0, 0.1, 500)
    difference, low = fused_bar.relative(term(reference.table + noise), reference, 4000)
    # 4000 draws place the 2.5 % quantile within some 4 % of the distance
    assert low == pytest.approx(difference - 1.96 * noise.std() / 500 ** 0.5 / 0.2, abs=0.005)


@pytest.mark.numeric
def test_the_lower_end_of_several_runs_is_over_users_and_seeds():
    """Runs that agree, beside a reference without spread: the end of single runs. Runs that differ: below that."""
    reference, rng = term(np.full((1, 500), 0.2)), np.random.default_rng(0)
    noise = rng.normal(0, 0.1, 500)
    alone = fused_bar.relative(term(0.2 + noise[None]), reference, 4000)
    alike = fused_bar.relative(term(0.2 + np.tile(noise, (5, 1))), reference)
    assert alike[0] == pytest.approx(alone[0]) and alike[1] == pytest.approx(alone[1], abs=0.005)   # draws: 4 %
    shifts = np.array([-0.04, 0.03, 0.02, -0.02, 0.01])[:, None]
    apart = fused_bar.relative(term(0.2 + noise + shifts), reference)
    assert apart[0] == pytest.approx(alone[0]) and apart[1] < alone[1] - 0.05
    both = fused_bar.relative(term(0.2 + noise + shifts), term(0.2 + shifts + np.zeros(500)))   # the same seeds
    assert both[1] > apart[1] + 0.03
    assert fused_bar.relative(term(np.full((3, 9), 0.3)), term(np.full((3, 9), 0.2))) == pytest.approx((0.5, 0.5))


def term(table):
    return Term(1, table, tuple(range(len(table))))


def test_runs_are_paired_by_seed_or_by_the_run_whose_factors_they_read():
    requests = {"ials_s1": {"seed": 1}, "ials_s2": {"seed": 2}, "a": {"seed": 1, "factors": "ials_s1"},
                "b": {"seed": 1, "factors": "ials_s2"}, "elsa_s1": {"seed": 1}, "c": {"seed": 3, "factors": "ials"}}
    manifests = [(name, {"request": request}) for name, request in requests.items()]
    assert fused_bar.labels_of(manifests, ["ials_s1", "ials_s2"]) == fused_bar.labels_of(manifests, ["a", "b"])
    assert fused_bar.labels_of(manifests, ["elsa_s1", "c"]) == (1, 3)


MANIFESTS = [(f"{name}_s{seed}", {"status": "finished", "recommender": name, "embedding": embedding, "request":
                                  {"seed": seed, "lr": 0.1, "factors": f"ials_s{seed}", **more}})
             for name, embedding, more in (("elsa", None, {}), ("cease", "tags", {"shuffle": False}),
                                           ("heater", "tags", {"shuffle": True}))
             for seed in (1, 2)]


def test_a_description_finds_the_runs_of_all_seeds():
    """What it does not name is left open, but for the control; no run, and runs of two settings, are refused."""
    assert fused_bar.runs_of(MANIFESTS, "ELSA", {"recommender": "elsa"}) == ["elsa_s1", "elsa_s2"]
    assert fused_bar.runs_of(MANIFESTS, "x", {"recommender": "cease", "lr": 0.1}) == ["cease_s1", "cease_s2"]
    assert fused_bar.runs_of(MANIFESTS, "x", {"recommender": "heater", "shuffle": True}) == ["heater_s1", "heater_s2"]
    for description in ({"recommender": "heater"}, {"recommender": "cease", "lr": 0.2},
                        {"recommender": "cease", "embedding": "vggish"}):
        with pytest.raises(UsageError, match="^x: no finished run fits {"):
            fused_bar.runs_of(MANIFESTS, "x", description)
    name, config = MANIFESTS[0]
    other = ("elsa_b", config | {"request": config["request"] | {"lr": 0.2, "epochs": 5}})
    with pytest.raises(UsageError, match="^ELSA: the runs that fit .* differ in epochs, lr as well"):
        fused_bar.runs_of([*MANIFESTS, other], "ELSA", {"recommender": "elsa"})


GROUP = """- hot: {{the plays: {{recommender: elsa}}}}
  cold: {{content: {{recommender: content_factors}}}}
  models: {{both: {{recommender: {model}}}, the plays: {{recommender: elsa}}}}
"""


def world_of(tmp_path, hot, cold, union):
    """Runs of three models on 400 users: of the plays, of content, and of both, whose values are multiples of these."""
    rng = np.random.default_rng(1)
    base = rng.uniform(0.1, 0.5, 400)
    for run, recommender, factors in (("a", "elsa", (1, None, 1)), ("b", "content_factors", (1, 1, 1)),
                                      ("c", "cease", (hot, cold, union))):
        write_json(tmp_path / "runs" / run / "config.json", {"status": "finished", "recommender": recommender,
                                                             "name": run, "request": {"seed": 1}, "embedding": None})
        for part, factor in zip(("test", "cold_test", "all_test"), factors, strict=True):
            if factor is not None:
                write(tmp_path, run, part, base * factor + (rng.normal(0, 0.002, 400) if run == "c" else 0))
    (tmp_path / "bar.yaml").write_text(GROUP.format(model="cease"))
    return ["--workdir", str(tmp_path), "--file", str(tmp_path / "bar.yaml")]


@pytest.mark.parametrize("hot, cold, union, verdicts, passes", [
    (0.99, 0.99, 1.3, ["met", "met", "met", "met"], "the plays"),
    (0.90, 0.99, 1.3, ["not met", "met", "met", "met"], ""),
    (0.99, 0.90, 1.3, ["met", "not met", "met", "met"], ""),
    (0.99, 0.99, 1.0, ["met", "met", "not met", "not met"], ""),
    (0.99, 0.99, 0.8, ["met", "met", "not met", "not met"], ""),
])
def test_the_verdicts(tmp_path, capsys, hot, cold, union, verdicts, passes):
    fused_bar.main(world_of(tmp_path, hot, cold, union))
    lines = [line for line in capsys.readouterr().out.splitlines() if "met (" in line and " both " in line]
    assert ["not met" if "not met" in line else "met" for line in lines] == verdicts
    frame = pd.read_csv(tmp_path / "tables" / "bar.csv", keep_default_na=False, na_values=[""])
    header, _, both, plays = ([cell.strip() for cell in line.split("|")[1:-1]] for line in
                              stored_tables.lines_of({"kind": "bar"}, frame, []))
    assert header[:4] == ["model", "hot", "lower end against the plays", "cold"] and header[-1] == "passes against"
    value = frame.loc[(frame.model == "both") & (frame.part == "test"), "value"].item()
    assert both[:2] == ["both", f"{value:.3f}".lstrip("0")] and both[-1] == passes
    low = frame.loc[(frame.model == "both") & (frame.part == "cold_test"), "low"].item()
    assert both[4] == f"{low:+.1%}".replace("%", " %") and both[6] == "50 %"
    value = frame.loc[frame.model == "the plays", "value"].iloc[0]
    assert plays[:2] == ["the plays", f"{value:.3f}".lstrip("0")] and plays[-2:] == ["", ""]


@pytest.mark.parametrize("text, sentence", [
    ("hot: {}", "should be a list of groups with hot, cold and models"),
    ("- {hot: {a: {recommender: x}}, cold: {b: {recommender: x}}}", "a group has hot, cold and models"),
    ("- {hot: {a: {factors: 3}}, cold: {b: {recommender: x}}, models: {c: {recommender: x}}}", "by recommender"),
    ("- {hot: {a: {recommender: x}}, cold: {b: {recommender: x}, d: {recommender: y}}, models: {c: {recommender: x}}}",
     "one comparator for cold items, not 2"),
    (GROUP.format(model="nobody"), "both: no finished run fits"),
])
def test_a_file_that_does_not_fit_is_one_sentence(tmp_path, text, sentence):
    flags = world_of(tmp_path, 1, 1, 1)
    (tmp_path / "bar.yaml").write_text(text)
    with pytest.raises(UsageError, match=sentence):
        fused_bar.main(flags)
    assert not (tmp_path / "tables").exists()
