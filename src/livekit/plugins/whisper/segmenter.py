"""A pure state machine: samples and VAD decisions in, stretches of speech out.

It has no loop, no clock and no logger. Times are samples since the stream began, 16 kHz.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .audio import loudness, quietest_cut
from .types import SAMPLE_RATE, WINDOW_SECONDS, Audio, Urgency, Utterance

PAUSE_DRIFT = 0.05
"""Seconds by which the beginning of one and the same silence may seem to move."""
QUIET = 0.1
"""A tenth of a second that is, against the loudest one, this quiet has no speech in it."""
KEPT_SECONDS = 2.0
"""How much of what the VAD has heard is kept while nobody speaks, for prefix padding."""


class Segmenter:
    """Keeps the samples of a stream and cuts utterances out of them.

    Feed it with `push`, and tell it what the VAD says: `advance`, `pause`, `begin` and `end`. The
    VAD may lag behind by any amount: what it has not heard is kept. Ask with `flush` for what is
    left.

    Args:
        stream: the name that its utterances carry.
        patience: seconds of silence after which the speech so far is worth decoding, although it
            may go on; 0: never.
    """

    def __init__(self, stream: str = "", patience: float = 0.0) -> None:
        self._stream, self._patience = stream, patience
        self._silent_since: int | None = None
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

    @property
    def paused(self) -> bool:
        """Whether the open utterance has fallen silent, and nothing was said since."""
        return self._silent_since is not None

    @property
    def begun(self) -> int:
        """Where the open utterance begins; where the stream is now, if none is open."""
        return self._pushed if self._begun is None else self._begun

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
        return self.cut(self._begun + quietest_cut(self._speech(self._begun + window).samples))

    def cut(self, at: int) -> Utterance | None:
        """What was said in the open utterance before `at`; the next begins there, and is open."""
        if self._begun is None:
            return None
        utterance = self._cut(at)
        if utterance:
            self._begun, self._silent_since = at, None
        return utterance

    def pause(self, at: int, silence: float) -> Utterance | None:
        """The VAD has heard `silence` seconds of silence before `at`, or speech again: 0.

        Returns:
            Once a pause, when it has lasted: what was said so far, as a preflight.
        """
        if self._begun is None or not self._patience:
            return None
        if silence < self._patience:
            self._silent_since = None
            return None
        since, before = at - round(silence * SAMPLE_RATE), self._silent_since
        if before is not None and since <= before + PAUSE_DRIFT * SAMPLE_RATE:
            return None
        self._silent_since = since  # a VAD may not tell of speech between two pauses
        return self.so_far(at, Urgency.PREFLIGHT)

    def so_far(self, at: int, urgency: Urgency) -> Utterance | None:
        """What was said in the open utterance before `at`; it stays open."""
        at = min(at, self._pushed)
        if self._begun is None or at <= self._begun:
            return None
        return replace(self._utterance(at), urgency=urgency)

    def begin(self, at: int) -> None:
        """Speech began; `at` includes the prefix padding. Ignored while an utterance is open."""
        if self._begun is None:
            self._begun = min(max(at, self._first), self._pushed)

    def end(self, at: int) -> Utterance | None:
        """Speech ended; what came before `at` is the utterance."""
        if self._begun is None:
            return None
        utterance = self._cut(min(at, self._pushed))
        self._begun, self._silent_since = None, None
        return utterance

    def flush(self) -> Utterance | None:
        """Ends an open utterance where the stream is now."""
        return self.end(self._pushed)

    def _cut(self, end: int) -> Utterance | None:
        assert self._begun is not None
        if end <= self._begun:
            return None
        utterance = self._utterance(end)
        self._forget(end)
        return utterance

    def _utterance(self, end: int) -> Utterance:
        assert self._begun is not None
        return Utterance(self._speech(end), self._begun / SAMPLE_RATE, self._stream)

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


def ends_quietly(audio: Audio) -> bool:
    """Whether its last tenth of a second has no speech in it."""
    size = SAMPLE_RATE // 10
    samples = audio.samples[len(audio.samples) % size :]
    return len(samples) > 0 and loudness(samples[-size:]) <= QUIET * loudness(samples)
