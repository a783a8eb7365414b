"""YOLO's boxes (https://docs.ultralytics.com/datasets/detect): a text file for each image, and data.yaml with names.

A line is a class number and the box's middle, width and height as shares of the image's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from startup_llm.data.bad_rows import Fault
from startup_llm.data.row_source import RowSource
from startup_llm.data.sources import SPLIT_ALIASES, find_split_folders
from startup_llm.errors import UserError
from startup_llm.tasks.vision.box_sources import (
    IMAGE_EXTENSIONS,
    BoxedImage,
    BoxSource,
    build_image_table,
    hash_files,
    list_images,
    refer_to_files,
)

YAML_FILES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
CLASS_FILES = ("classes.txt", "obj.names")
_EXPECTED = "expected a class number, then the box's middle, width and height as shares of the image (0 to 1)"


@dataclass
class _Split:
    """A split: where its images are, its boxes, and what cannot be used."""

    images: list[Path]
    boxed: list[BoxedImage] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    label_files: list[Path] = field(default_factory=list)


def find_yolo_file(folder: Path) -> Path | None:
    """Return the file that names the classes of a folder in YOLO's form; None where the folder is of another form."""
    return next((folder / name for name in (*YAML_FILES, *CLASS_FILES) if (folder / name).is_file()), None)


def refuse_unnamed_classes(folder: Path) -> None:
    """Refuse a folder of boxes in YOLO's form whose classes have no names.

    Raises:
        UserError: If there are boxes beside images.
    """
    stems = {path.stem for path in list_images(folder)}
    beside = sorted(path for path in folder.glob("*.txt") if path.stem in stems)
    if beside:
        raise UserError(
            f"data.data_dir ({folder}): {beside[0].name} lies beside its image, as boxes in YOLO's form do, but there "
            "is no data.yaml; add it, with the names of the class numbers: names: [NAME, NAME]"
        )


def load_yolo(file: Path) -> BoxSource:
    """Read a folder in YOLO's form.

    Args:
        file: data.yaml, or classes.txt with a name a line.

    Raises:
        UserError: If the file names no classes or a split's folder is missing.
    """
    names, places = _read_names(file)
    if not places:
        places = _find_split_folders(file.parent)
    splits = {split: _read_split(places_of_split, names) for split, places_of_split in places.items()}
    records = []
    for split, part in splits.items():
        digest = hash_files([file, *part.label_files])
        records.append({"split": split, "dataset": str(file.parent), "rows": len(part.images), "sha256": digest})
    empty = sum(not image.objects for part in splits.values() for image in part.boxed)
    note = f"{file.parent}: read as YOLO's boxes, {len(names)} classes by {file.name}"
    note += f", {empty:,} images without a box." if empty else "."
    return BoxSource(
        {split: part.boxed for split, part in splits.items()},
        {split: build_image_table(refer_to_files(part.images)) for split, part in splits.items()},
        tuple(names.values()),
        {split: part.faults for split, part in splits.items()},
        [note],
        records,
    )


def _read_names(file: Path) -> tuple[dict[int, str], dict[str, list[Path]]]:
    """Return the names of the class numbers, and the images or folders of each split that the file names."""
    import yaml

    if file.name in CLASS_FILES:
        return {number: name.strip() for number, name in enumerate(_read_lines(file)) if name.strip()}, {}
    try:
        content = yaml.safe_load("\n".join(_read_lines(file)))
    except yaml.YAMLError as error:
        raise UserError(f"{file} is no YAML file: {' '.join(str(error).split())}") from None
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names or not all(isinstance(key, int) for key in names):
        raise UserError(f"{file}: 'names' is {str(names)[:60]}, expected the names of the classes: [NAME, NAME]")
    root = file.parent
    if content.get("path"):  # from where the file lies, or as the person who wrote it had it
        named = (file.parent / str(content["path"]), file.parent)
        root = next(place for place in named if place.is_dir())
    places = {}
    for key, split in SPLIT_ALIASES.items():
        if value := content.get(key):
            values = value if isinstance(value, list) else [value]
            places[split] = [_find_place(root, file, str(one), key) for one in values]
    return {int(key): str(name) for key, name in sorted(names.items())}, places


def _read_lines(file: Path) -> list[str]:
    """Read a text file as all are read: UTF-8, or as it is recognised."""
    return RowSource(str(file), "lines").read_lines()


def _find_place(root: Path, file: Path, value: str, key: str) -> Path:
    """Return what a split's entry names; Roboflow writes `../train/images` for train/images."""
    tried = [root / value, file.parent / value, file.parent / value.removeprefix("../")]
    for place in tried:
        if place.exists():
            return place
    raise UserError(f"{file}: {key} is {value!r}, and there is no {tried[0]}; name the folder of its images")


def _find_split_folders(folder: Path) -> dict[str, list[Path]]:
    """Return the folders of images by split: train/images, images/train, or one for training."""
    for base in (folder, folder / "images"):
        entries = sorted(base.iterdir()) if base.is_dir() else []
        named = find_split_folders(entries)
        if "train" in named:
            return {split: [_find_images_below(entry)] for split, entry in named.items()}
    return {"train": [_find_images_below(folder)]}


def _find_images_below(folder: Path) -> Path:
    return folder / "images" if (folder / "images").is_dir() else folder


def _read_split(places: list[Path], names: Mapping[int, str]) -> _Split:
    images, folders = [], []
    for place in places:
        if place.is_dir():
            place = _find_images_below(place)
            found = sorted(path for path in place.rglob("*") if path.suffix.lower() in IMAGE_EXTENSIONS)
            folders += sorted({place, *(path.parent for path in found)})
        else:
            lines = (line.strip() for line in _read_lines(place))
            found = [place.parent / line for line in lines if line]
        images += found
    if not images:
        raise UserError(f"{', '.join(map(str, places))}: no images; expected files such as {IMAGE_EXTENSIONS[0]}")
    split = _Split(images)
    known = set()
    for path in images:
        image = BoxedImage(path.name, None, is_relative=True)
        label_file = _find_label_file(path)
        known.add(label_file)
        if label_file.is_file():
            split.label_files.append(label_file)
            _read_boxes(label_file, image, names)
        split.boxed.append(image)
    for folder in folders:
        for label_file in sorted(_find_label_file(folder / "x.jpg").parent.glob("*.txt")):
            if label_file not in known and label_file.name not in CLASS_FILES and label_file.stat().st_size:
                reason = f"no image {label_file.stem}{IMAGE_EXTENSIONS[0]} (.png, ...)"
                split.faults.append(Fault(0, reason, "box without an image", str(label_file)))
    return split


def _find_label_file(image: Path) -> Path:
    """Return where an image's boxes stand: in labels/ instead of images/, or else beside it."""
    parts = list(image.parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            folder = Path(*parts[:place], "labels", *parts[place + 1 : -1])
            if folder.is_dir():
                return folder / f"{image.stem}.txt"
            break
    return image.with_suffix(".txt")


def _read_boxes(file: Path, image: BoxedImage, names: Mapping[int, str]) -> None:
    """Add a file's boxes to its image, each named by the line that it stands in."""
    for number, line in enumerate(_read_lines(file), start=1):
        if not (words := line.split()):
            continue
        category, box = _read_line(words, names)
        image.objects.append((f"{file.name} line {number}", category, box, False))


def _read_line(words: list[str], names: Mapping[int, str]) -> tuple[str, Any]:
    """Return the category, or a fault's text after `!`, and left, top, width and height as shares."""
    try:
        values = [float(word) for word in words]
    except ValueError:
        return f"!{' '.join(words)[:60]!r}; {_EXPECTED}", None
    if len(values) != 5 or not all(map(math.isfinite, values)) or not values[0].is_integer():
        return f"!{' '.join(words)[:60]!r}; {_EXPECTED}", None
    if (number := int(values[0])) not in names:
        return f"!class {number}, which has no name; the names are {min(names)} to {max(names)}", None
    across, down, width, height = values[1:]
    if max(values[1:]) > 1.5:
        return f"!its box is {words[1:]}; {_EXPECTED}", None
    return names[number], [across - width / 2, down - height / 2, width, height]
