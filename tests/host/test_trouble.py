"""Hosts that hang, crash again and again, or end in the middle; and those who only look on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import textwrap
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import psutil
import pytest
from livekit.plugins import whisper
from livekit.plugins.whisper import models
from livekit.plugins.whisper.errors import HostCrashed
from livekit.plugins.whisper.host import lease, process, wire
from livekit.plugins.whisper.host.client import HostBackend
from livekit.plugins.whisper.types import Audio, DecodeOptions, Utterance

from tests.support.hosts import TOKEN, Hosts, ready, tcp_host, until
from tests.support.servers import serving
from tests.support.weights import TINY, joined_recordings

OPTIONS = DecodeOptions(language="en")
SAID = "He might even have been made amiable himself."


@pytest.fixture
def long() -> Audio:
    """Takes a second or more to decode."""
    return joined_recordings(3)


async def test_host_that_hangs_is_given_up_for_the_fallback(
    hosts: Hosts, sound: Audio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "SILENT_SECONDS", 1.5 * wire.BEAT_SECONDS)
    backend = HostBackend(fallback=whisper.LocalBackend())
    backend.hold(TINY)
    await backend.prewarm(TINY)
    pid = hosts.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        assert (await backend.transcribe(TINY, Utterance(sound), OPTIONS)).text == SAID
    finally:
        os.kill(pid, signal.SIGCONT)
    await backend.aclose()


async def test_host_that_drains_finishes_what_it_began_and_no_other_is_asked(
    hosts: Hosts, backend: HostBackend, long: Audio
) -> None:
    backend.hold(TINY)
    await backend.prewarm(TINY)
    begun = [
        asyncio.create_task(backend.transcribe(TINY, Utterance(long), OPTIONS)) for _ in range(3)
    ]
    await until(lambda: hosts.ask()["requests"] == 3)
    os.kill(hosts.pid, signal.SIGTERM)
    assert all(SAID in each.text for each in await asyncio.gather(*begun))
    assert hosts.log().count("[WHISPER-HOST] serves") == 1


async def test_utterance_that_crashes_hosts_is_refused_in_the_end(
    hosts: Hosts, backend: HostBackend, long: Audio, sound: Audio
) -> None:
    backend.hold(TINY)
    await backend.prewarm(TINY)
    poison = asyncio.create_task(backend.transcribe(TINY, Utterance(long), OPTIONS))
    killed = set()
    while not poison.done():
        with suppress(Exception):  # there may be no host just now
            pid = hosts.pid
            if pid not in killed and hosts.ask()["requests"]:
                killed.add(pid)
                os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(0.01)
    with pytest.raises(HostCrashed, match="3 hosts have ended unasked while they decoded one"):
        await poison
    assert len(killed) == 3
    assert not HostCrashed.retryable
    assert (await backend.transcribe(TINY, Utterance(sound), OPTIONS)).text == SAID


async def test_model_whose_load_crashes_hosts_is_refused_and_not_tried_for_ever(
    hosts: Hosts,
    backend: HostBackend,
    sound: Audio,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        textwrap.dedent(
            """
            import os, sys
            class Crash:
                def find_spec(self, name, path=None, target=None):
                    if name == "ctranslate2":
                        os.abort()  # as a library does that finds its memory damaged
            if any(each.endswith("launch.py") for each in sys.orig_argv):
                sys.meta_path.insert(0, Crash())
            """
        )
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    backend.hold(TINY)
    for _ in range(3):
        with pytest.raises(HostCrashed, match="end unasked while they load"):
            await backend.transcribe(TINY, Utterance(sound), OPTIONS)
    assert hosts.log().count("[WHISPER-HOST] serves") == 3


async def test_fallback_keeps_what_is_held_and_gives_it_back_to_the_host(
    hosts: Hosts, sound: Audio, monkeypatch: pytest.MonkeyPatch
) -> None:
    from livekit.plugins.whisper.host import client

    monkeypatch.setattr(client, "ABSENT_SECONDS", 0.0)
    hosts.open_to_others()
    local = whisper.LocalBackend()
    backend = HostBackend(fallback=local)
    backend.hold(TINY)
    assert (await backend.transcribe(TINY, Utterance(sound), OPTIONS)).text == SAID
    assert [entry.refs for entry in local.info().entries] == [1]
    hosts.directory.chmod(0o700)
    assert (await backend.transcribe(TINY, Utterance(sound), OPTIONS)).text == SAID
    assert not local.info().entries
    await backend.aclose()


def test_load_fnc_answers_whatever_the_state_of_the_host(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts.open_to_others(0o755)
    assert 0.0 <= whisper.load_fnc() <= 1.0
    hosts.directory.chmod(0o700)
    (hosts.directory / "x").mkdir()
    assert whisper.load_fnc() == 0.0
    with serving(SomethingElse) as url:
        for address in (url, "http://127.0.0.1:9", f"unix:{hosts.directory}/x"):
            monkeypatch.setenv("STT_HOST", address)
            assert 0.0 <= whisper.load_fnc() <= 1.0


async def test_something_else_at_the_address_is_told(hosts: Hosts, sound: Audio) -> None:
    with serving(SomethingElse) as url:
        backend = HostBackend(address=url)
        with pytest.raises(whisper.HostUnavailable, match="no livekit-whisper host"):
            await backend.transcribe(TINY, Utterance(sound), OPTIONS)
        await backend.aclose()


class SomethingElse(BaseHTTPRequestHandler):
    """Answers everything with a JSON list."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps([1, 2]).encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


async def test_silent_and_endless_callers_are_hung_up_on(tmp_path: Path) -> None:
    with tcp_host(tmp_path) as url:
        await ready(url)
        place = ("127.0.0.1", int(url.rpartition(":")[2]))

        def ends(data: bytes) -> bytes:
            with socket.create_connection(place, timeout=40) as caller:
                with suppress(ConnectionError):
                    caller.sendall(data)
                    return caller.recv(65536)
                return b""

        silent = asyncio.to_thread(ends, b"")
        half = asyncio.to_thread(ends, b"GET /healthz HTTP/1.1\r\nHost:")
        assert set(await asyncio.gather(silent, half)) == {b""}
        (pid,) = (p.pid for p in psutil.Process().children() if "--tcp" in p.cmdline())
        before = psutil.Process(pid).memory_info().rss
        post = (
            f"POST {wire.LEASE} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
            "Content-Type: application/json\r\n"
        ).encode()
        long = b"1000000\r\n" + b" " * 2**24 + b"\r\n0\r\n"  # what is no body has no credit from it
        endless = {
            "body": post + b"Content-Length: 209715200\r\n\r\n" + b" " * 200 * 2**20,
            "head": b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 200 * 2**20,
            "trailers": post + b"Transfer-Encoding: chunked\r\n\r\n" + long + b"X: x\r\n" * 2**25,
            "requests": b"GET / HTTP/1.1\r\n\r\n" * 2**23,
        }
        for what, data in endless.items():
            answer = await asyncio.to_thread(ends, data)
            assert not answer or b" 4" in answer.split(b"\r\n")[0], what
            assert psutil.Process(pid).memory_info().rss - before < 50 * 2**20, what


async def test_requests_that_would_be_served_wrongly_are_refused(tmp_path: Path) -> None:
    """A lease with another request behind it, of which nobody would see its caller hang up, and a
    body that an offer to upgrade would have us take for the next request."""
    with tcp_host(tmp_path) as url:
        await ready(url)
        fields = json.dumps({"engine": TINY.engine, "model": TINY.model}).encode()
        common = f"HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n".encode()
        get = b"GET /healthz " + common
        post = f"POST {wire.LEASE} ".encode() + common + b"Content-Type: application/json\r\n"
        post += b"Content-Length: %d\r\n" % len(fields)
        upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"

        def answer(data: bytes) -> bytes:
            place = ("127.0.0.1", int(url.rpartition(":")[2]))
            with socket.create_connection(place, timeout=20) as caller:
                caller.sendall(data)
                return caller.recv(65536).split(b"\r\n")[0]

        for wrong in (post + b"\r\n" + fields + get + b"\r\n", post + upgrade + b"\r\n" + fields):
            assert b" 400" in await asyncio.to_thread(answer, wrong)
        assert b" 200" in await asyncio.to_thread(answer, get + upgrade + b"\r\n")
        await until(lambda: (process.ask(url, token=TOKEN) or {})["leases"] == 0)


def test_references_mean_the_same_in_another_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights").mkdir()
    package = tmp_path / "beside_the_agent"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    engine = "faster-whisper"
    assert models.absolute(engine, "weights") == str(tmp_path / "weights")
    assert models.absolute(engine, "./weights") == str(tmp_path / "weights")
    beside = models.absolute(engine, "package:beside_the_agent/model")
    assert beside == str(package / "model")
    for same in ("tiny.en", "owner/repository", TINY.model):
        assert models.absolute(engine, same) == same
