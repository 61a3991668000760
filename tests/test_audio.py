"""Frames and files of every sort become the same thing: mono samples at 16 kHz, nothing lost."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from livekit import rtc
from livekit.plugins.whisper import audio
from livekit.plugins.whisper.errors import AudioError
from livekit.plugins.whisper.types import Audio

from tests.support import audio as make

SUFFIXES = [".wav", ".flac", ".mp3", ".ogg", ".webm", ".m4a"]
MEBIBYTE = 1 << 20
A_TONE = make.tone(2.0, hertz=440.0, level=0.3)


def assert_is_the_tone(heard: Audio, seconds: float = 2.0) -> None:
    """440 Hz at a level of 0.3, whatever it came through."""
    assert heard.samples.dtype == np.float32
    assert heard.duration == pytest.approx(seconds, abs=0.05)  # AAC rounds up to whole packets
    middle = heard.samples[4000 : 4000 + 16000]
    assert int(np.abs(np.fft.rfft(middle)).argmax()) == 440
    assert np.sqrt(2 * np.mean(middle**2)) == pytest.approx(0.3, rel=0.05)


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

    def frame(part: np.ndarray[tuple[int, int], np.dtype[np.int16]]) -> rtc.AudioFrame:
        return rtc.AudioFrame(part.tobytes(), rate, channels, len(part))

    bounds = [0, *sorted(min(cut, count) for cut in cuts), count]
    parts = [samples[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]
    whole = audio.from_frames(frame(samples))
    assert np.array_equal(audio.from_frames(map(frame, parts)).samples, whole.samples)
    assert len(whole.samples) == pytest.approx(count * 16000 / rate, abs=2)


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


# Files


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_file_of_any_format(tmp_path: Path, suffix: str) -> None:
    path = make.write(tmp_path / f"tone{suffix}", A_TONE)
    assert_is_the_tone(audio.from_file(path))
    assert_is_the_tone(audio.from_file(str(path)))
    with path.open("rb") as file:
        assert_is_the_tone(audio.from_file(file))
    assert_is_the_tone(audio.from_file(io.BytesIO(path.read_bytes())))
    assert audio.probe(path) == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize("channels", [1, 2, 3, 6, 8])
@pytest.mark.parametrize("rate", [8000, 48000, 96000])
def test_file_of_any_rate_and_number_of_channels(tmp_path: Path, rate: int, channels: int) -> None:
    samples = make.with_channels(make.tone(2.0, rate, hertz=440.0, level=0.3), channels)
    assert_is_the_tone(audio.from_file(make.write(tmp_path / "tone.wav", samples, rate)))


def test_blocks_are_the_file(tmp_path: Path) -> None:
    path = make.write(tmp_path / "tone.flac", A_TONE)
    blocks = list(audio.blocks(path))
    assert len(blocks) > 5
    assert np.array_equal(np.concatenate(blocks), audio.from_file(path).samples)


def test_name_with_a_colon_is_no_address(tmp_path: Path) -> None:
    make.write(tmp_path / "12:30.wav", A_TONE)
    assert_is_the_tone(audio.from_file("12:30.wav"))


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "aac"), (".mkv", "libopus")])
def test_picture_that_is_longer_than_the_sound(tmp_path: Path, suffix: str, codec: str) -> None:
    path = tmp_path / f"film{suffix}"
    film(path, codec, seconds=6)
    assert_is_the_tone(audio.from_file(path))


def test_picture_without_sound(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    film(path, None, seconds=1)
    with pytest.raises(AudioError, match=r"film\.mp4: has no audio track"):
        audio.from_file(path)


def film(path: Path, codec: str | None, seconds: int) -> None:
    """A black picture, and A_TONE where there is a codec for it."""
    with av.open(str(path), "w") as container:
        picture = container.add_stream("mpeg4", rate=10)
        assert isinstance(picture, av.VideoStream)
        picture.width = picture.height = 64
        picture.pix_fmt = "yuv420p"
        packets = []
        if codec:
            sound = container.add_stream(codec, rate=48000, layout="mono")
            assert isinstance(sound, av.AudioStream)
            samples = make.to_int16(make.resample(A_TONE, 16000, 48000)).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate, frame.pts = 48000, 0
            for ready in av.AudioResampler(sound.format, "mono", 48000).resample(frame):
                packets += sound.encode(ready)
            packets += sound.encode(None)
        for number in range(seconds * 10):
            black = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            black.pts = number
            packets += picture.encode(black)
        for packet in [*packets, *picture.encode(None)]:
            container.mux(packet)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("as_object", [False, True])
def test_truncated_file_is_told(tmp_path: Path, suffix: str, as_object: bool) -> None:
    samples = make.tone(6.0) + make.white_noise(6.0)
    path = make.truncate(make.write(tmp_path / f"cut{suffix}", samples))
    source = io.BytesIO(path.read_bytes()) if as_object else path
    if suffix == ".ogg":  # Ogg is made for streams: it states no length, so what is there is it
        assert 1 < audio.from_file(source).duration < 5
        return
    name = "audio data" if as_object else f"cut{suffix}"
    with pytest.raises(AudioError, match=f"{name}: .*(truncated|damaged)"):
        audio.from_file(source)


def test_what_comes_before_the_cut_is_handed_out(tmp_path: Path) -> None:
    path = make.truncate(make.write(tmp_path / "cut.wav", make.tone(6.0)))
    blocks, count = audio.blocks(path), 0
    with pytest.raises(AudioError, match=r"ends after 3\.0 s of the 6\.0 s that it states"):
        for block in blocks:
            count += len(block)
    assert count == pytest.approx(3 * 16000, abs=100)


@pytest.mark.parametrize("size", [0, 0x7FFFF024, 0x80000000, 0xFFFFFFFF])
def test_wav_that_was_written_to_a_pipe_is_whole(tmp_path: Path, size: int) -> None:
    data = bytearray(make.write(tmp_path / "tone.wav", A_TONE).read_bytes())
    struct.pack_into("<I", data, 4, size)  # what ffmpeg, sox and arecord put there
    struct.pack_into("<I", data, 40, max(size - 36, 0) or 0xFFFFFFFF)
    (tmp_path / "tone.wav").write_bytes(data)
    assert_is_the_tone(audio.from_file(tmp_path / "tone.wav"))


def test_mp3_that_states_no_length_is_whole(tmp_path: Path) -> None:
    """FFmpeg goes by the first bit rate there, and takes 7 s for 35 s."""
    parts = []
    for bit_rate, seconds in ((32_000, 2.0), (256_000, 5.0)):
        with av.open(str(tmp_path / "a.mp3"), "w", options={"write_xing": "0"}) as container:
            stream = container.add_stream("libmp3lame", rate=44100, layout="mono")
            assert isinstance(stream, av.AudioStream)
            stream.bit_rate = bit_rate
            samples = make.to_int16(make.tone(seconds, 44100)).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate, frame.pts = 44100, 0
            for ready in av.AudioResampler(stream.format, "mono", 44100).resample(frame):
                container.mux(stream.encode(ready))
            container.mux(stream.encode(None))
        parts.append((tmp_path / "a.mp3").read_bytes())
    (tmp_path / "joined.mp3").write_bytes(b"".join(parts))
    assert (audio.probe(tmp_path / "joined.mp3") or 0) > 20  # the guess that is not believed
    assert audio.from_file(tmp_path / "joined.mp3").duration == pytest.approx(7.0, abs=0.2)


# What is no audio


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_text_is_not_audio_whatever_its_name(tmp_path: Path, suffix: str) -> None:
    path = make.write_text(tmp_path / f"letter{suffix}")
    with pytest.raises(AudioError, match=rf"letter\{suffix}: is not audio .* convert it to WAV"):
        audio.from_file(path)


def test_what_cannot_be_audio_says_why(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    make.write(tmp_path / "header.wav", make.silence(0))
    os.mkfifo(tmp_path / "pipe.wav")
    expected = {
        "empty.wav": r"is empty \(0 bytes\)",
        "header.wav": "no sound in it; is it complete",
        "missing.wav": "no such file",
        "empty.wav/inner.wav": "no such file",
        "": "is a folder; name the files in it",
        "pipe.wav": "is not an ordinary file",  # reading it would wait for a writer
    }
    for name, message in expected.items():
        for read in (audio.from_file, audio.probe):
            if (name, read) != ("header.wav", audio.probe):
                with pytest.raises(AudioError, match=message) as caught:
                    read(tmp_path / name)
                assert str(tmp_path / name) in str(caught.value)
    with pytest.raises(AudioError, match="audio data: is not audio"):
        audio.from_file(io.BytesIO(b""))


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Not root, who may read everything."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


def test_file_that_may_not_be_read(tmp_path: Path) -> None:
    make.write(tmp_path / "secret.wav", A_TONE).chmod(0)
    (tmp_path / "closed").mkdir(mode=0)
    tmp_path.chmod(0o755)  # the working directory, which names below start from
    with ordinary_user():
        with pytest.raises(AudioError, match=r"secret\.wav: may not be read"):
            audio.from_file("secret.wav")
        with pytest.raises(AudioError, match=r"closed/a\.wav: cannot be read .*denied"):
            audio.from_file("closed/a.wav")


# Hours


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_six_hours_are_read_window_by_window(tmp_path: Path, suffix: str) -> None:
    path = make.write_silence(tmp_path / f"long{suffix}")
    process = psutil.Process()
    resident, seconds = process.memory_info().rss, 0.0
    tracemalloc.start()
    try:
        for start, window in audio.windows(audio.blocks(path)):
            assert start == pytest.approx(seconds)
            seconds += window.duration
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert seconds == pytest.approx(make.SIX_HOURS, abs=0.1)
    assert peak < 20 * MEBIBYTE  # all of it would be 1.3 GiB
    assert process.memory_info().rss - resident < 50 * MEBIBYTE
