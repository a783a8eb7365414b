"""The options of the benchmark."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from startup_llm.config import Count, Fraction, LabelledTextData, Price, Range
from startup_llm.tasks.text_classification.options import TextClassificationModel


@dataclass(frozen=True)
class BenchmarkConfig:
    """Time this package beside the public ways of doing the same, each in a process of its own, taking turns."""

    what: Literal["training", "inference", "causal-lm", "chat", "suggest", "label-faults", "serving"] = "training"
    """training: LoRA on a text classification; inference: the trained architecture's predictions; causal-lm: a
    Llama-style model with random weights on packed text; chat: LoRA of a chat checkpoint, by default the packaged one,
    on prompts with answers; suggest: no timing, but the labels that a linear probe needs to reach `target_accuracy`
    where its rows are chosen as recipes/suggest.py does, beside random choice; label-faults: no timing, but how many
    wrong labels an audit finds, where labels of the rows are changed anew in each repetition; serving: a load test of
    recipes/serve.py with `run`, on this machine's own address, which compares each answer with predict.py's."""
    run: str | None = None
    """Finished run that serving asks its own test rows."""
    clients: list[Count] = field(default_factory=lambda: [1, 8, 32, 200])
    """Clients of serving that ask at once, each its next request after its last answer; one alone, whom the server
    does not let wait for others, is always measured first."""
    seconds: Annotated[float, Range(above=0)] = 40.0
    """How long clients of serving ask, all numbers of them together."""
    requests: Count | None = None
    """Requests of all numbers of clients of serving, at least, such as 100000: the last one goes on until then."""
    serve: list[str] = field(default_factory=list)
    """Further options of serving's server, such as '[--workers, "2"]'."""
    llama: Literal["tiny", "small", "1b"] = "small"
    """The sizes of causal-lm's model: small has 13 million weights, 1b those of Llama 3.2 1B, with blocks of 2,048
    tokens; tiny, with blocks of 16, shows that every way starts."""
    ways: list[str] | None = None
    """Methods to time; default all."""
    rows: Count | list[Count] | None = 1500
    """Training rows, drawn anew where there are fewer; null for each row once. For causal-lm blocks of tokens: 512 of
    the small one. A list of several, such as [1000, 10000, 100000], draws what the work costs against the rows. For
    suggest the most labels to give."""
    dollars_per_hour: Price | None = None
    """Price of this machine, to draw dollars beside seconds."""
    peak_tflops: Annotated[float, Range(above=0)] | None = None
    """What this device's matrix products reach at most, in TFLOP/s; default measured on a CPU, and taken from the data
    sheet of a known GPU."""
    epochs: Count = 1
    """Passes over the training rows."""
    repetitions: Count = 3
    """How often each way is timed; the table gives medians. For suggest the draws of the first labels."""
    accuracy: bool = False
    """Measure the test accuracy after each epoch too."""
    target_accuracy: Fraction = 0.93
    """Test accuracy to reach; the seconds from the start of the process until then are reported."""
    batch_rows: Count = 100
    """Labels that suggest gives between two fits; it begins with data.labels_per_class."""
    features: str | None = None
    """File for the features of suggest (.npz): written where there is none, else read."""
    run_dir: str = "runs/benchmark"
    """Where the table, the figure and the numbers are kept."""
    overwrite: bool = False
    """Replace a finished benchmark."""
    model: TextClassificationModel = field(default_factory=TextClassificationModel)
    data: LabelledTextData = field(default_factory=LabelledTextData)
