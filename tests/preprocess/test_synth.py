"""Sound of the demo world: every trait is audible, files are whole and the same every time."""
import io

import numpy as np
import pytest
import soundfile

from preprocess.demo import synth, world

RATE = 22_050


def play(seed=0, seconds=4.0, rate=RATE, channels=1, gain=0.0, **traits):
    """Sound with all traits in the middle but those given, (frames,) or (frames, 2)."""
    values = [traits.get(name, 0.5) for name in world.TRAITS]
    sound = synth.render(values, rate, channels, seconds, np.random.default_rng(seed), gain)
    return sound[:, 0] if channels == 1 else sound


def spectrum(sound):
    """Mean power spectrum over frames of 2,048 samples, and its frequencies in Hz."""
    frames = np.lib.stride_tricks.sliding_window_view(sound, 2048)[::1024] * np.hanning(2048)
    return (np.abs(np.fft.rfft(frames)) ** 2).mean(axis=0), np.fft.rfftfreq(2048, 1 / RATE)


def centroid(sound):
    power, hz = spectrum(sound)
    return (power * hz).sum() / power.sum()


def flatness(sound):
    power, hz = spectrum(sound)
    power = power[hz > 100]
    return np.exp(np.log(power + 1e-20).mean()) / power.mean()


def pitch(sound):
    """Centre of the power below 2 kHz on a logarithmic scale: moves with the notes, little with the harmonics."""
    power, hz = spectrum(sound)
    low = (hz > 40) & (hz < 2000)
    return (power[low] * np.log2(hz[low])).sum() / power[low].sum()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("trait, measure, others", [
    ("timbre", centroid, {"noise": 0.0}), ("noise", flatness, {}), ("register", pitch, {"noise": 0.0, "timbre": 0.2})])
def test_a_trait_moves_what_is_heard(trait, measure, others, seed):
    low, middle, high = (measure(play(seed, **others, **{trait: value})) for value in (0.05, 0.5, 0.95))
    assert low < middle < high


@pytest.mark.parametrize("loudness, gain", [(0.0, 0), (0.4, 0), (0.2, -30)])
def test_quiet_music_has_the_level_of_its_trait(loudness, gain):
    rms = 20 * np.log10(np.sqrt(np.mean(play(loudness=loudness, gain=gain) ** 2)))
    # up to half the range nothing is compressed; the two faded edges of 10 ms in 4 s and the factor 0.98 cost < 0.3 dB
    assert rms == pytest.approx(-34 + 25 * loudness + gain, abs=0.3)


def test_loud_music_is_louder_and_never_clips():
    levels = [np.sqrt(np.mean(play(loudness=v) ** 2)) for v in (0.5, 0.8, 1.0)]
    assert levels == sorted(levels)
    assert np.abs(play(loudness=1.0, gain=12)).max() < 1


@pytest.mark.parametrize("tempo", [0.0, 0.6, 1.0])
def test_the_beat_is_the_tempo(tempo):
    sound = play(tempo=tempo, noise=1.0, density=0.0, seconds=12)
    hop = RATE // 100
    energy = np.sqrt(np.add.reduceat(sound ** 2, np.arange(0, len(sound), hop)))
    rise = np.maximum(np.diff(energy), 0)
    rise = np.convolve(rise - rise.mean(), np.ones(3), "same")
    similarity = np.correlate(rise, rise, "full")[len(rise) - 1:]
    beat = 60 / (64 * (176 / 64) ** tempo) * RATE / hop                 # frames
    found = {wrong: sum(similarity[round(n * beat * wrong)] for n in (1, 2, 4)) for wrong in (0.8, 0.9, 1, 1.1, 1.2)}
    assert max(found, key=found.get) == 1


def test_each_mode_sharpens_one_degree_of_the_one_before():
    assert np.diff(synth.MODES, axis=0).tolist() == [[int(d == degree) for d in range(7)] for degree in (1, 5, 2, 6, 3)]


@pytest.mark.parametrize("mode", range(6))
def test_all_notes_are_of_the_mode(mode):
    notes, _ = synth._score(synth.MODES[mode], 60, 2.0, 16, np.random.default_rng(mode))
    heard = np.unique([int(row[2]) % 12 for rows in notes.values() for row in rows])
    assert any(set(heard) <= set((synth.MODES[mode] + root) % 12) for root in range(12))


@pytest.mark.parametrize("per_beat", [0.6, 1.5, 3.0])
def test_melody_is_as_dense_as_asked(per_beat):
    counts = [len(synth._score(synth.MODES[0], 60, per_beat, 64, np.random.default_rng(s))[0]["melody"])
              for s in range(10)]
    # a note cannot be played more than once per quarter beat, which costs the densest a little
    assert np.mean(counts) / 64 == pytest.approx(per_beat, rel=0.15)


def test_stereo_and_mono_have_the_length_asked_for():
    assert play(seconds=1.5, rate=44_100, channels=2).shape == (66_150, 2)
    assert play(seconds=1.5, rate=48_000).shape == (72_000,)
    wide = play(channels=2)
    assert np.abs(wide[:, 0] - wide[:, 1]).max() > 0.01


@pytest.mark.parametrize("container", synth.containers())
def test_files_hold_the_sound_and_are_the_same_each_time(container, tmp_path):
    sound = play(seconds=1.2, rate=44_100, channels=2)
    paths = [tmp_path / f"{i}{synth.extension(container)}" for i in range(2)]
    for path in paths:
        synth.write(path, sound, 44_100, container, serial=7)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    decoded, rate = soundfile.read(paths[0])
    assert rate == 44_100 and decoded.shape == sound.shape
    if container in ("wav", "wav24", "flac"):
        assert np.abs(decoded - sound).max() <= 2 ** -15


def test_ogg_pages_carry_the_serial_and_a_right_checksum():
    file = io.BytesIO()
    soundfile.write(file, play(seconds=0.5), RATE, format="OGG")
    data = file.getvalue()
    own = int.from_bytes(data[14:18], "little")
    assert synth._renumber(data, own) == data          # libogg's own checksums come out again
    other = synth._renumber(data, own ^ 1)
    assert len(other) == len(data) and other != data
    assert soundfile.read(io.BytesIO(other))[0].shape == (RATE // 2,)
