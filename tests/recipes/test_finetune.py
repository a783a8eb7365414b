"""The recipe as a person runs it: what a run leaves, and what a mistake says."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "finetune.py"
# not what a busy machine happens to measure
SAME_PLAN = ["--speed.compute_dtype", "float32", "--speed.attention_kernel", "sdpa"]
QUICK = ["--train.max_steps", "2", "--evaluation.resamples", "50", "--train.per_device_train_batch_size", "8"]
GREETINGS = ["hello there", "good morning to you", "hi, how are you", "greetings from us", "hey you", "good evening"]
PARTINGS = ["goodbye now", "see you tomorrow", "farewell my friend", "until next week", "bye bye", "take care"]


@pytest.fixture
def call(monkeypatch, capsys):
    """Return a function that runs the recipe in this process: exit code and the last line of standard error."""

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", [str(RECIPE), *map(str, words)])
        try:
            runpy.run_path(str(RECIPE), run_name="__main__")
        except SystemExit as stop:
            code = stop.code
        else:
            code = 0
        lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
        return code or 0, lines[-1] if lines else ""

    return run


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_rows(path: Path, rows: list[tuple[str, str]], header: str = "text,label") -> Path:
    path.write_text("\n".join([header, *(f"{text},{label}" for text, label in rows)]) + "\n", encoding="utf-8")
    return path


def greetings(copies: int = 3) -> list[tuple[str, str]]:
    return [
        (f"{text} {number}".replace(",", ""), label)
        for number in range(copies)
        for label, texts in (("greeting", GREETINGS), ("parting", PARTINGS))
        for text in texts
    ]


@pytest.fixture(scope="session")
def finished_run(tiny_checkpoint, tmp_path_factory) -> Path:
    """A whole run through `accelerate launch` on a CSV of one's own."""
    folder = tmp_path_factory.mktemp("finished")
    table = write_rows(folder / "tickets.csv", greetings())
    given = re.search(r"^LAUNCH \?= (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    launch = [Path(sys.executable).with_name("accelerate"), "launch", *given, RECIPE, "--data.train_file", table]
    words = ["--model.checkpoint", tiny_checkpoint("bert"), "--run_dir", folder / "run", *QUICK]
    command = [str(word) for word in (*launch, *words)]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    (folder / "stdout.txt").write_text(done.stdout)
    (folder / "stderr.txt").write_text(done.stderr)
    return folder / "run"


def test_a_log_of_a_run_holds_lines_alone_and_nothing_of_libraries(finished_run):
    lines = (finished_run.parent / "stdout.txt").read_text().splitlines()
    assert (finished_run.parent / "stderr.txt").read_text() == ""
    assert not [line for line in lines if "\x1b" in line or "\r" in line or line.startswith("{")]
    epochs = [line for line in lines if line.startswith("epoch ")]
    assert len(epochs) == 1
    assert re.fullmatch(
        r"epoch 0\.\d+/1: loss \d\.\d{4}, validation accuracy [\d.]+ % \(best so far\), trained in [\d.]+ s", epochs[0]
    )


def test_a_run_ends_with_each_model_s_figure_the_comparisons_and_what_can_be_done_next(finished_run):
    results = json.loads((finished_run / "results.json").read_text())
    text = (finished_run.parent / "stdout.txt").read_text()
    table = [line.split() for line in text.splitlines() if line.split() and line.split()[0] in results["models"]]
    shown = {name: float(value) for name, value, unit, *_ in table if unit == "%"}
    expected = {name: round(100 * scores["accuracy"]["value"], 1) for name, scores in results["models"].items()}
    assert shown == expected
    assert list(shown.values()) == sorted(shown.values(), reverse=True)
    assert "\n".join(results["sentences"]) in text
    assert text.rstrip().splitlines()[-5:] == [
        "next:",
        f"  python recipes/predict.py --run {finished_run} --input FILE --output ANSWERS",
        f"  python recipes/evaluate.py --run {finished_run} --input LATER_FILE",
        f"  python recipes/push.py --run {finished_run} --repo ACCOUNT/run --dry_run FOLDER",
        f"  python recipes/runs.py --folder {finished_run.parent} --production {finished_run}",
    ]


def test_a_run_leaves_model_adapter_numbers_report_and_card(finished_run):
    found = {file.relative_to(finished_run).as_posix() for file in finished_run.rglob("*") if file.is_file()}
    expected = {
        "config.yaml",
        "results.json",
        "report.html",
        "README.md",
        "predictions.jsonl",
        "model/model.safetensors",
        "model/config.json",
        "model/tokenizer.json",
        "adapter/adapter_model.safetensors",
        "adapter/adapter_config.json",
        "adapter/tokenizer.json",
    }
    assert expected <= found
    assert not [
        name for name in found if name.endswith((".bin", ".pt", ".pth")) and not name.startswith("checkpoints/")
    ]


def test_results_have_the_published_form(finished_run):
    results = json.loads((finished_run / "results.json").read_text())
    assert results["schema_version"] == 1
    assert results["task"] == "text-classification"
    assert results["decides"] == "accuracy"
    assert set(results["test"]) == {"rows", "sha256"}
    assert set(results["models"]) == {"majority", "tfidf-linear-svm", "linear-probe", "lora"}
    for scores in results["models"].values():
        assert {"accuracy", "macro_f1"} <= set(scores)
        assert all(score["low"] <= score["value"] <= score["high"] for score in scores.values())
    pairs = {(c["a"], c["b"]) for c in results["comparisons"]}
    assert pairs == {("lora", "majority"), ("lora", "tfidf-linear-svm"), ("lora", "linear-probe")}
    assert {"difference", "low", "high", "p_value", "test"} <= set(results["comparisons"][0])
    assert {"train_examples_per_second", "train_tokens_per_second", "predict_examples_per_second"} == set(
        results["throughput"]
    )
    assert results["seconds"] > 0
    assert results["peak_memory_bytes"] > 0
    assert results["versions"]["torch"]


def test_the_rows_were_audited_and_the_report_tells_what_was_found(finished_run):
    audit = json.loads((finished_run / "results.json").read_text())["audit"]
    report = (finished_run / "report.html").read_text()
    assert audit["level"] == "quick"
    assert "A quick audit of the rows found" in report
    assert all(f">{finding['kind']}</th>" in report for finding in audit["findings"])


def test_the_reload_gate_has_compared_both_forms(finished_run):
    gate = json.loads((finished_run / "results.json").read_text())["reload_gate"]
    assert gate["adapter_max_difference"] <= gate["tolerance"]
    assert gate["merged_max_difference"] <= gate["tolerance"]


def test_the_adapter_has_the_runs_own_card(finished_run):
    card = (finished_run / "adapter" / "README.md").read_text()
    assert "PeftModel.from_pretrained(base, " in card
    assert "[More Information Needed]" not in card
    assert str(finished_run.parent) not in card


def test_labels_keep_their_names_in_the_merged_model(finished_run):
    config = json.loads((finished_run / "model" / "config.json").read_text())
    assert config["id2label"] == {"0": "greeting", "1": "parting"}


def test_a_finished_run_is_not_overwritten(finished_run, call):
    before = {file: file.stat().st_mtime_ns for file in finished_run.rglob("*")}
    table = finished_run.parent / "tickets.csv"
    code, line = call("--data.train_file", table, "--run_dir", finished_run)
    assert code == 2
    assert (
        line == f"error: run {finished_run} is finished; name another with --run_dir, or replace it with --overwrite"
    )
    assert before == {file: file.stat().st_mtime_ns for file in finished_run.rglob("*")}


def test_a_failed_overwrite_leaves_the_finished_run_as_it_was(finished_run, call):
    before = (finished_run / "results.json").read_bytes()
    code, line = call("--data.train_file", "missing.csv", "--run_dir", finished_run, "--overwrite")
    assert code == 2
    assert "missing.csv" in line
    assert (finished_run / "results.json").read_bytes() == before


def test_an_interrupted_run_is_resumed_to_the_same_weights(tiny_checkpoint, work, call, monkeypatch):
    from safetensors.numpy import load_file

    table = write_rows(work / "tickets.csv", greetings())
    other = write_rows(work / "other.csv", greetings(copies=4))
    words = ["--data.train_file", table, "--model.checkpoint", tiny_checkpoint("bert"), *QUICK[2:]]
    words += ["--train.max_steps", "6", "--train.save_strategy", "steps", "--train.save_steps", "2"]
    words += ["--train.eval_strategy", "steps", "--train.eval_steps", "2", *SAME_PLAN]
    assert call(*words, "--run_dir", "whole")[0] == 0
    from startup_llm.training import finetuning

    with monkeypatch.context() as patch:
        patch.setattr(finetuning, "save_model", lambda *_: (_ for _ in ()).throw(RuntimeError("power cut")))
        with pytest.raises(RuntimeError, match="power cut"):
            call(*words, "--run_dir", "cut")
    shutil.rmtree(max((work / "cut.partial" / "checkpoints").glob("checkpoint-*"), key=lambda p: p.name))
    code, line = call(*words, "--run_dir", "cut")
    assert code == 2
    assert "run cut was interrupted and has checkpoints in cut.partial; go on with --resume" in line
    for more, message in (
        (["--train.learning_rate", "0.5"], "--resume: train.learning_rate was "),
        (["--lora.rank", "3"], "--resume: lora.rank was 16 when the run began, and is 3 now; go on with what it"),
        (["--model.checkpoint", tiny_checkpoint("roberta")], "--resume: checkpoint (SHA-256 of its weights) was '"),
        (["--data.train_file", other], "--resume: train split (SHA-256 of its rows) was '"),
    ):
        code, line = call(*words, *more, "--run_dir", "cut", "--resume")
        assert (code, line.startswith(f"error: {message}")) == (2, True), line
    harmless = ["--evaluation.resamples", "60", "--audit", "none"]
    moved = shutil.copy(table, work / "moved.csv")
    assert call(*words, *harmless, "--data.train_file", moved, "--run_dir", "cut", "--resume")[0] == 0
    assert not (work / "cut" / "resumption.json").exists()
    whole, cut = (load_file(work / name / "model" / "model.safetensors") for name in ("whole", "cut"))
    assert all((abs(whole[key] - cut[key]) < 1e-6).all() for key in whole)


BAD_FILES = {
    "empty file": ("", "empty"),
    "header only": ("text,label\n", "no rows"),
    "broken quote": ('text,label\n"hello,a\nbye,b\nhi,a\nso,b\n', "quote"),
    "duplicate header": ("text,text,label\nx,y,a\n", "text"),
    "no label column": ("text\nhello\nbye\n", "label"),
    "several label columns": (
        "text,team,kind\n"
        + "".join(f"message number {i} of the day,{'ab'[i % 2]},{'xy'[i % 2]}\n" for i in range(20)),
        "--data.label_column",
    ),
    "label seen once": ("text,label\none,a\ntwo,a\nthree,b\nfour,b\nfive,c\n", "c"),
    "one class": ("text,label\none,a\ntwo,a\nthree,a\n", "a"),
    "missing label": ("text,label\none,a\ntwo,\nthree,b\nfour,b\n", "2"),
    "labels that differ by case": ("text,label\none,Refund\ntwo,refund\nthree,other\nfour,other\n", "Refund"),
    "empty text": ("text,label\none,a\n   ,a\nthree,b\nfour,b\n", "2"),
}


@pytest.mark.parametrize("mistake", BAD_FILES)
def test_a_bad_file_is_one_line_and_leaves_nothing(mistake, work, call):
    content, told = BAD_FILES[mistake]
    (work / "rows.csv").write_text(content, encoding="utf-8")
    code, line = call("--data.train_file", "rows.csv", "--run_dir", "run")
    assert code == 2
    assert line.startswith("error: ")
    assert told in line
    assert sorted(path.name for path in work.iterdir()) == ["rows.csv"]


def test_a_wrong_encoding_is_named_with_its_place(work, call):
    (work / "rows.csv").write_bytes("text,label\ncafé,a\nthé,b\n".encode("cp1252"))
    code, line = call("--data.train_file", "rows.csv", "--data.encoding", "utf-8", "--run_dir", "run")
    assert code == 2
    assert "rows.csv: read as utf-8, in which" in line
    assert "\\xe9" in line


def test_a_byte_order_mark_is_no_mistake(work, call, tiny_checkpoint):
    table = write_rows(work / "rows.csv", greetings())
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes())
    words = ["--data.train_file", table, "--model.checkpoint", tiny_checkpoint("bert"), "--method", "probe"]
    assert call(*words, "--run_dir", "run", *QUICK)[0] == 0


def test_a_text_of_ten_megabytes_is_named(work, call):
    write_rows(work / "rows.csv", [*greetings(), ("x" * 10_000_000, "greeting")])
    code, line = call("--data.train_file", "rows.csv", "--run_dir", "run")
    assert code == 2
    assert "37" in line
    assert len(line) < 400


def test_a_test_label_that_training_never_sees_is_named(work, call):
    write_rows(work / "train.csv", greetings())
    write_rows(work / "test.csv", [("what is this", "question"), ("hello", "greeting"), ("bye", "parting")])
    code, line = call("--data.train_file", "train.csv", "--data.test_file", "test.csv", "--run_dir", "run")
    assert code == 2
    assert "question" in line


def test_rows_in_train_and_test_are_counted_and_removed_on_request(work, call, tiny_checkpoint):
    write_rows(work / "train.csv", greetings())
    write_rows(work / "test.csv", [*greetings()[:4], ("nice to meet you", "greeting"), ("so long", "parting")])
    words = ["--data.train_file", "train.csv", "--data.test_file", "test.csv", "--method", "probe", *QUICK]
    words += ["--model.checkpoint", str(tiny_checkpoint("bert")), "--data.validation_fraction", "0"]
    assert call(*words, "--run_dir", "counted")[0] == 0
    assert call(*words, "--run_dir", "removed", "--data.remove_overlap")[0] == 0
    counted, removed = (json.loads((work / name / "results.json").read_text()) for name in ("counted", "removed"))
    assert any("4" in note and "test" in note for note in counted["data"]["notes"])
    assert counted["rows"]["train"] - removed["rows"]["train"] == 4


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--lora.rnak", "8"], "error: unknown option lora.rnak; did you mean lora.rank?"),
        (["--train.learning_rte", "1"], "error: unknown option train.learning_rte; did you mean train.learning_rate?"),
        (["--lora.rank", "many"], "error: option lora.rank: expected int, got many"),
        (["--task", "text-clasification"], "did you mean text-classification?"),
        (["--speed.compute_dtype", "float16"], "expected 'float32' or 'bfloat16' or null, got float16"),
        (["--config", "missing.yaml"], "error: no such file: "),
        (["--data.train_file", "missing.csv"], "missing.csv"),
        (["--model.checkpoint", "./missing"], "error: unknown checkpoint ./missing: no such folder"),
        (["--model.checkpoint", "owner/name"], "error: cannot reach the Hub for checkpoint owner/name"),
        (["--data.dataset", "owner/name"], "owner/name"),
        (["--evaluation.decides", "f1"], "error: evaluation.decides: f1 is not measured here"),
        (["--train.torch_compile", "true"], "use --speed.compile true"),
        (["--train.hub_token", "hf_secret"], "error: train.hub_token is set by the run itself"),
    ],
)
def test_a_wrong_option_is_one_line(words, told, work, call, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, line = call(*words, "--run_dir", "run")
    assert code == 2
    assert told in line
    assert "hf_secret" not in line
    assert not list(work.iterdir())


def test_plain_python_says_one_line_without_a_traceback(work):
    answer = subprocess.run(
        [sys.executable, RECIPE, "--data.train_file", "missing.csv"], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert len(answer.stderr.strip().splitlines()) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system")
def test_a_full_disk_is_one_line(tiny_checkpoint, work):
    write_rows(work / "rows.csv", greetings())
    (work / "small").mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", work / "small"], check=False)
    if mounted.returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        words = ["--data.train_file", "rows.csv", "--model.checkpoint", tiny_checkpoint("bert"), *QUICK]
        answer = subprocess.run(
            [str(word) for word in (sys.executable, RECIPE, *words, "--run_dir", "small/run")],
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        subprocess.run(["umount", work / "small"], check=True)
    assert answer.returncode == 2
    assert answer.stderr.splitlines()[-1].startswith("error: no space left on the disk")
    assert "Traceback" not in answer.stderr


@pytest.mark.slow
def test_two_processes_train_and_count_as_one_does(tiny_checkpoint, work):
    """The same batches give the same losses; each test row counts once; one process writes."""
    write_rows(work / "train.csv", greetings(4))  # 48 rows: whole batches, which no process has to fill up
    write_rows(work / "test.csv", [(f"{text} today", label) for text, label in greetings(1)][:11])
    words = ["--data.train_file", "train.csv", "--data.test_file", "test.csv", "--data.validation_fraction", "0"]
    words += ["--model.checkpoint", tiny_checkpoint("bert"), "--evaluation.resamples", "50"]
    words += ["--train.num_train_epochs", "2", "--train.logging_steps", "1", *SAME_PLAN]
    two = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--"]
    for name, launcher, rows in (("one", [], 8), ("two", two, 4)):
        command = [sys.executable, *launcher, RECIPE, *words, "--run_dir", name]
        command += ["--train.per_device_train_batch_size", rows]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        answer = subprocess.run(
            [str(word) for word in command], capture_output=True, text=True, check=False, env=environment
        )
        assert answer.returncode == 0, answer.stderr[-3000:]
    one, two = (json.loads((work / name / "results.json").read_text()) for name in ("one", "two"))
    losses = [[entry["loss"] for entry in run["history"] if "loss" in entry] for run in (one, two)]
    assert len(losses[0]) == 12
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert one["test"] == two["test"]
    assert one["models"]["lora"] == two["models"]["lora"]
    predictions = [(work / name / "predictions.jsonl").read_text().splitlines() for name in ("one", "two")]
    assert len(predictions[1]) == 11
    assert predictions[0] == predictions[1]


def test_preflight_alone_estimates_and_leaves_nothing(tiny_checkpoint, work, monkeypatch, capsys):
    write_rows(work / "rows.csv", greetings())
    words = ["--data.train_file", "rows.csv", "--model.checkpoint", str(tiny_checkpoint("bert"))]
    monkeypatch.setattr(sys, "argv", [str(RECIPE), *words, "--preflight.only", "--preflight.dollars_per_hour", "3600"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(RECIPE), run_name="__main__")
    assert stop.value.code == 0
    line = capsys.readouterr().out.splitlines()[-1]
    duration = r"([\d.]+ s|\d+ min \d+ s)"
    assert re.match(rf"preflight: about {duration} \({duration} to {duration}\), \d", line)
    assert line.count("$") == 1
    assert not list(work.glob("runs/*"))


def test_the_estimate_is_kept_beside_the_outcome_and_moves_no_weight(finished_run):
    results = json.loads((finished_run / "results.json").read_text())
    least, most = results["estimate"]["seconds_interval"]
    assert 0 < least < results["estimate"]["seconds"] < most
    assert results["estimate"]["peak_memory_bytes"] > 0
    assert results["estimate"]["dollars"] is None
