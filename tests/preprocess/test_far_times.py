"""plays.pqt that still holds a time far outside of plausible years: one sentence from the splitter and the report."""
import importlib

import duckdb
import pytest

import explore
from harness import cli
from harness.files import write_json

SPLIT = importlib.import_module("preprocess.1_train_test_split")
FAR = ["0001-01-01", "0000-01-01", "1899-12-31 23:59:59", "2201-01-01", "9999-12-31 23:59:59.999999", "infinity",
       "-infinity"]


@pytest.fixture
def workspace(tmp_path):
    """A workspace of a play a day, of which the last is at another time."""
    def make(last, kind="timestamp", time="real"):
        (tmp_path / "trackid_sorted.csv").write_text("idx,trackid\n" + "".join(f"{i},t{i}\n" for i in range(10)))
        duckdb.execute(f"""copy (select i % 20 as user_id, i // 40 as track_id,
            (case when i = 399 then '{last}'::timestamp else '2019-01-01'::timestamp + interval (i) day end)::{kind}
            as timestamp from range(400) t(i)) to '{tmp_path / "plays.pqt"}' (format parquet)""")
        write_json(tmp_path / "dataset.json", {"name": "own data", "status": "finished", "time": time})
        return tmp_path
    return make


def ended(main, argv, capsys):
    with pytest.raises(SystemExit) as end:
        cli.run(main, list(map(str, argv)))
    return end.value.code, capsys.readouterr().err


@pytest.mark.parametrize("time", FAR)
def test_far_times_are_one_sentence(workspace, capsys, time):
    folder = workspace(time)
    said = "plays.pqt has the time " + {"0000-01-01": "0001-01-01 (BC)"}.get(time, time)
    for protocol in ("recsys24", "hotcold", "cold-items", "leave-one-out", "random"):
        dated = ["--test-share-time", .1] if protocol not in ("leave-one-out", "random") else []
        code, err = ended(SPLIT.main, ["--workdir", folder, "--protocol", protocol, *dated], capsys)
        assert code == 1 and said in err and err.count("\n") == 1
        assert not (folder / "data").exists() or not list((folder / "data").glob("*.pqt"))
    code, err = ended(explore.main, ["--workdir", folder], capsys)
    assert code == 1 and said in err and "outside of the years 1900 to 2200" in err
    assert err.count("\n") == 1 and not (folder / "explore" / "report.md").exists()


@pytest.mark.parametrize("kind", ["timestamp_s", "timestamp_ms"])
def test_far_times_of_coarser_units_are_one_sentence(workspace, capsys, kind):
    code, err = ended(SPLIT.main, ["--workdir", workspace("9999-12-31", kind), "--protocol", "random"], capsys)
    assert code == 1 and "plays.pqt has the time 9999-12-31" in err and err.count("\n") == 1


@pytest.mark.parametrize("time", ["1900-01-01", "2200-12-31 23:59:59"])
def test_times_at_the_edges_are_split_and_described(workspace, capsys, time):
    folder = workspace(time)
    assert ended(SPLIT.main, ["--workdir", folder, "--protocol", "random"], capsys)[0] == 0
    assert ended(explore.main, ["--workdir", folder], capsys)[0] == 0


@pytest.mark.parametrize("flag", ["--train-start", "--test-date", "--test-end"])
@pytest.mark.parametrize("date", ["9999-12-15", "0001-01-01", "2201-01-01"])
def test_a_far_date_is_refused(workspace, capsys, flag, date):
    words = [] if flag == "--test-date" else ["--test-date", "2020-01-01"]
    code, err = ended(SPLIT.main, ["--workdir", workspace("2020-02-04"), "--protocol", "hotcold", *words, flag, date],
                      capsys)
    assert code == 2 and f"{flag} {date} is outside of the years 1900 to 2200" in err and err.count("\n") == 1


def test_an_order_of_rows_is_no_time(workspace, capsys):
    folder = workspace("9999-12-31", time="ordinal")
    assert ended(SPLIT.main, ["--workdir", folder, "--protocol", "leave-one-out"], capsys)[0] == 0
