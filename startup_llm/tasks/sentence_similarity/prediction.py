"""How queries are answered: the texts that are nearest to them, or for a pair of texts its cosine."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.data.text_reading import TextReading
from startup_llm.errors import UserError
from startup_llm.models.unit_vectors import scale_to_norm_one
from startup_llm.run_folder import find_model
from startup_llm.tasks.prediction import Predictor
from startup_llm.tasks.sentence_similarity.rows import compute_cosines, rank_nearest, read_corpus

if TYPE_CHECKING:
    from datasets import Dataset

    from startup_llm.config import AnswerConfig
    from startup_llm.data.task_data import TaskData
    from startup_llm.tasks.base import Task
    from startup_llm.tasks.sentence_similarity.model import SentenceProcessor

CORPUS_FILE = "corpus.parquet"
"""A run's searched texts: id, text, and embedding at norm 1."""


class SearchPredictor(Predictor):
    """Answers queries where there are texts to search, else pairs of texts."""

    columns = ("text", "text_pair")
    embeds = True
    exported = True

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self._corpus: dict[str, Any] = {}  # of `prepare`: ids, texts, vectors at norm 1
        self._matches = 0

    def prepare(
        self,
        config: AnswerConfig,
        folder: Path,
        processor: SentenceProcessor,
        embed: Callable[[Sequence[str]], np.ndarray],
    ) -> str | None:
        """Read the texts to search: those given, or the run's own; a run on scored pairs has none.

        Raises:
            UserError: If the texts cannot be read.
        """
        place = next(
            (parent / CORPUS_FILE for parent in (folder, folder.parent) if (parent / CORPUS_FILE).is_file()), None
        )
        if config.corpus:
            reading = TextReading.of_results(find_model(folder)[1])
            read = read_corpus(config.corpus, reading)
            ids, texts = [row["id"] for row in read], [row["text"] for row in read]
            vectors = embed(texts)
        elif place is not None:
            import pyarrow.parquet

            rows = pyarrow.parquet.read_table(place)
            ids, texts = rows["id"].to_pylist(), rows["text"].to_pylist()
            vectors = np.stack(rows["embedding"].to_numpy()).astype(np.float32)
        else:
            return None
        self._corpus = {"ids": ids, "texts": texts, "vectors": vectors}
        self._matches = min(config.matches, len(texts))
        return f"{len(texts):,} texts are searched"

    def write_files(
        self, folder: Path, data: TaskData, outputs: Sequence[np.ndarray], processor: SentenceProcessor
    ) -> list[Path]:
        """Write the searched texts with their vectors, for predict.py and for any search engine."""
        if data.corpus is None:
            return []
        import datasets

        vectors = scale_to_norm_one(np.asarray(outputs)[len(data.splits["test"]) :]).astype(np.float32)
        table = {"id": data.corpus["id"], "text": data.corpus["text"], "embedding": list(vectors)}
        rows = datasets.Dataset.from_dict(table)
        rows.to_parquet(str(folder / CORPUS_FILE))
        return [folder / CORPUS_FILE]

    def encode(self, rows: Dataset, processor: SentenceProcessor) -> Dataset:
        """Tokenize queries, or pairs of texts.

        Raises:
            UserError: If a single text has nothing to be compared with.
        """
        if self._corpus:
            return self.task.encode(rows.select_columns("text"), processor)[0]
        _check_pair(rows.column_names)
        return self.task.encode(rows, processor)[0]

    def list_questions(self, data: TaskData, split: str = "test") -> dict[str, list]:
        """Return the queries, behind those of the test the texts that they search, or the pairs."""
        rows = data.splits[split]
        if data.corpus is None:
            return super().list_questions(data, split)
        return {"text": [*rows["text"], *(data.corpus["text"] if split == "test" else ())]}

    def encode_exported(self, model: Any, rows: Mapping[str, Sequence[Any]]) -> tuple[list, dict[str, list]]:
        """Tokenize the first texts of all rows, then the second ones."""
        return model.tokenize([text for name in self.columns for text in rows.get(name, ())]), {}

    def compute_exported(
        self, model: Any, rows: Mapping[str, Sequence[Any]]
    ) -> tuple[list[np.ndarray], dict[str, list]]:
        """Return each row's vectors, one behind the other."""
        vectors = np.stack(super().compute_exported(model, rows)[0])
        return list(np.concatenate(np.split(vectors, len(vectors) // len(rows["text"])), axis=1)), {}

    def answer_exported(
        self, model: Any, rows: Mapping[str, Sequence[Any]], config: Any
    ) -> tuple[list[dict[str, Any]], list[dict[str, float]] | None]:
        """Answer queries, or pairs of texts.

        Raises:
            UserError: If a single text has nothing to be compared with.
        """
        if self._corpus:
            rows = {"text": rows["text"]}
        else:
            _check_pair(rows)
        return super().answer_exported(model, rows, config)

    def answer(
        self, outputs: Sequence[np.ndarray], encoded: Dataset, rows: Dataset, processor: Any, config: Any
    ) -> list[dict[str, Any]]:
        """Return the nearest texts with their ids and cosines, best first; for a pair its cosine."""
        if not self._corpus:
            return [{"score": float(cosine)} for cosine in compute_cosines(np.asarray(outputs))]
        queries, vectors = scale_to_norm_one(np.asarray(outputs)), self._corpus["vectors"]
        return [
            {
                "matches": [
                    {
                        "id": self._corpus["ids"][place],
                        "text": self._corpus["texts"][place],
                        "score": float(query @ vectors[place]),
                    }
                    for place in ranking
                ]
            }
            for query, ranking in zip(queries, rank_nearest(queries, vectors, self._matches), strict=True)
        ]

    def example(self, config: Any) -> dict[str, Any]:
        """Return an answer of the right types."""
        return {"matches": [{"id": "1", "text": "a text", "score": 1.0}]} if self._corpus else {"score": 1.0}


def _check_pair(columns: Container[str]) -> None:
    if "text_pair" not in columns:
        raise UserError("one text per row and no texts to search; name the second text, or give a --corpus FILE")
