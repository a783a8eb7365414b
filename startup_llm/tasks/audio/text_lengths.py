"""Texts that are longer than a speech recogniser can learn from their recordings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from startup_llm.tasks.audio.speech_models import FRAMES_PER_SECOND, count_mask_positions, is_ctc

if TYPE_CHECKING:
    from datasets import Dataset

_MARGIN_FRAMES = 4
"""Frames that the seconds of a recording may give beyond those of its features, whose windows end at its edge."""
_SHOWN_LETTERS = 40


def find_long_texts(
    rows: Dataset,
    labels: Sequence[Sequence[int]],
    feature_extractor: Any,
    model: Any,
    count_features: Callable[[int], int],
) -> list[tuple[int, str]]:
    """Find the rows whose text no output of the model can be.

    CTC gives each label a frame of its own and needs a blank between two equal neighbours (Graves et al. 2006,
    section 3): the loss of a longer text is infinite. A decoder has a number of positions, one for each token.

    Args:
        rows: Rows with text, seconds and row.
        labels: The tokens of each text.
        feature_extractor: What turns samples into the model's features.
        model: The recogniser.
        count_features: Returns how many features the model is given of the recording at a place in the rows.

    Returns:
        The number of each such row, as its column `row` has it, and what is wrong with it.
    """
    if not is_ctc(model.config):
        return _find_beyond_decoder(rows, labels, getattr(model.config, "max_target_positions", None))
    needed = [count_ctc_frames(tokens) for tokens in labels]
    features_per_second = FRAMES_PER_SECOND * count_mask_positions(feature_extractor)
    estimates = count_frames(model, [round(seconds * features_per_second) for seconds in rows["seconds"]])
    faults = []
    for place, (frames, estimate) in enumerate(zip(needed, estimates, strict=True)):
        if frames <= estimate - _MARGIN_FRAMES:
            continue
        available = count_frames(model, [count_features(place)])[0]
        if frames > available:
            text, seconds = _shorten(rows["text"][place]), rows["seconds"][place]
            faults.append((
                rows["row"][place],
                f"the text {text} needs {frames} frames ({len(labels[place])} labels, "
                f"{frames - len(labels[place])} of them equal to the one before), but the {seconds:.2f} s of its "
                f"recording give {max(available, 0)}; write down what is spoken there alone",
            ))  # fmt: skip
    return faults


def count_ctc_frames(labels: Sequence[int]) -> int:
    """Return the fewest frames on which CTC can place labels: one each, and a blank between equal neighbours."""
    return len(labels) + sum(a == b for a, b in pairwise(labels))


def count_frames(model: Any, features: Sequence[int]) -> list[int]:
    """Return the frames that a model with CTC labels, for each number of features that it is given."""
    import torch

    return [int(frames) for frames in model._get_feat_extract_output_lengths(torch.tensor(features))]


def _find_beyond_decoder(
    rows: Dataset, labels: Sequence[Sequence[int]], positions: int | None
) -> list[tuple[int, str]]:
    if positions is None:
        return []
    return [
        (
            row,
            f"the text {_shorten(text)} is {len(tokens)} tokens, but the model's decoder has {positions} positions; "
            "cut the recording and its text into pieces",
        )
        for row, text, tokens in zip(rows["row"], rows["text"], labels, strict=True)
        if len(tokens) > positions
    ]


def _shorten(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_LETTERS else text[:_SHOWN_LETTERS] + "...")
