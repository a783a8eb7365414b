import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from export.conftest import ask_docker_folder

from startup_llm.runs.prediction import load_exported_run
from startup_llm.serving.load_test import is_alike

TEXTS = ["where is my parcel", "please refund my order, and the money", "café 包裹", "reset my password please " * 30]


def read(folder, name="export.json"):
    return json.loads((folder / name).read_text())


def test_an_export_holds_its_model_its_proof_and_what_the_run_says(finished_run, exported):
    proof, results = read(exported), read(exported, "results.json")
    assert results["export"] == proof
    assert set(proof["models"]) == {"run", "onnx-int8"}
    for figures in proof["models"].values():
        assert figures["first_answer_seconds"] >= figures["load_seconds"] > 0
        assert figures["latency_ms_p95"] >= figures["latency_ms_p50"] > 0
        assert figures["metrics"]["accuracy"]["low"] <= figures["metrics"]["accuracy"]["value"]
    assert proof["comparisons"][0]["a"] == "onnx-int8"
    assert proof["models"]["onnx-int8"]["bytes"] < proof["models"]["run"]["bytes"]
    assert "onnx-int8" in (exported / "README.md").read_text()
    assert "onnx-int8" in (exported / "report.html").read_text()
    assert (exported / "predictions.jsonl").read_text().count("\n") == results["test"]["rows"]
    assert read(exported / "model", "config.json") == read(finished_run / "model", "config.json")


def test_an_export_answers_without_torch_as_the_run_does(finished_run, exported, run_recipe, tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    answers = {}
    for name, run in (("run", finished_run), ("export", exported)):
        output = tmp_path / f"{name}.jsonl"
        assert run_recipe("predict", "--run", run, "--input", tmp_path / "rows.jsonl", "--output", output)[0] == 0
        answers[name] = [json.loads(line) for line in output.read_text().splitlines()]
    assert [set(answer) for answer in answers["export"]] == [set(answer) for answer in answers["run"]]
    assert [answer["score"] for answer in answers["export"]] == pytest.approx(
        [answer["score"] for answer in answers["run"]], abs=0.1
    )


@pytest.mark.cold_start
def test_the_first_answer_of_an_export_needs_no_torch_and_leaves_no_file(exported, tmp_path):
    code = (
        "import sys\n"
        "from startup_llm.runs.prediction import load_exported_run\n"
        f"answer, = load_exported_run({str(exported)!r}).answer({{'text': ['where is my parcel']}})\n"
        "assert set(answer) == {'label', 'score'}, answer\n"
        "heavy = {'torch', 'transformers', 'datasets', 'scipy', 'pandas', 'sklearn', 'pyarrow'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    home = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    if "PYTHONPATH" in os.environ:
        home["PYTHONPATH"] = os.environ["PYTHONPATH"]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=home)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.rglob("*")) == []  # as onnxruntime's telemetry would


def test_an_export_is_not_looked_into(exported, run_recipe):
    code, _, err = run_recipe("predict", "--run", exported, "--text", "a text", "--explain")
    assert (code, err.count("\n"), "name the run that it was made from" in err) == (2, 1, True)


def test_answers_do_not_depend_on_the_order_of_rows(exported):
    from startup_llm.runs.prediction import load_exported_run

    model = load_exported_run(exported)
    forward, backward = (model.answer({"text": texts}) for texts in (TEXTS, TEXTS[::-1]))
    assert [answer["label"] for answer in forward] == [answer["label"] for answer in backward[::-1]]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--format", "onx"], "unknown format 'onx'; did you mean onnx"),
        (["--format", "openvino"], "format 'openvino' is not written"),
        (["--format", "static"], "format 'static' is not written"),
        (["--run_dir", "EXPORTED"], "is finished; name another with --run_dir"),
        (["--run", "EXPORTED"], "is an export already"),
        (["--run", "NOWHERE"], "no finished run in"),
        (["--run", "NO_MODEL"], "has no model in"),
        (["--run", "OTHER_TASK"], "is for text-to-speech, which has no export to onnx-int8"),
        (["--run", "OTHER_ROWS"], "the test rows are not those that"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_folder(finished_run, exported, run_recipe, tmp_path, words, said):
    places = {"EXPORTED": exported, "NOWHERE": tmp_path / "nowhere"}
    for name, change in (
        ("OTHER_TASK", {"task": "text-to-speech"}),
        ("OTHER_ROWS", {"test": {"rows": 9, "sha256": "0" * 64}}),
        ("NO_MODEL", {}),
    ):
        if name in words:
            places[name] = tmp_path / name
            shutil.copytree(finished_run, places[name])
            content = read(places[name], "results.json") | change
            (places[name] / "results.json").write_text(json.dumps(content))
            if name == "NO_MODEL":
                shutil.rmtree(places[name] / "model")
    before = sorted(Path(tmp_path).rglob("*"))
    words = [places.get(word, word) for word in words]
    code, _, err = run_recipe("export", "--run", finished_run, "--run_dir", tmp_path / "new", *words)
    assert (code, err.count("\n")) == (2, 1), err
    assert said in err
    assert sorted(Path(tmp_path).rglob("*")) == before


def test_a_shown_drop_fails_and_is_kept_apart(finished_run, exported, run_recipe, tmp_path, monkeypatch):
    from startup_llm.export import formats, onnx_files, run

    def write_exported(task, model, processor, folder, weights):
        """Take the export that is there."""
        shutil.copytree(exported / "model", folder, dirs_exist_ok=True)

    monkeypatch.setattr(onnx_files, "write_onnx", write_exported)
    monkeypatch.setattr(onnx_files, "quantize", lambda *arguments: None)
    proof = read(exported) | {"outcome": "worse"}
    monkeypatch.setattr(formats.OnnxFormat, "time", lambda *arguments: proof["models"])
    monkeypatch.setattr(run, "prove", lambda *arguments: (proof, np.zeros(proof["test"]["rows"], int)))
    code, _, err = run_recipe("export", "--run", finished_run, "--run_dir", tmp_path / "new")
    assert code == 1
    assert "--allow_drop takes it" in err
    assert not (tmp_path / "new").exists()
    assert read(tmp_path / "new.failed", "results.json")["export"]["outcome"] == "worse"


def test_docker_gets_all_that_the_server_needs_and_no_torch(exported, run_recipe, tmp_path):
    folder = tmp_path / "server"
    code, out, err = run_recipe("export", "--run", exported, "--docker", folder)
    assert code == 0, err
    names = {line.split("==")[0] for line in (folder / "requirements.txt").read_text().splitlines()}
    assert {"onnxruntime", "tokenizers", "fastapi", "uvicorn"} <= names
    assert not names & {"torch", "transformers", "datasets", "scipy", "pandas"}
    dockerfile = (folder / "Dockerfile").read_text()
    copied = [line.split()[1] for line in dockerfile.splitlines() if line.startswith("COPY")]
    assert all((folder / name).exists() for name in copied)
    assert "USER server" in dockerfile
    assert "HEALTHCHECK" in dockerfile
    assert "MB of memory" in out
    code, _, err = run_recipe("export", "--run", exported, "--docker", folder)
    assert (code, "exists; name a folder" in err) == (2, True)


def test_docker_of_a_run_that_is_no_export_is_one_line(finished_run, run_recipe, tmp_path):
    code, _, err = run_recipe("export", "--run", finished_run, "--docker", tmp_path / "server")
    assert (code, err.count("\n"), "is no export" in err) == (2, 1, True)
    assert not (tmp_path / "server").exists()


@pytest.mark.slow
@pytest.mark.cold_start
def test_the_environment_that_docker_gets_serves_the_export(exported, run_recipe, tmp_path):
    folder = tmp_path / "server"
    assert run_recipe("export", "--run", exported, "--docker", folder)[0] == 0
    assert [set(answer) for answer in ask_docker_folder(folder)] == [{"label", "score"}]


def test_an_export_is_published_like_a_run_and_answers_from_where_it_lies_then(
    exported, run_recipe, tmp_path, monkeypatch
):
    from startup_llm.runs.prediction import load_exported_run

    monkeypatch.delenv("HF_TOKEN", raising=False)
    code, _, err = run_recipe("push", "--run", exported, "--repo", "me/mine", "--dry_run", tmp_path / "published")
    assert code == 0, err
    assert (tmp_path / "published" / "model.onnx").is_file()
    assert "load_exported_run" in (tmp_path / "published" / "README.md").read_text()
    both = [load_exported_run(folder).answer({"text": TEXTS}) for folder in (exported, tmp_path / "published")]
    assert both[0] == both[1]


def test_an_export_holds_no_path_of_the_machine_that_made_it(exported):
    content = (exported / "model" / "model.onnx").read_bytes()
    assert b"site-packages" not in content
    assert b"startup_llm" not in content


def test_an_answer_does_not_depend_on_the_texts_beside_it(exported):
    model = load_exported_run(exported)
    texts = ["where is my parcel", "REFUND!!! " * 40, "café 包裹, the password", "x", ""]
    alone = [model.answer({"text": [text]})[0] for text in texts]
    assert len({answer["score"] for answer in alone}) == len(texts)
    for answer, expected in zip(model.answer({"text": texts}), alone, strict=True):
        assert is_alike(answer, expected)
