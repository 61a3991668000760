"""The measure that tests, demo and benchmarks go by."""

from __future__ import annotations

import pytest

from scripts.wer import normalise, pooled_word_error_rate, word_error_rate


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Hello,  World!", "hello world"),
        ("don't – don’t", "dont dont"),
        ("cold-hearted cold\u2011hearted coldhearted", "coldhearted coldhearted coldhearted"),
        ("„Guten Tag“, sagte er.", "guten tag sagte er"),
    ],
)
def test_spelling_that_is_not_heard_does_not_count(text: str, words: str) -> None:
    assert normalise(text) == words


def test_wrong_words_per_word_of_the_reference() -> None:
    assert word_error_rate("one two three four", "one too three") == 0.5
    assert pooled_word_error_rate([("one", "one"), ("two three four", "")]) == 0.75
    with pytest.raises(ValueError, match="at least one word"):
        word_error_rate("", "one")
