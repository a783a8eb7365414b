from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from startup_llm.benchmark.options import BenchmarkConfig
from startup_llm.command_line import parse_config
from startup_llm.config import (
    RESERVED_TRAIN_FIELDS,
    SHARED_TRAIN_DEFAULTS,
    TRAIN_DEFAULTS,
    TRAIN_FIELDS,
    AuditConfig,
    ClassDecision,
    EvaluateConfig,
    FinetuneConfig,
    PretrainConfig,
    TextModelConfig,
)
from startup_llm.errors import UserError
from startup_llm.gan.options import GanConfig
from startup_llm.tasks.options import choose_section
from startup_llm.tasks.text_classification.options import (
    TextClassificationBaselines,
    TextClassificationData,
    TextClassificationEvaluation,
    TextClassificationModel,
)
from startup_llm.tasks.vision.options import DetectionData, ScratchVit

ROOT = Path(__file__).parents[1]


def parse(*words: str) -> tuple[FinetuneConfig, dict, str]:
    return parse_config(FinetuneConfig, words, train_section=True)


def refuse(*words: str) -> str:
    with pytest.raises(UserError) as caught:
        parse(*words)
    return str(caught.value)


def write(folder: Path, text: str) -> str:
    file = folder / "run.yaml"
    file.write_text(text)
    return str(file)


def printed_config(capsys: pytest.CaptureFixture, *words: str) -> dict:
    with pytest.raises(SystemExit) as caught:
        parse(*words, "--print_config")
    assert caught.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


def test_no_words_at_all_give_the_defaults_of_lora():
    config, train, _ = parse()
    sections = {
        "data": TextClassificationData(),
        "baselines": TextClassificationBaselines(),
        "evaluation": TextClassificationEvaluation(),
        "decision": ClassDecision(),
    }
    assert config == FinetuneConfig(model=TextClassificationModel(), **sections)
    assert (train["learning_rate"], train["num_train_epochs"]) == (5e-4, 4)


@pytest.mark.parametrize(("method", "rate", "epochs"), [("lora", 5e-4, 4), ("full", 1e-4, 4), ("probe", 5e-5, 0)])
def test_method_chooses_the_defaults_of_the_train_section(method, rate, epochs):
    config, train, _ = parse("--method", method)
    assert config.method == method
    assert (train["learning_rate"], train["num_train_epochs"]) == (rate, epochs)
    assert {name: train[name] for name in SHARED_TRAIN_DEFAULTS} == dict(SHARED_TRAIN_DEFAULTS)


def test_method_in_the_yaml_chooses_the_defaults_too(tmp_path):
    _, train, _ = parse("--config", write(tmp_path, "method: full\n"))
    assert train["learning_rate"] == 1e-4


def test_yaml_goes_before_the_methods_defaults_and_options_before_the_yaml(tmp_path):
    file = write(tmp_path, "train:\n  learning_rate: 2e-5\n  num_train_epochs: 7\nlora:\n  rank: 4\n")
    config, train, _ = parse("--config", file, "--lora.rank", "8", "--train.num_train_epochs=9", "--method", "full")
    assert (config.lora.rank, train["learning_rate"], train["num_train_epochs"]) == (8, 2e-5, 9)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lora.rnak", "4"], "unknown option lora.rnak; did you mean lora.rank?"),
        (["--lora.rnak=4"], "unknown option lora.rnak; did you mean lora.rank?"),
        (["--run_dri", "x"], "unknown option run_dri; did you mean run_dir?"),
        (["--train.lerning_rate", "1"], "unknown option train.lerning_rate; did you mean train.learning_rate?"),
        (["--train.max_step", "1"], "unknown option train.max_step; did you mean train.max_steps?"),
        (["--data.dataset_", "a"], "unknown option data.dataset_; did you mean data.dataset?"),
        (["--data.data", "a"], "unknown option data.data; did you mean data.dataset?"),
        (["--meth", "full"], "unknown option meth; did you mean method?"),
        (["--resum"], "unknown option resum; did you mean resume?"),
        (["--zzz", "1"], "unknown option zzz"),
    ],
)
def test_unknown_option_is_named_with_the_nearest_one(words, message):
    assert refuse(*words) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lora:\n  rnak: 4\n", "unknown option lora.rnak; did you mean lora.rank?"),
        ("trian:\n  learning_rate: 1\n", "unknown option trian.learning_rate; did you mean train.learning_rate?"),
        ("train:\n  lerning_rate: 1\n", "unknown option train.lerning_rate; did you mean train.learning_rate?"),
        ("methd: full\n", "unknown option methd; did you mean method?"),
    ],
)
def test_unknown_key_in_a_yaml_file_is_named_with_the_nearest_one(tmp_path, text, message):
    assert refuse("--config", write(tmp_path, text)) == message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lora.rank", "four"], "option lora.rank: expected int, got four"),
        (["--lora.rank", "2.5"], "option lora.rank: expected int, got 2.5"),
        (["--train.learning_rate", "fast"], "option train.learning_rate: expected float, got fast"),
        (["--method", "prob"], "option method: expected 'lora', 'full', 'probe', 'zero-shot', got prob"),
        (["--resume=maybe"], "option resume: expected bool, got maybe"),
    ],
)
def test_value_of_the_wrong_type_is_told_with_the_type_expected(words, message):
    assert refuse(*words) == message


ANOTHER_TASK = "unknown option data.box_format for text-classification; it belongs to object-detection"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data.box_format", "xyxy"], ANOTHER_TASK),
        (["--data.box_format", "xywh"], ANOTHER_TASK),
        (["--task", "translation", "--data.packing"], (
            "unknown option data.packing for translation; it belongs to text-generation"
        )),
        (["--task=object-detection", "--model.language", "english"], (
            "unknown option model.language for object-detection; it belongs to "
            "automatic-speech-recognition, summarization, translation"
        )),
        (["--evaluation.generate"], (
            "unknown option evaluation.generate for text-classification; it belongs to text-generation"
        )),
        (["--task", "object-detection", "--data.box_formt", "xyxy"], (
            "unknown option data.box_formt; did you mean data.box_format?"
        )),
    ],
)  # fmt: skip
def test_option_of_another_task_is_refused_with_the_tasks_that_have_it(words, message):
    assert refuse(*words) == message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.patch_size", "8"], "unknown option model.patch_size for dnn; it belongs to vit"),
        (["--model.name", "transformer", "--model.hidden", "[8]"], (
            "unknown option model.hidden for transformer; it belongs to dnn"
        )),
        (["--task", "image-classification", "--model.width", "8"], (
            "unknown option model.width for dnn; it belongs to vit"
        )),
        (["--task", "image-classification", "--model.longest_ngram", "8"], (
            "unknown option model.longest_ngram for dnn; it belongs to text-classification"
        )),
        (["--model.name", "vit"], "model.name vit: text-classification has the reference models dnn and transformer"),
        (["--task", "object-detection", "--model.name", "dnn"], (
            "model.name dnn: object-detection has the reference model rt-detr"
        )),
        (["--task", "text-generation", "--model.tokenizer", "bpe"], (
            "option model.tokenizer: expected 'character', got bpe"
        )),
    ],
)  # fmt: skip
def test_option_of_another_reference_model_is_refused(words, message):
    with pytest.raises(UserError) as caught:
        parse_config(PretrainConfig, words)
    assert str(caught.value) == message


def test_a_task_without_a_reference_model_is_refused():
    with pytest.raises(UserError, match=r"^token-classification has no reference model to train from scratch; "):
        parse_config(PretrainConfig, ["--task", "token-classification"])


@pytest.mark.parametrize("config_class", [AuditConfig, BenchmarkConfig, GanConfig])
def test_recipe_of_one_task_refuses_the_options_of_others(config_class):
    with pytest.raises(UserError, match=r"^unknown option data\.box_format; it belongs to object-detection$"):
        parse_config(config_class, ["--data.box_format", "xyxy"])


def test_evaluation_takes_the_options_of_any_task_until_one_is_named():
    words = ["--model", "a", "--data.box_format", "xyxy"]
    assert parse_config(EvaluateConfig, words)[0].data.box_format == "xyxy"
    with pytest.raises(UserError, match=r"^unknown option data\.box_format for translation; it belongs to"):
        parse_config(EvaluateConfig, [*words, "--task", "translation"])


@pytest.mark.parametrize("words", [["--task", "object-detection"], ["--task=object-detection"], []])
def test_the_task_of_a_yaml_or_of_the_command_line_chooses_the_sections(tmp_path, words):
    text = "task: object-detection\ndata:\n  box_format: xyxy\n" if not words else "data:\n  box_format: xyxy\n"
    config, _, _ = parse_config(FinetuneConfig, ["--config", write(tmp_path, text), *words])
    assert config.data == DetectionData(box_format="xyxy")


def test_the_reference_model_of_a_yaml_chooses_its_options(tmp_path):
    file = write(tmp_path, "task: image-classification\nmodel: {name: vit, patch_size: 8}\n")
    assert parse_config(PretrainConfig, ["--config", file])[0].model == ScratchVit(patch_size=8)
    with pytest.raises(UserError, match=r"^unknown option model\.patch_size for dnn; it belongs to vit$"):
        parse_config(PretrainConfig, ["--config", file, "--model.name", "dnn"])


@pytest.mark.parametrize("written", ["--config {}", "--config={}"])
def test_yaml_of_an_older_run_with_the_options_of_every_task_is_read(tmp_path, written):
    every = dataclasses.asdict(choose_section("data", None).kind()) | {"train_file": "a.csv", "skip_bad": False}
    file = write(tmp_path, yaml.safe_dump({"task": "text-classification", "data": every}))
    config, _, _ = parse_config(FinetuneConfig, [*written.format(file).split(), "--data.split_seed", "3"])
    assert config.data == TextClassificationData(train_file="a.csv", split_seed=3)
    changed = write(tmp_path, yaml.safe_dump({"data": every | {"box_format": "xyxy"}}))
    assert refuse("--config", changed) == ANOTHER_TASK


def test_missing_config_file_is_named(tmp_path):
    assert refuse("--config", str(tmp_path / "none.yaml")) == f"no such file: {tmp_path / 'none.yaml'}"
    (tmp_path / "banking77_lora.yaml").write_text("method: lora\n")
    told = refuse("--config", str(tmp_path / "banking77_lra.yaml"))
    assert told.endswith(f"banking77_lra.yaml; did you mean {tmp_path / 'banking77_lora.yaml'}?")


def test_broken_yaml_file_is_a_users_mistake(tmp_path):
    assert "line 2, column 1" in refuse("--config", write(tmp_path, "lora: [\n"))


@pytest.mark.parametrize("written", ["2e-5", "2E-5"])
def test_scientific_notation_is_a_number_in_yaml_and_on_the_command_line(tmp_path, written):
    for words in (
        ["--train.learning_rate", written],
        ["--config", write(tmp_path, f"train:\n  learning_rate: {written}\n")],
    ):
        assert parse(*words)[1]["learning_rate"] == 2e-5


@pytest.mark.parametrize(
    ("words", "resume"),
    [([], False), (["--resume"], True), (["--resume", "--method=full"], True), (["--resume", "false"], False)],
)
def test_bare_resume_stands_for_true(words, resume):
    assert parse(*words)[0].resume is resume


def test_bare_flag_of_the_train_section_stands_for_true():
    assert parse("--train.full_determinism")[1]["full_determinism"] is True


@pytest.mark.parametrize("method", ["lora", "full", "probe"])
def test_print_config_prints_every_value_as_the_run_would_use_it(capsys, method):
    config, train, _ = parse("--method", method, "--lora.rank", "4")
    shown = printed_config(capsys, "--method", method, "--lora.rank", "4")
    for section in ("model", "data", "lora", "evaluation"):
        assert shown[section] == vars(getattr(config, section))
    assert shown["method"] == method
    assert {name: shown["train"][name] for name in train} == train


def test_the_printed_config_can_be_run_and_gives_the_same_config(tmp_path, capsys):
    words = ["--method", "full", "--lora.target_modules", '["query"]', "--data.train_file", "a.csv"]
    shown = printed_config(capsys, *words)
    assert parse("--config", write(tmp_path, yaml.safe_dump(shown)))[:2] == parse(*words)[:2]


def test_the_runs_own_yaml_gives_the_same_config_again(tmp_path):
    config, train, text = parse("--method", "full", "--train.learning_rate", "3e-5", "--data.dataset", "helpdesk")
    assert parse("--config", write(tmp_path, text))[:2] == (config, train)


@pytest.mark.parametrize(("name", "advice"), RESERVED_TRAIN_FIELDS.items())
def test_train_field_that_a_run_does_not_take_is_refused_with_what_to_use_instead(name, advice):
    from transformers import TrainingArguments

    [part] = [part for part in dataclasses.fields(TrainingArguments) if part.name == name]
    hint = str(part.type)
    values = {"hub_strategy": "end", "include_for_metrics": '["inputs"]', "label_names": '["label"]'}
    values |= {"parallelism_config": '{"tp_size": 2}', "liger_kernel_config": '{"rope": true}'}
    value = values.get(
        name, str(not part.default).lower() if "bool" in hint else "7" if "int" in hint else "hf_secret"
    )
    message = refuse(f"--train.{name}", value)
    end = "is set by the run itself" if TRAIN_FIELDS[name].use == "set" else "cannot be honoured by a run"
    assert message == f"train.{name} {end}; {advice}"
    assert "hf_secret" not in message


def test_each_field_of_the_train_section_stands_in_the_table():
    """A new release of transformers may have further ones: decide what becomes of each."""
    from transformers import TrainingArguments

    assert set(TRAIN_FIELDS) == {part.name for part in dataclasses.fields(TrainingArguments) if part.init}
    refused = [name for name, part in TRAIN_FIELDS.items() if part.use != "honoured"]
    assert all(TRAIN_FIELDS[name].advice for name in refused)
    assert not set(refused) & {*SHARED_TRAIN_DEFAULTS, *(name for part in TRAIN_DEFAULTS.values() for name in part)}


@pytest.mark.parametrize(
    ("option", "other"),
    [
        ("eval_steps=7", "eval_strategy steps"),
        ("save_steps=7", "save_strategy steps"),
        ("run_name=mine", "report_to tensorboard"),
        ("optim_args=momentum=0.5", "optim sgd"),
        ("dataloader_persistent_workers", "dataloader_num_workers 2"),
        ("dataloader_prefetch_factor=3", "dataloader_num_workers 2"),
    ],
)
def test_train_field_that_another_one_leaves_unread_is_refused(option, other):
    name, value = other.split()
    words = [f"--train.{option}"]
    message = refuse(*words)
    assert message.startswith(f"train.{option.partition('=')[0]} ")
    assert f"is ignored where train.{name} is " in message
    section = parse(*words, f"--train.{name}={value}")[1]
    assert section[option.partition("=")[0]] not in (None, False)


@pytest.mark.parametrize("name", ["galore_adamw", "apollo_adamw", "lomo", "adalomo"])
def test_optimizer_that_takes_gradients_in_its_own_way_is_refused(name):
    assert refuse("--train.optim", name).startswith(f"train.optim {name} takes gradients in a way of its own")


def test_train_section_holds_no_reserved_field_and_its_yaml_no_token():
    _, train, text = parse()
    assert not train.keys() & RESERVED_TRAIN_FIELDS.keys()
    assert "hub_token" not in text


def test_config_without_a_train_section_knows_no_train_option():
    with pytest.raises(UserError, match=r"^unknown option train\.learning_rate"):
        parse_config(TextModelConfig, ["--train.learning_rate", "1"])
    config, train, _ = parse_config(TextModelConfig, ["--max_length_tokens", "32"])
    assert (config.max_length_tokens, train) == (32, {})


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.cold_start
def test_help_comes_under_two_seconds_without_torch_and_documents_the_fields():
    code = (
        "import os, runpy, sys\n"
        "sys.argv = ['recipes/finetune.py', '--help']\n"
        "try:\n    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "heavy = {'torch', 'transformers', 'datasets', 'peft'} & set(sys.modules)\n"
        "sys.stderr.write(f'{sorted(heavy)} {sum(os.times()[:2]):.3f}')\n"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    heavy, processor_seconds = done.stderr.rsplit(" ", 1)
    assert heavy == "[]"
    assert float(processor_seconds) < 2
    assert "Rank r of the update B A." in done.stdout
    assert "--train.help" in done.stdout


def test_train_help_lists_the_training_arguments():
    done = run_python(
        "import runpy, sys; sys.argv = ['finetune.py', '--train.help'];"
        "runpy.run_path('recipes/finetune.py', run_name='__main__')"
    )
    assert done.returncode == 0, done.stderr
    assert "--train.learning_rate" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lora.rnak", "4"], "unknown option lora.rnak; did you mean lora.rank?"),
        (["--data.box_format", "xyxy"], ANOTHER_TASK),
        (["--data.test_fraction", "1.5"], "option data.test_fraction: expected a number from 0 to 1, got 1.5"),
    ],
)
def test_recipe_reports_a_wrong_option_in_one_line_and_exits_with_2(words, message):
    done = subprocess.run(
        [sys.executable, "recipes/finetune.py", *words],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == f"error: {message}\n"
