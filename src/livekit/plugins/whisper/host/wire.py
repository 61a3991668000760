"""What the host and its clients know of each other: names, and values as bytes and JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, cast
from urllib.parse import quote, unquote

import numpy as np

from .. import errors
from ..errors import AudioError, EngineError, Overloaded, WhisperError
from ..types import (
    SAMPLE_RATE,
    Audio,
    DecodeOptions,
    ModelKey,
    Segment,
    Transcript,
    Utterance,
    Word,
)

PROTOCOL = 1
"""Raised whenever an older client or host would misunderstand."""

HOST = "/v1/host"
MODELS = "/v1/models"
LEASE = "/v1/lease"
TRANSCRIBE = "/v1/transcribe"

PROMPT, HOTWORDS = "Whisper-Prompt", "Whisper-Hotwords"
"""Headers, percent-encoded: what is private is not in the address, which proxies log."""
TOKEN = "Authorization"

MAX_SECONDS = 900.0
"""The longest audio of one request."""
SAMPLES = {"f32le": "<f4", "s16le": "<i2"}
"""How samples may come: as FFmpeg names it, and as NumPy does."""
SAMPLE_BYTES = 4
"""Of the larger one."""
MAX_BODY = int(MAX_SECONDS * SAMPLE_RATE) * SAMPLE_BYTES

BEAT_SECONDS = 2.0
"""A lease says something at least so often."""

Query = dict[str, str]


class NotLeased(WhisperError):
    """The host does not know the model: it was not started with it, and nobody leases it."""

    code = "not_leased"


class NotAuthorized(WhisperError):
    """The host wants a token, and not this one."""

    code = "not_authorized"


class Draining(WhisperError):
    """The host is about to end; another one takes its place."""

    code = "draining"
    retryable = True


def encode_audio(audio: Audio) -> tuple[memoryview, str]:
    """Samples at 16 kHz, mono, and their format: 16 bits where that is all they have."""
    with np.errstate(invalid="ignore", over="ignore"):  # what is no number equals no integer
        whole = audio.samples * np.float32(32768)
        short = whole.astype("<i2")
    if np.array_equal(short, whole):
        return short.data.cast("B"), "s16le"
    return np.ascontiguousarray(audio.samples, "<f4").data.cast("B"), "f32le"


def decode_audio(data: bytes | bytearray, samples: str) -> Audio:
    """What `encode_audio` made.

    Raises:
        AudioError: not a whole number of samples, or too many.
    """
    kind = np.dtype(SAMPLES[samples])
    if len(data) % kind.itemsize:
        raise AudioError(
            f"body: {len(data)} bytes are no {8 * kind.itemsize}-bit samples; send raw {samples}, "
            "mono, 16 kHz"
        )
    if len(data) // kind.itemsize > MAX_SECONDS * SAMPLE_RATE:
        raise AudioError(f"body: more than {MAX_SECONDS:.0f} s of audio; send it in parts")
    found = np.frombuffer(data, kind).astype(np.float32, copy=False)
    return Audio(found / np.float32(32768) if kind.kind == "i" else found)


def request(key: ModelKey, utterance: Utterance, options: DecodeOptions) -> tuple[Query, Query]:
    """The address's query and the headers of a request."""
    values: dict[str, Any] = {
        **asdict(key),
        "language": options.language,
        "task": options.task,
        "beam_size": options.beam_size,
        "word_timestamps": str(options.word_timestamps).lower(),
        "window": options.window,
        "context": repr(float(options.context)) if options.context else None,
        "start": repr(float(utterance.start)),
        "stream": utterance.stream,
        "urgency": utterance.urgency.name.lower(),
    }
    query = {name: str(value) for name, value in values.items() if value not in (None, "")}
    private = {PROMPT: options.prompt, HOTWORDS: options.hotwords}
    return query, {name: quote(text, safe=" ") for name, text in private.items() if text}


def private_text(headers: Mapping[str, str], name: str) -> str | None:
    """A header that `request` wrote."""
    value = headers.get(name)
    return unquote(value) if value else None


def decode_transcript(raw: Mapping[str, Any]) -> Transcript:
    """The transcript in an answer of the host."""
    segments = tuple(
        Segment(**{**segment, "words": tuple(Word(**word) for word in segment["words"])})
        for segment in raw["segments"]
    )
    return Transcript(raw["text"], raw["language"], segments, raw["confidence"])


def encode_error(exc: WhisperError) -> dict[str, Any]:
    """An error as the host answers it."""
    found: dict[str, Any] = {"code": exc.code, "message": str(exc), "retryable": exc.retryable}
    if isinstance(exc, Overloaded):
        found["retry_after"] = exc.retry_after
    return {"error": found}


def is_error(raw: object) -> bool:
    """Whether it is what `encode_error` made."""
    found = raw.get("error") if isinstance(raw, dict) else None
    return isinstance(found, dict) and isinstance(found.get("message"), str)


def decode_error(raw: object) -> WhisperError:
    """The same error, on the client's side; whatever else answers is an `EngineError`."""
    if not is_error(raw):
        return EngineError("what answers is no livekit-whisper host, or one of another version")
    found = cast(dict[str, Any], raw)["error"]
    kind = _BY_CODE.get(str(found.get("code")), EngineError)
    if kind is Overloaded:
        return Overloaded(found["message"], float(found.get("retry_after", 1.0)))
    error = kind(found["message"])
    error.retryable = bool(found.get("retryable", kind.retryable))
    return error


def _all(kind: type[WhisperError]) -> Iterator[type[WhisperError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _all(child)


_BY_CODE = {
    kind.code: kind for kind in _all(WhisperError) if kind.__module__ in (errors.__name__, __name__)
}

STATUS = {
    "config": 422,
    "audio": 422,
    "missing_extra": 422,
    "device": 422,
    "model": 422,
    "model_not_found": 404,
    "model_damaged": 422,
    "not_authorized": 401,
    "not_leased": 409,
    "superseded": 409,
    "overloaded": 429,
    "download": 502,
    "host": 503,
    "draining": 503,
    "closed": 503,
}
"""HTTP status of an error's code; 500 where it is none of these."""
