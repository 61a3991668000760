"""Models too small to hear anything: they pass every check that is made before loading."""

from __future__ import annotations

import random
import struct
import zipfile
from pathlib import Path

MODEL_FILES = ("model.bin", "config.json", "tokenizer.json", "vocabulary.txt")
"""What `small_model` writes."""


def text(value: str) -> bytes:
    return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"


def small_binary(spec: str = "WhisperSpec") -> bytes:
    """CTranslate2's layout with two variables and an alias, in a hundred bytes."""
    weight = text("encoder/weight") + struct.pack("<BIIBI", 2, 3, 4, 1, 12) + bytes(12)
    scale = text("encoder/scale") + struct.pack("<BBI", 0, 0, 4) + bytes(4)
    alias = struct.pack("<I", 1) + text("decoder/weight") + text("encoder/weight")
    return struct.pack("<I", 6) + text(spec) + struct.pack("<II", 1, 2) + weight + scale + alias


def small_model(folder: Path) -> Path:
    """A directory that looks like a model of faster-whisper."""
    folder.mkdir(parents=True)
    (folder / "model.bin").write_bytes(small_binary())
    (folder / "config.json").write_text('{"lang_ids": []}')
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    (folder / "vocabulary.txt").write_text("<|endoftext|>\n")
    return folder


def small_checkpoint(path: Path) -> Path:
    """A file that looks like a checkpoint of openai-whisper."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", random.Random(0).randbytes(50_000))
    return path
