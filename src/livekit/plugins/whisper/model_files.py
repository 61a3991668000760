"""A model's files: are they there, whole, and as published? Asks no network, loads nothing."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from .errors import ModelDamaged

SUMS = "SHA256SUMS"
"""A file of this name beside a model (as `sha256sum` writes it) is checked when the model loads."""
REQUIRED_FILES = ("model.bin", "config.json", "tokenizer.json")
"""What a faster-whisper model consists of, besides its vocabulary."""


@dataclass(frozen=True)
class ModelFiles:
    """A model that is here and looks whole."""

    path: Path
    """A directory (faster-whisper) or a `.pt` file (openai-whisper)."""
    name: str
    """The known name where the reference was one, else the reference; some settings go by name."""
    size: int
    """Bytes on disk."""
    parameters: int
    """Numbers in it (0 where that is not known before loading)."""
    verified: bool
    """Whether checksums were known, and matched."""


def check_files(
    engine: str, path: Path, reference: str, published: Mapping[str, str] | None = None
) -> ModelFiles:
    """Checks that a model's files are there, whole, and as published where that is known.

    Args:
        engine: `faster-whisper` or `openai-whisper`.
        path: a directory, or a checkpoint file.
        reference: what the model was asked for by.
        published: checksums by file name, where the publisher states them.

    Raises:
        ModelDamaged: the message names the file.
    """
    try:
        return _check_files(engine, path, reference, published or {})
    except OSError as exc:
        raise ModelDamaged(f"{exc.filename or path}: cannot be read ({exc.strerror})") from exc


def _check_files(
    engine: str, path: Path, reference: str, published: Mapping[str, str]
) -> ModelFiles:
    if engine == "openai-whisper":
        path = _single_checkpoint(path)
        files, parameters = [path], 0
        if not zipfile.is_zipfile(path):
            raise ModelDamaged(f"{path}: is not a PyTorch checkpoint, or is truncated")
    else:
        if not path.is_dir():
            raise ModelDamaged(f"{path}: a faster-whisper model is a directory with model.bin")
        files = _check_directory(path)
        parameters = _check_binary(path / "model.bin")
    sums = published or _sums_beside(path)
    for file in files:
        if (known := sums.get(file.name)) and known != _digest(file, known):
            raise ModelDamaged(
                f"{file}: was altered (its checksum is not {known[:12]}…); delete it and fetch "
                "it again"
            )
    size = sum(file.stat().st_size for file in files)
    verified = all(file.name in sums for file in files)
    return ModelFiles(path, reference, size, parameters, verified)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _digest(path: Path, known: str) -> str:
    """The sum of the sort that is known: a SHA-256, or the SHA-1 that git names a file by."""
    if len(known) == 64:
        return sha256(path)
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def is_complete(engine: str, path: Path) -> bool:
    """Whether all of a model was fetched, at a glance."""
    if engine == "openai-whisper":
        return any(path.glob("*.pt"))
    return all((path / name).exists() for name in REQUIRED_FILES)


def _sums_beside(path: Path) -> dict[str, str]:
    """Checksums by file name, from what lies beside a model."""
    folder = path if path.is_dir() else path.parent
    if (listed := folder / SUMS).is_file():
        text = listed.read_text(encoding="utf-8", errors="replace")
        lines = (line.split(maxsplit=1) for line in text.splitlines())
        return {
            parts[1].strip().lstrip("*"): parts[0].lower() for parts in lines if len(parts) == 2
        }
    # The hub's cache stores a large file under its SHA-256, another under its git hash, and links
    # to it by name.
    links = {file.name: file.resolve().name for file in folder.iterdir() if file.is_symlink()}
    return {
        name: blob
        for name, blob in links.items()
        if re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", blob)
    }


def _single_checkpoint(path: Path) -> Path:
    if path.is_file():
        return path
    found = sorted(path.glob("*.pt"))
    if len(found) != 1:
        raise ModelDamaged(
            f"{path}: an openai-whisper model is one .pt file; found {len(found)} here"
        )
    return found[0]


def _check_directory(path: Path) -> list[Path]:
    vocabulary = next(iter(sorted(path.glob("vocabulary.*"))), path / "vocabulary.txt")
    files = [*(path / name for name in REQUIRED_FILES), vocabulary]
    for file in files:
        if not file.is_file():
            raise ModelDamaged(f"{file}: is missing; fetch the model again")
        if not file.stat().st_size:
            raise ModelDamaged(f"{file}: is empty; fetch the model again")
        if file.suffix == ".json":
            try:
                json.loads(file.read_bytes())
            except ValueError as exc:
                raise ModelDamaged(f"{file}: is not valid JSON ({exc}); fetch it again") from exc
    return files


def _check_binary(path: Path) -> int:
    """Walks CTranslate2's model file from variable to variable, and counts its parameters.

    The layout is that of CTranslate2 `src/models/model.cc` (binary version 4 and later).
    """
    size, parameters = path.stat().st_size, 0
    try:
        with path.open("rb") as file:
            (version,) = _unpack(file, "<I")
            spec = _string(file)
            if spec != "WhisperSpec":
                raise ModelDamaged(f"{path}: is a {spec[:40]!r}, not a Whisper model")
            _, count = _unpack(file, "<II")
            if version < 4:
                return 0
            for _ in range(count):
                _string(file)
                (rank,) = _unpack(file, "<B")
                parameters += math.prod(_unpack(file, f"<{rank}I"))
                _, length = _unpack(file, "<BI")
                file.seek(length, os.SEEK_CUR)  # past the end, the next read finds nothing
            (aliases,) = _unpack(file, "<I")
            for _ in range(2 * aliases):  # a name, and the variable that it stands for
                _string(file)
    except (EOFError, UnicodeDecodeError):
        raise ModelDamaged(
            f"{path}: is truncated or is no CTranslate2 model ({size} bytes); fetch it again"
        ) from None
    return parameters


def _unpack(file: BinaryIO, form: str) -> tuple[int, ...]:
    data = file.read(struct.calcsize(form))
    if len(data) < struct.calcsize(form):
        raise EOFError
    return struct.unpack(form, data)


def _string(file: BinaryIO) -> str:
    (length,) = _unpack(file, "<H")
    data = file.read(length)
    if not length or len(data) < length:
        raise EOFError
    return data[:-1].decode()
