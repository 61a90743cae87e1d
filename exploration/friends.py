"""The friends graph: degrees, connected components, and whether friends play the same tracks."""
import numpy as np

from exploration import drawing
from exploration.words import count, share

TITLE = "Friends"
PAIRS = 20_000
EDGES = np.array([0, 1e-9, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 1])    # the first bin is of pairs that share no track
BINS = ("none", "<1", "1–2", "2–4", "4–8", "8–16", "16–32", ">32")
WEDGES = 200_000_000   # triangles are counted up to this number of paths of two edges


def measure(work):
    if work.users is None or "friends" not in work.users.column_names:
        return "no friends graph: " + ("there is no users.pqt" if work.users is None else "users.pqt names no friends")
    graph = adjacency(work.users, work.by_user[0])
    if graph is None:
        return "no friends graph: friends of users.pqt are not lists of user ids (integers)"
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
    """Friendships between users with plays, symmetric csr (U, U) of ones without a diagonal.

    None if the column friends contains anything but user ids.
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
    """Jaccard index of the tracks of friends and of random pairs of users who are not friends, up to PAIRS of each."""
    from scipy.sparse import triu
    rng, upper = np.random.default_rng(work.seed), triu(graph, 1).tocoo()
    friends = np.stack([upper.row, upper.col])[:, rng.permutation(upper.nnz)[:PAIRS]]
    strangers = rng.integers(graph.shape[0], size=(2, PAIRS))
    known = np.asarray(graph[strangers[0], strangers[1]]).ravel() > 0
    strangers = strangers[:, ~known & (strangers[0] != strangers[1])]
    result = {"edges": EDGES}
    for word, (one, other) in (("friends", friends), ("strangers", strangers)):
        value = jaccard(work.matrix, one, other)
        result |= {f"{word}_alike": value.mean() if len(value) else None,
                   f"{word}_histogram": np.histogram(value, EDGES)[0] / max(1, len(value))}
    return result


def jaccard(matrix, one, other):
    """|A and B| / |A or B| of rows of a csr matrix of ones, float64 (m,); 0 if both are empty."""
    size = np.diff(matrix.indptr).astype(np.float64)
    both = np.asarray(matrix[one].multiply(matrix[other]).sum(axis=1)).ravel()
    return both / np.maximum(size[one] + size[other] - both, 1)


def draw(numbers):
    figure, (left, right) = drawing.sheet(1, 2, height=3.3)
    left.loglog(numbers["degree"], numbers["at_least"], color=drawing.FIRST, drawstyle="steps-pre")
    left.set(xlabel="friends", ylabel="share of users with at least as many", title="Number of friends")
    drawing.log_counts(left.xaxis)
    drawing.shares(left.yaxis)
    place = np.arange(len(BINS))
    for word, label, color, shift in (("strangers", "random pairs", drawing.QUIET, -0.21),
                                      ("friends", "friends", drawing.FIRST, 0.21)):
        mean = numbers[f"{word}_alike"]
        right.bar(place + shift, numbers[f"{word}_histogram"], width=0.4, color=color, alpha=0.85,
                  label=label if mean is None else f"{label}, {share(mean)} on average")
    right.set_xticks(place, BINS)
    right.grid(axis="x", visible=False)
    right.legend(loc="upper right")
    right.set(xlabel="tracks in common, % of all tracks of the two (Jaccard)", ylabel="share of the pairs",
              title="Overlap of tracks of friends and of random pairs")
    drawing.shares(right.yaxis)
    return {"friends": figure}


def describe(numbers):
    n = numbers
    text = (f"{count(n['friendships'])} friendships of {count(n['users'])} users: median {count(n['friends_median'])} "
            f"friends, maximum {count(n['friends_max'])}, {share(n['alone'])} of the users without any. The "
            + (f"largest of {count(n['groups'])} connected components" if n["groups"] > 1
               else "only connected component")
            + f" with an edge has {share(n['largest_group'])} of the users.")
    if n["transitivity"] is not None:
        text += f" Two friends of a user are friends themselves in {share(n['transitivity'])} of the cases."
    if n["strangers_alike"]:
        text += (f" Friends have {share(n['friends_alike'])} of their tracks in common on average, "
                 f"{n['friends_alike'] / n['strangers_alike']:.1f} times as much as random pairs of users "
                 f"({share(n['strangers_alike'])}); {share(n['friends_histogram'][0])} and "
                 f"{share(n['strangers_histogram'][0])} of the pairs have no track in common.")
    return [text]
