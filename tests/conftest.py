"""Fixtures every test may use: the cross-check data and a tiny workspace."""
import os
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # side by side, and before torch is imported: one thread each
    os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]
LONGEST = ("test_readme.py", "harness/test_faults.py", "test_claims.py", "reporting/test_archive.py",
           "training/test_parallel.py", "experiments/test_tune.py", "test_train.py", "reporting/test_page.py",
           "bench/test_growth.py", "extract_item_embeddings/test_real_music.py")


def pytest_collection_modifyitems(items):
    """The files that take longest come first, so that no worker is left alone with one of them at the end."""
    place = {str(ROOT / "tests" / name): n for n, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(str(item.path), len(place)))


@pytest.fixture(scope="session")
def shared():
    """Folder of the cross-check data ($SHARED_DATA, default ../shared); skips where it is absent."""
    folder = Path(os.environ.get("SHARED_DATA", ROOT.parent / "shared"))
    if not (folder / "golden").is_dir():
        pytest.skip(f"needs the cross-check data: no golden/ in SHARED_DATA={folder}")
    return folder


@pytest.fixture
def tiny(tmp_path):
    """Path of a fresh tiny workspace (see tests/worlds/world.py)."""
    from tests.worlds.world import tiny_workspace
    return tiny_workspace(tmp_path / "tiny")
