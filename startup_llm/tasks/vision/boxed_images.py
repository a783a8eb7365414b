"""Images with boxes: COCO's, YOLO's and Pascal VOC's files, tables of the Hub's form, and drawn scenes of digits."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from startup_llm.data.bad_rows import BadRows, Fault
from startup_llm.data.classification import order_names, read_class_names
from startup_llm.data.row_source import check_file
from startup_llm.data.sources import SPLIT_ALIASES, choose_splits, list_asked_splits, load_splits
from startup_llm.data.splits import handle_overlap, make_splits, read_groups, sample_rows
from startup_llm.data.task_data import TaskData
from startup_llm.errors import UserError, nearest
from startup_llm.tasks.vision.box_sources import BoxedImage, BoxSource, build_image_table
from startup_llm.tasks.vision.labelled_images import (
    find_image_column,
    measure_image,
    read_bytes,
    read_image,
)
from startup_llm.tasks.vision.options import DetectionData
from startup_llm.tasks.vision.pascal_voc import load_voc
from startup_llm.tasks.vision.yolo import find_yolo_file, load_yolo, refuse_unnamed_classes

if TYPE_CHECKING:
    import datasets

DIGIT_SCENES = "digits-scenes"
"""Name of the dataset that is drawn from scikit-learn's digits."""
ROBOFLOW_FILE = "_annotations.coco.json"
MOST_OVERHANG_PIXELS = 1.0
"""A box that leaves its image by no more is cut at the edge without a word: annotators round."""
_BOX_KEYS = ("bbox", "bboxes", "boxes", "box")
_CATEGORY_KEYS = ("category", "categories", "category_id", "label", "labels", "class")
_ID_KEYS = ("id", "bbox_id", "annotation_id")
_CROWD_KEYS = ("iscrowd", "is_crowd", "crowd")
_SHOWN = 5


def load_boxed_images(data: DetectionData) -> TaskData:
    """Load images with boxes, look into each, and cut the splits that the source does not give.

    An image stays the file that it is; `read_image` turns it as its EXIF says, and so are its boxes, where the source
    states the size of the picture as the camera stored it.

    Returns:
        Splits with image, width and height (as read, in pixels), objects and row. `objects` holds lists: id; category,
        a class id; bbox: left, top, width and height in pixels; crowd: 1 where a box holds a crowd that neither counts
        for nor against a detector.

    Raises:
        UserError: If a source or a column is missing, an image or a box cannot be used (see `data.skip_bad`), or boxes
            are shares of their images' sizes.
    """
    import datasets

    source = _load(data)
    for split, images in source.splits.items():
        _refuse_normalized_boxes(split, images)
    ids = {name: number for number, name in enumerate(source.label_names)}
    splits, notes, bad_rows = {}, list(source.notes), BadRows(data.skip_bad)
    for split, images in source.splits.items():
        table, faults = source.tables[split], source.faults.get(split, [])
        splits[split], image_notes = _check_images(images, table, split, ids, faults, bad_rows)
        notes += image_notes
    notes += bad_rows.notes
    group_by = "group" if data.group_column else None
    cut, split_notes = make_splits(datasets.DatasetDict(splits), data, group_by=group_by, group_name=data.group_column)
    notes += split_notes
    cut, overlap_notes = handle_overlap(cut, data.remove_overlap, "images")
    notes += overlap_notes + _check_categories(cut, source.label_names)
    for split, count in (("train", data.max_train_rows), ("test", data.max_test_rows)):
        if count is not None:
            cut[split] = sample_rows(cut[split], count, data.split_seed)
    cut = cut.remove_columns(["digest", "group"])
    return TaskData(cut, source.label_names, "", notes, source.records, left_out=dict(bad_rows.left_out))


def _features() -> datasets.Features:
    """Return the types of what stands beside an image."""
    import datasets

    whole, real = datasets.Value("int64"), datasets.Value("float64")
    objects = {"id": datasets.Value("string"), "category": whole, "bbox": datasets.List(real), "crowd": whole}
    return datasets.Features(
        {
            "width": whole,
            "height": whole,
            "objects": {name: datasets.List(feature) for name, feature in objects.items()},
            "row": whole,
            "digest": datasets.Value("string"),
            "group": datasets.Value("string"),
        }
    )


# Sources -------------------------------------------------------------------------------------------------------------


def _load(data: DetectionData) -> BoxSource:
    files = {"train": data.train_file, "validation": data.validation_file, "test": data.test_file}
    named = {split: Path(file) for split, file in files.items() if isinstance(file, str) and file.endswith(".json")}
    if data.data_dir:
        folder = Path(data.data_dir)
        if not folder.is_dir():
            siblings = [entry.name for entry in folder.parent.iterdir()] if folder.parent.is_dir() else []
            raise UserError(f"data.data_dir: no such folder: {folder}{nearest(folder.name, siblings)}")
        yolo_file = find_yolo_file(folder)  # before a JSON file of notes is taken for COCO's
        if yolo_file is None and (coco_files := _find_coco_files(folder, data)):
            return _load_coco(coco_files, data.group_column)
        if source := load_yolo(yolo_file) if yolo_file else load_voc(folder):
            return _choose_parts(source, data)
        refuse_unnamed_classes(folder)
    elif isinstance(data.train_file, str) and data.train_file.endswith((".yaml", ".yml")):
        if data.validation_file or data.test_file:
            raise UserError(f"data.train_file {data.train_file} names the folders of every split; give no other file")
        check_file(Path(data.train_file))
        return _choose_parts(load_yolo(Path(data.train_file)), data)
    elif named:
        if "train" not in named:
            split, file = next(iter(named.items()))
            raise UserError(f"data.{split}_file ({file}) is given without data.train_file; name the training file too")
        return _load_coco(named, data.group_column)
    elif data.dataset == DIGIT_SCENES and not data.train_file:
        if data.group_column:
            raise UserError(f"data.group_column {data.group_column}: {DIGIT_SCENES} has no groups; leave it out")
        return _load_digit_scenes(data.split_seed)
    return _load_table(data)


def _choose_parts(source: BoxSource, data: DetectionData) -> BoxSource:
    """Return the splits of a folder in YOLO's or Pascal VOC's form that the options choose.

    Raises:
        UserError: If there is none to train on, or groups are named.
    """
    if data.group_column:
        raise UserError(f"data.group_column {data.group_column!r}: {source.notes[0]} It has no groups; leave it out")
    asked = list_asked_splits(data)
    named = {split: SPLIT_ALIASES.get(name, name) for split, name in asked.items()}
    for split, name in named.items():
        if name not in source.splits:
            raise UserError(f"data.{split}_split: no split {asked[split]!r}, only {', '.join(source.splits)}")
    chosen = choose_splits(named, list(source.splits), data)
    if "train" not in chosen:
        raise UserError(
            f"{data.data_dir or data.train_file}: no train split, only {', '.join(source.splits)}; name it: "
            "--data.train_split"
        )
    records = {record["split"]: record for record in source.records}
    return replace(
        source,
        splits={split: source.splits[name] for split, name in chosen.items()},
        tables={split: source.tables[name] for split, name in chosen.items()},
        faults={split: source.faults[name] for split, name in chosen.items()},
        records=[{**records[name], "split": split} for split, name in chosen.items()],
    )


def _find_coco_files(folder: Path, data: DetectionData) -> dict[str, Path]:
    """Find the annotation file of each split; none where the folder has no JSON file of COCO's form."""
    files: dict[str, Path] = {}
    for path in sorted(
        [*folder.glob("*.json"), *folder.glob("annotations/*.json"), *folder.glob(f"*/{ROBOFLOW_FILE}")]
    ):
        name = path.parent.name if path.name == ROBOFLOW_FILE and path.parent != folder else path.stem
        words = re.sub(r"\d+$", "", re.sub(r"^(instances|annotations)_?", "", name.lower().removeprefix("_")))
        if path.parent.name == "annotations" and path.parent.parent == folder and not name.startswith("instances"):
            continue  # COCO's own keypoints and captions
        split = SPLIT_ALIASES.get(words, "train" if words in ("", "annotations", ".coco", "coco") else words)
        if split in files:
            raise UserError(
                f"data.data_dir ({folder}): {files[split].name} and {path.name} are both {split}; keep one"
            )
        files[split] = path
    asked = {split: SPLIT_ALIASES.get(name, name) for split, name in list_asked_splits(data).items()}
    chosen = choose_splits({split: name for split, name in asked.items() if name in files}, list(files), data)
    if files and "train" not in chosen:
        raise UserError(
            f"data.data_dir ({folder}): no annotations of a training split among "
            f"{', '.join(str(path.relative_to(folder)) for path in files.values())}; expected instances_train.json, "
            f"annotations/instances_train2017.json or train/{ROBOFLOW_FILE}"
        )
    return {split: files[name] for split, name in chosen.items()}


def _load_coco(files: Mapping[str, Path], group_key: str | None) -> BoxSource:
    """Read annotation files of COCO's form, whose images lie beside them or in the usual folders.

    Args:
        files: The file of each split.
        group_key: What holds the group in an entry of `images`; None for no groups.

    Raises:
        UserError: If a file is not of that form, or an image has no group.
    """
    contents = {split: _read_coco(path) for split, path in files.items()}
    names: dict[str, None] = {}
    for content in contents.values():
        used = {annotation.get("category_id") for annotation in content["annotations"] if isinstance(annotation, dict)}
        for category in sorted(content["categories"], key=lambda category: category["id"]):
            if category["id"] in used:
                names.setdefault(str(category["name"]))
    splits, places, faults, records = {}, {}, {}, []
    for split, path in files.items():
        content = contents[split]
        categories = {category["id"]: str(category["name"]) for category in content["categories"]}
        images = {image["id"]: BoxedImage(str(image["file_name"]), _read_size(image)) for image in content["images"]}
        if group_key:
            _read_coco_groups(path, content["images"], group_key, images)
        faults[split] = []
        for annotation in content["annotations"]:
            number, image = annotation.get("id", "without an id"), images.get(annotation.get("image_id"))
            if image is None:
                reason = f"no image has the id {annotation.get('image_id')!r}"
                faults[split].append(Fault(0, reason, "box without an image", f"annotation {number}"))
                continue
            category = annotation.get("category_id")
            name = categories.get(category, f"!no category has the id {category!r}")
            image.objects.append((number, name, annotation.get("bbox"), bool(annotation.get("iscrowd"))))
        splits[split] = list(images.values())
        places[split] = [{"bytes": None, "path": str(_find_coco_image(path, image.name))} for image in splits[split]]
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        records.append({"split": split, "dataset": str(path), "rows": len(images), "sha256": digest})
    tables = {split: build_image_table(files) for split, files in places.items()}
    return BoxSource(splits, tables, tuple(names), faults, [], records)


def _read_coco_groups(
    path: Path, entries: Sequence[dict[str, Any]], key: str, images: Mapping[Any, BoxedImage]
) -> None:
    lacking = [entry for entry in entries if entry.get(key) in (None, "")]
    if lacking:
        known = sorted({name for entry in entries for name in entry})
        raise UserError(
            f"data.group_column: {path}: {len(lacking)} of {len(entries)} entries of 'images' have no {key!r} "
            f"({lacking[0]['file_name']}); they have {', '.join(known)}{nearest(key, known)}"
        )
    for entry in entries:
        images[entry["id"]].group = str(entry[key])


def _read_coco(path: Path) -> dict[str, list[Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(f"no such file: {path}{nearest(path.name, siblings)}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no JSON file: {error}") from None
    for part, needs in (("images", ("id", "file_name")), ("annotations", ()), ("categories", ("id", "name"))):
        entries = content.get(part) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise UserError(f"{path}: no list {part!r}; expected COCO's form, with images, annotations and categories")
        for place, entry in enumerate(entries, start=1):
            if lacking := [key for key in needs if key not in entry]:
                raise UserError(f"{path}: entry {place} of {part!r} has no {lacking[0]!r}; add it")
    return content


def _find_coco_image(path: Path, name: str) -> Path:
    """Return where an annotation file's image lies: beside it, or in one of the usual folders."""
    split = path.stem.removeprefix("instances_")
    bases = [path.parent, path.parent / "images", path.parent / split]
    if path.parent.name == "annotations":
        outer = path.parent.parent
        bases += [outer / split, outer / "images" / split, outer / "images", outer]
    return next((base / name for base in bases if (base / name).is_file()), path.parent / name).absolute()


def _read_size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    return (image["width"], image["height"]) if image.get("width") and image.get("height") else None


def _load_table(data: DetectionData) -> BoxSource:
    """Read rows with an image and its objects, as the Hub's detection datasets have them."""
    loaded = load_splits(data)
    first = loaded.splits["train"]
    image, objects = find_image_column(first.features), _find_objects_column(first)
    keys = _find_object_keys(first.features[objects], objects)
    class_names = read_class_names(_inner_features(first.features[objects])[keys["category"]])
    splits, tables = {}, {}
    for split, rows in loaded.splits.items():
        splits[split] = list(_read_table(rows.remove_columns(image), objects, keys, class_names, data.box_format))
        if data.group_column:
            for entry, group in zip(splits[split], read_groups(rows, data.group_column), strict=True):
                entry.group = group
        table = rows.select_columns([image])
        tables[split] = table if image == "image" else table.rename_column(image, "image")
    used = (
        [o[1] for o in image.objects if not o[1].startswith("!")] for images in splits.values() for image in images
    )
    feature = _inner_features(first.features[objects])[keys["category"]]
    return BoxSource(splits, tables, order_names(feature, used), {}, loaded.notes, loaded.sources)


def _find_objects_column(rows: datasets.Dataset) -> str:
    candidates = [name for name, feature in rows.features.items() if set(_inner_features(feature)) & set(_BOX_KEYS)]
    if len(candidates) == 1:
        return candidates[0]
    raise UserError(
        f"{len(candidates)} columns with boxes ({', '.join(candidates) or 'none'}) among "
        f"{', '.join(rows.column_names)}; expected one such as objects, with bbox and category for each object, or "
        "COCO's annotation files in --data.data_dir"
    )


def _inner_features(feature: Any) -> Mapping[str, Any]:
    """Return the features of one object, of a column with lists of objects or with an object of lists."""
    import datasets

    if isinstance(feature, (datasets.List, datasets.LargeList)):
        feature = feature.feature
    if not isinstance(feature, dict):
        return {}
    kinds = (datasets.List, datasets.LargeList)
    return {name: part.feature if isinstance(part, kinds) else part for name, part in feature.items()}


def _find_object_keys(feature: Any, column: str) -> dict[str, str | None]:
    known = _inner_features(feature)
    kinds = {"box": _BOX_KEYS, "category": _CATEGORY_KEYS, "id": _ID_KEYS, "crowd": _CROWD_KEYS}
    keys_of_kind = {kind: next((key for key in keys if key in known), None) for kind, keys in kinds.items()}
    if keys_of_kind["category"] is None:
        raise UserError(f"column {column!r} has {', '.join(known)}, but none of {', '.join(_CATEGORY_KEYS)}; add it")
    return keys_of_kind


def _read_table(
    rows: datasets.Dataset,
    objects: str,
    keys: Mapping[str, str | None],
    class_names: list[str],
    box_format: str,
) -> Iterator[BoxedImage]:
    for number, row in enumerate(rows, start=1):
        value = row[objects] or []
        rows_of_table = (
            dict(value)
            if isinstance(value, dict)
            else {k: [o.get(k) for o in value] for k in set(keys.values()) - {None}}
        )
        boxes = rows_of_table[keys["box"]] or []
        numbers = rows_of_table[keys["id"]] if keys["id"] else range(1, len(boxes) + 1)
        crowds = rows_of_table[keys["crowd"]] if keys["crowd"] else [0] * len(boxes)
        image = BoxedImage(f"row {number}", _read_size(row))
        for identity, category, box, crowd in zip(
            numbers, rows_of_table[keys["category"]], boxes, crowds, strict=True
        ):
            box = _to_left_top_size(box) if box_format == "xyxy" else box
            image.objects.append((identity, _name_category(category, class_names), box, bool(crowd)))
        yield image


def _name_category(value: Any, class_names: list[str]) -> str:
    if value is None or value == "":
        return "!has no category"
    if class_names and isinstance(value, int):
        return class_names[value] if 0 <= value < len(class_names) else f"!no category has the id {value}"
    return str(value)


def _to_left_top_size(box: Any) -> Any:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]] if isinstance(box, list) and len(box) == 4 else box


def _load_digit_scenes(seed: int) -> BoxSource:
    import sklearn

    from startup_llm.tasks.vision.digit_scenes import CANVAS_PIXELS, build_digit_scenes

    splits, tables, records = {}, {}, []
    for split, scenes in build_digit_scenes(seed).items():
        splits[split] = [
            BoxedImage(
                f"scene {number}",
                (CANVAS_PIXELS, CANVAS_PIXELS),
                [(place, str(label), box, False) for place, (label, box) in enumerate(_pairs(scene), start=1)],
            )
            for number, scene in enumerate(scenes, start=1)
        ]
        tables[split] = build_image_table([{"bytes": scene.png, "path": None} for scene in scenes])
        digest = hashlib.sha256(b"".join(scene.png for scene in scenes)).hexdigest()
        package = f"scikit-learn {sklearn.__version__}"
        records.append(
            {"split": split, "dataset": DIGIT_SCENES, "package": package, "rows": len(scenes), "sha256": digest}
        )
    note = (
        f"Scenes of {CANVAS_PIXELS}x{CANVAS_PIXELS} pixels drawn by seed {seed}, on which scikit-learn's scanned "
        "digits stand; no scan stands in two splits."
    )
    return BoxSource(splits, tables, tuple("0123456789"), {}, [note], records)


def _pairs(scene: Any) -> Iterator[tuple[int, Sequence[float]]]:
    return zip(scene.labels, scene.boxes, strict=True)


# Checks --------------------------------------------------------------------------------------------------------------


def _refuse_normalized_boxes(split: str, images: Sequence[BoxedImage]) -> None:
    """Refuse a split whose boxes all lie within the first pixel: they are shares of their images' sizes."""
    first, count = "", 0
    for image in images:
        for identity, _, box, _ in image.objects:
            if image.is_relative or not _is_box(box):
                continue  # meant so, or reported with the image
            if not all(0 <= value <= 1 for value in box):
                return
            first, count = first or f"{image.name}: annotation {identity}: {_show_box(box)}", count + 1
    if count:
        what = f"all {count:,} boxes lie" if count > 1 else "the only box lies"
        raise UserError(
            f"{split} split: {what} within 0 to 1 ({first}), as a share of an image's width and height does; expected "
            "pixels: multiply what is measured across by the image's width and what is measured down by its height"
        )


def _check_images(
    images: Sequence[BoxedImage],
    table: datasets.Dataset,
    split: str,
    ids: Mapping[str, int],
    faults: Sequence[Fault],
    bad_rows: BadRows,
) -> tuple[datasets.Dataset, list[str]]:
    """Decode every image of a split once and hold its boxes against it.

    Returns:
        The images that can be used, and a note on boxes that were cut.
    """
    import datasets

    columns: dict[str, list[Any]] = {name: [] for name in _features()}
    keep, trimmed = [], []
    bad = list(faults)
    for number, (image, value) in enumerate(
        zip(images, table.cast_column("image", datasets.Image(decode=False)), strict=True), start=1
    ):
        content, size = b"", (0, 0)
        objects: dict[str, list[Any]] = {"id": [], "category": [], "bbox": [], "crowd": []}
        columns["objects"].append(objects)
        columns["row"].append(number)
        columns["group"].append(image.group)
        try:
            content = read_bytes(value["image"])
            size = read_image(content).size
            turn = _find_turn(content, image.size)
            keep.append(number - 1)
        except (UserError, OSError) as error:
            reason = "no such file" if isinstance(error, FileNotFoundError) else str(error)
            bad.append(Fault(0, reason, "unreadable image", image.name))
        for name, figure in (("width", size[0]), ("height", size[1]), ("digest", hashlib.sha256(content).hexdigest())):
            columns[name].append(figure)
        if not keep or keep[-1] != number - 1:
            continue
        found, overhanging = _check_boxes(image, ids, turn, size, objects, bad_rows.skip_bad)
        bad += found
        trimmed += overhanging
    table = table.cast_column("image", datasets.Image())
    for name, feature in _features().items():
        table = table.add_column(name, columns[name], feature=feature)
    table = table.select(keep) if len(keep) < len(table) else table
    what, total = "images and boxes", len(images) + len(faults) + sum(len(image.objects) for image in images)
    bad_rows.leave_out(bad, total, f"{split} split", what, usable=(total - len(bad)) if keep else 0)
    if not trimmed:
        return table, []
    reach = "1 box reaches" if len(trimmed) == 1 else f"{len(trimmed):,} boxes reach"
    return table, [f"{split} split: {reach} outside of the image, to whose edge it is cut (first: {trimmed[0]})."]


def _check_boxes(
    image: BoxedImage,
    ids: Mapping[str, int],
    turn: tuple[int, int, int] | None,
    size: tuple[int, int],
    objects: dict[str, list[Any]],
    skip_bad: bool,
) -> tuple[list[Fault], list[str]]:
    """Add an image's good boxes to its objects, and return the faults of the others and those that were cut."""
    faults, trimmed = [], []
    for identity, category, box, crowd in image.objects:
        where = f"{image.name}: annotation {identity}"
        try:
            if category.startswith("!"):
                raise UserError(category[1:])
            cut, outside = _cut_box(image.measure(box, size), turn, size, skip_bad=skip_bad)
        except UserError as error:
            faults.append(Fault(0, str(error), "unusable box", where))
            continue
        if outside > MOST_OVERHANG_PIXELS:
            trimmed.append(where)
        values = {"id": str(identity), "category": ids[category], "bbox": cut, "crowd": int(crowd)}
        for name, value in values.items():
            objects[name].append(value)
    return faults, trimmed


def _find_turn(content: bytes, stated: tuple[int, int] | None) -> tuple[int, int, int] | None:
    """Return EXIF orientation, width and height as stored, where boxes are told for the picture as it is stored.

    Raises:
        UserError: If the stated size is neither the stored picture's nor the turned one's.
    """
    stored, turned, orientation = measure_image(content)
    if stated is None or tuple(stated) == turned:
        return None
    if tuple(stated) == stored:
        return (orientation, *stored)
    shown = " x ".join(map(str, turned))
    raise UserError(f"it has {shown} pixels, but is said to have {' x '.join(map(str, stated))}")


def _cut_box(
    box: Any, turn: tuple[int, int, int] | None, size: tuple[int, int], *, skip_bad: bool
) -> tuple[list[float], float]:
    """Return left, top, width and height inside the picture as it is read, and by how many pixels the box left it.

    Raises:
        UserError: If it is no box, has no area, or leaves the image.
    """
    if not _is_box(box):
        raise UserError(f"its box is {box!r}; expected left, top, width and height in pixels")
    left, top, width, height = map(float, box)
    shown = _show_box(box)
    if width <= 0 or height <= 0:
        raise UserError(f"its box {shown} has no area; are these corners? then --data.box_format xyxy")
    right, bottom = left + width, top + height
    if turn is not None:
        left, top, right, bottom = turn_box((left, top, right, bottom), *turn)
    outside = max(-left, -top, right - size[0], bottom - size[1])
    left, top, right, bottom = max(left, 0.0), max(top, 0.0), min(right, float(size[0])), min(bottom, float(size[1]))
    is_gone = right <= left or bottom <= top
    if is_gone or (outside > MOST_OVERHANG_PIXELS and not skip_bad):
        part = "lies" if is_gone else "reaches"
        raise UserError(
            f"its box {shown} {part} outside of the image of {size[0]} x {size[1]} pixels; "
            "are these corners? then --data.box_format xyxy"
        )
    return [left, top, right - left, bottom - top], outside


def turn_box(
    corners: tuple[float, float, float, float], orientation: int, width: int, height: int
) -> tuple[float, float, float, float]:
    """Move a box along when its picture is turned as its EXIF orientation says (EXIF 2.3, tag 0x0112).

    Args:
        corners: Left, top, right and bottom in the picture as it is stored.
        orientation: 1 to 8.
        width: Of the stored picture, in pixels.
        height: Likewise.
    """
    left, top, right, bottom = corners
    mirrored_across, mirrored_down = (width - right, width - left), (height - bottom, height - top)
    if orientation in (2, 3, 7, 8):
        left, right = mirrored_across
    if orientation in (3, 4, 6, 7):
        top, bottom = mirrored_down
    return (top, left, bottom, right) if orientation >= 5 else (left, top, right, bottom)


def _is_box(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 4 and all(_is_number(figure) for figure in value)


def _show_box(box: Sequence[float]) -> str:
    return "[" + ", ".join(f"{value:g}" for value in box) + "]"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _check_categories(splits: datasets.DatasetDict, label_names: tuple[str, ...]) -> list[str]:
    """Refuse splits without a box; note classes that are validated or tested, but never trained."""
    import numpy as np

    counts = {}
    for split, rows in splits.items():
        classes = [category for objects in rows["objects"] for category in objects["category"]]
        counts[split] = np.bincount(np.asarray(classes, dtype=int), minlength=len(label_names))
        if split != "validation" and not counts[split].sum():
            raise UserError(f"{split} split: no box in {len(rows)} images; is it the right annotation file?")
    notes = []
    for split in ("validation", "test"):
        if split not in counts:
            continue
        unseen = np.flatnonzero((counts[split] > 0) & (counts["train"] == 0))
        if len(unseen):
            listed = ", ".join(f"{label_names[place]!r} ({counts[split][place]} boxes)" for place in unseen[:_SHOWN])
            more = f" and {len(unseen) - _SHOWN} more" if len(unseen) > _SHOWN else ""
            notes.append(
                f"{split} split: {len(unseen)} classes are never seen in training: {listed}{more}; all of their boxes "
                "count as missed: add training images of them or delete these boxes."
            )
    return notes
