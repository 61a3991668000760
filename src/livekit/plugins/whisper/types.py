"""The nouns of the package: frozen values that every other module passes around."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from .audio import SAMPLE_RATE as SAMPLE_RATE
from .audio import WINDOW_SECONDS as WINDOW_SECONDS
from .audio import Audio as Audio

MAX_TEXT = 2**20
"""Bytes of a prompt, or of hotwords; engines use the last few hundred words."""

Task = Literal["transcribe", "translate"]
Window = Literal["adaptive", "full"]


@dataclass(frozen=True)
class ModelKey:
    """Everything that changes the weights in memory, and nothing else."""

    engine: str
    """`faster-whisper` or `openai-whisper`."""
    model: str
    """A model reference: a known name, `owner/repo`, a path, or `package:NAME/PATH`."""
    revision: str | None = None
    """A commit, tag or branch of the hub repository; None: the pinned one, else the newest."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:N`."""
    compute_type: str = "auto"
    """Number format of the weights; `auto`: float16 on GPUs, else int8 (or float32, PyTorch)."""

    def __str__(self) -> str:
        model = f"{self.model}@{self.revision}" if self.revision else self.model
        return f"{self.engine}:{model}:{self.device}:{self.compute_type}"


@dataclass(frozen=True)
class Limits:
    """What the models of one process or host may use."""

    threads: int = 0
    """CPU threads of each worker; 0: chosen from the machine's cores."""
    workers: int = 0
    """Batches that one model decodes at once; 0: chosen from the machine's cores."""
    batch: int = 0
    """Utterances decoded together; 0: what suits the device."""
    queue: int = 0
    """Utterances that may wait for one model; 0: the default."""
    memory: int = 0
    """Bytes of models; 0: no limit."""
    idle: float = 0.0
    """Seconds after which a model that nobody holds is given up; 0: never."""


@dataclass(frozen=True)
class DecodeOptions:
    """How to decode; utterances with equal options can share a batch."""

    language: str | None = None
    """ISO 639 code as Whisper knows it; None: detect it for each utterance."""
    task: Task = "transcribe"
    """`transcribe`, or `translate` into English."""
    prompt: str | None = None
    """Text that the speech continues, which steers spelling and style."""
    hotwords: str | None = None
    """Words to favour (faster-whisper only)."""
    beam_size: int = 1
    """Hypotheses kept while decoding; 1 is greedy."""
    word_timestamps: bool = False
    """Whether `Segment.words` is filled in (costs an alignment pass)."""
    window: Window = "adaptive"
    """How much audio the encoder sees for a short utterance: what is needed, or always 30 s."""
    context: float = 0.0
    """Seconds at the beginning of the audio that are heard for their context alone: their words are
    not transcribed. With the rest, 30 s at most."""


class Urgency(IntEnum):
    """Who waits for an utterance; a lower value is decoded first."""

    FINAL = 0
    PREFLIGHT = 1
    INTERIM = 2


@dataclass(frozen=True, eq=False)
class Utterance:
    """A stretch of speech to decode."""

    audio: Audio
    """What was said."""
    start: float = 0.0
    """Where it starts in its stream, in seconds."""
    stream: str = ""
    """Which stream it belongs to; empty when there is none."""
    urgency: Urgency = Urgency.FINAL
    """Who waits for it."""


@dataclass(frozen=True)
class Word:
    """One word of a segment."""

    text: str
    """The word, with the space before it as Whisper writes it."""
    start: float
    """Seconds from the start of the stream."""
    end: float
    """Seconds from the start of the stream."""
    probability: float
    """0 to 1."""


@dataclass(frozen=True)
class Segment:
    """A phrase, as Whisper's own timestamps cut them."""

    text: str
    """The words, without surrounding white space."""
    start: float
    """Seconds from the start of the stream."""
    end: float
    """Seconds from the start of the stream."""
    avg_logprob: float
    """Mean log probability of the tokens of the window that it was decoded in."""
    no_speech_prob: float
    """Probability that the window holds no speech, 0 to 1."""
    words: tuple[Word, ...] = ()
    """Filled in only with `DecodeOptions.word_timestamps`."""


@dataclass(frozen=True)
class Transcript:
    """What an engine heard in an utterance."""

    text: str
    """All segments joined; empty when nothing was said."""
    language: str
    """The language spoken: the one asked for, else the one detected."""
    segments: tuple[Segment, ...] = ()
    """In order of time."""
    confidence: float = 0.0
    """`exp` of the mean token log probability, weighted by segment length, 0 to 1."""
