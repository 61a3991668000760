"""Real speech of 1 to 11 s, every word of which is known: the recordings, cut and put together."""

from __future__ import annotations

import numpy as np
from livekit.plugins.whisper.types import SAMPLE_RATE, Audio

from benchmarks import subjects
from benchmarks.subjects import Speech

PIECES = {
    "a": ("0870", 0.0, 1.5, "And Mr. John Dashwood"),
    "b": ("0870", 0.0, 3.36, "And Mr. John Dashwood had then leisure to consider"),
    "c": (
        "0870",
        3.36,
        7.1,
        "how much there might be prudently in his power to do for them.",
    ),
    "d": ("0890", 0.0, 1.315, "unless to be rather"),
    "e": ("0890", 1.315, 3.885, "cold-hearted and rather selfish is"),
    "f": ("0890", 1.315, 5.3, "cold-hearted and rather selfish is to be ill-disposed."),
    "g": ("0920", 0.0, 2.5, "Had he married a more amiable woman,"),
    "h": ("0920", 2.5, 6.05, "he might have been made still more respectable than he was;"),
}
"""Name → recording, start and end (s, between words, where it is most quiet), and what is said."""

MIXED = (
    "d", "a", "g", "e", "0880", "0930", "b", "h", "c", "f", "0880 d", "0890", "g 0930", "0920",
    "h 0930", "0870", "0880 0890", "0920 0930", "0870 0880", "h 0870",
)  # fmt: skip
"""Utterances, by length: of pieces and whole recordings."""


def mixed() -> list[Speech]:
    """Twenty utterances, 1.3 to 10.7 s, 5.1 s on average."""
    whole = {each.name: each for each in subjects.recordings()}
    parts = whole | {
        name: _piece(whole[which], start, end, said)
        for name, (which, start, end, said) in PIECES.items()
    }
    return [_join([parts[name] for name in names.split()]) for names in MIXED]


def silence(seconds: float) -> Audio:
    """Digital silence, of which an engine decodes nothing."""
    return Audio(np.zeros(round(seconds * SAMPLE_RATE), np.float32))


def _piece(recording: Speech, start: float, end: float, reference: str) -> Speech:
    first, last = round(start * SAMPLE_RATE), round(end * SAMPLE_RATE)
    return Speech("", Audio(recording.audio.samples[first:last]), reference)


def _join(parts: list[Speech]) -> Speech:
    audio = Audio(np.concatenate([part.audio.samples for part in parts]))
    return Speech(f"{audio.duration:.1f} s", audio, " ".join(part.reference for part in parts))
