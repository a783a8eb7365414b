"""Text to speech: a sound in which a text is spoken, in the voice of the training recordings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.config import ModelConfig
from startup_llm.errors import UserError
from startup_llm.tasks.audio.base import KEPT_BYTES
from startup_llm.tasks.audio.baselines import predict_any_recording, predict_same_text_recording
from startup_llm.tasks.audio.metrics import MEL_DISTANCE
from startup_llm.tasks.audio.options import TranscribedRecordingData
from startup_llm.tasks.audio.prediction import SPEECH_FOLDER, SpeechPredictor
from startup_llm.tasks.audio.recordings import load_transcribed_recordings, read_bytes, read_recordings
from startup_llm.tasks.audio.reference_models import Synthesisers
from startup_llm.tasks.audio.saved_model import SavedSynthesiser
from startup_llm.tasks.audio.sound_files import read_audio, resample
from startup_llm.tasks.audio.spectrograms import SAMPLING_RATE, compute_speech_frames, draw_spectrograms
from startup_llm.tasks.audio.speech_synthesis import (
    SPEAKER_WIDTH,
    build_speech_synthesiser,
    build_vocoder,
    is_waveform_model,
    load_synthesis_processor,
    speak_texts,
)
from startup_llm.tasks.base import Collator, Task, Truncation

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

    from startup_llm.data.task_data import TaskData
    from startup_llm.models.checkpoints import Checkpoint
    from startup_llm.models.task_model import TaskModel

FRAMES_PER_SECOND = 62.5
_SHOWN = 6


class TextToSpeech(Task[TranscribedRecordingData, ModelConfig]):
    """Columns text, audio and seconds; an output is a spectrogram: log10 of mel magnitudes, shape (frames, bands).

    A VITS, which writes samples, speaks as it comes; what it says is measured by its spectrogram.
    """

    tag = "text-to-speech"
    example_checkpoint = "microsoft/speecht5_tts"
    peft_task_type = None
    reads_text = False
    predictor_class = SpeechPredictor
    saved_model_class = SavedSynthesiser
    reference_models_class = Synthesisers
    selects_by_loss = True
    known_metrics = (MEL_DISTANCE,)
    known_baselines = {  # noqa: RUF012
        "any-recording": predict_any_recording,
        "same-text-recording": predict_same_text_recording,
    }

    def read_data(self, data: TranscribedRecordingData) -> TaskData:
        """Read, check and split the rows.

        Raises:
            UserError: On anything wrong with the files, the columns, the recordings or the texts.
        """
        loaded = load_transcribed_recordings(data)
        texts = loaded.splits["test"]["text"]
        if (distinct := len(set(texts))) < len(texts):
            loaded.notes.append(f"The {len(texts):,} test rows have {distinct:,} texts, so as many sounds are judged.")
        return loaded

    def load_processor(self, checkpoint: Checkpoint, model: ModelConfig, data: TaskData | None = None) -> Any:
        """Load the checkpoint's tokenizer, and its feature extractor where it has one."""
        return load_synthesis_processor(checkpoint, model.trust_remote_code)

    def build_model(
        self,
        checkpoint: Checkpoint,
        processor: Any,
        data: TaskData,
        model: ModelConfig,
        attention_kernel: str | None,
    ) -> TaskModel:
        """Load the checkpoint."""
        return build_speech_synthesiser(checkpoint, dropout=model.dropout, trust_remote_code=model.trust_remote_code)

    def encode(self, rows: Dataset, processor: Any) -> tuple[Dataset, Truncation]:
        """Tokenize the texts; the recordings stay files, for the collator to turn into spectrograms."""
        import datasets

        columns: dict[str, list[Any]] = {"input_ids": processor.tokenizer(list(rows["text"]))["input_ids"]}
        for text, ids in zip(rows["text"], columns["input_ids"], strict=True):
            if set(ids) <= {processor.tokenizer.pad_token_id}:
                raise UserError(f"the text {text[:40]!r} has no letter that the model knows; spell it out")
        if "audio" in rows.column_names:
            columns["labels"] = list(rows["audio"])
            columns["length"] = [max(1, round(seconds * FRAMES_PER_SECOND)) for seconds in rows["seconds"]]
        else:
            columns["length"] = list(map(len, columns["input_ids"]))
        return datasets.Dataset.from_dict(columns), Truncation(0, 0.0, 0.0)

    def build_collator(self, processor: Any) -> Collator:
        """Pad texts, and spectrograms by -100 to an even number of frames, as SpeechT5 writes two at a time."""
        import torch
        from torch.nn.utils.rnn import pad_sequence

        known: dict[str | bytes, Tensor] = {}
        free_bytes = KEPT_BYTES

        def compute_frames(value: dict[str, Any]) -> Tensor:
            nonlocal free_bytes
            key = value["bytes"] or value["path"]
            spectrogram = known.get(key)
            if spectrogram is None:
                frames = compute_speech_frames(read_audio(read_bytes(value), SAMPLING_RATE))
                spectrogram = torch.from_numpy(frames[: len(frames) // 2 * 2])
                if spectrogram.nbytes <= free_bytes:
                    free_bytes -= spectrogram.nbytes
                    known[key] = spectrogram
            return spectrogram

        def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
            ids = [torch.tensor(row["input_ids"]) for row in rows]
            padding = processor.tokenizer.pad_token_id
            batch = {
                "input_ids": pad_sequence(ids, batch_first=True, padding_value=padding),
                "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
            }
            batch["speaker_embeddings"] = torch.zeros(len(rows), SPEAKER_WIDTH)
            if "labels" in rows[0]:
                frames = [compute_frames(row["labels"]) for row in rows]
                batch["labels"] = pad_sequence(frames, batch_first=True, padding_value=-100.0)
            return batch

        return collate

    def count_targets(self, batch: dict[str, Tensor]) -> Tensor:
        """Count the frames to be written."""
        return (batch["labels"][:, :, 0] != -100).sum(dim=1)

    def compute_outputs(self, model: Any, batch: dict[str, Tensor], processor: Any) -> list[np.ndarray]:
        """Speak each text, one by one."""
        spoken = speak_texts(model, batch)
        if not is_waveform_model(model.config):
            return spoken
        rate = model.config.sampling_rate
        return [compute_speech_frames(resample(samples, rate, SAMPLING_RATE)) for samples in spoken]

    def references(self, rows: Dataset) -> list[list[list[float]]]:
        """Return the recordings' spectrograms."""
        return [compute_speech_frames(samples).round(2).tolist() for samples in read_recordings(rows, SAMPLING_RATE)]

    def read_predictions(
        self, outputs: Sequence[np.ndarray], encoded: Dataset, rows: Dataset, data: TaskData
    ) -> list[list[list[float]]]:
        """Take the spectrograms."""
        return [np.asarray(output, float).round(2).tolist() for output in outputs]

    def describe_errors(
        self, rows: Dataset, outputs: Sequence[np.ndarray], predictions: Any, data: TaskData
    ) -> dict[str, Any]:
        """Return a gallery: the recorded and the synthesised spectrogram of the first row of each text."""
        firsts = list({text: place for place, text in reversed(list(enumerate(rows["text"])))}.values())[:_SHOWN]
        vocode = build_vocoder()
        gallery = []
        for place, samples in zip(firsts, read_recordings(rows.select(firsts), SAMPLING_RATE), strict=True):
            sound = vocode(np.asarray(predictions[place], np.float32))
            text = rows["text"][place]
            gallery.append(
                {
                    "title": f"row {rows['row'][place]}: {text}",
                    "kind": "image",
                    "png_base64": draw_spectrograms([samples, sound], ["recorded", "synthesised"]),
                    "caption": f"“{text}”, recorded and synthesised; to be heard in {SPEECH_FOLDER}/{place:04d}.wav",
                }
            )
        return {"gallery": gallery}
