"""Inputs that people report as going wrong in such tools (faults/public of the cross-check data): ids and quotes."""
import runpy
import shutil
import sys

import pandas as pd
import pytest

import metrics
from tests.worlds.hetrec import say


@pytest.fixture
def public(shared, tmp_path):
    def copy(name):
        return shutil.copytree(shared / "faults" / "public" / name, tmp_path / name, copy_function=shutil.copyfile)
    return copy


def made_by(script, monkeypatch, *argv):
    """Run a script of the inputs in its own folder, which it writes to."""
    script.parent.chmod(0o755)
    monkeypatch.chdir(script.parent)
    monkeypatch.setattr(sys, "argv", [script.name, *map(str, argv)])
    runpy.run_path(str(script))


def read(folder, log):
    return say("music4all", "--log", folder / log, "--tracks", folder / "tracks.txt", workdir=folder.parent / "w")


def test_user_ids_with_a_zero_before_them(public, tmp_path, capsys):
    folder = public("04-user-ids-leading-zero")
    assert read(folder, "log.tsv")[0] == 0
    assert (tmp_path / "w/userid_sorted.csv").read_text() == "idx,userid\n0,007\n1,07\n2,7\n"
    metrics.main(["--preds", str(folder / "preds.csv"), "--truth", str(folder / "truth.csv"), "--k", "2"])
    said = capsys.readouterr().out
    assert "preds.csv, 2 users" in said and "0.5000" in said


@pytest.mark.parametrize("log", ["never_closed.csv", "text_behind_quote.csv"])
def test_a_stray_quote_in_a_log(public, tmp_path, log):
    status, _, err = read(public("09-stray-quote-in-csv"), log)
    assert status == 1 and f"{log}, line 2: " in err and not (tmp_path / "w/plays.pqt").exists()


def test_a_stray_quote_in_a_title(public, shared, tmp_path, monkeypatch):
    folder = public("09-stray-quote-in-csv")
    made_by(folder / "make_spotify.py", monkeypatch, shared / "data/spotify_songs.csv")
    status, _, err = say("spotify", "--raw", folder / "spotify.csv", workdir=tmp_path / "w")
    assert status == 1 and "spotify.csv, line 6: " in err and not (tmp_path / "w/plays.pqt").exists()


def test_users_that_are_unsigned_hashes(public, monkeypatch):
    import importlib

    from harness.errors import WorkError
    folder = public("10-user-ids-uint64")
    made_by(folder / "make.py", monkeypatch)
    split = importlib.import_module("preprocess.1_train_test_split")
    with pytest.raises(WorkError, match="user_id holds 9223372036854775813, which is no whole number that fits int64"):
        split.main(["--protocol", "leave-one-out", "--workdir", str(folder / "W")])


def test_a_header_of_another_name_above_a_track_list(public, tmp_path):
    status, out, _ = read(public("13-list-header-as-track"), "log.tsv")
    assert status == 0 and "its first line, song_id, is taken as a header" in out
    assert pd.read_csv(tmp_path / "w/trackid_sorted.csv")["trackid"].tolist() == ["A", "B"]
