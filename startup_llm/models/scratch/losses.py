from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def keep_digits(values: Tensor) -> Tensor:
    """Return half-precision values as float32: a loss in them would lose the last digits of what is minimized."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def compute_classification_loss(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean negative log-likelihood of the labels.

    Args:
        logits: Shape (batch, classes).
        labels: Class numbers, shape (batch,), int64, -100 for "no label" (cross-entropy); or 0/1 per class, shape
            (batch, classes), float (several labels at once: binary cross-entropy); or, where classes is 1, the target
            numbers, shape (batch,) or (batch, 1), float (regression: squared error).
        label_smoothing: ε of the cross-entropy, 0 to 1: the target is (1 - ε) on the label and ε spread over all
            classes (Szegedy et al. 2016, section 7).

    Returns:
        A scalar; 0 where no row has a label.
    """
    logits = keep_digits(logits)
    if labels.is_floating_point():
        if logits.shape[-1] == 1:
            return F.mse_loss(logits.flatten(), labels.to(logits.dtype).flatten())  # mean (z - y)²
        # -y log σ(z) - (1 - y) log(1 - σ(z))
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
    # -Σ [(1 - ε) log softmax(z)_y + ε mean log softmax(z)]
    total = F.cross_entropy(logits, labels, ignore_index=-100, reduction="sum", label_smoothing=label_smoothing)
    return total / (labels != -100).sum().clamp(min=1)


def compute_token_loss(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean of -log softmax(z)_y over the tokens that have a label.

    Args:
        logits: Shape (batch, seq, vocab).
        labels: Token ids, shape (batch, seq), int64; -100 for padding, which does not count.
        label_smoothing: See `compute_classification_loss`.

    Returns:
        A scalar; 0 where no token has a label.
    """
    return compute_classification_loss(logits.flatten(0, 1), labels.flatten(), label_smoothing)


def build_output(logits: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
    """Return a classifier's answer: logits and, where labels are given, loss, as `transformers.Trainer` wants it."""
    if labels is None:
        return {"logits": logits}
    return {"loss": compute_classification_loss(logits, labels), "logits": logits}
