"""What tests of the host share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from livekit.plugins.whisper.audio import from_file
from livekit.plugins.whisper.host.client import HostBackend
from livekit.plugins.whisper.types import Audio

from tests.support.hosts import Hosts
from tests.support.weights import recordings


@pytest.fixture(scope="session")
def sound() -> Audio:
    """A short recording."""
    return from_file(recordings()[4])


@pytest.fixture
async def backend(hosts: Hosts) -> AsyncIterator[HostBackend]:
    """Of a host in the directory of the test's own."""
    made = HostBackend()
    yield made
    await made.aclose()
