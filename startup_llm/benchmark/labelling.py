"""Labels that a model needs when its rows are suggested, beside rows drawn at random: a simulation on labelled rows.

The encoder stays frozen, so that its features are computed once; each round fits the linear probe anew.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.errors import UserError, nearest
from startup_llm.evaluation.report import THEME
from startup_llm.training.probe import INVERSE_REGULARISATION, compute_feature_norm
from startup_llm.training.selection import choose_rows, compute_uncertainty, find_new_texts

if TYPE_CHECKING:
    from startup_llm.benchmark.options import BenchmarkConfig
    from startup_llm.data.task_data import TaskData


@dataclass(frozen=True)
class LabelledRows:
    """Rows that are all labelled, of which the simulation shows the labels one batch after the other.

    Attributes:
        data: The rows.
        texts: Of the training rows.
        train: Features of the training rows at a mean norm of 1, shape (rows, width).
        test: Of the test rows.
    """

    data: TaskData
    texts: list[str]
    train: np.ndarray
    test: np.ndarray


def check_labelling(config: BenchmarkConfig) -> list[str]:
    """Return the ways of choosing rows that are simulated.

    Raises:
        UserError: If there is no such way, or options do not go together.
    """
    ways = config.ways or list(WAYS)
    for way in ways:
        if way not in WAYS:
            raise UserError(f"ways: unknown way {way}{nearest(way, WAYS)}; of suggest: {', '.join(WAYS)}")
    if isinstance(config.rows, list):
        raise UserError(f"rows {config.rows}: expected the most labels to give, one number, or null for all")
    if config.data.labels_per_class is None:
        raise UserError(
            "data.labels_per_class is not given; it says how many labels the simulation begins with, such as 5"
        )
    return ways


def load_rows(config: BenchmarkConfig) -> LabelledRows:
    """Load the rows, and compute or read the features of a frozen encoder.

    Raises:
        UserError: If the rows have not one label each, or the file of features belongs to other rows.
    """
    import dataclasses

    from startup_llm.tasks import load_task
    from startup_llm.tasks.text_classification.baselines import join_pairs

    task = load_task("text-classification")
    data = task.load_data(dataclasses.replace(config.data, labels_per_class=None))
    if not task.has_one_label(data):
        raise UserError(f"suggest: expected rows with one label each, got {data.problem_type}")
    texts = {name: join_pairs(data.splits[name]) for name in ("train", "test")}
    key = hashlib.sha256("\n".join([str(config.model), *texts["train"], "", *texts["test"]]).encode()).hexdigest()
    file = Path(config.features) if config.features else None
    if file is not None and file.is_file():
        features = _read_features(file, key)
    else:
        features = _compute_features(task, config, data)
        if file is not None:
            with file.open("wb") as stream:
                np.savez(stream, key=np.array(key), **features)
    norm = np.float32(compute_feature_norm(features["train"]))
    return LabelledRows(data, texts["train"], features["train"] / norm, features["test"] / norm)


def _read_features(file: Path, key: str) -> dict[str, np.ndarray]:
    try:
        with np.load(file, allow_pickle=False) as stored:
            if str(stored["key"]) == key:
                return {name: stored[name] for name in ("train", "test")}
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise UserError(f"features {file} cannot be read ({error}); name another file") from None
    raise UserError(f"features {file} are of other rows, or of another model; name another file")


def _compute_features(task: Any, config: BenchmarkConfig, data: TaskData) -> dict[str, np.ndarray]:
    from startup_llm.tasks.checkpoint import load_task_checkpoint
    from startup_llm.training.inference import extract_features
    from startup_llm.training.speed import plan_speed

    checkpoint, plan = load_task_checkpoint(task, config.model), plan_speed().exact()
    processor = task.load_processor(checkpoint, config.model)
    model = task.build_model(checkpoint, processor, data, config.model, None).model.to(plan.device)
    return {
        name: extract_features(task, model, task.encode(data.splits[name], processor)[0], processor, plan)
        for name in ("train", "test")
    }


def simulate_labelling(way: str, draw: int, rows: LabelledRows, config: BenchmarkConfig) -> Iterator[dict[str, Any]]:
    """Give labels in batches until the probe reaches the accuracy, or no more are to be given.

    Args:
        way: A key of `WAYS`.
        draw: Number of the draw of the first labels; both ways begin a draw with the same.
        rows: The rows.
        config: Sizes and the accuracy.

    Yields:
        How many labels were given, and the test accuracy with them.
    """
    from sklearn.linear_model import LogisticRegression

    from startup_llm.data.classification import draw_rows_per_class

    data, seed = rows.data, config.data.split_seed + draw
    labels, answers = (np.asarray(data.splits[name]["label"]) for name in ("train", "test"))
    first, unlabelled = draw_rows_per_class(labels, config.data.labels_per_class, seed, data.label_names)
    is_labelled, is_new = np.zeros((2, len(labels)), bool)
    is_labelled[first] = True
    known = [rows.texts[place] for place in first]
    is_new[unlabelled[find_new_texts([rows.texts[place] for place in unlabelled], known).positions]] = True
    most = config.rows if isinstance(config.rows, int) else len(labels)
    generator = np.random.default_rng(seed)
    probe = LogisticRegression(C=INVERSE_REGULARISATION, max_iter=1000, warm_start=True)  # as a run's linear probe
    while True:
        probe.fit(rows.train[is_labelled], labels[is_labelled])
        accuracy = float((probe.predict(rows.test) == answers).mean())
        given = int(is_labelled.sum())
        yield {"labels": given, "accuracy": accuracy}
        count = min(config.batch_rows, most - given, int((~is_labelled & is_new).sum()))
        if accuracy >= config.target_accuracy or count <= 0:
            return
        pool = np.flatnonzero(~is_labelled & (is_new | (way != "suggested")))
        is_labelled[pool[WAYS[way](rows.train[pool], probe, count, generator)]] = True


def _suggest(features: np.ndarray, probe: Any, count: int, generator: np.random.Generator) -> np.ndarray:
    """Choose as recipes/suggest.py does."""
    uncertainty = compute_uncertainty(probe.predict_proba(features))
    return choose_rows(features, uncertainty, count, int(generator.integers(2**31)))[0]


def _take_least_margin(features: np.ndarray, probe: Any, count: int, generator: np.random.Generator) -> np.ndarray:
    """Choose the most unsure rows, alike or not."""
    return np.argsort(-compute_uncertainty(probe.predict_proba(features)), kind="stable")[:count]


def _draw(features: np.ndarray, probe: Any, count: int, generator: np.random.Generator) -> np.ndarray:
    """Draw rows at random."""
    return generator.choice(len(features), count, replace=False)


WAYS: Mapping[str, Callable[..., np.ndarray]] = {
    "suggested": _suggest,
    "least-margin": _take_least_margin,
    "random": _draw,
}
"""From features of rows without labels, the probe, how many and a generator to the places of the next ones."""


def summarize_labelling(curves: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]], target: float) -> dict[str, Any]:
    """Return for each way the labels that it needed in each draw, and the accuracy on the way.

    Args:
        curves: Per way and draw, what `simulate_labelling` yields.
        target: The accuracy to reach.

    Returns:
        Per way `labels`, None for a draw that did not reach it, their mean, and `accuracy` by number of labels, the
        mean over the draws, as far as every draw has it.
    """
    summary: dict[str, Any] = {}
    for way, draws in curves.items():
        needed = [next((step["labels"] for step in draw if step["accuracy"] >= target), None) for draw in draws]
        reached = [labels for labels in needed if labels is not None]
        steps = list(zip(*draws, strict=False))
        summary[way] = {
            "labels": needed,
            "mean_labels": float(np.mean(reached)) if len(reached) == len(needed) else None,
            "accuracy": {step[0]["labels"]: float(np.mean([draw["accuracy"] for draw in step])) for step in steps},
        }
    return summary


def build_labelling_table(results: Mapping[str, Any]) -> str:
    """Return a Markdown table: the labels that each way needed, and their share of those of random choice."""
    target, summary = results["target_accuracy"], results["summary"]
    at_random = summary.get("random", {}).get("mean_labels")
    lines = [
        f"| rows chosen by | labels to {target:.0%} accuracy | draws | of random choice |",
        "|---|---|---|---|",
    ]
    for way, figures in summary.items():
        mean = figures["mean_labels"]
        draws = ", ".join("not reached" if labels is None else f"{labels:,}" for labels in figures["labels"])
        share = f"{mean / at_random:.0%}" if mean and at_random else ""
        lines.append(f"| {way} | {'not reached' if mean is None else f'{mean:,.0f}'} | {draws} | {share} |")
    return "\n".join(lines)


def draw_labelling(results: Mapping[str, Any], title: str, path: Path) -> None:
    """Draw the accuracy over the labels: each draw thin, their mean thick.

    Args:
        results: With target_accuracy, curves and summary.
        title: What was simulated.
        path: PNG file to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    colors = dict(zip(results["curves"], (THEME[name][0] for name in ("accent", "second", "muted")), strict=False))
    for way, draws in results["curves"].items():
        for draw in draws:
            axes.plot(
                [step["labels"] for step in draw],
                [100 * step["accuracy"] for step in draw],
                color=colors[way],
                alpha=0.3,
                linewidth=0.9,
            )
        mean = results["summary"][way]["accuracy"]
        places = [int(labels) for labels in mean]
        axes.plot(places, [100 * value for value in mean.values()], color=colors[way], linewidth=2.2, label=way)
    axes.axhline(100 * results["target_accuracy"], color=THEME["line"][0], linewidth=1)
    axes.set(xlabel="labelled rows", ylabel="test accuracy")
    axes.yaxis.set_major_formatter("{x:g} %")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_title(title, loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=150)
