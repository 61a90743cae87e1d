"""Sparse multi-hot encoding of songs (length, genre, artist, composer, language) and its truncated SVD.

The features of a song in the DTNMR source, as a sparse matrix. The vocabulary is the sorted values of the kept
songs, with one more column per field for unknown values; all other tracks are encoded with the same vocabulary,
so the matrix has a row per track of the workspace. File formats: preprocess/kkbox/__init__.py.
"""
import numpy as np

from harness.files import atomic, checksum, write_json, write_npy
from harness.machine import versions

FIELDS = {"genre": "genres", "artist": "artists", "composer": "composers", "language": "language"}
NAME = "metadata"


def encode(items, kept):
    """Vocabulary and sparse rows.

    items: Arrow table (tables.read_items); kept: bool (tracks,)
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
            print(f"warning: {name} has {len(vocabulary)} value among the kept songs and carries no information")
    width = len(table["field"])
    matrix = csr_matrix((np.concatenate(values).astype(np.float32),
                         (np.concatenate(rows), np.concatenate(columns))), shape=(n, width))
    return pa.table({"column": pa.array(np.arange(width)), "field": table["field"],
                     "value": pa.array(table["value"], pa.string()), "songs": table["songs"]}), matrix


def _codes(column, kept):
    """Row and vocabulary index of each value in the vocabulary, and the vocabulary: sorted values of the kept rows."""
    import pyarrow as pa
    import pyarrow.compute as pc
    column = column.combine_chunks()
    if pa.types.is_list(column.type):
        row, value = pc.list_parent_indices(column).to_numpy(), pc.list_flatten(column)
    else:
        row, value = np.flatnonzero(np.asarray(column.is_valid())), column.drop_null()
    vocabulary = sorted(pc.unique(value.filter(pa.array(kept[row]))).to_pylist())
    code = pc.index_in(value, value_set=pa.array(vocabulary, pa.string()))
    known = np.asarray(code.is_valid())
    return row[known].astype(np.int64), code.drop_null().to_numpy().astype(np.int64), vocabulary


def reduce(matrix, kept, dim, seed):
    """Truncated SVD fitted to the kept rows and applied to all: float32 (tracks, D), and facts for the json.

    D is the minimum of `dim`, the number of kept songs, and the number of columns.
    """
    from sklearn.utils.extmath import randomized_svd
    fit = matrix[kept]
    dim = min(dim, *fit.shape)
    _, strength, directions = randomized_svd(fit, dim, n_iter=4, random_state=seed)
    total = float((fit.data.astype(np.float64) ** 2).sum())
    facts = {"columns": matrix.shape[1], "fitted_to": fit.shape[0],
             "share_of_squares": round(float((strength.astype(np.float64) ** 2).sum()) / total, 4)}
    return (matrix @ directions.T.astype(np.float32)).astype(np.float32), facts


def write(place, tracks, track_checksum, items, matrix, kept, dim, seed, about):
    """Write embeddings/metadata.npz in the folder `place`, and with `dim` above 0 metadata.npy and .json.

    returns: {name: {dim, rows}}
    """
    from scipy.sparse import save_npz
    folder = place / "embeddings"
    with atomic(folder / f"{NAME}.npz") as temporary:
        save_npz(temporary, matrix, compressed=False)
    if not dim:
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
