"""What an answer means, or that there is none: a host's own, a proxy's before it, or our shortage.

Whatever may pass within seconds is a `NotNow`, which is tried again after a pause (`Backoff`).
"""

from __future__ import annotations

import errno
import json
import random
import time
from typing import Any

from ..errors import BackendClosed, HostUnavailable, WhisperError
from . import wire

SHOWN = 80
"""Characters of an answer that is not a host's, in messages."""


class NotNow(HostUnavailable):
    """What may pass within seconds; it says nothing of whether the host lives."""


class Shortage(NotNow):
    """This process has no more file descriptors: it cannot ask."""


class Absent(HostUnavailable):
    """Nobody listens at the address."""


class Backoff:
    """Pauses between tries: each twice as long as the last, a random part of it left out.

    Args:
        seconds: after so many there is no further try.
        first: seconds of the first pause, at most.
        longest: seconds of any pause, at most.
    """

    def __init__(self, seconds: float, *, first: float = 0.1, longest: float = 2.0) -> None:
        self._deadline = time.monotonic() + seconds
        self._pause, self._longest = first, longest

    def pause(self) -> float | None:
        """Seconds to wait before the next try; None: it is time to give up."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            return None
        pause, self._pause = self._pause, min(2 * self._pause, self._longest)
        return min(left, pause * random.uniform(0.5, 1.0))


def understood(where: object, status: int, body: bytes) -> Any:
    """The JSON of an answer.

    Args:
        where: who was asked, for messages.
        status: of HTTP.
        body: all of it.

    Raises:
        NotNow: it is not a host's: a proxy's error page, a redirect, half an answer.
        WhisperError: the one that a host tells.
    """
    try:
        found = json.loads(body)
    except ValueError:  # no JSON, or no text
        raise foreign(where, status, body) from None
    if status == 200:
        return found
    if wire.is_error(found):
        raise wire.decode_error(found)
    raise foreign(where, status, body)


def foreign(where: object, status: int, body: bytes) -> NotNow:
    """The error for an answer that is not a host's."""
    start = " ".join(body[: 4 * SHOWN].decode("utf-8", "replace").split())[:SHOWN]
    return NotNow(
        f"host (STT_HOST): {where} answers {status} {start!r}, which is not a livekit-whisper "
        "host's: is the host behind this address running, and is this its address?"
    )


def unanswered(where: object, exc: BaseException) -> HostUnavailable:
    """The error for what a try to reach a host raised: `Shortage`, `Absent`, or `NotNow`."""
    if is_shortage(exc):
        return Shortage(
            "this process has no more file descriptors for a connection to the host; "
            "raise the limit (ulimit -n), or find what leaves files open"
        )
    absent = isinstance(exc, OSError) and exc.errno in (errno.ECONNREFUSED, errno.ENOENT)
    said = f"{type(exc).__name__}: {str(exc) or 'no answer in time'}"
    way_out = "; run: livekit-whisper host logs, or: livekit-whisper host stop"
    here = way_out if str(where).startswith("unix:") and not absent else ""
    return (Absent if absent else NotNow)(f"no host answers at {where} ({said}){here}")


def is_shortage(exc: BaseException) -> bool:
    """Whether it is our own want of file descriptors."""
    return isinstance(exc, OSError) and exc.errno in (errno.EMFILE, errno.ENFILE)


def is_end(exc: WhisperError) -> bool:
    """Whether an error of a host says that it is about to end: another one takes its place."""
    return isinstance(exc, (wire.Draining, BackendClosed))
