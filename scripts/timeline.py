"""Draws when the words of one utterance come, from this plugin and from what people write today."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PATH = ROOT / "build" / "timeline.png"


def main(argv: Sequence[str] | None = None) -> int:
    """The command: exit status 1 where it cannot be drawn."""
    parser = argparse.ArgumentParser(prog="timeline", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--provider", choices=("faster-whisper", "whisper"), default="faster-whisper"
    )
    parser.add_argument("--out", type=Path, default=PATH, help="a PNG (default: %(default)s)")
    options = parser.parse_args(argv)
    if str(ROOT) not in sys.path:  # this file is run by its path
        sys.path.insert(0, str(ROOT))
    try:
        from scripts import comparison, hosts, material  # takes seconds

        model = material.choose_model(options.provider)
        recording, said = material.utterance()
        with hosts.own():
            asyncio.run(comparison.draw(options.provider, model, recording, said, options.out))
    except KeyboardInterrupt:  # first: the import may be what it ends
        return 130
    except comparison.NoTimeline as exc:
        print(f"no timeline: {exc}", file=sys.stderr)
        return 1
    print(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
