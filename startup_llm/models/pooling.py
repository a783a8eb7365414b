"""One vector per text, in a form that the published architecture computes by itself.

`BertForSequenceClassification` classifies tanh(W h_CLS): it reads the first token alone. A sentence encoder is trained
for the mean over its tokens, and a classifier on that mean starts far better. So that the result still loads in plain
`transformers`, without code of ours, the mean is written as one more encoder layer with constant weights:

    attention with zero queries and keys  ->  uniform weights over the real tokens, so each position holds mean(h)
    value = identity, output = c identity ->  LayerNorm(c mean(h) + h_CLS), c = 100: the mean, centred, at norm sqrt(d)
    feed-forward = 0                      ->  LayerNorm of that, which is that
    pooler = identity / sqrt(d)           ->  tanh(x / sqrt(d)): norm close to 1, and close to linear

Training runs the same formula in closed form at the first position (`MeanPooling`), which costs next to nothing; the
saved weights are the full layer's, and both give the same numbers.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

MEAN_SCALE = 100.0
"""The weight c of the mean against the first token's own residual."""

POOLED_FAMILIES = {
    "bert": "bert.pooler.dense",
    "roberta": "classifier.dense",
    "xlm-roberta": "classifier.dense",
    "camembert": "classifier.dense",
}
"""Model types with this post-norm layer -> the square dense layer before their head's tanh."""


class MeanPooling:
    """Mixin for an encoder layer that holds the pooling constants: their result without the matrix products.

    Gives the first position only, which is all that the head reads.
    """

    attention: nn.Module

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, *args: object, **kwargs: object
    ) -> Tensor:
        """Return LayerNorm(c mean(h) + h_CLS).

        Args:
            hidden_states: Shape (batch, seq, width).
            attention_mask: None, (batch, seq), or (batch, 1, query, seq): bool, or float with 0 at real tokens.
            *args: Ignored, as the layer is no decoder.
            **kwargs: Likewise.

        Returns:
            Shape (batch, 1, width).
        """
        first = hidden_states[:, :1]  # (batch, 1, width)
        if attention_mask is None:
            mean = hidden_states.mean(dim=1, keepdim=True)
        else:
            real = _real_tokens(attention_mask).to(hidden_states.dtype)  # (batch, seq)
            weights = real / real.sum(dim=1, keepdim=True)
            mean = torch.bmm(weights.unsqueeze(1), hidden_states)  # (batch, 1, width)
        return self.attention.output.LayerNorm(MEAN_SCALE * mean + first)


def _real_tokens(attention_mask: Tensor) -> Tensor:
    """Return True at real tokens, shape (batch, seq), whichever form the attention kernel's mask has."""
    if attention_mask.dim() == 4:
        attention_mask = attention_mask[:, 0, 0]
    elif attention_mask.dim() == 2:
        return attention_mask > 0
    return attention_mask if attention_mask.dtype == torch.bool else attention_mask == 0


def restore_mean_pooling(model: nn.Module) -> bool:
    """Let the pooling layer of a saved model compute the short way again, which loading does not know.

    Args:
        model: A classifier of transformers.

    Returns:
        Whether its last encoder layer holds the constants.
    """
    encoder = getattr(getattr(model, str(getattr(model, "base_model_prefix", "")), None), "encoder", None)
    layers: Any = getattr(encoder, "layer", ())
    if getattr(model.config, "model_type", None) not in POOLED_FAMILIES or not len(layers):
        return False
    layer = copy.deepcopy(layers[-1])
    write_mean_pooling(layer)
    held = dict(layers[-1].named_parameters())
    if not all(torch.equal(parameter, held[name]) for name, parameter in layer.named_parameters()):
        return False
    layers[-1].__class__ = layer.__class__
    return True


@torch.no_grad()
def write_mean_pooling(layer: nn.Module) -> None:
    """Give a BERT-style encoder layer the constants of mean pooling, and the short way to compute them.

    Args:
        layer: A `BertLayer` or a layer of the same build; its class becomes a subclass of itself, so that its
            parameters keep their names.
    """
    attention, width = layer.attention, layer.attention.output.dense.out_features
    for parameter in layer.parameters():
        parameter.zero_()
    nn.init.eye_(attention.self.value.weight)
    attention.output.dense.weight.copy_(MEAN_SCALE * torch.eye(width))
    attention.output.LayerNorm.weight.fill_(1.0)
    layer.output.LayerNorm.weight.fill_(1.0)
    layer.__class__ = type("MeanPoolingLayer", (MeanPooling, type(layer)), {})


@torch.no_grad()
def write_identity(dense: nn.Linear) -> None:
    """Make the dense layer before a tanh the identity over sqrt(width): a pooled vector of norm close to 1."""
    dense.weight.copy_(torch.eye(dense.out_features) / dense.out_features**0.5)
    dense.bias.zero_()
