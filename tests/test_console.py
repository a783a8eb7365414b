import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from startup_llm.console import find_recipes, main

ROOT = Path(__file__).parents[1]


def test_every_recipe_is_a_command_with_its_purpose(capsys):
    main(["--help"])
    out = capsys.readouterr().out
    assert set(find_recipes()) == {file.stem for file in (ROOT / "recipes").glob("*.py")}
    for name in ("finetune", "predict", "evaluate", "audit", "compare", "serve", "export", "push"):
        line = next(line for line in out.splitlines() if line.split()[:1] == [name])
        assert len(line.split()) > 3


def test_a_command_runs_the_recipe_and_an_unknown_one_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["startup-llm", "predict", "--run", "none", "--input", "a", "--output", "b"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "no finished run in none" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main(["finetun"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        "error: unknown command 'finetun'; did you mean finetune? startup-llm --help lists all\n"
    )


@pytest.mark.slow
def test_the_wheel_s_command_trains_and_predicts_in_an_empty_folder(tmp_path, tiny_checkpoint):
    def run(*words):
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    source = tmp_path / "source"
    for name in ("startup_llm", "recipes", "data_cards"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(tmp_path), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    site = next((tmp_path / "env").glob("lib/python*/site-packages"))
    (site / "shared.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    wheel = next(tmp_path.glob("*.whl"))
    run(python, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--ignore-installed", wheel)
    command = tmp_path / "env" / "bin" / "startup-llm"
    rows = [("where is my parcel", "delivery"), ("i want my money back", "refund"), ("reset my password", "login")]
    lines = [f"{text} {number},{label}\n" for number in range(12) for text, label in rows]
    (tmp_path / "tickets.csv").write_text("message,intent\n" + "".join(lines))
    words = ["--model.checkpoint", tiny_checkpoint("bert"), "--train.max_steps", "2", "--evaluation.resamples", "50"]
    run(command, "finetune", "--data.train_file", "tickets.csv", *words)
    run(command, "predict", "--run", "runs/tickets-lora", "--input", "tickets.csv", "--output", "answers.csv")
    assert len((tmp_path / "answers.csv").read_text().splitlines()) == 37
