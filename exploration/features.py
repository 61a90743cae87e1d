"""Distributions and correlations of named features: Spotify's audio features, length, year."""
import numpy as np

import dataset
from exploration import drawing
from exploration.words import count, name, several, table

TITLE = "Features"
# column or feature: label, unit, factor from the unit of the file
UNITS = {"duration_ms": ("duration", "min", 1 / 60_000), "song_length": ("length", "min", 1 / 60),
         "loudness": ("loudness", "dB", 1), "tempo": ("tempo", "beats/min", 1), "key": ("key", "0 = C", 1),
         "mode": ("mode", "1 = major", 1), "released": ("released", "year", 1), "year": ("year", "", 1),
         "popularity": ("popularity", "of 100", 1)}
NOT_FEATURES = {"track_id", "artist_id", "plays", "kept"}   # numeric columns of items.pqt that are not features
BINS = 32
OUTER = 0.005          # share of the values left out of a histogram at each end
LISTENERS = "listeners"


def measure(work):
    """Features of the played tracks: columns named by an embedding's manifest, and numbers in items.pqt."""
    columns, sources, unfit = {}, [], []
    for embedding in work.embeddings:
        named = named_features(work, embedding)
        if named is None:
            unfit.append(embedding)
        elif named:
            columns |= named
            backend = dataset.embedding_info(work.path, embedding).get("backend")
            sources.append(f"embedding {embedding}" + (f" ({backend})" if backend else ""))
    numeric = numeric_columns(work.items) if work.items is not None else {}
    if numeric:
        columns |= {c: v for c, v in numeric.items() if c not in columns}
        sources.append("items.pqt")
    played = work.by_track[0] > 0
    columns = {c: v[played] * UNITS.get(c, ("", "", 1))[2] for c, v in columns.items()}
    columns = {c: v for c, v in columns.items() if np.isfinite(v).sum() > 1 and np.nanmin(v) < np.nanmax(v)}
    if not columns:
        return ("no audio features: no embedding's manifest names its columns, and items.pqt has no numbers"
                + "".join(f"; {unfit_sentence(e)}" for e in unfit))
    return {"sources": sources, "tracks": int(played.sum()),
            "features": {c: feature(c, v) for c, v in columns.items()},
            "correlation": correlation(columns, work.by_track[0][played]), **({"unfit": unfit} if unfit else {})}


def unfit_sentence(embedding):
    return f"{name(embedding)} is left out, as features, mean and std of its json do not fit its columns"


def named_features(work, embedding):
    """{name: float64 (n,) in the unit of the file} of a standardised embedding whose manifest names its columns.

    {} if it does not name them; None if the names, means or deviations do not match the columns.
    """
    facts = dataset.embedding_info(work.path, embedding).get("facts", {})
    if not isinstance(facts, dict) or not {"features", "mean", "std"} <= facts.keys():
        return {}
    matrix, features = work.embedding(embedding), facts["features"]
    try:
        centre, spread = (np.asarray(facts[word], np.float64) for word in ("mean", "std"))
    except (TypeError, ValueError):
        return None
    if not (centre.shape == spread.shape == matrix.shape[1:] and np.isfinite([centre, spread]).all() and isinstance(
            features, list) and len({*map(str, features)}) == len(features) == len(centre)):
        return None
    values = np.asarray(matrix, np.float64) * spread + centre
    digits = -np.floor(np.log10(np.where(spread > 0, spread, 1))) + 4       # precision of a standardised float32
    return {str(f): np.round(v, int(d)) + 0.0 for f, v, d in zip(features, values.T, digits, strict=True)}


def numeric_columns(items):
    """{column: float64 (n,)} of the numbers and dates (as years) of an items table, NaN where null."""
    import pyarrow as pa
    import pyarrow.compute as pc
    numeric = {}
    for column in items.column_names:
        kind, values = items.schema.field(column).type, items[column]
        if column in NOT_FEATURES:
            continue
        if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
            values = pc.year(values)
        elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            continue
        numeric[column] = values.cast(pa.float64(), safe=False).to_numpy()   # integers above 2^53 are rounded
    return numeric


def feature(column, values):
    """Summary and histogram of one feature; the histogram leaves out half a percent at each end."""
    label, unit, _ = UNITS.get(column, (column, "", 1))
    values = values[np.isfinite(values)]
    low, high = np.quantile(values, (OUTER, 1 - OUTER))
    if not high > low:
        low, high = values.min(), values.max()
    if (values == values.round()).all():                 # integers: bins of equally many of them
        low, high = np.floor(low), np.ceil(high)
        width = np.ceil((high - low + 1) / BINS)
        edges = low - 0.5 + width * np.arange(np.ceil((high - low + 1) / width) + 1)
    else:
        edges = np.linspace(low, high, BINS + 1)
    return {"label": label, "unit": unit, "tracks": len(values), "mean": values.mean(), "sd": values.std(),
            **{f"q{q:02}": np.quantile(values, q / 100) for q in (5, 50, 95)}, "min": values.min(), "max": values.max(),
            "edges": edges, "counts": np.histogram(values, edges)[0]}


def correlation(columns, listeners):
    """Spearman's rank correlation of the features and the number of listeners, on tracks that have all features.

    Correlated features are placed next to each other (average linkage of 1 - |rho|).
    """
    from scipy.cluster import hierarchy
    from scipy.stats import rankdata
    names = list(columns)
    values = np.stack([*columns.values(), listeners.astype(np.float64)])
    values = values[:, np.isfinite(values).all(axis=0)]
    ranks = rankdata(values, axis=1)
    if values.shape[1] < 3 or (ranks == ranks[:, :1]).all(axis=1)[:-1].any():
        return {"tracks": values.shape[1], "names": [], "rho": []}
    with np.errstate(divide="ignore", invalid="ignore"):
        rho = np.nan_to_num(np.corrcoef(ranks))        # NaN if all tracks have equally many listeners
    order = [0]
    if len(names) > 1:
        distance = 1 - np.abs(rho[:-1, :-1])
        order = hierarchy.leaves_list(hierarchy.linkage(distance[np.triu_indices(len(names), 1)], "average",
                                                        optimal_ordering=True))
    order = [*order, len(names)]
    return {"tracks": values.shape[1], "names": [([*names, LISTENERS])[i] for i in order],
            "rho": rho[np.ix_(order, order)]}


def _title(column):
    return UNITS.get(column, (column,))[0]


def draw(numbers):
    shown = numbers["features"]
    columns = min(4, len(shown))
    rows = -(-len(shown) // columns)
    figure, axes = drawing.sheet(rows, columns, height=0.4 + 1.55 * rows, squeeze=False)
    for one, f in zip(axes.flat, shown.values(), strict=False):
        drawing.histogram(one, f["edges"], f["counts"])
        one.axvline(f["q50"], color=drawing.SECOND, lw=1.3)
        one.set_title(f["label"] + (f" ({f['unit']})" if f["unit"] else ""), fontsize=9)
        one.set_yticks([max(f["counts"])], [f"{max(f['counts']):,}"])
        one.spines["left"].set_visible(False)
        one.grid(axis="x", visible=False)
    for one in axes.flat[len(shown):]:
        one.set_visible(False)
    figure.supylabel("tracks", fontsize=9)
    figures = {"features": figure}
    if len(numbers["correlation"]["names"]) > 3:     # for fewer the text is sufficient
        figures["correlation"] = _matrix(numbers["correlation"])
    return figures


def _matrix(correlation):
    names, rho = [_title(n) for n in correlation["names"]], np.array(correlation["rho"])
    figure, axes = drawing.sheet(height=1.3 + 0.34 * len(names))
    image = axes.imshow(np.where(np.eye(len(names)), np.nan, rho), cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    for i, row in enumerate(rho):
        for j, value in enumerate(row):
            if i != j:
                text = f"{value:.2f}".replace("0.", ".").replace("-", "−") if abs(value) >= 0.005 else "0"
                axes.text(j, i, text, ha="center", va="center", fontsize=8,
                          color="white" if abs(value) > 0.5 else drawing.INK)
    axes.set_xticks(range(len(names)), names, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.axhline(len(names) - 1.5, color="white", lw=3)
    axes.axvline(len(names) - 1.5, color="white", lw=3)
    axes.spines[:].set_visible(False)
    axes.set_title("Rank correlation")
    bar = figure.colorbar(image, ax=axes, pad=0.01, aspect=30)
    bar.set_label("Spearman's rho")
    bar.outline.set_visible(False)
    return figure


def describe(numbers):
    shown, c = numbers["features"], numbers["correlation"]
    lead = (f"From {several(map(name, numbers['sources']))}, over the tracks that were played. A line marks the "
            "median; half a percent at each end is not drawn.")
    lead += "".join(f" {unfit_sentence(e)}." for e in numbers.get("unfit", []))
    if len(c["names"]) > 2:
        rho = np.array(c["rho"])
        inner = np.triu(np.abs(rho[:-1, :-1]), 1)
        i, j = np.unravel_index(inner.argmax(), inner.shape)
        k = np.abs(rho[-1, :-1]).argmax()
        lead += (f" The strongest rank correlation is between {name(_title(c['names'][i]))} and "
                 f"{name(_title(c['names'][j]))} (rho {rho[i, j]:.2f}); with the number of listeners it is "
                 f"{name(_title(c['names'][k]))} (rho {rho[-1, k]:.2f}); {count(c['tracks'])} of "
                 f"{count(numbers['tracks'])} tracks have all features.")
    rows = [[name(f["label"]) + (f" ({f['unit']})" if f["unit"] else ""), count(f["tracks"]),
             *(f"{f[q]:.4g}" for q in ("min", "q05", "q50", "q95", "max"))] for f in shown.values()]
    return [lead, table(["feature", "tracks", "least", "5 %", "median", "95 %", "most"], rows)]
