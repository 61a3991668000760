"""A voice agent that hears with Whisper on your own machine. Copy it and change what you need.

    python simple_main.py dev                        # or: start, console, download-files
    python -m livekit.agents start simple_main.py    # LiveKit's own command runs it as well

STT_PROVIDER, STT_MODEL, STT_LANGUAGE, … choose what it hears with. It answers where LLM_MODEL is
set, aloud where TTS_MODEL is set too, and only transcribes otherwise. A model is one of LiveKit's
names ("openai/gpt-4.1-mini") or, with LLM_BASE_URL or TTS_BASE_URL, one on a server of your own.
"""

import logging
import os
import sys
from typing import Any

from dotenv import load_dotenv
from livekit.agents import (
    NOT_GIVEN,
    Agent,
    AgentServer,
    AgentSession,
    JobContext,
    JobExecutorType,
    cli,
    room_io,
)
from livekit.plugins import silero, whisper

load_dotenv()
server = AgentServer(
    setup_fnc=whisper.prewarm,
    num_idle_processes=1,  # each of them keeps a model warm
    job_executor_type=JobExecutorType(os.getenv("AGENT_EXECUTOR", "process")),  # or: thread
    log_level="INFO",
)


def choose(kind: str, **options: str | None) -> Any:
    """The LLM or TTS that the environment names, if it names one."""
    model, url = os.getenv(f"{kind}_MODEL"), os.getenv(f"{kind}_BASE_URL")
    if not model or not url:
        return model or NOT_GIVEN
    from livekit.plugins import openai

    key, given = os.getenv(f"{kind}_API_KEY", "none"), {k: v for k, v in options.items() if v}
    return getattr(openai, kind)(model=model, base_url=url, api_key=key, **given)


def build_session() -> AgentSession[None]:
    vad = silero.VAD.load()
    return AgentSession(
        vad=vad,
        stt=whisper.ProviderFactory.create_stt(whisper.STTConfig(), vad=vad),
        llm=choose("LLM"),
        tts=choose("TTS", voice=os.getenv("TTS_VOICE")),
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
    options = room_io.RoomOptions(
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
    try:
        whisper.ProviderFactory.cached_stt()  # a wrong setting ends here, not in every job
    except whisper.WhisperError as exc:
        sys.exit(f"error: {exc}")
    cli.run_app(server)
