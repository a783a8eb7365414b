"""What every recipe leaves on the disk: with the umask's mode, and personal data masked."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

EMAIL = "jane.roe@example.org"
UMASK = 0o027


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(UMASK)
    yield
    os.umask(before)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A CSV of messages with an address each, half of them with a wrong label."""
    words = ("please refund my parcel", "where is my invoice")
    lines = [f"{words[n % 2]} {n} {EMAIL},{'ab'[(n // 2) % 2]}" for n in range(60)]
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(["text,label", *lines]) + "\n")
    return path


def find_other_modes(folder: Path) -> list[str]:
    """Return files and folders that are more or less private than the umask says."""
    return [
        f"{path.relative_to(folder)} {stat.S_IMODE(path.stat().st_mode):o}"
        for path in [folder, *folder.rglob("*")]
        if stat.S_IMODE(path.stat().st_mode) != (0o777 if path.is_dir() else 0o666) & ~UMASK
    ]


@pytest.mark.slow
def test_files_of_runs_evaluations_audits_and_comparisons_have_the_umasks_mode_and_show_nobody(
    run_recipe, rows, tmp_path, umask, tiny_checkpoint
):
    few = ["--evaluation.resamples", 20]
    rungs = ["--rungs", "[majority, tfidf-linear-svm]", "--budgets", "[all]"]
    train = ["--data.train_file", rows, "--model.checkpoint", tiny_checkpoint("bert"), "--train.max_steps", 1, *few]
    calls = {
        "run": ["finetune", *train, "--run_dir", tmp_path / "run"],
        "shown": ["finetune", *train, "--run_dir", tmp_path / "shown", "--evaluation.show_personal_data", "true"],
        "evaluation": ["evaluate", "--model", tmp_path / "run", "--run_dir", tmp_path / "evaluation", *few],
        "audit": ["audit", "--data.train_file", rows, "--output", tmp_path / "audit"],
        "comparison": ["compare", "--data.train_file", rows, "--run_dir", tmp_path / "comparison", *few, *rungs],
    }
    for name, (recipe, *words) in calls.items():
        code, out, err = run_recipe(recipe, *words)
        assert code == 0, f"{name}: {out[-500:]} {err[-2000:]}"
        assert find_other_modes(tmp_path / name) == [], name
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["mistakes"] or results["confusions"]
    for file in ("results.json", "report.html"):
        assert EMAIL not in (tmp_path / "run" / file).read_text()
        assert EMAIL in (tmp_path / "shown" / file).read_text()
    assert "<EMAIL>" in json.dumps(results)


def test_an_answer_file_has_the_umasks_mode(run_recipe, rows, tmp_path, umask, tiny_checkpoint):
    words = ["--data.train_file", rows, "--run_dir", tmp_path / "run", "--model.name", "dnn", "--train.max_steps", 1]
    code, _, err = run_recipe("pretrain", *words, "--evaluation.resamples", 20)
    assert code == 0, err[-2000:]
    assert find_other_modes(tmp_path / "run") == []
    answers = tmp_path / "answers.csv"
    code, _, err = run_recipe("predict", "--run", tmp_path / "run", "--input", rows, "--output", answers)
    assert code == 0, err[-2000:]
    assert stat.S_IMODE(answers.stat().st_mode) == 0o640
