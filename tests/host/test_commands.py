"""`livekit-whisper host …`, as people type it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from livekit.plugins.whisper.host.place import Place
from livekit.plugins.whisper.host.process import ask, owner_pid

from tests.support.command import SCRIPT, Here, run
from tests.support.hosts import Hosts, Transcriber, ended, until
from tests.support.weights import TINY

ROOT = Path(__file__).parents[2]


def test_start_status_logs_stop(hosts: Hosts, here: Here) -> None:
    settings = {"STT_MODEL": TINY.model}
    nothing = here("host", "status")
    assert (nothing.status, nothing.out) == (3, f"no host runs ({hosts.directory})\n")
    started = run("host", "start", environment=settings)
    assert started.status == 0, started.err
    pid = hosts.pid
    assert f"pid={pid}" in started.out
    again = run("host", "start", environment=settings)
    assert f"pid={pid}" in again.out
    status = here("host", "status")
    assert status.status == 0
    assert f"pid={pid}" in status.out and "load=0.00" in status.out
    assert "requests=0 (waiting 0, served 0)" in status.out
    assert "[WHISPER-HOST] serves" in here("host", "logs", "--lines", "5").out
    stopped = run("host", "stop")
    assert (stopped.status, stopped.out) == (0, f"stopped pid={pid}\n")
    assert owner_pid(Place(hosts.directory / "host.sock")) is None
    assert here("host", "stop").out == "no host runs\n"


async def test_status_for_programs(hosts: Hosts, here: Here) -> None:
    nothing = here("host", "status", "--json")
    assert (nothing.status, nothing.out) == (3, "[]\n")
    async with Transcriber([4]) as job:
        job.go()
        assert len(await job.finished()) == 1
        (found,) = json.loads(here("host", "status", "--json").out)
    assert (found["pid"], found["error"]) == (hosts.pid, None)
    assert (found["requests"], found["waiting"], found["served"]) == (0, 0, 1)
    assert found["address"] == f"unix:{hosts.place.socket}"


async def test_run_serves_the_configured_model_in_the_foreground(hosts: Hosts) -> None:
    place = Place(hosts.directory / "mine.sock")
    host = subprocess.Popen(
        [SCRIPT, "host", "run", "--socket", str(place.socket)],
        env={**os.environ, "STT_MODEL": TINY.model},
        stderr=subprocess.PIPE,
        text=True,
    )
    await until(lambda: place.socket.exists() and ask(place))
    await until(lambda: [m["loaded"] for m in ask(place, "/v1/models")["data"]] == [True])
    assert ask(place, "/readyz") == {"status": "ready"}
    host.send_signal(signal.SIGTERM)
    _, log = host.communicate(timeout=30)
    assert host.returncode == 0
    assert "ends: SIGTERM" in log
    assert not place.socket.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tcp", "0.0.0.0:0"], "set a token in STT_HOST_TOKEN, or use 127.0.0.1"),
        (["--tcp", "nowhere"], "must be NAME:PORT"),
        (["--tcp", "127.0.0.1:1", "--socket", "x"], "choose one of them"),
    ],
)
def test_mistakes_are_told_in_one_line(
    hosts: Hosts, here: Here, arguments: list[str], message: str
) -> None:
    assert message in here("host", "run", *arguments).error()


def test_host_that_hangs_is_told_and_can_be_stopped(hosts: Hosts, here: Here) -> None:
    run("host", "start", environment={"STT_MODEL": TINY.model})
    pid = hosts.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        status = here("host", "status")
        assert "no host answers at unix:" in status.out
    finally:
        os.kill(pid, signal.SIGCONT)
    assert f"stopped pid={pid}" in run("host", "stop").out
    ended(pid, 10)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")
def test_unit_file_is_valid(tmp_path: Path) -> None:
    unit = (ROOT / "deploy" / "livekit-whisper.service").read_text()
    copy = tmp_path / "livekit-whisper.service"
    copy.write_text(unit.replace("/opt/livekit-whisper/bin/livekit-whisper", str(SCRIPT)))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
