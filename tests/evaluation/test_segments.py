"""Users by activity, tracks by popularity, and the truth of a segment."""
import numpy as np

import dataset
from evaluation.lists import read_truth
from evaluation.segments import by_activity, by_popularity, truth_of
from tests.worlds.world import write_pairs, write_tracks


def split_of(tmp_path, pairs):
    write_tracks(tmp_path, 12)
    users, tracks = zip(*pairs, strict=True)
    write_pairs(tmp_path, "train", users, tracks)
    return dataset.load(tmp_path)


def test_users_fall_into_thirds_and_equals_stay_together(tmp_path):
    split = split_of(tmp_path, [(u, t) for u in range(6) for t in range(2 * u + 1)])     # 1, 3, 5, 7, 9, 11 tracks
    assert by_activity(split, split.users).tolist() == [0, 0, 1, 1, 2, 2]
    assert by_activity(split, split.users[[1, 3, 5]]).tolist() == [0, 1, 2]              # thirds of those asked for
    assert by_activity(split, split.users[:0]).shape == (0,)
    even = split_of(tmp_path, [(u, 0) for u in range(5)])
    assert len(set(by_activity(even, even.users).tolist())) == 1


def test_tracks_of_a_segment_hold_about_a_third_of_the_plays(tmp_path):
    # track 0 has 9 listeners, 1 to 3 have 3 each, 4 to 12 have one: three times nine plays
    pairs = [(u, 0) for u in range(9)] + [(u, t) for t in (1, 2, 3) for u in range(3)]
    pairs += [(u, 4 + u) for u in range(8)]
    split = split_of(tmp_path, sorted(set(pairs)))
    segments = by_popularity(split)
    assert segments.tolist() == [0, 1, 1, 1, *[2] * 8]
    flat = split_of(tmp_path, [(u, t) for u in range(3) for t in range(4)])
    assert by_popularity(flat).tolist() == [1] * 4              # equally popular tracks are not taken apart: the middle
    # 5 plays, 4 tracks of 2, 5 of one: the second level begins in the first third of 18, its middle is in the second
    levels = split_of(tmp_path, [(u, 0) for u in range(5)] + [(u, t) for t in (1, 2, 3, 4) for u in range(2)]
                      + [(u, 5 + u) for u in range(5)])
    assert by_popularity(levels).tolist() == [0, 1, 1, 1, 1, *[2] * 5]


def test_the_truth_of_a_segment_has_only_the_users_who_have_a_pair():
    import pandas as pd
    truth = read_truth(pd.DataFrame({"user_id": [3, 3, 5, 9], "track_id": [1, 2, 2, 4]}))
    part = truth_of(truth, np.isin(truth.track, [1, 4]))
    assert part.users.tolist() == [3, 9] and part.user.tolist() == [0, 1] and part.track.tolist() == [1, 4]
    assert len(truth_of(truth, np.zeros(4, bool)).users) == 0
