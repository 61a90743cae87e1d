"""Whether `"` encloses cells of a text log is one rule per delimiter, decided by all rows in whatever order."""
import pytest

from preprocess.interactions import quoting
from tests.worlds.logs import bring_log, ids, rows  # noqa: F401 - the fixture `bring` among them

HEADER = ["user_id", "item_id", "timestamp"]
PLAIN = [[f"u{i % 20}", f"Artist{i % 50}", f"2019-01-{1 + i % 28:02} 10:00:00"] for i in range(1200)]
DAY = "2019-01-01 10:00:00"
WELL = [["u1", '"Heroes"', DAY], ["u2", "Heroes", DAY]]
STRAY = [["u1", '"Heroes" (live)', DAY], ["u2", "Heroes", DAY]]


def text(parts, delimiter="\t"):
    return "".join(delimiter.join(row) + "\n" for part in parts for row in part)


@pytest.mark.parametrize("delimiter", ["\t", "|", "::"])
@pytest.mark.parametrize("odd, items", [
    (WELL, ["Heroes"]), (STRAY, ['"Heroes" (live)', "Heroes"]),
    (WELL + STRAY, ['"Heroes"', '"Heroes" (live)', "Heroes"]),
    ([["u1", ' "Heroes" x', DAY], *WELL], ['"Heroes"', '"Heroes" x', "Heroes"]),
    ([["u1", '"12 inch', DAY], ["u2", '7"', DAY]], ['"12 inch', '7"']),
    ([["u1", '"12 inch', DAY], ["u2", "x", DAY]], ['"12 inch', "x"]), ([["u", '7" mix', DAY]], ['7" mix'])])
def test_the_order_of_the_rows_decides_nothing(bring, delimiter, odd, items):
    read = []
    for parts in ([HEADER], odd, PLAIN), ([HEADER], PLAIN, odd):
        status, _, err, w = bring(text(parts, delimiter), "--overwrite", name="log.tsv")
        assert (status, err) == (0, "") and sorted({*ids(w)} - {row[1] for row in PLAIN}) == sorted(items)
        read.append(sorted(rows(w)))
    assert read[0] == read[1] and len(read[0]) == len(odd) + len(PLAIN)


def test_cells_with_tabs_and_marks_inside_are_read_where_all_are_well_formed(bring):
    odd = [["u1", '"a\tb"', '"2019-01-01 10:00:00"'], ['"u2"', '"c""d"', "2019-01-01 10:00:00"]]
    status, out, _, w = bring("\ufeff" + text([[['"user_id"', *HEADER[1:]]], PLAIN, odd]), name="log.tsv")
    assert status == 0 and {"a\tb", 'c"d'} <= {*ids(w)} and "ordinary character" not in out


def test_a_log_of_tabs_without_a_header_may_begin_with_a_stray_quote(bring):
    lines = [["u1", "2009-05-04T23:08:57Z", "", '"Weird Al" Yankovic', "", '"Eat It'],
             *(["u1", f"2009-05-05T23:{i:02}:57Z", "", "David Bowie", "", '"Heroes"'] for i in range(9))]
    status, out, _, w = bring(text([lines]), "--recipe", "lastfm-1k", name="log.tsv")
    assert status == 0 and ids(w) == ['"Weird Al" Yankovic - "Eat It', 'David Bowie - "Heroes"']
    assert "cells separated by tabs, without a header, '\"' an ordinary character" in out


def test_one_file_of_several_decides_for_all(bring, tmp_path):
    for order in "12", "21":
        folder = tmp_path / f"parts{order}"
        folder.mkdir()
        for name, odd in zip(order, (WELL, STRAY), strict=True):
            (folder / name).write_text(text([[HEADER], PLAIN, odd]))
        status, _, _, w = bring(None, "--overwrite", name=folder.name)
        assert status == 0 and {*ids(w)} - {r[1] for r in PLAIN} == {'"Heroes"', '"Heroes" (live)', "Heroes"}


@pytest.mark.parametrize("delimiter", [",", ";"])
@pytest.mark.parametrize("parts", [(STRAY, PLAIN), (PLAIN, STRAY)])
def test_a_stray_quote_beside_commas_is_named_wherever_it_stands(bring, delimiter, parts):
    status, _, err, _ = bring(text([[HEADER], *parts], delimiter))
    assert status == 1 and "text behind a closing quote" in err


def test_the_form_is_decided_whatever_the_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(quoting, "BLOCK", 64)
    for odd, quote in (WELL, '"'), (STRAY, ""), ([], ""):
        (tmp_path / "log").write_text(text([PLAIN, odd, PLAIN]))
        assert quoting.mark([tmp_path / "log"], "\t", ["a\tb\tc"]) == (quote, bool(odd))
