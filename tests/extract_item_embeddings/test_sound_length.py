"""How long a track is: what the file holds counts, whatever its header states, in both directions and after damage."""
import shutil
import struct
import subprocess

import numpy as np
import pytest
import soundfile

from extract_item_embeddings import mfcc
from extract_item_embeddings.engine import audio, containers, mpeg
from harness.readers import read_json
from tests.extract_item_embeddings.test_audio import cut, write

RATE, SECONDS = 22050, 8
needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")


def sweep(seconds=SECONDS, rate=RATE, seed=0):
    """A rising tone in noise, float32 (N,): no two places of it are alike, so that a shift shows."""
    t = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(seed).normal(0, 0.02, t.size)
    return (0.3 * np.sin(2 * np.pi * (300 * t + 100 * t ** 2)) + noise).astype(np.float32)


SOUND = sweep()
QUIET_FIRST = np.concatenate([np.zeros(RATE * 3, np.float32), SOUND[RATE * 3:]])
LOUD_FIRST = np.concatenate([0.9 * np.random.default_rng(1).uniform(-1, 1, RATE).astype(np.float32), SOUND[RATE:] / 50])


def encoded(folder, suffix, samples=SOUND, rate=RATE, **kwargs):
    return write(folder / f"whole.{suffix}", samples, rate, **kwargs).read_bytes()


def mp3(folder, samples=SOUND, rate=RATE):
    return encoded(folder, "mp3", samples, rate, bitrate_mode="VARIABLE", compression_level=0.4)


def spoilt(data, size, how=None):
    """The bytes with `size` of them in the middle replaced by zeros, or by other bytes."""
    at = len(data) // 2
    filling = bytes(size) if how is None else np.random.default_rng(2).bytes(size)
    return data[:at] + filling + data[at + size:]


def without_header(data):
    return data[int(mpeg.frames(data).starts[0]):]


def xing(data, frames):
    """An mp3 whose Xing header states so many frames."""
    at = max(data.find(b"Xing"), data.find(b"Info")) + 8
    return data[:at] + struct.pack(">I", frames) + data[at + 4:]


def id3(size):
    """An ID3 tag with a cover of `size` bytes, in which headers of frames occur."""
    cover = (b"\xff\xfb\x90\x64" + bytes(100)) * (size // 104 + 1)
    return b"ID3\x03\x00\x00" + bytes(size >> shift & 127 for shift in (21, 14, 7, 0)) + cover[:size]


def flac_total(data, total):
    value = int.from_bytes(data[18:26], "big") >> 36 << 36 | total
    return data[:18] + value.to_bytes(8, "big") + data[26:]


def crc_of_page(page):
    value = 0
    for byte in page:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ 0x04C11DB7 if value & 1 << 31 else value << 1) & 0xFFFFFFFF
    return value


def ogg_length(data, samples):
    """An ogg whose last page states so many samples."""
    at = data.rfind(b"OggS")
    page = bytearray(data[at:])
    page[6:14], page[22:26] = struct.pack("<q", samples), bytes(4)
    page[22:26] = struct.pack("<I", crc_of_page(page))
    return data[:at] + bytes(page)


def wav_length(data, size):
    at = data.find(b"data") + 4
    return data[:at] + struct.pack("<I", size) + data[at + 4:]


def decoded(folder, name, data, *excerpt):
    (folder / name).write_bytes(data)
    with audio.quiet_decoders():
        return audio.decode(folder / name, *excerpt)


def alike(a, b):
    """Correlation of two signals of about the same length, at the best shift of up to 3,000 samples (codec delays)."""
    n = min(len(a), len(b)) - 3000
    window = a[1500:1500 + n]
    return max(np.corrcoef(window, b[s:s + n])[0, 1] for s in shifts(window, b[:n + 3000]))


def shifts(window, b):
    size = 1 << (len(b) + len(window) - 1).bit_length()
    product = np.fft.irfft(np.fft.rfft(b, size) * np.conj(np.fft.rfft(window, size)), size)
    return [int(np.argmax(product[:3001]))]


OPUS = {"samples": sweep(rate=48000), "rate": 48000, "format": "OGG", "subtype": "OPUS"}
WHOLE = {  # name: how it is made from what soundfile writes, with a header that is wrong in some way
    "header of 80 frames.mp3": lambda d: xing(mp3(d), 80),
    "header of twice the frames.mp3": lambda d: xing(mp3(d), 2 * len(mpeg.frames(mp3(d)).starts)),
    "no header, loud first.mp3": lambda d: without_header(mp3(d, LOUD_FIRST)),
    "no header, quiet first.mp3": lambda d: without_header(mp3(d, QUIET_FIRST)),
    "large tag.mp3": lambda d: id3(1_500_000) + mp3(d),
    "large tag, no header.mp3": lambda d: id3(300_000) + without_header(mp3(d, LOUD_FIRST)),
    "tag at the end.mp3": lambda d: without_header(mp3(d, LOUD_FIRST)) + b"TAG" + bytes(125),
    "junk first.mp3": lambda d: np.random.default_rng(3).bytes(5000) + mp3(d),
    "much junk first.mp3": lambda d: b"HTTP/1.1 200 OK\r\n" * 500 + xing(mp3(d), 80),
    "zeros first.mp3": lambda d: bytes(40_000) + without_header(mp3(d, LOUD_FIRST)),
    "44 kHz stereo.mp3": lambda d: xing(mp3(d, np.stack([sweep(rate=44100)] * 2, axis=1), 44100), 80),
    "total of 0.flac": lambda d: flac_total(encoded(d, "flac"), 0),
    "total of 2 s.flac": lambda d: flac_total(encoded(d, "flac"), 2 * RATE),
    "total of 25 s.flac": lambda d: flac_total(encoded(d, "flac"), 25 * RATE),
    "total of 2 s, tagged.flac": lambda d: flac_total(encoded(d, "flac"), 2 * RATE) + b"TAG" + bytes(125),
    "granule of 25 s.ogg": lambda d: ogg_length(encoded(d, "ogg"), 25 * RATE),
    "granule of 25 s.opus": lambda d: ogg_length(encoded(d, "opus", **OPUS), 25 * 48000),
    "length 0.wav": lambda d: wav_length(encoded(d, "wav"), 0),
    "length unknown.wav": lambda d: wav_length(encoded(d, "wav"), 0xFFFFFFFF),
    "length 0, 24 bit.wav": lambda d: wav_length(encoded(d, "wav", subtype="PCM_24"), 0),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_wrong_length_in_the_header_changes_nothing(tmp_path, name, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)  # nothing of this needs ffmpeg
    data = WHOLE[name](tmp_path)
    whole = LOUD_FIRST if "loud" in name or "no header" in name or name.startswith(("zeros", "tag at")) else SOUND
    whole = QUIET_FIRST if "quiet" in name else OPUS["samples"] if name.endswith("opus") else whole
    whole = sweep(rate=44100) if "stereo" in name else whole
    for excerpt in ((30, "start"), (0, "start"), (0, "middle")):
        clip = decoded(tmp_path, name, data, *excerpt)
        assert abs(clip.seconds - SECONDS) < 0.12 and clip.note == ""  # up to two frames of an encoder's delay
        assert alike(clip.samples[-4 * clip.rate:], whole[-4 * clip.rate:]) > 0.95  # lossy codecs: .97 and more
    middle = decoded(tmp_path, name, data, 2, "middle")
    begin = round((len(clip.samples) - len(middle.samples)) / 2)
    assert abs(middle.seconds - 2) < 0.01 and middle.note == ""
    assert alike(middle.samples, clip.samples[begin - 1500:begin + len(middle.samples) + 1500]) > 0.95


@needs_ffmpeg
@pytest.mark.parametrize("name, make", [
    ("granule of 2 s.ogg", lambda d: ogg_length(encoded(d, "ogg"), 2 * RATE)),
    ("chained.ogg", lambda d: encoded(d, "ogg") + encoded(d, "ogg")),
    ("mono and stereo.flac", lambda d: encoded(d, "flac") + encoded(d, "flac", np.stack([SOUND, SOUND], axis=1))),
    ("two rates.mp3", lambda d: mp3(d) + mp3(d, sweep(rate=44100), 44100)),
    ("mono and stereo.mp3", lambda d: mp3(d) + mp3(d, np.stack([SOUND, SOUND], axis=1))),
])
def test_what_libsndfile_does_not_reach_is_decoded_by_ffmpeg_or_named(tmp_path, name, make, monkeypatch):
    data, seconds = make(tmp_path), 2 * SECONDS
    seconds = SECONDS if name == "granule of 2 s.ogg" else seconds
    clip = decoded(tmp_path, name, data, 0)
    assert abs(clip.seconds - seconds) < 0.5 and clip.note == ""  # ffmpeg drops two frames where files meet
    assert alike(clip.samples[-3 * clip.rate:], sweep(rate=clip.rate)[-3 * clip.rate:]) > 0.9
    middle = decoded(tmp_path, name, data, 1, "middle").samples
    begin = (len(clip.samples) - len(middle)) // 2
    assert alike(middle, clip.samples[begin - 1500:begin + len(middle) + 1500]) > 0.95
    monkeypatch.setattr(shutil, "which", lambda _: None)
    alone = decoded(tmp_path, name, data, 0)
    assert alone.seconds < seconds - 2 and alone.note.startswith(("in part: ", "damaged: "))
    assert f"{alone.seconds:.2f} s decoded" in alone.note


@pytest.mark.parametrize("seconds", [(8, 8), (3, 8, 1.5), (8, 0.3)])
def test_joined_flacs_are_decoded_to_the_sample(tmp_path, seconds):
    parts = [SOUND[:round(s * RATE)] for s in seconds]
    files, whole = [encoded(tmp_path, "flac", part) for part in parts], np.concatenate(parts)
    clip = decoded(tmp_path, "a.flac", b"".join(files), 0)
    assert len(clip.samples) == len(whole) and clip.note == "" and np.abs(clip.samples - whole).max() < 1e-4   # 16 bits
    middle = decoded(tmp_path, "a.flac", b"".join(files), 2, "middle").samples
    begin = (len(whole) - len(middle)) // 2
    assert np.abs(middle - whole[begin:begin + 2 * RATE]).max() < 1e-4
    assert len(decoded(tmp_path, "a.flac", b"".join(files), 8.2).samples) == round(8.2 * RATE)
    short = decoded(tmp_path, "a.flac", b"".join(files)[:-9], 0)
    assert short.note.startswith("damaged: ") and 0 < len(whole) - len(short.samples) < .5 * RATE


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE", "AVERAGE"])
@pytest.mark.parametrize("rate", [44100, 48000, 22050])
def test_frames_of_a_constant_bit_rate_are_those_of_a_walk(tmp_path, mode, rate):
    """All at once or one by one, also where the pattern breaks in the middle."""
    data = encoded(tmp_path, "mp3", sweep(rate=rate), rate, bitrate_mode=mode)
    for broken in (data, data[:9000] + data[9400:], data + data[:-200]):
        at, _, _ = mpeg._next(broken, 0, set())
        kind, bounds = mpeg._run(broken, at)
        walked = []
        mpeg._walk(broken, at, kind, walked, None)
        assert bounds.tolist() == walked and len(walked) > 10


def test_joined_mp3s_are_decoded_to_the_end(tmp_path):
    """Each with a header of its own, tags between them."""
    for between in (b"", b"TAG" + bytes(125) + id3(4000)):
        clip = decoded(tmp_path, "joined.mp3", mp3(tmp_path, SOUND[:RATE]) + between + mp3(tmp_path), 0)
        assert abs(clip.seconds - SECONDS - 1) < 0.2 and clip.note == ""
        assert alike(clip.samples[-5 * RATE:], SOUND[-5 * RATE:]) > 0.95


DAMAGED = {
    "zeros.mp3": lambda d: spoilt(mp3(d), 5000),
    "noise.mp3": lambda d: spoilt(mp3(d), 5000, "noise"),
    "zeros, no header.mp3": lambda d: spoilt(without_header(mp3(d)), 5000),
    "bytes lost.mp3": lambda d: mp3(d)[:12_000] + b"\0" * 3000 + mp3(d)[20_000:],
    "hole.ogg": lambda d: spoilt(encoded(d, "ogg"), 8000, "noise"),
}
BY_FFMPEG = {
    "zeros.flac": lambda d: spoilt(encoded(d, "flac"), 6000),
    "noise.flac": lambda d: spoilt(encoded(d, "flac"), 6000, "noise"),
    "bytes lost.flac": lambda d: encoded(d, "flac")[:60_000] + encoded(d, "flac")[70_000:],
}


@pytest.mark.parametrize("name", [*DAMAGED, *(pytest.param(n, marks=needs_ffmpeg) for n in BY_FFMPEG)])
def test_what_lies_behind_damage_is_decoded_and_the_damage_named(tmp_path, name):
    clip = decoded(tmp_path, name, (DAMAGED | BY_FFMPEG)[name](tmp_path), 0)
    assert SECONDS / 2 + 1 < clip.seconds < SECONDS
    assert clip.note.startswith("damaged: ") and f"{clip.seconds:.2f} s decoded" in clip.note
    assert alike(clip.samples[-2 * RATE:], SOUND[-2 * RATE:]) > 0.95
    assert np.abs(clip.samples).max() < 1  # no burst where decoding begins anew
    before = decoded(tmp_path, name, (DAMAGED | BY_FFMPEG)[name](tmp_path), 1)
    assert before.seconds == 1 and before.note == ""  # the excerpt has none of it


@needs_ffmpeg
def test_m4a_and_aac(tmp_path):
    """Read by ffmpeg: false durations are no matter, a truncated or damaged one is named."""
    write(tmp_path / "a.wav", SOUND, RATE)
    for name, flags in (("a.m4a", ["-movflags", "faststart"]), ("a.aac", [])):
        subprocess.run(["ffmpeg", "-v", "error", "-i", tmp_path / "a.wav", *flags, tmp_path / name], check=True)
    good = (tmp_path / "a.m4a").read_bytes()
    false = bytearray(good)
    for box, at in ((b"mvhd", 20), (b"mdhd", 20), (b"tkhd", 24)):
        at += good.find(box)
        false[at:at + 4] = struct.pack(">I", 1000)
    for name, data, note in (("good.m4a", good, False), ("false.m4a", bytes(false), False),
                             ("half.m4a", good[:len(good) * 2 // 3], True), ("zeros.m4a", spoilt(good, 5000), True),
                             ("joined.aac", 2 * (tmp_path / "a.aac").read_bytes(), False)):
        clip = decoded(tmp_path, name, data, 0)
        assert clip.note.startswith("damaged: ffmpeg could not decode all of it") == note, name
        assert note or abs(clip.seconds - SECONDS * (1 + name.startswith("joined"))) < 0.2, name


@needs_ffmpeg
@pytest.mark.parametrize("name", ["a.wma", "a.mka", "a.wv"])
def test_an_excerpt_by_ffmpeg_is_whole_and_a_missing_end_named(tmp_path, name):
    """The times of a wma begin late, so that -t alone leaves the excerpt short."""
    write(tmp_path / "a.wav", SOUND, RATE)
    subprocess.run(["ffmpeg", "-v", "error", "-i", tmp_path / "a.wav", tmp_path / name], check=True)
    whole, part = audio.decode(tmp_path / name, 0), audio.decode(tmp_path / name, 2)
    assert len(part.samples) == 2 * RATE and part.note == whole.note == ""
    np.testing.assert_array_equal(part.samples, whole.samples[:2 * RATE])
    path = cut(tmp_path / name, 0.8, tmp_path / f"cut-{name}")
    assert audio.decode(path, 0).note.startswith("damaged: ffmpeg could not decode all of it")


@pytest.mark.parametrize("suffix, note", [
    ("mp3", "damaged: only"), ("flac", "damaged: only"), ("ogg", "damaged: its end is missing"),
    ("wav", "damaged: only"), ("aiff", "damaged: only"), ("au", "damaged: only"), ("w64", "damaged: only"),
    ("rf64", "damaged: only")])
def test_a_missing_end_is_named_unless_the_excerpt_lies_before_it(tmp_path, suffix, note):
    data = encoded(tmp_path, suffix)
    path = cut(tmp_path / f"whole.{suffix}", 0.6, tmp_path / f"a.{suffix}")
    assert path.stat().st_size < len(data)
    with audio.quiet_decoders():
        assert audio.decode(path, 0).note.startswith(note)
        assert audio.decode(path, 30).note.startswith(note)
        assert audio.decode(path, 1).note == ""


@pytest.mark.parametrize("suffix, options", [
    ("wav", {}), ("flac", {}), ("ogg", {}), ("mp3", {}), ("mp3", {"bitrate_mode": "CONSTANT"}), ("aiff", {}),
    ("au", {}), ("opus", {"format": "OGG", "subtype": "OPUS"})])
@pytest.mark.parametrize("channels", [1, 2])
def test_ordinary_files_are_decoded_as_before_to_the_bit(tmp_path, suffix, options, channels, monkeypatch):
    rate = 48000 if suffix == "opus" else RATE
    sound = np.stack([sweep(rate=rate), sweep(rate=rate, seed=1)], axis=1)[:, :channels]
    path = write(tmp_path / f"a.{suffix}", sound, rate, **options)
    monkeypatch.setattr(shutil, "which", lambda _: None)

    def as_before(frames=-1, middle=False):
        with soundfile.SoundFile(path) as f:
            if middle:
                f.seek((f.frames - frames) // 2)
            block = f.read(frames, dtype="float32", always_2d=True)
        mono = block[:, 0].copy()
        for channel in range(1, channels):
            mono += block[:, channel]
        return mono / np.float32(channels)
    for seconds in (0, 30):
        clip = audio.decode(path, seconds, "start")
        assert np.array_equal(clip.samples, as_before()) and clip.note == clip.quality == ""
    assert np.array_equal(audio.decode(path, 2, "middle").samples, as_before(2 * rate, True))
    monkeypatch.setattr(containers, "measured", None)  # an excerpt of the start needs no measuring
    assert np.array_equal(audio.decode(path, 3, "start").samples, as_before(3 * rate))


def test_no_bytes_whatever_end_in_a_traceback(tmp_path):
    """Headers of mp3, flac, ogg and wav before random bytes, and good files with random bytes anywhere."""
    random = np.random.default_rng(5)
    good = {s: encoded(tmp_path, s, SOUND[:RATE]) for s in ("mp3", "flac", "ogg", "wav")}
    for trial in range(60):
        suffix = list(good)[trial % 4]
        data = bytearray(good[suffix])
        for at in random.integers(0, len(data) - 40, trial % 7 + 1).tolist():
            data[at:at + 40] = random.bytes(40)
        data = data[:random.integers(20, len(data))] if trial % 3 else data
        try:
            decoded(tmp_path, f"a.{suffix}", bytes(data), (0, 30, 0.3)[trial % 3], ("start", "middle")[trial % 2])
        except audio.AudioError:
            pass


def test_the_public_examples(shared, tmp_path, capsys):
    """Five mp3s of 12.0, 12.0, 12.0, 12.0 and 10.1 s; all of it is heard, and none is called damaged."""
    folder = shared / "faults/public/01-mp3-length-in-header/audio"
    if not folder.is_dir():
        pytest.skip(f"needs {folder}")
    with audio.quiet_decoders():
        seconds = {p.stem: audio.decode(p).seconds for p in folder.glob("*.mp3")}
        middle = {p.stem: audio.decode(p, 4, "middle").samples for p in folder.glob("*.mp3")}
    assert seconds == pytest.approx(dict.fromkeys(
        ("vbr_no_header", "ffmpeg_pipe", "quiet_first", "with_header"), 12.0) | {"joined": 10.1}, abs=0.1)
    assert alike(middle["vbr_no_header"], middle["with_header"]) > 0.95
    assert alike(middle["ffmpeg_pipe"], middle["with_header"]) > 0.9
    mfcc.main(["--workdir", str(tmp_path), "--audio", str(folder)])
    about, rows = read_json(tmp_path / "embeddings/mfcc.json"), np.load(tmp_path / "embeddings/mfcc.npy")
    assert about["failed"] == about["incomplete"] == about["quality"] == {}
    row = dict(zip(("ffmpeg_pipe", "joined", "quiet_first", "vbr_no_header", "with_header"), rows, strict=True))
    for name in ("vbr_no_header", "ffmpeg_pipe"):  # .001 and .06; with a part of it alone 1 and more
        assert np.linalg.norm(row[name] - row["with_header"]) < 0.15 * np.linalg.norm(row["with_header"])
