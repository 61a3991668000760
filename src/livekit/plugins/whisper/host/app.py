"""The host's ASGI app over a `Backend`: plain HTTP, so that curl works on it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Route

from .. import metrics
from ..cache import CacheEntry
from ..errors import ConfigError, WhisperError
from ..languages import parse_language
from ..types import WINDOW_SECONDS, DecodeOptions, ModelKey, Task, Urgency, Utterance, Window
from ..version import __version__
from . import wire
from .exchange import CallerGone, Lease, counted, error_response, received, unless_gone
from .guard import Guard
from .state import HostState

CLIENT_CLOSED = 499
"""Nobody reads it; it is what the metrics show (nginx's number for this)."""


class Key(BaseModel):
    """Which weights: the fields of `ModelKey`."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    engine: str = Field(max_length=32, examples=["faster-whisper"])
    model: str = Field(min_length=1, max_length=1024, examples=["tiny.en"])
    revision: str | None = Field(default=None, min_length=1, max_length=128)
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:[0-9]{1,3})?)$")
    compute_type: str = Field(default="auto", max_length=16)

    def to_key(self) -> ModelKey:
        return ModelKey(self.engine, self.model, self.revision, self.device, self.compute_type)


class Question(Key):
    """Which weights, how to decode, and whose utterance it is."""

    language: str | None = Field(default=None, max_length=32)
    task: Task = "transcribe"
    beam_size: int = Field(default=1, ge=1, le=32)
    word_timestamps: bool = False
    window: Window = "adaptive"
    context: float = Field(default=0.0, ge=0.0, le=WINDOW_SECONDS, allow_inf_nan=False)
    samples: Literal["f32le", "s16le"] = "f32le"
    start: float = Field(default=0.0, ge=-1e9, le=1e9, allow_inf_nan=False)
    stream: str = Field(default="", max_length=128)
    urgency: Literal["final", "preflight", "interim"] = "final"

    @classmethod
    def of(cls, request: Request) -> Question:
        """In the address's query."""
        try:
            return cls.model_validate(dict(request.query_params))
        except ValidationError as exc:
            raise ConfigError(_wrong(exc.errors())) from None

    @classmethod
    def described(cls) -> dict[str, Any]:
        """The same for the app's own description, and the body beside it."""
        schema = cls.model_json_schema()
        required = schema.get("required", ())
        body = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
        return {
            "parameters": [
                {"name": name, "in": "query", "required": name in required, "schema": field}
                for name, field in schema["properties"].items()
            ],
            "requestBody": {"required": True, "content": body},
        }

    def to_options(self) -> DecodeOptions:
        """All but prompt and hotwords, which are in the body."""
        try:
            language = parse_language(self.language)
        except ValueError as exc:
            raise ConfigError(f"language: {exc}") from exc
        return DecodeOptions(
            language=language,
            task=self.task,
            beam_size=self.beam_size,
            word_timestamps=self.word_timestamps,
            window=self.window,
            context=self.context,
        )


def create_app(state: HostState, token: str | None = None) -> FastAPI:
    """The app of a host. Its own description is at `/openapi.json`.

    Args:
        state: what it serves.
        token: what callers must know, as `Authorization: Bearer …`; None: nothing.
    """
    app = FastAPI(title="livekit-whisper host", version=__version__, docs_url=None, redoc_url=None)
    app.add_middleware(Guard, token=token)
    app.add_exception_handler(WhisperError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_refused)
    app.add_exception_handler(CallerGone, _on_gone)
    app.add_exception_handler(ClientDisconnect, _on_gone)
    _add_operation(app, state)
    _add_work(app, state)
    return app


def _add_operation(app: FastAPI, state: HostState) -> None:
    @app.get("/healthz")
    async def alive() -> dict[str, str]:
        """Whether it answers."""
        return {"status": "ok"}

    @app.get("/readyz", responses={503: {"description": "loading or draining"}})
    async def ready() -> Response:
        """Whether it takes work, with the models that it was started with loaded."""
        loaded = {entry.key for entry in state.backend.info().entries}
        status = "ready" if state.models <= loaded else "loading"
        if state.draining.is_set():
            status = "draining"
        return JSONResponse({"status": status}, 200 if status == "ready" else 503)

    @app.get("/metrics", response_class=Response)
    async def prometheus() -> Response:
        """For Prometheus."""
        metrics.observe(state.backend)
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    @app.get(wire.HOST)
    async def host() -> dict[str, Any]:
        """Who answers, and how busy it is."""
        depth = state.backend.depth()
        return {
            "protocol": wire.PROTOCOL,
            "version": __version__,
            "fingerprint": state.fingerprint,
            "instance": state.instance,
            "pid": os.getpid(),
            "started": state.started,
            "draining": state.draining.is_set(),
            "load": state.backend.load(),
            "queue": {urgency.name.lower(): count for urgency, count in depth.items()},
            "requests": state.requests,
            "waiting": sum(depth.values()),
            "served": state.served,
            "leases": state.leases.total(),
        }

    @app.get(wire.MODELS)
    async def models() -> dict[str, Any]:
        """The models that are loaded, and those that it was started with."""
        entries = {entry.key: entry for entry in state.backend.info().entries}
        absent = sorted(state.models - entries.keys(), key=str)
        data = [_model(key, entries.get(key), state.leases[key]) for key in [*entries, *absent]]
        return {"object": "list", "data": data}


def _add_work(app: FastAPI, state: HostState) -> None:
    refusals: dict[int | str, dict[str, Any]] = {
        status: {"description": ", ".join(c for c, s in wire.STATUS.items() if s == status)}
        for status in sorted({500, *wire.STATUS.values()})
    }

    @app.post(wire.LEASE, response_class=Response, responses=refusals)
    async def lease(key: Key) -> Response:
        """Loads a model, and keeps it for as long as the caller reads the answer.

        Its lines say that the host is alive, every two seconds; that the model is loaded, and
        whether it was there before, or the error; and that the host is about to end.
        """
        wanted = key.to_key()
        if not state.may_lease(wanted):
            raise wire.NotLeased(
                f"model: {key.model!r}: this host was not started with it; on TCP a host has only "
                "those of: livekit-whisper host run --tcp NAME:PORT --model NAME"
            )
        if state.draining.is_set():
            raise wire.Draining("this host is about to end")
        return Lease(state, wanted)

    @app.post(wire.TRANSCRIBE, responses=refusals, openapi_extra=Question.described())
    async def transcribe(request: Request) -> Response:
        """Decodes one utterance: raw samples, mono, 16 kHz.

        With a header `Whisper-Text-Bytes: N`, the first N bytes of the body are a JSON object with
        `prompt`, `hotwords`, or both.
        """
        if state.draining.is_set():
            raise wire.Draining("this host is about to end")
        question = Question.of(request)
        key, options = question.to_key(), question.to_options()
        if not state.knows(key):
            raise wire.NotLeased(
                f"model: {key.model!r}: neither started with nor leased; POST {wire.LEASE} and "
                "read its answer meanwhile, or ask a host that keeps it: livekit-whisper host run "
                "--model NAME"
            )
        with state.requesting():
            async with received(request, state) as body:
                urgency = Urgency[question.urgency.upper()]
                text, samples = wire.split_body(body, request.headers.get(wire.TEXT))
                options = replace(options, prompt=text.get("prompt"), hotwords=text.get("hotwords"))
                sound = wire.decode_audio(samples, question.samples)
                utterance = Utterance(sound, question.start, question.stream, urgency)
                work = state.backend.transcribe(key, utterance, options)
                transcript = await unless_gone(work, request.receive)
        state.served += 1
        return JSONResponse(asdict(transcript))

    # The same without FastAPI, which describes it: whoever asks waits for less.
    app.router.routes.insert(0, Route(wire.TRANSCRIBE, transcribe, methods=["POST"]))


def _model(key: ModelKey, entry: CacheEntry[ModelKey] | None, leases: int) -> dict[str, Any]:
    found = {"id": str(key), "object": "model", **asdict(key), "loaded": entry is not None}
    if entry:
        found |= {"bytes": entry.size, "age": entry.age, "idle": entry.idle}
    return {**found, "leases": leases}


async def _on_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, WhisperError)
    return error_response(exc)


async def _on_invalid(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestValidationError)
    fields = ({**error, "loc": error["loc"][1:]} for error in exc.errors())  # without "body"
    return await _on_error(request, ConfigError(_wrong(fields)))


async def _on_refused(request: Request, exc: Exception) -> Response:
    """What the framework refuses: no such path or method, a body that it cannot parse."""
    assert isinstance(exc, HTTPException)
    message = f"{request.method} {request.url.path}: {exc.detail}"
    return JSONResponse(counted(ConfigError(message)), exc.status_code, exc.headers)


def _wrong(errors: Iterable[Mapping[str, Any]]) -> str:
    return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in errors)


async def _on_gone(request: Request, exc: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED)
