"""Stray quotes are named with their line; proper quoted cells, whatever is in them, are read, however cut."""
import csv
import io
import re

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from harness import delimited, quotes
from harness.errors import WorkError

CELL = st.text(alphabet='ab,"\n', max_size=5)
TABLE = st.lists(st.tuples(CELL, CELL, CELL), min_size=1, max_size=6)


def written(rows):
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


def naive(text):
    """Whether some row of several lines looks like as many whole rows: what cannot be told from a stray quote."""
    lines = text.split("\n")
    starts = [line for line, _ in quotes.numbered_rows(text, ",", True)] + [len(lines)]
    return any(b - a > 1 and all(line.count(",") == 2 for line in lines[a - 1:b - 1])
               for a, b in zip(starts, starts[1:], strict=False))


def cut(text, size):
    """Blocks of whole lines of about `size` bytes."""
    data, at = text.encode(), 0
    while at < len(data):
        end = data.find(b"\n", at + size - 1) + 1 or len(data)
        yield memoryview(data[at:end])
        at = end


@given(TABLE, st.integers(1, 20))
@example([("a\n,,\nb", "x", "y")], 1)
@settings(deadline=None)
def test_proper_tables_are_whole_rows_however_they_are_cut(rows, size):
    text = written(rows)
    assume(not naive(text))
    blocks = [str(b, "utf-8") for b in quotes.whole_rows(cut(text, size), "f", ",", 3)]
    assert "".join(blocks) == text
    assert [tuple(c) for b in blocks for c in csv.reader(io.StringIO(b, newline="\n"))] == rows


@given(TABLE, st.integers(0, 200), st.integers(1, 20))
@settings(deadline=None)
def test_a_stray_quote_loses_no_row_without_a_word(rows, place, size):
    """Whatever a quote is put in front of: a fault is named, or the strict parser of Python reads the same rows."""
    text = written(rows)
    at = place % len(text)
    text = text[:at] + '"' + text[at:]
    try:
        blocks = [str(b, "utf-8") for b in quotes.whole_rows(cut(text, size), "f", ",", 3)]
    except WorkError as e:
        line = int(re.search(r"line (\d+)", str(e))[1])
        assert 1 <= line <= text.count("\n") + 1
        return
    assert "".join(blocks) == text
    whole = list(csv.reader(io.StringIO(text, newline="\n"), strict=True))      # raises where it finds a fault
    assert [c for b in blocks for c in csv.reader(io.StringIO(b, newline="\n"), strict=True)] == whole


@pytest.mark.parametrize("text, line, words", [
    ('a,b,c\n1,"x\n2,y,z\n', 2, "the quoted cell that begins there never ends"),
    ('a,b,c\n1,x,y\n2,"p" q,z\n', 3, "has text behind the closing quote"),
    ('a,b,c\n1,"12 inch,x\n2,y,z\n3,7",w\n', 2, "has a quoted cell over 3 lines, each with the cells of a row"),
    ('a,b,c\n1,"ok\nstill",x\n2,"12 inch,x\n3,7",w\n', 4, "has a quoted cell over 2 lines"),
])
@pytest.mark.parametrize("size", [1, 1000])
def test_faults_are_named_with_their_line(text, line, words, size):
    with pytest.raises(WorkError, match=rf"^f, line {line}: .*{words}"):
        list(quotes.whole_rows(cut(text, size), "f", ",", 3))


@pytest.mark.parametrize("text", [
    'a,b,c\n1,"two\nlines, with a comma",x\n', 'a,b,c\n1,7" mix,x\n2,12" and 7",y\n', 'a,b,c\n1,"say ""x""",""\n',
    'a,b,c\r\n1,"x",y\r\n', 'a,b,c\n"1","","z"\n'])
def test_what_is_no_fault(text):
    assert b"".join(map(bytes, quotes.whole_rows(cut(text, 1000), "f", ",", 3))) == text.encode()


def test_a_quoted_cell_has_an_end(monkeypatch):
    monkeypatch.setattr(quotes, "LONGEST", 50)
    with pytest.raises(WorkError, match="line 1: the quoted cell that begins there does not end within"):
        list(quotes.whole_rows(cut('1,"' + "x,y\n" * 100, 10), "f", ",", 2))


# --------------------------------------------------------------------------- tables

@pytest.mark.parametrize("text, sentence", [
    ("a,b\n1\n", "line 2: 1 cells where the header has 2"), ("a,b\n\n1,x,y\n", "line 3: 3 cells where"),
    ('a,b\n1,"x\ny"\n2\n', "line 4: 1 cells where"), ("a,b,a\n1,2,3\n", "two columns of the name a"),
    ("a,c\n1,2\n", "has no column b"), ('a,b\n1,"x\n', "line 2: the quoted cell that begins there never ends")])
def test_tables_that_are_refused(tmp_path, text, sentence):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(WorkError, match=sentence):
        delimited.read_texts(tmp_path / "t.csv", ["a", "b"], ",")


def test_numbers_of_a_table_are_canonical(tmp_path):
    (tmp_path / "t.tsv").write_text('a\tb\n1\t"x\n\n02\ty\n')     # a quote is an ordinary character there
    with pytest.raises(WorkError, match="line 4: a holds '02', which is no whole number in its usual writing"):
        delimited.read_table(tmp_path / "t.tsv", {"a": int, "b": str})
    assert delimited.read_table(tmp_path / "t.tsv", {"b": str})["b"].tolist() == ['"x', "y"]
