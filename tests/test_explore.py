"""explore.py as a whole: report, figures, json, TensorBoard and W&B say the same; what is lacking; bad input."""
import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import explore
from exploration import SECTIONS, sections, tracking
from harness.errors import WorkError
from harness.files import write_json, write_parquet, write_text
from harness.readers import read_json
from tests.conftest import ROOT
from tests.worlds.explored import MONDAY, made, named_embedding, say, world, write_plays
from tests.worlds.world import tiny_workspace, write_embedding, write_tracks

# --------------------------------------------------------------------------- the whole report

def check(folder):
    """A report whose figures exist, whose json is strict, and that nothing is beside; returns report and numbers."""
    report = (folder / "report.md").read_text()
    numbers = json.loads((folder / "numbers.json").read_text(), parse_constant=pytest.fail)
    named = re.findall(r"\]\(([\w]+\.png)\)", report)
    events = [p.name for p in folder.glob("events.out.*")]
    assert len(events) == 1 and sorted(named) == sorted(p.name for p in folder.glob("*.png"))
    assert sorted(p.name for p in folder.iterdir() if not p.name.startswith(".")) == sorted(
        [*named, *events, "report.md", "report.html", "numbers.json", "manifest.json"])
    assert sorted([*numbers["sections"], *numbers["left_out"]]) == sorted(SECTIONS)
    for name in numbers["sections"]:
        assert f"## {sections()[name].TITLE}\n" in report
    for why in numbers["left_out"].values():
        assert re.split("[_<]", why)[0] in report
    return report, numbers


def test_a_workspace_with_everything(tmp_path):
    workdir = world(tmp_path / "w")
    out = made("--workdir", workdir)
    report, numbers = check(workdir / "explore")
    assert numbers["left_out"] == {} and "9 sections" in out
    assert report.startswith("# Data of three_users\n\nSource: by hand.\n")
    assert "3 users and 4 played tracks (of 5 in the track list) have 6 pairs and 10 plays" in report
    assert r"tags**: 2 labels" in report and "The most played is rock" in report
    for line in report.splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) >= 3
    from PIL import Image
    for path in (workdir / "explore").glob("*.png"):
        picture = np.asarray(Image.open(path).convert("L"))
        assert picture.shape[1] == pytest.approx(1350, abs=5) and picture.std() > 5, path.name


def test_signs_of_money_in_names_are_no_formula(tmp_path):
    workdir = world(tmp_path / "w")
    items = pq.read_table(workdir / "items.pqt")
    tags = pa.array([["x"], None, [], ["$_$", "rock"], ["$_$"]], pa.list_(pa.string()))
    write_parquet(workdir / "items.pqt", items.set_column(items.column_names.index("tags"), "tags", tags))
    made("--workdir", workdir)
    assert (workdir / "explore" / "labels.png").exists()


def test_the_same_bytes_in_another_place_and_skipped_the_second_time(tmp_path):
    first, second = world(tmp_path / "a"), world(tmp_path / "b")
    made(first)
    made("--workdir", second)
    files = {p.name for p in (first / "explore").iterdir() if p.suffix in (".png", ".md")} | {"numbers.json"}
    for name in files:
        assert (first / "explore" / name).read_bytes() == (second / "explore" / name).read_bytes(), name
    before = {p: p.stat().st_mtime_ns for p in (first / "explore").iterdir() if not p.name.startswith(".")}
    assert "finished before, skipped" in made(first)
    assert before == {p: p.stat().st_mtime_ns for p in before}
    assert "session_gap changed" in made(first, "--session-gap", 5)


def test_a_changed_workspace_is_explored_again_and_old_figures_go(tmp_path):
    workdir = world(tmp_path / "w")
    made(workdir)
    assert (workdir / "explore/friends.png").exists()
    (workdir / "users.pqt").unlink()
    write_plays(workdir, [(10, 0, MONDAY, 2), (20, 1, MONDAY, 1)], timed=False)
    write_json(workdir / "dataset.json", {"name": "three_users", "time": "none"})
    assert "plays.pqt" in made(workdir)
    report, numbers = check(workdir / "explore")
    assert sorted(numbers["left_out"]) == ["activity", "friends", "sessions"]
    assert "- no friends graph: there is no users.pqt" in report and "the plays have no times" in report


def test_a_failure_leaves_the_old_report(tmp_path, monkeypatch):
    workdir = world(tmp_path / "w")
    made(workdir)
    before = {p.name: p.read_bytes() for p in (workdir / "explore").iterdir() if not p.name.startswith(".")}

    def fail(numbers):
        raise WorkError("no ink")
    monkeypatch.setattr(sections()["friends"], "draw", fail)
    status, _, err = say(workdir, "--overwrite")
    assert (status, err.splitlines()[-1].split(": ", 1)[1]) == (1, "no ink")
    assert before == {p.name: p.read_bytes() for p in (workdir / "explore").iterdir() if not p.name.startswith(".")}


def test_tensorboard_has_the_numbers_of_the_json(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    workdir = world(tmp_path / "w")
    made(workdir)
    numbers = read_json(workdir / "explore/numbers.json")["sections"]
    events = EventAccumulator(str(workdir / "explore"), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    written = {tag: [e.value for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    expected = tracking.flat(numbers)
    assert written.keys() == expected.keys() and written["sizes/pairs"] == [6] and len(written["activity/users"]) == 21
    for tag, values in expected.items():
        np.testing.assert_allclose(written[tag], values, rtol=1e-6)
    assert sorted(events.Tags()["images"]) == sorted(p.stem for p in (workdir / "explore").glob("*.png"))


# --------------------------------------------------------------------------- workspaces that lack something

@pytest.mark.parametrize("change, left", [
    ("nothing but a split", {"sessions", "labels", "friends"}), ("no metadata", {"labels", "features", "friends"}),
    ("ordinal", {"activity", "sessions"}), ("no embeddings", {"representations", "overlap"})])
def test_what_is_lacking_is_left_out_and_said(tmp_path, change, left):
    if change == "nothing but a split":
        workdir = tiny_workspace(tmp_path / "w")
        (workdir / "dataset.json").unlink()
        frame = pd.read_parquet(workdir / "items.pqt").drop(columns="styles")
        write_parquet(workdir / "items.pqt", frame)
        left = left | {"features"}
    else:
        workdir = world(tmp_path / "w")
    if change == "no metadata":
        (workdir / "items.pqt").unlink()
        (workdir / "users.pqt").unlink()
    if change == "ordinal":
        write_json(workdir / "dataset.json", {"name": "x", "time": "ordinal"})
    if change == "no embeddings":
        (workdir / "embeddings/content.npy").unlink()
    out = made(workdir)
    _, numbers = check(workdir / "explore")
    assert set(numbers["left_out"]) == left and out.count("left out: ") == len(left)
    assert ("an order, but no timestamps" in out) == (change == "ordinal")


def test_one_user_and_one_track(tmp_path):
    workdir = tmp_path / "w"
    workdir.mkdir()
    write_tracks(workdir, 1)
    write_plays(workdir, [(5, 0, MONDAY, 1)])
    write_parquet(workdir / "items.pqt", pa.table({"track_id": [0], "genres": [["only"]], "year": [2000]}))
    write_parquet(workdir / "users.pqt", pa.table({"user_id": [5], "friends": [[5]]}))
    write_embedding(workdir, "one", np.ones((1, 3), np.float32))
    made(workdir)
    _, numbers = check(workdir / "explore")
    assert set(numbers["left_out"]) == {"features", "representations", "friends"}


def test_an_embedding_of_constants_and_one_without_rows(tmp_path):
    workdir = world(tmp_path / "w")
    write_embedding(workdir, "constant", np.full((5, 2), 0.3, np.float32))
    write_embedding(workdir, "empty", np.full((5, 2), np.nan, np.float32))
    named_embedding(workdir, np.array([[0.1, 5.0], [0.2, 5], [0.3, 5], [0.4, 5], [0.5, 5.1]]))   # flat where played
    made(workdir)
    _, numbers = check(workdir / "explore")
    assert numbers["sections"]["representations"]["constant"]["ninety"] == 0
    assert "empty" not in numbers["sections"]["representations"]
    assert numbers["sections"]["overlap"]["representations"]["empty"]["of_plays"] == 0
    assert list(numbers["sections"]["features"]["features"]) == ["danceability", "year"]


def test_another_workspace_without_artists_is_named(tmp_path):
    workdir, other = world(tmp_path / "w"), world(tmp_path / "v")
    write_parquet(other / "items.pqt", pa.table({"track_id": [0], "name": ["x"]}))
    made(workdir, "--with", other)
    assert r"Not compared with three\_users" in (workdir / "explore/report.md").read_text() or \
        "Not compared with three_users: it has no artist names" in (workdir / "explore/report.md").read_text()


# --------------------------------------------------------------------------- metadata from elsewhere

def with_items(workdir, **columns):
    """The world with more columns in items.pqt; its rows are of the tracks 4, 3, 2, 1 and 0."""
    world(workdir)
    table = pq.read_table(workdir / "items.pqt")
    for name, values in columns.items():
        if name in table.column_names:
            table = table.drop_columns(name)
        table = table.append_column(name, values)
    write_parquet(workdir / "items.pqt", table)
    return workdir


def with_friends(workdir, friends):
    world(workdir)
    write_parquet(workdir / "users.pqt", pa.table({"user_id": [30, 20, 10], "friends": friends}))
    return workdir


def sections_of(workdir):
    made(workdir)
    report, numbers = check(workdir / "explore")
    return report, numbers["sections"], numbers["left_out"]


@pytest.mark.parametrize("values", [pa.array([2**60, 2**60 + 1, 5, 7, 2**61 + 1]),
                                    pa.array([2**63 + 1, 1, 5, 7, 9], pa.uint64())])
def test_whole_numbers_beyond_those_of_a_float_are_rounded(tmp_path, values):
    _, found, _ = sections_of(with_items(tmp_path / "w", isrc=values))
    known = values.to_pylist()[1:]                                          # track 4 was never played
    assert found["features"]["features"]["isrc"]["max"] == pytest.approx(max(known), rel=1e-5)


def test_labels_of_a_fixed_number_are_lists_and_structs_are_left_out(tmp_path):
    pairs = pa.FixedSizeListArray.from_arrays(pa.array(list("abcdefaaaa")), 2)
    structs = pa.array([{"a": 1}] * 5)
    report, found, _ = sections_of(with_items(tmp_path / "w", genres=pairs, styles=structs))
    assert found["labels"]["genres"]["labels"] == 5 and found["labels"]["genres"]["top"][0]["label"] == "a"
    assert "styles is left out: it is struct" in report and found["labels"]["tags"]["labels"] == 2
    _, found, left = sections_of(with_items(tmp_path / "v", tags=structs, artists=structs))
    assert "tags of items.pqt is struct<a: int64>, not text or lists of text" in left["labels"]
    assert "overlap" in found


@pytest.mark.parametrize("friends", [pa.array([[], ["bob"], ["ann"]]), pa.array([[], [10.5], [20.0]]),
                                     pa.array([[], ["99999999999999999999"], []]), pa.array([{"a": 1}] * 3)])
def test_friends_that_are_no_user_ids_are_left_out(tmp_path, friends):
    _, _, left = sections_of(with_friends(tmp_path / "w", friends))
    assert left == {"friends": "no friends graph: friends of users.pqt are not lists of user ids (integers)"}


@pytest.mark.parametrize("facts", [
    {"features": ["a", "b", "c"], "mean": [1, 2, 3], "std": [1, 1, 1]}, {"features": ["a"], "mean": [1], "std": [1]},
    {"features": ["a", "b"], "mean": [1, None], "std": [1, 1]}, {"features": 2, "mean": [1, 2], "std": [1, 1]},
    {"features": ["a", "a"], "mean": [1, 2], "std": [1, 1]}, {"features": ["a", "b"], "mean": ["x", 2], "std": [1, 1]}])
def test_a_manifest_that_does_not_fit_its_matrix_is_left_out_and_named(tmp_path, facts):
    write_embedding(world(tmp_path / "w"), "e", np.arange(10, dtype=np.float32).reshape(5, 2), facts=facts)
    report, found, _ = sections_of(tmp_path / "w")
    assert found["features"]["unfit"] == ["e"] and list(found["features"]["features"]) == ["year"]
    assert "e is left out, as features, mean and std of its json do not fit its columns." in report
    (tmp_path / "w/items.pqt").unlink()
    _, _, left = sections_of(tmp_path / "w")
    assert "items.pqt has no numbers; e is left out" in left["features"]


# --------------------------------------------------------------------------- bad input, W&B

def broken(workdir, what):
    world(workdir)
    if what == "columns":
        write_parquet(workdir / "plays.pqt", pa.table({"user": [1], "track_id": [0]}))
    elif what == "rows":
        write_plays(workdir, [])
    elif what == "range":
        write_plays(workdir, [(1, 5, MONDAY, 1)])
    elif what == "bytes":
        (workdir / "plays.pqt").write_bytes(b"no parquet")
    elif what == "none":
        (workdir / "plays.pqt").unlink()
    elif what == "items":
        write_parquet(workdir / "items.pqt", pa.table({"id": [0]}))
    elif what == "twice":
        write_parquet(workdir / "items.pqt", pa.table({"track_id": [0, 0]}))
    elif what == "embedding":
        write_embedding(workdir, "content", np.ones((3, 2), np.float32))
    elif what == "gap":
        write_parquet(workdir / "users.pqt", pa.table({"user_id": pa.array([30, None]), "friends": [[10], [30]]}))
    elif what == "part":
        write_text(workdir / "data/train.pqt", "no parquet")
    elif what == "part's columns":
        write_parquet(workdir / "data/train.pqt", pa.table({"user": [1]}))
    elif what == "part's middle":
        table = pa.table({"user_id": np.arange(5000), "track_id": np.zeros(5000, int)})
        write_parquet(workdir / "data/train.pqt", table)
        whole = bytearray((workdir / "data/train.pqt").read_bytes())
        whole[4:-1000] = bytes(len(whole) - 1004)
        (workdir / "data/train.pqt").write_bytes(whole)
    elif what == "interrupted":
        write_json(workdir / "dataset.json", {"status": "writing"})
    return workdir


@pytest.mark.parametrize("what, sentence", [
    ("columns", "must have an integer column user_id"), ("rows", "has no rows"), ("range", "track_id runs from 5 to 5"),
    ("bytes", "cannot be read as parquet"), ("none", "has neither plays.pqt nor data/train.pqt"),
    ("items", "has no column track_id of integers; it has id"), ("twice", "track_id must be distinct rows"),
    ("embedding", "has 3 rows, but trackid_sorted.csv has 5 tracks"), ("interrupted", "was interrupted"),
    ("gap", "user_id must be integers without gaps, but 1 rows have none"),
    *((what, "data/train.pqt cannot be read as pairs of user_id and track_id (")
      for what in ("part", "part's columns", "part's middle"))])
def test_bad_workspaces_are_one_sentence(tmp_path, what, sentence):
    workdir = broken(tmp_path / "w", what)
    status, _, err = say(workdir)
    assert status == 1 and sentence in err.splitlines()[-1] and "Traceback" not in err, err
    assert not any(not p.name.startswith(".") for p in (workdir / "explore").glob("*"))


@pytest.mark.parametrize("words, sentence", [
    (["{t}/nowhere"], "is not a folder"), (["{w}", "--workdir", "{t}"], "two workspaces are named"),
    (["{w}", "--session-gap", "0"], "at least 1"), (["{w}", "--with", "{t}"], "is not a workspace with an items.pqt"),
    (["{w}", "--memory", "much"], "is not a memory size"), (["{w}", "stray"], "unrecognized arguments: stray")])
def test_bad_requests_are_one_sentence(tmp_path, words, sentence):
    world(tmp_path / "w")
    status, _, err = say(*(word.format(t=tmp_path, w=tmp_path / "w") for word in words))
    assert status == 2 and sentence in err and len(err.splitlines()) == 1, err


def test_help_is_instant_and_an_empty_folder_is_one_sentence(tmp_path):
    out = subprocess.run([sys.executable, "-X", "importtime", str(ROOT / "explore.py"), "--help"], capture_output=True,
                         text=True, timeout=60)
    loaded = {line.rsplit("|", 1)[1].strip().partition(".")[0] for line in out.stderr.splitlines() if "|" in line}
    assert out.returncode == 0 and not loaded & {"numpy", "pandas", "torch", "matplotlib", "duckdb", "wandb"}
    done = subprocess.run([sys.executable, str(ROOT / "explore.py"), str(tmp_path)], capture_output=True, text=True,
                          timeout=60)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "has neither plays.pqt" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_wandb_that_is_not_installed_is_refused_before_any_work(tmp_path, monkeypatch):
    workdir = world(tmp_path / "w")
    monkeypatch.setattr(explore.importlib.util, "find_spec", lambda name: None)
    status, _, err = say(workdir, "--wandb")
    assert status == 2 and "needs the package wandb" in err and not (workdir / "explore").exists()


def test_wandb_offline_keeps_the_report_on_this_machine(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    workdir = world(tmp_path / "w")
    out = made(workdir, "--wandb", "music")
    (run,) = (workdir / "explore/wandb").glob("offline-run-*")
    (saved,) = run.glob("run-*.wandb")
    content = saved.read_bytes()
    for word in (b"sizes/pairs", b"friends/friendships", b"three_users", b"figures/tails"):
        assert word in content, word
    assert "Weights & Biases: " in out and len(list((run / "files/media/images/figures").glob("*.png"))) == len(
        list((workdir / "explore").glob("*.png")))
