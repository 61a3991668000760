"""What `make demo` shows: recordings played to an agent, the words that arrive, and a table."""

from __future__ import annotations

import asyncio
import logging
import os
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from itertools import islice
from types import TracebackType

import psutil
from livekit import rtc
from livekit.agents import Agent, AgentSession, io
from livekit.plugins import silero, whisper
from livekit.plugins.whisper.host.process import owner_pid
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from scripts import comparison, hosts, material
from scripts.child import ChildFailed, until
from scripts.material import Script
from scripts.room import Caller, LiveKitServer, Worker
from scripts.speaker import Heard, Speaker, Utterance
from scripts.wer import word_error_rate

WER_LIMIT = 0.3
ROOM_SIZES = (3, 2)
"""How many of the recordings are played in the first room, and in the second."""
LOAD_TIMEOUT = 180.0
"""Seconds for loading a model, with a slow disk and the import of PyTorch."""
TIMELINE = material.ROOT / "build" / "timeline.png"

console = Console(highlight=False, emoji=False)


@dataclass(frozen=True)
class Row:
    """What was said and what was understood."""

    reference: str
    utterance: Utterance
    wer: float
    """Word error rate: 0 is perfect."""

    @property
    def passed(self) -> bool:
        """Whether it arrived, and is good enough."""
        return self.utterance.final_at is not None and self.wer < WER_LIMIT


class Rehearsal(Speaker):
    """The agent's session on the recordings, in this process, without a room."""

    async def __aenter__(self) -> Rehearsal:
        import simple_main

        self._session: AgentSession[None] = simple_main.build_session()
        self._session.input.audio = _Microphone(self.frames())
        self._session.on(
            "user_input_transcribed",
            lambda event: self.hear(self.identity, "", event.transcript, event.is_final),
        )
        await self._session.start(Agent(instructions=""))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.leave()
        await self._session.aclose()
        if self._session.stt:
            await self._session.stt.aclose()


class _Microphone(io.AudioInput):
    def __init__(self, frames: AsyncIterator[rtc.AudioFrame]) -> None:
        super().__init__(label="recordings")
        self._frames = frames

    async def __anext__(self) -> rtc.AudioFrame:
        return await self._frames.__anext__()


async def show(provider: str, *, without_room: bool = False) -> int:
    """Runs it all; returns the exit status."""
    recordings = material.read_recordings()
    async with AsyncExitStack() as stack:
        server = None if without_room else await start_server(stack)
        if server is None:
            console.print(
                "[yellow]No LiveKit server here[/]: the same agent session runs on the recordings, "
                "without a room. The README says how to get a server.\n"
            )
        settings = {
            "STT_PROVIDER": provider,
            "STT_MODEL": await asyncio.to_thread(material.choose_model, provider, console.print),
            "STT_LANGUAGE": "en",
        }
        if server is None:
            rows = await rehearse(settings, recordings)
        else:
            rows = await perform(server, settings, recordings)
    show_table(rows)
    first, again = await measure_creation(settings)
    console.print(
        f"\nA model in one process (STT_BACKEND=process): first creation [bold]{first:.2f} s[/], "
        f"cached creation [bold]{1000 * again:.2f} ms[/]."
    )
    await draw_timeline(settings)
    passed = all(row.passed for row in rows) and len(rows) == len(recordings)
    mark = "[green]passed[/]" if passed else "[red]failed[/]"
    console.print(f"Every utterance with a word error rate under {WER_LIMIT}: {mark}.")
    return 0 if passed else 1


async def draw_timeline(settings: dict[str, str]) -> None:
    """A picture of one utterance; where there can be none, that is said, and nothing else."""
    recording, said = material.utterance()
    console.print(f"\nDrawing when the words of {recording.name} come, here and the plain way …")
    provider, model = settings["STT_PROVIDER"], settings["STT_MODEL"]
    try:
        with hosts.own():
            await comparison.draw(provider, model, recording, said, TIMELINE)
    except comparison.NoTimeline as exc:
        console.print(f"[yellow]No timeline[/]: {escape(str(exc))}", soft_wrap=True)
    else:
        console.print(f"Timeline: [bold]{escape(str(TIMELINE))}[/]", soft_wrap=True)


async def start_server(stack: AsyncExitStack) -> LiveKitServer | None:
    """The real server, until the stack is unwound; None, with the reason printed, if none runs."""
    try:
        server = await stack.enter_async_context(LiveKitServer())
    except (FileNotFoundError, ChildFailed) as exc:
        console.print(f"[yellow]{escape(str(exc))}[/]")
        return None
    console.print(f"livekit-server answers at {server.url}")
    return server


async def perform(server: LiveKitServer, settings: dict[str, str], recordings: Script) -> list[Row]:
    """Two rooms of the real server, one after the other, served by one worker."""
    started = time.monotonic()
    async with Worker(server, env=settings) as worker:
        console.print(f"worker registered after {time.monotonic() - started:.1f} s")
        loaded = await worker.logged("[WHISPER-HOST] leased", timeout=LOAD_TIMEOUT)
        console.print(loaded[0]["message"], style="dim", markup=False)
        rows: list[Row] = []
        for number, part in enumerate(split(recordings), start=1):
            announce("Room", number)
            try:
                rows += await play(Caller(server, f"demo-{number}"), part)
            except (TimeoutError, asyncio.TimeoutError) as exc:
                raise ChildFailed(f"{exc}; the worker's last lines:\n{worker.tail()}") from exc
        show_sharing(worker)
        if not all(row.passed for row in rows):
            console.print(f"[yellow]The worker's last lines:[/]\n{escape(worker.tail())}")
        return rows


def show_sharing(worker: Worker) -> None:
    """Which processes used which model."""
    jobs = sorted({record["pid"] for record in worker.records("[STT-CACHE] reusing")})
    for place in worker.hosts():
        loads = place.log.read_text().count("[WHISPER-LOAD]")
        memory = psutil.Process(owner_pid(place)).memory_full_info().pss / 2**20
        console.print(
            f"\nJob processes [bold]{' and '.join(map(str, jobs))}[/] shared one host, process "
            f"[bold]{owner_pid(place)}[/] ({memory:.0f} MB): models loaded: [bold]{loads}[/]."
        )


async def rehearse(settings: dict[str, str], recordings: Script) -> list[Row]:
    """Two sessions in this process, one after the other."""
    for name in [name for name in os.environ if name.startswith(("STT_", "LLM_", "TTS_"))]:
        del os.environ[name]
    os.environ.update(settings, PYTHON_DOTENV_DISABLED="1")
    logging.getLogger("livekit").setLevel(logging.ERROR)
    rows: list[Row] = []
    with hosts.own():
        for number, part in enumerate(split(recordings), start=1):
            announce("Session", number)
            rows += await play(Rehearsal("caller"), part)
    return rows


async def play(speaking: AbstractAsyncContextManager[Speaker], recordings: Script) -> list[Row]:
    """Plays recordings one after the other, and shows the words as they arrive."""
    rows = []
    async with speaking as speaker:
        showing = asyncio.create_task(show_words(speaker.events()))
        for recording, reference in recordings:
            console.print(f"  ▶ {recording.name} [dim]({recording.duration:.1f} s)[/]")
            utterance = await speaker.play(recording, timeout=60)
            if utterance.final_at is None:
                console.print("    [red]nothing arrived[/]")
            rows.append(Row(reference, utterance, word_error_rate(reference, utterance.text)))
    await showing
    return rows


def announce(what: str, number: int) -> None:
    """What comes next, and how to read it."""
    console.print(
        f"\n[bold]{what} {number}[/]  [dim]seconds since the first spoken sample; ✓ final words[/]"
    )


async def show_words(events: AsyncIterator[Heard]) -> None:
    """Prints each text as it comes, with its time; dimmed until it is final."""
    shown = ""
    async for heard in events:
        if heard.final or heard.text != shown:
            line = Table.grid(padding=(0, 1))
            line.add_column(width=8, justify="right")
            line.add_column(width=1)
            line.add_column()
            line.add_row(
                Text(f"{heard.since:.1f} s", style="dim"),
                Text("✓" if heard.final else "", style="green"),
                Text(heard.text, style="cyan" if heard.final else "dim"),
            )
            console.print(line)
        shown = "" if heard.final else heard.text


def show_table(rows: Sequence[Row]) -> None:
    """Per utterance: what was said, what was understood, and how soon."""
    table = Table(title="\nWhat arrived", title_justify="left", show_lines=True)
    for heading in ("Reference", "Transcript"):
        table.add_column(heading, ratio=1)
    for heading in ("WER", "Delay"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        delay = row.utterance.delay
        table.add_row(
            escape(row.reference),
            escape(row.utterance.text) or "[red]nothing[/]",
            f"[{'green' if row.passed else 'red'}]{row.wer:.2f}[/]",
            "–" if delay is None else f"{delay:.2f} s",
        )
    console.print(table)
    console.print(
        "[dim]Delay: from the end of speech to the final text. It holds the 0.55 s of silence "
        "after which the VAD takes speech for ended.[/]"
    )


async def measure_creation(settings: dict[str, str]) -> tuple[float, float]:
    """Seconds to a loaded model at the first creation in a process, and at the next ones."""
    config = whisper.STTConfig(
        provider=settings["STT_PROVIDER"],
        model=settings["STT_MODEL"],
        language="en",
        backend="process",
    )
    factory, vad = whisper.ProviderFactory, silero.VAD.load()
    await factory.aclear()  # after a rehearsal the model is here already
    started = time.perf_counter()
    handle = factory.create_stt(config, vad)
    handle.prewarm()
    await until(lambda: bool(factory.model_info().entries), LOAD_TIMEOUT)
    first = time.perf_counter() - started
    times = []
    for _ in range(20):
        started = time.perf_counter()
        again = factory.create_stt(config, vad)
        times.append(time.perf_counter() - started)
        await again.aclose()
    await handle.aclose()
    return first, statistics.median(times)


def split(recordings: Script) -> list[Script]:
    """One part for each room."""
    rest = iter(recordings)
    return [list(islice(rest, size)) for size in ROOM_SIZES]
