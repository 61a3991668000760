"""What the command is given to transcribe: files, folders, patterns, pipes, standard input."""

from __future__ import annotations

import glob
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from .containers import Source
from .errors import AudioError, ConfigError

STANDARD_INPUT = "-"
SUFFIXES = frozenset(
    ".3g2 .3gp .aac .ac3 .aif .aifc .aiff .alac .amr .ape .asf .au .avi .awb .caf .dts .flac .flv "
    ".g722 .gsm .m2ts .m4a .m4b .m4v .mka .mkv .mov .mp1 .mp2 .mp3 .mp4 .mpc .mpeg .mpg .mts .mxf "
    ".oga .ogg .ogv .opus .ra .rm .snd .spx .tta .ts .vob .voc .w64 .wav .weba .webm .wma .wmv "
    ".wv".split()
)
"""How names of audio and video end; only these are taken out of a folder."""


@dataclass(frozen=True)
class Input:
    """Something to transcribe."""

    name: str
    """As messages and headings call it."""
    path: Path | None
    """None: standard input."""
    inside: Path = field(default_factory=Path, compare=False)
    """The folder that it was found in, seen from the one that the user named."""

    @property
    def base(self) -> str:
        """What files that are made of it are called, without a suffix of their own."""
        return self.path.name if self.path else "stdin"

    @contextmanager
    def opened(self) -> Iterator[Source]:
        """Something that can be read again and again: what comes through a pipe is kept on disk
        meanwhile.

        Raises:
            AudioError: it cannot be read.
        """
        if self.path is None:
            yield from self._kept(sys.stdin.buffer)
        elif _is_pipe(self.path):
            with self.path.open("rb") as pipe:
                yield from self._kept(pipe)
        else:
            yield self.path

    def _kept(self, pipe: BinaryIO) -> Iterator[Source]:
        if pipe.isatty():
            raise AudioError(
                f"{self.name}: is a terminal; pipe a file into it: … | livekit-whisper"
            )
        try:
            with tempfile.TemporaryFile() as file:
                shutil.copyfileobj(pipe, file, 1 << 20)
                if not file.tell():
                    raise AudioError(f"{self.name}: nothing came through it (0 bytes)")
                file.seek(0)
                yield file
        except OSError as exc:
            raise AudioError(
                f"{self.name}: cannot be kept in {tempfile.gettempdir()} ({exc.strerror}); "
                "set TMPDIR to a folder with room for it"
            ) from exc


def inputs(arguments: Sequence[str]) -> tuple[list[Input], list[str]]:
    """What the arguments stand for, each once, in their order.

    Args:
        arguments: names of files and pipes, of folders (with all folders in them), patterns that
            the shell has left as they are, or `-`.

    Returns:
        The inputs, and for people, what was passed over.

    Raises:
        ConfigError: a folder or pattern stands for nothing.
    """
    found: dict[str, Input] = {}
    passed: list[str] = []
    for argument in arguments:
        path = Path(argument)
        if argument == STANDARD_INPUT:
            here = [Input("standard input", None)]
        elif _is_folder(path):
            here, others = _in_folder(path)
            if not here:
                raise ConfigError(f"{argument}: no audio or video in this folder, by its names")
            if others:
                passed.append(
                    f"{argument}: {len(others)} files passed over that are no audio or video by "
                    f"their names ({others[0].name}, …); to transcribe one, name it"
                )
        elif glob.has_magic(argument) and not os.path.lexists(path):
            names = sorted(glob.glob(argument, recursive=True))
            here = [Input(name, Path(name)) for name in names if not _is_folder(Path(name))]
            if not here:
                raise ConfigError(f"{argument}: no file has a name like this")
        else:
            here = [Input(argument, path)]
        for each in here:
            found.setdefault(str(each.path and os.path.abspath(each.path)), each)
    return list(found.values()), passed


def _in_folder(folder: Path) -> tuple[list[Input], list[Path]]:
    """Audio and video, and the names of other files; what is hidden is neither."""
    taken, others = list[Input](), list[Path]()
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        for name in sorted(each for each in names if not each.startswith(".")):
            path = Path(place, name)
            if path.suffix.lower() in SUFFIXES:
                taken.append(Input(str(path), path, Path(place).relative_to(folder)))
            else:
                others.append(path)
    return taken, others


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name that is too long, or has a zero byte: told when opened
        return False


def _is_pipe(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
