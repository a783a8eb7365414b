"""Weights to and from the published formats.

Each `_..._names` function is a table: the name of one of our tensors, and the names of the published tensors that make
it up, laid over each other (our fused query-key-value matrix is three tensors in BERT and ViT).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from startup_llm.errors import UserError
from startup_llm.models.scratch.gan import ImageGenerator
from startup_llm.models.scratch.transformer import ACTIVATIONS, Decoder, Encoder, EncoderDecoder
from startup_llm.models.scratch.vit import VisionTransformer

Names = dict[str, tuple[str, ...]]


def save_decoder(
    decoder: Decoder,
    folder: str | os.PathLike[str],
    bos_token_id: int | None = None,
    eos_token_id: int | None = None,
    pad_token_id: int | None = None,
) -> None:
    """Write a decoder as a GPT-2 checkpoint, which `transformers.AutoModelForCausalLM` loads.

    Args:
        decoder: The model.
        folder: Made if it is not there; gets config.json, generation_config.json and model.safetensors.
        bos_token_id: The tokenizer's begin-of-text token.
        eos_token_id: The tokenizer's end-of-text token, where `generate` stops.
        pad_token_id: The tokenizer's padding token.
    """
    tokens = {"bos_token_id": bos_token_id, "eos_token_id": eos_token_id, "pad_token_id": pad_token_id}
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": decoder.vocab_size,
        "n_positions": decoder.max_length_tokens,
        "n_embd": decoder.width,
        "n_layer": len(decoder.blocks),
        "n_head": decoder.heads,
        "n_inner": decoder.inner_width,
        "activation_function": decoder.activation,
        "layer_norm_epsilon": decoder.norm_eps,
        "attn_pdrop": decoder.dropout_probability,
        "embd_pdrop": decoder.dropout_probability,
        "resid_pdrop": decoder.dropout_probability,
        "tie_word_embeddings": True,
        **tokens,
    }
    tensors = _to_published(decoder.state_dict(), _gpt2_names(len(decoder.blocks)))
    tensors = {name: _transpose_gpt2(name, tensor) for name, tensor in tensors.items()}
    _write_folder(folder, config, tensors)
    generation = {name: token for name, token in tokens.items() if token is not None}
    Path(folder, "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")


def load_decoder(folder: str | os.PathLike[str], kernel: str = "eager") -> Decoder:
    """Read a GPT-2 checkpoint folder.

    Args:
        folder: Holds config.json and model.safetensors (or its shards).
        kernel: eager or sdpa, see `attention.compute_attention`.

    Returns:
        The decoder, in evaluation mode.

    Raises:
        UserError: if a file or tensor is missing, or the checkpoint uses an option that `Decoder` does not have.
    """
    config = _read_config(folder, "gpt2")
    activation = config.get("activation_function", "gelu_new")
    _check_options(
        folder,
        config,
        {
            "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False,
            "add_cross_attention": False,
            "tie_word_embeddings": True,
        },
    )
    _check_activation(folder, "activation_function", activation)
    decoder = Decoder(
        vocab_size=config["vocab_size"],
        width=config["n_embd"],
        heads=config["n_head"],
        layers=config["n_layer"],
        inner_width=config.get("n_inner"),
        max_length_tokens=config["n_positions"],
        activation=activation,
        norm_eps=config.get("layer_norm_epsilon", 1e-5),
        dropout=config.get("resid_pdrop", 0.1),
        kernel=kernel,
    )
    tensors = {name: _transpose_gpt2(name, tensor) for name, tensor in _read_tensors(folder, "transformer.").items()}
    decoder.load_state_dict(_from_published(tensors, _gpt2_names(len(decoder.blocks)), folder))
    return decoder.eval()


def save_encoder(encoder: Encoder, folder: str | os.PathLike[str], pad_token_id: int = 0) -> None:
    """Write an encoder as a BERT checkpoint without pooler, which `transformers.AutoModel` loads.

    Args:
        encoder: The model.
        folder: Made if it is not there; gets config.json and model.safetensors.
        pad_token_id: The tokenizer's padding token.
    """
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": encoder.vocab_size,
        "hidden_size": encoder.width,
        "num_hidden_layers": len(encoder.blocks),
        "num_attention_heads": encoder.heads,
        "intermediate_size": encoder.inner_width,
        "hidden_act": encoder.activation,
        "max_position_embeddings": encoder.max_length_tokens,
        "type_vocab_size": encoder.token_types,
        "layer_norm_eps": encoder.norm_eps,
        "hidden_dropout_prob": encoder.dropout_probability,
        "attention_probs_dropout_prob": encoder.dropout_probability,
        "pad_token_id": pad_token_id,
    }
    _write_folder(folder, config, _to_published(encoder.state_dict(), _bert_names(len(encoder.blocks))))


def load_encoder(folder: str | os.PathLike[str], kernel: str = "eager") -> Encoder:
    """Read a BERT checkpoint folder; its pooler and heads are left out.

    Args:
        folder: Holds config.json and model.safetensors (or its shards).
        kernel: eager or sdpa, see `attention.compute_attention`.

    Returns:
        The encoder, in evaluation mode.

    Raises:
        UserError: if a file or tensor is missing, or the checkpoint uses an option that `Encoder` does not have.
    """
    config = _read_config(folder, "bert")
    _check_options(
        folder, config, {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False}
    )
    _check_activation(folder, "hidden_act", config["hidden_act"])
    encoder = Encoder(
        vocab_size=config["vocab_size"],
        width=config["hidden_size"],
        heads=config["num_attention_heads"],
        layers=config["num_hidden_layers"],
        inner_width=config["intermediate_size"],
        max_length_tokens=config["max_position_embeddings"],
        token_types=config.get("type_vocab_size", 2),
        activation=config["hidden_act"],
        norm_eps=config.get("layer_norm_eps", 1e-12),
        dropout=config.get("hidden_dropout_prob", 0.1),
        kernel=kernel,
    )
    tensors = _read_tensors(folder, "bert.")
    encoder.load_state_dict(_from_published(tensors, _bert_names(len(encoder.blocks)), folder))
    return encoder.eval()


def save_vit(model: VisionTransformer, folder: str | os.PathLike[str]) -> None:
    """Write a vision transformer as a ViT checkpoint, which `transformers.AutoModelForImageClassification` loads.

    Args:
        model: The model.
        folder: Made if it is not there; gets config.json and model.safetensors.
    """
    labels = {str(number): f"LABEL_{number}" for number in range(model.classifier.out_features)}
    config = {
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        "image_size": model.image_size,
        "patch_size": model.patch_size,
        "num_channels": model.channels,
        "hidden_size": model.width,
        "num_hidden_layers": len(model.blocks),
        "num_attention_heads": model.heads,
        "intermediate_size": model.inner_width,
        "hidden_act": model.activation,
        "layer_norm_eps": model.norm_eps,
        "hidden_dropout_prob": model.dropout_probability,
        "attention_probs_dropout_prob": model.dropout_probability,
        "qkv_bias": True,
        "id2label": labels,
        "label2id": {label: int(number) for number, label in labels.items()},
    }
    tensors = _to_published(model.state_dict(), _vit_names(len(model.blocks)))
    patches = (model.width, model.channels, model.patch_size, model.patch_size)
    tensors[_VIT_PATCHES] = tensors[_VIT_PATCHES].reshape(patches)  # the same product, written as a convolution
    _write_folder(folder, config, tensors)


def load_vit(folder: str | os.PathLike[str], kernel: str = "eager") -> VisionTransformer:
    """Read the folder of a ViT image classifier.

    Args:
        folder: Holds config.json and model.safetensors (or its shards).
        kernel: eager or sdpa, see `attention.compute_attention`.

    Returns:
        The model, in evaluation mode.

    Raises:
        UserError: if a file or tensor is missing, or the checkpoint uses an option that `VisionTransformer` does not
            have.
    """
    config = _read_config(folder, "vit")
    _check_options(folder, config, {"qkv_bias": True})
    _check_activation(folder, "hidden_act", config["hidden_act"])
    tensors = _read_tensors(folder, "vit.")
    if "classifier.weight" not in tensors:
        raise UserError(f"{folder} has no tensor classifier.weight; it must be a ViT image classifier")
    model = VisionTransformer(
        image_size=config["image_size"],
        patch_size=config["patch_size"],
        classes=len(tensors["classifier.weight"]),
        channels=config["num_channels"],
        width=config["hidden_size"],
        heads=config["num_attention_heads"],
        layers=config["num_hidden_layers"],
        inner_width=config["intermediate_size"],
        activation=config["hidden_act"],
        norm_eps=config.get("layer_norm_eps", 1e-12),
        dropout=config.get("hidden_dropout_prob", 0.0),
        kernel=kernel,
    )
    if _VIT_PATCHES in tensors:
        tensors[_VIT_PATCHES] = tensors[_VIT_PATCHES].flatten(1)
    model.load_state_dict(_from_published(tensors, _vit_names(len(model.blocks)), folder))
    return model.eval()


def save_generator(generator: ImageGenerator, folder: str | os.PathLike[str], **sizes: int) -> None:
    """Write an image generator: config.json and model.safetensors.

    Args:
        generator: The model.
        folder: Made if it is not there.
        sizes: The arguments that it was built with.
    """
    _write_folder(folder, {"model_type": "startup_llm-image-generator", "sizes": sizes}, generator.state_dict())


def load_generator(folder: str | os.PathLike[str]) -> ImageGenerator:
    """Read what `save_generator` wrote.

    Returns:
        The generator, in evaluation mode.

    Raises:
        UserError: if a file is missing or the folder holds another kind of model.
    """
    generator = ImageGenerator(**_read_config(folder, "startup_llm-image-generator")["sizes"])
    generator.load_state_dict(_read_tensors(folder, ""))
    return generator.eval()


def save_encoder_decoder(
    model: EncoderDecoder, folder: str | os.PathLike[str], max_new_tokens: int | None = None
) -> None:
    """Write an encoder-decoder as a Pegasus checkpoint, which `transformers.AutoModelForSeq2SeqLM` loads.

    Pegasus is the pre-norm transformer of Vaswani et al. with a LayerNorm at the end of each stack. Its positions are
    weights of the file, so that they need not lie in its own order (all sines, then all cosines).

    Args:
        model: The model; pre-norm, with shared embeddings.
        folder: Made if it is not there; gets config.json, generation_config.json (with the model's beams) and
            model.safetensors.
        max_new_tokens: Most tokens that `generate` writes; default as many as the model has positions.

    Raises:
        UserError: if the model is post-norm or its embeddings are not shared: Pegasus has no such thing.
    """
    if model.norm != "pre" or not model.shared_embeddings:
        raise UserError(
            f"norm ({model.norm}) must be pre and shared_embeddings ({model.shared_embeddings}) True to write a "
            "Pegasus checkpoint; build the model with norm='pre'"
        )
    tokens = {
        "decoder_start_token_id": model.start_token_id,
        "bos_token_id": model.start_token_id,
        "eos_token_id": model.eos_token_id,
        "pad_token_id": model.pad_token_id,
        "forced_eos_token_id": None,
    }
    sizes = {
        f"{side}_{name}": value
        for side, blocks in (("encoder", model.encoder_blocks), ("decoder", model.decoder_blocks))
        for name, value in (
            ("layers", len(blocks)),
            ("attention_heads", model.heads),
            ("ffn_dim", model.inner_width),
        )
    }
    config = {
        "architectures": ["PegasusForConditionalGeneration"],
        "model_type": "pegasus",
        "is_encoder_decoder": True,
        "vocab_size": model.vocab_size,
        "d_model": model.width,
        **sizes,
        "max_position_embeddings": model.max_length_tokens,
        "activation_function": model.activation,
        "scale_embedding": True,
        "tie_word_embeddings": True,
        "dropout": model.dropout_probability,
        "attention_dropout": model.dropout_probability,
        **tokens,
    }
    tensors = _to_published(model.state_dict(), _pegasus_names(model))
    for side in ("encoder", "decoder"):
        tensors[f"model.{side}.embed_positions.weight"] = model.positions
    tensors["final_logits_bias"] = model.positions.new_zeros(1, model.vocab_size)
    _write_folder(folder, config, tensors)
    generation = {**tokens, "num_beams": model.beams, "max_new_tokens": max_new_tokens or model.max_length_tokens}
    Path(folder, "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")


def load_encoder_decoder(folder: str | os.PathLike[str], kernel: str = "eager") -> EncoderDecoder:
    """Read the folder of `save_encoder_decoder`.

    Args:
        folder: Holds config.json and model.safetensors (or its shards).
        kernel: eager or sdpa, see `attention.compute_attention`.

    Returns:
        The encoder-decoder, in evaluation mode.

    Raises:
        UserError: if a file or tensor is missing, or the checkpoint uses an option or other positions than
            `EncoderDecoder` has.
    """
    config = _read_config(folder, "pegasus")
    file = Path(folder, "generation_config.json")
    generation = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    same = {name: config[f"encoder_{name}"] for name in ("attention_heads", "ffn_dim")}
    decoder = {f"decoder_{name}": value for name, value in same.items()}
    _check_options(folder, config, {"scale_embedding": True, "tie_word_embeddings": True, **decoder})
    _check_activation(folder, "activation_function", config["activation_function"])
    model = EncoderDecoder(
        vocab_size=config["vocab_size"],
        width=config["d_model"],
        heads=same["attention_heads"],
        encoder_layers=config["encoder_layers"],
        decoder_layers=config["decoder_layers"],
        inner_width=same["ffn_dim"],
        max_length_tokens=config["max_position_embeddings"],
        activation=config["activation_function"],
        norm="pre",
        dropout=config.get("dropout", 0.1),
        start_token_id=config["decoder_start_token_id"],
        eos_token_id=config["eos_token_id"],
        pad_token_id=config["pad_token_id"],
        beams=generation.get("num_beams", 1),
        kernel=kernel,
    )
    tensors = _read_tensors(folder, "model.")
    positions = tensors.get("model.encoder.embed_positions.weight", model.positions)
    if not torch.allclose(positions, model.positions, atol=1e-5):
        raise UserError(f"{folder} has positions of another kind; only those of `save_encoder_decoder` are supported")
    model.load_state_dict(_from_published(tensors, _pegasus_names(model), folder))
    return model.eval()


def convert_encoder_decoder_to_torch(model: EncoderDecoder) -> dict[str, Tensor]:
    """Return the weights of the two stacks as `torch.nn.Transformer` names them.

    That class has no embeddings and no output matrix; it takes what `embed_source` and `embed_target` give.
    """
    return _to_published(model.state_dict(), _torch_names(model))


def load_encoder_decoder_from_torch(model: EncoderDecoder, tensors: dict[str, Tensor]) -> None:
    """Copy the weights of a `torch.nn.Transformer` of the same size into a model's two stacks.

    Args:
        model: Changed in place; embeddings and output matrix stay as they are.
        tensors: The other model's state_dict.

    Raises:
        UserError: if a tensor is missing.
    """
    ours = _from_published(tensors, _torch_names(model), "the state_dict")
    model.load_state_dict({**model.state_dict(), **ours})


_VIT_PATCHES = "vit.embeddings.patch_embeddings.projection.weight"
_GPT2_TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")


def _transpose_gpt2(name: str, tensor: Tensor) -> Tensor:
    # GPT-2 keeps its linear layers as (inputs, outputs), torch.nn.Linear as (outputs, inputs).
    return tensor.t() if name.endswith(_GPT2_TRANSPOSED) else tensor


def _both(ours: str, *theirs: str) -> Names:
    return {f"{ours}.{kind}": tuple(f"{name}.{kind}" for name in theirs) for kind in ("weight", "bias")}


def _gpt2_names(layers: int) -> Names:
    names: Names = {
        "token_embedding.weight": ("transformer.wte.weight",),
        "position_embedding.weight": ("transformer.wpe.weight",),
        **_both("final_norm", "transformer.ln_f"),
    }
    for index in range(layers):
        ours, theirs = f"blocks.{index}", f"transformer.h.{index}"
        names |= _both(f"{ours}.attention_norm", f"{theirs}.ln_1")
        names |= _both(f"{ours}.attention.qkv", f"{theirs}.attn.c_attn")
        names |= _both(f"{ours}.attention.out", f"{theirs}.attn.c_proj")
        names |= _both(f"{ours}.feed_forward_norm", f"{theirs}.ln_2")
        names |= _both(f"{ours}.feed_forward.expand", f"{theirs}.mlp.c_fc")
        names |= _both(f"{ours}.feed_forward.contract", f"{theirs}.mlp.c_proj")
    return names


def _bert_names(layers: int) -> Names:
    names: Names = {
        "token_embedding.weight": ("bert.embeddings.word_embeddings.weight",),
        "position_embedding.weight": ("bert.embeddings.position_embeddings.weight",),
        "token_type_embedding.weight": ("bert.embeddings.token_type_embeddings.weight",),
        **_both("embedding_norm", "bert.embeddings.LayerNorm"),
    }
    for index in range(layers):
        ours, theirs = f"blocks.{index}", f"bert.encoder.layer.{index}"
        attention = f"{theirs}.attention.self"
        names |= _both(f"{ours}.attention.qkv", *(f"{attention}.{part}" for part in ("query", "key", "value")))
        names |= _both(f"{ours}.attention.out", f"{theirs}.attention.output.dense")
        names |= _both(f"{ours}.attention_norm", f"{theirs}.attention.output.LayerNorm")
        names |= _both(f"{ours}.feed_forward.expand", f"{theirs}.intermediate.dense")
        names |= _both(f"{ours}.feed_forward.contract", f"{theirs}.output.dense")
        names |= _both(f"{ours}.feed_forward_norm", f"{theirs}.output.LayerNorm")
    return names


def _vit_names(layers: int) -> Names:
    names: Names = {
        "class_token": ("vit.embeddings.cls_token",),
        "position_embedding": ("vit.embeddings.position_embeddings",),
        **_both("patch_embedding", "vit.embeddings.patch_embeddings.projection"),
        **_both("final_norm", "vit.layernorm"),
        **_both("classifier", "classifier"),
    }
    for index in range(layers):
        ours, theirs = f"blocks.{index}", f"vit.encoder.layer.{index}"
        attention = f"{theirs}.attention.attention"
        names |= _both(f"{ours}.attention_norm", f"{theirs}.layernorm_before")
        names |= _both(f"{ours}.attention.qkv", *(f"{attention}.{part}" for part in ("query", "key", "value")))
        names |= _both(f"{ours}.attention.out", f"{theirs}.attention.output.dense")
        names |= _both(f"{ours}.feed_forward_norm", f"{theirs}.layernorm_after")
        names |= _both(f"{ours}.feed_forward.expand", f"{theirs}.intermediate.dense")
        names |= _both(f"{ours}.feed_forward.contract", f"{theirs}.output.dense")
    return names


def _torch_names(model: EncoderDecoder) -> Names:
    names = {**_both("encoder_norm", "encoder.norm"), **_both("decoder_norm", "decoder.norm")}
    for side, blocks in (("encoder", model.encoder_blocks), ("decoder", model.decoder_blocks)):
        for index in range(len(blocks)):
            ours, theirs = f"{side}_blocks.{index}", f"{side}.layers.{index}"
            sublayers = {"attention": "self_attn"}
            if side == "decoder":
                sublayers["cross_attention"] = "multihead_attn"
            for number, (mine, other) in enumerate(sublayers.items(), start=1):
                for kind in ("weight", "bias"):
                    names[f"{ours}.{mine}.qkv.{kind}"] = (f"{theirs}.{other}.in_proj_{kind}",)
                names |= _both(f"{ours}.{mine}.out", f"{theirs}.{other}.out_proj")
                names |= _both(f"{ours}.{mine}_norm", f"{theirs}.norm{number}")
            names |= _both(f"{ours}.feed_forward.expand", f"{theirs}.linear1")
            names |= _both(f"{ours}.feed_forward.contract", f"{theirs}.linear2")
            names |= _both(f"{ours}.feed_forward_norm", f"{theirs}.norm{len(sublayers) + 1}")
    return names


def _pegasus_names(model: EncoderDecoder) -> Names:
    names: Names = {"source_embedding.weight": ("model.shared.weight",)}
    for side, blocks in (("encoder", model.encoder_blocks), ("decoder", model.decoder_blocks)):
        names |= _both(f"{side}_norm", f"model.{side}.layer_norm")
        for index in range(len(blocks)):
            ours, theirs = f"{side}_blocks.{index}", f"model.{side}.layers.{index}"
            sublayers = {"attention": "self_attn"} | ({"cross_attention": "encoder_attn"} if side == "decoder" else {})
            for mine, other in sublayers.items():
                parts = (f"{theirs}.{other}.{part}_proj" for part in ("q", "k", "v"))
                names |= _both(f"{ours}.{mine}.qkv", *parts)
                names |= _both(f"{ours}.{mine}.out", f"{theirs}.{other}.out_proj")
                names |= _both(f"{ours}.{mine}_norm", f"{theirs}.{other}_layer_norm")
            names |= _both(f"{ours}.feed_forward.expand", f"{theirs}.fc1")
            names |= _both(f"{ours}.feed_forward.contract", f"{theirs}.fc2")
            names |= _both(f"{ours}.feed_forward_norm", f"{theirs}.final_layer_norm")
    return names


def _to_published(state: dict[str, Tensor], names: Names) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for ours, theirs in names.items():
        tensors.update(zip(theirs, state[ours].chunk(len(theirs)), strict=True))
    return tensors


def _from_published(tensors: dict[str, Tensor], names: Names, source: object) -> dict[str, Tensor]:
    for theirs in names.values():
        for name in theirs:
            if name not in tensors:
                raise UserError(f"{source} has no tensor {name}; the checkpoint is incomplete or of another kind")
    return {ours: torch.cat([tensors[name] for name in theirs]) for ours, theirs in names.items()}


def _write_folder(folder: str | os.PathLike[str], config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    dtype = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps({**config, "dtype": dtype}, indent=2) + "\n", encoding="utf-8")
    # Cloned, because views of one tensor (the parts of a fused matrix) may not share memory in the file.
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    save_file(copies, folder / "model.safetensors", metadata={"format": "pt"})


def _read_config(folder: str | os.PathLike[str], model_type: str) -> dict[str, Any]:
    path = Path(folder, "config.json")
    if not path.is_file():
        raise UserError(f"{path} is not there; give the folder of a {model_type} checkpoint")
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.get("model_type") != model_type:
        raise UserError(f"{path} has model_type {config.get('model_type')!r}; {model_type!r} is expected here")
    return config


def _check_options(folder: str | os.PathLike[str], config: dict[str, Any], supported: dict[str, object]) -> None:
    for name, value in supported.items():
        if config.get(name, value) != value:
            raise UserError(f"{Path(folder, 'config.json')} has {name} {config[name]!r}; only {value!r} is supported")


def _check_activation(folder: str | os.PathLike[str], name: str, activation: str) -> None:
    if activation not in ACTIVATIONS:
        supported = ", ".join(ACTIVATIONS)
        raise UserError(f"{Path(folder, 'config.json')} has {name} {activation!r}; supported are {supported}")


def _read_tensors(folder: str | os.PathLike[str], prefix: str) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    index, single = Path(folder, "model.safetensors.index.json"), Path(folder, "model.safetensors")
    if index.is_file():
        files = {Path(folder, name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
    else:
        files = {single}
    tensors: dict[str, Tensor] = {}
    for file in sorted(files):
        if not file.is_file():
            raise UserError(f"{file} is not there; the weights must be in safetensors format")
        tensors |= load_file(file)
    # A bare model's file has no prefix; the oldest checkpoints call LayerNorm's weight gamma and its bias beta.
    whole = any(name.startswith(prefix) for name in tensors)
    renamed = {}
    for name, tensor in tensors.items():
        modern = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        renamed[modern if whole else prefix + modern] = tensor
    return renamed
