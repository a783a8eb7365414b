"""Translation and summarization through the recipes: from scratch, and each config on a tiny stand-in."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest
from text_to_text_checkpoints import build_text_to_text_checkpoint

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / "recipes" / "configs"
PAIRS = {
    "A red dog sleeps.": "Ein roter Hund schläft.",
    "The blue cat is running fast.": "Die blaue Katze rennt schnell.",
    "Two men are sitting!": "Zwei Männer sitzen!",
    "A woman eats bread.": "Eine Frau isst Brot.",
}
TEXTS = [*PAIRS, *PAIRS.values()]
ROWS = list(PAIRS.items())
QUICK = ["--evaluation.resamples", 20, "--train.disable_tqdm", "true"]
TWO_STEPS = [*QUICK, "--train.max_steps", 2, "--train.warmup_steps", 0, "--train.per_device_train_batch_size", 4]


def write_jsonl(folder: Path, make, counts=(("train", 16), ("validation", 4), ("test", 4))) -> Path:
    """Write rows that `make` makes of a number, so that none stands in two splits."""
    folder.mkdir(exist_ok=True)
    number = 0
    for split, count in counts:
        rows = [json.dumps(make(number + place)) for place in range(count)]
        (folder / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
        number += count
    return folder


def write_lines(folder: Path, counts=(("train", 24), ("val", 8), ("test_2016_flickr", 8))) -> Path:
    """Write Multi30k's form: a file of lines for each split and language."""
    folder.mkdir(exist_ok=True)
    for split, count in counts:
        for side, language in enumerate(("en", "de")):
            lines = "".join(f"{ROWS[place % len(ROWS)][side]}\n" for place in range(count))
            (folder / f"{split}.{language}.gz").write_bytes(gzip.compress(lines.encode()))
    return folder


def read_run(code: int, err: str, run: Path) -> dict:
    assert code == 0, err[-3000:]
    results = json.loads((run / "results.json").read_text())
    gate = results["reload_gate"]
    assert max(value for name, value in gate.items() if name.endswith("difference")) <= gate["tolerance"]
    return results


SMALL = ["--model.width", 32, "--model.layers", 1, "--model.inner_width", 64, "--model.vocab_size", 320]
LEARN = [
    *("--model.dropout", 0, "--train.num_train_epochs", 40, "--train.per_device_train_batch_size", 8),
    *("--train.learning_rate", 1e-2, "--train.warmup_steps", 10, "--train.save_strategy", "no"),
    *("--train.eval_strategy", "no"),
]


@pytest.mark.fresh_gate
@pytest.mark.parametrize("config", ["multi30k_transformer", pytest.param("multi30k_t5", marks=pytest.mark.slow)])
def test_a_model_from_scratch_learns_to_translate_and_answers_new_rows(config, run_recipe, tmp_path):
    data, run = write_lines(tmp_path / "data"), tmp_path / "run"
    words = ["--config", CONFIGS / f"{config}.yaml", "--data.data_dir", data, "--run_dir", run, *SMALL, *LEARN, *QUICK]
    code, out, err = run_recipe("pretrain", *words)
    results = read_run(code, err, run)
    name = results["method"]
    samples = [item for item in results["gallery"] if "after epoch" in item["title"]]
    assert [item["title"].rpartition(" ")[2] for item in samples] == [str(4 * number) for number in range(1, 11)]
    assert samples[-1]["written"] == PAIRS[samples[-1]["text"]]
    assert set(results["models"]) == {"copy", "word-by-word", name}
    assert results["models"][name]["bleu"]["value"] == pytest.approx(100)
    assert "trained on the training split alone" in out
    assert results["checkpoint"]["trainable_parameters"] == results["checkpoint"]["parameters"]
    assert results["signatures"]["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert results["signatures"]["bleu"] in (run / "report.html").read_text()
    card = (run / "README.md").read_text()
    assert results["signatures"]["chrf"] in card.replace("\\|", "|")
    assert "AutoModelForSeq2SeqLM" in card
    asked = tmp_path / "asked.txt"
    asked.write_text("".join(f"{text}\n" for text in PAIRS))
    words = ["--run", run, "--input", asked, "--input_format", "lines", "--output", "-"]
    code, out, err = run_recipe("predict", *words)
    assert code == 0, err[-2000:]
    assert [json.loads(line)["translation_text"] for line in out.splitlines()] == list(PAIRS.values())
    if name == "transformer":  # and is a checkpoint like any other
        words = ["--task", "translation", "--model.checkpoint", run / "model", "--data.data_dir", data]
        words += ["--data.text_column", "en", "--data.target_column", "de", *TWO_STEPS]
        tuned = read_run(*run_recipe("finetune", *words, "--run_dir", tmp_path / "tuned")[::2], tmp_path / "tuned")
        assert tuned["checkpoint"]["architecture"] == "PegasusForConditionalGeneration"
        assert tuned["reload_gate"]["adapter_max_difference"] <= tuned["reload_gate"]["tolerance"]
        assert tuned["models"]["lora"]["bleu"]["value"] > 90


def test_an_interrupted_training_of_the_encoder_decoder_is_resumed_to_the_same_weights(
    run_recipe, tmp_path, monkeypatch
):
    from safetensors.numpy import load_file

    from startup_llm.training import pretraining

    words = ["--config", CONFIGS / "multi30k_transformer.yaml", "--data.data_dir", write_lines(tmp_path / "data")]
    words += [*SMALL, *QUICK, "--train.max_steps", 6, "--train.save_strategy", "steps", "--train.save_steps", 2]
    words += ["--train.eval_strategy", "steps", "--train.eval_steps", 2, "--train.per_device_train_batch_size", 8]
    words += ["--speed.compute_dtype", "float32", "--speed.attention_kernel", "sdpa", "--train.warmup_steps", 0]
    with monkeypatch.context() as patch:  # the trained weights are all that is compared
        patch.setattr(pretraining, "save_model", lambda *_: (_ for _ in ()).throw(RuntimeError("power cut")))
        for name, more in (("whole", []), ("cut", []), ("cut", ["--resume"])):
            with pytest.raises(RuntimeError, match="power cut"):
                run_recipe("pretrain", *words, "--run_dir", tmp_path / name, *more)
            if (name, more) == ("cut", []):
                shutil.rmtree(tmp_path / "cut.partial" / "checkpoints" / "checkpoint-6")
    file = "checkpoints/checkpoint-6/model.safetensors"
    whole, cut = (load_file(tmp_path / f"{name}.partial" / file) for name in ("whole", "cut"))
    assert all((abs(whole[key] - cut[key]) < 1e-6).all() for key in whole)


@pytest.mark.parametrize("config", ["multi30k_transformer", "multi30k_t5"])
def test_what_is_written_after_epochs_leaves_training_as_it_is(config, run_recipe, tmp_path, monkeypatch):
    import torch

    from startup_llm.training import pretraining, trainer

    words = ["--config", CONFIGS / f"{config}.yaml", "--data.data_dir", write_lines(tmp_path / "data"), *SMALL, *QUICK]
    words += ["--train.max_steps", 6, "--train.per_device_train_batch_size", 8, "--train.warmup_steps", 0]
    words += ["--train.eval_strategy", "no", "--train.save_strategy", "no", "--model.dropout", 0.3]
    words += ["--data.max_train_rows", 23, "--speed.compute_dtype", "float32", "--speed.attention_kernel", "sdpa"]
    found = []

    def stop(trained, *rest):
        found.append(trained)
        raise RuntimeError("that is enough")

    with monkeypatch.context() as patch:
        patch.setattr(pretraining, "save_model", stop)
        for name in ("with", "without"):
            if name == "without":
                patch.setattr(trainer.SampleWriter, "on_epoch_end", lambda *words, **named: None)
            with pytest.raises(RuntimeError, match="that is enough"):
                run_recipe("pretrain", *words, "--run_dir", tmp_path / name)
    written, plain = found
    assert [item["title"].rpartition(", ")[2] for item in written.samples] == ["after epoch 1", "after epoch 2"]
    assert not plain.samples
    weights = plain.model.state_dict()
    assert all(torch.equal(values, weights[name]) for name, values in written.model.state_dict().items())


@pytest.mark.slow
def test_dialogsum_t5_runs_and_answers(run_recipe, tmp_path):
    def make(number):
        return {"fname": f"row_{number}", "dialogue": f"#Person1#: {TEXTS[number % 8]}\n#Person2#: {number}?"} | {
            "summary": f"They speak of {number}.",
            "topic": "a",
        }

    data, run = write_jsonl(tmp_path / "data", make), tmp_path / "run"
    words = ["--config", CONFIGS / "dialogsum_t5.yaml", "--data.data_dir", data, *SMALL, *TWO_STEPS, "--run_dir", run]
    results = read_run(*run_recipe("pretrain", *words)[::2], run)
    assert set(results["models"]) == {"first-sentence", "first-three-sentences", "t5"}
    assert results["data"]["license"] == "cc-by-nc-sa-4.0"
    words = ["--run", run, "--input", data / "test.jsonl", "--output", tmp_path / "answers.jsonl"]
    code, _, err = run_recipe("predict", *words, "--max_new_tokens", 5)
    assert code == 0, err[-2000:]
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [set(row) for row in rows] == [{"fname", "dialogue", "summary", "topic", "summarization_text"}] * 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.name", "gpt"], "model.name gpt: translation has the reference models transformer and t5"),
        (["--model.tokenizer", "wordpiece"], "option model.tokenizer: expected 'bpe', got wordpiece"),
        (["--model.tokenizer", "byte"], "option model.tokenizer: expected 'bpe', got byte"),
        (["--model.name", "t5"], "unknown option model.label_smoothing for t5; it belongs to transformer"),
        (["--model.vocab_size", 100], "vocab_size (100) must be at least 259"),
        (
            ["--model.label_smoothing", 1.5],
            "option model.label_smoothing: expected a number of at least 0 and below 1, got 1.5",
        ),
        (["--model.heads", 5], "width (256) must be divisible by heads (5); try heads=4"),
    ],
)
def test_a_reference_model_that_cannot_be_is_one_line(words, message, run_recipe, tmp_path):
    data = write_lines(tmp_path / "data")
    given = ["--config", CONFIGS / "multi30k_transformer.yaml", "--data.data_dir", data, *words]
    code, _, err = run_recipe("pretrain", *given, "--run_dir", tmp_path / "run")
    assert code == 2
    assert message in err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_cnn_dailymail_bart_runs(run_recipe, tmp_path):
    def make(number):
        return {
            "article": f"{TEXTS[number % 8]} Then {number} came.",
            "highlights": f"{number} came.",
            "id": f"{number}",
        }

    checkpoint = build_text_to_text_checkpoint("bart", tmp_path / "base", TEXTS)
    data, run = write_jsonl(tmp_path / "data", make), tmp_path / "run"
    words = ["--config", CONFIGS / "cnn_dailymail_bart.yaml", "--model.checkpoint", checkpoint]
    words += ["--data.data_dir", data, "--run_dir", run, *TWO_STEPS]
    results = read_run(*run_recipe("finetune", *words)[::2], run)
    assert results["decides"] == "rouge_l"
    assert set(results["models"]) == {"first-sentence", "first-three-sentences", "untuned", "lora"}
    assert results["data"]["license"] == "apache-2.0"
    adapted = json.loads((run / "adapter" / "adapter_config.json").read_text())["target_modules"]
    assert {name.rsplit(".", 1)[-1] for name in adapted} >= {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"}


def make_translation(number):
    text, target = ROWS[number % len(ROWS)]
    return {"translation": {"de": f"{target} {number}", "en": f"{text} {number}"}}


@pytest.mark.slow
def test_opus_marian_runs_on_the_nested_column(run_recipe, tmp_path):
    checkpoint = build_text_to_text_checkpoint("marian", tmp_path / "base", TEXTS)
    data, run = write_jsonl(tmp_path / "data", make_translation), tmp_path / "run"
    words = ["--config", CONFIGS / "opus_marian.yaml", "--model.checkpoint", checkpoint, "--data.data_dir", data]
    results = read_run(*run_recipe("finetune", *words, "--run_dir", run, *TWO_STEPS)[::2], run)
    assert results["gallery"][0]["pairs"][0] == ["given", "A red dog sleeps. 20"]
    assert results["gallery"][0]["pairs"][1] == ["meant", "Ein roter Hund schläft. 20"]
    assert results["checkpoint"]["architecture"] == "MarianMTModel"
    assert [name for name, _ in results["gallery"][-1]["pairs"]] == ["given", "meant", "written"]
    assert "after epoch" in results["gallery"][-1]["title"]
    asked = tmp_path / "asked.csv"
    asked.write_text("text\nA red dog sleeps.\n")
    code, _, err = run_recipe("predict", "--run", run, "--input", asked, "--output", tmp_path / "answers.csv")
    assert code == 0, err[-2000:]
    assert (tmp_path / "answers.csv").read_text().startswith("text,translation_text\n")


@pytest.mark.slow
@pytest.mark.real_data
def test_a_transformer_from_scratch_begins_to_translate_captions(run_recipe, tmp_path, real_data):
    run = tmp_path / "run"
    words = ["--config", CONFIGS / "multi30k_transformer.yaml", "--data.data_dir", real_data / "multi30k"]
    words += ["--data.max_train_rows", 3000, "--data.max_test_rows", 100, "--model.width", 128, "--model.layers", 2]
    words += ["--model.vocab_size", 2000, "--model.beams", 1, "--train.max_steps", 150, "--train.warmup_steps", 50]
    words += ["--train.per_device_train_batch_size", 32, "--train.learning_rate", 3e-3]
    words += ["--train.eval_strategy", "no", "--train.save_strategy", "no", *QUICK]
    results = read_run(*run_recipe("pretrain", *words, "--run_dir", run)[::2], run)
    scores = {name: model["bleu"]["value"] for name, model in results["models"].items()}
    assert scores["transformer"] > scores["copy"]
    losses = [entry["loss"] for entry in results["history"] if "loss" in entry]
    assert losses[-1] < 0.75 * losses[0]


def test_a_model_whose_numbers_overflow_ends_predicting_in_one_line(tmp_path, run_recipe):
    from safetensors.torch import load_file, save_file

    model = build_text_to_text_checkpoint("t5", tmp_path / "t5", [*PAIRS, *PAIRS.values()])
    weights = load_file(model / "model.safetensors")
    weights["encoder.block.0.layer.1.DenseReluDense.wo.weight"].fill_(3e38)
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    asked = tmp_path / "asked.txt"
    asked.write_text("".join(f"{text}\n" for text in PAIRS))
    words = ["--run", model, "--task", "translation", "--input", asked, "--input_format", "lines", "--output", "-"]
    code, out, err = run_recipe("predict", *words)
    assert code == 2
    assert out == ""
    assert "the model's output for one of" in err
    assert "is not finite" in err


def test_a_run_joins_and_cleans_its_texts_and_answers_rows_alike(run_recipe, tmp_path):
    build_text_to_text_checkpoint("t5", tmp_path / "checkpoint", TEXTS)
    text = lambda n: {"subject": TEXTS[n % 8], "body": f"<p>{n} {TEXTS[(n + 1) % 8]}</p>"}  # noqa: E731
    data = write_jsonl(tmp_path / "data", lambda n: {**text(n), "answer": f"<b>{TEXTS[n % 8]}</b>"})
    words = ["--data.text_column", "[subject,body]", "--data.clean", "html", "--run_dir", tmp_path / "run"]
    code, out, err = run_recipe(
        "finetune", "--task", "summarization", "--data.data_dir", data, "--model.checkpoint", tmp_path / "checkpoint",
        *words, *TWO_STEPS,
    )  # fmt: skip
    read_run(code, err, tmp_path / "run")
    assert "Removed from the texts: html (predictions do the same)." in out
    rows = [text(30), {"text": f"subject: {TEXTS[6]}\nbody: 30 {TEXTS[7]}"}]
    for name, row in zip(("rows", "text"), rows, strict=True):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
        files = ["--input", tmp_path / f"{name}.jsonl", "--output", tmp_path / f"{name}-answers.jsonl"]
        code, _, err = run_recipe("predict", "--run", tmp_path / "run", *files)
        assert code == 0, err
    answers = [json.loads((tmp_path / f"{name}-answers.jsonl").read_text()) for name in ("rows", "text")]
    assert answers[0]["summarization_text"] == answers[1]["summarization_text"]
