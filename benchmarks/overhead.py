"""What the way through the host costs: the same call, with the model in the process itself."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence

from livekit.plugins.whisper.backend import Backend, LocalBackend
from livekit.plugins.whisper.stt import shared_backend
from livekit.plugins.whisper.types import Audio, Utterance

from benchmarks import hosts, speech, subjects
from benchmarks.effort import Effort, rounds
from benchmarks.process import forked
from benchmarks.results import Figure, Row, Summary, Target
from benchmarks.subjects import Subject

ABOUT = """\
Milliseconds from a request to its transcript, one at a time on an idle machine: through the
machine's host, and with a `LocalBackend` in the process that asks; pairs of the two in random
order. The difference is that of each pair. Digital silence takes the whole way, with all of its
samples, but engines decode nothing of it, so that the time of decoding, which varies by more than
the way costs, is out of the difference; speech is decoded. Both columns hold the {window:.0f} ms
for which a request waits for others."""

THROUGH, HERE, BETWEEN = "through the host", "in this process", "difference"
LENGTHS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)
SILENCE, SPEECH = "digital silence", "speech"

Pair = tuple[float, float]
"""Seconds through the host, and without it."""


def measure(effort: Effort, found: Sequence[Subject]) -> list[Figure]:
    """The figure."""
    from livekit.plugins.whisper.backend import BATCH_WINDOW

    subject, pairs = subjects.fastest(found), dict[str, list[Pair]]()
    for _ in rounds(effort.overhead, effort.patience):
        for what, more in forked(compare, subject, effort.pairs).items():
            pairs.setdefault(what, []).extend(more)
    hosts.end()
    silent = [pair for what, each in pairs.items() if what != SPEECH for pair in each]
    labels = {f"{SILENCE}, all": silent, f"{SPEECH}, 1.3 to 10.7 s": pairs.pop(SPEECH)}
    rows = [Row(subject.engine, what, _cells(each)) for what, each in {**pairs, **labels}.items()]
    measured = {f"{row.what}": row.cells[BETWEEN].p50 for row in rows[-2:]}
    target = Target("the difference (p50)", 3.0, "ms", measured)
    about = ABOUT.format(window=1e3 * BATCH_WINDOW)
    return [Figure("overhead", "Overhead of the host", "ms", about, rows, [target])]


def compare(subject: Subject, count: int) -> dict[str, list[Pair]]:
    """So many pairs for each length of silence, and for each utterance one in four of them."""
    return asyncio.run(_compare(subject, count))


async def _compare(subject: Subject, count: int) -> dict[str, list[Pair]]:
    config, host, here = subject.hosted, shared_backend(subject.hosted), LocalBackend()
    for backend in (host, here):
        backend.hold(config.model_key)
        await backend.prewarm(config.model_key)
    shuffle = random.Random(0).shuffle
    silences = [(f"{SILENCE}, {each} s", speech.silence(each)) for each in LENGTHS]
    utterances = [(SPEECH, each.audio) for each in speech.mixed()]
    pairs = dict[str, list[Pair]]()

    async def seconds(backend: Backend, audio: Audio) -> float:
        started = time.perf_counter()
        await backend.transcribe(config.model_key, Utterance(audio), config.decode_options)
        return time.perf_counter() - started

    for number in range(-1, count):  # the first round makes connections and buffers
        for what, audio in [*silences, *(utterances if number % 4 == 0 else [])]:
            order = [host, here]
            shuffle(order)
            took = {id(backend): await seconds(backend, audio) for backend in order}
            if number >= 0:
                pairs.setdefault(what, []).append((took[id(host)], took[id(here)]))
    await here.aclose()
    return pairs


def _cells(pairs: Sequence[Pair]) -> dict[str, Summary]:
    values = {
        THROUGH: [through for through, _ in pairs],
        HERE: [here for _, here in pairs],
        BETWEEN: [through - here for through, here in pairs],
    }
    return {name: Summary.of(each).times(1e3) for name, each in values.items()}
