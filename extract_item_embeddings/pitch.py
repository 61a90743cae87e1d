"""Pitch: notes and onsets of basic-pitch, a transcription network, 440 values (Bittner et al., arXiv 2203.09893).

    python extract_item_embeddings/pitch.py --audio DIR [--workdir DIR]

| weights                          | licence    | rate      | window                 | pooling         | dimension |
|----------------------------------|------------|-----------|------------------------|-----------------|-----------|
| icassp_2022 of basic-pitch 0.4.0 | Apache-2.0 | 22,050 Hz | 172 frames, 30 overlap | mean and spread | 440       |

The network gives, 86 times per second, the activation of 88 piano keys (A0 to C8) as notes that sound and as onsets.
Windows follow the publication: half of the overlap is cut off at either end of a window, what remains is one time axis,
and it ends where the sound ends. The vector, whose dimensions are named in the json:

    0-87     mean over time of each note: register and harmony
    88-175   standard deviation over time of each note
    176-263  mean over time of each onset: density
    264-351  standard deviation over time of each onset
    352      variance of the notes over the 88 keys, mean over time
    353-439  autocorrelation of the notes over the keys at 1 to 87 semitones: which intervals sound together. A piece
             that is transposed keeps it

The weights are those in the installed package `basic-pitch`, which is not run.
"""
if __package__ in (None, ""):  # run as a file: the project, not this folder, is where imports begin
    import sys
    from pathlib import Path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import harness.environment  # noqa: F401 (a missing package ends in one sentence)

import importlib.metadata
import importlib.util
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from extract_item_embeddings.engine import extraction
from harness import cli
from harness.errors import WorkError
from harness.files import checksum
from harness.machine import cores

KEYS, LOWEST = 88, 21                # piano keys, the MIDI number of the first
SAMPLES, FRAMES, HOP = 43844, 172, 256  # samples and frames of a window, samples from one frame to the next
OVERLAP = 30                         # frames that two windows share
STEP = SAMPLES - OVERLAP * HOP       # samples from one window to the next
KEPT = FRAMES - OVERLAP              # frames of a window
RATE, FRAME_RATE = 22050, 22050 // HOP  # Hz, frames per second
INPUT, NOTES, ONSETS = "serving_default_input_2:0", "StatefulPartitionedCall:1", "StatefulPartitionedCall:2"
FILE = "saved_models/icassp_2022/nmp.onnx"
SHA256 = "2c3c1d144bfa61ad236e92e169c13535c880469a12a047d4e73451f2c059a0ec"
INSTALL = "pip install --no-deps basic-pitch==0.4.0"


def network_file():
    """Path of the network inside the installed package, as str, and the package's version."""
    try:
        package = importlib.metadata.distribution("basic-pitch")
    except importlib.metadata.PackageNotFoundError:
        raise WorkError(f"the package basic-pitch, which contains the network, is not installed; {INSTALL}") from None
    path = package.locate_file(f"basic_pitch/{FILE}")
    if not path.is_file():
        raise WorkError(f"{path} does not exist; install the package again: {INSTALL}")
    return str(path), package.version


def feature_names():
    """Names of the 440 dimensions."""
    pitches = [f"{'C C# D D# E F F# G G# A A# B'.split()[m % 12]}{m // 12 - 1}" for m in range(LOWEST, LOWEST + KEYS)]
    return [*(f"{kind} {what} {pitch}" for kind in ("note", "onset") for what in ("mean", "spread")
              for pitch in pitches), "note variance over keys", *(f"interval {n}" for n in range(1, KEYS))]


def autocovariance(notes):
    """(T, 88) -> (88,): mean over time of the sum over keys of deviation times deviation n semitones higher, / 88.

    Deviations are from a frame's mean over the keys, as the network gives about .1 to a key that does not sound.
    """
    deviations = notes - notes.mean(axis=1, keepdims=True)
    power = np.abs(np.fft.rfft(deviations, 2 * KEYS, axis=1)) ** 2  # padded, so that no interval wraps
    return np.fft.irfft(power.mean(axis=0))[:KEYS] / KEYS


def moments(notes, onsets):
    """(T, 88) twice -> (440,): means of values and of their squares, and the autocovariance, which add up over time."""
    notes, onsets = notes.astype(np.float64), onsets.astype(np.float64)
    return np.concatenate([*((x ** power).mean(axis=0) for x in (notes, onsets) for power in (1, 2)),
                           autocovariance(notes)])


def vector(means):
    """Moments over all time (440,) -> the embedding (440,)."""
    note, note_square, onset, onset_square, covariance = np.split(means, 5)
    spreads = [np.sqrt(np.maximum(square - mean ** 2, 0)) for mean, square in
               ((note, note_square), (onset, onset_square))]
    return np.concatenate([note, spreads[0], onset, spreads[1], covariance[:1],
                           covariance[1:] / max(covariance[0], np.finfo(np.float32).tiny)])


def thread_count():
    """Threads of this process: OMP_NUM_THREADS, as for the other backends, but not more than there are cores."""
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return min(int(asked), cores()) if asked.isdecimal() and int(asked) else cores()


class Pitch(extraction.Backend):
    NAME, SAMPLE_RATE, DIM = "pitch", RATE, 5 * KEYS
    WINDOW = SAMPLES / RATE
    POOLING = "mean, spread and autocorrelation over time"
    PACKAGES = ("onnxruntime",)
    LICENCE = "Apache-2.0"
    threads_pool = None

    def missing(self):
        try:
            network_file()
        except WorkError:
            return f"package basic-pitch ({INSTALL})"
        return super().missing()

    def request(self):
        path, version = network_file()
        if importlib.util.find_spec("onnxruntime") is None:
            raise WorkError("the package onnxruntime, which runs the network, is not installed; "
                            "pip install -c requirements/constraints.txt -r requirements.txt")
        if (found := checksum(path)) != SHA256:
            raise WorkError(f"{path} is not the published file (its sha256 should be {SHA256}); install the package "
                            f"again: {INSTALL}")
        return {"weights": {"id": f"basic-pitch/{FILE}", "revision": version, "licence": self.LICENCE,
                            "checksum": found},
                "variant": None, "layer": "notes and onsets", "features": feature_names()}

    def load(self):
        """Load the network. Each thread computes windows by itself, one at a time, so that the values do not depend
        on the number of threads or windows; the library's own threads are off."""
        import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors
        self.session = onnxruntime.InferenceSession(network_file()[0], options, providers=["CPUExecutionProvider"])
        self.threads_pool = ThreadPoolExecutor(thread_count())

    def unload(self):
        if self.threads_pool is not None:
            self.threads_pool.shutdown()
        self.threads_pool = self.session = None

    def prepare(self, samples):
        """Samples (N,) -> overlapping windows (n, 43844), and how many of the 142 frames of each are sound.

        Half of the overlap goes before the sound, as it is cut off there, too. As published, a step of 36,164 samples
        gives 142 frames of 256 samples, .7 of a frame too many.
        """
        frames = max(len(samples) * FRAME_RATE // RATE, 1)
        n = -(-frames // KEPT)
        padded = np.zeros(SAMPLES + (n - 1) * STEP, np.float32)
        sound = samples[:len(padded) - OVERLAP * HOP // 2]
        padded[OVERLAP * HOP // 2:][:len(sound)] = sound
        windows = np.lib.stride_tricks.sliding_window_view(padded, SAMPLES)[::STEP]
        return np.ascontiguousarray(windows), np.minimum(frames - KEPT * np.arange(n), KEPT)

    def activations(self, window, length):
        """(43844,) and a number of frames -> notes and onsets, each (length, 88)."""
        given = self.session.run([NOTES, ONSETS], {INPUT: window[None, :, None]})
        return [x[0, OVERLAP // 2:][:length] for x in given]

    def forward(self, inputs, lengths):
        """Windows (N, 43844) and their numbers of frames (N,) -> float64 (N, 440), the moments of each."""
        return np.stack(list(self.threads_pool.map(lambda x, n: moments(*self.activations(x, n)), inputs, lengths)))

    def pool(self, values, lengths):
        return vector(super().pool(values, lengths))


def main(argv=None):
    return extraction.main(Pitch, __doc__, argv)


if __name__ == "__main__":
    cli.run(main)
