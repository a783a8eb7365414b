"""Long contexts in windows that overlap, and the spans of characters that a model's tokens point at.

A model reads a question and as much of its context as fits; what does not fit stands in further windows, each of
which begins again a third of a window before the last one ended (Devlin et al. 2019, section 4.2, as their published
code does it).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LONGEST_ANSWER_TOKENS = 30
"""Most tokens of an answer, as in BERT's published code."""
LEAST_WINDOW_TOKENS = 24
"""Fewest tokens that leave room for a question, an overlap and some context."""


def cut_windows(
    questions: Sequence[str], contexts: Sequence[str], tokenizer: PreTrainedTokenizerBase
) -> tuple[dict[str, list], int]:
    """Tokenize questions with their contexts; a long context gives several windows.

    A window has the tokenizer's `model_max_length` tokens at most, and two windows share a third of that. A question
    longer than a third is cut.

    Args:
        questions: One per row.
        contexts: One per row.
        tokenizer: A fast tokenizer with a [CLS] token, which stands for no answer.

    Returns:
        The model's inputs, one per window, with `_question` (place in `questions`), `_starts` and `_ends` (each
        token's characters in the context, -1 for what is no token of it) and `_null` (place of the [CLS] token);
        and how many questions were cut.
    """
    limit = tokenizer.model_max_length
    share = limit // 3
    asked = [_cut_question(question, tokenizer, share) for question in questions]
    windows = tokenizer(
        asked,
        list(contexts),
        truncation="only_second",
        max_length=limit,
        stride=share,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    rows = dict(windows)
    offsets = rows.pop("offset_mapping")
    rows["_question"] = rows.pop("overflow_to_sample_mapping")
    rows["_null"] = [ids.index(tokenizer.cls_token_id) for ids in rows["input_ids"]]
    rows["_starts"], rows["_ends"] = [], []
    for number, spans in enumerate(offsets):
        places = np.asarray(spans, np.int32).reshape(-1, 2)
        of_context = np.array([part == 1 for part in windows.sequence_ids(number)]) & (places[:, 1] > places[:, 0])
        rows["_starts"].append(np.where(of_context, places[:, 0], -1))
        rows["_ends"].append(np.where(of_context, places[:, 1], -1))
    return rows, sum(map(str.__ne__, asked, questions))


def _cut_question(question: str, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> str:
    """Return the part of a question that has at most so many tokens."""
    encoding = tokenizer(question, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    places = encoding["offset_mapping"]
    return question if len(places) <= max_tokens else question[: places[max_tokens - 1][1]]


def find_tokens(starts: np.ndarray, ends: np.ndarray, start: int, end: int) -> tuple[int, int] | None:
    """Return the first and the last token of an answer; None where it does not lie in the window as a whole.

    Args:
        starts: First character of each token, -1 for what is no token of the context; shape (tokens,).
        ends: Character behind each token, likewise.
        start: The answer's first character.
        end: The character behind it.
    """
    touched = np.flatnonzero((starts >= 0) & (starts < end) & (ends > start))
    if not len(touched) or starts[touched[0]] > start or ends[touched[-1]] < end:
        return None
    return int(touched[0]), int(touched[-1])


def find_best_span(
    start_scores: np.ndarray, end_scores: np.ndarray, longest: int = LONGEST_ANSWER_TOKENS
) -> tuple[int, int, float]:
    """Return the tokens i <= j < i + longest with the largest start_scores[i] + end_scores[j], and that sum.

    Args:
        start_scores: Shape (tokens,); -inf where no answer may begin.
        end_scores: Shape (tokens,); -inf where none may end.
        longest: Most tokens of a span.
    """
    padded = np.concatenate([end_scores, np.full(longest - 1, -np.inf, end_scores.dtype)])
    sums = start_scores[:, None] + np.lib.stride_tricks.sliding_window_view(padded, longest)  # (tokens, longest)
    first, more = np.unravel_index(int(np.argmax(sums)), sums.shape)
    return int(first), int(first + more), float(sums[first, more])


class ScoredSpan(NamedTuple):
    """The best span of a row, or no answer.

    Attributes:
        text: The span; empty for no answer.
        start: Its first character in the context.
        end: The character behind it.
        total: Sum of its start's and its end's logit.
        considered: Logits of its window, -inf for what is neither context nor [CLS]; shape (2, tokens).
    """

    text: str
    start: int
    end: int
    total: float
    considered: np.ndarray


def compute_probability(total: np.ndarray, considered: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return the product of a span's start's and end's probability among its window's context and [CLS].

    Args:
        total: Sum of the two logits, shape (...).
        considered: Logits of the window, shape (..., 2, tokens).
        temperature: Divides the logits.
    """
    weight = np.logaddexp.reduce(considered / temperature, axis=-1).sum(axis=-1)
    return np.exp(total / temperature - weight)


def read_answers(
    outputs: Sequence[np.ndarray],
    windows: Any,
    contexts: Sequence[str],
    *,
    may_abstain: bool,
    temperature: float = 1.0,
) -> list[dict[str, Any]]:
    """Turn the windows' scores into one answer per row.

    Args:
        outputs: Start and end logits of each window, shape (2, tokens).
        windows: Columns of `cut_windows`.
        contexts: One per row.
        may_abstain: Whether no answer is an answer.
        temperature: Divides the logits of which the score is made.

    Returns:
        text, start and end (in characters of the context) and score, as `compute_probability` has it; an empty text
        at 0 is no answer.
    """
    return [
        {
            "text": span.text,
            "start": span.start,
            "end": span.end,
            "score": float(compute_probability(np.asarray(span.total), span.considered, temperature)),
        }
        for span in find_spans(outputs, windows, contexts, may_abstain=may_abstain)
    ]


def find_spans(
    outputs: Sequence[np.ndarray], windows: Any, contexts: Sequence[str], *, may_abstain: bool
) -> list[ScoredSpan]:
    """Find one answer per row.

    The answer is the span of at most `LONGEST_ANSWER_TOKENS` tokens with the largest sum of its start's and its end's
    logit over all windows of the row. It is no answer where the [CLS] token's sum is larger, even in the window where
    that is smallest (Devlin et al. 2019, section 4.3).

    Args:
        outputs: Start and end logits of each window, shape (2, tokens).
        windows: Columns of `cut_windows`.
        contexts: One per row.
        may_abstain: Whether no answer is an answer.

    """
    best = [ScoredSpan("", 0, 0, -np.inf, np.zeros((2, 1)))] * len(contexts)
    null = [ScoredSpan("", 0, 0, np.inf, np.full((2, 1), np.inf))] * len(contexts)
    columns = (windows[name] for name in ("_question", "_starts", "_ends", "_null"))
    for output, row, starts, ends, place in zip(outputs, *columns, strict=True):
        starts, ends = np.asarray(starts), np.asarray(ends)
        scores = np.asarray(output, dtype=float)
        is_context = starts >= 0
        spans = np.where(is_context, scores, -np.inf)  # (2, tokens)
        considered = np.where(is_context | (np.arange(len(starts)) == place), scores, -np.inf)
        nulled = float(scores[:, place].sum())
        if nulled < null[row].total:
            null[row] = ScoredSpan("", 0, 0, nulled, considered)
        if not is_context.any():
            continue
        first, last, score = find_best_span(*spans)
        if score > best[row].total:
            start, end = strip_span(contexts[row], int(starts[first]), int(ends[last]))
            best[row] = ScoredSpan(contexts[row][start:end], start, end, score, considered)
    return [
        abstention if may_abstain and abstention.total > span.total else span
        for span, abstention in zip(best, null, strict=True)
    ]


def strip_span(text: str, start: int, end: int) -> tuple[int, int]:
    """Return the span without white space at its ends; many tokenizers count the space before a word to it."""
    inside = text[start:end]
    return start + len(inside) - len(inside.lstrip()), end - len(inside) + len(inside.rstrip())
