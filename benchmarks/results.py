"""What a benchmark yields: figures, of rows, of summaries."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

OURS = "this plugin"
PLAIN = "plain"
"""The peer's column: what people write today."""
HOST = "its host alone"
"""The column of what this plugin's host has part in."""
NOTHING = "no STT"
"""The column of what is left without one."""

MANY = 20
"""From so many values on, a 95th percentile says something."""


@dataclass(frozen=True)
class Summary:
    """Several measurements of one thing."""

    count: int
    """How many there are."""
    p50: float
    """The median."""
    p95: float
    """The 95th percentile; of few values, the highest."""
    low: float
    """The lowest."""
    high: float
    """The highest."""

    @classmethod
    def of(cls, values: Sequence[float]) -> Summary:
        """Sums up at least one value."""
        return cls(
            len(values),
            statistics.median(values),
            percentile(values, 0.95),
            min(values),
            max(values),
        )

    @classmethod
    def once(cls, value: float) -> Summary:
        """Of a single value."""
        return cls.of([value])

    def times(self, factor: float) -> Summary:
        """The same in another unit."""
        scaled = (self.p50, self.p95, self.low, self.high)
        return Summary(self.count, *(factor * value for value in scaled))

    def __str__(self) -> str:
        """`p50 (min–max)`, with the 95th percentile where there are many values."""
        if self.count == 1:
            return brief(self.p50)
        p95 = f", p95 {brief(self.p95)}" if self.count >= MANY else ""
        return f"{brief(self.p50)} ({brief(self.low)}–{brief(self.high)}{p95})"


@dataclass(frozen=True)
class Row:
    """One thing measured, of one engine."""

    engine: str
    """`faster-whisper` or `openai-whisper`."""
    what: str
    """What was measured."""
    cells: dict[str, Summary]
    """Column → value: this plugin and its peers."""


@dataclass(frozen=True)
class Target:
    """What a figure should stay under, or reach."""

    what: str
    """What is compared."""
    limit: float
    """What it should stay under, or reach."""
    unit: str
    """Of both numbers."""
    measured: dict[str, float]
    """Engine → what was measured."""
    at_least: bool = False
    """Whether it is to be reached."""

    def __str__(self) -> str:
        values = "; ".join(
            f"{engine} {brief(value)} {self.unit}, {'met' if self.met(value) else '**missed**'}"
            for engine, value in self.measured.items()
        )
        aim = "at least" if self.at_least else "under"
        return f"Target: {self.what} {aim} {self.limit:g} {self.unit}: {values}."

    def met(self, value: float) -> bool:
        """Whether a value is where it should be."""
        return value >= self.limit if self.at_least else value < self.limit


@dataclass(frozen=True)
class Figure:
    """One question, and the table that answers it."""

    name: str
    """As `--only` takes it."""
    title: str
    """The heading."""
    unit: str
    """Of all its values."""
    about: str
    """How it was measured, and what the peer is."""
    rows: list[Row]
    """The answer."""
    targets: list[Target] = field(default_factory=list)
    """What was aimed at."""
    series: dict[str, list[float]] = field(default_factory=dict)
    """Curves for the plot."""
    plot: str = ""
    """File name of a plot of its own."""

    @property
    def columns(self) -> list[str]:
        """The columns of its rows, in order of appearance."""
        return list(dict.fromkeys(column for row in self.rows for column in row.cells))

    def find(self, engine: str, what: str) -> Row:
        """One row."""
        return next(row for row in self.rows if (row.engine, row.what) == (engine, what))


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` (0 to 1) of all values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def brief(value: float) -> str:
    """A number of three significant digits; small ones as 0, whole ones as they are."""
    if abs(value) < 0.0005:
        return "0"
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    digits = 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:.{digits}f}"
