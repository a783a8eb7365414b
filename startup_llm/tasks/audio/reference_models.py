"""Models that hear or speak, from random weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from startup_llm.tasks.audio.options import ScratchConformer, ScratchSpeechT5, ScratchWhisper
from startup_llm.tasks.audio.speech_models import build_scratch_conformer, build_scratch_whisper
from startup_llm.tasks.audio.speech_synthesis import build_scratch_speecht5
from startup_llm.tasks.reference_models import ReferenceModels

if TYPE_CHECKING:
    from startup_llm.config import ScratchModelConfig
    from startup_llm.data.task_data import TaskData
    from startup_llm.models.task_model import TaskModel
    from startup_llm.tasks.audio.speech_recognition import AutomaticSpeechRecognition

_LOAD_CODE = """import torch
from startup_llm.tasks.audio.griffin_lim import GriffinLim
from transformers import SpeechT5ForTextToSpeech, SpeechT5Processor

processor = SpeechT5Processor.from_pretrained("REPOSITORY")
model = SpeechT5ForTextToSpeech.from_pretrained("REPOSITORY").eval()
ids = processor(text="seven", return_tensors="pt")["input_ids"]
sound = model.generate(ids, speaker_embeddings=torch.zeros(1, 512), vocoder=GriffinLim(processor.feature_extractor))"""


class AudioClassifiers(ReferenceModels):
    """conformer."""

    def build(self, data: TaskData, model: ScratchModelConfig, attention_kernel: str) -> tuple[Any, TaskModel]:
        """Return a feature extractor and a conformer.

        Raises:
            UserError: If another model is asked for.
        """
        if not isinstance(model, ScratchConformer):
            return super().build(data, model, attention_kernel)
        return build_scratch_conformer(model, attention_kernel, label_names=data.label_names)


class Recognisers(ReferenceModels):
    """whisper and conformer."""

    task: AutomaticSpeechRecognition

    def build(self, data: TaskData, model: ScratchModelConfig, attention_kernel: str) -> tuple[Any, TaskModel]:
        """Return a processor of the training split's texts, and a Whisper or a conformer with CTC.

        Raises:
            UserError: If another model is asked for.
        """
        train = data.splits["train"]
        self.task.token_logits = "own" if isinstance(model, ScratchWhisper) else None
        if isinstance(model, ScratchWhisper):
            longest = model.window_seconds or max(train["seconds"])
            return build_scratch_whisper(train["text"], longest, model, attention_kernel)
        if isinstance(model, ScratchConformer):
            return build_scratch_conformer(model, attention_kernel, texts=train["text"])
        return super().build(data, model, attention_kernel)


class Synthesisers(ReferenceModels):
    """speecht5."""

    def build(self, data: TaskData, model: ScratchModelConfig, attention_kernel: str) -> tuple[Any, TaskModel]:
        """Return a processor of the training split's letters, and a SpeechT5.

        Raises:
            UserError: If another model is asked for.
        """
        if not isinstance(model, ScratchSpeechT5):
            return super().build(data, model, attention_kernel)
        return build_scratch_speecht5(data.splits["train"]["text"], model)

    def find_load_code(self, name: str) -> str | None:
        """Return code that speaks with the vocoder of this package."""
        return _LOAD_CODE
