from __future__ import annotations

import numpy as np
import pytest
import torch

from startup_llm.config import ScratchDnn
from startup_llm.errors import UserError
from startup_llm.models.checkpoints import Checkpoint
from startup_llm.tasks import load_task
from startup_llm.tasks.text_generation.options import GenerationData, ScratchGpt

TEXT = "".join(f"ANNA {number % 7}:\nWhat news, my lord of {'abcdefg'[number % 5]}?\n\n" for number in range(120))
MODEL = ScratchGpt(tokenizer="character", width=32, heads=2, layers=2, max_length_tokens=17, dropout=0.0)


@pytest.fixture
def task():
    return load_task("text-generation")


@pytest.fixture
def data(task, tmp_path):
    (tmp_path / "play.txt").write_text(TEXT)
    return task.load_data(
        GenerationData(train_file=str(tmp_path / "play.txt"), test_fraction=0.3, validation_fraction=0.1)
    )


def build(task, data):
    torch.manual_seed(0)
    tokenizer, found = task.reference_models.build(data, MODEL, "sdpa")
    return tokenizer, found.model.eval()


def compute(task, model, encoded, tokenizer):
    batch = task.build_collator(tokenizer)([{"input_ids": ids} for ids in encoded["input_ids"]])
    with torch.inference_mode():
        return task.compute_outputs(model, batch, tokenizer)


def test_every_token_but_the_first_is_predicted_once(task, data):
    tokenizer, _ = build(task, data)
    rows = data.splits["test"]
    encoded, _ = task.encode(rows, tokenizer)
    ids = [*encoded["input_ids"][0], *(token for block in encoded["input_ids"][1:] for token in block[1:])]
    assert tokenizer.decode(ids[:-1]) == "".join(rows["text"])
    assert ids[-1] == tokenizer.eos_token_id
    assert max(encoded["length"]) == 17
    assert all(a[-1] == b[0] for a, b in zip(encoded["input_ids"], encoded["input_ids"][1:], strict=False))


def test_decisions_are_sums_over_passages_of_the_model_s_own_loss(task, data):
    tokenizer, model = build(task, data)
    rows = data.splits["test"]
    encoded, _ = task.encode(rows, tokenizer)
    outputs = compute(task, model, encoded, tokenizer)
    batch = task.build_collator(tokenizer)(encoded.select_columns(["input_ids", "labels"]).to_list())
    loss = model(**batch)["loss"].item()
    decided = task.read_predictions(outputs, encoded, rows, data)
    assert len(decided) == len(rows) > 2
    nats, tokens = np.sum(decided, axis=0)
    assert tokens == int(task.count_targets(batch).sum()) == len("".join(rows["text"]))
    assert nats / tokens == pytest.approx(loss, rel=1e-5)
    assert decided[1][1] == len(rows["text"][1])


def test_padding_changes_no_output(task, data):
    tokenizer, model = build(task, data)
    encoded, _ = task.encode(data.splits["test"], tokenizer)
    short = encoded.select([len(encoded) - 1])
    assert short["length"][0] < 17
    together = compute(task, model, encoded, tokenizer)[-1]
    np.testing.assert_allclose(together, compute(task, model, short, tokenizer)[0], atol=1e-5)


def test_a_saved_gpt_is_a_gpt2_that_the_pipeline_continues(task, data, tmp_path):
    tokenizer, model = build(task, data)
    task.reference_models.save(model, tokenizer, data, tmp_path / "model")
    rows = data.splits["test"]
    encoded, _ = task.encode(rows, tokenizer)
    outputs = compute(task, model, encoded, tokenizer)
    plain, restored = (
        task.saved_model.load(str(tmp_path / "model")),
        task.saved_model.load_processor(str(tmp_path / "model")),
    )
    assert type(plain).__name__ == "GPT2LMHeadModel"
    again, _ = task.encode(rows, restored)
    for ours, theirs in zip(outputs, compute(task, plain, again, restored), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert task.saved_model.check_pipeline(str(tmp_path / "model"), rows, outputs) == 0.0


def test_the_check_sees_a_pipeline_that_writes_otherwise(task, data, tmp_path, monkeypatch):
    tokenizer, model = build(task, data)
    task.reference_models.save(model, tokenizer, data, tmp_path / "model")
    _, other = build(task, data)
    torch.nn.init.normal_(other.position_embedding.weight)
    task.reference_models.save(other, tokenizer, data, tmp_path / "other")
    load = type(task.saved_model).load
    monkeypatch.setattr(type(task.saved_model), "load", lambda self, path: load(self, str(tmp_path / "other")))
    assert task.saved_model.check_pipeline(str(tmp_path / "model"), data.splits["test"], []) == float("inf")


def test_an_encoder_and_another_reference_model_are_refused(task, data, tiny_checkpoint):
    path = tiny_checkpoint("bert")
    checkpoint = Checkpoint("tiny-bert", path, "local folder", None, "", None)
    from startup_llm.tasks.text_generation.model import build_causal_language_model

    with pytest.raises(UserError, match=r"tiny-bert has no weights cls.* needs; it is no language model: choose"):
        build_causal_language_model(checkpoint)
    with pytest.raises(UserError, match=r"model.name dnn: text-generation has no reference model of that name"):
        task.reference_models.build(data, ScratchDnn(), "sdpa")
