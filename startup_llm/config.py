"""The configuration of a run: small frozen dataclasses, one YAML, dotted overrides.

The string under each field is its documentation and its `--help`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]


@dataclass(frozen=True)
class ModelConfig:
    """The pretrained checkpoint."""

    checkpoint: str = "sentence-transformers/all-MiniLM-L6-v2"
    """Hub id, local folder, or the packaged sentence-transformers/all-MiniLM-L6-v2."""
    revision: str | None = None
    """Hub branch, tag or commit of the checkpoint."""
    trust_remote_code: bool = False
    """Run Python code that comes with the checkpoint. Leave off unless you have read that code."""
    pooling: Literal["auto", "mean", "cls", "last", "native"] = "auto"
    """How token features become one vector; auto follows the checkpoint, native is the architecture's own head."""
    max_length_tokens: int = 256
    """Longer texts are cut to this many tokens; the run says how many."""


@dataclass(frozen=True)
class DataConfig:
    """Where the rows come from and what their columns mean."""

    dataset: str | None = None
    """Hub dataset id such as nyu-mll/glue, or a shipped one (helpdesk). Default: helpdesk, where no file is named."""
    subset: str | None = None
    """Subset (configuration) of the Hub dataset, such as sst2."""
    revision: str | None = None
    """Hub branch, tag or commit of the dataset."""
    data_dir: str | None = None
    """Local folder with the split files (train, validation/valid/dev/val, test); used instead of the Hub."""
    train_file: str | list[str] | None = None
    """CSV, TSV, JSONL or Parquet file(s), gzip allowed."""
    validation_file: str | list[str] | None = None
    """File(s) of the validation split."""
    test_file: str | list[str] | None = None
    """File(s) of the test split."""
    text_column: str | None = None
    """Column with the text; found by itself where that is unambiguous."""
    text_pair_column: str | None = None
    """Column with the second text of a pair."""
    label_column: str | list[str] | None = None
    """Column with the label; several columns of 0/1 make a multi-label task."""
    group_column: str | None = None
    """Rows that share this column's value stay on the same side of a split (the same customer, say)."""
    problem_type: Literal["auto", "single_label_classification", "multi_label_classification", "regression"] = "auto"
    """What a label is; auto decides by the label column's values and says so."""
    train_split: str | None = None
    """Name of the Hub split to train on, where it is not train."""
    validation_split: str | None = None
    """Name of the Hub split to validate on, where it is not validation (validation_matched for GLUE's mnli)."""
    test_split: str | None = None
    """Name of the Hub split to test on, where it is not test (GLUE hides its test labels: use validation)."""
    validation_fraction: float = 0.1
    """Share of the training rows kept for validation where no validation split is given; 0 for none."""
    test_fraction: float = 0.2
    """Share of the rows kept for the test where no test split is given."""
    split_seed: int = 0
    """Seed of the splits made here."""
    remove_overlap: bool = False
    """Remove from training the rows that stand in the test split too."""
    max_train_rows: int | None = None
    """Train on at most this many rows, drawn by split_seed."""
    max_test_rows: int | None = None
    """Test on at most this many rows, drawn by split_seed."""


@dataclass(frozen=True)
class LoraConfig:
    """The adapter (Hu et al. 2021, https://arxiv.org/abs/2106.09685)."""

    rank: int = 16
    """Rank r of the update B A."""
    alpha: float = 32.0
    """The update is scaled by alpha / rank."""
    dropout: float = 0.0
    """Dropout on the adapter's input."""
    target_modules: list[str] | None = None
    """Names of the linear layers to adapt; default: every linear layer of the transformer blocks."""


@dataclass(frozen=True)
class EvaluationConfig:
    """How the numbers are made."""

    confidence_level: float = 0.95
    """Level of the intervals."""
    resamples: int = 2000
    """Bootstrap resamples of the test rows."""
    seed: int = 0
    """Seed of the bootstrap."""
    tuned_baselines: bool = False
    """Pick each baseline's settings by cross-validation on the training rows instead of fixed ones."""


@dataclass(frozen=True)
class FinetuneConfig:
    """Fine-tune a pretrained checkpoint and compare it with honest baselines."""

    task: str = "text-classification"
    """Hub pipeline tag of the task."""
    method: Literal["lora", "full", "probe"] = "lora"
    """lora: adapter and head; full: every weight; probe: a linear head on frozen features."""
    run_dir: str | None = None
    """Where the run is kept; default runs/DATASET-METHOD."""
    overwrite: bool = False
    """Replace a finished run."""
    resume: bool = False
    """Go on from the last checkpoint of an interrupted run."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
