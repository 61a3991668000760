"""Does the adaptive window hear what the full one hears?"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import Any

import numpy as np
from livekit.plugins.whisper import engines, models
from livekit.plugins.whisper.audio import from_file
from livekit.plugins.whisper.metrics import GATE_REDECODES
from livekit.plugins.whisper.types import Audio, DecodeOptions, ModelKey, Transcript, Window
from numpy.typing import NDArray

from benchmarks.effort import Effort
from benchmarks.process import forked
from benchmarks.results import Figure, Row, Summary
from benchmarks.subjects import Subject
from scripts.wer import pooled_word_error_rate, wrong_words
from tests.support import voices, weights
from tests.support.audio import RATE, pink_noise, resample
from tests.support.voices import Spoken

ENGINE = "faster-whisper"
"""The encoder of openai-whisper takes 30 s only."""
WINDOWS: tuple[Window, ...] = ("full", "adaptive")
ALL = "all together"
NOISES = {"": None, " in noise of -15 dB": -15.0, " in noise of -5 dB": -5.0}
DETECTED = 9
"""Utterances of each language that are decoded a second time, with the language unknown: those of
one voice."""
SPEEDS = (0.85, 1.0, 1.15)

ABOUT = """\
Of all words of a row together, in percent, greedy, int8: with the encoder's window of always 30 s,
and with one as short as the utterance allows (8 s and more). The recordings are read by people, at
three speeds; the rest is spoken by espeak-ng, which base, in other languages than English, often
does not understand: these rows compare the windows, and say nothing of people."""
ABOUT_DIFFERENCE = """\
The word error rate of the adaptive window less that of the full one, in points; in brackets the
interval that holds it in 95 % of {draws:,} draws of as many utterances from these (paired
bootstrap, Bisani and Ney 2004). One that holds 0 is no difference that these utterances could show:
what is doubtful in both windows is decoded by sampling, differently each time."""
DRAWS = 2000
ABOUT_LANGUAGES = "Utterances of one voice whose language base found by itself, in percent."
ABOUT_GATE = """\
Windows decoded short whose text was doubtful, and that were decoded again in full: in percent of
the row's utterances."""


@dataclass
class Heard:
    """What one engine made of utterances."""

    counts: dict[str, int]
    """Row → how many utterances."""
    pairs: dict[tuple[str, Window], list[tuple[str, str]]] = field(default_factory=dict)
    """(row, window) → reference and hypothesis, of each utterance."""
    languages: dict[tuple[str, Window], list[bool]] = field(default_factory=dict)
    """(row, window) → whether the language was found, of each utterance."""
    again: dict[str, int] = field(default_factory=dict)
    """Row → how many short windows were doubtful."""


def measure(effort: Effort, found: Sequence[Subject]) -> list[Figure]:
    """Three figures: word error rates, languages found, and short windows that were doubtful."""
    subject = next(each for each in found if each.engine == ENGINE)
    quick = effort.decoding == 1
    tiny = ModelKey(ENGINE, subject.model, device="cpu")
    base = ModelKey(ENGINE, str(weights.base_directory()), device="cpu")
    rates, differences, languages, gates = list[Row](), list[Row](), list[Row](), list[Row]()
    for title, key, rows in (("tiny.en", tiny, _english(quick)), ("base", base, _all(quick))):
        heard = forked(hear, key, rows, key is base and not quick)
        for row, count in heard.counts.items():
            what = f"{title}: {row} ({count})"
            rates.append(Row(ENGINE, what, {str(w): _rate(heard.pairs[row, w]) for w in WINDOWS}))
            apart = _difference(heard.pairs[row, "full"], heard.pairs[row, "adaptive"])
            differences.append(Row(ENGINE, what, {"adaptive less full": apart}))
            share = 100 * heard.again[row] / count
            gates.append(Row(ENGINE, what, {"adaptive": Summary.once(share)}))
            if (row, "full") in heard.languages:
                right = {w: 100 * float(np.mean(heard.languages[row, w])) for w in WINDOWS}
                cells = {str(w): Summary.once(right[w]) for w in WINDOWS}
                languages.append(Row(ENGINE, f"{title}: {row}", cells))
    figures = [
        Figure("accuracy", "Word error rate by window", "%", ABOUT, rates),
        Figure(
            "accuracy",
            "Word error rate, adaptive less full",
            "points",
            ABOUT_DIFFERENCE.format(draws=DRAWS),
            differences,
        ),
        Figure("accuracy", "Language found by window", "%", ABOUT_LANGUAGES, languages),
        Figure("accuracy", "Decoded again in full", "%", ABOUT_GATE, gates),
    ]
    return [figure for figure in figures if figure.rows]


def hear(key: ModelKey, rows: dict[str, list[Spoken]], detect: bool) -> Heard:
    """Decodes every utterance with both windows, in this process."""
    import ctranslate2

    ctranslate2.set_random_seed(0)  # what is doubtful in full as well is decoded again by sampling
    engine = engines.load(models.resolve(key.engine, key.model), key)
    gate = GATE_REDECODES.labels(key.engine)
    seen = Heard({row: len(spoken) for row, spoken in rows.items()})
    for row, spoken in rows.items():
        audios = [each.audio for each in spoken]
        for window in WINDOWS:
            before = gate._value.get()
            options = DecodeOptions(spoken[0].language, window=window)
            heard = _transcribe(engine, audios, options)
            seen.pairs[row, window] = [(s.text, t.text) for s, t in zip(spoken, heard, strict=True)]
            seen.again[row] = round(gate._value.get() - before)
            if detect:
                found = _transcribe(engine, audios[:DETECTED], replace(options, language=None))
                right = [s.language == t.language for s, t in zip(spoken, found, strict=False)]
                seen.languages[row, window] = right
    seen.counts[ALL] = sum(seen.counts.values())
    seen.again[ALL] = sum(seen.again.values())
    for window in WINDOWS:
        seen.pairs[ALL, window] = [p for row in rows for p in seen.pairs[row, window]]
    return seen


def _transcribe(
    engine: engines.Engine, audios: Sequence[Audio], options: DecodeOptions
) -> list[Transcript]:
    """In the same order; all workers take part."""
    parts = [audios[at : at + engine.batch] for at in range(0, len(audios), engine.batch)]
    with ThreadPoolExecutor(engine.workers) as pool:
        return [
            each for part in pool.map(engine.transcribe, parts, repeat(options)) for each in part
        ]


def _english(quick: bool) -> dict[str, list[Spoken]]:
    """For tiny.en: the recordings, and every English voice."""
    rows = {f"recordings{how}": _recordings(level) for how, level in NOISES.items()}
    if voices.available():
        for voice in voices.VOICES["en"][: 1 if quick else None]:
            rows[f"espeak-ng {voice}"] = voices.utterances("en", [voice])
    return rows


def _all(quick: bool) -> dict[str, list[Spoken]]:
    """For base: every language, each in one voice."""
    rows = {"en, recordings": _recordings(None)}
    if voices.available():
        for language in ("en", "de") if quick else voices.VOICES:
            names = voices.VOICES[language][:1]
            rows[f"{language}, espeak-ng"] = voices.utterances(language, names)
    return rows


def _recordings(level: float | None) -> list[Spoken]:
    """The five at three speeds, with pink noise so much below the speech (dB), or none."""
    found = []
    for number, path in enumerate(weights.recordings()):
        for speed in SPEEDS:
            samples = resample(from_file(path).samples, round(RATE * speed), RATE)
            if level is not None:
                loud = float(np.sqrt(np.mean(samples**2))) * 10 ** (level / 20)
                noise = pink_noise(len(samples) / RATE, RATE, loud, seed=number)
                samples = samples + noise[: len(samples)]
            text = weights.REFERENCES[path.name]
            found.append(Spoken("en", path.stem, text, Audio(samples.astype(np.float32))))
    return found


def _difference(full: Sequence[tuple[str, str]], adaptive: Sequence[tuple[str, str]]) -> Summary:
    """The difference, between the 2.5th and the 97.5th percentile of its bootstrap."""
    counts = [np.array([wrong_words(*pair) for pair in pairs]) for pairs in (full, adaptive)]
    chance = np.random.default_rng(0)
    draws = chance.integers(len(full), size=(DRAWS, len(full)))

    def rate(some: NDArray[Any], chosen: NDArray[Any]) -> NDArray[Any]:
        wrong, words = some[chosen].sum(axis=-2).T
        return np.asarray(100 * wrong / words)

    found = rate(counts[1], draws) - rate(counts[0], draws)
    every = np.arange(len(full))
    low, high = np.percentile(found, [2.5, 97.5])
    apart = float(rate(counts[1], every) - rate(counts[0], every))
    return Summary(2, apart, float(high), float(low), float(high))


def _rate(pairs: Sequence[tuple[str, str]]) -> Summary:
    return Summary.once(100 * pooled_word_error_rate(pairs))
