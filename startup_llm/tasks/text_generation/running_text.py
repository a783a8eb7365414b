"""Text to model as it runs on: files, folders and columns of text, cut into passages and contiguous splits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from startup_llm.data.bad_rows import EMPTY_TEXT, BadRows, Fault
from startup_llm.data.columns import find_text_columns, list_columns
from startup_llm.data.sources import SPLIT_ALIASES, LoadedData, load_splits
from startup_llm.data.splits import check_group_column, make_splits
from startup_llm.data.task_data import TaskData
from startup_llm.data.text_lines import check_encoding
from startup_llm.data.text_reading import TextReading, clean_columns, join_columns
from startup_llm.errors import UserError, nearest
from startup_llm.tasks.text_generation.options import GenerationData

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerFast

PASSAGE_CHARACTERS = 500
"""A passage ends at the first line end after this many characters: rows that are resampled as a whole."""
END, UNKNOWN = "<|endoftext|>", "<|unknown|>"


def load_running_text(data: GenerationData, loaded: LoadedData | None = None) -> TaskData:
    """Load text for language modelling.

    Text files are one running text: what is not given as a split of its own is cut off its end, so that no passage of
    the training text lies between two of the test. Rows of a table or a Hub dataset are documents, split at random.

    Args:
        data: Names .txt files, a folder of them, or a table or dataset with a column of text.
        loaded: The table or dataset, where it has been loaded.

    Returns:
        Splits of passages: row, text, and `ends`, whether a document ends with the passage. Joined in their order, the
        passages are the text again, to the character.

    Raises:
        UserError: If a file is missing, is not UTF-8 or holds no text, or a split would be empty.
    """
    reading = TextReading.of_config(vars(data))
    if files := find_text_files(data):
        if reading.kinds:
            raise UserError(f"data.clean {data.clean}: text files are learnt as they stand; leave it out")
        return _load_files(files, data)
    loaded = loaded or load_splits(data)
    joined, data, join_notes = join_columns(loaded.splits, data)
    column, _ = find_text_columns(joined["train"], cast("str | None", data.text_column))
    cleaned, cleaning_notes = clean_columns(joined, [column], reading)
    loaded = replace(loaded, splits=cleaned, notes=[*loaded.notes, *join_notes, *cleaning_notes])
    if data.group_column:
        check_group_column(loaded.splits["train"], data.group_column)
    splits, notes = make_splits(loaded.splits, data, group_by=data.group_column)
    documents, bad_rows = {}, BadRows(skip_bad=True)
    for split, rows in splits.items():
        if column not in rows.column_names:
            raise UserError(f"the {split} split has no column {column!r}, only {list_columns(rows.column_names)}")
        texts = list(rows[column])
        reason = f"the column {column!r} is empty"
        faults = [Fault(row, reason, EMPTY_TEXT) for row, text in enumerate(texts, start=1) if not text]
        bad = bad_rows.leave_out(faults, len(rows), f"{split} split", "documents")
        documents[split] = [text for row, text in enumerate(texts, start=1) if row not in bad]
    built = _build_data(documents, data, [*loaded.notes, *notes, *bad_rows.notes], loaded.sources)
    return replace(built, left_out=dict(bad_rows.left_out))


def cut_passages(text: str, characters: int = PASSAGE_CHARACTERS) -> Iterator[str]:
    """Cut a text at line ends into passages of at least `characters`; joined they are the text again.

    Args:
        text: Any text.
        characters: Least length of a passage, but for the last one.
    """
    start = 0
    while start < len(text):
        end = text.find("\n", start + characters - 1) + 1 or len(text)
        yield text[start:end]
        start = end


def train_character_tokenizer(texts: Sequence[str], max_length_tokens: int) -> PreTrainedTokenizerFast:
    """Make a tokenizer with one token per character; what the texts do not hold becomes one unknown token.

    Args:
        texts: What it may learn from: the training split, nothing else.
        max_length_tokens: Its `model_max_length`.

    Returns:
        A tokenizer that `AutoTokenizer` loads; decoding gives the text again, line ends and blanks included.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    characters = sorted(set().union(*texts))
    vocabulary = {token: number for number, token in enumerate([*characters, END, UNKNOWN])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=UNKNOWN,
        eos_token=END,
        pad_token=END,
        model_max_length=max_length_tokens,
        clean_up_tokenization_spaces=False,
    )


def find_text_files(data: GenerationData) -> dict[str, list[Path]]:
    """Return the .txt files per split; none where the data are something else."""
    named_files = {"train": data.train_file, "validation": data.validation_file, "test": data.test_file}
    files = {
        split: [Path(name) for name in ([names] if isinstance(names, str) else names)]
        for split, names in named_files.items()
        if names
    }
    tables = [path for paths in files.values() for path in paths if path.suffix.lower() != ".txt"]
    if files and len(tables) < sum(map(len, files.values())):
        if tables:
            raise UserError(f"{tables[0]}: a table beside .txt files; give one or the other")
        if "train" not in files:
            raise UserError(f"{next(iter(files.values()))[0]} is given without data.train_file; name it too")
        return files
    return _find_texts_of_folder(Path(data.data_dir)) if data.data_dir and not files else {}


def _find_texts_of_folder(folder: Path) -> dict[str, list[Path]]:
    """Return the .txt files by the splits that they are named after; all are for training where none is named so."""
    text_files = sorted(folder.glob("*.txt")) if folder.is_dir() else []
    named = {path: SPLIT_ALIASES.get(path.stem.lower()) for path in text_files}
    if "train" in named.values():
        return {split: [path] for path, split in named.items() if split}
    return {"train": text_files} if text_files else {}


def _load_files(files: dict[str, list[Path]], data: GenerationData) -> TaskData:
    documents: dict[str, list[str]] = {}
    sources: list[dict[str, Any]] = []
    for split, paths in files.items():
        documents[split], records = [], []
        for path in paths:
            text, record = _read_text(path, data.encoding)
            documents[split].append(text)
            records.append(record)
        sources.append({"split": split, "files": records, "rows": len(paths)})
    notes = []
    for split, fraction in (("test", data.test_fraction), ("validation", data.validation_fraction)):
        if split not in documents and fraction:
            if not 0 < fraction < 1:
                raise UserError(f"data.{split}_fraction ({fraction}) must lie between 0 and 1; try 0.1")
            documents["train"], documents[split] = _cut_end(documents["train"], fraction)
            notes.append(
                f"The last {fraction:.0%} of the training text are the {split} split: "
                f"{sum(map(len, documents[split])):,} characters."
            )
    whole = {split for split in files if split != "train"} | ({"train"} if len(documents) == len(files) else set())
    return _build_data(documents, data, notes, sources, whole or {"test"})


def _cut_end(documents: list[str], fraction: float) -> tuple[list[str], list[str]]:
    """Cut the last share of the characters off, in the middle of a document where it falls there."""
    keep = int((1 - fraction) * sum(map(len, documents)))
    head, tail = [], []
    for text in documents:
        head += [text[:keep]] * bool(text[:keep])
        tail += [text[keep:]] * bool(text[keep:])
        keep = max(0, keep - len(text))
    if not head or not tail:
        raise UserError(f"the text is too short to cut {fraction:g} of it off ({len(''.join(documents))} characters)")
    return head, tail


def _read_text(path: Path, encoding: str | None) -> tuple[str, dict[str, Any]]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(f"no such file: {path}{nearest(path.name, names)}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; expected a text file") from None
    if encoding is not None:
        check_encoding(encoding)
    try:
        text = content.decode(encoding or "utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}: not {encoding or 'UTF-8'}: byte 0x{content[error.start]:02x} at offset {error.start} (line "
            f"{line}); name its encoding, such as --data.encoding cp1252"
        ) from None
    if "\0" in text:
        raise UserError(f"{path}: a NUL character at offset {text.index(chr(0))}; expected UTF-8 text")
    if not text.strip():
        raise UserError(f"{path}: the file holds no text ({len(content)} bytes); expected running text")
    return text, {"path": str(path), "sha256": hashlib.sha256(content).hexdigest(), "rows": 1}


def _cut_documents(documents: list[str], split: str, *, goes_on: bool) -> datasets.Dataset:
    """Return a row for each passage; the last one ends its text unless that goes on in another split."""
    import datasets

    passages = [list(cut_passages(text)) for text in documents]
    texts = [passage for cut in passages for passage in cut]
    ends = [place == len(cut) - 1 for cut in passages for place in range(len(cut))]
    if not texts:
        raise UserError(f"the {split} split holds no text; add some, or give another split")
    if goes_on:
        ends[-1] = False
    return datasets.Dataset.from_dict({"row": list(range(1, len(texts) + 1)), "text": texts, "ends": ends})


def _build_data(
    documents: dict[str, list[str]],
    data: GenerationData,
    notes: list[str],
    sources: list[dict[str, Any]],
    ended: set[str] | None = None,
) -> TaskData:
    """Cut documents into passages.

    Args:
        documents: Texts per split.
        data: How many passages to take at most.
        notes: What has been decided so far.
        sources: Where the texts are from.
        ended: Splits whose last text is whole; None for all.
    """
    import datasets

    splits = {}
    max_rows = {"train": data.max_train_rows, "test": data.max_test_rows}
    for split in (name for name in ("train", "validation", "test") if name in documents):
        rows = _cut_documents(documents[split], split, goes_on=ended is not None and split not in ended)
        if (limit := max_rows.get(split)) is not None and limit < len(rows):
            if limit < 1:
                raise UserError(f"data.max_{split}_rows must be 1 or more, not {limit}")
            rows = rows.select(range(limit))
        splits[split] = rows
    known = set().union(*splits["train"]["text"])
    strange = [character for text in splits["test"]["text"] for character in text if character not in known]
    if strange:
        listed = ", ".join(map(repr, sorted(set(strange))[:5]))
        notes.append(f"{len(strange):,} test characters never occur in train ({listed}).")
    characters = {split: sum(map(len, rows["text"])) for split, rows in splits.items()}
    notes.append(
        f"{', '.join(f'{count:,} {split}' for split, count in characters.items())} characters; "
        f"a row is a passage of at least {PASSAGE_CHARACTERS} characters."
    )
    return TaskData(datasets.DatasetDict(splits), notes=notes, sources=sources)
