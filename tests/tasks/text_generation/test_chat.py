"""Text generation on conversations: what is learnt, packing, and each architecture with its adapter."""

from __future__ import annotations

import itertools
import json

import datasets
import numpy as np
import pytest
import sacrebleu
import torch
from chat_checkpoints import build_chat_checkpoint, build_chat_tokenizer
from conftest import DECODERS
from transformers import TrainingArguments

from startup_llm.config import LoraConfig, PredictConfig
from startup_llm.errors import UserError
from startup_llm.models.adapters import add_lora
from startup_llm.models.checkpoints import load_checkpoint
from startup_llm.tasks import TASKS, load_task
from startup_llm.tasks.text_generation.chat import cut_windows, encode_prompt, pack_conversations
from startup_llm.tasks.text_generation.chat_templates import TEMPLATES
from startup_llm.tasks.text_generation.options import ChatEvaluation, ChatModel, GenerationData
from startup_llm.training.inference import predict_outputs, predict_scores
from startup_llm.training.speed import SpeedPlan
from startup_llm.training.trainer import _select_rows

TASK = load_task("text-generation")
ANSWERS = ["on its way", "yes, we refund the money for this order", "reset it"]


GENERATE = ChatEvaluation(generate=True, resamples=50)


def load_rows(tmp_path, rows=9, turns=1, evaluation=None):
    lines = []
    for number in range(rows):
        messages = []
        for turn in range(turns):
            messages.append({"role": "user", "content": f"where is my parcel {number} {turn}?"})
            messages.append({"role": "assistant", "content": ANSWERS[(number + turn) % 3] + "!" * number})
        lines.append(json.dumps({"messages": messages}))
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    data = GenerationData(train_file=str(tmp_path / "rows.jsonl"), test_fraction=0.2, validation_fraction=0)
    return TASK.load_data(data, evaluation)


def build(tmp_path, model_type, data, **settings):
    checkpoint = load_checkpoint(
        ChatModel(checkpoint=str(build_chat_checkpoint(model_type, tmp_path / "base", **settings)))
    )
    config = ChatModel(checkpoint=checkpoint.name, chat_template="chatml")
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
    packed = TASK.packer(encoded, tokenizer)
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
    plain = TASK.saved_model.load(str(tmp_path / "merged"))
    assert (plain.get_output_embeddings().weight is plain.get_input_embeddings().weight) is tied
    assert plain.generation_config.eos_token_id == [301, 0]
    with torch.no_grad():
        torch.testing.assert_close(plain(**batch).logits, before, atol=1e-3, rtol=1e-3)
    assert TASK.saved_model.check_pipeline(str(tmp_path / "merged"), data.splits["test"], []) == 0.0


def test_a_model_tells_what_it_was_tuned_on_last(tmp_path):
    _, tokenizer, model = build(tmp_path, "gpt2", load_rows(tmp_path))
    model.save_pretrained(tmp_path / "tuned")
    assert json.loads((tmp_path / "tuned" / "config.json").read_text())["trained_on_conversations"] is True
    (tmp_path / "passages.txt").write_text("where is my parcel?\n" * 50)
    passages = TASK.load_data(GenerationData(train_file=str(tmp_path / "passages.txt"), validation_fraction=0))
    config = ChatModel(checkpoint=str(tmp_path / "tuned"))
    model = TASK.build_model(load_checkpoint(config), tokenizer, passages, config, "sdpa").model
    assert model.config.trained_on_conversations is False


def test_a_checkpoint_s_own_ends_of_generation_are_kept(tmp_path):
    from transformers import GenerationConfig

    folder = build_chat_checkpoint("qwen3", tmp_path / "base", TEMPLATES["chatml"])
    GenerationConfig(eos_token_id=[300, 299]).save_pretrained(folder)
    config = ChatModel(checkpoint=str(folder))
    checkpoint = load_checkpoint(config)
    tokenizer = TASK.load_processor(checkpoint, config)
    model = TASK.build_model(checkpoint, tokenizer, load_rows(tmp_path), config, "sdpa").model
    assert model.generation_config.eos_token_id == [301, 300, 299, 0]


@pytest.mark.real_data
def test_dialogsum_s_dialogues_are_conversations_that_n_grams_predict_somewhat(real_data):
    from startup_llm.evaluation.baselines import predict_baselines
    from startup_llm.tasks.text_generation.metrics import BITS_PER_BYTE

    speakers = {"#Person1#": "user", "#Person2#": "assistant"}
    path = str(real_data / "dialogsum" / "dev.jsonl")
    data = TASK.load_data(GenerationData(train_file=path, text_column="dialogue", speakers=speakers, skip_bad=True))
    assert {name: len(rows) for name, rows in data.splits.items()} == {"train": 356, "validation": 40, "test": 99}
    references = TASK.references(data.splits["test"])
    bits = [
        BITS_PER_BYTE.compute(references, predictions)
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
    nats, tokens = np.sum(TASK.read_predictions(outputs, encoded, rows, data), axis=0)
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
    decided = TASK.read_predictions(nats, encoded, rows, data)
    assert [tokens for _, tokens in decided] == [sum(x != -100 for x in labels) for labels in whole["labels"]]
    assert cut_windows(10, 4) == [(0, 4, 0), (2, 6, 4), (4, 8, 6), (6, 10, 8)]
    assert cut_windows(3, 4) == [(0, 3, 0)]


def test_conversations_too_long_for_the_model_are_checked_by_the_beginning_of_a_question(tmp_path):
    tokenizer = build_chat_tokenizer(TEMPLATES["chatml"])
    tokenizer.model_max_length = 64
    rows = load_rows(tmp_path, turns=8).splits["test"]
    prompts = TASK.saved_model._list_prompts(rows, tokenizer, 24)
    assert prompts
    assert all(len(encode_prompt(tokenizer, prompt, 1000)) <= 40 for prompt in prompts)


def test_packing_fills_rows_and_running_text_is_not_packed(tmp_path):
    lengths = [5, 3, 3, 2, 2, 1]
    rows = [[number] * length for number, length in enumerate(lengths)]
    packed = pack_conversations(
        datasets.Dataset.from_dict({"input_ids": rows, "labels": rows, "length": lengths}), size=8
    )
    assert sorted(packed["length"]) == [8, 8]
    assert all(places == [p for _, p in sorted(enumerate(places))] for places in packed["position_ids"])
    running = datasets.Dataset.from_dict({"input_ids": [[1, 2]], "labels": [[1, 2]], "length": [2]})
    with pytest.raises(UserError, match=r"data.packing: running text fills its blocks"):
        TASK.packer(running, build_chat_tokenizer())
    assert [tag for tag in TASKS if load_task(tag).packer] == ["text-generation"]


def test_parts_of_a_packed_batch_keep_their_labels_beside_their_tokens():
    labels = torch.tensor([[-100, -100, 5, 6], [-100, 7, -100, -100]])
    part = _select_rows({"input_ids": torch.ones(2, 4), "labels": labels}, torch.tensor([1]), 4)
    assert part["labels"].tolist() == [[-100, 7, -100, -100]]


def test_preferences_are_judged_against_the_model_before():
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
    assert np.allclose(TASK.read_predictions(outputs, encoded, rows, None), [[0, 2], [0, -2]])
    encoded = encoded.add_column("_reference", [2.0, 3.0, 6.0, 3.0])
    assert np.allclose(TASK.read_predictions(outputs, encoded, rows, None), [[1, 2], [1, -2]])
    from startup_llm.tasks.text_generation.metrics import PREFERENCE_ACCURACY, REWARD_ACCURACY

    predictions = [[1.0, 2.0], [1.0, -2.0], [0.0, 1.0], [-1.0, 1.0]]
    assert REWARD_ACCURACY.compute([""] * 4, predictions) == 2.5 / 4
    assert PREFERENCE_ACCURACY.compute([""] * 4, predictions) == 3 / 4


def test_the_last_answer_is_written_beside_the_likelihoods_of_all(tmp_path):
    data, plain = load_rows(tmp_path, turns=2, evaluation=GENERATE), load_rows(tmp_path, turns=2)
    _, tokenizer, model = build(tmp_path, "llama", data)
    assert model.config.max_answer_tokens == 1 + 2 * max(
        len(tokenizer(row["messages"][turn]["content"])["input_ids"])
        for row in data.splits["train"]
        for turn in (1, 3)
    )
    rows, plan = data.splits["test"], SpeedPlan("cpu", "float32", "float32", "sdpa", 64, ())
    encoded, cut = TASK.encode_split("test", data, tokenizer)
    assert (len(encoded), cut.rows) == (2 * len(rows), 0)
    found = TASK.read_predictions(predict_outputs(TASK, model, encoded, tokenizer, plan), encoded, rows, data)
    alone, _ = TASK.encode_split("test", plain, tokenizer)
    known = TASK.read_predictions(
        predict_outputs(TASK, model, alone, tokenizer, plan), alone, plain.splits["test"], plain
    )
    assert np.allclose([one["likelihood"] for one in found], known, rtol=1e-5)
    for row, prediction in zip(rows, found, strict=True):
        assert row["answer"] == row["messages"][3]["content"]
        inputs = tokenizer.apply_chat_template(
            row["messages"][:3], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        how = {"pad_token_id": tokenizer.pad_token_id, "max_new_tokens": model.config.max_answer_tokens}
        ids = model.generate(**inputs, do_sample=False, **how)
        text = tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert prediction["answer"] == text.strip()
    for name in ("train", "test"):
        assert "is_prompt" not in TASK.encode(data.splits[name], tokenizer)[0].column_names


def test_saved_models_are_compared_by_what_they_write_too(tmp_path):
    data = load_rows(tmp_path, evaluation=GENERATE)
    _, tokenizer, model = build(tmp_path, "gpt2", data)
    rows, plan = data.splits["test"], SpeedPlan("cpu", "float32", "float32", "sdpa", 64, ())
    encoded = TASK.saved_model.encode_sample(rows, tokenizer)
    *nats, first, _ = predict_scores(TASK, model, encoded, tokenizer, plan)
    assert [len(one) for one in nats] == [length - 1 for length in encoded["length"][: len(rows)]]
    prompt = encode_prompt(tokenizer, rows["messages"][0][:-1])
    ids = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=24, eos_token_id=301)[
        0, len(prompt) :
    ]
    assert first.tolist() == ids.tolist() + [-1] * (24 - len(ids))


def test_a_prompt_that_is_cut_is_counted_and_leaves_half_of_the_length_to_write(tmp_path):
    data = load_rows(tmp_path, evaluation=GENERATE)
    tokenizer = build_chat_tokenizer(TEMPLATES["chatml"])
    tokenizer.model_max_length = 16
    encoded, cut = TASK.encode_split("test", data, tokenizer)
    whole = [len(encode_prompt(tokenizer, messages[:-1])) for messages in data.splits["test"]["messages"]]
    assert [length for length, asked in zip(encoded["length"], encoded["is_prompt"], strict=True) if asked] == [8, 8]
    assert (cut.rows, cut.rows_share, cut.targets) == (2, 1.0, 0)
    assert cut.tokens_share == pytest.approx(1 - 16 / sum(whole))


def test_written_answers_have_figures_worked_out_by_hand_and_baselines_what_they_can(tmp_path):
    from startup_llm.evaluation.baselines import predict_baselines
    from startup_llm.evaluation.metrics import rank_metrics
    from startup_llm.evaluation.results import score_models

    texts = ["the cat sat down.\nIt slept.", "a dog ran off. It ate.", "my bird sang.\nIt flew."]
    asked = [f"Summarize the text:\n\n{text}\n\nIn short:" for text in texts]
    pairs = list(zip(asked, ["the cat sat", "the cat sat", "a bird"], strict=True))
    for name, chosen in (("train", pairs), ("test", [(asked[0], "the cat sat down"), (asked[2], "a bird")])):
        lines = [json.dumps({"prompt": prompt, "completion": answer}) for prompt, answer in chosen]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    data = TASK.load_data(GenerationData(data_dir=str(tmp_path), validation_fraction=0), GENERATE)
    predictions = predict_baselines(TASK.baselines(data), data)
    assert predictions["first-sentence"] == [{"answer": "the cat sat down."}, {"answer": "my bird sang."}]
    assert predictions["copy"][1] == {"answer": texts[2]}
    assert predictions["most-frequent-answer"] == [{"answer": "the cat sat"}] * 2
    predictions["lora"] = [
        {"likelihood": [np.log(2) * 17, 4.0], "answer": "the cat sat"},
        {"likelihood": [np.log(2) * 7, 3.0], "answer": "a bird"},
    ]
    metrics = rank_metrics(TASK.metrics(data), "rouge_l")
    scores = score_models(metrics, TASK.references(data.splits["test"]), predictions, "lora", GENERATE)
    figures = {name: figure["value"] for name, figure in scores["models"]["lora"].items()}
    assert figures["rouge_1"] == figures["rouge_l"] == pytest.approx((6 / 7 + 1) / 2)
    assert figures["rouge_2"] == pytest.approx((0.8 + 1) / 2)
    assert figures["bits_per_byte"] == pytest.approx(24 / (17 + 7))
    assert figures["loss"] == pytest.approx(np.log(2) * 24 / 7)
    written, meant = ["the cat sat", "a bird"], [["the cat sat down", "a bird"]]
    assert figures["chrf"] == pytest.approx(sacrebleu.corpus_chrf(written, meant).score)
    assert figures["bleu"] == pytest.approx(sacrebleu.corpus_bleu(written, meant).score)
    assert figures["exact_match"] == 0.5
    assert figures["word_f1"] == pytest.approx((0.8 + 1) / 2)  # without the article
    overlaps = {"rouge_l", "rouge_1", "rouge_2", "bleu", "chrf", "exact_match", "word_f1"}
    assert scores["models"]["copy"].keys() == overlaps
    assert scores["models"]["character-trigram"].keys() == {"bits_per_byte", "loss", "perplexity", "byte_perplexity"}
    assert scores["models"]["most-frequent-answer"]["rouge_l"]["value"] == pytest.approx((6 / 7 + 0) / 2)
    told = {(one["b"], one["metric"]) for one in scores["comparisons"]}
    assert ("copy", "rouge_l") in told
    assert ("copy", "loss") not in told
    assert len(scores["sentences"]) == 4
    assert scores["signatures"].keys() == {"bleu", "chrf"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "running text that goes on and on"}] * 9, "the rows are running text, expected conversations"),
        ([{"prompt": "a", "chosen": "b", "rejected": "c"}] * 9, "the rows are preferences between two answers"),
        (
            [{"messages": [{"role": "assistant", "content": "a"}]}] * 9,
            r"the test split's row \d has nothing before its answer",
        ),
    ],
)
def test_answers_are_not_written_where_none_is_asked_for(tmp_path, rows, message):
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match=f"evaluation.generate: {message}"):
        TASK.load_data(GenerationData(train_file=str(tmp_path / "rows.jsonl")), GENERATE)


def test_preferences_that_training_cuts_are_counted_and_those_of_the_test_lose_nothing(tmp_path):
    rows = [{"prompt": "where is it?", "chosen": "here" * length, "rejected": "no"} for length in (1, 40, 1, 40, 1, 1)]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({**row, "id": n}) for n, row in enumerate(rows)))
    path = str(tmp_path / "rows.jsonl")
    data = TASK.load_data(GenerationData(train_file=path, test_file=path, validation_fraction=0))
    tokenizer = build_chat_tokenizer(TEMPLATES["chatml"])
    tokenizer.model_max_length = 48
    encoded, cut = TASK.encode_split("train", data, tokenizer)
    lengths = [
        len(tokenizer(tokenizer.apply_chat_template(row[name], tokenize=False))["input_ids"])
        for row in data.splits["train"]
        for name in ("chosen", "rejected")
    ]
    assert len([length for length in lengths if length > 48]) == 2
    assert (cut.rows, cut.targets) == (2, 2)
    assert cut.rows_share == pytest.approx(2 / 6)
    assert cut.tokens_share == pytest.approx(sum(max(length - 48, 0) for length in lengths) / sum(lengths))
    measured, cut = TASK.encode_split("test", data, tokenizer)
    assert measured["input_ids"] == encoded["input_ids"]
    assert (cut.rows, cut.tokens_share, cut.targets) == (2, 0.0, 0)


@pytest.mark.parametrize(
    ("columns", "converses"),
    [(["row", "messages"], True), (["row", "chosen", "rejected"], True), (["row", "text"], False)],
)
def test_a_plain_text_is_a_turn_for_a_run_on_conversations_alone(tmp_path, columns, converses):
    task, tokenizer = load_task("text-generation"), build_chat_tokenizer(TEMPLATES["chatml"])
    tokenizer.model_max_length = 256
    build_chat_checkpoint("llama", tmp_path / "run" / "model")
    (tmp_path / "run" / "results.json").write_text(json.dumps({"task": "text-generation", "columns": columns}))
    config = PredictConfig(run=str(tmp_path / "run"), input="-", output="-")
    said = task.predictor.prepare(config, tmp_path / "run", tokenizer, None)
    assert (said is not None) is converses
    asked = "where is my parcel?"
    turn = encode_prompt(tokenizer, [{"role": "user", "content": asked}])
    plain = tokenizer(asked, add_special_tokens=False)["input_ids"]
    encoded = task.predictor.encode(datasets.Dataset.from_dict({"text": [asked]}), tokenizer)
    assert encoded["input_ids"][0] == (turn if converses else plain)


def _list_answered(*openings):
    rows = []
    for place, opening in enumerate(openings):
        turns = [{"role": "user", "content": f"question {place}"}, {"role": "assistant", "content": f"answer {place}"}]
        rows.append({"messages": [*([{"role": "system", "content": opening}] if opening else []), *turns]})
    rows = [{**row, "answer": row["messages"][-1]["content"], "row": place} for place, row in enumerate(rows)]
    return datasets.Dataset.from_list(rows)


def test_conversations_with_few_system_messages_are_measured_apart():
    rows = _list_answered("Route it.", "Answer.", "Route it.", "")
    written = ["answer 0", "no", "Answer 2!", "answer 3"]
    predictions = [{"likelihood": [np.log(2) * 9, 2.0], "answer": text} for text in written]
    groups = TASK.describe_errors(rows, [], predictions, None)["groups"]
    assert [(entry["name"], entry["rows"]) for entry in groups[0]["rows"]] == [
        ("Route it.", 2),
        ("Answer.", 1),
        ("(none)", 1),
    ]
    assert [entry["values"]["exact_match"] for entry in groups[0]["rows"]] == [1.0, 0.0, 1.0]
    assert [entry["values"]["bits_per_byte"] for entry in groups[0]["rows"]] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("openings", [("Route it.",) * 4, tuple(f"Kind {place}" for place in range(9))])
def test_conversations_of_one_kind_or_of_many_are_measured_together(openings):
    rows = _list_answered(*openings)
    predictions = [{"likelihood": [1.0, 2.0], "answer": "a"}] * len(rows)
    assert "groups" not in TASK.describe_errors(rows, [], predictions, None)


def test_system_messages_that_begin_alike_keep_their_whole_text():
    long = "You route the messages of a shop to one of many teams, and answer with its name and nothing else: "
    rows = _list_answered(long + "sales", long + "returns")
    predictions = [{"likelihood": [1.0, 2.0], "answer": "a"}] * 2
    names = [entry["name"] for entry in TASK.describe_errors(rows, [], predictions, None)["groups"][0]["rows"]]
    assert names == [long + "sales", long + "returns"]
