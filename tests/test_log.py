"""What comes from outside cannot write lines of its own into a log, nor fill it with one."""

from __future__ import annotations

import pytest
from livekit.plugins.whisper.log import MAX_TEXT, logger
from livekit.plugins.whisper.types import ModelKey


@pytest.mark.parametrize("name", ["a\n2026 INFO forged", "\x1b[2J", "a\u2028b", "\udc80", "\r"])
def test_names_stay_on_their_line(name: str, caplog: pytest.LogCaptureFixture) -> None:
    logger.error("key=%s seconds=%.2f", ModelKey("faster-whisper", name), 0.5)
    message = caplog.records[-1].getMessage()
    assert message.isprintable()
    assert message.endswith("seconds=0.50")


def test_long_name_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    logger.error("%s", ModelKey("faster-whisper", "x" * 10**6))
    assert len(caplog.records[-1].getMessage()) == MAX_TEXT + 1
