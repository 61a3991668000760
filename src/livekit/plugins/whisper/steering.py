"""What steers recognition in a session, beside its configuration; it decides nothing by itself.

A shared STT decodes for many sessions. Whoever asks says so with `Steering.asking()`, and the STT
steers by all who ask, the nearest to the session last.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

from .errors import ConfigError
from .languages import language_code
from .log import logger
from .types import DecodeOptions

KEYTERMS_LENGTH = 300
"""Characters of keyterms: some 80 of the 224 tokens that Whisper has for what comes before."""
TURNS = 2
TURNS_LENGTH = 200
"""The last turns of the conversation that are shown to the model, and their characters."""
CHANGEABLE = ("language", "prompt", "hotwords")
"""What `update` takes, fields of `DecodeOptions`."""


class Steering:
    """The keyterms, the conversation, and the changed options of one session or stream."""

    def __init__(self) -> None:
        self._changes: dict[str, Any] = {}
        self._keyterms: tuple[str, ...] = ()
        self._turns: deque[str] = deque(maxlen=TURNS)
        self.before = ""
        """What was said before it without a pause: the text goes on with it."""

    def update(self, **changes: Any) -> None:
        """Changes options from the next decode on.

        Args:
            changes: of `language` (a code or an English name; None: detect it), `prompt` and
                `hotwords` (None: none).

        Raises:
            ConfigError: the option cannot be changed, or the language is not known.
        """
        for name in changes:
            if name not in CHANGEABLE:
                raise ConfigError(f"{name}: cannot be changed; allowed: {', '.join(CHANGEABLE)}")
        if changes.get("language"):
            try:
                changes["language"] = language_code(changes["language"])
            except ValueError as exc:
                raise ConfigError(f"language: {exc}") from None
        self._changes |= changes

    def set_keyterms(self, keyterms: Iterable[str]) -> None:
        """Replaces the session's keyterms; those past `KEYTERMS_LENGTH` are left out."""
        kept, room, given = list[str](), KEYTERMS_LENGTH, 0
        for term in dict.fromkeys(filter(None, (" ".join(each.split()) for each in keyterms))):
            given += 1
            room -= len(term) + 2
            if room >= 0:
                kept.append(term)
        if len(kept) < given:
            logger.warning(
                "keyterms: %d of %d are left out: %d characters is what fits",
                given - len(kept), given, KEYTERMS_LENGTH,
            )  # fmt: skip
        self._keyterms = tuple(kept)

    def add_turn(self, text: str) -> None:
        """Takes in the newest turn of the conversation, whoever's it is."""
        if text.strip():
            self._turns.append(" ".join(text.split()))

    def apply(self, options: DecodeOptions, *, hotwords: bool = True) -> DecodeOptions:
        """The options to decode with now.

        Args:
            options: as configured; what they name comes first.
            hotwords: whether the engine has them; without, keyterms go into the prompt.
        """
        options = replace(options, **self._changes)
        said = _last(" ".join((*self._turns, self.before)), TURNS_LENGTH)
        if not hotwords and self._keyterms:
            said = f"{', '.join(self._keyterms)}. {said}"
        elif self._keyterms:
            options = replace(options, hotwords=_merged(options.hotwords, self._keyterms))
        if said.strip():
            prompt = f"{options.prompt} {said}" if options.prompt else said
            options = replace(options, prompt=prompt.strip())
        return options

    @property
    def language(self) -> str | None:
        """The one that it was changed to; None where it was not, or is to be detected."""
        return self._changes.get("language")

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Within it, a shared STT decodes for this session, and steers by it."""
        token = _asking.set((*_asking.get(), self))
        try:
            yield
        finally:
            _asking.reset(token)

    @property
    def asks(self) -> bool:
        """Whether what is being decoded here is decoded for it."""
        return self in _asking.get()


def steered(options: DecodeOptions, *, hotwords: bool = True) -> DecodeOptions:
    """The options, steered by all who ask; see `Steering.apply`."""
    for steering in reversed(_asking.get()):
        options = steering.apply(options, hotwords=hotwords)
    return options


_asking: ContextVar[tuple[Steering, ...]] = ContextVar("whisper_asking", default=())
"""Whose question is being answered, the stream first, then what it is a stream of."""


def _merged(own: str | None, keyterms: Iterable[str]) -> str:
    """The user's hotwords as they are written, and after them the terms that are not among them."""
    written = (own or "").casefold()
    more = [term for term in keyterms if term.casefold() not in written]
    return ", ".join(filter(None, [own, *more]))


def _last(text: str, length: int) -> str:
    """The end of a text, from the beginning of a word on."""
    if len(text) <= length:
        return text
    return text[-length:].partition(" ")[2]
