"""Random weights for the networks of the musicnn package, and their backends loaded on one thread."""
import contextlib

import numpy as np
import torch


def random_weights(shapes, seed=0):
    """{variable: float32 array} of these shapes whose activations stay of order one; scales of either sign."""
    rng, weights = np.random.default_rng(seed), {}
    for name, shape in shapes.items():
        if name.endswith("kernel"):
            array = rng.normal(0, np.prod(shape[:-1]) ** -0.5, shape)
        else:
            array = {"gamma": rng.normal(0, 1, shape), "moving_variance": rng.uniform(0.5, 2, shape)}.get(
                name.split("/")[1], rng.normal(0, 0.3, shape))
        weights[name] = array.astype(np.float32)
    return weights


@contextlib.contextmanager
def one_thread():
    """As in the workers of an extraction."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def loading(make):
    """A function that makes a backend by `make` and loads it; all are unloaded at the end."""
    made = []

    def load(*args, **options):
        made.append(make(*args, **options))
        made[-1].load()
        return made[-1]
    yield load
    for one in reversed(made):
        one.unload()
