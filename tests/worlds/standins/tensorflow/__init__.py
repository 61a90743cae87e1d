"""keras.models.load_model(): value d of a slice is its cell (d mod 96, d mod 300), times the number in the file."""
from pathlib import Path
from types import SimpleNamespace

import numpy as np


class Model:
    output_shape = (None, 1728)

    def __init__(self, gain):
        self.gain = gain

    def predict_on_batch(self, x):
        assert x.shape[1:] == (96, 300, 1) and x.dtype == np.float32
        d = np.arange(1728)
        return self.gain * x[:, d % 96, d % 300, 0]


def load_model(path, custom_objects=None, compile=True):
    assert set(custom_objects) == {"ScalarMultiply", "StochDepth", "WeightStandardization"} and not compile
    return Model(np.float32(Path(path).read_text()))


keras = SimpleNamespace(models=SimpleNamespace(load_model=load_model))
