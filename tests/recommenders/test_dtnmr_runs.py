"""DTNMR's runs through its command line: learning, ablations, exact resume, KKBOX files, everything it must refuse."""
import copy
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

import dataset
import metrics
import table
from evaluation.intervals import mean_and_half_width
from harness import cli, runs
from harness.errors import WorkError
from harness.files import write_parquet
from harness.progress import EXIT_RESUMABLE
from harness.readers import load_checkpoint, read_json
from recommenders.dtnmr import __main__ as dtnmr
from recommenders.dtnmr.training import Settings, Training, agrees, subset_metrics
from tests.conftest import ROOT
from tests.worlds import kkbox
from tests.worlds.dtnmr_world import SMALL, listening_world, network_of, world_of
from tests.worlds.world import tiny_workspace


def finished(workdir):
    (name, config), = [r for r in runs.find_runs(workdir) if r[1]["status"] == "finished"]
    return name, config


def refused(capsys, *argv):
    """Exit status and the one sentence of a refused request."""
    with pytest.raises(SystemExit) as e:
        cli.run(dtnmr.main, [str(a) for a in argv])
    said = capsys.readouterr().err.strip()
    assert "Traceback" not in said and len(said.splitlines()[-1]) > 20
    return e.value.code, said.splitlines()[-1]


# --------------------------------------------------------------------------- runs

@pytest.mark.trains
def test_it_learns_the_planted_taste_and_reports_the_accuracy_of_the_source(tmp_path):
    """Each user likes one of four styles: the label among 5 is found more often than by plays or by chance."""
    workdir = tiny_workspace(tmp_path / "w", n_users=150, n_tracks=120)
    dtnmr.main(["--workdir", str(workdir), "--epochs", "25", "--patience", "25", "--hidden", "32", "--lstm-size", "16",
                "--size", "8", "--lr", "0.01", "--batch-size", "128", "--dropout", "0"])
    name, config = finished(workdir)
    told = config["subset_accuracy"]["test"]
    assert told["chance"] == 0.2 and told["points"] == config["points"]["test"]
    assert told["Accuracy"] > max(told["Accuracy of popularity"], 0.2) + 2 * told["conf"]
    users = pd.read_parquet(workdir / "metrics" / f"{name}_test_points.pqt")["PointAccuracy@5"]
    points = pd.read_parquet(workdir / "data" / "test.pqt").groupby("user_id").size()
    assert np.average(users, weights=points) == pytest.approx(told["Accuracy"]) and users.min() < users.max()
    means = pd.read_csv(workdir / "metrics" / f"{name}_cold_test.csv", index_col=0)
    split = dataset.load(workdir)
    assert means.loc["mean", "Recall@5"] > 5 / (split.n_items - split.n_hot)   # songs nobody has played
    events = list((workdir / "runs" / name).glob("events.out.tfevents.*"))
    assert events and events[0].stat().st_size > 0
    saved = load_checkpoint(workdir / "checkpoints" / "dtnmr" / f"{name}_best.pt")
    assert saved["vocabularies"]["songs"]["styles"] == [f"style {i}" for i in range(4)]


@pytest.mark.trains
@pytest.mark.parametrize("flag", ["--no-static", "--no-long", "--no-short", "--no-behaviour"])
def test_every_ablation_runs_and_is_a_run_of_its_own(tmp_path, flag):
    workdir = listening_world(tmp_path / "w")
    for extra in ([], [flag]):
        dtnmr.main(["--workdir", str(workdir), "--k", "5", *SMALL, *extra])
    assert len([p for p in (workdir / "preds").glob("*_test.pqt") if "cold" not in p.name]) == 2


def test_users_who_only_play_again_what_they_knew_are_counted(tmp_path, capsys):
    """Their points are in the accuracy over points; the metrics have no row for them."""
    workdir = listening_world(tmp_path / "w")
    test = pd.read_parquet(workdir / "data" / "test.pqt")
    gone = test.user_id.unique()[:2]
    write_parquet(workdir / "data" / "test.pqt", test[~test.user_id.isin(gone)])
    before = len(world_of(workdir)[0].rows["test"])
    dtnmr.main(["--workdir", str(workdir), "--k", "5", *SMALL])
    name, config = finished(workdir)
    told = config["subset_accuracy"]["test"]
    values = pd.read_parquet(workdir / "metrics" / f"{name}_test_points.pqt").set_index("user_id")["PointAccuracy@5"]
    n = told["points"] - values.notna().sum()   # a point for each user
    assert told["points"] == before and n >= 2 and told["users_of_repeats"] == n and not set(gone) & set(values.index)
    assert f"test: PointAccuracy@5 leaves out {n} of {before} users, whose points" in capsys.readouterr().out


def accuracy_of_points(workdir, *parts):
    """The line of dtnmr and PointAccuracy@5 in the tidy tables, as written by table.py."""
    table.main(["--workdir", str(workdir), "--k", "5", "--metrics", "PointAccuracy", "Recall", "--parts", *parts])
    frames = [pd.read_csv(workdir / "tables" / f"results_{part}.csv") for part in parts]
    return [frame[(frame.method == "DTNMR") & (frame.metric == "PointAccuracy")].iloc[0] for frame in frames]


def test_metrics_py_leaves_the_accuracy_of_points_in_the_table(tmp_path):
    """Only training can measure it, so it stands in files of its own that metrics.py does not write."""
    workdir = listening_world(tmp_path / "w")
    dtnmr.main(["--workdir", str(workdir), "--k", "5", *SMALL])
    name, config = finished(workdir)
    before = accuracy_of_points(workdir, "val", "test")
    metrics.main(["--workdir", str(workdir)])
    for part, old, new in zip(("val", "test"), before, accuracy_of_points(workdir, "val", "test"), strict=True):
        pd.testing.assert_series_equal(old, new)
        values = pd.read_parquet(workdir / "metrics" / f"{name}_{part}_points.pqt")["PointAccuracy@5"].dropna()
        mean, half = mean_and_half_width(values)
        assert new["mean"] == pytest.approx(mean) and np.isfinite(mean)
        assert new["half_users"] == pytest.approx(half, nan_ok=True)
    assert config["outputs"] == sorted(f"metrics/{name}_{part}_points.{suffix}" for part in ("val", "test")
                                       for suffix in ("csv", "pqt"))


def test_a_finished_run_without_its_accuracy_of_points_is_done_again_from_its_checkpoint(tmp_path, capsys):
    workdir = listening_world(tmp_path / "w")
    command = ["--workdir", str(workdir), "--k", "5", *SMALL]
    dtnmr.main(command)
    name, _ = finished(workdir)
    path = workdir / "metrics" / f"{name}_test_points.pqt"
    checkpoint = workdir / "checkpoints" / "dtnmr" / f"{name}_last.pt"
    before, stamp = pd.read_parquet(path), checkpoint.stat().st_mtime_ns
    path.unlink()
    capsys.readouterr()
    dtnmr.main(command)
    assert "skipped" not in capsys.readouterr().err and checkpoint.stat().st_mtime_ns == stamp
    pd.testing.assert_frame_equal(pd.read_parquet(path), before)
    dtnmr.main(command)
    assert "skipped" in capsys.readouterr().err


def test_the_accuracy_of_points_of_an_earlier_version_stays_in_its_metrics(tmp_path):
    """It was a column of the run's metrics then: metrics.py keeps it while the lists are those it was written with."""
    workdir = tmp_path / "w"
    shutil.copytree(ROOT / "tests" / "worlds" / "finished_before", workdir)
    (name,) = [n for n, c in runs.find_runs(workdir) if c["recommender"] == "dtnmr"]
    path = workdir / "metrics" / f"{name}_test.pqt"
    before = pd.read_parquet(path)["PointAccuracy@5"]
    shown = accuracy_of_points(workdir, "test")[0]
    for _ in range(2):                                   # the second call finds the digest that the first one wrote
        metrics.main(["--workdir", str(workdir), name])
        pd.testing.assert_series_equal(pd.read_parquet(path)["PointAccuracy@5"], before)
        pd.testing.assert_series_equal(accuracy_of_points(workdir, "test")[0], shown)
    shutil.copy(ROOT / "tests" / "worlds" / "finished_before" / "metrics" / path.name, path)
    lists = pd.read_parquet(workdir / "preds" / path.name)
    last = lists["rank"].max()
    write_parquet(workdir / "preds" / path.name, lists.assign(rank=last - lists["rank"]))
    metrics.main(["--workdir", str(workdir), name])
    assert "PointAccuracy@5" not in pd.read_parquet(path)


def test_subsets_do_not_depend_on_how_training_is_batched(tmp_path):
    """More points than one batch holds, which is cut at the end of a run."""
    workdir = listening_world(tmp_path / "w", n_users=250)
    drawn = []
    for flags in ([], ["--run-len", "1"]):
        world, args = world_of(workdir, *flags)
        drawn.append(subset_metrics(network_of(world, args), world, "train", args.seed)["Accuracy of popularity"])
    assert drawn[0] == drawn[1]


@pytest.mark.trains
@pytest.mark.parametrize("when", ["kill", "signal"])
def test_an_interrupted_training_continues_to_the_same_bytes(tmp_path, when):
    """Killed within an epoch: the same command gives the lists of a run that was left alone."""
    flags = ["--batch-size", "32", "--run-len", "4", *SMALL, "--k", "5"]
    first = tiny_workspace(tmp_path / "a")
    shutil.copytree(first, tmp_path / "b")
    dtnmr.main(["--workdir", str(first), *flags])
    name, _ = finished(first)
    command = [sys.executable, "-m", "recommenders.dtnmr", "--workdir", str(tmp_path / "b"), *flags,
               "--checkpoint-seconds", "0"]                        # a checkpoint after every step
    last = tmp_path / "b" / "checkpoints" / "dtnmr" / f"{name}_last.pt"
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not last.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL if when == "kill" else signal.SIGUSR1)
    status = process.wait(timeout=120)
    assert status == (-signal.SIGKILL if when == "kill" else EXIT_RESUMABLE)
    state = load_checkpoint(last)
    assert (0, 0) < (state["epoch"], state["step"]) < (2, 0) and not list((tmp_path / "b").glob("preds/*"))
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    for file in sorted((first / "preds").iterdir()):
        assert (tmp_path / "b" / "preds" / file.name).read_bytes() == file.read_bytes()


def test_a_checkpoint_of_other_columns_is_refused(tmp_path):
    world, args = world_of(listening_world(tmp_path / "w"))
    training = Training(world, network_of(world, args), Settings())
    state = copy.deepcopy(training.state())
    training.load(state)
    state["vocabularies"]["songs"]["genres"] = ["pop", "rock and roll"]
    with pytest.raises(WorkError, match="made with other vocabularies; use --overwrite"):
        training.load(state)


@pytest.mark.trains
def test_early_stopping_keeps_the_best_epoch(tmp_path):
    workdir = tiny_workspace(tmp_path / "w")
    dtnmr.main(["--workdir", str(workdir), *SMALL, "--epochs", "40", "--patience", "1", "--lr", "0.3", "--k", "5"])
    name, config = finished(workdir)
    assert config["best_epoch"] == config["epochs"] - 1 < 39
    best = load_checkpoint(workdir / "checkpoints" / "dtnmr" / f"{name}_best.pt")
    assert best["epoch"] == config["best_epoch"]


def test_a_workspace_without_val_trains_all_epochs(tmp_path):
    workdir = tiny_workspace(tmp_path / "w")
    (workdir / "data" / "val.pqt").unlink()
    dtnmr.main(["--workdir", str(workdir), *SMALL, "--k", "5"])
    _, config = finished(workdir)
    assert config["epochs"] == config["best_epoch"] == 2 and "val" not in config["subset_accuracy"]


def test_the_sources_command_line_reads_the_kkbox_sample(shared, tmp_path, capsys):
    """Its own flags, unchanged; again without --reload it uses what is there, and other filters are refused."""
    flags = ["--db", shared / "data" / "kkbox-sample", "--cache", tmp_path / "w", "--top", "0.001",
             "--min-playlist-len", "5", "--max-playlist-len", "200", "--subset-size", "5", "--short-term-len", "10",
             "--long-term-len", "20"]
    for extra in (["--reload"], []):
        dtnmr.main([*map(str, flags), *SMALL, *extra])
    _, config = finished(tmp_path / "w")
    assert config["points"]["train"] >= 1 and config["subset_accuracy"]["test"]["points"] == config["points"]["test"]
    assert "skipped" in capsys.readouterr().err
    other = [*flags]
    other[other.index("--top") + 1] = "0.01"
    status, said = refused(capsys, *other)
    assert status == 2 and "was made with --top 0.001; add --reload" in said


def test_points_without_a_split_are_split_and_kept(tmp_path, capsys):
    """The filters they were made with stay, the files are not asked for, and other filters are refused."""
    raw, workdir = kkbox.write(tmp_path / "raw", kkbox.world()), tmp_path / "w"
    kkbox.get(raw, workdir, *kkbox.LOOSE, "--val-share", 0)
    before = (workdir / "points.pqt").stat().st_mtime_ns
    args = ["--cache", str(workdir), "--memory", "1GB"]
    code, said = refused(capsys, *args, "--val-share", ".1")
    assert code == 2 and "was made with --val-share 0.0; add --reload" in said and not (workdir / "data").exists()
    assert dtnmr.prepare(dtnmr.parse(args)) == workdir
    assert (workdir / "points.pqt").stat().st_mtime_ns == before and dataset.load(workdir).n_users == 2
    shutil.rmtree(workdir / "data")
    dtnmr.prepare(dtnmr.parse([*args, "--db", str(raw), "--top", "0"]))
    assert "holds points, so" in capsys.readouterr().err and (workdir / "points.pqt").stat().st_mtime_ns == before
    (workdir / "points.pqt").unlink()
    shutil.rmtree(workdir / "data")
    code, said = refused(capsys, *args)
    assert code == 2 and "holds plays of another data set and no split" in said


def test_what_the_errors_of_the_kkbox_reader_advise_is_accepted(tmp_path, capsys):
    """--min-age 0 and --test last go through to it, and archives do."""
    tables = kkbox.world()
    for row in tables["members"]:
        row[2] = 0
    raw = kkbox.write(tmp_path / "raw", tables)
    flags = ["--db", str(shutil.make_archive(str(tmp_path / "all"), "zip", raw)), "--cache", str(tmp_path / "w"),
             "--top", "0", "--min-playlist-len", "2"]
    code, said = refused(capsys, *flags)
    assert code == 1 and "try --min-age 0" in said
    code, said = refused(capsys, *flags, "--min-age", "0", "--test", "csv")
    assert code == 1 and "try --test last" in said
    dtnmr.prepare(dtnmr.parse([*flags, "--min-age", "0", "--test", "last", "--artist-names", "known"]))
    told = read_json(tmp_path / "w" / "dataset.json")["request"]
    assert (told["min_age"], told["test"], told["artist_names"], told["max_age"]) == (0, "last", "known", 59)


def test_the_columns_are_those_of_the_kkbox_readers_matrix(shared, tmp_path):
    """items.pqt encoded here and embeddings/metadata.npz encode every kept song alike."""
    from scipy.sparse import load_npz
    workdir = tmp_path / "w"
    dtnmr.main(["--db", str(shared / "data" / "kkbox-sample"), "--cache", str(workdir), "--min-playlist-len", "5",
                *SMALL])
    world, _ = world_of(workdir)
    theirs = load_npz(workdir / "embeddings" / "metadata.npz")[world.songs.ids[world.songs.catalogue]].toarray()
    ours = world.songs.bags.dense()[world.songs.catalogue]
    assert ours.shape[1] == theirs.shape[1] - 1 == pq.read_table(workdir / "vocabulary.pqt").num_rows - 1
    assert (ours == theirs[:, 1:]).all()
    np.testing.assert_allclose(world.songs.length[world.songs.catalogue, 0], theirs[:, 0], rtol=1e-6)


# --------------------------------------------------------------------------- bad input

def test_a_song_and_a_user_without_metadata_are_unknown_not_an_error(tmp_path):
    workdir = listening_world(tmp_path / "w")
    for name, key in (("items", "track_id"), ("users", "user_id")):
        frame = pd.read_parquet(workdir / f"{name}.pqt")
        gone = frame[key].iloc[5]
        write_parquet(workdir / f"{name}.pqt", frame[frame[key] != gone])
        world, _ = world_of(workdir)
        bags, ids = ((world.songs.bags, world.songs.ids) if name == "items" else
                     (world.user_bags, world.split.users))
        row = bags.dense()[np.searchsorted(ids, gone)]
        vocabularies = world.songs.vocabularies if name == "items" else world.user_vocabularies
        places = np.cumsum([len(v) + 1 for v in vocabularies.values()]) - 1
        assert np.flatnonzero(row).tolist() == places.tolist()
    dtnmr.main(["--workdir", str(workdir), *SMALL, "--k", "5"])


@pytest.mark.parametrize(("flags", "status", "words"), [
    (["--subset-size", "1"], 2, "at least 2"),
    (["--subset-size", "100"], 1, "use at most --subset-size "),
    (["--short-term-len", "30"], 2, "longer than --long-term-len"),
    (["--no-static", "--no-long", "--no-short"], 2, "leave nothing"),
    (["--no-behaviour"], 2, "no listening behaviour"),
    (["--top", "0.1"], 2, "--top is for the KKBOX files"),
    (["--test", "last"], 2, "--test is for the KKBOX files"),
    (["--song-fields", "genre"], 2, "--song-fields"),
    (["--user-fields", "sex"], 2, "--user-fields"),
    (["--lr", "0"], 2, "--lr: must be a number above 0, not 0"),
    (["--dropout", "1"], 2, "below 1"),
    (["--lr", "nan"], 2, "not nan"),
    (["--memory", "much"], 2, "--memory much"),
    (["--epochs", "0"], 2, "whole number"),
    (["--min-playlist-len", "99"], 1, "no playlist is long enough"),
    (["--device", "tpu0"], 2, "no device"),
    (["--lr", "1e30", "--optimizer", "sgd"], 1, "smaller --lr"),
])
def test_a_request_that_cannot_be_meant_is_one_sentence(tiny, capsys, flags, status, words):
    before = sorted(p.name for p in tiny.iterdir())
    code, said = refused(capsys, "--workdir", tiny, *SMALL, *flags)
    assert code == status and words in said
    assert status == 1 or sorted(p.name for p in tiny.iterdir()) == before


@pytest.mark.parametrize("file", ["items.pqt", "users.pqt"])
def test_missing_and_damaged_metadata_is_one_sentence(tiny, capsys, file):
    whole = (tiny / file).read_bytes()
    for damage, words in ((None, "is missing"), (whole[:50], "cannot be read"), (b"", "cannot be read")):
        (tiny / file).unlink(missing_ok=True)
        if damage is not None:
            (tiny / file).write_bytes(damage)
        code, said = refused(capsys, "--workdir", tiny, *SMALL)
        assert code == 1 and file in said and words in said
    write_parquet(tiny / file, pd.DataFrame({"user_id": [3], "track_id": [3], "colour": ["red"]}))
    code, said = refused(capsys, "--workdir", tiny, *SMALL)
    assert code == 1 and "none of the columns" in said and "colour" in said


def test_a_first_epoch_without_a_val_loss_advises_a_smaller_lr(tmp_path, capsys):
    """One step, whose own loss is still a number."""
    workdir = tiny_workspace(tmp_path / "w")
    code, said = refused(capsys, "--workdir", workdir, *SMALL, "--epochs", "1", "--batch-size", "100000",
                         "--lr", "9e36", "--optimizer", "sgd", "--k", "5")
    assert code == 1 and "loss is NaN or infinite in epoch 1; try a smaller --lr" in said


def test_no_behaviour_of_points_without_behaviour(tmp_path, capsys):
    workdir = listening_world(tmp_path / "w")
    points = pd.read_parquet(workdir / "points.pqt")
    write_parquet(workdir / "points.pqt", points.drop(columns="source_system_tab"))
    code, said = refused(capsys, "--workdir", workdir, *SMALL, "--no-behaviour")
    assert code == 2 and "no listening behaviour to leave out" in said


def test_points_without_a_column_and_data_without_order_are_one_sentence(tmp_path, capsys):
    workdir = listening_world(tmp_path / "w")
    points = pd.read_parquet(workdir / "points.pqt")
    write_parquet(workdir / "points.pqt", points.drop(columns="position"))
    code, said = refused(capsys, "--workdir", workdir, *SMALL)
    assert code == 1 and "no column position" in said
    code, said = refused(capsys, "--workdir", tiny_workspace(tmp_path / "t", timed=False), *SMALL)
    assert code == 2 and "--order count" in said
    dtnmr.main(["--workdir", str(tmp_path / "t"), "--order", "count", *SMALL, "--k", "5"])


def test_points_newer_than_the_split_are_refused(tmp_path, capsys):
    """Other filters move plays from train to test: the old train.pqt would know the new test points."""
    raw, workdir = kkbox.write(tmp_path / "raw", kkbox.world()), tmp_path / "w"
    flags = ["--workdir", workdir, "--subset-size", "2", "--min-playlist-len", "2", *SMALL]
    kkbox.get(raw, workdir, *kkbox.LOOSE, "--val-share", 0)
    for protocol in ("random", "given"):
        kkbox.splitter.main(["--protocol", protocol, "--workdir", str(workdir)])
        if protocol == "random":
            code, said = refused(capsys, *flags)
            assert code == 1 and "--protocol given again" in said
    kkbox.get(raw, workdir, *kkbox.LOOSE)
    assert "warning: " in capsys.readouterr().out
    code, said = refused(capsys, *flags)
    assert code == 1 and "was not split by split.pqt" in said and "--protocol given again" in said
    kkbox.splitter.main(["--protocol", "given", "--workdir", str(workdir)])
    agrees(workdir)
    kkbox.splitter.main(["--protocol", "given", "--workdir", str(workdir), "--train-share", ".5"])
    code, said = refused(capsys, *flags)
    assert code == 2 and "those that --train-share took out of train among them" in said


def test_a_folder_without_the_kkbox_files_is_named(tmp_path, capsys):
    code, said = refused(capsys, "--db", tmp_path / "nowhere", "--cache", tmp_path / "w")
    assert code == 2 and str(tmp_path / "nowhere") in said and not (tmp_path / "w").exists()
    code, said = refused(capsys, "--cache", tmp_path / "w", "--workdir", tmp_path / "v")
    assert code == 2 and "name two workspaces" in said


def test_playlists_shorter_than_the_short_term_are_read_whole(tmp_path):
    """12 plays and windows of 50 and 80: the long and the short state are the same."""
    world, args = world_of(tiny_workspace(tmp_path / "w"), "--short-term-len", "50", "--long-term-len", "80")
    net = network_of(world, args).eval()
    rows = world.rows["val"][:9]
    users, ends, _ = world.batch(rows, "val", 3, np.random.default_rng(0))
    with torch.no_grad():
        both = net.dynamic(world.data, users, ends)
        net.components = net.components - {"short"}
        torch.testing.assert_close(both, 2 * net.dynamic(world.data, users, ends))


def test_help_is_instant_and_names_the_flags_of_the_source():
    out = subprocess.run([sys.executable, "-X", "importtime", "-m", "recommenders.dtnmr", "--help"], cwd=ROOT,
                         capture_output=True, text=True, check=True)
    assert "torch" not in out.stderr and "pandas" not in out.stderr
    for flag in ("--reload", "--db", "--cache", "--top", "--min-playlist-len", "--max-playlist-len", "--subset-size",
                 "--short-term-len", "--long-term-len"):
        assert flag in out.stdout
