"""Embeddings of 1,425 Last.fm artists by pretrained audio and text models, and the published split of their plays.

Source: Spillo et al., "See the Movie, Hear the Song, Read the Book: Extending MovieLens-1M, Last.fm-2K,
and DBbook with Multimodal Data" (RecSys 2025), data https://zenodo.org/records/15403972.
Two forms are accepted:
- a folder of matrices: `artists.csv` (row,artistID,...), `users.csv` (row,userID), `lfm2k.inter`
  (userID and itemID as rows of those, x_label 0 train, 1 val, 2 test), and one `NAME.npy` per
  representation, row r for row r of artists.csv;
- the archive `lfm2k_mm_json.zip` of the record, or a folder with its files: one json per encoder,
  {"ARTIST_SONG": [numbers]}. Songs are averaged by artist, and the split is recomputed by the published procedure.
"""
import contextlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from harness import download
from harness.delimited import read_table
from harness.errors import UsageError, WorkError
from harness.progress import Progress
from harness.readers import read_npy, reading

URL = "https://zenodo.org/records/15403972/files/lfm2k_mm_json.zip"
CHECKSUM = "md5:7e5ba969073f5886743d301450083c0b"
SIZE = "624 MB"
SOURCE = "https://zenodo.org/records/15403972 (doi 10.1145/3705328.3748162)"
LICENCE = ("see the record; made from Last.fm 2k (non-commercial) and from songs whose rights "
           "stay with their owners")
# Backends by file name, as processed by the authors' scripts.
BACKENDS = {
    "vggish": {"backend": "VGGish, PCA and 8-bit quantisation of its release (values 0 to 255)",
               "pooling": "mean over the frames of a song, then over the songs of an artist"},
    "whisper": {"backend": "Whisper base, encoder, 16 kHz, 30 s chunks (the last padded with silence)",
                "pooling": "mean over time, over chunks, then over the songs of an artist"},
    "minilm": {"backend": "sentence-transformers/all-MiniLM-L6-v2 on the artist's tags, sorted, joined by commas",
               "pooling": "one text per artist",
               "beware": "text of the tags given by the same listeners: the caveat of `tags` applies"},
}
JSON_NAMES = {"vggish": "vggish", "whisper": "whisper", "minilm": "all-MiniLM-L6-v2"}
ENCODERS = (*JSON_NAMES.values(), "all-mpnet-base-v2", "resnet152", "vgg", "vit_avg", "vit_cls")
PARTS = np.array(["train", "val", "test"])
_ENTRY = re.compile(rb'"(\d+)(?:_[^"]*)?"\s*:\s*(\[[^\[\]]*\])')
_BETWEEN = b" \t\r\n{},"       # what may stand between two entries


@dataclass
class Features:
    """Artists with a representation, and the published split of their plays.

    vectors:  name -> (artist ids int64 (n,), float (n, D)), the ids distinct
    artists:  int64 (A,) ids of the published catalogue
    split:    (user id, artist id, part) arrays of equal length, part one of train, val, test
    recipe:   origin of the split; files: the Paths read; facts: for the json of the embeddings
    """
    vectors: dict
    artists: np.ndarray
    split: tuple
    recipe: str
    files: list
    facts: dict = field(default_factory=dict)


def files_of(source):
    """The files that `read` would read, for checksums."""
    source = Path(source)
    if source.is_file():
        return [source]
    if (source / "artists.csv").is_file():
        tables = [source / n for n in ("artists.csv", "users.csv", "lfm2k.inter")]
        if missing := [p.name for p in tables if not p.is_file()]:
            raise WorkError(f"--audio-features {source} has artists.csv, but lacks {' and '.join(missing)}")
        return tables + sorted(source.glob("*.npy"))
    if (source / "vggish.json").is_file():
        return sorted(p for p in source.glob("*.json") if p.stem in ENCODERS)
    raise UsageError(f"--audio-features {source} has neither artists.csv nor vggish.json; name a folder with "
                     f"artists.csv, users.csv, lfm2k.inter and matrices, or the archive {Path(URL).name}")


def read(source, user, artist):
    """Features of the folder or archive `source`.

    user, artist: int64 (N,) ids, the rows of user_artists.dat in the order of the file (the recipe of
                  the published split shuffles them, so their order matters)
    """
    files = files_of(source)
    if files[0].name == "artists.csv":
        return _read_matrices(files)
    return _read_json(files, user, artist)


# --------------------------------------------------------------------------- matrices

def _read_matrices(files):
    artists, users, pairs, *matrices = files
    artist_ids = _numbered(artists, "artistID", read_table(artists, {"row": int, "artistID": int}, ",", quoted=True))
    user_ids = _numbered(users, "userID", read_table(users, {"row": int, "userID": int}, ",", quoted=True))
    table = read_table(pairs, {"userID": int, "itemID": int, "x_label": int})
    for column, ids, path in (("a userID", user_ids, users), ("an itemID", artist_ids, artists)):
        outside = ~table[column.split()[1]].between(0, len(ids) - 1)
        if outside.any():
            raise WorkError(f"{pairs}: {int(outside.sum())} rows have {column} that is not a row of {path.name}")
    if not table["x_label"].isin([0, 1, 2]).all():
        raise WorkError(f"{pairs}: x_label must be 0 (train), 1 (val) or 2 (test)")
    if twice := int(table.duplicated(["userID", "itemID"]).sum()):
        raise WorkError(f"{pairs} contains {twice} duplicate (userID, itemID) pairs")
    vectors = {}
    for path in matrices:
        matrix = _matrix(path, len(artist_ids))
        vectors[_name_of(path)] = (artist_ids, matrix)
    if not vectors:
        raise WorkError(f"{artists.parent} has no matrix (.npy) beside artists.csv")
    split = (user_ids[table["userID"]], artist_ids[table["itemID"]], PARTS[table["x_label"]])
    return Features(vectors, artist_ids, split, pairs.name, files)


def _numbered(path, column, table):
    ids = table[column].to_numpy()
    if table["row"].tolist() != list(range(len(ids))):
        raise WorkError(f"{path}: row must count 0, 1, 2, ... without gaps")
    if len(np.unique(ids)) != len(ids):
        raise WorkError(f"{path} contains {len(ids) - len(np.unique(ids))} duplicate values of {column}")
    return ids


def _matrix(path, n):
    matrix = read_npy(path, mapped=False, kind="a matrix")
    if matrix.ndim != 2 or matrix.dtype.kind != "f" or len(matrix) != n:
        raise WorkError(f"{path} must be a matrix of numbers with one row per row of artists.csv ({n}), "
                        f"but is {matrix.dtype} {matrix.shape}")
    return matrix


def _name_of(path):
    return next((name for name, stem in JSON_NAMES.items() if stem == path.stem), path.stem)


# --------------------------------------------------------------------------- json

def _read_json(files, user, artist):
    vectors, known, songs = {}, None, {}
    with _streams(files) as streams:
        if missing := [n for n in ENCODERS if n not in streams]:
            raise WorkError(f"{files[0].parent if len(files) > 1 else files[0]} lacks "
                            f"{', '.join(f'{m}.json' for m in missing)}; the published catalogue "
                            "consists of the artists that all of these contain")
        with Progress(len(streams), "reading encoders", unit="files", every=2.0) as progress:
            for stem, open_stream in streams.items():
                name = next((n for n, s in JSON_NAMES.items() if s == stem), None)
                with open_stream() as stream:
                    ids, matrix, songs[stem] = _pool(entries(stream, stem), keep=name is not None)
                known = ids if known is None else np.intersect1d(known, ids)
                if name:
                    vectors[name] = (ids, matrix)
                progress.update(1)
    split = published_split(user, artist, known)
    catalogue = np.unique(split[1])
    return Features(vectors, catalogue, split, "recomputed by the published procedure", files, {"songs": songs})


@contextlib.contextmanager
def _streams(files):
    """{encoder: function that opens its json as a binary stream}, from the archive or the unpacked files."""
    if files[0].suffix == ".json":
        yield {p.stem: (lambda p=p: open(p, "rb")) for p in files}
        return
    with download.open_zip(files[0]) as archive:
        members = download.find_members(archive, [f"{s}.json" for s in ENCODERS])
        yield {Path(n).stem: (lambda m=m: archive.open(m)) for n, m in members.items()}


def entries(stream, name, block=1 << 22, longest=1 << 26):
    """Yield (artist id, bytes of the json list) from {"ARTIST_SONG": [...], ...}, a block at a time.

    Memory is a few blocks, whatever the size of the file. WorkError for text of another form, wherever it stands, and
    for one that is cut off.
    """
    rest, empty = b"", True
    while chunk := stream.read(block):
        rest += chunk
        end = 0
        for match in _ENTRY.finditer(rest):
            _check_between(rest[end:match.start()], name)
            empty = False
            yield int(match[1]), match[2]
            end = match.end()
        rest = rest[end:]
        if len(rest) > longest:
            break
    _check_between(rest, name)
    if empty:
        raise WorkError(f"{name}.json contains no vectors")
    if not rest.rstrip().endswith(b"}"):
        raise WorkError(f"{name}.json has no closing brace, as if it were cut off; fetch it again")


def _check_between(text, name):
    """WorkError where the text between two entries of a json file is more than what parts them."""
    if wrong := text.strip(_BETWEEN):
        raise WorkError(f'{name}.json is not of the form {{"ARTIST_SONG": [numbers], ...}} near {wrong[:40]!r}')


def _pool(pairs, keep):
    """Mean vector of each artist's songs: ids int64 (n,) ascending, float32 (n, D) or None, songs read."""
    total, songs, lengths = {}, {}, set()
    for artist, text in pairs:
        songs[artist] = songs.get(artist, 0) + 1
        if keep:
            with reading(f"vector {text[:40]!r}", "a list of numbers"):
                vector = np.array(json.loads(text), dtype=np.float64)
            lengths.add(len(vector))
            total[artist] = total[artist] + vector if artist in total else vector
        if len(lengths) > 1:
            raise WorkError(f"the vectors of an encoder must have equal lengths, but have {sorted(lengths)}")
    ids = np.array(sorted(songs), dtype=np.int64)
    matrix = np.array([total[a] / songs[a] for a in ids], dtype=np.float32) if keep else None
    return ids, matrix, sum(songs.values())


def published_split(user, artist, known):
    """The split of lfm2k.inter, recomputed: (user id, artist id, part) arrays in the order of that file.

    user, artist: int64 (N,) pairs in the order of user_artists.dat; known: ids of artists with all modalities
    Procedure: the 5-core of users and artists, restricted to known artists; the pairs of each user shuffled with
    seed 42; the first 80 % train, the next 10 % val, the rest test, both shares rounded down; val and test pairs
    of an artist or user absent from train dropped.
    """
    core = np.flatnonzero(_core(user, artist, 5) & np.isin(artist, known))
    core = core[np.argsort(user[core], kind="stable")]
    _, start, size = np.unique(user[core], return_index=True, return_counts=True)
    order, part = [], []
    for first, n in zip(start.tolist(), size.tolist(), strict=True):
        order.append(first + np.random.RandomState(42).permutation(n))  # the published generator
        train = int(n * 0.8)
        val = train + int(n * 0.1)
        part.append(np.repeat([0, 1, 2], [train, val - train, n - val]))
    if not order:
        raise WorkError("no user has 5 pairs with artists that all encoders contain, so the published split is empty; "
                        "use files of one data set")
    rows, part = core[np.concatenate(order)], np.concatenate(part)
    rows, part = rows[by := np.argsort(part, kind="stable")], part[by]
    seen = (part == 0) | (np.isin(user[rows], user[rows[part == 0]]) & np.isin(artist[rows], artist[rows[part == 0]]))
    rows, part = rows[seen], part[seen]
    return user[rows], artist[rows], PARTS[part]


def _core(user, artist, k):
    """The k-core: mask (N,) of the pairs left after repeatedly removing users and artists with fewer than k pairs."""
    mask = np.ones(len(user), dtype=bool)
    codes = [np.unique(ids, return_inverse=True)[1] for ids in (user, artist)]
    while True:
        enough = [np.bincount(c[mask], minlength=c.max(initial=0) + 1) >= k for c in codes]
        kept = mask & enough[0][codes[0]] & enough[1][codes[1]]
        if (kept == mask).all():
            return kept
        mask = kept
