"""Labelled images: scikit-learn's digits, folders whose sub-folders are the classes, and image datasets of the Hub."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from startup_llm.data.bad_rows import BadRows, Fault
from startup_llm.data.classification import (
    find_missing_labels,
    keep_labels,
    keep_usable_labels,
    leave_out_unseen_labels,
    read_label_names,
)
from startup_llm.data.digits import DIGITS_TEST_ROWS
from startup_llm.data.row_source import EXTENSIONS
from startup_llm.data.sources import SPLIT_ALIASES, LoadedData, load_splits
from startup_llm.data.splits import handle_overlap, make_splits, read_groups, sample_rows
from startup_llm.data.task_data import TaskData
from startup_llm.errors import UserError, nearest
from startup_llm.tasks.vision.options import LabelledImageData

if TYPE_CHECKING:
    import datasets
    from PIL.Image import Image

DIGITS = "digits"
"""Name of the dataset that comes with scikit-learn."""
IMAGE_EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
MOST_PIXELS = 100_000_000
"""A larger image is refused before it is decoded."""
_EIGHT_BIT_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
_LABEL_COLUMNS = ("label", "labels", "class", "category")
_SHOWN = 5


def load_labelled_images(data: LabelledImageData) -> TaskData:
    """Load labelled images, look into each, and cut the splits that the source does not give.

    An image stays the file that it is, in the column `image`; `read_image` decodes it.

    Returns:
        Splits with image, label (class id) and row; a row's place counts the files of a split in the order of their
        paths, or the rows of a table.

    Raises:
        UserError: If a source or a column is missing, or an image cannot be read (see `data.skip_bad`).
    """
    import datasets

    loaded = _load(data)
    image, label = _find_columns(loaded.splits, data)
    names = {split: read_label_names(rows, label) for split, rows in loaded.splits.items()}
    bad_rows, kept, digests = BadRows(data.skip_bad), {}, {}
    for split, rows in loaded.splits.items():
        faults, digests[split] = _check_images(rows, image)
        faults = [*find_missing_labels(names[split], label), *faults]
        bad = bad_rows.leave_out(faults, len(rows), f"{split} split", "images")
        kept[split] = [place for place in range(len(rows)) if place + 1 not in bad]
    kept, label_names = keep_usable_labels(names, kept, bad_rows, loaded.splits["train"].features[label])
    ids = {name: index for index, name in enumerate(label_names)}
    splits = {}
    for split, rows in loaded.splits.items():
        table = rows.select_columns([image]).rename_column(image, "image") if image != "image" else rows
        table = table.select_columns(["image"]).cast_column("image", datasets.Image())
        table = table.add_column("label", [ids.get(name, -1) for name in names[split]])
        table = table.add_column("row", list(range(1, len(rows) + 1)))
        table = table.add_column("digest", digests[split])
        if data.group_column:
            table = table.add_column("group", read_groups(rows, data.group_column))
        splits[split] = table.select(kept[split]) if len(kept[split]) < len(rows) else table
    checked, split_notes = make_splits(
        datasets.DatasetDict(splits),
        data,
        stratify_by="label",
        group_by="group" if data.group_column else None,
        group_name=data.group_column,
    )
    checked, overlap_notes = handle_overlap(checked, data.remove_overlap, "images")
    checked = leave_out_unseen_labels(checked, label_names, {}, bad_rows)
    notes = [*loaded.notes, *bad_rows.notes, *split_notes, *overlap_notes]
    for split, count in (("train", data.max_train_rows), ("test", data.max_test_rows)):
        if count is not None:
            checked[split] = sample_rows(checked[split], count, data.split_seed, stratify_by="label")
    checked = checked.remove_columns(["digest", *(["group"] if data.group_column else [])])
    unlabelled = None
    if data.labels_per_class is not None:
        checked, unlabelled, drawn_notes = keep_labels(checked, data.labels_per_class, data.split_seed, label_names)
        notes += drawn_notes
    left_out = dict(bad_rows.left_out)
    return TaskData(
        checked,
        label_names,
        "single_label_classification",
        notes,
        loaded.sources,
        unlabelled,
        left_out=left_out,
    )


def read_image(content: bytes) -> Image:
    """Decode an image file to RGB as `transformers.pipeline` does: turned as its EXIF says, grey repeated, alpha cut.

    Args:
        content: The file's bytes.

    Raises:
        UserError: If it is empty, no image, cut short, animated, of other than 8-bit channels, or larger than
            `MOST_PIXELS`.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not content:
        raise UserError("0 bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large images; ours is the limit
            image = Image.open(io.BytesIO(content))
            if (pixels := image.width * image.height) >= MOST_PIXELS:
                raise UserError(f"{pixels / 1e6:,.0f} megapixels, expected fewer than {MOST_PIXELS / 1e6:,.0f}")
            if (frames := getattr(image, "n_frames", 1)) > 1:
                raise UserError(f"an animation of {frames} pictures")
            if image.mode not in _EIGHT_BIT_MODES:
                raise UserError(f"pixels of kind {image.mode}, expected 8 bits per channel")
            return ImageOps.exif_transpose(image).convert("RGB")
    except UnidentifiedImageError:
        raise UserError("not an image that Pillow knows") from None
    except Image.DecompressionBombError:
        raise UserError(f"{MOST_PIXELS / 1e6:,.0f} megapixels or more, expected fewer") from None
    except (OSError, ValueError, SyntaxError, EOFError) as error:  # what Pillow raises on broken files
        raise UserError(f"broken ({error})") from None


def measure_image(content: bytes) -> tuple[tuple[int, int], tuple[int, int], int]:
    """Return an image's width and height as it is stored, those after `read_image`, and its EXIF orientation, 1 to 8.

    Args:
        content: The bytes of a file that `read_image` reads.
    """
    from PIL import Image

    image = Image.open(io.BytesIO(content))
    orientation = image.getexif().get(0x0112, 1)
    return image.size, image.size[::-1] if orientation in (5, 6, 7, 8) else image.size, orientation


def read_images(rows: datasets.Dataset, column: str = "image") -> Iterable[Image]:
    """Decode a column of images, one after the other.

    Args:
        rows: Rows with a column of `datasets.Image`.
        column: Its name.
    """
    import datasets

    for value in rows.cast_column(column, datasets.Image(decode=False))[column]:
        yield read_image(read_bytes(value))


def read_bytes(value: dict[str, Any] | None) -> bytes:
    """Return the bytes of an undecoded value of `datasets.Image`; none where there is no value."""
    if value is None:
        return b""
    return value["bytes"] if value["bytes"] is not None else Path(value["path"]).read_bytes()


def _load(data: LabelledImageData) -> LoadedData:
    if data.data_dir:
        folder = Path(data.data_dir)
        if not folder.is_dir():
            siblings = [entry.name for entry in folder.parent.iterdir()] if folder.parent.is_dir() else []
            raise UserError(f"data.data_dir: no such folder: {folder}{nearest(folder.name, siblings)}")
        tables = any(path.name.lower().removesuffix(".gz").endswith(EXTENSIONS) for path in folder.iterdir())
        return load_splits(data) if tables else _load_image_folder(folder)
    if data.train_file or data.validation_file or data.test_file or data.dataset != DIGITS:
        return load_splits(data)
    return _load_digits(data.split_seed)


def _load_digits(seed: int) -> LoadedData:
    """Write each digit as a PNG file of 8x8 grey pixels, 0 to 16 spread over 0 to 255."""
    import datasets
    import numpy as np
    import sklearn
    from PIL import Image
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    pixels = np.rint(digits.images * 255 / 16).astype(np.uint8)
    files = []
    for image in pixels:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "png")
        files.append({"bytes": stream.getvalue(), "path": None})
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=[str(name) for name in digits.target_names])}
    )
    rows = datasets.Dataset.from_dict({"image": files, "label": digits.target.tolist()}, features=features)
    train, test = train_test_split(
        np.arange(len(rows)), test_size=DIGITS_TEST_ROWS, random_state=seed, stratify=digits.target
    )
    splits = {"train": rows.select(np.sort(train)), "test": rows.select(np.sort(test))}
    digest = hashlib.sha256(pixels.tobytes() + digits.target.astype(np.int64).tobytes()).hexdigest()
    package = {"dataset": DIGITS, "package": f"scikit-learn {sklearn.__version__}", "sha256": digest}
    return LoadedData(
        datasets.DatasetDict(splits),
        [
            f"The digits come with scikit-learn: {len(rows):,} grey images of 8x8 pixels in 10 classes; "
            f"{DIGITS_TEST_ROWS} of them are the test split, stratified by digit (seed {seed})."
        ],
        [{"split": split, **package, "rows": len(part)} for split, part in splits.items()],
    )


def _load_image_folder(folder: Path) -> LoadedData:
    """Read FOLDER/CLASS/FILE, or FOLDER/SPLIT/CLASS/FILE, in the order of the paths."""
    import datasets

    splits, sources, strangers = {}, [], []
    for split, root in _find_split_folders(folder).items():
        images, others = _find_images(root)
        strangers += others
        contents = [path.read_bytes() for path in images]
        values = [
            {"bytes": content, "path": str(path.relative_to(folder))}
            for content, path in zip(contents, images, strict=True)
        ]
        labels = [path.relative_to(root).parts[0] for path in images]
        features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
        splits[split] = datasets.Dataset.from_dict({"image": values, "label": labels}, features=features)
        digest = hashlib.sha256(b"".join(hashlib.sha256(content).digest() for content in contents)).hexdigest()
        sources.append({"split": split, "dataset": str(root), "rows": len(values), "sha256": digest})
    notes = []
    if strangers:
        shown = ", ".join(str(path.relative_to(folder)) for path in strangers[:_SHOWN])
        notes.append(f"{len(strangers):,} files are no images in a class's folder and are left out ({shown}).")
    return LoadedData(datasets.DatasetDict(splits), notes, sources)


def _find_split_folders(folder: Path) -> dict[str, Path]:
    """Return the folder of each split; all of it is the training split where none is named so."""
    folders: dict[str, list[Path]] = {}
    for entry in sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")):
        folders.setdefault(SPLIT_ALIASES.get(entry.name.lower(), ""), []).append(entry)
    if "train" not in folders:
        return {"train": folder}
    folders.pop("", None)
    for paths in folders.values():
        if len(paths) > 1:
            raise UserError(
                f"data.data_dir ({folder}): {paths[0].name} and {paths[1].name} are the same split; keep one"
            )
    return {split: paths[0] for split, paths in folders.items()}


def _find_images(root: Path) -> tuple[list[Path], list[Path]]:
    """Return the images in the folders of the classes, and the files that are none, each in the order of the paths."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.name.startswith("."))
    images = [
        path for path in files if path.suffix.lower() in IMAGE_EXTENSIONS and len(path.relative_to(root).parts) > 1
    ]
    if not images:
        raise UserError(
            f"data.data_dir ({root}): no images in sub-folders; expected CLASS/FILE.png (one of "
            f"{', '.join(IMAGE_EXTENSIONS)}), or train and test folders of that form"
        )
    chosen = set(images)
    return images, [path for path in files if path not in chosen]


def _find_columns(splits: datasets.DatasetDict, data: LabelledImageData) -> tuple[str, str]:
    """Name the columns of the image and of the label."""
    import datasets

    features = splits["train"].features
    image = find_image_column(features)
    label = data.label_column
    if isinstance(label, list):
        raise UserError(f"data.label_column ({', '.join(label)}): an image has one label here; name one column")
    if label is not None and label not in features:
        raise UserError(f"data.label_column: no column {label}{nearest(label, features)}; columns: {list(features)}")
    if label is None:
        classes = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
        candidates = [name for name in _LABEL_COLUMNS if name in features] or classes
        if len(candidates) != 1 and len(classes) != 1:
            raise UserError(f"no single label column among {', '.join(features)}; name it with --data.label_column")
        label = candidates[0] if len(candidates) == 1 else classes[0]
    return image, label


def find_image_column(features: datasets.Features) -> str:
    """Return the name of the one column with images.

    Raises:
        UserError: If there is none, or several.
    """
    import datasets

    images = [
        name
        for name, feature in features.items()
        if isinstance(feature, datasets.Image) or (isinstance(feature, dict) and set(feature) == {"bytes", "path"})
    ]
    if len(images) == 1:
        return images[0]
    raise UserError(
        f"{len(images)} columns with images ({', '.join(images) or 'none'}) among {', '.join(features)}; expected "
        f"one, of the feature datasets.Image; scikit-learn's digits are --data.dataset {DIGITS}"
    )


def _check_images(rows: datasets.Dataset, column: str) -> tuple[list[Fault], list[str]]:
    """Decode every image of a split once, and return what is wrong with some, and a digest of each file."""
    import datasets

    faults, digests = [], []
    undecoded = rows.cast_column(column, datasets.Image(decode=False)).select_columns([column])
    for row, value in enumerate(undecoded, start=1):
        content = b""
        try:
            content = read_bytes(value[column])
            read_image(content)
        except (UserError, OSError) as error:
            path = (value[column] or {}).get("path")
            where = f"row {row} ({path})" if path else ""
            faults.append(Fault(row, str(error), "unreadable image", where))
        digests.append(hashlib.sha256(content).hexdigest())
    return faults, digests
