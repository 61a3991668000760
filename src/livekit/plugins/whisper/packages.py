"""Are the engines' packages installed, and is it they that would be imported? Imports none."""

from __future__ import annotations

import importlib.util
import os
from importlib.machinery import ModuleSpec

from .errors import MissingExtraError

EXTRAS = {
    "faster_whisper": ("faster-whisper", "feature_extractor.py"),
    "whisper": ("openai-whisper", "timing.py"),
}
"""Of each module: the extra of this distribution that installs it, and a file of its package, by
which it is told from others of its name: on the package index `whisper` is Graphite's database."""


def installed(module: str) -> bool:
    """Whether an engine's package is there, and no other of its name.

    Args:
        module: one of `EXTRAS`.
    """
    found = _find(module)
    folders = found.submodule_search_locations if found else None
    return any(os.path.exists(os.path.join(each, EXTRAS[module][1])) for each in folders or ())


def in_the_way(module: str) -> str | None:
    """The file of another module of that name; None where there is none.

    Args:
        module: one of `EXTRAS`.
    """
    found = None if installed(module) else _find(module)
    return found.origin if found else None  # a mere folder of that name has none


def require(module: str) -> None:
    """Checks that an engine's package is there.

    Args:
        module: one of `EXTRAS`.

    Raises:
        MissingExtraError: it is not installed, or another one is in its place.
    """
    if not installed(module):
        raise missing(module)


def missing(module: str) -> MissingExtraError:
    """What to raise where a package is not there.

    Args:
        module: one of `EXTRAS`.
    """
    extra, other = EXTRAS[module][0], in_the_way(module)
    install = f'pip install "livekit-plugins-whisper[{extra}]"'
    if other is None:
        return MissingExtraError(f"{extra} is not installed; run: {install}")
    return MissingExtraError(
        f"{extra}: {other} is in the way, another module named {module!r}: rename it if it "
        f"is yours; if it was installed, run: pip uninstall {module}; then: {install}"
    )


def broken(module: str, exc: Exception) -> MissingExtraError:
    """What to raise where a package is there, and its import fails.

    Args:
        module: one of `EXTRAS`.
        exc: what its import raised.
    """
    extra = EXTRAS[module][0]
    file = getattr(exc, "path", None) or getattr(getattr(exc, "obj", None), "__file__", None)
    where = f", in {file}" if file and file not in str(exc) else ""
    return MissingExtraError(
        f"{extra}: is installed, but cannot be imported ({exc}{where}); if that is a file of "
        "yours, rename it; else run: pip install --force-reinstall "
        f'"livekit-plugins-whisper[{extra}]"'
    )


def _find(module: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(module)
    except ValueError:  # it is the program that runs
        return None
