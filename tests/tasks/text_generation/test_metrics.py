from __future__ import annotations

import math

import pytest

from startup_llm.evaluation.metrics import score_rows
from startup_llm.tasks.text_generation.metrics import BITS_PER_BYTE, BYTE_PERPLEXITY, LOSS, PERPLEXITY


def test_metrics_are_per_token_and_per_byte():
    references = ["ab", "cdé"]  # 2 and 4 bytes
    predictions = [[1.0, 1.0], [3.0, 2.0]]
    assert score_rows(LOSS, references, predictions) == pytest.approx(4 / 3)
    assert score_rows(PERPLEXITY, references, predictions) == pytest.approx(math.exp(4 / 3))
    assert score_rows(BITS_PER_BYTE, references, predictions) == pytest.approx(4 / math.log(2) / 6)
    assert score_rows(BYTE_PERPLEXITY, references, predictions) == pytest.approx(math.exp(4 / 6))
