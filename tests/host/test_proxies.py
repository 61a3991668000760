"""A host behind a proxy: answers that are not its own, lost connections, what is held back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from livekit.plugins.whisper.errors import HostUnavailable
from livekit.plugins.whisper.host import client, lease, wire
from livekit.plugins.whisper.host.client import HostBackend
from livekit.plugins.whisper.types import Audio, DecodeOptions, Utterance

from tests.support.hosts import TOKEN, ready, tcp_host, until
from tests.support.proxies import answer, proxy
from tests.support.weights import TINY

OPTIONS = DecodeOptions(language="en")
SAID = "He might even have been made amiable himself."
FOREIGN = {
    "502": answer("502 Bad Gateway", b"<html><h1>502</h1></html>", "Content-Type: text/html"),
    "503": answer("503 Service Unavailable", b"", "Retry-After: 1"),
    "504": answer("504 Gateway Timeout", b"upstream request timeout"),
    "text": answer("200 OK", b"hello", "Content-Type: text/plain"),
    "json": answer("500 Oops", b'{"detail": "no"}', "Content-Type: application/json"),
    "redirect": answer("302 Found", b"", "Location: https://example.invalid/login"),
    "half": answer("200 OK", b'{"protocol": 1, "fing', "Content-Type: application/json"),
    "short": answer("200 OK", b'{"protocol": 1', length=1000),
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "nothing": b"",
}


@asynccontextmanager
async def behind(url: str) -> AsyncIterator[HostBackend]:
    backend = HostBackend(address=url, token=TOKEN)
    yield backend
    await backend.aclose()


async def test_what_a_proxy_does_is_no_crash(
    tmp_path: Path, sound: Audio, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One host for all of it: its start takes longer than what is tested."""
    with tcp_host(tmp_path) as real:
        await ready(real)
        async with proxy(real) as (between, url):

            async def said(backend: HostBackend) -> str:
                return (await backend.transcribe(TINY, Utterance(sound), OPTIONS)).text

            # Answers that are not the host's, at the handshake, the lease and the request.
            for name, foreign in FOREIGN.items():
                async with behind(url) as backend:
                    between.answers = [foreign] * 2
                    assert await said(backend) == SAID, name
                    between.answers = [foreign]
                    assert await said(backend) == SAID, name
            assert between.refused == 3 * len(FOREIGN)

            # A connection that is reset is one request's alone.
            async with behind(url) as backend:
                backend.hold(TINY)
                await backend.prewarm(TINY)
                lost = 0

                def resets(head: bytes) -> bool:
                    nonlocal lost
                    lost += (now := wire.TRANSCRIBE.encode() in head and lost < 2)
                    return now

                between.resets = resets
                assert set(await asyncio.gather(*(said(backend) for _ in range(4)))) == {SAID}
                assert lost == 2

            # What it holds back is not what the host does not say.
            monkeypatch.setattr(lease, "SILENT_SECONDS", 0.2)
            monkeypatch.setattr(lease, "LOADING_SECONDS", 0.2)
            between.held = 2**14
            async with behind(url) as backend:
                assert await said(backend) == SAID
                backend.hold(TINY)
                await backend.prewarm(TINY)
                kept = backend._connection
                for _ in range(3):
                    assert await said(backend) == SAID
                    between.asked.clear()
                    await until(lambda: between.asked[wire.HOST])  # it has been silent for long
                assert kept is backend._connection
            between.held = 0

            # It lasts: the error names what was answered.
            monkeypatch.setattr(client, "PATIENCE_SECONDS", 0.3)
            async with behind(url) as backend:
                between.answers = [FOREIGN["502"]] * 100
                with pytest.raises(HostUnavailable, match="answers 502 '<html><h1>502") as caught:
                    await said(backend)
                assert caught.value.retryable
    assert not [r.message for r in caplog.records if r.levelno >= logging.WARNING]
