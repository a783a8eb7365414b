"""Text generation: the next token of running text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.data.running_text import load_running_text, train_character_tokenizer
from startup_llm.errors import UserError
from startup_llm.models.causal_language_model import build_causal_language_model
from startup_llm.models.task_model import TaskModel
from startup_llm.tasks.base import Collator, Task, Truncation

if TYPE_CHECKING:
    from pathlib import Path

    from datasets import Dataset
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from startup_llm.config import DataConfig, ModelConfig, ScratchModelConfig
    from startup_llm.data.task_data import TaskData
    from startup_llm.models.checkpoints import Checkpoint

CHECKED_PROMPTS, PROMPT_TOKENS, CHECKED_TOKENS = 3, 16, 24
SAMPLES, SAMPLE_TOKENS = 3, 200


class TextGeneration(Task):
    """Columns text and ends; an output is the negative log-likelihood of each token after a block's first, in nats."""

    tag = "text-generation"
    auto_class = "AutoModelForCausalLM"
    peft_task_type = "CAUSAL_LM"

    def load_data(self, data: DataConfig) -> TaskData:
        """Read, check and split the text.

        Raises:
            UserError: On anything wrong with the files or the column.
        """
        return load_running_text(data)

    def build_model(
        self,
        checkpoint: Checkpoint,
        processor: PreTrainedTokenizerBase,
        data: TaskData,
        model: ModelConfig,
        attention_kernel: str | None,
    ) -> TaskModel:
        """Load a GPT-style checkpoint."""
        return build_causal_language_model(
            checkpoint,
            dropout=model.dropout,
            attention_kernel=attention_kernel,
            trust_remote_code=model.trust_remote_code,
        )

    def build_scratch_model(
        self, data: TaskData, model: ScratchModelConfig, attention_kernel: str
    ) -> tuple[PreTrainedTokenizerBase, TaskModel]:
        """Return a tokenizer of the training split's characters and a `Decoder`.

        Raises:
            UserError: If another model or tokenizer is asked for.
        """
        from startup_llm.models.scratch.transformer import Decoder

        if model.name != "gpt":
            raise UserError(f"model.name {model.name} does not write text; use --model.name gpt")
        if model.tokenizer != "character":
            raise UserError(f"model.tokenizer {model.tokenizer}: gpt reads characters; set it to character")
        tokenizer = train_character_tokenizer(data.splits["train"]["text"], model.max_length_tokens)
        decoder = Decoder(
            len(tokenizer),
            width=model.width,
            heads=model.heads,
            layers=model.layers,
            inner_width=model.inner_width,
            max_length_tokens=model.max_length_tokens,
            dropout=model.dropout,
            kernel=attention_kernel or "sdpa",
        )
        note = f"a token per character: {len(tokenizer):,} tokens, from the training split alone"
        return tokenizer, TaskModel(decoder, notes=(note,))

    def save_scratch_model(self, model: Any, processor: Any, data: TaskData, folder: Path) -> None:
        """Write the decoder in GPT-2's format, with its tokenizer."""
        from startup_llm.models.scratch.formats import save_decoder

        save_decoder(model, folder, eos_token_id=processor.eos_token_id, pad_token_id=processor.pad_token_id)
        processor.save_pretrained(folder)

    def encode(self, rows: Dataset, processor: PreTrainedTokenizerBase) -> tuple[Dataset, Truncation]:
        """Lay all passages end to end and cut the tokens into blocks of the tokenizer's `model_max_length`.

        A block begins with the last token of the one before, so that every token but the first is predicted once. A
        document that ends is followed by the end token, where the tokenizer has one.

        Returns:
            input_ids, labels, length, and `_rows`: the place of each token's passage among the rows.
        """
        import datasets

        size, end = processor.model_max_length, processor.eos_token_id
        encoded = processor(list(rows["text"]), add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
        if end is not None:
            encoded = [ids + [end] * ends for ids, ends in zip(encoded, rows["ends"], strict=True)]
        ids = [token for passage in encoded for token in passage]
        owners = [place for place, passage in enumerate(encoded) for _ in passage]
        if len(ids) < 2:
            raise UserError(f"text of {len(ids)} tokens has nothing to predict; give more text")
        starts = range(0, len(ids) - 1, size - 1)
        blocks = [ids[start : start + size] for start in starts]
        columns = {
            "input_ids": blocks,
            "labels": blocks,
            "length": list(map(len, blocks)),
            "_rows": [owners[start : start + size] for start in starts],
        }
        return datasets.Dataset.from_dict(columns), Truncation(0, 0.0, 0.0)

    def build_collator(self, processor: PreTrainedTokenizerBase) -> Collator:
        """Stack blocks; one that is shorter than the others is padded on the right."""
        return BlockCollator(processor.pad_token_id)

    def count_targets(self, batch: dict[str, Tensor]) -> Tensor:
        """Count the tokens that are predicted: all with a label but the first."""
        return (batch["labels"][:, 1:] != -100).sum(dim=1)

    def compute_outputs(self, model: Any, batch: dict[str, Tensor], processor: Any) -> list[np.ndarray]:
        """Return -log P of each token given those before it in its block, shape (tokens - 1,)."""
        ids = batch["input_ids"]
        log_p = model(**batch)["logits"][:, :-1].float().log_softmax(-1)
        nats = -log_p.gather(-1, ids[:, 1:, None])[..., 0].cpu().numpy()
        mask = batch.get("attention_mask")
        lengths = mask.sum(dim=1).tolist() if mask is not None else [ids.shape[1]] * len(ids)
        return [row[: length - 1] for row, length in zip(nats, lengths, strict=True)]

    def metrics(self, data: TaskData) -> tuple[str, ...]:
        """Name the metrics; bits per byte decide, for they compare models whatever their tokens."""
        return ("bits_per_byte", "loss", "perplexity", "byte_perplexity")

    def baselines(self, data: TaskData) -> tuple[str, ...]:
        """Name the baselines."""
        return ("character-unigram", "character-trigram", "character-sixgram")

    def references(self, rows: Dataset) -> list[str]:
        """Return the passages."""
        return list(rows["text"])

    def decide(
        self, outputs: Sequence[np.ndarray], encoded: Dataset, rows: Dataset, data: TaskData
    ) -> list[list[float]]:
        """Return [nats, tokens] of each passage."""
        owners = np.concatenate([block[1:] for block in encoded["_rows"]])
        nats = np.bincount(owners, weights=np.concatenate(outputs), minlength=len(rows))
        tokens = np.bincount(owners, minlength=len(rows))
        return [[float(total), float(count)] for total, count in zip(nats, tokens, strict=True)]

    def show(self, rows: Dataset, predictions: Sequence[Any], data: TaskData) -> list[dict[str, Any]]:
        """Show the passages that cost the model most and least per token."""
        costs = np.array([nats / max(tokens, 1) for nats, tokens in predictions])
        order = np.argsort(costs)
        return [
            {
                "title": title,
                "kind": "text",
                "pairs": [[f"passage {rows['row'][int(i)]}, {costs[i]:.2f} nats per token", rows["text"][int(i)]]],
            }
            for title, i in (("Hardest to predict", order[-1]), ("Easiest to predict", order[0]))
        ]

    def write_samples(self, model: Any, processor: Any, rows: Dataset) -> list[dict[str, Any]]:
        """Continue the beginnings of passages by chance, the same for the same model."""
        import torch

        encoded = processor(rows["text"][:SAMPLES], add_special_tokens=False, verbose=False)["input_ids"]
        pairs = []
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(0)
            for ids in (passage[: min(PROMPT_TOKENS, processor.model_max_length // 2)] for passage in encoded):
                written = model.generate(
                    input_ids=torch.tensor([ids], device=model.device),
                    attention_mask=torch.ones(1, len(ids), dtype=torch.long, device=model.device),
                    do_sample=True,
                    temperature=0.8,
                    max_new_tokens=min(SAMPLE_TOKENS, processor.model_max_length - len(ids)),
                    pad_token_id=processor.pad_token_id,
                )[0, len(ids) :]
                pairs.append([processor.decode(ids), processor.decode(written, skip_special_tokens=True)])
        return [{"title": "Written by the model (temperature 0.8)", "kind": "text", "pairs": pairs}]

    def encode_questions(self, rows: Dataset, processor: PreTrainedTokenizerBase) -> Dataset:
        """Tokenize prompts; of a long one the end is kept, so that half of the model's length is left to write."""
        import datasets

        most = processor.model_max_length // 2
        ids = processor(list(rows["text"]), add_special_tokens=False, verbose=False)["input_ids"]
        ids = [prompt[-most:] for prompt in ids]
        return datasets.Dataset.from_dict({"input_ids": ids, "length": list(map(len, ids))})

    def compute_answers(self, model: Any, batch: dict[str, Tensor], processor: Any) -> list[np.ndarray]:
        """Continue each prompt as the model's generation config says; by default by the likeliest token."""
        most = min(SAMPLE_TOKENS, processor.model_max_length // 2)
        ids, mask = batch["input_ids"], batch.get("attention_mask")
        texts = []
        for row, prompt in enumerate(ids):  # one by one: a padded prompt would need padding on the left
            prompt = prompt[mask[row].bool()] if mask is not None else prompt
            written = model.generate(
                input_ids=prompt[None],
                attention_mask=prompt.new_ones(1, len(prompt)),
                max_new_tokens=most,
                pad_token_id=processor.pad_token_id,
            )[0, len(prompt) :]
            texts.append(np.array(processor.decode(written, skip_special_tokens=True)))
        return texts

    def answer(
        self, outputs: Sequence[np.ndarray], encoded: Dataset, rows: Dataset, processor: Any, config: Any
    ) -> list[dict[str, Any]]:
        """Return what was written after each prompt."""
        return [{"generated_text": str(output)} for output in outputs]

    def example_answer(self, config: Any) -> dict[str, Any]:
        """Return an answer of the right types."""
        return {"generated_text": ""}

    def check_pipeline(self, model_folder: str, rows: Dataset, outputs: Sequence[np.ndarray]) -> float:
        """Continue passages greedily by `pipeline("text-generation")` and by plain `generate`.

        Returns:
            0 where both write the same, else infinity.
        """
        import torch
        from transformers import pipeline

        write = pipeline(self.tag, model=model_folder, dtype="float32", device="cpu")
        model, tokenizer = self.load_plain(model_folder).eval(), self.restore_processor(model_folder)
        most = min(CHECKED_TOKENS, tokenizer.model_max_length // 2)
        how = {"do_sample": False, "max_new_tokens": most, "pad_token_id": tokenizer.pad_token_id}
        for text in rows["text"][:CHECKED_PROMPTS]:
            ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            prompt = tokenizer.decode(ids[: min(PROMPT_TOKENS, most)])
            inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
            with torch.inference_mode():
                plain = model.generate(**inputs, **how)[0, inputs["input_ids"].shape[1] :]
            answer = write(prompt, return_full_text=False, **how)[0]["generated_text"]
            if answer != tokenizer.decode(plain, skip_special_tokens=True):
                return float("inf")
        return 0.0


class BlockCollator:
    """Makes a batch of blocks of tokens; a mask comes with it only where there is padding.

    Args:
        pad_token_id: Fills shorter blocks; its labels are -100.
    """

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Return input_ids, labels where the rows have them, and perhaps attention_mask; shape (rows, tokens)."""
        import torch

        lengths = [len(row["input_ids"]) for row in rows]
        longest = max(lengths)
        fills = {"input_ids": self.pad_token_id, "labels": -100}
        batch = {
            name: torch.tensor([row[name] + [fill] * (longest - len(row[name])) for row in rows])
            for name, fill in fills.items()
            if name in rows[0]
        }
        if min(lengths) < longest:
            batch["attention_mask"] = (torch.arange(longest) < torch.tensor(lengths)[:, None]).long()
        return batch
