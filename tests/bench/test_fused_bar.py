"""The fused model's bar: means over seeds, relative intervals, and the verdicts on made-up figures of users."""
import numpy as np
import pandas as pd
import pytest

from bench import fused_bar
from harness.errors import UsageError, WorkError
from harness.files import write_parquet


def write(workdir, run, part, values, cold_share=0.5):
    write_parquet(workdir / "metrics" / f"{run}_{part}.pqt", pd.DataFrame(
        {"user_id": np.arange(len(values))[::-1], "NDCG@10": values[::-1], "ColdShare@10": cold_share}))


def test_values_are_means_over_the_runs_by_user(tmp_path):
    write(tmp_path, "a", "test", np.array([0.1, 0.2, 0.6]))
    write(tmp_path, "b", "test", np.array([0.3, 0.2, 0.0]))
    users, values = fused_bar.values_of(tmp_path, ["a", "b"], "test")
    assert users.tolist() == [0, 1, 2] and np.allclose(values, [0.2, 0.2, 0.3])
    with pytest.raises(UsageError, match="is missing; name finished runs that rank cold_test"):
        fused_bar.values_of(tmp_path, ["a"], "cold_test")
    write(tmp_path, "c", "test", np.array([0.3, 0.2]))
    with pytest.raises(WorkError, match="has other users"):
        fused_bar.values_of(tmp_path, ["a", "c"], "test")


@pytest.mark.numeric
def test_a_relative_difference_and_its_lower_end():
    """The same shift for all users has no spread: both are the shift. With noise the end is near the normal one."""
    reference = np.full(500, 0.2)
    assert np.allclose(fused_bar.relative(reference * 1.1, reference, 200), 0.1)
    noise = np.random.default_rng(0).normal(0, 0.1, 500)
    difference, low = fused_bar.relative(reference + noise, reference, 4000)
    # 4000 draws place the 2.5 % quantile within some 4 % of the distance
    assert low == pytest.approx(difference - 1.96 * noise.std() / 500 ** 0.5 / 0.2, abs=0.005)


@pytest.mark.parametrize("hot, cold, union, verdicts", [
    (0.99, 0.99, 1.3, ["met", "met", "met", "met"]),
    (0.90, 0.99, 1.3, ["not met", "met", "met", "met"]),
    (0.99, 0.90, 1.3, ["met", "not met", "met", "met"]),
    (0.99, 0.99, 1.0, ["met", "met", "not met", "not met"]),
])
def test_the_verdicts(tmp_path, capsys, hot, cold, union, verdicts):
    rng = np.random.default_rng(1)
    base = rng.uniform(0.1, 0.5, 400)
    for run, factors in (("hot", (1, None, 1)), ("cold", (1, 1, 1)), ("fused", (hot, cold, union))):
        for part, factor in zip(("test", "cold_test", "all_test"), factors, strict=True):
            if factor is not None:
                write(tmp_path, run, part, base * factor + (rng.normal(0, 0.002, 400) if run == "fused" else 0))
    fused_bar.main(["--workdir", str(tmp_path), "--fused", "fused", "--hot", "hot", "--cold", "cold"])
    lines = [line for line in capsys.readouterr().out.splitlines() if "met (" in line]
    assert ["not met" if "not met" in line else "met" for line in lines] == verdicts
