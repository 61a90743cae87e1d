"""Content of Last.fm artists: their tags, and the sound of their songs as Spotify describes it.

Both give one row per artist; an artist of whom nothing is known is a row of NaN.
`lastfm.py` writes them as the embeddings `tags` and `spotify`.
"""
import re
import unicodedata

import numpy as np

from harness.errors import WorkError

SPOTIFY = ("danceability", "energy", "key", "loudness", "mode", "speechiness", "acousticness",
           "instrumentalness", "liveness", "valence", "tempo", "duration_ms")


# --------------------------------------------------------------------------- tags

def tag_vectors(artist, tag, n_artists, n_tags, dim=200, seed=42):
    """Latent semantic analysis of tag assignments (Deerwester et al., JASIS 1990).

    artist, tag: int64 (N,) codes, one pair per assignment; a pair that k users made stands k times
    returns: float32 (n_artists, d), d = min(dim, tags used, artists tagged), rows of length 1; and a
             dict of facts. An artist without tags is a row of NaN.

    Weights are (1 + ln count) * idf, idf = 1 + ln((1 + n) / (1 + df)), rows scaled to length 1, then a
    truncated SVD, then rows scaled again: an artist with many tags weighs no more in a listener's mean.
    Beware: tags were given by the same listeners whose plays are to be predicted, often because they
    play the artist, and to artists of the test pairs as well. They are no content in the sense of audio.
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
    weights.resize(len(tagged), max(2, len(used)))  # the SVD refuses a single column
    svd = TruncatedSVD(vectors.shape[1], n_iter=7, random_state=seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        vectors[tagged] = normalize(svd.fit_transform(weights))
    if np.isfinite(svd.explained_variance_ratio_).all():  # not where all artists have the same tags
        facts["explained_variance"] = round(float(svd.explained_variance_ratio_.sum()), 4)
    return vectors, facts


# --------------------------------------------------------------------------- Spotify

# Letters that NFKD leaves whole, and signs that stand for letters or words in artists' names.
_SPELLED = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ı": "i",
                          "&": " and ", "+": " and ", "$": "s"})
_DROPPED = re.compile(r"['’‘`´.]")
_OTHER = re.compile(r"[\W_]+")


def exact_name(name):
    """The first key of a match: case and outer blanks apart, the same name."""
    return name.strip().casefold()


def loose_name(name):
    """The second key: also without accents, punctuation, a leading 'the', and with '&' and '+' as 'and'.

    'The Beatles' and 'Beatles', 'Ke$ha' and 'Kesha', 'N.W.A' and 'NWA', 'Jason Derülo' and 'Jason
    Derulo' have one key each. A name of signs only keeps them.
    """
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", name).casefold())
    text = "".join(c for c in text if not unicodedata.combining(c)).translate(_SPELLED)
    text = " ".join(_OTHER.sub(" ", _DROPPED.sub("", text)).split())
    return re.sub(r"^the (?=.)", "", text) or exact_name(name)


def read_spotify(path):
    """The distinct tracks of a Spotify playlist file: artist names (list of str) and features (n, 12) float64.

    Rows whose track, artist and album are all 'NA' (the file's mark of a lost track), and rows with a
    feature that is no number, are left out. Raises WorkError when a column is missing.
    """
    import pandas as pd
    wanted = ["track_id", "track_name", "track_artist", "track_album_name", *SPOTIFY]
    try:
        frame = pd.read_csv(path, keep_default_na=False, dtype=str)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as e:
        raise WorkError(f"{path} cannot be read as csv ({e})") from None
    if missing := [c for c in wanted if c not in frame.columns]:
        raise WorkError(f"{path} has no column {', '.join(missing)}; it has {', '.join(frame.columns)}")
    lost = frame[["track_name", "track_artist", "track_album_name"]].eq("NA").all(axis=1)
    frame = frame[~lost].drop_duplicates("track_id")
    values = frame[list(SPOTIFY)].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    sound = np.isfinite(values).all(axis=1)
    return frame["track_artist"][sound].tolist(), values[sound]


def spotify_vectors(names, song_artists, song_features):
    """Mean audio features of each artist's songs, standardised over the artists found.

    names: list of n artist names; song_artists: list of m names; song_features: float64 (m, 12)
    returns: float32 (n, 12), and a dict of facts. An artist takes the songs under the same name
             (`exact_name`), failing that those under the same `loose_name`, failing that a row of NaN.

    A feature that is the same for all artists found is zero. Source of the features: Spotify's audio
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
    found = ~np.isnan(vectors[:, 0])
    if not found.any():
        raise WorkError("no artist of the Spotify file has the name of an artist of artists.dat")
    centre, spread = vectors[found].mean(axis=0), vectors[found].std(axis=0)
    spread[spread < 1e-12 * np.maximum(1, np.abs(centre))] = np.inf
    facts |= {"artists": int(found.sum()), "songs": len(song_artists), "features": SPOTIFY,
              "mean": centre.tolist(), "std": np.where(np.isinf(spread), 0, spread).tolist()}
    return ((vectors - centre) / spread).astype(np.float32), facts
