"""Frame-level outputs, written only when --frames asks: frames/NAME/IDX.npy, float32 (frames, values) of track IDX.

A file grows window by window, so a track of any length takes the memory of one pass, and gets its name
when it is complete. A batch is called finished only after all its files are there.
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

    def there(self, rows):
        return all(p.exists() for row in rows for p in self.paths(row))

    def add(self, row, frames):
        """Append (T, sum of values) to the files of track `row`; another row ends the one before."""
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
        """Give the files of the last track their length and their names."""
        for f, path, width in zip(self.files, self.paths(self.row), self.folders.values(), strict=False):
            f.seek(0)
            f.write(_header(self.count, width))
            f.flush()
            os.fsync(f.fileno())
            f.close()
            os.replace(_unfinished(path), path)
        self.row, self.files = None, []

    def remove(self, row):
        """A track without an embedding has no frames either, nor those of a file it had before."""
        for path in self.paths(row):
            path.unlink(missing_ok=True)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for f in self.files:  # an error came between
            with contextlib.suppress(OSError):
                f.close()
                os.unlink(f.name)


def _unfinished(path):
    """Always the same name: what a kill leaves is written over when the batch is done again."""
    return path.with_name(f".{path.name}.tmp")


def _header(count, width):
    """The beginning of a .npy file of float32 (count, width); as long for no frame as for any number of them."""
    with io.BytesIO() as f:
        np.lib.format.write_array_header_1_0(f, {"descr": "<f4", "fortran_order": False, "shape": (count, width)})
        return f.getvalue()
