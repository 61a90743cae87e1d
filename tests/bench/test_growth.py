"""bench/growth.py: the exponents, and a row from real runs; nothing is timed against anything here."""
import pytest

from bench import growth
from harness.errors import UsageError


def test_the_exponent_of_a_power_is_its_power():
    sizes = [1, 2, 4, 8]
    assert growth.exponent(sizes, [3.0 * s ** 1.7 for s in sizes]) == pytest.approx(1.7)
    assert growth.exponent(sizes, [0.1, 0.2, 4.0, None]) is None               # one point is no slope
    assert growth.exponent(sizes, [None, 0.2, 2.0, 8.0]) == pytest.approx(2.0)  # a fifth of a second is noise


@pytest.mark.trains
def test_a_row_has_times_of_every_size_or_the_reason(tmp_path):
    row = growth.grown("recommenders.itemknn", (), tmp_path, (30, 60, 600), (1, 2))
    assert all(len(row[f"{axis}_seconds"]) == 2 and None not in row[f"{axis}_seconds"] for axis in growth.AXES)
    assert row["users"] is None and "expected (-1, 1, 2)" in row["note"]
    row = growth.grown("recommenders.hybrid", (), tmp_path, (30, 60, 600), (1, 2))
    assert row["note"].startswith("no figure: ")                                # its parts have not been run


def test_an_unknown_name_is_refused():
    with pytest.raises(UsageError, match="no recommender nobody; known: "):
        growth.run(True, ["nobody"])
