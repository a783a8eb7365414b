"""Reference models from scratch: plain PyTorch to read line by line, each formula beside its line.

Each model is proved in `tests/models/scratch`: with the same weights it gives the same numbers as the published
implementation. A popular founders' article introduces the same three families, DNN, transformer and GAN, with slips
that a reader would copy into code. The slips, and the right form:

1. *The encoder's formula.* The article's layer is x + Attention(x) alone. A transformer layer is
   x ← LayerNorm(x + Attention(x)), then x ← LayerNorm(x + W_2 f(W_1 x + b_1) + b_2): without the
   normalization a deep stack does not train, and without the feed-forward network every layer only averages (linearly
   transformed) vectors. See `transformer.Block`.
2. *The discriminator's loss.* The article writes log σ(D(x)) + log σ(1 - D(G(z))). The log-likelihood of "fake" is
   log(1 - σ(D(G(z)))), which equals log σ(-D(G(z))): the two forms differ by the stray 1, and only the right one has
   its optimum at σ(D) = p / (p + q). See `gan.discriminator_loss`.
3. *The worked example.* In the article's network of 3 inputs and 2 hidden units the output's weights carry stray
   coefficients. The output is y = w_1 h_1 + w_2 h_2 + b with h = f(W x + b): each weight once, multiplied by its
   hidden unit and nothing else. `tests/models/scratch/test_dnn.py` spells such an example out. See `dnn.Dnn`.
4. *"The encoder compresses the input to a fixed-length vector."* That was the recurrent network before attention. A
   transformer's encoder keeps one vector per token, and the decoder's cross-attention reads all of them at every
   step. See `transformer.EncoderDecoder`.
5. *CIFAR-10 through `nn.Transformer`.* The article's code passes images (batch, 3, 32, 32) as source and integer class
   labels as target. `nn.Transformer` takes sequences of d_model-wide float vectors on both sides, so the code cannot
   run. An image classifier of this family cuts the image into patches, embeds them and classifies one token: a vision
   transformer, with cross-entropy on its logits. See `vit.VisionTransformer`.
6. *Step counts.* The article's log shows steps past the end of the epoch. An epoch of n rows in batches of b has
   ⌈n / b⌉ steps (⌊n / b⌋ where the last, short batch is dropped): 50,000 images in batches of 64 make 782.

Importing this package imports no torch; `load_builder` does.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from startup_llm.errors import UserError, nearest

SCRATCH_MODELS: dict[str, str] = {
    "dnn": "startup_llm.models.scratch.dnn:Dnn",
    "dnn-text": "startup_llm.models.scratch.dnn:TextDnn",
    "dnn-image": "startup_llm.models.scratch.dnn:ImageDnn",
    "encoder": "startup_llm.models.scratch.transformer:Encoder",
    "decoder": "startup_llm.models.scratch.transformer:Decoder",
    "encoder-decoder": "startup_llm.models.scratch.transformer:EncoderDecoder",
    "vit": "startup_llm.models.scratch.vit:VisionTransformer",
    "gan": "startup_llm.models.scratch.gan:build_gan",
    "gan-bert": "startup_llm.models.scratch.gan:build_gan_bert",
}
"""Name of a reference model -> `module:builder`."""


def load_builder(name: str) -> Callable[..., Any]:
    """Import a reference model's class or builder function.

    Args:
        name: A key of `SCRATCH_MODELS`.

    Returns:
        What builds the model from values: `load_builder("vit")(image_size=32, patch_size=4, classes=10)`.

    Raises:
        UserError: if there is no such model.
    """
    if name not in SCRATCH_MODELS:
        raise UserError(
            f"unknown reference model {name!r}{nearest(name, SCRATCH_MODELS)} (one of {', '.join(SCRATCH_MODELS)})"
        )
    module, builder = SCRATCH_MODELS[name].split(":")
    return getattr(import_module(module), builder)
