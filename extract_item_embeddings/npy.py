"""Your own vectors: import a matrix or a table keyed by track, checked and aligned to the tracks of the workspace.

    python extract_item_embeddings/npy.py NAME --file vectors.npy --ids ids.txt [--workdir DIR]
    python extract_item_embeddings/npy.py NAME --file vectors.parquet [--id-column COLUMN] [--keys id|row]

| file                          | content                                                                        |
|-------------------------------|--------------------------------------------------------------------------------|
| .npy, and --ids               | (n, D) numbers; the ids one per line (.txt: as they are; else an id with a     |
|                               | comma is quoted), or a csv with a column trackid or id                         |
| .npz                          | one array (n, D) and one of n ids, or an array (D,) under the id of each track |
| .parquet, .pqt                | a column of keys, and one column of lists or columns of numbers                |
| .csv, .tsv, also .bz2 and .gz | a header; a column of keys, and columns of numbers                             |

The key column is trackid, track_id, id or idx, or --id-column. Keys are original track ids, except in a column idx or
an integer column track_id, where they are rows of trackid_sorted.csv, as in the files of a workspace. Where the
integers of track_id are also ids of that list, with or without the zeros before them, they are ids if some of them can
be no rows, and else a question that --keys answers. For a matrix in the order of the workspace use --ids
trackid_sorted.csv. Values become float32; tracks that are absent or have a value that is not finite become NaN rows,
listed in the json.
"""
if __package__ in (None, ""):  # run as a file: the project, not this folder, is where imports begin
    import sys
    from pathlib import Path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import harness.environment  # noqa: F401 (a missing package ends in one sentence)

import csv
from pathlib import Path

import numpy as np

import dataset
from extract_item_embeddings.engine import aligned
from harness import cli, quotes
from harness.errors import UsageError, WorkError
from harness.files import checksum
from harness.ids import is_item_name
from harness.readers import read_npy, read_npz

TABLES = (".parquet", ".pqt", ".csv", ".tsv")
BLOCK = 4096  # rows


class Matrix:
    """(n, D) numbers and the n keys of their rows, both in memory or mapped."""
    by_row = False

    def __init__(self, path, values, keys):
        self.name, self.values, self.keys = path.name, values, keys
        if values.ndim != 2 or values.dtype.kind not in "fiu" or values.shape[1] == 0:
            raise WorkError(f"{path} must be a matrix of numbers (tracks, dimensions), but is {values.dtype} "
                            f"{values.shape}")
        if len(keys) != len(values):
            raise WorkError(f"{path} has {len(values)} rows, but there are {len(keys)} track ids")

    def blocks(self):
        for s in range(0, len(self.values), BLOCK):
            yield self.keys[s:s + BLOCK], np.asarray(self.values[s:s + BLOCK])

    def about(self):
        return {}


def as_ids(array, path):
    """Track ids from an array of strings, bytes of UTF-8 or integers, list of str; WorkError for others."""
    if array.ndim != 1 or array.dtype.kind not in "USiu":
        raise WorkError(f"{path}: the track ids must be one string or integer per row, not {array.dtype} "
                        f"{array.shape}")
    if array.dtype.kind != "S":
        return [str(i) for i in array.tolist()]
    ids = []
    for row, text in enumerate(array.tolist()):
        try:
            ids.append(text.decode())
        except UnicodeDecodeError as e:
            raise WorkError(f"{path}: the track id of row {row}, {text[:40]!r}, is not text in UTF-8 ({e.reason}); "
                            "write the ids as text (numpy's str)") from None
    return ids


def read_ids(path):
    """Track ids, one per row of a matrix: .npy, a csv with a column trackid or id, or text with one per line.

    In a .txt without such a header a line is an id as it is, commas and quotes included.
    """
    if not path.is_file():
        raise UsageError(f"--ids {path} does not exist")
    if path.suffix == ".npy":
        return as_ids(read_npy(path, kind="numbers"), path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as e:
        raise WorkError(f"--ids {path} is not text in UTF-8 ({e})") from None
    first = text.partition("\n")[0]
    delimiter = "\t" if "\t" in first else ","
    if path.suffix.lower() == ".txt" and not any(map(is_item_name, quotes.cells_of(first, delimiter))):
        return [line for line in text.split("\n") if line]
    try:
        numbered = [(line, row) for line, row in quotes.numbered_rows(text, delimiter, True) if row]
    except csv.Error as e:
        raise WorkError(f"--ids {path} is no text table ({e})") from None
    if odd := next((line for line, row in numbered if any("\n" in cell for cell in row)), None):
        raise WorkError(f"--ids {path}, line {odd}: a quoted cell runs over several lines, as behind a stray quote; "
                        f"{quotes.MEND}")
    rows = [row for _, row in numbered]
    column = next((rows[0].index(n) for n in ("trackid", "track_id", "id") if rows and n in rows[0]), None)
    if column is None and rows:
        column = next((i for i, name in enumerate(rows[0]) if is_item_name(name)), None)
    if column is None and (odd := next(((n, row) for n, row in numbered if len(row) > 1), None)):
        raise WorkError(f"--ids {path}, line {odd[0]}: {delimiter.join(odd[1])[:60]!r} has {len(odd[1])} cells; one id "
                        "per line, or a header with a column trackid or id, is expected: put ids that hold a "
                        f"{'comma' if delimiter == ',' else 'tab'} in quotes, or call the file .txt, whose lines are "
                        "ids as they are")
    if column is not None and (odd := next((n for n, row in numbered if len(row) != len(rows[0])), None)):
        raise WorkError(f"--ids {path}, line {odd}: the row has not the {len(rows[0])} cells of the header")
    return [row[column or 0] for row in (rows if column is None else rows[1:])]


def open_npz(path):
    """A Matrix from an archive of arrays: ids beside a matrix, or a vector under each id."""
    arrays = read_npz(path, kind="numbers")
    matrices = [n for n, a in arrays.items() if a.ndim == 2]
    if len(matrices) == 1 and len(arrays) == 2:
        (ids,) = arrays.keys() - matrices
        return Matrix(path, arrays[matrices[0]], as_ids(arrays[ids], path))
    shapes = {a.shape for a in arrays.values()}
    if matrices or len(shapes) != 1 or len(*shapes) != 1:
        raise WorkError(f"{path} must contain one matrix and one array of track ids, or a vector of the same length "
                        f"under each id, but contains {len(arrays)} arrays of {len(shapes)} shapes")
    return Matrix(path, np.stack(list(arrays.values())), list(arrays))


def opener(args, path, work):
    """A function that opens the file as a source of blocks; UsageError for options that do not apply to it."""
    suffix = next((s for s in reversed(path.suffixes) if s not in (".bz2", ".gz")), "")
    if suffix == ".npy" and not args.ids:
        raise UsageError(f"{path} has no track ids; name a file of them with --ids (trackid_sorted.csv, if the rows "
                         "are in the order of the workspace)")
    if suffix != ".npy" and args.ids:
        raise UsageError(f"--ids applies to .npy files only; {path} contains its ids, so leave it out")
    if suffix not in TABLES and (args.id_column or args.keys):
        raise UsageError(f"--{'id-column' if args.id_column else 'keys'} applies to tables only; {path} has no "
                         "columns, so leave it out")
    if suffix == ".npy":
        return lambda: Matrix(path, read_npy(path, kind="numbers"), read_ids(args.ids))
    if suffix == ".npz":
        return lambda: open_npz(path)
    if suffix in TABLES:
        from extract_item_embeddings.engine.tabular import Table
        return lambda: Table(path, args.id_column, None if args.keys is None else args.keys == "row",
                             lambda: dataset.read_tracks(work)[0])
    raise UsageError(f"{path} must be a .npy, .npz, .parquet, .csv or .tsv file")


def parser():
    p = cli.Parser(description=__doc__)
    add = p.add_argument
    add("name", metavar="NAME", help="name of the output embeddings/NAME.npy")
    add("--file", type=Path, required=True, metavar="FILE",
        help="file with the vectors: .npy, .npz, .parquet, .csv or .tsv")
    add("--ids", type=Path, metavar="FILE", help="file with the track ids of the rows of a .npy")
    add("--id-column", metavar="COLUMN",
        help="name of the key column of a table (default: the first of trackid, track_id, id, idx)")
    add("--keys", choices=("id", "row"), help="content of the key column of a table: track ids, or rows of "
        "trackid_sorted.csv (default: row for idx and an integer track_id whose values are no ids, else id)")
    add("--about", default="", metavar="TEXT", help="description of the vectors for the json")
    add("--licence", metavar="TEXT", help="licence of the vectors for the json")
    cli.common_flags(p, seed=False)
    return p


def main(argv=None):
    args = parser().parse_args(argv)
    work = cli.workspace(args)
    aligned.check_name(args.name)
    path = args.file = args.file.expanduser()
    if not path.is_file():
        raise UsageError(f"--file {path} does not exist")
    args.ids = args.ids and args.ids.expanduser()
    opened = opener(args, path, work)
    if args.ids and not args.ids.is_file():
        raise UsageError(f"--ids {args.ids} does not exist")
    checksums = [checksum(p) for p in (path, args.ids) if p]
    request = {"backend": "given", "about": args.about, "licence": args.licence, "file": path.name,
               "id_column": args.id_column, "key_kind": args.keys, "source_checksum": " ".join(checksums)}
    aligned.make(work, args.name, request, opened, args.overwrite, ("pyarrow",))


if __name__ == "__main__":
    cli.run(main)
