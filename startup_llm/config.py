"""The configuration of a run: small frozen dataclasses, one YAML, dotted overrides.

The string under each field is its documentation and its `--help`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args

from startup_llm.errors import UserError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

DEFAULT_DATASET = "helpdesk"
"""Shipped dataset that is used where neither a dataset nor a file nor a folder is named."""

DEFAULT_TASK = "text-classification"
"""Hub pipeline tag of the task where none is named."""

DEFAULT_RUNGS = (
    "majority", "tfidf-linear-svm", "dnn", "transformer", "linear-probe", "ganbert", "lora", "full"
)  # fmt: skip
"""What recipes/compare.py compares where nothing else is said."""

Section = TypeVar("Section", bound="DataclassInstance")

ScopeScore = Literal["auto", "softmax", "energy", "nearest", "mahalanobis", "reject-class", "nearest+reject-class"]
ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]


@dataclass(frozen=True)
class Range:
    """The numbers that a field takes, written beside its type: `Annotated[int, Range(1)]`.

    Attributes:
        least: Smallest number.
        most: Largest number.
        above: Number that is too small itself.
        below: Number that is too large itself.
        also: Numbers outside that have a meaning of their own.
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    also: tuple[float, ...] = ()

    def __contains__(self, number: float) -> bool:
        return number in self.also or (
            math.isfinite(number)
            and (self.least is None or number >= self.least)
            and (self.most is None or number <= self.most)
            and (self.above is None or number > self.above)
            and (self.below is None or number < self.below)
        )

    def __str__(self) -> str:
        words = {"of at least": self.least, "above": self.above, "of at most": self.most, "below": self.below}
        bounds = " and ".join(f"{word} {bound}" for word, bound in words.items() if bound is not None)
        if self.least is not None and self.most is not None:
            bounds = f"from {self.least} to {self.most}"
        text = f"a number {bounds}" if bounds else "a finite number"
        return text + "".join(f", or {number}" for number in self.also)


Count = Annotated[int, Range(1)]
Seed = Annotated[int, Range(0, 2**32 - 1)]
Fraction = Annotated[float, Range(0, 1)]
LearningRate = Annotated[float, Range(0, 1)]
Dropout = Annotated[float, Range(0, below=1)]
Price = Annotated[float, Range(above=0)]


def find_range(hint: Any) -> Range | None:
    """Return the range in a field's type, inside optional types and lists too; None where it has none."""
    for part in (*getattr(hint, "__metadata__", ()), *get_args(hint)):
        if isinstance(part, Range):
            return part
        if (inner := find_range(part)) is not None:
            return inner
    return None


def list_changed(section: Any) -> dict[str, Any]:
    """Return the fields of a section that are not at their default, by name."""
    default = type(section)()
    values = {field.name: getattr(section, field.name) for field in fields(section)}
    return {name: value for name, value in values.items() if value != getattr(default, name)}


def convert_section(section: Any, kind: type[Section], **changes: Any) -> Section:
    """Return a section of another kind, with the options that both have.

    Args:
        section: The section.
        kind: The other kind, such as `LabelledTextData` for the data of any task.
        **changes: Options to be set besides.
    """
    shared = {part.name for part in fields(kind)} & {part.name for part in fields(section)}
    return kind(**{name: getattr(section, name) for name in shared} | changes)


@dataclass(frozen=True)
class ModelConfig:
    """The pretrained checkpoint."""

    checkpoint: str | None = None
    """Hub id, local folder, or a packaged checkpoint; default the task's own: for text-generation the packaged
    HuggingFaceTB/SmolLM2-135M-Instruct, for classification, retrieval and answers in a text the packaged
    sentence-transformers/all-MiniLM-L6-v2."""
    revision: str | None = None
    """Hub branch, tag or commit of the checkpoint."""
    trust_remote_code: bool = False
    """Run Python code that comes with the checkpoint. Leave off unless you have read that code."""
    dropout: Dropout = 0.0
    """Dropout inside the checkpoint while it is trained."""


@dataclass(frozen=True)
class TextModelConfig(ModelConfig):
    """A pretrained checkpoint that reads text."""

    max_length_tokens: Annotated[int, Range(3)] = 256
    """Longer texts are cut to this many tokens; the run reports how many were cut."""


@dataclass(frozen=True)
class LinearHead(ModelConfig):
    """A pretrained checkpoint under one linear layer, which starts from a linear probe."""

    head_learning_rate: LearningRate = 1e-3
    """Learning rate of that layer, for features scaled to norm 1; all other weights use train.learning_rate."""


@dataclass(frozen=True)
class DataConfig:
    """Where the rows come from and how they are split."""

    dataset: str | None = None
    """Hub dataset id such as nyu-mll/glue, or a shipped one (helpdesk). Default: helpdesk, if no file is named."""
    subset: str | None = None
    """Subset (configuration) of the Hub dataset, such as sst2."""
    revision: str | None = None
    """Hub branch, tag or commit of the dataset."""
    data_dir: str | None = None
    """Local folder with the split files (train, validation/valid/dev/val, test); used instead of the Hub."""
    train_file: str | list[str] | None = None
    """CSV, TSV, JSONL, Parquet or spreadsheet file(s), gzip allowed."""
    validation_file: str | list[str] | None = None
    """File(s) of the validation split."""
    test_file: str | list[str] | None = None
    """File(s) of the test split."""
    encoding: str | None = None
    """Encoding of text files, such as cp1252 or big5; default UTF-8, or else as it is recognised, which is printed."""
    quoting: Literal["double", "none"] = "double"
    """Whether "quotes" enclose cells of CSV and TSV; none if they are plain characters."""
    sheet: str | None = None
    """Sheet of a spreadsheet; default the only one that holds something."""
    query: str | None = None
    """Query whose rows are read from a database, such as SELECT text, label FROM tickets; the file is then an SQLite
    file or an address as SQLAlchemy writes it, whose password stands in STARTUP_LLM_DATABASE_PASSWORD."""
    train_split: str | None = None
    """Name of the Hub split to train on, if it is not train."""
    validation_split: str | None = None
    """Name of the Hub split to validate on, if it is not validation (validation_matched for GLUE's mnli)."""
    test_split: str | None = None
    """Name of the Hub split to test on, if it is not test (GLUE hides its test labels: use validation)."""
    validation_fraction: Fraction = 0.1
    """Fraction of the training rows kept for validation if there is no validation split; 0 for none."""
    test_fraction: Fraction = 0.2
    """Fraction of the rows kept for the test if there is no test split."""
    split_seed: Seed = 0
    """Seed of the splits made here."""
    folds: Annotated[int, Range(2)] | None = None
    """Cut the rows into this many parts of about the same size (cross-validation); one of them is the test split."""
    fold: Count = 1
    """Which of the folds is the test split, 1 to folds."""
    remove_overlap: bool = False
    """Remove rows from training that the test split contains too."""
    max_train_rows: Count | None = None
    """Train on at most this many rows, drawn by split_seed."""
    max_test_rows: Count | None = None
    """Test on at most this many rows, drawn by split_seed."""

    def __post_init__(self) -> None:
        for name in ("dataset", "data_dir", "train_file", "validation_file", "test_file"):
            value = getattr(self, name)
            names = value if isinstance(value, list) else [value]
            if value == [] or any(isinstance(part, str) and not part.strip() for part in names):
                raise UserError(f"data.{name} {value!r} names nothing; give a name, or leave the option out")
        if self.folds is None and self.fold > 1:
            raise UserError(f"data.fold {self.fold}: expected data.folds too, the number of folds; try data.folds=5")
        if self.folds is not None and self.fold > self.folds:
            raise UserError(f"data.fold {self.fold}: expected 1 to {self.folds}, the number of folds (data.folds)")

    @property
    def named_dataset(self) -> str | None:
        """The dataset that is named, the shipped one where nothing is, or None for rows of one's own."""
        return self.dataset or (None if self.train_file or self.data_dir else DEFAULT_DATASET)

    @property
    def label_columns(self) -> list[str]:
        """Columns that hold a row's label, if the rows have them."""
        return ["label", "labels"]


@dataclass(frozen=True)
class GroupedData(DataConfig):
    """Rows of which some belong together."""

    group_column: str | None = None
    """Rows with the same value in this column stay on the same side of a split (rows of one customer, for example)."""


@dataclass(frozen=True)
class CheckedData(DataConfig):
    """Rows that are checked one by one."""

    skip_bad: bool = False
    """Leave out rows that cannot be used, and report how many; otherwise the first one is an error."""


@dataclass(frozen=True)
class LabelledData(DataConfig):
    """Rows with a label."""

    label_column: str | list[str] | None = None
    """Column with the label; found automatically if only one column fits."""

    @property
    def label_columns(self) -> list[str]:
        """Columns that hold a row's label, if the rows have them."""
        named = [self.label_column] if isinstance(self.label_column, str) else self.label_column
        return named or super().label_columns


@dataclass(frozen=True)
class AnnotatedData(DataConfig):
    """Rows that may come from an annotation tool."""

    annotator: str | None = None
    """Whose annotations count alone where several people annotated the rows; default the majority of all. A name that
    is not there is an error that lists all."""


@dataclass(frozen=True)
class TextReadingData(DataConfig):
    """Texts that are made of columns, and cleaned, in training and in predictions alike."""

    text_column: str | list[str] | None = None
    """Column with the text; found automatically if only one column fits. Several, such as [subject,description], are
    joined, each with its name before it; empty ones are left out."""
    clean: str | None = None
    """What is removed from texts, in predictions too: html, signature and quoted (replies), separated by commas."""


@dataclass(frozen=True)
class LabelledTextData(TextReadingData, AnnotatedData, CheckedData, GroupedData, LabelledData):
    """Texts, or pairs of them, with a label."""

    text_pair_column: str | None = None
    """Column with the second text of a pair."""
    label_column: str | list[str] | None = None
    """Column with the label; several columns of 0/1 make a multi-label task."""
    problem_type: Literal["auto", "single_label_classification", "multi_label_classification", "regression"] = "auto"
    """What a label is; auto decides by the values of the label column and reports its choice."""
    label_separator: str | None = None
    """What stands between several labels of one cell, such as ';'; json for a list as text (["a", "b"]); none where a
    cell is one label. Where it is not given and cells look like several labels, the run stops and proposes it."""
    labels_per_class: Count | None = None
    """Train on this many rows of each class, drawn by split_seed, and keep the others without their labels."""


@dataclass(frozen=True)
class LoraConfig:
    """The adapter (Hu et al. 2021, https://arxiv.org/abs/2106.09685)."""

    rank: Count = 16
    """Rank r of the update B A."""
    alpha: Annotated[float, Range(above=0)] = 32.0
    """The update is scaled by alpha / rank."""
    dropout: Dropout = 0.0
    """Dropout on the adapter's input."""
    target_modules: list[str] | None = None
    """Names of the linear layers to adapt; default: every linear layer of the transformer blocks."""
    upper_layers: Count | None = None
    """Adapt only this many of the uppermost blocks. When training on text, the output of the blocks below is computed
    once per row and kept: training takes less time, and the accuracy may be a little lower."""
    quantize: Literal["4bit"] | None = None
    """4bit keeps the adapted layers' frozen weights in four bits while training (QLoRA); needs an NVIDIA GPU."""


@dataclass(frozen=True)
class EvaluationConfig:
    """How the numbers are made."""

    confidence_level: Annotated[float, Range(above=0, below=1)] = 0.95
    """Level of the intervals."""
    resamples: Count = 2000
    """Bootstrap resamples of the test rows."""
    seed: Seed = 0
    """Seed of the bootstrap."""
    decides: str | None = None
    """Primary metric: it chooses the best checkpoint and is reported first; default the task's own."""
    show_personal_data: bool = False
    """Show e-mail addresses, telephone numbers and the like in the example texts of report.html and results.json;
    otherwise they are masked, as in an audit."""


@dataclass(frozen=True)
class BaselinesConfig:
    """Baselines that are measured only where they are asked for."""


@dataclass(frozen=True)
class DecisionConfig:
    """What becomes of a model's answers."""


@dataclass(frozen=True)
class HandoverDecision(DecisionConfig):
    """Which answers go to a person; chosen on the validation rows, judged on the test rows."""

    target_accuracy: Annotated[float, Range(above=0, most=1)] | None = None
    """Hand as many answers to a person as it takes until this share of the others is right, such as 0.97."""
    cost_of_error: Annotated[float, Range(above=0)] | None = None
    """What a wrong answer costs, in the unit of cost_of_handover; the threshold of least cost is chosen."""
    cost_of_handover: Annotated[float, Range(0)] | None = None
    """What an answer by a person costs."""

    def __post_init__(self) -> None:
        if (self.cost_of_error is None) != (self.cost_of_handover is None):
            raise UserError(
                f"decision.cost_of_error {self.cost_of_error} and decision.cost_of_handover {self.cost_of_handover}: "
                "expected both or none"
            )
        if self.target_accuracy is not None and self.cost_of_error is not None:
            raise UserError(
                f"decision.target_accuracy {self.target_accuracy} and decision.cost_of_error {self.cost_of_error} "
                "choose the same threshold; leave one out"
            )


@dataclass(frozen=True)
class ClassDecision(HandoverDecision):
    """Which answers of a classifier go to a person; chosen on the validation rows, judged on the test rows."""

    sets: Annotated[float, Range(above=0, below=1)] | None = None
    """Answer with every possible label too, so that this share of the sets holds the true one, such as 0.95; with the
    ends of an interval where a row has a number."""
    out_of_scope: ScopeScore | None = None
    """Score by which answers tell inputs that fit no label: softmax, energy, nearest (cosine to the nearest training
    rows), mahalanobis, or with data.oos_file reject-class or both; auto is the best one on rows of data.oos_file,
    without them nearest. Default auto with data.oos_file, else nothing is told."""
    rejected_share: Annotated[float, Range(above=0, below=1)] = 0.05
    """Share of the validation rows that is taken for out of scope, by which the score's threshold is set."""


@dataclass(frozen=True)
class PreflightConfig:
    """An estimate of the run's time, memory and price before training."""

    only: bool = False
    """Stop after the estimate."""
    dollars_per_hour: Price | None = None
    """Price of this machine per hour; the estimate then includes the price of the run, and the report and the card
    that of a million predictions."""


@dataclass(frozen=True)
class SpeedConfig:
    """How to compute; what is not given is measured on this device, or its usual choice."""

    plan: Literal["auto", "plain"] = "auto"
    """auto: the fastest choices measured on this device; plain: transformers' Trainer without changes, in float32,
    with its own batches, samples and attention kernel, and LoRA as PEFT computes it."""
    compute_dtype: Literal["float32", "bfloat16"] | None = None
    """Data type of matrix products."""
    attention_kernel: Literal["eager", "sdpa", "flash_attention_2", "causal_blocks"] | None = None
    """Implementation of attention; causal_blocks is this package's own, for language models on a CPU."""
    tokens_per_batch: Count | None = None
    """Padded tokens that are computed at once; the plan plain uses it for predictions alone."""
    threads: Annotated[int, Range(1, 1024)] | None = None
    """CPU threads of each process."""
    compile: bool = False
    """Train with torch.compile, block by block: for long runs on a GPU. It compiles again for other lengths, a few
    times, and computes again what is cheap in the backward pass, for less memory."""


@dataclass(frozen=True)
class FinetuneConfig:
    """Fine-tune a pretrained checkpoint and compare it with baselines."""

    task: str = DEFAULT_TASK
    """Hub pipeline tag of the task."""
    method: Literal["lora", "full", "probe", "zero-shot"] = "lora"
    """lora: adapter and head; full: every weight; probe: a linear head on frozen features; zero-shot: a head built
    from the names of the labels, or a search with the checkpoint as it is, without training."""
    run_dir: str | None = None
    """Where the run is kept; default runs/DATASET-METHOD; auto adds the date, and a number where that is taken."""
    overwrite: bool = False
    """Replace a finished run."""
    resume: bool = False
    """Go on from the last checkpoint of an interrupted run."""
    early_stopping_patience: Count | None = None
    """Stop after this many evaluations without a better validation score."""
    train_balance: Literal["none", "weights", "sampling"] = "none"
    """How classes of very different size are trained on: with weights in the loss or rows drawn so that every class
    counts alike (of several labels, both answers of each label), or as they stand."""
    audit: Literal["none", "quick", "full"] = "quick"
    """Faults in the texts that are searched before training, for the report: quick for duplicates, personal data and
    wrong labels; full, which takes minutes, for near-duplicates, suspect labels, encodings and languages too (extra
    audit)."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    baselines: BaselinesConfig = field(default_factory=BaselinesConfig)
    preflight: PreflightConfig = field(default_factory=PreflightConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    decision: DecisionConfig = field(default_factory=DecisionConfig)
    speed: SpeedConfig = field(default_factory=SpeedConfig)


@dataclass(frozen=True)
class AlignConfig:
    """Tune a chat checkpoint on what people preferred, and compare it with the model before."""

    task: str = "text-generation"
    """Hub pipeline tag of the task."""
    method: Literal["dpo", "orpo", "kto"] = "dpo"
    """An adapter trained on pairs of answers by direct preference optimization (dpo, Rafailov et al. 2023; without it,
    the model is the reference) or odds ratios without a reference (orpo, Hong et al. 2024), or on single answers that
    were judged good or bad (kto, Ethayarajh et al. 2024)."""
    beta: Annotated[float, Range(above=0)] = 0.1
    """Strength of the penalty for moving away from the reference (dpo, kto); a smaller value lets the model move
    further. For orpo the weight of the odds ratio."""
    run_dir: str | None = None
    """Where the run is kept; default runs/DATASET-METHOD; auto adds the date, and a number where that is taken."""
    overwrite: bool = False
    """Replace a finished run."""
    resume: bool = False
    """Go on from the last checkpoint of an interrupted run."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    speed: SpeedConfig = field(default_factory=SpeedConfig)


@dataclass(frozen=True)
class ScratchModelConfig:
    """A reference model of this package, its weights drawn at random."""

    name: str = "dnn"
    """Name of the reference model."""
    dropout: Dropout = 0.1
    """Dropout while training."""


@dataclass(frozen=True)
class ScratchDnn(ScratchModelConfig):
    """A feed-forward network."""

    name: str = "dnn"
    hidden: list[Count] = field(default_factory=list)
    """Widths of the hidden layers; [] for none."""
    activation: Literal["relu", "sigmoid", "tanh"] = "relu"
    """Activation function of the hidden layers."""


@dataclass(frozen=True)
class ScratchTransformer(ScratchModelConfig):
    """A network of transformer blocks."""

    name: str = "transformer"
    width: Count = 128
    """Width of the vector of a token, patch or frame."""
    layers: Annotated[int, Range(1, 1000)] = 2
    """Number of blocks; of an encoder-decoder on either side."""
    heads: Count = 4
    """Number of attention heads."""
    inner_width: Count | None = None
    """Width inside the feed-forward networks; default 4 * width, for conformer 2 * width."""


@dataclass(frozen=True)
class TaskOptions:
    """The sections of a config in which a task, named by its Hub pipeline tag, has options of its own.

    Attributes:
        data: Section `data`.
        model: Section `model` of a run that starts from a pretrained checkpoint.
        evaluation: Section `evaluation`.
        baselines: Section `baselines`.
        decision: Section `decision`.
        scratch_models: Section `model` of a run from scratch, by the name of the task's reference model.
    """

    data: type[DataConfig] = DataConfig
    model: type[ModelConfig] = ModelConfig
    evaluation: type[EvaluationConfig] = EvaluationConfig
    baselines: type[BaselinesConfig] = BaselinesConfig
    decision: type[DecisionConfig] = DecisionConfig
    scratch_models: Mapping[str, type[ScratchModelConfig]] = field(default_factory=dict)


@dataclass(frozen=True)
class PretrainConfig:
    """Train a reference model from scratch on the task's own rows and compare it with baselines."""

    task: str = DEFAULT_TASK
    """Hub pipeline tag of the task."""
    run_dir: str | None = None
    """Where the run is kept; default runs/DATASET-MODEL; auto adds the date, and a number where that is taken."""
    overwrite: bool = False
    """Replace a finished run."""
    resume: bool = False
    """Go on from the last checkpoint of an interrupted run."""
    early_stopping_patience: Count | None = None
    """Stop after this many evaluations without a better validation score."""
    train_balance: Literal["none", "weights", "sampling"] = "none"
    """How classes of very different size are trained on: with weights in the loss or rows drawn so that every class
    counts alike (of several labels, both answers of each label), or as they stand."""
    model: ScratchModelConfig = field(default_factory=ScratchModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    decision: DecisionConfig = field(default_factory=DecisionConfig)
    speed: SpeedConfig = field(default_factory=SpeedConfig)

    @property
    def method(self) -> str:
        """The model's name: what the run is called by in its results."""
        return self.model.name


@dataclass(frozen=True)
class ReproduceConfig:
    """Make a finished run again from what its lock says, and compare every number."""

    run: str
    """Folder of a finished run, or the Hub id of a published one."""
    revision: str | None = None
    """Hub branch, tag or commit of a published run."""
    run_dir: str | None = None
    """Where the new run is kept; default RUN-again, or runs/NAME-again for a published one."""
    overwrite: bool = False
    """Replace a finished run in run_dir."""
    yes: bool = False
    """Run without asking. Else what will be run is shown, and a person answers."""
    trust_remote_code: bool = False
    """Allow a run to execute the Python code that comes with its checkpoint. Leave off unless you have read it."""
    allowed_folders: list[str] = field(default_factory=list)
    """Folders beside the run's working folder that its files may lie in, such as [/data]."""


@dataclass(frozen=True)
class CompareConfig:
    """Compare models on the same test rows at several label budgets, and say what to use at which."""

    task: str = DEFAULT_TASK
    """Hub pipeline tag of the task."""
    rungs: list[str] = field(default_factory=lambda: list(DEFAULT_RUNGS))
    """Models and baselines to compare."""
    budgets: list[Count | Literal["all"]] = field(default_factory=lambda: [5, 10, 30, "all"])
    """Labels per class; all for every label."""
    draws: Count = 3
    """Random draws of the rows at each budget, each with its own training seed."""
    draws_of_all: Count = 1
    """Number of training seeds if every label is used."""
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Options of the recipes by MODEL or MODEL-BUDGET, such as lora-10: {train.num_train_epochs: 20}."""
    run_dir: str | None = None
    """Where the comparison and its runs are kept; default runs/DATASET-ladder."""
    overwrite: bool = False
    """Replace a finished comparison, and drop an interrupted one."""
    resume: bool = False
    """Go on with an interrupted comparison; the runs that it finished are kept."""
    data: DataConfig = field(default_factory=DataConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


@dataclass(frozen=True, kw_only=True)
class NewRowsConfig:
    """How a finished run's model is loaded, and how the rows are read that it is shown."""

    run: str
    """Folder of a finished run, or of a plain transformers checkpoint such as runs/NAME/model."""
    input_format: Literal["auto", "csv", "tsv", "jsonl", "lines", "parquet"] = "auto"
    """auto goes by the extension; for stdin by lines: a JSON object each, or else the text itself."""
    encoding: str | None = None
    """Encoding of the input, such as cp1252 or big5; default UTF-8, or else as it is recognised, which is printed."""
    quoting: Literal["double", "none"] = "double"
    """Whether "quotes" enclose cells of CSV and TSV; none if they are plain characters."""
    sheet: str | None = None
    """Sheet of a spreadsheet; default the only one that holds something."""
    query: str | None = None
    """Query whose rows are read from a database, such as SELECT text, label FROM tickets; the file is then an SQLite
    file or an address as SQLAlchemy writes it, whose password stands in STARTUP_LLM_DATABASE_PASSWORD."""
    columns: dict[str, str] = field(default_factory=dict)
    """Columns by what they hold, such as --columns.text message, or question, context, image, audio; default the
    trained ones, else found by themselves where that is unambiguous."""
    skip_bad: bool = False
    """Leave out rows that cannot be answered, and report how many; otherwise the first such row is an error: in a file
    before anything is computed, in a pipe after the answers to the rows before it."""
    task: str = DEFAULT_TASK
    """Hub pipeline tag of a plain checkpoint; a run has its own."""
    compute_dtype: Literal["float32", "auto"] = "float32"
    """float32 gives the numbers of `transformers.pipeline`; auto may take bfloat16, faster on most GPUs, which moves
    a score by up to about 0.01."""
    piece_rows: Count = 10_000
    """Rows held in memory at a time; 1 answers each line of a pipe as it comes."""


@dataclass(frozen=True, kw_only=True)
class PredictConfig(NewRowsConfig):
    """Answer the rows of a file or a pipe with a finished run's model: the input's columns, then the answer's."""

    input: str | None = None
    """CSV, TSV, JSONL or Parquet file, gzip allowed; - for stdin; for images and sounds also a folder of them."""
    output: str | None = None
    """CSV, TSV, JSONL or Parquet file, gzip allowed; - for stdout."""
    output_format: Literal["auto", "csv", "tsv", "jsonl", "parquet"] = "auto"
    """auto goes by the extension; for stdout CSV and TSV stay what they are, the rest becomes JSONL."""
    overwrite: bool = False
    """Replace an existing output."""
    raw: bool = False
    """Leave cells of CSV and TSV that a spreadsheet would run as a formula (first =, +, -, @, a tab or a carriage
    return) as they are; otherwise they get a leading ', which keeps them text. Numbers always stay as they are."""
    corpus: str | None = None
    """Table of texts to search, such as articles.csv with the columns id and text; default the run's own texts."""
    matches: Count = 5
    """Texts returned for each query, if texts are searched."""
    max_new_tokens: Count | None = None
    """Largest number of tokens written for a row; default that of the model's generation config."""
    text: str | None = None
    """Answer this one text, or conversation as a JSON list of messages, on stdout instead of a file's rows; a language
    model shows what it writes as it writes it."""
    stop: list[str] = field(default_factory=list)
    """Texts at which a language model stops, such as ['User:']; the answer ends before them."""
    samples: Count = 1
    """Answers of a language model to each row; several, in the column generated_texts, are drawn at random."""
    temperature: Annotated[float, Range(0)] | None = None
    """Temperature of what a language model writes: 0 for the likeliest token at each step; default 0, and for
    several samples that of its generation config."""
    seed: Seed = 0
    """Seed of what is drawn: the same command gives the same answers."""
    explain: bool = False
    """Add to each label, entity or answer to a question the words that made it, how far their parts are from adding
    up, whether occlusion agrees, and to labels the three training rows that are most alike (extra explain); each takes
    about 50 predictions."""
    log_statistics: str | None = None
    """File to which statistics of the answered rows are added, without texts, for recipes/drift.py: labels, scores,
    lengths, languages, frequent words and the mean of the features; a JSON object a line, each of 20 rows or more."""


@dataclass(frozen=True, kw_only=True)
class SuggestConfig(NewRowsConfig):
    """Choose which rows of a pool without labels to label next: a finished run's model is unsure of them, and they
    differ from each other and from the rows that the run has.
    """

    pool: str
    """CSV, TSV, JSONL or Parquet file without labels, gzip allowed; - for stdin."""
    rows: Count = 50
    """Rows to choose; batches of 50 to 100 between two runs are usual."""
    output: str = "suggestions"
    """Folder for suggestions.csv, and label_studio.json with label_studio.xml for an import into Label Studio."""
    overwrite: bool = False
    """Replace earlier suggestions in that folder."""
    seed: Seed = 0
    """Seed of the clustering."""


@dataclass(frozen=True, kw_only=True)
class DriftConfig(NewRowsConfig):
    """Test whether rows that come in differ from the test rows of a finished run: in the labels that are answered, the
    scores, lengths, words, languages and features.
    """

    input: str | None = None
    """CSV, TSV, JSONL or Parquet file with new rows, gzip allowed; - for stdin; for images and sounds also a folder
    of them."""
    statistics: str | None = None
    """Instead of rows, what predict.py or serve.py wrote with --log_statistics."""
    output: str = "drift"
    """Folder for drift.json and drift.html."""
    overwrite: bool = False
    """Replace an earlier comparison in that folder."""
    level: Annotated[float, Range(0, 1)] = 0.05
    """Largest chance of any false alarm, over all tests."""
    fail_on_change: bool = False
    """End with exit code 1 where a change was found."""
    seed: Seed = 0
    """Seed of what is drawn."""


@dataclass(frozen=True)
class ServeConfig:
    """Answer requests over HTTP with a finished run's model, on this machine alone unless a host is named.

    A key in the environment variable STARTUP_LLM_API_KEY is then asked of every client: Authorization: Bearer KEY.
    """

    run: str
    """Folder of a finished run, or of a plain transformers checkpoint such as runs/NAME/model."""
    host: str = "127.0.0.1"
    """Address to listen at; any other than this machine's own needs a key. 0.0.0.0 is every address of the machine."""
    port: Annotated[int, Range(0, 65535)] = 8000
    """Port to listen at; 0 takes a free one."""
    workers: Annotated[int, Range(1, 256)] = 1
    """Processes that answer at the address, each with a model of its own and its share of the cores; another one is
    started for each that dies."""
    max_wait_ms: Annotated[float, Range(0, 10_000)] = 5.0
    """Milliseconds that a request waits for others, to be computed with them in one batch."""
    max_batch_rows: Count = 64
    """Rows computed at once; a request is never divided."""
    max_rows: Count = 256
    """Rows of one request; more are refused (422)."""
    max_body_mb: Annotated[float, Range(above=0)] = 4.0
    """Size of a request's body in MB; a larger one is refused (413)."""
    max_queue_rows: Count = 2048
    """Rows that may wait; requests beyond them are refused (429)."""
    timeout_seconds: Annotated[float, Range(above=0)] = 30.0
    """How long a body may take to arrive (408), and a request to be answered (504)."""
    watch_seconds: Annotated[float, Range(0.1)] | None = None
    """Look this often whether `run` is another run now, as after a switch of the link runs/production, or was written
    anew, and answer with that one, without a lost request; default never."""
    chat: bool = False
    """Of text-generation: answer chats with streaming at /v1/chat/completions by transformers' own server (extra
    chat), in place of /predict."""
    max_explained_rows: Count = 8
    """Rows of one request that asks for explanations; more are refused (422). They are explained beside the batches of
    other requests, one request after the other; a request finds place for four before it (429)."""
    show_training_rows: bool = False
    """Show with each explained answer the three training rows that are most alike, with their texts: whoever may ask
    the server then reads training data."""
    log_texts: bool = False
    """Write the rows and the answers of each request into the log, which may hold personal data."""
    corrections: str | None = None
    """File to which people's corrections on the page at / are added, each a JSON object with the row and its right
    label for the next training; nothing of the kind is kept where none is named."""
    log_statistics: str | None = None
    """File to which statistics of the answered rows are added, without texts, for recipes/drift.py: labels, scores,
    lengths, languages, frequent words and the mean of the features; a JSON object a line, each of 20 rows or more."""
    task: str = DEFAULT_TASK
    """Hub pipeline tag of a plain checkpoint; a run has its own."""
    compute_dtype: Literal["float32", "auto"] = "float32"
    """float32 gives the numbers of `transformers.pipeline`; auto may take bfloat16, faster on most GPUs."""
    corpus: str | None = None
    """Table of texts to search, such as articles.csv with the columns id and text; default the run's own texts."""
    matches: Count = 5
    """Texts returned for each query, if texts are searched."""
    max_new_tokens: Count | None = None
    """Largest number of tokens written for a row; default that of the model's generation config."""


AnswerConfig = PredictConfig | ServeConfig
"""What loads a run's model to answer rows; both have the same fields for that."""


@dataclass(frozen=True)
class ExportConfig:
    """Write a finished run's model in a smaller or faster form, and prove it on the run's test rows."""

    run: str
    """Folder of a finished run."""
    format: str = "onnx-int8"
    """onnx: float32, for onnxruntime; onnx-int8: the same with weights of 8 bits; gguf: a language model for
    llama.cpp."""
    quantization: Literal["dynamic", "static", "q8_0", "q4_0", "q4_1", "f16"] | None = None
    """Of onnx-int8: dynamic (default), where a token's activations are scaled by their own range, or static, by that
    of training rows. Of gguf: q8_0 (default), weights of 8 bits; q4_0 or q4_1 of 4, with a scale or a scale and an
    offset for each 32; or f16."""
    calibration_rows: Count = 256
    """Training rows that a static quantization takes its ranges from."""
    allow_drop: bool = False
    """Keep an export that is shown to be worse than the run by the primary metric."""
    run_dir: str | None = None
    """Folder of the export, which is served and published like a run; default RUN-FORMAT."""
    overwrite: bool = False
    """Replace an earlier export."""
    docker: str | None = None
    """Write no export, but this new folder, of which Docker builds the image of a server: of the export that run
    names."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


@dataclass(frozen=True)
class EvaluateConfig:
    """Measure a checkpoint on a data set, a suite or lm-eval's tasks, with intervals; compare it with another run."""

    model: str | None = None
    """Folder of a finished run, checkpoint or adapter, or a Hub id; {entry} stands for each entry of the suite."""
    run: str | None = None
    """Folder of a finished run that is measured on the rows of `input`, read as the run reads its own: task, columns,
    cleaning and labels are the run's. Stands in the place of `model`."""
    input: str | None = None
    """File with labelled rows, such as those of a week. Labels that the run does not know count as wrong."""
    suite: str | None = None
    """Shipped suite (entities, glue, intents, retrieval, squad, superglue) or a YAML file; default: that of `data`."""
    only: list[str] | None = None
    """Entries of the suite to run; default all."""
    lm_tasks: list[str] | None = None
    """Measure a causal language model on these tasks of EleutherAI's lm-eval instead (extra lm-eval)."""
    lm_task_folder: str | None = None
    """Folder with task YAML files for lm-eval; their data_files are paths as lm-eval reads them."""
    lm_limit: Count | None = None
    """Rows of each lm-eval task; default all."""
    task: str | None = None
    """Hub pipeline tag of a plain checkpoint, default text-classification; a run has its own."""
    checkpoint: str | None = None
    """Folder or Hub id of an adapter's base, where it is not the one that the adapter names."""
    revision: str | None = None
    """Hub branch, tag or commit of the model."""
    compare: str | None = None
    """Finished run, or folder of an earlier evaluation, to test against on exactly the same rows."""
    compare_with: str | None = None
    """Like compare, on the texts that both have: rows of an evaluation are matched by their text, labels by their
    name. A finished run answers the rows of `input` itself."""
    fail_under: str | None = None
    """Required values, separated by commas, such as accuracy=0.93,macro_f1=0.9; of an error the largest
    that is allowed. Exit code 1 where one is missed."""
    gate: Literal["point", "lower"] = "point"
    """What is held against fail_under: the figure, or the worse end of its interval."""
    fail_if_worse_than: str | None = None
    """Like compare_with; exit code 1 where the model is shown to be worse by an entry's first metric."""
    run_dir: str = "evaluation"
    """Where results.json, table.md, table.html and the predictions are kept; auto: runs/RUN-on-FILE-DATE."""
    overwrite: bool = False
    """Replace an earlier evaluation."""
    batch_size: Count = 8
    """Rows that lm-eval computes at once."""
    data: DataConfig = field(default_factory=DataConfig)
    """Default the run's own data. A test file alone is enough; in a suite what is given here replaces an entry's."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        if (self.run is None) != (self.input is None):
            raise UserError(
                "--run and --input go together; to measure a run on its own test rows use --model RUN"
                if self.run
                else f"--input {self.input!r} is read as a run reads its rows; name it: --run RUN, in place of --model"
            )
        if (self.model is None) == (self.run is None):
            raise UserError("expected --run RUN with --input FILE, or --model MODEL" + ", not both" * bool(self.model))
        for name in ("suite", "lm_tasks", "task", "checkpoint", "revision"):
            if self.run is not None and getattr(self, name) is not None:
                raise UserError(f"--{name} goes with --model; with --run the rows are those of --input: leave it out")

    @property
    def measured(self) -> str:
        """What is measured: the run, or else the model."""
        return str(self.run if self.run is not None else self.model)


@dataclass(frozen=True)
class RunsConfig:
    """List all runs with their figures, rows and origin, and name the one in production."""

    folder: str = "runs"
    """Folder of the runs, which gets index.html."""
    production: str | None = None
    """Run that is in production from now on: FOLDER/production, a symbolic link, leads to it, and
    FOLDER/production.jsonl keeps the history."""
    rollback: bool = False
    """Go back to the run that was in production before."""

    def __post_init__(self) -> None:
        if self.production is not None and self.rollback:
            raise UserError(f"--production {self.production!r} and --rollback both name a run; leave one out")


@dataclass(frozen=True)
class PoolConfig:
    """Pool the runs of a cross-validation: each row is predicted by the model that was not trained on its fold."""

    runs: list[str]
    """Folders of finished runs that differ by data.fold alone."""
    run_dir: str = "pooled"
    """Where results.json and table.md are kept."""
    overwrite: bool = False
    """Replace an earlier result."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


@dataclass(frozen=True)
class PushConfig:
    """Publish a finished run, or with --dataset the rows that `data` names, as a private repository of the Hub.

    Log in with `hf auth login` or set HF_TOKEN; a token is never an option.
    """

    repo: str
    """Hub id OWNER/NAME; made where it does not exist."""
    run: str | None = None
    """Folder of a finished run."""
    dataset: bool = False
    """Publish a data set instead of a run: the rows of `data` as Parquet, with their card, Croissant and an audit."""
    space: bool = False
    """Publish a Space instead of the run: a page of Gradio that asks its model, which lies in the Space."""
    what: Literal["auto", "merged", "adapter", "both"] = "auto"
    """merged: the model in the root; adapter: the adapter in the root; both: the model in the root and the adapter
    in adapter/; auto: both where the run has an adapter."""
    public: bool = False
    """Everybody may see the repository; needed to publish in one that is public already."""
    branch: str | None = None
    """Publish on this branch, made from main where it does not exist."""
    pull_request: bool = False
    """Propose the files as a pull request to an existing repository."""
    dry_run: str | None = None
    """Publish nothing; write the files into this new folder instead."""
    license: str | None = None
    """Licence to declare, such as apache-2.0; default: the checkpoint's, where nothing stands against it, or that of
    the data set's card."""
    with_report: bool = False
    """Publish report.html and the examples in results.json too; they show texts of your data."""
    overwrite: bool = False
    """Replace files of the repository that this recipe did not write."""
    task: str = DEFAULT_TASK
    """Hub pipeline tag of what a data set is for; images and sounds are read as the task reads them."""
    card: str | None = None
    """Markdown file that a data set's card begins with; default the card of a named data set, else a new one."""
    allow_findings: str | None = None
    """What was found and may be published all the same, by commas: personal-data or one kind of it (email, iban,
    payment_card, ip_address, phone, name), access tokens by their kind (github-token, aws-key, ...); in rows
    duplicates-across-splits, near-duplicates-across-splits, groups-across-splits and not-searched too. KIND@FILES
    allows a kind in some files only, such as email@README.md or phone@data/*."""
    names: bool = False
    """Search names of people too, after words that introduce one in English (my name is ...)."""
    data: DataConfig = field(default_factory=DataConfig)
    """The rows of a data set; a column that holds a group, such as a customer, is checked across the splits."""

    @property
    def repo_type(self) -> Literal["model", "dataset", "space"]:
        """The Hub's name for what is published."""
        return "dataset" if self.dataset else "space" if self.space else "model"


@dataclass(frozen=True)
class AuditConfig:
    """Look for faults in rows before training on them; rows that training refuses are audited too."""

    output: str = "audit"
    """Folder for audit.json, audit.html and audit.md."""
    overwrite: bool = False
    """Replace an earlier audit in that folder, and earlier cleaned copies."""
    fix: bool = False
    """Write NAME.cleaned.EXT and NAME.changes.jsonl beside each file; the file itself stays as it is."""
    fix_kinds: str = (
        "empty-texts,oversized-texts,missing-labels,rare-labels,unseen-labels,odd-characters,label-spelling,duplicates,"
        "duplicates-across-splits"
    )
    """What --fix corrects, separated by commas: by default all that training refuses, and copies; near-duplicates,
    near-duplicates-across-splits and personal-data (masked) may be added."""
    fail_on: str | None = None
    """Kinds of findings, separated by commas, that end the audit with exit code 1; any stands for all but notes."""
    near_duplicate_similarity: Annotated[float, Range(0.5, 1)] = 0.8
    """Jaccard similarity of 4-character pieces from which two texts are near-duplicates."""
    max_length_tokens: Count = 256
    """Length to estimate truncation for: 4 characters to a token."""
    names: bool = False
    """Search names of people too, after words that introduce one in English (my name is ...)."""
    checkpoint: str | None = None
    """Encoder on whose features labels are judged, such as sentence-transformers/all-MiniLM-L6-v2 (packaged), a local
    folder or a Hub id; default none: they are judged by words, which is faster."""
    examples: Annotated[int, Range(0)] = 5
    """Masked examples shown of each finding."""
    seed: Seed = 0
    """Seed of folds and samples."""
    data: LabelledTextData = field(default_factory=LabelledTextData)


TRAIN_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "lora": {"learning_rate": 5e-4, "num_train_epochs": 4},
    "full": {"learning_rate": 1e-4, "num_train_epochs": 4},
    "probe": {"num_train_epochs": 0},
    "zero-shot": {"num_train_epochs": 0},
    "dpo": {"learning_rate": 5e-5, "num_train_epochs": 1, "per_device_train_batch_size": 8},
    "orpo": {"learning_rate": 5e-5, "num_train_epochs": 1, "per_device_train_batch_size": 8},
    "kto": {"learning_rate": 5e-5, "num_train_epochs": 1, "per_device_train_batch_size": 8},
    "dnn": {"learning_rate": 5e-3, "num_train_epochs": 20},
    "transformer": {"learning_rate": 1e-3, "num_train_epochs": 20},
    "t5": {"learning_rate": 1e-3, "num_train_epochs": 20},
    "gpt": {"learning_rate": 1e-3, "num_train_epochs": 2},
    "vit": {"learning_rate": 1e-3, "num_train_epochs": 40},
    "conformer": {"learning_rate": 2e-3, "num_train_epochs": 60},
    "whisper": {"learning_rate": 1e-3, "num_train_epochs": 60},
    "speecht5": {"learning_rate": 1e-3, "num_train_epochs": 200},
    "rt-detr": {"learning_rate": 2e-3, "num_train_epochs": 28, "per_device_train_batch_size": 16},
}
"""Defaults of the `train` section by method or reference model, where they differ from `TrainingArguments`."""

SHARED_TRAIN_DEFAULTS: Mapping[str, Any] = {
    "per_device_train_batch_size": 64,
    "per_device_eval_batch_size": 32,
    "warmup_steps": 0.06,
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 2,
    "logging_strategy": "steps",
    "logging_steps": 10,
    "report_to": "none",
    "dataloader_pin_memory": False,
}

TRAIN_RANGES: Mapping[str, Range] = {
    "per_device_train_batch_size": Range(1),
    "per_device_eval_batch_size": Range(1),
    "gradient_accumulation_steps": Range(1),
    "eval_accumulation_steps": Range(1),
    "num_train_epochs": Range(0),
    "max_steps": Range(1, also=(-1,)),
    "learning_rate": Range(0, 1),
    "warmup_steps": Range(0),
    "weight_decay": Range(0),
    "adam_beta1": Range(0, below=1),
    "adam_beta2": Range(0, below=1),
    "adam_epsilon": Range(0),
    "max_grad_norm": Range(0),
    "label_smoothing_factor": Range(0, below=1),
    "neftune_noise_alpha": Range(0),
    "torch_empty_cache_steps": Range(1),
    "logging_steps": Range(above=0),
    "eval_steps": Range(above=0),
    "eval_delay": Range(0),
    "save_steps": Range(above=0),
    "save_total_limit": Range(1),
    "seed": Range(0, 2**32 - 1),
    "data_seed": Range(0, 2**32 - 1),
    "dataloader_num_workers": Range(0, 256),
    "dataloader_prefetch_factor": Range(1),
    "ddp_bucket_cap_mb": Range(1),
    "ddp_timeout": Range(1),
    "local_rank": Range(-1),
}
"""The numbers that the fields of `TrainingArguments` take."""


@dataclass(frozen=True)
class TrainField:
    """What becomes of a field of `transformers.TrainingArguments`.

    Attributes:
        use: honoured; set: the run itself decides it; refused: a run cannot honour it.
        advice: Why it is not taken, or what to use instead.
        needs: Option of the `train` section without which it would be ignored.
        values: What that option has to be; anything but none or 0 where nothing is named.
    """

    use: Literal["honoured", "set", "refused"]
    advice: str = ""
    needs: str = ""
    values: tuple[str, ...] = ()


_HONOURED = TrainField("honoured")
_PUBLISHED = TrainField("refused", "publish a finished run with recipes/push.py")
_LAUNCHED = TrainField("refused", "processes are joined by accelerate launch; see recipes/accelerate")
_IN_FLOAT = TrainField("refused", "validation computes as training does; use --speed.compute_dtype bfloat16")
_COMPILED = TrainField("refused", "use --speed.compile true, which compiles in the default way")
_UNREAD = TrainField("refused", "a run does not read it; leave it out")
_MEASURED = TrainField("set", "the run measures its task's own metrics; choose one with --evaluation.decides")
_FSDP = TrainField("set", "start with accelerate launch --config_file recipes/accelerate/fsdp2.yaml")
_TRACKED = TrainField("honoured", needs="report_to")
_WORKING = TrainField("honoured", needs="dataloader_num_workers")
_TUNABLE_OPTIMIZERS = (
    *("sgd", "rmsprop", "adagrad", "adamw_anyprecision", "adamw_torch_4bit", "adamw_torch_8bit", "grokadamw"),
    *("ademamix", "ademamix_8bit", "paged_ademamix_32bit", "paged_ademamix_8bit", "stable_adamw"),
    *("schedule_free_adamw", "schedule_free_radam", "schedule_free_sgd"),
)

TRAIN_FIELDS: Mapping[str, TrainField] = {
    "output_dir": TrainField("set", "name the run's folder with --run_dir"),
    "per_device_train_batch_size": _HONOURED,
    "num_train_epochs": _HONOURED,
    "max_steps": _HONOURED,
    "learning_rate": _HONOURED,
    "lr_scheduler_type": _HONOURED,
    "lr_scheduler_kwargs": _HONOURED,
    "warmup_steps": _HONOURED,
    "optim": _HONOURED,
    "optim_args": TrainField("honoured", needs="optim", values=_TUNABLE_OPTIMIZERS),
    "weight_decay": _HONOURED,
    "adam_beta1": _HONOURED,
    "adam_beta2": _HONOURED,
    "adam_epsilon": _HONOURED,
    "optim_target_modules": TrainField("refused", "the head has a learning rate of its own; choose another optimizer"),
    "gradient_accumulation_steps": _HONOURED,
    "average_tokens_across_devices": TrainField("set", "a batch's loss is the mean over the targets of all processes"),
    "max_grad_norm": _HONOURED,
    "label_smoothing_factor": _HONOURED,
    "bf16": TrainField("set", "use --speed.compute_dtype bfloat16"),
    "fp16": TrainField("set", "choose --speed.compute_dtype bfloat16 or float32; float16 is not computed in"),
    "bf16_full_eval": _IN_FLOAT,
    "fp16_full_eval": _IN_FLOAT,
    "tf32": _HONOURED,
    "activation_checkpointing": _HONOURED,
    "activation_checkpointing_kwargs": _HONOURED,
    "gradient_checkpointing": _HONOURED,
    "gradient_checkpointing_kwargs": _HONOURED,
    "torch_compile": TrainField("set", "use --speed.compile true"),
    "torch_compile_backend": _COMPILED,
    "torch_compile_mode": _COMPILED,
    "use_liger_kernel": TrainField("refused", "most architectures have no such kernels; leave it out"),
    "liger_kernel_config": TrainField("refused", "most architectures have no such kernels; leave it out"),
    "use_cache": _HONOURED,
    "neftune_noise_alpha": _HONOURED,
    "torch_empty_cache_steps": _HONOURED,
    "auto_find_batch_size": TrainField("refused", "memory is bounded by --speed.tokens_per_batch, whatever the batch"),
    "logging_strategy": _HONOURED,
    "logging_steps": TrainField("honoured", needs="logging_strategy", values=("steps",)),
    "logging_first_step": _HONOURED,
    "log_on_each_node": TrainField("refused", "the first process alone reports; leave it out"),
    "logging_nan_inf_filter": _HONOURED,
    "include_num_input_tokens_seen": _HONOURED,
    "log_level": _HONOURED,
    "log_level_replica": _HONOURED,
    "disable_tqdm": _HONOURED,
    "report_to": _HONOURED,
    "run_name": _TRACKED,
    "project": _TRACKED,
    "trackio_space_id": _PUBLISHED,
    "trackio_bucket_id": _PUBLISHED,
    "trackio_static_space_id": _PUBLISHED,
    "eval_strategy": _HONOURED,
    "eval_steps": TrainField("honoured", needs="eval_strategy", values=("steps",)),
    "eval_delay": _HONOURED,
    "per_device_eval_batch_size": _HONOURED,
    "prediction_loss_only": _MEASURED,
    "eval_on_start": _HONOURED,
    "eval_do_concat_batches": _MEASURED,
    "eval_use_gather_object": _MEASURED,
    "eval_accumulation_steps": _HONOURED,
    "include_for_metrics": _MEASURED,
    "batch_eval_metrics": _MEASURED,
    "save_only_model": _HONOURED,
    "save_strategy": _HONOURED,
    "save_steps": TrainField("honoured", needs="save_strategy", values=("steps",)),
    "save_on_each_node": _HONOURED,
    "save_total_limit": _HONOURED,
    "enable_jit_checkpoint": TrainField(
        "refused", "a run that is stopped goes on with --resume from its last checkpoint"
    ),
    "push_to_hub": TrainField("set", "publish a finished run with recipes/push.py"),
    "hub_token": TrainField("set", "log in with `hf auth login` or set HF_TOKEN; a token never goes into a config"),
    "hub_private_repo": _PUBLISHED,
    "hub_model_id": _PUBLISHED,
    "hub_strategy": _PUBLISHED,
    "hub_always_push": _PUBLISHED,
    "hub_revision": _PUBLISHED,
    "load_best_model_at_end": TrainField(
        "set", "the best checkpoint is kept where --train.eval_strategy and --train.save_strategy are the same"
    ),
    "metric_for_best_model": TrainField("set", "choose the metric with --evaluation.decides"),
    "greater_is_better": TrainField("set", "choose the metric with --evaluation.decides"),
    "ignore_data_skip": _HONOURED,
    "restore_callback_states_from_checkpoint": _HONOURED,
    "full_determinism": _HONOURED,
    "seed": _HONOURED,
    "data_seed": _HONOURED,
    "use_cpu": TrainField("set", "start with accelerate launch --cpu"),
    "accelerator_config": _LAUNCHED,
    "parallelism_config": _LAUNCHED,
    "dataloader_drop_last": _HONOURED,
    "dataloader_num_workers": _HONOURED,
    "dataloader_pin_memory": _HONOURED,
    "dataloader_persistent_workers": _WORKING,
    "dataloader_prefetch_factor": _WORKING,
    "dataloader_multiprocessing_context": _WORKING,
    "dataloader_in_order": _WORKING,
    "remove_unused_columns": TrainField("set", "a task's columns are those that its model reads; leave it out"),
    "label_names": TrainField("set", "a task's labels are in the column labels; leave it out"),
    "train_sampling_strategy": _HONOURED,
    "length_column_name": TrainField("set", "the lengths of rows are in the column length; leave it out"),
    "ddp_find_unused_parameters": _HONOURED,
    "ddp_bucket_cap_mb": _HONOURED,
    "ddp_broadcast_buffers": _HONOURED,
    "ddp_static_graph": _HONOURED,
    "ddp_backend": _LAUNCHED,
    "ddp_timeout": _LAUNCHED,
    "fsdp": _FSDP,
    "fsdp_config": _FSDP,
    "deepspeed": TrainField(
        "set", "start with accelerate launch --config_file recipes/accelerate/deepspeed_zero3.yaml"
    ),
    "debug": TrainField("refused", "underflow_overflow fails at masks; try --speed.compute_dtype float32 instead"),
    "skip_memory_metrics": TrainField("refused", "results.json holds the memory that a run takes; leave it out"),
    "do_train": _UNREAD,
    "do_eval": _UNREAD,
    "do_predict": _UNREAD,
    "resume_from_checkpoint": TrainField("set", "use --resume"),
    "local_rank": _LAUNCHED,
}
"""Every field of `TrainingArguments`: those that are not honoured are taken at their default alone."""

RESERVED_TRAIN_FIELDS: Mapping[str, str] = {
    name: part.advice for name, part in TRAIN_FIELDS.items() if part.use != "honoured"
}
"""Fields of the `train` section that the command line does not take, and what to use instead."""

REFUSED_OPTIMIZERS = ("galore", "apollo", "lomo", "adalomo")
"""Beginnings of optimizers' names that change how a gradient is computed."""


def default_run_dir(data: DataConfig, method: str) -> str:
    """Return runs/DATASET-METHOD, the dataset named by its Hub id, its file or its folder."""
    files = [data.train_file] if isinstance(data.train_file, str) else data.train_file
    name = data.named_dataset or (Path(files[0]).name.split(".")[0] if files else Path(str(data.data_dir)).name)
    parts = [name.rsplit("/", 1)[-1], data.subset, method]
    return "runs/" + "-".join(part for part in parts if part)
