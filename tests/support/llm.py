"""An LLM that hears what it is asked, and has one answer to everything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from livekit.agents import APIConnectOptions, llm

NO_RETRY = APIConnectOptions(max_retry=0)


class Listener(llm.LLM[Any]):
    """Calls `asked` with the last that the user said, whenever it is asked."""

    def __init__(self, asked: Callable[[str], None]) -> None:
        super().__init__()
        self._asked = asked

    def chat(self, *, chat_ctx: llm.ChatContext, **options: Any) -> llm.LLMStream:
        said = [item.text_content or "" for item in chat_ctx.messages() if item.role == "user"]
        self._asked(said[-1] if said else "")
        return _Answer(
            self, chat_ctx=chat_ctx, tools=[], conn_options=options.get("conn_options") or NO_RETRY
        )


class _Answer(llm.LLMStream):
    async def _run(self) -> None:
        delta = llm.ChoiceDelta(role="assistant", content="Indeed.")
        self._event_ch.send_nowait(llm.ChatChunk(id="1", delta=delta))
