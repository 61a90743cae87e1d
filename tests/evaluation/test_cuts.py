"""table.py --by: each segment's figures against an independent computation, and cuts that say nothing."""
import importlib
import shutil

import numpy as np
import pandas as pd
import pytest

import dataset
import metrics
import table
from evaluation.cuts import SegmentValues, segments
from harness import runs
from harness.errors import UsageError, WorkError
from harness.files import write_parquet
from tests.worlds.world import tiny_workspace


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A tiny workspace with a KNN, two permutations of it, and popularity; two artists have cold tracks only."""
    workdir = tiny_workspace(tmp_path_factory.mktemp("cuts") / "w")
    split = dataset.load(workdir)
    artists = [[f"artist {t // 3}"] if t % 11 else None for t in range(80)]
    for track in split.tracks[split.n_hot:][:4]:
        artists[track] = ["New One", " new one "]     # one artist, written in two ways
    write_parquet(workdir / "items.pqt", pd.DataFrame({"track_id": np.arange(80), "artists": artists}))
    for module, *flags in (("knn", "content"), ("knn", "content", "--shuffle", "--seed", "1"),
                           ("knn", "content", "--shuffle", "--seed", "2"), ("recommenders.popularity",)):
        importlib.import_module(module).main([*flags, "--workdir", str(workdir), "--k", "20"])
    return workdir


@pytest.mark.parametrize("cut", ["item-popularity", "user-activity", "user-mainstream", "artist"])
def test_a_segment_has_the_figures_of_its_pairs_alone(world, cut, capsys):
    table.main(["--workdir", str(world), "--metrics", "NDCG@10", "Recall@5", "--by", cut])
    assert f"results_test_by_{cut.replace('-', '_')}.csv" in capsys.readouterr().out
    split = dataset.load(world)
    for part in ("test", "cold_test"):
        shown = pd.read_csv(world / "tables" / f"results_{part}_by_{cut.replace('-', '_')}.csv")
        cut_up = segments(split, part, cut)
        assert list(dict.fromkeys(shown["segment"])) == list(cut_up)
        for name, truth in cut_up.items():
            pairs = pd.DataFrame({"user_id": truth.users[truth.user], "track_id": truth.track})
            run = next(n for n, c in runs.find_runs(world) if c["recommender"] == "knn"
                       and not runs.is_shuffled(c["request"]))
            values = metrics.evaluate(pd.read_parquet(world / "preds" / f"{run}_{part}.pqt"), pairs, (5, 10))
            row = shown[(shown.segment == name) & (shown.recommender == "knn") & ~shown.shuffled
                        & (shown.metric == "NDCG")].iloc[0]
            assert row["mean"] == pytest.approx(values["NDCG@10"].mean()) and row["pairs"] == len(pairs)
            assert row["users"] == len(values) and row["permutations"] == 2 and np.isfinite(row["worth"])


def test_pairs_of_a_segment_are_those_its_name_says(world):
    split = dataset.load(world)
    items = pd.read_parquet(world / "items.pqt")["artists"].map(
        lambda a: {x.strip().casefold() for x in a} if a is not None else set())
    train = split.truth("train")
    of_train = set().union(*items[train.track_id])
    by_user = train.groupby("user_id")["track_id"].agg(lambda t: set().union(*items[t]))
    for part in ("test", "cold_test"):
        truth = split.truth(part)
        known = truth.track_id.map(lambda t: bool(items[t] & of_train))
        has = truth.track_id.map(lambda t: bool(items[t]))
        played = np.array([bool(items[t] & by_user[u]) for u, t in truth.itertuples(index=False)])
        found = segments(split, part, "artist")
        sizes = {name.split(":")[0]: len(pairs.track) for name, pairs in found.items()}
        expected = {"known artist": known.sum(), "new artist": (has & ~known).sum(), "exploit": (has & played).sum(),
                    "discovery": (has & ~played).sum()}
        assert sizes == {name: n for name, n in expected.items() if n}
    assert segments(split, "cold_test", "item-popularity").keys() == {"cold"}
    popular = segments(split, "test", "item-popularity")
    plays = train["track_id"].value_counts()
    assert plays[popular["head"].track].min() > plays[popular["tail"].track].max()


def test_cuts_that_say_nothing_are_one_sentence(world, tmp_path):
    workdir = tmp_path / "w"
    shutil.copytree(world, workdir)
    with pytest.raises(UsageError, match="Coverage@10 is none of a segment"):
        table.main(["--workdir", str(workdir), "--metrics", "Coverage@10", "--by", "artist"])
    own = [f"a{t}" for t in range(80)]
    write_parquet(workdir / "items.pqt", pd.DataFrame({"track_id": np.arange(80), "artist": own}))
    with pytest.raises(UsageError, match="every track has an artist of its own"):
        table.main(["--workdir", str(workdir), "--k", "10", "--by", "artist"])
    write_parquet(workdir / "items.pqt", pd.DataFrame({"track_id": np.arange(80), "artist": [None, " "] * 40}))
    with pytest.raises(UsageError, match="this workspace has none"):
        table.main(["--workdir", str(workdir), "--k", "10", "--by", "artist"])


def test_lists_that_are_gone_are_one_sentence_with_the_remedy(world, tmp_path):
    shutil.copytree(world, tmp_path / "w")
    shutil.rmtree(tmp_path / "w" / "preds")
    with pytest.raises(WorkError, match="_test.pqt is gone, and --by reads the lists; the command of that run makes"):
        table.main(["--workdir", str(tmp_path / "w"), "--metrics", "NDCG@10", "--by", "artist"])


def test_users_are_cut_by_how_famous_what_they_play_is(world):
    split = dataset.load(world)
    train = split.truth("train")
    fame = np.log(train.groupby("track_id")["user_id"].nunique())
    taste = train.assign(fame=train.track_id.map(fame)).groupby("user_id")["fame"].mean()
    cut_up = segments(split, "test", "user-mainstream")
    means = [taste[truth.users].mean() for truth in cut_up.values()]
    assert list(cut_up) == ["niche", "medium", "mainstream"] and means == sorted(means)
    users = np.concatenate([truth.users for truth in cut_up.values()])
    assert sorted(users) == sorted(split.truth("test").user_id.unique())
    assert taste[cut_up["niche"].users].max() <= taste[cut_up["medium"].users].min()


def test_ages_fall_into_decades_and_countries_into_the_most_frequent(world, monkeypatch):
    split = dataset.load(world)
    users = split.users
    age = np.resize([19, 20, 39, 40, 0, 101, 25], len(users)).astype(object)
    age[6] = None
    country = np.resize(["a", "a", "b", "c", "d", "e", "f", "g"], len(users)).astype(object)
    country[3] = None
    monkeypatch.setattr("evaluation.segments.COUNTRIES", 2)
    write_parquet(world / "users.pqt", pd.DataFrame({"user_id": users, "age": age, "country": country}))
    by_age = {name: {*truth.users} for name, truth in segments(split, "test", "user-age").items()}
    known = pd.Series(age, index=users)
    own = set(split.truth("test").user_id)
    assert by_age["under 20"] == own & {*known[known == 19].index}
    assert by_age["20 to 29"] == own & {*known[known.isin([20, 25])].index}
    assert by_age["40 and over"] == own & {*known[known == 40].index}
    assert not set().union(*by_age.values()) & {*known[known.isin([0, 101]) | known.isna()].index}
    by_country = segments(split, "test", "user-country")
    assert len(by_country) == 3 and "a" in by_country and "other countries" in by_country
    assert users[3] not in np.concatenate([truth.users for truth in by_country.values()])
    taken = np.where(np.arange(len(users)) % 2, "other countries", country.astype(str))   # the name of the last segment
    write_parquet(world / "users.pqt", pd.DataFrame({"user_id": users, "age": age, "country": taken}))
    everybody = np.concatenate([truth.users for truth in segments(split, "test", "user-country").values()])
    assert own == {*everybody}


@pytest.mark.parametrize("column", ["age", "country"])
def test_users_without_such_a_value_are_refused(world, column):
    split = dataset.load(world)
    write_parquet(world / "users.pqt", pd.DataFrame({"user_id": split.users, column: [None] * len(split.users)}))
    with pytest.raises(UsageError, match=f"no user of this part has a value of {column}"):
        segments(split, "test", f"user-{column}")
    write_parquet(world / "users.pqt", pd.DataFrame({"user_id": split.users, "other": 1}))
    with pytest.raises(UsageError, match=f"needs {column} in users.pqt"):
        segments(split, "test", f"user-{column}")


def test_the_worth_of_each_segment_and_the_test_over_them_stand_below_the_tables(world, capsys):
    from evaluation.interaction import interaction
    table.main(["--workdir", str(world), "--metrics", "NDCG@10", "--by", "user-mainstream", "--parts", "test"])
    printed = capsys.readouterr().out
    assert "What content is worth by user mainstream" in printed and "worth_test_by_user_mainstream.csv" in printed
    shown = pd.read_csv(world / "tables" / "worth_test_by_user_mainstream.csv")
    split, found = dataset.load(world), dict(runs.find_runs(world))
    own = [n for n, c in found.items() if c["recommender"] == "knn" and not runs.is_shuffled(c["request"])]
    others = [n for n, c in found.items() if c["recommender"] == "knn" and runs.is_shuffled(c["request"])]
    users, differences = [], []
    for truth in segments(split, "test", "user-mainstream").values():
        pairs = pd.DataFrame({"user_id": truth.users[truth.user], "track_id": truth.track})
        lists = (pd.read_parquet(world / "preds" / f"{name}_test.pqt") for name in own + others)
        value, *controls = (metrics.evaluate(one, pairs, (10,))["NDCG@10"] for one in lists)
        users.append(truth.users)
        differences.append(np.stack([value - control for control in controls]))
    expected = interaction(users, differences)
    assert len(others) == 2 and shown["p"].isna().all()      # two permutations do not say how far orders are apart
    assert shown["wald_f"].iloc[0] == pytest.approx(expected.statistic, nan_ok=True)
    np.testing.assert_allclose(shown["worth"], expected.means, atol=1e-9)
    assert list(shown["segment"]) == ["niche", "medium", "mainstream"]


def test_artists_make_two_families_of_segments(world, capsys):
    table.main(["--workdir", str(world), "--metrics", "NDCG@10", "--by", "artist", "--parts", "cold_test"])
    shown = pd.read_csv(world / "tables" / "worth_cold_test_by_artist.csv")
    assert set(shown.groupby("p").segment.agg(len)) <= {2} or shown["p"].isna().any()


def test_a_segment_of_one_user_has_no_interval_and_is_not_tested_against_a_run(world, tmp_path, capsys):
    workdir = tmp_path / "w"
    shutil.copytree(world, workdir)
    split = dataset.load(workdir)
    age = np.where(split.users == split.truth("test")["user_id"].min(), 55, 25)
    write_parquet(workdir / "users.pqt", pd.DataFrame({"user_id": split.users, "age": age}))
    table.main(["--workdir", str(workdir), "--metrics", "NDCG@10", "--by", "user-age", "--parts", "test",
                "--against", "popularity"])
    printed = capsys.readouterr().out
    assert "40 and over" in printed and "nan" not in printed
    shown = pd.read_csv(workdir / "tables" / "results_test_by_user_age.csv")
    own = shown[~shown.shuffled & (shown.recommender == "knn")].set_index("segment")
    assert np.isnan(own.loc["40 and over", "against_p_t"]) and own.loc["20 to 29", "against_p_t"] < .05


def test_held_out_tracks_without_an_artist_are_one_sentence(world, tmp_path):
    workdir = tmp_path / "w"
    shutil.copytree(world, workdir)
    held_out = set(dataset.load(workdir).truth("test")["track_id"])
    write_parquet(workdir / "items.pqt", pd.DataFrame({
        "track_id": np.arange(80), "artists": [None if t in held_out else [f"artist {t // 3}"] for t in range(80)]}))
    with pytest.raises(UsageError, match="no held-out track of test has an artist in items.pqt"):
        table.main(["--workdir", str(workdir), "--k", "10", "--by", "artist", "--parts", "test"])


def test_cuts_by_user_need_no_lists_and_are_those_of_the_lists(world, monkeypatch):
    """Values of the metrics' files; computed from the lists they are the same."""
    argv = ["--workdir", str(world), "--metrics", "NDCG@10", "Recall@10", "--by", "user-activity", "--parts", "test"]
    path = world / "tables" / "results_test_by_user_activity.csv"
    with monkeypatch.context() as patch:
        patch.setattr(table, "SegmentValues", lambda *args: SegmentValues(*args[:4]))
        table.main(argv)
    of_lists = pd.read_csv(path)
    for lists in (world / "preds").glob("*_test.pqt"):
        lists.unlink()
    table.main(argv)
    pd.testing.assert_frame_equal(pd.read_csv(path), of_lists, rtol=1e-12)


def test_the_worth_by_segment_goes_with_its_controls(world, tmp_path):
    workdir = shutil.copytree(world, tmp_path / "w")
    argv = ["--workdir", str(workdir), "--metrics", "NDCG@10", "--by", "user-mainstream", "--parts", "test"]
    table.main(argv)
    path = workdir / "tables" / "worth_test_by_user_mainstream.csv"
    assert path.exists()
    for name, config in runs.find_runs(workdir):
        if runs.is_shuffled(config["request"]):
            shutil.rmtree(workdir / "runs" / name)
    table.main(argv)
    assert not path.exists()
