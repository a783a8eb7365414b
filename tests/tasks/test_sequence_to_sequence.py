from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from startup_llm.config import DataConfig, EvaluationConfig
from startup_llm.data.text_to_text import load_text_to_text
from startup_llm.errors import UserError
from startup_llm.evaluation.baselines import BASELINES
from startup_llm.evaluation.metrics import get_metric
from startup_llm.evaluation.statistics import compute_interval

ROOT = Path(__file__).parents[2]
WORDS = {"a red dog": "ein roter hund", "a blue cat": "eine blaue katze", "the dog sleeps": "der hund schläft"}
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


@pytest.mark.parametrize("method", ["lora", "full"])
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
    assert {"copy", "word-by-word", method} == set(results["models"])
    gate = {name: value for name, value in results["reload_gate"].items() if name.endswith("difference")}
    assert set(gate) >= {"merged_max_difference"} | ({"adapter_max_difference"} if method == "lora" else set())
    assert max(gate.values()) < 1e-3
    assert results["gallery"][0]["pairs"][1][0] == "meant"
    if method == "full":
        assert results["models"]["full"]["chrf"]["value"] > 80


def test_counts_give_the_libraries_own_figures_on_a_thousand_random_texts():
    import sacrebleu
    from rouge_score.rouge_scorer import RougeScorer

    rng = np.random.default_rng(0)
    words = ["the", "cat", "sat", "on", "a", "mat", "while", "dogs", "ran", "home", "."]
    references = [" ".join(rng.choice(words, rng.integers(1, 12))) for _ in range(1000)]
    predictions = [" ".join(w for w in text.split() if rng.random() < 0.8) or "cat" for text in references]
    assert get_metric("bleu").compute(references, predictions) == pytest.approx(
        sacrebleu.corpus_bleu(predictions, [references]).score
    )
    assert get_metric("chrf").compute(references, predictions) == pytest.approx(
        sacrebleu.corpus_chrf(predictions, [references]).score
    )
    for name, kind in (("rouge_1", "rouge1"), ("rouge_2", "rouge2"), ("rouge_l", "rougeL")):
        scorer = RougeScorer([kind], use_stemmer=True)
        expected = np.mean([scorer.score(r, p)[kind].fmeasure for r, p in zip(references, predictions, strict=True)])
        assert get_metric(name).compute(references, predictions) == pytest.approx(expected)
    interval = compute_interval("bleu", references, predictions, EvaluationConfig(resamples=100))
    assert interval.low < interval.value < interval.high


def test_word_by_word_learns_the_table(tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(json.dumps({"text": text, "target": target}) for text, target in PAIRS))
    data = load_text_to_text(DataConfig(train_file=str(file)))
    answers = BASELINES["word-by-word"](data.splits, data)
    given = dict(zip(data.splits["test"]["text"], answers, strict=True))
    assert all("hund" in answer for text, answer in given.items() if "dog" in text)


def write_folder(folder, **files):
    for name, lines in files.items():
        path = folder / name.replace("_dot_", ".")
        content = "".join(f"{line}\n" for line in lines).encode()
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return DataConfig(data_dir=str(folder), text_column="en", target_column="de")


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
        ({"train_dot_en": ["a", ""], "train_dot_de": ["c", "d"]}, "train row 2: the column 'en' is empty"),
        ({"train_dot_en": ["a"], "train_dot_de": ["c"], "train_x_dot_de": ["d"]}, "are both train; keep one"),
    ],
)
def test_wrong_pairs_are_named(tmp_path, files, message):
    with pytest.raises(UserError, match=message):
        load_text_to_text(write_folder(tmp_path, **files))


def test_a_checkpoint_without_encoder_and_decoder_is_refused(tiny_checkpoint):
    from startup_llm.config import ModelConfig
    from startup_llm.models.checkpoints import load_checkpoint
    from startup_llm.models.sequence_to_sequence import build_sequence_to_sequence

    checkpoint = load_checkpoint(ModelConfig(checkpoint=str(tiny_checkpoint("bert"))))
    with pytest.raises(UserError, match="type bert"):
        build_sequence_to_sequence(checkpoint, dropout=0.0, attention_kernel=None, trust_remote_code=False)


@pytest.mark.real_data
def test_multi30k_is_read_whole(real_data):
    data = load_text_to_text(DataConfig(data_dir=str(real_data / "multi30k"), text_column="en", target_column="de"))
    assert [len(data.splits[name]) for name in ("train", "validation", "test")] == [29_000, 1_014, 1_000]
