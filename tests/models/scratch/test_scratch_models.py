"""What holds for every reference model: it learns, it runs in bfloat16, its errors carry the value."""

import subprocess
import sys

import pytest
import torch

from startup_llm.errors import UserError
from startup_llm.models.scratch import SCRATCH_MODELS, load_builder
from startup_llm.models.scratch.dnn import Dnn, ImageDnn, TextDnn
from startup_llm.models.scratch.gan import ImageDiscriminator, ImageGenerator
from startup_llm.models.scratch.transformer import Block, Decoder, Encoder, EncoderDecoder, SequenceClassifier
from startup_llm.models.scratch.vit import VisionTransformer

TOKENS = torch.tensor([[5, 6, 7, 8, 9, 3], [4, 4, 9, 0, 0, 0], [9, 8, 7, 6, 0, 0], [3, 5, 3, 5, 3, 0]])
MASK = (TOKENS != 0).long()
CLASSES = torch.tensor([0, 1, 2, 1])
TARGETS = torch.tensor([[9, 8, 2, -100], [5, 2, -100, -100], [3, 3, 3, 2], [7, 6, 5, 2]])


def build_and_batch(name):
    torch.manual_seed(0)
    texts = {"input_ids": TOKENS, "attention_mask": MASK}
    images = {"pixel_values": torch.randn(4, 3, 8, 8), "labels": CLASSES}
    small = {"width": 16, "heads": 2, "dropout": 0.0}
    if name == "dnn-text":
        return TextDnn(10, classes=3, width=16, hidden=(16,)), {**texts, "labels": CLASSES}
    if name == "dnn-image":
        return ImageDnn(8, channels=3, classes=3, hidden=(16,)), images
    if name == "encoder":
        encoder = Encoder(10, layers=2, max_length_tokens=8, **small)
        return SequenceClassifier(encoder, classes=3, dropout=0.0), {**texts, "labels": CLASSES}
    if name == "decoder":
        return Decoder(10, layers=2, max_length_tokens=8, **small), {**texts, "labels": TOKENS}
    if name == "encoder-decoder":
        model = EncoderDecoder(10, encoder_layers=1, decoder_layers=1, max_length_tokens=8, **small)
        return model, {**texts, "labels": TARGETS}
    return VisionTransformer(8, patch_size=4, classes=3, layers=2, **small), images


CLASSIFIERS = ["dnn-text", "dnn-image", "encoder", "decoder", "encoder-decoder", "vit"]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_one_batch_is_overfitted(name):
    model, batch = build_and_batch(name)
    first = model(**batch)["loss"].item()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0)
    for _ in range(120):
        optimizer.zero_grad()
        loss = model(**batch)["loss"]
        loss.backward()
        optimizer.step()
    assert first > 0.9
    assert model(**batch)["loss"].item() < 0.05


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_gradient_of_the_whole_model_is_that_of_finite_differences(name):
    model, batch = build_and_batch(name)
    model = model.double()
    batch = {key: value.double() if value.is_floating_point() else value for key, value in batch.items()}
    model(**batch)["loss"].backward()
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    direction = [torch.randn_like(parameter) for parameter in parameters]
    slope = sum((d * parameter.grad).sum() for d, parameter in zip(direction, parameters, strict=True)).item()
    losses = []
    for step in (1e-6, -2e-6):  # to one side of the weights, then to the other
        with torch.no_grad():
            for parameter, d in zip(parameters, direction, strict=True):
                parameter += step * d
            losses.append(model(**batch)["loss"].item())
    assert slope == pytest.approx((losses[0] - losses[1]) / 2e-6, rel=1e-5)


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_forward_and_backward_run_under_bfloat16_autocast(name, kernel):
    model, batch = build_and_batch(name)
    for module in model.modules():
        if hasattr(module, "kernel"):
            module.kernel = kernel
    expected = model(**batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(**batch)
        output["loss"].backward()
    assert output["loss"].dtype == torch.float32
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())
    torch.testing.assert_close(output["logits"].float(), expected["logits"], atol=0.05, rtol=0.05)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_parameter_gets_a_gradient(name):
    model, batch = build_and_batch(name)
    model(**batch)["loss"].backward()
    without = [
        key for key, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    assert without == []


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_tensor_is_made_on_the_device_of_the_input(name):
    model, batch = build_and_batch(name)
    output = model.to("meta")(**{key: value.to("meta") for key, value in batch.items()})
    assert output["loss"].device.type == output["logits"].device.type == "meta"


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_weights_can_be_saved_as_they_are_and_loaded(name, tmp_path):
    from safetensors.torch import load_file, save_file  # it refuses tensors that share memory

    model, batch = build_and_batch(name)
    expected = model.eval()(**batch)["logits"]
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    model.load_state_dict(load_file(tmp_path / "model.safetensors"))
    torch.testing.assert_close(model(**batch)["logits"], expected)


@pytest.mark.parametrize("name", ["decoder", "encoder-decoder"])
def test_generation_runs_under_bfloat16_autocast(name):
    model, batch = build_and_batch(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model.generate(batch["input_ids"][:1], max_new_tokens=2)
    assert output.dtype == torch.int64


@pytest.mark.parametrize("name", SCRATCH_MODELS)
def test_every_name_leads_to_a_builder(name):
    assert callable(load_builder(name))


def test_an_unknown_name_gets_the_nearest_one():
    with pytest.raises(UserError, match=r"unknown reference model 'decodr'; did you mean decoder\?"):
        load_builder("decodr")


@pytest.mark.cold_start
def test_importing_the_package_imports_no_torch():
    code = "import sys, startup_llm.models.scratch; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Encoder(10, width=10, heads=4), r"width \(10\) must be divisible by heads \(4\); try heads=5"),
        (lambda: Decoder(10, width=16, heads=3), r"width \(16\) must be divisible by heads \(3\); try heads=4"),
        (lambda: Decoder(0), r"vocab_size \(0\) must be at least 1"),
        (lambda: Encoder(10, layers=0), r"layers \(0\) must be at least 1"),
        (lambda: Encoder(10, dropout=1.5), r"dropout \(1.5\) must be at least 0 and below 1"),
        (lambda: Encoder(10, activation="gelo"), r"unknown activation 'gelo'; did you mean gelu\?"),
        (lambda: Encoder(10, kernel="spda"), r"unknown kernel 'spda'; did you mean sdpa\?"),
        (lambda: Block(8, 2, 8, "relu", "postt", 1e-5), r"unknown norm 'postt'; did you mean post\?"),
        (lambda: EncoderDecoder(10, width=9, heads=3), r"width \(9\) must be even .* try width=10"),
        (lambda: EncoderDecoder(10, 12), r"vocab_size is 10 and target_vocab_size 12; set shared_embeddings=False"),
        (lambda: EncoderDecoder(10, eos_token_id=10), r"eos_token_id \(10\) must be below target_vocab_size \(10\)"),
        (lambda: VisionTransformer(32, 5, 10), r"image_size \(32\) must be divisible by patch_size \(5\); .*=4"),
        (lambda: Dnn((3,)), r"sizes \(\[3\]\) must give an input and an output width"),
        (lambda: Dnn((3, 2), activation="rely"), r"unknown activation 'rely'; did you mean relu\?"),
        (lambda: ImageGenerator(28), r"image_size \(28\) must be 8, 16, 32, .* to 32"),
        (lambda: ImageDiscriminator(4), r"image_size \(4\) must be 8, 16, 32, .* to 8"),
    ],
)
def test_a_bad_argument_is_named_with_its_value(build, message):
    with pytest.raises(UserError, match=message):
        build()


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("encoder", {"input_ids": torch.ones(1, 9).long()}, r"9 tokens is longer than max_length_tokens \(8\)"),
        ("decoder", {"input_ids": torch.ones(1, 9).long()}, r"9 tokens is longer than max_length_tokens \(8\)"),
        ("encoder-decoder", {"input_ids": TOKENS}, r"labels \(None\) or decoder_input_ids \(None\) must be given"),
        ("vit", {"pixel_values": torch.ones(1, 1, 8, 8)}, r"shape \(1, 8, 8\) given, \(3, 8, 8\) expected"),
        ("dnn-image", {"pixel_values": torch.ones(1, 3, 9, 9)}, r"shape \(3, 9, 9\) given, \(3, 8, 8\) expected"),
    ],
)
def test_a_bad_input_is_named_with_its_value(name, arguments, message):
    model, _ = build_and_batch(name)
    with pytest.raises(UserError, match=message):
        model(**arguments)
