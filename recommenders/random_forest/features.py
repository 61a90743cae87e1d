"""Features of candidates for recommenders.random_forest: of the user, the item and the pair, computed from train.

No feature depends on val or test, so the features of a candidate do not leak its label.
"""
import numpy as np

from ranking import candidates


def features_of(train, user, item, n_users, n_items):
    """Features of users, items and pairs computed from train: (names, float32 (N, F)).

    train: dataset.Interactions; user, item: int64 (N,) codes, users with at least one pair in train. The pairs
    (user, item) themselves should not be in train, as their features would then depend on the label. An item without
    a pair in train, as rules.json may keep them, has NaN for the means over its pairs: a missing value to the trees.
    Logarithms are log(1 + x): user_popularity is the mean log number of users of the user's tracks, mean_plays the mean
    log plays of a pair, item_listeners_tracks the mean log number of tracks of the item's users.
    """
    def per(code, values, n):
        return np.bincount(code, values, minlength=n)
    plays = train.count.astype(np.float64)
    tracks, listeners = per(train.user, None, n_users), per(train.item, None, n_items)
    played, heard = per(train.user, plays, n_users), per(train.item, plays, n_items)
    top = np.zeros(n_users)
    np.maximum.at(top, train.user, plays)
    with np.errstate(divide="ignore", invalid="ignore"):  # users without train pairs do not occur
        popular = per(train.user, np.log1p(listeners)[train.item], n_users) / tracks
        of_user = {"tracks": np.log1p(tracks), "plays": np.log1p(played), "top_share": top / played,
                   "mean_plays": per(train.user, np.log1p(plays), n_users) / tracks, "popularity": popular}
        of_item = {"listeners": np.log1p(listeners), "plays": np.log1p(heard),
                   "mean_plays": per(train.item, np.log1p(plays), n_items) / listeners,
                   "listeners_tracks": per(train.item, np.log1p(tracks)[train.user], n_items) / listeners}
    columns = {f"user_{name}": values[user] for name, values in of_user.items()}
    columns |= {f"item_{name}": values[item] for name, values in of_item.items()}
    columns["pair_popularity_gap"] = columns["item_listeners"] - columns["user_popularity"]
    return list(columns), np.stack(list(columns.values()), axis=1).astype(np.float32)


def pool_features(pool, words):
    """`features_of` of a pool's candidates, the number of lists with the pair, and its score (0..1) and rank in each.

    The column `place` is log2(1 + rank), ranks starting at 1; a pair that is not in a list has the rank after the
    longest one.
    """
    split = pool.split
    names, plain = features_of(split.train, pool.user, pool.item, split.n_users, split.n_hot)
    inside = pool.place >= 0
    place = np.log2(np.where(inside, pool.place, pool.place.max(axis=0, initial=-1) + 1) + 2)
    names = [*names, "pair_lists", *(f"{w}_score" for w in words), *(f"{w}_place" for w in words)]
    return names, np.hstack([plain, inside.sum(axis=1, keepdims=True), candidates.normalised(pool), place],
                            dtype=np.float32, casting="unsafe")
