"""A voice agent that hears with Whisper on your own machine. Copy it and change what you need.

    python simple_main.py dev                        # or: start, console, download-files
    python -m livekit.agents start simple_main.py    # LiveKit's own command runs it as well

STT_PROVIDER, STT_MODEL, … choose what it hears with (see the README). It answers where LLM_MODEL
is set, aloud where TTS_MODEL is set too: a name that LiveKit knows ("openai/gpt-4.1-mini") or, with
LLM_BASE_URL or TTS_BASE_URL, a model on an OpenAI-compatible server of your own.
"""

import os
import sys
from typing import Any

from dotenv import load_dotenv
from livekit import agents
from livekit.agents import Agent, AgentServer, AgentSession, JobContext, cli
from livekit.plugins import silero, whisper

load_dotenv()
if os.getenv("LLM_BASE_URL") or os.getenv("TTS_BASE_URL"):
    from livekit.plugins import openai  # not later: plugins register on the main thread only

server = AgentServer(
    setup_fnc=whisper.prewarm,
    num_idle_processes=1,  # each of them keeps a model warm
    job_executor_type=agents.JobExecutorType(os.getenv("AGENT_EXECUTOR", "process")),  # or: thread
    # 0.7 is full: by nine jobs, by a busy host, or for want of a model; not by loading one.
    load_fnc=lambda server: max(len(server.active_jobs) / 12, whisper.load_fnc(cpu=False)),
    log_level="INFO",
)


def choose(kind: str) -> Any:
    """The LLM or TTS that the environment names, if it names one."""
    model, url = os.getenv(f"{kind}_MODEL"), os.getenv(f"{kind}_BASE_URL")
    if not model or not url:
        return model or agents.NOT_GIVEN
    key = os.getenv(f"{kind}_API_KEY", "none")
    if kind == "LLM":
        return openai.LLM(model=model, base_url=url, api_key=key)
    voice = os.getenv("TTS_VOICE", "alloy")
    return openai.TTS(model=model, base_url=url, api_key=key, voice=voice)


def build_session() -> AgentSession[None]:
    vad = silero.VAD.load()
    return AgentSession(
        vad=vad,
        stt=whisper.ProviderFactory.create_stt(whisper.STTConfig(), vad=vad),
        llm=choose("LLM"),
        tts=choose("TTS"),
        # In dev mode LiveKit's own choices for these two would send the audio to its cloud.
        turn_handling={"turn_detection": "vad", "interruption": {"mode": "vad"}},
    )


@server.rtc_session()
async def transcribe(ctx: JobContext) -> None:
    session = build_session()
    session.on("close", lambda _: ctx.shutdown("the session has ended"))
    if session.stt:  # gives the cached model back; LiveKit leaves that to us
        ctx.add_shutdown_callback(session.stt.aclose)
    if ctx.is_fake_job():  # the console shows answers, but not what was heard
        session.on("user_input_transcribed", lambda event: print(event.transcript))  # noqa: T201
    aloud, answers = session.tts is not None, session.llm is not None
    options = agents.room_io.RoomOptions(audio_output=aloud and answers, text_input=answers)
    await session.start(Agent(instructions="Be brief."), room=ctx.room, room_options=options)


if __name__ == "__main__":
    try:
        whisper.ProviderFactory.cached_stt()  # a wrong setting ends here, not in every job
    except whisper.WhisperError as exc:
        sys.exit(f"error: {exc}")
    cli.run_app(server)
