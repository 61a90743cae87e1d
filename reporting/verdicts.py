"""What claims.py said of the data set of a page."""
import dataset
from harness.readers import checked_fields, read_json

FIELDS = {"sentence": str, "variant": str, "verdict": str, "dataset": str, "kind": str, "takes": str,
          "direction": str, "effect": (int, float, type(None)), "low": (int, float, type(None)),
          "high": (int, float, type(None)), "smallest": (int, float)}
UNTESTABLE, MADE = "not testable here", "by construction"


def of_data_set(workdir):
    """{"claims": [row as texts] of claims/claims.json, "untested": how many more, "made": whether it is generated}.

    Empty where claims.py has not run here; WorkError where the file is damaged.
    """
    path = workdir / "claims" / "claims.json"
    if not path.exists():
        return {"claims": [], "untested": 0, "made": False}
    name = dataset.about(workdir).get("name", workdir.name)
    rows = [checked_fields(row, path, FIELDS) for row in read_json(path, {"verdicts": list}).get("verdicts", [])]
    own = [row for row in rows if row.get("dataset") == name]
    tested = [row for row in own if row.get("verdict") != UNTESTABLE and row.get("effect") is not None]
    return {"claims": [_texts(row) for row in tested], "untested": len(own) - len(tested),
            "made": any(row.get("kind") == MADE for row in own)}


def _texts(row):
    bound = f"{row.get('smallest', 0):.4g}"
    low, high = row.get("low"), row.get("high")
    return {"sentence": row.get("sentence", ""), "variant": row.get("variant", ""), "verdict": row["verdict"],
            "effect": f"{row['effect']:+.4f}", "takes": row.get("takes", ""),
            "interval": "" if None in (low, high) else f"{low:+.4f} to {high:+.4f}",
            "smallest": {"equal": f"within ±{bound}", "differs": f"beyond ±{bound}",
                         "not-below": f"-{bound}"}.get(row.get("direction"), f"+{bound}")}
