"""The fused layer is PEFT's own LoRA: the same outputs, the same gradients, fewer tensors kept."""

from __future__ import annotations

import peft
import pytest
import torch
from torch import nn
from torch._dynamo.backends.common import aot_autograd

from startup_llm.training.fused_lora import fuse_lora

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def build(dtype: torch.dtype, *, fused: bool, **options: object) -> nn.Module:
    """Build two adapted layers whose adapters are not zero, the frozen weights in `dtype`."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(24, 40), nn.Tanh(), nn.Linear(40, 12, bias=False))
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["0", "2"], **options)
    model = peft.get_peft_model(body, config)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.3)
        else:
            parameter.data = parameter.data.to(dtype)
        assert "lora" in name or parameter.dtype == dtype
    assert not fused or fuse_lora(model) == 2
    return model


def compute(model: nn.Module, dtype: torch.dtype) -> tuple[torch.Tensor, list[torch.Tensor], int]:
    x = torch.randn(30, 50, 24, generator=torch.Generator().manual_seed(1), requires_grad=True)
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor  # held, so that no other tensor gets its place
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16),
    ):
        y = model(x)
    y.float().square().mean().backward()
    gradients = [x.grad, *(p.grad for p in model.parameters() if p.requires_grad)]
    return y, gradients, sum(tensor.nbytes for tensor in kept.values())


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_outputs_and_gradients_are_those_of_peft(dtype):
    (y, gradients, kept), (expected, expected_gradients, kept_by_peft) = (
        compute(build(dtype, fused=fused), dtype) for fused in (True, False)
    )
    assert y.dtype == expected.dtype
    assert y.shape == (30, 50, 12)
    assert len(gradients) == 5
    for found, wanted in zip([y, *gradients], [expected, *expected_gradients], strict=True):
        assert found.dtype == wanted.dtype
        scale = wanted.detach().abs().max()
        torch.testing.assert_close(found / scale, wanted / scale, atol=TOLERANCE[dtype], rtol=0)
    assert kept < kept_by_peft


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_compiled_layers_are_the_same_and_share_what_is_compiled(dtype):
    y, gradients, _ = compute(build(dtype, fused=True), dtype)
    model, graphs = build(dtype, fused=True), []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph

    for layer in ("0", "2"):
        model.get_base_model().get_submodule(layer).compile(backend=aot_autograd(fw_compiler=keep), fullgraph=True)
    compiled, compiled_gradients, _ = compute(model, dtype)
    for found, wanted in zip([compiled, *compiled_gradients], [y, *gradients], strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert any("add_products" in graph.code for graph in graphs) == (dtype == torch.bfloat16)
    assert len({type(model.get_base_model().get_submodule(layer)) for layer in ("0", "2")}) == 1


def test_the_gradient_is_that_of_finite_differences():
    model = build(torch.float64, fused=True).double()
    x = torch.randn(2, 24, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(model, (x,))


def test_a_layer_out_of_the_ordinary_keeps_pefts_own_way():
    assert fuse_lora(build(torch.float32, fused=False, lora_dropout=0.1)) == 0
    assert fuse_lora(build(torch.float32, fused=False, use_dora=True)) == 0
    model = build(torch.float32, fused=True)
    x = torch.randn(2, 24)
    with model.disable_adapter():
        bare = model(x)
    torch.testing.assert_close(
        bare,
        build(torch.float32, fused=False)
        .get_base_model()[2]
        .base_layer(torch.tanh(model.get_base_model()[0].base_layer(x))),
    )
