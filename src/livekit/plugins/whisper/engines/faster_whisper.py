"""faster-whisper (CTranslate2): int8 on CPUs, float16 on NVIDIA GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ctranslate2
import numpy as np
from faster_whisper import WhisperModel
from faster_whisper.audio import pad_or_trim
from faster_whisper.tokenizer import Tokenizer
from faster_whisper.transcribe import get_suppressed_tokens

from ..errors import DeviceError, ModelDamaged
from ..log import logger
from ..model_files import ModelFiles
from ..types import Audio, DecodeOptions, ModelKey, Segment
from .decoding import Decoded, WindowedEngine, split_by_timestamps, with_words

MAX_INITIAL_TIMESTAMP = 50
"""Speech starts within the first second of a window (in steps of 20 ms; Whisper's own limit)."""
PREPEND, APPEND = "\"'“¿([{-", "\"'.。,，!！?？:：”)]}、"
"""Punctuation that belongs to the word after it, and before it."""
FRAMES_PER_SECOND = 100
"""Of the log-mel spectrogram."""
BYTES = {"int8": 1, "int16": 2, "float16": 2, "bfloat16": 2, "float32": 4}


class FasterWhisperEngine(WindowedEngine):
    """One CTranslate2 model."""

    def __init__(self, model: WhisperModel, memory: int) -> None:
        self._model = model
        self.memory = memory
        self._warned = False
        self.multilingual = bool(model.model.is_multilingual)

    def _decode(
        self, batch: Sequence[Audio], options: DecodeOptions, temperature: float
    ) -> list[Decoded]:
        features = np.stack([pad_or_trim(self._features(audio)) for audio in batch])
        encoded = self._model.encode(features)
        languages = self._languages(encoded, len(batch), options)
        tokenizers = {language: self._tokenizer(language, options) for language in set(languages)}
        prompts = [self._prompt(tokenizers[language], options) for language in languages]
        sampling = (
            {"beam_size": 1, "sampling_topk": 0, "sampling_temperature": temperature}
            if temperature
            else {"beam_size": options.beam_size}
        )
        results = self._model.model.generate(
            encoded,
            prompts,
            max_length=self._model.max_length,
            suppress_tokens=get_suppressed_tokens(tokenizers[languages[0]], [-1]),
            max_initial_timestamp_index=MAX_INITIAL_TIMESTAMP,
            return_scores=True,
            return_no_speech_prob=True,
            **sampling,
        )
        decoded = []
        for result, language, audio in zip(results, languages, batch, strict=True):
            tokenizer, tokens = tokenizers[language], result.sequences_ids[0]
            # CTranslate2 divides the sum by the length; Whisper counts the end token as well.
            logprob = result.scores[0] * len(tokens) / (len(tokens) + 1)
            parts, consumed = split_by_timestamps(
                tokens, tokenizer.timestamp_begin, tokenizer.eot, audio.duration
            )
            segments = tuple(
                Segment(tokenizer.decode(text).strip(), s, e, logprob, result.no_speech_prob)
                for s, e, text in parts
            )
            raw = [{"seek": 0, "start": s, "end": e, "tokens": text} for s, e, text in parts]
            decoded.append(
                (raw, Decoded(segments, language, logprob, result.no_speech_prob, consumed))
            )
        if options.word_timestamps:
            for language, tokenizer in tokenizers.items():
                some = [i for i, (raw, d) in enumerate(decoded) if raw and d.language == language]
                if some:
                    whole = len(some) == len(batch)
                    view = encoded if whole else self._model.encode(features[some])
                    frames = [int(batch[i].duration * FRAMES_PER_SECOND) for i in some]
                    self._align([decoded[i][0] for i in some], tokenizer, view, frames)
        return [replace(d, segments=with_words(d.segments, raw)) for raw, d in decoded]

    def _features(self, audio: Audio) -> Any:
        return self._model.feature_extractor(audio.samples)

    def _languages(self, encoded: Any, count: int, options: DecodeOptions) -> list[str]:
        if not self.multilingual:
            return ["en"] * count
        if options.language:
            return [options.language] * count
        found = self._model.model.detect_language(encoded)
        return [probabilities[0][0].strip("<|>") for probabilities in found]

    def _tokenizer(self, language: str, options: DecodeOptions) -> Tokenizer:
        return Tokenizer(
            self._model.hf_tokenizer, self.multilingual, task=options.task, language=language
        )

    def _prompt(self, tokenizer: Tokenizer, options: DecodeOptions) -> list[int]:
        hot, before = (
            tokenizer.encode(" " + text.strip()) if text else []
            for text in (options.hotwords, options.prompt)
        )
        # Together they may take half of the context; else there is no room for the transcript.
        room = max(0, self._model.max_length // 2 - 1 - len(hot))
        if len(before) > room and not self._warned:
            self._warned = True
            logger.warning("prompt and hotwords: too long together, the prompt's start is cut off")
        kept = before[-room:] if room else []
        prompt: list[int] = self._model.get_prompt(tokenizer, kept, hotwords=options.hotwords)
        return prompt

    def _knows(self, language: str) -> bool:
        return self._model.hf_tokenizer.token_to_id(f"<|{language}|>") is not None

    def _align(
        self, raw: list[list[dict[str, Any]]], tokenizer: Tokenizer, encoded: Any, frames: list[int]
    ) -> None:
        """Puts word times from the cross attention into `raw` (faster-whisper's own method)."""
        self._model.add_word_timestamps(raw, tokenizer, encoded, frames, PREPEND, APPEND, 0.0)


def load(files: ModelFiles, key: ModelKey, *, threads: int) -> FasterWhisperEngine:
    """See `Loader`."""
    device, index = _device(key.device)
    compute_type = key.compute_type
    if compute_type == "auto":
        compute_type = "float16" if device == "cuda" else "int8"
    if compute_type != "default":
        supported = ctranslate2.get_supported_compute_types(device)
        if compute_type not in supported:
            raise DeviceError(
                f"compute_type (STT_COMPUTE_TYPE): {compute_type!r} is not supported on this "
                f"{device}; allowed here: auto, default, {', '.join(sorted(supported))}"
            )
    try:
        model = WhisperModel(
            str(files.path),
            device=device,
            device_index=index,
            compute_type=compute_type,
            cpu_threads=threads,
            local_files_only=True,
        )
    except Exception as exc:  # of whatever sort: its files are read by three libraries
        if "out of memory" in str(exc).lower():
            raise DeviceError(f"device (STT_DEVICE): {key.device!r}: {exc}") from exc
        raise ModelDamaged(f"{files.path}: cannot be loaded ({exc}); fetch it again") from exc
    actual = str(model.model.compute_type).partition("_")[0]
    engine = FasterWhisperEngine(model, files.parameters * BYTES.get(actual, 4))
    engine.smoke()
    return engine


def _device(wanted: str) -> tuple[str, int]:
    name, _, index = wanted.partition(":")
    count = ctranslate2.get_cuda_device_count()
    if name == "auto":
        return ("cuda" if count else "cpu"), 0
    if name == "cuda" and int(index or 0) >= count:
        raise DeviceError(
            f"device (STT_DEVICE): {wanted!r}: this machine has {count} CUDA device(s) that "
            "CTranslate2 can use; choose cpu or auto, or install the NVIDIA driver and CUDA"
        )
    return name, int(index or 0)
