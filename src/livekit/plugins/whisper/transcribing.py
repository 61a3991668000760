"""`livekit-whisper transcribe`: one input after the other, written as it is heard."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from . import audio
from .errors import AudioError, WhisperError
from .formats import Recording, join
from .inputs import Input
from .languages import LANGUAGES
from .outputs import Files, NotWritten, Output
from .stt import LocalSTT
from .types import Transcript

INTERRUPTED = 130
"""Status of a program that Ctrl-C has ended, as shells have it."""


class Transcribing:
    """Transcribes inputs in order; one that fails does not stop the others.

    Args:
        stt: with which.
        detects: whether the language is for the model to find.
        err: where progress, notes and errors are shown.
        quiet: whether only errors are.
    """

    def __init__(self, stt: LocalSTT, *, detects: bool, err: Console, quiet: bool) -> None:
        self._stt, self._detects, self._err, self._quiet = stt, detects, err, quiet
        self._status = 0
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._progress = Progress(
            *columns,
            console=err,
            transient=True,
            disable=quiet or not err.is_terminal,
            # Lets text and bar share a terminal; it would take from a file what is meant for it.
            redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
        )

    def run(self, inputs: Sequence[Input], outputs: Sequence[Output]) -> int:
        """Transcribes each input into the output at the same place.

        Returns:
            The command's status: 0, 1 where anything failed, 130 where Ctrl-C ended it.

        Raises:
            WhisperError: no other input would fare better.
        """
        with self._progress:
            for given, output in zip(inputs, outputs, strict=True):
                if not self._one(given, output):
                    return INTERRUPTED
        return self._status

    def _one(self, given: Input, output: Output) -> bool:
        """False where Ctrl-C has ended it."""
        parts, end = list[Transcript](), 0.0
        try:
            try:
                for part, end in self._heard(given):  # noqa: B007 (told if it is cut short)
                    parts.append(part)
                    output.add(part.segments)
            except AudioError as exc:
                self._fail(exc)
                if not parts:
                    return True
            self._finish(given, output, _recording(given, parts, end))
        except NotWritten as exc:
            self._fail(exc)
        except WhisperError:
            if parts:
                output.give_up(_recording(given, parts, end))
            raise
        except KeyboardInterrupt:
            where = output.give_up(_recording(given, parts, end)) if parts else ""
            kept = f" and the first {end:.0f} s of {given.name} ({where})" if where else ""
            self._err.print(f"interrupted; what was finished is kept{kept}")
            return False
        return True

    def _fail(self, exc: WhisperError) -> None:
        """Shows what is wrong with one input; the others go on."""
        self._status = 1
        self._err.print(f"error: {exc}", style="red")

    def _finish(self, given: Input, output: Output, recording: Recording) -> None:
        output.finish(recording)
        if self._quiet:
            return
        if not recording.transcript.text:
            self._err.print(f"{given.name}: no speech in it")
        elif self._detects:
            code = recording.transcript.language
            self._err.print(f"{given.name}: language {code} ({LANGUAGES.get(code, code)})")
        if isinstance(output, Files):
            self._err.print(f"{given.name} → {output}")

    @contextmanager
    def _shown(self, task: TaskID) -> Iterator[None]:
        try:
            yield
        finally:
            self._progress.remove_task(task)

    def _heard(self, given: Input) -> Iterator[tuple[Transcript, float]]:
        """What is said in it, part by part, each with where it ends (s)."""
        task = self._progress.add_task(given.name, total=None)
        language: str | None = None
        with given.opened() as source, self._shown(task):
            self._progress.update(task, total=audio.probe(source, given.name))
            for start, sound in audio.windows(audio.blocks(source, given.name)):
                part = asyncio.run(self._stt.transcribe(sound, start=start, language=language))
                end = start + sound.duration
                self._progress.update(task, completed=end)
                if part.text:
                    language = part.language  # a recording is in one: the first one heard
                yield part, end


def _recording(given: Input, parts: Sequence[Transcript], end: float) -> Recording:
    return Recording(given.name, round(end, 3), join(parts))
