"""Files and file objects in any container: opening them, their tracks, and what they state."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import av
import av.container
from av.stream import Disposition

from .errors import AudioError

Source: TypeAlias = "str | PathLike[str] | BinaryIO"
"""A file's name, or a file that is open for reading bytes."""
Container: TypeAlias = "av.container.InputContainer"

EXACT_FORMATS = {"wav", "w64", "aiff", "au", "caf", "flac", "mp3", "mp4", "mov", "matroska"}
"""Containers (FFmpeg's names) that can state their length; others only let it be guessed."""
_TAGS: dict[str, Any] = {"metadata_errors": "ignore"} if int(av.__version__[:2]) < 19 else {}
"""Tags that are not UTF-8 are no reason to refuse a file (PyAV 19 takes them by itself)."""


def name_of(source: Source) -> str:
    """A source as messages call it."""
    return os.fspath(source) if isinstance(source, (str, PathLike)) else "audio data"


@contextmanager
def opened(source: Source, name: str) -> Iterator[Container]:
    """A container with at least one audio track.

    Raises:
        AudioError: it cannot be read, or has no audio in it.
    """
    if isinstance(source, (str, PathLike)):
        check_file(Path(source), name)
        file: Any = f"file:{os.fspath(source)}"  # else a name with a colon in it is an address
    else:
        file = source
        if source.seekable():
            source.seek(0)
        if isinstance(source.read(0), str):
            raise AudioError(f"{name}: is open for reading text; open it as 'rb'")
    try:
        container = av.open(file, mode="r", **_TAGS)
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
        yield container


def check_file(path: Path, name: str) -> None:
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise AudioError(f"{name}: no such file") from None
    except OSError as exc:
        raise AudioError(f"{name}: cannot be read ({exc.strerror})") from exc
    except ValueError as exc:  # a zero byte
        raise AudioError(f"{name!r}: is no name of a file ({exc})") from exc
    if stat.S_ISDIR(found.st_mode):
        raise AudioError(f"{name}: is a folder; name the files in it")
    if not stat.S_ISREG(found.st_mode):  # a pipe can be read once only, and may never answer
        raise AudioError(f"{name}: is not an ordinary file; write its contents to one")
    if not found.st_size:
        raise AudioError(f"{name}: is empty (0 bytes)")


def tracks(container: Container) -> list[av.AudioStream]:
    """The audio tracks: first the one that players take, then the others in their order."""
    found = list(container.streams.audio)
    default = [track for track in found if track.disposition & Disposition.default]
    first = default[0] if default else container.streams.best("audio")
    return sorted(found, key=lambda track: first is None or track.index != first.index)


def seconds(value: Any, time_base: Any = None) -> float | None:
    """A time in FFmpeg's units (microseconds without a time base); None where there is none."""
    if value is None:
        return None
    return float(value * time_base) if time_base else value / av.time_base


def stated_duration(container: Container, track: av.AudioStream) -> float | None:
    """What the header says of a track, or else of the container, in seconds."""
    found = seconds(track.duration, track.time_base) or seconds(container.duration)
    return found if found and found > 0 else None


def exact_duration(container: Container, track: av.AudioStream, source: Source) -> float | None:
    """What the header says in seconds, where it is to be believed."""
    formats = set(container.format.name.split(","))
    if not formats & EXACT_FORMATS:
        return None
    if not track.duration and len(container.streams) > 1:  # it may be the picture's
        return None
    stated = stated_duration(container, track)
    if stated is None or not formats & {"wav", "mp3"}:
        return stated
    try:
        with again(source) as file:
            if "wav" in formats:
                return stated * _wav_excess(file)
            return stated if _mp3_states(file) else None
    except (OSError, struct.error):  # a stream that cannot go back
        return None


def _wav_excess(file: BinaryIO) -> float:
    """How much larger than the file its RIFF header says that it is (FFmpeg takes the file's)."""
    name, size = struct.unpack("<4sI", file.read(8))
    # What is written to a pipe has 0, or close to 2 or 4 GiB, as its size.
    known = name == b"RIFF" and size and all(abs(size - x) > 1 << 16 for x in (1 << 31, 1 << 32))
    return max(1.0, (size + 8) / file.seek(0, os.SEEK_END)) if known else 1.0


def _mp3_states(file: BinaryIO) -> bool:
    """Whether the first frame says how many there are; else FFmpeg guesses by the bit rate."""
    file.seek(id3_size(file.read(10)))
    first = file.read(200)
    at = max(first.find(b"Xing"), first.find(b"Info"))
    if at < 0 or not first[at + 7] & 2:
        return at >= 0 or b"VBRI" in first
    # It also says of how many bytes: of files that were joined, those of the first.
    frames = 4 * (first[at + 7] & 1)
    (size,) = struct.unpack_from(">I", first, at + 8 + frames)
    return bool(size * 1.1 > file.seek(0, os.SEEK_END))


def id3_size(head: bytes) -> int:
    """The bytes of an ID3v2 tag that begins so; 0: it is none. Its size has 7 bits a byte."""
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    a, b, c, d = head[6:10]
    return 10 + (a << 21 | b << 14 | c << 7 | d)


@contextmanager
def again(source: Source) -> Iterator[BinaryIO]:
    """A file from its beginning, for what FFmpeg does not tell."""
    if isinstance(source, (str, PathLike)):
        with Path(source).open("rb") as file:
            yield file
    else:
        source.seek(0)
        yield source
