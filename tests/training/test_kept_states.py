from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel, T5Config, T5Model

from startup_llm.training.kept_states import KeptStates, find_lower_blocks


def name_layers(places):
    return [f"encoder.layer.{place}.output.dense" for place in places]


@pytest.fixture
def bert():
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 8}
    sure = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return BertModel(BertConfig(vocab_size=20, **sizes, **sure), add_pooling_layer=False)


def test_the_blocks_below_the_adapter_are_found(bert):
    assert find_lower_blocks(bert, name_layers([2])) == list(bert.encoder.layer[:2])


def test_none_are_found_where_attention_drops_by_a_number_of_its_own():
    sizes = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 8}
    model = LlamaModel(LlamaConfig(vocab_size=20, **sizes))
    assert find_lower_blocks(model, ["layers.2.mlp.up_proj"]) == list(model.layers[:2])
    model.layers[1].self_attn.attention_dropout = 0.1
    assert find_lower_blocks(model, ["layers.2.mlp.up_proj"]) == []


@pytest.mark.parametrize("fault", ["lowest block learns", "embeddings learn", "dropout"])
def test_none_are_found_where_what_they_give_may_change(bert, fault):
    if fault == "dropout":
        bert.encoder.layer[1].output.dropout.p = 0.1
    learning = name_layers([0, 2] if fault == "lowest block learns" else [2])
    if fault == "embeddings learn":
        learning.append("embeddings.word_embeddings")
    assert find_lower_blocks(bert, learning) == []


def test_none_are_found_in_a_model_with_two_stacks():
    model = T5Model(T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_heads=2, num_layers=2))
    learning = [name for name, _ in model.named_modules() if name.endswith(".q")]
    assert learning
    assert find_lower_blocks(model, learning) == []


@pytest.mark.parametrize(("most_bytes", "kept"), [(2**20, 3), (4 * 4 * 8, 1), (0, 0)])
def test_states_are_kept_up_to_a_limit_and_stand_in_for_blocks_only_where_all_rows_are_known(bert, most_bytes, kept):
    blocks = list(bert.encoder.layer[:2])
    calls = []
    blocks[0].attention.register_forward_hook(lambda *_: calls.append(1))
    states = KeptStates(blocks, most_bytes)
    ids = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 0], [8, 9, 0, 0]])
    mask = (ids > 0).long()
    numbers = torch.tensor([7, 3, 5])

    def compute(rows):
        with states.rows(numbers[rows], mask[rows]), torch.no_grad():
            return bert(ids[rows], mask[rows]).last_hidden_state * mask[rows][..., None]

    first = compute([0, 1, 2])
    assert len(calls) == 1
    assert states.bytes == sum(4 * 8 * int(length) for length in mask.sum(1)[:kept])
    torch.testing.assert_close(compute([2, 1, 0]), first[[2, 1, 0]])
    assert len(calls) == (1 if kept == 3 else 2)
    alone = compute([0])
    torch.testing.assert_close(alone, first[[0]])
    assert len(calls) == {3: 1, 1: 2, 0: 3}[kept]
    with torch.no_grad():  # outside of `rows`, everything is computed
        whole = bert(ids, mask).last_hidden_state * mask[..., None]
    torch.testing.assert_close(whole, first)
    assert len(calls) == {3: 2, 1: 3, 0: 4}[kept]
