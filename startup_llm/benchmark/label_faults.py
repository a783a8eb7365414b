"""How many wrong labels an audit finds: labels of a public set are changed, and its suspects compared with them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.audit.label_faults import EncodeTexts, find_suspect_labels
from startup_llm.audit.near_duplicates import find_near_duplicates
from startup_llm.audit.text_features import PACKAGED_ENCODER, load_text_encoder
from startup_llm.data.classification import load_labelled_text
from startup_llm.errors import UserError

if TYPE_CHECKING:
    from startup_llm.benchmark.options import BenchmarkConfig

SHARE = 0.06
"""Share of the labels that are changed."""
_SHORTEST_BLOCK, _LONGEST_BLOCK = 5, 30
_CONFUSABLE = 3
_NEAR = 0.8

Noise = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]


def shift_blocks(codes: np.ndarray, features: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Name blocks of 5 to 30 rows that follow on each other within a class as the class that comes next in the file.

    At most half of a class is renamed.

    Args:
        codes: The labels in the order of the file, shape (rows,).
        features: Of the texts; not used.
        generator: Draws the classes, the places and the lengths.
    """
    order = codes[np.sort(np.unique(codes, return_index=True)[1])]
    following = dict(zip(order.tolist(), np.roll(order, -1).tolist(), strict=True))
    changed, renamed, target = codes.copy(), np.zeros(len(codes), bool), round(SHARE * len(codes))
    while renamed.sum() < target:
        rows = np.flatnonzero(codes == generator.choice(order))
        most = min(int(generator.integers(_SHORTEST_BLOCK, _LONGEST_BLOCK + 1)), target - int(renamed.sum()))
        start = int(generator.integers(0, max(len(rows) - most, 0) + 1))
        block = rows[start : start + most]
        if not renamed[block].any() and renamed[rows].sum() + len(block) <= len(rows) // 2:
            changed[block], renamed[block] = following[int(codes[block[0]])], True
    return changed


def change_at_random(codes: np.ndarray, features: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Give rows that are drawn at random any other label, each as likely.

    Args:
        codes: The labels, shape (rows,).
        features: Of the texts; not used.
        generator: Draws rows and labels.
    """
    count, changed = int(codes.max()) + 1, codes.copy()
    rows = generator.choice(len(codes), round(SHARE * len(codes)), replace=False)
    changed[rows] = (codes[rows] + generator.integers(1, count, len(rows))) % count
    return changed


def confuse_classes(codes: np.ndarray, features: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Give rows that are drawn at random one of the three labels whose texts are most like those of their own.

    Args:
        codes: The labels, shape (rows,).
        features: Of the texts, shape (rows, width), whose means are compared by their cosine.
        generator: Draws rows and labels.
    """
    means = np.stack([features[codes == code].mean(axis=0) for code in range(int(codes.max()) + 1)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    likeness = means @ means.T
    np.fill_diagonal(likeness, -np.inf)
    nearest = np.argsort(-likeness, axis=1)[:, :_CONFUSABLE]
    changed = codes.copy()
    rows = generator.choice(len(codes), round(SHARE * len(codes)), replace=False)
    changed[rows] = nearest[codes[rows], generator.integers(0, nearest.shape[1], len(rows))]
    return changed


NOISES: Mapping[str, Noise] = {
    "blocks of a class named as the next one": shift_blocks,
    "labels changed at random": change_at_random,
    "labels changed to one of the three most alike": confuse_classes,
}


def measure_label_faults(config: BenchmarkConfig, report: Callable[[str], None]) -> dict[str, Any]:
    """Change labels in each way, several times, and count which of them are found.

    Args:
        config: Names the rows, and how often labels are changed anew: its repetitions are the seeds 0, 1, ...
        report: Told of each round.

    Returns:
        `rows`, `share`, `encoding_seconds`, `checkpoint` and `tables`: per noise a list of figures by the rows' order
        and the method: recall, precision (mean, low, high over the seeds), and seconds of the search.

    Raises:
        UserError: If the rows do not have one of several labels each.
    """
    data = load_labelled_text(config.data)
    if data.problem_type != "single_label_classification":
        raise UserError(f"--what label-faults: the labels are a {data.problem_type}; expected one class per row")
    given = {record["split"] for record in data.sources} - {"train"}
    rows = [row for name, split in data.splits.items() if name not in given for row in split]
    rows.sort(key=lambda row: row["row"])
    texts, codes = [row["text"] for row in rows], np.array([row["label"] for row in rows])
    codes = np.unique(codes, return_inverse=True)[1]
    groups = _group_copies(texts)
    encoder = load_text_encoder(config.model.checkpoint or PACKAGED_ENCODER)
    start = time.perf_counter()
    features = encoder(texts)
    seconds = time.perf_counter() - start
    report(f"{len(texts):,} rows of {codes.max() + 1} labels; encoded in {seconds:.0f} s")
    tables = {}
    for name, noise in NOISES.items():
        figures: dict[tuple[str, str], list[dict[str, float]]] = {}
        for seed in range(config.repetitions):
            changed = noise(codes, features, np.random.default_rng(seed))
            for order in ("file", "shuffled"):
                places = np.arange(len(codes))
                if order == "shuffled":
                    places = np.random.default_rng(seed).permutation(len(codes))
                for method, encode in (("features", encoder), ("words", None)):
                    found = _search(texts, codes, changed, groups, places, encode, seed)
                    figures.setdefault((order, method), []).append(found)
            report(f"{name}, seed {seed}: " + "; ".join(_describe(key, runs[-1]) for key, runs in figures.items()))
        tables[name] = [
            {"order": order, "method": method, **{key: _summarize([run[key] for run in runs]) for key in runs[0]}}
            for (order, method), runs in figures.items()
        ]
    return {
        "rows": len(texts),
        "labels": int(codes.max()) + 1,
        "share": SHARE,
        "seeds": config.repetitions,
        "checkpoint": encoder.checkpoint.name,
        "encoding_seconds": seconds,
        "tables": tables,
    }


def _group_copies(texts: Sequence[str]) -> np.ndarray:
    """Return a number for each text that copies and near-copies share."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs, _ = find_near_duplicates(list(texts), _NEAR)
    graph = coo_array((np.ones(len(pairs), bool), pairs.T), shape=(len(texts),) * 2)
    return connected_components(graph, directed=False)[1]


def _search(
    texts: Sequence[str],
    codes: np.ndarray,
    changed: np.ndarray,
    groups: np.ndarray,
    places: np.ndarray,
    encode: EncodeTexts | None,
    seed: int,
) -> dict[str, float]:
    """Search rows in an order, and return recall and precision of the suspects, and how long it took."""
    is_wrong = (codes != changed)[places]
    labels = [f"{label:05d}" for label in changed[places]]
    start = time.perf_counter()
    found = find_suspect_labels([texts[place] for place in places], labels, groups[places], seed, encode=encode)
    seconds = time.perf_counter() - start
    right = int(is_wrong[found.positions].sum())
    return {
        "recall": right / max(int(is_wrong.sum()), 1),
        "precision": right / max(len(found.positions), 1),
        "seconds": seconds,
    }


def _summarize(values: Sequence[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "low": float(min(values)), "high": float(max(values))}


def _describe(key: tuple[str, str], run: Mapping[str, float]) -> str:
    return f"{' '.join(key)} recall {run['recall']:.2f} precision {run['precision']:.2f}"


def build_label_fault_tables(results: Mapping[str, Any]) -> str:
    """Write the figures as Markdown, a table per noise.

    Args:
        results: What `measure_label_faults` returns.
    """
    parts = [
        f"{results['share']:.0%} of the labels of {results['rows']:,} rows of {results['labels']} labels; means over "
        f"{results['seeds']} seeds, with the least and the greatest. Features are those of {results['checkpoint']}."
    ]
    for name, figures in results["tables"].items():
        lines = [
            f"**{name[0].upper()}{name[1:]}**",
            "",
            "| rows in the order of | judged by | recall | precision |",
        ]
        lines.append("|---|---|---|---|")
        for row in figures:
            order = "the file, sorted by label" if row["order"] == "file" else "chance"
            cells = [_show(row["recall"]), _show(row["precision"])]
            lines.append(f"| {order} | {row['method']} | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _show(figure: Mapping[str, float]) -> str:
    return f"{figure['mean']:.2f} ({figure['low']:.2f} to {figure['high']:.2f})"
