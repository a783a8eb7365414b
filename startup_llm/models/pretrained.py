"""How a pretrained checkpoint is loaded into its architecture's own class, whatever the task."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from startup_llm.errors import UserError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from startup_llm.models.checkpoints import Checkpoint


def load_config(checkpoint: Checkpoint, trust_remote_code: bool) -> Any:
    """Load a checkpoint's config.

    Raises:
        UserError: If transformers does not know its architecture.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(checkpoint.path, trust_remote_code=trust_remote_code)
    except ValueError as error:
        raise UserError(f"checkpoint {checkpoint.name}: {str(error).strip().splitlines()[0]}") from None


def load_config_for(
    auto_class: Any, checkpoint: Checkpoint, trust_remote_code: bool, *, lacks: str, choose: str
) -> Any:
    """Load the config of a checkpoint that an Auto class can load.

    Args:
        auto_class: One of transformers' Auto classes.
        checkpoint: Where its files are.
        trust_remote_code: Whether to run the checkpoint's own Python code, which may bring any class.
        lacks: What an architecture does that it has no class for, such as "has no image classifier".
        choose: What to take instead, such as "a ViT checkpoint".

    Raises:
        UserError: If it cannot.
    """
    import transformers

    config = load_config(checkpoint, trust_remote_code)
    if type(config) not in auto_class._model_mapping and not trust_remote_code:
        raise UserError(
            f"checkpoint {checkpoint.name} is of type {config.model_type}, which {lacks} in transformers "
            f"{transformers.__version__}; choose {choose}"
        )
    return config


def load_model(
    auto_class: Any, checkpoint: Checkpoint, attention_kernel: str | None, trust_remote_code: bool, **arguments: Any
) -> tuple[Any, dict[str, Any]]:
    """Load a checkpoint in float32; where the architecture lacks the attention kernel, with its own choice.

    Args:
        auto_class: One of transformers' Auto classes.
        checkpoint: Where its files are.
        attention_kernel: eager, sdpa, flash_attention_2; None for what transformers picks.
        trust_remote_code: Whether to run the checkpoint's own Python code.
        **arguments: Further ones of `from_pretrained`.

    Returns:
        The model, and what transformers tells of the loading, such as its missing_keys.
    """
    arguments |= {"dtype": "float32", "trust_remote_code": trust_remote_code, "output_loading_info": True}
    with _QuietLoading():
        try:
            return auto_class.from_pretrained(checkpoint.path, attn_implementation=attention_kernel, **arguments)
        except (ValueError, ImportError):  # the latter where a kernel's package is missing
            return auto_class.from_pretrained(checkpoint.path, **arguments)


def name_labels(label_names: Sequence[str]) -> dict[str, Any]:
    """Return id2label and label2id of a model's config."""
    return {
        "id2label": dict(enumerate(label_names)),
        "label2id": {name: number for number, name in enumerate(label_names)},
    }


def set_dropout(model: nn.Module, probability: float) -> None:
    """Set every dropout of a model; the config, and so the published checkpoint, keeps its own."""
    for module in model.modules():
        for name in list_dropouts(module):
            setattr(module, name, probability)


def list_dropouts(module: nn.Module) -> list[str]:
    """Name the attributes in which a module itself, without those inside it, keeps a dropout's probability."""
    from torch import nn

    if isinstance(module, nn.Dropout):
        return ["p"]
    numbers = ("dropout", "attention_dropout", "activation_dropout")  # of BART, Llama and their kin
    return [name for name in numbers if isinstance(getattr(module, name, None), float)]


def find_head_modules(
    model: PreTrainedModel, missing: Iterable[str] = (), constants: Sequence[str] = ()
) -> tuple[str, ...]:
    """Name the modules outside the pretrained weights: the head, and what pooling put into the base model.

    Args:
        model: With its head.
        missing: Full names of the parameters that the checkpoint does not hold.
        constants: Modules whose weights are constant.
    """
    outside = [name for name, module in model.named_children() if name != model.base_model_prefix]
    heads = [name for name in outside if any(True for _ in model.get_submodule(name).parameters())]
    prefix = model.base_model_prefix + "."
    inside = [name for name in constants if name.startswith(prefix)]
    inside += [f"{prefix}pooler"] if any(key.startswith(f"{prefix}pooler.") for key in missing) else []
    names = [name.removesuffix(".dense") if name.endswith("pooler.dense") else name for name in inside]
    return tuple(dict.fromkeys([*heads, *names]))


class _QuietLoading:
    """Keep transformers from reporting the head as missing: it is made here on purpose."""

    def __enter__(self) -> None:
        from transformers.utils import logging

        self.verbosity, self.shows_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()

    def __exit__(self, *exception: object) -> None:
        from transformers.utils import logging

        logging.set_verbosity(self.verbosity)
        if self.shows_bars:
            logging.enable_progress_bar()
