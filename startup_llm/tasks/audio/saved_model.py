"""Saved models that hear or speak."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.tasks.audio.base import compute_frame_logits, split_batch
from startup_llm.tasks.audio.recordings import read_recordings
from startup_llm.tasks.audio.speech_models import is_ctc, measure_window_seconds
from startup_llm.tasks.audio.speech_synthesis import SPEAKER_WIDTH, is_waveform_model, speak
from startup_llm.tasks.saved_model import SavedModel, compare_labels

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

CHECKED_RECORDINGS = 8
CHECKED_TEXTS, CHECKED_FRAMES = 4, 8


class SavedAudioClassifier(SavedModel):
    """Loaded by transformers."""

    auto_class = "AutoModelForAudioClassification"
    auto_processor = "AutoFeatureExtractor"

    def check_pipeline(self, folder: str, rows: Dataset, outputs: Sequence[np.ndarray]) -> float:
        """Compare raw scores with `pipeline("audio-classification")`."""
        from transformers import pipeline

        classify = pipeline(self.task.tag, model=folder, dtype="float32", device="cpu")
        rate = classify.feature_extractor.sampling_rate
        sounds = ({"raw": samples, "sampling_rate": rate} for samples in read_recordings(rows, rate))
        return compare_labels(classify, sounds, outputs)


class SavedRecogniser(SavedModel):
    """Loaded by transformers, by the Auto class of its kind."""

    auto_class = "AutoModelForSpeechSeq2Seq"
    auto_processor = "AutoProcessor"

    def find_auto_class(self, path: str) -> str:
        """Name the Auto class of the checkpoint's kind."""
        from transformers import AutoConfig

        return "AutoModelForCTC" if is_ctc(AutoConfig.from_pretrained(path)) else self.auto_class

    def compute_scores(self, model: Any, batch: dict[str, Tensor], processor: Any) -> list[np.ndarray]:
        """Return the logits of each frame, shape (frames, letters), or of the first token, shape (vocabulary,)."""
        if is_ctc(model.config):
            return compute_frame_logits(model, batch, processor)
        inputs, lengths = split_batch(batch)
        start = lengths.new_full((len(lengths), 1), model.config.decoder_start_token_id)
        return list(model(**inputs, decoder_input_ids=start)["logits"][:, 0].float().cpu().numpy())

    def check_pipeline(self, folder: str, rows: Dataset, outputs: Sequence[np.ndarray]) -> float:
        """Compare texts with those of `pipeline("automatic-speech-recognition")`, both by the likeliest token.

        A recording that is longer than the model's window is heard as far as the window reaches.

        Returns:
            0 where both hear the same, else infinity.
        """
        import torch
        from transformers import pipeline

        hear = pipeline(self.task.tag, model=folder, dtype="float32", device="cpu")
        model, processor = self.load(folder).eval(), self.load_processor(folder)
        sample = rows.select(range(min(CHECKED_RECORDINGS, len(rows)))).remove_columns("text")
        encoded, collate = self.task.encode(sample, processor)[0], self.task.build_collator(processor)
        encoded = encoded.remove_columns([name for name in ("length", "_row") if name in encoded.column_names])
        how = {} if is_ctc(model.config) else {"generate_kwargs": {"num_beams": 1}}
        rate = processor.feature_extractor.sampling_rate
        window = measure_window_seconds(processor.feature_extractor)
        last = round(window * rate) if window else None
        for row, samples in zip(encoded, read_recordings(sample, rate), strict=True):
            with torch.inference_mode():
                own = str(self.task.compute_outputs(model, collate([row]), processor)[0])
            if hear({"raw": samples[:last], "sampling_rate": rate}, **how)["text"].strip() != own:
                return float("inf")
        return 0.0


class SavedSynthesiser(SavedModel):
    """Loaded by transformers, by the Auto class of its kind."""

    auto_class = "AutoModelForTextToSpectrogram"
    auto_processor = "AutoProcessor"

    def find_auto_class(self, path: str) -> str:
        """Name the Auto class of the checkpoint's kind."""
        from transformers import AutoConfig

        return "AutoModelForTextToWaveform" if is_waveform_model(AutoConfig.from_pretrained(path)) else self.auto_class

    def compute_scores(self, model: Any, batch: dict[str, Tensor], processor: Any) -> list[np.ndarray]:
        """Return the first frames that are written behind silence, shape (frames * bands,)."""
        import torch

        rows = len(batch["input_ids"])
        silence = torch.zeros(rows, CHECKED_FRAMES, model.config.num_mel_bins, device=batch["input_ids"].device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the decoder thins out what it reads, in evaluation too
            frames = model(**batch, decoder_input_values=silence)["spectrogram"]
        return list(frames.flatten(1).float().cpu().numpy())

    def check_pipeline(self, folder: str, rows: Dataset, outputs: Sequence[np.ndarray]) -> float:
        """Compare sounds with those of `pipeline("text-to-speech")` that has the same vocoder.

        Returns:
            The largest difference of two samples; infinity where the lengths differ.
        """
        import torch
        from transformers import pipeline

        from startup_llm.tasks.audio.griffin_lim import GriffinLim

        processor, model = self.load_processor(folder), self.load(folder).eval()
        vocoder = GriffinLim(processor.feature_extractor)
        say = pipeline(self.task.tag, model=folder, vocoder=vocoder, dtype="float32", device="cpu")
        speaker = torch.zeros(1, SPEAKER_WIDTH)
        largest = 0.0
        for text in rows["text"][:CHECKED_TEXTS]:
            own = vocoder(torch.from_numpy(speak(model, torch.tensor(processor.tokenizer(text)["input_ids"]))))
            torch.manual_seed(0)
            spoken = say(text, forward_params={"speaker_embeddings": speaker})["audio"]
            if spoken.shape != tuple(own.shape):
                return float("inf")
            largest = max(largest, float(np.abs(spoken - own.numpy()).max()))
        return largest
