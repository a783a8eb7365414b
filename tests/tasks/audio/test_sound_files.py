from __future__ import annotations

import io
import struct
import sys

import numpy as np
import pytest
import soundfile

from startup_llm.errors import UserError
from startup_llm.tasks.audio.sound_files import measure_seconds, read_audio, write_wav

RATE = 16_000


def tone(hertz: float, seconds: float = 1.0, rate: int = RATE) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def encode(samples: np.ndarray, rate: int = RATE, kind: str = "WAV") -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format=kind)
    return stream.getvalue()


def patch(content: bytes, place: int, value: bytes) -> bytes:
    return content[:place] + value + content[place + len(value) :]


WAV = encode(tone(440))


@pytest.mark.parametrize(("kind", "tolerance"), [("WAV", 1e-4), ("FLAC", 1e-4), ("MP3", 0.05), ("OGG", 0.05)])
def test_a_file_of_each_kind_gives_its_samples(kind, tolerance):
    samples = tone(440)
    found = read_audio(encode(samples, kind=kind))
    assert found.shape == samples.shape
    assert found.dtype == np.float32
    middle = slice(2000, 14000)
    assert np.abs(found[middle] - samples[middle]).max() < tolerance


def test_two_channels_become_their_mean():
    left, right = tone(440), tone(1000)
    np.testing.assert_allclose(read_audio(encode(np.stack([left, right], 1))), (left + right) / 2, atol=1e-4)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_resampling_keeps_a_tone_and_its_length(rate):
    found = read_audio(encode(tone(1000, rate=rate), rate), RATE)
    assert len(found) == RATE
    middle = slice(1000, 15000)
    assert np.abs(found[middle] - tone(1000)[middle]).max() < 0.01


def test_resampling_takes_away_what_the_new_rate_cannot_hold():
    found = read_audio(encode(tone(6000)), 8_000)  # would fold down to 2 kHz
    assert np.abs(found[500:-500]).max() < 0.005


def test_a_written_wav_reads_back():
    np.testing.assert_allclose(read_audio(write_wav(tone(300), RATE)), tone(300), atol=1e-4)
    assert np.abs(read_audio(write_wav(4 * tone(300), RATE))).max() <= 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes"),
        (b"RIFF" + b"x" * 200, "no sound file that libsndfile knows, or a wrong header"),
        (b"\xff\xd8\xff\xe0" + b"x" * 200, "no sound file"),
        (patch(WAV, 24, struct.pack("<I", 0)), "wrong header"),
        (patch(WAV, 22, struct.pack("<H", 0)), "wrong header"),
        (patch(WAV, 24, struct.pack("<I", 7)), "7 samples a second"),
        (WAV[:-9000], "cut short: its header tells of 32,000 bytes of samples, 23,000 are there"),
        (encode(tone(440), kind="FLAC")[:-5000], "cut short or broken"),
        (encode(tone(440), kind="MP3")[:2000], "cut short"),
        (encode(tone(440, 0.0)), "0 seconds"),
        (encode(tone(440, 0.01)), "0.010 s long, expected at least 0.025 s"),
        (encode(np.zeros(7200 * 1000, np.int16), 1000), "7,200 s long, the limit is 600 s"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(content, message):
    with pytest.raises(UserError) as caught:
        read_audio(content)
    assert message in str(caught.value)


def test_samples_that_are_no_numbers_are_named():
    stream = io.BytesIO()
    soundfile.write(stream, np.append(tone(440), np.float32("nan")), RATE, format="WAV", subtype="FLOAT")
    with pytest.raises(UserError, match="no numbers"):
        read_audio(stream.getvalue())


def test_a_header_that_a_pipe_left_open_is_read():
    assert len(read_audio(patch(WAV, 40, struct.pack("<I", 0xFFFFFFFF)))) == RATE


def test_seconds_are_read_off_the_header():
    assert measure_seconds(encode(tone(440, 1.5, 8_000), 8_000)) == 1.5


def test_a_missing_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(UserError, match=r"pip install 'startup-llm\[audio\]'"):
        read_audio(WAV)
