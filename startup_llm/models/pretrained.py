"""How a pretrained checkpoint is loaded into its architecture's own class, whatever the task."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from startup_llm.errors import UserError
from startup_llm.models.memory import check_memory

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


@dataclass(frozen=True)
class LoadedWeights:
    """What of a model came from its checkpoint.

    Attributes:
        new: Full names of the parameters that were drawn at random: the checkpoint lacks them, or has another shape.
        reshaped: Whether the checkpoint has some of them in another shape.
        notes: Sentences on a head that is replaced, and on weights that are not used.
    """

    new: frozenset[str] = frozenset()
    reshaped: bool = False
    notes: tuple[str, ...] = ()


def load_model(
    auto_class: Any,
    checkpoint: Checkpoint,
    attention_kernel: str | None,
    trust_remote_code: bool,
    *,
    find_new: Callable[[Any], Iterable[str]] | None = None,
    remedy: str = "choose a whole one, or copy it again",
    **arguments: Any,
) -> tuple[Any, LoadedWeights]:
    """Load a checkpoint in float32; where the architecture lacks the attention kernel, with its own choice.

    Args:
        auto_class: One of transformers' Auto classes.
        checkpoint: Where its files are.
        attention_kernel: eager, sdpa, flash_attention_2, causal_blocks; None for what transformers picks.
        trust_remote_code: Whether to run the checkpoint's own Python code.
        find_new: Names the modules of the model whose weights the checkpoint may lack or have in another shape, such
            as `find_new_modules`; None where it must hold every weight.
        remedy: What to do where it lacks others.
        **arguments: Further ones of `from_pretrained`.

    Raises:
        UserError: If the checkpoint does not fit: it lacks weights, has them in another shape, has blocks that its
            config does not, holds numbers that are not finite, or does not fit into memory.
        ImportError: If a package is missing that the architecture needs.
    """
    arguments |= {
        "dtype": "float32",
        "trust_remote_code": trust_remote_code,
        "output_loading_info": True,
        "use_safetensors": True,
        "ignore_mismatched_sizes": True,  # they are told apart below
    }
    with explain_failure(checkpoint.name):
        config = _build_config(checkpoint, trust_remote_code, arguments)
        check_memory(checkpoint.name, auto_class, config, trust_remote_code=trust_remote_code)
        if attention_kernel == "causal_blocks":
            from startup_llm.models import causal_attention  # which registers it

            attention_kernel = attention_kernel if config.model_type in causal_attention.ARCHITECTURES else None
        try:
            model, loading = auto_class.from_pretrained(
                checkpoint.path, attn_implementation=attention_kernel, **arguments
            )
        except (ValueError, ImportError):  # the latter where a kernel's package is missing
            model, loading = auto_class.from_pretrained(checkpoint.path, **arguments)
    return model, check_loading(checkpoint.name, model, loading, find_new, remedy)


def _build_config(checkpoint: Checkpoint, trust_remote_code: bool, arguments: Mapping[str, Any]) -> Any:
    """Return the config of which `from_pretrained` will build the model."""
    from transformers import AutoConfig

    if "config" in arguments:
        return arguments["config"]
    settings = {name: value for name, value in arguments.items() if name not in ("dtype", "trust_remote_code")}
    return AutoConfig.from_pretrained(
        checkpoint.path, trust_remote_code=trust_remote_code, return_unused_kwargs=True, **settings
    )[0]


@contextlib.contextmanager
def explain_failure(name: str) -> Iterator[None]:
    """Refuse in one line what transformers cannot build of a checkpoint's config, or cannot read of its weights.

    Args:
        name: Of the checkpoint.

    Raises:
        UserError: In the place of what transformers raises.
    """
    try:
        with _QuietLoading():
            yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            raise UserError(f"checkpoint {name} does not fit into memory; choose a smaller one") from None
        raise UserError(f"checkpoint {name}: {_first_line(error)}") from None
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError) as error:
        raise UserError(f"checkpoint {name}: {_first_line(error)}; see its config.json") from None


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def check_loading(
    name: str,
    model: Any,
    loading: Mapping[str, Any],
    find_new: Callable[[Any], Iterable[str]] | None,
    remedy: str,
) -> LoadedWeights:
    """Refuse a model whose weights are not its checkpoint's.

    Args:
        name: Of the checkpoint.
        model: As it was loaded.
        loading: What transformers tells of the loading (`output_loading_info`), sizes that do not fit ignored.
        find_new: See `load_model`.
        remedy: What to do where weights are missing.

    Raises:
        UserError: If weights other than those of new modules are missing or of another shape, blocks are left over,
            or numbers are not finite.
    """
    modules = tuple(find_new(model)) if find_new else ()
    reshaped = {key: (held, built) for key, held, built in loading.get("mismatched_keys", ())}
    missing = set(loading.get("missing_keys", ())) - reshaped.keys()
    lost = sorted(key for key in missing if not _is_in(key, modules) and not key.endswith(_UNREAD))
    if lost:
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise UserError(f"checkpoint {name} has no weights {lost[0]}{more}, which {_name(model)} needs; {remedy}")
    if wrong := sorted(key for key in reshaped if not _is_in(key, modules)):
        held, built = (" x ".join(map(str, shape)) for shape in reshaped[wrong[0]])
        raise UserError(
            f"checkpoint {name}: its weights {wrong[0]} are {held}, and its config.json asks for {built}; "
            "the two are not of one model: copy the checkpoint again"
        )
    _refuse_further_blocks(name, model, loading.get("unexpected_keys", ()))
    check_finite(name, model)
    notes = []
    if reshaped:
        heads = sorted({key.rpartition(".")[0] for key in reshaped})
        held, built = (max(shapes[place][0] for shapes in reshaped.values() if shapes[place]) for place in (0, 1))
        outputs = f" ({held} outputs before, {built} now)" if held != built else ""
        notes.append(f"the head of {name} does not fit, so it is new{outputs}: {_shorten(heads)}")
    if unused := sorted({_name_module(key) for key in loading.get("unexpected_keys", ())}):
        notes.append(f"weights of {name} that are not used: {_shorten(unused)}")
    return LoadedWeights(frozenset(missing | reshaped.keys()), bool(reshaped), tuple(notes))


def check_finite(name: str, model: nn.Module) -> None:
    """Refuse weights that are NaN or infinite.

    Args:
        name: Of the checkpoint.
        model: A model in memory.

    Raises:
        UserError: If there are any.
    """
    import torch

    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.numel():
            smallest, largest = torch.aminmax(tensor)
            if not (torch.isfinite(smallest) and torch.isfinite(largest)):
                count = int((~torch.isfinite(tensor)).sum())
                raise UserError(
                    f"checkpoint {name}: {count:,} of {tensor.numel():,} weights in {key} are NaN or infinite; copy "
                    "it again, or train it anew with a lower train.learning_rate"
                )


def _refuse_further_blocks(name: str, model: nn.Module, unexpected: Iterable[str]) -> None:
    """Refuse weights of blocks beyond those that the config asks for: the model would compute something else."""
    from torch import nn

    stacks = {stack: len(blocks) for stack, blocks in model.named_modules() if isinstance(blocks, nn.ModuleList)}
    prefix = getattr(model, "base_model_prefix", "") + "."
    for key in sorted(unexpected):
        for stack, count in stacks.items():
            plain = stack.removeprefix(prefix)
            number = key.removeprefix(prefix).removeprefix(f"{plain}.").partition(".")[0]
            if key.removeprefix(prefix).startswith(f"{plain}.") and number.isdecimal() and int(number) >= count:
                raise UserError(
                    f"checkpoint {name} has weights {key}, and its config.json asks for {count} blocks in {stack}; "
                    "the two are not of one model: copy the checkpoint again"
                )


_UNREAD = ("num_batches_tracked", "masked_spec_embed")
"""Endings of weights that a model's outputs do not depend on: a counter, and what masks frames in training."""


def _is_in(key: str, modules: Iterable[str]) -> bool:
    """Say whether a parameter is of one of the modules, or is one that the model itself holds beside them."""
    return any(key.startswith(f"{module}.") or key == module for module in modules)


def _name(model: nn.Module) -> str:
    return type(model).__name__


def _name_module(key: str) -> str:
    """Return the first two parts of a parameter's module."""
    return ".".join(key.split(".")[:-1][:2]) or key


def _shorten(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def find_new_modules(model: PreTrainedModel) -> list[str]:
    """Name the modules that a checkpoint may lack: all outside the base model, and the pooler inside it.

    The base model is the module that transformers calls so, or where there is none the largest.
    """
    children = dict(model.named_children())
    body = model.base_model_prefix
    if body not in children:
        body = max(children, key=lambda name: sum(weight.numel() for weight in children[name].parameters()))
    own = [name for name, _ in model.named_parameters(recurse=False)]
    return [*(name for name in children if name != body), *own, f"{body}.pooler"]


def renew_outputs(
    name: str, model: PreTrainedModel, config: Any, label_names: Sequence[str], loaded: LoadedWeights
) -> tuple[str, ...]:
    """Draw the output layer of a classifier anew whose checkpoint knows as many labels, but others.

    Args:
        name: Of the checkpoint.
        model: With the checkpoint's weights.
        config: The checkpoint's own, with its labels.
        label_names: Names of the classes; empty for regression.
        loaded: What came from the checkpoint.

    Returns:
        A sentence that says so; empty where the layer stays.
    """
    import torch
    from torch import nn

    known = [config.id2label.get(number) for number in range(len(config.id2label))]
    unnamed = [f"LABEL_{number}" for number in range(len(known))]
    if len(known) != len(label_names) or known in (list(label_names), unnamed):
        return ()
    modules = [module for module in find_new_modules(model) if "." not in module]
    renewed = [
        (key, layer)
        for key, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and layer.out_features == len(known) and _is_in(key, modules)
    ]
    renewed = [(key, layer) for key, layer in renewed if f"{key}.weight" not in loaded.new]
    with torch.no_grad():
        for _, layer in renewed:
            layer.weight.normal_(std=getattr(config, "initializer_range", None) or 0.02)
            if layer.bias is not None:
                layer.bias.zero_()
    names = ", ".join(key for key, _ in renewed)
    return (f"the head of {name} knows other labels, {_shorten(known)}, so it is new: {names}",) if renewed else ()


def load_labelled_model(
    auto_class: Any,
    checkpoint: Checkpoint,
    config: Any,
    label_names: Sequence[str],
    attention_kernel: str | None,
    trust_remote_code: bool,
    **arguments: Any,
) -> tuple[Any, LoadedWeights, dict[str, Any]]:
    """Load a checkpoint with an output layer for these labels, drawn anew where the checkpoint has none or others.

    Args:
        auto_class: One of transformers' Auto classes.
        checkpoint: Where its files are.
        config: The checkpoint's own, with its labels.
        label_names: Names of the classes.
        attention_kernel: See `load_model`.
        trust_remote_code: Whether to run the checkpoint's own Python code.
        **arguments: Further ones of `from_pretrained`.

    Returns:
        The model, what came from the checkpoint, and the arguments that load the saved model again.

    Raises:
        UserError: See `load_model`.
    """
    load_arguments: dict[str, Any] = {"num_labels": len(label_names), "ignore_mismatched_sizes": True}
    model, loaded = load_model(
        auto_class,
        checkpoint,
        attention_kernel,
        trust_remote_code,
        find_new=find_new_modules,
        **load_arguments,
        **name_labels(label_names),
        **arguments,
    )
    renewed = renew_outputs(checkpoint.name, model, config, label_names, loaded)
    return model, replace(loaded, notes=(*loaded.notes, *renewed)), load_arguments


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
