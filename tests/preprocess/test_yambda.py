"""Yambda: its files to a workspace, its split, its metrics, decayed popularity and ItemKNN; what is refused."""
import hashlib
import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import dataset
import metrics
from evaluation.lists import read_lists, read_truth
from evaluation.repeats import plays_of, repeats
from harness import runs
from harness.errors import UsageError, WorkError
from harness.files import write_json
from preprocess import protocols, yambda
from preprocess.yambda import generate
from ranking import decay, plays
from recommenders import itemknn, popularity

plays_stage = importlib.import_module("preprocess.0_get_plays_pqt")
split_stage = importlib.import_module("preprocess.1_train_test_split")
TEST, DAY, GAP = 25_913_600, 86_400, 1_800


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("yambda")
    generate.generate(folder, 60, 12_000, tracks=300, forms=("flat", "sequential"), seed=3)
    return folder


def make(raw, work, *argv):
    plays_stage.main(["yambda", "--raw", str(raw), "--workdir", str(work), *argv])
    return work


@pytest.fixture(scope="module")
def world(raw, tmp_path_factory):
    work = make(raw, tmp_path_factory.mktemp("made") / "w")
    split_stage.main(["--protocol", "yambda", "--workdir", str(work)])
    return work


def listens(raw, threshold=50):
    frame = pd.read_parquet(raw / "flat" / "50m" / "listens.parquet")
    return frame[frame.played_ratio_pct >= threshold]


# --------------------------------------------------------------------------- the workspace

def test_plays_are_the_listens_of_at_least_half_a_track(raw, world):
    expected = listens(raw)
    users, tracks = (pd.read_csv(world / f"{name}id_sorted.csv") for name in ("user", "track"))
    assert list(users.userid) == sorted(expected.uid.unique()) and list(tracks.trackid) == sorted(
        expected.item_id.unique())
    made = pd.read_parquet(world / "plays.pqt")
    back = pd.DataFrame({"uid": users.userid.to_numpy()[made.user_id],
                         "item_id": tracks.trackid.to_numpy()[made.track_id],
                         "timestamp": made.timestamp.astype("datetime64[us]").astype("int64") // 10**6})
    columns = ["uid", "timestamp", "item_id"]
    expected = expected[columns].astype("int64").sort_values(columns).reset_index(drop=True)
    pd.testing.assert_frame_equal(back[columns].astype("int64"), expected)


def test_the_sequential_form_gives_the_same_plays_and_likes_are_events_too(raw, world, tmp_path):
    work = make(raw, tmp_path / "w", "--form", "sequential")
    assert pd.read_parquet(work / "plays.pqt").equals(pd.read_parquet(world / "plays.pqt"))
    liked = make(raw, tmp_path / "likes", "--events", "likes")
    assert len(pd.read_parquet(liked / "plays.pqt")) == len(pd.read_parquet(raw / "flat" / "50m" / "likes.parquet"))


def test_vectors_artists_and_albums_are_aligned(raw, world):
    ids = pd.read_csv(world / "trackid_sorted.csv").trackid
    matrix, source = np.load(world / "embeddings" / "yambda.npy"), pd.read_parquet(raw / "embeddings.parquet")
    source = source.set_index("item_id")["embed"]
    for row in (0, 7, len(ids) - 1):
        if ids[row] in source.index:
            np.testing.assert_array_equal(matrix[row], np.asarray(source[ids[row]], np.float32))
        else:
            assert np.isnan(matrix[row]).all()
    assert np.isnan(matrix).all(axis=1).sum() == (~ids.isin(source.index)).sum() > 0
    items = pd.read_parquet(world / "items.pqt")
    artist = pd.read_parquet(raw / "artist_item_mapping.parquet").set_index("item_id")["artist_id"]
    assert [list(a) for a in items.artists[:20]] == [[str(artist[i])] for i in ids[:20]]
    assert dataset.about(world)["counts"]["plays"] == len(listens(raw))


def test_without_mappings_and_vectors(raw, tmp_path):
    folder = tmp_path / "raw" / "flat" / "50m"
    folder.mkdir(parents=True)
    (folder / "listens.parquet").write_bytes((raw / "flat" / "50m" / "listens.parquet").read_bytes())
    work = make(tmp_path / "raw", tmp_path / "w")
    assert not (work / "items.pqt").exists() and not (work / "embeddings").exists()


# --------------------------------------------------------------------------- the split

@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize("pieces", [(), ("--partitions", "2")])
def test_pairs_that_are_played_in_the_gaps_alone_are_counted(tmp_path, capsys, final, pieces):
    train_end, test = TEST - GAP - (0 if final else DAY + GAP), TEST + 5
    plays = [(u, 0, s) for u in (1, 2) for s in (5, train_end + 1, train_end + 2, test)]      # also outside of the gap
    plays += [(1, 1, train_end + s) for s in (3, 4, 5)] + [(2, 1, 7)]                         # in the gap alone
    frame = pd.DataFrame(plays, columns=["user_id", "track_id", "timestamp"])
    frame["timestamp"] = frame.timestamp.astype("datetime64[s]").astype("datetime64[us]")
    frame.to_parquet(tmp_path / "plays.pqt", index=False)
    (tmp_path / "trackid_sorted.csv").write_text("idx,trackid\n0,a\n1,b\n")
    write_json(tmp_path / "dataset.json", {"name": "yambda", "time": "real"})
    split_stage.main(["--protocol", "yambda", "--workdir", str(tmp_path), *["--final"] * final, *pieces])
    assert json.loads((tmp_path / "data" / "split.json").read_text())["dropped"] == {"in the gaps": 1}
    assert "left out: 1 pairs, in the gaps" in capsys.readouterr().out


@pytest.mark.parametrize("final", [False, True])
def test_the_split_is_the_official_one(raw, tmp_path, final):
    work = make(raw, tmp_path / "w")
    split_stage.main(["--protocol", "yambda", "--workdir", str(work), *(["--final"] if final else [])])
    frame = listens(raw)
    time, end = frame.timestamp.astype("int64"), TEST - GAP - (0 if final else DAY + GAP)
    parts = {"train": frame[time < end], "test": frame[time >= TEST],
             "val": frame[(time >= TEST - GAP - DAY) & (time < TEST - GAP)] if not final else frame[:0]}
    users, tracks = (pd.read_csv(work / f"{name}id_sorted.csv")[f"{name}id"].to_numpy() for name in ("user", "track"))
    for part, expected in parts.items():
        expected = expected[expected.uid.isin(parts["train"].uid)]
        counts = expected.groupby(["uid", "item_id"]).size()
        made = pd.read_parquet(work / "data" / f"{part}.pqt")
        found = pd.Series(made["count"].to_numpy(), index=pd.MultiIndex.from_arrays(
            [users[made.user_id], tracks[made.track_id]], names=["uid", "item_id"]))
        pd.testing.assert_series_equal(found.sort_index(), counts.sort_index(), check_names=False, check_dtype=False,
                                       check_index_type=False)
    rules = json.loads((work / "data" / "rules.json").read_text())
    assert rules["seen"] == rules["unseen"] == "keep" and rules["events_before"] == end * 10**6


def test_nothing_seen_is_hidden_and_repeats_are_recommended(world):
    split = dataset.load(world)
    assert not split.seen("test").nnz and not split.seen("val").nnz
    again = split.matrix()[split.part("test").user, split.part("test").item]
    assert np.asarray(again).sum() > 0
    popularity.main(["--workdir", str(world), "--k", "20"])
    (name, _), *_ = [r for r in runs.find_runs(world) if r[1]["recommender"] == "popularity"]
    lists = pd.read_parquet(world / "preds" / f"{name}_test.pqt")
    assert lists.groupby("rank").score.nunique().max() == 1     # one list for all but for ties: no play is taken out


def test_a_split_without_the_test_day_is_refused(raw, tmp_path):
    work = make(raw, tmp_path / "w")
    frame = pd.read_parquet(work / "plays.pqt")
    frame[frame.timestamp < pd.Timestamp(TEST, unit="s")].to_parquet(work / "plays.pqt", index=False)
    with pytest.raises(WorkError, match="Yambda's test day begins 25913600 seconds.*0_get_plays_pqt.py yambda$"):
        split_stage.main(["--protocol", "yambda", "--workdir", str(work)])
    with pytest.raises(UsageError, match="--final does not apply"):
        split_stage.main(["--protocol", "random", "--final", "--workdir", str(work)])


def test_the_constants_are_the_published_ones():
    assert (protocols.TEST_START, protocols.DAY, protocols.GAP) == (26_000_000 - 86_400, 86_400, 1_800)


# --------------------------------------------------------------------------- metrics

def test_ratio_ndcg_and_repeat_recall_are_the_benchmarks_formulas(world):
    split = dataset.load(world)
    rng = np.random.default_rng(0)
    truth = split.truth("test")
    users = np.unique(truth.user_id)
    hot = split.tracks[:split.n_hot]
    preds = pd.DataFrame([(u, t, r) for u in users for r, t in enumerate(rng.permutation(hot)[:30])],
                         columns=["user_id", "track_id", "rank"])
    pairs = read_truth(truth)
    whole, each = repeats(read_lists(preds, pairs.users), pairs, plays_of(split, "test", pairs), (1, 3, 30))
    events = pd.read_parquet(world / "data" / "test.pqt").groupby("user_id")
    for k in (1, 3, 30):     # fewer places than a user has plays, and more
        gains, ideals, recalls = [], [], []
        for user, own in events:
            top = preds[(preds.user_id == user) & (preds["rank"] < k)].track_id.to_numpy()
            hit = np.isin(top, own.track_id)
            gains.append((hit / np.log2(np.arange(len(top)) + 2)).sum())
            ideals.append((1 / np.log2(np.arange(min(k, own["count"].sum())) + 2)).sum())
            recalls.append(hit.sum() / own["count"].sum())
        assert whole[f"RatioNDCG@{k}"] == pytest.approx(np.mean(gains) / np.mean(ideals))
        np.testing.assert_allclose(each[f"RepeatRecall@{k}"], recalls)


def test_a_fraction_of_a_play_counts_as_one(world):
    """A count below 1, of a file that somebody else made, is no index from the end and no recall above 1."""
    pairs = read_truth(pd.DataFrame({"user_id": [1, 2], "track_id": [3, 4]}))
    lists = read_lists(pd.DataFrame({"user_id": [1, 2], "track_id": [3, 9], "rank": 0}), pairs.users)
    whole, each = repeats(lists, pairs, np.array([.5, 1.0]), (10,))
    assert whole["RatioNDCG@10"] == .5 and each["RepeatRecall@10"].tolist() == [1, 0]


def test_they_are_measured_where_nothing_seen_is_hidden_alone(world, tmp_path):
    split = dataset.load(world)
    pairs = read_truth(split.truth("test"))
    lists = read_lists(pd.DataFrame({"user_id": pairs.users, "track_id": split.tracks[0], "rank": 0}), pairs.users)
    values, whole = metrics.figures(lists, pairs, (5,), split, "test")
    assert "RatioNDCG@5" in whole and "RepeatRecall@5" in values
    split.rules = split.rules | {"seen": "hide"}
    values, whole = metrics.figures(lists, pairs, (5,), split, "test")
    assert "RatioNDCG@5" not in whole and "RepeatRecall@5" not in values


# --------------------------------------------------------------------------- decay

def events_of_train(raw, world):
    frame = listens(raw)
    frame = frame[frame.timestamp < TEST - GAP - DAY - GAP].astype("int64")
    users, tracks = (pd.read_csv(world / f"{name}id_sorted.csv")[f"{name}id"].to_numpy() for name in ("user", "track"))
    return frame.assign(user=np.searchsorted(users, frame.uid), track=np.searchsorted(tracks, frame.item_id))


@pytest.mark.parametrize("by_user", [False, True])
def test_decayed_weights_are_sums_over_every_play(raw, world, by_user):
    split, frame = dataset.load(world), events_of_train(raw, world)
    last = frame.groupby("user")["timestamp"].transform("max") if by_user else frame["timestamp"].max()
    expected = (0.9 ** ((last - frame.timestamp) / 3600 / 12)).groupby([frame.user, frame.track]).sum()
    made = decay.weights(split, 12, by_user=by_user)
    code = pd.Series(np.arange(split.n_items), index=split.tracks)
    rows = np.searchsorted(split.users, expected.index.get_level_values(0))
    found = np.asarray(made[rows, code[expected.index.get_level_values(1)].to_numpy()]).ravel()
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert made.nnz == len(expected)


def test_val_belongs_to_the_history_at_test(world):
    split = dataset.load(world)
    assert plays.end_of(split, "val") == (TEST - GAP - DAY - GAP) * 10**6
    assert plays.end_of(split, "test") == int(split.part("val").time.max()) + 1
    assert decay.weights(split, 12, "test").sum() > decay.weights(split, 12, "val").sum() * 0.99


def test_decaypop_ranks_by_the_decayed_plays(raw, world):
    frame = events_of_train(raw, world)
    weight = (0.9 ** ((frame.timestamp.max() - frame.timestamp) / 3600 / 6)).groupby(frame.track).sum()
    popularity.main(["--workdir", str(world), "--k", "5", "--decay-hours", "6"])
    name, _ = next(r for r in runs.find_runs(world) if r[1]["request"].get("decay_hours") == 6)
    lists = pd.read_parquet(world / "preds" / f"{name}_val.pqt")
    assert list(lists[lists.user_id == lists.user_id.iloc[0]].track_id) == list(weight.nlargest(5).index)


def test_decayed_itemknn_scores_are_the_history_by_the_similarities(world):
    split = dataset.load(world)
    matrix = split.matrix().astype(np.float64).toarray()
    norm = np.linalg.norm(matrix, axis=0)
    similarity = matrix.T @ matrix / np.maximum(np.outer(norm, norm), 1e-12)      # the diagonal is 1: seen is kept
    scores = decay.weights(split, 24, "val", by_user=True).toarray() @ similarity
    itemknn.main(["--workdir", str(world), "--k", "10", "--decay-hours", "24", "--neighbours", str(split.n_hot)])
    name, _ = next(r for r in runs.find_runs(world) if r[1]["request"].get("decay_hours") == 24)
    lists = pd.read_parquet(world / "preds" / f"{name}_val.pqt")
    for user, own in list(lists.groupby("user_id"))[:10]:
        row = scores[np.searchsorted(split.users, user)]
        np.testing.assert_allclose(own.score, np.sort(row)[::-1][:10], rtol=1e-4)    # float32 similarities


def test_decay_needs_plays_with_times(world, tmp_path):
    from tests.worlds.world import tiny_workspace
    tiny = tiny_workspace(tmp_path / "w")
    for module in (popularity, itemknn):
        with pytest.raises(UsageError, match=r"plays.pqt is missing"):
            module.main(["--workdir", str(tiny), "--decay-hours", "6"])
    untimed = tiny_workspace(tmp_path / "u", timed=False)
    with pytest.raises(UsageError, match="requires timestamps"):
        popularity.main(["--workdir", str(untimed), "--decay-hours", "6"])
    with pytest.raises(UsageError, match="leave out --half-life and --by"):
        popularity.main(["--workdir", str(world), "--decay-hours", "6", "--by", "plays"])


@pytest.mark.parametrize("text, sentence", [
    ('{"request": {"test_date": "soon"}}', "test_date 'soon' is no date"),
    ('{"request": {"test_date": [2020]}}', r"test_date \[2020\] is no date"),
    ('{"request": []}', "request should be an object"), ("{", "cannot be read as json")])
def test_an_odd_split_json_is_named(text, sentence, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "split.json").write_text(text, encoding="utf-8")
    split = SimpleNamespace(rules={"events_before": None}, workdir=tmp_path)
    with pytest.raises(WorkError, match=sentence):
        plays.end_of(split)


# --------------------------------------------------------------------------- bad input

def damaged(tmp_path, name, table):
    path = tmp_path / "raw" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table), path)
    return tmp_path / "raw"


GOOD = {"uid": [1, 1], "item_id": [5, 6], "timestamp": [0, 5], "played_ratio_pct": [90, 90]}


@pytest.mark.parametrize(("table", "says"), [
    ({k: v for k, v in GOOD.items() if k != "played_ratio_pct"}, "has no column played_ratio_pct"),
    (GOOD | {"uid": [1, None]}, "1 events have no user"),
    (GOOD | {"item_id": ["a", "b"]}, "item_id should be whole numbers"),
    (GOOD | {"played_ratio_pct": [10, 49]}, "no listens of at least 50 %"),
    ({"uid": [1], "item_id": [[5, 6]], "timestamp": [[0, 5]], "played_ratio_pct": [[9, 9]]}, "say --form sequential"),
])
def test_events_that_are_not_yambdas_are_refused(tmp_path, table, says):
    folder = damaged(tmp_path, "flat/50m/listens.parquet", table)
    with pytest.raises(WorkError, match=says):
        make(folder, tmp_path / "w")
    assert not (tmp_path / "w" / "plays.pqt").exists()


def test_files_that_are_absent_damaged_or_of_the_other_form(raw, tmp_path):
    with pytest.raises(UsageError, match=r"has no flat/500m/listens.parquet"):
        make(raw, tmp_path / "w", "--size", "500m")
    folder = damaged(tmp_path, "sequential/50m/listens.parquet", GOOD)
    with pytest.raises(WorkError, match="say --form flat"):
        make(folder, tmp_path / "w", "--form", "sequential")
    (tmp_path / "raw" / "flat" / "50m").mkdir(parents=True)
    (tmp_path / "raw" / "flat" / "50m" / "listens.parquet").write_bytes(
        (raw / "flat" / "50m" / "listens.parquet").read_bytes()[:2000])
    with pytest.raises(WorkError, match="cannot be read"):
        make(tmp_path / "raw", tmp_path / "w")


@pytest.mark.parametrize(("vectors", "says"), [
    ({"item_id": [5, 6], "embed": [[1.0, 2], [1.0]]}, "unequal lengths"),
    ({"item_id": [5, 6], "embed": pa.array([[1.0, 2], None], pa.list_(pa.float32(), 2))}, "unequal lengths, or none"),
    ({"item_id": [5, 6], "embed": pa.array([[], []], pa.list_(pa.float32()))}, "unequal lengths, or none"),
    ({"item_id": [5, 6], "embed": [1.0, 2.0]}, "embed should be lists of numbers, but is double"),
    ({"item_id": ["5", "6"], "embed": [[1.0, 2], [1.0, 2]]}, "item_id should be whole numbers, but is string"),
    ({"item_id": [7], "embed": [[1.0, 2]]}, "no vector of a track"),
    ({"item_id": [5]}, "has no column embed"),
])
def test_vectors_that_do_not_fit_are_refused(tmp_path, vectors, says):
    damaged(tmp_path, "flat/50m/listens.parquet", GOOD)
    with pytest.raises(WorkError, match=says):
        make(damaged(tmp_path, "embeddings.parquet", vectors), tmp_path / "w")
    assert not (tmp_path / "w" / "embeddings" / "yambda.npy").exists()


def test_a_vector_that_is_not_finite_is_none(tmp_path):
    damaged(tmp_path, "flat/50m/listens.parquet", GOOD)
    vectors = {"item_id": [5, 6], "embed": [[1.0, 1e300], [3.0, 4]]}
    make(damaged(tmp_path, "embeddings.parquet", vectors), tmp_path / "w")
    about = json.loads((tmp_path / "w" / "embeddings" / "yambda.json").read_text())
    matrix = np.load(tmp_path / "w" / "embeddings" / "yambda.npy")
    assert about["without"] == np.isnan(matrix).any(axis=1).sum() == np.isnan(matrix).all(axis=1).sum()
    assert np.isfinite(matrix).any()


def test_a_track_with_two_vectors_is_one_track(tmp_path):
    damaged(tmp_path, "flat/50m/listens.parquet", GOOD)
    make(damaged(tmp_path, "embeddings.parquet", {"item_id": [5, 5], "embed": [[1.0, 2], [3.0, 4]]}), tmp_path / "w")
    about = json.loads((tmp_path / "w" / "embeddings" / "yambda.json").read_text())
    assert about["without"] == 1
    assert json.loads((tmp_path / "w" / "dataset.json").read_text())["embeddings"]["yambda"]["rows"] == 1


def test_without_a_network_one_sentence_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(WorkError, match="--raw DIR uses it"):
        plays_stage.main(["yambda", "--workdir", str(tmp_path / "w")])


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A function that puts bytes into the hub's cache as a file of the data set; links=False as on a disk without."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "cache" / f"datasets--{yambda.REPO.replace('/', '--')}"

    def put(name, data, as_if=None, links=True):
        blob = root / "blobs" / hashlib.sha256(data if as_if is None else as_if).hexdigest()
        path = root / "snapshots" / yambda.REVISION / name
        for folder in (blob.parent, path.parent):
            folder.mkdir(parents=True, exist_ok=True)
        (blob if links else path).write_bytes(data)
        if links:
            path.symlink_to(blob)
        return path
    return put


def test_a_file_in_the_cache_is_checked(hub, capsys):
    good = hub("flat/50m/listens.parquet", b"whole")
    assert yambda.fetched("flat/50m/listens.parquet") == good
    bad = hub("flat/50m/likes.parquet", b"cut", as_if=b"cut off")
    with pytest.raises(WorkError, match="is damaged .its sha256 should be [0-9a-f]{64}.; delete it and run this again"):
        yambda.fetched("flat/50m/likes.parquet")
    assert bad.resolve().exists() and "warning" not in capsys.readouterr().err


def test_a_cache_without_links_asks_the_hub(hub, monkeypatch, capsys):
    path = hub("embeddings.parquet", b"whole", links=False)
    assert yambda.fetched("embeddings.parquet") == path
    assert "is used without a check of its sha256" in capsys.readouterr().err
    for etag, damaged in (("0" * 40, False), (hashlib.sha256(b"whole").hexdigest(), False), ("0" * 64, True)):
        monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda _, etag=etag: SimpleNamespace(etag=etag))
        if damaged:
            with pytest.raises(WorkError, match="is damaged"):
                yambda.fetched("embeddings.parquet")
        else:
            assert yambda.fetched("embeddings.parquet") == path
    assert "warning" not in capsys.readouterr().err


def test_what_arrives_damaged_is_fetched_again(hub, monkeypatch):
    """Link and bytes go: of a link alone the hub's client makes the same one again."""
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: str(
        hub("embeddings.parquet", b"cut", as_if=b"whole")))
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda _: SimpleNamespace(
        etag=hashlib.sha256(b"whole").hexdigest()))
    for _ in range(2):
        with pytest.raises(WorkError, match="arrived damaged"):
            yambda.fetched("embeddings.parquet")
    assert not [p for p in Path(hub("x", b"x")).parents[2].rglob("*") if p.is_file() and p.read_bytes() == b"cut"]


def test_unknown_rules_are_refused(world):
    path = world / "data" / "rules.json"
    before = path.read_text()
    path.write_text(json.dumps({"history": {}, "seen": "sometimes"}))
    try:
        with pytest.raises(WorkError, match="rules that are not known"):
            dataset.load(world)
    finally:
        path.write_text(before)
