"""The page's section of claims: rows of its data set, foreign text as text, and a damaged file named."""
import importlib

import pytest

import report
from harness.errors import WorkError
from harness.files import write_json
from harness.runs import inputs_checksum
from reporting.verdicts import of_data_set

ROW = {"claim": "a", "sentence": "<b>Audio</b> helps.", "variant": "musicnn", "verdict": "holds", "dataset": "tiny",
       "kind": "by construction", "takes": "", "direction": "above", "effect": .02, "low": .01, "high": .03,
       "smallest": .005, "runs": "content_cosine old_s1"}
FINISHED = {"content_cosine": {"inputs": {"data/train.pqt": "a1"}}}


def test_rows_are_those_of_this_data_set(tiny):
    assert of_data_set(tiny, FINISHED) == {
        "claims": [], "untested": 0, "made": False, "judged_by": "", "gone": 0, "other": 0}
    write_json(tiny / "claims" / "claims.json", {"commit": "abcdef12", "verdicts": [
        ROW, {**ROW, "dataset": "another"}, {**ROW, "verdict": "not testable here", "effect": None, "low": None}]})
    found = of_data_set(tiny, FINISHED)
    assert len(found["claims"]) == found["untested"] == 1 and found["made"]
    assert found["claims"][0] == {"sentence": "<b>Audio</b> helps.", "variant": "musicnn", "verdict": "holds",
                                  "effect": "+0.0200", "interval": "+0.0100 to +0.0300", "smallest": "+0.005",
                                  "takes": ""}
    importlib.import_module("knn").main(["content", "--workdir", str(tiny), "--k", "10"])
    report.main(["--workdir", str(tiny), "--users", "1"])
    text = (tiny / "report" / "index.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;Audio&lt;/b&gt; helps. (musicnn)" in text and "hold by construction" in text
    assert "1 more are not testable here" in text and "Judged by commit abcdef12." in text
    assert found["gone"] == 1 and "2 of the runs judged are no longer in this workspace" in text


def test_another_split_of_the_same_plays_has_its_own_verdicts(tiny):
    """dataset.json says tiny, the ledger calls this split of it tiny-cold; the file is of both workspaces."""
    write_json(tiny / "claims" / "claims.json", {
        "workspaces": {"tiny-cold": str(tiny), "tiny": str(tiny.with_name("other"))},
        "verdicts": [ROW, {**ROW, "dataset": "tiny-cold", "verdict": "fails"}]})
    assert [row["verdict"] for row in of_data_set(tiny, FINISHED)["claims"]] == ["fails"]


@pytest.mark.parametrize("verdicts", ["none", [3], [{**ROW, "effect": "much"}]])
def test_a_damaged_file_is_named(tiny, verdicts):
    write_json(tiny / "claims" / "claims.json", {"verdicts": verdicts})
    with pytest.raises(WorkError, match="claims.json"):
        of_data_set(tiny, FINISHED)


def test_runs_made_again_since_from_other_data_are_counted(tiny):
    """`old_s1` is gone; content_cosine is there, by name, and was judged on another train."""
    before = inputs_checksum({"inputs": {"data/train.pqt": "b2"}})
    write_json(tiny / "claims" / "claims.json", {"verdicts": [ROW], "inputs": {"tiny": {"content_cosine": before}}})
    found = of_data_set(tiny, FINISHED)
    assert (found["gone"], found["other"]) == (1, 1)
    now = inputs_checksum(FINISHED["content_cosine"])
    write_json(tiny / "claims" / "claims.json", {"verdicts": [ROW], "inputs": {"tiny": {"content_cosine": now}}})
    assert of_data_set(tiny, FINISHED)["other"] == 0
