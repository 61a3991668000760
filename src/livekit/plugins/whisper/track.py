"""One track of a container: packets → frames → samples, whatever in it is broken or changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import av
import numpy as np

from .containers import Container, id3_size
from .errors import AudioError
from .pcm import RATES, Mixer, Resampler, Samples, speaker_weights, to_float
from .timeline import Timeline

READ_ATTEMPTS = 100
"""How often reading goes on after errors between which there is no packet."""
HOLE_BYTES = 1000
"""Bytes between two packets that can be a container's own (Ogg has up to 282, MPEG-TS 800)."""
PLACE_SECONDS = 2.0
"""What is missing within that time is one place; Ogg tells of a broken page a page too early."""
LOUDEST = 16.0
"""Samples beyond that many times full scale are no sound (24 dB)."""
SILENCE_BLOCK = 1 << 16
"""Samples of silence at once."""

_SAMPLE_TYPES = {"u8": "u1", "s16": "i2", "s32": "i4", "s64": "i8", "flt": "f4", "dbl": "f8"}
"""NumPy's names of FFmpeg's sample formats."""


@dataclass
class Loss:
    """What could not be read."""

    places: int = 0
    """Places that are broken, further from each other than `PLACE_SECONDS`."""
    seconds: float = 0.0
    """Of sound that is missing there."""
    first: float = 0.0
    """Where the first of them is (s)."""
    last: float = 0.0
    """Where the last of them ends (s)."""
    at_end: bool = False
    """Whether nothing could be read after it."""

    def add(self, at: float, seconds: float) -> None:
        """Counts what is missing somewhere."""
        if not self.places:
            self.first = at
        if not self.places or at > self.last + PLACE_SECONDS:
            self.places += 1
        self.seconds += seconds
        self.last = at + seconds

    def join(self, other: Loss, at: float) -> None:
        """Adds what is missing in a part that begins at `at`."""
        if other.places and not self.places:
            self.first = at + other.first
        self.places += other.places
        self.seconds += other.seconds
        self.last, self.at_end = at + other.last, other.at_end


@dataclass(frozen=True)
class _Piece:
    """A frame that was decoded, and what is missing before it."""

    samples: Samples
    """Of shape (samples, channels)."""
    rate: int
    """Samples per second."""
    speakers: tuple[str, ...]
    """FFmpeg's names of the channels."""
    time: float | None
    """Its own time (s), where it has one."""
    broken: bool
    """Whether something could not be read, or not decoded."""
    lost: float
    """Seconds of what could not be decoded."""
    skipped: int
    """Bytes that are in no packet, and too many to be the container's own."""


class Track:
    """One track of a container.

    Args:
        container: open for reading, at its beginning.
        stream: the track in it; it has a decoder.
    """

    def __init__(self, container: Container, stream: av.AudioStream) -> None:
        self._container, self._stream = container, stream
        self._timeline = Timeline(container, stream)
        self._format = container.format.name
        self._holes = _Holes()
        self._mixer: Mixer | None = None
        self._speakers: tuple[str, ...] = ()
        self._bytes, self._seconds = 0, 0.0
        self._hole = -PLACE_SECONDS, 0
        if stream.codec_context.name == "flac":  # its frames have checksums
            stream.codec_context.options = {"err_detect": "crccheck+explode"}
        self.loss = Loss()
        """What has been found broken so far."""

    @property
    def position(self) -> float:
        """Seconds of sound so far, with the silence in gaps."""
        return self._timeline.position

    def sound(self) -> Iterator[Samples]:
        """Yields mono samples at 16 kHz, with silence where there is a gap.

        Raises:
            AudioError: the samples have another scale than audio has.
        """
        resampler = Resampler()
        for piece, following in _with_next(self._pieces()):
            rate, gap = piece.rate, self._gap(piece, following)
            for samples in _silence(round(gap * rate)):
                yield from resampler.convert(samples, rate)
            samples = self._mono(piece)[max(0, round(-gap * rate)) :]
            self._timeline.position += max(0.0, gap) + len(samples) / rate
            yield from resampler.convert(samples, rate)
        yield from resampler.drain()

    def _gap(self, piece: _Piece, following: float | None) -> float:
        """Seconds of silence before a frame; below zero: of it that was heard already."""
        timeline, length = self._timeline, len(piece.samples) / piece.rate
        exact = piece.broken or piece.skipped > 0 or self._format == "flac"
        gap = timeline.gap(piece.time, length, following, exact=exact)
        if not timeline.timed and piece.broken:
            gap = piece.lost
        if piece.skipped:
            self._hole = timeline.position, piece.skipped
        if piece.broken or (gap > 0 and self._is_damage(gap)):
            self.loss.add(timeline.position, gap if gap > 0 else piece.lost)
        return gap

    def _is_damage(self, gap: float) -> bool:
        """Whether a gap is one of the file's, and not of its sound: bytes are left out there."""
        if self._format == "flac":
            return True
        at, size = self._hole
        return self.position < at + PLACE_SECONDS and size > gap * self._byte_rate / 2

    @property
    def _byte_rate(self) -> float:
        return self._bytes / self._seconds if self._seconds else 0.0

    def _pieces(self) -> Iterator[_Piece]:
        """What can be decoded, packet by packet."""
        broken, lost, tags = False, 0.0, _Tags(self._format)
        for packet in self._packets():
            if packet is None:
                broken = True
                continue
            if tags.cover(packet):
                continue
            try:
                frames = packet.decode()
            except av.FFmpegError:
                if packet.size:
                    broken, lost = True, lost + self._length(packet)
                continue
            self._bytes += packet.size
            for frame in frames:
                rate = frame.sample_rate
                if rate not in RATES or not frame.samples:
                    continue
                try:
                    samples = channels(frame)
                except ValueError:  # a layout that cannot be
                    broken, lost = True, lost + frame.samples / rate
                    continue
                speakers = tuple(each.name for each in frame.layout.channels)
                self._seconds += frame.samples / rate
                holes = self._holes.take()
                yield _Piece(samples, rate, speakers, frame.time, broken, lost, holes)
                broken, lost = False, 0.0
        if broken:
            self.loss.add(self.position, lost)
            self.loss.at_end = True
        elif self.loss.places and not self._timeline.timed and self._byte_rate:
            # What FFmpeg passed over between frames, it tells in no packet.
            self.loss.seconds += self._holes.rest(self._container.size) / self._byte_rate

    def _packets(self) -> Iterator[av.Packet[av.AudioStream] | None]:
        """The packets of the track; None for each error between them."""
        attempts = 0
        every = tuple(self._container.streams)  # where none has a packet, the container is broken
        while attempts < READ_ATTEMPTS:
            try:
                for packet in self._container.demux(every):
                    attempts = 0
                    self._holes.see(packet)
                    if packet.stream_index == self._stream.index:
                        yield packet  # type: ignore[misc]
                return
            except av.FFmpegError:
                attempts += 1
                yield None

    def _length(self, packet: av.Packet[av.AudioStream]) -> float:
        """Seconds of a packet that cannot be decoded."""
        stated = float(packet.duration * packet.time_base) if packet.duration else 0.0
        if self._timeline.timed or not self._byte_rate:
            return max(0.0, stated)
        return max(stated, packet.size / self._byte_rate)  # it may be all up to the next frame

    def _mono(self, piece: _Piece) -> Samples:
        if self._mixer is None or piece.speakers != self._speakers:
            self._speakers, self._mixer = piece.speakers, Mixer(speaker_weights(piece.speakers))
        return self._mixer.mix(self._sane(piece.samples, piece.rate))

    def _sane(self, samples: Samples, rate: int) -> Samples:
        """Floats can be anything; what is no sound becomes silence, and is counted."""
        with np.errstate(invalid="ignore"):
            if max(samples.max(), -samples.min()) <= LOUDEST:  # no NaN is
                return samples
            bad = ~(np.abs(samples) <= LOUDEST)
        if np.isfinite(samples).all() and bad.mean() > 0.5:
            raise AudioError(
                f"it has samples of up to {np.abs(samples).max():.0f}, where full scale is 1; "
                "divide them by the full scale that they were written with (often 32768)"
            )
        self.loss.add(self.position, float(bad.any(axis=1).sum()) / rate)
        return np.where(bad, np.float32(0), samples)


def channels(frame: av.AudioFrame) -> Samples:
    """The samples of a frame as floats, of shape (samples, channels)."""
    kind, count = _SAMPLE_TYPES[frame.format.packed.name], frame.layout.nb_channels
    planes = [np.frombuffer(memoryview(plane), kind) for plane in frame.planes]
    if frame.format.is_planar:
        return to_float(np.stack([plane[: frame.samples] for plane in planes], axis=1))
    return to_float(planes[0][: frame.samples * count].reshape(-1, count))


def _silence(count: int) -> Iterator[Samples]:
    for start in range(0, count, SILENCE_BLOCK):
        yield np.zeros(min(SILENCE_BLOCK, count - start), np.float32)


def _with_next(pieces: Iterator[_Piece]) -> Iterator[tuple[_Piece, float | None]]:
    """Each piece, and the time of the next one."""
    last: _Piece | None = None
    for piece in pieces:
        if last:
            yield last, piece.time
        last = piece
    if last:
        yield last, None


class _Holes:
    """Counts the bytes of a file that are in no packet, and too many to be the container's own."""

    def __init__(self) -> None:
        self._at: int | None = None
        self._size = self._count = 0

    def see(self, packet: av.Packet[av.stream.Stream]) -> None:
        """Takes in the packet that was read next, of whatever track."""
        if packet.pos is None or packet.pos < 0 or not packet.size:
            return
        if packet.pos == self._at:  # several in one page
            self._size += packet.size
            return
        if self._at is not None:
            hole = packet.pos - self._at - self._size
            self._count += hole if hole > HOLE_BYTES else 0
        self._at, self._size = packet.pos, packet.size

    def take(self) -> int:
        """The count since the last call."""
        count, self._count = self._count, 0
        return count

    def rest(self, size: int | None) -> int:
        """Those of a file of that size that are in no packet so far, counted from the last one."""
        return max(0, (size or 0) - (self._at or 0) - self._size)


class _Tags:
    """ID3 tags amid the frames of MP3 or AAC, as in files that were joined."""

    def __init__(self, form: str) -> None:
        self._possible, self._end = form in ("mp3", "aac"), 0

    def cover(self, packet: av.Packet[av.AudioStream]) -> bool:
        """Whether a packet is (of) a tag, and no sound."""
        if not self._possible or packet.pos is None or not packet.size:
            return False
        head = bytes(memoryview(packet)[:138])
        old = 128 if head[:3] == b"TAG" else 0  # one of version 1 comes before one of version 2
        size = old + id3_size(head[old:])
        if size:
            self._end = packet.pos + size
        return packet.pos < self._end
