from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from startup_llm.config import ModelConfig
from startup_llm.errors import UserError
from startup_llm.models.checkpoints import load_checkpoint, load_tokenizer
from startup_llm.models.pooling import POOLED_FAMILIES, MeanPooling, write_identity
from startup_llm.models.sequence_classifier import build_sequence_classifier, find_output_layer, gather_last_token

TEXTS = ["refund", "where is my parcel", "i forgot my password and want my money back please"]
NAMES = ("delivery", "password", "refund")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def build(folder: Path, **options):
    checkpoint = load_checkpoint(ModelConfig(checkpoint=str(folder)))
    tokenizer = load_tokenizer(checkpoint, 64)
    kind = {"label_names": NAMES, "problem_type": "single_label_classification", **options}
    return build_sequence_classifier(checkpoint, tokenizer, **kind), tokenizer


def logits_of(model, batch) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(**batch).logits


def mean_of_tokens(base, batch) -> torch.Tensor:
    """Average the plain base model's token features, as sentence-transformers does."""
    with torch.inference_mode():
        features = base.eval()(**batch).last_hidden_state
    real = batch["attention_mask"].unsqueeze(-1).float()
    return (features * real).sum(1) / real.sum(1)


def without_closed_form(model):
    """Give every layer of a model its architecture's own class again."""
    for module in model.modules():
        if isinstance(module, MeanPooling):
            module.__class__ = type(module).__mro__[2]
            assert type(module).__module__.startswith("transformers.")
    return model


def write_sentence_transformers_files(folder: Path, **pooling) -> None:
    (folder / "modules.json").write_text(
        json.dumps(
            [
                {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
                {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
            ]
        )
    )
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


@pytest.fixture
def copied(tiny_checkpoint, tmp_path):
    """Return a function that copies an architecture's checkpoint for a test to change."""
    return lambda name: Path(shutil.copytree(tiny_checkpoint(name), tmp_path / name))


def drop_weights(folder: Path, part: str) -> None:
    file = folder / "model.safetensors"
    kept = {name: value for name, value in load_file(file).items() if part not in name}
    save_file(kept, file, metadata={"format": "pt"})


def make_mask(form: str, lengths: list[int], width: int) -> torch.Tensor | None:
    real = torch.arange(width) < torch.tensor(lengths).unsqueeze(1)  # (batch, width)
    if form == "none":
        return None
    square = real[:, None, None, :].expand(-1, 1, width, -1)
    return square if form == "bool" else torch.zeros(square.shape).masked_fill(~square, torch.finfo(torch.float32).min)


@pytest.mark.parametrize(
    ("kernel", "form"),  # eager attention adds its mask, which is never bool
    [("eager", "none"), ("eager", "float"), ("sdpa", "none"), ("sdpa", "float"), ("sdpa", "bool")],
)
def test_closed_form_equals_the_layers_own_forward_at_the_first_token(tiny_checkpoint, kernel, form):
    classifier, _ = build(tiny_checkpoint("bert"), pooling="mean", attention_kernel=kernel)
    layer = classifier.model.bert.encoder.layer[-1].eval()
    hidden, mask = torch.randn(3, 7, 32), make_mask(form, [7, 4, 1], 7)
    with torch.inference_mode():
        short, full = layer(hidden, mask), type(layer).__mro__[2].forward(layer, hidden, mask)
    assert short.shape == (3, 1, 32)
    torch.testing.assert_close(short[:, 0], full[:, 0], atol=1e-5, rtol=0)


def test_closed_form_takes_a_mask_per_token(tiny_checkpoint):
    classifier, _ = build(tiny_checkpoint("bert"), pooling="mean")
    layer = classifier.model.bert.encoder.layer[-1].eval()
    hidden, mask = torch.randn(2, 5, 32), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    expected = layer(hidden, make_mask("bool", [5, 2], 5))
    torch.testing.assert_close(layer(hidden, mask), expected)


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
@pytest.mark.parametrize("family", sorted(set(POOLED_FAMILIES) & {"bert", "roberta"}))
def test_whole_model_gives_the_same_logits_by_the_closed_form_and_by_the_native_layer(tiny_checkpoint, family, kernel):
    classifier, tokenizer = build(tiny_checkpoint(family), pooling="mean", attention_kernel=kernel)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    short = logits_of(classifier.model, batch)
    torch.testing.assert_close(short, logits_of(without_closed_form(classifier.model), batch), atol=1e-5, rtol=0)
    assert short.std() > 0.01


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_head_reads_the_mean_over_the_tokens_and_not_the_first_one(tiny_checkpoint, family):
    classifier, tokenizer = build(tiny_checkpoint(family), pooling="mean")
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    seen = []
    find_output_layer(classifier.model).register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    logits_of(classifier.model, batch)
    from transformers import AutoModel

    mean = mean_of_tokens(AutoModel.from_pretrained(tiny_checkpoint(family), dtype="float32"), batch)
    likeness = torch.nn.functional.cosine_similarity(seen[0], mean - mean.mean(1, keepdim=True))
    assert (likeness > 0.98).all(), likeness
    assert ((seen[0].norm(dim=1) > 0.7) & (seen[0].norm(dim=1) <= 1.0)).all()


@pytest.mark.parametrize("pooling", ["mean", "cls", "native"])
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_saved_model_gives_identical_logits_in_plain_transformers(tiny_checkpoint, tmp_path, family, pooling):
    classifier, tokenizer = build(tiny_checkpoint(family), pooling=pooling)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    classifier.model.save_pretrained(tmp_path)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert not any(isinstance(module, MeanPooling) for module in plain.modules())
    torch.testing.assert_close(logits_of(plain, batch), logits_of(classifier.model, batch), atol=1e-5, rtol=0)
    assert plain.config.id2label == dict(enumerate(NAMES))


def test_padding_does_not_change_a_texts_logits(tiny_checkpoint, architecture):
    classifier, tokenizer = build(tiny_checkpoint(architecture))
    together = logits_of(classifier.model, tokenizer(TEXTS, padding=True, return_tensors="pt"))
    alone = torch.cat([logits_of(classifier.model, tokenizer([text], return_tensors="pt")) for text in TEXTS])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)
    assert together.std(dim=0).min() > 0.01


@pytest.mark.parametrize(
    ("name", "pooling"),
    [
        ("bert", "native"),
        ("roberta", "mean"),
        ("distilbert", "native"),
        ("deberta-v2", "native"),
        ("modernbert", "native"),
        ("gpt2", "last"),
        ("llama", "last"),
        ("qwen3", "last"),
        ("gemma", "last"),
    ],
)
def test_auto_pooling_follows_the_architecture(tiny_checkpoint, name, pooling):
    classifier, _ = build(tiny_checkpoint(name))
    assert classifier.pooling == pooling


def test_bert_without_a_pooler_is_pooled_by_the_mean(copied):
    folder = copied("bert")
    drop_weights(folder, "pooler")
    assert build(folder)[0].pooling == "mean"


@pytest.mark.parametrize(
    ("written", "pooling"),
    [
        ({"pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": "cls"}, "cls"),
    ],
)
@pytest.mark.parametrize("name", ["bert", "modernbert"])
def test_auto_pooling_follows_sentence_transformers_files(copied, name, written, pooling):
    folder = copied(name)
    write_sentence_transformers_files(folder, word_embedding_dimension=32, **written)
    classifier, _ = build(folder)
    assert (classifier.pooling, classifier.notes) == (pooling, ())


def test_packaged_sentence_encoder_is_pooled_by_the_mean():
    checkpoint = load_checkpoint(ModelConfig(checkpoint="sentence-transformers/all-MiniLM-L6-v2"))
    tokenizer = load_tokenizer(checkpoint, 64)
    found = build_sequence_classifier(
        checkpoint, tokenizer, label_names=NAMES, problem_type="single_label_classification"
    )
    assert found.pooling == "mean"
    assert found.model.config.num_hidden_layers == 7


def test_pooling_that_the_classifier_cannot_express_is_said_aloud(copied):
    folder = copied("distilbert")
    write_sentence_transformers_files(folder, pooling_mode_mean_tokens=True)
    classifier, _ = build(folder)
    assert classifier.pooling == "native"
    assert classifier.notes == (
        f"{folder} was trained with mean pooling, which distilbert classifiers cannot express; its own head is used",
    )


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_modernbert_pools_by_its_own_setting(tiny_checkpoint, pooling):
    classifier, _ = build(tiny_checkpoint("modernbert"), pooling=pooling)
    assert classifier.model.config.classifier_pooling == pooling
    assert classifier.constant_modules == ()
    assert classifier.load_arguments == {"num_labels": 3, "classifier_pooling": pooling}


@pytest.mark.parametrize(
    ("name", "pooling", "possible"),
    [
        ("gpt2", "mean", "last"),
        ("distilbert", "mean", "native"),
        ("bert", "last", "mean, cls, native"),
        ("deberta-v2", "cls", "native"),
    ],
)
def test_impossible_pooling_is_refused_with_the_possible_ones(tiny_checkpoint, name, pooling, possible):
    with pytest.raises(UserError) as caught:
        build(tiny_checkpoint(name), pooling=pooling)
    assert str(caught.value) == (
        f"pooling {pooling} is not possible with {name} checkpoints, whose classifier in "
        f"transformers reads otherwise; choose one of: auto, {possible}"
    )


def test_cls_pooling_hands_the_first_token_to_the_head(tiny_checkpoint):
    classifier, tokenizer = build(tiny_checkpoint("bert"), pooling="cls")
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        output = classifier.model.bert.eval()(**batch)
    expected = torch.tanh(output.last_hidden_state[:, 0] / 32**0.5)
    torch.testing.assert_close(output.pooler_output, expected)


def test_identity_keeps_a_normalised_vector_at_norm_one():
    dense = torch.nn.Linear(64, 64)
    write_identity(dense)
    vector = torch.nn.functional.layer_norm(torch.randn(5, 64), (64,))
    torch.testing.assert_close(dense(vector).norm(dim=1), torch.ones(5), atol=1e-4, rtol=0)


def test_checkpoint_without_a_classifier_in_transformers_is_named(copied):
    folder = copied("bert")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "vit", "architectures": ["ViTModel"]}))
    with pytest.raises(UserError, match=rf"^checkpoint {folder} is of type vit, which has no sequence classifier"):
        build(folder)


@pytest.mark.parametrize(
    ("name", "probability"), [("bert", 0.0), ("modernbert", 0.0), ("llama", 0.0), ("bert", 0.25), ("gpt2", 0.25)]
)
def test_dropout_is_set_everywhere_but_not_in_the_config(tiny_checkpoint, name, probability):
    published, _ = build(tiny_checkpoint(name), dropout=probability)
    dropouts = {module.p for module in published.model.modules() if isinstance(module, torch.nn.Dropout)}
    assert dropouts <= {probability}
    from transformers import AutoConfig

    plain = AutoConfig.from_pretrained(tiny_checkpoint(name)).to_dict()
    assert {k: v for k, v in published.model.config.to_dict().items() if "drop" in k} == {
        k: v for k, v in plain.items() if "drop" in k
    }


def test_last_token_is_the_last_real_one_whichever_side_is_padded():
    features = torch.arange(8.0).reshape(2, 4, 1)
    right = torch.tensor([[5, 6, 0, 0], [5, 6, 7, 8]])
    left = torch.tensor([[0, 0, 5, 6], [5, 6, 7, 8]])
    assert gather_last_token(features, right, 0).squeeze(1).tolist() == [1, 7]
    assert gather_last_token(features, left, 0).squeeze(1).tolist() == [3, 7]
