"""Pascal VOC's boxes (http://host.robots.ox.ac.uk/pascal/VOC): an XML file for each image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from startup_llm.data.row_source import RowSource
from startup_llm.data.sources import find_split_folders
from startup_llm.errors import UserError
from startup_llm.tasks.vision.box_sources import (
    IMAGE_EXTENSIONS,
    BoxedImage,
    BoxSource,
    build_image_table,
    hash_files,
    refer_to_files,
)

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def _find_files(folder: Path) -> dict[str, list[Path]]:
    """Return the XML files of each split of a folder in Pascal VOC's form; none where it is of another form.

    Files lie in Annotations/, with the splits in ImageSets/Main/, or beside the images, perhaps in folders by split.

    Raises:
        UserError: If ImageSets names a file that is missing.
    """
    if (folder / "Annotations").is_dir():
        files = sorted((folder / "Annotations").glob("*.xml"))
        return _read_image_sets(folder) or ({"train": files} if files else {})
    named = {
        split: sorted(entry.rglob("*.xml")) for split, entry in find_split_folders(sorted(folder.iterdir())).items()
    }
    found = {split: files for split, files in named.items() if files}
    if found:
        return found
    files = sorted(folder.glob("*.xml"))
    return {"train": files} if files else {}


def _read_image_sets(folder: Path) -> dict[str, list[Path]]:
    sets = {}
    for split, name in (("train", "train"), ("validation", "val"), ("test", "test")):
        listing = folder / "ImageSets" / "Main" / f"{name}.txt"
        if listing.is_file():
            names = [line.split()[0] for line in RowSource(str(listing), "lines").read_lines() if line.strip()]
            files = [folder / "Annotations" / f"{image}.xml" for image in names]
            if missing := next((file for file in files if not file.is_file()), None):
                raise UserError(f"{listing}: there is no {missing}; add it, or take the name out of the list")
            sets[split] = files
    return sets if "train" in sets else {}


def load_voc(folder: Path) -> BoxSource | None:
    """Read a folder of XML files; None where it is of another form.

    Objects that are marked as difficult count neither for nor against a detector.

    Raises:
        UserError: If a file is no XML or holds no annotation of an image.
    """
    files_of_split = _find_files(folder)
    if not files_of_split:
        return None
    splits: dict[str, list[BoxedImage]] = {}
    tables, faults, records = {}, {}, []
    names: set[str] = set()
    for split, files in files_of_split.items():
        splits[split], paths, faults[split] = [], [], []
        for file in files:
            image, image_name = _read_annotation(file)
            splits[split].append(image)
            paths.append(_find_image(file, image_name))
            names |= {category for _, category, _, _ in image.objects if not category.startswith("!")}
        tables[split] = build_image_table(refer_to_files(paths))
        records.append({"split": split, "dataset": str(folder), "rows": len(files), "sha256": hash_files(files)})
    note = f"{folder}: read as Pascal VOC's boxes, {len(names)} classes."
    return BoxSource(splits, tables, tuple(sorted(names)), faults, [note], records)


def _read_annotation(file: Path) -> tuple[BoxedImage, str]:
    """Return the image that a file tells of, and the name of its file."""
    from xml.etree.ElementTree import ParseError

    from defusedxml import DefusedXmlException, ElementTree

    try:
        root = ElementTree.parse(file).getroot()
    except (ParseError, DefusedXmlException, ValueError, LookupError) as error:
        raise UserError(
            f"{file} is no XML file of annotations ({' '.join(str(error).split())}); export it again"
        ) from None
    if root is None or root.tag != "annotation":
        tag = None if root is None else root.tag
        raise UserError(f"{file}: the outer element is {tag!r}, expected 'annotation', as Pascal VOC has it")
    name = (root.findtext("filename") or "").strip().replace("\\", "/").rpartition("/")[2]
    size = [_read_number(root.findtext(f"size/{side}")) for side in ("width", "height")]
    is_stated = all(isinstance(side, float) and side > 0 for side in size)
    image = BoxedImage(file.name, (int(size[0]), int(size[1])) if is_stated else None)
    for number, thing in enumerate(root.findall("object"), start=1):
        category = (thing.findtext("name") or "").strip() or "!has no name"
        corners = [_read_number(thing.findtext(f"bndbox/{corner}")) for corner in _CORNERS]
        left, top, right, bottom = corners
        box: Any = corners
        if all(isinstance(corner, float) for corner in corners):
            box = [left, top, right - left, bottom - top]
        else:
            category = f"!its corners are {dict(zip(_CORNERS, corners, strict=True))}; expected pixels in bndbox"
        image.objects.append((number, category, box, (thing.findtext("difficult") or "").strip() == "1"))
    return image, name


def _read_number(text: str | None) -> Any:
    """Return a number, or the text that is none."""
    try:
        return float(text) if text is not None else None
    except ValueError:
        return text


def _find_image(file: Path, name: str) -> Path:
    """Return where the image of an XML file lies: beside it, or in JPEGImages/ or images/."""
    folders = [file.parent]
    if file.parent.name.lower() == "annotations":
        folders += [file.parent.parent / folder for folder in ("JPEGImages", "images", "")]
    names = [name] if name else []
    names += [f"{file.stem}{extension}" for extension in IMAGE_EXTENSIONS]
    found = (folder / one for folder in folders for one in names if (folder / one).is_file())
    return next(found, file.parent / (name or f"{file.stem}{IMAGE_EXTENSIONS[0]}"))
