"""Odd files in the place of every kind of input: one line, exit code 2, nothing lost, nothing that hangs."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from forked_recipes import ROOT, Ended, RecipeServer

LIMIT_SECONDS = 60


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[RecipeServer]:
    variables = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}
    with RecipeServer(tmp_path_factory.mktemp("output"), {**os.environ, **variables}) as server:
        yield server


def write_bombs(folder: Path) -> None:
    """Write files that are small and stand for much, or are nested deeply."""
    folder.joinpath("bomb.csv.gz").write_bytes(gzip.compress(b"text,label\n" + b"a,b\n" * (1 << 27)))
    levels = "\n".join(f"  a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))
    folder.joinpath("aliases.yaml").write_text(f"data:\n  a0: &a0 [x, x, x]\n{levels}\n")
    folder.joinpath("itself.yaml").write_text("data: &data\n  train_file: *data\n")
    folder.joinpath("brackets.yaml").write_text("seed: " + "[" * 100_000)
    folder.joinpath("brackets.jsonl").write_text('{"text": ' + "[" * 100_000)
    folder.joinpath("brackets.json").write_text("[" * 100_000)
    folder.joinpath("digits.yaml").write_text(f"train:\n  seed: {'1' * 5000}\n")
    folder.joinpath("digits.jsonl").write_text('{"text": "a", "label": ' + "1" * 5000 + "}\n")
    folder.joinpath("digits.json").write_text('[{"text": "a", "label": ' + "1" * 5000 + "}]")


def write_specials(folder: Path) -> None:
    """Make what is no plain file, with every extension that an option asks for."""
    for extension in ("csv", "jsonl", "yaml", "csv.gz", "parquet"):
        os.mkfifo(folder / f"pipe.{extension}")
        folder.joinpath(f"folder.{extension}").mkdir()
        folder.joinpath(f"loop.{extension}").symlink_to(f"loop.{extension}")
        folder.joinpath(f"nowhere.{extension}").symlink_to(f"gone.{extension}")
        folder.joinpath(f"zero.{extension}").symlink_to("/dev/zero")
        folder.joinpath(f"latin.{extension}").write_bytes(b"text,label\ncaf\xe9,a\n")
        folder.joinpath(f"binary.{extension}").write_bytes(bytes(range(256)) * 8)
        folder.joinpath(f"empty.{extension}").write_bytes(b"")
        with socket.socket(socket.AF_UNIX) as listener:
            os.chdir(folder)  # a socket's path has a length limit
            listener.bind(f"socket.{extension}")
    folder.joinpath("cut.csv.gz").write_bytes(gzip.compress(b"text,label\n" + os.urandom(5000))[:2000])
    folder.joinpath("cut.parquet").write_bytes(b"PAR1" + b"\0" * 50)


def write_runs(folder: Path, checkpoint: Path) -> None:
    """Make finished runs whose JSON is not as a run writes it, and checkpoints whose files are not."""
    contents = {
        "brackets": "[" * 100_000, "digits": '{"seconds": ' + "1" * 5000 + "}", "list": "[]", "nothing": "null",
        "cut": '{"task": "text-cl', "empty": "", "wrong_task": '{"task": ["text-classification"]}',
        "wrong_config": '{"task": "text-classification", "config": []}',
        "wrong_data": '{"task": "text-classification", "config": {"data": 7}}',
        "wrong_models": '{"task": "text-classification", "models": {"lora": [1]}}', "unknown_task": '{"task": "x"}',
    }  # fmt: skip
    for name, content in contents.items():
        run = folder / f"run_{name}"
        shutil.copytree(checkpoint, run / "model")
        (run / "results.json").write_text(content)
        (run / "run.lock.json").write_text("{}")
        (run / "config.yaml").write_text("{}")
    results = json.dumps({"task": "text-classification"})
    locks = {**contents, "no_version": "{}", "version": '{"schema_version": true}', "partly": '{"schema_version": 1}'}
    for name, content in locks.items():
        run = folder / f"lock_{name}"
        run.mkdir()
        (run / "results.json").write_text(results)
        (run / "run.lock.json").write_text(content)
        (run / "config.yaml").write_text("{}")
    files = {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"}
    broken = {
        "brackets": b"[" * 100_000,
        "list": b"[]",
        "cut": b'{"a',
        "empty": b"",
        "null": b"null",
        "binary": b"\xff",
    }
    for file in files:
        for name, content in broken.items():
            target = folder / f"checkpoint_{file}_{name}"
            shutil.copytree(checkpoint, target)
            (target / file).write_bytes(content)
        target = folder / f"checkpoint_{file}_pipe"
        shutil.copytree(checkpoint, target)
        (target / file).unlink()
        os.mkfifo(target / file)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, tiny_checkpoint) -> Path:
    here = Path.cwd()
    folder = tmp_path_factory.mktemp("inputs")
    write_specials(folder)
    write_bombs(folder)
    write_runs(folder, tiny_checkpoint("bert"))
    texts = [f"{('please refund', 'where is my parcel')[n % 2]} {n},{'ab'[n % 2]}" for n in range(40)]
    (folder / "rows.csv").write_text("\n".join(["text,label", *texts]) + "\n")
    (folder / "base").symlink_to(tiny_checkpoint("bert"))
    os.chdir(here)
    return folder


@pytest.fixture(scope="module")
def state(inputs) -> str:
    return describe(inputs)


def describe(folder: Path) -> str:
    """Return a digest of names, kinds and content of all that lies in a folder."""
    lines = []
    for path in sorted(folder.rglob("*")):
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() and not path.is_symlink() else ""
        lines.append(f"{path.relative_to(folder)} {path.lstat().st_mode} {content}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def find_fault(ended: Ended, *, may_work: bool = False) -> str | None:
    """Return what is wrong with how a recipe ended: it hung, showed a traceback, or took what it could not use."""
    if ended.code is None:
        return "hangs"
    if "Traceback" in ended.err or "Traceback" in ended.out:
        return f"traceback: {ended.err[-1500:]}"
    if ended.code == 0 and may_work:
        return None
    lines = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    if ended.code != 2 or len(lines) != 1 or ended.err.splitlines()[-1] != lines[0]:
        return f"code {ended.code}: {ended.out[-300:]} {ended.err[-700:]}"
    return None if len(lines[0]) < 1000 else f"a line of {len(lines[0])} characters"


EXTENSIONS = ("csv", "jsonl", "csv.gz", "parquet")
SPECIALS = ("pipe", "folder", "loop", "nowhere", "zero", "latin", "binary", "empty", "socket")
FILES = [f"{name}.{extension}" for extension in EXTENSIONS for name in SPECIALS]
FILES += ["bomb.csv.gz", "cut.csv.gz", "cut.parquet", "brackets.jsonl", "brackets.json", "digits.jsonl", "digits.json"]
FILES += [
    "rows.csv/more.csv",
    "x" * 300 + ".csv",
    "no\nsuch.csv",
    "gone/rows.csv",
    "/dev/null.csv",
    "/proc/self/mem.csv",
]
CONFIGS = [f"{name}.yaml" for name in (*SPECIALS, "aliases", "itself", "brackets", "digits")]
CONFIGS += ["x" * 300 + ".yaml", "rows.csv/more.yaml", "rows.csv"]
RUNS = ["brackets", "digits", "list", "nothing", "cut", "empty", "wrong_task", "wrong_config", "wrong_data"]
RUNS += ["wrong_models", "unknown_task"]
LOCKS = ["brackets", "digits", "list", "nothing", "cut", "empty", "no_version", "version", "partly"]
CHECKPOINTS = [
    f"checkpoint_{file}_{name}"
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")
    for name in ("brackets", "list", "cut", "empty", "null", "binary", "pipe")
]
FOLDERS = ("pipe.csv", "loop.csv", "socket.csv", "rows.csv", "x" * 300, "nowhere.csv", "folder.csv", "/proc/self/fd")
PLACES = ["rows.csv", "rows.csv/run", "loop.csv", "loop.csv/run", "pipe.csv", "socket.csv", "zero.csv", "x" * 300]
PLACES += ["nowhere.csv", "/proc/run", "/dev/null", "/dev/full/run", "run_list", "/sys/run"]

PREDICT = ["predict", "--run", "base", "--output", "OUT.csv"]
FEW = ["--model.checkpoint", "base", "--train.max_steps", 1, "--evaluation.resamples", 20, "--audit", "none"]
CASES: dict[str, list[object]] = {
    **{f"train file {f}": ["finetune", "--data.train_file", f, *FEW, "--preflight.only"] for f in FILES},
    **{f"audited file {f}": ["audit", "--data.train_file", f, "--output", "OUT"] for f in FILES},
    **{f"test file {f}": ["pretrain", "--data.train_file", "rows.csv", "--data.test_file", f] for f in FILES[::3]},
    **{f"folder {f}": ["pretrain", "--data.data_dir", f] for f in FOLDERS},
    **{f"config {f}": ["finetune", "--config", f] for f in CONFIGS},
    **{f"suite {f}": ["evaluate", "--model", "base", "--suite", f] for f in CONFIGS if f != "rows.csv"},
    # rows are answered as they come, so many of them are work, and a bomb takes as long as its first 256 MiB
    **{f"answered file {f}": [*PREDICT, "--input", f] for f in FILES if not f.startswith("bomb")},
    **{f"run {r} predicts": [*PREDICT, "--input", "rows.csv", "--run", f"run_{r}"] for r in RUNS},
    **{f"run {r} is measured": ["evaluate", "--model", f"run_{r}"] for r in RUNS},
    **{f"run {r} is pushed": ["push", "--run", f"run_{r}", "--repo", "me/x", "--dry_run", "OUT"] for r in RUNS},
    **{f"lock {r}": ["reproduce", f"lock_{r}", "--yes"] for r in LOCKS},
    **{f"{c}": ["finetune", "--data.train_file", "rows.csv", *FEW[2:], "--model.checkpoint", c] for c in CHECKPOINTS},
    **{f"run_dir {p}": ["pretrain", "--data.train_file", "rows.csv", "--run_dir", p, "--overwrite"] for p in PLACES},
    **{f"output {p}": ["audit", "--data.train_file", "rows.csv", "--output", p, "--overwrite"] for p in PLACES[:-3]},
    **{f"answers {p}": [*PREDICT[:3], "--input", "rows.csv", "--output", f"{p}.csv"] for p in PLACES},
}  # fmt: skip
NO_RUN_DIR = ("audit", "predict", "push", "reproduce")
MAY_WORK = re.compile(r"checkpoint_tokenizer_config.json_|run_dir run_list|(answered|audited) file latin.csv")


@pytest.mark.parametrize("name", CASES)
def test_an_odd_input_is_refused_in_one_line(name, server, inputs, state, tmp_path):
    recipe, *words = [str(word).replace("OUT", str(tmp_path / "out")) for word in CASES[name]]
    if recipe not in NO_RUN_DIR and "--run_dir" not in words:
        words += ["--run_dir", str(tmp_path / "run")]
    ended = server.run(recipe, *words, cwd=inputs, limit_seconds=LIMIT_SECONDS)
    assert find_fault(ended, may_work=bool(MAY_WORK.search(name))) is None
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".") or path.suffix == ".partial"] == []


def test_nothing_among_the_inputs_was_changed(inputs, state):
    assert describe(inputs) == state
