"""`make bench`: each figure beside its peer, as a table, as JSON and Markdown, and as plots."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.effort import Effort
    from benchmarks.results import Figure
    from benchmarks.subjects import Subject

    Measure = Callable[[Effort, Sequence[Subject]], list[Figure]]

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
NAMES = (
    "readiness", "delay", "turns", "streams", "words", "throughput", "accuracy", "overhead",
    "sharing", "creation", "memory", "decoding", "lag",
)  # fmt: skip
PLOT = "benchmark.png"

# This file is run by its path, here and in each process that measures; modules are found from the
# root, and not from this folder, whose names could stand before others'.
sys.path[:] = [str(ROOT), *(path for path in sys.path if path not in (str(ROOT), str(HERE)))]
# Imports are timed: modules are compiled once, as is Python's default, whatever the caller set.
sys.dont_write_bytecode = False


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="bench", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few repeats, for a first look")
    parser.add_argument("--only", choices=NAMES, action="append", help="one figure; repeatable")
    parser.add_argument(
        "--out",
        type=Path,
        help="folder to write to (default: docs; build/benchmarks for a run that is not whole)",
    )
    options = parser.parse_args(argv)
    names = [name for name in NAMES if name in (options.only or NAMES)]
    whole = not options.quick and len(names) == len(NAMES)
    out = (options.out or ROOT / ("docs" if whole else "build/benchmarks")).resolve()
    signal.signal(signal.SIGTERM, _stop)
    try:
        _clean_environment()
        _run(names, options.quick, out)
    except KeyboardInterrupt:
        return 130
    return 0


def _stop(number: int, frame: object) -> None:
    """As Ctrl-C does: what was started is ended."""
    raise KeyboardInterrupt


def _clean_environment() -> None:
    """No setting and no `.env` of the machine changes what is measured."""
    for name in [name for name in os.environ if name.startswith("STT_")]:
        del os.environ[name]
    os.chdir(HERE)


def _run(names: Sequence[str], quick: bool, out: Path) -> None:
    """Measures, prints and writes."""
    # Not at the top: each process that measures imports this file.
    from benchmarks import hosts, report, subjects
    from benchmarks.effort import FULL, QUICK
    from benchmarks.process import forked

    conditions, started = report.conditions(), time.monotonic()
    figures: list[Figure] = []
    others: list[float] = []
    with hosts.own():
        found = [forked(subjects.prepare, engine) for engine in subjects.PROVIDERS]
        for name in names:
            others.append(report.others())
            begun = time.monotonic()
            measure: Measure = importlib.import_module(f"benchmarks.{name}").measure
            figures += measure(QUICK if quick else FULL, found)
            _say(f"measured {name} in {time.monotonic() - begun:.0f} s")
    others.append(report.others())
    conditions["Others' use of the cores"] = (
        f"{statistics.median(others):.0f} %, at most {max(others):.0f} % (between the figures)"
    )
    conditions["Duration of the run"] = f"{time.monotonic() - started:.0f} s"
    result = report.Report(figures, conditions)
    plot = PLOT if not quick and len(names) == len(NAMES) else None
    report.write(result, out, plot)
    _draw(figures, out, plot)
    print(report.markdown(result))
    _say(f"written to {out}")


def _draw(figures: Sequence[Figure], out: Path, plot: str | None) -> None:
    from benchmarks import plot as plots

    if plot:
        plots.draw(figures, out / plot)
    for figure in figures:
        if figure.plot:
            plots.draw_one(figure, out / figure.plot)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
