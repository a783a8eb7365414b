from __future__ import annotations

from pathlib import Path

import pytest

from startup_llm.config import DataConfig
from startup_llm.hub.dataset_card import read_dataset_card

CARDS = Path(__file__).parents[2] / "data_cards"


@pytest.mark.parametrize("data", [DataConfig(), DataConfig(dataset="helpdesk")])
def test_the_shipped_dataset_has_its_card(data):
    assert read_dataset_card(data, CARDS) == {"license": "cc-by-4.0", "language": ["en"]}


def test_a_hub_dataset_with_a_card_at_hand_needs_no_network():
    assert read_dataset_card(DataConfig(dataset="PolyAI/banking77"), CARDS)["license"] == "cc-by-4.0"


def test_rows_of_ones_own_have_no_card():
    assert read_dataset_card(DataConfig(train_file="tickets.csv"), CARDS) == {}


@pytest.mark.parametrize("offline", [True, False])
def test_a_hub_that_cannot_be_reached_costs_the_licence_and_not_the_run(monkeypatch, offline):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert read_dataset_card(DataConfig(dataset="owner/rows"), CARDS) == {}
