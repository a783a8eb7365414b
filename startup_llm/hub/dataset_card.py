"""What a dataset's card says: the licence and the languages that a model card has to carry on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from startup_llm.config import DataConfig
from startup_llm.data.task_data import TaskData


def describe_dataset(config: DataConfig, data: TaskData, cards: Path) -> dict[str, Any]:
    """Return what `results.json` says of where the rows came from, and of the licence of a named dataset.

    Args:
        config: Names the dataset.
        data: The rows as they were loaded.
        cards: Folder of cards, such as `data_cards/`.
    """
    return {
        "dataset": config.named_dataset,
        "subset": config.subset,
        "revision": config.revision,
        **read_dataset_card(config, cards),
        "notes": data.notes,
        **({"columns": data.source_columns} if data.source_columns else {}),
        "left_out": data.left_out,
        "sources": data.sources,
    }


def read_dataset_card(data: DataConfig, folder: Path) -> dict[str, Any]:
    """Return license and language of a run's dataset, as far as a card is at hand.

    Rows that a person brings along have no card. A named dataset has one in `folder`, by the last part of its name,
    or on the Hub.

    Args:
        data: Names the dataset.
        folder: Folder of cards, such as `data_cards/`.
    """
    from huggingface_hub import DatasetCard
    from huggingface_hub.errors import HTTPError

    name = data.named_dataset
    if name is None:
        return {}
    local = folder / f"{name.rsplit('/', 1)[-1]}.md"
    try:
        card = DatasetCard.load(local if local.is_file() else name)
    except (OSError, ValueError, HTTPError):  # no card, no network, or a card that does not parse
        return {}
    return {"license": card.data.license, "language": card.data.language}
