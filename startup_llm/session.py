"""What the recipes share: the config as it was asked for, the run folder, the clock, the console and the command."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from startup_llm.evaluation.environment import (
    StageClock,
    describe_hardware,
    read_peak_memory_bytes,
    read_versions,
)
from startup_llm.reporter import Reporter
from startup_llm.run_folder import RunFolder

Config = TypeVar("Config")


@dataclass(frozen=True)
class Session(Generic[Config]):
    """A recipe at work; `command_line.open_session` makes it from what was typed.

    Attributes:
        config: What was asked for.
        folder: The run's folder; None for a recipe that writes none.
        train_section: Keyword arguments of `TrainingArguments`; empty for a recipe without a `train` section.
        config_text: Config and section as YAML.
        recipe: The recipe's file.
        command: The command line that started it.
        reporter: What a person sees; silent in every process but the main one.
        clock: Seconds of each stage.
    """

    config: Config
    folder: RunFolder | None = None
    train_section: Mapping[str, Any] = field(default_factory=dict)
    config_text: str = ""
    recipe: Path = Path()
    command: str = ""
    reporter: Reporter = field(default_factory=Reporter)
    clock: StageClock = field(default_factory=StageClock)

    @property
    def run(self) -> RunFolder:
        """The run's folder."""
        if self.folder is None:
            raise RuntimeError(f"{self.recipe.name} writes no run folder")
        return self.folder

    @property
    def data_cards(self) -> Path:
        """Folder of the cards of named datasets."""
        return self.recipe.parents[1] / "data_cards"

    def report(self, *lines: str) -> None:
        """Show a line, and the further ones indented below it."""
        self.reporter.report(*lines)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage of the recipe and show that it is in hand."""
        with self.clock(name), self.reporter.show_progress(name):
            yield

    def describe(self) -> dict[str, Any]:
        """Return what `results.json` says of how the run was made, and of what it took."""
        return {
            **self.describe_process(),
            "run_name": self.run.final.name,
            "config": {**asdict(self.config), **({"train": dict(self.train_section)} if self.train_section else {})},
            "seconds": self.clock.total,
            "stage_seconds": dict(self.clock.seconds),
            "energy": self.clock.energy.read(),
            "peak_memory_bytes": read_peak_memory_bytes(),
        }

    def describe_process(self) -> dict[str, Any]:
        """Return the machine, the versions of packages and the command, of which every recipe's results tell."""
        return {"hardware": describe_hardware(), "versions": read_versions(), "command": self.command}
