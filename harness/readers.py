"""Opening of files that others may have made or damaged: one reader for each format, used by everybody.

Parsers raise nearly anything for wrong bytes (numpy's header of a .npy ends in TokenError, SyntaxError, OverflowError
or TypeError, json in RecursionError, parquet in UnicodeDecodeError). Here each of these becomes a WorkError of one
sentence that names the file. Sizes that a file claims are compared with what it has before memory is taken.
"""
import contextlib
import errno
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UsageError, WorkError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import torch

LONGEST_HEADER = 10_000   # bytes of a .npy's header, numpy's own limit
KINDS = {dict: "an object", list: "a list", str: "a text", bool: "true or false", int: "a whole number",
         float: "a number", type(None): "null"}   # what json calls them

Fields = Mapping[str, type | tuple[type, ...]]   # of a json object: the types that each may have


@contextlib.contextmanager
def reading(path: str | Path, kind: str, remedy: str = "") -> Iterator[None]:
    """Turn what a parser raises of wrong bytes into `PATH cannot be read as KIND (reason); REMEDY`, a WorkError.

    Errors of the machine pass: a missing file, a permission, a full disk.
    """
    try:
        yield
    except (WorkError, UsageError):
        raise
    except MemoryError as e:
        raise WorkError(f"{path} needs or claims more memory than is free ({reason(e)})") from None
    except Exception as e:
        if isinstance(e, OSError) and e.errno not in (None, errno.EINVAL):
            raise   # EINVAL: sent to a place before the file's beginning
        words = "it is nested too deeply" if isinstance(e, RecursionError) else reason(e)
        raise WorkError(f"{path} cannot be read as {kind} ({words}){f'; {remedy}' if remedy else ''}") from None


def reason(error: BaseException) -> str:
    """An error's message as one line of at most 200 characters; its kind where it has no message."""
    return " ".join(str(error).split())[:200] or type(error).__name__


# --------------------------------------------------------------------------- json and yaml

def read_json(path: str | Path, fields: Fields | None = None) -> dict[str, Any]:
    """The object in a json file, a dict; WorkError with the file's name when there is none.

    fields: {name: type, or tuple of types} of the fields that the caller looks into; absent ones are allowed
    """
    with reading(path, "json"):
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    return checked_fields(value, path, fields or {})


def checked_fields(value: Any, where: str | Path, fields: Fields) -> dict[str, Any]:
    """`value`, when it is a dict whose `fields` are absent or of their types; else a WorkError that names the field."""
    if not isinstance(value, dict):
        raise WorkError(f"{where} should hold a json object, but holds {KINDS.get(type(value), 'something else')}")
    for name, types in fields.items():
        types = types if isinstance(types, tuple) else (types,)
        if name in value and type(value[name]) not in types:
            raise WorkError(f"{where}: {name} should be {' or '.join(KINDS[t] for t in types)}, "
                            f"but is {KINDS.get(type(value[name]), 'something else')}")
    return value


def read_yaml(path: str | Path) -> Any:
    """What a YAML file holds: plain values, None for an empty file. No tags, so nothing foreign is made or run."""
    import yaml
    with reading(path, "YAML"):
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))


# --------------------------------------------------------------------------- numpy

def read_npy(path: str | Path, mapped: bool = True, kind: str = "a .npy matrix") -> "np.ndarray":
    """The array of a .npy file, mapped (read-only) unless `mapped` is False or it is empty; never pickled objects.

    kind: what the sentence of an error calls it
    """
    import numpy as np
    with reading(path, kind):
        with open(path, "rb") as f:
            shape = _npy_shape(f, Path(path).stat().st_size)
        return np.load(path, mmap_mode="r" if mapped and math.prod(shape) else None, allow_pickle=False)


def npy_from_bytes(data: bytes) -> "np.ndarray":
    """The array of a .npy file's bytes, a copy; ValueError for anything else."""
    import io

    import numpy as np
    try:
        _npy_shape(io.BytesIO(data), len(data))
        return np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as e:
        raise ValueError(f"an array that cannot be read: {reason(e)}") from None


def read_npz(path: str | Path, kind: str = "a .npz archive") -> dict[str, "np.ndarray"]:
    """{name: array} of a .npz archive, all in memory; WorkError when it claims more memory than is free."""
    import numpy as np

    from harness.machine import free_memory
    with reading(path, kind), np.load(path, allow_pickle=False) as archive:
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it is no archive of arrays")
        packed: Any = archive.zip
        sizes = [member.file_size for member in packed.infolist()]
        if sum(sizes) > (have := free_memory()):
            raise ValueError(f"its arrays would take {sum(sizes)} bytes, but {have} are free")
        arrays = {}
        for name, member in zip(archive.files, packed.infolist(), strict=True):
            with packed.open(member) as f:
                _npy_shape(f, member.file_size)
            arrays[name] = archive[name]
        return arrays


def _npy_shape(f, size):
    """Shape of the .npy array in a stream of `size` bytes; ValueError unless all of it can be in them."""
    from numpy.lib import format as npy
    version = npy.read_magic(f)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"its format version is {version[0]}.{version[1]}")
    start = f.tell()
    if (length := int.from_bytes(f.read(2 if version == (1, 0) else 4), "little")) > min(size, LONGEST_HEADER):
        raise ValueError(f"its header should take {length} bytes; it has {size}")
    f.seek(start)
    shape, _, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(f)
    if dtype.hasobject:
        raise ValueError("it contains Python objects, not numbers")
    if not all(isinstance(n, int) and n >= 0 for n in shape):
        raise ValueError(f"its shape is {shape}")
    if (need := math.prod(shape) * dtype.itemsize) > size - f.tell():
        raise ValueError(f"it is cut off: {shape} of {dtype} take {need} bytes, but it has {size - f.tell()} of them")
    return shape


# --------------------------------------------------------------------------- tables

def read_parquet(path: str | Path, columns: Sequence[str] | None = None, remedy: str = "") -> "pa.Table":
    """The columns of a parquet file (None: all) as an arrow table, without pandas' notes on them.

    remedy: end of the sentence about a damaged file
    WorkError for a damaged file, two columns of one name, text that is no UTF-8, and absent `columns`.
    """
    import pyarrow.parquet as pq
    with reading(path, "parquet", remedy), pq.ParquetFile(path) as file:
        _check_columns(path, file.schema_arrow.names, columns)
        table = file.read(None if columns is None else list(columns)).replace_schema_metadata(None)
        table.validate(full=True)   # offsets and text, before somebody follows them
        return table.cast(_without_views(table.schema))


def parquet_schema(path: str | Path) -> "pa.Schema":
    """The arrow schema of a parquet file."""
    import pyarrow.parquet as pq
    with reading(path, "parquet"), pq.ParquetFile(path) as file:
        _check_columns(path, file.schema_arrow.names)
        return file.schema_arrow


def parquet_batches(path: str | Path, columns: Sequence[str], rows: int) -> Iterator["pa.RecordBatch"]:
    """Yield record batches of at most `rows` rows of these columns of a parquet file."""
    import pyarrow.parquet as pq
    with contextlib.ExitStack() as opened:
        with reading(path, "parquet"):
            file = opened.enter_context(pq.ParquetFile(path))
            _check_columns(path, file.schema_arrow.names, columns)
            batches = file.iter_batches(batch_size=rows, columns=list(columns))
        while True:
            with reading(path, "parquet"):
                batch = next(batches, None)
                if batch is not None:
                    batch.validate(full=True)
                    batch = batch.cast(_without_views(batch.schema))
            if batch is None:
                return
            yield batch


def _without_views(schema):
    """The arrow schema with view types, which arrow writes but cannot select rows of, as the usual ones."""
    import pyarrow as pa
    views = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}

    def usual(kind):
        if pa.types.is_struct(kind):
            return pa.struct([field.with_type(usual(field.type)) for field in kind])
        if pa.types.is_list(kind) or pa.types.is_list_view(kind):
            return pa.list_(kind.value_field.with_type(usual(kind.value_type)))
        if pa.types.is_large_list(kind) or pa.types.is_large_list_view(kind):
            return pa.large_list(kind.value_field.with_type(usual(kind.value_type)))
        return views.get(kind, kind)
    return pa.schema([field.with_type(usual(field.type)) for field in schema])


def _check_columns(path, names, columns=()):
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise WorkError(f"{path} has two columns of the name {twice[0]}")
    if missing := [c for c in columns or () if c not in names]:
        raise WorkError(f"{path} has no column {' or '.join(missing)}; it has {', '.join(names) or 'none'}")


# --------------------------------------------------------------------------- checkpoints

def load_checkpoint(path: str | Path, device: "str | torch.device" = "cpu",
                    keys: Iterable[str] = ()) -> dict[str, Any]:
    """The dict that `save_checkpoint` wrote; WorkError when the file is gone, damaged or lacks one of `keys`."""
    import torch
    again = "remove it or use --overwrite to start again"
    if not Path(path).is_file():
        raise WorkError(f"checkpoint {path} is gone; use --overwrite to start again")
    with reading(f"checkpoint {path}", "a checkpoint", again):
        state = torch.load(path, map_location=device, weights_only=True)
    if not isinstance(state, dict) or any(key not in state for key in keys):
        raise WorkError(f"checkpoint {path} is of something else; {again}")
    return state


def narrowed(given: "np.ndarray", name: str) -> "np.ndarray":
    """The rows (n, D) of an embedding, of any float type, as float32 (n, D), the same array where they are; NaN stays.

    WorkError where the square of a vector's length is beyond float32. An empty matrix is returned as it is.
    """
    import numpy as np
    with np.errstate(over="ignore", under="ignore"):
        vectors = given.astype(np.float32, copy=False)
        squares = np.einsum("ij,ij->i", vectors, vectors)
    beyond = np.isfinite(given).all(axis=1) & (~np.isfinite(squares) | (squares == 0) & (given != 0).any(axis=1))
    if beyond.any():
        raise WorkError(f"embedding {name!r}: the vectors of {beyond.sum()} tracks are too long or too short for "
                        "float32 arithmetic; multiply the whole matrix by a constant, so that lengths are near 1")
    return vectors
