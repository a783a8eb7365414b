"""Models that listen: pretrained checkpoints with their heads, and small architectures with random weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from startup_llm.errors import UserError
from startup_llm.models.pretrained import (
    find_new_modules,
    load_config,
    load_config_for,
    load_labelled_model,
    load_model,
    name_labels,
    set_dropout,
)
from startup_llm.models.task_model import TaskModel

if TYPE_CHECKING:
    from torch import Tensor, nn

    from startup_llm.models.checkpoints import Checkpoint
    from startup_llm.tasks.audio.options import ScratchConformer, ScratchWhisper

FRAMES_PER_SECOND = 50
"""What a recording costs is counted in frames of 20 ms: the step of wav2vec 2.0's and of Whisper's encoder."""
_SAMPLING_RATE = 16_000
_LONGEST_WINDOW_SECONDS = 30


def load_feature_extractor(checkpoint: Checkpoint, trust_remote_code: bool = False) -> Any:
    """Load what turns samples into a checkpoint's numbers.

    Raises:
        UserError: If the folder holds no feature extractor.
    """
    from transformers import AutoFeatureExtractor

    try:
        return AutoFeatureExtractor.from_pretrained(checkpoint.path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, ImportError, KeyError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"no usable feature extractor in {checkpoint.name}: {reason}") from None


def load_speech_processor(checkpoint: Checkpoint, language: str | None, trust_remote_code: bool = False) -> Any:
    """Load a checkpoint's feature extractor and tokenizer as one processor.

    Args:
        checkpoint: Where its files are.
        language: Language that is spoken, for a Whisper that knows several.
        trust_remote_code: Whether to run the checkpoint's own Python code.

    Returns:
        The processor; the feature extractor alone where a checkpoint for CTC was never taught to write.

    Raises:
        UserError: If one of the two is missing otherwise, or the language is none that it knows.
    """
    from transformers import AutoProcessor

    extractor = load_feature_extractor(checkpoint, trust_remote_code)
    if not holds_tokenizer(checkpoint):
        if is_ctc(load_config(checkpoint, trust_remote_code)):
            return extractor
        raise UserError(f"checkpoint {checkpoint.name} has no tokenizer, so it cannot write; choose one that has")
    try:
        processor = AutoProcessor.from_pretrained(checkpoint.path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"no usable processor in {checkpoint.name}: {reason}") from None
    tokenizer = processor.tokenizer
    if not knows_many_languages(tokenizer) and language is not None:
        raise UserError(f"model.language {language}: checkpoint {checkpoint.name} knows one language; leave it out")
    if language is not None:
        try:
            tokenizer.set_prefix_tokens(language=language, task="transcribe")
            tokenizer.prefix_tokens  # noqa: B018  # where transformers looks the language up
        except ValueError as error:
            raise UserError(f"model.language {language}: {str(error).strip().partition(':')[0]}") from None
    return processor


def knows_many_languages(tokenizer: Any) -> bool:
    """Say whether a Whisper's tokenizer marks the language; it is heard in each recording where none is named."""
    return "<|en|>" in tokenizer.get_vocab() and hasattr(tokenizer, "set_prefix_tokens")


def holds_tokenizer(checkpoint: Checkpoint) -> bool:
    """Say whether a tokenizer's files lie in a checkpoint's folder."""
    names = ("vocab.json", "tokenizer.json", "tokenizer_config.json")
    return any((checkpoint.path / name).is_file() for name in names)


def build_ctc_processor(extractor: Any, texts: Sequence[str]) -> Any:
    """Return a processor with a tokenizer of the texts' letters for a checkpoint that has only learned to hear.

    Args:
        extractor: The checkpoint's feature extractor.
        texts: The training texts.
    """
    from transformers import Wav2Vec2BertProcessor, Wav2Vec2Processor

    of_samples = extractor.model_input_names[0] == "input_values"
    return (Wav2Vec2Processor if of_samples else Wav2Vec2BertProcessor)(extractor, build_letter_tokenizer(texts))


def measure_window_seconds(feature_extractor: Any) -> float | None:
    """Return the length to which a feature extractor pads and cuts every recording; None where it does not."""
    if hasattr(feature_extractor, "nb_max_frames"):  # Whisper
        return feature_extractor.nb_max_frames * feature_extractor.hop_length / feature_extractor.sampling_rate
    if type(feature_extractor).__name__ == "ASTFeatureExtractor":
        return feature_extractor.max_length * 0.01  # its hop
    return None


def needs_rows_apart(feature_extractor: Any) -> bool:
    """Say whether padding changes a model's outputs: wav2vec 2.0 with group norm, which takes no mask."""
    return (
        feature_extractor.model_input_names[0] == "input_values"
        and measure_window_seconds(feature_extractor) is None
        and not feature_extractor.return_attention_mask
    )


def count_mask_positions(feature_extractor: Any) -> int:
    """Return the positions of the attention mask in a frame: its samples, where the model reads samples."""
    reads_samples = feature_extractor.model_input_names[0] == "input_values"
    return feature_extractor.sampling_rate // FRAMES_PER_SECOND if reads_samples else 1


def compute_logits(model: Any, batch: dict[str, Tensor], row_lengths: Tensor, *, apart: bool) -> list[Tensor]:
    """Return each row's logits; computed alone, without its padding, where padding would change them.

    Args:
        model: The model.
        batch: Its inputs.
        row_lengths: Length of each row's features, shape (rows,).
        apart: See `needs_rows_apart`.
    """
    if not apart:
        return list(model(**batch)["logits"])
    return [
        model(input_values=values[None, :length])["logits"][0]
        for values, length in zip(batch["input_values"], row_lengths.tolist(), strict=True)
    ]


def is_ctc(config: Any) -> bool:
    """Say whether a recogniser labels frames (CTC, Graves et al. 2006) instead of writing its text."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CTC_MAPPING_NAMES

    return config.model_type in MODEL_FOR_CTC_MAPPING_NAMES


def build_speech_recogniser(
    checkpoint: Checkpoint,
    processor: Any,
    *,
    shortest_seconds: float,
    dropout: float,
    warp_spectrum: bool,
    attention_kernel: str | None,
    trust_remote_code: bool,
) -> TaskModel:
    """Load a checkpoint that labels frames with letters (wav2vec 2.0 and its kin) or writes a text (Whisper).

    Args:
        checkpoint: Where its files are.
        processor: Its feature extractor and tokenizer.
        shortest_seconds: Length of the shortest training recording.
        dropout: Dropout inside the checkpoint.
        warp_spectrum: Whether training goes through `warp_spectra`.
        attention_kernel: eager, sdpa, flash_attention_2; where the architecture lacks it, its own choice.
        trust_remote_code: Whether to run the checkpoint's own Python code.

    Raises:
        UserError: If the architecture recognises no speech, lacks weights other than a CTC head's, or is to learn
            one of many languages and is not told which.
    """
    import transformers
    from transformers import AutoModelForCTC, AutoModelForSpeechSeq2Seq
    from transformers.models.auto.modeling_auto import MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES

    config = load_config(checkpoint, trust_remote_code)
    if is_ctc(config):
        arguments: dict[str, Any] = {
            "vocab_size": len(processor.tokenizer),
            "pad_token_id": processor.tokenizer.pad_token_id,
            "ignore_mismatched_sizes": True,
        }
        model, loaded = load_model(
            AutoModelForCTC, checkpoint, attention_kernel, trust_remote_code, find_new=find_new_modules, **arguments
        )
        model.config.ctc_loss_reduction, model.config.ctc_zero_infinity = "mean", True
        _settle(model, processor.feature_extractor, dropout, shortest_seconds, warp_spectrum)
        positions = count_mask_positions(processor.feature_extractor)
        return TaskModel(
            model,
            head_modules=("lm_head",),
            load_arguments=arguments,
            mask_positions=positions,
            notes=loaded.notes,
            answers_untuned=not loaded.new,
        )
    if config.model_type not in MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES:
        raise UserError(
            f"checkpoint {checkpoint.name} is of type {config.model_type}, which recognises no speech in transformers "
            f"{transformers.__version__}; choose a Wav2Vec2-, HuBERT-, WavLM- or Whisper-style checkpoint"
        )
    remedy = "choose one with its output layer"
    model, loaded = load_model(
        AutoModelForSpeechSeq2Seq, checkpoint, attention_kernel, trust_remote_code, remedy=remedy
    )
    language = getattr(processor.tokenizer, "language", None)
    if language is None and knows_many_languages(processor.tokenizer):
        raise UserError(f"checkpoint {checkpoint.name} knows many languages; name yours: --model.language english")
    if language:
        model.generation_config.language, model.generation_config.task = language, "transcribe"
        model.generation_config.forced_decoder_ids = None
    _settle(model, processor.feature_extractor, dropout, shortest_seconds, warp_spectrum)
    positions = count_mask_positions(processor.feature_extractor)
    return TaskModel(model, mask_positions=positions, notes=loaded.notes, answers_untuned=True)


def build_audio_classifier(
    checkpoint: Checkpoint,
    feature_extractor: Any,
    *,
    label_names: Sequence[str],
    shortest_seconds: float,
    dropout: float,
    warp_spectrum: bool,
    attention_kernel: str | None,
    trust_remote_code: bool,
) -> TaskModel:
    """Load a checkpoint and put a classification head of its own kind on it.

    Args:
        checkpoint: Where its files are.
        feature_extractor: What turns samples into its numbers.
        label_names: Names of the classes.
        shortest_seconds: Length of the shortest training recording.
        dropout: Dropout inside the checkpoint.
        warp_spectrum: Whether training goes through `warp_spectra`.
        attention_kernel: eager, sdpa, flash_attention_2; where the architecture lacks it, its own choice.
        trust_remote_code: Whether to run the checkpoint's own Python code.

    Raises:
        UserError: If the architecture has no audio classifier.
    """
    from transformers import AutoModelForAudioClassification

    config = load_config_for(
        AutoModelForAudioClassification,
        checkpoint,
        trust_remote_code,
        lacks="has no audio classifier",
        choose="a Wav2Vec2-, Whisper- or AST-style checkpoint",
    )
    model, loaded, arguments = load_labelled_model(
        AutoModelForAudioClassification, checkpoint, config, label_names, attention_kernel, trust_remote_code
    )
    _settle(model, feature_extractor, dropout, shortest_seconds, warp_spectrum)
    sizes = {name: sum(p.numel() for p in child.parameters()) for name, child in model.named_children()}
    body = max(sizes, key=sizes.__getitem__)
    heads = tuple(name for name, size in sizes.items() if size and name != body)
    positions = count_mask_positions(feature_extractor)
    return TaskModel(model, head_modules=heads, load_arguments=arguments, mask_positions=positions, notes=loaded.notes)


# From scratch --------------------------------------------------------------------------------------------------------


def build_scratch_whisper(
    texts: Sequence[str], longest_seconds: float, model: ScratchWhisper, attention_kernel: str | None
) -> tuple[Any, TaskModel]:
    """Return a processor and a small Whisper (Radford et al. 2022) whose decoder writes bytes.

    Args:
        texts: The training texts, which tell how long one may become.
        longest_seconds: Recordings are padded and cut to this window, rounded up to whole seconds, 30 at most.
        model: Width, layers of encoder and decoder each, heads, dropout.
        attention_kernel: eager or sdpa.
    """
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperProcessor,
    )

    window = min(max(1, -int(-longest_seconds // 1)), _LONGEST_WINDOW_SECONDS)
    tokenizer = _build_byte_tokenizer()
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in tokenizer.all_special_tokens}
    end, start = ids["<|endoftext|>"], ids["<|startoftranscript|>"]
    positions = 2 * max(len(tokenizer(text)["input_ids"]) for text in texts) + 2
    common = {"pad_token_id": end, "bos_token_id": end, "eos_token_id": end, "decoder_start_token_id": start}
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        num_mel_bins=80,
        d_model=model.width,
        encoder_layers=model.layers,
        decoder_layers=model.layers,
        encoder_attention_heads=model.heads,
        decoder_attention_heads=model.heads,
        encoder_ffn_dim=model.inner_width or 4 * model.width,
        decoder_ffn_dim=model.inner_width or 4 * model.width,
        max_source_positions=window * FRAMES_PER_SECOND,
        max_target_positions=positions,
        dropout=model.dropout,
        suppress_tokens=None,
        begin_suppress_tokens=None,
        **common,
    )
    network = WhisperForConditionalGeneration._from_config(config, attn_implementation=attention_kernel)
    network.generation_config = GenerationConfig(
        **common,
        max_length=positions,
        is_multilingual=False,
        no_timestamps_token_id=ids["<|notimestamps|>"],
        return_timestamps=False,
    )
    extractor = WhisperFeatureExtractor(feature_size=80, sampling_rate=_SAMPLING_RATE, chunk_length=window)
    if model.warp_spectrum:
        warp_while_training(network, extractor)
    notes = (f"windows of {window} s; it writes bytes, at most {positions} of them",)
    return WhisperProcessor(extractor, tokenizer), TaskModel(network, notes=notes)


def build_scratch_conformer(
    model: ScratchConformer,
    attention_kernel: str | None,
    *,
    texts: Sequence[str] | None = None,
    label_names: Sequence[str] | None = None,
) -> tuple[Any, TaskModel]:
    """Return a processor and a small Conformer (Gulati et al. 2020) in the form of wav2vec 2.0-BERT.

    It reads 80 log-mel bands in frames of 20 ms. With texts it labels frames with their letters (CTC), with names of
    labels it classifies the mean over the frames.

    Args:
        model: Width, layers, heads, dropout.
        attention_kernel: eager or sdpa.
        texts: The training texts, whose letters become the tokens.
        label_names: Names of the classes.
    """
    from transformers import (
        SeamlessM4TFeatureExtractor,
        Wav2Vec2BertConfig,
        Wav2Vec2BertForCTC,
        Wav2Vec2BertForSequenceClassification,
        Wav2Vec2BertProcessor,
    )

    extractor = SeamlessM4TFeatureExtractor(feature_size=80, sampling_rate=_SAMPLING_RATE, num_mel_bins=80, stride=2)
    tokenizer = build_letter_tokenizer(texts) if texts is not None else None
    config = Wav2Vec2BertConfig(
        vocab_size=len(tokenizer) if tokenizer else None,
        pad_token_id=tokenizer.pad_token_id if tokenizer else 0,
        hidden_size=model.width,
        num_hidden_layers=model.layers,
        num_attention_heads=model.heads,
        intermediate_size=model.inner_width or 2 * model.width,  # each block has two of them
        feature_projection_input_dim=160,
        conv_depthwise_kernel_size=7,
        left_max_position_embeddings=16,
        right_max_position_embeddings=16,
        layerdrop=0.0,
        hidden_dropout=model.dropout,
        attention_dropout=model.dropout,
        feat_proj_dropout=model.dropout,
        final_dropout=model.dropout,
        apply_spec_augment=False,
        ctc_loss_reduction="mean",
        ctc_zero_infinity=True,
        classifier_proj_size=model.width,
        **(name_labels(label_names) if label_names else {}),
    )
    build = Wav2Vec2BertForCTC if tokenizer else Wav2Vec2BertForSequenceClassification
    try:
        network = build._from_config(config, attn_implementation=attention_kernel)
    except ValueError:  # not every kernel knows its relative positions
        network = build._from_config(config)
    if model.warp_spectrum:
        warp_while_training(network, extractor)
    return (Wav2Vec2BertProcessor(extractor, tokenizer) if tokenizer else extractor), TaskModel(network)


def build_letter_tokenizer(texts: Sequence[str]) -> Any:
    """Return a CTC tokenizer of the letters of texts, a blank between words written as `|`.

    Raises:
        UserError: If a text holds the sign that stands for a blank.
    """
    import json
    import tempfile
    from pathlib import Path

    from transformers import Wav2Vec2CTCTokenizer

    letters = sorted({letter for text in texts for letter in text} - {" "})
    if "|" in letters:
        raise UserError("a text holds |, which stands for the blank between words; take it out")
    vocabulary = {letter: place for place, letter in enumerate(["<pad>", "<unk>", "|", *letters])}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "vocab.json")
        file.write_text(json.dumps(vocabulary), encoding="utf-8")
        return Wav2Vec2CTCTokenizer(str(file), bos_token=None, eos_token=None, pad_token="<pad>", unk_token="<unk>")


def warp_while_training(model: nn.Module, feature_extractor: Any) -> None:
    """Let a model see each training spectrogram through `warp_spectra`, another way each time.

    Args:
        model: Its forward takes spectrograms.
        feature_extractor: What makes them.

    Raises:
        UserError: If it makes none, because the model reads samples.
    """
    name = feature_extractor.model_input_names[0]
    window = measure_window_seconds(feature_extractor)
    if name == "input_values" and window is None:
        raise UserError("model.warp_spectrum: this checkpoint reads samples, not a spectrogram; leave it out")
    frame_axis = 2 if hasattr(feature_extractor, "nb_max_frames") else 1  # Whisper's frames come last
    stacked = getattr(feature_extractor, "stride", 1)

    def warp(module: nn.Module, positional: tuple, named: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        if not module.training:
            return None
        features = named[name].transpose(1, frame_axis)  # (rows, frames, frequencies)
        rows, frames, width = features.shape
        warped = warp_spectra(features.reshape(rows, frames * stacked, width // stacked))
        return positional, {**named, name: warped.reshape(rows, frames, width).transpose(1, frame_axis)}

    model.register_forward_pre_hook(warp, with_kwargs=True)


def warp_spectra(features: Tensor) -> Tensor:
    """Change log-mel spectrograms as another speaker and another recording would.

    Speed by up to 20 %, a later beginning, frequencies by up to 10 % (vocal tract length, Jaitly & Hinton 2013), then
    SpecAugment's masks (Park et al. 2019): two bands of frames and two of frequencies take the spectrogram's mean.

    Args:
        features: Shape (rows, frames, frequencies).

    Returns:
        Like features.
    """
    import torch
    from torch.nn import functional

    rows, frames, frequencies = features.shape

    def draw(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(rows, 1, device=features.device)

    grid = torch.zeros(rows, 2, 3, device=features.device, dtype=features.dtype)
    speed, pitch = draw(0.8, 1.2)[:, 0], draw(0.9, 1.1)[:, 0]
    grid[:, 0, 0], grid[:, 0, 2] = pitch, draw(-0.04, 0.04)[:, 0]
    grid[:, 1, 1], grid[:, 1, 2] = speed, speed - 1 - draw(0.0, 0.25)[:, 0]  # the first frame stays first, or later
    places = functional.affine_grid(grid, [rows, 1, frames, frequencies], align_corners=False)
    features = functional.grid_sample(features[:, None], places, padding_mode="border", align_corners=False)[:, 0]
    mean = features.mean(dim=(1, 2), keepdim=True)
    for axis, size, share in ((1, frames, 0.12), (2, frequencies, 0.2)) * 2:
        width = draw(0, share * size)
        start = draw(0, 1) * (size - width)
        place = torch.arange(size, device=features.device)
        masked = (place >= start) & (place < start + width)  # (rows, size)
        features = torch.where(masked.unsqueeze(2 if axis == 1 else 1), mean, features)
    return features


def _build_byte_tokenizer() -> Any:
    """Return a Whisper tokenizer whose tokens are the 256 bytes."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import WhisperTokenizer

    special = ["<|endoftext|>", "<|startoftranscript|>", "<|translate|>", "<|transcribe|>", "<|startoflm|>"]
    special += ["<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
    vocabulary = {token: place for place, token in enumerate([*sorted(ByteLevel.alphabet()), special[0]])}
    tokenizer = WhisperTokenizer(vocab=vocabulary, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": special[1:]})
    tokenizer.set_prefix_tokens()  # it looked them up when it was made
    return tokenizer


def _settle(model: Any, feature_extractor: Any, dropout: float, shortest_seconds: float, warp_spectrum: bool) -> None:
    """Set dropout and warping, drop no layers, and mask nothing where a mask would be longer than a recording."""
    set_dropout(model, dropout)
    config = model.config
    if hasattr(config, "layerdrop"):
        config.layerdrop = 0.0
    if getattr(config, "mask_time_length", 0) >= shortest_seconds * FRAMES_PER_SECOND:
        config.apply_spec_augment = False
    if warp_spectrum:
        warp_while_training(model, feature_extractor)
