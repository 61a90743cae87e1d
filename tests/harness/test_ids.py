"""What an id is: numbers only where all are, one form of a text, any type of a column."""
import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness import ids
from harness.errors import WorkError

NUMBERISH = st.one_of(st.integers(-2**65, 2**65).map(str), st.from_regex(r"[-+ 0x]{0,2}[0-9]{0,4} ?", fullmatch=True))


def canonical(text):
    """The rule, in Python's own words."""
    try:
        return str(int(text)) == text and -2**63 <= int(text) < 2**63
    except ValueError:
        return False


@given(st.lists(NUMBERISH, max_size=6))
@example(["007", "7"])
@example(["0x1F"])
@example(["0xFFFFFFFFF"])       # as long as the number that a lenient parser takes it for
@example(["-0"])
@example(["7 "])
@example(["9223372036854775808"])
@example(["-9223372036854775808", "0"])
@settings(deadline=None)
def test_numbers_only_where_every_text_is_a_canonical_int64(texts):
    for padded in (pa.array(texts, pa.string()), pa.array(["x", *texts, "y"], pa.string())[1:-1],
                   pa.array(texts, pa.large_string())):
        found = ids.numbers(padded)
        assert (found is not None) == all(map(canonical, texts))
        if found is not None:
            assert found.to_pylist() == [int(t) for t in texts]
        elif padded.type == pa.string():
            assert ids.first_other(padded) == [canonical(t) for t in texts].index(False)


@given(st.lists(st.text(max_size=5), max_size=6))
@example(["cafe\u0301", "caf\u00e9", " x\u00a0", "x"])
@settings(deadline=None)
def test_texts_are_compared_in_one_form(texts):
    forms = ids.Forms()
    written = pa.array(texts, pa.string())
    found = ids.normalised(written)
    forms.add(written, found)
    assert all(unicodedata.is_normalized("NFC", t) for t in found.to_pylist())
    assert ids.normalised(found).equals(found)
    changed = {a for a, b in zip(texts, found.to_pylist(), strict=True) if a != b}
    assert {*forms.other} == changed and bool(forms.sentence("users")) == bool(changed)


UNSIGNED = 2**63 + 5


@pytest.mark.parametrize("values, expected", [
    (pa.array(["7", "12"]), [7, 12]), (pa.array(["7", "07"]), ["7", "07"]),
    (pa.array(["b", "a"]).dictionary_encode(), ["b", "a"]), (pa.array(["b", " a "], pa.large_string()), ["b", "a"]),
    (pa.array(["b"], pa.string_view()), ["b"]), (pa.array([3, 5], pa.uint64()), [3, 5]),
    (pa.array([3, UNSIGNED], pa.uint64()), ["3", str(UNSIGNED)]), (pa.array([3, 4], pa.int8()), [3, 4]),
    (pa.array([UNSIGNED, 1], pa.uint64()).dictionary_encode(), [str(UNSIGNED), "1"]), (pa.array([], pa.string()), []),
])
def test_a_column_of_any_type(values, expected):
    found = ids.column(pa.chunked_array([values]), "f", "user_id")
    assert found.to_pylist() == expected
    assert found.type == (pa.string() if expected and isinstance(expected[0], str) else pa.int64())


@pytest.mark.parametrize("values, sentence", [
    (pa.array([1.5]), "f: user_id must be ids, whole numbers or texts, but is double, such as 1.5"),
    (pa.array(["a", None]), "1 rows have none"), (pa.array(["a", " "]), "user_id is empty"),
    (pa.array(["7.0", "8.0"]), "user_id holds '7.0', a whole number written as a float"),
    (pa.array([[1]]), r"but is list<.*>, such as \[1\]"),
])
def test_what_is_no_id_is_one_sentence(values, sentence):
    with pytest.raises(WorkError, match=sentence):
        ids.column(pa.chunked_array([values]), "f", "user_id")


def test_two_columns_in_one_numbering():
    a, b, names = ids.shared(pa.array([7, 5]), pa.array([5]))
    assert (a.tolist(), b.tolist(), names) == ([7, 5], [5], None)
    a, b, names = ids.shared(pa.array([7, 5]), pa.array(["007", "7"]))
    assert names == ["007", "5", "7"] and a.tolist() == [2, 1] and b.tolist() == [0, 2] and a.dtype == np.int64


@pytest.mark.parametrize("first, rest, odd", [
    ("mytracks", ["0009fFIM1eYThaPg", "000ZqOuV7Lw5LoAs"], True), ("isrc", ["12", "345", "6"], True),
    ("12", ["345", "6"], False), ("a", ["b", "c"], False), ("one", ["two", "three"], False), ("x", ["1"], False)])
def test_a_first_line_unlike_the_rest(first, rest, odd):
    assert ids.unlike_the_rest(first, rest) == odd
