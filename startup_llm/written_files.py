"""Files that this package writes: whole or not at all, and listed, so that nothing of anybody else is ever replaced.

Every folder that the package makes has a marker, `.startup-llm.json`, with the folder's id and, once it is whole, the
list of its files. Only a folder with a marker is replaced, and only where it holds nothing but the files of that list.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import IO, Any

from startup_llm.errors import UserError

MARKER = ".startup-llm.json"
_SCHEMA_VERSION = 1
_HASHED_BYTES = 1 << 20
"""Larger files are known by their size alone; nobody edits them by hand."""
_RENAME_EXCHANGE = 2
_OUTPUT_OPTIONS = ("run_dir", "output", "dry_run")


@dataclass(frozen=True)
class Marker:
    """What the marker of a folder holds.

    Attributes:
        id: Hexadecimal number, drawn when the folder was made.
        kind: What the folder is: run or audit.
        replaces: Id of the folder that this one took the place of.
        files: Size and, for small files, SHA-256 of each file that was written, by its path; None while it is written.
    """

    id: str = field(default_factory=lambda: secrets.token_hex(16))
    kind: str = "run"
    replaces: str | None = None
    files: Mapping[str, Mapping[str, Any]] | None = None

    def write(self, folder: Path) -> None:
        """Write it, whole or not at all."""
        content = {
            "schema_version": _SCHEMA_VERSION,
            **{field.name: getattr(self, field.name) for field in fields(self)},
        }
        write_atomically(folder / MARKER, json.dumps(content, indent=1) + "\n")

    def close(self, folder: Path) -> Marker:
        """List the folder's files, and write the marker with the list."""
        closed = replace(self, files={name: _describe(file) for name, file in _list_files(folder).items()})
        closed.write(folder)
        return closed

    def find_foreign(self, folder: Path) -> list[str]:
        """Return the paths of files that are not listed, or not as they were written; [] while there is no list."""
        if self.files is None:
            return []
        files = _list_files(folder)
        return [name for name, file in files.items() if name not in self.files or not _is_as(file, self.files[name])]


def read_marker(folder: Path) -> Marker | None:
    """Return a folder's marker, or None where it has none that this version can read."""
    try:
        with open(_open_file(folder / MARKER), encoding="utf-8") as file:
            content = json.load(file)
        known = content["schema_version"] == _SCHEMA_VERSION and isinstance(content["id"], str) and content["id"]
        marker = Marker(content["id"], content["kind"], content["replaces"], content["files"])
        listed = marker.files is None or all(isinstance(record, dict) for record in marker.files.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return marker if known and listed else None


def find_owner(file: Path) -> Path | None:
    """Return the folder above a file whose marker lists it, or None."""
    for folder in file.absolute().parents:
        marker = read_marker(folder)
        if marker is not None and file.absolute().relative_to(folder).as_posix() in (marker.files or {}):
            return folder
    return None


class NewFile:
    """A file that is written without a name where the system can, and gets its name when it is whole.

    A process that is killed leaves nothing then. Elsewhere it is written under a name of its own beside its place.

    Args:
        place: Where it will stand; a file or a symbolic link there is replaced, not followed.

    Attributes:
        stream: To write to.
    """

    def __init__(self, place: Path) -> None:
        self._place = place
        self._temporary: Path | None = None
        self.stream: IO[bytes] = open(self._open(), "w+b")  # noqa: SIM115

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CLOEXEC
        if hasattr(os, "O_TMPFILE") and os.path.isdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                return os.open(self._place.parent, os.O_TMPFILE | flags, 0o666)
        self._temporary = self._draw_name()
        return os.open(self._temporary, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)

    def _draw_name(self) -> Path:
        return self._place.with_name(f".{self._place.name[:100]}.{secrets.token_hex(4)}")

    def keep(self, place: Path | None = None) -> None:
        """Give the file its name, or another one beside it."""
        self.stream.flush()
        os.fsync(self.stream.fileno())
        if self._temporary is None:
            self._temporary = self._draw_name()
            self._link(self._temporary)
        self._temporary.replace(place or self._place)

    def _link(self, path: Path) -> None:
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:  # with a folder's descriptor, else Python's link does not follow
            os.link(f"/proc/self/fd/{self.stream.fileno()}", path.name, dst_dir_fd=descriptor, follow_symlinks=True)
        except OSError:  # a file system that makes files without names and gives them none
            self.stream.seek(0)
            with open(path, "xb") as copy:
                shutil.copyfileobj(self.stream, copy)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Close the file; without `keep` nothing of it is left."""
        self.stream.close()
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file whole or not at all, so that readers see the old or the new, never a part.

    A symbolic link in its place is replaced, not followed.
    """
    file = NewFile(path)
    try:
        file.stream.write(text.encode("utf-8"))
        file.keep()
    finally:
        file.close()


def check_replaceable(folder: Path, files: Iterable[Path], *, kind: str, overwrite: bool, option: str) -> None:
    """Refuse to replace a file, in or beside a folder, that its marker does not list as it is now.

    Args:
        folder: The folder with the marker.
        files: What is to be written.
        kind: What the folder is.
        overwrite: Whether earlier files may be replaced at all.
        option: The option that names another place, for the message.

    Raises:
        UserError: If one exists and is not to be replaced, or if the folder is of another kind.
    """
    marker = read_marker(folder)
    if marker is not None and marker.kind != kind:
        raise UserError(f"{folder} is the folder of a {marker.kind}; name another with {option}")
    listed = marker.files or {} if marker else {}
    for file in files:
        if not os.path.lexists(file):
            continue
        if not overwrite:
            raise UserError(f"{file} exists already; name another folder with {option}, or use --overwrite")
        if not _is_as(file, listed.get(os.path.relpath(file, folder), {})):
            raise UserError(
                f"{file} was not written by this recipe, or was changed since; move or delete it yourself, "
                f"or name another folder with {option}"
            )


def check_output_folder(output: str, names: Iterable[str], config: Any, *, kind: str, overwrite: bool) -> Path:
    """Return the folder that `--output` names for files that a recipe writes, before anything that takes time.

    Args:
        output: The folder.
        names: Of the files.
        config: The recipe's options; none of them may name a file that is written.
        kind: What the folder is.
        overwrite: Replace earlier files.

    Raises:
        UserError: If it is a file, is of another kind, or holds files that are not to be replaced.
    """
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"output {folder} is a file, expected a folder; name another with --output")
    files = [folder / name for name in names]
    refuse_inputs_inside(config, files)
    check_replaceable(folder, files, kind=kind, overwrite=overwrite, option="--output")
    return folder


def write_output_folder(folder: Path, texts: Mapping[str, str], *, kind: str) -> None:
    """Write files, each whole or not at all, and list them in the folder's marker.

    Args:
        folder: Where to write.
        texts: The files' contents by name.
        kind: What the folder is.

    Raises:
        UserError: If the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_atomically(folder / name, text)
        list_written(folder, [folder / name for name in texts], kind=kind)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; name another --output") from None


def list_written(folder: Path, files: Iterable[Path], *, kind: str) -> None:
    """Add files in or beside a folder to its marker, which is made where there is none."""
    marker = read_marker(folder) or Marker(kind=kind)
    listed = {os.path.relpath(file, folder): _describe(file) for file in files}
    replace(marker, files={**(marker.files or {}), **listed}).write(folder)


def apply_umask(folder: Path) -> None:
    """Give every file below a folder its marker's mode, which is the umask's; some writers make private ones."""
    mode = stat.S_IMODE((folder / MARKER).stat().st_mode)
    for file in _list_files(folder).values():
        if stat.S_ISREG(file.lstat().st_mode) and stat.S_IMODE(file.lstat().st_mode) != mode:
            file.chmod(mode)


def remove_listed_files(folder: Path) -> list[str]:
    """Remove the files that a folder's marker lists, the folders that are empty then, and the folder itself.

    Returns:
        What stays, because it is not listed.
    """
    marker = read_marker(folder)
    files = _list_files(folder)
    foreign = set(files) if marker is None or marker.files is None else set(marker.find_foreign(folder))
    for name in files.keys() - foreign:
        files[name].unlink()
    for place, names, _ in os.walk(folder, topdown=False):
        for name in names:
            _remove_if_empty(Path(place, name))
    if not foreign:
        (folder / MARKER).unlink(missing_ok=True)
        _remove_if_empty(folder)
    return sorted(foreign)


def remove_folder(folder: Path) -> None:
    """Remove a folder of this package with all that it holds, the marker last: a kill leaves no folder without one."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.name != MARKER:
            entry.unlink()
    (folder / MARKER).unlink(missing_ok=True)
    _remove_if_empty(folder)


def exchange_folders(first: Path, second: Path) -> bool:
    """Swap the names of two folders at once (Linux's renameat2 with RENAME_EXCHANGE).

    Returns:
        False where the system or the file system has no such call; nothing is changed then.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    here = -100  # AT_FDCWD: relative paths start from the current folder
    if rename(here, os.fsencode(first), here, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM):
        return False
    raise OSError(code, os.strerror(code), str(first))


def refuse_inputs_inside(config: Any, targets: Iterable[Path]) -> None:
    """Refuse options that name a file or folder inside what is to be written or replaced.

    Args:
        config: A config; each of its strings that is an existing path counts, at any depth.
        targets: Folders or files that are written.

    Raises:
        UserError: If one is, with the option's name.
    """
    places = [Path(os.path.realpath(target)) for target in targets]
    for option, value in _list_strings(config):
        if os.path.exists(value) and any(Path(os.path.realpath(value)).is_relative_to(place) for place in places):
            raise UserError(
                f"{option} {value!r} lies inside what is to be written ({places[0]}) and could be lost; "
                "name another folder for the output, or move the input out of it"
            )


def _list_strings(value: Any, name: str = "") -> Iterable[tuple[str, str]]:
    if isinstance(value, str):
        yield name, value
    elif is_dataclass(value):
        for field in fields(value):
            if field.name not in _OUTPUT_OPTIONS:
                yield from _list_strings(getattr(value, field.name), f"{name}.{field.name}".lstrip("."))
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _list_strings(part, f"{name}.{key}".lstrip("."))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _list_strings(part, name)


def _list_files(folder: Path) -> dict[str, Path]:
    """Return what lies below a folder and is no folder, by its path; the folder's own marker is left out."""
    files = {}
    for place, folders, names in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        for name in (*names, *links):
            file = Path(place, name)
            files[file.relative_to(folder).as_posix()] = file
    files.pop(MARKER, None)
    return dict(sorted(files.items()))


def _describe(file: Path) -> dict[str, Any]:
    status = file.lstat()
    if not stat.S_ISREG(status.st_mode):
        return {"link": os.readlink(file)} if stat.S_ISLNK(status.st_mode) else {}
    if status.st_size > _HASHED_BYTES:
        return {"size": status.st_size}
    with open(_open_file(file), "rb") as stream:
        return {"size": status.st_size, "sha256": hashlib.sha256(stream.read()).hexdigest()}


def _is_as(file: Path, record: Mapping[str, Any]) -> bool:
    try:
        return bool(record) and _describe(file) == record
    except OSError:
        return False


def _open_file(path: Path) -> int:
    """Open a regular file to read; neither a link is followed nor a pipe waited for."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return descriptor


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.ENOENT):
            raise
