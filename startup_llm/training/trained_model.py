"""A model that was trained before, loaded to be measured."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from startup_llm.config import DEFAULT_TASK, EvaluateConfig, ModelConfig, TextModelConfig
from startup_llm.errors import UserError
from startup_llm.models.checkpoints import NoCheckpoint, load_checkpoint
from startup_llm.models.pretrained import check_finite, explain_failure
from startup_llm.plain_data import read_json_object
from startup_llm.run_folder import RESULTS, find_model, read_results
from startup_llm.tasks import load_task
from startup_llm.tasks.options import load_options

if TYPE_CHECKING:
    from startup_llm.models.checkpoints import Checkpoint
    from startup_llm.tasks.base import Task

ADAPTER_WEIGHTS = "adapter_model.safetensors"


def load_trained_model(name: str, config: EvaluateConfig, tag: str | None) -> tuple[Task, Any, Any]:
    """Load a run's merged model, a checkpoint, or an adapter merged into its base.

    Args:
        name: A run, a folder or a Hub id.
        config: Its task where neither `tag` nor a run says it, its Hub revision, and an adapter's base.
        tag: The task's Hub pipeline tag; None for what the run says.

    Returns:
        The task, the model and its processor.

    Raises:
        UserError: If it cannot be loaded, or lacks weights that the task needs.
    """
    folder, results, checkpoint = Path(name).expanduser(), {}, None
    settings = ModelConfig(checkpoint=name, revision=config.revision)
    if not folder.is_dir():
        try:
            checkpoint = load_checkpoint(settings)
        except NoCheckpoint as error:
            folder = error.path
            if not (folder / "adapter_config.json").is_file():
                raise
    is_adapter = (folder / "adapter_config.json").is_file()
    if is_adapter:
        home = next((place for place in (folder, folder.parent) if (place / RESULTS).is_file()), None)
        results = read_results(home) if home else {}
    elif checkpoint is None:
        folder, results = find_model(folder)
        settings = dataclasses.replace(settings, checkpoint=str(folder))
    task = load_task(tag or results.get("task", config.task or DEFAULT_TASK))
    if is_adapter:
        return task, *_load_adapter(folder, results, task, config)
    checkpoint = checkpoint or load_checkpoint(settings)
    return task, task.saved_model.load_whole(str(checkpoint.path), name), load_trained_processor(task, checkpoint)


def load_trained_processor(task: Task, checkpoint: Checkpoint) -> Any:
    """Load what turns rows into the numbers of a model that was trained before, cut to its own length.

    Args:
        task: The model's task.
        checkpoint: The model's folder.
    """
    if task.saved_model.has_own_format(str(checkpoint.path)):
        return task.saved_model.load_processor(str(checkpoint.path))
    kind = load_options(task.tag).model
    model = kind(max_length_tokens=sys.maxsize) if issubclass(kind, TextModelConfig) else kind()
    return task.load_processor(checkpoint, model)


def _load_adapter(folder: Path, results: dict[str, Any], task: Task, config: EvaluateConfig) -> tuple[Any, Any]:
    from peft import PeftModel

    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise UserError(f"the adapter {folder} has no {ADAPTER_WEIGHTS}; only safetensors are loaded: copy it again")
    named = read_json_object(folder / "adapter_config.json").get("base_model_name_or_path")
    if not isinstance(named, str) and config.checkpoint is None:
        raise UserError(f"the adapter {folder} does not say its base; name it with --checkpoint")
    base = load_checkpoint(ModelConfig(checkpoint=config.checkpoint or named, revision=config.revision))
    labels = results.get("labels") or []
    if task.peft_task_type in ("SEQ_CLS", "TOKEN_CLS") and not results:
        raise UserError(f"the adapter {folder} does not say its labels; measure its run's folder, or merge it first")
    names = {"id2label": dict(enumerate(labels)), "label2id": {n: i for i, n in enumerate(labels)}} if labels else {}
    arguments = results.get("load", {}).get("adapter_model_kwargs", {})
    trained_on = (results.get("checkpoint") or {}).get("sha256")
    if trained_on and trained_on != base.weights_sha256:
        raise UserError(
            f"the adapter {folder} was trained on other weights than those of {base.name}: SHA-256 "
            f"{trained_on[:12]}..., found {base.weights_sha256[:12]}...; name its own base with --checkpoint"
        )
    processor = task.saved_model.load_processor(str(folder))
    with explain_failure(str(folder)):
        plain = task.saved_model.load(str(base.path), **{**arguments, **names})
        if hasattr(processor, "pad_token_id"):
            plain.config.pad_token_id = processor.pad_token_id
        adapted = PeftModel.from_pretrained(plain, str(folder))
    _check_adapter(folder, adapted)
    return adapted.merge_and_unload(), processor


def _check_adapter(folder: Path, adapted: Any) -> None:
    """Refuse an adapter whose weights are not all there, or not finite: PEFT would draw what is missing at random."""
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    with safe_open(folder / ADAPTER_WEIGHTS, framework="pt") as weights:
        held = set(weights.keys())
    needed = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    if lost := sorted(needed.keys() - held):
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise UserError(f"the adapter {folder} has no weights {lost[0]}{more}; copy it again")
    check_finite(str(folder), adapted)
