"""Answering the rows of a file or a pipe with a finished run's model."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.config import AnswerConfig, ModelConfig, PredictConfig, SpeedConfig
from startup_llm.data.row_source import FileOptions, RowSource
from startup_llm.data.row_target import RowTarget
from startup_llm.data.rows_to_predict import Questions
from startup_llm.data.text_reading import AS_IT_STANDS, TextReading
from startup_llm.errors import UserError
from startup_llm.evaluation.decisions import Decision
from startup_llm.plain_data import read_json_object
from startup_llm.run_folder import find_model
from startup_llm.tasks import load_task

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch

    from startup_llm.models.checkpoints import Checkpoint
    from startup_llm.tasks.base import Task
    from startup_llm.training.speed import SpeedPlan


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


def find_run(config: AnswerConfig) -> tuple[Task, Path, dict[str, Any]]:
    """Return a run's task, the folder of its model, and its results; empty ones for a plain checkpoint.

    Raises:
        UserError: If there is no such run.
    """
    model, results = find_model(config.run)
    return load_task(results.get("task", config.task)), model, results


def list_trained_columns(task: Task, results: Mapping[str, Any]) -> dict[str, str | None]:
    """Return by what a row holds the column that the run's config names for it, or None."""
    trained = results.get("config", {}).get("data", {})
    return {name: trained.get(f"{name}_column") for name in task.predictor.columns}


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
    if config.input is None or config.output is None:
        raise UserError("expected --input FILE and --output FILE, or --text TEXT")
    options = FileOptions(config.quoting, config.encoding, config.sheet, config.query, prefix="--")
    source = RowSource(config.input, config.input_format, config.piece_rows, options)
    if source.format == "folder" and not task.predictor.reads_files:
        raise UserError(f"{config.input} is a folder, expected a file: {task.tag} reads its rows")
    target = RowTarget(config.output, config.output_format, source, overwrite=config.overwrite, raw=config.raw)
    questions = Questions(
        source,
        task.predictor.columns,
        task.predictor.find_fault,
        columns=config.columns,
        trained_columns=list_trained_columns(task, results),
        reading=TextReading.of_config(results.get("config", {}).get("data", {})),
        files=task.predictor.reads_files,
        skip_bad=config.skip_bad,
    )
    return PredictionFiles(task, model, questions, source, target)


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
    """

    task: Task
    model: Any
    processor: Any
    checkpoint: Checkpoint
    plan: SpeedPlan
    reading: TextReading = AS_IT_STANDS

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
        encoded = predictor.encode(rows, self.processor)
        outputs = self.compute(encoded)
        answers = predictor.answer(outputs, encoded, rows, self.processor, config)
        return answers, predictor.score_labels(outputs, config)

    def embed(self, texts: list[str]) -> tuple[np.ndarray, list[int]]:
        """Return the vectors of texts at norm 1, shape (texts, width), and how many tokens were read of each."""
        import datasets

        encoded = self.task.encode(datasets.Dataset.from_dict(self.reading.read({"text": texts})), self.processor)[0]
        vectors = np.asarray(self.compute(encoded))
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12), list(encoded["length"])

    def describe(self) -> str:
        """Return the model's name, and the type of numbers that it computes in."""
        return f"model {self.checkpoint.name}, {self.plan.compute_dtype}"


def load_answering_model(config: AnswerConfig, task: Task, folder: Path, device: torch.device) -> AnsweringModel:
    """Load a run's model; the main process checks it for all.

    Args:
        config: How to compute, and how much a model writes.
        task: The run's task.
        folder: The model's.
        device: Where the model goes.

    Raises:
        UserError: If the folder holds no model for the task, or an option asks for what it does not do.
    """
    from startup_llm.models.checkpoints import check_head, load_checkpoint
    from startup_llm.models.pretrained import load_config
    from startup_llm.training.processes import call_on_main_process, hide_library_bars
    from startup_llm.training.speed import plan_speed, use_plan
    from startup_llm.training.trained_model import load_trained_processor

    hide_library_bars()
    saved = task.saved_model
    checkpoint = call_on_main_process(lambda: load_checkpoint(ModelConfig(checkpoint=str(folder))))
    path = str(checkpoint.path)
    if not saved.has_own_format(path):
        call_on_main_process(lambda: load_config(checkpoint, trust_remote_code=False))
        call_on_main_process(lambda: check_head(checkpoint, saved.find_auto_class(path)))
    processor = load_trained_processor(task, checkpoint)
    model = saved.load_whole(path, checkpoint.name).to(device)
    if saved.has_own_format(path):  # whose loader builds a config of its own
        model.config.decision = read_json_object(checkpoint.path / "config.json").get("decision")
    Decision.read(model.config)  # refused before rows are read
    if config.max_new_tokens is not None:
        if not hasattr(model, "generation_config"):
            raise UserError(f"max_new_tokens {config.max_new_tokens}: {task.tag} writes nothing; leave it out")
        model.generation_config.max_new_tokens = config.max_new_tokens
    dtype = None if config.compute_dtype == "auto" else config.compute_dtype
    plan = call_on_main_process(lambda: plan_speed(SpeedConfig(compute_dtype=dtype)))
    use_plan(plan, SpeedConfig())
    reading = TextReading.of_config(find_model(config.run)[1].get("config", {}).get("data", {}))
    return AnsweringModel(task, model, processor, checkpoint, plan, reading)


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
    model = load_answering_model(config, task, folder, device)
    task.predictor.prepare(config, Path(config.run), model.processor, model.compute)
    with model.plan.autocast():
        task.predictor.show_answer(config.text or "", model.model.eval(), model.processor, write, model.compute)
