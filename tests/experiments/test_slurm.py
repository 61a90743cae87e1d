"""Through sbatch and a running slurmctld/slurmd: an extraction array, its merge, the split and a grid of runs,
chained by dependency; and a training that runs into its time limit, is requeued and resumes.

`bash .ci/slurm.sh` starts such a Slurm on this machine (as root); without one these tests are skipped.
"""
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness import runs
from tests.conftest import ROOT
from tests.extract_item_embeddings.test_extract import batches
from tests.worlds.checkpoints import mert_checkpoint, sounds
from tests.worlds.world import tiny_workspace

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def slurm():
    """Skips where no Slurm node takes jobs."""
    try:
        done = subprocess.run(["sinfo", "--noheader", "--format=%T"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as e:
        pytest.skip(f"needs a running Slurm, which .ci/slurm.sh starts: sinfo gives {type(e).__name__}")
    if not {"idle", "mixed", "allocated"} & set(done.stdout.split()):
        pytest.skip("needs a running Slurm, which .ci/slurm.sh starts: sinfo shows no node that takes jobs "
                    f"({done.stderr.strip() or done.stdout})")


def cluster(folder, **more):
    """Environment whose CLUSTER_ENV describes the one-node Slurm and the Python that runs the tests."""
    known = {"SUBMIT_ALL": "--cpus-per-task=1", "VENV": sys.prefix if sys.prefix != sys.base_prefix else "", **more}
    (folder / "cluster.env").write_text("".join(f'{k}="{v}"\n' for k, v in known.items()))
    return {**os.environ, "CLUSTER_ENV": str(folder / "cluster.env"), "OMP_NUM_THREADS": "1",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def grid(words, environment):
    return [sys.executable, "slurm/grid.py", *map(str, words)], {"cwd": ROOT, "env": environment, "text": True}


def shown(jobs, field):
    """A field of `scontrol show job` for every task of the jobs."""
    text = "".join(subprocess.run(["scontrol", "show", "job", j], capture_output=True, text=True).stdout for j in jobs)
    return re.findall(rf"{field}=(\S+)", text)


def logs(workdir, name="*"):
    return "\n".join(f"== {p.name}\n{p.read_text()}" for p in sorted(workdir.glob(f"slurm/*/{name}.out")))


# --------------------------------------------------------------------------- a run into its time limit

LIMITED = ["--model", "content", "--seed", "1", "--patience", "1000000", "--eval-every", "1000000",
           "--checkpoint-seconds", "0"]


def train(workdir, epochs, environment):
    """Start a training without Slurm."""
    return subprocess.Popen([sys.executable, "train.py", *LIMITED, "--epochs", str(epochs), "--workdir", str(workdir)],
                            cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def seconds_of(workdir, epochs, environment):
    out, _ = (process := train(workdir, epochs, environment)).communicate(timeout=300)
    assert process.returncode == 0, out
    return next(c["wall_seconds"] for _, c in runs.find_runs(workdir) if c["request"]["epochs"] == epochs)


@pytest.fixture(scope="module")
def limited(slurm, tmp_path_factory):
    """A training of about a minute under a time limit of one.

    Slurm looks at limits every 30 s, and a signal asked for 30 s before the end comes 0 to 30 s after the start.
    The same training, never interrupted, runs beside it in a workspace of its own.
    """
    folder = tmp_path_factory.mktemp("limit")
    environment = cluster(folder, SUBMIT_TRAIN="--time=1", SIGNAL_LEAD="30")
    speed = tiny_workspace(folder / "speed", seed=1)
    few, many = (seconds_of(speed, n, environment) for n in (20, 120))
    epochs = int(60 / max((many - few) / 100, 0.005))
    workdir, reference = tiny_workspace(folder / "w"), tiny_workspace(folder / "reference")
    words, kwargs = grid(["train.py", *LIMITED, "--epochs", epochs, "--workdir", workdir, "--submit", "--wait"],
                         environment)
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **kwargs)
    alone = train(reference, epochs, environment)
    yield process, workdir, alone, reference
    alone.kill()
    cancel(process, workdir)


@pytest.fixture(scope="module")
def chain(limited, tmp_path_factory):
    """A small demo world, from sound to lists in one submission, made while the long training waits and works."""
    folder = tmp_path_factory.mktemp("chain")
    work = folder / "demo"
    for script in (["-m", "preprocess.demo", "--raw", work / "raw", "--tracks", 80, "--users", 120, "--seconds", 2],
                   ["preprocess/0_get_plays_pqt.py", "demo", "--raw", work / "raw", "--workdir", work]):
        subprocess.run([sys.executable, *map(str, script)], cwd=ROOT, check=True, capture_output=True)
    (folder / "grid.yaml").write_text(
        "extract: {backends: [mfcc], shards: 3, flags: {batch: 8}}\n"
        "split: --protocol hotcold --test-date 2020-02-20 --tracks-with mfcc --partitions 2\n"
        "blocks:\n"
        "  - {script: knn.py, grid: {names: [mfcc, oracle, nosuch]}}\n"
        "  - {script: train.py, grid: {model: [mfcc], seed: [1, 2]}, set: {epochs: 2}}\n")
    words, kwargs = grid(["--file", folder / "grid.yaml", "--audio", work / "raw" / "audio", "--workdir", work,
                          "--submit", "--wait"], cluster(folder))
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **kwargs)
    yield process, work
    cancel(process, work)


def cancel(process, workdir):
    if process.poll() is None:
        for plan in workdir.glob("slurm/*/plan.json"):
            subprocess.run(["scancel", *(j for stage in json.loads(plan.read_text())["stages"] for j in stage["jobs"])])
        process.wait(90)


def test_a_time_limit_is_survived_and_the_result_is_that_of_an_uninterrupted_run(limited, chain):
    process, workdir, alone, reference = limited
    until(lambda: "requeued to continue" in logs(workdir, "grid-*") or process.poll() is not None, logs, workdir)
    (stage,) = json.loads((workdir / "slurm" / "001" / "plan.json").read_text())["stages"]
    # once is enough: from here on it may take its time
    subprocess.run(["scontrol", "update", f"JobId={stage['jobs'][0]}", "TimeLimit=30"], check=True)
    out, _ = alone.communicate(timeout=300)
    assert alone.returncode == 0, out
    (name, config), = runs.find_runs(reference)
    epochs = config["request"]["epochs"]
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0 and "1 of 1 runs done" in out, (out, logs(workdir))

    log = logs(workdir, "grid-*")
    assert int(shown(stage["jobs"], "Restarts")[0]) == log.count("not finished, requeued to continue") >= 1, log
    assert "USR1: the time limit is near" in log
    # it continued where it had stopped: the first count after a requeue is not below the last whole epoch before
    counts = [[int(n) for n in re.findall(r": (\d+)/\d+ pairs", piece)] for piece in log.split("requeued to continue")]
    per_epoch = int(re.search(r"\d+/(\d+) pairs", log)[1]) // epochs
    for before, after in zip(counts, counts[1:], strict=False):
        assert not before or not after or after[0] >= before[-1] // per_epoch * per_epoch, log
    assert max(counts[0], default=0) < epochs * per_epoch

    (other, resumed), = runs.find_runs(workdir)
    assert other == name and resumed["epochs"] == config["epochs"] == epochs
    for kind in ("model_embeddings", "preds"):
        made = sorted((reference / kind).iterdir())
        assert made and [p.name for p in made] == sorted(p.name for p in (workdir / kind).iterdir())
        for path in made:
            assert path.read_bytes() == (workdir / kind / path.name).read_bytes(), path.name
    assert np.isfinite(np.load(next((workdir / "model_embeddings").glob("*_items.npy")))).all()


# --------------------------------------------------------------------------- several processes

def test_a_training_in_two_processes_is_stopped_by_a_signal_requeued_and_finished(slurm, tmp_path):
    """The signal goes to the batch shell alone, as before a time limit; torchrun hands it to its processes."""
    workdir = tiny_workspace(tmp_path / "w")
    words, kwargs = grid(["train.py", *LIMITED, "--epochs", 1500, "--workdir", workdir, "--processes", 2, "--submit",
                          "--wait"], cluster(tmp_path))
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **kwargs)
    try:
        until(lambda: list(workdir.glob("checkpoints/*/*_last.pt")) or process.poll() is not None, logs, workdir)
        (stage,) = json.loads((workdir / "slurm" / "001" / "plan.json").read_text())["stages"]
        (job,) = stage["jobs"]
        subprocess.run(["scancel", "--batch", "--signal=USR1", job], check=True)
        out, _ = process.communicate(timeout=300)
    finally:
        cancel(process, workdir)
    log = logs(workdir, "grid-*")
    assert process.returncode == 0 and "1 of 1 runs done" in out, (out, log)
    assert "--nproc-per-node 2 train.py" in stage["lines"][0]
    assert log.count("stopped by a signal; everything is saved") == log.count("requeued to continue") == 1, log
    assert "has lost another" not in log and shown([job], "Restarts") == ["1"]
    ((_, config),) = runs.find_runs(workdir)
    assert (config["status"], config["epochs"], config["processes"]) == ("finished", 1500, 2)


# --------------------------------------------------------------------------- the whole chain

def test_extraction_array_merge_split_and_grid_are_chained(chain):
    process, work = chain
    out, _ = process.communicate(timeout=400)
    folder = work / "slurm" / "001"
    stages = {s["stage"]: s for s in json.loads((folder / "plan.json").read_text())["stages"]}
    assert {n: len(s["lines"]) for n, s in stages.items()} == {"mfcc": 3, "mfcc-merge": 1, "split-partitions": 2,
                                                               "split": 1, "grid": 5}
    # one array per stage, each begun after the one before had ended
    ended = ""
    for name, stage in stages.items():
        assert len(shown(stage["jobs"], "ArrayTaskId")) == len(stage["lines"]), (name, logs(work))
        assert min(shown(stage["jobs"], "StartTime")) >= ended, name
        ended = max(shown(stage["jobs"], "EndTime"))
    # the one run that cannot be is counted aloud, the others are done
    assert process.returncode == 1 and "grid: 4 of 5 runs done, 1 failed, 0 unfinished" in out, (out, logs(work))
    assert re.findall("failed, status (.*) --workdir", out) == ["2: python knn.py nosuch"]
    assert "no embedding 'nosuch'" in logs(work, "grid-*")
    assert "4 of 5 runs done" in (folder / "report.out").read_text()
    finished = [name for name, config in runs.find_runs(work) if config["status"] == "finished"]
    assert len(finished) == 4 and {"mfcc_cosine", "oracle_cosine"} < set(finished)
    for name in finished:
        assert len(pd.read_parquet(work / "preds" / f"{name}_cold_test.pqt"))
    # the shards, and the partitions, are the whole: the same bytes as one process makes
    parts = {p.name: p.read_bytes() for p in (work / "data").glob("*.pqt")}
    assert parts and not (work / "data" / ".partitions").exists()
    subprocess.run([sys.executable, "preprocess/1_train_test_split.py", "--protocol", "hotcold", "--test-date",
                    "2020-02-20", "--tracks-with", "mfcc", "--overwrite", "--workdir", str(work)], cwd=ROOT,
                   check=True, capture_output=True)
    assert {p.name: p.read_bytes() for p in (work / "data").glob("*.pqt")} == parts
    subprocess.run([sys.executable, "extract_item_embeddings/mfcc.py", "--audio", str(work / "raw" / "audio"),
                    "--workdir", str(work), "--batch", "8", "--name", "alone"], cwd=ROOT, check=True,
                   capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert (work / "embeddings" / "alone.npy").read_bytes() == (work / "embeddings" / "mfcc.npy").read_bytes()


def test_cancelled_jobs_stay_cancelled_and_count_as_unfinished(slurm, tmp_path):
    environment, workdir = cluster(tmp_path), tiny_workspace(tmp_path / "w")
    words, kwargs = grid(["train.py", *LIMITED, "--epochs", 1_000_000, "--workdir", workdir, "--submit"], environment)
    subprocess.run(words, check=True, capture_output=True, **kwargs)
    (stage,) = json.loads((workdir / "slurm" / "001" / "plan.json").read_text())["stages"]
    try:
        until(lambda: list(workdir.glob("checkpoints/*/*_last.pt")), logs, workdir)
    finally:
        subprocess.run(["scancel", *stage["jobs"]], check=True)
    report = workdir / "slurm" / "001" / "report.out"
    until(lambda: report.exists() and "runs done" in report.read_text(), logs, workdir)
    assert "grid: 0 of 1 runs done, 0 failed, 1 unfinished" in report.read_text()
    assert shown(stage["jobs"], "JobState") == ["CANCELLED"] and shown(stage["jobs"], "Restarts") == ["0"]


# --------------------------------------------------------------------------- shards that die

def sbatch(words, environment):
    done = subprocess.run(["sbatch", "--parsable", *map(str, words)], cwd=ROOT, env=environment, text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def queued(job):
    return subprocess.run(["squeue", "--noheader", f"--jobs={job}"], capture_output=True, text=True).stdout.strip()


def at_work(work, shard):
    """Process id of a shard's extraction that has finished a batch and has others to do, else None."""
    if not 1 <= len(batches(journal(work, shard))) < PER_SHARD:
        return None
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode().split("\0")
        except (OSError, UnicodeDecodeError):
            continue
        if f"{shard}/8" in words and str(work) in words and "bash" not in words[0]:
            return int(path.parent.name)
    return None


def journal(work, shard):
    return work / "embeddings" / ".mert.partial" / f"shard-{shard}-of-8" / "journal.jsonl"


PER_SHARD = 12


def disturb(job, work, logs):
    """Kill shards 2 and 4 amid their work; hold 6 until Slurm's signal is there, so that no machine is too fast.

    6 comes last: on a node of one CPU nothing starts while it is held.
    """
    todo, held, end = {2: signal.SIGKILL, 4: signal.SIGKILL, 6: signal.SIGSTOP}, None, time.monotonic() + 300
    while todo:
        assert queued(job) and time.monotonic() < end, said(logs)
        for shard in list(todo):
            if pid := at_work(work, shard):
                os.kill(pid, todo.pop(shard))
                held = pid if shard == 6 else held
        time.sleep(0.01)
    try:
        subprocess.run(["scontrol", "update", f"JobId={job}_6", "TimeLimit=2"], check=True)
        until(lambda: "USR1: the time limit is near" in (logs / "6.out").read_text(), said, logs)
    finally:
        os.kill(held, signal.SIGCONT)
    until(lambda: "requeued to continue" in (logs / "6.out").read_text(), said, logs)
    subprocess.run(["scontrol", "update", f"JobId={job}_6", "TimeLimit=30"], check=True)
    until(lambda: not queued(job), said, logs)


def run(words, environment):
    return subprocess.run([sys.executable, "extract_item_embeddings/mert.py", *map(str, words)], cwd=ROOT,
                          capture_output=True, text=True, env=environment)


def test_an_array_with_killed_and_requeued_shards_gives_the_bytes_of_one_process(slurm, tmp_path):
    """Eight shards of a model of tiny random weights: two meet SIGKILL, one its time limit."""
    audio, work, logs = tmp_path / "audio", tmp_path / "work", tmp_path / "logs"
    sounds(tmp_path / "real", 24000, a=20.0, b=15.0, c=25.0, d=0.5)
    audio.mkdir()
    logs.mkdir()
    for i in range(8 * PER_SHARD):
        (audio / f"t{i:02}.wav").symlink_to(tmp_path / "real" / f"{'abcd'[i % 4]}.wav")
    flags = ["--audio", audio, "--weights", mert_checkpoint(tmp_path / "weights"), "--device", "cpu", "--batch", 1]
    environment = cluster(tmp_path, SIGNAL_LEAD="100")
    common = ["--cpus-per-task=1", "--time=30", "--signal=B:USR1@100", f"--output={logs}/%a.out",
              "slurm/extract.sbatch", "mert", 8, *flags, "--workdir", work]
    disturb(sbatch(["--array=0-7", *common], environment), work, logs)
    done = {shard: sorted(batches(journal(work, shard))) for shard in range(8)}
    lacking = {shard: PER_SHARD - len(done[shard]) for shard in (2, 4)}
    whole = {shard: list(range(shard, 8 * PER_SHARD, 8)) for shard in range(8)}  # each batch once, after a requeue, too
    assert all(done[shard] == whole[shard] for shard in set(range(8)) - {2, 4}) and min(lacking.values()) > 0

    refused = run(["--merge", "--workdir", work], environment)
    assert refused.returncode == 1 and not (work / "embeddings" / "mert.npy").exists()
    assert f"cannot merge: shard 2/8 lacks {lacking[2]} of 12 batches; shard 4/8 lacks {lacking[4]} of 12 batches; " \
        in refused.stderr
    again = sbatch(["--array=2,4", *common], environment)
    until(lambda: not queued(again), said, logs)
    assert {shard: sorted(batches(journal(work, shard))) for shard in range(8)} == whole, said(logs)
    for words in (["--merge", "--workdir", work], [*flags, "--workdir", tmp_path / "single"]):
        done = run(words, environment)
        assert done.returncode == 0, done.stderr
    assert (work / "embeddings/mert.npy").read_bytes() == (tmp_path / "single/embeddings/mert.npy").read_bytes()
    assert np.isfinite(np.load(work / "embeddings/mert.npy")).all()


def said(folder):
    return "\n".join(f"== {p.name}\n{p.read_text()}" for p in sorted(folder.glob("*.out")))


def until(condition, explain, *args, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, explain(*args)
        time.sleep(0.5)
