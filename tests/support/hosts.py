"""Real hosts in a directory of a test's own, and real processes that use them."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
from livekit.plugins.whisper.errors import HostUnavailable
from livekit.plugins.whisper.host import process
from livekit.plugins.whisper.host.place import Place

from scripts.hosts import end
from tests.support.command import SCRIPT
from tests.support.weights import TINY

ROOT = Path(__file__).parents[2]
TOKEN = "a-token-of-this-test"


class Hosts:
    """The hosts of `XDG_RUNTIME_DIR=self.runtime`."""

    def __enter__(self) -> Hosts:
        # Not pytest's own directory: the path of a socket is short.
        self.runtime = Path(tempfile.mkdtemp(prefix="whisper-"))
        self.directory = self.runtime / "livekit-whisper"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        killed = end(self.runtime, grace=20)
        shutil.rmtree(self.runtime, ignore_errors=True)
        assert not killed, "does not end when it is told to"

    def open_to_others(self, mode: int = 0o777) -> None:
        """Makes the directory one that no host is started in."""
        self.directory.mkdir()
        self.directory.chmod(mode)

    def places(self) -> list[Place]:
        """Of every host that left a socket."""
        return [Place(path) for path in sorted(self.directory.glob("*.sock"))]

    @property
    def place(self) -> Place:
        """Of the only one."""
        (place,) = self.places()
        return place

    @property
    def pid(self) -> int:
        """Of the only one that lives."""
        found = process.owner_pid(self.place)
        assert found is not None, "no host lives"
        return found

    def ask(self, path: str = "/v1/host") -> Any:
        """What the only one answers."""
        return process.ask(self.place, path)

    def metrics(self) -> dict[str, float]:
        """The samples of a scrape of the only one."""
        status, text = get(self.place, "/metrics")
        assert status == 200
        lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in lines}

    def log(self) -> str:
        """Of all hosts that were started here."""
        return "".join(path.read_text() for path in sorted(self.directory.glob("*.log*")))


def get(place: Place, path: str) -> tuple[int, str]:
    """Status and body, as curl shows them."""
    connection = http.client.HTTPConnection("host")
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.sock.connect(str(place.socket))
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body


def ended(pid: int, timeout: float) -> None:
    """Waits until a process has ended; kills it when it has not in time."""
    try:
        found = psutil.Process(pid)
        if found.status() != psutil.STATUS_ZOMBIE:
            found.wait(timeout)
    except psutil.NoSuchProcess:
        return
    except psutil.TimeoutExpired:
        os.kill(pid, signal.SIGKILL)
        raise


async def until(done: Callable[[], Any], timeout: float = 60) -> Any:
    """Polls until it is true, and returns that."""
    deadline = time.monotonic() + timeout
    while not (found := await asyncio.to_thread(done)):
        assert time.monotonic() < deadline, f"not so after {timeout} s"
        await asyncio.sleep(0.005)
    return found


@contextmanager
def tcp_host(tmp_path: Path, token: str = TOKEN) -> Iterator[str]:
    """`livekit-whisper host run --tcp` with tiny.en; yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (tmp_path / "host.log").open("wb")
    host = subprocess.Popen(
        [SCRIPT, "host", "run", "--tcp", f"127.0.0.1:{port}", "--model", TINY.model],
        env={**os.environ, "STT_HOST_TOKEN": token},
        stdout=log,
        stderr=log,
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        host.terminate()
        host.wait(30)
        log.close()


async def ready(url: str) -> None:
    """Waits until the models of a host are loaded."""

    def answers() -> bool:
        try:
            return process.ask(url, "/readyz") is not None
        except HostUnavailable:  # loading
            return False

    await until(answers)


class Transcriber:
    """A process that transcribes the recordings of the tests with the backend that it is told.

    It is ready when it is entered, with everything imported and nothing connected; `go` starts it.
    """

    def __init__(self, indexes: Sequence[int], *, backend: str = "host", **settings: Any) -> None:
        self._argv = [
            sys.executable, "-m", "tests.support.transcriber", backend,
            json.dumps(settings), *map(str, indexes),
        ]  # fmt: skip
        self.heard: list[str] = []
        self.facts: dict[str, Any] = {}

    async def __aenter__(self) -> Transcriber:
        self._process = await asyncio.create_subprocess_exec(
            *self._argv,
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert await self._line() == "ready"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.returncode is None:
            self.kill()
        await self._process.communicate()

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """At once, as the system does when memory runs out."""
        self._process.kill()

    def go(self) -> None:
        """Starts it."""
        assert self._process.stdin
        self._process.stdin.write(b"go\n")

    async def finished(self, on_heard: Callable[[], None] = lambda: None) -> list[str]:
        """What it heard, in order, once it has ended well."""
        while line := await self._line():
            found = json.loads(line)
            if "text" in found:
                self.heard.append(found["text"])
                on_heard()
            else:
                self.facts |= found
        stderr = await self._process.stderr.read() if self._process.stderr else b""
        assert await self._process.wait() == 0, stderr.decode()
        self.facts["stderr"] = stderr.decode()
        return self.heard

    async def _line(self) -> str:
        assert self._process.stdout
        return (await self._process.stdout.readline()).decode().strip()
