"""A pretrained checkpoint with a classification head, in its architecture's own class."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from startup_llm.errors import UserError
from startup_llm.models.checkpoints import read_json
from startup_llm.models.pretrained import (
    find_head_modules,
    find_new_modules,
    load_config_for,
    load_model,
    name_labels,
    renew_outputs,
    set_dropout,
)
from startup_llm.models.task_model import TaskModel

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from startup_llm.models.checkpoints import Checkpoint
    from startup_llm.models.pretrained import LoadedWeights


def build_sequence_classifier(
    checkpoint: Checkpoint,
    tokenizer: PreTrainedTokenizerBase,
    *,
    label_names: tuple[str, ...],
    problem_type: str,
    pooling: str = "auto",
    dropout: float = 0.0,
    attention_kernel: str | None = None,
    trust_remote_code: bool = False,
) -> TaskModel:
    """Load a checkpoint and put a classification head on it.

    Args:
        checkpoint: Where its files are.
        tokenizer: Its tokenizer; decides the pad token.
        label_names: Names of the classes; empty for regression.
        problem_type: As `PretrainedConfig.problem_type`.
        pooling: auto follows the checkpoint: what its sentence-transformers files say; else the head that it was
            pretrained with; else the mean.
        dropout: Dropout inside the checkpoint.
        attention_kernel: eager, sdpa, flash_attention_2; default what transformers picks.
        trust_remote_code: Whether to run the checkpoint's own Python code.

    Raises:
        UserError: If the architecture has no classifier, or cannot express the pooling asked for.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from startup_llm.models.pooling import POOLED_FAMILIES, write_identity

    config = load_config_for(
        AutoModelForSequenceClassification,
        checkpoint,
        trust_remote_code,
        lacks="has no sequence classifier",
        choose="a BERT- or GPT-style checkpoint",
    )
    arguments: dict[str, Any] = {"num_labels": max(len(label_names), 1)}
    pooling, notes = _resolve_pooling(checkpoint, config, pooling)
    if pooling == "mean" and config.model_type in POOLED_FAMILIES:
        arguments["num_hidden_layers"] = config.num_hidden_layers + 1
    elif hasattr(config, "classifier_pooling") and pooling in ("mean", "cls"):
        arguments["classifier_pooling"] = pooling
    added = f"encoder.layer.{config.num_hidden_layers}" if "num_hidden_layers" in arguments else None
    model, loaded = load_model(
        AutoModelForSequenceClassification,
        checkpoint,
        attention_kernel,
        trust_remote_code,
        find_new=lambda model: [*find_new_modules(model), *([f"{model.base_model_prefix}.{added}"] if added else [])],
        config=AutoConfig.from_pretrained(
            checkpoint.path,
            problem_type=problem_type,
            pad_token_id=tokenizer.pad_token_id,
            trust_remote_code=trust_remote_code,
            **arguments,
            **(name_labels(label_names) if label_names else {}),
        ),
    )
    renewed = renew_outputs(checkpoint.name, model, config, label_names, loaded)
    constants: list[str] = []
    if config.model_type in POOLED_FAMILIES and pooling in ("mean", "cls"):
        dense = POOLED_FAMILIES[config.model_type]
        write_identity(model.get_submodule(dense))
        constants.append(dense)
        if added:
            constants.append(_pool_by_layer(checkpoint, model, f"{model.base_model_prefix}.{added}", config, loaded))
    set_dropout(model, dropout)
    return TaskModel(
        model=model,
        pooling=pooling,
        head_modules=find_head_modules(model, loaded.new, constants),
        constant_modules=tuple(constants),
        load_arguments={**arguments, **({"ignore_mismatched_sizes": True} if loaded.reshaped else {})},
        notes=(*notes, *loaded.notes, *renewed),
    )


def _pool_by_layer(
    checkpoint: Checkpoint, model: PreTrainedModel, layer: str, config: Any, loaded: LoadedWeights
) -> str:
    """Write mean pooling into the layer that was added behind the checkpoint's blocks, and return its name.

    Raises:
        UserError: If the checkpoint has weights for that layer: it has more blocks than its config says.
    """
    from startup_llm.models.pooling import write_mean_pooling

    if not all(f"{layer}.{name}" in loaded.new for name, _ in model.get_submodule(layer).named_parameters()):
        raise UserError(
            f"checkpoint {checkpoint.name} has weights {layer}, and its config.json asks for "
            f"{config.num_hidden_layers} blocks; the two are not of one model: copy the checkpoint again"
        )
    write_mean_pooling(model.get_submodule(layer))
    return layer


def find_output_layer(model: nn.Module) -> nn.Linear:
    """Return the linear layer that gives the logits.

    Raises:
        UserError: If the architecture's head ends in no linear layer.
    """
    from torch import nn

    inside, labels = model.base_model_prefix + ".", model.config.num_labels
    outputs = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == labels and not name.startswith(inside)
    ]
    if not outputs:
        raise UserError(
            f"{type(model).__name__} has no linear output layer; use --method full with another checkpoint"
        )
    return outputs[-1]


@contextmanager
def capture_features(model: nn.Module) -> Iterator[list[Tensor]]:
    """Within, the list holds what the output layer reads in each forward, shape (batch, width) or (batch, seq, width).

    Raises:
        UserError: If the architecture's head ends in no linear layer.
    """
    seen: list[Tensor] = []
    handle = find_output_layer(model).register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        handle.remove()


def pool_features(seen: list[Tensor], batch: dict[str, Any], pad_token_id: int) -> Tensor:
    """Return one vector a row of what `capture_features` holds of a batch, shape (rows, width), float32."""
    import torch

    features = torch.cat(seen)  # several where the task computes rows one by one
    if features.dim() == 3:
        features = gather_last_token(features, batch["input_ids"], pad_token_id)
    return features.float()


def gather_last_token(features: Tensor, input_ids: Tensor, pad_token_id: int) -> Tensor:
    """Return the features at each text's last real token, as transformers' decoder classifiers read them.

    Args:
        features: Shape (batch, seq, width).
        input_ids: Shape (batch, seq).
        pad_token_id: Id of the pad token.

    Returns:
        Shape (batch, width).
    """
    import torch

    positions = torch.arange(input_ids.shape[1], device=input_ids.device)
    last = (positions * (input_ids != pad_token_id)).argmax(dim=1)
    return features[torch.arange(len(features), device=features.device), last]


def _resolve_pooling(checkpoint: Checkpoint, config: Any, asked: str) -> tuple[str, list[str]]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as DECODERS
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as ENCODERS

    from startup_llm.models.pooling import POOLED_FAMILIES

    can_pool = config.model_type in POOLED_FAMILIES or hasattr(config, "classifier_pooling")
    decoder = config.model_type in DECODERS and config.model_type not in ENCODERS
    possible = ["last"] if decoder else ["mean", "cls", "native"] if can_pool else ["native"]
    trained = read_sentence_pooling(checkpoint.path)
    if asked != "auto":
        if asked not in possible:
            raise UserError(
                f"pooling {asked} is not possible with {config.model_type} checkpoints, whose classifier in "
                f"transformers reads otherwise; choose one of: auto, {', '.join(possible)}"
            )
        return asked, []
    if trained is not None and trained in possible:
        return trained, []
    notes = [
        f"{checkpoint.name} was trained with {trained} pooling, which {config.model_type} classifiers cannot express; "
        f"its own head is used"
    ] * (trained is not None)
    if decoder:
        return "last", notes
    if config.model_type in POOLED_FAMILIES and not _holds_head(checkpoint.path, POOLED_FAMILIES[config.model_type]):
        return "mean", notes
    return "native", notes


def read_sentence_pooling(path: Path) -> str | None:
    """Return the pooling that a sentence-transformers checkpoint names in its files, or None."""
    modules: Any = read_json(path / "modules.json")
    for module in modules if isinstance(modules, list) else []:
        if module["type"].endswith("Pooling"):
            pooling = read_json(path / module["path"] / "config.json")
            if mode := pooling.get("pooling_mode"):
                return mode if isinstance(mode, str) else None
            names = {"mean_tokens": "mean", "cls_token": "cls", "lasttoken": "last"}
            return next((names[k] for k in names if pooling.get(f"pooling_mode_{k}")), None)
    return None


def _holds_head(path: Path, dense: str) -> bool:
    """Return whether the weights hold the dense layer of the head (a plain BERT's pooler), by any prefix."""
    from safetensors import safe_open

    ending = dense.split(".", 1)[1] if dense.startswith("bert.") else dense
    for file in path.glob("*.safetensors"):
        with safe_open(file, framework="pt") as weights:
            if any(key.endswith(f"{ending}.weight") for key in weights.keys()):  # noqa: SIM118
                return True
    return False
