"""`Audio` is what it says, whatever it is made of, and windows lose nothing of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from livekit import rtc
from livekit.plugins.whisper import audio
from livekit.plugins.whisper.errors import AudioError
from livekit.plugins.whisper.types import Audio
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


def test_opposite_channels_of_frames_are_heard() -> None:
    opposite = np.stack([A_TONE, -A_TONE], axis=1)
    assert_is_the_tone(Audio.from_frame(make.frames(opposite)))
    assert_is_the_tone(Audio.from_frame(make.frames(make.resample(opposite, 16000, 48000), 48000)))


def test_frames_of_different_numbers_of_channels_are_joined() -> None:
    half = len(A_TONE) // 2
    frames = [*make.frames(A_TONE[:half]), *make.frames(make.with_channels(A_TONE[half:], 2))]
    assert_is_the_tone(Audio.from_frame(frames))


# Audio


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (
            make.to_int16(A_TONE),
            r"not int16 of shape \(32000,\); Audio\.from_pcm\(samples,",
        ),
        (make.with_channels(A_TONE, 2), r"float32 of shape \(32000, 2\); Audio\.from_pcm"),
        (A_TONE.reshape(1, -1), r"float32 of shape \(1, 32000\)"),
        (np.float32(0.5), "not float32"),
        (np.array(0.5, np.float32), r"of shape \(\)"),
        (A_TONE.astype(complex), "not complex128"),
        (A_TONE > 0, "not bool"),
        (A_TONE * 32768, "samples of up to 9830.4?, where full scale is 1; divide them"),
        (np.array([0.0, -3.0], np.float32), "up to 3, where full scale is 1"),
        (np.array([0.0, np.nan], np.float32), "no numbers"),
        (np.array([0.0, -np.inf], np.float32), "no numbers"),
        (list(A_TONE[:9]), "not list; for files, bytes, frames and PCM there are Audio.from_file"),
        ("a.wav", "not str; for files"),
        (b"RIFF", "not bytes; for files"),
        (None, "not NoneType"),
        (make.frames(A_TONE)[0], "not AudioFrame"),
    ],
)
def test_audio_checks_what_it_is_given(samples: Any, message: str) -> None:
    with pytest.raises(AudioError, match=message) as caught:
        Audio(samples)
    assert not caught.value.retryable


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", ">f4"])
def test_audio_takes_floats_of_every_size(kind: str) -> None:
    heard = Audio(A_TONE.astype(kind))
    assert heard.samples.dtype == np.float32
    assert heard.samples.dtype.isnative
    assert np.abs(heard.samples - A_TONE).max() < 1e-3
    assert Audio(A_TONE).samples is A_TONE  # no copy
    assert Audio(A_TONE[::2]).duration == 1.0
    assert Audio((1.2 * A_TONE / 0.3).astype(np.float32)).duration == 2.0  # a little over is usual


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000, 192000])
@pytest.mark.parametrize("kind", ["u1", "i2", "i4", "f4", "f8"])
def test_pcm_of_every_kind(rate: int, kind: str) -> None:
    tone = make.tone(2.0, rate).astype(np.float64)
    scale = 1.0 if kind[0] == "f" else 2.0 ** (8 * int(kind[1]) - 1)
    packed = (tone * scale + (scale if kind == "u1" else 0)).astype(kind)
    both = np.stack([packed, packed], axis=1)
    assert_is_the_tone(Audio.from_pcm(packed, rate))
    assert_is_the_tone(Audio.from_pcm(both, rate))
    assert_is_the_tone(Audio.from_pcm(both.reshape(-1), rate, channels=2))
    assert_is_the_tone(Audio.from_pcm(np.asfortranarray(both), rate))


@pytest.mark.parametrize(
    ("samples", "rate", "channels", "message"),
    [
        (make.to_int16(A_TONE), 0, 1, "sample_rate: 0; give whole Hz, from 1000 to 10000000"),
        (make.to_int16(A_TONE), 16000.5, 1, "sample_rate: 16000.5"),
        (make.to_int16(A_TONE), None, 1, "sample_rate: None"),
        (
            make.to_int16(A_TONE).astype(int),
            16000,
            1,
            "samples: int64; give a NumPy array of u",
        ),
        (A_TONE.astype(complex), 16000, 1, "samples: complex128"),
        (b"\0\0", 16000, 1, "samples: bytes; give a NumPy array of uint8, int8, int16"),
        (
            make.with_channels(A_TONE, 2).T,
            16000,
            1,
            r"shape \(2, 32000\); give \(samples, cha",
        ),
        (A_TONE.reshape(2, 4, -1), 16000, 1, r"shape \(2, 4, 4000\)"),
        (A_TONE[:31999], 16000, 2, r"shape \(31999,\).*channels=2"),
        (A_TONE, 16000, 0, "channels=0"),
        (A_TONE * 32768, 16000, 1, "where full scale is 1"),
        (A_TONE * np.float32(np.nan), 48000, 1, "no numbers"),
    ],
)
def test_pcm_that_is_none_is_told(samples: Any, rate: Any, channels: int, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        Audio.from_pcm(samples, rate, channels=channels)


def test_constructors(tmp_path: Path) -> None:
    path = make.write(tmp_path / "tone.flac", A_TONE)
    data = path.read_bytes()
    with path.open("rb") as file:
        for heard in (
            Audio.from_file(path), Audio.from_file(str(path)), Audio.from_file(file),
            Audio.from_bytes(data), Audio.from_bytes(bytearray(data)),
            Audio.from_bytes(memoryview(data)), Audio.from_frame(make.frames(A_TONE)),
            Audio.from_frame(rtc.AudioFrame(make.to_int16(A_TONE).tobytes(), 16000, 1, 32000)),
        ):  # fmt: skip
            assert np.abs(heard.samples - A_TONE).max() < 1e-4
    with pytest.raises(AudioError, match="is not audio that FFmpeg knows"):
        Audio.from_bytes(make.to_int16(A_TONE).tobytes()[:1000])
    with pytest.raises(AudioError, match="no such file"):
        Audio.from_file(tmp_path / "none.wav")


# Windows


def test_silence_at_the_end_that_is_shorter_than_a_second_is_no_window_of_its_own() -> None:
    samples = np.concatenate([make.white_noise(10.0), make.silence(0.5)])
    (window,) = audio.windows([samples])
    assert window[1].duration == 10.5


@settings(max_examples=25, deadline=None)
@given(
    count=some.integers(0, 100 * 16000),
    blocks=some.lists(some.integers(1, 500_000), min_size=1, max_size=5),
    quiet=some.lists(some.floats(0, 100), max_size=3),
)
def test_windows_lose_nothing_whatever_the_blocks(
    count: int, blocks: list[int], quiet: list[float]
) -> None:
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, count).astype(np.float32)
    for second in quiet:
        samples[int(second * 16000) : int((second + 0.3) * 16000)] = 0.0

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


@pytest.mark.parametrize("block", [700, 16000, 1_000_000])
def test_digital_silence_comes_in_windows_of_its_own(block: int) -> None:
    """So that nobody is heard to speak from the beginning of a gap."""
    noise = make.white_noise(3.0)
    gaps = [make.silence(seconds) for seconds in (5.3, 0.7, 45.0, 2.0)]
    samples = np.concatenate([part for gap in gaps for part in (gap, noise)])
    windows = list(audio.windows(samples[at : at + block] for at in range(0, len(samples), block)))
    assert np.array_equal(np.concatenate([window.samples for _, window in windows]), samples)
    starts = [start for start, window in windows if window.samples.any()]
    assert starts == pytest.approx([5.3, 57.0, 62.0], abs=0.001)  # not after 0.7 s
    assert all(window.duration <= 30 for _, window in windows)


def test_an_error_loses_nothing_of_what_came_before() -> None:
    def parts() -> Iterator[audio.Samples]:
        yield A_TONE[:20_000]
        raise AudioError("damaged")

    windows = audio.windows(parts())
    assert len(next(windows)[1].samples) == 20_000
    with pytest.raises(AudioError, match="damaged"):
        next(windows)
