"""Files of every format, damaged at random and opened by the scripts that read them: one sentence or a sound end."""
import contextlib
import importlib
import io
import os
import random
import shutil
import sys
import traceback
import warnings

from harness import cli, registry
from tests.attack.world import complaint

READERS = {   # format: (file of the finished workspace, script and words that read it)
    "npy": ("embeddings/content.npy", "knn.py content --k 10"),
    "npy json": ("embeddings/content.json", "knn.py content --k 10"),
    "parquet of a part": ("data/train.pqt", "recommenders.popularity --k 10"),
    "parquet of plays": ("plays.pqt", "preprocess/1_train_test_split.py --protocol random"),
    "saved lists": ("preds/*_val.pqt", "metrics.py --k 5"),
    "metrics of users": ("metrics/*_test.pqt", "table.py --k 10"),
    "metrics csv": ("metrics/*_test.csv", "table.py --k 10"),
    "manifest": ("runs/*/config.json", "table.py --k 10"),
    "manifest, metrics": ("runs/*/config.json", "metrics.py --k 5"),
    "dataset.json": ("dataset.json", "recommenders.popularity --k 10"),
    "split.json": ("data/split.json", "recommenders.chance --k 10"),
    "track list": ("trackid_sorted.csv", "knn.py content --k 10"),
    "checkpoint": ("checkpoints/content/shallow*_last.pt",
                   "train.py content item 5 200 3 1 0 x 1 0 8 --k 10 --checkpoint-seconds 0"),
    "log": ("{raw}/log.tsv", "preprocess/0_get_plays_pqt.py music4all --log {raw}/log.tsv --tracks {raw}/tracks.csv"),
    "list of tracks": ("{raw}/tracks.csv",
                       "preprocess/0_get_plays_pqt.py music4all --log {raw}/log.tsv --tracks {raw}/tracks.csv"),
    "given vectors": ("{raw}/content.npy",
                      "extract_item_embeddings/npy.py content --file {raw}/content.npy --ids {raw}/tracks.csv"),
    "sound": ("{raw}/audio/track003.wav", "extract_item_embeddings/mfcc.py --audio {raw}/audio --overwrite"),
    "grid file": ("{raw}/grid.yaml", "slurm/grid.py --file {raw}/grid.yaml"),
    "spaces": ("{raw}/spaces.yaml", "tune.py knn --spaces {raw}/spaces.yaml --print"),
}
GRID = "- script: knn.py\n  grid:\n    names: [content]\n    shuffle: [on, off]\n  set:\n    k: 10\n"


def attack(reference, folder, trials, seed):
    """`trials` damages spread evenly over the formats; yields (what, "" or why it did not survive)."""
    draw = random.Random(seed + 1)
    names = list(READERS)
    for n in range(trials):
        name = names[n % len(names)]
        yield trial(reference, folder / f"damage{n}", name, draw)


def trial(reference, folder, name, draw):
    where, command = READERS[name]
    shutil.copytree(reference.done, folder / "w")
    shutil.copytree(reference.raw, folder / "raw")
    (folder / "raw" / "grid.yaml").write_text(GRID)
    (folder / "raw" / "spaces.yaml").write_text("knn:\n  script: knn.py\n  space:\n    weight: [binary, count]\n")
    pattern = where.format(raw=folder / "raw")
    files = sorted((folder / "w").glob(pattern)) if not pattern.startswith("/") else [folder / pattern]
    path = draw.choice(files)
    if name == "checkpoint":    # of a run that was interrupted
        manifest = folder / "w" / "runs" / path.name.removesuffix("_last.pt") / "config.json"
        manifest.write_text(manifest.read_text().replace('"status": "finished"', '"status": "running"'))
    how = damage(path, draw)
    try:
        words = [w.format(raw=folder / "raw") for w in command.split()]
        return f"{name} ({path.name}), {how}", run_here(words, folder / "w")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def damage(path, draw):
    """Damage a file at random; returns how."""
    data = bytearray(path.read_bytes())
    kind = draw.choice(("bit", "bits", "cut", "zeros", "text", "empty", "twice"))
    at = draw.randrange(max(1, min(len(data), 400 if draw.random() < .5 else len(data))))
    if kind == "bit" and data:
        data[at] ^= 1 << draw.randrange(8)
    elif kind == "bits":
        for _ in range(20):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    elif kind == "cut":
        del data[at:]
    elif kind == "zeros":
        data[at:at + 64] = bytes(len(data[at:at + 64]))
    elif kind == "text":
        data[at:at] = draw.choice((b"\xff\xfe", b"[" * 3000, b'"', b"\n\n", b"\0", b"1e999,", "\u202e".encode()))
    elif kind == "empty":
        data.clear()
    else:
        data += bytes(data)
    path.write_bytes(data)
    return f"{kind} at {at}"


def run_here(words, workdir):
    """Run a script in this process; "" or what is wrong with its end."""
    script, *argv = words
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = [script, *argv]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            extra = [] if script == "slurm/grid.py" and "--workdir" in argv else ["--workdir", os.fspath(workdir)]
            cli.run(importlib.import_module(registry.module_name(script)).main, [*argv, *extra])
        return ""
    except SystemExit as end:
        return complaint(end.code if isinstance(end.code, int) else 1, err.getvalue())
    except BaseException as e:
        at = traceback.extract_tb(e.__traceback__)[-1]
        return f"{type(e).__name__} at {os.path.basename(at.filename)}:{at.lineno}: {str(e)[:120]}"
    finally:
        sys.argv = before
