"""Audio synthesis of the demo: seven traits determine a few seconds of music in an audio file.

Layers: chords, a melody, a bass and drums. Traits (0..1, see TRAITS of world.py):
timbre: dark and soft to bright and plucked; tempo; mode: from Phrygian to Lydian, one sharpened degree
at a time; register: pitch; density: notes per beat; loudness: RMS level; noise: level of drums and hiss relative
to tones. Notes are band-limited wavetables, so a track takes about 20 ms.

    sound = synth.render(traits, rate=44100, channels=2, seconds=6.0, rng=rng)      # (frames, channels)
    synth.write(path, sound, rate=44100, container="ogg", serial=1)
"""
import zlib

import numpy as np

SLOPES = (2.8, 0.6)         # harmonic h of a tone has amplitude h ** -slope: dark .. bright
ATTACKS = (0.09, 0.004)     # seconds, soft .. plucked
DECAYS = (1.6, 0.25)        # seconds until a tone has fallen to 1/e
TEMPI = (64, 176)           # beats per minute, in equal ratios
PITCHES = (45, 76)          # MIDI number around which chords are played
DENSITIES = (0.6, 4.0)      # melody notes per beat, in equal ratios
LEVELS = (-34, -9)          # RMS, dB below full scale
NOISES = (-40, -6)         # drums and hiss relative to tones, dB of RMS
# Degrees as semitones. Each mode sharpens one degree of the one before it.
MODES = np.array([[0, 1, 3, 5, 7, 8, 10], [0, 2, 3, 5, 7, 8, 10], [0, 2, 3, 5, 7, 9, 10],
                  [0, 2, 4, 5, 7, 9, 10], [0, 2, 4, 5, 7, 9, 11], [0, 2, 4, 6, 7, 9, 11]])
PROGRESSIONS = np.array([[0, 4, 5, 3], [0, 5, 3, 4], [0, 3, 0, 4], [0, 5, 2, 6], [0, 3, 4, 3], [0, 6, 5, 6]])
CONTAINERS = {"wav": ("WAV", "PCM_16"), "wav24": ("WAV", "PCM_24"), "flac": ("FLAC", "PCM_16"),
              "ogg": ("OGG", "VORBIS"), "mp3": ("MP3", "MPEG_LAYER_III")}
TABLE = 2048                # samples of one period
_REVERSED = bytes(int(f"{i:08b}"[::-1], 2) for i in range(256))


def containers():
    """Containers that can be written on this machine: mp3 needs libsndfile 1.1 or later."""
    import soundfile
    available = soundfile.available_formats()
    return [name for name, (kind, _) in CONTAINERS.items() if kind in available]


def extension(container):
    return "." + container.removesuffix("24")


def render(traits, rate, channels, seconds, rng, gain=0.0):
    """Music with the given traits.

    traits: (7,) in [0, 1], order of world.TRAITS
    rate: Hz; channels: 1 or 2; seconds: length; gain: dB on top of the loudness trait
    returns: float32 (frames, channels), |sample| < 1
    """
    timbre, tempo, mode, register, density, loudness, noise = traits
    frames = round(seconds * rate)
    beat = 60 / (TEMPI[0] * (TEMPI[1] / TEMPI[0]) ** tempo)
    scale = MODES[min(int(mode * len(MODES)), len(MODES) - 1)]
    notes, drums = _score(scale, _between(PITCHES, register), DENSITIES[0] * (DENSITIES[1] / DENSITIES[0]) ** density,
                          seconds / beat, rng)
    parts = _play(notes, timbre, beat, rate, frames, rng)            # chords, melody, bass
    rattle = _drum(drums, beat, rate, frames, density, rng)
    tones = _rms(sum(parts.values()))
    parts["noise"] = rattle * np.float32(tones * 10 ** (_between(NOISES, noise) / 20) / max(_rms(rattle), 1e-9))
    pans = {"chords": rng.uniform(-0.5, 0.5), "melody": rng.uniform(-0.5, 0.5)}
    if channels == 1:
        sound = sum(parts.values())[:, None]
    else:
        sound = np.stack([sum((1 + side * pans.get(name, 0.0)) * part for name, part in parts.items())
                          for side in (-1, 1)], axis=1)
    sound = sound * np.float32(10 ** ((_between(LEVELS, loudness) + gain) / 20) / max(_rms(sound), 1e-9))
    sound = np.tanh(sound)                                          # loud music is compressed, quiet music is not
    ramp = np.linspace(0, 0.98, max(1, int(0.01 * rate)), dtype=np.float32)[:, None]   # an excerpt does not click
    n = min(len(ramp), frames // 2)
    sound[n:frames - n] *= np.float32(0.98)
    sound[:n] *= ramp[:n]
    sound[frames - n:] *= ramp[:n][::-1]
    return sound


def _between(ends, share):
    return ends[0] + (ends[1] - ends[0]) * share


def _rms(x):
    return float(np.sqrt(np.mean(np.square(x), dtype=np.float64)))


# --------------------------------------------------------------------------- score

def _score(scale, centre, per_beat, n_beats, rng):
    """Notes per layer as rows (start, length in beats, MIDI pitch, strength), and drum hits."""
    root = rng.integers(12)
    base = root + 12 * np.round((centre - 6 - root) / 12)           # the root in the middle of the register
    progression = PROGRESSIONS[rng.integers(len(PROGRESSIONS))]
    chords, bass = [], []
    for start in np.arange(0, n_beats, 2):                          # a chord lasts two beats
        degree = progression[int(start / 2) % 4]
        strikes = [0.0] if per_beat < 1.5 else [0.0, 1.0] if per_beat < 2.5 else [0.0, 0.75, 1.5]
        for strike in strikes:
            for voice in (0, 2, 4):
                chords.append((start + strike, 2.0 / len(strikes), _pitch(scale, base, degree + voice),
                               rng.uniform(0.7, 1.0)))
        for step in np.arange(0, 2, 1.0 if per_beat > 1 else 2.0):
            bass.append((start + step, 0.95, max(_pitch(scale, base, degree) - 24, 26), rng.uniform(0.8, 1.0)))
    melody = _melody(scale, base, progression, per_beat, n_beats, rng)
    steps = np.arange(0, n_beats, 0.25)
    return {"chords": chords, "melody": melody, "bass": bass}, steps


def _melody(scale, base, progression, per_beat, n_beats, rng):
    """A random walk over the scale on a grid of quarter beats; notes on the beat belong to the chord."""
    steps = np.arange(0, n_beats, 0.25)
    weight = np.where(steps % 1 == 0, 2.0, np.where(steps % 0.5 == 0, 1.2, 0.7))
    played = rng.random(len(steps)) < np.minimum(1, weight / weight.mean() * per_beat / 4)
    played[0] = True
    moves = rng.integers(-2, 3, len(steps))
    degree, notes = 7, []
    starts = steps[played]
    for start, until, move in zip(starts, np.append(starts[1:], n_beats), moves, strict=False):
        degree = int(np.clip(degree + move, 4, 12))
        if start % 1 == 0:
            chord = progression[int(start / 2) % 4] + np.array([0, 2, 4, 7, 9, 11])
            degree = int(chord[np.abs(chord - degree).argmin()])
        notes.append((start, min(until - start, 2.0), _pitch(scale, base, degree), rng.uniform(0.6, 1.0)))
    return notes


def _pitch(scale, base, degree):
    return base + 12 * (degree // 7) + scale[degree % 7]


# --------------------------------------------------------------------------- synthesis

def _play(notes, timbre, beat, rate, frames, rng):
    """One mono signal (frames,) per layer."""
    slope, attack = _between(SLOPES, timbre), ATTACKS[0] * (ATTACKS[1] / ATTACKS[0]) ** timbre
    longest = min(frames, int(2.2 * 2 * beat * rate))
    count = np.arange(longest, dtype=np.float64)
    time = count / rate
    envelope = (np.minimum(time / attack, 1.0) * np.exp(-time / _between(DECAYS, timbre))).astype(np.float32)
    phases = rng.uniform(0, 2 * np.pi, TABLE // 2 + 1)
    release = int(0.03 * rate)
    fade = np.linspace(1, 0, release, dtype=np.float32)
    tables, layers = {}, {}
    for name, rows in notes.items():
        layer = np.zeros(frames, np.float32)
        for start, length, pitch, strength in rows:
            first = int(start * beat * rate)
            n = min(int(length * beat * rate) + release, longest, frames - first)
            if n <= release:
                continue
            hz = 440 * 2 ** ((pitch - 69) / 12)
            if pitch not in tables:
                tables[pitch] = _table(hz, slope, rate, phases)
            tone = tables[pitch][(count[:n] * (hz * TABLE / rate)).astype(np.int32) & (TABLE - 1)]
            tone *= envelope[:n]
            tone[n - release:] *= fade
            layer[first:first + n] += np.float32(strength) * tone
        layers[name] = layer
    return layers


def _table(hz, slope, rate, phases):
    """One period, (TABLE,), of unit RMS, without harmonics above 0.45 of the sample rate or above 10 kHz."""
    h = np.arange(1, max(2, min(40, int(min(0.45 * rate, 10_000) / hz)) + 1))
    spectrum = np.zeros(TABLE // 2 + 1, complex)
    spectrum[h] = h ** -slope * np.exp(1j * phases[h])
    period = np.fft.irfft(spectrum, TABLE)
    return (period / _rms(period)).astype(np.float32)


def _drum(steps, beat, rate, frames, density, rng):
    """Kick, snare, hats and a steady hiss, (frames,). Denser music has more hats."""
    out = 0.25 * rng.standard_normal(frames, dtype=np.float32)
    time = np.arange(int(0.35 * rate), dtype=np.float32) / rate
    kick = 3.0 * np.sin(2 * np.pi * (50 * time + 3.5 * (1 - np.exp(-time / 0.03)))) * np.exp(-time / 0.09)
    snare = 2.2 * rng.standard_normal(len(time), dtype=np.float32) * np.exp(-time / 0.06)
    hat = np.diff(rng.standard_normal(len(time) + 1, dtype=np.float32)) * np.exp(-time / 0.025)
    hats = 1.0 if density < 0.35 else 0.5 if density < 0.7 else 0.25   # beats between hats
    for step in steps:
        first = int(step * beat * rate)
        n = min(len(time), frames - first)
        for hit, sound in ((step % 2 == 0, kick), (step % 2 == 1, snare), (step % hats == 0, hat)):
            if hit:
                out[first:first + n] += sound[:n]
    return out


# --------------------------------------------------------------------------- files

def write(path, sound, rate, container, serial=1):
    """Write float (frames, channels) to `path`; the same sound gives the same bytes.

    serial: stream number of an ogg file. libsndfile draws it from the clock, so it is replaced here.
    """
    import soundfile
    kind, subtype = CONTAINERS[container]
    with soundfile.SoundFile(path, "w", rate, sound.shape[1], subtype, format=kind) as f:
        for i in range(0, len(sound), rate):    # second by second: some encoders overrun their stack on long blocks
            f.write(sound[i:i + rate])
    if kind == "OGG":
        with open(path, "rb") as f:
            data = f.read()
        with open(path, "wb") as f:
            f.write(_renumber(data, serial))


def _renumber(data, serial):
    """An ogg file with another stream number; it is in every page, protected by a checksum (RFC 3533, section 6)."""
    pages, at = [], 0
    while at < len(data):
        n_segments = data[at + 26]
        end = at + 27 + n_segments + sum(data[at + 27:at + 27 + n_segments])
        page = bytearray(data[at:end])
        page[14:18] = serial.to_bytes(4, "little")
        page[22:26] = bytes(4)
        page[22:26] = _ogg_crc(bytes(page)).to_bytes(4, "little")
        pages.append(bytes(page))
        at = end
    return b"".join(pages)


def _ogg_crc(data):
    """CRC-32 of ogg: zlib's polynomial in reversed bit order, initial and final value 0."""
    mirrored = zlib.crc32(data.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)
