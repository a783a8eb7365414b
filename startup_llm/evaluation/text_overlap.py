"""How much a written text overlaps with the one it was meant to be.

BLEU, chrF and ROUGE are as their libraries count. Short answers are compared as SQuAD's evaluation compares them, word
by word: in lower case, without ASCII punctuation, without the articles a, an and the, and with single spaces
(Rajpurkar et al. 2016, section 6.1).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

Array = np.ndarray

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:an?|the)\b")


@cache
def _bleu() -> Any:
    from sacrebleu import BLEU

    return BLEU()


@cache
def _chrf() -> Any:
    from sacrebleu import CHRF

    return CHRF()


def count_bleu(references: Sequence[str], predictions: Sequence[str]) -> Array:
    """Count both lengths in tokens, then matching and all n-grams up to 4; shape (rows, 10)."""
    # sacreBLEU keeps its counts to itself; they are what its own bootstrap adds up
    return np.array(_bleu()._extract_corpus_statistics(list(predictions), [list(references)]))


def combine_bleu(sums: Array) -> float:
    """Return BLEU of the corpus, 0 to 100, as sacreBLEU's defaults have it (Post 2018)."""
    return _bleu()._compute_score_from_stats([round(value) for value in sums]).score


def count_chrf(references: Sequence[str], predictions: Sequence[str]) -> Array:
    """Count for each character n-gram order those written, those meant and those that match; shape (rows, 18)."""
    return np.array(_chrf()._extract_corpus_statistics(list(predictions), [list(references)]))


def combine_chrf(sums: Array) -> float:
    """Return chrF2 of the corpus, 0 to 100, as sacreBLEU's defaults have it (Popovic 2015)."""
    return _chrf()._compute_f_score([round(value) for value in sums])


def sign_bleu() -> str:
    """Return sacreBLEU's signature: how the texts were cut and smoothed, and by which version."""
    return _sign(_bleu())


def sign_chrf() -> str:
    """Return sacreBLEU's signature of chrF."""
    return _sign(_chrf())


def _sign(metric: Any) -> str:
    metric._extract_corpus_statistics(["a"], [["a"]])  # which tells it the number of references
    return str(metric.get_signature())


def count_rouge(kind: str) -> Callable[[Sequence[str], Sequence[str]], Array]:
    """Return what counts F1 of a kind of overlap, and one, for each row; shape (rows, 2).

    Args:
        kind: rouge1, rouge2 or rougeL of the rouge-score library (Lin 2004), with its stemmer.
    """

    def count(references: Sequence[str], predictions: Sequence[str]) -> Array:
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer([kind], use_stemmer=True)
        pairs = zip(references, predictions, strict=True)
        return np.array([[scorer.score(right, text)[kind].fmeasure, 1.0] for right, text in pairs])

    return count


def normalize_answer(text: str) -> str:
    """Return a text in the form in which answers are compared."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def compute_exact(answer: str, text: str) -> float:
    """Return 1 where two texts are the same in normal form, else 0."""
    return float(normalize_answer(answer) == normalize_answer(text))


def compute_word_f1(answer: str, text: str) -> float:
    """Return the harmonic mean of the shares of words that two texts have in common; 0 where one has no words."""
    true, written = normalize_answer(answer).split(), normalize_answer(text).split()
    common = sum((Counter(true) & Counter(written)).values())
    return 2 * common / (len(true) + len(written)) if common else 0.0


def count_answers(compare: Callable[[str, str], float]) -> Callable[[Sequence[str], Sequence[str]], Array]:
    """Return what counts the agreement of a written answer with the right one, and one, for each row; shape (rows, 2).

    Args:
        compare: From the right answer and the written one to their agreement, 0 to 1.
    """

    def count(references: Sequence[str], predictions: Sequence[str]) -> Array:
        pairs = zip(references, predictions, strict=True)
        return np.array([[compare(right, text), 1.0] for right, text in pairs])

    return count


def combine_mean(sums: Array) -> float:
    """Return the mean over the rows."""
    return sums[0] / sums[1]
