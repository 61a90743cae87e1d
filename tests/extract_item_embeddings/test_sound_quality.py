"""Doubtful sound and doubtful names: channels that cancel, silence, offsets, clipping; names that are no UTF-8."""
import os
import shutil
import subprocess
import unicodedata

import numpy as np
import pytest
import soundfile

from extract_item_embeddings import mfcc
from extract_item_embeddings.engine import audio, quality
from harness.errors import WorkError
from harness.readers import read_json
from tests.extract_item_embeddings.test_audio import write
from tests.extract_item_embeddings.test_sound_length import RATE, sweep

SOUND = sweep(4)
OTHER = sweep(4, seed=1)[::-1].copy()
NOISE = np.random.default_rng(0).normal(0, 0.2, len(SOUND)).astype(np.float32)
CANCEL = "left and right cancel each other; the right was inverted before mixing"


def channels(*each):
    return np.stack(each, axis=1).astype(np.float32)


def surround(**at):
    """5.1: some level of unrelated noise in every channel, but those given by c0=, c1=, ..."""
    noise = np.random.default_rng(7).normal(0, 0.01, (6, len(SOUND)))
    return channels(*(at.get(f"c{k}", noise[k]) for k in range(6)))


def mixed(block):
    return quality.mixed(np.ascontiguousarray(block, np.float32))


@pytest.mark.parametrize("name, block, expected", [
    ("exactly", channels(SOUND, -SOUND), SOUND),
    ("nearly", channels(SOUND, -0.98 * SOUND), 0.99 * SOUND),
    ("half as loud", channels(SOUND, -0.55 * SOUND), 0.775 * SOUND),
    ("in noise", channels(SOUND + 0.1 * NOISE, -SOUND + 0.1 * OTHER), SOUND + 0.05 * (NOISE - OTHER)),
    ("with offsets", channels(SOUND + 0.002, -SOUND + 0.002), SOUND),
])
def test_two_channels_that_cancel_are_mixed_with_one_inverted(name, block, expected):
    mono, remarks = mixed(block)
    assert remarks == [CANCEL]
    assert np.allclose(mono, expected, atol=1e-6)  # float32 rounding of values below 1


def test_a_pair_of_5_1_that_cancels(tmp_path):
    mono, remarks = mixed(surround(c0=OTHER, c4=SOUND, c5=-SOUND))
    assert remarks == ["channels 5 and 6 of 6 cancel each other; the latter was inverted before mixing"]
    assert np.corrcoef(mono, OTHER + 2 * SOUND)[0, 1] > 0.99
    weak = surround(c0=OTHER, c4=0.01 * SOUND, c5=-0.01 * SOUND)
    assert np.array_equal(mixed(weak)[0], plain_mean(weak)) and mixed(weak)[1] == []  # a pair nobody hears
    three = channels(SOUND, -SOUND, OTHER)
    assert np.allclose(mixed(three)[0], (2 * SOUND + OTHER) / 3, atol=1e-6)


def plain_mean(block):
    mono = block[:, 0].copy()
    for channel in range(1, block.shape[1]):
        mono += block[:, channel]
    return mono / np.float32(block.shape[1])


@pytest.mark.parametrize("block", [
    channels(SOUND), channels(SOUND, SOUND), channels(SOUND, OTHER), channels(SOUND, 0.2 * OTHER),
    channels(SOUND, 0.7 * OTHER - 0.4 * SOUND), surround(c0=SOUND, c1=OTHER), surround(c2=SOUND, c5=0 * SOUND),
    channels(SOUND, OTHER, SOUND)])
def test_other_channels_are_averaged_to_the_bit_without_a_word(block):
    mono, remarks = mixed(block)
    assert np.array_equal(mono, plain_mean(block)) and remarks == []


SQUARE = np.sign(np.sin(np.arange(len(SOUND)) / 9)).astype(np.float32)
DOUBTFUL = {
    "silence": (0 * SOUND, "digital silence"),
    "stereo silence": (channels(0 * SOUND, 0 * SOUND), "digital silence"),
    "dither": (NOISE * 1e-4, "silence: the peak is -8"),
    "constant": (np.full_like(SOUND, 0.25), "no sound: a constant value of 0.25"),
    "offset": (0.3 * SOUND + 0.3, "constant offset of 0.3"),
    "negative offset": (0.3 * SOUND - 0.1, "constant offset of -0.1"),
    "offset of both": (channels(SOUND + 0.2, OTHER + 0.2), "constant offset of 0.2"),
    "clipped": (np.clip(3 * NOISE, -0.999, 0.999), "clipped: "),
    "clipped, then made quieter": (0.4 * np.clip(3 * NOISE, -1, 1), "clipped: "),
    "clipped tone": (np.clip(4 * SOUND, -1, 1), "clipped: "),
    "one channel clipped": (channels(OTHER, np.clip(8 * SOUND, -1, 1)), "clipped: "),
    "square wave": (0.5 * SQUARE, "clipped: "),
    "12 times": (40 * SOUND, "samples reach 1"),
    "as whole numbers": (32768 * NOISE, "samples reach 3.1e+04 times full scale"),
    "left alone": (channels(SOUND, 0 * SOUND), "the right channel is silent, so the mean is 6 dB"),
    "right alone": (channels(0 * SOUND, SOUND), "the left channel is silent, so the mean is 6 dB"),
}
FINE = {
    "sweep": SOUND, "noise": NOISE, "loud": SOUND * 3 / np.abs(SOUND * 3).max(), "tone at full scale":
    np.sin(np.arange(len(SOUND)) / 9).astype(np.float32), "quiet": SOUND * 0.003, "just over": SOUND * 1.5 / 0.35,
    "tone above full scale": 1.05 * np.sin(np.arange(len(SOUND)) / 9).astype(np.float32),
    "small offset": NOISE + 0.004, "8 bits": np.round(NOISE * 128) / 128,
    "16 bits, quiet": np.round(SOUND * 300) / 32768, "a few clipped": np.clip(NOISE, -0.6, 0.6),
    "half silent": np.where(np.arange(len(SOUND)) % 50_000 > 25_000, SOUND, 0),
    "a pulse a second": np.where(np.arange(len(SOUND)) % RATE < 40, 0.9, 0) * NOISE + 0.1 * NOISE,
}


@pytest.mark.parametrize("name", DOUBTFUL)
def test_doubtful_sound_is_named(name):
    samples, remark = DOUBTFUL[name]
    _, remarks = mixed(samples.reshape(len(samples), -1))
    assert len(remarks) == 1 and remarks[0].startswith(remark)


@pytest.mark.parametrize("name", FINE)
def test_unusual_but_sound_recordings_are_not(name):
    _, remarks = mixed(FINE[name].astype(np.float32)[:, None])
    assert remarks == []


def test_the_share_of_clipped_samples_and_several_remarks():
    clipped = np.clip(3 * NOISE, -0.9, 0.9)
    share = np.mean(np.abs(clipped) == np.float32(0.9))
    assert mixed(clipped[:, None])[1] == [f"clipped: {100 * share:.0f} % of the samples are at the peak"]
    assert [r.split()[0] for r in mixed((20 * SOUND + 9)[:, None])[1]] == ["samples", "constant"]


@pytest.mark.parametrize("count", [1, 2, 2205, 3 * quality.PROBE + 1])
def test_clips_of_any_length(count):
    for block in (SOUND[:count, None], channels(SOUND, OTHER)[:count], channels(SOUND, -SOUND)[:count]):
        mono, _ = mixed(block)
        assert mono.shape == (count,) and np.isfinite(mono).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_left_to_the_caller(value):
    for block in (channels(SOUND), channels(SOUND, OTHER)):
        block[777, -1] = value
        assert mixed(block)[1] is None


@pytest.mark.parametrize("suffix", ["mp3", "ogg", "flac"])
def test_clipping_and_cancelling_survive_codecs(tmp_path, suffix):
    for block, remark in ((np.clip(6 * sweep(4), -1, 1)[:, None], "clipped: "), (channels(SOUND, -SOUND), CANCEL),
                          (0 * SOUND, ("digital silence", "silence: ")), (SOUND, "")):
        clip = audio.decode(write(tmp_path / f"a.{suffix}", block, RATE))
        assert clip.quality.startswith(remark) and bool(clip.quality) == bool(remark)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
def test_formats_read_by_ffmpeg_are_looked_at_too(tmp_path):
    write(tmp_path / "a.wav", channels(SOUND, -SOUND), RATE)
    subprocess.run(["ffmpeg", "-v", "error", "-i", tmp_path / "a.wav", tmp_path / "a.m4a"], check=True)
    clip = audio.decode(tmp_path / "a.m4a")
    assert clip.quality == CANCEL and np.abs(clip.samples).max() > 0.2


def by_track(workdir, field):
    return {v["trackid"]: v["reason"] for v in read_json(workdir / "embeddings/mfcc.json")[field].values()}


def test_the_json_and_the_summary_name_them(tmp_path, capsys):
    """Through the command line, in batches, resumed by --merge; a track of the usual kind has no entry."""
    sounds = {"a": SOUND, "b": channels(SOUND, -SOUND), "c": 0 * SOUND, "d": SOUND + 0.5, "e": SOUND}
    for name, block in sounds.items():
        write(tmp_path / f"{name}.wav", block, RATE, subtype="FLOAT")
    for shard in ("0/2", "1/2"):
        mfcc.main(["--audio", str(tmp_path), "--workdir", str(tmp_path / "w"), "--batch", "2", "--shard", shard])
    mfcc.main(["--workdir", str(tmp_path / "w"), "--merge"])
    assert by_track(tmp_path / "w", "quality") == {
        "b": CANCEL, "c": "digital silence", "d": "constant offset of 0.5"}
    assert by_track(tmp_path / "w", "failed") == by_track(tmp_path / "w", "incomplete") == {}
    said = capsys.readouterr().out
    assert "0 were decoded in part, 3 have doubtful sound: " in said and "  c: digital silence\n" in said
    rows = np.load(tmp_path / "w/embeddings/mfcc.npy")
    assert np.allclose(rows[1], rows[0], rtol=1e-4, atol=1e-3)  # the inverted sum is rounded once more
    assert np.isfinite(rows).all()


def test_public_example_of_opposite_channels(shared, tmp_path, capsys):
    recipe = shared / "faults/public/03-opposite-channels/make.py"
    ids = ran(recipe, tmp_path)
    rows = dict(zip(ids, np.load(tmp_path / "w/embeddings/mfcc.npy"), strict=True))
    for name in ("opposite", "nearly"):
        # nearly: .99 of the level is -.087 dB, which is .99 in the first coefficient of 60
        assert np.linalg.norm(rows[name] - rows["mono"]) < 0.02 * np.linalg.norm(rows["mono"])
    assert by_track(tmp_path / "w", "quality") == {"opposite": CANCEL, "nearly": CANCEL, "silence": "digital silence"}
    said = capsys.readouterr().out
    assert all(f"  {name}: " in said for name in ("opposite", "nearly", "silence"))


def test_public_example_of_a_name_that_is_not_utf8(shared, tmp_path, capsys):
    assert ran(shared / "faults/public/05-file-name-not-utf8/make.py", tmp_path) == ["good"]
    assert np.isfinite(np.load(tmp_path / "w/embeddings/mfcc.npy")).all()
    assert "mod\\x85.wav" in capsys.readouterr().err


def ran(recipe, folder):
    """Make a public example, extract MFCCs of it, return the ids."""
    import sys
    if not recipe.is_file():
        pytest.skip(f"needs {recipe}")
    subprocess.run([sys.executable, recipe, folder / "audio"], check=True)
    mfcc.main(["--audio", str(folder / "audio"), "--workdir", str(folder / "w")])
    lines = (folder / "w/trackid_sorted.csv").read_text(encoding="utf-8").splitlines()[1:]
    return [line.split(",")[1] for line in lines]


# --------------------------------------------------------------------------- names

def raw_file(folder, name):
    """A wav whose name is given in bytes; skips where the file system takes UTF-8 only."""
    soundfile.write(folder / "temporary.wav", SOUND, RATE)
    try:
        os.rename(os.fsencode(folder / "temporary.wav"), os.path.join(os.fsencode(folder), name))
    except OSError:
        (folder / "temporary.wav").unlink()
        pytest.skip("the file system takes no names but UTF-8")


def test_files_without_a_utf8_name_are_named_and_the_others_done(tmp_path, capsys):
    (tmp_path / "audio").mkdir()
    write(tmp_path / "audio/good.wav", SOUND, RATE)
    for name in (b"mod\x85.wav", b"\xff\xfe.wav", b"caf\xe9.mp3", b"na\xefve.flac"):
        raw_file(tmp_path / "audio", name)
    for extra in ([], ["--overwrite"]):  # with and without a track list
        mfcc.main(["--audio", str(tmp_path / "audio"), "--workdir", str(tmp_path / "w"), *extra])
        said = capsys.readouterr().err
        assert "not UTF-8" in said and "caf\\xe9.mp3" in said and " and 1 more" in said and "rename" in said
    assert (tmp_path / "w/trackid_sorted.csv").read_text() == "idx,trackid\n0,good\n"
    assert by_track(tmp_path / "w", "failed") == {}


def test_a_folder_without_a_utf8_name_is_searched(tmp_path):
    folder = os.path.join(os.fsencode(tmp_path), b"m\xfasica")
    try:
        os.mkdir(folder)
    except OSError:
        pytest.skip("the file system takes no names but UTF-8")
    soundfile.write(tmp_path / "a.wav", SOUND, RATE)
    os.rename(tmp_path / "a.wav", os.path.join(folder, b"a.wav"))
    mfcc.main(["--audio", str(tmp_path), "--workdir", str(tmp_path / "w")])
    assert np.isfinite(np.load(tmp_path / "w/embeddings/mfcc.npy")).all()


def test_only_names_without_utf8_is_one_sentence(tmp_path):
    raw_file(tmp_path, b"mod\x85.wav")
    with pytest.raises(WorkError, match=r"no audio file under .*not UTF-8.*mod\\x85.wav"):
        audio.make_track_list(tmp_path / "list.csv", tmp_path)


NFC, NFD = (unicodedata.normalize(form, "Björk – Jóga") for form in ("NFC", "NFD"))


@pytest.mark.parametrize("on_disk", [NFC, NFD])
@pytest.mark.parametrize("in_list", [NFC, NFD, None])
def test_ids_are_compared_in_nfc(tmp_path, on_disk, in_list):
    write(tmp_path / f"{on_disk}.wav", SOUND, RATE)
    if in_list:
        (tmp_path / "w").mkdir()
        (tmp_path / "w/trackid_sorted.csv").write_text(f"idx,trackid\n0,{in_list}\n", encoding="utf-8")
    mfcc.main(["--audio", str(tmp_path), "--workdir", str(tmp_path / "w")])
    assert by_track(tmp_path / "w", "failed") == {}
    listed = (tmp_path / "w/trackid_sorted.csv").read_text(encoding="utf-8").splitlines()[1]
    assert listed == f"0,{in_list or NFC}"


def test_ids_that_differ_only_in_form_are_named(tmp_path):
    write(tmp_path / f"{NFC}.wav", SOUND, RATE)
    with pytest.raises(WorkError, match="the track ids 'Bj.*' and 'Bj.*' differ only in their Unicode form") as e:
        audio.find(tmp_path, [NFC, "other", NFD])
    assert ascii(NFC) in str(e.value) and ascii(NFD) in str(e.value)
    write(tmp_path / f"{NFD}.wav", SOUND, RATE)
    if len(list(tmp_path.iterdir())) == 1:
        pytest.skip("the file system keeps one of the two names")
    with pytest.raises(WorkError, match=r"more than one file, 'Bj.*wav' and 'Bj.*wav', whose names differ only in"):
        audio.find(tmp_path, [NFC])
