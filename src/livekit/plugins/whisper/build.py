"""What code this process runs, taken when it is imported.

A process keeps the code that it started with, whatever is installed in its place meanwhile.
"""

from __future__ import annotations

from pathlib import Path


def _files() -> tuple[tuple[str, int, int], ...]:
    root = Path(__file__).parent
    found = [(str(path), path.stat()) for path in sorted(root.rglob("*.py"))]
    return tuple((path, state.st_mtime_ns, state.st_size) for path, state in found)


BUILD = _files()
"""Path, time of change (ns) and size (bytes) of each of this package's files."""
