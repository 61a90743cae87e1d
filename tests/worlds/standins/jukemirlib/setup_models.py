"""The checkpoints must be in the folder given to the worker; the model is a number in one of them."""
from pathlib import Path
from types import SimpleNamespace


def setup_models(cache_dir=None, remote_prefix=None, device=None, verbose=True):
    print("Setting up the VQ-VAE...")  # as upstream, which must not disturb the conversation
    gain = float((Path(cache_dir) / "prior_level_2.pth.tar").read_text())
    assert (Path(cache_dir) / "vqvae.pth.tar").is_file()
    return "vqvae", SimpleNamespace(gain=gain, prior=SimpleNamespace(width=4800))
