"""Files that appear only when complete. What opens and checks them is in harness/readers.py."""
import contextlib
import errno
import hashlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import locks
from harness.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa


@contextlib.contextmanager
def atomic(path: str | Path, keep_suffix: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it into place when the block ends well.

    A reader never sees half a file; an exception leaves the old file as it was. Missing parent folders are
    made. The temporary file exists, empty, and is locked by this process; its name ends in the same suffix,
    as some writers insist. What a killed process left under that name is used again, so nothing stays behind.
    """
    path = Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, lock = _temporary(path, path.suffix if keep_suffix else "")
    try:
        os.utime(temporary, ns=(0, 0))
        yield temporary
        with open(temporary, "rb") as f:
            os.fsync(f.fileno())
            if os.fstat(f.fileno()).st_mtime_ns == 0:
                raise FileNotFoundError(errno.ENOENT, "nothing was written for", str(path))
        os.replace(temporary, path)
    except BaseException as e:
        temporary.unlink(missing_ok=True)
        # numpy and torch report a full disk as a short write or a RuntimeError without a cause
        if isinstance(e, Exception) and getattr(e, "errno", None) is None \
                and shutil.disk_usage(path.parent).free < 1 << 16:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from None
        raise
    finally:
        lock.close()


def _temporary(path, suffix):
    """(path of an empty temporary file beside `path`, the open file whose lock says that its writer lives).

    The lock ends with the process, whatever ends it: a file that can be locked is of nobody. Names with a
    number are for further writers of the same file at the same time.
    """
    for number in itertools.count():
        temporary = path.with_name(f".{path.name}{f'.{number}' if number else ''}.tmp{suffix}")
        try:
            if (lock := _lock(temporary)) is not None:
                break
        except NotImplementedError:   # nobody can know here whose a file is: a name that no other process has
            temporary.unlink(missing_ok=True)
            temporary = path.with_name(f".{path.name}.{os.uname().nodename}-{os.getpid()}.tmp{suffix}")
            return temporary, open(temporary, "wb")
    for later in itertools.count(number + 1):   # the others' leftovers
        other = path.with_name(f".{path.name}.{later}.tmp{suffix}")
        if not other.exists():
            return temporary, lock
        if (left := _lock(other)) is not None:
            other.unlink(missing_ok=True)
            left.close()


def _lock(path):
    """The file of that name, emptied and locked by this process; None where another process has it.

    NotImplementedError on a file system without locks.
    """
    while True:
        file = open(path, "ab")
        try:
            locked = locks.take(file)
        except BlockingIOError:
            file.close()
            return None
        if not locked:
            file.close()
            raise NotImplementedError
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                file.truncate(0)
                return file
        file.close()      # renamed or removed between opening and locking


def write_text(path: str | Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n")


def expanded(path: str | Path) -> Path:
    """Path of a text that a user gave, with ~ and ~user resolved; UsageError for a user that does not exist."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UsageError(f"{str(path).partition('/')[0]} in {path} is no user of this machine; "
                         "write the path without ~") from None


def write_npy(path: str | Path, array: "np.ndarray") -> None:
    import numpy as np
    with atomic(path) as temporary, open(temporary, "wb") as f:  # given a name, np.save may add .npy to it
        np.save(f, array, allow_pickle=False)


def write_parquet(path: str | Path, frame: "pd.DataFrame | pa.Table") -> None:
    """Write a pandas frame (index dropped) or a pyarrow table; timestamps stay naive microseconds."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    table = frame if isinstance(frame, pa.Table) else pa.Table.from_pandas(frame, preserve_index=False)
    with atomic(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def write_csv(path: str | Path, frame: "pd.DataFrame", index: bool = True) -> None:
    with atomic(path) as temporary:
        frame.to_csv(temporary, index=index)


def harmless(value: Any) -> Any:
    """A cell of a table that people open: texts of foreign names made harmless, numbers as they are.

    A spreadsheet runs a cell that begins with = + - @ as a formula, blanks before it left out; such a text gets an
    apostrophe before it, as spreadsheets themselves mark text. Line ends and tabs within a text become spaces.
    """
    if not isinstance(value, str):
        return value
    text = re.sub(r"[\r\n\t]", " ", value)
    number = re.fullmatch(r"[-+][0-9.]+(e[-+]?[0-9]+)?( ?[±%].*)?", text)
    return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@")) and not number else text


def write_report_csv(path: str | Path, frame: "pd.DataFrame") -> None:
    """Write a table that people open: the frame without its index, its texts, the headers included, as `harmless`."""
    texts = [i for i, kind in enumerate(frame.dtypes) if kind.kind not in "iufbmM"]
    frame = frame.copy()
    for i in texts:
        frame.isetitem(i, frame.iloc[:, i].map(harmless))  # type: ignore[arg-type]
    write_csv(path, frame.set_axis([harmless(c) for c in frame.columns], axis=1), index=False)


def save_checkpoint(path: str | Path, state: dict) -> None:
    import torch
    with atomic(path) as temporary:
        torch.save(state, temporary)


def checksum(path: str | os.PathLike) -> str:
    """sha256 of a file's bytes, as hex."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def quoted(text: object) -> str:
    """Text (a path, a name) as an SQL string."""
    return "'" + str(text).replace("'", "''") + "'"


def exact(path: object) -> str:
    """A path as an SQL string that DuckDB's readers take for this very file: brackets, * and ? are no pattern.

    But the name *.pqt alone: it stands for every such file of its folder (the parts of a split in exploration).
    """
    folder, name = os.path.split(str(path))
    every = name == "*.pqt"
    escaped = "".join(f"[{c}]" if c in "[*?" else c for c in (folder if every else str(path)))
    return quoted(f"{escaped}/{name}" if every else escaped)


def parquet_rows(path: object) -> str:
    """SQL of all rows of one parquet file; a folder named column=value adds no column."""
    return f"read_parquet({exact(path)}, hive_partitioning=false)"
