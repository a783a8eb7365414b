"""What the arguments and the optimizer of a run are, whatever the launcher says."""

from __future__ import annotations

import dataclasses

import datasets
import pytest
import torch
from text_to_text_checkpoints import build_text_to_text_checkpoint
from transformers.trainer_pt_utils import LabelSmoother

from startup_llm.config import AlignConfig, FinetuneConfig, PretrainConfig
from startup_llm.data.task_data import TaskData
from startup_llm.errors import UserError
from startup_llm.models.checkpoints import load_checkpoint
from startup_llm.models.task_model import TaskModel
from startup_llm.session import Session
from startup_llm.tasks import TASKS, load_task
from startup_llm.tasks.base import SingleLabelTask
from startup_llm.tasks.text_to_text.options import ScratchEncoderDecoder, TextToTextModel
from startup_llm.training import finetuning, pretraining
from startup_llm.training.preferences import check_preference_tuning
from startup_llm.training.speed import SpeedPlan, plan_speed
from startup_llm.training.train_section import check_train_section
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


TEXTS = ["a red dog", "two blue cats sleep", "the dog", "a woman eats bread today"]


def build_smoothing(model_type, folder):
    """Return a trainer of a tiny model that smooths labels by 0.3, and a padded batch."""
    base = build_text_to_text_checkpoint(model_type, folder / "base", TEXTS)
    task, options = load_task("translation"), TextToTextModel(checkpoint=str(base))
    rows = datasets.Dataset.from_dict({"text": TEXTS, "target": TEXTS[::-1]})
    checkpoint = load_checkpoint(options)
    data = TaskData(datasets.DatasetDict(train=rows), ())
    processor = task.load_processor(checkpoint, options)
    model = task.build_model(checkpoint, processor, data, options, "eager").model
    encoded, _ = task.encode(rows, processor)
    trainer = HeadTrainer(
        model=model,
        args=build_training_arguments(
            {"report_to": "none", "label_smoothing_factor": 0.3}, folder, build_plan("float32"), ""
        ),
        train_dataset=encoded,
        data_collator=task.build_collator(processor),
        processing_class=processor,
        task=task,
        head_parameters=[],
        head_learning_rate=0.0,
        tokens_per_batch=1000,
    )
    columns = [name for name in encoded.column_names if name == "length" or name.startswith("_")]
    return trainer, trainer.data_collator(encoded.remove_columns(columns).to_list())


@pytest.mark.parametrize("model_type", ["t5", "bart"])
def test_smoothed_labels_of_an_encoder_decoder_give_the_formula_and_its_decoder_reads_the_targets(
    model_type, tmp_path, tiny_checkpoint
):
    trainer, batch = build_smoothing(model_type, tmp_path)
    model, read = trainer.model.eval(), []
    for side in (model.get_encoder(), model.get_decoder()):
        side.register_forward_pre_hook(lambda _, args, named: read.append(named["input_ids"]), with_kwargs=True)
    kept = {name: values.clone() for name, values in batch.items()}
    loss, outputs = trainer.compute_loss(model, batch, return_outputs=True)
    source, target = read[:2]
    assert source.equal(kept["input_ids"])
    start, pad = model.config.decoder_start_token_id, model.config.pad_token_id
    shifted = torch.cat([torch.full_like(kept["labels"][:, :1], start), kept["labels"][:, :-1]], dim=1)
    assert target.equal(shifted.masked_fill(shifted == -100, pad))
    assert all(values.equal(kept[name]) for name, values in batch.items())
    logits = model(**kept)["logits"]
    torch.testing.assert_close(outputs["logits"], logits)
    log_p, real = logits.log_softmax(-1), kept["labels"] != -100
    right = log_p.gather(-1, kept["labels"].clamp(min=0)[..., None])[..., 0]
    torch.testing.assert_close(loss, -(0.7 * right + 0.3 * log_p.mean(-1))[real].mean())
    torch.testing.assert_close(loss, LabelSmoother(epsilon=0.3)({"logits": logits}, kept["labels"]))


@pytest.mark.parametrize("model_type", ["t5", "bart"])
def test_parts_of_a_batch_give_the_gradient_of_its_smoothed_labels(model_type, tmp_path):
    from startup_llm.models.pretrained import set_dropout

    trainer, batch = build_smoothing(model_type, tmp_path)
    set_dropout(trainer.model, 0.0)
    trainer.current_gradient_accumulation_steps = 1
    gradients = []
    for budget in (1000, 6):
        trainer._tokens_per_batch = budget
        trainer.training_step(trainer.model, dict(batch))
        gradients.append(trainer.model.get_input_embeddings().weight.grad.clone())
        trainer.model.zero_grad()
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_a_task_says_whether_its_labels_can_be_smoothed():
    tokens = {
        "text-generation": "next", "translation": "own", "summarization": "own", "token-classification": "own",
        "automatic-speech-recognition": "own",
    }  # fmt: skip
    assert {tag: load_task(tag).token_logits for tag in TASKS} == {tag: tokens.get(tag) for tag in TASKS}
    classes = {tag for tag in TASKS if isinstance(load_task(tag), SingleLabelTask)}
    assert classes == {"image-classification", "audio-classification"}


def prepare_rows(problem_type="", tag="text-classification", network=None, plan=None):
    """Return what `check_train_section` reads of a run."""
    task = load_task(tag)
    data = TaskData(datasets.DatasetDict(), (), problem_type)
    return finetuning.Prepared(
        task, data, pretraining.RANDOM_WEIGHTS, None, TaskModel(network or Network()), {}, {}, plan or build_plan()
    )


@pytest.mark.parametrize(
    ("tag", "problem_type", "told"),
    [
        ("text-classification", "regression", "text-classification on scores"),
        ("text-classification", "multi_label_classification", "text-classification of several labels a row"),
        ("object-detection", "", "object-detection"),
        ("text-to-speech", "", "text-to-speech"),
        ("sentence-similarity", "", "sentence-similarity"),
        ("question-answering", "", "question-answering"),
    ],
)
def test_label_smoothing_is_refused_where_no_label_is_a_class(tag, problem_type, told):
    session = Session(FinetuneConfig(), train_section={"label_smoothing_factor": 0.1})
    with pytest.raises(UserError) as caught:
        check_train_section(session, prepare_rows(problem_type, tag))
    assert str(caught.value).startswith(f"train.label_smoothing_factor 0.1: the loss of {told} with Network is no ")
    assert "\n" not in str(caught.value)
    check_train_section(session, prepare_rows("single_label_classification"))


def test_label_smoothing_is_refused_for_ctc():
    prepared = prepare_rows(tag="automatic-speech-recognition")
    session = Session(FinetuneConfig(), train_section={"label_smoothing_factor": 0.1})
    check_train_section(session, prepared)
    prepared.task.token_logits = None  # as a model with CTC sets it
    with pytest.raises(UserError, match=r"^train\.label_smoothing_factor 0\.1: .* is no cross-entropy"):
        check_train_section(session, prepared)


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"neftune_noise_alpha": 5.0}, "train.neftune_noise_alpha 5.0: Network has no embeddings of tokens"),
        ({"activation_checkpointing": True}, "train.activation_checkpointing True: Network keeps every activation"),
        ({"gradient_checkpointing": True}, "train.activation_checkpointing True: Network keeps every activation"),
        ({"train_sampling_strategy": "sequential"}, "train.train_sampling_strategy sequential: rows alike in length"),
    ],
)
def test_train_option_that_the_model_or_the_plan_would_ignore_is_refused(section, told):
    with pytest.raises(UserError) as caught:
        check_train_section(Session(FinetuneConfig(), train_section=section), prepare_rows())
    assert str(caught.value).startswith(told)


def test_labels_of_a_model_from_scratch_are_smoothed(run_recipe, tmp_path):
    rows = [f"{text} {number},c{place % 2},{place}" for number in range(8) for place, text in enumerate(TEXTS)]
    (tmp_path / "rows.csv").write_text("text,label,score\n" + "\n".join(rows) + "\n")
    words = ["--model.name", "dnn", "--data.train_file", tmp_path / "rows.csv", "--train.max_steps", 2]
    words += ["--train.label_smoothing_factor", 0.2, "--evaluation.resamples", 20, "--train.disable_tqdm", "true"]
    code, _, err = run_recipe("pretrain", *words, "--data.label_column", "label", "--run_dir", tmp_path / "classes")
    assert code == 0, err[-3000:]
    code, _, err = run_recipe("pretrain", *words, "--data.label_column", "score", "--run_dir", tmp_path / "scores",
                              "--data.problem_type", "regression")  # fmt: skip
    assert (code, err.count("\n")) == (2, 1), err
    assert "the loss of text-classification on scores with TextDnn is no cross-entropy" in err


def test_labels_are_not_smoothed_twice():
    config = PretrainConfig(task="translation", model=ScratchEncoderDecoder(label_smoothing=0.2))
    session = Session(config, train_section={"label_smoothing_factor": 0.1})
    with pytest.raises(UserError, match=r"smooth the same labels; leave one out$"):
        check_train_section(session, prepare_rows(tag="translation"))


def test_a_tracker_that_is_not_installed_is_named(tmp_path):
    with pytest.raises(UserError, match=r"^train\.report_to 'no-tracker': expected none or an installed one"):
        build_training_arguments({"report_to": "no-tracker"}, tmp_path, build_plan(), "")


def test_a_schedule_that_lacks_its_arguments_or_does_not_know_them_is_named(tmp_path):
    trainer = HeadTrainer.__new__(HeadTrainer)
    trainer.optimizer, trainer.lr_scheduler = torch.optim.SGD(Network().parameters(), lr=0.1), None
    for section, told in (
        ({"lr_scheduler_kwargs": {"a": 1}}, "linear with train.lr_scheduler_kwargs {'a': 1}: "),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "cosine_with_min_lr with train.lr_scheduler_kwargs "),
    ):
        trainer.args = build_training_arguments({"report_to": "none", **section}, tmp_path, build_plan(), "")
        with pytest.raises(UserError) as caught:
            trainer.create_scheduler(4)
        assert str(caught.value).startswith(f"train.lr_scheduler_type {told}")


def test_rows_of_training_alone_are_dropped_with_the_last_batch(tmp_path):
    trainer, _ = build_smoothing("t5", tmp_path)
    trainer.args.dataloader_drop_last, trainer.args.per_device_eval_batch_size = True, 3
    trainer.eval_dataset = trainer.train_dataset.select(range(4))
    assert [len(batch["labels"]) for batch in trainer.get_eval_dataloader()] == [3, 1]
    assert trainer.args.dataloader_drop_last
    assert trainer._count_own_rows(3, trainer.train_dataset, 3) == 3


def test_dropping_every_training_row_is_refused():
    prepared = dataclasses.replace(prepare_rows(), encoded={"train": datasets.Dataset.from_dict({"labels": [0, 1]})})
    section = {"dataloader_drop_last": True, "per_device_train_batch_size": 8}
    with pytest.raises(UserError, match=r"^train\.dataloader_drop_last True leaves out all 2 training rows"):
        check_train_section(Session(FinetuneConfig(), train_section=section), prepared)


def test_preferences_smooth_no_labels():
    section = {"label_smoothing_factor": 0.1, "per_device_train_batch_size": 8, "train_sampling_strategy": "random"}
    with pytest.raises(UserError, match=r"^train\.label_smoothing_factor 0\.1: dpo compares answers"):
        check_preference_tuning(AlignConfig(), section)


def test_the_best_checkpoint_is_kept_where_only_better_ones_are_saved(tmp_path):
    section = {"report_to": "none", "save_strategy": "best", "eval_strategy": "epoch"}
    arguments = build_training_arguments(section, tmp_path, build_plan(), "accuracy")
    assert (arguments.load_best_model_at_end, arguments.metric_for_best_model) == (True, "accuracy")
    for changed, metric in ({}, ""), ({"eval_strategy": "no"}, "accuracy"):
        with pytest.raises(UserError, match=r"^train\.save_strategy best: no checkpoint is the best"):
            build_training_arguments(section | changed, tmp_path, build_plan(), metric)
