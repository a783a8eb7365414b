"""Log-mel spectrograms: as numbers for a baseline and a distance, as pictures for a report."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

SAMPLING_RATE = 16_000
HOP_SAMPLES = 160
"""10 ms at `SAMPLING_RATE`."""


def compute_log_mel(samples: np.ndarray, bands: int = 40) -> np.ndarray:
    """Return the natural logarithm of a sound's power in mel bands, every 10 ms, over windows of 25 ms.

    Args:
        samples: Shape (samples,), at `SAMPLING_RATE`.
        bands: Triangular filters from 0 Hz to half the sampling rate (Slaney's mel scale).

    Returns:
        float32, shape (frames, bands); the floor is 1e-10.
    """
    import numpy as np
    from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

    filters = mel_filter_bank(257, bands, 0.0, SAMPLING_RATE / 2, SAMPLING_RATE, norm="slaney", mel_scale="slaney")
    power = spectrogram(
        np.pad(samples, (0, max(0, 512 - len(samples)))),
        window_function(400, "hann"),
        frame_length=400,
        hop_length=HOP_SAMPLES,
        fft_length=512,
        power=2.0,
        mel_filters=filters,
    )
    return np.log(np.maximum(power.T, 1e-10)).astype(np.float32)


def draw_spectrograms(sounds: Sequence[np.ndarray], titles: Sequence[str]) -> str:
    """Draw log-mel spectrograms one below the other, on one time axis.

    Args:
        sounds: Samples at `SAMPLING_RATE`, each of shape (samples,).
        titles: What stands above each.

    Returns:
        base64 of a PNG file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 1.5 * len(sounds) + 0.3), layout="constrained")
    longest = max(map(len, sounds)) / SAMPLING_RATE
    panels = figure.subplots(len(sounds), squeeze=False, sharex=True)[:, 0]
    for axes, samples, title in zip(panels, sounds, titles, strict=True):
        image = compute_log_mel(samples, bands=64).T
        seconds = len(samples) / SAMPLING_RATE
        top = float(image.max())
        axes.imshow(
            image, origin="lower", aspect="auto", cmap="magma", vmin=top - 12, vmax=top, extent=(0, seconds, 0, 64)
        )
        axes.set_xlim(0, longest)
        axes.set_yticks([])
        axes.set_title(title, fontsize=9, loc="left")
    panels[-1].set_xlabel("seconds", fontsize=9)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return base64.b64encode(stream.getvalue()).decode("ascii")


def compute_speech_frames(samples: np.ndarray) -> np.ndarray:
    """Return a recording's spectrogram as SpeechT5 (Ao et al. 2021) writes it: 80 mel bands every 16 ms.

    Args:
        samples: Shape (samples,), at `SAMPLING_RATE`.

    Returns:
        log10 of magnitudes, float32, shape (frames, 80).
    """
    import numpy as np

    frames = _speech_feature_extractor()(audio_target=samples, sampling_rate=SAMPLING_RATE)["input_values"][0]
    return np.asarray(frames, np.float32)


@cache
def _speech_feature_extractor() -> Any:
    from transformers import SpeechT5FeatureExtractor

    return SpeechT5FeatureExtractor()
