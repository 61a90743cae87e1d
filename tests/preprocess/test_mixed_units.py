"""Unix times of several units in one log: the unit is that of nearly all rows, and those of another one are bad rows.

    python -m pytest tests/preprocess/test_mixed_units.py
"""
import pandas as pd
import pytest

from tests.worlds.logs import bring_log, plays  # noqa: F401 - the fixture `bring`

AT = 1_550_000_000      # 2019-02-12 19:33:20
FACTORS = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
ODD = {unit: str((AT + 5) * factor) for unit, factor in FACTORS.items()} | {
    "fraction": f"{AT + 5}.5", "date": "20190212", "beyond all": "1e30", "negative": "-1", "large": "9" * 25}


def log_of(values):
    return "user,item,time\n" + "".join(f"1,i{i},{value}\n" for i, value in enumerate(values))


CASES = [(unit, odd) for unit in FACTORS for odd in ODD if odd != unit and (unit, odd) != ("seconds", "fraction")]


@pytest.mark.parametrize("unit, odd", CASES)
@pytest.mark.parametrize("place", [0, 20])
def test_one_time_of_another_unit_does_not_move_the_others(bring, unit, odd, place):
    values = [str((AT + i) * FACTORS[unit]) for i in range(20)]
    values.insert(place, ODD[odd])
    status, _, err, w = bring(log_of(values))
    assert status == 1 and repr(ODD[odd]) in err and "(1 such rows; " in err and err.count("\n") == 1
    assert f"unix {unit}" in err and not (w / "plays.pqt").exists()
    status, out, _, w = bring(log_of(values), "--bad-rows", "skip")
    assert status == 0 and f"unix {unit}" in out and "left out: 1 rows without a time" in out
    assert sorted(plays(w).timestamp) == [pd.Timestamp(AT + i, unit="s") for i in range(20)]


def test_one_unix_time_among_dates(bring):
    values = [*("20190212", "20190213") * 5, str(AT)]
    status, _, err, _ = bring(log_of(values))
    assert status == 1 and repr(str(AT)) in err and err.count("\n") == 1
    status, out, _, w = bring(log_of(values), "--bad-rows", "skip")
    assert status == 0 and {str(t.date()) for t in plays(w).timestamp} == {"2019-02-12", "2019-02-13"}


def test_no_unit_of_most_rows(bring):
    values = [str(AT), str(AT + 1), str(AT * 1000), str(AT * 1000 + 1)]
    for flags in ((), ("--bad-rows", "skip")):
        status, _, err, _ = bring(log_of(values), *flags)
        assert status == 1 and err.count("\n") == 1
    assert "2 in seconds, 2 in milliseconds" in err


def test_times_that_are_zero_are_named_as_before(bring):
    """A mark of an unknown time is of no unit."""
    status, out, _, w = bring(log_of(["0", *(str(AT + i) for i in range(5))]))
    assert status == 0 and "1 times are in the future or before 1990" in out and len(plays(w)) == 6
