"""Sound beside the page: short mp3 excerpts of tracks, made by ffmpeg and kept from one page to the next.

An excerpt's name is made from the track's id and from size and time of its file, so a changed file gets a new one. The
excerpt starts where the extraction starts by default, at the beginning: one hears what the encoders read.
"""
import contextlib
import hashlib
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

from harness.errors import WorkError
from harness.files import atomic
from harness.machine import cores

SECONDS = 15
TIMEOUT = 60      # seconds for one excerpt
BITRATE = "64k"   # mono: 120 kB for an excerpt


class Excerpts:
    """The excerpts in one folder. files: {row: Path of the track's sound}, {} without an audio folder."""

    def __init__(self, folder, files, ids):
        self.folder, self.files, self.ids = folder, files, ids
        self.failed = {}      # {row: reason}

    def name(self, row):
        """File name of a track's excerpt, '' where its file is gone."""
        with contextlib.suppress(OSError):
            state = self.files[row].stat()
            return f"{key(self.ids[row])}-{key(f'{state.st_size} {state.st_mtime_ns} {SECONDS}')}.mp3"
        return ""

    def make(self, rows, progress):
        """{row: file name} of the rows that have an excerpt; makes those that are not there yet, several at a time."""
        wanted = [(row, name) for row in rows if row in self.files and (name := self.name(row))]
        with ThreadPoolExecutor(cores()) as pool:
            done = list(pool.map(lambda job: self._made(*job, progress), wanted))
        return {row: name for (row, name), good in zip(wanted, done, strict=True) if good}

    def _made(self, row, name, progress):
        path = self.folder / name
        good = path.exists() or self._encode(row, path)
        progress.update(1)
        return good

    def _encode(self, row, path):
        """Write one excerpt; False, with the reason in `failed`, for a file that ffmpeg cannot read."""
        try:
            with atomic(path) as temporary:
                done = subprocess.run(
                    ["ffmpeg", "-nostdin", "-v", "error", "-y", "-t", str(SECONDS), "-i", f"file:{self.files[row]}",
                     "-map", "0:a:0", "-vn", "-ac", "1", "-ar", "44100", "-b:a", BITRATE, "-map_metadata", "-1",
                     "-bitexact", "-threads", "1", "-f", "mp3", f"file:{temporary}"],
                    capture_output=True, text=True, errors="replace", timeout=TIMEOUT)
                if done.returncode or temporary.stat().st_size < 1000:
                    reason = (done.stderr.strip().splitlines() or ["no sound in it"])[-1]
                    raise WorkError(reason)
        except (WorkError, subprocess.TimeoutExpired) as e:
            self.failed[row] = str(e) if isinstance(e, WorkError) else f"ffmpeg took more than {TIMEOUT} s"
            return False
        return True

    def kept(self, rows):
        """{row: file name} of excerpts that an earlier page made, whatever their sound is now."""
        known = {}
        for path in sorted(self.folder.glob("*-*.mp3")):
            known[path.name.split("-")[0]] = path.name
        return {row: known[key(self.ids[row])] for row in rows if key(self.ids[row]) in known}

    def prune(self, names):
        """Delete the excerpts that the page does not name."""
        for path in self.folder.glob("*.mp3"):
            if path.name not in names and not path.name.startswith("."):
                path.unlink(missing_ok=True)


def key(text):
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def without_ffmpeg():
    """Why no excerpts can be made here, '' where they can: an ffmpeg that writes mp3 is needed."""
    if shutil.which("ffmpeg") is None:
        return "ffmpeg is not installed"
    listed = subprocess.run(["ffmpeg", "-hide_banner", "-v", "error", "-encoders"], capture_output=True, text=True,
                            check=False).stdout
    return "" if "libmp3lame" in listed else "this ffmpeg cannot write mp3 (it lacks libmp3lame)"
