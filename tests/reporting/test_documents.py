"""make docs: pages are as results/ says, and what is missing or was edited is refused."""
import shutil

import pandas as pd
import pytest

from harness.errors import UsageError, WorkError
from reporting import documents, stored, stored_tables
from tests.conftest import ROOT

LINES = [  # see NAMES
    ("controls", "Popularity", "popularity", "", False, .05, .01, None, 1, False, None, .01),
    ("without content", "EASE", "ease", "", False, .2, .02, None, 1, True, None, None),
    ("with content", "KNN", "knn", "a", False, .1, .02, None, 1, True, None, .2),
    ("with content", "KNN", "knn", "b_c", False, .0963, .02, .003, 5, False, .4, .001),
    ("with content", "KNN", "knn", "a", True, .0123, None, .001, 10, False, None, None)]
NAMES = ("block", "method", "recommender", "representation", "shuffled", "mean", "half_users", "half_seeds", "seeds",
         "best", "p_t", "against_p_t")


@pytest.fixture
def project(tmp_path):
    """A folder with results/, a README and docs/ of its own, and the csv that they show."""
    frame = pd.DataFrame(LINES, columns=NAMES).assign(
        metric="NDCG", k=10, changed="", control=None, permutations=0, worth=None, half_worth=None,
        runs=lambda f: f["recommender"] + "_" + f["representation"], against="ease_ (mean of 2)",
        against_difference=-.1, against_low=-.125, against_high=-.075)
    frame.loc[1, "against_difference"] = None
    frame["p_bootstrap"], frame["against_p_bootstrap"] = frame["p_t"], frame["against_p_t"]
    frame.loc[2, ["control", "permutations", "worth", "half_worth"]] = [.0123, 10, .0877, .005]
    frame.loc[2, "changed"] = "center"
    work = tmp_path / "work" / "w"
    (work / "tables").mkdir(parents=True)
    frame.to_csv(work / "tables" / "results_test.csv", index=False)
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("Nothing here.\n", encoding="utf-8")
    stored.add(work, "w", tmp_path)
    return tmp_path


def page(project, options, lines="", end="table"):
    path = project / "docs" / "page.md"
    path.write_text(f"Before.\n\n<!-- table: {options} -->\n{lines}<!-- /{end} -->\nAfter.\n", encoding="utf-8")
    return path


FILE = "file=results/w/results_test.csv"


def test_a_board_has_blocks_control_worth_and_marks(project):
    path = page(project, f"{FILE} kind=board columns=NDCG@10")
    documents.main([], project)
    assert path.read_text(encoding="utf-8").splitlines()[3:-2] == [
        "| method | representation | NDCG@10 | control | worth |", "| --- | --- | --- | --- | --- |",
        "| *controls* | | | | |", "| Popularity | | 0.0500 ±0.0100 | | |",
        "| *without content* | | | | |", "| EASE | | **0.2000** ±0.0200 | | |",
        "| *with content* | | | | |", "| KNN | a† | **0.1000** ±0.0200 | 0.0123 (10) | +0.0877 ±0.0050 |",
        "| KNN | b_c | 0.0963 ±0.0200° | no control | |"]


def test_a_board_of_some_blocks_has_differences_to_the_run_of_against(project):
    path = page(project, f"{FILE} kind=board columns=NDCG@10 blocks=controls,without-content over=ELSA")
    documents.main([], project)
    assert path.read_text(encoding="utf-8").splitlines()[3:-2] == [
        "| method | representation | NDCG@10 | over ELSA |", "| --- | --- | --- | --- |",
        "| *controls* | | | |", "| Popularity | | 0.0500 ±0.0100 | -0.1000 ±0.0250 |",
        "| *without content* | | | |", "| EASE | | **0.2000** ±0.0200 | |"], "no worth without content"


def test_predicted_plays_are_a_table_and_a_mixture_has_a_name_of_one_word(project):
    folder = project / "work" / "w" / "tables"
    (folder / "plays.csv").write_text(
        "target,model,pairs,rmse,mae,correlation\nplays,forest,7,4736.7,809.5,.1633\nplays,user,7,4873.4,877.6,.1027\n"
        "plays,constant,7,4779.5,977.3,\nlog,forest,7,.8928,.6515,-.0954\nlog,user,7,1.4692,.66,.78\n")
    frame = pd.read_csv(folder / "results_test.csv")
    frame.loc[1, ["method", "recommender", "representation"]] = "LambdaMART", "random_forest", "popularity + knn a_b"
    frame.to_csv(folder / "results_test.csv", index=False)
    stored.add(project / "work" / "w", "w", project)
    path = page(project, "file=results/w/plays.csv kind=plays")
    path.write_text(path.read_text() + f"<!-- value: {FILE} method=LambdaMART representation=popularity+knna_b -->"
                    "?<!-- /value -->\n")
    documents.main([], project)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[3:7] == [
        "| target | correlation (user's mean) | RMSE (user's mean) | MAE (user's mean) |", "| --- | --- | --- | --- |",
        "| plays | .163 (.103) | 4,737 (4,873) | 810 (878) |", "| log | -.095 (.780) | .893 (1.469) | .651 (.660) |"]
    assert ">.2000<" in lines[-1]


def test_segments_and_curves_are_tables(project):
    folder = project / "work" / "w" / "tables"
    rows = [("user-activity", name, "KNN", "a_b", worth, .01, p) for name, worth, p in (
        ("light", .02, .0004), ("heavy", -.005, .0004))]
    rows += [("user-activity", name, "KNN", "c", .02, half, .25) for name, half in (
        ("light", .01), ("heavy", None))]    # of a segment of one user
    pd.DataFrame(rows, columns=["cut", "segment", "method", "representation", "worth", "half_worth", "p_corrected"]
                 ).to_csv(folder / "worth_test_by_user_activity.csv", index=False)
    values = [("NDCG", 5, "light", None, False, .25, .01), ("NDCG", 10, "light", None, False, .8, .02),
              ("NDCG", 5, "light", None, True, .9, 0), ("NDCG", 5, "heavy", None, False, .5, .02),
              ("NDCG", 5, "heavy", "center", False, .4, .03), ("Recall", 5, "heavy", None, False, 1, 0)]
    pd.DataFrame(values, columns=["metric", "k", "segment", "changed", "shuffled", "mean", "half_users"]).assign(
        method="KNN", representation="a_b", worth_over=None
    ).to_csv(folder / "results_test_by_user_activity.csv", index=False)
    curve = [(.05, "ELSA", None, .1, None), (.05, "KNN", "a_b", .2, "↑"), (1, "ELSA", None, .3, None)]
    pd.DataFrame(curve, columns=["share", "method", "representation", "value", "mark"]).assign(half=.01).to_csv(
        folder / "data_curve.csv", index=False)
    assert stored.add(project / "work" / "w", "w", project) == [
        f"results/w/{name}.csv" for name in ("data_curve", "results_test", "results_test_by_user_activity",
                                             "worth_test_by_user_activity")]
    path = page(project, "file=results/w/worth_test_by_user_activity.csv kind=segments")
    documents.main([], project)
    assert path.read_text(encoding="utf-8").splitlines()[3:-2] == [
        "| method | representation | light | heavy | p of equal worth |", "| --- | --- | --- | --- | --- |",
        "| KNN | a_b | +0.0200 ±0.0100 | -0.0050 ±0.0100 | < .001 |",
        "| KNN | c | +0.0200 ±0.0100 | +0.0200 | .250 |"]
    path = page(project, "file=results/w/results_test_by_user_activity.csv kind=segments")
    documents.main([], project)
    assert path.read_text(encoding="utf-8").splitlines()[3:-2] == [
        "| method | representation | light | heavy |", "| --- | --- | --- | --- |",
        "| KNN | a_b | 0.2500 ±0.0100 | 0.5000 ±0.0200 |", "| KNN | a_b (center) | | 0.4000 ±0.0300 |"]
    path = page(project, "file=results/w/data_curve.csv kind=curve")
    documents.main([], project)
    assert path.read_text(encoding="utf-8").splitlines()[3:-2] == [
        "| method | representation | 5 % | 100 % |", "| --- | --- | --- | --- |",
        "| ELSA | | 0.1000 ±0.0100 | 0.3000 ±0.0100 |", "| KNN | a_b | 0.2000 ±0.0100 ↑ | |"]


def test_two_families_of_segments_have_a_p_each(project):
    folder = project / "work" / "w" / "tables"
    rows = [("known artist", .1, .04), ("new artist", .3, .04), ("exploit", .2, .5), ("discovery", .1, .5)]
    pd.DataFrame(rows, columns=["segment", "worth", "p_corrected"]).assign(
        method="KNN", representation="a_b", half_worth=.01).to_csv(folder / "worth_test_by_artist.csv", index=False)
    stored.add(project / "work" / "w", "w", project)
    path = page(project, "file=results/w/worth_test_by_artist.csv kind=segments")
    documents.main([], project)
    assert path.read_text(encoding="utf-8").splitlines()[5:-2] == [
        "| KNN | a_b | +0.1000 ±0.0100 | +0.3000 ±0.0100 | | | .040 |",
        "| KNN | a_b | | | +0.2000 ±0.0100 | +0.1000 ±0.0100 | .500 |"]


def test_a_pivot_keeps_header_and_remarks_and_no_figure(project):
    typed = ("| values | nearest | net |\n|---|---|---|\n| a (tags) | wrong | **.1500** ±.0100 |\n"
             "| b_c | **.9999** | .1600 |\n| shuffled a | | .7000 |\n")
    path = page(project, f"{FILE} kind=pivot columns=knn,shallow rows=a,b_c,shuffled:a", typed)
    documents.main([], project)
    assert path.read_text(encoding="utf-8").splitlines()[3:-2] == [
        "| values | nearest | net |", "| --- | --- | --- |", "| a (tags) | **.1000** ±.0200 | |",
        "| b_c | .0963 ±.0200 (±.0030, 5) ↓ | |", "| shuffled a | .0123 (±.0010, 10) | |"]


def test_a_pivot_of_methods_without_content_and_intervals_over_users(project):
    path = page(project, f"{FILE} kind=pivot columns=alone,knn rows=popularity,ease,b_c,shuffled:a intervals=users")
    documents.main([], project)
    assert path.read_text(encoding="utf-8").splitlines()[3:-2] == [
        "| NDCG@10 | alone | KNN |", "| --- | --- | --- |", "| popularity | .0500 ±.0100 | |",
        "| ease | **.2000** ±.0200 | |", "| b_c | | **.0963** ±.0200 |", "| shuffled a | | .0123 ±.0010 |"]


def test_of_several_settings_that_with_a_control_is_shown_never_the_best(project):
    frame = pd.read_csv(project / "results" / "w" / "results_test.csv")
    own = frame[(frame["representation"] == "a") & ~frame["shuffled"]]
    others = [own.assign(mean=mean, changed=changed, control=None) for mean, changed in (
        (.9, "lr 0.1, l2 0.2"), (.8, "lr 0.3"))]
    options = {"kind": "pivot", "columns": "knn", "rows": "a"}
    assert stored_tables.lines_of(options, pd.concat([*others, own]), [])[2] == "| a | **.1000** ±.0200 |"
    assert stored_tables.lines_of(options, pd.concat(others), [])[2] == "| a | **.8000** ±.0200 |"


def test_two_files_of_one_split_are_one_table_and_the_first_counts(project):
    frame = pd.read_csv(project / "results" / "w" / "results_test.csv").assign(split_sha256="one")
    later = frame[frame["recommender"] == "knn"].assign(mean=.9, half_users=.01)
    later = pd.concat([later, later.assign(recommender="shallow", method="Shallow Net", runs="net_s1", mean=.3)])
    work = project / "work" / "w"
    for name, lines in (("w", frame), ("later", later), ("other", later.assign(split_sha256="two"))):
        lines.to_csv(work / "tables" / "results_test.csv", index=False)
        stored.add(work, name, project)
    files = "file=results/w/results_test.csv,results/later/results_test.csv"
    path = page(project, f"{files} kind=pivot columns=knn,shallow rows=a intervals=users")
    documents.main([], project)
    assert path.read_text(encoding="utf-8").splitlines()[5] == "| a | **.1000** ±.0200 | **.3000** ±.0100 |"
    page(project, f"{files.replace('later', 'other')} kind=pivot columns=knn rows=a")
    with pytest.raises(WorkError, match="other/results_test.csv and results/w/.* are of different splits"):
        documents.main([], project)


def test_lines_of_methods_name_the_reference(project):
    path = page(project, f"{FILE} kind=methods columns=NDCG@10 rows=popularity,ease,knn:a")
    documents.main([], project)
    assert path.read_text(encoding="utf-8").splitlines()[5:-2] == [
        "| popularity | .0500 ±.0100 ↓ |", "| ease | **.2000** ±.0200, reference |", "| KNN, a | .1000 ±.0200 |"]


def test_a_value_in_a_sentence(project):
    path = project / "README.md"
    path.write_text(f"KNN reaches <!-- value: {FILE} method=knn representation=a -->.9<!-- /value -->, worth "
                    f"<!-- value: {FILE} method=knn representation=a field=worth digits=2 --><!-- /value -->.\n",
                    encoding="utf-8")
    documents.main([], project)
    assert "-->.1000<!--" in path.read_text(encoding="utf-8") and "-->.09<!--" in path.read_text(encoding="utf-8")


def test_only_a_leading_zero_goes():
    assert [stored_tables.leading_zero_off(text) for text in ("0.1234", "-0.5", "110.0", "10.5")] == [
        ".1234", "-.5", "110.0", "10.5"]


def test_verdicts_of_claims(project):
    work = project / "work" / "c"
    (work / "claims").mkdir(parents=True)
    pd.DataFrame([
        {"claim": "a", "overall": "mixed", "sentence": "A.", "source": "a paper", "kind": kind, "dataset": data,
         "variant": variant, "verdict": word, "compares": "KNN a - KNN b", "effect": .5, "low": .25, "high": .75,
         "takes": takes}
        for kind, data, variant, word, takes in (
            ("real", "one", "musicnn", "holds", None), ("real", "two", None, "undecided", "7 seeds"),
            ("real", "two", None, "not testable here", None), ("by construction", "made", None, "fails", None))
    ]).to_csv(work / "claims" / "claims.csv", index=False)
    stored.add(work, "c", project)
    path = page(project, "file=results/c/claims.csv kind=claims")
    documents.main([], project)
    assert path.read_text(encoding="utf-8").splitlines()[5:-2] == [
        "| a (musicnn) | one | KNN a - KNN b | **holds** | +0.5000 (+0.2500 to +0.7500) | |",
        "| a | two | KNN a - KNN b | undecided | +0.5000 (+0.2500 to +0.7500) | 7 seeds |"]
    path = page(project, "file=results/c/claims.csv kind=claims kinds=by-construction")
    documents.main([], project)
    assert "| a | made | KNN a - KNN b | **fails** |" in path.read_text(encoding="utf-8")
    page(project, "file=results/c/claims.csv kind=claims claims=a,b")
    with pytest.raises(WorkError, match="the file has no test of b"):
        documents.main([], project)
    path = page(project, "file=results/c/claims.csv kind=claims kinds=by-construction claims=a")
    documents.main([], project)
    assert len(path.read_text(encoding="utf-8").splitlines()) == 8
    path = page(project, "file=results/c/claims.csv kind=overall")
    documents.main([], project)
    assert path.read_text(encoding="utf-8").splitlines()[3:-2] == [
        "| claim | source | verdict |", "| --- | --- | --- |", "| A. | a paper | mixed |"]


def test_check_writes_nothing_and_says_which_page_differs(project, capsys):
    path = page(project, f"{FILE} kind=methods columns=NDCG@10 rows=ease")
    before = path.read_bytes()
    with pytest.raises(WorkError, match=r"^docs/page.md differs from results/; make docs writes it again$"):
        documents.main(["--check"], project)
    assert path.read_bytes() == before
    documents.main([], project)
    documents.main(["--check"], project)
    assert "every table is as its file in results/" in capsys.readouterr().out


@pytest.mark.parametrize(("damage", "sentence"), [
    ("edited", "is not the file that was stored (its checksum differs from results/checksums.txt)"),
    ("gone", "results_test.csv is gone; git has it"),
    ("unlisted", "is not in results/checksums.txt; python -m reporting.documents --add"),
    ("no list", "checksums.txt is gone"), ("no sums", "should hold lines of a sha256 and a file name")])
def test_a_file_that_is_not_the_stored_one_is_refused(project, damage, sentence):
    path, before = page(project, f"{FILE} kind=methods columns=NDCG@10 rows=ease"), None
    csv, sums = project / "results" / "w" / "results_test.csv", project / "results" / "checksums.txt"
    if damage == "edited":
        csv.write_text(csv.read_text(encoding="utf-8").replace("0.2", "0.3"), encoding="utf-8")
    elif damage == "gone":
        csv.unlink()
    elif damage == "no list":
        sums.unlink()
    else:
        sums.write_text("" if damage == "unlisted" else "what is this\n", encoding="utf-8")
    before = path.read_bytes()
    with pytest.raises(WorkError) as error:
        documents.main([], project)
    assert sentence in str(error.value) and "\n" not in str(error.value) and path.read_bytes() == before


@pytest.mark.parametrize(("options", "sentence"), [
    (f"{FILE} kind=pie columns=NDCG@10", "kind=pie is none of board, methods, pivot, overall, claims"),
    (f"{FILE} kind=board columns=NDCG@10 blocks=mixtures", "the file has no block mixtures; it has controls, "),
    (f"{FILE} kind=board columns=Recall@5", "the file has no Recall@5"), (f"{FILE} kind=board", "needs columns=.."),
    (f"{FILE} kind=claims", "does not fit its file (KeyError: 'kind')"),
    (f"{FILE} kind=segments", "does not fit its file ("), (f"{FILE} kind=curve", "does not fit its file ("),
    (f"{FILE} kind=board columns=NDCG@ten", "does not fit its file (ValueError: "),
    (f"{FILE} kind=board columns=NDCG", "does not fit its file (ValueError: "),
    (f"{FILE} as a table", "described by key=value words"), ("kind=board", "is not in results/checksums.txt")])
def test_a_wrong_comment_names_its_page(project, options, sentence):
    page(project, options)
    with pytest.raises(WorkError, match="^docs/page.md: ") as error:
        documents.main([], project)
    assert sentence in str(error.value)
    page(project, f"{FILE} kind=board columns=NDCG@10", end="tables")
    with pytest.raises(WorkError, match="a table or value has no end"):
        documents.main([], project)


def test_a_value_that_is_no_number_and_a_stored_file_that_is_no_csv(project):
    path = project / "README.md"
    for options, sentence in (("field=method", "does not fit its file ("), ("digits=x", "does not fit its file (")):
        path.write_text(f"<!-- value: {FILE} method=knn representation=a {options} -->.9<!-- /value -->\n",
                        encoding="utf-8")
        with pytest.raises(WorkError, match="^README.md: ") as error:
            documents.main([], project)
        assert sentence in str(error.value)
    csv = project / "results" / "w" / "results_test.csv"
    for damage in (b"", b"\xff\xfe\x00", b'a,b\n"1,2\n'):
        csv.write_bytes(damage)
        stored.update_sums([csv], root=project)
        with pytest.raises(WorkError, match="cannot be read as csv|does not fit its file"):
            documents.main([], project)


def test_what_cannot_be_stored(tmp_path):
    with pytest.raises(WorkError, match="has no results_"):
        stored.add(tmp_path, "w", tmp_path)
    with pytest.raises(UsageError, match="should be small letters"):
        stored.add(tmp_path, "../w", tmp_path)


def test_make_docs_leaves_no_difference(capsys):
    documents.main(["--check"])
    assert capsys.readouterr().out == "every table is as its file in results/\n"
    texts = {path.name: path.read_text(encoding="utf-8") for path in documents.pages(ROOT)}
    assert texts["README.md"].count("<!-- table: ") >= 2 and texts["results.md"].count("<!-- table: ") >= 4


def test_every_stored_file_is_listed_and_as_it_was():
    sums = stored.read_sums()
    files = {p.relative_to(ROOT).as_posix() for p in (ROOT / "results").rglob("*.*")
             if p.suffix in (".csv", ".json", ".pqt")}
    assert files == set(sums) and all(stored.checked(name) for name in files)


def test_a_later_add_replaces_and_keeps_the_others(project):
    other = project / "work" / "w"
    stored.add(other, "again", project)
    shutil.rmtree(project / "results" / "w")
    stored.add(other, "w", project)
    assert set(stored.read_sums(project)) == {f"results/{n}/{f}" for n in ("w", "again")
                                              for f in ("made.json", "results_test.csv")}


def test_an_add_takes_no_other_file_for_stored(project):
    """A file edited by hand elsewhere in results/ stays refused, and one that was never stored stays unlisted."""
    stored.add(project / "work" / "w", "again", project)
    before = stored.read_sums(project)
    with open(project / "results" / "again" / "results_test.csv", "a", encoding="utf-8") as f:
        f.write("edited\n")
    (project / "results" / "stray.csv").write_text("a\n1\n")
    documents.main(["--add", str(project / "work" / "w")], project)
    assert stored.read_sums(project) == before
    with pytest.raises(WorkError, match="again/results_test.csv is not the file that was stored"):
        stored.checked("results/again/results_test.csv", project)


@pytest.mark.parametrize(("content", "sentence"), [
    (b"", "cannot be read as csv"), (b"\xff\xfe\x00", "cannot be read as csv"),
    (b'a,b\n"1,2\n', "cannot be read as csv"), (b"method,metric,k,mean\n", "has no rows"),
    (b"a,b\n1,2\n", "has no column method")])
@pytest.mark.parametrize("name", ["results_test.csv", "results_zz.csv"])
def test_a_damaged_table_is_stored_nowhere(project, content, sentence, name):
    path = project / "work" / "w" / "tables" / name
    before = {p: p.read_bytes() for p in (project / "results").rglob("*") if p.is_file()}
    path.write_bytes(content)
    (path.parent / "plays.csv").write_text("target\nlog\n")
    with pytest.raises(WorkError, match=sentence) as error:
        documents.main(["--add", str(project / "work" / "w")], project)
    assert str(path) in str(error.value) and "table.py" in str(error.value)
    assert {p: p.read_bytes() for p in (project / "results").rglob("*") if p.is_file()} == before


def test_a_damaged_list_of_sums_is_said_before_anything_is_stored(project):
    sums, csv = project / "results" / "checksums.txt", project / "results" / "w" / "results_test.csv"
    for damage in ("what is this\n", None):
        before = csv.read_bytes()
        sums.write_text(damage) if damage else sums.unlink()
        with open(project / "work" / "w" / "tables" / "results_test.csv", "a", encoding="utf-8") as f:
            f.write("controls,Other,other,,False\n")
        with pytest.raises(WorkError, match="should hold lines|checksums.txt is gone"):
            documents.main(["--add", str(project / "work" / "w")], project)
        assert csv.read_bytes() == before


@pytest.mark.parametrize(("words", "sentence"), [
    (["--add", "W", "--check"], "--check writes nothing, and --add stores; leave out one of them"),
    (["--name", "zz"], "--name is the folder that --add stores into; add --add WORKDIR"),
    (["--add", ""], "--add needs the folder of a workspace"),
    (["--add", "W", "--name", ""], "should be small letters")])
def test_flags_that_contradict_are_refused(project, words, sentence):
    words = [str(project / "work" / "w") if word == "W" else word for word in words]
    before = (project / "results" / "checksums.txt").stat().st_mtime_ns
    with pytest.raises(UsageError, match=sentence):
        documents.main(words, project)
    assert (project / "results" / "checksums.txt").stat().st_mtime_ns == before
