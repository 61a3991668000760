"""The package's logger. Transcripts never go into a message (see CONTRIBUTING.md)."""

from __future__ import annotations

import logging
from numbers import Number

MAX_TEXT = 1000
"""Characters of one value in a message: no path is longer, and what a stranger sent may be."""


def one_line(text: str) -> str:
    """Text from outside as a part of one line: escapes what does not print, and cuts it."""
    if len(text) > MAX_TEXT:
        text = f"{text[:MAX_TEXT]}…"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _escape(record: logging.LogRecord) -> bool:
    """A filter that lets every record through, its values on one line."""
    if isinstance(record.args, tuple):
        record.args = tuple(
            value if isinstance(value, Number) else one_line(str(value)) for value in record.args
        )
    return True


logger = logging.getLogger("livekit.plugins.whisper")
logger.addFilter(_escape)
