"""A task's saved model: what loads it without this package, and what shows that it is the one that was trained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.evaluation.decisions import ANSWERING_KEYS
from startup_llm.models.memory import check_memory
from startup_llm.models.pretrained import check_loading, explain_failure
from startup_llm.plain_data import read_json_object

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor
    from transformers import PreTrainedModel

    from startup_llm.tasks.base import Task


class SavedModel(ABC):
    """How the folder of a task's model is loaded, and compared with the model in memory.

    Args:
        task: The task.

    Attributes:
        auto_class: Name of the Auto class that loads a model of the task.
        auto_processor: Name of the Auto class that loads its processor.
        library: The library that loads it, as the Hub names it.
        pipeline_arguments: What `transformers.pipeline` is given beside the model, to answer as predict.py does.
        pipeline_call_arguments: What the pipeline is given with each call.
        shown_in_space: Whether a page that asks the pipeline alone shows the task's answers.
        compared_rows: Test rows by which the saved model is compared, at most.
        load_code: Python that asks a model from the Hub repository REPOSITORY, where transformers has no pipeline.
    """

    auto_class: str
    auto_processor = "AutoTokenizer"
    library = "transformers"
    pipeline_arguments: Mapping[str, Any] = {}
    pipeline_call_arguments: Mapping[str, Any] = {}
    shown_in_space = False
    compared_rows = 64
    load_code: str | None = None

    def __init__(self, task: Task) -> None:
        self.task = task

    def find_auto_class(self, path: str) -> str:
        """Name the Auto class of a model folder: the task's, unless it has several kinds of model."""
        return self.auto_class

    def has_own_format(self, path: str) -> bool:
        """Return whether a folder holds a reference model that no Auto class loads."""
        return False

    def order_labels(self, outputs: Sequence[np.ndarray], order: Sequence[int]) -> Sequence[np.ndarray]:
        """Return outputs of a model that numbers the labels in another way.

        Args:
            outputs: From `Task.compute_outputs`, the logits of the labels last.
            order: For each label which place it had; -1 for one that the model does not know, which it never answers.
        """
        places = np.asarray(order)
        return [np.where(places >= 0, output[..., places], -np.inf) for output in outputs]

    def load(self, path: str, **arguments: Any) -> PreTrainedModel:
        """Load a folder with its Auto class alone, as anyone without this package would."""
        import transformers

        auto_class = getattr(transformers, self.find_auto_class(path))
        return auto_class.from_pretrained(path, dtype="float32", use_safetensors=True, **arguments)

    def load_whole(self, path: str, name: str) -> PreTrainedModel:
        """Load a folder to answer or to be measured.

        Args:
            path: The folder.
            name: What to call it in an error.

        Raises:
            UserError: If its weights are not those of a whole model of the task: missing, of another shape, or not
                finite.
        """
        import transformers

        with explain_failure(name):
            if not self.has_own_format(path):
                auto_class = getattr(transformers, self.find_auto_class(path))
                check_memory(name, auto_class, transformers.AutoConfig.from_pretrained(path))
            loaded = self.load(path, output_loading_info=True, ignore_mismatched_sizes=True)
        if self.has_own_format(path):  # whose loader builds a config of its own
            stored = read_json_object(Path(path, "config.json"))
            for key in ANSWERING_KEYS:
                setattr(loaded.config, key, stored.get(key))
        model, loading = loaded if isinstance(loaded, tuple) else (loaded, {})  # a reference model tells nothing
        check_loading(name, model, loading, None, f"fine-tune it for {self.task.tag} first")
        return model

    def compute_exported(self, model: Any, inputs: Mapping[str, Tensor], processor: Any) -> Tensor:
        """Return what the model computes in ONNX form of tokens, padded on the right: a row for each text.

        Args:
            model: The model.
            inputs: input_ids, attention_mask and perhaps token_type_ids, shape (rows, tokens).
            processor: What encodes rows.
        """
        return model(**inputs).logits

    def load_processor(self, path: str) -> Any:
        """Load the processor that was saved beside a model or an adapter, as anyone without this package would."""
        import transformers

        return getattr(transformers, self.auto_processor).from_pretrained(path)

    def encode_sample(self, rows: Dataset, processor: Any) -> Dataset:
        """Encode the rows by whose scores a model is compared with its saved copy."""
        return self.task.encode(rows, processor)[0]

    def compute_scores(self, model: Any, batch: dict[str, Tensor], processor: Any) -> list[np.ndarray]:
        """Return numbers for each row of a batch that show whether two copies of a model are the same.

        They are the outputs, except where an output is a choice that rounding can tip over, such as a written text.
        """
        return self.task.compute_outputs(model, batch, processor)

    @abstractmethod
    def check_pipeline(self, folder: str, rows: Dataset, outputs: Sequence[np.ndarray]) -> float | None:
        """Return the largest difference between `transformers.pipeline` on a saved folder and the model's outputs.

        None where transformers has no such pipeline.
        """


def compare_labels(classify: Any, inputs: Iterable[Any], outputs: Sequence[np.ndarray], **arguments: Any) -> float:
    """Return the largest difference between a classification pipeline's raw scores and the model's outputs.

    Args:
        classify: The pipeline.
        inputs: What it is asked, one a row.
        outputs: The model's logits, in the order of the pipeline's label ids.
        **arguments: Passed to the pipeline.
    """
    ids = classify.model.config.label2id
    logits = np.zeros((len(outputs), len(ids)))
    for row, value in enumerate(inputs):
        for score in classify(value, top_k=len(ids), function_to_apply="none", **arguments):
            logits[row, ids[score["label"]]] = score["score"]
    return float(np.abs(logits - np.asarray(outputs)).max())
