"""Whether a checkpoint was made for the languages that the rows are in."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from startup_llm.models.checkpoints import Checkpoint

LEAST_SHARE = 0.1
"""Share of the texts from which a language counts as one of the rows'."""
_FEWEST_TEXTS = 10
_MEASURED_TEXTS = 200
_MOST_UNKNOWN = 0.05
_FEWEST_CHARACTERS_PER_TOKEN = 1.5
_WITHOUT_ALPHABET = {"zh", "ja", "ko", "th", "lo", "km", "my"}
_FEWEST_CHARACTERS_WITHOUT_ALPHABET = 0.7
_MULTILINGUAL = re.compile(r"multilingual|xlm|mbert|labse|bge-m3|mt5|nllb|m2m|aya|glot", re.IGNORECASE)
_ENGLISH = re.compile(
    r"(sentence-transformers/)?(all-(minilm|mpnet|distilroberta)-.*|paraphrase-(minilm|mpnet|albert)-.*"
    r"|multi-qa-(?!.*multilingual).*|msmarco-(?!.*multilingual).*)"
    r"|((google-bert|distilbert|FacebookAI|google|albert|microsoft)/)?((distil)?bert-(base|large)-(un)?cased.*"
    r"|(distil)?roberta-(base|large)|electra-(small|base|large)-.*|albert-.*-v[12]|(m)?deberta-(v3-)?(small|base|large))"
    r"|BAAI/bge-(small|base|large)-en.*|intfloat/e5-(small|base|large)(-v2)?|thenlper/gte-(small|base|large)"
    r"|answerdotai/ModernBERT-.*|(openai-community/)?(distil)?gpt2.*|HuggingFaceTB/SmolLM2?-.*",
    re.IGNORECASE,
)
"""Well-known checkpoints that were trained on English alone, by their Hub ids."""
MULTILINGUAL_CHECKPOINTS = (
    "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2",
    "intfloat/multilingual-e5-small",
    "FacebookAI/xlm-roberta-base",
)
"""What is proposed in the place of an English one."""


def read_card_languages(folder: Path) -> tuple[str, ...]:
    """Return the languages that a checkpoint's own card names, as ISO 639-1 codes or `multilingual`; () for none.

    Args:
        folder: Where its files are.
    """
    from huggingface_hub import ModelCard

    try:
        named: Any = ModelCard.load(folder / "README.md").data.to_dict().get("language")
    except (OSError, ValueError):  # no card, or one that does not parse
        return ()
    named = [named] if isinstance(named, str) else named or []
    return tuple(str(language).lower() for language in named)


def describe_language_gap(
    texts_by_language: Mapping[str, int], checkpoint: Checkpoint, tokenizer: Any, texts: Sequence[str]
) -> str | None:
    """Return a warning where many rows are in a language that the checkpoint was not made for, as far as can be told.

    Its card decides where it names languages; else a list of well-known English checkpoints; else how its tokenizer
    cuts the rows: many unknown tokens, or hardly more than a character in each. Where none of these tells, nothing is
    said.

    Args:
        texts_by_language: Texts of each language that was recognised.
        checkpoint: The checkpoint.
        tokenizer: Its tokenizer.
        texts: Some of the texts.
    """
    total = sum(texts_by_language.values())
    found = [
        language
        for language, count in texts_by_language.items()
        if count >= max(_FEWEST_TEXTS, LEAST_SHARE * total) and language != "en"
    ]
    if not found:
        return None
    named = read_card_languages(checkpoint.path)
    if named:
        lacking = [] if "multilingual" in named else [language for language in found if language not in named]
        why = f"its card names {', '.join(named)}"
    elif _MULTILINGUAL.search(checkpoint.name):
        return None
    elif _ENGLISH.fullmatch(checkpoint.name):
        lacking, why = found, "it was trained on English alone"
    else:
        lacking, why = _measure_tokens(found, tokenizer, texts)
    if not lacking:
        return None
    shares = ", ".join(f"{language} {texts_by_language[language] / total:.0%}" for language in lacking)
    return (
        f"Warning: the rows are in other languages than {checkpoint.name} was made for ({shares} of the texts whose "
        f"language can be told; {why}); expect lower scores, or choose a multilingual checkpoint, such as "
        f"--model.checkpoint {MULTILINGUAL_CHECKPOINTS[0]}, {', '.join(MULTILINGUAL_CHECKPOINTS[1:])}"
    )


def _measure_tokens(found: list[str], tokenizer: Any, texts: Sequence[str]) -> tuple[list[str], str]:
    """Return the languages, if the tokenizer cuts the texts as one that was not made for them does, and how."""
    texts = [text for text in texts[:_MEASURED_TEXTS] if text.strip()]
    if not texts or not callable(tokenizer) or getattr(tokenizer, "unk_token_id", "none") == "none":
        return [], ""
    ids = [token for row in tokenizer(texts, add_special_tokens=False)["input_ids"] for token in row]
    unknown = sum(token == tokenizer.unk_token_id for token in ids) / max(len(ids), 1)
    per_token = sum(len("".join(text.split())) for text in texts) / max(len(ids), 1)
    if unknown >= _MOST_UNKNOWN:
        return found, f"{unknown:.0%} of their tokens are unknown to it"
    without_alphabet = _WITHOUT_ALPHABET.issuperset(found)
    least = _FEWEST_CHARACTERS_WITHOUT_ALPHABET if without_alphabet else _FEWEST_CHARACTERS_PER_TOKEN
    return (found, f"its tokens hold {per_token:.1f} characters of them") if per_token < least else ([], "")


def warn_of_languages(audit: dict[str, Any] | None, prepared: Any) -> list[str]:
    """Return the warning, and add it to the audit's notes, for the report.

    Args:
        audit: What `audit_task_data` found; None where nothing was inspected.
        prepared: What training needs: the rows, the checkpoint and its tokenizer.
    """
    checkpoint, tokenizer, rows = prepared.checkpoint, prepared.processor, prepared.data.splits["train"]
    languages = (audit or {}).get("languages")
    if not audit or not languages:
        return []
    first = rows.select(range(min(len(rows), _MEASURED_TEXTS)))
    columns = [name for name, feature in rows.features.items() if getattr(feature, "dtype", "") == "string"]
    texts = [value for name in columns for value in first[name] if isinstance(value, str)]
    warning = describe_language_gap(languages["texts_by_language"], checkpoint, tokenizer, texts)
    audit["notes"] += [warning] if warning else []
    return [warning] if warning else []
