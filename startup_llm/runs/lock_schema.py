"""The form of a run's lock. A lock may come from anybody, so nothing of it is used before it was checked here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from startup_llm.errors import UserError
from startup_llm.evaluation.environment import VARIABLES
from startup_llm.run_folder import RUN_LOCK

SCHEMA_VERSION = 1
DATA_FILES = ("data_dir", "train_file", "validation_file", "test_file", "oos_file", "oos_test_file")
"""Options of the section `data` that name local files."""
OVERRIDES = (
    "speed.plan",
    "speed.compute_dtype",
    "speed.attention_kernel",
    "speed.tokens_per_batch",
    "speed.threads",
    "speed.compile",
    *(f"data.{name}" for name in DATA_FILES),
    "data.revision",
    "model.revision",
    "model.checkpoint",
)
"""Options that a lock may set."""


def is_inside(name: str) -> bool:
    """Say whether a path, as it is written, stays inside the folder that it starts from."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and not name.startswith("~")


def _check_printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("expected text without control characters")
    return text


def _check_inside(name: str) -> str:
    if not is_inside(name):
        raise ValueError("expected a path inside the folder that it starts from")
    return name


def _check_variable(name: str) -> str:
    if name not in VARIABLES:
        raise ValueError(f"expected one of {', '.join(VARIABLES)}")
    return name


def _check_option(name: str) -> str:
    if name not in OVERRIDES:
        raise ValueError(f"expected one of {', '.join(OVERRIDES)}")
    return name


VariableName = Annotated[str, AfterValidator(_check_variable)]
OptionName = Annotated[str, AfterValidator(_check_option)]
Line = Annotated[str, StringConstraints(max_length=4096), AfterValidator(_check_printable)]
InnerPath = Annotated[Line, AfterValidator(_check_inside)]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
VariableValue = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_:,.]{0,64}$")]
"""Numbers and words: none of the variables in `VARIABLES` names a file or a program by such a value."""


class _Part(BaseModel):
    """A part of a lock: unknown keys are dropped, values are not converted."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class _Plan(_Part):
    device: Annotated[str, StringConstraints(pattern=r"^[a-z]{1,16}(:\d{1,3})?$")]


class _Code(_Part):
    version: Line
    sources_sha256: Digest
    commit: Line | None
    dirty: bool | None


class _Environment(_Part):
    python: Line
    platform: Line
    packages: dict[Line, Line]
    hardware: Line
    cpu_capability: Line
    cuda: Line | None
    threads: Annotated[int, Field(ge=1, le=4096)]
    processes: Annotated[int, Field(ge=1, le=1024)]
    variables: dict[VariableName, VariableValue]


class _DataFile(_Part):
    path: Line
    sha256: Digest


class _Source(_Part):
    dataset: Line | None = None
    files: list[_DataFile] = []

    @model_validator(mode="after")
    def _check_shipped(self) -> _Source:
        """A shipped dataset's files lie in the package's own folder of that name."""
        if self.dataset is not None and self.files:
            for name in (self.dataset, *(file.path for file in self.files)):
                _check_inside(name)
        return self


class _Split(_Part):
    rows: Annotated[int, Field(ge=0)]
    sha256: Digest


class _Checkpoint(_Part):
    name: Line
    revision: Line | None
    source: Line
    files: dict[InnerPath, Digest]


class _Metric(_Part):
    value: float
    tolerance: Annotated[float, Field(ge=0)]


class RunLock(_Part):
    """What is read from a lock."""

    recipe: Line | None
    working_folder: Annotated[str, StringConstraints(pattern=r"^\.\.(/\.\.){0,31}$")] | None
    config_sha256: Digest
    overrides: dict[OptionName, Line | int | float | bool | list[Line]]
    plan: _Plan
    exact: bool
    code: _Code
    environment: _Environment
    data: list[_Source]
    splits: dict[Line, _Split]
    checkpoint: _Checkpoint
    outputs: dict[InnerPath, Digest]
    metrics: dict[Line, dict[Line, _Metric]]


def check_lock(lock: Mapping[str, Any], run: str) -> dict[str, Any]:
    """Return the known part of a lock.

    Args:
        lock: What was read from the file.
        run: The run, for the message.

    Raises:
        UserError: If the lock is of another version or form, or sets what a lock may not.
    """
    version = lock.get("schema_version") if isinstance(lock, Mapping) else None
    if type(version) is not int or version != SCHEMA_VERSION:
        raise UserError(
            f"the lock of {run} has schema_version {_cut(version)}, expected {SCHEMA_VERSION}; "
            "use the version of startup-llm that made the run"
        )
    try:
        return RunLock.model_validate(lock).model_dump(exclude_unset=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"] if not str(part).startswith(("[key]", "function-")))
        raise UserError(
            f"{RUN_LOCK} of {run}: {_cut(place)[1:-1]}: {first['msg']}, got {_cut(first['input'])}; "
            "copy the run again, or ask its owner; nothing was run"
        ) from None


def _cut(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
