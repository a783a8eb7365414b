from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import startup_llm
from startup_llm.errors import UserError

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint) -> dict[str, object]:
    """The names that the notebook leaves, each cell having run in its order, on fewer rows and a tiny checkpoint."""
    fewer = f'"model.checkpoint": {str(tiny_checkpoint("bert"))!r}, "data.max_train_rows": 60'
    cells = json.loads((ROOT / "docs/python.ipynb").read_text("utf-8"))["cells"]
    names: dict[str, object] = {"ROOT": ROOT}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("notebook"))
        for cell in (cell for cell in cells if cell["cell_type"] == "code"):
            source = "".join(cell["source"]).replace('"data.max_train_rows": 200', fewer)
            exec(source.replace('"data.max_test_rows": 120', '"data.max_test_rows": 40'), names)
        names["report"] = Path("runs/notebook/report.html").read_text("utf-8")
        names["answers"] = names["run"].predict(["Where is my parcel?", "I was charged twice this month"])
        names["again"] = startup_llm.load_run("runs/notebook")
        yield names


def test_the_notebook_runs_and_its_run_is_measured(notebook):
    run = notebook["run"]
    assert run.metrics["linear-probe"]["accuracy"]["value"] > run.metrics["majority"]["accuracy"]["value"]
    assert run.results["test"]["rows"] == 40
    assert "linear-probe" in notebook["report"]


def test_a_run_answers_new_rows_with_labels_of_its_own(notebook):
    run = notebook["run"]
    assert [set(answer) >= {"label", "score"} for answer in notebook["answers"]] == [True, True]
    assert {answer["label"] for answer in notebook["answers"]} <= set(run.results["labels"])


def test_a_run_is_opened_again_by_its_folder(notebook):
    assert notebook["again"].results == notebook["run"].results
    assert "test rows" in repr(notebook["again"])


def test_a_row_that_cannot_be_answered_is_named(notebook):
    with pytest.raises(UserError, match="row 2"):
        notebook["run"].predict(["fine", {"body": "unknown column"}])


def test_a_wrong_option_raises_what_the_command_line_says():
    with pytest.raises(UserError, match=r"did you mean lora\.rank"):
        startup_llm.finetune(options={"lora.rnak": 8})


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="no finished run"):
        startup_llm.load_run(tmp_path)


@pytest.mark.slow
@pytest.mark.cold_start
def test_the_library_evaluate_is_imported_where_the_recipes_stand_first_on_the_path():
    code = "import evaluate, startup_llm; print(evaluate.Metric.__name__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "recipes", capture_output=True, text=True, check=False
    )
    assert done.stdout == "Metric\n", done.stderr
