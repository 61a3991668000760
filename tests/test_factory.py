"""One shared instance for each configuration, handed out in handles of their own."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from livekit import rtc
from livekit.agents import APIConnectOptions, APIError, stt
from livekit.agents import vad as agents_vad
from livekit.agents.types import NOT_GIVEN, NotGivenOr
from livekit.plugins import whisper
from livekit.plugins.whisper.audio import from_file

from tests.support.weights import TINY, openai_checkpoint, recordings

Factory = type[whisper.ProviderFactory]
CONFIG = whisper.STTConfig(model=TINY.model)


class Broken(stt.STT[str]):
    """A provider that always fails."""

    def __init__(self) -> None:
        capabilities = stt.STTCapabilities(streaming=False, interim_results=False)
        super().__init__(capabilities=capabilities)
        self.asked = 0
        self.closed = False

    async def _recognize_impl(
        self,
        buffer: object,
        *,
        language: NotGivenOr[str] = NOT_GIVEN,
        conn_options: APIConnectOptions,
    ) -> stt.SpeechEvent:
        self.asked += 1
        raise APIError("out of order")

    async def aclose(self) -> None:
        self.closed = True


def speech() -> rtc.AudioFrame:
    samples = (from_file(recordings()[4]).samples * 32767).astype(np.int16)
    return rtc.AudioFrame(samples.tobytes(), 16_000, 1, len(samples))


def test_handle_is_a_stream_adapter_around_the_cached_instance(
    factory: Factory, vad: agents_vad.VAD
) -> None:
    one = factory.create_stt(CONFIG, vad)
    two = factory.create_stt(CONFIG, vad=vad)
    assert isinstance(one, stt.StreamAdapter)
    assert isinstance(one.wrapped_stt, whisper.FasterWhisperSTT)
    assert isinstance(two, stt.StreamAdapter)
    assert one is not two
    assert one.wrapped_stt is two.wrapped_stt
    assert one.capabilities.streaming


def test_mapping_and_configuration_share_one_instance(
    factory: Factory, vad: agents_vad.VAD
) -> None:
    factory.create_stt(CONFIG, vad)
    factory.create_stt({"stt_model": TINY.model, "llm_model": "something"}, vad)
    assert factory.cache_info().misses == 1


def test_swapping_the_provider_is_one_changed_value(
    factory: Factory, vad: agents_vad.VAD, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}
    for provider, model in (
        ("faster-whisper", TINY.model), ("whisper", str(openai_checkpoint())), ("openai", "any"),
    ):  # fmt: skip
        monkeypatch.setenv("STT_PROVIDER", provider)
        monkeypatch.setenv("STT_MODEL", model)
        monkeypatch.setenv("STT_API_KEY", "none")
        handle = factory.create_stt(whisper.STTConfig(), vad)
        assert isinstance(handle, stt.StreamAdapter)
        found[provider] = type(handle.wrapped_stt).__name__
    assert found == {
        "faster-whisper": "FasterWhisperSTT", "whisper": "WhisperSTT", "openai": "STT",
    }  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"language": None}, {"beam_size": 2}, {"prompt": "x"}, {"hotwords": "x"},
        {"word_timestamps": True}, {"device": "cpu"}, {"compute_type": "int8"},
        {"revision": "x"},
    ],
)  # fmt: skip
def test_all_that_changes_the_result_is_in_the_key(
    factory: Factory, vad: agents_vad.VAD, change: dict[str, object]
) -> None:
    plain = factory.cached_stt(CONFIG)
    other = factory.cached_stt(CONFIG.model_copy(update=change))
    assert plain is not other
    assert factory.cache_info().misses == 2


async def test_two_languages_share_the_weights(
    factory: Factory, vad: agents_vad.VAD, backend: whisper.LocalBackend
) -> None:
    for language in ("en", None):
        config = whisper.STTConfig(model=TINY.model, language=language)
        handle = factory.create_stt(config, vad)
        event = await handle.recognize(speech())
        assert "amiable" in event.alternatives[0].text
    assert factory.cache_info().misses == 2
    assert backend.info().misses == 1


async def test_one_instance_and_one_load_under_64_threads_and_tasks(
    factory: Factory, vad: agents_vad.VAD, backend: whisper.LocalBackend
) -> None:
    def create() -> stt.STT[str]:
        return factory.create_stt(CONFIG, vad)

    frame = speech()

    async def recognise(handle: stt.STT[str]) -> str:
        return (await handle.recognize(frame)).alternatives[0].text

    def in_a_loop_of_its_own() -> str:
        return asyncio.run(recognise(create()))

    with ThreadPoolExecutor(32) as pool:
        loop = asyncio.get_running_loop()
        threads = [loop.run_in_executor(pool, in_a_loop_of_its_own) for _ in range(32)]
        tasks = [asyncio.create_task(recognise(create())) for _ in range(32)]
        texts = await asyncio.gather(*threads, *tasks)
    assert set(texts) == {"He might even have been made amiable himself."}
    assert (factory.cache_info().misses, factory.cache_info().hits) == (1, 63)
    assert backend.info().misses == 1


def test_cache_info_tells_the_truth(factory: Factory, vad: agents_vad.VAD) -> None:
    handle = factory.create_stt(CONFIG, vad)
    again = factory.create_stt(CONFIG, vad)
    assert isinstance(handle, stt.StreamAdapter)
    info = factory.cache_info()
    assert (info.hits, info.misses, len(info.entries)) == (1, 1, 1)
    (entry,) = info.entries
    assert (entry.key.provider, entry.key.model, entry.key.language) == (
        "faster-whisper", TINY.model, "en",
    )  # fmt: skip
    assert entry.instance_id == id(handle.wrapped_stt)
    assert entry.refs == 2
    assert 0 <= entry.age < 60
    asyncio.run(again.aclose())
    assert factory.cache_info().entries[0].refs == 1


async def test_aclear_closes_what_nobody_uses(factory: Factory, vad: agents_vad.VAD) -> None:
    broken = Broken()
    factory.register("broken", lambda config: broken)
    used = factory.create_stt(CONFIG, vad)
    idle = factory.create_stt({"stt_provider": "broken"}, vad)
    await idle.aclose()
    await factory.aclear()
    assert broken.closed
    assert [entry.key.provider for entry in factory.cache_info().entries] == ["faster-whisper"]
    await used.aclose()
    await factory.aclear()
    assert factory.cache_info().entries == ()


async def test_model_in_use_survives_aclear_and_memory_pressure(
    factory: Factory, vad: agents_vad.VAD, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handle that is open keeps its model, even while nobody speaks."""
    small = whisper.LocalBackend(whisper.Limits(memory=1))
    monkeypatch.setattr("livekit.plugins.whisper.backend._process_backend", small)
    handle = factory.create_stt(CONFIG, vad)
    await handle.recognize(speech())
    await factory.aclear()
    other = factory.cached_stt(whisper.STTConfig(model=TINY.model, compute_type="float32"))
    await other.recognize(speech())
    assert [entry.key for entry in small.info().entries] == [TINY]
    await handle.aclose()
    assert small.info().entries == ()


def test_forgotten_handle_lets_go(factory: Factory, vad: agents_vad.VAD) -> None:
    handle = factory.create_stt(CONFIG, vad)
    assert factory.cache_info().entries[0].refs == 1
    del handle
    gc.collect()
    assert factory.cache_info().entries[0].refs == 0


async def test_closing_twice_lets_go_once(factory: Factory, vad: agents_vad.VAD) -> None:
    kept = factory.create_stt(CONFIG, vad)
    handle = factory.create_stt(CONFIG, vad)
    await handle.aclose()
    await handle.aclose()
    assert factory.cache_info().entries[0].refs == 1
    await kept.aclose()


async def test_fallback_takes_over_and_is_cached_as_well(
    factory: Factory, vad: agents_vad.VAD
) -> None:
    broken = Broken()
    factory.register("broken", lambda config: broken)
    config = whisper.STTConfig(provider="broken", fallback=CONFIG)
    handle = factory.create_stt(config, vad)
    plain = factory.create_stt(CONFIG, vad)
    assert isinstance(handle, stt.StreamAdapter)
    assert isinstance(handle.wrapped_stt, stt.FallbackAdapter)
    assert (factory.cache_info().misses, factory.cache_info().hits) == (2, 1)
    event = await handle.recognize(speech())
    assert event.alternatives[0].text == "He might even have been made amiable himself."
    assert broken.asked >= 1
    assert [entry.refs for entry in factory.cache_info().entries] == [1, 2]
    await handle.aclose()
    await plain.aclose()
    assert [entry.refs for entry in factory.cache_info().entries] == [0, 0]


async def test_fallback_takes_over_while_the_primary_cannot_be_loaded(
    factory: Factory, vad: agents_vad.VAD, tmp_path: Path
) -> None:
    empty = tmp_path / "model"
    empty.mkdir()
    config = whisper.STTConfig(model=str(empty), fallback=CONFIG)
    event = await factory.create_stt(config, vad).recognize(speech())
    assert "amiable" in event.alternatives[0].text


def test_registered_provider(factory: Factory, vad: agents_vad.VAD) -> None:
    given: list[whisper.STTConfig] = []

    def build(config: whisper.STTConfig) -> stt.STT[str]:
        given.append(config)
        return Broken()

    factory.register("mine", build)
    handle = factory.create_stt({"stt_provider": "mine", "stt_model": "special"}, vad)
    assert isinstance(handle, stt.StreamAdapter)
    assert isinstance(handle.wrapped_stt, Broken)
    assert [config.model for config in given] == ["special"]
    factory.register("mine", build)  # the same again is no conflict
    with pytest.raises(whisper.ConfigError, match="'mine' is taken"):
        factory.register("mine", lambda config: Broken())
    with pytest.raises(whisper.ConfigError, match="'whisper' is taken"):
        factory.register("whisper", build)


def test_provider_from_an_entry_point(
    factory: Factory, vad: agents_vad.VAD, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "acme_stt.py").write_text(
        textwrap.dedent(
            """
            from tests.test_factory import Broken

            def build(config):
                return Broken()
            """
        )
    )
    info = tmp_path / "acme_stt-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-stt\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[livekit_whisper.providers]\nacme = acme_stt:build\nlost = acme_stt:nothing\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    handle = factory.create_stt({"stt_provider": "acme"}, vad)
    assert isinstance(handle, stt.StreamAdapter)
    assert type(handle.wrapped_stt).__name__ == "Broken"
    with pytest.raises(whisper.ConfigError, match=r"'lost'.*'acme_stt:nothing'.*AttributeError"):
        factory.create_stt({"stt_provider": "lost"}, vad)
    sys.modules.pop("acme_stt")


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ({"stt_provider": "faster-wisper"}, "ConfigError", r"did you mean 'faster-whisper'"),
        ({"stt_provider": "kaldi"}, "ConfigError", r"STT_PROVIDER.*'kaldi'.*allowed: faster-wh"),
        ({"stt_model": "tinny.en"}, "ModelNotFound", r"'tinny.en'.*did you mean 'tiny.en'"),
        ({"stt_model": "./nowhere"}, "ModelNotFound", r"'./nowhere': no such file or directory"),
        ({"stt_model": "package:nowhere/x"}, "ModelNotFound", r"no package 'nowhere' is instal"),
        ({"stt_model": "tiny.en", "stt_language": "de"}, "ConfigError", r"use model 'tiny'"),
        ({"stt_model": "tiny.en", "stt_task": "translate"}, "ConfigError", r"use model 'tiny'"),
        (
            {"stt_provider": "whisper", "stt_compute_type": "int8"},
            "ConfigError",
            r"STT_COMPUTE_TYPE.*'int8' is not one of openai-whisper's",
        ),
        (3, "ConfigError", r"must be an STTConfig or a mapping, not int"),
    ],
)
def test_mistakes_are_told_at_once_and_leave_nothing_behind(
    factory: Factory, vad: agents_vad.VAD, config: dict[str, str], error: str, message: str
) -> None:
    with pytest.raises(getattr(whisper, error), match=message):
        factory.create_stt(config, vad)
    assert factory.cache_info().entries == ()
    assert not factory._instances._refs


def test_vad_is_asked_for(factory: Factory) -> None:
    with pytest.raises(whisper.ConfigError, match=r"silero\.VAD\.load\(\)"):
        factory.create_stt(CONFIG)
    assert factory.cache_info().entries[0].refs == 0


def test_openai_needs_a_key(factory: Factory, vad: agents_vad.VAD) -> None:
    with pytest.raises(whisper.ConfigError, match=r"STT_API_KEY or OPENAI_API_KEY"):
        factory.create_stt({"stt_provider": "openai"}, vad)


def test_log_lines_have_the_instance_and_the_key_and_nothing_private(
    factory: Factory, vad: agents_vad.VAD, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="livekit.plugins.whisper")
    config = whisper.STTConfig(model=TINY.model, prompt="my private prompt")
    handle = factory.create_stt(config, vad)
    factory.create_stt(config, vad)
    assert isinstance(handle, stt.StreamAdapter)
    instance = id(handle.wrapped_stt)
    key = f"faster-whisper:{TINY.model}:en+prompt"
    assert f"[STT-CACHE] creating key={key}" in caplog.text
    assert f"[STT-CACHE] reusing instance={instance} key={key}" in caplog.text
    assert f"[WHISPER-INIT] instance={instance}" in caplog.text
    assert "private" not in caplog.text


def test_prewarm_returns_at_once_and_the_session_finds_the_model_loaded(
    factory: Factory, vad: agents_vad.VAD, backend: whisper.LocalBackend,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level(logging.INFO, logger="livekit.plugins.whisper")
    monkeypatch.setenv("STT_MODEL", TINY.model)
    whisper.prewarm(None)
    assert backend.info().entries == ()  # it did not wait for the load
    handle = factory.create_stt(whisper.STTConfig(), vad)
    assert isinstance(handle, stt.StreamAdapter)
    instance = handle.wrapped_stt
    assert isinstance(instance, whisper.FasterWhisperSTT)
    assert instance._warming is not None
    instance._warming.join(60)
    assert [entry.key for entry in backend.info().entries] == [TINY]
    asyncio.run(handle.recognize(speech()))
    assert backend.info().misses == 1
    assert "[STT-CACHE] reusing" in caplog.text
    assert caplog.text.count("[WHISPER-LOAD]") == 1
    assert "[WHISPER-REUSE]" in caplog.text


def test_prewarm_failure_is_one_clear_line(
    factory: Factory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.setenv("STT_MODEL", str(tmp_path))
    whisper.prewarm(None)
    instance = factory.cached_stt(whisper.STTConfig())
    assert isinstance(instance, whisper.FasterWhisperSTT)
    assert instance._warming is not None
    instance._warming.join(60)
    errors = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 1
    assert "model.bin: is missing" in errors[0].getMessage()
    assert errors[0].exc_info is None


def test_prewarm_with_a_wrong_setting_is_one_clear_line(
    factory: Factory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Raised, it would have LiveKit start one process after the other."""
    monkeypatch.setenv("STT_DEVICE", "gpu")
    whisper.prewarm(None)
    assert "device (STT_DEVICE): 'gpu': allowed" in caplog.text


def test_creation_from_the_cache_does_no_work(factory: Factory, vad: agents_vad.VAD) -> None:
    """Not a timing: no thread is started and nothing is read from disk for a cached instance."""
    factory.create_stt(CONFIG, vad)
    opened: list[object] = []
    hooked = True

    def audit(event: str, args: tuple[object, ...]) -> None:
        if hooked and event in ("open", "_thread.start_new_thread"):
            opened.append((event, args))

    sys.addaudithook(audit)
    try:
        factory.create_stt(CONFIG, vad)
    finally:
        hooked = False
    assert opened == []


class Streaming(Broken):
    """A provider that streams by itself."""

    def __init__(self) -> None:
        super().__init__()
        self._capabilities = stt.STTCapabilities(streaming=True, interim_results=True)


async def test_provider_that_streams_is_each_sessions_own(
    factory: Factory, vad: agents_vad.VAD
) -> None:
    factory.register("streaming", lambda config: Streaming())
    one = factory.create_stt({"stt_provider": "streaming"}, vad)
    two = factory.create_stt({"stt_provider": "streaming"}, vad)
    assert isinstance(one, Streaming)
    assert isinstance(two, Streaming)
    await one.aclose()
    assert (one.closed, two.closed) == (True, False)
    assert factory.cache_info().entries == ()
    assert not factory._instances._refs


async def test_chain_with_a_provider_that_streams_lets_all_go(
    factory: Factory, vad: agents_vad.VAD
) -> None:
    factory.register("streaming", lambda config: Streaming())
    config = whisper.STTConfig(provider="streaming", fallback=CONFIG)
    chain = factory.create_stt(config, vad)
    assert isinstance(chain, stt.FallbackAdapter)
    assert [entry.refs for entry in factory.cache_info().entries] == [1]
    await chain.aclose()
    assert [entry.refs for entry in factory.cache_info().entries] == [0]


async def test_closed_handle_leaves_no_recovery_behind(
    factory: Factory, vad: agents_vad.VAD
) -> None:
    factory.register("broken", lambda config: Broken())
    before = asyncio.all_tasks()
    handle = factory.create_stt(whisper.STTConfig(provider="broken", fallback=CONFIG), vad)
    await handle.recognize(speech())
    await handle.aclose()
    assert asyncio.all_tasks() == before


def test_builder_that_returns_no_stt_is_told(factory: Factory, vad: agents_vad.VAD) -> None:
    factory.register("nothing", lambda config: None)  # type: ignore[arg-type]
    with pytest.raises(whisper.ConfigError, match=r"'nothing': its builder returned NoneType"):
        factory.create_stt({"stt_provider": "nothing"}, vad)
    assert factory.cache_info().entries == ()


async def test_aclear_goes_on_where_one_cannot_be_closed(
    factory: Factory, caplog: pytest.LogCaptureFixture
) -> None:
    class Stuck(Broken):
        async def aclose(self) -> None:
            raise OSError("stuck")

    last = Broken()
    factory.register("stuck", lambda config: Stuck())
    factory.register("last", lambda config: last)
    for provider in ("stuck", "last"):
        factory.cached_stt({"stt_provider": provider})
    await factory.aclear()
    assert last.closed
    assert "closing an STT" in caplog.text


def test_servers_default_model_is_not_the_one_named_base(factory: Factory) -> None:
    unset = factory.cached_stt({"stt_provider": "openai", "stt_api_key": "x"})
    base = factory.cached_stt({"stt_provider": "openai", "stt_api_key": "x", "stt_model": "base"})
    assert (unset is base, base.model) == (False, "base")


def test_options_without_effect_are_warned_of(
    factory: Factory, caplog: pytest.LogCaptureFixture
) -> None:
    factory.cached_stt({"stt_provider": "openai", "stt_api_key": "x", "stt_beam_size": 5})
    factory.cached_stt(
        whisper.STTConfig(provider="whisper", model=str(openai_checkpoint()), hotwords="x")
    )
    assert "beam_size (STT_BEAM_SIZE): has no effect with openai" in caplog.text
    assert "hotwords (STT_HOTWORDS): openai-whisper has none" in caplog.text
    with pytest.raises(whisper.ConfigError, match="provider openai only transcribes"):
        factory.cached_stt({"stt_provider": "openai", "stt_api_key": "x", "stt_task": "translate"})


def test_prompt_is_not_in_the_printed_cache_info(factory: Factory) -> None:
    factory.cached_stt(CONFIG.model_copy(update={"prompt": "very private"}))
    assert "very private" not in repr(factory.cache_info())
