"""MAEST through its command line, on a tiny network with random weights under the names upstream publishes.

Expectations come from transformers: its own loading of the same folder, and its spectrogram, with the settings of the
feature extractor that is published with the weights.
"""
import numpy as np
import pytest
import soundfile

from extract_item_embeddings import maest
from extract_item_embeddings.engine import extraction
from harness import cli
from harness.files import checksum
from harness.readers import read_json
from tests.worlds.checkpoints import (
    MAEST_CONFIG,
    MAEST_PROCESSOR,
    built,
    command,
    extract,
    maest_checkpoint,
    music,
    save,
    sounds,
)

MEAN, STD = MAEST_PROCESSOR["mean"], MAEST_PROCESSOR["std"]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return maest_checkpoint(tmp_path_factory.mktemp("maest"))


def published_mel(samples):
    """(frames, 96): what the published feature extractor computes before it pads, by transformers' spectrogram."""
    from transformers.audio_utils import mel_filter_bank, spectrogram, window_function
    filters = mel_filter_bank(257, 96, 0, 8000, 16000, norm="slaney", mel_scale="slaney")
    power = spectrogram(samples, window_function(512, "hann"), 512, 256, power=2, mel_filters=filters, min_value=1e-30,
                        mel_floor=1e-30, pad_mode="constant").T
    return (np.log10(1 + 10000 * power) - MEAN) / (2 * STD)


def tokens(folder, samples):
    """(states, 3 D) of 30 s of sound, by transformers' own loading: CLS, DIST, and the mean of the patches."""
    import torch
    from transformers import ASTModel
    model = ASTModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        out = model(torch.from_numpy(published_mel(samples)).float()[None], output_hidden_states=True)
    return np.stack([np.concatenate([h[0, 0], h[0, 1], h[0, 2:].mean(0)])
                     for h in (*out.hidden_states[:-1], out.last_hidden_state)])


def test_the_log_mel_is_the_published_one(weights):
    """librosa's filters and transform agree as well. float32 of the references: 1e-4 of a range of about 3."""
    import librosa
    import torch
    samples = music(3.3, 16000)
    ours = built(maest.MAEST, weights).model.log_mel(torch.from_numpy(samples)[None])[0].numpy()
    assert ours.shape == (len(samples) // 256 + 1, 96) and ours.dtype == np.float32
    assert np.abs(ours - published_mel(samples)).max() < 1e-4
    power = librosa.feature.melspectrogram(y=samples, sr=16000, n_fft=512, hop_length=256, n_mels=96, fmin=0, fmax=8000,
                                           htk=False, norm="slaney", pad_mode="constant")
    assert np.abs(ours - (np.log10(1 + 10000 * power.T) - MEAN) / (2 * STD)).max() < 1e-4
    assert np.ptp(ours) > 1


@pytest.mark.trains
def test_from_the_command_line(tmp_path, weights):
    made = sounds(tmp_path / "audio", 16000, a=31.0)
    done = command("maest", "--weights", weights, "--audio", tmp_path / "audio", "--workdir", tmp_path / "work",
                   "--device", "cpu")
    assert done.returncode == 0, done.stderr
    values = np.load(tmp_path / "work/embeddings/maest.npy")
    assert values.shape == (1, 72) and values.dtype == np.float32
    assert np.abs(values[0] - tokens(weights, made["a"][:480000])[7]).max() < 5e-5
    about = read_json(tmp_path / "work/embeddings/maest.json")
    assert about["weights"]["checksum"] == checksum(weights / "pytorch_model.bin")
    assert about["weights"]["id"] == "mtg-upf/discogs-maest-30s-pw-129e"
    assert about["weights"]["licence"] == "CC BY-NC-SA 4.0" and about["spectrogram"]["n_fft"] == 512
    assert (about["sample_rate"], about["layer"], about["variant"], about["dim"]) == (16000, "7", "30s-pw-129e", 72)


@pytest.mark.numeric
def test_every_layer_in_one_pass(tmp_path, weights):
    """State 8 of the tiny network comes after the last norm; the published layer has the plain name."""
    made = sounds(tmp_path / "audio", 16000, a=30.0)
    expected = tokens(weights, made["a"])
    folder = extract(maest, tmp_path, weights, "--layer", "all")
    assert sorted(p.name for p in folder.glob("*.npy")) == [f"maest-layer{i}.npy" for i in range(9)]
    for i in range(9):
        assert np.abs(np.load(folder / f"maest-layer{i}.npy")[0] - expected[i]).max() < 5e-5
    mean = extract(maest, tmp_path, weights, "--layer", "mean", work="mean") / "maest-layermean.npy"
    assert np.abs(np.load(mean)[0] - expected.mean(axis=0)).max() < 5e-5


def test_names():
    def name(*flags):
        args = extraction.parser(maest.MAEST, "").parse_args(flags)
        return extraction.default_name(maest.MAEST(args), args)
    assert name() == name("--layer", "7") == "maest"
    assert name("--layer", "last") == name("--layer", "12") == "maest-layer12"
    assert name("--layer", "3", "--variant", "10s-pw-129e", "--precision", "bf16") == "maest-10s-pw-129e-bf16-layer3"


def test_windows_are_pooled_by_duration_and_short_ones_keep_their_length(tmp_path):
    """5 s windows at 5, 5 and 2.5 s; the reference at 2.5 s has its own position embeddings, cut as upstream cuts."""
    import torch
    from transformers import ASTConfig, ASTModel
    checkpoint = maest_checkpoint(tmp_path / "w", max_length=316)
    made = sounds(tmp_path / "audio", 16000, a=12.5)
    folder = extract(maest, tmp_path, checkpoint, "--variant", "5s-pw-129e", "--batch", "2")
    values = np.load(folder / "maest-5s-pw-129e.npy")[0]
    whole = ASTModel.from_pretrained(checkpoint, dtype=torch.float32).eval()

    def heard(samples):
        mel = torch.from_numpy(published_mel(samples)).float()[None]
        config = ASTConfig(**{**whole.config.to_dict(), "max_length": mel.shape[1]})
        columns, model = (mel.shape[1] - 16) // 10 + 1, ASTModel(config).eval()
        state, key = whole.state_dict(), "embeddings.position_embeddings"
        grid = state[key][:, 2:].reshape(1, 9, 31, 24)[:, :, :columns].reshape(1, 9 * columns, 24)
        model.load_state_dict({**state, key: torch.cat([state[key][:, :2], grid], dim=1)})
        with torch.no_grad():
            h = model(mel, output_hidden_states=True).hidden_states[7][0].numpy()
        return np.concatenate([h[0], h[1], h[2:].mean(axis=0)])
    first, second, third = (heard(made["a"][s:e]) for s, e in ((0, 80000), (80000, 160000), (160000, 200000)))
    assert np.abs(values - (5 * first + 5 * second + 2.5 * third) / 12.5).max() < 5e-5


def test_a_very_short_clip_silence_and_a_bad_file(tmp_path, weights):
    """0.12 s are less than the 16 frames of a patch: silence fills them up, not the whole window."""
    soundfile.write(tmp_path / "a.wav", music(0.12, 16000), 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "b.wav", np.zeros(16000, np.float32), 16000)
    (tmp_path / "c.wav").write_text("no sound")
    values = np.load(extract(maest, tmp_path, weights, audio=".") / "maest.npy")
    assert np.isfinite(values[:2]).all() and np.isnan(values[2]).all()
    model = built(maest.MAEST, weights)
    clip = np.zeros((1, 3840), np.float32)
    clip[0, :1920] = music(0.12, 16000)
    assert np.abs(values[0] - model.run(clip)[0][0]).max() < 5e-5
    assert np.abs(values[0] - model.run(np.pad(clip, ((0, 0), (0, 16000))))[0][0]).max() > 1e-2


def test_resampled_to_16_khz(tmp_path, weights):
    """A pure tone of 44.1 kHz gives what the same tone of 16 kHz does; the filter of the resampler: 2e-2."""
    for rate in (16000, 44100):
        tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(2 * rate) / rate)
        (tmp_path / "audio").mkdir(exist_ok=True)
        soundfile.write(tmp_path / "audio" / f"{rate}.wav", tone, rate, subtype="FLOAT")
    soundfile.write(tmp_path / "audio" / "other.wav", music(2.0, 16000), 16000, subtype="FLOAT")
    a, b, other = np.load(extract(maest, tmp_path, weights) / "maest.npy")
    assert np.abs(a - b).max() < 2e-2 < 0.2 < np.abs(a - other).max()


def test_shards_and_resumption_give_the_same_bytes(tmp_path, weights):
    sounds(tmp_path / "audio", 16000, a=0.5, b=0.3, c=0.4, d=0.2, e=0.5)
    whole = extract(maest, tmp_path, weights, "--batch", "2") / "maest.npy"
    for i in (1, 0):
        extract(maest, tmp_path, weights, "--batch", "2", "--shard", f"{i}/2", work="parts")
    maest.main(["--workdir", str(tmp_path / "parts"), "--merge"])
    assert whole.read_bytes() == (tmp_path / "parts/embeddings/maest.npy").read_bytes()
    extract(maest, tmp_path, weights, "--batch", "2", "--shard", "0/1", work="stopped")
    journal = tmp_path / "stopped/embeddings/.maest.partial/shard-0-of-1/journal.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:2]))
    again = extract(maest, tmp_path, weights, "--batch", "2", work="stopped") / "maest.npy"
    assert whole.read_bytes() == again.read_bytes()


def test_safetensors_and_the_names_of_transformers_5_are_the_same_model(tmp_path, weights):
    import torch
    from transformers import ASTForAudioClassification
    old = built(maest.MAEST, weights)
    safe = built(maest.MAEST, maest_checkpoint(tmp_path / "safe", "model.safetensors"), "--variant", "30s-pw-129e-519l")
    model = ASTForAudioClassification.from_pretrained(weights, dtype=torch.float32)
    save(tmp_path / "new", MAEST_CONFIG, model.state_dict())
    (tmp_path / "new/preprocessor_config.json").write_bytes((weights / "preprocessor_config.json").read_bytes())
    new = built(maest.MAEST, tmp_path / "new")
    clip = music(1.0, 16000)[None]
    first = old.run(clip)[0][0]
    assert np.array_equal(first, safe.run(clip)[0][0]) and np.array_equal(first, new.run(clip)[0][0])


@pytest.mark.parametrize("file, key, value, said", [
    ("config.json", "max_length", 626, "is for 626 frames, fewer than the 1876 of 30 s"),
    ("config.json", "hidden_size", None, "lacks hidden_size"),
    ("preprocessor_config.json", "sampling_rate", 32000, "sets sampling_rate to 32000"),
    ("preprocessor_config.json", "log_compression", "log", "sets log_compression to log, which is not MAEST's logC"),
    ("preprocessor_config.json", "std", "none", "must have a number for each of n_fft"),
    ("preprocessor_config.json", "std", 0, "a positive std"),
])
def test_refuses_what_it_is_not(tmp_path, weights, capsys, file, key, value, said):
    import json
    import shutil
    sounds(tmp_path / "audio", 16000, a=0.3)
    folder = shutil.copytree(weights, tmp_path / "w")
    table = {**read_json(folder / file), key: value}
    (folder / file).write_text(json.dumps({k: v for k, v in table.items() if v is not None}))
    with pytest.raises(SystemExit) as stopped:
        cli.run(maest.main, ["--workdir", str(tmp_path / "work"), "--audio", str(tmp_path / "audio"),
                             "--weights", str(folder)])
    assert stopped.value.code == 1
    assert said in capsys.readouterr().err


def test_offline_says_what_to_fetch(tmp_path):
    sounds(tmp_path / "audio", 16000, a=0.3)
    done = command("maest", "--variant", "10s-pw-129e", "--audio", tmp_path / "audio", "--workdir", tmp_path / "work",
                   HF_HUB_CACHE=str(tmp_path / "hub"))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "hf download mtg-upf/discogs-maest-10s-pw-129e pytorch_model.bin config.json preprocessor_config.json " \
           "--revision 1183932dcd15cbf62ff5c63413e84f5561330e11 --local-dir DIR" in done.stderr


@pytest.mark.parametrize("seconds, frames", [(30, 1876), (20, 1256), (10, 626), (5, 316)])
def test_published_parameter_count(seconds, frames):
    """The sizes of the files, 348, 346, 344 MB of float32 with a classifier of 400 styles, fit these counts."""
    from transformers import ASTConfig, ASTModel

    from extract_item_embeddings.engine import weights
    config = ASTConfig(num_mel_bins=96, max_length=frames, time_stride=10, layer_norm_eps=1e-6)
    weights.check_size(weights.empty(lambda: ASTModel(config)), maest.MILLIONS[seconds], "these")
