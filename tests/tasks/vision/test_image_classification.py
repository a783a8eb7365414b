"""Image classification from end to end: pretrained architectures, and the reference models."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from startup_llm.run_folder import read_results
from startup_llm.tasks import load_task
from startup_llm.tasks.vision.options import LabelledImageData, ScratchImageDnn, ScratchVit

CONFIGS = Path(__file__).parents[3] / "recipes" / "configs"
QUICK = ["--evaluation.resamples", 20, "--train.max_steps", 3, "--train.per_device_train_batch_size", 8]
SIZE = 32


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Noisy squares and stripes, in folders of classes; one test image stands in both, so one answer is wrong."""
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 6)):
        for name in ("square", "stripes"):
            (folder / split / name).mkdir(parents=True)
            for place in range(count):
                pixels = generator.integers(0, 60, (SIZE, SIZE, 3), dtype=np.uint8)
                if name == "square":
                    pixels[8:24, 8:24] += 180
                else:
                    pixels[::4] += 180
                Image.fromarray(pixels).save(folder / split / name / f"{place:02}.png")
    for name in ("square", "stripes"):
        Image.new("RGB", (SIZE, SIZE), "gray").save(folder / "test" / name / "both.png")
    return folder


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> Path:
    """Classifiers of each kind with random weights."""
    import torch
    import transformers

    from startup_llm.models.scratch.image import build_image_processor

    blocks = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    configs = {
        "vit": transformers.ViTConfig(**blocks, image_size=SIZE, patch_size=8),
        "resnet": transformers.ResNetConfig(
            embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic"
        ),
        "convnext": transformers.ConvNextConfig(hidden_sizes=[16, 32], depths=[1, 1], num_stages=2),
        "swin": transformers.SwinConfig(
            image_size=SIZE, patch_size=4, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4
        ),
    }
    folder = tmp_path_factory.mktemp("checkpoints")
    for name, config in configs.items():
        torch.manual_seed(0)
        transformers.AutoModelForImageClassification.from_config(config).save_pretrained(folder / name)
        build_image_processor(SIZE).save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def finished() -> dict[tuple[str, str], Path]:
    """The runs that are done, by architecture and method."""
    return {}


@pytest.fixture
def finish(finished, photos, checkpoints, tmp_path, run_recipe):
    """Return a function that fine-tunes an architecture once and gives the run's folder."""

    def run(name: str, method: str) -> Path:
        if (name, method) not in finished:
            words = ["--config", CONFIGS / "cifar10_vit.yaml", "--model.checkpoint", checkpoints / name]
            words += ["--method", method, "--data.data_dir", photos, "--run_dir", tmp_path / "run", *QUICK]
            code, _, err = run_recipe("finetune", *words)
            assert code == 0, err[-3000:]
            finished[name, method] = tmp_path / "run"
        return finished[name, method]

    return run


QUICK_PAIRS = {
    ("vit", "lora"): [pytest.mark.fresh_gate],
    ("vit", "full"): [],
    ("resnet", "lora"): [pytest.mark.fresh_gate],
    ("resnet", "probe"): [],
}
"""Architectures and methods of quick tests, with their markers; the others are slow."""
PAIRS = [(name, method) for name in ("vit", "resnet", "convnext", "swin") for method in ("lora", "full")]
PAIRS += [("vit", "probe"), ("resnet", "probe")]


@pytest.mark.parametrize(
    ("name", "method"),
    [pytest.param(*pair, marks=QUICK_PAIRS.get(pair, [pytest.mark.slow])) for pair in PAIRS],
)
def test_an_architecture_is_trained_and_answers_as_the_pipeline(name, method, photos, finish):
    from transformers import pipeline

    run = finish(name, method)
    results = read_results(run)
    candidate = "linear-probe" if method == "probe" else method
    assert set(results["models"]) == {"majority", "nearest-pixels", "linear-probe", candidate}
    gate = {name: value for name, value in results["reload_gate"].items() if name.endswith("difference")}
    expected = {"merged_max_difference", "pipeline_max_difference"}
    assert set(gate) == expected | ({"adapter_max_difference"} if method == "lora" else set())
    assert max(gate.values()) < 1e-3

    told = [results["labels"][line[candidate]] for line in read_predictions(run)]
    files = sorted((photos / "test").rglob("*.png"))
    classify = pipeline("image-classification", str(run / "model"), device="cpu")
    assert [answer[0]["label"] for answer in classify([Image.open(file) for file in files])] == told

    wrong = [(file, label) for file, label in zip(files, told, strict=True) if file.parent.name != label]
    assert wrong
    shown = results["gallery"]
    assert len(shown) == min(12, len(wrong))
    assert {item["kind"] for item in shown} == {"image"}
    page = (run / "report.html").read_text()
    for item, (file, label) in zip(shown, wrong, strict=False):
        assert item["caption"].endswith(f"{file.parent.name}, answered {label}")
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(item["png_base64"]))))
        assert (picture[:: len(picture) // SIZE, :: len(picture) // SIZE] == np.asarray(Image.open(file))).all()
        assert item["png_base64"] in page


def test_an_adapter_of_convolutions_changes_them_and_not_the_statistics_of_batch_norms(checkpoints, finish):
    from safetensors.torch import load_file

    run = finish("resnet", "lora")
    before, after = (load_file(f / "model.safetensors") for f in (checkpoints / "resnet", run / "model"))
    statistics = [name for name in before if "running" in name]
    assert statistics
    assert all((before[name] == after[name]).all() for name in statistics)
    convolutions = [name for name in before if name.endswith("convolution.weight") and "stages" in name]
    assert all((before[name] != after[name]).any() for name in convolutions)


@pytest.mark.fresh_gate
@pytest.mark.slow
def test_the_reference_models_learn_digits_and_an_adapter_goes_on_one_of_them(tmp_path, run_recipe):
    from startup_llm.models.scratch.image import load_image_dnn

    quick = [*QUICK[:2], "--train.max_steps", 20, "--data.max_train_rows", 600, "--data.max_test_rows", 100]
    for config in ("digits_dnn", "digits_vit"):
        name = config.removeprefix("digits_")
        words = ["--config", CONFIGS / f"{config}.yaml", "--run_dir", tmp_path / name]
        code, _, err = run_recipe("pretrain", *words, *quick)
        assert code == 0, err[-3000:]
        results = read_results(tmp_path / name)
        assert (results["decides"], results["method"]) == ("accuracy", name)
        assert set(results["models"]) == {"majority", "nearest-pixels", name}
        assert results["models"][name]["accuracy"]["value"] > 0.3
        assert results["reload_gate"]["merged_max_difference"] < 1e-3
    words = ["--config", CONFIGS / "digits_vit_lora.yaml", "--model.checkpoint", tmp_path / "vit" / "model"]
    code, _, err = run_recipe("finetune", *words, "--run_dir", tmp_path / "lora", *quick)
    assert code == 0, err[-3000:]
    results = read_results(tmp_path / "lora")
    assert results["checkpoint"]["trainable_parameters"] < results["checkpoint"]["parameters"] / 2
    assert "adapter_max_difference" in results["reload_gate"]

    model, processor, names = load_image_dnn(tmp_path / "dnn" / "model")
    rows = (
        load_task("image-classification")
        .load_data(LabelledImageData(dataset="digits", max_test_rows=100))
        .splits["test"]
    )
    logits = model(**processor([image.convert("RGB") for image in rows["image"]], return_tensors="pt"))["logits"]
    assert names == list("0123456789")
    assert logits.argmax(dim=1).tolist() == [line["dnn"] for line in read_predictions(tmp_path / "dnn")]


@pytest.mark.parametrize("name", ["dnn", "vit"])
def test_a_saved_reference_model_loads_again_with_equal_logits(name, tmp_path):
    import torch

    task = load_task("image-classification")
    data = task.load_data(LabelledImageData(dataset="digits", max_train_rows=20, max_test_rows=20))
    vit = ScratchVit(image_size=8, patch_size=4, width=16, layers=1, heads=2)
    small = vit if name == "vit" else ScratchImageDnn(image_size=8, hidden=[16])
    torch.manual_seed(0)
    processor, built = task.reference_models.build(data, small, "eager")
    task.reference_models.save(built.model, processor, data, tmp_path)
    assert task.saved_model.has_own_format(str(tmp_path)) is (name == "dnn")
    encoded, _ = task.encode(data.splits["test"], processor)
    batch = task.build_collator(task.saved_model.load_processor(str(tmp_path)))(list(encoded))
    with torch.inference_mode():
        expected = built.model.eval()(pixel_values=batch["pixel_values"])["logits"]
        found = task.saved_model.load(str(tmp_path)).eval()(pixel_values=batch["pixel_values"])["logits"]
    assert expected.std() > 0
    torch.testing.assert_close(found, expected, **({"rtol": 0, "atol": 0} if name == "dnn" else {}))


def read_predictions(run: Path) -> list[dict]:
    """Return what each model answered, one line for a test row."""
    return [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
