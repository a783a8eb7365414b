"""What a run was scored on is what predict.py answers for the same raw test rows, for every task."""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_checkpoints import build_chat_checkpoint
from conftest import MESSAGES
from detectors import build_detector, write_coco
from PIL import Image
from sounds import TUNES, make_sound, write_sounds
from text_to_text_checkpoints import build_text_to_text_checkpoint

from startup_llm.run_folder import read_results
from startup_llm.tasks import TASKS
from startup_llm.tasks.text_generation.chat_templates import TEMPLATES

QUICK = ["--method", "full", "--evaluation.resamples", 20, "--speed.compute_dtype", "float32", "--audit", "none"]
QUICK += ["--train.max_steps", 2, "--train.per_device_train_batch_size", 8, "--train.learning_rate", 3e-3]


@dataclass
class Case:
    """A run to make.

    Attributes:
        words: Options of finetune.py.
        input: The test rows, as predict.py reads them.
        read: From a line of `predictions.jsonl` and results to what the answer has to be.
        answer: From a line of predict.py to the same form.
        more: Further options of predict.py.
    """

    words: Sequence[object]
    input: Path
    read: Callable[[Any, dict[str, Any]], Any]
    answer: Callable[[dict[str, Any]], Any]
    more: Sequence[object] = ()


def write(file: Path, rows: list[dict]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def label_texts(folder: Path, checkpoint: Callable[[str], Path], label: Callable[[int], Any]) -> list[object]:
    kinds = [(kind, text) for kind, texts in enumerate(MESSAGES.values()) for text in texts]
    starts = ("hello", "please", "so")
    rows = [{"text": f"{start} {text}", "label": label(kind)} for start in starts for kind, text in kinds]
    for split in ("train", "test"):
        write(folder / f"{split}.jsonl", rows)
    return ["--data.data_dir", folder, "--data.validation_fraction", 0, "--model.checkpoint", checkpoint("bert")]


def text_classification(folder: Path, checkpoint: Callable[[str], Path]) -> Case:
    words = label_texts(folder, checkpoint, lambda kind: list(MESSAGES)[kind])
    read = lambda value, results: results["labels"][value]  # noqa: E731
    return Case(words, folder / "test.jsonl", read, lambda answer: answer["label"])


def several_labels(folder: Path, checkpoint: Callable[[str], Path]) -> Case:
    words = label_texts(folder, checkpoint, lambda kind: ["a", "b", "c"][: kind + 1])

    def read(value: list[float], results: dict) -> list[str]:
        return [name for name, is_true in zip(results["labels"], value, strict=True) if is_true > 0.5]

    return Case(words, folder / "test.jsonl", read, lambda answer: answer["labels"])


def numbers(folder: Path, checkpoint: Callable[[str], Path]) -> Case:
    count = itertools.count()
    words = label_texts(folder, checkpoint, lambda kind: kind + next(count) / 100)
    return Case(words, folder / "test.jsonl", lambda value, _: value, lambda answer: answer["score"])


def entities(folder: Path, checkpoint: Callable[[str], Path], as_words: bool = False) -> Case:
    """Texts in Chinese, Korean and English; a span ends inside a word."""
    texts = [
        ("我在北京工作。", "北京"),
        ("她住在上海", "上海"),
        ("서울에서 일해요", "서울"),
        ("a Rome-based firm in Oslo", "Oslo"),
    ]
    rows = []
    for text, place in texts * 6:
        span = {"start": text.index(place), "end": text.index(place) + len(place), "label": "place"}
        rows.append({"text": text, "entities": [span]})
    rows.append({"text": "the Romeward road", "entities": [{"start": 4, "end": 8, "label": "place"}]})
    if as_words:
        rows = [{"tokens": list(row["text"]) if " " not in row["text"] else row["text"].split()} for row in rows]
        rows = [{"tokens": row["tokens"], "tags": ["B-x", *["O"] * (len(row["tokens"]) - 1)]} for row in rows]
    for split in ("train", "test"):
        write(folder / f"{split}.jsonl", rows)
    words = ["--data.data_dir", folder, "--data.validation_fraction", 0, "--model.checkpoint", checkpoint("bert")]
    words += ["--train.max_steps", 40]
    return Case(words, folder / "test.jsonl", lambda value, _: value, lambda answer: answer["entities"])


def questions(folder: Path, checkpoint: Callable[[str], Path], trained: bool = True, asked: bool = True) -> Case:
    """Questions of which some have no answer, in the training rows or in the test rows."""
    for split, without in (("train", trained), ("test", asked)):
        rows = []
        for number in range(12):
            context = f"{'the parcel is late. ' * (number % 3)}it was sent to Oslo on day {number}."
            empty = without and number % 3 == 0
            answers = [] if empty else [{"text": "Oslo", "answer_start": context.index("Oslo")}]
            found = {"text": [a["text"] for a in answers], "answer_start": [a["answer_start"] for a in answers]}
            rows.append(
                {
                    "id": f"{split}{number}",
                    "question": f"where to {split} {number}?",
                    "context": context,
                    "answers": found,
                }
            )
        write(folder / f"{split}.jsonl", rows)
    words = ["--data.data_dir", folder, "--data.validation_fraction", 0, "--model.checkpoint", checkpoint("bert")]
    keys = ("start", "end", "score")
    return Case(
        words, folder / "test.jsonl",
        lambda value, _: [value["text"], *(value[key] for key in keys)],
        lambda answer: [answer["answer"], *(answer[key] for key in keys)],
    )  # fmt: skip


def search(folder: Path, checkpoint: Callable[[str], Path]) -> Case:
    for split, start in (("train", "hello"), ("test", "well")):
        rows = [{"text": f"{start} {text}", "label": label} for label, texts in MESSAGES.items() for text in texts]
        write(folder / f"{split}.jsonl", rows)
    words = ["--data.data_dir", folder, "--data.validation_fraction", 0, "--model.checkpoint", checkpoint("bert")]
    return Case(
        words, folder / "test.jsonl", lambda value, _: value[:3],
        lambda answer: [int(match["id"]) - 1 for match in answer["matches"]], ["--matches", 3],
    )  # fmt: skip


def scored_pairs(folder: Path, checkpoint: Callable[[str], Path]) -> Case:
    texts = [text for texts in MESSAGES.values() for text in texts]
    rows = [{"text": text, "text_pair": texts[-place], "score": place / 10} for place, text in enumerate(texts)]
    for split in ("train", "test"):
        write(folder / f"{split}.jsonl", rows)
    words = ["--data.data_dir", folder, "--data.validation_fraction", 0, "--model.checkpoint", checkpoint("bert")]
    return Case(words, folder / "test.jsonl", lambda value, _: value, lambda answer: answer["score"])


def text_to_text(folder: Path, checkpoint: Callable[[str], Path], kind: str, task: str) -> Case:
    texts = [text for texts in MESSAGES.values() for text in texts]
    base = build_text_to_text_checkpoint(kind, folder / "base", texts)
    for split in ("train", "test"):
        write(folder / f"{split}.jsonl", [{"text": text, "target": text[::-1]} for text in texts])
    words = ["--data.data_dir", folder, "--data.validation_fraction", 0, "--model.checkpoint", base]
    words += ["--data.target_column", "target"]
    return Case(words, folder / "test.jsonl", lambda value, _: value, lambda answer: answer[f"{task}_text"])


def conversations(folder: Path, checkpoint: Callable[[str], Path]) -> Case:
    """A checkpoint whose generation config samples, as those of published chat models do."""
    base = build_chat_checkpoint("llama", folder / "base", TEMPLATES["chatml"])
    file = base / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "do_sample": True, "temperature": 2.0}))
    for split in ("train", "test"):
        rows = [{"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": f" {label}"}]}
                for label, texts in MESSAGES.items() for text in texts]  # fmt: skip
        write(folder / f"{split}.jsonl", rows)
    asked = [{"messages": row["messages"][:1]} for row in rows]
    words = ["--data.data_dir", folder, "--data.validation_fraction", 0, "--model.checkpoint", base]
    words += ["--evaluation.generate", "true"]
    read = lambda value, _: value["answer"]  # noqa: E731
    return Case(words, write(folder / "asked.jsonl", asked), read, lambda answer: answer["generated_text"])


def images(folder: Path, checkpoint: Callable[[str], Path]) -> Case:
    import torch
    import transformers

    from startup_llm.models.scratch.image import build_image_processor

    blocks = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    torch.manual_seed(0)
    config = transformers.ViTConfig(**blocks, image_size=16, patch_size=8)
    transformers.AutoModelForImageClassification.from_config(config).save_pretrained(folder / "base")
    build_image_processor(16).save_pretrained(folder / "base")
    generator, files = np.random.default_rng(0), []
    for split in ("train", "test"):
        for kind in ("dark", "light"):
            (folder / "data" / split / kind).mkdir(parents=True)
            for place in range(8):
                pixels = generator.integers(0, 120, (20, 24, 3), dtype=np.uint8) + 120 * (kind == "light")
                file = folder / "data" / split / kind / f"{place}.png"
                Image.fromarray(pixels.astype(np.uint8)).save(file)
                files += [{"image": str(file)}] * (split == "test")
    words = [
        "--data.data_dir",
        folder / "data",
        "--data.validation_fraction",
        0,
        "--model.checkpoint",
        folder / "base",
    ]
    read = lambda value, results: results["labels"][value]  # noqa: E731
    return Case(words, write(folder / "asked.jsonl", files), read, lambda answer: answer["label"])


def objects(folder: Path, checkpoint: Callable[[str], Path]) -> Case:
    """Answers are what is found with a score above a half; the score counts weaker finds too."""
    base = build_detector("detr", folder / "base", 3)
    for split, first in (("train", 0), ("test", 12)):
        write_coco(folder / "data", folder / "data" / f"{split}.json", 12, first=first)
    words = ["--data.data_dir", folder / "data", "--data.validation_fraction", 0, "--model.checkpoint", base]
    files = [{"image": str(folder / "data" / f"{number}.png")} for number in range(12, 24)]

    def read(value: dict[str, list], results: dict) -> list[list[Any]]:
        found = zip(value["labels"], value["scores"], strict=True)
        return sorted([results["labels"][label], score] for label, score in found if score > 0.5)

    def answer(found: dict) -> list[list[Any]]:
        return sorted([thing["label"], thing["score"]] for thing in found["objects"])

    return Case(words, write(folder / "asked.jsonl", files), read, answer)


def _wav2vec2(folder: Path, *, letters: bool) -> Path:
    import torch
    import transformers

    from startup_llm.tasks.audio.speech_models import build_letter_tokenizer

    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
        "conv_dim": (16, 16, 16), "conv_kernel": (10, 8, 4), "conv_stride": (10, 8, 4), "feat_extract_norm": "group",
        "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "classifier_proj_size": 16,
    }  # fmt: skip
    extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=False)
    if not letters:
        transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**sizes)).save_pretrained(folder)
        extractor.save_pretrained(folder)
        return folder
    tokenizer = build_letter_tokenizer(list(TUNES))
    config = transformers.Wav2Vec2Config(**sizes, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    transformers.Wav2Vec2ForCTC(config).save_pretrained(folder)
    transformers.Wav2Vec2Processor(extractor, tokenizer).save_pretrained(folder)
    return folder


def _write_test_sounds(folder: Path) -> Path:
    """Write sounds of which one in the test split is longer than the window of a small Whisper."""
    import soundfile

    write_sounds(folder / "train", 4)
    test = write_sounds(folder / "test", 2)
    soundfile.write(test[0], np.concatenate([make_sound(word, 3) for word in TUNES]), 16_000)
    for split in ("train", "test"):
        files = sorted((folder / split).iterdir())
        write(folder / f"{split}.jsonl", [{"audio": str(file), "text": file.name.split("_")[0]} for file in files])
    return folder / "test.jsonl"


def labelled_sounds(folder: Path, checkpoint: Callable[[str], Path]) -> Case:
    write_sounds(folder / "data" / "train", 4, classes=True)
    files = write_sounds(folder / "data" / "test", 2, classes=True)
    words = ["--data.data_dir", folder / "data", "--data.validation_fraction", 0]
    words += ["--model.checkpoint", _wav2vec2(folder / "base", letters=False)]
    asked = write(folder / "asked.jsonl", [{"audio": str(file)} for file in sorted(files)])
    read = lambda value, results: results["labels"][value]  # noqa: E731
    return Case(words, asked, read, lambda answer: answer["label"])


def transcripts(folder: Path, checkpoint: Callable[[str], Path], kind: str) -> Case:
    asked = _write_test_sounds(folder)
    if kind == "ctc":
        _wav2vec2(folder / "base", letters=True)
    else:
        from startup_llm.tasks.audio.options import ScratchWhisper
        from startup_llm.tasks.audio.speech_models import build_scratch_whisper

        small = ScratchWhisper(width=32, layers=1, heads=2)
        for part in build_scratch_whisper(list(TUNES), 0.6, small, "eager"):
            getattr(part, "model", part).save_pretrained(folder / "base")
    words = ["--data.train_file", folder / "train.jsonl", "--data.test_file", asked, "--data.validation_fraction", 0]
    words += ["--model.checkpoint", folder / "base"]
    return Case(words, asked, lambda value, _: value, lambda answer: answer["text"])


CASES = {
    "text-classification": text_classification,
    "text-classification, several labels": several_labels,
    "text-classification, numbers": numbers,
    "token-classification": entities,
    "token-classification, words": lambda *given: entities(*given, as_words=True),
    "question-answering": questions,
    "question-answering, taught no absence": lambda *given: questions(*given, trained=False),
    "question-answering, asked for no absence": lambda *given: questions(*given, asked=False),
    "sentence-similarity": search,
    "sentence-similarity, pairs": scored_pairs,
    "translation": lambda *given: text_to_text(*given, "t5", "translation"),
    "summarization": lambda *given: text_to_text(*given, "bart", "summarization"),
    "text-generation": conversations,
    "image-classification": images,
    "object-detection": objects,
    "audio-classification": labelled_sounds,
    "automatic-speech-recognition, CTC": lambda *given: transcripts(*given, "ctc"),
    "automatic-speech-recognition, Whisper": lambda *given: transcripts(*given, "whisper"),
}


def make_run(case: Case, task: str, folder: Path, run_recipe: Callable) -> tuple[list[dict], list[dict], dict]:
    """Train and predict; returns lines of `predictions.jsonl`, answers, and results."""
    run, answers = folder / "run", folder / "answers.jsonl"
    code, _, err = run_recipe("finetune", "--task", task, *QUICK, *case.words, "--run_dir", run)
    assert code == 0, err[-3000:]
    code, _, err = run_recipe("predict", "--run", run, "--input", case.input, "--output", answers, *case.more)
    assert code == 0, err[-3000:]
    lines = [
        [json.loads(line) for line in file.read_text().splitlines()] for file in (run / "predictions.jsonl", answers)
    ]
    named = [{key.removeprefix("predicted_"): value for key, value in answer.items()} for answer in lines[1]]
    return lines[0], named, read_results(run)


LIKE_OTHERS = (
    *("token-classification, words", "question-answering, taught no absence", "sentence-similarity, pairs"),
    *("question-answering, asked for no absence", "summarization", "automatic-speech-recognition, CTC"),
)
"""Cases of a room that another case walks through as well."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LIKE_OTHERS)) for name in CASES]
)
def test_predict_gives_the_answers_that_a_run_was_scored_on(name, tiny_checkpoint, run_recipe, tmp_path):
    case, task = CASES[name](tmp_path, tiny_checkpoint), name.partition(",")[0]
    scored, answers, results = make_run(case, task, tmp_path, run_recipe)
    if task == "token-classification":
        check_entities(case, scored, answers, results)
        return
    expected = [case.read(line["full"], results) for line in scored]
    found = [case.answer(answer) for answer in answers]
    check_equal(found, expected)


def check_equal(found: Any, expected: Any) -> None:
    """Compare plain data, numbers by their rounded value."""
    if isinstance(expected, list):
        for pair in zip(found, expected, strict=True):
            check_equal(*pair)
        return
    assert found == (pytest.approx(expected, abs=1e-4) if isinstance(expected, float) else expected)


def check_entities(case: Case, scored: list[dict], answers: list[dict], results: dict) -> None:
    """Compare the run's F1 with that of the places in the raw texts, which no segmentation touches."""
    counts = np.zeros(3)
    for row, answer in zip(map(json.loads, case.input.read_text().splitlines()), answers, strict=True):
        if "tokens" in row:
            text = " ".join(row["tokens"])
            ends = [found.span() for found in re.finditer(r"\S+", text)]
            meant = {(*ends[place], tag[2:]) for place, tag in enumerate(row["tags"]) if tag != "O"}
        else:
            text, meant = row["text"], {(span["start"], span["end"], span["label"]) for span in row["entities"]}
        found = {(entity["start"], entity["end"], entity["type"]) for entity in answer["entities"]}
        assert all(entity["text"] == text[entity["start"] : entity["end"]] for entity in answer["entities"])
        counts += len(found & meant), len(found), len(meant)
    f1 = 2 * counts[0] / (counts[1] + counts[2])
    assert f1 > 0
    assert results["models"]["full"]["entity_f1"]["value"] == pytest.approx(f1)


@pytest.mark.slow
def test_the_sounds_that_a_run_keeps_are_those_that_predict_gives(run_recipe, tmp_path):
    import torch

    from startup_llm.tasks import load_task
    from startup_llm.tasks.audio.options import ScratchSpeechT5, TranscribedRecordingData

    _write_test_sounds(tmp_path)
    task = load_task("text-to-speech")
    files = {f"{split}_file": str(tmp_path / f"{split}.jsonl") for split in ("train", "test")}
    data = task.load_data(TranscribedRecordingData(**files, validation_fraction=0))
    torch.manual_seed(0)
    processor, built = task.reference_models.build(data, ScratchSpeechT5(width=32, layers=1, heads=2), "eager")
    task.reference_models.save(built.model, processor, None, tmp_path / "base")
    words = ["--data.train_file", files["train_file"], "--data.test_file", files["test_file"]]
    words += ["--data.validation_fraction", 0, "--model.checkpoint", tmp_path / "base"]
    asked = write(tmp_path / "asked.jsonl", [{"text": text} for text in data.splits["test"]["text"]])
    case = Case(words, asked, lambda value, _: value, lambda answer: answer["wav_base64"])
    _, answers, _ = make_run(case, "text-to-speech", tmp_path, run_recipe)
    for number, answer in enumerate(answers):
        kept = (tmp_path / "run" / "speech" / f"{number:04d}.wav").read_bytes()
        found, expected = (
            np.frombuffer(one[44:], np.int16).astype(int) for one in (base64.b64decode(answer["wav_base64"]), kept)
        )
        assert np.abs(found - expected).max() < 100


def test_every_task_has_a_case():
    assert {name.partition(",")[0] for name in CASES} | {"text-to-speech"} == set(TASKS)
