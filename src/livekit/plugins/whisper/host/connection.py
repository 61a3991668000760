"""One host, as long as it lives: the handshake, leases, and requests over HTTP."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from aiohttp.client_proto import ResponseHandler

from ..errors import HostUnavailable, WhisperError
from ..types import DecodeOptions, ModelKey, Transcript, Utterance
from . import wire
from .answers import Absent, NotNow, foreign, is_end, unanswered, understood
from .lease import LOST, HostGone, Lease
from .place import HostSpec, Place, Unusable
from .process import ANSWER_SECONDS, start_or_join
from .trust import check_peer

T = TypeVar("T")

AT_ONCE = 2**20
"""Bytes of a body that is no trouble to the event loop: 32 seconds of 16 bits."""

SETTLE_SECONDS = 0.05
"""For the event loop to hear of all connections of a host that has ended."""


class Connection:
    """A host that has answered. Belongs to one event loop.

    Args:
        session: whose connections lead to it.
        url: what its paths are added to.
        where: its address, for messages.
        facts: what it answered.
        on_lost: called when it ends while it keeps a model for us.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        where: object,
        facts: dict[str, Any],
        on_lost: Callable[[Connection, HostGone], None],
    ) -> None:
        self._session, self._url, self._on_lost = session, url, on_lost
        self.where = where
        self.pid = int(facts["pid"])
        self._instance = facts.get("instance")
        self._leases: dict[ModelKey, Lease] = {}
        self._requests = 0
        self._gone: HostGone | None = None

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
            NotNow: this one exchange failed.
            LeaseEnded: see there.
            WhisperError: it cannot be loaded.
        """
        if self._gone:
            raise self._gone
        if lease := self._leases.get(key):
            await asyncio.shield(lease.there)
            return True

        def on_end(gone: HostGone | None) -> None:
            if self._leases.get(key) is lease:
                del self._leases[key]
            if gone:
                self._on_lost(self, gone)

        lease = self._leases[key] = Lease(self, key, on_end)
        return await asyncio.shield(lease.there)

    def let_go(self, key: ModelKey) -> None:
        """Ends a lease, loaded or not."""
        if lease := self._leases.pop(key, None):
            lease.end()

    async def transcribe(
        self, key: ModelKey, utterance: Utterance, options: DecodeOptions
    ) -> Transcript:
        """See `Backend.transcribe`.

        Raises:
            HostGone: the host has ended, with or without having decoded it.
            NotNow: this one exchange failed.
            WhisperError: see `Backend.transcribe`.
        """
        if self._gone:
            raise self._gone
        self._requests += 1
        try:
            return await self._transcribe(key, utterance, options)
        except NotNow as exc:
            failed = exc
        except (wire.NotLeased, Absent) as exc:
            failed = NotNow(str(exc))  # the lease was lost, or the host and another one answers
        except WhisperError as exc:
            if is_end(exc):
                raise HostGone(crashed=False) from exc
            raise
        finally:
            self._requests -= 1
            if self._gone and not self._requests:
                await self._session.close()
        if isinstance(gone := await self.look(), HostGone):
            raise gone from failed
        raise failed

    async def _transcribe(
        self, key: ModelKey, utterance: Utterance, options: DecodeOptions
    ) -> Transcript:
        query, headers, text = wire.request(key, utterance, options)
        sound, query["samples"] = wire.encode_audio(utterance.audio)
        # At once if it is short: aiohttp sends a file in parts, and does other things between them.
        whole = text + sound if text else sound
        body = whole if len(whole) <= AT_ONCE else io.BytesIO(whole)
        try:
            async with self.post(
                wire.TRANSCRIBE, params=query, headers=headers, data=body
            ) as answer:
                data = await answer.read()
        except LOST as exc:
            raise unanswered(self.where, exc) from exc
        found = understood(self.where, answer.status, data)
        try:
            return wire.decode_transcript(found)
        except (TypeError, KeyError) as exc:
            raise foreign(self.where, answer.status, data) from exc

    def post(self, path: str, **options: Any) -> Any:
        """A request, as aiohttp has it; redirects are answers of others."""
        return self._session.post(self._url + path, allow_redirects=False, **options)

    async def look(self) -> HostGone | NotNow | None:
        """Whether the host lives, after an exchange has failed or nothing was heard of it.

        Returns:
            None: it answers; `NotNow`: nobody can tell; `HostGone`: it does not, or another does.
        """
        if self._gone:
            return self._gone
        try:
            facts = await _get(self._session, self._url, self.where, wire.HOST)
        except Absent as exc:
            await asyncio.sleep(SETTLE_SECONDS)
            if any(lease.open for lease in self._leases.values()):
                return NotNow(str(exc))  # it lives, and only its socket is gone
            return self._gone or HostGone(crashed=True)
        except NotNow as exc:
            return self._gone or exc
        except WhisperError:
            return HostGone(crashed=False)
        if not isinstance(facts, dict) or facts.get("instance") != self._instance:
            return HostGone(crashed=True)
        return HostGone(crashed=False) if facts.get("draining") else None

    async def has(self, key: ModelKey) -> bool:
        """Whether the host says that a model is loaded; False where it does not say."""
        try:
            found = await _get(self._session, self._url, self.where, wire.MODELS)
            wanted = vars(key).items()
            return any(each["loaded"] and wanted <= each.items() for each in found["data"])
        except (WhisperError, TypeError, KeyError):
            return False

    async def retire(self, gone: HostGone) -> None:
        """Ends all leases, and takes no more requests.

        Args:
            gone: why; after a crash requests under way fail with it, else they are finished first.
        """
        self._gone = gone
        for key in list(self._leases):
            self.let_go(key)
        if gone.crashed or not self._requests:
            await self._session.close()


async def open_connection(
    spec: HostSpec,
    address: Place | str | None,
    token: str | None,
    on_lost: Callable[[Connection, HostGone], None],
) -> Connection:
    """Finds the host, or starts it, and shakes hands.

    Raises:
        NotNow: nobody answers as a host does, or not in time.
        Absent: nobody listens there.
        Unusable: it wants another token, or is of another version.
        HostUnavailable: there is none, and none can be started.
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
        facts = await _get(session, url, place, wire.HOST)
        _check(facts, None if address else spec, place)
        return Connection(session, url, place, facts, on_lost)
    except wire.NotAuthorized as exc:
        with suppress(Exception):
            await session.close()
        raise Unusable(f"host (STT_HOST): {place}: {exc}") from exc
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


async def _get(session: aiohttp.ClientSession, url: str, where: object, path: str) -> Any:
    """The answer to a short question, over a connection of its own or an idle one."""
    timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
    try:
        async with session.get(url + path, timeout=timeout, allow_redirects=False) as answer:
            body = await answer.read()
    except (*LOST, RuntimeError) as exc:  # RuntimeError: the session was closed meanwhile
        raise unanswered(where, exc) from exc
    return understood(where, answer.status, body)


def _check(facts: Any, spec: HostSpec | None, where: Place | str) -> None:
    if not isinstance(facts, dict) or not {"protocol", "fingerprint", "pid"} <= facts.keys():
        raise Unusable(f"host (STT_HOST): what answers at {where} is no livekit-whisper host")
    if facts["protocol"] != wire.PROTOCOL:
        raise Unusable(
            f"the host at {where} speaks protocol {facts['protocol']}, this version "
            f"{wire.PROTOCOL}: run the same version of livekit-plugins-whisper on both sides"
        )
    if spec and facts["fingerprint"] != spec.fingerprint:
        raise Unusable(
            f"the host at {where} runs other code or with other settings than this process: "
            "livekit-plugins-whisper was changed meanwhile, start this process anew"
        )


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
