"""Tiny detectors of every kind on disk, and pictures of coloured squares in COCO's form."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

COLORS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 60, 220)}
_RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1], "layer_type": "basic"}
_DETR = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "num_queries": 6,
    "use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None,
}  # fmt: skip
_RT_DETR = {
    "d_model": 32, "encoder_hidden_dim": 32, "encoder_in_channels": [16, 16, 32], "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "decoder_layers": 2,
    "num_queries": 6, "num_denoising": 8, "decoder_in_channels": [32, 32, 32], "hidden_expansion": 0.5,
}  # fmt: skip
_KINDS = {
    "detr": ("resnet", ["stage4"], _DETR),
    "conditional_detr": ("resnet", ["stage4"], _DETR),
    "rt_detr": ("rt_detr_resnet", ["stage2", "stage3", "stage4"], _RT_DETR),
    "rt_detr_v2": ("rt_detr_resnet", ["stage2", "stage3", "stage4"], _RT_DETR),
}
ARCHITECTURES = tuple(_KINDS)


def build_detector(model_type: str, folder: Path, labels: int = 5) -> Path:
    """Write a detector with random weights for so many classes, and its image processor."""
    import torch
    from transformers import AutoConfig, AutoModelForObjectDetection, ResNetConfig, RTDetrResNetConfig
    from transformers.models.conditional_detr.image_processing_pil_conditional_detr import (
        ConditionalDetrImageProcessorPil,
    )
    from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil
    from transformers.models.rt_detr.image_processing_pil_rt_detr import RTDetrImageProcessorPil

    kind, stages, settings = _KINDS[model_type]
    backbone = (ResNetConfig if kind == "resnet" else RTDetrResNetConfig)(**_RESNET, out_features=stages)
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **settings, backbone_config=backbone, num_labels=labels)
    model = AutoModelForObjectDetection.from_config(config)
    for parameter in model.parameters():  # the weights spread more than usual, so that a wrong layer shows
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    if kind == "resnet":
        processor = DetrImageProcessorPil if model_type == "detr" else ConditionalDetrImageProcessorPil
        processor(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(folder)
    else:
        RTDetrImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def paint_squares(seed: int, size: tuple[int, int] = (48, 40)) -> tuple[Image.Image, list[tuple[str, list[int]]]]:
    """Return a picture of one to three coloured squares, and for each its colour and left, top, width and height."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(225, 245, (size[1], size[0], 3), dtype=np.uint8)
    squares = []
    for place in range(generator.integers(1, 4)):
        edge = int(generator.integers(9, 13))
        left, top = place * 16 + int(generator.integers(0, 4)), int(generator.integers(0, size[1] - edge))
        name = list(COLORS)[generator.integers(3)]
        pixels[top : top + edge, left : left + edge] = COLORS[name]
        squares.append((name, [left, top, edge, edge]))
    return Image.fromarray(pixels), squares


def write_coco(folder: Path, file: Path, count: int, *, first: int = 0, size: tuple[int, int] = (48, 40)) -> dict:
    """Write pictures into a folder and an annotation file of COCO's form; returns what the file says."""
    folder.mkdir(parents=True, exist_ok=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    ids = {"red": 3, "green": 7, "blue": 11}
    content: dict = {"images": [], "annotations": [], "categories": [{"id": 0, "name": "things"}]}
    content["categories"] += [{"id": number, "name": name} for name, number in ids.items()]
    for number in range(first, first + count):
        image, squares = paint_squares(number, size)
        image.save(folder / f"{number}.png")
        content["images"].append({"id": number, "file_name": f"{number}.png", "width": size[0], "height": size[1]})
        for name, box in squares:
            entry = {"id": len(content["annotations"]) + 1, "image_id": number, "category_id": ids[name], "bbox": box}
            content["annotations"].append({**entry, "area": box[2] * box[3], "iscrowd": 0})
    file.write_text(json.dumps(content))
    return content


def write_yolo(folder: Path, split: str, count: int, *, first: int = 0, beside: bool = False) -> None:
    """Write pictures into images/SPLIT and their boxes into labels/SPLIT, or all into one folder, as YOLO has them."""
    images = folder if beside else folder / "images" / split
    labels = folder if beside else folder / "labels" / split
    for place in (images, labels):
        place.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        image, squares = paint_squares(number)
        image.save(images / f"{number}.png")
        lines = []
        for name, (left, top, width, height) in squares:
            middle = (left + width / 2) / image.width, (top + height / 2) / image.height
            shares = (*middle, width / image.width, height / image.height)
            lines.append(" ".join([str(list(COLORS).index(name)), *(f"{share:.6f}" for share in shares)]))
        (labels / f"{number}.txt").write_text("\n".join(lines) + "\n")


def write_voc(images: Path, annotations: Path, count: int, *, first: int = 0) -> None:
    """Write pictures into a folder and an XML file for each into another, as Pascal VOC has them."""
    images.mkdir(parents=True, exist_ok=True)
    annotations.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        image, squares = paint_squares(number)
        image.save(images / f"{number}.png")
        objects = "".join(
            f"<object><name>{name}</name><pose>Unspecified</pose><truncated>0</truncated><difficult>0</difficult>"
            f"<bndbox><xmin>{left}</xmin><ymin>{top}</ymin><xmax>{left + width}</xmax><ymax>{top + height}</ymax>"
            "</bndbox></object>"
            for name, (left, top, width, height) in squares
        )
        (annotations / f"{number}.xml").write_text(
            f"<annotation><folder>x</folder><filename>{number}.png</filename><size><width>{image.width}</width>"
            f"<height>{image.height}</height><depth>3</depth></size>{objects}</annotation>"
        )


def check_colors(rows, names) -> None:
    """Hold each box against the picture's pixels: inside it, all is of the label's colour."""
    from startup_llm.tasks.vision.labelled_images import read_images

    for image, objects in zip(read_images(rows), rows["objects"], strict=True):
        pixels = np.asarray(image)
        assert objects["bbox"]
        for category, box in zip(objects["category"], objects["bbox"], strict=True):
            left, top, width, height = map(round, box)
            inside = pixels[top : top + height, left : left + width].reshape(-1, 3)
            assert inside.size
            assert (inside == COLORS[names[category]]).all()
