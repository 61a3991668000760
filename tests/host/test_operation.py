"""What an operator sees of a host: health, metrics, models, and a memory budget that is kept."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from livekit.plugins.whisper.errors import ModelDamaged
from livekit.plugins.whisper.host.client import HostBackend
from livekit.plugins.whisper.host.place import HostSpec
from livekit.plugins.whisper.models import resolve
from livekit.plugins.whisper.types import Audio, DecodeOptions, Limits, ModelKey, Utterance

from tests.support.audio import no_numbers
from tests.support.hosts import Hosts, get, until
from tests.support.weights import TINY, joined_recordings

OPTIONS = DecodeOptions(language="en")


async def test_metrics_tell_what_happened(hosts: Hosts, sound: Audio) -> None:
    backend = HostBackend()
    backend.hold(TINY)
    several = [backend.transcribe(TINY, Utterance(sound), OPTIONS) for _ in range(8)]
    await asyncio.gather(*several)
    await asyncio.gather(
        backend.transcribe(TINY, Utterance(no_numbers()), OPTIONS), return_exceptions=True
    )
    _, text = get(hosts.place, "/metrics")
    found = hosts.metrics()
    prefix = "livekit_whisper_"
    assert found[prefix + 'model_loads_total{outcome="loaded"}'] == 1
    assert found[prefix + "model_load_seconds_count"] == 1
    assert found[prefix + "cache_entries"] == 1
    assert found[prefix + "cache_bytes"] > 2**20
    assert found[prefix + 'queue_depth{urgency="final"}'] == 0
    assert found[prefix + 'batch_size_sum{engine="faster-whisper"}'] >= 8
    assert found[prefix + 'decode_seconds_count{engine="faster-whisper"}'] >= 2
    assert found[prefix + 'queue_seconds_count{urgency="final"}'] >= 8
    assert found[prefix + 'requests_total{route="/v1/transcribe",status="200"}'] == 8
    assert found[prefix + 'requests_total{route="/v1/transcribe",status="422"}'] == 1
    assert found[prefix + 'errors_total{code="audio"}'] == 1
    assert found[prefix + 'request_seconds_count{route="/v1/transcribe"}'] == 9
    names = set(re.findall(r"^# TYPE (livekit_whisper_\w+)", text, re.M))
    assert {prefix + "gate_redecodes_total", prefix + "drops_total"} <= names
    await backend.aclose()


async def test_health_readiness_and_models(hosts: Hosts, sound: Audio) -> None:
    backend = HostBackend()
    backend.hold(TINY)
    await backend.prewarm(TINY)
    place = hosts.place
    assert get(place, "/healthz") == (200, '{"status":"ok"}')
    assert get(place, "/readyz") == (200, '{"status":"ready"}')
    (model,) = hosts.ask("/v1/models")["data"]
    assert model["engine"] == TINY.engine and model["model"] == TINY.model
    assert model["loaded"] and model["leases"] == 1 and model["bytes"] > 2**20
    assert get(place, "/nowhere")[0] == 404
    long = joined_recordings(3)
    begun = asyncio.create_task(backend.transcribe(TINY, Utterance(long), OPTIONS))
    await until(lambda: hosts.ask()["requests"] == 1)
    os.kill(hosts.pid, signal.SIGTERM)
    await until(lambda: not place.socket.exists())
    assert (await begun).text
    await backend.aclose()


async def test_models_are_kept_in_a_budget_and_never_evicted_in_use(
    hosts: Hosts, sound: Audio, tmp_path: Path
) -> None:
    weights = resolve(TINY.engine, TINY.model).path
    keys = []
    for name in "abc":
        (tmp_path / name).symlink_to(weights)
        keys.append(ModelKey(TINY.engine, str(tmp_path / name)))
    size = 40 * 2**20  # one takes 36
    backend = HostBackend(HostSpec(Limits(memory=2 * size, idle=600)))

    def loaded() -> set[str]:
        return {Path(m["model"]).name for m in hosts.ask("/v1/models")["data"] if m["loaded"]}

    async def hear(key: ModelKey) -> None:
        assert (await backend.transcribe(key, Utterance(sound), OPTIONS)).text

    a, b, c = keys
    backend.hold(a)
    backend.hold(b)
    await hear(a)
    await hear(b)
    await hear(c)
    await until(lambda: loaded() == {"a", "b"})  # what is held stays, whatever the budget
    backend.release(a)
    await until(lambda: [m["leases"] for m in hosts.ask("/v1/models")["data"]].count(0) == 1)
    await hear(c)
    assert loaded() == {"b", "c"}  # the one used least recently of those that nobody holds
    backend.release(b)
    await backend.aclose()


async def test_model_that_nobody_uses_is_given_up(hosts: Hosts, sound: Audio) -> None:
    backend = HostBackend(HostSpec(Limits(idle=0.3)))

    def loaded() -> list[Any]:
        return [model for model in hosts.ask("/v1/models")["data"] if model["loaded"]]

    backend.hold(TINY)
    assert (await backend.transcribe(TINY, Utterance(sound), OPTIONS)).text
    pid = hosts.pid
    assert loaded()
    backend.release(TINY)
    await until(lambda: not loaded())
    assert (await backend.transcribe(TINY, Utterance(sound), OPTIONS)).text
    assert hosts.pid == pid
    await backend.aclose()


async def test_model_that_cannot_be_loaded_is_an_error_and_no_reason_to_end(
    hosts: Hosts, sound: Audio, tmp_path: Path
) -> None:
    backend = HostBackend()
    (tmp_path / "model").mkdir()
    with pytest.raises(ModelDamaged):
        await backend.transcribe(
            ModelKey(TINY.engine, str(tmp_path / "model")), Utterance(sound), OPTIONS
        )
    pid = hosts.pid
    assert (await backend.transcribe(TINY, Utterance(sound), OPTIONS)).text
    assert hosts.pid == pid
    await backend.aclose()
