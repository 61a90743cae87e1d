"""Times of everybody's logs: every writing, zone and unit is read or refused, and odd ones are named."""
import pandas as pd
import pytest

from harness.errors import UsageError
from preprocess.interactions import times
from tests.worlds.logs import bring_log, plays  # noqa: F401 - the fixture `bring`


@pytest.mark.parametrize(
    "values, taken, expected",
    [
        (
            ["1550000000", "1550000001.5"],
            "unix seconds",
            ["2019-02-12 19:33:20", "2019-02-12 19:33:21.500000"],
        ),
        (
            ["1550000000000", "1550000000040"],
            "unix milliseconds",
            ["2019-02-12 19:33:20", "2019-02-12 19:33:20.040000"],
        ),
        (
            ["1550000000000000", "1550000000000001"],
            "unix microseconds",
            ["2019-02-12 19:33:20", "2019-02-12 19:33:20.000001"],
        ),
        (
            ["1550000000000000000", "1550000000000001000"],
            "unix nanoseconds",
            ["2019-02-12 19:33:20", "2019-02-12 19:33:20.000001"],
        ),
        (
            ["2019-02-12T19:33:20+01:00", "2019-02-12T19:33:20Z"],
            "ISO, with a zone",
            ["2019-02-12 18:33:20", "2019-02-12 19:33:20"],
        ),
        (["2019-02-12", "2019-02-13"], "ISO", ["2019-02-12 00:00:00", "2019-02-13 00:00:00"]),
        (["20190212", "20190213"], "%Y%m%d", ["2019-02-12 00:00:00", "2019-02-13 00:00:00"]),
        (["12.02.2019", "13.02.2019 10:00:00"][:1] * 2, "%d.%m.%Y", ["2019-02-12 00:00:00"] * 2),
        (["04 May 2009, 23:08"] * 2, "%d %b %Y, %H:%M", ["2009-05-04 23:08:00"] * 2),
        (["2019-02-12 08:00:00 AM", "2019-02-12 09:00:00 PM"], "%p", ["2019-02-12 08:00:00", "2019-02-12 21:00:00"]),
        (["2019-02-12 19:33:20 UTC"] * 2, "ISO, with a zone", ["2019-02-12 19:33:20"] * 2),
    ],
)
def test_times_in_any_writing(bring, values, taken, expected):
    status, out, _, w = bring(
        "user\titem\ttime\n" + "".join(f"1\t{i}\t{v}\n" for i, v in zip("ab", values, strict=True))
    )
    assert (
        status == 0
        and taken in out
        and plays(w).timestamp.astype(str).tolist()
        == pd.to_datetime(pd.Series(expected), format="mixed").astype("datetime64[us]").astype(str).tolist()
    )


def test_times_without_a_zone_are_of_the_zone_asked_for(bring):
    _, _, _, w = bring("user,item,time\n1,a,2019-07-01 12:00:00\n", "--timezone", "Europe/Vienna")
    assert str(plays(w).timestamp[0]) == "2019-07-01 10:00:00"


@pytest.mark.parametrize(
    "value", ["Mon Jul 01 12:00:00 +0000 2019", "Mon Jul 01 14:00:00 +0200 2019", "2019-07-01T14:00:00+02:00"]
)
@pytest.mark.parametrize("flags", [(), ("--timezone", "America/New_York")])
def test_times_with_a_zone_keep_it_whatever_zone_is_asked_for(bring, value, flags):
    _, out, _, w = bring(f"user,item,time\n1,a,{value}\n", *flags)
    assert str(plays(w).timestamp[0]) == "2019-07-01 12:00:00" and "with a zone" in out


@pytest.mark.parametrize(
    "low, high, unit",
    [
        (1.5e9, 1.5e9, "seconds"),
        (7e8, 7e8, "seconds"),
        (1.5e12, 1.6e12, "milliseconds"),
        (1.5e15, 1.5e15, "microseconds"),
        (1.5e18, 1.5e18, "nanoseconds"),
    ],
)
def test_units_of_unix_times(low, high, unit):
    assert times.unit_of(low, high) == unit


@pytest.mark.parametrize("low, high", [(1, 5), (-1e9, 1.5e9), (1e30, 1e30)])
def test_numbers_that_are_no_times(low, high):
    with pytest.raises(UsageError, match="which is no time since 1970"):
        times.unit_of(low, high)


def test_odd_times_are_named(bring):
    status, out, _, _ = bring("user,item,time\n1,a,1975-01-01\n1,b,2090-01-01\n1,c,2019-01-01\n")
    assert status == 0 and "warning: 2 times are in the future or before 1990" in out
