"""The package's logger. Transcripts never go into a message (see CONTRIBUTING.md)."""

import logging

logger = logging.getLogger("livekit.plugins.whisper")
