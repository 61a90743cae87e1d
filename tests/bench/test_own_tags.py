"""bench/own_tags.py: its vectors are those of the preprocessing, and what it takes out is somebody else's."""
from collections import Counter

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from bench import own_tags
from preprocess.lastfm.features import tag_vectors


def draw(rng, artists=260, tags=230, n=6000):
    pairs = rng.integers(artists, size=n), rng.integers(tags, size=n)
    return np.append(pairs[0], np.arange(artists)), np.append(pairs[1], np.arange(artists) % tags)


def test_vectors_are_those_of_the_preprocessing():
    artist, tag = draw(np.random.default_rng(0))
    counts = csr_matrix((np.ones(len(artist)), (artist, tag)), shape=(260, 230))
    expected, _ = tag_vectors(artist, tag, 260, 230)
    np.testing.assert_allclose(own_tags.Vectors(counts).of(counts), expected, atol=1e-5)   # float32 of the latter


def test_others_are_taggings_of_the_artist_and_none_is_drawn_twice():
    """Of an artist as many are drawn as it has, so that all of its taggings must come out, each as often as it is."""
    artist, tag = draw(np.random.default_rng(1))
    counts = csr_matrix((np.ones(len(artist)), (artist, tag)), shape=(260, 230))
    all_of = Counter(tag[artist == 3].tolist())
    own = pd.DataFrame({"pair": [0] * all_of.total() + [2], "item": [3] * all_of.total() + [9]})
    drawn = own_tags.others(own, own.drop_duplicates("pair"), counts)
    assert Counter(drawn[:-1].tolist()) == all_of and counts[9, drawn[-1]] > 0
