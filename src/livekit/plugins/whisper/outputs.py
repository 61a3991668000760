"""Where the command writes transcripts: standard output as they come, or a file for each input."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol, TextIO

from .errors import ConfigError
from .formats import Format, Recording, formats
from .inputs import Input
from .types import Segment

NAMES = "livekit-whisper-names"
"""How streams encode what UTF-8 has no bytes for: names of files in another encoding."""
UNFINISHED = ".part"
"""Behind the name of a file that is still being written, or was never finished."""


def _encode_name(error: UnicodeError) -> tuple[str | bytes, int]:
    """A locale that is not UTF-8 leaves names as stray bytes: as they are if they are UTF-8."""
    try:
        assert isinstance(error, UnicodeEncodeError)
        # ASCII: only bytes that the locale could not read, not what a terminal cannot show.
        stray = error.object[error.start : error.end].encode("ascii", "surrogateescape")
        stray.decode("utf-8")
    except UnicodeError:
        return codecs.backslashreplace_errors(error)
    return stray, error.end


codecs.register_error(NAMES, _encode_name)


class NotWritten(ConfigError):
    """A file that cannot be written; others may be."""


class Output(Protocol):
    """What is written of one input."""

    def add(self, segments: Sequence[Segment]) -> None:
        """Takes what was heard next."""
        ...

    def finish(self, recording: Recording) -> None:
        """All has been heard."""
        ...

    def give_up(self, recording: Recording) -> str:
        """No more will be heard. Keeps what was; returns where, for people."""
        ...


class _Writing:
    """A format on its way into a stream: segments as they come, what has none at the end."""

    def __init__(self, form: Format, stream: TextIO, head: str = "") -> None:
        self._form, self._stream, self._count = form, stream, 0
        stream.write(head + (form.head if form.segment else ""))

    def add(self, segments: Sequence[Segment]) -> None:
        if write := self._form.segment:
            for number, segment in enumerate(segments, self._count + 1):
                self._stream.write(write(number, segment))
            self._count += len(segments)
            self._stream.flush()

    def finish(self, recording: Recording) -> None:
        if not self._form.segment:
            self._stream.write(self._form.whole(recording))
        self._stream.flush()


class StandardOutput:
    """One format on standard output.

    Args:
        form: which.
        head: what is written before the first segment.
    """

    def __init__(self, form: Format, head: str = "") -> None:
        self._form, self._head = form, head
        self._writing: _Writing | None = None

    def add(self, segments: Sequence[Segment]) -> None:
        """See `Output.add`."""
        self._begun().add(segments)

    def finish(self, recording: Recording) -> None:
        """See `Output.finish`."""
        self._begun().finish(recording)

    def give_up(self, recording: Recording) -> str:
        """See `Output.give_up`."""
        if recording.transcript.segments:
            self.finish(recording)
        return "above"

    def _begun(self) -> _Writing:
        # Not before something is to be written: a file that cannot be read leaves no heading.
        if self._writing is None:
            if sys.stdout is None:
                raise NotWritten("standard output: is closed; name a folder: --output-dir .")
            self._writing = _Writing(self._form, sys.stdout, self._head)
        return self._writing


class Files:
    """One file a format. A file has its name once it is finished, never before.

    All methods raise `NotWritten` where a file cannot be written.

    Args:
        targets: names of the files and their formats.
    """

    def __init__(self, targets: Sequence[tuple[Path, Format]]) -> None:
        self._targets = targets
        self._open: list[tuple[Path, TextIO, _Writing]] = []

    def add(self, segments: Sequence[Segment]) -> None:
        """See `Output.add`."""
        for path, _, writing in self._begun():
            with self._told(path):
                writing.add(segments)

    def finish(self, recording: Recording) -> None:
        """See `Output.finish`."""
        for path, file, writing in self._begun():
            with self._told(path):
                writing.finish(recording)
                file.close()
                os.replace(file.name, path)

    def give_up(self, recording: Recording) -> str:
        """See `Output.give_up`."""
        unfinished = [each for each in self._open if not each[1].closed]
        for path, file, writing in unfinished:
            with self._told(path):
                writing.finish(recording)
                file.close()
        return ", ".join(file.name for _, file, _ in unfinished)

    def __str__(self) -> str:
        return ", ".join(str(path) for path, _ in self._targets)

    @contextmanager
    def _told(self, path: Path) -> Iterator[None]:
        """A file that cannot be written, as an error that says which."""
        try:
            yield
        except OSError as exc:
            for _, file, _ in self._open:
                with suppress(OSError):
                    file.close()
            raise NotWritten(f"--output-dir: {path}: {exc.strerror}; name another") from exc

    def _begun(self) -> list[tuple[Path, TextIO, _Writing]]:
        if not self._open:
            for path, form in self._targets:
                with self._told(path):
                    if path.is_dir():
                        raise IsADirectoryError(0, "Is a directory")
                    path.parent.mkdir(parents=True, exist_ok=True)
                    unfinished = path.with_name(path.name + UNFINISHED)
                    file = unfinished.open("w", encoding="utf-8", errors=NAMES)
                    self._open.append((path, file, _Writing(form, file)))
        return self._open


def outputs(given: Sequence[Input], name: str, folder: Path | None) -> list[Output]:
    """Where the transcript of each input goes.

    Args:
        given: the inputs.
        name: of the format, or `all`.
        folder: for files; None: standard output.

    Raises:
        ConfigError: two would be written to one file, the folder is none, or standard output is
            no place for this.
    """
    if folder is not None:
        return _in_folder(given, name, folder)
    chosen = formats(name)
    if len(chosen) > 1:
        raise ConfigError(
            f"--format {name}: several formats do not go to one output; name a folder for their "
            "files: --output-dir ."
        )
    (form,) = chosen
    if len(given) > 1 and name not in ("text", "txt", "json"):
        raise ConfigError(
            f"--format {name}: the transcripts of {len(given)} files, one after the other, are no "
            f"valid {name}; name a folder for a file of each: --output-dir ."
        )
    headed = len(given) > 1 and form.segment is not None
    return [StandardOutput(form, f"==> {each.name} <==\n" if headed else "") for each in given]


def _in_folder(given: Sequence[Input], name: str, folder: Path) -> list[Output]:
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--output-dir: {folder} is a file; name a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError(f"--output-dir: {folder} cannot be made ({exc.strerror})") from exc
    stems = [each.inside / Path(each.base).stem for each in given]
    # call.mp3 and call.mp4 become call.mp3.srt and call.mp4.srt.
    names = [
        each.inside / each.base if stems.count(stem) > 1 else stem
        for each, stem in zip(given, stems, strict=True)
    ]
    for index, each in enumerate(names):
        if (first := names.index(each)) < index:
            raise ConfigError(
                f"--output-dir: {given[first].name} and {given[index].name} would both be written "
                f"to {folder / each}…; transcribe them into two folders"
            )
    return [
        Files([(folder / (str(each) + form.suffix), form) for form in formats(name)])
        for each in names
    ]
