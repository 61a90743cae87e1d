"""Where the figures of a table come from: data set, split, items, commit, date and checksums, out of small files."""
import functools
import hashlib
from pathlib import Path

from harness import runs
from harness.files import checksum
from harness.readers import read_json
from harness.split_files import read_rules

ROOT = Path(__file__).resolve().parents[1]
SHORT = 8   # characters of a commit, as shown


def head(workdir, part, configs, users):
    """What a table's head says, {word: text or number, None where the workspace does not say}.

    configs: manifests of the runs in the table; users: how many it is over
    """
    about, split = (_read(Path(workdir) / name) for name in ("dataset.json", "data/split.json"))
    rules = Path(workdir) / "data" / "rules.json"
    said = read_rules(rules)
    later = "val" in said["history"].get("test", []) and part == "test"
    protocol = split.get("protocol")
    remarks = ["val belongs to the history"] * later + ["nothing seen is hidden"] * (said["seen"] == "keep")
    started = [config["started"][:10] for config in configs if config.get("started")]
    return {"dataset": about.get("name") or Path(workdir).name,
            "split": f"{protocol} ({'; '.join(remarks)})" if protocol and remarks else protocol, "users": users,
            "items": items_ranked(split, part), "commit": commits(configs), "date": max(started, default=None)}


def _read(path):
    return read_json(path) if path.exists() else {}


def items_ranked(split, part):
    """How many tracks a part ranks, out of data/split.json; None where it does not say."""
    if part in ("val", "test") and isinstance(split.get("items_ranked"), int):
        return split["items_ranked"]
    rows = {"cold_test": ["ColdTest"], "cold_val": ["ColdVal"], "all_test": ["Train", "ColdTest"]}.get(part, ["Train"])
    counts = split.get("stats", {})
    ranked = [counts.get(row, {}).get("Items") for row in rows] if isinstance(counts, dict) else [None]
    return None if None in ranked else sum(ranked)


def commits(configs):
    """The commits that runs were made with, short, sorted, a + where the code differed from one; None: no record."""
    states = [config["git"] for config in configs if config.get("git", {}).get("commit")]
    return " ".join(sorted({f"{s['commit'][:SHORT]}{'+' if s.get('dirty') else ''}" for s in states})) or None


def changed_code(configs):
    """Modules of the project that runs imported and that are other files by now, sorted paths; [] without a record."""
    recorded = {(name, digest) for config in configs for name, digest in config.get("code", {}).items()}
    return sorted({name for name, digest in recorded if _digest_now(name) != digest})


@functools.cache
def _digest_now(name):
    path = ROOT / name
    return checksum(path)[:16] if path.is_file() else None


def split_checksum(configs):
    """sha256 over `file checksum` lines of the split's files that runs were made from; '' where they recorded none."""
    lines = {f"{name} {digest}\n" for config in configs for name, digest in config.get("inputs", {}).items()
             if name in runs.SPLIT_FILES}
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest() if lines else ""


def embedding_checksum(configs):
    """sha256 of the embeddings that runs were made from, separated by blanks; '' where there are none."""
    return " ".join(sorted({digest for config in configs for name, digest in config.get("inputs", {}).items()
                            if name.startswith("embeddings/") and name.endswith(".npy")}))
