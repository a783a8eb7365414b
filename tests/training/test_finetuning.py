from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file, save_file

from startup_llm.config import SHARED_TRAIN_DEFAULTS, FinetuneConfig, LoraConfig
from startup_llm.data.task_data import TaskData
from startup_llm.errors import UserError
from startup_llm.models.checkpoints import load_checkpoint, load_tokenizer
from startup_llm.models.sequence_classifier import find_output_layer
from startup_llm.run_folder import RunFolder
from startup_llm.session import Session
from startup_llm.tasks import load_task
from startup_llm.tasks.text_classification.options import TextClassificationModel
from startup_llm.training import finetuning
from startup_llm.training.inference import extract_features
from startup_llm.training.kept_states import KeptStates
from startup_llm.training.reload_gate import ReloadError, check_reload
from startup_llm.training.speed import SpeedPlan
from startup_llm.training.trainer import SampleWriter

PLAN = SpeedPlan("cpu", "float32", "float32", "eager", 64, ())
TEXTS = [
    "please refund my order", "where is my parcel", "i forgot my password",
    "i want my money back", "the parcel has not arrived", "reset my password please",
    "refund", "when does the parcel arrive", "the password does not work and i want to reset it",
    "refund the money for this order please", "parcel", "password",
]  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "single": {"problem_type": "single_label_classification", "names": ("refund", "parcel", "password")},
    "binary": {"problem_type": "single_label_classification", "names": ("no", "yes")},
    "multi-label": {"problem_type": "multi_label_classification", "names": ("a", "b", "c")},
    "regression": {"problem_type": "regression", "names": ()},
    "pairs": {"problem_type": "single_label_classification", "names": ("same", "other", "neither")},
}


def build_data(kind: str) -> TaskData:
    """Return twelve rows of training and of test, four of validation, of one kind of label."""
    rows = np.arange(len(TEXTS))
    columns: dict[str, Any] = {"text": TEXTS, "row": (rows + 1).tolist()}
    if kind == "multi-label":
        columns["label"] = np.stack([rows % 2, rows % 3 == 0, rows % 4 == 1], axis=1).astype(np.float32)
    elif kind == "regression":
        columns["label"] = (rows / 4).tolist()
    else:
        columns["label"] = (rows % len(KINDS[kind]["names"])).tolist()
    if kind == "pairs":
        columns["text_pair"] = TEXTS[::-1]
    every = datasets.Dataset.from_dict(columns)
    if kind == "multi-label":
        every = every.cast_column("label", datasets.List(datasets.Value("float32")))
    splits = datasets.DatasetDict(train=every, validation=every.select(range(4)), test=every.select(rows[::-1]))
    return TaskData(splits, KINDS[kind]["names"], KINDS[kind]["problem_type"])


@dataclass
class Steps:
    """A run that went through the recipe's own steps."""

    config: FinetuneConfig
    prepared: finetuning.Prepared
    before: dict[str, torch.Tensor]
    probe: np.ndarray
    probe_logits: np.ndarray
    trained: finetuning.Trained
    merged: Any
    run: RunFolder

    def read_predictions(self, outputs: Any, split: str) -> np.ndarray:
        """Turn outputs on a split into predictions."""
        prepared = self.prepared
        return prepared.task.read_predictions(
            outputs, prepared.encoded[split], prepared.data.splits[split], prepared.data
        )

    def reload(self) -> dict[str, Any]:
        """Call the reload gate as the recipe does."""
        test, prepared = self.prepared.data.splits["test"], self.prepared
        exact = prepared.predict(self.merged, prepared.encoded["test"])
        return check_reload(
            self.run,
            task=prepared.task.tag,
            rows=test,
            outputs=exact,
            base=prepared.checkpoint.path,
            load_arguments=prepared.task_model.load_arguments,
        )


def run_steps(
    base: Path,
    run_dir: Path,
    kind: str = "single",
    method: str = "lora",
    upper: int | None = None,
    plan: SpeedPlan = PLAN,
    **train: Any,
) -> Steps:
    torch.manual_seed(0)
    lora = LoraConfig(rank=4, upper_layers=upper)
    config = FinetuneConfig(method=method, model=TextClassificationModel(checkpoint=str(base)), lora=lora)
    task, data = load_task(config.task), build_data(kind)
    checkpoint = load_checkpoint(config.model)
    tokenizer = load_tokenizer(checkpoint, 64)
    prepared = finetuning.prepare(task, data, config, checkpoint, tokenizer, plan)
    before = {name: value.clone() for name, value in prepared.task_model.model.state_dict().items()}
    start = finetuning.start_from_probe(prepared)
    probe, prepared = start.predictions, dataclasses.replace(prepared, probe=start)
    probe_logits = np.stack(prepared.predict(prepared.task_model.model, prepared.encoded["test"]))
    section = {
        **SHARED_TRAIN_DEFAULTS,
        "max_steps": 2,
        "learning_rate": 0.01,
        "per_device_train_batch_size": 6,
        "warmup_steps": 0,
        "logging_steps": 1,
        "disable_tqdm": True,
        "seed": 0,
        **train,
    }
    with RunFolder(run_dir) as run:
        session = Session(config, run, section)
        trained = finetuning.train(prepared, session)
        merged = finetuning.save_model(trained, prepared, session)
        finetuning.check_against_training(trained, merged, prepared, prepared.encoded["test"])
    return Steps(config, prepared, before, probe, probe_logits, trained, merged, run)


@pytest.fixture(scope="module")
def finetuned(tiny_checkpoint, tmp_path_factory) -> Callable[..., Steps]:
    """Return a function that runs the steps, once for each set of arguments; tests leave its files alone."""
    made: dict[tuple, Steps] = {}

    def run(architecture: str = "bert", kind: str = "single", method: str = "lora") -> Steps:
        key = architecture, kind, method
        if key not in made:
            folder = tmp_path_factory.mktemp("runs") / "run"
            made[key] = run_steps(tiny_checkpoint(architecture), folder, kind, method)
        return made[key]

    return run


@pytest.fixture
def copied_run(finetuned, tmp_path) -> Callable[..., Steps]:
    """Return a function that runs the steps and copies the run's folder for a test to tamper with."""

    def copy(**options: str) -> Steps:
        steps = finetuned(**options)
        run = RunFolder(tmp_path / "copy")
        shutil.copytree(steps.run.path, run.path)
        return dataclasses.replace(steps, run=run)

    return copy


def logits_by_hand(model: Any, steps: Steps) -> np.ndarray:
    """Predict the test rows one by one, without padding, collator or batches."""
    found = []
    for row in steps.prepared.encoded["test"]:
        inputs = {name: torch.tensor([row[name]]) for name in row if name not in ("labels", "length")}
        with torch.inference_mode():
            found.append(model.eval()(**inputs).logits[0].numpy())
    return np.stack(found)


def test_two_steps_of_lora_move_the_head_and_every_adapted_layer_and_nothing_else(finetuned, architecture):
    steps = finetuned(architecture)
    after = steps.merged.state_dict()
    moved = {name for name in after if not torch.equal(after[name], steps.before[name])}
    adapted = {
        f"{name.removeprefix('base_model.model.')}.weight"
        for name, module in steps.trained.model.named_modules()
        if hasattr(module, "lora_A")
    }
    heads = tuple(f"{name}." for name in steps.prepared.task_model.head_modules)
    constants = tuple(f"{name}." for name in steps.prepared.task_model.constant_modules)
    assert adapted <= moved
    assert all(name.startswith(heads) for name in moved - adapted)
    assert not any(name.startswith(constants) for name in moved)
    output = next(n for n, m in steps.merged.named_modules() if m is find_output_layer(steps.merged))
    assert f"{output}.weight" in moved
    assert {entry["step"] for entry in steps.trained.history if "loss" in entry} == {1, 2}


def test_merged_model_equals_the_adapter_on_the_plain_base(finetuned, architecture):
    steps = finetuned(architecture)
    task, prepared = steps.prepared.task, steps.prepared
    base = task.saved_model.load(str(prepared.checkpoint.path), **prepared.task_model.load_arguments)
    base.config.pad_token_id = prepared.processor.pad_token_id
    adapter = logits_by_hand(PeftModel.from_pretrained(base, str(steps.run.adapter)), steps)
    merged = logits_by_hand(task.saved_model.load(str(steps.run.model)), steps)
    np.testing.assert_allclose(adapter, merged, atol=1e-3)
    assert merged.std() > 0.05


def test_training_changes_what_is_predicted(finetuned, architecture):
    steps = finetuned(architecture)
    after = np.stack(steps.prepared.predict(steps.merged, steps.prepared.encoded["test"]))
    assert np.abs(after - steps.probe_logits).max() > 1e-3


def test_batched_prediction_keeps_row_order_and_equals_prediction_one_by_one(finetuned, architecture):
    steps = finetuned(architecture)
    rows = steps.prepared.encoded["test"]
    assert rows["length"] != sorted(rows["length"], reverse=True)  # so that sorting alone would show
    together = np.stack(steps.prepared.predict(steps.merged, rows))
    np.testing.assert_allclose(together, logits_by_hand(steps.merged, steps), atol=1e-4)


def test_prediction_does_not_depend_on_the_batch_size(finetuned):
    steps = finetuned("bert")
    rows = steps.prepared.encoded["test"]
    one, all_ = (
        np.stack(steps.prepared.predict(steps.merged, rows, dataclasses.replace(PLAN, tokens_per_batch=tokens)))
        for tokens in (1, 10_000)
    )
    np.testing.assert_allclose(one, all_, atol=1e-4)


def test_probe_written_into_the_head_gives_the_probes_own_predictions(finetuned, architecture):
    steps = finetuned(architecture)
    decided = steps.read_predictions(steps.probe_logits, "test")
    np.testing.assert_array_equal(decided, steps.probe)
    assert len(set(steps.probe.tolist())) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_probe_of_every_kind_of_label_is_what_the_head_gives(finetuned, kind):
    steps = finetuned("bert", kind)
    decided = steps.read_predictions(steps.probe_logits, "test")
    np.testing.assert_allclose(decided, steps.probe, atol=1e-4)


@pytest.mark.parametrize("architecture_of_kind", ["bert", "gpt2"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_label_is_trained_and_saved(finetuned, kind, architecture_of_kind):
    steps = finetuned(architecture_of_kind, kind)
    names, config = KINDS[kind]["names"], steps.merged.config
    plain = steps.prepared.task.saved_model.load(str(steps.run.model))
    logits = logits_by_hand(plain, steps)
    assert logits.shape == (12, max(len(names), 1))
    assert plain.config.problem_type == config.problem_type == KINDS[kind]["problem_type"]
    if names:
        assert plain.config.id2label == dict(enumerate(names))
    losses = [entry["loss"] for entry in steps.trained.history if "loss" in entry]
    assert len(losses) == 2
    assert np.isfinite(losses).all()
    assert np.abs(logits - steps.probe_logits).max() > 1e-4


def test_pairs_are_told_apart_by_their_second_text(finetuned):
    steps = finetuned("bert", "pairs")
    task, tokenizer = steps.prepared.task, steps.prepared.processor
    rows = datasets.Dataset.from_dict({"text": ["refund", "refund"], "text_pair": ["parcel", "my password"]})
    encoded, _ = task.encode(rows, tokenizer)
    assert 1 in encoded["token_type_ids"][0]
    logits = steps.prepared.predict(steps.merged, encoded)
    assert np.abs(logits[0] - logits[1]).max() > 1e-3


def test_full_fine_tuning_moves_the_base_too_and_writes_no_adapter(finetuned):
    steps = finetuned("bert", method="full")
    after = steps.merged.state_dict()
    assert not torch.equal(
        after["bert.embeddings.word_embeddings.weight"], steps.before["bert.embeddings.word_embeddings.weight"]
    )
    assert steps.trained.trainable_parameters == sum(p.numel() for p in steps.merged.parameters())
    assert not steps.run.adapter.exists()
    np.testing.assert_allclose(
        logits_by_hand(steps.prepared.task.saved_model.load(str(steps.run.model)), steps),
        logits_by_hand(steps.merged, steps),
        atol=1e-4,
    )


def test_a_model_trained_in_bfloat16_computes_as_it_does_when_it_is_loaded(tiny_checkpoint, tmp_path):
    from transformers import AutoModelForSequenceClassification

    plan = dataclasses.replace(PLAN, compute_dtype="bfloat16")
    steps = run_steps(tiny_checkpoint("bert"), tmp_path / "run", method="full", plan=plan)
    fresh = AutoModelForSequenceClassification.from_pretrained(steps.run.model)
    np.testing.assert_allclose(logits_by_hand(steps.merged, steps), logits_by_hand(fresh, steps), atol=1e-5)


def test_full_fine_tuning_leaves_the_pooling_constants_alone(finetuned):
    steps = finetuned("roberta", method="full")
    after = steps.merged.state_dict()
    constants = [n for n in after if n.startswith(tuple(f"{c}." for c in steps.prepared.task_model.constant_modules))]
    assert len(constants) > 10
    assert all(torch.equal(after[name], steps.before[name]) for name in constants)


def test_probe_trains_the_output_layer_alone(finetuned):
    steps = finetuned("bert", method="probe")
    after = steps.merged.state_dict()
    moved = {name for name in after if not torch.equal(after[name], steps.before[name])}
    assert moved == {"classifier.weight", "classifier.bias"}
    assert steps.trained.trainable_parameters == 3 * 32 + 3
    assert steps.trained.history == []
    assert not steps.run.adapter.exists()
    plain = steps.prepared.task.saved_model.load(str(steps.run.model))
    np.testing.assert_allclose(logits_by_hand(plain, steps), steps.probe_logits, atol=1e-4)


def test_features_are_what_the_output_layer_reads(finetuned, architecture):
    steps = finetuned(architecture)
    output = find_output_layer(steps.merged)
    features = extract_features(
        steps.prepared.task, steps.merged, steps.prepared.encoded["test"], steps.prepared.processor, PLAN
    )
    with torch.inference_mode():
        logits = output(torch.from_numpy(features)).numpy()
    np.testing.assert_allclose(logits, logits_by_hand(steps.merged, steps), atol=1e-4)


def test_trained_weights_are_those_of_the_best_checkpoint(finetuned, tiny_checkpoint, tmp_path):
    steps = run_steps(tiny_checkpoint("bert"), tmp_path / "run", max_steps=-1, num_train_epochs=3)
    scores = {e["epoch"]: e["eval_accuracy"] for e in steps.trained.history if "eval_accuracy" in e}
    assert sorted(scores) == [1, 2, 3]
    rows, data = steps.prepared.encoded["validation"], steps.prepared.data
    decided = steps.read_predictions(steps.prepared.predict(steps.merged, rows), "validation")
    assert (decided == np.asarray(data.splits["validation"]["label"])).mean() == max(scores.values())


@pytest.mark.slow
def test_a_compiled_model_learns_and_is_saved_as_one_that_is_not(finetuned, tiny_checkpoint, tmp_path, monkeypatch):
    plain = finetuned().merged.state_dict()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    torch._dynamo.reset()
    steps = run_steps(tiny_checkpoint("bert"), tmp_path / "run", plan=dataclasses.replace(PLAN, compile=True))
    assert graphs
    steps.reload()  # raises where the saved forms differ
    for name, value in steps.merged.state_dict().items():
        torch.testing.assert_close(value, plain[name], atol=1e-3, rtol=0)  # Adam magnifies a rounding


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama"])
def test_an_adapter_above_kept_states_learns_what_it_learns_above_computed_ones(
    architecture, tiny_checkpoint, tmp_path, monkeypatch
):
    read, reads = KeptStates._read, []
    monkeypatch.setattr(KeptStates, "_read", lambda self, given: reads.append(len(given)) or read(self, given))
    words = {"base": tiny_checkpoint(architecture), "upper": 1, "max_steps": -1, "num_train_epochs": 3}
    kept = run_steps(run_dir=tmp_path / "kept", **words)
    layers = kept.trained.model.get_base_model().config.num_hidden_layers
    assert sum(reads) == 3 * 12 * (layers - 1)  # every epoch, by each lower block: the probe has computed them
    monkeypatch.setattr(finetuning, "find_lower_blocks", lambda model, learning: [])
    computed = run_steps(run_dir=tmp_path / "computed", **words).merged.state_dict()
    assert sum(reads) == 3 * 12 * (layers - 1)
    for name, value in kept.merged.state_dict().items():
        torch.testing.assert_close(value, computed[name], atol=1e-3, rtol=0)  # Adam magnifies a rounding


def test_early_stopping_without_validation_rows_is_refused(tiny_checkpoint, tmp_path):
    config = FinetuneConfig(
        model=TextClassificationModel(checkpoint=str(tiny_checkpoint("bert"))),
        early_stopping_patience=2,
        lora=LoraConfig(rank=2),
    )
    task, data = load_task(config.task), build_data("single")
    del data.splits["validation"]
    checkpoint = load_checkpoint(config.model)
    prepared = finetuning.prepare(task, data, config, checkpoint, load_tokenizer(checkpoint, 64), PLAN)
    with RunFolder(tmp_path / "run") as run, pytest.raises(UserError, match=r"set data\.validation_fraction above 0$"):
        finetuning.train(prepared, Session(config, run, SHARED_TRAIN_DEFAULTS))


def test_what_times_an_epoch_hears_of_its_end_before_samples_are_written(tiny_checkpoint, tmp_path, monkeypatch):
    heard = []

    class Clock(transformers.TrainerCallback):
        def on_epoch_end(self, *args, **kwargs):
            heard.append("clock")

    monkeypatch.setattr(SampleWriter, "on_epoch_end", lambda *args, **kwargs: heard.append("samples"))
    config = FinetuneConfig(model=TextClassificationModel(checkpoint=str(tiny_checkpoint("bert"))))
    checkpoint = load_checkpoint(config.model)
    tokenizer = load_tokenizer(checkpoint, 64)
    prepared = finetuning.prepare(load_task(config.task), build_data("single"), config, checkpoint, tokenizer, PLAN)
    section = {**SHARED_TRAIN_DEFAULTS, "num_train_epochs": 1, "disable_tqdm": True}
    with RunFolder(tmp_path / "run") as run:
        finetuning.train(prepared, Session(config, run, section), lambda trainer: trainer.add_callback(Clock()))
    assert heard == ["clock", "samples"]


def test_what_is_cut_is_counted(tiny_checkpoint):
    config = FinetuneConfig(model=TextClassificationModel(checkpoint=str(tiny_checkpoint("bert"))))
    checkpoint, data = load_checkpoint(config.model), build_data("single")
    tokenizer = load_tokenizer(checkpoint, 6)
    prepared = finetuning.prepare(load_task(config.task), data, config, checkpoint, tokenizer, PLAN)
    whole = [len(tokenizer(text, truncation=False)["input_ids"]) for text in TEXTS]
    cut = prepared.truncation["train"]
    assert cut.rows == sum(length > 6 for length in whole) > 0
    assert cut.rows_share == cut.rows / 12
    assert cut.tokens_share == pytest.approx(sum(max(length - 6, 0) for length in whole) / sum(whole))
    assert prepared.encoded["train"]["length"] == [min(length, 6) for length in whole]
    assert all(ids[-1] == tokenizer.sep_token_id for ids in prepared.encoded["train"]["input_ids"])


@pytest.mark.fresh_gate
@pytest.mark.parametrize("architecture_of_run", ["roberta", "gpt2"])
def test_reload_gate_passes_a_good_run(copied_run, architecture_of_run):
    gate = copied_run(architecture=architecture_of_run).reload()
    assert gate["rows"] == 12
    assert gate["merged_max_difference"] <= gate["tolerance"] == 1e-3
    assert gate["adapter_max_difference"] <= gate["tolerance"]


@pytest.mark.parametrize(("kind", "method"), [("regression", "lora"), ("multi-label", "full")])
def test_reload_gate_passes_other_labels_and_methods(copied_run, kind, method):
    gate = copied_run(architecture="bert", kind=kind, method=method).reload()
    assert gate["merged_max_difference"] <= 1e-3
    assert ("adapter_max_difference" in gate) is (method == "lora")


def edit_weights(file: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})


def change_one_adapter_layer(weights: dict[str, torch.Tensor]) -> None:
    name = next(name for name in weights if "lora_B" in name)
    weights[name] = torch.eye(*weights[name].shape)  # an equal shift of all would be lost in the LayerNorm behind it


def turn_the_classifier_round(weights: dict[str, torch.Tensor]) -> None:
    weights["classifier.weight"].neg_()


def delete_the_classifier(weights: dict[str, torch.Tensor]) -> None:
    names = [name for name in weights if "classifier" in name]
    assert names
    for name in names:
        del weights[name]


@pytest.mark.fresh_gate
@pytest.mark.parametrize("change", [change_one_adapter_layer, delete_the_classifier])
def test_reload_gate_finds_a_wrong_adapter(copied_run, change):
    steps = copied_run(architecture="bert")
    edit_weights(steps.run.adapter / "adapter_model.safetensors", change)
    with pytest.raises(ReloadError, match=r"^the reloaded adapter differs from the trained model by \d|does not load"):
        steps.reload()


def test_reload_gate_finds_a_wrong_merged_model(copied_run):
    steps = copied_run(architecture="bert")
    edit_weights(steps.run.model / "model.safetensors", turn_the_classifier_round)
    with pytest.raises(ReloadError, match=r"^the reloaded merged differs from the trained model by \d"):
        steps.reload()


def test_reload_gate_finds_labels_in_another_order(copied_run):
    steps = copied_run(architecture="bert")
    file = steps.run.model / "config.json"
    file.write_text(file.read_text().replace('"refund": 0', '"refund": 1').replace('"parcel": 1', '"parcel": 0'))
    with pytest.raises(ReloadError, match=r"^the reloaded pipeline differs"):
        steps.reload()


@pytest.mark.fresh_gate
def test_reload_gate_finds_a_missing_tokenizer(copied_run):
    steps = copied_run(architecture="bert")
    for file in steps.run.model.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ReloadError):
        steps.reload()


@pytest.mark.fresh_gate
def test_reload_gate_shows_why_a_model_does_not_load(copied_run):
    steps = copied_run(architecture="bert")
    (steps.run.model / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ReloadError, match=r"(?s)^the saved model does not load in a fresh process:\n.*Error"):
        steps.reload()


def test_saved_model_that_is_not_the_trained_one_is_found_at_once(finetuned):
    steps = finetuned("bert")
    other = steps.prepared.rebuild(steps.config)
    with pytest.raises(ReloadError, match=r"^the saved model's logits differ from the trained model's by \d"):
        finetuning.check_against_training(steps.trained, other, steps.prepared, steps.prepared.encoded["test"])


@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_states_that_the_probe_kept_in_float32_are_learnt_above_in_bfloat16(architecture, tiny_checkpoint, tmp_path):
    plan = dataclasses.replace(PLAN, compute_dtype="bfloat16", frozen_dtype="bfloat16")
    steps = run_steps(tiny_checkpoint(architecture), tmp_path / "run", upper=1, plan=plan)
    losses = [entry["loss"] for entry in steps.trained.history if "loss" in entry]
    assert len(losses) == 2
    assert np.isfinite(losses).all()


def test_test_rows_are_answered_in_float32_whatever_type_training_computes_in(tiny_checkpoint, tmp_path):
    plan = dataclasses.replace(PLAN, compute_dtype="bfloat16", frozen_dtype="bfloat16")
    steps = run_steps(tiny_checkpoint("bert"), tmp_path / "run", plan=plan)
    rows = steps.prepared.encoded["test"]
    answers = np.stack(steps.prepared.predict(steps.merged, rows))
    np.testing.assert_array_equal(answers, np.stack(steps.prepared.predict(steps.merged, rows, PLAN)))
    assert not np.array_equal(answers, np.stack(steps.prepared.predict(steps.merged, rows, plan)))
