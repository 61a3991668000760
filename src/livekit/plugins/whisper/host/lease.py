"""A model that a host keeps for us: a request whose answer lasts for as long as we want it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, Protocol

import aiohttp

from ..errors import WhisperError
from ..types import ModelKey
from . import wire
from .answers import Absent, Backoff, NotNow, Shortage, foreign, is_end, unanswered, understood
from .process import ANSWER_SECONDS

LOADING_SECONDS = 1.5 * wire.BEAT_SECONDS
SILENT_SECONDS = 5 * wire.BEAT_SECONDS
"""After so long without a word, before and after the model is loaded, the host is asked whether it
lives: a proxy may hold back what it says. One that only is busy answers: its event loop has little
to do."""
RENEW_SECONDS = 15.0
"""How long a lease whose connection is lost is asked for again, while the host lives."""
LOST = (aiohttp.ClientError, OSError, ValueError, asyncio.TimeoutError)
"""What an exchange raises whose connection is lost, or that is no HTTP."""


class HostGone(Exception):
    """The host has ended, or is about to; another one can answer.

    Args:
        crashed: whether it ended unasked, or hangs.
        hangs: it does not answer, and no other one can take its place.
    """

    def __init__(self, *, crashed: bool, hangs: NotNow | None = None) -> None:
        super().__init__()
        self.crashed, self.hangs = crashed, hangs


class LeaseEnded(Exception):
    """Whoever wanted a model has let it go before it was loaded."""


class Host(Protocol):
    """What a lease needs of the connection to a host; see `Connection`."""

    where: object

    def post(self, path: str, **options: Any) -> Any: ...
    async def look(self) -> HostGone | NotNow | None: ...
    async def has(self, key: ModelKey) -> bool: ...


class Lease:
    """See the module. Belongs to one event loop; starts at once.

    Args:
        host: which keeps it.
        key: which weights.
        on_end: called when it has ended, but not by `end`; with the reason if the model was loaded.
    """

    def __init__(
        self,
        host: Host,
        key: ModelKey,
        on_end: Callable[[HostGone | None], None],
    ) -> None:
        self._host, self._key, self._on_end = host, key, on_end
        self.there: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        """Done when the model is loaded; whether it was before."""
        self.open = False
        """Whether its connection lasts."""
        self._heard = 0.0
        self._task = asyncio.ensure_future(self._keep())

    @property
    def loaded(self) -> bool:
        """Whether the model is loaded and kept for us."""
        return self.there.done() and not self.there.exception()

    def end(self) -> None:
        """Lets the model go."""
        self._task.cancel()

    async def _keep(self) -> None:
        gone: Exception
        try:
            gone = await self._hold()
        except asyncio.CancelledError:
            self._fail(LeaseEnded())
            raise
        except Exception as exc:
            ended = isinstance(exc, WhisperError) and is_end(exc)
            gone = HostGone(crashed=False) if ended else exc
        finally:
            self.open = False
        self._on_end(gone if isinstance(gone, HostGone) and self.loaded else None)
        self._fail(gone)

    def _fail(self, exc: Exception) -> None:
        if not self.there.done():
            self.there.set_exception(exc)
            self.there.exception()  # whoever waits is told; nobody need wait

    def _load(self, *, there: bool) -> None:
        if not self.there.done():
            self.there.set_result(there)

    async def _hold(self) -> HostGone:
        """Asks for it, and again after a lost connection, as long as the host lives."""
        tries = Backoff(RENEW_SECONDS)
        while True:
            reading = asyncio.ensure_future(self._read())
            try:
                await self._watch(reading)
                return reading.result()
            except (NotNow, Absent) as exc:
                if self.open:
                    tries = Backoff(RENEW_SECONDS)
                self.open = False
                found = await self._host.look()
                if isinstance(found, HostGone):
                    return found
                if not self.loaded:
                    raise NotNow(str(exc)) from exc
                if (pause := tries.pause()) is None:
                    return HostGone(crashed=False)
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
            await asyncio.sleep(pause)

    async def _read(self) -> HostGone:
        """Reads what the host says until it is about to end."""
        key, where = self._key, self._host.where
        body = {name: value for name, value in vars(key).items() if value is not None}
        timeout = aiohttp.ClientTimeout(sock_connect=ANSWER_SECONDS)
        try:
            async with self._host.post(wire.LEASE, json=body, timeout=timeout) as answer:
                if answer.status != 200:
                    understood(where, answer.status, await answer.read())
                async for line in answer.content:
                    self._heard = _now()
                    fact = json.loads(line)
                    if not isinstance(fact, dict):
                        raise foreign(where, answer.status, line)
                    if gone := self._hear(fact):
                        return gone
        except LOST as exc:
            raise unanswered(where, exc) from exc
        raise NotNow(f"{where}: the connection was lost")

    def _hear(self, fact: dict[str, Any]) -> HostGone | None:
        self.open = True
        if "error" in fact:
            error = wire.decode_error(fact)
            if not is_end(error):
                raise error
        if "error" in fact or "draining" in fact:
            return HostGone(crashed=False)
        if "loaded" in fact:
            self._load(there=bool(fact.get("there")))
        return None

    async def _watch(self, reading: asyncio.Future[HostGone]) -> None:
        """Returns when the answer has ended; tells a host that is silent from one that is dead.

        Raises:
            HostGone: it says nothing, and does not answer either.
        """
        self._heard = _now()
        while True:
            limit = SILENT_SECONDS if self.loaded else LOADING_SECONDS
            left = self._heard + limit - _now()
            if left > 0:
                if (await asyncio.wait({reading}, timeout=left))[0]:
                    return
                continue
            found = await self._host.look()
            if isinstance(found, NotNow) and not isinstance(found, Shortage):
                found = HostGone(crashed=True, hangs=found)
            if isinstance(found, HostGone) and not reading.done():
                raise found
            self._heard = _now()
            if not self.loaded and await self._host.has(self._key):
                self._load(there=False)


def _now() -> float:
    return asyncio.get_running_loop().time()
