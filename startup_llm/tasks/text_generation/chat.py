"""The forms of text generation whose rows are conversations: what the assistant says is learnt, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.data.batching import IS_PROMPT
from startup_llm.errors import UserError
from startup_llm.evaluation.metrics import BLEU, CHRF, EXACT_MATCH, ROUGE_1, ROUGE_2, ROUGE_L, WORD_F1, Metric
from startup_llm.evaluation.results import measure_groups
from startup_llm.tasks.base import Truncation
from startup_llm.tasks.text_generation.baselines import ANSWER_BASELINES, NGRAM_BASELINES
from startup_llm.tasks.text_generation.chat_templates import (
    find_end_of_turn,
    render_conversation,
    tokenize_conversation,
    tokenize_text,
)
from startup_llm.tasks.text_generation.conversations import join_answers
from startup_llm.tasks.text_generation.messages import is_learnt, list_words
from startup_llm.tasks.text_generation.metrics import (
    BITS_PER_BYTE,
    BYTE_PERPLEXITY,
    LOSS,
    PERPLEXITY,
    PREFERENCE_ACCURACY,
    REWARD_ACCURACY,
)

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from startup_llm.evaluation.baselines import Baseline
    from startup_llm.tasks.text_generation.messages import Messages

    Tokenized = list[tuple[list[int], list[int]]]

SHOWN = 5
MOST_GROUPS = 8
"""Kinds of rows, told apart by their system message, that are measured apart."""
MOST_SHOWN_CHARACTERS = 80


class Conversations:
    """Rows with messages.

    Attributes:
        columns: A row's conversations.
        known_by: The columns that rows of the form have.
        metrics: The primary metric first.
        baselines: By name.
    """

    columns: tuple[str, ...] = ("messages",)
    known_by: tuple[str, ...] = ("messages",)
    metrics: tuple[Metric, ...] = (BITS_PER_BYTE, LOSS, PERPLEXITY, BYTE_PERPLEXITY)
    baselines: Mapping[str, Baseline] = NGRAM_BASELINES

    def encode(self, rows: Dataset, processor: PreTrainedTokenizerBase) -> tuple[Dataset, Truncation]:
        """Tokenize conversations; labels are -100 wherever the assistant does not speak.

        A conversation that is longer than the tokenizer's `model_max_length` becomes several rows. Each but the first
        begins with what the one before ended with, half its length, and predicts what follows: every token of the
        assistant is predicted once, given at least half the model's length.

        Returns:
            input_ids, labels, length, and `_rows`: for each token its row's place, times the number of conversations
            in a row, plus the conversation's place in it.
        """
        return self._cut(self._tokenize(rows, processor), processor.model_max_length)

    def encode_split(self, name: str, rows: Dataset, processor: PreTrainedTokenizerBase) -> tuple[Dataset, Truncation]:
        """Encode the rows of a split, and behind them what else a model is asked."""
        return self.encode(rows, processor)

    def _tokenize(self, rows: Dataset, processor: PreTrainedTokenizerBase) -> Tokenized:
        """Return ids and labels of each conversation, whole."""
        end, encodings = find_end_of_turn(processor), []
        for place, row in enumerate(rows):
            for name in self.columns:
                try:
                    ids, said = tokenize_conversation(processor, row[name], end, read_arguments(row))
                except UserError as error:
                    raise UserError(f"row {row.get('row', place + 1)}: {error}") from None
                labels = [token if is_said else -100 for token, is_said in zip(ids, said, strict=True)]
                labels[0] = -100  # nothing stands before it
                encodings.append((ids, labels))
        return encodings

    def _cut(self, conversations: Tokenized, size: int) -> tuple[Dataset, Truncation]:
        import datasets

        columns: dict[str, list[Any]] = {"input_ids": [], "labels": [], "length": [], "_rows": []}
        longer, in_row = set(), len(self.columns)
        for owner, (ids, labels) in enumerate(conversations):
            if len(ids) > size:
                longer.add(owner // in_row)
            for start, stop, first in cut_windows(len(ids), size):
                wanted = [-100] * (first - start) + labels[first:stop]
                if any(label != -100 for label in wanted):
                    columns["input_ids"].append(ids[start:stop])
                    columns["labels"].append(wanted)
                    columns["length"].append(stop - start)
                    columns["_rows"].append([owner] * (stop - start))
        share = len(longer) * in_row / max(len(conversations), 1)
        return datasets.Dataset.from_dict(columns), Truncation(len(longer), share, 0.0)

    def list_answers(self, rows: Dataset) -> list[str]:
        """Return each thing that the assistant says and that is learnt."""
        conversations = (messages for name in self.columns for messages in rows[name])
        return [list_words(message) for messages in conversations for message in messages if is_learnt(message)]

    def references(self, rows: Dataset) -> list[Any]:
        """Return the assistant's words."""
        return [join_answers(messages) for messages in rows[self.columns[0]]]

    def read_predictions(
        self, nats: np.ndarray, tokens: np.ndarray, encoded: Dataset, rows: Dataset, written: Sequence[str]
    ) -> list[Any]:
        """Return each row's prediction: [nats, tokens] of the assistant's words.

        Args:
            nats: Negative log-likelihood of each conversation, shape (rows * conversations in a row,).
            tokens: Number of tokens that were predicted there, same shape.
            encoded: The encoded rows.
            rows: The raw rows.
            written: What was written after each prompt, where there are prompts.
        """
        return [[float(total), float(count)] for total, count in zip(nats, tokens, strict=True)]

    def describe_groups(self, rows: Dataset, predictions: Sequence[Any]) -> list[dict[str, Any]]:
        """Return the metrics of rows of several kinds apart, as `results.json` keeps them; none by default."""
        return []

    def show(self, rows: Dataset, predictions: Sequence[Any]) -> list[dict[str, Any]]:
        """Show the conversations that cost the model most and least per token."""
        costs = np.array([nats / max(tokens, 1) for nats, tokens in predictions])
        order = np.argsort(costs)
        return [
            {
                "title": f"{title}: row {rows['row'][place]}, {costs[place]:.2f} nats per token",
                "kind": "text",
                "pairs": [[message["role"], message["content"]] for message in rows["messages"][place]],
            }
            for title, place in (("Hardest to predict", int(order[-1])), ("Easiest to predict", int(order[0])))
        ]

    def list_questions(self, rows: Dataset) -> list[tuple[Messages, dict[str, Any], str]]:
        """Return the first conversations up to their last answer, what a template takes beside it, and that answer."""
        shown = rows.select(range(min(SHOWN, len(rows))))
        return [
            (row[self.columns[0]][:-1], read_arguments(row), list_words(row[self.columns[0]][-1]))
            for row in shown
            if len(row[self.columns[0]]) > 1
        ]


class AnsweredConversations(Conversations):
    """Rows with messages and answer, the last of them, which the model writes too.

    References and predictions are dicts of likelihood and answer: the former as of other conversations, the latter a
    text.
    """

    known_by = ("messages", "answer")
    metrics = (*Conversations.metrics, ROUGE_L, ROUGE_1, ROUGE_2, BLEU, CHRF, EXACT_MATCH, WORD_F1)
    baselines = {**NGRAM_BASELINES, **ANSWER_BASELINES}  # noqa: RUF012

    def encode_split(self, name: str, rows: Dataset, processor: PreTrainedTokenizerBase) -> tuple[Dataset, Truncation]:
        """Encode the rows of a split; behind the test conversations come the prompts that are to be answered.

        Returns:
            As `encode` does, with `IS_PROMPT`; a test row counts as cut where its prompt was.
        """
        encoded, cut = self.encode(rows, processor)
        return self.add_prompts(encoded, rows, processor) if name == "test" else (encoded, cut)

    def add_prompts(
        self, encoded: Dataset, rows: Dataset, processor: PreTrainedTokenizerBase
    ) -> tuple[Dataset, Truncation]:
        """Put what comes before the answer of each row behind encoded conversations.

        Of a long prompt the end is kept, so that half of the model's length is left to write.
        """
        import datasets

        whole = [encode_prompt(processor, row["messages"][:-1], arguments=read_arguments(row)) for row in rows]
        ids = [prompt[-(processor.model_max_length // 2) :] for prompt in whole]
        lengths, before = np.array(list(map(len, ids))), np.array(list(map(len, whole)))
        columns = {
            "input_ids": ids,
            "labels": [[-100] * length for length in lengths],
            "length": lengths,
            "_rows": [[place] * length for place, length in enumerate(lengths)],
            IS_PROMPT: [1] * len(ids),
        }
        said = encoded.add_column(IS_PROMPT, [0] * len(encoded))
        is_cut = lengths < before
        share = float(1 - lengths.sum() / before.sum())
        cut = Truncation(int(is_cut.sum()), float(is_cut.mean()), share)
        return datasets.concatenate_datasets([said, datasets.Dataset.from_dict(columns)]), cut

    def references(self, rows: Dataset) -> list[dict[str, str]]:
        """Return the assistant's words, and its last answer alone."""
        pairs = zip(super().references(rows), rows["answer"], strict=True)
        return [{"likelihood": words, "answer": answer} for words, answer in pairs]

    def read_predictions(
        self, nats: np.ndarray, tokens: np.ndarray, encoded: Dataset, rows: Dataset, written: Sequence[str]
    ) -> list[dict[str, Any]]:
        """Return each row's likelihood, [nats, tokens], and its answer."""
        pairs = zip(super().read_predictions(nats, tokens, encoded, rows, written), written, strict=True)
        return [{"likelihood": likelihood, "answer": answer} for likelihood, answer in pairs]

    def show(self, rows: Dataset, predictions: Sequence[Any]) -> list[dict[str, Any]]:
        """Show the conversations that cost the model most and least per token."""
        return super().show(rows, [prediction["likelihood"] for prediction in predictions])

    def describe_groups(self, rows: Dataset, predictions: Sequence[Any]) -> list[dict[str, Any]]:
        """Measure the rows of each system message apart, where there are a few: each asks for another thing."""
        openings = [_read_opening(messages) for messages in rows["messages"]]
        names = list(dict.fromkeys(openings))
        if not 2 <= len(names) <= MOST_GROUPS:
            return []
        shown = [_shorten(name) for name in names]
        titles = zip(names, shown if len(set(shown)) == len(names) else names, strict=True)
        kinds = {title: np.array([opening == name for opening in openings]) for name, title in titles}
        return [measure_groups("System message", kinds, self.references(rows), predictions, self.metrics)]


class Preferences(Conversations):
    """Rows with chosen and rejected: two answers, each at the end of the same conversation.

    A prediction is [reward margin, margin] in nats: how much likelier than the rejected answer the model finds the
    chosen one, beyond what the model before did and in itself. Without a column `_reference` in the encoded rows, the
    nats that the model before gave, the former is 0.
    """

    columns = ("chosen", "rejected")
    known_by = ("chosen", "rejected")
    metrics = (REWARD_ACCURACY, PREFERENCE_ACCURACY)
    baselines = {}  # noqa: RUF012

    def encode_split(self, name: str, rows: Dataset, processor: PreTrainedTokenizerBase) -> tuple[Dataset, Truncation]:
        """Encode the rows of a split.

        Test rows are measured window by window and lose nothing. Those of the other splits count as cut where TRL's
        trainer cuts an answer off at the model's length.
        """
        conversations, size = self._tokenize(rows, processor), processor.model_max_length
        encoded, cut = self._cut(conversations, size)
        if name == "test":
            return encoded, cut
        lengths = np.array([len(ids) for ids, _ in conversations])
        lost = float(np.maximum(lengths - size, 0).sum() / lengths.sum())
        return encoded, replace(cut, tokens_share=lost, targets=cut.rows)

    def read_predictions(
        self, nats: np.ndarray, tokens: np.ndarray, encoded: Dataset, rows: Dataset, written: Sequence[str]
    ) -> list[list[float]]:
        """Return [reward margin, margin] of each row."""
        before = _read_reference(encoded, nats)
        margin = nats[1::2] - nats[::2]
        reward = margin - (before[1::2] - before[::2])
        return [[float(gained), float(own)] for gained, own in zip(reward, margin, strict=True)]

    def show(self, rows: Dataset, predictions: Sequence[Any]) -> list[dict[str, Any]]:
        """Show the pairs with the least and the largest reward margin."""
        order = np.argsort([prediction[0] for prediction in predictions])
        return [
            {
                "title": f"{title}: row {rows['row'][place]}, {predictions[place][0]:+.2f} nats of reward",
                "kind": "text",
                "pairs": [
                    ["asked", rows["chosen"][place][-2]["content"] if len(rows["chosen"][place]) > 1 else ""],
                    ["chosen", list_words(rows["chosen"][place][-1])],
                    ["rejected", list_words(rows["rejected"][place][-1])],
                ],
            }
            for title, place in (("Least margin", int(order[0])), ("Largest margin", int(order[-1])))
        ]


class Feedback(Conversations):
    """Rows with messages and label: whether people found the answer good.

    A prediction is [reward, reward] in nats, positive where tuning moved the model the right way: how much likelier
    it finds a good answer, or less likely a bad one, than the model before. Without a column `_reference` in the
    encoded rows it is 0.
    """

    known_by = ("messages", "label")
    metrics = (REWARD_ACCURACY,)
    relative_metrics = (REWARD_ACCURACY,)
    baselines = {}  # noqa: RUF012

    def read_predictions(
        self, nats: np.ndarray, tokens: np.ndarray, encoded: Dataset, rows: Dataset, written: Sequence[str]
    ) -> list[list[float]]:
        """Return the reward of each row, signed by its label."""
        signs = np.where(np.asarray(rows["label"], dtype=bool), 1.0, -1.0)
        return [[float(reward)] * 2 for reward in signs * (_read_reference(encoded, nats) - nats)]

    def show(self, rows: Dataset, predictions: Sequence[Any]) -> list[dict[str, Any]]:
        """Show the answers that tuning moved the wrong way and the right way most."""
        order = np.argsort([prediction[0] for prediction in predictions])
        return [
            {
                "title": f"{title}: row {rows['row'][place]}, {predictions[place][0]:+.2f} nats the right way",
                "kind": "text",
                "pairs": [
                    *([message["role"], list_words(message)] for message in rows["messages"][place]),
                    ["judged", "good" if rows["label"][place] else "bad"],
                ],
            }
            for title, place in (("Least reward", int(order[0])), ("Largest reward", int(order[-1])))
        ]


def _read_reference(encoded: Dataset, nats: np.ndarray) -> np.ndarray:
    """Return the nats that the model before gave each conversation; without them the model's own."""
    if "_reference" not in encoded.column_names:
        return nats
    owners = [row[0] for row in encoded["_rows"]]
    return np.bincount(owners, weights=np.asarray(encoded["_reference"]), minlength=len(nats))


def _read_opening(messages: Messages) -> str:
    return messages[0]["content"] if messages[0]["role"] == "system" else ""


def _shorten(text: str) -> str:
    """Return the beginning of a system message, or what stands for none."""
    line = " ".join(text.split()) or "(none)"
    return line if len(line) <= MOST_SHOWN_CHARACTERS else f"{line[: MOST_SHOWN_CHARACTERS - 1]}…"


def read_arguments(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a row gives the chat template beside its messages."""
    return json.loads(row.get("arguments") or "{}")


FORMS = (Preferences(), Feedback(), AnsweredConversations(), Conversations())


def find_form(columns: Collection[str]) -> Conversations | None:
    """Return what knows the form of rows with these columns; None for running text."""
    return next((form for form in FORMS if set(form.known_by) <= set(columns)), None)


def cut_windows(length: int, size: int) -> list[tuple[int, int, int]]:
    """Cut a sequence into windows (start, stop, first), whose tokens from `first` on are predicted there.

    Args:
        length: Tokens of the sequence.
        size: Most tokens of a window, at least 2.
    """
    windows, done = [], 0
    while done < length:
        start = max(0, done - size // 2)
        stop = min(start + size, length)
        windows.append((start, stop, done))
        done = stop
    return windows


def pack_rows(encoded: Dataset, processor: PreTrainedTokenizerBase) -> Dataset:
    """Put several conversations into each row to train on, none of which sees another.

    Raises:
        UserError: For running text, whose blocks are full as they are.
    """
    if encoded["labels"][0] == encoded["input_ids"][0]:
        raise UserError("data.packing: running text fills its blocks by itself; leave it out")
    return pack_conversations(encoded, processor.model_max_length)


def pack_conversations(encoded: Dataset, size: int) -> Dataset:
    """Put conversations into rows of at most `size` tokens, each into the fullest row that still has room for it.

    Args:
        encoded: From `Conversations.encode`.
        size: Tokens of a row.

    Returns:
        input_ids, labels, length and position_ids, which start again with each conversation: by them the model keeps
        its attention inside of each.
    """
    import datasets

    rows: list[list[int]] = []
    room_of: dict[int, list[int]] = {}
    lengths = encoded["length"]
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        room = next((room for room in range(lengths[place], size + 1) if room_of.get(room)), None)
        if room is None:
            rows.append([])
            number, room = len(rows) - 1, size
        else:
            number = room_of[room].pop()
        rows[number].append(place)
        room_of.setdefault(room - lengths[place], []).append(number)
    ids, labels = list(encoded["input_ids"]), list(encoded["labels"])
    join = lambda lists, row: [value for place in row for value in lists[place]]  # noqa: E731
    return datasets.Dataset.from_dict(
        {
            "input_ids": [join(ids, row) for row in rows],
            "labels": [join(labels, row) for row in rows],
            "position_ids": [[at for place in row for at in range(lengths[place])] for row in rows],
            "length": [sum(lengths[place] for place in row) for row in rows],
        }
    )


def encode_prompt(
    processor: PreTrainedTokenizerBase,
    messages: Messages,
    max_tokens: int | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> list[int]:
    """Return the tokens of a conversation with the assistant's turn opened; of a long one the last `most`."""
    ids, _ = tokenize_text(processor, render_conversation(processor, messages, answer=True, arguments=arguments))
    return ids if max_tokens is None else ids[-max_tokens:]
