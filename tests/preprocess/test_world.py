"""The law of the built-in world at the size of `make demo`, without a sound: catalogue, log, what can be learned."""
import numpy as np
import pandas as pd
import pytest

from preprocess.demo import world


@pytest.fixture(scope="module")
def full():
    """The world of `make demo` as arrays: tracks, users, plays."""
    tracks = world.make_tracks(42, 1000)
    users = world.make_users(42, 1500, tracks)
    return tracks, users, world.listen(42, tracks, users)


@pytest.fixture(scope="module")
def pairs(full):
    """First plays since the start of train: frame user, track, time, plays; known tracks only."""
    tracks, _, plays = full
    frame = pd.DataFrame({"user": plays.user, "track": plays.track, "time": plays.time})
    frame = frame[(frame.track < len(tracks)) & (frame.time >= world.START)]
    return frame.groupby(["user", "track"]).agg(time=("time", "min"), plays=("time", "size")).reset_index()


def test_at_least_200_tracks_are_played_in_the_test_month_only(full, pairs):
    first = pairs.groupby("track").time.min()
    month = np.datetime64("2020-03-20", "s").astype(int)      # the hot/cold protocol ends one month after its date
    cold = first.index[(first >= world.TEST) & (first < month)]
    assert len(cold) >= 200
    assert full[0].cold[cold].all()


def test_listeners_have_a_history_worth_learning_from(pairs):
    train = pairs[pairs.time < world.TEST]
    assert 60 <= train.groupby("user").size().median() <= 120
    assert train.plays.mean() > 2                                # repeats
    assert train.user.nunique() == 1500
    in_test = pairs[pairs.time >= world.TEST]
    with_cold = in_test[~in_test.track.isin(train.track)].user.nunique()
    assert with_cold > 500 and in_test.user.nunique() - with_cold > 300   # val comes from those without cold pairs


def test_the_log_ends_and_begins_where_music4all_does(full):
    _, _, plays = full
    day = np.datetime64("1970-01-01") + plays.time.max() // world.DAY
    assert str(day) == "2020-03-20"
    before = (plays.time < world.START).mean()
    assert 0.005 < before < 0.05                                 # rows outside the window
    assert np.isin(plays.track, np.arange(1000, 1000 + world.N_UNKNOWN)).mean() == pytest.approx(
        world.UNKNOWN_SHARE, rel=0.1)


def test_rows_are_newest_first_within_a_user_and_no_track_is_played_before_its_release(full):
    tracks, users, plays = full
    assert (np.diff(plays.user) >= 0).all()
    assert (np.diff(plays.time)[np.diff(plays.user) == 0] <= 0).all()
    assert np.array_equal(np.unique(plays.user), users.ids)
    known = plays.track < len(tracks)
    assert (plays.time[known] >= tracks.release[plays.track[known]]).all()


def test_a_listener_does_not_depend_on_the_others(full):
    tracks, users, plays = full
    again = world.listen(42, tracks, users)
    assert np.array_equal(plays.track, again.track) and np.array_equal(plays.time, again.time)
    track, _ = world._listener(np.random.default_rng([42, 3, 7]), tracks, users, 7)
    assert sorted(track) == sorted(plays.track[plays.user == users.ids[7]])


def test_a_session_hangs_together_and_taste_is_in_the_latent_space(full, pairs):
    tracks, _, _ = full
    rng = np.random.default_rng(0)
    ordered = pairs[pairs.time < world.TEST].sort_values(["user", "time"])
    mixed = ordered.assign(order=rng.random(len(ordered))).sort_values(["user", "order"])

    def step(frame):
        same = frame.user.to_numpy()[1:] == frame.user.to_numpy()[:-1]
        z = tracks.latent[frame.track]
        return np.linalg.norm(z[1:] - z[:-1], axis=1)[same].mean()

    anything = np.linalg.norm(tracks.latent[rng.permutation(1000)] - tracks.latent, axis=1).mean()
    assert step(ordered) < 0.97 * step(mixed) < 0.97 * 0.95 * anything


def cold_recall(pairs, vectors, k=10):
    """Recall@k of cold tracks by the cosine of the mean of a listener's train tracks."""
    train, rest = pairs[pairs.time < world.TEST], pairs[pairs.time >= world.TEST]
    cold = np.setdiff1d(rest.track, train.track)
    rest = rest[rest.track.isin(cold)]
    profile = pd.DataFrame(vectors[train.track]).groupby(train.user.to_numpy()).mean().loc[np.unique(rest.user)]
    unit = vectors[cold] / np.linalg.norm(vectors[cold], axis=1, keepdims=True)
    best = cold[np.argsort(-(profile.to_numpy() @ unit.T), axis=1)[:, :k]]
    lists = pd.DataFrame({"user": np.repeat(profile.index.to_numpy(), k), "track": best.ravel()})
    hits = rest.merge(lists, on=["user", "track"]).groupby("user").size()
    return (hits.reindex(profile.index, fill_value=0) / rest.groupby("user").size()).mean()


def test_the_latent_space_finds_cold_tracks_and_a_shuffled_one_does_not(full, pairs):
    latent = full[0].latent
    shuffled = [cold_recall(pairs, latent[np.random.default_rng(s).permutation(1000)]) for s in range(10)]
    assert np.mean(shuffled) == pytest.approx(10 / 230, abs=0.015)        # chance
    assert cold_recall(pairs, latent) > 2 * max(shuffled)


def test_scenes_are_shared_by_listeners_and_cannot_be_heard(full):
    tracks, _, _ = full
    design = np.column_stack([np.ones(1000), tracks.latent])
    for taste in tracks.scene.T:
        left = taste - design @ np.linalg.lstsq(design, taste, rcond=None)[0]
        assert left.var() > 0.8 * taste.var()   # 125 artists and 7 axes: about a sixteenth is explained by chance
