"""Files of every sort become mono samples at 16 kHz; what is no whole recording is told."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
from livekit.plugins.whisper import audio
from livekit.plugins.whisper.errors import AudioError

from tests.support import audio as make
from tests.support.audio import A_TONE, assert_is_the_tone
from tests.support.users import ordinary_user

SUFFIXES = [".wav", ".flac", ".mp3", ".ogg", ".webm", ".m4a"]
MEBIBYTE = 1 << 20


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_file_of_any_format(tmp_path: Path, suffix: str) -> None:
    path = make.write(tmp_path / f"tone{suffix}", A_TONE)
    assert_is_the_tone(audio.from_file(path))
    assert_is_the_tone(audio.from_file(str(path)))
    with path.open("rb") as file:
        assert_is_the_tone(audio.from_file(file))
    assert_is_the_tone(audio.from_file(io.BytesIO(path.read_bytes())))
    assert audio.probe(path) == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize("channels", [1, 2, 3, 6, 8])
@pytest.mark.parametrize("rate", [8000, 48000, 96000])
def test_file_of_any_rate_and_number_of_channels(tmp_path: Path, rate: int, channels: int) -> None:
    samples = make.with_channels(make.tone(2.0, rate, hertz=440.0, level=0.3), channels)
    assert_is_the_tone(audio.from_file(make.write(tmp_path / "tone.wav", samples, rate)))


def test_blocks_are_the_file(tmp_path: Path) -> None:
    path = make.write(tmp_path / "tone.flac", A_TONE)
    blocks = list(audio.blocks(path))
    assert len(blocks) > 5
    assert np.array_equal(np.concatenate(blocks), audio.from_file(path).samples)


def test_name_with_a_colon_is_no_address(tmp_path: Path) -> None:
    make.write(tmp_path / "12:30.wav", A_TONE)
    assert_is_the_tone(audio.from_file("12:30.wav"))


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "aac"), (".mkv", "libopus")])
def test_picture_that_is_longer_than_the_sound(tmp_path: Path, suffix: str, codec: str) -> None:
    path = tmp_path / f"film{suffix}"
    sound = make.Sound(codec, make.resample(A_TONE, 16000, 48000))
    make.write_tracks(path, sound, seconds_of_picture=6)
    assert_is_the_tone(audio.from_file(path))


def test_picture_without_sound(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    make.write_tracks(path, seconds_of_picture=1)
    with pytest.raises(AudioError, match=r"film\.mp4: has no audio track"):
        audio.from_file(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("as_object", [False, True])
def test_truncated_file_is_told(tmp_path: Path, suffix: str, as_object: bool) -> None:
    samples = make.tone(6.0) + make.white_noise(6.0)
    path = make.truncate(make.write(tmp_path / f"cut{suffix}", samples))
    source = io.BytesIO(path.read_bytes()) if as_object else path
    if suffix == ".ogg":  # Ogg is made for streams: it states no length, so what is there is it
        assert 1 < audio.from_file(source).duration < 5
        return
    name = "audio data" if as_object else f"cut{suffix}"
    with pytest.raises(AudioError, match=f"{name}: .*(truncated|damaged)"):
        audio.from_file(source)


def test_what_comes_before_the_cut_is_handed_out(tmp_path: Path) -> None:
    path = make.truncate(make.write(tmp_path / "cut.wav", make.tone(6.0)))
    blocks, count = audio.blocks(path), 0
    with pytest.raises(AudioError, match=r"ends after 3\.0 s of the 6\.0 s that it states"):
        for block in blocks:
            count += len(block)
    assert count == pytest.approx(3 * 16000, abs=100)


@pytest.mark.parametrize("size", [0, 0x7FFFF024, 0x80000000, 0xFFFFFFFF])
def test_wav_that_was_written_to_a_pipe_is_whole(tmp_path: Path, size: int) -> None:
    data = bytearray(make.write(tmp_path / "tone.wav", A_TONE).read_bytes())
    struct.pack_into("<I", data, 4, size)  # what ffmpeg, sox and arecord put there
    struct.pack_into("<I", data, 40, max(size - 36, 0) or 0xFFFFFFFF)
    (tmp_path / "tone.wav").write_bytes(data)
    assert_is_the_tone(audio.from_file(tmp_path / "tone.wav"))


def test_mp3_that_states_no_length_is_whole(tmp_path: Path) -> None:
    """FFmpeg goes by the first bit rate there, and takes 7 s for more than 20."""
    joined = b"".join(bare_mp3(tmp_path, *part) for part in ((2.0, 32_000), (5.0, 256_000)))
    (tmp_path / "joined.mp3").write_bytes(joined)
    assert (audio.probe(tmp_path / "joined.mp3") or 0) > 20  # the guess that is not believed
    assert audio.from_file(tmp_path / "joined.mp3").duration == pytest.approx(7.0, abs=0.2)


def bare_mp3(folder: Path, seconds: float, bit_rate: int) -> bytes:
    """Nothing but packets of sound."""
    options = {"write_xing": "0", "id3v2_version": "0"}
    with av.open(str(folder / "bare.mp3"), "w", options=options) as container:
        stream = container.add_stream("libmp3lame", rate=44100, layout="mono")
        assert isinstance(stream, av.AudioStream)
        stream.bit_rate = bit_rate
        for packet in make.encoded(stream, make.Sound("", make.tone(seconds, 44100), 44100)):
            container.mux(packet)
    return (folder / "bare.mp3").read_bytes()


# What is no audio


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_text_is_not_audio_whatever_its_name(tmp_path: Path, suffix: str) -> None:
    path = make.write_text(tmp_path / f"letter{suffix}")
    expected = "is not audio .* convert it to WAV|has no sound in it; .* is it audio"
    with pytest.raises(AudioError, match=rf"letter\{suffix}: ({expected})"):
        audio.from_file(path)


def test_what_cannot_be_audio_says_why(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    make.write(tmp_path / "header.wav", make.silence(0))
    os.mkfifo(tmp_path / "pipe.wav")
    expected = {
        "empty.wav": r"is empty \(0 bytes\)",
        "header.wav": "has no sound in it; is it complete",
        "missing.wav": "no such file",
        "empty.wav/inner.wav": "no such file",
        "": "is a folder; name the files in it",
        "pipe.wav": "is not an ordinary file",  # reading it would wait for a writer
    }
    for name, message in expected.items():
        for read in (audio.from_file, audio.probe):
            if (name, read) != ("header.wav", audio.probe):
                with pytest.raises(AudioError, match=message) as caught:
                    read(tmp_path / name)
                assert str(tmp_path / name) in str(caught.value)
    with pytest.raises(AudioError, match="audio data: is not audio"):
        audio.from_file(io.BytesIO(b""))


def test_file_that_may_not_be_read(tmp_path: Path) -> None:
    make.write(tmp_path / "secret.wav", A_TONE).chmod(0)
    (tmp_path / "closed").mkdir(mode=0)
    tmp_path.chmod(0o755)  # the working directory, which names below start from
    with ordinary_user():
        with pytest.raises(AudioError, match=r"secret\.wav: may not be read"):
            audio.from_file("secret.wav")
        with pytest.raises(AudioError, match=r"closed/a\.wav: cannot be read .*denied"):
            audio.from_file("closed/a.wav")


# Hours


@pytest.mark.parametrize(("suffix", "hours"), [(".wav", 6), (".flac", 1)])
def test_hours_are_read_window_by_window(tmp_path: Path, suffix: str, hours: int) -> None:
    path = make.write_silence(tmp_path / f"long{suffix}", hours * 3600)
    process = psutil.Process()
    before, peak, seconds = process.memory_info().rss, 0, 0.0
    for start, window in audio.windows(audio.blocks(path)):
        assert start == pytest.approx(seconds)
        seconds += window.duration
        peak = max(peak, process.memory_info().rss)
    assert seconds == pytest.approx(hours * 3600, abs=0.1)
    assert peak - before < 50 * MEBIBYTE  # an hour of samples is 220
