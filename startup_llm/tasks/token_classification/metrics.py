"""How well entities are found: an answer is right where its words and its type are (Tjong Kim Sang & De Meulder 2003).

A reference and a prediction are a sentence's tags; behind those of the words, a reference has one for each entity that
begins or ends inside a word, which no answer can match. Counts add up over sentences, so that precision, recall and F1
are those of all entities together (micro averages), as conlleval and seqeval compute them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from startup_llm.evaluation.metrics import additive
from startup_llm.evaluation.text_overlap import combine_mean
from startup_llm.tasks.token_classification.tag_schemes import Entity, find_entities

Tags = Sequence[str]
NOTHING = "no entity"
OTHER_WORDS = "other words"


def count_entities(references: Sequence[Tags], predictions: Sequence[Tags]) -> np.ndarray:
    """Count the entities that are right, answered and meant in each sentence; shape (rows, 3)."""
    counts = []
    for reference, prediction in zip(references, predictions, strict=True):
        meant, answered = set(find_entities(reference)), set(find_entities(prediction))
        counts.append([len(meant & answered), len(answered), len(meant)])
    return np.array(counts)


def count_right_tags(references: Sequence[Tags], predictions: Sequence[Tags]) -> np.ndarray:
    """Count the words with the right tag, and all words, of each sentence; shape (rows, 2)."""
    pairs = zip(references, predictions, strict=True)
    return np.array([[sum(a == b for a, b in zip(*pair, strict=False)), len(pair[1])] for pair in pairs])


def combine_precision(sums: np.ndarray) -> float:
    """Return the share of the answered entities that are right; 0 where none is answered."""
    return sums[0] / sums[1] if sums[1] else 0.0


def combine_recall(sums: np.ndarray) -> float:
    """Return the share of the entities that are found; 0 where there is none."""
    return sums[0] / sums[2] if sums[2] else 0.0


def combine_f1(sums: np.ndarray) -> float:
    """Return the harmonic mean of precision and recall of the entities."""
    return 2 * sums[0] / (sums[1] + sums[2]) if sums[1] + sums[2] else 0.0


ENTITY_F1 = additive("entity_f1", count_entities, combine_f1)
ENTITY_PRECISION = additive("entity_precision", count_entities, combine_precision)
ENTITY_RECALL = additive("entity_recall", count_entities, combine_recall)
TOKEN_ACCURACY = additive("token_accuracy", count_right_tags, combine_mean)


def describe_entities(
    texts: Sequence[str],
    references: Sequence[Tags],
    predictions: Sequence[Tags],
    *,
    max_shown: int = 20,
    examples: int = 2,
) -> dict[str, Any]:
    """Look into the answers by entity type.

    Args:
        texts: A line of text for each row.
        references: True tags of each row.
        predictions: Answered tags of each row.
        max_shown: Most confusions to list.
        examples: Most sentences to show of each.

    Returns:
        The keys per_class, confusions and counted of `results.json`.
    """
    sums: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(3, dtype=int))
    pairs: Counter[tuple[str, str]] = Counter()
    places: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, (tags, answers) in enumerate(zip(references, predictions, strict=True)):
        meant, answered = find_entities(tags), find_entities(answers)
        for entity in meant:
            sums[entity.type] += (entity in answered, 0, 1)
        for entity in answered:
            sums[entity.type] += (0, 1, 0)
        for pair in pair_mistakes(meant, answered):
            pairs[pair] += 1
            places[pair].append(place)
    return {
        "per_class": {
            kind: {
                "precision": float(combine_precision(sums[kind])),
                "recall": float(combine_recall(sums[kind])),
                "f1": float(combine_f1(sums[kind])),
                "rows": int(sums[kind][2]),
            }
            for kind in sorted(sums)
        },
        "confusions": [
            {
                "label": label,
                "predicted": other,
                "rows": count,
                "examples": [texts[place] for place in dict.fromkeys(places[label, other])][:examples],
            }
            for (label, other), count in pairs.most_common(max_shown)
        ],
        "counted": ["entity", "entities"],
    }


def pair_mistakes(meant: Sequence[Entity], answered: Sequence[Entity]) -> list[tuple[str, str]]:
    """Pair each entity that is not found with what was answered on its words, and each wrong answer on no entity.

    Args:
        meant: The entities of a sentence.
        answered: Those that were answered.

    Returns:
        Type and answered type; `no entity` on a side where there is none, `TYPE, other words` where the type is right.
    """
    missed = [entity for entity in meant if entity not in answered]
    wrong = [entity for entity in answered if entity not in meant]
    pairs = []
    for entity in missed:
        crossing = [other for other in wrong if other.overlaps(entity)]
        if not crossing:
            pairs.append((entity.type, NOTHING))
            continue
        best = max(crossing, key=lambda other: min(other.end, entity.end) - max(other.start, entity.start))
        pairs.append((entity.type, f"{best.type}, {OTHER_WORDS}" if best.type == entity.type else best.type))
    return pairs + [(NOTHING, other.type) for other in wrong if not any(map(other.overlaps, meant))]
