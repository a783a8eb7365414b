"""The two text classifiers from scratch: what cuts their texts into numbers, how they are built, saved and loaded."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from startup_llm.errors import UserError
from startup_llm.models.scratch import formats
from startup_llm.models.scratch.checks import check_at_least, check_choice
from startup_llm.models.scratch.dnn import TextDnn, hash_ngrams
from startup_llm.models.scratch.transformer import Encoder, SequenceClassifier

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerFast

DESCRIPTION = "startup_llm.json"
"""The file that tells a folder of `save_text_classifier` from a checkpoint of transformers."""

TOKENIZERS = ("wordpiece", "bpe")


class NgramHasher:
    """Hashes n-grams where a tokenizer would cut tokens: the same call, so that rows are encoded in one way.

    Args:
        buckets: How many numbers there are; the number `buckets` itself is padding.
        longest: Words in the longest n-gram.
        model_max_length: Longer rows of n-grams are cut; words come before pairs.

    Raises:
        UserError: if a size is below 1.
    """

    def __init__(self, buckets: int, longest: int = 2, model_max_length: int = 256) -> None:
        check_at_least(1, vocab_size=buckets, longest_ngram=longest, max_length_tokens=model_max_length)
        self.buckets, self.longest, self.model_max_length = buckets, longest, model_max_length

    def __call__(
        self,
        text: str | Sequence[str],
        text_pair: str | Sequence[str] | None = None,
        truncation: bool = False,
        max_length: int | None = None,
        verbose: bool = True,
    ) -> dict[str, list]:
        """Encode a text, a pair, or several of them; a text without words gets one padding number.

        Args:
            text: One text or several.
            text_pair: The second texts, where there are pairs; a pair is hashed as one text, a line each.
            truncation: Whether to cut.
            max_length: Numbers to keep; default `model_max_length`.
            verbose: Taken because tokenizers take it.

        Returns:
            input_ids and attention_mask: a list, or a list per text.
        """
        if isinstance(text, str):
            rows = self([text], None if text_pair is None else [str(text_pair)], truncation, max_length)
            return {name: values[0] for name, values in rows.items()}
        texts = text if text_pair is None else [f"{a}\n{b}" for a, b in zip(text, text_pair, strict=True)]
        ids = [hash_ngrams(line, self.buckets, self.longest) or [self.buckets] for line in texts]
        if truncation:
            ids = [row[: max_length or self.model_max_length] for row in ids]
        return {"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids]}

    def pad(self, features: Sequence[dict[str, Any]], **_: Any) -> dict[str, Tensor]:
        """Make a batch: rows padded on the right, labels stacked; as a tokenizer's `pad` does."""
        length = max(len(row["input_ids"]) for row in features)
        fill = {"input_ids": self.buckets, "attention_mask": 0}
        batch = {
            name: torch.tensor([row[name] + [value] * (length - len(row[name])) for row in features])
            for name, value in fill.items()
        }
        if "labels" in features[0]:
            labels = torch.tensor([row["labels"] for row in features])
            batch["labels"] = labels.float() if labels.is_floating_point() else labels
        return batch

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write ngrams.json."""
        content = {"buckets": self.buckets, "longest": self.longest, "model_max_length": self.model_max_length}
        Path(folder, "ngrams.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def build_text_dnn(
    hasher: NgramHasher,
    classes: int,
    width: int,
    hidden: Sequence[int] = (),
    dropout: float = 0.0,
    activation: str = "relu",
) -> TextDnn:
    """Build a `TextDnn` over a hasher's numbers.

    Its embeddings start in U(-1/width, 1/width), as fastText's do: at PyTorch's N(0, 1) the n-grams that were seen
    once or never would stay noise louder than what is learned.
    """
    model = TextDnn(hasher.buckets, classes, width, tuple(hidden), activation, dropout)
    with torch.no_grad():
        model.embedding.weight.uniform_(-1 / width, 1 / width)
        model.embedding.weight[model.padding] = 0
    return model


def build_text_transformer(
    tokenizer: PreTrainedTokenizerFast, classes: int, *, dropout: float = 0.1, **sizes: Any
) -> SequenceClassifier:
    """Build an `Encoder` over a tokenizer's ids, with a linear classifier on the mean of its token vectors.

    Args:
        tokenizer: Gives the number of ids and of positions.
        classes: Number of classes.
        dropout: Dropout probability.
        sizes: Further arguments of `Encoder`.
    """
    encoder = Encoder(len(tokenizer), max_length_tokens=tokenizer.model_max_length, dropout=dropout, **sizes)
    return SequenceClassifier(encoder, classes, dropout)


def train_tokenizer(
    texts: Iterable[str], kind: str, vocab_size: int, max_length_tokens: int
) -> PreTrainedTokenizerFast:
    """Train a lower-casing tokenizer that frames a text as BERT does: `[CLS] text [SEP]`, a pair with one more.

    Args:
        texts: What it may learn from: the training split, nothing else.
        kind: wordpiece (Schuster & Nakajima 2012, with BERT's rules for words) or bpe over bytes (Sennrich et al.
            2016; Radford et al. 2019).
        vocab_size: Largest number of tokens, special ones included.
        max_length_tokens: Its `model_max_length`.

    Raises:
        UserError: if the kind is unknown or there is no room for the special tokens.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    check_choice("tokenizer", kind, TOKENIZERS)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    alphabet = pre_tokenizers.ByteLevel.alphabet() if kind == "bpe" else []
    check_at_least(len(special) + max(len(alphabet), 1), vocab_size=vocab_size)
    if kind == "bpe":
        tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
        trainer: trainers.Trainer = trainers.BpeTrainer(
            vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
    else:
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        # the trainer meets these in the order of a hash, and each process would number its tokens otherwise
        first = [*special, *_list_inner_characters(tokenizer, texts := list(texts))]
        trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=first, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    if kind == "wordpiece":  # learnt first, but no special tokens
        vocabulary, parts = tokenizer.get_vocab(), tokenizer
        tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
        for name in ("normalizer", "pre_tokenizer", "decoder"):
            setattr(tokenizer, name, getattr(parts, name))
        tokenizer.add_special_tokens(special)
    ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length_tokens,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )


def _list_inner_characters(tokenizer: Any, texts: Iterable[str]) -> list[str]:
    """Return `##` and each character that stands inside a word, sorted."""
    normalize, cut = tokenizer.normalizer.normalize_str, tokenizer.pre_tokenizer.pre_tokenize_str
    words = {word for text in texts for word, _ in cut(normalize(text))}
    return [f"##{character}" for character in sorted({character for word in words for character in word[1:]})]


def save_text_classifier(
    model: TextDnn | SequenceClassifier,
    tokenizer: Any,
    label_names: Sequence[str],
    folder: str | os.PathLike[str],
    problem_type: str = "single_label_classification",
) -> None:
    """Write a classifier, what encodes its texts, and the names of its classes.

    An encoder is written as a BERT checkpoint with its tokenizer, which `transformers.AutoModel` loads and
    fine-tuning can start from, and the linear classifier on the mean beside it: BERT's own classifier reads the first
    token through a tanh and cannot express the mean.

    Args:
        model: A `TextDnn` or a `SequenceClassifier`.
        tokenizer: The `NgramHasher` or the tokenizer that it was trained with.
        label_names: Names of the classes; empty for a number.
        folder: Made if it is not there.
        problem_type: As `PretrainedConfig.problem_type`.
    """
    from safetensors.torch import save_file

    Path(folder).mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {"label_names": list(label_names), "problem_type": problem_type}
    if isinstance(model, TextDnn):
        layers = model.dnn.layers
        content |= {"kind": "dnn", "width": model.embedding.embedding_dim, "classes": layers[-1].out_features}
        content["hidden"] = [layer.out_features for layer in layers[:-1]]
        content["activation"] = model.dnn.activation_name
        formats._write_folder(folder, {"model_type": "startup_llm-text-dnn"}, model.state_dict())
    else:
        content |= {"kind": "transformer", "classes": model.classifier.out_features}
        formats.save_encoder(model.encoder, folder, tokenizer.pad_token_id)
        classifier = {name: tensor.cpu() for name, tensor in model.classifier.state_dict().items()}
        save_file(classifier, Path(folder, "classifier.safetensors"))
    tokenizer.save_pretrained(folder)
    Path(folder, DESCRIPTION).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def holds_text_classifier(folder: str | os.PathLike[str]) -> bool:
    """Say whether `save_text_classifier` wrote the folder."""
    return Path(folder, DESCRIPTION).is_file()


def load_text_classifier(
    folder: str | os.PathLike[str],
) -> tuple[TextDnn | SequenceClassifier, NgramHasher | PreTrainedTokenizerFast, list[str]]:
    """Read what `save_text_classifier` wrote.

    Returns:
        The model in evaluation mode, its labels and problem type in `config`; what encodes its texts; and the names
        of its classes.

    Raises:
        UserError: if the folder holds no such model, or a file is missing.
    """
    if not holds_text_classifier(folder):
        raise UserError(f"{folder} has no {DESCRIPTION}; give the model folder of a run of recipes/pretrain.py")
    content = json.loads(Path(folder, DESCRIPTION).read_text(encoding="utf-8"))
    model: TextDnn | SequenceClassifier
    if content["kind"] == "dnn":
        hasher = NgramHasher(**json.loads(Path(folder, "ngrams.json").read_text(encoding="utf-8")))
        sizes = (content["classes"], content["width"], content["hidden"])
        model = build_text_dnn(hasher, *sizes, activation=content.get("activation", "relu"))
        model.load_state_dict(formats._read_tensors(folder, ""))
        model.config = _build_config(content)
        return model.eval(), hasher, content["label_names"]
    from safetensors.torch import load_file
    from transformers import AutoTokenizer

    model = SequenceClassifier(formats.load_encoder(folder), content["classes"])
    model.classifier.load_state_dict(load_file(Path(folder, "classifier.safetensors")))
    model.config = _build_config(content)
    return model.eval(), AutoTokenizer.from_pretrained(folder), content["label_names"]


def _build_config(content: dict[str, Any]) -> PretrainedConfig:
    from transformers import PretrainedConfig

    names = content["label_names"] or ["LABEL_0"]
    return PretrainedConfig(id2label=dict(enumerate(names)), problem_type=content["problem_type"])
