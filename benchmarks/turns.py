"""How soon a session asks its LLM."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

from livekit import rtc
from livekit.agents import Agent, AgentSession, ConversationItemAddedEvent, io

from benchmarks import hosts, subjects
from benchmarks.effort import Effort
from benchmarks.process import running
from benchmarks.results import OURS, PLAIN, Figure, Row, Summary, Target
from benchmarks.script import Said, Script
from benchmarks.subjects import Subject
from tests.support.llm import Listener

ABOUT = """\
Seconds from the last spoken sample of an utterance until the LLM of an `AgentSession` is asked for
the answer that is given, with LiveKit's preemptive generation (its default) and the VAD as turn
detector: this plugin's preflight asks ahead of the end of speech, the peer's final transcript after
it. The recordings are heard as in *Delay of one stream*. The LLM does nothing but note when it is
asked."""
ASKED = "last sample → LLM asked"
LIMIT = 0.5


def measure(effort: Effort, found: Sequence[Subject]) -> list[Figure]:
    """One figure."""
    subject, cells = subjects.fastest(found), dict[str, Summary]()
    for who in (OURS, PLAIN):
        with running(converse, subject, who, Script(2, effort.turn_seconds)) as job:
            cells[who] = Summary.of(job.result())
        hosts.end()
    target = Target("the median", LIMIT, "s", {subject.engine: cells[OURS].p50})
    rows = [Row(subject.engine, ASKED, cells)]
    return [Figure("turns", "Delay of a session's LLM request", "s", ABOUT, rows, [target])]


def converse(_caller: Connection, subject: Subject, who: str, script: Script) -> list[float]:
    """Of each turn of a session (s)."""
    return asyncio.run(_converse(subject, who, script))


class _Microphone(io.AudioInput):
    """What is spoken in the room."""

    def __init__(self, frames: AsyncIterator[rtc.AudioFrame]) -> None:
        super().__init__(label="microphone")
        self._frames = frames
        self.over = asyncio.Event()

    async def __anext__(self) -> rtc.AudioFrame:
        try:
            return await anext(self._frames)
        except StopAsyncIteration:
            self.over.set()
            raise


async def _converse(subject: Subject, who: str, script: Script) -> list[float]:
    subjects.log_as_agents_do()
    detector = subjects.load_vad()
    handle = subject.create(who, detector)
    await subject.prewarm(who)
    said, asked, answered = list[Said](), list[float](), list[float]()

    def note(event: ConversationItemAddedEvent) -> None:
        if getattr(event.item, "role", "") == "assistant":
            answered.append(time.monotonic())

    turn_handling: Any = {"turn_detection": "vad", "interruption": {"mode": "vad"}}
    session: AgentSession[None] = AgentSession(
        vad=detector, stt=handle, llm=Listener(lambda _: asked.append(time.monotonic())),
        turn_handling=turn_handling,
    )  # fmt: skip
    session.on("conversation_item_added", note)
    frames = script.play(
        said, time.monotonic() + 0.5, lambda: bool(answered) and answered[-1] > said[-1].ended
    )
    microphone = _Microphone(frames)
    session.input.audio = microphone
    await session.start(Agent(instructions=""))
    await microphone.over.wait()
    await session.aclose()
    await handle.aclose()
    return _delays(said, asked)


def _delays(said: Sequence[Said], asked: Sequence[float]) -> list[float]:
    """Each utterance's last request: what was asked before it with other words is given up."""
    ends = [*(each.began for each in said[1:]), float("inf")]
    found = list[float]()
    for each, end in zip(said, ends, strict=True):
        times = [at for at in asked if each.ended < at < end]
        found += [times[-1] - each.ended] if times else []
    return found
