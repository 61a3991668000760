"""An event loop in a thread of its own: a connection belongs to one loop, callers have theirs."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from ..errors import BackendClosed

T = TypeVar("T")


class OwnLoop:
    """Runs coroutines for callers on any loop. Its thread starts with the first of them.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._pid = os.getpid()
        self._lock = threading.RLock()  # the garbage collector may call in any thread
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._calls: set[Future[Any]] = set()

    @property
    def closed(self) -> bool:
        """Whether `aclose` was called."""
        return self._closed

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What it returns; a caller that is cancelled cancels it.

        Raises:
            BackendClosed: there is no loop any more, or it is the parent process's.
            OSError: this process has no more file descriptors for a loop.
        """
        try:
            with self._lock:
                if self._closed:
                    raise BackendClosed("the backend is closed; make a new one")
                if self._pid != os.getpid():
                    raise BackendClosed(
                        "a connection does not survive a fork; make the STT in the new process"
                    )
                if self._loop is None:
                    _check_files()
                    self._loop = asyncio.new_event_loop()
                    self._thread = threading.Thread(
                        target=_run, args=(self._loop,), name=self._name, daemon=True
                    )
                    self._thread.start()
                call = asyncio.run_coroutine_threadsafe(work, self._loop)
                self._calls.add(call)
        except BaseException:
            work.close()
            raise
        call.add_done_callback(self._calls.discard)
        return await asyncio.wrap_future(call)

    def soon(self, call: Callable[..., None], *args: object) -> None:
        """Calls it on the loop, from any thread; not where there is none."""
        with self._lock:
            loop = self._loop
        if loop and self._pid == os.getpid():
            with suppress(RuntimeError):  # closed meanwhile
                loop.call_soon_threadsafe(call, *args)

    async def aclose(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Takes no more, waits for what runs, then for `last`, and ends the thread."""
        with self._lock:
            self._closed = True
            calls = list(self._calls)
        await asyncio.gather(*map(asyncio.wrap_future, calls), return_exceptions=True)
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is None:
            return
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(last(), loop))
        loop.call_soon_threadsafe(loop.stop)
        await asyncio.to_thread(self._thread.join)


def _check_files() -> None:
    """Raises where the three files of a loop cannot be opened: asyncio would leave half a loop."""
    first, second = socket.socketpair()
    with first, second:
        os.close(os.dup(first.fileno()))


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        for task in (tasks := asyncio.all_tasks(loop)):
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    finally:
        loop.close()
