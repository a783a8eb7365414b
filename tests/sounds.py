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
    import soundfile

    paths = []
    for word in TUNES:
        for take in range(count):
            place = folder / word if classes else folder
            place.mkdir(parents=True, exist_ok=True)
            paths.append(place / f"{word}_{'ab'[take % 2]}_{take}.wav")
            soundfile.write(paths[-1], make_sound(word, take, rate), rate)
    return paths
