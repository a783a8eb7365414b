"""Images with boxes: COCO's files, the Hub's tables, scenes of digits, and what cannot be used."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from detectors import COLORS, check_colors, paint_squares, write_coco
from PIL import Image, ImageOps

from startup_llm.errors import UserError
from startup_llm.tasks.vision.boxed_images import load_boxed_images, turn_box
from startup_llm.tasks.vision.digit_scenes import build_digit_scenes
from startup_llm.tasks.vision.labelled_images import load_labelled_images, read_images
from startup_llm.tasks.vision.options import DetectionData, LabelledImageData


@pytest.mark.parametrize(
    ("images", "files"),
    [
        (("train", "valid", "test"), [f"{split}/_annotations.coco.json" for split in ("train", "valid", "test")]),
        (
            ("train2017", "val2017", "test2017"),
            [f"annotations/instances_{split}2017.json" for split in ("train", "val", "test")],
        ),
        (("images", "images", "images"), [f"{split}.json" for split in ("train", "val", "test")]),
    ],
    ids=["roboflow", "coco", "one folder of images"],
)
def test_a_folder_of_coco_s_form_gives_its_splits(tmp_path, images, files):
    for place, (folder, file) in enumerate(zip(images, files, strict=True)):
        write_coco(tmp_path / folder, tmp_path / file, 6, first=10 * place)
    data = load_boxed_images(DetectionData(data_dir=str(tmp_path)))
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 6, "validation": 6, "test": 6}
    assert data.label_names == ("red", "green", "blue")  # in the order of their ids; nobody uses the first category
    for rows in data.splits.values():
        check_colors(rows, data.label_names)
        assert set(rows["width"]) == {48}
        assert set(rows["height"]) == {40}


def test_one_annotation_file_is_cut_into_splits(tmp_path):
    write_coco(tmp_path / "images", tmp_path / "instances.json", 20)
    data = load_boxed_images(DetectionData(train_file=str(tmp_path / "instances.json")))
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 14, "validation": 2, "test": 4}


@pytest.mark.parametrize("form", ["lists", "objects"])
@pytest.mark.parametrize("box_format", ["xywh", "xyxy"])
def test_a_table_of_the_hub_s_form_is_read(tmp_path, form, box_format):
    import datasets

    names = list(COLORS)
    whole = {"category": datasets.ClassLabel(names=names), "bbox": datasets.List(datasets.Value("float64"))}
    feature = {name: datasets.List(kind) for name, kind in whole.items()} if form == "lists" else datasets.List(whole)
    for split, first in (("train", 0), ("val", 100)):
        columns: dict = {"image": [], "objects": []}
        for number in range(first, first + 8):
            image, squares = paint_squares(number)
            stream = io.BytesIO()
            image.save(stream, "png")
            corners = [[x, y, x + w, y + h] if box_format == "xyxy" else [x, y, w, h] for _, (x, y, w, h) in squares]
            objects = {"category": [names.index(name) for name, _ in squares], "bbox": corners}
            if form == "objects":
                objects = [dict(zip(objects, pair, strict=True)) for pair in zip(*objects.values(), strict=True)]
            columns["image"].append({"bytes": stream.getvalue(), "path": None})
            columns["objects"].append(objects)
        features = datasets.Features({"image": datasets.Image(), "objects": feature})
        datasets.Dataset.from_dict(columns, features=features).to_parquet(tmp_path / f"{split}.parquet")
    data = load_boxed_images(DetectionData(data_dir=str(tmp_path), box_format=box_format, test_split="val"))
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 7, "validation": 1, "test": 8}
    assert data.label_names == tuple(names)
    for rows in data.splits.values():
        check_colors(rows, data.label_names)


def check_groups(data) -> None:
    """Hold rows of which four at a time are one group against their splits."""
    groups = {split: {(row - 1) // 4 for row in rows["row"]} for split, rows in data.splits.items()}
    assert sorted(group for part in groups.values() for group in part) == list(range(10))
    assert all("group" not in rows.column_names for rows in data.splits.values())
    assert any("by 'patient'" in note for note in data.notes)


def test_images_of_a_group_in_annotation_files_stay_on_one_side(tmp_path):
    content = write_coco(tmp_path, tmp_path / "train.json", 40)
    for number, entry in enumerate(content["images"]):
        entry["patient"] = number // 4
    (tmp_path / "train.json").write_text(json.dumps(content))
    check_groups(load_boxed_images(DetectionData(data_dir=str(tmp_path), group_column="patient")))

    del content["images"][3]["patient"]
    (tmp_path / "train.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"1 of 40 entries of 'images' have no 'patient' \(3\.png\); they have file_"):
        load_boxed_images(DetectionData(data_dir=str(tmp_path), group_column="patient"))


def test_images_of_a_group_in_a_table_stay_on_one_side(tmp_path):
    import datasets

    columns: dict = {"image": [], "objects": [], "patient": [f"patient {number // 4}" for number in range(40)]}
    for number in range(40):
        image, squares = paint_squares(number)
        stream = io.BytesIO()
        image.save(stream, "png")
        columns["image"].append({"bytes": stream.getvalue(), "path": None})
        columns["objects"].append({"category": [name for name, _ in squares], "bbox": [box for _, box in squares]})
    rows = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    rows.to_parquet(tmp_path / "rows.parquet")
    given = {"train_file": str(tmp_path / "rows.parquet")}
    check_groups(load_boxed_images(DetectionData(**given, group_column="patient")))
    with pytest.raises(UserError, match=r"data\.group_column: no column 'pateint' .*mean patient\?"):
        load_boxed_images(DetectionData(**given, group_column="pateint"))


def test_drawn_scenes_have_no_groups():
    with pytest.raises(UserError, match=r"data\.group_column patient: digits-scenes has no groups"):
        load_boxed_images(DetectionData(dataset="digits-scenes", group_column="patient"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_box_is_turned_with_its_picture_as_pillow_turns_it(orientation):
    corners, exif = (3, 5, 11, 9), Image.Exif()
    exif[0x0112] = orientation
    image = Image.new("L", (30, 20))
    image.paste(255, corners)
    stream = io.BytesIO()
    image.save(stream, "png", exif=exif)
    turned = ImageOps.exif_transpose(Image.open(stream))
    assert turned.getbbox() == turn_box(corners, orientation, 30, 20)


@pytest.mark.parametrize("told", ["as stored", "as turned", "not at all"])
def test_boxes_follow_a_photograph_that_its_exif_turns(tmp_path, told):
    content = write_coco(tmp_path, tmp_path / "train.json", 8)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: a quarter turn clockwise sets it upright
    for entry in content["images"]:
        image = Image.open(tmp_path / entry["file_name"])
        stored = image if told == "as stored" else image.transpose(Image.Transpose.ROTATE_90)
        stored.save(tmp_path / entry["file_name"], exif=exif)
        if told == "not at all":
            del entry["width"], entry["height"]
    (tmp_path / "train.json").write_text(json.dumps(content))
    data = load_boxed_images(DetectionData(data_dir=str(tmp_path), validation_fraction=0))
    for rows in data.splits.values():
        check_colors(rows, data.label_names)


def spoil(folder, content: dict) -> None:
    """Give the file one fault of every kind."""
    (folder / "0.png").write_bytes(b"\x89PNG broken")
    (folder / "1.png").unlink()
    content["images"][2] |= {"width": 99}
    by_image = {entry["image_id"]: entry for entry in reversed(content["annotations"])}
    by_image[3]["bbox"] = [5, 5, 0, 7]
    by_image[4]["bbox"] = [60, 5, 5, 5]
    by_image[5]["bbox"] = [30, 5, 40, 5]
    by_image[6]["category_id"] = 77
    by_image[7]["bbox"] = [1, 2, 3]
    by_image[8]["image_id"] = 500
    (folder / "train.json").write_text(json.dumps(content))


def test_every_fault_is_named_with_its_file_and_annotation(tmp_path):
    content = write_coco(tmp_path, tmp_path / "train.json", 20)
    first = {entry["image_id"]: entry["id"] for entry in reversed(content["annotations"])}
    spoil(tmp_path, content)
    expected = [
        f"annotation {first[8]}: no image has the id 500",
        "0.png: not an image that Pillow knows",
        "1.png: no such file",
        "2.png: it has 48 x 40 pixels, but is said to have 99 x 40",
        f"3.png: annotation {first[3]}: its box [5, 5, 0, 7] has no area",
    ]
    with pytest.raises(UserError) as error:
        load_boxed_images(DetectionData(data_dir=str(tmp_path)))
    assert " images and boxes cannot be used (unusable box 5, unreadable image 3, box without an image 1): " in str(
        error.value
    )
    assert all(fault in str(error.value) for fault in expected)
    assert "and 4 more" in str(error.value)
    assert "--data.skip_bad true" in str(error.value)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"bbox": [60, 5, 5, 5]}, "its box [60, 5, 5, 5] lies outside of the image of 48 x 40 pixels"),
        ({"bbox": [30, 5, 40, 5]}, "its box [30, 5, 40, 5] reaches outside of the image of 48 x 40 pixels"),
        ({"category_id": 77}, "no category has the id 77"),
        ({"bbox": [1, 2, 3]}, "its box is [1, 2, 3]; expected left, top, width and height"),
        ({"bbox": [1, 2, 3, None]}, "its box is [1, 2, 3, None]; expected"),
    ],
)
def test_a_box_that_cannot_be_is_named(tmp_path, change, fault):
    content = write_coco(tmp_path, tmp_path / "train.json", 8)
    content["annotations"][0] |= change
    (tmp_path / "train.json").write_text(json.dumps(content))
    with pytest.raises(
        UserError, match=r"train split: 1 of .* cannot be used \(unusable box 1\): 0\.png: annotation 1: "
    ) as error:
        load_boxed_images(DetectionData(data_dir=str(tmp_path)))
    assert fault in str(error.value)


def test_what_is_bad_is_left_out_if_asked_to(tmp_path):
    content = write_coco(tmp_path, tmp_path / "train.json", 20)
    boxes = len(content["annotations"])
    lost = sum(entry["image_id"] in (0, 1, 2) for entry in content["annotations"])
    spoil(tmp_path, content)
    data = load_boxed_images(DetectionData(data_dir=str(tmp_path), skip_bad=True))
    assert sum(len(rows) for rows in data.splits.values()) == 17
    kept = [box for rows in data.splits.values() for objects in rows["objects"] for box in objects["bbox"]]
    assert len(kept) == boxes - lost - 5  # one box of the six is cut at the edge instead
    assert [30.0, 5.0, 18.0, 5.0] in kept
    assert any(note.startswith("train split: 1 box reaches outside of the image") for note in data.notes)
    assert any("were left out" in note for note in data.notes)


def test_a_box_that_leaves_its_image_by_a_pixel_is_cut(tmp_path):
    content = write_coco(tmp_path, tmp_path / "train.json", 8)
    content["annotations"][0]["bbox"] = [-0.4, 30, 10, 10.7]
    (tmp_path / "train.json").write_text(json.dumps(content))
    data = load_boxed_images(DetectionData(data_dir=str(tmp_path)))
    kept = [box for rows in data.splits.values() for objects in rows["objects"] for box in objects["bbox"]]
    assert [0.0, 30.0, 9.6, 10.0] in [pytest.approx(box) for box in kept]


def test_corners_taken_for_sizes_are_noticed(tmp_path):
    content = write_coco(tmp_path, tmp_path / "train.json", 8)
    for entry in content["annotations"]:
        left, top, width, height = entry["bbox"]
        entry["bbox"] = [left, top, left + width, top + height]
    (tmp_path / "train.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="are these corners"):
        load_boxed_images(DetectionData(data_dir=str(tmp_path)))


@pytest.mark.parametrize("box_format", ["xywh", "xyxy"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_boxes_that_are_shares_of_the_image_are_refused(tmp_path, split, box_format):
    for name, first in (("train", 0), ("val", 100), ("test", 200)):
        content = write_coco(tmp_path, tmp_path / f"{name}.json", 8, first=first)
        for entry in content["annotations"] if name == split else []:
            left, top, width, height = entry["bbox"]
            far = [left + width, top + height] if box_format == "xyxy" else [width, height]
            entry["bbox"] = [left / 48, top / 40, far[0] / 48, far[1] / 40]
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    number = len(json.loads((tmp_path / f"{split}.json").read_text())["annotations"])
    long = {"train": "train", "val": "validation"}[split]
    first = r"\d+\.png: annotation \d+: \[0"
    with pytest.raises(UserError, match=rf"^{long} split: all {number} boxes lie within 0 to 1 \({first}.*pixels: "):
        load_boxed_images(DetectionData(data_dir=str(tmp_path), skip_bad=True))


def test_one_tiny_box_among_others_is_no_share(tmp_path):
    content = write_coco(tmp_path, tmp_path / "train.json", 20)
    content["annotations"][0]["bbox"] = [0, 0, 1, 1]
    (tmp_path / "train.json").write_text(json.dumps(content))
    assert load_boxed_images(DetectionData(data_dir=str(tmp_path))).splits["train"]


@pytest.mark.parametrize("split", ["validation", "test"])
def test_classes_that_are_never_trained_are_named_with_what_to_do(tmp_path, split):
    for name, first in (("train", 0), ("validation", 100), ("test", 200)):
        content = write_coco(tmp_path, tmp_path / f"{name}.json", 12, first=first)
        blue = next(category["id"] for category in content["categories"] if category["name"] == "blue")
        others = [entry for entry in content["annotations"] if entry["category_id"] != blue]
        if name != split:
            content["annotations"] = others
        blues = len(content["annotations"]) - len(others)
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        if name == split:
            count = blues
    notes = [note for note in load_boxed_images(DetectionData(data_dir=str(tmp_path))).notes if "never seen" in note]
    assert notes == [
        f"{split} split: 1 classes are never seen in training: 'blue' ({count} boxes); all of their boxes count as "
        "missed: add training images of them or delete these boxes."
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON file"),
        ("[]", "no list 'images'; expected COCO's form"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', "entry 1 of 'images' has no 'file_name'"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path, content, message):
    (tmp_path / "train.json").write_text(content)
    with pytest.raises(UserError, match=r"train\.json") as error:
        load_boxed_images(DetectionData(data_dir=str(tmp_path)))
    assert message in str(error.value)


def test_scenes_are_the_same_for_a_seed_and_hold_their_boxes():
    few = {"train": 300, "validation": 20, "test": 20}
    first, again, other = (build_digit_scenes(seed, few) for seed in (0, 0, 1))
    assert first == again
    assert first["test"] != other["test"]
    assert {split: len(scenes) for split, scenes in first.items()} == few
    boxes = [box for scenes in first.values() for scene in scenes for box in scene.boxes]
    assert min(min(box) for box in boxes) >= 0
    assert max(max(x + w, y + h) for x, y, w, h in boxes) <= 64
    assert np.bincount([label for scene in first["train"] for label in scene.labels]).min() > 50


def test_no_scan_stands_in_two_splits(monkeypatch):
    drawn: list[set[int]] = []

    def remember(ink, labels, rows, generator):
        drawn.append(set(rows.tolist()))

    monkeypatch.setattr("startup_llm.tasks.vision.digit_scenes._draw_scene", remember)
    build_digit_scenes(0, {"train": 1, "validation": 1, "test": 1})
    train, validation, test = drawn
    assert (len(train), len(validation), len(test)) == (1167, 130, 500)
    assert not train & validation
    assert not (train | validation) & test
    assert len(load_labelled_images(LabelledImageData(dataset="digits")).splits["test"]) == len(test)


@pytest.mark.slow
def test_scenes_of_digits_are_a_dataset():
    data = load_boxed_images(DetectionData(dataset="digits-scenes", max_train_rows=50, max_test_rows=20))
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 50, "validation": 200, "test": 20}
    assert data.label_names == tuple("0123456789")
    image = np.asarray(next(iter(read_images(data.splits["test"]))).convert("L")).astype(float)
    left, top, width, height = map(int, data.splits["test"][0]["objects"]["bbox"][0])
    assert image[top : top + height, left : left + width].mean() < np.median(image) - 10  # ink is darker than paper
