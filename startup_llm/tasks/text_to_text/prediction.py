"""How a text is answered by a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from startup_llm.tasks.prediction import Predictor

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset


class TextPredictor(Predictor):
    """Answers a text with what the model writes for it."""

    def answer(
        self, outputs: Sequence[np.ndarray], encoded: Dataset, rows: Dataset, processor: Any, config: Any
    ) -> list[dict[str, Any]]:
        """Return the written texts."""
        return [{f"{self.task.tag}_text": str(output)} for output in outputs]

    def example(self, config: Any) -> dict[str, Any]:
        """Return an answer of the right types."""
        return {f"{self.task.tag}_text": ""}
