"""Which words of a text, or regions of an image, made a model's answer: attributions by captum.

An attribution is the part that a word has in the difference of a score between the text and the same text whose words
are all masked. Integrated gradients (Sundararajan et al. 2017) of the token embeddings add up to that difference but
for their completeness error, which every explanation shows. Occlusion, also by captum, masks each word alone; the rank
correlation of both says whether they agree.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.errors import UserError
from startup_llm.models.unit_vectors import scale_to_norm_one

if TYPE_CHECKING:
    from torch import Tensor

STEPS = 32
"""Points of the path from the masked text to the text, at which gradients are taken."""
ROWS_AT_ONCE = 16
DELETED_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5)
RANDOM_ORDERS = 4
GRID = 8
"""Cells of an image in each direction."""
_WORD = re.compile(r"\w+(?:['’\-]\w+)*|[^\w\s]")


@dataclass(frozen=True)
class WordWeight:
    """A word's part in an answer.

    Attributes:
        column: The text that it stands in, such as text or text_pair.
        start: Of its characters there.
        end: Behind its last character.
        word: Its characters.
        weight: Its attribution, as a share of the row's largest, -1 to 1; below 0 it spoke against the answer.
    """

    column: str
    start: int
    end: int
    word: str
    weight: float


@dataclass(frozen=True)
class Explanation:
    """Why a model gave an answer.

    Attributes:
        words: Every word, in the order of the texts.
        completeness_error: How far the attributions are from adding up to the score's difference, as a share of it.
        agreement: Spearman's rank correlation of the words' weights with those of occlusion; None for fewer than three
            words, or where one of them is the same for all.
    """

    words: tuple[WordWeight, ...]
    completeness_error: float
    agreement: float | None

    def describe(self) -> dict[str, Any]:
        """Return what an answer holds of it: the strongest words, the completeness error and occlusion's agreement."""
        return {
            "explanation": self.list_strongest(),
            "completeness_error": round(self.completeness_error, 4),
            "occlusion_agreement": None if self.agreement is None else round(self.agreement, 4),
        }

    def list_strongest(self, count: int = 10) -> list[dict[str, Any]]:
        """Return the words with the largest weights, for or against, as plain data."""
        order = sorted(self.words, key=lambda word: -abs(word.weight))[:count]
        return [{"word": word.word, "weight": round(word.weight, 4)} for word in order]


EXAMPLE = Explanation((WordWeight("text", 0, 1, "a", 1.0),), 0.5, 0.5).describe()
"""What `describe` returns, which tells a table's columns and their types."""


def require_captum() -> None:
    """Refuse to explain without captum.

    Raises:
        UserError: If it is not installed.
    """
    if importlib.util.find_spec("captum") is None:
        raise UserError("explanations need captum; install it: pip install 'startup-llm[explain]'")


def find_words(text: str) -> list[tuple[int, int]]:
    """Return where each word and each other sign begins and ends."""
    return [match.span() for match in _WORD.finditer(text)]


@dataclass(frozen=True)
class TokenizedText:
    """A row as a model reads it, with the words that its tokens belong to.

    Attributes:
        words: Column, start, end and characters of each word.
        groups: The word of each token, -1 for the tokenizer's own, shape (tokens,).
        inputs: The model's inputs, one list each.
    """

    words: list[tuple[str, int, int, str]]
    groups: np.ndarray
    inputs: dict[str, list[int]]

    def find_tokens(self, column: str, start: int, end: int) -> list[int]:
        """Return the tokens of the words that overlap with characters of a column."""
        inside = [
            place
            for place, (name, first, last, _) in enumerate(self.words)
            if name == column and first < end and last > start
        ]
        return np.flatnonzero(np.isin(self.groups, inside)).tolist()


def tokenize_texts(
    processor: Any, texts: Mapping[str, str], span: tuple[str, int, int] | None = None
) -> TokenizedText:
    """Tokenize a row's texts, cut at the tokenizer's longest length.

    Args:
        processor: The tokenizer.
        texts: By column.
        span: Column, start and end of characters that have to be left where the second text is cut into windows; None
            for the beginning of the texts.

    Raises:
        UserError: If the tokenizer does not say where a token stands.
    """
    require_fast(processor)
    limit = processor.model_max_length
    if span is None:
        encoded = processor(*texts.values(), truncation=True, max_length=limit, return_offsets_mapping=True)
        return _group_tokens(dict(encoded), encoded.sequence_ids(), texts)
    encoded = processor(
        *texts.values(),
        truncation="only_second",
        max_length=limit,
        stride=min(limit // 4, 128),
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    encoded.pop("overflow_to_sample_mapping", None)
    windows = [
        _group_tokens({name: values[window] for name, values in encoded.items()}, encoded.sequence_ids(window), texts)
        for window in range(len(encoded["input_ids"]))
    ]
    column, start, end = span
    return max(windows, key=lambda window: len(window.find_tokens(column, start, end)))


def tokenize_words(processor: Any, column: str, words: Sequence[tuple[int, int, str]]) -> TokenizedText:
    """Tokenize a text that was cut into words.

    Args:
        processor: The tokenizer.
        column: The text's name.
        words: Start, end and characters of each.
    """
    require_fast(processor)
    encoded = processor(
        [word for *_, word in words], is_split_into_words=True, truncation=True, max_length=processor.model_max_length
    )
    groups = np.array([-1 if word is None else word for word in encoded.word_ids()])
    return TokenizedText([(column, *word) for word in words], groups, dict(encoded))


def require_fast(processor: Any) -> None:
    """Refuse a tokenizer that does not say where a token stands.

    Raises:
        UserError: If it is one.
    """
    if not getattr(processor, "is_fast", False):
        kind = type(processor).__name__
        raise UserError(f"explain: {kind} does not say where a token stands; use a checkpoint with a fast tokenizer")


def explain_score(
    model: Any, processor: Any, row: TokenizedText, read: Callable[[Any], Tensor], plan: Any
) -> Explanation:
    """Explain a score that a model gives to a row.

    Args:
        model: The model.
        processor: Its tokenizer.
        row: The row.
        read: From the model's output for a batch to the score of each row, shape (batch,).
        plan: Where the model is, and the numbers that it computes in.

    Raises:
        UserError: If captum cannot take the model.
    """
    import torch

    inputs = {name: torch.tensor([values], device=plan.device) for name, values in row.inputs.items()}
    ids = inputs.pop("input_ids")

    def score(ids: Tensor, *others: Tensor) -> Tensor:
        return read(model(input_ids=ids, **dict(zip(inputs, others, strict=True))))

    scored = _ScoredText(score, ids, _mask_words(processor, ids, row.groups), tuple(inputs.values()), row.groups)
    model.eval()
    try:
        with torch.enable_grad(), plan.autocast():
            attributions, error = scored.integrate_gradients(model.get_input_embeddings())
        with torch.no_grad(), plan.autocast():
            occluded = scored.occlude()
    except (RuntimeError, AssertionError, AttributeError, TypeError, NotImplementedError) as failure:
        reason = (str(failure).splitlines() or [type(failure).__name__])[0]
        raise UserError(f"explain: captum cannot take {type(model).__name__} ({reason:.120})") from None
    places = [row.groups == word for word in range(len(row.words))]
    sums = np.array([attributions[place].sum() for place in places])
    falls = np.array([occluded[place].mean() if place.any() else 0.0 for place in places])
    weights = sums / max(np.abs(sums).max(initial=0), 1e-12)
    words = tuple(WordWeight(*word, float(weight)) for word, weight in zip(row.words, weights, strict=True))
    return Explanation(words, error, _correlate(sums, falls))


def explain_label(model: Any, processor: Any, texts: Mapping[str, str], label: int, plan: Any) -> Explanation:
    """Explain the logit of a label that a classifier of texts gave.

    Args:
        model: The classifier.
        processor: Its tokenizer.
        texts: The row's text, and of a pair the second one, by column.
        label: The label's id.
        plan: Where the model is, and the numbers that it computes in.

    Raises:
        UserError: If captum cannot take the model.
    """
    row = tokenize_texts(processor, texts)
    return explain_score(model, processor, row, lambda output: output.logits[:, label], plan)


def explain_regions(model: Any, pixels: Tensor, label: int, plan: Any) -> list[dict[str, float]]:
    """Return the regions of an image by which the logit of a label falls most when they are covered.

    captum's occlusion slides a window of a quarter of the image over it in steps of an eighth, filled with the image's
    mean colour; a cell of the eight by eight is as important as the windows over it.

    Args:
        model: The classifier.
        pixels: The image as the model reads it, shape (1, channels, height, width).
        label: The label's id.
        plan: Where the model is, and the numbers that it computes in.

    Returns:
        The three most important cells: left, top, right and bottom, in parts of the image as the model reads it, and
        the weight, as a share of the largest.

    Raises:
        UserError: If captum cannot take the model.
    """
    import torch
    from captum.attr import Occlusion

    pixels = pixels.to(plan.device)
    _, channels, height, width = pixels.shape
    window = (channels, max(1, height // 4), max(1, width // 4))
    steps = (channels, max(1, height // GRID), max(1, width // GRID))
    model.eval()
    try:
        with torch.no_grad(), plan.autocast():
            values = Occlusion(lambda batch: model(pixel_values=batch).logits[:, label]).attribute(
                pixels,
                sliding_window_shapes=window,
                strides=steps,
                baselines=pixels.mean(dim=(2, 3), keepdim=True).expand_as(pixels),
                perturbations_per_eval=ROWS_AT_ONCE,
            )
    except (RuntimeError, AssertionError, AttributeError, IndexError, TypeError, ValueError) as failure:
        reason = (str(failure).splitlines() or [type(failure).__name__])[0]
        raise UserError(f"explain: captum cannot take {type(model).__name__} ({reason:.120})") from None
    cells = torch.nn.functional.adaptive_avg_pool2d(values.mean(dim=1).float(), GRID)[0].cpu().numpy()
    weights = cells / max(np.abs(cells).max(), 1e-12)
    strongest = np.argsort(-weights, axis=None)[:3]
    return [
        {
            **{"left": column / GRID, "top": row / GRID, "right": (column + 1) / GRID, "bottom": (row + 1) / GRID},
            "weight": round(float(weights[row, column]), 4),
        }
        for row, column in (map(int, np.unravel_index(place, weights.shape)) for place in strongest)
    ]


def _group_tokens(encoded: dict[str, Any], sequences: Sequence[int | None], texts: Mapping[str, str]) -> TokenizedText:
    words = [(column, *span) for column, text in texts.items() for span in find_words(text)]
    columns, groups = list(texts), []
    for sequence, (start, end) in zip(sequences, encoded.pop("offset_mapping"), strict=True):
        column = None if sequence is None or start == end else columns[sequence]
        inside = (
            place for place, (name, first, last) in enumerate(words) if name == column and first <= end - 1 < last
        )
        groups.append(next(inside, -1))
    named = [(column, start, end, texts[column][start:end]) for column, start, end in words]
    return TokenizedText(named, np.array(groups), encoded)


def _mask_words(processor: Any, ids: Tensor, groups: np.ndarray) -> Tensor:
    """Return the tokens with those of words masked, or where the tokenizer knows no mask, unknown or blank."""
    import torch

    known = (processor.mask_token_id, processor.unk_token_id, processor.eos_token_id)
    blank = processor("\n", add_special_tokens=False)["input_ids"][:1]  # a pad token would move a decoder's last one
    filler = next((token for token in (*known, *blank) if token not in (None, processor.pad_token_id)), 0)
    is_word = torch.tensor(groups >= 0, device=ids.device)[None]
    return torch.where(is_word, torch.full_like(ids, filler), ids)


@dataclass(frozen=True)
class _ScoredText:
    """A tokenized text with the score that is explained.

    Attributes:
        score: From token ids and the other inputs to a score for each row.
        ids: Of the text, shape (1, tokens).
        masked: The same with masked words.
        others: The model's other inputs, shape (1, tokens) each.
        groups: The word of each token, -1 for the tokenizer's own, shape (tokens,).
    """

    score: Callable[..., Tensor]
    ids: Tensor
    masked: Tensor
    others: tuple[Tensor, ...]
    groups: np.ndarray

    def integrate_gradients(self, embeddings: Any) -> tuple[np.ndarray, float]:
        """Return each token's attribution, shape (tokens,), and the completeness error."""
        from captum.attr import LayerIntegratedGradients

        values = LayerIntegratedGradients(self.score, embeddings).attribute(
            self.ids,
            baselines=self.masked,
            additional_forward_args=self.others,
            n_steps=STEPS,
            internal_batch_size=ROWS_AT_ONCE,
        )
        attributions = values.sum(dim=-1)[0].detach().float().cpu().numpy()
        difference = float((self.score(self.ids, *self.others) - self.score(self.masked, *self.others)).detach())
        return attributions, abs(float(attributions.sum()) - difference) / max(abs(difference), 1e-6)

    def occlude(self) -> np.ndarray:
        """Return for each token how much the score falls where its word is masked, shape (tokens,)."""
        import torch
        from captum.attr import FeatureAblation

        values = FeatureAblation(self.score).attribute(
            self.ids,
            baselines=self.masked,
            additional_forward_args=self.others,
            feature_mask=torch.tensor(self.groups + 1, device=self.ids.device)[None],
            perturbations_per_eval=ROWS_AT_ONCE,
        )
        return values[0].detach().float().cpu().numpy()


def _correlate(first: np.ndarray, second: np.ndarray) -> float | None:
    from scipy.stats import spearmanr

    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(spearmanr(first, second).statistic)


def delete_words(texts: Mapping[str, str], words: Sequence[WordWeight]) -> dict[str, str]:
    """Return the texts without some of their words."""
    kept = {}
    for column, text in texts.items():
        for word in sorted((word for word in words if word.column == column), key=lambda word: -word.start):
            text = text[: word.start] + text[word.end :]
        kept[column] = " ".join(text.split())
    return kept


def measure_deletion(
    rows: Sequence[Mapping[str, str]],
    explanations: Sequence[Explanation],
    labels: Sequence[int],
    predict: Callable[[list[dict[str, str]]], np.ndarray],
    seed: int = 0,
) -> dict[str, Any]:
    """Delete the words with the largest weights, and as many at random: the area over the perturbation curve (AOPC).

    AOPC is the mean fall of the answer's probability over the shares of words in `DELETED_SHARES` (Samek et al. 2017;
    Nguyen 2018). Words that explain an answer make it fall faster than others.

    Args:
        rows: The texts of each row by column.
        explanations: Of the rows.
        labels: Each row's answer.
        predict: From rows to the probabilities of the labels, shape (rows, labels).
        seed: Draws the random orders.

    Returns:
        rows, explained and random (the AOPC of each), and their difference with low, high and p_value of the paired
        t-test over the rows.
    """
    from scipy.stats import ttest_1samp

    generator = np.random.default_rng(seed)
    asked: list[dict[str, str]] = []
    for texts, explanation in zip(rows, explanations, strict=True):
        words = list(explanation.words)
        by_weight = sorted(words, key=lambda word: -word.weight)
        orders = [by_weight] + [[words[i] for i in generator.permutation(len(words))] for _ in range(RANDOM_ORDERS)]
        counts = [max(1, round(share * len(words))) for share in DELETED_SHARES]
        asked += [dict(texts), *(delete_words(texts, order[:count]) for order in orders for count in counts)]
    shape = (len(rows), 1 + (1 + RANDOM_ORDERS) * len(DELETED_SHARES))
    probabilities = predict(asked).reshape(*shape, -1)
    kept = np.stack([probabilities[row, :, label] for row, label in enumerate(labels)])
    falls = (kept[:, :1] - kept[:, 1:]).reshape(len(rows), 1 + RANDOM_ORDERS, -1).mean(axis=2)
    explained, chance = falls[:, 0], falls[:, 1:].mean(axis=1)
    test = ttest_1samp(explained - chance, 0)
    interval = test.confidence_interval()
    return {
        "rows": len(rows),
        "explained": float(explained.mean()),
        "random": float(chance.mean()),
        "difference": float((explained - chance).mean()),
        "low": float(interval.low),
        "high": float(interval.high),
        "p_value": float(test.pvalue),
    }


def judge_deletion(test: Mapping[str, Any]) -> str:
    """Return in a sentence whether explanations point at words that matter."""
    numbers = (
        f"without the words that they name the answer's probability falls by {100 * test['explained']:.1f} points, "
        f"without as many random words by {100 * test['random']:.1f} (difference {100 * test['low']:+.1f} to "
        f"{100 * test['high']:+.1f}, {test['rows']} rows)"
    )
    if test["low"] > 0:
        return f"The explanations point at words that matter: {numbers}."
    return f"The explanations are no better than random words here, do not rely on them: {numbers}."


def find_alike(features: np.ndarray, known: np.ndarray, count: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Return the known rows whose features have the largest cosine with each row's.

    Args:
        features: Shape (rows, width).
        known: Of the known rows, shape (known, width).
        count: How many for each row.

    Returns:
        Their positions and cosines, shape (rows, count) each, the most alike first.
    """
    cosines = scale_to_norm_one(features) @ scale_to_norm_one(known).T
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
    return order, np.take_along_axis(cosines, order, axis=1)
