"""Log-mel spectrograms as Whisper was trained on, computed of the audio and not of its padding."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..types import Audio

FRAMES_PER_SECOND = 100
HOP = 160
"""Samples from one frame to the next."""
FFT = 400
"""Samples that a frame is computed of."""
LOWEST = -10.0
"""The power, in powers of ten, that stands for none."""
RANGE = 8.0
"""Powers of ten below the loudest place: what is quieter counts as that."""
ROWS = 16
"""So small a product OpenBLAS computes in the calling thread; its other threads would busy-wait for
more and take the time of the workers (a fifth of all, measured on two cores)."""

Spectrogram = NDArray[np.float32]

_HANN = np.hanning(FFT + 1)[:-1].astype(np.float32)


def log_mel(audio: Audio, filters: Spectrogram, frames: int) -> Spectrogram:
    """The spectrogram of audio with silence after it.

    The same as openai-whisper's of padded samples. faster-whisper pads the spectrogram with zeros,
    which is not silence but noise at -40 dB: with it, there are more errors.

    Args:
        audio: what is longer than the spectrogram is cut off.
        filters: the mel filters, (mels, 201).
        frames: how long the spectrogram is.

    Returns:
        (mels, frames)
    """
    ended = np.pad(audio.samples[: frames * HOP], (0, FFT))
    padded = np.pad(ended, FFT // 2, mode="reflect")
    pieces = np.lib.stride_tricks.sliding_window_view(padded, FFT)[::HOP][:-1]
    spectrum = np.fft.rfft(pieces * _HANN)
    power = spectrum.real**2 + spectrum.imag**2
    rows = np.zeros((-(-len(power) // ROWS) * ROWS, power.shape[1]), np.float32)
    rows[: len(power)] = power
    mel = (rows.reshape(-1, ROWS, power.shape[1]) @ filters.T).reshape(len(rows), -1)
    heard = np.log10(np.maximum(mel[: min(len(power), frames)], 10**LOWEST))
    whole = np.full((len(filters), frames), LOWEST, np.float32)
    whole[:, : len(heard)] = heard.T
    return np.asarray((np.maximum(whole, heard.max() - RANGE) + 4) / 4, np.float32)
