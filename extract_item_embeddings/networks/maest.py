"""The network of MAEST: log-mel, patches of 16 x 16, blocks of a transformer (AST of transformers).

Alonso-Jimenez et al., arXiv 2309.16418. A clip shorter than the network's input keeps its own length: it takes the
first of the position embeddings in time, as in the authors' own code.
"""
import torch
import torch.nn.functional as F
from torch import nn

from extract_item_embeddings.networks.logmel import LogMel
from harness.errors import WorkError

HEAD = ("classifier.",)  # the styles of Discogs, not used
# from the names under which the weights were published to those of transformers 5, which stay as they are
NAMES = ((r"^audio_spectrogram_transformer\.", ""), (r"^encoder\.layer\.", "layers."),
         (r"\.attention\.attention\.(query|key|value)\.", lambda m: f".attention.{m[1][0]}_proj."),
         (r"\.attention\.output\.dense\.", ".attention.o_proj."), (r"\.intermediate\.dense\.", ".mlp.fc1."),
         (r"^(layers\.\d+)\.output\.dense\.", r"\1.mlp.fc2."))
SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act", "qkv_bias",
         "layer_norm_eps", "patch_size", "frequency_stride", "time_stride", "max_length", "num_mel_bins")
PUBLISHED = {"sampling_rate": 16000, "log_compression": "logC", "do_normalize": True}  # of the feature extractor


def spectrogram(table, path):
    """Settings of the spectrogram from preprocessor_config.json; WorkError if they are not those of MAEST."""
    other = [k for k, v in PUBLISHED.items() if table.get(k, v) != v]
    if other:
        raise WorkError(f"{path} sets {other[0]} to {table[other[0]]}, which is not MAEST's "
                        f"{PUBLISHED[other[0]]}; use the file published with the weights")
    usual = {"n_fft": 512, "hop_length": 256, "mean": 2.06755686098554, "std": 1.268292820667291}
    try:
        found = {k: type(v)(table.get(k, v)) for k, v in usual.items()}
    except (TypeError, ValueError):
        found = {"std": 0}
    if not found["std"] > 0:
        raise WorkError(f"{path} must have a number for each of {', '.join(usual)}, and a positive std; download it "
                        "again")
    return found


class MAEST(nn.Module):
    """config: of AST (transformers); sound: the dict of `spectrogram`."""

    def __init__(self, config, sound):
        super().__init__()
        from transformers import ASTModel
        self.ast, self.config = ASTModel(config), config
        self.sound = LogMel(PUBLISHED["sampling_rate"], sound["n_fft"], sound["hop_length"], config.num_mel_bins,
                            scale="slaney", norm="slaney", pad="constant")
        self.mean, self.std = sound["mean"], sound["std"]

    def least(self):
        """Samples of the shortest clip that fills one patch."""
        return (self.config.patch_size - 1) * self.sound.hop

    def log_mel(self, x):
        """(B, N) samples -> float32 (B, N / hop + 1, bands): log10(1 + 10000 power), centred, over two deviations"""
        mel = torch.log10(1 + 10000 * self.sound.power(x)).transpose(1, 2)
        return ((mel - self.mean) / (2 * self.std)).float()

    def embedded(self, mel):
        """(B, frames, bands) -> (B, 2 + patches, D): CLS, DIST and the patches, each with its position"""
        parts = self.ast.embeddings
        patches = parts.patch_embeddings(mel)
        rows, columns = parts.get_shape(self.config)  # of patches: frequency, time
        positions = parts.position_embeddings[:, 2:].unflatten(1, (rows, columns))
        positions = positions[:, :, :patches.shape[1] // rows].flatten(1, 2)
        first = torch.cat([parts.cls_token, parts.distillation_token], dim=1) + parts.position_embeddings[:, :2]
        return torch.cat([first.expand(len(mel), -1, -1), patches + positions], dim=1)

    def states(self, x, wanted):
        """(B, N) samples -> {number: float32 (B, 1, 3 D)}: CLS, DIST and the mean of the patches, side by side.

        0 enters the first block; the last comes after the last norm. A clip of less than 16 frames is continued by
        silence to 16.
        """
        mel = self.log_mel(F.pad(x, (0, max(self.least() - x.shape[1], 0))))
        x, depth = self.embedded(mel.to(self.ast.layernorm.weight.dtype)), len(self.ast.layers)
        found = {}
        for i in range(max(wanted) + 1):
            x = self.ast.layers[i - 1](x, None) if i else x
            if i in wanted:
                tokens = (self.ast.layernorm(x) if i == depth else x).float()
                found[i] = torch.cat([tokens[:, :1], tokens[:, 1:2], tokens[:, 2:].mean(1, keepdim=True)], dim=2)
        return found
