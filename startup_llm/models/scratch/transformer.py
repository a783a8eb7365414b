from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from startup_llm.errors import UserError
from startup_llm.models.scratch.attention import KeyValueCache, MultiHeadAttention
from startup_llm.models.scratch.checks import (
    check_at_least,
    check_choice,
    check_heads,
    check_length,
    check_probability,
)
from startup_llm.models.scratch.losses import build_output, compute_token_loss


def gelu(x: Tensor) -> Tensor:
    """Return x Φ(x), Φ the normal distribution function (Hendrycks & Gimpel 2016, section 2)."""
    return F.gelu(x)


def gelu_new(x: Tensor) -> Tensor:
    """Return 0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³))), GPT-2's approximation of `gelu` (same paper, section 2)."""
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu, "gelu": gelu, "gelu_new": gelu_new}
NORMS = ("post", "pre")


class FeedForward(nn.Module):
    """The position-wise feed-forward network, FFN(x) = W_2 f(W_1 x + b_1) + b_2 (Vaswani et al. 2017, equation 2).

    Args:
        width: Width of the token vectors.
        inner_width: Width between the two layers.
        activation: f: relu, gelu or gelu_new.

    Raises:
        UserError: if a width is below 1 or the activation is unknown.
    """

    def __init__(self, width: int, inner_width: int, activation: str) -> None:
        super().__init__()
        check_at_least(1, width=width, inner_width=inner_width)
        check_choice("activation", activation, ACTIVATIONS)
        self.expand = nn.Linear(width, inner_width)
        self.activation = ACTIVATIONS[activation]
        self.contract = nn.Linear(inner_width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, seq, width) to (batch, seq, width), each token by itself."""
        return self.contract(self.activation(self.expand(x)))  # W_2 f(W_1 x + b_1) + b_2


class BlockCache:
    """What one block remembers while tokens are generated one by one."""

    def __init__(self) -> None:
        self.attention = KeyValueCache()
        self.cross_attention = KeyValueCache()


class Block(nn.Module):
    """One transformer layer: attention, in a decoder cross-attention, and a feed-forward network.

    Each of these sublayers stands inside a residual connection and a layer normalization:
    post-norm is LayerNorm(x + Sublayer(x)) (Vaswani et al. 2017, section 3.1; BERT),
    pre-norm is x + Sublayer(LayerNorm(x)) (Radford et al. 2019, section 2.3: GPT-2; Xiong et al. 2020).
    LayerNorm(x) = γ (x - mean(x)) / √(var(x) + norm_eps) + β over each token's vector (Ba et al. 2016, equation 4).

    Args:
        width: Width of the token vectors.
        heads: Number of attention heads.
        inner_width: Width inside the feed-forward network.
        activation: relu, gelu or gelu_new.
        norm: post or pre.
        norm_eps: Added to the variance inside LayerNorm.
        dropout: Probability of dropping an attention weight or an element of a sublayer's output.
        cross_attention: Add the sublayer that attends to the encoder's output.
        kernel: eager or sdpa, see `attention.compute_attention`.

    Raises:
        UserError: if an option is unknown or a width does not fit.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        inner_width: int,
        activation: str,
        norm: str,
        norm_eps: float,
        dropout: float = 0.0,
        cross_attention: bool = False,
        kernel: str = "eager",
    ) -> None:
        super().__init__()
        check_choice("norm", norm, NORMS)
        self.norm = norm
        self.attention = MultiHeadAttention(width, heads, dropout, kernel)
        self.attention_norm = nn.LayerNorm(width, norm_eps)
        if cross_attention:
            self.cross_attention = MultiHeadAttention(width, heads, dropout, kernel)
            self.cross_attention_norm = nn.LayerNorm(width, norm_eps)
        self.feed_forward = FeedForward(width, inner_width, activation)
        self.feed_forward_norm = nn.LayerNorm(width, norm_eps)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        causal: bool = False,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        cache: BlockCache | None = None,
    ) -> Tensor:
        """Update every token's vector.

        Args:
            x: Shape (batch, seq, width).
            mask: 1 or True where a token of x may be attended to, shape (batch, seq seen so far).
            causal: Forbid attention to later tokens of x.
            context: The encoder's output, one vector per source token, shape (batch, source, width).
            context_mask: 1 or True where a source token may be attended to, shape (batch, source).
            cache: Keys and values of the tokens before x; filled here.

        Returns:
            Shape (batch, seq, width).
        """
        own, cross = (cache.attention, cache.cross_attention) if cache else (None, None)
        x = self._residual(x, self.attention_norm, lambda y: self.attention(y, mask=mask, causal=causal, cache=own))
        if context is not None:
            x = self._residual(
                x, self.cross_attention_norm, lambda y: self.cross_attention(y, context, context_mask, cache=cross)
            )
        return self._residual(x, self.feed_forward_norm, self.feed_forward)

    def _residual(self, x: Tensor, norm: nn.Module, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        if self.norm == "pre":
            return x + self.dropout(sublayer(norm(x)))  # x + Sublayer(LayerNorm(x))
        return norm(x + self.dropout(sublayer(x)))  # LayerNorm(x + Sublayer(x))


class Encoder(nn.Module):
    """A bidirectional transformer that gives one vector per token: BERT without its pooler (Devlin et al. 2019).

    Args:
        vocab_size: Number of token ids.
        width: Width of the token vectors.
        heads: Number of attention heads.
        layers: Number of blocks.
        inner_width: Width inside the feed-forward networks; default 4 * width.
        max_length_tokens: Number of learned positions.
        token_types: Number of token types (first and second sentence of a pair).
        activation: relu, gelu or gelu_new.
        norm_eps: Added to the variance inside LayerNorm.
        dropout: Dropout probability.
        kernel: eager or sdpa, see `attention.compute_attention`.

    Raises:
        UserError: if an option is unknown or a size does not fit.
    """

    def __init__(
        self,
        vocab_size: int,
        width: int = 128,
        heads: int = 4,
        layers: int = 4,
        inner_width: int | None = None,
        max_length_tokens: int = 512,
        token_types: int = 2,
        activation: str = "gelu",
        norm_eps: float = 1e-12,
        dropout: float = 0.1,
        kernel: str = "eager",
    ) -> None:
        super().__init__()
        check_heads(width, heads)
        check_at_least(
            1, vocab_size=vocab_size, layers=layers, max_length_tokens=max_length_tokens, token_types=token_types
        )
        check_probability(dropout=dropout)
        inner_width = 4 * width if inner_width is None else inner_width
        self.vocab_size, self.width, self.heads, self.inner_width = vocab_size, width, heads, inner_width
        self.max_length_tokens, self.token_types = max_length_tokens, token_types
        self.activation, self.norm_eps, self.dropout_probability = activation, norm_eps, dropout
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.position_embedding = nn.Embedding(max_length_tokens, width)
        self.token_type_embedding = nn.Embedding(token_types, width)
        self.embedding_norm = nn.LayerNorm(width, norm_eps)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(width, heads, inner_width, activation, "post", norm_eps, dropout, kernel=kernel)
            for _ in range(layers)
        )
        initialize_normal(self)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """Encode texts.

        Args:
            input_ids: Token ids, shape (batch, seq), int64.
            attention_mask: 1 for real tokens, 0 for padding, shape (batch, seq).
            token_type_ids: Shape (batch, seq), int64; default all 0.

        Returns:
            The last block's output, shape (batch, seq, width).

        Raises:
            UserError: if seq is above max_length_tokens.
        """
        check_length(input_ids.shape[1], self.max_length_tokens)
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids)
        x = (
            self.token_embedding(input_ids)
            + self.position_embedding(compute_positions(input_ids, attention_mask))
            + self.token_type_embedding(token_type_ids)
        )  # (batch, seq, width)
        x = self.dropout(self.embedding_norm(x))
        for block in self.blocks:
            x = block(x, mask=attention_mask)
        return x


class SequenceClassifier(nn.Module):
    """A linear classifier on the mean of an encoder's token vectors (MEAN of Reimers & Gurevych 2019, section 3).

    Args:
        encoder: Gives one vector per token.
        classes: Number of classes.
        dropout: Dropout probability on the mean.

    Raises:
        UserError: if classes is below 1 or dropout is no probability.
    """

    def __init__(self, encoder: Encoder, classes: int, dropout: float = 0.1) -> None:
        super().__init__()
        check_at_least(1, classes=classes)
        check_probability(dropout=dropout)
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(encoder.width, classes)
        initialize_normal(self.classifier)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Classify texts.

        Args:
            input_ids: Token ids, shape (batch, seq), int64.
            attention_mask: 1 for real tokens, 0 for padding, shape (batch, seq).
            token_type_ids: Shape (batch, seq), int64.
            labels: See `losses.compute_classification_loss`.

        Returns:
            logits, shape (batch, classes), and, where labels are given, loss.
        """
        hidden = self.encoder(input_ids, attention_mask, token_type_ids)  # (batch, seq, width)
        mean = compute_mean_pooling(hidden, attention_mask)  # (batch, width)
        return build_output(self.classifier(self.dropout(mean)), labels)


class Decoder(nn.Module):
    """A causal language model, P(x) = Π_t P(x_t | x_<t): GPT-2 (Radford et al. 2019, section 2).

    The output matrix is the embedding matrix (tied weights).

    Args:
        vocab_size: Number of token ids.
        width: Width of the token vectors.
        heads: Number of attention heads.
        layers: Number of blocks.
        inner_width: Width inside the feed-forward networks; default 4 * width.
        max_length_tokens: Number of learned positions.
        activation: relu, gelu or gelu_new.
        norm_eps: Added to the variance inside LayerNorm.
        dropout: Dropout probability.
        kernel: eager or sdpa, see `attention.compute_attention`.

    Raises:
        UserError: if an option is unknown or a size does not fit.
    """

    def __init__(
        self,
        vocab_size: int,
        width: int = 128,
        heads: int = 4,
        layers: int = 4,
        inner_width: int | None = None,
        max_length_tokens: int = 1024,
        activation: str = "gelu_new",
        norm_eps: float = 1e-5,
        dropout: float = 0.1,
        kernel: str = "eager",
    ) -> None:
        super().__init__()
        check_heads(width, heads)
        check_at_least(1, vocab_size=vocab_size, layers=layers, max_length_tokens=max_length_tokens)
        check_probability(dropout=dropout)
        inner_width = 4 * width if inner_width is None else inner_width
        self.vocab_size, self.width, self.heads, self.inner_width = vocab_size, width, heads, inner_width
        self.max_length_tokens = max_length_tokens
        self.activation, self.norm_eps, self.dropout_probability = activation, norm_eps, dropout
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.position_embedding = nn.Embedding(max_length_tokens, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(width, heads, inner_width, activation, "pre", norm_eps, dropout, kernel=kernel)
            for _ in range(layers)
        )
        self.final_norm = nn.LayerNorm(width, norm_eps)
        initialize_normal(self)
        for block in self.blocks:  # 2 * layers sums flow into the residual path: keep its variance (section 2.3)
            nn.init.normal_(block.attention.out.weight, std=0.02 / math.sqrt(2 * layers))
            nn.init.normal_(block.feed_forward.contract.weight, std=0.02 / math.sqrt(2 * layers))

    def build_cache(self) -> list[BlockCache]:
        """Return an empty cache to pass to `forward`."""
        return [BlockCache() for _ in self.blocks]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        cache: list[BlockCache] | None = None,
    ) -> dict[str, Tensor]:
        """Predict each next token.

        Args:
            input_ids: Token ids, shape (batch, seq), int64; with a filled cache only the new ones.
            attention_mask: 1 for real tokens, 0 for padding (on either side), shape (batch, seen + seq).
            labels: Usually input_ids itself: the shift by one happens here. Shape (batch, seq), int64; -100 and
                padding do not count.
            cache: From `build_cache`; filled here.

        Returns:
            logits of the token after each position, shape (batch, seq, vocab), and, where labels are given, loss.

        Raises:
            UserError: if there are more than max_length_tokens tokens.
        """
        logits = self._compute_logits(self._compute_hidden(input_ids, attention_mask, cache))
        if labels is None:
            return {"logits": logits}
        if attention_mask is not None:
            labels = labels.masked_fill(attention_mask == 0, -100)
        return {"loss": compute_token_loss(logits[:, :-1], labels[:, 1:]), "logits": logits}

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        max_new_tokens: int,
        attention_mask: Tensor | None = None,
        temperature: float = 0.0,
        top_k: int | None = None,
        eos_token_id: int | None = None,
        pad_token_id: int = 0,
        generator: torch.Generator | None = None,
        use_cache: bool = True,
    ) -> Tensor:
        """Continue prompts.

        Args:
            input_ids: Prompts, shape (batch, prompt), int64, shorter ones padded on the left.
            max_new_tokens: How many tokens to add at most.
            attention_mask: 1 for real tokens, 0 for padding, shape (batch, prompt).
            temperature: 0 takes the most probable token; above 0 draws from softmax(logits / temperature).
            top_k: Draw among the top_k most probable tokens only.
            eos_token_id: A text ends with this token; pad_token_id follows it.
            pad_token_id: Fills ended texts.
            generator: Source of randomness.
            use_cache: Keep keys and values, so that each step computes only the new token. Same result.

        Returns:
            Prompts and continuations, shape (batch, prompt + at most max_new_tokens), int64.

        Raises:
            UserError: if a prompt is empty or padded on the right, the result would be longer than max_length_tokens,
                or temperature or top_k is out of range.
        """
        check_at_least(1, prompt_tokens=input_ids.shape[1], max_new_tokens=max_new_tokens)
        check_at_least(0, temperature=temperature)
        check_length(input_ids.shape[1] + max_new_tokens, self.max_length_tokens)
        if top_k is not None:
            check_at_least(1, top_k=top_k)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        elif not bool(attention_mask[:, -1].all()):
            row = int(attention_mask[:, -1].argmin())
            raise UserError(f"prompt {row} ends in padding; pad prompts on the left (padding_side='left')")
        cache = self.build_cache() if use_cache else None
        ended = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)  # (batch,)
        new = input_ids  # what the model has not seen yet
        with evaluating(self):
            for _ in range(max_new_tokens):
                hidden = self._compute_hidden(new if use_cache else input_ids, attention_mask, cache)
                logits = self._compute_logits(hidden[:, -1]).float()  # (batch, vocab)
                new = _choose(logits, temperature, top_k, generator).masked_fill(ended, pad_token_id)[:, None]
                input_ids = torch.cat([input_ids, new], dim=1)  # (batch, seq + 1)
                attention_mask = torch.cat([attention_mask, torch.ones_like(attention_mask[:, :1])], dim=1)
                if eos_token_id is not None:
                    ended = ended | (new[:, 0] == eos_token_id)
                    if bool(ended.all()):
                        break
        return input_ids

    def _compute_hidden(
        self, input_ids: Tensor, attention_mask: Tensor | None, cache: list[BlockCache] | None
    ) -> Tensor:
        seen = cache[0].attention.length if cache else 0
        check_length(seen + input_ids.shape[1], self.max_length_tokens)
        positions = compute_positions(input_ids, attention_mask, seen)
        x = self.dropout(self.token_embedding(input_ids) + self.position_embedding(positions))  # (batch, seq, width)
        for index, block in enumerate(self.blocks):
            x = block(x, mask=attention_mask, causal=True, cache=cache[index] if cache else None)
        return self.final_norm(x)

    def _compute_logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.token_embedding.weight)  # h W_eᵀ: (..., vocab)


class EncoderDecoder(nn.Module):
    """The transformer of Attention Is All You Need (Vaswani et al. 2017), for text to text.

    The encoder keeps one vector per source token and the decoder's cross-attention reads all of them; nothing is
    squeezed into one vector. As in `torch.nn.Transformer`, a LayerNorm ends each of the two stacks (the paper's
    post-norm stacks end with their last block's).

    Args:
        vocab_size: Number of source token ids.
        target_vocab_size: Number of target token ids; default vocab_size.
        width: Width of the token vectors.
        heads: Number of attention heads.
        encoder_layers: Number of encoder blocks.
        decoder_layers: Number of decoder blocks.
        inner_width: Width inside the feed-forward networks; default 4 * width.
        max_length_tokens: Longest source or target.
        activation: relu, gelu or gelu_new.
        norm: post (the paper) or pre.
        norm_eps: Added to the variance inside LayerNorm.
        dropout: Dropout probability.
        shared_embeddings: One matrix for source embedding, target embedding and output (section 3.4).
        start_token_id: Stands before the first target token.
        eos_token_id: Ends a target.
        pad_token_id: Fills ended targets.
        label_smoothing: ε of the loss while training (section 5.4), see `losses.compute_classification_loss`.
        beams: How many targets per source `generate` keeps where it is not told.
        kernel: eager or sdpa, see `attention.compute_attention`.

    Raises:
        UserError: if an option is unknown, a size does not fit, or shared embeddings are asked for two vocabularies.
    """

    def __init__(
        self,
        vocab_size: int,
        target_vocab_size: int | None = None,
        width: int = 128,
        heads: int = 4,
        encoder_layers: int = 3,
        decoder_layers: int = 3,
        inner_width: int | None = None,
        max_length_tokens: int = 512,
        activation: str = "relu",
        norm: str = "post",
        norm_eps: float = 1e-5,
        dropout: float = 0.1,
        shared_embeddings: bool = True,
        start_token_id: int = 1,
        eos_token_id: int = 2,
        pad_token_id: int = 0,
        label_smoothing: float = 0.0,
        beams: int = 1,
        kernel: str = "eager",
    ) -> None:
        super().__init__()
        target_vocab_size = vocab_size if target_vocab_size is None else target_vocab_size
        inner_width = 4 * width if inner_width is None else inner_width
        check_heads(width, heads)
        check_at_least(1, vocab_size=vocab_size, target_vocab_size=target_vocab_size)
        check_at_least(1, encoder_layers=encoder_layers, decoder_layers=decoder_layers)
        check_at_least(1, max_length_tokens=max_length_tokens, beams=beams)
        check_probability(dropout=dropout, label_smoothing=label_smoothing)
        if width % 2:
            raise UserError(f"width ({width}) must be even for sinusoidal positions; try width={width + 1}")
        if shared_embeddings and vocab_size != target_vocab_size:
            raise UserError(
                f"shared embeddings need one vocabulary, but vocab_size is {vocab_size} and target_vocab_size "
                f"{target_vocab_size}; set shared_embeddings=False"
            )
        for name, token in {"start": start_token_id, "eos": eos_token_id, "pad": pad_token_id}.items():
            if not 0 <= token < target_vocab_size:
                raise UserError(f"{name}_token_id ({token}) must be below target_vocab_size ({target_vocab_size})")
        self.vocab_size, self.width, self.heads, self.inner_width = vocab_size, width, heads, inner_width
        self.max_length_tokens, self.shared_embeddings = max_length_tokens, shared_embeddings
        self.activation, self.norm, self.norm_eps = activation, norm, norm_eps
        self.dropout_probability, self.label_smoothing, self.beams = dropout, label_smoothing, beams
        self.start_token_id, self.eos_token_id, self.pad_token_id = start_token_id, eos_token_id, pad_token_id
        self.source_embedding = nn.Embedding(vocab_size, width)
        if not shared_embeddings:
            self.target_embedding = nn.Embedding(target_vocab_size, width)
            self.output = nn.Linear(width, target_vocab_size, bias=False)
        self.register_buffer(
            "positions", compute_sinusoidal_positions(max_length_tokens, width), persistent=False
        )  # (max_length_tokens, width)
        self.dropout = nn.Dropout(dropout)
        self.encoder_blocks = nn.ModuleList(
            Block(width, heads, inner_width, activation, norm, norm_eps, dropout, kernel=kernel)
            for _ in range(encoder_layers)
        )
        self.encoder_norm = nn.LayerNorm(width, norm_eps)
        self.decoder_blocks = nn.ModuleList(
            Block(width, heads, inner_width, activation, norm, norm_eps, dropout, cross_attention=True, kernel=kernel)
            for _ in range(decoder_layers)
        )
        self.decoder_norm = nn.LayerNorm(width, norm_eps)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        for matrix in [self.source_embedding.weight] + [self.target_matrix] * (not shared_embeddings):
            nn.init.normal_(matrix, std=width**-0.5)  # times √width in `embed_*`: variance 1

    @property
    def target_matrix(self) -> Tensor:
        """The target embedding, shape (target_vocab_size, width)."""
        return self.source_embedding.weight if self.shared_embeddings else self.target_embedding.weight

    @property
    def output_matrix(self) -> Tensor:
        """What turns the decoder's vectors into logits, shape (target_vocab_size, width)."""
        return self.source_embedding.weight if self.shared_embeddings else self.output.weight

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Predict each next target token.

        Args:
            input_ids: Source token ids, shape (batch, source), int64.
            attention_mask: 1 for real source tokens, 0 for padding, shape (batch, source).
            decoder_input_ids: Target token ids, start token first, shape (batch, target), int64; default: labels,
                one place to the right.
            decoder_attention_mask: 1 for real target tokens, 0 for padding, shape (batch, target). Targets padded on
                the right need none: a token never attends to later ones.
            labels: Target token ids, end token last, shape (batch, target), int64; -100 does not count.

        Returns:
            logits, shape (batch, target, target_vocab), and, where labels are given, loss.

        Raises:
            UserError: if neither decoder_input_ids nor labels are given, or a text is longer than max_length_tokens.
        """
        if decoder_input_ids is None:
            if labels is None:
                raise UserError(
                    "labels (None) or decoder_input_ids (None) must be given; to write a text use generate()"
                )
            decoder_input_ids = self._shift_right(labels)
        memory = self.encode(input_ids, attention_mask)  # (batch, source, width)
        hidden = self.decode(decoder_input_ids, memory, attention_mask, decoder_attention_mask)
        logits = F.linear(hidden, self.output_matrix)  # (batch, target, target_vocab)
        if labels is None:
            return {"logits": logits}
        label_smoothing = self.label_smoothing if self.training else 0.0
        return {"loss": compute_token_loss(logits, labels, label_smoothing), "logits": logits}

    def embed_source(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return √width E[token] + PE(position) (sections 3.4 and 3.5), shape (batch, source, width)."""
        check_length(input_ids.shape[1], self.max_length_tokens)
        positions = compute_positions(input_ids, attention_mask)
        return self.source_embedding(input_ids) * math.sqrt(self.width) + self.positions[positions]

    def embed_target(self, decoder_input_ids: Tensor, seen: int = 0) -> Tensor:
        """Return √width E[token] + PE(position), shape (batch, target, width); seen: how many tokens stand before."""
        check_length(seen + decoder_input_ids.shape[1], self.max_length_tokens)
        positions = compute_positions(decoder_input_ids, None, seen)
        return F.embedding(decoder_input_ids, self.target_matrix) * math.sqrt(self.width) + self.positions[positions]

    def encode(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return one vector per source token, shape (batch, source, width)."""
        x = self.dropout(self.embed_source(input_ids, attention_mask))
        for block in self.encoder_blocks:
            x = block(x, mask=attention_mask)
        return self.encoder_norm(x)

    def decode(
        self,
        decoder_input_ids: Tensor,
        memory: Tensor,
        attention_mask: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        cache: list[BlockCache] | None = None,
    ) -> Tensor:
        """Return one vector per target token, before the output matrix.

        Args:
            decoder_input_ids: Shape (batch, target), int64; with a filled cache only the new ones.
            memory: From `encode`, shape (batch, source, width).
            attention_mask: 1 for real source tokens, shape (batch, source).
            decoder_attention_mask: 1 for real target tokens, shape (batch, target).
            cache: One per decoder block; filled here.

        Returns:
            Shape (batch, target, width).
        """
        seen = cache[0].attention.length if cache else 0
        x = self.dropout(self.embed_target(decoder_input_ids, seen))
        for index, block in enumerate(self.decoder_blocks):
            x = block(
                x,
                mask=decoder_attention_mask,
                causal=True,
                context=memory,
                context_mask=attention_mask,
                cache=cache[index] if cache else None,
            )
        return self.decoder_norm(x)

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        max_new_tokens: int,
        attention_mask: Tensor | None = None,
        beams: int | None = None,
        length_penalty: float = 0.6,
        use_cache: bool = True,
    ) -> Tensor:
        """Write the target: greedily (beams=1) or by beam search.

        Beam search keeps the `beams` best targets Y by log P(Y | X) / lp(Y), lp(Y) = ((5 + |Y|) / 6)^α
        (Wu et al. 2016, equation 14; α = length_penalty). An ended target keeps its place until a better one takes it.

        Args:
            input_ids: Source token ids, shape (batch, source), int64.
            max_new_tokens: How many tokens to write at most.
            attention_mask: 1 for real source tokens, 0 for padding, shape (batch, source).
            beams: How many targets to keep per source; default the model's own number.
            length_penalty: α; 0 ranks by probability alone, more favours longer targets.
            use_cache: Keep keys and values, so that each step computes only the new token. Same result.

        Returns:
            The best target of each source without the start token, shape (batch, at most max_new_tokens), int64; the
            pad token follows the end token.

        Raises:
            UserError: if a number is out of range or the target would be longer than max_length_tokens.
        """
        beams = self.beams if beams is None else beams
        check_at_least(1, max_new_tokens=max_new_tokens, beams=beams)
        check_at_least(0, length_penalty=length_penalty)
        check_length(max_new_tokens, self.max_length_tokens)
        batch, vocab, device = len(input_ids), len(self.output_matrix), input_ids.device
        with evaluating(self):
            memory = self.encode(input_ids, attention_mask).repeat_interleave(
                beams, 0
            )  # (batch * beams, source, width)
            if attention_mask is not None:
                attention_mask = attention_mask.repeat_interleave(beams, 0)
            cache = [BlockCache() for _ in self.decoder_blocks] if use_cache else None
            tokens = torch.full((batch * beams, 1), self.start_token_id, device=device)  # (batch * beams, written + 1)
            scores = torch.full((batch, beams), -math.inf, device=device)  # log P(Y | X)
            scores[:, 0] = 0.0  # all beams are the same at first: start from one
            lengths = torch.zeros(batch, beams, device=device)  # |Y|, the end token counted
            ended = torch.zeros(batch, beams, dtype=torch.bool, device=device)
            only_pad = torch.full((vocab,), -math.inf, device=device)
            only_pad[self.pad_token_id] = 0.0
            first_rows = torch.arange(batch, device=device)[:, None] * beams  # (batch, 1)
            for _ in range(max_new_tokens):
                new = tokens[:, -1:] if use_cache else tokens
                hidden = self.decode(new, memory, attention_mask, cache=cache)
                logits = F.linear(hidden[:, -1], self.output_matrix).float()  # (batch * beams, vocab)
                log_p = logits.log_softmax(-1).view(batch, beams, vocab)
                log_p = torch.where(ended[..., None], only_pad, log_p)  # an ended target goes on for free
                totals = scores[..., None] + log_p  # (batch, beams, vocab)
                lengths = lengths + ~ended
                ranks = totals / (((5 + lengths) / 6) ** length_penalty)[..., None]  # log P(Y | X) / lp(Y)
                best = ranks.flatten(1).topk(beams).indices  # (batch, beams), numbers below beams * vocab
                beam, token = best // vocab, best % vocab
                scores = totals.flatten(1).gather(1, best)
                lengths = lengths.gather(1, beam)
                ended = ended.gather(1, beam) | (token == self.eos_token_id)
                rows = (first_rows + beam).flatten()  # (batch * beams,)
                tokens = torch.cat([tokens[rows], token.view(-1, 1)], dim=1)
                for block_cache in cache or ():
                    block_cache.attention.reorder(rows)  # cross-attention's rows are the same for all beams
                if bool(ended.all()):
                    break
        return tokens.view(batch, beams, -1)[:, 0, 1:]  # topk sorts: the first beam is the best

    def _shift_right(self, labels: Tensor) -> Tensor:
        start = torch.full_like(labels[:, :1], self.start_token_id)
        return torch.cat([start, labels[:, :-1].masked_fill(labels[:, :-1] == -100, self.pad_token_id)], dim=1)


def compute_positions(input_ids: Tensor, attention_mask: Tensor | None, seen: int = 0) -> Tensor:
    """Number the real tokens 0, 1, 2, ..., so that padding on either side does not move them.

    Args:
        input_ids: Shape (batch, seq).
        attention_mask: 1 for real tokens, shape (batch, seen + seq).
        seen: How many tokens stand before input_ids.

    Returns:
        Shape (batch, seq), or (1, seq) where there is no mask; int64.
    """
    if attention_mask is None:
        return torch.arange(seen, seen + input_ids.shape[1], device=input_ids.device)[None]
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, seen:]


def compute_sinusoidal_positions(length: int, width: int) -> Tensor:
    """PE(pos, 2i) = sin(pos / 10000^(2i / width)), PE(pos, 2i + 1) = cos(the same) (Vaswani et al. 2017, section 3.5).

    Returns:
        Shape (length, width).
    """
    position = torch.arange(length, dtype=torch.float64)[:, None]  # (length, 1)
    frequency = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)  # (width / 2,)
    angle = position * frequency  # (length, width / 2)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1).float()  # sin and cos alternate


def compute_mean_pooling(hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """Average the vectors of the real tokens.

    Args:
        hidden: Shape (batch, seq, width).
        attention_mask: 1 for real tokens, 0 for padding, shape (batch, seq).

    Returns:
        Shape (batch, width); zeros where a text has no real token.
    """
    if attention_mask is None:
        return hidden.mean(1)
    weights = attention_mask[..., None].to(hidden.dtype)  # (batch, seq, 1)
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)  # Σ m_t h_t / Σ m_t


def initialize_normal(model: nn.Module, std: float = 0.02) -> None:
    """Draw the weights of linear and embedding layers from N(0, std²) and set biases to 0, as BERT and GPT-2 do."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=std)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch dropout off inside the `with` block, and back to what it was after it."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _choose(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator | None) -> Tensor:
    # Draw from softmax(z / T) (Ackley et al. 1985) among the k likeliest tokens (Fan et al. 2018, section 5.1).
    if temperature == 0:
        return logits.argmax(-1)  # (batch,)
    if top_k is not None and top_k < logits.shape[-1]:
        smallest = logits.topk(top_k).values[:, -1:]  # (batch, 1)
        logits = logits.masked_fill(logits < smallest, -math.inf)
    return torch.multinomial(torch.softmax(logits / temperature, dim=-1), 1, generator=generator)[:, 0]
