import math

import pytest
import torch

from startup_llm.errors import UserError
from startup_llm.models.scratch.attention import KeyValueCache, MultiHeadAttention, compute_attention
from startup_llm.models.scratch.transformer import Block


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_attention_of_one_query_by_hand():
    query = torch.tensor([[[[1.0, 0.0]]]])
    key = torch.tensor([[[[math.sqrt(2) * math.log(3), 5.0], [0.0, -7.0]]]])
    value = torch.tensor([[[[4.0, 0.0], [0.0, 8.0]]]])
    # scores = (√2 log 3, 0) / √2 = (log 3, 0); softmax = (3/4, 1/4)
    torch.testing.assert_close(compute_attention(query, key, value), torch.tensor([[[[3.0, 2.0]]]]))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("queries", [5, 2])
@pytest.mark.parametrize("masked", [False, True])
def test_both_kernels_agree(causal, queries, masked):
    query, key, value = torch.randn(2, 3, queries, 4), torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 4)
    # The second row of the batch may look at nothing where it is masked.
    mask = torch.tensor([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0]]).bool()[:, None, None] if masked else None
    eager, sdpa = (compute_attention(query, key, value, mask, causal, kernel=kernel) for kernel in ("eager", "sdpa"))
    torch.testing.assert_close(eager, sdpa)


def test_a_query_with_nothing_to_look_at_gives_zeros_and_finite_gradients():
    query = torch.randn(1, 1, 2, 4, requires_grad=True)
    mask = torch.zeros(1, 1, 2, 2, dtype=torch.bool)
    output = compute_attention(query, query, query, mask)
    output.sum().backward()
    assert output.abs().max() == 0
    assert query.grad.isfinite().all()


def test_agrees_with_the_multihead_attention_of_torch():
    ours, theirs = MultiHeadAttention(8, 2), torch.nn.MultiheadAttention(8, 2, batch_first=True)
    theirs.in_proj_weight.data, theirs.in_proj_bias.data = ours.qkv.weight.data, ours.qkv.bias.data
    theirs.out_proj.load_state_dict(ours.out.state_dict())
    x, context = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()
    expected, _ = theirs(x, context, context, key_padding_mask=~mask)
    torch.testing.assert_close(ours(x, context, mask), expected)
    torch.testing.assert_close(ours(x), theirs(x, x, x)[0])


def test_a_cache_gives_the_same_as_all_tokens_at_once():
    attention, cache = MultiHeadAttention(8, 2), KeyValueCache()
    x = torch.randn(2, 5, 8)
    pieces = [attention(piece, causal=True, cache=cache) for piece in x.split([2, 1, 2], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), attention(x, causal=True))
    assert cache.length == 5


def test_cross_attention_projects_its_context_once():
    attention, cache = MultiHeadAttention(8, 2), KeyValueCache()
    x, context = torch.randn(1, 2, 8), torch.randn(1, 3, 8)
    first = attention(x, context, cache=cache)
    torch.testing.assert_close(attention(x, torch.full_like(context, math.nan), cache=cache), first)


def test_finite_differences_confirm_the_gradient_of_attention():
    attention = MultiHeadAttention(4, 2).double()
    x, context = (torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    mask = torch.tensor([[1, 1, 1], [1, 0, 1]])
    assert torch.autograd.gradcheck(lambda x: attention(x, mask=mask, causal=True), (x,))
    assert torch.autograd.gradcheck(lambda x, context: attention(x, context, mask), (x, context))


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("activation", ["gelu", "gelu_new"])
def test_finite_differences_confirm_the_gradient_of_a_block(norm, activation):
    block = Block(4, 2, 6, activation, norm, 1e-5, cross_attention=True).double()
    x, context = (torch.randn(1, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda x, context: block(x, causal=True, context=context), (x, context))


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_a_block_has_residual_normalization_and_feed_forward(norm):
    block = Block(4, 2, 6, "relu", norm, 1e-5)
    x = torch.randn(1, 3, 4)
    if norm == "pre":
        y = x + block.attention(block.attention_norm(x))
        expected = y + block.feed_forward(block.feed_forward_norm(y))
    else:
        y = block.attention_norm(x + block.attention(x))
        expected = block.feed_forward_norm(y + block.feed_forward(y))
    torch.testing.assert_close(block(x), expected)


def test_causal_cross_attention_is_refused():
    with pytest.raises(UserError, match=r"causal \(True\) needs self-attention"):
        MultiHeadAttention(4, 2)(torch.randn(1, 2, 4), torch.randn(1, 2, 4), causal=True)
