import dataclasses
import json

import datasets
import pytest
import torch

from startup_llm.benchmark import causal_lm as benchmark_causal_lm
from startup_llm.benchmark import timing as benchmark
from startup_llm.benchmark.options import BenchmarkConfig
from startup_llm.benchmark.peaks import find_peak, look_up_peak
from startup_llm.benchmark.timing import (
    LIGER_WAY,
    WAYS,
    _Clock,
    choose_ways,
    count_flop_per_token,
    split_by_rows,
    time_way,
)
from startup_llm.config import LabelledTextData, LoraConfig
from startup_llm.data.task_data import TaskData
from startup_llm.errors import UserError
from startup_llm.models.adapters import add_lora
from startup_llm.models.checkpoints import load_checkpoint
from startup_llm.tasks import load_task
from startup_llm.tasks.text_classification.options import TextClassificationModel
from startup_llm.training.speed import plan_speed

PLAY = ["First Citizen:\nBefore we proceed any further, hear me speak.", "All:\nSpeak, speak.", "Second: One word."]


@pytest.fixture
def play(tmp_path):
    """Short texts, none longer than a tiny block: TRL's default packing cuts what is."""
    file = tmp_path / "play.csv"
    file.write_text("text\n" + "".join(f"speak {number}\n" for number in range(40)), encoding="utf-8")
    return LabelledTextData(train_file=str(file))


TINY = benchmark_causal_lm.LLAMAS["tiny"]


def test_drawn_texts_fill_the_blocks_and_no_more():
    tokenizer = benchmark_causal_lm.train_tokenizer(PLAY, TINY)
    drawn = benchmark_causal_lm.draw_texts(PLAY, tokenizer, 20, 0, TINY)
    lengths = [len(ids) + 1 for ids in tokenizer(drawn)["input_ids"]]
    assert sum(lengths) >= 20 * 16 > sum(lengths[:-1])
    assert sorted(benchmark_causal_lm.draw_texts(PLAY, tokenizer, None, 0, TINY)) == sorted(PLAY)


def test_blocks_are_the_drawn_texts_one_after_the_other():
    tokenizer = benchmark_causal_lm.train_tokenizer(PLAY, TINY)
    blocks = benchmark_causal_lm.pack_blocks(PLAY, tokenizer, 6, 3, TINY)
    assert [len(block) for block in blocks] == [16] * len(blocks)
    assert len(blocks) >= 6
    stream = benchmark_causal_lm.END.join(benchmark_causal_lm.draw_texts(PLAY, tokenizer, 6, 3, TINY))
    text = tokenizer.decode([token for block in blocks for token in block], clean_up_tokenization_spaces=False)
    assert stream.startswith(text.removesuffix(benchmark_causal_lm.END))


def test_texts_too_short_for_two_steps_are_an_error():
    tokenizer = benchmark_causal_lm.train_tokenizer(PLAY, TINY)
    with pytest.raises(UserError, match="rows: 0 blocks of 16 tokens, expected at least 4"):
        benchmark_causal_lm.pack_blocks(["a"], tokenizer, None, 0, TINY)


def test_choosing_a_kernel_leaves_the_weights_alone():
    tokenizer = benchmark_causal_lm.train_tokenizer(PLAY, TINY)
    model = benchmark_causal_lm.build_llama(tokenizer, TINY)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kernel = benchmark_causal_lm.choose_kernel(model, plan_speed(), [list(range(16))] * 2)
    assert kernel in ("eager", "sdpa", "causal_blocks")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("way", [way for way in WAYS["causal-lm"] if way != LIGER_WAY])
def test_every_way_trains_the_same_language_model(way, play):
    config = BenchmarkConfig(what="causal-lm", llama="tiny", rows=40, data=play)
    figures = WAYS["causal-lm"][way](config, 0.0)
    blocks_per_text_token = figures["tokens_per_second"] / figures["rows_per_second"]
    assert 0 < blocks_per_text_token <= 16
    assert 4.5 < figures["train_loss"] < 6.0  # ln(300) = 5.7 for weights that know nothing
    assert figures["flop_per_token"] > 0


@pytest.mark.parametrize(("what", "way"), [(what, way) for what in ("training", "inference") for way in WAYS[what]])
def test_every_way_does_the_same_rows(what, way, tmp_path, tiny_checkpoint, monkeypatch):
    monkeypatch.setattr(benchmark, "PADDED_LENGTH", 64)  # the longest that the tiny checkpoint reads
    texts = [f"{'ab'[i % 2]} message {'and more ' * (i % 5)}number {i},{'xy'[i % 2]}" for i in range(120)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *texts]) + "\n")
    rows = LabelledTextData(train_file=str(tmp_path / "rows.csv"), validation_fraction=0.0)
    settings = TextClassificationModel(checkpoint=str(tiny_checkpoint("bert")))
    config = BenchmarkConfig(what=what, rows=100, data=rows, model=settings)
    figures = WAYS[what][way](config, 0.0)
    real = figures["tokens_per_second"] / figures["rows_per_second"]  # not the padding
    assert real == pytest.approx(31, abs=2)
    assert figures["flop_per_token"] > 0


def test_a_weight_costs_two_operations_two_more_if_it_learns_and_two_if_something_before_it_does():
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Linear(5, 7), torch.nn.Linear(7, 11))
    model[0].requires_grad_(False)
    model[2].requires_grad_(False)
    assert count_flop_per_token(model, training=True) == 2 * 15 + 4 * 35 + 4 * 77
    model.requires_grad_(True)
    assert count_flop_per_token(model, training=True) == 4 * 15 + 6 * 35 + 6 * 77
    assert count_flop_per_token(model, training=False) == 2 * 127
    assert count_flop_per_token(model, training=True, kept_blocks=[model[0]]) == 6 * 35 + 6 * 77


def test_the_pooling_s_layer_costs_nothing_and_an_adapter_s_copy_is_counted_once(tiny_checkpoint):
    task, settings = load_task("text-classification"), TextClassificationModel(checkpoint=str(tiny_checkpoint("bert")))
    rows = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})
    data = TaskData(datasets.DatasetDict(train=rows, test=rows), ["a", "b"], "single_label_classification")
    checkpoint = load_checkpoint(settings)
    costs = {}
    for pooling in ("mean", "native"):
        given = dataclasses.replace(settings, pooling=pooling)
        processor = task.load_processor(checkpoint, given)
        costs[pooling] = task.build_model(checkpoint, processor, data, given, "eager")
    assert count_flop_per_token(costs["mean"].model, training=False) == count_flop_per_token(
        costs["native"].model, training=False
    )
    frozen = sum(2 * m.weight.numel() for m in costs["native"].model.modules() if isinstance(m, torch.nn.Linear))
    trained = {
        name: count_flop_per_token(
            add_lora(
                built.model, LoraConfig(rank=2), task_type="SEQ_CLS", base_name="", head_modules=built.head_modules,
                constant_modules=built.constant_modules,
            ),
            training=True,
        )
        for name, built in costs.items()
    }  # fmt: skip
    assert 2 * frozen < trained["mean"] < 3 * frozen


def test_the_clock_leaves_out_the_first_step_and_the_pauses(monkeypatch):
    now = iter([100.0, 150.0, 180.0, 182.0])  # the first step's end, an epoch's, the next one's begin, and its end
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: next(now))
    monkeypatch.setattr(benchmark.time, "time", lambda: 500.0)
    clock = _Clock(started=440.0, target=0.9, measure_accuracy=lambda: 0.95)
    tell = clock.callback()
    tell.on_epoch_begin()
    tell.on_step_end()
    tell.on_step_end()
    tell.on_epoch_end()
    assert clock.seconds_to_target == 60.0
    tell.on_epoch_begin()
    tell.on_step_end()
    tell.on_epoch_end()
    found = clock.read(rows=30, epochs=2, mean_tokens=7.0, model=torch.nn.Linear(2, 3))
    assert found["rows_per_second"] == pytest.approx(40 / 52)  # two of three steps, 82 s without the pause inside
    assert found["tokens_per_second"] == pytest.approx(7 * 40 / 52)
    assert (found["accuracy"], found["seconds_to_target"]) == (0.95, 60.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ways": ["setfi"]}, "unknown way setfi; did you mean setfit"),
        ({"what": "inference", "ways": ["setfit"]}, "of inference: ours, ours-auto, pipeline"),
        ({"rows": 99}, "rows 99: expected at least 100"),
        ({"what": "inference", "accuracy": True}, "inference times a model that is not trained"),
        ({"what": "causal-lm", "accuracy": True}, "a language model has none"),
        ({"what": "causal-lm", "rows": 15}, "15 blocks of 512 tokens, expected at least 16"),
        ({"what": "causal-lm", "rows": 15, "llama": "1b"}, "15 blocks of 2048 tokens, expected at least 16"),
        (
            {"what": "causal-lm", "model": TextClassificationModel(checkpoint="gpt2")},
            "model.checkpoint gpt2: causal-lm trains",
        ),
    ],
)
def test_an_option_that_makes_no_sense_is_an_error(options, message):
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        choose_ways(BenchmarkConfig(**options))


def test_each_number_of_rows_is_timed_once_from_the_least_on():
    assert [one.rows for one in split_by_rows(BenchmarkConfig(rows=[1000, 100, 1000]))] == [100, 1000]
    assert split_by_rows(BenchmarkConfig(rows=None)) == [BenchmarkConfig(rows=None)]
    with pytest.raises(UserError, match="expected at least one number of rows"):
        split_by_rows(BenchmarkConfig(rows=[]))


def test_a_missing_library_is_told_with_the_extra(monkeypatch):
    monkeypatch.setattr(benchmark.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"setfit needs setfit; install it: pip install 'startup-llm\[benchmark\]'"):
        choose_ways(BenchmarkConfig())
    assert choose_ways(BenchmarkConfig(ways=["ours"])) == ["ours"]


def test_liger_is_timed_where_it_is_installed_and_has_a_gpu(monkeypatch):
    specs = {"setfit", "trl"}
    monkeypatch.setattr(benchmark.importlib.util, "find_spec", lambda name: name if name in specs else None)
    config = BenchmarkConfig(what="causal-lm", rows=16)
    asked = dataclasses.replace(config, ways=[LIGER_WAY])
    for library, gpu in ((False, True), (True, False)):
        specs.update(["liger_kernel"] * library)
        monkeypatch.setattr(torch.accelerator, "is_available", lambda gpu=gpu: gpu)
        assert LIGER_WAY not in choose_ways(config)
        with pytest.raises(UserError, match=r"trl-liger-lora needs liger-kernel and a GPU; install it where a GPU is"):
            choose_ways(asked)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert LIGER_WAY in choose_ways(config)
    assert choose_ways(asked) == [LIGER_WAY]


@pytest.mark.parametrize(
    ("gpu", "tflops"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-40GB", 312),
    ],
)
def test_the_peak_of_a_known_gpu_is_looked_up(gpu, tflops):
    assert look_up_peak(gpu) == {"bfloat16": tflops * 1e3}


def test_the_peak_of_other_gpus_is_what_is_given():
    assert look_up_peak("NVIDIA GeForce RTX 4090") == {}
    assert find_peak(165.0) == {"given": 165_000.0}


def test_the_sizes_of_llama_1b_have_its_weights():
    sizes = benchmark_causal_lm.LLAMAS["1b"]
    tokenizer = benchmark_causal_lm.train_tokenizer(PLAY, sizes)
    with torch.device("meta"):
        model = benchmark_causal_lm.build_llama(tokenizer, sizes)
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_235_814_400


def test_a_mistake_in_the_data_ends_the_benchmark(tmp_path):
    config = BenchmarkConfig(data=LabelledTextData(train_file=str(tmp_path / "gone.csv")))
    with pytest.raises(UserError, match=r"gone\.csv"):
        time_way("peft-dynamic", config)


def test_the_answer_of_a_way_is_plain_data(play):
    config = BenchmarkConfig(what="causal-lm", llama="tiny", rows=40, data=play)
    assert json.loads(json.dumps(WAYS["causal-lm"]["ours"](config, 0.0)))["accuracy"] is None
