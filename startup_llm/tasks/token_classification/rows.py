"""Sentences whose words carry tags: CoNLL files, tables with lists, and texts with marked spans."""

from __future__ import annotations

import bisect
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from startup_llm.data.bad_rows import EMPTY_TEXT, FAULTY_TAGS, BadRows, Fault, RowFaultError
from startup_llm.data.classification import order_names, read_class_names
from startup_llm.data.columns import list_columns
from startup_llm.data.row_source import Reader
from startup_llm.data.sources import LoadedData, load_splits
from startup_llm.data.splits import handle_overlap, make_splits, read_groups, sample_rows
from startup_llm.data.task_data import TaskData
from startup_llm.errors import UserError, nearest
from startup_llm.tasks.token_classification.brat import FILE, load_brat
from startup_llm.tasks.token_classification.conllu import is_conllu, read_conllu
from startup_llm.tasks.token_classification.options import TaggedTextData
from startup_llm.tasks.token_classification.tag_schemes import (
    OUTSIDE,
    PLAIN,
    TYPES,
    convert_tags,
    find_entities,
    find_scheme,
)
from startup_llm.tasks.token_classification.words import split_words

if TYPE_CHECKING:
    import datasets
    import pyarrow

WORD_COLUMNS = ("tokens", "words")
TAG_COLUMNS = ("ner_tags", "tags", "ner", "labels", "label")
SPAN_COLUMNS = ("entities", "spans")
SPAN_TYPES = ("label", "type", "entity_group", "entity")
"""Keys under which a span tells its type."""
LINE, DOCUMENT, FAULT = "line", "document", "fault"
"""Columns that a CoNLL file gives beside tokens and tags: a sentence's first line, its document's number, and why it
cannot be used."""
_COMMENT = re.compile(r"#\s*(\w+\s*[=:]|id\s|newdoc|newpar)")
_KEPT = ["tokens", "tags", "row"]
_SCORED = "scored_tags"
"""Column of the true tags as they are scored, where they are not those to learn: some spans end inside a word."""
UNKNOWN_TAG, FAULTY_SPAN = "unknown tag", "faulty span"
_SHOWN = 5


class _PartialSpan(NamedTuple):
    """An entity that begins or ends inside a word, so that no words are it.

    Attributes:
        type: Its type.
        start: The first word that it shares.
        end: The word behind the last one.
        text: What it is.
    """

    type: str
    start: int
    end: int
    text: str


class _Tagged(NamedTuple):
    words: list[str]
    tags: list[str]
    partial: Sequence[_PartialSpan] = ()


@dataclass
class _Sentences:
    """The sentences of a split, before their tags are checked.

    Attributes:
        words: Words of each sentence.
        tags: Tags of each.
        rows: The 1-based place of each in its source.
        partial: Entities of each that no words are.
        lines: Line of each sentence's first word, where the source is a CoNLL file.
        given: Whether the source has the words, not a text.
    """

    words: list[list[str]]
    tags: list[list[str]]
    rows: list[int]
    partial: list[Sequence[_PartialSpan]]
    lines: list[int] | None = None
    has_own_words: bool = True

    def describe_place(self, sentence: int, word: int) -> str:
        """Say where a word stands."""
        if self.lines is not None:
            return f"line {self.lines[sentence] + word}"
        return f"row {self.rows[sentence]}, word {word + 1} ({self.words[sentence][word]!r})"


def load_tagged_text(data: TaggedTextData) -> TaskData:
    """Load sentences with a tag for each word, check them, and cut the splits that the source does not give.

    Read are CoNLL files (.conll, .txt, .iob, .bio: word, tag, an empty line between sentences), folders of brat's
    files, tables with a list of words and a list of tags, and tables with a text and a list of spans (start, end,
    label).

    Returns:
        Splits with tokens (list of words), tags (list of class ids) and row. Tags that mark entities are IOB2,
        whatever the source's are; B- and I- of every type are among the labels, so that any entity can be answered.
        Where a span ends inside a word, its whole words are tagged, and a column scored_tags has what is scored: no
        entity there, and behind the words one tag for each such span, which no answer can match.

    Raises:
        UserError: If a source or a column is missing, or a sentence is not fit to learn from; it names the line.
    """
    import datasets

    loaded = load_brat(data) or load_splits(data, READERS)
    notes, group, bad_rows = list(loaded.notes), data.group_column, BadRows(data.skip_bad)
    read, class_names = {}, []
    for split, rows in loaded.splits.items():
        read[split], new_notes, names = _read_sentences(rows, data, _name_place(split, loaded), bad_rows)
        class_names = class_names or names
        notes += new_notes
    places = {split: _name_place(split, loaded) for split in read}
    scheme = _decide_scheme(read, places)
    tags = {split: _convert(sentences, scheme, places[split], bad_rows) for split, sentences in read.items()}
    notes += bad_rows.notes
    label_names = _name_labels(read, tags, scheme, class_names)
    notes.append(_describe_scheme(scheme, label_names))
    notes += _describe_partial_spans(read)
    has_partial = any(any(sentences.partial) for sentences in read.values())
    splits = {
        split: _build_split(
            loaded.splits[split],
            sentences,
            tags[split],
            label_names,
            group,
            is_train=split == "train",
            has_partial=has_partial,
        )
        for split, sentences in read.items()
    }
    if not {"validation", "test"} <= splits.keys() and DOCUMENT in loaded.splits["train"].column_names and not group:
        notes.append(f"The file tells its documents; --data.group_column {DOCUMENT} keeps each in one split.")
    cut, new_notes = make_splits(
        datasets.DatasetDict(splits), data, group_by="group" if group else None, group_name=group
    )
    cut, overlap = handle_overlap(cut, data.remove_overlap, "sentences")
    notes += new_notes + overlap
    notes += _limit_rows(cut, data)
    notes += _count_entities(cut, label_names, scheme)
    if read["train"].has_own_words:
        notes += _describe_given_words(cut["test"])
    kept_names = [*_KEPT, _SCORED] if has_partial else _KEPT
    kept_columns = datasets.DatasetDict({name: rows.select_columns(kept_names) for name, rows in cut.items()})
    return TaskData(
        kept_columns,
        label_names,
        notes=list(dict.fromkeys(notes)),
        sources=loaded.sources,
        left_out=dict(bad_rows.left_out),
    )


def _build_split(
    rows: datasets.Dataset,
    sentences: _Sentences,
    tags: Sequence[list[str]],
    label_names: Sequence[str],
    group: str | None,
    *,
    is_train: bool,
    has_partial: bool,
) -> datasets.Dataset:
    """Return the sentences of a split that are kept, with their tags as class ids.

    Args:
        rows: The split's rows as loaded.
        sentences: What was read of them.
        tags: Tags of each sentence, in the scheme of all splits; empty for one that is left out.
        label_names: The names of the classes.
        group: Column of the groups that no two splits share.
        is_train: Whether it is the training split, which has to have that column.
        has_partial: Whether any split has an entity that no words are.
    """
    import datasets

    numbers = {tag: number for number, tag in enumerate(label_names)}
    kept = [place for place, own in enumerate(tags) if own]
    kept_rows = rows.select([sentences.rows[place] - 1 for place in kept])
    columns: dict[str, list[Any]] = {
        "tokens": [sentences.words[place] for place in kept],
        "tags": [[numbers[tag] for tag in tags[place]] for place in kept],
        "row": [sentences.rows[place] for place in kept],
        "digest": [json.dumps(sentences.words[place]) for place in kept],
    }
    if has_partial:
        columns[_SCORED] = [
            [numbers[tag] for tag in _score_tags(tags[place], sentences.partial[place])] for place in kept
        ]
    if group and (is_train or group in kept_rows.column_names):
        columns["group"] = read_groups(kept_rows, group)
    features = datasets.Dataset.from_dict({name: values[:1] for name, values in columns.items()}).features
    for name in {"tags", _SCORED} & columns.keys():
        features[name] = datasets.List(datasets.ClassLabel(names=list(label_names)))
    return datasets.Dataset.from_dict(columns, features=features)


def _limit_rows(splits: datasets.DatasetDict, data: TaggedTextData) -> list[str]:
    """Draw as many rows of training and test as the config allows, and return notes on it."""
    notes = []
    for split, max_rows in (("train", data.max_train_rows), ("test", data.max_test_rows)):
        if max_rows is not None and max_rows < len(splits[split]):
            notes.append(f"{max_rows:,} of the {len(splits[split]):,} {split} rows are used (seed {data.split_seed}).")
            splits[split] = sample_rows(splits[split], max_rows, data.split_seed)
    return notes


def read_tag_names(rows: datasets.Dataset) -> list[list[str]]:
    """Return the tags of rows of `load_tagged_text` by their names: those to learn, one for each word."""
    return _name_column(rows, "tags")


def read_scored_tags(rows: datasets.Dataset) -> list[list[str]]:
    """Return the tags by which answers to rows of `load_tagged_text` are scored, by their names.

    Behind those of the words stands one for each entity that begins or ends inside a word, which no answer can match.
    """
    return _name_column(rows, _SCORED if _SCORED in rows.column_names else "tags")


def _name_column(rows: datasets.Dataset, column: str) -> list[list[str]]:
    names = rows.features[column].feature.names
    return [[names[tag] for tag in tags] for tags in rows[column]]


def read_conll(name: str, text: str) -> pyarrow.Table:
    """Read CoNLL: a word a line, its tag in the last column, an empty line between sentences.

    Columns are separated by tabs, or else by white space. Lines -DOCSTART- begin a document; comments before a
    sentence, `# key = value` or another line behind # that has not the columns of a word, are left out. Of CoNLL-U the
    universal parts of speech are the tags.

    Args:
        name: The file's name, for errors.
        text: Its content.

    Returns:
        Columns tokens, tags, line, fault (the first line of the sentence without a tag or a word, in words; else
        None) and, where there are documents, document.
    """
    import pyarrow

    if is_conllu(text):
        return read_conllu(name, text)
    columns: dict[str, list[Any]] = {"tokens": [], "tags": [], LINE: [], FAULT: [], DOCUMENT: []}
    words: list[str] = []
    tags: list[str] = []
    faults: list[str] = []
    document = 0

    def end(line: int) -> None:
        if words:
            fault = faults[0] if faults else None
            values = (words[:], tags[:], line - len(words), fault, document)
            for column, value in zip(columns.values(), values, strict=True):
                column.append(value)
            words.clear()
            tags.clear()
            faults.clear()

    lines = text.split("\n")
    usual, known_tags = _inspect_words(lines)
    for number, line in enumerate(lines, start=1):
        line = line.rstrip("\r")
        if not line.strip():
            end(number)
            continue
        fields = _split_fields(line)
        if fields[0] == "-DOCSTART-":
            end(number)
            document += 1
            continue
        if not words and _is_comment(line, usual, known_tags):
            continue
        word, tag = fields[0].strip(), fields[-1].strip()
        if len(fields) < 2 or not word or not tag:
            missing = "no word" if len(fields) > 1 and not word else "no tag"
            faults.append(f"line {number} has {missing}: {line[:60]!r}; expected a word, a tab or blank, and its tag")
        words.append(word)
        tags.append(tag)
    end(len(lines) + 1)
    if not document:
        del columns[DOCUMENT]
    columns[FAULT] = pyarrow.array(columns[FAULT], pyarrow.string())
    return pyarrow.table(columns)


def _inspect_words(lines: Sequence[str]) -> tuple[int, set[str]]:
    """Return the number of columns that most of the words at the beginning have, and their tags."""
    words = (line for line in lines if line.strip() and not line.startswith(("#", "-DOCSTART-")))
    fields = [_split_fields(line) for line in itertools.islice(words, 1_000)]
    counts = Counter(map(len, fields))
    return (counts.most_common(1)[0][0] if counts else 0), {own[-1].strip() for own in fields}


def _split_fields(line: str) -> list[str]:
    return line.split("\t") if "\t" in line else line.split()


def _is_comment(line: str, columns: int, tags: set[str]) -> bool:
    """Return whether a line before a sentence is a comment: no word # with as many columns, or with a tag."""
    if not line.startswith("#") or "\t" in line:
        return False
    fields = line.split()
    is_word = len(fields) == columns or fields[-1] in tags
    return _COMMENT.match(line) is not None or (fields[0] == "#" and not is_word)


READERS: dict[str, Reader] = dict.fromkeys(("conll", "conllu", "txt", "iob", "bio"), read_conll)
"""What reads files beside tables."""


def _name_place(split: str, loaded: LoadedData) -> str:
    record = next(record for record in loaded.sources if record["split"] == split)
    if "files" in record:
        return ", ".join(file["path"] for file in record["files"])
    return f"{split} split"


def _read_sentences(
    rows: datasets.Dataset, data: TaggedTextData, place: str, bad_rows: BadRows
) -> tuple[_Sentences, list[str], list[str]]:
    """Read words and tags of a split, and tell the classes' names where the source has them."""
    columns = rows.column_names
    if isinstance(data.label_column, list):
        raise UserError(
            f"data.label_column ({', '.join(data.label_column)}): expected one column with a list of tags for each row"
        )
    words = _find_column(columns, data.text_column, WORD_COLUMNS, "text_column")
    if words is None or (words not in WORD_COLUMNS and _holds_texts(rows, words)):
        return _read_spans(rows, data, place, bad_rows)
    tags = _find_column(columns, data.label_column, TAG_COLUMNS, "label_column")
    if tags is None:
        raise UserError(
            f"{place}: no column of tags among {list_columns(columns)}; expected one of {', '.join(TAG_COLUMNS)}, or "
            "name it with --data.label_column"
        )
    names = read_class_names(rows.features[tags])
    faults = rows[FAULT] if FAULT in columns and words == "tokens" else [None] * len(rows)

    def read(own: Any, marks: Any, fault: str | None) -> _Tagged:
        if fault:
            raise RowFaultError(fault, FAULTY_TAGS)
        return _check_sentence(own, marks, words, tags, names)

    sentences, bad = _gather(read, zip(rows[words], rows[tags], faults, strict=True))
    if LINE in columns and words == "tokens":
        lines = rows[LINE]
        sentences.lines = [lines[row - 1] for row in sentences.rows]
    note = f"Words from column {words!r}, tags from column {tags!r}."
    bad_rows.leave_out(bad, len(rows), place, "sentences")
    return sentences, [note], names


def _find_column(columns: list[str], named: Any, usual: tuple[str, ...], option: str) -> str | None:
    if named is not None and named not in columns:
        raise UserError(f"data.{option}: no column {named!r} among {list_columns(columns)}{nearest(named, columns)}")
    return named or next((name for name in usual if name in columns), None)


def _holds_texts(rows: datasets.Dataset, column: str) -> bool:
    return isinstance(next((value for value in rows[column] if value is not None), ""), str)


def _gather(read: Callable[..., _Tagged], values: Iterable[tuple[Any, ...]]) -> tuple[_Sentences, list[Fault]]:
    """Read every row, and list those that cannot be used."""
    sentences, bad = _Sentences([], [], [], []), []
    for number, value in enumerate(values, start=1):
        tagged, fault = _attempt(read, value)
        if fault is not None:
            bad.append(Fault(number, str(fault), fault.kind))
            continue
        sentences.words.append(tagged.words)
        sentences.tags.append(tagged.tags)
        sentences.partial.append(tagged.partial)
        sentences.rows.append(number)
    return sentences, bad


def _attempt(read: Callable[..., _Tagged], value: tuple[Any, ...]) -> tuple[_Tagged, RowFaultError | None]:
    try:
        return read(*value), None
    except RowFaultError as error:
        return _Tagged([], []), error


def _check_sentence(words: Any, tags: Any, word_column: str, tag_column: str, names: list[str]) -> _Tagged:
    """Return a sentence's words and the names of its tags.

    Raises:
        RowFaultError: If it is not a list of words with a tag for each.
    """
    for values, column in ((words, word_column), (tags, tag_column)):
        if not isinstance(values, list):
            raise RowFaultError(f"{column!r} holds {str(values)[:40]!r}, expected a list", "row without lists")
    if len(words) != len(tags):
        raise RowFaultError(
            f"{word_column!r} has {len(words)} words and {tag_column!r} {len(tags)} tags; one for each", FAULTY_TAGS
        )
    if not words:
        raise RowFaultError(f"{word_column!r} is an empty list", EMPTY_TEXT)
    for place, (word, tag) in enumerate(zip(words, tags, strict=True), start=1):
        if not isinstance(word, str) or not word.strip():
            raise RowFaultError(f"word {place} of {word_column!r} is {word!r}, expected a word", "faulty words")
        if names and isinstance(tag, int) and not 0 <= tag < len(names):
            raise RowFaultError(f"tag {place} of {tag_column!r} is {tag}, expected 0 to {len(names) - 1}", UNKNOWN_TAG)
        if tag is None or tag == "":
            raise RowFaultError(f"word {place} ({word!r}) has no tag", "word without a tag")
        if not names and not isinstance(tag, str):
            raise RowFaultError(
                f"{tag_column!r} holds the number {tag}, and the file does not tell its name; write tags as names, "
                "such as B-person",
                UNKNOWN_TAG,
            )
    return _Tagged(words, [names[tag] if isinstance(tag, int) else tag for tag in tags])


def _read_spans(
    rows: datasets.Dataset, data: TaggedTextData, place: str, bad_rows: BadRows
) -> tuple[_Sentences, list[str], list[str]]:
    """Read texts with marked spans, and cut them into words as texts without labels are cut."""
    columns = rows.column_names
    text = _find_column(columns, data.text_column, ("text", "sentence"), "text_column")
    spans = _find_column(columns, data.label_column, SPAN_COLUMNS, "label_column")
    if text is None or spans is None:
        raise UserError(
            f"{place}: columns {list_columns(columns)}; expected tokens with ner_tags (a list of words and a list of "
            "tags), text with entities (a list of start, end and label), or a CoNLL file: name the columns with "
            "--data.text_column and --data.label_column"
        )
    names = _find_span_names(rows.features[spans])
    is_brat = {FILE, FAULT} <= set(columns)
    places = zip(rows[FILE], rows[FAULT], strict=True) if is_brat else [("", None)] * len(rows)

    def read(value: Any, marks: Any, file_and_fault: tuple[str, str | None]) -> _Tagged:
        file, fault = file_and_fault
        try:
            if fault:
                raise RowFaultError(fault, FAULTY_SPAN)
            return _tag_text(value, _list_spans(marks, names))
        except RowFaultError as error:
            raise RowFaultError(f"{file}: {error}" if file else str(error), error.kind) from None

    sentences, bad = _gather(read, zip(rows[text], rows[spans], places, strict=True))
    sentences.has_own_words = False
    note = f"Texts from column {text!r}, spans from column {spans!r}."
    bad_rows.leave_out(bad, len(rows), place, "sentences")
    return sentences, [note], []


def _find_span_names(feature: Any) -> list[str]:
    """Return the names of the types of spans, where `datasets.ClassLabel` numbers them."""
    inner = getattr(feature, "feature", feature)
    kinds = [inner[key] for key in SPAN_TYPES if isinstance(inner, dict) and key in inner]
    return read_class_names(kinds[0]) if kinds else []


def _list_spans(marks: Any, names: Sequence[str]) -> list[Any]:
    """Return a text's spans as objects, also where the column holds an object of lists, and their types by name."""
    if isinstance(marks, dict):
        marks = [dict(zip(marks, values, strict=True)) for values in zip(*marks.values(), strict=True)]
    spans = list(marks or [])
    if not names:
        return spans
    return [
        {key: names[value] if key in SPAN_TYPES and isinstance(value, int) else value for key, value in span.items()}
        for span in spans
    ]


def _tag_text(text: Any, spans: Sequence[dict[str, Any]]) -> _Tagged:
    """Return words and IOB2 tags of a text; the whole words of a span that ends inside one are tagged.

    Raises:
        RowFaultError: If it is no text, or a span is out of range, blank, without a type, or overlaps another.
    """
    if not isinstance(text, str) or not text.strip():
        raise RowFaultError("no text", EMPTY_TEXT)
    words = split_words(text)
    if not words:
        raise RowFaultError(f"no words in {text[:40]!r}", EMPTY_TEXT)
    tags, partial = [OUTSIDE] * len(words), []
    ends = [end for _, end in words]
    for start, end, kind in _check_spans(text, spans):
        first = bisect.bisect_right(ends, start)
        last = next((place for place in range(first, len(words)) if words[place][0] >= end), len(words))
        if (words[first][0], words[last - 1][1]) != (start, end):
            partial.append(_PartialSpan(kind, first, last, text[start:end]))
        free = [place for place in range(first, last) if tags[place] == OUTSIDE]  # two spans may share a word
        for place in free:
            tags[place] = f"{'B' if place == free[0] else 'I'}-{kind}"
    return _Tagged([text[start:end] for start, end in words], tags, partial)


def _check_spans(text: str, spans: Sequence[dict[str, Any]]) -> list[tuple[int, int, str]]:
    """Return start, end and type of a text's spans in their order, without white space around them.

    Raises:
        RowFaultError: If one is out of range, blank, without a type, or overlaps another.
    """
    marked = []
    for span in spans:
        kind = next((span[key] for key in SPAN_TYPES if isinstance(span, dict) and span.get(key)), None)
        start, end = (span.get("start"), span.get("end")) if isinstance(span, dict) else (None, None)
        if kind is None or not isinstance(start, int) or not isinstance(end, int):
            raise RowFaultError(f"the span {span} needs start, end and one of {', '.join(SPAN_TYPES)}", FAULTY_SPAN)
        if not 0 <= start < end <= len(text):
            raise RowFaultError(
                f"the span {start} to {end} ({kind}) lies outside the text of {len(text)} characters", FAULTY_SPAN
            )
        inner = text[start:end]
        if not inner.strip():
            raise RowFaultError(f"the span {start} to {end} ({kind}) holds nothing but white space", FAULTY_SPAN)
        blanks = len(inner) - len(inner.lstrip()), len(inner) - len(inner.rstrip())
        marked.append((start + blanks[0], end - blanks[1], str(kind)))
    marked.sort()
    for (start, end, kind), (other, last, next_kind) in itertools.pairwise(marked):
        if other < end:
            raise RowFaultError(
                f"the spans {start} to {end} ({kind}) and {other} to {last} ({next_kind}) overlap", FAULTY_SPAN
            )
    return marked


def _score_tags(tags: Sequence[str], partial: Sequence[_PartialSpan]) -> list[str]:
    """Return a sentence's tags as they are scored: no entity on the words of partial spans, which follow the words."""
    shared = {place for span in partial for place in range(span.start, span.end)}
    kept = [OUTSIDE if place in shared else tag for place, tag in enumerate(tags)]
    return [*kept, *(f"B-{span.type}" for span in partial)]


def _describe_partial_spans(read: dict[str, _Sentences]) -> list[str]:
    """Count the spans of each split that end inside a word, and say what becomes of them."""
    counts = {split: sum(map(len, sentences.partial)) for split, sentences in read.items()}
    split = next((split for split, count in counts.items() if count), None)
    if split is None:
        return []
    sentences = read[split]
    place = next(place for place, spans in enumerate(sentences.partial) if spans)
    span, row = sentences.partial[place][0], sentences.rows[place]
    words = " ".join(sentences.words[place][span.start : span.end])
    listed = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    return [
        f"Spans that begin or end inside a word: {listed} (the first: {split} row {row}, {span.text!r} in {words!r}); "
        "the whole words are learnt, and in scores such a span counts as missed, since answers are whole words."
    ]


def _describe_given_words(test: datasets.Dataset) -> list[str]:
    """Count the test sentences whose words are not those that their text would be cut into, if there are any."""
    differing = []
    for number, words in zip(test["row"], test["tokens"], strict=True):
        text = " ".join(words)
        if [text[start:end] for start, end in split_words(text)] != words:
            differing.append((number, words))
    if not differing:
        return []
    number, words = differing[0]
    word = next((word for word in words if len(split_words(word)) != 1), " ".join(words))
    cut = " ".join(word[start:end] for start, end in split_words(word))
    return [
        f"Words are scored as the source gives them: {len(differing):,} of {len(test):,} test sentences are cut "
        f"otherwise as texts (the first: row {number}, {word!r} becomes {cut!r}); predict.py reads lists of words too."
    ]


def _decide_scheme(read: dict[str, _Sentences], places: dict[str, str]) -> str:
    """Name the scheme of the training tags, which every split has to follow."""
    everything = [tags for sentences in read.values() for tags in sentences.tags]
    try:
        find_scheme(everything)
    except ValueError as error:
        bare, prefixed = error.args
        split, sentence, word = next(
            (split, number, tags.index(bare))
            for split, sentences in read.items()
            for number, tags in enumerate(sentences.tags)
            if bare in tags
        )
        raise UserError(
            f"{places[split]}: {read[split].describe_place(sentence, word)} has the tag {bare!r} beside such as "
            f"{prefixed!r}; give every tag a prefix (B-, I-), or none"
        ) from None
    scheme = find_scheme(read["train"].tags)
    if scheme == "IOB2" and find_scheme(everything) not in ("IOB1", "IOB2"):
        return find_scheme(everything)  # a scheme's rarer letters may stand in another split alone
    return scheme


def _convert(sentences: _Sentences, scheme: str, place: str, bad_rows: BadRows) -> list[list[str]]:
    """Return IOB2 tags, none for a sentence that is left out."""
    converted, faults = convert_tags(sentences.tags, scheme)
    bad_rows.leave_out(
        [
            Fault(fault.sentence + 1, fault.reason, FAULTY_TAGS, sentences.describe_place(fault.sentence, fault.word))
            for fault in faults
        ],
        len(sentences.words),
        place,
        "sentences",
    )
    for fault in faults:
        converted[fault.sentence] = []
    return converted


def _name_labels(
    read: dict[str, _Sentences], tags: dict[str, list[list[str]]], scheme: str, class_names: list[str]
) -> tuple[str, ...]:
    """Return the labels: the source's own order where it names all that are needed."""
    distinct = {tag for sentences in tags.values() for own in sentences for tag in own}
    if scheme != PLAIN:
        kinds = {tag[2:] for tag in distinct if tag != OUTSIDE}
        kinds |= {span.type for sentences in read.values() for spans in sentences.partial for span in spans}
        if not kinds:
            raise UserError(f"every word is tagged {OUTSIDE}; expected entities, such as B-person")
        kinds |= {name[2:] for name in class_names if name[:2] in ("B-", "I-")}
        distinct = {OUTSIDE, *(f"{mark}-{kind}" for kind in kinds for mark in "BI")}
    if set(class_names) >= distinct and len(class_names) == len(set(class_names)):
        return tuple(class_names)
    if scheme == PLAIN:
        return order_names(None, [distinct])
    return (OUTSIDE, *(f"{mark}-{kind}" for kind in order_names(None, [kinds]) for mark in "BI"))


def _describe_scheme(scheme: str, label_names: tuple[str, ...]) -> str:
    if scheme == PLAIN:
        return f"Tags mark no entities (none is {OUTSIDE}, none begins with B-): {len(label_names)} kinds of word."
    kinds = ", ".join(dict.fromkeys(name[2:] for name in label_names if name != OUTSIDE))
    if scheme == TYPES:
        return f"Tags without B- and I-: neighbours of one type are read as one entity. Types: {kinds}."
    return f"Tags are {scheme}{'' if scheme == 'IOB2' else ', turned into IOB2'}. Types: {kinds}."


def _count_entities(splits: datasets.DatasetDict, label_names: tuple[str, ...], scheme: str) -> list[str]:
    """Tell how many words and entities each split has, and the types or tags that training never shows."""
    words = {name: sum(map(len, rows["tokens"])) for name, rows in splits.items()}
    if scheme == PLAIN:
        tags = {name: Counter(tag for own in read_tag_names(rows) for tag in own) for name, rows in splits.items()}
        listed = ", ".join(f"{count:,} {name}" for name, count in words.items())
        return [f"{listed} words.", *_describe_unseen(tags, "tags", "words")]
    counts = {
        name: Counter(entity.type for tags in read_scored_tags(rows) for entity in find_entities(tags))
        for name, rows in splits.items()
    }
    for name in ("train", "test"):
        if not counts[name]:
            raise UserError(
                f"the {name} split has no entity among {words[name]:,} words; add sentences that have some"
            )
    listed = ", ".join(f"{sum(counts[name].values()):,} in {words[name]:,} {name} words" for name in splits)
    return [f"Entities: {listed}.", *_describe_unseen(counts, "types of entities", "entities")]


def _describe_unseen(counts: Mapping[str, Counter[str]], kinds: str, examples: str) -> list[str]:
    """Name what stands in the validation or test split alone, which no model can learn."""
    notes = []
    for split in ("validation", "test"):
        if split in counts and (unseen := sorted(counts[split].keys() - counts["train"].keys())):
            listed = ", ".join(f"{kind!r} ({counts[split][kind]})" for kind in unseen[:_SHOWN])
            more = f" and {len(unseen) - _SHOWN} more" if len(unseen) > _SHOWN else ""
            notes.append(
                f"{split} split: {len(unseen)} {kinds} are never seen in training: {listed}{more}; all of their "
                f"{examples} count as missed: add training sentences with them or delete these sentences."
            )
    return notes
