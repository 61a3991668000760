"""One tree of errors. Each has a `code` for programs and says whether trying again can help.

WhisperError
├── ConfigError          config           a wrong value, key or file (also a ValueError)
├── MissingExtraError    missing_extra    the engine's package is not installed
├── AudioError           audio            a file or frame that holds no usable audio
├── ModelError           model            a model that cannot be used
│   ├── ModelNotFound    model_not_found  nothing by that name, here or on the hub
│   ├── ModelDamaged     model_damaged    a file is missing, truncated or altered
│   └── DownloadError    download         the hub did not deliver            (retryable)
├── DeviceError          device           the device or number format is not there
├── HostUnavailable      host             the machine's host cannot be had   (retryable)
└── EngineError          engine           the engine failed while decoding   (retryable)
    ├── BackendClosed    closed           the backend was closed meanwhile
    ├── HostCrashed      host_crashed     hosts end unasked whenever they try
    ├── Overloaded       overloaded       more waits already than may wait   (retryable)
    └── Superseded       superseded       a newer interim of the stream took its place
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class WhisperError(Exception):
    """Base of all errors that this package raises on purpose; the message says the way out."""

    code: ClassVar[str] = "whisper"
    retryable: bool = False
    """Whether the same call can succeed when it is made again, some time later."""


class ConfigError(WhisperError, ValueError):
    """A wrong value, an unknown key, or a configuration file that cannot be read."""

    code = "config"


class MissingExtraError(WhisperError, ImportError):
    """The chosen engine's package is not installed."""

    code = "missing_extra"


class AudioError(WhisperError):
    """A file or a frame that holds no usable audio."""

    code = "audio"


class ModelError(WhisperError):
    """A model that cannot be used."""

    code = "model"


class ModelNotFound(ModelError):
    """Nothing by that name, neither on this machine nor on the hub."""

    code = "model_not_found"


class ModelDamaged(ModelError):
    """A file of the model is missing, truncated or altered."""

    code = "model_damaged"


class DownloadError(ModelError):
    """The hub did not deliver; trying again can help."""

    code = "download"
    retryable = True


class DeviceError(WhisperError):
    """The device is absent, or does not compute in the number format asked for."""

    code = "device"


class HostUnavailable(WhisperError):
    """The host of this machine does not start, does not answer, or is not ours to use."""

    code = "host"
    retryable = True


class EngineError(WhisperError):
    """The engine failed while decoding."""

    code = "engine"
    retryable = True


class BackendClosed(EngineError):
    """The backend was closed before the result was there."""

    code = "closed"
    retryable = False


class HostCrashed(EngineError):
    """Host after host ended unasked while it loaded this model or decoded this utterance."""

    code = "host_crashed"
    retryable = False


class Overloaded(EngineError):
    """More utterances wait already than may wait.

    Args:
        retry_after: seconds after which there is likely room again.
    """

    code = "overloaded"
    retryable = True

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Superseded(EngineError):
    """An interim that still waited when a newer one of its stream came, or a final needed room."""

    code = "superseded"
    retryable = False


def may_pass(exc: BaseException) -> bool:
    """Whether a foreign exception can be due to the moment: to memory, files, threads, a GPU.

    All others are mistakes in a program, which happen again.
    """
    lasting = (NotImplementedError, RecursionError, FileNotFoundError, PermissionError)
    return isinstance(exc, (OSError, MemoryError, RuntimeError)) and not isinstance(exc, lasting)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The part of a message that names what was likely meant; empty where nothing is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def first_line(text: object) -> str:
    """What an error of another library says, as a part of a message."""
    return str(text).strip().partition("\n")[0][:200]
