"""Pretrained weights: locate the files, read them safely, and load them into a model strictly.

A backend declares its weights as a Source with a pinned revision. They come from the cache of the model hub
(downloaded into it if there is a network), or from `--weights PATH`, a folder or file with the same names.
Only tensors are read: safetensors, or torch files with `weights_only`; remote model code is never run.
"""
import re
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

from harness.errors import UsageError, WorkError
from harness.files import checksum

USUAL = ("model.safetensors", "pytorch_model.bin")  # names that a folder given by --weights may also use
SPELLINGS = ((".weight_g", ".parametrizations.weight.original0"),  # of weight normalisation, before and since torch 2
             (".weight_v", ".parametrizations.weight.original1"))


class Source(NamedTuple):
    """Where weights are published."""
    repo: str         # id on the model hub
    revision: str     # commit, or a branch where no commit is known
    file: str         # the weights
    licence: str
    beside: tuple = ()     # other files that the model needs, such as config.json
    sha256: str = ""       # of the weights, where known


class Files(NamedTuple):
    """Files of a Source on this machine."""
    source: Source
    weights: Path
    beside: dict            # {name: Path}
    revision: str | None    # the commit they are of; None for files given by --weights

    def provenance(self):
        """Entry of the json of an embedding; checksums are of the files that are read."""
        return {"id": self.source.repo, "revision": self.revision or "given by --weights", "file": self.weights.name,
                "licence": self.source.licence, "checksum": checksum(self.weights),
                "beside": {name: checksum(path) for name, path in self.beside.items()}}


# --------------------------------------------------------------------------- finding

def find(source, given=None, revision=None):
    """Files of a Source: those of --weights, else those of the hub's cache, else downloaded.

    Raises UsageError if --weights does not exist, else WorkError with the file to download.
    """
    if given is None:
        return _hub(source, revision or source.revision)
    if revision:
        raise UsageError("--revision applies to the model hub and --weights to local files; give one of the two")
    given = Path(given).expanduser()
    folder = given if given.is_dir() else given.parent
    path = next((p for p in (folder / n for n in (source.file, *USUAL)) if p.is_file()), None) \
        if given.is_dir() else given
    if path is None or not path.is_file():
        what = f"holds no {source.file}" if given.is_dir() else "is neither a file nor a folder"
        raise UsageError(f"--weights {given} {what}; {_fetch(source, source.revision)}")
    for name in source.beside:
        if not (folder / name).is_file():
            raise WorkError(f"{folder} has no {name}, which {path.name} needs beside it; "
                                 f"{_fetch(source, source.revision)}")
    return Files(source, path, {n: folder / n for n in source.beside}, None)


def absent(source, revision=None):
    """Names of the files of a Source that are missing in the hub's cache."""
    from huggingface_hub import try_to_load_from_cache
    return [name for name in (*source.beside, source.file)
            if not isinstance(try_to_load_from_cache(source.repo, name, revision=revision or source.revision), str)]


def _hub(source, revision):
    from huggingface_hub import constants, hf_hub_download, logging, try_to_load_from_cache
    logging.set_verbosity_error()  # messages about retries would hide the error below
    paths = {}
    for name in (*source.beside, source.file):
        if not constants.HF_HUB_OFFLINE and not try_to_load_from_cache(source.repo, name, revision=revision):
            print(f"fetching {name} of {source.repo} from the model hub", file=sys.stderr)
        try:
            paths[name] = Path(hf_hub_download(source.repo, name, revision=revision))
        except (OSError, ValueError):  # no network, no such file or revision, a gate
            raise WorkError(f"{name} of {source.repo} is not in the cache of the model hub and could not be "
                                 f"fetched; {_fetch(source, revision)}") from None
    path = paths.pop(source.file)
    if source.sha256 and revision == source.revision and checksum(path) != source.sha256:
        raise WorkError(f"{path} is not the published file (its sha256 should be {source.sha256}); remove "
                        f"{path.resolve()}, so that it is downloaded again")   # the cache links a snapshot to it
    return Files(source, path, paths, path.parent.name)  # the cache stores files by commit


def _fetch(source, revision):
    names = " ".join((source.file, *source.beside))
    return (f"where there is a network, `hf download {source.repo} {names} --revision {revision} --local-dir DIR` "
            "gets what is needed, and --weights DIR uses it")


# --------------------------------------------------------------------------- reading

def read(path):
    """{key: tensor} of a safetensors or torch file, unwrapped from `state_dict` and a common `model.` prefix."""
    import pickle

    import torch
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError:
        raise WorkError(f"{path} holds more than tensors, or is damaged, so it is not opened; "
                             "fetch it again from where it is published") from None
    except Exception as e:  # each format has errors of its own for a cut or foreign file
        raise WorkError(f"{path} cannot be read as weights ({type(e).__name__}); fetch it again") from None
    state = state.get("state_dict", state) if isinstance(state, dict) else None
    if not state or not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise WorkError(f"{path} is no table of named tensors, as weights are")
    return strip(state, "model.") if all(k.startswith("model.") for k in state) else state


def sizes(config, path, source, *names):
    """The positive whole numbers of these names in a config.json at `path`, in order; WorkError where one is none."""
    for name in names:
        if type(value := config.get(name)) is not int or value < 1:
            said = f"gives {name} {value!r}, no positive whole number" if name in config else f"lacks {name}"
            raise WorkError(f"{path} {said}; use the file published with the weights of {source.repo}")
    return tuple(config[name] for name in names)


def strip(state, prefix):
    """The part of a state dict under `prefix`, without it."""
    return {k[len(prefix):]: v for k, v in state.items() if k.startswith(prefix)}


def renamed(state, rules):
    """A state dict with other names; rules: (pattern, replacement) pairs of re.sub, applied to each name in order."""
    ours = {}
    for key, value in state.items():
        for pattern, name in rules:
            key = re.sub(pattern, name, key)
        ours[key] = value
    return ours


def fill(model, state, path, unused=()):
    """Load `state` into `model`: every key used, every parameter filled; float32, eval mode, weight norms resolved.

    unused: beginnings of keys that training alone needs, left out by name
    raises: WorkError naming keys that are missing, unexpected or misshapen
    """
    import torch
    from torch.nn.utils import parametrize
    ours = model.state_dict()
    state = {_spelled(k, ours): v for k, v in state.items() if not k.startswith(tuple(unused))}
    wrong = {"misses": sorted(ours.keys() - state.keys()), "has unexpected": sorted(state.keys() - ours.keys()),
             "has misshapen": [f"{k} {tuple(state[k].shape)} for {tuple(v.shape)}" for k, v in ours.items()
                               if k in state and state[k].shape != v.shape]}
    said = [f"{what} {keys[0]}{f' and {len(keys) - 1} more' if len(keys) > 1 else ''}"
            for what, keys in wrong.items() if keys]
    if said:
        raise WorkError(f"{path} does not fit the model it is for: it {', '.join(said)}")
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    for module in model.modules():
        for name in list(getattr(module, "parametrizations", ())):
            parametrize.remove_parametrizations(module, name)  # computed once instead of in every pass
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model.eval().to(torch.float32)


def _spelled(key, ours):
    """The key as the model at hand spells it."""
    for old, new in SPELLINGS:
        for a, b in ((old, new), (new, old)):
            if key.endswith(a) and key not in ours and key[:-len(a)] + b in ours:
                return key[:-len(a)] + b
    return key


def check_size(model, millions, path, digits=1):
    """WorkError unless the model has as many million parameters as were published, to so many decimals."""
    count = sum(p.numel() for p in model.parameters())
    if round(count / 1e6, digits) != millions:
        raise WorkError(f"{path} fills a model of {count:,} parameters; {millions} million were published")


def empty(build):
    """`build()` without spending time on random values that `fill` overwrites."""
    from transformers.initialization import no_init_weights
    with no_init_weights():
        return build()
