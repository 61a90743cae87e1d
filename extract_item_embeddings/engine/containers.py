"""How much sound an audio file holds, whatever length its header states: mp3, flac, ogg, wav and their like.

`measured` counts the frames or pages of the file itself. It is asked only where the length matters: for whole tracks,
excerpts of the middle, tracks shorter than the excerpt, and files that end earlier than stated.
"""
import functools
import io
import mmap
import os
from typing import NamedTuple

from extract_item_embeddings.engine import mpeg

TOLERANCE = 0.1         # seconds by which a header may differ, as encoders count their delays or do not
FLAC_TAIL = 1 << 20     # bytes at the end of a flac file that hold the header of its last frame
FLAC_NEAR = 1 << 16     # bytes that hold the header of a frame, wherever they begin
STREAMING = 0x7FFFF000  # sizes from here on stand for an unknown length in a wav file
END = "its end is missing"


class Held(NamedTuple):
    """What a file holds."""
    total: int | None    # samples per channel; None: only decoding can say
    source: object       # what libsndfile opens: the path as bytes, or a file object whose header is correct; a tuple
                         # of such objects where one follows the other
    stated: int          # samples that the header states
    damage: str = ""     # what is missing, in words; "" if nothing is known to be
    doubt: str = ""      # why libsndfile may not reach all of it; "" if it does
    gaps: tuple = ()     # samples at which something is missing inside


def measured(path, kind, rate, total):
    """The Held of a file.

    kind:  its format by the name of libsndfile; of formats without a method here the header is trusted
    rate:  Hz
    total: samples per channel, as libsndfile reads the header
    """
    held = Held(total, os.fsencode(path), total)
    method = {"MP3": _mp3, "MPEG": _mp3, "FLAC": _flac, "OGG": _ogg, "WAV": _wav, "WAVEX": _wav,
              "AIFF": _sized, "AU": _sized, "W64": _sized, "RF64": _sized}.get(kind)
    if method is None:
        return held
    with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:  # read as looked at
        return method(data, rate, held)


# --------------------------------------------------------------------------- mp3

def _mp3(data, rate, held):
    stream = mpeg.frames(data)
    if stream is None:
        return held
    if stream.others > 1:
        return held._replace(doubt="its parts differ in sample rate or channels")
    if stream.layer != 3 or stream.rate != rate:  # no Xing header, or a decoder that has read another stream
        differs = abs(stream.total / stream.rate - held.total / rate) > TOLERANCE
        return held._replace(doubt="its header and its frames state different lengths" if differs else "")
    held = held._replace(damage=END if stream.truncated else "")
    if stream.gaps:
        held = held._replace(damage=f"{sum(size for _, size in stream.gaps)} bytes inside are no audio",
                             gaps=tuple(frame * stream.samples for frame, _ in stream.gaps))
    elif abs(stream.total - held.total) <= TOLERANCE * rate:
        return held
    elif stream.header is None and held.total > stream.total:
        return held._replace(total=stream.total)
    whole = mpeg.rebuilt(data, stream)
    return held._replace(total=_length(whole), source=io.BytesIO(whole))


def unrecognised_mp3(path):
    """(Held, rate) of an mp3 that libsndfile does not recognise, as behind other bytes; None for anything else."""
    with open(path, "rb") as f:
        stream = mpeg.frames(data := f.read())
    if stream is None or stream.layer != 3 or stream.others > 1 or 2 * stream.sizes.sum() < len(data):
        return None
    return _mp3(data, stream.rate, Held(0, os.fsencode(path), 0)), stream.rate


def _length(data):
    import soundfile
    with soundfile.SoundFile(io.BytesIO(data)) as f:
        return f.frames


# --------------------------------------------------------------------------- flac

def _flac(data, rate, held):
    """By the number in the header of the last frame (RFC 9639, section 9.1)."""
    if data[:4] != b"fLaC":
        return held
    stated, block = int.from_bytes(data[18:26], "big") & (1 << 36) - 1, int.from_bytes(data[10:12], "big")
    tail = data[-FLAC_TAIL:]
    tail = tail[:-128] if tail[-128:-125] == b"TAG" else tail
    last = _last_frame(tail, block)
    if last is None:
        return held._replace(total=None, stated=stated, doubt="its last frame cannot be located",
                             damage=END if stated else "")
    at, first, count = last
    total, complete = first + count, True
    if total != stated and _crc(tail[at:-2], 0x8005, 16) != int.from_bytes(tail[-2:], "big"):
        total, complete = first, False
    if (total != stated or not _in_order(data, block)) and len(starts := _begins(data)) > 1:
        return _joined([data[a:b] for a, b in zip(starts, [*starts[1:], None], strict=True)], rate,
                       held._replace(total=None, stated=stated))
    if total == stated:
        return held
    head = (int.from_bytes(data[18:26], "big") >> 36 << 36 | total).to_bytes(8, "big")
    return held._replace(total=total, stated=stated, damage="" if complete else END,
                         source=io.BytesIO(b"".join([data[:18], head, data[26:]])))


def _in_order(data, block):
    """Whether the frames at eight places have ascending numbers."""
    numbers = []
    for place in range(len(data) // 9, len(data), len(data) // 9 + 1):
        near, at = data[place:place + FLAC_NEAR], -1
        while (at := near.find(b"\xff", at + 1)) >= 0:
            if header := _frame_header(near[at:at + 16], block):
                numbers.append(header[0])
                break
    return numbers == sorted(numbers)


def _begins(data):
    """Offsets at which a flac file begins: 0, and others where several were joined."""
    at, found = 0, [0]
    while (at := data.find(b"fLaC", at + 1)) > 0:
        if data[at + 4:at + 5] in (b"\x00", b"\x80") and data[at + 5:at + 8] == b"\x00\x00\x22":
            found.append(at)
    return found


def _joined(parts, rate, held):
    """The Held of several flac files in one: a decoder loses the end of each, so each is decoded by itself.

    Only where each is whole and they agree in sample rate and channels.
    """
    each = [_flac(part, rate, Held(None, io.BytesIO(part), 0)) for part in parts]
    if len({int.from_bytes(part[18:21], "big") >> 1 for part in parts}) > 1 or any(h.damage or h.doubt for h in each):
        return held._replace(doubt="it is several files in one")
    return held._replace(source=tuple(h.source for h in each))


def _last_frame(tail, block):
    """(byte offset, number of the first sample, samples) of the last frame by its header; None if there is none."""
    at = len(tail)
    while (at := tail.rfind(b"\xff", 0, at)) >= 0:
        if header := _frame_header(tail[at:at + 16], block):
            return at, *header
    return None


def _frame_header(b, block):
    """(number of the first sample, samples) by the header of a flac frame; None if it is none."""
    if len(b) < 16 or b[1] & 0xFE != 0xF8 or not b[2] >> 4 or b[2] & 15 == 15 or b[3] >> 4 > 10 or b[3] & 1 \
            or b[3] >> 1 & 7 == 3:
        return None
    more = 0 if b[4] < 0x80 else 8 - (~b[4] & 0xFF).bit_length() - 1  # bytes behind the first of a number
    if not 0 <= more <= 6 or b[4] >= 0x80 and not more or any(c >> 6 != 2 for c in b[5:5 + more]):
        return None
    lead = b[4] & 0x3F >> more if more else b[4]
    number = functools.reduce(lambda n, c: n << 6 | c & 0x3F, b[5:5 + more], lead)
    code, at = b[2] >> 4, 5 + more
    size = 192 if code == 1 else 576 << code - 2 if code < 6 else 1 << code  # of codes 6 and 7 it follows
    if code in (6, 7):
        size = int.from_bytes(b[at:at + code - 5], "big") + 1
        at += code - 5
    at += {12: 1, 13: 2, 14: 2}.get(b[2] & 15, 0)
    if at >= len(b) or _crc(b[:at], 0x07, 8) != b[at]:
        return None
    return number if b[1] & 1 else number * block, size


@functools.cache
def _crc_table(polynomial, bits):
    table = []
    for value in range(256):
        value <<= bits - 8
        for _ in range(8):
            value = value << 1 ^ (polynomial if value >> bits - 1 & 1 else 0)
        table.append(value & (1 << bits) - 1)
    return table


def _crc(data, polynomial, bits):
    table, mask, value = _crc_table(polynomial, bits), (1 << bits) - 1, 0
    for byte in data:
        value = (value << 8 ^ table[value >> bits - 8 ^ byte]) & mask
    return value


# --------------------------------------------------------------------------- ogg (vorbis, opus, flac)

def _ogg(data, rate, held):
    """Doubt if the pages (RFC 3533) are of several streams, not in order, or state a length that the others deny."""
    granules, numbers, begun, streams, at, skipped, cut = [], [], False, 0, 0, 0, False
    while 0 <= at < len(data):
        head = data[at:at + 27]
        if head[:4] != b"OggS" or len(head) < 27:
            found = data.find(b"OggS", at + 1)
            skipped += (found - at) if found >= 0 else 0
            cut |= found < 0 and head[:4] == b"OggS"
            at = found
            continue
        at += 27 + head[26] + sum(data[at + 27:at + 27 + head[26]])
        cut |= at > len(data)
        streams += head[5] >> 1 & 1 and begun
        begun |= not head[5] & 2
        numbers.append(int.from_bytes(head[18:22], "little"))
        granule = int.from_bytes(head[6:14], "little", signed=True)
        granules += [granule] * (granule > 0)
    if streams:
        return held._replace(total=None, doubt="it is several streams, one after the other")
    holes = skipped or numbers != list(range(numbers[0], numbers[0] + len(numbers)))
    if holes:
        return held._replace(total=None, doubt="a part inside is missing", damage="a part inside is missing")
    steps = [b - a for a, b in zip([0, *granules], granules, strict=False)]
    odd = any(step < 0 for step in steps) or len(steps) > 1 and steps[-1] > 2 * max(steps[1:-1], default=0) + 48000
    return held._replace(total=None if odd else held.total, damage=END if cut else "",
                         doubt="its pages state different lengths" if odd else "")


# --------------------------------------------------------------------------- wav

def _wav(data, rate, held):
    """A data chunk of length 0 reaches to the end of the file, as in ffmpeg."""
    at = 12
    while at + 8 <= len(data) and data[at:at + 4] != b"data":
        size = int.from_bytes(data[at + 4:at + 8], "little")
        at += 8 + size + size % 2
    if data[:4] != b"RIFF" or at + 8 > len(data):
        return held
    size, have = int.from_bytes(data[at + 4:at + 8], "little"), len(data) - at - 8
    if size == 0 and have:
        whole = io.BytesIO(b"".join([data[:at + 4], have.to_bytes(4, "little"), data[at + 8:]]))
        whole.seek(4)
        whole.write((len(data) - 8).to_bytes(4, "little"))
        whole.seek(0)
        return held._replace(total=_length(whole.getvalue()), source=whole)
    if have < size < STREAMING:
        return held._replace(stated=held.total * size // max(have, 1), damage=END)
    return held


# --------------------------------------------------------------------------- aiff, au, w64, rf64

def _sized(data, rate, held):
    """Damage if the file is shorter than the size in its header; a size that no file has stands for an unknown one."""
    def number(begin, end, order="big"):
        return int.from_bytes(data[begin:end], order)
    size = {b"FORM": lambda: 8 + number(4, 8), b".snd": lambda: number(4, 8) + number(8, 12),
            b"riff": lambda: number(16, 24, "little"), b"RF64": lambda: 8 + number(20, 28, "little")
            }.get(data[:4], lambda: 0)()
    if len(data) < size < (STREAMING if data[:4] in (b"FORM", b".snd") else 1 << 62):
        return held._replace(stated=held.total * size // len(data), damage=END)
    return held
