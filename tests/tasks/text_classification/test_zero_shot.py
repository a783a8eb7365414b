"""Classification by the names of the labels: no row is learnt from."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from conftest import MESSAGES

from startup_llm.command_line import parse_config
from startup_llm.config import FinetuneConfig, LabelledTextData
from startup_llm.data.classification import load_labelled_text
from startup_llm.errors import UserError
from startup_llm.models.checkpoints import load_checkpoint
from startup_llm.session import Session
from startup_llm.tasks import load_task
from startup_llm.training import finetuning
from startup_llm.training.speed import plan_speed


def write(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def prepare(file, checkpoint, *words):
    argv = ["--method", "zero-shot", "--data.train_file", str(file), "--model.checkpoint", str(checkpoint), *words]
    argv += ["--speed.compute_dtype", "float32", "--speed.attention_kernel", "eager"]
    config, section, _ = parse_config(FinetuneConfig, argv, train_section=True)
    task = load_task(config.task)
    data, found = task.load_data(config.data), load_checkpoint(config.model)
    processor, plan = task.load_processor(found, config.model), plan_speed(config.speed)
    return finetuning.prepare(task, data, config, found, processor, plan), config, section


def test_a_logit_is_twenty_times_the_cosine_of_a_text_with_a_label_s_name(tiny_checkpoint, tmp_path):
    names = {"refund": "Refund_my-order", "delivery": "where_is__my_parcel", "password": "reset password"}
    rows = [
        {"text": f"{text} {n}", "label": names[key]} for key, one in MESSAGES.items() for text in one for n in "ab"
    ]
    prepared, config, section = prepare(write(tmp_path / "rows.jsonl", rows), tiny_checkpoint("bert"))
    finetuning.start_from_label_names(prepared)
    trained = finetuning.train(prepared, Session(config, train_section=section))
    assert (trained.history, trained.trainable_parameters) == ([], 0)
    texts = ["where is my parcel", *prepared.data.splits["test"]["text"]]
    names = [name.replace("_", " ").replace("  ", " ").replace("-", " ") for name in prepared.data.label_names]
    assert names == ["Refund my order", "reset password", "where is my parcel"]
    logits, vectors = [], []
    for text in (*texts, *names):
        inputs = prepared.processor(text, return_tensors="pt")
        with torch.no_grad():
            vectors.append(prepared.task_model.model.bert(**inputs).pooler_output[0].numpy())
            logits.append(prepared.task_model.model(**inputs).logits[0].numpy())
    vectors = np.array(vectors)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = (
        20
        * np.linalg.norm(vectors[: len(texts)], axis=1, keepdims=True)
        * (units[: len(texts)] @ units[len(texts) :].T)
    )
    np.testing.assert_allclose(logits[: len(texts)], expected, atol=1e-4)
    assert expected[0].argmax() == 2  # a text that is a label's name is of that label


@pytest.mark.parametrize(
    ("labels", "pair", "message"),
    [
        ([0.5 + n for n in range(20)], {}, "compares a text with the names of classes; the labels are a regression"),
        ([["a"], ["a", "b"]] * 10, {}, "the labels are a multi_label_classification"),
        (["a", "b"] * 10, {"text_pair": "more"}, "the rows are pairs of texts"),
    ],
)
def test_what_has_no_names_of_classes_to_compare_is_refused(labels, pair, message, tiny_checkpoint, tmp_path):
    rows = [{"text": f"text {n}", **pair, "label": label} for n, label in enumerate(labels)]
    with pytest.raises(UserError, match=message):
        prepare(write(tmp_path / "rows.jsonl", rows), tiny_checkpoint("bert"))


def test_rows_without_a_label_are_told_of_zero_shot(tmp_path):
    (tmp_path / "a.csv").write_text("text\n" + "".join(f"a long message with number {n}\n" for n in range(12)))
    with pytest.raises(UserError, match=r"no label column .* a few rows of each .* --method zero-shot, which learns"):
        load_labelled_text(LabelledTextData(train_file=str(tmp_path / "a.csv")))
