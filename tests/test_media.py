"""Files that are late, interrupted, damaged, joined, or hold several tracks: times stay true,
nothing that can be read is lost, and what cannot is told."""

from __future__ import annotations

import io
import itertools
import logging
import re
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from livekit.plugins.whisper import media
from livekit.plugins.whisper.errors import AudioError
from livekit.plugins.whisper.types import Audio

from tests.support import audio as make
from tests.support.audio import Samples, Sound, bursts, heard_at

AT = [1.0, 3.0, 5.0, 7.0]
"""Where the bursts are (s)."""
TWICE = np.concatenate([bursts(*AT[:2], seconds=4.0), bursts(1.0, 3.0, seconds=4.0)])


def read(path: Path | io.BytesIO) -> tuple[Samples, str]:
    """All that can be read, and what is said of the rest."""
    parts: list[Samples] = [np.zeros(0, np.float32)]
    try:
        parts.extend(media.blocks(path))
    except AudioError as exc:
        return np.concatenate(parts), str(exc)
    return np.concatenate(parts), ""


# Times

CLOCKED = [
    (".mkv", "flac"), (".webm", "libopus"), (".mp4", "aac"), (".mov", "alac"),
    (".ts", "aac"), (".ogg", "flac"), (".flv", "aac"), (".mkv", "pcm_s16le"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [(".mkv", "flac"), (".mp4", "aac"), (".mov", "alac"), (".ts", "aac")],
)
def test_track_that_begins_after_the_picture(tmp_path: Path, suffix: str, codec: str) -> None:
    sound = Sound(codec, bursts(1.0, seconds=2.0), start=3.5)
    path = make.write_tracks(tmp_path / f"late{suffix}", sound, seconds_of_picture=6)
    heard, said = read(path)
    assert heard_at(heard) == pytest.approx([4.5], abs=0.05)
    assert not said


@pytest.mark.parametrize(("suffix", "codec"), [(".mkv", "aac"), (".mp4", "aac"), (".mov", "alac")])
def test_track_that_begins_late_alone(tmp_path: Path, suffix: str, codec: str) -> None:
    sound = Sound(codec, bursts(1.0, seconds=2.0), start=3.5)
    heard, said = read(make.write_tracks(tmp_path / f"late{suffix}", sound))
    assert heard_at(heard) == pytest.approx([4.5], abs=0.05)
    assert not said


@pytest.mark.parametrize(("suffix", "codec"), CLOCKED)
def test_gap_is_silence(tmp_path: Path, suffix: str, codec: str) -> None:
    sound = Sound(codec, bursts(*AT, seconds=8.0), gap_at=4.0, gap=2.5)
    heard, said = read(make.write_tracks(tmp_path / f"gap{suffix}", sound))
    assert heard_at(heard) == pytest.approx([1.0, 3.0, 7.5, 9.5], abs=0.1)
    assert not said


@pytest.mark.parametrize("suffix", [".mkv", ".ts"])
def test_overlap_is_heard_once(tmp_path: Path, suffix: str) -> None:
    """What was sent twice, as recorders do that connect again."""
    sound = Sound("aac", bursts(*AT, seconds=8.0), gap_at=4.0, gap=-0.6)
    heard, said = read(make.write_tracks(tmp_path / f"again{suffix}", sound))
    assert heard_at(heard) == pytest.approx([1.0, 3.0, 4.4, 6.4], abs=0.12)
    assert not said


@pytest.mark.parametrize("hours", [10, 25])
def test_whole_file_that_begins_hours_later(tmp_path: Path, hours: int) -> None:
    """As a recording of a broadcast does, whose clock ran long before."""
    sound = Sound("aac", bursts(*AT, seconds=8.0), start=3600.0 * hours)
    heard, said = read(make.write_tracks(tmp_path / "live.ts", sound))
    assert heard_at(heard) == pytest.approx(AT, abs=0.05)
    assert not said


@pytest.mark.parametrize("suffix", [".mkv", ".ts"])
def test_leap_of_hours_that_no_header_states(tmp_path: Path, suffix: str) -> None:
    sound = Sound("aac", bursts(*AT, seconds=8.0), gap_at=4.0, gap=7200.0)
    path = make.write_tracks(tmp_path / f"leap{suffix}", sound)
    if suffix == ".mkv":
        path.write_bytes(with_duration(path.read_bytes(), seconds=8.0))
    heard, _ = read(path)
    assert heard_at(heard) == pytest.approx(AT, abs=0.05)


def test_gap_of_hours_that_the_header_states_comes_block_by_block(tmp_path: Path) -> None:
    sound = Sound("aac", bursts(*AT, seconds=8.0), gap_at=4.0, gap=7200.0)
    lengths = [len(block) for block in media.blocks(make.write_tracks(tmp_path / "a.mp4", sound))]
    assert sum(lengths) / 16000 == pytest.approx(7208, abs=1)
    assert max(lengths) < 100_000


def with_duration(matroska: bytes, seconds: float) -> bytes:
    """Another duration in the header of a Matroska file (EBML: ID 0x4489, 8 bytes, float)."""
    at = matroska.index(b"\x44\x89\x88") + 3
    return matroska[:at] + struct.pack(">d", seconds * 1000) + matroska[at + 8 :]


def test_one_wrong_time_moves_nothing(tmp_path: Path) -> None:
    """A cluster's time is that of many packets; one block's own is 16 bits beside it."""
    sound = Sound("flac", make.white_noise(8.0, 48000), 48000)
    path = make.write_tracks(tmp_path / "wrong.mkv", sound)
    right, _ = read(path)
    data = bytearray(path.read_bytes())
    blocks = [at.start(1) for at in re.finditer(rb"\xa3.{1,3}\x81(..)\x80", data, re.S)]
    at = blocks[len(blocks) // 2]
    data[at : at + 2] = struct.pack(">h", 4950)  # of 5 s in the cluster
    path.write_bytes(data)
    assert np.array_equal(read(path)[0], right)


# Rates and channels that change


def joined(folder: Path, suffix: str, codec: str, **options: str) -> Path:
    """Three files one after the other: other rates, other numbers of channels."""
    data = b""
    for rate, channels in ((48000, 1), (16000, 2), (44100, 1)):
        samples = bursts(1.0, 3.0, seconds=4.0, rate=rate)
        sound = Sound(codec, samples if channels == 1 else make.with_channels(samples, 2), rate)
        path = make.write_tracks(folder / f"part{suffix}", sound, options=options)
        data += path.read_bytes()
    (folder / f"joined{suffix}").write_bytes(data)
    return folder / f"joined{suffix}"


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        (".mp3", "libmp3lame"),
        (".aac", "aac"),
        (".ogg", "flac"),
        (".flac", "flac"),
        (".ts", "aac"),
        (".wav", "pcm_s16le"),
    ],
)
def test_joined_files(tmp_path: Path, suffix: str, codec: str) -> None:
    heard, said = read(joined(tmp_path, suffix, codec))
    assert heard_at(heard) == pytest.approx([1, 3, 5, 7, 9, 11], abs=0.3)
    assert not said


def test_joined_opus(tmp_path: Path) -> None:
    data = b""
    for channels in (1, 2, 1):
        samples = make.with_channels(bursts(1.0, 3.0, seconds=4.0), channels)
        path = make.write_tracks(tmp_path / "part.ogg", Sound("libopus", samples))
        data += path.read_bytes()
    for source in (io.BytesIO(data), tmp_path / "chain.opus"):
        if isinstance(source, Path):
            source.write_bytes(data)
        heard, said = read(source)
        assert heard_at(heard) == pytest.approx([1, 3, 5, 7, 9, 11], abs=0.05)
        assert not said


def test_tags_with_pictures_between_joined_mp3_are_no_damage(tmp_path: Path) -> None:
    parts, picture = [], np.random.default_rng(3).bytes(200_000)  # with marks of frames in it
    for number in range(3):
        path = tmp_path / "part.mp3"
        make.write_tracks(
            path, Sound("libmp3lame", bursts(1.0, 3.0, seconds=4.0, rate=44100), 44100)
        )
        data = path.read_bytes()
        sound = data[10 + int.from_bytes(data[8:10], "big") :]  # less than 128 bytes of tags
        size = bytes(len(picture) >> shift & 0x7F for shift in (21, 14, 7, 0))
        old = b"TAG" + bytes(125) if number == 1 else b""  # version 1, at the end
        parts.append(b"ID3\x04\0\0" + size + picture + sound + old)
    (tmp_path / "joined.mp3").write_bytes(b"".join(parts))
    heard, said = read(tmp_path / "joined.mp3")
    assert heard_at(heard) == pytest.approx([1, 3, 5, 7, 9, 11], abs=0.3)
    assert not said


def test_rate_and_layout_that_change_in_one_matroska_track(tmp_path: Path) -> None:
    path = tmp_path / "changes.mkv"
    with av.open(str(path), "w") as container:
        first = container.add_stream("ac3", rate=48000, layout="mono")
        time = 0.0
        for rate, channels in ((48000, 1), (32000, 6), (44100, 2)):
            samples = make.with_channels(bursts(1.0, 3.0, seconds=4.0, rate=rate), channels)
            part = make.write_tracks(tmp_path / "part.ac3", Sound("ac3", samples, rate))
            with av.open(str(part)) as source:
                for packet in source.demux(audio=0):
                    if packet.pts is None:
                        continue
                    packet.stream = first  # type: ignore[assignment, unused-ignore]
                    at = time + float(packet.pts * packet.time_base)
                    packet.pts = packet.dts = round(at * 1000)
                    packet.duration = round(float((packet.duration or 0) * packet.time_base) * 1000)
                    packet.time_base = Fraction(1, 1000)
                    container.mux(packet)
            time += 4.0
    heard, said = read(path)
    assert heard_at(heard) == pytest.approx([1, 3, 5, 7, 9, 11], abs=0.1)
    assert not said


# Damage

BREAKABLE = [
    (".mp3", "libmp3lame"), (".aac", "aac"), (".m4a", "aac"), (".flac", "flac"),
    (".ogg", "libopus"), (".webm", "libopus"), (".mkv", "aac"), (".mkv", "flac"),
    (".ts", "aac"), (".ac3", "ac3"), (".mka", "libmp3lame"),
]  # fmt: skip
LONG = [float(second) for second in range(1, 20)]
MESSAGE = r"a\.\w+: damaged after (?:9|1\d)\.\d s: (\d+\.\d+) s could not be read, all else was"


@pytest.mark.parametrize(("suffix", "codec"), BREAKABLE)
@pytest.mark.parametrize("size", [1500, 4000])
def test_broken_spot_is_skipped_and_told(
    tmp_path: Path, suffix: str, codec: str, size: int
) -> None:
    samples = bursts(*LONG, seconds=20.0) + make.white_noise(20.0, 48000, 0.003)
    path = make.write_tracks(tmp_path / f"a{suffix}", Sound(codec, samples))
    heard, said = read(make.damage(path, 0.5, size))
    found = re.search(MESSAGE, said)
    assert found, said
    assert 0 < float(found[1]) < 7  # Matroska loses a cluster, which is up to 5 s
    # Raw AAC has no times: what is behind the spot moves up by what is missing.
    off = 0.7 if suffix == ".aac" else 0.1
    for second in (1, 5, 9, 17, 18, 19):
        assert any(abs(at - second) < off for at in heard_at(heard)), (second, heard_at(heard))


@pytest.mark.parametrize(("suffix", "codec"), [(".mp3", "libmp3lame"), (".mp4", "aac")])
def test_broken_places_are_counted(tmp_path: Path, suffix: str, codec: str) -> None:
    samples = bursts(*LONG, seconds=20.0) + make.white_noise(20.0, 48000, 0.003)
    path = make.write_tracks(tmp_path / f"a{suffix}", Sound(codec, samples))
    for place in (0.25, 0.5, 0.75):
        make.damage(path, place, 1500)
    heard, said = read(path)
    assert "damaged in 3 places, the first after " in said
    assert len(heard) / 16000 == pytest.approx(20.0, abs=0.3)


def test_broken_end_is_truncation_where_the_length_is_known(tmp_path: Path) -> None:
    samples = make.white_noise(10.0, 48000)
    for suffix, codec in ((".mp3", "libmp3lame"), (".flac", "flac"), (".m4a", "aac")):
        path = make.write_tracks(
            tmp_path / f"a{suffix}", Sound(codec, samples), options={"movflags": "faststart"}
        )
        heard, said = read(make.truncate(path, 0.6))
        assert re.search(
            r"a\.\w+: .* truncated: it .*10\.0 s.*; copy it again from its source", said
        )
        assert "could not be read" not in said
        assert 5 < len(heard) / 16000 < 7


def test_nothing_after_the_spot_is_told(tmp_path: Path) -> None:
    options = {"movflags": "frag_keyframe+empty_moov", "frag_duration": "500000"}
    path = make.write_tracks(
        tmp_path / "a.mp4", Sound("aac", make.white_noise(10.0, 48000)), options=options
    )
    heard, said = read(make.damage(path, 0.5, 20_000))
    assert re.search(r"damaged after [45]\.\d s: .* nor anything after that", said)
    assert 4 < len(heard) / 16000 < 6


def test_broken_link_of_a_chain(tmp_path: Path) -> None:
    parts = []
    for _ in range(3):
        path = make.write_tracks(tmp_path / "a.ogg", Sound("flac", bursts(1, 3, seconds=4.0)))
        parts.append(path.read_bytes())
    broken = bytearray(parts[1])
    broken[28:200] = bytes(172)  # its header
    (tmp_path / "a.ogg").write_bytes(parts[0] + broken + parts[2])
    heard, said = read(tmp_path / "a.ogg")
    assert "damaged after 4.0 s" in said
    assert heard_at(heard)[:2] == pytest.approx([1, 3], abs=0.05)
    assert heard_at(heard)[-2:] == pytest.approx([5, 7], abs=0.05)


# Tracks


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_default_track_is_taken(
    tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    tracks = [
        Sound("aac", make.tone(2.0, 48000, hertz=hertz), default=hertz == 880)
        for hertz in (440, 880, 1320)
    ]
    heard, _ = read(make.write_tracks(tmp_path / f"film{suffix}", *tracks))
    assert int(np.abs(np.fft.rfft(heard[4000:20000])).argmax()) == 880
    assert "of 3 audio tracks number 2 is read" in caplog.text


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
@pytest.mark.parametrize("default", [False, True])
def test_track_without_sound_gives_way(tmp_path: Path, suffix: str, default: bool) -> None:
    empty = Sound("ac3", make.silence(0), default=default)
    full = Sound("aac", bursts(1.0, seconds=2.0))
    path = make.write_tracks(tmp_path / f"film{suffix}", empty, full)
    for source in (path, io.BytesIO(path.read_bytes())):
        heard, said = read(source)
        assert heard_at(heard) == pytest.approx([1.0], abs=0.05)
        assert not said


# Numbers of every kind


def wav(kind: int, channels: int, rate: int, bits: int, data: bytes) -> io.BytesIO:
    align = channels * bits // 8
    head = struct.pack("<HHIIHH", kind, channels, rate, rate * align % 2**32, align % 2**16, bits)
    body = b"WAVEfmt " + struct.pack("<I", 16) + head + b"data" + struct.pack("<I", len(data))
    return io.BytesIO(b"RIFF" + struct.pack("<I", len(body) + len(data)) + body + data)


def packed(samples: make.Samples) -> Iterator[tuple[int, int, bytes]]:
    """A format of WAV, bits, and the samples in it."""
    exact = samples.astype(np.float64)
    yield 1, 8, (np.rint(exact * 128) + 128).astype("u1").tobytes()
    yield 1, 16, np.rint(exact * 2**15).astype("<i2").tobytes()
    yield 1, 24, np.rint(exact * 2**23).astype("<i4").view("u1").reshape(-1, 4)[:, :3].tobytes()
    yield 1, 32, np.rint(exact * 2**31).astype("<i4").tobytes()
    yield 1, 64, np.rint(exact * 2.0**63).astype("<i8").tobytes()
    yield 3, 32, exact.astype("<f4").tobytes()
    yield 3, 64, exact.tobytes()


@pytest.mark.parametrize("channels", [1, 3, 255])
def test_numbers_of_every_size(channels: int) -> None:
    samples = make.with_channels(make.tone(0.5, 16000), channels)
    for kind, bits, data in packed(samples):
        heard, said = read(wav(kind, channels, 16000, bits, data))
        assert not said
        assert np.abs(heard - samples[:, 0]).max() < 0.01, (kind, bits)


@pytest.mark.parametrize("codec", ["pcm_mulaw", "pcm_alaw", "adpcm_ima_wav", "adpcm_ms", "g722"])
def test_codecs_of_telephones(tmp_path: Path, codec: str) -> None:
    samples, rate = (make.A_TONE, 16000) if codec == "g722" else (make.tone(2.0, 8000), 8000)
    suffix = ".mka" if codec == "g722" else ".wav"
    heard, said = read(make.write_tracks(tmp_path / f"a{suffix}", Sound(codec, samples, rate)))
    assert not said
    assert len(heard) / 16000 == pytest.approx(2.0, abs=0.1)
    assert np.sqrt(2 * np.mean(heard[4000:20000] ** 2)) == pytest.approx(0.3, rel=0.1)


def test_floats_that_are_no_sound() -> None:
    samples = make.tone(2.0).astype("<f4")
    scaled, said = read(wav(3, 1, 16000, 32, (samples * 32768).tobytes()))
    assert len(scaled) == 0
    assert re.search(r"samples of up to \d+, where full scale is 1; divide them", said)
    samples[16000:16100], samples[20000] = np.nan, 1e30
    heard, said = read(wav(3, 1, 16000, 32, samples.tobytes()))
    assert len(heard) == 32000
    assert np.abs(heard).max() == pytest.approx(0.3, abs=0.01)
    assert "damaged after 1.0 s: 0.01 s could not be read" in said


@pytest.mark.parametrize(
    ("kind", "rate", "message"),
    [
        (1, 1, r"has no sound in it; .*\(pcm_s16le at 1 Hz\)"),
        (1, 2_000_000_000, r"has no sound in it; .*\(pcm_s16le at 2000000000 Hz\)"),
        (0x1234, 16000, "has no sound in it that FFmpeg has a decoder for; convert it"),
    ],
)
def test_what_cannot_be_decoded_says_why(kind: int, rate: int, message: str) -> None:
    _, said = read(wav(kind, 1, rate, 16, bytes(32000)))
    assert re.search(message, said)


def test_tags_and_names_that_are_not_utf_8(tmp_path: Path) -> None:
    flac = make.write(tmp_path / "a.flac", make.A_TONE).read_bytes()
    comment = b"\4\0\0\0test" + struct.pack("<II", 1, 10) + b"TITLE=\xff\xe9ab"
    block = b"\4" + len(comment).to_bytes(3, "big") + comment
    path = Path(f"{tmp_path}/\udcff\udce9.flac")
    path.write_bytes(flac[:42] + block + flac[42:])
    heard, said = read(path)
    make.assert_is_the_tone(Audio(heard))
    assert not said
    make.truncate(path)
    assert read(path)[1].startswith(f"{path}: ")


def test_link_to_a_file_and_text_mode(tmp_path: Path) -> None:
    path = make.write(tmp_path / "a.wav", make.A_TONE)
    (tmp_path / "b.wav").symlink_to(path)
    assert read(tmp_path / "b.wav")[1] == ""
    (tmp_path / "c.wav").symlink_to(tmp_path / "nothing")
    assert read(tmp_path / "c.wav")[1].endswith("c.wav: no such file")
    with path.open(encoding="latin-1") as text, pytest.raises(AudioError, match="open it as 'rb'"):
        list(media.blocks(text))  # type: ignore[arg-type]


def test_object_is_read_from_its_beginning(tmp_path: Path) -> None:
    file = io.BytesIO(make.write(tmp_path / "a.wav", make.A_TONE).read_bytes())
    lengths = [len(read(file)[0]) for _ in range(2)]  # the first left it at its end
    assert lengths == [32000, 32000]
    assert list(itertools.islice(media.blocks(file), 1))
