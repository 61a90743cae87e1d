"""claims.py end to end: which runs it takes, bad input, the plans, and false alarms on worlds without effect."""
import importlib
import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import claims
from harness import runs
from harness.errors import UsageError
from harness.files import checksum, write_json, write_text
from slurm import grid
from tests.conftest import ROOT
from tests.worlds.judged import add_run, add_seeds, claim, ledger, workspace
from tests.worlds.world import tiny_workspace, write_embedding


def judged(workdirs, path, *flags):
    """{(claim, data set, variant): row of claims.json} of a call."""
    workdirs = workdirs if isinstance(workdirs, list) else [workdirs]
    claims.main(["--workdir", *map(str, workdirs), "--ledger", str(path), *flags])
    document = json.loads((workdirs[0] / "claims" / "claims.json").read_text(encoding="utf-8"))
    rows = {(r["claim"], r["dataset"], r["variant"]): r for r in document["verdicts"]}
    return rows | {"overall": document["overall"]}


PAIR = claim()
EACH = claim("each", each="{representation: audio}", effect="x - y", smallest="0.01", terms=(
    "{x: {method: shallow, representation: each}, y: {method: shallow, representation: random}}"))


def test_holds_fails_and_overall_over_two_data_sets(tmp_path, capsys):
    one, two, made = (workspace(tmp_path / name, name) for name in ("one", "two", "made"))
    rng = np.random.default_rng(0)
    for folder, better in ((one, .2), (two, -.2), (made, .2)):
        add_run(folder, "ease", rng.normal(.5 + better, .05, 80))
        add_run(folder, "popularity", rng.normal(.5, .05, 80))
    rows = judged([one, two, made], ledger(tmp_path, PAIR))
    assert [rows["first", name, ""]["verdict"] for name in ("one", "two", "made")] == ["holds", "fails", "holds"]
    assert rows["overall"] == {"first": "mixed"} and rows["first", "made", ""]["kind"] == "by construction"
    row = rows["first", "one", ""]
    assert .15 < row["low"] < row["effect"] < row["high"] < .25 and row["users"] == 80
    printed = capsys.readouterr().out
    assert "| first | A sentence. | a paper | mixed |" in printed and "## made (by construction)" in printed
    frame = pd.read_csv(one / "claims" / "claims.csv")
    assert list(frame["verdict"]) == ["holds", "fails", "holds"] and (one / "claims" / "claims.md").exists()
    judged([one, two, made], ledger(tmp_path, PAIR, claim("second")), "--claims", "second")
    text = (one / "claims" / "claims.md").read_text(encoding="utf-8")      # the level is of all tests, shown or not
    assert "Claims: 2, 1 of them shown; tests: 4 on real data and 2 on generated worlds" in text


def test_an_effect_is_relative_to_what_is_subtracted(tmp_path):
    one = workspace(tmp_path / "w")
    for name, value in (("ease", .6), ("popularity", .5)):
        add_run(one, name, value + np.random.default_rng(0).normal(0, .01, 50))
    for effect, relative in (("x - y", .2), ("x - .4", .5), ("x - y + .1", .4), ("x + .1", None)):
        terms = "{x: {method: ease}}" if "y" not in effect else "{x: {method: ease}, y: {method: popularity}}"
        row = judged(one, ledger(tmp_path, claim(effect=effect, terms=terms)))["first", "one", ""]
        assert row["relative"] == (relative and pytest.approx(relative, rel=.05)), effect


def test_the_setting_that_is_best_on_val_counts_and_as_published_only_where_asked(tmp_path):
    one = workspace(tmp_path / "w")
    users = np.random.default_rng(0).normal(0, .01, 50)
    add_run(one, "popularity", .5 + users[::-1])
    add_run(one, "ease", .9 + users, val=.2, l2=1.0)
    chosen = add_run(one, "ease", .6 + users, val=.4, l2=2.0)
    add_run(one, "ease", .2 + users, val=.9, l2=3.0, as_published=True)
    add_run(one, "ease", .1 + users, val=.9, l2=3.0, fusion="delta")
    rows = judged(one, ledger(tmp_path, PAIR))
    assert rows["first", "one", ""]["effect"] == pytest.approx(.1) and chosen in rows["first", "one", ""]["runs"]


def test_a_term_like_another_has_its_other_settings(tmp_path):
    one = workspace(tmp_path / "w")
    for l2, val in ((1.0, .3), (2.0, .6)):
        add_seeds(one, "shallow", .5 + l2 / 10, "a", val=val, item_freeze=1, l2=l2, number=1)
        add_seeds(one, "shallow", .5, "a", val=.9 - val, item_freeze=0, l2=l2, number=2)
    add_seeds(one, "shallow", .1, "a", val=1, item_freeze=0, l2=3.0, number=3)
    terms = ("{x: {method: shallow, representation: a, with: {item_freeze: 1}}, "
             "y: {method: shallow, representation: a, with: {item_freeze: 0}, like: x}}")
    row = judged(one, ledger(tmp_path, claim(terms=terms)))["first", "one", ""]
    assert row["effect"] == pytest.approx(.2, abs=.02) and row["verdict"] == "holds" and row["seeds"] == 3


def test_a_control_counts_its_own_permutation(tmp_path):
    """Value minus control: as far as the permutations are apart, a value is no evidence of content."""
    one = workspace(tmp_path / "w")
    rng = np.random.default_rng(5)
    add_run(one, "knn", rng.normal(.56, .02, 200), "a", shuffle=False)
    for seed in range(1, 7):
        add_run(one, "knn", rng.normal(.5, .02, 200) + [-.04, .04][seed % 2], "a", seed, shuffle=True)
    terms = "{x: {method: knn, representation: a}, y: {method: knn, representation: a, control: true, like: x}}"
    row = judged(one, ledger(tmp_path, claim(terms=terms)))["first", "one", ""]
    assert row["verdict"] == "undecided" and row["low"] < 0 < row["high"]


def test_a_run_without_chance_that_was_repeated_is_one(tmp_path):
    """Equal values under two seeds: two paired seeds without spread would leave one degree of freedom."""
    one, twice = (workspace(tmp_path / name) for name in "ab")
    for workdir, seeds in ((one, (42,)), (twice, (42, 1))):
        rng = np.random.default_rng(5)
        value = rng.normal(.7, .02, 200)
        for seed in seeds:
            add_run(workdir, "knn", value, "a", seed, shuffle=False)
        for seed in range(1, 7):
            add_run(workdir, "knn", rng.normal(.5, .02, 200), "a", seed, shuffle=True)
    terms = "{x: {method: knn, representation: a}, y: {method: knn, representation: a, control: true, like: x}}"
    path = ledger(tmp_path, claim(terms=terms))
    first, second = (judged(workdir, path)["first", "one", ""] for workdir in (one, twice))
    assert first["verdict"] == "holds"
    assert {k: v for k, v in first.items() if k != "runs"} == {k: v for k, v in second.items() if k != "runs"}


def test_a_claim_about_new_items_takes_the_setting_that_is_best_on_new_items_of_val(tmp_path):
    one = workspace(tmp_path / "w", parts=("val", "cold_val", "test", "cold_test"))
    users = np.random.default_rng(0).normal(0, .01, 50)
    add_run(one, "popularity", .5 + users[::-1], cold=True)
    add_run(one, "ease", .9 + users, val=.4, cold=.2, l2=1.0)
    chosen = add_run(one, "ease", .6 + users, val=.2, cold=.4, l2=2.0)
    row = judged(one, ledger(tmp_path, claim(part="cold_test")))["first", "one", ""]
    assert row["effect"] == pytest.approx(.1) and chosen in row["runs"]
    row = judged(one, ledger(tmp_path, PAIR))["first", "one", ""]
    assert row["effect"] == pytest.approx(.4)


# --------------------------------------------------------------------------- bad input

def test_half_the_runs_missing_is_not_testable_and_the_plan_has_the_other_half(tmp_path, capsys):
    one = workspace(tmp_path / "w")
    write_text(one / "embeddings" / "a.npy", "vectors")
    add_seeds(one, "shallow", .5, "a")
    row = judged(one, ledger(tmp_path, EACH))["each", "one", "a"]
    assert row["verdict"] == "not testable here"
    assert row["notes"] == "no finished run of Shallow Net ID embeddings (claims.py --plan prints the grid)"
    other = judged(one, ledger(tmp_path, EACH))["each", "one", "b"]
    assert "no vectors of b here (python claims.py --plan --dataset music4all" in other["notes"]
    capsys.readouterr()
    claims.main(["--workdir", str(one), "--ledger", str(ledger(tmp_path, EACH)), "--plan"])
    printed = capsys.readouterr().out
    assert printed.count("model: random") == 1 and "model: a" not in printed and "seed: [1, 2, 3]" in printed


def test_one_seed_is_undecided_and_planned(tmp_path, capsys):
    one = workspace(tmp_path / "w")
    add_run(one, "shallow", np.linspace(.8, .9, 50), "a")
    add_seeds(one, "shallow", .3, "random", users=50)
    row = judged(one, ledger(tmp_path, EACH))["each", "one", "a"]
    assert row["verdict"] == "undecided" and row["takes"] == "at least 2 seeds" and row["p_bh"] is None
    capsys.readouterr()
    claims.main(["--workdir", str(one), "--ledger", str(ledger(tmp_path, EACH)), "--plan"])
    assert "model: a}" in capsys.readouterr().out


def test_zero_variance(tmp_path):
    one = workspace(tmp_path / "w")
    for method in ("ease", "popularity"):
        add_run(one, method, np.full(30, .5))
    row = judged(one, ledger(tmp_path, PAIR))["first", "one", ""]
    assert row["verdict"] == "fails" and row["effect"] == row["low"] == row["high"] == 0
    assert "every user has the same difference" in row["notes"]


def test_runs_on_other_users_or_of_another_split_are_not_compared(tmp_path):
    one = workspace(tmp_path / "w")
    values = np.random.default_rng(1).random(30)
    add_run(one, "ease", values + .5)
    add_run(one, "popularity", values, users=np.arange(100, 130))
    row = judged(one, ledger(tmp_path, PAIR))["first", "one", ""]
    assert row["verdict"] == "not testable here" and "were evaluated on other users; python metrics.py" in row["notes"]
    two = workspace(tmp_path / "two", "two")
    write_text(two / "data" / "train.pqt", "the split of now\n")
    now = {f"data/{part}.pqt": checksum(two / "data" / f"{part}.pqt") for part in ("train", "val", "test")}
    add_run(two, "ease", values + .5, inputs=now)
    add_run(two, "popularity", values, inputs={**now, "data/train.pqt": "of before"})
    row = judged(two, ledger(tmp_path, PAIR))["first", "two", ""]
    assert "no finished run of Popularity" in row["notes"] and runs.changed_since({"inputs": now}, now) == []


def test_a_metric_that_no_run_has_names_the_command(tmp_path):
    one = workspace(tmp_path / "w")
    for method in ("ease", "popularity"):
        add_run(one, method, np.arange(5.0))
    for metric, command in (("Recall@20", "python metrics.py --k 20"),
                            ("SubsetAccuracy@5", "python metrics.py --subset-size 5")):
        row = judged(one, ledger(tmp_path, claim(metric=metric)))["first", "one", ""]
        assert row["verdict"] == "not testable here" and f"; {command} --workdir {one} evaluates it" in row["notes"]


@pytest.mark.parametrize(("argv", "sentence"), [
    (["--claims", "nobody"], "--claims nobody is no claim of claims.yaml"),
    (["--dataset", "one"], "--dataset is for --plan"),
    (["--plan", "--workdir", "W/one", "--out", "x"], "--out is for verdicts; a plan is printed"),
    (["--plan", "--dataset", "nowhere"], "--dataset nowhere is not in claims.yaml; it has one, two, made"),
    (["--workdir", "W/absent"], "is not a folder"),
    (["--workdir", "W/other"], "is the data set 'unheard', which claims.yaml does not describe; it has one, two, made"),
    (["--workdir", "W/one", "W/again"], "are both the data set 'one'; name one"),
    (["--plan", "--dataset", "one", "--workdir", "W/one"], "give --dataset or --workdir, not both"),
])
def test_wrong_command_lines_are_one_sentence(tmp_path, argv, sentence):
    for folder, name in (("one", "one"), ("again", "one"), ("other", "unheard")):
        workspace(tmp_path / folder, name)
    argv = [str(tmp_path / word[2:]) if word.startswith("W/") else word for word in argv]
    with pytest.raises(UsageError) as error:
        claims.main([*argv, "--ledger", str(ledger(tmp_path, PAIR))])
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_a_claim_without_a_test_says_why_and_some_can_be_shown_alone(tmp_path):
    one = workspace(tmp_path / "w")
    untested = claim("later", untestable="no such encoder here", command="python knn.py", effect=None, terms=None,
                     smallest=None)
    path = ledger(tmp_path, PAIR, untested, claim("elsewhere", datasets="[two]"))
    rows = judged(one, path)
    assert rows["later", "one", ""]["notes"] == "no such encoder here"
    assert rows["elsewhere", "one", ""]["notes"] == "a claim about two"
    assert rows["overall"] == dict.fromkeys(("first", "later", "elsewhere"), "not testable here")
    assert set(judged(one, path, "--claims", "later")) == {("later", "one", ""), "overall"}
    assert "Claims: 3, 1 of them shown; tests: " in (one / "claims" / "claims.md").read_text(encoding="utf-8")


def test_encoders_of_one_value_have_no_rank_correlation(tmp_path):
    one, names = workspace(tmp_path / "w"), "abcdef"
    for name in names:
        add_run(one, "knn", np.arange(5.0), name)
    scores = "{" + ", ".join(f"{name}: {place}" for place, name in enumerate(names)) + "}"
    one_term = claim(scores=scores, terms="{x: {method: knn}}", effect=None)
    row = judged(one, ledger(tmp_path, one_term))["first", "one", ""]
    assert row["verdict"] == "not testable here" and "no order to compare" in row["notes"] and not row["takes"]


def test_another_split_of_the_same_plays_is_an_entry_of_its_own(tmp_path):
    cold = "  cold: {plays_of: one, protocol: cold-items, roles: {audio: [a]}}\nclaims:\n"
    path = ledger(tmp_path, PAIR)
    write_text(path, path.read_text(encoding="utf-8").replace("claims:\n", cold))
    given, drawn = workspace(tmp_path / "given"), workspace(tmp_path / "drawn")
    for folder, protocol, better in ((given, "given", .2), (drawn, "cold-items", -.2)):
        write_json(folder / "data" / "split.json", {"protocol": protocol})
        users = np.random.default_rng(0).normal(0, .01, 50)
        add_run(folder, "popularity", .5 + users[::-1])
        add_run(folder, "ease", .5 + better + users)
    rows = judged([given, drawn], path)
    assert rows["first", "one", ""]["verdict"] == "holds" and rows["first", "cold", ""]["verdict"] == "fails"
    write_json(drawn / "data" / "split.json", {"protocol": "random"})
    with pytest.raises(UsageError, match="are both the data set 'one'; name one"):
        judged([given, drawn], path)


# --------------------------------------------------------------------------- plans

@pytest.mark.trains
def test_the_plan_for_music4all_is_a_grid_with_every_encoder(tmp_path, capsys):
    """The exact plan of the project's ledger, dry: slurm/grid.py checks every flag of every run with its script."""
    claims.main(["--plan", "--dataset", "music4all"])
    path = tmp_path / "plan.yaml"
    write_text(path, capsys.readouterr().out)
    (tmp_path / "w").mkdir()
    assert grid.main(["--file", str(path), "--audio", "sound", "--workdir", str(tmp_path / "w"), "--print"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for encoder in "mfcc musicnn mert m2v mfm emae jb mule muq".split():
        assert any(f"extract_item_embeddings/{encoder}.py" in line for line in lines)
        for script in ("knn.py", "train.py", "train_bert.py"):
            assert any(script in line and encoder in line.split() for line in lines), (script, encoder)
    assert any("1_train_test_split.py" in line for line in lines) and len(lines) == len(set(lines))


def test_a_plan_for_some_claims_has_their_runs_alone(tmp_path, capsys):
    path = ledger(tmp_path, PAIR, claim("other", terms="{x: {method: itemknn}, y: {method: chance}}"))
    for more, scripts in (([], 4), (["--claims", "first"], 2)):
        claims.main(["--plan", "--dataset", "one", "--ledger", str(path), *more])
        printed = capsys.readouterr().out
        assert printed.count("- script") == scripts and "recommenders.ease" in printed


SLOW = pytest.mark.trains   # every run of some hundred is checked by its script


@pytest.mark.parametrize("name", [*(pytest.param(name, marks=SLOW)
                                    for name in ("lastfm-audio", "lastfm-cold", "lastfm", "demo")), "kkbox", "spotify"])
def test_the_plan_of_every_data_set_is_a_grid(tmp_path, capsys, name):
    claims.main(["--plan", "--dataset", name])
    path = tmp_path / "plan.yaml"
    write_text(path, capsys.readouterr().out)
    (tmp_path / "w").mkdir()
    if "- script" in path.read_text(encoding="utf-8"):
        assert grid.main(["--file", str(path), "--workdir", str(tmp_path / "w"), "--print"]) == 0
        assert capsys.readouterr().out.count("--workdir") > 2
    else:
        assert name == "spotify"


def test_a_plan_of_a_workspace_makes_the_runs_and_then_the_claim_is_tested(tmp_path, capsys):
    """Tiny world, real runs: the plan lacks nothing once it has run."""
    tiny = tiny_workspace(tmp_path / "tiny")
    path = tmp_path / "claims.yaml"
    write_text(path, """
rules: {seeds: 2, controls: 3}
datasets: {tiny: {roles: {audio: [content]}}}
claims:
  - {id: real, sentence: Content is real., source: a test, each: {representation: audio}, effect: c - s, smallest: 0.01,
     terms: {c: {method: knn, representation: each}, s: {method: knn, representation: each, control: true, like: c}}}
  - {id: beats, sentence: It beats popularity., source: a test, each: {representation: audio}, effect: c - p,
     terms: {c: {method: knn, representation: each}, p: {method: popularity}}}
""")
    argv = ["--workdir", str(tiny), "--ledger", str(path)]
    claims.main([*argv, "--plan"])
    write_text(tmp_path / "plan.yaml", capsys.readouterr().out)
    grid.main(["--file", str(tmp_path / "plan.yaml"), "--workdir", str(tiny), "--print"])
    commands = [command.split() for command in capsys.readouterr().out.splitlines()]
    assert len(commands) == 1 + 3 + 1
    for _, *words in commands:
        module, flags = (words[1], words[2:]) if words[0] == "-m" else (words[0].removesuffix(".py"), words[1:])
        importlib.import_module(module).main(flags)
    capsys.readouterr()
    claims.main([*argv, "--plan"])
    assert "blocks: []" in capsys.readouterr().out
    rows = judged(tiny, path)
    assert rows["real", "tiny", "content"]["seeds"] == 3 and rows["beats", "tiny", "content"]["p"] is not None


# --------------------------------------------------------------------------- worlds without effect, end to end

@SLOW
def test_false_alarms_on_worlds_without_effect_end_to_end(tmp_path, monkeypatch):
    """200 worlds whose vectors are noise: lists and metrics of KNN and of its permutations, then claims.py.

    Neither has one noise an effect over its control nor over another noise: any verdict is wrong. The one-sided 99 %
    lower binomial limit of the rate of worlds with one is not above .05 (fixed seeds). That the pair of noises is near
    its bound, not far inside it, shows in its p values, of which some, but not many, are below .05.
    """
    monkeypatch.setattr("os.fsync", lambda file: None)             # 800 runs: nothing here need outlive a power cut,
    monkeypatch.setattr("harness.runs.git_state", lambda: {})      # and all are of one commit and of one code
    monkeypatch.setattr("harness.runs.code", lambda: {})
    knn = importlib.import_module("knn")
    path = tmp_path / "claims.yaml"
    write_text(path, """
datasets: {tiny: {roles: {audio: [noise]}}}
claims:
  - {id: control, sentence: Noise helps., source: a test, effect: c - s, smallest: 0,
     terms: {c: {method: knn, representation: noise}, s: {method: knn, representation: noise, control: true, like: c}}}
  - {id: pair, sentence: One noise is above the other., source: a test, effect: c - d, smallest: 0,
     terms: {c: {method: knn, representation: noise}, d: {method: knn, representation: other}}}
""")
    alarms, low = 0, 0
    for seed in range(200):
        tiny = tiny_workspace(tmp_path / f"w{seed}", n_users=30, n_tracks=40, n_cold=4, seed=seed)
        write_embedding(tiny, "other", np.random.default_rng(seed).normal(size=(40, 8)).astype(np.float32))
        for part in ("val", "cold_test"):
            (tiny / "data" / f"{part}.pqt").unlink()
        for flags in (["noise"], ["other"], *(["noise", "--shuffle", "--seed", str(n)] for n in (1, 2))):
            knn.main(["--workdir", str(tiny), "--k", "10", *flags])
        rows = judged(tiny, path)
        words = [rows[name, "tiny", ""]["verdict"] for name in ("control", "pair")]
        assert "not testable here" not in words
        alarms += any(word != "undecided" for word in words)
        low += rows["pair", "tiny", ""]["p"] < .05
    assert stats.binomtest(alarms, 200).proportion_ci(.98).low <= .05, alarms
    assert 2 <= low <= 24, low   # 10 expected: 2 to 21 in 998 of 1,000 such tests, and the luck of vectors adds a few


def test_the_ledger_of_the_project_is_what_claims_py_reads():
    assert claims.LEDGER == ROOT / "claims.yaml" and claims.LEDGER.is_file()
