"""MusiCNN's graph in plain torch convolutions, layer by layer as musicnn 0.1.0 builds it.

The straightforward port: the baseline of bench/musicnn.py and the reference of
tests/extract_item_embeddings/test_musicnn.py.
"""
import torch
from torch.nn import functional


def published(weights, x, memory_format=torch.contiguous_format):
    """{variable: array}, patches (B, T, 96) -> {layer: (B, D)}"""
    w = {k: torch.tensor(v) for k, v in weights.items()}

    def norm(x, i, axis=1):
        name = f"batch_normalization_{i}" if i else "batch_normalization"
        shape = [-1 if a == axis else 1 for a in range(x.dim())]
        beta, gamma, mean, variance = (w[f"{name}/{v}"].view(shape) for v in
                                       ("beta", "gamma", "moving_mean", "moving_variance"))
        return (x - mean) / torch.sqrt(variance + 1e-3) * gamma + beta

    def block(x, conv, pad):  # pad: left, right (frequency), before, after (time)
        name = f"conv2d_{conv}" if conv else "conv2d"
        kernel = w[f"{name}/kernel"].permute(3, 2, 0, 1).contiguous(memory_format=memory_format)
        x = functional.pad(x, pad).contiguous(memory_format=memory_format)
        return norm(functional.relu(functional.conv2d(x, kernel, w[f"{name}/bias"])), conv + 1)

    def dense(x, conv):
        return block(x.transpose(1, 2)[:, None], conv, (0, 0, 3, 3)).squeeze(3)  # (B, 64, T)

    x = norm(x[:, None], 0)
    timbral = [block(x, i, (0, 0, 3, 3)).amax(3) for i in (0, 1)]
    temporal = [block(x, i, (0, 0, (n - 1) // 2, n // 2)).amax(3) for i, n in ((2, 128), (3, 64), (4, 32))]
    front = torch.cat(timbral + temporal, 1)  # (B, 561, T)
    first = dense(front, 5)
    second = dense(first, 6) + first
    third = dense(second, 7) + second
    features = torch.cat([front, first, second, third], 1)  # (B, 753, T)
    pools = {"max_pool": features.amax(2), "mean_pool": features.mean(2)}
    flat = norm(torch.stack([pools["max_pool"], pools["mean_pool"]], 2).flatten(1), 9)
    penultimate = norm(functional.relu(flat @ w["dense/kernel"] + w["dense/bias"]), 10)
    logits = penultimate @ w["dense_1/kernel"] + w["dense_1/bias"]
    return {**pools, "penultimate": penultimate, "taggram": torch.sigmoid(logits)}
