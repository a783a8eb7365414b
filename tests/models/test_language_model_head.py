"""The output layer at learnt positions: the same loss and gradients as transformers', without its memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import DECODERS
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from startup_llm.config import LoraConfig
from startup_llm.models import language_model_head
from startup_llm.models.adapters import add_lora
from startup_llm.models.language_model_head import find_plain_head, learn_at_targets
from startup_llm.tasks.text_generation.continuation import compute_nats

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}


def build(model_type: str, **settings):
    torch.manual_seed(0)
    known = {**DECODERS.get(model_type, {**SMALL, "head_dim": 8, "intermediate_size": 64}), **settings}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, vocab_size=300, **known)).eval()


def draw_batch():
    torch.manual_seed(1)
    ids = torch.randint(0, 300, (3, 20))
    labels = ids.masked_fill(torch.arange(20) < torch.tensor([[12], [5], [18]]), -100)
    return {"input_ids": ids, "labels": labels}


def read_gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("items", [None, 40])
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("model_type", ["llama", "gpt2", "qwen3"])
def test_loss_and_gradients_are_those_of_transformers(model_type, lora, items, monkeypatch):
    monkeypatch.setattr(language_model_head, "LOGITS_AT_ONCE", {"cpu": 7 * 300})  # several pieces
    model = build(model_type)
    if lora:
        model = add_lora(model, LoraConfig(rank=2), task_type="CAUSAL_LM", base_name="")
    batch = {**draw_batch(), **({} if items is None else {"num_items_in_batch": items})}
    expected = model(**batch).loss
    expected.backward()
    gradients = read_gradients(model)
    model.zero_grad()
    with learn_at_targets(model) as learns:
        assert learns
        output = model(**batch)
        assert output.logits.shape == (3, 0, 300)
        output.loss.backward()
        inner = model.get_base_model() if lora else model
        assert inner(input_ids=batch["input_ids"]).logits.shape == (3, 20, 300)
        assert model(input_ids=batch["input_ids"]).logits.shape == (3, 20, 300)
    torch.testing.assert_close(output.loss, expected)
    found = read_gradients(model)
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)
    assert model(**batch).logits.shape == (3, 20, 300)
    torch.testing.assert_close(model(**batch).loss, expected)


def test_a_model_that_changes_its_logits_behind_the_layer_keeps_its_own_loss():
    bounded = build("gemma2", final_logit_softcapping=30.0, query_pre_attn_scalar=8)
    assert find_plain_head(bounded) is None
    with learn_at_targets(bounded) as learns:
        assert not learns
    adapted = build("llama")
    adapted.lm_head = nn.Sequential(adapted.lm_head)
    assert find_plain_head(adapted) is None


def test_nats_are_those_of_all_logits_at_once(monkeypatch):
    monkeypatch.setattr(language_model_head, "LOGITS_AT_ONCE", {"cpu": 7 * 300})
    model, batch = build("llama").eval(), {"input_ids": draw_batch()["input_ids"]}
    with torch.inference_mode():
        found = compute_nats(model, batch)
        log_p = model(**batch).logits[:, :-1].log_softmax(-1)
    expected = -log_p.gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
    torch.testing.assert_close(torch.tensor(np.stack(found)), expected)


def test_no_tensor_of_all_logits_is_made(monkeypatch):
    monkeypatch.setattr(language_model_head, "LOGITS_AT_ONCE", {"cpu": 7 * 300})
    model, batch, largest = build("llama"), draw_batch(), []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            result = function(*arguments, **(keywords or {}))
            if (
                isinstance(result, torch.Tensor) and result.shape[-1:] == (300,) and result.shape != (32, 300)
            ):  # the layer's own
                largest.append(result.numel())
            return result

    with learn_at_targets(model), Sizes():
        model(**batch).loss.backward()
        with torch.inference_mode():
            compute_nats(model, {"input_ids": batch["input_ids"]})
    assert max(largest) <= 7 * 300
