"""Tiny checkpoints in the form upstream ships, sound for them to hear, and the command lines that read both."""
import contextlib
import json
import os
import re
import subprocess
import sys

import numpy as np
import soundfile

from extract_item_embeddings import clap, emae, m2v, maest, mert, mert2, mfm, muq
from tests.conftest import ROOT

TINY = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "num_hidden_layers": 3,
        "conv_dim": [16] * 7, "num_conv_pos_embedding_groups": 4, "num_conv_pos_embeddings": 16}
MERT_CONFIG = {**TINY, "model_type": "mert_model", "architectures": ["MERTModel"], "deepnorm": False,
               "feature_extractor_cqt": False, "attention_relax": 32.0, "conv_bias": False,
               "feat_extract_norm": "group", "do_stable_layer_norm": True, "sample_rate": 24000,
               "auto_map": {"AutoModel": "modeling_MERT.MERTModel"}}
M2V_CONFIG = {**TINY, "num_conv_pos_embeddings": 5, "conv_pos_kernel_size": 19, "model_type": "data2vec-audio",
              "architectures": ["Data2VecAudioModel"], "conv_bias": False}
CONFORMER = {"dim": 48, "depth": 3, "width": 8, "bands": 128, "heads": 4, "inner": 96, "kernel": 31,
             "position_kernel": 16, "position_groups": 4}
STATS = {"melspec_2048_mean": 5.25, "melspec_2048_std": 17.5}
CLAP_PROCESSOR = {"feature_size": 64, "sampling_rate": 48000, "hop_length": 480, "max_length_s": 10,
                  "padding": "repeatpad", "fft_window_size": 1024, "frequency_min": 50, "frequency_max": 14000,
                  "truncation": "rand_trunc"}


@contextlib.contextmanager
def single_thread():
    """For references too: threads that share tiny products mostly wait for one another."""
    import torch
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def save(folder, config, state, name="pytorch_model.bin", config_name="config.json"):
    """A checkpoint folder: the configuration and the tensors, under the names upstream uses."""
    import torch
    folder.mkdir(parents=True, exist_ok=True)
    (folder / config_name).write_text(json.dumps(config))
    if name.endswith(".safetensors"):
        from safetensors.torch import save_file
        save_file({k: v.contiguous() for k, v in state.items()}, folder / name)
    else:
        torch.save(state, folder / name)
    return folder


def spread(model, seed=0):
    """Give every tensor of a tiny model values that matter, so that no mistake hides behind a zero or a one."""
    import torch
    generator = torch.Generator().manual_seed(seed)
    state = model.state_dict()
    for key, value in state.items():
        if value.is_floating_point() and not key.endswith(("inv_freq", "original0", "relative_position_index")):
            fan = max(value[0].numel(), 1) if value.dim() > 1 else 1
            noise = torch.randn(value.shape, generator=generator)
            scale = fan ** -0.5 if value.dim() > 1 else 0.1
            state[key] = value + scale * noise if value.dim() == 1 else scale * noise
            if key.endswith("running_var"):
                state[key] = 0.5 + torch.rand(value.shape, generator=generator)
    return state


def old_spelling(state):
    return {k.replace("parametrizations.weight.original0", "weight_g")
             .replace("parametrizations.weight.original1", "weight_v"): v for k, v in state.items()}


def golden_state(path):
    import torch
    with np.load(path) as z:
        return {k: torch.from_numpy(z[k].copy()) for k in z.files}


def music(seconds, rate, seed=0):
    """Chords that change, with noise and a decay: float32 (N,)."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    pitch = 110 * 2 ** (rng.integers(0, 24, (int(seconds * 2) + 1, 3)) / 12)
    tones = np.sin(2 * np.pi * pitch[(t * 2).astype(int)] * t[:, None]).sum(axis=1)
    return (0.1 * tones * np.exp(-2 * (t * 2 % 1)) + rng.normal(0, 0.01, t.size)).astype(np.float32)


def sounds(folder, rate, **seconds):
    """{name: samples} of float wav files, so that what is read is what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {name: music(s, rate, seed=i) for i, (name, s) in enumerate(seconds.items())}
    for name, samples in made.items():
        soundfile.write(folder / f"{name}.wav", samples, rate, subtype="FLOAT")
    return made


def extract(backend, tmp_path, checkpoint, *flags, audio="audio", work="work"):
    backend.main(["--workdir", str(tmp_path / work), "--audio", str(tmp_path / audio),
                  "--weights", str(checkpoint), "--device", "cpu", *flags])
    return tmp_path / work / "embeddings"


def command(backend, *argv, **env):
    return subprocess.run([sys.executable, f"extract_item_embeddings/{backend}.py", *map(str, argv)], cwd=ROOT,
                          capture_output=True, text=True, timeout=300, env={**os.environ, "HF_HUB_OFFLINE": "1", **env})


def cosine(a, b):
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def mert_checkpoint(folder):
    from transformers import HubertConfig, HubertModel
    config = {k: v for k, v in MERT_CONFIG.items() if k not in ("model_type", "architectures", "auto_map")}
    return save(folder, MERT_CONFIG, old_spelling(spread(HubertModel(HubertConfig(**config)))))


def m2v_checkpoint(folder):
    from transformers import Data2VecAudioConfig, Data2VecAudioModel
    config = {k: v for k, v in M2V_CONFIG.items() if k not in ("model_type", "architectures")}
    return save(folder, M2V_CONFIG, spread(Data2VecAudioModel(Data2VecAudioConfig(**config))))


def hubert_means(folder, samples, kind="HubertModel"):
    """(states, D): the mean over time of each state, by transformers' own loading."""
    import torch
    import transformers
    model = getattr(transformers, kind).from_pretrained(folder).eval()
    with torch.no_grad():
        out = model(torch.from_numpy(samples)[None], output_hidden_states=True)
    return np.stack([h[0].mean(0).numpy() for h in (*out.hidden_states[:-1], out.last_hidden_state)])


def built(backend, checkpoint, *flags):
    """The backend (a class) with its model, as the command line would have it."""
    from extract_item_embeddings.engine import extraction
    args = extraction.parser(backend, "").parse_args(["--weights", str(checkpoint), "--device", "cpu", *flags])
    made = backend(args)
    made.request()
    made.load()
    made.unload()  # the threads; the model stays
    return made


def random_state(seed=0):
    """Upstream's keys of a tiny network, with values, and some that only training needs."""
    import torch

    from extract_item_embeddings.networks.conformer import Conformer
    model = Conformer(CONFORMER, 5.25, 17.5)
    model.conformer.embed_positions.inv_freq.copy_(1 / 10000 ** (torch.arange(0, 12, 2) / 12))
    state = spread(model, seed)
    return {**state, "cls_token": torch.zeros(48), "linear.weight": torch.zeros(64, 48), "linear.bias": torch.zeros(64)}


def musicfm_folder(folder, state, name="fma"):
    """As released: everything under `state_dict`, each key behind six characters, and the statistics beside it."""
    return save(folder, STATS, {"state_dict": {f"model.{k}": v for k, v in state.items()}}, f"pretrained_{name}.pt",
                f"{name}_stats.json")


def muq_folder(folder, state):
    return save(folder, {"encoder_dim": 48, "stat": STATS}, state, "model.safetensors")


def mulan_folder(folder, backbone, tower, clip_seconds, stat=STATS):
    """As released: one file with the backbone, the audio tower and the text side."""
    import torch
    state = {**{f"mulan.audio.model.{k}": v for k, v in backbone.items()}, **tower,
             "mulan.text_to_latents.weight": torch.zeros(3, 3), "mulan.text.proj.bias": torch.zeros(3)}
    config = {"mulan": {"clip_secs": clip_seconds}, "audio_model": {"use_layer_idx": -1}, "stat": stat}
    return save(folder, config, state)


def mulan_checkpoint(folder):
    """MuLan on a tiny backbone of 48 channels: a tower of one block, clips of one second."""
    import torch

    from extract_item_embeddings.networks.mulan import Tower
    shapes = {"proj.weight": torch.zeros(24, 48), "transformer.layers.0.0.to_q.weight": torch.zeros(16, 24),
              "transformer.layers.0.0.q_scale": torch.zeros(8), "transformer.layers.0.1.4.weight": torch.zeros(24, 32),
              "audio_to_latents.weight": torch.zeros(12, 24)}
    tower = {("mulan." if k.startswith("audio_to_latents.") else "mulan.audio.") + k: v
             for k, v in spread(Tower(shapes)).items()}
    return mulan_folder(folder, {f"model.{k}": v for k, v in random_state().items()}, tower, 1)


def encodecmae_state():
    """Upstream's keys of a tiny EnCodecMAE with random values, and one that only training needs."""
    import torch

    from extract_item_embeddings.networks.encodecmae import Encoder
    shapes = {"projector.weight": torch.zeros(24, 16), "codec.layers.0.conv.bias": torch.zeros(4),
              "layers.0.ff_layer.0.weight": torch.zeros(40, 24)}
    state = {}
    for key, value in old_spelling(spread(Encoder(shapes, 24, 2, 4))).items():
        if key.startswith("codec."):
            key = key.replace("codec.layers.", "wav_encoder.model.model.").replace(".conv.", ".conv.conv.")
        elif key.startswith(("layers.", "final_norm.")):
            key = "visible_encoder." + key.replace("layers.", "encoder_layers.", 1)
        state[{"scale": "positional_encoder.scale", "projector.weight": "feat_projector.weight",
               "projector.bias": "feat_projector.bias"}.get(key, key)] = value
    for key in [k for k in state if ".1.ff_layer" in k]:  # one module, so one set of values
        state[key] = state[key.replace(".1.ff_layer", ".0.ff_layer")]
    return {**state, "head.layer.weight": torch.zeros(3, 24), "positional_encoder.scale": torch.tensor(0.7)}


def clap_checkpoint(folder):
    from transformers import ClapConfig, ClapModel
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
            "vocab_size": 20, "max_position_embeddings": 16}
    config = ClapConfig(text_config=text, projection_dim=24, audio_config={
        "depths": [1, 1, 1, 1], "hidden_size": 64, "patch_embeds_hidden_size": 8, "num_attention_heads": [1, 2, 4, 8]})
    save(folder, config.to_dict(), spread(ClapModel(config)))
    (folder / "preprocessor_config.json").write_text(json.dumps(CLAP_PROCESSOR))
    return folder


MAEST_CONFIG = {"model_type": "audio-spectrogram-transformer", "hidden_size": 24, "num_hidden_layers": 8,
                "num_attention_heads": 2, "intermediate_size": 48, "num_mel_bins": 96, "max_length": 1876,
                "time_stride": 10, "layer_norm_eps": 1e-6, "torch_dtype": "float16", "id2label": {"0": "a", "1": "b"}}
MAEST_PROCESSOR = {"feature_extractor_type": "MAESTFeatureExtractor", "feature_size": 1, "sampling_rate": 16000,
                   "num_mel_bins": 96, "max_length": 1876, "do_normalize": True, "mean": 2.06755686098554,
                   "std": 1.268292820667291, "n_fft": 512, "hop_length": 256, "log_compression": "logC"}


def maest_names(state):
    """The names under which the weights were published, from those of transformers 5."""
    names = ((r"^(audio_spectrogram_transformer\.)layers\.", r"\1encoder.layer."),
             (r"\.attention\.([qkv])_proj\.",
              lambda m: f".attention.attention.{dict(q='query', k='key', v='value')[m[1]]}."),
             (r"\.attention\.o_proj\.", ".attention.output.dense."), (r"\.mlp\.fc1\.", ".intermediate.dense."),
             (r"\.mlp\.fc2\.", ".output.dense."))
    published = {}
    for key, value in state.items():
        for pattern, name in names:
            key = re.sub(pattern, name, key)
        published[key] = value
    return published


def maest_checkpoint(folder, name="pytorch_model.bin", **config):
    from transformers import ASTConfig, ASTForAudioClassification
    config = {**MAEST_CONFIG, **config}
    known = {k: v for k, v in config.items() if k not in ("model_type", "torch_dtype", "id2label")}
    model = ASTForAudioClassification(ASTConfig(**known, num_labels=2))
    save(folder, config, maest_names(spread(model)), name)
    (folder / "preprocessor_config.json").write_text(json.dumps(MAEST_PROCESSOR))
    return folder


MERT2_SIZE = {"bands": 128, "channels": [128, 32, 48], "heads": 4, "depths": [1, 1, 1], "inner": 96, "depth": 3,
              "kernel": 31}
MERT2_CONFIG = {"model_type": "mert2", "variant": "30s", "num_attention_heads": 4, "hidden_size": 48,
                "sampling_rate": 24000, "n_fft": 2048, "win_length": 2048, "hop_length": 240, "layer_norm_eps": 1e-5,
                "subsampling_layer_norm_eps": 1e-6, "rotary_embedding_base": 10000}
MERT2_NAMES = {"stages": "subsampling_module", "down": "resampling_layer.2", "wide": "pointwise_block.1",
               "response": "pointwise_block.3", "narrow": "pointwise_block.4", "convolution": "conv_module",
               "before": "layer_norm", "gate": "conv_block.1", "out": "conv_block.6"}


def mert2_state(seed=0):
    """Upstream's keys of a tiny MERT-v2 with random values, window and mel filters with them."""
    import torch

    from extract_item_embeddings.networks.mert2 import MERT2
    model, state = MERT2(MERT2_SIZE), {}
    for key, value in spread(model, seed).items():
        parts = key.split(".")
        stage, convnext = parts[0] == "stages", parts[0] == "stages" and parts[2] == "layers"
        names = {**MERT2_NAMES, "depthwise": "depthwise_block.1" if stage else "conv_block.3",
                 "layers": "convnext_layers" if stage else "layers",
                 "norm": "pointwise_block.0" if convnext else "resampling_layer.0" if stage else "conv_block.4.1"}
        state[".".join(names.get(part, part) for part in parts)] = value
    for name, value in (("mean", torch.linspace(-5, 10, 128)), ("std", torch.linspace(10, 20, 128))):
        del state[name]
        state[f"feature_extractor.mel_{name}"] = value
    return {**state, "feature_extractor.spectrogram.window": model.mel.window.clone(),
            "feature_extractor.mel_scale.fb": model.mel.filters.clone()}


def mert2_checkpoint(folder):
    return save(folder, MERT2_CONFIG, mert2_state(), "model.safetensors")


# one tiny checkpoint of each pretrained backend: {name: (module, maker(folder) -> folder, flags)}
MAKERS = {
    "mert": (mert, mert_checkpoint, []),
    "music2vec": (m2v, m2v_checkpoint, []),
    "musicfm": (mfm, lambda folder: musicfm_folder(folder, random_state()), []),
    "muq_msd": (muq, lambda folder: muq_folder(folder, random_state()), []),
    "muq_mulan": (muq, mulan_checkpoint, ["--mulan"]),
    "encodecmae": (emae, lambda folder: save(folder, {"num_heads": 4}, encodecmae_state(), "model.pt"), []),
    "clap": (clap, clap_checkpoint, []),
    "maest": (maest, maest_checkpoint, []),
    "mert2": (mert2, mert2_checkpoint, []),
}
