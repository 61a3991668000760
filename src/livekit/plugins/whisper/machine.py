"""How many CPUs this process may use, and how busy they are: of its container, not of the node.

Counted and measured as LiveKit's workers do (its `utils.hw`): a container's CPU quota, of control
groups version 1 and 2, and `NUM_CPUS` before it. Seen besides: limits of the groups between the
process and its container's own, CPU sets, affinity, and that a version 1 group without a quota may
use all CPUs (LiveKit counts two).
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from .log import logger

NUM_CPUS = "NUM_CPUS"
"""LiveKit's environment variable for the number of CPUs, which may be a fraction."""
CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
SAMPLE_SECONDS = 0.5
"""The shortest time that a load is measured over (LiveKit's too)."""


@dataclass(frozen=True)
class ControlGroup:
    """The processes that share a limit on CPU time."""

    cpus: float
    """How many CPUs they may use together: their quota, or else their CPU set."""
    usage: Path
    """The file with the CPU time that they have used."""

    def seconds(self) -> float:
        """CPU time that they have used so far, in seconds.

        Raises:
            OSError, ValueError: the file cannot be read.
        """
        text = self.usage.read_text()
        if self.usage.name == "cpu.stat":  # version 2, in microseconds
            return int(text.partition("usage_usec ")[2].split()[0]) / 1e6
        return int(text) / 1e9  # version 1, in nanoseconds


def control_groups(root: Path = CGROUPS, membership: Path = MEMBERSHIP) -> list[ControlGroup]:
    """The groups that this process is in, the innermost first; none outside Linux.

    Args:
        root: where the file systems of the groups are mounted.
        membership: the system's list of the groups that the process is in.
    """
    if (root / "cpu.stat").exists():
        own = _path(membership, "")
        return [
            ControlGroup(
                min(_quota_v2(folder), _set_size(folder / "cpuset.cpus.effective")),
                folder / "cpu.stat",
            )
            for folder in _lineage(root, own)
        ]
    own, found = _path(membership, "cpu"), []
    for folder in _lineage(root / "cpu", own):
        inner = folder.relative_to(root / "cpu")
        usage = root / "cpuacct" / inner / "cpuacct.usage"
        if usage.exists():
            cpu_set = _set_size(root / "cpuset" / inner / "cpuset.effective_cpus")
            found.append(ControlGroup(min(_quota_v1(folder), cpu_set), usage))
    return found


def available_cpus(root: Path = CGROUPS, membership: Path = MEMBERSHIP) -> float:
    """How many CPUs this process may use; a fraction where a container's quota is one.

    `NUM_CPUS` where it is set; else the fewest that quotas, CPU sets and affinity allow.
    """
    limits = (group.cpus for group in control_groups(root, membership))
    return _from_environment() or min([_affinity(), *limits])


def cores() -> int:
    """How many threads this process may have at work: whole CPUs, and at least one.

    Rounded down: where more threads compute than the quota has CPUs, all of them are halted for
    the rest of each period (0.1 s).
    """
    return max(1, int(available_cpus()))


class CpuLoad:
    """Measures how busy the CPUs of this container are, or of this machine outside of one.

    Args:
        root, membership: see `control_groups`.
    """

    def __init__(self, root: Path = CGROUPS, membership: Path = MEMBERSHIP) -> None:
        self._where = root, membership
        self._lock = threading.Lock()
        self._last: tuple[ControlGroup, float, float] | None = None
        self._load = 0.0

    def __call__(self) -> float:
        """0.0 (idle) to 1.0, since it was asked last; 0.0 the first time."""
        with self._lock:
            try:
                self._load = self._measure()
            except (OSError, ValueError, IndexError) as exc:
                logger.debug("CPU time cannot be read: %s", exc)
                self._load = psutil.cpu_percent() / 100
            return self._load

    def _measure(self) -> float:
        groups = control_groups(*self._where)
        if not groups:
            return psutil.cpu_percent() / 100
        # The tightest limit is met first; without one, all that the container does counts.
        group = min(reversed(groups), key=lambda each: each.cpus)
        now = time.monotonic()
        if self._last is None or self._last[0] != group:
            self._last = group, group.seconds(), now
            return self._load
        elapsed = now - self._last[2]
        if elapsed < SAMPLE_SECONDS:
            return self._load
        seconds = group.seconds()
        used, self._last = seconds - self._last[1], (group, seconds, now)
        if not 0 <= used <= elapsed * _all_cpus():  # some hypervisors tear the sum (LiveKit)
            return self._load
        return min(1.0, used / elapsed / (_from_environment() or group.cpus))


def _all_cpus() -> int:
    return os.cpu_count() or 1


def _affinity() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return _all_cpus()


_warned: set[str] = set()


def _from_environment() -> float | None:
    text = os.environ.get(NUM_CPUS, "").strip()
    if not text:
        return None
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if 0 < found < math.inf:
        return found
    if text not in _warned:
        _warned.add(text)
        logger.warning("%s=%r: is not a number of CPUs, and is not used", NUM_CPUS, text)
    return None


def _path(membership: Path, controller: str) -> str:
    """The path of this process's group in one hierarchy; version 2's has no controller."""
    try:
        lines = [line.split(":", 2) for line in membership.read_text().splitlines()]
    except OSError:
        return "/"
    return next((path for _, names, path in lines if controller in names.split(",")), "/")


def _lineage(mount: Path, own: str) -> Iterator[Path]:
    """The folders of a group and of those around it, as far as they are visible.

    In a container the file system may begin at its own group, while the path of the process still
    begins at the node's: its end is what is visible.
    """
    if not mount.exists():
        return
    parts = [part for part in own.split("/") if part]
    while parts and not (".." not in parts and mount.joinpath(*parts).is_dir()):
        del parts[0]
    folder = mount.joinpath(*parts)
    yield folder
    while folder != mount:
        folder = folder.parent
        yield folder


def _quota_v2(folder: Path) -> float:
    try:
        quota, _, period = (folder / "cpu.max").read_text().strip().partition(" ")
        return math.inf if quota == "max" else int(quota) / int(period or 100_000)
    except (OSError, ValueError, ZeroDivisionError):  # the outermost group has none
        return math.inf


def _quota_v1(folder: Path) -> float:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return math.inf
    return quota / period if quota > 0 and period > 0 else math.inf


def _set_size(file: Path) -> int:
    """How many CPUs a set holds, written as `0-3,8`; all of them where there is no set."""
    try:
        ranges = [part.partition("-") for part in file.read_text().strip().split(",")]
        found = sum(int(last or first) - int(first) + 1 for first, _, last in ranges)
    except (OSError, ValueError):
        return _all_cpus()
    return min(found, _all_cpus()) if found > 0 else _all_cpus()
