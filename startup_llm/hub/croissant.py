"""Croissant metadata: what the files of a data set hold, in a form that search engines and loaders read.

By version 1.0 of the format (MLCommons 2024, https://docs.mlcommons.org/croissant/docs/croissant-spec.html): JSON-LD
over schema.org with a record set for each split, whose fields are the columns of its Parquet file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import datasets

    from startup_llm.hub.published_folder import PublishedFile

CONTEXT: Mapping[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
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
    described = {
        "@context": dict(CONTEXT),
        "@type": "sc:Dataset",
        "name": name,
        "description": description,
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "url": url,
        **({"license": license_id} if license_id else {}),
        **({"inLanguage": languages} if languages else {}),
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": f"{split}-file",
                "name": f"{split}-file",
                "description": f"The rows of the split {split}.",
                "contentUrl": path,
                "contentSize": f"{file.size} B",
                "encodingFormat": PARQUET,
                "sha256": file.sha256,
            }
            for split, (path, file) in files.items()
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": split,
                "name": split,
                "description": f"{rows.num_rows:,} rows.",
                "field": [_describe_column(split, column, kind) for column, kind in rows.features.items()],
            }
            for split, rows in splits.items()
        ],
    }
    return described


def _describe_column(split: str, column: str, kind: Any) -> dict[str, Any]:
    source = {"fileObject": {"@id": f"{split}-file"}, "extract": {"column": column}}
    return _describe_value(f"{split}/{column}", f"The column {column!r}.", kind, source, "")


def _describe_value(name: str, description: str, kind: Any, source: dict[str, Any], path: str) -> dict[str, Any]:
    """Describe a column or, by its path within one, a part of it: a list is repeated, a mapping has parts."""
    import datasets

    repeated = isinstance(kind, (datasets.List, datasets.LargeList))
    kind = kind.feature if repeated else kind
    field = {"@type": "cr:Field", "@id": name, "name": name, "description": description}
    if repeated:
        field["repeated"] = True
    if isinstance(kind, dict):
        parts = [
            _describe_value(f"{name}/{part}", f"The part {part!r}.", inner, source, f"{path}.{part}".lstrip("."))
            for part, inner in kind.items()
        ]
        return field | {"subField": parts}
    if isinstance(kind, (datasets.Image, datasets.Audio)):
        path = f"{path}.bytes".lstrip(".")
    transform = {"transform": {"jsonPath": path}} if path else {}
    return field | {"dataType": _name_type(kind), "source": {**source, **transform}}


def _name_type(kind: Any) -> str:
    import datasets

    if isinstance(kind, datasets.Image):
        return "sc:ImageObject"
    if isinstance(kind, datasets.Audio):
        return "sc:AudioObject"
    name = getattr(kind, "dtype", "")
    if name == "bool":
        return "sc:Boolean"
    if name.startswith(("int", "uint")):
        return "sc:Integer"
    return "sc:Float" if name.startswith(("float", "double")) else "sc:Text"
