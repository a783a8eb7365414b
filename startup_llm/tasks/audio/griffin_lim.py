"""From a spectrogram to sound without a trained vocoder."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn


class GriffinLim(nn.Module):
    """Finds a sound whose spectrogram is the given one, by guessing phases and correcting them in turn.

    Griffin & Lim 1984, with the momentum of Perraudin, Balazs & Søndergaard 2013. It takes the place of a vocoder in
    `pipeline("text-to-speech", vocoder=...)`.

    Args:
        feature_extractor: SpeechT5's, which tells windows and mel filters.
        rounds: How often the phases are corrected.
        momentum: Share of each change that is made again.

    Attributes:
        config: Holds the sampling rate.
    """

    def __init__(self, feature_extractor: Any, rounds: int = 60, momentum: float = 0.99) -> None:
        super().__init__()
        self.config = SimpleNamespace(sampling_rate=feature_extractor.sampling_rate)
        self.hop, self.size = feature_extractor.sample_stride, feature_extractor.n_fft
        self.rounds, self.momentum = rounds, momentum
        filters = torch.tensor(feature_extractor.mel_filters, dtype=torch.float32)  # (frequencies, bands)
        self.register_buffer("inverse", torch.linalg.pinv(filters))  # (bands, frequencies)
        self.register_buffer("window", torch.tensor(feature_extractor.window, dtype=torch.float32))

    @torch.no_grad()
    def forward(self, spectrogram: Tensor) -> Tensor:
        """Return samples, 0.9 of full scale at the most.

        Args:
            spectrogram: log10 of mel magnitudes, shape (frames, bands), or with a leading axis of one row.

        Returns:
            Shape (samples,), float32.
        """
        frames = spectrogram.reshape(-1, spectrogram.shape[-1]).float()
        missing = self.size // self.hop + 2 - len(frames)  # a window wants to be filled
        frames = nn.functional.pad(frames, (0, 0, 0, max(missing, 0)), value=-10.0)
        magnitude = ((10**frames) @ self.inverse).clamp(min=1e-8).T  # (frequencies, frames)
        shape = {"n_fft": self.size, "hop_length": self.hop, "win_length": len(self.window), "window": self.window}
        generator = torch.Generator().manual_seed(0)
        phases = torch.exp(2j * torch.pi * torch.rand(magnitude.shape, generator=generator)).to(magnitude.device)
        before = torch.zeros_like(phases)
        for _ in range(self.rounds):
            sound = torch.istft(magnitude * phases, **shape)
            spectrum = torch.stft(sound, **shape, return_complex=True)
            change = spectrum - self.momentum / (1 + self.momentum) * before
            phases, before = change / change.abs().clamp(min=1e-8), spectrum
        sound = torch.istft(magnitude * phases, **shape)
        return sound * (0.9 / sound.abs().max().clamp(min=0.9))
