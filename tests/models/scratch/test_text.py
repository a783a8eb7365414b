from __future__ import annotations

import pytest
import torch
from transformers import AutoModel

from startup_llm.config import LabelledTextData
from startup_llm.errors import UserError
from startup_llm.models.scratch.dnn import encode_ngrams
from startup_llm.models.scratch.text import (
    NgramHasher,
    build_text_dnn,
    build_text_transformer,
    load_text_classifier,
    save_text_classifier,
    train_tokenizer,
)
from startup_llm.tasks import load_task
from startup_llm.tasks.text_classification.options import ScratchTextTransformer

TEXTS = ["Where is my parcel?", "i forgot my password", "please refund the order"]


def test_a_hasher_gives_the_numbers_of_encode_ngrams():
    hasher = NgramHasher(1000, 2)
    batch = hasher.pad([hasher(text) for text in [*TEXTS, "!?"]])
    assert torch.equal(batch["input_ids"], encode_ngrams([*TEXTS, "!?"], 1000, 2))


def test_a_hasher_cuts_where_it_is_told_to():
    assert len(NgramHasher(1000)(TEXTS[0], truncation=True, max_length=3)["input_ids"]) == 3


def test_a_hasher_reads_both_texts_of_a_pair():
    hasher = NgramHasher(1000)
    assert set(hasher("one", "two")["input_ids"]) == set(hasher("one two")["input_ids"])


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_a_tokenizer_frames_a_text_and_knows_its_training_words(kind):
    tokenizer = train_tokenizer(TEXTS * 5, kind, 400, 32)
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("My PARCEL")["input_ids"])
    assert (tokens[0], tokens[-1]) == ("[CLS]", "[SEP]")
    assert "[UNK]" not in tokens
    types = tokenizer("parcel", "order")["token_type_ids"]
    assert types == sorted(types)
    assert set(types) == {0, 1}


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_a_tokenizer_trained_again_numbers_its_tokens_alike(kind):
    vocabularies = [train_tokenizer(TEXTS * 5, kind, 400, 32).get_vocab() for _ in range(4)]
    assert all(vocabulary == vocabularies[0] for vocabulary in vocabularies)


def test_a_part_of_a_word_is_no_special_token():
    tokenizer = train_tokenizer(TEXTS * 5, "wordpiece", 400, 32)
    assert set(tokenizer.get_added_vocab()) == {"[PAD]", "[UNK]", "[CLS]", "[SEP]"}


def test_an_unknown_kind_of_tokenizer_is_named():
    with pytest.raises(UserError, match="unknown tokenizer 'wordpeace'; did you mean wordpiece"):
        train_tokenizer(TEXTS, "wordpeace", 400, 32)


def test_the_tokenizer_learns_from_the_training_split_alone(tmp_path):
    for split, word in (("train", "parcel"), ("test", "quixotic")):
        rows = [f"{word} number {i},{'ab'[i % 2]}" for i in range(20)]
        (tmp_path / f"{split}.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    task = load_task("text-classification")
    data = task.load_data(LabelledTextData(data_dir=str(tmp_path), validation_fraction=0))
    model = ScratchTextTransformer(name="transformer", width=16, layers=1, heads=2, vocab_size=500)
    tokenizer, _ = task.reference_models.build(data, model, "eager")
    assert "parcel" in tokenizer.get_vocab()
    assert "quixotic" not in tokenizer.get_vocab()


def test_an_unseen_ngram_starts_quiet():
    embedding = build_text_dnn(NgramHasher(100), 3, 8).embedding.weight
    assert float(embedding[:-1].abs().max()) <= 1 / 8
    assert not embedding[-1].any()


@pytest.fixture(params=["relu", "sigmoid", "tanh", "transformer"])
def classifier(request):
    torch.manual_seed(0)
    if request.param != "transformer":
        hasher = NgramHasher(500)
        return build_text_dnn(hasher, 3, 8, (6,), 0.1, request.param).eval(), hasher
    tokenizer = train_tokenizer(TEXTS, "wordpiece", 200, 32)
    return build_text_transformer(tokenizer, 3, width=16, heads=2, layers=2).eval(), tokenizer


def test_a_saved_classifier_gives_the_same_numbers(classifier, tmp_path):
    model, tokenizer = classifier
    save_text_classifier(model, tokenizer, ["a", "b", "c"], tmp_path)
    again, same, names = load_text_classifier(tmp_path)
    before = model(**tokenizer.pad([tokenizer(text) for text in TEXTS], return_tensors="pt"))["logits"]
    after = again(**same.pad([same(text) for text in TEXTS], return_tensors="pt"))["logits"]
    assert torch.equal(before, after)
    assert names == ["a", "b", "c"]


def test_a_saved_encoder_loads_with_transformers(tmp_path):
    tokenizer = train_tokenizer(TEXTS, "wordpiece", 200, 32)
    model = build_text_transformer(tokenizer, 3, width=16, heads=2, layers=2).eval()
    save_text_classifier(model, tokenizer, ["a", "b", "c"], tmp_path)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    theirs = AutoModel.from_pretrained(tmp_path, add_pooling_layer=False).eval()(**batch).last_hidden_state
    real = batch["attention_mask"].bool()
    assert torch.allclose(model.encoder(**batch)[real], theirs[real], atol=1e-5)


def test_a_folder_without_a_classifier_is_told(tmp_path):
    with pytest.raises(UserError, match=r"has no startup_llm\.json"):
        load_text_classifier(tmp_path)
