"""Text files with one `user item` pair per line in chronological order, as published for sequential recommenders.

    python preprocess/0_get_plays_pqt.py pairs --raw beauty.txt --workdir W
    python preprocess/1_train_test_split.py --protocol leave-one-out --workdir W

Such a file has two words per line and no header; the lines of a user are in chronological order. Results of SASRec,
BERT4Rec and later models are published on files of this form, with each user's last item as test and the second to
last as val, which is the split made by the second command.

What is written
  trackid_sorted.csv, userid_sorted.csv   ids of items and of users in Unicode NFC, sorted as text (by code point)
  plays.pqt   user_id, track_id, timestamp (row number as seconds since the epoch: `time: ordinal`), in the file's order

Blank lines are skipped. A line with one word or with more than two is an error: the file has another format.
Practical limit: the whole file is read into memory, about 120 bytes per line.
"""
from pathlib import Path

from harness.errors import UsageError, WorkError
from harness.files import write_csv, write_parquet
from harness.ids import Forms, normal, normalised
from harness.inputs import check_unchanged, hashed
from harness.machine import versions
from preprocess import stage

HELP = "text file with one `user item` pair per line, in chronological order, as used for sequential recommenders"


def add_arguments(parser):
    parser.add_argument("--raw", required=True, type=Path, metavar="FILE",
                        help="text file with two words per line, user and item, in chronological order; may be "
                             "compressed as .gz or .bz2")


def get_plays(args, workdir):
    """Write the workspace described above; skip it if the file is unchanged."""
    raw = args.raw.expanduser()
    if not raw.is_file():
        raise UsageError(f"--raw {raw} is not a file; name a text file with `user item` on each line")
    seen = hashed(raw)
    request = {"dataset": "pairs", raw.name: seen.digest}
    with stage.atomic_outputs(workdir / "dataset.json", "pairs", args.overwrite) as new:
        if new.same(request, args.overwrite):
            return
        counts = write_tables(new.path, read(raw))
        check_unchanged([seen])
        new.check_split(args.overwrite)
        new.publish({"name": "pairs", "source": raw.name, "licence": "that of the file", "time": "ordinal",
                     "track_ids": "the second words, as text", "user_ids": "the first words, as text",
                     "request": request, "checksums": {raw.name: request[raw.name]}, "counts": counts,
                     "versions": versions()})
    print(f"pairs: {counts['users']} users, {counts['tracks']} tracks, {counts['plays']} plays of {raw.name}")


def read(path):
    """The lines as a pandas frame of text, columns user and item; WorkError for a line that is not a pair of ids."""
    try:
        frame = _frame(path)
    except (ValueError, OSError, EOFError) as e:        # pandas' own errors and those of UTF-8 are ValueErrors
        if "Expected 3 fields" not in str(e):
            raise WorkError(f"{path} cannot be read as text with two words per line "
                            f"({' '.join(str(e).split())})") from None
        raise WorkError(f"{path}: line {str(e).split('line ')[-1].split(',')[0]} has more than two words; "
                        "each line must be `user item`") from None
    invalid = (frame["item"] == "") | (frame["more"] != "")
    if invalid.any():
        at = int(invalid.to_numpy().argmax())
        raise WorkError(f"{path}: pair {at + 1}, {' '.join(frame.iloc[at]).strip()!r}, is not two words; each line "
                        "must be `user item`")
    if frame.empty:
        raise WorkError(f"{path} has no pairs; each line must be `user item`")
    for column in ("user", "item"):
        if blank := [word for word in frame[column].unique() if not normal(word)]:
            numbered = _frame(path, skip_blank_lines=False)
            line = 1 + int(numbered[column].isin(blank).to_numpy().argmax())
            raise WorkError(f"{path}, line {line}: the {column} is {blank[0]!a}, which is a blank and no id; each line "
                            "must be `user item`")
    return frame[["user", "item"]]


def _frame(path, skip_blank_lines=True):
    """The words of each line as a pandas frame of text, columns user, item and more; '' where a line has fewer."""
    import warnings

    import pandas as pd
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pd.errors.ParserWarning)     # of words beyond the third, which `more` shows
        return pd.read_csv(path, sep=r"\s+", header=None, names=["user", "item", "more"], index_col=False, dtype=str,
                       keep_default_na=False, quoting=3, encoding="utf-8-sig",
                       skip_blank_lines=skip_blank_lines).fillna("")


def write_tables(path, frame):
    """Write the id tables and plays.pqt; returns the counts. path: function from a file name to its output path."""
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    codes = {}
    for column, name in (("user", "user"), ("item", "track")):
        first, written = pd.factorize(frame[column])
        written, forms = pa.array(written, pa.string()), Forms()
        texts = normalised(written)
        forms.add(written, texts)
        if said := forms.sentence(f"{name}s"):
            print(said)
        place, ids = pd.factorize(texts.to_pandas(), sort=True)
        codes[name] = place[first]
        write_csv(path(f"{name}id_sorted.csv"), pd.DataFrame({"idx": range(len(ids)), f"{name}id": ids}),
                       index=False)
    write_parquet(path("plays.pqt"), pd.DataFrame({
        "user_id": codes["user"], "track_id": codes["track"],
        "timestamp": np.arange(len(frame)).astype("datetime64[s]").astype("datetime64[us]")}))
    return {"users": int(codes["user"].max() + 1), "tracks": int(codes["track"].max() + 1), "plays": len(frame)}
