"""One host, as long as it lives: the handshake, leases, and requests over HTTP."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from aiohttp.client_proto import ResponseHandler

from ..errors import BackendClosed, HostUnavailable
from ..types import DecodeOptions, ModelKey, Transcript, Utterance
from . import wire
from .place import HostSpec, Place
from .process import ANSWER_SECONDS, start_or_join
from .trust import check_peer

T = TypeVar("T")

AT_ONCE = 2**20
"""Bytes of a body that is no trouble to the event loop: 32 seconds of 16 bits."""
SILENT_SECONDS = 5 * wire.BEAT_SECONDS
"""A host whose leases say nothing for so long hangs. One that is only busy says something: its
event loop has little to do."""


class HostGone(Exception):
    """The host has ended, or is about to; another one can answer.

    Args:
        crashed: whether it ended unasked, or hangs.
    """

    def __init__(self, *, crashed: bool) -> None:
        super().__init__()
        self.crashed = crashed


class LeaseEnded(Exception):
    """Whoever wanted a model has let it go before it was loaded."""


class Connection:
    """A host that has answered. Belongs to one event loop.

    Args:
        session: whose connections lead to it.
        url: what its paths are added to.
        facts: what it answered.
        on_lost: called when it ends while it keeps a model for us.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        facts: dict[str, Any],
        on_lost: Callable[[Connection, HostGone], None],
    ) -> None:
        self._session, self._url, self._on_lost = session, url, on_lost
        self.pid = int(facts["pid"])
        self._leases: dict[ModelKey, _Lease] = {}
        self._requests = 0
        self._retired = False

    def leases(self, key: ModelKey) -> bool:
        """Whether a model is loaded and kept for us."""
        lease = self._leases.get(key)
        return lease is not None and lease.loaded

    async def lease(self, key: ModelKey) -> bool:
        """Has a model loaded and kept until `let_go`; one lease, whoever asks meanwhile.

        Returns:
            Whether it was loaded already.

        Raises:
            HostGone: the host has ended.
            LeaseEnded: see there.
            WhisperError: it cannot be loaded.
        """
        if self._retired:
            raise HostGone(crashed=False)
        lease = self._leases.get(key)
        if lease is None:
            lease = self._leases[key] = _Lease()
            lease.task = asyncio.ensure_future(self._keep(key, lease))
            return await asyncio.shield(lease.there)
        await asyncio.shield(lease.there)
        return True

    def let_go(self, key: ModelKey) -> None:
        """Ends a lease, loaded or not."""
        if (lease := self._leases.pop(key, None)) and lease.task:
            lease.task.cancel()

    async def transcribe(
        self, key: ModelKey, utterance: Utterance, options: DecodeOptions
    ) -> Transcript:
        """See `Backend.transcribe`.

        Raises:
            HostGone: the host has ended, with or without having decoded it.
            WhisperError: see `Backend.transcribe`.
        """
        if self._retired:
            raise HostGone(crashed=False)
        query, headers = wire.request(key, utterance, options)
        headers["Content-Type"] = "application/octet-stream"
        sound, query["samples"] = wire.encode_audio(utterance.audio)
        # At once if it is short: aiohttp sends a file in parts, and does other things between them.
        body = sound if len(sound) <= AT_ONCE else io.BytesIO(sound)
        self._requests += 1
        try:
            async with self._session.post(
                self._url + wire.TRANSCRIBE, params=query, headers=headers, data=body
            ) as answer:
                found = await answer.json()
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            raise HostGone(crashed=True) from exc
        finally:
            self._requests -= 1
            if self._retired and not self._requests:
                await self._session.close()
        if answer.status == 200:
            return wire.decode_transcript(found)
        error = _error(found)
        # Ours has ended, and another process has started the one that answers.
        if isinstance(error, wire.NotLeased):
            raise HostGone(crashed=False) from error
        raise error

    async def retire(self, *, at_once: bool) -> None:
        """Ends all leases, and takes no more requests.

        Args:
            at_once: requests under way fail as `HostGone`; else they are finished first.
        """
        self._retired = True
        for key in list(self._leases):
            self.let_go(key)
        if at_once or not self._requests:
            await self._session.close()

    async def _keep(self, key: ModelKey, lease: _Lease) -> None:
        """Reads a lease's answer until it ends."""
        try:
            gone = await self._read(key, lease)
        except asyncio.CancelledError:
            lease.fail(LeaseEnded())
            raise
        except Exception as exc:
            self._leases.pop(key, None)
            return lease.fail(exc)
        self._leases.pop(key, None)
        if lease.loaded:
            self._on_lost(self, gone)
        lease.fail(gone)

    async def _read(self, key: ModelKey, lease: _Lease) -> HostGone:
        body = {name: value for name, value in vars(key).items() if value is not None}
        timeout = aiohttp.ClientTimeout(sock_connect=ANSWER_SECONDS, sock_read=SILENT_SECONDS)
        try:
            async with self._session.post(
                self._url + wire.LEASE, json=body, timeout=timeout
            ) as answer:
                if answer.status != 200:
                    raise _error(await answer.json())
                async for line in answer.content:
                    fact = json.loads(line)
                    if "error" in fact:
                        raise _error(fact)
                    if "draining" in fact:
                        return HostGone(crashed=False)
                    if "loaded" in fact:
                        lease.there.set_result(fact["there"])
        except (aiohttp.ClientError, OSError, ValueError, asyncio.TimeoutError):
            pass
        return HostGone(crashed=True)


class _Lease:
    def __init__(self) -> None:
        self.there: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[None] | None = None

    @property
    def loaded(self) -> bool:
        return self.there.done() and not self.there.exception()

    def fail(self, exc: Exception) -> None:
        if not self.there.done():
            self.there.set_exception(exc)
            self.there.exception()  # whoever waits is told; nobody need wait


async def open_connection(
    spec: HostSpec,
    address: Place | str | None,
    token: str | None,
    on_lost: Callable[[Connection, HostGone], None],
) -> Connection:
    """Finds the host, or starts it, and shakes hands.

    Raises:
        HostUnavailable: there is none, or it is of another version.
    """
    place = address
    if place is None:
        place = await _in_daemon(lambda: start_or_join(spec))
    connector: aiohttp.BaseConnector
    if isinstance(place, Place):
        url, connector = "http://host", _TrustedConnector(str(place.socket), limit=0)
    else:
        url, connector = place, aiohttp.TCPConnector(limit=0)
    session = aiohttp.ClientSession(
        connector=connector,
        headers={wire.TOKEN: f"Bearer {token}"} if token else None,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=ANSWER_SECONDS),
        trust_env=False,
    )
    try:
        facts = await _handshake(session, url, place)
        _check(facts, None if address else spec, place)
        return Connection(session, url, facts, on_lost)
    except BaseException:
        with suppress(Exception):
            await session.close()
        raise


class _TrustedConnector(aiohttp.UnixConnector):
    """Looks at who listens before anything is sent, on each connection."""

    async def _create_connection(self, *args: Any, **kwargs: Any) -> ResponseHandler:
        protocol = await super()._create_connection(*args, **kwargs)
        transport = protocol.transport
        if transport is None:
            raise aiohttp.ClientConnectionError("it hung up")
        try:
            check_peer(transport.get_extra_info("socket"), Path(self.path))
        except BaseException:
            transport.abort()
            raise
        return protocol


async def _handshake(
    session: aiohttp.ClientSession, url: str, place: Place | str
) -> dict[str, Any]:
    timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
    try:
        async with session.get(url + wire.HOST, timeout=timeout) as answer:
            found = await answer.json()
    except (aiohttp.ClientError, OSError, ValueError, asyncio.TimeoutError) as exc:
        raise HostUnavailable(
            f"host (STT_HOST): no host answers at {place} ({type(exc).__name__}: {exc})"
        ) from exc
    if answer.status != 200:
        raise HostUnavailable(f"host (STT_HOST): {place}: {_error(found)}")
    if not isinstance(found, dict) or not {"protocol", "fingerprint", "pid"} <= found.keys():
        raise HostUnavailable(
            f"host (STT_HOST): what answers at {place} is no livekit-whisper host"
        )
    return found


def _check(facts: dict[str, Any], spec: HostSpec | None, where: Place | str) -> None:
    if facts["protocol"] != wire.PROTOCOL:
        raise HostUnavailable(
            f"the host at {where} speaks protocol {facts['protocol']}, this version "
            f"{wire.PROTOCOL}: run the same version of livekit-plugins-whisper on both sides"
        )
    if spec and facts["fingerprint"] != spec.fingerprint:
        raise HostUnavailable(
            f"the host at {where} runs other code or with other settings than this process: "
            "livekit-plugins-whisper was changed meanwhile, start this process anew"
        )


def _error(found: object) -> Exception:
    error = wire.decode_error(found)
    gone = isinstance(error, (wire.Draining, BackendClosed))
    return HostGone(crashed=False) if gone else error


async def _in_daemon(work: Callable[[], T]) -> T:
    """Runs it in a thread that the process need not wait for when it ends."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # who waits may go; the work goes on

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as exc:
            future.set_exception(exc)

    try:
        threading.Thread(target=run, name="whisper-host-start", daemon=True).start()
    except RuntimeError as exc:
        raise HostUnavailable(f"no thread to start a host from ({exc})") from exc
    return await asyncio.wrap_future(future)
