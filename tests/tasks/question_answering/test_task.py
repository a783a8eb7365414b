"""Question answering from the rows to the answers, on tiny checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import yaml
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from startup_llm.data.task_data import TaskData
from startup_llm.errors import UserError
from startup_llm.models.checkpoints import load_checkpoint
from startup_llm.tasks import load_task
from startup_llm.tasks.checkpoint import load_task_checkpoint
from startup_llm.tasks.question_answering.options import QuestionAnsweringModel, QuestionData

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / "recipes" / "configs"
FEW_STEPS = ["--train.max_steps", 2, "--train.per_device_train_batch_size", 4, "--evaluation.resamples", 50]
QUIET = ["--train.disable_tqdm", "true"]
THINGS = ("order", "parcel", "password", "money")
PLACES = ("here", "there", "today", "reset")


def build_rows(count: int, *, without_answer: int = 0, seed: int = 0) -> list[dict]:
    """Write contexts of two facts, one of which is asked for; the last questions ask for what is not there."""
    generator = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        things, places = generator.permutation(THINGS), generator.permutation(PLACES)
        context = f"{number} my {things[0]} is {places[0]} and the {things[1]} is {places[1]} please"
        asked = int(generator.integers(2))
        none = number >= count - without_answer
        answer = {"text": [places[asked]], "answer_start": [context.index(places[asked])]}
        rows.append(
            {
                "id": str(number),
                "title": f"t{number % 10}",
                "context": context,
                "question": f"where is {things[2 if none else asked]}",
                "answers": {"text": [], "answer_start": []} if none else answer,
            }
        )
    generator.shuffle(rows)
    return rows


def write_lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_squad(path: Path, rows: list[dict]) -> Path:
    """Write flat rows in SQuAD's own form, an article for each title."""
    articles: dict[str, list] = {}
    for row in rows:
        answers = [{"text": t, "answer_start": s} for t, s in zip(*row["answers"].values(), strict=True)]
        question = {"id": row["id"], "question": row["question"], "answers": answers}
        articles.setdefault(row["title"], []).append({"context": row["context"], "qas": [question]})
    data = [{"title": title, "paragraphs": paragraphs} for title, paragraphs in articles.items()]
    path.write_text(json.dumps({"version": "1.1", "data": data}))
    return path


def read_results(run: Path) -> dict:
    return json.loads((run / "results.json").read_text())


@pytest.fixture(scope="module")
def taught(tmp_path_factory, tiny_checkpoint):
    """A run that has learnt 24 questions, some without an answer, by heart: its folder, checkpoint and rows."""
    import subprocess
    import sys

    folder = tmp_path_factory.mktemp("taught")
    rows = build_rows(24, without_answer=6)
    file = write_lines(folder / "rows.jsonl", rows)
    words = ["--task", "question-answering", "--method", "full", "--model.checkpoint", tiny_checkpoint("bert")]
    words += ["--data.train_file", file, "--data.test_file", file, "--data.validation_fraction", 0]
    words += ["--train.learning_rate", 3e-3, "--train.num_train_epochs", 40, "--train.per_device_train_batch_size", 8]
    words += ["--run_dir", folder / "run", "--evaluation.resamples", 50, *QUIET]
    command = [sys.executable, ROOT / "recipes" / "finetune.py", *words]
    answer = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr[-3000:]
    return folder, rows, answer.stdout


@pytest.mark.fresh_gate
def test_a_tiny_model_learns_answers_and_their_absence_by_heart(taught):
    folder, _, out = taught
    results = read_results(folder / "run")
    assert results["decides"] == "squad_v2_f1"
    assert results["models"]["full"]["squad_v2_f1"]["value"] > 0.9
    assert results["models"]["full"]["squad_v2_exact_match"]["value"] > 0.9
    assert set(results["models"]) == {"overlap-sentence", "sliding-window", "no-answer", "full"}
    assert results["models"]["no-answer"]["squad_v2_f1"]["value"] == pytest.approx(6 / 24)
    gate = results["reload_gate"]
    assert max(gate["merged_max_difference"], gate["pipeline_max_difference"]) < gate["tolerance"]
    assert "6 of the 24 train questions have no answer." in out


@pytest.mark.parametrize("is_tuned", [True, False])
def test_a_checkpoint_that_answers_already_is_a_baseline(taught, tiny_checkpoint, is_tuned):
    folder, _, _ = taught
    task, name = load_task("question-answering"), folder / "run" / "model" if is_tuned else tiny_checkpoint("bert")
    config = QuestionAnsweringModel(checkpoint=str(name), max_length_tokens=64)
    checkpoint = load_checkpoint(config)
    rows = {"question": ["who?"], "context": ["a b"], "answers": [["a"]]}
    data = TaskData(datasets.DatasetDict({"train": datasets.Dataset.from_dict(rows)}))
    built = task.build_model(checkpoint, task.load_processor(checkpoint, config), data, config, None)
    assert built.answers_untuned is is_tuned


def test_the_report_shows_spans_and_kinds_of_questions(taught):
    folder, rows, _ = taught
    results = read_results(folder / "run")
    marked = [item for item in results["gallery"] if item["spans"]]
    assert all(item["kind"] == "spans" for item in results["gallery"])
    assert any("meant: no answer" in item["title"] for item in results["gallery"])
    for item in marked:
        shown = "".join(item["text"][span["start"] : span["end"]] for span in item["spans"] if span["true"])
        assert shown in PLACES
    groups = {group["title"]: group for group in results["groups"]}
    parts = groups["Has it an answer?"]["rows"]
    assert [(part["name"], part["rows"]) for part in parts] == [("an answer", 18), ("none", 6)]
    whole = sum(part["rows"] * part["values"]["squad_v2_f1"] for part in parts) / len(rows)
    assert whole == pytest.approx(results["models"]["full"]["squad_v2_f1"]["value"])
    page = (folder / "run" / "report.html").read_text()
    assert "Results by group" in page
    assert "meant and given" in page
    card = (folder / "run" / "README.md").read_text()
    assert "pipeline(" not in card
    assert "library_name: transformers" in card


def test_the_card_s_code_answers_as_predict_does(taught, capsys, monkeypatch):
    folder, rows, _ = taught
    task = load_task("question-answering")
    row = next(row for row in rows if row["answers"]["text"])
    code = task.saved_model.load_code.replace("REPOSITORY", str(folder / "run" / "model"))
    asked = f"question, context = {row['question']!r}, {row['context']!r}"
    code = "\n".join(asked if line.startswith("question, context") else line for line in code.splitlines())
    exec(compile(code, "card", "exec"), {})
    assert capsys.readouterr().out.strip() == row["answers"]["text"][0]


def test_an_answer_is_right_where_it_matches_and_is_handed_over_by_the_model_s_decision():
    task = load_task("question-answering")
    logits = [np.array([[0.0, 4, 0], [0.0, 0, 4]]), np.array([[0.0, 1, 0], [0.0, 1, 0]])]
    windows = {"_question": [0, 1], "_null": [0, 0]}
    windows |= {"_starts": [np.array([-1, 0, 2])] * 2, "_ends": [np.array([-1, 1, 3])] * 2}
    rows = datasets.Dataset.from_dict({"context": ["b c", "b c"], "answers": [["B c."], ["c"]]})
    data = TaskData(datasets.DatasetDict(train=rows))
    scored = task.predictor.score_answers(logits, windows, rows, data)
    for temperature in (1.0, 2.0):
        config = SimpleNamespace(null_threshold=None, decision={"temperature": temperature, "threshold": 0.5})
        answers = task.predictor.answer(logits, windows, rows, None, config)
        confidence, right = scored.compute_confidence(temperature)
        assert [answer["score"] for answer in answers] == pytest.approx(confidence.tolist())
        assert [answer["answer"] for answer in answers] == ["b c", "b"]
        assert [answer["needs_human"] for answer in answers] == [False, True]
        assert right.tolist() == [True, False]
    assert "needs_human" in task.predictor.example(config)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_predict_writes_answer_start_end_and_score(taught, run_recipe, tmp_path, kind):
    folder, rows, _ = taught
    source = datasets.Dataset.from_list([{"question": row["question"], "context": row["context"]} for row in rows])
    asked, answered = tmp_path / f"asked.{kind}", tmp_path / f"answers.{kind}"
    getattr(source, {"jsonl": "to_json", "csv": "to_csv", "parquet": "to_parquet"}[kind])(str(asked))
    code, _, err = run_recipe("predict", "--run", folder / "run", "--input", asked, "--output", answered)
    assert code == 0, err[-3000:]
    found = datasets.load_dataset(
        {"jsonl": "json"}.get(kind, kind), data_files=str(answered), cache_dir=str(tmp_path / "c"), split="train"
    )
    stored = (json.loads(line) for line in (folder / "run" / "predictions.jsonl").read_text().splitlines())
    for row, answer, known in zip(rows, found, stored, strict=True):
        assert (answer["answer"] or "") == known["full"]["text"]
        assert (answer["start"], answer["end"]) == (known["full"]["start"], known["full"]["end"])
        assert row["context"][answer["start"] : answer["end"]] == (answer["answer"] or "")
        assert answer["score"] == pytest.approx(known["full"]["score"], abs=1e-5)
        assert 0 <= answer["score"] <= 1


def test_predict_names_a_row_without_a_context(taught, run_recipe, tmp_path):
    folder, _, _ = taught
    file = write_lines(
        tmp_path / "a.jsonl", [{"question": "where?", "context": "here"}, {"question": "why?", "context": ""}]
    )
    words = ["--run", folder / "run", "--input", file, "--output", tmp_path / "b.jsonl"]
    code, _, err = run_recipe("predict", *words)
    assert code == 2
    assert "row 2: column 'context' has no text" in err


def test_a_threshold_is_kept_with_the_model_and_moves_the_choice(taught, tmp_path):
    folder, rows, _ = taught
    task = load_task("question-answering")
    data = task.load_data(
        QuestionData(
            train_file=str(folder / "rows.jsonl"), test_file=str(folder / "rows.jsonl"), validation_fraction=0.0
        )
    )
    model = AutoModelForQuestionAnswering.from_pretrained(folder / "run" / "model").eval()
    assert model.config.null_threshold == 0.0
    tokenizer = AutoTokenizer.from_pretrained(folder / "run" / "model")
    encoded, _ = task.encode(data.splits["test"], tokenizer)
    batch = task.build_collator(tokenizer)(
        encoded.select_columns(["input_ids", "attention_mask", "token_type_ids"]).to_list()
    )
    given = {}
    for threshold in (-1000.0, 0.0, 1000.0):
        model.config.null_threshold = threshold
        outputs = [output.copy() for output in run_model(task, model, batch, tokenizer)]
        found = task.read_predictions(outputs, encoded, data.splits["test"], data)
        given[threshold] = sum(answer["text"] == "" for answer in found)
    assert given[-1000.0] == len(rows)
    assert 0 < given[0.0] < len(rows)
    assert given[1000.0] == 0


def run_model(task, model, batch, tokenizer):
    import torch

    with torch.inference_mode():
        return task.compute_outputs(model, batch, tokenizer)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert", "deberta-v2", "modernbert"])
def test_each_architecture_learns_the_places_through_its_own_head(tiny_checkpoint, tmp_path, architecture):
    import torch

    task = load_task("question-answering")
    checkpoint = load_checkpoint(QuestionAnsweringModel(checkpoint=str(tiny_checkpoint(architecture))))
    data = task.load_data(QuestionData(train_file=str(write_lines(tmp_path / "rows.jsonl", build_rows(20)))))
    tokenizer = task.load_processor(checkpoint, QuestionAnsweringModel())
    built = task.build_model(checkpoint, tokenizer, data, QuestionAnsweringModel(), "sdpa")
    assert {"qa_outputs", "classifier"} & set(built.head_modules)
    assert not any(name.startswith(built.model.base_model_prefix) for name in built.head_modules)
    encoded, _ = task.encode(data.splits["train"].select(range(4)), tokenizer)
    inputs = encoded.remove_columns([name for name in encoded.column_names if name[0] == "_" or name == "length"])
    batch = dict(task.build_collator(tokenizer)(inputs.to_list()))
    loss, logits = task.compute_loss(built.model.eval(), batch, tokenizer)
    places = batch["labels"]
    expected = torch.nn.functional.cross_entropy(logits, places)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    loss.backward()
    for name in built.head_modules:
        assert any(parameter.grad.abs().sum() > 0 for parameter in built.model.get_submodule(name).parameters())


@pytest.mark.slow
def test_squad_deberta_runs_on_both_versions_of_squad(run_recipe, tiny_checkpoint, tmp_path):
    config = CONFIGS / "squad_deberta.yaml"
    assert yaml.safe_load(config.read_text())["model"]["checkpoint"] == "microsoft/deberta-v3-base"
    for version, without in (("squad_v2", 10), ("squad", 0)):
        folder = tmp_path / version
        folder.mkdir()
        write_lines(folder / "train.jsonl", build_rows(60, without_answer=without, seed=1))
        write_lines(folder / "validation.jsonl", build_rows(20, without_answer=without, seed=2))
        words = ["--config", config, "--data.dataset", f"rajpurkar/{version}", "--data.data_dir", folder]
        words += ["--model.checkpoint", tiny_checkpoint("deberta-v2"), "--data.validation_fraction", 0.1]
        words += ["--preflight.only", "true"] * (version == "squad")
        code, out, err = run_recipe("finetune", *words, "--run_dir", folder / "run", *FEW_STEPS, *QUIET)
        assert code == 0, err[-3000:]
        assert "rows" in out
    results = read_results(tmp_path / "squad_v2" / "run")
    assert results["decides"] == "squad_v2_f1"
    assert results["data"]["license"] == "cc-by-sa-4.0"
    assert results["rows"]["test"] == 20
    assert any("eval_squad_v2_f1" in entry for entry in results["history"])
    gate = {name: value for name, value in results["reload_gate"].items() if name.endswith("difference")}
    assert set(gate) == {"merged_max_difference", "adapter_max_difference", "pipeline_max_difference"}
    assert max(gate.values()) < 1e-3
    saved = json.loads((tmp_path / "squad_v2" / "run" / "adapter" / "adapter_config.json").read_text())
    assert "qa_outputs" in saved["modules_to_save"]


@pytest.mark.slow
def test_xquad_lora_runs_two_folds_that_pool_to_all_rows(run_recipe, tiny_checkpoint, tmp_path):
    write_squad(tmp_path / "xquad.en.json", build_rows(40))
    runs = []
    for fold in (1, 2):
        runs.append(tmp_path / f"fold-{fold}")
        words = ["--config", CONFIGS / "xquad_lora.yaml", "--data.data_dir", tmp_path, "--data.folds", 2]
        words += ["--data.fold", fold, "--model.checkpoint", tiny_checkpoint("bert"), "--run_dir", runs[-1]]
        code, out, err = run_recipe("finetune", *words, *FEW_STEPS, *QUIET)
        assert code == 0, err[-3000:]
        assert f"fold {fold} of 2 of the 40 rows (by 'title'" in out
    words = ["--runs", json.dumps([str(run) for run in runs]), "--run_dir", tmp_path / "pooled"]
    code, out, err = run_recipe("pool_folds", *words, "--evaluation.resamples", 50)
    assert code == 0, err[-3000:]
    pooled = read_results(tmp_path / "pooled")
    assert [fold["rows"] for fold in pooled["folds"]] == [20, 20]
    assert pooled["rows"] == 40
    for model in ("lora", "overlap-sentence", "sliding-window"):
        values = [fold["models"][model]["squad_f1"]["value"] for fold in pooled["folds"]]
        assert values == [read_results(run)["models"][model]["squad_f1"]["value"] for run in runs]
        assert pooled["models"][model]["squad_f1"]["value"] == pytest.approx(np.mean(values))
    assert "| lora |" in out
    words = ["--runs", json.dumps([str(runs[0]), str(runs[0])]), "--run_dir", tmp_path / "twice"]
    code, _, err = run_recipe("pool_folds", *words)
    assert code == 2
    assert "is fold 1 of 2 too" in err


def test_the_squad_suite_measures_a_checkpoint_on_each_entry(taught, run_recipe, tmp_path):
    folder, rows, _ = taught
    answered = [row for row in rows if row["answers"]["text"]]
    files = {"squad": answered, "squad_v2": rows, "xquad_en": answered}
    found = {}
    for entry, test in files.items():
        file = write_lines(tmp_path / f"{entry}.jsonl", test)
        words = ["--model", folder / "run" / "model", "--suite", "squad", "--only", f"[{entry}]"]
        words += ["--data.test_file", file, "--run_dir", tmp_path / entry, "--evaluation.resamples", 50]
        code, _, err = run_recipe("evaluate", *words)
        assert code == 0, err[-3000:]
        (measured,) = json.loads((tmp_path / entry / "results.json").read_text())["entries"]
        found[entry] = measured["metrics"]
    assert list(found["squad"]) == list(found["xquad_en"]) == ["squad_f1", "squad_exact_match"]
    assert list(found["squad_v2"]) == ["squad_v2_f1", "squad_v2_exact_match"]
    assert found["squad_v2"]["squad_v2_f1"]["value"] > 0.9


def test_a_hub_data_set_of_test_rows_alone_is_measured_whole(taught, run_recipe, tmp_path):
    folder, rows, _ = taught
    answered = [row for row in rows if row["answers"]["text"]]
    write_lines(tmp_path / "validation.jsonl", answered)
    words = ["--model", folder / "run" / "model", "--suite", "squad", "--only", "[xquad_en]"]
    words += ["--data.data_dir", tmp_path, "--data.train_split", "validation", "--data.test_split", "validation"]
    words += ["--data.validation_fraction", 0, "--run_dir", tmp_path / "out", "--evaluation.resamples", 50]
    code, _, err = run_recipe("evaluate", *words)
    assert code == 0, err[-3000:]
    (measured,) = json.loads((tmp_path / "out" / "results.json").read_text())["entries"]
    assert measured["rows"] == len(answered)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "probe"], "--method probe: question-answering has no linear probe; use lora or full"),
        (["--model.max_length_tokens", 12], "a window of 12 tokens has no room"),
        (
            ["--data.packing", "true"],
            "unknown option data.packing for question-answering; it belongs to text-generation",
        ),
        (["--evaluation.decides", "accuracy"], "accuracy is not measured here; choose one of squad_f1"),
    ],
)
def test_a_mistake_is_one_line(run_recipe, tiny_checkpoint, tmp_path, words, message):
    rows = write_lines(tmp_path / "rows.jsonl", build_rows(20))
    given = ["--task", "question-answering", "--model.checkpoint", tiny_checkpoint("bert"), "--data.train_file", rows]
    code, _, err = run_recipe("finetune", *given, "--run_dir", tmp_path / "run", *FEW_STEPS, *words)
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_a_checkpoint_that_cannot_point_at_tokens_is_refused(tiny_checkpoint):
    task = load_task("question-answering")
    checkpoint = load_checkpoint(QuestionAnsweringModel(checkpoint=str(tiny_checkpoint("gpt2"))))
    with pytest.raises(UserError, match="has no \\[CLS\\] token, by which spans are found"):
        task.load_processor(checkpoint, QuestionAnsweringModel())
    rows = datasets.Dataset.from_dict({"answers": [["x"]]})
    from startup_llm.data.task_data import TaskData

    checkpoint = load_checkpoint(QuestionAnsweringModel(checkpoint=str(tiny_checkpoint("gemma"))))
    with pytest.raises(UserError, match="type gemma, which has no question answerer"):
        task.build_model(
            checkpoint, None, TaskData(datasets.DatasetDict({"train": rows})), QuestionAnsweringModel(), None
        )


def test_labels_point_at_the_answer_of_the_window_that_holds_it(tiny_checkpoint):
    task = load_task("question-answering")
    checkpoint = load_checkpoint(QuestionAnsweringModel(checkpoint=str(tiny_checkpoint("roberta"))))
    tokenizer = task.load_processor(checkpoint, QuestionAnsweringModel(max_length_tokens=48))
    context = "the order " * 30 + "is here " + "please refund " * 30
    start = context.index("here")
    rows = datasets.Dataset.from_dict(
        {"question": ["where is it"], "context": [context], "answers": [["here"]], "answer_starts": [[start]]}
    )
    encoded, truncation = task.encode(rows, tokenizer)
    assert truncation.rows == 0
    assert len(encoded) > 3
    held = [row for row in encoded if row["labels"] != [row["_null"]] * 2]
    assert 1 <= len(held) < len(encoded)
    for row in held:
        first, last = row["labels"]
        assert context[row["_starts"][first] : row["_ends"][last]].strip() == "here"


@pytest.mark.slow
@pytest.mark.real_data
def test_xquad_s_answers_survive_minilm_s_tokens_and_baselines_score_as_known(real_data):
    from startup_llm.evaluation.baselines import predict_baselines
    from startup_llm.tasks.question_answering.metrics import SQUAD_EXACT_MATCH, SQUAD_F1

    task = load_task("question-answering")
    config = yaml.safe_load((CONFIGS / "xquad_lora.yaml").read_text())["data"]
    data = task.load_data(QuestionData(**{**config, "data_dir": str(real_data / "xquad")}))
    assert len(data.splits["train"]) + len(data.splits["test"]) == 1190
    tokenizer = task.load_processor(
        load_task_checkpoint(task, QuestionAnsweringModel()), QuestionAnsweringModel(max_length_tokens=128)
    )
    rows = datasets.concatenate_datasets(list(data.splits.values()))
    encoded, truncation = task.encode(rows, tokenizer)
    assert truncation.rows == 0
    assert len(encoded) > len(rows)
    outputs = []
    for starts, (first, last) in zip(encoded["_starts"], encoded["labels"], strict=True):
        output = np.zeros((2, len(starts)))
        output[0, first] = output[1, last] = 5.0
        outputs.append(output)
    answers = task.read_predictions(outputs, encoded, rows, data)
    right = SQUAD_EXACT_MATCH.compute(task.references(rows), answers)
    assert right > 0.99
    found = predict_baselines(task.baselines(data), data)
    references = task.references(data.splits["test"])
    assert 0.14 < SQUAD_F1.compute(references, found["overlap-sentence"]) < 0.21
    assert 0.09 < SQUAD_F1.compute(references, found["sliding-window"]) < 0.17
