"""Geometry of the embeddings: effective dimension, and cosine similarity of random track pairs."""
import numpy as np

from exploration import drawing
from exploration.words import count, name, table

TITLE = "Representations"
TRACKS = 20_000    # larger catalogues are sampled
PAIRS = 50_000
EDGES = np.linspace(-1, 1, 81)


def measure(work):
    results = {}
    for embedding in work.embeddings:
        matrix = work.embedding(embedding)
        rows = np.flatnonzero(np.isfinite(matrix).all(axis=1))
        if len(rows) > 2:
            sample = np.random.default_rng(work.seed).permutation(rows)[:TRACKS]
            results[embedding] = {"dim": matrix.shape[1], "tracks": len(rows), "looked_at": len(sample),
                                  **geometry(np.asarray(matrix[np.sort(sample)], np.float64), work.seed)}
    return results or "no representations: there are no embeddings of more than two tracks"


def geometry(vectors, seed=42):
    """Numbers of vectors (n, D), n > 2.

    cosine: histogram over EDGES and mean of random pairs; a mean far from 0 means a common direction of all vectors
    variance: share of the variance in the first principal components; ninety: number of components with 90 %
    effective: participation ratio (squared sum of the eigenvalues over the sum of their squares)
    Constant vectors have no variance: effective and ninety are 0.
    """
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)
    one, other = np.random.default_rng(seed).integers(len(vectors), size=(2, PAIRS))
    cosine = np.clip((unit[one] * unit[other]).sum(axis=1)[one != other], -1, 1)
    centred = vectors - vectors.mean(axis=0)
    gram = centred.T @ centred if vectors.shape[1] <= len(vectors) else centred @ centred.T
    eigen = np.clip(np.linalg.eigvalsh(gram)[::-1], 0, None)
    total = eigen.sum()
    if not total > 1e-20 * max(1.0, float((vectors ** 2).sum())):
        eigen, total = np.zeros_like(eigen), 0.0
    held = np.cumsum(eigen) / total if total else np.zeros(len(eigen))
    at = np.unique(np.geomspace(1, len(eigen), 40).round().astype(np.int64))
    return {"cosine_mean": cosine.mean(), "cosine_sd": cosine.std(), "cosine_edges": EDGES,
            "cosine": np.histogram(cosine, EDGES)[0] / len(cosine),
            "effective": total ** 2 / (eigen ** 2).sum() if total else 0.0,
            "ninety": int(np.searchsorted(held, 0.9) + 1) if total else 0, "components": at, "variance": held[at - 1]}


def draw(numbers):
    from matplotlib import colormaps
    colors = dict(zip(numbers, colormaps["tab10"](np.arange(len(numbers)) % 10), strict=True))
    figure, (left, right) = drawing.sheet(1, 2, height=max(3.2, 1.1 + 0.5 * len(numbers)))
    for i, (embedding, n) in enumerate(reversed(numbers.items())):     # one ridge per embedding, the first on top
        heights = np.array(n["cosine"]) / max(n["cosine"]) * 0.85
        middle = (np.array(n["cosine_edges"])[1:] + np.array(n["cosine_edges"])[:-1]) / 2
        left.fill_between(middle, i, i + heights, step="mid", color=colors[embedding], alpha=0.55, lw=0)
        left.plot([n["cosine_mean"]] * 2, [i, i + 0.85], color=colors[embedding], lw=1.4)
        left.plot([-1, 1], [i, i], color=colors[embedding], lw=0.8)
    left.set_yticks(range(len(numbers)), list(numbers)[::-1])
    left.tick_params(axis="y", length=0)
    left.grid(axis="y", visible=False)
    left.spines["left"].set_visible(False)
    left.set_xticks([-1, -0.5, 0, 0.5, 1])
    left.set(xlabel="cosine similarity of random track pairs", title="Similarity of random pairs (line: mean)",
             xlim=(-1, 1), ylim=(-0.05, len(numbers)))
    for embedding, n in numbers.items():
        right.plot(n["components"], n["variance"], color=colors[embedding], label=embedding)
    right.axhline(0.9, color=drawing.QUIET, lw=1, ls=(0, (4, 3)))
    drawing.note(right, 1, 0.9, "90 %", drawing.QUIET, dx=2, dy=6)
    right.set(xscale="log", xlabel="principal components", ylabel="share of the variance", ylim=(0, 1.02),
              title="Cumulative variance")
    drawing.log_counts(right.xaxis)
    drawing.shares(right.yaxis)
    right.legend(loc="lower right", fontsize=8)
    return {"representations": figure}


def describe(numbers):
    crowded = max(numbers, key=lambda e: numbers[e]["cosine_mean"])
    mean = numbers[crowded]["cosine_mean"]
    lead = (f"In {name(crowded)} all tracks share a common direction: the mean cosine of random track pairs is "
            f"{mean:.2f}. The cosine of such vectors discriminates between tracks only after centring "
            "(knn.py --center)." if mean > 0.3 else "No representation has a direction common to all tracks: the mean "
            f"cosine of random track pairs is at most {mean:.2f}.")
    rows = [[name(e), count(n["dim"]), count(n["tracks"]), f"{n['cosine_mean']:.3f} ± {n['cosine_sd']:.3f}",
             f"{n['effective']:.1f}", count(n["ninety"])] for e, n in numbers.items()]
    return [lead, table(["embedding", "dimensions", "tracks", "cosine of random pairs", "effective dimensions",
                         "components for 90 %"], rows)]
