"""One signal of the channels of a recording, and what is wrong with its sound.

Every test looks at a sample of the recording first and at all of it only on suspicion, so that ordinary tracks cost
nothing measurable. The thresholds are far from those of ordinary music: a remark is rare.
"""
import numpy as np

PROBE = 1 << 12        # samples per channel that are looked at first
SILENT = 1e-4          # peak, full scale is 1 (-80 dB): three steps of 16 bits
FAR = 2.0              # peak, full scale is 1: lossy codecs exceed full scale, but never so far
OFFSET = 0.1, 0.002    # mean as a share of the standard deviation, and of full scale
CANCELLED = 0.25       # power of the sum of two channels as a share of their powers; 1 for unrelated channels
WEIGHTY = 0.05         # power of two channels as a share of that of all, below which they do not matter
AT_PEAK = 0.02         # share of samples at the peak of a clipped recording
AT_FULL_SCALE = 0.05   # share of samples near full scale of a clipped recording that has been through a lossy codec


def mixed(block):
    """One signal of float32 (N, C), N >= 1: ((N,), remarks).

    The signal is the mean of the channels; of two that cancel each other one is inverted before. The remarks (list of
    str, empty for ordinary sound) name that and silence, a constant offset, clipping, samples far beyond full scale and
    one silent channel of two; they are None if a sample of the signal is not finite.
    """
    step = len(block) // PROBE | 1  # odd, so that it has no factor in common with a period of 2, 4, 8, ...
    with np.errstate(all="ignore"):
        probe = block[::step].astype(np.float64)
        signs, remarks = polarity(block, probe)
        mono = _mean(block, signs)
        low, high = float(mono.min()), float(mono.max())
        if not np.isfinite(high - low):
            return mono, None
        return mono, remarks + _faults(block, probe, mono, low, high)


def _mean(block, signs):
    """Mean of the channels of (N, C), each with its sign: (N,), summed in their order."""
    if block.shape[1] == 1:
        return block[:, 0].copy()
    mono = (np.add if signs[1] > 0 else np.subtract)(block[:, 0], block[:, 1])
    for channel in range(2, block.shape[1]):
        (np.add if signs[channel] > 0 else np.subtract)(mono, block[:, channel], out=mono)
    if block.shape[1] == 2:
        mono *= 0.5  # to the bit a division by 2, and faster
    else:
        mono /= block.shape[1]
    return mono


def polarity(block, probe):
    """(signs, remarks): int (C,), -1 for a channel that cancels an earlier one and is to be inverted."""
    channels = block.shape[1]
    signs, remarks = np.ones(channels, int), []
    if channels == 1 or not _cancelling(probe):
        return signs, remarks
    for i, j in _cancelling(block.astype(np.float64)):
        if signs[j] == 1 and signs[i] == 1:
            signs[j] = -1
            name = "left and right" if channels == 2 else f"channels {i + 1} and {j + 1} of {channels}"
            remarks.append(f"{name} cancel each other; {'the right' if channels == 2 else 'the latter'} was inverted "
                           "before mixing")
    return signs, remarks


def _cancelling(x):
    """[(i, j), ...]: pairs of channels of float64 (N, C) whose sum has lost most of their power."""
    x = x - x.mean(axis=0)
    products = x.T @ x
    power = np.diag(products)
    both = power[:, None] + power
    pairs = (both + 2 * products < CANCELLED * both) & (both > WEIGHTY * power.sum())
    return [(int(i), int(j)) for i, j in np.argwhere(np.triu(pairs, 1))]


def _faults(block, probe, mono, low, high):
    peak = max(-low, high, float(np.abs(probe).max()))
    if peak < SILENT:
        return ["digital silence" if peak == 0 else f"silence: the peak is {20 * np.log10(peak):.0f} dB of full scale"]
    remarks = []
    if peak > FAR:
        remarks.append(f"samples reach {peak:.3g} times full scale")
    if high - low < SILENT:
        return [*remarks, f"no sound: a constant value of {high:.3g}"]
    if _is_offset(probe.mean(axis=1)) and _is_offset(mono):
        remarks.append(f"constant offset of {mono.mean(dtype=np.float64):.2g}")
    if block.shape[1] == 2:
        power = (probe ** 2).sum(axis=0)
        if power.min() <= 1e-8 * power.max():
            remarks.append(f"the {'left' if power[0] < power[1] else 'right'} channel is silent, so the mean is 6 dB "
                           "below the other")
    if _clipped(np.abs(probe)) and (share := _clipped(np.abs(block))):
        remarks.append(f"clipped: {100 * share:.0f} % of the samples are at the peak")
    return remarks


def _is_offset(x):
    mean = abs(x.mean(dtype=np.float64))
    return mean > OFFSET[1] and mean > OFFSET[0] * x.std(dtype=np.float64)


def _clipped(x):
    """Share of the samples at the peak of the worst channel of absolute values (N, C); 0 where that is no more than
    in a wave with round tops: the peak itself must hold more samples than the levels below it."""
    peaks = x.max(axis=0)
    exact, lossy = (x >= 0.9999 * peaks).mean(axis=0), (x >= 0.97).mean(axis=0)
    if exact.max() < AT_PEAK and lossy.max() < AT_FULL_SCALE:
        return 0.0
    below, under, over = (x >= 0.95 * peaks).mean(axis=0), (x >= 0.85).mean(axis=0), (x > 1.03).mean(axis=0)
    plain = (peaks >= 0.25) & (exact >= AT_PEAK) & (exact > 2 * (below - exact))
    coded = (peaks >= 0.97) & (peaks <= FAR) & (lossy >= AT_FULL_SCALE)
    coded &= (lossy > 2 * (under - lossy)) & (lossy > 2 * over)  # most at full scale, few above
    return float(np.max(np.where(plain, exact, np.where(coded, lossy, 0))))
