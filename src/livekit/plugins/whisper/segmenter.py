"""A pure state machine: samples and VAD decisions in, stretches of speech out.

It has no loop, no clock and no logger. Times are samples since the stream began, 16 kHz.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .audio import quietest_cut
from .types import SAMPLE_RATE, WINDOW_SECONDS, Audio, Utterance

KEPT_SECONDS = 2.0
"""How much of what the VAD has heard is kept while nobody speaks, for prefix padding."""


class Segmenter:
    """Keeps the samples of a stream and cuts utterances out of them.

    Feed it with `push`, and tell it what the VAD says: `advance`, `begin` and `end`. The VAD may
    lag behind by any amount: what it has not heard is kept. Ask with `flush` for what is left.
    """

    def __init__(self, stream: str = "") -> None:
        self._stream = stream
        self._parts: list[NDArray[np.int16]] = []
        self._first = 0  # where self._parts begins
        self._pushed = 0
        self._begun: int | None = None

    @property
    def pushed(self) -> int:
        """Samples that came in so far."""
        return self._pushed

    @property
    def speaking(self) -> bool:
        """Whether an utterance is open."""
        return self._begun is not None

    def push(self, samples: NDArray[np.int16]) -> None:
        """Takes in mono samples."""
        self._parts.append(samples)
        self._pushed += len(samples)

    def advance(self, at: int) -> Utterance | None:
        """The VAD has heard all before `at`; returns an utterance that is too long to wait."""
        at = min(at, self._pushed)
        if self._begun is None:
            self._forget(at - int(KEPT_SECONDS * SAMPLE_RATE))
            return None
        window = int(WINDOW_SECONDS * SAMPLE_RATE)
        if at - self._begun < window:
            return None
        # Speech without a pause is cut where it is quietest: nothing waits for ever in memory.
        end = self._begun + quietest_cut(self._speech(self._begun + window).samples)
        utterance = self._cut(end)
        self._begun = end
        return utterance

    def begin(self, at: int) -> None:
        """Speech began; `at` includes the prefix padding. Ignored while an utterance is open."""
        if self._begun is None:
            self._begun = min(max(at, self._first), self._pushed)

    def end(self, at: int) -> Utterance | None:
        """Speech ended; what came before `at` is the utterance."""
        if self._begun is None:
            return None
        utterance = self._cut(min(at, self._pushed))
        self._begun = None
        return utterance

    def flush(self) -> Utterance | None:
        """Ends an open utterance where the stream is now."""
        return self.end(self._pushed)

    def _cut(self, end: int) -> Utterance | None:
        assert self._begun is not None
        if end <= self._begun:
            return None
        utterance = Utterance(self._speech(end), self._begun / SAMPLE_RATE, self._stream)
        self._forget(end)
        return utterance

    def _speech(self, end: int) -> Audio:
        assert self._begun is not None
        self._parts = [np.concatenate(self._parts)]
        samples = self._parts[0][self._begun - self._first : end - self._first]
        return Audio(samples.astype(np.float32) / 32768.0)

    def _forget(self, before: int) -> None:
        while self._parts and self._first + len(self._parts[0]) <= before:
            self._first += len(self._parts.pop(0))
        if self._parts and self._first < before:
            self._parts[0] = self._parts[0][before - self._first :]
            self._first = before
