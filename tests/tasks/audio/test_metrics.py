from __future__ import annotations

import jiwer
import numpy as np
import pytest

from startup_llm.config import EvaluationConfig
from startup_llm.evaluation.metrics import Metric, is_share
from startup_llm.evaluation.statistics import compute_interval
from startup_llm.tasks import load_task
from startup_llm.tasks.audio.metrics import MEL_DISTANCE, normalize_transcript
from startup_llm.tasks.base import find_metric

CAPITALS = ["HELLO HOW ARE YOU", "THE CAT SAT ON A MAT", "HOME"]
WHISPERED = ["Hello, how are you?", "The cat sat on the mat.", "Home!"]


def get_metric(name: str) -> Metric:
    return find_metric(load_task("automatic-speech-recognition"), name)


def compute(name: str, references: list[str], predictions: list[str]) -> float:
    return get_metric(name).compute(references, predictions)


def test_case_and_punctuation_count_in_the_raw_error_rates_alone():
    assert compute("word_error_rate", CAPITALS, WHISPERED) == 1
    assert compute("normalized_word_error_rate", CAPITALS, WHISPERED) == pytest.approx(1 / 11)  # a, the
    assert compute("character_error_rate", CAPITALS, WHISPERED) > 0.7
    assert compute("normalized_character_error_rate", CAPITALS, WHISPERED) == pytest.approx(3 / 41)
    assert is_share("normalized_word_error_rate")


def test_normalized_error_rates_are_jiwer_s_with_its_own_transforms_on_random_texts():
    rng = np.random.default_rng(0)
    words = ["The", "CAT", "sat,", "on", "a-b", "mat.", "Straße", "DOGS?", "“ran”", "home!"]
    references = [" ".join(rng.choice(words, rng.integers(1, 12))) for _ in range(500)]
    predictions = [" ".join(str(rng.choice(words)).lower() for _ in text.split()) for text in references]
    blank = jiwer.SubstituteRegexes({r"[^\w\s]": " "})
    clean = [jiwer.ToLowerCase(), blank, jiwer.RemoveMultipleSpaces(), jiwer.Strip()]
    for name, published, last in (
        ("normalized_word_error_rate", jiwer.wer, jiwer.ReduceToListOfListOfWords()),
        ("normalized_character_error_rate", jiwer.cer, jiwer.ReduceToListOfListOfChars()),
    ):
        transform = jiwer.Compose([*clean, last])
        expected = published(references, predictions, transform, transform)
        assert compute(name, references, predictions) == pytest.approx(expected)
        assert expected < compute(name.removeprefix("normalized_"), references, predictions)


def test_a_text_of_which_nothing_is_left_costs_what_is_written_for_it():
    assert [normalize_transcript(text) for text in ("[noise]", "...", "(laughs) Oh, Søren!")] == ["", "", "oh søren"]
    assert compute("normalized_word_error_rate", ["...", "A B"], ["", "a b"]) == 0
    assert compute("normalized_word_error_rate", ["...", "A B"], ["oh no", "a b"]) == 1
    assert compute("normalized_word_error_rate", ["..."], ["oh no"]) == jiwer.wer("", "oh no")
    assert compute("normalized_word_error_rate", ["...", "[noise]"], ["", "!"]) == 0
    names = ("normalized_word_error_rate", "normalized_character_error_rate")
    for name in names:  # a resample may hold no words at all
        found = compute_interval(get_metric(name), ["...", "A B"], ["oh", "a b"], EvaluationConfig(resamples=50))
        assert np.isfinite([found.value, found.low, found.high]).all()


def test_a_text_that_is_spelt_as_meant_has_the_same_error_rates_either_way():
    references, predictions = ["zero", "one", "seven"], ["zero", "nine", ""]
    for name in ("word_error_rate", "character_error_rate"):
        assert compute(name, references, predictions) == compute(f"normalized_{name}", references, predictions)


def test_mel_distance_worked_out_by_hand():
    compute = MEL_DISTANCE.compute
    a = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
    assert compute([a], [a]) == 0
    assert compute([a], [np.repeat(a, 3, axis=0)]) == 0  # slower, and else the same
    assert compute([a], [a + 0.5]) == pytest.approx(10.0)  # 20 dB for each power of ten
    assert compute([a[:1]], [a[1:2]]) == pytest.approx(20.0)
