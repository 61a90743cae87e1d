"""Embeddings that a data set brings along: written beside the unpublished files of stage 2 and published with these.

    with stage.atomic_outputs(workdir / "dataset.json") as new:
        ... write new.hidden / "embeddings" / "name.npy" and name.json ...
        brought.publish(new, {"request": request, ...})
"""
import errno
import os
import shutil

from harness.files import atomic, write_json

FOLDER = "embeddings"


def publish(new, manifest, remove=(), absent=()):
    """As `new.publish`, and move the files of new.hidden / "embeddings" into the workspace's own folder of that name.

    new: stage.AtomicOutputs; absent: names of embeddings' files that are removed where none was written. The manifest
    says "writing" from before the first of them moves, and the json of a matrix moves behind it: a killed stage leaves
    the old embeddings, or a manifest that readers refuse.
    """
    folder, inside = new.folder / FOLDER, new.hidden / FOLDER
    written = sorted(inside.iterdir(), key=lambda path: (path.suffix == ".json", path.name)) if inside.is_dir() else []
    gone = {*absent} - {path.name for path in written}
    if written or any((folder / name).exists() for name in gone):
        for path in written:
            with open(path, "rb") as f:
                os.fsync(f.fileno())
        write_json(new.manifest, {**manifest, "status": "writing"})
        folder.mkdir(exist_ok=True)
        for name in [*gone, *(path.name for path in written if path.suffix == ".json")]:
            (folder / name).unlink(missing_ok=True)      # so that a json file always describes the current matrix
        for path in written:
            _move(path, folder / path.name)
    return new.publish(manifest, remove=remove)


def _move(path, target):
    """Rename a file; copy it where the folder of embeddings is a link to another file system."""
    try:
        os.replace(path, target)
    except OSError as e:
        if e.errno != errno.EXDEV:
            raise
        with atomic(target) as temporary:
            shutil.copyfile(path, temporary)
