"""A user's history beside the lists of runs, and what a run would recommend to somebody new."""
from __future__ import annotations

import numpy as np

import dataset
from evaluation.files import read_rows
from evaluation.lists import read_frame
from evaluation.results import changed_inputs
from harness import runs
from harness.errors import UsageError, WorkError
from harness.files import checksum
from harness.ids import normal
from harness.readers import reading

BY_CONTENT = ("knn", "content_knn")      # answered by the vectors of what was played
BY_FACTORS = ("elsa", "ials")            # answered by the factors of what was played


def user_ids(catalogue) -> dict[str, int]:
    """{id of the log: user_id} of userid_sorted.csv; {} without the file, where user_id is the id of the log."""
    path = catalogue.workdir / "userid_sorted.csv"
    if not path.exists():
        return {}
    import pandas as pd
    with reading(path, "the list of users", "run preprocess/0_get_plays_pqt.py again"):
        known = pd.read_csv(path, dtype=str, keep_default_na=False)
        return {normal(user): number for user, number in zip(known["userid"], known["idx"].astype(np.int64).tolist(),
                                                             strict=True)}


def user_of(catalogue, word: str) -> tuple[int, int | str]:
    """user_id and id of a user of train by the id of the log; UsageError for others, with ids that are near.

    Where the workspace has userid_sorted.csv, a user_id numbers its lines and is nobody's name; else it is the id.
    """
    ids, users, wanted = user_ids(catalogue), catalogue.split.users, normal(word)
    if not ids:
        if wanted.isdecimal() and len(wanted) < 19 and int(wanted) in users:
            return int(wanted), int(wanted)
        some = ", ".join(map(str, users[:3]))
        raise UsageError(f"no user {word!r} in train; users are {users[0]} to {users[-1]}, such as {some}")
    if wanted in ids and ids[wanted] in users:
        return ids[wanted], wanted
    if wanted in ids:
        raise UsageError(f"user {word!r} of the log has no plays in train")
    import difflib
    in_train = set(users.tolist())
    there = [user for user, number in ids.items() if number in in_train]
    near = difflib.get_close_matches(wanted, there, n=3)
    raise UsageError(f"no user has the id {word!r}; " + (f"near it: {', '.join(near)}" if near else
                                                         f"users of train are such as {', '.join(there[:3])}"))


def finished(catalogue, names=()) -> dict[str, dict]:
    """{run: its config} of the finished runs asked for, or of the best on val of each method.

    Controls (shuffled rows, the truth of a generated world) are shown only when they are asked for; runs of another
    split, or of an embedding that has been made anew since, never; WorkError where one is named.
    """
    manifests = runs.find_runs(catalogue.workdir)
    stale = changed_inputs(catalogue.workdir, manifests)
    every = {name: config for name, config in manifests if config.get("status") == "finished"}
    names = [_whole_name(name, every, {name for name, _ in manifests}) for name in names]
    if wrong := [name for name in names if name in stale and name in every]:
        raise WorkError(f"run {wrong[0]} was made from another {stale[wrong[0]][0]} than the workspace has now; run it "
                        "again")
    every = {name: config for name, config in every.items() if name not in stale}
    if names:
        if unknown := [name for name in names if name not in every]:
            import difflib
            near = difflib.get_close_matches(unknown[0], every, n=3)
            raise UsageError(f"there is no finished run {unknown[0]!r}" + (f"; near it: {', '.join(near)}" if near else
                             f" in {catalogue.workdir}"))
        return {name: every[name] for name in names}
    best: dict[str, tuple[float, str]] = {}
    for name, config in every.items():
        if not runs.is_shuffled(config.get("request", {})) and "oracle" not in str(config.get("embedding")).split("+"):
            method = config.get("recommender", "")
            best[method] = max(best.get(method, (-1.0, "")), (on_val(catalogue, name), name))
    return {name: every[name] for _, name in sorted(best.values(), reverse=True)}


def _whole_name(name: str, known, every) -> str:
    """The one name of the known that begins so, or the name itself where a run of `every` is called so or none begins
    so; UsageError where several do. A control is named in full."""
    beginning = [one for one in known if one.startswith(name) and not runs.is_shuffled(known[one].get("request", {}))]
    if name in every or not beginning:
        return name
    if len(beginning) > 1:
        some = ", ".join(sorted(beginning)[:3])
        raise UsageError(f"{name!r} begins the names of {len(beginning)} runs, such as {some}; name one of them")
    return beginning[0]


def on_val(catalogue, name: str) -> float:
    """NDCG of a run on val, of one that ranks cold items alone on cold_val, by its metrics; 0 where there are none."""
    paths = [catalogue.workdir / "metrics" / f"{name}_{part}.csv" for part in ("val", "cold_val")]
    path = next((path for path in paths if path.exists()), paths[0])
    means = read_rows(path, f"python metrics.py {name} makes it again")[0] if path.exists() else {}
    return next((means[c] for c in ("NDCG@10", *means) if c in means and c.startswith("NDCG@")), 0.0)


def lists(catalogue, user: int, names, n: int) -> dict[str, dict[str, list[tuple[int, bool]]]]:
    """{part: {run: [(track row, whether it is a hit)]}} of a user's n first places, and under "(played)" the truth.

    Parts in which the user has nothing are absent.
    """
    split, found, shown = catalogue.split, {}, finished(catalogue, names)
    code = int(np.searchsorted(split.users, user))
    for part in split.parts:
        true = set(split.tracks[split.part(part).item[split.part(part).user == code]].tolist())
        if not true:
            continue
        for name, config in shown.items():
            path = catalogue.workdir / "preds" / f"{name}_{part}.pqt"
            if part in config.get("parts", []) and path.exists():
                frame = read_frame(path, ("user_id", "track_id", "rank"))
                mine = frame[frame["user_id"] == user].sort_values("rank")["track_id"].head(n).tolist()
                found.setdefault(part, {})[name] = [(int(row), int(row) in true) for row in mine]
        found.setdefault(part, {})["(played)"] = [(int(row), True) for row in sorted(true)[:n]]
    return found


def history(catalogue, user: int, n: int) -> list[int]:
    """Rows of the user's tracks in train, the latest (else the most played) first."""
    split = catalogue.split
    rows = split.train.user == int(np.searchsorted(split.users, user))
    key = split.train.count if split.train.time is None else split.train.time
    order = np.argsort(-key[rows].astype(np.float64), kind="stable")
    return split.tracks[split.train.item[rows][order]][:n].tolist()


def order_of_history(catalogue) -> str:
    """What comes first in `history`: "latest", or where the plays have no times "most played"."""
    return "most played" if catalogue.split.train.time is None else "latest"


# --------------------------------------------------------------------------- somebody new

def newcomer(catalogue, played: list[int], name: str, n: int) -> list[tuple[int, float]]:
    """What a finished run recommends to somebody who played these rows: [(row, score)], n of them, without the played.

    By the run's own arguments, each track played once, and among the tracks of train as in its lists of val: KNN by the
    mean vector, content KNN by the neighbours of what was played, ELSA by the sum of the factors, iALS by one solve of
    its normal equations. UsageError for a run of another method, WorkError for tracks that the run does not know.
    """
    name, config = next(iter(finished(catalogue, [name]).items()))
    method = config.get("recommender", "")
    if method in BY_CONTENT and runs.is_shuffled(config.get("request", {})):
        raise UsageError(f"run {name} is a control, whose vectors are those of other tracks; name a run that is none")
    if method in BY_CONTENT:
        return by_content(catalogue, played, name, config, n)
    if method in BY_FACTORS:
        return by_factors(catalogue, played, name, config, n)
    if method == "two_tower":
        raise UsageError("runs of two_tower answer themselves: python -m recommenders.two_tower --embedding "
                         f"{' '.join(str(config.get('embedding')).split('+'))} --listener NAME ...")
    raise UsageError(f"a run of {method} cannot be asked for somebody new here; runs of {', '.join(BY_CONTENT)}, "
                     f"{' and '.join(BY_FACTORS)} can, and without --run each embedding answers")


def by_content(catalogue, played, name, config, n):
    split, request = catalogue.split, config["request"]
    if request.get("as_published"):
        raise UsageError(f"run {name} has the means of wrong rows as its users (--as-published), which nobody new has; "
                         "name a run without")
    for name_of in str(config["embedding"]).split("+"):
        file = dataset.embedding_path(catalogue.workdir, name_of)
        recorded = config.get("inputs", {}).get(f"embeddings/{file.name}")
        if recorded and file.exists() and checksum(file) != recorded:
            raise WorkError(f"run {name} was made from another embeddings/{file.name} than the workspace has now; run "
                            "it again")
    place = {int(row): code for code, row in enumerate(split.tracks)}
    if unknown := [row for row in played if row not in place]:
        raise WorkError(f"run {name} cannot answer: {catalogue.ids[unknown[0]]} is not a track of the split")
    codes = [place[row] for row in played]
    vectors = dataset.load_embedding(split, config["embedding"], request.get("missing", "fail"))
    present = dataset.has_embedding(split, config["embedding"])
    if config["recommender"] == "knn":
        score = _by_mean(vectors, present, codes, split.n_hot, request)
    else:
        score = _by_neighbours(vectors, present, codes, split, request)
    score[[code for code in codes if code < split.n_hot]] = -np.inf
    order = np.argsort(-score, kind="stable")[:n]
    return [(int(split.tracks[i]), float(score[i])) for i in order if np.isfinite(score[i])]


def _by_mean(vectors, present, codes, n_hot, request):
    """Cosine of each track of train, float64 (n_hot,), with the mean of the vectors (n_items, D) of what was played."""
    import knn
    vectors = knn.prepared(vectors, present, n_hot, request.get("center"), request.get("unit"))
    return np.float64(knn.unit(vectors[:n_hot]) @ knn.unit(vectors[codes].mean(axis=0, keepdims=True))[0])


def _by_neighbours(vectors, present, codes, split, request):
    """Content KNN's score of each track of train, float64 (n_hot,); -inf of what is no neighbour of any played."""
    from recommenders import content_knn
    unit, hot = content_knn.directions(vectors, request["scale"], split.n_hot, present), slice(0, split.n_hot)
    near = content_knn.neighbours(unit[codes], unit[hot], request["neighbours"], split.tracks[codes],
                                  split.tracks[hot], request["seed"])
    weight = np.log(2) if request.get("values") == "log" else 1.0      # a play each
    score = weight * np.asarray(near.sum(axis=0), np.float64).ravel()
    return np.where(score > 0, score, -np.inf)


def by_factors(catalogue, played, name, config, n):
    from harness.readers import read_npy
    split = catalogue.split
    items = np.asarray(read_npy(catalogue.workdir / "model_embeddings" / f"{name}_items.npy"), np.float64)
    place = {int(row): code for code, row in enumerate(split.tracks[:split.n_hot])}
    if len(items) != split.n_hot or (unknown := [row for row in played if row not in place]):
        what = "the workspace was split again since" if len(items) != split.n_hot else \
            f"{catalogue.ids[unknown[0]]} is not a track of train"
        raise WorkError(f"run {name} cannot answer: {what}")
    codes = [place[row] for row in played]
    if config["recommender"] == "ials":
        request = config["request"]
        weight = request["alpha"] * (np.log(2) if request.get("values") == "log" else 1.0)   # a play each
        known = items[codes]
        system = items.T @ items + weight * known.T @ known
        system += request["regularization"] * np.eye(items.shape[1])
        user = np.linalg.solve(system, (1 + weight) * known.sum(axis=0))
    else:
        user = items[codes].sum(axis=0)
    score = items @ user
    score[codes] = -np.inf
    order = np.argsort(-score, kind="stable")[:n]
    return [(int(split.tracks[i]), float(score[i])) for i in order if np.isfinite(score[i])]
