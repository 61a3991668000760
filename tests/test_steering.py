"""What a session knows steers how is decoded for it, and for nobody else."""

from __future__ import annotations

import asyncio
import logging

import numpy as np
import pytest
from livekit import rtc
from livekit.agents import Agent, AgentSession, ConversationItemAddedEvent, llm
from livekit.agents import vad as agents_vad
from livekit.plugins import whisper
from livekit.plugins.whisper.audio import from_file
from livekit.plugins.whisper.errors import ConfigError
from livekit.plugins.whisper.steering import KEYTERMS_LENGTH, TURNS_LENGTH, Steering, steered
from livekit.plugins.whisper.types import DecodeOptions

from tests.support.streams import FINAL, push, speech
from tests.support.weights import TINY, openai_checkpoint, recordings

OPTIONS = DecodeOptions("en", prompt="A novel.", hotwords="Norland")
MISHEARD, SAID = "old-sposed", "ill-disposed"
"""What tiny.en hears in recording 1 on its own, and what is said."""


def turn(role: llm.ChatRole, text: str) -> ConversationItemAddedEvent:
    return ConversationItemAddedEvent(item=llm.ChatMessage(role=role, content=[text]))


def test_keyterms_come_after_the_users_own_and_once() -> None:
    steering = Steering()
    steering.set_keyterms(["Dashwood", "norland", "Nor", " Barton  Park ", "Dashwood", ""])
    assert steering.add(OPTIONS).hotwords == "Norland, Dashwood, Nor, Barton Park"
    steering.set_keyterms([])
    assert steering.add(OPTIONS) == OPTIONS


def test_keyterms_go_into_the_prompt_of_an_engine_without_hotwords() -> None:
    steering = Steering()
    steering.set_keyterms(["Dashwood", "Barton"])
    options = steering.add(OPTIONS, hotwords=False)
    assert options.hotwords == "Norland"
    assert options.prompt == "A novel. Dashwood, Barton."


def test_too_many_keyterms_are_left_out_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    steering = Steering()
    with caplog.at_level(logging.WARNING):
        steering.set_keyterms([f"name {number}" for number in range(100)])
    hotwords = steering.add(DecodeOptions()).hotwords
    assert hotwords and hotwords.startswith("name 0, name 1, ")
    assert KEYTERMS_LENGTH - 10 < len(hotwords) <= KEYTERMS_LENGTH
    (record,) = caplog.records
    assert "left out" in record.getMessage()
    assert "name" not in record.getMessage()


def test_prompt_ends_with_the_last_turns_and_with_what_was_just_said() -> None:
    steering = Steering()
    for text in ("Hello.", "Who is there?", "It is I,  John."):
        steering.add_turn(text)
    steering.before = "And"
    assert steering.add(OPTIONS).prompt == "A novel. Who is there? It is I, John. And"
    steering.add_turn("word " * 100)
    prompt = steering.add(DecodeOptions()).prompt
    assert prompt and len(prompt) <= TURNS_LENGTH
    assert prompt.startswith("word ")


def test_what_was_said_is_kept_in_scripts_without_spaces_too() -> None:
    steering = Steering()
    steering.before = "好的。" + 99 * "我们明天见"
    prompt = steering.add(DecodeOptions()).prompt
    assert prompt and len(prompt) == TURNS_LENGTH


def test_whoever_asks_steers_and_the_stream_has_the_last_word() -> None:
    stream, handle = Steering(), Steering()
    handle.update(language="de", prompt=None)
    handle.set_keyterms(["Dashwood"])
    stream.update(language="French", hotwords="Barton")
    assert steered(OPTIONS) == OPTIONS
    with stream.asking(), handle.asking():
        options = steered(OPTIONS)
        assert stream.asks
    assert (options.language, options.prompt, options.hotwords) == ("fr", None, "Barton, Dashwood")
    assert not stream.asks
    stream.update(language="auto", hotwords="")
    assert (stream.change(options).language, stream.change(options).hotwords) == (None, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"beam_size": 5}, "beam_size: cannot be changed; allowed: language, prompt, hotwords"),
     ({"language": "Klingon"}, "language: "),
     ({"prompt": 5}, "prompt: allowed: text, or None"), ({"language": "de"}, "knows English only")],
)  # fmt: skip
def test_change_that_cannot_be_is_refused_at_once(
    changes: dict[str, object], message: str, vad: agents_vad.VAD
) -> None:
    handle = whisper.ProviderFactory.create_stt(whisper.STTConfig(model="tiny.en"), vad=vad)
    assert isinstance(handle, whisper.WhisperStreamAdapter)
    for each in (handle, whisper.FasterWhisperSTT("tiny.en")):
        with pytest.raises(ConfigError, match=message):
            each.update_options(**changes)


@pytest.mark.parametrize("provider", ["faster-whisper", "whisper"])
async def test_keyterms_of_one_session_are_not_anothers(provider: str, vad: agents_vad.VAD) -> None:
    model = TINY.model if provider == "faster-whisper" else str(openai_checkpoint())
    config = whisper.STTConfig(provider=provider, model=model, backend="process")
    mine, other = (whisper.ProviderFactory.create_stt(config, vad=vad) for _ in range(2))
    assert isinstance(mine, whisper.WhisperStreamAdapter)
    assert isinstance(other, whisper.WhisperStreamAdapter)
    assert mine.wrapped_stt is other.wrapped_stt
    assert mine.capabilities.keyterms
    mine._update_session_keyterms([SAID])
    samples = (from_file(recordings()[1]).samples * 32767).astype(np.int16)
    frame = rtc.AudioFrame(samples.tobytes(), 16_000, 1, len(samples))
    assert SAID in (await mine.recognize(frame)).alternatives[0].text
    assert SAID not in (await other.recognize(frame)).alternatives[0].text


async def test_options_change_in_an_open_stream() -> None:
    stt = whisper.FasterWhisperSTT(TINY.model, backend="process", interim_results=False)
    heard: list[str] = []
    stream, other = stt.stream(), stt.stream()
    async with stream, other:
        for each, change in ((stream, stream.update_options), (other, stt.update_options)):
            for hotwords in (None, SAID):
                change(hotwords=hotwords)
                push(each, speech(1))
                each.flush()
                async for event in each:
                    if event.type == FINAL:
                        heard.append(event.alternatives[0].text)
                        break
            stt.update_options(hotwords=None)
    assert [SAID in text for text in heard] == [False, True, False, True]


async def test_conversation_is_shown_to_the_model_if_that_is_wanted(vad: agents_vad.VAD) -> None:
    prompts = []
    for wanted in (False, True):
        config = whisper.STTConfig(model=TINY.model, chat_context=wanted, backend="process")
        handle = whisper.ProviderFactory.create_stt(config, vad=vad)
        assert isinstance(handle, whisper.WhisperStreamAdapter)
        assert handle.capabilities.chat_context is wanted
        session: AgentSession[None] = AgentSession(stt=handle, vad=vad)
        await session.start(Agent(instructions="Be brief."))
        for event in (
            turn("assistant", "Who is there?"),
            turn("system", "No."),
            turn("user", "I."),
        ):
            session.emit("conversation_item_added", event)
        await asyncio.sleep(0)
        prompts.append(handle._steering.add(DecodeOptions()).prompt)
        await session.aclose()
        await handle.aclose()
    assert prompts == [None, "Who is there? I."]
