"""Locating, decoding and resampling audio files, independent of the models.

`find` maps track ids to files, `decode` a file to mono samples, `resample` samples to the rate of a
model. A file that cannot be read raises AudioError with the reason; what the machine refuses is raised as it is.

soundfile reads wav, flac, ogg, opus, mp3, aiff and more. Files that it cannot read, or not to their end, are decoded
by an ffmpeg pipe if ffmpeg is installed. The length in a header is a hint (see containers.py). Everything runs in
threads: libsndfile and soxr release the GIL.
"""
import contextlib
import csv
import errno
import os
import re
import shutil
import signal
import stat
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np

from extract_item_embeddings.engine import containers, quality
from harness.errors import WorkError
from harness.files import atomic
from harness.ids import normal

SUFFIXES = frozenset(("." + " .".join("""wav wave w64 rf64 flac ogg oga opus mp3 mp2 aif aiff aifc au snd caf
    m4a m4b mp4 aac ac3 wma wv ape tta mka webm amr dsf mpc""".split())).split())
SHORTEST = 0.1        # seconds; minimum length of the decoded audio
REMARKS = re.compile(rb"\[?src/libmpg123|Note: (Illegal|Trying|Hit end|Skipped)|Warning: (Encountered|Real|Xing)")
MORE = 0.02           # seconds; what another decoder must add to be preferred
LOST = re.compile(rb"Error while decoding|Error submitting packet|partial file|ended prematurely|Input/output error"
                  )  # remarks of ffmpeg on damage
FFMPEG_PATIENCE = 300  # seconds; timeout of a decoder
FFMPEG_EARLY = 1.0     # seconds by which the times of a file may begin late, so that -t would stop early
SYSTEM_ERROR = 2       # SF_ERR_SYSTEM of libsndfile
REFUSED = frozenset((errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ESTALE,
                     errno.ENOTCONN))  # errors of the system that pass, whatever the file


class AudioError(Exception):
    """The file has no usable audio; the message is the reason."""


class MachineError(Exception):
    """A decoder could not do its work, which says nothing about the file; the message is the reason."""


class Clip(NamedTuple):
    """Decoded audio of one track."""
    samples: np.ndarray  # float32 (N,), mono, full scale is 1
    rate: int            # Hz
    note: str            # "" or the damage, such as a truncated end
    quality: str = ""    # "" or what is wrong with the sound, such as silence

    @property
    def seconds(self):
        return len(self.samples) / self.rate


def of_machine(error):
    """Whether an error is of the machine (memory, space, files, threads, time), so that the file may be read later."""
    if isinstance(error, OSError):
        return error.errno in REFUSED
    return isinstance(error, MachineError | MemoryError) or (
        isinstance(error, RuntimeError) and bool(re.search("can't (start new thread|allocate memory)", str(error))))


# --------------------------------------------------------------------------- tracks and files

def make_track_list(path, folder):
    """Write `idx,trackid` of the sorted file stems under `folder`; WorkError if there is no audio file.

    folder: or {track id: Path} of a list
    """
    if isinstance(folder, dict):
        return _write_track_list(path, sorted(folder))
    found, foreign = _scan(folder)
    stems = sorted(stem for stem, paths in found.items() if not all(p.is_dir() for p in paths))
    if not stems:
        also = f"; {_named(foreign)}" if foreign else ""
        raise WorkError(f"no audio file under {folder}; files named <track id>.<extension> are expected there "
                        f"(wav, flac, ogg, mp3, ...){also}")
    _write_track_list(path, stems)


def _write_track_list(path, stems):
    with atomic(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as f:
        csv.writer(f, lineterminator="\n").writerows([("idx", "trackid"), *enumerate(stems)])


def find(folder, ids):
    """The file of each track: list of Path or None, in the order of `ids`.

    Files are matched by stem, compared as every id is (harness/ids.py), at any depth, following symbolic links; a track
    id is never joined to a path, so no id can point outside the folder. Two files with the same stem and two ids of
    the same form are WorkErrors. Files whose names can be no id belong to no track; they are named on stderr.
    """
    known, foreign = _scan(folder)
    if foreign:
        print(_named(foreign), file=sys.stderr)
    forms = {}
    for i in ids:
        if (other := forms.setdefault(normal(i), i)) != i:
            raise WorkError(f"the track ids {ascii(other)} and {ascii(i)} differ only in their Unicode form or in "
                            "blanks around them; leave one of them in trackid_sorted.csv")
    paths = [known.get(form, []) for form in forms]
    double = [(i, p) for i, p in zip(ids, paths, strict=True) if len(p) > 1]
    if double:
        track, (a, b, *_) = double[0]
        more = f" ({len(double)} tracks have this)" if len(double) > 1 else ""
        a, b = a.relative_to(folder), b.relative_to(folder)
        if a.stem != b.stem:
            a, b = ascii(str(a)), ascii(str(b))
            more = f", whose names differ only in their Unicode form or in blanks around them{more}"
        raise WorkError(f"track {track} has more than one file, {a} and {b}{more}; leave one file per track")
    if not any(paths):
        raise WorkError(f"none of the {len(ids)} tracks of the track list has a file under {folder}; files "
                             f"named <track id>.<extension> are expected there, for example {ids[0]}.mp3")
    return [p[0] if p else None for p in paths]


def _scan(folder):
    """What has the suffix of an audio file under `folder`: ({id of its stem: [paths]}, [paths that can have no id])."""
    paths, foreign, seen = {}, [], set()
    for here, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:  # a link to a parent folder would be an endless loop
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        for name in sorted([*files, *folders]):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() not in SUFFIXES or name.startswith("."):
                continue
            if name.isprintable() or not any("\ud800" <= c <= "\udfff" or c == "\r" for c in stem.strip()):
                paths.setdefault(normal(stem), []).append(Path(here, name))
            else:
                foreign.append(Path(here, name).relative_to(folder))
    return paths, foreign


def _named(foreign):
    """The sentence about files whose names can be no track id."""
    names = [os.fsencode(p).decode("utf-8", "backslashreplace").replace("\r", "\\r") for p in foreign]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ("skipped, because the name is not UTF-8 or holds a carriage return, as no track id may: "
            f"{', '.join(names[:3])}{more}; rename such files, for example with convmv")


# --------------------------------------------------------------------------- decoding

def decode(path, seconds=30.0, offset="start"):
    """The audio of a file as a Clip: channels averaged (see quality.mixed), sample rate as in the file.

    seconds: length of the excerpt, 0 for the whole track; a shorter track is returned whole
    offset:  "start", or "middle" for the excerpt around the middle of the decodable audio
    raises:  AudioError for a missing, unreadable, empty or too short file and for samples that are
             not finite; errors for which `of_machine` is true. Of a damaged file all that can be
             decoded is returned, with a note.
    """
    _check_file(path)
    try:
        block, rate, note = _soundfile(path, seconds, offset)
    except AudioError as refused:
        block, rate, note = _refused(path, seconds, offset, refused)
    if len(block) < SHORTEST * rate:
        raise AudioError(f"only {len(block) / rate:.3g} s of audio; at least {SHORTEST} s are needed")
    samples, remarks = quality.mixed(block)
    if remarks is None:
        bad = np.count_nonzero(~np.isfinite(samples))
        raise AudioError(f"{bad} of {len(samples)} samples are not finite numbers")
    return Clip(samples, rate, note, "; ".join(remarks))


def resample(clip, rate):
    """Samples of a Clip at `rate` Hz, float32 (N,)."""
    if clip.rate == rate:
        return clip.samples
    import soxr
    return soxr.resample(clip.samples, clip.rate, rate, quality="HQ")


def _check_file(path):
    if path is None:
        raise AudioError("no file of this name")
    try:
        s = os.stat(path)
    except OSError as e:
        if of_machine(e):
            raise
        link = " (a broken link)" if os.path.islink(path) else ""
        raise AudioError(f"{e.strerror}{link}") from None
    if not stat.S_ISREG(s.st_mode):
        raise AudioError("a folder, not a file" if stat.S_ISDIR(s.st_mode) else "not a regular file")
    if s.st_size == 0:
        raise AudioError("the file is empty (0 bytes)")


def _soundfile(path, seconds, offset):
    """(float32 (N, C), rate, note) of the excerpt by libsndfile, or by ffmpeg where that decodes more.

    A header's length is trusted only for an excerpt of the start that the file turns out to have in full.
    """
    import soundfile
    try:
        with soundfile.SoundFile(os.fsencode(path)) as f:
            rate, kind, total = f.samplerate, f.format, f.frames
            asked = round(seconds * rate)
            if asked and offset == "start" and asked <= total:
                with contextlib.suppress(soundfile.LibsndfileError, MemoryError):
                    block = f.read(asked, dtype="float32", always_2d=True)
                    if len(block) == asked:
                        return block, rate, ""
        return _measured(path, containers.measured(path, kind, rate, total), rate, seconds, offset)
    except soundfile.LibsndfileError as e:
        if e.code == SYSTEM_ERROR:
            with open(path, "rb"):  # raises what the system said to the library
                pass
        # the library's message for an mp3 without a frame is "not a regular file"
        said = e.error_string.removeprefix("Error : ").strip(" .")
        said = "format not recognised" if "regular file" in said else said
        raise AudioError(f"not readable as audio: {said}") from None


def _measured(path, held, rate, seconds, offset):
    """As _soundfile, of a file that has been measured (a containers.Held)."""
    block, start, heard, reached = _excerpt(held, rate, round(seconds * rate) or None, offset)
    heard, stated, other = heard / rate, max(held.stated, held.total or 0) / rate, None
    if held.doubt or not reached or not len(block):
        other = _longer(path, seconds, offset, heard + (MORE if reached else 0))
        block, rate = other or (block, rate)
    length, note = len(block) / rate, ""
    at_end = not seconds or length < seconds - SHORTEST
    if any(start <= gap <= start + len(block) for gap in held.gaps):
        note = f"damaged: {held.damage}; {length:.2f} s decoded"
    elif (held.damage or not reached) and min(stated, seconds or stated) - length > SHORTEST:
        note = f"damaged: only {length:.2f} s decoded"
    elif not reached or held.damage and at_end:
        note = f"damaged: {held.damage or 'a part inside is missing'}; {length:.2f} s decoded"
    elif held.doubt and at_end and not other and shutil.which("ffmpeg") is None and (
            held.total is not None or heard >= stated - SHORTEST):  # it stopped where the header says
        note = f"in part: {length:.2f} s decoded, as {held.doubt}; ffmpeg, which may read more, is not installed"
    return block, rate, note


def _longer(path, seconds, offset, least):
    """(float32 (N, C), rate): the excerpt by ffmpeg; None if it decodes less than `least` seconds up to its end."""
    try:  # for the middle all of it, as that depends on its length
        block, rate, _ = _ffmpeg(path, seconds if offset == "start" else 0, "start")
    except AudioError:
        return None
    return (_cut(block, round(seconds * rate), offset)[0], rate) if len(block) >= least * rate else None


def _excerpt(held, rate, asked, offset):
    """The excerpt of a Held by libsndfile.

    Returns float32 (N, C), the number of its first sample, the number of samples up to which the decoder got, and
    whether that is as far as it should get.
    """
    total = held.total
    if total is None:
        block, clean = _read(held.source, 0, None)
        return *_cut(block, asked, offset), len(block), clean
    want = min(asked or total, total)
    start = (total - want) // 2 if offset == "middle" else 0
    block, _ = _read(held.source, start, want)
    if want - len(block) <= SHORTEST * rate:
        return block, start, start + len(block), True
    if start:
        block, _ = _read(held.source, 0, None)
    return *_cut(block, asked, offset), len(block), False


def _read(source, start, count):
    """(float32 (N, C), whether no error ended it): `count` samples from `start` on, None for all.

    After an error it is read again in small blocks, so that little before the damage is lost.
    """
    import soundfile
    if isinstance(source, tuple):
        blocks, clean = zip(*(_read(part, 0, None) for part in source), strict=True)
        return np.concatenate(blocks)[start:][:count], all(clean)
    if hasattr(source, "seek"):
        source.seek(0)
    with soundfile.SoundFile(source) as f:
        if count is not None:
            with contextlib.suppress(soundfile.LibsndfileError, MemoryError):  # MemoryError: an absurd length
                if start:  # mpg123 rounds otherwise after seeking, even to the start
                    f.seek(start)
                block = f.read(count, dtype="float32", always_2d=True)
                if len(block) == count:
                    return block, True
    if hasattr(source, "seek"):
        source.seek(0)
    with soundfile.SoundFile(source) as f:
        blocks, clean = [np.zeros((0, f.channels), np.float32)], True
        try:
            if start:
                f.seek(start)
            while len(block := f.read(1024, dtype="float32", always_2d=True)):
                blocks.append(block)
        except soundfile.LibsndfileError:
            clean = False
    block = np.concatenate(blocks)
    return block if count is None else block[:count], clean


def _cut(block, asked, offset):
    """(the excerpt of a block, its first sample)"""
    if not asked or asked >= len(block):
        return block, 0
    start = (len(block) - asked) // 2 if offset == "middle" else 0
    return block[start:start + asked], start


def _refused(path, seconds, offset, refused):
    """As _soundfile, of a file that libsndfile does not recognise."""
    if mp3 := containers.unrecognised_mp3(path):
        return _measured(path, *mp3, seconds, offset)
    try:
        return _ffmpeg(path, seconds, offset)
    except AudioError as e:
        raise AudioError(f"{refused}; {e}") from None


def _ffmpeg(path, seconds, offset):
    """As _soundfile, by `ffmpeg`; the pipe carries AU, whose header needs no length."""
    program = shutil.which("ffmpeg")
    if program is None:
        raise AudioError("ffmpeg, which reads more formats, is not installed")
    limit = ["-t", str(seconds + FFMPEG_EARLY)] if seconds and offset == "start" else []
    command = [program, "-nostdin", "-v", "error", "-protocol_whitelist", "file,pipe", "-i", f"file:{path}",
               "-map", "0:a:0", *limit, "-c:a", "pcm_f32be", "-f", "au", "pipe:1"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=FFMPEG_PATIENCE)
    except subprocess.TimeoutExpired:
        raise AudioError(f"ffmpeg did not finish within {FFMPEG_PATIENCE} s") from None   # a file may hang it always
    if done.returncode == -signal.SIGKILL:  # by a system that is out of memory
        raise MachineError("ffmpeg was killed")
    if len(done.stdout) < 24 or done.stdout[:4] != b".snd":
        lines = re.sub(r"\[[^]]* @ 0x[0-9a-f]+\] ", "", done.stderr.decode(errors="replace")).strip().splitlines()
        raise AudioError(f"ffmpeg: {lines[-1] if lines else 'no audio in it'}")
    begin, _, _, rate, channels = struct.unpack(">5I", done.stdout[4:24])
    usable = (len(done.stdout) - begin) // (4 * channels) * channels
    block = np.frombuffer(done.stdout, ">f4", usable, begin).reshape(-1, channels).astype(np.float32)
    block, _ = _cut(block, round(seconds * rate), offset)
    note = ""
    if done.returncode:
        note = "damaged: ffmpeg stopped before the end"
    elif LOST.search(done.stderr):
        note = f"damaged: ffmpeg could not decode all of it; {len(block) / rate:.2f} s decoded"
    return block, rate, note


@contextlib.contextmanager
def quiet_decoders():
    """Filter the messages of libmpg123 from stderr, where thousands would hide the progress bar.

    The library writes to file descriptor 2 directly. In this context the descriptor is a pipe whose other
    lines are forwarded; Python's own stderr is unchanged.
    """
    real, (read, write) = os.dup(2), os.pipe()
    python = sys.stderr
    if python is sys.__stderr__:
        sys.stderr = open(os.dup(real), "w", buffering=1, errors="replace")
    os.dup2(write, 2)
    os.close(write)

    def pass_on():
        with open(read, "rb") as lines:
            for line in lines:
                if not REMARKS.match(line):
                    os.write(real, line)
    passing = threading.Thread(target=pass_on, daemon=True)
    passing.start()
    try:
        yield
    finally:
        os.dup2(real, 2)  # the pipe's last writer is gone, so the thread ends
        passing.join()
        os.close(real)
        if sys.stderr is not python:
            sys.stderr.close()
            sys.stderr = python
