"""Audio classification: one label for a recording."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.evaluation.baselines import predict_majority
from startup_llm.tasks.audio.base import AudioTask, name_recordings, show_recordings, split_batch
from startup_llm.tasks.audio.baselines import predict_mel_statistics_svm
from startup_llm.tasks.audio.options import AudioClassificationModel, LabelledRecordingData
from startup_llm.tasks.audio.prediction import RecordingLabelPredictor
from startup_llm.tasks.audio.recordings import load_labelled_recordings
from startup_llm.tasks.audio.reference_models import AudioClassifiers
from startup_llm.tasks.audio.saved_model import SavedAudioClassifier
from startup_llm.tasks.audio.speech_models import (
    build_audio_classifier,
    compute_logits,
    load_feature_extractor,
    needs_rows_apart,
)
from startup_llm.tasks.base import SingleLabelTask, Truncation
from startup_llm.tasks.probing import RowProbe

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

    from startup_llm.data.task_data import TaskData
    from startup_llm.models.checkpoints import Checkpoint
    from startup_llm.models.task_model import TaskModel

_SHOWN = 8


class AudioClassification(
    SingleLabelTask[LabelledRecordingData, AudioClassificationModel],
    AudioTask[LabelledRecordingData, AudioClassificationModel],
):
    """Columns audio, seconds and label."""

    tag = "audio-classification"
    example_checkpoint = "facebook/wav2vec2-base"
    probe = RowProbe()
    predictor_class = RecordingLabelPredictor
    saved_model_class = SavedAudioClassifier
    reference_models_class = AudioClassifiers
    known_baselines = {"majority": predict_majority, "mel-statistics-svm": predict_mel_statistics_svm}  # noqa: RUF012

    def read_data(self, data: LabelledRecordingData) -> TaskData:
        """Read, check and split the rows.

        Raises:
            UserError: On anything wrong with the files, the columns, the recordings or the labels.
        """
        return load_labelled_recordings(data)

    def load_processor(
        self, checkpoint: Checkpoint, model: AudioClassificationModel, data: TaskData | None = None
    ) -> Any:
        """Load the checkpoint's feature extractor."""
        return load_feature_extractor(checkpoint, model.trust_remote_code)

    def build_model(
        self,
        checkpoint: Checkpoint,
        processor: Any,
        data: TaskData,
        model: AudioClassificationModel,
        attention_kernel: str | None,
    ) -> TaskModel:
        """Load the checkpoint with a classification head on it."""
        return build_audio_classifier(
            checkpoint,
            processor,
            label_names=data.label_names,
            shortest_seconds=min(data.splits["train"]["seconds"]),
            dropout=model.dropout,
            warp_spectrum=model.warp_spectrum,
            attention_kernel=attention_kernel,
            trust_remote_code=model.trust_remote_code,
        )

    def encode(self, rows: Dataset, processor: Any) -> tuple[Dataset, Truncation]:
        """Encode the recordings, and the class ids where there are any."""
        import datasets

        columns, truncation = self.encode_recordings(rows, processor)
        if "label" in rows.column_names:
            columns["labels"] = list(rows["label"])
        return datasets.Dataset.from_dict(columns), truncation

    def compute_outputs(self, model: Any, batch: dict[str, Tensor], processor: Any) -> list[np.ndarray]:
        """Return the logits of each row."""
        inputs, lengths = split_batch(batch)
        logits = compute_logits(model, inputs, lengths, apart=needs_rows_apart(processor))
        return [row.float().cpu().numpy() for row in logits]

    def summarize(self, rows: Dataset) -> list[str]:
        """Name each recording by its file and row."""
        return name_recordings(rows)

    def describe_errors(
        self, rows: Dataset, outputs: Sequence[np.ndarray], predictions: Any, data: TaskData
    ) -> dict[str, Any]:
        """Return what every classification does, and a gallery of recordings that were answered wrongly.

        Where none was, it shows the first ones.
        """
        labels = self.references(rows)
        wrong = np.flatnonzero(np.asarray(predictions) != labels)[:_SHOWN]
        places = wrong.tolist() or range(min(3, len(rows)))
        title = "Recordings that were answered wrongly" if len(wrong) else "Recordings, all answered rightly"
        names = data.label_names
        captions = [f"{names[labels[place]]}, answered {names[predictions[place]]}" for place in places]
        gallery = show_recordings(rows, places, title, captions)
        return {**super().describe_errors(rows, outputs, predictions, data), "gallery": gallery}
