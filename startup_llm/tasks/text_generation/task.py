"""Text generation: the next token of running text, or of what an assistant says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.data.batching import IS_PROMPT
from startup_llm.data.sources import load_splits
from startup_llm.errors import UserError
from startup_llm.models.task_model import TaskModel
from startup_llm.tasks.base import Collator, Task, Truncation
from startup_llm.tasks.text_generation.baselines import ANSWER_BASELINES, NGRAM_BASELINES
from startup_llm.tasks.text_generation.chat import (
    FORMS,
    Feedback,
    Preferences,
    encode_prompt,
    find_form,
    pack_rows,
)
from startup_llm.tasks.text_generation.chat_log import find_chat_log, group_messages
from startup_llm.tasks.text_generation.chat_templates import find_end_of_turn, hash_chat_template, set_chat_template
from startup_llm.tasks.text_generation.continuation import (
    ANSWER_LIMIT,
    GREEDY,
    PROMPT_TOKENS,
    compute_rows,
    write_texts,
)
from startup_llm.tasks.text_generation.conversations import (
    JSON_COLUMNS,
    add_answers,
    build_conversations,
    find_conversation_form,
    join_prompt,
)
from startup_llm.tasks.text_generation.model import build_causal_language_model
from startup_llm.tasks.text_generation.options import ChatEvaluation, ChatModel, GenerationData
from startup_llm.tasks.text_generation.prediction import ContinuationPredictor
from startup_llm.tasks.text_generation.reference_models import LanguageModels
from startup_llm.tasks.text_generation.running_text import (
    find_text_files,
    load_running_text,
)
from startup_llm.tasks.text_generation.saved_model import SavedLanguageModel
from startup_llm.tasks.text_generation.template_losses import fit_conversations

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from startup_llm.config import EvaluationConfig
    from startup_llm.data.task_data import TaskData
    from startup_llm.evaluation.baselines import Baseline
    from startup_llm.evaluation.metrics import Metric
    from startup_llm.models.checkpoints import Checkpoint

SAMPLES = 3
MOST_MEASURED_ANSWERS = 1_000
PAIR_METHODS = ("dpo", "orpo")
"""Methods that compare two answers."""


class TextGeneration(Task[GenerationData, ChatModel]):
    """An output is the negative log-likelihood of each token after an encoded row's first, in nats.

    Rows are passages of running text (columns text and ends), conversations (messages, and answer where the last one
    is to be written too), preferences (chosen and rejected) or feedback (messages and label); `find_form` tells them
    apart. The output of an encoded row that is a prompt is what the model writes after it.
    """

    tag = "text-generation"
    default_checkpoint = example_checkpoint = "HuggingFaceTB/SmolLM2-135M-Instruct"
    peft_task_type = "CAUSAL_LM"
    packer = staticmethod(pack_rows)
    token_logits = "next"
    selects_by_loss = True
    predictor_class = ContinuationPredictor
    saved_model_class = SavedLanguageModel
    reference_models_class = LanguageModels
    samples_each_epoch = True
    known_metrics = tuple(dict.fromkeys(metric for form in FORMS for metric in form.metrics))
    known_baselines = {**NGRAM_BASELINES, **ANSWER_BASELINES}  # noqa: RUF012

    def load_data(self, data: GenerationData, evaluation: EvaluationConfig | None = None) -> TaskData:
        """Read, check and split the rows, of conversations with the answers that are to be written.

        Raises:
            UserError: On anything wrong with the rows, or if answers are to be written that they do not have.
        """
        loaded = super().load_data(data, evaluation)
        if not isinstance(evaluation, ChatEvaluation) or not evaluation.generate:
            return loaded
        form = find_form(loaded.splits["test"].column_names)
        if form is None or isinstance(form, (Preferences, Feedback)):
            kinds = {Preferences: "preferences between two answers", Feedback: "answers that people judged"}
            kind = kinds.get(type(form), "running text")
            raise UserError(f"evaluation.generate: the rows are {kind}, expected conversations; leave it out")
        return add_answers(loaded)

    def read_data(self, data: GenerationData) -> TaskData:
        """Read, check and split the text or the conversations.

        Raises:
            UserError: On anything wrong with the files, the columns or a conversation.
        """
        if find_text_files(data):
            return load_running_text(data)
        loaded, data = join_prompt(load_splits(data, as_json=JSON_COLUMNS), data)
        if log := find_chat_log(loaded.splits["train"], data):
            loaded, data = group_messages(loaded, data, log)
        if form := find_conversation_form(loaded.splits["train"], data):
            return build_conversations(loaded, data, form)
        return load_running_text(data, loaded)

    def load_processor(
        self, checkpoint: Checkpoint, model: ChatModel, data: TaskData | None = None
    ) -> PreTrainedTokenizerBase:
        """Load the tokenizer, with the chat template that the config names.

        Raises:
            UserError: If there is no such template, or the tokenizer has not its tokens.
        """
        tokenizer = super().load_processor(checkpoint, model, data)
        if model.chat_template:
            set_chat_template(tokenizer, model.chat_template)
        return tokenizer

    def check_method(self, method: str, data: TaskData) -> None:
        """Refuse a method that would learn bad answers like good ones, and one for rows of another form."""
        form, columns = find_form(data.splits["train"].column_names), ", ".join(data.splits["train"].column_names)
        if isinstance(form, Preferences) and method not in PAIR_METHODS:
            raise UserError(
                f"--method {method}: the rows are preferences ({columns}); tune with recipes/align.py "
                f"--method {' or '.join(PAIR_METHODS)}"
            )
        if isinstance(form, Feedback) and method != "kto":
            labels = [label for rows in data.splits.values() for label in rows["label"]]
            raise UserError(
                f"--method {method}: {labels.count(False):,} of {len(labels):,} answers were judged bad and would be "
                "learnt like good ones; tune with recipes/align.py --method kto, or keep the good rows in a file of "
                "their own"
            )
        if not isinstance(form, Preferences) and method in PAIR_METHODS:
            raise UserError(f"--method {method} needs the columns chosen and rejected; the rows hold {columns}")
        if not isinstance(form, Feedback) and method == "kto":
            raise UserError(f"--method kto needs a column label of true and false; the rows hold {columns}")
        if method not in (*PAIR_METHODS, "kto"):
            super().check_method(method, data)

    def fit_data(self, data: TaskData, processor: PreTrainedTokenizerBase, model: Any = None) -> TaskData:
        """Mark the turns that the chat template does not write as they stand, and name what else it leaves out."""
        form = find_form(data.splits["test"].column_names)
        if form is None or model is not None:
            return data
        return fit_conversations(data, processor, form.columns, by_trl=isinstance(form, (Preferences, Feedback)))

    def build_model(
        self,
        checkpoint: Checkpoint,
        processor: PreTrainedTokenizerBase,
        data: TaskData,
        model: ChatModel,
        attention_kernel: str | None,
    ) -> TaskModel:
        """Load a GPT-style checkpoint; where it is to converse, it stops writing at the end of a turn.

        Its config tells whether it is, for whoever has the model's folder alone, and how many tokens are written where
        neither a person nor its generation config says so: twice the longest answer of the training split. Of its
        generation config nothing is changed but the end of a turn, where that is missing.
        """
        built = build_causal_language_model(
            checkpoint,
            dropout=model.dropout,
            attention_kernel=attention_kernel,
            trust_remote_code=model.trust_remote_code,
        )
        form = find_form(data.splits["train"].column_names)
        built.model.config.trained_on_conversations = form is not None
        if digest := hash_chat_template(processor):
            built = replace(built, processor_details={"chat_template_sha256": digest})
        if form:
            generation = built.model.generation_config
            known = generation.eos_token_id if isinstance(generation.eos_token_id, list) else [generation.eos_token_id]
            if (end := find_end_of_turn(processor)) not in known:
                ends = dict.fromkeys([end, *known, processor.eos_token_id])
                generation.eos_token_id = [token for token in ends if token is not None]
            longest = sorted(form.list_answers(data.splits["train"]), key=len)[-MOST_MEASURED_ANSWERS:]
            ids = processor(longest, add_special_tokens=False, verbose=False)["input_ids"]
            limit = min(2 * max(map(len, ids)) + 1, processor.model_max_length)
            setattr(built.model.config, ANSWER_LIMIT, limit)
        return built

    def encode(self, rows: Dataset, processor: PreTrainedTokenizerBase) -> tuple[Dataset, Truncation]:
        """Lay all passages end to end and cut the tokens into blocks of the tokenizer's `model_max_length`.

        A block begins with the last token of the one before, so that every token but the first is predicted once. A
        document that ends is followed by the end token, where the tokenizer has one.

        Returns:
            input_ids, labels, length, and `_rows`: the place of each token's passage among the rows. Conversations
            are laid out as their form says.
        """
        import datasets

        if form := find_form(rows.column_names):
            return form.encode(rows, processor)
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

    def encode_split(self, name: str, data: TaskData, processor: Any) -> tuple[Dataset, Truncation]:
        """Encode a split, and behind its conversations the prompts that are to be answered."""
        form = find_form(data.splits[name].column_names)
        return (
            form.encode_split(name, data.splits[name], processor)
            if form
            else self.encode(data.splits[name], processor)
        )

    def build_collator(self, processor: PreTrainedTokenizerBase) -> Collator:
        """Stack blocks; one that is shorter than the others is padded on the right."""
        return BlockCollator(processor.pad_token_id)

    def count_targets(self, batch: dict[str, Tensor]) -> Tensor:
        """Count the tokens that are predicted: all with a label but the first."""
        return (batch["labels"][:, 1:] != -100).sum(dim=1)

    def compute_outputs(self, model: Any, batch: dict[str, Tensor], processor: Any) -> list[np.ndarray]:
        """Return -log P of each token given those before it in its block, shape (tokens - 1,).

        Of a prompt it is a string: what the model writes, the likeliest token at each step.
        """

        def write(prompts: list[list[int]]) -> list[np.ndarray]:
            return [np.array(text.strip()) for text in write_texts(model, processor, prompts, **GREEDY)]

        return compute_rows(model, batch, write)

    def metrics(self, data: TaskData) -> tuple[Metric, ...]:
        """Return the metrics of the rows' form; bits per byte compare models whatever their tokens."""
        return (find_form(data.splits["test"].column_names) or FORMS[-1]).metrics

    def baselines(self, data: TaskData) -> Mapping[str, Baseline]:
        """Return the baselines of the rows' form."""
        return (find_form(data.splits["test"].column_names) or FORMS[-1]).baselines

    def references(self, rows: Dataset) -> list[Any]:
        """Return the passages, or the assistant's words."""
        form = find_form(rows.column_names)
        return form.references(rows) if form else list(rows["text"])

    def read_predictions(
        self, outputs: Sequence[np.ndarray], encoded: Dataset, rows: Dataset, data: TaskData
    ) -> list[Any]:
        """Return [nats, tokens] of each passage, or what the rows' form makes of them and of what was written."""
        form, written = find_form(rows.column_names) or FORMS[-1], []
        if IS_PROMPT in encoded.column_names:
            asked = np.asarray(encoded[IS_PROMPT], dtype=bool)
            written = [str(outputs[place]) for place in np.flatnonzero(asked)]
            outputs = [outputs[place] for place in np.flatnonzero(~asked)]
            encoded = encoded.select(np.flatnonzero(~asked))
        owners = np.concatenate([block[1:] for block in encoded["_rows"]])
        wanted = np.concatenate([block[1:] for block in encoded["labels"]]) != -100
        texts = len(rows) * len(form.columns)
        nats = np.bincount(owners[wanted], weights=np.concatenate(outputs)[wanted], minlength=texts)
        return form.read_predictions(nats, np.bincount(owners[wanted], minlength=texts), encoded, rows, written)

    def describe_errors(
        self, rows: Dataset, outputs: Sequence[np.ndarray], predictions: Any, data: TaskData
    ) -> dict[str, Any]:
        """Return a gallery: what costs the model most and least per token, or what the rows' form shows.

        Where conversations are of several kinds, it comes with the metrics of each kind.
        """
        if (form := find_form(rows.column_names)) is None:
            return {"gallery": _show_passages(rows, predictions)}
        groups = form.describe_groups(rows, predictions)
        return {"gallery": form.show(rows, predictions), **({"groups": groups} if groups else {})}

    def write_samples(self, model: Any, processor: Any, rows: Dataset) -> list[dict[str, Any]]:
        """Continue the beginnings of passages by chance, the same for the same model; answer conversations."""
        import torch

        if form := find_form(rows.column_names):
            questions = form.list_questions(rows)
            with torch.inference_mode():
                max_tokens = processor.model_max_length // 2
                prompts = [encode_prompt(processor, asked, max_tokens, arguments) for asked, arguments, _ in questions]
                answers = write_texts(model, processor, prompts, do_sample=False)
            return [
                {
                    "title": "An answer by the model",
                    "kind": "text",
                    "pairs": [[question[-1]["role"], question[-1]["content"]], ["meant", meant], ["written", answer]],
                }
                for (question, _, meant), answer in zip(questions, answers, strict=True)
            ]
        encoded = processor(rows["text"][:SAMPLES], add_special_tokens=False, verbose=False)["input_ids"]
        prompts = [ids[: min(PROMPT_TOKENS, processor.model_max_length // 2)] for ids in encoded]
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(0)
            written = write_texts(model, processor, prompts, do_sample=True, temperature=0.8)
        pairs = [[processor.decode(ids), text] for ids, text in zip(prompts, written, strict=True)]
        return [{"title": "Written by the model (temperature 0.8)", "kind": "text", "pairs": pairs}]


def _show_passages(rows: Dataset, predictions: Sequence[Any]) -> list[dict[str, Any]]:
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


class BlockCollator:
    """Makes a batch of blocks of tokens; a mask comes with it only where there is padding.

    Packed blocks have no mask: it would keep the model from telling their parts apart by position_ids. Their padding
    is a part of its own, which nothing sees.

    Args:
        pad_token_id: Fills shorter blocks; its labels are -100.
    """

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Return input_ids, labels and position_ids where the rows have them, and perhaps attention_mask.

        Returns:
            Each of shape (rows, tokens), and `IS_PROMPT` where the rows have it, shape (rows,).
        """
        import torch

        lengths = [len(row["input_ids"]) for row in rows]
        longest = max(lengths)
        fills = {"input_ids": self.pad_token_id, "labels": -100}
        batch = {
            name: torch.tensor([row[name] + [fill] * (longest - len(row[name])) for row in rows])
            for name, fill in fills.items()
            if name in rows[0]
        }
        if "position_ids" in rows[0]:
            places = [[*row["position_ids"], *range(longest - len(row["position_ids"]))] for row in rows]
            batch["position_ids"] = torch.tensor(places)
        elif min(lengths) < longest:
            batch["attention_mask"] = (torch.arange(longest) < torch.tensor(lengths)[:, None]).long()
        if IS_PROMPT in rows[0]:
            batch[IS_PROMPT] = torch.tensor([row[IS_PROMPT] for row in rows])
        return batch
