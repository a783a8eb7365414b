"""Texts that are to be found for a text, and pairs of texts with a score of how alike they are."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.config import LabelledTextData, convert_section
from startup_llm.data.bad_rows import BadRows, Fault, find_column_faults
from startup_llm.data.classification import load_labelled_text
from startup_llm.data.columns import LABEL_NAMES, NoLabelColumnError, find_columns, list_columns
from startup_llm.data.row_source import RowSource
from startup_llm.data.sources import LoadedData, hash_file, load_splits, read_options
from startup_llm.data.splits import make_splits, sample_rows
from startup_llm.data.task_data import TaskData
from startup_llm.data.text_reading import AS_IT_STANDS, TextReading, clean_columns, join_columns
from startup_llm.errors import UserError, fold_name, nearest
from startup_llm.models.unit_vectors import scale_to_norm_one
from startup_llm.plain_data import read_text
from startup_llm.tasks.sentence_similarity.options import SimilarityData

if TYPE_CHECKING:
    import datasets

TEXT_COLUMNS = ("text", "text_pair", "negative")
"""Columns of a row's texts, of which the first alone is always there."""

QUERY_NAMES = ("query", "anchor", "question", "sentence1", "text", "premise")
POSITIVE_NAMES = ("positive", "answer", "passage", "response", "sentence2", "text_pair", "hypothesis", "document")
TITLE_NAMES = ("title", "subject", "heading", "headline")
ARTICLE_NAMES = ("text", "body", "content", "article", "description")
SCORE_NAMES = ("score", "similarity", "similarity_score", "label")
PARALLEL_NAMES = {"sentence1": "sentence2", "text": "text_pair", "premise": "hypothesis"}
MOST_FOUND = 100
"""So many documents are found for a query; metrics read no further."""
_QRELS = {"train": ("train",), "validation": ("dev", "validation", "valid"), "test": ("test",)}


@dataclass(frozen=True)
class _Judgements:
    """What belongs to what in a split, one entry per pair of a query and a document that is relevant to it.

    `negatives` holds each pair's document that is not relevant, where the rows name one.
    """

    queries: list[str]
    documents: list[str]
    grades: list[int]
    rows: list[int]
    negatives: list[str] | None = None


def load_similarity(data: SimilarityData) -> TaskData:
    """Load texts to compare, in one of four forms.

    - A query and a text that answers it, perhaps one that does not (`query` or `anchor`, `positive` or `answer`,
      `negative`): the texts of all splits are searched by the queries of the test split.
    - A folder in the form of BEIR (Thakur et al. 2021): `corpus.jsonl`, `queries.jsonl`, `qrels/SPLIT.tsv`; on the
      Hub by data.corpus_subset and data.queries_subset.
    - Two texts and how alike they are (`sentence1`, `sentence2`, `score`).
    - Texts with a label: texts of one label are relevant to each other. The training texts are searched.

    Returns:
        For pairs with a score the splits have text, text_pair, label (float64) and row. Else train and validation
        have text, text_pair (relevant to it), perhaps negative, groups (int64 per text: texts of one group are never
        negatives of each other) and row; test has text, relevant (places in the corpus with their grades) and row;
        and the corpus has id and text.

    Raises:
        UserError: If columns or files are missing, or texts, scores or labels cannot be used and data.skip_bad is off.
    """
    folder = Path(data.data_dir) if data.data_dir else None
    if folder is not None and _find_lines(folder, "corpus"):
        return _load_judged_folder(folder, data)
    if data.corpus_subset and folder is None and not data.train_file:
        return _load_judged_subsets(data)
    reading = TextReading.of_config(vars(data))
    loaded = load_splits(data)
    joined, data, join_notes = join_columns(loaded.splits, data)
    loaded = replace(loaded, splits=joined, notes=[*loaded.notes, *join_notes])
    names = loaded.splits["train"].column_names
    pair, score = _find_pair(names, data), _find_score(names, data)
    if pair is None and (article := _find_article(names, data)):
        pair = article
        note = (
            f"The rows are articles without a query: each text (column {pair[1]!r}) is to be found by its title "
            f"({pair[0]!r}). --method zero-shot searches them with the checkpoint as it is."
        )
        loaded = replace(loaded, notes=[*loaded.notes, note])
    if pair is not None:
        texts = [*pair, data.negative_column or "negative"]
        cleaned, cleaning_notes = clean_columns(loaded.splits, texts, reading)
        loaded = replace(loaded, splits=cleaned, notes=[*loaded.notes, *cleaning_notes])
    if pair is not None or reading.columns:
        data = replace(data, clean=None)  # it is done
    if pair is None:
        labelled = convert_section(data, LabelledTextData, label_separator="none")
        return _group_by_label(_load_labelled(loaded, labelled))
    if score is not None:
        columns = {"text_column": pair[0], "text_pair_column": pair[1], "label_column": score}
        scored = convert_section(data, LabelledTextData, **columns, problem_type="regression")
        return replace(_load_labelled(loaded, scored), problem_type="")
    return _load_pairs(loaded, pair, data)


def rank_best(scores: np.ndarray, count: int = MOST_FOUND) -> list[list[int]]:
    """Return for each row the places of its highest scores, best first; of equal ones the first.

    Args:
        scores: Shape (queries, documents).
        count: How many places.
    """
    count = min(count, scores.shape[1])
    best = np.argpartition(-scores, count - 1, axis=1)[:, :count]
    best.sort(axis=1)
    order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
    return np.take_along_axis(best, order, axis=1).tolist()


def rank_nearest(queries: np.ndarray, documents: np.ndarray, count: int = MOST_FOUND) -> list[list[int]]:
    """Return for each query the places of the documents with the highest cosine, best first.

    Args:
        queries: Vectors, shape (queries, width).
        documents: Vectors, shape (documents, width).
        count: How many places.
    """
    queries, documents = scale_to_norm_one(queries), scale_to_norm_one(documents)
    return [
        ranking
        for start in range(0, len(queries), 256)
        for ranking in rank_best(queries[start : start + 256] @ documents.T, count)
    ]


def read_corpus(file: str | Path, reading: TextReading = AS_IT_STANDS) -> list[dict[str, str]]:
    """Read texts to search from a table: id (else the row's number, from 1) and text.

    Args:
        file: CSV, TSV, JSONL or Parquet, gzip allowed.
        reading: How the run makes its texts, which are joined where the table has no text but the columns of it.

    Raises:
        UserError: If the file cannot be read, or holds no texts.
    """
    path = Path(file)
    if not path.is_file():
        raise UserError(f"corpus {file}: no such file; expected a table with a column text")
    table = RowSource(str(path)).read_table()
    columns = table.to_pydict()
    name = next((n for n in ("text", "document", "passage", "positive") if n in columns), reading.name)
    if name in columns:
        texts = reading.clean(columns[name])
    elif reading.columns and set(reading.columns) <= columns.keys():
        texts = reading.join(columns)
    else:
        raise UserError(f"corpus {file}: no column {name or 'text'!r} among {list_columns(table.column_names)}")
    if faults := find_column_faults(texts, name):
        raise UserError(f"corpus {file} row {faults[0].row}: {faults[0].reason}; fill it in or take the row out")
    key = next((n for n in ("id", "_id") if n in table.column_names), None)
    ids = table[key].to_pylist() if key else range(1, len(texts) + 1)
    return [{"id": str(identity), "text": text} for identity, text in zip(ids, texts, strict=True)]


def _find_pair(names: Sequence[str], data: SimilarityData) -> tuple[str, str] | None:
    """Return the columns of the two texts; None where each row has one text."""
    for option, column in (
        ("text_column", data.text_column),
        ("text_pair_column", data.text_pair_column),
        ("negative_column", data.negative_column),
    ):
        if isinstance(column, str) and column not in names:
            among = list_columns(names, column)
            raise UserError(f"data.{option}: no column {column!r} among {among}{nearest(column, names)}")
    text_column = data.text_column if isinstance(data.text_column, str) else None  # several were joined before
    if text_column and data.text_pair_column:
        return text_column, data.text_pair_column
    if text_column and data.label_column:
        return None
    query = text_column or next((name for name in QUERY_NAMES if name in names), None)
    usual = [PARALLEL_NAMES[query]] if query in PARALLEL_NAMES else []
    usual += [name for name in POSITIVE_NAMES if name not in PARALLEL_NAMES.values()]
    positive = data.text_pair_column or next((name for name in usual if name in names and name != query), None)
    return (query, positive) if query and positive else None


def _find_article(names: Sequence[str], data: SimilarityData) -> tuple[str, str] | None:
    """Return the columns of an article's title and text; None where rows have a label, or no title."""
    if data.text_column or data.label_column or set(map(fold_name, names)) & set(LABEL_NAMES):
        return None
    by_name = {fold_name(name): name for name in reversed(names)}
    title, text = (
        next((by_name[name] for name in usual if name in by_name), None) for usual in (TITLE_NAMES, ARTICLE_NAMES)
    )
    return (title, text) if title and text else None


def _find_score(names: Sequence[str], data: SimilarityData) -> str | None:
    """Return the column of a pair's score; None where a pair is one that belongs together."""
    if isinstance(data.label_column, list):
        raise UserError("data.label_column names several columns; a pair of texts has one score")
    if data.label_column is not None:
        if data.label_column not in names:
            suggestion = nearest(data.label_column, names)
            among = list_columns(names, data.label_column)
            raise UserError(f"data.label_column: no column {data.label_column!r} among {among}{suggestion}")
        return data.label_column
    return next((name for name in SCORE_NAMES if name in names), None)


def _load_labelled(loaded: LoadedData, data: LabelledTextData) -> TaskData:
    """Load texts with a label, or pairs with a score.

    Raises:
        UserError: If there is no column of labels; it says how texts without any are searched.
    """
    try:
        find_columns(loaded.splits, data)
    except NoLabelColumnError as error:
        raise UserError(
            f"{error}; texts without query, title and label are searched without a run of their own: python "
            "recipes/predict.py --task sentence-similarity --run CHECKPOINT --corpus FILE --input FILE --output FILE"
        ) from None
    return load_labelled_text(data, loaded)


def _load_pairs(loaded: LoadedData, pair: tuple[str, str], data: SimilarityData) -> TaskData:
    import datasets

    names = loaded.splits["train"].column_names
    negative = data.negative_column or ("negative" if "negative" in names else None)
    wanted = [*pair, *([negative] if negative else [])]
    bad_rows = BadRows(data.skip_bad)
    splits = _take_whole_rows(loaded, wanted, bad_rows)
    cut, notes = make_splits(datasets.DatasetDict(splits), data, group_by=pair[0])
    judged = {
        split: _Judgements(
            list(rows[pair[0]]),
            list(rows[pair[1]]),
            [1] * len(rows),
            list(rows["row"]),
            list(rows[negative]) if negative else None,
        )
        for split, rows in cut.items()
    }
    documents = dict.fromkeys(
        text
        for judgements in judged.values()
        for texts in (judgements.documents, judgements.negatives or ())
        for text in texts
    )
    queries = {text: text for judgements in judged.values() for text in judgements.queries}
    column_note = f"Found a query in column {pair[0]!r} and what answers it in {pair[1]!r}."
    notes = [*loaded.notes, column_note, *notes]
    return _build(judged, queries, {text: text for text in documents}, data, notes, loaded.sources, bad_rows)


def _take_whole_rows(loaded: LoadedData, wanted: list[str], bad_rows: BadRows) -> dict[str, datasets.Dataset]:
    """Return each split's rows with a text in every column, and their numbers."""
    import datasets

    splits = {}
    for split, rows in loaded.splits.items():
        if missing := [name for name in wanted if name not in rows.column_names]:
            raise UserError(f"the {split} split has no column {missing[0]!r}, only {list_columns(rows.column_names)}")
        faults = [fault for name in wanted for fault in find_column_faults(rows[name], name)]
        bad = bad_rows.leave_out(faults, len(rows), f"{split} split", "pairs")
        kept = [place for place in range(len(rows)) if place + 1 not in bad]
        used = rows.select(kept)
        columns = {name: list(used[name]) for name in wanted}
        splits[split] = datasets.Dataset.from_dict({**columns, "row": [place + 1 for place in kept]})
    return splits


def _load_judged_folder(folder: Path, data: SimilarityData) -> TaskData:
    """Read BEIR's files."""
    texts, files, bad_rows = {}, [], BadRows(data.skip_bad)
    for name in ("corpus", "queries"):
        path = _find_lines(folder, name)
        if path is None:
            raise UserError(f"{folder}: {name}.jsonl is missing; expected corpus.jsonl, queries.jsonl and qrels/")
        columns = RowSource(str(path), options=read_options(data)).read_table().to_pydict()
        texts[name] = _read_entries(columns, str(path), name, data, bad_rows)
        files.append({"path": path.name, "sha256": hash_file(path)})
    judged, sources = {}, []
    for split, stems in _QRELS.items():
        path = next((path for stem in stems for path in sorted((folder / "qrels").glob(f"{stem}.tsv*"))), None)
        if path is None:
            continue
        table = list(
            csv.DictReader(io.StringIO(read_text(path, data.encoding)), delimiter="\t", quoting=csv.QUOTE_NONE)
        )
        columns = {name: [row.get(name) for row in table] for name in ("query-id", "corpus-id", "score")}
        judged[split] = _read_judgements(columns, f"{path.parent.name}/{path.name}")
        record = {"path": path.name, "sha256": hash_file(path)}
        sources.append({"split": split, "files": [record, *files], "rows": len(table)})
    if "test" not in judged:
        raise UserError(f"{folder}: no qrels/test.tsv, by which a search is measured")
    return _build(judged, texts["queries"], texts["corpus"], data, [], sources, bad_rows)


def _load_judged_subsets(data: SimilarityData) -> TaskData:
    """Read BEIR's form as the Hub has it: a subset of texts, one of queries, and one that says what is relevant."""
    texts, sources, bad_rows = {}, [], BadRows(data.skip_bad)
    for name in ("corpus", "queries"):
        subset = getattr(data, f"{name}_subset")
        if subset is None:
            raise UserError("data.corpus_subset is given without data.queries_subset; name the subset of the queries")
        part = SimilarityData(dataset=data.dataset, subset=subset, revision=data.revision, train_split=name)
        loaded = load_splits(part)
        columns, place = loaded.splits["train"].to_dict(), f"{data.dataset} {subset}"
        texts[name] = _read_entries(columns, place, name, data, bad_rows)
        sources += [{**record, "split": name} for record in loaded.sources]
    loaded = load_splits(data)
    judged = {name: _read_judgements(rows.to_dict(), name) for name, rows in loaded.splits.items()}
    if "test" not in judged:
        raise UserError(f"{data.dataset} has no test split, by which a search is measured; name one: data.test_split")
    sources = [*loaded.sources, *sources]
    return _build(judged, texts["queries"], texts["corpus"], data, loaded.notes, sources, bad_rows)


def _find_lines(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / f"{name}.jsonl", folder / f"{name}.jsonl.gz") if path.is_file()), None)


def _read_entries(
    columns: dict[str, list[Any]], place: str, what: str, data: SimilarityData, bad_rows: BadRows
) -> dict[str, str]:
    """Return the text of each id, its title before it."""
    key = next((name for name in ("_id", "id") if name in columns), None)
    if key is None or "text" not in columns:
        raise UserError(f"{place}: expected the columns _id and text, found {list_columns([*columns])}")
    titles = columns.get("title") or [None] * len(columns[key])
    pairs = zip(titles, columns["text"], strict=True)
    reading = TextReading.of_config(vars(data))
    joined = reading.clean([" ".join(part for part in pair if part) for pair in pairs])
    what = "documents" if what == "corpus" else what
    bad = bad_rows.leave_out(find_column_faults(joined, "text"), len(joined), place, what)
    entries = enumerate(zip(map(str, columns[key]), joined, strict=True), start=1)
    return dict(entry for row, entry in entries if row not in bad)


def _read_judgements(columns: dict[str, list[Any]], place: str) -> _Judgements:
    wanted = ("query-id", "corpus-id", "score")
    if missing := [name for name in wanted if name not in columns or None in columns[name]]:
        raise UserError(f"{place}: expected the columns {', '.join(wanted)}; {missing[0]} is missing")
    queries, documents, grades = (columns[name] for name in wanted)
    try:
        grades = [int(grade) for grade in grades]
    except ValueError as error:
        raise UserError(f"{place}: a score is no whole number ({error}); expected 0, 1, 2, ...") from None
    rows = range(1, len(grades) + 1)
    kept = [part for part in zip(map(str, queries), map(str, documents), grades, rows, strict=True) if part[2] > 0]
    if not kept:
        raise UserError(f"{place}: no document is relevant to any query; expected scores above 0")
    return _Judgements(*(list(part) for part in zip(*kept, strict=True)))


def _build(
    judged: dict[str, _Judgements],
    queries: dict[str, str],
    documents: dict[str, str],
    data: SimilarityData,
    notes: list[str],
    sources: list[dict[str, Any]],
    bad_rows: BadRows,
) -> TaskData:
    """Make rows of judgements.

    Args:
        judged: Per split.
        queries: Text of each query by its id.
        documents: Text of each document by its id.
        data: How many rows are used.
        notes: What was said so far.
        sources: Of the splits.
        bad_rows: Refuses judgements of what has no text, or counts them.
    """
    import datasets

    judged = {split: _take_known(rows, queries, documents, split, bad_rows) for split, rows in judged.items()}
    notes = [*notes, *bad_rows.notes]
    relevant = _grade_documents(judged, queries, documents)
    texts = list(documents.values())
    groups = {text: group for group, text in enumerate(dict.fromkeys((*texts, *queries.values())))}
    splits = {
        split: datasets.Dataset.from_dict(
            _list_test_queries(rows, queries, relevant)
            if split == "test"
            else _list_pairs(rows, queries, documents, groups)
        )
        for split, rows in judged.items()
    }
    if "train" in splits:
        splits["train"], overlap_notes = _treat_overlap(splits["train"], splits["test"], data)
        notes = [*notes, *overlap_notes]
    splits = _sample(splits, data, notes)
    notes.append(f"{len(splits['test']):,} test queries search {len(texts):,} texts.")
    ids = list(documents) if _are_ids(documents) else [str(number) for number in range(1, len(texts) + 1)]
    corpus = datasets.Dataset.from_dict({"id": ids, "text": texts})
    left_out = dict(bad_rows.left_out)
    return TaskData(datasets.DatasetDict(splits), notes=notes, sources=sources, corpus=corpus, left_out=left_out)


def _grade_documents(
    judged: dict[str, _Judgements], queries: dict[str, str], documents: dict[str, str]
) -> dict[str, dict[int, int]]:
    """Return the grade of each query's documents, by their places, over all splits."""
    places = {name: place for place, name in enumerate(documents)}
    relevant: dict[str, dict[int, int]] = {}
    for rows in judged.values():
        for query, document, grade in zip(rows.queries, rows.documents, rows.grades, strict=True):
            relevant.setdefault(query, {})[places[document]] = grade
    return relevant


def _list_test_queries(
    rows: _Judgements, queries: dict[str, str], relevant: dict[str, dict[int, int]]
) -> dict[str, list[Any]]:
    """Return the columns of the test split: each query once, with its documents and their grades."""
    first = dict(zip(reversed(rows.queries), reversed(rows.rows), strict=True))
    order = list(dict.fromkeys(rows.queries))
    return {
        "text": [queries[query] for query in order],
        "relevant": [sorted(map(list, relevant[query].items())) for query in order],
        "row": [first[query] for query in order],
    }


def _list_pairs(
    rows: _Judgements, queries: dict[str, str], documents: dict[str, str], groups: dict[str, int]
) -> dict[str, list[Any]]:
    """Return the columns of a split to train on: a row for each pair of a query and a document."""
    columns: dict[str, list[Any]] = {
        "text": [queries[query] for query in rows.queries],
        "text_pair": [documents[document] for document in rows.documents],
        **({"negative": rows.negatives} if rows.negatives else {}),
        "row": rows.rows,
    }
    named = [columns[name] for name in ("text", "text_pair", "negative") if name in columns]
    columns["groups"] = [[groups[text] for text in row] for row in zip(*named, strict=True)]
    return columns


def _treat_overlap(
    train: datasets.Dataset, test: datasets.Dataset, data: SimilarityData
) -> tuple[datasets.Dataset, list[str]]:
    """Take queries of the test split out of the training one, or name how many stand in both."""
    known, asked = set(train["text"]), set(test["text"])
    shared = sum(text in known for text in test["text"])
    if not shared:
        return train, []
    if not data.remove_overlap:
        return train, [f"{shared:,} queries stand in both train and test; data.remove_overlap takes them out."]
    kept = [place for place, text in enumerate(train["text"]) if text not in asked]
    return train.select(kept), [f"{len(known & asked):,} queries of the test split were removed from train."]


def _take_known(
    judged: _Judgements, queries: dict[str, str], documents: dict[str, str], split: str, bad_rows: BadRows
) -> _Judgements:
    """Return a split's judgements of queries and documents that have a text."""
    faults = []
    for place, (query, document) in enumerate(zip(judged.queries, judged.documents, strict=True), start=1):
        if query not in queries or document not in documents:
            what = f"query {query!r}" if query not in queries else f"document {document!r}"
            where = f"row {judged.rows[place - 1]}"
            faults.append(Fault(place, f"the {what} has no text", "query or document without a text", where))
    bad = bad_rows.leave_out(faults, len(judged.queries), f"{split} split", "judgements")
    kept = [place for place in range(len(judged.queries)) if place + 1 not in bad]
    parts: list[Any] = [judged.queries, judged.documents, judged.grades, judged.rows, judged.negatives]
    return _Judgements(*([part[place] for place in kept] if bad and part is not None else part for part in parts))


def _are_ids(documents: dict[str, str]) -> bool:
    """Say whether documents have names of their own, not their text for a name."""
    return any(name != text for name, text in documents.items())


def _sample(
    splits: dict[str, datasets.Dataset], data: SimilarityData, notes: list[str]
) -> dict[str, datasets.Dataset]:
    for name, max_rows in (("train", data.max_train_rows), ("test", data.max_test_rows)):
        if max_rows is not None and name in splits and max_rows < len(splits[name]):
            notes.append(f"{max_rows:,} of the {len(splits[name]):,} {name} rows are used (seed {data.split_seed}).")
            splits[name] = sample_rows(splits[name], max_rows, data.split_seed)
    return splits


def _group_by_label(labelled: TaskData) -> TaskData:
    """Make labelled texts a search for texts of the same label among the training texts."""
    import datasets

    if labelled.problem_type != "single_label_classification":
        raise UserError(
            f"the labels are a {labelled.problem_type}; expected one class per text, or pairs of texts: name the "
            "second text with --data.text_pair_column"
        )
    train = labelled.splits["train"]
    texts, labels = list(train["text"]), np.asarray(train["label"])
    by_label: dict[int, list[int]] = {}
    for place, label in enumerate(labels.tolist()):
        by_label.setdefault(label, []).append(place)
    splits, notes = {}, list(labelled.notes)
    generator = np.random.default_rng(0)
    for split in ("train", "validation"):
        if split not in labelled.splits:
            continue
        rows = labelled.splits[split]
        partners = _draw_partners(list(rows["text"]), list(rows["label"]), texts, by_label, generator)
        kept = [place for place, partner in enumerate(partners) if partner is not None]
        if len(kept) < len(rows):
            notes.append(f"{len(rows) - len(kept):,} {split} texts have no other text of their label to learn from.")
        if not kept:
            raise UserError(f"no {split} text has another one of its label; expected at least two texts of a label")
        chosen = rows.select(kept)
        splits[split] = datasets.Dataset.from_dict(
            {
                "text": chosen["text"],
                "text_pair": [texts[partners[place]] for place in kept],
                "groups": [[label, label] for label in chosen["label"]],
                "row": chosen["row"],
            }
        )
    test = labelled.splits["test"]
    judged = {label: [[place, 1] for place in places] for label, places in by_label.items()}
    splits["test"] = datasets.Dataset.from_dict(
        {
            "text": test["text"],
            "relevant": [judged.get(label, []) for label in test["label"]],
            "row": test["row"],
        }
    )
    notes.append(
        f"{len(test):,} test texts search the {len(texts):,} training texts; those of the same of "
        f"{len(labelled.label_names)} labels are relevant."
    )
    corpus = datasets.Dataset.from_dict({"id": list(map(str, train["row"])), "text": texts})
    return replace(
        labelled, splits=datasets.DatasetDict(splits), label_names=(), problem_type="", notes=notes, corpus=corpus
    )


def _draw_partners(
    texts: Iterable[str],
    labels: Iterable[int],
    corpus: Sequence[str],
    by_label: dict[int, list[int]],
    generator: np.random.Generator,
) -> list[int | None]:
    """Draw for each text the place of another training text of its label; None where there is none."""
    partners: list[int | None] = []
    for text, label in zip(texts, labels, strict=True):
        others = [place for place in by_label.get(label, ()) if corpus[place] != text]
        partners.append(int(generator.choice(others)) if others else None)
    return partners


def compute_cosines(vectors: np.ndarray) -> np.ndarray:
    """Return the cosine of each row's two vectors, which stand one behind the other; shape (rows,)."""
    left, right = (scale_to_norm_one(half) for half in np.split(vectors, 2, axis=1))
    return (left * right).sum(axis=1)
