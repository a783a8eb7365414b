"""SpeechT5 (Ao et al. 2021) that reads aloud: a pretrained checkpoint, or a small one with random weights.

A VITS (Kim et al. 2021) reads aloud as it comes: transformers has none of the losses that it is trained by.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.errors import UserError
from startup_llm.models.pretrained import load_config, load_model, set_dropout
from startup_llm.models.task_model import TaskModel

if TYPE_CHECKING:
    from torch import Tensor

    from startup_llm.models.checkpoints import Checkpoint
    from startup_llm.tasks.audio.options import ScratchSpeechT5

SPEAKER_WIDTH = 512
"""Width of SpeechT5's vector of a voice (an x-vector). One voice is trained here, whose vector is all zeros."""


@dataclass(frozen=True)
class VitsProcessor:
    """What of a processor a VITS has: its tokenizer. It writes samples itself."""

    tokenizer: Any


def load_synthesis_processor(checkpoint: Checkpoint, trust_remote_code: bool) -> Any:
    """Load a checkpoint's tokenizer, and SpeechT5's feature extractor with it.

    Raises:
        UserError: If the folder holds no processor of a SpeechT5 or VITS, or what reads its texts is not installed.
    """
    from transformers import SpeechT5Processor, VitsTokenizer
    from transformers.utils import is_phonemizer_available

    is_vits = is_waveform_model(load_config(checkpoint, trust_remote_code))
    try:
        processor = (VitsTokenizer if is_vits else SpeechT5Processor).from_pretrained(checkpoint.path)
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        reason, kind = str(error).strip().partition("\n")[0], "VITS tokenizer" if is_vits else "SpeechT5 processor"
        raise UserError(f"no usable {kind} in {checkpoint.name}: {reason}") from None
    if is_vits and processor.phonemize and not is_phonemizer_available():
        raise UserError(
            f"checkpoint {checkpoint.name} reads phonemes, which phonemizer writes; pip install phonemizer"
        )
    return VitsProcessor(processor) if is_vits else processor


def is_waveform_model(config: Any) -> bool:
    """Say whether a model writes samples (VITS) instead of a spectrogram."""
    return config.model_type == "vits"


def build_speech_synthesiser(checkpoint: Checkpoint, *, dropout: float, trust_remote_code: bool) -> TaskModel:
    """Load a SpeechT5 checkpoint.

    Args:
        checkpoint: Where its files are.
        dropout: Dropout inside the checkpoint; what its decoder reads is thinned out always, as it was trained.
        trust_remote_code: Whether to run the checkpoint's own Python code.

    Raises:
        UserError: If it is of another kind, or lacks weights.
    """
    from transformers import AutoModelForTextToSpectrogram

    config = load_config(checkpoint, trust_remote_code)
    if config.model_type != "speecht5":
        kind = config.model_type
        if is_waveform_model(config):
            kind = "VITS, which transformers can run (recipes/evaluate.py, recipes/predict.py) but not train"
        raise UserError(
            f"checkpoint {checkpoint.name} is of type {kind}; choose a SpeechT5-style one, such as "
            "microsoft/speecht5_tts"
        )
    remedy = "choose one that can speak"
    model, loaded = load_model(AutoModelForTextToSpectrogram, checkpoint, "eager", trust_remote_code, remedy=remedy)
    set_dropout(model, dropout)
    model.config.encoder_layerdrop = model.config.decoder_layerdrop = 0.0
    heads = ("speech_decoder_postnet",)  # its batch norm counts while it is trained
    return TaskModel(model, head_modules=heads, notes=loaded.notes)


def build_scratch_speecht5(texts: Sequence[str], model: ScratchSpeechT5) -> tuple[Any, TaskModel]:
    """Return a processor of the texts' letters, and a small SpeechT5.

    Args:
        texts: The training texts.
        model: Width, layers of encoder and decoder each, heads, dropout.
    """
    from transformers import SpeechT5Config, SpeechT5FeatureExtractor, SpeechT5ForTextToSpeech, SpeechT5Processor

    tokenizer = _build_letter_tokenizer(texts)
    inner = model.inner_width or 4 * model.width
    config = SpeechT5Config(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.eos_token_id,
        hidden_size=model.width,
        encoder_layers=model.layers,
        decoder_layers=model.layers,
        encoder_attention_heads=model.heads,
        decoder_attention_heads=model.heads,
        encoder_ffn_dim=inner,
        decoder_ffn_dim=inner,
        encoder_layerdrop=0.0,
        decoder_layerdrop=0.0,
        positional_dropout=model.dropout,
        hidden_dropout=model.dropout,
        attention_dropout=model.dropout,
        activation_dropout=model.dropout,
        speech_decoder_prenet_units=model.width,
        speech_decoder_postnet_units=model.width,
        speech_decoder_postnet_layers=3,
        speech_decoder_postnet_kernel=1,  # a wider one hears silence behind the last frame as a bang: zeros are loud
        speech_decoder_postnet_dropout=model.dropout,
        speaker_embedding_dim=SPEAKER_WIDTH,
    )
    network = SpeechT5ForTextToSpeech._from_config(config, attn_implementation="eager")  # its loss reads attention
    return SpeechT5Processor(SpeechT5FeatureExtractor(), tokenizer), TaskModel(network)


def speak(model: Any, input_ids: Tensor) -> np.ndarray:
    """Return the spectrogram of a text, the same for the same model: the decoder's own dropout is seeded.

    Args:
        model: A SpeechT5, perhaps with an adapter.
        input_ids: The text's tokens, shape (tokens,).

    Returns:
        log10 of mel magnitudes, float32, shape (frames, bands).
    """
    import torch

    speaker = input_ids.new_zeros((1, SPEAKER_WIDTH), dtype=torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        frames = model.generate(input_ids[None], speaker_embeddings=speaker)
    return frames.float().cpu().numpy()


def speak_samples(model: Any, input_ids: Tensor) -> np.ndarray:
    """Return the sound of a text, the same for the same model: what it draws at random is seeded.

    Args:
        model: A VITS.
        input_ids: The text's tokens, shape (tokens,).

    Returns:
        Samples, float32, shape (samples,), `model.config.sampling_rate` a second.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return model(input_ids[None])["waveform"][0].float().cpu().numpy()


def speak_texts(model: Any, batch: dict[str, Tensor]) -> list[np.ndarray]:
    """Speak each row of a batch, one by one.

    Returns:
        Spectrograms, or the samples of a model that writes them itself, each shape (samples,).
    """
    say = speak_samples if is_waveform_model(model.config) else speak
    lengths = batch["attention_mask"].sum(dim=1).tolist()
    return [say(model, ids[:length]) for ids, length in zip(batch["input_ids"], lengths, strict=True)]


def build_vocoder(feature_extractor: Any = None) -> Any:
    """Return what turns a spectrogram into samples."""
    import torch
    from transformers import SpeechT5FeatureExtractor

    from startup_llm.tasks.audio.griffin_lim import GriffinLim

    vocoder = GriffinLim(feature_extractor or SpeechT5FeatureExtractor())
    return lambda frames: vocoder(torch.from_numpy(np.asarray(frames, np.float32))).numpy()


def _build_letter_tokenizer(texts: Sequence[str]) -> Any:
    """Return SpeechT5's tokenizer with a SentencePiece model of the texts' letters."""
    import io

    import sentencepiece
    from transformers import SpeechT5Tokenizer

    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=trained,
        model_type="char",
        vocab_size=10_000,
        hard_vocab_limit=False,
        character_coverage=1.0,
        bos_id=0,
        pad_id=1,
        eos_id=2,
        unk_id=3,
        minloglevel=2,
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "spm_char.model")
        file.write_bytes(trained.getvalue())
        return SpeechT5Tokenizer(str(file))
