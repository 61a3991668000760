"""Samples: other number formats, several channels and other rates → what the engines take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]

SAMPLE_RATE = 16_000
"""Samples per second that Whisper was trained on; every `Audio` has this rate."""
RATES = range(1_000, 10_000_001)
"""Sample rates that are believed (Hz); DSD has 2.8 MHz."""

BLOCK = 512
"""Samples over which it is decided whether channels cancel each other out."""
LEAST_BLOCK = 64
"""Fewer samples decide nothing: any two channels are opposite for a moment."""
CANCELLED, RESTORED = 0.1, 0.3
"""Power of a mix, as a share of what channels that have nothing in common would give: below the
first they cancel each other out, above the second they do so no more."""
LOUDER = 4.0
"""How much more power another channel must have to be taken instead of the one that was."""
SILENT = 1e-10
"""Mean square below which a block decides nothing (-100 dB)."""

_SPEAKERS = {"FC": 1.0, "FL": 0.5**0.5, "FR": 0.5**0.5, "LFE": 0.0, "LFE2": 0.0}
"""Weights in a mix to mono, as FFmpeg has them (ITU-R BS.775); all others have 0.5."""


def to_float(samples: NDArray[Any]) -> Samples:
    """Integers of any size, or floats → floats, with full scale at 1.0."""
    kind, bits = samples.dtype.kind, 8 * samples.dtype.itemsize
    floats: Samples = samples.astype(np.float32, copy=False)
    if kind == "f":
        return floats
    scaled: Samples = floats / np.float32(2 ** (bits - 1))
    return scaled - np.float32(1) if kind == "u" else scaled


def to_int16(samples: Samples) -> NDArray[np.int16]:
    """Floats → 16-bit integers; what is louder than full scale is clipped."""
    clipped: Samples = np.clip(np.rint(samples * np.float32(32768)), -32768, 32767)
    return clipped.astype(np.int16)


def speaker_weights(names: Sequence[str]) -> list[float]:
    """How loud each channel of a layout is in a mix; `names` are FFmpeg's (FL, FR, LFE, …)."""
    weights = [_SPEAKERS.get(name, 0.5) for name in names]
    return weights if any(weights) else [1.0] * len(weights)


class Mixer:
    """Several channels → one, block by block, without delay.

    Where channels cancel each other out (a microphone with one wire swapped, a karaoke track), the
    mix is silence, although each of them is heard. The loudest of them is taken instead, for as
    long as that is so; between the two ways it fades, so that nothing clicks.

    Args:
        weights: how loud each channel is in the mix, in proportion.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        self._mix = np.asarray(weights, np.float32) / np.float32(sum(weights))
        self._alone: int | None = None
        self._gains: Samples | None = None

    @property
    def channels(self) -> int:
        """How many it takes."""
        return len(self._mix)

    def mix(self, samples: Samples) -> Samples:
        """Samples of shape (samples, channels) → one channel, as many samples."""
        if samples.shape[1] == 1 or not len(samples):
            return samples[:, 0]
        mixed: Samples = samples @ self._mix
        starts = np.arange(0, len(samples), BLOCK)
        power = np.add.reduceat(np.square(samples), starts, axis=0)
        share = np.add.reduceat(np.square(mixed), starts)
        unlike: Samples = power @ np.square(self._mix)
        sizes = np.diff(starts, append=len(samples))
        decisive = (sizes >= LEAST_BLOCK) & (unlike > SILENT * sizes)
        cancelled = decisive & (share < CANCELLED * unlike)
        if self._alone is None and not cancelled.any():
            self._gains = self._mix if decisive.any() else self._gains
            return mixed
        restored = decisive & (share > RESTORED * unlike)
        for block, start in enumerate(starts):
            if cancelled[block]:
                self._choose(power[block] * (self._mix > 0))
            elif restored[block]:
                self._alone = None
            part = slice(start, start + sizes[block])
            mixed[part] = self._faded(samples[part], decided=bool(decisive[block]))
        return mixed

    def _choose(self, power: Samples) -> None:
        if self._alone is None or LOUDER * power[self._alone] < power.max():
            self._alone = int(power.argmax())

    def _faded(self, samples: Samples, *, decided: bool) -> Samples:
        """A block, from the gains that were to those that are now."""
        gains = self._mix
        if self._alone is not None:
            gains = np.zeros_like(self._mix)
            gains[self._alone] = 1.0
        before = gains if self._gains is None else self._gains
        if decided or self._gains is not None:  # what begins does not fade in
            self._gains = gains
        now: Samples = samples @ gains
        if np.array_equal(before, gains):
            return now
        old = np.linspace(1, 0, len(samples), endpoint=False, dtype=np.float32)
        return np.asarray(now * (1 - old) + (samples @ before) * old, np.float32)


class Resampler:
    """Mono samples at a rate that may change → 16 kHz, by FFmpeg.

    What comes out is 16-bit samples as floats, as from both engines' own loaders; what is louder
    than full scale is clipped.
    """

    def __init__(self) -> None:
        self._rate = 0
        self._resampler: av.AudioResampler | None = None

    def convert(self, samples: Samples, rate: int) -> Iterator[Samples]:
        """Yields what is ready; the rest of another rate comes first."""
        if rate != self._rate:
            yield from self.drain()
            self._rate = rate
            self._resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
        if len(samples):
            packed = np.ascontiguousarray(samples)[np.newaxis, :]
            frame = av.AudioFrame.from_ndarray(packed, format="flt", layout="mono")
            frame.sample_rate = rate
            yield from self._push(frame)

    def drain(self) -> Iterator[Samples]:
        """Yields what was still held; nothing comes after it but another rate."""
        if self._rate:
            yield from self._push(None)
            self._rate = 0

    def _push(self, frame: av.AudioFrame | None) -> Iterator[Samples]:
        assert self._resampler
        for ready in self._resampler.resample(frame):
            yield to_float(ready.to_ndarray()[0])
