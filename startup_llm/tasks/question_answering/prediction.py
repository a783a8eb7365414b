"""How a question on a context is answered: a span of the context, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from startup_llm.tasks.prediction import Predictor
from startup_llm.tasks.question_answering.context_windows import read_answers

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset


class AnswerPredictor(Predictor):
    """Answers a question with its context."""

    columns = ("question", "context")

    def answer(
        self, outputs: Sequence[np.ndarray], encoded: Dataset, rows: Dataset, processor: Any, config: Any
    ) -> list[dict[str, Any]]:
        """Return answer, start, end and score; an empty answer where the model was taught that there may be none."""
        may_abstain = getattr(config, "null_threshold", None) is not None
        answers = read_answers(outputs, encoded, rows["context"], may_abstain=may_abstain)
        return [
            {"answer": answer["text"], **{name: answer[name] for name in ("start", "end", "score")}}
            for answer in answers
        ]

    def example(self, config: Any) -> dict[str, Any]:
        """Return an answer of the right types."""
        return {"answer": "", "start": 0, "end": 0, "score": 1.0}
