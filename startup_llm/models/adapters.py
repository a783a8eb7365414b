"""LoRA through PEFT: which layers, what is saved with the adapter, what is trained."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from startup_llm.errors import UserError, nearest
from startup_llm.plain_data import read_json_object

if TYPE_CHECKING:
    import peft
    from peft import PeftModel
    from torch import nn
    from transformers import PreTrainedModel

    from startup_llm.config import LoraConfig


def find_block_stacks(model: nn.Module) -> list[str]:
    """Return the full names of the `ModuleList`s that hold a model's blocks: `encoder.layer`, `h`, `layers`.

    They are those that hold the most parameters; one inside of another is left out.
    """
    from torch import nn

    sizes = {
        name: sum(p.numel() for p in module.parameters())
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
    }
    largest = [name for name, size in sizes.items() if size >= max(sizes.values()) / 4]
    return [name for name in largest if not any(name.startswith(f"{other}.") for other in largest)]


def find_blocks(model: nn.Module) -> list[nn.Module]:
    """Return a model's blocks, stack after stack."""
    return [block for name in find_block_stacks(model) for block in model.get_submodule(name)]


def find_block_layers(model: nn.Module, exclude: Sequence[str] = ()) -> list[str]:
    """Return the full names of the linear layers in a model's blocks; where there are none, of the convolutions.

    Args:
        model: Any model of the library; GPT-2's `Conv1D` counts as linear, and convolutions in groups are left alone.
        exclude: Names of modules to leave alone.
    """
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    stacks = find_block_stacks(model)
    inside = {
        name: module
        for name, module in model.named_modules()
        if any(name.startswith(f"{stack}.") for stack in stacks)
        and not any(name == skipped or name.startswith(f"{skipped}.") for skipped in exclude)
    }
    linears = [name for name, module in inside.items() if isinstance(module, (nn.Linear, Conv1D))]
    return linears or [name for name, module in inside.items() if isinstance(module, nn.Conv2d) and module.groups == 1]


def add_lora(
    model: PreTrainedModel,
    lora: LoraConfig,
    *,
    task_type: str,
    base_name: str,
    head_modules: Sequence[str] = (),
    constant_modules: Sequence[str] = (),
) -> PeftModel:
    """Wrap a model with a LoRA adapter that also trains and saves the head.

    Batch norms outside the head keep their statistics: an adapter's file has no place for new ones.

    Args:
        model: The pretrained model with its head.
        lora: Rank, scale, dropout, target layers.
        task_type: PEFT task type, such as SEQ_CLS.
        base_name: Folder or Hub id of the checkpoint, for the adapter's config.
        head_modules: Names of the modules to save with the adapter.
        constant_modules: Names of those that are saved but not trained.

    Raises:
        UserError: As `plan_lora` does.
    """
    import peft

    from startup_llm.models.fixed_batch_norm import fix_batch_norms

    config = plan_lora(model, lora, task_type=task_type, head_modules=head_modules, constant_modules=constant_modules)
    fix_batch_norms(model, exclude=head_modules)
    adapted = peft.get_peft_model(model, config)
    adapted.peft_config["default"].base_model_name_or_path = base_name
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad and any(f"{constant}." in _plain_name(name) for constant in constant_modules):
            parameter.requires_grad_(False)
    return adapted


def plan_lora(
    model: PreTrainedModel,
    lora: LoraConfig,
    *,
    task_type: str,
    head_modules: Sequence[str] = (),
    constant_modules: Sequence[str] = (),
) -> peft.LoraConfig:
    """Describe the adapter, and keep the weights that it stands beside in four bits where that is asked for.

    Args:
        model: The pretrained model with its head.
        lora: Rank, scale, dropout, target layers.
        task_type: PEFT task type, such as SEQ_CLS.
        head_modules: Names of the modules to save with the adapter.
        constant_modules: Names of modules to leave alone.

    Raises:
        UserError: If a target layer is not in the model, or it cannot be quantized here.
    """
    import peft
    from transformers.pytorch_utils import Conv1D

    layers = choose_layers(model, lora, constant_modules)
    fan_in_fan_out = isinstance(model.get_submodule(layers[0]), Conv1D)
    if lora.quantize:
        quantize_linears(model, layers)
    return peft.LoraConfig(
        task_type=task_type,
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=layers,
        modules_to_save=list(head_modules),
        fan_in_fan_out=fan_in_fan_out,
    )


def choose_layers(model: nn.Module, lora: LoraConfig, constant_modules: Sequence[str] = ()) -> list[str]:
    """Return the full names of the layers that get an adapter.

    Args:
        model: The pretrained model.
        lora: Target layers, and in how many of the uppermost blocks.
        constant_modules: Names of modules to leave alone.

    Raises:
        UserError: If a target layer is not in the model, or none can have an adapter.
    """
    layers = find_block_layers(model, exclude=constant_modules)
    if not layers:
        raise UserError(
            f"{type(model).__name__} has no linear layers and no convolutions in its blocks; use --method full"
        )
    if lora.upper_layers is not None:
        layers = _keep_upper(model, layers, lora.upper_layers)
    endings = Counter(name.rsplit(".", 1)[-1] for name in layers)
    for target in lora.target_modules or ():
        if not any(name == target or name.endswith(f".{target}") for name in layers):
            raise UserError(
                f"lora.target_modules: no layer {target} in {type(model).__name__}"
                f"{nearest(target, endings)}; it has {', '.join(endings)}"
            )
    return [
        name
        for name in layers
        if not lora.target_modules or any(name == t or name.endswith(f".{t}") for t in lora.target_modules)
    ]


def _keep_upper(model: nn.Module, layers: Sequence[str], count: int) -> list[str]:
    """Return the names of the layers in the uppermost of the blocks that hold any; one that is constant holds none."""
    stacks = find_block_stacks(model)
    if len(stacks) != 1:
        raise UserError(
            f"lora.upper_layers {count}: {type(model).__name__} has {len(stacks)} stacks of blocks, and none of them "
            "is the upper one; leave it out, or name layers with lora.target_modules"
        )
    place_of = {name: int(name.removeprefix(f"{stacks[0]}.").partition(".")[0]) for name in layers}
    places = sorted(set(place_of.values()))
    if not 1 <= count <= len(places):
        raise UserError(
            f"lora.upper_layers {count}: expected 1 to {len(places)}, the blocks of {type(model).__name__}"
        )
    return [name for name in layers if place_of[name] in places[-count:]]


def quantize_linears(model: nn.Module, names: Sequence[str]) -> None:
    """Keep the weights of linear layers in four bits: NF4, its scales quantized again (Dettmers et al. 2023, QLoRA).

    Everything else stays in float32, as QLoRA's own preparation leaves it. What is saved is the adapter, which is
    merged into the checkpoint's own weights.

    Args:
        model: The model, on its device; its layers are replaced.
        names: Full names of the layers.

    Raises:
        UserError: Without a CUDA device or bitsandbytes, or for layers that are not `nn.Linear`.
    """
    import torch
    from torch import nn

    if not torch.cuda.is_available():
        raise UserError("lora.quantize 4bit needs an NVIDIA GPU, and this machine has none; leave it out")
    try:
        import bitsandbytes
    except ImportError:
        raise UserError("lora.quantize 4bit needs bitsandbytes; pip install 'startup-llm[gpu]'") from None
    for name in names:
        layer = model.get_submodule(name)
        if not isinstance(layer, nn.Linear):
            raise UserError(f"lora.quantize 4bit: {name} is a {type(layer).__name__}, not a Linear; leave it out")
        quantized = bitsandbytes.nn.Linear4bit(
            layer.in_features,
            layer.out_features,
            bias=layer.bias is not None,
            compute_dtype=torch.bfloat16,
            compress_statistics=True,
            quant_type="nf4",
            device="meta",
        )
        weight = layer.weight.data.cpu()  # it is quantized on its way to the GPU
        quantized.weight = bitsandbytes.nn.Params4bit(
            weight, requires_grad=False, quant_type="nf4", compress_statistics=True, module=quantized
        )
        quantized.bias = layer.bias
        model.set_submodule(name, quantized.to(layer.weight.device))
    model.is_loaded_in_4bit = True  # by which PEFT chooses its 4-bit LoRA layer


ADAPTER_CONFIG = "adapter_config.json"
_CHECKED_BY_SHAPE = ("num_labels", "vocab_size", "pad_token_id", "ignore_mismatched_sizes")
"""Arguments of `from_pretrained` without which PEFT refuses the adapter's head, whose shape does not fit then."""


_AUTO_CLASSES = {
    "CAUSAL_LM": "AutoPeftModelForCausalLM",
    "FEATURE_EXTRACTION": "AutoPeftModelForFeatureExtraction",
    "QUESTION_ANS": "AutoPeftModelForQuestionAnswering",
    "SEQ_2_SEQ_LM": "AutoPeftModelForSeq2SeqLM",
    "SEQ_CLS": "AutoPeftModelForSequenceClassification",
    "TOKEN_CLS": "AutoPeftModelForTokenClassification",
}


def settle_bare_base(adapter: Path, base: Path, load_arguments: Mapping[str, Any]) -> None:
    """Let PEFT's own Auto classes load a saved adapter right, or refuse it: they know nothing of `load_arguments`.

    They put the adapter on the bare checkpoint. Where a BERT's mean pooling is one more layer behind its last one,
    `layer_replication` makes the place for it, whose weights are the adapter's. Where something else is missing that
    PEFT would pass over, the adapter has no task type, without which an Auto class does not load it.

    Args:
        adapter: Folder of the saved adapter; its adapter_config.json is changed.
        base: Folder of the checkpoint.
        load_arguments: What `from_pretrained` on the checkpoint needs to get the model's shape.
    """
    described = read_json_object(base / "config.json")
    silent = {
        name: value
        for name, value in load_arguments.items()
        if name not in _CHECKED_BY_SHAPE and described.get(name) != value
    }
    if not silent:
        return
    content = read_json_object(adapter / ADAPTER_CONFIG)
    layers = described.get("num_hidden_layers")
    if silent == {"num_hidden_layers": layers and layers + 1} and described.get("model_type") == "bert":
        content["layer_replication"] = [[0, layers], [layers - 1, layers]]
    else:
        content["task_type"] = content["auto_mapping"] = None
    (adapter / ADAPTER_CONFIG).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def load_on_bare_base(adapter: Path, base: Path, load_arguments: Mapping[str, Any], folder: Path) -> Any:
    """Load an adapter by PEFT's Auto class of its task, as anyone does who has the adapter alone.

    Args:
        adapter: Folder of the saved adapter.
        base: Folder of the checkpoint, which stands for the name that the adapter has for it.
        load_arguments: Of them those that PEFT asks for by refusing the adapter.
        folder: An empty folder to work in.

    Returns:
        The model in float32; None where PEFT refuses the adapter.
    """
    import peft

    content = read_json_object(adapter / ADAPTER_CONFIG)
    auto_class = getattr(peft, _AUTO_CLASSES.get(content.get("task_type"), "AutoPeftModel"))
    for file in adapter.iterdir():
        if file.name != ADAPTER_CONFIG:
            (folder / file.name).symlink_to(file.absolute())
    content |= {"base_model_name_or_path": str(base), "revision": None}
    (folder / ADAPTER_CONFIG).write_text(json.dumps(content), encoding="utf-8")
    arguments = {name: value for name, value in load_arguments.items() if name in _CHECKED_BY_SHAPE}
    try:
        return auto_class.from_pretrained(str(folder), dtype="float32", **arguments)
    except Exception:  # whatever the reason, nobody gets a wrong model
        return None


def _plain_name(name: str) -> str:
    """Return a parameter's name as it was before PEFT wrapped its modules."""
    return name.replace("modules_to_save.default.", "").removeprefix("base_model.model.")
