"""Answering the rows of a file or a pipe with a finished run's model."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from startup_llm.config import (
    DEFAULT_TASK,
    AnswerConfig,
    ModelConfig,
    NewRowsConfig,
    PredictConfig,
    ServeConfig,
    SpeedConfig,
)
from startup_llm.data.row_source import FileOptions, RowSource
from startup_llm.data.row_target import RowTarget
from startup_llm.data.rows_to_predict import Questions
from startup_llm.data.text_reading import AS_IT_STANDS, TextReading
from startup_llm.errors import UserError
from startup_llm.evaluation.decisions import Decision
from startup_llm.evaluation.label_thresholds import read_label_thresholds
from startup_llm.evaluation.out_of_scope import read_detector
from startup_llm.models.unit_vectors import scale_to_norm_one
from startup_llm.run_folder import find_model, follow_link
from startup_llm.runs.explanations import Explainer, check_explained
from startup_llm.runs.llama_cpp import GGUF_FILE, holds_gguf
from startup_llm.runs.onnx_model import ONNX_FILE, OnnxModel, holds_onnx
from startup_llm.tasks import load_task
from startup_llm.tasks.prediction import append_scope

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch

    from startup_llm.models.checkpoints import Checkpoint
    from startup_llm.runs.drift import StatisticsLog
    from startup_llm.tasks.base import Task
    from startup_llm.training.speed import SpeedPlan


Config = TypeVar("Config", NewRowsConfig, PredictConfig, ServeConfig)

WRITING_OPTIONS = ("stop", "samples", "temperature", "seed")


@dataclass(frozen=True)
class PredictionFiles:
    """What is read and written.

    Attributes:
        task: The run's task.
        model: Folder of its model.
        questions: Rows to answer.
        source: Where they come from.
        target: Where the answers go.
    """

    task: Task
    model: Path
    questions: Questions
    source: RowSource
    target: RowTarget


def find_run(config: NewRowsConfig | ServeConfig) -> tuple[Task, Path, dict[str, Any]]:
    """Return a run's task, the folder of its model, and its results; empty ones for a plain checkpoint.

    Raises:
        UserError: If there is no such run.
    """
    model, results = find_model(config.run)
    return load_task(results.get("task", config.task)), model, results


def list_trained_columns(task: Task, results: Mapping[str, Any]) -> dict[str, str | None]:
    """Return by what a row holds the column that the run was trained on, or None where that is not known."""
    named = results.get("config", {}).get("data", {})
    found = (results.get("data") or {}).get("columns") or {}
    options = {name: f"{name}_column" for name in task.predictor.columns}
    return {name: named.get(option) or found.get(option) for name, option in options.items()}


def follow_run(config: Config) -> Config:
    """Return a config whose run is the folder that a link such as runs/production leads to now."""
    return replace(config, run=str(follow_link(config.run)))


def check_writing_options(config: PredictConfig, task: Task) -> None:
    """Refuse options of models that write texts for one that writes none.

    Raises:
        UserError: If one is given.
    """
    defaults = {part.name: part.default for part in fields(PredictConfig)} | {"stop": []}
    for name in WRITING_OPTIONS:
        if (value := getattr(config, name)) != defaults[name] and not task.predictor.samples_texts:
            raise UserError(f"{name} {value}: {task.tag} draws no texts; leave it out")


def open_files(config: PredictConfig) -> PredictionFiles:
    """Find the run and open the input, before anything that takes time.

    Raises:
        UserError: If there is no such run or input, or the output exists.
    """
    task, model, results = find_run(config)
    check_writing_options(config, task)
    if config.explain:
        check_explained(task)
    if config.input is None or config.output is None:
        raise UserError("expected --input FILE and --output FILE, or --text TEXT")
    source, questions = open_questions(config.input, config, task, results)
    target = RowTarget(config.output, config.output_format, source, overwrite=config.overwrite, raw=config.raw)
    return PredictionFiles(task, model, questions, source, target)


def open_questions(
    path: str, config: NewRowsConfig, task: Task, results: Mapping[str, Any]
) -> tuple[RowSource, Questions]:
    """Open the rows that a run's model is to answer.

    Args:
        path: Their file or folder; - for stdin.
        config: How they are read.
        task: The run's task.
        results: The run's; empty for a plain checkpoint.

    Raises:
        UserError: If there is no such file, or a column is named for what no row holds.
    """
    options = FileOptions(config.quoting, config.encoding, config.sheet, config.query, prefix="--")
    source = RowSource(path, config.input_format, config.piece_rows, options)
    if source.format == "folder" and not task.predictor.reads_files:
        raise UserError(f"{path} is a folder, expected a file: {task.tag} reads its rows")
    return source, Questions(
        source,
        task.predictor.columns,
        task.predictor.find_fault,
        columns=config.columns,
        trained_columns=list_trained_columns(task, results),
        reading=TextReading.of_results(results),
        files=task.predictor.reads_files,
        skip_bad=config.skip_bad,
    )


@dataclass(frozen=True)
class AnswersWithFeatures:
    """Answers to rows and what they were computed from.

    Attributes:
        answers: As predict.py writes them.
        outputs: The model's, shape (rows, outputs).
        features: What its output layer read, shape (rows, width).
        lengths: What each row costs, in tokens, patches or frames.
    """

    answers: list[dict[str, Any]]
    outputs: np.ndarray
    features: np.ndarray
    lengths: list[int]


@dataclass(frozen=True)
class AnsweringModel:
    """A model with all that answers rows.

    Attributes:
        task: Its task.
        model: On the plan's device, in evaluation mode.
        processor: What turns rows into its inputs.
        checkpoint: Where it came from.
        plan: How to compute here.
        reading: How the run makes texts of columns, which `answer` does too.
        log: Takes the statistics of the rows that are answered; None where none are asked for.
        explainer: Explains the answers; None where that is not asked for.
    """

    task: Task
    model: Any
    processor: Any
    checkpoint: Checkpoint
    plan: SpeedPlan
    reading: TextReading = AS_IT_STANDS
    log: StatisticsLog | None = None
    explainer: Explainer | None = None

    @property
    def note(self) -> str | None:
        """What the explanations lack, if any are made."""
        return self.explainer.note if self.explainer else None

    def example(self) -> dict[str, Any]:
        """Return an answer with every key and no empty list, which tells a table's columns and their types."""
        answer = self.task.predictor.example(self.model.config)
        return {**answer, **self.explainer.example()} if self.explainer else answer

    def read_texts(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return a row as it is answered: its text made of the run's columns, and cleaned as the run does."""
        return {name: values[0] for name, values in self.reading.read({key: [row[key]] for key in row}).items()}

    def compute(self, encoded: Any) -> list[Any]:
        """Return the model's output for each encoded row; every process computes its part."""
        from startup_llm.training.inference import predict_answers

        return predict_answers(self.task, self.model, encoded, self.processor, self.plan)

    def answer(self, columns: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
        """Return the answers to rows, given by column."""
        return self.answer_with_scores(columns)[0]

    def answer_with_scores(
        self, columns: Mapping[str, list[Any]]
    ) -> tuple[list[dict[str, Any]], list[dict[str, float]] | None]:
        """Return the answers to rows, given by column, and each label's probability where the task labels rows."""
        import datasets

        rows = datasets.Dataset.from_dict(self.reading.read(columns))
        if not rows:
            return [], []
        predictor, config = self.task.predictor, self.model.config
        if self.log is not None:
            answered = self.answer_with_features(columns)
            answers, outputs = answered.answers, list(answered.outputs)
            self.log.add(rows[:], answers, answered.lengths, answered.features)
        else:
            encoded = predictor.encode(rows, self.processor)
            outputs = self.compute(encoded)
            answers = predictor.answer(outputs, encoded, rows, self.processor, config)
        if self.explainer is not None:
            answers = self.explainer.explain(rows, answers)
        return answers, predictor.score_labels(outputs, config)

    def answer_with_features(self, columns: Mapping[str, list[Any]]) -> AnswersWithFeatures:
        """Return the answers to rows, given by column, with what they were computed from."""
        import datasets

        rows = datasets.Dataset.from_dict(self.reading.read(columns))
        encoded = self.task.predictor.encode(rows, self.processor)
        outputs, features = self.compute_with_features(encoded)
        scoped = append_scope(self.model, list(outputs), features)
        answers = self.task.predictor.answer(scoped, encoded, rows, self.processor, self.model.config)
        return AnswersWithFeatures(answers, outputs, features, list(encoded["length"]))

    def compute_with_features(self, encoded: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return of each encoded row the model's output, shape (rows, outputs), and what its output layer read."""
        from startup_llm.training.inference import predict_with_features

        pairs = predict_with_features(self.task, self.model, encoded, self.processor, self.plan)
        outputs, features = zip(*pairs, strict=True)
        return np.stack(outputs), np.stack(features)

    def embed(self, texts: list[str]) -> tuple[np.ndarray, list[int]]:
        """Return the vectors of texts at norm 1, shape (texts, width), and how many tokens were read of each.

        The texts are cleaned as the run does.
        """
        return self.compute_vectors(self.reading.read({"text": texts})["text"])

    def compute_vectors(self, texts: Sequence[str]) -> tuple[np.ndarray, list[int]]:
        """Return what `embed` does, of texts as they stand."""
        import datasets

        encoded = self.task.encode(datasets.Dataset.from_dict({"text": list(texts)}), self.processor)[0]
        return scale_to_norm_one(np.asarray(self.compute(encoded))), list(encoded["length"])

    def show_answer(self, text: str, write: Callable[[str], object]) -> None:
        """Write the answer to one text, in one piece or several.

        Raises:
            UserError: If it cannot be answered.
        """
        with self.plan.autocast():
            self.task.predictor.show_answer(text, self.model.eval(), self.processor, write, self.compute)

    def describe(self) -> str:
        """Return the model's name, and the type of numbers that it computes in."""
        return f"model {self.checkpoint.name}, {self.plan.compute_dtype}"


@dataclass(frozen=True)
class OnnxPlan:
    """How an exported model computes: its weights' type, on the CPU."""

    compute_dtype: str
    device: str = "cpu"


class ExportedModel(AnsweringModel):
    """A model in ONNX form, which answers without torch."""

    def answer_with_scores(
        self, columns: Mapping[str, list[Any]]
    ) -> tuple[list[dict[str, Any]], list[dict[str, float]] | None]:
        """Return the answers to rows, given by column, and each label's probability where the task labels rows."""
        rows = self.reading.read(columns)
        if not len(rows["text"]):
            return [], []
        return self.task.predictor.answer_exported(self.model, rows, self.model.config)

    def compute_vectors(self, texts: Sequence[str]) -> tuple[np.ndarray, list[int]]:
        """Return the vectors of texts at norm 1, shape (texts, width), and how many tokens were read of each."""
        encodings = self.model.tokenize(texts)
        vectors = scale_to_norm_one(np.stack(self.model.compute_encodings(encodings)))
        return vectors, [len(encoding.ids) for encoding in encodings]

    def show_answer(self, text: str, write: Callable[[str], object]) -> None:
        """Write the answer to one text.

        Raises:
            UserError: If it cannot be answered.
        """
        if fault := self.task.predictor.find_fault("text", text):
            raise UserError(f"--text {fault}")
        write(json.dumps(self.answer({"text": [text]})[0], ensure_ascii=False) + "\n")


def load_exported_model(task: Task, folder: Path, reading: TextReading = AS_IT_STANDS) -> ExportedModel:
    """Load a model in ONNX form.

    Args:
        task: Its task.
        folder: Of the model.
        reading: How texts are made of columns.

    Raises:
        UserError: If it cannot be loaded.
    """
    from startup_llm.models.checkpoints import Checkpoint
    from startup_llm.models.hashes import compute_sha256

    model = OnnxModel(folder)
    Decision.read(model.config)  # refused before rows are read
    checkpoint = Checkpoint(str(folder), folder, "local folder", None, compute_sha256([folder / ONNX_FILE]), None)
    plan: Any = OnnxPlan(model.weights)
    return ExportedModel(task, model, None, checkpoint, plan, reading)


def load_exported_run(run: str | Path, task: str | None = None) -> ExportedModel:
    """Load an export to answer rows: `load_exported_run(FOLDER).answer({"text": ["a text"]})`.

    Args:
        run: The folder that recipes/export.py made, or the one of the model in it.
        task: Its Hub pipeline tag, where no results lie there that say it.

    Raises:
        UserError: If it holds no export.
    """
    folder, results = find_model(run)
    if not holds_onnx(folder):
        raise UserError(f"{run} holds no export with {ONNX_FILE}; make one with recipes/export.py")
    reading = TextReading.of_results(results)
    return load_exported_model(load_task(results.get("task", task or DEFAULT_TASK)), folder, reading)


def load_run_model(run: str | Path) -> AnsweringModel:
    """Load a run, or an export in ONNX form, to answer rows or to embed texts, in float32.

    Args:
        run: Its folder, or the one of the model in it.

    Raises:
        UserError: If the folder holds no model for its task.
    """
    config = ServeConfig(run=str(run), compute_dtype="float32")
    return load_answering_model(config, *find_run(config)[:2])


def load_answering_model(
    config: NewRowsConfig | ServeConfig, task: Task, folder: Path, device: torch.device | None = None
) -> AnsweringModel:
    """Load a run's model; the main process checks it for all.

    Args:
        config: How to compute, and how much a model writes.
        task: The run's task.
        folder: The model's.
        device: Where the model goes; default the one that this process computes on.

    Raises:
        UserError: If the folder holds no model for the task, or an option asks for what it does not do.
    """
    results = find_model(folder)[1]
    reading = TextReading.of_results(results)
    if holds_onnx(folder):
        looks_inside = not isinstance(config, AnswerConfig)
        if looks_inside or any(getattr(config, option, None) for option in ("explain", "log_statistics")):
            raise UserError(
                f"{config.run} is an export: it answers, and shows nothing of its layers, which explanations and "
                "statistics of rows are made of; name the run that it was made from"
            )
        return load_exported_model(task, folder, reading)
    if holds_gguf(folder):
        raise UserError(
            f"{config.run} holds {GGUF_FILE}, which llama.cpp answers by: chat with recipes/serve.py --chat --run "
            f"{config.run}, or name the run that it was made from"
        )
    from startup_llm.models.checkpoints import check_head, load_checkpoint
    from startup_llm.models.pretrained import load_config
    from startup_llm.runs.drift import open_log
    from startup_llm.training.processes import call_on_main_process, hide_library_bars, join_processes
    from startup_llm.training.speed import plan_speed, use_plan
    from startup_llm.training.trained_model import load_trained_processor

    hide_library_bars()
    log, saved = open_log(config, task), task.saved_model
    checkpoint = call_on_main_process(lambda: load_checkpoint(ModelConfig(checkpoint=str(folder))))
    path = str(checkpoint.path)
    if not saved.has_own_format(path):
        call_on_main_process(lambda: load_config(checkpoint, trust_remote_code=False))
        call_on_main_process(lambda: check_head(checkpoint, saved.find_auto_class(path)))
    processor = load_trained_processor(task, checkpoint)
    model = saved.load_whole(path, checkpoint.name).to(device or join_processes().device)
    Decision.read(model.config)  # refused before rows are read
    read_label_thresholds(model.config)
    model.out_of_scope = read_detector(model.config, checkpoint.path)
    if (max_new_tokens := getattr(config, "max_new_tokens", None)) is not None:
        if not hasattr(model, "generation_config"):
            raise UserError(f"max_new_tokens {max_new_tokens}: {task.tag} writes nothing; leave it out")
        model.generation_config.max_new_tokens = max_new_tokens
    dtype = None if config.compute_dtype == "auto" else config.compute_dtype
    plan = call_on_main_process(lambda: plan_speed(SpeedConfig(compute_dtype=dtype)))
    use_plan(plan, SpeedConfig())
    loaded = AnsweringModel(task, model, processor, checkpoint, plan, reading, log)
    if not getattr(config, "explain", False):
        return loaded
    return replace(loaded, explainer=Explainer(loaded, results))


def show_answer(config: PredictConfig, device: torch.device, write: Callable[[str], object]) -> None:
    """Answer the text that the config gives.

    Args:
        config: The text, the run, and how it is answered.
        device: Where the model goes.
        write: Takes the answer, in one piece or several.

    Raises:
        UserError: If it cannot be answered, or rows are given as well.
    """
    if config.input is not None or config.output is not None:
        raise UserError("--text answers one text on stdout; leave out --input and --output, or --text")
    task, folder, _ = find_run(config)
    check_writing_options(config, task)
    if config.explain:
        check_explained(task)
    model = load_answering_model(config, task, folder, device)
    if model.explainer is not None:
        write(json.dumps(model.answer({"text": [config.text]})[0], ensure_ascii=False) + "\n")
        return
    task.predictor.prepare(config, Path(config.run), model.processor, lambda texts: model.compute_vectors(texts)[0])
    model.show_answer(config.text or "", write)
