"""Files that were joined from several: each part is a file of its own.

FFmpeg does not always follow from one part to the next: it loses what has other channels, mixes up
times, or takes the first part for all. Parts of MP3, AAC and MPEG-TS are frames like any other.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from os import PathLike
from pathlib import Path
from typing import BinaryIO, cast

from .containers import Source, again, check_file, name_of

CHUNK = 1 << 20
"""Bytes that are searched at once."""


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
    """The parts that a file was joined from; the file itself where it is one.

    Raises:
        AudioError: it is no file that can be read.
    """
    if isinstance(source, (str, PathLike)):
        check_file(Path(source), name_of(source))
    with ExitStack() as open_files:
        try:
            file = open_files.enter_context(again(source))
            find = _FINDERS.get(file.read(4))
            starts = find(file) if find else []
            ends = [*starts[1:], file.seek(0, os.SEEK_END)]
            file.seek(0)
        except OSError:  # it cannot go back, or not be read, of which `opened` tells
            starts = []
        if len(starts) > 1:
            parts = [Part(file, *bounds) for bounds in zip(starts, ends, strict=True)]
            yield cast("list[Source]", parts)
        else:
            yield [source]


def _riff(file: BinaryIO) -> list[int]:
    """WAV: each part says how long it is."""
    starts, at, head = [], 0, _read(file, 0, 12)
    while head[:4] == b"RIFF" and head[8:] == b"WAVE":
        starts.append(at)
        size = int.from_bytes(head[4:8], "little")
        at += 8 + size + size % 2
        head = _read(file, at, 12)
    return starts


def _flac(file: BinaryIO) -> list[int]:
    """FLAC: each part begins with its mark and a block of 34 bytes (RFC 9639, section 8)."""
    return list(_found(file, b"fLaC\x00\x00\x00\x22", 0))


def _ogg(file: BinaryIO) -> list[int]:
    """Ogg: a chain (RFC 3533, section 4), whose links begin with first pages of streams."""
    starts: list[int] = []
    at, beginning = 0, False
    while True:
        head = _read(file, at, 27)
        if head[:4] != b"OggS":  # something is broken here
            at = next(_found(file, b"OggS", at), -1)
            head = _read(file, at, 27) if at >= 0 else b""
        if len(head) < 27:
            return starts
        begins = bool(head[5] & 2) and head[18:22] == bytes(4)  # the first of its stream, number 0
        if begins and not beginning:
            starts.append(at)
        beginning = begins
        segments = file.read(head[26])
        at += 27 + len(segments) + sum(segments)


def _found(file: BinaryIO, mark: bytes, at: int) -> Iterator[int]:
    """Where a mark is in a file, from `at` on."""
    data = _read(file, at, CHUNK)
    while len(data) >= len(mark):
        found = data.find(mark)
        while found >= 0:
            yield at + found
            found = data.find(mark, found + 1)
        at += len(data) - len(mark) + 1
        data = _read(file, at, CHUNK)


def _read(file: BinaryIO, at: int, size: int) -> bytes:
    file.seek(at)
    return file.read(size)


_FINDERS: dict[bytes, Callable[[BinaryIO], list[int]]] = {
    b"OggS": _ogg, b"RIFF": _riff, b"fLaC": _flac,
}  # fmt: skip
"""By how files begin."""
