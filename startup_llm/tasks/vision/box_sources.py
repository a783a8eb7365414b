"""What readers of images with boxes have in common, whatever form the boxes come in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from startup_llm.data.sources import hash_file

if TYPE_CHECKING:
    import datasets

    from startup_llm.data.bad_rows import Fault

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")


@dataclass
class BoxedImage:
    """An image as its source tells of it, without its file.

    Attributes:
        name: How errors name it.
        size: Width and height that the source states, in pixels; None where it does not.
        objects: For each object its id, category (a name, or a fault's text after `!`), box and whether it is a crowd.
        group: What `data.group_column` says of it; None where it says nothing.
        is_relative: Whether boxes are shares of the image's width and height, as it is shown.
    """

    name: str
    size: tuple[int, int] | None
    objects: list[tuple[Any, str, Any, bool]] = field(default_factory=list)
    group: str | None = None
    is_relative: bool = False

    def measure(self, box: Any, size: tuple[int, int]) -> Any:
        """Return a box in pixels of an image of this width and height."""
        if not self.is_relative:
            return box
        return [share * side for share, side in zip(box, (*size, *size), strict=True)]


@dataclass(frozen=True)
class BoxSource:
    """Splits of images; their files stay in tables with a column `image`, since a large set's do not fit in memory.

    Attributes:
        splits: The images of each split.
        tables: Their files.
        label_names: Names of the categories.
        faults: Of each split, what cannot be used and belongs to no image.
        notes: Sentences about what was recognised.
        records: One per split, for the run's record of its data.
    """

    splits: dict[str, list[BoxedImage]]
    tables: dict[str, datasets.Dataset]
    label_names: tuple[str, ...]
    faults: dict[str, list[Fault]]
    notes: list[str]
    records: list[dict[str, Any]]


def build_image_table(files: Sequence[dict[str, Any]]) -> datasets.Dataset:
    """Return a table with a column `image` of files, each as {bytes, path}."""
    import datasets

    return datasets.Dataset.from_dict({"image": list(files)}, features=datasets.Features({"image": datasets.Image()}))


def hash_files(files: Iterable[Path]) -> str:
    """Return one SHA-256 of the bytes of several files, in their order."""
    return hashlib.sha256(b"".join(bytes.fromhex(hash_file(file)) for file in files)).hexdigest()


def list_images(folder: Path) -> list[Path]:
    """Return the images directly in a folder, by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_EXTENSIONS and path.is_file())


def refer_to_files(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Return files as `build_image_table` takes them, to be read later."""
    return [{"bytes": None, "path": str(path.absolute())} for path in paths]
