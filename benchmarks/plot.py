"""The README's plot: four questions, this plugin beside its peers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks import creation, decoding, lag
from benchmarks.results import OURS, PLAIN, Figure, Summary, brief

BLUE, GREY, LIGHT, RED = "#2563ab", "#9a9a9a", "#8fb8de", "#c0392b"

Bar = tuple[str, Summary, str]
"""A label, a value and a colour."""


def draw(figures: Sequence[Figure], path: Path) -> None:
    """Writes the plot of a run in which everything was measured."""
    # "decoding" has several figures; the plot shows the first: the times.
    by_name = {figure.name: figure for figure in reversed(figures)}
    with plt.rc_context():
        plt.rc("font", size=11)
        plt.rc("axes", titlesize=12, titleweight="bold", titlelocation="left")
        plt.rc("axes.spines", top=False, right=False)
        plt.rc("figure", facecolor="white")
        drawing, axes = plt.subplots(2, 2, figsize=(10, 6.8), layout="constrained")
        _creation(axes[0, 0], by_name["creation"])
        _memory(axes[0, 1], by_name["memory"])
        _decoding(axes[1, 0], by_name["decoding"])
        _lag(axes[1, 1], by_name["lag"])
        drawing.savefig(path, dpi=130)
        plt.close(drawing)


def _engines(figure: Figure) -> list[str]:
    return list(dict.fromkeys(row.engine for row in figure.rows))


def _creation(axes: Axes, figure: Figure) -> None:
    bars = list[Bar]()
    for engine in _engines(figure):
        first = figure.find(engine, creation.READY).cells
        again = figure.find(engine, creation.AGAIN).cells
        bars += [
            (f"{engine}\nfirst, plain", first[PLAIN], GREY),
            ("first, this plugin", first[OURS], LIGHT),
            ("again, plain", again[PLAIN], GREY),
            ("again, this plugin", again[OURS], BLUE),
        ]
    _bars(axes, bars)
    axes.set_title("Until a session's STT is ready (ms)")


def _memory(axes: Axes, figure: Figure) -> None:
    for (engine, line), (who, colour) in (
        (e, c)
        for e in zip(_engines(figure), ("-", "--"), strict=False)
        for c in ((PLAIN, GREY), (OURS, BLUE))
    ):
        values = figure.series[f"{engine}, {who}, at once"]
        axes.plot(values, color=colour, linestyle=line, marker="o", markersize=4, linewidth=2)
        offset = (6, 0)
        axes.annotate(
            f"{engine},\n{who}", (len(values) - 1, values[-1]), offset, textcoords="offset points",
            va="center", color=colour if who == OURS else "#555555", fontsize=9.5,
        )  # fmt: skip
    axes.margins(x=0.02)
    left, right = axes.get_xlim()
    axes.set_xlim(left, right * 1.38)
    axes.set_xticks(range(0, len(values), 2))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("open sessions in one process")
    axes.set_title("Memory (MB)")


def _decoding(axes: Axes, figure: Figure) -> None:
    bars = list[Bar]()
    for engine in _engines(figure):
        rows = {row.what.split(" (")[0]: row for row in figure.rows if row.engine == engine}
        one, batch = rows[decoding.ONE_BY_ONE].cells, rows[decoding.BATCH].cells
        bars += [
            (f"{engine}\nplain", one[PLAIN], GREY),
            ("this plugin", one[OURS], LIGHT),
            ("this plugin, one batch", batch[OURS], BLUE),
        ]
    _bars(axes, bars, log=False)
    axes.set_title("Decoding five utterances (ms)")


def _lag(axes: Axes, figure: Figure) -> None:
    bars = list[Bar]()
    for engine in _engines(figure):
        cells = figure.find(engine, lag.LONGEST).cells
        bars += [
            (f"{engine}\ndecoding on the loop", cells[lag.NAIVE], GREY),
            ("decoding, this plugin", cells[lag.DECODING], BLUE),
            ("idle", cells[lag.IDLE], LIGHT),
        ]
    _bars(axes, bars)
    if figure.target:
        axes.axvline(figure.target.limit, color=RED, linestyle=":", linewidth=1.5)
        axes.text(figure.target.limit * 1.1, len(bars) - 0.55, "target", color=RED, fontsize=9.5)
    axes.set_title("Longest event loop lag (ms)")


def _bars(axes: Axes, bars: Sequence[Bar], log: bool = True) -> None:
    """Horizontal bars from the top down: medians, with a line from the lowest to the highest."""
    for place, (_, value, colour) in enumerate(bars):
        spread = [[value.p50 - value.low], [value.high - value.p50]]
        error = {"ecolor": "#444444", "elinewidth": 1}
        axes.barh(place, value.p50, color=colour, xerr=spread, error_kw=error)
        axes.annotate(
            brief(value.p50), (value.high, place), (5, 0), textcoords="offset points",
            va="center", fontsize=9.5,
        )  # fmt: skip
    axes.set_yticks(range(len(bars)), [label for label, _, _ in bars], fontsize=9.5)
    axes.invert_yaxis()
    if log:
        axes.set_xscale("log")
    axes.margins(x=0.15)
