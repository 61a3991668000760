"""Files and file objects in any container: opening them, their tracks, and what they state."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, cast

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
        _check_file(Path(source), name)
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


def _check_file(path: Path, name: str) -> None:
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
        with _again(source) as file:
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
def _again(source: Source) -> Iterator[BinaryIO]:
    """A file from its beginning, for what FFmpeg does not tell."""
    if isinstance(source, (str, PathLike)):
        with Path(source).open("rb") as file:
            yield file
    else:
        source.seek(0)
        yield source


class Part:
    """Some bytes of a file, as a file of their own."""

    def __init__(self, file: BinaryIO, start: int, end: int) -> None:
        self._file, self._start, self._end = file, start, end
        self._at = 0

    def read(self, size: int = -1) -> bytes:
        left = self._end - self._start - self._at
        self._file.seek(self._start + self._at)
        data = self._file.read(left if size < 0 else min(size, left))
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._end - self._start}
        self._at = max(0, base[whence] + offset)
        return self._at

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at


@contextmanager
def links(source: Source) -> Iterator[list[Source]]:
    """The parts of a file that was joined from several Ogg files; else the file itself.

    An Ogg file may be a chain of independent ones (RFC 3533, section 4), each with its own rate,
    channels and times, which FFmpeg does not always follow from one to the next.

    Raises:
        AudioError: it is no file that can be read.
    """
    if isinstance(source, (str, PathLike)):
        _check_file(Path(source), name_of(source))
    with ExitStack() as open_files:
        try:
            file = open_files.enter_context(_again(source))
            starts = _ogg_links(file) if file.read(4) == b"OggS" else []
            ends = [*starts[1:], file.seek(0, os.SEEK_END)]
            file.seek(0)
        except OSError:  # it cannot go back, or not be read, of which `opened` tells
            starts = []
        if len(starts) > 1:
            parts = [Part(file, *bounds) for bounds in zip(starts, ends, strict=True)]
            yield cast("list[Source]", parts)
        else:
            yield [source]


def _ogg_links(file: BinaryIO) -> list[int]:
    """Where each link of the chain begins: with first pages of streams, after other pages."""
    starts: list[int] = []
    at, beginning = 0, False
    while (at := _next_page(file, at)) >= 0:
        file.seek(at)
        head = file.read(27)
        if len(head) < 27:
            break
        begins = bool(head[5] & 2) and head[18:22] == bytes(4)  # the first of its stream, number 0
        if begins and not beginning:
            starts.append(at)
        beginning = begins
        segments = file.read(head[26])
        at += 27 + len(segments) + sum(segments)
    return starts


def _next_page(file: BinaryIO, at: int) -> int:
    """Where the next page of an Ogg file begins, at or after `at`; -1: there is none."""
    mark = b"OggS"
    file.seek(at)
    data = file.read(len(mark))
    while data != mark:  # something is broken here
        data += file.read(1 << 16)
        if (found := data.find(mark)) >= 0:
            return at + found
        if len(data) < 1 << 16:
            return -1
        at, data = at + len(data) - len(mark) + 1, data[1 - len(mark) :]
    return at
