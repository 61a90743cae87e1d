"""The frames of an mp3 file, counted in the file itself: its header states their number, often wrongly.

`frames` lists them by their own headers (ISO/IEC 11172-3, section 2.4.2.3) and skips tags and damage; `rebuilt` is the
same stream with a correct Xing header, which libsndfile then reads to the end. Nothing is decoded here.
"""
import functools
import re
from typing import NamedTuple

import numpy as np

RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # Hz, by the bits of the version
LOWER = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
KBITS = {(True, 1): range(32, 449, 32),
         (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
         (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
         (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
         (False, 2): LOWER, (False, 3): LOWER}  # bit rates by (MPEG-1, layer)
IN_A_ROW = 3        # frames of one kind that must follow one another where none of this kind has been seen
PLACES = re.compile(rb"\xff|ID3|TAG|APETAGEX")  # where a frame or a tag may begin
PERIOD = 49         # frames after which the sizes repeat at a constant bit rate: 44,100 Hz is 900 times 49
HEADER_ROOM = 200   # bytes of a frame that has room for a Xing header


class Stream(NamedTuple):
    """The frames of a file that have its most frequent kind: version, layer, sample rate, mono or not."""
    rate: int             # Hz
    layer: int
    samples: int          # per frame and channel
    starts: np.ndarray    # int64 (n,), byte offsets; a header frame (Xing, Info, VBRI) is no part of it
    sizes: np.ndarray     # int64 (n,), bytes
    header: int | None    # byte offset of a Xing or Info header
    stated: tuple         # (frames, bytes) by that header, None for what it does not state
    gaps: tuple           # ((number of the frame behind it, bytes), ...): bytes that are neither frame nor tag
    others: int           # frames of another kind
    cut: bool             # the last frame is incomplete

    @property
    def total(self):
        """Samples per channel of all frames, with the encoder's delay and padding."""
        return len(self.starts) * self.samples

    @property
    def truncated(self):
        """Whether the header states frames, and bytes of them, that the file does not have."""
        count, size = self.stated
        if count is None or count <= len(self.starts) + 1:
            return False
        have = self.starts[-1] + self.sizes[-1] - self.header
        return self.cut if size is None else bool(size > have)


# --------------------------------------------------------------------------- headers and tags

def _kind(data, at):
    """Version, layer and sample rate of a frame header: its second and third byte without all other bits."""
    return (data[at + 1] << 8 | data[at + 2]) & 0xFE0C


def _of(kind):
    """(bits of the version, layer, sample rate in Hz) of a kind; None if no frame has such bits."""
    version, layer, rate = kind >> 11 & 3, 4 - (kind >> 9 & 3), kind >> 2 & 3
    if kind >> 13 != 7 or version == 1 or layer == 4 or rate == 3:
        return None
    return version, layer, RATES[version][rate]


@functools.cache
def _lengths(kind):
    """{first three bytes of a header: bytes of its frame} of one kind."""
    if _of(kind) is None:
        return {}
    version, layer, hertz = _of(kind)
    slots = 12 if layer == 1 else 72 if layer == 3 and version != 3 else 144
    table = {}
    for index, kbits in enumerate(KBITS[version == 3, layer], start=1):
        for padding in (0, 1):
            size = (slots * kbits * 1000 // hertz + padding) * (4 if layer == 1 else 1)
            for rest in (0x000, 0x001, 0x100, 0x101):  # the private and the protection bit
                table[(0xFF0000 | kind | index << 4 | padding << 1 | rest).to_bytes(3, "big")] = size
    return table


def _size(data, at):
    """Bytes of the frame that begins at `at`; 0 if none does."""
    return _lengths(_kind(data, at)).get(data[at:at + 3], 0) if at + 4 <= len(data) else 0


def _side(data, at):
    """Bytes of a layer III frame before its main data: header, checksum and side information."""
    lower, mono = data[at + 1] >> 3 & 3 != 3, data[at + 3] >> 6 == 3
    return 4 + {(False, False): 32, (False, True): 17, (True, False): 17, (True, True): 9}[lower, mono]


def _header(data, at):
    """'Xing' for a frame that is a Xing or Info header, 'VBRI' for Fraunhofer's, '' for one with audio."""
    if data[at + 1] >> 1 & 3 != 1:  # not layer III
        return ""
    if data[at + 36:at + 40] == b"VBRI":
        return "VBRI"
    return "Xing" if data[at + _side(data, at):][:4] in (b"Xing", b"Info") else ""


def _behind_tag(data, at):
    """Byte offset behind the ID3 or APE tag that begins at `at`; `at` if none does."""
    head = data[at:at + 16]
    if head[:3] == b"ID3" and len(head) == 16 and max(head[6:10]) < 128:
        return at + 10 + functools.reduce(lambda size, byte: size << 7 | byte, head[6:10]) + (head[5] >> 4 & 1) * 10
    if head[:3] == b"TAG" and len(data) - at >= 128:
        return at + 128
    if head[:8] == b"APETAGEX" and len(head) == 16:
        return at + 32 + int.from_bytes(head[12:], "little")
    return at


# --------------------------------------------------------------------------- all frames of a file

def frames(data):
    """The Stream of an mp3 file (bytes); None if it has no frame. Frames of a free bit rate are not seen."""
    runs, at, end, cut = [], 0, len(data), False
    while True:
        at, skipped, tagged = _next(data, at, {kind for kind, *_ in runs})
        if at == end:
            break
        kind, bounds = _run(data, at)
        behind = int(bounds[-1])
        if behind > end:
            cut, bounds = True, bounds[:-1]
        if len(bounds) > 1:
            padding = tagged or not runs or bool(_header(data, at))
            runs.append((kind, bounds, 0 if padding else skipped))
        at = min(behind, end)
    return _stream(data, runs, cut) if runs else None


def _next(data, at, known):
    """(byte offset of the next frame, bytes before it that belong to no tag, whether a tag lies before it).

    The offset is the length of the data if no frame follows. known: kinds that have been seen
    """
    skipped, tagged, end = 0, False, len(data)
    while at < end:
        behind = _behind_tag(data, at)
        if behind > at:
            at, tagged = min(behind, end), True
            continue
        if _begins(data, at, known):
            break
        place = PLACES.search(data, at + 1)
        step = (place.start() if place else end) - at
        at, skipped = at + step, skipped + step
    return at, skipped, tagged


def _begins(data, at, known):
    """Whether a frame begins at `at`, and others of its kind behind it, as far as the data reach."""
    kind = _kind(data, at) if at + 4 <= len(data) else None
    for _ in range(2 if kind in known else IN_A_ROW):
        size = _size(data, at)
        if not size or _kind(data, at) != kind:
            return False
        at += size
        if at > len(data) - 4 or _behind_tag(data, at) > at:
            return True
    return True


def _run(data, at):
    """(kind, byte offsets of the frames that follow one another from `at` on and, as the last, of their end)."""
    kind, first = _kind(data, at), []
    at = _walk(data, at, kind, first, PERIOD + 1)
    if at is None:
        return kind, np.array(first)
    repeated = _repeated(data, np.array(first[1:]), at)  # the frame before them may be a header
    last, rest = int(repeated[-1]) if len(repeated) else first[-1], []
    _walk(data, last + _size(data, last), kind, rest, None)
    return kind, np.concatenate([first, repeated, rest]).astype(np.int64)


def _walk(data, at, kind, bounds, most):
    """Append the byte offsets of frames to `bounds`, and that of their end behind the last.

    Returns the byte offset of the next frame if there are `most` offsets before the end is reached, else None.
    """
    length, add = _lengths(kind).get, bounds.append
    while len(bounds) != most:
        add(at)
        size = length(data[at:at + 3])
        if size is None:
            return None
        at += size
    return at


def _repeated(data, starts, at):
    """Byte offsets (n,) of the frames from `at` on that repeat the headers of those at `starts`, period by period.

    At a constant bit rate the pattern of padded frames has a period of PERIOD frames, so that all offsets are known
    and one comparison tells whether these headers are there; at a variable one n is 0 or small.
    """
    shift = at - int(starts[0])
    places = (starts + shift * np.arange(1, (len(data) - at) // shift + 2)[:, None]).ravel()
    places = places[places <= len(data) - 4]
    raw, near = np.frombuffer(data, np.uint8), np.arange(3)
    heads = raw[starts[:, None] + near]
    same = (raw[places[:, None] + near] == np.resize(heads, (len(places), 3))).all(axis=1)
    return places if same.all() else places[:int(np.argmin(same))]


def _stream(data, runs, cut):
    counts = {}
    for kind, bounds, _ in runs:
        counts[kind] = counts.get(kind, 0) + len(bounds) - 1
    kind, others = max(counts, key=counts.get), sum(counts.values()) - max(counts.values())
    starts, sizes, gaps, count = [], [], [], 0
    for bounds, skipped in ((bounds, skipped) for other, bounds, skipped in runs if other == kind):
        if skipped:  # the second half of the frame before it lies in the damage
            starts[-1:], sizes[-1:], count = [starts[-1][:-1]], [sizes[-1][:-1]], count - 1
            gaps.append((count, skipped))
        starts.append(bounds[:-1])
        sizes.append(np.diff(bounds))
        count += len(bounds) - 1
    starts, sizes = np.concatenate(starts), np.concatenate(sizes)
    name, first = _header(data, int(starts[0])), int(starts[0])
    header, stated = (first, _stated(data, first)) if name == "Xing" else (None, (None, None))
    begin = 1 if name else 0
    mono = np.frombuffer(data, np.uint8)[starts + 3] >> 6 == 3
    same = mono == (2 * np.count_nonzero(mono) > len(mono))
    same[:begin] = False
    if not same.any():
        return None
    others += len(same) - begin - int(np.count_nonzero(same))
    gaps = tuple((int(np.count_nonzero(same[:frame])), size) for frame, size in gaps)
    version, layer, rate = _of(kind)
    samples = 384 if layer == 1 else 576 if layer == 3 and version != 3 else 1152
    return Stream(rate, layer, samples, starts[same], sizes[same], header, stated, gaps, others, cut)


def _stated(data, at):
    """(frames, bytes) stated by a Xing header, None for what it does not state."""
    at += _side(data, at) + 4
    flags, *fields = (int.from_bytes(data[p:p + 4], "big") for p in (at, at + 4, at + 8))
    count = fields.pop(0) if flags & 1 else None
    return count, fields.pop(0) if flags & 2 else None


# --------------------------------------------------------------------------- a file whose header is right

def rebuilt(data, stream):
    """The frames of a layer III Stream of `data` as the bytes of an mp3 file, its Xing header with their true number.

    The encoder's delay and padding are those of the file's own header, if it has one.
    """
    sizes = int(stream.sizes.sum())
    if None not in stream.stated:
        head = bytearray(data[stream.header:stream.header + _size(data, stream.header)])
        at = _side(data, stream.header) + 8
        if head[at - 1] == 15 and stream.stated[0] != len(stream.starts):  # LAME's padding is that of another end
            head[at + 134:at + 136] = head[at + 134] & 0xF0, 0
    else:
        first = int(stream.starts[0])
        begin, size = min(((key, size) for key, size in _lengths(_kind(data, first)).items()
                           if key[1] & 1 and not key[2] & 1 and size >= HEADER_ROOM), key=lambda entry: entry[1])
        head = bytearray(size)
        head[:4] = *begin, data[first + 3]
        at = _side(head, 0) + 8
        head[at - 8:at] = b"Xing" + (3).to_bytes(4, "big")
    head[at:at + 4] = len(stream.starts).to_bytes(4, "big")
    head[at + 4:at + 8] = (len(head) + sizes).to_bytes(4, "big")
    ends = stream.starts + stream.sizes
    breaks = np.flatnonzero(stream.starts[1:] != ends[:-1]) + 1
    begin = stream.starts[np.concatenate([[0], breaks])].tolist()
    stop = ends[np.concatenate([breaks - 1, [len(ends) - 1]])].tolist()
    return b"".join([bytes(head), *(data[a:b] for a, b in zip(begin, stop, strict=True))])
