"""harness/files.py: files that appear whole or not at all, and what killed writers leave behind."""
import csv
import errno
import fcntl
import os
import re
import signal
import subprocess
import sys

import duckdb
import pandas as pd
import pytest

from harness import files
from harness.files import write_report_csv
from tests.conftest import ROOT

WRITER = """
import sys
from harness.files import atomic
with atomic(sys.argv[1]) as temporary, open(temporary, "wb") as f:
    f.write(b"half" * 1000)
    f.flush()
    print("half", flush=True)
    sys.stdin.read()
"""


def writer(path):
    """A process in the middle of writing `path`."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], cwd=ROOT, stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"half\n"
    return process


def kill(process):
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.stdin.close()
    process.stdout.close()


@pytest.mark.parametrize("name", ["table.csv", "plain", "two.dots.pqt"])
def test_a_killed_writer_leaves_nothing_once_the_file_is_written_again(tmp_path, name):
    path = tmp_path / name
    path.write_text("old")
    for _ in range(3):                            # whatever the number of kills, one leftover at most
        kill(writer(path))
        assert path.read_text() == "old" and len(os.listdir(tmp_path)) == 2
    files.write_text(path, "new")
    assert path.read_text() == "new" and os.listdir(tmp_path) == [name]


def test_leftovers_of_writers_that_were_at_it_together_go_too(tmp_path):
    path = tmp_path / "table.csv"
    processes = [writer(path) for _ in range(3)]
    assert len(os.listdir(tmp_path)) == 3
    for process in processes:
        kill(process)
    files.write_text(path, "new")
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["table.csv"]


def test_a_living_writer_keeps_its_file(tmp_path):
    """Two processes at one file: each replaces it whole, the last to end wins, nothing of the first is lost."""
    path = tmp_path / "table.csv"
    slow = writer(path)
    files.write_text(path, "quick")
    assert path.read_text() == "quick" and len(os.listdir(tmp_path)) == 2
    slow.communicate(b"")
    assert slow.returncode == 0 and path.read_bytes() == b"half" * 1000
    assert os.listdir(tmp_path) == ["table.csv"]


def test_a_file_in_the_middle_of_its_writing_is_written_by_the_same_process(tmp_path):
    path = tmp_path / "table.csv"
    with files.atomic(path) as temporary:
        files.write_text(path, "inner")
        temporary.write_text("outer")
    assert path.read_text() == "outer" and os.listdir(tmp_path) == ["table.csv"]


def test_interrupts_and_errors_leave_the_old_file_alone(tmp_path):
    path = tmp_path / "table.csv"
    files.write_text(path, "old")
    for error in (KeyboardInterrupt, SystemExit, KeyError):
        with pytest.raises(error), files.atomic(path) as temporary:
            temporary.write_text("half")
            raise error
        assert path.read_text() == "old" and os.listdir(tmp_path) == ["table.csv"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing was written"), files.atomic(tmp_path / "table.csv"):
        pass
    assert os.listdir(tmp_path) == []
    files.write_text(tmp_path / "empty", "")      # an empty file is written, too
    assert os.listdir(tmp_path) == ["empty"]


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")
    monkeypatch.setattr(fcntl, "flock", refuse)
    with files.atomic(tmp_path / "table.csv") as temporary:
        assert str(os.getpid()) in temporary.name and os.listdir(tmp_path) == [temporary.name]
        temporary.write_text("new")
    assert os.listdir(tmp_path) == ["table.csv"] and (tmp_path / "table.csv").read_text() == "new"


@pytest.mark.parametrize("text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3+cmd|x", "@SUM(A1)", "\t=1", "\r=1", " =1", "=",
                                  "-dash"])
def test_what_a_spreadsheet_would_run_is_marked_as_text(tmp_path, text):
    frame = pd.DataFrame({text: [1.5, -2.0], "name": [text, "plain"], "ok": ["-0.5", "+0.3 ±0.1"]})
    write_report_csv(tmp_path / "t.csv", frame)
    with open(tmp_path / "t.csv", newline="", encoding="utf-8") as f:
        rows = list(csv.reader(f))
    marked = "'" + re.sub(r"\s", " ", text)
    assert rows == [[marked, "name", "ok"], ["1.5", marked, "-0.5"], ["-2.0", "plain", "+0.3 ±0.1"]]
    assert frame.columns[0] == text and frame["name"][0] == text      # the caller's frame stays as it was


def test_duckdb_reads_the_very_file_whatever_its_path_looks_like(tmp_path):
    """Brackets, * and ? are no pattern, and a folder named column=value adds no column."""
    folder = tmp_path / "count=7" / "w[1]"
    decoy = tmp_path / "count=7" / "w1"
    for place, value in ((folder, "own"), (decoy, "foreign")):
        for name in ("a*?.pqt", "ax.pqt"):
            files.write_parquet(place / name, pd.DataFrame({"value": [f"{value} {name}"]}))
    found = duckdb.sql(f"select * from {files.parquet_rows(folder / 'a*?.pqt')}")
    assert found.columns == ["value"] and found.fetchall() == [("own a*?.pqt",)]
    named = duckdb.sql(f"select filename from read_blob({files.exact(folder / 'a*?.pqt')})").fetchall()
    assert len(named) == 1 and named[0][0].endswith("w[1]/a*?.pqt")
