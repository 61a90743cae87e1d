"""--frames, --batch auto, fused attention, and the device: what concerns every backend with a network."""
import numpy as np
import pytest
import soundfile

from extract_item_embeddings import mert, muq, musicnn
from extract_item_embeddings.engine import pretrained
from harness.errors import UsageError, WorkError
from harness.readers import read_json
from tests.worlds.checkpoints import (
    MAKERS,
    command,
    cosine,
    extract,
    hubert_means,
    sounds,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """weights(name) -> folder of that backend's tiny checkpoint, made once."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = MAKERS[name][1](tmp_path_factory.mktemp("weights") / name)
        return made[name]
    return get


def frames_of(work, name, count):
    return [np.load(work / "frames" / name / f"{i}.npy") for i in range(count)]


# --------------------------------------------------------------------------- frames

PER_SECOND = {"mert": 75, "music2vec": 50, "musicfm": 25, "muq_msd": 25, "muq_mulan": 1, "encodecmae": 75, "clap": 0.1,
              "maest": 1 / 30, "mert2": 25}


@pytest.mark.parametrize("name", MAKERS)
def test_the_frames_are_those_that_are_averaged(tmp_path, weights, name):
    """One track, whole windows: the mean of its frames is its embedding; without --frames nothing is written."""
    backend, _, flags = MAKERS[name]
    seconds = 20.0 if name == "clap" else 4.0
    sounds(tmp_path / "audio", 24000, a=seconds)
    plain = extract(backend, tmp_path, weights(name), *flags, work="plain") / f"{name}.npy"
    assert not (tmp_path / "plain" / "frames").exists()
    values = np.load(extract(backend, tmp_path, weights(name), *flags, "--frames") / f"{name}.npy")
    assert (tmp_path / "work/embeddings" / f"{name}.npy").read_bytes() == plain.read_bytes()
    frames, = frames_of(tmp_path / "work", name, 1)
    assert frames.dtype == np.float32 and abs(len(frames) - seconds * PER_SECOND[name]) <= 1
    assert np.abs(frames.mean(axis=0) - values[0]).max() < 1e-5
    assert name in ("clap", "maest") or frames.std(axis=0).min() > 0
    assert read_json(tmp_path / "work/embeddings" / f"{name}.json")["frames"] is True


def test_frames_of_long_short_and_bad_tracks(tmp_path, weights):
    """Windows follow one another; a track that cannot be read has none; every layer has a folder of its own."""
    made = sounds(tmp_path / "audio", 24000, a=2.5, b=0.4)
    (tmp_path / "audio" / "c.wav").write_text("no sound")
    done = command("mert", "--weights", weights("mert"), "--audio", tmp_path / "audio", "--workdir", tmp_path / "work",
                   "--device", "cpu", "--seconds", "1", "--layer", "all", "--frames")
    assert done.returncode == 0, done.stderr
    means = hubert_means(weights("mert"), made["a"][:24000])
    for i in range(4):
        folder = tmp_path / "work" / "frames" / f"mert-1s-layer{i}"
        assert sorted(p.name for p in folder.iterdir()) == ["0.npy", "1.npy"]
        assert np.abs(np.load(folder / "0.npy").mean(axis=0) - means[i]).max() < 2e-5
    # the whole track in windows of 30 s, here cut down to one second
    size, pretrained.Pretrained.WINDOW = pretrained.Pretrained.WINDOW, 1.0
    try:
        folder = extract(mert, tmp_path, weights("mert"), "--seconds", "0", "--frames", work="whole")
    finally:
        pretrained.Pretrained.WINDOW = size
    long, short = frames_of(tmp_path / "whole", "mert-full", 2)
    assert (len(long), len(short)) == (74 + 74 + 37, 29)  # 2.5 s heard as 1 + 1 + 0.5
    values = np.load(folder / "mert-full.npy")[0]
    parts = [long[:74].mean(0), long[74:148].mean(0), long[148:].mean(0)]
    assert np.abs((parts[0] + parts[1] + 0.5 * parts[2]) / 2.5 - values).max() < 2e-5
    second = hubert_means(weights("mert"), made["a"][24000:48000])[-1]
    assert np.abs(parts[1] - second).max() < 2e-5


def test_frames_of_musicnn_are_its_patches(tmp_path):
    sounds(tmp_path / "audio", 16000, a=7.0, b=1.0)
    musicnn.main(["--workdir", str(tmp_path), "--audio", str(tmp_path / "audio"), "--device", "cpu", "--frames"])
    long, short = frames_of(tmp_path, "musicnn", 2)
    assert long.shape == (2, 200) and short.shape == (1, 200)
    values = np.load(tmp_path / "embeddings/musicnn.npy")
    assert np.abs(long.mean(axis=0) - values[0]).max() < 1e-6 and np.array_equal(short[0], values[1])


def test_frames_in_shards_and_again(tmp_path, weights, capsys):
    sounds(tmp_path / "audio", 24000, a=0.5, b=0.3, c=0.4, d=0.2, e=0.5)
    flags = ("--batch", "2", "--frames")
    extract(mert, tmp_path, weights("mert"), *flags, work="whole")
    for i in (1, 0):
        extract(mert, tmp_path, weights("mert"), *flags, "--shard", f"{i}/2", work="parts")
    mert.main(["--workdir", str(tmp_path / "parts"), "--merge"])
    kept = {p.name: p.read_bytes() for p in (tmp_path / "whole/frames/mert").iterdir()}
    assert sorted(kept) == [f"{i}.npy" for i in range(5)]
    assert kept == {p.name: p.read_bytes() for p in (tmp_path / "parts/frames/mert").iterdir()}
    extract(mert, tmp_path, weights("mert"), *flags, work="whole")
    assert "finished before, skipped" in capsys.readouterr().err
    (tmp_path / "whole/frames/mert/3.npy").unlink()
    extract(mert, tmp_path, weights("mert"), *flags, work="whole")
    assert "made again, because some of its frames are missing" in capsys.readouterr().err
    assert kept == {p.name: p.read_bytes() for p in (tmp_path / "whole/frames/mert").iterdir()}
    soundfile.write(tmp_path / "audio" / "b.wav", np.zeros(100, np.float32), 24000)  # it sounds no longer
    extract(mert, tmp_path, weights("mert"), *flags, work="whole")
    assert sorted(p.name for p in (tmp_path / "whole/frames/mert").iterdir()) == ["0.npy", "2.npy", "3.npy", "4.npy"]
    with pytest.raises(UsageError, match="other settings .frames null, now true.; choose another --name"):
        extract(mert, tmp_path, weights("mert"), "--batch", "2", work="plain")
        extract(mert, tmp_path, weights("mert"), *flags, work="plain")


def test_frames_grow_on_the_disk_and_not_in_memory(tmp_path):
    """A thousand windows of a track: the file has them all, and no more than one of them was held."""
    import tracemalloc

    from extract_item_embeddings.engine.frames import Frames
    window = np.random.default_rng(0).normal(size=(100, 250)).astype(np.float32)  # 100 kB
    tracemalloc.start()
    with Frames(tmp_path, "x", {"-a": 200, "-b": 50}) as kept:
        for _ in range(1000):
            kept.add(7, window)
        assert not list(tmp_path.rglob("[!.]*.npy"))  # no half file under its name
        kept.finish()
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()
    a, b = (np.load(tmp_path / "frames" / f"x-{n}" / "7.npy", mmap_mode="r") for n in "ab")
    assert a.shape == (100_000, 200) and b.shape == (100_000, 50)
    assert np.array_equal(a[-100:], window[:, :200]) and np.array_equal(b[300:400], window[:, 200:])


@pytest.mark.parametrize("backend, flags, said", [
    ("mfcc", ["--frames"], "unrecognized arguments: --frames"),
    ("mfm", ["--frames", "--as-published"], "averages the channels of each frame"),
    ("mfcc", ["--batch", "many"], "must be a whole number or auto, not many")])
def test_requests_that_cannot_be_meant(tmp_path, backend, flags, said):
    sounds(tmp_path / "audio", 24000, a=0.3)
    done = command(backend, "--audio", tmp_path / "audio", "--workdir", tmp_path / "work", *flags)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1


def test_frames_that_an_extraction_without_them_leaves_are_named(tmp_path, weights, capsys):
    sounds(tmp_path / "audio", 24000, a=1.0)
    extract(mert, tmp_path, weights("mert"), "--frames")
    assert "frames of an earlier" not in capsys.readouterr().err
    sounds(tmp_path / "audio", 24000, a=0.5)
    extract(mert, tmp_path, weights("mert"))
    assert capsys.readouterr().err.count("mert: frames/mert hold frames of an earlier extraction, which stay as they "
                                         "are; --frames makes them again\n") == 1
    extract(mert, tmp_path, weights("mert"))   # finished before
    assert "frames of an earlier" not in capsys.readouterr().err


# --------------------------------------------------------------------------- memory of the device

@pytest.fixture
def little_room(monkeypatch):
    """MERT on a device that holds three windows; the sizes of the passes that were tried."""
    import torch
    tried, hear = [], mert.MERT.hear

    def full(self, inputs, lengths, frames=False):
        tried.append(len(inputs))
        if len(inputs) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return hear(self, inputs, lengths, frames)
    monkeypatch.setattr(mert.MERT, "hear", full)
    return tried


@pytest.mark.parametrize("flags", [[], ["--frames"]])
def test_batch_auto_halves_until_it_fits(tmp_path, weights, little_room, capsys, flags):
    sounds(tmp_path / "audio", 24000, **{f"t{i:02}": 0.2 + 0.01 * i for i in range(19)})
    folder = extract(mert, tmp_path, weights("mert"), "--batch", "auto", *flags)
    assert little_room == [8, 4, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1]  # 8 + 8 + 3 tracks, nothing lost, no silence heard
    said = capsys.readouterr().err
    assert "memory for a pass of 8 windows, 4 from now on" in said and "pass of 4 windows, 2 from now on" in said
    fixed = np.load(extract(mert, tmp_path, weights("mert"), "--batch", "3", work="fixed") / "mert.npy")
    assert np.abs(np.load(folder / "mert.npy") - fixed).max() < 1e-5
    about = read_json(folder / "mert.json")
    assert about["batch"] == 8 and about["passes"] == "as many windows as fit"


def test_a_fixed_batch_without_room_is_one_sentence(tmp_path, weights, little_room):
    sounds(tmp_path / "audio", 24000, **{f"t{i:02}": 0.2 for i in range(5)})
    with pytest.raises(WorkError, match="too little memory for a pass of 5 windows; use --batch auto"):
        extract(mert, tmp_path, weights("mert"), "--batch", "5")
    assert little_room == [5]


def test_batch_auto_gives_up_where_one_window_does_not_fit(tmp_path, weights, monkeypatch):
    import torch

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")
    monkeypatch.setattr(mert.MERT, "hear", full)
    sounds(tmp_path / "audio", 24000, a=0.3, b=0.3)
    with pytest.raises(WorkError, match="too little memory for a pass of 1 windows; try --device cpu"):
        extract(mert, tmp_path, weights("mert"), "--batch", "auto")


# --------------------------------------------------------------------------- attention and devices

@pytest.mark.parametrize("name", [n for n in MAKERS if n != "clap"])  # whose attention, of transformers, is its own
def test_attention_is_fused(tmp_path, weights, monkeypatch, name):
    """Every layer asks torch's scaled_dot_product_attention, which never holds the T x T matrix on a GPU."""
    import torch
    backend, _, flags = MAKERS[name]
    fused, calls = torch.nn.functional.scaled_dot_product_attention, []

    def counted(*args, **kwargs):
        calls.append(args[0].shape)
        return fused(*args, **kwargs)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    sounds(tmp_path / "audio", 24000, a=1.0)
    extract(backend, tmp_path, weights(name), *flags, "--batch", "1")
    assert len(calls) == {"encodecmae": 2, "muq_mulan": 4, "maest": 7}.get(name, 3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_of_mulan_stays_close(tmp_path, weights, precision):
    sounds(tmp_path / "audio", 24000, a=4.0, b=0.7)
    full = np.load(extract(muq, tmp_path, weights("muq_mulan"), "--mulan", work="full") / "muq_mulan.npy")
    half = np.load(extract(muq, tmp_path, weights("muq_mulan"), "--mulan", "--precision", precision)
                   / f"muq_mulan-{precision}.npy")
    assert (cosine(full, half) >= 0.999).all() and not np.array_equal(full, half)


@pytest.mark.parametrize("name", [*MAKERS, "musicnn"])
def test_cuda_gives_what_a_processor_gives(tmp_path, weights, name):
    """fp32 closely, bf16 and fp16 to a cosine of 0.999, --batch auto as well."""
    import torch
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    sounds(tmp_path / "audio", 24000, a=4.0, b=0.5, c=13.0)
    backend, _, flags = MAKERS.get(name, (musicnn, None, []))
    given = ["--weights", str(weights(name))] if name in MAKERS else []

    def values(device, precision, *more):
        work = tmp_path / "-".join([device, precision, *more])
        backend.main(["--workdir", str(work), "--audio", str(tmp_path / "audio"), "--device", device, "--name", "x",
                      "--precision", precision, *given, *flags, *more])
        return np.load(work / "embeddings" / "x.npy")
    plain = values("cpu", "fp32")
    assert np.abs(values("cuda", "fp32") - plain).max() < 1e-3 * np.abs(plain).max()
    for precision in ("bf16", "fp16") if name in MAKERS else ("bf16",):
        assert (cosine(values("cuda", precision), plain) >= 0.999).all(), precision
    assert (cosine(values("cuda", "fp32", "--batch", "auto"), plain) >= 0.99999).all()
