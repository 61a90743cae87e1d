"""A sound that is not in the workspace: its vectors by the backends of the workspace's embeddings, and its tags."""
from __future__ import annotations

import contextlib
import io
import tempfile
from pathlib import Path

import dataset
from harness.errors import UsageError, WorkError

OWN = {"name", "track_checksum", "n_tracks", "batch", "versions", "audio_checksum", "git", "failed", "incomplete",
       "matrix_checksum", "quality"}   # of a json: what may differ between two extractions with equal settings
FLAGS = {"musicnn": ("variant", "layer", "precision"),    # of a json: what a backend's flags of that name set
         "vgg": ("variant", "layer")}


def extracted(path: Path, backend: str, *flags: str) -> tuple:
    """(vector (D,), json) of one file by a backend's own command line; WorkError with its sentence where it fails."""
    import importlib
    module = importlib.import_module(f"extract_item_embeddings.{backend}")
    with tempfile.TemporaryDirectory() as folder:
        audio = Path(folder) / "audio"
        audio.mkdir()
        (audio / f"sound{path.suffix.lower()}").symlink_to(path.absolute())
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                module.main(["--audio", str(audio), "--workdir", f"{folder}/w", "--name", "sound", *flags])
        except WorkError as e:   # it speaks of a file in a folder that is gone
            reason = str(e).rpartition("first reason: sound: ")[-1].replace(str(audio), str(path.parent))
            raise WorkError(f"{path} cannot be used: {reason}") from None
        info = dataset.embedding_info(Path(folder) / "w", "sound")
        return dataset.open_embedding(Path(folder) / "w", "sound")[0].copy(), info


def vector_for(path: Path, info: dict):
    """The file's vector by the settings of an embedding's json, or None where this machine cannot make an equal one."""
    backend = info.get("backend", "")
    if not (Path(__file__).resolve().parents[1] / "extract_item_embeddings" / f"{backend}.py").is_file():
        return None
    flags = [word for name in FLAGS.get(backend, ()) if name in info for word in (f"--{name}", str(info[name]))]
    flags += [word for name in ("seconds", "offset") if name in info for word in (f"--{name}", str(info[name]))]
    if info.get("as_published"):
        flags.append("--as-published")
    try:
        vector, made = extracted(path, backend, *flags)
    except (UsageError, SystemExit):
        return None
    same = all(made.get(k) == v for k, v in info.items() if k not in OWN)
    return vector if same else None


def tags_of(path: Path):
    """MusiCNN's strongest tags of a file."""
    from lookup.catalogue import strongest
    vector, info = extracted(path, "musicnn", "--layer", "taggram")
    return strongest(vector, info["features"])
