"""The forms that a run's model is exported to."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.errors import UserError
from startup_llm.export import gguf_files, onnx_files, timing
from startup_llm.export.proof import RUN, MeasuredModel, Source, measure_by_torch
from startup_llm.plain_data import read_json_object
from startup_llm.runs.llama_cpp import GGUF_FILE, has_llama_cpp
from startup_llm.runs.onnx_model import OnnxModel
from startup_llm.runs.prediction import AnsweringModel, load_exported_model, load_run_model

if TYPE_CHECKING:
    from startup_llm.config import ExportConfig
    from startup_llm.tasks.base import Task


class Format(ABC):
    """A form that a run's model is exported to.

    Attributes:
        library: What loads it.
        quantizations: How its weights may be quantized, the default first; empty where there is no choice.
    """

    library: str
    quantizations: tuple[str, ...] = ()

    @abstractmethod
    def require_packages(self) -> None:
        """Refuse to export without the packages of the extra.

        Raises:
            UserError: If one is missing.
        """

    @abstractmethod
    def writes(self, task: Task) -> bool:
        """Return whether a task's models have this form."""

    @abstractmethod
    def write_load_code(self, task: Task) -> str:
        """Return Python that asks a model from the Hub repository REPOSITORY."""

    @abstractmethod
    def check_model(self, source: Source) -> None:
        """Refuse a model that cannot be written, before anything that takes time.

        Raises:
            UserError: If it cannot.
        """

    def choose_name(self, name: str, quantization: str | None) -> str:
        """Return what the export is called beside its run."""
        return name

    @abstractmethod
    def write(self, source: Source, model: Any, processor: Any, folder: Path, config: ExportConfig) -> None:
        """Write a model into an empty folder.

        Args:
            source: The run.
            model: Its model, in float32.
            processor: What encodes its rows.
            folder: The export's `model`.
            config: With the quantization chosen.

        Raises:
            UserError: If it cannot be written.
        """

    @abstractmethod
    def measure(self, source: Source, folder: Path, name: str, own: MeasuredModel) -> MeasuredModel:
        """Load what was written, and compute its outputs for the test rows.

        Raises:
            UserError: If it does not read rows as the run does.
        """

    @abstractmethod
    def time(self, source: Source, folder: Path, name: str) -> dict[str, dict[str, Any]]:
        """Return the times of the run and of the export, by their names."""

    @abstractmethod
    def describe_speed(self, models: Mapping[str, Any], name: str) -> str:
        """Return the sentence about size and speed."""

    @abstractmethod
    def describe_timing(self) -> str:
        """Return how the times were measured."""


@dataclass(frozen=True)
class OnnxFormat(Format):
    """ONNX for onnxruntime, its weights float32 or int8; it needs no torch."""

    weights: str
    quantizations: tuple[str, ...] = ()

    library = "onnx"

    def require_packages(self) -> None:
        """Refuse to export without onnx, onnxruntime and onnxscript."""
        onnx_files.require_packages()

    def writes(self, task: Task) -> bool:
        """Return whether the task's answers are made of an export's outputs without torch."""
        return task.predictor.exported

    def write_load_code(self, task: Task) -> str:
        """Ask it without torch."""
        needed = "numpy, tokenizers and onnxruntime alone"
        ask = 'answers = model.answer({"text": ["a text"]})'
        return (
            "from huggingface_hub import snapshot_download\n"
            f"from startup_llm.runs.prediction import load_exported_run  # needs {needed}\n"
            "\n"
            'model = load_exported_run(snapshot_download("REPOSITORY"))\n'
            + ('vectors, tokens = model.embed(["a text"])' if task.predictor.embeds else ask)
        )

    def check_model(self, source: Source) -> None:
        """Refuse none: what torch.onnx cannot export shows when it does."""

    def write(self, source: Source, model: Any, processor: Any, folder: Path, config: ExportConfig) -> None:
        """Write the graph, the tokenizer, labels and decision; quantize the weights where they are int8."""
        onnx_files.write_onnx(source.task, model.to("cpu"), processor, folder, self.weights)
        onnx_files.copy_decision(source.folder, folder)
        if self.weights == "int8":
            onnx_files.quantize(folder, config.quantization, _list_batches(source, folder, config))

    def measure(self, source: Source, folder: Path, name: str, own: MeasuredModel) -> MeasuredModel:
        """Compute by onnxruntime."""
        exported, predictor = load_exported_model(source.task, folder), source.task.predictor
        outputs, encoded = predictor.compute_exported(exported.model, predictor.list_questions(source.data))
        return MeasuredModel(name, folder, exported.checkpoint.weights_sha256, exported.model.config, outputs, encoded)

    def time(self, source: Source, folder: Path, name: str) -> dict[str, dict[str, Any]]:
        """Time the run by transformers' pipeline, or where there is none as predict.py computes, and the export."""
        predictor = source.task.predictor
        columns = predictor.list_questions(source.data)
        if predictor.embeds:
            columns = {"text": columns["text"]}
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        timed = [_time_own(source), _time_export(source, folder)]
        answers = timing.time_answers(dict(zip((RUN, name), (each.answer for each in timed), strict=True)), rows)
        return {
            key: {**timing.time_first_answer(each.program), **answers[key], "computed_by": each.computed_by}
            for key, each in zip((RUN, name), timed, strict=True)
        }

    def describe_speed(self, models: Mapping[str, Any], name: str) -> str:
        """Compare rows a second with the pipeline's."""
        faster, own = models[name]["times_faster"], models[RUN]["computed_by"]
        own = "transformers' pipeline" if own == "pipeline" else f"the run by {own}"
        return (
            f"answers {faster['one_row']:.1f} times as many rows a second as {own} one by one, "
            f"{faster['best_batch']:.1f} times as many at the best batch of either"
        )

    def describe_timing(self) -> str:
        """Return how rows were timed."""
        return (
            f"Timed in turns on {len(os.sched_getaffinity(0))} cores in one process, medians of {timing.ROUNDS} "
            f"rounds: the first {timing.ALONE_ROWS} test rows one by one, and {timing.TIMED_ROWS} rows so many at "
            "once, from text to answer. Import, loading and first answer: medians of "
            f"{timing.COLD_STARTS} new processes."
        )


@dataclass(frozen=True)
class _Timed:
    """What is timed: a new process until its first answer, and answers to rows in this one."""

    computed_by: str
    program: timing.Program
    answer: timing.Answer


def _time_own(source: Source) -> _Timed:
    """Return transformers' pipeline on the run; where the task has none, the run's model as predict.py computes."""
    saved, tag = source.task.saved_model, source.task.tag
    if saved.load_code is not None:
        load = f"load_run_model({str(source.folder)!r})"
        return _time_model(load_run_model(source.folder), "predict.py", load)
    from transformers import pipeline

    arguments = dict(saved.pipeline_arguments)
    ask = pipeline(tag, model=str(source.folder), dtype="float32", device="cpu", **arguments)
    further = "".join(f", {key}={value!r}" for key, value in arguments.items())

    def answer(asked: Sequence[Any], size: int) -> object:
        given = [_join_words(row["text"]) if set(row) == {"text"} else row for row in asked]
        return ask(given, batch_size=size, **saved.pipeline_call_arguments)

    program = {
        "imports": "from transformers import pipeline",
        "load": f"pipeline({tag!r}, model={str(source.folder)!r}, device='cpu'{further})",
        "answer": "model('a first text')",
    }
    return _Timed("pipeline", program, answer)


def _time_export(source: Source, folder: Path) -> _Timed:
    load = f"load_exported_run({str(folder)!r}, {source.task.tag!r})"
    return _time_model(load_exported_model(source.task, folder), "onnxruntime", load)


def _time_model(model: AnsweringModel, computed_by: str, load: str) -> _Timed:
    """Return a model of this package: its answers, or the vectors that it makes."""
    embeds = model.task.predictor.embeds

    def answer(asked: Sequence[Any], size: int) -> None:
        for start in range(0, len(asked), size):
            columns = {key: [row[key] for row in asked[start : start + size]] for key in asked[0]}
            if embeds:
                model.embed(columns["text"])
            else:
                model.answer(columns)

    program = {
        "imports": "from startup_llm.runs.prediction import load_exported_run, load_run_model",
        "load": load,
        "answer": "model.embed(['a first text'])" if embeds else "model.answer({'text': ['a first text']})",
    }
    return _Timed(computed_by, program, answer)


def _join_words(text: str | Sequence[str]) -> str:
    return text if isinstance(text, str) else " ".join(text)


def _list_batches(source: Source, folder: Path, config: ExportConfig) -> list[dict[str, Any]]:
    """Return inputs of training rows, by which a static quantization sets its ranges."""
    if config.quantization != "static":
        return []
    predictor, model = source.task.predictor, OnnxModel(folder)
    columns = predictor.list_questions(source.data, "train")
    rows = len(next(iter(columns.values())))
    chosen = np.random.default_rng(0).permutation(rows)[: config.calibration_rows]
    some = {name: [values[row] for row in chosen] for name, values in columns.items()}
    encodings, _ = predictor.encode_exported(model, some)
    return [model.pad([encoding]) for encoding in encodings]


class GgufFormat(Format):
    """One GGUF file with weights, tokenizer and chat template, which llama.cpp computes and transformers reads."""

    library = "gguf"
    quantizations = tuple(gguf_files.FILE_TYPES)

    def require_packages(self) -> None:
        """Refuse to export without gguf."""
        gguf_files.require_packages()

    def writes(self, task: Task) -> bool:
        """Return whether the task's models are causal language models."""
        return task.saved_model.auto_class == "AutoModelForCausalLM"

    def write_load_code(self, task: Task) -> str:
        """Load it by transformers; llama.cpp takes the file as it is."""
        return (
            "from transformers import AutoModelForCausalLM, AutoTokenizer  # llama.cpp takes model.gguf as it is\n"
            "\n"
            'tokenizer = AutoTokenizer.from_pretrained("REPOSITORY")\n'
            f'model = AutoModelForCausalLM.from_pretrained("REPOSITORY", gguf_file="{GGUF_FILE}")'
        )

    def check_model(self, source: Source) -> None:
        """Refuse other architectures, and rows whose metrics need the model before tuning as well."""
        from transformers import AutoConfig

        from startup_llm.tasks.text_generation.chat import Feedback, Preferences, find_form

        gguf_files.check_config(f"run {source.run}", AutoConfig.from_pretrained(source.folder))
        if isinstance(find_form(source.data.splits["test"].column_names), (Preferences, Feedback)):
            raise UserError(
                f"run {source.run} was tuned on judged answers, which measure it against the model before, and that "
                "is not in its folder; fine-tune that model with recipes/finetune.py on conversations"
            )

    def choose_name(self, name: str, quantization: str | None) -> str:
        """Name the quantization too."""
        return f"{name}-{quantization}"

    def write(self, source: Source, model: Any, processor: Any, folder: Path, config: ExportConfig) -> None:
        """Write the file, and beside it what transformers reads of a tokenizer and a config."""
        gguf_files.write_gguf(model, processor, folder, config.quantization, source.run.name)

    def measure(self, source: Source, folder: Path, name: str, own: MeasuredModel) -> MeasuredModel:
        """Load the file with transformers, tokenizer and chat template too, and compute in float32."""
        from startup_llm.models.hashes import compute_sha256

        model, tokenizer = gguf_files.load_gguf(folder)
        tokenizer.model_max_length = source.task.saved_model.load_processor(str(source.folder)).model_max_length
        measured = measure_by_torch(source, model, tokenizer, name, folder, compute_sha256([folder / GGUF_FILE]))
        rows = zip(own.encoded["input_ids"], measured.encoded["input_ids"], strict=False)
        differ = sum(list(ours) != list(theirs) for ours, theirs in rows)
        if differ or len(own.encoded) != len(measured.encoded):
            raise UserError(
                f"the tokenizer in {folder / GGUF_FILE} cuts {differ:,} of {len(own.encoded):,} encoded test rows "
                "otherwise than the run's own; GGUF cannot say how it cuts, so choose another checkpoint"
            )
        return measured

    def time(self, source: Source, folder: Path, name: str) -> dict[str, dict[str, Any]]:
        """Time the run by transformers, and the file by llama.cpp, or where that is missing by transformers too."""
        limit = read_json_object(source.folder / "config.json")["max_position_embeddings"]
        tokens = min(timing.WRITTEN_TOKENS, limit // 2)
        by_llama_cpp = {
            "imports": "from startup_llm.runs.llama_cpp import LlamaCppModel",
            "load": f"LlamaCppModel({str(folder / GGUF_FILE)!r})",
            "answer": "model.complete('a first text', 1)",
            "write": f"model.complete('another text', {tokens}, ends=False)",
        }
        programs = {
            RUN: _build_writing_program(source.folder, "", tokens),
            name: by_llama_cpp
            if has_llama_cpp()
            else _build_writing_program(folder, f", gguf_file={GGUF_FILE!r}", tokens),
        }
        return {
            key: {**timing.time_first_answer(program, tokens), "computed_by": _name_runtime(program)}
            for key, program in programs.items()
        }

    def describe_speed(self, models: Mapping[str, Any], name: str) -> str:
        """Compare tokens a second."""
        own, export = models[RUN], models[name]
        return (
            f"writes {export['tokens_per_second']:,.0f} tokens a second by {export['computed_by']}, the run "
            f"{own['tokens_per_second']:,.0f} by {own['computed_by']}"
        )

    def describe_timing(self) -> str:
        """Return how tokens were timed, and what the figures of the file are computed by."""
        return (
            f"Metrics: of the file as transformers loads it, in float32. Times: on {len(os.sched_getaffinity(0))} "
            f"cores, medians of {timing.COLD_STARTS} new processes that import, load, answer and then write "
            f"{timing.WRITTEN_TOKENS} tokens after a short text."
        )


def _build_writing_program(folder: Path, how: str, tokens: int) -> dict[str, str]:
    load = (
        f"(AutoTokenizer.from_pretrained({str(folder)!r}), "
        f"AutoModelForCausalLM.from_pretrained({str(folder)!r}, dtype='float32'{how}))"
    )
    write = (
        "model[1].generate(**model[0]({!r}, return_tensors='pt'), do_sample=False, min_new_tokens={n}, "
        "max_new_tokens={n})"
    )
    return {
        "imports": "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "load": load,
        "answer": write.format("a first text", n=1),
        "write": write.format("another text", n=tokens),
    }


def _name_runtime(program: timing.Program) -> str:
    return "llama.cpp" if "LlamaCppModel" in program["load"] else "transformers"


FORMATS: dict[str, Format] = {
    "onnx": OnnxFormat("float32"),
    "onnx-int8": OnnxFormat("int8", ("dynamic", "static")),
    "gguf": GgufFormat(),
}
NOT_WRITTEN = {
    "openvino": "onnxruntime computes the same int8 weights without a second runtime",
    "static": "a table of word vectors is another model, not a form of this one: train one and compare the runs",
    "torch": "a torch.export program needs torch to answer, as the run itself does",
}
"""Formats that are asked for elsewhere, and why they are not written here."""
