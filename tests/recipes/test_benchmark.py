import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from chat_checkpoints import build_chat_checkpoint
from PIL import Image

from startup_llm.tasks.text_generation.chat_templates import TEMPLATES

RECIPE = Path(__file__).parents[2] / "recipes" / "benchmark.py"
ON_CPU = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def run_benchmark(folder, *options):
    words = [sys.executable, str(RECIPE), "--run_dir", str(folder), "--repetitions", "1", *options]
    return subprocess.run(words, env=ON_CPU, capture_output=True, text=True, check=False)


def read_results(folder):
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_training_is_timed_beside_a_public_way_each_in_its_own_process(tiny_checkpoint, tmp_path):
    options = ["--ways", "[ours, setfit]", "--rows", "150", "--accuracy", "--data.max_test_rows", "24"]
    run = tmp_path / "bench"
    done = run_benchmark(run, *options, "--model.checkpoint", str(tiny_checkpoint("bert")), "--target_accuracy", "0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n| ours |") == done.stdout.count("\n| setfit |") == 1
    results = read_results(run)
    for way in ("ours", "setfit"):
        figures = {
            name: figure["median"]
            for name, figure in results["sizes"][0]["summary"][way].items()
            if name != "repetitions"
        }
        assert figures["rows_per_second"] > 0
        assert figures["tokens_per_second"] > figures["rows_per_second"]
        assert 0 < figures["peak_share"] < 1
        assert 2**27 < figures["peak_memory_bytes"] < 2**33
        assert 0 <= figures["accuracy"] <= 1
        assert figures["seconds_to_target"] <= figures["seconds"]
    assert list(results)[-1] == "command"
    assert results["command"].startswith("python ")
    assert "--rows 150" in results["command"]
    with Image.open(run / "benchmark.png") as image:
        assert image.size[0] > 800


@pytest.mark.slow
def test_prediction_is_timed_beside_the_pipeline_and_its_cost_drawn_against_the_rows(tiny_checkpoint, tmp_path):
    options = ["--what", "inference", "--ways", "[ours, pipeline-32]", "--rows", "[400, 100]"]
    run = tmp_path / "bench"
    checkpoint = str(tiny_checkpoint("bert"))
    done = run_benchmark(run, *options, "--model.checkpoint", checkpoint, "--dollars_per_hour", "1.5")
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("**")] == ["**100 rows**", "**400 rows**"]
    sizes = read_results(run)["sizes"]
    assert [size["rows"] for size in sizes] == [100, 400]
    for size in sizes:
        assert list(size["summary"]) == ["ours", "pipeline-32"]
        assert all(figures["rows_per_second"]["median"] > 0 for figures in size["summary"].values())
    with Image.open(run / "costs.png") as image:
        assert image.size[0] > 800


@pytest.mark.slow
def test_a_chat_checkpoint_is_timed_beside_trl_on_the_same_tokens(tmp_path):
    checkpoint = build_chat_checkpoint("llama", tmp_path / "base", TEMPLATES["chatml"])
    rows = [{"prompt": f"where is my parcel {n}?", "completion": f"on its way {n}."} for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    options = ["--what", "chat", "--rows", "24", "--data.train_file", str(tmp_path / "rows.jsonl")]
    done = run_benchmark(tmp_path / "bench", *options, "--model.checkpoint", str(checkpoint))
    assert done.returncode == 0, done.stderr
    summary = read_results(tmp_path / "bench")["sizes"][0]["summary"]
    assert list(summary) == ["ours-lora", "trl-lora", "trl-tuned-lora", "trl-grouped-lora", "trl-packed-lora"]
    tokens = {
        way: figures["tokens_per_second"]["median"] / figures["rows_per_second"]["median"]
        for way, figures in summary.items()
    }
    assert max(tokens.values()) == pytest.approx(min(tokens.values()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ways", "[ours, setfi]"], "error: ways: unknown way setfi; did you mean setfit?"),
        (["--what", "causal-lm", "--model.checkpoint", "x"], "error: model.checkpoint x: causal-lm trains"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_folder(options, message, tmp_path):
    done = run_benchmark(tmp_path / "bench", *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_script_for_a_gpu_starts_on_a_processor(tmp_path):
    words = ["bash", str(RECIPE.with_name("benchmark_gpu.sh")), "--llama", "tiny", "--rows", "32"]
    done = subprocess.run(
        [*words, "--run_dir", str(tmp_path / "bench"), "--peak_tflops", "0.2"],
        env={**ON_CPU, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    summary = read_results(tmp_path / "bench")["sizes"][0]["summary"]
    assert list(summary) == ["ours-lora", "trl-tuned-lora", "trl-lora"]
    assert all(0 < figures["peak_share"]["median"] < 1 for figures in summary.values())
