"""Which run is in production: a link that is switched at once, and the history of its switches.

`FOLDER/production` is a symbolic link to the run's folder, which `recipes/serve.py --run FOLDER/production` can watch.
It is replaced by one rename, which is the switch: a kill before it leaves the old run in production, a kill after it
the new one. `FOLDER/production.jsonl` has a line for each switch; where a kill kept one from being written, the next
reader adds it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from startup_llm.errors import UserError
from startup_llm.plain_data import parse_json
from startup_llm.run_folder import find_model
from startup_llm.written_files import write_atomically

LINK = "production"
HISTORY = "production.jsonl"
LOCK = ".production.lock"
_TEMPORARY = ".production-link-"


@dataclass(frozen=True)
class Switch:
    """A run that came into production.

    Attributes:
        run: Its folder, from the folder of the runs.
        how: named; rollback, which goes back to an earlier one; found, which left no other trace than the link.
        at: When, in UTC (ISO 8601); None where that is not known.
        before: The run that was in production until then, or None.
    """

    run: str
    how: Literal["named", "rollback", "found"] = "named"
    at: str | None = None
    before: str | None = None


class Production:
    """The link and its history.

    Args:
        folder: Of the runs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.link, self._file = folder, folder / LINK, folder / HISTORY

    @property
    def current(self) -> str | None:
        """The run in production, from the folder of the runs, or None.

        Raises:
            UserError: If something else has the link's name.
        """
        if self.link.is_symlink():
            return os.readlink(self.link)
        if self.link.exists():
            raise UserError(f"{self.link} is no symbolic link to a run; give it another name")
        return None

    def read_history(self) -> list[Switch]:
        """Return the switches, the latest last; its run is the one in production.

        Raises:
            UserError: If the history is not as it is written here.
        """
        lines = self._file.read_text(encoding="utf-8").splitlines() if self._file.is_file() else []
        try:
            history = [Switch(**parse_json(line)) for line in lines]
        except (ValueError, TypeError) as error:
            raise UserError(f"{self._file} is not as it was written ({error}); move it away to begin anew") from None
        current = self.current
        if current is not None and (not history or history[-1].run != current):
            history.append(Switch(current, "found", before=history[-1].run if history else None))
        return history

    def name(self, run: str | Path) -> Switch:
        """Put a run into production.

        Args:
            run: Its folder.

        Returns:
            The switch; the last one where the run is in production already.

        Raises:
            UserError: If the folder holds no finished run with a model.
        """
        folder, results = find_model(run)
        if not results or folder.name != "model":
            raise UserError(f"{run} is no finished run with a model; expected a folder that recipes/finetune.py made")
        target = os.path.relpath(os.path.realpath(folder.parent), os.path.realpath(self.folder))
        with self._locked():
            return self._switch(target, "named")

    def roll_back(self) -> Switch:
        """Put the run into production that was there before the one that is; done again, the one before that.

        Raises:
            UserError: If there was none, or it is no finished run any more.
        """
        with self._locked():
            order = list_order(self.read_history())
            if len(order) < 2:
                what = f"before {order[0]} no run was in production" if order else "no run was in production yet"
                raise UserError(f"{what}; name one with --production {self.folder}/NAME")
            find_model(self.folder / order[-2])
            return self._switch(order[-2], "rollback")

    def _switch(self, target: str, how: Literal["named", "rollback"]) -> Switch:
        history, before = self.read_history(), self.current
        if before == target:
            return history[-1]
        for left in self.folder.glob(f"{_TEMPORARY}*"):  # by one that was killed
            left.unlink()
        new = self.folder / f"{_TEMPORARY}{secrets.token_hex(4)}"
        new.symlink_to(target)
        os.replace(new, self.link)
        switch = Switch(target, how, datetime.now(timezone.utc).isoformat(timespec="seconds"), before)
        lines = [json.dumps(asdict(entry), ensure_ascii=False) for entry in [*history, switch]]
        write_atomically(self._file, "\n".join(lines) + "\n")
        return switch

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one process at a time switch; the lock goes with the process that holds it."""
        if not self.folder.is_dir():
            raise UserError(f"no such folder: {self.folder}; name the folder of the runs with --folder")
        with open(self.folder / LOCK, "a", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def list_order(history: Sequence[Switch]) -> list[str]:
    """Return the runs that a rollback goes back through, the one in production last: what was undone is left out."""
    order: list[str] = []
    for switch in history:
        if switch.how == "rollback" and switch.run in order:
            while order[-1] != switch.run:
                order.pop()
        elif not order or order[-1] != switch.run:
            order.append(switch.run)
    return order
