"""One loader for all tasks: what a checkpoint may lack is the head, and all else is refused or named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from startup_llm.config import ModelConfig
from startup_llm.errors import UserError
from startup_llm.models.checkpoints import load_checkpoint, load_tokenizer
from startup_llm.models.sequence_classifier import build_sequence_classifier
from startup_llm.tasks.token_classification.model import build_token_classifier

LABELS = ("delivery", "refund")
WEIGHT = "encoder.layer.0.output.dense.weight"


@pytest.fixture
def copied(tiny_checkpoint, tmp_path) -> Path:
    """A BERT's folder that a test may change."""
    return Path(shutil.copytree(tiny_checkpoint("bert"), tmp_path / "bert"))


def change_weights(folder: Path, change) -> None:
    weights = change(load_file(folder / "model.safetensors"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def drop(name: str):
    return lambda weights: {key: value for key, value in weights.items() if key != name}


def fill(name: str, number: float):
    def change(weights):
        weights[name][1].fill_(number)
        return weights

    return change


def change_config(folder: Path, **values) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def build(folder: Path, labels: tuple[str, ...] = LABELS, pooling: str = "auto"):
    checkpoint = load_checkpoint(ModelConfig(checkpoint=str(folder)))
    kind = "single_label_classification" if labels else "regression"
    tokenizer = load_tokenizer(checkpoint, 64)
    return build_sequence_classifier(checkpoint, tokenizer, label_names=labels, problem_type=kind, pooling=pooling)


def save(found, source: Path, folder: Path) -> Path:
    found.model.save_pretrained(folder)
    load_tokenizer(load_checkpoint(ModelConfig(checkpoint=str(source))), 64).save_pretrained(folder)
    return folder


def test_whole_checkpoint_loads_without_a_note_but_for_weights_that_are_not_used(copied):
    assert build(copied).notes == ()
    checkpoint = load_checkpoint(ModelConfig(checkpoint=str(copied)))
    change_weights(copied, lambda weights: weights | {"cls.predictions.bias": torch.zeros(3)})
    found = build_token_classifier(checkpoint, label_names=("O", "B-A"))
    assert found.notes == (f"weights of {copied} that are not used: cls.predictions, pooler.dense",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop(WEIGHT), f"has no weights bert.{WEIGHT}, which BertForSequence"),
        (lambda weights: {f"x.{key}": value for key, value in weights.items()}, "has no weights bert.embeddings"),
        (fill(WEIGHT, float("nan")), f": 64 of 2,048 weights in bert.{WEIGHT} are"),
        (fill(WEIGHT, float("inf")), f": 64 of 2,048 weights in bert.{WEIGHT} are"),
        (
            lambda weights: weights | {WEIGHT: torch.zeros(32, 65)},
            f": its weights bert.{WEIGHT} are 32 x 65, and its config.json asks for 32 x 64",
        ),
    ],
    ids=["missing", "names", "NaN", "infinite", "shape"],
)
def test_weights_outside_the_head_that_do_not_fit_are_refused(copied, change, message):
    change_weights(copied, change)
    with pytest.raises(UserError) as caught:
        build(copied)
    assert str(caught.value).startswith(f"checkpoint {copied}")
    assert message in str(caught.value)


@pytest.mark.parametrize("pooling", ["native", "mean"])
def test_blocks_beyond_those_of_the_config_are_refused(copied, pooling):
    change_config(copied, num_hidden_layers=1)
    with pytest.raises(UserError, match=r"has weights .*encoder\.layer\.1.*config\.json asks for 1 blocks"):
        build(copied, pooling=pooling)


def test_config_that_no_model_can_be_built_of_is_one_line(copied):
    change_config(copied, num_attention_heads=5)
    with pytest.raises(UserError, match=rf"^checkpoint {copied}: The hidden size"):
        build(copied)


@pytest.mark.parametrize("size", ["intermediate_size", "max_position_embeddings", "hidden_size", "num_hidden_layers"])
@pytest.mark.parametrize("value", [10**7, 10**9, 10**30])
def test_sizes_beyond_the_memory_are_refused_before_the_model_is_built(copied, size, value, monkeypatch):
    monkeypatch.setattr("startup_llm.models.memory.read_total_memory_bytes", lambda: 2**30)
    change_config(copied, **{size: value - value % 4})
    with pytest.raises(UserError, match=rf"^checkpoint {copied}: "):
        build(copied)


def test_memory_that_the_weights_take_is_named(copied, monkeypatch):
    monkeypatch.setattr("startup_llm.models.memory.read_total_memory_bytes", lambda: 1000)
    with pytest.raises(UserError, match=r"asks for \d\d,\d{3} weights, 0\.0 GiB in float32, and there are 0"):
        build(copied)


@pytest.mark.parametrize("labels", [("a", "b", "c"), ()], ids=["labels", "score"])
def test_head_of_another_size_is_new_and_the_rest_is_the_checkpoints(copied, tmp_path, labels):
    first = build(copied)
    run = save(first, copied, tmp_path / "run")
    second = build(run, labels)
    assert second.notes == (
        f"the head of {run} does not fit, so it is new (2 outputs before, {max(len(labels), 1)} now): classifier",
    )
    assert second.load_arguments["ignore_mismatched_sizes"]
    kept = second.model.state_dict()
    for key, value in first.model.state_dict().items():
        assert key.startswith("classifier.") or torch.equal(kept[key], value)


def test_head_for_as_many_other_labels_is_new_and_for_the_same_ones_kept(copied, tmp_path):
    first = build(copied)
    run = save(first, copied, tmp_path / "run")
    again, other = build(run), build(run, ("billing", "login"))
    assert again.notes == ()
    assert torch.equal(again.model.classifier.weight, first.model.classifier.weight)
    assert other.notes == (f"the head of {run} knows other labels, delivery, refund, so it is new: classifier",)
    assert not torch.isclose(other.model.classifier.weight, first.model.classifier.weight).any(dim=1).all()
    assert not other.model.classifier.bias.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (fill("classifier.weight", float("nan")), "are NaN or infinite"),
        (drop("classifier.weight"), "has no weights classifier.weight"),
        (fill("classifier.weight", 3e38), "of 12 is not finite"),
    ],
    ids=["NaN", "missing", "overflow"],
)
@pytest.mark.parametrize("recipe", ["predict", "evaluate"])
def test_damaged_model_ends_predict_and_evaluate_in_one_line(copied, tmp_path, run_recipe, recipe, change, message):
    model = save(build(copied), copied, tmp_path / "model")
    change_weights(model, change)
    rows = tmp_path / "rows.csv"
    texts = [f"where is my parcel {row},delivery\nrefund order {row},refund\n" for row in range(6)]
    rows.write_text("".join(["text,label\n", *texts]))
    words = ["--run", model, "--input", rows, "--output", tmp_path / "answers.csv"]
    if recipe == "evaluate":
        words = ["--model", model, "--data.test_file", rows, "--run_dir", tmp_path / "evaluation"]
    code, _, err = run_recipe(recipe, *words)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "answers.csv").exists()
