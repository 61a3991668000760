"""How long decoding takes, and how right it is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from livekit.plugins.whisper.backend import LocalBackend
from livekit.plugins.whisper.types import Audio, Utterance

from benchmarks import subjects
from benchmarks.effort import Effort, rounds
from benchmarks.process import forked
from benchmarks.results import OURS, PLAIN, Figure, Row, Summary
from benchmarks.subjects import Subject
from scripts.wer import pooled_word_error_rate

ABOUT = """\
Milliseconds from samples to text, tiny.en on the CPU, in one process: the same weights and language
for both, greedy, faster-whisper in int8 and openai-whisper in float32, both by turns in each round.
The plugin's is `LocalBackend` as it is by default: for faster-whisper several workers (on two cores
two of one thread each) and windows no longer than needed; openai-whisper has one worker with a
thread for each core, and windows of 30 s. The peer is
`faster_whisper.WhisperModel.transcribe(beam_size=1)` and `whisper.transcribe()`, a thread for each
core, otherwise with their defaults. They take one utterance at a time."""
ABOUT_FACTOR = "Time to decode divided by duration: 0.1 is ten times faster than speech."
ABOUT_ERRORS = "Of all words of the recordings together, in percent."

ONE_BY_ONE, AT_ONCE = "all, one by one", "all, at the same time"


@dataclass
class Decoding:
    """One engine on all recordings."""

    durations: dict[str, float]
    """What was decoded → its length (s)."""
    seconds: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    """(what was decoded, by whom) → how long it took (s)."""
    texts: dict[str, list[str]] = field(default_factory=dict)
    """By whom → what was heard in the last round."""

    def note(self, what: str, who: str, seconds: float) -> None:
        """Adds a measurement."""
        self.seconds.setdefault((what, who), []).append(seconds)


def measure(effort: Effort, found: Sequence[Subject]) -> list[Figure]:
    """Three figures: times, real-time factors and word error rates."""
    times, factors, errors = list[Row](), list[Row](), list[Row]()
    references = [speech.reference for speech in subjects.recordings()]
    for subject in found:
        seen = forked(decode, subject, effort.decoding, effort.patience)
        for what, duration in seen.durations.items():
            cells = {
                who: Summary.of(seen.seconds[what, who])
                for who in (OURS, PLAIN)
                if (what, who) in seen.seconds
            }
            label = f"{what} ({duration:.1f} s)"
            times.append(_row(subject.engine, label, cells, 1e3))
            factors.append(_row(subject.engine, label, cells, 1 / duration))
        rates = {
            who: Summary.once(100 * pooled_word_error_rate(zip(references, texts, strict=True)))
            for who, texts in seen.texts.items()
        }
        errors.append(Row(subject.engine, ONE_BY_ONE, rates))
    return [
        Figure("decoding", "Decode time", "ms", ABOUT, times),
        Figure("decoding", "Real-time factor", "s/s", ABOUT_FACTOR, factors),
        Figure("decoding", "Word error rate", "%", ABOUT_ERRORS, errors),
    ]


def decode(subject: Subject, count: int, patience: float) -> Decoding:
    """Rounds over all recordings, the plugin and its peer by turns, in this process."""
    recordings, plain = subjects.recordings(), subject.load_plain()
    loop, backend, config = asyncio.new_event_loop(), LocalBackend(), subject.config
    backend.hold(config.model_key)
    loop.run_until_complete(backend.prewarm(config.model_key))

    def ours(*audios: Audio) -> str:
        async def all_at_once() -> str:
            key, options = config.model_key, config.decode_options
            asked = (backend.transcribe(key, Utterance(audio), options) for audio in audios)
            return " ".join(found.text for found in await asyncio.gather(*asked))

        return loop.run_until_complete(all_at_once())

    everything = [speech.audio for speech in recordings]
    total = sum(audio.duration for audio in everything)
    seen = Decoding({speech.name: speech.audio.duration for speech in recordings})
    seen.durations |= {ONE_BY_ONE: total, AT_ONCE: total}
    for _ in rounds(count, patience):
        seen.texts = {OURS: [], PLAIN: []}
        spent = dict.fromkeys(seen.texts, 0.0)
        for speech in recordings:
            for who, call in {OURS: ours, PLAIN: plain}.items():
                seconds, text = _timed(partial(call, speech.audio))
                seen.note(speech.name, who, seconds)
                seen.texts[who].append(text)
                spent[who] += seconds
        for who, seconds in spent.items():
            seen.note(ONE_BY_ONE, who, seconds)
        seen.note(AT_ONCE, OURS, _timed(partial(ours, *everything))[0])
    loop.run_until_complete(backend.aclose())
    loop.close()
    return seen


def _timed(call: Callable[[], str]) -> tuple[float, str]:
    started = time.perf_counter()
    text = call()
    return time.perf_counter() - started, text


def _row(engine: str, what: str, cells: dict[str, Summary], factor: float) -> Row:
    return Row(engine, what, {who: each.times(factor) for who, each in cells.items()})
