"""The one place that knows a run folder's files.

A run is written in `NAME.partial/` and renamed to `NAME/` when it is whole, so `NAME/` is always a finished run:

    config.yaml  results.json  report.html  README.md  predictions.jsonl
    run.lock.json what the run was made from, by hash, for recipes/reproduce.py
    adapter/     the LoRA adapter with its head and tokenizer (method lora)
    model/       the merged model with its tokenizer, for `pipeline`
    checkpoints/ the trainer's
    runs/        the runs that a comparison is made of, each a run folder
    drift_reference.json, drift_reference.npy  statistics of the test rows, for recipes/drift.py
    plan.json    how an unfinished run computes, for --resume
    resumption.json  what an unfinished run began with, for --resume
    .startup-llm.json  the marker of a folder that this package made, with the list of its files
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import fnmatch
import glob
import itertools
import json
import logging
import os
import stat
import zipfile
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from startup_llm.errors import REMEDY, UserError
from startup_llm.plain_data import read_json, read_json_object
from startup_llm.written_files import (
    MARKER,
    Marker,
    apply_umask,
    exchange_folders,
    read_marker,
    refuse_inputs_inside,
    remove_folder,
    remove_listed_files,
    write_atomically,
)

RESULTS = "results.json"
RUN_LOCK = "run.lock.json"
PLAN = "plan.json"
RESUMPTION = "resumption.json"
AUTO = "auto"
"""Stands for a run's folder that is named by its date."""
_UNFINISHED = (
    MARKER, "config.yaml", RESULTS, RUN_LOCK, PLAN, RESUMPTION, "report.html", "README.md", "predictions*.jsonl",
    "table.md", "table.html", "adapter", "model", "checkpoints", "runs", "samples", "speech", "corpus.parquet",
    "drift_reference.*", "export.json", "curve.png", "losses.png", "benchmark.png", "costs.png", ".gate-*",
    ".*.????????",
)  # fmt: skip
"""Names in the folder of a run that is being written, for one that was killed before its files were listed."""
_LOCK_BYTES = 1 << 26
_RESULT_TYPES: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("task", "method", "decides", "problem_type", "run_name", "command", "test.sha256"), (str,)),
    **dict.fromkeys(("config", "config.data", "config.model", "checkpoint", "data", "load", "processor"), (dict,)),
    **dict.fromkeys(("models", "test", "versions", "throughput", "load.adapter_model_kwargs"), (dict,)),
    **dict.fromkeys(("labels", "sentences", "comparisons", "entries", "failed", "history", "columns"), (list,)),
    "seconds": (int, float),
    "peak_memory_bytes": (int, float),
}
"""Types of what results hold and others read; a key that is missing is no fault here."""
_LOGGER = logging.getLogger(__name__)
_LOCK_TEXT = "lock of startup-llm; it may be deleted when no process uses it\n"


class RunFolder:
    """A run being written; a context manager that holds the folder's lock.

    Only the main process of a distributed run writes; the others see the same paths.

    Args:
        path: The finished run's folder.
        overwrite: Replace a finished run, and drop an interrupted one.
        resume: Go on with an interrupted run.
        config: The run's options; none of them may name a file inside the folder.

    Raises:
        UserError: If the folder holds a finished run, an interrupted one, something else, or is in use.
    """

    def __init__(self, path: str | Path, *, overwrite: bool = False, resume: bool = False, config: Any = None) -> None:
        self.final = Path(path)
        self.path = self.final.with_name(f"{self.final.name}.partial")
        self.is_writer = os.environ.get("RANK", "0") == "0"
        self._overwrite, self._resume, self._config = overwrite, resume, config
        self._lock: int | None = None
        self._marker, self._is_whole = Marker(), False

    def __enter__(self) -> RunFolder:
        if self.is_writer:
            refuse_inputs_inside(self._config, [self.final, self.path])
            self._acquire_lock()
            try:
                self._claim()
            except BaseException:
                self._release_lock()
                raise
        return self

    def __exit__(self, error_type: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        if not self.is_writer:
            return
        try:
            if error is not None and read_marker(self.path) is not None:
                self._keep_work(error)
        finally:
            self._release_lock()

    def _keep_work(self, error: BaseException) -> None:
        """List what an interrupted run goes on from, or remove what is left of one that has nothing."""
        if self._is_whole:
            return
        if not self._holds_work():
            self._drop_partial()
            return
        with contextlib.suppress(OSError):  # of a full disk, say, which is the error itself
            self._marker.close(self.path)
        setattr(error, REMEDY, f"go on with run {self.final} by --resume")

    def _acquire_lock(self) -> None:
        if self.final.exists() and not self.final.is_dir():
            raise UserError(f"run_dir {self.final} is a file; name a folder that does not exist yet")
        if self.final.is_symlink() and not self.final.is_dir():
            raise UserError(
                f"run_dir {self.final} is a symbolic link to no folder; name a folder that does not exist yet"
            )
        while True:
            try:
                self.final.parent.mkdir(parents=True, exist_ok=True)
                self._lock = _open_lock(self._lock_file)
            except (FileExistsError, NotADirectoryError, PermissionError) as error:
                raise UserError(
                    f"cannot write run_dir {self.final}: {error.strerror}; name another with --run_dir"
                ) from None
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(self._lock)
                raise UserError(
                    f"run {self.final} is in use by another process; wait for it, or use another --run_dir"
                ) from None
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._lock), self._lock_file.lstat()):
                    return
            os.close(self._lock)  # its owner removed the file between our opening and locking it

    def _release_lock(self) -> None:
        """Unlock, and remove the lock's file if it is one that this package made."""
        if self._lock is None:
            return
        if os.pread(self._lock, len(_LOCK_TEXT) + 1, 0) == _LOCK_TEXT.encode():
            self._lock_file.unlink(missing_ok=True)
        os.close(self._lock)
        self._lock = None

    def _claim(self) -> None:
        """Make the folder to write in, if nothing there would be lost. All is checked before anything is changed."""
        self._restore_replaced()
        self._check_final()
        drops = self._check_partial()
        if drops:
            self._drop_partial()
        self.path.mkdir(exist_ok=True)
        final, begun = read_marker(self.final), read_marker(self.path)
        leftover = self._replaced_name(final)
        if leftover is not None and leftover.is_dir():
            remove_listed_files(leftover)
        self._marker = Marker(id=begun.id if begun else self._marker.id, replaces=final.id if final else None)
        self._marker.write(self.path)

    def _check_final(self) -> None:
        """Refuse a folder whose content is not to be replaced."""
        if not self.final.exists() or not any(self.final.iterdir()):
            return
        marker = read_marker(self.final)
        is_run = (self.final / RESULTS).is_file()
        if not is_run or (marker is not None and marker.kind != "run"):
            raise UserError(f"run_dir {self.final} holds files that are not a run; name another with --run_dir")
        if not self._overwrite:
            raise UserError(
                f"run {self.final} is finished; name another with --run_dir, or replace it with --overwrite"
            )
        if self.final.is_symlink():
            raise UserError(f"run_dir {self.final} is a symbolic link; name the folder itself to replace it")
        if marker is None or marker.files is None:
            raise UserError(
                f"run {self.final} has no list of its files ({MARKER}), so what of it is yours cannot be told: it is "
                "no run of this package, or one of an earlier version; delete it yourself, or name another --run_dir"
            )
        _refuse_foreign(f"run {self.final}", marker.find_foreign(self.final))

    def _check_partial(self) -> bool:
        """Refuse an interrupted run that is not to be dropped; say whether there is one to drop."""
        if self.path.is_symlink() or (self.path.exists() and not self.path.is_dir()):
            raise UserError(f"{self.path} is in the way and is no folder; move it away, or name another --run_dir")
        entries = os.listdir(self.path) if self.path.exists() else []
        if all(fnmatch.fnmatch(name, f".{MARKER}.*") for name in entries):  # killed before it had its marker
            return bool(entries)
        marker, work = read_marker(self.path), self._holds_work()
        final = read_marker(self.final)
        if marker is None:
            by_earlier_version = work and _is_json(self.path / PLAN)
            if by_earlier_version and self._resume:
                return False
            if not by_earlier_version or self._overwrite:
                raise UserError(
                    f"{self.path} has no marker of this package ({MARKER}) and is in the way; "
                    "move or delete it yourself, or name another --run_dir"
                )
        elif final is not None and final.replaces == marker.id:  # a replaced run, left by a kill
            work = False
        if work and self._resume:
            return False
        if work and not self._overwrite:
            raise UserError(
                f"run {self.final} was interrupted and has checkpoints in {self.path}; "
                "go on with --resume, or start again with --overwrite"
            )
        _refuse_foreign(str(self.path), _find_foreign_in_partial(self.path))
        return True

    def _drop_partial(self) -> None:
        """Remove what this package wrote; what else lies there stays."""
        if not _find_foreign_in_partial(self.path):
            remove_folder(self.path)

    def _restore_replaced(self) -> None:
        """Give a run its name back whose replacement was killed between two renames."""
        replaced = self._replaced_name(read_marker(self.path))
        if replaced is not None and not self.final.exists() and replaced.is_dir():
            replaced.rename(self.final)

    def _replaced_name(self, marker: Marker | None) -> Path | None:
        """Return where a run stands while another takes its place, where the system cannot swap two folders."""
        if marker is None or not marker.replaces:
            return None
        return self.final.with_name(f".{self.final.name}.replaced-{marker.id}")

    @property
    def _lock_file(self) -> Path:
        return self.final.with_name(f".{self.final.name}.lock")

    @property
    def checkpoints(self) -> Path:
        """The trainer's checkpoints."""
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        """The adapter with its head and tokenizer."""
        return self.path / "adapter"

    @property
    def model(self) -> Path:
        """The merged model with its tokenizer."""
        return self.path / "model"

    def last_checkpoint(self) -> Path | None:
        """Return the newest whole checkpoint of the trainer, or None."""
        numbered = {
            int(number): folder
            for folder in self.checkpoints.glob("checkpoint-*")
            if (number := folder.name.removeprefix("checkpoint-")).isdecimal() and len(number) < 19
        }
        for number in sorted(numbered, reverse=True):
            if is_whole_checkpoint(numbered[number]):
                return numbered[number]
        return None

    def _holds_work(self) -> bool:
        """Say whether an interrupted run left what it can go on from: a checkpoint, or runs of its own."""
        return self.last_checkpoint() is not None or any((self.path / "runs").glob("*"))

    def write_text(self, name: str, text: str) -> None:
        """Write a file whole or not at all."""
        write_atomically(self.path / name, text)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write plain data as JSON, whole or not at all."""
        self.write_text(name, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")

    def read_plan(self) -> dict[str, Any] | None:
        """Return the plan that an unfinished run began with, or None."""
        file = self.path / PLAN
        return read_json_object(file, max_bytes=_LOCK_BYTES) if file.is_file() else None

    def read_resumption(self) -> dict[str, Any] | None:
        """Return what an unfinished run began with, or None where it kept no record of it."""
        file = self.path / RESUMPTION
        return read_json_object(file, max_bytes=_LOCK_BYTES) if file.is_file() else None

    def finish(self) -> None:
        """Give the run its final name; a run that it replaces goes only now.

        The two are swapped at once where the system can, so that there is a finished run at every moment.

        Raises:
            UserError: If something else took the final name meanwhile; the run stays whole under its other name.
        """
        if not (self.path / RESULTS).is_file():
            raise RuntimeError(f"{self.path} has no {RESULTS}: the run is not whole")
        for name in (PLAN, RESUMPTION):
            (self.path / name).unlink(missing_ok=True)
        apply_umask(self.path)
        self._marker.close(self.path)
        if not self.final.exists() or (self.final.is_dir() and not any(self.final.iterdir())):
            self.path.rename(self.final)
            return
        replaced = read_marker(self.final)
        if replaced is None or replaced.id != self._marker.replaces:
            self._is_whole = True
            raise UserError(f"{self.final} was made meanwhile by somebody else; the finished run is in {self.path}")
        old = self.path
        if not exchange_folders(self.path, self.final):
            old = self.final.with_name(f".{self.final.name}.replaced-{self._marker.id}")
            self.final.rename(old)
            self.path.rename(self.final)
        if kept := remove_listed_files(old):
            place = self.final.with_name(f"{self.final.name}.kept-{replaced.id[:8]}")
            old.rename(place)
            _LOGGER.warning("%s held files of somebody else, which are in %s now: %s", self.final, place, kept)

    def set_aside(self) -> Path:
        """Keep a whole run that failed its own test under another name, NAME.failed, and return that.

        Raises:
            UserError: If something else has that name.
        """
        place = self.final.with_name(f"{self.final.name}.failed")
        if read_marker(place) is not None:
            remove_listed_files(place)
        apply_umask(self.path)
        self._marker.close(self.path)
        self._is_whole = True
        if place.exists() or place.is_symlink():
            raise UserError(f"{place} exists; move it away: the run that failed its test is in {self.path}")
        self.path.rename(place)
        return place


def _open_lock(path: Path) -> int:
    """Open a lock's file, or make it: a file of that name that somebody else made is locked, and stays as it is."""
    flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | flags, 0o666)
    except FileExistsError:
        return _open_existing_lock(path, flags)
    try:
        os.write(lock, _LOCK_TEXT.encode())
    except OSError:
        path.unlink()
        os.close(lock)
        raise
    return lock


def _open_existing_lock(path: Path, flags: int) -> int:
    reason = "it is not a regular file"
    try:
        lock = os.open(path, os.O_RDONLY | flags)
    except FileNotFoundError:  # removed by its owner just now
        return _open_lock(path)
    except OSError as error:
        lock, reason = None, "it is a symbolic link" if error.errno == errno.ELOOP else str(error.strerror)
    if lock is not None and stat.S_ISREG(os.fstat(lock).st_mode):
        return lock
    if lock is not None:
        os.close(lock)
    raise UserError(f"{path} is needed as a lock, but {reason}; move it away, or name another --run_dir")


def _find_foreign_in_partial(folder: Path) -> list[str]:
    """Return what in the folder of an unfinished run this package did not write, as far as it can be told."""
    marker = read_marker(folder)
    if marker is not None and marker.files is not None:
        return marker.find_foreign(folder)
    return sorted(
        entry.name for entry in folder.iterdir() if not any(fnmatch.fnmatch(entry.name, name) for name in _UNFINISHED)
    )


def _refuse_foreign(place: str, foreign: list[str]) -> None:
    if foreign:
        shown = ", ".join(foreign[:5]) + (f" and {len(foreign) - 5} more" if len(foreign) > 5 else "")
        raise UserError(
            f"{place} holds files that this package did not write, or that were changed since: {shown}; "
            "move them away, or name another --run_dir"
        )


def is_whole_checkpoint(folder: Path) -> bool:
    """Say whether a trainer's checkpoint can be gone on from: its state is there, and no file of it is cut short.

    What a kill or a full disk cut shows at once: JSON does not parse, the header of safetensors tells another size,
    and PyTorch's files are zip files, whose list of contents stands at their end.
    """
    if not _is_json(folder / "trainer_state.json"):
        return False
    try:
        files = [file for file in folder.rglob("*") if file.is_file()]
        return all(
            _is_whole_safetensors(file) if file.suffix == ".safetensors" else zipfile.is_zipfile(file)
            for file in files
            if file.suffix in (".safetensors", ".pt", ".pth", ".bin", ".pkl")
        )
    except OSError:
        return False


def _is_whole_safetensors(file: Path) -> bool:
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        size = file.stat().st_size
        if not 2 <= length <= size - 8:
            return False
        try:
            header = json.loads(stream.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
            return False
    return size == 8 + length + max(ends, default=0)


def _is_json(file: Path) -> bool:
    """Say whether a file is there and whole: what is cut by a signal while it is written does not parse."""
    try:
        read_json(file)
    except UserError:
        return False
    return True


def choose_run_dir(name: str, *, resume: bool = False) -> Path:
    """Return the folder of a run that is named by its date, and by a number from the second one of a day on.

    Its name is taken by making the folder that the run is written in, so that no two processes choose the same.

    Args:
        name: What the run would be called without a date, such as runs/helpdesk-lora.
        resume: Choose the latest interrupted run of that name, if there is one.

    Raises:
        UserError: If the run has several processes, each of which would choose.
    """
    dated = Path(f"{name}-{date.today().isoformat()}")
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        raise UserError(f"run_dir {AUTO}: each of several processes would choose a name; give one: --run_dir {dated}")
    begun = [folder for folder in dated.parent.glob(f"{glob.escape(Path(name).name)}-*.partial") if folder.is_dir()]
    if resume and begun:
        latest = max(begun, key=lambda folder: folder.stat().st_mtime)
        return latest.with_name(latest.name.removesuffix(".partial"))
    dated.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        folder = dated if number == 1 else dated.with_name(f"{dated.name}-{number}")
        if not os.path.lexists(folder):
            with contextlib.suppress(FileExistsError):
                folder.with_name(f"{folder.name}.partial").mkdir()
                return folder
    raise AssertionError


def follow_link(run: str | Path) -> Path:
    """Return the finished run that a symbolic link such as runs/production leads to now; any other path as it is.

    Who reads several files of a run follows the link once, so that they are all of the same run. A run's `model` may
    be a link too, which belongs to the run that it lies in.
    """
    path = Path(run)
    followed = Path(os.path.normpath(path.parent / os.readlink(path))) if path.is_symlink() else path
    return followed if (followed / RESULTS).is_file() else path


def read_results(run: str | Path) -> dict[str, Any]:
    """Read a finished run's `results.json`.

    Raises:
        UserError: If the folder holds no finished run, or the file is broken.
    """
    file = Path(run) / RESULTS
    if not file.is_file():
        partial = Path(run).with_name(f"{Path(run).name}.partial").is_dir()
        hint = (
            "it was interrupted: finish it with --resume"
            if partial
            else "expected a folder that recipes/finetune.py made"
        )
        raise UserError(f"no finished run in {run}; {hint}")
    results = read_json_object(file)
    _check_results(results, file)
    return results


def require_results(results: Mapping[str, Any], run: str | Path, names: Sequence[str]) -> None:
    """Refuse results that lack what is needed of them.

    Args:
        results: What `read_results` returned.
        run: The run's folder, for the message.
        names: The keys.

    Raises:
        UserError: If one is missing.
    """
    if missing := [name for name in names if results.get(name) is None]:
        raise UserError(f"{Path(run) / RESULTS} has no {missing[0]}; name the folder of a run that trained a model")


def _check_results(results: Mapping[str, Any], file: Path) -> None:
    """Refuse results whose known values are of another type than a run writes."""
    for name, kinds in _RESULT_TYPES.items():
        value: Any = results
        for key in name.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None and (not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)):
            expected = " or ".join(kind.__name__ for kind in kinds)
            raise UserError(f"{file}: {name}: expected {expected}, got {value!r:.60}; copy the run again")
    models = results.get("models") or {}
    for model, scores in models.items() if isinstance(models, dict) else ():
        for metric, score in scores.items() if isinstance(scores, dict) else [("", None)]:
            if not isinstance(score, (dict, int, float)):
                raise UserError(f"{file}: models.{model}.{metric}: expected a score, got {score!r:.60}; copy it again")


def read_run_lock(run: str | Path) -> dict[str, Any]:
    """Read a finished run's `run.lock.json`.

    Raises:
        UserError: If the folder holds no finished run, or the run has no lock.
    """
    read_results(run)
    file = Path(run) / RUN_LOCK
    if not file.is_file():
        raise UserError(
            f"no {RUN_LOCK} in {run}: what the run was made from is not known; make it anew with recipes/finetune.py"
        )
    return read_json_object(file, max_bytes=_LOCK_BYTES)


def find_model(run: str | Path) -> tuple[Path, dict[str, Any]]:
    """Return the folder of a finished run's merged model, and the run's results.

    A folder with a plain checkpoint stands for itself; its results are those of the run that it lies in, or empty. So
    does a run as it is published, whose model lies beside its results.

    Raises:
        UserError: If the folder holds neither a finished run nor a checkpoint.
    """
    folder = follow_link(run)
    if not (folder / RESULTS).is_file() and (folder / "config.json").is_file():
        in_run = folder.name == "model" and (folder.parent / RESULTS).is_file()
        return folder, read_results(folder.parent) if in_run else {}
    results = read_results(folder)
    if not (folder / "model" / "config.json").is_file():
        if (folder / "config.json").is_file():
            return folder, results
        raise UserError(f"the run {folder} has no model in {folder / 'model'}; copy the whole run, or make it again")
    return folder / "model", results
