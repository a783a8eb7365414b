"""Automatic speech recognition: the text that is spoken in a recording."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.data.bad_rows import BadRows, Fault
from startup_llm.errors import UserError
from startup_llm.tasks.audio.base import AudioTask, compute_frame_logits, show_recordings, split_batch
from startup_llm.tasks.audio.baselines import predict_most_frequent_text
from startup_llm.tasks.audio.metrics import (
    CHARACTER_ERROR_RATE,
    NORMALIZED_CHARACTER_ERROR_RATE,
    NORMALIZED_WORD_ERROR_RATE,
    WORD_ERROR_RATE,
)
from startup_llm.tasks.audio.options import SpeechRecognitionModel, TranscribedRecordingData
from startup_llm.tasks.audio.prediction import TranscriptPredictor, join_windows
from startup_llm.tasks.audio.recordings import load_transcribed_recordings
from startup_llm.tasks.audio.reference_models import Recognisers
from startup_llm.tasks.audio.saved_model import SavedRecogniser
from startup_llm.tasks.audio.speech_models import (
    build_ctc_processor,
    build_speech_recogniser,
    is_ctc,
    load_speech_processor,
)
from startup_llm.tasks.audio.text_lengths import find_long_texts
from startup_llm.tasks.base import Collator, Truncation

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

    from startup_llm.data.task_data import TaskData
    from startup_llm.models.checkpoints import Checkpoint
    from startup_llm.models.task_model import TaskModel

MOST_WRITTEN_TOKENS = 224
"""Where the model's generation config tells no length."""
_SHOWN = 6


class AutomaticSpeechRecognition(AudioTask[TranscribedRecordingData, SpeechRecognitionModel]):
    """Columns audio, seconds and text; an output is what the model hears: an array of one string.

    A model either labels frames with letters (CTC) or writes its text by a decoder (Whisper).
    """

    tag = "automatic-speech-recognition"
    example_checkpoint = "openai/whisper-small"
    known_metrics = (
        WORD_ERROR_RATE,
        CHARACTER_ERROR_RATE,
        NORMALIZED_WORD_ERROR_RATE,
        NORMALIZED_CHARACTER_ERROR_RATE,
    )
    known_baselines = {"most-frequent-text": predict_most_frequent_text}  # noqa: RUF012
    predictor_class = TranscriptPredictor
    saved_model_class = SavedRecogniser
    reference_models_class = Recognisers
    token_logits = "own"
    selects_by_loss = True
    skip_bad = False
    """Whether rows that cannot be learnt are left out, as `data.skip_bad` asked when they were read."""

    def read_data(self, data: TranscribedRecordingData) -> TaskData:
        """Read, check and split the rows.

        Raises:
            UserError: On anything wrong with the files, the columns, the recordings or the texts.
        """
        self.skip_bad = data.skip_bad
        return load_transcribed_recordings(data)

    def load_processor(
        self, checkpoint: Checkpoint, model: SpeechRecognitionModel, data: TaskData | None = None
    ) -> Any:
        """Load the checkpoint's feature extractor and tokenizer; one that was never taught to write has none.

        Its letters are those of the training texts.
        """
        processor = load_speech_processor(checkpoint, model.language, model.trust_remote_code)
        if data is None or getattr(processor, "tokenizer", None) is not None:
            return processor
        return build_ctc_processor(processor, data.splits["train"]["text"])

    def build_model(
        self,
        checkpoint: Checkpoint,
        processor: Any,
        data: TaskData,
        model: SpeechRecognitionModel,
        attention_kernel: str | None,
    ) -> TaskModel:
        """Load the checkpoint; a CTC head is trained with every method."""
        built = build_speech_recogniser(
            checkpoint,
            processor,
            shortest_seconds=min(data.splits["train"]["seconds"]),
            dropout=model.dropout,
            warp_spectrum=model.warp_spectrum,
            attention_kernel=attention_kernel,
            trust_remote_code=model.trust_remote_code,
        )
        self.token_logits = None if is_ctc(built.model.config) else "own"
        return built

    def fit_data(self, data: TaskData, processor: Any, model: Any = None) -> TaskData:
        """Leave out texts with more labels than frames (CTC) or more tokens than the decoder has positions.

        Test rows stay: a model that cannot write their text has them wrong.

        Raises:
            UserError: If there are some and `data.skip_bad` is off, or a letter is unknown.
        """
        import datasets

        if model is None:
            return data
        splits, bad_rows = dict(data.splits), BadRows(self.skip_bad)
        collate = self.build_collator(processor)
        for name in sorted({"train", "validation"} & splits.keys()):
            rows = splits[name]
            count_features = functools.partial(_count_features, collate, self.encode_recordings(rows, processor)[0])
            labels = _encode_texts(rows, processor.tokenizer)
            faults = find_long_texts(rows, labels, processor.feature_extractor, model, count_features)
            faults = [Fault(row, reason, "text too long for its recording") for row, reason in faults]
            bad = bad_rows.leave_out(faults, len(rows), f"{name} split", "recordings")
            if bad:
                splits[name] = rows.select([place for place, row in enumerate(rows["row"]) if row not in bad])
        if not bad_rows.notes:
            return data
        return replace(
            data,
            splits=datasets.DatasetDict(splits),
            notes=[*data.notes, *bad_rows.notes],
            loaded=data.loaded or data.splits,
            left_out={**data.left_out, **bad_rows.left_out},
        )

    def encode(self, rows: Dataset, processor: Any) -> tuple[Dataset, Truncation]:
        """Encode the recordings, and the texts where there are any.

        Raises:
            UserError: If a text holds a letter that the tokenizer does not know.
        """
        import datasets

        columns, truncation = self.encode_recordings(rows, processor)
        if "text" in rows.column_names:
            columns["labels"] = _encode_texts(rows, processor.tokenizer)
        return datasets.Dataset.from_dict(columns), truncation

    def encode_split(self, name: str, data: TaskData, processor: Any) -> tuple[Dataset, Truncation]:
        """Encode a split; a test recording is heard to its end as by predict.py, in windows where there are any."""
        import datasets

        if name != "test":
            return super().encode_split(name, data, processor)
        columns, truncation = self.encode_recordings(data.splits[name], processor, windows=True)
        return datasets.Dataset.from_dict(columns), truncation

    def count_targets(self, batch: dict[str, Tensor]) -> Tensor:
        """Count the tokens that are written; a text found by CTC counts once, as its loss does."""
        if self.token_logits:
            return (batch["labels"] != -100).sum(dim=1)
        return super().count_targets(batch)

    def compute_outputs(self, model: Any, batch: dict[str, Tensor], processor: Any) -> list[np.ndarray]:
        """Return each row's text: by the likeliest label of each frame, or the likeliest token at each step."""
        if is_ctc(model.config):
            tokens = [logits.argmax(axis=-1) for logits in compute_frame_logits(model, batch, processor)]
            return [np.array(processor.tokenizer.decode(labels).strip()) for labels in tokens]
        inputs, _ = split_batch(batch)
        has_limit = model.generation_config.max_length is not None
        written = model.generate(**inputs, **({} if has_limit else {"max_new_tokens": MOST_WRITTEN_TOKENS}))
        texts = processor.tokenizer.batch_decode(written, skip_special_tokens=True)
        return [np.array(text.strip()) for text in texts]

    def references(self, rows: Dataset) -> list[str]:
        """Return the texts."""
        return list(rows["text"])

    def read_predictions(
        self, outputs: Sequence[np.ndarray], encoded: Dataset, rows: Dataset, data: TaskData
    ) -> list[str]:
        """Take what was heard."""
        return join_windows(outputs, encoded, len(rows))

    def describe_errors(
        self, rows: Dataset, outputs: Sequence[np.ndarray], predictions: Any, data: TaskData
    ) -> dict[str, Any]:
        """Return a gallery of recordings with what was said and heard: wrong ones first."""
        texts = self.references(rows)
        wrong = [place for place, text in enumerate(texts) if text.split() != predictions[place].split()]
        right = [place for place in range(len(texts)) if place not in set(wrong)]
        gallery = []
        for places, title in ((wrong[:_SHOWN], "Heard wrongly"), (right[: _SHOWN // 2], "Heard rightly")):
            captions = [f"said: {texts[place]}; heard: {predictions[place] or '(nothing)'}" for place in places]
            gallery += show_recordings(rows, places, title, captions)
        return {"gallery": gallery}


def _count_features(collate: Collator, columns: dict[str, list[Any]], place: int) -> int:
    """Return how many features of a recording count for the loss: those that its mask keeps, where it has one."""
    batch = collate([{name: values[place] for name, values in columns.items()}])
    return int(batch["attention_mask"].sum() if "attention_mask" in batch else batch["row_lengths"][0])


def _encode_texts(rows: Dataset, tokenizer: Any) -> list[list[int]]:
    """Return each text's tokens, without the one that a decoder is started with."""
    ids = tokenizer(list(rows["text"]))["input_ids"]
    if tokenizer.unk_token_id is not None and tokenizer.unk_token != tokenizer.eos_token:
        for place, tokens in enumerate(ids):
            if tokenizer.unk_token_id in tokens:
                text = rows["text"][place]
                unknown = next(t for t in text if tokenizer.unk_token_id in tokenizer(t)["input_ids"])
                raise UserError(
                    f"row {rows['row'][place]}: {unknown!r} in {text[:60]!r} is no letter that the tokenizer "
                    f"knows; it knows {' '.join(sorted(t for t in tokenizer.get_vocab() if len(t) == 1))}"
                )
    start = tokenizer.convert_tokens_to_ids("<|startoftranscript|>")
    return [tokens[1:] if tokens and tokens[0] == start else tokens for tokens in ids]
