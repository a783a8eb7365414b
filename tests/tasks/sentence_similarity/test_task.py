from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import MESSAGES

from startup_llm.command_line import parse_config
from startup_llm.config import FinetuneConfig
from startup_llm.errors import UserError
from startup_llm.models.checkpoints import load_checkpoint
from startup_llm.run_folder import RunFolder
from startup_llm.session import Session
from startup_llm.tasks import load_task
from startup_llm.tasks.sentence_similarity.model import build_sentence_encoder, compute_ranking_loss
from startup_llm.tasks.sentence_similarity.options import SentenceModel, SimilarityData

ROOT = Path(__file__).parents[3]
TAG = "sentence-similarity"
QUICK = ["--evaluation.resamples", 50, "--train.disable_tqdm", "true", "--speed.compute_dtype", "float32"]
QUICK += ["--speed.attention_kernel", "eager"]
STARTS = ("please", "hello,", "hi,", "today", "so")


def write(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def finetune(run_recipe, *words):
    code, out, err = run_recipe("finetune", "--task", TAG, *words, *QUICK)
    assert code == 0, err[-3000:]
    return out


def read_run(folder):
    return json.loads((folder / "results.json").read_text())


def check_gate(results, forms):
    gate = {name: value for name, value in results["reload_gate"].items() if name.endswith("_max_difference")}
    assert {name.removesuffix("_max_difference") for name in gate} == set(forms)
    assert max(gate.values()) < 1e-4


@pytest.fixture(scope="module")
def intents(tmp_path_factory):
    """Return a folder with BANKING77's columns: 45 training and 9 test messages of 3 intents."""
    folder = tmp_path_factory.mktemp("intents")
    messages = [(text, label) for label, texts in MESSAGES.items() for text in texts]
    for split, starts in (("train", STARTS), ("test", ("well,",))):
        lines = [{"text": f"{start} {text}", "category": label} for start in starts for text, label in messages]
        write(folder / f"{split}.jsonl", lines)
    return folder


@pytest.mark.fresh_gate
def test_the_search_of_banking77_is_tuned_saved_loaded_asked_and_measured(
    intents, tiny_checkpoint, run_recipe, tmp_path
):
    from peft import PeftModel
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel

    run = tmp_path / "run"
    out = finetune(
        run_recipe, "--config", ROOT / "recipes/configs/banking77_retrieval.yaml", "--data.data_dir", intents,
        "--model.checkpoint", tiny_checkpoint("bert"), "--run_dir", run, "--train.max_steps", 12,
        "--train.per_device_train_batch_size", 16, "--train.learning_rate", 5e-3,
    )  # fmt: skip
    assert "9 test texts search the 45 training texts" in out
    results = read_run(run)
    assert set(results["models"]) == {"lora", "untuned", "bm25", "tfidf-cosine"}
    assert results["decides"] == "ndcg_at_10"
    check_gate(results, ("merged", "pipeline", "adapter"))
    found = {name: one["ndcg_at_10"]["value"] for name, one in results["models"].items()}
    assert found["lora"] > found["untuned"] + 0.1
    lines = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    assert all(sorted(line["lora"]) == list(range(45)) for line in lines)

    encoder = SentenceTransformer(str(run / "model"), device="cpu")
    train = [json.loads(line) for line in (intents / "train.jsonl").read_text().splitlines()]
    test = [json.loads(line) for line in (intents / "test.jsonl").read_text().splitlines()]
    corpus, queries = (encoder.encode([row["text"] for row in rows]) for rows in (train, test))
    nearest = (queries @ corpus.T).argsort(axis=1)[:, ::-1]
    right = [train[row[0]]["category"] == one["category"] for row, one in zip(nearest, test, strict=True)]
    assert results["models"]["lora"]["precision_at_1"]["value"] == pytest.approx(np.mean(right))
    adapted = PeftModel.from_pretrained(AutoModel.from_pretrained(tiny_checkpoint("bert")), run / "adapter").eval()
    inputs = encoder.tokenizer(test[0]["text"], return_tensors="pt")
    vector = adapted(**inputs).last_hidden_state[0].mean(dim=0).detach().numpy()
    np.testing.assert_allclose(vector / np.linalg.norm(vector), queries[0], atol=1e-5)

    card = (run / "README.md").read_text()
    assert "library_name: sentence-transformers" in card
    assert "SentenceTransformer(" in card
    assert "AutoModel.from_pretrained(" in card
    assert not any(row["text"] in card for row in (*train, *test))
    ask(run_recipe, run, test, train, nearest, tmp_path)

    evaluation = tmp_path / "evaluation"
    words = ["--suite", "retrieval", "--only", "[banking77]", "--data.data_dir", intents]
    code, _, err = run_recipe("evaluate", "--model", run, *words, "--compare", run, "--run_dir", evaluation)
    assert code == 0, err[-3000:]
    (entry,) = read_run(evaluation)["entries"]
    assert entry["metrics"]["ndcg_at_10"]["value"] == pytest.approx(found["lora"])
    assert entry["comparisons"][0]["difference"] == pytest.approx(0)

    published = tmp_path / "published"
    code, _, err = run_recipe("push", "--run", run, "--repo", "me/search", "--dry_run", published)
    assert code == 0, err[-3000:]
    assert not list(published.rglob("*.parquet"))
    again = SentenceTransformer(str(published), device="cpu").encode([test[0]["text"]])[0]
    np.testing.assert_allclose(again, queries[0], atol=1e-6)


def ask(run_recipe, run, test, train, nearest, folder):
    """Ask a run for the nearest texts, of its own and of a table, in a file and with faults."""
    asked = write(folder / "asked.jsonl", [{"number": n, "text": row["text"]} for n, row in enumerate(test)])
    words = ["--run", run, "--input", asked]
    code, _, err = run_recipe("predict", *words, "--output", folder / "a.jsonl", "--matches", 3)
    assert code == 0, err[-3000:]
    assert "45 texts are searched" in err
    for place, line in enumerate((folder / "a.jsonl").read_text().splitlines()):
        matches = json.loads(line)["matches"]
        assert [train[int(match["id"]) - 1]["text"] for match in matches] == [match["text"] for match in matches]
        assert matches[0]["text"] == train[nearest[place][0]]["text"]
        assert 1 >= matches[0]["score"] >= matches[1]["score"] >= matches[2]["score"]
    (folder / "articles.csv").write_text("id,text\nx,where is my parcel\ny,reset my password please\n")
    words += ["--corpus", folder / "articles.csv"]
    for name in ("b.csv", "b.parquet"):
        code, _, err = run_recipe("predict", *words, "--output", folder / name)
        assert code == 0, err[-3000:]
    assert '[{""id"": ""' in (folder / "b.csv").read_text()
    code, _, err = run_recipe("predict", *words, "--output", folder / "c.csv", "--matches", 0)
    assert (code, "option matches: expected a number of at least 1, got 0" in err) == (2, True)
    words[-1] = folder / "none.csv"
    code, _, err = run_recipe("predict", *words, "--output", folder / "c.csv")
    assert (code, "no such file" in err) == (2, True)
    assert not (folder / "c.csv").exists()


def test_queries_with_answers_and_wrong_answers_are_learnt_by_every_weight(tiny_checkpoint, tmp_path):
    import torch

    from startup_llm.training import finetuning
    from startup_llm.training.speed import plan_speed

    labels = list(MESSAGES)
    rows = [
        {"query": f"{start} {text}", "positive": MESSAGES[label][0], "negative": MESSAGES[labels[place - 1]][1]}
        for place, label in enumerate(labels)
        for start in STARTS
        for text in MESSAGES[label][1:]
    ]
    file = write(tmp_path / "pairs.jsonl", rows)
    argv = f"--task {TAG} --method full --data.train_file {file} --model.checkpoint {tiny_checkpoint('roberta')}"
    argv += " --model.pooling cls --train.num_train_epochs 8 --train.learning_rate 2e-3 --train.logging_steps 1"
    argv += " --train.per_device_train_batch_size 4 --train.gradient_accumulation_steps 2 --train.disable_tqdm true"
    argv += " --speed.compute_dtype float32 --speed.attention_kernel eager"
    config, section, _ = parse_config(FinetuneConfig, argv.split(), train_section=True)
    task = load_task(TAG)
    data, checkpoint = task.load_data(config.data), load_checkpoint(config.model)
    processor = task.load_processor(checkpoint, config.model)
    torch.manual_seed(0)
    prepared = finetuning.prepare(task, data, config, checkpoint, processor, plan_speed(config.speed))
    assert prepared.task_model.pooling == "cls"
    assert {len(row["input_ids"]) for row in prepared.encoded["train"]} == {3}
    collate, inputs = task.build_collator(processor), prepared.encoded["train"].remove_columns("length").to_list()
    batches = [collate(inputs[start : start + 4]) for start in range(0, len(inputs) - 3, 4)]
    with torch.no_grad():
        before = np.mean([float(task.compute_loss(prepared.task_model.model, one, processor)[0]) for one in batches])
    with RunFolder(tmp_path / "run") as run:
        trained = finetuning.train(prepared, Session(config, run, section))
    losses = [entry["loss"] for entry in trained.history if "loss" in entry]
    assert 0.6 * before < losses[0] < 1.4 * before  # the mean over the accumulated batches, not their sum
    assert np.mean(losses[-4:]) < 0.7 * np.mean(losses[:4])
    assert any("eval_ndcg_at_10" in entry for entry in trained.history)


@pytest.mark.parametrize("budget", [1, 40, 10_000])
def test_a_batch_in_parts_of_like_length_has_the_whole_batch_s_loss(budget, tiny_checkpoint, monkeypatch):
    import torch

    from startup_llm.tasks.sentence_similarity import task as sentence_similarity

    task, config = load_task(TAG), SentenceModel(checkpoint=str(tiny_checkpoint("bert")))
    checkpoint = load_checkpoint(config)
    processor = task.load_processor(checkpoint, config)
    model = build_sentence_encoder(checkpoint, processor).model.eval()
    texts = [text for one in MESSAGES.values() for text in one][:8]
    ids = [processor.tokenizer(text * (1 + place % 4))["input_ids"] for place, text in enumerate(texts)]
    rows = [{"input_ids": ids[start : start + 2], "labels": [start, start + 1]} for start in range(0, 8, 2)]
    batch = task.build_collator(processor)(rows)
    monkeypatch.setattr(sentence_similarity, "TOKENS_AT_ONCE", budget)
    loss, vectors = task.compute_loss(model, batch, processor)
    loss.backward()
    flat = {name: batch[name].flatten(0, 1) for name in ("input_ids", "attention_mask")}
    whole = processor.pool(model(**flat).last_hidden_state, flat["attention_mask"])
    torch.testing.assert_close(vectors, whole.view(4, -1), atol=1e-5, rtol=1e-4)
    gradient = model.embeddings.word_embeddings.weight.grad.clone()
    model.zero_grad()
    pairs = whole.view(4, 2, -1)
    compute_ranking_loss(pairs[:, 0], pairs[:, 1], batch["labels"]).backward()
    torch.testing.assert_close(gradient, model.embeddings.word_embeddings.weight.grad, atol=1e-5, rtol=1e-3)


def test_scored_pairs_are_learnt_and_answered_with_a_score(tiny_checkpoint, run_recipe, tmp_path):
    messages = [(text, label) for label, texts in MESSAGES.items() for text in texts]
    rows = [
        {"sentence1": left, "sentence2": right, "score": 4.5 if same == other else 0.5}
        for left, same in messages
        for right, other in messages
        if left != right
    ]
    run = tmp_path / "run"
    words = ["--data.train_file", write(tmp_path / "pairs.jsonl", rows), "--run_dir", run, "--train.max_steps", 25]
    words += ["--model.checkpoint", tiny_checkpoint("distilbert"), "--train.learning_rate", 1e-2]
    finetune(run_recipe, *words, "--train.per_device_train_batch_size", 16, "--train.num_train_epochs", 10)
    results = read_run(run)
    check_gate(results, ("merged", "pipeline", "adapter"))
    assert set(results["models"]) == {"lora", "untuned", "word-overlap", "tfidf-cosine"}
    figures = {name: one["spearman"]["value"] for name, one in results["models"].items()}
    assert figures["lora"] > figures["untuned"] + 0.1
    assert not (run / "corpus.parquet").exists()

    from sentence_transformers import SentenceTransformer

    asked = write(tmp_path / "asked.jsonl", [{"sentence1": "i forgot my password", "sentence2": "where is my parcel"}])
    code, _, err = run_recipe("predict", "--run", run, "--input", asked, "--output", tmp_path / "a.jsonl")
    assert code == 0, err[-3000:]
    answer = json.loads((tmp_path / "a.jsonl").read_text())
    left, right = SentenceTransformer(str(run / "model"), device="cpu").encode(list(answer.values())[:2])
    assert answer["score"] == pytest.approx(float(left @ right), abs=1e-5)
    single = write(tmp_path / "single.jsonl", [{"text": "i forgot my password"}])
    code, _, err = run_recipe("predict", "--run", run, "--input", single, "--output", tmp_path / "b.jsonl")
    assert (code, "give a --corpus FILE" in err) == (2, True)


def write_beir(folder, **splits):
    """Write BEIR's files: nine texts, each a query too, which is relevant to itself, and less so to the one before."""
    texts = [text for one in MESSAGES.values() for text in one]
    write(folder / "corpus.jsonl", [{"_id": f"d{n}", "title": "", "text": text} for n, text in enumerate(texts)])
    write(folder / "queries.jsonl", [{"_id": f"q{n}", "text": text} for n, text in enumerate(texts)])
    (folder / "qrels").mkdir()
    for split, numbers in splits.items():
        lines = [
            "query-id\tcorpus-id\tscore",
            *(f"q{n}\td{n}\t2" for n in numbers),
            *(f"q{n}\td{n - 1}\t1" for n in numbers if n),
        ]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n")


@pytest.mark.slow
def test_the_config_of_scifact_runs_on_beir_s_files(tiny_checkpoint, run_recipe, tmp_path):
    write_beir(tmp_path, train=range(6), test=range(6, 9))
    words = ["--config", ROOT / "recipes/configs/scifact_bge.yaml", "--data.data_dir", tmp_path]
    words += ["--model.checkpoint", tiny_checkpoint("bert"), "--run_dir", tmp_path / "run", "--train.max_steps", 2]
    assert "3 test queries search 9 texts" in finetune(run_recipe, *words)
    results = read_run(tmp_path / "run")
    assert results["data"]["license"] == "cc-by-sa-4.0"
    check_gate(results, ("merged", "pipeline", "adapter"))


def test_a_plain_checkpoint_is_measured_on_beir_s_files(tiny_checkpoint, run_recipe, tmp_path):
    write_beir(tmp_path, test=range(9))
    words = ["--suite", "retrieval", "--only", "[scifact]", "--data.data_dir", tmp_path, "--run_dir", tmp_path / "e"]
    code, _, err = run_recipe("evaluate", "--model", tiny_checkpoint("bert"), *words)
    assert code == 0, err[-3000:]
    (entry,) = read_run(tmp_path / "e")["entries"]
    assert entry["task"] == TAG
    assert 0.7 < entry["metrics"]["ndcg_at_10"]["value"] < 1  # each text finds itself, which is the better half
    assert entry["metrics"]["recall_at_100"]["value"] == 1
    code, _, err = run_recipe("finetune", "--task", TAG, "--data.data_dir", tmp_path, "--run_dir", tmp_path / "r")
    assert (code, "no training rows" in err) == (2, True), err


@pytest.mark.slow
@pytest.mark.real_data
def test_a_sentence_encoder_beats_words_on_banking77(real_data):
    from startup_llm.evaluation.baselines import predict_baselines
    from startup_llm.tasks.sentence_similarity.metrics import NDCG_AT_10
    from startup_llm.training.inference import predict_outputs
    from startup_llm.training.speed import plan_speed

    task = load_task(TAG)
    model = SentenceModel(checkpoint=task.default_checkpoint)
    data = task.load_data(
        SimilarityData(
            data_dir=str(real_data / "banking77"), validation_fraction=0, max_train_rows=1500, max_test_rows=200
        )
    )
    checkpoint = load_checkpoint(model)
    processor = task.load_processor(checkpoint, model)
    encoder = build_sentence_encoder(checkpoint, processor).model
    encoded, _ = task.encode_split("test", data, processor)
    outputs = predict_outputs(task, encoder, encoded, processor, plan_speed().exact())
    test, compute = data.splits["test"], NDCG_AT_10.compute
    ours = compute(task.references(test), task.read_predictions(outputs, encoded, test, data))
    words = {
        name: compute(task.references(test), found)
        for name, found in predict_baselines(task.baselines(data), data).items()
    }
    assert ours > words["bm25"] + 0.1 > words["tfidf-cosine"]


def test_articles_without_a_query_are_searched_by_the_checkpoint_as_it_is(tiny_checkpoint, run_recipe, tmp_path):
    rows = [
        {"id": number, "title": f"{start} {label}", "text": f"<p>{start} {text}</p>"}
        for number, (start, label, text) in enumerate(
            (start, label, text) for start in STARTS for label, texts in MESSAGES.items() for text in texts
        )
    ]
    words = ["--data.train_file", write(tmp_path / "faq.jsonl", rows), "--model.checkpoint", tiny_checkpoint("bert")]
    words += ["--data.clean", "html", "--data.validation_fraction", 0, "--run_dir", tmp_path / "run"]
    out = finetune(run_recipe, *words, "--method", "zero-shot")
    assert "articles without a query: each text (column 'text') is to be found by its title ('title')" in out
    assert set(read_run(tmp_path / "run")["models"]) == {"zero-shot", "bm25", "tfidf-cosine"}
    assert (tmp_path / "run" / "corpus.parquet").is_file()
    question = write(tmp_path / "questions.jsonl", [{"text": "<b>where</b> is it"}])
    code, _, err = run_recipe(
        "predict", "--run", tmp_path / "run", "--input", question, "--output", tmp_path / "answers.jsonl"
    )
    assert code == 0, err
    (answer,) = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert answer["matches"][0]["text"] in {row["text"][3:-4] for row in rows}


def test_texts_with_neither_query_title_nor_label_say_how_they_are_searched(tmp_path):
    rows = [{"body": f"a long text of an article, number {number}"} for number in range(12)]
    data = SimilarityData(train_file=str(write(tmp_path / "a.jsonl", rows)))
    with pytest.raises(UserError, match=r"no label column .*; texts without .* python recipes/predict\.py --ta"):
        load_task(TAG).load_data(data)
