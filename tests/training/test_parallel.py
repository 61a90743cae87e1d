"""Trainings by torchrun, in two and four processes over gloo, beside the same trainings in one."""
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
import torch

import train
from harness import processes, registry, runs
from harness.errors import UsageError
from harness.readers import load_checkpoint
from tests.conftest import ROOT
from tests.training import parallel_losses
from tests.worlds.world import tiny_workspace
from training import parallel

SEEDS = (1, 2, 3)
CONTENT = ["--embedding", "content", "--epochs", "5", "--eval-every", "5"]
FULL = [*CONTENT[:3], "7", *CONTENT[4:]]   # without a last batch of three, whose normalisation magnifies the rounding
SEQUENCES = ["--model", "content", "--hidden-dim", "16", "--batch-size", "19", "--epochs", "5", "--eval-every", "5"]
DROPOUT = ["recommenders.sasrec", [*SEQUENCES[:6], "--epochs", "6", "--dropout", "0.3"]]
# 720 pairs of train, 60 users: the last batches hold three of them, fewer than four processes
REQUESTS = {
    "shallow": ["train.py", ["--model", "content", "--batch-size", "239", "--epochs", "5", "--eval-every", "5",
                             "--item-freeze", "0", "--l2", "0.001"]],
    "confidence": ["train.py", ["--model", "content", "--batch-size", "239", "--epochs", "5", "--eval-every", "5",
                                "--loss", "infonce", "--use-confidence", "1"]],
    "bert4rec": ["train_bert.py", [*SEQUENCES, "--item-freeze", "0", "--config", "CONFIG"]],
    "sasrec": ["recommenders.sasrec", [*SEQUENCES, "--item-freeze", "0", "--dropout", "0"]],
    "delta": ["recommenders.sasrec", [*SEQUENCES, "--fusion", "delta", "--l2", "0.05", "--dropout", "0"]],
    "gbce": ["recommenders.sasrec", [*SEQUENCES, "--loss", "gbce", "--negatives", "9", "--dropout", "0"]],
    "two_tower": ["recommenders.two_tower", [*CONTENT, "--batch-size", "200", "--dropout", "0"]],
    "unbiased": ["recommenders.two_tower", [*CONTENT, "--batch-size", "200", "--dropout", "0", "--logq", "unbiased",
                                            "--fusion", "delta"]],
    "elsa": ["recommenders.elsa", ["--factors", "8", "--batch-size", "19", "--epochs", "5"]],
    "content_elsa": ["recommenders.content_elsa", [*CONTENT, "--batch-size", "19"]],
    "clcrec": ["recommenders.clcrec", [*CONTENT, "--batch-size", "239"]],
    "sibrar": ["recommenders.sibrar", [*CONTENT, "--batch-size", "239", "--dropout", "0"]],
    "sibrar id": ["recommenders.sibrar", [*CONTENT, "--batch-size", "239", "--dropout", "0", "--users", "id", "--own",
                                          "keep"]],
    "dropoutnet": ["recommenders.dropoutnet", [*FULL, "--batch-size", "240"]],
    "heater": ["recommenders.heater", [*FULL, "--batch-size", "240"]],
    "dcl": ["recommenders.contrastive", [*CONTENT, "--batch-size", "17", "--size", "8"]],
    "sdclw": ["recommenders.contrastive", [*CONTENT, "--batch-size", "17", "--size", "8", "--loss", "sdclw"]],
    "dclw": ["recommenders.contrastive", [*CONTENT, "--batch-size", "17", "--size", "8", "--loss", "dclw"]],
    "acarec": ["recommenders.acarec", [*CONTENT, "--batch-size", "19"]],
}
BY_FOUR = ("shallow", "bert4rec", "sasrec", "unbiased", "elsa", "content_elsa", "heater", "sibrar", "dclw")


def torchrun(n, *words):
    return [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(n), *map(str, words)]


def called(words, **environment):
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=180,
                          env={**os.environ, "OMP_NUM_THREADS": "1", **environment})


def sentences(stderr):
    """What train.py says when it fails, without what torchrun adds."""
    return [line for line in stderr.splitlines() if line.startswith("train.py: ")]


# --------------------------------------------------------------------------- the same losses

@pytest.fixture(scope="module")
def noted(tmp_path_factory):
    """(workspaces, steps): of one, two and four processes, each a dict by the number."""
    folder = tmp_path_factory.mktemp("parallel")
    (folder / "config.yaml").write_text("hidden_dropout_prob: 0.0\nattention_probs_dropout_prob: 0.0\n")
    requests = {name: [script, [*words, "--k", "20", "--device", "cpu"]] for name, (script, words) in REQUESTS.items()}
    text = json.dumps(requests).replace("CONFIG", str(folder / "config.yaml"))
    seeds = {f"seed {s}": [DROPOUT[0], [*DROPOUT[1], "--k", "20", "--seed", str(s)]] for s in SEEDS}
    workspaces, steps = {}, {}
    for n in (1, 2, 4):
        workspaces[n] = tiny_workspace(folder / str(n))
        registry.load("recommenders.ials").main(["--factors", "8", "--workdir", str(workspaces[n])])
        asked = json.loads(text)
        asked = {name: asked[name] for name in BY_FOUR} if n == 4 else asked | seeds
        (folder / f"requests{n}.json").write_text(json.dumps(asked))
        files = [str(p) for p in (folder / f"{n}.json", workspaces[n], folder / f"requests{n}.json")]
        if n == 1:
            parallel_losses.main(*files)
        else:
            done = called(torchrun(n, "-m", "tests.training.parallel_losses", *files))
            assert done.returncode == 0, done.stdout + done.stderr
        steps[n] = json.loads(Path(files[0]).read_text())
    return workspaces, steps


@pytest.mark.trains
@pytest.mark.parametrize("n, name", [*((2, name) for name in REQUESTS), *((4, name) for name in BY_FOUR)])
def test_losses_and_gradients_are_those_of_one_process(n, name, noted):
    """At the same global batch, to 1e-5 of each: float32 sums in another order, in 20 steps of Adam."""
    _, steps = noted
    assert len(steps[1][name]) >= 15
    assert np.allclose(steps[n][name][:20], steps[1][name][:20], rtol=1e-5, atol=0)


@pytest.mark.trains
@pytest.mark.parametrize("n", (2, 4))
def test_batch_normalisation_is_over_the_rows_of_all_processes(n, noted):
    """In float64 to 1e-9: outputs, gradients and running sums, of a batch of 11 rows and of one of 3."""
    _, steps = noted
    assert np.allclose(steps[n]["batch_norm"], steps[1]["batch_norm"], rtol=1e-9, atol=1e-12)


@pytest.mark.trains
@pytest.mark.parametrize("n", (2, 4))
def test_batch_normalisation_ends_with_the_same_statistics_in_all_processes(n, noted):
    """Also after a batch of fewer rows than processes, which each computes whole, with a dropout of its own."""
    _, steps = noted
    first, *others = steps[n]["statistics"]
    assert len(others) == n - 1 and all(numbers == first for numbers in others)


@pytest.mark.trains
@pytest.mark.parametrize("n", (2, 4))
def test_losses_on_val_are_those_of_one_process_and_the_same_in_all(n, noted):
    """Those that the processes divide, to 1e-4: float32 weights after 20 steps whose sums were in another order."""
    _, steps = noted
    (alone,), every = steps[1]["val"], steps[n]["val"]
    assert all(losses == every[0] for losses in every)
    divided = {"bert4rec", "sasrec", *(["gbce"] if n == 2 else [])}
    assert divided < {*every[0]}
    for name in divided:
        assert len(alone[name]) == 5 and np.allclose(every[0][name], alone[name], rtol=1e-4), name


@pytest.mark.trains
@pytest.mark.parametrize("n", (2, 4))
def test_lists_are_those_of_one_process_and_each_process_ranks_its_share(n, noted):
    """Of the same vectors to the last row, ties included."""
    _, steps = noted
    assert steps[n]["lists"] == steps[1]["lists"] and all(map(len, steps[1]["lists"].values()))
    (all_users,) = steps[1]["ranked"]
    for i, users in enumerate(all_users):
        shares = [ranked[i] for ranked in steps[n]["ranked"]]
        assert sum(shares) == users and max(shares) - min(shares) <= 1, shares


@pytest.mark.trains
def test_with_dropout_quality_lies_within_the_spread_of_seeds(noted):
    """Each process drops other units, so that the losses differ from the first step on."""
    workspaces, steps = noted
    values = {}
    for n in (1, 2):
        made = {c["seed"]: name for name, c in runs.find_runs(workspaces[n]) if c["request"].get("dropout") == 0.3}
        values[n] = [pd.read_csv(workspaces[n] / "metrics" / f"{made[s]}_test.csv", index_col=0).loc["mean", "NDCG@10"]
                     for s in SEEDS]
        assert len(set(values[n])) == len(SEEDS)
    assert all(steps[1][f"seed {s}"][0][0] != steps[2][f"seed {s}"][0][0] for s in SEEDS)
    spread = np.std(values[1], ddof=1)
    assert abs(np.mean(values[2]) - np.mean(values[1])) < 2 * spread * (2 / len(SEEDS)) ** 0.5, (values, spread)


@pytest.mark.trains
def test_the_main_process_alone_writes_the_files_of_one(noted):
    """The same runs and files; the manifest says how many processes there were, the request does not."""
    workspaces, _ = noted

    def files(n):
        return {re.sub(r"tfevents.*", "tfevents", str(p.relative_to(workspaces[n])))
                for p in workspaces[n].rglob("*") if p.is_file()}
    made = {n: dict(runs.find_runs(workspaces[n])) for n in (1, 2, 4)}
    assert files(2) == files(1) and made[4].keys() < made[1].keys() == made[2].keys()
    for n in (2, 4):
        parallel_runs = {c["recommender"]: c.get("processes") for c in made[n].values()}
        assert parallel_runs.pop("ials") is None and set(parallel_runs.values()) == {n}
        for folder in (workspaces[n] / "runs").iterdir():
            assert len(list(folder.glob("events.*"))) == len(list((workspaces[1] / "runs" / folder.name)
                                                                  .glob("events.*")))


@pytest.mark.trains
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="lists threads by /proc")
@pytest.mark.parametrize("n", (2, 4))
def test_no_thread_of_gloo_is_left_when_the_interpreter_ends(n, noted):
    """One that still holds a tensor then aborts the process, and a finished run counts as failed."""
    workspaces, _ = noted
    for rank in range(n):
        threads = (workspaces[n].parent / f"{n}.json.threads{rank}").read_text().splitlines()
        assert threads and not [name for name in threads if "gloo" in name], threads


# --------------------------------------------------------------------------- processes that end

LONG = ["train.py", "--model", "content", "--batch-size", "239", "--epochs", "100", "--patience", "100",
        "--eval-every", "100", "--checkpoint-seconds", "0", "--device", "cpu", "--k", "10", "--workdir"]


def broken_off(workdir, n, number, rank):
    """Start the long training, send one of its processes a signal after its next checkpoint: (status, stderr)."""
    last = [p.stat().st_mtime_ns for p in workdir.glob("checkpoints/*/*_last.pt")]
    started = subprocess.Popen(torchrun(n, *LONG, workdir), cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 90
    while last == [p.stat().st_mtime_ns for p in workdir.glob("checkpoints/*/*_last.pt")]:
        assert time.monotonic() < until and started.poll() is None, started.communicate()[1]
        time.sleep(0.02)
    os.kill(of_rank(started.pid, rank), number)
    _, stderr = started.communicate(timeout=40)   # torchrun itself kills what is left after 30 s
    return started.returncode, stderr


def of_rank(parent, rank):
    """Number of the process that torchrun started for a rank."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    (mine,) = (int(p) for p in children if f"RANK={rank}" in Path(f"/proc/{p}/environ").read_text().split("\0"))
    return mine


@pytest.mark.trains
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the processes in /proc")
def test_a_training_whose_processes_end_is_continued_by_another_number_of_them(tmp_path, capsys):
    """Two, of which one gets a signal that asks it to stop; then three, whose main one is killed; then one."""
    whole, cut = (tiny_workspace(tmp_path / name) for name in ("whole", "cut"))
    train.main([*LONG[1:], str(whole)])
    status, stderr = broken_off(cut, 2, signal.SIGUSR1, 1)
    assert status and "failed (exitcode: 85)" in stderr, stderr
    assert stderr.count("stopped by a signal; everything is saved, the same command continues\n") == 1
    stopped = load_checkpoint(next(cut.glob("checkpoints/*/*_last.pt")))
    status, stderr = broken_off(cut, 3, signal.SIGKILL, 0)
    assert status and stderr.count("Traceback") == 1, stderr   # that of torchrun
    said = sentences(stderr)   # of one of the others, unless torchrun ends them first, as on a busy machine
    assert len(said) <= 1 and all(re.fullmatch(
        "train.py: process [12] has lost another of the 3 processes, which has ended; the same command "
        "continues from the last checkpoint", sentence) for sentence in said), stderr
    killed = load_checkpoint(next(cut.glob("checkpoints/*/*_last.pt")))
    assert (stopped["epoch"], stopped["step"]) < (killed["epoch"], killed["step"]) < (100, 0)
    capsys.readouterr()
    train.main([*LONG[1:], str(cut)])
    assert int(re.search("epoch ([0-9]+) of 100", capsys.readouterr().err)[1]) == killed["epoch"] + 1
    ends = [load_checkpoint(next(w.glob("checkpoints/*/*_last.pt"))) for w in (whole, cut)]
    for key, value in ends[0]["model"].items():   # 400 steps of float32 sums in another order
        assert torch.allclose(ends[1]["model"][key], value, rtol=1e-2, atol=1e-3), key
    assert [name for name, _ in runs.find_runs(cut)] == [name for name, _ in runs.find_runs(whole)]


# --------------------------------------------------------------------------- refusals

@pytest.mark.trains
def test_processes_that_disagree_on_the_split_or_the_request_are_refused_by_one_sentence(tmp_path):
    for rank in (0, 1):
        tiny_workspace(tmp_path / str(rank), seed=rank)
    line = f"{sys.executable} train.py --model content --workdir {tmp_path}/$RANK --seed $RANK"
    done = called(torchrun(2, "--no-python", "bash", "-c", line))
    assert done.returncode == 1 and done.stderr.count("Traceback") == 1, done.stderr   # both torchrun's
    assert sentences(done.stderr) == [
        "train.py: process 1 of 2 has another data/cold_test.pqt, data/test.pqt, data/train.pqt, data/val.pqt, "
        "embeddings/content.npy than process 0; give all processes one command, one workspace and one kind of --device"]
    assert not list(tmp_path.glob("*/runs/*/config.json"))


@pytest.mark.parametrize("rank, said", (("0", True), ("1", False)))
def test_a_script_of_one_process_is_refused_by_one_sentence(rank, said, tiny):
    torchruns = {"RANK": rank, "WORLD_SIZE": "2", "LOCAL_RANK": rank, "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    done = called([sys.executable, "knn.py", "--workdir", str(tiny)], **torchruns)
    assert done.returncode == 2 and not (tiny / "runs").exists()
    assert done.stderr == said * "knn.py: this works in one process, and torchrun started 2; start it with python\n"


def test_the_docs_name_the_methods_that_train_in_several_processes_and_all_of_them_are_tried():
    known = [r for r in registry.recommenders().values() if r.parallel]
    rows = re.findall(r"^\| ([^|]*) \| yes", (ROOT / "docs" / "scale.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(name for row in rows for name in row.split(", ")) == sorted(r.title for r in known)
    assert {r.script for r in known} == {script for script, _ in REQUESTS.values()}


PLACE = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "a",
         "MASTER_PORT": "1"}


def test_the_environment_says_which_process_this_is():
    assert processes.of_environment({}) == processes.Place(0, 1, 0, 1)
    assert processes.of_environment(PLACE) == processes.Place(1, 4, 1, 2)
    for changed, sentence in (({"LOCAL_RANK": ""}, "WORLD_SIZE, MASTER_ADDR, MASTER_PORT and not LOCAL_RANK; start"),
                              ({"RANK": "4"}, "RANK=4, WORLD_SIZE=4, .*a rank is below the number"),
                              ({"LOCAL_WORLD_SIZE": "5"}, "LOCAL_WORLD_SIZE=5: a rank is below"),
                              ({"WORLD_SIZE": "two"}, "WORLD_SIZE=two, .*whole numbers")):
        with pytest.raises(UsageError, match=sentence):
            processes.of_environment(PLACE | changed)


@pytest.mark.parametrize("n", (1, 2, 3, 4, 5, 10_001))
@pytest.mark.parametrize("world", (1, 2, 4))
def test_shares_are_every_row_once_and_weigh_one(n, world, monkeypatch):
    """Where a batch has fewer rows than there are processes, each computes all of it and counts for its part."""
    shares = []
    for rank in range(world):
        monkeypatch.setattr(processes, "_place", processes.Place(rank, world))
        shares.append(parallel.share(n))
    rows = [i for own in shares for i in range(n)[own.rows]]
    assert rows == (list(range(n)) if n >= world else list(range(n)) * world)
    assert sum(own.weight for own in shares) == pytest.approx(1, rel=1e-12)
    assert {own.divided for own in shares} == {world > 1 and n >= world}
    assert max(len(range(n)[own.rows]) for own in shares) <= -(-n // world) or n < world
