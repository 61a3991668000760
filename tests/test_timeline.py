"""The demo's picture of one utterance: what is measured for it, what is drawn, and what is said."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from livekit.agents.stt import SpeechEventType
from livekit.plugins import silero
from matplotlib.image import imread

import scripts
from scripts import chart, comparison, look, material, stage
from scripts.speaker import Speaker
from scripts.stage import WER_LIMIT
from scripts.track import Mark, Track
from scripts.wer import word_error_rate
from tests.support.hosts import Hosts
from tests.support.weights import TINY

LATE = 1.5
"""Seconds of silence until the VAD is sure: on a busy machine too the preflight comes before it."""


async def test_words_of_an_utterance_come_in_order_and_are_drawn(
    hosts: Hosts, tmp_path: Path
) -> None:
    recording, said = material.utterance()
    detector = silero.VAD.load(min_silence_duration=LATE)
    ours, plain = await comparison.measure("faster-whisper", TINY.model, recording, detector)
    assert hosts.pid  # one model for all job processes is what is shown
    first, preflight, final = ours.interims[0], ours.preflight, ours.final
    assert preflight is not None
    assert ours.speech[0] < first.at < ours.speech[1] < preflight.at <= final.at
    assert preflight.text == final.text
    ((since, until),) = ours.speaking
    assert ours.speech[0] < since < first.at
    assert preflight.at < until

    (only,) = plain.marks
    ((_, silent),) = plain.speaking
    assert plain.speech == ours.speech
    assert plain.speech[1] < silent < only.at
    assert word_error_rate(said, final.text) < WER_LIMIT
    assert word_error_rate(said, only.text) < WER_LIMIT

    path = tmp_path / "timeline.png"
    named = {"one": ours, "other": plain}
    lanes = [chart.Lane(name, track, look.BLUE, look.LIGHT) for name, track in named.items()]
    chart.draw(recording, said, lanes, "a note", path)
    height, width = imread(path).shape[:2]
    assert 1190 <= width <= 1210
    assert 600 <= height <= 800
    assert 20_000 < path.stat().st_size < 150_000


def test_preflight_is_that_of_the_last_pause() -> None:
    """Of a speaker who falls silent in between, and of a recording that the VAD splits."""
    kinds = SpeechEventType
    early = Mark(kinds.PREFLIGHT_TRANSCRIPT, 1.0, "He might")
    late = Mark(kinds.PREFLIGHT_TRANSCRIPT, 3.2, "even")
    finals = [Mark(kinds.FINAL_TRANSCRIPT, at, text) for at, text in ((1.5, "He"), (3.5, "even"))]
    track = Track((0.1, 3.0), (early, finals[0], late, finals[1]), ((0.2, 1.5), (1.8, 3.5)))
    assert track.preflight == late
    assert track.final == finals[1]
    assert Track((0.1, 3.0), (early, finals[1]), ((0.2, 3.5),)).preflight is None


async def test_demo_goes_on_without_matplotlib(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name in ("matplotlib", "matplotlib.pyplot"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("chart", "look"):
        monkeypatch.delattr(scripts, name)
        monkeypatch.delitem(sys.modules, f"scripts.{name}")
    monkeypatch.setattr(stage, "TIMELINE", tmp_path / "timeline.png")
    await stage.draw_timeline({"STT_PROVIDER": "faster-whisper", "STT_MODEL": TINY.model})
    out = capsys.readouterr().out
    assert "No timeline: import of matplotlib" in out
    assert "`make demo` installs" in out
    assert not any(tmp_path.iterdir())


def test_command_says_why_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    run = subprocess.run(
        [sys.executable, material.ROOT / "scripts" / "timeline.py", "--out", "file/timeline.png"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert run.returncode == 1
    assert run.stderr == "no timeline: file/timeline.png: File exists\n"


async def test_words_are_shown_as_they_come_and_marked_when_final(
    capsys: pytest.CaptureFixture[str],
) -> None:
    speaker = Speaker("caller")
    events = speaker.events()
    for segment in ("1", ""):  # in a room, and without
        for text, final in (("He", False), ("He might", False), ("He might", True)):
            speaker.hear("caller", segment, text, final)
        speaker.hear("caller", segment, "He might", False)  # the same words, said again
        speaker.hear("caller", segment, "He might", False)
    speaker.leave()
    await stage.show_words(events)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    once = ["He", "He might", "✓ He might", "He might"]
    assert [" ".join(line[2:]) for line in lines] == 2 * once
    assert {" ".join(line[:2]) for line in lines} == {"0.0 s"}
