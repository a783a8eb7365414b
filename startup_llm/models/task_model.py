"""A model with a task's head on it, and what has to be known to train, save and load it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class TaskModel:
    """A model and what is special about it.

    Attributes:
        model: The architecture's class for the task, float32.
        pooling: How token features become one vector: mean, cls, last or native; None where there is no such thing.
        head_modules: Names of the modules that the checkpoint does not hold: they are saved with an adapter.
        constant_modules: Names of those among them that hold a formula and are never trained.
        load_arguments: Keyword arguments for `from_pretrained` on the bare checkpoint to get this model's shape.
        notes: Sentences to say aloud.
        processor_details: What of the processor belongs to a run's results, such as the hash of a chat template.
        mask_positions: Positions of the attention mask that make one unit of an encoded row's `length`, such as the
            samples of a frame.
        no_adapter: Why no adapter can be trained, and what to do; None where one can.
        answers_untuned: Whether it answers before it is tuned: the task needs no weights that the checkpoint lacks.
    """

    model: PreTrainedModel
    pooling: str | None = None
    head_modules: tuple[str, ...] = ()
    constant_modules: tuple[str, ...] = ()
    load_arguments: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    processor_details: Mapping[str, Any] = field(default_factory=dict)
    mask_positions: int = 1
    no_adapter: str | None = None
    answers_untuned: bool = False
