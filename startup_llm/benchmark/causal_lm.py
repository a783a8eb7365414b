"""Training of a Llama-style causal language model on packed text: with this package's plan, and with TRL.

The weights are random and the tokenizer is trained on the rows at hand, so that nothing has to be downloaded. Every
way trains the same model on the same texts with the same number of tokens in a step.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from startup_llm.benchmark.options import BenchmarkConfig
from startup_llm.config import LoraConfig, SpeedConfig, convert_section, list_changed
from startup_llm.errors import UserError
from startup_llm.tasks.text_generation.options import GenerationData
from startup_llm.tasks.text_generation.running_text import load_running_text

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback

    from startup_llm.training.speed import SpeedPlan

TOKENIZER_VOCABULARY = 4096
LORA_RANK = 16
LEARNING_RATE = 1e-3
END = "<|endoftext|>"


@dataclass(frozen=True)
class LlamaSizes:
    """Sizes of the model and of what it trains on.

    Attributes:
        block_tokens: Tokens of a packed row.
        blocks_per_step: Packed rows of a step.
        vocabulary: Rows of the embedding and of the output layer.
        width: Of the hidden states.
        layers: Number of blocks.
        heads: Attention heads.
        key_value_heads: Heads of keys and values.
        inner_width: Of the feed-forward layers.
        tied: Whether the output layer is the embedding.
    """

    block_tokens: int
    blocks_per_step: int
    vocabulary: int
    width: int
    layers: int
    heads: int
    key_value_heads: int
    inner_width: int
    tied: bool = False


LLAMAS = {
    "tiny": LlamaSizes(16, 2, 300, 32, 2, 4, 2, 64),
    "small": LlamaSizes(512, 8, 4096, 384, 6, 6, 2, 1024),
    "1b": LlamaSizes(2048, 8, 128_256, 2048, 16, 32, 8, 8192, tied=True),
}
"""1b: as https://huggingface.co/meta-llama/Llama-3.2-1B/blob/main/config.json has them."""


class Clock(Protocol):
    """What times the steps of a Trainer."""

    def callback(self) -> TrainerCallback:
        """Return what tells a Trainer's steps to this clock."""

    def read(self, rows: int, epochs: int, mean_tokens: float, model: Any) -> dict[str, Any]:
        """Return rates over all steps but the first."""


def check_causal_lm_config(config: BenchmarkConfig) -> None:
    """Refuse what has no meaning for a language model with random weights.

    Raises:
        UserError: On a checkpoint, an accuracy to measure, or too few blocks.
    """
    if list_changed(config.model):
        raise UserError(
            f"model.checkpoint {config.model.checkpoint}: causal-lm trains a small Llama-style model with random "
            "weights, the same for every way; leave the model section out"
        )
    if config.accuracy:
        raise UserError("accuracy was asked for, but a language model has none; leave --accuracy out")
    _check_blocks(config.rows, LLAMAS[config.llama])


def _check_blocks(blocks: int | None, sizes: LlamaSizes) -> None:
    least = 2 * sizes.blocks_per_step
    if blocks is not None and blocks < least:
        raise UserError(
            f"rows: {blocks} blocks of {sizes.block_tokens} tokens, expected at least {least}: two steps, the second "
            "of which is timed; give --rows"
        )


def train_ours(config: BenchmarkConfig, clock: Clock, *, lora: bool) -> dict[str, Any]:
    """Train on packed blocks with transformers' Trainer, and with what this package chooses and adds for speed."""
    import datasets
    import torch
    from transformers import Trainer, default_data_collator

    from startup_llm.models.adapters import add_lora
    from startup_llm.models.language_model_head import learn_at_targets
    from startup_llm.training.fused_lora import fuse_lora
    from startup_llm.training.speed import compile_blocks, plan_speed, store_frozen_weights
    from startup_llm.training.trainer import build_training_arguments

    compiled = torch.accelerator.is_available()  # on a CPU a step takes as long compiled
    plan, sizes = plan_speed(SpeedConfig(compile=compiled)), LLAMAS[config.llama]
    texts = list(load_running_text(convert_section(config.data, GenerationData)).splits["train"]["text"])
    tokenizer = train_tokenizer(texts, sizes)
    blocks = pack_blocks(texts, tokenizer, config.rows, config.data.split_seed, sizes)
    model: Any = build_llama(tokenizer, sizes)
    on_cpu = plan.device == "cpu"
    kernel = choose_kernel(model, plan, blocks[: sizes.blocks_per_step]) if on_cpu else plan.attention_kernel
    model.set_attn_implementation(kernel)
    if lora:
        model = add_lora(model, LoraConfig(rank=LORA_RANK), task_type="CAUSAL_LM", base_name="")
        store_frozen_weights(model, plan.frozen_dtype)
        fuse_lora(model)
    rows = datasets.Dataset.from_dict({"input_ids": blocks, "labels": blocks})
    with tempfile.TemporaryDirectory() as folder:
        arguments = build_training_arguments(_trainer_section(config), Path(folder), plan, metric="")
        callbacks = [clock.callback()]
        trainer = Trainer(
            model, arguments, train_dataset=rows, data_collator=default_data_collator, callbacks=callbacks
        )
        compiling = compile_blocks(model) if plan.compile else contextlib.nullcontext()
        with compiling, learn_at_targets(model, compiled=plan.compile):
            loss = trainer.train().training_loss
    steps = _whole_steps(len(rows), sizes)
    return clock.read(steps, config.epochs, sizes.block_tokens, model) | {"train_loss": loss}


def train_with_trl(
    config: BenchmarkConfig, clock: Clock, *, lora: bool, tuned: bool, liger: bool = False
) -> dict[str, Any]:
    """Train with TRL's SFTTrainer and packing.

    Args:
        config: Rows and data.
        clock: Times the steps.
        lora: Train a LoRA adapter on all linear layers through PEFT, instead of every weight.
        tuned: Take blocks cut anywhere (`wrapped`, which needs no flash attention), keep activations, and compute in
            the type that is the faster one, with frozen weights in it and FlashAttention where it is installed;
            otherwise SFTTrainer's defaults: best-fit packing, activations computed twice, bfloat16.
        liger: Compute with Liger's kernels.
    """
    import datasets
    import peft
    from transformers.utils import is_flash_attn_2_available
    from trl import SFTConfig, SFTTrainer

    from startup_llm.training.speed import plan_speed, store_frozen_weights, use_idle_cores

    use_idle_cores()
    sizes = LLAMAS[config.llama]
    texts = list(load_running_text(convert_section(config.data, GenerationData)).splits["train"]["text"])
    tokenizer = train_tokenizer(texts, sizes)
    drawn = draw_texts(texts, tokenizer, config.rows, config.data.split_seed, sizes)
    model: Any = build_llama(tokenizer, sizes)
    adapter = peft.LoraConfig(
        task_type="CAUSAL_LM", r=LORA_RANK, lora_alpha=2 * LORA_RANK, target_modules="all-linear"
    )
    plan = plan_speed()
    tuning: dict[str, Any] = {"bf16": plan.compute_dtype == "bfloat16"}  # TRL's default, where it is the faster
    if tuned:
        tuning |= {"packing_strategy": "wrapped", "gradient_checkpointing": False, "use_liger_kernel": liger}
        if lora:
            store_frozen_weights(model.requires_grad_(False), plan.frozen_dtype)
        if is_flash_attn_2_available():
            model.set_attn_implementation("flash_attention_2")
    with tempfile.TemporaryDirectory() as folder:
        section = _trainer_section(config)
        arguments = SFTConfig(folder, packing=True, max_length=sizes.block_tokens, **tuning, **section)
        trainer = SFTTrainer(
            model=model,
            args=arguments,
            train_dataset=datasets.Dataset.from_dict({"text": drawn}),
            processing_class=tokenizer,
            peft_config=adapter if lora else None,
            callbacks=[clock.callback()],
        )
        loss = trainer.train().training_loss
    lengths = [len(ids) for ids in trainer.train_dataset["input_ids"]]
    blocks = _whole_steps(len(lengths), sizes)
    return clock.read(blocks, config.epochs, float(np.mean(lengths)), trainer.model) | {"train_loss": loss}


def _whole_steps(blocks: int, sizes: LlamaSizes) -> int:
    """Return the blocks that are trained on: those of the last step only where they fill it."""
    return blocks // sizes.blocks_per_step * sizes.blocks_per_step


def _trainer_section(config: BenchmarkConfig) -> dict[str, Any]:
    import torch

    return {
        "per_device_train_batch_size": LLAMAS[config.llama].blocks_per_step,
        "learning_rate": LEARNING_RATE,
        "num_train_epochs": config.epochs,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "dataloader_drop_last": True,
        "logging_nan_inf_filter": False,  # which waits for the device at every step
        "use_cpu": not torch.accelerator.is_available(),
    }


def train_tokenizer(texts: list[str], sizes: LlamaSizes) -> PreTrainedTokenizerFast:
    """Train byte-level BPE on the texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    vocabulary = min(TOKENIZER_VOCABULARY, sizes.vocabulary)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)


def build_llama(tokenizer: PreTrainedTokenizerFast, sizes: LlamaSizes) -> LlamaForCausalLM:
    """Build the model where it is trained: the same random weights for every way, float32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.width,
        intermediate_size=sizes.inner_width,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.key_value_heads,
        max_position_embeddings=sizes.block_tokens,
        tie_word_embeddings=sizes.tied,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        use_cache=False,
    )
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    with torch.device(device) if device else contextlib.nullcontext():
        return LlamaForCausalLM(config)


def draw_texts(
    texts: list[str], tokenizer: PreTrainedTokenizerFast, blocks: int | None, seed: int, sizes: LlamaSizes
) -> list[str]:
    """Draw texts in random order, anew when all were drawn, until their tokens fill the blocks; None: each once."""
    lengths = np.array([len(ids) + 1 for ids in tokenizer(texts)["input_ids"]])
    generator, order, filled = np.random.default_rng(seed), [], 0
    while filled < (blocks or 1) * sizes.block_tokens:
        drawn = generator.permutation(len(texts))
        ends = filled + np.cumsum(lengths[drawn])
        if blocks is not None:
            drawn = drawn[: int(np.searchsorted(ends, blocks * sizes.block_tokens)) + 1]
        order += drawn.tolist()
        filled = int(ends[len(drawn) - 1])
        if blocks is None:
            break
    return [texts[place] for place in order]


def pack_blocks(
    texts: list[str], tokenizer: PreTrainedTokenizerFast, blocks: int | None, seed: int, sizes: LlamaSizes
) -> list[list[int]]:
    """Join drawn texts, each with its end token, and cut the stream into blocks; what does not fill one is left out.

    Raises:
        UserError: If the texts do not fill two steps.
    """
    stream: list[int] = []
    for ids in tokenizer(draw_texts(texts, tokenizer, blocks, seed, sizes))["input_ids"]:
        stream += [*ids, tokenizer.eos_token_id]
    size = sizes.block_tokens
    whole = len(stream) // size
    _check_blocks(whole, sizes)
    return [stream[block * size : (block + 1) * size] for block in range(whole)]


def choose_kernel(model: LlamaForCausalLM, plan: SpeedPlan, blocks: list[list[int]]) -> str:
    """Return the attention kernel with which one real step, forwards and backwards, takes least time."""
    import torch

    from startup_llm.models import causal_attention  # which registers its own

    model.to(plan.device)
    tokens = torch.tensor(blocks, device=plan.device)
    seconds = {}
    for kernel in ("eager", "sdpa", causal_attention.NAME):
        model.set_attn_implementation(kernel)
        for _ in range(2):  # the first is for warming up
            start = time.perf_counter()
            with plan.autocast():
                loss = model(input_ids=tokens, labels=tokens).loss
            loss.backward()
            seconds[kernel] = time.perf_counter() - start
            model.zero_grad()
    return min(seconds, key=seconds.__getitem__)
