"""Is a decoded window to be believed? Whisper's own rules, and those for windows decoded short."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

from ..types import DecodeOptions, Segment
from .phrases import COMMON, CREDITS, letters_of

COMPRESSION_RATIO_LIMIT = 2.4
LOG_PROB_LIMIT = -1.0
NO_SPEECH_LIMIT = 0.6
"""The three above are Whisper's own (Radford et al. 2022, section 4.5): greedy first, then sampled
until text is neither repetitive nor improbable; improbable text in likely silence is dropped."""
SURE_NO_SPEECH, SURE_LOG_PROB = 0.8, -0.6
"""Where silence is that likely, likelier text is dropped as well: steady noise makes the small
models say "you" at -0.7 to -0.9 with 0.91 to 0.95 (tiny.en); speech stays below 0.1."""

DOUBTFUL_NO_SPEECH, IMPROBABLE_LOG_PROB = 0.3, -1.4
"""Where every attempt was improbable, the best of them is dropped past either: music makes base,
which is to find the language as well, say "ouch" at 0.52 and -1.7; what it makes of speech there,
in noise as loud or louder, has nothing to do with what was said."""

SHORT_COMPRESSION_RATIO_LIMIT = 2.0
"""In a short window, which repeats a sentence with a word changed: that is 2.3, speech at most
1.7."""
ECHO_LETTERS = 10
"""What is shorter is an answer: "no", "Tuesday"."""
CREDITS_NO_SPEECH, CREDITS_LOG_PROB = 0.3, -0.5
"""Past either, nobody said the credits of a film: music makes base thank for watching at 0.43 and
-0.86."""
LANGUAGE_LIMIT = 0.8
"""Below it the short window's language is often wrong where the full one's is right (base)."""
TOKENS, TOKENS_PER_SECOND = 16, 25
"""More is no speech: English has 6 tokens a second, languages that Whisper spells in bytes 20."""
LETTERS, LETTERS_PER_SECOND = 20, 30
"""More is no speech: fast readers have 20 a second."""
FEW_LETTERS_PER_SECOND = 1.5
QUIET_SECONDS = 2.0
"""Less, after these first seconds, leaves something out: Chinese has 4 characters a second."""
REPEATED = re.compile(r"(.{10,}?)\1|(.{2,}?)\2{4,}|(.)\3{7,}")
"""A phrase twice in a row, a syllable five times, a letter eight times: of letters only, so that it
holds in any script. "Thank you, thank you" and "bye bye, bye bye" are what people say."""

ONCE = re.compile(r"^(.+?)\1+$")
"""A text that is nothing but one phrase, again and again."""


@dataclass(frozen=True)
class Decoded:
    """One window, decoded once. Times are in seconds from its start."""

    segments: tuple[Segment, ...]
    language: str
    avg_logprob: float
    no_speech_prob: float
    consumed: float
    """Up to where Whisper says that it has transcribed, in seconds."""
    tokens: int = 0
    """How many were decoded."""
    language_prob: float = 1.0
    """How sure the detected language is."""

    @property
    def text(self) -> str:
        return " ".join(segment.text for segment in self.segments)

    @property
    def is_silence(self) -> bool:
        """Whisper's own rule for a window without speech, and a second where it is surer."""
        limits = ((NO_SPEECH_LIMIT, LOG_PROB_LIMIT), (SURE_NO_SPEECH, SURE_LOG_PROB))
        return any(
            self.no_speech_prob > no_speech and self.avg_logprob < log_prob
            for no_speech, log_prob in limits
        )

    @property
    def is_repetitive(self) -> bool:
        """Whether it compresses better than speech does."""
        return compression_ratio(self.text) > COMPRESSION_RATIO_LIMIT

    @property
    def is_doubtful(self) -> bool:
        """Whether to decode it again, sampling."""
        improbable = self.avg_logprob < LOG_PROB_LIMIT
        return not self.is_silence and (self.is_repetitive or improbable)


def token_limit(duration: float) -> int:
    """How many tokens a window decoded short may have; `duration` is its speech's, in seconds."""
    return TOKENS + int(TOKENS_PER_SECOND * duration)


def doubt(decoded: Decoded, duration: float) -> str:
    """Why a window decoded short is decoded again with the full 30 s; empty: it is believed.

    Strict, because the remedy is only slower. Probability alone does not tell: a window that
    repeats itself is sure of it. A stricter limit of it, -0.9, sends twice as many windows for a
    fortieth fewer errors (tiny.en, espeak-ng's English voices).
    """
    if decoded.is_silence and decoded.no_speech_prob > SURE_NO_SPEECH:
        return ""
    letters = letters_of(decoded.text)
    if decoded.avg_logprob < LOG_PROB_LIMIT:
        return "improbable"
    # Of letters that take three bytes each, ordinary speech compresses as well (Georgian: 2.1).
    wide = len(decoded.text.encode()) > 2 * len(decoded.text)
    limit = COMPRESSION_RATIO_LIMIT if wide else SHORT_COMPRESSION_RATIO_LIMIT
    if compression_ratio(decoded.text) > limit or REPEATED.search(letters):
        return "repetitive"
    if decoded.tokens > token_limit(duration):
        return "too many tokens"
    if len(letters) > LETTERS + LETTERS_PER_SECOND * duration:
        return "too many letters"
    # A phrase left open, without the time at which it ends, is no sign: after a prompt all are.
    if leaves_out(decoded.text, duration):
        return "too few letters"
    if decoded.language_prob < LANGUAGE_LIMIT:
        return "language"
    return ""


def leaves_out(text: str, duration: float) -> bool:
    """Whether so many seconds of speech have more to say."""
    letters = sum(map(str.isalnum, text))
    return letters == 0 or letters < FEW_LETTERS_PER_SECOND * (duration - QUIET_SECONDS)


def not_speech(decoded: Decoded, options: DecodeOptions) -> str:
    """Why nobody said what was decoded; empty: somebody did.

    What people do say ("thank you", a keyterm) is dropped only where the audio is doubtful by
    Whisper's own measures, one of which is enough then.
    """
    letters = letters_of(decoded.text)
    if not letters:
        return "punctuation" if decoded.text.strip() else ""
    if decoded.is_silence:
        return "silence"
    if decoded.avg_logprob < IMPROBABLE_LOG_PROB or (
        decoded.no_speech_prob > DOUBTFUL_NO_SPEECH and decoded.avg_logprob < LOG_PROB_LIMIT
    ):
        return "improbable"
    once = ONCE.sub(r"\1", letters)
    if once in CREDITS and _exceeds(decoded, CREDITS_NO_SPEECH, CREDITS_LOG_PROB):
        return "phrase"
    if not _exceeds(decoded, NO_SPEECH_LIMIT, LOG_PROB_LIMIT):
        return ""
    if once in COMMON:
        return "phrase"
    given = (options.prompt, options.hotwords)
    if len(letters) >= ECHO_LETTERS and any(letters in letters_of(text or "") for text in given):
        return "echo"
    return "repetition" if decoded.is_repetitive else ""


def _exceeds(decoded: Decoded, no_speech: float, log_prob: float) -> bool:
    return decoded.no_speech_prob > no_speech or decoded.avg_logprob < log_prob


def best(attempts: list[Decoded]) -> Decoded:
    """The last if it is sound; else the most probable, of those that are not repetitive if any."""
    last = attempts[-1]
    if not last.is_doubtful:
        return last
    varied = [decoded for decoded in attempts if not decoded.is_repetitive]
    return max(varied or attempts, key=lambda decoded: decoded.avg_logprob)


def compression_ratio(text: str) -> float:
    """Bytes of text for each byte of its zlib form: high where it repeats itself."""
    data = text.encode()
    return len(data) / len(zlib.compress(data)) if data else 0.0
