"""The one place that knows a run folder's files.

A run is written in `NAME.partial/` and renamed to `NAME/` when it is whole, so `NAME/` is always a finished run:

    config.yaml  results.json  report.html  README.md  predictions.jsonl
    run.lock.json what the run was made from, by hash, for recipes/reproduce.py
    adapter/     the LoRA adapter with its head and tokenizer (method lora)
    model/       the merged model with its tokenizer, for `pipeline`
    checkpoints/ the trainer's
    runs/        the runs that a comparison is made of, each a run folder
    plan.json    how an unfinished run computes, for --resume
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from startup_llm.errors import UserError

RESULTS = "results.json"
RUN_LOCK = "run.lock.json"
PLAN = "plan.json"


class RunFolder:
    """A run being written; a context manager that holds the folder's lock.

    Only the main process of a distributed run writes; the others see the same paths.

    Args:
        path: The finished run's folder.
        overwrite: Replace a finished run, and drop an interrupted one.
        resume: Go on with an interrupted run.

    Raises:
        UserError: If the folder holds a finished run, an interrupted one, something else, or is in use.
    """

    def __init__(self, path: str | Path, *, overwrite: bool = False, resume: bool = False) -> None:
        self.final = Path(path)
        self.path = self.final.with_name(f"{self.final.name}.partial")
        self.is_writer = os.environ.get("RANK", "0") == "0"
        self._overwrite, self._resume = overwrite, resume
        self._lock: IO[str] | None = None

    def __enter__(self) -> RunFolder:
        if self.is_writer:
            self._acquire_lock()
            try:
                self._claim()
            except BaseException:
                self._release_lock()
                raise
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        if self.is_writer:
            if error_type is not None and self.path.is_dir() and not self._holds_work():
                shutil.rmtree(self.path, ignore_errors=True)
            self._release_lock()

    def _acquire_lock(self) -> None:
        if self.final.exists() and not self.final.is_dir():
            raise UserError(f"run_dir {self.final} is a file; name a folder that does not exist yet")
        while True:
            try:
                self.final.parent.mkdir(parents=True, exist_ok=True)
                self._lock = self._lock_file.open("w")
            except (FileExistsError, NotADirectoryError, PermissionError) as error:
                raise UserError(
                    f"cannot write run_dir {self.final}: {error.strerror}; name another with --run_dir"
                ) from None
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._lock.close()
                raise UserError(
                    f"run {self.final} is in use by another process; wait for it, or use another --run_dir"
                ) from None
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._lock.fileno()), self._lock_file.stat()):
                    return
            self._lock.close()  # its owner removed the file between our opening and locking it

    def _release_lock(self) -> None:
        self._lock_file.unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.close()

    def _claim(self) -> None:
        """Make the folder to write in, if nothing there would be lost."""
        if self.final.exists() and any(self.final.iterdir()):
            if not (self.final / RESULTS).is_file():
                raise UserError(f"run_dir {self.final} holds files that are not a run; name another with --run_dir")
            if not self._overwrite:
                raise UserError(
                    f"run {self.final} is finished; name another with --run_dir, or replace it with --overwrite"
                )
        if self._holds_work() and not self._resume:
            if not self._overwrite:
                raise UserError(
                    f"run {self.final} was interrupted and has checkpoints in {self.path}; "
                    "go on with --resume, or start again with --overwrite"
                )
            shutil.rmtree(self.path)
        self.path.mkdir(exist_ok=True)

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
        found = [c for c in self.checkpoints.glob("checkpoint-*") if _is_json(c / "trainer_state.json")]
        return max(found, key=lambda checkpoint: int(checkpoint.name.rsplit("-", 1)[1]), default=None)

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
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

    def finish(self) -> None:
        """Give the run its final name; a run that it replaces goes only now."""
        if not (self.path / RESULTS).is_file():
            raise RuntimeError(f"{self.path} has no {RESULTS}: the run is not whole")
        (self.path / PLAN).unlink(missing_ok=True)
        replaced = self.final.with_name(f".{self.final.name}.replaced")
        if self.final.exists():
            self.final.rename(replaced)
        self.path.rename(self.final)
        shutil.rmtree(replaced, ignore_errors=True)


def _is_json(file: Path) -> bool:
    """Say whether a file is there and whole: what is cut by a signal while it is written does not parse."""
    try:
        json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def write_atomically(path: Path, text: str) -> None:
    """Write a text file through a temporary one beside it, so that readers see the old or the new, never a part."""
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:
        temporary = Path(file.name)
        try:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    temporary.chmod(0o644)
    temporary.replace(path)


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
    return _read_json(file)


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
    return _read_json(file)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is no JSON file ({error}); copy the run again") from None


def find_model(run: str | Path) -> tuple[Path, dict[str, Any]]:
    """Return the folder of a finished run's merged model, and the run's results.

    A folder with a plain checkpoint stands for itself; its results are those of the run that it lies in, or empty.

    Raises:
        UserError: If the folder holds neither a finished run nor a checkpoint.
    """
    folder = Path(run)
    if not (folder / RESULTS).is_file() and (folder / "config.json").is_file():
        in_run = folder.name == "model" and (folder.parent / RESULTS).is_file()
        return folder, read_results(folder.parent) if in_run else {}
    results = read_results(folder)
    if not (folder / "model" / "config.json").is_file():
        raise UserError(f"the run {folder} has no model in {folder / 'model'}; copy the whole run, or make it again")
    return folder / "model", results
