"""A sound that is not in the workspace: its vectors by the backends of the workspace's embeddings, and its tags.

Each function answers (what was asked for, ""), or (None, why this machine cannot make it). No weights are fetched. A
file that is no sound is a WorkError.
"""
from __future__ import annotations

import contextlib
import io
import re
import tempfile
from pathlib import Path

import dataset
from harness.environment import absent_package
from harness.errors import UsageError, WorkError

# of a json: what may differ between extractions with equal settings
OWN = {"name", "track_checksum", "n_tracks", "batch", "versions", "audio_checksum", "git", "failed", "incomplete",
       "matrix_checksum", "quality", "frames", "passes", "kept_in_float32"}
OPTIONS = {"seconds": "seconds", "offset": "offset", "dtype": "dtype", "layer": "layer", "precision": "precision",
           "as_published": "as_published", "variant": "variant", "size": "variant", "trained_on": "variant"}
FILE = "first reason: sound: "   # what a WorkError says before its sentence about the file itself


def check_name(path: Path) -> None:
    """UsageError for a file whose ending is none of a sound, which no backend would read."""
    from extract_item_embeddings.engine.audio import SUFFIXES
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path} is no sound file by its ending ({path.suffix or 'none'}); name one that ends in "
                         ".wav, .flac, .ogg, .mp3 or another ending of sounds")


def backend_of(name: str):
    """(script, Backend class, flags) of the backend that a json calls `name`, None where there is none."""
    from extract_item_embeddings.__main__ import backends
    from extract_item_embeddings.engine import extraction
    for script, kind in backends().items():
        for flags in kind.VARIANTS:
            if kind(extraction.parser(kind, "").parse_args([*flags, "--audio", "."])).NAME == name:
                return script, kind, flags if kind.NAME != name else ()
    return None


def flags_for(kind, info: dict) -> list[str]:
    """The words that set a backend's options to what the json of an embedding says."""
    from extract_item_embeddings.engine import extraction
    words = []
    for option, usual in vars(extraction.parser(kind, "").parse_args([])).items():
        value = info.get(OPTIONS.get(option, ""))
        if isinstance(usual, bool):
            words += [f"--{option.replace('_', '-')}"] * bool(value)
        elif value is not None:
            words += [f"--{option.replace('_', '-')}", str(value)]
    revision = info.get("weights", {}).get("revision") if isinstance(info.get("weights"), dict) else None
    return words + (["--revision", revision] if revision and hasattr(kind, "source") else [])


def extracted(path: Path, kind, flags, output: str = "") -> tuple:
    """(vector (D,), json) of one file by a backend's own command line, of the output with that suffix.

    WorkError with its sentence where it fails, which names the file where that is the reason.
    """
    from extract_item_embeddings.engine import extraction
    with tempfile.TemporaryDirectory() as folder:
        audio = Path(folder) / "audio"
        audio.mkdir()
        (audio / f"sound{path.suffix.lower()}").symlink_to(path.absolute())
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                extraction.main(kind, "", ["--audio", str(audio), "--workdir", f"{folder}/w", "--name", "sound",
                                           *flags])
        except WorkError as e:
            if FILE not in str(e):
                raise
            reason = str(e).rpartition(FILE)[-1].replace(str(audio), str(path.parent))   # a folder that is gone
            raise WorkError(f"{FILE}{path} cannot be used: {reason}") from None
        info = dataset.embedding_info(Path(folder) / "w", f"sound{output}")
        return dataset.open_embedding(Path(folder) / "w", f"sound{output}")[0].copy(), info


def made(path: Path, script: str, kind, flags, output: str = "") -> tuple:
    """(vector (D,), json, "") of one file, or (None, None, why it cannot be made); WorkError where the file is why."""
    from extract_item_embeddings.engine import extraction
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            args = extraction.parser(kind, "").parse_args(["--audio", ".", *flags])
    except SystemExit:
        return None, None, " ".join(said.getvalue().partition(": ")[2].split())
    try:
        if missing := kind(args).missing():
            return None, None, f"missing: {missing}; see python extract_item_embeddings/{script}.py --help"
        return *extracted(path, kind, flags, output), ""
    except (UsageError, WorkError) as e:
        if str(e).startswith(FILE):
            raise WorkError(str(e).removeprefix(FILE)) from None
        return None, None, str(e)
    except ModuleNotFoundError as e:
        if not (package := absent_package(e)):
            raise
        return None, None, f"missing: package {package}"


def vector_for(path: Path, info: dict) -> tuple:
    """The file's vector (D,) by the settings of an embedding's json, and ""; or None and why there is no equal one."""
    if (found := backend_of(str(info.get("backend")))) is None:
        return None, f"its backend, {info.get('backend') or 'unknown'}, reads no sound"
    weights = info.get("weights")
    if isinstance(weights, dict) and weights.get("revision") == "given by --weights":
        return None, "its weights were given by --weights, and the place is not recorded"
    script, kind, flags = found
    suffix = re.search(r"-layer\d+$", str(info.get("name"))) if info.get("layer") == "all" else None
    vector, about, reason = made(path, script, kind, [*flags, *flags_for(kind, info)], suffix[0] if suffix else "")
    if reason:
        return None, reason
    if other := sorted(k for k, v in info.items() if k not in OWN and about.get(k) != v):
        return None, f"it was made with other settings than this version's ({', '.join(other)})"
    return vector, ""


def tags_of(path: Path) -> tuple:
    """MusiCNN's strongest tags of a file, and ""; or None and why there are none."""
    from extract_item_embeddings.musicnn import MusiCNN
    from lookup.catalogue import strongest
    vector, info, reason = made(path, "musicnn", MusiCNN, ["--layer", "taggram"])
    return (None, reason) if reason else (strongest(vector, info["features"]), "")
