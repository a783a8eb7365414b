"""Sentence similarity: one vector per text, by which texts are found for a text, or pairs are scored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.data.batching import split_by_length
from startup_llm.errors import UserError
from startup_llm.evaluation.metrics import PEARSON, SPEARMAN
from startup_llm.evaluation.results import describe_numbers
from startup_llm.tasks.base import Collator, Task, Truncation
from startup_llm.tasks.sentence_similarity.baselines import predict_bm25, predict_tfidf_cosine, predict_word_overlap
from startup_llm.tasks.sentence_similarity.metrics import (
    MRR_AT_10,
    NDCG_AT_10,
    PRECISION_AT_1,
    RECALL_AT_10,
    RECALL_AT_100,
)
from startup_llm.tasks.sentence_similarity.model import (
    SentenceProcessor,
    build_sentence_encoder,
    compute_cosent_loss,
    compute_ranking_loss,
    load_sentence_processor,
)
from startup_llm.tasks.sentence_similarity.options import SentenceModel, SimilarityData
from startup_llm.tasks.sentence_similarity.prediction import SearchPredictor
from startup_llm.tasks.sentence_similarity.rows import (
    TEXT_COLUMNS,
    compute_cosines,
    load_similarity,
    rank_nearest,
)
from startup_llm.tasks.sentence_similarity.saved_model import SavedSentenceEncoder

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

    from startup_llm.data.task_data import TaskData
    from startup_llm.evaluation.baselines import Baseline
    from startup_llm.evaluation.metrics import Metric, Values
    from startup_llm.models.checkpoints import Checkpoint
    from startup_llm.models.task_model import TaskModel

TOKENS_AT_ONCE = 2048
"""Padded tokens of a batch that are computed together; the loss still spans the batch."""
_SHOWN = 6


class SentenceSimilarity(Task[SimilarityData, SentenceModel]):
    """Texts to search, pairs with a score, or labelled texts; a row's texts are encoded together, one vector each."""

    tag = "sentence-similarity"
    default_checkpoint = example_checkpoint = "sentence-transformers/all-MiniLM-L6-v2"
    peft_task_type = "FEATURE_EXTRACTION"
    predictor_class = SearchPredictor
    saved_model_class = SavedSentenceEncoder
    computes_loss = True
    splits_batches = False
    known_metrics = (NDCG_AT_10, MRR_AT_10, RECALL_AT_100, PRECISION_AT_1, RECALL_AT_10, SPEARMAN, PEARSON)
    known_baselines = {  # noqa: RUF012
        "bm25": predict_bm25,
        "tfidf-cosine": predict_tfidf_cosine,
        "word-overlap": predict_word_overlap,
    }

    def read_data(self, data: SimilarityData) -> TaskData:
        """Read queries with what answers them, scored pairs, or labelled texts.

        Raises:
            UserError: On anything wrong with the files, the columns, the texts or the scores.
        """
        return load_similarity(data)

    def load_processor(
        self, checkpoint: Checkpoint, model: SentenceModel, data: TaskData | None = None
    ) -> SentenceProcessor:
        """Load the tokenizer and the pooling."""
        tokenizer = super().load_processor(checkpoint, model, data)
        return load_sentence_processor(checkpoint.path, checkpoint.name, tokenizer, model.pooling)

    def check_method(self, method: str, data: TaskData) -> None:
        """Refuse rows that are searched alone, and scored pairs where nothing is trained."""
        if method != "zero-shot":
            super().check_method(method, data)
        elif data.corpus is None:
            raise UserError(
                "--method zero-shot searches texts with the checkpoint as it is; the rows are scored pairs"
            )
        if "train" not in data.splits:
            raise UserError("there are no training rows (qrels/train.tsv); measure a model with recipes/evaluate.py")

    def build_model(
        self,
        checkpoint: Checkpoint,
        processor: SentenceProcessor,
        data: TaskData,
        model: SentenceModel,
        attention_kernel: str | None,
    ) -> TaskModel:
        """Load the checkpoint as it is: it has no head."""
        return build_sentence_encoder(
            checkpoint,
            processor,
            dropout=model.dropout,
            attention_kernel=attention_kernel,
            trust_remote_code=model.trust_remote_code,
        )

    def encode(self, rows: Dataset, processor: SentenceProcessor) -> tuple[Dataset, Truncation]:
        """Tokenize each row's texts, cut at the tokenizer's `model_max_length`.

        Returns:
            input_ids: the tokens of each of a row's texts; labels: a score, or the group of each text; length: tokens
            of the longest text times the texts.
        """
        import datasets

        columns = [name for name in TEXT_COLUMNS if name in rows.column_names]
        limit, tokenizer = processor.model_max_length, processor.tokenizer
        whole, cut = (
            [
                tokenizer(list(rows[name]), truncation=truncation, max_length=max_tokens, verbose=False)["input_ids"]
                for name in columns
            ]
            for truncation, max_tokens in ((False, None), (True, limit))
        )
        texts = [list(row) for row in zip(*cut, strict=True)]
        encoded = {"input_ids": texts, "length": [len(row) * max(map(len, row)) for row in texts]}
        if "groups" in rows.column_names or "label" in rows.column_names:
            encoded["labels"] = list(rows["groups" if "groups" in rows.column_names else "label"])
        before, after = (
            np.array([sum(map(len, row)) for row in zip(*lengths, strict=True)]) for lengths in (whole, cut)
        )
        is_cut = before > after
        truncation = Truncation(int(is_cut.sum()), float(is_cut.mean()), float((before - after).sum() / before.sum()))
        return datasets.Dataset.from_dict(encoded), truncation

    def encode_split(self, name: str, data: TaskData, processor: SentenceProcessor) -> tuple[Dataset, Truncation]:
        """Encode a split; behind the test queries come the texts that they search."""
        import datasets

        rows = data.splits[name]
        if name == "test" and data.corpus is not None:
            rows = datasets.concatenate_datasets([split.select_columns("text") for split in (rows, data.corpus)])
        return self.encode(rows, processor)

    def build_collator(self, processor: SentenceProcessor) -> Collator:
        """Pad all texts of a batch to the longest one, shape (rows, texts, tokens)."""
        import torch

        def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
            texts = [ids for row in rows for ids in row["input_ids"]]
            padded = processor.tokenizer.pad({"input_ids": texts}, return_tensors="pt")
            batch = {
                name: padded[name].view(len(rows), -1, padded[name].shape[-1])
                for name in ("input_ids", "attention_mask")
            }
            if "labels" in rows[0]:
                batch["labels"] = torch.tensor([row["labels"] for row in rows])
            return batch

        return collate

    def compute_loss(
        self, model: Any, batch: dict[str, Tensor], processor: SentenceProcessor
    ) -> tuple[Tensor, Tensor]:
        """Compare each query with all answers of the batch; of scored pairs the order of their cosines (CoSENT)."""
        labels = batch["labels"]
        vectors = self._compute_vectors(model, batch, processor)
        if labels.is_floating_point():
            loss = compute_cosent_loss(vectors[:, 0], vectors[:, 1], labels)
        else:
            documents = vectors[:, 1:].transpose(0, 1).flatten(0, 1)  # all positives, then all negatives
            loss = compute_ranking_loss(vectors[:, 0], documents, labels)
        return loss, vectors.flatten(1)

    def compute_outputs(self, model: Any, batch: dict[str, Tensor], processor: SentenceProcessor) -> list[np.ndarray]:
        """Return for each row its texts' vectors, one behind the other."""
        return list(self._compute_vectors(model, batch, processor).flatten(1).cpu().numpy())

    def _compute_vectors(self, model: Any, batch: dict[str, Tensor], processor: SentenceProcessor) -> Tensor:
        """Return the vectors of each row's texts, float32, shape (rows, texts, width).

        Texts of like length are computed together, as most of a batch that is padded to its longest is padding.
        """
        import torch

        ids, mask = (batch[name].flatten(0, 1) for name in ("input_ids", "attention_mask"))  # (texts, tokens)
        lengths = mask.sum(dim=1).cpu().numpy()
        parts = [torch.from_numpy(part).to(ids.device) for part in split_by_length(lengths, TOKENS_AT_ONCE)]
        vectors = []
        for part in parts:
            longest = int(mask[part[0]].sum())
            inputs = {"input_ids": ids[part, :longest], "attention_mask": mask[part, :longest]}
            features = model(**inputs)["last_hidden_state"]  # (texts, tokens, width)
            vectors.append(processor.pool(features, inputs["attention_mask"]))
        return torch.cat(vectors)[torch.cat(parts).argsort()].view(*batch["input_ids"].shape[:2], -1)

    def metrics(self, data: TaskData) -> tuple[Metric, ...]:
        """Return the metrics of a search, or of pairs with a score."""
        return (SPEARMAN, PEARSON) if data.corpus is None else (NDCG_AT_10, MRR_AT_10, RECALL_AT_100, PRECISION_AT_1)

    def baselines(self, data: TaskData) -> dict[str, Baseline]:
        """Return the baselines of a search, or of pairs with a score."""
        first = "word-overlap" if data.corpus is None else "bm25"
        return {name: self.known_baselines[name] for name in (first, "tfidf-cosine")}

    def references(self, rows: Dataset) -> Values:
        """Return each query's relevant places in the corpus with their grades, or the scores."""
        return np.asarray(rows["label"]) if "label" in rows.column_names else list(rows["relevant"])

    def read_predictions(
        self, outputs: Sequence[np.ndarray], encoded: Dataset, rows: Dataset, data: TaskData
    ) -> Values:
        """Return for each query the places of the nearest texts, best first, or each pair's cosine."""
        vectors = np.asarray(outputs)
        if data.corpus is None:
            return compute_cosines(vectors)
        return rank_nearest(vectors[: len(rows)], vectors[len(rows) :])

    def read_validation(self, logits: np.ndarray, labels: np.ndarray, data: TaskData) -> tuple[Values, Values]:
        """Return what belongs to each query among the validation rows' own answers, and what is found there."""
        if data.corpus is None:
            return labels, compute_cosines(logits)
        width = logits.shape[1] // labels.shape[1]
        relevant: dict[tuple[int, int], list[list[int]]] = {}
        for place, (query, document) in enumerate(labels[:, :2].tolist()):
            for key in {(0, query), (1, document)}:
                relevant.setdefault(key, []).append([place, 1])
        references = [
            [*relevant[0, query], *(pair for pair in relevant[1, document] if pair not in relevant[0, query])]
            for query, document in labels[:, :2].tolist()
        ]
        return references, rank_nearest(logits[:, :width], logits[:, width : 2 * width])

    def describe_errors(
        self, rows: Dataset, outputs: Sequence[np.ndarray], predictions: Any, data: TaskData
    ) -> dict[str, Any]:
        """Return a gallery of queries whose first find is wrong; of pairs with a score, those most out of order."""
        if data.corpus is None:
            texts = [f"{first}\n{second}" for first, second in zip(rows["text"], rows["text_pair"], strict=True)]
            return describe_numbers(rows, texts, np.asarray(predictions), same_unit=False)
        return {"gallery": _show_queries(rows, predictions, data.corpus)}


def _show_queries(rows: Dataset, rankings: Sequence[Sequence[int]], corpus: Dataset) -> list[dict[str, Any]]:
    """Return queries whose first find is wrong, with what is found for them."""
    texts, items = list(corpus["text"]), []
    for query, relevant, ranking in zip(rows["text"], rows["relevant"], rankings, strict=True):
        wanted = {place for place, _ in relevant}
        if len(items) == _SHOWN or ranking[0] in wanted:
            continue
        pairs = [["query", query]]
        pairs += [
            [f"{rank}, {'relevant' if place in wanted else 'not relevant'}", texts[place]]
            for rank, place in enumerate(ranking[:3], start=1)
        ]
        items.append({"title": "A query whose first find is not relevant", "kind": "text", "pairs": pairs})
    return items
