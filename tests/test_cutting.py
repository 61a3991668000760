"""Long speech is cut between words that two decodes agree on, where it is quietest."""

from __future__ import annotations

import asyncio

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from livekit.agents import stt as agents_stt
from livekit.plugins import whisper
from livekit.plugins.whisper.ahead import LONG_SECONDS, Ahead, StreamOptions
from livekit.plugins.whisper.cutting import LEAST_SECONDS, LEFT_WORDS, Cutting, boundary
from livekit.plugins.whisper.segmenter import Segmenter
from livekit.plugins.whisper.types import SAMPLE_RATE, Audio, Word

from scripts.wer import word_error_rate
from tests.support.streams import said, speech, trimmed
from tests.support.weights import TINY

NOISE = Audio(np.random.default_rng(0).normal(0, 0.1, 30 * SAMPLE_RATE).astype(np.float32))


def words(texts: list[str]) -> list[Word]:
    """One a second."""
    return [Word(f" {text}", at + 0.2, at + 0.8, 1.0) for at, text in enumerate(texts)]


def quiet_at(seconds: float) -> Audio:
    samples = NOISE.samples.copy()
    around = [round((seconds + side) * SAMPLE_RATE) for side in (-0.1, 0.1)]
    samples[around[0] : around[1]] = 0
    return Audio(samples)


def test_one_decode_cuts_nothing() -> None:
    assert Cutting().add(words(["a"] * 20), NOISE) is None


def test_cut_is_where_it_is_quietest_between_words_agreed_on() -> None:
    cutting, said = Cutting(), words(["one"] * 20)
    cutting.add(said, NOISE)
    count = cutting.add(words(["One,"] * 15 + ["two"] * 6), quiet_at(12.0))
    assert count == 12
    assert boundary(said, count) == 12.0


@given(st.lists(st.sampled_from("ab"), max_size=29), st.lists(st.sampled_from("ab"), max_size=29))
def test_cut_is_behind_what_two_decodes_in_a_row_agree_on(one: list[str], two: list[str]) -> None:
    cutting = Cutting()
    cutting.add(words(one), NOISE)
    count = cutting.add(words(two), NOISE)
    if count is not None:
        assert one[: count + LEFT_WORDS] == two[: count + LEFT_WORDS]
        assert words(two)[count - 1].end >= LEAST_SECONDS


async def test_long_speech_without_a_pause_loses_no_word_at_the_cut() -> None:
    model = whisper.FasterWhisperSTT(TINY.model, backend="process")
    samples = np.concatenate([trimmed(speech(number)) for number in (0, 1, 2, 3, 4)])
    segmenter = Segmenter("s")
    events: list[agents_stt.SpeechEvent] = []
    ahead = Ahead(
        segmenter, model.hear, events.append, lambda: True, lambda: 0.0, StreamOptions()
    )  # fmt: skip
    segmenter.begin(0)
    ahead.begin()
    cut = None
    for second in range(1, len(samples) // SAMPLE_RATE):
        segmenter.push(samples[(second - 1) * SAMPLE_RATE : second * SAMPLE_RATE])
        ahead.advance(segmenter.pushed, 0.0)
        await asyncio.gather(*ahead._tasks)
        cut = cut or ahead.cut()
        assert cut is None or second >= LONG_SECONDS + 1
    assert cut
    utterance, guess = cut
    segmenter.push(samples[second * SAMPLE_RATE :])
    rest = segmenter.flush()
    assert rest
    assert rest.start == utterance.start + utterance.audio.duration
    data = guess.result().alternatives[0]
    assert LEAST_SECONDS <= data.end_time <= utterance.audio.duration
    text = f"{data.text} {(await model.hear(rest)).alternatives[0].text}"
    assert word_error_rate(" ".join(map(said, range(5))), text) <= 0.04
    await ahead.aclose()
