import datasets
import numpy as np
import pytest
import torch
from served_models import save_classifier
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from startup_llm.errors import UserError
from startup_llm.tasks import load_task
from startup_llm.tasks.explanation import (
    Explanation,
    WordWeight,
    delete_words,
    explain_label,
    explain_regions,
    find_alike,
    find_words,
    judge_deletion,
    measure_deletion,
)
from startup_llm.training.speed import plan_speed

TEXT = "please refund the money, it isn't mine"
WORDS = ["please", "refund", "the", "money", ",", "it", "isn't", "mine"]


@pytest.fixture(scope="module")
def plan():
    return plan_speed().exact()


@pytest.fixture(scope="module", params=["bert", "roberta", "gpt2"])
def classifier(request, tiny_checkpoint, tmp_path_factory):
    """A tiny classifier and its tokenizer; of a decoder with the token that its head looks for."""
    base = tiny_checkpoint(request.param)
    if request.param == "bert":
        folder = save_classifier(base, tmp_path_factory.mktemp("explained") / "model")
        return AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(base, model_max_length=64)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    pad = tokenizer.pad_token_id
    return AutoModelForSequenceClassification.from_pretrained(base, num_labels=3, pad_token_id=pad), tokenizer


def test_attributions_of_words_add_up_and_stand_where_the_words_do(classifier, plan):
    model, tokenizer = classifier
    explained = explain_label(model, tokenizer, {"text": TEXT}, 1, plan)
    assert [word.word for word in explained.words] == WORDS
    assert all(TEXT[word.start : word.end] == word.word for word in explained.words)
    assert max(abs(word.weight) for word in explained.words) == pytest.approx(1)
    assert explained.completeness_error < 0.1
    assert -1 <= explained.agreement <= 1


def test_both_texts_of_a_pair_have_words_and_what_is_cut_off_has_no_weight(tiny_checkpoint, tmp_path, plan):
    folder = save_classifier(tiny_checkpoint("bert"), tmp_path / "model")
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, model_max_length=16)
    pair = {"text": "where is it", "text_pair": "the parcel " * 20}
    explained = explain_label(model, tokenizer, pair, 0, plan)
    assert [word.column for word in explained.words[:4]] == ["text"] * 3 + ["text_pair"]
    assert all(word.weight == 0 for word in explained.words[-10:])


def test_a_word_that_alone_decides_has_the_largest_weight_and_occlusion_agrees(tiny_checkpoint, tmp_path, plan):
    folder = save_classifier(tiny_checkpoint("bert"), tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)

    class CountsRefunds(torch.nn.Module):
        """A model whose logit is the first feature of its tokens' embeddings, which only `refund`'s tokens have."""

        def __init__(self) -> None:
            super().__init__()
            self.embeddings = torch.nn.Embedding(len(tokenizer), 4)
            torch.nn.init.zeros_(self.embeddings.weight)
            ids = tokenizer(" refund", add_special_tokens=False)["input_ids"]
            self.embeddings.weight.data[ids, 0] = 1

        def get_input_embeddings(self) -> torch.nn.Module:
            return self.embeddings

        def forward(self, input_ids, **others):
            total = self.embeddings(input_ids)[..., 0].sum(dim=1)
            return type("Output", (), {"logits": torch.stack([-total, total], dim=1)})

    explained = explain_label(CountsRefunds(), tokenizer, {"text": "please refund my order now"}, 1, plan)
    weights = {word.word: word.weight for word in explained.words}
    assert weights["refund"] == pytest.approx(1)
    assert max(abs(weight) for word, weight in weights.items() if word != "refund") < 0.5
    assert explained.completeness_error < 1e-4
    assert explained.agreement > 0.99


def test_a_model_that_captum_cannot_take_is_one_line(classifier, plan):
    class NoEmbeddings(torch.nn.Module):
        def get_input_embeddings(self):
            raise NotImplementedError("no token embeddings here\nand a second line")

    with pytest.raises(UserError, match=r"captum cannot take NoEmbeddings \(no token embeddings here\)$"):
        explain_label(NoEmbeddings(), classifier[1], {"text": TEXT}, 0, plan)


def explain_by(weights):
    words, start = [], 0
    for word, weight in weights:
        words.append(WordWeight("text", start, start + len(word), word, weight))
        start += len(word) + 1
    return Explanation(tuple(words), 0.0, None)


def test_deleting_the_named_words_is_compared_with_random_ones_and_no_better_is_said():
    texts, good, bad = [], [], []
    generator = np.random.default_rng(0)
    for _ in range(30):
        words = ["key" if place == 3 else f"w{generator.integers(99)}" for place in range(8)]
        texts.append({"text": " ".join(words)})
        good.append(explain_by([(word, 1.0 if word == "key" else 0.1) for word in words]))
        bad.append(explain_by([(word, generator.random()) for word in words]))

    def predict(rows):
        has_key = np.array(["key" in row["text"].split() for row in rows], float)
        return np.stack([1 - has_key, has_key], axis=1)

    test = measure_deletion(texts, good, [1] * 30, predict)
    assert test["explained"] == pytest.approx(1)
    assert test["random"] < 0.6
    assert judge_deletion(test).startswith("The explanations point at words that matter")
    test = measure_deletion(texts, bad, [1] * 30, predict)
    assert test["low"] < 0 < test["high"]
    assert "no better than random words here, do not rely on them" in judge_deletion(test)


def test_words_are_deleted_where_they_stand_and_nearest_rows_are_by_cosine():
    explained = explain_by([("not", 0.9), ("a", 0.1), ("not", 0.5)])
    assert delete_words({"text": "not a not"}, explained.words[2:]) == {"text": "not a"}
    assert find_words("isn't it 4,5?") == [(0, 5), (6, 8), (9, 10), (10, 11), (11, 12), (12, 13)]
    places, cosines = find_alike(np.array([[2.0, 0.0]]), np.array([[0.0, 1.0], [5.0, 0.0], [1.0, 1.0]]), 2)
    assert places.tolist() == [[1, 2]]
    assert cosines[0] == pytest.approx([1, 0.5**0.5])


def test_an_answer_s_span_is_explained_in_the_window_that_holds_it(tiny_checkpoint, plan):
    base = tiny_checkpoint("bert")
    model = AutoModelForQuestionAnswering.from_pretrained(base)
    tokenizer = AutoTokenizer.from_pretrained(base, model_max_length=32)
    context = "where is the parcel " * 20 + "the refund has arrived"
    start = context.index("refund")
    rows = datasets.Dataset.from_list([{"question": "what arrived", "context": context}] * 2)
    answers = [{"answer": "refund", "start": start, "end": start + 6}, {"answer": "", "start": 0, "end": 0}]
    predictor = load_task("question-answering").predictor
    first, second = predictor.explain(model, tokenizer, rows, answers, plan)
    assert first["answer"] == "refund"
    words = [word["word"] for word in first["explanation"]]
    assert len(words) == 10
    assert {"refund", "arrived"} & set(words)
    assert first["completeness_error"] < 0.2
    assert second == {**answers[1], "explanation": [], "completeness_error": None, "occlusion_agreement": None}


def test_each_entity_is_explained_by_the_words_around_it(tiny_checkpoint, plan):
    base = tiny_checkpoint("bert")
    model = AutoModelForTokenClassification.from_pretrained(base, num_labels=3)
    tokenizer = AutoTokenizer.from_pretrained(base, model_max_length=64)
    text = "parcel " * 60 + "please refund the money of Ann"
    entity = {"type": "PER", "text": "Ann", "start": len(text) - 3, "end": len(text), "score": 0.9}
    rows = datasets.Dataset.from_dict({"text": [text, "nothing here"]})
    answers = [{"entities": [entity]}, {"entities": []}]
    predictor = load_task("token-classification").predictor
    first, second = predictor.explain(model, tokenizer, rows, answers, plan)
    assert second == {"entities": []}
    (explained,) = first["entities"]
    assert explained["text"] == "Ann"
    assert explained["completeness_error"] < 0.2
    assert {word["word"] for word in explained["explanation"]} <= {*text.split()}


def test_the_regions_of_an_image_that_decide_are_named(plan):
    class LooksAtTheCorner(torch.nn.Module):
        def forward(self, pixel_values):
            corner = pixel_values[:, :, :4, 28:].mean(dim=(1, 2, 3))
            return type("Output", (), {"logits": torch.stack([-corner, corner], dim=1)})

    pixels = torch.zeros(1, 3, 32, 32)
    pixels[:, :, :4, 28:] = 1
    first, *others = explain_regions(LooksAtTheCorner(), pixels, 1, plan)
    assert first == {"left": 0.875, "top": 0.0, "right": 1.0, "bottom": 0.125, "weight": 1.0}
    assert all(region["weight"] <= 1 for region in others)
    with pytest.raises(UserError, match="captum cannot take LooksAtTheCorner"):
        explain_regions(LooksAtTheCorner(), pixels, 7, plan)
