"""The whole agent: simple_main.py, a real livekit-server, a room, and somebody who speaks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import psutil
import pytest
from livekit.plugins.whisper.host import process

from scripts.room import ROOT, Caller, LiveKitServer, Recording, Worker, find_server
from scripts.speaker import Utterance
from scripts.wer import pooled_word_error_rate
from tests.support.weights import REFERENCES, TINY, openai_checkpoint, recordings

pytestmark = [
    pytest.mark.skipif(find_server() is None, reason="no livekit-server: `make server` gets it"),
    pytest.mark.timeout(240),
]

FASTER = {"STT_PROVIDER": "faster-whisper", "STT_MODEL": TINY.model}


async def speak(
    server: LiveKitServer, room: str, paths: list[Path], *, early: bool = False
) -> list[tuple[str, str]]:
    """Plays recordings in a room; returns what was said and what was understood.

    With `early`, words came while somebody spoke: not only what LiveKit sends before each final.
    """
    pairs = []
    async with Caller(server, room) as caller:
        for path in paths:
            utterance = await caller.play(Recording.read(path))
            assert utterance.final_at is not None, f"nothing arrived for {path.name}"
            pairs.append((REFERENCES[path.name], utterance.text))
        assert {heard.speaker for heard in caller.heard} == {caller.identity}
        finals = {heard.text for heard in caller.heard if heard.final}
        assert not early or any(heard.text not in finals for heard in caller.heard)
    return pairs


async def say(caller: Caller, recording: Recording) -> Utterance:
    """Plays a recording with a microphone that is there for as long as that takes."""
    await caller.publish()
    try:
        return await caller.play(recording)
    finally:
        await caller.unpublish()


def check_log(worker: Worker, pairs: list[tuple[str, str]]) -> None:
    """Nothing that was said is in the log, and nothing went wrong."""
    log = worker.output()
    for _, text in pairs:
        assert text not in log
        assert text.split(",")[0] not in log
    assert "Traceback" not in log


def check_host(worker: Worker, pairs: list[tuple[str, str]]) -> None:
    """One host, one load, and nothing that was said in its log."""
    (place,) = worker.hosts()
    log = place.log.read_text()
    assert log.count("[WHISPER-HOST] serves") == log.count("[WHISPER-LOAD]") == 1
    assert not any(text in log for _, text in pairs)
    assert "Traceback" not in log


async def test_two_jobs_in_a_row_share_the_model_of_one_host() -> None:
    async with LiveKitServer() as server, Worker(server, env=FASTER) as worker:
        pairs = await speak(server, "room-1", recordings()[:2], early=True)
        pairs += await speak(server, "room-2", recordings()[4:])
        assert pooled_word_error_rate(pairs) <= 0.20
        jobs = {record["pid"] for record in worker.records("[STT-CACHE] reusing")}
        leases = {record["pid"] for record in worker.records("[WHISPER-HOST] leased")}
        assert len(jobs) == 2  # each in a process of its own
        assert jobs <= leases
        assert not worker.records("[WHISPER-LOAD]")
        check_host(worker, pairs)
        check_log(worker, pairs)


async def test_two_jobs_in_a_row_load_the_model_once_per_process() -> None:
    environment = {**FASTER, "STT_BACKEND": "process"}
    async with LiveKitServer() as server, Worker(server, env=environment) as worker:
        pairs = await speak(server, "room-1", recordings()[4:])
        pairs += await speak(server, "room-2", recordings()[4:])
        assert pooled_word_error_rate(pairs) <= 0.20
        loads = Counter(record["pid"] for record in worker.records("[WHISPER-LOAD]"))
        created = Counter(record["pid"] for record in worker.records("[STT-CACHE] creating"))
        reused = Counter(record["pid"] for record in worker.records("[STT-CACHE] reusing"))
        assert len(reused) == 2  # two jobs, each in a process of its own
        assert set(reused) <= set(loads)
        assert set(loads.values()) == set(created.values()) == {1}
        assert not worker.hosts()
        check_log(worker, pairs)


async def test_twelve_jobs_at_once_on_one_worker(tmp_path: Path) -> None:
    """As simple_main.py, with the load that the dispatcher sees taken from the host."""
    agent = tmp_path / "agent.py"
    agent.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from livekit.agents import cli\n"
        "from livekit.plugins import whisper\n"
        "from simple_main import server\n"
        "server.load_fnc = whisper.load_fnc\n"
        "if __name__ == '__main__':\n"
        "    cli.run_app(server)\n"
    )
    argv = [sys.executable, str(agent), "start", "--simulation"]
    async with LiveKitServer() as server, Worker(server, env=FASTER, argv=argv) as worker:
        async with contextlib.AsyncExitStack() as stack:
            callers = []
            for number in range(12):  # one after the other: a process takes seconds to start
                caller = Caller(server, f"room-{number}", timeout=60)
                callers.append(await stack.enter_async_context(caller))
                await caller.unpublish()
            paths = [recordings()[number % 5] for number in range(12)]
            heard = []
            for first in range(0, 12, 3):  # what three microphones send is heard without gaps
                some = slice(first, first + 3)
                plays = zip(callers[some], map(Recording.read, paths[some]), strict=True)
                heard += await asyncio.gather(*(say(caller, each) for caller, each in plays))
            pairs = [(REFERENCES[p.name], u.text) for p, u in zip(paths, heard, strict=True)]
            silent = [n for n, utterance in enumerate(heard) if utterance.final_at is None]
            assert not silent, f"nothing arrived in rooms {silent}:\n{worker.tail(60)}"
            assert pooled_word_error_rate(pairs) <= 0.20
            assert process.ask(worker.hosts()[0])["leases"] >= 12
        assert len({record["pid"] for record in worker.records("[STT-CACHE] reusing")}) == 12
        check_host(worker, pairs)
        check_log(worker, pairs)


async def test_jobs_in_threads_share_one_model_and_one_instance() -> None:
    environment = {**FASTER, "AGENT_EXECUTOR": "thread", "STT_BACKEND": "process"}
    async with LiveKitServer() as server, Worker(server, env=environment) as worker:
        pairs = await speak(server, "room-1", recordings()[4:])
        pairs += await speak(server, "room-2", recordings()[4:])
        assert pooled_word_error_rate(pairs) <= 0.20
        assert len(worker.records("[WHISPER-LOAD]")) == 1
        reused = [record["message"] for record in worker.records("[STT-CACHE] reusing")]
        assert len(reused) >= 2  # two jobs; the start-up check made the instance
        assert len(set(reused)) == 1  # the same instance and key in each line
        check_log(worker, pairs)


async def test_the_other_engine() -> None:
    environment = {"STT_PROVIDER": "whisper", "STT_MODEL": str(openai_checkpoint())}
    async with LiveKitServer() as server, Worker(server, env=environment) as worker:
        await worker.logged("[WHISPER-HOST] leased", timeout=120)
        pairs = await speak(server, "room", recordings()[3:])
        assert pooled_word_error_rate(pairs) <= 0.20
        check_host(worker, pairs)
        check_log(worker, pairs)


async def test_agent_hears_the_fallback_when_the_primary_cannot_be_loaded(tmp_path: Path) -> None:
    environment = {
        "STT_MODEL": str(tmp_path),  # no model in it
        "STT_FALLBACK": f'{{"provider": "faster-whisper", "model": "{TINY.model}"}}',
    }
    async with LiveKitServer() as server, Worker(server, env=environment) as worker:
        pairs = await speak(server, "room", recordings()[3:])
        assert pooled_word_error_rate(pairs) <= 0.20
        failures = worker.hosts()[0].log.read_text()
        assert "model.bin: is missing" in failures


def test_wrong_setting_is_told_and_the_worker_does_not_start() -> None:
    run = subprocess.run(
        [sys.executable, str(ROOT / "simple_main.py"), "start"],
        env={**os.environ, "STT_DEVICE": "gpu"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 1
    assert "device (STT_DEVICE): 'gpu': allowed: 'auto', 'cpu'" in run.stderr
    assert "Traceback" not in run.stdout + run.stderr


def test_demo_leaves_nothing_behind_after_ctrl_c(tmp_path: Path) -> None:
    """The demo itself runs in CI; here it is interrupted as soon as its worker is there."""
    mark = f"DEMO_TEST={tmp_path}"
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / "demo.py")],
        env={**os.environ, "DEMO_TEST": str(tmp_path)},
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert any("registered" in line for line in process.stdout)
    assert len(_with(mark)) > 2  # the demo, the server, the worker
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert _with(mark) == []


def _with(mark: str) -> list[int]:
    """Processes that have inherited a variable."""
    found = []
    for each in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            name, _, value = mark.partition("=")
            if each.environ().get(name) == value:
                found.append(each.pid)
    return found
