"""A new process for each measurement."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, ParamSpec, TypeVar, cast

P = ParamSpec("P")
T = TypeVar("T")

_PRELOADED = ["__main__", "benchmarks.subjects"]
"""With the first, the server finds the second; it brings LiveKit and the plugin, no engine."""

EXIT_SECONDS = 5.0
"""For a process that has answered to end by itself."""


def forked(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls a function in a new process that has LiveKit and the plugin imported, and no engine.

    It is forked from a server that is kept for this, as LiveKit forks the processes of its jobs,
    and does not outlive this call or this process.

    Raises:
        RuntimeError: the function failed; the process has printed the traceback.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, function, args, kwargs), daemon=True)
    process.start()
    sender.close()
    try:
        result = cast(T, receiver.recv())
        process.join(EXIT_SECONDS)
        return result
    except EOFError:
        process.join()
        raise RuntimeError(f"{function.__qualname__}: exit status {process.exitcode}") from None
    finally:
        process.kill()
        process.join()


def _answer(
    sender: Connection, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the caller ends this process
    threading.Thread(target=_follow_the_caller, daemon=True).start()
    sender.send(function(*args, **kwargs))


def _follow_the_caller() -> None:
    caller = multiprocessing.parent_process()
    assert caller
    caller.join()
    os._exit(1)
