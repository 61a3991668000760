"""What goes over the wire comes back the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from livekit.plugins.whisper.errors import AudioError, ConfigError, EngineError
from livekit.plugins.whisper.host import wire
from livekit.plugins.whisper.host.wire import (
    MAX_SECONDS,
    decode_audio,
    decode_error,
    encode_audio,
    encode_error,
)
from livekit.plugins.whisper.types import SAMPLE_RATE, Audio, DecodeOptions, Utterance

from tests.support.weights import TINY


@given(arrays(np.int16, st.integers(0, 500)))
def test_sound_of_16_bits_goes_as_16_bits(
    samples: np.ndarray[tuple[int], np.dtype[np.int16]],
) -> None:
    sound = (samples / np.float32(32768)).astype(np.float32)
    data, kind = encode_audio(Audio(sound))
    assert (len(data), kind) == (2 * len(samples), "s16le")
    assert np.array_equal(decode_audio(bytes(data), kind).samples, sound)


@given(arrays(np.float32, st.integers(0, 500), elements=st.floats(-2, 2, width=32)))
def test_sound_of_any_numbers_comes_back_the_same(
    sound: np.ndarray[tuple[int], np.dtype[np.float32]],
) -> None:
    """Also what is a little out of range."""
    data, kind = encode_audio(Audio(sound))
    back = decode_audio(bytes(data), kind).samples
    assert back.dtype == np.float32
    assert np.array_equal(back, sound)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e6])
def test_what_is_no_sound_is_refused(value: float) -> None:
    with pytest.raises(AudioError, match=r"no numbers|up to 1e\+06, where full scale is 1"):
        decode_audio(np.full(10, value, "<f4").tobytes(), "f32le")


@pytest.mark.parametrize(("kind", "bits"), [("f32le", 32), ("s16le", 16)])
def test_half_a_sample_is_refused(kind: str, bits: int) -> None:
    with pytest.raises(AudioError, match=f"5 bytes are no {bits}-bit samples; send raw {kind}"):
        decode_audio(bytes(5), kind)


def test_too_much_sound_is_refused_in_either_format() -> None:
    count = int(MAX_SECONDS * SAMPLE_RATE) + 1
    with pytest.raises(AudioError, match="send it in parts"):
        decode_audio(bytes(2 * count), "s16le")


@pytest.mark.parametrize("retryable", [True, False])
def test_whether_trying_again_helps_comes_back_the_same(retryable: bool) -> None:
    error = EngineError("decoding failed")
    error.retryable = retryable
    back = decode_error(encode_error(error))
    assert isinstance(back, EngineError)
    assert back.retryable is retryable


@given(st.text(max_size=300), st.text(max_size=300), st.binary(max_size=50))
def test_text_before_the_samples_comes_back_the_same(
    prompt: str, hotwords: str, samples: bytes
) -> None:
    options = DecodeOptions(prompt=prompt, hotwords=hotwords)
    _, headers, text = wire.request(TINY, Utterance(Audio(np.zeros(0, np.float32))), options)
    found, rest = wire.split_body(bytearray(text + samples), headers.get(wire.TEXT))
    assert (found.get("prompt", ""), found.get("hotwords", "")) == (prompt, hotwords)
    assert rest == samples


@pytest.mark.parametrize(
    ("size", "body"),
    [
        ("-1", b""), ("1", b""), ("x", b"{}"), ("\u0661", b"{}"), ("9" * 5000, b"{}"), ("", b"{}"),
        ("2", b"[]"), ("3", b"{}"), ("1", b"{}"), ("9", b'{"no": 1}'), ("13", b'{"prompt": 1}'),
        ("9", b"\xff" * 9), ("99999", b"[" * 99999),
    ],
)  # fmt: skip
def test_wrong_text_before_the_samples_is_refused(size: str, body: bytes) -> None:
    with pytest.raises(ConfigError, match="the text before the samples"):
        wire.split_body(bytearray(body), size)
