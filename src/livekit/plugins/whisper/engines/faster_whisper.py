"""faster-whisper (CTranslate2): int8 on CPUs, float16 on NVIDIA GPUs."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
from faster_whisper import WhisperModel
from faster_whisper.tokenizer import Tokenizer
from faster_whisper.transcribe import get_suppressed_tokens

from ..errors import DeviceError, ModelDamaged
from ..log import logger
from ..model_files import ModelFiles
from ..types import WINDOW_SECONDS, Audio, DecodeOptions, ModelKey, Segment, Task
from . import cores, plan
from .decoding import WindowedEngine, split_by_timestamps, with_words
from .devices import load_on, number_format
from .features import FRAMES_PER_SECOND, Spectrogram, log_mel
from .quality import Decoded, token_limit

MAX_INITIAL_TIMESTAMP = 50
"""Speech starts within the first second of a window (in steps of 20 ms; Whisper's own limit)."""
PREPEND, APPEND = "\"'“¿([{-", "\"'.。,，!！?？:：”)]}、"
"""Punctuation that belongs to the word after it, and before it."""
AVX512 = {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}
"""What CTranslate2 needs of a processor for its AVX-512 code."""
FORCE_ISA = "CT2_FORCE_CPU_ISA"
BYTES = {"int8": 1, "int16": 2, "float16": 2, "bfloat16": 2, "float32": 4}
GPU_BATCH, SMALL_BATCH, LARGE_BATCH = 16, 8, 4
SMALL = 100e6
"""Parameters: up to `base`, a CPU decodes 10 % more utterances a second in eights than in fours, in
about a second. With larger models, whoever comes next would wait for many."""


class FasterWhisperEngine(WindowedEngine):
    """One CTranslate2 model. Its workers share the weights; nothing here belongs to a call."""

    name = "faster-whisper"
    adaptive = True

    def __init__(self, model: WhisperModel, parameters: int, workers: int) -> None:
        self._model = model
        actual = str(model.model.compute_type).partition("_")[0]
        self.memory = parameters * BYTES.get(actual, 4)
        self.workers = workers
        small = SMALL_BATCH if parameters < SMALL else LARGE_BATCH
        self.batch = GPU_BATCH if model.model.device == "cuda" else small
        self._warned = False
        self._filters: Spectrogram = model.feature_extractor.mel_filters
        self.multilingual = bool(model.model.is_multilingual)
        self._tokenizers: dict[tuple[str, Task], Tokenizer] = {}
        self._suppressed = get_suppressed_tokens(self._tokenizer("en", "transcribe"), [-1])

    def _encode(self, batch: Sequence[Audio], options: DecodeOptions, seconds: float) -> _Encoded:
        frames = round(seconds * FRAMES_PER_SECOND)
        features = [log_mel(audio, self._filters, frames) for audio in batch]
        encoded = _Encoded(self._model, batch, features, seconds)
        if not self.multilingual:
            encoded.languages = [("en", 1.0)] * len(batch)
        elif options.language:
            encoded.languages = [(options.language, 1.0)] * len(batch)
        else:
            found = self._model.model.detect_language(encoded.view(range(len(batch))))
            encoded.languages = [(best.strip("<|>"), prob) for (best, prob), *_ in found]
        return encoded

    def _decode(
        self, encoded: _Encoded, members: Sequence[int], options: DecodeOptions, temperature: float
    ) -> list[Decoded]:
        tokenizers = [self._tokenizer(encoded.languages[i][0], options.task) for i in members]
        results = self._generate(encoded, members, tokenizers, options, temperature)
        decoded, raws = list[Decoded](), list[list[dict[str, Any]]]()
        for i, result, tokenizer in zip(members, results, tokenizers, strict=True):
            tokens = result.sequences_ids[0]
            # CTranslate2 divides the sum by the length; Whisper counts the end token as well.
            logprob = result.scores[0] * len(tokens) / (len(tokens) + 1)
            parts, consumed = split_by_timestamps(
                tokens, tokenizer.timestamp_begin, tokenizer.eot, encoded.batch[i].duration
            )
            segments = tuple(
                Segment(tokenizer.decode(text).strip(), s, e, logprob, result.no_speech_prob)
                for s, e, text in parts
            )
            raws.append([{"seek": 0, "start": s, "end": e, "tokens": text} for s, e, text in parts])
            language, sure = encoded.languages[i]
            decoded.append(
                Decoded(
                    segments, language, logprob, result.no_speech_prob, consumed,
                    len(tokens), sure,
                )
            )  # fmt: skip
        if not options.word_timestamps:
            return decoded
        self._align(encoded, members, raws, tokenizers)
        return [
            replace(each, segments=with_words(each.segments, raw))
            for each, raw in zip(decoded, raws, strict=True)
        ]

    def _generate(
        self,
        encoded: _Encoded,
        members: Sequence[int],
        tokenizers: list[Tokenizer],
        options: DecodeOptions,
        temperature: float,
    ) -> list[Any]:
        prompts = [self._prompt(tokenizer, options) for tokenizer in tokenizers]
        longest = self._model.max_length
        if encoded.seconds < WINDOW_SECONDS:
            # A short window that repeats itself is decoded again anyhow: it may stop early.
            most = max(token_limit(encoded.batch[i].duration) for i in members) + 1
            longest = min(longest, max(2 * most, most + max(map(len, prompts))))
        sampling = (
            {"beam_size": 1, "sampling_topk": 0, "sampling_temperature": temperature}
            if temperature
            else {"beam_size": options.beam_size}
        )
        results: list[Any] = self._model.model.generate(
            encoded.view(members),
            prompts,
            max_length=longest,
            suppress_tokens=self._suppressed,
            max_initial_timestamp_index=MAX_INITIAL_TIMESTAMP,
            return_scores=True,
            return_no_speech_prob=True,
            **sampling,
        )
        return results

    def _tokenizer(self, language: str, task: Task) -> Tokenizer:
        found = self._tokenizers.get((language, task))
        if found is None:
            made = Tokenizer(
                self._model.hf_tokenizer, self.multilingual, task=task, language=language
            )
            found = self._tokenizers.setdefault((language, task), made)
        return found

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
        self,
        encoded: _Encoded,
        members: Sequence[int],
        raws: list[list[dict[str, Any]]],
        tokenizers: list[Tokenizer],
    ) -> None:
        """Puts word times from the cross attention into `raws` (faster-whisper's own method)."""
        spoken = [(i, raw, t) for i, raw, t in zip(members, raws, tokenizers, strict=True) if raw]
        # The aligner takes one language a batch.
        for tokenizer in dict.fromkeys(tokenizer for *_, tokenizer in spoken):
            some = [(i, raw) for i, raw, own in spoken if own is tokenizer]
            frames = [int(encoded.batch[i].duration * FRAMES_PER_SECOND) for i, _ in some]
            self._model.add_word_timestamps(
                [raw for _, raw in some],
                tokenizer,
                encoded.view([i for i, _ in some]),
                frames,
                PREPEND,
                APPEND,
                0.0,
            )


class _Encoded:
    """What the encoder made of windows of one length; can be decoded any number of times."""

    def __init__(
        self,
        model: WhisperModel,
        batch: Sequence[Audio],
        features: list[Spectrogram],
        seconds: float,
    ) -> None:
        self.batch, self.seconds = batch, seconds
        self.languages: list[tuple[str, float]] = []
        """Language and its probability, of each window."""
        self._model, self._features = model, features
        self._on_gpu = model.model.device == "cuda"
        # On a CPU one by one is faster than together, by a third in batches of eight: what a layer
        # computes with then stays in the processor's cache.
        self._parts = [] if self._on_gpu else [np.array(model.encode(each)) for each in features]
        self._view: tuple[list[int], Any] = ([], None)

    def view(self, members: Sequence[int]) -> Any:
        """The encoded windows of these members, as CTranslate2 takes them."""
        if self._view[0] != list(members):
            if self._on_gpu:
                made = self._model.encode(np.stack([self._features[i] for i in members]))
            else:
                joined = np.concatenate([self._parts[i] for i in members])
                made = ctranslate2.StorageView.from_array(joined)
            self._view = list(members), made
        return self._view[1]


def load(files: ModelFiles, key: ModelKey, *, threads: int, workers: int) -> FasterWhisperEngine:
    """See `Loader`."""

    def load_on_one(device: str, index: int) -> FasterWhisperEngine:
        # A GPU is shared by time: a second worker takes memory and adds nothing.
        several, each = plan(cores(), workers or int(device == "cuda"), threads)
        if device == "cuda":
            check_cudnn()
        supported = ctranslate2.get_supported_compute_types(device, index)
        try:
            model = WhisperModel(
                str(files.path),
                device=device,
                device_index=index,
                compute_type=number_format(key.compute_type, supported, device),
                cpu_threads=each,
                num_workers=several,
                local_files_only=True,
            )
        except DeviceError:
            raise
        except Exception as exc:  # of whatever sort: its files are read by three libraries
            raise ModelDamaged(f"{files.path}: cannot be loaded ({exc}); fetch it again") from exc
        engine = FasterWhisperEngine(model, files.parameters, several)
        engine.smoke()
        return engine

    with _fast_code():
        return load_on(key.device, ctranslate2.get_cuda_device_count(), _use_gpu, load_on_one)


def _use_gpu() -> None:
    """Raises what CUDA says where there is no GPU that can be used, and as often as it is asked."""
    ctranslate2.StorageView.from_array(np.zeros(1, np.float32)).to_device(ctranslate2.Device.cuda)


def check_cudnn(libraries: Path | None = None) -> None:
    """Looks for cuDNN, without which CTranslate2 before 4.8.1 ends the whole process.

    Those have the first part of cuDNN with them, which looks for the others when it is used.

    Args:
        libraries: where they have it; None: beside the installed package.

    Raises:
        OSError: the other parts are not found.
    """
    folder = libraries or Path(ctranslate2.__file__).parent.with_name("ctranslate2.libs")
    for part in folder.glob("libcudnn*.so.*"):
        major = int(part.name.partition(".so.")[2].partition(".")[0])
        ctypes.CDLL(f"libcudnn_ops{'' if major > 8 else '_infer'}.so.{major}")


@contextmanager
def _fast_code() -> Iterator[None]:
    """Has CTranslate2 use AVX-512 where that is fast, which it never chooses by itself.

    It reads the variable when its first model is loaded. It does not stay in the environment, which
    says which host a process means.
    """
    ours = FORCE_ISA not in os.environ and _has_fast_avx512()
    if ours:
        os.environ[FORCE_ISA] = "AVX512"
    try:
        yield
    finally:
        if ours:
            os.environ.pop(FORCE_ISA, None)


def _has_fast_avx512() -> bool:
    """Whether this is an AMD processor with AVX-512: they run it at full clock.

    Measured with tiny.en int8: 6 % more utterances a second. Many of Intel's lower their clock.
    """
    try:
        facts = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:
        return False
    return "AuthenticAMD" in facts and set(facts.split()) >= AVX512
