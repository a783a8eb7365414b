"""Detectors of objects in images: pretrained DETR-style checkpoints, and a small RT-DETR with random weights."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.errors import UserError
from startup_llm.models.pretrained import load_config_for, load_model, name_labels, set_dropout
from startup_llm.models.task_model import TaskModel

if TYPE_CHECKING:
    from torch import Tensor

    from startup_llm.models.checkpoints import Checkpoint
    from startup_llm.tasks.vision.options import ScratchDetector

_HEADS = (
    "class_labels_classifier",
    "bbox_predictor",
    "class_embed",
    "bbox_embed",
    "enc_score_head",
    "enc_bbox_head",
    "denoising_class_embed",
)
"""What DETR and its kin call the layers that know classes and boxes."""
_STRIDES = (8, 16)
"""Pixels between the places of each map of features that the small RT-DETR looks at."""
_TIE_MARGIN = 0.2
_INITIAL_SPREAD = 0.08
"""Standard deviation of the small RT-DETR's first weights: RT-DETR's own 0.01 is made for pretrained widths of 256."""


def build_object_detector(
    checkpoint: Checkpoint,
    processor: Any,
    *,
    label_names: Sequence[str],
    dropout: float = 0.0,
    attention_kernel: str | None = None,
    trust_remote_code: bool = False,
) -> TaskModel:
    """Load a checkpoint whose heads know the given classes; batch normalisation keeps its statistics.

    Args:
        checkpoint: Where its files are.
        processor: Its image processor.
        label_names: Names of the classes.
        dropout: Dropout inside the checkpoint.
        attention_kernel: eager, sdpa, flash_attention_2; where the architecture lacks it, its own choice.
        trust_remote_code: Whether to run the checkpoint's own Python code.

    Raises:
        UserError: If the architecture detects no objects, or cannot tell an image from what pads it in a batch.
    """
    from transformers import AutoModelForObjectDetection

    from startup_llm.models.fixed_batch_norm import fix_batch_norms

    config = load_config_for(
        AutoModelForObjectDetection,
        checkpoint,
        trust_remote_code,
        lacks="detects no objects",
        choose="a DETR- or RT-DETR-style checkpoint",
    )
    arguments: dict[str, Any] = {"num_labels": len(label_names), "ignore_mismatched_sizes": True}
    try:
        model, loaded = load_model(
            AutoModelForObjectDetection,
            checkpoint,
            attention_kernel,
            trust_remote_code,
            find_new=_find_head_names,
            **arguments,
            **name_labels(label_names),
        )
    except ImportError as error:  # timm, where a checkpoint's backbone is one of its own
        raise UserError(f"checkpoint {checkpoint.name}: {' '.join(str(error).split())[:200]}") from None
    if not has_fixed_size(processor) and "pixel_mask" not in inspect.signature(model.forward).parameters:
        raise UserError(
            f"checkpoint {checkpoint.name} ({config.model_type}) takes no mask for images of different sizes; "
            "choose a DETR or an RT-DETR, or give its image processor one size: height and width"
        )
    set_dropout(model, dropout)
    fix_batch_norms(model)
    no_adapter = f"the layers of {config.model_type} share one head, which an adapter cannot keep; use --method full"
    return TaskModel(
        model,
        head_modules=tuple(find_heads(model, sorted(loaded.new))),
        load_arguments=arguments,
        notes=loaded.notes,
        no_adapter=no_adapter if model._tied_weights_keys else None,
    )


def _find_head_names(model: Any) -> list[str]:
    return [name for name, _ in model.named_modules() if name.rsplit(".", 1)[-1] in _HEADS]


def find_heads(model: Any, new_parameters: Iterable[str]) -> list[str]:
    """Name the modules that an adapter has to bring along: heads, and those whose weights are new.

    Args:
        model: The detector.
        new_parameters: Full names of the parameters that the checkpoint does not hold in this shape.
    """
    from torch import nn

    heads: list[str] = []
    for name, module in model.named_modules():
        if name.rsplit(".", 1)[-1] in _HEADS:
            parts = [f"{name}.{part}" for part, _ in module.named_children()]
            heads += parts if isinstance(module, nn.ModuleList) else [name]
    for parameter in new_parameters:
        module = parameter.rpartition(".")[0]
        inside = any(module == head or module.startswith(f"{head}.") for head in heads)
        if module and not inside:
            heads.append(module)
    return heads


def has_fixed_size(processor: Any) -> bool:
    """Say whether an image processor gives every image the same height and width."""
    size = dict(processor.size)
    return bool(size.get("height") and size.get("width"))


def measure_processed_size(processor: Any, width: int, height: int) -> tuple[int, int]:
    """Return width and height of an image after the processor."""
    size = {name: value for name, value in dict(processor.size).items() if value}
    if "height" in size:
        return size["width"], size["height"]
    shortest, longest = size.get("shortest_edge", 800), size.get("longest_edge", 1333)
    scale = min(shortest / min(width, height), longest / max(width, height))
    return max(1, round(scale * width)), max(1, round(scale * height))


def detect(model: Any, pixel_values: Tensor, pixel_mask: Tensor | None) -> list[tuple[Tensor, Tensor, Tensor | None]]:
    """Run a detector on each image without what pads it, since padding changes what convolutions see at the edges.

    Args:
        model: The detector.
        pixel_values: Shape (rows, channels, height, width).
        pixel_mask: 1 where a pixel is the image's, shape (rows, height, width); None where all are.

    Returns:
        For each row logits, shape (queries, classes, or one more for no object); boxes as centre, width and height in
        shares of the image, shape (queries, 4); and the logits of all candidates that the queries were chosen from,
        shape (candidates, classes), or None.
    """
    if pixel_mask is None:
        sizes = [tuple(pixel_values.shape[2:])] * len(pixel_values)
    else:
        sizes = [(int(mask[:, 0].sum()), int(mask[0].sum())) for mask in pixel_mask]
    detections: dict[int, tuple[Tensor, Tensor, Tensor | None]] = {}
    for size in dict.fromkeys(sizes):
        rows = [place for place, other in enumerate(sizes) if other == size]
        outputs = model(pixel_values=pixel_values[rows][:, :, : size[0], : size[1]])
        candidates = getattr(outputs, "enc_outputs_class", None)
        for number, row in enumerate(rows):
            chosen_from = None if candidates is None else candidates[number]
            detections[row] = (outputs["logits"][number], outputs["pred_boxes"][number], chosen_from)
    return [detections[place] for place in range(len(sizes))]


def compute_comparable(logits: Tensor, boxes: Tensor, candidates: Tensor | None) -> np.ndarray:
    """Return numbers that two copies of a detector share whatever the order of their queries.

    Each column is sorted. A two-stage detector chooses its queries among candidates; where the last that it takes and
    the first that it leaves are almost tied, rounding decides, so such an image's queries count in proportion to their
    margin; its candidates always count in full.

    Args:
        logits: Shape (queries, classes).
        boxes: Shape (queries, 4).
        candidates: Shape (candidates, classes), or None.

    Returns:
        Shape (queries * (classes + 4) + candidates * classes,).
    """
    import torch

    columns = torch.cat([logits, boxes], dim=-1).float().sort(dim=0).values
    if candidates is None:
        return columns.flatten().cpu().numpy()
    if len(candidates) > len(logits):
        ranked = candidates.float().max(dim=-1).values.sort(descending=True).values
        columns = columns * ((ranked[len(logits) - 1] - ranked[len(logits)]) / _TIE_MARGIN).clamp(max=1.0)
    return torch.cat([columns.flatten(), candidates.float().sort(dim=0).values.flatten()]).cpu().numpy()


def compute_detections(logits: np.ndarray, boxes: np.ndarray, classes: int, max_detections: int = 100) -> np.ndarray:
    """Turn a detector's outputs for one image into what it found, the surest first.

    Logits of one class more than there are have a softmax over classes and none, and a query finds its likeliest class
    (DETR, Carion et al. 2020); others are independent, and the likeliest pairs of query and class are found
    (Deformable DETR, Zhu et al. 2020).

    Args:
        logits: Shape (queries, classes or classes + 1).
        boxes: Centre, width and height in shares of the image, shape (queries, 4).
        classes: Number of classes.
        max_detections: Most pairs to return.

    Returns:
        Class, score, left, top, width and height in shares of the image, shape (found, 6), float64.
    """
    from scipy.special import expit, softmax

    logits, boxes = np.asarray(logits, dtype=float), np.asarray(boxes, dtype=float)
    if logits.shape[1] == classes + 1:
        probabilities = softmax(logits, axis=1)[:, :-1]
        labels, scores, places = probabilities.argmax(axis=1), probabilities.max(axis=1), np.arange(len(logits))
    else:
        scores = expit(logits).ravel()
        places, labels = np.divmod(np.arange(len(scores)), logits.shape[1])
    best = np.argsort(-scores, kind="stable")[: min(max_detections, len(logits))]
    chosen = boxes[places[best]]
    corner = chosen[:, :2] - chosen[:, 2:] / 2
    return np.column_stack([labels[best], scores[best], corner, chosen[:, 2:]])


# From scratch --------------------------------------------------------------------------------------------------------


def build_scratch_detector(
    label_names: Sequence[str], model: ScratchDetector, attention_kernel: str | None
) -> tuple[Any, TaskModel]:
    """Return an image processor and a small RT-DETR (Zhao et al. 2023) with random weights.

    A ResNet of basic blocks makes maps of features at strides of 8 and 16 pixels, an encoder mixes them, and a decoder
    refines the likeliest places to boxes.

    Args:
        label_names: Names of the classes.
        model: Width, decoder layers, heads, queries, image size, dropout.
        attention_kernel: eager or sdpa.

    Raises:
        UserError: If the image is too small for the strides or the queries.
    """
    from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig
    from transformers.models.rt_detr.image_processing_pil_rt_detr import RTDetrImageProcessorPil

    size, width = model.image_size, model.width
    if size % _STRIDES[-1]:
        raise UserError(f"model.image_size ({size}) must be a multiple of {_STRIDES[-1]}; try {-(-size // 16) * 16}")
    places = sum((size // stride) ** 2 for stride in _STRIDES)
    if not 1 <= model.queries <= places:
        raise UserError(
            f"model.queries ({model.queries}) must be from 1 to {places}, the places in an image of {size} x {size}"
        )
    maps, inner = len(_STRIDES), model.inner_width or 4 * width
    hidden = [width // 2, width, 2 * width]
    backbone = RTDetrResNetConfig(
        embedding_size=width // 2, hidden_sizes=hidden, depths=[1, 1, 1], layer_type="basic", out_indices=[2, 3]
    )
    config = RTDetrConfig(
        backbone_config=backbone,
        freeze_backbone_batch_norms=False,
        encoder_in_channels=hidden[1:],
        feat_strides=list(_STRIDES),
        encode_proj_layers=[maps - 1],
        num_feature_levels=maps,
        encoder_hidden_dim=width,
        decoder_in_channels=[width] * maps,
        d_model=width,
        encoder_ffn_dim=inner,
        decoder_ffn_dim=inner,
        encoder_attention_heads=model.heads,
        decoder_attention_heads=model.heads,
        decoder_layers=model.layers,
        hidden_expansion=0.5,
        num_queries=model.queries,
        num_denoising=2 * model.queries,
        dropout=model.dropout,
        initializer_range=_INITIAL_SPREAD,
        num_labels=len(label_names),
        **name_labels(label_names),
    )
    kernels = {"": attention_kernel, "backbone_config": "eager"}  # convolutions know one kind alone
    network = RTDetrForObjectDetection._from_config(config, attn_implementation=kernels)
    processor = RTDetrImageProcessorPil(
        size={"height": size, "width": size}, do_normalize=True, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return processor, TaskModel(network)
