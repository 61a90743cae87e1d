"""Frame-level outputs of --frames: frames/NAME/IDX.npy, float32 (frames, values) of track IDX.

A file is written window by window, so memory is that of one pass for tracks of any length, and renamed
when it is complete. A batch is marked as finished only after all its files exist.
"""
import contextlib
import io
import os

import numpy as np


class Frames:
    """The frames of one embedding; `outputs` is {suffix of the name: values}, as Backend.outputs gives it."""

    def __init__(self, work, name, outputs):
        self.folders = {work / "frames" / f"{name}{suffix}": width for suffix, width in outputs.items()}
        self.row, self.count, self.files = None, 0, []

    def paths(self, row):
        return [folder / f"{row}.npy" for folder in self.folders]

    def exist(self, rows):
        """Whether the files of all these rows exist."""
        return all(p.exists() for row in rows for p in self.paths(row))

    def old(self):
        """Folders that hold frames: ["frames/NAME"]."""
        return [f"frames/{folder.name}" for folder in self.folders if any(folder.glob("*.npy"))]

    def add(self, row, frames):
        """Append (T, sum of values) to the files of track `row`; a new row finishes the previous one."""
        if row != self.row:
            self.finish()
            self.row, self.count = row, 0
            for path in self.paths(row):
                path.parent.mkdir(parents=True, exist_ok=True)
                self.files.append(open(_unfinished(path), "wb"))
                self.files[-1].write(_header(0, 0))
        left = 0
        for f, width in zip(self.files, self.folders.values(), strict=True):
            f.write(np.ascontiguousarray(frames[:, left:left + width], "<f4"))
            left += width
        self.count += len(frames)

    def finish(self):
        """Write the headers of the last track's files and rename them."""
        for f, path, width in zip(self.files, self.paths(self.row), self.folders.values(), strict=False):
            f.seek(0)
            f.write(_header(self.count, width))
            f.flush()
            os.fsync(f.fileno())
            f.close()
            os.replace(_unfinished(path), path)
        self.row, self.files = None, []

    def remove(self, row):
        """Delete the frames of a track without an embedding."""
        for path in self.paths(row):
            path.unlink(missing_ok=True)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for f in self.files:  # left open by an error
            with contextlib.suppress(OSError):
                f.close()
                os.unlink(f.name)


def _unfinished(path):
    """A fixed temporary name, so that leftovers of a killed run are overwritten when the batch is done again."""
    return path.with_name(f".{path.name}.tmp")


def _header(count, width):
    """The header of a .npy file of float32 (count, width); its length does not depend on count."""
    with io.BytesIO() as f:
        np.lib.format.write_array_header_1_0(f, {"descr": "<f4", "fortran_order": False, "shape": (count, width)})
        return f.getvalue()
