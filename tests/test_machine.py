"""CPUs are counted and measured as LiveKit's own monitor does it, in real and in copied groups."""

from __future__ import annotations

import builtins
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from livekit.agents.utils.hw import cpu as livekit_cpu
from livekit.plugins import whisper
from livekit.plugins.whisper import engines, machine
from livekit.plugins.whisper import load as load_module
from livekit.plugins.whisper.machine import CpuLoad, available_cpus, control_groups, cores

NODE = 64
"""CPUs of the machine that the files below are of."""
MOUNT = Path("/sys/fs/cgroup")


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    """A node of 64 CPUs whose control groups are files of the test."""
    found = Node(tmp_path / "cgroup", tmp_path / "membership")
    found.root.mkdir()
    monkeypatch.delenv("NUM_CPUS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(NODE)))
    monkeypatch.setattr(os, "cpu_count", lambda: NODE)
    monkeypatch.setattr("psutil.cpu_count", lambda: NODE)
    monkeypatch.setattr(livekit_cpu, "open", found.open, raising=False)
    monkeypatch.setattr(livekit_cpu, "time", found)
    monkeypatch.setattr(machine, "time", found)
    machine._warned.clear()
    return found


class Node:
    """Files as the kernel shows them, and a clock: `sleep` lets processes use CPU time."""

    def __init__(self, root: Path, membership: Path) -> None:
        self.root, self.membership = root, membership
        self.now, self.busy = 100.0, 0.0
        """Seconds, and how many CPUs are at work."""

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def group_v2(self, inner: str = ".", limit: str | None = None, cpus: str = "0-63") -> None:
        self.write(f"{inner}/cpu.stat", "usage_usec 1000000\nuser_usec 9\nsystem_usec 9\n")
        self.write(f"{inner}/cpuset.cpus.effective", cpus + "\n")
        if limit:
            self.write(f"{inner}/cpu.max", limit + "\n")

    def group_v1(self, inner: str = ".", quota: int = -1, period: int = 100_000) -> None:
        self.write(f"cpu/{inner}/cpu.cfs_quota_us", f"{quota}\n")
        self.write(f"cpu/{inner}/cpu.cfs_period_us", f"{period}\n")
        self.write(f"cpuacct/{inner}/cpuacct.usage", "1000000000\n")

    def member(self, *lines: str) -> None:
        self.membership.write_text("".join(line + "\n" for line in lines))

    def cpus(self) -> float:
        return available_cpus(self.root, self.membership)

    def livekit(self) -> livekit_cpu.CPUMonitor:
        """LiveKit's own monitor, over these files."""
        v2 = (self.root / "cpu.stat").exists()
        return livekit_cpu.CGroupV2CPUMonitor() if v2 else livekit_cpu.CGroupV1CPUMonitor()

    def open(self, path: str, *args: Any) -> Any:
        return builtins.open(self.root / Path(path).relative_to(MOUNT), *args)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for path in self.root.rglob("cpu.stat"):
            used = int(path.read_text().split()[1]) + round(self.busy * seconds * 1e6)
            path.write_text(f"usage_usec {used}\nuser_usec 9\nsystem_usec 9\n")
        for path in self.root.rglob("cpuacct.usage"):
            path.write_text(f"{int(path.read_text()) + round(self.busy * seconds * 1e9)}\n")


LIMITS = [("100000 100000", 1.0, 1), ("50000 100000", 0.5, 1), ("150000 100000", 1.5, 1),
          ("4000000 1000000", 4.0, 4), ("6400000", 64.0, 64), ("max 100000", 64.0, 64)]  # fmt: skip


@pytest.mark.parametrize(("limit", "cpus", "threads"), LIMITS)
def test_quota_of_a_container_is_counted_as_livekit_does(
    node: Node, limit: str, cpus: float, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.group_v2(limit=limit)
    node.member("0::/")
    assert node.cpus() == cpus == node.livekit().cpu_count()
    monkeypatch.setattr(machine, "available_cpus", node.cpus)
    assert cores() == threads
    workers, each = engines.plan(engines.cores())
    assert workers * each <= max(1, threads)


@pytest.mark.parametrize(("quota", "cpus"), [(100_000, 1.0), (250_000, 2.5), (1_600_000, 16.0)])
def test_quota_of_version_1_is_counted_as_livekit_does(node: Node, quota: int, cpus: float) -> None:
    node.group_v1(quota=quota)
    node.member("4:cpu,cpuacct:/docker/8f3a", "1:name=systemd:/docker/8f3a")
    assert node.cpus() == cpus == node.livekit().cpu_count()


def test_version_1_without_a_quota_is_not_limited(node: Node) -> None:
    node.group_v1()
    node.member("4:cpu,cpuacct:/", "1:name=systemd:/")
    assert node.cpus() == NODE


@pytest.mark.parametrize(
    "line", ["0::/agents.slice/whisper.service", "0::/../agents.slice/whisper.service",
             "0::/kubepods/pod7/8f3a/agents.slice/whisper.service"],
)  # fmt: skip
def test_tightest_of_nested_limits_counts(node: Node, line: str) -> None:
    node.member(line)
    node.group_v2()
    node.group_v2("agents.slice", "200000 100000")
    node.group_v2("agents.slice/whisper.service", "max 100000")
    assert node.cpus() == 2.0
    node.group_v2("agents.slice/whisper.service", "30000 100000")
    assert node.cpus() == 0.3
    node.group_v2("agents.slice/whisper.service", "900000 100000")
    assert node.cpus() == 2.0


def test_nested_limits_of_version_1(node: Node) -> None:
    node.member("5:cpuacct:/docker/8f3a/inner", "4:cpu:/docker/8f3a/inner", "3:cpuset:/")
    node.group_v1(quota=400_000)
    node.group_v1("inner", 100_000)
    assert node.cpus() == 1.0


def test_cpu_set_and_affinity_limit_as_well(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.member("0::/")
    node.group_v2(limit="max 100000", cpus="0-2,7,9-10")
    assert node.cpus() == 6
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5})
    assert node.cpus() == 1


@pytest.mark.parametrize("text", ["1", "0.5", " 4 ", "16", "2.5"])
def test_num_cpus_counts_before_all_else_as_with_livekit(
    node: Node, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    node.group_v2(limit="200000 100000")
    node.member("0::/")
    monkeypatch.setenv("NUM_CPUS", text)
    assert node.cpus() == float(text) == node.livekit().cpu_count()


@pytest.mark.parametrize("text", ["", "many", "0", "-1", "nan", "inf", "1,5"])
def test_num_cpus_that_is_no_number_is_told_once_and_not_used(
    node: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    node.group_v2(limit="200000 100000")
    node.member("0::/")
    monkeypatch.setenv("NUM_CPUS", text)
    with caplog.at_level(logging.WARNING):
        assert [node.cpus(), node.cpus()] == [2.0, 2.0]
    told = [record.getMessage() for record in caplog.records]
    assert told == ([f"NUM_CPUS={text!r}: is not a number of CPUs, and is not used"] * bool(text))


def v1(node: Node) -> None:
    node.group_v1(quota=200_000)
    node.member("4:cpu,cpuacct:/")


def v2(node: Node) -> None:
    node.group_v2(limit="200000 100000")
    node.member("0::/")


@pytest.mark.parametrize("files", [v1, v2])
@pytest.mark.parametrize("num_cpus", [None, "0.5", "8"])
@pytest.mark.parametrize("busy", [0.0, 0.25, 1.0, 1.9, 2.0, 40.0])
def test_load_is_measured_as_livekit_does(
    node: Node, monkeypatch: pytest.MonkeyPatch, files: Callable[[Node], None],
    num_cpus: str | None, busy: float,
) -> None:  # fmt: skip
    files(node)
    if num_cpus:
        monkeypatch.setenv("NUM_CPUS", num_cpus)
    load = CpuLoad(node.root, node.membership)
    assert load() == 0.0
    node.busy = busy
    assert node.livekit().cpu_percent(0.5) == load()
    assert load() == pytest.approx(min(1.0, busy / float(num_cpus or 2)))


def test_load_survives_a_counter_that_leaps_and_one_that_is_gone(node: Node) -> None:
    v2(node)
    load = CpuLoad(node.root, node.membership)
    load()
    node.busy = 1.0
    node.sleep(1)
    assert load() == 0.5
    node.busy = 1e6
    node.sleep(1)
    assert load() == 0.5
    node.busy = -1.0
    node.sleep(1)
    assert load() == 0.5
    node.now += 1
    node.write("cpu.stat", "nothing\n")
    assert 0.0 <= load() <= 1.0


def test_load_of_the_group_that_is_limited_and_not_of_its_neighbours(node: Node) -> None:
    node.member("0::/agents.slice")
    node.group_v2()
    node.group_v2("agents.slice", "200000 100000")
    load = CpuLoad(node.root, node.membership)
    load()
    node.now += 1
    node.write("cpu.stat", "usage_usec 61000000\n")
    assert load() == 0.0
    node.now += 1
    node.write("agents.slice/cpu.stat", "usage_usec 2000000\n")
    assert load() == 0.5


def test_load_fnc_gives_the_container_s_load_where_models_are_in_the_job_processes(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    v2(node)
    monkeypatch.setenv("STT_BACKEND", "process")
    monkeypatch.setattr(load_module, "_cpu", CpuLoad(node.root, node.membership))
    assert whisper.load_fnc() == 0.0
    node.busy = 1.5
    node.sleep(1)
    assert whisper.load_fnc() == 0.75


def test_without_control_groups_the_machine_counts(node: Node) -> None:
    assert control_groups(node.root, node.membership) == []
    assert node.cpus() == NODE
    assert 0.0 <= CpuLoad(node.root, node.membership)() <= 1.0


# A real group


CHILD = """
import json
from livekit.agents.utils.hw import get_cpu_monitor
from livekit.plugins.whisper import engines, machine
load = machine.CpuLoad()
load()
print(json.dumps([
    machine.available_cpus(), get_cpu_monitor().cpu_count(), engines.cores(),
    engines.plan(engines.cores()), str(machine.control_groups()[0].usage),
]))
"""


@pytest.fixture
def container() -> Iterator[list[str]]:
    """The command that runs another with a quota of one CPU, seeing its own groups alone."""
    if os.geteuid() or not os.access(MOUNT, os.W_OK):
        pytest.skip("needs root and control groups that may be written: run it in a container")
    name = f"whisper-test-{os.getpid()}"
    controllers = ["cpu", "cpuacct"] if (MOUNT / "cpu").exists() else ["."]
    folders = [MOUNT / each / name for each in controllers]
    try:
        for folder in folders:
            folder.mkdir()
        if controllers == ["."]:
            (folders[0] / "cpu.max").write_text("100000 100000")
        else:
            (folders[0] / "cpu.cfs_period_us").write_text("50000")
            (folders[0] / "cpu.cfs_quota_us").write_text("50000")
    except OSError as exc:
        pytest.skip(f"no control group can be made here ({exc})")
    join = "; ".join(f"echo $$ > {folder}/cgroup.procs" for folder in folders)
    mount = "; ".join(f"mount --bind {folder} {folder.parent}" for folder in folders)
    yield ["unshare", "--mount", "sh", "-ec", f'{join}; {mount}; exec "$@"', "sh"]
    for folder in folders:
        folder.rmdir()


def test_in_a_real_container_with_one_cpu(container: list[str]) -> None:
    done = subprocess.run(
        [*container, sys.executable, "-c", CHILD], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    cpus, livekits, threads, plan, usage = json.loads(done.stdout)
    assert cpus == livekits == 1.0
    assert threads == 1
    assert plan == [1, 1]
    assert Path(usage).parent in (MOUNT, MOUNT / "cpuacct")
