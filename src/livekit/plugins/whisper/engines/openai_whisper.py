"""openai-whisper (PyTorch): the reference implementation."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
import whisper
from whisper.timing import add_word_timestamps
from whisper.tokenizer import LANGUAGES, get_tokenizer

from ..errors import DeviceError, ModelDamaged
from ..model_files import ModelFiles
from ..types import Audio, DecodeOptions, ModelKey, Segment
from .decoding import Decoded, WindowedEngine, split_by_timestamps, with_words


class OpenAIWhisperEngine(WindowedEngine):
    """One PyTorch model."""

    def __init__(self, model: whisper.Whisper, threads: int) -> None:
        self._model = model
        self._threads = threads
        self.memory = sum(p.numel() * p.element_size() for p in model.parameters())
        self.multilingual = bool(model.is_multilingual)

    def _decode(
        self, batch: Sequence[Audio], options: DecodeOptions, temperature: float
    ) -> list[Decoded]:
        torch.set_num_threads(self._threads)
        mel = torch.stack([self._mel(audio) for audio in batch])
        languages = self._languages(mel, options)
        decoded: list[Decoded | None] = [None] * len(batch)
        # The reference decoder takes one language a batch.
        for language in dict.fromkeys(languages):
            members = [i for i, spoken in enumerate(languages) if spoken == language]
            tokenizer = get_tokenizer(
                self.multilingual,
                num_languages=self._model.num_languages,
                language=language,
                task=options.task,
            )
            wanted = self._options(options, language, temperature)
            if wanted.beam_size is None:
                results = whisper.decode(self._model, mel[members], wanted)
            else:  # its beam search fails on batches (openai-whisper 20250625)
                results = [whisper.decode(self._model, mel[i], wanted) for i in members]
            for i, result in zip(members, results, strict=True):
                parts, consumed = split_by_timestamps(
                    result.tokens, tokenizer.timestamp_begin, tokenizer.eot, batch[i].duration
                )
                segments = tuple(
                    Segment(
                        tokenizer.decode(tokens).strip(), start, end,
                        result.avg_logprob, result.no_speech_prob,
                    )
                    for start, end, tokens in parts
                )  # fmt: skip
                if options.word_timestamps and segments:
                    segments = self._align(segments, parts, tokenizer, mel[i], batch[i])
                decoded[i] = Decoded(
                    segments, language, result.avg_logprob, result.no_speech_prob, consumed
                )
        return [item for item in decoded if item is not None]

    def _knows(self, language: str) -> bool:
        return language in list(LANGUAGES)[: self._model.num_languages]

    def _mel(self, audio: Audio) -> torch.Tensor:
        samples = torch.from_numpy(audio.samples).to(self._model.device)
        mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(samples), self._model.dims.n_mels)
        return torch.as_tensor(mel, dtype=next(self._model.parameters()).dtype)

    def _languages(self, mel: torch.Tensor, options: DecodeOptions) -> list[str]:
        if not self.multilingual:
            return ["en"] * len(mel)
        if options.language:
            return [options.language] * len(mel)
        _, probabilities = self._model.detect_language(mel)
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


def load(files: ModelFiles, key: ModelKey, *, threads: int) -> OpenAIWhisperEngine:
    """See `Loader`."""
    device = _device(key.device)
    on_gpu = device.startswith("cuda")
    if key.compute_type == "float16" and not on_gpu:
        raise DeviceError(
            "compute_type (STT_COMPUTE_TYPE): 'float16' is not supported by openai-whisper on a "
            "CPU; allowed here: auto, default, float32"
        )
    torch.set_num_threads(threads)
    try:
        model = whisper.load_model(str(files.path), device=device)
    except torch.cuda.OutOfMemoryError as exc:
        raise DeviceError(f"device (STT_DEVICE): {key.device!r}: {exc}") from exc
    except Exception as exc:  # a pickle, zip, key or shape error: whatever is wrong in the file
        raise ModelDamaged(
            f"{files.path}: is no openai-whisper checkpoint, or is damaged "
            f"({type(exc).__name__}: {exc}); fetch it again"
        ) from exc
    if files.name in whisper._ALIGNMENT_HEADS:
        model.set_alignment_heads(whisper._ALIGNMENT_HEADS[files.name])
    if key.compute_type == "float16" or (on_gpu and key.compute_type == "auto"):
        model = model.half()
    engine = OpenAIWhisperEngine(model, threads)
    engine.smoke()
    return engine


def _device(wanted: str) -> str:
    name, _, index = wanted.partition(":")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return "cuda" if count else "cpu"
    if name == "cuda" and int(index or 0) >= count:
        raise DeviceError(
            f"device (STT_DEVICE): {wanted!r}: this machine has {count} CUDA device(s) that "
            "PyTorch can use; choose cpu or auto, or install the NVIDIA driver"
        )
    return wanted
