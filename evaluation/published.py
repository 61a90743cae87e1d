"""The tables of the publication: cosine.csv, shallow.csv and bert.csv, a row for each backend with its size."""
from pathlib import Path

from evaluation.leaderboard import LABELS, TRUTH, readable, usual_cell
from harness.readers import read_json
from harness.registry import title
from harness.runs import departures

STEMS = {"knn": "cosine", "shallow": "shallow", "bert4rec": "bert"}
METRICS = ("HitRate", "MRR", "Precision", "Recall", "NDCG")


def frame(workdir, cells, recommender, part, values, columns):
    """One recommender's figures as the publication has them: model, size, metrics; None without any.

    Of the runs of one representation those most like the usual request take its name, others add what differs.
    """
    import pandas as pd
    own = [cell for cell in cells if cell.recommender == recommender]
    if not own:
        return None
    usual, alike, rows = usual_cell(own), {}, []
    for cell in own:
        if cell.embedding and not cell.shuffled:
            alike.setdefault(cell.embedding, []).append(cell)
    for embedding, several in alike.items():
        differing = {id(c): departures(c.request, usual.request) for c in several}
        several.sort(key=lambda c: (not c.runs, len(differing[id(c)]), str(c.request)))
        name = LABELS.get(embedding, embedding)
        for i, cell in enumerate(several):
            label = f"{name} ({title(recommender)}: {readable(differing[id(cell)]) or 'usual'})" if i else name
            rows.append(({"random": 3, TRUTH: 6}.get(embedding, 4), name, label, cell))
    rows = [_row(workdir, label, cell, values.of(cell), columns)
            for _, _, label, cell in sorted(rows, key=lambda row: row[:3])
            if cell.runs and all(part in config.get("parts", []) for _, config in cell.runs)]
    return pd.DataFrame(rows) if rows else None


def _row(workdir, label, cell, figures, columns):
    return {"model": label, "size": size_of(workdir, cell),
            **{c: figures[c].mean for c in columns if c in figures}}


def size_of(workdir, cell):
    """Dimensions of a cell's embedding, out of its manifest or the embedding's own; None where neither says."""
    manifest = Path(workdir) / "embeddings" / f"{cell.embedding}.json"
    provenance = read_json(manifest) if manifest.exists() else {}
    return cell.runs[0][1].get("dim") or provenance.get("dim")
