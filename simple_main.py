"""A voice agent that hears with Whisper on your own machine. Copy it and change what you need.

    python simple_main.py dev                        # or: start, console, download-files
    python -m livekit.agents start simple_main.py    # LiveKit's own command runs it as well

STT_PROVIDER, STT_MODEL, STT_LANGUAGE, … choose what it hears with. It answers where LLM_MODEL is
set, aloud where TTS_MODEL is set too, and only transcribes otherwise. A model is one of LiveKit's
names ("openai/gpt-4.1-mini") or, with LLM_BASE_URL or TTS_BASE_URL, one on a server of your own.
"""

import logging
import os
from typing import Any

from dotenv import load_dotenv
from livekit import agents
from livekit.agents import Agent, AgentServer, AgentSession, JobContext, JobExecutorType, cli
from livekit.plugins import silero, whisper

load_dotenv()
if os.getenv("LLM_BASE_URL") or os.getenv("TTS_BASE_URL"):
    from livekit.plugins import openai

server = AgentServer(
    setup_fnc=whisper.prewarm,
    num_idle_processes=1,  # each of them keeps a model warm
    job_executor_type=JobExecutorType(os.getenv("AGENT_EXECUTOR", "process")),  # or: thread
    log_level="INFO",
)


def choose_llm() -> agents.llm.LLM[Any] | str | None:
    model, url = os.getenv("LLM_MODEL"), os.getenv("LLM_BASE_URL")
    if model and url:
        return openai.LLM(model=model, base_url=url, api_key=os.getenv("LLM_API_KEY", "none"))
    return model


def choose_tts() -> agents.tts.TTS[Any] | str | None:
    model, url, voice = (os.getenv(f"TTS_{name}") for name in ("MODEL", "BASE_URL", "VOICE"))
    if model and url:
        key = os.getenv("TTS_API_KEY", "none")
        return openai.TTS(model=model, base_url=url, api_key=key, voice=voice or "alloy")
    return f"{model}:{voice}" if model and voice else model


def build_session() -> AgentSession[None]:
    vad = silero.VAD.load()
    return AgentSession(
        vad=vad,
        stt=whisper.ProviderFactory.create_stt(whisper.STTConfig(), vad=vad),
        llm=choose_llm() or agents.NOT_GIVEN,
        tts=choose_tts() or agents.NOT_GIVEN,
        # In dev mode LiveKit's own choices for these two would send the audio to its cloud.
        turn_handling={"turn_detection": "vad", "interruption": {"mode": "vad"}},
    )


@server.rtc_session()
async def transcribe(ctx: JobContext) -> None:
    session = build_session()
    session.on("close", lambda _: ctx.shutdown("the session has ended"))
    if session.stt:  # gives the cached model back; LiveKit leaves that to us
        ctx.add_shutdown_callback(session.stt.aclose)
    answers = session.llm is not None
    options = agents.room_io.RoomOptions(
        audio_output=answers and session.tts is not None, text_input=answers
    )
    await session.start(Agent(instructions="Be brief."), room=ctx.room, room_options=options)


def hide_what_was_said(record: logging.LogRecord) -> bool:
    """LiveKit puts people's words into fields named `lk.pii.…`: they stay out of the log."""
    for field in [name for name in vars(record) if name.startswith("lk.pii.")]:
        setattr(record, field, "…")
    return True


logging.getLogger("livekit.agents").addFilter(hide_what_was_said)

if __name__ == "__main__":
    cli.run_app(server)
