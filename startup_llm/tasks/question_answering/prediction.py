"""How a question on a context is answered: a span of the context, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.evaluation.decisions import Decision, SpanAnswers
from startup_llm.evaluation.text_overlap import compute_exact
from startup_llm.tasks.explanation import EXAMPLE, explain_score, tokenize_texts
from startup_llm.tasks.prediction import Predictor
from startup_llm.tasks.question_answering.context_windows import compute_probability, find_spans, read_answers
from startup_llm.tasks.question_answering.metrics import count_agreement
from startup_llm.tasks.question_answering.rows import expects_abstention, knows_unanswerable

if TYPE_CHECKING:
    from datasets import Dataset

    from startup_llm.data.task_data import TaskData
    from startup_llm.tasks.question_answering.task import QuestionAnswering


class AnswerPredictor(Predictor):
    """Answers a question with its context."""

    task: QuestionAnswering
    columns = ("question", "context")
    explained = EXAMPLE

    def has_confidence(self, data: TaskData) -> bool:
        """Return that every answer is a span with a probability."""
        return True

    def score_answers(
        self, outputs: Sequence[np.ndarray], encoded: Dataset, rows: Dataset, data: TaskData
    ) -> SpanAnswers:
        """Return the probability of each answer; it is right where it matches a true one exactly."""
        spans = find_spans(
            outputs, encoded, rows["context"], may_abstain=expects_abstention(self.task.may_abstain, data)
        )
        considered = np.full((len(spans), 2, max(span.considered.shape[1] for span in spans)), -np.inf)
        for place, span in enumerate(spans):
            considered[place, :, : span.considered.shape[1]] = span.considered
        totals = np.array([span.total for span in spans])
        count = count_agreement(compute_exact, with_unanswerable=knows_unanswerable(data))
        right = count(self.task.references(rows), [{"text": span.text} for span in spans])[:, 0] == 1
        return SpanAnswers(
            lambda temperature: compute_probability(totals, considered, temperature), right, np.arange(len(spans))
        )

    def answer(
        self, outputs: Sequence[np.ndarray], encoded: Dataset, rows: Dataset, processor: Any, config: Any
    ) -> list[dict[str, Any]]:
        """Return answer, start, end and score; an empty answer where the model was taught that there may be none.

        With a decision in the model's config, its temperature and whether the answer needs a person.
        """
        decision = Decision.read(config) or Decision()
        may_abstain = getattr(config, "null_threshold", None) is not None
        answers = read_answers(
            outputs, encoded, rows["context"], may_abstain=may_abstain, temperature=decision.temperature
        )
        return [
            {
                "answer": answer["text"],
                **{name: answer[name] for name in ("start", "end", "score")},
                **decision.judge(answer["score"]),
            }
            for answer in answers
        ]

    def explain(
        self, model: Any, processor: Any, rows: Dataset, answers: Sequence[dict[str, Any]], plan: Any
    ) -> list[dict[str, Any]]:
        """Explain the logits of each answer's first and last token; an empty answer has no words."""
        explained = []
        for row, answer in zip(rows, answers, strict=True):
            texts = {name: row[name] for name in self.columns}
            tokenized = tokenize_texts(processor, texts, ("context", answer["start"], answer["end"]))
            tokens = tokenized.find_tokens("context", answer["start"], answer["end"])
            if not tokens:
                explained.append({**answer, **dict.fromkeys(EXAMPLE), "explanation": []})
                continue

            def read(output: Any, first: int = tokens[0], last: int = tokens[-1]) -> Any:
                return output.start_logits[:, first] + output.end_logits[:, last]

            explained.append({**answer, **explain_score(model, processor, tokenized, read, plan).describe()})
        return explained

    def example(self, config: Any) -> dict[str, Any]:
        """Return an answer of the right types."""
        return {"answer": "", "start": 0, "end": 0, "score": 1.0, **(Decision.read(config) or Decision()).judge(1.0)}
