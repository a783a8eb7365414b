"""Windows and spans, with tokenizers of the kinds of BERT, RoBERTa and DeBERTa."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from startup_llm.tasks.question_answering.context_windows import cut_windows, find_best_span, find_tokens, read_answers

TEXTS = [
    "  Zoë Müller lebt in Köln, nicht in Bonn – sagt sie. Éric's naïve café-owner paid 3.50 € (¥400) in 東京.",
    "The\tquick\u00a0brown fox\n\njumps over 12,345 lazy dogs; \u201cwhy?\u201d they asked. 😀 Nobody knew",
    "word " * 40 + "needle " + "word " * 40 + "end.",
]
QUESTION = "Who lives where?"


def build_tokenizer(kind: str, limit: int):
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["[CLS]", "[SEP]", "[PAD]", "[UNK]"]
    if kind == "bert":
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=special)
    elif kind == "roberta":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet)
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("  ", " ")])
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=110, special_tokens=special, unk_token="[UNK]")
    tokenizer.train_from_iterator([*TEXTS, QUESTION], trainer)
    ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    if kind == "roberta":
        tokenizer.post_processor = processors.RobertaProcessing(
            ids[1], ids[0], trim_offsets=True, add_prefix_space=False
        )
    else:
        pair = "[CLS] $A [SEP] $B:1 [SEP]:1"
        tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", pair, ids)
    names = {"cls_token": "[CLS]", "pad_token": "[PAD]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=limit, **names)


@pytest.fixture(params=["bert", "roberta", "deberta"])
def kind(request):
    return request.param


def list_words(text: str) -> list[tuple[int, int]]:
    """Return the places of the words, and of pairs of neighbours."""
    places, start = [], 0
    for word in text.split():
        start = text.index(word, start)
        places.append((start, start + len(word)))
        start += len(word)
    return places + [(a, d) for (a, _), (_, d) in itertools.pairwise(places)]


@pytest.mark.parametrize("limit", [48, 400])
def test_every_span_of_words_is_found_as_tokens_and_read_back_as_it_stands(kind, limit):
    tokenizer = build_tokenizer(kind, limit)
    for text in TEXTS:
        windows, _ = cut_windows([QUESTION], [text], tokenizer)
        assert (len(windows["input_ids"]) > 1) == (len(tokenizer(QUESTION, text)["input_ids"]) > limit)
        for start, end in list_words(text):
            outputs, held = [], 0
            for ids, starts, ends in zip(windows["input_ids"], windows["_starts"], windows["_ends"], strict=True):
                tokens = find_tokens(starts, ends, start, end)
                output = np.zeros((2, len(ids)))
                if tokens:
                    held += 1
                    output[[0, 1], list(tokens)] = 9.0
                outputs.append(output)
            assert held or limit == 48, (text[start:end], start)
            if held:
                (answer,) = read_answers(outputs, windows, [text], may_abstain=False)
                assert (answer["start"], answer["end"]) == (start, end)
                assert answer["text"] == text[start:end]


def test_windows_cover_the_context_and_share_a_third(kind):
    tokenizer = build_tokenizer(kind, 48)
    windows, cut = cut_windows([QUESTION, QUESTION], [TEXTS[2], "short"], tokenizer)
    assert cut == 0
    assert windows["_question"].count(1) == 1
    assert windows["_question"] == sorted(windows["_question"])
    assert max(map(len, windows["input_ids"])) == 48
    covered = set()
    previous = None
    for question, starts in zip(windows["_question"], windows["_starts"], strict=True):
        places = [int(place) for place in starts if place >= 0]
        if question == 0:
            if previous is not None:
                assert len(set(previous) & set(places)) >= 14
            covered.update(places)
            previous = places
    whole = tokenizer(TEXTS[2], add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    assert {start for start, end in whole if end > start} <= covered


def test_an_answer_over_the_edge_of_a_window_counts_for_the_window_that_holds_it_as_a_whole(kind):
    tokenizer = build_tokenizer(kind, 48)
    windows, _ = cut_windows([QUESTION], [TEXTS[2]], tokenizer)
    first_ends = windows["_ends"][0]
    edge = int(first_ends.max())
    assert find_tokens(windows["_starts"][0], first_ends, edge - 3, edge) is not None
    assert find_tokens(windows["_starts"][0], first_ends, edge - 3, edge + 2) is None
    assert any(
        find_tokens(starts, ends, edge - 3, edge + 2)
        for starts, ends in zip(windows["_starts"][1:], windows["_ends"][1:], strict=True)
    )


def test_a_question_longer_than_a_third_is_cut_and_counted(kind):
    tokenizer = build_tokenizer(kind, 48)
    windows, cut = cut_windows([QUESTION * 30, QUESTION], [TEXTS[0], TEXTS[0]], tokenizer)
    assert cut == 1
    assert max(map(len, windows["input_ids"])) == 48
    assert all((starts >= 0).any() for starts in windows["_starts"])


def test_the_best_span_is_that_of_trying_every_pair():
    generator = np.random.default_rng(0)
    for _ in range(200):
        tokens = int(generator.integers(1, 14))
        start, end = generator.normal(size=(2, tokens)).round(1)
        start[generator.random(tokens) < 0.3] = -np.inf
        end[generator.random(tokens) < 0.3] = -np.inf
        pairs = [(start[i] + end[j], i, j) for i in range(tokens) for j in range(i, min(i + 4, tokens))]
        first, last, score = find_best_span(start, end, longest=4)
        assert score == max(pairs)[0]
        assert first <= last < first + 4


def build_windows(*starts):
    return {
        "_question": [0] * len(starts),
        "_starts": [np.array(row) for row in starts],
        "_ends": [np.where(np.array(row) >= 0, np.array(row) + 1, -1) for row in starts],
        "_null": [0] * len(starts),
    }


def test_no_answer_is_given_where_every_window_says_so_more_loudly_than_any_span():
    windows = build_windows([-1, 0, 2], [-1, 2, 4])
    quiet, loud = np.array([[5.0, 1, 0], [5.0, 1, 0]]), np.array([[1.0, 3, 0], [1.0, 0, 4]])
    (answer,) = read_answers([quiet, loud], windows, ["a b c"], may_abstain=True)
    assert answer["text"] == "b c"
    chances = np.exp(loud) / np.exp(loud).sum(axis=1, keepdims=True)
    assert answer["score"] == pytest.approx(chances[0, 1] * chances[1, 2])
    (answer,) = read_answers([quiet, quiet], windows, ["a b c"], may_abstain=True)
    assert (answer["text"], answer["start"], answer["end"]) == ("", 0, 0)
    chances = np.exp(quiet) / np.exp(quiet).sum(axis=1, keepdims=True)
    assert answer["score"] == pytest.approx(chances[0, 0] * chances[1, 0])
    (answer,) = read_answers([quiet, quiet], windows, ["a b c"], may_abstain=False)
    assert answer["text"] == "a"


def test_a_temperature_changes_the_score_and_no_answer():
    windows = build_windows([-1, 0, 2], [-1, 2, 4])
    logits = np.array([[1.0, 3, 0], [1.0, 0, 4]])
    plain, cool = (
        read_answers([logits, logits - 9], windows, ["a b c"], may_abstain=True, temperature=temperature)[0]
        for temperature in (1.0, 2.0)
    )
    chances = np.exp(logits / 2) / np.exp(logits / 2).sum(axis=1, keepdims=True)
    assert cool["score"] == pytest.approx(chances[0, 1] * chances[1, 2])
    assert {**cool, "score": 0} == {**plain, "score": 0}


def test_a_context_without_tokens_gets_no_answer():
    (answer,) = read_answers([np.zeros((2, 2))], build_windows([-1, -1]), ["x"], may_abstain=False)
    assert answer == {"text": "", "start": 0, "end": 0, "score": 0.0}
