from __future__ import annotations

import gzip
import json
import random

import datasets
import pytest

from startup_llm.errors import UserError
from startup_llm.tasks.token_classification.metrics import count_entities
from startup_llm.tasks.token_classification.options import TaggedTextData
from startup_llm.tasks.token_classification.rows import load_tagged_text, read_scored_tags, read_tag_names
from startup_llm.tasks.token_classification.tag_schemes import Entity, convert_tags, find_entities, find_scheme
from startup_llm.tasks.token_classification.words import split_words

IOB2 = """-DOCSTART-\tO

Ada\tB-person
Lovelace\tI-person
lives\tO
in\tO
London\tB-place

Paris\tB-place
calls\tO
"""
MEANT = [["B-person", "I-person", "O", "O", "B-place"], ["B-place", "O"]]
LABELS = ("O", "B-person", "I-person", "B-place", "I-place")


@pytest.fixture
def load(tmp_path):
    """Return a function that writes files by name and loads them as they lie in a folder."""

    def write(files: dict[str, str | bytes], **options):
        for name, content in files.items():
            (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return load_tagged_text(TaggedTextData(data_dir=str(tmp_path), **options))

    return write


def to_lines(sentences: list[list[str]], words: str = "abcdefgh") -> str:
    return "\n\n".join("\n".join(f"{w}\t{t}" for w, t in zip(words, tags, strict=False)) for tags in sentences) + "\n"


def to_json(rows: list[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize("split", ["dev", "test"])
@pytest.mark.parametrize(
    ("usual", "rare", "kinds"),
    [
        (
            ["B-person", "O"],
            "B-place",
            "types of entities are never seen in training: 'place' (1); all of their entities",
        ),
        (["noun", "verb"], "adverb", "tags are never seen in training: 'adverb' (1); all of their words"),
    ],
    ids=["entities", "tags"],
)
def test_what_is_never_trained_is_named_with_what_to_do(load, split, usual, rare, kinds):
    sentences = {name: [usual, usual] for name in ("train", "dev", "test")}
    sentences[split] = [usual, [usual[0], rare]]
    data = load({f"{name}.conll": to_lines(own) for name, own in sentences.items()})
    place = {"dev": "validation", "test": "test"}[split]
    assert [note for note in data.notes if "never seen" in note] == [
        f"{place} split: 1 {kinds} count as missed: add training sentences with them or delete these sentences."
    ]


@pytest.mark.parametrize("name", ["conll", "txt", "conll.gz"])
def test_a_conll_file_is_sentences_of_tagged_words(load, name):
    content = gzip.compress(IOB2.encode()) if name.endswith("gz") else IOB2
    data = load({f"{split}.{name}": content for split in ("train", "dev", "test")})
    assert data.label_names == LABELS
    assert data.splits["train"]["tokens"][0] == ["Ada", "Lovelace", "lives", "in", "London"]
    assert read_tag_names(data.splits["validation"]) == MEANT
    assert data.splits["test"]["row"] == [1, 2]
    assert any("Entities: 3 in 7 train words" in note for note in data.notes)
    assert any("2 training sentences stand in the test split too" in note for note in data.notes)
    assert data.sources[0]["files"][0]["rows"] == 2


def test_blanks_between_columns_comments_and_blank_lines_with_tabs_are_read(load):
    content = "# id 7 domain=en\nEU NNP B-NP B-org\nrejects VBZ B-VP O\n\t\n# O\nNiels NNP B-NP B-person\n# O O O\n"
    data = load({"train.conll": content, "dev.conll": IOB2, "test.conll": IOB2})
    assert data.splits["train"]["tokens"] == [["EU", "rejects"], ["#", "Niels", "#"]]
    assert read_tag_names(data.splits["train"]) == [["B-org", "O"], ["O", "B-person", "O"]]


SCHEMES = {
    "IOB1": [["I-person", "I-person", "O", "I-place", "B-place"], ["I-place", "O"]],
    "IOB2": [["B-person", "I-person", "O", "B-place", "B-place"], ["B-place", "O"]],
    "BIOES": [["B-person", "E-person", "O", "S-place", "S-place"], ["S-place", "O"]],
    "BILOU": [["B-person", "L-person", "O", "U-place", "U-place"], ["U-place", "O"]],
    "BMEWO": [["B-person", "E-person", "O", "W-place", "W-place"], ["W-place", "O"]],
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_is_recognised_and_gives_the_same_entities(load, scheme):
    data = load({f"{split}.conll": to_lines(SCHEMES[scheme]) for split in ("train", "dev", "test")})
    assert any(f"Tags are {scheme}" in note for note in data.notes)
    assert read_tag_names(data.splits["train"]) == SCHEMES["IOB2"]
    assert data.label_names == LABELS


def test_entities_of_every_scheme_survive_a_round_trip():
    """Entities drawn at random, written in each scheme by its definition, are found again."""
    import numpy as np

    generator = np.random.default_rng(0)
    letters = {"IOB2": "BIII", "BIOES": "BIES", "BILOU": "BILU", "BMEWO": "BMEW"}
    for scheme, (first, middle, last, single) in letters.items():
        sentences, meant = [], []
        for _ in range(200):
            tags, entities = [], []
            while len(tags) < 12:
                size, kind = int(generator.integers(1, 5)), str(generator.choice(["a", "b-c"]))
                if generator.random() < 0.5:
                    entities.append(Entity(kind, len(tags), len(tags) + size))
                    inner = single if size == 1 else first + middle * (size - 2) + last
                    inner = "B" if size == 1 and scheme == "IOB2" else inner
                    tags += [f"{letter}-{kind}" for letter in inner]
                else:
                    tags.append("O")
            sentences.append(tags)
            meant.append(entities)
        assert find_scheme(sentences) == scheme
        converted, faults = convert_tags(sentences, scheme)
        assert not faults
        assert [find_entities(tags) for tags in converted] == meant


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ([["B-a", "I-a"], ["B-a", "O", "I-a"], ["B-a"]], r"line 6: I-a follows O, which IOB2 does not allow"),
        ([["B-a", "I-a"], ["B-a", "I-b"], ["B-a"]], r"line 5: I-b follows B-a, which IOB2 does not allow"),
        ([["I-a", "I-a"], ["O", "I-a"], ["O", "B-a"]], r"line 8: B-a follows O, which IOB1 does not allow"),
        ([["B-a", "E-a"], ["S-a", "B-a"], ["O"]], r"line 5: the end follows B-a, which BIOES does not allow"),
        ([["B-a", "L-a"], ["O", "L-a"], ["U-a"]], r"line 5: L-a follows O, which BILOU does not allow"),
        ([["B-a", "O"], ["NOUN", "O"]], r"line 4 has the tag 'NOUN' beside such as 'B-a'"),
    ],
)
def test_a_tag_where_its_scheme_does_not_allow_it_is_named_by_its_line(load, tags, message):
    good = to_lines([["B-a", "O"]])
    with pytest.raises(UserError, match=rf"train\.conll.*{message}"):
        load({"train.conll": to_lines(tags), "dev.conll": good, "test.conll": good})


def test_sentences_with_faulty_tags_can_be_left_out(load):
    good = to_lines([["B-a", "O"]])
    files = {"train.conll": to_lines([["B-a"], ["O", "I-a"], ["B-a", "O"]]), "dev.conll": good, "test.conll": good}
    data = load(files, skip_bad=True)
    assert data.splits["train"]["row"] == [1, 3]
    assert any("1 of 3 sentences were left out (faulty tags 1): line 4: I-a follows O" in note for note in data.notes)


def test_a_conll_sentence_without_a_tag_can_be_left_out(load):
    good = to_lines([["B-a", "O"]])
    files = {"train.conll": f"{good}\nAda\tB-a\nLovelace\n\n{good}", "dev.conll": good, "test.conll": good}
    data = load(files, skip_bad=True)
    assert data.splits["train"]["row"] == [1, 3]
    assert any(
        "1 of 3 sentences were left out (faulty tags 1): row 2: line 5 has no tag: 'Lovelace'" in note
        for note in data.notes
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Ada\tB-a\nLovelace\n", r"line 2 has no tag: 'Lovelace'"),
        ("Ada\tB-a\n\tO\n", r"line 2 has no word"),
        ("Ada\tB-a\n# id 3\n", r"train\.conll: .*'3'"),
        ("Ada\tO\n", r"every word is tagged O"),
        (b"Ada\tB-a\n\xe9\tO\n", r"not UTF-8 \(line 2: .*\), and its encoding is not recognised"),
        ("\n\n", r"no text, only white space \(2 lines\)"),
    ],
)
def test_a_broken_conll_file_is_one_clear_line(load, content, message):
    good = content if "every word" in message else to_lines([["B-a", "O"]])
    with pytest.raises(UserError, match=message):
        load({"train.conll": content, "dev.conll": good, "test.conll": good})


def test_a_hub_data_set_of_class_ids_keeps_its_order_of_labels(tmp_path):
    names = ["O", "B-place", "I-place", "B-person", "I-person"]
    features = datasets.Features(
        {
            "id": datasets.Value("string"),
            "tokens": datasets.List(datasets.Value("string")),
            "pos_tags": datasets.List(datasets.ClassLabel(names=["NOUN", "VERB"])),
            "ner_tags": datasets.List(datasets.ClassLabel(names=names)),
        }
    )
    row = {"id": "0", "tokens": ["Ada", "L.", "sings"], "pos_tags": [0, 0, 1], "ner_tags": [3, 4, 0]}
    for split in ("train", "validation", "test"):
        datasets.Dataset.from_list([row], features=features).to_parquet(tmp_path / f"{split}.parquet")
    data = load_tagged_text(TaggedTextData(data_dir=str(tmp_path)))
    assert data.label_names == tuple(names)
    assert read_tag_names(data.splits["test"]) == [["B-person", "I-person", "O"]]
    assert "Words from column 'tokens', tags from column 'ner_tags'." in data.notes
    data = load_tagged_text(TaggedTextData(data_dir=str(tmp_path), label_column="pos_tags"))
    assert data.label_names == ("NOUN", "VERB")
    assert any("mark no entities" in note for note in data.notes)


def test_tags_without_prefixes_are_types(load):
    rows = to_json([{"words": ["Ada", "L.", "in", "Rome"], "tags": ["PER", "PER", "O", "LOC"]}])
    data = load({f"{split}.jsonl": rows for split in ("train", "dev", "test")})
    assert read_tag_names(data.splits["test"]) == [["B-PER", "I-PER", "O", "B-LOC"]]
    assert any("neighbours of one type are read as one entity" in note for note in data.notes)


def test_marked_spans_become_tags_of_the_words_of_the_text(load):
    text = "Ada Lovelace's friend, from New York!"
    spans = [{"start": 28, "end": 36, "label": "place"}, {"start": 0, "end": 12, "label": "person"}]
    inside = {"start": 1, "end": 3, "label": "person"}
    rows = to_json([{"text": text, "entities": spans}, {"text": "None here", "entities": []}])
    rows += to_json([{"text": "unhappy days", "entities": [inside | {"start": 2, "end": 7}]}])
    data = load({f"{split}.jsonl": rows for split in ("train", "dev", "test")})
    assert data.splits["train"]["tokens"] == [
        ["Ada", "Lovelace", "'s", "friend", ",", "from", "New", "York", "!"],
        ["None", "here"],
        ["unhappy", "days"],
    ]
    assert read_tag_names(data.splits["train"]) == [
        ["B-person", "I-person", "O", "O", "O", "O", "B-place", "I-place", "O"],
        ["O", "O"],
        ["B-person", "O"],
    ]
    assert read_scored_tags(data.splits["test"])[2] == ["O", "O", "B-person"]
    assert any(
        "inside a word: 1 train, 1 validation, 1 test (the first: train row 3, 'happy' in 'unhappy')" in note
        for note in data.notes
    )


@pytest.mark.parametrize(
    ("text", "entity", "words"),
    [
        ("我在北京工作。", "北京", ["我", "在", "北", "京", "工", "作", "。"]),
        ("東京タワーへ行く", "東京タワー", ["東", "京", "タ", "ワ", "ー", "へ", "行", "く"]),
        ("ฉันอยู่ที่ไทย", "ไทย", ["ฉั", "น", "อ", "ยู่", "ที่", "ไ", "ท", "ย"]),
        ("서울에서 IBM에", "서울", ["서", "울", "에", "서", "IBM", "에"]),
        ("2024年IBM的", "IBM", ["2024", "年", "IBM", "的"]),
    ],
)
def test_text_without_blanks_is_cut_the_same_whatever_its_labels(load, text, entity, words):
    span = {"start": text.index(entity), "end": text.index(entity) + len(entity), "label": "x"}
    rows = to_json([{"text": text, "entities": spans} for spans in ([span], [])])
    data = load({f"{split}.jsonl": rows for split in ("train", "dev", "test")})
    assert data.splits["test"]["tokens"] == [words, words]
    (found,) = find_entities(read_scored_tags(data.splits["test"])[0])
    assert "".join(words[found.start : found.end]) == entity
    assert not any("inside a word" in note for note in data.notes)


def test_spans_that_share_a_word_are_learnt_as_whole_words_and_each_counts_as_missed(load):
    text = "the Spain-France match in Rome"
    spans = [{"start": 4, "end": 9, "label": "a"}, {"start": 10, "end": 16, "label": "b"}]
    rows = to_json([{"text": text, "entities": [*spans, {"start": 25, "end": 30, "label": "a"}]}])
    data = load({f"{split}.jsonl": rows for split in ("train", "dev", "test")})
    assert data.splits["train"]["tokens"] == [["the", "Spain-France", "match", "in", "Rome"]]
    assert read_tag_names(data.splits["train"]) == [["O", "B-a", "O", "O", "B-a"]]
    references = read_scored_tags(data.splits["test"])
    assert references == [["O", "O", "O", "O", "B-a", "B-a", "B-b"]]
    assert count_entities(references, read_tag_names(data.splits["test"])).tolist() == [[1, 2, 3]]


def test_given_words_that_a_text_would_not_be_cut_into_are_counted(load):
    rows = to_json([{"tokens": ["I", "don't", "know", "Ada"], "tags": ["O", "O", "O", "B-x"]}])
    data = load({f"{split}.jsonl": rows for split in ("train", "dev", "test")})
    told = '1 of 1 test sentences are cut otherwise as texts (the first: row 1, "don\'t"'
    assert any(told in note for note in data.notes)
    plain = load({f"{split}.jsonl": rows.replace("don't", "do") for split in ("train", "dev", "test")})
    assert not any("cut otherwise" in note for note in plain.notes)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "row 2: 'tokens' has 2 words and 'tags' 1 tags; one for each"),
        ({"tokens": ["a", " "], "tags": ["O", "O"]}, "row 2: word 2 of 'tokens' is ' ', expected a word"),
        ({"tokens": [], "tags": []}, "row 2: 'tokens' is an empty list"),
        ({"tokens": ["a", "b"], "tags": ["O", None]}, r"row 2: word 2 \('b'\) has no tag"),
        ({"tokens": None, "tags": ["O"]}, "row 2: 'tokens' holds 'None', expected a list"),
        ({"tokens": ["a", "b"], "tags": ["O", "I-x"]}, r"row 2, word 2 \('b'\): I-x follows O"),
    ],
)
def test_a_faulty_row_of_lists_is_named(load, row, message):
    good = {"tokens": ["a"], "tags": ["B-x"]}
    files = {f"{split}.jsonl": to_json([good, *([row] if split == "train" else [])]) for split in ("train", "test")}
    with pytest.raises(UserError, match=message):
        load(files, validation_fraction=0)


@pytest.mark.parametrize(
    ("span", "message"),
    [
        (
            {"start": 0, "end": 99, "label": "x"},
            r"row 1: the span 0 to 99 \(x\) lies outside the text of 9 characters",
        ),
        ({"start": 3, "end": 4, "label": "x"}, "holds nothing but white space"),
        ({"start": 0, "end": 3}, "needs start, end and one of label, type"),
        ({"start": 2, "end": 6, "label": "y"}, r"the spans 0 to 3 \(x\) and 2 to 6 \(y\) overlap"),
    ],
)
def test_a_faulty_span_is_named(load, span, message):
    spans = [span] if "label" not in span or span["label"] == "x" else [{"start": 0, "end": 3, "label": "x"}, span]
    rows = to_json([{"text": "abc defgh", "entities": spans}])
    with pytest.raises(UserError, match=message):
        load({"train.jsonl": rows, "test.jsonl": rows})


@pytest.mark.parametrize("form", ["objects", "lists"])
def test_spans_with_numbered_types_are_read_by_their_names(tmp_path, form):
    whole, kind = datasets.Value("int64"), datasets.ClassLabel(names=["place", "person"])
    span = {"start": whole, "end": whole, "label": kind}
    feature = datasets.List(span) if form == "objects" else {name: datasets.List(part) for name, part in span.items()}
    spans = [{"start": 0, "end": 3, "label": 1}, {"start": 13, "end": 19, "label": 0}]
    if form == "lists":
        spans = {name: [one[name] for one in spans] for name in span}
    features = datasets.Features({"text": datasets.Value("string"), "entities": feature})
    rows = {"text": ["Ada lives in London"] * 8, "entities": [spans] * 8}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "train.parquet")
    data = load_tagged_text(TaggedTextData(data_dir=str(tmp_path), validation_fraction=0))
    assert read_tag_names(data.splits["train"])[0] == ["B-person", "O", "O", "B-place"]


def test_ids_without_names_and_missing_columns_tell_what_to_give(load, tmp_path):
    with pytest.raises(UserError, match="'ner_tags' holds the number 1, and the file does not tell its name"):
        load({"train.jsonl": to_json([{"tokens": ["a"], "ner_tags": [1]}])})
    with pytest.raises(UserError, match="expected tokens with ner_tags"):
        load({"train.jsonl": to_json([{"sentence": "a", "marks": []}])})
    with pytest.raises(UserError, match=r"data\.label_column: no column 'ner' among tokens, ner_tags"):
        load({"train.jsonl": to_json([{"tokens": ["a"], "ner_tags": ["O"]}])}, label_column="ner")


def test_documents_stay_in_one_split_where_that_is_asked_for(load, tmp_path):
    document = "-DOCSTART- -X- O\n\n" + "w{0} B-a\nx O\n\nv{0} B-a\ny O\n\n"
    content = "".join(document.format(number) for number in range(20))
    data = load({"train.conll": content}, group_column="document")
    documents = {name: {word[0][1:] for word in rows["tokens"]} for name, rows in data.splits.items()}
    assert not documents["train"] & documents["test"]
    assert not documents["train"] & documents["validation"]
    given = load({"train.conll": content, "test.conll": to_lines([["B-a", "O"]])}, group_column="document")
    assert given.splits["test"].column_names == given.splits["train"].column_names == ["tokens", "tags", "row"]
    (tmp_path / "test.conll").unlink()
    plain = load({"train.conll": content})
    assert any("--data.group_column document keeps each in one split" in note for note in plain.notes)


def test_words_cover_a_text_and_part_signs_from_them():
    text = "I don't live in the U.S., @paul! It's 3:30pm; see https://t.co/x?y=1 (state-of-the-art)..."
    words = [text[start:end] for start, end in split_words(text)]
    assert "".join(words) == "".join(text.split())
    assert words[:10] == ["I", "do", "n't", "live", "in", "the", "U.S.", ",", "@paul", "!"]
    assert words[10:] == ["It", "'s", "3:30pm", ";", "see", "https://t.co/x?y=1", "(", "state-of-the-art", ")", "..."]


def test_words_cover_any_text():
    generator = random.Random(0)
    for _ in range(300):
        starts = [generator.choice([32, 0x80, 0x900, 0xE00, 0x3000, 0xAC00, 0x1F300]) for _ in range(30)]
        text = "".join(chr(start + generator.randrange(96)) for start in starts)
        words = [text[start:end] for start, end in split_words(text)]
        assert "".join("".join(words).split()) == "".join(text.split())


@pytest.mark.slow
@pytest.mark.real_data
def test_wnut_2017_is_read_whole(real_data):
    data = load_tagged_text(TaggedTextData(data_dir=str(real_data / "wnut17")))
    assert {name: len(rows) for name, rows in data.splits.items()} == {
        "train": 3394,
        "validation": 1009,
        "test": 1287,
    }
    assert "Entities: 1,975 in 62,730 train words, 836 in 15,733 validation words, 1,079 in 23,394 test words." in (
        data.notes
    )
    assert len(data.label_names) == 13
