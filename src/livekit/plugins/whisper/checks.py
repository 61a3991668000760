"""What of a configuration can be refused before anything is loaded."""

from __future__ import annotations

from dataclasses import replace

from . import engines, models
from .config import STTConfig
from .errors import ConfigError
from .types import DecodeOptions, ModelKey


def check(config: STTConfig) -> None:
    """Refuses a configuration whose provider is ours, and whose model surely cannot be used.

    Raises:
        ConfigError, DeviceError, MissingExtraError, ModelNotFound: what can be known at once.
    """
    key = config.model_key
    if not _is_elsewhere(config):
        engines.check(key)
        models.check_reference(key.engine, key.model)
    check_english(key, config.decode_options)


def absolute_key(config: STTConfig) -> ModelKey:
    """The weights of a configuration, named so that a host finds them as well."""
    key = config.model_key
    return replace(key, model=models.absolute(key.engine, key.model))


def check_english(key: ModelKey, options: DecodeOptions) -> None:
    """Refuses what a model that knows English only cannot do.

    Raises:
        ConfigError: another language, or a translation.
    """
    if not key.model.endswith(".en"):
        return
    if options.language not in (None, "en"):
        raise ConfigError(
            f"language (STT_LANGUAGE): {options.language!r}: model {key.model!r} knows English "
            f"only; use model {key.model.removesuffix('.en')!r}"
        )
    if options.task == "translate":
        raise ConfigError(
            f"task (STT_TASK): 'translate': model {key.model!r} knows English only; "
            f"use model {key.model.removesuffix('.en')!r}"
        )


def _is_elsewhere(config: STTConfig) -> bool:
    """Whether another machine decodes, which has engines and files of its own."""
    remote = config.host is not None and config.host.startswith("http")
    return remote and config.backend == "host"
