"""The built-in world on disk: raw files at a small size, repeated, killed and refused runs, and stage 2."""
import bz2
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from extract_item_embeddings.engine import audio
from harness.errors import UsageError, WorkError
from harness.files import checksum
from preprocess import demo
from preprocess.demo import recordings, world

ROOT = Path(__file__).resolve().parents[2]
DEMO = "preprocess.demo"
SMALL = ["--tracks", "24", "--users", "30", "--seconds", "1"]


def run(script, *args, check=True):
    """A script, or a module after -m, through its command line; the finished process with its text."""
    command = ["-m", script] if script == DEMO else [ROOT / "preprocess" / script]
    done = subprocess.run([sys.executable, *command, *map(str, args)], cwd=ROOT, capture_output=True, text=True,
                          timeout=120)
    assert not check or done.returncode == 0, done.stderr
    return done


def alive(group):
    """Running processes of a process group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:   # it has just ended
            continue
        if int(of) == group and state not in "ZX":
            found.append(path.parent.name)
    return found


def contents(raw):
    """{path: bytes} of a raw world, without its lock."""
    return {str(p.relative_to(raw)): p.read_bytes() for p in raw.rglob("*") if p.is_file() and p.name != ".lock"}


# --------------------------------------------------------------------------- the files, small

@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """A small raw world made by two processes through the command line."""
    folder = tmp_path_factory.mktemp("demo") / "raw"
    run(DEMO, "--raw", folder, *SMALL, "--workers", 2)
    return folder


@pytest.fixture(scope="module")
def manifest(raw):
    return json.loads((raw / "demo.json").read_text())


@pytest.fixture(scope="module")
def log(raw):
    return pd.read_csv(raw / demo.LOG, sep="\t", dtype={"track_id": str})


def test_same_bytes_from_one_process_and_from_two(raw, tmp_path):
    demo.main(["--raw", str(tmp_path / "again"), *SMALL, "--workers", "1"])
    assert contents(tmp_path / "again") == contents(raw)


def test_another_seed_is_another_world(raw, tmp_path):
    demo.main(["--raw", str(tmp_path / "b"), *SMALL, "--seed", "43", "--workers", "1"])
    assert not set(contents(tmp_path / "b")) & {n for n in contents(raw) if n.startswith("audio")}


def test_the_log_has_the_form_of_music4all_onion(raw, log):
    lines = bz2.open(raw / demo.LOG, "rt").read().splitlines()
    assert lines[0] == "user_id\ttrack_id\ttimestamp"
    assert all(len(line.split("\t")) == 3 and '"' not in line for line in lines)
    assert log.user_id.dtype == np.int64 and log.user_id.is_monotonic_increasing
    assert log.groupby("user_id").timestamp.apply(lambda t: t.is_monotonic_decreasing).all()
    assert pd.to_datetime(log.timestamp, format="%Y-%m-%d %H:%M:%S").max() < pd.Timestamp("2020-03-21")
    assert log.track_id.str.fullmatch("[0-9A-Za-z]{16}").all()
    known = log.track_id.isin(pd.read_csv(raw / demo.TRACKS).trackid)
    assert 0 < (~known).mean() < 0.1


def test_files_are_mixed_and_four_are_broken(raw, manifest):
    ids = pd.read_csv(raw / demo.TRACKS).trackid.tolist()
    files = {p.stem: p for p in (raw / "audio").rglob("*") if p.is_file()}
    broken = manifest["defects"]
    assert ids == sorted(ids) and set(broken) == set(recordings.DEFECTS)
    assert set(ids) - set(files) == {broken["missing"]}
    info = {t: soundfile.info(p) for t, p in files.items() if t not in (broken["not audio"], broken["truncated"])}
    assert len(info) == 24 - 3
    assert all(i.duration == pytest.approx(1.0, abs=0.1) for i in info.values())
    assert {i.channels for i in info.values()} == {1, 2}
    assert len({i.samplerate for i in info.values()}) == 3 and len({i.format for i in info.values()}) >= 3


def test_broken_files_are_found_out_and_the_silent_one_is_sound(raw, manifest):
    ids = [manifest["defects"][d] for d in recordings.DEFECTS]
    silent, truncated, missing, no_audio = audio.find(raw / "audio", ids)
    assert not audio.decode(silent).samples.any()
    assert missing is None and truncated.stat().st_size == recordings.CUT
    for path in (truncated, no_audio, missing):
        with pytest.raises(audio.AudioError):
            audio.decode(path)


def test_the_plan_is_as_mixed_as_it_says():
    plan = recordings.plan(1, world.make_tracks(1, 1000))
    assert {(r.rate, r.channels) for r in plan} == {(r, c) for r in recordings.RATES for c in (1, 2)}
    wav = np.mean([r.container == "wav" for r in plan])
    assert wav == pytest.approx(recordings.SHARES["wav"], abs=0.05)
    assert {r.gain for r in plan} == {0.0, *recordings.ODD_GAINS}
    traits = np.array([r.traits for r in plan])
    assert (traits > 0).all() and (traits < 1).all() and np.allclose(traits.mean(axis=0), 0.5, atol=0.05)


def test_loudness_reaches_the_files(raw):
    plan = {Path(r.path).stem: r for r in recordings.plan(42, world.make_tracks(42, 24)) if not r.defect and not r.gain}
    levels = {t: 20 * np.log10(np.sqrt(np.mean(soundfile.read(raw / "audio" / r.path)[0] ** 2)))
              for t, r in plan.items()}
    wanted = [plan[t].traits[world.TRAITS.index("loudness")] for t in levels]
    assert np.corrcoef(list(levels.values()), wanted)[0, 1] > 0.98


# --------------------------------------------------------------------------- again, interrupted, refused

def test_a_second_run_touches_nothing(raw):
    before = {p: p.stat().st_mtime_ns for p in raw.rglob("*")}
    run(DEMO, "--raw", raw)
    assert {p: p.stat().st_mtime_ns for p in raw.rglob("*")} == before


def test_lost_and_altered_files_are_made_again_and_only_those(tmp_path):
    raw = tmp_path / "raw"
    demo.main(["--raw", str(raw), *SMALL, "--workers", "1"])
    before, sound = contents(raw), sorted(p for p in (raw / "audio").rglob("*.*") if p.is_file())
    sound[0].unlink()
    sound[1].write_bytes(b"")
    (raw / "users.tsv").unlink()
    old = sound[2].stat().st_mtime_ns
    demo.main(["--raw", str(raw)])
    assert contents(raw) == before and sound[2].stat().st_mtime_ns == old


def test_a_killed_run_goes_on_and_leaves_no_process(tmp_path):
    size = ["--tracks", "60", "--users", "5", "--seconds", "2"]
    raw = tmp_path / "raw"
    first = subprocess.Popen([sys.executable, "-m", DEMO, "--raw", raw, *size, "--workers", "2"], cwd=ROOT,
                             start_new_session=True, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list((raw / "audio").rglob("*.*"))) < 8:
        assert time.monotonic() < deadline and first.poll() is None
        time.sleep(0.02)
    first.kill()
    first.wait()
    while alive(first.pid) and time.monotonic() < deadline:   # the workers end by themselves, their pipe being broken
        time.sleep(0.05)
    left = alive(first.pid)
    if left:
        os.killpg(first.pid, signal.SIGKILL)
    assert not left
    assert json.loads((raw / "demo.json").read_text())["status"] == "running"
    whole = next(p for p in (raw / "audio").rglob("*.*") if p.is_file() and not p.name.startswith("."))
    stamp = whole.stat().st_mtime_ns
    demo.main(["--raw", str(raw), "--workers", "1"])                      # the request is the interrupted one's
    demo.main(["--raw", str(tmp_path / "straight"), *size, "--workers", "1"])
    assert contents(raw) == contents(tmp_path / "straight")
    assert whole.stat().st_mtime_ns == stamp


@pytest.mark.parametrize("flags, sentence", [
    (["--seed", "7"], "contains a demo world of --seed 42"),
    (["--tracks", "0"], "--tracks must be at least 1, not 0"),
    (["--seed", "-1"], "must be a whole number from 0 to 4294967295, not -1"),
    (["--seconds", "0"], "--seconds must be from 0.5 to 600, not 0"),
    (["--workers", "0"], "--workers must be at least 1, not 0"),
    (["--track", "5"], "unrecognized arguments: --track 5")])
def test_a_wrong_request_is_one_sentence_and_nothing_is_lost(raw, flags, sentence):
    before = contents(raw)
    done = run(DEMO, "--raw", raw, *flags, check=False)
    assert done.returncode == 2 and sentence in done.stderr and done.stderr.count("\n") == 1
    assert contents(raw) == before


def test_somebody_elses_folder_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="contains files that are not a demo world"):
        demo.main(["--raw", str(tmp_path)])
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
    (tmp_path / "demo.json").write_text("{}")
    with pytest.raises(WorkError, match="not the manifest of a demo world"):
        demo.main(["--raw", str(tmp_path)])
    done = run(DEMO, "--raw", tmp_path / "thesis.txt", check=False)
    assert done.returncode == 1 and "a folder is needed here" in done.stderr


def test_overwrite_takes_away_what_the_world_owns_and_nothing_else(tmp_path):
    raw = tmp_path / "raw"
    demo.main(["--raw", str(raw), *SMALL, "--workers", "1"])
    (raw / "audio" / "mine.txt").write_text("kept")
    demo.main(["--raw", str(raw), "--tracks", "8", "--overwrite", "--workers", "1"])
    assert (raw / "audio" / "mine.txt").read_text() == "kept"
    sound = {p.stem for p in (raw / "audio").rglob("*") if p.is_file()} - {"mine"}
    ids = set(pd.read_csv(raw / demo.TRACKS).trackid)
    assert len(ids) == 8 and sound < ids and len(sound) == 7          # one is missing on purpose


def test_two_processes_do_not_write_one_world(tmp_path):
    with demo._locked(tmp_path / "raw"), pytest.raises(WorkError, match="another process is writing"):
        demo.main(["--raw", str(tmp_path / "raw"), *SMALL])


def test_help_waits_for_no_library():
    code = "import sys, preprocess.demo; sys.exit(bool({'scipy', 'soundfile', 'pandas', 'pyarrow'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("n_tracks, n_users", [(1, 1), (3, 2), (12, 4)])
def test_the_smallest_worlds_work(tmp_path, n_tracks, n_users):
    demo.main(["--raw", str(tmp_path / "raw"), "--tracks", str(n_tracks), "--users", str(n_users), "--seconds", "0.5",
               "--workers", "1"])
    assert len(pd.read_csv(tmp_path / "raw" / demo.TRACKS)) == n_tracks


# --------------------------------------------------------------------------- stage 2

@pytest.fixture(scope="module")
def workspace(raw, tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "w"
    run("0_get_plays_pqt.py", "demo", "--raw", raw, "--workdir", folder)
    return folder


def test_the_door_writes_the_plays_of_the_log(raw, log, workspace):
    plays = pd.read_parquet(workspace / "plays.pqt")
    ids = pd.read_csv(workspace / demo.TRACKS)
    assert (workspace / demo.TRACKS).read_bytes() == (raw / demo.TRACKS).read_bytes()
    known = log[log.track_id.isin(ids.trackid)].reset_index(drop=True)
    assert plays[["user_id", "track_id"]].dtypes.tolist() == [np.dtype("int64")] * 2
    assert (ids.trackid.to_numpy()[plays.track_id] == known.track_id).all()
    assert (plays.timestamp == pd.to_datetime(known.timestamp)).all() and (plays.user_id == known.user_id).all()
    about = json.loads((workspace / "dataset.json").read_text())
    assert (about["name"], about["time"], about["world"]["tracks"]) == ("demo", "real", 24)


def test_items_and_users_are_typed_and_tell_nothing_of_the_latent_space(raw, workspace):
    import pyarrow.parquet as pq
    items, users = (pq.read_table(workspace / f"{name}.pqt") for name in ("items", "users"))
    assert {f.name: str(f.type).replace("element", "item") for f in items.schema} == {
        "track_id": "int64", "title": "string", "artists": "list<item: string>", "styles": "list<item: string>",
        "released": "date32[day]"}
    assert {f.name: str(f.type) for f in users.schema} == {"user_id": "int64", "age": "int64", "country": "string"}
    assert items["track_id"].to_pylist() == list(range(24))
    tracks = world.make_tracks(42, 24)
    assert items["artists"].to_pylist() == tracks.artists and items["styles"].to_pylist() == tracks.styles
    ages, countries = users["age"].to_pylist(), users["country"].to_pylist()
    assert None in ages and None in countries and all(13 <= a <= 80 for a in ages if a is not None)
    assert all(len(c) == 2 for c in countries if c is not None)


def test_the_oracle_is_the_latent_space_row_by_row(workspace):
    oracle = np.load(workspace / "embeddings" / "oracle.npy", allow_pickle=False)
    assert oracle.dtype == np.float32 and oracle.shape == (24, len(world.TRAITS))
    assert np.array_equal(oracle, world.make_tracks(42, 24).latent.astype(np.float32))
    about = json.loads((workspace / "embeddings" / "oracle.json").read_text())
    assert about["backend"] == "oracle" and about["failed"] == {}
    assert about["track_checksum"] == checksum(workspace / demo.TRACKS)


def test_one_command_makes_the_world_as_well_and_a_second_one_skips(tmp_path):
    w = tmp_path / "w"
    run("0_get_plays_pqt.py", "demo", "--workdir", w, *SMALL)
    made = {p: p.read_bytes() for p in w.rglob("*") if p.is_file()}
    assert (w / "raw" / "audio").is_dir() and (w / "plays.pqt").exists()
    (w / "embeddings" / "oracle.json").unlink()                       # as after a kill
    assert "skipped" in run("0_get_plays_pqt.py", "demo", "--workdir", w).stdout
    assert {p: p.read_bytes() for p in w.rglob("*") if p.is_file()} == made


def test_stage_2_refuses_options_of_another_world(raw, workspace):
    done = run("0_get_plays_pqt.py", "demo", "--raw", raw, "--workdir", workspace, "--users", 31, check=False)
    assert done.returncode == 2 and "contains a demo world of --users 30" in done.stderr


def test_a_damaged_table_is_one_sentence(tmp_path):
    raw = tmp_path / "raw"
    demo.main(["--raw", str(raw), *SMALL, "--workers", "1"])
    text = (raw / "id_genres.csv").read_text()
    (raw / "id_genres.csv").write_text(text.replace("genres", "genre!"))   # as long as before, so not made again
    done = run("0_get_plays_pqt.py", "demo", "--raw", raw, "--workdir", tmp_path / "w", check=False)
    assert done.returncode == 1 and "must have the columns id, genres in every row" in done.stderr
