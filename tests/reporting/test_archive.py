"""Runs kept in results/ give, restored, the tables that they were kept from; what does not fit is refused."""
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import claims
import knn
import metrics
import table
from bench import fused_bar
from harness.errors import UsageError, WorkError
from reporting import archive, stored
from tests.worlds.world import tiny_workspace


@pytest.fixture
def project(tmp_path):
    """A folder with an empty results/."""
    (tmp_path / "project" / "results").mkdir(parents=True)
    return tmp_path / "project"


@pytest.fixture(scope="module")
def evaluated_once(tmp_path_factory):
    from recommenders import content_knn, popularity
    tiny = tiny_workspace(tmp_path_factory.mktemp("evaluated") / "tiny")
    knn.main(["content", "--workdir", str(tiny)])
    for seed in (1, 2):
        knn.main(["content", "--shuffle", "--seed", str(seed), "--workdir", str(tiny)])
    popularity.main(["--workdir", str(tiny)])
    content_knn.main(["content", "--workdir", str(tiny)])
    metrics.main(["--workdir", str(tiny)])
    table.main(["--metrics", "NDCG@10", "Coverage@10", "--workdir", str(tiny)])
    return tiny


@pytest.fixture
def evaluated(evaluated_once, tmp_path):
    """A tiny workspace with runs of three methods, a control of two permutations, and its table."""
    return Path(shutil.copytree(evaluated_once, tmp_path / "tiny"))


@pytest.fixture(scope="module")
def restored(tmp_path_factory):
    """A function: the workspace of the kept runs of a name, restored once; tests write into its tables/ alone."""
    folder = tmp_path_factory.mktemp("restored")

    def of(name):
        if not (folder / name).exists():
            archive.restore(name, folder / name)
        return folder / name
    return of


def tables(workdir):
    return {path.name: path.read_bytes() for path in sorted((workdir / "tables").iterdir())}


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_restored_into_an_empty_folder_the_tables_are_the_same_bytes(evaluated, project, tmp_path, capsys):
    archive.main(["keep", "small", "--workdir", str(evaluated)], project)
    again = tmp_path / "again" / evaluated.name
    archive.main(["restore", "small", "--workdir", str(again)], project)
    assert "5 runs of small are in" in capsys.readouterr().out
    table.main(["--metrics", "NDCG@10", "Coverage@10", "--workdir", str(again)])
    assert tables(again) == tables(evaluated)
    before = files(again)
    archive.main(["restore", "small", "--workdir", str(again)], project)   # a second time nothing changes
    assert files(again) == before


def test_what_needs_lists_says_what_restored_runs_lack(evaluated, project, tmp_path):
    archive.main(["keep", "small", "--workdir", str(evaluated)], project)
    archive.main(["restore", "small", "--workdir", str(tmp_path / "again")], project)
    with pytest.raises(WorkError, match="has runs but no tracks, as restored ones do"):
        table.main(["--metrics", "NDCG@10", "--by", "user-activity", "--workdir", str(tmp_path / "again")])


def test_subsets_of_another_draw_are_refused_beside_restored_ones(evaluated, project, tmp_path):
    asked, shown = ["--subset-size", "2", "--seed"], ["--metrics", "SubsetAccuracy@2", "--workdir"]
    metrics.main([*asked, "7", "--workdir", str(evaluated)])
    archive.main(["keep", "small", *shown, str(evaluated)], project)
    new = tmp_path / "new"
    shutil.copytree(evaluated, new)
    for path in new.glob("runs/[!p]*"):     # of popularity alone lists are there
        shutil.rmtree(path)
    archive.main(["restore", "small", "--workdir", str(new)], project)
    popularity = next(path.name for path in new.glob("runs/popularity*"))
    metrics.main([popularity, *asked, "7", "--workdir", str(new)])
    table.main([*shown, str(new)])
    metrics.main([popularity, *asked, "42", "--workdir", str(new)])
    with pytest.raises(WorkError, match="of subsets drawn with seed"):
        table.main([*shown, str(new)])


def test_no_path_of_the_machine_is_kept(evaluated_once, project):
    archive.main(["keep", "small", "--workdir", str(evaluated_once)], project)
    kept = pd.read_parquet(project / "results" / "small" / "runs" / "runs.pqt")
    assert len(kept) == 5 and not kept["config"].str.contains(str(evaluated_once.parent), regex=False).any()


def test_kept_again_it_is_the_same_and_a_method_that_is_gone_goes(evaluated, project):
    archive.main(["keep", "small", "--workdir", str(evaluated)], project)
    folder = project / "results" / "small" / "runs"
    before = files(folder)
    assert {path.stem for path in folder.glob("test/*.pqt")} == {"knn", "content_knn", "popularity"}
    archive.main(["keep", "small", "--workdir", str(evaluated)], project)
    assert files(folder) == before
    for path in (evaluated / "runs").glob("popularity*"):
        shutil.rmtree(path)
    archive.main(["keep", "small", "--workdir", str(evaluated)], project)
    assert {path.stem for path in folder.glob("test/*.pqt")} == {"knn", "content_knn"}
    listed = {f"results/small/runs/{path}" for path in files(folder)}
    assert set(stored.read_sums(project)) == listed and all(stored.checked(name, project) for name in listed)


def test_a_table_is_continued_in_a_workspace_of_the_same_split(evaluated, project, tmp_path):
    archive.main(["keep", "small", "--workdir", str(evaluated)], project)
    new = tmp_path / "elsewhere" / evaluated.name
    shutil.copytree(evaluated, new)
    for name in ("runs", "metrics", "preds", "tables"):
        shutil.rmtree(new / name)
    archive.main(["restore", "small", "--workdir", str(new)], project)
    from recommenders import chance
    for workdir in (evaluated, new):
        chance.main(["--workdir", str(workdir)])
        metrics.main([next(iter(path.name for path in (workdir / "runs").glob("chance*"))), "--workdir", str(workdir)])
        table.main(["--metrics", "NDCG@10", "--workdir", str(workdir)])
    read = [pd.read_csv(w / "tables" / "results_test.csv").drop(columns="code_changed") for w in (evaluated, new)]
    pd.testing.assert_frame_equal(*read)
    assert "chance" in set(read[0]["recommender"])


def test_another_split_is_refused_and_nothing_written(evaluated, project, tmp_path):
    archive.main(["keep", "small", "--workdir", str(evaluated)], project)
    other = tmp_path / "other"
    shutil.copytree(evaluated / "data", other / "data")
    shutil.copy(evaluated / "trackid_sorted.csv", other)
    train = pd.read_parquet(other / "data" / "train.pqt")
    train.iloc[:-1].to_parquet(other / "data" / "train.pqt")
    with pytest.raises(WorkError, match=r"has another data/train.pqt than that of run \S+; restore into"):
        archive.main(["restore", "small", "--workdir", str(other)], project)
    assert not (other / "runs").exists()


def test_an_edited_file_is_refused(evaluated, project, tmp_path):
    archive.main(["keep", "small", "--workdir", str(evaluated)], project)
    path = project / "results" / "small" / "runs" / "test" / "knn.pqt"
    frame = pd.read_parquet(path)
    frame.iloc[0, 1] += 1e-9
    frame.to_parquet(path)
    with pytest.raises(WorkError, match=r"knn.pqt is not the file that was stored"):
        archive.main(["restore", "small", "--workdir", str(tmp_path / "again")], project)


@pytest.mark.parametrize("words, sentence", [
    (["restore"], "restore needs the NAME of a folder of results/"),
    (["restore", "nothing"], "no runs of 'nothing' are kept in results/; there are none of any"),
    (["restore", "x", "--metrics", "NDCG@10"], "--metrics is for keep"),
    (["keep", "../x"], "should be small letters, digits and hyphens")])
def test_usage(words, sentence, tiny, project):
    with pytest.raises(UsageError, match=sentence):
        archive.main([*words, "--workdir", str(tiny)], project)


def test_a_table_of_runs_that_are_gone_is_not_stored(evaluated, project):
    stored.add(evaluated, "small", root=project)
    before = files(project)
    shutil.rmtree(next((evaluated / "runs").glob("content-knn_*")))
    with pytest.raises(WorkError, match="shows run content-knn_.*which is not among the finished ones"):
        stored.add(evaluated, "small", root=project)
    assert files(project) == before


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n"])
def test_a_damaged_table_is_one_sentence(evaluated, project, text):
    (evaluated / "tables" / "results_test.csv").write_text(text, encoding="utf-8")
    with pytest.raises(WorkError, match="python table.py --workdir .* writes it again"):
        archive.main(["keep", "small", "--workdir", str(evaluated)], project)


def test_a_workspace_without_tables_or_metrics_is_refused(tiny, project):
    with pytest.raises(WorkError, match=r"has no results_\*.csv"):
        archive.main(["keep", "small", "--workdir", str(tiny)], project)
    with pytest.raises(WorkError, match="has no finished run to keep"):
        archive.main(["keep", "small", "--metrics", "NDCG@10", "--workdir", str(tiny)], project)
    knn.main(["content", "--workdir", str(tiny)])
    with pytest.raises(WorkError, match="has NDCG@999; python metrics.py --k"):
        archive.main(["keep", "small", "--metrics", "NDCG@10", "NDCG@999", "--workdir", str(tiny)], project)
    for path in (tiny / "metrics").glob("*_test.csv"):
        path.unlink()
    with pytest.raises(WorkError, match="is gone; python metrics.py"):
        archive.main(["keep", "small", "--metrics", "NDCG@10", "--workdir", str(tiny)], project)
    assert not (project / "results" / "small").exists()


def test_runs_of_other_users_are_refused(evaluated, project):
    path = evaluated / "metrics" / "content_cosine_test.pqt"
    pd.read_parquet(path).iloc[1:].to_parquet(path)
    with pytest.raises(WorkError, match="was evaluated on other users than"):
        archive.main(["keep", "small", "--workdir", str(evaluated)], project)
    assert not (project / "results" / "small" / "runs").exists()


def test_keep_takes_no_other_file_for_stored(evaluated, project):
    for name in ("small", "other"):
        archive.main(["keep", name, "--workdir", str(evaluated)], project)
    before = stored.read_sums(project)
    with open(project / "results" / "other" / "runs" / "workspace.json", "a", encoding="utf-8") as f:
        f.write("\n")
    (project / "results" / "stray.csv").write_text("a\n1\n")
    archive.main(["keep", "small", "--workdir", str(evaluated)], project)
    assert stored.read_sums(project) == before


def test_a_damaged_list_of_sums_is_said_before_anything_is_kept(evaluated, project):
    (project / "results" / "checksums.txt").write_text("what is this\n")
    with pytest.raises(WorkError, match="should hold lines of a sha256"):
        archive.main(["keep", "small", "--workdir", str(evaluated)], project)
    assert not (project / "results" / "small").exists()


@pytest.mark.parametrize("folder, name", [("My_W", []), ("My_W/..", []), ("My_W", [""])])
def test_the_name_of_a_folder_is_checked_as_one_given(folder, name, tiny, project):
    workdir = tiny / folder
    (tiny / "My_W").mkdir()
    with pytest.raises(UsageError, match="should be small letters, digits and hyphens"):
        archive.main(["keep", *name, "--metrics", "NDCG@10", "--workdir", str(workdir)], project)


@pytest.mark.parametrize("path, content, sentence", [
    ("data/split.json", '{"status": "writing"}', r"split.json is not finished: .*1_train_test_split.py again"),
    ("dataset.json", '{"status": "writing"}', r"dataset.json is not finished: .*0_get_plays_pqt.py again"),
    ("data/split.json", "{", "split.json cannot be read as json")])
def test_a_workspace_that_is_not_finished_is_not_kept(path, content, sentence, evaluated, project):
    (evaluated / path).write_text(content)
    with pytest.raises(WorkError, match=sentence):
        archive.main(["keep", "small", "--workdir", str(evaluated)], project)
    assert not (project / "results" / "small").exists()


def test_what_is_damaged_or_differs_is_restored_again(evaluated, project, tmp_path, capsys):
    archive.main(["keep", "small", "--workdir", str(evaluated)], project)
    again = tmp_path / "again"
    archive.main(["restore", "small", "--workdir", str(again)], project)
    assert "made again" not in capsys.readouterr().out
    before = files(again)
    (again / "metrics" / "content_cosine_test.pqt").write_bytes(b"no parquet")
    (again / "metrics" / "content_cosine_val.csv").unlink()
    shuffled = next(again.glob("metrics/content_cosine_seed-1_shuffled_*[!d]_test.csv"))
    assert "mean,0" in shuffled.read_text()
    shuffled.write_text(shuffled.read_text().replace("mean,0", "mean,1"))
    known = next(again.glob("metrics/popularity*_test.pqt"))
    frame = pd.read_parquet(known)
    frame.iloc[0, 1] += 1e-9
    frame.to_parquet(known)
    next(again.glob("runs/content-knn*/config.json")).write_text("{")
    archive.main(["restore", "small", "--workdir", str(again)], project)
    assert "; 4 of its metrics files were gone, damaged or other than kept, and were made again" in (
        capsys.readouterr().out)
    assert files(again) == before
    table.main(["--metrics", "NDCG@10", "--workdir", str(again)])


def test_a_run_made_in_the_workspace_stays_and_its_damage_is_said(evaluated, project, capsys):
    archive.main(["keep", "small", "--workdir", str(evaluated)], project)
    (evaluated / "metrics" / "content_cosine_test.pqt").write_bytes(b"no parquet")
    before = files(evaluated)
    archive.main(["restore", "small", "--workdir", str(evaluated)], project)
    said = capsys.readouterr()
    assert "damaged or other than kept, and left, as their runs were made there: 1 metrics files " \
           "(content_cosine_test.csv); python metrics.py evaluates saved lists again\n" in said.err
    assert files(evaluated) == before


def test_an_edited_file_is_found_before_anything_is_restored(evaluated, project, tmp_path):
    archive.main(["keep", "small", "--workdir", str(evaluated)], project)
    with open(project / "results" / "small" / "runs" / "test" / "popularity.pqt", "ab") as f:
        f.write(b"edited")
    with pytest.raises(WorkError, match=r"popularity.pqt is not the file that was stored"):
        archive.main(["restore", "small", "--workdir", str(tmp_path / "again")], project)
    assert not files(tmp_path / "again")


def test_without_lists_the_remedy_of_damaged_metrics_is_restore(evaluated, project, tmp_path):
    archive.main(["keep", "small", "--workdir", str(evaluated)], project)
    again = tmp_path / "again"
    archive.main(["restore", "small", "--workdir", str(again)], project)
    for name in ("content_cosine_test.pqt", "content_cosine_val.csv"):
        before = (again / "metrics" / name).read_bytes()
        (again / "metrics" / name).write_bytes(b"\x00")
        with pytest.raises(WorkError, match="cannot be read as .*reporting.archive restore NAME --workdir") as error:
            table.main(["--metrics", "NDCG@10", "--workdir", str(again)])
        assert "metrics.py" not in str(error.value) and str(again) in str(error.value)
        archive.main(["restore", "small", "--workdir", str(again)], project)
        assert (again / "metrics" / name).read_bytes() == before


KEPT = sorted(path.parents[1].name for path in stored.ROOT.glob("results/*/runs/runs.pqt"))


@pytest.mark.parametrize("name", KEPT)
def test_the_stored_tables_are_those_of_the_kept_runs(name, restored):
    """Figures of results_<part>.csv again from the values of users: within the last digits of their sums."""
    workdir = restored(name)
    for path in sorted((stored.ROOT / "results" / name).glob("results_*test.csv")):
        expected = pd.read_csv(path)
        part = path.stem.removeprefix("results_")
        metric = f"{expected['metric'][0]}@{expected['k'][0]}"
        table.main(["--metrics", metric, "--parts", part, "--workdir", str(workdir)])
        expected = expected[expected["metric"] + "@" + expected["k"].astype(str) == metric]
        given = pd.read_csv(workdir / "tables" / path.name)
        columns = ["method", "representation", "shuffled", "changed", "mean", "half_users", "half_seeds", "control",
                   "worth", "half_worth", "best", "difference", "p_t", "runs"]
        pd.testing.assert_frame_equal(given[columns], expected[columns].reset_index(drop=True), rtol=1e-9,
                                      check_dtype=False)


def test_the_stored_verdicts_are_those_of_the_kept_runs(tmp_path, restored):
    """claims.csv again from the values of users alone: the same verdicts, and numbers within the last digits."""
    about = stored.read("results/claims/claims.csv")
    of = {"kkbox": "kkbox-generated", "demo": "demo-full", "spotify": "spotify-cold"}
    names = [of.get(name, name) for name in dict.fromkeys(about["dataset"])]
    claims.main(["--workdir", *(str(restored(name)) for name in names), "--out", str(tmp_path / "claims")])
    given = pd.read_csv(tmp_path / "claims" / "claims.csv", keep_default_na=False, na_values=[""])
    numbers = ["effect", "low", "high", "users", "seeds", "p", "p_bh", "p_holm"]
    columns = ["claim", "dataset", "kind", "variant", "verdict", "overall", "compares", "runs", *numbers]
    pd.testing.assert_frame_equal(given[columns], about[columns], rtol=1e-6, check_dtype=False)


@pytest.mark.parametrize("name", ["lastfm-fused", "lastfm-cold"])
def test_the_kept_runs_give_the_stored_comparisons(restored, monkeypatch, name):
    """Restored without data; the bootstrap of the lower ends is shortened, all else is as stored."""
    workdir = restored(name)
    monkeypatch.setattr(fused_bar, "relative", lambda own, other: (own.table.mean() / other.table.mean() - 1, 0.0))
    fused_bar.main(["--workdir", str(workdir), "--file", str(stored.ROOT / "bench" / "bars" / f"{name}.yaml")])
    made, kept = (pd.read_csv(path, keep_default_na=False, na_values=[""]) for path in
                  (workdir / "tables" / "bar.csv", stored.ROOT / "results" / name / "bar.csv"))
    assert len(kept) > 50
    exact = ["group", "model", "runs", "seeds", "part", "against", "margin"]
    pd.testing.assert_frame_equal(made[exact], kept[exact])
    for column in ("value", "cold_share", "reference", "difference", "p"):   # float64 sums in one order
        np.testing.assert_allclose(made[column], kept[column], rtol=1e-9, err_msg=column)
