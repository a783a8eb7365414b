"""How a text is answered: its entities, each with its place in the text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.tasks.prediction import Predictor
from startup_llm.tasks.token_classification.tag_schemes import find_entities
from startup_llm.tasks.token_classification.windows import gather_words, name_tags
from startup_llm.tasks.token_classification.words import split_words

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


class EntityPredictor(Predictor):
    """Answers a text, which it cuts into words."""

    def encode(self, rows: Dataset, processor: PreTrainedTokenizerBase) -> Dataset:
        """Cut texts into words and tokenize those."""
        import datasets

        words = [[text[start:end] for start, end in split_words(text)] for text in rows["text"]]
        return self.task.encode(datasets.Dataset.from_dict({"tokens": words}), processor)[0]

    def answer(
        self, outputs: Sequence[np.ndarray], encoded: Dataset, rows: Dataset, processor: Any, config: Any
    ) -> list[dict[str, Any]]:
        """Return each text's entities with type, text, place in characters, and their words' mean probability."""
        from scipy.special import softmax

        names = [config.id2label[place] for place in range(len(config.id2label))]
        spans = [split_words(text) for text in rows["text"]]
        answers = []
        for text, words, logits in zip(
            rows["text"], spans, gather_words(outputs, encoded, list(map(len, spans))), strict=True
        ):
            scores = [softmax(values).max() if values is not None else 0.0 for values in logits]
            entities = []
            for entity in find_entities(name_tags(logits, names)):
                start, end = words[entity.start][0], words[entity.end - 1][1]
                score = float(np.mean(scores[entity.start : entity.end]))
                entities.append(
                    {"type": entity.type, "text": text[start:end], "start": start, "end": end, "score": score}
                )
            answers.append({"entities": entities})
        return answers

    def example(self, config: Any) -> dict[str, Any]:
        """Return an answer with one entity."""
        return {"entities": [{"type": "", "text": "", "start": 0, "end": 0, "score": 1.0}]}
