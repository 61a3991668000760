"""Draws a timeline: what was spoken, and below it, on the same axis, what came of it and when."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MultipleLocator

from scripts.look import BEHIND, SMALL, style
from scripts.speaker import Recording
from scripts.track import Mark, Track

DARK, MIDDLE, PALE, GRID = "#333333", "#6e6e6e", "#d4d4d4", "#e5e5e5"
SIZE, DPI = (9.25, 5.4), 130
"""Inches, and points of each: 1200 wide."""
COLUMNS = 1200
"""Of the waveform."""
TITLE, FLAG, WORDS, VAD = 4.0, 3.0, 2.1, 1.0
"""Where a lane has its title, the names of early words, its words, and the VAD's decision."""


@dataclass(frozen=True)
class Lane:
    """One way to hear."""

    title: str
    track: Track
    colour: str
    """Of its words."""
    pale: str
    """Of its VAD."""


def draw(recording: Recording, said: str, lanes: Sequence[Lane], note: str, path: Path) -> None:
    """Writes the picture.

    Args:
        recording: what was played.
        said: its words.
        lanes: from the top down.
        note: how it was measured.
        path: of a PNG; its folder exists.

    Raises:
        OSError: it cannot be written.
    """
    speech = lanes[0].track.speech
    last = max(lane.track.final.at for lane in lanes)
    with style():
        drawing, rows = plt.subplots(
            1 + len(lanes), 1, figsize=SIZE, sharex=True,
            layout=ConstrainedLayoutEngine(hspace=0, h_pad=0, rect=(0.005, 0.012, 0.99, 0.976)),
            height_ratios=[3.4, *(5.0 if lane.track.interims else 4.0 for lane in lanes)],
        )  # fmt: skip
        _wave(rows[0], recording, speech)
        rows[0].set_title("When the words come (ms after the last spoken sample)", pad=10)
        for axes, lane in zip(rows[1:], lanes, strict=True):
            _lane(axes, lane)
        for axes in rows:
            _frame(axes, speech[1], bottom=axes is rows[-1])
        rows[-1].set_xlim(min(0.0, speech[0]) - 0.02, last + 0.26 * (last - speech[0]))
        rows[-1].set_xlabel(note, loc="left", fontsize=SMALL, color=MIDDLE)
        _text(rows[0], speech[0], 1.75, f"“{_short(said)}”")
        drawing.savefig(path, dpi=DPI)
        plt.close(drawing)


def _frame(axes: Axes, end: float, *, bottom: bool) -> None:
    """What all rows have: seconds, and the last spoken sample."""
    axes.axvline(end, color=DARK, linewidth=1, zorder=1)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_visible(bottom)
    axes.tick_params(axis="x", length=3 if bottom else 0, labelsize=SMALL)
    axes.xaxis.set_major_locator(MultipleLocator(1))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} s"))
    axes.set_yticks([])


def _wave(axes: Axes, recording: Recording, speech: tuple[float, float]) -> None:
    """The waveform, that part of it darker which is spoken."""
    size = max(1, len(recording.samples) // COLUMNS)
    columns = recording.samples[: len(recording.samples) // size * size].reshape(-1, size)
    peak = max(1.0, float(np.abs(columns.astype(np.float64)).max()))
    times = (np.arange(len(columns)) + 0.5) * size / recording.rate
    spoken = (times > speech[0]) & (times < speech[1])
    for colour, where in ((PALE, ~spoken), (DARK, spoken)):
        axes.fill_between(
            times, columns.min(1) / peak, columns.max(1) / peak, where=where.tolist(),
            color=colour, linewidth=0.4,
        )  # fmt: skip
    axes.set_ylim(-1.15, 2.1)
    axes.vlines(speech[0], -1.05, 1.05, color=DARK, linewidth=1)
    _text(axes, speech[0], 1.2, "first spoken sample", SMALL - 1, MIDDLE)
    _text(axes, speech[1], 1.2, "last spoken sample", SMALL - 1, MIDDLE, 6)


def _lane(axes: Axes, lane: Lane) -> None:
    track = lane.track
    axes.set_ylim(0.3, 4.6 if track.interims else 3.6)
    _text(axes, track.speech[0], axes.get_ylim()[1] - 0.6, lane.title, 11.5, lane.colour, bold=True)
    _decisions(axes, lane)
    if track.interims:
        first = track.interims[0]
        more = f" “{_short(first.text, 24)}”"
        _flag(axes, lane, first, "first interim", more)
        for mark in track.interims[1:]:
            axes.plot(mark.at, WORDS, "o", color=lane.colour, markersize=4.5)
    if track.preflight:
        _flag(axes, lane, track.preflight, "preflight")
    begun, ended = min(track.speaking[-1][1], track.marks[0].at), track.final.at
    axes.plot([begun, ended], [WORDS, WORDS], color=lane.colour, linewidth=1.6, zorder=2)
    axes.plot(ended, WORDS, "o", color=lane.colour, markersize=10, zorder=4)
    label = f"final {_delay(track, ended)}"
    _text(axes, ended, WORDS, label, 11.5, lane.colour, 10, bold=True)


def _decisions(axes: Axes, lane: Lane) -> None:
    """Where the VAD hears somebody speak; hatched, where nobody does any more."""
    track, end = lane.track, lane.track.speech[1]
    for since, until in track.speaking:
        turn = min(max(since, end), until)
        for first, last, hatch in ((since, turn, None), (turn, until, "////")):
            axes.broken_barh(
                [(first, last - first)], (VAD - 0.32, 0.64), hatch=hatch, linewidth=0.8,
                facecolor="white" if hatch else lane.pale, edgecolor=lane.pale, zorder=2,
            )  # fmt: skip
    (since, _), (_, until) = track.speaking[0], track.speaking[-1]
    _text(axes, since, VAD, "VAD: speech", SMALL - 1, DARK, 6, ground=False)
    _text(
        axes,
        until,
        VAD,
        f"VAD: silence {_delay(track, until)}",
        SMALL - 1,
        MIDDLE,
        8,
    )


def _flag(axes: Axes, lane: Lane, mark: Mark, name: str, more: str = "") -> None:
    """A mark with its name above it."""
    axes.vlines(mark.at, WORDS, FLAG + 0.3, color=lane.colour, linewidth=1)
    axes.plot(
        mark.at, WORDS, "o", color=lane.colour, markersize=8, markerfacecolor="white",
        markeredgewidth=1.8, zorder=4,
    )  # fmt: skip
    label = f"{name} {_delay(lane.track, mark.at)}{more}"
    _text(axes, mark.at, FLAG, label, SMALL, lane.colour, 5)


def _text(
    axes: Axes,
    at: float,
    height: float,
    text: str,
    size: float = SMALL + 1,
    colour: str = DARK,
    right: float = 0,
    *,
    bold: bool = False,
    ground: bool = True,
) -> None:
    """A label that begins so many points to the right of a time."""
    axes.annotate(
        text, (at, height), (right, 0), textcoords="offset points", va="center", fontsize=size,
        color=colour, fontweight="bold" if bold else "normal", zorder=5,
        bbox=BEHIND if ground else None,
    )  # fmt: skip


def _delay(track: Track, at: float) -> str:
    """With its sign, in ms."""
    return f"{1e3 * track.delay(at):+,.0f} ms".replace("-", "\N{MINUS SIGN}")


def _short(text: str, limit: int = 90) -> str:
    """So many characters, with a capital at the beginning."""
    return textwrap.shorten(text[:1].upper() + text[1:].rstrip(",;"), limit, placeholder=" …")
