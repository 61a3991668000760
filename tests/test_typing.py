"""What people write passes mypy --strict, and what they mistype does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from livekit.plugins import whisper

CODE = """
from livekit.agents import AgentSession, vad
from livekit.plugins import whisper


async def use(config: whisper.STTConfig, detector: vad.VAD) -> None:
    stt = whisper.ProviderFactory.create_stt(config, vad=detector)
    also = whisper.ProviderFactory.create_stt({"stt_model": "tiny"}, detector)
    third = whisper.ProviderFactory.create_stt(vad=detector)
    stt.update_options(language="de", prompt=None)
    print(stt.wrapped_stt.model, stt.model, also.wrapped_stt, third.provider)
    session: AgentSession[None] = AgentSession(vad=detector, stt=stt)
    async with stt.stream(language="de") as stream:
        stream.flush()
        stream.update_options(language="de")
    async with whisper.WhisperSTT(vad=detector) as other, other.stream() as third_stream:
        other.update_options(prompt="Norland")
        third_stream.update_options(hotwords="Norland")
    alone = whisper.FasterWhisperSTT(model="small", language=None, vad=detector)
    alone.update_options(hotwords="Norland")
    print(alone.model_key.engine, session)
    await stt.aclose()
"""
WRONG = """
from livekit.plugins import whisper

whisper.FasterWhisperSTT(modle="small")
whisper.ProviderFactory.create_stt(whisper.STTConfig(), model="small")
"""


def test_strict_mypy(tmp_path: Path) -> None:
    root = Path(whisper.__file__).parents[4]
    (tmp_path / "good.py").write_text(CODE)
    (tmp_path / "wrong.py").write_text(WRONG)
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file", str(root / "pyproject.toml"),
         str(tmp_path / "good.py"), str(tmp_path / "wrong.py")],
        cwd=root, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    lines = [line for line in run.stdout.splitlines() if ": error:" in line]
    assert not [line for line in lines if "good.py" in line], run.stdout
    assert {line.split(":")[1] for line in lines} == {"4", "5"}, run.stdout + run.stderr
