"""Where a context ends in what was decoded with it: a word is neither said twice nor lost."""

from __future__ import annotations

import numpy as np
import pytest
from livekit.plugins.whisper import engines, models
from livekit.plugins.whisper.engines.decoding import _said_before
from livekit.plugins.whisper.types import Audio, DecodeOptions, Word
from numpy.typing import NDArray

from tests.support import voices
from tests.support.streams import trimmed
from tests.support.weights import TINY

Times = list[tuple[str, float, float]]


@pytest.mark.parametrize(
    ("words", "count"),
    [  # as tiny.en and base give them, in seconds from the end of the context
        ([(" is", -0.41, -0.21), (" it?", -0.21, 0.31), (" No,", 0.57, 0.93)], 2),
        ([(' appointment."', -0.75, 0.65), (" Had", 0.65, 0.79), (" he", 0.79, 0.91)], 1),
        ([(" you,", -0.36, 0.28), (" when", 0.3, 0.6), (" the", 0.6, 0.86)], 1),
        ([(" himself.", -0.89, -0.17), (" He", -0.17, 0.1), (" might", 0.41, 0.67)], 1),
        ([(" Tuesday", -0.5, -0.1), (" No.", 0.2, 0.4), (" Friday", 0.45, 0.8)], 1),
        ([(" himself.", -0.89, -0.17)], 1),
        ([(" He", 0.23, 0.41), (" might", 0.41, 0.67)], 0),
        ([], 0),
    ],
)
def test_place_between_two_words_that_is_nearest_to_the_pause(words: Times, count: int) -> None:
    found = [Word(text, 5 + start, 5 + end, 1.0) for text, start, end in words]
    assert _said_before(found, 5.0) == count


@pytest.mark.skipif(not voices.available(), reason="no espeak-ng")
@pytest.mark.parametrize(
    ("voice", "after"),
    [
        ("en-gb-x-rp", "Could you say that again, a little slower?"),
        ("en-gb-x-gbcwmd", "Please send the invoice to our new address before Friday."),
    ],
)
def test_last_word_of_a_question_is_not_the_first_of_its_answer(voice: str, after: str) -> None:
    engine = engines.load(models.resolve(TINY.engine, TINY.model), TINY)
    sounds = [_spoken(voice, text) for text in ("What time is it?", after)]
    before = np.concatenate([sounds[0], np.zeros(2400, np.float32)])
    both = np.concatenate([before, np.zeros(3200, np.float32), sounds[1]])
    options = DecodeOptions(language="en", context=len(before) / 16_000)
    (heard,) = engine.transcribe([Audio(both)], options)
    assert heard.text.split()[0] == after.split()[0]


def _spoken(voice: str, text: str) -> NDArray[np.float32]:
    samples = (voices.speak(voice, text).samples * 32767).astype(np.int16)
    return np.divide(trimmed(samples), 32768, dtype=np.float32)
