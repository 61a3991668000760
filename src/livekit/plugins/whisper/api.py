"""Our errors as LiveKit's, and its way to leave an argument out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from livekit.agents import APIConnectionError, APIError, APIStatusError, APITimeoutError, utils

from .errors import WhisperError


def given(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Changes without those that LiveKit's NOT_GIVEN stands for."""
    return {name: value for name, value in changes.items() if utils.is_given(value)}


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
