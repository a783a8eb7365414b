"""Spoken-digit-like recordings: each word a tune of its own, so that a tiny model can learn to hear it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

TUNES = {"low": (300, 500), "up": (500, 2500), "down": (2500, 500)}


def make_sound(word: str, seed: int, rate: int = 16_000) -> np.ndarray:
    """Glide from one pitch to the other in about 0.4 s, with noise."""
    generator = np.random.default_rng([seed, len(word), ord(word[0])])
    samples = int(rate * generator.uniform(0.3, 0.5))
    first, last = TUNES[word]
    pitch = np.linspace(first, last, samples) * generator.uniform(0.9, 1.1)
    sound = 0.3 * np.sin(2 * np.pi * np.cumsum(pitch) / rate) + 0.005 * generator.normal(size=samples)
    return sound.astype(np.float32)


def write_sounds(folder: Path, count: int, *, rate: int = 16_000, classes: bool = False) -> list[Path]:
    """Write `count` WAV files of each word: WORD_SPEAKER_TAKE.wav, in a folder per word if asked to."""
    return [
        _write((folder / word if classes else folder) / f"{word}_{'ab'[take % 2]}_{take}.wav", word, take, rate)
        for word in TUNES
        for take in range(count)
    ]


def write_digits(folder: Path, count: int) -> list[Path]:
    """Write the same as the Free Spoken Digit Dataset names and samples its files, the words being 0, 1 and 2."""
    return [
        _write(folder / f"{digit}_jackson_{take}.wav", word, take, 8_000)
        for digit, word in enumerate(TUNES)
        for take in range(count)
    ]


def _write(path: Path, word: str, take: int, rate: int) -> Path:
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, make_sound(word, take, rate), rate)
    return path
