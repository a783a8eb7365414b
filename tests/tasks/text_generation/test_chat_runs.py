"""Chat and preference tuning, from the rows to the answers, on tiny stand-ins of each config's architecture."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
from chat_checkpoints import build_chat_checkpoint
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from startup_llm.run_folder import RUN_LOCK
from startup_llm.tasks.text_generation.chat_templates import TEMPLATES

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / "recipes" / "configs"
QUICK = ["--evaluation.resamples", 50, "--train.disable_tqdm", "true"]
FEW_STEPS = [*QUICK, "--train.max_steps", 2, "--train.per_device_train_batch_size", 4, "--train.warmup_steps", 0]
REPLIES = {"where is my parcel": "on its way.", "please refund my order": "yes, done!", "reset my password": "ok."}


def write(folder, split, rows):
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def talk(number):
    question = list(REPLIES)[number % 3]
    return [{"role": "user", "content": question}, {"role": "assistant", "content": REPLIES[question]}]


def read_run(folder):
    return json.loads((folder / "results.json").read_text()), json.loads((folder / RUN_LOCK).read_text())


@pytest.mark.fresh_gate
def test_smollm2_chat_learns_replies_and_stops_behind_them_in_every_way_of_asking(run_recipe, tmp_path):
    settings = {"hidden_size": 64, "initializer_range": 0.05, "tie_word_embeddings": True}
    checkpoint = build_chat_checkpoint("llama", tmp_path / "base", TEMPLATES["chatml"], **settings)
    write(tmp_path, "train", [{"messages": talk(number), "full_topic": "a"} for number in range(60)])
    write(tmp_path, "test", [{"messages": talk(number), "full_topic": "b"} for number in range(6)])
    words = ["--config", CONFIGS / "smollm2_chat.yaml", "--method", "full", "--model.checkpoint", checkpoint]
    words += ["--data.data_dir", tmp_path, "--train.learning_rate", 5e-3]
    words += ["--train.max_steps", 60, "--train.per_device_train_batch_size", 2]
    words += ["--evaluation.generate", "true", "--evaluation.decides", "rouge_l"]
    run = tmp_path / "run"
    code, out, err = run_recipe("finetune", *words, "--run_dir", run, *QUICK)
    assert code == 0, err[-3000:]
    assert "Conversations from column 'messages'" in out
    results, lock = read_run(run)
    digest = hashlib.sha256(TEMPLATES["chatml"].encode()).hexdigest()
    assert results["processor"] == lock["processor"] == {"chat_template_sha256": digest}
    assert results["reload_gate"]["pipeline_max_difference"] == 0
    assert results["models"]["full"]["perplexity"]["value"] < 1.1
    assert results["decides"] == "rouge_l"
    assert results["models"]["full"]["rouge_l"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert 0 <= results["models"]["first-sentence"]["rouge_l"]["value"] < 0.5
    assert "rouge_l" not in results["models"]["character-trigram"]
    assert {"rouge l", "bits per byte"} <= set(
        re.findall(r"<th[^>]*>([a-z ]+)</th>", (run / "report.html").read_text())
    )
    titles = [item["title"] for item in results["gallery"]]
    assert any("after epoch" in title for title in titles)
    shown = next(item["pairs"] for item in results["gallery"] if item["title"] == "An answer by the model")
    assert [kind for kind, _ in shown] == ["user", "meant", "untuned", "written"]
    assert shown[1][1] == shown[3][1] != shown[2][1]
    assert results["models"]["untuned"]["perplexity"]["value"] > 10
    assert results["models"]["few-shot"].keys() == results["models"]["full"].keys()
    compared = {(one["b"], one["metric"]) for one in results["comparisons"]}
    assert {("untuned", "rouge_l"), ("untuned", "bits_per_byte"), ("few-shot", "rouge_l")} <= compared
    assert ">untuned<" in (run / "report.html").read_text()

    model = AutoModelForCausalLM.from_pretrained(run / "model")
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert model.generation_config.eos_token_id[0] == end
    answer = pipeline("text-generation", model=model, tokenizer=tokenizer, device="cpu")
    rows = [{"number": number, "messages": talk(number)[:1]} for number in range(3)]
    for row in rows:
        asked, reply = row["messages"], REPLIES[row["messages"][0]["content"]]
        inputs = tokenizer.apply_chat_template(
            asked, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        written = model.generate(**inputs, max_new_tokens=40)[0, inputs["input_ids"].shape[1] :]
        assert written[-1] == end
        assert len(written) < 40
        assert tokenizer.decode(written, skip_special_tokens=True) == reply
        assert answer(asked, max_new_tokens=40)[0]["generated_text"][-1]["content"] == reply

    write(tmp_path, "asked", rows)
    code, _, err = run_recipe(
        "predict", "--run", run, "--input", tmp_path / "asked.jsonl", "--output", tmp_path / "a.jsonl"
    )
    assert code == 0, err[-3000:]
    answers = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [row["generated_text"] for row in answers] == list(REPLIES.values())
    (tmp_path / "asked.csv").write_text("question,number\n" + "".join(f"{asked},1\n" for asked in REPLIES))
    code, _, err = run_recipe(
        "predict", "--run", run, "--input", tmp_path / "asked.csv", "--output", tmp_path / "a.csv"
    )
    assert code == 0, err[-3000:]
    shutil.copytree(run / "model", tmp_path / "copied")  # out of its run
    words = ["--task", "text-generation", "--input", tmp_path / "asked.csv", "--output", tmp_path / "c.csv"]
    code, _, more = run_recipe("predict", "--run", tmp_path / "copied", *words)
    assert code == 0, more[-3000:]
    for said, name in ((err, "a.csv"), (more, "c.csv")):
        assert said.count("a plain text is asked as a user's turn, in the model's chat template") == 1
        with (tmp_path / name).open() as file:
            assert [row["generated_text"] for row in csv.DictReader(file)] == list(REPLIES.values())
    words = ["--model", run, "--evaluation.generate", "true", "--evaluation.decides", "rouge_l"]
    code, _, err = run_recipe("evaluate", *words, "--run_dir", tmp_path / "measured", "--fail_under", "rouge_l=0.99")
    assert code == 0, err[-3000:]
    measured = json.loads((tmp_path / "measured" / "results.json").read_text())["entries"][0]["metrics"]
    assert next(iter(measured)) == "rouge_l"
    assert measured["bits_per_byte"]["value"] == pytest.approx(results["models"]["full"]["bits_per_byte"]["value"])
    more = ["--output", tmp_path / "short.jsonl", "--max_new_tokens", 1]
    code, _, err = run_recipe("predict", "--run", run, "--input", tmp_path / "asked.jsonl", *more)
    assert code == 0, err[-3000:]
    short = [json.loads(line)["generated_text"] for line in (tmp_path / "short.jsonl").read_text().splitlines()]
    assert all(full.startswith(part) and part != full for full, part in zip(REPLIES.values(), short, strict=True))
    write(tmp_path, "asked", [*rows, {"number": 3, "messages": talk(3)}])
    more = ["--output", tmp_path / "b.jsonl"]
    code, _, err = run_recipe("predict", "--run", run, "--input", tmp_path / "asked.jsonl", *more)
    assert code == 2
    assert "row 4: column 'messages' ends with the assistant, so there is nothing to answer" in err


@pytest.mark.slow
def test_dialogsum_chat_runs_on_a_gpt(run_recipe, tmp_path):
    checkpoint = build_chat_checkpoint("gpt2", tmp_path / "base")
    line = "#Person1#: where is my parcel {0}?\n#Person2#: on its way.\n#Person1#: thanks {0}\n#Person2#: bye {0}"
    dialogues = [{"dialogue": line.format(number), "summary": "x", "topic": "y"} for number in range(20)]
    dialogues[3]["dialogue"] += "\n#Person3#: who?"
    write(tmp_path, "train", dialogues)
    words = ["--config", CONFIGS / "dialogsum_chat.yaml", "--model.checkpoint", checkpoint]
    words += ["--data.data_dir", tmp_path, "--evaluation.generate", "true"]
    code, out, err = run_recipe("finetune", *words, "--run_dir", tmp_path / "run", *FEW_STEPS)
    assert code == 0, err[-3000:]
    assert "conversations were left out (unusable conversation 1): row 4: " in out
    results, _ = read_run(tmp_path / "run")
    assert results["decides"] == "bits_per_byte"
    written = {"copy", "first-sentence", "first-three-sentences", "most-frequent-answer", "untuned", "few-shot"}
    assert set(results["models"]) == {"character-unigram", "character-trigram", "character-sixgram", "lora"} | written
    assert results["models"]["lora"].keys() > {"rouge_l", "rouge_1", "rouge_2", "bleu", "chrf", "bits_per_byte"}
    assert results["data"]["license"] == "cc-by-nc-sa-4.0"
    assert results["reload_gate"]["adapter_max_difference"] <= results["reload_gate"]["tolerance"]


def build_question(number: int) -> dict:
    return {"title": str(number // 2), "prompt": f"Who {number}?", "completion": f"it {number}"}


def build_route(number: int) -> dict:
    turns = (("system", "Name the intent."), ("user", f"where is my parcel {number}?"), ("assistant", "delivery"))
    return {"messages": [{"role": role, "content": text} for role, text in turns], "message": str(number)}


@pytest.mark.parametrize(
    ("config", "decides", "build_row"),
    [
        ("dialogsum_smollm2", "rouge_l", lambda n: {"prompt": f"Summarize {n}.", "completion": f"on its way {n}."}),
        pytest.param("xquad_smollm2", "word_f1", build_question, marks=pytest.mark.slow),
        pytest.param("bitext_chat", "exact_match", build_route, marks=pytest.mark.slow),
    ],
)
def test_a_chat_checkpoint_is_tuned_beside_itself_untuned(run_recipe, tmp_path, config, decides, build_row):
    checkpoint = build_chat_checkpoint("llama", tmp_path / "base", TEMPLATES["chatml"])
    write(tmp_path, "train", [build_row(number) for number in range(40)])
    words = ["--config", CONFIGS / f"{config}.yaml", "--model.checkpoint", checkpoint, "--data.data_dir", tmp_path]
    code, _, err = run_recipe("finetune", *words, "--run_dir", tmp_path / "run", *FEW_STEPS)
    assert code == 0, err[-3000:]
    results, _ = read_run(tmp_path / "run")
    assert results["decides"] == decides
    assert {"untuned", "few-shot"} < set(results["models"])
    assert results["data"]["license"]


def test_a_chat_log_is_fine_tuned_as_it_comes(run_recipe, tmp_path):
    checkpoint = build_chat_checkpoint("llama", tmp_path / "base", TEMPLATES["chatml"])
    with (tmp_path / "log.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["conversation_id", "sender", "message", "time"])
        for number in range(40):
            question, answer = (turn["content"] for turn in talk(number))
            rows.writerow([number, "agent", answer, f"2026-05-01 10:{number:02}:30"])
            rows.writerow([number, "Ann", f"{question} {number}", f"2026-05-01 10:{number:02}:00"])
    words = ["--task", "text-generation", "--data.train_file", tmp_path / "log.csv", "--model.checkpoint", checkpoint]
    code, out, err = run_recipe("finetune", *words, "--run_dir", tmp_path / "run", *FEW_STEPS)
    assert code == 0, err[-3000:]
    assert "A chat log: conversations by 'conversation_id', senders from 'sender'" in out
    assert "The assistant is 'agent'" in out
    assert read_run(tmp_path / "run")[0]["rows"]["train"] > 20


def test_qwen3_dpo_learns_a_preference(run_recipe, tmp_path):
    checkpoint = build_chat_checkpoint("qwen3", tmp_path / "base", TEMPLATES["chatml"], tie_word_embeddings=True)
    rows = []
    for number in range(40):
        question = [{"role": "user", "content": f"{list(REPLIES)[number % 3]} {number}"}]
        good, bad = "thanks, on its way", "no, reset the password"
        pair = [[*question, {"role": "assistant", "content": f"{words} {number}"}] for words in (good, bad)]
        rows.append({"chosen": pair[0], "rejected": pair[1], "score_chosen": 8.0, "score_rejected": 2.0})
    write(tmp_path, "train", rows[:30])
    write(tmp_path, "test", rows[30:])
    words = ["--config", CONFIGS / "qwen3_dpo.yaml", "--model.checkpoint", checkpoint, "--data.data_dir", tmp_path]
    words += ["--data.validation_fraction", 0.1, "--train.gradient_accumulation_steps", 1, *FEW_STEPS]
    words += ["--train.learning_rate", 1e-2, "--train.max_steps", 6]
    code, out, err = run_recipe("align", *words, "--run_dir", tmp_path / "run")
    assert code == 0, err[-3000:]
    assert "Preferences between two answers from columns 'chosen', 'rejected'" in out
    results, _ = read_run(tmp_path / "run")
    assert results["decides"] == "reward_accuracy"
    assert results["models"]["before"]["reward_accuracy"]["value"] == 0.5
    assert results["models"]["dpo"]["reward_accuracy"]["value"] > 0.9
    assert results["models"]["dpo"]["reward_accuracy"]["low"] > 0.5
    assert results["reload_gate"]["adapter_max_difference"] <= results["reload_gate"]["tolerance"]
    assert results["gallery"][0]["pairs"][1][0] == "chosen"
    samples = [item for item in results["gallery"] if "after epoch" in item["title"]]
    assert [kind for kind, _ in samples[0]["pairs"]] == ["user", "meant", "written"]
    assert results["truncation"]["train"] == {"rows": 0, "rows_share": 0.0, "tokens_share": 0.0, "targets": 0}
    assert (tmp_path / "run" / "report.html").is_file()
    assert "reward" in (tmp_path / "run" / "README.md").read_text()
    code, _, err = run_recipe("evaluate", "--model", tmp_path / "run", "--run_dir", tmp_path / "evaluated")
    assert code == 0, err[-2000:]
    measured = json.loads((tmp_path / "evaluated" / "results.json").read_text())["entries"][0]["metrics"]
    assert measured.keys() == {"preference_accuracy"}  # there is no model before to have a reward against
    assert measured["preference_accuracy"]["value"] == results["models"]["dpo"]["preference_accuracy"]["value"]


@pytest.mark.slow
def test_orpo_learns_a_preference(run_recipe, tmp_path):
    checkpoint = build_chat_checkpoint("llama", tmp_path / "base", TEMPLATES["chatml"])
    rows = [
        {"prompt": f"where is it {n}?", "chosen": f"thanks, on its way {n}", "rejected": f"no, reset the password {n}"}
        for n in range(40)
    ]
    write(tmp_path, "train", rows[:30])
    write(tmp_path, "test", rows[30:])
    words = ["--method", "orpo", "--model.checkpoint", checkpoint, "--data.data_dir", tmp_path, *FEW_STEPS]
    words += ["--train.learning_rate", 1e-2, "--train.max_steps", 6, "--run_dir", tmp_path / "run"]
    code, _, err = run_recipe("align", *words)
    assert code == 0, err[-3000:]
    results, _ = read_run(tmp_path / "run")
    assert results["models"]["orpo"]["reward_accuracy"]["low"] > 0.5
    assert results["models"]["before"]["reward_accuracy"]["value"] == 0.5


def test_kto_learns_what_was_judged_good_and_unlearns_the_rest(run_recipe, tmp_path):
    checkpoint = build_chat_checkpoint("llama", tmp_path / "base", TEMPLATES["chatml"])
    rows = [
        {
            "prompt": f"where is it {n}?",
            "completion": f"thanks, on its way {n}" if n % 2 else f"no, reset the password {n}",
            "label": bool(n % 2),
        }
        for n in range(60)
    ]
    write(tmp_path, "train", rows[:40])
    write(tmp_path, "test", rows[40:])
    words = ["--method", "kto", "--model.checkpoint", checkpoint, "--data.data_dir", tmp_path, *FEW_STEPS]
    words += ["--train.learning_rate", 1e-2, "--train.max_steps", 10, "--run_dir", tmp_path / "run"]
    code, out, err = run_recipe("align", *words)
    assert code == 0, err[-3000:]
    assert "Feedback from column 'label': 30 good answers, 30 bad ones." in out
    results, _ = read_run(tmp_path / "run")
    assert results["models"]["kto"]["reward_accuracy"]["low"] > 0.5
    assert results["models"]["before"]["reward_accuracy"]["value"] == 0.5
    assert results["gallery"][0]["pairs"][-1][0] == "judged"
    code, _, err = run_recipe("align", *words, "--overwrite", "true", "--train.per_device_train_batch_size", 1)
    assert code == 2
    assert "kto compares an answer with another of its batch; use at least 2" in err
    grouped = ["--overwrite", "true", "--train.train_sampling_strategy", "group_by_length"]
    code, _, err = run_recipe("align", *words, *grouped)
    assert code == 2
    assert "train.train_sampling_strategy group_by_length: kto compares each answer with its neighbour" in err
    code, _, err = run_recipe("finetune", "--task", "text-generation", *words[2:], "--overwrite", "true")
    assert code == 2
    assert "--method lora: 30 of 60 answers were judged bad and would be learnt like good ones" in err


@pytest.mark.parametrize(
    ("rows", "words", "message"),
    [
        ([{"messages": talk(0)}] * 8, [], "no chat template, expected one for conversations; give it with --model"),
        (
            [{"prompt": "a", "chosen": "b", "rejected": "c"}] * 8,
            [],
            "the rows are preferences (row, chosen, rejected)",
        ),
        ([{"messages": talk(0)[:1]}] * 8, [], "row 1: has no turn of the assistant"),
        (
            [{"messages": talk(0), "text": "x"}] * 8,
            [],
            "a text (column 'text') and a conversation (column 'messages')",
        ),
    ],
)
def test_a_mistake_is_one_line(run_recipe, tmp_path, rows, words, message):
    checkpoint = build_chat_checkpoint("llama", tmp_path / "base")
    write(tmp_path, "train", rows)
    words = ["--task", "text-generation", "--model.checkpoint", checkpoint, "--data.data_dir", tmp_path, *words]
    code, _, err = run_recipe("finetune", *words, "--run_dir", tmp_path / "run")
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_preference_tuning_wants_preferences(run_recipe, tmp_path):
    write(tmp_path, "train", [{"messages": talk(0)}] * 8)
    words = ["--data.data_dir", tmp_path, "--run_dir", tmp_path / "run"]
    code, _, err = run_recipe("align", *words, "--data.packing", "true")
    assert code == 2
    assert "data.packing: preferences are compared pair by pair" in err
    code, _, err = run_recipe("align", *words)
    assert code == 2
    assert "--method dpo needs the columns chosen and rejected; the rows hold row, messages" in err


def test_models_that_write_answers_are_compared_by_them(run_recipe, tmp_path):
    write(tmp_path, "train", [{"messages": talk(number)} for number in range(10)])
    write(tmp_path, "test", [{"messages": talk(number)} for number in range(6)])
    words = [
        "--task",
        "text-generation",
        "--data.data_dir",
        tmp_path,
        "--budgets",
        "[all]",
        "--evaluation.resamples",
        20,
    ]
    words += ["--evaluation.generate", "true", "--run_dir", tmp_path / "ladder"]
    rungs = ["--rungs", "[copy, most-frequent-answer]", "--evaluation.decides", "rouge_l"]
    code, _, err = run_recipe("compare", *words, *rungs)
    assert code == 0, err[-3000:]
    found = json.loads((tmp_path / "ladder" / "results.json").read_text())["budgets"][0]["rungs"]
    assert [model["name"] for model in found] == ["most-frequent-answer", "copy"]
    assert found[0]["mean"] == pytest.approx(1 / 3)
    code, _, err = run_recipe("compare", *words, "--rungs", "[copy]", "--overwrite", "true")
    assert code == 2
    assert "rungs: copy gives no bits_per_byte, by which the models are compared" in err
