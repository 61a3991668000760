"""Proxies before a host that do what real ones do: hold back, answer by themselves, hang up."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress


class Proxy:
    """Between a client and a host on TCP, one connection at a time for each request.

    Args:
        host, port: where the requests go.
    """

    def __init__(self, host: str, port: int) -> None:
        self._behind = host, port
        self.answers: list[bytes] = []
        """Whole answers of its own, each for one request in place of the host's."""
        self.asked = Counter[str]()
        """How many requests have come, by path."""
        self.refused = 0
        """How many it has answered by itself."""
        self.held = 0
        """Bytes of an answer that it holds back until there are more, or the answer ends."""
        self.resets: Callable[[bytes], bool] = lambda head: False
        """Whether to reset the connection, on both sides, when a request like this has come."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            try:
                head = await reader.readuntil(b"\r\n\r\n")
                self.asked[head.split()[1].decode().partition("?")[0]] += 1
                if self.answers:
                    self.refused += 1
                    writer.write(self.answers.pop(0))
                    await writer.drain()
                    return
                if self.resets(head):
                    return _reset(writer)
                await self._forward(head, reader, writer)
            finally:
                writer.close()

    async def _forward(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        behind, forward = await asyncio.open_connection(*self._behind)
        first, _, fields = head.partition(b"\r\n")
        forward.write(first + b"\r\nConnection: close\r\n" + fields)
        up = asyncio.ensure_future(_copy(reader, forward, 0))
        down = asyncio.ensure_future(_copy(behind, writer, self.held))
        try:
            await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in (up, down):
                each.cancel()
            await asyncio.gather(up, down, return_exceptions=True)
            forward.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, held: int) -> None:
    waiting = b""
    while data := await reader.read(65536):
        waiting += data
        if len(waiting) > held:
            writer.write(waiting)
            await writer.drain()
            waiting = b""
    writer.write(waiting)
    await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    plain = writer.get_extra_info("socket")
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@asynccontextmanager
async def proxy(url: str) -> AsyncIterator[tuple[Proxy, str]]:
    """A proxy before a host, and its address."""
    host, port = url.removeprefix("http://").split(":")
    made = Proxy(host, int(port))
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    async with server:
        yield made, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def answer(status: str, body: bytes, *fields: str, length: int | None = None) -> bytes:
    """A whole answer of a proxy's own."""
    size = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {size}", "Connection: close", *fields]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
