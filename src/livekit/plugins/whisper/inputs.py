"""What the command is given to transcribe: files, folders, patterns, pipes, standard input."""

from __future__ import annotations

import glob
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from .containers import Source
from .errors import AudioError

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
    problem: str = ""
    """Why it is none; told when it is opened, so that the others go on."""
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
        if self.problem:
            raise AudioError(f"{self.name}: {self.problem}")
        if self.path is None:
            if sys.stdin is None:
                raise AudioError(f"{self.name}: is closed; pipe a file into it, or name one")
            yield from self._kept(sys.stdin.buffer)
        elif _is_pipe(self.path):
            try:
                pipe = self.path.open("rb")
            except OSError as exc:
                raise AudioError(f"{self.name}: cannot be read ({exc.strerror})") from exc
            with pipe:
                yield from self._kept(pipe)
        else:
            yield self.path

    def _kept(self, pipe: BinaryIO) -> Iterator[Source]:
        if pipe.isatty():
            raise AudioError(f"{self.name}: is a terminal; pipe a file into it, or name one")
        with ExitStack() as stack:
            try:
                file = stack.enter_context(tempfile.TemporaryFile())
                shutil.copyfileobj(pipe, file, 1 << 20)
            except OSError as exc:
                raise AudioError(
                    f"{self.name}: cannot be kept in the folder for temporary files "
                    f"({exc.strerror}); set TMPDIR to one with room for it"
                ) from exc
            if not file.tell():
                raise AudioError(f"{self.name}: nothing came through it (0 bytes)")
            file.seek(0)
            yield file


def inputs(arguments: Sequence[str]) -> tuple[list[Input], list[str]]:
    """What the arguments stand for, each once, in their order.

    Args:
        arguments: names of files and pipes, of folders (with all folders in them), patterns that
            the shell has left as they are, or `-`.

    Returns:
        The inputs, and for people, what was passed over.
    """
    found: dict[str, Input] = {}
    notes: list[str] = []
    for argument in arguments:
        for each in _expanded(argument, notes):
            key = os.path.abspath(each.path) if each.path else each.name
            found.setdefault(key, each)
    return list(found.values()), notes


def _expanded(argument: str, notes: list[str]) -> list[Input]:
    path = Path(argument)
    if argument == STANDARD_INPUT:
        return [Input("standard input", None)]
    if _is_folder(path):
        return _in_folder(path, notes)
    if not glob.has_magic(argument) or os.path.lexists(path):
        return [Input(argument, path)]
    paths = [Path(name) for name in sorted(glob.glob(argument, recursive=True))]
    folders = [each for each in paths if _is_folder(each)]
    if not paths:
        return [Input(argument, path, "no file has a name like this")]
    if len(folders) == len(paths):
        return [each for folder in folders for each in _in_folder(folder, notes)]
    if folders and "**" not in argument:  # that goes into them by itself
        notes.append(f"{argument}: folders passed over: {', '.join(map(str, folders))}; name them")
    return [Input(str(each), each) for each in paths if each not in folders]


def _in_folder(folder: Path, notes: list[str]) -> list[Input]:
    """Its audio and video, and that of the folders in it; what is hidden is left alone."""
    taken, others, shut = list[Input](), list[str](), list[str]()

    def fail(exc: OSError) -> None:
        shut.append(f"{exc.filename} ({exc.strerror})")

    for place, folders, names in os.walk(folder, onerror=fail):
        shut += [
            f"{Path(place, each)} (a link)" for each in folders if Path(place, each).is_symlink()
        ]
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        for name in sorted(each for each in names if not each.startswith(".")):
            path = Path(place, name)
            if path.suffix.lower() in SUFFIXES:
                taken.append(Input(str(path), path, inside=Path(place).relative_to(folder)))
            else:
                others.append(name)
    if others:
        notes.append(
            f"{folder}: passed over as no audio or video, by its name: {', '.join(others[:3])}"
            + (f" and {len(others) - 3} more" if len(others) > 3 else "")
        )
    if shut:
        notes.append(f"{folder}: not looked into: {', '.join(shut)}")
    return taken or [Input(str(folder), folder, "no audio or video in this folder, by its names")]


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
