"""`livekit-whisper transcribe` with files that are late, damaged, joined, or have swapped wires."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tests.support import audio as make
from tests.support.audio import Sound
from tests.support.command import Here
from tests.support.weights import CT2_REFERENCE, recordings

SAID = "He might even have been made amiable himself."
SPEECH = make.resample(make.read_wav(recordings()[4]), 16000, 48000)


@pytest.fixture(autouse=True)
def model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STT_MODEL", CT2_REFERENCE)


def test_times_of_a_late_track(here: Here) -> None:
    sound = Sound("aac", SPEECH, start=7.0)
    make.write_tracks(Path("late.mkv"), sound, seconds_of_picture=9)
    result = here("transcribe", "-f", "srt", "late.mkv")
    assert result.status == 0, result.err
    assert result.out.startswith("1\n00:00:07,0")
    assert SAID in result.out


def test_what_is_damaged_is_told_after_what_was_heard(here: Here) -> None:
    twice = np.concatenate([SPEECH, make.silence(4.0, 48000), SPEECH])
    path = make.write_tracks(Path("hurt.mp3"), Sound("libmp3lame", twice))
    make.damage(path, 0.5, 600)
    result = here("transcribe", "hurt.mp3")
    assert result.status == 1
    assert result.out.split() == [*SAID.split(), *SAID.split()]
    assert re.fullmatch(
        r"error: hurt\.mp3: damaged after [56]\.\d s: 0\.\d+ s could not be read, all else was; "
        "copy or convert it again from its source\n",
        result.err,
    )


def test_rates_that_change_and_swapped_wires(here: Here) -> None:
    parts = []
    for rate, channels in ((44100, 1), (22050, 2)):
        samples = make.with_channels(make.resample(SPEECH, 48000, rate), channels)
        part = make.write_tracks(Path("part.mp3"), Sound("libmp3lame", samples, rate))
        parts.append(part.read_bytes())
    Path("joined.mp3").write_bytes(b"".join(parts))
    make.write_tracks(Path("wires.flac"), Sound("flac", np.stack([SPEECH, -SPEECH], 1)))
    result = here("transcribe", "joined.mp3", "wires.flac")
    assert result.status == 0, result.err
    expected = f"==> joined.mp3 <== {SAID} {SAID} ==> wires.flac <== {SAID}"
    assert result.out.split() == expected.split()
