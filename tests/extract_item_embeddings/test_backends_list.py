"""The table of backends, and several backends in one pass over the audio."""
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from extract_item_embeddings import __main__ as several
from extract_item_embeddings import mert, mfcc, musicnn
from extract_item_embeddings.engine import audio, extraction
from harness import cli
from harness.errors import UsageError
from harness.readers import read_json
from tests.conftest import ROOT
from tests.worlds.checkpoints import mert_checkpoint, music

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return mert_checkpoint(tmp_path_factory.mktemp("mert"))


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Seven files: one that cannot be read, one silent, two rates."""
    folder = tmp_path_factory.mktemp("sounds")
    for i, seconds in enumerate((3.2, 1.0, 6.5, 0.4, 2.0)):
        rate = (44100, 24000)[i % 2]
        soundfile.write(folder / f"t{i}.wav", music(seconds, rate, seed=i), rate)
    soundfile.write(folder / "silent.flac", np.zeros(30000), 22050)
    (folder / "text.ogg").write_text("no sound")
    return folder


@pytest.fixture(scope="module")
def singly(sounds, weights, tmp_path_factory):
    """The workspace of each script alone."""
    work = tmp_path_factory.mktemp("singly")
    common = ["--audio", str(sounds), "--workdir", str(work)]
    mfcc.main([*common, "--batch", "3"])
    musicnn.main([*common, "--device", "cpu", "--batch", "4"])
    mert.main([*common, "--device", "cpu", "--weights", str(weights), "--layer", "all", "--size", "95M"])
    return work


LIST = ["mfcc --batch 3", "musicnn --batch 4", "mert --size 95M --layer all --weights {}"]


def together(work, sounds, weights, *flags, words=LIST):
    return several.main([*(w.format(weights) for w in words), "--audio", str(sounds), "--workdir", str(work),
                         "--device", "cpu", *flags])


def outputs(work):
    """{file: bytes of the matrix, provenance but for the state of the code} of a workspace."""
    found = {}
    for path in sorted((work / "embeddings").glob("*.npy")):
        about = read_json(path.with_suffix(".json"))
        about.pop("git")
        found[path.name] = path.read_bytes(), about
    return found


# --------------------------------------------------------------------------- several at once

@pytest.mark.trains
def test_the_bytes_are_those_of_each_alone_and_each_file_is_decoded_once(sounds, singly, weights, tmp_path, monkeypatch,
                                                                         capsys):
    decoded, resampled, decode, resample = [], [], audio.decode, audio.resample
    monkeypatch.setattr(audio, "decode", lambda path, *a: decoded.append(path.name) or decode(path, *a))
    monkeypatch.setattr(audio, "resample", lambda clip, rate: resampled.append(rate) or resample(clip, rate))
    together(tmp_path, sounds, weights)
    assert outputs(tmp_path) == outputs(singly)
    assert {"mfcc.npy", "musicnn.npy", "mert-95m-layer0.npy", "mert-95m-layer3.npy"} <= outputs(tmp_path).keys()
    assert sorted(decoded) == sorted(p.name for p in sounds.iterdir())
    assert {r: resampled.count(r) for r in set(resampled)} == {22050: 6, 16000: 6, 24000: 6}
    said = capsys.readouterr().out
    assert "mfcc + musicnn + mert: 7 tracks in" in said and "4 times 32 values" in said
    assert f"{tmp_path / 'embeddings' / 'mert-95m-layer0.npy'} to mert-95m-layer3.npy" in said


@pytest.mark.trains
def test_finished_ones_are_skipped_and_shards_are_merged(sounds, singly, weights, tmp_path, capsys):
    mfcc.main(["--audio", str(sounds), "--workdir", str(tmp_path), "--batch", "3"])
    for i in range(2):
        together(tmp_path, sounds, weights, "--shard", f"{i}/2")
    assert "mfcc: finished before, skipped" in capsys.readouterr().err
    together(tmp_path, sounds, weights, "--merge", words=LIST[1:])
    assert outputs(tmp_path) == outputs(singly)
    together(tmp_path, sounds, weights, "--merge")
    assert capsys.readouterr().err.count("merged before, nothing to do") == 3


@pytest.mark.trains
def test_what_was_begun_alone_is_gone_on_with(sounds, singly, weights, tmp_path):
    """One backend lacks a batch, another all of them: only what is missing is heard."""
    mfcc.main(["--audio", str(sounds), "--workdir", str(tmp_path), "--batch", "3", "--shard", "0/1"])
    journal = tmp_path / "embeddings/.mfcc.partial/shard-0-of-1/journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(lines[0] + lines[2])
    together(tmp_path, sounds, weights)
    assert outputs(tmp_path) == outputs(singly)


def test_models_that_do_not_fit_together_get_two_passes(sounds, singly, weights, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("extract_item_embeddings.__main__.free_memory", lambda: 10 ** 9)
    words = [*LIST, "mert --weights {} --name other"]
    together(tmp_path, sounds, weights, words=words)
    assert "2 passes over the audio, because the models do not fit into memory together: mfcc, musicnn, mert-95m; " \
           "other" in capsys.readouterr().err
    found = outputs(tmp_path)
    found.pop("other.npy")
    assert found == outputs(singly)


def test_passes():
    class Fake:
        def __init__(self, need):
            self.backend = self
            self.memory = lambda: need

    def cut(*needs):
        return [[each.memory() for each in group] for group in several.in_passes([Fake(n) for n in needs], 10)]
    assert cut(0, 5, 0, 5, 0) == [[0, 5, 0, 5, 0]]
    assert cut(5, 6, 0) == [[5], [6, 0]]
    assert cut(99) == [[99]] and cut(0, 99, 1) == [[0], [99], [1]]


def test_published_names_and_wrong_words(sounds, tmp_path, weights):
    common = ["--audio", str(sounds), "--workdir", str(tmp_path), "--device", "cpu"]
    args = several.task("music2vec --weights x --batch 2", several_args(common), several.backends()).args
    assert (args.weights, args.batch, args.seconds, args.device) == ("x", 2, 30.0, "cpu")
    for words, sentence in ((["mfcc", "nothing"], "no backend 'nothing'; choose from clap, emae"),
                            (["mfcc", "mfcc"], "two backends would write embeddings/mfcc.npy"),
                            (["mfcc --name '"], "is not a backend with options"), ([], "name one or more backends"),
                            (["mfcc --batch 0"], "--batch must be at least 1, not 0")):
        with pytest.raises(UsageError, match=re.escape(sentence)):
            several.main([*words, *common])
    with pytest.raises(UsageError, match="two backends would write embeddings/mert-95m-layer1.npy"):
        several.main([f"mert --size 95M --layer {layer} --weights {weights}" for layer in ("all", "1")] + common)
    with pytest.raises(SystemExit) as end:
        several.main(["mfcc --seconds 3", *common])
    assert end.value.code == 2
    with pytest.raises(UsageError, match="is neither a file nor a folder"):
        several.main(["mfcc", "mert --weights /nowhere", *common])
    assert not (tmp_path / "embeddings").exists()  # said before anything was heard


def several_args(common):
    parser = cli.Parser()
    extraction.shared_flags(parser)
    cli.common_flags(parser, seed=False, device=True)
    return parser.parse_args(common)


def test_names_have_one_order():
    def name(kind, *flags):
        args = extraction.parser(kind, "").parse_args(flags)
        return extraction.default_name(kind(args), args)
    assert name(mert.MERT, "--layer", "3", "--seconds", "10", "--precision", "fp16") == "mert-fp16-10s-layer3"
    assert name(mert.MERT, "--layer", "all", "--seconds", "10", "--precision", "fp16") == "mert-fp16-10s"
    assert name(musicnn.MusiCNN, "--layer", "taggram", "--seconds", "0", "--variant", "MTT_musicnn") == \
        "musicnn-mtt-full-taggram"


# --------------------------------------------------------------------------- the table

def listed(**environment):
    done = subprocess.run([sys.executable, "-m", "extract_item_embeddings", "--list"], cwd=ROOT, capture_output=True,
                          text=True, timeout=60, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    return {line.split()[0]: line for line in done.stdout.splitlines() if line.strip()}


def test_the_table_says_what_is_there_and_what_is_missing(tmp_path):
    hub = tmp_path / "hub/models--m-a-p--MERT-v1-330M/snapshots" / mert.SOURCES["330M"].revision
    hub.mkdir(parents=True)
    for name in ("pytorch_model.bin", "config.json"):
        (hub / name).write_text("-")
    table = listed(HF_HUB_CACHE=str(tmp_path / "hub"), HOME=str(tmp_path), JUKEMIR_PYTHON=sys.executable)
    expected = {"mfcc": ("104", "22,050 Hz", "ready"), "mert": ("1024", "24,000 Hz", "CC BY-NC 4.0", "ready"),
                "mert-95m": ("768", "--size 95M", "missing: weights of m-a-p/MERT-v1-95M"),
                "music2vec": ("768", "16,000 Hz", "missing: weights"), "muq_mulan": ("512", "muq.py --mulan"),
                "musicfm-msd": ("1024", "MIT"), "encodecmae": ("768", "MIT"), "clap": ("512", "48,000 Hz", "Apache"),
                "maest": ("2304", "16,000 Hz", "CC BY-NC-SA 4.0", "missing: weights of mtg-upf/discogs-maest-30s-pw"),
                "mert2": ("1024", "24,000 Hz", "CC BY-NC 4.0", "missing: weights of m-a-p/MERT-v2-30s"),
                "mert2-fs": ("1024", "mert2.py --variant fs", "missing: weights of m-a-p/MERT-v2-FullSong"),
                "maest-5s-pw-129e": ("2304", "maest.py --variant 5s-pw-129e"),
                "jukemir": ("4800", "44,100 Hz", "non-commercial", "missing: weights in ~/.cache/jukemirlib"),
                "mule": ("1728", "16,000 Hz", "missing: an environment of requirements/mule.txt")}
    for name, words in expected.items():
        assert all(word in table[name] for word in words), table[name]
    assert "an environment" not in table["jukemir"] and {"onion.py", "npy.py"} <= table.keys()


def test_every_script_is_in_the_table():
    scripts = {p.stem for p in (ROOT / "extract_item_embeddings").glob("*.py")
               if "cli.run(main)" in p.read_text() and p.stem not in ("__main__", "onion", "npy", "pca", "rq")}
    assert set(several.backends()) == scripts
    assert len({row[0] for row in several.table()}) == len(several.table())


def test_the_table_needs_nothing_heavy():
    code = ("import json, sys\nfrom extract_item_embeddings import __main__ as several\nseveral.main(['--list'])\n"
            "print(json.dumps(sorted({'torch', 'transformers', 'librosa', 'pandas', 'scipy'} & set(sys.modules))))")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout.splitlines()[-1]) == []
