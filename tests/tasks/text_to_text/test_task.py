from __future__ import annotations

import dataclasses
import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from text_to_text_checkpoints import build_text_to_text_checkpoint

from startup_llm.config import EvaluationConfig
from startup_llm.data.batching import LengthGroupedSampler
from startup_llm.data.task_data import TaskData
from startup_llm.errors import UserError
from startup_llm.evaluation.metrics import BLEU, CHRF, ROUGE_1, ROUGE_2, ROUGE_L
from startup_llm.evaluation.statistics import compute_interval
from startup_llm.evaluation.text_baselines import predict_word_by_word
from startup_llm.models.checkpoints import load_checkpoint
from startup_llm.models.task_model import TaskModel
from startup_llm.tasks import load_task
from startup_llm.tasks.base import TARGET_LENGTH
from startup_llm.tasks.text_to_text.options import ScratchEncoderDecoder, ScratchT5, TextPairData, TextToTextModel
from startup_llm.tasks.text_to_text.rows import load_text_to_text
from startup_llm.tasks.text_to_text.source_attention import compute_source_attention, weigh_words
from startup_llm.training.finetuning import Prepared
from startup_llm.training.speed import SpeedPlan
from startup_llm.training.trainer import _select_rows

ROOT = Path(__file__).parents[3]
WORDS = {"a red dog": "ein roter hund", "a blue cat": "eine blaue katze", "the dog sleeps": "der hund schläft"}
TASK = load_task("translation")
PAIRS = [(text, target) for text, target in WORDS.items() for _ in range(8)]


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    """A tiny T5 with random weights and a word tokenizer."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    folder = tmp_path_factory.mktemp("t5")
    words = sorted({word for pair in PAIRS for text in pair for word in text.split()})
    vocabulary = {token: i for i, token in enumerate(["<pad>", "</s>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=32
    ).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"d_model": 32, "d_kv": 8, "num_heads": 4, "d_ff": 64, "num_layers": 2, "dropout_rate": 0.0}
    config = T5Config(vocab_size=len(vocabulary), decoder_start_token_id=0, **sizes)
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("method", [pytest.param("lora", marks=pytest.mark.slow), "full"])
def test_a_t5_is_trained_generates_and_reloads(t5, tmp_path, method):
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(json.dumps({"text": text, "target": target}) for text, target in PAIRS))
    run = tmp_path / "run"
    words = [
        sys.executable, ROOT / "recipes/finetune.py", "--task", "translation", "--method", method,
        "--model.checkpoint", t5, "--data.train_file", file, "--run_dir", run, "--train.learning_rate", 1e-2,
        "--train.num_train_epochs", 40 if method == "full" else 2, "--evaluation.resamples", 50,
    ]  # fmt: skip
    answer = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr[-3000:]
    results = json.loads((run / "results.json").read_text())
    assert results["decides"] == "bleu"
    assert {"copy", "word-by-word", "untuned", method} == set(results["models"])
    gate = {name: value for name, value in results["reload_gate"].items() if name.endswith("difference")}
    assert set(gate) >= {"merged_max_difference"} | ({"adapter_max_difference"} if method == "lora" else set())
    assert max(gate.values()) < 1e-3
    assert [name for name, _ in results["gallery"][0]["pairs"]] == ["given", "meant", "untuned", "written"]
    looked = results["gallery"][-1]
    assert looked["kind"] == "weights"
    assert [looked["text"][word["start"] : word["end"]] for word in looked["words"]] == looked["text"].split()
    assert max(word["weight"] for word in looked["words"]) == 1
    if method == "full":
        assert results["models"]["full"]["chrf"]["value"] > 80


def ask_by_the_card(model_folder, text):
    code = TASK.saved_model.load_code.replace("REPOSITORY", str(model_folder)).replace('"a text"', repr(text))
    names = {}
    exec(compile(code, "card", "exec"), names)
    return names["texts"][0]


@pytest.mark.fresh_gate
@pytest.mark.parametrize(
    ("model_type", "method"), [pytest.param("t5", "full", marks=pytest.mark.slow), ("bart", "lora")]
)
def test_the_card_s_code_writes_what_was_scored(run_recipe, tmp_path, model_type, method):
    long = [(f"{text} {number}", " ".join([target] * 12)) for number, (text, target) in enumerate(PAIRS[::4])]
    texts = [text for pair in long for text in pair]
    checkpoint = build_text_to_text_checkpoint(model_type, tmp_path / "base", texts)
    file, run = tmp_path / "pairs.jsonl", tmp_path / "run"
    file.write_text("\n".join(json.dumps({"text": text, "target": target}) for text, target in long))
    words = ["--task", "translation", "--method", method, "--model.checkpoint", checkpoint, "--run_dir", run]
    words += ["--data.train_file", file, "--data.test_file", file, "--data.validation_fraction", 0]
    words += ["--model.max_length_tokens", 100, "--train.max_steps", 2, "--train.disable_tqdm", "true"]
    words += ["--evaluation.resamples", 20]
    code, _, err = run_recipe("finetune", *words)
    assert code == 0, err[-3000:]
    saved = json.loads((run / "model" / "generation_config.json").read_text())
    assert 70 < saved["max_new_tokens"] <= 100
    scored = [json.loads(line)[method] for line in (run / "predictions.jsonl").read_text().splitlines()]
    assert [ask_by_the_card(run / "model", text) for text, _ in long] == scored
    tokenizer = TASK.saved_model.load_processor(str(run / "model"))
    lengths = [len(ids) for ids in tokenizer(scored)["input_ids"]]
    assert max(lengths) > 30  # more than `generate` writes where nothing is said


def test_a_cut_target_is_counted_and_said(t5):
    import datasets

    tokenizer = TASK.load_processor(
        load_checkpoint(TextToTextModel(checkpoint=str(t5))), TextToTextModel(max_length_tokens=8)
    )
    short, long = "a red dog", " ".join(["dog"] * 9)  # 4 tokens and 10, with the end
    rows = datasets.Dataset.from_dict({"text": [short, long, short, long], "target": [short, short, long, long]})
    encoded, truncation = TASK.encode(rows, tokenizer)
    assert (truncation.rows, truncation.targets) == (3, 2)
    assert truncation.tokens_share == pytest.approx(4 * 2 / (4 * 4 + 4 * 10))
    assert encoded[TARGET_LENGTH] == [4, 4, 8, 8]
    plan = SpeedPlan("cpu", "float32", "float32", "sdpa", 64, ())
    prepared = Prepared(TASK, None, None, tokenizer, TaskModel(None), {}, {"train": truncation}, plan)
    (said,) = prepared.describe()
    assert said == "train: 3 rows cut (2 of them in their target), 14.29% of the tokens lost"
    assert TASK.encode(rows.remove_columns("target"), tokenizer)[1].targets == 0


def test_a_checkpoint_s_own_length_is_kept(t5, tmp_path):
    from transformers import GenerationConfig

    shutil.copytree(t5, tmp_path / "base")
    GenerationConfig(max_length=7, decoder_start_token_id=0, eos_token_id=-1).save_pretrained(tmp_path / "base")
    named = TextToTextModel(checkpoint=str(tmp_path / "base"))
    checkpoint = load_checkpoint(named)
    tokenizer = TASK.load_processor(checkpoint, named)
    model = TASK.build_model(checkpoint, tokenizer, build_data(), named, None).model
    assert model.generation_config.max_new_tokens is None
    assert TASK._generate(model, tokenizer(["a red dog"], return_tensors="pt")).shape == (1, 7)


def test_a_decoder_that_looks_everywhere_alike_weighs_a_word_by_its_tokens(t5):
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(t5).eval(), AutoTokenizer.from_pretrained(t5)
    text = "a dog, the red-blue dog"
    read = tokenizer(text, return_tensors="pt")["input_ids"]
    kernel, written = model.config._attn_implementation, torch.tensor([[0, 3, 4]])
    uneven = compute_source_attention(model, read, written)
    assert uneven.std() > 1e-4
    for block in model.decoder.block:
        torch.nn.init.zeros_(block.layer[1].EncDecAttention.k.weight)
    attention = compute_source_attention(model, read, written)
    assert attention.numpy() == pytest.approx(np.full(read.shape[1], 1 / read.shape[1]), abs=1e-6)
    assert model.config._attn_implementation == kernel
    weights = {text[word["start"] : word["end"]]: word["weight"] for word in weigh_words(text, tokenizer, attention)}
    assert weights == pytest.approx({"a": 1 / 3, "dog,": 2 / 3, "the": 1 / 3, "red-blue": 1, "dog": 1 / 3}, abs=1e-5)


def test_counts_give_the_libraries_own_figures_on_a_thousand_random_texts():
    import sacrebleu
    from rouge_score.rouge_scorer import RougeScorer

    rng = np.random.default_rng(0)
    words = ["the", "cat", "sat", "on", "a", "mat", "while", "dogs", "ran", "home", "."]
    references = [" ".join(rng.choice(words, rng.integers(1, 12))) for _ in range(1000)]
    predictions = [" ".join(w for w in text.split() if rng.random() < 0.8) or "cat" for text in references]
    assert BLEU.compute(references, predictions) == pytest.approx(
        sacrebleu.corpus_bleu(predictions, [references]).score
    )
    assert CHRF.compute(references, predictions) == pytest.approx(
        sacrebleu.corpus_chrf(predictions, [references]).score
    )
    for metric, kind in ((ROUGE_1, "rouge1"), (ROUGE_2, "rouge2"), (ROUGE_L, "rougeL")):
        scorer = RougeScorer([kind], use_stemmer=True)
        expected = np.mean([scorer.score(r, p)[kind].fmeasure for r, p in zip(references, predictions, strict=True)])
        assert metric.compute(references, predictions) == pytest.approx(expected)
    interval = compute_interval(BLEU, references, predictions, EvaluationConfig(resamples=100))
    assert interval.low < interval.value < interval.high


def test_word_by_word_takes_the_first_of_equally_likely_words_whatever_the_hash_seed():
    letters = [f"{letter}{letter}" for letter in "qwertzuiopasdfghjkl"]
    splits = {"train": {"text": ["word"], "target": [" ".join(letters)]}, "test": {"text": ["word"]}}
    assert predict_word_by_word(splits, None) == [min(letters)]


def test_word_by_word_learns_the_table(tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(json.dumps({"text": text, "target": target}) for text, target in PAIRS))
    data = load_text_to_text(TextPairData(train_file=str(file)))
    answers = predict_word_by_word(data.splits, data)
    given = dict(zip(data.splits["test"]["text"], answers, strict=True))
    assert all("hund" in answer for text, answer in given.items() if "dog" in text)


def write_folder(folder, **files):
    for name, lines in files.items():
        path = folder / name.replace("_dot_", ".")
        content = "".join(f"{line}\n" for line in lines).encode()
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return TextPairData(data_dir=str(folder), text_column="en", target_column="de")


def test_line_files_of_two_languages_are_paired(tmp_path):
    lines = {"en": [f"dog {i}" for i in range(20)], "de": [f"hund {i}" for i in range(20)]}
    data = load_text_to_text(
        write_folder(
            tmp_path,
            train_dot_en_dot_gz=lines["en"],
            train_dot_de_dot_gz=lines["de"],
            val_dot_en=["a"],
            val_dot_de=["b"],
            test_2016_flickr_dot_en=["c"],
            test_2016_flickr_dot_de=["d"],
        )
    )
    assert {name: len(rows) for name, rows in data.splits.items()} == {"train": 20, "validation": 1, "test": 1}
    assert data.splits["test"][0] == {"text": "c", "target": "d", "row": 1}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train_dot_en": ["a", "b"], "train_dot_de": ["c"]}, "train.de has 1 lines and train.en has 2 lines"),
        ({"train_dot_en": ["a"]}, "the train split has no file for de"),
        ({"train_dot_en": ["a", ""], "train_dot_de": ["c", "d"]}, "row 2: the column 'en' is empty"),
        ({"train_dot_en": ["a"], "train_dot_de": ["c"], "train_x_dot_de": ["d"]}, "are both train; keep one"),
    ],
)
def test_wrong_pairs_are_named(tmp_path, files, message):
    with pytest.raises(UserError, match=message):
        load_text_to_text(write_folder(tmp_path, **files))


def write_table(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def test_texts_of_the_test_split_are_counted_in_training_and_taken_out_where_that_is_asked_for(tmp_path):
    train = write_table(tmp_path / "train.jsonl", [{"text": f"dog {n}", "target": f"hund {n}"} for n in range(9)])
    test = write_table(tmp_path / "test.jsonl", [{"text": f"dog {n}", "target": "ein hund"} for n in (2, 5, 40)])
    config = TextPairData(train_file=train, test_file=test, validation_fraction=0)
    data = load_text_to_text(config)
    assert data.splits["train"].column_names == ["text", "target", "row"]
    assert len(data.splits["train"]) == 9
    assert "2 training texts stand in the test split too" in data.notes[-1]
    data = load_text_to_text(dataclasses.replace(config, remove_overlap=True))
    assert data.splits["train"]["row"] == [1, 2, 4, 5, 7, 8, 9]


def test_pairs_of_a_group_stay_on_one_side(tmp_path):
    rows = [{"text": f"dog {n}", "target": f"hund {n}", "book": f"b{n % 6}"} for n in range(60)]
    nested = [{"translation": {"en": row["text"], "de": row["target"]}, "book": row["book"]} for row in rows]
    for number, (table, named) in enumerate([(rows, {}), (nested, {"text_column": "en", "target_column": "de"})]):
        file = write_table(tmp_path / f"{number}.jsonl", table)
        data = load_text_to_text(TextPairData(train_file=file, group_column="book", **named))
        books = [{(row - 1) % 6 for row in split["row"]} for split in data.splits.values()]
        assert sum(map(len, books)) == len(set.union(*books)) == 6
        with pytest.raises(UserError, match=r"data.group_column: no column 'books' among .*; did you mean"):
            load_text_to_text(TextPairData(train_file=file, group_column="books", **named))


def test_an_empty_target_is_named_or_left_out(tmp_path):
    lines = {"train_dot_en": [f"dog {i}" for i in range(20)], "train_dot_de": [f"hund {i}" for i in range(20)]}
    lines["train_dot_de"][6] = lines["train_dot_de"][9] = lines["train_dot_en"][9] = " "
    data = write_folder(tmp_path, **lines)
    with pytest.raises(UserError, match=r"train split: 2 of .* row 7: the column 'de' is empty; row 10: .*skip_bad"):
        load_text_to_text(data)
    found = load_text_to_text(dataclasses.replace(data, skip_bad=True))
    kept = sorted(row for rows in found.splits.values() for row in rows["row"])
    assert kept == [row for row in range(1, 21) if row not in (7, 10)]
    for rows in found.splits.values():
        assert rows["target"] == [f"hund {row - 1}" for row in rows["row"]]
    said = "pairs were left out (empty text 2): row 7: the column 'de' is empty; row 10: "
    assert any(said in note for note in found.notes)


def test_a_checkpoint_without_encoder_and_decoder_is_refused(tiny_checkpoint):
    from startup_llm.tasks.text_to_text.model import build_sequence_to_sequence

    checkpoint = load_checkpoint(TextToTextModel(checkpoint=str(tiny_checkpoint("bert"))))
    with pytest.raises(UserError, match="type bert"):
        build_sequence_to_sequence(checkpoint, None, dropout=0.0, attention_kernel=None, trust_remote_code=False)


def build_data():
    import datasets

    rows = datasets.Dataset.from_dict(
        {"text": [text for text, _ in PAIRS], "target": [target for _, target in PAIRS], "row": range(1, 25)}
    )
    return TaskData(datasets.DatasetDict({"train": rows}))


def load_scratch(kind=ScratchEncoderDecoder, **model):
    data = build_data()
    sizes = {"width": 16, "layers": 1, "heads": 2, "max_length_tokens": 30, "vocab_size": 300}
    config = kind(**{**sizes, **model})
    return *TASK.reference_models.build(data, config, "sdpa"), data


def test_a_shared_tokenizer_keeps_case_and_ends_every_text():
    tokenizer, _, _ = load_scratch()
    ids = tokenizer("Ein roter Hund, schläft?")["input_ids"]
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == "Ein roter Hund, schläft?"
    assert tokenizer(text_target="hund")["input_ids"] == tokenizer("hund")["input_ids"]
    assert len(tokenizer) <= 300


def test_a_scratch_model_is_saved_to_the_numbers_and_texts_it_had(tmp_path):
    import torch

    torch.manual_seed(0)
    tokenizer, built, data = load_scratch(beams=1)
    model = built.model.eval()
    TASK.reference_models.save(model, tokenizer, data, tmp_path)
    loaded, restored = TASK.saved_model.load(str(tmp_path)).eval(), TASK.saved_model.load_processor(str(tmp_path))
    encoded, _ = TASK.encode(data.splits["train"].select([0, 9, 20]), restored)
    inputs = encoded.remove_columns(["labels", "length", TARGET_LENGTH])
    batch = TASK.build_collator(restored)(list(inputs))
    with torch.inference_mode():
        for before, after in zip(
            *(TASK.saved_model.compute_scores(m, batch, restored) for m in (model, loaded)), strict=True
        ):
            np.testing.assert_allclose(before, after, atol=1e-5)
        most = 2 * max(map(len, restored([target for _, target in PAIRS])["input_ids"]))
        assert loaded.generation_config.max_new_tokens == most <= 30
        written = model.generate(batch["input_ids"], most, batch["attention_mask"])
        texts = [restored.decode(row, skip_special_tokens=True).strip() for row in written]
        assert [str(text) for text in TASK.compute_outputs(loaded, batch, restored)] == texts
    assert not TASK.saved_model.has_own_format(str(tmp_path))


def test_bytes_need_no_tokenizer(tmp_path):
    tokenizer, built, data = load_scratch(ScratchT5, tokenizer="byte")
    assert built.notes == ("a token per byte",)
    TASK.reference_models.save(built.model, tokenizer, data, tmp_path)
    restored = TASK.saved_model.load_processor(str(tmp_path))
    assert restored.decode(restored("schläft")["input_ids"], skip_special_tokens=True) == "schläft"
    assert TASK.saved_model.load(str(tmp_path)).generation_config.num_beams == 4


def test_labels_are_smoothed_while_training_alone():
    import torch

    tokenizer, built, data = load_scratch(label_smoothing=0.2, dropout=0.0)
    batch = TASK.build_collator(tokenizer)(
        list(TASK.encode(data.splits["train"], tokenizer)[0].remove_columns(["length", TARGET_LENGTH]))
    )
    model = built.model.train()
    with torch.inference_mode():
        smooth, logits = (model(**batch)[name] for name in ("loss", "logits"))
        plain = model.eval()(**batch)["loss"]
    log_p, real = logits.log_softmax(-1), batch["labels"] != -100
    right = log_p.gather(-1, batch["labels"].clamp(min=0)[..., None])[..., 0]
    torch.testing.assert_close(plain, -right[real].mean())
    torch.testing.assert_close(smooth, -(0.8 * right + 0.2 * log_p.mean(-1))[real].mean())


def test_no_target_is_lost_where_a_batch_is_computed_in_parts():
    import torch

    inputs = {
        "input_ids": torch.tensor([[5, 6, 7], [5, 2, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]]),
        "labels": torch.tensor([[8, 2, -100], [8, 9, 2]]),
    }
    part = _select_rows(inputs, torch.tensor([1]), 2)
    assert part["input_ids"].tolist() == [[5, 2]]
    assert part["labels"].tolist() == [[8, 9, 2]]
    inputs = {"input_ids": torch.ones(3, 4), "attention_mask": torch.ones(3, 4), "labels": torch.full((3, 6), 7)}
    inputs["labels"][:, 3:] = -100
    part = _select_rows(inputs, torch.tensor([0, 1]), 3)
    assert part["labels"].shape == (2, 3)
    assert part["labels"].is_contiguous()


def test_rows_alike_in_both_lengths_stand_in_one_batch():
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 8, 600)
    targets = lengths + rng.integers(0, 5, 600)
    batches = np.split(np.array(list(LengthGroupedSampler(lengths, 10, 0, 500, targets))), 60)
    padded = sum(10 * targets[batch].max() for batch in batches)
    alone = sum(
        10 * targets[batch].max() for batch in np.split(np.array(list(LengthGroupedSampler(lengths, 10, 0))), 60)
    )
    assert padded < 1.05 * targets.sum() < alone
    assert sorted(np.concatenate(batches)) == list(range(600))


@pytest.fixture(scope="module")
def nllb(tmp_path_factory):
    return build_text_to_text_checkpoint(
        "m2m_100", tmp_path_factory.mktemp("nllb") / "base", [*WORDS, *WORDS.values()]
    )


def test_a_checkpoint_of_many_languages_writes_the_one_that_is_named(nllb, tmp_path):
    named = TextToTextModel(checkpoint=str(nllb), source_language="eng_Latn", language="deu_Latn")
    checkpoint = load_checkpoint(named)
    tokenizer = TASK.load_processor(checkpoint, named)
    built = TASK.build_model(checkpoint, tokenizer, build_data(), named, None)
    longest = max(map(len, tokenizer(text_target=list(WORDS.values()))["input_ids"]))
    assert built.model.generation_config.max_new_tokens == 2 * longest
    for place in (tokenizer, built.model):
        place.save_pretrained(tmp_path)
    model, restored = (
        TASK.saved_model.load(str(tmp_path)),
        TASK.load_processor(load_checkpoint(TextToTextModel(checkpoint=str(tmp_path))), TextToTextModel()),
    )
    english, german = restored.convert_tokens_to_ids(["eng_Latn", "deu_Latn"])
    asked = restored(["a red dog"], return_tensors="pt")
    assert asked["input_ids"][0, 0] == english
    assert restored(text_target="ein hund")["input_ids"][0] == german
    assert model.generate(**asked, max_new_tokens=3)[0, 1] == german


@pytest.mark.parametrize(
    ("languages", "message"),
    [
        ({}, "the checkpoint knows many languages; name yours"),
        ({"language": "deu_Latm"}, "model.language: the checkpoint knows no language deu_Latm; did you mean deu_Latn"),
        (
            {"language": "deu_Latn", "source_language": "en"},
            "model.source_language: the checkpoint knows no language en",
        ),
    ],
)
def test_a_language_that_is_missing_or_unknown_is_named(nllb, languages, message):
    model = TextToTextModel(checkpoint=str(nllb), **languages)
    with pytest.raises(UserError, match=message):
        TASK.load_processor(load_checkpoint(model), model)


def test_a_language_for_a_checkpoint_of_one_pair_is_refused(t5):
    model = TextToTextModel(checkpoint=str(t5), language="de")
    with pytest.raises(
        UserError, match=r"model.language de: the checkpoint knows one pair of languages; leave it out"
    ):
        TASK.load_processor(load_checkpoint(model), model)


@pytest.mark.slow
@pytest.mark.real_data
def test_multi30k_is_read_whole(real_data):
    data = load_text_to_text(TextPairData(data_dir=str(real_data / "multi30k"), text_column="en", target_column="de"))
    assert [len(data.splits[name]) for name in ("train", "validation", "test")] == [29_000, 1_014, 1_000]
