"""Hosts that are killed while they start, whose socket is removed, or that nobody can reach."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import signal
import socket
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from livekit.plugins import whisper
from livekit.plugins.whisper.errors import HostUnavailable
from livekit.plugins.whisper.host import connection, lease, process, wire
from livekit.plugins.whisper.host.client import HostBackend
from livekit.plugins.whisper.host.place import HostSpec
from livekit.plugins.whisper.types import Audio, DecodeOptions, Utterance

from tests.support.hosts import Hosts, ended, until
from tests.support.weights import TINY

OPTIONS = DecodeOptions(language="en")
SAID = "He might even have been made amiable himself."


def starting(hosts: Hosts) -> set[int]:
    """The processes that were started as hosts here."""
    found = psutil.Process().children()
    return {
        each.pid
        for each in found
        if each.status() != psutil.STATUS_ZOMBIE
        and any(str(hosts.directory) in part for part in each.cmdline())
    }


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_hosts_killed_before_their_first_answer_are_started_again(
    hosts: Hosts, sound: Audio, number: signal.Signals
) -> None:
    backends = [HostBackend() for _ in range(4)]
    asked = [
        asyncio.create_task(each.transcribe(TINY, Utterance(sound), OPTIONS))
        for each in backends
        for _ in range(3)
    ]
    killed: set[int] = set()
    while len(killed) < 3:
        (pid,) = await until(lambda: starting(hosts) - killed)
        os.kill(pid, number)
        killed.add(pid)
    assert {each.text for each in await asyncio.gather(*asked)} == {SAID}
    assert hosts.pid not in killed
    for each in backends:
        await each.aclose()


async def test_hosts_that_are_always_killed_at_their_start_are_given_up(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "KILLS", 2)
    joined = asyncio.create_task(asyncio.to_thread(process.start_or_join, HostSpec()))
    killed: set[int] = set()
    while not joined.done():
        for pid in starting(hosts) - killed:
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
        await asyncio.sleep(0.005)
    with pytest.raises(HostUnavailable, match=r"2 hosts were killed at their start.* SIGKILL"):
        await joined


async def test_host_that_ends_by_itself_at_its_start_is_told_at_once(
    hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "uvicorn.py").write_text("raise SystemExit(7)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    backend = HostBackend()
    with pytest.raises(whisper.HostUnavailable, match=r"ended at its start with status 7.*\.log"):
        await backend.prewarm(TINY)
    await backend.aclose()


async def test_host_whose_socket_is_removed_makes_another_one(
    hosts: Hosts, backend: HostBackend, sound: Audio
) -> None:
    backend.hold(TINY)
    await backend.prewarm(TINY)
    pid, place = hosts.pid, hosts.place
    for replace in (False, True):
        place.socket.unlink()
        if replace:  # a dead one of another's
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
                other.bind(str(place.socket))
        newcomer = HostBackend()
        both = (each.transcribe(TINY, Utterance(sound), OPTIONS) for each in (backend, newcomer))
        assert {each.text for each in await asyncio.gather(*both)} == {SAID}
        assert hosts.pid == pid
        await newcomer.aclose()
    assert hosts.log().count("[WHISPER-HOST] serves") == 1


async def test_host_whose_directory_is_removed_makes_way(
    hosts: Hosts, backend: HostBackend, sound: Audio
) -> None:
    backend.hold(TINY)
    await backend.prewarm(TINY)
    pid = hosts.pid
    shutil.rmtree(hosts.directory)
    await asyncio.to_thread(ended, pid, 20)
    assert (await backend.transcribe(TINY, Utterance(sound), OPTIONS)).text == SAID


async def test_frozen_host_answers_when_it_wakes(
    hosts: Hosts, backend: HostBackend, sound: Audio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was under way is sent again, and what comes meanwhile waits."""
    monkeypatch.setattr(lease, "SILENT_SECONDS", 1.5 * wire.BEAT_SECONDS)
    monkeypatch.setattr(connection, "ANSWER_SECONDS", 0.5)
    backend.hold(TINY)
    await backend.prewarm(TINY)
    pid = hosts.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        first = backend._connection
        asked = [
            asyncio.create_task(backend.transcribe(TINY, Utterance(sound), OPTIONS))
            for _ in range(3)
        ]
        await until(lambda: backend._connection is not first)  # given up
    finally:
        os.kill(pid, signal.SIGCONT)
    assert {each.text for each in await asyncio.gather(*asked)} == {SAID}
    assert hosts.pid == pid


@pytest.mark.parametrize("connected", [False, True])
async def test_no_more_file_descriptors_are_waited_for_and_then_told(
    hosts: Hosts, sound: Audio, connected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process: the host is well."""
    backend = HostBackend()
    backend.hold(TINY)
    if connected:
        await backend.prewarm(TINY)
        assert backend._connection
        await backend._loop.run(_close_idle(backend._connection))
    taken: list[int] = []
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    here = os.open("/dev/null", os.O_RDONLY)
    resource.setrlimit(resource.RLIMIT_NOFILE, (here + 8, limits[1]))
    try:
        with suppress(OSError):
            while True:
                taken.append(os.dup(here))
        monkeypatch.setattr(backend, "_patience", 0.5)
        with pytest.raises(HostUnavailable, match=r"no more file descriptors.*ulimit -n") as caught:
            await backend.transcribe(TINY, Utterance(sound), OPTIONS)
        assert caught.value.retryable
        monkeypatch.setattr(backend, "_patience", 30.0)
        asked = asyncio.create_task(backend.transcribe(TINY, Utterance(sound), OPTIONS))
        await asyncio.sleep(0)
    finally:
        for each in [*taken, here]:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert (await asked).text == SAID
    assert hosts.log().count("[WHISPER-HOST] serves") == 1
    await backend.aclose()


async def _close_idle(which: connection.Connection) -> None:
    """Closes the connections that no request uses now; a lease keeps its own."""
    connector = which._session.connector
    assert connector
    for idle in list(connector._conns.values()):
        for protocol, _ in idle:
            protocol.close()
    connector._conns.clear()
