"""Taggers and sentence encoders in ONNX form: proved by their own metrics, asked and served without torch."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import MESSAGES
from export.conftest import ask_docker_folder, run_words

from startup_llm.config import ExportConfig, ServeConfig

QUICK = ["--speed.plan", "plain", "--evaluation.resamples", 50, "--data.validation_fraction", 0]
NAMES = ("parcel", "refund", "money", "password")
LONG = "where is the parcel, the money and my password " * 12


def build_tagged_rows():
    texts = [text.split() for texts in MESSAGES.values() for text in texts] * 2
    return [{"tokens": words, "tags": ["B-thing" if word in NAMES else "O" for word in words]} for words in texts]


def build_search_rows():
    return [
        {"query": f"{text} {end}", "positive": f"{label}: {text}"}
        for label, texts in MESSAGES.items()
        for text in texts
        for end in ("now", "today")
    ]


LEARN = ["--method", "full", "--train.learning_rate", 1e-2, "--train.max_steps"]
TASKS = {
    "token-classification": ("entity_f1", build_tagged_rows, [*LEARN, 30]),
    "sentence-similarity": ("ndcg_at_10", build_search_rows, [*LEARN, 2]),
}
QUESTIONS = ["where is my parcel", "i want my money, and the password!", LONG]


def read(folder, name="export.json"):
    return json.loads((folder / name).read_text())


@pytest.fixture(
    scope="module",
    params=[pytest.param(task, marks=[pytest.mark.slow] * (task != "token-classification")) for task in TASKS],
)
def both(request, tiny_checkpoint, tmp_path_factory):
    """The task, a run and its export."""
    from startup_llm.export import timing

    folder = tmp_path_factory.mktemp("run")
    _, build, how = TASKS[request.param]
    rows = build()
    for name, part in (("train", rows), ("test", rows[::2])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    files = ["--data.train_file", folder / "train.jsonl", "--data.test_file", folder / "test.jsonl"]
    words = ["--task", request.param, *how, "--model.checkpoint", tiny_checkpoint("bert"), *files, *QUICK]
    assert run_words("finetune", *words, "--run_dir", folder / "run") == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "ROUNDS", 1)
        patch.setattr(timing, "COLD_STARTS", 1)
        words = ["--format", "onnx", "--evaluation.resamples", 50, "--run_dir", folder / "onnx"]
        assert run_words("export", "--run", folder / "run", *words) == 0
    return request.param, folder / "run", folder / "onnx"


def test_an_export_is_proved_by_the_metrics_of_its_task(both):
    task, run, export = both
    proof, results = read(export), read(run, "results.json")
    metric = TASKS[task][0]
    assert proof["decides"] == metric
    trained = results["models"][results["method"]][metric]["value"]
    assert proof["models"]["run"]["metrics"][metric]["value"] == pytest.approx(trained, abs=1e-6)
    assert proof["models"]["onnx"]["metrics"][metric]["value"] == pytest.approx(trained, abs=1e-6)
    assert proof["same_answers"] == 1
    assert proof["largest_difference"] < 1e-4
    asked = "model.embed" if task == "sentence-similarity" else "model.answer"
    assert asked in (export / "README.md").read_text()


def test_predict_and_the_server_answer_as_the_run_does(both, run_recipe, tmp_path):
    from startup_llm.serving.served_model import load_served_model

    _, run, export = both
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in QUESTIONS))
    answers = {}
    for name, folder in (("run", run), ("export", export)):
        output = tmp_path / f"{name}.jsonl"
        words = ["--input", tmp_path / "rows.jsonl", "--output", output]
        code, _, err = run_recipe("predict", "--run", folder, *words)
        assert code == 0, err
        answers[name] = [json.loads(line) for line in output.read_text().splitlines()]
        for answer in answers[name]:
            answer.pop("text", None)
    served = load_served_model(ServeConfig(run=str(export)), str(export))
    with served.read_rows(QUESTIONS) as rows:
        answers["served"] = [result.answer for result in served.compute(rows)]
    for name in ("export", "served"):
        assert_alike(answers[name], answers["run"])
    assert any(answers["run"][2].get("entities", answers["run"][2].get("matches")))
    if served.embeds:
        vectors = [
            load_served_model(ServeConfig(run=str(run)), str(run)).model.embed(QUESTIONS),
            served.model.embed(QUESTIONS),
        ]
        assert np.allclose(vectors[0][0], vectors[1][0], atol=1e-5)
        assert vectors[0][1] == vectors[1][1]


def assert_alike(ours, theirs):
    """Compare nested answers, numbers to 1e-5."""
    assert type(ours) is type(theirs)
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert_alike(ours[key], theirs[key])
    elif isinstance(ours, list):
        assert len(ours) == len(theirs)
        for pair in zip(ours, theirs, strict=True):
            assert_alike(*pair)
    elif isinstance(ours, float):
        assert ours == pytest.approx(theirs, abs=1e-5)
    else:
        assert ours == theirs


def test_weights_of_8_bits_take_their_ranges_from_training_rows(both, tmp_path):
    from startup_llm.export import formats, onnx_files
    from startup_llm.export.formats import OnnxFormat
    from startup_llm.export.run import load_source

    _, run, export = both
    config = ExportConfig(run=str(run), format="onnx-int8", quantization="static", calibration_rows=4)
    source = load_source(config, run / "model", read(run, "results.json"))
    shutil.copytree(export / "model", tmp_path / "model")
    batches = formats._list_batches(source, tmp_path / "model", config)
    assert len(batches) == 4
    onnx_files.quantize(tmp_path / "model", "static", batches)
    measured = OnnxFormat("int8").measure(source, tmp_path / "model", "onnx-int8", None)
    exact = OnnxFormat("float32").measure(source, export / "model", "onnx", None)
    assert [output.shape for output in measured.outputs] == [output.shape for output in exact.outputs]
    sizes = [(folder / "model" / "model.onnx").stat().st_size for folder in (tmp_path, export)]
    assert sizes[0] < sizes[1]


@pytest.mark.cold_start
def test_an_export_needs_no_torch(both, tmp_path):
    task, _, export = both
    ask = "embed(['where is my parcel'])" if task == "sentence-similarity" else "answer({'text': ['where is it']})"
    code = (
        "import sys\n"
        "from startup_llm.runs.prediction import load_exported_run\n"
        f"load_exported_run({str(export)!r}).{ask}\n"
        "heavy = {'torch', 'transformers', 'datasets', 'scipy', 'pandas', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.cold_start
def test_the_environment_that_docker_gets_serves_it(both, run_recipe, tmp_path):
    task, _, export = both
    code, _, err = run_recipe("export", "--run", export, "--docker", tmp_path / "server")
    assert code == 0, err
    key = "matches" if task == "sentence-similarity" else "entities"
    assert [key in answer for answer in ask_docker_folder(tmp_path / "server")] == [True]
