"""The output layer of a causal language model, computed for the tokens that are learnt, and never for all at once.

The logits of a batch are as many numbers as its tokens times the vocabulary, and most of what is computed for a chat
model goes into them: for prompts nothing is learnt of them. Here the hidden states of the learnt positions alone are
taken, some at a time, and their logits are used and dropped. With p the softmax of a position's logits z = W h + b and
y its target,

    loss  =  -log p[y],    d loss / dz  =  p - onehot(y),    dh  =  W' dz,    dW  =  dz h',    db  =  dz

so that the gradients can be computed with the loss, before the logits are dropped (as Liger's fused linear cross
entropy does, Hsu et al. 2024, https://arxiv.org/abs/2410.10989).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

LOGITS_AT_ONCE = {"cpu": 2**24}
"""Device -> numbers that are held at once, 64 MiB in float32; on others `MOST_LOGITS`, as a GPU wants more rows."""
MOST_LOGITS = 2**27


ScoreLogits = Callable[[Tensor, Tensor, torch.dtype], tuple[Tensor, Tensor]]


def _score_logits(logits: Tensor, wanted: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the sum of -log p[y], and d loss / dz in a type, shape (rows, vocabulary).

    Args:
        logits: Shape (rows, vocabulary).
        wanted: Target ids, shape (rows, 1).
        kind: The type.
    """
    log_p = torch.log_softmax(logits, -1, dtype=torch.float32)
    log_target = log_p.gather(-1, wanted)
    dz = log_p.exp_().to(kind)
    return -log_target.sum(), dz.scatter_(-1, wanted, (log_target.exp() - 1).to(kind))


@functools.cache
def _compile_score() -> ScoreLogits:
    return torch.compile(_score_logits)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, score: ScoreLogits
    ) -> Tensor:
        needs = ctx.needs_input_grad
        d_hidden = torch.empty_like(hidden) if needs[0] else None
        d_weight = torch.zeros_like(weight, dtype=torch.float32) if needs[1] else None
        d_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and needs[2] else None
        total = hidden.new_zeros((), dtype=torch.float32)
        step, exact = _count_rows(weight), d_weight is not None or d_bias is not None
        for start in range(0, len(hidden), step):
            h, wanted = hidden[start : start + step], targets[start : start + step, None]
            logits = nn.functional.linear(h, weight, bias)  # (rows, vocabulary)
            if not any(needs[:3]):
                total -= torch.log_softmax(logits, -1, dtype=torch.float32).gather(-1, wanted).sum()
                continue
            nats, dz = score(logits, wanted, torch.float32 if exact else weight.dtype)
            total += nats
            if d_hidden is not None:
                d_hidden[start : start + step] = dz.to(weight.dtype) @ weight
            if d_weight is not None:
                d_weight.addmm_(dz.T, h.float())
            if d_bias is not None:
                d_bias += dz.sum(0)
        ctx.save_for_backward(d_hidden, d_weight, d_bias)
        ctx.types = (weight.dtype, None if bias is None else bias.dtype)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        d_hidden, d_weight, d_bias = ctx.saved_tensors
        g, (weight_type, bias_type) = gradients[0], ctx.types
        return (
            None if d_hidden is None else (d_hidden * g).to(d_hidden.dtype),
            None if d_weight is None else (d_weight * g).to(weight_type),
            None if d_bias is None else (d_bias * g).to(bias_type),
            None,
            None,
        )


def compute_cross_entropy(hidden: Tensor, head: nn.Linear, targets: Tensor, *, compiled: bool = False) -> Tensor:
    """Return the sum of -log P of the targets.

    Args:
        hidden: What the output layer reads, shape (tokens, width).
        head: The output layer.
        targets: Token ids, shape (tokens,).
        compiled: Let torch.compile make one pass over the logits of the several.
    """
    score = _compile_score() if compiled else _score_logits
    return _LinearCrossEntropy.apply(hidden, head.weight, head.bias, targets, score)


def compute_nats(hidden: Tensor, head: nn.Linear, targets: Tensor) -> Tensor:
    """Return -log P of each target, float32, shape (tokens,); no gradient is kept.

    Args:
        hidden: What the output layer reads, shape (tokens, width).
        head: The output layer.
        targets: Token ids, shape (tokens,).
    """
    nats, step = [], _count_rows(head.weight)
    with torch.no_grad():
        for start in range(0, len(hidden), step):
            logits = nn.functional.linear(hidden[start : start + step], head.weight, head.bias)
            log_p = torch.log_softmax(logits, -1, dtype=torch.float32)
            nats.append(-log_p.gather(-1, targets[start : start + step, None])[:, 0])
    return torch.cat(nats) if nats else hidden.new_zeros(0, dtype=torch.float32)


def _count_rows(weight: Tensor) -> int:
    return max(1, LOGITS_AT_ONCE.get(weight.device.type, MOST_LOGITS) // weight.shape[0])


def find_plain_head(model: Any) -> nn.Linear | None:
    """Return the output layer whose outputs are the model's logits as they stand; None for any other model.

    Whether they are is seen from other numbers in their place: some architectures scale or bound them behind the
    layer.

    Args:
        model: A language model, perhaps with an adapter that leaves the output layer alone.
    """
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if type(head) is not nn.Linear or model.config.is_encoder_decoder:
        return None
    shown: list[Tensor] = []

    def replace(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        shown.append(torch.linspace(-100, 100, output.numel(), device=output.device).view_as(output).to(output.dtype))
        return shown[-1]

    modes, handle = [(module, module.training) for module in model.modules()], head.register_forward_hook(replace)
    model.eval()
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            logits = model(input_ids=torch.tensor([[0, 1]], device=head.weight.device))["logits"]
    finally:
        handle.remove()
        for module, was_training in modes:
            module.training = was_training
    return head if len(shown) == 1 and torch.equal(logits.float(), shown[0].float()) else None


def compute_states(model: Any, head: nn.Linear, batch: dict[str, Tensor]) -> Tensor:
    """Return what the output layer reads, shape (rows, tokens, width), without computing any logits."""
    seen: list[Tensor] = []

    def take(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        seen.append(inputs[0])
        return (inputs[0][:, :0], *inputs[1:])

    handle = head.register_forward_pre_hook(take)
    try:
        model(**batch)
    finally:
        handle.remove()
    return seen[0]


@contextlib.contextmanager
def learn_at_targets(model: Any, *, compiled: bool = False) -> Iterator[bool]:
    """Within, a causal language model that is given labels computes its loss as above, and no logits.

    The loss is the same: the mean over the targets, or their sum by `num_items_in_batch`. A model whose loss is
    another one, or whose logits are not the output layer's alone, stays as it is.

    Args:
        model: As it is called, perhaps with an adapter.
        compiled: Compute it through torch.compile.

    Yields:
        Whether it does.
    """
    from transformers.loss.loss_utils import ForCausalLMLoss

    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    if getattr(inner, "loss_function", None) is not ForCausalLMLoss or (head := find_plain_head(model)) is None:
        yield False
        return
    seen: dict[str, Any] = {}

    def take_labels(module: nn.Module, inputs: Any, arguments: dict[str, Any]) -> None:
        seen["has_labels"] = arguments.get("labels") is not None

    def take_states(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if not seen.pop("has_labels", False):  # an adapter's `generate` calls the model inside
            return None
        seen["states"] = inputs[0]
        return (inputs[0][:, :0], *inputs[1:])

    def compute_loss(
        logits: Tensor,
        labels: Tensor,
        vocab_size: int,
        num_items_in_batch: Any = None,
        ignore_index: int = -100,
        shift_labels: Tensor | None = None,
        **arguments: Any,
    ) -> Tensor:
        states = seen.pop("states")
        if shift_labels is None:
            shift_labels = nn.functional.pad(labels, (0, 1), value=ignore_index)[..., 1:]
        wanted = shift_labels.to(states.device) != ignore_index
        total = compute_cross_entropy(states[wanted], head, shift_labels[wanted], compiled=compiled)
        return total / (wanted.sum() if num_items_in_batch is None else num_items_in_batch)

    handles = [
        model.register_forward_pre_hook(take_labels, with_kwargs=True),
        head.register_forward_pre_hook(take_states),
    ]
    inner.loss_function = compute_loss
    try:
        yield True
    finally:
        del inner._loss_function
        for handle in handles:
            handle.remove()
