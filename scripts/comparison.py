"""One utterance, heard by this plugin and by what people write today: when do the words come?

Both hear it in real time, one after the other, on the CPU, with the same weights and VAD.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from livekit.agents import APIConnectOptions, stt, vad
from livekit.plugins import silero, whisper
from livekit.plugins.whisper import engines, models
from livekit.plugins.whisper.config import ExplicitConfig

from scripts.plain import PlainSTT
from scripts.speaker import Recording
from scripts.track import Track, follow

HOST_IDLE = 30.0
"""Seconds after which a host ends by itself that could not be ended."""
LOADING = APIConnectOptions(timeout=180.0)
"""For a first utterance, which may have to wait for the model."""
TITLE = "This plugin"
PLAIN_TITLE = "Plain: StreamAdapter around {engine}’s transcribe()"
NOTE = """\
seconds of the recording, played in real time; both: tiny.en ({weights}) on {cores}, Silero VAD \
with its defaults
spoken: less than 35 dB below the loudest 20 ms"""


class NoTimeline(Exception):
    """It could not be drawn; the message says why."""


async def draw(provider: str, model: str, recording: Recording, said: str, path: Path) -> None:
    """Measures, and writes the picture.

    Args:
        provider: `faster-whisper` or `whisper`.
        model: reference of its weights.
        recording: of one utterance.
        said: its words.
        path: of the PNG.

    Raises:
        NoTimeline: no matplotlib, nothing heard, a file that cannot be written, or what else.
    """
    try:
        from scripts import chart, look

        path.parent.mkdir(parents=True, exist_ok=True)
        ours, plain = await measure(provider, model, recording, silero.VAD.load())
        engine = _config(provider, model).model_key.engine
        lanes = [
            chart.Lane(TITLE, ours, look.BLUE, look.LIGHT),
            chart.Lane(PLAIN_TITLE.format(engine=engine), plain, chart.MIDDLE, chart.PALE),
        ]
        chart.draw(recording, said, lanes, _note(engine), path)
    except ImportError as exc:
        raise NoTimeline(f"{exc} (`make demo` installs what it needs)") from exc
    except OSError as exc:
        raise NoTimeline(f"{path}: {exc.strerror or exc}") from exc
    except Exception as exc:  # it is an extra: whatever is in its way stops nothing else
        raise NoTimeline(f"{type(exc).__name__}: {exc}") from exc


async def measure(
    provider: str, model: str, recording: Recording, detector: vad.VAD
) -> tuple[Track, Track]:
    """This plugin's track, then that of what people write today; each has its model loaded.

    Raises:
        APIError, NothingHeard, WhisperError: one of them heard nothing.
    """
    config = _config(provider, model)
    ours = await _follow(whisper.ProviderFactory.create_stt(config, detector), detector, recording)
    engine = config.model_key.engine
    path = models.resolve(engine, model).path
    peer = await asyncio.to_thread(PlainSTT, engine, path)
    plain = await _follow(stt.StreamAdapter(stt=peer, vad=detector), detector, recording)
    return ours, plain


def _config(provider: str, model: str) -> whisper.STTConfig:
    return ExplicitConfig(
        provider=provider, model=model, language="en", device="cpu", host_idle=HOST_IDLE
    )


async def _follow(handle: stt.STT[Any], detector: vad.VAD, recording: Recording) -> Track:
    try:
        await handle.recognize(recording.frames()[0], conn_options=LOADING)  # not cold
        return await follow(handle, detector, recording)
    finally:
        await handle.aclose()


def _note(engine: str) -> str:
    cores = engines.cores()
    return NOTE.format(
        weights="int8" if engine == "faster-whisper" else "float32",
        cores=f"{cores} cores" if cores > 1 else "one core",
    )
