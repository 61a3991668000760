"""The README's plots: each a question or several, this plugin beside its peers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator

from benchmarks import creation, decoding, delay, lag, streams
from benchmarks.results import NOTHING, OURS, PLAIN, Figure, Summary, brief
from scripts.look import BEHIND, BLUE, GREY, LIGHT, RED, SMALL, style

MANY_STREAMS = 16
"""From so many on, there is no room for a tick at each."""

Bar = tuple[str, Summary, str]
"""A label, a value and a colour."""


def draw(figures: Sequence[Figure], path: Path) -> None:
    """Writes the plot of a run in which everything was measured."""
    # "decoding" has several figures; the plot shows the first: the times.
    by_name = {figure.name: figure for figure in reversed(figures)}
    with style():
        drawing, axes = plt.subplots(2, 2, figsize=(9.5, 7.2), layout="constrained")
        _creation(axes[0, 0], by_name["creation"])
        _memory(axes[0, 1], by_name["memory"])
        _decoding(axes[1, 0], by_name["decoding"])
        _lag(axes[1, 1], by_name["lag"])
        drawing.savefig(path, dpi=130)
        plt.close(drawing)


def draw_one(figure: Figure, path: Path) -> None:
    """Writes the plot of a figure that has one of its own."""
    with style():
        drawing, axes = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
        {streams.PLOT: _streams, delay.PLOT: _delay}[figure.plot](axes, figure)
        drawing.savefig(path, dpi=130)
        plt.close(drawing)


def _streams(axes: Axes, figure: Figure) -> None:
    counts, highest = set[float](), streams.LIMIT
    for who, colour in ((PLAIN, GREY), (OURS, BLUE)):
        x, y = (figure.series[f"{who}: {name}"] for name in ("streams", "p95"))
        axes.plot(x, y, color=colour, marker="o", markersize=5, linewidth=2)
        shown = [point for point in zip(x, y, strict=True) if point[1] <= streams.ENOUGH]
        axes.annotate(
            who, (shown or [(x[0], streams.ENOUGH)])[-1], (8, 8), textcoords="offset points",
            color=colour, fontsize=SMALL, fontweight="bold", bbox=BEHIND,
        )  # fmt: skip
        counts |= set(x)
        highest = max(highest, *y)
    axes.axhline(streams.LIMIT, color=RED, linestyle=":", linewidth=1.5, zorder=0)
    label = f"target: {streams.LIMIT:g} s"
    right = axes.get_yaxis_transform()
    axes.text(1.01, streams.LIMIT, label, color=RED, fontsize=SMALL, va="center", transform=right)
    axes.set_xlim(0, 1.15 * max(counts))
    axes.set_ylim(0, 1.05 * min(highest, streams.ENOUGH))
    axes.set_xticks(sorted(count for count in counts if count > 1 or max(counts) < MANY_STREAMS))
    axes.tick_params(labelsize=SMALL)
    axes.grid(axis="y", color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel("conversations at the same time, each in a process of its own", fontsize=SMALL)
    axes.set_title("From the end of speech to its words (s, 95th percentile)")


def _delay(axes: Axes, figure: Figure) -> None:
    bars = {PLAIN: (PLAIN, GREY), OURS: (OURS, BLUE), NOTHING: ("answers at once", LIGHT)}
    groups = {
        row.what: [
            (bar[0], row.cells[who], bar[1]) for who, bar in bars.items() if who in row.cells
        ]
        for row in figure.rows
    }
    _bars(axes, groups)
    axes.set_title("Delay of one conversation (s)")


def _engines(figure: Figure) -> list[str]:
    return list(dict.fromkeys(row.engine for row in figure.rows))


def _creation(axes: Axes, figure: Figure) -> None:
    groups = dict[str, list[Bar]]()
    for engine in _engines(figure):
        first = figure.find(engine, creation.READY).cells
        again = figure.find(engine, creation.AGAIN).cells
        groups[engine] = [
            ("first, plain", first[PLAIN], GREY),
            ("first, this plugin", first[OURS], BLUE),
            ("again, plain", again[PLAIN], GREY),
            ("again, this plugin", again[OURS], BLUE),
        ]
    _bars(axes, groups, log=True)
    axes.set_title("Until a session's STT is ready (ms)")


def _memory(axes: Axes, figure: Figure) -> None:
    lines = [
        (f"{engine}, {who}", dashes, colour)
        for who, colour in ((PLAIN, GREY), (OURS, BLUE))
        for engine, dashes in zip(reversed(_engines(figure)), ("--", "-"), strict=False)
    ]
    for label, dashes, colour in lines:
        values = figure.series[f"{label}, at once"]
        axes.plot(values, dashes, color=colour, label=label, marker="o", markersize=4, linewidth=2)
    axes.set_ylim(0, 1.4 * axes.get_ylim()[1])  # room for the legend
    axes.set_xlabel("open sessions in one process", fontsize=SMALL)
    axes.tick_params(labelsize=SMALL)
    axes.legend(fontsize=SMALL - 0.5, frameon=False, loc="upper left", handlelength=2.8)
    axes.set_title("Memory (MB)")


def _decoding(axes: Axes, figure: Figure) -> None:
    groups = dict[str, list[Bar]]()
    for engine in _engines(figure):
        rows = {row.what.split(" (")[0]: row for row in figure.rows if row.engine == engine}
        one, batch = rows[decoding.ONE_BY_ONE].cells, rows[decoding.AT_ONCE].cells
        groups[engine] = [
            ("plain", one[PLAIN], GREY),
            ("this plugin", one[OURS], BLUE),
            ("this plugin, at the same time", batch[OURS], BLUE),
        ]
    _bars(axes, groups)
    axes.set_title("Decoding five utterances (ms)")


def _lag(axes: Axes, figure: Figure) -> None:
    groups = dict[str, list[Bar]]()
    for engine in _engines(figure):
        cells = figure.find(engine, lag.LONGEST).cells
        groups[engine] = [
            ("decoding on the loop", cells[lag.NAIVE], GREY),
            ("decoding, this plugin", cells[lag.DECODING], BLUE),
            ("idle", cells[lag.IDLE], LIGHT),
        ]
    _bars(axes, groups, log=True)
    for target in figure.targets:
        limit = target.limit
        axes.axvline(limit, color=RED, linestyle=":", linewidth=1.5, zorder=0)
        axes.text(limit * 1.15, 0, f"target: {limit:g}", color=RED, fontsize=SMALL, va="center")
    axes.set_title("Longest event loop lag (ms)")


def _bars(axes: Axes, groups: dict[str, list[Bar]], *, log: bool = False) -> None:
    """Horizontal bars from the top down: medians, with a line from the lowest to the highest."""
    labels, headings = list[str](), list[int]()
    for heading, bars in groups.items():
        headings.append(len(labels))
        labels.append(heading)
        for label, value, colour in bars:
            _bar(axes, len(labels), value, colour)
            labels.append(label)
    axes.set_yticks(range(len(labels)), labels, fontsize=SMALL)
    for place in headings:
        axes.get_yticklabels()[place].set_fontweight("bold")
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=SMALL)
    axes.set_ylim(len(labels) - 0.4, -0.5)
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.margins(x=0.18)


def _bar(axes: Axes, place: int, value: Summary, colour: str) -> None:
    spread = [[value.p50 - value.low], [value.high - value.p50]]
    error = {"ecolor": "#444444", "elinewidth": 1}
    axes.barh(place, value.p50, color=colour, xerr=spread, error_kw=error)
    axes.annotate(
        brief(value.p50),
        (value.high, place),
        (5, 0),
        textcoords="offset points",
        va="center",
        fontsize=SMALL,
        bbox=BEHIND,
    )
