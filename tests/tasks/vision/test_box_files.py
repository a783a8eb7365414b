"""Boxes in YOLO's and Pascal VOC's form, by their documented layouts, and what cannot be used of them."""

from __future__ import annotations

import pytest
from detectors import COLORS, check_colors, write_voc, write_yolo

from startup_llm.errors import UserError
from startup_llm.tasks.vision.boxed_images import load_boxed_images
from startup_llm.tasks.vision.options import DetectionData

YAML = "path: .\ntrain: images/train\nval: images/val\ntest: images/test\nnames:\n  0: red\n  1: green\n  2: blue\n"
ROBOFLOW = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 3\nnames: [red, green, blue]\n"


def load(folder, **options):
    return load_boxed_images(DetectionData(data_dir=str(folder), **options))


def write_yolo_folder(folder):
    for place, split in enumerate(("train", "val", "test")):
        write_yolo(folder, split, 6, first=10 * place)
    (folder / "data.yaml").write_text(YAML)


def check(data):
    assert data.label_names == tuple(COLORS) or set(data.label_names) == set(COLORS)
    for rows in data.splits.values():
        check_colors(rows, data.label_names)


@pytest.mark.parametrize("form", ["ultralytics", "path elsewhere", "roboflow", "lists", "classes.txt", "beside"])
def test_yolo_s_folders_are_read_by_the_splits_that_they_name(tmp_path, form):
    write_yolo_folder(tmp_path)
    counts = {"train": 6, "validation": 6, "test": 6}
    if form == "path elsewhere":
        (tmp_path / "data.yaml").write_text(YAML.replace("path: .", "path: ../datasets/squares"))
    if form == "roboflow":
        for split, name in (("train", "train"), ("val", "valid"), ("test", "test")):
            (tmp_path / name).mkdir()
            for kind in ("images", "labels"):
                (tmp_path / kind / split).rename(tmp_path / name / kind)
        (tmp_path / "data.yaml").write_text(ROBOFLOW)
    if form == "lists":
        for split in ("train", "val", "test"):
            files = sorted((tmp_path / "images" / split).iterdir())
            (tmp_path / f"{split}.txt").write_text("".join(f"{file.relative_to(tmp_path)}\n" for file in files))
        (tmp_path / "data.yaml").write_text(
            YAML.replace("images/", "")
            .replace("\nname", ".txt\nname")
            .replace("train\n", "train.txt\n")
            .replace("val\n", "val.txt\n")
        )
    if form == "classes.txt":  # as Label Studio exports it
        (tmp_path / "data.yaml").unlink()
        (tmp_path / "classes.txt").write_text("red\ngreen\nblue\n")
        (tmp_path / "notes.json").write_text('{"categories": [], "info": {}}')
    if form == "beside":
        tmp_path /= "flat"
        write_yolo(tmp_path, "", 20, beside=True)
        (tmp_path / "classes.txt").write_text("red\ngreen\nblue\n")
        counts = {"train": 14, "validation": 2, "test": 4}
    data = load(tmp_path)
    assert {split: len(rows) for split, rows in data.splits.items()} == counts
    assert "read as YOLO's boxes, 3 classes by " in data.notes[0]
    check(data)


@pytest.mark.parametrize("form", ["VOC", "VOC without sets", "beside", "splits"])
def test_pascal_voc_s_folders_are_read(tmp_path, form):
    counts = {"train": 14, "validation": 2, "test": 4}
    if form.startswith("VOC"):
        write_voc(tmp_path / "JPEGImages", tmp_path / "Annotations", 20)
    elif form == "beside":
        write_voc(tmp_path, tmp_path, 20)
    else:
        for place, split in enumerate(("train", "valid", "test")):
            write_voc(tmp_path / split, tmp_path / split, 6, first=10 * place)
        counts = {"train": 6, "validation": 6, "test": 6}
    if form == "VOC":
        (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
        for split, numbers in (("train", range(12)), ("val", range(12, 16)), ("test", range(16, 20))):
            (tmp_path / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{n}\n" for n in numbers))
        counts = {"train": 12, "validation": 4, "test": 4}
    data = load(tmp_path)
    assert {split: len(rows) for split, rows in data.splits.items()} == counts
    assert "read as Pascal VOC's boxes, 3 classes." in data.notes[0]
    check(data)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("3 0.5 0.5 0.2 0.2", r"0\.png: annotation 0\.txt line 1: class 3, which has no name; the names are 0 to 2"),
        ("0.5 0.5 0.5 0.2 0.2", r"0\.txt line 1: '0\.5 0\.5 0\.5 0\.2 0\.2'; expected a class number"),
        ("red 0.5 0.5 0.2 0.2", r"0\.txt line 1: 'red 0\.5 .*'; expected a class number"),
        ("0 0.5 0.5 0.2", r"0\.txt line 1: '0 0\.5 0\.5 0\.2'; expected a class number"),
        ("0 24 20 12 12", r"0\.txt line 1: its box is \['24', '20', '12', '12'\]; expected a class number"),
        ("0 0.95 0.5 0.4 0.2", r"0\.txt line 1: its box \[.*\] reaches outside of the image of 48 x 40 pixels"),
        ("0 0.5 0.5 0 0.2", r"0\.txt line 1: its box \[.*\] has no area"),
    ],
)
def test_a_yolo_line_that_cannot_be_used_is_named(tmp_path, line, message):
    write_yolo_folder(tmp_path)
    (tmp_path / "labels" / "train" / "0.txt").write_text(f"{line}\n")
    with pytest.raises(UserError, match=message):
        load(tmp_path)
    if "reaches" not in message:
        assert "were left out (unusable box 1): " in " ".join(load(tmp_path, skip_bad=True).notes)


def test_missing_pictures_names_and_folders_of_yolo_are_named(tmp_path):
    write_yolo_folder(tmp_path)
    (tmp_path / "images" / "train" / "0.png").unlink()
    with pytest.raises(UserError, match=r"labels/train/0\.txt: no image 0\.jpg \(\.png, \.\.\.\)"):
        load(tmp_path)
    (tmp_path / "data.yaml").write_text(YAML.partition("names")[0])
    with pytest.raises(UserError, match=r"data\.yaml: 'names' is None, expected the names of the classes"):
        load(tmp_path)
    (tmp_path / "data.yaml").write_text(YAML.replace("images/val", "images/vall"))
    with pytest.raises(UserError, match=r"data\.yaml: val is 'images/vall', and there is no .*vall; name the folder"):
        load(tmp_path)
    write_yolo(tmp_path / "flat", "", 2, beside=True)
    with pytest.raises(UserError, match=r"0\.txt lies beside its image, .* no data\.yaml; add it, with the names"):
        load(tmp_path / "flat")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<xmin>", "<xmin>x", r"0\.xml: annotation 1: its corners are \{'xmin': 'x\d+', .*expected pixels in bndbox"),
        ("<xmax>", "<xmax>9", r"0\.xml: annotation 1: its box \[.*\] reaches outside of the image of 48 x 40 pixels"),
        ("<filename>0", "<filename>00", None),
        ("</annotation>", "", r"0\.xml is no XML file of annotations \("),
        ("annotation>", "note>", r"0\.xml: the outer element is 'note', expected 'annotation'"),
        (
            "<annotation>",
            '<!DOCTYPE a [<!ENTITY x "y">]><annotation>&x;',
            "is no XML file .*EntitiesForbidden",
        ),
        ("<width>48", "<width>50", r"0\.xml: it has 48 x 40 pixels, but is said to have 50 x 40"),
    ],
)
def test_a_voc_file_that_cannot_be_used_is_named(tmp_path, old, new, message):
    write_voc(tmp_path, tmp_path, 20)
    file = tmp_path / "0.xml"
    file.write_text(file.read_text().replace(old, new))
    if message is None:  # a name that was changed since: the file's own is tried
        check(load(tmp_path))
        return
    with pytest.raises(UserError, match=message):
        load(tmp_path)


def test_a_missing_picture_of_voc_and_a_difficult_object_are_named_or_left_out(tmp_path):
    write_voc(tmp_path, tmp_path, 20)
    file = tmp_path / "0.xml"
    file.write_text(file.read_text().replace("<difficult>0", "<difficult>1", 1))
    rows = load(tmp_path, validation_fraction=0).splits
    crowds = [crowd for split in rows.values() for objects in split["objects"] for crowd in objects["crowd"]]
    assert sum(crowds) == 1
    (tmp_path / "1.png").unlink()
    with pytest.raises(UserError, match=r"cannot be used \(unreadable image 1\): 1\.xml: no such file"):
        load(tmp_path)


def test_yolo_s_file_may_have_another_name(tmp_path):
    write_yolo_folder(tmp_path)
    (tmp_path / "data.yaml").rename(tmp_path / "squares.yaml")
    data = load_boxed_images(DetectionData(train_file=str(tmp_path / "squares.yaml")))
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 6, "validation": 6, "test": 6}
    with pytest.raises(UserError, match=r"no such file: .*square\.yaml; did you mean squares\.yaml"):
        load_boxed_images(DetectionData(train_file=str(tmp_path / "square.yaml")))


@pytest.mark.parametrize("form", ["yolo", "voc"])
def test_a_split_is_chosen_by_name(tmp_path, form):
    if form == "yolo":
        write_yolo_folder(tmp_path)
    else:
        for place, split in enumerate(("train", "valid", "test")):
            write_voc(tmp_path / split, tmp_path / split, 6, first=10 * place)
    assert set(load(tmp_path, test_split="val", validation_fraction=0).splits) == {"train", "test"}
    with pytest.raises(UserError, match=r"data\.test_split: no split 'week', only .*validation"):
        load(tmp_path, test_split="week")
