"""Croissant metadata: what the files of a data set hold, in a form that search engines and loaders read.

By version 1.0 of the format (MLCommons 2024, https://docs.mlcommons.org/croissant/docs/croissant-spec.html), written
and checked by its own library: a record set for each split, whose fields are the columns of its Parquet file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import datasets
    import mlcroissant

    from startup_llm.hub.published_folder import PublishedFile

PARQUET = "application/x-parquet"


def build_croissant(
    name: str,
    description: str,
    url: str,
    license_id: str | None,
    languages: list[str],
    splits: Mapping[str, datasets.Dataset],
    files: Mapping[str, tuple[str, PublishedFile]],
) -> dict[str, Any]:
    """Describe a data set's Parquet files.

    Args:
        name: The data set's name.
        description: What it is, in a sentence or two.
        url: Where it is published.
        license_id: Identifier of its licence, where one is declared.
        languages: ISO 639 codes.
        splits: The rows by split.
        files: Split to the path of its file beside the metadata, and the file.
    """
    import mlcroissant

    metadata = mlcroissant.Metadata(
        name=name,
        description=description,
        url=url,
        license=[license_id] if license_id else None,
        in_language=languages or None,
        conforms_to=["http://mlcommons.org/croissant/1.0"],
        distribution=[
            mlcroissant.FileObject(
                id=f"{split}-file",
                name=f"{split}-file",
                description=f"The rows of the split {split}.",
                content_url=path,
                content_size=f"{file.size} B",
                encoding_formats=[PARQUET],
                sha256=file.sha256,
            )
            for split, (path, file) in files.items()
        ],
        record_sets=[
            mlcroissant.RecordSet(
                id=split,
                name=split,
                description=f"{rows.num_rows:,} rows.",
                fields=[
                    _describe_value(f"{split}/{column}", f"The column {column!r}.", kind, f"{split}-file", column, "")
                    for column, kind in rows.features.items()
                ],
            )
            for split, rows in splits.items()
        ],
    )
    return metadata.to_json()


def _describe_value(name: str, description: str, kind: Any, file: str, column: str, path: str) -> mlcroissant.Field:
    """Describe a column or, by its path within one, a part of it: a list is repeated, a mapping has parts."""
    import datasets
    import mlcroissant

    repeated = isinstance(kind, (datasets.List, datasets.LargeList))
    kind = kind.feature if repeated else kind
    field = {"id": name, "name": name, "description": description, "repeated": repeated or None}
    if isinstance(kind, dict):
        parts = [
            _describe_value(f"{name}/{part}", f"The part {part!r}.", inner, file, column, f"{path}.{part}".lstrip("."))
            for part, inner in kind.items()
        ]
        return mlcroissant.Field(**field, sub_fields=parts)
    if isinstance(kind, (datasets.Image, datasets.Audio)):
        path = f"{path}.bytes".lstrip(".")
    source = mlcroissant.Source(
        file_object=file,
        extract=mlcroissant.Extract(column=column),
        transforms=[mlcroissant.Transform(json_path=path)] if path else [],
    )
    return mlcroissant.Field(**field, data_types=[_name_type(kind)], source=source)


def _name_type(kind: Any) -> str:
    import datasets
    from mlcroissant import DataType

    if isinstance(kind, datasets.Image):
        return DataType.IMAGE_OBJECT
    if isinstance(kind, datasets.Audio):
        return DataType.AUDIO_OBJECT
    name = getattr(kind, "dtype", "")
    if name == "bool":
        return DataType.BOOL
    if name.startswith(("int", "uint")):
        return DataType.INTEGER
    return DataType.FLOAT if name.startswith(("float", "double")) else DataType.TEXT
