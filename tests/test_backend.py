"""The backend contract, with real models: loads once, decodes in order, never blocks the loop."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from livekit.plugins.whisper import backend as backend_module
from livekit.plugins.whisper import engines
from livekit.plugins.whisper.audio import from_file
from livekit.plugins.whisper.backend import Backend, Limits, LocalBackend, process_backend
from livekit.plugins.whisper.errors import BackendClosed, EngineError, ModelDamaged
from livekit.plugins.whisper.models import resolve
from livekit.plugins.whisper.types import (
    Audio,
    DecodeOptions,
    ModelKey,
    Transcript,
    Utterance,
)

from tests.support.weights import TINY, openai_tiny, recordings

OPTIONS = DecodeOptions(language="en", word_timestamps=True)
SAID = "He might even have been made amiable himself."


@pytest.fixture(params=["local"])
async def contract(request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
    """Every backend there is; the suite below is the contract of all of them."""
    made = {"local": LocalBackend}[request.param]()
    yield made
    await made.aclose()


@pytest.fixture(scope="module")
def audio() -> Audio:
    return from_file(recordings()[4])


async def test_times_count_from_the_start_of_the_stream(contract: Backend, audio: Audio) -> None:
    here = await contract.transcribe(TINY, Utterance(audio), OPTIONS)
    later = await contract.transcribe(TINY, Utterance(audio, start=100.0), OPTIONS)
    assert here.text == later.text == SAID
    assert later.segments[0].start == pytest.approx(here.segments[0].start + 100)
    assert later.segments[0].words[0].end == pytest.approx(here.segments[0].words[0].end + 100)


async def test_many_at_once_each_get_their_own(contract: Backend) -> None:
    audios = [from_file(path) for path in recordings()] * 2
    alone = [await contract.transcribe(TINY, Utterance(each), OPTIONS) for each in audios[:5]]
    together = await asyncio.gather(
        *(contract.transcribe(TINY, Utterance(each), OPTIONS) for each in audios)
    )
    assert [each.text for each in together] == [each.text for each in alone] * 2


async def test_cancelled_utterance_leaves_the_others_alone(contract: Backend, audio: Audio) -> None:
    await contract.prewarm(TINY)
    tasks = [
        asyncio.create_task(contract.transcribe(TINY, Utterance(audio), OPTIONS)) for _ in range(4)
    ]
    await asyncio.sleep(0)
    tasks[0].cancel()  # is being decoded
    tasks[2].cancel()  # is waiting
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert isinstance(results[2], asyncio.CancelledError)
    assert [r.text for r in results if isinstance(r, Transcript)] == [SAID] * 2


async def test_model_that_cannot_be_loaded_is_told_and_tried_again(
    contract: Backend, tmp_path: Path, audio: Audio
) -> None:
    source = Path(engines.__file__)  # any file that is no model
    key = ModelKey("faster-whisper", str(tmp_path / "model"))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.bin").write_bytes(source.read_bytes())
    with pytest.raises(ModelDamaged, match=r"config\.json: is missing"):
        await contract.prewarm(key)
    (tmp_path / "model" / "model.bin").unlink()
    (tmp_path / "model").rmdir()
    good = resolve(TINY.engine, TINY.model).path
    (tmp_path / "model").symlink_to(good)
    transcript = await contract.transcribe(key, Utterance(audio), OPTIONS)
    assert transcript.text == SAID


async def test_closed_backend_refuses_and_finishes_what_it_began(
    contract: Backend, audio: Audio
) -> None:
    await contract.prewarm(TINY)
    begun = asyncio.create_task(contract.transcribe(TINY, Utterance(audio), OPTIONS))
    await asyncio.sleep(0)
    await contract.aclose()
    assert (await begun).text == SAID
    with pytest.raises(BackendClosed):
        await contract.transcribe(TINY, Utterance(audio), OPTIONS)
    with pytest.raises(BackendClosed):
        await contract.prewarm(TINY)


async def test_waiting_utterance_that_is_cancelled_is_never_decoded(
    monkeypatch: pytest.MonkeyPatch, audio: Audio
) -> None:
    local = LocalBackend()
    await local.prewarm(TINY)
    model = local._models.peek(TINY)
    assert model is not None
    decoded: list[int] = []
    real = model._engine.transcribe

    def count(batch: list[Audio], options: DecodeOptions) -> list[Transcript]:
        decoded.append(len(batch))
        return real(batch, options)

    monkeypatch.setattr(model._engine, "transcribe", count)
    first = asyncio.create_task(local.transcribe(TINY, Utterance(audio), OPTIONS))
    second = asyncio.create_task(local.transcribe(TINY, Utterance(audio), OPTIONS))
    await asyncio.sleep(0)
    second.cancel()
    await first
    await local.transcribe(TINY, Utterance(audio), OPTIONS)
    assert len(decoded) == 2
    await local.aclose()


async def test_engine_that_fails_is_an_engine_error_and_stays_usable(
    monkeypatch: pytest.MonkeyPatch, audio: Audio
) -> None:
    local = LocalBackend()
    await local.prewarm(TINY)
    model = local._models.peek(TINY)
    assert model is not None
    real = model._engine.transcribe

    def fail(batch: list[Audio], options: DecodeOptions) -> list[Transcript]:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(model._engine, "transcribe", fail)
    with pytest.raises(EngineError, match=r"decoding failed.*device-side assert") as caught:
        await local.transcribe(TINY, Utterance(audio), OPTIONS)
    assert caught.value.retryable
    monkeypatch.setattr(model._engine, "transcribe", lambda batch, options: [])
    with pytest.raises(EngineError, match="0 transcripts for 1 utterance"):
        await local.transcribe(TINY, Utterance(audio), OPTIONS)
    monkeypatch.setattr(model._engine, "transcribe", real)
    assert (await local.transcribe(TINY, Utterance(audio), OPTIONS)).text == SAID
    await local.aclose()


@pytest.mark.parametrize("engine", ["faster-whisper", "openai-whisper"])
async def test_loop_goes_on_while_a_model_loads_and_decodes(engine: str, audio: Audio) -> None:
    """Not the benchmark of the lag (`make bench`): the loop turns hundreds of times meanwhile."""
    key = TINY if engine == "faster-whisper" else openai_tiny()
    local = LocalBackend()
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.001)
            turns += 1

    turning = asyncio.create_task(turn())
    started = time.perf_counter()
    await local.transcribe(key, Utterance(audio), OPTIONS)
    elapsed = time.perf_counter() - started
    turning.cancel()
    assert turns > 20 * elapsed  # blocking for the time of a decode would leave a handful
    await local.aclose()


async def test_idle_model_is_given_up_and_comes_back(audio: Audio) -> None:
    local = LocalBackend(Limits(idle=0.2))
    await local.transcribe(TINY, Utterance(audio), OPTIONS)
    while local.info().entries:  # the suite's own timeout bounds this
        await asyncio.sleep(0.02)
    assert (await local.transcribe(TINY, Utterance(audio), OPTIONS)).text == SAID
    assert local.info().misses == 2
    await local.aclose()


async def test_process_backend_is_one_and_says_when_limits_differ(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(backend_module, "_process_backend", None)
    first = process_backend(Limits(threads=1))
    assert process_backend() is first
    assert process_backend(Limits(threads=1)) is first
    assert not caplog.text
    assert process_backend(Limits(threads=2)) is first
    assert "threads=2" in caplog.text


async def test_threads_reach_the_engine(monkeypatch: pytest.MonkeyPatch, audio: Audio) -> None:
    given: list[int] = []
    real = engines.load

    def load(files: object, key: ModelKey, *, threads: int = 0) -> engines.Engine:
        given.append(threads)
        return real(files, key, threads=threads)  # type: ignore[arg-type]

    monkeypatch.setattr(engines, "load", load)
    local = LocalBackend(Limits(threads=1))
    await local.prewarm(TINY)
    assert given == [1]
    await local.aclose()


async def test_silence_is_not_decoded(contract: Backend) -> None:
    silence = Audio(np.zeros(16_000, np.float32))
    transcript = await contract.transcribe(TINY, Utterance(silence), OPTIONS)
    assert (transcript.text, transcript.language) == ("", "en")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
async def test_forked_process_is_told_and_loads_a_model_of_its_own(tmp_path: Path) -> None:
    script = tmp_path / "fork.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import asyncio, os, warnings
            warnings.simplefilter("ignore")
            from livekit.plugins import whisper
            from livekit.plugins.whisper.audio import from_file

            sound = from_file({str(recordings()[4])!r})
            config = whisper.STTConfig(model={TINY.model!r})
            parents = whisper.ProviderFactory.cached_stt(config)
            print("parent:", asyncio.run(parents.transcribe(sound)).text, flush=True)
            child = os.fork()
            if not child:
                try:
                    asyncio.run(parents.transcribe(sound))
                except whisper.BackendClosed as exc:
                    print("told:", exc, flush=True)
                own = whisper.ProviderFactory.cached_stt(config)
                print("child:", asyncio.run(own.transcribe(sound)).text, flush=True)
                os._exit(0)
            os.waitpid(child, 0)
            """
        )
    )
    out = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert f"parent: {SAID}" in out.stdout
    assert "told: a model does not survive a fork" in out.stdout
    assert f"child: {SAID}" in out.stdout
