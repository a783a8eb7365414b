"""Text generation on conversations: what is learnt, packing, and each architecture with its adapter."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from chat_checkpoints import build_chat_checkpoint, build_chat_tokenizer
from conftest import DECODERS
from transformers import TrainingArguments

from startup_llm.config import DataConfig, LoraConfig, ModelConfig
from startup_llm.data.chat_templates import TEMPLATES
from startup_llm.errors import UserError
from startup_llm.models.adapters import add_lora
from startup_llm.models.checkpoints import load_checkpoint
from startup_llm.tasks import load_task
from startup_llm.tasks.conversations import cut_windows, encode_prompt, pack_conversations
from startup_llm.training.trainer import _select_rows

TASK = load_task("text-generation")
ANSWERS = ["on its way", "yes, we refund the money for this order", "reset it"]


def load_rows(tmp_path, rows=9, turns=1):
    lines = []
    for number in range(rows):
        messages = []
        for turn in range(turns):
            messages.append({"role": "user", "content": f"where is my parcel {number} {turn}?"})
            messages.append({"role": "assistant", "content": ANSWERS[(number + turn) % 3] + "!" * number})
        lines.append(json.dumps({"messages": messages}))
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    data = DataConfig(train_file=str(tmp_path / "rows.jsonl"), test_fraction=0.2, validation_fraction=0)
    return TASK.load_data(data)


def build(tmp_path, model_type, data, **settings):
    checkpoint = load_checkpoint(
        ModelConfig(checkpoint=str(build_chat_checkpoint(model_type, tmp_path / "base", **settings)))
    )
    config = ModelConfig(checkpoint=checkpoint.name, chat_template="chatml")
    tokenizer = TASK.load_processor(checkpoint, config)
    return checkpoint, tokenizer, TASK.build_model(checkpoint, tokenizer, data, config, "sdpa").model.eval()


def collate(tokenizer, encoded):
    unused = [name for name in encoded.column_names if name == "length" or name.startswith("_")]
    return TASK.build_collator(tokenizer)(encoded.remove_columns(unused).to_list())


@pytest.mark.parametrize("model_type", DECODERS)
def test_packed_conversations_have_the_logits_and_the_loss_of_unpacked_ones(tmp_path, model_type):
    data = load_rows(tmp_path)
    _, tokenizer, model = build(tmp_path, model_type, data)
    encoded, _ = TASK.encode(data.splits["train"], tokenizer)
    packed = TASK.pack(encoded, tokenizer)
    assert 1 < len(packed) < len(encoded)
    assert max(packed["length"]) <= 256
    assert sum(packed["length"]) == sum(encoded["length"])
    together, alone = collate(tokenizer, packed), collate(tokenizer, encoded)
    assert "attention_mask" not in together
    model.config.use_cache = TrainingArguments("unused").use_cache  # as a Trainer sets it
    with torch.no_grad():
        apart, joined = model(**alone), model(**together)
    logits = {}
    for row, ids in enumerate(encoded["input_ids"]):
        logits[tuple(ids)] = apart.logits[row, : len(ids)]
    for row, (ids, places) in enumerate(zip(packed["input_ids"], packed["position_ids"], strict=True)):
        starts = [at for at, place in enumerate(places) if place == 0] + [len(ids)]
        for start, stop in itertools.pairwise(starts):
            own = logits.pop(tuple(ids[start:stop]))
            torch.testing.assert_close(joined.logits[row, start:stop], own, atol=1e-4, rtol=1e-4)
    assert not logits
    torch.testing.assert_close(joined.loss, apart.loss)
    assert int(TASK.count_targets(together).sum()) == int(TASK.count_targets(alone).sum())


@pytest.mark.parametrize("model_type", DECODERS)
def test_an_adapter_is_merged_into_each_architecture_and_stops_at_the_end_of_a_turn(tmp_path, model_type):
    data = load_rows(tmp_path, rows=5)
    checkpoint, tokenizer, model = build(tmp_path, model_type, data)
    assert model.generation_config.eos_token_id == [301, 0]
    tied = model.config.tie_word_embeddings
    adapted = add_lora(model, LoraConfig(rank=4), task_type=TASK.peft_task_type, base_name=checkpoint.name)
    targets = {name.rsplit(".", 1)[-1] for name in adapted.peft_config["default"].target_modules}
    gated = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert targets == ({"c_attn", "c_fc", "c_proj"} if model_type == "gpt2" else gated)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    encoded, _ = TASK.encode(data.splits["test"], tokenizer)
    batch = collate(tokenizer, encoded)
    with torch.no_grad():
        before = adapted(**batch).logits
    merged = adapted.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    tokenizer.save_pretrained(tmp_path / "merged")
    plain = TASK.load_plain(str(tmp_path / "merged"))
    assert (plain.get_output_embeddings().weight is plain.get_input_embeddings().weight) is tied
    assert plain.generation_config.eos_token_id == [301, 0]
    with torch.no_grad():
        torch.testing.assert_close(plain(**batch).logits, before, atol=1e-3, rtol=1e-3)
    assert TASK.check_pipeline(str(tmp_path / "merged"), data.splits["test"], []) == 0.0


def test_a_checkpoint_s_own_ends_of_generation_are_kept(tmp_path):
    from transformers import GenerationConfig

    folder = build_chat_checkpoint("qwen3", tmp_path / "base", TEMPLATES["chatml"])
    GenerationConfig(eos_token_id=[300, 299]).save_pretrained(folder)
    config = ModelConfig(checkpoint=str(folder))
    checkpoint = load_checkpoint(config)
    tokenizer = TASK.load_processor(checkpoint, config)
    model = TASK.build_model(checkpoint, tokenizer, load_rows(tmp_path), config, "sdpa").model
    assert model.generation_config.eos_token_id == [301, 300, 299, 0]


@pytest.mark.real_data
def test_dialogsum_s_dialogues_are_conversations_that_n_grams_predict_somewhat(real_data):
    from startup_llm.evaluation.baselines import predict_baselines
    from startup_llm.evaluation.metrics import get_metric

    speakers = {"#Person1#": "user", "#Person2#": "assistant"}
    path = str(real_data / "dialogsum" / "dev.jsonl")
    data = TASK.load_data(DataConfig(train_file=path, text_column="dialogue", speakers=speakers, skip_bad=True))
    assert {name: len(rows) for name, rows in data.splits.items()} == {"train": 356, "validation": 40, "test": 99}
    references = TASK.references(data.splits["test"])
    bits = [
        get_metric("bits_per_byte").compute(references, predictions)
        for predictions in predict_baselines(TASK.baselines(data), data).values()
    ]
    assert 4.6 > bits[0] > bits[1] + 1 > bits[2] + 1.2 > 3


def test_the_assistant_alone_is_learnt_and_scored(tmp_path):
    data = load_rows(tmp_path, turns=2)
    _, tokenizer, model = build(tmp_path, "llama", data)
    rows = data.splits["test"]
    encoded, truncation = TASK.encode(rows, tokenizer)
    assert truncation.rows == 0
    for labels, words in zip(encoded["labels"], TASK.references(rows), strict=True):
        said = tokenizer.decode([label for label in labels if label != -100])
        assert said == words.replace("\n", "<|im_end|>")
    batch = collate(tokenizer, encoded)
    with torch.no_grad():
        outputs = TASK.compute_outputs(model, {k: v for k, v in batch.items() if k != "labels"}, tokenizer)
        loss = model(**batch).loss.item()
    nats, tokens = np.sum(TASK.decide(outputs, encoded, rows, data), axis=0)
    assert tokens == int(TASK.count_targets(batch).sum())
    assert nats / tokens == pytest.approx(loss, rel=1e-5)


def test_a_long_conversation_is_read_in_windows_that_predict_each_word_once(tmp_path):
    data = load_rows(tmp_path, turns=6)
    tokenizer = build_chat_tokenizer(TEMPLATES["chatml"])
    rows = data.splits["test"]
    tokenizer.model_max_length = 1000
    whole, _ = TASK.encode(rows, tokenizer)
    tokenizer.model_max_length = 64
    encoded, truncation = TASK.encode(rows, tokenizer)
    assert truncation.rows == len(rows) < len(encoded)
    assert max(encoded["length"]) == 64
    for place in range(len(rows)):
        wanted = [label for label in whole["labels"][place] if label != -100]
        own = [row for row in encoded if row["_rows"][0] == place]
        assert [label for row in own for label in row["labels"] if label != -100] == wanted
    nats = [np.ones(length - 1) for length in encoded["length"]]
    decided = TASK.decide(nats, encoded, rows, data)
    assert [tokens for _, tokens in decided] == [sum(x != -100 for x in labels) for labels in whole["labels"]]
    assert cut_windows(10, 4) == [(0, 4, 0), (2, 6, 4), (4, 8, 6), (6, 10, 8)]
    assert cut_windows(3, 4) == [(0, 3, 0)]


def test_conversations_too_long_for_the_model_are_checked_by_the_beginning_of_a_question(tmp_path):
    tokenizer = build_chat_tokenizer(TEMPLATES["chatml"])
    tokenizer.model_max_length = 64
    rows = load_rows(tmp_path, turns=8).splits["test"]
    prompts = TASK._list_prompts(rows, tokenizer, 24)
    assert prompts
    assert all(len(encode_prompt(tokenizer, prompt, 1000)) <= 40 for prompt in prompts)


def test_packing_fills_rows_and_running_text_is_not_packed(tmp_path):
    import datasets

    lengths = [5, 3, 3, 2, 2, 1]
    rows = [[number] * length for number, length in enumerate(lengths)]
    packed = pack_conversations(
        datasets.Dataset.from_dict({"input_ids": rows, "labels": rows, "length": lengths}), size=8
    )
    assert sorted(packed["length"]) == [8, 8]
    assert all(places == [p for _, p in sorted(enumerate(places))] for places in packed["position_ids"])
    running = datasets.Dataset.from_dict({"input_ids": [[1, 2]], "labels": [[1, 2]], "length": [2]})
    with pytest.raises(UserError, match=r"data.packing: running text fills its blocks"):
        TASK.pack(running, build_chat_tokenizer())
    with pytest.raises(UserError, match=r"data.packing: text-classification packs no rows"):
        load_task("text-classification").pack(running, None)


def test_parts_of_a_packed_batch_keep_their_labels_beside_their_tokens():
    labels = torch.tensor([[-100, -100, 5, 6], [-100, 7, -100, -100]])
    part = _select_rows({"input_ids": torch.ones(2, 4), "labels": labels}, torch.tensor([1]), 4)
    assert part["labels"].tolist() == [[-100, 7, -100, -100]]


def test_preferences_are_judged_against_the_model_before():
    import datasets

    conversation = [{"role": "user", "content": "where is my parcel?"}]
    answers = [{"role": "assistant", "content": words} for words in ANSWERS[:2]]
    row = {"row": 1, "chosen": [*conversation, answers[0]], "rejected": [*conversation, answers[1]]}
    rows = datasets.Dataset.from_list([row, {**row, "row": 2}])
    tokenizer = build_chat_tokenizer(TEMPLATES["chatml"])
    tokenizer.model_max_length = 256
    encoded, _ = TASK.encode(rows, tokenizer)
    costs = [1.0, 3.0, 4.0, 2.0]  # chosen, rejected of each row, in nats
    outputs = []
    for labels, cost in zip(encoded["labels"], costs, strict=True):
        said = np.array(labels[1:]) != -100
        outputs.append(np.where(said, cost / said.sum(), 100.0))
    assert np.allclose(TASK.decide(outputs, encoded, rows, None), [[0, 2], [0, -2]])
    encoded = encoded.add_column("_reference", [2.0, 3.0, 6.0, 3.0])
    assert np.allclose(TASK.decide(outputs, encoded, rows, None), [[1, 2], [1, -2]])
    from startup_llm.evaluation.metrics import get_metric

    predictions = [[1.0, 2.0], [1.0, -2.0], [0.0, 1.0], [-1.0, 1.0]]
    assert get_metric("reward_accuracy").compute([""] * 4, predictions) == 2.5 / 4
    assert get_metric("preference_accuracy").compute([""] * 4, predictions) == 3 / 4
