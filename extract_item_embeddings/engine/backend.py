"""What a backend is: the class that every one of them fills in (see extraction.py for what is done with it)."""
import importlib.util
import sys
from importlib.metadata import PackageNotFoundError, version

import numpy as np


class Backend:
    """One audio representation. Subclasses fill in the constants and write load, prepare and forward.

    A prepared track is (inputs, lengths): float32 (n, *shape), the n >= 1 windows the model hears,
    always of the same shape, and int (n,), how much of each window is sound, in any unit.
    """
    NAME = ""          # file name of the embedding unless --name
    SAMPLE_RATE = 0    # Hz
    DIM = 0            # values per track
    WINDOW = None      # seconds per window; None: the whole excerpt
    BATCH = 16         # tracks per batch and windows per pass, unless --batch
    POOLING = "mean over time"
    DEVICE = False     # runs on a device of --device
    FRAME_LEVEL = None  # in words what --frames writes; None: nothing stands between a window and its vector
    fits = None        # with --batch auto, how many windows are tried in one pass; else passes are --batch windows
    PACKAGES = ()      # whose versions can change a value, beside those every backend uses
    LICENCE = "-"      # of the weights
    kept_in_float32 = None  # set by load in half precision on a processor: names of operations left in float32
    VARIANTS = ((),)   # the flags of each of its published embeddings, for the list of backends

    @classmethod
    def add_flags(cls, parser):
        """Flags of this backend alone."""

    def __init__(self, args):
        self.args = args

    def suffix(self):
        """What options that change the values add to the name, such as '-mtt'; all but the layer."""
        return ""

    def layer_suffix(self):
        """What the choice of a layer adds to the name, behind everything else, such as '-layer3'."""
        return ""

    def licence(self):
        return self.LICENCE

    def missing(self):
        """What has to be fetched or installed before it can run, in words; "" when all is here. Must be quick."""
        absent = [p for p in self.PACKAGES if importlib.util.find_spec(p) is None]
        return f"package {' and '.join(absent)}" if absent else ""

    def memory(self):
        """Bytes that its model needs, roughly; those without weights worth mentioning need none."""
        return 0

    def versions(self):
        """{library: version} of what can change a value, for the json."""
        return library_versions(self.PACKAGES)

    def request(self):
        """Options that change the values, and the identity of the weights; goes into the json as it is."""
        return {"weights": None, "variant": None, "layer": None}

    def outputs(self):
        """{suffix of the file: values per track}; several layers of one pass are several files."""
        return {"": self.DIM}

    def load(self):
        """Called once before the first prepare, in the main thread."""

    def unload(self):
        """Called at the end, also after an error; undoes what load changed in the process."""

    def prepare(self, samples):
        """Samples (N,) at SAMPLE_RATE -> (inputs, lengths). Runs in threads."""
        raise NotImplementedError

    def forward(self, inputs, lengths):
        """(N, *shape), (N,) -> float32 (N, sum of outputs). Always called with N = --batch, unless that is auto."""
        raise NotImplementedError

    def forward_frames(self, inputs, lengths):
        """What forward gives, and for each window its frames, float32 (T, sum of outputs); here it is one frame."""
        values = self.forward(inputs, lengths)
        return values, list(values[:, None])

    def pool(self, values, lengths):
        """(n, D) of a track's windows -> (D,): mean weighted by how much sound each holds."""
        weights = lengths / lengths.sum()
        return (values.astype(np.float64) * weights[:, None]).sum(axis=0)


def library_versions(packages):
    found = {"python": sys.version.split()[0]}
    for package in sorted({"numpy", "soundfile", "soxr", *packages}):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found
