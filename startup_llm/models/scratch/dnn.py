from __future__ import annotations

import itertools
import re
import zlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from startup_llm.errors import UserError
from startup_llm.models.scratch.checks import check_at_least, check_choice, check_probability
from startup_llm.models.scratch.losses import build_output

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,  # max(0, z) (Nair & Hinton 2010, section 2)
    "sigmoid": torch.sigmoid,  # 1 / (1 + e^-z)
    "tanh": torch.tanh,  # (e^z - e^-z) / (e^z + e^-z)
}


def hash_ngrams(text: str, buckets: int, longest: int = 2) -> list[int]:
    """Turn a text into the numbers of its word n-grams, without a vocabulary (Joulin et al. 2017, section 2.2).

    A word is a run of letters, digits and underscores, lower-cased; an n-gram's number is CRC-32 of its UTF-8 bytes
    modulo `buckets`, the same on every machine and in every process.

    Args:
        text: Any text.
        buckets: How many numbers there are; two n-grams may share one.
        longest: Largest n; 2 gives words and pairs of neighbouring words.

    Returns:
        Numbers in [0, buckets): all the words in order, then all the pairs, and so on.

    Raises:
        UserError: if buckets or longest is below 1.
    """
    check_at_least(1, buckets=buckets, longest=longest)
    words = re.findall(r"\w+", text.lower())
    ngrams = [" ".join(words[i : i + n]) for n in range(1, longest + 1) for i in range(len(words) - n + 1)]
    return [zlib.crc32(ngram.encode()) % buckets for ngram in ngrams]


def encode_ngrams(texts: Sequence[str], buckets: int, longest: int = 2) -> Tensor:
    """Hash the n-grams of several texts and pad them to one length with the number `buckets`, which `TextDnn` skips.

    Returns:
        Shape (batch, n-grams of the longest text, at least 1), int64.
    """
    rows = [torch.tensor(hash_ngrams(text, buckets, longest), dtype=torch.int64) for text in texts]
    rows.append(torch.full((1,), buckets))  # gives the padded table at least one column
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=buckets)[:-1]


class Dnn(nn.Module):
    """A stack of layers z = W x + b, a = f(z); the last one has no activation, its z are the logits.

    Rumelhart, Hinton & Williams 1986, equations 1 (z) and 2 (f, there the sigmoid).

    Args:
        sizes: Width of the input, of each hidden layer and of the output, such as (784, 128, 10).
        activation: relu, sigmoid or tanh.
        dropout: Probability of dropping a hidden unit.

    Raises:
        UserError: if there are fewer than two sizes, one is below 1, or the activation is unknown.
    """

    def __init__(self, sizes: Sequence[int], activation: str = "relu", dropout: float = 0.0) -> None:
        super().__init__()
        if len(sizes) < 2:
            raise UserError(f"sizes ({list(sizes)}) must give an input and an output width, such as (784, 128, 10)")
        for size in sizes:
            check_at_least(1, size=size)
        check_choice("activation", activation, ACTIVATIONS)
        check_probability(dropout=dropout)
        self.activation_name, self.activation = activation, ACTIVATIONS[activation]
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(nn.Linear(inputs, outputs) for inputs, outputs in itertools.pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs, shape (batch, sizes[0]), to logits, shape (batch, sizes[-1])."""
        *hidden, last = self.layers
        for layer in hidden:
            z = layer(x)  # z = W x + b: (batch, hidden)
            x = self.dropout(self.activation(z))  # a = f(z)
        return last(x)  # (batch, sizes[-1])


class TextDnn(nn.Module):
    """A deep averaging network: the mean of a text's embeddings, then a `Dnn` (Iyyer et al. 2015, section 3).

    The numbers in `input_ids` are either hashed n-grams (`encode_ngrams` with buckets=vocab_size; without hidden
    layers this is fastText, Joulin et al. 2017) or a tokenizer's token ids.

    Args:
        vocab_size: How many numbers there are. The number `vocab_size` itself is padding.
        classes: Number of classes.
        width: Width of an embedding.
        hidden: Widths of the hidden layers; () for none.
        activation: relu, sigmoid or tanh.
        dropout: Probability of dropping a unit.

    Raises:
        UserError: if a size is below 1 or the activation is unknown.
    """

    def __init__(
        self,
        vocab_size: int,
        classes: int,
        width: int = 64,
        hidden: Sequence[int] = (128,),
        activation: str = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_at_least(1, vocab_size=vocab_size, classes=classes, width=width)
        self.padding = vocab_size
        self.embedding = nn.EmbeddingBag(vocab_size + 1, width, mode="mean", padding_idx=self.padding)
        self.dnn = Dnn((width, *hidden, classes), activation, dropout)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Classify texts.

        Args:
            input_ids: Shape (batch, seq), int64.
            attention_mask: 1 for real tokens, 0 for padding, shape (batch, seq).
            labels: See `losses.compute_classification_loss`.

        Returns:
            logits, shape (batch, classes), and, where labels are given, loss.
        """
        if attention_mask is not None:
            input_ids = input_ids.masked_fill(attention_mask == 0, self.padding)
        mean = self.embedding(input_ids)  # (1 / n) Σ e_i over real tokens: (batch, width)
        return build_output(self.dnn(mean), labels)


class ImageDnn(nn.Module):
    """A `Dnn` over an image's pixels laid in one row.

    Args:
        image_size: Height and width of the images, in pixels.
        channels: 1 for grey, 3 for colour.
        classes: Number of classes.
        hidden: Widths of the hidden layers.
        activation: relu, sigmoid or tanh.
        dropout: Probability of dropping a hidden unit.

    Raises:
        UserError: if a size is below 1, the activation is unknown, or an image has another shape.
    """

    def __init__(
        self,
        image_size: int,
        channels: int,
        classes: int,
        hidden: Sequence[int] = (256,),
        activation: str = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_at_least(1, image_size=image_size, channels=channels, classes=classes)
        self.image_shape = (channels, image_size, image_size)
        self.dnn = Dnn((channels * image_size * image_size, *hidden, classes), activation, dropout)

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """Classify images.

        Args:
            pixel_values: Shape (batch, channels, image_size, image_size).
            labels: See `losses.compute_classification_loss`.

        Returns:
            logits, shape (batch, classes), and, where labels are given, loss.

        Raises:
            UserError: if an image has another shape.
        """
        if tuple(pixel_values.shape[1:]) != self.image_shape:
            raise UserError(f"image of shape {tuple(pixel_values.shape[1:])} given, {self.image_shape} expected")
        return build_output(self.dnn(pixel_values.flatten(1)), labels)
