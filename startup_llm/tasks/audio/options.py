"""The options of the tasks on recordings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from startup_llm.config import (
    CheckedData,
    ClassDecision,
    GroupedData,
    LabelledData,
    LinearHead,
    ModelConfig,
    Range,
    ScratchTransformer,
    TaskOptions,
)


@dataclass(frozen=True)
class RecordingData(CheckedData, GroupedData):
    """Recordings: a table or folder of sound files."""

    audio_column: str | None = None
    """Column with the recording, or with the path of its file; found automatically if only one column fits."""
    file_name_columns: str | None = None
    """Columns that are part of the names of sound files, such as {digit}_{speaker}_{take} for 7_theo_12.wav."""
    value_names: dict[str, str] = field(default_factory=dict)
    """Names for values of a recording's label or text, such as {'7': seven}."""
    keep_where: dict[str, list[str]] = field(default_factory=dict)
    """Use only recordings with one of these values in a column, such as {speaker: [theo]}."""
    test_where: dict[str, list[str]] = field(default_factory=dict)
    """Recordings with one of these values in a column are the test split, such as {take: ['0', '1']}."""


@dataclass(frozen=True)
class LabelledRecordingData(RecordingData, LabelledData):
    """Recordings with one label each."""


@dataclass(frozen=True)
class TranscribedRecordingData(RecordingData):
    """Recordings with what is spoken in them."""

    text_column: str | None = None
    """Column with the transcript; found automatically if only one column fits."""


@dataclass(frozen=True)
class SpectrogramModel(ModelConfig):
    """A pretrained checkpoint that may read spectrograms."""

    warp_spectrum: bool = False
    """While training, warp and shift the spectrogram of a recording, and mask bands of it."""


@dataclass(frozen=True)
class AudioClassificationModel(LinearHead, SpectrogramModel):
    """The pretrained checkpoint."""


@dataclass(frozen=True)
class SpeechRecognitionModel(SpectrogramModel):
    """The pretrained checkpoint."""

    language: str | None = None
    """Language that is spoken, for a multilingual checkpoint, such as english for Whisper."""


@dataclass(frozen=True)
class ScratchSpectrogramModel(ScratchTransformer):
    """A reference model that reads spectrograms."""

    warp_spectrum: bool = True
    """While training, warp and shift the spectrogram of a recording, and mask bands of it."""


@dataclass(frozen=True)
class ScratchConformer(ScratchSpectrogramModel):
    """Conformer: encoder over a recording's spectrogram, its weights drawn at random."""

    name: str = "conformer"


@dataclass(frozen=True)
class ScratchWhisper(ScratchSpectrogramModel):
    """Whisper: encoder-decoder that writes what is spoken, its weights drawn at random."""

    name: str = "whisper"
    window_seconds: Annotated[int, Range(1, 30)] | None = None
    """Recordings are padded and cut to this many seconds; default the longest training one, at most 30."""


@dataclass(frozen=True)
class ScratchSpeechT5(ScratchTransformer):
    """SpeechT5: encoder-decoder that speaks a text, its weights drawn at random."""

    name: str = "speecht5"


OPTIONS = {
    "audio-classification": TaskOptions(
        data=LabelledRecordingData,
        model=AudioClassificationModel,
        decision=ClassDecision,
        scratch_models={"conformer": ScratchConformer},
    ),
    "automatic-speech-recognition": TaskOptions(
        data=TranscribedRecordingData,
        model=SpeechRecognitionModel,
        scratch_models={"whisper": ScratchWhisper, "conformer": ScratchConformer},
    ),
    "text-to-speech": TaskOptions(data=TranscribedRecordingData, scratch_models={"speecht5": ScratchSpeechT5}),
}
