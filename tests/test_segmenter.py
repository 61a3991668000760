"""No sample of speech is lost, and none is in two utterances."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from livekit.plugins.whisper.segmenter import KEPT_SECONDS, Segmenter, ends_quietly
from livekit.plugins.whisper.types import SAMPLE_RATE, Audio, Urgency, Utterance


def ramp(start: int, count: int) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
    """Samples that say where in the stream they are."""
    return (np.arange(start, start + count) % 30_000).astype(np.int16)


def positions(utterance: Utterance) -> list[int]:
    return [int(x) for x in np.round(utterance.audio.samples * 32768)]


def test_utterance_is_what_lies_between_begin_and_end() -> None:
    segmenter = Segmenter("s")
    segmenter.push(ramp(0, 1000))
    segmenter.begin(300)
    segmenter.push(ramp(1000, 1000))
    utterance = segmenter.end(1700)
    assert utterance is not None
    assert positions(utterance) == list(range(300, 1700))
    assert (utterance.start, utterance.stream) == (300 / SAMPLE_RATE, "s")
    assert not segmenter.speaking


def test_padding_of_the_next_utterance_does_not_reach_into_the_one_before() -> None:
    segmenter = Segmenter()
    segmenter.push(ramp(0, 2000))
    segmenter.begin(0)
    segmenter.end(1500)
    segmenter.begin(1200)
    utterance = segmenter.end(2000)
    assert utterance is not None
    assert positions(utterance) == list(range(1500, 2000))


def test_flush_ends_what_is_open_and_yields_nothing_else() -> None:
    segmenter = Segmenter()
    segmenter.push(ramp(0, 1000))
    assert segmenter.flush() is None
    segmenter.begin(400)
    utterance = segmenter.flush()
    assert utterance is not None
    assert positions(utterance) == list(range(400, 1000))
    assert segmenter.flush() is None


def test_memory_stays_bounded_while_nobody_speaks() -> None:
    segmenter = Segmenter()
    for _ in range(100):
        segmenter.push(np.zeros(SAMPLE_RATE, np.int16))
        segmenter.advance(segmenter.pushed)
    assert sum(map(len, segmenter._parts)) <= (KEPT_SECONDS + 1) * SAMPLE_RATE


def test_what_a_slow_vad_has_not_heard_is_kept() -> None:
    segmenter = Segmenter()
    for second in range(100):
        segmenter.push(ramp(second * SAMPLE_RATE, SAMPLE_RATE))
    segmenter.advance(SAMPLE_RATE)
    segmenter.begin(SAMPLE_RATE // 2)
    utterance = segmenter.end(3 * SAMPLE_RATE)
    assert utterance is not None
    assert positions(utterance) == ramp(8_000, 40_000).tolist()


def test_speech_without_a_pause_is_cut_where_it_is_quietest_and_goes_on() -> None:
    rng = np.random.default_rng(1)
    noise = rng.integers(-8000, 8000, 40 * SAMPLE_RATE).astype(np.int16)
    noise[25 * SAMPLE_RATE : 25 * SAMPLE_RATE + SAMPLE_RATE // 5] = 0
    segmenter = Segmenter()
    segmenter.push(noise[:100])
    segmenter.begin(0)
    found = []
    for part in np.array_split(noise[100:], 400):
        segmenter.push(part)
        if utterance := segmenter.advance(segmenter.pushed):
            found.append(utterance)
    last = segmenter.flush()
    assert len(found) == 1
    assert last is not None
    assert 25.0 <= found[0].audio.duration <= 25.2
    joined = np.concatenate([found[0].audio.samples, last.audio.samples])
    assert np.array_equal(joined, noise.astype(np.float32) / 32768)
    assert last.start == found[0].audio.duration


def test_pause_is_told_once_and_ends_with_speech() -> None:
    segmenter = Segmenter("s", patience=0.1)
    segmenter.push(ramp(0, 9000))
    assert segmenter.pause(9000, 0.5) is None  # nobody has spoken
    segmenter.begin(1000)
    assert segmenter.pause(4000, 0.09) is None
    early = segmenter.pause(5000, 0.11)
    assert early is not None
    assert (positions(early), early.urgency) == (list(range(1000, 5000)), Urgency.PREFLIGHT)
    assert segmenter.pause(6000, 0.2) is None
    assert segmenter.paused
    assert segmenter.pause(7000, 0.0) is None
    assert not segmenter.paused
    assert segmenter.pause(8000, 0.1) is not None
    segmenter.end(9000)
    assert not segmenter.paused


def test_speech_between_two_pauses_that_the_vad_did_not_tell_of_is_noticed() -> None:
    segmenter = Segmenter("s", patience=0.1)
    segmenter.push(ramp(0, 4 * SAMPLE_RATE))
    segmenter.begin(0)
    first = segmenter.pause(round(1.5 * SAMPLE_RATE), 0.2)
    assert first is not None
    assert segmenter.pause(round(1.53 * SAMPLE_RATE), 0.23) is None
    second = segmenter.pause(round(1.8 * SAMPLE_RATE), 0.12)
    assert second is not None
    assert second.audio.duration == 1.8


def test_quiet_end_is_told_from_one_with_speech() -> None:
    loud = np.sin(np.arange(SAMPLE_RATE, dtype=np.float32))
    quiet = np.concatenate([loud, loud[:2000] / 50])
    assert not ends_quietly(Audio(loud))
    assert ends_quietly(Audio(quiet))
    assert not ends_quietly(Audio(loud[:100]))


def test_without_patience_there_is_no_pause() -> None:
    segmenter = Segmenter()
    segmenter.push(ramp(0, 9000))
    segmenter.begin(0)
    assert segmenter.pause(9000, 5.0) is None


event = st.one_of(
    st.tuples(st.just("push"), st.integers(0, 3 * SAMPLE_RATE)),
    st.tuples(st.just("advance"), st.integers(0, SAMPLE_RATE)),
    st.tuples(st.just("pause"), st.integers(0, SAMPLE_RATE)),
    st.tuples(st.just("so far"), st.integers(0, SAMPLE_RATE)),
    st.tuples(st.just("begin"), st.integers(0, 2 * SAMPLE_RATE)),
    st.tuples(st.just("end"), st.integers(0, SAMPLE_RATE)),
    st.tuples(st.just("flush"), st.just(0)),
)


@given(st.lists(event, max_size=60))
@settings(max_examples=200, deadline=None)
def test_whatever_the_vad_says_no_speech_is_lost_and_none_comes_twice(
    events: list[tuple[str, int]],
) -> None:
    segmenter = Segmenter("", patience=0.1)
    out: list[Utterance] = []
    spoken: list[tuple[int, int]] = []  # what the VAD called speech
    begun: int | None = None
    for kind, amount in events:
        now = segmenter.pushed
        utterance = None
        if kind == "push":
            segmenter.push(ramp(now, amount))
        elif kind == "advance":
            utterance = segmenter.advance(now - amount)
        elif kind in ("pause", "so far"):
            early = (
                segmenter.pause(now, amount / SAMPLE_RATE)
                if kind == "pause"
                else segmenter.so_far(now - amount, Urgency.INTERIM)
            )
            if early:  # what is open, and it stays so
                first = round(early.start * SAMPLE_RATE)
                assert first == segmenter.begun
                assert positions(early) == ramp(first, len(early.audio.samples)).tolist()
                assert early.urgency is not Urgency.FINAL
        elif kind == "begin":
            if begun is None:
                floor = spoken[-1][1] if spoken else 0
                begun = min(max(now - amount, floor), now)
            segmenter.begin(now - amount)
        else:
            end = now if kind == "flush" else max(now - amount, begun or 0)
            if begun is not None and end > begun:
                spoken.append((begun, end))
            begun = None
            utterance = segmenter.flush() if kind == "flush" else segmenter.end(end)
        if utterance:
            out.append(utterance)
    if begun is not None:
        spoken.append((begun, segmenter.pushed))
        if utterance := segmenter.flush():
            out.append(utterance)

    pieces = [(round(u.start * SAMPLE_RATE), u) for u in out]
    for (start, utterance), (after, _) in pairwise(pieces):
        assert start + len(utterance.audio.samples) <= after
    for start, utterance in pieces:
        expected = ramp(start, len(utterance.audio.samples))
        assert np.array_equal(positions(utterance), expected)
    covered = [(start, start + len(u.audio.samples)) for start, u in pieces]
    total = sum(end - start for start, end in covered)
    assert total == sum(end - start for start, end in spoken)
    for start, end in spoken:
        inside = [(max(a, start), min(b, end)) for a, b in covered if a < end and b > start]
        assert sum(b - a for a, b in inside) == end - start
