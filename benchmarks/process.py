"""A new process for each measurement, and several of them at work at the same time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast

P = ParamSpec("P")
T = TypeVar("T")

_PRELOADED = ["__main__", "benchmarks.subjects", "livekit.agents.ipc._preload_freeze"]
"""With the first, the server finds the second; it brings LiveKit and the plugin, no engine. The
last, LiveKit's own, keeps Python's collector from touching what the processes share."""

EXIT_SECONDS = 5.0
"""For a process that has answered to end by itself."""


class Running(Generic[T]):
    """A function at work in a process of its own."""

    def __init__(self, process: BaseProcess, connection: Connection, name: str) -> None:
        self._process, self._connection, self._name = process, connection, name

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process.pid
        return self._process.pid

    def tell(self, value: object = None) -> None:
        """Sends something to the function, which receives it from its first argument."""
        try:
            self._connection.send(value)
        except OSError:
            raise self._failure() from None

    def hear(self) -> Any:
        """What the function sends next.

        Raises:
            RuntimeError: it failed; the process has printed the traceback.
        """
        try:
            return self._connection.recv()
        except EOFError:
            raise self._failure() from None

    def result(self) -> T:
        """What the function returns, once it has sent all else; see `hear`."""
        result = cast(T, self.hear())
        self._process.join(EXIT_SECONDS)
        return result

    def _failure(self) -> RuntimeError:
        self._process.join()
        return RuntimeError(f"{self._name}: exit status {self._process.exitcode}")


@contextmanager
def running(
    function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
) -> Iterator[Running[T]]:
    """Has a function at work in a new process that has LiveKit and the plugin imported, no engine.

    It is forked from a server that is kept for this, as LiveKit forks the processes of its jobs,
    and does not outlive this block or this process. It talks through its first argument.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    here, there = context.Pipe()
    process = context.Process(target=_answer, args=(there, function, args, kwargs), daemon=True)
    process.start()
    there.close()
    try:
        yield Running(process, here, function.__qualname__)
    finally:
        process.kill()
        process.join()
        here.close()


def forked(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls a function in a process as `running` makes it.

    Raises:
        RuntimeError: the function failed; the process has printed the traceback.
    """
    with running(_alone, function, args, kwargs) as process:
        return process.result()


def _alone(
    _caller: Connection, function: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> T:
    return function(*args, **kwargs)


def _answer(
    caller: Connection, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the caller ends this process
    threading.Thread(target=_follow_the_caller, daemon=True).start()
    caller.send(function(caller, *args, **kwargs))


def _follow_the_caller() -> None:
    caller = multiprocessing.parent_process()
    assert caller
    caller.join()
    os._exit(1)
