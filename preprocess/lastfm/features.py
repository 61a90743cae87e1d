"""Content features of Last.fm artists: their tags, and Spotify's audio features of their songs.

Both have one row per artist, NaN for an artist without data. preprocess/lastfm/tables.py writes them as the
embeddings `tags` and `spotify`.
"""
import re
import unicodedata

import numpy as np

from harness.delimited import read_texts
from harness.errors import WorkError

SPOTIFY = ("danceability", "energy", "key", "loudness", "mode", "speechiness", "acousticness",
           "instrumentalness", "liveness", "valence", "tempo", "duration_ms")


# --------------------------------------------------------------------------- tags

def tag_vectors(artist, tag, n_artists, n_tags, dim=200, seed=42):
    """Latent semantic analysis of tag assignments (Deerwester et al., JASIS 1990).

    artist, tag: int64 (N,) codes, one pair per assignment; a tag given by k users occurs k times
    returns: float32 (n_artists, d), d = min(dim, tags used, artists tagged), rows of length 1; and a
             dict of facts. An artist without tags is a row of NaN.

    Weights are (1 + ln count) * idf, idf = 1 + ln((1 + n) / (1 + df)), rows scaled to length 1, then a
    truncated SVD, then rows scaled again, so that an artist with many tags has no larger weight in a user's mean.
    Caution: the tags come from the listeners whose plays are to be predicted, often because they play the
    artist, and also for artists of the test pairs; unlike audio they are not independent of the interactions.
    """
    from scipy.sparse import csr_matrix
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.preprocessing import normalize
    counts = csr_matrix((np.ones(len(artist)), (artist, tag)), shape=(n_artists, n_tags))
    tagged, used = np.flatnonzero(counts.getnnz(axis=1)), np.flatnonzero(counts.getnnz(axis=0))
    vectors = np.full((n_artists, max(1, min(dim, len(tagged), len(used)))), np.nan, np.float32)
    facts = {"artists": len(tagged), "tags": len(used), "assignments": len(artist), "explained_variance": None}
    if not len(tagged):
        return vectors, facts
    weights = TfidfTransformer(sublinear_tf=True).fit_transform(counts[tagged][:, used])
    weights.resize(len(tagged), max(2, len(used)))  # TruncatedSVD needs at least two columns
    svd = TruncatedSVD(vectors.shape[1], n_iter=7, random_state=seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        vectors[tagged] = normalize(svd.fit_transform(weights))
    if np.isfinite(svd.explained_variance_ratio_).all():  # NaN if all artists have the same tags
        facts["explained_variance"] = round(float(svd.explained_variance_ratio_.sum()), 4)
    return vectors, facts


# --------------------------------------------------------------------------- Spotify

# Letters that NFKD does not decompose, and signs that stand for letters or words in artists' names.
_SPELLED = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ı": "i",
                          "&": " and ", "+": " and ", "$": "s"})
_DROPPED = re.compile(r"['’‘`´.]")
_OTHER = re.compile(r"[\W_]+")


def exact_name(name):
    """Key of an exact match: the name without regard to case and surrounding blanks."""
    return name.strip().casefold()


def loose_name(name):
    """Key of a loose match: also without accents, punctuation, a leading 'the', and with '&' and '+' as 'and'.

    'The Beatles' and 'Beatles', 'Ke$ha' and 'Kesha', 'N.W.A' and 'NWA', 'Jason Derülo' and 'Jason
    Derulo' have the same key. A name that consists of signs only keeps them.
    """
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", name).casefold())
    text = "".join(c for c in text if not unicodedata.combining(c)).translate(_SPELLED)
    text = " ".join(_OTHER.sub(" ", _DROPPED.sub("", text)).split())
    return re.sub(r"^the (?=.)", "", text) or exact_name(name)


def read_spotify(path):
    """The distinct tracks of a Spotify playlist file: artist names (list of str) and features (n, 12) float64.

    Rows whose track, artist and album are all 'NA' (tracks without metadata), and rows with a feature that is
    not a number, are left out. Raises WorkError when a column is missing, or a row has a wrong number of cells.
    """
    import pandas as pd
    wanted = ["track_id", "track_name", "track_artist", "track_album_name", *SPOTIFY]
    frame = read_texts(path, wanted, ",").to_pandas()
    lost = frame[["track_name", "track_artist", "track_album_name"]].eq("NA").all(axis=1)
    frame = frame[~lost].drop_duplicates("track_id")
    values = frame[list(SPOTIFY)].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    complete = np.isfinite(values).all(axis=1)
    return frame["track_artist"][complete].tolist(), values[complete]


def spotify_vectors(names, song_artists, song_features):
    """Mean audio features of each artist's songs, standardised over the matched artists.

    names: list of n artist names; song_artists: list of m names; song_features: float64 (m, 12)
    returns: float32 (n, 12), and a dict of facts. An artist is matched to songs of the same `exact_name`, else of
             the same `loose_name`, else is a row of NaN.

    A feature that is constant over the matched artists is zero. Source of the features: Spotify's audio
    features, https://developer.spotify.com/documentation/web-api/reference/get-audio-features
    """
    vectors = np.full((len(names), len(SPOTIFY)), np.nan)
    facts = {}
    for step, key in (("by_exact_name", exact_name), ("by_loose_name", loose_name)):
        code = {k: i for i, k in enumerate(dict.fromkeys(map(key, song_artists)))}
        song = np.array([code[key(a)] for a in song_artists], dtype=np.int64)
        mean = np.zeros((len(code), len(SPOTIFY)))
        np.add.at(mean, song, song_features)
        mean /= np.bincount(song, minlength=len(code))[:, None]
        row = np.array([code.get(key(n), -1) for n in names], dtype=np.int64)
        new = (row >= 0) & np.isnan(vectors[:, 0])
        vectors[new] = mean[row[new]]
        facts[step] = int(new.sum())
    matched = ~np.isnan(vectors[:, 0])
    if not matched.any():
        raise WorkError("no artist of the Spotify file has the name of an artist of artists.dat")
    centre, spread = vectors[matched].mean(axis=0), vectors[matched].std(axis=0)
    spread[spread < 1e-12 * np.maximum(1, np.abs(centre))] = np.inf
    facts |= {"artists": int(matched.sum()), "songs": len(song_artists), "features": SPOTIFY,
              "mean": centre.tolist(), "std": np.where(np.isinf(spread), 0, spread).tolist()}
    return ((vectors - centre) / spread).astype(np.float32), facts
