from __future__ import annotations

import functools
import json

import datasets
import pytest
import torch
from chat_checkpoints import build_chat_checkpoint
from torch import nn

from startup_llm.config import SpeedConfig
from startup_llm.data.task_data import TaskData
from startup_llm.models.adapters import find_blocks
from startup_llm.models.checkpoints import load_checkpoint
from startup_llm.tasks import load_task
from startup_llm.tasks.text_classification.options import TextClassificationModel
from startup_llm.tasks.text_generation.options import ChatModel, GenerationData
from startup_llm.training import finetuning, speed
from startup_llm.training.speed import (
    AttentionShape,
    compile_blocks,
    measure_attention,
    plan_speed,
)


@pytest.mark.parametrize(("bfloat16", "chosen"), [(2000.0, "bfloat16"), (110.0, "float32"), (20.0, "float32")])
def test_the_type_that_is_clearly_faster_here_is_chosen(monkeypatch, bfloat16, chosen):
    rates = {"float32": 100.0, "bfloat16": bfloat16}
    monkeypatch.setattr(speed, "measure_matrix_product", rates.get)
    plan = plan_speed(SpeedConfig(attention_kernel="sdpa"))
    assert (plan.compute_dtype, plan.frozen_dtype) == (chosen, chosen)
    assert f"bfloat16 {bfloat16:,.0f} GFLOP/s" in plan.reasons[0]


@pytest.mark.parametrize("faster", ["eager", "sdpa"])
def test_the_kernel_that_is_faster_on_the_rows_at_hand_is_chosen(monkeypatch, faster):
    seen = []

    def measure(kernel, dtype, shape):
        seen.append((dtype, shape))
        return 0.001 if kernel == faster else 0.002

    monkeypatch.setattr(speed, "measure_attention", measure)
    shape = AttentionShape((5, 9), heads=2, head_width=8)
    plan = plan_speed(SpeedConfig(compute_dtype="float32", tokens_per_batch=77), lambda: shape)
    assert plan.attention_kernel == faster
    assert set(seen) == {(torch.float32, shape)}
    assert len(plan.reasons) == 3
    assert "on 2 rows of 5 to 9 tokens; at most 77 tokens at once" in plan.reasons[2]


@pytest.mark.parametrize(
    ("causal", "compiled", "timed"),
    [
        (True, False, {"eager", "sdpa", "causal_blocks"}),
        (True, True, {"eager", "sdpa"}),
        (False, False, {"eager", "sdpa"}),
    ],
)
def test_the_kernel_of_language_models_is_timed_for_them_alone(monkeypatch, causal, compiled, timed):
    times = {}
    monkeypatch.setattr(speed, "measure_attention", lambda kernel, *given: times.setdefault(kernel, 1 / len(kernel)))
    config = SpeedConfig(compute_dtype="float32", compile=compiled)
    plan = plan_speed(config, lambda: AttentionShape(causal=causal))
    assert set(times) == timed
    assert plan.attention_kernel == max(timed, key=len)


@pytest.mark.parametrize("kernel", ["eager", "sdpa", "causal_blocks"])
def test_attention_is_timed_with_padding_and_shared_keys(kernel):
    shape = AttentionShape((3, 1, 8), heads=4, head_width=4, key_heads=2)
    assert measure_attention(kernel, torch.float32, shape) > 0


def test_the_shape_is_that_of_the_middle_of_the_training_rows(tiny_checkpoint):
    task, settings = load_task("text-classification"), TextClassificationModel(checkpoint=str(tiny_checkpoint("bert")))
    texts = ["a b c d e f g h"] * 3 + ["a b"] * 300 + ["a"] * 3
    rows = datasets.Dataset.from_dict({"text": texts, "label": [0, 1] * (len(texts) // 2)})
    data = TaskData(datasets.DatasetDict(train=rows, test=rows), ["x", "y"], "single_label_classification")
    checkpoint = load_checkpoint(settings)
    processor = task.load_processor(checkpoint, settings)
    length = len(processor("a b")["input_ids"])
    shape = finetuning.find_attention_shape(task, data, checkpoint, processor)
    assert set(shape.lengths) == {length}
    assert len(shape.lengths) == 64
    assert (shape.heads * shape.head_width) == 32
    assert not shape.causal
    assert finetuning.find_attention_shape(load_task("image-classification"), data, checkpoint, processor) is None


@pytest.mark.parametrize(("model_type", "causal"), [("llama", True), ("gpt2", False)])
def test_the_shape_says_whether_tokens_see_none_behind_them(tmp_path, model_type, causal):
    task, model = load_task("text-generation"), ChatModel(checkpoint=str(build_chat_checkpoint(model_type, tmp_path)))
    (tmp_path / "rows.txt").write_text("where is my parcel?\n" * 200)
    checkpoint = load_checkpoint(model)
    processor = task.load_processor(checkpoint, model)
    data = task.fit_data(task.load_data(GenerationData(train_file=str(tmp_path / "rows.txt"))), processor)
    shape = finetuning.find_attention_shape(task, data, checkpoint, processor)
    assert shape.causal is causal
    config = json.loads((tmp_path / "config.json").read_text())
    assert shape.key_heads == config.get("num_key_value_heads")


def test_every_process_of_a_run_takes_the_plan_s_threads_and_keeps_its_memory(monkeypatch):
    done = []
    monkeypatch.setattr(speed, "keep_freed_memory", lambda: done.append("memory"))
    monkeypatch.setattr(speed, "use_threads", lambda config: done.append(config.threads))
    plan = speed.SpeedPlan("cpu", "float32", "float32", "eager", 64, ())
    speed.use_plan(plan, SpeedConfig(threads=3))
    assert done == [3, "memory"]


class Block(nn.Linear):
    """A layer that is not torch's own, which it would not compile by itself."""

    def forward(self, x):
        return torch.tanh(super().forward(x))


def test_the_blocks_of_a_model_are_found_and_compiled_for_a_while(monkeypatch):
    def encoder():
        return nn.ModuleDict(
            {"layers": nn.ModuleList(nn.Sequential(nn.ModuleList(nn.Linear(2, 2) for _ in "cde")) for _ in "ab")}
        )

    model = nn.ModuleDict({"one": encoder(), "other": encoder(), "heads": nn.ModuleList([nn.Linear(2, 2), nn.Tanh()])})
    blocks = find_blocks(model)
    assert blocks == [*model["one"]["layers"], *model["other"]["layers"]]
    assert find_blocks(nn.Linear(2, 2)) == []
    layer, calls = nn.ModuleList([Block(2, 2), Block(2, 2)]), []

    def backend(graph, inputs):
        calls.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    x = torch.ones(1, 2)
    with compile_blocks(layer):
        y = layer[1](layer[0](x))
    assert calls
    del calls[:]
    torch._dynamo.reset()
    torch.testing.assert_close(layer[1](layer[0](x)), y)
    assert not calls
