"""The figures of a data set's card, computed from the rows, so that none of them was typed.

`python -m startup_llm.hub.dataset_figures data_cards/banking77.md recipes/configs FOLDER` fills each pair of marker
lines `<!-- figures: NAME -->` and `<!-- /figures -->` from the rows that the config NAME.yaml reads; FOLDER stands for
its `data.data_dir`, and is left out for a data set that needs no files.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.audit.personal_data import find_personal_data
from startup_llm.config import DEFAULT_TASK, DataConfig
from startup_llm.data.classification import fold_text
from startup_llm.data.label_balance import count_labels
from startup_llm.data.task_data import SEVERAL_LABELS
from startup_llm.tasks import load_task
from startup_llm.tasks.options import build_section
from startup_llm.written_files import write_atomically

if TYPE_CHECKING:
    import datasets

    from startup_llm.data.task_data import TaskData

_MARKED = re.compile(r"(<!-- figures: (?P<name>\S+) -->\n).*?(<!-- /figures -->)", re.DOTALL)
_SHOWN_LABELS = 20
_MOST_COMPARED_ROWS = 20_000
_NEAR = (0.8, 0.6)
_ROWS_AT_A_TIME = 500
_FORMS: Mapping[str, Callable[[str], Any]] = {
    "hold a question mark": re.compile(r"\?").search,
    "hold a digit": re.compile(r"\d").search,
    "begin with a small letter": lambda text: text[:1].islower(),
    "hold a line break": re.compile(r"[\r\n]").search,
    "begin or end with a blank": lambda text: text != text.strip(),
}


def list_named_configs(card: str) -> list[str]:
    """Return the names of the configs whose rows a card's figures are computed from."""
    return [match["name"] for match in _MARKED.finditer(card)]


def fill_card(card: str, configs: Path, data_dir: str | Path | None = None) -> str:
    """Return the card with its figures computed anew.

    Args:
        card: Markdown with marker lines.
        configs: Folder of the configs that they name.
        data_dir: Where the rows lie; default as the config says.
    """

    def fill(match: re.Match[str]) -> str:
        task, data = read_config(configs / f"{match['name']}.yaml")
        return f"{match[1]}{render_figures(load_rows(task, data, data_dir))}\n{match[3]}"

    return _MARKED.sub(fill, card)


def read_config(path: Path) -> tuple[str, DataConfig]:
    """Return the task and the `data` section of a recipe's config."""
    import yaml

    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    task = content.get("task") or DEFAULT_TASK
    return task, build_section(task, "data", content.get("data") or {})


def load_rows(task: str, data: DataConfig, data_dir: str | Path | None = None) -> TaskData:
    """Load all rows of a data set as a task reads them; no validation rows are cut off.

    Raises:
        UserError: If they cannot be read.
    """
    data = replace(data, validation_fraction=0, max_train_rows=None, max_test_rows=None, remove_overlap=False)
    return load_task(task).load_data(replace(data, data_dir=str(data_dir)) if data_dir else data)


def render_figures(data: TaskData) -> str:
    """Write what is known of the rows as Markdown: counts, lengths, labels, copies, and how the texts are written."""
    blocks = [
        _render_splits(data),
        _render_lengths(data.splits),
        _render_labels(data),
        _render_tags(data.splits),
        list(_render_texts(data)),
    ]
    return "\n\n".join("\n".join(lines) for lines in blocks if lines)


def _render_splits(data: TaskData) -> list[str]:
    names = data.label_names if data.problem_type == "single_label_classification" else ()
    files = {record["split"]: record for record in data.sources}
    lines = ["| split | rows |" + " rows of each label |" * bool(names) + " source | SHA-256 |"]
    lines.append("|---|---:|" + "---|" * bool(names) + "---|---|")
    for split, rows in data.splits.items():
        cells = [split, f"{len(rows):,}"]
        if names:
            cells.append(_describe_counts(np.bincount(rows["label"], minlength=len(names))))
        record = files.get(split) or next(iter(files.values()), {})
        package = (record.get("package") or "").split(" ")[0]
        sources = record.get("files") or [{"path": package, "sha256": record.get("sha256")}]
        cells.append(", ".join(Path(source["path"]).name for source in sources))
        cells.append(", ".join(f"`{source['sha256']}`" for source in sources if source.get("sha256")))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _describe_counts(counts: np.ndarray) -> str:
    if counts.min() == counts.max():
        return f"{counts.min():,}"
    return f"{counts.min():,} to {counts.max():,}, median {np.median(counts):,.0f}"


def _render_lengths(splits: Mapping[str, datasets.Dataset]) -> list[str]:
    lines = ["| split | column | unit | mean | median | 95th percentile | least | most |"]
    lines.append("|---|---|---|---:|---:|---:|---:|---:|")
    for split, rows in splits.items():
        for column in rows.column_names:
            for unit, values in _measure(rows, column):
                figures = [values.mean(), *np.quantile(values, (0.5, 0.95, 0, 1))]
                cells = [split, f"`{column}`", unit, *(_format(figure, whole=unit != "seconds") for figure in figures)]
                cells[3] = _format(figures[0], whole=False)
                lines.append(f"| {' | '.join(cells)} |")
    return lines if len(lines) > 2 else []


def _format(value: float, *, whole: bool) -> str:
    return f"{value:,.0f}" if whole else f"{value:,.2f}" if value < 10 else f"{value:,.1f}"


def _measure(rows: datasets.Dataset, column: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the units in which a column has a length, and each row's; nothing for numbers and flags."""
    import datasets

    feature = rows.features[column]
    if isinstance(feature, datasets.Image):
        sizes = np.array([image.size for image in rows[column]])
        yield from (("pixels wide", sizes[:, 0]), ("pixels high", sizes[:, 1]))
    elif isinstance(feature, datasets.List) and feature.feature == datasets.Value("float32"):
        yield "labels", np.asarray(rows[column]).sum(axis=1)  # 0/1 for each label
    elif isinstance(feature, (datasets.List, datasets.LargeList)):
        yield "items", np.array([len(value or ()) for value in rows.with_format("arrow")[column].to_pylist()])
    elif column == "seconds":
        yield "seconds", np.array(rows[column])
    elif getattr(feature, "dtype", None) in ("string", "large_string") and column != "digest":
        yield "words", np.array([len((text or "").split()) for text in rows[column]])


def _render_labels(data: TaskData) -> list[str]:
    if not data.label_names:
        return []
    names = ", ".join(f"`{name}`" for name in data.label_names)
    if data.problem_type == SEVERAL_LABELS:
        return [f"{len(data.label_names)} labels: {names}. {_describe_label_counts(data)}"]
    if data.problem_type != "single_label_classification":
        return [f"{len(data.label_names)} labels: {names}."]
    counts = np.bincount(data.splits["train"]["label"], minlength=len(data.label_names))
    sentences = [f"{len(data.label_names)} labels{f': {names}' * (len(data.label_names) <= _SHOWN_LABELS)}."]
    if counts.min() < counts.max():
        order = np.argsort(counts, kind="stable")
        rarest = ", ".join(f"`{data.label_names[i]}` ({counts[i]:,})" for i in order[:3])
        largest_class = f"`{data.label_names[order[-1]]}` ({counts[order[-1]]:,})"
        sentences.append(f"The rarest in training are {rarest}; the most frequent is {largest_class}.")
    if "test" in data.splits:
        share = np.mean(np.asarray(data.splits["test"]["label"]) == counts.argmax())
        sentence = f"Always answering with the most frequent one is right for {_format_share(share)} of the test rows."
        sentences.append(sentence)
    return [" ".join(sentences)]


def _describe_label_counts(data: TaskData) -> str:
    """Name the rarest and the most frequent of several labels, and the share of training rows without any."""
    counted = count_labels(data.splits["train"], data.label_names)
    most, least = counted.largest, counted.smallest
    sentence = (
        f"The rarest in training is `{counted.names[least]}` ({counted.counts[least]:,}), the most frequent "
        f"`{counted.names[most]}` ({counted.counts[most]:,}); "
    )
    return f"{sentence}{_format_share(counted.unlabelled / counted.rows)} of the training rows have no label."


def _render_tags(splits: Mapping[str, datasets.Dataset]) -> list[str]:
    """Count each tag of a column that has one for each word."""
    import datasets

    tables = []
    for column, feature in splits["train"].features.items():
        kind = getattr(feature, "feature", None)
        if not isinstance(kind, datasets.ClassLabel):
            continue
        counts = {
            split: np.bincount(
                np.concatenate([np.asarray(tags, np.int64) for tags in rows[column]]), minlength=kind.num_classes
            )
            for split, rows in splits.items()
        }
        tables += [f"| `{column}` | {' | '.join(counts)} |", "|---|" + "---:|" * len(counts)]
        for place, name in enumerate(kind.names):
            tables.append(f"| `{name}` | {' | '.join(f'{count[place]:,}' for count in counts.values())} |")
    return tables


def _format_share(share: float) -> str:
    return f"{100 * share:.1f} %"


def _render_texts(data: TaskData) -> Iterator[str]:
    """Describe the texts of the column `text` and its pair: their form, copies, nearness and personal data."""
    columns = [name for name in ("text", "text_pair") if name in data.splits["train"].column_names]
    if not columns or any(data.splits["train"].features[name].dtype != "string" for name in columns):
        return
    texts = {split: _join(rows, columns) for split, rows in data.splits.items()}
    every = [text for split in texts.values() for text in split]
    if data.problem_type and len(columns) == 1:
        yield _describe_form(every)
    yield _describe_personal_data(every)
    yield _describe_copies(texts)
    if data.problem_type and "test" in texts and len(every) <= _MOST_COMPARED_ROWS:
        labels = data.splits if data.problem_type == "single_label_classification" else None
        if sentence := _describe_nearness(texts["train"], texts["test"], labels):
            yield sentence


def _describe_form(texts: Sequence[str]) -> str:
    shares = {name: float(np.mean([bool(test(text)) for text in texts])) for name, test in _FORMS.items()}
    return f"- Form: of all texts {', '.join(f'{_format_share(share)} {name}' for name, share in shares.items())}."


def _describe_personal_data(texts: Sequence[str]) -> str:
    counts = {kind: len(positions) for kind, positions in find_personal_data(texts).items()}
    listed = ", ".join(f"{count:,} {kind.replace('_', ' ')}" for kind, count in counts.items()) or "none found"
    return f"- Personal data by its form (e-mail, IBAN, card, IP address, telephone): {listed}."


def _join(rows: datasets.Dataset, columns: Sequence[str]) -> list[str]:
    return ["\n".join(texts) for texts in zip(*(rows[column] for column in columns), strict=True)]


def _describe_copies(texts: Mapping[str, Sequence[str]]) -> str:
    folded = {split: [fold_text(text) for text in values] for split, values in texts.items()}
    sentences = [
        f"{len(values) - len(set(values)):,} rows of {split} repeat another" for split, values in folded.items()
    ]
    sentences += [
        f"{sum(text in known for text in folded[later]):,} of {later} occur in {earlier} too"
        for earlier, later, known in _pair_splits(folded)
    ]
    return f"- Copies, case and white space ignored: {', '.join(sentences)}."


def _pair_splits(folded: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, str, set[str]]]:
    names = list(folded)
    for place, earlier in enumerate(names):
        known = set(folded[earlier])
        for later in names[place + 1 :]:
            yield earlier, later, known


def _describe_nearness(train: Sequence[str], test: Sequence[str], labels: Any) -> str:
    """Say how near the nearest training row of each test row is: a good score is partly one for recognising it."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(3, 5), lowercase=True)
    try:
        known = vectorizer.fit_transform(train)
    except ValueError:  # no text has three characters
        return ""
    asked = vectorizer.transform(test)
    nearest, cosine = [], []
    for start in range(0, len(test), _ROWS_AT_A_TIME):
        products = (asked[start : start + _ROWS_AT_A_TIME] @ known.T).toarray()
        nearest.append(products.argmax(axis=1))
        cosine.append(products.max(axis=1))
    cosine, nearest = np.concatenate(cosine), np.concatenate(nearest)
    counts = ", ".join(f"at {limit} or above for {(cosine >= limit).sum():,}" for limit in _NEAR)
    sentence = (
        "- Nearness: by the cosine of TF-IDF vectors of 3 to 5 characters, the nearest training row of a test row is "
        f"at {np.median(cosine):.2f} in the median, {counts} of {len(test):,}"
    )
    if labels is not None:
        same = np.asarray(labels["train"]["label"])[nearest] == np.asarray(labels["test"]["label"])
        sentence += f"; it has the test row's label for {same.sum():,}"
    return f"{sentence}."


def count_rows(data: TaskData) -> dict[str, int]:
    """Return the number of rows of each split, as a card's `dataset_info` has them."""
    return {split: len(rows) for split, rows in data.splits.items()}


def main(card: Path, configs: Path, data_dir: str | None = None) -> None:
    """Compute a card's figures anew.

    Args:
        card: Markdown file with marker lines.
        configs: Folder of the configs that they name.
        data_dir: Where the rows lie; default as the config says.
    """
    write_atomically(card, fill_card(card.read_text(encoding="utf-8"), configs, data_dir))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
