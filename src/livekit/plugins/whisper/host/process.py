"""Which host this process belongs to; starting it, joining it, asking it. Imports no server.

Everything of a host lies in one directory of the user's own, named by its fingerprint: its socket,
its log, and two locks. A starter holds `.start` while it starts a host; the host itself holds
`.lock` as long as it lives, so that only its holder may remove the socket of a host that is dead.
The system drops both when their holder dies, however it dies.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import importlib.metadata
import json
import os
import re
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..build import BUILD
from ..config import STTConfig
from ..errors import ConfigError, HostUnavailable
from ..log import logger
from ..types import Limits
from ..version import __version__
from . import wire

START_SECONDS = 60.0
"""For a host to answer after its start: two seconds on a quiet machine, more on a busy one."""
ANSWER_SECONDS = 5.0
"""For a host that accepts connections to answer what it knows by heart."""
IDLE_SECONDS = 300.0
"""How long a host stays that nobody uses."""
MAX_LOG = 2**20
"""Bytes of a log that is put aside (as `.log.1`) when a host starts."""
MAX_SOCKET_PATH = 107 if sys.platform == "linux" else 103
"""The system's limit on the path of a Unix socket, in bytes."""

_ENVIRONMENT = (
    "CUDA_VISIBLE_DEVICES", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_TOKEN", "HOME",
)  # fmt: skip
_PATHS = ("HF_HOME", "HF_HUB_CACHE", "PYTHONPATH", "XDG_CACHE_HOME")
"""What decides which weights a name means, and where they run."""
_PACKAGES = ("ctranslate2", "faster-whisper", "openai-whisper", "torch")


@dataclass(frozen=True)
class HostSpec:
    """What a host is started with. Processes with an equal one, of the same install, share it."""

    limits: Limits = field(default_factory=Limits)
    """What its models may use."""
    idle: float = IDLE_SECONDS
    """Seconds without users after which it ends; 0: never."""

    @property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits; another for another version, install or configuration."""
        facts = [
            wire.PROTOCOL, __version__, sys.prefix, list(sys.version_info), asdict(self),
            [(name, os.environ.get(name)) for name in _ENVIRONMENT], _paths(), _versions(), BUILD,
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]

    def to_json(self) -> str:
        """For the command line of a host."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> HostSpec:
        """What `to_json` wrote."""
        raw = json.loads(text)
        return cls(**{**raw, "limits": Limits(**raw["limits"])})


@dataclass(frozen=True)
class Place:
    """The files of one host."""

    socket: Path

    def __str__(self) -> str:
        return f"unix:{self.socket}"

    @classmethod
    def of(cls, spec: HostSpec) -> Place:
        """Where the host of a specification is, whether it runs or not."""
        return cls(directory() / f"host-{spec.fingerprint}.sock")

    @property
    def log(self) -> Path:
        return self.socket.with_suffix(".log")

    @property
    def lock(self) -> Path:
        return self.socket.with_suffix(".lock")

    @property
    def starting(self) -> Path:
        return self.socket.with_suffix(".start")

    def check(self, *, create: bool = True) -> None:
        """Makes the directory if wanted, and refuses one that others can reach.

        Raises:
            HostUnavailable: it is not ours alone; the message says the way out.
        """
        folder = self.socket.parent
        if len(os.fsencode(self.socket)) > MAX_SOCKET_PATH:
            raise HostUnavailable(
                f"{self.socket}: longer than the {MAX_SOCKET_PATH} bytes that the path of a socket "
                "may have; set XDG_RUNTIME_DIR to a shorter one"
            )
        try:
            if create:
                folder.mkdir(0o700, parents=True, exist_ok=True)
            found = folder.lstat()
        except OSError as exc:
            raise HostUnavailable(
                f"{folder}: cannot be used ({exc.strerror}); set XDG_RUNTIME_DIR to a directory "
                "of your own"
            ) from exc
        if not stat.S_ISDIR(found.st_mode):
            raise HostUnavailable(f"{folder}: is no directory; remove it")
        if found.st_uid != os.getuid():
            raise HostUnavailable(
                f"{folder}: belongs to user {found.st_uid}, not to you ({os.getuid()}); "
                "set XDG_RUNTIME_DIR to a directory of your own"
            )
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise HostUnavailable(
                f"{folder}: others may enter it (mode {stat.S_IMODE(found.st_mode):o}); "
                f"run: chmod 700 {folder}"
            )


def directory() -> Path:
    """Where this user's hosts are; checked by `Place.check`."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.path.isabs(runtime) and os.access(runtime, os.W_OK):
        return Path(runtime) / "livekit-whisper"
    return Path(tempfile.gettempdir()) / f"livekit-whisper-{os.getuid()}"


def places() -> list[Place]:
    """Of every host of this user that left a socket or a log, running or not."""
    patterns = ("host-*.sock", "host-*.log")
    found = {path.with_suffix(".sock") for p in patterns for path in directory().glob(p)}
    return [Place(path) for path in sorted(found)]


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
        headers = {wire.TOKEN: f"Bearer {token}"} if token else {}
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        found = json.loads(answer.read())
    except (ConnectionResetError, BrokenPipeError, http.client.RemoteDisconnected):
        return None  # it ended meanwhile
    except (OSError, ValueError, http.client.HTTPException) as exc:
        raise HostUnavailable(
            f"{where}: no host answers there ({type(exc).__name__}: {exc}); "
            "run: livekit-whisper host logs, or: livekit-whisper host stop"
        ) from exc
    finally:
        if connection:
            connection.close()
    if answer.status >= 400:
        raise HostUnavailable(f"{where}: {found}")
    return found


class _UnixHTTP(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("host", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _http(where: Place | str, timeout: float) -> http.client.HTTPConnection:
    if isinstance(where, Place):
        return _UnixHTTP(where.socket, timeout)
    scheme, _, rest = where.partition("://")
    kind = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
    return kind(rest, timeout=timeout)


def owner_pid(place: Place) -> int | None:
    """The process that listens on a socket, as the system knows it; None where there is none."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(place.socket))
        except OSError:
            return None
        if hasattr(socket, "SO_PEERCRED"):
            credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            pid = int.from_bytes(credentials[:4], sys.byteorder, signed=True)
            if pid <= 0:
                raise HostUnavailable(f"{place}: its process is in another container; end it there")
            return pid
    answer = ask(place)
    return int(answer["pid"]) if answer else None


def start_or_join(spec: HostSpec, place: Place | None = None) -> Place:
    """Sees to it that a host lives: one for all who ask at the same time. Blocking.

    Raises:
        HostUnavailable: it does not start, or its directory is not ours alone.
    """
    try:
        place = place or Place.of(spec)
        place.check()
        if ask(place) is not None:
            return place
        deadline = time.monotonic() + START_SECONDS
        with _locked(place.starting, deadline):
            if ask(place) is None:
                _start(spec, place, deadline)
    except (OSError, RuntimeError) as exc:  # no more files, threads, memory, or room
        raise HostUnavailable(f"the host cannot be started ({type(exc).__name__}: {exc})") from exc
    return place


def _start(spec: HostSpec, place: Place, deadline: float) -> None:
    """Starts a host in a session of its own, and waits until it answers."""
    argv = [sys.executable, "-m", f"{__package__}.serve", str(place.socket), spec.to_json()]
    started = time.monotonic()
    with _open_log(place.log) as log:
        child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=place.socket.parent,
            env={**os.environ, **_paths()},
            start_new_session=True,
        )
    # It outlives us; while we live, somebody has to take note of its end.
    threading.Thread(target=child.wait, name="whisper-host-reaper", daemon=True).start()
    while ask(place) is None:
        if (status := child.poll()) is not None and ask(place) is None:
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


@contextmanager
def _locked(path: Path, deadline: float) -> Iterator[None]:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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


def _open_log(path: Path) -> Any:
    try:
        if path.exists() and path.stat().st_size > MAX_LOG:
            path.replace(path.with_suffix(".log.1"))
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")
    except OSError as exc:  # a host without a log is better than none
        logger.warning("%s: cannot be written (%s): the host has no log", path, exc.strerror)
        return open(os.devnull, "ab")


@lru_cache
def _versions() -> tuple[str | None, ...]:
    def version(name: str) -> str | None:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return None

    return tuple(version(name) for name in _PACKAGES)


def _paths() -> dict[str, str]:
    """Variables that hold paths, made absolute: a host has a working directory of its own."""
    found = {name: os.environ[name] for name in _PATHS if os.environ.get(name)}
    return {
        name: os.pathsep.join(map(os.path.abspath, value.split(os.pathsep)))
        for name, value in found.items()
    }


def configured(config: STTConfig) -> tuple[Place | str, str | None]:
    """Where the host of a configuration is, whether it runs or not, and the token that it wants."""
    spec = HostSpec(config.limits, config.host_idle)
    where = parse_address(config.host) if config.host else Place.of(spec)
    return where, config.host_token.get_secret_value() if config.host_token else None


def parse_address(text: str) -> Place | str:
    """An address in the configuration: `unix:/path` or `http(s)://host:port`.

    Raises:
        ConfigError: neither of them.
    """
    if text.startswith("unix:/"):
        return Place(Path(text.removeprefix("unix:")))
    if re.fullmatch(r"https?://[^/?#]+/?", text):
        return text.rstrip("/")
    raise ConfigError(f"host (STT_HOST): {text!r}: allowed: unix:/path/of/socket, http://name:port")
