"""Music that nobody sings to: chords, drums and a melody, the same for the same seed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tests.support.audio import RATE, Samples

BEAT = 0.5
"""Seconds: 120 beats a minute."""
ROOTS = (220.0, 174.61, 261.63, 196.0)
"""Of the chords, each of which lasts four beats: A, F, C, G (Hz)."""
CHORD = (1.0, 1.25, 1.5)
SCALE = (0, 2, 4, 5, 7, 9, 11, 12)
"""Semitones above the root that the melody takes."""

_Sound = NDArray[np.float64]


def music(seconds: float, level: float = 0.2, seed: int = 0) -> Samples:
    """A band; `level` is its root mean square."""
    chance = np.random.default_rng(seed)
    mixed = np.zeros(round((seconds + 2) * RATE))

    def play(at: float, sound: _Sound, loud: float) -> None:
        begin = round(at * RATE)
        mixed[begin : begin + len(sound)] += loud * sound

    for beat in range(round(seconds / BEAT)):
        at, root = beat * BEAT, ROOTS[beat // 4 % 4]
        if beat % 4 == 0:
            for ratio in CHORD:
                play(at, _note(root * ratio, 4 * BEAT, harmonics=5), 0.25)
        play(at, _snare(chance) if beat % 2 else _kick(), 0.8)
        for eighth in (0.0, 0.5):
            play(at + eighth * BEAT, _hat(chance), 0.15)
        lead = 2 * root * 2 ** (chance.choice(SCALE) / 12)
        length = BEAT * chance.choice([0.5, 1.0, 1.0])
        play(at, _note(lead, length, harmonics=8, vibrato=chance.uniform(0, 3)), 0.6)
    cut = mixed[: round(seconds * RATE)]
    cut *= level / np.sqrt(np.mean(cut**2))
    return np.clip(cut, -1, 1).astype(np.float32)


def _note(hertz: float, seconds: float, harmonics: int, vibrato: float = 0.0) -> _Sound:
    time = np.arange(round(seconds * RATE)) / RATE
    phase = 2 * np.pi * hertz * time + vibrato * np.sin(2 * np.pi * 5.5 * time)
    tone = np.sum([np.sin(k * phase) / k for k in range(1, harmonics + 1)], axis=0)
    soft = np.minimum(1, np.minimum(time, seconds - time) / 0.02)
    return np.asarray(tone * soft * np.exp(-time))


def _kick() -> _Sound:
    time = np.arange(RATE // 5) / RATE
    phase = 2 * np.pi * (50 * time + 4 * (1 - np.exp(-30 * time)))
    return np.asarray(1.5 * np.sin(phase) * np.exp(-12 * time))


def _snare(chance: np.random.Generator) -> _Sound:
    return np.asarray(chance.standard_normal(2_400) * np.exp(-np.arange(2_400) / 500))


def _hat(chance: np.random.Generator) -> _Sound:
    return np.asarray(chance.standard_normal(800) * np.exp(-np.arange(800) / 150))
