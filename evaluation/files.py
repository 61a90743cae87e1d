"""metrics/{run}_{part}.pqt and .csv: values of every user, and their means with half-widths.

`metrics.report` is the only writer of these two. What a run measures itself, because saved lists cannot give it, it
writes in the same form into metrics/{run}_{part}_points.pqt and .csv, which table.py joins.
"""
from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from evaluation.intervals import mean_and_half_width
from harness.errors import WorkError
from harness.files import write_csv, write_parquet
from harness.readers import parquet_schema, read_parquet, reading

if TYPE_CHECKING:
    import pandas as pd

KEY = b"lists"   # of the parquet file's metadata: a digest of the lists and the truth that its values are of
SEEDS = b"seeds"  # and {column: seed} as json
ROUNDING = 1e-9  # of figures between two machines: sums of at most a thousand values of at most 1


def write_metrics(path: Path, values: pd.DataFrame, whole: dict[str, float] | None = None,
                  digest: str = "", seeds: Mapping[str, int] | None = None) -> dict[str, float]:
    """Write values of users as parquet beside `path`, their means and half-widths as csv; return {column: mean}.

    values: index user_id, a column for each metric; NaN has no share in a mean
    whole:  {column: value} of all users together, without an interval
    digest: of what the values were computed from, kept in the parquet file's metadata
    seeds: of the columns that rest on a draw (SubsetAccuracy), {column: seed}, kept there, too
    """
    import pandas as pd
    import pyarrow as pa
    frame = pd.DataFrame(mean_and_half_width(values), columns=values.columns, index=["mean", "conf"])
    for name, value in (whole or {}).items():
        frame[name] = [value, np.nan]
    table = pa.Table.from_pandas(values.reset_index(), preserve_index=False)
    if digest:
        table = table.replace_schema_metadata({**table.schema.metadata, KEY: digest.encode(),
                                               SEEDS: json.dumps(dict(seeds or {})).encode()})
    write_csv(path, frame)
    write_parquet(path.with_suffix(".pqt"), table)   # last: tables read a column's users first, and then its mean
    return dict(zip(map(str, frame.columns), frame.to_numpy()[0].tolist(), strict=True))


def seeds_of(path: Path) -> dict[str, int]:
    """{column: seed} of the columns of a metrics csv that rest on a draw; {} of files that do not say."""
    values = path.with_suffix(".pqt")
    if not values.exists():
        return {}
    with reading(values, "metrics"):
        return dict(json.loads((parquet_schema(values).metadata or {}).get(SEEDS, b"{}")))


def read_metrics(path: Path, remedy: str) -> tuple[pd.DataFrame, pd.Series]:
    """Values of users (frame with a column user_id) and means of all columns, out of a .csv and its .pqt.

    WorkError where a file is gone or damaged; remedy: the end of its sentence.
    """
    import pandas as pd
    values = path.with_suffix(".pqt")
    if not (path.exists() and values.exists()):
        raise WorkError(f"{values} or its .csv is gone; {remedy}")
    frame = read_parquet(values, remedy=remedy).to_pandas()
    with reading(f"{values} or its .csv", "metrics", remedy):
        means = pd.read_csv(path, index_col=0, float_precision="round_trip").T["mean"].astype(float)
        frame["user_id"].to_numpy(np.int64)
    return frame, means


def read_means(path: Path, remedy: str) -> dict[str, float]:
    """The means of all columns of a metrics csv, {column: mean}; WorkError where it is gone or damaged."""
    return read_rows(path, remedy)[0]


def read_rows(path: Path, remedy: str) -> tuple[dict[str, float], dict[str, float]]:
    """Means and half-widths of all columns of a metrics csv, two {column: value}; WorkError as for read_means."""
    import pandas as pd
    if not path.exists():
        raise WorkError(f"{path} is gone; {remedy}")
    with reading(path, "metrics", remedy):
        frame = pd.read_csv(path, index_col=0, float_precision="round_trip")
        mean, conf = (frame.loc[row].astype(float).to_dict() for row in ("mean", "conf"))
        return mean, conf


def again(workdir: Path, run: str, part: str) -> str:
    """What makes a run's metrics of a part again, the end of a sentence: of its lists metrics.py; without lists, as
    restored runs are, reporting.archive restore."""
    if (workdir / "preds" / f"{run}_{part}.pqt").exists():
        return f"python metrics.py {run} makes them again"
    return (f"there are no lists of it to evaluate; python -m reporting.archive restore NAME --workdir {workdir} makes "
            "the metrics of runs kept in results/NAME again, and a run's own command those of others")


def columns_from_before(path: Path, values: pd.DataFrame, digest: str, made: re.Pattern,
                        again: Callable) -> tuple[pd.DataFrame, dict[str, float]]:
    """Columns of the metrics at `path` that are not in `values`, to be written again.

    They belong to the present lists where the file was written with the same digest. Of a file of an earlier version,
    which has none, those stay that are not computed at every call, where all other figures are the present ones. What
    belongs to other lists goes; of that, what is not computed at every call is named on stderr.
    made:  matches the columns computed at every call, with the list length as its group
    again: function of list lengths giving (values of users, {column: value of all together}) of the present lists
    returns: frame by user_id, and {column: value of all users together}
    """
    import pandas as pd
    nothing: tuple[pd.DataFrame, dict[str, float]] = pd.DataFrame(index=values.index), {}
    try:
        frame, means = read_metrics(path, "")
    except WorkError:
        return nothing   # none yet, or damaged: all is written anew
    before = (parquet_schema(path.with_suffix(".pqt")).metadata or {}).get(KEY, b"").decode()
    names = [c for c in means.index if c not in values and (before == digest or not made.fullmatch(c))]
    if not names:
        return nothing
    frame = frame.set_index("user_id")
    if not (before == digest if before else _same_figures(frame, means, made, again)):
        print(f"{path.stem}: {', '.join(names)} of other lists dropped", file=sys.stderr)
        return nothing
    return frame[[c for c in names if c in frame]], {c: float(means[c]) for c in names if c not in frame}


def _same_figures(frame, means, made, again):
    """Whether metrics (values by user_id, means) are those that `again(list lengths)` computes, but for rounding."""
    names = [c for c in means.index if made.fullmatch(c)]
    values, whole = again(sorted({int(made.fullmatch(c)[1]) for c in names}) or [1])
    ours = [c for c in names if c in frame and c in values]
    return bool(ours) and frame.index.equals(values.index) and np.allclose(
        frame[ours], values[ours], rtol=0, atol=ROUNDING, equal_nan=True) and all(
        np.isclose(means[c], whole[c], rtol=0, atol=ROUNDING, equal_nan=True) for c in names if c in whole)
