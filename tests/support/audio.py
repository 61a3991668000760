"""Audio for tests: made sounds, frames, and files of every sort.

Samples are float32 between -1 and 1, of shape (samples,) or (samples, channels).
"""

from __future__ import annotations

import math
import os
import struct
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import av.container
import numpy as np
import pytest
from livekit import rtc
from livekit.plugins.whisper.types import Audio
from numpy.typing import NDArray

Samples = NDArray[np.float32]

RATE = 16000
"""Of the recordings in `tests/data`, and of what is made unless told otherwise (Hz)."""
SIX_HOURS = 6 * 3600.0
"""Seconds."""

_CODECS = {
    ".flac": "flac",
    ".mp3": "libmp3lame",
    ".ogg": "libopus",
    ".webm": "libopus",
    ".m4a": "aac",
}
_OPUS_RATE = 48000
_CHUNK = 1 << 16
"""Samples in a frame given to an encoder."""


def read_wav(path: Path) -> Samples:
    """The samples of a 16-bit WAV file."""
    with wave.open(str(path)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16) / 32768
        channels = file.getnchannels()
    mono: Samples = samples.astype(np.float32)
    return mono if channels == 1 else mono.reshape(-1, channels)


def silence(seconds: float, rate: int = RATE) -> Samples:
    return np.zeros(round(seconds * rate), np.float32)


def tone(seconds: float, rate: int = RATE, hertz: float = 440.0, level: float = 0.3) -> Samples:
    """A sine wave; `level` is its peak."""
    time = np.arange(round(seconds * rate)) / rate
    return (level * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


A_TONE = tone(2.0, hertz=440.0, level=0.3)


def assert_is_the_tone(heard: Audio, seconds: float = 2.0) -> None:
    """440 Hz at a level of 0.3, whatever it came through."""
    assert heard.samples.dtype == np.float32
    assert heard.duration == pytest.approx(seconds, abs=0.05)  # AAC rounds up to whole packets
    middle = heard.samples[4000 : 4000 + 16000]
    assert int(np.abs(np.fft.rfft(middle)).argmax()) == 440
    assert np.sqrt(2 * np.mean(middle**2)) == pytest.approx(0.3, rel=0.05)


def no_numbers() -> Audio:
    """A second that is no sound any more: what `Audio` refuses, put there afterwards."""
    audio = Audio(silence(1.0))
    audio.samples[:] = np.nan
    return audio


def white_noise(seconds: float, rate: int = RATE, level: float = 0.1, seed: int = 0) -> Samples:
    """Equal power at every frequency; `level` is its root mean square."""
    noise = np.random.default_rng(seed).standard_normal(round(seconds * rate))
    return (level * noise).astype(np.float32)


def pink_noise(seconds: float, rate: int = RATE, level: float = 0.1, seed: int = 0) -> Samples:
    """Power falls with frequency, as in a room; `level` is its root mean square."""
    white = white_noise(seconds, rate, 1.0, seed)
    spectrum = np.fft.rfft(white)
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    spectrum[0] = 0
    pink = np.fft.irfft(spectrum, len(white))
    pink *= level / np.sqrt(np.mean(pink**2))
    return pink.astype(np.float32)


def resample(samples: Samples, rate: int, to: int) -> Samples:
    """Another sample rate, by the Fourier transform: exact but for the two ends."""
    count = round(len(samples) * to / rate)
    spectrum = np.fft.rfft(samples, axis=0)[: count // 2 + 1]
    return (np.fft.irfft(spectrum, count, axis=0) * (to / rate)).astype(np.float32)


def with_channels(samples: Samples, count: int) -> Samples:
    """The same mono samples on each of `count` channels."""
    return np.repeat(samples[:, np.newaxis], count, axis=1)


def to_int16(samples: Samples) -> NDArray[np.int16]:
    """16-bit samples, interleaved where there are several channels; what is too loud is clipped."""
    return np.clip(np.round(samples * 32768), -32768, 32767).astype(np.int16).reshape(-1)


def frames(samples: Samples, rate: int = RATE, milliseconds: float = 10.0) -> list[rtc.AudioFrame]:
    """Split the way a room hands audio over; the last frame may be shorter."""
    size, channels = round(rate * milliseconds / 1000), _channels(samples)
    pieces = (samples[i : i + size] for i in range(0, len(samples), size))
    return [rtc.AudioFrame(to_int16(p).tobytes(), rate, channels, len(p)) for p in pieces]


def write(path: Path, samples: Samples, rate: int = RATE) -> Path:
    """Writes a .wav, .flac, .mp3, .ogg (Opus), .webm (Opus) or .m4a (AAC) file.

    WAV takes any number of channels and rate; MP3 up to 2 channels and 48 kHz, the others 1, 2, 6
    or 8 channels. Opus is always at 48 kHz.
    """
    if path.suffix != ".wav":
        return _encode(path, samples, rate, repeat=1)
    with wave.open(str(path), "wb") as file:
        file.setparams((_channels(samples), 2, rate, 0, "NONE", ""))
        file.writeframes(to_int16(samples).tobytes())
    return path


@dataclass(frozen=True)
class Sound:
    """A track of a file that `write_tracks` writes."""

    codec: str
    samples: Samples
    rate: int = 48000
    start: float = 0.0
    """Where it begins (s)."""
    gap_at: float = math.inf
    """Where it is interrupted (s of its samples)."""
    gap: float = 0.0
    """How long for (s)."""
    default: bool = False
    """Whether players take it, if it is not the first."""


def write_tracks(
    path: Path, *sounds: Sound, seconds_of_picture: float = 0, options: dict[str, str] | None = None
) -> Path:
    """Writes tracks with their own times, and a black picture where there is to be one."""
    with av.open(str(path), "w", options=options or {}) as container:
        packets: list[av.Packet[Any]] = []
        for sound in sounds:
            layout = {1: "mono", 2: "stereo", 6: "5.1"}[_channels(sound.samples)]
            stream = container.add_stream(sound.codec, rate=sound.rate, layout=layout)
            assert isinstance(stream, av.AudioStream)
            setattr(stream, "disposition", int(sound.default))  # noqa: B010 (an int for PyAV 14)
            packets += [_timed(packet, sound) for packet in encoded(stream, sound)]
        packets += black_picture(container, seconds_of_picture)
        for packet in sorted(packets, key=_time):
            container.mux(packet)
    return path


def _time(packet: av.Packet[Any]) -> float:
    assert packet.dts is not None
    return float(packet.dts * packet.time_base)


def _timed(packet: av.Packet[Any], sound: Sound) -> av.Packet[Any]:
    assert packet.pts is not None and packet.dts is not None
    time = float(packet.pts * packet.time_base)
    late = sound.start + (sound.gap if time >= sound.gap_at else 0.0)
    packet.pts += round(late / packet.time_base)
    packet.dts += round(late / packet.time_base)
    return packet


def encoded(stream: av.AudioStream, sound: Sound) -> Iterator[av.Packet[Any]]:
    """The packets of a track, from time 0 on."""
    if not len(sound.samples):
        return
    layout = stream.layout.name
    resampler = av.AudioResampler(stream.format, layout, sound.rate)
    for start in range(0, len(sound.samples), 2000):
        piece = to_int16(sound.samples[start : start + 2000])
        frame = av.AudioFrame.from_ndarray(piece[np.newaxis], "s16", layout)
        frame.sample_rate, frame.pts = sound.rate, start
        for ready in resampler.resample(frame):
            yield from stream.encode(ready)
    yield from stream.encode(None)


def black_picture(
    container: av.container.OutputContainer, seconds: float
) -> Iterator[av.Packet[Any]]:
    """The packets of a picture, 10 times a second."""
    if not seconds:
        return
    picture = container.add_stream("mpeg4", rate=10)
    assert isinstance(picture, av.VideoStream)
    picture.width = picture.height = 64
    picture.pix_fmt = "yuv420p"
    for number in range(round(seconds * 10)):
        black = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
        black.pts = number
        yield from picture.encode(black)
    yield from picture.encode(None)


def bursts(*starts: float, seconds: float, rate: int = 48000, hertz: float = 440.0) -> Samples:
    """Silence with 0.3 s of a tone at each of `starts`."""
    samples, burst = silence(seconds, rate), tone(0.3, rate, hertz)
    for start in starts:
        at = round(start * rate)
        samples[at : at + len(burst)] = burst
    return samples


def heard_at(samples: Samples, rate: int = RATE) -> list[float]:
    """Where something begins to sound after silence, in seconds, to 5 ms."""
    size = rate // 200
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    loud = np.abs(frames).max(axis=1) > 0.05
    filled = [bool(loud[max(0, i - 10) : i + 1].any()) for i in range(len(loud))]
    return [i / 200 for i in range(len(loud)) if filled[i] and not (i and filled[i - 1])]


def damage(path: Path, keep: float, size: int, seed: int = 0) -> Path:
    """Writes random bytes over some of a file, from that share of it on."""
    data = bytearray(path.read_bytes())
    at = int(len(data) * keep)
    data[at : at + size] = np.random.default_rng(seed).bytes(size)
    path.write_bytes(data)
    return path


def write_silence(path: Path, seconds: float = SIX_HOURS, rate: int = 8000) -> Path:
    """Hours of silence in no time: a sparse .wav, which takes no room on disk, or a small .flac."""
    if path.suffix != ".wav":
        return _encode(path, silence(60, rate), rate, repeat=round(seconds / 60))
    size = 2 * round(seconds * rate)
    header = struct.pack("<4sI8sIHHIIHH4sI", b"RIFF", 36 + size, b"WAVEfmt ", 16, 1, 1, rate,
                         2 * rate, 2, 16, b"data", size)  # fmt: skip
    path.write_bytes(header)
    os.truncate(path, len(header) + size)
    return path


def truncate(path: Path, keep: float = 0.5) -> Path:
    """Cuts off the end of a file."""
    os.truncate(path, int(path.stat().st_size * keep))
    return path


def write_text(path: Path) -> Path:
    """Writes a file that is not audio, whatever its name says."""
    path.write_text("This is not audio.\n" * 200)
    return path


def _channels(samples: Samples) -> int:
    return 1 if samples.ndim == 1 else samples.shape[1]


def _encode(path: Path, samples: Samples, rate: int, repeat: int) -> Path:
    codec = _CODECS[path.suffix]
    if codec == "libopus":
        samples, rate = resample(samples, rate, _OPUS_RATE), _OPUS_RATE
    layout = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}[_channels(samples)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        assert isinstance(stream, av.AudioStream)
        resampler = av.AudioResampler(stream.format, layout, rate)
        position = 0
        for _ in range(repeat):
            for start in range(0, len(samples), _CHUNK):
                piece = samples[start : start + _CHUNK]
                packed = to_int16(piece).reshape(1, -1)
                frame = av.AudioFrame.from_ndarray(packed, format="s16", layout=layout)
                frame.sample_rate, frame.pts = rate, position
                position += len(piece)
                for ready in resampler.resample(frame):
                    container.mux(stream.encode(ready))
        container.mux(stream.encode(None))
    return path
