"""How a prompt is answered: it is continued, or as a turn of a conversation replied to."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.config import PredictConfig
from startup_llm.data.batching import IS_PROMPT
from startup_llm.data.text_reading import read_conversation
from startup_llm.errors import UserError
from startup_llm.models.checkpoints import read_json
from startup_llm.run_folder import find_model
from startup_llm.tasks.prediction import Predictor
from startup_llm.tasks.text_generation.chat import AnsweredConversations, encode_prompt, find_form
from startup_llm.tasks.text_generation.continuation import GREEDY, build_streamer, list_tokens, write_texts
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


def choose_drawing(config: PredictConfig) -> dict[str, Any]:
    """Return the arguments of `generate`: the likeliest token at each step, or texts that are drawn."""
    if config.temperature == 0 and config.samples > 1:
        raise UserError(f"samples {config.samples}: at temperature 0 all are the same; leave temperature out")
    if config.temperature == 0 or (config.temperature is None and config.samples == 1):
        return GREEDY
    temperature = {} if config.temperature is None else {"temperature": config.temperature}
    return {"do_sample": True, "num_beams": 1, **temperature}


class ContinuationPredictor(Predictor):
    """Answers a text or a conversation with what the model writes after it."""

    samples_texts = True

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self._converses = False  # of `prepare`: whether a text is asked as a turn of a conversation
        self._samples, self._how = 1, GREEDY
        self._stop: tuple[str, ...] = ()

    def find_fault(self, column: str, value: Any) -> str | None:
        """Return what is wrong with a prompt, which is a text or a conversation."""
        value = read_conversation(value)
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
        embed: Callable[[Sequence[str]], np.ndarray],
    ) -> str | None:
        """Ask a model that was tuned on conversations each plain text as a user's turn, and let others continue it."""
        said = super().prepare(config, folder, processor, embed)
        if isinstance(config, PredictConfig):
            self._choose_writing(config)
        model_folder, results = find_model(folder)
        known = read_json(model_folder / "config.json").get("trained_on_conversations")
        self._converses = bool(known) or find_form(results.get("columns", ())) is not None
        return "a plain text is asked as a user's turn, in the model's chat template" if self._converses else said

    def _choose_writing(self, config: PredictConfig) -> None:
        from transformers import set_seed

        self._samples, self._stop, self._how = config.samples, tuple(config.stop), choose_drawing(config)
        if any(not text for text in self._stop):
            raise UserError("stop: expected texts of at least one character")
        set_seed(config.seed)

    def encode(self, rows: Dataset, processor: PreTrainedTokenizerBase) -> Dataset:
        """Tokenize prompts; of a long one the end is kept, so that half of the model's length is left to write."""
        import datasets

        max_tokens = processor.model_max_length // 2
        prompts = [read_conversation(text) for text in rows["text"]]
        if self._converses:
            prompts = [[{"role": "user", "content": text}] if isinstance(text, str) else text for text in prompts]
        ids = [
            encode_prompt(processor, read_messages(prompt), max_tokens)
            if isinstance(prompt, list)
            else processor(prompt, add_special_tokens=False, verbose=False)["input_ids"]
            for prompt in prompts
        ]
        ids = [prompt[-max_tokens:] for prompt in ids]
        return datasets.Dataset.from_dict({"input_ids": ids, "length": list(map(len, ids)), IS_PROMPT: [1] * len(ids)})

    def compute_outputs(self, model: Any, batch: dict[str, Tensor], processor: Any) -> list[np.ndarray]:
        """Continue each prompt by the likeliest token at each step, as test rows are scored, or by chance."""
        prompts = [prompt for prompt in list_tokens(batch) for _ in range(self._samples)]
        texts = write_texts(model, processor, prompts, self._stop, **self._how)
        return [np.array(texts[first : first + self._samples]) for first in range(0, len(texts), self._samples)]

    def answer(
        self, outputs: Sequence[np.ndarray], encoded: Dataset, rows: Dataset, processor: Any, config: Any
    ) -> list[dict[str, Any]]:
        """Return what was written after each prompt; an answer to a turn without the white space around it."""
        texts = [[str(text).strip() if self._converses else str(text) for text in output] for output in outputs]
        return [self._name_texts(written) for written in texts]

    def find_other_server(self, folder: Path) -> str:
        """Return the command of the server that streams, at /v1/chat/completions."""
        return shlex.join(["transformers", "serve", str(folder)])

    def _name_texts(self, texts: list[str]) -> dict[str, Any]:
        return {"generated_text": texts[0]} if self._samples == 1 else {"generated_texts": texts}

    def show_answer(
        self, text: str, model: Any, processor: Any, write: Callable[[str], object], compute: Callable[[Dataset], Any]
    ) -> None:
        """Show what is written as it is written, several samples one after the other."""
        import datasets
        import torch

        if fault := self.find_fault("text", text):
            raise UserError(f"--text {fault}")
        encoded = self.encode(datasets.Dataset.from_dict({"text": [text]}), processor)
        prompt = encoded[0]["input_ids"]
        with torch.inference_mode():
            for place in range(self._samples):
                write("\n" * (place > 0))
                streamer = build_streamer(processor, write, self._stop, strip=self._converses)
                write_texts(model, processor, [prompt], self._stop, streamer=streamer, **self._how)
                write("\n")

    def example(self, config: Any) -> dict[str, Any]:
        """Return an answer of the right types."""
        return self._name_texts([""])

    def add_examples(
        self, data: TaskData, processor: PreTrainedTokenizerBase, model: Any, evaluation: EvaluationConfig
    ) -> tuple[TaskData, PreTrainedTokenizerBase] | None:
        """Put training conversations before the test ones, where answers are written."""
        form = find_form(data.splits["test"].column_names)
        if not isinstance(evaluation, ChatEvaluation) or not isinstance(form, AnsweredConversations):
            return None
        count = evaluation.few_shot_examples
        return add_examples(data, processor, model, count, evaluation.seed) if count else None
