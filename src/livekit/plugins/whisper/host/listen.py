"""The host's own end of its address: one live host a socket, and no live socket ever removed."""

from __future__ import annotations

import fcntl
import ipaddress
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

from ..errors import ConfigError, HostUnavailable
from .place import Place
from .trust import open_own

BACKLOG = 512


class UnixListener:
    """A Unix socket that this process alone listens on, until `close`.

    Args:
        place: its files.
        create: makes their directory if it is not there.

    Raises:
        HostUnavailable: another host lives there, or the directory is not ours alone.
    """

    def __init__(self, place: Place, *, create: bool = False) -> None:
        place.check(create=create)
        self._path = place.socket
        self._lock = _open_lock(place.lock)
        try:
            self._own(place.lock)
            self._listen()
        except BaseException:
            os.close(self._lock)
            raise

    def is_removed(self) -> bool:
        """Whether the file of the socket is gone, or is another's: nobody new can find us."""
        try:
            return self._path.lstat().st_ino != self._inode
        except FileNotFoundError:
            return True

    def bind_again(self) -> None:
        """Makes another socket in place of one that is removed; its connections stay open.

        Raises:
            HostUnavailable: something else is in its place.
        """
        if not self._path.parent.is_dir():
            raise HostUnavailable(f"{self._path.parent}: is removed")
        removed = self.socket
        self._listen()
        removed.close()

    def close(self) -> None:
        """Makes way for the next host at once; connections that are open stay open."""
        with suppress(FileNotFoundError):
            if self._path.lstat().st_ino == self._inode:
                self._path.unlink()
        self.socket.close()
        fcntl.flock(self._lock, fcntl.LOCK_UN)
        os.close(self._lock)

    def _own(self, path: Path) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HostUnavailable(f"{path}: a host lives there already") from None

    def _listen(self) -> None:
        self.socket = self._bind()
        self._inode = self._path.lstat().st_ino

    def _bind(self) -> socket.socket:
        self._remove_dead()
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            listening.bind(str(self._path))
            listening.listen(BACKLOG)
        except OSError as exc:
            listening.close()
            raise HostUnavailable(f"{self._path}: cannot be served ({exc.strerror})") from exc
        finally:
            os.umask(before)
        return listening

    def _remove_dead(self) -> None:
        """Removes a dead host's socket: whoever holds the lock is the only live one."""
        try:
            found = self._path.lstat()
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(found.st_mode):
            raise HostUnavailable(f"{self._path}: is in the way and no socket; remove it")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(self._path))
            except ConnectionRefusedError:
                self._path.unlink()
            else:
                raise HostUnavailable(f"{self._path}: something else listens there; stop it")


def _open_lock(path: Path) -> int:
    try:
        return open_own(path, os.O_RDWR | os.O_CREAT)
    except OSError as exc:
        raise HostUnavailable(f"{path}: cannot be locked ({exc.strerror})") from exc


class TcpListener:
    """A TCP port; other machines' only with a token.

    Raises:
        ConfigError: the address is none, is taken, or is not loopback and there is no token.
    """

    def __init__(self, address: str, token: str | None) -> None:
        name, _, port = address.rpartition(":")
        name = name.strip("[]")
        try:
            found = socket.getaddrinfo(name, int(port), type=socket.SOCK_STREAM)[0]
        except (ValueError, OSError) as exc:
            raise ConfigError(f"--tcp: {address!r}: must be NAME:PORT ({exc})") from None
        family, kind, protocol, _, place = found
        if not ipaddress.ip_address(place[0]).is_loopback and not token:
            raise ConfigError(
                f"--tcp: {address!r}: other machines can reach it: set a token in STT_HOST_TOKEN, "
                "or use 127.0.0.1"
            )
        self.socket = socket.socket(family, kind, protocol)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self.socket.bind(place)
        except OSError as exc:
            self.socket.close()
            raise ConfigError(f"--tcp: {address!r}: {exc.strerror}; choose another") from exc
        self.socket.listen(BACKLOG)

    def close(self) -> None:
        """Accepts no more connections; those that are open stay open."""
        self.socket.close()
