"""Locating, decoding and resampling audio files, independent of the models.

`find` maps track ids to files, `decode` a file to mono samples, `resample` samples to the rate of a
model. A file that cannot be read raises AudioError with the reason.

soundfile reads wav, flac, ogg, opus, mp3, aiff and more; files that it cannot read are decoded by an ffmpeg
pipe if ffmpeg is installed. Everything runs in threads: libsndfile and soxr release the GIL.
"""
import contextlib
import csv
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import threading
import unicodedata
from pathlib import Path
from typing import NamedTuple

import numpy as np

from harness.errors import WorkError
from harness.files import atomic

SUFFIXES = frozenset(("." + " .".join("""wav wave w64 rf64 flac ogg oga opus mp3 mp2 aif aiff aifc au snd caf
    m4a m4b mp4 aac ac3 wma wv ape tta mka webm amr dsf mpc""".split())).split())
SHORTEST = 0.1        # seconds; minimum length of the decoded audio
REMARKS = re.compile(rb"\[?src/libmpg123|Note: (Illegal|Trying|Hit end|Skipped)|Warning: (Encountered|Real|Xing)")
FFMPEG_PATIENCE = 300  # seconds; timeout of a decoder


class AudioError(Exception):
    """The file has no usable audio; the message is the reason."""


class Clip(NamedTuple):
    """Decoded audio of one track."""
    samples: np.ndarray  # float32 (N,), mono, full scale is 1
    rate: int            # Hz
    note: str            # "" or the damage, such as a truncated end

    @property
    def seconds(self):
        return len(self.samples) / self.rate


# --------------------------------------------------------------------------- tracks and files

def make_track_list(path, folder):
    """Write `idx,trackid` of the sorted file stems under `folder`; WorkError if there is no audio file."""
    stems = sorted(stem for stem, paths in _scan(folder).items() if not all(p.is_dir() for p in paths))
    if not stems:
        raise WorkError(f"no audio file under {folder}; files named <track id>.<extension> are expected there "
                        "(wav, flac, ogg, mp3, ...)")
    with atomic(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as f:
        csv.writer(f, lineterminator="\n").writerows([("idx", "trackid"), *enumerate(stems)])


def find(folder, ids):
    """The file of each track: list of Path or None, in the order of `ids`.

    Files are matched by stem, at any depth, following symbolic links; a track id is never joined to
    a path, so no id can point outside the folder. Two files with the same stem are a WorkError.
    """
    known = _scan(folder)
    paths = [known.get(unicodedata.normalize("NFC", i), []) for i in ids]
    double = [(i, p) for i, p in zip(ids, paths, strict=True) if len(p) > 1]
    if double:
        track, (a, b, *_) = double[0]
        more = f" ({len(double)} tracks have this)" if len(double) > 1 else ""
        raise WorkError(f"track {track} has more than one file, {a.relative_to(folder)} and "
                             f"{b.relative_to(folder)}{more}; leave one file per track")
    if not any(paths):
        raise WorkError(f"none of the {len(ids)} tracks of the track list has a file under {folder}; files "
                             f"named <track id>.<extension> are expected there, for example {ids[0]}.mp3")
    return [p[0] if p else None for p in paths]


def _scan(folder):
    """{stem: [paths]} of everything under `folder` with the suffix of an audio file, in sorted order."""
    paths, seen = {}, set()
    for here, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:  # a link to a parent folder would be an endless loop
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        for name in sorted([*files, *folders]):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in SUFFIXES and not name.startswith("."):
                paths.setdefault(unicodedata.normalize("NFC", stem), []).append(Path(here, name))
    return paths


def fingerprint(path):
    """Identity of a file's content: '<name> <size> <mtime>', or the reason why it cannot be read."""
    if path is None:
        return "no file"
    try:
        s = path.stat()
    except OSError as e:
        return f"{path.name} {e.strerror}"
    return f"{path.name} {s.st_size} {s.st_mtime_ns}"


# --------------------------------------------------------------------------- decoding

def decode(path, seconds=30.0, offset="start"):
    """The audio of a file as a Clip: channels averaged, sample rate as in the file.

    seconds: length of the excerpt, 0 for the whole track; a shorter track is returned whole
    offset:  "start", or "middle" for the excerpt around the middle of the decodable audio
    raises:  AudioError for a missing, unreadable, empty or too short file and for samples that are
             not finite. Of a damaged file the audio before the damage is returned, with a note.
    """
    _check_file(path)
    try:
        clip = _soundfile(path, seconds, offset)
    except AudioError as refused:
        clip = _ffmpeg(path, seconds, offset, refused)
    if clip.seconds < SHORTEST:
        raise AudioError(f"only {clip.seconds:.3g} s of audio; at least {SHORTEST} s are needed")
    bad = np.count_nonzero(~np.isfinite(clip.samples))
    if bad:
        raise AudioError(f"{bad} of {len(clip.samples)} samples are not finite numbers")
    return clip


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
        link = " (a broken link)" if os.path.islink(path) else ""
        raise AudioError(f"{e.strerror}{link}") from None
    if not stat.S_ISREG(s.st_mode):
        raise AudioError("a folder, not a file" if stat.S_ISDIR(s.st_mode) else "not a regular file")
    if s.st_size == 0:
        raise AudioError("the file is empty (0 bytes)")


def _soundfile(path, seconds, offset):
    import soundfile
    note = ""
    try:
        with soundfile.SoundFile(path) as f:
            rate, total = f.samplerate, f.frames
            want = min(round(seconds * rate), total) if seconds else total
            try:
                if offset == "middle" and want < total:
                    f.seek((total - want) // 2)
                samples = _mono(f.read(want, dtype="float32", always_2d=True))
            except (soundfile.LibsndfileError, MemoryError):  # MemoryError: a damaged header, an absurd length
                samples = np.zeros(0, np.float32)
        if len(samples) < want:
            samples = _excerpt(_salvage(path, want if offset == "start" else total), want, offset)
            if (want - len(samples)) / rate > SHORTEST:
                note = f"damaged: only {len(samples) / rate:.2f} s decoded"
    except soundfile.LibsndfileError as e:
        raise _unreadable(e) from None
    return Clip(samples, rate, note)


def _unreadable(e):
    """AudioError of a LibsndfileError. The library's message for an mp3 without a frame is "not a regular file"."""
    said = e.error_string.removeprefix("Error : ").strip(" .")
    return AudioError(f"not readable as audio: {'format not recognised' if 'regular file' in said else said}")


def _salvage(path, most):
    """The audio of a damaged file up to the damage, read in small blocks so that little is lost."""
    import soundfile
    blocks, have = [np.zeros(0, np.float32)], 0
    with soundfile.SoundFile(path) as f:
        try:
            while have < most:
                block = f.read(min(1024, most - have), dtype="float32", always_2d=True)
                if not len(block):
                    break
                blocks.append(_mono(block))
                have += len(block)
        except soundfile.LibsndfileError as e:
            if not have:
                raise _unreadable(e) from None
    return np.concatenate(blocks)


def _mono(block):
    """(N, C) -> (N,): mean of the channels (numpy's mean over such a short axis is slow)."""
    mono = block[:, 0].copy()
    for channel in range(1, block.shape[1]):
        mono += block[:, channel]
    mono /= block.shape[1]
    return mono


def _excerpt(samples, want, offset):
    if not want or want >= len(samples):
        return samples
    start = (len(samples) - want) // 2 if offset == "middle" else 0
    return samples[start:start + want]


def _ffmpeg(path, seconds, offset, refused):
    """As _soundfile, by `ffmpeg`; the pipe carries AU, whose header needs no length."""
    program = shutil.which("ffmpeg")
    if program is None:
        raise AudioError(f"{refused}; ffmpeg, which reads more formats, is not installed")
    limit = ["-t", str(seconds)] if seconds and offset == "start" else []
    command = [program, "-nostdin", "-v", "error", "-protocol_whitelist", "file,pipe", "-i", f"file:{path}",
               "-map", "0:a:0", *limit, "-c:a", "pcm_f32be", "-f", "au", "pipe:1"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=FFMPEG_PATIENCE)
    except subprocess.TimeoutExpired:
        raise AudioError(f"{refused}; ffmpeg did not finish within {FFMPEG_PATIENCE} s") from None
    if len(done.stdout) < 24 or done.stdout[:4] != b".snd":
        lines = re.sub(r"\[[^]]* @ 0x[0-9a-f]+\] ", "", done.stderr.decode(errors="replace")).strip().splitlines()
        raise AudioError(f"{refused}; ffmpeg: {lines[-1] if lines else 'no audio in it'}")
    begin, _, _, rate, channels = struct.unpack(">5I", done.stdout[4:24])
    usable = (len(done.stdout) - begin) // (4 * channels) * channels
    samples = _mono(np.frombuffer(done.stdout, ">f4", usable, begin).reshape(-1, channels).astype(np.float32))
    note = "damaged: ffmpeg stopped before the end" if done.returncode else ""
    return Clip(_excerpt(samples, round(seconds * rate), offset), rate, note)


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
