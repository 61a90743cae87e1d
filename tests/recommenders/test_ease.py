"""Requests that EASE cannot mean."""
import pytest

from harness.errors import UsageError
from recommenders import ease


@pytest.mark.parametrize("flag, value", [("--l2", "nan"), ("--l2", "inf"), ("--l2", "-1"), ("--memory", "0"),
                                         ("--memory", "nan"), ("--memory", "-3")])
def test_numbers_out_of_range_are_refused(tiny, flag, value):
    with pytest.raises(UsageError, match=f"{flag} must be above 0"):
        ease.main(["--workdir", str(tiny), flag, value])
    assert not (tiny / "runs").exists()
