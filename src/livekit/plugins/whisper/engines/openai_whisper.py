"""openai-whisper (PyTorch): the reference implementation."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import whisper
from whisper.timing import add_word_timestamps
from whisper.tokenizer import LANGUAGES, get_tokenizer

from ..errors import ModelDamaged
from ..model_files import ModelFiles
from ..types import Audio, DecodeOptions, ModelKey, Segment
from . import cores, plan
from .decoding import WindowedEngine, split_by_timestamps, with_words
from .devices import load_on, torch_format
from .quality import Decoded

CPU_BATCH, GPU_BATCH = 4, 16


@dataclass(frozen=True)
class _Encoded:
    """What the encoder made of windows of 30 s."""

    batch: Sequence[Audio]
    mel: torch.Tensor
    """(windows, mels, frames)."""
    features: torch.Tensor
    """(windows, positions, channels)."""
    languages: list[str]


class OpenAIWhisperEngine(WindowedEngine):
    """One PyTorch model. Its encoder takes 30 s only: an adaptive window is a full one."""

    name = "openai-whisper"
    adaptive = False
    workers = 1  # PyTorch's threads are the process's: two workers would only share them

    def __init__(self, model: whisper.Whisper, threads: int) -> None:
        self._model = model
        self._threads = threads
        self.memory = sum(p.numel() * p.element_size() for p in model.parameters())
        self.multilingual = bool(model.is_multilingual)
        self.batch = GPU_BATCH if model.device.type == "cuda" else CPU_BATCH

    def _encode(self, batch: Sequence[Audio], options: DecodeOptions, seconds: float) -> _Encoded:
        torch.set_num_threads(self._threads)
        mel = torch.stack([self._mel(audio) for audio in batch])
        with torch.no_grad():
            features = self._model.embed_audio(mel)
        return _Encoded(batch, mel, features, self._languages(features, options))

    def _decode(
        self, encoded: _Encoded, members: Sequence[int], options: DecodeOptions, temperature: float
    ) -> list[Decoded]:
        torch.set_num_threads(self._threads)
        decoded = dict[int, Decoded]()
        # The reference decoder takes one language a batch.
        for language in dict.fromkeys(encoded.languages[i] for i in members):
            some = [i for i in members if encoded.languages[i] == language]
            tokenizer = get_tokenizer(
                self.multilingual,
                num_languages=self._model.num_languages,
                language=language,
                task=options.task,
            )
            wanted = self._options(options, language, temperature)
            if wanted.beam_size is None:
                results = whisper.decode(self._model, encoded.features[some], wanted)
            else:  # its beam search fails on batches (openai-whisper 20250625)
                results = [whisper.decode(self._model, encoded.features[i], wanted) for i in some]
            for i, result in zip(some, results, strict=True):
                audio = encoded.batch[i]
                parts, consumed = split_by_timestamps(
                    result.tokens, tokenizer.timestamp_begin, tokenizer.eot, audio.duration
                )
                segments = tuple(
                    Segment(
                        tokenizer.decode(tokens).strip(), start, end,
                        result.avg_logprob, result.no_speech_prob,
                    )
                    for start, end, tokens in parts
                )  # fmt: skip
                if options.word_timestamps and segments:
                    segments = self._align(segments, parts, tokenizer, encoded.mel[i], audio)
                decoded[i] = Decoded(
                    segments, language, result.avg_logprob, result.no_speech_prob, consumed
                )
        return [decoded[i] for i in members]

    def _knows(self, language: str) -> bool:
        return language in list(LANGUAGES)[: self._model.num_languages]

    def _mel(self, audio: Audio) -> torch.Tensor:
        samples = torch.from_numpy(audio.samples).to(self._model.device)
        mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(samples), self._model.dims.n_mels)
        return torch.as_tensor(mel, dtype=next(self._model.parameters()).dtype)

    def _languages(self, features: torch.Tensor, options: DecodeOptions) -> list[str]:
        if not self.multilingual:
            return ["en"] * len(features)
        if options.language:
            return [options.language] * len(features)
        _, probabilities = self._model.detect_language(features)
        return [max(each, key=each.__getitem__) for each in probabilities]

    def _options(
        self, options: DecodeOptions, language: str, temperature: float
    ) -> whisper.DecodingOptions:
        return whisper.DecodingOptions(
            task=options.task,
            language=language,
            temperature=temperature,
            beam_size=options.beam_size if options.beam_size > 1 and not temperature else None,
            prompt=options.prompt,
            fp16=next(self._model.parameters()).dtype == torch.float16,
        )

    def _align(
        self,
        segments: tuple[Segment, ...],
        parts: list[tuple[float, float, list[int]]],
        tokenizer: Any,
        mel: torch.Tensor,
        audio: Audio,
    ) -> tuple[Segment, ...]:
        """Word times from the cross attention (openai-whisper's own method)."""
        raw = [{"seek": 0, "start": s, "end": e, "tokens": tokens} for s, e, tokens in parts]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Failed to launch Triton kernels")
            add_word_timestamps(
                segments=raw,
                model=self._model,
                tokenizer=tokenizer,
                mel=mel,
                num_frames=int(audio.duration * 100),
                last_speech_timestamp=0.0,
            )
        return with_words(segments, raw)


def load(files: ModelFiles, key: ModelKey, *, threads: int, workers: int) -> OpenAIWhisperEngine:
    """See `Loader`."""
    _, threads = plan(cores(), 1, threads)
    torch.set_num_threads(threads)

    def load_on_one(device: str, index: int) -> OpenAIWhisperEngine:
        on_gpu = device == "cuda"
        capability = torch.cuda.get_device_capability(index) if on_gpu else None
        compute_type = torch_format(key.compute_type, capability)
        try:
            model = whisper.load_model(str(files.path), f"cuda:{index}" if on_gpu else "cpu")
        except Exception as exc:  # a pickle, zip, key or shape error: whatever is wrong in the file
            raise ModelDamaged(
                f"{files.path}: is no openai-whisper checkpoint, or is damaged "
                f"({type(exc).__name__}: {exc}); fetch it again"
            ) from exc
        if files.name in whisper._ALIGNMENT_HEADS:
            model.set_alignment_heads(whisper._ALIGNMENT_HEADS[files.name])
        engine = OpenAIWhisperEngine(model.half() if compute_type == "float16" else model, threads)
        engine.smoke()
        return engine

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return load_on(key.device, gpus, torch.cuda.init, load_on_one)
