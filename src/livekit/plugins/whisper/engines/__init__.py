"""The engines: one protocol, a table of what there is, and lazy imports.

Only the chosen engine is imported, and only when a model is loaded.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from .. import packages
from ..errors import ConfigError, DeviceError
from ..log import logger
from ..machine import cores as cores
from ..model_files import ModelFiles
from ..types import Audio, DecodeOptions, ModelKey, Transcript

MAX_THREADS = 8
"""Past which a worker gains nothing."""


class Engine(Protocol):
    """A model in memory. Blocking; `transcribe` may be called by `workers` threads at once."""

    @property
    def memory(self) -> int:
        """Bytes that the weights take, as far as the engine can tell."""
        ...

    @property
    def workers(self) -> int:
        """How many threads may call `transcribe` at once; they share the weights."""
        ...

    @property
    def batch(self) -> int:
        """How many utterances are worth decoding together: more only make the first wait."""
        ...

    def transcribe(self, batch: Sequence[Audio], options: DecodeOptions) -> list[Transcript]:
        """Decodes several utterances at once, of any length.

        Returns:
            As many transcripts, in the same order; times in seconds from each audio's start.

        Raises:
            ConfigError: the model cannot do what the options ask for.
            EngineError: decoding failed.
        """
        ...


class Loader(Protocol):
    """What each engine module has as `load`."""

    def __call__(self, files: ModelFiles, key: ModelKey, *, threads: int, workers: int) -> Engine:
        """Loads a model and decodes something with it, so that what is returned works.

        Of threads and workers, 0 is for the engine to choose: see `plan`.

        Raises:
            DeviceError: the device is absent or cannot compute in this number format.
            ModelDamaged: the files do not make a model that works.
        """
        ...


@dataclass(frozen=True)
class EngineSpec:
    """What is known of an engine without importing it."""

    module: str
    """The module here that has `load`."""
    requires: str
    """The package that must be installed."""
    extra: str
    """The extra of this distribution that installs it."""
    compute_types: tuple[str, ...]
    """The number formats that it takes."""
    hotwords: bool
    """Whether it favours the words of `DecodeOptions.hotwords`."""


ENGINES = {
    "faster-whisper": EngineSpec(
        "faster_whisper",
        "faster_whisper",
        "faster-whisper",
        ("auto", "default", "int8", "int8_float32", "int8_float16", "int8_bfloat16", "int16",
         "float16", "bfloat16", "float32"),
        hotwords=True,
    ),
    "openai-whisper": EngineSpec(
        "openai_whisper",
        "whisper",
        "openai-whisper",
        ("auto", "default", "float16", "float32"),
        hotwords=False,
    ),
}  # fmt: skip


def check(key: ModelKey) -> EngineSpec:
    """Refuses at once what can be refused without importing the engine.

    Raises:
        ConfigError: no such engine, or not a number format of it.
        DeviceError: a GPU is asked for, and there is none.
        MissingExtraError: its package is not installed, or another one is in its place.
    """
    spec = ENGINES.get(key.engine)
    if spec is None:
        raise ConfigError(f"engine: {key.engine!r}: allowed: {', '.join(ENGINES)}")
    if key.compute_type not in spec.compute_types:
        raise ConfigError(
            f"compute_type (STT_COMPUTE_TYPE): {key.compute_type!r} is not one of {key.engine}'s: "
            + ", ".join(spec.compute_types)
        )
    if key.device.startswith("cuda") and not _may_have_gpu():
        raise DeviceError(
            f"device (STT_DEVICE): {key.device!r}: this machine has no NVIDIA GPU, or no driver "
            "for it; choose cpu or auto"
        )
    packages.require(spec.requires)
    return spec


def installed(spec: EngineSpec) -> bool:
    """Whether an engine's package is there; does not import it."""
    return packages.installed(spec.requires)


def _may_have_gpu() -> bool:
    """False where there is surely none, found without loading CUDA."""
    if sys.platform == "linux":
        nodes = ("/dev/nvidiactl", "/dev/nvmap", "/dev/dxg")  # PC, Jetson, WSL
        return any(map(os.path.exists, nodes))
    return sys.platform != "darwin"


def load(files: ModelFiles, key: ModelKey, *, threads: int = 0, workers: int = 0) -> Engine:
    """Imports the engine that `key` names and loads the model with it.

    Args:
        files: the checked model.
        key: engine, device and number format.
        threads: CPU threads of each worker; 0: see `plan`.
        workers: threads that decode at once; 0: see `plan`, and one on a GPU. openai-whisper
            always has one.

    Raises:
        WhisperError: see `check` and `Loader`.
    """
    spec = check(key)
    leave_removed_directory()
    try:
        module = importlib.import_module(f"{__name__}.{spec.module}")
    except Exception as exc:  # a library of its own is missing, too old, or another one
        raise packages.broken(spec.requires, exc) from exc
    return cast(Loader, module.load)(files, key, threads=threads, workers=workers)


def leave_removed_directory() -> None:
    """Intel's MKL ends the process that loads it where its working directory was removed."""
    try:
        os.getcwd()
    except FileNotFoundError:
        logger.warning("the working directory was removed; it is %s from now on", os.sep)
        os.chdir(os.sep)


def plan(cores: int, workers: int = 0, threads: int = 0) -> tuple[int, int]:
    """How to use a CPU: workers, and the threads of each.

    Two workers of one thread each decode more, on two cores, than one worker of two threads, and
    an utterance alone as fast: a decoder's steps are too small to share between threads.

    Args:
        cores: how many there are.
        workers: as many as are asked for; 0: chosen.
        threads: of each worker; 0: chosen.
    """
    if not workers:
        workers = max(min(2, cores), cores // MAX_THREADS)
        if threads:
            workers = max(1, min(workers, cores // threads))
    return workers, threads or max(1, min(MAX_THREADS, cores // workers))
