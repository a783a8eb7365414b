"""Batch norms that keep their statistics."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from startup_llm.models.fixed_batch_norm import fix_batch_norms


@pytest.mark.parametrize(
    ("kind", "shape"), [(nn.BatchNorm1d, (6, 3)), (nn.BatchNorm1d, (6, 3, 5)), (nn.BatchNorm2d, (6, 3, 5, 4))]
)
def test_training_normalises_as_evaluation_does_and_changes_no_statistics(kind, shape):
    torch.manual_seed(0)
    model = nn.Sequential(kind(3))
    for values in (model[0].weight, model[0].bias, model[0].running_mean):
        nn.init.normal_(values)
    features = torch.randn(shape)
    expected = model.eval()(features)
    mean = model[0].running_mean.clone()
    fix_batch_norms(model)
    torch.testing.assert_close(model.train()(features), expected)
    assert torch.equal(model[0].running_mean, mean)


def test_what_is_excluded_counts_on():
    model = nn.ModuleDict({"body": nn.BatchNorm2d(3), "head": nn.Sequential(nn.BatchNorm2d(3))})
    fix_batch_norms(model, exclude=["head"])
    for part in model.values():
        part.train()(torch.randn(4, 3, 2, 2))
    assert not model["body"].running_mean.any()
    assert model["head"][0].running_mean.any()


def test_a_batch_norm_without_statistics_stays_as_it_is():
    model = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.BatchNorm1d(3, affine=False))
    fix_batch_norms(model)
    assert [type(part) for part in model] == [nn.BatchNorm2d, nn.BatchNorm1d]
