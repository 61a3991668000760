"""Frames, PCM, or a file's bytes in any container → `Audio`, in memory.

Decoding and resampling are FFmpeg's (through PyAV), the same for files and for frames.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import av
import numpy as np
from numpy.typing import NDArray

from .errors import AudioError
from .types import SAMPLE_RATE, WINDOW_SECONDS, Audio

Samples = NDArray[np.float32]

CUT_SEARCH_SECONDS = 8.0
"""How far back from the end of a full window a quiet place to cut is looked for."""
CUT_FRAME = SAMPLE_RATE // 10
"""Samples over which loudness is measured when looking for a place to cut (0.1 s)."""


EXACT_FORMATS = {"wav", "w64", "aiff", "au", "caf", "flac", "mp3", "mp4", "mov", "matroska"}
"""Containers (FFmpeg's names) that can state their length; others only let it be guessed."""
TRUNCATION_SECONDS = 0.5
"""How much less than it states a file may hold; encoders pad by some milliseconds."""


class Frame(Protocol):
    """What is used of a `livekit.rtc.AudioFrame`: interleaved signed 16-bit samples."""

    @property
    def data(self) -> memoryview: ...
    @property
    def sample_rate(self) -> int: ...
    @property
    def num_channels(self) -> int: ...


def from_frames(frames: Frame | Iterable[Frame]) -> Audio:
    """Joins frames of one sample rate, mixes them down to mono and resamples to 16 kHz.

    Raises:
        AudioError: the frames differ in sample rate.
    """
    parts = list(frames) if isinstance(frames, Iterable) else [frames]
    rates = {frame.sample_rate for frame in parts}
    if not parts:
        return Audio(np.zeros(0, np.float32))
    if len(rates) > 1:
        raise AudioError(
            f"frames of different sample rates ({', '.join(map(str, sorted(rates)))} Hz) "
            "in one utterance; resample them to one rate first"
        )
    mono = np.concatenate([_mono(frame) for frame in parts])
    return from_pcm(mono, rates.pop())


def from_pcm(samples: NDArray[np.int16], sample_rate: int) -> Audio:
    """Mono signed 16-bit samples at any rate → `Audio`."""
    if not len(samples) or sample_rate == SAMPLE_RATE:
        return Audio(_scaled(samples))
    resampler = _resampler()
    frame = av.AudioFrame.from_ndarray(samples[np.newaxis, :], format="s16", layout="mono")
    frame.sample_rate = sample_rate
    return Audio(_join([*_convert(resampler, frame), *_convert(resampler, None)]))


def from_file(source: str | PathLike[str] | BinaryIO) -> Audio:
    """Decodes a whole file, or a file object, in any container that FFmpeg reads.

    Raises:
        AudioError: it cannot be read, or has no audio in it.
    """
    return Audio(_join(blocks(source)))


def probe(source: str | PathLike[str]) -> float | None:
    """The duration in seconds that a file's header states, or None where it states none.

    Raises:
        AudioError: it cannot be read, or has no audio in it.
    """
    with _open(source) as (container, stream):
        if stream.duration is not None and stream.time_base is not None:
            return float(stream.duration * stream.time_base)
        return container.duration / av.time_base if container.duration else None


def blocks(source: str | PathLike[str] | BinaryIO) -> Iterator[Samples]:
    """Decodes a file bit by bit: memory stays flat however long it is.

    Yields:
        Mono samples at 16 kHz, some thousands at a time.

    Raises:
        AudioError: it cannot be read, has no audio in it, or ends in the middle.
    """
    name = _name(source)
    with _open(source) as (container, stream):
        resampler = _resampler()
        end = 0.0
        try:
            for frame in container.decode(stream):
                # By its own time where it has one: a track may begin late, or have gaps.
                start = end if frame.time is None else frame.time
                end = start + frame.samples / frame.sample_rate
                yield from _convert(resampler, frame)
            yield from _convert(resampler, None)
        except av.FFmpegError as exc:
            raise AudioError(
                f"{name}: damaged after {end:.1f} s ({exc.strerror}); "
                "convert it again from its source, or cut it before that point"
            ) from exc
        stated = _stated_duration(container, stream, source)
        if stated and end < stated - TRUNCATION_SECONDS:
            raise AudioError(
                f"{name}: is truncated: it ends after {end:.1f} s of the "
                f"{stated:.1f} s that it states; copy it again from its source"
            )
    if not end:
        raise AudioError(f"{name}: has no sound in it; is it complete, and is it audio?")


def windows(parts: Iterable[Samples]) -> Iterator[tuple[float, Audio]]:
    """Cuts a stream of samples into windows that Whisper takes at once.

    A window is at most 30 s long and ends at the quietest 0.1 s of its last 8 s, so that no word
    is cut where there is a pause. Nothing is lost and nothing is repeated.

    Yields:
        Where the window starts, in seconds, and the window.

    Raises:
        AudioError: `parts` raised it, after what came before it has been yielded.
    """
    limit = int(WINDOW_SECONDS * SAMPLE_RATE)
    held: list[Samples] = []
    size = done = 0
    failure: AudioError | None = None
    try:
        for part in parts:
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


def _mono(frame: Frame) -> NDArray[np.int16]:
    data = np.frombuffer(frame.data, dtype=np.int16)
    if frame.num_channels == 1:
        return data
    mixed: NDArray[np.int16] = data.reshape(-1, frame.num_channels).mean(axis=1).astype(np.int16)
    return mixed


def _resampler() -> av.AudioResampler:
    # To 16 bits, as both engines' own loaders do: FFmpeg lets a mix of floats go past full scale.
    return av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)


def _convert(resampler: av.AudioResampler, frame: av.AudioFrame | None) -> list[Samples]:
    return [_scaled(out.to_ndarray()[0]) for out in resampler.resample(frame)]


def _scaled(samples: NDArray[np.int16]) -> Samples:
    scaled: Samples = samples.astype(np.float32) / np.float32(32768)
    return scaled


def _join(parts: Iterable[Samples]) -> Samples:
    arrays = list(parts)
    return np.concatenate(arrays) if arrays else np.zeros(0, np.float32)


def _stated_duration(
    container: av.container.InputContainer,
    stream: av.AudioStream,
    source: str | PathLike[str] | BinaryIO,
) -> float | None:
    """What the header says in seconds, where it is to be believed."""
    formats = set(container.format.name.split(","))
    if not formats & EXACT_FORMATS:
        return None
    if stream.duration and stream.time_base:
        stated = float(stream.duration * stream.time_base)
    elif container.duration and len(container.streams) == 1:  # else it may be the picture's
        stated = container.duration / av.time_base
    else:
        return None
    try:
        with _again(source) as file:
            if "wav" in formats:
                return stated * _wav_excess(file)
            return stated if "mp3" not in formats or _mp3_states(file) else None
    except OSError:  # a stream that cannot go back
        return None


def _wav_excess(file: BinaryIO) -> float:
    """How much larger than the file its RIFF header says that it is (FFmpeg takes the file's)."""
    name, size = struct.unpack("<4sI", file.read(8))
    # What is written to a pipe has 0, or close to 2 or 4 GiB, as its size.
    known = name == b"RIFF" and size and all(abs(size - x) > 1 << 16 for x in (1 << 31, 1 << 32))
    return max(1.0, (size + 8) / file.seek(0, os.SEEK_END)) if known else 1.0


def _mp3_states(file: BinaryIO) -> bool:
    """Whether the first frame says how many there are; else FFmpeg guesses by the bit rate."""
    head = file.read(10)
    if head[:3] == b"ID3":  # a tag, whose size is written in 7 bits a byte
        a, b, c, d = head[6:]
        file.seek(a << 21 | b << 14 | c << 7 | d, os.SEEK_CUR)
    first = file.read(200)
    return any(mark in first for mark in (b"Xing", b"Info", b"VBRI"))


@contextmanager
def _again(source: str | PathLike[str] | BinaryIO) -> Iterator[BinaryIO]:
    """A file from its beginning, for what FFmpeg does not tell."""
    if isinstance(source, (str, PathLike)):
        with Path(source).open("rb") as file:
            yield file
    else:
        source.seek(0)
        yield source


def _name(source: str | PathLike[str] | BinaryIO) -> str:
    return str(source) if isinstance(source, (str, PathLike)) else "audio data"


@contextmanager
def _open(
    source: str | PathLike[str] | BinaryIO,
) -> Iterator[tuple[av.container.InputContainer, av.AudioStream]]:
    name = _name(source)
    if isinstance(source, (str, PathLike)):
        path = Path(source)
        try:
            found = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            raise AudioError(f"{name}: no such file") from None
        except OSError as exc:
            raise AudioError(f"{name}: cannot be read ({exc.strerror})") from exc
        if stat.S_ISDIR(found.st_mode):
            raise AudioError(f"{name}: is a folder; name the files in it")
        if not stat.S_ISREG(found.st_mode):  # a pipe can be read once only, and may never answer
            raise AudioError(f"{name}: is not an ordinary file; write its contents to one")
        if not found.st_size:
            raise AudioError(f"{name}: is empty (0 bytes)")
        source = f"file:{path}"  # else FFmpeg takes a name with a colon in it for an address
    try:
        # PyAV 19 never fails at a tag, and has no such argument.
        tags: Any = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "ignore"}
        container = av.open(source, mode="r", **tags)
    except PermissionError as exc:
        raise AudioError(f"{name}: may not be read; check its permissions") from exc
    except (av.FFmpegError, OSError) as exc:
        raise AudioError(
            f"{name}: is not audio that FFmpeg knows, or is damaged ({exc.strerror}); "
            "convert it to WAV, FLAC, MP3 or Ogg"
        ) from exc
    with container:
        if not container.streams.audio:
            raise AudioError(f"{name}: has no audio track")
        yield container, container.streams.audio[0]
