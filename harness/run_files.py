"""Which files of a workspace belong to one run; renaming them all, and removing them all.

A run's name begins the names of its files, and one name may begin another: x_cold_test.pqt is the cold test of x,
unless there is a run x_cold. So all functions look at the names of all runs, and never touch a file of another one.
"""
import contextlib
import json
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from harness import locks
from harness.errors import RunInProgress
from harness.files import write_json

PART_ORDER = ("val", "test", "cold_test", "cold_val", "all_test")   # a new one at the end: its place seeds draws
COLD_PARTS = ("cold_test", "cold_val")     # each ranks its own items, which nobody has in train
FILE_PARTS = tuple(part for part in PART_ORDER if part != "all_test")   # dataset.py joins that of test and cold_test
OWN = ("config.json", ".lock", "events.out.tfevents.*", ".*.tmp*")   # what runs write into their folders


def files_of(workdir: Path, name: str, config: dict, names: Collection[str]) -> list[Path]:
    """Existing files of a run outside runs/, sorted: lists, metrics, checkpoints, learned embeddings, declared outputs.

    config: its manifest; names: of all runs of the workspace
    """
    stems = [f"{name}_{part}" for part in PART_ORDER]
    stems = [stem for stem in stems if not any(stem == f"{other}_{part}" and len(other) > len(name)
                                               for other in names for part in PART_ORDER)]
    paths = [workdir / "preds" / f"{stem}.pqt" for stem in stems]
    paths += [workdir / "metrics" / f"{stem}{points}.{suffix}" for stem in stems for points in ("", "_points")
              for suffix in ("csv", "pqt")]
    owner = str(config.get("embedding") or config.get("recommender") or "")
    if Path(owner).name == owner:   # no path to elsewhere, whatever the manifest says
        paths += [workdir / "checkpoints" / owner / f"{name}_{which}.pt" for which in ("best", "last")]
    paths += [workdir / "model_embeddings" / f"{name}_{which}" for which in ("users.npy", "items.npy", "items.faiss")]
    paths += [workdir / output for output in config.get("outputs", ()) if _is_its_own(output, name)]
    return sorted({path for path in paths if path.is_file()})


def _is_its_own(output, name):
    """Whether an output that a manifest lists is a plain path within the workspace with the run's name in it."""
    path = Path(output)
    return not path.is_absolute() and ".." not in path.parts and path.name.startswith(f"{name}_")


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder; RunInProgress where another process works on it."""
    with open(folder / ".lock", "a", encoding="ascii") as lock:
        try:
            locks.take(lock)
        except BlockingIOError:
            raise RunInProgress(f"run {folder.name} is being made by another process right now; wait for it") from None
        yield


def rename(workdir: Path, old: str, new: str, config: dict, names: Collection[str]) -> None:
    """Give a run another name: its files, its folder, its manifest, and the manifests of runs built on its lists.

    The folder comes last, so that a killed call is finished by the next one. RunInProgress where somebody works on it.
    """
    folder = workdir / "runs" / old
    with alone(folder):
        for path in files_of(workdir, old, config, names):
            os.replace(path, path.with_name(new + path.name.removeprefix(old)))
        renamed = {**config, "run": new}
        if "outputs" in config:
            renamed["outputs"] = [_renamed(output, old, new) for output in config["outputs"]]
        for other in sorted((workdir / "runs").glob("*/config.json")):
            _follow(other, old, new)
        write_json(folder / "config.json", renamed)
        os.rename(folder, folder.with_name(new))


def _renamed(output, old, new):
    path = Path(output)
    return str(path.with_name(new + path.name.removeprefix(old))) if _is_its_own(output, old) else output


def _follow(manifest, old, new):
    """Put the new name of a run into a manifest that names it as a source or as one of its inputs."""
    with contextlib.suppress(OSError, ValueError):
        text = manifest.read_text(encoding="utf-8")
        if f'"{old}"' not in text and f"/{old}_" not in text:
            return
        config = json.loads(text)
        if isinstance(config.get("sources"), dict):
            config["sources"] = {k: new if v == old else v for k, v in config["sources"].items()}
        if isinstance(config.get("inputs"), dict):
            lists = {f"preds/{old}_{part}.pqt": f"preds/{new}_{part}.pqt" for part in PART_ORDER}
            config["inputs"] = {lists.get(path, path): digest for path, digest in config["inputs"].items()}
        write_json(manifest, config)


def remove(workdir: Path, name: str, config: dict, names: Collection[str]) -> list[Path]:
    """Delete a run's files and its folder; returns what somebody else has put into the folder, which stays with it.

    The manifest goes last, so that a killed call can be repeated. RunInProgress where another process works on it.
    """
    folder = workdir / "runs" / name
    if folder.is_symlink():
        folder.unlink()
        return []
    with alone(folder):
        for path in files_of(workdir, name, config, names):
            path.unlink()
        own = sorted({path for pattern in OWN for path in folder.rglob(pattern) if path.is_file()},
                     key=lambda path: (path == folder / "config.json", path))
        left = sorted(path for path in folder.rglob("*") if not path.is_dir() and path not in own)
        for path in own:
            path.unlink()
        for path in sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True):
            with contextlib.suppress(OSError):   # not empty
                path.rmdir()
        if not left:
            folder.rmdir()
    return left
