import datasets

from startup_llm.data.batching import encode_rows


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
