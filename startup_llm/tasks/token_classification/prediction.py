"""How a text is answered: its entities, each with its place in the text."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.data.rows_to_predict import find_text_fault
from startup_llm.evaluation.decisions import Decision, SpanAnswers
from startup_llm.tasks.explanation import Explanation, explain_score, tokenize_words
from startup_llm.tasks.prediction import Predictor
from startup_llm.tasks.token_classification.tag_schemes import OUTSIDE, find_entities
from startup_llm.tasks.token_classification.windows import (
    SHARED_TOKENS,
    compute_span_scores,
    find_deciding_tokens,
    gather_words,
    name_tags,
)
from startup_llm.tasks.token_classification.words import split_words

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from startup_llm.data.task_data import TaskData


EXPLAINED_WORDS = 50
"""Words before and after an entity among which those are looked for that made it."""


class EntityPredictor(Predictor):
    """Answers a text, which it cuts into words, or a list of words, whose text has a blank between each two."""

    exported = True
    packages = ("regex",)
    explained: Mapping[str, Any] = {}  # of each entity, inside of it

    def has_confidence(self, data: TaskData) -> bool:
        """Return whether tags mark entities."""
        return OUTSIDE in data.label_names

    def score_answers(
        self, outputs: Sequence[np.ndarray], encoded: Dataset, rows: Dataset, data: TaskData
    ) -> SpanAnswers:
        """Return the mean probability of each entity's tags; it is right where a true one has its words and type."""
        logits, lengths, right, places = [np.zeros((0, len(data.label_names)))], [], [], []
        references = self.task.references(rows)
        for place, words in enumerate(gather_words(outputs, encoded, list(map(len, rows["tokens"])))):
            meant = set(find_entities(references[place]))
            for entity in find_entities(name_tags(words, data.label_names)):
                logits.append(np.stack(words[entity.start : entity.end]))
                lengths.append(entity.end - entity.start)
                right.append(entity in meant)
                places.append(place)
        of_words = np.concatenate(logits)
        return SpanAnswers(
            lambda temperature: compute_span_scores(of_words, lengths, temperature),
            np.array(right, dtype=bool),
            np.array(places, dtype=int),
            counted="entities",
        )

    def find_fault(self, column: str, value: Any) -> str | None:
        """Return what is wrong with a text or a list of words."""
        if not isinstance(value, list):
            return super().find_fault(column, value)
        odd = next((word for word in value if find_text_fault(word) is not None), None)
        if value and odd is None:
            return None
        return f"holds {str(value)[:50]}, expected a text or a list of words"

    def encode(self, rows: Dataset, processor: PreTrainedTokenizerBase) -> Dataset:
        """Cut texts into words and tokenize those."""
        import datasets

        words = [[text[start:end] for start, end in spans] for text, spans in map(_find_words, rows["text"])]
        return self.task.encode(datasets.Dataset.from_dict({"tokens": words}), processor)[0]

    def answer(
        self, outputs: Sequence[np.ndarray], encoded: Dataset, rows: Dataset, processor: Any, config: Any
    ) -> list[dict[str, Any]]:
        """Return each text's entities with type, text, place in characters, and their words' mean probability.

        With a decision in the model's config, its temperature and whether an entity needs a person.
        """
        decision = Decision.read(config) or Decision()
        names = [config.id2label[place] for place in range(len(config.id2label))]
        texts, spans = zip(*map(_find_words, rows["text"]), strict=True)
        answers = []
        for text, words, logits in zip(
            texts, spans, gather_words(outputs, encoded, list(map(len, spans))), strict=True
        ):
            entities = []
            for entity in find_entities(name_tags(logits, names)):
                start, end = words[entity.start][0], words[entity.end - 1][1]
                of_words = np.stack(logits[entity.start : entity.end])
                (score,) = compute_span_scores(of_words, [len(of_words)], decision.temperature)
                found = {"type": entity.type, "text": text[start:end], "start": start, "end": end}
                entities.append({**found, "score": float(score), **decision.judge(score)})
            answers.append({"entities": entities})
        return answers

    def list_questions(self, data: TaskData, split: str = "test") -> dict[str, list]:
        """Return the sentences as lists of words."""
        return {"text": list(data.splits[split]["tokens"])}

    def encode_exported(self, model: Any, rows: Mapping[str, Sequence[Any]]) -> tuple[list, dict[str, list]]:
        """Return windows that decide on a word, and of each its row and the words of its tokens."""
        words = [[text[start:end] for start, end in spans] for text, spans in map(_find_words, rows["text"])]
        windows = model.tokenize_words(words, SHARED_TOKENS)
        encodings = [encoding for row in windows for encoding in row]
        owners = [row for row, parts in enumerate(windows) for _ in parts]
        deciding = find_deciding_tokens([list(encoding.word_ids) for encoding in encodings], owners)
        kept = [place for place, own in enumerate(deciding) if max(own, default=-1) >= 0]
        encoded: dict[str, list] = {"_row": [owners[place] for place in kept]}
        encoded["_words"] = [deciding[place] for place in kept]
        return [encodings[place] for place in kept], encoded

    def explain(
        self, model: Any, processor: Any, rows: Dataset, answers: Sequence[dict[str, Any]], plan: Any
    ) -> list[dict[str, Any]]:
        """Explain the logits of each entity's tags, among the words around it."""
        explained = []
        for value, answer in zip(rows["text"], answers, strict=True):
            text, spans = _find_words(value)
            words = [(start, end, text[start:end]) for start, end in spans]
            entities = [
                {**entity, **_explain_entity(model, processor, words, entity, plan).describe()}
                for entity in answer["entities"]
            ]
            explained.append({**answer, "entities": entities})
        return explained

    def example(self, config: Any) -> dict[str, Any]:
        """Return an answer with one entity."""
        decision = Decision.read(config) or Decision()
        entity = {"type": "", "text": "", "start": 0, "end": 0, "score": 1.0, **decision.judge(1.0)}
        return {"entities": [entity]}


def _explain_entity(
    model: Any, processor: Any, words: Sequence[tuple[int, int, str]], entity: Mapping[str, Any], plan: Any
) -> Explanation:
    import torch

    inside = [place for place, (start, end, _) in enumerate(words) if start < entity["end"] and end > entity["start"]]
    around = words[max(0, inside[0] - EXPLAINED_WORDS) : inside[-1] + 1 + EXPLAINED_WORDS]
    row = tokenize_words(processor, "text", around)
    tokens = row.find_tokens("text", entity["start"], entity["end"])
    with torch.no_grad(), plan.autocast():
        inputs = {name: torch.tensor([values], device=plan.device) for name, values in row.inputs.items()}
        tags = model(**inputs).logits[0, tokens].argmax(dim=-1)

    def read(output: Any) -> Any:
        return output.logits[:, tokens, tags].sum(dim=1)

    return explain_score(model, processor, row, read, plan)


def _find_words(value: str | list[str]) -> tuple[str, list[tuple[int, int]]]:
    """Return a row's text, and start and end of each of its words in characters."""
    if isinstance(value, str):
        return value, split_words(value)
    ends = list(itertools.accumulate(len(word) + 1 for word in value))
    return " ".join(value), [(end - len(word) - 1, end - 1) for word, end in zip(value, ends, strict=True)]
