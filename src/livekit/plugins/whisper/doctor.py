"""What `livekit-whisper doctor` looks at: each finding says how to mend what is not right."""

from __future__ import annotations

import http.client
import importlib.metadata
import os
import platform
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from . import audio, engines, models, packages
from .config import STTConfig
from .errors import AudioError, ModelNotFound, WhisperError
from .types import ModelKey
from .version import __version__

DEFAULT_URL = "ws://127.0.0.1:7880"
"""Where `livekit-server --config livekit.yaml` listens."""
TONE = Path(__file__).with_name("tone.mp3")
"""A sine wave of 440 Hz, stereo at 44.1 kHz; tests/test_doctor.py makes it again."""
TONE_SECONDS = 0.3
TONE_LOUDNESS = 0.2
"""Its root mean square."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    state: Literal["ok", "note", "bad"]
    """`bad`: it will not work as configured; `note`: something is missing that may be wanted."""
    subject: str
    """What was looked at."""
    fact: str
    """What was found."""
    remedy: str = ""
    """How to mend it."""


def examine(providers: Sequence[str]) -> list[Finding]:
    """Looks at versions, sound files, engines, the configured model, and what is around them.

    Args:
        providers: the names that `provider` can have.
    """
    engines.leave_removed_directory()
    findings = [
        Finding("ok", "Python", platform.python_version()),
        Finding("ok", "livekit-plugins-whisper", __version__),
        Finding("ok", "livekit-agents", importlib.metadata.version("livekit-agents")),
        Finding("ok", "decoding", _plan()),
        _sound_files(),
        _microphone(),
        *_engines(),
    ]
    try:
        config = STTConfig()
    except WhisperError as exc:
        return [*findings, Finding("bad", "configuration", str(exc)), _server()]
    members = [_provider(each, providers) for each in config.chain]
    return [*findings, _host(config), *members, _server()]


def check_model(key: ModelKey) -> str:
    """Checks files, loads, and decodes once.

    Raises:
        WhisperError: it does not work, and why.
    """
    engines.check(key)
    files = models.resolve(key.engine, key.model, key.revision, offline=True)
    started = time.perf_counter()
    engine = engines.load(files, key)
    checked = "checksums match" if files.verified else "no checksums known"
    return (
        f"works ({files.path}, {files.size / 2**20:.0f} MiB, {checked}; loaded in "
        f"{time.perf_counter() - started:.1f} s, {engine.memory / 2**20:.0f} MiB of weights)"
    )


def _plan() -> str:
    workers, threads = engines.plan(engines.cores())
    return f"{workers} workers of {threads} threads (STT_WORKERS, STT_THREADS to change)"


def _sound_files() -> Finding:
    """Whether files can be read, by the way that `transcribe` reads them."""
    version = importlib.metadata.version("av")
    try:
        audio.probe(TONE)
        parts = [part for _, part in audio.windows(audio.blocks(TONE))]
        seconds = sum(part.duration for part in parts)
        loudness = max((audio.loudness(part.samples) for part in parts), default=0.0)
        if abs(seconds - TONE_SECONDS) > 0.05 or abs(loudness - TONE_LOUDNESS) > 0.05:
            raise AudioError(f"{seconds:.2f} s of a tone of {TONE_SECONDS} s, distorted")
    except Exception as exc:  # whatever a version of PyAV does that nobody has seen yet
        required = importlib.metadata.requires("livekit-plugins-whisper") or []
        known = next((line for line in required if line.startswith("av")), "av")
        fact = f"PyAV {version} cannot read one ({type(exc).__name__}: {exc})"
        return Finding("bad", "sound files", fact, f'pip install --force-reinstall "{known}"')
    return Finding("ok", "sound files", f"PyAV {version} has read one")


def _microphone() -> Finding:
    """What `listen` hears; only that needs one."""
    from .sources import Microphone  # with what only `listen` needs

    try:
        return Finding("ok", "microphone", Microphone(lambda: None).name)
    except AudioError as exc:
        fact, _, remedy = str(exc).rpartition("; ")
        return Finding("note", "microphone", fact, remedy)


def _engines() -> list[Finding]:
    findings = []
    for name, spec in engines.ENGINES.items():
        if not engines.installed(spec):
            findings.append(_absent(name, spec))
            continue
        version = importlib.metadata.version(name)
        try:
            devices = _devices(name)
        except Exception as exc:
            remedy = f'pip install --force-reinstall "livekit-plugins-whisper[{spec.extra}]"'
            fact = f"{version}, cannot be imported ({type(exc).__name__}: {exc})"
            findings.append(Finding("bad", name, fact, remedy))
        else:
            findings.append(Finding("ok", name, f"{version}, {devices}"))
    return findings


def _absent(name: str, spec: engines.EngineSpec) -> Finding:
    if packages.in_the_way(spec.requires):
        return Finding("bad", name, str(packages.missing(spec.requires)))
    remedy = f'pip install "livekit-plugins-whisper[{spec.extra}]"'
    return Finding("note", name, "not installed", remedy)


def _devices(engine: str) -> str:
    if engine == "faster-whisper":
        import ctranslate2

        gpus = ctranslate2.get_cuda_device_count()
        formats = ", ".join(sorted(ctranslate2.get_supported_compute_types("cpu")))
        return f"{gpus} CUDA devices, CPU computes in {formats}"
    import torch

    return f"{torch.cuda.device_count()} CUDA devices, PyTorch {torch.__version__}"


def _provider(config: STTConfig, providers: Sequence[str]) -> Finding:
    if config.provider not in providers:
        fact = f"is not known (allowed: {', '.join(providers)})"
        return Finding(
            "bad", f"provider {config.provider}", fact, "set STT_PROVIDER to one of them"
        )
    if not config.is_local:
        return Finding("ok", f"provider {config.provider}", "not a local model")
    key = config.model_key
    try:
        return Finding("ok", f"model {key.model}", check_model(key))
    except ModelNotFound as exc:
        fetch = f"livekit-whisper models fetch {key.model} --engine {key.engine}"
        return Finding("bad", f"model {key.model}", str(exc), fetch)
    except WhisperError as exc:
        return Finding("bad", f"model {key.model}", str(exc))


def _host(config: STTConfig) -> Finding:
    if not config.uses_host:
        return Finding("ok", "host", "not used: models live in the process that uses them")
    from .host.place import Target
    from .host.process import ask_configured  # POSIX only

    target = Target.of(config)
    bad: Literal["note", "bad"] = "bad" if config.backend == "host" else "note"
    try:
        facts = ask_configured(target)
    except WhisperError as exc:
        return Finding(bad, "host", str(exc))
    if facts is None and config.host:
        return Finding(
            bad, "host", f"{target.where} does not answer", "start it: livekit-whisper host run"
        )
    if facts is None:
        return Finding("ok", "host", f"{target.where}: will be started by whoever needs it first")
    return Finding("ok", "host", f"{target.where}: pid {facts['pid']}, load {facts['load']:.2f}")


def _server() -> Finding:
    url = os.environ.get("LIVEKIT_URL") or DEFAULT_URL
    address = url.replace("ws", "http", 1) if url.startswith("ws") else url
    try:
        with urllib.request.urlopen(address, timeout=3) as answer:
            return Finding("ok", "LiveKit server", f"{url} answers ({answer.status})")
    except urllib.error.HTTPError as exc:
        exc.close()
        return Finding("ok", "LiveKit server", f"{url} answers ({exc.code})")
    except (OSError, ValueError, http.client.HTTPException) as exc:
        return Finding(
            "note",
            "LiveKit server",
            f"{url} does not answer ({exc or type(exc).__name__})",
            "start one: livekit-server --config livekit.yaml; or set LIVEKIT_URL",
        )
