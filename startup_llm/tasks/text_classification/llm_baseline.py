"""A large language model that is asked for the label instead of a tuned model: its prompt, and what it costs."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.errors import UserError
from startup_llm.evaluation.chat_endpoint import AnswerFile, ChatAnswer, ChatEndpoint, ask_all
from startup_llm.evaluation.llm_costs import PromptedAnswers
from startup_llm.tasks.text_classification.baselines import join_pairs
from startup_llm.tasks.text_classification.options import TextClassificationBaselines

if TYPE_CHECKING:
    from startup_llm.config import BaselinesConfig
    from startup_llm.data.task_data import TaskData

INSTRUCTION = "Classify the text. Answer with exactly one of these labels, and with nothing else:\n{labels}"


def ask_llm(data: TaskData, baselines: BaselinesConfig, seed: int) -> PromptedAnswers | None:
    """Ask the language model that the config names for the label of each test row.

    Args:
        data: Rows with one label each.
        baselines: Which model, and how it is asked.
        seed: Draws the examples.

    Returns:
        Class ids, one beyond the last where an answer names no label, and what the answers took; None where the config
        names no model.

    Raises:
        UserError: If rows have not one label each, or some stay without an answer.
    """
    options = baselines.llm if isinstance(baselines, TextClassificationBaselines) else None
    if options is None or options.model is None:
        return None
    if data.problem_type != "single_label_classification":
        raise UserError(
            f"baselines.llm: a language model is asked for one label; the labels are a {data.problem_type}"
        )
    endpoint = ChatEndpoint(
        options.base_url,
        options.model,
        parameters={"temperature": 0, "max_tokens": options.max_answer_tokens, **options.request},
        api_key_variable=options.api_key_variable,
        timeout_seconds=options.timeout_seconds,
        attempts=options.attempts,
        parallel_requests=options.parallel_requests,
        prices=(options.dollars_per_million_input_tokens, options.dollars_per_million_output_tokens),
    )
    test, file = data.splits["test"], AnswerFile(Path(options.answers))
    start = time.perf_counter()
    prompts = build_prompts(data, options.examples_per_class, seed)
    answers, asked = ask_all(endpoint, prompts, file, offline=options.offline, names=list(test["row"]))
    predictions = read_labels([answer.text for answer in answers], data.label_names)
    no_label = predictions == len(data.label_names)
    return PromptedAnswers(
        predictions=predictions,
        model=endpoint.model,
        endpoint=options.base_url,
        examples=f"{options.examples_per_class} of each class" if options.examples_per_class else "none",
        asked=asked,
        file=str(file.path),
        refused_rows=_list_rows(test["row"], answers),
        unreadable=int(no_label.sum()) - sum(answer.refused is not None for answer in answers),
        input_tokens=_sum([answer.input_tokens for answer in answers]),
        output_tokens=_sum([answer.output_tokens for answer in answers]),
        dollars=_sum([endpoint.compute_dollars(answer) for answer in answers if answer.refused is None]),
        latency_seconds=tuple(answer.latency_seconds for answer in answers),
        seconds=time.perf_counter() - start,
    )


def _list_rows(rows: Sequence[int], answers: Sequence[ChatAnswer]) -> tuple[int, ...]:
    return tuple(row for row, answer in zip(rows, answers, strict=True) if answer.refused is not None)


def _sum(values: Sequence[Any]) -> Any:
    return None if not values or None in values else sum(values)


def build_prompts(data: TaskData, examples_per_class: int, seed: int) -> list[list[dict[str, str]]]:
    """Return the messages for each test row: the labels' names, training rows with their labels, and the text.

    Args:
        data: Rows with one label each.
        examples_per_class: Training rows of each class, the same for every test row.
        seed: Draws them.
    """
    train, names = data.splits["train"], data.label_names
    shown: list[dict[str, str]] = []
    if examples_per_class:
        labels = np.asarray(train["label"])
        drawn = _draw_examples(labels, examples_per_class, seed)
        for text, label in zip(join_pairs(train.select(drawn)), labels[drawn], strict=True):
            shown += [{"role": "user", "content": text}, {"role": "assistant", "content": names[label]}]
    listed = "\n".join(f"- {name}" for name in names)
    opening = {"role": "system", "content": INSTRUCTION.format(labels=listed)}
    return [[opening, *shown, {"role": "user", "content": text}] for text in join_pairs(data.splits["test"])]


def _draw_examples(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return the places of so many rows of each class, in random order; a class with fewer gives all."""
    order = np.random.default_rng(seed).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    starts = np.searchsorted(labels[by_class], labels[by_class])
    rank = np.empty(len(labels), dtype=np.int64)
    rank[by_class] = np.arange(len(labels)) - starts  # place within the row's class
    return order[rank[order] < count]


def read_labels(answers: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """Return the class id that each answer names, whatever its case, quotes and blanks; one beyond the last for none.

    An answer that is no label itself counts as the one label whose name stands in it.
    """
    plain = [_normalize(name) for name in names]
    counts = Counter(plain)
    known = {name: place for place, name in enumerate(plain) if name and counts[name] == 1}
    exact = {name: place for place, name in enumerate(names)}
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, sorted(known, key=len, reverse=True)))})(?!\w)")

    def read(answer: str) -> int:
        text = re.sub(r"(?s)<think>.*?(</think>|\Z)", "", answer).strip()
        if text in exact:
            return exact[text]
        text = _normalize(text)
        if text in known:
            return known[text]
        named = {known[match] for match in pattern.findall(text)} if known else set()
        return named.pop() if len(named) == 1 else len(names)

    return np.array([read(answer) for answer in answers], dtype=np.int64)


def _normalize(text: str) -> str:
    return re.sub(r"[\s_\-]+", " ", text.casefold()).strip(" .,:;!\"'`*")
