"""Which host a process means, and where it is. Starts nothing, asks nobody.

Everything of a host lies in one directory of the user's own, named by its fingerprint: its socket,
its log, and two locks. A starter holds `.start` while it starts a host; the host itself holds
`.lock` as long as it lives, so that only its holder may remove the socket of a host that is dead.
The system drops both when their holder dies, however it dies.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import stat
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path

from ..build import BUILD
from ..config import STTConfig
from ..errors import ConfigError, HostUnavailable
from ..types import Limits
from ..version import __version__
from . import wire
from .environment import relevant

IDLE_SECONDS = 300.0
"""How long a host stays that nobody uses."""
MAX_SOCKET_PATH = 107 if sys.platform == "linux" else 103
"""The system's limit on the path of a Unix socket, in bytes."""

_PACKAGES = ("ctranslate2", "faster-whisper", "openai-whisper", "torch")


class Unusable(HostUnavailable):
    """A host, or the directory of one, that is not ours to use, whenever we try."""

    retryable = False


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
            relevant(), _versions(), BUILD,
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
            raise Unusable(
                f"{self.socket}: longer than the {MAX_SOCKET_PATH} bytes that the path of a socket "
                "may have; set XDG_RUNTIME_DIR to a shorter one"
            )
        try:
            if create:
                folder.mkdir(0o700, parents=True, exist_ok=True)
            found = folder.lstat()
        except OSError as exc:
            raise Unusable(
                f"{folder}: cannot be used ({exc.strerror}); set XDG_RUNTIME_DIR to a directory "
                "of your own"
            ) from exc
        if not stat.S_ISDIR(found.st_mode):
            raise Unusable(f"{folder}: is no directory; remove it")
        if found.st_uid != os.getuid():
            raise Unusable(
                f"{folder}: belongs to user {found.st_uid}, not to you ({os.getuid()}); "
                "set XDG_RUNTIME_DIR to a directory of your own"
            )
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise Unusable(
                f"{folder}: others may enter it (mode {stat.S_IMODE(found.st_mode):o}); "
                f"run: chmod 700 {folder}"
            )


def directory() -> Path:
    """Where this user's hosts are; checked by `Place.check`.

    Raises:
        HostUnavailable: there is no place for them.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.path.isabs(runtime) and os.access(runtime, os.W_OK):
        return Path(runtime) / "livekit-whisper"
    try:
        return Path(tempfile.gettempdir()) / f"livekit-whisper-{os.getuid()}"
    except FileNotFoundError as exc:
        raise Unusable(
            "there is no temporary directory that can be written to, for the host's socket; set "
            "XDG_RUNTIME_DIR to a directory of your own, or STT_BACKEND=process"
        ) from exc


def places() -> list[Place]:
    """Of every host of this user that left a socket or a log, running or not.

    Raises:
        HostUnavailable: their directory is not ours alone.
    """
    if not os.path.lexists(directory()):
        return []
    Place(directory() / "host.sock").check(create=False)
    patterns = ("host-*.sock", "host-*.log")
    found = {path.with_suffix(".sock") for p in patterns for path in directory().glob(p)}
    return [Place(path) for path in sorted(found)]


@dataclass(frozen=True)
class Target:
    """The host that a configuration means, whether it runs or not."""

    spec: HostSpec
    """What to start the machine's own one with."""
    address: Place | str | None = None
    """Of one that somebody else runs."""
    token: str | None = field(default=None, repr=False)
    """What that one wants to be told."""

    @classmethod
    def of(cls, config: STTConfig) -> Target:
        """Of a configuration.

        Raises:
            ConfigError: `host` is no address.
        """
        return cls(
            HostSpec(config.limits, config.host_idle),
            parse_address(config.host) if config.host else None,
            config.host_token.get_secret_value() if config.host_token else None,
        )

    @property
    def where(self) -> Place | str:
        """Its place or address."""
        return self.address or Place.of(self.spec)


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


@lru_cache
def _versions() -> tuple[str | None, ...]:
    def version(name: str) -> str | None:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return None

    return tuple(version(name) for name in _PACKAGES)
