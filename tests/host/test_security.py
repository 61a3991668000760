"""Who may reach a host, with what, and how much of it. Real processes, real sockets."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import psutil
import pytest
from livekit.plugins.whisper.audio import from_file
from livekit.plugins.whisper.errors import AudioError, ConfigError, HostUnavailable
from livekit.plugins.whisper.host import wire
from livekit.plugins.whisper.host.client import HostBackend
from livekit.plugins.whisper.host.listen import TcpListener, UnixListener
from livekit.plugins.whisper.host.place import HostSpec, Place
from livekit.plugins.whisper.host.process import ask, start_or_join
from livekit.plugins.whisper.types import Audio, DecodeOptions, ModelKey, Utterance

from tests.support.hosts import TOKEN, Hosts, ended, ready, tcp_host, until
from tests.support.weights import TINY, recordings

OPTIONS = DecodeOptions(language="en")


async def test_socket_is_for_its_owner_only(hosts: Hosts) -> None:
    place = await asyncio.to_thread(start_or_join, HostSpec())
    assert stat.S_IMODE(place.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(place.socket.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(place.log.stat().st_mode) == 0o600


def test_directory_that_others_may_enter_is_refused(hosts: Hosts) -> None:
    hosts.open_to_others(0o755)
    with pytest.raises(HostUnavailable, match=r"others may enter it \(mode 755\).*chmod 700"):
        start_or_join(HostSpec())
    assert not list(hosts.directory.iterdir())


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")
def test_directory_of_somebody_else_is_refused(hosts: Hosts) -> None:
    hosts.directory.mkdir(mode=0o700)
    os.chown(hosts.directory, 65534, 65534)
    with pytest.raises(HostUnavailable, match="belongs to user 65534"):
        start_or_join(HostSpec())


def test_directory_that_is_a_link_is_refused(hosts: Hosts, tmp_path: Path) -> None:
    hosts.directory.symlink_to(tmp_path)
    with pytest.raises(HostUnavailable, match="is no directory; remove it"):
        start_or_join(HostSpec())


def test_path_too_long_for_a_socket_is_refused(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    long = tmp_path / ("long" * 30)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    with pytest.raises(HostUnavailable, match="XDG_RUNTIME_DIR to a shorter one"):
        start_or_join(HostSpec())


def test_live_socket_is_never_removed(hosts: Hosts) -> None:
    place = start_or_join(HostSpec())
    inode = place.socket.stat().st_ino
    with pytest.raises(HostUnavailable, match="a host lives there already"):
        UnixListener(place)
    assert place.socket.stat().st_ino == inode
    assert ask(place)


def test_socket_of_something_else_is_never_removed(hosts: Hosts) -> None:
    place = Place(hosts.directory / "other.sock")
    place.check()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.bind(str(place.socket))
        other.listen()
        with pytest.raises(HostUnavailable, match="something else listens there"):
            UnixListener(place)
        assert place.socket.exists()


def test_file_in_the_place_of_a_socket_is_left_alone(hosts: Hosts) -> None:
    place = Place(hosts.directory / "other.sock")
    place.check()
    place.socket.write_text("somebody's notes")
    with pytest.raises(HostUnavailable, match="and no socket; remove it"):
        UnixListener(place)
    assert place.socket.read_text() == "somebody's notes"


def test_stale_socket_and_stale_locks_are_taken_over(hosts: Hosts) -> None:
    place = Place.of(HostSpec())
    place.check()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(place.socket))
    place.lock.write_text("99999999")
    place.starting.write_text("99999999")
    assert start_or_join(HostSpec()) == place
    assert ask(place)


def test_listener_of_a_drained_host_leaves_its_successors_socket(hosts: Hosts) -> None:
    place = Place(hosts.directory / "own.sock")
    first = UnixListener(place, create=True)
    place.socket.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as second:
        second.bind(str(place.socket))
        first.close()
        assert place.socket.exists()


async def test_full_disk_costs_the_log_and_nothing_else(hosts: Hosts, sound: Audio) -> None:
    place = Place.of(HostSpec())
    place.check()
    place.log.symlink_to("/dev/full")
    backend = HostBackend(HostSpec())
    assert (await backend.transcribe(TINY, Utterance(sound), OPTIONS)).text
    await backend.aclose()


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0"])
def test_tcp_beyond_this_machine_needs_a_token(address: str) -> None:
    with pytest.raises(ConfigError, match="set a token in STT_HOST_TOKEN"):
        TcpListener(address, None)


async def test_tcp_wants_the_token_and_knows_only_its_models(
    tmp_path: Path, sound: Audio, capfd: pytest.CaptureFixture[str]
) -> None:
    with tcp_host(tmp_path) as url:
        await ready(url)
        good = HostBackend(address=url, token=TOKEN)
        transcript = await good.transcribe(TINY, Utterance(sound), OPTIONS)
        assert transcript.text == "He might even have been made amiable himself."
        with pytest.raises(wire.NotLeased, match="this host was not started with it"):
            await good.transcribe(ModelKey("faster-whisper", "base"), Utterance(sound), OPTIONS)
        await good.aclose()
        for token in (None, TOKEN[:-1], TOKEN + "x", "ä"):
            bad = HostBackend(address=url, token=token)
            with pytest.raises(HostUnavailable, match="token is missing or wrong"):
                await bad.prewarm(TINY)
            await bad.aclose()
    assert transcript.text not in (tmp_path / "host.log").read_text()


async def test_bodies_and_headers_have_limits(tmp_path: Path) -> None:
    with tcp_host(tmp_path) as url:
        await ready(url)
        headers = {"Authorization": f"Bearer {TOKEN}"}
        query = {"engine": TINY.engine, "model": TINY.model}
        async with aiohttp.ClientSession(url, headers=headers) as http:

            async def endless() -> AsyncIterator[bytes]:
                sent = 0
                while sent < 4 * wire.MAX_BODY:
                    yield bytes(2**20)
                    sent += 2**20

            try:
                async with http.post(wire.TRANSCRIBE, params=query, data=endless()) as answer:
                    assert answer.status == 422
                    assert "send it in parts" in await answer.text()
            except aiohttp.ClientConnectionError:
                pass  # it hung up on us, which is a limit as well
            async with http.post(wire.TRANSCRIBE, params=query, data=b"abc") as answer:
                assert answer.status == 422
                assert "3 bytes are no 32-bit samples" in await answer.text()
            async with http.get("/healthz", headers={"X": "x" * 2**17}) as answer:
                assert answer.status in (400, 422)
            async with http.get(wire.HOST) as answer:
                facts = await answer.json()
            assert facts["requests"] == 0
            rss = psutil.Process(facts["pid"]).memory_info().rss
            assert rss < 1200 * 2**20


async def test_audio_longer_than_a_request_may_be_is_refused_before_it_is_sent(
    hosts: Hosts,
) -> None:
    import numpy as np

    backend = HostBackend()
    samples = np.zeros(int((wire.MAX_SECONDS + 1) * 16_000), np.float32)
    with pytest.raises(AudioError, match=r"901 s of audio.*STT_BACKEND=process"):
        await backend.transcribe(TINY, Utterance(Audio(samples)), OPTIONS)
    await backend.aclose()
    assert not hosts.directory.exists()


async def test_nothing_said_is_in_the_log(hosts: Hosts) -> None:
    backend = HostBackend()
    options = DecodeOptions(language="en", prompt="Elinor Dashwood", hotwords="amiable")
    for path in recordings():
        transcript = await backend.transcribe(TINY, Utterance(from_file(path)), options)
        for word in re.findall(r"\w{6,}", transcript.text):
            assert word not in hosts.log()
    assert "Dashwood" not in hosts.log()
    await backend.aclose()


async def test_other_version_is_refused_by_name(hosts: Hosts, tmp_path: Path) -> None:
    place = Place(hosts.directory / "other.sock")
    place.check()
    server = tmp_path / "server.py"
    server.write_text(
        "import sys, uvicorn\n"
        "from livekit.plugins.whisper.host import wire\n"
        "wire.PROTOCOL = 99\n"
        "from livekit.plugins.whisper.host import serve\n"
        "sys.exit(serve.main([sys.argv[1], sys.argv[2]]))\n"
    )
    other = await asyncio.create_subprocess_exec(
        sys.executable, str(server), str(place.socket), HostSpec().to_json()
    )
    try:
        await until(lambda: place.socket.exists() and ask(place))
        backend = HostBackend(address=place)
        said = f"protocol 99, this version {wire.PROTOCOL}: run the same"
        with pytest.raises(HostUnavailable, match=said) as caught:
            await backend.prewarm(TINY)
        assert not caught.value.retryable
        await backend.aclose()
    finally:
        other.terminate()
        await other.wait()


async def test_host_that_was_configured_otherwise_is_another_one(hosts: Hosts) -> None:
    from livekit.plugins.whisper.types import Limits

    one = await asyncio.to_thread(start_or_join, HostSpec())
    two = await asyncio.to_thread(start_or_join, HostSpec(Limits(threads=1)))
    assert one != two
    assert {place.socket for place in hosts.places()} == {one.socket, two.socket}
    first, second = ask(one), ask(two)
    assert first["pid"] != second["pid"]
    for pid in (first["pid"], second["pid"]):
        os.kill(pid, 15)
        await asyncio.to_thread(ended, pid, 20)


async def test_model_that_nobody_keeps_is_refused_with_the_way_out(hosts: Hosts) -> None:
    """As `curl` finds the machine's own host, which keeps only what is leased."""
    place = await asyncio.to_thread(start_or_join, HostSpec())
    connector = aiohttp.UnixConnector(str(place.socket))
    query = {"engine": TINY.engine, "model": TINY.model}
    async with aiohttp.ClientSession("http://host", connector=connector) as http:
        async with http.post(wire.TRANSCRIBE, params=query, data=bytes(64)) as answer:
            assert answer.status == 409
            message = (await answer.json())["error"]["message"]
            assert f"POST {wire.LEASE}" in message and "host run --model NAME" in message
        async with http.post(wire.LEASE, json=query) as lease:
            async for line in lease.content:
                if b"loaded" in line:
                    break
            async with http.post(wire.TRANSCRIBE, params=query, data=bytes(64)) as answer:
                assert answer.status == 200
