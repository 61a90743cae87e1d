"""Fixtures of the tests of extraction."""
import pytest

from tests.worlds.checkpoints import single_thread


@pytest.fixture(scope="module")
def one_thread():
    """As in the workers of an extraction: torch computes on one thread. Used by a file's pytestmark."""
    with single_thread():
        yield
