"""The recordings of the demo world: the audio file of each track, and parallel synthesis of all files.

    plan = recordings.plan(seed=42, tracks=world.make_tracks(42, 1000))
    recordings.record_all(plan, folder, seconds=6.0, workers=2)

Containers, sample rates and channels vary between files as in a real collection; a few recordings are very
quiet or overdriven, one is silent, one truncated, one missing, one is not audio. Every recording has its own
random generator, so the files do not depend on the number of processes.
"""
import multiprocessing
import signal
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path

import numpy as np

from harness.errors import WorkError
from harness.files import atomic, write_text
from harness.machine import cores
from harness.progress import Progress
from preprocess.demo import synth

EXECUTION = 0.15            # standard deviation of a recording's traits around the latent traits
SHARES = {"wav": 0.28, "wav24": 0.04, "flac": 0.48, "ogg": 0.15, "mp3": 0.05}   # containers; mp3 and ogg encode slowly
RATES = {22_050: 0.4, 44_100: 0.4, 48_000: 0.2}                                # Hz
STEREO = 0.5                # share of two-channel files
ODD_GAINS = {-30.0: 0.02, 12.0: 0.02}   # gain in dB: share of very quiet and of overdriven recordings
DEFECTS = ("silent", "truncated", "missing", "not audio")   # one track each, none of them cold
CUT = 1_200                 # bytes of the truncated file: less than its first audio frame
_SOUND = 4                  # stream of random numbers under the seed (world.py has 1 to 3)


@dataclass(frozen=True)
class Recording:
    """The audio file of one track. `path` is relative to the audio folder, and set for the missing file, too."""
    path: str
    traits: tuple      # 7 floats in [0, 1], order of world.TRAITS
    container: str
    rate: int          # Hz
    channels: int
    gain: float        # dB
    defect: str        # "" or one of DEFECTS
    seed: tuple        # of the generator of this recording alone


def plan(seed, tracks):
    """One Recording per track, in the order of the ids. Of the latent world only the traits are used."""
    from scipy.special import ndtr
    n = len(tracks)
    rng = np.random.default_rng([seed, _SOUND])
    traits = ndtr(tracks.latent + rng.normal(0, EXECUTION, tracks.latent.shape))
    writable = synth.containers()
    container = [c if c in writable else "flac" for c in rng.choice(list(SHARES), n, p=list(SHARES.values()))]
    rate = rng.choice(list(RATES), n, p=list(RATES.values()))
    channels = 1 + (rng.random(n) < STEREO)
    gains = [0.0, *ODD_GAINS]
    gain = rng.choice(gains, n, p=[1 - sum(ODD_GAINS.values()), *ODD_GAINS.values()])
    defect = dict(zip(rng.permutation(np.flatnonzero(~tracks.cold)), DEFECTS, strict=False))
    recordings = []
    for i, track in enumerate(tracks.ids):
        kind = "flac" if defect.get(i) == "truncated" else container[i]
        recordings.append(Recording(
            f"{track[0]}/{track}{synth.extension(kind)}", tuple(traits[i].tolist()), kind, int(rate[i]),
            int(channels[i]), float(gain[i]), defect.get(i, ""), (seed, _SOUND, i)))
    return recordings


def record(recording, folder, seconds):
    """Write the file of one Recording under `folder` atomically; nothing for the missing one."""
    path = Path(folder, recording.path)
    if recording.defect == "missing":
        return
    if recording.defect == "not audio":
        write_text(path, "<html><body>404: this recording has moved</body></html>\n" * 40)
        return
    rng = np.random.default_rng(recording.seed)
    sound = synth.render(recording.traits, recording.rate, recording.channels, seconds, rng, recording.gain)
    if recording.defect == "silent":
        sound[:] = 0
    with atomic(path) as temporary:
        synth.write(temporary, sound, recording.rate, recording.container, recording.seed[-1] + 1)
        if recording.defect == "truncated":
            temporary.write_bytes(temporary.read_bytes()[:CUT])


# --------------------------------------------------------------------------- synthesis by several processes

def record_all(planned, folder, seconds, workers=None, sizes=None):
    """Record every planned track that has no file yet, with `workers` processes (default: one per CPU).

    Existing files are complete, because they are written atomically. sizes: {path: bytes} of a finished world;
    a file of another size is recorded again.
    """
    sizes = sizes or {}
    for left in folder.rglob(".*.tmp*"):   # of a killed run
        left.unlink(missing_ok=True)

    def exists(recording):
        path = folder / recording.path
        size = sizes.get(recording.path)
        return recording.defect == "missing" or (path.is_file() and size in (None, path.stat().st_size))

    todo = [r for r in planned if not exists(r)]
    workers = max(1, min(workers or cores(), 1 + len(todo) // 8))
    with Progress(len(planned), "demo world", unit="tracks", initial=len(planned) - len(todo)) as progress:
        if workers == 1:
            for recording in todo:
                record(recording, folder, seconds)
                progress.update()
        else:
            _in_parallel(todo, folder, seconds, workers, progress)


def _in_parallel(todo, folder, seconds, workers, progress):
    """Each worker has its own share and its own pipe: if this process dies, the pipe breaks and the workers end."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    try:
        for i in range(workers):
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_record_share, args=(sender, todo[i::workers], folder, seconds),
                                      daemon=True)
            process.start()
            sender.close()
            pipes.append(receiver)
            processes.append(process)
        while pipes:
            for pipe in wait(pipes):
                try:
                    message = pipe.recv()
                except EOFError:
                    raise WorkError("a worker process ended early (out of memory?); the same command continues, "
                                    "--workers 1 needs the least memory") from None
                if isinstance(message, BaseException):
                    raise message
                if message is None:
                    pipes.remove(pipe)
                else:
                    progress.update(message)
    finally:
        for process in processes:
            if pipes:
                process.terminate()
            process.join()


def _record_share(pipe, todo, folder, seconds):
    signal.signal(signal.SIGINT, signal.SIG_IGN)   # the parent handles Ctrl-C
    try:
        for recording in todo:
            record(recording, folder, seconds)
            pipe.send(1)
        pipe.send(None)
    except BrokenPipeError:
        return
    except Exception as e:
        pipe.send(e)
