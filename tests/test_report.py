"""report.py: what the page holds, equals the files it is made from; and what may go wrong leaves the old page."""
import json
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

import dataset
import metrics
import report
from evaluation.segments import by_popularity
from harness import runs
from harness.errors import UsageError, WorkError
from harness.files import write_json, write_parquet
from reporting import excerpts, maps, page
from reporting.tracks import common, short
from tests.conftest import ROOT
from tests.worlds.reported import EVIL, built, needs_ffmpeg
from tests.worlds.world import tiny_workspace, write_embedding, write_pairs, write_tracks


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(workspace with a page, its audio folder)"""
    needs_ffmpeg()
    workdir, audio = built(tmp_path_factory.mktemp("report"))
    report.main(["--workdir", str(workdir), "--audio", str(audio), "--users", "4"])
    return workdir, audio


def content(workdir):
    """The data of a page."""
    text = (workdir / "report" / "index.html").read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="page-data">(.*?)</script>', text, re.DOTALL)[1])


def copied(made, tmp_path):
    workdir = tmp_path / "w"
    shutil.copytree(made[0], workdir)
    return workdir


# --------------------------------------------------------------------------- what it holds

def test_the_figures_are_those_of_the_metrics(made):
    workdir, _ = made
    data = content(workdir)
    for part in ("test", "cold_test"):
        for row in data["boards"][part]["rows"]:
            if len(row["runs"]) == 1:
                frame = pd.read_csv(workdir / "metrics" / f"{row['runs'][0]}_{part}.csv", index_col=0)
                for column, (mean, half, _, _) in row["figures"].items():
                    assert mean == pytest.approx(frame.loc["mean", column], rel=1e-5)
                    assert (half is None) == np.isnan(frame.loc["conf", column])
    rows = {(r["method"], r["representation"]): r for r in data["boards"]["test"]["rows"]}
    assert rows["KNN", "content"]["control"]["NDCG@10"][1] == 2 and rows["KNN", "content"]["worth"]["NDCG@10"][0] > 0
    assert rows["KNN", "noise"]["control"] == {} and rows["KNN", "noise"]["content"]


def test_the_curves_are_those_of_the_lists(made):
    workdir, _ = made
    data, split = content(workdir), dataset.load(workdir)
    at = next(i for i, r in enumerate(data["boards"]["test"]["rows"]) if r["method"] == "EASE")
    run, curves = data["boards"]["test"]["rows"][at]["runs"][0], data["curves"]["test"][at]
    preds, truth = pd.read_parquet(workdir / "preds" / f"{run}_test.pqt"), split.truth("test")
    values = metrics.evaluate(preds, truth, (1, 3, 10, 20))
    for k in (1, 3, 10, 20):
        assert curves["over_k"]["NDCG"][str(k)][0] == pytest.approx(values[f"NDCG@{k}"].mean(), abs=1e-6)
    assert sorted(map(int, curves["over_k"]["NDCG"])) == [1, 2, 3, 5, 10, 20]
    tail = set(split.tracks[:split.n_hot][by_popularity(split) == 2].tolist())
    own = metrics.evaluate(preds, truth[truth.track_id.isin(tail)], (10,))
    assert curves["popularity"]["Recall"][2] == [pytest.approx(own["Recall@10"].mean(), abs=1e-6),
                                                 curves["popularity"]["Recall"][2][1], len(own)]
    assert sum(n for _, _, n in curves["activity"]["NDCG"]) == len(values)
    cold = next(c for c in data["curves"]["cold_test"] if c)
    assert cold["popularity"] == {}
    losses = next(run for run in data["learning"] if run["label"].startswith("Shallow Net"))["curves"]["Loss/train"]
    assert [epoch for epoch, _ in losses] == [1, 2, 3]


def test_users_and_their_lists_are_those_of_the_files(made):
    workdir, _ = made
    data, split = content(workdir), dataset.load(workdir)
    ids, (tracks, _) = data["tracks"]["id"], dataset.read_tracks(workdir)
    assert [u["part"] for u in data["users"]] == ["test"] * 4 + ["cold_test"] * 4
    for user in data["users"]:
        truth = split.truth(user["part"]).query(f"user_id == {user['user']}")
        true = {tracks[t] for t in truth.track_id}
        assert {ids[n] for n in user["truth"]} == true and user["held_out"] == len(true)
        for run, shown in user["lists"].items():
            preds = pd.read_parquet(workdir / "preds" / f"{run}_{user['part']}.pqt")
            mine = preds[preds.user_id == int(user["user"])].sort_values("rank").track_id.head(10)
            assert [ids[n] for n, _ in shown] == [tracks[t] for t in mine]
            assert [hit for _, hit in shown] == [tracks[t] in true for t in mine]
        latest = split.train.user == int(np.searchsorted(split.users, int(user["user"])))
        order = np.argsort(-split.train.time[latest], kind="stable")
        assert [ids[n] for n in user["history"]] == [tracks[t] for t in
                                                     split.tracks[split.train.item[latest]][order]][:15]
    assert set(data["runs"].values()) == {"Popularity", "KNN content", "EASE", "Shallow Net content"}
    report.main(["--workdir", str(workdir), "--users", "4"])
    assert content(workdir)["users"] == data["users"]          # drawn by a seed


def test_neighbours_are_the_nearest_by_cosine_and_by_listeners(made):
    workdir, _ = made
    data, split = content(workdir), dataset.load(workdir)
    among = np.sort(split.tracks)
    x = np.load(workdir / "embeddings" / "content.npy").astype(np.float64)[among]
    x -= x.mean(axis=0)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    (tracks, _), ids = dataset.read_tracks(workdir), data["tracks"]["id"]
    plays = np.zeros((split.n_users, len(tracks)))
    plays[split.train.user, split.tracks[split.train.item]] = 1
    for number in data["map"]["tracks"][:10]:
        row = tracks.index(ids[number])
        at = int(np.searchsorted(among, row))
        cosine = x @ x[at]
        best = [tracks[among[j]] for j in np.argsort(-cosine, kind="stable") if j != at][:6]
        shown = data["near"][str(number)]["content"]
        assert [ids[n] for n, _ in shown] == best
        assert [c for _, c in shown] == pytest.approx(np.sort(cosine[np.arange(len(among)) != at])[::-1][:6], abs=1e-3)
        if "listeners" in data["near"][str(number)]:
            other = tracks.index(ids[data["near"][str(number)]["listeners"][0][0]])
            a, b = plays[:, row], plays[:, other]
            assert data["near"][str(number)]["listeners"][0][1] == pytest.approx(
                a @ b / np.sqrt(a.sum() * b.sum()), abs=1e-3)


def test_provenance_names_licence_failures_and_every_run(made):
    text = (made[0] / "report" / "index.html").read_text(encoding="utf-8")
    for name, config in runs.find_runs(made[0]):
        assert f'id="run-{name}"' in text and config["git"]["commit"] in text
    assert "onerror" not in re.sub(r"<script.*?</script>|&#34;&gt;&lt;img src=x onerror=&#34;.*?&gt;", "", text,
                                   flags=re.DOTALL)


def test_two_pages_of_the_same_files_are_the_same_bytes(made):
    path = made[0] / "report" / "index.html"
    report.main(["--workdir", str(made[0])])
    first = path.read_bytes()
    report.main(["--workdir", str(made[0])])
    assert path.read_bytes() == first and len(first) < page.LIMIT


# --------------------------------------------------------------------------- sound

def test_excerpts_are_short_and_of_the_right_track(made):
    import soundfile
    workdir, audio = made
    report.main(["--workdir", str(workdir)])                     # remembers the folder
    data = content(workdir)
    tracks, _ = dataset.read_tracks(workdir)
    with_sound = [n for n, path in enumerate(data["tracks"]["sound"]) if path]
    assert len(with_sound) >= len(data["tracks"]["id"]) - 2
    for number in with_sound[:5]:
        path = workdir / "report" / data["tracks"]["sound"][number]
        wave, rate = soundfile.read(path)
        assert 2.5 < len(wave) / rate < 15.2
        loudest = np.abs(np.fft.rfft(wave)).argmax() * rate / len(wave)
        assert loudest == pytest.approx(200 + 20 * tracks.index(data["tracks"]["id"][number]), abs=3)


def test_a_changed_sound_gets_a_new_excerpt_and_the_old_one_goes(made, tmp_path):
    import soundfile
    workdir, audio = copied(made, tmp_path), tmp_path / "audio"
    shutil.copytree(made[1], audio)
    report.main(["--workdir", str(workdir), "--audio", str(audio)])
    before = {p.name: p.stat().st_mtime_ns for p in (workdir / "report" / "sound").glob("*.mp3")}
    track = content(workdir)["tracks"]["id"][0]
    soundfile.write(audio / f"{track}.wav", np.random.default_rng(0).normal(0, .1, 40_000), 22050)
    report.main(["--workdir", str(workdir)])
    after = {p.name: p.stat().st_mtime_ns for p in (workdir / "report" / "sound").glob("*.mp3")}
    assert len(after) == len(before) and len(before.keys() - after.keys()) == 1
    assert all(before[name] == after[name] for name in before.keys() & after.keys())    # not made again


def test_an_audio_folder_that_has_moved(made, tmp_path, capsys):
    workdir, audio = copied(made, tmp_path), tmp_path / "audio"
    shutil.copytree(made[1], audio)
    report.main(["--workdir", str(workdir), "--audio", str(audio)])
    sounds = content(workdir)["tracks"]["sound"]
    audio.rename(tmp_path / "elsewhere")
    capsys.readouterr()
    report.main(["--workdir", str(workdir)])
    assert f"the audio folder of the page before, {audio}, is gone" in capsys.readouterr().out
    assert content(workdir)["tracks"]["sound"] == sounds
    with pytest.raises(UsageError, match="is not a folder; name where the audio files are now"):
        report.main(["--workdir", str(workdir), "--audio", str(audio)])


def test_an_audio_folder_that_is_empty_now(made, tmp_path, capsys):
    workdir, audio = copied(made, tmp_path), tmp_path / "audio"
    shutil.copytree(made[1], audio)
    report.main(["--workdir", str(workdir), "--audio", str(audio)])
    sounds = content(workdir)["tracks"]["sound"]
    shutil.rmtree(audio)
    audio.mkdir()
    capsys.readouterr()
    report.main(["--workdir", str(workdir)])
    assert "the audio folder of the page before cannot be used: none of the" in capsys.readouterr().out
    assert content(workdir)["tracks"]["sound"] == sounds
    with pytest.raises(WorkError, match="none of the"):
        report.main(["--workdir", str(workdir), "--audio", str(audio)])


def test_manifests_of_other_makers_do_not_end_the_page(made, tmp_path):
    workdir = copied(made, tmp_path)
    path = workdir / "data" / "split.json"
    split = json.loads(path.read_text()) if path.exists() else {}
    write_json(path, {**split, "stats": {"train": {"Rows": "many", "Users": 3}}})
    for path in (workdir / "embeddings").glob("*.json"):
        write_json(path, {**json.loads(path.read_text()), "git": "abc", "seconds": 0})
    report.main(["--workdir", str(workdir)])
    text = (workdir / "report" / "index.html").read_text(encoding="utf-8")
    assert "the whole track" in text and "0 s from" not in text


def test_few_sounds_are_those_of_the_lists_first(made, tmp_path, capsys):
    workdir = copied(made, tmp_path)
    report.main(["--workdir", str(workdir), "--audio", str(made[1]), "--sounds", "5"])
    sounds = content(workdir)["tracks"]["sound"]
    assert sum(map(bool, sounds)) == 5 and all(sounds[:5]) and "5 of the" in capsys.readouterr().out


def test_without_ffmpeg_the_page_is_silent_and_says_so(made, tmp_path, monkeypatch, capsys):
    workdir = copied(made, tmp_path)
    shutil.rmtree(workdir / "report")
    monkeypatch.setattr(excerpts.shutil, "which", lambda _: None)
    report.main(["--workdir", str(workdir), "--audio", str(made[1])])
    assert "no new excerpts of the sound: ffmpeg is not installed" in capsys.readouterr().out
    assert not any(content(workdir)["tracks"]["sound"])


# --------------------------------------------------------------------------- little data

def test_a_workspace_without_anything_but_tracks(tmp_path, capsys):
    write_tracks(tmp_path, 5)
    report.main(["--workdir", str(tmp_path)])
    data = content(tmp_path)
    assert data["boards"] == {} and data["users"] == [] and data["map"]["embeddings"] == {}
    assert "open it in a browser" in capsys.readouterr().out


def test_a_split_without_runs_metadata_or_sound(tmp_path):
    workdir = tiny_workspace(tmp_path / "w")
    (workdir / "items.pqt").unlink()
    report.main(["--workdir", str(workdir)])
    data = content(workdir)
    assert data["boards"] == {} and data["runs"] == {} and len(data["users"]) == 24
    assert data["tracks"]["name"] == data["tracks"]["id"]
    assert set(data["map"]["colours"]) == {"plays (log10)", "hot or cold"}


def test_one_user_and_two_tracks(tmp_path):
    write_tracks(tmp_path, 3)
    write_pairs(tmp_path, "train", [0, 0], [0, 1], seconds=[5, 9])
    write_pairs(tmp_path, "val", [0], [1])
    write_pairs(tmp_path, "test", [0], [0])
    write_embedding(tmp_path, "one", np.ones((3, 4), np.float32))
    report.main(["--workdir", str(tmp_path)])
    assert content(tmp_path)["tracks"]["id"][0] == dataset.read_tracks(tmp_path)[0][1]


def test_runs_without_figures_are_named_and_left_out(made, tmp_path, capsys):
    workdir = copied(made, tmp_path)
    for path in (workdir / "metrics").glob("ease_*_test.csv"):
        path.unlink()
    capsys.readouterr()
    report.main(["--workdir", str(workdir)])
    assert "runs without figures of test: 1 (ease" in capsys.readouterr().out
    assert "EASE" not in {row["method"] for row in content(workdir)["boards"]["test"]["rows"]}


def test_runs_of_another_split_are_left_out(made, tmp_path, capsys):
    workdir = copied(made, tmp_path)
    pairs = pd.read_parquet(workdir / "data" / "test.pqt")
    write_parquet(workdir / "data" / "test.pqt", pairs.iloc[:-1])
    report.main(["--workdir", str(workdir)])
    out = capsys.readouterr().out
    assert "of another split: 8; python table.py" in out and content(workdir)["boards"] == {}


def test_many_tracks_and_users_are_sampled_and_the_page_says_so(tmp_path, capsys):
    n, users = 60_000, 20_000
    write_tracks(tmp_path, n)
    rng = np.random.default_rng(0)
    tracks = rng.permutation(np.arange(4 * users) % n)
    write_pairs(tmp_path, "train", np.repeat(np.arange(users), 3), tracks[:3 * users])
    known = np.isin(tracks[3 * users:], tracks[:3 * users])
    write_pairs(tmp_path, "test", np.arange(users)[known], tracks[3 * users:][known])
    write_embedding(tmp_path, "wide", rng.normal(size=(n, 8)).astype(np.float32))
    write_parquet(tmp_path / "items.pqt", pd.DataFrame({"track_id": np.arange(n), "title": ["long name " * 500] * n}))
    report.main(["--workdir", str(tmp_path), "--points", "150"])
    data = content(tmp_path)
    played = len(np.unique(tracks[:3 * users]))
    assert len(data["map"]["tracks"]) == 150 and f"the maps show 150 of {played:,} tracks" in capsys.readouterr().out
    assert len(data["users"]) == 12 and len(data["tracks"]["name"]) < 3000
    assert (tmp_path / "report" / "index.html").stat().st_size < page.LIMIT


def test_a_page_that_would_be_too_large_has_fewer_points(tmp_path, monkeypatch, capsys):
    workdir = tiny_workspace(tmp_path / "w", n_users=200, n_tracks=400)
    monkeypatch.setattr(page, "plotly", lambda: "")
    report.main(["--workdir", str(workdir), "--users", "1"])
    whole = (workdir / "report" / "index.html").stat().st_size
    monkeypatch.setattr(page, "LIMIT", int(whole * .8))
    report.main(["--workdir", str(workdir), "--users", "1"])
    assert (workdir / "report" / "index.html").stat().st_size <= whole * .8
    assert re.search(r"the maps show \d+ of \d+ tracks", capsys.readouterr().out)


# --------------------------------------------------------------------------- damage

def test_a_damaged_list_is_one_sentence_and_the_old_page_stays(made, tmp_path):
    workdir = copied(made, tmp_path)
    before = (workdir / "report" / "index.html").read_bytes()
    next((workdir / "preds").glob("ease_*_test.pqt")).write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(WorkError, match="ease_.*_test.pqt"):
        report.main(["--workdir", str(workdir)])
    assert (workdir / "report" / "index.html").read_bytes() == before


def test_a_killed_report_leaves_the_old_page(made, tmp_path):
    def started(workdir):
        return subprocess.Popen([sys.executable, "report.py", "--workdir", str(workdir)], cwd=ROOT,
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    workdir = copied(made, tmp_path)
    start = time.monotonic()
    assert started(workdir).wait() == 0
    whole = time.monotonic() - start
    path, killed = workdir / "report" / "index.html", 0
    before = path.read_bytes()
    write_json(workdir / "dataset.json", {"status": "finished", "name": "another name"})
    for share in (.1, .5, .85):       # of the time that this machine takes for all of it
        process = started(workdir)
        try:
            process.wait(share * whole)
        except subprocess.TimeoutExpired:
            process.kill()
            killed += process.wait() == -signal.SIGKILL
        assert path.read_bytes() == before or b"another name" in path.read_bytes()
    assert killed
    report.main(["--workdir", str(workdir)])
    assert b"another name" in path.read_bytes()
    assert not [p.name for p in (workdir / "report").iterdir() if p.name.startswith(".")]


def test_an_unknown_run_is_one_sentence(made):
    with pytest.raises(UsageError, match="there is no finished run 'nothing'"):
        report.main(["--workdir", str(made[0]), "--runs", "nothing"])


# --------------------------------------------------------------------------- pieces

def test_json_for_a_script_closes_no_element():
    text = page.as_json({"a": [*EVIL, "\ud800"]})
    assert not {"<", ">", "&", "\u2028", "\u2029"} & set(text)
    assert json.loads(text)["a"][:10] == EVIL
    with pytest.raises(ValueError, match="Out of range float values"):
        page.as_json(float("nan"))


def test_labels_and_names():
    assert common(["a", "b", "a", None, *"cdefghijklm"])[:4] == ["a", "b", "a", None]
    assert set(common([*"aabbccddeeffgghhii", "z"])) == {*"abcdefghi", "other"}
    assert short(" a\n b ") == "a b" and len(short("x" * 5000)) == 160


def test_a_projection_of_equal_vectors_and_of_missing_ones(tmp_path):
    from lookup.catalogue import opened
    write_tracks(tmp_path, 12)
    matrix = np.ones((12, 3), np.float32)
    write_embedding(tmp_path, "equal", matrix)
    matrix[2] = np.nan
    write_embedding(tmp_path, "gap", matrix + np.arange(12, dtype=np.float32)[:, None])
    write_embedding(tmp_path, "thin", np.arange(12, dtype=np.float32)[:, None])
    catalogue, rows = opened(tmp_path), np.arange(12)
    equal = maps.projected(catalogue, "equal", rows, 0)
    assert equal["PCA"] == [[0.0] * 12] * 2 and "t-SNE" not in equal and equal["share"] == 0
    gap = maps.projected(catalogue, "gap", rows, 0)
    assert gap["PCA"][0][2] is None and gap["share"] == 1
    assert max(map(abs, filter(None, gap["PCA"][0]))) == pytest.approx(1, abs=1e-4)
    assert len(maps.projected(catalogue, "thin", rows, 0)["t-SNE"]) == 2
    near = maps.neighbours(catalogue, "gap", rows)      # vectors on a line through the mean: a half is alike
    assert near[2] == [] and near[0] == [(1, 1.0), (3, 1.0), (4, 1.0), (5, 1.0)]
    assert maps.projected(catalogue, "gap", rows[2:3], 0) is None
