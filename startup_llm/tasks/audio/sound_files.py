"""Sound files: decoded by libsndfile, made mono, resampled; what is wrong with one is said in words."""

from __future__ import annotations

import io
import math
import struct
from typing import TYPE_CHECKING, Any

from startup_llm.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from soundfile import SoundFile

AUDIO_EXTENSIONS = (".aif", ".aiff", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".wav")
LEAST_SECONDS = 0.025
"""A shorter sound is less than one frame of any model."""
MOST_SECONDS = 600.0
"""A longer one is refused before it is decoded."""
_ROUNDING_SECONDS = 0.1
"""A part may end so much behind its file: manifests round."""
_RATES = (1_000, 768_000)
_OPEN_SIZES = (0, 0x7FFFF000, 0x7FFFFFFF, 0xFFFFFFFF)  # what a program writes that cannot go back to its header


def read_audio(content: bytes, sampling_rate: int | None = None) -> np.ndarray:
    """Decode a sound file to one channel, the mean of all of them.

    Args:
        content: The file's bytes: WAV, FLAC, MP3, OGG and what else libsndfile knows.
        sampling_rate: Wanted samples a second; default the file's own.

    Returns:
        Samples, shape (samples,), float32, 1.0 being full scale.

    Raises:
        UserError: If the file is empty, no sound, cut short, of a wrong header, shorter than `LEAST_SECONDS`, longer
            than `MOST_SECONDS`, or holds values that are no numbers.
    """
    import numpy as np

    with _open(content) as file:
        _check_length(file)
        stated_frames, rate = file.frames, file.samplerate
        try:
            channels = file.read(dtype="float32", always_2d=True)  # (samples, channels)
        except RuntimeError as error:
            raise UserError(f"cut short or broken ({_reason(error)})") from None
    if len(channels) < 0.98 * stated_frames:  # an MP3 file's length may be an estimate
        raise UserError(
            f"cut short: its header tells of {stated_frames / rate:.2f} s, {len(channels) / rate:.2f} s are there"
        )
    samples = channels.mean(axis=1)
    if not np.isfinite(samples).all():
        raise UserError("samples that are no numbers")
    return resample(samples, rate, sampling_rate or rate)


def resample(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """Return samples at another rate, through a polyphase filter that takes away what the new rate cannot hold.

    Args:
        samples: Shape (samples,), float32.
        rate: Samples a second.
        wanted: The same of what is returned.
    """
    import numpy as np
    from scipy.signal import resample_poly

    if rate == wanted:
        return samples
    common = math.gcd(wanted, rate)
    return resample_poly(samples, wanted // common, rate // common).astype(np.float32)


def measure_seconds(content: bytes) -> float:
    """Return how long a sound is, by its header.

    Raises:
        UserError: As `read_audio`, for what the header shows.
    """
    with _open(content) as file:
        _check_length(file)
        return file.frames / file.samplerate


def cut_sound(content: bytes, offset: float, seconds: float | None) -> bytes:
    """Return a part of a sound file as a WAV file.

    Args:
        content: The file's bytes.
        offset: Where the part begins, in seconds.
        seconds: How long it is; None for all that follows.

    Raises:
        UserError: If the file is no sound, or the part does not lie in it.
    """
    with _open(content) as file:
        length = file.frames / file.samplerate
        end = length if seconds is None else offset + seconds
        if not 0 <= offset < length or not offset < end <= length + _ROUNDING_SECONDS:
            raise UserError(f"the part from {offset:g} s to {end:g} s lies outside of its {length:.2f} s")
        file.seek(round(offset * file.samplerate))
        samples = file.read(round(min(end, length) * file.samplerate) - file.tell(), dtype="float32", always_2d=True)
        return write_wav(samples, file.samplerate)


def write_wav(samples: np.ndarray, sampling_rate: int) -> bytes:
    """Return a WAV file of 16 bits; samples beyond full scale are cut there.

    Args:
        samples: Shape (samples,) or (samples, channels), 1.0 being full scale.
        sampling_rate: Samples a second.
    """
    stream = io.BytesIO()
    _soundfile().write(stream, samples.clip(-1, 1), sampling_rate, format="WAV", subtype="PCM_16")
    return stream.getvalue()


def _open(content: bytes) -> SoundFile:
    if not content:
        raise UserError("0 bytes")
    soundfile = _soundfile()
    try:
        file = soundfile.SoundFile(io.BytesIO(content))
    except (RuntimeError, TypeError) as error:
        raise UserError(f"no sound file that libsndfile knows, or a wrong header ({_reason(error)})") from None
    if not _RATES[0] <= file.samplerate <= _RATES[1]:
        raise UserError(f"a wrong header: {file.samplerate:,} samples a second")
    stated_bytes, there = _measure_wav_data(content)
    if stated_bytes > there and stated_bytes not in _OPEN_SIZES:  # libsndfile is silent about it
        raise UserError(f"cut short: its header tells of {stated_bytes:,} bytes of samples, {there:,} are there")
    return file


def _check_length(file: SoundFile) -> None:
    seconds = file.frames / file.samplerate
    if seconds == 0:
        raise UserError("0 seconds long, or cut short")
    if seconds < LEAST_SECONDS:
        raise UserError(f"{seconds:.3f} s long, expected at least {LEAST_SECONDS} s")
    if seconds > MOST_SECONDS:
        raise UserError(f"{seconds:,.0f} s long, the limit is {MOST_SECONDS:,.0f} s; cut it into pieces")


def _measure_wav_data(content: bytes) -> tuple[int, int]:
    """Return how many bytes of samples a WAV file's header tells of, and how many there are; 0, 0 for other files."""
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        return 0, 0
    place = 12
    while place + 8 <= len(content):
        name, size = struct.unpack_from("<4sI", content, place)
        if name == b"data":
            return size, len(content) - place - 8
        place += 8 + size + size % 2
    return 0, 0


def _reason(error: Exception) -> str:
    return str(error).rpartition(": ")[2].rstrip(".")


def _soundfile() -> Any:
    try:
        import soundfile
    except (ImportError, OSError):
        raise UserError("sound files are read by soundfile; pip install 'startup-llm[audio]'") from None
    return soundfile
