"""A file in any container → its sound: which track, which parts, and what is missing of it."""

from __future__ import annotations

from collections.abc import Generator, Iterator

from .containers import (
    Container,
    Source,
    exact_duration,
    name_of,
    opened,
    stated_duration,
    tracks,
)
from .errors import AudioError
from .links import links
from .log import logger
from .pcm import Samples
from .track import Loss, Track

TRUNCATION_SECONDS = 0.5
"""How much less than it states a file may hold; encoders pad by some milliseconds."""


def probe(source: Source, name: str = "") -> float | None:
    """The duration in seconds that a file's header states, or None where it states none.

    Raises:
        AudioError: it cannot be read, or has no audio in it.
    """
    with opened(source, name or name_of(source)) as container:
        return stated_duration(container, tracks(container)[0])


def blocks(source: Source, name: str = "") -> Iterator[Samples]:
    """Decodes a file bit by bit: memory stays flat however long it is.

    What is broken is skipped. Times are kept: where a track begins late, has a gap, or could not
    be read, there is silence. Of several tracks the default one is taken, or else the best; one
    without sound gives way to the next.

    Args:
        source: a file's name, or a file object, which is read from its beginning.
        name: what messages call it; empty: as it is named itself.

    Yields:
        Mono samples at 16 kHz, some thousands at a time.

    Raises:
        AudioError: it cannot be read or has no audio in it; or, after all that could be read, it
            is damaged (in how many places, how much is missing) or ends in the middle.
    """
    name, loss = name or name_of(source), Loss()
    position, stated = 0.0, 0.0
    with links(source) as parts:
        for part in parts:
            try:
                track, length = yield from _heard(part, name)
            except AudioError:
                if len(parts) == 1:
                    raise
                loss.add(position, 0.0)
            else:
                loss.join(track.loss, position)
                position += track.position
                stated += length or track.position
    if complaint := _complaint(loss, position, stated):
        raise AudioError(f"{name}: {complaint}")


def _heard(source: Source, name: str) -> Generator[Samples, None, tuple[Track, float]]:
    """The sound of the first track that has any.

    Returns:
        That track, and how long it states to be, in seconds; 0: it does not.
    """
    number = 0
    while True:
        with opened(source, name) as container:
            found = tracks(container)
            stream = found[number]
            if stream.codec_context is not None:  # decoding without one ends the process
                _tell(container, stream.index, name)
                track = Track(container, stream)
                try:
                    yield from track.sound()
                except AudioError as exc:
                    raise AudioError(f"{name}: {exc}") from None
                if track.position:
                    return track, exact_duration(container, stream, source) or 0.0
            number += 1
            if number == len(found):
                raise AudioError(f"{name}: has no sound in it{_reason(container)}")


def _tell(container: Container, index: int, name: str) -> None:
    numbers = [each.index for each in container.streams.audio]
    if len(numbers) > 1:
        number = 1 + numbers.index(index)
        logger.info("%s: of %d audio tracks number %d is read", name, len(numbers), number)


def _reason(container: Container) -> str:
    known = [each for each in container.streams.audio if each.codec_context is not None]
    if not known:
        return " that FFmpeg has a decoder for; convert it to WAV, FLAC, MP3 or Ogg"
    names = ", ".join(f"{each.codec_context.name} at {each.rate} Hz" for each in known)
    return f"; is it complete, is it audio, and free of copy protection ({names})?"


def _complaint(loss: Loss, end: float, stated: float) -> str | None:
    """What is wrong with a file of which all has been read that could be."""
    short = stated - end if end < stated - TRUNCATION_SECONDS else 0.0
    way_out = "copy it again from its source"
    if short and loss.places == 1 and loss.at_end and loss.first > end - TRUNCATION_SECONDS:
        return (
            f"damaged after {end:.1f} s, where it is truncated: it states {stated:.1f} s; {way_out}"
        )
    if short and not loss.places:
        return (
            f"is truncated: it ends after {end:.1f} s of the {stated:.1f} s that it states; "
            f"{way_out}"
        )
    if not loss.places:
        return None
    where = f"after {loss.first:.1f} s"
    if loss.places > 1:
        where = f"in {loss.places} places, the first {where}"
    missing = loss.seconds + short
    digits = 1 if missing >= 1 else 2
    rest = "nor anything after that" if loss.at_end else "all else was"
    lost = f"{missing:.{digits}f} s could not be read, {rest}"
    return f"damaged {where}: {lost}; copy or convert it again from its source"
