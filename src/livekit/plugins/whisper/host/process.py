"""Starting a host, joining it, asking it. Imports no server."""

from __future__ import annotations

import fcntl
import http.client
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import HostUnavailable, WhisperError
from ..log import logger
from ..machine import cores
from . import orphans, trust, wire
from .answers import NotNow, is_shortage, unanswered, understood
from .environment import absolute_paths
from .place import HostSpec, Place, Target

LAUNCHER = Path(__file__).with_name("launch.py")
START_SECONDS = 60.0
"""For a host to answer after its start: one second on a quiet machine, more on a busy one."""
ANSWER_SECONDS = 5.0
"""For a host that accepts connections to answer what it knows by heart."""
KILLS = 10
"""How many hosts in a row may be killed at their start before we give up."""
MAX_LOG = 2**20
"""Bytes of a log that is put aside (as `.log.1`) when a host starts."""


def ask(
    where: Place | str,
    path: str = wire.HOST,
    *,
    timeout: float = ANSWER_SECONDS,
    token: str | None = None,
) -> Any:
    """What a host answers to a GET; None where no host lives. Blocking, for a few milliseconds.

    Args:
        where: its place on this machine, or the address of another's.
        path: of the route.
        timeout: seconds for each step.
        token: what it wants to be told.

    Raises:
        HostUnavailable: something accepts connections there but does not answer as a host does.
    """
    connection: http.client.HTTPConnection | None = None
    try:
        connection = _http(where, timeout)
        try:
            connection.connect()
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        headers = {wire.TOKEN: f"Bearer {token}".encode()} if token else {}
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
    except (ConnectionResetError, BrokenPipeError, http.client.RemoteDisconnected):
        return None  # it ended meanwhile
    except (OSError, ValueError, http.client.HTTPException) as exc:
        raise unanswered(where, exc) from exc
    finally:
        if connection:
            connection.close()
    try:
        return understood(where, answer.status, body)
    except NotNow:
        raise
    except WhisperError as exc:
        error = HostUnavailable(f"{where}: {exc}")
        error.retryable = exc.retryable
        raise error from exc


def ask_configured(target: Target, *, timeout: float = ANSWER_SECONDS) -> Any:
    """What the host of a configuration says of itself; None where it does not run. See `ask`.

    Raises:
        HostUnavailable: also where there will never be one.
    """
    if target.address is None:
        Place.of(target.spec).check()
    return ask(target.where, timeout=timeout, token=target.token)


class _UnixHTTP(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("host", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = trust.connect(self._path, self.timeout)


def _http(where: Place | str, timeout: float) -> http.client.HTTPConnection:
    if isinstance(where, Place):
        return _UnixHTTP(where.socket, timeout)
    scheme, _, rest = where.partition("://")
    kind = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
    return kind(rest, timeout=timeout)


def owner_pid(place: Place) -> int | None:
    """The process that listens on a socket, as the system knows it; None where there is none.

    Raises:
        HostUnavailable: it is a stranger's, or in another container.
    """
    try:
        with trust.connect(place.socket) as probe:
            pid, _ = trust.credentials(probe)
    except OSError:
        return None
    if pid <= 0:
        raise HostUnavailable(f"{place}: its process is in another container; end it there")
    return pid


def start_or_join(spec: HostSpec) -> Place:
    """Sees to it that a host lives: one for all who ask at the same time. Blocking.

    A host that is killed before its first answer is started again, a few times.

    Raises:
        HostUnavailable: it does not start, or its directory is not ours alone.
    """
    try:
        place = Place.of(spec)
        place.check()
        deadline, killed = time.monotonic() + START_SECONDS, 0
        while ask(place) is None:
            try:
                with _locked(place.starting, deadline):
                    if ask(place) is None:
                        _start(spec, place, deadline)
            except _Killed as exc:
                killed += 1
                if killed >= KILLS or time.monotonic() > deadline:
                    raise HostUnavailable(
                        f"{killed} hosts were killed at their start, the last by {exc}; "
                        f"look at {place.log}"
                    ) from None
            else:
                break
    except OSError as exc:
        if is_shortage(exc):
            raise unanswered("this machine", exc) from exc
        raise HostUnavailable(f"the host cannot be started ({type(exc).__name__}: {exc})") from exc
    except RuntimeError as exc:  # no more threads
        raise HostUnavailable(f"the host cannot be started ({type(exc).__name__}: {exc})") from exc
    return place


class _Killed(Exception):
    """A host that was killed, or told to end, before its first answer; says by what."""


def _start(spec: HostSpec, place: Place, deadline: float) -> None:
    """Starts a host in a session of its own, and waits until it answers.

    Raises:
        HostUnavailable: it ends by itself, or does not answer in time.
        _Killed: see there.
    """
    _wait_for_socket(place, deadline)
    if ask(place) is not None:
        return
    argv = [sys.executable, str(LAUNCHER), str(place.socket), spec.to_json()]
    started = time.monotonic()
    with _log_or_nothing(place.log) as log:
        child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=place.socket.parent,
            # NumPy's threads, which nothing else limits, count the node's CPUs in a container.
            env={"OPENBLAS_NUM_THREADS": str(cores()), **os.environ, **absolute_paths()},
            start_new_session=True,
        )
    orphans.STARTED.add(child.pid)
    # It outlives us; while we live, somebody has to take note of its end.
    threading.Thread(
        target=_note_end, args=(child,), name="whisper-host-reaper", daemon=True
    ).start()
    while ask(place) is None:
        if (status := child.poll()) is not None and ask(place) is None:
            if status <= 0:  # 0: it was told to end
                raise _Killed(signal.Signals(-status).name if status else "SIGTERM")
            raise HostUnavailable(
                f"the host ended at its start with status {status}; look at {place.log}"
            )
        if time.monotonic() > deadline:
            child.kill()
            raise HostUnavailable(
                f"the host does not answer {START_SECONDS:.0f} s after its start; "
                f"look at {place.log}"
            )
        time.sleep(0.01)
    logger.info("[WHISPER-HOST] started pid=%d seconds=%.2f", child.pid, time.monotonic() - started)


def _wait_for_socket(place: Place, deadline: float) -> None:
    """Returns when no host lives here, or one that can be reached again.

    A host whose socket file was removed holds its lock, and makes itself another one.
    """
    while _is_held(place.lock) and ask(place) is None:
        if time.monotonic() > deadline:
            raise HostUnavailable(
                f"{place.lock}: a host lives there whose socket is gone, and which makes no other; "
                "end that process"
            )
        time.sleep(0.05)


def _is_held(path: Path) -> bool:
    """Whether a living process has locked a file."""
    try:
        file = trust.open_own(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def _note_end(child: subprocess.Popen[bytes]) -> None:
    child.wait()
    orphans.STARTED.discard(child.pid)


@contextmanager
def _locked(path: Path, deadline: float) -> Iterator[None]:
    file = trust.open_own(path, os.O_RDWR | os.O_CREAT)
    try:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise HostUnavailable(
                        f"{path}: another process has been starting the host for "
                        f"{START_SECONDS:.0f} s; look at {path.with_suffix('.log')}"
                    ) from None
                time.sleep(0.01)
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)  # a child forked meanwhile has the file open as well
        os.close(file)


def open_log(path: Path) -> BinaryIO:
    """The log of a host; what is too long is put aside.

    Raises:
        OSError: it cannot be written, or is no file of ours.
    """
    with suppress(FileNotFoundError):
        if path.lstat().st_size > MAX_LOG:
            path.replace(path.with_suffix(".log.1"))
    file = trust.open_own(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    return os.fdopen(file, "ab", buffering=0)


def _log_or_nothing(path: Path) -> BinaryIO:
    try:
        return open_log(path)
    except OSError as exc:  # a host without a log is better than none
        logger.warning("%s: cannot be written (%s): the host has no log", path, exc.strerror)
        return open(os.devnull, "ab", buffering=0)
