"""A run is made again from its lock: exactly here, and not at all from other files."""

from __future__ import annotations

import hashlib
import io
import json
import os
import runpy
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from loopback_hub import TOKEN, LoopbackHub

from startup_llm import children
from startup_llm.config import PushConfig
from startup_llm.hub.push import push
from startup_llm.runs.lock_schema import OVERRIDES, check_lock

ROOT = Path(__file__).parents[2]
FINETUNE, REPRODUCE = ROOT / "recipes" / "finetune.py", ROOT / "recipes" / "reproduce.py"
WORDS = ["--data.train_file", "tickets.csv", "--model.checkpoint", "base", "--evaluation.resamples", "50"]
WORDS += ["--train.per_device_train_batch_size", "8"]
TEXTS = {
    "greeting": [
        "hello there",
        "good morning to you",
        "hi how are you",
        "greetings from us",
        "hey you",
        "good evening",
    ],
    "parting": ["goodbye now", "see you tomorrow", "farewell my friend", "until next week", "bye bye", "take care"],
}


def make_work_folder(folder: Path, checkpoint: Path) -> Path:
    """Write the rows and the checkpoint that `WORDS` name by relative paths."""
    rows = [f"{text} {number},{label}" for number in range(3) for label, texts in TEXTS.items() for text in texts]
    (folder / "tickets.csv").write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    shutil.copytree(checkpoint, folder / "base")
    return folder


@pytest.fixture(scope="module")
def made(tiny_checkpoint, tmp_path_factory) -> Path:
    """A folder to work in with the finished run runs/first; tests leave it as it is."""
    folder = make_work_folder(tmp_path_factory.mktemp("made"), tiny_checkpoint("bert"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", [str(FINETUNE), *WORDS, "--train.max_steps", "4", "--run_dir", "runs/first"])
        runpy.run_path(str(FINETUNE), run_name="__main__")
    return folder


@pytest.fixture
def work(made, tmp_path, monkeypatch) -> Path:
    """A copy of that folder to tamper with, as the current one."""
    folder = tmp_path / "work"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def call(monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """Return a function that runs a recipe in this process: exit code, standard output, standard error."""

    def run(recipe: Path, *words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [str(recipe), *map(str, words)])
        try:
            runpy.run_path(str(recipe), run_name="__main__")
        except SystemExit as stop:
            code = stop.code or 0
        else:
            code = 0
        return code, *capsys.readouterr()

    return run


@pytest.mark.slow
def test_a_model_from_scratch_is_made_again_to_the_same_numbers_and_bytes(
    tiny_checkpoint, tmp_path, monkeypatch, call
):
    monkeypatch.chdir(make_work_folder(tmp_path, tiny_checkpoint("bert")))
    words = ["--data.train_file", "tickets.csv", "--train.max_steps", 4, "--evaluation.resamples", 50]
    code, _, err = call(ROOT / "recipes" / "pretrain.py", *words, "--run_dir", "runs/dnn")
    assert code == 0, err[-2000:]
    code, out, err = call(REPRODUCE, "runs/dnn", "--yes")
    assert code == 0, out[-2000:] + err[-2000:]
    lock, again = (json.loads(Path(run, "run.lock.json").read_text()) for run in ("runs/dnn", "runs/dnn-again"))
    assert lock["metrics"] == again["metrics"]
    assert lock["outputs"] == again["outputs"]
    assert "recipes/reproduce.py" in Path("runs/dnn/README.md").read_text()
    Path("tickets.csv").write_text(Path("tickets.csv").read_text().replace("hello there 0", "hello there 9"))
    code, _, err = call(REPRODUCE, "runs/dnn", "--run_dir", "runs/other", "--yes")
    assert code == 2
    assert "tickets.csv" in err


@pytest.fixture
def copy_instead_of_training(monkeypatch) -> Callable[[Callable[[dict], None]], list]:
    """Return a function that lets the new run be a copy of runs/first with a changed lock; it gives the calls."""
    calls = []

    def install(change: Callable[[dict], None] = lambda lock: None) -> list:
        def run(words, **options):
            calls.append((words, options["env"]))
            target = Path(next(word for word in words if word.startswith("--run_dir=")).partition("=")[2])
            shutil.copytree("runs/first", target)
            change_lock(target, change)
            return SimpleNamespace(returncode=0)

        monkeypatch.setattr(children, "run_child", run)
        return calls

    return install


def read_lock(run: Path) -> dict:
    return json.loads((run / "run.lock.json").read_text())


def change_lock(run: Path, change: Callable[[dict], None]) -> None:
    lock = read_lock(run)
    change(lock)
    (run / "run.lock.json").write_text(json.dumps(lock))


def flip_last_letter(file: Path) -> None:
    content = bytearray(file.read_bytes())
    place = len(content) - 2
    content[place] ^= 1
    file.write_bytes(content)


def test_the_lock_names_inputs_by_relative_paths_and_hashes(made):
    lock = read_lock(made / "runs" / "first")
    assert str(made) not in json.dumps(lock)
    assert lock["recipe"] == "finetune.py"
    assert [file["path"] for source in lock["data"] for file in source["files"]] == ["tickets.csv"]
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= lock["checkpoint"]["files"].keys()
    assert lock["splits"].keys() == {"train", "validation", "test"}
    assert {"torch", "numpy", "tokenizers", "safetensors"} <= lock["environment"]["packages"].keys()
    assert lock["environment"]["threads"] >= 1
    assert lock["seeds"]["train.seed"] == 42
    assert {"commit", "dirty", "version", "sources_sha256"} == lock["code"].keys()
    assert lock["overrides"].keys() <= set(OVERRIDES)
    known = check_lock(lock, "runs/first")
    assert {part: known[part] for part in ("code", "environment", "metrics", "splits")} == {
        part: lock[part] for part in ("code", "environment", "metrics", "splits")
    }
    assert all(score["tolerance"] > 0 for scores in lock["metrics"].values() for score in scores.values())


def test_a_run_is_made_again_exactly_from_any_folder(made, tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(REPRODUCE, made / "runs" / "first", "--run_dir", "again", "--yes")
    assert code == 0, out + err
    first, again = made / "runs" / "first", tmp_path / "again"
    for name in ("predictions.jsonl", "model/model.safetensors", "adapter/adapter_model.safetensors"):
        assert (first / name).read_bytes() == (again / name).read_bytes(), name
        assert f"{name}: the same bytes" in out
    scores = [json.loads((run / "results.json").read_text())["models"] for run in (first, again)]
    assert scores[0] == scores[1]
    numbers = sum(map(len, scores[0].values()))
    assert f"{numbers} numbers: {numbers} exactly equal, {numbers} inside, 0 outside" in out
    plans = [{**read_lock(run)["plan"], "reasons": ()} for run in (first, again)]
    assert plans[0] == plans[1]
    threads = [read_lock(run)["environment"]["threads"] for run in (first, again)]
    assert threads[0] == threads[1]


@pytest.mark.parametrize("name", ["tickets.csv", "base/model.safetensors", "base/tokenizer.json", "config.yaml"])
def test_a_changed_file_is_named_with_both_hashes_before_training(name, work, call, copy_instead_of_training):
    calls = copy_instead_of_training()
    file = work / "runs" / "first" / name if name == "config.yaml" else work / name
    if name == "config.yaml":
        file.write_text(file.read_text() + "# a note\n")
    else:
        flip_last_letter(file)
    code, _, err = call(REPRODUCE, "runs/first", "--yes")
    assert code == 2
    assert err.count("\n") == 1
    assert err.startswith("error: runs/first was made from other files: ")
    assert f"{name}: SHA-256 expected " in err
    assert ", found " in err
    assert not calls
    assert not (work / "runs" / "first-again").exists()


def test_every_changed_and_missing_file_is_named(work, call):
    flip_last_letter(work / "base" / "model.safetensors")
    (work / "tickets.csv").unlink()
    code, _, err = call(REPRODUCE, "runs/first", "--yes")
    assert code == 2
    assert "tickets.csv: not there, expected SHA-256 " in err
    assert "base/model.safetensors: SHA-256 expected " in err


def test_rows_cut_in_another_way_stop_before_training(work, call, copy_instead_of_training):
    calls = copy_instead_of_training()
    change_lock(work / "runs" / "first", lambda lock: lock["splits"]["test"].update(sha256="0" * 64))
    code, _, err = call(REPRODUCE, "runs/first", "--yes")
    assert code == 2
    assert "rows of split test: SHA-256 expected 000000000000..., found " in err
    assert not calls


def test_another_package_version_is_named_and_the_run_goes_on(work, call, copy_instead_of_training):
    change_lock(work / "runs" / "first", lambda lock: lock["environment"]["packages"].update(torch="0.0.1"))
    calls = copy_instead_of_training()
    code, out, _ = call(REPRODUCE, "runs/first", "--yes")
    assert code == 0
    assert "warning: packages.torch: 0.0.1 then, " in out
    [(words, environment)] = calls
    lock = read_lock(work / "runs" / "first")
    threads = lock["environment"]["threads"]
    assert {f"--speed.threads={threads}", "--speed.plan=auto", "--data.train_file=tickets.csv"} <= set(words)
    assert environment.items() >= lock["environment"]["variables"].items()


def raise_accuracy(lock: dict, by: float) -> None:
    lock["metrics"]["lora"]["accuracy"]["value"] += by


def test_any_difference_is_outside_in_the_same_environment(work, call, copy_instead_of_training):
    copy_instead_of_training(lambda lock: raise_accuracy(lock, 1e-9))
    code, out, _ = call(REPRODUCE, "runs/first", "--yes")
    assert code == 1
    assert "the numbers have to be exactly equal" in out
    assert "difference +1e-09 (expected the same): OUTSIDE" in out


@pytest.mark.parametrize(("by", "code", "verdict"), [(0.01, 0, "inside"), (0.9, 1, "OUTSIDE")])
def test_elsewhere_a_difference_is_held_against_the_tolerance(by, code, verdict, work, call, copy_instead_of_training):
    def change(lock: dict) -> None:
        lock["environment"]["hardware"] = "4 cores of another kind"
        raise_accuracy(lock, by)

    copy_instead_of_training(change)
    found, out, _ = call(REPRODUCE, "runs/first", "--yes")
    assert found == code
    assert "differs: hardware: " in out
    assert any(line.startswith("lora accuracy: ") and line.endswith(verdict) for line in out.splitlines())


@pytest.mark.parametrize(
    ("run", "told"), [("runs/first", "no run.lock.json in runs/first"), ("runs/none", "no finished run in runs/none")]
)
def test_a_missing_lock_is_one_line(run, told, work, call):
    (work / "runs" / "first" / "run.lock.json").unlink()
    code, out, err = call(REPRODUCE, run, "--yes")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert told in err


def test_a_run_is_not_made_again_over_itself(work, call):
    code, _, err = call(REPRODUCE, "runs/first", "--run_dir", "runs/first", "--overwrite", "--yes")
    assert code == 2
    assert "is the run itself" in err


def test_a_plain_plan_trains_and_is_kept_by_resuming(tiny_checkpoint, tmp_path, monkeypatch, call):
    from startup_llm.training import finetuning, trainer

    monkeypatch.chdir(make_work_folder(tmp_path, tiny_checkpoint("bert")))
    words = [*WORDS, "--train.max_steps", "4", "--train.save_strategy", "steps", "--train.save_steps", "2"]
    words += ["--train.eval_strategy", "steps", "--train.eval_steps", "2", "--run_dir", "cut"]
    for place, name in ((finetuning, "fuse_lora"), (trainer, "split_by_length"), (trainer, "LengthGroupedSampler")):
        monkeypatch.setattr(place, name, lambda *_, name=name: pytest.fail(f"{name} is not the Trainer's own"))
    with monkeypatch.context() as patch:
        patch.setattr(finetuning, "save_model", lambda *_: (_ for _ in ()).throw(RuntimeError("power cut")))
        with pytest.raises(RuntimeError, match="power cut"):
            call(FINETUNE, *words, "--speed.plan", "plain", "--speed.tokens_per_batch", "100")
    began = json.loads(Path("cut.partial/plan.json").read_text())
    assert (began["plain"], began["compute_dtype"], began["attention_kernel"]) == (True, "float32", None)
    code, _, err = call(FINETUNE, *words, "--resume", "--speed.compute_dtype", "bfloat16")
    assert code == 2
    assert "speed.compute_dtype is bfloat16, but the interrupted run began with float32" in err
    code, out, err = call(FINETUNE, *words, "--resume")
    assert code == 0, err
    lock = read_lock(Path("cut"))
    assert (lock["plan"]["plain"], lock["plan"]["tokens_per_batch"]) == (True, 100)
    assert lock["overrides"]["speed.plan"] == "plain"
    assert "as the interrupted run began" in out
    assert not Path("cut/plan.json").exists()


def test_what_the_config_gives_is_not_measured(monkeypatch):
    from startup_llm.config import SpeedConfig
    from startup_llm.training import speed

    for name in ("measure_matrix_product", "measure_attention"):
        monkeypatch.setattr(speed, name, lambda *_: pytest.fail("measured"))
    plan = speed.plan_speed(SpeedConfig("auto", "bfloat16", "eager", 77, 1))
    chosen = (plan.compute_dtype, plan.frozen_dtype, plan.attention_kernel, plan.tokens_per_batch, plan.plain)
    assert chosen == ("bfloat16", "bfloat16", "eager", 77, False)


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[LoopbackHub]:
    """A hub that this process and its children reach, logged in to it as `me`."""
    from huggingface_hub import close_session, constants

    address = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
    cache = str(tmp_path / "hf")
    for name, value in {"OFFLINE": False, "DISABLE_XET": True, "CACHE": cache}.items():
        monkeypatch.setattr(constants, f"HF_HUB_{name}", value)
    with LoopbackHub(tmp_path / "hub") as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + address)
        children = {
            "TOKEN": TOKEN,
            "ENDPOINT": hub.url,
            "HUB_OFFLINE": "0",
            "HUB_DISABLE_XET": "1",
            "HUB_CACHE": cache,
        }
        for name, value in {**children, "MODULES_CACHE": str(tmp_path / "modules")}.items():
            monkeypatch.setenv(f"HF_{name}", value)
        yield hub
        close_session()


def test_a_published_run_is_made_again_from_its_hub_id(work, call, hub, copy_instead_of_training):
    copy_instead_of_training()
    push(PushConfig("me/mine", "runs/first"), ROOT / "data_cards", hub.url)
    code, out, err = call(REPRODUCE, "me/mine", "--yes")
    assert code == 0, out + err
    assert (work / "runs" / "mine-again" / "results.json").is_file()
    flip_last_letter(work / "tickets.csv")
    code, _, err = call(REPRODUCE, "me/mine", "--overwrite", "--yes")
    assert (code, "tickets.csv: SHA-256 expected" in err) == (2, True)
    code, _, err = call(REPRODUCE, "me/none", "--yes")
    assert (code, err.count("\n")) == (2, 1)
    assert "me/none is no folder here, and the Hub does not give it" in err


def test_git_settings_in_a_published_lock_run_nothing(work, call, hub):
    payload = work / "payload"
    push(PushConfig("me/mine", "runs/first"), ROOT / "data_cards", hub.url)
    lock = json.loads(hub.files("me/mine")["run.lock.json"])
    settings = {"COUNT": "1", "KEY_0": "core.fsmonitor", "VALUE_0": f"touch {payload}; false"}
    lock["environment"]["variables"] |= {f"GIT_CONFIG_{name}": value for name, value in settings.items()}
    hub.commit("me/mine", {"run.lock.json": json.dumps(lock).encode()})
    code, out, err = call(REPRODUCE, "me/mine", "--yes")
    assert (code, out) == (2, "")
    assert "environment.variables.GIT_CONFIG_COUNT" in err.splitlines()[-1]
    assert not payload.exists()
    assert not (work / "runs" / "mine-again").exists()


PAYLOAD = """
import os, pathlib
from huggingface_hub import get_token
from transformers import PreTrainedTokenizerFast

pathlib.Path({file!r}).write_text(f"{{os.environ.get('HF_TOKEN')}} {{get_token()}}")


class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""


@pytest.fixture
def payload(work, hub, tmp_path) -> Path:
    """The file that the code of me/evil would write.

    The checkpoint's tokenizer is a class of another repository, as transformers' auto_map allows.
    """
    payload = tmp_path / "payload"
    files = {file.name: file.read_bytes() for file in Path("base").iterdir()}
    described = json.loads(files["tokenizer_config.json"])
    described["auto_map"] = {"AutoTokenizer": [None, "evil/code--own.OwnTokenizer"]}
    files["tokenizer_config.json"] = json.dumps(described).encode()
    commit = hub.create("evil/base", private=False, files=files)
    code = {"own.py": PAYLOAD.format(file=str(payload)).encode(), "config.json": b"{}"}
    hub.create("evil/code", private=False, files=code)
    run = Path("runs/first")
    change_config(run, lambda config: config["model"].update(checkpoint="evil/base", trust_remote_code=True))

    def change(lock: dict) -> None:
        del lock["overrides"]["model.checkpoint"]
        lock["overrides"]["model.revision"] = commit
        hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        lock["checkpoint"].update(name="evil/base", source="Hub", revision=commit, files=hashes)

    change_lock(run, change)
    names = ("config.yaml", "run.lock.json", "results.json")
    hub.create("me/evil", files={name: (run / name).read_bytes() for name in names})
    return payload


def test_code_that_a_published_run_asks_for_does_not_run_by_itself(payload, call):
    code, out, err = call(REPRODUCE, "me/evil", "--yes")
    assert (code, out) == (2, "")
    assert "allow it with --trust_remote_code" in err.splitlines()[-1]
    assert not payload.exists()


@pytest.mark.slow
def test_code_that_a_published_run_asks_for_runs_where_it_is_allowed_and_is_given_no_token(payload, call):
    _, out, err = call(REPRODUCE, "me/evil", "--yes", "--trust_remote_code")
    assert "OWN PYTHON CODE IS RUN" in out
    assert payload.exists(), out + err
    assert payload.read_text() == "None None"  # no token, which the code could send away


def test_what_will_be_run_is_shown_and_a_person_answers(work, call, copy_instead_of_training, monkeypatch):
    calls = copy_instead_of_training()
    code, out, err = call(REPRODUCE, "runs/first")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "add --yes" in err
    for answer, expected in (("n", 0), ("", 0), ("y", 1)):
        terminal = io.StringIO(f"{answer}\n")
        terminal.isatty = lambda: True
        monkeypatch.setattr(sys, "stdin", terminal)
        code, out, _ = call(REPRODUCE, "runs/first")
        assert len(calls) == expected
        assert "recipes/finetune.py --config runs/first/config.yaml" in out
        assert "reads:     tickets.csv, base" in out
        assert f"writes:    {work}/runs/first-again" in out


def test_the_process_that_trains_gets_no_token(work, call, copy_instead_of_training, monkeypatch):
    for name in ("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "my_password"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    calls = copy_instead_of_training()
    assert call(REPRODUCE, "runs/first", "--yes")[0] == 0
    [(_, environment)] = calls
    assert "secret" not in environment.values()
    assert environment["HF_TOKEN_PATH"] == os.devnull
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert environment["TOKENIZERS_PARALLELISM"] == "false"


def change_config(run: Path, change: Callable[[dict], object]) -> None:
    file = run / "config.yaml"
    values = yaml.safe_load(file.read_text())
    change(values)
    file.write_text(yaml.safe_dump(values))
    change_lock(run, lambda lock: lock.update(config_sha256=hashlib.sha256(file.read_bytes()).hexdigest()))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda lock: lock["environment"]["variables"].update(PYTHONPATH="."), "environment.variables.PYTHONPATH"),
        (lambda lock: lock["environment"]["variables"].update(LD_PRELOAD="x.so"), "environment.variables.LD_PRELOAD"),
        (lambda lock: lock["environment"]["variables"].update(OMP_NUM_THREADS="$(x)"), "variables.OMP_NUM_THREADS"),
        (lambda lock: lock["environment"].update(variables=["OMP_NUM_THREADS"]), "environment.variables"),
        (lambda lock: lock["environment"].update(processes=100000), "environment.processes"),
        (lambda lock: lock["environment"].update(processes=1000), "1000 processes"),
        (lambda lock: lock["environment"].update(hardware="\x1b[2Jfine"), "environment.hardware"),
        (lambda lock: lock.update(recipe="../../evil.py"), "was made by ../../evil.py"),
        (
            lambda lock: lock["overrides"].update({"model.trust_remote_code": True}),
            "overrides.model.trust_remote_code",
        ),
        (lambda lock: lock["overrides"].update({"train.output_dir": "x"}), "overrides.train.output_dir"),
        (lambda lock: lock["overrides"].update({"data.train_file": "/etc/hostname"}), "'/etc/hostname' lies outside"),
        (lambda lock: lock["overrides"].update({"data.train_file": "../x.csv"}), "'../x.csv' lies outside"),
        (lambda lock: lock["overrides"].update({"data.train_file": '["/etc/x.csv"]'}), "'/etc/x.csv' lies outside"),
        (lambda lock: lock["overrides"].update({"data.data_dir": "~/.ssh"}), "'~/.ssh' lies outside"),
        (lambda lock: lock["overrides"].update({"model.checkpoint": "/opt/model"}), "'/opt/model' lies outside"),
        (lambda lock: lock["data"][0]["files"][0].update(path="/etc/shadow"), "'/etc/shadow' lies outside"),
        (lambda lock: lock["checkpoint"]["files"].update({"../../x": "0" * 64}), "checkpoint.files"),
        (lambda lock: lock.update(working_folder="/"), "working_folder"),
        (lambda lock: lock.update(metrics=[]), "metrics"),
        (lambda lock: lock.pop("splits"), "splits: Field required"),
    ],
)
def test_what_a_lock_may_not_say_is_refused(change, told, work, call, copy_instead_of_training):
    change_lock(work / "runs" / "first", change)
    calls = copy_instead_of_training()
    code, out, err = call(REPRODUCE, "runs/first", "--yes")
    assert (code, out, err.count("\n")) == (2, "", 1), out + err
    assert told in err
    assert not calls


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda config: config["model"].update(trust_remote_code=True), "allow it with --trust_remote_code"),
        (lambda config: config["model"].update(chat_template="/etc/hostname"), "model.chat_template"),
        (lambda config: config["data"].update(test_file="../../other.csv"), "data.test_file '../../other.csv'"),
        (lambda config: config["data"].update(dataset="/home"), "data.dataset '/home'"),
        (lambda config: config.update(model="/etc/passwd"), "model: expected options"),
        (lambda config: config["train"].update(parallelism_config={"class_path": "antigravity.X"}), "class_path"),
        (lambda config: config["train"].update(accelerator_config="other.json"), "train.accelerator_config"),
        (lambda config: config["train"].update(hub_model_id="evil/x"), "train.hub_model_id"),
    ],
)
def test_what_a_config_may_not_say_is_refused(change, told, work, call, copy_instead_of_training):
    change_config(work / "runs" / "first", change)
    calls = copy_instead_of_training()
    code, out, err = call(REPRODUCE, "runs/first", "--yes")
    assert (code, out, err.count("\n")) == (2, "", 1), out + err
    assert told in err
    assert not calls


def test_a_tracker_that_the_config_names_hears_nothing(work, call, copy_instead_of_training):
    change_config(work / "runs" / "first", lambda config: config["train"].update(report_to=["wandb"]))
    calls = copy_instead_of_training()
    assert call(REPRODUCE, "runs/first", "--yes")[0] == 0
    [(words, _)] = calls
    assert "--train.report_to=none" in words


def test_a_language_model_that_the_config_names_is_sent_no_row(work, call, copy_instead_of_training):
    llm = {"model": "m", "base_url": "http://evil.example/v1", "answers": "answers.jsonl"}
    change_config(work / "runs" / "first", lambda config: config.update(baselines={"llm": llm}))
    calls = copy_instead_of_training()
    assert call(REPRODUCE, "runs/first", "--yes")[0] == 0
    [(words, _)] = calls
    assert "--baselines.llm.offline=true" in words
    change_config(work / "runs" / "first", lambda config: config["baselines"]["llm"].update(answers="/etc/hostname"))
    code, _, err = call(REPRODUCE, "runs/first", "--yes", "--overwrite", "true")
    assert code == 2
    assert "baselines.llm.answers '/etc/hostname' lies outside" in err


def test_files_in_a_folder_that_this_command_line_allows_are_read(work, call, copy_instead_of_training, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.move("tickets.csv", elsewhere)
    path = str(elsewhere / "tickets.csv")

    def change(lock: dict) -> None:
        lock["overrides"]["data.train_file"] = path
        lock["data"][0]["files"][0]["path"] = path

    change_lock(work / "runs" / "first", change)
    copy_instead_of_training()
    code, _, err = call(REPRODUCE, "runs/first", "--yes")
    assert (code, f"--allowed_folders '[{elsewhere}]'" in err) == (2, True)
    code, out, err = call(REPRODUCE, "runs/first", "--yes", "--allowed_folders", f"[{elsewhere}]")
    assert code == 0, out + err
