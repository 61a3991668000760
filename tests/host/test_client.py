"""`HostBackend` as sessions see it: fallback, overload, retries, what it costs a process."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import psutil
import pytest
from livekit import rtc
from livekit.agents import APIConnectOptions
from livekit.plugins import whisper
from livekit.plugins.whisper import stt as stt_module
from livekit.plugins.whisper.errors import ConfigError, HostUnavailable, Overloaded, Superseded
from livekit.plugins.whisper.host import client, process, wire
from livekit.plugins.whisper.host.client import HostBackend
from livekit.plugins.whisper.host.place import HostSpec
from livekit.plugins.whisper.types import (
    MAX_TEXT,
    Audio,
    DecodeOptions,
    Limits,
    Transcript,
    Urgency,
    Utterance,
)
from prometheus_client import REGISTRY

from tests.support.hosts import Hosts, until
from tests.support.weights import TINY, joined_recordings

OPTIONS = DecodeOptions(language="en")
SAID = "He might even have been made amiable himself."


@asynccontextmanager
async def host_backend(
    spec: HostSpec | None = None, **options: object
) -> AsyncIterator[HostBackend]:
    backend = HostBackend(spec, **options)  # type: ignore[arg-type]
    try:
        yield backend
    finally:
        await backend.aclose()


def fallbacks() -> float:
    value = REGISTRY.get_sample_value("livekit_whisper_host_fallbacks_total", {"reason": "host"})
    return value or 0.0


async def test_auto_decodes_here_where_no_host_can_be_had_and_says_so_once(
    hosts: Hosts, sound: Audio, caplog: pytest.LogCaptureFixture
) -> None:
    hosts.open_to_others()
    before = fallbacks()
    async with host_backend(fallback=whisper.LocalBackend()) as backend:
        for _ in range(3):
            assert (await backend.transcribe(TINY, Utterance(sound), OPTIONS)).text == SAID
    assert fallbacks() == before + 3
    (warning,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert "models are loaded in this process instead" in warning.message
    assert "chmod 700" in warning.message


async def test_auto_takes_the_host_as_soon_as_there_is_one(
    hosts: Hosts, sound: Audio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "ABSENT_SECONDS", 0.0)
    hosts.open_to_others()
    async with host_backend(fallback=whisper.LocalBackend()) as backend:
        assert (await backend.transcribe(TINY, Utterance(sound), OPTIONS)).text == SAID
        assert not hosts.places()
        hosts.directory.chmod(0o700)
        before = fallbacks()
        assert (await backend.transcribe(TINY, Utterance(sound), OPTIONS)).text == SAID
        assert hosts.pid
        assert fallbacks() == before


async def test_host_alone_is_an_error_where_none_can_be_had(hosts: Hosts, sound: Audio) -> None:
    hosts.open_to_others()
    async with host_backend() as backend:
        with pytest.raises(HostUnavailable, match="others may enter it"):
            await backend.transcribe(TINY, Utterance(sound), OPTIONS)


@pytest.mark.parametrize("where", ["host", "auto", "process"])
async def test_configuration_chooses_where_models_live(hosts: Hosts, where: str) -> None:
    config = whisper.STTConfig(model=TINY.model, backend=where)
    backend = stt_module.shared_backend(config)
    assert isinstance(backend, whisper.LocalBackend if where == "process" else HostBackend)
    assert stt_module.shared_backend(config) is backend


async def test_long_prompts_are_the_same_through_the_host_and_in_the_process(
    hosts: Hosts, sound: Audio
) -> None:
    """What is private and long is in the body: headers end at 64 KiB."""
    tail = "Marianne's abilities were quite equal to Elinor's. "
    long = DecodeOptions(language="en", prompt="é" * (MAX_TEXT // 2 - len(tail)) + tail)
    both = DecodeOptions(language="en", prompt=tail * 4000, hotwords="amiable " * 12_000)
    over = DecodeOptions(language="en", prompt="x" * (MAX_TEXT + 1))
    local = whisper.LocalBackend()
    async with host_backend() as backend:
        for options in (long, both):
            heard = [
                (await each.transcribe(TINY, Utterance(sound), options)).text
                for each in (backend, local)
            ]
            assert heard[0] == heard[1] != ""
        refusals = set()
        for each in (backend, local):
            with pytest.raises(
                ConfigError, match=r"prompt \(STT_PROMPT\): 1048577 bytes"
            ) as caught:
                await each.transcribe(TINY, Utterance(sound), over)
            refusals.add(str(caught.value))
        assert len(refusals) == 1
    await local.aclose()


def test_every_refusal_has_one_shape(hosts: Hosts) -> None:
    process.start_or_join(HostSpec())
    wrong = [
        ("POST", wire.LEASE, b"{", "application/json", 422),
        ("POST", wire.LEASE, b'{"model": "\xff"}', "application/json", 400),
        ("POST", wire.LEASE, b"[1]", "application/json", 422),
        ("POST", wire.LEASE, b'{"model": 1, "x": 2}', "application/json", 422),
        ("POST", wire.LEASE, b"", "text/plain", 422),
        ("POST", wire.LEASE, b"[" * 60_000, "application/json", 400),
        ("GET", wire.LEASE, b"", "text/plain", 405),
        ("PUT", wire.TRANSCRIBE, b"", "text/plain", 405),
        ("POST", wire.TRANSCRIBE + "?engine=faster-whisper", b"", "text/plain", 422),
        ("GET", "/v1/nothing", b"", "text/plain", 404),
        ("GET", "/", b"", "text/plain", 404),
    ]
    for method, path, body, kind, status in wrong:
        caller = process._http(hosts.place, 10)
        caller.request(method, path, body=body, headers={"Content-Type": kind})
        answer = caller.getresponse()
        found = json.loads(answer.read())
        caller.close()
        assert (answer.status, found.keys()) == (status, {"error"}), (path, body[:20], found)
        assert found["error"].keys() == {"code", "message", "retryable"}
        assert found["error"]["code"] == "config"
        assert found["error"]["message"]


async def test_ten_times_the_capacity(hosts: Hosts, sound: Audio) -> None:
    """Finals come, interims go, what is too much is refused at once, memory stays bounded."""
    queue = 8
    long = joined_recordings()
    async with host_backend(HostSpec(Limits(workers=2, batch=4, queue=queue))) as backend:
        backend.hold(TINY)
        await backend.prewarm(TINY)
        process = psutil.Process(hosts.pid)
        await asyncio.gather(
            *(backend.transcribe(TINY, Utterance(long), OPTIONS) for _ in range(queue))
        )
        before = process.memory_info().rss

        def ask(urgency: Urgency, number: int) -> asyncio.Task[Transcript]:
            stream = f"{urgency.name}-{number}"
            utterance = Utterance(sound, stream=stream, urgency=urgency)
            return asyncio.create_task(backend.transcribe(TINY, utterance, OPTIONS))

        # Both workers have something to do while the line fills up.
        longer = Utterance(Audio(np.concatenate([long.samples] * 3)))
        begun = 'livekit_whisper_queue_seconds_count{urgency="final"}'
        already = hosts.metrics()[begun]
        busy = [asyncio.create_task(backend.transcribe(TINY, longer, OPTIONS)) for _ in range(2)]
        await until(lambda: hosts.metrics()[begun] == already + 2)
        interims = [ask(Urgency.INTERIM, number) for number in range(queue)]
        await until(lambda: hosts.ask()["queue"]["interim"] == queue)
        finals = [ask(Urgency.FINAL, number) for number in range(10 * queue)]
        heard = await asyncio.gather(*finals, return_exceptions=True)
        dropped = await asyncio.gather(*interims, return_exceptions=True)
        assert {type(each) for each in heard} == {Transcript, Overloaded}
        assert all(each.text for each in await asyncio.gather(*busy))
        texts = [each.text for each in heard if isinstance(each, Transcript)]
        assert len(texts) >= queue
        assert set(texts) == {SAID}
        assert all(0 < e.retry_after < 60 for e in heard if isinstance(e, Overloaded))
        assert {type(each) for each in dropped} == {Superseded}
        assert process.memory_info().rss - before < 200 * 2**20
        assert (await backend.transcribe(TINY, Utterance(sound), OPTIONS)).text == SAID


async def test_livekit_retries_what_was_refused(hosts: Hosts, sound: Audio) -> None:
    pcm = (sound.samples * 32767).astype(np.int16)
    frame = rtc.AudioFrame(pcm.tobytes(), 16_000, 1, len(pcm))
    async with host_backend(HostSpec(Limits(queue=2))) as backend:
        stt = whisper.FasterWhisperSTT(TINY.model, backend=backend)
        refused: list[object] = []
        stt.on("error", refused.append)
        patient = APIConnectOptions(max_retry=50, retry_interval=0.2, timeout=60)
        events = await asyncio.gather(
            *(stt.recognize(frame, conn_options=patient) for _ in range(20))
        )
        assert {event.alternatives[0].text for event in events} == {SAID}
        assert "Overloaded" in repr(refused) or "overloaded" in repr(refused)
        await stt.aclose()


def test_client_imports_no_server() -> None:
    code = textwrap.dedent(
        """
        import sys
        from livekit.plugins import whisper
        from livekit.plugins.whisper.host import client, process, wire
        print(sorted({"fastapi", "uvicorn", "starlette", "ctranslate2"} & set(sys.modules)))
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_load_fnc_is_the_hosts(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STT_MODEL", TINY.model)
    assert whisper.load_fnc() == 0.0  # no host yet: nothing to do is no load

    async def saturate() -> float:
        backend = stt_module.shared_backend(whisper.STTConfig())
        long = joined_recordings(2)
        backend.hold(TINY)
        await backend.prewarm(TINY)
        several = [
            asyncio.create_task(backend.transcribe(TINY, Utterance(long), OPTIONS))
            for _ in range(40)
        ]
        await until(lambda: hosts.ask()["queue"]["final"] > 0)
        # A host that does not answer in time, on a machine that is busy besides, is asked again.
        busy: float = await until(whisper.load_fnc)
        await until(lambda: hosts.ask()["load"] == 1.0)
        for each in several:
            each.cancel()
        await asyncio.gather(*several, return_exceptions=True)
        await backend.aclose()
        return busy

    assert 0.0 < asyncio.run(saturate()) <= 1.0
