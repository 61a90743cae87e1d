"""metrics/{run}_{part}.pqt and .csv: values of every user, and their means with half-widths."""
import numpy as np

from evaluation.intervals import mean_and_half_width
from harness.files import write_csv, write_parquet


def write_metrics(path, values, whole=None):
    """Write values of users as parquet beside `path`, their means and half-widths as csv; return {column: mean}.

    whole: {column: value} of all users together, without an interval
    """
    import pandas as pd
    frame = pd.DataFrame(mean_and_half_width(values), columns=values.columns, index=["mean", "conf"])
    for name, value in (whole or {}).items():
        frame[name] = [value, np.nan]
    write_parquet(path.with_suffix(".pqt"), values.reset_index())
    write_csv(path, frame)
    return frame.loc["mean"].to_dict()
