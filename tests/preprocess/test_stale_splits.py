"""Stage 2 over a workspace that has a split: what makes the split another's, and what may remove it.

    python -m pytest tests/preprocess/test_stale_splits.py
"""
import importlib

import pandas as pd
import pytest

import dataset
from harness import cli
from harness.errors import WorkError
from preprocess import stage
from ranking import plays as plays_of_history
from recommenders import popularity

get_plays = importlib.import_module("preprocess.0_get_plays_pqt")
splitter = importlib.import_module("preprocess.1_train_test_split")


@pytest.fixture
def say(capsys):
    """Run a script with a command line; returns exit status and stderr."""
    def run(script, *argv):
        with pytest.raises(SystemExit) as end:
            cli.run(script.main, [str(a) for a in argv])
        return end.value.code, capsys.readouterr().err
    return run


def write_log(path, users):
    """A log of ten plays per user, three a day, of the tracks t0 to t9."""
    rows = [f"{user}\tt{(i * 3 + n) % 10}\t2020-01-{1 + i:02d} 10:00:0{n}" for n, user in enumerate(users)
            for i in range(10)]
    path.write_text("\n".join(["user_id\ttrack_id\ttimestamp", *rows]) + "\n")
    return path


def brought(kind, log, workdir):
    """The command line that reads a log into a workspace."""
    tracks = log.with_name("tracks.csv")
    tracks.write_text("idx,trackid\n" + "".join(f"{i},t{i}\n" for i in range(10)))
    return [kind, "--log", log, "--workdir", workdir, *(["--tracks", tracks] if kind == "music4all" else [])]


@pytest.mark.parametrize("kind", ["music4all", "interactions"])
@pytest.mark.parametrize("later", [["aa", "ann", "bob", "cyd"], [1, 2, 3]], ids=["renumbered", "no list any more"])
def test_a_split_of_other_users_is_refused(tmp_path, say, kind, later):
    workdir = tmp_path / "w"
    assert say(get_plays, *brought(kind, write_log(tmp_path / "log.tsv", ["ann", "bob", "cyd"]), workdir))[0] == 0
    assert say(splitter, "--protocol", "random", "--workdir", workdir)[0] == 0
    before = (workdir / "userid_sorted.csv").read_bytes(), (workdir / "plays.pqt").read_bytes()
    again = brought(kind, write_log(tmp_path / "log.tsv", later), workdir)
    status, err = say(get_plays, *again)
    assert status == 2 and "userid_sorted.csv lists other users; use a fresh --workdir, or --overwrite" in err
    assert ((workdir / "userid_sorted.csv").read_bytes(), (workdir / "plays.pqt").read_bytes()) == before
    assert (workdir / "data" / "train.pqt").exists()
    assert say(get_plays, *again, "--overwrite")[0] == 0
    assert not [p for p in (workdir / "data").iterdir() if not p.name.startswith(".")]


@pytest.mark.parametrize("kind", ["music4all", "interactions"])
def test_numbers_that_become_places_in_a_list_are_other_users(tmp_path, say, kind):
    workdir = tmp_path / "w"
    assert say(get_plays, *brought(kind, write_log(tmp_path / "log.tsv", [1, 2, 3]), workdir))[0] == 0
    assert say(splitter, "--protocol", "random", "--workdir", workdir)[0] == 0
    status, err = say(get_plays, *brought(kind, write_log(tmp_path / "log.tsv", [1, 2, "x"]), workdir))
    assert status == 2 and "data is a split of other users; use a fresh --workdir" in err


def test_more_plays_of_the_same_users_are_no_other_split_but_no_plays_of_it(tmp_path, say):
    """The numbers stay, so the split may be made again; until then every play is of another log than its pairs."""
    workdir = tmp_path / "w"
    assert say(get_plays, *brought("music4all", write_log(tmp_path / "log.tsv", ["ann", "bob"]), workdir))[0] == 0
    assert say(splitter, "--protocol", "random", "--workdir", workdir)[0] == 0
    ask = ["--decay-hours", "10", "--k", "3", "--workdir", workdir]
    assert say(popularity, *ask)[0] == 0
    with open(tmp_path / "log.tsv", "a") as f:
        f.write("bob\tt1\t2020-02-01 00:00:00\n")
    assert say(get_plays, *brought("music4all", tmp_path / "log.tsv", workdir))[0] == 0
    for words in ([*ask, "--overwrite"], ["--workdir", workdir, "--overwrite"]):      # with every play, and without
        status, err = say(popularity, *words)
        assert status == 1 and "data was split from other plays than those of" in err and err.count("\n") == 1
    assert say(splitter, "--protocol", "random", "--workdir", workdir)[0] == 0
    assert say(popularity, *ask)[0] == 0


def test_a_log_read_again_with_other_options_has_no_split_and_own_plays_have_one(tmp_path, say):
    workdir, log = tmp_path / "w", write_log(tmp_path / "log.tsv", [1, 2, 3])
    ask = brought("interactions", log, workdir)
    assert say(get_plays, *ask)[0] == 0 and say(splitter, "--protocol", "random", "--workdir", workdir)[0] == 0
    plays = pd.read_parquet(workdir / "plays.pqt")
    plays[plays["user_id"] != 3].to_parquet(workdir / "plays.pqt")      # somebody's own, which the splitter takes
    assert say(splitter, "--protocol", "random", "--workdir", workdir)[0] == 0
    assert dataset.load(workdir).n_users == 2
    log.write_text("\n".join(log.read_text().splitlines()[:-1]) + "\n")
    assert say(get_plays, *ask)[0] == 0
    with pytest.raises(WorkError, match="was split from other plays than those of .*1_train_test_split.py again"):
        dataset.load(workdir)
    assert say(splitter, "--protocol", "random", "--workdir", workdir)[0] == 0 and dataset.load(workdir).n_users == 3


def test_plays_of_a_split_that_records_none_are_read(tmp_path, say):
    workdir = tmp_path / "w"
    assert say(get_plays, *brought("music4all", write_log(tmp_path / "log.tsv", ["ann", "bob"]), workdir))[0] == 0
    assert say(splitter, "--protocol", "random", "--workdir", workdir)[0] == 0
    frame = pd.read_parquet(workdir / "plays.pqt")
    frame[1:].to_parquet(workdir / "plays.pqt")
    split = dataset.load(workdir)
    with pytest.raises(WorkError, match="is not the one that data/ was split from; run preprocess/1_train_test"):
        plays_of_history.inputs(split, "--order plays")
    (workdir / "data" / "split.json").unlink()
    assert plays_of_history.inputs(split, "--order plays")[0].path == workdir / "plays.pqt"


# --------------------------------------------------------------------------- what is no split, and whose it is

@pytest.fixture
def split_of_three(tmp_path, say):
    """A workspace with a split of three users, and the command line that brings four."""
    workdir = tmp_path / "w"
    log = write_log(tmp_path / "log.tsv", ["ann", "bob", "cyd"])
    assert say(get_plays, *brought("music4all", log, workdir))[0] == 0
    assert say(splitter, "--protocol", "random", "--workdir", workdir)[0] == 0
    return workdir, brought("music4all", write_log(tmp_path / "log.tsv", ["aa", "ann", "bob", "cyd"]), workdir)


def test_what_a_failed_split_leaves_is_no_split(tmp_path, say):
    workdir = tmp_path / "w"
    assert say(get_plays, *brought("music4all", write_log(tmp_path / "log.tsv", ["ann", "bob"]), workdir))[0] == 0
    assert say(splitter, "--protocol", "recsys24", "--test-date", "2031-01-01", "--workdir", workdir)[0] == 1
    assert [p.name for p in (workdir / "data").iterdir()] == [".split.lock"]
    assert say(get_plays, *brought("music4all", write_log(tmp_path / "log.tsv", ["aa", "ann", "bob"]), workdir))[0] == 0
    assert (workdir / "data" / ".split.lock").exists()


def test_a_split_is_not_removed_while_it_is_written(split_of_three, say):
    workdir, four = split_of_three
    before = (workdir / "plays.pqt").read_bytes()
    with stage.atomic_outputs(workdir / "data" / "split.json"):
        status, err = say(get_plays, *four, "--overwrite")
        assert status == 1 and "another process is writing" in err and "data/split.json" in err
        assert (workdir / "plays.pqt").read_bytes() == before and (workdir / "data" / "train.pqt").exists()
    assert say(get_plays, *four, "--overwrite")[0] == 0
    assert [p.name for p in (workdir / "data").iterdir()] == [".split.lock"]
    assert say(splitter, "--protocol", "random", "--workdir", workdir)[0] == 0


# --------------------------------------------------------------------------- damaged manifests

@pytest.mark.parametrize("damage", ["", "{", "[]", '{"request": 3}', "\x00"])
def test_overwrite_mends_a_damaged_manifest(split_of_three, say, damage):
    workdir, four = split_of_three
    (workdir / "data" / "split.json").write_text(damage)
    split = ["--protocol", "random", "--workdir", workdir]
    status, err = say(splitter, *split)
    assert status == 1 and "split.json" in err and "; --overwrite makes it again" in err and err.count("\n") == 1
    assert say(splitter, *split, "--partitions", 2)[1] == err
    assert say(splitter, *split, "--overwrite")[0] == 0 and say(splitter, *split)[0] == 0
    (workdir / "dataset.json").write_text(damage)
    status, err = say(get_plays, *four)
    assert status == 1 and "dataset.json" in err and "; --overwrite makes it again" in err and err.count("\n") == 1
    assert say(get_plays, *four, "--overwrite")[0] == 0 and say(get_plays, *four)[0] == 0
