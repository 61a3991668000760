"""`Audio`, the sound that engines take: from a file, frames, or PCM; and where to cut it."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .containers import Source
from .errors import AudioError
from .media import blocks as blocks
from .media import probe as probe
from .pcm import RATES, Mixer, Resampler, to_float
from .pcm import SAMPLE_RATE as SAMPLE_RATE
from .pcm import Samples as Samples

WINDOW_SECONDS = 30.0
"""The longest audio that Whisper decodes at once, in seconds (Radford et al. 2022, section 2.2)."""
PEAK = 2.0
"""What a sample may be at most: resampling and mixing go beyond full scale, but not by 6 dB."""

MOST_CHANNELS = 8
"""Channels beyond which samples of more channels than moments are taken for transposed."""
_PCM_TYPES = {
    "u1": "uint8", "i1": "int8", "i2": "int16", "i4": "int32",
    "f2": "float16", "f4": "float32", "f8": "float64",
}  # fmt: skip

CUT_SEARCH_SECONDS = 8.0
"""How far back from the end of a full window a quiet place to cut is looked for."""
CUT_FRAME = SAMPLE_RATE // 10
"""Samples over which loudness is measured when looking for a place to cut (0.1 s)."""


class Frame(Protocol):
    """What is used of a `livekit.rtc.AudioFrame`: interleaved signed 16-bit samples."""

    @property
    def data(self) -> memoryview: ...
    @property
    def sample_rate(self) -> int: ...
    @property
    def num_channels(self) -> int: ...


@dataclass(frozen=True, eq=False)
class Audio:
    """Sound, as the engines take it.

    Raises:
        AudioError: the samples are something else; `from_pcm` converts them.
    """

    samples: NDArray[np.float32]
    """One-dimensional, mono, 16 kHz, between -1.0 and 1.0. Other floats become float32."""

    def __post_init__(self) -> None:
        samples: Any = self.samples
        if not isinstance(samples, np.ndarray):
            raise AudioError(
                f"Audio takes a NumPy array of samples, not {_kind(samples)}; for files, bytes, "
                "frames and PCM there are Audio.from_file, from_bytes, from_frame and from_pcm"
            )
        if samples.dtype.kind != "f" or samples.ndim != 1:
            raise AudioError(
                f"Audio takes floats of shape (samples,), not {samples.dtype} of shape "
                f"{samples.shape}; Audio.from_pcm(samples, sample_rate) converts them"
            )
        if samples.dtype != np.float32:
            object.__setattr__(self, "samples", samples.astype(np.float32))
        _check_scale(self.samples)

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return len(self.samples) / SAMPLE_RATE

    @classmethod
    def from_file(cls, source: Source) -> Audio:
        """Decodes a whole file in any container that FFmpeg reads; see `blocks`.

        Args:
            source: a file's name, or a file that is open for reading bytes.

        Raises:
            AudioError: it cannot be read, has no audio in it, or is damaged or truncated.
        """
        return cls(_join(blocks(source)))

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> Audio:
        """Decodes what a file in any container holds; samples without one are for `from_pcm`.

        Raises:
            AudioError: it is not audio, or is damaged or truncated.
        """
        return cls.from_file(io.BytesIO(data))

    @classmethod
    def from_frame(cls, frames: Frame | Iterable[Frame]) -> Audio:
        """Joins frames (`livekit.rtc.AudioFrame`) of one sample rate, and mixes them to mono.

        Raises:
            AudioError: the frames differ in sample rate.
        """
        given = list(frames) if isinstance(frames, Iterable) else [frames]
        parts = [frame for frame in given if len(frame.data)]  # a flush brings empty ones
        rates = sorted({frame.sample_rate for frame in parts})
        if not parts:
            return cls(np.zeros(0, np.float32))
        if len(rates) > 1:
            raise AudioError(
                f"frames of different sample rates ({', '.join(map(str, rates))} Hz) "
                "in one utterance; resample them to one rate first"
            )
        mono = [
            _mono(np.concatenate([np.frombuffer(frame.data, np.int16) for frame in alike]), count)
            for count, alike in groupby(parts, key=lambda frame: frame.num_channels)
        ]
        return cls._resampled(np.concatenate(mono), rates[0])

    @classmethod
    def from_pcm(cls, samples: NDArray[Any], sample_rate: int, *, channels: int = 1) -> Audio:
        """Mixes samples down to mono and resamples them to 16 kHz.

        Args:
            samples: of shape (samples,) or (samples, channels); integers of 8 to 32 bits
                at their own full scale, or floats between -1 and 1.
            sample_rate: in Hz.
            channels: how many channels are interleaved in samples of shape (samples,).

        Raises:
            AudioError: another shape, type, scale or rate.
        """
        if not isinstance(samples, np.ndarray) or samples.dtype.str[1:] not in _PCM_TYPES:
            raise AudioError(
                f"samples: {_kind(samples)}; give a NumPy array of {', '.join(_PCM_TYPES.values())}"
            )
        if samples.dtype.kind == "f":
            _check_scale(samples)
        return cls._resampled(_mono(samples, channels), sample_rate)

    @classmethod
    def _resampled(cls, mono: Samples, rate: int) -> Audio:
        if not isinstance(rate, (int, np.integer)) or rate not in RATES:
            raise AudioError(
                f"sample_rate: {rate!r}; give whole Hz, from {RATES[0]} to {RATES[-1]}"
            )
        if rate == SAMPLE_RATE:
            return cls(mono)
        resampler = Resampler()
        return cls(_join([*resampler.convert(mono, int(rate)), *resampler.drain()]))


def _mono(samples: NDArray[Any], channels: int) -> Samples:
    """Samples of shape (samples, channels), or interleaved in one dimension, as one channel."""
    if samples.ndim == 1 and channels > 0 and len(samples) % channels == 0:
        samples = samples.reshape(-1, channels)
    elif samples.ndim != 2 or (samples.shape[1] > max(MOST_CHANNELS, len(samples)) > 0):
        raise AudioError(
            f"samples: of shape {samples.shape}; give (samples, channels), or (samples,) with "
            f"channels={channels} interleaved"
        )
    return Mixer([1.0] * samples.shape[1]).mix(to_float(samples))


def _check_scale(samples: NDArray[Any]) -> None:
    if not samples.size:
        return
    with np.errstate(invalid="ignore"):
        peak = float(max(samples.max(), -samples.min()))
    if not np.isfinite(peak):
        raise AudioError("audio with samples that are no numbers (NaN or infinite)")
    if peak > PEAK:
        raise AudioError(
            f"audio with samples of up to {peak:.6g}, where full scale is 1; divide them by their "
            "own full scale (32768 for those of 16 bits)"
        )


def _kind(value: object) -> str:
    return str(value.dtype) if isinstance(value, np.ndarray) else type(value).__name__


def from_frames(frames: Frame | Iterable[Frame]) -> Audio:
    """See `Audio.from_frame`."""
    return Audio.from_frame(frames)


def from_file(source: Source) -> Audio:
    """See `Audio.from_file`."""
    return Audio.from_file(source)


def windows(parts: Iterable[Samples]) -> Iterator[tuple[float, Audio]]:
    """Cuts a stream of samples into windows that Whisper takes at once.

    A window is at most 30 s long and ends at the quietest 0.1 s of its last 8 s, so that no word
    is cut where there is a pause. Nothing is lost and nothing is repeated. Digital silence, which
    gaps are filled with, comes in windows of its own where it lasts (two seconds surely do, less
    than one never does): a window that begins with silence is heard as if somebody spoke from its
    beginning.

    Yields:
        Where the window starts, in seconds, and the window.

    Raises:
        AudioError: `parts` raised it, after what came before it has been yielded.
    """
    limit = int(WINDOW_SECONDS * SAMPLE_RATE)
    held: list[Samples] = []
    size = done = 0
    was_silent = False
    failure: AudioError | None = None
    try:
        for silent, part in _runs(parts):
            if size and silent != was_silent:
                yield done / SAMPLE_RATE, Audio(np.concatenate(held))
                held, size, done = [], 0, done + size
            was_silent = silent
            held.append(part)
            size += len(part)
            while size > limit:
                buffer = np.concatenate(held)
                cut = quietest_cut(buffer[:limit])
                yield done / SAMPLE_RATE, Audio(buffer[:cut])
                held, size, done = [buffer[cut:]], size - cut, done + cut
    except AudioError as exc:
        failure = exc
    if size:
        yield done / SAMPLE_RATE, Audio(np.concatenate(held))
    if failure:
        raise failure


def _runs(parts: Iterable[Samples]) -> Iterator[tuple[bool, Samples]]:
    """The samples, and whether they are of a run of zeros that fills one of its whole seconds."""
    silent = False
    for second in _seconds(parts):
        begins = 0
        # What is left at the end is too short to be a run of its own.
        if silent or (len(second) == SAMPLE_RATE and not second.any()):
            begins = int(np.argmax(second != 0)) if second.any() else len(second)
            yield True, second[:begins]
        silent = begins == len(second)
        if not silent:
            yield False, second[begins:]


def _seconds(parts: Iterable[Samples]) -> Iterator[Samples]:
    """The samples in pieces of one second; what is left at the end, or at an error, comes last."""
    rest: Samples = np.zeros(0, np.float32)
    try:
        for part in parts:
            rest = np.concatenate([rest, part])
            whole = len(rest) // SAMPLE_RATE * SAMPLE_RATE
            for start in range(0, whole, SAMPLE_RATE):
                yield rest[start : start + SAMPLE_RATE]
            rest = rest[whole:]
    except AudioError:
        if len(rest):
            yield rest
        raise
    if len(rest):
        yield rest


def quietest_cut(samples: Samples) -> int:
    """The middle of the quietest 0.1 s near the end of `samples`, as an index into it."""
    tail = samples[-int(CUT_SEARCH_SECONDS * SAMPLE_RATE) :]
    power = _power(tail)
    # Ties go to the last one: with silence throughout, windows stay as long as they can be.
    quietest = len(power) - 1 - int(np.argmin(power[::-1]))
    return len(samples) - len(tail) + quietest * CUT_FRAME + CUT_FRAME // 2


def loudness(samples: Samples) -> float:
    """Root mean square of the loudest 0.1 s; 0 where there is less."""
    power = _power(samples)
    return float(np.sqrt(power.max())) if len(power) else 0.0


def _power(samples: Samples) -> Samples:
    """Mean square of each 0.1 s."""
    frames = samples[: len(samples) // CUT_FRAME * CUT_FRAME].reshape(-1, CUT_FRAME)
    power: Samples = np.square(frames).mean(axis=1, dtype=np.float32)
    return power


def _join(parts: Iterable[Samples]) -> Samples:
    arrays = list(parts)
    return np.concatenate(arrays) if arrays else np.zeros(0, np.float32)
