"""Hosts that are killed while they start, whose socket is removed, or that nobody can reach."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import psutil
import pytest
from livekit.plugins import whisper
from livekit.plugins.whisper.errors import HostUnavailable
from livekit.plugins.whisper.host import process
from livekit.plugins.whisper.host.client import HostBackend
from livekit.plugins.whisper.host.place import HostSpec
from livekit.plugins.whisper.types import Audio, DecodeOptions, Utterance

from tests.support.hosts import Hosts, until
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
