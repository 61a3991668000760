"""Files and processes that are not ours: no link is followed, no stranger is spoken to or ended."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from livekit.plugins.whisper.errors import HostUnavailable
from livekit.plugins.whisper.host import process
from livekit.plugins.whisper.host.client import HostBackend
from livekit.plugins.whisper.host.listen import UnixListener
from livekit.plugins.whisper.host.place import HostSpec, Place

from tests.support.command import Here
from tests.support.hosts import Hosts
from tests.support.users import NOBODY, ordinary_user
from tests.support.weights import TINY

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="not root, who alone can be two users")


@AS_ROOT
@pytest.mark.parametrize("command", ["status", "stop", "logs", "start"])
def test_no_command_goes_into_the_directory_of_somebody_else(
    hosts: Hosts, here: Here, command: str
) -> None:
    """Where root has another's XDG_RUNTIME_DIR, as with sudo."""
    hosts.directory.mkdir(0o700)
    secret = hosts.runtime / "secret"
    secret.write_text("only root may read this")
    (hosts.directory / "host-0.log").symlink_to(secret)
    os.chown(hosts.directory, NOBODY, NOBODY)
    result = here("host", command)
    assert "belongs to user 65534, not to you (0)" in result.error()
    assert "only root" not in result.out


@pytest.mark.parametrize("command", ["status", "stop", "logs"])
def test_no_command_goes_through_a_link_to_a_directory(
    hosts: Hosts, here: Here, command: str
) -> None:
    elsewhere = hosts.runtime / "elsewhere"
    elsewhere.mkdir(0o700)
    hosts.directory.symlink_to(elsewhere)
    assert "is no directory; remove it" in here("host", command).error()


def test_logs_that_are_links_are_neither_shown_nor_written(hosts: Hosts, here: Here) -> None:
    hosts.directory.mkdir(0o700)
    secret = hosts.runtime / "secret"
    secret.write_text("a secret\n")
    log = hosts.directory / "host-0.log"
    log.symlink_to(secret)
    shown = here("host", "logs").out
    assert f"{log}: not shown: " in shown
    assert "a secret" not in shown
    with pytest.raises(OSError, match="symbolic"):
        process.open_log(log)
    assert secret.read_text() == "a secret\n"


@AS_ROOT
def test_stranger_at_the_socket_is_told_nothing_and_not_ended(
    hosts: Hosts, here: Here, tmp_path: Path
) -> None:
    """The system keeps with a socket who began to listen on it."""
    hosts.directory.mkdir(0o700)
    place = Place(hosts.directory / "host-0.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger:
        stranger.bind(str(place.socket))
        with ordinary_user():
            stranger.listen()
        with pytest.raises(HostUnavailable, match="user 65534 listens there"):
            process.ask(place, token="a token")
        assert "user 65534 listens there" in here("host", "status").out
        assert "user 65534 listens there" in here("host", "stop").error()
        stranger.settimeout(10)
        for _ in range(3):
            connection, _ = stranger.accept()
            with connection:
                assert connection.recv(1) == b""  # nothing was sent


@AS_ROOT
async def test_stranger_at_the_configured_socket_hears_nothing(tmp_path: Path) -> None:
    path = tmp_path / "host.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger:
        stranger.bind(str(path))
        with ordinary_user():
            stranger.listen()
        backend = HostBackend(address=Place(path), token="a token")
        with pytest.raises(HostUnavailable, match="user 65534 listens there"):
            await backend.prewarm(TINY)
        await backend.aclose()
        stranger.settimeout(10)
        connection, _ = stranger.accept()
        with connection:
            assert connection.recv(1) == b""


def test_starter_does_not_follow_a_link_in_place_of_a_hosts_lock(hosts: Hosts) -> None:
    hosts.directory.mkdir(0o700)
    target = hosts.runtime / "target"
    target.touch()
    place = Place.of(HostSpec())
    place.lock.symlink_to(target)
    with pytest.raises(HostUnavailable, match=r"symbolic.*\.lock"):
        process.start_or_join(HostSpec())
    assert not place.log.exists()  # none was started


@pytest.mark.parametrize("kind", ["lock", "start"])
def test_locks_that_are_links_are_not_followed(hosts: Hosts, kind: str) -> None:
    hosts.directory.mkdir(0o700)
    target = hosts.runtime / "target"
    spec = HostSpec()
    place = Place.of(spec)
    place.socket.with_suffix(f".{kind}").symlink_to(target)
    with pytest.raises(HostUnavailable):
        UnixListener(place) if kind == "lock" else process.start_or_join(spec)
    assert not target.exists()
