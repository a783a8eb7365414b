import datasets
import numpy as np

from startup_llm.data.batching import IS_PROMPT, encode_rows, split_by_length, split_encoded


class Tokenizer:
    """Counts how often it is pickled, which is what takes long of a real one."""

    pickled = 0

    def __call__(self, texts):
        return {"length": [len(text) for text in texts]}

    def __reduce__(self):
        type(self).pickled += 1
        return (Tokenizer, ())


def test_rows_in_memory_are_encoded_without_pickling_the_tokenizer():
    tokenizer = Tokenizer()
    rows = datasets.Dataset.from_dict({"text": ["a", "bc"]})
    encoded = encode_rows(rows, lambda batch: tokenizer(batch["text"]))
    assert encoded.to_dict() == {"length": [1, 2]}
    assert Tokenizer.pickled == 0


def test_rows_of_a_file_keep_the_cache_of_map(tmp_path):
    datasets.Dataset.from_dict({"text": ["a", "bc"]}).to_parquet(tmp_path / "rows.parquet")
    rows = datasets.Dataset.from_parquet(str(tmp_path / "rows.parquet"), cache_dir=str(tmp_path / "cache"))
    first, second = (encode_rows(rows, lambda batch: {"length": list(map(len, batch["text"]))}) for _ in range(2))
    assert first.cache_files == second.cache_files != []


def test_prompts_are_computed_apart_from_other_rows_and_more_of_them_at_once():
    lengths = [8] * 20 + [4] * 20
    encoded = datasets.Dataset.from_dict({"length": lengths, IS_PROMPT: [0, 1] * 20})
    batches = [batch.tolist() for batch in split_encoded(encoded, 16)]
    assert sorted(row for batch in batches for row in batch) == list(range(40))
    assert [len(batch) for batch in batches] == [2] * 5 + [4, 4, 2] + [16, 4]
    assert all(row % 2 == 0 for batch in batches[:8] for row in batch)
    assert [batch.tolist() for batch in split_encoded(encoded.remove_columns(IS_PROMPT), 80)] == [
        batch.tolist() for batch in split_by_length(np.array(lengths), 80)
    ]
