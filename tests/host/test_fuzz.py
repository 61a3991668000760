"""Whatever is sent to a host, it answers in good order, lives on, and does not grow."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from livekit.plugins.whisper.host import wire
from livekit.plugins.whisper.host.process import ask

from tests.support.hosts import TOKEN, ready, tcp_host
from tests.support.weights import TINY

HEADERS = {wire.TOKEN: f"Bearer {TOKEN}"}
BEGINNING = b"POST /v1/transcribe HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
GROWTH = 40 * 2**20
"""Bytes that a host may grow by in all of this; the allocator's own caches are among them."""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One host for the module, which is in good health at the end."""
    import asyncio

    with tcp_host(tmp_path_factory.mktemp("fuzz")) as url:
        asyncio.run(ready(url))
        yield url
        facts = ask(url, token=TOKEN)
        assert facts is not None
        assert facts["requests"] == facts["leases"] == 0


@pytest.fixture(scope="module")
def described(host: str) -> Any:
    return schemathesis.openapi.from_url(f"{host}/openapi.json", headers=HEADERS)


def test_whatever_the_description_allows(described: Any) -> None:
    routes = [found.ok() for found in described.get_all_operations()]
    assert {route.path for route in routes} >= {wire.LEASE, wire.TRANSCRIBE, wire.MODELS}
    for route in routes:

        @given(case=route.as_strategy())
        @settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
        def answers(case: Any) -> None:
            answer = case.call(headers=HEADERS, timeout=30)
            assert answer.status_code < 500, answer.text

        answers()


def test_queries_of_all_sorts(host: str) -> None:
    """Of the right shape, so that they come far: wrong languages, prompts, audio and numbers."""
    pid = ask(host, token=TOKEN)["pid"]
    chance = random.Random(7)
    parts = ["", "en", "xx", "-1", "nan", "1e400", "\0", "ä" * 60, "../../etc", "a" * 5000, "0x10"]
    names = ["language", "task", "beam_size", "start", "stream", "urgency", "window", "device"]
    query = {"engine": TINY.engine, "model": TINY.model}
    before = 0
    with requests.Session() as http:
        http.headers.update(HEADERS)
        for i in range(300):
            wrong = {name: chance.choice(parts) for name in chance.sample(names, 2)}
            headers = {wire.TEXT: chance.choice(["0", "7", "-1", "x", "9" * 40])} if i % 3 else {}
            body = chance.randbytes(chance.randrange(0, 4000))
            answer = http.post(
                host + wire.TRANSCRIBE, params=query | wrong, headers=headers, data=body, timeout=60
            )
            assert answer.status_code < 500, (wrong, answer.text)
            if i == 100:
                before = psutil.Process(pid).memory_info().rss
    assert psutil.Process(pid).memory_info().rss - before < GROWTH


def test_bytes_that_are_no_http(host: str) -> None:
    pid = ask(host, token=TOKEN)["pid"]
    address = ("127.0.0.1", urlsplit(host).port or 0)
    before = 0
    for i in range(400):
        with socket.create_connection(address, timeout=10) as connection:
            data = os.urandom(random.randrange(1, 3000))
            if i % 2:
                data = BEGINNING + data
            try:
                connection.sendall(data)
                if i % 5 == 0:
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(65536):
                        pass
            except ConnectionError:
                pass
        if i == 100:
            before = psutil.Process(pid).memory_info().rss
    assert ask(host, "/healthz") == {"status": "ok"}
    assert psutil.Process(pid).memory_info().rss - before < GROWTH
