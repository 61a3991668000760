"""An AgentSession on the stream, with each way to tell the end of a turn; real speech and VAD."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from livekit import rtc
from livekit.agents import (
    Agent,
    AgentSession,
    UserInputTranscribedEvent,
    io,
)
from livekit.agents import vad as agents_vad
from livekit.plugins import whisper

from tests.support.llm import Listener
from tests.support.streams import SECOND, Samples, frames, speech
from tests.support.weights import TINY

SAID = "He might even have been made amiable himself."


class Microphone(io.AudioInput):
    """What is spoken into it, in real time, and silence after it."""

    def __init__(self, samples: Samples) -> None:
        super().__init__(label="microphone")
        self._frames = iter([*frames(np.concatenate([SECOND, samples])), *frames(SECOND)])
        self._silence = next(iter(frames(np.zeros(320, np.int16))))
        self._due = 0.0
        self.over = asyncio.Event()

    async def __anext__(self) -> rtc.AudioFrame:
        clock = asyncio.get_running_loop().time
        self._due = (self._due or clock()) + 0.02
        await asyncio.sleep(self._due - clock())
        frame = next(self._frames, None)
        if frame is None:
            self.over.set()
        return frame or self._silence


@asynccontextmanager
async def session(
    vad: agents_vad.VAD, how: str, samples: Samples
) -> AsyncIterator[tuple[AgentSession[None], Microphone, list[tuple[str, str]]]]:
    """One that hears this; and what happens in it: interim and final texts, questions."""
    happened: list[tuple[str, str]] = []
    config = whisper.STTConfig(model=TINY.model, backend="process")
    heard = whisper.ProviderFactory.create_stt(config, vad)
    turn_handling: Any = {"turn_detection": how, "interruption": {"mode": "vad"}}
    made: AgentSession[None] = AgentSession(
        vad=vad, stt=heard, llm=Listener(lambda text: happened.append(("asked", text))),
        turn_handling=turn_handling,
    )  # fmt: skip

    def on_text(event: UserInputTranscribedEvent) -> None:
        happened.append(("final" if event.is_final else "interim", event.transcript))

    made.on("user_input_transcribed", on_text)
    microphone = Microphone(samples)
    made.input.audio = microphone
    await made.start(Agent(instructions=""))
    try:
        yield made, microphone, happened
    finally:
        await made.aclose()
        await heard.aclose()


@pytest.mark.parametrize("how", ["vad", "stt", "manual"])
async def test_turn_is_heard_once_and_answered(vad: agents_vad.VAD, how: str) -> None:
    async with session(vad, how, speech(4)) as (made, microphone, happened):
        answered = asyncio.Event()
        made.on("conversation_item_added", lambda event: added(event.item))
        said: list[str] = []

        def added(item: Any) -> None:
            if item.role == "user" and item.text_content:  # an empty turn ends with the session
                said.append(item.text_content)
            elif item.role == "assistant":
                answered.set()

        await asyncio.wait_for(microphone.over.wait(), 60)
        if how == "manual":
            made.commit_user_turn()
        await asyncio.wait_for(answered.wait(), 60)
    finals = [text for what, text in happened if what == "final"]
    assert finals == said == [SAID]
    assert ("asked", SAID) in happened


async def test_llm_is_asked_before_the_vad_is_sure(vad: agents_vad.VAD) -> None:
    """LiveKit generates the answer ahead, from the preflight; the final has the same words."""
    async with session(vad, "vad", speech(4)) as (_, microphone, happened):
        await asyncio.wait_for(microphone.over.wait(), 60)
    assert happened.index(("asked", SAID)) < happened.index(("final", SAID))
    assert happened.count(("asked", SAID)) == 1
