"""Extractions killed with SIGKILL, at random moments and at every step that must outlive a crash, and resumed.

Each life is a process of its own that runs the backend's `main` and is killed from outside, or by itself just before
its n-th durable step. All are forked from one server that has imported the libraries, so a life costs a fraction of a
second. The batches that were computed are written down by each life before it computes them.
"""
import json
import multiprocessing
import os
import shutil
import signal
import sys
import time

import numpy as np
import pytest
import soundfile

from extract_item_embeddings import mert, mfcc
from harness import cli
from tests.extract_item_embeddings.test_extract import batches
from tests.worlds.checkpoints import mert_checkpoint, music

KILLS, BATCHES, PER_BATCH = 20, 60, 2
LIBRARIES = ["librosa.feature", "librosa.filters", "scipy.fft", "soundfile", "soxr", "threadpoolctl", "torch",
             "transformers.models.hubert.modeling_hubert", "transformers.initialization"]


def life(main, argv, log, steps_to_live=None):
    """One process: main(argv), its output and the rows it computes written to `log`; the n-th durable step kills it."""
    from extract_item_embeddings.engine import pipeline
    compute, out = pipeline.compute, os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.stdout = sys.stderr = open(1, "w", buffering=1, closefd=False)

    def noted(backend, rows, *rest):
        os.write(out, f"computes {rows.start // PER_BATCH}\n".encode())
        return compute(backend, rows, *rest)
    pipeline.compute = noted
    if steps_to_live is not None:
        count_down(steps_to_live, out)
    cli.run(main, argv)


def count_down(left, out):
    """From here on the process dies just before its n-th fsync, rename or removal."""
    def deadly(step):
        def call(*args, **kwargs):
            nonlocal left
            left -= 1
            if left < 0:
                os.write(out, f"dies before {step.__name__}\n".encode())
                os.kill(os.getpid(), signal.SIGKILL)
            return step(*args, **kwargs)
        return call
    for name in ("fsync", "replace", "unlink", "rmdir"):
        setattr(os, name, deadly(getattr(os, name)))


@pytest.fixture(scope="module")
def start():
    """start(main, argv, log, steps_to_live): a life that has begun."""
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(LIBRARIES)

    def begin(*words):
        process = forks.Process(target=life, args=words)
        process.start()
        return process
    return begin


@pytest.fixture(scope="module", params=["mfcc", "mert"])
def case(request, tmp_path_factory):
    """(backend, flags, folder of 120 tracks, folder of an undisturbed run)"""
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "real").mkdir()
    (folder / "audio").mkdir()
    for i in range(4):
        soundfile.write(folder / "real" / f"{i}.wav", music(0.6 + 0.1 * i, 24000, seed=i), 24000)
    for i in range(PER_BATCH * BATCHES):
        (folder / "audio" / f"t{i:03}.wav").symlink_to(folder / "real" / f"{i % 4}.wav")
    (folder / "audio" / "t005.wav").unlink()
    (folder / "audio" / "t005.wav").write_text("no sound, so that a row of NaN and its reason are in it, too")
    backend, flags = mfcc, []
    if request.param == "mert":
        backend, flags = mert, ["--weights", str(mert_checkpoint(folder / "weights")), "--device", "cpu", "--frames"]
    flags += ["--audio", str(folder / "audio"), "--batch", str(PER_BATCH), "--workers", "2"]
    backend.main([*flags, "--workdir", str(folder / "calm")])
    return backend, flags, folder / "audio", folder / "calm"


def made(work):
    """{file: bytes} of what bears its final name; of the provenance all but the state of the code."""
    found = {str(p.relative_to(work)): p.read_bytes() for p in work.rglob("[!.]*") if p.is_file()}
    found = {name: data for name, data in found.items() if "/." not in f"/{name}"}
    for name, data in found.items():
        if name.endswith(".json"):
            about = json.loads(data)
            found[name] = {k: v for k, v in about.items() if k != "git"}
    return found


def computed(log):
    text = log.read_text() if log.exists() else ""
    return [int(line.split()[1]) for line in text.splitlines() if line.startswith("computes ")]


def test_killed_at_random_moments_the_bytes_are_those_of_an_undisturbed_run(case, start, tmp_path):
    """20 times: let it finish 0 to 2 batches more, then a random moment, then SIGKILL."""
    backend, flags, _, calm = case
    name = backend.__name__.split(".")[-1]
    journal = tmp_path / "work" / "embeddings" / f".{name}.partial" / "shard-0-of-1" / "journal.jsonl"
    rng, again = np.random.default_rng(20), 0
    for k in range(KILLS):
        saved, log = batches(journal), tmp_path / f"log-{k}"
        process = start(backend.main, [*flags, "--workdir", str(tmp_path / "work")], log)
        wanted, end = len(saved) + int(rng.integers(3)), time.monotonic() + 60
        while wanted > len(saved) and len(batches(journal)) < wanted:
            assert process.is_alive() and time.monotonic() < end, log.read_text()
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.02 if wanted > len(saved) else 0.3))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, log.read_text()
        mine, after = computed(log), batches(journal)
        assert after[:len(saved)] == saved and not set(mine) & set(saved)  # nothing finished is computed again
        assert mine == sorted(set(mine)) and set(mine[:-1]) <= set(after)  # at most the last was in flight
        again += len(mine) - (len(after) - len(saved))
    assert again <= KILLS and len(batches(journal)) < BATCHES
    log = tmp_path / "log-last"
    process = start(backend.main, [*flags, "--workdir", str(tmp_path / "work")], log)
    process.join(120)
    assert process.exitcode == 0, log.read_text()
    assert sorted([*batches_before(tmp_path, KILLS), *computed(log)]) == list(range(BATCHES))
    assert made(tmp_path / "work") == made(calm)


def batches_before(folder, kills):
    """Batches whose computing was followed by another's in the same life, or that no later life did: finished ones."""
    lives = [computed(folder / f"log-{k}") for k in range(kills)] + [computed(folder / "log-last")]
    later = [set().union(*lives[k + 1:]) for k in range(kills)]
    return [b for k in range(kills) for b in lives[k] if b not in later[k]]


def test_killed_before_every_durable_step_the_same_command_mends_it(case, start, tmp_path):
    """A run of two batches dies before the first of its fsyncs, renames and removals, another before the second, ..."""
    backend, flags, audio, _ = case
    few = tmp_path / "audio"
    few.mkdir()
    for p in sorted(audio.iterdir())[4:7]:  # one of them is no sound
        (few / p.name).symlink_to(p.resolve())
    flags = [str(few) if f == str(audio) else f for f in flags]
    backend.main([*flags, "--workdir", str(tmp_path / "calm")])
    expected, steps, ended = made(tmp_path / "calm"), 0, None
    while ended != 0:
        work, log = tmp_path / f"work-{steps}", tmp_path / f"log-{steps}"
        ended = outcome(start(backend.main, [*flags, "--workdir", str(work)], log, steps))
        assert ended in (0, -signal.SIGKILL), log.read_text()
        found = made(work)
        assert all(data == expected[name] for name, data in found.items()), steps  # a final name means a whole file
        assert outcome(start(backend.main, [*flags, "--workdir", str(work)], log)) == 0, log.read_text()
        assert made(work) == expected, steps
        steps += 1
    assert steps >= 12  # what two batches and their files need at least


def outcome(process):
    process.join(120)
    return process.exitcode


def test_a_merge_killed_before_every_durable_step_is_mended_by_another(case, start, tmp_path):
    backend, flags, _, calm = case
    for i in range(3):
        assert outcome(start(backend.main, [*flags, "--workdir", str(tmp_path / "parts"), "--shard", f"{i}/3"],
                             tmp_path / "log")) == 0, (tmp_path / "log").read_text()
    steps, ended = 0, None
    while ended != 0:
        work, log = tmp_path / f"work-{steps}", tmp_path / f"log-{steps}"
        shutil.copytree(tmp_path / "parts", work)
        words = ["--merge", "--workdir", str(work)]
        ended = outcome(start(backend.main, words, log, steps))
        assert ended in (0, -signal.SIGKILL), log.read_text()
        assert outcome(start(backend.main, words, log)) == 0, log.read_text()
        assert made(work) == made(calm), steps
        shutil.rmtree(work)
        steps += 1
    assert steps >= 12
