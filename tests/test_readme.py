"""The README's commands run, those of other pages parse, links lead to files, and tables are those of results."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from startup_llm.errors import UserError
from startup_llm.runs.readme import (
    keep_results,
    main,
    render_benchmark,
    render_comparison,
    render_page,
    render_summary,
    render_table,
    shorten_benchmark,
    shorten_comparison,
    shorten_results,
)

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "recipes" / "results"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
TEXTS["recipes/configs/README.md"] = (ROOT / "recipes" / "configs" / "README.md").read_text(encoding="utf-8")


def list_commands(text: str) -> list[str]:
    """Return the commands of a page's blocks."""
    blocks = re.findall(r"```\n(.*?)```", text, re.DOTALL)
    starts = ("accelerate launch", "python ", "make ")
    return [line for block in blocks for line in block.splitlines() if line.startswith(starts)]


README = TEXTS["README.md"]
COMMANDS = list_commands(README)
RECIPE_COMMANDS = sorted({line for text in TEXTS.values() for line in list_commands(text) if "recipes/" in line})


def find(start: str) -> list[str]:
    """Return the words of the README's one command that begins so."""
    found = [line for line in COMMANDS if line.startswith(start)]
    assert len(found) == 1, found
    return shlex.split(found[0], comments=True)


def find_files(words: list[str]) -> list[str]:
    """Return the words of a command with the clone's recipes and configs, and the interpreter of these tests."""
    names = ("finetune.py", "predict.py", "push.py", "serve.py")
    recipes = {f"recipes/{name}": str(ROOT / "recipes" / name) for name in names}
    words = [recipes.get(word, word) for word in words]
    words = [str(ROOT / word) if word.startswith("recipes/configs") else word for word in words]
    return [str(Path(sys.executable).with_name(words[0])), *words[1:]]


def run(words: list[str], cwd: Path) -> subprocess.CompletedProcess:
    words = find_files(words)
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)


QUICK = ["--train.max_steps", "2", "--evaluation.resamples", "50"]


@pytest.mark.parametrize("page", TEXTS)
def test_the_tables_are_those_of_the_results_files(page):
    assert render_page(TEXTS[page], RESULTS) == TEXTS[page]


def test_every_results_file_is_on_a_page():
    marked = re.findall(
        r"<!-- (?:results|summary|comparison|benchmark|labelling|export): ([^>]+) -->", "".join(TEXTS.values())
    )
    assert {file.stem for file in RESULTS.rglob("*.json")} <= set(" ".join(marked).split())


@pytest.mark.parametrize("page", TEXTS)
def test_links_between_pages_lead_to_a_file_and_a_heading(page):
    for link in re.findall(r"\]\((?!https?:)([^)#]*)(#[^)]+)?\)", TEXTS[page]):
        path, anchor = (ROOT / page).parent / link[0] if link[0] else ROOT / page, link[1]
        assert path.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor[1:] in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("command", RECIPE_COMMANDS)
def test_every_option_of_a_command_is_known(command, run_recipe, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = shlex.split(command, comments=True)
    place = next((number for number, word in enumerate(words) if re.fullmatch(r"recipes/\w+\.py", word)), None)
    if place is None:
        assert "-m" in words
        return
    code, out, err = run_recipe(Path(words[place]).stem, *words[place + 1 :], "--print_config")
    assert (code, err) == (0, "")
    assert out


def test_pages_are_written_in_place_and_what_is_missing_is_named(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- summary: helpdesk-lora -->\n<!-- /summary -->\n")
    main(str(page), str(RESULTS))
    assert "| helpdesk-lora | text-classification |" in page.read_text()
    page.write_text("<!-- results: helpdesk-lra -->\n<!-- /results -->\n")
    with pytest.raises(UserError, match=r"no results file .*helpdesk-lra\.json; did you mean helpdesk-lora"):
        main(str(page), str(RESULTS))
    with pytest.raises(UserError, match="expected pages, then the folder of results files"):
        main(str(RESULTS))


def test_a_figure_that_is_no_share_stands_in_its_own_unit_with_its_signature_and_without_texts():
    score = {"bleu": {"value": 33.25, "low": 31.0, "high": 35.5}}
    run = {"decides": "bleu", "models": {"transformer": score}, "sentences": ["transformer beats copy"]}
    run |= {"seconds": 60.0, "peak_memory_bytes": 2**30, "throughput": {}, "hardware": "one machine"}
    run |= {"signatures": {"bleu": "nrefs:1|tok:13a"}, "data": {"notes": ["a"]}, "gallery": [{"title": "a text"}]}
    table = render_table([run])
    assert "| transformer | 33.2 | 31.0 to 35.5 |" in table
    assert "sacreBLEU's signature: `nrefs:1|tok:13a`." in table
    small = {"rouge_l": {"value": 0.2926, "low": 0.2466, "high": 0.342}}
    slow = {"decides": "rouge_l", "models": {"lora": small}, "throughput": {"train_examples_per_second": 0.4711}}
    table = render_table([{**run, **slow}])
    assert "| lora | 0.29 | 0.25 to 0.34 |" in table
    assert ", 0.5 training examples per second" in table
    kept = shorten_results({**run, "checkpoint": {"name": "/home/me/runs/gpt/model"}})
    assert kept.keys().isdisjoint({"gallery"})
    assert kept["checkpoint"] == {"name": "gpt/model"}


def test_the_summary_sets_each_experiment_beside_the_best_of_the_others():
    def scores(value):
        return {"word_error_rate": {"value": value, "low": value - 0.01, "high": value + 0.01}, "loss": {"value": 1.0}}

    run = {"decides": "word_error_rate", "lower_is_better": ["word_error_rate"], "seconds": 90.0}
    run |= {"models": {"a": scores(0.5), "b": scores(0.9), "whisper": scores(0.1), "unmeasured": {}}, "task": "asr"}
    told = render_summary({"fsdd-asr": [run]}).splitlines()[-1]
    figures = "word_error_rate (lower is better) | 50.0 % a | 10.0 % whisper (9.0 to 11.0)"
    assert told == f"| fsdd-asr | asr | {figures} | 1.5 |"


def test_a_comparison_s_models_stand_in_the_order_of_the_largest_budget_and_without_paths():
    def model(name, mean):
        draws = [{"value": mean, "command": "run /home/me"}]
        return {"name": name, "mean": mean, "least": mean - 0.01, "most": mean + 0.01, "draws": draws}

    budgets = [
        {"budget": 5, "rungs": [model("ganbert", 0.7), model("dnn", 0.5), model("lora", 0.6)]},
        {"budget": "all", "rungs": [model("dnn", 0.8), model("lora", 0.9)]},
    ]
    found = {"decides": "accuracy", "lower_is_better": False, "budgets": budgets, "sentences": ["Use lora."]}
    kept = shorten_comparison({**found, "hardware": "one machine", "command": "compare /home/me"})
    assert "/home" not in json.dumps(kept)
    lines = render_comparison(kept).splitlines()
    assert lines[0] == "| accuracy | 5 | all |"
    assert lines[2] == "| lora | 60.0 % (59.0 to 61.0) | 90.0 % (89.0 to 91.0) |"
    assert lines[4] == "| ganbert | 70.0 % (69.0 to 71.0) |  |"
    assert "Use lora." in lines


def test_timings_stand_beside_the_first_method_s_and_without_paths():
    methods = {
        name: {"rows_per_second": {"median": rate, "low": rate, "high": rate}} for name, rate in [("a", 6), ("b", 2)]
    }
    size = {"rows": 600, "summary": methods, "timings": {"a": [{"rows_per_second": 6}]}}
    kept = shorten_benchmark({"sizes": [size], "hardware": "one machine", "command": "benchmark /home/me"})
    assert "/home" not in json.dumps(kept)
    assert "timings" not in kept["sizes"][0]
    assert render_benchmark(kept).splitlines()[-3:] == ["| b | 2.0 | 3.00 |", "", "On one machine."]


def test_an_export_stands_beside_its_run_and_without_paths(tmp_path):
    proof = {
        "table": {"header": ["", "run", "onnx"], "rows": [["accuracy", "0.9000", "0.8990"]]},
        "sentences": ["onnx is not shown to differ from the run"],
        "note": "Timed in turns.",
        "hardware": "one machine",
        "command": "export /home/me",
    }
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "results.json").write_text(json.dumps({"export": proof, "command": "finetune /home/me"}))
    (tmp_path / "exports").mkdir()
    keep_results(tmp_path, "small", [str(tmp_path / "run")])
    assert "/home" not in (tmp_path / "exports" / "small.json").read_text()
    page = render_page("<!-- export: small -->\n<!-- /export -->", tmp_path)
    assert "|  | run | onnx |\n| --- | ---: | ---: |\n| accuracy | 0.9000 | 0.8990 |\n" in page
    assert "- Timed in turns.\n\nOn one machine." in page


def test_every_command_of_the_readme_is_run_by_these_tests():
    tested = (
        "accelerate launch recipes/",
        "python recipes/push.py",
        "python recipes/serve.py",
        "python recipes/export.py",
        "python recipes/suggest.py",
        "python recipes/drift.py",
        "python recipes/evaluate.py",
        "python recipes/runs.py",
        "make finetune",
        "make test",
    )
    assert [line for line in COMMANDS if not line.startswith(tested)] == []
    assert len(COMMANDS) == 16


@pytest.fixture(scope="module")
def work(tmp_path_factory, tiny_checkpoint) -> Path:
    """A folder in which the README's commands have what they name."""
    folder = tmp_path_factory.mktemp("readme")
    messages = [("where is my parcel", "delivery"), ("i want my money back", "refund"), ("reset my password", "login")]
    rows = [(f"{text} {number}", label) for number in range(40) for text, label in messages]
    (folder / "tickets.csv").write_text("message,intent\n" + "".join(f"{a},{b}\n" for a, b in rows))
    (folder / "new.csv").write_text("message\nwhere is it\nmoney back please\n")
    things = ("kettle", "lamp", "bicycle", "umbrella", "jacket", "keyboard", "mattress", "toaster", "mirror", "carpet")
    deeds = ("has not come", "goes back", "lost its key", "smells odd", "costs too much", "fits nowhere")
    pool = "".join(f"the {thing} {deed}\n" for thing in things for deed in deeds)
    (folder / "unlabelled.csv").write_text(f"message\n{pool}")
    (folder / "week.csv").write_text("message,intent\n" + "".join(f"{a} again,{b}\n" for a, b in rows[:30]))
    glue = folder / "glue"
    glue.mkdir()
    for split, count in (("train", 24), ("validation", 8)):
        lines = [
            json.dumps({"sentence": f"{split} {i} {'good' if i % 2 else 'bad'}", "label": i % 2}) for i in range(count)
        ]
        (glue / f"{split}.jsonl").write_text("\n".join(lines))
    return folder


@pytest.mark.slow
@pytest.mark.cold_start
def test_defaults_run(work):
    defaults = "accelerate launch recipes/finetune.py"
    assert defaults in COMMANDS
    answer = run([*defaults.split(), "--data.max_train_rows", "60", "--data.max_test_rows", "60", *QUICK], work)
    assert answer.returncode == 0, answer.stderr[-2000:]
    assert (work / "runs" / "helpdesk-lora" / "report.html").is_file()


@pytest.fixture(scope="module")
def tickets_run(work) -> str:
    """What the run on one's own CSV tells."""
    answer = run([*find("accelerate launch recipes/finetune.py --data.train_file"), *QUICK], work)
    assert answer.returncode == 0, answer.stderr[-2000:]
    return answer.stdout


def test_an_own_csv_is_trained_on_and_answers_new_rows(work, tickets_run):
    assert "text from column 'message', label from column 'intent'" in tickets_run
    words = [
        "runs/tickets-lora" if word == "runs/NAME" else word for word in find("accelerate launch recipes/predict.py")
    ]
    answer = run(words, work)
    assert answer.returncode == 0, answer.stderr[-2000:]
    header, *rows = (work / "answers.csv").read_text().splitlines()
    assert header == "message,label,score"
    assert [row.split(",")[0] for row in rows] == ["where is it", "money back please"]


@pytest.mark.usefixtures("tickets_run")
def test_rows_are_suggested_and_new_ones_compared(work, run_recipe, monkeypatch):
    monkeypatch.chdir(work)
    for name, made in (("suggest", "suggestions/label_studio.json"), ("drift", "drift/drift.html")):
        words = find(f"python recipes/{name}.py")[2:]
        named = {"runs/NAME": "runs/tickets-lora", "new.csv": "unlabelled.csv"}
        code, out, err = run_recipe(name, *[named.get(word, word) for word in words])
        assert code == 0, err
        assert made.split("/")[0] in out
        assert Path(made).is_file()


@pytest.mark.usefixtures("tickets_run")
def test_a_run_is_measured_on_later_rows_and_put_in_production(work, run_recipe, monkeypatch):
    monkeypatch.chdir(work)
    for name, codes in (("evaluate", (0, 1)), ("runs", (0,))):  # two steps of training may miss the required value
        words = ["runs/tickets-lora" if word == "runs/NAME" else word for word in find(f"python recipes/{name}.py")]
        code, _, err = run_recipe(name, *words[2:])
        assert code in codes, err
    assert (work / "runs" / "production").resolve().name == "tickets-lora"


@pytest.mark.usefixtures("tickets_run")
@pytest.mark.slow
def test_a_run_is_exported(work, run_recipe, monkeypatch):
    from startup_llm.export import timing

    monkeypatch.setattr(timing, "ROUNDS", 1)
    monkeypatch.setattr(timing, "COLD_STARTS", 1)
    monkeypatch.chdir(work)
    words = ["runs/tickets-lora" if word == "runs/NAME" else word for word in find("python recipes/export.py")]
    code, out, err = run_recipe("export", *words[2:], "--allow_drop")
    assert code == 0, err
    assert "export: runs/tickets-lora-onnx-int8" in out


@pytest.mark.usefixtures("tickets_run")
def test_a_run_is_served_and_a_request_on_its_way_is_answered_before_the_server_stops(work):
    words = ["runs/tickets-lora" if word == "runs/NAME" else word for word in find("python recipes/serve.py")]
    curl = shlex.split(next(line for line in README.splitlines() if line.startswith("curl ")))
    words = find_files([*words, "--port", "0", "--max_wait_ms", "2000"])
    with subprocess.Popen(words, cwd=work, stdout=subprocess.PIPE, text=True) as server, ThreadPoolExecutor() as pool:
        address = re.search(r"http://[\d.:]+", server.stdout.readline())[0]
        assert httpx.get(f"{address}/ready", timeout=60).status_code == 200
        asked = pool.submit(httpx.post, f"{address}/predict", content=curl[curl.index("-d") + 1], timeout=60)
        time.sleep(0.5)
        server.send_signal(signal.SIGTERM)
        answer = asked.result().json()["answers"][0]
        log = server.stdout.read()
    assert answer["label"] in ("delivery", "refund", "login")
    assert (server.returncode, '"path": "/predict", "status": 200' in log) == (0, True)
    assert "stopped; every request that had arrived was answered" in log
    assert "parcel" not in log


def test_a_gpt_checkpoint_of_the_hub_on_glue_runs_with_a_local_copy_of_both(work, tiny_checkpoint):
    words = find("accelerate launch recipes/finetune.py --model.checkpoint")
    words[words.index("openai-community/gpt2")] = str(tiny_checkpoint("gpt2"))
    answer = run([*words, "--data.data_dir", "glue", "--data.test_split", "validation", *QUICK], work)
    assert answer.returncode == 0, answer.stderr[-2000:]


@pytest.mark.usefixtures("tickets_run")
def test_a_dry_run_of_push_writes_the_folder(work):
    words = find("python recipes/push.py --run runs/NAME --repo OWNER/NAME --dry_run")
    words = [{"runs/NAME": "runs/tickets-lora", "FOLDER": "sent"}.get(word, word) for word in words]
    answer = run(words, work)
    assert answer.returncode == 0, answer.stderr[-2000:]
    assert (work / "sent" / "README.md").is_file()


def test_a_dry_run_of_a_data_set_writes_the_folder(work):
    words = [*find("python recipes/push.py --dataset"), "--dry_run", "sent-rows"]
    answer = run([*words, "--allow_findings", "near-duplicates-across-splits"], work)
    assert answer.returncode == 0, answer.stderr[-2000:]
    assert (work / "sent-rows" / "data" / "train-00000-of-00001.parquet").is_file()
