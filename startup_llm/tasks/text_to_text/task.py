"""Tasks that write a text for a text, with an encoder and a decoder: translation, summarization."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.data.batching import encode_rows
from startup_llm.evaluation.metrics import BLEU, CHRF, ROUGE_1, ROUGE_2, ROUGE_L
from startup_llm.evaluation.text_baselines import predict_copy, predict_first_sentences, predict_word_by_word
from startup_llm.models.task_model import TaskModel
from startup_llm.tasks.base import TARGET_LENGTH, Collator, Task, Truncation
from startup_llm.tasks.text_to_text.model import (
    build_sequence_to_sequence,
    find_most_tokens,
    set_languages,
)
from startup_llm.tasks.text_to_text.options import TextPairData, TextToTextModel
from startup_llm.tasks.text_to_text.prediction import TextPredictor
from startup_llm.tasks.text_to_text.reference_models import TextToTextModels
from startup_llm.tasks.text_to_text.rows import load_text_to_text
from startup_llm.tasks.text_to_text.saved_model import SavedTextToText
from startup_llm.tasks.text_to_text.source_attention import compute_source_attention, weigh_words

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from startup_llm.data.task_data import TaskData
    from startup_llm.models.checkpoints import Checkpoint

MOST_WRITTEN_TOKENS = 128
"""So many tokens are written by a checkpoint that says no number itself and was tuned on no targets."""
SAMPLES = 3


class SequenceToSequence(Task[TextPairData, TextToTextModel]):
    """Columns text and target; an output is what the model writes: an array of one string."""

    peft_task_type = "SEQ_2_SEQ_LM"
    predictor_class = TextPredictor
    saved_model_class = SavedTextToText
    reference_models_class = TextToTextModels
    token_logits = "own"
    selects_by_loss = True
    samples_each_epoch = True

    def read_data(self, data: TextPairData) -> TaskData:
        """Read, check and split the pairs.

        Raises:
            UserError: On anything wrong with the files, the columns or a row.
        """
        return load_text_to_text(data)

    def load_processor(
        self, checkpoint: Checkpoint, model: TextToTextModel, data: TaskData | None = None
    ) -> PreTrainedTokenizerBase:
        """Load the tokenizer, and tell it the languages where it knows many."""
        tokenizer = super().load_processor(checkpoint, model, data)
        set_languages(tokenizer, model.source_language, model.language)
        return tokenizer

    def build_model(
        self,
        checkpoint: Checkpoint,
        processor: PreTrainedTokenizerBase,
        data: TaskData,
        model: TextToTextModel,
        attention_kernel: str | None,
    ) -> TaskModel:
        """Load the encoder-decoder; where it does not say how much it writes, the training targets do."""
        built = build_sequence_to_sequence(
            checkpoint,
            processor,
            dropout=model.dropout,
            attention_kernel=attention_kernel,
            trust_remote_code=model.trust_remote_code,
        )
        if not _knows_length(built.model):
            built.model.generation_config.max_new_tokens = find_most_tokens(processor, data)
        return built

    def encode(self, rows: Dataset, processor: PreTrainedTokenizerBase) -> tuple[Dataset, Truncation]:
        """Tokenize texts, and targets where there are any, each cut at the tokenizer's `model_max_length`.

        A row is counted as cut where its text or its target was.
        """
        limit, measures = processor.model_max_length, ["_whole", "_whole_target"]

        def tokenize(batch: dict[str, list]) -> dict[str, list]:
            whole = processor(batch["text"], truncation=False, verbose=False)["input_ids"]
            encoded = dict(processor(batch["text"], truncation=True, max_length=limit))
            encoded["_whole"] = list(map(len, whole))
            encoded["length"] = list(map(len, encoded["input_ids"]))
            if "target" in batch:
                whole = processor(text_target=batch["target"], truncation=False, verbose=False)["input_ids"]
                targets = processor(text_target=batch["target"], truncation=True, max_length=limit)
                encoded["_whole_target"] = list(map(len, whole))
                encoded["labels"] = targets["input_ids"]
                encoded[TARGET_LENGTH] = list(map(len, targets["input_ids"]))
            return encoded

        encoded = encode_rows(rows, tokenize)
        whole, lost = np.asarray(encoded["_whole"]), np.asarray(encoded["_whole"]) - np.asarray(encoded["length"])
        lost_target = np.zeros_like(lost)
        if TARGET_LENGTH in encoded.column_names:
            whole = whole + np.asarray(encoded["_whole_target"])
            lost_target = np.asarray(encoded["_whole_target"]) - np.asarray(encoded[TARGET_LENGTH])
        lost = lost + lost_target
        cut = int((lost > 0).sum())
        share, targets = float(lost.sum() / whole.sum()), int((lost_target > 0).sum())
        measured = [name for name in measures if name in encoded.column_names]
        return encoded.remove_columns(measured), Truncation(cut, cut / len(whole), share, targets)

    def build_collator(self, processor: PreTrainedTokenizerBase) -> Collator:
        """Pad each batch to its longest text, and labels to their longest target with -100."""
        from transformers import DataCollatorForSeq2Seq

        pad = DataCollatorForSeq2Seq(processor)

        def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
            batch = pad(rows)
            return {
                name: values for name, values in batch.items() if values is not None
            }  # labels, where there are none

        return collate

    def count_targets(self, batch: dict[str, Tensor]) -> Tensor:
        """Count the tokens to be written."""
        return (batch["labels"] != -100).sum(dim=1)

    def compute_outputs(self, model: Any, batch: dict[str, Tensor], processor: Any) -> list[np.ndarray]:
        """Write a text for each row: the likeliest token at each step, or as the model's generation config says."""
        written = self._generate(model, batch)
        return [np.array(text.strip()) for text in processor.batch_decode(written, skip_special_tokens=True)]

    def _generate(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        return model.generate(**batch, **({} if _knows_length(model) else {"max_new_tokens": MOST_WRITTEN_TOKENS}))

    def references(self, rows: Dataset) -> list[str]:
        """Return the targets."""
        return list(rows["target"])

    def read_predictions(
        self, outputs: Sequence[np.ndarray], encoded: Dataset, rows: Dataset, data: TaskData
    ) -> list[str]:
        """Take what was written."""
        return [str(output) for output in outputs]

    def describe_errors(
        self, rows: Dataset, outputs: Sequence[np.ndarray], predictions: Any, data: TaskData
    ) -> dict[str, Any]:
        """Return a gallery of the first rows: what was given, what was meant, what was written."""
        gallery = [
            {
                "title": f"row {row['row']}",
                "kind": "text",
                "pairs": [["given", row["text"]], ["meant", row["target"]], ["written", text]],
            }
            for row, text in zip(rows.select(range(min(10, len(rows)))), predictions, strict=False)
        ]
        return {"gallery": gallery}

    def write_samples(self, model: Any, processor: Any, rows: Dataset) -> list[dict[str, Any]]:
        """Show what the model wrote, and where it looked if the tokenizer tells the places of its tokens."""
        samples: list[dict[str, Any]] = []
        for row in rows.select(range(min(SAMPLES, len(rows)))):
            limit = processor.model_max_length
            read = processor(row["text"], truncation=True, max_length=limit, return_tensors="pt")["input_ids"]
            written = self._generate(model, {"input_ids": read.to(model.device)})
            text = processor.decode(written[0], skip_special_tokens=True).strip()
            if not processor.is_fast:
                pairs = [["given", row["text"]], ["meant", row["target"]], ["written", text]]
                samples.append({"title": f"row {row['row']}", "kind": "text", "pairs": pairs})
                continue
            attention = compute_source_attention(model, read.to(model.device), written[:, :-1])
            words = weigh_words(row["text"], processor, attention)
            title = f"row {row['row']}: where the model looked while it wrote"
            samples.append({"title": title, "kind": "weights", "text": row["text"], "words": words, "written": text})
        return samples


def _knows_length(model: Any) -> bool:
    """Say whether a model's generation config tells how much it writes at most."""
    generation = model.generation_config
    return generation.max_new_tokens is not None or generation.max_length is not None


class Translation(SequenceToSequence):
    """A text in another language."""

    tag = "translation"
    example_checkpoint = "Helsinki-NLP/opus-mt-en-de"
    known_metrics = (BLEU, CHRF)
    known_baselines = {"copy": predict_copy, "word-by-word": predict_word_by_word}  # noqa: RUF012


class Summarization(SequenceToSequence):
    """A shorter text that says the same."""

    tag = "summarization"
    example_checkpoint = "facebook/bart-base"
    known_metrics = (ROUGE_L, ROUGE_1, ROUGE_2)
    known_baselines = {  # noqa: RUF012
        "first-sentence": predict_first_sentences(1),
        "first-three-sentences": predict_first_sentences(3),
    }
