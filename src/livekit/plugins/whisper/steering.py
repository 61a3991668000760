"""What steers recognition in a session, beside its configuration; it decides nothing by itself.

A shared STT decodes for many sessions. Whoever asks says so with `Steering.asking()`, and the STT
steers by all who ask, the nearest to the session last.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

from .errors import ConfigError, did_you_mean
from .languages import parse_language
from .log import logger
from .types import DecodeOptions

KEYTERMS_LENGTH = 300
"""Characters of keyterms: some 80 of the 224 tokens that Whisper has for what comes before."""
TURNS = 2
TURNS_LENGTH = 200
"""The last turns of the conversation that are shown to the model, and their characters."""
WORD, LONGEST_WORD = r"\w+", 30
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
            changes: of `language` (a code or an English name; None or `auto`: detect it), `prompt`
                and `hotwords` (None: none).

        Raises:
            ConfigError: the option cannot be changed, or not to this.
        """
        for name, value in changes.items():
            if name not in CHANGEABLE:
                hint = did_you_mean(name, CHANGEABLE)
                raise ConfigError(
                    f"{name}: cannot be changed; allowed: {', '.join(CHANGEABLE)}{hint}"
                )
            if not isinstance(value, str | None):
                raise ConfigError(f"{name}: allowed: text, or None")
            changes[name] = value or None
        if "language" in changes:
            try:
                changes["language"] = parse_language(changes["language"])
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

    def change(self, options: DecodeOptions) -> DecodeOptions:
        """The options, as they were changed."""
        return replace(options, **self._changes)

    def add(self, options: DecodeOptions, *, hotwords: bool = True) -> DecodeOptions:
        """The options, and behind what they name the keyterms and what was said.

        Args:
            options: to add to.
            hotwords: whether the engine has them; without, keyterms go into the prompt.
        """
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

    def __str__(self) -> str:
        # Of what it holds only the language may be shown; a part of the repr of what it steers.
        changed = "language" in self._changes
        return f", language={self.language or 'auto'!r}" if changed else ""

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


def steered(options: DecodeOptions, *own: Steering, hotwords: bool = True) -> DecodeOptions:
    """The options, steered by `own` and by all who ask; see `Steering.add`."""
    steerings = (*own, *reversed(_asking.get()))
    for steering in steerings:
        options = steering.change(options)
    for steering in steerings:
        options = steering.add(options, hotwords=hotwords)
    return options


_asking: ContextVar[tuple[Steering, ...]] = ContextVar("whisper_asking", default=())
"""Whose question is being answered, the stream first, then what it is a stream of."""


def _merged(own: str | None, keyterms: Iterable[str]) -> str:
    """The user's hotwords as they are written, and after them the terms that are not among them."""
    written = _words(own or "")
    more = [term for term in keyterms if _words(term) not in written]
    return ", ".join(filter(None, [own, *more]))


def _words(text: str) -> str:
    """With a space before and after each."""
    return f" {' '.join(re.findall(WORD, text.casefold()))} "


def _last(text: str, length: int) -> str:
    """The end of a text, from the beginning of a word on."""
    if len(text) <= length:
        return text
    tail = text[-length:]
    return tail[tail.find(" ", 0, LONGEST_WORD) + 1 :]  # some scripts have no spaces
