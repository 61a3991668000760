"""A process of its own for `tests.support.hosts.Transcriber`."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time

from livekit.plugins import whisper
from livekit.plugins.whisper import stt
from livekit.plugins.whisper.audio import from_file
from livekit.plugins.whisper.types import DecodeOptions, Utterance

from tests.support.weights import TINY, recordings


async def main() -> None:
    where, settings, *indexes = sys.argv[1:]
    logging.basicConfig(level=logging.INFO)
    sounds = [from_file(path) for path in recordings()]
    config = whisper.STTConfig(model=TINY.model, backend=where, **json.loads(settings))
    _say("ready")
    sys.stdin.readline()
    started = time.perf_counter()
    backend = stt.shared_backend(config)
    backend.hold(TINY)
    there = await backend.prewarm(TINY)
    _say(json.dumps({"there": there, "seconds": time.perf_counter() - started}))
    for index in map(int, indexes):
        options = DecodeOptions(language="en")
        transcript = await backend.transcribe(TINY, Utterance(sounds[index]), options)
        _say(json.dumps({"text": transcript.text}))
    await backend.aclose()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
