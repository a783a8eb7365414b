"""Token classification: a tag for each word of a text, which marks its named entities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.data.batching import encode_rows
from startup_llm.tasks.base import Collator, Task, Truncation
from startup_llm.tasks.token_classification.baselines import predict_linear_tagger, predict_most_frequent_tag
from startup_llm.tasks.token_classification.metrics import (
    ENTITY_F1,
    ENTITY_PRECISION,
    ENTITY_RECALL,
    TOKEN_ACCURACY,
    describe_entities,
)
from startup_llm.tasks.token_classification.model import build_token_classifier, load_word_tokenizer
from startup_llm.tasks.token_classification.options import TaggedTextData, TokenClassificationModel
from startup_llm.tasks.token_classification.prediction import EntityPredictor
from startup_llm.tasks.token_classification.probing import IGNORED, TokenProbe
from startup_llm.tasks.token_classification.rows import load_tagged_text, read_scored_tags
from startup_llm.tasks.token_classification.saved_model import SavedTagger
from startup_llm.tasks.token_classification.tag_schemes import OUTSIDE, find_entities
from startup_llm.tasks.token_classification.windows import (
    SHARED_TOKENS,
    find_deciding_tokens,
    gather_words,
    name_tags,
)

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from startup_llm.data.task_data import TaskData
    from startup_llm.evaluation.metrics import Metric
    from startup_llm.models.checkpoints import Checkpoint
    from startup_llm.models.task_model import TaskModel

_SHOWN_WRONG, _SHOWN_RIGHT = 9, 3


class TokenClassification(Task[TaggedTextData, TokenClassificationModel]):
    """Columns tokens (a list of words) and tags; a question is a text.

    A word is tagged by its first token. A sentence that is too long becomes several windows that overlap, and a word
    counts in the one where it stands farthest from an edge. A word without any token is no entity.
    """

    tag = "token-classification"
    default_checkpoint = example_checkpoint = "sentence-transformers/all-MiniLM-L6-v2"
    peft_task_type = "TOKEN_CLS"
    probe = TokenProbe()
    cuts_long_rows = False
    predictor_class = EntityPredictor
    saved_model_class = SavedTagger
    token_logits = "own"
    known_metrics = (ENTITY_F1, ENTITY_PRECISION, ENTITY_RECALL, TOKEN_ACCURACY)
    known_baselines = {  # noqa: RUF012
        "most-frequent-tag": predict_most_frequent_tag,
        "linear-tagger": predict_linear_tagger,
    }

    def read_data(self, data: TaggedTextData) -> TaskData:
        """Read, check and split the sentences.

        Raises:
            UserError: On anything wrong with the files, the columns, the words or the tags.
        """
        return load_tagged_text(data)

    def load_processor(
        self, checkpoint: Checkpoint, model: TokenClassificationModel, data: TaskData | None = None
    ) -> PreTrainedTokenizerBase:
        """Load the checkpoint's tokenizer, which has to tell a token's word."""
        return load_word_tokenizer(checkpoint, model)

    def build_model(
        self,
        checkpoint: Checkpoint,
        processor: PreTrainedTokenizerBase,
        data: TaskData,
        model: TokenClassificationModel,
        attention_kernel: str | None,
    ) -> TaskModel:
        """Load the checkpoint with a classifier on each token."""
        return build_token_classifier(
            checkpoint,
            label_names=data.label_names,
            dropout=model.dropout,
            attention_kernel=attention_kernel,
            trust_remote_code=model.trust_remote_code,
        )

    def encode(self, rows: Dataset, processor: PreTrainedTokenizerBase) -> tuple[Dataset, Truncation]:
        """Tokenize sentences into windows of the tokenizer's `model_max_length`; nothing is cut away.

        Returns:
            The inputs; `labels` where the rows have tags; `_row`, the place of the raw row; `_words`, for each token
            the word that it decides on, or -1. A window that decides on no word is left out where rows have tags.
        """
        limit = processor.model_max_length
        shared = int(SHARED_TOKENS * max(limit - processor.num_special_tokens_to_add(), 0))

        def tokenize(batch: dict[str, list], places: list[int]) -> dict[str, list]:
            encoding = processor(
                batch["tokens"],
                is_split_into_words=True,
                truncation=True,
                max_length=limit,
                stride=shared,
                return_overflowing_tokens=True,
            )
            windows = encoding.pop("overflow_to_sample_mapping")
            encoded = {name: list(encoding[name]) for name in processor.model_input_names if name in encoding}
            deciding = find_deciding_tokens([encoding.word_ids(i) for i in range(len(windows))], windows)
            encoded["_row"], encoded["_words"] = [places[row] for row in windows], deciding
            if "tags" in batch:
                encoded["labels"] = [
                    [IGNORED if word < 0 else batch["tags"][row][word] for word in words]
                    for row, words in zip(windows, deciding, strict=True)
                ]
                kept = [i for i, words in enumerate(deciding) if max(words, default=-1) >= 0]
                encoded = {name: [values[i] for i in kept] for name, values in encoded.items()}
            encoded["length"] = [len(ids) for ids in encoded["input_ids"]]
            return encoded

        encoded = encode_rows(rows, tokenize, with_indices=True)
        return encoded, Truncation(0, 0.0, 0.0)

    def build_collator(self, processor: PreTrainedTokenizerBase) -> Collator:
        """Pad each batch to its longest window, and labels with -100."""
        from transformers import DataCollatorForTokenClassification

        return DataCollatorForTokenClassification(processor)

    def count_targets(self, batch: dict[str, Tensor]) -> Tensor:
        """Count the words."""
        return (batch["labels"] != IGNORED).sum(dim=1)

    def compute_outputs(self, model: Any, batch: dict[str, Tensor], processor: Any) -> list[np.ndarray]:
        """Return the logits of each window's tokens, shape (tokens, labels)."""
        lengths = batch["attention_mask"].sum(dim=1).tolist()
        logits = model(**batch)["logits"].float().cpu().numpy()
        return [row[:length] for row, length in zip(logits, lengths, strict=True)]

    def metrics(self, data: TaskData) -> tuple[Metric, ...]:
        """Return the metrics of entities; tags that mark none are counted word by word."""
        return self.known_metrics if OUTSIDE in data.label_names else (TOKEN_ACCURACY,)

    def references(self, rows: Dataset) -> list[list[str]]:
        """Return the names of each sentence's tags, and behind them those of entities that no words are."""
        return read_scored_tags(rows)

    def read_predictions(
        self, outputs: Sequence[np.ndarray], encoded: Dataset, rows: Dataset, data: TaskData
    ) -> list[list[str]]:
        """Take each word's largest logit."""
        logits_of_words = gather_words(outputs, encoded, list(map(len, rows["tokens"])))
        return [name_tags(words, data.label_names) for words in logits_of_words]

    def read_validation(
        self, logits: np.ndarray, labels: np.ndarray, data: TaskData
    ) -> tuple[list[list[str]], list[list[str]]]:
        """Return tags and answers of each window; an entity on the edge of two of them counts as two."""
        references, predictions = [], []
        for row, own in zip(logits, labels, strict=True):
            counted = own != IGNORED
            references.append([data.label_names[tag] for tag in own[counted]])
            predictions.append([data.label_names[tag] for tag in row[counted].argmax(axis=-1)])
        return references, predictions

    def describe_errors(
        self, rows: Dataset, outputs: Sequence[np.ndarray], predictions: Any, data: TaskData
    ) -> dict[str, Any]:
        """Return scores per entity type, what is taken for what, and a gallery of sentences with their entities."""
        references = self.references(rows)
        sections = describe_entities([" ".join(words) for words in rows["tokens"]], references, predictions)
        gallery = _show_sentences(rows, references, predictions) if OUTSIDE in data.label_names else []
        return {**sections, "gallery": gallery}


def _show_sentences(
    rows: Dataset, references: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]]
) -> list[dict[str, Any]]:
    """Mark what was answered in sentences that are wrong, and in some that are right."""
    wrong = [i for i, tags in enumerate(references) if find_entities(tags) != find_entities(predictions[i])]
    right = [i for i in range(len(rows)) if i not in set(wrong) and find_entities(references[i])]
    items = []
    for places, max_shown, what in (
        (wrong, _SHOWN_WRONG, "wrong or missed ones dashed"),
        (right, _SHOWN_RIGHT, "all right"),
    ):
        for place in places[:: max(1, len(places) // max_shown)][:max_shown]:  # from all over the split
            shown = _mark(rows["tokens"][place], references[place], predictions[place])
            items.append({"title": f"Entities found, {what}: row {rows['row'][place]}", "kind": "spans", **shown})
    return items


def _mark(words: Sequence[str], tags: Sequence[str], answers: Sequence[str]) -> dict[str, Any]:
    """Return a sentence's text and its spans as the report's gallery shows them."""
    starts = np.cumsum([0, *(len(word) + 1 for word in words)])
    meant, answered = find_entities(tags), find_entities(answers)

    def place(entity: Any, label: str, right: bool) -> dict[str, Any]:
        start, end = int(starts[entity.start]), int(starts[entity.end]) - 1
        return {"start": start, "end": end, "label": label, "true": right}

    spans = [place(entity, entity.type, entity in meant) for entity in answered]
    missed = [entity for entity in meant if entity.end <= len(words) and not any(map(entity.overlaps, answered))]
    spans += [place(entity, f"missed: {entity.type}", False) for entity in missed]
    return {"text": " ".join(words), "spans": spans}
