"""Checkpoints of the published sizes with random weights, in the files and under the keys that upstream ships.

Arithmetic does not care about the values, so what bench/extract.py times with them is what a user of the real
ones waits for. The sizes of MuQ-MuLan's tower are not published; those here make up the published 700 million.
"""
import json

CONFORMER = {"dim": 1024, "depth": 12, "width": 512, "bands": 128, "heads": 16, "inner": 4096, "kernel": 31,
             "position_kernel": 128, "position_groups": 16}
MEL = {"melspec_2048_mean": 6.768444971712967, "melspec_2048_std": 18.417922652295623}
MERT = {"330M": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
                 "do_stable_layer_norm": True}, "95M": {}}
CLAP = {"audio_config": {"depths": [2, 2, 12, 2], "hidden_size": 1024, "patch_embeds_hidden_size": 128}}
CLAP_PROCESSOR = {"feature_size": 64, "sampling_rate": 48000, "hop_length": 480, "max_length_s": 10,
                  "padding": "repeatpad", "fft_window_size": 1024, "frequency_min": 50, "frequency_max": 14000,
                  "truncation": "rand_trunc"}


def save(folder, state, name, **jsons):
    import torch
    folder.mkdir(parents=True)
    torch.save(state, folder / name)
    for stem, table in jsons.items():
        (folder / f"{stem}.json").write_text(json.dumps(table))


def mert(folder, size="330M"):
    from transformers import HubertConfig, HubertModel
    config = {"conv_bias": False, "feat_extract_norm": "group", **MERT[size]}
    save(folder, HubertModel(HubertConfig(**config)).state_dict(), "pytorch_model.bin",
         config={**HubertConfig(**config).to_dict(), "model_type": "mert_model"})


def mert_95m(folder):
    mert(folder, "95M")


def music2vec(folder):
    from transformers import Data2VecAudioConfig, Data2VecAudioModel
    config = Data2VecAudioConfig()
    save(folder, Data2VecAudioModel(config).state_dict(), "pytorch_model.bin", config=config.to_dict())


def conformer():
    import torch

    from extract_item_embeddings.networks.conformer import Conformer
    model = Conformer(CONFORMER, 0.0, 1.0)
    half = CONFORMER["dim"] // CONFORMER["heads"] // 2
    model.conformer.embed_positions.inv_freq.copy_(10000 ** (-torch.arange(half) / half))
    return model.state_dict()


def musicfm(folder):
    save(folder, {"state_dict": {f"model.{k}": v for k, v in conformer().items()}}, "pretrained_fma.pt", fma_stats=MEL)


def muq(folder):
    save(folder, conformer(), "pytorch_model.bin", config={"stat": MEL})


def mulan(folder):
    import torch

    from extract_item_embeddings.networks.mulan import Tower
    sizes = {"proj.weight": (768, 1024), "transformer.layers.7.0.to_q.weight": (512, 768),
             "transformer.layers.0.0.to_q.weight": (512, 768), "transformer.layers.0.0.q_scale": (64,),
             "transformer.layers.0.1.4.weight": (768, 2048), "audio_to_latents.weight": (512, 768)}
    tower = Tower({k: torch.empty(v, device="meta") for k, v in sizes.items()}).state_dict()
    state = {("mulan." if k.startswith("audio_to_latents.") else "mulan.audio.") + k: v for k, v in tower.items()}
    state |= {f"mulan.audio.model.model.{k}": v for k, v in conformer().items()}
    save(folder, state, "pytorch_model.bin", config={"mulan": {"clip_secs": 10}, "audio_model": {"use_layer_idx": -1}})


def encodecmae(folder):
    import torch

    from extract_item_embeddings.networks.encodecmae import Encoder
    sizes = {"projector.weight": (768, 128), "codec.layers.0.conv.bias": (32,),
             "layers.0.ff_layer.0.weight": (4096, 768)}
    model, state = Encoder({k: torch.empty(v, device="meta") for k, v in sizes.items()}, 768, 10, 12), {}
    for key, value in model.state_dict().items():
        if key.startswith("codec."):
            key = key.replace("codec.layers.", "wav_encoder.model.model.").replace(".conv.", ".conv.conv.")
        elif key.startswith(("layers.", "final_norm.")):
            key = "visible_encoder." + key.replace("layers.", "encoder_layers.", 1)
        state[key.replace("projector.", "feat_projector.") if key.startswith("projector.") else
              "positional_encoder.scale" if key == "scale" else key] = value
    save(folder, state, "model.pt")


def clap(folder):
    from transformers import ClapAudioModelWithProjection, ClapConfig
    config = ClapConfig(**CLAP)
    save(folder, ClapAudioModelWithProjection(config.audio_config).state_dict(), "pytorch_model.bin",
         config=config.to_dict(), preprocessor_config=CLAP_PROCESSOR)
