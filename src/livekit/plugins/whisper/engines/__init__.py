"""The engines: one protocol, a table of what there is, and lazy imports.

Only the chosen engine is imported, and only when a model is loaded.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from ..errors import ConfigError, DeviceError, MissingExtraError
from ..model_files import ModelFiles
from ..types import Audio, DecodeOptions, ModelKey, Transcript


class Engine(Protocol):
    """A model in memory. Blocking, and used by one thread only: its owner's."""

    @property
    def memory(self) -> int:
        """Bytes that the weights take, as far as the engine can tell."""
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

    def __call__(self, files: ModelFiles, key: ModelKey, *, threads: int) -> Engine:
        """Loads a model and decodes something with it, so that what is returned works.

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


ENGINES = {
    "faster-whisper": EngineSpec(
        "faster_whisper",
        "faster_whisper",
        "faster-whisper",
        ("auto", "default", "int8", "int8_float32", "int8_float16", "int8_bfloat16", "int16",
         "float16", "bfloat16", "float32"),
    ),
    "openai-whisper": EngineSpec(
        "openai_whisper",
        "whisper",
        "openai-whisper",
        ("auto", "default", "float16", "float32"),
    ),
}  # fmt: skip


def check(key: ModelKey) -> EngineSpec:
    """Refuses at once what can be refused without importing the engine.

    Raises:
        ConfigError: no such engine, or not a number format of it.
        DeviceError: a GPU is asked for, and there is none.
        MissingExtraError: its package is not installed.
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
    if not installed(spec):
        raise MissingExtraError(
            f"{key.engine} is not installed; "
            f'run: pip install "livekit-plugins-whisper[{spec.extra}]"'
        )
    return spec


def installed(spec: EngineSpec) -> bool:
    """Whether an engine's package is there; does not import it."""
    return importlib.util.find_spec(spec.requires) is not None


def _may_have_gpu() -> bool:
    """False where there is surely none, found without loading CUDA."""
    if sys.platform == "linux":
        nodes = ("/dev/nvidiactl", "/dev/nvmap", "/dev/dxg")  # PC, Jetson, WSL
        return any(map(os.path.exists, nodes))
    return sys.platform != "darwin"


def load(files: ModelFiles, key: ModelKey, *, threads: int = 0) -> Engine:
    """Imports the engine that `key` names and loads the model with it.

    Args:
        files: the checked model.
        key: engine, device and number format.
        threads: CPU threads; 0: one for each core that this process may use, at most 8.

    Raises:
        WhisperError: see `check` and `Loader`.
    """
    spec = check(key)
    module = importlib.import_module(f"{__name__}.{spec.module}")
    return cast(Loader, module.load)(files, key, threads=threads or default_threads())


def default_threads() -> int:
    """One for each core that this process may use; past 8 a decoder gains nothing."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        cores = os.cpu_count() or 1
    return min(8, cores)
