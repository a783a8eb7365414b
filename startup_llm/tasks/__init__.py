"""The tasks, by Hub pipeline tag."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from startup_llm.errors import UserError, nearest

if TYPE_CHECKING:
    from startup_llm.tasks.base import Task

TASKS: dict[str, str] = {
    "audio-classification": "startup_llm.tasks.audio.audio_classification:AudioClassification",
    "automatic-speech-recognition": "startup_llm.tasks.audio.speech_recognition:AutomaticSpeechRecognition",
    "image-classification": "startup_llm.tasks.vision.image_classification:ImageClassification",
    "question-answering": "startup_llm.tasks.question_answering.task:QuestionAnswering",
    "sentence-similarity": "startup_llm.tasks.sentence_similarity.task:SentenceSimilarity",
    "object-detection": "startup_llm.tasks.vision.object_detection:ObjectDetection",
    "text-classification": "startup_llm.tasks.text_classification.task:TextClassification",
    "summarization": "startup_llm.tasks.text_to_text.task:Summarization",
    "text-to-speech": "startup_llm.tasks.audio.text_to_speech:TextToSpeech",
    "token-classification": "startup_llm.tasks.token_classification.task:TokenClassification",
    "translation": "startup_llm.tasks.text_to_text.task:Translation",
    "text-generation": "startup_llm.tasks.text_generation.task:TextGeneration",
}
"""Pipeline tag -> where its class is; imported when asked for."""


def list_metric_names(tag: str | None = None) -> list[str]:
    """Name every metric of a task, or of all tasks, each once.

    Raises:
        UserError: If there is no such task.
    """
    tags = TASKS if tag is None else (tag,)
    return list(dict.fromkeys(metric.name for tag in tags for metric in load_task(tag).known_metrics))


def load_task(tag: str) -> Task:
    """Return the task of a Hub pipeline tag.

    Raises:
        UserError: If there is no such task.
    """
    module, name = find_task(tag)
    return getattr(importlib.import_module(module), name)()


def find_task(tag: str) -> tuple[str, str]:
    """Return the module and the name of a task's class.

    Raises:
        UserError: If there is no such task.
    """
    if tag not in TASKS:
        raise UserError(f"unknown task {tag}{nearest(tag, TASKS) or ';'} tasks: {', '.join(TASKS)}")
    module, _, name = TASKS[tag].partition(":")
    return module, name
