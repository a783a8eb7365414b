"""A kernel that was asked for is the one computed with; one that the plan chose may give way, and the plan says so."""

from __future__ import annotations

import pytest

from startup_llm.config import FinetuneConfig, PretrainConfig, SpeedConfig
from startup_llm.errors import UserError
from startup_llm.models.checkpoints import load_checkpoint, load_tokenizer
from startup_llm.tasks import load_task
from startup_llm.tasks.text_classification.options import (
    LabelledTextData,
    ScratchTextTransformer,
    TextClassificationModel,
)
from startup_llm.training import finetuning, pretraining
from startup_llm.training.speed import SpeedPlan


def prepare(folder, *, planned: str, asked: str | None) -> finetuning.Prepared:
    config = FinetuneConfig(
        model=TextClassificationModel(checkpoint=str(folder)),
        data=LabelledTextData(),
        speed=SpeedConfig(attention_kernel=asked),
    )
    task = load_task(config.task)
    checkpoint = load_checkpoint(config.model)
    data = task.load_data(config.data)
    plan = SpeedPlan("cpu", "float32", "float32", planned, 64, ("as measured",))
    return finetuning.prepare(task, data, config, checkpoint, load_tokenizer(checkpoint, 16), plan)


def test_a_kernel_that_the_plan_chose_gives_way_and_the_plan_names_the_one_used(tiny_checkpoint):
    plan = prepare(tiny_checkpoint("deberta-v2"), planned="sdpa", asked=None).plan
    assert plan.attention_kernel == "eager"
    assert plan.reasons == (
        "as measured",
        "eager attention all the same: deberta-v2 does not compute with sdpa here",
    )


def test_a_kernel_that_the_architecture_lacks_is_refused_when_asked_for(tiny_checkpoint):
    folder = tiny_checkpoint("deberta-v2")
    with pytest.raises(UserError) as refused:
        prepare(folder, planned="sdpa", asked="sdpa")
    assert str(refused.value) == (
        f"speed.attention_kernel sdpa is not what {folder} (deberta-v2) computes with here: it would be eager; "
        "leave the option out"
    )


def test_a_kernel_whose_package_is_missing_is_refused_when_asked_for(tiny_checkpoint):
    with pytest.raises(
        UserError, match="flash_attention_2, which needs a GPU and the package flash-attn, is not what"
    ):
        prepare(tiny_checkpoint("bert"), planned="flash_attention_2", asked="flash_attention_2")


def test_a_kernel_that_the_architecture_has_leaves_the_plan_as_it_is(tiny_checkpoint):
    plan = prepare(tiny_checkpoint("bert"), planned="sdpa", asked="sdpa").plan
    assert (plan.attention_kernel, plan.reasons) == ("sdpa", ("as measured",))


def test_the_kernel_of_language_models_is_refused_for_an_encoder(tiny_checkpoint):
    with pytest.raises(UserError, match=r"causal_blocks is not what .* \(bert\) computes with here: it would be sdpa"):
        prepare(tiny_checkpoint("bert"), planned="causal_blocks", asked="causal_blocks")


@pytest.mark.parametrize("kernel", ["flash_attention_2", "causal_blocks"])
def test_a_model_from_scratch_has_none_of_the_kernels_of_checkpoints(kernel):
    config = PretrainConfig(
        model=ScratchTextTransformer(name="transformer"), speed=SpeedConfig(attention_kernel=kernel)
    )
    plan = SpeedPlan("cpu", "float32", "float32", kernel, 64, ())
    with pytest.raises(UserError, match="a model from scratch computes with eager or sdpa"):
        pretraining.prepare(load_task(config.task), None, config, plan)
