"""Channels become one, none vanishes and nothing clicks; rates may change."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from livekit.plugins.whisper.pcm import Mixer, Resampler, Samples, speaker_weights, to_float

from tests.support import audio as make

SURROUND = ["FL", "FR", "FC", "LFE", "BL", "BR"]


def level(samples: Samples) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(samples))))


def mixed(samples: Samples, size: int = 480, weights: list[float] | None = None) -> Samples:
    """As frames come, `size` samples at a time."""
    mixer = Mixer(weights or [1.0] * samples.shape[1])
    parts = (samples[at : at + size] for at in range(0, len(samples), size))
    return np.concatenate([mixer.mix(part) for part in parts])


@pytest.mark.parametrize("size", [160, 480, 1024, 10_000_000])
@pytest.mark.parametrize("share", [1.0, 0.8])
def test_opposite_channels_do_not_cancel_each_other_out(size: int, share: float) -> None:
    noise = make.pink_noise(2.0)
    for samples in (np.stack([noise, -share * noise], 1), np.stack([-share * noise, noise], 1)):
        assert level(mixed(samples, size)) == pytest.approx(level(noise), rel=0.25)


def test_opposite_front_channels_of_surround_sound() -> None:
    noise, samples = make.pink_noise(2.0), np.zeros((32000, 6), np.float32)
    samples[:, 0], samples[:, 1], samples[:, 3] = noise, -noise, 3 * noise[::-1]
    heard = mixed(samples, weights=speaker_weights(SURROUND))
    assert level(heard) == pytest.approx(level(noise), rel=0.05)  # and nothing of the bass


@pytest.mark.parametrize(
    "right",
    [
        make.pink_noise(2.0), 0.5 * make.pink_noise(2.0), make.pink_noise(2.0, seed=1),
        make.silence(2.0), -0.1 * make.pink_noise(2.0), np.roll(make.pink_noise(2.0), 40),
    ],
)  # fmt: skip
def test_all_other_channels_are_mixed_as_ever(right: Samples) -> None:
    samples = np.stack([make.pink_noise(2.0), right], 1)
    assert np.allclose(mixed(samples), samples.mean(axis=1), atol=1e-6)


@pytest.mark.parametrize("size", [480, 10_000_000])
def test_changing_phase_makes_no_clicks_and_no_gaps(size: int) -> None:
    tone = make.tone(8.0, 48000, hertz=200.3)
    turns = np.cos(np.arange(len(tone)) * np.pi / 48000)  # every second, within 0.03 s
    sign = np.clip(20 * turns, -1, 1).astype(np.float32)
    heard = mixed(np.stack([tone, 0.8 * sign * tone], 1), size)
    steepest = np.abs(np.diff(tone)).max()
    assert np.abs(np.diff(heard)).max() < 2 * steepest
    blocks = heard[: len(heard) // 4800 * 4800].reshape(-1, 4800)  # 0.1 s
    assert min(level(block) for block in blocks) > 0.7 * level(tone)


@pytest.mark.parametrize("size", [480, 10_000_000])
def test_first_word_is_not_faded_in(size: int) -> None:
    tone = make.tone(0.5, 48000)
    stereo = np.concatenate([np.zeros((1024, 2), np.float32), np.stack([tone, -tone], 1)])
    assert np.allclose(mixed(stereo, size)[1024:], tone, atol=1e-6)


def test_centre_is_louder_than_the_sides_and_bass_is_left_out() -> None:
    samples = np.zeros((1600, 6), np.float32)
    samples[:, 3] = 1.0
    assert not mixed(samples, weights=speaker_weights(SURROUND)).any()
    each = np.eye(6, dtype=np.float32)
    gains = [level(mixed(each[[k] * 1600], weights=speaker_weights(SURROUND))) for k in range(6)]
    assert gains[2] == max(gains)
    assert sum(gains) == pytest.approx(1.0)
    assert speaker_weights(["LFE"]) == [1.0]
    assert len(set(speaker_weights(["NONE"] * 5))) == 1


@settings(max_examples=50, deadline=None)
@given(cuts=some.lists(some.integers(0, 3000), max_size=10), channels=some.integers(1, 9))
def test_how_a_mix_is_cut_loses_nothing(cuts: list[int], channels: int) -> None:
    samples = np.random.default_rng(0).uniform(-1, 1, (3000, channels)).astype(np.float32)
    bounds = [0, *sorted(cuts), 3000]
    mixer = Mixer([1.0] * channels)
    heard = [mixer.mix(samples[a:b]) for a, b in itertools.pairwise(bounds)]
    assert sum(map(len, heard)) == 3000
    assert np.abs(np.concatenate(heard)).max() <= 1


@pytest.mark.parametrize("kind", ["u1", "i1", "i2", "i4", "i8", "f4", "f8"])
def test_numbers_at_their_own_full_scale(kind: str) -> None:
    samples = make.tone(0.1, level=0.5)
    scale = {"f": 1.0}.get(kind[0], 2.0 ** (8 * int(kind[1]) - 1))
    packed = (samples.astype(np.float64) * scale + (scale if kind == "u1" else 0)).astype(kind)
    assert np.abs(to_float(packed) - samples).max() < 0.01


def test_rates_that_change_lose_nothing() -> None:
    heard: list[Samples] = []
    resampler = Resampler()
    for rate in (48000, 8000, 16000, 44100, 44100):
        heard += resampler.convert(make.tone(1.0, rate), rate)
    heard += [*resampler.drain(), *resampler.drain()]
    samples = np.concatenate(heard)
    assert len(samples) == pytest.approx(5 * 16000, abs=100)
    for second in range(5):
        part = samples[second * 16000 + 2000 :][:12000]
        assert level(part) == pytest.approx(0.3 / 2**0.5, rel=0.02)
