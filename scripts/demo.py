"""`make demo`: an agent in a real room transcribes recordings that a participant plays.

Exit status 0: every utterance arrived with a word error rate under 0.3. Ctrl-C leaves nothing
behind; a second one does not wait for anything to end by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="make demo", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--provider", choices=("faster-whisper", "whisper"), default="faster-whisper"
    )
    parser.add_argument("--without-room", action="store_true", help="as where there is no server")
    options = parser.parse_args(argv)
    if str(ROOT) not in sys.path:  # this file is run by its path
        sys.path.insert(0, str(ROOT))
    try:
        from scripts import stage  # takes seconds
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return asyncio.run(_run(stage.show(options.provider, without_room=options.without_room)))


async def _run(show: Coroutine[None, None, int]) -> int:
    """The show, which a signal ends in good order, and a second one at once."""
    from scripts.child import ChildFailed, kill_all
    from scripts.stage import console

    loop, work = asyncio.get_running_loop(), asyncio.create_task(show)
    received: list[int] = []

    def interrupt(number: int) -> None:
        received.append(number)
        if len(received) > 1:
            kill_all()
            os._exit(128 + number)
        console.print("\n[yellow]stopping[/]")
        work.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, interrupt, int(number))
    try:
        return await work
    except asyncio.CancelledError:
        return 128 + received[0]
    except (ChildFailed, TimeoutError) as exc:
        console.print(str(exc), style="red", markup=False)
        return 1


if __name__ == "__main__":
    sys.exit(main())
