"""What the gate doubts, without a model; how a machine is shared out; the spectrogram."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import whisper
from faster_whisper.feature_extractor import FeatureExtractor
from livekit.plugins.whisper.audio import from_file
from livekit.plugins.whisper.engines import plan
from livekit.plugins.whisper.engines.features import log_mel
from livekit.plugins.whisper.engines.quality import Decoded, doubt, not_speech
from livekit.plugins.whisper.types import Audio, DecodeOptions, Segment

from tests.support.weights import recordings

WALK = (
    "She opened the window, looked down at the crowded street, and decided that it was far too "
    "warm to go for"
)


def decoded(
    text: str,
    logprob: float = -0.3,
    no_speech: float = 0.05,
    *,
    tokens: int = 12,
    language_prob: float = 1.0,
) -> Decoded:
    segments = (Segment(text, 0.0, 2.0, logprob, no_speech),) if text else ()
    return Decoded(segments, "en", logprob, no_speech, 2.0, tokens, language_prob)


@pytest.mark.parametrize(
    "text",
    ["Yes.", "No, no, no!", "Thank you. Thank you.", "Bye bye, bye bye.", "It is 20 20 20.",
     "あのー、そうですね", "გამარჯობა, როგორ ხართ, სად არის უახლოესი სადგური და როგორ მივიდე იქ?",
     "Turn left after the bridge, and then turn left again."],
)  # fmt: skip
def test_speech_is_believed(text: str) -> None:
    assert doubt(decoded(text), 2.0) == ""


@pytest.mark.parametrize(
    ("window", "duration", "why"),
    [
        (decoded("Turn left at the bridge.", -1.05), 2.0, "improbable"),
        (decoded("What time is it? What time is it?"), 1.3, "repetitive"),
        (decoded(f"{WALK} a walk. {WALK} an walk."), 7.3, "repetitive"),
        (decoded("He was not an old-s-s-y-y-y-y-y-y-y-y-y"), 3.0, "repetitive"),
        (decoded("mei, mei, mei, mei, mei"), 4.0, "repetitive"),
        (decoded(2 * "ご視聴ありがとうございました。"), 4.0, "repetitive"),
        (decoded("Turn left.", tokens=42), 1.0, "too many tokens"),
        (decoded("She looked down at the crowded street, and went for a walk."), 0.5,
         "too many letters"),
        (decoded(""), 2.0, "too few letters"),
        (decoded("You"), 8.0, "too few letters"),
        (decoded("Turn left.", language_prob=0.7), 2.0, "language"),
    ],
)  # fmt: skip
def test_what_short_windows_do_wrong_is_doubted(window: Decoded, duration: float, why: str) -> None:
    assert doubt(window, duration) == why


def test_only_sure_silence_is_believed() -> None:
    assert doubt(decoded("I'm sorry.", -1.7, 0.95), 5.0) == ""
    assert doubt(decoded("I'm sorry.", -1.7, 0.7), 5.0) == "improbable"


PLAIN = DecodeOptions("en")
STEERED = DecodeOptions("en", prompt="I'm sorry to hear that.", hotwords="Dashwood, Barton Park")


@pytest.mark.parametrize(
    ("window", "options", "why"),
    [
        (decoded("Thank you.", -0.75, 0.52), PLAIN, ""),
        (decoded("Thank you.", -0.75, 0.65), PLAIN, "phrase"),
        (decoded("Thanks for watching!", -1.05, 0.2), PLAIN, "phrase"),
        (decoded("Thanks for watching!", -0.86, 0.43), PLAIN, "phrase"),
        (decoded("Thanks for watching!", -0.3, 0.1), PLAIN, ""),
        (decoded("ご視聴ありがとうございました。", -0.3, 0.7), PLAIN, "phrase"),
        (decoded(15 * "ご視聴ありがとうございました。", -0.1, 0.78), PLAIN, "phrase"),
        (decoded("Thank you for the tickets.", -0.75, 0.65), PLAIN, ""),
        (decoded("Barton Park.", -0.5, 0.7), PLAIN, ""),
        (decoded("Barton Park.", -0.5, 0.7), STEERED, "echo"),
        (decoded("Barton Park.", -0.5, 0.1), STEERED, ""),
        (decoded("Sorry to hear that", -0.4, 0.7), STEERED, "echo"),
        (decoded("Sorry", -1.1, 0.1), STEERED, ""),
        (decoded("la " * 40, -0.3, 0.7), PLAIN, "repetition"),
        (decoded("la " * 40, -0.3, 0.1), PLAIN, ""),
        (decoded("Turn left.", -1.2, 0.7), PLAIN, "silence"),
        (decoded("Turn left.", -0.65, 0.9), PLAIN, "silence"),
        (decoded("Ouch.", -1.68, 0.05), PLAIN, "improbable"),
        (decoded("Ouch.", -1.1, 0.35), PLAIN, "improbable"),
        (decoded("Turn left.", -1.3, 0.2), PLAIN, ""),
        (decoded("..."), PLAIN, "punctuation"),
        (decoded(""), PLAIN, ""),
    ],
)  # fmt: skip
def test_what_nobody_said_is_dropped_where_the_audio_is_doubtful(
    window: Decoded, options: DecodeOptions, why: str
) -> None:
    assert not_speech(window, options) == why


@pytest.mark.parametrize(
    ("cores", "workers", "threads", "planned"),
    [
        (1, 0, 0, (1, 1)),
        (2, 0, 0, (2, 1)),
        (4, 0, 0, (2, 2)),
        (6, 0, 0, (2, 3)),
        (16, 0, 0, (2, 8)),
        (64, 0, 0, (8, 8)),
        (128, 1, 0, (1, 8)),
        (2, 1, 0, (1, 2)),
        (2, 4, 0, (4, 1)),
        (4, 0, 4, (1, 4)),
        (4, 0, 1, (2, 1)),
        (2, 0, 8, (1, 8)),
        (8, 3, 5, (3, 5)),
    ],
)
def test_plan(cores: int, workers: int, threads: int, planned: tuple[int, int]) -> None:
    assert plan(cores, workers, threads) == planned


@pytest.mark.parametrize("mels", [80, 128])
def test_spectrogram_is_that_of_the_reference_with_silence_after_the_audio(mels: int) -> None:
    filters = FeatureExtractor(feature_size=mels).mel_filters
    samples = from_file(recordings()[1]).samples
    silence = np.zeros(16_000, np.float32)
    for some in (samples, samples[:-77], samples[:100], silence):
        reference = whisper.log_mel_spectrogram(whisper.pad_or_trim(torch.from_numpy(some)), mels)
        ours = log_mel(Audio(some), filters, 3000)
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, reference.numpy(), atol=1e-4)
        np.testing.assert_array_equal(log_mel(Audio(some), filters, 1000), ours[:, :1000])
