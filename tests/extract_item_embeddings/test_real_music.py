"""Real sound, mastered loud and in its own format (ogg): the music of two games, where their Debian packages are.

    apt-get install planetblupi-music-ogg hyperrogue-music
"""
import ast
import importlib.metadata
import re

import numpy as np
import pytest

import dataset
from bench._real_music import PACKAGES, pieces
from bench.musicnn import load
from extract_item_embeddings import mfcc, musicnn
from extract_item_embeddings.engine import audio
from harness.readers import read_json
from tests.worlds.checkpoints import single_thread


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    """{stem: row} of MFCC, MusiCNN and its tags, extracted from all pieces through the command line."""
    found = pieces()
    if not found:
        pytest.skip(f"needs real music: apt-get install {' '.join(PACKAGES)}")
    folder = tmp_path_factory.mktemp("music")
    (folder / "audio").mkdir()
    for path in found.values():
        (folder / "audio" / path.name).symlink_to(path)
    flags = ["--audio", str(folder / "audio"), "--workdir", str(folder), "--offset", "middle"]
    with single_thread():
        mfcc.main(flags)
        musicnn.main([*flags, "--device", "cpu"])
        musicnn.main([*flags, "--device", "cpu", "--layer", "taggram"])
    ids, _ = dataset.read_tracks(folder)
    return {name: (dict(zip(ids, np.load(folder / "embeddings" / f"{name}.npy"), strict=True)),
                   read_json(folder / "embeddings" / f"{name}.json"))
            for name in ("mfcc-middle", "musicnn-middle", "musicnn-middle-taggram")}


def tags():
    """Names of MusiCNN's 50 tags, read from the installed package without running it."""
    source = importlib.metadata.distribution("musicnn").locate_file("musicnn/configuration.py").read_text()
    return ast.literal_eval(re.search(r"MSD_LABELS\s*=\s*(\[.*?\])", source, re.DOTALL)[1])


def test_every_piece_is_a_finite_row_in_its_own_format(music):
    for name, (rows, about) in music.items():
        assert about["failed"] == {} and about["incomplete"] == {}, name
        assert len(rows) == len(pieces())
        assert all(np.isfinite(row).all() for row in rows.values()), name


# Looked at before they were named here (the 30 s in the middle): the spectral flux of the first two repeats itself with
# an autocorrelation of .81 at 129 and .93 at 140 beats per minute, over drums; the others have no drums, half the flux
# (.012 to .014 against .022 to .025) and peaks of .53 to .69 at no common rate.
BEAT, SLOW = ("music005", "music007"), ("hr3-icyland", "hr3-mirror", "hr3-graveyard")


def test_tags_tell_what_drives_from_what_floats(music):
    rows, names = music["musicnn-middle-taggram"][0], tags()
    if not {*BEAT, *SLOW} <= set(rows):
        pytest.skip(f"needs both packages: {' '.join(PACKAGES)}")

    def share(piece, *wanted):
        return sum(rows[piece][names.index(t)] for t in wanted)
    for beat in BEAT:
        for slow in SLOW:
            assert share(beat, "dance", "House", "party", "funk") > 2 * share(slow, "dance", "House", "party", "funk")
            calm = ("ambient", "chillout", "Mellow", "folk", "acoustic", "instrumental")
            assert share(slow, *calm) > 1.5 * share(beat, *calm), (beat, slow)


def test_loud_masters_keep_vectors_of_their_own(music):
    """Under NumPy 2 the published library's float16 step makes nearly every patch of this music infinite."""
    rows = music["musicnn-middle"][0]
    x = np.stack(list(rows.values())).astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    alike = x @ x.T
    np.fill_diagonal(alike, -1)
    assert alike.max() < 0.9999 and np.median(alike) < 0.95
    overflowing, backend = [], load()
    for path in list(pieces().values())[:6]:
        patches, _ = backend.prepare(audio.resample(audio.decode(path, 9.0, "middle"), 16000))
        power = ((10 ** patches.astype(np.float64) - 1) / 10000).astype(np.float16)
        with np.errstate(over="ignore"):
            overflowing += (~np.isfinite(10000 * power)).any(axis=(1, 2)).tolist()
    backend.unload()
    assert np.mean(overflowing) > 0.8  # so this music would show it
