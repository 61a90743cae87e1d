"""The attacked world: a chain of scripts from a log to tables, their command lines, the contents of their outputs."""
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

from tests.conftest import ROOT

SENTENCES = 1          # lines of stderr that a failed command may end in
FOLDERS = ("data", "embeddings", "preds", "metrics", "model_embeddings", "checkpoints", "tables")
RECOMMENDERS = {
    "knn": "knn.py content --k 10",
    "shallow": "train.py content item 5 200 3 1 0 x 1 0 8 --k 10 --checkpoint-seconds 0",
    "bert4rec": "train_bert.py content item 20 16 2 1 0 x 1 0 8 --k 10 --checkpoint-seconds 0",
    "sasrec": "-m recommenders.sasrec content --epochs 2 --batch-size 16 --hidden-dim 8 --k 10 --checkpoint-seconds 0",
    "two_tower": "-m recommenders.two_tower --embedding content --epochs 2 --batch-size 256 --k 10",
    "dtnmr": "-m recommenders.dtnmr --epochs 2 --hidden 8 --lstm-size 8 --size 4 --k 10",
    "chance": "-m recommenders.chance --k 10",
    "popularity": "-m recommenders.popularity --k 10",
    "itemknn": "-m recommenders.itemknn --k 10",
    "ease": "-m recommenders.ease --k 10",
    "ials": "-m recommenders.ials --k 10",
    "elsa": "-m recommenders.elsa --epochs 3 --k 10",
    "content_knn": "-m recommenders.content_knn content --k 10",
    "hybrid": "-m recommenders.hybrid popularity itemknn --steps 4 --k 10",
    "random_forest": "-m recommenders.random_forest popularity itemknn --trees 5 --k 10",
}
STAGES = {
    "plays": "preprocess/0_get_plays_pqt.py music4all --log {raw}/log.tsv --tracks {raw}/tracks.csv",
    "split": "preprocess/1_train_test_split.py --protocol random --val-share .1 --test-share .2",
    "vectors": "extract_item_embeddings/npy.py content --file {raw}/content.npy --ids {raw}/tracks.csv",
    "mfcc": "extract_item_embeddings/mfcc.py --audio {raw}/audio --batch 2",
}
CHAIN = {**STAGES, **RECOMMENDERS, "metrics": "metrics.py --k 5 10", "table": "table.py --k 10"}


def make_raw(raw, seed=0):
    """A log of 60 listeners and 80 tracks with four tastes, its track list, vectors, and sixteen short sounds."""
    import soundfile
    rng = np.random.default_rng(seed)
    raw.mkdir(parents=True)
    ids = [f"track{i:03d}" for i in range(80)]
    style = rng.integers(4, size=80)
    rows = []
    for user in range(60):
        like = np.where(style == user % 4, 8.0, 1.0)
        rows += [(user + 1, ids[t]) for t in rng.choice(80, 22, replace=False, p=like / like.sum())]
    order = rng.permutation(len(rows))
    times = pd.Timestamp("2019-03-01") + pd.to_timedelta(np.arange(len(rows)) * 3600, unit="s")
    frame = pd.DataFrame([rows[i] for i in order], columns=["user_id", "track_id"])
    frame.assign(timestamp=times.strftime("%Y-%m-%d %H:%M:%S")).to_csv(raw / "log.tsv", sep="\t", index=False)
    (raw / "tracks.csv").write_text("idx,trackid\n" + "".join(f"{i},{t}\n" for i, t in enumerate(ids)))
    vectors = np.eye(4)[style] @ rng.normal(size=(4, 8)) * 3 + rng.normal(size=(80, 8))
    np.save(raw / "content.npy", vectors.astype(np.float32))
    pd.DataFrame({"track_id": np.arange(80), "styles": [[f"style {s}"] for s in style]}).to_parquet(raw / "items.pqt")
    pd.DataFrame({"user_id": np.arange(60) + 1, "age": 20 + np.arange(60) % 9}).to_parquet(raw / "users.pqt")
    (raw / "audio").mkdir()
    for name in ids[:16]:
        soundfile.write(raw / "audio" / f"{name}.wav", 0.1 * rng.normal(size=8000).astype(np.float32), 16000)
    return raw


def argv_of(step, raw, workdir, *more):
    words = CHAIN[step].format(raw=raw).split()
    return [sys.executable, *words, "--workdir", str(workdir), *more]


def environment(**more):
    return {**os.environ, "OMP_NUM_THREADS": "1", "WORKDIR": "", **more}


def call(argv, cwd=ROOT, timeout=300, **env):
    """Run a command to its end: (status, stderr, seconds)."""
    begun = time.monotonic()
    done = subprocess.run(argv, cwd=cwd, env=environment(**env), capture_output=True, text=True, errors="replace",
                          timeout=timeout)
    return done.returncode, done.stderr, time.monotonic() - begun


def complaint(status, err):
    """What is wrong with how a command ended, "" for nothing: 0, 1 or 2, one sentence of error, no traceback."""
    if status not in (0, 1, 2):
        return f"status {status}: {err.strip().splitlines()[-1:]}"
    if "Traceback" in err:
        return f"traceback: {err.strip().splitlines()[-1]}"
    if status and not re.search(r"^[\w.]+(: \w+)?: \S", (err.strip().splitlines() or [""])[-1]):
        return f"status {status} without a sentence: {err.strip().splitlines()[-1:]}"
    return ""


def contents(workdir):
    """Digest of the contents of every output: bytes, but tables by value, checkpoints by their tensors."""
    found = {}
    for folder in FOLDERS:
        for path in sorted((Path(workdir) / folder).rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                found[str(path.relative_to(workdir))] = digest(path)
    return {name: value for name, value in found.items() if value is not None}


def digest(path):
    if path.suffix == ".json":      # times, versions
        return None
    if path.suffix == ".pt":
        import torch
        state = torch.load(path, weights_only=True)
        return hashlib.sha256(str(flat(state.get("model", {}))).encode()).hexdigest()
    if path.suffix == ".pqt":
        return hashlib.sha256(pd.read_parquet(path).to_csv(index=False).encode()).hexdigest()
    text = path.read_bytes()
    if path.suffix in (".md", ".tex"):   # the date of the table
        text = re.sub(rb"20\d\d-\d\d-\d\d", b"", text)
    return hashlib.sha256(text).hexdigest()


def flat(state):
    """Tensors of a state by name as nested lists, for comparison by value."""
    return {k: v.tolist() if hasattr(v, "tolist") else v for k, v in state.items()}


def temporary(workdir):
    """Files that a finished or failed command must not leave behind, journals of unfinished work left out."""
    return [str(p.relative_to(workdir)) for p in Path(workdir).rglob(".*.tmp*")]


class Reference:
    """The undisturbed chain: `before[step]` is a workspace as it stands before the step, `after[step]` its contents."""

    def __init__(self, folder):
        self.folder, self.raw = Path(folder), make_raw(Path(folder) / "raw")
        self.before, self.after, self.seconds, workdir = {}, {}, {}, Path(folder) / "workdir"
        workdir.mkdir()
        for step in CHAIN:
            if step == "split":         # a log has no metadata
                for name in ("items.pqt", "users.pqt"):
                    shutil.copy(self.raw / name, workdir)
            self.before[step] = self.folder / "before" / step
            shutil.copytree(workdir, self.before[step])
            status, err, self.seconds[step] = call(argv_of(step, self.raw, workdir))
            if status:
                raise AssertionError(f"the undisturbed {step} ended with {status}: {err[-500:]}")
            self.after[step] = contents(workdir)
        self.done = workdir

    def copy(self, step, to):
        """A fresh workspace as it stands before a step."""
        return shutil.copytree(self.before[step], to)

    def differs(self, step, workdir):
        """Names of outputs that are not as after the undisturbed step."""
        mine, due = contents(workdir), self.after[step]
        return sorted(name for name in {*mine, *due} if mine.get(name) != due.get(name))
