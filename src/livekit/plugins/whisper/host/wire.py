"""What the host and its clients know of each other: names, and values as bytes and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, cast

import numpy as np

from .. import errors
from ..errors import AudioError, ConfigError, EngineError, Overloaded, WhisperError
from ..types import (
    MAX_TEXT,
    SAMPLE_RATE,
    Audio,
    DecodeOptions,
    ModelKey,
    Segment,
    Transcript,
    Utterance,
    Word,
)

PROTOCOL = 2
"""Raised whenever an older client or host would misunderstand."""

HOST = "/v1/host"
MODELS = "/v1/models"
LEASE = "/v1/lease"
TRANSCRIBE = "/v1/transcribe"

TEXT = "Whisper-Text-Bytes"
"""A header: the body begins with so many bytes of JSON, `{"prompt": …, "hotwords": …}`. What is
private, and may be long, is neither in the address, which proxies log, nor in a header."""
TOKEN = "Authorization"

MAX_SECONDS = 900.0
"""The longest audio of one request."""
SAMPLES = {"f32le": "<f4", "s16le": "<i2"}
"""How samples may come: as FFmpeg names it, and as NumPy does."""
SAMPLE_BYTES = 4
"""Of the larger one."""
MAX_JSON = 2 * 6 * MAX_TEXT + 64
"""Bytes of a prompt and hotwords as JSON, which may write a byte as six."""
MAX_BODY = int(MAX_SECONDS * SAMPLE_RATE) * SAMPLE_BYTES + MAX_JSON

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


def decode_audio(data: bytes | bytearray | memoryview, samples: str) -> Audio:
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
    found = np.require(np.frombuffer(data, kind).astype(np.float32, copy=False), requirements="A")
    return Audio(found / np.float32(32768) if kind.kind == "i" else found)


def request(
    key: ModelKey, utterance: Utterance, options: DecodeOptions
) -> tuple[Query, Query, bytes]:
    """The address's query, the headers, and what the body begins with."""
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
    private = {"prompt": options.prompt, "hotwords": options.hotwords}
    private = {name: text for name, text in private.items() if text}
    text = json.dumps(private).encode() if private else b""
    headers = {"Content-Type": "application/octet-stream"}
    return query, headers | ({TEXT: str(len(text))} if text else {}), text


def split_body(body: bytearray, size: str | None) -> tuple[dict[str, str], memoryview]:
    """The text at the beginning of a body, which `request` made, and the samples behind it.

    Args:
        body: all of it.
        size: the header `TEXT`; None: there is no text.

    Raises:
        ConfigError: it is not such a text.
    """
    if size is None:
        return {}, memoryview(body)
    try:
        end = int(size) if size.isascii() and size.isdecimal() and len(size) < 12 else len(body) + 1
        if end > len(body):
            raise ValueError(f"{size!r} for {len(body)} bytes")
        found = json.loads(body[:end])
        if not isinstance(found, dict) or not found.keys() <= {"prompt", "hotwords"}:
            raise ValueError("no object of prompt and hotwords")
        if not all(isinstance(text, str) for text in found.values()):
            raise ValueError("prompt and hotwords are strings")
    except (ValueError, RecursionError) as exc:
        said = "it is no JSON" if isinstance(exc, json.JSONDecodeError) else str(exc)
        raise ConfigError(f"{TEXT}: the text before the samples: {said[:100]}") from None
    return found, memoryview(body)[end:]


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
