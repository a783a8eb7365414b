from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from startup_llm.errors import UserError
from startup_llm.models.scratch.checks import check_choice, check_heads, check_probability

KERNELS = ("eager", "sdpa")


def compute_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    causal: bool = False,
    dropout: float = 0.0,
    kernel: str = "eager",
) -> Tensor:
    """Scaled dot-product attention, softmax(Q Kᵀ / √d_k) V (Vaswani et al. 2017, equation 1).

    A query that may attend to nothing gets zeros, with either kernel.

    Args:
        query: Shape (batch, heads, queries, d_k).
        key: Shape (batch, heads, keys, d_k).
        value: Shape (batch, heads, keys, d_v).
        mask: True where a query may attend to a key; bool, broadcastable to (batch, heads, queries, keys).
        causal: Attend to no later position. The queries are the last of the keys' positions, so with cached keys
            query i stands at position keys - queries + i.
        dropout: Probability of dropping an attention weight.
        kernel: eager spells the formula out; sdpa calls `torch.nn.functional.scaled_dot_product_attention`.

    Returns:
        Shape (batch, heads, queries, d_v).

    Raises:
        UserError: if the kernel is unknown.
    """
    check_choice("kernel", kernel, KERNELS)
    queries, keys = query.shape[-2], key.shape[-2]
    fused_causal = kernel == "sdpa" and causal and mask is None and queries == keys
    if causal and queries > 1 and not fused_causal:
        # Row i is True up to and including the query's own position, keys - queries + i.
        past = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril(keys - queries)
        mask = past if mask is None else mask & past  # (batch or 1, 1, queries, keys)
    if kernel == "sdpa":
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=fused_causal
        )
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])  # Q Kᵀ / √d_k: (batch, heads, queries, keys)
    if mask is not None:
        # The smallest finite number, not -inf: a row of -inf would turn into NaN.
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = torch.softmax(scores, dim=-1)  # rows sum to 1: (batch, heads, queries, keys)
    if mask is not None:
        weights = weights.masked_fill(~mask, 0.0)
    return F.dropout(weights, dropout) @ value  # (batch, heads, queries, d_v)


class KeyValueCache:
    """Keys and values of the tokens seen so far: a new token then costs one row of attention, not all of them."""

    def __init__(self) -> None:
        self.key: Tensor | None = None
        self.value: Tensor | None = None

    @property
    def length(self) -> int:
        """Number of tokens kept."""
        return 0 if self.key is None else self.key.shape[-2]

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Add the new tokens' keys and values, each (batch, heads, new, d_k), and return all of them."""
        if self.key is None or self.value is None:
            self.key, self.value = key, value
        else:
            self.key = torch.cat([self.key, key], dim=-2)  # (batch, heads, seen + new, d_k)
            self.value = torch.cat([self.value, value], dim=-2)
        return self.key, self.value

    def reorder(self, rows: Tensor) -> None:
        """Keep the given batch rows in the given order (beam search); rows: shape (batch,), int64."""
        if self.key is not None and self.value is not None:
            self.key, self.value = self.key[rows], self.value[rows]


class MultiHeadAttention(nn.Module):
    """Multi-head attention, Concat(head_1, ..., head_h) W_O (Vaswani et al. 2017, section 3.2.2).

    The three projections are one matrix, W_Q over W_K over W_V, as in GPT-2's c_attn and
    `torch.nn.MultiheadAttention`: one large product is faster than three small ones.

    Args:
        width: Width of the token vectors, d_model.
        heads: Number of heads; d_k = width / heads.
        dropout: Probability of dropping an attention weight.
        kernel: eager or sdpa, see `compute_attention`.

    Raises:
        UserError: if width is not divisible by heads, or the kernel is unknown.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0, kernel: str = "eager") -> None:
        super().__init__()
        check_heads(width, heads)
        check_probability(dropout=dropout)
        check_choice("kernel", kernel, KERNELS)
        self.width, self.heads, self.dropout, self.kernel = width, heads, dropout, kernel
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        causal: bool = False,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """Let every token of `x` attend to `x` (self-attention), or at `context` (cross-attention).

        Args:
            x: Shape (batch, seq, width).
            context: Shape (batch, context, width); the encoder's output in a decoder's cross-attention.
            mask: True or 1 where a token may be attended to, shape (batch, keys) or broadcastable to
                (batch, heads, seq, keys).
            causal: Forbid attention to later positions (self-attention only).
            cache: Filled here. Self-attention adds the new tokens; cross-attention projects the context once.

        Returns:
            Shape (batch, seq, width).

        Raises:
            UserError: if causal is asked of cross-attention.
        """
        if causal and context is not None:
            raise UserError("causal (True) needs self-attention, but a context was given; leave one of them out")
        if context is None:
            query, key, value = map(self._split, self.qkv(x).chunk(3, dim=-1))  # each (batch, heads, seq, d_k)
            if cache is not None:
                key, value = cache.append(key, value)  # (batch, heads, seen + seq, d_k)
        else:
            query = self._split(F.linear(x, self.qkv.weight[: self.width], self.qkv.bias[: self.width]))
            if cache is not None and cache.key is not None and cache.value is not None:
                key, value = cache.key, cache.value
            else:
                pair = F.linear(context, self.qkv.weight[self.width :], self.qkv.bias[self.width :])
                key, value = map(self._split, pair.chunk(2, dim=-1))  # each (batch, heads, context, d_k)
                if cache is not None:
                    cache.append(key, value)
        if mask is not None:
            mask = mask.bool()
            mask = mask[:, None, None, :] if mask.dim() == 2 else mask  # (batch, 1, 1, keys)
        dropout = self.dropout if self.training else 0.0
        heads = compute_attention(query, key, value, mask, causal, dropout, self.kernel)  # (batch, heads, seq, d_k)
        return self.out(heads.transpose(1, 2).flatten(2))  # Concat(heads) W_O: (batch, seq, width)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (batch, heads, seq, d_k)
