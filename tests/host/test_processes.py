"""One host for many processes, whatever happens to it and to them. All processes are real."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from contextlib import AsyncExitStack

import pytest
from livekit.plugins.whisper import LocalBackend
from livekit.plugins.whisper.audio import from_file
from livekit.plugins.whisper.host.client import HostBackend
from livekit.plugins.whisper.host.place import HostSpec
from livekit.plugins.whisper.host.process import start_or_join
from livekit.plugins.whisper.types import Audio, DecodeOptions, Limits, Utterance

from tests.support.hosts import Hosts, Transcriber, ended, until
from tests.support.weights import TINY, joined_recordings, recordings

OPTIONS = DecodeOptions(language="en")


@pytest.fixture(scope="module")
def sounds() -> list[Audio]:
    return [from_file(path) for path in recordings()]


@pytest.fixture(scope="module")
def texts(sounds: list[Audio]) -> list[str]:
    """What the recordings become where nothing happens."""

    async def hear() -> list[str]:
        local = LocalBackend()
        found = [(await local.transcribe(TINY, Utterance(s), OPTIONS)).text for s in sounds]
        await local.aclose()
        return found

    return asyncio.run(hear())


async def test_eight_processes_at_once_get_one_host_and_one_load(
    hosts: Hosts, texts: list[str]
) -> None:
    async with AsyncExitStack() as stack:
        several = [await stack.enter_async_context(Transcriber([4])) for _ in range(8)]
        for each in several:
            each.go()
        heard = await asyncio.gather(*(each.finished() for each in several))
    assert heard == [[texts[4]]] * 8
    assert hosts.log().count("[WHISPER-HOST] serves") == 1
    assert hosts.log().count("[WHISPER-LOAD]") == 1
    assert len(hosts.ask("/v1/models")["data"]) == 1


async def test_killed_host_loses_no_utterance_in_flight(hosts: Hosts, texts: list[str]) -> None:
    async with AsyncExitStack() as stack:
        several = [await stack.enter_async_context(Transcriber(range(5))) for _ in range(4)]
        for each in several:
            each.go()
        hearing = asyncio.gather(*(each.finished() for each in several))
        await until(lambda: hosts.places() and (hosts.ask() or {}).get("requests", 0) >= 4)
        first = hosts.pid
        os.kill(first, signal.SIGKILL)
        heard = await hearing
    assert heard == [texts] * 4
    assert hosts.pid != first
    assert hosts.log().count("[WHISPER-HOST] serves") == 2


@pytest.mark.timeout(600)
async def test_ten_kills_during_two_hundred_utterances(hosts: Hosts, texts: list[str]) -> None:
    indexes = [*range(5)] * 10
    killed: list[int] = []
    total = 0

    def on_heard() -> None:
        nonlocal total
        total += 1
        if total % 18 == 0 and len(killed) < 10:
            killed.append(hosts.pid)
            os.kill(killed[-1], signal.SIGKILL)

    async with AsyncExitStack() as stack:
        several = [await stack.enter_async_context(Transcriber(indexes)) for _ in range(4)]
        for each in several:
            each.go()
        heard = await asyncio.gather(*(each.finished(on_heard) for each in several))
    assert len(set(killed)) == 10
    assert heard == [[texts[i] for i in indexes]] * 4


async def test_killed_client_leaves_the_host_alive_and_idle(
    hosts: Hosts, backend: HostBackend, sounds: list[Audio], texts: list[str]
) -> None:
    assert (await backend.transcribe(TINY, Utterance(sounds[4]), OPTIONS)).text == texts[4]
    pid = hosts.pid
    async with Transcriber([*range(5)] * 100) as client:
        client.go()
        await until(lambda: hosts.ask()["requests"] == 1)
        client.kill()
        await until(lambda: hosts.ask()["requests"] == 0)
        await until(lambda: hosts.ask()["leases"] == 0)
    assert (await backend.transcribe(TINY, Utterance(sounds[4]), OPTIONS)).text == texts[4]
    assert hosts.pid == pid


async def test_caller_that_cancels_has_its_work_dropped(hosts: Hosts) -> None:
    backend = HostBackend(HostSpec(Limits(workers=1, batch=1)))
    backend.hold(TINY)
    await backend.prewarm(TINY)
    long = joined_recordings()
    several = [
        asyncio.create_task(backend.transcribe(TINY, Utterance(long), OPTIONS)) for _ in range(12)
    ]
    await until(lambda: hosts.ask()["queue"]["final"] >= 1)
    for each in several:
        each.cancel()
    await asyncio.gather(*several, return_exceptions=True)
    await until(lambda: hosts.ask()["requests"] == 0 and hosts.ask()["queue"]["final"] == 0)
    dropped = 'livekit_whisper_drops_total{reason="cancelled"}'
    await until(lambda: hosts.metrics().get(dropped, 0) >= 1)
    await backend.aclose()


async def test_terminated_host_finishes_what_it_began_and_makes_way(
    hosts: Hosts, backend: HostBackend, sounds: list[Audio], texts: list[str]
) -> None:
    backend.hold(TINY)
    await backend.prewarm(TINY)
    first = hosts.pid
    long = joined_recordings(3)
    begun = asyncio.create_task(backend.transcribe(TINY, Utterance(long), OPTIONS))
    await until(lambda: hosts.ask()["requests"] == 1)
    os.kill(first, signal.SIGTERM)
    await until(lambda: not hosts.places())
    second = HostBackend(HostSpec())
    assert (await second.transcribe(TINY, Utterance(sounds[4]), OPTIONS)).text == texts[4]
    assert hosts.pid != first
    assert texts[4] in (await begun).text
    await second.aclose()
    await asyncio.to_thread(ended, first, 20)
    assert hosts.log().count("[WHISPER-HOST] serves") == 2  # nothing was decoded twice for it


async def test_host_ends_when_nobody_has_used_it_for_a_while(
    hosts: Hosts, sounds: list[Audio], texts: list[str]
) -> None:
    backend = HostBackend(HostSpec(idle=0.3))
    backend.hold(TINY)
    await backend.prewarm(TINY)
    pid = hosts.pid
    transcript = await backend.transcribe(TINY, Utterance(sounds[4]), OPTIONS)
    assert transcript.text == texts[4]
    assert hosts.pid == pid  # held, it stays
    backend.release(TINY)
    await asyncio.to_thread(ended, pid, 20)
    assert not hosts.places()
    assert (await backend.transcribe(TINY, Utterance(sounds[4]), OPTIONS)).text == texts[4]
    await backend.aclose()


async def test_crashed_host_is_warm_again_before_anybody_asks(
    hosts: Hosts, backend: HostBackend
) -> None:
    backend.hold(TINY)
    await backend.prewarm(TINY)
    first = hosts.pid
    os.kill(first, signal.SIGKILL)

    def another_has_it() -> bool:
        facts = hosts.ask() if hosts.places() else None
        return facts is not None and facts["pid"] != first and facts["leases"] == 1

    await until(another_has_it)


def test_threads_of_one_process_start_one_host(hosts: Hosts) -> None:
    spec = HostSpec()
    threads = [threading.Thread(target=start_or_join, args=(spec,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert hosts.log().count("[WHISPER-HOST] serves") == 1
