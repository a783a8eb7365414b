"""How a prompt is answered: it is continued, or as a turn of a conversation replied to."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.models.checkpoints import read_json
from startup_llm.run_folder import find_model
from startup_llm.tasks.prediction import Predictor
from startup_llm.tasks.text_generation.chat import AnsweredConversations, encode_prompt, find_form
from startup_llm.tasks.text_generation.continuation import GREEDY, list_tokens, write_texts
from startup_llm.tasks.text_generation.few_shot import add_examples
from startup_llm.tasks.text_generation.messages import MessageFault, find_conversation_fault, read_messages
from startup_llm.tasks.text_generation.options import ChatEvaluation

if TYPE_CHECKING:
    from pathlib import Path

    from datasets import Dataset
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from startup_llm.config import AnswerConfig, EvaluationConfig
    from startup_llm.data.task_data import TaskData
    from startup_llm.tasks.base import Task


class ContinuationPredictor(Predictor):
    """Answers a text or a conversation with what the model writes after it."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self._converses = False  # of `prepare`: whether a text is asked as a turn of a conversation

    def find_fault(self, column: str, value: Any) -> str | None:
        """Return what is wrong with a prompt, which is a text or a conversation."""
        if isinstance(value, list):
            try:
                return find_conversation_fault(read_messages(value), question=True)
            except MessageFault as fault:
                return str(fault)
        return super().find_fault(column, value)

    def prepare(
        self,
        config: AnswerConfig,
        folder: Path,
        processor: PreTrainedTokenizerBase,
        compute: Callable[[Dataset], Sequence[np.ndarray]],
    ) -> str | None:
        """Ask a model that was tuned on conversations each plain text as a user's turn, and let others continue it."""
        said = super().prepare(config, folder, processor, compute)
        model_folder, results = find_model(folder)
        known = read_json(model_folder / "config.json").get("trained_on_conversations")
        self._converses = bool(known) or find_form(results.get("columns", ())) is not None
        return "a plain text is asked as a user's turn, in the model's chat template" if self._converses else said

    def encode(self, rows: Dataset, processor: PreTrainedTokenizerBase) -> Dataset:
        """Tokenize prompts; of a long one the end is kept, so that half of the model's length is left to write."""
        import datasets

        max_tokens = processor.model_max_length // 2
        prompts = list(rows["text"])
        if self._converses:
            prompts = [[{"role": "user", "content": text}] if isinstance(text, str) else text for text in prompts]
        if prompts and isinstance(prompts[0], list):
            ids = [encode_prompt(processor, read_messages(messages), max_tokens) for messages in prompts]
        else:
            ids = processor(prompts, add_special_tokens=False, verbose=False)["input_ids"]
        ids = [prompt[-max_tokens:] for prompt in ids]
        return datasets.Dataset.from_dict({"input_ids": ids, "length": list(map(len, ids))})

    def compute_outputs(self, model: Any, batch: dict[str, Tensor], processor: Any) -> list[np.ndarray]:
        """Continue each prompt by the likeliest token at each step, as answers to test rows are scored."""
        return [np.array(text) for text in write_texts(model, processor, list_tokens(batch), **GREEDY)]

    def answer(
        self, outputs: Sequence[np.ndarray], encoded: Dataset, rows: Dataset, processor: Any, config: Any
    ) -> list[dict[str, Any]]:
        """Return what was written after each prompt; an answer to a turn without the white space around it."""
        texts = [str(output).strip() if self._converses else str(output) for output in outputs]
        return [{"generated_text": text} for text in texts]

    def find_other_server(self, folder: Path) -> str:
        """Return the command of the server that streams, at /v1/chat/completions."""
        return shlex.join(["transformers", "serve", str(folder)])

    def example(self, config: Any) -> dict[str, Any]:
        """Return an answer of the right types."""
        return {"generated_text": ""}

    def add_examples(
        self, data: TaskData, processor: PreTrainedTokenizerBase, model: Any, evaluation: EvaluationConfig
    ) -> tuple[TaskData, PreTrainedTokenizerBase] | None:
        """Put training conversations before the test ones, where answers are written."""
        form = find_form(data.splits["test"].column_names)
        if not isinstance(evaluation, ChatEvaluation) or not isinstance(form, AnsweredConversations):
            return None
        count = evaluation.few_shot_examples
        return add_examples(data, processor, model, count, evaluation.seed) if count else None
