"""A container whose process 1 is a Python program keeps nothing of the hosts that have ended."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.hosts import Hosts

CONTAINER = ["unshare", "--pid", "--fork", "--mount-proc"]
if os.geteuid():
    CONTAINER += ["--user", "--map-root-user"]

JOB = """
from livekit.plugins.whisper.host.place import HostSpec
from livekit.plugins.whisper.host.process import start_or_join
start_or_join(HostSpec(idle=0.0))  # it ends when process 1 has seen it, and not before
"""
PROCESS_1 = """
import os, subprocess, sys, time
import psutil
from livekit.plugins import whisper

assert os.getpid() == 1
me = psutil.Process()
other = subprocess.Popen(["sh", "-c", "exit 3"], start_new_session=True)
while other.pid in psutil.pids() and psutil.Process(other.pid).status() != psutil.STATUS_ZOMBIE:
    time.sleep(0.01)
for _ in range(2):
    subprocess.run([sys.executable, "-c", sys.argv[1]], check=True)
    inherited = [child for child in me.children() if child.pid != other.pid]
    print("inherited", *(child.name() for child in inherited))
    for child in inherited:
        child.terminate()
    deadline = time.monotonic() + 30
    while [child for child in me.children() if child.pid != other.pid]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
print("left", *(f"{c.name()}:{c.status()}" for c in me.children() if c.pid != other.pid))
print("other", other.wait())
"""


def test_host_that_outlives_its_job_leaves_no_zombie(hosts: Hosts) -> None:
    if subprocess.run([*CONTAINER, "true"], capture_output=True).returncode:
        pytest.skip("no PID namespace can be made here: needs root, or user namespaces")
    done = subprocess.run(
        [*CONTAINER, sys.executable, "-c", PROCESS_1, JOB],
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
    inherited, again, left, other = done.stdout.splitlines()
    assert inherited == again == "inherited whisper-host"
    assert left.split() == ["left"]
    assert other == "other 3"  # nobody else's child is touched
