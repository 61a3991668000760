"""A real LiveKit room on this machine: the server, a worker, and somebody who speaks in it.

    async with LiveKitServer() as server, Worker(server) as worker:
        async with Caller(server, "room-1") as caller:
            utterance = await caller.play(Recording.read(path))

Everything has a deadline, and what was started is gone at the end of its block, whatever happens.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp
import yaml
from livekit import api, rtc
from livekit.plugins.whisper.host.place import Place
from livekit.plugins.whisper.host.process import owner_pid

from scripts import hosts
from scripts.child import Child, ChildFailed, kill_all, until
from scripts.speaker import AHEAD, Heard, Recording, Speaker, Utterance

__all__ = [
    "Caller",
    "Child",
    "ChildFailed",
    "Heard",
    "LiveKitServer",
    "Recording",
    "Utterance",
    "Worker",
    "find_server",
    "kill_all",
]

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"


def find_server() -> Path | None:
    """The `livekit-server` to use: LIVEKIT_SERVER, else on the PATH, else the project's own."""
    named = os.environ.get("LIVEKIT_SERVER")
    candidates = [named] if named else ["livekit-server", str(ROOT / ".bin" / "livekit-server")]
    found = next(filter(None, map(shutil.which, candidates)), None)
    return Path(found).resolve() if found else None


class LiveKitServer(Child):
    """The real livekit-server with the project's configuration, on free ports of the loopback."""

    def __init__(
        self, binary: Path | None = None, *, workdir: Path | None = None, timeout: float = 20
    ) -> None:
        super().__init__(workdir, "livekit-server", grace=3)
        found = binary or find_server()
        if found is None:
            raise FileNotFoundError("no livekit-server: `make server` fetches it")
        self._binary, self._timeout = found, timeout
        self._config: dict[str, Any] = yaml.safe_load((ROOT / "livekit.yaml").read_text())
        self.api_key, self.api_secret = next(iter(self._config["keys"].items()))

    @property
    def port(self) -> int:
        return int(self._config["port"])

    @property
    def url(self) -> str:
        return f"ws://{HOST}:{self.port}"

    def token(self, room: str, identity: str) -> str:
        """Lets a participant into a room."""
        grants = api.VideoGrants(room_join=True, room=room)
        token = api.AccessToken(self.api_key, self.api_secret).with_identity(identity)
        return token.with_grants(grants).to_jwt()

    async def _start(self) -> None:
        path = self.workdir / "livekit.yaml"
        for attempts_left in (2, 1, 0):
            self._choose_ports()
            path.write_text(yaml.safe_dump(self._config))
            self._spawn([str(self._binary), "--config", str(path)], _neutral_environment())
            try:
                return await self._answers()
            except ChildFailed:  # perhaps somebody was quicker at one of the ports
                if not attempts_left:
                    raise
                self.kill()

    def _choose_ports(self) -> None:
        kinds = (socket.SOCK_STREAM, socket.SOCK_DGRAM)
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket(socket.AF_INET, kind)) for kind in kinds]
            for one in sockets:
                one.bind((HOST, 0))
            port, udp = (one.getsockname()[1] for one in sockets)
        self._config["port"] = port
        self._config["rtc"]["udp_port"] = udp

    async def _answers(self) -> None:
        deadline = time.monotonic() + self._timeout
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as http:
            while time.monotonic() < deadline:
                self._check_running()
                with contextlib.suppress(aiohttp.ClientError, asyncio.TimeoutError):
                    async with http.get(f"http://{HOST}:{self.port}/") as response:
                        if response.status == 200:
                            return
                await asyncio.sleep(0.05)
        raise ChildFailed(f"livekit-server does not answer after {self._timeout} s:\n{self.tail()}")


class Worker(Child):
    """An agent's worker, ready for jobs: `python simple_main.py start` unless told otherwise.

    `env` is added to an environment without the settings of the person at the keyboard, so that a
    run depends on what its caller says and on nothing else.
    """

    # As in a simulation: no port is taken, so that several can run.
    ARGV = (sys.executable, str(ROOT / "simple_main.py"), "start", "--simulation")

    def __init__(
        self,
        server: LiveKitServer,
        *,
        env: Mapping[str, str] | None = None,
        argv: Sequence[str] = ARGV,
        workdir: Path | None = None,
        timeout: float = 60,
    ) -> None:
        super().__init__(workdir, "worker", grace=15)
        self._argv, self._timeout = list(argv), timeout
        self._env = {
            **_neutral_environment(),
            "XDG_RUNTIME_DIR": str(self.workdir),  # its jobs' hosts are its own, and end with it
            "LIVEKIT_URL": server.url,
            "LIVEKIT_API_KEY": server.api_key,
            "LIVEKIT_API_SECRET": server.api_secret,
            **(env or {}),
        }

    async def _start(self) -> None:
        self._spawn(self._argv, self._env)
        await self.logged("registered worker", timeout=self._timeout)

    def hosts(self) -> list[Place]:
        """The hosts that its jobs have started and that live."""
        folder = Path(self._env["XDG_RUNTIME_DIR"], "livekit-whisper")
        found = [Place(path) for path in sorted(folder.glob("*.sock"))]
        return [place for place in found if owner_pid(place)]

    def kill(self) -> None:
        """Ends all of it at once, also hosts that are only starting; its output stays."""
        super().kill()
        hosts.end(self._env["XDG_RUNTIME_DIR"])

    def records(self, text: str) -> list[dict[str, Any]]:
        """Its log records whose message contains `text`, in order."""
        found = []
        for line in self.output().splitlines():
            if text in line:
                try:
                    found.append(json.loads(line))
                except ValueError:  # coloured output of `dev`
                    found.append({"message": line})
        return [record for record in found if text in str(record.get("message", ""))]

    async def logged(self, text: str, *, timeout: float, count: int = 1) -> list[dict[str, Any]]:
        """Waits until `count` records contain `text`, and returns them.

        Raises:
            ChildFailed: the worker ended, or did not write them within `timeout` seconds.
        """

        def enough() -> bool:
            self._check_running()
            return len(self.records(text)) >= count

        try:
            await until(enough, timeout)
        except asyncio.TimeoutError:
            raise ChildFailed(f"no {text!r} after {timeout} s:\n{self.tail()}") from None
        return self.records(text)


class Caller(Speaker):
    """A participant of a room of the real server, with a microphone, once an agent listens."""

    def __init__(
        self,
        server: LiveKitServer,
        room: str,
        *,
        identity: str = "caller",
        rate: int = 16000,
        timeout: float = 60,
    ) -> None:
        super().__init__(identity, rate)
        self._server, self._name, self._timeout = server, room, timeout
        self.room = rtc.Room()
        self._source = rtc.AudioSource(rate, 1)
        self._microphone: rtc.LocalTrackPublication | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Caller:
        try:
            await asyncio.wait_for(self._join(), self._timeout)
        except asyncio.TimeoutError:
            await self.aclose()
            raise TimeoutError(f"no agent in room {self._name} after {self._timeout} s") from None
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Leaves the room."""
        self.leave()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.room.disconnect(), 5)
        await self._source.aclose()

    async def _join(self) -> None:
        self.room.register_text_stream_handler("lk.transcription", self._on_text)
        await self.room.connect(self._server.url, self._server.token(self._name, self.identity))
        await self.publish()
        self._run(self._send())
        await until(self._agent_listens, self._timeout)

    async def publish(self) -> None:
        """Publishes the microphone, until somebody listens to it."""
        track = rtc.LocalAudioTrack.create_audio_track("microphone", self._source)
        source = rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE)
        self._microphone = await self.room.local_participant.publish_track(track, source)
        await self._microphone.wait_for_subscription()

    async def unpublish(self) -> None:
        """Takes the microphone away, and stays in the room."""
        if self._microphone:
            await self.room.local_participant.unpublish_track(self._microphone.sid)
            self._microphone = None

    def _agent_listens(self) -> bool:
        return any(
            participant.kind == rtc.ParticipantKind.PARTICIPANT_KIND_AGENT
            and participant.attributes.get("lk.agent.state") == "listening"
            for participant in self.room.remote_participants.values()
        )

    async def _send(self) -> None:
        async for frame in self.frames(AHEAD):
            await self._source.capture_frame(frame)

    def _on_text(self, reader: rtc.TextStreamReader, speaker: str) -> None:
        self._run(self._read(reader, speaker))

    async def _read(self, reader: rtc.TextStreamReader, speaker: str) -> None:
        text = await reader.read_all()
        attributes = reader.info.attributes or {}
        final = attributes.get("lk.transcription_final") == "true"
        self.hear(speaker, attributes.get("lk.segment_id", ""), text, final)

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _neutral_environment() -> dict[str, str]:
    private = ("LIVEKIT_", "STT_", "LLM_", "TTS_", "AGENT_")
    proxies = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")  # the worker would use them for loopback
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(private) and name.upper() not in proxies
    }
    return {**kept, "PYTHON_DOTENV_DISABLED": "1", "PYTHONUNBUFFERED": "1"}
