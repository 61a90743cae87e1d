"""The friends graph: how many friends, how connected, and whether friends listen to the same."""
import numpy as np

from exploration import drawing
from exploration.words import count, share

TITLE = "Friends"
PAIRS = 20_000
EDGES = np.array([0, 1e-9, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 1])    # the first bin is of those who share nothing
BINS = ("none", "<1", "1–2", "2–4", "4–8", "8–16", "16–32", ">32")
WEDGES = 200_000_000   # paths of two edges up to which triangles are counted


def measure(work):
    if work.users is None or "friends" not in work.users.column_names:
        return "no friends graph: " + ("there is no users.pqt" if work.users is None else "users.pqt names no friends")
    graph = adjacency(work.users, work.by_user[0])
    if graph is None:
        return "no friends graph: friends of users.pqt are no lists of whole numbers, as user ids are"
    if not graph.nnz:
        return "no friends graph: no user of the plays has a friend among them"
    from scipy.sparse.csgraph import connected_components
    degree = np.asarray(graph.sum(axis=1)).ravel().astype(np.int64)
    part = np.bincount(connected_components(graph, directed=False)[1])
    wedges = int((degree * (degree - 1)).sum())
    triangles = int((graph @ graph).multiply(graph).sum()) if wedges <= WEDGES else None   # each counted six times
    at = np.unique(degree[degree > 0])
    return {"users": len(degree), "friendships": graph.nnz // 2, "alone": (degree == 0).mean(),
            "friends_median": np.median(degree), "friends_mean": degree.mean(), "friends_max": degree.max(),
            "groups": int((part > 1).sum()), "largest_group": part.max() / len(degree),
            "transitivity": triangles / wedges if wedges and triangles is not None else None,
            "degree": at, "at_least": (degree[None] >= at[:, None]).mean(axis=1), **likeness(graph, work)}


def adjacency(users, ids):
    """Friendships between users of the plays, symmetric csr (U, U) of ones without a diagonal.

    None where the column friends holds anything but user ids.
    """
    from scipy.sparse import csr_matrix

    from exploration.labels import flat
    row, friend = flat(users["friends"])
    try:
        friend = None if friend is None else friend.astype(np.int64)
    except (ValueError, OverflowError):
        friend = None
    if friend is None:
        return None
    one, other = users["user_id"].to_numpy()[row], friend
    code = [np.minimum(np.searchsorted(ids, side), len(ids) - 1) for side in (one, other)]
    known = (ids[code[0]] == one) & (ids[code[1]] == other) & (one != other)
    graph = csr_matrix((np.ones(known.sum(), np.float32), (code[0][known], code[1][known])), shape=(len(ids), len(ids)))
    graph = graph + graph.T
    graph.data[:] = 1
    return graph


def likeness(graph, work):
    """Jaccard index of the tracks of friends and of users drawn at random who are no friends, up to PAIRS of each."""
    from scipy.sparse import triu
    rng, upper = np.random.default_rng(work.seed), triu(graph, 1).tocoo()
    friends = np.stack([upper.row, upper.col])[:, rng.permutation(upper.nnz)[:PAIRS]]
    strangers = rng.integers(graph.shape[0], size=(2, PAIRS))
    known = np.asarray(graph[strangers[0], strangers[1]]).ravel() > 0
    strangers = strangers[:, ~known & (strangers[0] != strangers[1])]
    found = {"edges": EDGES}
    for word, (one, other) in (("friends", friends), ("strangers", strangers)):
        value = jaccard(work.matrix, one, other)
        found |= {f"{word}_alike": value.mean() if len(value) else None,
                  f"{word}_histogram": np.histogram(value, EDGES)[0] / max(1, len(value))}
    return found


def jaccard(matrix, one, other):
    """|A and B| / |A or B| of the rows of a csr matrix of ones, float64 (m,); 0 where both are empty."""
    size = np.diff(matrix.indptr).astype(np.float64)
    both = np.asarray(matrix[one].multiply(matrix[other]).sum(axis=1)).ravel()
    return both / np.maximum(size[one] + size[other] - both, 1)


def draw(numbers):
    figure, (left, right) = drawing.sheet(1, 2, height=3.3)
    left.loglog(numbers["degree"], numbers["at_least"], color=drawing.FIRST, drawstyle="steps-pre")
    left.set(xlabel="friends", ylabel="share of users with at least so many", title="How many friends")
    drawing.log_counts(left.xaxis)
    drawing.shares(left.yaxis)
    place = np.arange(len(BINS))
    for word, color, shift in (("strangers", drawing.QUIET, -0.21), ("friends", drawing.FIRST, 0.21)):
        mean = numbers[f"{word}_alike"]
        right.bar(place + shift, numbers[f"{word}_histogram"], width=0.4, color=color, alpha=0.85,
                  label=word if mean is None else f"{word}, {share(mean)} on average")
    right.set_xticks(place, BINS)
    right.grid(axis="x", visible=False)
    right.legend(loc="upper right")
    right.set(xlabel="tracks in common, % of all that the two played", ylabel="share of the pairs",
              title="Do friends listen to the same?")
    drawing.shares(right.yaxis)
    return {"friends": figure}


def tell(numbers):
    n = numbers
    text = (f"{count(n['friendships'])} friendships of {count(n['users'])} users: {count(n['friends_median'])} friends "
            f"in the median, {count(n['friends_max'])} at most, {share(n['alone'])} of the users without any. The "
            + (f"largest of {count(n['groups'])} groups" if n["groups"] > 1 else "only group")
            + f" that hang together has {share(n['largest_group'])} of the users.")
    if n["transitivity"] is not None:
        text += f" Two friends of one user are friends themselves in {share(n['transitivity'])} of the cases."
    if n["strangers_alike"]:
        text += (f" Friends have {share(n['friends_alike'])} of their tracks in common, "
                 f"{n['friends_alike'] / n['strangers_alike']:.1f} times as much as two users drawn at random "
                 f"({share(n['strangers_alike'])}); nothing at all have {share(n['friends_histogram'][0])} and "
                 f"{share(n['strangers_histogram'][0])} of them.")
    return [text]
