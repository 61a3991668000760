"""Our errors as LiveKit's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from livekit.agents import APIConnectionError, APIError, APIStatusError, APITimeoutError

from .errors import WhisperError


@contextmanager
def api_errors() -> Iterator[None]:
    """Our errors as LiveKit's `APIError`: any other exception would leave a session deaf."""
    try:
        yield
    except APIError:
        raise
    except (asyncio.TimeoutError, TimeoutError) as exc:
        raise APITimeoutError("the model is still being loaded") from exc
    except WhisperError as exc:
        if exc.retryable:
            raise APIConnectionError(f"{exc.code}: {exc}") from exc
        raise APIStatusError(f"{exc.code}: {exc}", status_code=400, retryable=False) from exc
    except ValueError as exc:
        raise APIStatusError(str(exc), status_code=400, retryable=False) from exc
    except Exception as exc:
        raise APIConnectionError(f"unexpected error ({type(exc).__name__})") from exc
