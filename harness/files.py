"""Files that appear only when complete, and are checked when they are opened."""
import contextlib
import errno
import hashlib
import json
import os
import shutil
from pathlib import Path

from harness.errors import UsageError, WorkError


@contextlib.contextmanager
def atomic(path, keep_suffix=True):
    """Yield a temporary path beside `path`; rename it into place when the block ends well.

    A reader never sees half a file; an exception leaves the old file as it was. Missing parent
    folders are made. The temporary name ends in the same suffix, as some writers insist.
    """
    path = Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp{path.suffix if keep_suffix else ''}")
    try:
        yield temporary
        with open(temporary, "rb") as f:
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except Exception as e:
        # numpy and torch report a full disk as a short write or a RuntimeError without a cause
        if getattr(e, "errno", None) is None and shutil.disk_usage(path.parent).free < 1 << 16:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path, text):
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path, value):
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n")


def read_json(path):
    """The object in a json file, a dict; WorkError with the file's name when there is none."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as e:
        raise WorkError(f"{path} is not readable as json ({e})") from None
    if not isinstance(value, dict):
        raise WorkError(f"{path} should hold a json object, but holds a {type(value).__name__}")
    return value


def read_yaml(path):
    """What a YAML file holds, as plain Python values; UsageError with the file's name when it cannot be read."""
    import yaml
    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as e:
        raise UsageError(f"{path} cannot be read ({e.strerror})") from None
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError) as e:  # `!!int x`, 2020-13-45
        raise UsageError(f"{path} is not readable as yaml ({e})") from None
    except RecursionError:
        raise UsageError(f"{path} is not readable as yaml (nested too deeply)") from None


def expanded(path):
    """Path of a text that a user gave, with ~ and ~user resolved; UsageError for a user that does not exist."""
    try:
        return Path(path).expanduser()
    except RuntimeError as e:
        raise UsageError(f"{path}: {e}") from None


def write_npy(path, array):
    import numpy as np
    with atomic(path) as temporary, open(temporary, "wb") as f:  # given a name, np.save may add .npy to it
        np.save(f, array, allow_pickle=False)


def write_parquet(path, frame):
    """Write a pandas frame (index dropped) or a pyarrow table; timestamps stay naive microseconds."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    table = frame if isinstance(frame, pa.Table) else pa.Table.from_pandas(frame, preserve_index=False)
    with atomic(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def write_csv(path, frame, index=True, **kwargs):
    with atomic(path) as temporary:
        frame.to_csv(temporary, index=index, **kwargs)


def save_checkpoint(path, state):
    import torch
    with atomic(path) as temporary:
        torch.save(state, temporary)


def load_checkpoint(path, device="cpu", keys=()):
    """The dict that `save_checkpoint` wrote; WorkError when the file is gone, damaged or lacks one of `keys`."""
    import pickle

    import torch
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise WorkError(f"checkpoint {path} is gone; use --overwrite to start again") from None
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as e:
        raise WorkError(f"checkpoint {path} cannot be read ({type(e).__name__}); "
                        "remove it or use --overwrite to start again") from None
    if not isinstance(state, dict) or any(key not in state for key in keys):
        raise WorkError(f"checkpoint {path} is of something else; remove it or use --overwrite to start again")
    return state


def checksum(path):
    """sha256 of a file's bytes, as hex."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def quoted(text):
    """Text (a path, a name) as an SQL string."""
    return "'" + str(text).replace("'", "''") + "'"
