"""Songs as rows of zeros and ones: length, genre, artist, composer, language; and their truncated SVD.

What the DTNMR source encodes of a song, kept sparse. The vocabulary is that of the kept songs, sorted, with one
place more per field for what is unknown; every other track is written in the same vocabulary, so that the
matrix has a row per track of the workspace. Contract: kkbox.py.
"""
import numpy as np

from harness.files import atomic, checksum, write_json, write_npy
from harness.machine import versions

FIELDS = {"genre": "genres", "artist": "artists", "composer": "composers", "language": "language"}
NAME = "metadata"


def encode(items, kept):
    """Vocabulary and sparse rows.

    items: Arrow table (kkbox_tables.read_items); kept: bool (tracks,)
    returns: Arrow table column, field, value, songs; scipy csr float32 (tracks, columns)
    """
    import pyarrow as pa
    from scipy.sparse import csr_matrix
    n, known = len(kept), np.asarray(items["known"])
    length = np.nan_to_num(items["song_length"].to_numpy().astype(np.float64))
    longest = length[kept].max()
    rows, columns, values = [np.flatnonzero(length)], [np.zeros(np.count_nonzero(length), np.int64)], \
        [length[length > 0] / (longest or 1)]
    table = {"field": ["length"], "value": [None], "songs": [int((length[kept] > 0).sum())]}
    for name, source in FIELDS.items():
        row, code, vocabulary = _codes(items[source], kept)
        missing = known.copy()
        missing[row] = False
        row = np.concatenate([row, np.flatnonzero(missing)])
        code = np.concatenate([code, np.full(int(missing.sum()), len(vocabulary))])
        songs = np.bincount(code[kept[row]], minlength=len(vocabulary) + 1)
        rows, columns = [*rows, row], [*columns, code + len(table["field"])]
        values.append(np.ones(len(row)))
        table["field"] += [name] * (len(vocabulary) + 1)
        table["value"] += [*vocabulary, None]
        table["songs"] += songs.tolist()
        if len(vocabulary) < 2:
            print(f"beware: {name} has {len(vocabulary)} value among the kept songs and tells nothing apart")
    width = len(table["field"])
    matrix = csr_matrix((np.concatenate(values).astype(np.float32),
                         (np.concatenate(rows), np.concatenate(columns))), shape=(n, width))
    return pa.table({"column": pa.array(np.arange(width)), "field": table["field"],
                     "value": pa.array(table["value"], pa.string()), "songs": table["songs"]}), matrix


def _codes(column, kept):
    """Row and place in the vocabulary of every value of it; the vocabulary: sorted values of kept rows."""
    import pyarrow as pa
    import pyarrow.compute as pc
    column = column.combine_chunks()
    if pa.types.is_list(column.type):
        row, value = pc.list_parent_indices(column).to_numpy(), pc.list_flatten(column)
    else:
        row, value = np.flatnonzero(np.asarray(column.is_valid())), column.drop_null()
    vocabulary = sorted(pc.unique(value.filter(pa.array(kept[row]))).to_pylist())
    code = pc.index_in(value, value_set=pa.array(vocabulary, pa.string()))
    there = np.asarray(code.is_valid())
    return row[there].astype(np.int64), code.drop_null().to_numpy().astype(np.int64), vocabulary


def reduce(matrix, kept, dim, seed):
    """Truncated SVD fitted to the kept rows, applied to all: float32 (tracks, D), D <= dim, and facts.

    D is smaller where the kept songs have fewer songs or columns than `dim`.
    """
    from sklearn.utils.extmath import randomized_svd
    fit = matrix[kept]
    dim = min(dim, *fit.shape)
    _, strength, directions = randomized_svd(fit, dim, n_iter=4, random_state=seed)
    total = float((fit.data.astype(np.float64) ** 2).sum())
    facts = {"columns": matrix.shape[1], "fitted_to": fit.shape[0],
             "share_of_squares": round(float((strength.astype(np.float64) ** 2).sum()) / total, 4)}
    return (matrix @ directions.T.astype(np.float32)).astype(np.float32), facts


def write(workdir, tracks, track_checksum, items, matrix, kept, dim, seed, about):
    """embeddings/metadata.npz, and with `dim` above 0 metadata.npy and .json; returns {name: {dim, rows}}."""
    from scipy.sparse import save_npz
    folder = workdir / "embeddings"
    for suffix in ("json", "npy") if dim else ("json",):
        (folder / f"{NAME}.{suffix}").unlink(missing_ok=True)
    with atomic(folder / f"{NAME}.npz") as temporary:
        save_npz(temporary, matrix, compressed=False)
    if not dim:
        (folder / f"{NAME}.npy").unlink(missing_ok=True)
        return {}
    vectors, facts = reduce(matrix, kept, dim, seed)
    known = np.asarray(items["known"])
    vectors[~known] = np.nan
    write_npy(folder / f"{NAME}.npy", vectors)
    write_json(folder / f"{NAME}.json", {
        "name": NAME, "backend": "length, genre, artist, composer and language of songs.csv as one sparse row, "
        "truncated SVD", **about, "facts": facts, "seed": seed, "dim": vectors.shape[1], "n_tracks": len(vectors),
        "track_checksum": track_checksum, "matrix_checksum": checksum(folder / f"{NAME}.npy"),
        "versions": versions(),
        "failed": {int(i): {"trackid": tracks[i].as_py(), "reason": "not in songs.csv"}
                   for i in np.flatnonzero(~known)}})
    return {NAME: {"dim": vectors.shape[1], "rows": int(known.sum())}}
