from __future__ import annotations

import pytest
import torch
from peft import AutoPeftModelForSequenceClassification, PeftModel
from transformers import AutoModelForSequenceClassification, T5Config, T5ForConditionalGeneration

from startup_llm.config import LoraConfig, ModelConfig
from startup_llm.errors import UserError
from startup_llm.models.adapters import add_lora, find_block_layers, settle_bare_base
from startup_llm.models.checkpoints import load_checkpoint, load_tokenizer
from startup_llm.models.sequence_classifier import build_sequence_classifier

TEXTS = ["refund", "where is my parcel", "i forgot my password"]
TARGETS = {
    "bert": "query key value dense",
    "roberta": "query key value dense",
    "distilbert": "q_lin k_lin v_lin out_lin lin1 lin2",
    "deberta-v2": "query_proj key_proj value_proj dense",
    "modernbert": "Wqkv Wo Wi",
    "gpt2": "c_attn c_proj c_fc",
    "llama": "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj",
    "qwen3": "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj",
    "gemma": "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj",
}
LINEARS_PER_LAYER = {"bert": 6, "roberta": 6, "distilbert": 6, "deberta-v2": 6, "modernbert": 4, "gpt2": 4}
HEADS = {
    "bert": {"classifier"},
    "roberta": {"classifier", "roberta.encoder.layer.2"},
    "distilbert": {"pre_classifier", "classifier"},
    "deberta-v2": {"pooler", "classifier"},
    "modernbert": {"head", "classifier"},
}
"""The modules that are saved with an adapter; those of a decoder are `score` alone."""


@pytest.fixture
def build(tiny_checkpoint):
    """Return a function that puts a head on an architecture's tiny checkpoint."""

    def load(name: str, pooling: str = "auto"):
        torch.manual_seed(0)
        checkpoint = load_checkpoint(ModelConfig(checkpoint=str(tiny_checkpoint(name))))
        tokenizer = load_tokenizer(checkpoint, 64)
        names, kind = ("a", "b", "c"), "single_label_classification"
        found = build_sequence_classifier(checkpoint, tokenizer, label_names=names, problem_type=kind, pooling=pooling)
        return found, tokenizer

    return load


def adapt(classifier, lora: LoraConfig | None = None):
    return add_lora(
        classifier.model,
        lora or LoraConfig(rank=4),
        task_type="SEQ_CLS",
        base_name="owner/base",
        head_modules=classifier.head_modules,
        constant_modules=classifier.constant_modules,
    )


def step(model, batch) -> None:
    """Take two large training steps, so that every trained weight moves, B and A of the adapter included."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        model(**batch, labels=torch.tensor([0, 1, 2])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def snapshot(model) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def test_adapter_goes_on_every_linear_layer_of_the_blocks_and_on_no_other(build, architecture):
    classifier, _ = build(architecture)
    linears = find_block_layers(classifier.model, exclude=classifier.constant_modules)
    assert {name.rsplit(".", 1)[-1] for name in linears} == set(TARGETS[architecture].split())
    assert len(linears) == 2 * LINEARS_PER_LAYER.get(architecture, 7)
    adapted = adapt(classifier)
    plain = [
        name.removeprefix("base_model.model.") for name, module in adapted.named_modules() if hasattr(module, "lora_A")
    ]
    assert sorted(plain) == sorted(linears)


def test_head_and_pooling_are_named_for_saving(build, architecture):
    assert set(build(architecture)[0].head_modules) == HEADS.get(architecture, {"score"})


def test_fresh_adapter_changes_nothing(build, architecture):
    classifier, tokenizer = build(architecture)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        before = classifier.model.eval()(**batch).logits
        torch.testing.assert_close(adapt(classifier).eval()(**batch).logits, before)


def test_only_the_adapter_and_the_head_move(build, architecture):
    classifier, tokenizer = build(architecture)
    model = adapt(classifier).train()
    before = snapshot(model)
    step(model, tokenizer(TEXTS, padding=True, return_tensors="pt"))
    moved = {name for name, value in snapshot(model).items() if not torch.equal(value, before[name])}
    constants = [f"{name}." for name in classifier.constant_modules]
    expected = {
        name
        for name in before
        if ("lora_" in name or "modules_to_save" in name)
        and not any(constant in name.replace("modules_to_save.default.", "") for constant in constants)
    }
    assert moved == expected
    assert any("lora_B" in name for name in moved)
    assert any("modules_to_save" in name and name.endswith("weight") for name in moved)


def test_adapter_with_its_head_reloads_on_the_plain_base_to_equal_logits(
    build, architecture, tiny_checkpoint, tmp_path
):
    classifier, tokenizer = build(architecture)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    model = adapt(classifier)
    step(model, batch)
    with torch.inference_mode():
        expected = model.eval()(**batch).logits
    model.save_pretrained(tmp_path, save_embedding_layers=False)

    torch.manual_seed(1)  # another head than the trained one, were it not saved
    base = AutoModelForSequenceClassification.from_pretrained(
        tiny_checkpoint(architecture),
        dtype="float32",
        pad_token_id=tokenizer.pad_token_id,
        **classifier.load_arguments,
    )
    with torch.inference_mode():
        reloaded = PeftModel.from_pretrained(base, tmp_path).eval()(**batch).logits
    torch.testing.assert_close(reloaded, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_pooling_constants_are_saved_but_not_trained(build, name):
    classifier, _ = build(name, pooling="mean")
    model = adapt(classifier)
    assert len(classifier.constant_modules) == 2
    for constant in classifier.constant_modules:
        parameters = [
            (full, parameter)
            for full, parameter in model.named_parameters()
            if f"{constant}." in full.replace("modules_to_save.default.", "") and "modules_to_save" in full
        ]
        assert parameters, constant
        assert not any(parameter.requires_grad for _, parameter in parameters)


def test_adapters_config_names_the_base_and_the_rank(build):
    config = adapt(build("bert")[0], LoraConfig(rank=4, alpha=8.0)).peft_config["default"]
    assert config.base_model_name_or_path == "owner/base"
    assert (config.r, config.lora_alpha, config.task_type) == (4, 8.0, "SEQ_CLS")


def test_named_targets_only_are_adapted(build):
    model = adapt(build("bert")[0], LoraConfig(rank=2, target_modules=["query", "value"]))
    adapted = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if hasattr(module, "lora_A")}
    assert adapted == {"query", "value"}


def test_target_can_be_a_path_that_tells_like_names_apart(build):
    model = adapt(build("bert")[0], LoraConfig(rank=2, target_modules=["intermediate.dense"]))
    adapted = [name for name, module in model.named_modules() if hasattr(module, "lora_A")]
    assert len(adapted) == 2
    assert all(name.endswith("intermediate.dense") for name in adapted)


@pytest.mark.parametrize(
    ("name", "target", "hint"),
    [
        ("bert", "querry", "; did you mean query?; it has query, key, value, dense"),
        ("llama", "q_poj", "; did you mean q_proj?; it has q_proj, k_proj"),
        ("bert", "classifier", "; it has query"),
        ("gpt2", "zzz", "; it has c_attn, c_proj, c_fc"),
    ],
)
def test_target_that_is_not_in_the_blocks_is_refused_with_those_that_are(build, name, target, hint):
    classifier, _ = build(name)
    with pytest.raises(UserError) as caught:
        adapt(classifier, LoraConfig(target_modules=[target]))
    assert f"lora.target_modules: no layer {target} in {type(classifier.model).__name__}{hint}" in str(caught.value)


@pytest.fixture
def resnet():
    """Return a ResNet with a head for three classes: its stages hold convolutions and no linear layer."""
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    return ResNetForImageClassification(ResNetConfig(**sizes, num_labels=3))


def test_where_blocks_have_no_linear_layer_the_convolutions_are_adapted_and_left_to_peft(resnet):
    from startup_llm.training.fused_lora import fuse_lora

    convolutions = [name for name in find_block_layers(resnet) if name.endswith("convolution")]
    assert find_block_layers(resnet) == convolutions
    assert len(convolutions) == 5  # two in each of two layers, and one shortcut
    model = add_lora(resnet, LoraConfig(rank=2), task_type=None, base_name="base", head_modules=["classifier"])
    assert fuse_lora(model) == 0
    before, statistics = snapshot(model), {name: value.clone() for name, value in model.named_buffers()}
    step(model.train(), {"pixel_values": torch.randn(3, 3, 32, 32)})
    assert all(torch.equal(value, statistics[name]) for name, value in model.named_buffers())
    assert any("running_mean" in name for name in statistics)
    moved = {name for name, value in snapshot(model).items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if "lora_" in name or "modules_to_save" in name}
    assert sum("lora_B" in name for name in moved) == 5


def test_convolutions_in_groups_are_left_alone():
    from transformers import RegNetConfig, RegNetForImageClassification

    model = RegNetForImageClassification(
        RegNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], groups_width=4, layer_type="x")
    )
    found = find_block_layers(model)
    assert found
    assert {model.get_submodule(name).groups for name in found} == {1}
    everything = [module for module in model.regnet.encoder.modules() if isinstance(module, torch.nn.Conv2d)]
    assert len(everything) - len(found) == 2


def test_a_layer_that_a_network_of_convolutions_lacks_is_one_clear_line(resnet):
    with pytest.raises(UserError) as caught:
        add_lora(resnet, LoraConfig(target_modules=["query"]), task_type=None, base_name="base")
    expected = "lora.target_modules: no layer query in ResNetForImageClassification; it has convolution"
    assert str(caught.value) == expected


def test_a_model_without_layers_to_adapt_is_refused():
    with pytest.raises(
        UserError, match="Sequential has no linear layers and no convolutions in its blocks; use --met"
    ):
        add_lora(torch.nn.Sequential(torch.nn.Linear(2, 2)), LoraConfig(), task_type=None, base_name="base")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_four_bits_without_a_gpu_are_one_clear_error(build):
    with pytest.raises(UserError, match=r"lora\.quantize 4bit needs an NVIDIA GPU, and this machine has none"):
        adapt(build("bert")[0], LoraConfig(rank=4, quantize="4bit"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_four_bits_train_the_adapter_alone(build):
    pytest.importorskip("bitsandbytes")
    classifier, tokenizer = build("bert")
    classifier.model.cuda()
    adapted = adapt(classifier, LoraConfig(rank=4, quantize="4bit")).cuda()
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt").to("cuda")
    adapted(**batch, labels=torch.tensor([0, 1, 2], device="cuda")).loss.backward()
    layers = [module for module in adapted.modules() if type(module).__name__ == "Linear4bit"]
    assert len(layers) >= 12
    assert all(layer.weight.dtype == torch.uint8 for layer in layers)
    assert all(p.grad is not None for n, p in adapted.named_parameters() if "lora_B" in n)


def test_the_uppermost_blocks_alone_are_adapted(build):
    classifier, _ = build("bert")
    blocks = classifier.model.config.num_hidden_layers
    model = adapt(classifier, LoraConfig(rank=2, upper_layers=1))
    adapted = {name.split(".lora_")[0] for name, p in model.named_parameters() if "lora_" in name}
    assert len(adapted) == LINEARS_PER_LAYER["bert"]
    assert all(f"encoder.layer.{blocks - 1}." in name for name in adapted)


def test_the_block_that_pools_is_none_of_the_uppermost(build):
    classifier, _ = build("bert", pooling="mean")
    blocks = classifier.model.config.num_hidden_layers - 1  # the last one holds the mean
    model = adapt(classifier, LoraConfig(rank=2, upper_layers=1))
    adapted = {name.split(".lora_")[0] for name, p in model.named_parameters() if "lora_" in name}
    assert len(adapted) == LINEARS_PER_LAYER["bert"]
    assert all(f"encoder.layer.{blocks - 1}." in name for name in adapted)


@pytest.mark.parametrize("count", [0, 99])
def test_more_upper_blocks_than_there_are_is_an_error(build, count):
    classifier, _ = build("bert")
    with pytest.raises(
        UserError, match=f"lora.upper_layers {count}: expected 1 to {classifier.model.config.num_hidden_layers}"
    ):
        adapt(classifier, LoraConfig(upper_layers=count))


def test_of_an_encoder_and_a_decoder_none_is_the_upper_one():
    model = T5ForConditionalGeneration(T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_heads=2))
    with pytest.raises(UserError, match=r"lora\.upper_layers 1: T5ForConditionalGeneration has 2 stacks of blocks"):
        add_lora(model, LoraConfig(upper_layers=1), task_type=None, base_name="base")


@pytest.mark.parametrize(
    ("name", "pooling", "loads"),
    [("bert", "mean", True), ("bert", "auto", True), ("roberta", "auto", False), ("modernbert", "mean", False)],
)
def test_auto_class_of_peft_loads_the_adapter_right_or_refuses_it(
    build, tiny_checkpoint, tmp_path, name, pooling, loads
):
    classifier, tokenizer = build(name, pooling)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    trained = adapt(classifier).train()
    step(trained, batch)
    adapter, base = tmp_path / "adapter", tiny_checkpoint(name)
    trained.peft_config["default"].base_model_name_or_path = str(base)
    trained.save_pretrained(adapter, save_embedding_layers=False)
    settle_bare_base(adapter, base, classifier.load_arguments)
    with torch.inference_mode():
        expected = trained.eval()(**batch).logits
        whole = AutoModelForSequenceClassification.from_pretrained(base, **classifier.load_arguments)
        on_whole_base = PeftModel.from_pretrained(whole, str(adapter)).eval()
        torch.testing.assert_close(on_whole_base(**batch).logits, expected, rtol=0, atol=1e-4)
        if not loads:
            with pytest.raises(ValueError, match="Cannot infer the auto class"):
                AutoPeftModelForSequenceClassification.from_pretrained(str(adapter), num_labels=3)
            return
        found = AutoPeftModelForSequenceClassification.from_pretrained(str(adapter), num_labels=3).eval()
        torch.testing.assert_close(found(**batch).logits, expected, rtol=0, atol=1e-4)
    with pytest.raises(RuntimeError, match="size mismatch"):
        AutoPeftModelForSequenceClassification.from_pretrained(str(adapter))
