"""Audio for tests: made sounds, frames, and files of every sort.

Samples are float32 between -1 and 1, of shape (samples,) or (samples, channels).
"""

from __future__ import annotations

import os
import struct
import wave
from pathlib import Path

import av
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
