"""TensorFlow checkpoints without TensorFlow: `<prefix>.index` and `<prefix>.data-00000-of-00001` to numpy.

The index is a sorted table of LevelDB's kind (github.com/google/leveldb, doc/table_format.md): a
48-byte footer points to an index block, that to data blocks; keys are prefix-compressed variable
names, values are protobuf messages with dtype, shape, offset, size and a masked CRC-32C
(tensorflow/core/protobuf/tensor_bundle.proto). The data file is the raw little-endian tensors. Every
block and every tensor that is read is checked against its CRC. Checkpoints of one data file only.
"""
import functools
import struct

import numpy as np

from harness.errors import WorkError

MAGIC = 0xDB4775248B80FB57
DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8"}  # tensorflow/core/framework/types.proto
POLYNOMIAL = 0x82F63B78  # Castagnoli, bit-reversed


def load(prefix, keep=lambda name: True):
    """{variable name: array} of the variables for which keep(name); WorkError says what is broken.

    prefix: path without `.index`; a folder whose files are named `.index` and `.data-...` is "folder/".
    """
    index, data = f"{prefix}.index", f"{prefix}.data-00000-of-00001"
    with open(index, "rb") as f:
        entries = _entries(f.read(), index)
    with open(data, "rb") as f:
        content = memoryview(f.read())
    return {name: _tensor(content, message, f"variable {name} of {data}")
            for name, message in entries.items() if keep(name)}


def _tensor(content, message, what):
    fields = _message(message)
    dtype, offset, size = fields.get(1, [0])[0], fields.get(4, [0])[0], fields.get(5, [0])[0]
    if dtype not in DTYPES or 7 in fields:
        raise WorkError(f"{what} has type {dtype} or is partitioned, which this reader does not support")
    shape = [_message(d).get(1, [0])[0] for d in _message(fields.get(2, [b""])[0]).get(2, [])]
    raw = content[offset:offset + size]
    if len(raw) != size or size != int(np.prod(shape, dtype=np.int64)) * np.dtype(DTYPES[dtype]).itemsize:
        raise WorkError(f"{what} should be {size} bytes of shape {shape}, but {len(raw)} are there; "
                             "the file is cut or altered")
    _check(raw, fields.get(6, [None])[0], what)
    return np.frombuffer(raw, DTYPES[dtype]).reshape(shape)


# --------------------------------------------------------------------------- the table

def _entries(table, path):
    """{variable name: protobuf bytes} of an index file."""
    if len(table) < 48 or struct.unpack("<Q", table[-8:])[0] != MAGIC:
        raise WorkError(f"{path} is not a TensorFlow checkpoint index (its last bytes are not the magic number)")
    try:
        _, i = _varint(table, len(table) - 48)  # the handle of the metaindex block, unused
        _, i = _varint(table, i)
        top = _block(table, i, path)
        entries = {}
        for handle in top.values():
            entries.update(_block(table, 0, path, handle))
    except (IndexError, struct.error, UnicodeDecodeError):
        raise WorkError(f"{path} is damaged: its table cannot be parsed; install it again") from None
    header = _message(entries.pop(b"", b""))
    if header.get(1, [1])[0] != 1 or header.get(2, [0])[0] != 0:
        raise WorkError(f"{path} belongs to a checkpoint of several data files or of big-endian numbers, "
                        "which this reader does not support")
    return {key.decode(): value for key, value in entries.items()}


def _block(table, at, path, handle=None):
    """{key: value} of the block whose handle (offset, size) is at `at` of the table, or is given as bytes."""
    source, at = (table, at) if handle is None else (handle, 0)
    offset, at = _varint(source, at)
    size, _ = _varint(source, at)
    content = table[offset:offset + size + 1]  # with the type byte, which the CRC covers
    (crc,) = struct.unpack("<I", table[offset + size + 1:offset + size + 5])
    _check(content, crc, f"a block of {path}")
    if content[size] != 0:
        raise WorkError(f"{path} is compressed, which this reader does not support")
    (restarts,) = struct.unpack("<I", content[size - 4:size])
    end, i, key, entries = size - 4 * (restarts + 1), 0, b"", {}
    while i < end:
        shared, i = _varint(content, i)
        own, i = _varint(content, i)
        length, i = _varint(content, i)
        key = key[:shared] + content[i:i + own]
        entries[key] = content[i + own:i + own + length]
        i += own + length
    return entries


def _varint(data, i):
    value = shift = 0
    while True:
        byte = data[i]
        value |= (byte & 127) << shift
        i, shift = i + 1, shift + 7
        if byte < 128:
            return value, i


def _message(data):
    """{field number: [values]} of a protobuf message; nested messages stay bytes."""
    fields, i = {}, 0
    while i < len(data):
        tag, i = _varint(data, i)
        kind = tag & 7
        if kind == 0:
            value, i = _varint(data, i)
        elif kind == 2:
            length, i = _varint(data, i)
            value, i = data[i:i + length], i + length
        else:  # 1: eight bytes, 5: four bytes
            width = {1: 8, 5: 4}[kind]
            value, i = int.from_bytes(data[i:i + width], "little"), i + width
        fields.setdefault(tag >> 3, []).append(value)
    return fields


# --------------------------------------------------------------------------- CRC-32C

def _check(data, masked, what):
    crc = crc32c(data)
    if ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF != masked:
        raise WorkError(f"{what} does not match its checksum; the file is damaged, install it again")


@functools.cache
def _tables():
    """byte table (256,), for the register after one more byte."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(POLYNOMIAL), table >> 1)
    return table


def crc32c(data):
    """CRC-32C of bytes, as int. The data is folded into ~sqrt(n) rows that advance together."""
    x = np.frombuffer(data, np.uint8)
    table = _tables()
    if len(x) < 64:
        crc = 0xFFFFFFFF
        for byte in x.tolist():
            crc = crc >> 8 ^ int(table[(crc ^ byte) & 255])
        return crc ^ 0xFFFFFFFF
    width = int(len(x) ** 0.5) + 1
    rows = -(-len(x) // width)
    folded = np.zeros(rows * width, np.uint8)  # zeros in front leave a zero register zero
    folded[-len(x):] = x
    folded[-len(x):][:4] ^= 255  # the same as starting from a register of ones
    columns = np.ascontiguousarray(folded.reshape(rows, width).T)
    register = np.zeros(rows, np.uint32)
    for column in columns:
        register = register >> 8 ^ table[(register ^ column) & 255]
    # A row followed by `width` more bytes: what that does to each bit of its register, then to all.
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    for _ in range(width):
        bits = bits >> 8 ^ table[bits & 255]
    bits, crc = bits.tolist(), 0
    for row in register.tolist():
        moved = 0
        for k in range(32):
            if crc >> k & 1:
                moved ^= bits[k]
        crc = moved ^ row
    return crc ^ 0xFFFFFFFF
