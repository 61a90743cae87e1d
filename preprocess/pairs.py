"""Lines of `user item` in the order of listening: the standard files of the sequential literature.

    python preprocess/0_get_plays_pqt.py pairs --raw beauty.txt --workdir W
    python preprocess/1_train_test_split.py --protocol leave-one-out --workdir W

Such a file has two words per line and no header; a user's lines follow each other in time. Results of SASRec, BERT4Rec
and their followers are published on files of this form, with the last item of each user as test and the one before as
val, which is what the second command does.

What is written
  trackid_sorted.csv, userid_sorted.csv   the words, sorted as text (by code point)
  plays.pqt   user_id, track_id, timestamp (row number as seconds since the epoch: `time: ordinal`), in the file's order

Lines of blanks are left out. A line with one word or more than two is an error, since it is another kind of file.
Practical limit: the file is read at once, about 120 bytes of memory per line.
"""
from pathlib import Path

from harness.errors import UsageError, WorkError
from harness.files import checksum, write_csv, write_parquet
from harness.machine import versions
from preprocess import stage

HELP = "a text file with `user item` on each line, in time order, as sequential recommenders are published on"


def add_arguments(parser):
    parser.add_argument("--raw", required=True, type=Path, metavar="FILE",
                        help="text with two words per line, user and item, in the order of listening; also .gz or .bz2")


def get_plays(args, workdir):
    """Write the workspace described above; skip it when the file did not change."""
    raw = args.raw.expanduser()
    if not raw.is_file():
        raise UsageError(f"--raw {raw} is no file; name a text with `user item` on each line")
    request = {"dataset": "pairs", raw.name: checksum(raw)}
    with stage.together(workdir / "dataset.json", "pairs") as new:
        if new.same(request, args.overwrite):
            return
        counts = write_tables(new.path, read(raw))
        for path in stage.stale_split(workdir, new.path("trackid_sorted.csv"), args.overwrite):
            path.unlink()
        new.publish({"name": "pairs", "source": raw.name, "licence": "that of the file", "time": "ordinal",
                     "track_ids": "the second words, as text", "user_ids": "the first words, as text",
                     "request": request, "checksums": {raw.name: request[raw.name]}, "counts": counts,
                     "versions": versions()})
    print(f"pairs: {counts['users']} users, {counts['tracks']} tracks, {counts['plays']} plays of {raw.name}")


def read(path):
    """The lines as a pandas frame of text, columns user and item; WorkError where they are no pairs."""
    import pandas as pd
    try:
        frame = pd.read_csv(path, sep=r"\s+", header=None, names=["user", "item", "more"], index_col=False, dtype=str,
                            keep_default_na=False, quoting=3, encoding="utf-8-sig")
    except (ValueError, OSError, EOFError) as e:        # pandas' own errors and those of UTF-8 are ValueErrors
        if "Expected 3 fields" not in str(e):
            raise WorkError(f"{path} cannot be read as text of two words per line "
                            f"({' '.join(str(e).split())})") from None
        raise WorkError(f"{path}: {str(e).split('line ')[-1].split(',')[0]} is a line of more than two words; "
                        "lines are `user item`") from None
    frame = frame.fillna("")
    odd = (frame["item"] == "") | (frame["more"] != "")
    if odd.any():
        at = int(odd.to_numpy().argmax())
        raise WorkError(f"{path}: {' '.join(frame.iloc[at]).strip()!r}, pair {at + 1}, is not two words; lines are "
                        "`user item`")
    if frame.empty:
        raise WorkError(f"{path} has no line")
    return frame[["user", "item"]]


def write_tables(path, frame):
    """The tables of ids and plays.pqt; returns the counts. path: from a file's name to where it is written."""
    import numpy as np
    import pandas as pd
    codes = {}
    for column, name in (("user", "user"), ("item", "track")):
        codes[name], ids = pd.factorize(frame[column], sort=True)
        write_csv(path(f"{name}id_sorted.csv"), pd.DataFrame({"idx": range(len(ids)), f"{name}id": ids}),
                       index=False)
    write_parquet(path("plays.pqt"), pd.DataFrame({
        "user_id": codes["user"], "track_id": codes["track"],
        "timestamp": np.arange(len(frame)).astype("datetime64[s]").astype("datetime64[us]")}))
    return {"users": int(codes["user"].max() + 1), "tracks": int(codes["track"].max() + 1), "plays": len(frame)}
