"""What a host knows of itself and of those who use it."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ..backend import LocalBackend
from ..types import ModelKey


@dataclass
class HostState:
    """What the routes share. Belongs to one event loop."""

    backend: LocalBackend
    """Decodes."""
    models: frozenset[ModelKey] = frozenset()
    """Those that it was started with."""
    open: bool = True
    """Whether a lease may name further ones: on the user's own socket, not on TCP."""
    fingerprint: str = ""
    """Of its code and what it was started with."""
    instance: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Another one after each start."""
    started: float = field(default_factory=time.time)
    """Unix time in seconds."""
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it is about to end."""
    leases: Counter[ModelKey] = field(default_factory=Counter)
    """How many processes want each model kept."""
    requests: int = 0
    """Utterances that are being received or decoded."""
    served: int = 0
    """Utterances that were decoded since the start."""
    pending: int = 0
    """Bytes of their audio."""
    on_idle: Callable[[bool], None] = lambda idle: None
    """Called with True when the last user has gone, with False when one comes."""

    def may_lease(self, key: ModelKey) -> bool:
        """Whether a lease may have it loaded."""
        return self.open or key in self.models

    def knows(self, key: ModelKey) -> bool:
        """Whether a request may use it."""
        return key in self.models or self.leases[key] > 0

    @contextmanager
    def leasing(self, key: ModelKey) -> Iterator[None]:
        """Counts a process that wants a model kept."""
        self.backend.hold(key)
        self.leases[key] += 1
        self._tell()
        try:
            yield
        finally:
            self.leases[key] -= 1
            self.backend.release(key)
            self._tell()

    @contextmanager
    def requesting(self) -> Iterator[None]:
        """Counts a request."""
        self.requests += 1
        self._tell()
        try:
            yield
        finally:
            self.requests -= 1
            self._tell()

    def _tell(self) -> None:
        self.on_idle(not self.requests and not self.leases.total())
