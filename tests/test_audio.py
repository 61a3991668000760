"""Frames of every sort become mono samples at 16 kHz, and windows lose nothing of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from livekit import rtc
from livekit.plugins.whisper import audio
from livekit.plugins.whisper.errors import AudioError
from numpy.typing import NDArray

from tests.support import audio as make
from tests.support.audio import A_TONE, assert_is_the_tone

# Frames


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [8000, 16000, 24000, 44100, 48000])
def test_frames_of_any_rate_become_16_khz_mono(rate: int, channels: int) -> None:
    tone = make.tone(2.0, rate, hertz=440.0, level=0.3)
    samples = tone if channels == 1 else make.with_channels(tone, channels)
    heard = audio.from_frames(make.frames(samples, rate))
    assert len(heard.samples) == pytest.approx(32000, abs=2)
    assert_is_the_tone(heard)


def test_channels_are_mixed_not_picked() -> None:
    left = np.stack([A_TONE, np.zeros_like(A_TONE)], axis=1)
    for frames in (make.frames(left), make.frames(left[:, ::-1])):
        heard = audio.from_frames(frames)
        assert np.abs(heard.samples).max() == pytest.approx(0.15, abs=0.01)


def test_frames_of_different_rates_are_refused() -> None:
    frames = [*make.frames(make.tone(0.1, 48000), 48000), *make.frames(make.tone(0.1))]
    with pytest.raises(AudioError, match="16000, 48000 Hz"):
        audio.from_frames(frames)


def test_no_frames_and_empty_frames_are_no_audio() -> None:
    empty = rtc.AudioFrame(b"", 48000, 1, 0)  # a flush brings one
    assert audio.from_frames([]).duration == 0
    assert audio.from_frames([empty, empty]).duration == 0
    assert audio.from_frames(empty).duration == 0
    full = make.frames(make.tone(0.5, 48000), 48000)
    heard = audio.from_frames([empty, *full, empty])
    assert np.array_equal(heard.samples, audio.from_frames(full).samples)


@settings(max_examples=60, deadline=None)
@given(
    rate=some.sampled_from([8000, 16000, 24000, 44100, 48000]),
    channels=some.sampled_from([1, 2]),
    count=some.integers(1, 20_000),
    cuts=some.lists(some.integers(0, 20_000), max_size=30),
    seed=some.integers(0, 1000),
)
def test_how_samples_are_cut_into_frames_changes_nothing(
    rate: int, channels: int, count: int, cuts: list[int], seed: int
) -> None:
    samples = np.random.default_rng(seed).integers(-32768, 32767, (count, channels), np.int16)

    def frame(part: NDArray[np.int16]) -> rtc.AudioFrame:
        return rtc.AudioFrame(part.tobytes(), rate, channels, len(part))

    bounds = [0, *sorted(min(cut, count) for cut in cuts), count]
    parts = [samples[a:b] for a, b in itertools.pairwise(bounds)]
    whole = audio.from_frames(frame(samples))
    assert np.array_equal(audio.from_frames(map(frame, parts)).samples, whole.samples)
    assert len(whole.samples) == pytest.approx(count * 16000 / rate, abs=40)  # 2.5 ms at most


# Windows


@settings(max_examples=25, deadline=None)
@given(
    count=some.integers(0, 100 * 16000),
    blocks=some.lists(some.integers(1, 500_000), min_size=1, max_size=5),
    quiet=some.lists(some.floats(0, 100), max_size=5),
)
def test_windows_lose_nothing_whatever_the_blocks(
    count: int, blocks: list[int], quiet: list[float]
) -> None:
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, count).astype(np.float32)
    for second in quiet:
        samples[int(second * 16000) : int((second + 0.4) * 16000)] = 0.0

    def cut() -> Iterator[audio.Samples]:
        position = turn = 0
        while position < count:
            yield samples[position : (position := position + blocks[turn % len(blocks)])]
            turn += 1

    windows = list(audio.windows(cut()))
    joined = [window.samples for _, window in windows]
    assert np.array_equal(np.concatenate([*joined, samples[:0]]), samples)
    ends = np.cumsum([0.0, *(len(part) / 16000 for part in joined)])
    assert [start for start, _ in windows] == pytest.approx(list(ends[:-1]))
    assert all(0 < window.duration <= 30 for _, window in windows)
    assert all(window.duration >= 22 for _, window in windows[:-1])
    assert [s for s, _ in audio.windows([samples])] == [start for start, _ in windows]


@pytest.mark.parametrize("pause", [22.3, 25.0, 29.5])
def test_window_ends_in_the_pause(pause: float) -> None:
    samples = make.white_noise(45.0)
    samples[int(pause * 16000) : int((pause + 0.3) * 16000)] *= 0.01
    (_, first), (second, _) = audio.windows([samples])
    assert pause <= first.duration <= pause + 0.3
    assert second == first.duration


def test_window_without_a_pause_is_as_long_as_it_can_be() -> None:
    starts = [start for start, _ in audio.windows([make.silence(100.0)])]
    assert starts == pytest.approx([0, 29.95, 59.9, 89.85])
