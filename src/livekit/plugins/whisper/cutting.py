"""Where to cut an utterance that grows too long: after a word that two decodes in a row agree on.

Pure, like `agreement.py`, whose method this is (LocalAgreement-2), here with the times of words.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .agreement import agreeing
from .types import SAMPLE_RATE, Audio, Word

LEFT_WORDS = 2
"""Words agreed on that are not cut off: the last ones may change with what follows."""
LEAST_SECONDS = 8.0
"""What is cut off is at least so long: text without context is worse."""
AROUND = 0.05
"""Seconds before and after the end of a word: how loud it is there says how good the cut is."""


class Cutting:
    """The decodes of one utterance, in order, each of the same speech or of more."""

    def __init__(self) -> None:
        self._last: Sequence[str] = ()

    def add(self, words: Sequence[Word], audio: Audio) -> int | None:
        """Takes the next decode.

        Args:
            words: times in seconds from the beginning of `audio`.
            audio: what they were heard in.

        Returns:
            How many of the words to cut off: behind them it is quietest. None: none, so far.
        """
        texts = [word.text for word in words]
        agreed = agreeing(texts, self._last)
        self._last = texts
        places = [
            count
            for count in range(1, agreed - LEFT_WORDS + 1)
            if words[count - 1].end >= LEAST_SECONDS
        ]
        return min(places, key=lambda count: _loudness(audio, boundary(words, count)), default=None)


def boundary(words: Sequence[Word], count: int) -> float:
    """Where to cut behind so many words: between the last of them and the next, in seconds."""
    return (words[count - 1].end + max(words[count].start, words[count - 1].end)) / 2


def _loudness(audio: Audio, at: float) -> float:
    first, last = (round((at + side) * SAMPLE_RATE) for side in (-AROUND, AROUND))
    around = audio.samples[max(0, first) : last]
    return float(np.square(around).mean()) if len(around) else 0.0
