"""What both engines share: windows, quality checks with fallback, and joining into transcripts.

An engine subclasses `WindowedEngine` and says how to decode a batch of windows once.
"""

from __future__ import annotations

import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..audio import windows
from ..errors import AudioError, ConfigError, EngineError, ModelDamaged, WhisperError
from ..types import SAMPLE_RATE, Audio, DecodeOptions, Segment, Transcript, Word

MAX_BATCH = 8
"""Windows decoded at once; more take memory and bring little on a CPU."""
TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
COMPRESSION_RATIO_LIMIT = 2.4
LOG_PROB_LIMIT = -1.0
NO_SPEECH_LIMIT = 0.6
"""The four above are Whisper's own (Radford et al. 2022, section 4.5): greedy first, then sampled
until text is neither repetitive nor improbable; improbable text in likely silence is dropped."""
SURE_NO_SPEECH, SURE_LOG_PROB = 0.8, -0.6
"""Where silence is that likely, likelier text is dropped as well: steady noise makes the small
models say "you" at -0.7 to -0.9 with 0.91 to 0.95 (tiny.en); speech stays below 0.1."""
SILENCE_PEAK = 1e-4
"""Samples that never pass this (-80 dB of full scale) are digital silence: nothing to decode."""
REST_SECONDS = 1.0
REST_LOUDNESS = 0.1
"""A rest of a window at least this long and this loud (against its loudest 0.1 s) that Whisper's
timestamps leave undecoded is decoded on its own, as Whisper's own seeking does."""


@dataclass(frozen=True)
class Decoded:
    """One window, decoded once. Times are in seconds from its start."""

    segments: tuple[Segment, ...]
    language: str
    avg_logprob: float
    no_speech_prob: float
    consumed: float
    """Up to where Whisper says that it has transcribed, in seconds."""

    @property
    def text(self) -> str:
        return " ".join(segment.text for segment in self.segments)

    @property
    def is_silence(self) -> bool:
        """Whisper's own rule for a window without speech, and a second where it is surer."""
        limits = ((NO_SPEECH_LIMIT, LOG_PROB_LIMIT), (SURE_NO_SPEECH, SURE_LOG_PROB))
        return any(
            self.no_speech_prob > no_speech and self.avg_logprob < log_prob
            for no_speech, log_prob in limits
        )

    @property
    def is_doubtful(self) -> bool:
        """Whether to decode it again, sampling."""
        repetitive = compression_ratio(self.text) > COMPRESSION_RATIO_LIMIT
        return not self.is_silence and (repetitive or self.avg_logprob < LOG_PROB_LIMIT)


@dataclass
class _Window:
    """A part of an utterance on its way through the engine."""

    index: int
    start: float
    audio: Audio


class WindowedEngine(ABC):
    """Decodes utterances of any length with a model that takes at most 30 s."""

    multilingual: bool

    @abstractmethod
    def _decode(
        self, batch: Sequence[Audio], options: DecodeOptions, temperature: float
    ) -> list[Decoded]:
        """Decodes windows of at most 30 s, once; same length, same order."""

    def transcribe(self, batch: Sequence[Audio], options: DecodeOptions) -> list[Transcript]:
        """See `Engine.transcribe`."""
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
            now, waiting = waiting[:MAX_BATCH], waiting[MAX_BATCH:]
            for window, decoded in zip(now, self._decode_surely(now, options), strict=True):
                heard[window.index].append((window.start, decoded))
                if rest := _rest(window, decoded):
                    waiting.insert(0, rest)
        return [_join(sorted(parts, key=lambda p: p[0]), options) for parts in heard]

    def smoke(self) -> None:
        """Decodes a second of a quiet tone: a model that yields numbers is called ready.

        Raises:
            ModelDamaged: it yields none.
        """
        phase = np.arange(SAMPLE_RATE) * (2 * np.pi * 440 / SAMPLE_RATE)
        tone = Audio((0.01 * np.sin(phase)).astype(np.float32))
        try:
            (decoded,) = self._decode([tone], DecodeOptions(language="en"), 0.0)
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

    def _decode_surely(self, now: list[_Window], options: DecodeOptions) -> list[Decoded]:
        """Decodes greedily, then what is doubtful again at rising temperatures; keeps the best."""
        tries: list[list[Decoded]] = [[] for _ in now]
        todo = list(range(len(now)))
        for temperature in TEMPERATURES:
            results = self._decode([now[i].audio for i in todo], options, temperature)
            if len(results) != len(todo):
                raise EngineError(f"engine returned {len(results)} results for {len(todo)} windows")
            for i, decoded in zip(todo, results, strict=True):
                tries[i].append(decoded)
            todo = [i for i in todo if tries[i][-1].is_doubtful]
            if not todo:
                break
        return [_best(attempts) for attempts in tries]


def compression_ratio(text: str) -> float:
    """Bytes of text for each byte of its zlib form: high where it repeats itself."""
    data = text.encode()
    return len(data) / len(zlib.compress(data)) if data else 0.0


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


def _best(attempts: list[Decoded]) -> Decoded:
    last = attempts[-1]
    if not last.is_doubtful:
        return last
    varied = [d for d in attempts if compression_ratio(d.text) <= COMPRESSION_RATIO_LIMIT]
    return max(varied or attempts, key=lambda decoded: decoded.avg_logprob)


def _rest(window: _Window, decoded: Decoded) -> _Window | None:
    cut = int(decoded.consumed * SAMPLE_RATE)
    samples = window.audio.samples
    rest = samples[cut:]
    if not decoded.segments or decoded.is_silence or len(rest) < REST_SECONDS * SAMPLE_RATE:
        return None
    if cut < SAMPLE_RATE // 10 or _loudness(rest) < REST_LOUDNESS * _loudness(samples):
        return None
    return _Window(window.index, window.start + cut / SAMPLE_RATE, Audio(rest))


def _loudness(samples: np.ndarray[tuple[int], np.dtype[np.float32]]) -> float:
    """Root mean square of the loudest 0.1 s."""
    size = SAMPLE_RATE // 10
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    return float(np.sqrt(np.square(frames).mean(axis=1).max())) if len(frames) else 0.0


def _join(parts: list[tuple[float, Decoded]], options: DecodeOptions) -> Transcript:
    kept = [(start, decoded) for start, decoded in parts if not decoded.is_silence]
    segments = tuple(
        shift(segment, start)
        for start, decoded in kept
        for segment in decoded.segments
        if any(map(str.isalnum, segment.text))  # "..." is what noise becomes
    )
    language = options.language or (kept or parts)[0][1].language if parts else "en"
    if not segments:
        return Transcript("", language)
    weights = [max(segment.end - segment.start, 0.02) for segment in segments]
    logprob = float(np.average([s.avg_logprob for s in segments], weights=weights))
    text = " ".join(segment.text for segment in segments)
    return Transcript(text, language, segments, min(1.0, math.exp(logprob)))


def shift(segment: Segment, seconds: float) -> Segment:
    """The same segment, later; times are rounded to milliseconds."""

    def later(time: float) -> float:
        return round(time + seconds, 3)

    words = tuple(
        replace(word, start=later(word.start), end=later(word.end)) for word in segment.words
    )
    return replace(segment, start=later(segment.start), end=later(segment.end), words=words)
