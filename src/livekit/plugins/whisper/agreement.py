"""Which words of an unfinished utterance will stay: those that two hypotheses in a row agree on.

LocalAgreement-2 (Macháček, Dabre, Bojar: Turning Whisper into Real-Time Transcription System, 2023,
section 3.1), for hypotheses that all begin at the same sample.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import takewhile

_SPACELESS = (
    r"\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
"""Letters of scripts that write no space between words."""
_PIECE = re.compile(rf"\s*(?:[{_SPACELESS}]|[^\s{_SPACELESS}]+)")
"""A word, or one of those letters, with the space before it."""


class Agreement:
    """The hypotheses of one utterance, in the order in which they were decoded."""

    def __init__(self) -> None:
        self._stable: list[str] = []
        self._last: list[str] = []

    @property
    def stable(self) -> str:
        """What stays; only ever grows."""
        return "".join(self._stable).strip()

    def add(self, text: str) -> str:
        """Takes the next hypothesis, of the same speech or of more.

        Returns:
            The text to show: what is stable, and after it what this hypothesis goes on with.
        """
        pieces = _PIECE.findall(" " + text.strip())
        agreed = agreeing(pieces, self._last)
        self._stable += pieces[len(self._stable) : agreed]
        self._last = pieces
        return "".join([*self._stable, *pieces[len(self._stable) :]]).strip()


def agreeing(now: Iterable[str], before: Iterable[str]) -> int:
    """How many words, from the first on, two hypotheses agree on."""
    pairs = zip(now, before, strict=False)
    return sum(1 for _ in takewhile(lambda pair: _bare(pair[0]) == _bare(pair[1]), pairs))


def _bare(piece: str) -> str:
    """Without what changes as more is heard: case and punctuation."""
    return "".join(filter(str.isalnum, piece)).casefold() or piece.strip()
