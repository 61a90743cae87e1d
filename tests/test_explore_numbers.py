"""Numbers of explore.py's sections: by hand, against scipy and networkx."""
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from exploration import features, friends, labels, representations, sections, tails, tracking
from exploration.words import plain, share
from harness.files import write_parquet
from preprocess.lastfm.features import SPOTIFY
from tests.worlds.explored import DAY, MONDAY, measure, named_embedding, world, write_plays
from tests.worlds.world import tiny_workspace, write_embedding

# --------------------------------------------------------------------------- numbers by hand

def test_sizes_by_hand(tmp_path):
    n = measure(world(tmp_path / "w"), "sizes")
    assert {k: n[k] for k in ("users", "tracks", "tracks_played", "pairs", "plays")} == {
        "users": 3, "tracks": 5, "tracks_played": 4, "pairs": 6, "plays": 3 + 1 + 3 + 3}
    assert n["density"] == 6 / (3 * 4) and n["plays_of_a_pair"]["max"] == 3 and n["split"] == {}
    assert n["tracks_of_a_user"] == {"min": 1, "median": 2, "mean": 2, "max": 3}


def test_a_tail_by_hand():
    """6, 2, 1, 1 of 10: the first quarter has .6, half of all is the first one's; Gini (1-2+3-... by definition)."""
    n = tails.tail(np.array([1, 0, 6, 1, 2]))
    assert (n["n"], n["half"], n["once"]) == (4, 1, 2 / 4)
    pairs = [abs(a - b) for a in (6, 2, 1, 1) for b in (6, 2, 1, 1)]
    assert n["gini"] == pytest.approx(sum(pairs) / (2 * 4 * 10))
    assert n["of_the_top"]["0.2"] == pytest.approx(0.2 * 4 * 6 / 10) and n["value"][0] == 6 and n["rank"][-1] == 4


@pytest.mark.numeric
@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=60).filter(any))
def test_a_tail_is_a_concentration_curve(values):
    n = tails.tail(np.array(values))
    held, top = np.array(n["held"]), np.array(n["top"])
    assert held[0] == 0 and held[-1] == pytest.approx(1) and (np.diff(held) >= -1e-12).all()
    assert (held >= top - 1e-12).all() and (np.diff(n["value"]) <= 0).all() and 0 <= n["gini"] < 1


def test_sessions_by_hand(tmp_path):
    """User 10 has sessions of three plays and of one, user 20 of one and of two in one second, user 30 of one."""
    n = measure(world(tmp_path / "w"), "sessions")
    assert (n["sessions"], n["users"], n["plays_max"], n["single"]) == (5, 3, 3, pytest.approx(3 / 5))
    assert n["sessions_per_user"] == pytest.approx(5 / 3, abs=1e-5) and n["minutes_median"] == 0
    assert n["length_edges"] == [0, 1, 2, 4] and n["lengths"] == [pytest.approx(3 / 5), 1 / 5, 1 / 5]
    gaps = dict(zip(n["gap_edges_seconds"], n["gaps"], strict=False))    # 0 s, 4 min, 5 min, 61 min, 20 days
    assert {edge: gap for edge, gap in gaps.items() if gap} == {1: 1 / 5, 177.828: 2 / 5, 3162.28: 1 / 5, 1e6: 1 / 5}
    assert measure(world(tmp_path / "w"), "sessions", gap=61)["sessions"] == 5
    assert measure(world(tmp_path / "w"), "sessions", gap=62)["sessions"] == 4


def test_plays_of_one_second_never_end_a_session(tmp_path):
    workdir = world(tmp_path / "w")
    write_plays(workdir, [(10, t % 4, MONDAY + (t // 50) * DAY, 1) for t in range(200)])
    n = measure(workdir, "sessions")
    assert n["sessions"] == 4 and n["plays_max"] == 50 and n["plays_median"] == 50


def test_of_a_large_log_a_drawn_part_is_looked_at(tmp_path, monkeypatch):
    workdir = tiny_workspace(tmp_path / "w")
    frame = pq.read_table(workdir / "data/train.pqt").to_pandas()
    write_parquet(workdir / "plays.pqt", frame)
    whole = measure(workdir, "sessions")
    monkeypatch.setattr(sections()["sessions"], "PLAYS", len(frame) // 3)
    part = measure(workdir, "sessions")
    assert part["users"] in (15, 20) and part["of_users"] == 60 == whole["users"] and "of 60 users" in \
        sections()["sessions"].describe(part)[0]


def test_activity_by_hand(tmp_path):
    n = measure(world(tmp_path / "w"), "activity")
    assert (n["bucket"], n["days"], len(n["start"])) == ("day", 21, 21)
    assert n["users"] == [2, 0, 0, 0, 0, 0, 1, *[0] * 13, 1] and n["start"][0] == MONDAY
    assert n["plays_per_day"] == [5, 0, 0, 0, 0, 0, 3, *[0] * 13, 2]
    assert n["new_tracks_per_day"][:7] == [3, 0, 0, 0, 0, 0, 1]
    week = np.array(n["week"])             # the twentieth day is a Sunday, too
    assert (week[0, 0], week[0, 1], week[6, 0], week[6, 5]) == (0.4, 0.1, 0.2, 0.3) and week.sum() == 1
    assert n["weekend"] == 0.5


def test_long_activity_goes_by_week_and_its_ends_do_not_droop(tmp_path):
    """One play an hour for 200 days: 24 a day in every week, the first and the last of which are cut."""
    workdir = world(tmp_path / "w")
    write_plays(workdir, [(10, h % 5, MONDAY + 3 * DAY + h * 3600, 1) for h in range(200 * 24)])
    n = measure(workdir, "activity")
    assert n["bucket"] == "week" and max(n["plays_per_day"]) < 24.5 and min(n["plays_per_day"]) > 23.5


def test_labels_by_hand(tmp_path):
    n = measure(world(tmp_path / "w"), "labels")["tags"]
    assert (n["labels"], n["tracks_with"], n["once"]) == (2, 2 / 4, 1 / 2)          # x is on a track nobody played
    assert n["top"] == [{"label": "rock", "tracks": 2 / 4, "plays": 6 / 10}, {"label": "a|b", "tracks": 1 / 4,
                                                                             "plays": 3 / 10}]
    assert n["per_track"] == 3 / 2


@pytest.mark.parametrize("column", [
    pa.array([["a", "b"], None, [], ["b", None, ""]]),
    pa.array([["a", "b"], None, [], ["b"]], pa.large_list(pa.string())),
    pa.chunked_array([[["a", "b"], None], [[], ["b"]]])])
def test_lists_of_every_kind(column):
    row, text = labels.flat(pa.chunked_array([column]) if isinstance(column, pa.Array) else column)
    assert row.tolist() == [0, 0, 3] and text.tolist() == ["a", "b", "b"]


@pytest.mark.parametrize("column", [pa.array(["x", None, "", "y"]), pa.array(["x", None, "", "y"]).dictionary_encode()])
def test_single_labels(column):
    row, text = labels.flat(pa.chunked_array([column]))
    assert row.tolist() == [0, 3] and text.tolist() == ["x", "y"]


@pytest.mark.numeric
def test_features_are_in_their_units_and_correlate_as_scipy_says(tmp_path):
    workdir = tiny_workspace(tmp_path / "w")
    rng = np.random.default_rng(0)
    values = rng.normal(size=(80, 4)) * [0.2, 0.1, 3, 4] + [0.5, 0.6, 5, -8]
    values[:, 1] += values[:, 0]
    values[7] = np.nan
    named_embedding(workdir, values)
    n = measure(workdir, "features")
    played = np.zeros(80, bool)
    for part in (workdir / "data").glob("*.pqt"):
        played[pq.read_table(part)["track_id"].to_numpy()] = True
    known = values[played & np.isfinite(values[:, 0])]
    loudness = n["features"]["loudness"]
    assert (loudness["unit"], loudness["tracks"]) == ("dB", len(known))
    assert loudness["mean"] == pytest.approx(known[:, 3].mean(), rel=1e-5) and sum(loudness["counts"]) <= len(known)
    assert loudness["q50"] == pytest.approx(np.median(known[:, 3]), rel=1e-5)
    c, expected = n["correlation"], stats.spearmanr(known).statistic
    for i, one in enumerate(c["names"][:-1]):
        for j, other in enumerate(c["names"][:-1]):
            assert c["rho"][i][j] == pytest.approx(expected[SPOTIFY.index(one), SPOTIFY.index(other)], abs=1e-5)
    place = c["names"].index
    assert place(features.LISTENERS) == 4 and abs(place("danceability") - place("energy")) == 1


def test_numbers_and_dates_of_items_are_features_and_ids_are_not():
    found = features.numeric_columns(pa.table({
        "track_id": [0, 1], "artist_id": [7, 8], "plays": [1, 2], "song_length": [60.0, None], "year": [2001, None],
        "released": pa.array([0, None], pa.date32()), "name": ["a", "b"], "kept": [True, False]}))
    assert {k: v.tolist()[0] for k, v in found.items()} == {"song_length": 60, "year": 2001, "released": 1970}
    assert all(np.isnan(v[1]) for v in found.values())


@pytest.mark.parametrize("values", [[0, 1, 1, 0], [2000.0, 2001, 2001, 2005], [0.1, 0.1, 0.1, 0.9], [1e-9, 2e-9, 3e-9]])
def test_a_histogram_holds_all_but_the_outer_percent(values):
    n = features.feature("x", np.array(values * 100, float))
    assert np.sum(n["counts"]) >= 0.98 * len(values) * 100 and (np.diff(n["edges"]) > 0).all()


@pytest.mark.numeric
def test_geometry_of_known_shapes():
    rng = np.random.default_rng(0)
    isotropic = representations.geometry(rng.normal(size=(3000, 8)))
    assert isotropic["effective"] == pytest.approx(8, abs=0.2) and isotropic["ninety"] == 8
    assert abs(isotropic["cosine_mean"]) < 0.02 and sum(isotropic["cosine"]) == pytest.approx(1)
    plane = representations.geometry(rng.normal(size=(500, 2)) @ rng.normal(size=(2, 30)))
    assert plane["effective"] <= 2 + 1e-9 and plane["ninety"] <= 2 and plane["variance"][1] == pytest.approx(1)
    crowded = representations.geometry(rng.normal(size=(500, 8)) * 0.1 + 5)
    assert crowded["cosine_mean"] > 0.99
    wide = representations.geometry(rng.normal(size=(5, 40)))
    assert wide["ninety"] <= 4
    flat = representations.geometry(np.full((10, 4), 0.3))
    assert (flat["effective"], flat["ninety"]) == (0, 0) and flat["cosine_mean"] == pytest.approx(1)


def test_overlap_by_hand(tmp_path):
    workdir, other = world(tmp_path / "w"), world(tmp_path / "v")
    write_embedding(workdir, "half", np.array([[1], [np.nan], [1], [np.nan], [1]], np.float32))
    write_parquet(other / "items.pqt", pa.table({"track_id": [0, 1], "artist": ["beyonce", "the a"]}))
    n = measure(workdir, "overlap", others=[("other", other)])
    assert n["representations"]["half"] == {"tracks": 3, "of_tracks": 2 / 4, "of_pairs": 3 / 6, "of_plays": 4 / 10}
    assert n["both"] == {"content and half": 2}
    shared = n["workspaces"]["other"]
    assert (shared["artists_here"], shared["artists_there"]) == (4, 2)
    assert (shared["artists_exact"], shared["artists_loose"]) == (1, 2)      # The A; and Beyoncé without the accent
    assert (shared["of_tracks_exact"], shared["of_plays_exact"]) == (2 / 4, 4 / 10)
    assert (shared["of_tracks_loose"], shared["of_plays_loose"]) == (3 / 4, 7 / 10)


def test_friends_by_hand(tmp_path):
    n = measure(world(tmp_path / "w"), "friends")
    assert (n["users"], n["friendships"], n["alone"], n["friends_max"]) == (3, 1, pytest.approx(1 / 3, abs=1e-5), 1)
    assert (n["groups"], n["largest_group"], n["transitivity"]) == (1, pytest.approx(2 / 3, abs=1e-5), None)
    assert n["friends_alike"] == pytest.approx(2 / 3, abs=1e-5)      # {0, 1, 2} and {0, 1}
    assert n["strangers_alike"] == 0


def test_friends_are_networkx(tmp_path):
    nx = pytest.importorskip("networkx", reason="networkx is not installed")
    graph = nx.gnm_random_graph(60, 150, seed=4)
    workdir = tiny_workspace(tmp_path / "w")
    ids = np.arange(60) * 10 + 3
    write_parquet(workdir / "users.pqt", pa.table({
        "user_id": ids, "friends": [[int(ids[j]) for j in graph[i] if j > i] for i in range(60)]}))   # one direction
    n = measure(workdir, "friends")
    assert n["transitivity"] == pytest.approx(nx.transitivity(graph), rel=1e-4)
    groups = [len(c) for c in nx.connected_components(graph)]
    assert n["largest_group"] == pytest.approx(max(groups) / 60, rel=1e-4) and n["groups"] == sum(g > 1 for g in groups)
    assert n["friendships"] == 150 and n["friends_max"] == max(dict(graph.degree).values())


def test_jaccard_of_sets():
    from scipy.sparse import csr_matrix
    rows = csr_matrix(np.array([[1, 1, 0], [1, 0, 1], [0, 0, 0]], np.float32))
    assert friends.jaccard(rows, np.array([0, 0, 2]), np.array([1, 0, 2])).tolist() == [1 / 3, 1, 0]


def test_flat_numbers():
    assert tracking.flat({"a": {"b": 1, "c": "text", "d": None}, "e": [1, 2.5], "f": [{"label": "x", "n": 3}, {"n": 4}],
                          "g": [[1, 2], [3]], "h": [1, None], "i": []}) == {
        "a/b": [1], "e": [1, 2.5], "f/x/n": [3], "f/1/n": [4], "g/0": [1, 2], "g/1": [3]}


def test_plain_numbers_and_shares():
    assert plain({"a": np.int64(3), "b": np.float32(0.1), "c": [np.nan, np.inf, True], "d": np.arange(2), 1: None}) == {
        "a": 3, "b": 0.1, "c": [None, None, True], "d": [0, 1], "1": None}
    assert [share(v) for v in (0, 0.00012, 0.034, 0.5, 0.9994, 0.99974, 0.999997, 1, None)] == [
        "0 %", "0.012 %", "3.4 %", "50 %", "99.9 %", "99.97 %", "99.9997 %", "100 %", "-"]
