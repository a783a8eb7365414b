"""What the arguments and the optimizer of a run are, whatever the launcher says."""

from __future__ import annotations

import pytest
import torch

from startup_llm.training import finetuning
from startup_llm.training.speed import SpeedPlan, plan_speed
from startup_llm.training.trainer import HeadTrainer, build_training_arguments


def build_plan(compute_dtype: str = "float32") -> SpeedPlan:
    return SpeedPlan("cpu", compute_dtype, compute_dtype, "eager", 64, ())


@pytest.mark.parametrize("launched", ["no", "fp16", "bf16"])
@pytest.mark.parametrize(("compute_dtype", "computed"), [("float32", "no"), ("bfloat16", "bf16")])
def test_the_plan_decides_the_precision_whatever_the_launcher_asked(
    monkeypatch, tmp_path, launched, compute_dtype, computed
):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
    arguments = build_training_arguments({"report_to": "none"}, tmp_path, build_plan(compute_dtype), "")
    assert (arguments.mixed_precision, arguments.bf16, arguments.fp16) == (computed, computed == "bf16", False)


def test_one_process_trains_on_one_gpu_however_many_there_are(monkeypatch, tmp_path):
    from transformers import TrainingArguments

    def see_four_gpus(arguments: TrainingArguments) -> torch.device:
        arguments._n_gpu = 4
        return torch.device("cpu")

    monkeypatch.setattr(TrainingArguments, "_setup_devices", property(see_four_gpus))
    arguments = build_training_arguments({"per_device_train_batch_size": 8}, tmp_path, build_plan(), "")
    assert arguments.n_gpu == 1
    assert arguments.train_batch_size == 8


def test_idle_gpus_are_told_with_the_command_that_uses_them(monkeypatch):
    from accelerate import PartialState

    state = PartialState()
    assert finetuning._describe_idle_gpus() == []
    monkeypatch.setattr(state, "device", torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert finetuning._describe_idle_gpus() == [
        "one GPU of 4 computes, as there is one process; for all of them "
        "accelerate launch --config_file recipes/accelerate/ddp.yaml"
    ]


def test_a_gpu_that_only_emulates_bfloat16_computes_in_float32(monkeypatch):
    from accelerate import PartialState

    monkeypatch.setattr(PartialState(), "device", torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert plan_speed().compute_dtype == "float32"


class Network(torch.nn.Module):
    """A layer with a bias, a norm, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.dense, self.norm, self.head = torch.nn.Linear(2, 2), torch.nn.LayerNorm(2), torch.nn.Linear(2, 2)


def test_weight_decay_spares_biases_and_norms_in_the_head_and_elsewhere(tmp_path):
    section = {"weight_decay": 0.1, "learning_rate": 1e-3, "report_to": "none"}
    model = Network()
    trainer = HeadTrainer.__new__(HeadTrainer)  # all that the optimizer is made of
    trainer.model, trainer.optimizer, trainer.optimizer_cls_and_kwargs = model, None, None
    trainer.args = build_training_arguments(section, tmp_path, build_plan(), "")
    trainer._head_ids = {id(parameter) for parameter in model.head.parameters()}
    trainer._head_learning_rate = 1e-2
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {
        names[id(parameter)]: (group["weight_decay"], group["lr"])
        for group in trainer.create_optimizer().param_groups
        for parameter in group["params"]
    }
    assert found == {
        "dense.weight": (0.1, 1e-3),
        "dense.bias": (0.0, 1e-3),
        "norm.weight": (0.0, 1e-3),
        "norm.bias": (0.0, 1e-3),
        "head.weight": (0.1, 1e-2),
        "head.bias": (0.0, 1e-2),
    }
