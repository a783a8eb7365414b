from __future__ import annotations

import json
import runpy
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from tokenizers import normalizers
from transformers import AutoTokenizer, CLIPTextConfig, RobertaTokenizer, pipeline

from startup_llm.config import FinetuneConfig, HandoverDecision, SpeedConfig
from startup_llm.data.task_data import TaskData
from startup_llm.errors import UserError
from startup_llm.models.checkpoints import load_checkpoint
from startup_llm.models.sequence_classifier import find_output_layer
from startup_llm.runs.decision import check_decision
from startup_llm.tasks import load_task
from startup_llm.tasks.token_classification.options import TokenClassificationModel
from startup_llm.training import finetuning
from startup_llm.training.speed import plan_speed

ROOT = Path(__file__).parents[3]
TAG = "token-classification"
NAMES = ["Anna", "Bruno", "Clara", "David", "Erika", "Fritz"]
PLACES = ["Rome", "Oslo", "Lima", "Cairo", "Delhi", "Quito"]
LABELS = ["O", "B-person", "I-person", "B-place", "I-place"]
QUICK = ["--evaluation.resamples", "50", "--speed.compute_dtype", "float32", "--speed.attention_kernel", "eager"]


def talk(number: int) -> tuple[list[str], list[int]]:
    """A sentence whose entities follow from its words."""
    name, other, place = NAMES[number % 6], NAMES[number // 6 % 6], PLACES[number // 2 % 6]
    if number % 4 == 3:
        return ["my", "parcel", "is", "gone", "."], [0, 0, 0, 0, 0]
    if number % 3:
        return [name, "Maria", "sent", "my", "order", "to", place, "."], [1, 2, 0, 0, 0, 0, 3, 0]
    return ["my", "parcel", "for", name, other, "is", "in", "New", place], [0, 0, 0, 1, 2, 0, 0, 3, 4]


def build_rows(numbers, labels=LABELS) -> datasets.Dataset:
    tokens, tags = zip(*(talk(number) for number in numbers), strict=True)
    features = datasets.Features(
        {
            "tokens": datasets.List(datasets.Value("string")),
            "tags": datasets.List(datasets.ClassLabel(names=labels)),
            "row": datasets.Value("int64"),
        }
    )
    columns = {"tokens": tokens, "tags": tags, "row": list(range(1, len(tokens) + 1))}
    return datasets.Dataset.from_dict(columns, features=features)


def write_conll(folder: Path, **splits: range) -> None:
    folder.mkdir(exist_ok=True)
    for split, numbers in splits.items():
        sentences = []
        for number in numbers:
            words, tags = talk(number)
            sentences.append("\n".join(f"{w}\t{LABELS[t]}" for w, t in zip(words, tags, strict=True)))
        (folder / f"{split}.conll").write_text("\n\n".join(sentences) + "\n")


def load_parts(folder: Path, limit: int = 64):
    task, checkpoint = load_task(TAG), load_checkpoint(TokenClassificationModel(checkpoint=str(folder)))
    model = TokenClassificationModel(max_length_tokens=limit)
    processor = task.load_processor(checkpoint, model)
    data = TaskData(datasets.DatasetDict(train=build_rows(range(6)), test=build_rows(range(6))), tuple(LABELS))
    return task, processor, data, checkpoint


def run_well(run_recipe, *words: object) -> str:
    code, out, err = run_recipe(*words)
    assert code == 0, err[-3000:]
    return out


def test_a_word_is_labelled_on_its_first_token_alone(tiny_checkpoint, architecture):
    task, processor, _, _ = load_parts(tiny_checkpoint(architecture))
    rows = build_rows(range(3))
    encoded, truncation = task.encode(rows, processor)
    assert (len(encoded), truncation.rows) == (3, 0)
    for row, words, ids, labels in zip(rows, encoded["_words"], encoded["input_ids"], encoded["labels"], strict=True):
        assert len(ids) == len(words) == len(labels)
        assert [word for word in words if word >= 0] == list(range(len(row["tokens"])))
        assert [label for label in labels if label != -100] == row["tags"]
        places = [place for place, word in enumerate(words) if word >= 0]
        for word, start, end in zip(row["tokens"], places, [*places[1:], None], strict=True):
            own = [i for i in ids[start:end] if i not in processor.all_special_ids]
            assert processor.decode(own).strip() == word


def test_byte_level_tokenizers_see_a_blank_before_each_word_and_keep_that_when_saved(tiny_checkpoint, tmp_path):
    base = AutoTokenizer.from_pretrained(tiny_checkpoint("roberta"))
    state = json.loads(base.backend_tokenizer.to_str())["model"]
    special = {"cls_token": "[CLS]", "pad_token": "[PAD]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    roberta = RobertaTokenizer(
        vocab=state["vocab"], merges=[tuple(pair) for pair in state["merges"]], bos_token="[CLS]",
        eos_token="[SEP]", **special,
    )  # fmt: skip
    folder = tmp_path / "roberta"
    shutil.copytree(tiny_checkpoint("roberta"), folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).unlink()
    roberta.save_pretrained(folder)
    for source in (folder, tiny_checkpoint("roberta"), tiny_checkpoint("gpt2")):
        processor = load_parts(source)[1]
        expected = processor.tokenize(" my parcel")
        assert expected[0].startswith("Ġ")
        processor.save_pretrained(tmp_path / "saved")
        for one in (processor, AutoTokenizer.from_pretrained(tmp_path / "saved")):
            ids = one(["my", "parcel"], is_split_into_words=True, add_special_tokens=False)["input_ids"]
            assert one.convert_ids_to_tokens(ids) == expected


@pytest.mark.parametrize("limit", [8, 12, 20])
def test_long_sentences_are_cut_into_windows_and_every_word_is_tagged_once(tiny_checkpoint, limit):
    task, processor, data, _ = load_parts(tiny_checkpoint("bert"), limit)
    rows = build_rows(range(5))
    encoded, _ = task.encode(rows, processor)
    assert max(encoded["length"]) <= limit
    assert len(encoded) > 5
    for place, row in enumerate(rows):
        windows = zip(encoded["_row"], encoded["_words"], strict=True)
        words = [word for own, found in windows if own == place for word in found]
        assert sorted(word for word in words if word >= 0) == list(range(len(row["tokens"])))
    outputs = [np.eye(5)[[max(label, 0) for label in labels]] for labels in encoded["labels"]]
    assert task.read_predictions(outputs, encoded, rows, data) == task.references(rows)


def test_words_of_windows_have_neighbours_on_both_sides(tiny_checkpoint):
    task, processor, _, _ = load_parts(tiny_checkpoint("bert"), 16)
    words = list("abcdefghijklmnopqrstuvwxyz")
    rows = datasets.Dataset.from_dict({"tokens": [words], "tags": [[0] * 26], "row": [1]})
    encoded, _ = task.encode(rows, processor)
    for window, found in enumerate(encoded["_words"]):
        deciding = [place for place, word in enumerate(found) if word >= 0]
        if window > 0:
            assert deciding[0] > 1
        if window < len(encoded) - 1:
            assert deciding[-1] < len(found) - 2


def test_words_without_a_token_are_no_entity_and_count(tiny_checkpoint):
    task, processor, data, _ = load_parts(tiny_checkpoint("bert"))
    processor.backend_tokenizer.normalizer = normalizers.Replace("Anna", "")
    rows = build_rows([1]).map(lambda row: {"tokens": ["Anna", *row["tokens"][1:]]})
    encoded, _ = task.encode(rows, processor)
    outputs = [np.eye(5)[[max(label, 0) for label in labels]] for labels in encoded["labels"]]
    meant, found = task.references(rows)[0], task.read_predictions(outputs, encoded, rows, data)[0]
    assert (meant[0], found[0]) == ("B-person", "O")
    assert meant[1:] == found[1:]
    blank = rows.map(lambda row: {"tokens": ["Anna"], "tags": [1]})
    encoded, _ = task.encode(datasets.concatenate_datasets([blank, rows]), processor)
    assert encoded["_row"] == [1]
    assert task.read_predictions(outputs, encoded, datasets.concatenate_datasets([blank, rows]), data) == [
        ["O"],
        found,
    ]


def test_validation_reads_the_padded_logits(tiny_checkpoint):
    task, processor, data, _ = load_parts(tiny_checkpoint("bert"))
    rows = build_rows(range(4))
    encoded, _ = task.encode(rows, processor)
    labels = np.full((4, max(encoded["length"])), -100)
    for place, own in enumerate(encoded["labels"]):
        labels[place, : len(own)] = own
    logits = np.where((labels == -100)[..., None], -100.0, np.eye(5)[np.maximum(labels, 0)])
    references, predictions = task.read_validation(logits, labels, data)
    assert references == predictions == task.references(rows)


@pytest.mark.parametrize("name", ["bert", "roberta", "deberta-v2", "modernbert", "gpt2", "llama"])
def test_the_pipeline_gives_a_saved_model_s_tags_and_another_order_of_labels_shows(tiny_checkpoint, name, tmp_path):
    task, processor, data, checkpoint = load_parts(tiny_checkpoint(name))
    built = task.build_model(checkpoint, processor, data, TokenClassificationModel(), "eager")
    assert any("classifier" in head or head == "score" for head in built.head_modules)
    torch.manual_seed(0)
    torch.nn.init.normal_(find_output_layer(built.model).weight)
    built.model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    rows = build_rows(range(4))
    encoded = task.encode(rows, processor)[0].remove_columns(["labels", "length", "_row", "_words"])
    collate = task.build_collator(processor)
    with torch.inference_mode():
        outputs = task.compute_outputs(built.model.eval(), collate(encoded.to_list()), processor)
        alone = [task.compute_outputs(built.model, collate([row]), processor)[0] for row in encoded]
    for together, one in zip(outputs, alone, strict=True):
        np.testing.assert_allclose(together, one, atol=1e-4)
    assert task.saved_model.check_pipeline(str(tmp_path), rows, outputs) < 1e-5
    assert task.saved_model.check_pipeline(str(tmp_path), rows, [output[:, ::-1] for output in outputs]) > 0.05


def test_an_architecture_without_the_head_is_named(tiny_checkpoint, tmp_path):
    task, processor, data, _ = load_parts(tiny_checkpoint("bert"))
    folder = tmp_path / "clip"
    shutil.copytree(tiny_checkpoint("bert"), folder)
    CLIPTextConfig().save_pretrained(folder)
    with pytest.raises(UserError, match="of type clip_text_model, which has no token classifier"):
        task.build_model(
            load_checkpoint(TokenClassificationModel(checkpoint=str(folder))),
            processor,
            data,
            TokenClassificationModel(),
            None,
        )


def test_a_probe_learns_from_a_bounded_number_of_tokens(tiny_checkpoint, monkeypatch):
    task, processor, data, checkpoint = load_parts(tiny_checkpoint("bert"))
    plan = plan_speed(SpeedConfig(compute_dtype="float32", attention_kernel="eager"))
    prepared = finetuning.prepare(task, data, FinetuneConfig(), checkpoint, processor, plan)
    whole = finetuning.start_from_probe(prepared).feature_norm
    monkeypatch.setattr(finetuning, "MOST_PROBED_TOKENS", int(0.7 * sum(prepared.encoded["train"]["length"])))
    start = finetuning.start_from_probe(prepared)
    decided, norm = start.predictions, start.feature_norm
    assert norm != whole
    assert list(map(len, decided)) == list(map(len, data.splits["test"]["tokens"]))


@pytest.mark.parametrize("name", ["bert", "modernbert"])
def test_the_head_starts_from_a_probe_on_the_tokens_that_decide(tiny_checkpoint, name):
    task, processor, data, checkpoint = load_parts(tiny_checkpoint(name), 16)
    plan = plan_speed(SpeedConfig(compute_dtype="float32", attention_kernel="eager"))
    prepared = finetuning.prepare(task, data, FinetuneConfig(), checkpoint, processor, plan)
    assert len(prepared.encoded["train"]) > 6
    start = finetuning.start_from_probe(prepared)
    decided, norm = start.predictions, start.feature_norm
    model, test = prepared.task_model.model, prepared.encoded["test"]
    assert task.read_predictions(prepared.predict(model, test), test, data.splits["test"], data) == decided
    assert norm > 0


@pytest.fixture(scope="module")
def learnt(tiny_checkpoint, tmp_path_factory) -> Path:
    """A finished run of every weight of a tiny BERT on sentences that it can learn by heart."""
    folder = tmp_path_factory.mktemp("tokens")
    write_conll(folder / "data", train=range(48), dev=range(72, 122), test=range(60, 72))
    words = [ROOT / "recipes" / "finetune.py", "--task", TAG, "--method", "full", "--run_dir", folder / "run"]
    words += ["--model.checkpoint", tiny_checkpoint("bert"), "--data.data_dir", folder / "data", *QUICK]
    words += ["--train.num_train_epochs", 12, "--train.learning_rate", 3e-3, "--train.per_device_train_batch_size", 8]
    words += ["--decision.cost_of_error", 5, "--decision.cost_of_handover", 1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(word) for word in words])
        runpy.run_path(str(words[0]), run_name="__main__")
    return folder / "run"


@pytest.mark.fresh_gate
def test_a_tiny_model_learns_sentences_and_the_run_tells_what_it_found(learnt):
    results = json.loads((learnt / "results.json").read_text())
    assert results["decides"] == "entity_f1"
    assert results["models"]["full"]["entity_f1"]["value"] > 0.9
    assert set(results["models"]) == {"most-frequent-tag", "linear-tagger", "linear-probe", "full"}
    assert {"eval_entity_f1"} <= {key for entry in results["history"] for key in entry}
    assert results["per_class"]["person"]["rows"] == results["per_class"]["place"]["rows"] == 9
    assert results["reload_gate"]["pipeline_max_difference"] <= results["reload_gate"]["tolerance"]
    assert results["gallery"][0]["kind"] == "spans"
    decision, counted = results["decision"], results["calibration"]["bins"]
    assert (decision["counted"], decision["validation_rows"] >= 50) == ("entities", True)
    assert sum(part["rows"] for part in counted) == decision["risk_coverage"][0]["rows"]
    assert json.loads((learnt / "model" / "config.json").read_text())["decision"] == decision["stored"]
    assert results["load"]["pipeline_arguments"] == {"aggregation_strategy": "first"}
    page, card = (learnt / "report.html").read_text(), (learnt / "README.md").read_text()
    assert "<mark" in page
    assert "test entities" in page
    assert "Entities with a smaller score than the threshold go to a person." in page
    assert 'aggregation_strategy="first"' in card
    assert "Texts are cut" not in card
    line = json.loads((learnt / "predictions.jsonl").read_text().splitlines()[0])
    assert len(line["full"]) == len(line["most-frequent-tag"]) > 5


def test_predict_answers_with_entities_and_their_places_in_files_and_streams(learnt, run_recipe, tmp_path):
    texts = ["Bruno Maria sent my order to  Rome.", "my parcel is gone.", "Erika Maria sent my order to Lima. " * 12]
    questions = tmp_path / "in.jsonl"
    questions.write_text("".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(texts)))
    for name in ("out.jsonl", "out.csv", "out.parquet"):
        run_well(run_recipe, "predict", "--run", learnt, "--input", questions, "--output", tmp_path / name)
    answers = [json.loads(line)["entities"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    found = [(one["type"], one["text"], one["start"], one["end"]) for one in answers[0]]
    assert found == [("person", "Bruno Maria", 0, 11), ("place", "Rome", 30, 34)]
    assert all(0.5 < one["score"] <= 1 and "needs_human" in one for one in answers[0])
    assert answers[1] == []
    assert {(one["type"], one["text"]) for one in answers[2]} >= {("person", "Erika Maria"), ("place", "Lima")}
    assert max(one["end"] for one in answers[2]) > 300
    assert all(texts[2][one["start"] : one["end"]] == one["text"] for one in answers[2])
    table = datasets.Dataset.from_parquet(str(tmp_path / "out.parquet"))
    assert table["entities"][0][0]["text"] == "Bruno Maria"
    tagger = pipeline(TAG, model=str(learnt / "model"), device="cpu")
    words = ["Bruno", "Maria", "sent", "my", "order", "to", "Rome", "."]
    first = tagger([words], is_split_into_words=True)[0]
    assert first[0]["entity"] == "B-person"
    questions.write_text(json.dumps({"text": ""}) + "\n")
    code, _, err = run_recipe("predict", "--run", learnt, "--input", questions, "--output", tmp_path / "x.jsonl")
    assert code == 2
    assert "row 1: column 'text' has no text" in err


def test_an_entity_is_right_by_words_and_type_and_an_unsure_one_needs_a_person():
    task, words = load_task(TAG), ["Anna", "Maria", "in", "Rome"]
    logits = np.array([[0, 4, 0, 0, 0], [0, 0, 3, 0, 0], [5, 0, 0, 0, 0], [1, 0, 0, 1.5, 0]], dtype=np.float32)
    encoded = {"_row": [0], "_words": [[0, 1, 2, 3]]}
    rows = datasets.Dataset.from_dict({"tokens": [words], "tags": [[1, 2, 0, 1]], "text": [words]})
    rows = rows.cast_column("tags", datasets.List(datasets.ClassLabel(names=LABELS)))
    data = TaskData(datasets.DatasetDict(train=rows), tuple(LABELS))
    scored = task.predictor.score_answers([logits], encoded, rows, data)
    assert (scored.counted, scored.rows.tolist(), scored.right.tolist()) == ("entities", [0, 0], [True, False])
    for temperature in (1.0, 3.0):
        names = SimpleNamespace(
            id2label=dict(enumerate(LABELS)), decision={"temperature": temperature, "threshold": 0.5}
        )
        (answer,) = task.predictor.answer([logits], encoded, rows, None, names)
        confidence, _ = scored.compute_confidence(temperature)
        assert [entity["score"] for entity in answer["entities"]] == pytest.approx(confidence.tolist())
        assert [entity["needs_human"] for entity in answer["entities"]] == (confidence < 0.5).tolist()
    assert "needs_human" in task.predictor.example(names)["entities"][0]


def test_a_hand_over_of_words_without_entities_is_refused():
    task, rows = load_task(TAG), build_rows(range(6), ["noun", "verb", "name", "more", "rest"])
    data = TaskData(datasets.DatasetDict(train=rows, validation=rows, test=rows), ("noun", "verb"))
    config = FinetuneConfig(task=TAG, decision=HandoverDecision(target_accuracy=0.9))
    with pytest.raises(UserError, match=r"decision\.target_accuracy 0\.9: .* got tags that mark no entities"):
        check_decision(config, task, data)


def test_evaluate_measures_a_run_and_an_entry_of_the_suite(learnt, run_recipe, tmp_path):
    write_conll(tmp_path / "other", train=range(8), test=range(60, 66))
    words = ["--model", learnt, "--suite", "entities", "--only", "[wnut17]", "--data.data_dir", tmp_path / "other"]
    words += ["--evaluation.resamples", 20, "--data.validation_fraction", 0]
    run_well(run_recipe, "evaluate", *words, "--run_dir", tmp_path / "measured")
    entry = json.loads((tmp_path / "measured" / "results.json").read_text())["entries"][0]
    assert entry["rows"] == 6
    assert entry["metrics"]["entity_f1"]["value"] > 0.95


@pytest.mark.parametrize(
    ("config", "kinds", "license_id"),
    [
        ("wnut17_lora", ["corporation", "creative-work", "group", "location", "person", "product"], "cc-by-4.0"),
        pytest.param(
            "conll2003_bert", ["person", "organization", "location", "miscellaneous"], "other", marks=pytest.mark.slow
        ),
    ],
)
def test_a_config_of_entities_runs_on_the_hub_s_own_columns(
    config, kinds, license_id, tiny_checkpoint, tmp_path, run_recipe
):
    names = ["O", *(f"{mark}-{kind}" for kind in kinds for mark in "BI")]
    features = datasets.Features(
        {
            "id": datasets.Value("string"),
            "tokens": datasets.List(datasets.Value("string")),
            "ner_tags": datasets.List(datasets.ClassLabel(names=names)),
        }
    )
    own = ("O", "B-person", "I-person", "B-location", "I-location")
    for split, numbers in {"train": range(24), "validation": range(24, 30), "test": range(30, 40)}.items():
        rows = [
            {
                "id": str(n),
                "tokens": [*words, f"{split}{n}"],
                "ner_tags": [*(names.index(own[tag]) for tag in tags), 0],
            }
            for n, (words, tags) in ((number, talk(number)) for number in numbers)
        ]
        datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / f"{split}.parquet")
    words = ["--config", ROOT / "recipes" / "configs" / f"{config}.yaml", "--data.data_dir", tmp_path]
    words += ["--model.checkpoint", tiny_checkpoint("deberta-v2"), "--run_dir", tmp_path / "run", *QUICK]
    run_well(run_recipe, "finetune", *words, "--train.max_steps", 2)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["labels"] == names
    assert results["data"]["license"] == license_id
    assert results["checkpoint"]["architecture"] == "DebertaV2ForTokenClassification"
    gate = results["reload_gate"]
    assert all(value <= gate["tolerance"] for name, value in gate.items() if name.endswith("_max_difference"))
    assert {"merged_max_difference", "pipeline_max_difference", "adapter_max_difference"} <= gate.keys()
    saved = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text())
    assert "classifier" in saved["modules_to_save"]
    assert saved["task_type"] == "TOKEN_CLS"


def test_a_malformed_file_ends_the_recipe_with_one_line(tiny_checkpoint, tmp_path, run_recipe):
    (tmp_path / "train.conll").write_text("Ada\tB-person\nsings\tO\n\nin\tO\nRome\tI-place\n\nOslo\tB-place\n")
    words = ["--task", TAG, "--model.checkpoint", tiny_checkpoint("bert"), "--data.data_dir", tmp_path]
    code, _, err = run_recipe("finetune", *words, "--run_dir", tmp_path / "run")
    assert code == 2
    assert "line 5: I-place follows O, which IOB2 does not allow" in err
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()
