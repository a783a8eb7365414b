"""Personal data in the example texts that a run's report and results show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from startup_llm.access_tokens import redact_tokens
from startup_llm.audit.personal_data import cover_text, mask_text

_EXAMPLES = ("mistakes", "gallery")


def mask_examples(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return results whose texts of the data have `<EMAIL>`, `<PHONE>`, ... where personal data stood, and no tokens.

    A text with places counted in characters keeps its length: its personal data is covered with dots.
    """
    masked = {name: _mask(value) if name in _EXAMPLES else value for name, value in results.items()}
    if masked.get("confusions"):
        masked["confusions"] = [
            {**pair, "examples": _mask(pair["examples"])} if "examples" in pair else pair
            for pair in masked["confusions"]
        ]
    return masked


def _mask(value: Any) -> Any:
    if isinstance(value, str):
        return redact_tokens(mask_text(value))
    if isinstance(value, list):
        return [_mask(part) for part in value]
    if not isinstance(value, Mapping):
        return value
    if "spans" in value or "words" in value:
        others = {name: _mask(value[name]) for name in ("title", "written") if name in value}
        return {**value, **others, "text": cover_text(value["text"])}
    return {name: part if name == "png_base64" else _mask(part) for name, part in value.items()}
