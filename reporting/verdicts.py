"""What claims.py said of the data set of a page."""
from pathlib import Path

import dataset
from harness.readers import checked_fields, read_json
from harness.runs import inputs_checksum

FIELDS = {"sentence": str, "variant": str, "verdict": str, "dataset": str, "kind": str, "takes": str,
          "direction": str, "effect": (int, float, type(None)), "low": (int, float, type(None)),
          "high": (int, float, type(None)), "smallest": (int, float)}
UNTESTABLE, MADE = "not testable here", "by construction"


def of_data_set(workdir, finished):
    """{"claims": [row as texts] of claims/claims.json, "untested": how many more, "made": whether it is generated,
    "judged_by": the commit that judged, "gone": how many of the runs judged are not among the `finished` ones, {name:
    config}, "other": how many are, but made since from another split or embedding}.

    The rows are those of the name under which the file lists this folder: the entry of another split of the same plays
    has a name of its own. Empty where claims.py has not run here; WorkError where the file is damaged.
    """
    path = workdir / "claims" / "claims.json"
    if not path.exists():
        return {"claims": [], "untested": 0, "made": False, "judged_by": "", "gone": 0, "other": 0}
    document = read_json(path, {"verdicts": list, "workspaces": dict, "inputs": dict})
    rows = [checked_fields(row, path, FIELDS) for row in document.get("verdicts", [])]
    listed = [name for name, folder in document.get("workspaces", {}).items()
              if Path(str(folder)).resolve() == Path(workdir).resolve()]
    name = listed[0] if listed else dataset.about(workdir).get("name", workdir.name)     # the folder may have moved
    own = [row for row in rows if row.get("dataset") == name]
    tested = [row for row in own if row.get("verdict") != UNTESTABLE and row.get("effect") is not None]
    runs = {run for row in tested for run in str(row.get("runs") or "").split()}
    inputs = document.get("inputs", {}).get(name)
    other = [run for run, judged in (inputs if isinstance(inputs, dict) else {}).items()
             if run in runs and run in finished and inputs_checksum(finished[run]) != judged]
    return {"claims": [_texts(row) for row in tested], "untested": len(own) - len(tested),
            "made": any(row.get("kind") == MADE for row in own), "judged_by": str(document.get("commit") or ""),
            "gone": len(runs - set(finished)), "other": len(other)}


def _texts(row):
    bound = f"{row.get('smallest', 0):.4g}"
    low, high = row.get("low"), row.get("high")
    return {"sentence": row.get("sentence", ""), "variant": row.get("variant", ""), "verdict": row["verdict"],
            "effect": f"{row['effect']:+.4f}", "takes": row.get("takes", ""),
            "interval": "" if None in (low, high) else f"{low:+.4f} to {high:+.4f}",
            "smallest": {"equal": f"within ±{bound}", "differs": f"beyond ±{bound}",
                         "not-below": f"-{bound}"}.get(row.get("direction"), f"+{bound}")}
