"""MFCC: the 104 values as arithmetic, and the backend against librosa's own coefficients."""
import argparse

import librosa
import numpy as np
import pytest

from extract_item_embeddings.mfcc import MFCC, statistics
from tests.extract_item_embeddings.test_audio import tone


@pytest.mark.numeric
def test_statistics_are_means_then_the_upper_triangle():
    frames = np.array([[1.0, 2.0, 6.0], [4.0, 4.0, 7.0]])  # two coefficients, three frames
    means = [(1 + 2 + 6) / 3, (4 + 4 + 7) / 3]
    a, b = [1 - 3, 2 - 3, 6 - 3], [4 - 5, 4 - 5, 7 - 5]
    covariances = [(4 + 1 + 9) / 2, (2 + 1 + 6) / 2, (1 + 1 + 4) / 2]  # (a a), (a b), (b b), each over 3 - 1
    assert a == [-2, -1, 3] and b == [-1, -1, 2]
    assert np.allclose(statistics(frames), means + covariances)


def test_one_frame_has_no_spread():
    assert np.array_equal(statistics(np.array([[3.0], [4.0]])), [3, 4, 0, 0, 0])


@pytest.mark.numeric
def test_equals_librosa_and_numpy():
    backend = MFCC(argparse.Namespace())
    sound = tone(3, 22050)
    values, lengths = backend.prepare(sound)
    frames = librosa.feature.mfcc(y=sound, sr=22050, n_mfcc=13).astype(np.float64)
    expected = np.concatenate([frames.mean(axis=1), np.cov(frames)[np.triu_indices(13)]])
    assert values.shape == (1, 104) and values.dtype == np.float32
    assert np.allclose(values[0], expected, rtol=1e-5, atol=1e-4)
    assert lengths.tolist() == [frames.shape[1]] == [1 + 3 * 22050 // 512]


def test_silence_and_the_shortest_clip_are_finite():
    backend = MFCC(argparse.Namespace())
    for sound in (np.zeros(22050, np.float32), tone(0.1, 22050)):
        assert np.isfinite(backend.prepare(sound)[0]).all()
