"""Which files and which processes of this machine are ours: checked before they are used.

A file is opened without following a link, and looked at afterwards, so that nobody can exchange
it in between. A process is known by the credentials that the system keeps with its socket.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
import sys
from pathlib import Path

import psutil

from ..errors import HostUnavailable

_MACOS = (0, 1, 2)
"""Of <sys/un.h>: SOL_LOCAL, LOCAL_PEERCRED, LOCAL_PEERPID."""


def open_own(path: Path, flags: int) -> int:
    """Opens a regular file of this user's, for its owner only where it is made.

    Returns:
        The file descriptor; not inherited.

    Raises:
        FileNotFoundError: there is none.
        OSError: it is a link, another kind of file, or somebody else's, or cannot be opened.
    """
    # Not blocking: the end of a pipe would wait for the other one.
    file = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    found = os.fstat(file)
    if stat.S_ISREG(found.st_mode) and found.st_uid == os.getuid():
        return file
    os.close(file)
    raise PermissionError(1, "is no file of yours; remove it", str(path))


def connect(path: Path, timeout: float | None = None) -> socket.socket:
    """A connection to the Unix socket of a host that `check_peer` trusts.

    Raises:
        HostUnavailable: somebody else listens there.
        OSError: nobody does.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        connection.connect(str(path))
        check_peer(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def check_peer(connection: socket.socket, path: Path) -> None:
    """Sees to it that nothing is sent to a stranger.

    Trusted are this user, root, and the owner of the socket's directory: a host that an operator
    set up may run as another user, and nobody else can put a socket into that directory.

    Raises:
        HostUnavailable: somebody else listens there.
        OSError: the directory has gone.
    """
    _, user = credentials(connection)
    if user not in (os.getuid(), 0, path.parent.stat().st_uid):
        raise HostUnavailable(
            f"{path}: user {user} listens there, who is neither you ({os.getuid()}) nor the owner "
            "of its directory: nothing was sent; set STT_HOST to the socket of your own host"
        )


def credentials(connection: socket.socket) -> tuple[int, int]:
    """Process and user that listen on a Unix socket. The process is 0 in another container."""
    if sys.platform == "darwin":
        level, of_user, of_process = _MACOS
        _, user = struct.unpack("=II", connection.getsockopt(level, of_user, 76)[:8])
        return connection.getsockopt(level, of_process), user
    size = struct.calcsize("=iII")
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    pid, user, _ = struct.unpack("=iII", found)
    return pid, user


def listens(pid: int, path: Path) -> bool:
    """Whether a process of this user's is the one that listens on a Unix socket."""
    try:
        process = psutil.Process(pid)
        if process.uids().effective != os.getuid():
            return False
        # Its name before psutil 6.
        sockets = getattr(process, "net_connections", None) or process.connections
        return any(each.laddr == str(path) for each in sockets("unix"))
    except psutil.Error:
        return False
