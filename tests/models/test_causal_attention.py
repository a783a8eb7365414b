import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from startup_llm.models import causal_attention
from startup_llm.models.causal_attention import ARCHITECTURES, NAME, compute_causal_attention

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}


def build_pair(model_type, **settings):
    """Return a model with eager attention and one with the same weights and this kernel."""
    models = [
        AutoModelForCausalLM.from_config(
            AutoConfig.for_model(model_type, **SIZES, **settings), attn_implementation=kernel
        )
        for kernel in ("eager", NAME)
    ]
    models[1].load_state_dict(models[0].state_dict())
    return models


def draw_batch(lengths, padded="right"):
    torch.manual_seed(1)
    longest = max(lengths)
    ids, mask = torch.randint(2, 50, (len(lengths), longest)), torch.zeros(len(lengths), longest, dtype=torch.long)
    for row, length in enumerate(lengths):
        mask[row, slice(length) if padded == "right" else slice(longest - length, None)] = 1
    return {"input_ids": ids.masked_fill(mask == 0, 0), "attention_mask": mask}


@pytest.fixture
def counted(monkeypatch):
    """The shapes of queries that the kernel itself computes, not torch's in its place."""
    shapes = []

    def compute(query, *others):
        shapes.append(tuple(query.shape))
        return compute_causal_attention(query, *others)

    monkeypatch.setattr(causal_attention, "compute_causal_attention", compute)
    return shapes


@pytest.mark.parametrize("length", [1, 63, 64, 65, 150])
@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (6, 2), (3, 1)])
def test_the_kernel_and_its_gradients_are_those_of_torch(length, heads, key_heads):
    torch.manual_seed(0)
    sizes = [(2, heads, length, 5), (2, key_heads, length, 5), (2, key_heads, length, 7)]
    inputs = [torch.randn(size, dtype=torch.float64, requires_grad=True) for size in sizes]
    query, key, value = inputs
    repeated = [x.repeat_interleave(heads // key_heads, dim=1) for x in (key, value)]
    expected = torch.nn.functional.scaled_dot_product_attention(query, *repeated, is_causal=True, scale=0.3)
    out = compute_causal_attention(query, key, value, 0.3)
    gradient = torch.randn_like(expected)
    assert torch.allclose(out, expected, atol=1e-12)
    for ours, theirs in zip(
        torch.autograd.grad(out, inputs, gradient), torch.autograd.grad(expected, inputs, gradient), strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-6)  # sums over blocks are kept in float32


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_a_model_computes_and_learns_as_with_eager_attention(model_type, counted):
    batch = draw_batch([100, 7, 70])
    real = batch["attention_mask"].bool()
    labels = batch["input_ids"].masked_fill(~real, -100)
    seen = []
    for model in build_pair(model_type):
        out = model(**batch, labels=labels)
        out.loss.backward()
        seen.append((out.logits[real], {name: p.grad for name, p in model.named_parameters()}))
    (eager, gradients), (ours, own_gradients) = seen
    assert torch.allclose(ours, eager, atol=1e-5)
    for name, gradient in gradients.items():
        assert torch.allclose(own_gradients[name], gradient, atol=1e-5), name
    assert counted == [(3, 4, 100, 8)] * 2


@pytest.mark.parametrize(
    ("change", "own"),
    [
        ({"model_type": "llama"}, True),
        ({"model_type": "mistral", "sliding_window": 8}, False),
        ({"model_type": "llama", "is_causal": False}, False),
    ],
)
def test_other_masks_than_the_causal_one_are_kept(change, own, counted):
    model, ours = build_pair(**change)
    batch = draw_batch([40, 30])
    real = batch["attention_mask"].bool()
    with torch.no_grad():
        assert torch.allclose(ours(**batch).logits[real], model(**batch).logits[real], atol=1e-5)
    assert bool(counted) is own


def test_packed_rows_do_not_attend_to_each_other(counted):
    model, ours = build_pair("llama")
    ids = draw_batch([30])["input_ids"]
    positions = torch.cat([torch.arange(12), torch.arange(18)])[None]
    with torch.no_grad():
        logits = [each(input_ids=ids, position_ids=positions, use_cache=False).logits for each in (model, ours)]
        alone = model(input_ids=ids[:, 12:]).logits
    assert torch.allclose(logits[1], logits[0], atol=1e-5)
    assert torch.allclose(logits[1][:, 12:], alone, atol=1e-5)
    assert counted == []


def test_what_is_written_behind_prompts_of_several_lengths_is_the_same():
    batch = draw_batch([20, 9], padded="left")
    how = {"max_new_tokens": 12, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    written = [model.eval().generate(**batch, **how) for model in build_pair("llama")]
    assert torch.equal(written[1].sequences, written[0].sequences)
    assert torch.allclose(torch.stack(written[1].logits), torch.stack(written[0].logits), atol=1e-5)


def test_in_bfloat16_it_is_as_near_to_float32_as_eager_attention():
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 4, 200, 16) for _ in range(3))
    exact = compute_causal_attention(query, key, value, 0.25)
    short = [x.bfloat16() for x in (query, key, value)]
    scores = (short[0] @ short[1].transpose(2, 3)) * 0.25 + torch.full((200, 200), -torch.inf).triu(1).bfloat16()
    eager = scores.softmax(-1, dtype=torch.float32).bfloat16() @ short[2]
    ours = compute_causal_attention(*short, 0.25)
    assert ours.dtype == torch.bfloat16
    assert (ours - exact).norm() < 1.2 * (eager - exact).norm()


def test_within_autocast_it_takes_and_gives_the_short_type():
    query, key, value = (torch.randn(1, 2, 70, 8, requires_grad=True) for _ in range(3))
    with torch.autocast("cpu", torch.bfloat16):
        out = compute_causal_attention(query, key.bfloat16(), value, 0.3)
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    assert query.grad.dtype == key.grad.dtype == torch.float32
    assert torch.allclose(out.float(), compute_causal_attention(query, key, value, 0.3), atol=0.05)


def test_dropout_of_attention_is_not_left_out():
    model = build_pair("llama", attention_dropout=0.5)[1].train()
    batch = draw_batch([30])
    with torch.no_grad():
        assert not torch.equal(model(**batch).logits, model(**batch).logits)
