"""Where the figures of the page come from: data set, split, embeddings and runs, as rows of text."""
import dataset
from evaluation.leaderboard import readable
from evaluation.results import unlike_defaults
from harness.readers import read_json
from harness.split_files import read_manifest
from reporting.tracks import short

COUNTS = ("plays", "pairs", "users", "tracks", "first", "last")   # of dataset.json
SHA256 = 64      # characters of a checksum, which a request may hold and the page does not show
FAILED = 5       # failed tracks of an embedding that are named


def of_data(workdir):
    """[(word, text)] of the data set and of the split."""
    paths = workdir / "dataset.json", workdir / "data" / "split.json"
    about = read_json(paths[0]) if paths[0].exists() else {}
    split = read_manifest(paths[1], {"request": dict, "stats": dict}) if paths[1].exists() else {}
    lines = [(word, about[word]) for word in ("name", "source", "licence", "time", "track_ids") if about.get(word)]
    counts = about.get("counts", {})
    lines += [(word, counts[word]) for word in COUNTS if isinstance(counts, dict) and word in counts]
    asked = {"protocol": split.get("protocol"), **split.get("request", {})}
    lines += [(word.replace("_", " "), value) for word, value in asked.items()
              if isinstance(value, (str, int, float, list)) and len(str(value)) != SHA256]
    lines += [(part, ", ".join(f"{n:,} {word.lower()}" for word, n in numbers.items()
                               if word in ("Rows", "Users", "Items") and type(n) is int)) for part, numbers in
              split.get("stats", {}).items() if isinstance(numbers, dict)]
    return [(word, _text(value)) for word, value in lines if value not in (None, "", [])]


def _text(value):
    if isinstance(value, list):
        return short(", ".join(map(str, value)))
    return f"{value:,}" if type(value) is int else short(value)


def of_embeddings(workdir, n_tracks):
    """[{'name', 'lines': [(word, text)], 'failed': [(track, reason)], 'n_failed'}] of every embedding."""
    found = []
    for name in dataset.embedding_names(workdir):
        info = dataset.embedding_info(workdir, name)
        weights = info.get("weights") if isinstance(info.get("weights"), dict) else {}
        failed = info.get("failed") if isinstance(info.get("failed"), dict) else {}
        vectors = dataset.open_embedding(workdir, name)
        lines = [("backend", info.get("backend")), ("weights", weights.get("id")),
                 ("revision", weights.get("revision")), ("licence", weights.get("licence") or info.get("licence")),
                 ("checksum of the weights", weights.get("checksum")), ("variant", info.get("variant")),
                 ("layer", info.get("layer")), ("pooling", info.get("pooling")),
                 ("sample rate", f"{info['sample_rate']} Hz" if info.get("sample_rate") else None),
                 ("excerpt", _excerpt(info)),
                 ("dimensions", vectors.shape[1]), ("tracks", f"{n_tracks:,}"),
                 ("commit", info["git"].get("commit") if isinstance(info.get("git"), dict) else None)]
        reasons = [(short(e.get("trackid", row)), short(e.get("reason", ""))) for row, e in failed.items()
                   if isinstance(e, dict)]
        found.append({"name": name, "lines": [(word, short(text)) for word, text in lines if text not in (None, "")],
                      "failed": reasons[:FAILED], "n_failed": len(failed)})
    return found


def _excerpt(info):
    """What of a track an embedding was made from, None where its json does not say so; 0 seconds are all of it."""
    seconds = info.get("seconds")
    if not isinstance(seconds, (int, float)):
        return None
    return f"{seconds:g} s from the {info.get('offset', 'start')}" if seconds else "the whole track"


def of_runs(cells):
    """[{'name', 'method', 'lines'}] of every finished run in the tables, by name."""
    found = {}
    for cell in cells:
        for name, config in cell.runs:
            git, memory = config.get("git", {}), config.get("peak_memory_bytes")
            lines = [("arguments unlike the defaults", readable(unlike_defaults(cell)) or "none"),
                     ("embedding", config.get("embedding") or "none"), ("seed", config.get("seed")),
                     ("best epoch", config.get("best_epoch")), ("started", config.get("started")),
                     ("seconds", config.get("wall_seconds")),
                     ("peak memory", f"{memory / 1e6:,.0f} MB" if isinstance(memory, (int, float)) else None),
                     ("device", config.get("device")), ("built on", ", ".join(map(str, (config.get("sources") or
                                                                                     {}).values()))),
                     ("commit", f"{git.get('commit', '')}{' with changes' if git.get('dirty') else ''}"),
                     ("versions", ", ".join(f"{k} {v}" for k, v in config.get("versions", {}).items()))]
            found[name] = {"name": name, "lines": [(word, str(text)) for word, text in lines
                                                   if text not in (None, "")]}
    return [found[name] for name in sorted(found)]
