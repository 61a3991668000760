"""What a stream of events shows: words and delays, on a terminal or in a pipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from livekit.agents import stt
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

STABLE, UNSTABLE, PREFLIGHT, FINAL, ASIDE = "bold", "italic dim", "bold cyan", "green", "dim"
"""Styles of words that stay, that may change, that are the final's unless the speaker goes on, that
are final; and of figures."""

_Kind = stt.SpeechEventType


@dataclass(frozen=True)
class Delays:
    """How long it took, in seconds; None: it did not happen, or nobody knows when the rest did."""

    words: float | None = None
    """From the start of speech, when the VAD was sure of it, to the first interim words."""
    preflight: float | None = None
    """From the end of speech to its words."""
    final: float | None = None
    """From the end of speech to the final transcript."""

    def __str__(self) -> str:
        named = {"first words": self.words, "preflight": self.preflight, "final": self.final}
        return "  ".join(f"{name} {s:.2f} s" for name, s in named.items() if s is not None)


@dataclass(frozen=True)
class Final:
    """A final transcript, and how it came."""

    text: str
    delays: Delays


@dataclass(frozen=True)
class Queue:
    """How busy the decoders are."""

    where: str
    """Whose they are."""
    waiting: Mapping[str, int]
    """Utterances that wait, by urgency."""
    load: float
    """0 (idle) to 1 (saturated)."""

    def __str__(self) -> str:
        waiting = "  ".join(f"{urgency} {count}" for urgency, count in self.waiting.items())
        return f"{self.where}: load {self.load:.2f}, waiting: {waiting}"


class Heard:
    """Pure: events of a stream in, what is being said out."""

    def __init__(self) -> None:
        self.speaking = False
        self.stable = self.unstable = self.preflight = ""
        """What is being said: the first two go together, the third takes their place."""
        self._started: float | None = None
        self._words: float | None = None
        self._guessed: float | None = None

    def add(self, event: stt.SpeechEvent, now: float) -> Final | None:
        """Takes in the next event, which came at `now` (wall-clock time, s).

        Returns:
            What is final with it.
        """
        said = event.alternatives[0] if event.alternatives else None
        if event.type is _Kind.START_OF_SPEECH:
            self.speaking, self._started = True, now
        elif event.type is _Kind.END_OF_SPEECH:
            self.speaking = False
            self._clear()
        elif said and event.type is _Kind.INTERIM_TRANSCRIPT:
            stable = str((said.metadata or {}).get("stable", ""))
            self.stable = stable if said.text.startswith(stable) else ""
            self.unstable = said.text[len(self.stable) :]
            self.preflight, self._guessed = "", None  # the speaker went on
            self._show_words(now)
        elif said and event.type is _Kind.PREFLIGHT_TRANSCRIPT:
            self.preflight, self._guessed = said.text, now
            self._show_words(now)
        elif said and event.type is _Kind.FINAL_TRANSCRIPT:
            delays = self._delays(event.speech_end_time, now)
            self._clear()
            return Final(said.text, delays)
        return None

    def _show_words(self, now: float) -> None:
        if self._words is None and self._started is not None:
            self._words = now - self._started

    def _delays(self, ended: float | None, now: float) -> Delays:
        if ended is None:
            return Delays(self._words)
        preflight = None
        if self._guessed is not None and self._guessed >= ended:  # else of an end that was none
            preflight = self._guessed - ended
        return Delays(self._words, preflight, now - ended)

    def _clear(self) -> None:
        self.stable = self.unstable = self.preflight = ""
        self._started = self._words = self._guessed = None


class View(Protocol):
    """Where it is shown."""

    def show(self, heard: Heard) -> None:
        """What is being said has changed."""
        ...

    def final(self, final: Final) -> None:
        """Something is final."""
        ...

    def tell(self, status: str, queue: Queue | None) -> None:
        """What is going on has changed."""
        ...

    def close(self) -> None:
        """Nothing more will come."""
        ...


class Screen:
    """A terminal: finals stay; below them what is being said, and how busy the decoders are."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._words, self._figures = Text(), Text()
        # Drawn when something changes; what is below the finals goes with the end.
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._live.start()

    def show(self, heard: Heard) -> None:
        """See `View.show`."""
        self._words = Text().append("> " if heard.speaking else "", ASIDE)
        if heard.preflight:
            self._words.append(heard.preflight, PREFLIGHT)
        else:
            self._words.append(heard.stable, STABLE).append(heard.unstable, UNSTABLE)
        self._draw()

    def final(self, final: Final) -> None:
        """See `View.final`."""
        self._console.print(Text().append(final.text, FINAL).append(f"  {final.delays}", ASIDE))

    def tell(self, status: str, queue: Queue | None) -> None:
        """See `View.tell`."""
        figures = Text(f"{status}\n{queue}" if queue else status, ASIDE)
        if figures != self._figures:
            self._figures = figures
            self._draw()

    def close(self) -> None:
        """See `View.close`."""
        self._live.stop()

    def _draw(self) -> None:
        self._live.update(Group(self._words, self._figures), refresh=True)


class Pipe:
    """A pipe or a file: a line for each final, at once; the delays are a matter of stderr."""

    def __init__(self, aside: Console) -> None:
        self._aside = aside
        self._status = ""

    def show(self, heard: Heard) -> None:
        """See `View.show`."""

    def final(self, final: Final) -> None:
        """See `View.final`."""
        print(final.text, flush=True)  # noqa: T201
        self._aside.print(str(final.delays))

    def tell(self, status: str, queue: Queue | None) -> None:
        """See `View.tell`."""
        if status != self._status:
            self._status = status
            self._aside.print(status, markup=False)

    def close(self) -> None:
        """See `View.close`."""
