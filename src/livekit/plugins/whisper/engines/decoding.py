"""What both engines share: windows, quality checks with fallback, and joining into transcripts.

An engine subclasses `WindowedEngine` and says how to decode a batch of windows once.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..audio import loudness, windows
from ..errors import AudioError, ConfigError, EngineError, ModelDamaged, WhisperError
from ..metrics import GATE_REDECODES, NOT_SPEECH
from ..types import (
    SAMPLE_RATE,
    WINDOW_SECONDS,
    Audio,
    DecodeOptions,
    Segment,
    Transcript,
    Word,
)
from .quality import Decoded, best, doubt, leaves_out, not_speech

TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Whisper's own: greedy first, then ever more random."""
SILENCE_PEAK = 1e-4
"""Samples that never pass this (-80 dB of full scale) are digital silence: nothing to decode."""
REST_SECONDS = 1.0
REST_LOUDNESS = 0.1
"""A rest of a window at least this long and this loud (against its loudest 0.1 s) that Whisper's
timestamps leave undecoded is decoded on its own, as Whisper's own seeking does."""
FLOOR_SECONDS = 8.0
"""The shortest window: in ones of 4 to 7 s tiny.en repeats itself often, which costs more time than
it saves; in longer ones rarely, and the gate sees it."""
STEP_SECONDS = 2.0
"""Windows grow in steps of this: utterances in equal windows are decoded together."""
MARGIN_SECONDS = 0.5
"""Of silence after the speech, at least: without it, Whisper takes the speech to go on."""

PAUSE_SECONDS = 0.1
"""Where the pause after a context has its middle, by the times of the words around it."""
SENTENCE_SECONDS, SENTENCE_ENDS = 0.3, (".", "?", "!", "。", "？", "！", "…")
"""How much nearer to it the end of a sentence counts whose last word began before."""


@dataclass(eq=False)
class _Window:
    """A part of an utterance on its way through the engine."""

    index: int
    start: float
    audio: Audio


class WindowedEngine(ABC):
    """Decodes utterances of any length with a model that takes at most 30 s."""

    name: str
    """As in the table of engines."""
    multilingual: bool
    workers: int
    """See `Engine.workers`."""
    batch: int
    """See `Engine.batch`; also how many windows of one utterance are decoded at once."""
    adaptive: bool
    """Whether the encoder takes windows shorter than 30 s."""

    @abstractmethod
    def _encode(self, batch: Sequence[Audio], options: DecodeOptions, seconds: float) -> Any:
        """Runs the encoder over windows of that length, and finds their languages."""

    @abstractmethod
    def _decode(
        self, encoded: Any, members: Sequence[int], options: DecodeOptions, temperature: float
    ) -> list[Decoded]:
        """Decodes some of the encoded windows, once; same length, same order as `members`."""

    def transcribe(self, batch: Sequence[Audio], options: DecodeOptions) -> list[Transcript]:
        """See `Engine.transcribe`."""
        if options.context:
            return [self._transcribe_after(audio, options) for audio in batch]
        self._check(options)
        if not all(np.isfinite(audio.samples).all() for audio in batch):
            raise AudioError("audio with samples that are no numbers (NaN or infinite)")
        heard: list[list[tuple[float, Decoded]]] = [[] for _ in batch]
        waiting = [
            _Window(index, start, window)
            for index, audio in enumerate(batch)
            for start, window in windows([audio.samples])
            if len(window.samples) and np.abs(window.samples).max() > SILENCE_PEAK
        ]
        while waiting:
            # Each is decoded in its own window's length, whoever comes with it.
            seconds = self._seconds(waiting[0], options)
            alike = [each for each in waiting if self._seconds(each, options) == seconds]
            now = alike[: self.batch]
            waiting = [each for each in waiting if each not in now]
            for window, decoded in zip(
                now, self._decode_surely(now, seconds, options), strict=True
            ):
                heard[window.index].append((window.start, decoded))
                if rest := _rest(window, decoded):
                    waiting.insert(0, rest)
        return [_join(sorted(parts, key=lambda p: p[0]), options) for parts in heard]

    def _transcribe_after(self, audio: Audio, options: DecodeOptions) -> Transcript:
        """The words after the context; what is doubtful with it is decoded without."""
        plain = replace(options, context=0.0)
        with_times = replace(plain, word_timestamps=True)
        # A context may be of another language; the words of a translation have no times.
        known = options.language is not None or not self.multilingual
        usable = known and options.task == "transcribe"
        if usable and options.context < audio.duration <= WINDOW_SECONDS:
            (whole,) = self.transcribe([audio], with_times)
            after = _after(whole, options.context, keep_words=options.word_timestamps)
            if not leaves_out(after.text, audio.duration - options.context):
                return after
        (alone,) = self.transcribe(
            [Audio(audio.samples[int(options.context * SAMPLE_RATE) :])], plain
        )
        segments = tuple(shift(segment, options.context) for segment in alone.segments)
        return replace(alone, segments=segments)

    def smoke(self) -> None:
        """Decodes a second of a quiet tone: a model that yields numbers is called ready.

        Raises:
            ModelDamaged: it yields none.
        """
        phase = np.arange(SAMPLE_RATE) * (2 * np.pi * 440 / SAMPLE_RATE)
        tone = Audio((0.01 * np.sin(phase)).astype(np.float32))
        options = DecodeOptions(language="en")
        try:
            (decoded,) = self._decode(
                self._encode([tone], options, WINDOW_SECONDS), [0], options, 0
            )
        except WhisperError:
            raise
        except Exception as exc:
            raise ModelDamaged(f"the model does not decode ({type(exc).__name__}: {exc})") from exc
        if not math.isfinite(decoded.avg_logprob) or not math.isfinite(decoded.no_speech_prob):
            raise ModelDamaged("the model decodes to no numbers (NaN): its weights are damaged")

    @abstractmethod
    def _knows(self, language: str) -> bool:
        """Whether a multilingual model was trained on a language."""

    def _check(self, options: DecodeOptions) -> None:
        if self.multilingual:
            if options.language and not self._knows(options.language):
                raise ConfigError(
                    f"language (STT_LANGUAGE): {options.language!r}: this model does not know it; "
                    "large-v3 knows most"
                )
            return
        if options.language not in (None, "en"):
            raise ConfigError(
                f"language (STT_LANGUAGE): {options.language!r}: this model knows English only; "
                "choose one without '.en' in its name"
            )
        if options.task == "translate":
            raise ConfigError(
                "task (STT_TASK): 'translate': this model knows English only; "
                "choose one without '.en' in its name"
            )

    def _seconds(self, window: _Window, options: DecodeOptions) -> float:
        if options.window == "full" or not self.adaptive:
            return WINDOW_SECONDS
        return window_seconds(window.audio.duration)

    def _decode_surely(
        self, now: list[_Window], seconds: float, options: DecodeOptions
    ) -> list[Decoded]:
        """Decodes in short windows where they do, and in full ones what is doubtful then."""
        audios = [window.audio for window in now]
        if seconds >= WINDOW_SECONDS:
            return self._decode_full(audios, options)
        encoded = self._encode(audios, options, seconds)
        found = self._decode_checked(encoded, range(len(now)), options, 0.0)
        again = [i for i, d in enumerate(found) if doubt(d, audios[i].duration)]
        if again:
            GATE_REDECODES.labels(self.name).inc(len(again))
            full = self._decode_full([audios[i] for i in again], options)
            for i, decoded in zip(again, full, strict=True):
                found[i] = decoded
        return found

    def _decode_full(self, audios: list[Audio], options: DecodeOptions) -> list[Decoded]:
        """Decodes greedily, then what is doubtful again at rising temperatures; keeps the best."""
        tries: list[list[Decoded]] = [[] for _ in audios]
        encoded = self._encode(audios, options, WINDOW_SECONDS)
        todo = list(range(len(audios)))
        for temperature in TEMPERATURES:
            results = self._decode_checked(encoded, todo, options, temperature)
            for i, decoded in zip(todo, results, strict=True):
                tries[i].append(decoded)
            todo = [i for i in todo if tries[i][-1].is_doubtful]
            if not todo:
                break
        return [best(attempts) for attempts in tries]

    def _decode_checked(
        self, encoded: Any, members: Sequence[int], options: DecodeOptions, temperature: float
    ) -> list[Decoded]:
        results = self._decode(encoded, members, options, temperature)
        if len(results) != len(members):
            raise EngineError(f"engine returned {len(results)} results for {len(members)} windows")
        return results


def window_seconds(duration: float) -> float:
    """How long a window the encoder needs for so many seconds of speech."""
    beyond = max(0.0, duration + MARGIN_SECONDS - FLOOR_SECONDS)
    return min(WINDOW_SECONDS, FLOOR_SECONDS + STEP_SECONDS * math.ceil(beyond / STEP_SECONDS))


def split_by_timestamps(
    tokens: Sequence[int], timestamp_begin: int, eot: int, duration: float
) -> tuple[list[tuple[float, float, list[int]]], float]:
    """Cuts a window's tokens where its timestamp tokens are (20 ms each).

    Returns:
        (start, end, text tokens) of each segment, in seconds, and up to where the window is
        transcribed: the last closing timestamp, or all of it where the last phrase is left open.
    """
    segments: list[tuple[float, float, list[int]]] = []
    start, text, consumed = 0.0, list[int](), duration
    for token in tokens:
        if token >= timestamp_begin:
            time = min((token - timestamp_begin) * 0.02, duration)
            if text:
                segments.append((start, max(time, start), text))
                consumed = time
            start, text = time, []
        elif token < eot:
            text.append(token)
    if text:
        segments.append((start, duration, text))
        consumed = duration
    return segments, consumed


def with_words(segments: Sequence[Segment], raw: list[dict[str, Any]]) -> tuple[Segment, ...]:
    """Copies the words that an aligner put into `raw` to the segments."""
    return tuple(
        Segment(
            segment.text,
            float(part["start"]),
            float(part["end"]),
            segment.avg_logprob,
            segment.no_speech_prob,
            tuple(
                Word(w["word"], float(w["start"]), float(w["end"]), float(w["probability"]))
                for w in part.get("words", [])
            ),
        )
        for segment, part in zip(segments, raw, strict=True)
    )


def _rest(window: _Window, decoded: Decoded) -> _Window | None:
    cut = int(decoded.consumed * SAMPLE_RATE)
    samples = window.audio.samples
    rest = samples[cut:]
    if not decoded.segments or decoded.is_silence or len(rest) < REST_SECONDS * SAMPLE_RATE:
        return None
    if cut < SAMPLE_RATE // 10 or loudness(rest) < REST_LOUDNESS * loudness(samples):
        return None
    return _Window(window.index, window.start + cut / SAMPLE_RATE, Audio(rest))


def _after(transcript: Transcript, context: float, *, keep_words: bool) -> Transcript:
    """What of a transcript with word times was said after so many seconds."""
    skipped = _said_before([w for segment in transcript.segments for w in segment.words], context)
    segments = []
    for segment in transcript.segments:
        words, skipped = segment.words[skipped:], max(0, skipped - len(segment.words))
        if words:
            text, start = "".join(word.text for word in words).strip(), max(words[0].start, context)
            kept = words if keep_words else ()
            end = max(start, segment.end)
            segments.append(replace(segment, text=text, start=start, end=end, words=kept))
    return _transcript(segments, transcript.language)


def _said_before(words: Sequence[Word], context: float) -> int:
    """How many of the words belong to the context: of all places between two, the nearest to the
    pause after it. Times alone do not tell: a word's may reach far into the pause."""

    def distance(count: int) -> float:
        before, after = words[max(0, count - 1) : count], words[count : count + 1]
        edges = [*(word.end for word in before), *(word.start for word in after)]
        found = abs(float(np.mean(edges)) - context - PAUSE_SECONDS)
        ended = any(
            word.start < context and word.text.rstrip("\"'”’ ").endswith(SENTENCE_ENDS)
            for word in before
        )
        return found - SENTENCE_SECONDS if ended else found

    return min(range(len(words) + 1), key=distance) if words else 0


def _join(parts: list[tuple[float, Decoded]], options: DecodeOptions) -> Transcript:
    kept = list[tuple[float, Decoded]]()
    for start, decoded in parts:
        if reason := not_speech(decoded, options):
            NOT_SPEECH.labels(reason).inc()
        else:
            kept.append((start, decoded))
    segments = tuple(
        shift(segment, start)
        for start, decoded in kept
        for segment in decoded.segments
        if any(map(str.isalnum, segment.text))  # "..." is what noise becomes
    )
    language = options.language or (kept or parts)[0][1].language if parts else "en"
    return _transcript(segments, language)


def _transcript(segments: Sequence[Segment], language: str) -> Transcript:
    if not segments:
        return Transcript("", language)
    weights = [max(segment.end - segment.start, 0.02) for segment in segments]
    logprob = float(np.average([s.avg_logprob for s in segments], weights=weights))
    text = " ".join(segment.text for segment in segments)
    return Transcript(text, language, tuple(segments), min(1.0, math.exp(logprob)))


def shift(segment: Segment, seconds: float) -> Segment:
    """The same segment, later; times are rounded to milliseconds."""

    def later(time: float) -> float:
        return round(time + seconds, 3)

    words = tuple(
        replace(word, start=later(word.start), end=later(word.end)) for word in segment.words
    )
    return replace(segment, start=later(segment.start), end=later(segment.end), words=words)
