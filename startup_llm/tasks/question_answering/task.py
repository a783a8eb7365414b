"""Extractive question answering: an answer is a span of the context, or nothing."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.data.batching import encode_rows
from startup_llm.errors import UserError
from startup_llm.tasks.base import Collator, Task, Truncation
from startup_llm.tasks.question_answering.baselines import (
    predict_no_answer,
    predict_overlap_sentence,
    predict_sliding_window,
)
from startup_llm.tasks.question_answering.context_windows import (
    LEAST_WINDOW_TOKENS,
    cut_windows,
    find_best_span,
    find_tokens,
    read_answers,
)
from startup_llm.tasks.question_answering.metrics import (
    SQUAD_EXACT_MATCH,
    SQUAD_F1,
    SQUAD_V2_EXACT_MATCH,
    SQUAD_V2_F1,
    describe_answers,
)
from startup_llm.tasks.question_answering.model import build_question_answerer, compute_span_logits
from startup_llm.tasks.question_answering.options import QuestionAnsweringModel, QuestionData
from startup_llm.tasks.question_answering.prediction import AnswerPredictor
from startup_llm.tasks.question_answering.rows import (
    count_unanswerable,
    expects_abstention,
    knows_unanswerable,
    load_extractive_questions,
)
from startup_llm.tasks.question_answering.saved_model import SavedQuestionAnswerer

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from startup_llm.data.task_data import TaskData
    from startup_llm.evaluation.baselines import Baseline
    from startup_llm.evaluation.metrics import Metric
    from startup_llm.models.checkpoints import Checkpoint
    from startup_llm.models.task_model import TaskModel

_SHOWN = 12
_SHOWN_CHARACTERS_AROUND = 160


class QuestionAnswering(Task[QuestionData, QuestionAnsweringModel]):
    """Columns question, context and answers; an output is the start and end logits of a window, shape (2, tokens).

    A row has as many windows as its context needs. A prediction is a dict of text, start, end (in characters of the
    context) and score.

    Attributes:
        may_abstain: Whether the model whose outputs were computed last may give no answer; None where it does not say.
    """

    tag = "question-answering"
    default_checkpoint = example_checkpoint = "sentence-transformers/all-MiniLM-L6-v2"
    peft_task_type = None  # PEFT's own class for the task leaves out the token types
    predictor_class = AnswerPredictor
    may_abstain: bool | None = None
    saved_model_class = SavedQuestionAnswerer
    computes_loss = True
    known_metrics = (SQUAD_F1, SQUAD_EXACT_MATCH, SQUAD_V2_F1, SQUAD_V2_EXACT_MATCH)
    known_baselines = {  # noqa: RUF012
        "overlap-sentence": predict_overlap_sentence,
        "sliding-window": predict_sliding_window,
        "no-answer": predict_no_answer,
    }

    def read_data(self, data: QuestionData) -> TaskData:
        """Read, check and split the questions.

        Raises:
            UserError: On anything wrong with the files, the columns or a row.
        """
        return load_extractive_questions(data)

    def load_processor(
        self, checkpoint: Checkpoint, model: QuestionAnsweringModel, data: TaskData | None = None
    ) -> PreTrainedTokenizerBase:
        """Load the checkpoint's tokenizer, which must know characters' places and a token for no answer."""
        tokenizer = super().load_processor(checkpoint, model, data)
        if not tokenizer.is_fast or tokenizer.cls_token_id is None:
            lacks = "[CLS] token" if tokenizer.is_fast else "fast tokenizer"
            raise UserError(
                f"checkpoint {checkpoint.name} has no {lacks}, by which spans are found; choose a BERT-, RoBERTa- or "
                "DeBERTa-style checkpoint"
            )
        if tokenizer.model_max_length < LEAST_WINDOW_TOKENS:
            raise UserError(
                f"model.max_length_tokens: a window of {tokenizer.model_max_length} tokens has no room for a question "
                f"and its context; give at least {LEAST_WINDOW_TOKENS}, 384 is usual"
            )
        return tokenizer

    def build_model(
        self,
        checkpoint: Checkpoint,
        processor: PreTrainedTokenizerBase,
        data: TaskData,
        model: QuestionAnsweringModel,
        attention_kernel: str | None,
    ) -> TaskModel:
        """Load the checkpoint with a head on it; it may give no answer where training rows have none."""
        return build_question_answerer(
            checkpoint,
            null_threshold=model.null_threshold if count_unanswerable(data.splits["train"]) else None,
            dropout=model.dropout,
            attention_kernel=attention_kernel,
            trust_remote_code=model.trust_remote_code,
        )

    def encode(self, rows: Dataset, processor: PreTrainedTokenizerBase) -> tuple[Dataset, Truncation]:
        """Cut rows into windows, with the first true answer's tokens as labels, or the [CLS] token's."""
        cut_questions = 0

        def tokenize(batch: dict[str, list], places: list[int]) -> dict[str, list]:
            nonlocal cut_questions
            windows, cut = cut_windows(batch["question"], batch["context"], processor)
            cut_questions += cut
            windows["length"] = list(map(len, windows["input_ids"]))
            if "answers" in batch:
                windows["labels"] = [
                    _find_labels(batch["answers"][row], batch["answer_starts"][row], starts, ends, null)
                    for row, starts, ends, null in zip(
                        *(windows[name] for name in ("_question", "_starts", "_ends", "_null")), strict=True
                    )
                ]
            windows["_question"] = [places[row] for row in windows["_question"]]
            return windows

        encoded = encode_rows(
            rows,
            tokenize,
            batch_size=256,
            with_indices=True,
            load_from_cache_file=False,  # what was cut is counted on the way
        )
        return encoded, Truncation(cut_questions, cut_questions / len(rows), 0.0)

    def build_collator(self, processor: PreTrainedTokenizerBase) -> Collator:
        """Pad each batch to its longest window."""
        from transformers import DataCollatorWithPadding

        return DataCollatorWithPadding(processor)

    def compute_loss(self, model: Any, batch: dict[str, Tensor], processor: Any) -> tuple[Tensor, Tensor]:
        """Give the model the labels, shape (windows, 2), by the names that it takes.

        Returns:
            Its loss, and its logits, shape (windows, tokens, 2).
        """
        import torch

        inputs = {name: values for name, values in batch.items() if name != "labels"}
        starts, ends = batch["labels"].unbind(dim=1)
        outputs = model(**inputs, start_positions=starts, end_positions=ends)
        return outputs["loss"], torch.stack([outputs["start_logits"], outputs["end_logits"]], dim=2)

    def compute_outputs(self, model: Any, batch: dict[str, Tensor], processor: Any) -> list[np.ndarray]:
        """Return start and end logits, shape (2, tokens); the [CLS] token's are lowered by the null threshold.

        What a model was taught here decides whether no answer is an answer, whatever the rows to be answered know.
        """
        if hasattr(model.config, "null_threshold"):
            self.may_abstain = model.config.null_threshold is not None
        outputs = compute_span_logits(model, batch)
        if threshold := getattr(model.config, "null_threshold", None):
            for output, ids in zip(outputs, batch["input_ids"].tolist(), strict=True):
                output[:, ids.index(processor.cls_token_id)] -= threshold / 2
        return outputs

    def metrics(self, data: TaskData) -> tuple[Metric, ...]:
        """Return SQuAD 2.0's metrics where a question has no answer, else those of 1.1."""
        return (SQUAD_V2_F1, SQUAD_V2_EXACT_MATCH) if knows_unanswerable(data) else (SQUAD_F1, SQUAD_EXACT_MATCH)

    def baselines(self, data: TaskData) -> dict[str, Baseline]:
        """Return the baselines; that of no answer where a question has none."""
        left_out = () if knows_unanswerable(data) else ("no-answer",)
        return {name: predict for name, predict in self.known_baselines.items() if name not in left_out}

    def references(self, rows: Dataset) -> list[list[str]]:
        """Return the true answers; an empty text where there is none."""
        return [answers or [""] for answers in rows["answers"]]

    def read_predictions(
        self, outputs: Sequence[np.ndarray], encoded: Dataset, rows: Dataset, data: TaskData
    ) -> list[dict[str, Any]]:
        """Take the best span over all windows, or nothing where the model was taught that there may be no answer.

        A checkpoint from elsewhere does not say; then the rows do.
        """
        return read_answers(outputs, encoded, rows["context"], may_abstain=expects_abstention(self.may_abstain, data))

    def read_validation(
        self, logits: np.ndarray, labels: np.ndarray, data: TaskData
    ) -> tuple[list[list[str]], list[dict[str, Any]]]:
        """Return the places of the true and of the chosen tokens of each window, as texts: F1 over tokens, not words.

        It stands in for the answers' own F1, as windows reach this place without their texts.
        """
        chosen = [find_best_span(*window.T)[:2] for window in logits]
        return [[_write_places(*span)] for span in labels], [{"text": _write_places(*span)} for span in chosen]

    def describe_errors(
        self, rows: Dataset, outputs: Sequence[np.ndarray], predictions: Any, data: TaskData
    ) -> dict[str, Any]:
        """Return the metrics of kinds of questions apart, and a gallery: true and given answers marked in contexts."""
        groups = describe_answers(rows, self.references(rows), predictions, self.metrics(data))
        places = np.unique(np.linspace(0, len(rows) - 1, min(_SHOWN, len(rows))).astype(int))  # from the whole split
        shown = zip(rows.select(places), places, strict=True)
        return {**groups, "gallery": [_mark_answers(row, predictions[place]) for row, place in shown]}


def _find_labels(
    answers: Sequence[str], answer_starts: Sequence[int], starts: np.ndarray, ends: np.ndarray, null: int
) -> list[int]:
    """Return the first and last token of the first answer, or the [CLS] token's place where the window lacks it."""
    if not answers:
        return [null, null]
    return list(find_tokens(starts, ends, answer_starts[0], answer_starts[0] + len(answers[0])) or (null, null))


def _write_places(first: int, last: int) -> str:
    return " ".join(map(str, range(first, last + 1)))


def _mark_answers(row: dict[str, Any], prediction: dict[str, Any]) -> dict[str, Any]:
    """Return an item of the gallery: the context around both answers, each mark either true or not."""
    answers = list(zip(row["answers"], row["answer_starts"], strict=True))
    true = [(start, start + len(text)) for text, start in answers]
    answer = (prediction["start"], prediction["end"]) if prediction["text"] else None
    meant = max(true, key=lambda span: _overlap(span, answer), default=None) if answer else next(iter(true), None)
    marked = [span for span in (meant, answer) if span]
    low = max(min((start for start, _ in marked), default=0) - _SHOWN_CHARACTERS_AROUND, 0)
    high = max((end for _, end in marked), default=_SHOWN_CHARACTERS_AROUND) + _SHOWN_CHARACTERS_AROUND
    if low > 0:  # not in the middle of a word
        low = row["context"].find(" ", low, min(start for start, _ in marked)) + 1 or low
    before, behind = "… " * (low > 0), " …" * (high < len(row["context"]))
    shift = len(before) - low
    spans = [
        {"start": start + shift, "end": end + shift, "label": label, "true": label != "given"}
        for start, end, label in _cut_marks(meant, answer)
    ]
    title = f"row {row['row']}: {row['question']}"
    title += " (meant: no answer)" * (not true) + " (given: no answer)" * (answer is None)
    return {"title": title, "kind": "spans", "text": f"{before}{row['context'][low:high]}{behind}", "spans": spans}


def _overlap(a: tuple[int, int], b: tuple[int, int]) -> int:
    return max(0, min(a[1], b[1]) - max(a[0], b[0]))


def _cut_marks(meant: tuple[int, int] | None, answer: tuple[int, int] | None) -> list[tuple[int, int, str]]:
    """Cut two spans where one of them begins or ends: pieces that are meant, given, or both."""
    borders = sorted({place for span in (meant, answer) if span for place in span})
    pieces = []
    for start, end in itertools.pairwise(borders):
        inside = [span is not None and span[0] <= start and end <= span[1] for span in (meant, answer)]
        if any(inside):
            pieces.append((start, end, "meant and given" if all(inside) else "meant" if inside[0] else "given"))
    return pieces
