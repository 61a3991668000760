"""A model reference → checked files on this machine.

    tiny.en              a known name: the engine's usual repository, at a pinned revision
    owner/repo           a repository on the Hugging Face hub
    ./model, model.pt    a directory (faster-whisper) or a checkpoint file (openai-whisper)
    package:NAME/PATH    a file or directory inside an installed Python package

What is downloaded goes into the ecosystem's ordinary cache, and is not asked for again.
"""

from __future__ import annotations

import base64
import difflib
import importlib.metadata
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from . import downloads
from .errors import ConfigError, ModelDamaged, ModelNotFound
from .log import logger
from .model_files import ModelFiles, check_files

PACKAGE = "package:"

HUB_REPOSITORIES = {
    "tiny.en": ("Systran/faster-whisper-tiny.en", "0d3d19a32d3338f10357c0889762bd8d64bbdeba"),
    "tiny": ("Systran/faster-whisper-tiny", "d90ca5fe260221311c53c58e660288d3deb8d356"),
    "base.en": ("Systran/faster-whisper-base.en", "3d3d5dee26484f91867d81cb899cfcf72b96be6c"),
    "base": ("Systran/faster-whisper-base", "ebe41f70d5b6dfa9166e2c581c45c9c0cfc57b66"),
    "small.en": ("Systran/faster-whisper-small.en", "d1d751a5f8271d482d14ca55d9e2deeebbae577f"),
    "small": ("Systran/faster-whisper-small", "536b0662742c02347bc0e980a01041f333bce120"),
    "medium.en": ("Systran/faster-whisper-medium.en", "a29b04bd15381511a9af671baec01072039215e3"),
    "medium": ("Systran/faster-whisper-medium", "08e178d48790749d25932bbc082711ddcfdfbc4f"),
    "large-v1": ("Systran/faster-whisper-large-v1", "b07c8d4be0be90092aa01a29c975077acb8d15c9"),
    "large-v2": ("Systran/faster-whisper-large-v2", "f0fe81560cb8b68660e564f55dd99207059c092e"),
    "large-v3": ("Systran/faster-whisper-large-v3", "edaa852ec7e145841d8ffdb056a99866b5f0a478"),
    "large": ("Systran/faster-whisper-large-v3", "edaa852ec7e145841d8ffdb056a99866b5f0a478"),
    "large-v3-turbo": (
        "mobiuslabsgmbh/faster-whisper-large-v3-turbo",
        "0a363e9161cbc7ed1431c9597a8ceaf0c4f78fcf",
    ),
    "turbo": (
        "mobiuslabsgmbh/faster-whisper-large-v3-turbo",
        "0a363e9161cbc7ed1431c9597a8ceaf0c4f78fcf",
    ),
    "distil-small.en": (
        "Systran/faster-distil-whisper-small.en",
        "ef77d90526ccd62cde3808ee70626a01e5cf83e4",
    ),
    "distil-medium.en": (
        "Systran/faster-distil-whisper-medium.en",
        "80ddfce281f77766d8943d63109199fc8145dfa5",
    ),
    "distil-large-v2": (
        "Systran/faster-distil-whisper-large-v2",
        "fe9b404fc56de3f7c38606ef9ba6fd83526d05e4",
    ),
    "distil-large-v3": (
        "Systran/faster-distil-whisper-large-v3",
        "c3058b475261292e64a0412df1d2681c06260fab",
    ),
    "distil-large-v3.5": (
        "distil-whisper/distil-large-v3.5-ct2",
        "9793ccc07920e0f830e1dba0343efcdf0ef8c903",
    ),
}  # fmt: skip
"""faster-whisper: known name → hub repository and pinned commit."""


CHECKPOINT_NAMES = (
    "tiny.en", "tiny", "base.en", "base", "small.en", "small", "medium.en", "medium",
    "large-v1", "large-v2", "large-v3", "large", "large-v3-turbo", "turbo",
)  # fmt: skip
"""openai-whisper: the names that it knows (whisper `__init__.py`, `_MODELS`)."""

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def known_names(engine: str) -> tuple[str, ...]:
    """The names that need no owner, for one engine."""
    return tuple(HUB_REPOSITORIES) if engine == "faster-whisper" else CHECKPOINT_NAMES


def check_reference(engine: str, reference: str) -> None:
    """Refuses at once what can be refused without a look at the hub.

    Raises:
        ModelNotFound: neither a known name, nor a repository, nor here; the message lists the ways.
    """
    if reference in known_names(engine) or _is_hub(reference):
        return
    if reference.startswith(PACKAGE):
        _package_path(reference)
        return
    if _local(reference):
        return
    if _is_path(reference):
        raise ModelNotFound(f"model {reference!r}: no such file or directory")
    near = difflib.get_close_matches(reference, known_names(engine), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ModelNotFound(
        f"model {reference!r} is not known to {engine}{hint} "
        f"(allowed: {', '.join(known_names(engine))}; a hub repository owner/repo; "
        f"a path; {PACKAGE}NAME/PATH)"
    )


def absolute(engine: str, reference: str) -> str:
    """The same model, named so that a process with other directories finds it as well."""
    if reference in known_names(engine):
        return reference
    if reference.startswith(PACKAGE):
        path = _package_path(reference)  # beside the agent's own program, or installed
        return reference if path.is_relative_to(sys.prefix) else str(path.absolute())
    if (not _is_path(reference) and not _local(reference)) or _is_hub(reference):
        return reference
    return os.path.abspath(os.path.expanduser(reference))


def resolve(
    engine: str, reference: str, revision: str | None = None, *, offline: bool = False
) -> ModelFiles:
    """Finds a model, downloading it if it is not here, and checks its files.

    Args:
        engine: `faster-whisper` or `openai-whisper`.
        reference: see the module.
        revision: commit, tag or branch of a hub repository.
        offline: never ask the network.

    Raises:
        ModelNotFound: there is no such model.
        ModelDamaged: a file is missing, truncated or altered.
        DownloadError: the hub did not deliver.
        MissingExtraError: the names of openai-whisper are known to its package only.
    """
    check_reference(engine, reference)
    if reference.startswith(PACKAGE):
        path = _package_path(reference)
        folder = path if path.is_dir() else path.parent
        return check_files(engine, path, reference, dict(_record_sums(reference, folder)))
    if reference not in known_names(engine) and (here := _local(reference)):
        return check_files(engine, here, reference)

    def fetch(force: bool) -> ModelFiles:
        if engine == "openai-whisper" and reference in CHECKPOINT_NAMES:
            path, published = downloads.checkpoint(reference, offline, force)
            return check_files(engine, path, reference, {path.name: published})
        repository, pinned = HUB_REPOSITORIES.get(reference, (reference, None))
        wanted = downloads.Wanted(engine, reference, repository, revision, pinned)
        return check_files(engine, downloads.snapshot(wanted, offline, force), reference)

    try:
        return fetch(force=False)
    except ModelDamaged as exc:
        if offline:
            raise
        logger.warning("%s; fetching it again", exc)
    return fetch(force=True)


def _is_hub(reference: str) -> bool:
    return (
        bool(_REPOSITORY.fullmatch(reference))
        and not reference.startswith((".", "~"))
        and not reference.endswith(".pt")
        and not _local(reference)
    )


def _local(reference: str) -> Path | None:
    """The path that a reference is, if there is something at it."""
    try:
        path = Path(reference).expanduser()
        return path if reference and path.exists() else None
    except (RuntimeError, OSError):  # no such user's home; a name too long; may not be looked at
        return None


def _is_path(reference: str) -> bool:
    return reference.startswith((".", "~", os.sep)) or os.sep in reference or "\\" in reference


def _package_path(reference: str) -> Path:
    name, _, inner = reference.removeprefix(PACKAGE).partition("/")
    module = name.replace("-", "_")
    path = Path(inner)
    if not module.isidentifier() or not inner or path.is_absolute() or ".." in path.parts:
        raise ConfigError(f"model {reference!r}: must read {PACKAGE}NAME/PATH")
    try:
        spec = importlib.util.find_spec(module)
    except ValueError:  # __main__
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise ModelNotFound(
            f"model {reference!r}: no package {name!r} is installed; pip install {name}"
        )
    for root in spec.submodule_search_locations:
        if (path := Path(root, inner)).exists():
            return path
    raise ModelNotFound(f"model {reference!r}: package {name!r} has no {inner!r} in it")


def _record_sums(reference: str, folder: Path) -> Iterator[tuple[str, str]]:
    module = reference.removeprefix(PACKAGE).partition("/")[0].replace("-", "_")
    for name in importlib.metadata.packages_distributions().get(module, []):
        for file in importlib.metadata.files(name) or []:
            inside = Path(file.locate()).parent == folder
            if inside and file.hash and file.hash.mode == "sha256":
                padded = file.hash.value + "=" * (-len(file.hash.value) % 4)
                yield file.name, base64.urlsafe_b64decode(padded).hex()
