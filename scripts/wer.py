"""Word error rate, for tests, demo and benchmarks alike."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

import jiwer

_JOINING = str.maketrans("", "", "'\u2019-\u2010")


def normalise(text: str) -> str:
    """Lower case, without punctuation and symbols, one space between words.

    Hyphens and apostrophes join ("ill-disposed" and "don't" are one word each), as jiwer's own
    RemovePunctuation has it: "cold-hearted" and "coldhearted" are the same word.
    """
    text = unicodedata.normalize("NFKC", text).lower().translate(_JOINING)
    return " ".join("".join(" " if unicodedata.category(c)[0] in "PS" else c for c in text).split())


def word_error_rate(reference: str, hypothesis: str) -> float:
    """Of one utterance: substituted, deleted and inserted words per word of the reference."""
    return pooled_word_error_rate([(reference, hypothesis)])


def wrong_words(reference: str, hypothesis: str) -> tuple[int, int]:
    """Of one utterance: how many words are wrong, and how many the reference has."""
    words = normalise(reference).split()
    return round(word_error_rate(reference, hypothesis) * len(words)), len(words)


def pooled_word_error_rate(pairs: Iterable[tuple[str, str]]) -> float:
    """Of many (reference, hypothesis): all wrong words per reference word, so long ones weigh more.

    Raises:
        ValueError: no reference holds a word.
    """
    texts = [(normalise(reference), normalise(hypothesis)) for reference, hypothesis in pairs]
    if not any(reference for reference, _ in texts):
        raise ValueError("word error rate needs a reference with at least one word")
    # An empty reference has no rate of its own: its inserted words count among the others' words.
    result = jiwer.process_words([r for r, _ in texts], [h for _, h in texts])
    return float(result.wer)
