"""show.py: one track, one user, a newcomer, a sound; and names that are not there."""
import datetime
import functools
import importlib
import json
import unicodedata

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import dataset
import show
from evaluation.files import write_metrics
from harness import metadata, runs
from harness.errors import UsageError, WorkError
from harness.files import write_json, write_parquet
from lookup import catalogue, listeners, sound
from tests.worlds.world import tiny_workspace, write_embedding

N = 80   # tracks of the tiny workspace


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A tiny workspace with names, runs of four methods, a control and MusiCNN's tags as an embedding."""
    workdir = tiny_workspace(tmp_path_factory.mktemp("show") / "w")
    write_parquet(workdir / "items.pqt", pd.DataFrame({
        "track_id": np.arange(N), "title": [f"Song {i}" for i in range(N)],
        "artists": [[f"Artist {i // 4}"] for i in range(N)], "styles": [["<b>style</b>"]] * N}))
    tags = np.random.default_rng(0).random((N, 3)).astype(np.float32)
    tags[7] = [.2, .9, .1]
    tags[8] = np.nan
    write_embedding(workdir, "tags", tags, layer="taggram", features=["rock", "jazz", "folk"])
    for module, *flags in (("knn", "content"), ("recommenders.ease",), ("recommenders.elsa", "--epochs", "3"),
                           ("recommenders.ials", "--factors", "4", "--alpha", "3"),
                           ("recommenders.content_knn", "content", "--shuffle")):
        importlib.import_module(module).main([*flags, "--workdir", str(workdir), "--k", "20"])
    return workdir


def told(capsys, world, *words, n=3):
    capsys.readouterr()
    show.main([*words, "--workdir", str(world), "--n", str(n), "--json"])
    return json.loads(capsys.readouterr().out)


def names_of(world):
    return {config["recommender"]: name for name, config in runs.find_runs(world)}


def test_a_track_by_its_name(world, capsys):
    found = told(capsys, world, "track", "song 7")
    assert found["track"]["title"] == "Song 7" and found["metadata"]["styles"] == ["<b>style</b>"]
    train = pd.read_parquet(world / "data" / "train.pqt")
    assert found["plays in train"] == train["count"][train.track_id == 7].sum()
    assert [tag for tag, _ in found["tags"]["tags"]] == ["jazz", "rock", "folk"]
    x = np.load(world / "embeddings" / "content.npy").astype(float)
    x -= x.mean(axis=0)
    cosine = x @ x[7] / np.linalg.norm(x, axis=1) / np.linalg.norm(x[7])
    expected = [f"Song {i}" for i in np.argsort(-cosine) if i != 7][:3]
    assert [entry["title"] for entry in found["near by representation"]["content"]] == expected
    show.main(["track", "Song 8", "--workdir", str(world)])
    assert "without a vector in\n  tags" in capsys.readouterr().out


def test_a_user_with_the_lists_of_runs_side_by_side(world, capsys):
    split, names = dataset.load(world), names_of(world)
    user = int(split.users[split.eval_users("test")[0]])
    found = told(capsys, world, "user", str(user))
    assert set(found["lists"]["test"]) == {"(played)", names["knn"], names["ease"], names["elsa"], names["ials"]}
    preds = pd.read_parquet(world / "preds" / f"{names['ease']}_test.pqt")
    mine = preds[preds.user_id == user].sort_values("rank").track_id.head(3).tolist()
    true = set(split.truth("test").query("user_id == @user").track_id)
    shown = found["lists"]["test"][names["ease"]]
    assert [e["title"] for e in shown] == [f"Song {t}" for t in mine]
    assert [e["hit"] for e in shown] == [t in true for t in mine]
    assert names["ease"] not in found["lists"]["cold_test"]
    only = told(capsys, world, "user", str(user), "--runs", names["content_knn"])
    assert set(only["lists"]["test"]) == {"(played)", names["content_knn"]}   # a control, when it is asked for
    latest = split.train.time[split.train.user == int(np.searchsorted(split.users, user))].max()
    first = found["latest plays in train"][0]["title"]
    rows = split.train.time == latest
    assert first in {f"Song {t}" for t in split.tracks[split.train.item[rows]]}


def test_users_by_their_text_ids(world, tmp_path):
    split = dataset.load(world)
    other = catalogue.opened(world)
    assert listeners.user_of(other, str(split.users[3])) == (split.users[3], split.users[3])
    for word in ("999999", "nobody", "-1", "9" * 40):
        with pytest.raises(UsageError, match="no user"):
            listeners.user_of(other, word)


@pytest.mark.parametrize("typed", ["NFC", "NFD"])
@pytest.mark.parametrize("written", ["NFC", "NFD"])
def test_ids_and_names_in_another_form_of_unicode(tmp_path, typed, written):
    """A name is typed composed and copied from a Mac's folder decomposed; both are the same."""
    form = functools.partial(unicodedata.normalize, written)
    ids, names = [form("Bj\u00f6rk-1"), "b"], pd.DataFrame({"title": [form("J\u00f3ga"), form("\u00c5ngstr\u00f6m")]})
    for word, row in (("Bj\u00f6rk-1", 0), (" j\u00d3GA ", 0), ("\u00e5ngstr\u00f6m", 1)):
        assert metadata.find_track(unicodedata.normalize(typed, word), ids, names) == row
    with pytest.raises(UsageError, match="near it: J\u00f3ga"):
        metadata.find_track(unicodedata.normalize(typed, "J\u00f3gu"), ids, names)
    workdir = tiny_workspace(tmp_path / "w")
    user = int(dataset.load(workdir).users[3])
    users = pd.DataFrame({"idx": [0, user], "userid": ["0", form("J\u00f6rg")]})
    users.to_csv(workdir / "userid_sorted.csv", index=False)
    word = unicodedata.normalize(typed, "J\u00f6rg ")
    assert listeners.user_of(catalogue.opened(workdir), word) == (user, unicodedata.normalize("NFC", "J\u00f6rg"))


@pytest.mark.parametrize("method", ["knn", "elsa", "ials"])
def test_somebody_new_gets_what_a_user_of_the_same_plays_gets(world, method, capsys):
    """ELSA knows a user by the plays alone: a newcomer with a user's history gets that user's list."""
    split, names = dataset.load(world), names_of(world)
    user = int(split.users[split.eval_users("val")[0]])
    played = split.tracks[split.train.item[split.train.user == split.eval_users("val")[0]]].tolist()
    found = told(capsys, world, "listener", *(f"Song {t}" for t in played), "--run", names[method], n=5)
    assert [entry["title"] for entry in found["played"]] == [f"Song {t}" for t in played]
    (got,) = found["recommended by"].values()
    assert len(got) == 5 and not {e["title"] for e in got} & {f"Song {t}" for t in played}
    if method == "elsa":
        preds = pd.read_parquet(world / "preds" / f"{names['elsa']}_val.pqt")
        expected = preds[preds.user_id == user].sort_values("rank").track_id.head(5)
        assert [e["title"] for e in got] == [f"Song {t}" for t in expected]


@pytest.mark.parametrize(("module", "flags"), [
    ("knn", []), ("knn", ["--center", "--unit"]), ("recommenders.content_knn", []),
    ("recommenders.content_knn", ["--scale", "none", "--neighbours", "9"])])
def test_a_run_by_content_answers_somebody_new_as_it_answers_its_users(tmp_path, capsys, module, flags):
    workdir = tiny_workspace(tmp_path / "w", n_users=20)
    importlib.import_module(module).main(["content", *flags, "--workdir", str(workdir)])
    (name, _), = runs.find_runs(workdir)
    split, lists = dataset.load(workdir), pd.read_parquet(workdir / "preds" / f"{name}_val.pqt")
    for code in split.eval_users("val"):
        played = split.tracks[split.train.item[split.train.user == code]].tolist()
        found = listeners.newcomer(catalogue.opened(workdir), played, name, 5)
        expected = lists[lists.user_id == split.users[code]].sort_values("rank").head(len(found))
        assert [row for row, _ in found] == expected["track_id"].tolist() and found
        assert [score for _, score in found] == pytest.approx(expected["score"].tolist(), abs=1e-5)
    unplayed = catalogue.opened(workdir).ids[0]      # of no part
    with pytest.raises(WorkError, match=f"run {name} cannot answer: {unplayed} is not a track of the split"):
        show.main(["listener", unplayed, "--run", name, "--workdir", str(workdir)])


def test_a_run_as_published_does_not_answer_somebody_new(tmp_path):
    workdir = tiny_workspace(tmp_path / "w", n_users=20)
    importlib.import_module("knn").main(["content", "--as-published", "--workdir", str(workdir)])
    (name, _), = runs.find_runs(workdir)
    with pytest.raises(UsageError, match="has the means of wrong rows as its users"):
        listeners.newcomer(catalogue.opened(workdir), [5], name, 3)


def test_a_control_does_not_answer_by_vectors_of_its_own_tracks(world):
    with pytest.raises(UsageError, match="is a control, whose vectors are those of other tracks"):
        show.main(["listener", "Song 1", "--run", names_of(world)["content_knn"], "--workdir", str(world)])


def test_a_run_may_be_named_by_its_beginning(world, capsys):
    name = names_of(world)["ease"]
    whole = told(capsys, world, "user", str(dataset.load(world).users[0]), "--runs", name)
    assert told(capsys, world, "user", str(dataset.load(world).users[0]), "--runs", "ease") == whole
    with pytest.raises(UsageError, match="begins the names of .* name one of them|there is no finished run"):
        show.main(["user", str(dataset.load(world).users[0]), "--runs", "", "--workdir", str(world)])


def test_a_run_of_another_split_does_not_answer(tmp_path):
    workdir = tiny_workspace(tmp_path / "w")
    importlib.import_module("knn").main(["content", "--workdir", str(workdir)])
    train = pd.read_parquet(workdir / "data" / "train.pqt")
    write_parquet(workdir / "data" / "train.pqt", train.iloc[1:])
    track = catalogue.opened(workdir).ids[0]
    with pytest.raises(WorkError, match="was made from another data/train.pqt than the workspace has now"):
        show.main(["listener", str(track), "--run", "content_cosine", "--workdir", str(workdir)])


def test_ials_answers_by_its_normal_equations(world):
    other, name = catalogue.opened(world), names_of(world)["ials"]
    split, y = dataset.load(world), np.load(world / "model_embeddings" / f"{name}_items.npy").astype(float)
    played = split.tracks[[2, 5]].tolist()
    found = listeners.newcomer(other, played, name, 4)
    w = np.ones(split.n_hot)
    w[[2, 5]] = 4.0
    target = np.zeros(split.n_hot)
    target[[2, 5]] = 1
    user = np.linalg.solve(y.T @ (w[:, None] * y) + np.eye(4), y.T @ (w * target))
    best = [i for i in np.argsort(-(y @ user)) if i not in (2, 5)][:4]
    assert [row for row, _ in found] == split.tracks[best].tolist()
    assert [score for _, score in found] == pytest.approx((y @ user)[best])


def test_with_logarithmic_values_a_play_of_a_newcomer_weighs_log_two(tmp_path):
    workdir = tiny_workspace(tmp_path / "w")
    importlib.import_module("recommenders.ials").main(["--factors", "4", "--alpha", "3", "--values", "log",
                                                       "--workdir", str(workdir)])
    name = names_of(workdir)["ials"]
    split = dataset.load(workdir)
    y = np.load(workdir / "model_embeddings" / f"{name}_items.npy").astype(float)
    request = dict(runs.find_runs(workdir))[name]["request"]
    w = np.ones(split.n_hot)
    w[[2, 5]] += 3 * np.log(2)
    system = y.T @ (w[:, None] * y) + request["regularization"] * np.eye(4)
    user = np.linalg.solve(system, y[[2, 5]].T @ w[[2, 5]])
    found = listeners.newcomer(catalogue.opened(workdir), split.tracks[[2, 5]].tolist(), name, 3)
    assert [score for _, score in found] == pytest.approx(sorted(np.delete(y @ user, [2, 5]))[:-4:-1])


def test_of_runs_that_rank_cold_items_alone_the_best_on_cold_val_is_shown(tmp_path):
    workdir = tiny_workspace(tmp_path / "w")
    names = [f"clcrec_{end}" for end in "abc"]
    for name, value in zip(names, (.1, .3, .2), strict=True):
        write_json(workdir / "runs" / name / "config.json",
                   {"status": "finished", "recommender": "clcrec", "parts": ["cold_test", "cold_val"]})
        write_metrics(workdir / "metrics" / f"{name}_cold_val.csv",
                      pd.DataFrame({"NDCG@10": [value, value]}, index=pd.Index([3, 13], name="user_id")))
    assert list(listeners.finished(catalogue.opened(workdir))) == [names[1]]


def test_a_newcomer_by_every_representation(world, capsys):
    found = told(capsys, world, "listener", "Song 3", "Song 4")
    assert set(found["recommended by"]) == {"content", "noise", "tags"}
    found = told(capsys, world, "listener", "Song 3", "Song 8")
    assert set(found["recommended by"]) == {"content", "noise"}
    assert found["without a vector of all these in"] == ["tags"]


@pytest.mark.parametrize("words, sentence", [
    (["track", "Sonk 7"], "near it: Song 7"), (["track", "7", "--embedding", "none"], "no embedding 'none'"),
    (["user", "abc"], "no user 'abc'"), (["user", "3", "--runs", "eaz"], "no finished run 'eaz'"),
    (["listener", "Song 3", "--run", "x", "--embedding", "content"], "give --run or --embedding"),
    (["listener", "Nobody at all"], "no track has the id or name"), (["audio", "gone.mp3"], "is no file")])
def test_what_is_not_there_is_one_sentence(world, words, sentence):
    if words[:2] == ["track", "7"]:
        words = ["track", "Song 7", *words[2:]]
    with pytest.raises(UsageError) as error:
        show.main([*words, "--workdir", str(world)])
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_a_run_that_cannot_answer_says_so(world):
    other, names = catalogue.opened(world), names_of(world)
    with pytest.raises(UsageError, match="a run of ease cannot be asked for somebody new"):
        listeners.newcomer(other, [5], names["ease"], 3)
    with pytest.raises(WorkError, match="is not a track of train"):
        listeners.newcomer(other, [0], names["elsa"], 3)


def test_foreign_names_do_not_move_the_terminal(world, capsys, tmp_path):
    workdir = tiny_workspace(tmp_path / "w")
    write_parquet(workdir / "items.pqt", pd.DataFrame({
        "track_id": np.arange(N), "title": ["\x1b[2Jgone\nnew line"] * N}))
    show.main(["track", dataset.read_tracks(workdir)[0][5], "--workdir", str(workdir), "--n", "2"])
    out = capsys.readouterr().out
    assert "\x1b" not in out and "U+001B" in out


@pytest.mark.parametrize("kind, values", [
    (pa.list_(pa.struct([("role", pa.string())])), [{"role": "vocals"}]),
    (pa.list_(pa.list_(pa.int32())), [[1, 2], []]),
    (pa.map_(pa.string(), pa.int8()), [("a", 1)]),
    (pa.list_(pa.list_(pa.string_view())), [["<b>"], None]),
    (pa.list_(pa.date32()), [datetime.date(2020, 1, 2), None]),
    (pa.struct([("year", pa.int16())]), {"year": 1999})])
def test_columns_of_any_type_are_shown(kind, values, tmp_path, capsys):
    workdir = tiny_workspace(tmp_path / "w")
    pq.write_table(pa.table({"track_id": np.arange(N), "artists": pa.array([["One", "Two"]] * N, pa.list_(
        pa.string_view())), "credits": pa.array([values] * N, kind)}), workdir / "items.pqt")
    track = dataset.read_tracks(workdir)[0][5]
    found = told(capsys, workdir, "track", track)
    assert found["track"]["artists"] == "One, Two" and found["metadata"]["artists"] == ["One", "Two"]
    assert str(values[0] if isinstance(values, list) else values) in str(found["metadata"]["credits"])
    show.main(["track", track, "--workdir", str(workdir)])
    assert "credits" in capsys.readouterr().out


def test_a_workspace_without_a_split_or_without_names(tmp_path, capsys):
    workdir = tiny_workspace(tmp_path / "w")
    (workdir / "items.pqt").unlink()
    for path in (workdir / "data").iterdir():
        path.unlink()
    ids, _ = dataset.read_tracks(workdir)
    found = told(capsys, workdir, "track", ids[4])
    assert found["metadata"] == {} and found["plays in train"] == 0 and len(found["near by representation"]) == 2
    with pytest.raises(WorkError, match="split first"):
        show.main(["user", "3", "--workdir", str(workdir)])


@pytest.mark.trains
def test_a_sound_that_is_not_in_the_workspace(tmp_path, capsys):
    """Its vectors are those that its own extraction would write, so a copy of a track is its own nearest neighbour."""
    pytest.importorskip("musicnn")
    import soundfile

    from extract_item_embeddings import mfcc
    rng, audio = np.random.default_rng(0), tmp_path / "audio"
    audio.mkdir()
    for i in range(4):
        t = np.arange(5 * 22050) / 22050
        tone = .3 * np.sin(2 * np.pi * 220 * (i + 1) * t) + .01 * rng.normal(size=t.size)
        soundfile.write(audio / f"t{i}.wav", tone, 22050)
    mfcc.main(["--audio", str(audio), "--workdir", str(tmp_path / "w")])
    write_embedding(tmp_path / "w", "mine", rng.normal(size=(4, 3)).astype(np.float32))
    copy = tmp_path / "a copy.wav"
    copy.write_bytes((audio / "t2.wav").read_bytes())
    found = told(capsys, tmp_path / "w", "audio", str(copy))
    assert found["near by representation"]["mfcc"][0] == {"id": "t2", "score": 1.0}
    assert len(found["tags"]["musicnn"]) == 5
    assert found["not made from sound here"] == {"mine": "its backend, mine, reads no sound"}
    info = dataset.embedding_info(tmp_path / "w", "mfcc")
    write_json(tmp_path / "w" / "embeddings" / "mfcc.json", {**info, "seconds": 2.0, "n_mfcc": "other"})
    told_of = told(capsys, tmp_path / "w", "audio", str(copy))["not made from sound here"]
    assert told_of["mfcc"] == "it was made with other settings than this version's (n_mfcc)"
    (tmp_path / "no sound.mp3").write_text("no sound")
    with pytest.raises(WorkError, match="no sound.mp3"):
        show.main(["audio", str(tmp_path / "no sound.mp3"), "--workdir", str(tmp_path / "w")])


SOUNDS = {   # what a json says of its backend: the words that make the same vector
    "mert-95m": ({"backend": "mert", "variant": "95M", "layer": "3", "precision": "fp32"},
                 "mert --size 95M --layer 3 --precision fp32"),
    "mert2-fs": ({"backend": "mert2", "variant": "fs"}, "mert2 --variant fs"),
    "music2vec": ({"backend": "music2vec", "variant": None, "as_published": True}, "m2v --as-published"),
    "musicfm-msd": ({"backend": "musicfm", "variant": "MSD", "as_published": False}, "mfm --trained-on MSD"),
    "encodecmae": ({"backend": "encodecmae", "layer": "mean", "dtype": "float16"}, "emae --dtype float16 --layer mean"),
    "jukemir": ({"backend": "jukemir", "layer": 40, "precision": "fp32"}, "jb --layer 40 --precision fp32"),
    "muq_msd": ({"backend": "muq_msd", "variant": "MuQ", "offset": "middle", "seconds": 5.0},
                "muq --seconds 5.0 --offset middle"),
    "muq_mulan": ({"backend": "muq_mulan", "variant": "MuLan", "weights": {"revision": "abc"}},
                  "muq --mulan --revision abc"),
    "maest": ({"backend": "maest", "variant": "10s-pw-129e", "layer": "7"}, "maest --variant 10s-pw-129e --layer 7"),
    "musicnn-mtt": ({"backend": "musicnn", "variant": "MTT_musicnn", "layer": "taggram", "precision": "bf16"},
                    "musicnn --variant MTT_musicnn --layer taggram --precision bf16")}


@pytest.mark.parametrize("name", SOUNDS)
def test_the_json_of_an_embedding_says_how_a_sound_is_heard(name, monkeypatch, tmp_path):
    info, words = SOUNDS[name]
    asked = []
    monkeypatch.setattr(sound, "made", lambda path, script, kind, flags, output: (
        asked.append(" ".join([script, *flags])), info, ""))
    assert sound.vector_for(tmp_path / "x.wav", info)[1] == "" and asked == [words]


@pytest.fixture
def heard(tmp_path, monkeypatch):
    """A workspace with MFCC and MERT 95M of one sound, the latter by tiny weights in the model hub's cache."""
    from extract_item_embeddings import mert, mfcc
    from extract_item_embeddings.engine import weights
    from tests.worlds.checkpoints import mert_checkpoint, single_thread, sounds
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(weights, "check_size", lambda *_: None)
    source = mert.SOURCES["95M"]
    place = tmp_path / "cache" / f"models--{source.repo.replace('/', '--')}" / "snapshots" / source.revision
    place.mkdir(parents=True)
    mert_checkpoint(place)
    sounds(tmp_path / "audio", 24000, a=1.0, b=0.7, c=0.9)
    words = ["--audio", str(tmp_path / "audio"), "--workdir", str(tmp_path / "w")]
    mfcc.main(words)
    with single_thread():
        mert.main([*words, "--size", "95M", "--device", "cpu", "--layer", "all"])
        yield tmp_path


def test_a_sound_by_the_variant_and_layer_of_an_embedding(heard, capsys, monkeypatch):
    monkeypatch.setattr(sound, "tags_of", lambda path: (None, "no"))
    found = told(capsys, heard / "w", "audio", str(heard / "audio" / "b.wav"))
    assert set(found["near by representation"]) == {"mfcc", *(f"mert-95m-layer{i}" for i in range(4))}
    assert {near[0]["id"] for near in found["near by representation"].values()} == {"b"}


def test_weights_and_packages_that_are_not_here_cost_one_embedding(heard, capsys, monkeypatch):
    """And not the others, nor is the sound blamed."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(heard / "empty"))
    monkeypatch.setattr("extract_item_embeddings.networks.musicnn_package.checkpoint", absent)
    info = dataset.embedding_info(heard / "w", "mert-95m-layer3")
    write_json(heard / "w" / "embeddings" / "mert-95m-layer2.json",
               {**info, "weights": {**info["weights"], "revision": "given by --weights"}})
    write_json(heard / "w" / "embeddings" / "mert-95m-layer1.json", {**info, "layer": "no\nlayer"})
    path = str(heard / "audio" / "b.wav")
    found = told(capsys, heard / "w", "audio", path)
    assert set(found["near by representation"]) == {"mfcc"} and found["tags"] == {}
    reasons = found["not made from sound here"]
    assert reasons["mert-95m-layer3"] == ("missing: weights of m-a-p/MERT-v1-95M; see python "
                                          "extract_item_embeddings/mert.py --help")
    assert "given by --weights" in reasons["mert-95m-layer2"] and "\n" not in reasons["mert-95m-layer1"]
    assert reasons["tags of musicnn"].startswith("missing: package musicnn")
    show.main(["audio", path, "--workdir", str(heard / "w")])
    assert "mert-95m-layer3: missing: weights of m-a-p/MERT-v1-95M" in capsys.readouterr().out


def absent(*_):
    raise WorkError("the package musicnn is not installed")


def test_a_failure_of_a_backend_is_its_own(heard, capsys, monkeypatch):
    """Weights that are damaged, and a package that is found by its name only."""
    from extract_item_embeddings import mert
    monkeypatch.setattr("extract_item_embeddings.networks.musicnn_package.checkpoint", absent)
    for error, says in ((WorkError("model.bin is damaged"), "model.bin is damaged"),
                        (ModuleNotFoundError("x", name="transformers"), "missing: package transformers")):
        def build(self, error=error):
            raise error
        monkeypatch.setattr(mert.MERT, "build", build)
        found = told(capsys, heard / "w", "audio", str(heard / "audio" / "b.wav"))
        assert found["not made from sound here"]["mert-95m-layer0"] == says
        assert set(found["near by representation"]) == {"mfcc"}
