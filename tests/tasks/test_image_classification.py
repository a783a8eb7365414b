"""Image classification from end to end: pretrained architectures, and the reference models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from startup_llm.run_folder import read_results

CONFIGS = Path(__file__).parents[2] / "recipes" / "configs"
QUICK = ["--evaluation.resamples", 20, "--train.max_steps", 3, "--train.per_device_train_batch_size", 8]
SIZE = 32


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Noisy squares and stripes, in folders of classes."""
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
                Image.fromarray(pixels).save(folder / split / name / f"{place}.png")
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


@pytest.mark.parametrize(
    ("name", "method"),
    [(name, method) for name in ("vit", "resnet", "convnext", "swin") for method in ("lora", "full")]
    + [("vit", "probe"), ("resnet", "probe")],
)
def test_an_architecture_is_trained_and_answers_as_the_pipeline(
    name, method, photos, checkpoints, tmp_path, run_recipe
):
    run = tmp_path / "run"
    words = ["--config", CONFIGS / "cifar10_vit.yaml", "--model.checkpoint", checkpoints / name, "--method", method]
    code, _, err = run_recipe("finetune", *words, "--data.data_dir", photos, "--run_dir", run, *QUICK)
    assert code == 0, err[-3000:]
    results = read_results(run)
    candidate = "linear-probe" if method == "probe" else method
    assert set(results["models"]) == {"majority", "nearest-pixels", "linear-probe", candidate}
    gate = {name: value for name, value in results["reload_gate"].items() if name.endswith("difference")}
    expected = {"merged_max_difference", "pipeline_max_difference"}
    assert set(gate) == expected | ({"adapter_max_difference"} if method == "lora" else set())
    assert max(gate.values()) < 1e-3
    assert all(item["kind"] == "image" for item in results.get("gallery", []))

    from transformers import pipeline

    from startup_llm.models.scratch.image import build_image_processor

    told = [json.loads(line)[candidate] for line in (run / "predictions.jsonl").read_text().splitlines()]
    files = sorted((photos / "test").rglob("*.png"), key=lambda file: (file.parent.name, int(file.stem)))
    processor = build_image_processor(SIZE)
    classify = pipeline("image-classification", str(run / "model"), image_processor=processor, device="cpu")
    answers = [answer[0]["label"] for answer in classify([Image.open(file) for file in files])]
    assert answers == [results["labels"][label] for label in told]


def test_an_adapter_of_convolutions_leaves_the_statistics_of_batch_norms_alone(
    photos, checkpoints, tmp_path, run_recipe
):
    from safetensors.torch import load_file

    run = tmp_path / "run"
    words = ["--config", CONFIGS / "cifar10_vit.yaml", "--model.checkpoint", checkpoints / "resnet"]
    code, _, err = run_recipe("finetune", *words, "--data.data_dir", photos, "--run_dir", run, *QUICK)
    assert code == 0, err[-3000:]
    before, after = (load_file(f / "model.safetensors") for f in (checkpoints / "resnet", run / "model"))
    statistics = [name for name in before if "running" in name]
    assert statistics
    assert all((before[name] == after[name]).all() for name in statistics)
    convolutions = [name for name in before if name.endswith("convolution.weight") and "stages" in name]
    assert all((before[name] != after[name]).any() for name in convolutions)


def test_the_reference_models_learn_digits_and_an_adapter_goes_on_one_of_them(tmp_path, run_recipe):
    quick = [*QUICK[:2], "--train.max_steps", 20, "--data.max_test_rows", 100]
    for name in ("dnn", "vit"):
        words = ["--config", CONFIGS / f"digits_{name}.yaml", "--run_dir", tmp_path / name]
        code, _, err = run_recipe("pretrain", *words, *quick)
        assert code == 0, err[-3000:]
        results = read_results(tmp_path / name)
        assert set(results["models"]) == {"majority", "nearest-pixels", name}
        assert results["models"][name]["accuracy"]["value"] > 0.3
        assert results["reload_gate"]["merged_max_difference"] < 1e-3
    words = ["--config", CONFIGS / "digits_vit_lora.yaml", "--model.checkpoint", tmp_path / "vit" / "model"]
    code, _, err = run_recipe("finetune", *words, "--run_dir", tmp_path / "lora", *quick)
    assert code == 0, err[-3000:]
    results = read_results(tmp_path / "lora")
    assert results["checkpoint"]["trainable_parameters"] < results["checkpoint"]["parameters"] / 2
