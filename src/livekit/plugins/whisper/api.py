"""Our errors as LiveKit's, and its way to leave an argument out."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from livekit.agents import (
    Agent,
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    utils,
    vad,
)

from .config import STTConfig
from .errors import ConfigError, ModelError, WhisperError, did_you_mean, may_pass

F = TypeVar("F", bound=Callable[..., Any])


def session_vad() -> vad.VAD | None:
    """The VAD of the `AgentSession` for which streams are opened here; None outside of one.

    LiveKit tells an STT nothing of its session; what opens the streams knows its agent. Where a
    later version does not, an STT without a VAD is what it is to LiveKit: one that cannot stream.
    """
    try:
        from livekit.agents.voice.audio_recognition import _STTPipelineContextVar

        pipeline = _STTPipelineContextVar.get(None)
        agent = getattr(getattr(pipeline, "_stt_node", None), "__self__", None)
        if not isinstance(agent, Agent):
            return None
        return agent.vad if utils.is_given(agent.vad) else agent.session.vad
    except (ImportError, AttributeError, RuntimeError):
        return None


def hints(function: F) -> F:
    """A function whose unknown arguments get the hint that `STTConfig`'s unknown fields get.

    Raises:
        ConfigError: there is one, in place of a `TypeError`.
    """
    known = [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]

    @functools.wraps(function)
    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        for name in (each for each in kwargs if each not in known):
            hint = did_you_mean(name, known) or f" (known: {', '.join(known)})"
            if name in STTConfig.model_fields:
                hint = f": it is a setting, pass STTConfig({name}=…) to ProviderFactory.create_stt"
            where = function.__name__ if function.__name__ != "__init__" else type(self).__name__
            raise ConfigError(f"{where}: unknown argument {name!r}{hint}")
        return function(self, *args, **kwargs)

    return cast(F, checked)


def given(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Changes without those that LiveKit's NOT_GIVEN stands for."""
    return {name: value for name, value in changes.items() if utils.is_given(value)}


class _ConnectionError(APIConnectionError):
    """LiveKit's adds its cause's message to its own, which is that very message here."""

    def __str__(self) -> str:
        return self.message


@contextmanager
def api_errors() -> Iterator[None]:
    """Our errors as LiveKit's `APIError`: any other exception would leave a session deaf.

    LiveKit tries again, within four seconds, what can pass in that time. A model that cannot be
    had, and a mistake in a program, are told at once; the next utterance asks for the model anew.
    """
    try:
        yield
    except APIError:
        raise
    except (asyncio.TimeoutError, TimeoutError) as exc:
        raise APITimeoutError("the model is still being loaded") from exc
    except WhisperError as exc:
        told = f"{exc.code}: {exc}"
        if exc.retryable and not isinstance(exc, ModelError):
            raise _ConnectionError(told) from exc
        raise APIStatusError(told, status_code=400, retryable=False) from exc
    except Exception as exc:
        told = f"unexpected error ({type(exc).__name__}: {exc})"
        if may_pass(exc):
            raise _ConnectionError(told) from exc
        raise APIStatusError(told, status_code=400, retryable=False) from exc
