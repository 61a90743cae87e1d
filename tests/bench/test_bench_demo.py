"""bench/demo.py: what it would time is what make demo runs; nothing is timed here."""
import sys
from pathlib import Path

import pytest

from bench import demo
from harness.errors import WorkError


def test_the_commands_are_those_of_make_demo(tmp_path):
    words = demo.commands(tmp_path / "demo", demo.QUICK)
    assert [demo.name_of(command) for command in words][:2] == ["preprocess.demo", "preprocess/0_get_plays_pqt.py"]
    assert demo.name_of(words[-1]) == "report.py"
    assert all(command[0] == sys.executable and str(tmp_path / "demo") in " ".join(command) for command in words)
    assert words[0][-4:] == demo.QUICK.split()


def test_a_command_that_fails_is_named(monkeypatch):
    monkeypatch.setattr(demo, "commands", lambda *_: [[sys.executable, "-c", "raise SystemExit('no room')"]])
    with pytest.raises(WorkError, match="-c failed: no room"):
        demo.run(quick=True)


def test_without_the_target_there_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "ROOT", Path(tmp_path))
    with pytest.raises(WorkError, match="make -n demo lists no commands"):
        demo.commands(tmp_path)
