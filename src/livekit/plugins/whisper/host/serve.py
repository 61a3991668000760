"""The host as a process, on the socket and with the limits that it is told."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ..backend import LocalBackend
from ..errors import HostUnavailable, WhisperError
from ..log import logger
from ..types import ModelKey
from . import orphans
from .app import create_app
from .guard import MAX_CONNECTIONS, MAX_HEADERS
from .listen import BACKLOG, TcpListener, UnixListener
from .place import HostSpec, Place
from .state import HostState

DRAIN_SECONDS = 30.0
"""For what is under way when it is told to end."""
HEAD_SECONDS = 10.0
"""For the head of a request to arrive, from its connection's start or its first byte."""
KEEP_ALIVE_SECONDS = 60
"""For an idle connection; longer than clients keep one: they never write to a closed one."""
LOOK_SECONDS = 1.0
"""How often the host looks whether its socket is still there."""
_BODY_HEADERS = {b"content-length", b"transfer-encoding"}


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until it is told to end, or nobody has used it for a while."""
    path, spec = argv or sys.argv[1:]
    log_to_stderr()
    faulthandler.enable()
    orphans.name_process()
    place, wanted = Place(Path(path)), HostSpec.from_json(spec)
    try:
        listener = UnixListener(place)
    except HostUnavailable as exc:
        logger.error("%s", exc)
        return 1
    asyncio.run(serve(wanted, listener))
    return 0


def log_to_stderr() -> None:
    """Ours from INFO on, whatever a command has set before; others' warnings."""
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING, force=True
    )
    logger.setLevel(logging.INFO)
    logger.disabled = False


async def serve(
    spec: HostSpec,
    listener: UnixListener | TcpListener,
    *,
    models: Sequence[ModelKey] = (),
    token: str | None = None,
    forever: bool = False,
) -> None:
    """Serves on one address until SIGTERM, SIGINT, or `spec.idle` seconds without users.

    Then it makes way for another host at once, and finishes what is under way.

    Args:
        spec: its limits.
        listener: where; closed at the end.
        models: loaded at once. On TCP no others are.
        token: what callers must know.
        forever: does not end for want of users.
    """
    loop = asyncio.get_running_loop()
    _allow_files(MAX_CONNECTIONS + 256)
    backend = LocalBackend(spec.limits)
    own = isinstance(listener, UnixListener)
    state = HostState(backend, frozenset(models), own, spec.fingerprint)
    server = _Server(
        uvicorn.Config(
            create_app(state, token),
            http=_Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,  # addresses are not ours to keep
            timeout_graceful_shutdown=int(DRAIN_SECONDS),
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            proxy_headers=False,
            server_header=False,
        )
    )
    timer: asyncio.TimerHandle | None = None

    def drain(reason: str) -> None:
        if not state.draining.is_set():
            logger.info("[WHISPER-HOST] ends: %s", reason)
            listener.close()
            state.draining.set()
            server.should_exit = True

    def on_idle(idle: bool) -> None:
        nonlocal timer
        if timer:
            timer.cancel()
            timer = None
        if idle and spec.idle and not forever:
            timer = loop.call_later(spec.idle, drain, f"no user for {spec.idle:.0f} s")

    state.on_idle = on_idle
    on_idle(True)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, drain, signal.Signals(number).name)
    tasks = [asyncio.create_task(_load(state, key)) for key in models]
    if isinstance(listener, UnixListener):
        tasks.append(asyncio.create_task(_stay_reachable(listener, server, state, drain)))
    logger.info("[WHISPER-HOST] serves limits=%s", spec.limits)
    # uvicorn closes the sockets that it was given; ours is closed when it drains.
    await server.serve([listener.socket.dup()])
    drain("its server ended")
    for task in tasks:
        task.cancel()
    await backend.aclose()


async def _stay_reachable(
    listener: UnixListener,
    server: uvicorn.Server,
    state: HostState,
    drain: Callable[[str], None],
) -> None:
    """Makes a new socket when something removes ours: our lock keeps others from starting a host.

    `/tmp` is swept by age on many systems.
    """

    def protocol() -> _Protocol:
        return _Protocol(server.config, server.server_state, server.lifespan.state)

    loop = asyncio.get_running_loop()
    while not state.draining.is_set():
        await asyncio.sleep(LOOK_SECONDS)
        if state.draining.is_set() or not server.started or not listener.is_removed():
            continue
        try:
            listener.bind_again()
        except HostUnavailable as exc:
            return drain(f"its socket is gone ({exc})")
        logger.warning("[WHISPER-HOST] its socket was removed: made another one")
        again = listener.socket.dup()
        server.servers.append(await loop.create_server(protocol, sock=again, backlog=BACKLOG))


async def _load(state: HostState, key: ModelKey) -> None:
    state.backend.hold(key)
    try:
        await state.backend.prewarm(key)
    except WhisperError:
        pass  # the backend has logged it; /readyz says so, and the first request tries again


def _allow_files(wanted: int) -> None:
    """Each process that uses the host has a few connections, and each of them is an open file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


class _Protocol(HttpToolsProtocol):
    """Hangs up on a connection from which no complete request head comes in time, on one from which
    too much comes that is no body (heads without end, trailers, the framing of chunks), and on what
    uvicorn does not serve well: a request before the last one's answer, of which it would forget
    that its caller may hang up, and a body behind an `Upgrade`, which httptools does not read."""

    _timer: asyncio.TimerHandle | None = None
    _rest = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._timer = self.loop.call_later(HEAD_SECONDS, transport.close)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._rest = 0

    def on_headers_complete(self) -> None:
        if not self._between():
            raise ValueError("pipelined")  # as all that httptools calls: answered with 400
        if self.parser.should_upgrade() and {name for name, _ in self.headers} & _BODY_HEADERS:
            raise ValueError("a body behind an Upgrade")
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._rest -= 2 * len(body)  # a chunk has its length with it

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._rest = max(0, self._rest + len(data))
        if self._rest > MAX_HEADERS and not self.transport.is_closing():
            self.send_400_response(f"More than {MAX_HEADERS >> 10} KiB of headers and framing.")
        between = self._between()
        if not between and self._timer:
            self._timer.cancel()
            self._timer = None
        elif between and self._timer is None and not self.transport.is_closing():
            self._timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer:
            self._timer.cancel()
        super().connection_lost(exc)

    def _between(self) -> bool:
        """Whether no request is under way."""
        return self.cycle is None or self.cycle.response_complete

    def _unsupported_upgrade_warning(self) -> None:
        pass  # some clients offer HTTP/2 with each request


class _Server(uvicorn.Server):
    """Leaves the signals to `serve`."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
