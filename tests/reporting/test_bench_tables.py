"""docs/benchmarks.md is rendered from the rows that python -m bench --keep stores; nothing is measured here."""
import json

import pytest

from bench import __main__ as bench
from harness.errors import UsageError, WorkError
from reporting import bench_tables, documents, stored

ROWS = [
    {"what": "sampled by item, D=200", "ours": 41234.4, "baseline": 600.0, "unit": "pairs/s", "ratio": 68.72},
    {"what": "peak of it", "ours": .0412, "unit": "GiB", "note": "a|b_c"},
    {"what": "sampled by user", "ours": 2.0, "baseline": 1.0, "unit": "s", "ratio": .5, "note": "limit 4"}]
COSTS = [
    {"what": "EASE, inv(G) of 9 items", "ours": 1.5, "baseline": 3.0, "unit": "s", "ratio": 2.0, "note": "same scores"},
    {"what": "ease, lastfm", "ours": 1.14, "recommend_s": .784, "peak_gib": .801, "note": "fit: all of it; and so on"},
    {"what": "two_tower, lastfm", "ours": 5.4, "recommend_s": .39, "peak_gib": .72, "note": "fit: one epoch; .."},
    {"what": "ease, music4all", "ours": 84.6, "recommend_s": 26.04, "peak_gib": 2.91, "note": "fit: all of it"},
    {"what": "dropoutnet, music4all", "ours": None, "peak_gib": 5.5, "note": "no figure: stopped after 300 s (5.50)"}]
GROWTH = [
    {"what": "ease", "expected": [3, 0, 2], "users": 2.969, "items": None, "pairs": None, "note": "exponents: .."},
    {"what": "two_tower", "expected": None, "users": -.074, "items": None, "pairs": 1.2, "times": 4,
     "note": "exponents: users -; 8 times the pairs: stopped after 200 s"}]
PARTS = {"decode": .01, "resample": .002, "mel": .008, "model": .02}
EXTRACT = [
    {"what": "musicnn, 32 tracks", "ours": 6.25, "seconds_per_part": PARTS, "share_of_matrix_products": .672},
    {"what": "mfcc, 32 tracks", "ours": 40.0, "seconds_per_part": PARTS | {"model": 0.0},
     "share_of_matrix_products": None},
    {"what": "mule", "note": "not measured: no weights"}]


@pytest.fixture(name="project")
def project_with_rows(tmp_path, monkeypatch):
    """A project whose results/bench/ has the rows of three measurements."""
    monkeypatch.setattr(bench, "MEASURED", tmp_path / "measured")
    for name, rows in (("pairs", ROWS), ("costs", COSTS), ("growth", GROWTH), ("extract", EXTRACT)):
        bench.print_rows(name, rows)
    bench.keep(["pairs", "costs", "growth", "extract"], tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("Nothing here.\n", encoding="utf-8")
    return tmp_path


def table(project, options):
    path = project / "docs" / "page.md"
    path.write_text(f"<!-- table: {options} -->\n<!-- /table -->\n", encoding="utf-8")
    documents.main([], project)
    return path.read_text(encoding="utf-8").splitlines()[1:-1]


def test_a_pair_has_both_figures_and_their_ratio(project):
    assert table(project, "file=results/bench/pairs.json") == [
        "| what | ours | baseline | ratio | note |", "| --- | --- | --- | --- | --- |",
        "| sampled by item, D=200 | 41,200 pairs/s | 600 pairs/s | 68.7 | |",
        "| sampled by user | 2.00 s | 1.00 s | .500 | limit 4 |"]
    lines = table(project, "file=results/bench/pairs.json all=yes rows=sampled_by_user,peak")
    assert lines[2:] == ["| sampled by user | 2.00 s | 1.00 s | .500 | limit 4 |",
                         "| peak of it | .0412 GiB | | | a\\|b\\_c |"]


def test_rows_have_the_fields_asked_for(project):
    assert table(project, "file=results/bench/pairs.json kind=rows columns=what,ours:the_figure,note rows=peak") == [
        "| what | the figure | note |", "| --- | --- | --- |", "| peak of it | .0412 | a\\|b\\_c |"]


def test_a_gain_names_the_plain_form():
    import pandas as pd
    frame = pd.DataFrame([{"what": "a trick", "ours": .1, "baseline": .2, "ratio": 2.0, "against": "autograd"}])
    assert bench_tables.lines_of({}, frame, []) == [
        "| what | ours | compared with | its figure | gain |", "| --- | --- | --- | --- | --- |",
        "| a trick | .100 | autograd | .200 | 2.00 |"]


def test_costs_have_epochs_in_brackets_and_what_did_not_end(project):
    assert table(project, "file=results/bench/costs.json kind=costs sizes=lastfm,music4all")[2:] == [
        "| `ease` | 1.14 | .784 | 0.80 | 84.6 | 26.0 | 2.91 |", "| `two_tower` | (5.40) | .390 | 0.72 | | | |",
        "| `dropoutnet` | | | | (above 300) | | 5.50 |"]


def test_growth_has_expected_exponents_in_brackets(project):
    assert table(project, "file=results/bench/growth.json kind=growth")[2:] == [
        "| `ease` | 2.97 (3) | (0) | (2) | |",
        "| `two_tower` | -.07 | | 1.20 | 4 times the base; 8 times the pairs: stopped after 200 s |"]


def test_extraction_has_shares_of_a_tracks_time_and_the_hours_of_catalogues(project):
    assert table(project, "file=results/bench/extract.json kind=extraction catalogues=56512,10000000") == [
        "| backend | tracks/s | decode, resample, mel, model | beside a large matrix product | 56,512 tracks | "
        "10,000,000 tracks |", "| --- | --- | --- | --- | --- | --- |",
        "| `musicnn` | 6.25 | 25, 5, 20, 50 % | 67 % | 2.51 h | 444 h |",
        "| `mfcc` | 40.0 | 50, 10, 40, 0 % | | .392 h | 69.4 h |",
        "| `mule` | not measured: no weights | | | | |"]


def test_a_sentence_takes_a_figure(project):
    path = project / "docs" / "page.md"
    told = "<!-- value: file=results/bench/pairs.json what="
    path.write_text(f"{told}sampled_by_item digits=1 -->?<!-- /value --> times, "
                    f"{told}peak field=ours -->?<!-- /value --> GiB\n", encoding="utf-8")
    documents.main([], project)
    text = path.read_text(encoding="utf-8")
    assert "-->68.7<!--" in text and "-->.0412<!--" in text
    path.write_text("<!-- value: file=results/bench/pairs.json what=sampled -->?<!-- /value -->\n", encoding="utf-8")
    with pytest.raises(WorkError, match="has 2 rows that begin 'sampled'"):
        documents.main([], project)


def test_a_row_measured_again_takes_the_place_of_the_first(project):
    bench.print_rows("pairs", [ROWS[2] | {"ratio": 3.0}, {"what": "another", "ratio": 4.0}])
    bench.keep(["pairs"], project)
    rows = json.loads((project / "results" / "bench" / "pairs.json").read_text(encoding="utf-8"))["rows"]
    assert [(row["what"], row.get("ratio")) for row in rows] == [
        ("sampled by item, D=200", 68.72), ("peak of it", None), ("sampled by user", 3.0), ("another", 4.0)]
    assert all({"command", "date", "commit", "cores", "processor"} <= set(row) for row in rows)
    stored.checked("results/bench/pairs.json", project)


@pytest.mark.parametrize("options,message", [
    ("file=results/bench/pairs.json rows=nothing", "no row begins 'nothing'"),
    ("file=results/bench/pairs.json kind=board columns=NDCG@10",
     "kind=board is none of pairs, rows, costs, growth, extraction"),
    ("file=results/bench/pairs.json kind=rows columns=what,colour", "no row has colour"),
    ("file=results/bench/none.json", "results/bench/none.json is not in results/checksums.txt"),
    ("file=results/bench/pairs.json kind=costs sizes=lastfm", "no row is of size lastfm")])
def test_what_does_not_fit_is_refused(project, options, message):
    with pytest.raises(WorkError, match=message):
        table(project, options)


def test_rows_edited_by_hand_are_refused(project):
    path = project / "results" / "bench" / "pairs.json"
    path.write_text(path.read_text(encoding="utf-8").replace("68.72", "86.72"), encoding="utf-8")
    with pytest.raises(WorkError, match="is not the file that was stored"):
        table(project, "file=results/bench/pairs.json")


def test_only_what_was_measured_can_be_kept(project):
    with pytest.raises(UsageError, match="has no nothing.json; python -m bench nothing measures it"):
        bench.keep(["nothing"], project)
    with pytest.raises(WorkError, match="has no rows"):
        bench.keep([], project)
    with pytest.raises(UsageError, match="--keep measures nothing; leave out --quick"):
        bench.main(["--keep", "--quick"])


def files(project):
    return {path: path.read_bytes() for path in (project / "results").rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["nosuch", "../results/costs", "/etc/hosts", "", "."])
def test_all_names_are_checked_before_any_is_kept(project, name):
    bench.print_rows("pairs", [{"what": "another", "ratio": 4.0}])
    (bench.MEASURED.parent / "results" / "costs.json").write_text('{"rows": [{"what": "a"}]}')
    before = files(project)
    with pytest.raises(UsageError):
        bench.keep(["pairs", name], project)
    assert files(project) == before


@pytest.mark.parametrize("content", ['{"rows": [{"x": 1}]}', '{"rows": 5}', '{"x": 1}', '{"rows": [1]}', '{"rows": []}',
                                     '{"rows": [{"what": [1]}]}', "[]", "{", ""])
def test_damaged_rows_are_refused_before_any_is_kept(project, content):
    bench.print_rows("costs", [{"what": "another", "ratio": 4.0}])
    path, before = bench.MEASURED / "pairs.json", files(project)
    path.write_text(content)
    with pytest.raises(WorkError, match="pairs.json") as error:
        bench.keep(["costs", "pairs"], project)
    assert "\n" not in str(error.value) and files(project) == before


def test_rows_edited_by_hand_are_not_kept_with_new_ones(project):
    path = project / "results" / "bench" / "pairs.json"
    path.write_text(path.read_text(encoding="utf-8").replace("68.72", "86.72"), encoding="utf-8")
    bench.keep(["costs"], project)
    with pytest.raises(WorkError, match="is not the file that was stored"):
        stored.checked("results/bench/pairs.json", project)
    before = files(project)
    with pytest.raises(WorkError, match="is not the file that was stored"):
        bench.keep(["costs", "pairs"], project)
    assert files(project) == before
    (project / "results" / "bench" / "stray.json").write_text('{"rows": [{"what": "by hand"}]}')
    bench.print_rows("stray", ROWS)
    with pytest.raises(WorkError, match=r"stray.json is not in results/checksums.txt; remove it"):
        bench.keep(["stray"], project)


def test_leftovers_of_a_killed_writer_are_no_measurement(project):
    (bench.MEASURED / ".pairs.json.tmp.json").write_text("")
    bench.keep(bench.measured(), project)
    assert bench.measured() == ["costs", "extract", "growth", "pairs"]
