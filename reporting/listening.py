"""Users to listen to: their history beside the first places of several runs, hits marked."""
import numpy as np

from evaluation.lists import read_frame
from harness.errors import UsageError
from lookup import listeners

HISTORY = 15      # tracks of the history that are shown
PLACES = 10       # of each list


def chosen_runs(catalogue, board, names):
    """{run: config}: those asked for, else the best on val of each method of the leaderboards, without chance.

    UsageError for a run that is not there.
    """
    found = listeners.finished(catalogue, names) if names or board else {}
    return {name: config for name, config in found.items() if names or config.get("recommender") != "chance"}


def chosen_users(split, part, most, seed):
    """Codes of the users shown for a part, int64 ascending: drawn by a seed of its own among those who have pairs."""
    users = split.eval_users(part)
    if len(users) <= most:
        return users
    return np.sort(np.random.default_rng([seed, split.parts.index(part)]).choice(users, most, replace=False))


def users_of(catalogue, part, shown, codes, tracks):
    """[{'user', 'part', 'history': [track], 'truth': [track], 'lists': {run: [[track, hit]]}}] of user codes.

    tracks: the reporting.tracks.Tracks that numbers them; shown: {run: config}
    """
    split = catalogue.split
    pairs, lists = split.part(part), {}
    ids = split.users[codes]
    for name, config in shown.items():
        path = catalogue.workdir / "preds" / f"{name}_{part}.pqt"
        if part in config.get("parts", []) and path.exists():
            frame = read_frame(path, ("user_id", "track_id", "rank"))
            frame = frame[frame["user_id"].isin(ids) & (frame["rank"] < PLACES)].sort_values(["user_id", "rank"])
            lists[name] = {user: rows["track_id"].tolist() for user, rows in frame.groupby("user_id")}
    names, found = user_names(catalogue), []
    for code, user in zip(codes.tolist(), ids.tolist(), strict=True):
        true = split.tracks[pairs.item[pairs.user == code]]
        known = set(true.tolist())
        found.append({"user": names.get(user, str(user)), "part": part,
                      "history": [tracks.add(row) for row in listeners.history(catalogue, user, HISTORY)],
                      "truth": [tracks.add(row) for row in true[:PLACES]], "held_out": len(true),
                      "lists": {run: [[tracks.add(row), row in known] for row in by_user.get(user, [])]
                                for run, by_user in lists.items()}})
    return found


def user_names(catalogue):
    """{user_id: id of the log} where the workspace has userid_sorted.csv, else {}."""
    path = catalogue.workdir / "userid_sorted.csv"
    if not path.exists():
        return {}
    import pandas as pd

    from harness.readers import reading
    from reporting.tracks import short
    with reading(path, "a table", "run stage 0 again"):
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        if "userid" not in frame:
            raise UsageError(f"{path} must have the columns idx,userid")
        return {int(i): short(u) for i, u in zip(frame["idx"], frame["userid"], strict=True)}
