"""Runs the host, by this file's path: `python …/host/launch.py SOCKET SPEC`.

The package itself imports LiveKit, which takes a second, and of which a host uses nothing:
here an empty package stands in its place, with the same modules.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

PACKAGE = "livekit.plugins.whisper"


def main() -> int:
    """Serves; its status when it ends."""
    # Python looks first in the folder of the file that it runs, whose names could stand before
    # those of other packages.
    if not getattr(sys.flags, "safe_path", False):
        del sys.path[0]
    package = ModuleType(PACKAGE)
    package.__path__ = [str(Path(__file__).parent.parent)]
    sys.modules[PACKAGE] = package
    from livekit.plugins.whisper import build  # noqa: F401 (the build is the one of now)
    from livekit.plugins.whisper.host import serve

    return serve.main()


if __name__ == "__main__":
    sys.exit(main())
