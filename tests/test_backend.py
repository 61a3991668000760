"""The backend contract, with real models: loads once, decodes in order, never blocks the loop."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from livekit.plugins.whisper import backend as backend_module
from livekit.plugins.whisper import engines
from livekit.plugins.whisper.audio import from_file
from livekit.plugins.whisper.backend import Backend, LocalBackend, process_backend
from livekit.plugins.whisper.errors import (
    AudioError,
    BackendClosed,
    ConfigError,
    EngineError,
    ModelDamaged,
    Overloaded,
    Superseded,
)
from livekit.plugins.whisper.host.client import HostBackend
from livekit.plugins.whisper.models import resolve
from livekit.plugins.whisper.types import (
    Audio,
    DecodeOptions,
    Limits,
    ModelKey,
    Segment,
    Transcript,
    Urgency,
    Utterance,
)

from tests.support.audio import no_numbers
from tests.support.hosts import Hosts
from tests.support.weights import TINY, joined_recordings, openai_tiny, recordings

OPTIONS = DecodeOptions(language="en", word_timestamps=True)
SAID = "He might even have been made amiable himself."


@pytest.fixture(params=["local", "host"])
async def contract(request: pytest.FixtureRequest, hosts: Hosts) -> AsyncIterator[Backend]:
    """Every backend there is; the suite below is the contract of all of them."""
    made: Backend = LocalBackend() if request.param == "local" else HostBackend()
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


async def test_options_are_honoured(contract: Backend, audio: Audio) -> None:
    plain = await contract.transcribe(TINY, Utterance(audio), DecodeOptions())
    assert (plain.text, plain.language) == (SAID, "en")
    assert not plain.segments[0].words
    prompted = DecodeOptions(language="en", prompt="he might be — ämiable — “himself” %41")
    assert (await contract.transcribe(TINY, Utterance(audio), prompted)).text
    for options in (DecodeOptions(language="de"), DecodeOptions(task="translate")):
        with pytest.raises(ConfigError, match="English only"):
            await contract.transcribe(TINY, Utterance(audio), options)


async def test_audio_that_is_none_is_told(contract: Backend) -> None:
    broken = no_numbers()
    with pytest.raises(AudioError, match="no numbers"):
        await contract.transcribe(TINY, Utterance(broken), OPTIONS)
    nothing = Audio(np.zeros(0, np.float32))
    assert (await contract.transcribe(TINY, Utterance(nothing), OPTIONS)).text == ""


async def test_prewarm_says_whether_it_was_there(contract: Backend) -> None:
    contract.hold(TINY)
    assert not await contract.prewarm(TINY)
    assert await contract.prewarm(TINY)
    contract.release(TINY)


async def test_newer_interim_of_a_stream_takes_the_older_ones_place(
    contract: Backend, audio: Audio
) -> None:
    contract.hold(TINY)
    await contract.prewarm(TINY)
    long = Utterance(joined_recordings())
    interim = Utterance(audio, stream="a", urgency=Urgency.INTERIM)
    tasks = [
        asyncio.create_task(contract.transcribe(TINY, utterance, OPTIONS))
        for utterance in [long] * 4 + [interim] * 5
    ]
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(each, Transcript) for each in found[:4])
    assert {type(each) for each in found[4:]} == {Transcript, Superseded}
    contract.release(TINY)


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


class Watched:
    """An engine that a test can hold up, look into, and give results of its own."""

    def __init__(self, real: engines.Engine) -> None:
        self.real = real
        self.memory = real.memory
        self.workers, self.batch = 1, 4
        self.decoded: list[list[Audio]] = []
        self.begun = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()
        self.answer = real.transcribe

    def transcribe(self, batch: Sequence[Audio], options: DecodeOptions) -> list[Transcript]:
        self.decoded.append(list(batch))
        self.begun.release()
        assert self.gate.wait(60)
        return self.answer(batch, options)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[Watched]:
    """The engines that are loaded from now on, watched."""
    made: list[Watched] = []
    real = engines.load

    def load(*args: Any, **kwargs: Any) -> Any:
        made.append(Watched(real(*args, **kwargs)))
        return made[-1]

    monkeypatch.setattr(engines, "load", load)
    return made


Start = Callable[..., Coroutine[Any, Any, "asyncio.Task[Transcript]"]]


@asynccontextmanager
async def held_up(
    local: LocalBackend, watched: list[Watched], audio: Audio
) -> AsyncIterator[tuple[Watched, Start]]:
    """The one worker decodes something until `gate` is set; `start` queues behind it."""
    await local.prewarm(TINY)
    (engine,) = watched
    engine.gate.clear()

    async def start(*args: Any, sound: Audio = audio, **kwargs: Any) -> asyncio.Task[Transcript]:
        work = local.transcribe(TINY, Utterance(sound, 0.0, *args, **kwargs), OPTIONS)
        task = asyncio.create_task(work)
        for _ in range(5):  # until it is in the batcher's line
            await asyncio.sleep(0)
        return task

    first = await start()
    assert await asyncio.to_thread(engine.begun.acquire, timeout=60)
    try:
        yield engine, start
    finally:
        engine.gate.set()
        assert (await first).text == SAID
        await local.aclose()


async def test_waiting_utterance_that_is_cancelled_is_never_decoded(
    watched: list[Watched], audio: Audio
) -> None:
    local = LocalBackend()
    async with held_up(local, watched, audio) as (engine, start):
        waiting = await start()
        assert local.depth()[Urgency.FINAL] == 1
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert local.depth()[Urgency.FINAL] == 0
        engine.gate.set()
        await local.transcribe(TINY, Utterance(audio), OPTIONS)
        assert len(engine.decoded) == 2


async def test_sixteen_at_once_are_decoded_in_batches_with_the_same_text(
    watched: list[Watched],
) -> None:
    local = LocalBackend()
    audios = ([from_file(path) for path in recordings()] * 4)[:16]
    alone = [await local.transcribe(TINY, Utterance(each), OPTIONS) for each in audios[:5]]
    assert [len(batch) for batch in watched[0].decoded] == [1] * 5
    together = await asyncio.gather(
        *(local.transcribe(TINY, Utterance(each), OPTIONS) for each in audios)
    )
    assert [each.text for each in together] == ([each.text for each in alone] * 4)[:16]
    assert [len(batch) for batch in watched[0].decoded[5:]] == [4] * 4
    await local.aclose()


async def test_interim_that_waits_gives_way_to_a_newer_one_and_finals_go_first(
    watched: list[Watched], audio: Audio
) -> None:
    local = LocalBackend()
    finals, interims = Audio(audio.samples[:-1]), Audio(audio.samples[:-2])
    async with held_up(local, watched, audio) as (engine, start):
        old = await start("room", Urgency.INTERIM)
        new = await start("room", Urgency.INTERIM, sound=interims)
        other = await start("other room", Urgency.INTERIM)
        final = await start("room", sound=finals)
        with pytest.raises(Superseded):
            await old
        assert local.depth() == {Urgency.FINAL: 1, Urgency.PREFLIGHT: 0, Urgency.INTERIM: 2}
        engine.gate.set()
        assert [(await each).text for each in (final, new, other)] == [SAID] * 3
        assert engine.decoded[1:] == [[finals], [audio, interims]]  # "room" had its turn


async def test_overload_refuses_and_recovers(watched: list[Watched], audio: Audio) -> None:
    local = LocalBackend(Limits(queue=2))
    async with held_up(local, watched, audio) as (engine, start):
        interim = await start("room", Urgency.INTERIM)
        finals = [await start() for _ in range(2)]
        with pytest.raises(Superseded):
            await interim
        with pytest.raises(Overloaded, match="2 wait already; try again in") as caught:
            await local.transcribe(TINY, Utterance(audio), OPTIONS)
        assert caught.value.retryable
        assert caught.value.retry_after > 0
        engine.gate.set()
        assert [(await each).text for each in finals] == [SAID] * 2
        assert (await local.transcribe(TINY, Utterance(audio), OPTIONS)).text == SAID


async def test_model_that_is_closed_while_others_wait_finishes_them(
    watched: list[Watched], audio: Audio
) -> None:
    local = LocalBackend()
    async with held_up(local, watched, audio) as (engine, start):
        waiting = [await start() for _ in range(3)]
        model = local._models.peek(TINY)
        assert model is not None
        model.close()
        engine.gate.set()
        assert [(await each).text for each in waiting] == [SAID] * 3
        assert await asyncio.to_thread(model.batcher.join, 60)


async def test_load_is_zero_when_idle_and_one_when_a_final_would_wait(
    watched: list[Watched], audio: Audio
) -> None:
    local = LocalBackend()
    assert local.load() == 0.0
    await local.prewarm(TINY)
    assert local.load() == 0.0
    async with held_up(local, watched, audio) as (_, start):
        waiting = [await start() for _ in range(60)]
        model = local._models.peek(TINY)
        assert model is not None
        model.batcher._meter._seconds = {1: 0.1}
        assert local.load() == 1.0
        for each in waiting:
            each.cancel()
        await asyncio.wait(waiting)
        assert 0.0 < local.load() < 1.0


async def test_load_remembers_what_was_decoded_just_now(audio: Audio) -> None:
    local = LocalBackend()
    await local.transcribe(TINY, Utterance(audio), OPTIONS)
    assert not any(local.depth().values())
    assert 0.0 < local.load() < 1.0
    await local.aclose()


async def test_engine_that_fails_is_an_engine_error_and_stays_usable(
    watched: list[Watched], audio: Audio
) -> None:
    local = LocalBackend()
    await local.prewarm(TINY)
    (engine,) = watched

    def fail(batch: Sequence[Audio], options: DecodeOptions) -> list[Transcript]:
        raise RuntimeError("CUDA error: device-side assert triggered")

    def too_long(batch: Sequence[Audio], options: DecodeOptions) -> list[Transcript]:
        end = audio.duration + 0.6
        return [Transcript("a", "en", (Segment("a", 0.0, end, 0.0, 0.0),)) for _ in batch]

    for answer, message in (
        (fail, r"decoding failed.*device-side assert"),
        (lambda batch, options: [], "0 results for 1 items"),
        (too_long, r"speech up to 3\.89 s for 3\.29 s of audio"),
    ):
        engine.answer = answer
        with pytest.raises(EngineError, match=message) as caught:
            await local.transcribe(TINY, Utterance(audio), OPTIONS)
        assert caught.value.retryable
    engine.answer = engine.real.transcribe
    assert (await local.transcribe(TINY, Utterance(audio), OPTIONS)).text == SAID
    await local.aclose()


async def test_one_bad_utterance_does_not_fail_those_of_its_batch(audio: Audio) -> None:
    local = LocalBackend()
    await local.prewarm(TINY)
    bad = no_numbers()
    first, failed, last = await asyncio.gather(
        *(local.transcribe(TINY, Utterance(each), OPTIONS) for each in (audio, bad, audio)),
        return_exceptions=True,
    )
    assert isinstance(first, Transcript)
    assert isinstance(last, Transcript)
    assert first.text == last.text == SAID
    assert isinstance(failed, AudioError)
    await local.aclose()


async def test_closed_and_forgotten_backends_give_up_threads_and_models(audio: Audio) -> None:
    before = set(threading.enumerate())  # a test before may have left some that are ending

    def threads() -> list[str]:
        new = set(threading.enumerate()) - before
        return [thread.name for thread in new if thread.name.startswith("whisper-")]

    for closes in (True, False):
        local = LocalBackend()
        assert not threads()
        await local.transcribe(TINY, Utterance(audio), OPTIONS)
        model = local._models.peek(TINY)
        assert model is not None
        batcher = model.batcher
        engine = weakref.ref(batcher._run.args[0])  # type: ignore[attr-defined]
        assert engine() is not None
        if closes:
            await local.aclose()
        del local, model
        gc.collect()
        assert await asyncio.to_thread(batcher.join, 60)
        gc.collect()
        assert engine() is None
        assert not threads()


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


async def test_limits_reach_the_engine_and_the_batcher(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, int]] = []
    real = engines.load

    def load(files: Any, key: ModelKey, **kwargs: int) -> engines.Engine:
        given.append(kwargs)
        return real(files, key, **kwargs)

    monkeypatch.setattr(engines, "load", load)
    local = LocalBackend(Limits(threads=1, workers=2, batch=3, queue=5))
    await local.prewarm(TINY)
    assert given == [{"threads": 1, "workers": 2}]
    model = local._models.peek(TINY)
    assert model is not None
    batcher = model.batcher
    assert (batcher._workers, batcher._max_batch, batcher._max_queue) == (2, 3, 5)
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
            config = whisper.STTConfig(model={TINY.model!r}, backend="process")
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
