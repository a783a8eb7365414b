from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import CoSENTLoss, MultipleNegativesRankingLoss

from startup_llm.errors import UserError
from startup_llm.models.checkpoints import load_checkpoint
from startup_llm.tasks import load_task
from startup_llm.tasks.sentence_similarity.model import (
    build_sentence_encoder,
    compute_cosent_loss,
    compute_ranking_loss,
)
from startup_llm.tasks.sentence_similarity.options import SentenceModel, SimilarityData

TEXTS = ["where is my parcel", "please refund the money for this order", "reset"]


class Given(torch.nn.Module):
    """Stands for an encoder in sentence-transformers' losses: the vectors are what it is given."""

    def forward(self, features):
        return {"sentence_embedding": features["vectors"]}


def draw(rows, parts=2, width=8):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(rows, width, generator=generator, requires_grad=True) for _ in range(parts)]


@pytest.mark.parametrize("parts", [2, 3])
def test_the_ranking_loss_is_sentence_transformers_own_where_no_texts_are_alike(parts):
    vectors = draw(6, parts)
    groups = torch.arange(6 * parts).view(parts, 6).T
    expected = MultipleNegativesRankingLoss(Given())([{"vectors": one} for one in vectors], None)
    found = compute_ranking_loss(vectors[0], torch.cat(vectors[1:]), groups)
    torch.testing.assert_close(found, expected)


def test_texts_of_one_label_are_no_negatives_of_each_other():
    queries, documents = draw(4)
    labels = torch.tensor([0, 1, 0, 2])
    loss = compute_ranking_loss(queries, documents, torch.stack([labels, labels], dim=1))
    (gradient,) = torch.autograd.grad(loss, queries, retain_graph=True)
    others = [row for row in range(4) if row != 2]
    alone = compute_ranking_loss(queries[others], documents[others], torch.stack([labels[others]] * 2, dim=1))
    (expected,) = torch.autograd.grad(alone / 1, queries)
    torch.testing.assert_close(gradient[0] * 4, expected[0] * 3)  # row 0 does not feel row 2, which has its label
    unlike = compute_ranking_loss(queries, documents, torch.arange(8).view(2, 4).T)
    assert loss < unlike


def test_equal_queries_do_not_push_each_other_s_answers_away():
    queries, documents = draw(3)
    same = torch.tensor([[0, 10], [0, 11], [1, 12]])
    loss = compute_ranking_loss(queries, documents, same)
    scores = 20 * torch.nn.functional.normalize(queries) @ torch.nn.functional.normalize(documents).T
    log_shares = [
        scores[0, 0] - torch.logsumexp(scores[0, [0, 2]], 0),
        scores[1, 1] - torch.logsumexp(scores[1, [1, 2]], 0),
    ]
    log_shares.append(scores[2, 2] - torch.logsumexp(scores[2], 0))
    torch.testing.assert_close(loss, -torch.stack(log_shares).mean())


def test_the_cosent_loss_is_sentence_transformers_own():
    left, right = draw(7)
    scores = torch.tensor([0.0, 1.0, 2.5, 2.5, 4.0, 5.0, 0.0])
    expected = CoSENTLoss(Given())([{"vectors": left}, {"vectors": right}], scores)
    torch.testing.assert_close(compute_cosent_loss(left, right, scores), expected)
    assert compute_cosent_loss(left[:1], right[:1], scores[:1]) == 0


@pytest.mark.parametrize(("pooling", "model_type"), [("mean", "bert"), ("cls", "roberta"), ("last", "gpt2")])
def test_sentence_transformers_makes_the_same_vectors_of_what_is_saved(pooling, model_type, tiny_checkpoint, tmp_path):
    task = load_task("sentence-similarity")
    config = SentenceModel(checkpoint=str(tiny_checkpoint(model_type)), pooling=pooling, max_length_tokens=8)
    checkpoint = load_checkpoint(config)
    processor = task.load_processor(checkpoint, config)
    built = build_sentence_encoder(checkpoint, processor)
    assert built.pooling == pooling
    built.model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    encoder = SentenceTransformer(str(tmp_path), device="cpu")
    encoder.tokenizer.pad_token = processor.tokenizer.pad_token
    restored = task.saved_model.load_processor(str(tmp_path))
    assert (restored.pooling, restored.normalize, restored.width) == (pooling, True, 32)
    ids = [{"input_ids": [ids]} for ids in processor.tokenizer(TEXTS, truncation=True, max_length=8)["input_ids"]]
    with torch.inference_mode():
        batch = task.build_collator(restored)(ids)
        found = np.stack(task.compute_outputs(built.model.eval(), batch, restored))
    np.testing.assert_allclose(found, encoder.encode(TEXTS), atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    rows = [{"text": text} for text in TEXTS]
    import datasets

    assert task.saved_model.check_pipeline(str(tmp_path), datasets.Dataset.from_list(rows), found) < 1e-5


def test_the_vectors_are_the_same_where_sentence_transformers_is_missing(tiny_checkpoint, tmp_path, monkeypatch):
    import importlib.util

    import datasets

    task, config = load_task("sentence-similarity"), SentenceModel(checkpoint=str(tiny_checkpoint("bert")))
    checkpoint = load_checkpoint(config)
    processor = task.load_processor(checkpoint, config)
    build_sentence_encoder(checkpoint, processor).model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    vectors = SentenceTransformer(str(tmp_path), device="cpu").encode(TEXTS)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    rows = datasets.Dataset.from_dict({"text": TEXTS})
    assert task.saved_model.check_pipeline(str(tmp_path), rows, vectors) < 1e-5
    assert task.saved_model.check_pipeline(str(tmp_path), rows, vectors[::-1]) > 0.01


def test_a_checkpoint_that_makes_its_vectors_otherwise_is_refused(tiny_checkpoint, tmp_path):
    task, folder = load_task("sentence-similarity"), tmp_path / "model"
    shutil.copytree(tiny_checkpoint("bert"), folder)
    config = SentenceModel(checkpoint=str(folder))

    def load(kinds, mode, **options):
        modules = [
            {"idx": n, "name": str(n), "path": f"{n}_{kind}", "type": f"a.b.{kind}"} for n, kind in enumerate(kinds)
        ]
        (folder / "modules.json").write_text(json.dumps(modules))
        (folder / "1_Pooling").mkdir(exist_ok=True)
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{mode}": True}))
        return task.load_processor(load_checkpoint(config), SentenceModel(checkpoint=str(folder), **options))

    assert load(["Transformer", "Pooling"], "cls_token").normalize is False
    assert load(["Transformer", "Pooling", "Normalize"], "mean_tokens").pooling == "mean"
    assert load(["Transformer", "Pooling"], "cls_token", pooling="mean").pooling == "mean"
    with pytest.raises(UserError, match="has a module Dense behind its pooling"):
        load(["Transformer", "Pooling", "Dense"], "mean_tokens")
    with pytest.raises(UserError, match="pools its tokens otherwise than by mean, cls, last"):
        load(["Transformer", "Pooling"], "max_tokens")
    with pytest.raises(UserError, match=r"model\.pooling native"):
        load(["Transformer", "Pooling"], "mean_tokens", pooling="native")


def test_other_methods_and_rows_without_a_training_split_are_refused():
    import datasets

    from startup_llm.data.task_data import TaskData

    task = load_task("sentence-similarity")
    rows = datasets.Dataset.from_dict({"text": ["a"]})
    data = TaskData(datasets.DatasetDict(train=rows, test=rows))
    for method, word in (
        ("probe", "no linear probe"),
        ("zero-shot", "the rows are scored pairs"),
        ("dpo", "no preferences"),
    ):
        with pytest.raises(UserError, match=word):
            task.check_method(method, data)
    with pytest.raises(UserError, match="no training rows"):
        task.check_method("lora", TaskData(datasets.DatasetDict(test=rows)))
    assert SimilarityData().corpus_subset is None
