"""The figures as Markdown and JSON, with the machine that they were measured on."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import psutil

from benchmarks.results import Figure

PACKAGES = (
    "livekit-plugins-whisper", "livekit-agents", "faster-whisper", "ctranslate2",
    "openai-whisper", "torch", "numpy",
)  # fmt: skip

OTHERS_SECONDS = 2.0
"""For which the machine is watched while nothing is measured."""

INTRODUCTION = """\
`make bench` measures the plugin and its peers in one run and writes this page,
[benchmarks.json](benchmarks.json) and the plots. Cells are the median with the lowest and highest
value in brackets, and where there are twenty values or more, the 95th percentile; a single number
was measured once. Nothing here passes or fails: the figures are this machine's, the comparison is
what counts."""


@dataclass(frozen=True)
class Report:
    """All of a run."""

    figures: Sequence[Figure]
    """In the order of the page."""
    conditions: dict[str, str]
    """Of what the figures hold."""


def conditions() -> dict[str, str]:
    """The machine and the software."""
    found = {
        "CPU": f"{_cpu()}, {psutil.cpu_count(logical=True)} cores ({platform.machine()})",
        "Memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "System": platform.system(),
        "Python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "absent"
    found["Date"] = date.today().isoformat()
    return found


def others() -> float:
    """How busy the machine is while this program does nothing, in percent of all cores."""
    return psutil.cpu_percent(OTHERS_SECONDS)


def markdown(report: Report, plot: str | None = None) -> str:
    """The page."""
    parts = ["# Benchmarks", INTRODUCTION]
    if plot:
        parts.append(f"![Time until ready, memory, decode time and event loop lag]({plot})")
    machine = "\n".join(f"| {name} | {value} |" for name, value in report.conditions.items())
    parts.append(f"| measured on | |\n| --- | --- |\n{machine}")
    for figure in report.figures:
        parts += [f"## {figure.title}", figure.about]
        if figure.targets:
            parts.append("\n".join(f"- {target}" for target in figure.targets))
        if figure.plot:
            parts.append(f"![{figure.title}]({figure.plot})")
        parts.append(table(figure))
    return "\n\n".join(parts) + "\n"


def table(figure: Figure) -> str:
    """A figure's rows."""
    lines = [
        " | ".join(["| engine", f"what ({figure.unit})", *figure.columns]) + " |",
        "| --- | --- |" + " ---: |" * len(figure.columns),
    ]
    for row in figure.rows:
        cells = [str(row.cells[name]) if name in row.cells else "–" for name in figure.columns]
        lines.append(" | ".join([f"| {row.engine}", row.what, *cells]) + " |")
    return "\n".join(lines)


def write(report: Report, folder: Path, plot: str | None) -> None:
    """`benchmarks.json` and `benchmarks.md`."""
    folder.mkdir(parents=True, exist_ok=True)
    data = json.dumps(_rounded(asdict(report)), indent=1, ensure_ascii=False)
    # One line for what is a list or an object of numbers only.
    data = re.sub(r"([\[{])\s+([^\[\]{}]*?)\s+([\]}])", _joined, data)
    (folder / "benchmarks.json").write_text(data + "\n")
    (folder / "benchmarks.md").write_text(markdown(report, plot))


def _joined(match: re.Match[str]) -> str:
    inside = re.sub(r"\s*\n\s*", " ", match[2])
    return match[1] + inside + match[3]


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(each) for each in value]
    return value


def _cpu() -> str:
    """The model's name, without the clock that some add."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or "unknown CPU"
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else "unknown CPU"
