"""Every kind of file a collection may hold, in one folder, through the command line: a row, or a row of NaN and why."""
import csv

import numpy as np
import pytest

import dataset
from extract_item_embeddings import mert, mfcc, musicnn
from harness.files import write_text
from harness.readers import read_json
from tests.extract_item_embeddings.test_audio import cut, tone, write
from tests.worlds.checkpoints import mert_checkpoint, single_thread

SOUND = tone(3.0, seed=4)
NOT_FINITE = SOUND.copy()
NOT_FINITE[[7, 70000]] = np.nan, -np.inf


def six_channels(path):
    write(path, np.stack([tone(3.0, hertz=200 * (c + 1), seed=c) for c in range(6)], axis=1))


FILES = {  # name: (how it is made, the reason of a row of NaN or None)
    "zero bytes.wav": (lambda p: p.write_bytes(b""), "the file is empty (0 bytes)"),
    "text.wav": (lambda p: p.write_text("this is no sound " * 500), "not readable as audio: Format not recognised"),
    "text too.mp3": (lambda p: p.write_text("this is no sound " * 500), "not readable as audio: format not recognised"),
    "random.mp3": (lambda p: p.write_bytes(np.random.default_rng(1).bytes(9000)), "not readable as audio"),
    "truncated mp3.mp3": (lambda p: cut(write(p, tone(9.0)), 0.4), None),
    "truncated flac.flac": (lambda p: cut(write(p, tone(9.0)), 0.4), None),
    "header alone.wav": (lambda p: write(p, SOUND[:0]), "only 0 s of audio; at least 0.1 s are needed"),
    "8 bit.wav": (lambda p: write(p, SOUND, subtype="PCM_U8"), None),
    "24 bit.wav": (lambda p: write(p, SOUND, subtype="PCM_24"), None),
    "float.wav": (lambda p: write(p, SOUND, subtype="FLOAT"), None),
    "float beyond full scale.wav": (lambda p: write(p, 40 * SOUND, subtype="FLOAT"), None),
    "96 kHz.wav": (lambda p: write(p, tone(3.0, 96000, seed=4), 96000), None),
    "six channels.wav": (six_channels, None),
    "half a second.wav": (lambda p: write(p, SOUND[:22050]), None),
    "a click.wav": (lambda p: write(p, SOUND[:441]), "only 0.01 s of audio; at least 0.1 s are needed"),
    "silence.wav": (lambda p: write(p, 0 * SOUND), None),
    "not finite.wav": (lambda p: write(p, NOT_FINITE, subtype="FLOAT"), "2 of 132300 samples are not finite numbers"),
    "folder.wav": (lambda p: p.mkdir(), "a folder, not a file"),
    "dangling.wav": (lambda p: p.symlink_to("nowhere.wav"), "No such file or directory (a broken link)"),
    "näme with späces – 音楽 'n \"quotes\" $HOME;&.wav": (lambda p: write(p, SOUND), None),
    "plain.wav": (lambda p: write(p, SOUND), None),
}
OUTSIDE = {"../outside": "no file of this name", "/etc/hostname": "no file of this name", "..": "no file of this name"}
EXPECTED = {**{name.rsplit(".", 1)[0]: reason for name, (_, reason) in FILES.items()}, **OUTSIDE}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files, and a workspace list that names them and paths that lead out of the folder."""
    folder = tmp_path_factory.mktemp("odd")
    (folder / "audio").mkdir()
    for name, (make, _) in FILES.items():
        make(folder / "audio" / name)
    write(folder / "outside.wav", SOUND)  # where ../outside would lead
    with open(folder / "list.csv", "w", encoding="utf-8", newline="") as f:
        csv.writer(f).writerows([("idx", "trackid"), *enumerate(sorted(EXPECTED))])
    return folder


@pytest.mark.parametrize("name", ["mfcc", "musicnn", "mert"])
def test_each_is_a_row_or_a_reason(folder, tmp_path, capsys, name):
    backend = {"mfcc": mfcc, "musicnn": musicnn, "mert": mert}[name]
    flags = ["--device", "cpu"] if name != "mfcc" else []
    if name == "mert":
        flags += ["--weights", str(mert_checkpoint(tmp_path / "weights"))]
    write_text(tmp_path / "trackid_sorted.csv", (folder / "list.csv").read_text(encoding="utf-8"))
    with single_thread():
        backend.main(["--workdir", str(tmp_path), "--audio", str(folder / "audio"), "--batch", "4", *flags])
    ids, _ = dataset.read_tracks(tmp_path)
    values = np.load(tmp_path / "embeddings" / f"{name}.npy")
    about = read_json(tmp_path / "embeddings" / f"{name}.json")
    assert len(values) == len(ids) == len(EXPECTED)
    reasons = {v["trackid"]: v["reason"] for v in about["failed"].values()}
    assert {int(k): v["trackid"] for k, v in about["failed"].items()} == {
        ids.index(i): i for i, reason in EXPECTED.items() if reason}
    said = capsys.readouterr().out
    for row, track in zip(values, ids, strict=True):
        if reason := EXPECTED[track]:
            assert np.isnan(row).all() and reasons[track].startswith(reason), track
            assert f"  {track}: {reasons[track]}" in said
        else:
            assert np.isfinite(row).all(), track
    assert sorted(v["trackid"] for v in about["incomplete"].values()) == ["truncated flac", "truncated mp3"]
    check_values(dict(zip(ids, values, strict=True)), name)


def check_values(row, name):
    """The same sound in other containers is the same vector, more or less; silence and six channels are not."""
    def near(a, b):
        return np.linalg.norm(row[a] - row[b]) / np.linalg.norm(row["plain"])
    unicode = next(k for k in row if k.startswith("näme"))
    assert np.array_equal(row[unicode], row["plain"])
    for other in ("24 bit", "float"):
        assert near(other, "plain") < 0.01, other
    assert near("8 bit", "plain") < 0.6  # its noise is heard
    for other in ("silence", "six channels"):
        assert near(other, "plain") > 0.02, other


def test_without_a_list_the_files_make_it(folder, tmp_path):
    """Folders named like sound are no tracks then; dangling links are, as somebody meant them to be there."""
    mfcc.main(["--workdir", str(tmp_path), "--audio", str(folder / "audio")])
    ids, _ = dataset.read_tracks(tmp_path)
    assert ids == sorted(i for i in EXPECTED if i not in OUTSIDE and i != "folder")
    failed = read_json(tmp_path / "embeddings/mfcc.json")["failed"]
    assert {v["trackid"] for v in failed.values()} == {i for i, reason in EXPECTED.items() if reason} - {
        *OUTSIDE, "folder"}
