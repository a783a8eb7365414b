"""Odd files in the place of every kind of input: one line, exit code 2, nothing lost, nothing that hangs."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import socket
import sys
from pathlib import Path

import pytest
from forked_recipes import Ended, run_forked

LIMIT_SECONDS = 60


def write_bombs(folder: Path) -> None:
    """Write files that are small and stand for much, or are nested deeply."""
    megabyte = gzip.compress(b"a,b\n" * (1 << 18))
    folder.joinpath("bomb.csv.gz").write_bytes(gzip.compress(b"text,label\n") + megabyte * 512)
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


CONTENTS: dict[str, bytes] = {
    "header.csv": b"text,label\n",
    "one_row.csv": b"text,label\nwhere is it,a\n",
    "one_class.csv": b"text,label\n" + b"".join(b"where is it %d,a\n" % n for n in range(30)),
    "each_its_class.csv": b"text,label\n" + b"".join(b"where is it %d,l%d\n" % (n, n) for n in range(30)),
    "repeated_header.csv": b"text,text,label\na,b,c\n" * 20,
    "ragged.csv": b"text,label\na,b\nc,d,e\n",
    "open_quote.csv": b'text,label\n"a,b\nc,d\n',
    "no_label.csv": b"text\n" + b"".join(b"where is it %d\n" % n for n in range(30)),
    "empty_labels.csv": b"text,label\n" + b"where is it,\n" * 30,
    "blank_texts.csv": b"text,label\n" + b"   ,a\n \t ,b\n" * 15,
    "nul.csv": b"text,label\nwhere\0is it,a\n" * 20,
    "only_mark.csv": b"sep=;\n",
    "only_blanks.csv": b"\n \n\t\n",
    "scalars.jsonl": b"1\n2\n",
    "lists.jsonl": b"[1]\n[2]\n",
    "strings.jsonl": b'"a"\n"b"\n',
    "mixed_labels.jsonl": b'{"text": "a", "label": 1}\n{"text": "b", "label": "c"}\n{"text": "d", "label": ["e"]}\n'
    * 9,
    "nan_labels.jsonl": b'{"text": "a", "label": NaN}\n{"text": "b", "label": Infinity}\n' * 20,
    "object_texts.jsonl": b'{"text": {"a": 1}, "label": "b"}\n{"text": {"a": 2}, "label": "c"}\n' * 20,
    "number_texts.jsonl": b'{"text": 7, "label": {"a": 1}}\n{"text": 8, "label": {"a": 2}}\n' * 20,
    "cut.jsonl": b'{"text": "a", "label": "b"}\n{"text": "a", "la',
    "repeated_keys.jsonl": b'{"text": "a", "label": "b", "label": ["c"]}\n' * 20,
    "two_lists.json": b'{"a": [{"text": "a", "label": "b"}], "c": [{"text": "a", "label": "b"}]}',
    "no_list.json": b'{"text": "a", "label": "b"',
    "text.xlsx": b"text,label\na,b\n",
    "cut.xlsx": b"PK\3\4" + b"\0" * 100,
    "empty.xlsx": b"",
    "text.ods": b"text,label\na,b\n",
    "text.db": b"text,label\na,b\n" * 100,
    "empty.db": b"",
    "notes.docx": b"PK\3\4",
    "rows.pdf": b"%PDF-1.4",
    "rows": b"text,label\na,b\n",
}


def write_contents(folder: Path) -> None:
    """Write files whose rows cannot be learnt from, and a database."""
    import sqlite3

    for name, content in CONTENTS.items():
        (folder / name).write_bytes(content)
    with sqlite3.connect(folder / "tickets.db") as database:
        database.execute("CREATE TABLE tickets (text TEXT, label TEXT)")
        database.executemany(
            "INSERT INTO tickets VALUES (?, ?)", [(f"where is it {n}", "ab"[n % 2]) for n in range(30)]
        )
    database.close()


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
    write_contents(folder)
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


def _split_value(words: str) -> list[str]:
    name, _, value = words.partition(" ")
    return [f"--{name}={value.strip(chr(39))}"]


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
AUDITED = [file for file in FILES if file.endswith((".csv", "bomb.csv.gz"))]  # the files are read as for a run
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

QUERIES = ["", "DELETE FROM tickets", "SELECT", "SELECT * FROM nothing", "SELECT * FROM tickets; DROP TABLE tickets"]
QUERIES += ["SELECT * FROM tickets WHERE 0", "ATTACH 'stolen.db' AS stolen", "PRAGMA writable_schema = 1"]
ADDRESSES = ["https://example.invalid/rows.csv", "s3://bucket/rows.csv", "ftp://host/rows.csv", "mysql://host/base"]
ADDRESSES += ["sqlite:////nowhere/base.db", "postgresql://me:secret@host/base", "nonsense://", "file:///etc/passwd"]
VALUES = [
    "data.text_column gone", "data.text_column [text,text]", "data.text_column []", "data.label_column text",
    "data.label_column [gone,lost]", "data.group_column gone", "data.encoding nonsense", "data.quoting some",
    "data.sheet First", "data.clean wash", "data.label_separator ''", "data.problem_type ranking", "data.folds 1",
    "data.folds 100000", "data.fold 2", "data.validation_fraction 1", "data.validation_fraction -0.1",
    "data.test_fraction nan", "data.split_seed -1", "data.split_seed 4294967296", "data.max_train_rows 0",
    "data.train_file {a: b}", "data.train_file [rows.csv,[rows.csv]]", "data.train_file [rows.csv,gone.csv]",
    "data.box_format xywh", "model.checkpoint ../..", "model.checkpoint a/b/c", "model.checkpoint ''",
    "model.max_length_tokens 0", "model.dropout 1.5", "model.pooling largest",
    "model.head_learning_rate -1", "lora.rank 0", "lora.rank 1e9", "lora.alpha -1", "lora.dropout nan",
    "lora.target_modules nothing", "lora.target_modules []", "lora.upper_layers -1", "lora.rnak 8",
    "train.dataloader_num_workers 1000",
    "train.seed -1", "train.seed 1e99", "train.learning_rate -1", "train.learning_rate inf", "train.max_step 1",
    "train.per_device_train_batch_size 0", "train.num_train_epochs -1", "train.warmup_steps -1", "train.optim none",
    "train.lr_scheduler_type up", "train.weight_decay -1", "train.adam_beta1 1", "train.max_grad_norm -1",
    "train.gradient_accumulation_steps 0", "train.output_dir stolen", "train.push_to_hub true",
    "train.label_smoothing_factor 2", "evaluation.resamples -1", "evaluation.confidence_level 1",
    "evaluation.confidence_level nan", "evaluation.decides beauty", "decision.target_accuracy 1.5",
    "decision.target_accuracy nan", "decision.cost_of_error -1", "decision.sets 0", "speed.threads -1",
    "speed.compute_dtype int4", "speed.attention_kernel fast", "preflight.dollars_per_hour -1", "task ''",
    "task dancing", "method magic", "audit some", "early_stopping_patience 0", "baselines.llm nonsense", "seed 1",
]  # fmt: skip
OTHERS = {
    "predict, format": ["predict", "--run", "base", "--input", "rows.csv", "--output", "OUT.xml"],
    "predict, piece": ["predict", "--run", "base", "--input", "rows.csv", "--output", "OUT.csv", "--piece_rows", 0],
    "predict, columns": ["predict", "--run", "base", "--input", "rows.csv", "--output", "OUT.csv", "--columns", "{a"],
    "predict, no run": ["predict", "--run", "gone", "--input", "rows.csv", "--output", "OUT.csv"],
    "predict, own input": ["predict", "--run", "base", "--input", "rows.csv", "--output", "rows.csv", "--overwrite"],
    "evaluate, gate": ["evaluate", "--model", "base", "--fail_under", "accuracy"],
    "evaluate, gate value": ["evaluate", "--model", "base", "--fail_under", "accuracy=x"],
    "evaluate, gate name": ["evaluate", "--model", "base", "--fail_under", "beauty=0.5"],
    "evaluate, no model": ["evaluate", "--model", "gone"],
    "evaluate, batch": ["evaluate", "--model", "base", "--batch_size", 0],
    "evaluate, only": ["evaluate", "--model", "base", "--only", "[gone]"],
    "push, name": ["push", "--run", "base", "--repo", "a/b/c", "--dry_run", "OUT"],
    "push, blank name": ["push", "--run", "base", "--repo", "a b/c", "--dry_run", "OUT"],
    "push, no name": ["push", "--run", "base", "--repo", "", "--dry_run", "OUT"],
    "push, way up": ["push", "--run", "base", "--repo", "../x", "--dry_run", "OUT"],
    "push, no run": ["push", "--run", "gone", "--repo", "me/x", "--dry_run", "OUT"],
    "push, findings": ["push", "--run", "base", "--repo", "me/x", "--dry_run", "OUT", "--allow_findings", "@"],
    "push, both": ["push", "--run", "base", "--dataset", "--repo", "me/x", "--dry_run", "OUT"],
    "reproduce, nothing": ["reproduce", "gone", "--yes"],
    "reproduce, folder": ["reproduce", "base", "--yes"],
    "reproduce, name": ["reproduce", "a/b/c", "--yes"],
    "audit, kinds": ["audit", "--data.train_file", "rows.csv", "--output", "OUT", "--fail_on", "beauty"],
    "audit, similarity": ["audit", "--data.train_file", "rows.csv", "--near_duplicate_similarity", 2],
    "audit, fixes": ["audit", "--data.train_file", "rows.csv", "--fix", "--fix_kinds", "[beauty]"],
    "compare, nothing": ["compare", "--rungs", "[]", "--data.train_file", "rows.csv"],
    "compare, unknown": ["compare", "--rungs", "[magic]", "--data.train_file", "rows.csv"],
    "compare, budgets": ["compare", "--budgets", "[0]", "--data.train_file", "rows.csv"],
    "compare, draws": ["compare", "--draws", 0, "--data.train_file", "rows.csv"],
    "folds, none": ["pool_folds", "--runs", "[]"],
    "folds, one": ["pool_folds", "--runs", "[base]"],
    "folds, gone": ["pool_folds", "--runs", "[gone,lost]"],
    "benchmark, rows": ["benchmark", "--rows", 0],
    "benchmark, ways": ["benchmark", "--ways", "[magic]"],
    "benchmark, what": ["benchmark", "--what", "flying"],
    "align, method": ["align", "--method", "magic", "--model.checkpoint", "base"],
    "align, beta": ["align", "--beta", -1, "--model.checkpoint", "base"],
    "align, rows": ["align", "--model.checkpoint", "base", "--data.train_file", "rows.csv"],
    "gan, kind": ["train_gan", "--kind", "sound"],
    "gan, epochs": ["train_gan", "--train.epochs", 0],
    "gan, noise": ["train_gan", "--model.noise_size", -1],
    "pretrain, name": ["pretrain", "--model.name", "magic", "--data.train_file", "rows.csv"],
    "pretrain, heads": [
        "pretrain",
        "--model.name",
        "transformer",
        "--model.heads",
        7,
        "--data.train_file",
        "rows.csv",
    ],
    "pretrain, layers": ["pretrain", "--model.name", "transformer", "--model.layers", 10**9],
    "pretrain, width": ["pretrain", "--model.name", "transformer", "--model.width", 10**8, "--model.heads", 1],
    "serve, no run": ["serve", "--run", "gone"],
    "serve, port": ["serve", "--run", "base", "--port", 70000],
    "serve, wait": ["serve", "--run", "base", "--max_wait_ms", -1],
    "serve, broken run": ["serve", "--run", "run_cut"],
}

PREDICT = ["predict", "--run", "base", "--output", "OUT.csv"]
FEW = ["--model.checkpoint", "base", "--train.max_steps", 1, "--evaluation.resamples", 20, "--audit", "none"]
CASES: dict[str, list[object]] = {
    **{f"train file {f}": ["finetune", "--data.train_file", f, *FEW, "--preflight.only"] for f in FILES},
    **{f"audited file {f}": ["audit", "--data.train_file", f, "--output", "OUT"] for f in AUDITED},
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
    **{f"rows of {f}": ["finetune", "--data.train_file", f, *FEW] for f in CONTENTS},
    **{
        f"query {q!r}": ["finetune", "--data.train_file", "tickets.db", f"--data.query={q}", *FEW] for q in QUERIES
    },
    **{f"address {a}": ["finetune", "--data.train_file", a, *FEW] for a in ADDRESSES},
    **{f"value {v}": ["finetune", "--data.train_file", "rows.csv", *FEW, *_split_value(v)] for v in VALUES},
    **OTHERS,
}  # fmt: skip
NO_RUN_DIR = ("audit", "predict", "push", "reproduce")
MAY_WORK = re.compile(r"checkpoint_tokenizer_config.json_|run_dir run_list|(answered|audited) file latin.csv")


MAY_HANG = re.compile(r"aliases|bomb|brackets|digits|folder|itself|loop|pipe|socket|zero|/dev|/proc|/sys")
"""Cases that run in a process that can be killed; the others run in this one, which needs no new process."""


READ_ALIKE = re.compile(r"test file|suite|(answered|train) file (?!bomb|cut).*(\.csv\.gz|\.jsonl|\.parquet)$")
"""Cases of a reader that other cases bring the same kinds of files to, under another option or extension."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * bool(READ_ALIKE.match(name))) for name in CASES]
)
@pytest.mark.usefixtures("state")
def test_an_odd_input_is_refused_in_one_line(name, inputs, tmp_path, run_recipe, monkeypatch):
    recipe, *words = [str(word).replace("OUT", str(tmp_path / "out")) for word in CASES[name]]
    if recipe not in NO_RUN_DIR and "--run_dir" not in words:
        words += ["--run_dir", str(tmp_path / "run")]
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    if MAY_HANG.search(name):
        ended = run_forked(
            sys.executable, recipe, *words, cwd=inputs, environment=os.environ, limit_seconds=LIMIT_SECONDS
        )
    else:
        monkeypatch.chdir(inputs)
        ended = Ended(*run_recipe(recipe, *words))
    assert find_fault(ended, may_work=bool(MAY_WORK.search(name))) is None
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".") or path.suffix == ".partial"] == []


def test_nothing_among_the_inputs_was_changed(inputs, state):
    assert describe(inputs) == state
