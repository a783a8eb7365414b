"""Labelled images: digits, folders and tables, and files that cannot be used."""

from __future__ import annotations

import io
import struct
import zlib

import datasets
import numpy as np
import pytest
from PIL import Image

from startup_llm.data.digits import load_digits
from startup_llm.errors import UserError
from startup_llm.tasks.vision.labelled_images import load_labelled_images, read_image, read_images
from startup_llm.tasks.vision.options import LabelledImageData


def encode(image: Image.Image, kind: str = "png", **arguments: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **arguments)
    return stream.getvalue()


def paint(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    return encode(Image.fromarray(pixels))


def write_classes(folder, count: int = 6, *, first: int = 0) -> None:
    for number, name in enumerate(("cat", "dog2", "dog10")):
        (folder / name).mkdir(parents=True)
        for place in range(count):
            (folder / name / f"{place}.png").write_bytes(paint(first + number * 100 + place))


def build_huge_png(width: int, height: int) -> bytes:
    """Return the header of a PNG, with no pixels behind it."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


def test_digits_are_tested_on_the_500_images_that_the_gan_is_tested_on():
    data = load_labelled_images(LabelledImageData(dataset="digits"))
    assert {name: len(rows) for name, rows in data.splits.items()} == {"train": 1167, "validation": 130, "test": 500}
    assert data.label_names == tuple("0123456789")
    pixels = np.stack([np.asarray(image) for image in read_images(data.splits["test"])])
    assert pixels.shape == (500, 8, 8, 3)
    theirs = load_digits(0)
    ours = {
        (image[..., 0].tobytes(), label) for image, label in zip(pixels, data.splits["test"]["label"], strict=True)
    }
    grey = np.rint((theirs.test_images[:, 0].numpy() + 1) * 255 / 2).astype(np.uint8)
    assert ours == {(image.tobytes(), label) for image, label in zip(grey, theirs.test_labels.tolist(), strict=True)}


def test_another_split_seed_draws_another_test_split():
    first, second = (load_labelled_images(LabelledImageData(dataset="digits", split_seed=seed)) for seed in (0, 1))
    assert first.splits["test"][0]["image"].tobytes() != second.splits["test"][0]["image"].tobytes()


def test_a_folder_s_sub_folders_are_the_classes_in_natural_order(tmp_path):
    write_classes(tmp_path)
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    data = load_labelled_images(LabelledImageData(data_dir=str(tmp_path), validation_fraction=0))
    assert data.label_names == ("cat", "dog2", "dog10")
    assert sum(len(rows) for rows in data.splits.values()) == 18
    assert any("cat/notes.txt" in note for note in data.notes)
    rows = data.splits["train"]
    assert rows.features["image"].decode
    assert data.sources[0]["rows"] == 18


def test_split_folders_give_the_splits(tmp_path):
    write_classes(tmp_path / "train")
    write_classes(tmp_path / "val", 2, first=1000)
    write_classes(tmp_path / "test", 3, first=2000)
    data = load_labelled_images(LabelledImageData(data_dir=str(tmp_path)))
    assert {name: len(rows) for name, rows in data.splits.items()} == {"train": 18, "validation": 6, "test": 9}


def test_a_local_copy_of_a_hub_dataset_is_read_from_its_parquet_files(tmp_path):
    import datasets

    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["no", "yes"])})
    for split, first in (("train", 0), ("test", 100)):
        images = [{"bytes": paint(first + place), "path": None} for place in range(12)]
        rows = datasets.Dataset.from_dict({"img": images, "label": [0, 1] * 6}, features=features)
        rows.to_parquet(str(tmp_path / f"{split}-00000-of-00001.parquet"))
    data = load_labelled_images(LabelledImageData(dataset="owner/pictures", data_dir=str(tmp_path)))
    assert len(data.splits["test"]) == 12
    assert next(iter(read_images(data.splits["test"]))).tobytes() == read_image(paint(100)).tobytes()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "0 bytes"),
        (b"hello", "not an image that Pillow knows"),
        (paint(7)[:60], "broken"),
        (build_huge_png(20_000, 20_000), "100 megapixels or more|400 megapixels, expected fewer than 100"),
        (build_huge_png(10_000, 10_000), "100 megapixels, expected fewer than 100"),
        (build_huge_png(10_001, 9_999), "broken"),
        (
            encode(Image.new("RGB", (4, 4)), "gif", save_all=True, append_images=[Image.new("RGB", (4, 4), "red")]),
            "animation of 2 pictures",
        ),
        (encode(Image.fromarray(np.full((4, 4), 40_000, np.uint16))), "I;16"),
    ],
    ids=["empty", "text", "cut", "huge", "at the limit", "just below it", "animation", "16-bit"],
)
def test_a_file_that_cannot_be_used_is_named_or_left_out(content, reason, tmp_path):
    write_classes(tmp_path)
    (tmp_path / "dog2" / "3.png").write_bytes(content)
    with pytest.raises(UserError, match=rf"train split: 1 of 18 .*dog2/3\.png.*({reason})"):
        load_labelled_images(LabelledImageData(data_dir=str(tmp_path)))
    data = load_labelled_images(LabelledImageData(data_dir=str(tmp_path), skip_bad=True, validation_fraction=0))
    assert sum(len(rows) for rows in data.splits.values()) == 17
    assert any("dog2/3.png" in note and "left out" in note for note in data.notes)


def test_some_labels_of_each_class_are_kept_and_the_other_images_stay_without():
    whole = load_labelled_images(LabelledImageData(dataset="digits", validation_fraction=0))
    data = load_labelled_images(LabelledImageData(dataset="digits", validation_fraction=0, labels_per_class=3))
    assert np.bincount(data.splits["train"]["label"]).tolist() == [3] * 10
    assert len(data.unlabelled) == len(whole.splits["train"]) - 30
    assert "label" not in data.unlabelled.column_names
    assert data.splits["test"]["row"] == whole.splits["test"]["row"]


def test_images_of_a_group_stay_on_one_side(tmp_path):
    columns = {
        "image": [{"bytes": paint(number), "path": None} for number in range(40)],
        "label": ["ab"[number % 2] for number in range(40)],
        "patient": [f"patient {number // 4}" for number in range(40)],
    }
    rows = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    rows.to_parquet(tmp_path / "rows.parquet")
    given = {"train_file": str(tmp_path / "rows.parquet"), "validation_fraction": 0}
    data = load_labelled_images(LabelledImageData(**given, group_column="patient"))
    groups = {name: {(row - 1) // 4 for row in rows["row"]} for name, rows in data.splits.items()}
    assert groups["train"].isdisjoint(groups["test"])
    assert len(groups["train"] | groups["test"]) == 10
    with pytest.raises(UserError, match=r"data\.group_column: no column 'pateint' .*mean patient\?"):
        load_labelled_images(LabelledImageData(**given, group_column="pateint"))


def test_exif_turns_the_picture():
    image = Image.new("RGB", (4, 2), "black")
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: to be turned clockwise
    turned = read_image(encode(image, exif=exif))
    assert turned.size == (2, 4)
    assert turned.getpixel((1, 0)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_grey_palette_and_alpha_become_rgb(mode):
    image = read_image(encode(Image.new("RGBA", (3, 3), (255, 255, 255, 255)).convert(mode)))
    assert (image.mode, image.getpixel((1, 1))) == ("RGB", (255, 255, 255))


def test_images_that_the_test_split_holds_too_are_told_or_removed(tmp_path):
    write_classes(tmp_path / "train")
    write_classes(tmp_path / "test", 1)
    told = load_labelled_images(LabelledImageData(data_dir=str(tmp_path), validation_fraction=0))
    assert any(note.startswith("3 training images stand in the test split too") for note in told.notes)
    removed = load_labelled_images(
        LabelledImageData(data_dir=str(tmp_path), validation_fraction=0, remove_overlap=True)
    )
    assert len(removed.splits["train"]) == 15


def test_rows_without_images_and_missing_folders_are_named(tmp_path):
    with pytest.raises(UserError, match=r"0 columns with images .*--data\.dataset digits"):
        load_labelled_images(LabelledImageData())
    with pytest.raises(UserError, match="no such folder"):
        load_labelled_images(LabelledImageData(data_dir=str(tmp_path / "nothing")))
    with pytest.raises(UserError, match="no images in sub-folders"):
        load_labelled_images(LabelledImageData(data_dir=str(tmp_path)))
