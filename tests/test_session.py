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
    LanguageCode,
    UserInputTranscribedEvent,
    inference,
    io,
    llm,
)
from livekit.agents import stt as agents_stt
from livekit.agents import vad as agents_vad
from livekit.plugins import whisper
from livekit.plugins.whisper import WhisperStreamAdapter

from tests.support.llm import Listener
from tests.support.streams import SECOND, Samples, frames, speech, trimmed
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
    vad: agents_vad.VAD, how: Any, samples: Samples, *, heard: Any = None, agent: Any = None
) -> AsyncIterator[tuple[AgentSession[None], Microphone, list[tuple[str, str]]]]:
    """One that hears this; and what happens in it: interim and final texts, questions.

    With `heard`, it hears with that STT; with `agent`, the VAD is that agent's.
    """
    happened: list[tuple[str, str]] = []
    config = whisper.STTConfig(model=TINY.model, backend="process")
    heard = heard or whisper.ProviderFactory.create_stt(config, vad)
    turn_handling: Any = {"turn_detection": how, "interruption": {"mode": "vad"}}
    made: AgentSession[None] = AgentSession(
        vad=None if agent else vad, stt=heard, turn_handling=turn_handling,
        llm=Listener(lambda text: happened.append(("asked", text))),
    )  # fmt: skip

    def on_text(event: UserInputTranscribedEvent) -> None:
        happened.append(("final" if event.is_final else "interim", event.transcript))

    made.on("user_input_transcribed", on_text)
    microphone = Microphone(samples)
    made.input.audio = microphone
    await made.start(agent or Agent(instructions=""))
    try:
        yield made, microphone, happened
    finally:
        await made.aclose()
        await heard.aclose()


class Reader:
    """A turn detector that reads what was said, as LiveKit's plugin does; sure or not, as told.

    The plugin's own weights come from a model hub.
    """

    model, provider = "reader", "test"

    def __init__(self, probability: float) -> None:
        self._probability = probability
        self.read: list[str] = []

    async def unlikely_threshold(self, language: LanguageCode | None) -> float | None:
        return 0.5

    async def supports_language(self, language: LanguageCode | None) -> bool:
        return language == "en"

    async def predict_end_of_turn(
        self, chat_ctx: llm.ChatContext, *, timeout: float | None = None
    ) -> float:
        self.read.append(chat_ctx.messages()[-1].text_content or "")
        return self._probability


class Listening(inference.TurnDetector):
    """LiveKit's own detector, real and on this machine; remembers what it predicted."""

    def __init__(self) -> None:
        super().__init__(version="v1-mini")
        self.predictions: list[asyncio.Future[Any]] = []

    def stream(self, **options: Any) -> Any:
        opened = super().stream(**options)
        predict = opened.predict

        def remembered() -> asyncio.Future[Any]:
            self.predictions.append(predict())
            return self.predictions[-1]

        opened.predict = remembered  # type: ignore[method-assign]
        return opened


async def test_detector_that_is_unsure_has_two_utterances_in_one_turn(
    vad: agents_vad.VAD,
) -> None:
    """It reads each final as it comes; the turn ends where it has waited in vain for more."""
    detector = Reader(0.1)
    sound = np.concatenate([trimmed(speech(4)), SECOND, trimmed(speech(4))])
    async with session(vad, detector, sound) as (made, _, happened):
        answered = asyncio.Event()
        turns: list[str] = []

        def added(item: Any) -> None:
            if item.role == "user" and item.text_content:
                turns.append(item.text_content)
            elif item.role == "assistant":
                answered.set()

        made.on("conversation_item_added", lambda event: added(event.item))
        await asyncio.wait_for(answered.wait(), 60)
    (turn,) = turns
    finals = [text for what, text in happened if what == "final"]
    assert finals == [SAID] * 2
    assert turn == f"{SAID} {SAID}"
    assert detector.read[0] == SAID
    assert detector.read[-1] == turn
    assert happened.count(("asked", turn)) == 1


@pytest.mark.parametrize("how", ["vad", "stt", "manual", "reads", "listens"])
async def test_turn_is_heard_once_and_answered(vad: agents_vad.VAD, how: Any) -> None:
    """`reads` and `listens` are turn detectors."""
    if how == "listens":
        how = Listening()
    elif how == "reads":
        how = Reader(0.9)
    async with session(vad, how, speech(4)) as (made, microphone, happened):
        answered = asyncio.Event()
        made.on("conversation_item_added", lambda event: added(event.item))
        turns: list[str] = []

        def added(item: Any) -> None:
            if item.role == "user" and item.text_content:  # an empty turn ends with the session
                turns.append(item.text_content)
            elif item.role == "assistant":
                answered.set()

        await asyncio.wait_for(microphone.over.wait(), 60)
        if how == "manual":
            made.commit_user_turn()
        await asyncio.wait_for(answered.wait(), 60)
    finals = [text for what, text in happened if what == "final"]
    assert finals == turns == [SAID]
    assert ("asked", SAID) in happened
    if isinstance(how, Reader):
        assert how.read[-1] == SAID
    if isinstance(how, Listening):
        done = [each.result() for each in how.predictions if not each.cancelled()]
        assert 0.0 <= done[-1].end_of_turn_probability <= 1.0


@pytest.mark.parametrize("whose", ["session", "agent"])
async def test_stt_without_a_vad_takes_the_sessions(
    vad: agents_vad.VAD, caplog: pytest.LogCaptureFixture, whose: str
) -> None:
    """As other plugins are used; the words come as early as with `vad=`."""
    stt = whisper.FasterWhisperSTT(TINY.model)
    agent = Agent(instructions="", vad=vad) if whose == "agent" else None
    async with session(vad, "vad", speech(2), heard=stt, agent=agent) as (_, microphone, happened):
        await asyncio.wait_for(microphone.over.wait(), 60)
    (final,) = [text for what, text in happened if what == "final"]
    assert happened.index(("asked", final)) < happened.index(("final", final))
    interims = [text for what, text in happened if what == "interim"]
    assert any(text not in ("", final) for text in interims)
    assert "StreamAdapter" not in caplog.text
    assert not stt.capabilities.streaming  # outside of a session


async def test_turn_committed_by_hand_is_heard_with_the_sessions_vad(vad: agents_vad.VAD) -> None:
    """Its flush is answered at once, which a `StreamAdapter` of LiveKit's does not do."""
    stt = whisper.FasterWhisperSTT(TINY.model)
    async with session(vad, "manual", speech(4), heard=stt) as (made, microphone, happened):
        answered = asyncio.Event()

        def added(event: Any) -> None:
            if event.item.role == "assistant":
                answered.set()

        made.on("conversation_item_added", added)
        await asyncio.wait_for(microphone.over.wait(), 60)
        made.commit_user_turn()
        await asyncio.wait_for(answered.wait(), 60)
    assert ("asked", SAID) in happened
    assert made.history.messages()[0].text_content == SAID


async def test_livekits_own_stream_adapter_is_warned_of_once(
    vad: agents_vad.VAD, caplog: pytest.LogCaptureFixture
) -> None:
    stt = whisper.FasterWhisperSTT(TINY.model, prompt="private")
    for _ in range(2):
        agents_stt.StreamAdapter(stt=stt, vad=vad)
    (warning,) = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert "neither interim results nor a preflight" in warning
    assert "FasterWhisperSTT(…, vad=vad)" in warning
    assert "private" not in warning
    whisper.ProviderFactory.create_stt({"stt_model": TINY.model}, vad)
    WhisperStreamAdapter(stt=whisper.FasterWhisperSTT(TINY.model), vad=vad)
    assert caplog.text.count("neither interim") == 1


async def test_llm_is_asked_before_the_vad_is_sure(vad: agents_vad.VAD) -> None:
    """LiveKit generates the answer ahead, from the preflight; the final has the same words."""
    async with session(vad, "vad", speech(4)) as (_, microphone, happened):
        await asyncio.wait_for(microphone.over.wait(), 60)
    assert happened.index(("asked", SAID)) < happened.index(("final", SAID))
    assert happened.count(("asked", SAID)) == 1
